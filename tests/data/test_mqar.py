"""Associative recall: the rows are what their description says."""

import numpy as np
import pytest

from minigam.config import InputError
from minigam.data.corpus import IGNORE, inputs_and_targets
from minigam.data.mqar import BLANK, POWER, distances, from_mqar, mqar


@pytest.fixture
def drawn():
    pairs = np.random.default_rng(1).integers(1, 5, size=200)
    return pairs, *mqar(200, pairs, 33, 6, 7, np.random.default_rng(0))


def test_every_query_comes_once_after_the_pairs_and_asks_for_its_value(drawn):
    for n_pairs, tokens, targets in zip(*drawn, strict=True):
        keys, values = tokens[: 2 * n_pairs : 2], tokens[1 : 2 * n_pairs : 2]
        assert len(set(keys)) == n_pairs
        assert ((keys >= 1) & (keys <= 6)).all()
        assert ((values >= 7) & (values <= 13)).all()
        queries = np.flatnonzero(targets >= 0)
        assert (queries >= 2 * n_pairs).all()
        assert sorted(tokens[queries]) == sorted(keys)
        bound = dict(zip(keys, values, strict=True))
        assert [bound[k] for k in tokens[queries]] == list(targets[queries])
        blank = np.ones(33, dtype=bool)
        blank[: 2 * n_pairs] = blank[queries] = False
        assert (tokens[blank] == BLANK).all()  # so no answer is shown
        assert (targets[targets < 0] == IGNORE).all()


def test_distances_count_from_the_first_time_a_key_came(drawn):
    _, tokens, targets = drawn
    want = [
        query - list(row).index(row[query])
        for row, asked in zip(tokens, targets, strict=True)
        for query in np.flatnonzero(asked >= 0)
    ]
    assert list(distances(tokens, targets)) == want


def test_queries_come_late_by_the_power_law():
    n, slots = 20_000, 8
    _, targets = mqar(n, np.ones(n, dtype=int), 2 * slots, 4, 4, np.random.default_rng(0))
    late = np.nonzero(targets >= 0)[1] // 2  # slots after the only pair, from 1
    law = np.arange(1, slots, dtype=float) ** (POWER - 1.0)
    law /= law.sum()
    got = np.bincount(late, minlength=slots)[1:] / n
    assert np.abs(got - law).max() < 5 * np.sqrt(0.25 / n)


def test_values_are_drawn_alike_and_apart_from_keys():
    n = 20_000
    tokens, _ = mqar(n, np.ones(n, dtype=int), 8, 4, 5, np.random.default_rng(0))
    together = np.zeros((4, 5))
    np.add.at(together, (tokens[:, 0] - 1, tokens[:, 1] - 5), 1)
    assert np.abs(together / n - 1 / 20).max() < 5 * np.sqrt(1 / 20 / n)


def test_the_corpus_asks_for_the_answers_alone():
    corpus = from_mqar(32, 50, n_pairs=4, n_keys=6, n_valid=20)
    ids, targets = inputs_and_targets(corpus.valid)
    assert ids.shape == targets.shape == (20, 32)
    assert ids.min() == BLANK
    assert ((targets >= 0).sum(axis=1) == 4).all()  # validation rows are the hardest
    assert corpus.valid_size.tokens == 80
    assert corpus.tokenizer.decode(ids[0]).split()[0].startswith("k")
    assert corpus.tokenizer.decode(targets[0][targets[0] >= 0]).startswith("v")


def test_every_number_of_pairs_asks_as_many_queries():
    n = 20_000
    corpus = from_mqar(16, n, n_pairs=4, n_keys=4, n_valid=1)
    pairs = (inputs_and_targets(corpus.train)[1] >= 0).sum(axis=1)
    queries = np.bincount(pairs, weights=pairs, minlength=5)[1:]
    assert np.abs(queries / queries.sum() - 0.25).max() < 0.02


def test_the_seed_decides_everything():
    one, same, other = (from_mqar(16, 20, 2, 4, seed=s, n_valid=5).fingerprint() for s in (0, 0, 1))
    assert one == same != other


@pytest.mark.parametrize(("pairs", "keys"), [(5, 4), (5, 9)])
def test_too_many_pairs_are_refused(pairs, keys):
    with pytest.raises(InputError, match=f"{pairs} pairs, wanted at most the {keys} keys and a quarter of"):
        from_mqar(16, 10, pairs, keys)
