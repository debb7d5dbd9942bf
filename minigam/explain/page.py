"""The page: what a trained GAM does with every word of a text, as one HTML file."""

import json
import math
from pathlib import Path

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
MARK = "@DATA@"  # where the template wants the data
SLOTS, WORDS, NEXT = 4, 5, 6  # shown: slots of a token, words of a slot, words that may come next
PART = 16  # rows read at a time, to bound the memory


def explanation(
    model: GAM, tokenizer: Tokenizer, ids: list[int], after: int | None, heard: list[np.ndarray], exact: bool
) -> dict:
    """Return what the page shows of one text, as JSON can hold it.

    ids    : the tokens read, at most block_size
    after  : the token that comes after the last, None where that is not known
    heard  : for each block what `slot_words` returned; no entries where the mixer has no memory
    exact  : whether the text may be one of PocketStories, whose generator tells exact probabilities
    returns {"model", "tokens", "after", "next", "layers"}: of each token what it cost and its floor, in nats,
    and its kind; of each place what the model expects next; of each layer gates and slots
    """
    logits, views = anatomy.views(model, np.array([ids]))
    if not np.isfinite(logits).all():
        raise InputError("the model's logits are no numbers; train again with a smaller --lr")
    logs = _log_softmax(logits[0].astype(np.float64))  # (T, V)
    whole = ids if after is None else [*ids, after]
    names = [piece(tokenizer, i) for i in whole]
    known = oracle.read(names) if exact else [oracle.Known(None, None, {})] * len(names)
    costs = [None, *(_rounded(-logs[t, i]) for t, i in enumerate(whole[1:]))]
    tokens = [
        {"text": name, "cost": cost} | _floor(name, k)
        for name, cost, k in zip(names, costs, known, strict=True)
    ]
    c = model.config
    return {
        "model": {
            "mixer": c.mixer, "layers": c.n_layers, "kernel": 0 if c.mixer == "global" else c.kernel_size,
            "slots": 0 if c.mixer == "local" else c.n_slots, "channels": c.d_model, "reach": model.reach,
        },
        "tokens": tokens[: len(ids)],
        "after": tokens[len(ids)] if after is not None else None,
        "next": [
            _expected(row, whole[t + 1 : t + 2], known[t].follows, tokenizer) for t, row in enumerate(logs)
        ],
        "layers": [_layer(view, heard[n] if heard else None, tokenizer) for n, view in enumerate(views)],
    }  # fmt: skip


def _expected(logs: np.ndarray, actual: list[int], follows: dict[str, float], tokenizer: Tokenizer) -> dict:
    """Return the likeliest words and the actual one, with the model's and the generator's probability, and
    how many words the generator could write; None and 0 where it is not known."""
    likely = [int(i) for i in np.argsort(-logs, kind="stable")[:NEXT]]
    words = []
    for i in likely + [i for i in actual if i not in likely]:
        word = piece(tokenizer, i)
        words.append(
            [word, _rounded(math.exp(logs[i])), _rounded(follows.get(word, 0.0)) if follows else None]
        )
    return {"words": words, "choices": len(follows)}


def _floor(name: str, known: oracle.Known) -> dict:
    """Return the floor of a token, its kind, and how far back it must be looked up, where they are known."""
    if known.nats is None or known.lookback is None:
        return {"floor": None, "kind": None, "back": 0}
    kind = KINDS[kind_of(Token(name, known.nats, known.lookback))]
    return {"floor": _rounded(known.nats), "kind": kind, "back": known.lookback}


def _layer(view: anatomy.BlockView, heard: np.ndarray | None, tokenizer: Tokenizer) -> dict:
    """Return the gates (mean over channels) and the slots that answer most, token by token."""
    gates = {"local": view.local_gate, "global": view.global_gate}
    shown: dict = {
        k: None if g is None else [_rounded(m) for m in g[0].mean(axis=-1)] for k, g in gates.items()
    }
    shown["slots"], shown["words"] = None, {}
    if view.shares is not None and heard is not None:
        a = view.shares[0]  # (T, S)
        top = np.argsort(-a, axis=-1, kind="stable")[:, :SLOTS]
        shown["slots"] = [[[int(s), _rounded(a[t, s])] for s in row] for t, row in enumerate(top)]
        shown["words"] = {int(s): _exciting(heard[s], tokenizer) for s in np.unique(top)}
    return shown


def _exciting(shares: np.ndarray, tokenizer: Tokenizer) -> list:
    """Return the words a slot answers to most, with its mean share: [[word, share]]. nan is unheard."""
    order = np.argsort(-np.nan_to_num(shares, nan=-1.0), kind="stable")[:WORDS]
    return [[piece(tokenizer, int(i)), _rounded(shares[i])] for i in order if not math.isnan(shares[i])]


def slot_words(model: GAM, valid: np.ndarray, least: int = 3, progress: bool = False) -> list[np.ndarray]:
    """Return for each block how much each slot answers to each token, on average: (S, V); nan where a
    token came less than `least` times. An empty list where the mixer has no memory.

    valid : (N, T+1)   rows as a `Corpus` has them; read PART at a time, for the shares are many
    """
    c = model.config
    if c.mixer == "local":
        return []
    sums = [(np.zeros((c.vocab_size, c.n_slots)), np.zeros(c.vocab_size)) for _ in range(c.n_layers)]
    parts = range(0, len(valid), PART)
    for start in tqdm(parts, "reading", leave=False, delay=2, disable=None if progress else True):
        rows = valid[start : start + PART]
        ids, _ = inputs_and_targets(rows)
        seen = np.where(rows[:, :-1] == IGNORE, IGNORE, ids)
        for both, view in zip(sums, anatomy.views(model, ids)[1], strict=True):
            assert view.shares is not None  # the mixer has a memory
            for old, new in zip(both, anatomy.share_sums(view.shares, seen, c.vocab_size), strict=True):
                old += new
    return [anatomy.mean_shares(total, count, least) for total, count in sums]


def piece(tokenizer: Tokenizer, i: int) -> str:
    """Return one token as a reader should see it."""
    if hasattr(tokenizer, "vocabulary"):
        return tokenizer.vocabulary[i]
    text = tokenizer.decode([i])
    return text if text and "\N{REPLACEMENT CHARACTER}" not in text else tokenizer.inner.id_to_token(i)


def page(data: dict) -> str:
    """Return the page as HTML. No token can end the script that holds the data: it has no < in it."""
    content = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return TEMPLATE.read_text(encoding="utf-8").replace(MARK, content.replace("<", "\\u003c"))


def what_is_known(tokens: list[dict], corpus: Corpus) -> str:
    """Return one sentence on whether the floor of this text is known, and from where on it is not."""
    if corpus.floor is None:
        return (
            f"No generator of {corpus.name} is known, so the floor of this text is not known either: "
            "the page shows what the model expects, and not what could be expected at best."
        )
    for n, token in enumerate(tokens):
        if n and token["floor"] is None:
            return (
                f"The generator of PocketStories never writes \N{LEFT DOUBLE QUOTATION MARK}{token['text']}"
                f"\N{RIGHT DOUBLE QUOTATION MARK} here (token {n + 1}). From there on no exact probability "
                "and no floor is known, and none is shown."
            )
    return (
        "The generator of PocketStories can write this text, so the exact probability of every next word is "
        "known, and with it the floor, which no model can beat on average."
    )


def _log_softmax(z: np.ndarray) -> np.ndarray:
    z = z - z.max(axis=-1, keepdims=True)
    return z - np.log(np.exp(z).sum(axis=-1, keepdims=True))


def _rounded(x: float) -> float:
    """Return x to four digits, so that the page stays small."""
    return float(f"{x:.4g}")
