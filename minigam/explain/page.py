"""The page: what a trained GAM does with every word of a text, as one HTML file.

A model that is small enough is embedded, and the page computes everything itself (model.js), for any text
that is typed. Of a larger one the page shows one text, as `reading` computed it here.
"""

import base64
import json
import math
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
from tqdm import tqdm

from minigam.config import InputError
from minigam.data import pocketstories
from minigam.data.corpus import IGNORE, inputs_and_targets
from minigam.data.grammar import Say, Token
from minigam.data.tokenizer import CharTokenizer, Tokenizer, WordTokenizer
from minigam.engine.numeric import mills_ratio
from minigam.models import anatomy
from minigam.models.gam import GAM
from minigam.models.lm import LanguageModel
from minigam.models.transformer import Transformer

FOLDER = Path(__file__).parent
PARTS = {  # placeholder in page.html -> the files that replace it
    "@STYLE@": ("page.css",),
    "@SCRIPT@": ("model.js", "grammar.js", "reading.js", "measures.js", "panel.js", "page.js"),
    "@EQUATIONS@": ("equations.html",),
}
DATA, WEIGHTS = "@DATA@", "@WEIGHTS@"  # placeholders too
LARGEST = 1_000_000  # parameters of a model that the page can run
SLOTS, WORDS, NEXT = 4, 5, 6  # how many are shown: slots per token, words per slot, next words
LEAST = 0.005  # a source with a smaller share is not shown
LOW, HIGH = 10, 90  # percentiles of the gates over the channels, the spread that is shown
PART = 16  # rows read at a time, to limit memory
EXAMPLES = 200  # stories to search for examples


class Text(NamedTuple):
    """The text to explain: its tokens, the next token if it is known, and where sampling starts."""

    title: str
    ids: list[int]
    after: int | None
    first_sampled: int


def contents(model: GAM, rival: LanguageModel | None, tokenizer: Tokenizer, text: Text) -> tuple[dict, str]:
    """Return the data of the page, but for the corpus, and the weights as base64, empty if it is not live."""
    computed = reading(model, text.ids, text.after)  # raises if the model has lost its numbers
    reason = why_not_live(model, tokenizer)
    data: dict[str, Any] = {
        "reason": reason, "model": described(model), "rival": None, "reading": None, "text": text._asdict(),
        "kind": tokenizer.kind, "end": tokenizer.end, "limits": limits(),
        "recall_beyond": pocketstories.REACH, "kinds": pocketstories.KINDS, "grammar": None, "examples": [],
    }  # fmt: skip
    if reason is None:
        specs, weights = embedded([model] if rival is None else [model, rival])
        data |= dict(zip(("model", "rival"), specs, strict=False))
        ids = set(range(len(tokenizer)))
    else:
        weights, data["reading"] = "", computed
        ids = {i for row in computed["next"] for i, _ in row} | {*text.ids}
    return data | {"names": {i: piece(tokenizer, i) for i in sorted(ids)}}, weights


def why_not_live(model: LanguageModel, tokenizer: Tokenizer) -> str | None:
    """Return why the page cannot run this model on typed text, or None if it can."""
    if not isinstance(tokenizer, WordTokenizer | CharTokenizer):
        return "its tokens are those of a byte-pair encoding, which the page cannot compute"
    if (n := model.num_parameters()) > LARGEST:
        return f"it has {n:,} parameters, and the page runs at most {LARGEST:,}"
    return None


def embedded(models: list[LanguageModel]) -> tuple[list[dict], str]:
    """Return what model.js needs: a description of each model, and all parameters as base64 of float32."""
    specs, weights, start = [], [], 0
    for model in models:
        arrays = {}
        for name, array in model.state_dict().items():
            arrays[name] = [start, array.size]
            weights.append(array.astype("<f4").tobytes())
            start += array.size
        specs.append(described(model) | {"arrays": arrays})
    return specs, base64.b64encode(b"".join(weights)).decode()


def described(model: LanguageModel) -> dict:
    """Return the settings of a model that the page names or computes with."""
    c: Any = model.config
    spec = {
        "label": c.label, "layers": c.n_layers, "channels": c.d_model, "block": c.block_size,
        "reach": model.reach, "parameters": model.num_parameters(),
    }  # fmt: skip
    if isinstance(model, Transformer):
        return spec | {"type": "transformer", "heads": c.n_heads}
    kernel, slots = 0 if c.mixer == "global" else c.kernel_size, 0 if c.mixer == "local" else c.n_slots
    prior = c.prior or 1.0 / c.n_slots
    return spec | {"type": "gam", "mixer": c.mixer, "kernel": kernel, "slots": slots, "prior": prior}


def reading(model: GAM, ids: list[int], after: int | None) -> dict:
    """Return what the model does with one text, in the form in which reading.js has it.

    ids   : the tokens read, at most block_size
    after : the token after the last one, None if it is unknown
    returns "costs", nats of each token from the second on, and of `after`;
            "next", for each position [[id, probability]] of the likeliest tokens and the actual one;
            "views", for each position one dict per layer
    """
    logits, views = anatomy.views(model, np.array([ids]))
    if not np.isfinite(logits).all():
        raise InputError("logits: nan or infinite, wanted numbers; train again with a smaller --lr")
    logs = _log_softmax(logits[0].astype(np.float64))  # (T, V)
    follow = [*ids[1:], *([] if after is None else [after])]
    return {
        "costs": [_rounded(-logs[t, i]) for t, i in enumerate(follow)],
        "next": [_expected(row, follow[t : t + 1]) for t, row in enumerate(logs)],
        "views": [[_shown(view, t) for view in views] for t in range(len(ids))],
    }


def _expected(logs: np.ndarray, actual: list[int]) -> list:
    likely = [int(i) for i in np.argsort(-logs, kind="stable")[:NEXT]]
    return [[i, _rounded(math.exp(logs[i]))] for i in likely + [i for i in actual if i not in likely]]


def _shown(view: anatomy.BlockView, t: int) -> dict:
    """Return what a layer computed for token t: the gates' mean and spread over the channels, the slots that
    it reads most and, of a written memory, those that it is written to most, and the sources of its recall.
    """
    gates = {"local": view.local_gate, "global": view.global_gate}
    shown: dict = {k: None if g is None else _spread(g[0, t]) for k, g in gates.items()}
    shares = {"slots": view.shares, "written": view.written}
    shown |= {k: None if a is None else _largest(a[0, t], SLOTS) for k, a in shares.items()}
    shown["sources"] = shown["learned"] = None
    if view.sources is not None and view.prior is not None:
        row = view.sources[0, t]
        shown["sources"] = _largest(row, int((row >= LEAST).sum()))
        shown["learned"] = _rounded(view.prior[0, t])
    return shown


def _spread(gate: np.ndarray) -> list:
    return [_rounded(x) for x in (gate.mean(), *np.percentile(gate, [LOW, HIGH]))]


def _largest(shares: np.ndarray, n: int) -> list:
    """Return the n largest shares, [[index, share]]."""
    return [[int(i), _rounded(shares[i])] for i in np.argsort(-shares, kind="stable")[:n]]


def exciting(means: np.ndarray, tokenizer: Tokenizer) -> list[list[str]]:
    """Return for each slot the words with the largest mean shares; nan in means (S, V) marks a rare word."""
    order = np.argsort(-np.nan_to_num(means, nan=-1.0), axis=1, kind="stable")[:, :WORDS]
    return [
        [piece(tokenizer, int(i)) for i in row if not math.isnan(means[s, i])] for s, row in enumerate(order)
    ]


def slot_words(model: GAM, valid: np.ndarray, least: int = 3, progress: bool = False) -> list[np.ndarray]:
    """Return for each block the mean share of each slot for each token, (S, V); nan for a token that
    occurs fewer than `least` times. The list is empty if the mixer has no memory.

    valid : (N, T+1)   rows of a `Corpus`, read PART at a time because the shares need memory
    """
    c = model.config
    if c.mixer == "local":
        return []
    sums = [(np.zeros((c.vocab_size, c.n_slots)), np.zeros(c.vocab_size)) for _ in range(c.n_layers)]
    parts = range(0, len(valid), PART)
    for start in tqdm(parts, "reading", leave=False, delay=2, disable=None if progress else True):
        rows = valid[start : start + PART]
        ids, _ = inputs_and_targets(rows)
        text_ids = np.where(rows[:, :-1] == IGNORE, IGNORE, ids)
        for both, view in zip(sums, anatomy.views(model, ids)[1], strict=True):
            shares = cast(np.ndarray, view.shares)  # the mixer has a memory
            for old, new in zip(both, anatomy.share_sums(shares, text_ids, c.vocab_size), strict=True):
                old += new
    return [anatomy.mean_shares(total, count, least) for total, count in sums]


def grammar() -> dict:
    """Return the rules and slots of PocketStories, parsed, for grammar.js."""

    def node(x: Any) -> Any:
        if isinstance(x, list):
            return [[p, nodes(option)] for p, option in x]
        if isinstance(x, Say):
            return {"slot": x.slot, "form": x.form, "by": x.selector, "fresh": x.new, "capital": x.capital}
        return x

    def nodes(sequence: list) -> list:
        return [node(x) for x in sequence]

    g = pocketstories.grammar()
    rules = {name: nodes(sequence) for name, sequence in g.rules.items()}
    return {"rules": rules, "slots": g.slots, "start": g.start, "boundary": pocketstories.BOUNDARY}


def examples(tokenizer: Tokenizer, reach: int | None) -> list[dict]:
    """Return beginnings of stories whose next word the generator has already decided, near or far back.

    returns [{"label", "text"}]: where he or she is decided inside the receptive field (13 tokens if it is all
    tokens), where it is decided before that, and where a friend's name is needed again
    """
    border = pocketstories.REACH if reach is None else reach
    pronouns, friends = ({v[form] for v in pocketstories.SLOTS[slot]} for slot, form in
                         (("hero", "they"), ("friend", "name")))  # fmt: skip
    wanted = [
        ("He or she?", pronouns, lambda back: 1 < back <= border),
        ("He or she?", pronouns, lambda back: back > border),
        ("Which friend?", friends, lambda back: back > 2 * border),
    ]
    made = []
    for question, words, fits in wanted:
        hit = next(((s, i) for s, i in _decided(words) if fits(s[i].lookback)), None)
        if hit is not None:
            story, i = hit
            text = tokenizer.decode([tokenizer.encode(t.text)[0] for t in story[:i]])
            made.append({"label": f"{question} Decided {story[i].lookback} tokens back", "text": text})
    return made


def _decided(words: set[str]) -> Iterator[tuple[list[Token], int]]:
    """Yield stories, and a position in each, of one of these words that an earlier token determines."""
    for story in islice(pocketstories.stories(EXAMPLES, seed=1), EXAMPLES):
        yield from ((story, i) for i, t in enumerate(story) if t.text.lower() in words and t.lookback > 0)


def piece(tokenizer: Tokenizer, i: int) -> str:
    """Return one token as readable text."""
    if hasattr(tokenizer, "vocabulary"):
        return tokenizer.vocabulary[i]
    text = tokenizer.decode([i])
    return text if text and "\N{REPLACEMENT CHARACTER}" not in text else tokenizer.inner.id_to_token(i)


def limits() -> dict:
    """Return how much of everything is shown, and the coefficients of GELU, for the scripts."""
    p, q, end = mills_ratio(np.dtype("float32"))  # good to 1e-8
    normal = {"p": p, "q": q, "end": end}
    return {"slots": SLOTS, "next": NEXT, "least": LEAST, "spread": [LOW, HIGH], "normal": normal}


def page(data: dict, weights: str = "") -> str:
    """Return the page as HTML. Each < in the data is escaped, so no token can end the script element."""
    html = (FOLDER / "page.html").read_text(encoding="utf-8")
    for mark, names in PARTS.items():
        html = html.replace(mark, "".join((FOLDER / name).read_text(encoding="utf-8") for name in names))
    content = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return html.replace(WEIGHTS, weights).replace(DATA, content.replace("<", "\\u003c"))


def _log_softmax(z: np.ndarray) -> np.ndarray:
    z = z - z.max(axis=-1, keepdims=True)
    return z - np.log(np.exp(z).sum(axis=-1, keepdims=True))


def _rounded(x: float) -> float:
    """Return x rounded to four significant digits, which keeps the page small."""
    return float(f"{x:.4g}")
