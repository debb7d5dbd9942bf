"""Kneser-Ney counting: by hand, against the textbook in dictionaries, and beside the floor of the stories."""

import math
from collections import Counter, defaultdict

import numpy as np
import pytest

from minigam.data.corpus import IGNORE, from_pocketstories
from minigam.data.ngram import NGram

BEGIN = "row begins"


class Textbook:
    """The same model as its equations read, one dictionary lookup after another."""

    def __init__(self, rows, vocab_size: int, order: int):
        self.vocab_size, self.order = vocab_size, order
        times, left = Counter(), defaultdict(set)
        for row in rows:
            told = [BEGIN, *(int(t) for t in row if t >= 0)]
            for end in range(2, len(told)):  # the first token of a row is no target
                for k in range(1, order + 1):
                    if end - k + 1 >= 0:
                        times[tuple(told[end - k + 1 : end + 1])] += 1
                    if end - k >= 0:
                        left[tuple(told[end - k + 1 : end + 1])].add(told[end - k])
        self.c = {
            g: n if len(g) == order or g[0] == BEGIN else len(left[g]) for g, n in times.items()
        }  # c(h w), by h w
        self.after = defaultdict(dict)
        for g, c in self.c.items():
            self.after[g[:-1]][g[-1]] = c

    def discount(self, k: int) -> float:
        n = Counter(c for g, c in self.c.items() if len(g) == k)
        return n[1] / (n[1] + 2 * n[2]) if n[1] and n[2] else 0.5

    def p(self, w: int, h: tuple) -> float:
        lower = self.p(w, h[1:]) if h else 1 / self.vocab_size
        if h not in self.after:
            return lower
        seen, D = self.after[h], self.discount(len(h) + 1)
        return (max(seen.get(w, 0) - D, 0) + D * len(seen) * lower) / sum(seen.values())

    def loss(self, row, t: int) -> float:
        """Return -log P of target t of a row, given what lies before it in the row."""
        told = [BEGIN, *(int(x) for x in row[: t + 1])]
        return -math.log(self.p(int(row[t + 1]), tuple(told[max(len(told) - (self.order - 1), 0) :])))


def random_rows(seed=0, n=30, length=8, vocab_size=6, dtype=np.int32) -> np.ndarray:
    """Rows of uneven frequencies and uneven lengths; the last two tokens are rare or missing."""
    rng = np.random.default_rng(seed)
    rows = np.minimum(rng.geometric(0.5, (n, length)) - 1, vocab_size - 2)
    for row in rows[::3]:
        row[rng.integers(2, length) :] = IGNORE
    return rows.astype(dtype)


def probabilities(model: NGram, context: list[int]) -> np.ndarray:
    """Return P(w | a row that begins with `context`) for every w."""
    rows = np.array([[*context, w] for w in range(model.vocab_size)])
    return np.exp(-model.losses(rows)[:, -1])


def test_by_hand():
    """The row a b a b a c. Targets: b a b a c.

    Order 2.  ab 2, ba 2, ac 1, so n1 = 1, n2 = 2, D = 1 / 5. Below: b was seen after a, a after b,
              c after a: c = 1 each, n2 = 0, D = 1/2, and P_1 = 1/2 / 3 + 1/2 * 3/3 * 1/3 = 1/3 each.
              P(b | a) = (2 - 1/5) / 3 + 1/5 * 2/3 * 1/3 = 29/45, P(c | a) = 14/45, P(a | a) = 2/45.
              P(a | b) = (2 - 1/5) / 2 + 1/5 * 1/2 * 1/3 = 14/15.
    Order 3,  with # for the beginning.  #ab 1, aba 2, bab 1, bac 1: n1 = 3, n2 = 1, D = 3/5.
              Below: ab was seen after # and b, so c = 2; ba after a, ac after b, so 1: D = 2/4.
              P_2(b | a) = (2 - 1/2) / 3 + 1/2 * 2/3 * 1/3 = 11/18.
              P(b | #a) = (1 - 3/5) / 1 + 3/5 * 1/1 * 11/18 = 23/30.
              P(b | ba) = (1 - 3/5) / 2 + 3/5 * 2/2 * 11/18 = 17/30.
    """
    a, b, c = range(3)
    row = [a, b, a, b, a, c]
    bigram, trigram = NGram(np.array([row]), 3, order=2), NGram(np.array([row]), 3, order=3)
    np.testing.assert_allclose(probabilities(bigram, [a]), [2 / 45, 29 / 45, 14 / 45], rtol=1e-14)
    np.testing.assert_allclose(probabilities(bigram, [c, a]), [2 / 45, 29 / 45, 14 / 45], rtol=1e-14)
    assert probabilities(bigram, [b])[a] == pytest.approx(14 / 15)
    np.testing.assert_allclose(probabilities(bigram, [c]), 1 / 3, rtol=1e-14)  # c was never followed
    assert probabilities(trigram, [a])[b] == pytest.approx(23 / 30)
    assert probabilities(trigram, [a, b, a])[b] == pytest.approx(17 / 30)
    assert probabilities(trigram, [c, a])[b] == pytest.approx(11 / 18)  # "c a" was never seen


def test_a_unigram_is_discounted_and_mixed_with_the_uniform_distribution():
    """Targets 1 1 1 2 2 3 of V = 5: n1 = 1, n2 = 1, D = 1/3; the unseen share 1/3 * 3/6 = 1/6 of all."""
    model = NGram(np.array([[0, 1, 1, 1, 2, 2, 3]]), 5, order=1)
    expected = np.array([0, 3 - 1 / 3, 2 - 1 / 3, 1 - 1 / 3, 0]) / 6 + 1 / 6 / 5
    for context in ([0], [4, 2]):
        np.testing.assert_allclose(probabilities(model, context), expected, rtol=1e-14)


@pytest.mark.parametrize("order", [1, 2, 3, 4, 5, 12])
def test_it_is_the_textbook(order):
    rows, others = random_rows(0), random_rows(1, vocab_size=8, length=9)
    model, textbook = NGram(rows, 8, order), Textbook(rows, 8, order)
    for some in (rows, others):
        losses = model.losses(some)
        assert losses.shape == some[:, 1:].shape
        for (i, t), loss in np.ndenumerate(losses):
            expected = textbook.loss(some[i], t) if some[i, t + 1] >= 0 else 0.0
            assert loss == pytest.approx(expected, rel=1e-12, abs=1e-13), (i, t)


@pytest.mark.parametrize("order", [1, 2, 3, 5])
def test_probabilities_are_positive_and_sum_to_one(order):
    model = NGram(random_rows(), 8, order)
    for context in ([0], [7], [0, 1, 0], [0, 7, 0], [7, 7, 7], [1, 0, 0, 0, 0, 1, 0], [0, 0, 0, 0, 0, 0, 7]):
        p = probabilities(model, context)
        assert p.min() > 0.0
        assert p.sum() == pytest.approx(1.0, abs=1e-12), context


@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("row", [[0, 0], [0, 1], [2, 2, 2, 2, 2, 2], [0, 1, IGNORE, IGNORE]])
def test_the_smallest_corpora(row, order):
    model = NGram(np.array([row]), 3, order)
    for context in ([0], [1], [2, 2], [0, 1, 2]):
        p = probabilities(model, context)
        assert p.min() > 0.0
        assert p.sum() == pytest.approx(1.0, abs=1e-12)
    assert probabilities(model, row[:1]).argmax() == row[1]


def test_a_vocabulary_of_one_token_is_certain():
    rows = np.zeros((3, 4), np.int32)
    np.testing.assert_allclose(NGram(rows, 1, order=3).losses(rows), 0.0, atol=1e-15)


def test_context_ends_with_the_row():
    """Each row is read alone: another row above changes nothing, nor does what follows a target."""
    model, rows = NGram(random_rows(), 6, order=4), random_rows(3)
    losses = model.losses(rows)
    np.testing.assert_array_equal(model.losses(rows[::-1])[::-1], losses)
    np.testing.assert_array_equal(model.losses(rows[:, :4]), losses[:, :3])


def test_targets_left_out_have_no_loss_and_no_count():
    rows = random_rows()
    told = rows[:, 1:] >= 0
    assert not told.all()
    losses = NGram(rows, 6).losses(rows)
    assert (losses[~told] == 0.0).all()
    assert (losses[told] > 0.0).all()
    longer = np.concatenate([rows, np.full((len(rows), 3), IGNORE)], axis=1)
    np.testing.assert_array_equal(NGram(longer, 6).losses(rows), losses)


def test_unsigned_rows_in_a_file(tmp_path):
    rows = np.abs(random_rows(vocab_size=300, dtype=np.int64)).astype(np.uint16)
    rows[0, :3] = 40_000  # past the signed half
    rows.tofile(tmp_path / "rows.bin")
    mapped = np.memmap(tmp_path / "rows.bin", np.uint16, "r", shape=rows.shape)
    signed = rows.astype(np.int64)
    expected = NGram(signed, 50_000).losses(signed)
    np.testing.assert_array_equal(NGram(mapped, 50_000).losses(mapped), expected)


def test_wrong_arguments_are_named():
    rows = random_rows()
    with pytest.raises(ValueError, match="order is 0, wanted at least 1"):
        NGram(rows, 6, order=0)
    with pytest.raises(ValueError, match="token 4, wanted below vocab_size 4"):
        NGram(rows, 4)
    with pytest.raises(ValueError, match="no token to count"):
        NGram(np.array([[0, IGNORE]]), 4)


def test_stories_are_predicted_the_better_the_longer_the_context():
    """Most of a story is settled by the few tokens before: long n-grams come near the floor of what is
    not recall, and pay for recall; no model is below the floor."""
    corpus = from_pocketstories(128, n_train=2000, n_valid=50)
    counted = corpus.valid[:, 1:] >= 0
    near = counted & (corpus.kinds != 2)
    floor, loss = corpus.floor[near].mean(), {}
    for order in (1, 2, 3, 5):
        losses = NGram(corpus.train, len(corpus.tokenizer), order).losses(corpus.valid)
        loss[order] = losses[near].mean()
        assert losses[counted].mean() > corpus.floor[counted].mean()
    assert loss[1] > 4.0 > loss[2] > loss[3] > loss[5] > floor
    assert loss[5] < 1.4 * floor
