"""Validation: the loss on held-out rows, by kind of token, next to its entropy floor."""

import numpy as np
from tqdm import tqdm

from minigam.data.corpus import Corpus, inputs_and_targets
from minigam.data.ngram import NGram
from minigam.data.pocketstories import KINDS
from minigam.engine import backend
from minigam.engine.tensor import no_grad
from minigam.models.lm import LanguageModel
from minigam.training.ranks.world import ALONE, World
from minigam.training.step import places


def evaluate(
    model: LanguageModel,
    corpus: Corpus,
    rows: int | None = None,
    batch: int | None = None,
    progress: bool = False,
    world: World = ALONE,
) -> dict:
    """Measure the loss on validation rows, next to its floor if the corpus has one.

    rows  : how many rows to take, starting with the first; None for all
    batch : rows computed at a time; None for about 2,048 tokens, to limit the memory of their logits
    world : the ranks that share the work; all get the result, which does not depend on their number
    returns the result of `summary`

    >>> corpus = mg.from_pocketstories(block_size=128, n_train=5, n_valid=5)
    >>> config = mg.GAMConfig(vocab_size=472, block_size=128, d_model=4, n_layers=1)
    >>> result = mg.validation.evaluate(mg.GAM(config), corpus)
    >>> result["loss"] > result["floor"] > 0.0
    np.True_
    """
    n, T = min(rows or len(corpus.valid), len(corpus.valid)), model.config.block_size
    ids, targets = inputs_and_targets(corpus.valid[:n])
    losses = np.zeros((n, T))  # 0 where another rank measures
    parts = tqdm(
        list(places(model, n, T, batch or max(1, 2048 // T)))[world.rank :: world.size],
        desc="validating", leave=False, delay=2, disable=None if progress else True,
    )  # fmt: skip
    was_training = model.training
    model.eval()
    try:
        with no_grad():
            for row, begin, start, end in parts:
                part = row, slice(begin, end)
                part_losses = backend.to_numpy(model.token_losses(ids[part], targets[part], begin).data)
                losses[row, start:end] = part_losses[:, start - begin :]
    finally:
        model.train(was_training)
    world.start_sum(losses.reshape(-1))
    world.finish_sums()
    return summary(corpus, losses)


def summary(corpus: Corpus, losses: np.ndarray) -> dict:
    """Return the mean of a model's losses, and the mean for each kind of token if the corpus has kinds.

    losses : (n, T) nats, of the first n validation rows
    returns {"loss": mean nats, "tokens": count}, and for PocketStories "floor" and "kinds":
    for each kind its loss, floor and count, and "syntax+choice" for those two together

    >>> corpus = mg.from_pocketstories(block_size=128, n_train=5, n_valid=2)
    >>> losses = np.ones((2, 128))
    >>> mg.validation.summary(corpus, losses)["loss"]
    np.float64(1.0)
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
    """Measure n-gram models on the validation rows, with counts from the training rows.

    returns name -> the result of `summary`, from the highest order to the lowest

    >>> corpus = mg.from_pocketstories(block_size=128, n_train=50, n_valid=5)
    >>> by_name = mg.validation.ngrams(corpus, order=2)
    >>> list(by_name), by_name["bigram"]["loss"] < by_name["unigram"]["loss"]
    (['bigram', 'unigram'], np.True_)
    """
    orders = range(order, 0, -1)
    measured = {}
    for n in tqdm(orders, desc="counting n-grams", leave=False, delay=2, disable=None if progress else True):
        losses = NGram(corpus.train, len(corpus.tokenizer), n).losses(corpus.valid)
        measured[{1: "unigram", 2: "bigram", 3: "trigram"}.get(n, f"{n}-gram")] = summary(corpus, losses)
    return measured
