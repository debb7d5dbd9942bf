"""The page: what a trained GAM does with every word of a text, as one HTML file."""

import json
import math
from pathlib import Path
from typing import cast

import numpy as np
from tqdm import tqdm

from minigam.config import InputError
from minigam.data import oracle
from minigam.data.corpus import IGNORE, Corpus, inputs_and_targets
from minigam.data.grammar import Token
from minigam.data.pocketstories import KINDS, kind_of
from minigam.data.tokenizer import Tokenizer
from minigam.models import anatomy
from minigam.models.gam import GAM

TEMPLATE = Path(__file__).with_suffix(".html")
MARK = "@DATA@"  # placeholder for the data in the template
SLOTS, WORDS, NEXT = 4, 5, 6  # how many are shown: slots per token, words per slot, next words
LEAST = 0.005  # a source with a smaller share is not shown
PART = 16  # rows read at a time, to limit memory


def explanation(
    model: GAM, tokenizer: Tokenizer, ids: list[int], after: int | None, means: list[np.ndarray], exact: bool
) -> dict:
    """Return everything that the page shows about one text, ready for JSON.

    ids    : the tokens read, at most block_size
    after  : the token after the last one, None if it is unknown
    means  : what `slot_words` returned, one array per block; empty if the mixer has no memory
    exact  : whether to ask the generator of PocketStories, which knows exact probabilities
    returns {"model", "tokens", "after", "next", "layers"}: for each token its cost and its floor in nats,
    and its kind; for each position what the model expects next; for each layer gates, slots and sources
    """
    logits, views = anatomy.views(model, np.array([ids]))
    if not np.isfinite(logits).all():
        raise InputError("logits: nan or infinite, wanted numbers; train again with a smaller --lr")
    logs = _log_softmax(logits[0].astype(np.float64))  # (T, V)
    whole = ids if after is None else [*ids, after]
    names = [piece(tokenizer, i) for i in whole]
    truths = oracle.read(names) if exact else [oracle.Known(None, None, {})] * len(names)
    costs = [None, *(_rounded(-logs[t, i]) for t, i in enumerate(whole[1:]))]
    tokens = [
        {"text": name, "cost": cost} | _floor(name, truth)
        for name, cost, truth in zip(names, costs, truths, strict=True)
    ]
    c = model.config
    return {
        "model": {
            "label": c.label, "mixer": c.mixer, "layers": c.n_layers,
            "kernel": 0 if c.mixer == "global" else c.kernel_size,
            "slots": 0 if c.mixer == "local" else c.n_slots, "channels": c.d_model, "reach": model.reach,
        },
        "tokens": tokens[: len(ids)],
        "after": tokens[len(ids)] if after is not None else None,
        "next": [
            _expected(row, whole[t + 1 : t + 2], truths[t].follows, tokenizer) for t, row in enumerate(logs)
        ],
        "layers": [_layer(view, means[n] if means else None, tokenizer) for n, view in enumerate(views)],
    }  # fmt: skip


def _expected(logs: np.ndarray, actual: list[int], follows: dict[str, float], tokenizer: Tokenizer) -> dict:
    """Return the likeliest words and the actual one, each with the probabilities of model and generator, and
    the number of words that the generator could write. Without a generator, its numbers are None and 0."""
    likely = [int(i) for i in np.argsort(-logs, kind="stable")[:NEXT]]
    words = []
    for i in likely + [i for i in actual if i not in likely]:
        word = piece(tokenizer, i)
        words.append(
            [word, _rounded(math.exp(logs[i])), _rounded(follows.get(word, 0.0)) if follows else None]
        )
    return {"words": words, "choices": len(follows)}


def _floor(name: str, truth: oracle.Known) -> dict:
    """Return a token's floor, its kind and the distance to the word that determines it, if known."""
    if truth.nats is None or truth.lookback is None:
        return {"floor": None, "kind": None, "back": 0}
    kind = KINDS[kind_of(Token(name, truth.nats, truth.lookback))]
    return {"floor": _rounded(truth.nats), "kind": kind, "back": truth.lookback}


def _layer(view: anatomy.BlockView, means: np.ndarray | None, tokenizer: Tokenizer) -> dict:
    """Return for each token the gates (mean over channels), the slots that it reads most and, of a written
    memory, the slots that it is written to most, and where its recall comes from."""
    gates = {"local": view.local_gate, "global": view.global_gate}
    shown: dict = {
        k: None if g is None else [_rounded(m) for m in g[0].mean(axis=-1)] for k, g in gates.items()
    }
    shares = {"slots": view.shares, "written": view.written}
    shown |= {k: None if a is None else [_largest(row, SLOTS) for row in a[0]] for k, a in shares.items()}
    slots = {s for k in shares for row in shown[k] or [] for s, _ in row}
    shown["words"] = {s: _exciting(means[s], tokenizer) for s in sorted(slots)} if means is not None else {}
    shown["sources"] = shown["learned"] = None
    if view.sources is not None and view.prior is not None:
        shown["sources"] = [_largest(row, int((row >= LEAST).sum())) for row in view.sources[0]]
        shown["learned"] = [_rounded(p) for p in view.prior[0]]
    return shown


def _largest(shares: np.ndarray, n: int) -> list:
    """Return the n largest shares, [[index, share]]."""
    return [[int(i), _rounded(shares[i])] for i in np.argsort(-shares, kind="stable")[:n]]


def _exciting(shares: np.ndarray, tokenizer: Tokenizer) -> list:
    """Return the words with the largest mean shares of a slot, [[word, share]]; nan marks a rare word."""
    order = np.argsort(-np.nan_to_num(shares, nan=-1.0), kind="stable")[:WORDS]
    return [[piece(tokenizer, int(i)), _rounded(shares[i])] for i in order if not math.isnan(shares[i])]


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


def piece(tokenizer: Tokenizer, i: int) -> str:
    """Return one token as readable text."""
    if hasattr(tokenizer, "vocabulary"):
        return tokenizer.vocabulary[i]
    text = tokenizer.decode([i])
    return text if text and "\N{REPLACEMENT CHARACTER}" not in text else tokenizer.inner.id_to_token(i)


def page(data: dict) -> str:
    """Return the page as HTML. Each < in the data is escaped, so no token can end the script element."""
    content = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return TEMPLATE.read_text(encoding="utf-8").replace(MARK, content.replace("<", "\\u003c"))


def what_is_known(tokens: list[dict], corpus: Corpus) -> str:
    """Say whether the entropy floor of this text is known, and if not, from which token on it is not."""
    if corpus.floor is None:
        return (
            f"The generator of {corpus.name} is unknown, and so is the entropy floor of this text. "
            "The page shows what the model expects, but not what the best possible model would."
        )
    for n, token in enumerate(tokens):
        if n and token["floor"] is None:
            return (
                f"The generator of PocketStories never writes \N{LEFT DOUBLE QUOTATION MARK}{token['text']}"
                f"\N{RIGHT DOUBLE QUOTATION MARK} here (token {n + 1}). From there on, the exact "
                "probabilities and the floor are unknown and not shown."
            )
    return (
        "The generator of PocketStories can write this text, so the exact probability of every next word is "
        "known. It gives the entropy floor, which no model can beat on average."
    )


def _log_softmax(z: np.ndarray) -> np.ndarray:
    z = z - z.max(axis=-1, keepdims=True)
    return z - np.log(np.exp(z).sum(axis=-1, keepdims=True))


def _rounded(x: float) -> float:
    """Return x rounded to four significant digits, which keeps the page small."""
    return float(f"{x:.4g}")
