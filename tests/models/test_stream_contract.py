"""The contract of a stream: whatever the feeds, it answers as a full pass over its window does."""

from collections.abc import Callable

import numpy as np
import pytest
from helpers import tiny
from hypothesis import given
from hypothesis import strategies as st

from minigam import GAM, Mamba, Transformer
from minigam.config import MIXERS, NORMS, WRITTEN
from minigam.engine.tensor import ShapeError
from minigam.models.decoding import Stream
from minigam.models.lm import LanguageModel

PRECISION = {"float64": 1e-10, "float32": 1e-4}
FEEDS = st.lists(st.integers(1, 12), min_size=1, max_size=6)  # longer than a block, too
SIZES = {"vocab_size": 7, "d_model": 4, "n_layers": 2}


KINDS = [*((GAM, {"mixer": mixer}) for mixer in MIXERS), (Transformer, {}), (Mamba, {})]


# By chance alone few of the examples are of mixer "written", whose state differs most from the others'.
each_draw = pytest.mark.parametrize("kinds", [KINDS, [(GAM, {"mixer": WRITTEN})]], ids=["any", "written"])


@st.composite
def models(draw, kinds) -> LanguageModel:
    """Draw a tiny model of any of these kinds, all of its parameters random."""
    dtype, (kind, parts) = draw(st.sampled_from(sorted(PRECISION))), draw(st.sampled_from(kinds))
    width = draw(st.integers(1, 4))
    if kind is GAM:
        parts = parts | {"n_slots": 3, "kernel_size": width}
    elif kind is Transformer:
        parts = {"n_heads": draw(st.sampled_from([1, 2, 4]))}
    else:
        parts = {"d_state": 2, "d_conv": width, "expand": 2, "residual": draw(st.booleans())}
        parts |= {"norm": draw(st.sampled_from(NORMS)), "positions": draw(st.booleans())}
    config = kind.Config(**SIZES, block_size=draw(st.integers(1, 9)), **parts)
    return tiny.randomise(kind(config, dtype=dtype)).eval()


def assert_answers(model: LanguageModel, got: np.ndarray, tokens: np.ndarray) -> None:
    """Compare logits (B, V) with those after the last token of a full pass over the window."""
    want = model(tiny.window(tokens, model.config.block_size)).data[:, -1]
    assert (got.shape, got.dtype) == (want.shape, model.norm.weight.dtype)
    scale = np.abs(want).max(initial=1.0)
    np.testing.assert_allclose(got, want, rtol=0.0, atol=PRECISION[str(got.dtype)] * scale)


@each_draw
@given(data=st.data(), batch=st.integers(1, 3), feeds=FEEDS)
def test_every_feed_is_answered_as_by_a_full_pass(kinds, data, batch, feeds):
    model = data.draw(models(kinds))
    tokens, stream, n, answers = tiny.draw_ids(model, batch, sum(feeds)), Stream(model, batch), 0, []
    for size in feeds:
        part = tokens[:, n : n + size].copy()
        answers.append(stream.feed(part))
        n += size
        assert_answers(model, answers[-1], tokens[:, :n])
        np.testing.assert_array_equal(part, tokens[:, n - size : n])
        np.testing.assert_array_equal(stream.tokens, tiny.window(tokens[:, :n], model.config.block_size))
        assert stream.read == stream.tokens.shape[1] <= model.config.block_size
    for i, got in enumerate(answers):  # a later feed has not changed an earlier answer
        assert_answers(model, got, tokens[:, : sum(feeds[: i + 1])])


@each_draw
@given(data=st.data(), feeds=FEEDS, others=FEEDS)
def test_streams_of_one_model_do_not_know_of_each_other(kinds, data, feeds, others):
    """Two streams, fed in any order: each answers from its own text."""
    model = data.draw(models(kinds))
    lengths = [feeds, others]
    texts = [tiny.draw_ids(model, 1 + i, sum(sizes), seed=i) for i, sizes in enumerate(lengths)]
    streams, n = [Stream(model, len(text)) for text in texts], [0, 0]
    order = data.draw(st.permutations([0] * len(feeds) + [1] * len(others)))
    remaining = [list(sizes) for sizes in lengths]
    for i in order:
        size = remaining[i].pop(0)
        got = streams[i].feed(texts[i][:, n[i] : n[i] + size])
        n[i] += size
        assert_answers(model, got, texts[i][:, : n[i]])


@each_draw
@given(data=st.data(), feeds=FEEDS, bad=st.sampled_from([[[-1]], [[7]], [[0.5]], [0], [[]]]))
def test_a_stream_that_refused_ids_reads_on(kinds, data, feeds, bad):
    model = data.draw(models(kinds))
    tokens, stream, n = tiny.draw_ids(model, 1, sum(feeds)), Stream(model), 0
    for size in feeds:
        with pytest.raises((ValueError, TypeError), match="ids"):
            stream.feed(np.array(bad))
        got = stream.feed(tokens[:, n : n + size])
        n += size
        assert_answers(model, got, tokens[:, :n])


@each_draw
@given(data=st.data(), batch=st.integers(1, 2), feeds=FEEDS)
def test_a_feed_that_failed_half_way_has_not_happened(kinds, data, batch, feeds):
    """The first block has read on when the last one fails, as it does when a user presses Ctrl-C."""
    model = data.draw(models(kinds))
    tokens, stream, n = tiny.draw_ids(model, batch, sum(feeds)), Stream(model, batch), 0
    fails = data.draw(st.integers(0, len(feeds) - 1))
    for i, size in enumerate(feeds):
        if i == fails:
            with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
                patch.setattr(type(model.norm), "__call__", interrupted(model.norm))
                stream.feed(tokens[:, n : n + size])
        got = stream.feed(tokens[:, n : n + size])
        n += size
        assert_answers(model, got, tokens[:, :n])


def interrupted(layer) -> Callable:
    """Return a call that this layer interrupts, and that is as before for all others."""
    call = type(layer).__call__

    def interrupt(self, *args):
        if self is layer:
            raise KeyboardInterrupt
        return call(self, *args)

    return interrupt


def test_a_feed_for_another_batch_is_refused():
    stream = Stream(tiny.gam(), 2)
    with pytest.raises(ShapeError, match=r"ids: \(1, 3\), wanted \(2, n\), as many rows as before"):
        stream.feed(np.zeros((1, 3), int))
