"""Validation: the loss on rows that training does not see, by kind of token and beside its floor."""

import numpy as np
from tqdm import tqdm

from minigam.data.corpus import Corpus, inputs_and_targets
from minigam.data.ngram import NGram
from minigam.data.pocketstories import KINDS
from minigam.engine import backend
from minigam.engine.tensor import no_grad
from minigam.models.lm import LanguageModel
from minigam.training.step import places


def evaluate(
    model: LanguageModel,
    corpus: Corpus,
    rows: int | None = None,
    batch: int | None = None,
    progress: bool = False,
) -> dict:
    """Measure the loss on validation rows, and beside it the floor where it is known.

    rows  : how many rows to take, from the first; None for all
    batch : rows computed at a time; None for about 2,048 tokens, whose logits are all there at once
    returns what `summary` does
    """
    n, T = min(rows or len(corpus.valid), len(corpus.valid)), model.config.block_size
    ids, targets = inputs_and_targets(corpus.valid[:n])
    losses = np.empty((n, T))
    parts = tqdm(
        list(places(model, n, T, batch or max(1, 2048 // T))),
        desc="validating", leave=False, delay=2, disable=None if progress else True,
    )  # fmt: skip
    was_training = model.training
    model.eval()
    try:
        with no_grad():
            for row, begin, start, end in parts:
                part = row, slice(begin, end)
                found = backend.to_numpy(model.token_losses(ids[part], targets[part], begin).data)
                losses[row, start:end] = found[:, start - begin :]
    finally:
        model.train(was_training)
    return summary(corpus, losses)


def summary(corpus: Corpus, losses: np.ndarray) -> dict:
    """Return the mean of a model's losses, and the means by kind of token where kinds are known.

    losses : (n, T) nats, of the first n validation rows
    returns {"loss": mean nats, "tokens": count}, and for PocketStories "floor" and "kinds":
    for each kind its loss, floor and count, and "syntax+choice" for those two together
    """
    n = len(losses)
    counted = inputs_and_targets(corpus.valid[:n])[1] >= 0
    result: dict = {"loss": losses[counted].mean(), "tokens": int(counted.sum())}
    if corpus.kinds is not None and corpus.floor is not None:
        floor, kinds = corpus.floor[:n], corpus.kinds[:n]
        result["floor"] = floor[counted].mean()
        chosen = {name: counted & (kinds == i) for i, name in enumerate(KINDS)}
        chosen["syntax+choice"] = chosen["syntax"] | chosen["choice"]
        result["kinds"] = {
            name: {"loss": losses[mask].mean(), "floor": floor[mask].mean(), "tokens": int(mask.sum())}
            for name, mask in chosen.items()
            if mask.any()
        }
    return result


def ngrams(corpus: Corpus, order: int, progress: bool = False) -> dict[str, dict]:
    """Measure what n-grams counted in the training rows say of the validation rows.

    returns for each order, the longest first, what `summary` does
    """
    orders = range(order, 0, -1)
    measured = {}
    for n in tqdm(orders, desc="counting n-grams", leave=False, delay=2, disable=None if progress else True):
        losses = NGram(corpus.train, len(corpus.tokenizer), n).losses(corpus.valid)
        measured[{1: "unigram", 2: "bigram", 3: "trigram"}.get(n, f"{n}-gram")] = summary(corpus, losses)
    return measured
