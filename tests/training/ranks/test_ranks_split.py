"""Ranks that share the tokens of a row: same bits, same gradient, and each target once."""

from types import SimpleNamespace

import numpy as np
import pytest
from helpers.ranked import POWERS, assert_same_bits, drawn, made, trained, trained_by
from hypothesis import given
from hypothesis import strategies as st

from minigam import GAM, GAMConfig
from minigam.training import step
from minigam.training.optim import AdamW
from minigam.training.ranks.world import share
from minigam.training.step import begin_step, places

SHAPES = [(K, L) for K in (1, 2, 4) for L in (1, 2, 3)]


def gam(kernel_size=3, n_layers=2, dtype="float32", block_size=40, mixer="gated") -> GAM:
    config = GAMConfig(vocab_size=11, block_size=block_size, d_model=8, n_layers=n_layers, n_slots=4,
                       kernel_size=kernel_size, dropout=0.1, mixer=mixer)  # fmt: skip
    return GAM(config, dtype=dtype, seed=3)


def assert_close(found, alone):
    scale = np.abs(alone["gradient"]).max()
    np.testing.assert_allclose(found["losses"], alone["losses"], rtol=1e-12)
    np.testing.assert_allclose(found["gradient"], alone["gradient"], rtol=0.0, atol=1e-12 * scale)
    assert (found["masks"] == alone["masks"]).all()


@pytest.mark.parametrize(("kernel_size", "n_layers"), SHAPES)
def test_the_gradient_is_that_of_whole_rows(kernel_size, n_layers):
    def make():
        return gam(kernel_size, n_layers, "float64")

    batches = [drawn(2, 40)]  # the reach is from 1 to 10 tokens, a leaf 5
    alone = trained(make, batches, leaves=1)
    assert_close(trained(make, batches, split_sequence=True), alone)
    for n in (3, 4):
        for found in trained_by(n, make, batches, split_sequence=True):
            assert_close(found, alone)


@pytest.mark.parametrize("tokens", [40, 37, 5, 1])
def test_powers_of_two_ranks_give_the_same_bits(tokens):
    batches = [drawn(2, tokens, ignored=0.0), drawn(1, 40, seed=1)]
    wanted = trained(gam, batches, split_sequence=True)
    for n in POWERS:
        for found in trained_by(n, gam, batches, split_sequence=True, shard=n == 4):
            assert_same_bits(found, wanted)


@pytest.mark.parametrize("mixer", ["sum", "local", "global"])
def test_every_mixer_of_the_paper_can_be_split(mixer):
    def make():
        return gam(dtype="float64", mixer=mixer)

    alone = trained(make, [drawn(3, 40)], leaves=1)
    for found in trained_by(4, make, [drawn(3, 40)], split_sequence=True):
        assert_close(found, alone)


@pytest.mark.parametrize("first", [0, 20, 35])
def test_tokens_without_targets_change_nothing_but_what_they_should(first):
    ids, targets = drawn(2, 40, ignored=0.0)
    targets[
        :, first : first + 20
    ] = -1  # the tokens of two to four leaves, so that whole ranks have no target
    batches = [(ids, targets), drawn(1, 40)]
    wanted = trained(gam, batches, split_sequence=True)
    for n in POWERS:
        for found in trained_by(n, gam, batches, split_sequence=True):
            assert_same_bits(found, wanted)
    alone = trained(lambda: gam(dtype="float64"), batches[:1], leaves=1)
    assert_close(trained(lambda: gam(dtype="float64"), batches[:1], split_sequence=True), alone)


def test_a_long_share_of_a_row_is_split_further(monkeypatch):
    def make(dtype="float64"):
        return gam(kernel_size=2, n_layers=1, dtype=dtype, block_size=200)

    batches, lengths = [drawn(2, 200)], set()
    alone = trained(make, batches, leaves=1)
    mean_loss = GAM.mean_loss
    monkeypatch.setattr(
        GAM, "mean_loss", lambda self, ids, *rest: lengths.add(ids.shape) or mean_loss(self, ids, *rest)
    )
    monkeypatch.setattr(step, "WIDEST", 1)
    assert make().reach == 2  # so a part has 16 tokens at most, and one of context
    for n in (1, 2, 4):
        for found in trained_by(n, make, batches, split_sequence=True, leaves=4):
            assert_close(found, alone)
    assert {B for B, _ in lengths} == {1} and max(T for _, T in lengths) <= 17
    wanted = trained(lambda: make("float32"), batches, split_sequence=True)
    for n in POWERS:
        for found in trained_by(n, lambda: make("float32"), batches, split_sequence=True):
            assert_same_bits(found, wanted)


@pytest.mark.parametrize("name", ["GAM, written memory (ours)", "Transformer", "Mamba"])
def test_a_model_that_sees_everything_cannot_be_split(name):
    model = made(name)
    with pytest.raises(ValueError, match="wanted a finite reach to split rows"):
        begin_step(model, AdamW(model.parameters()), *drawn(2), leaves=8, split_sequence=True)


# ------------------------------------------------------------------------------------ places


@given(
    B=st.integers(1, 20),
    T=st.integers(1, 60),
    reach=st.none() | st.integers(1, 9),
    leaves=st.integers(1, 17),
    micro_batch=st.none() | st.integers(1, 7),
    widest=st.sampled_from([1, 4 * 30, 4 * 200, 10**9]),
    split=st.booleans(),
)
def test_every_target_is_counted_once(B, T, reach, leaves, micro_batch, widest, split):
    model = SimpleNamespace(config=SimpleNamespace(d_model=1), xp=np, reach=reach)
    split = split and reach is not None
    counted = np.zeros((B, T), int)
    for leaf in range(leaves):
        rows = slice(0, B) if split else share(B, leaf, leaves)
        tokens = share(T, leaf, leaves) if split else slice(0, T)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(step, "WIDEST", widest)
            parts = list(places(model, B, T, micro_batch, rows, tokens))
        for part, begin, start, end in parts:
            assert rows.start <= part.start < part.stop <= rows.stop
            assert 0 <= begin <= start < end and tokens.start <= start and end <= tokens.stop
            assert begin == max(0, start - (reach or 1) + 1)  # all that a token depends on, and no more
            whole_rows = (begin, end) == (0, T)
            assert whole_rows or part.stop - part.start == 1  # consecutive places have consecutive masks
            assert not micro_batch or part.stop - part.start <= micro_batch
            counted[part, start:end] += 1
    assert (counted == 1).all()
