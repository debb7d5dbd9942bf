"""Multi-query associative recall: a test of how far back a model can look something up.

A row begins with key-value pairs. Later each key appears once more as a query, and the model must
predict its value, which is not repeated there; blanks fill the gaps. Keys and values are drawn again
for every row, so only looking back helps: a model whose receptive field misses the pair is right once
in `n_values`. Source: Arora et al., arXiv 2312.04927 (Zoology), with their power law for the gaps.
The number of pairs varies from row to row, so that easy rows teach what hard ones need.
"""

import numpy as np

from minigam.config import InputError
from minigam.data.corpus import IGNORE, Corpus, TextSize
from minigam.data.tokenizer import WordTokenizer
from minigam.engine.memory import require_memory

BLANK = 0  # keys are 1 .. n_keys, values follow them
POWER = 0.01  # Zoology's: a query comes s slots after the pairs with probability ~ s^(POWER - 1)


def mqar(
    n: int, n_pairs: np.ndarray, length: int, n_keys: int, n_values: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Draw n rows.

    n_pairs : (n) pairs in each row, at most n_keys and at most length / 4
    returns tokens and targets, both (n, length) int32; the target of a query is its value, others are IGNORE

    >>> rng = np.random.default_rng(0)
    >>> tokens, targets = mg.mqar.mqar(1, np.array([2]), length=8, n_keys=3, n_values=3, rng=rng)
    >>> tokens.shape, int((targets >= 0).sum())
    ((1, 8), 2)
    """
    most, slots = int(n_pairs.max()), length // 2  # a slot is a pair, a query and a blank, or two blanks
    keys = rng.permuted(np.tile(np.arange(1, n_keys + 1), (n, 1)), axis=1)[:, :most]
    values = rng.integers(1 + n_keys, 1 + n_keys + n_values, size=(n, most))
    present = np.arange(most) < n_pairs[:, None]  # (n, most)
    # Gumbel noise added to log-probabilities: the highest sums are a draw without replacement.
    late = np.arange(slots) - n_pairs[:, None]  # (n, slots), slots since the last pair
    with np.errstate(divide="ignore", invalid="ignore"):
        log_p = np.where(late >= 0, (POWER - 1.0) * np.log(late + 1.0), -np.inf)
    query = np.argsort(-(log_p + rng.gumbel(size=log_p.shape)), axis=1)[:, :most]  # slot of each query
    tokens = np.full((n, length), BLANK, dtype=np.int32)
    targets = np.full((n, length), IGNORE, dtype=np.int32)
    row, pair = np.nonzero(present)
    asked = 2 * query[row, pair]
    tokens[row, 2 * pair], tokens[row, 2 * pair + 1] = keys[row, pair], values[row, pair]
    tokens[row, asked], targets[row, asked] = keys[row, pair], values[row, pair]
    return tokens, targets


def distances(tokens: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Return the distance of every query, row by row: how many tokens earlier its key first appeared.

    tokens, targets : (n, length)   as `mqar` returns them

    >>> tokens = np.array([[1, 4, 2, 5, 2, 1]])
    >>> targets = np.array([[-1, -1, -1, -1, 5, 4]])
    >>> mg.mqar.distances(tokens, targets).tolist()
    [2, 5]
    """
    row, query = np.nonzero(targets >= 0)
    return query - (tokens[row] == tokens[row, query][:, None]).argmax(axis=1)


def from_mqar(
    block_size: int, n_train: int, n_pairs: int, n_keys: int, seed: int = 0, n_valid: int = 1_000
) -> Corpus:
    """Make a corpus whose only targets are the answers, with as many values as keys.

    Every validation row has n_pairs pairs. A training row has p = 1 .. n_pairs pairs with probability
    proportional to 1 / p, so each p asks equally many queries. Easy ones are learned first and help.
    Raises InputError when n_pairs do not fit into a row, there are too few keys, or memory is too small.

    >>> corpus = mg.mqar.from_mqar(block_size=16, n_train=10, n_pairs=2, n_keys=4, n_valid=5)
    >>> corpus.train.shape, len(corpus.valid)
    ((10, 2, 16), 5)
    """
    if not n_pairs <= min(n_keys, block_size // 4):
        raise InputError(
            f"{n_pairs} pairs, wanted at most the {n_keys} keys and a quarter of block_size {block_size}"
        )
    each = 8 * block_size + 16 * n_keys  # tokens and targets; the keys, and their permutation
    require_memory(
        f"{n_train + n_valid:,} rows of {block_size:,} with {n_keys:,} keys", (n_train + n_valid) * each,
        "fewer mqar_rows or mqar_keys, or a smaller block_size",
    )  # fmt: skip
    names = (f"{letter}{i}" for letter in "kv" for i in range(n_keys))
    tokenizer = WordTokenizer([".", *names])

    def split(n: int, sizes: np.ndarray, split_id: int) -> np.ndarray:
        rng = np.random.default_rng((seed, split_id))
        pairs = rng.choice(sizes, size=n, p=(1.0 / sizes) / (1.0 / sizes).sum())
        return np.stack(mqar(n, pairs, block_size, n_keys, n_keys, rng), axis=1)

    valid = split(n_valid, np.array([n_pairs]), 1)
    answers = valid[:, 1][valid[:, 1] >= 0]
    size = TextSize.of(tokenizer.decode(answers), tokens=len(answers))
    return Corpus("mqar", tokenizer, split(n_train, np.arange(1, n_pairs + 1), 0), valid, size)
