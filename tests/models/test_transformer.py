"""The Transformer against PyTorch, against itself in parts, and against its own description."""

import numpy as np
import pytest
from helpers import tiny

from minigam import Transformer, TransformerConfig
from minigam.config import InputError
from minigam.engine.sequence import causal_attention
from minigam.engine.tensor import ShapeError, Tensor
from minigam.models.decoding import Stream
from minigam.training.optim import AdamW
from minigam.training.step import train_step


def transformer(dtype="float64", **changes) -> Transformer:
    config = {"vocab_size": 7, "block_size": 6, "d_model": 6, "n_layers": 2, "n_heads": 3} | changes
    return tiny.randomise(Transformer(TransformerConfig(**config), dtype=dtype)).eval()


def test_the_published_configuration_has_the_published_size():
    assert round(Transformer().num_parameters() / 1e6, 1) == 24.2


@pytest.mark.parametrize(("n_heads", "T", "B"), [(1, 6, 2), (2, 1, 1), (3, 4, 2), (6, 6, 1)])
def test_logits_and_gradients_equal_pytorch(n_heads, T, B):
    pytest.importorskip("torch", reason="compares with PyTorch itself")
    from helpers import reference_torch

    reference_torch.assert_logits_and_gradients_equal(
        transformer(n_heads=n_heads), lambda w, ids: reference_torch.transformer_logits(w, ids, n_heads), T, B
    )


@pytest.mark.parametrize(("dtype", "atol"), [("float64", 1e-10), ("float32", 1e-5)])
@pytest.mark.parametrize("parts", [[1] * 17, [5, 1, 4, 7], [3, 3, 1, 1, 6]])
def test_the_cache_answers_what_a_full_pass_over_the_window_would(parts, dtype, atol):
    model = transformer(dtype)
    tokens, stream, read = tiny.draw_ids(model, 2, sum(parts)), Stream(model, 2), 0
    for n in parts:
        got = stream.feed(tokens[:, read : read + n])
        read += n
        T, half = model.config.block_size, model.config.block_size // 2
        begin = 0 if read <= T else -(-(read - T) // half) * half
        np.testing.assert_allclose(got, model(tokens[:, begin:read]).data[:, -1], rtol=0, atol=atol)
        assert stream.states[0].past.shape[1] == read - begin <= T


def test_no_token_sees_a_later_one_and_all_see_every_earlier_one():
    model = transformer()
    assert tiny.sees_all_before_and_none_after(model)
    assert model.reach is None


def test_attention_by_its_definition(rng):
    B, T, C, H = 2, 5, 6, 2
    qkv, D = rng.standard_normal((B, T, 3 * C)), C // H
    want = np.zeros((B, T, C))
    for b in range(B):
        for h in range(H):
            q, k, v = (qkv[b, :, part * C + h * D : part * C + (h + 1) * D] for part in range(3))
            for t in range(T):
                a = np.exp([q[t] @ k[i] / D**0.5 for i in range(t + 1)])
                want[b, t, h * D : (h + 1) * D] = (a / a.sum()) @ v[: t + 1]
    np.testing.assert_allclose(causal_attention(Tensor(qkv), n_heads=H).data, want, rtol=1e-12)


def test_dropout_drops_weights_only_while_training():
    model = transformer(dropout=0.5)
    ids = tiny.draw_ids(model, 2, 6)
    assert (model(ids).data == model(ids).data).all()
    model.train()
    assert (model(ids).data != model(ids).data).any()


def test_it_learns():
    model = transformer("float32", dropout=0.1, d_model=12)
    optimizer = AdamW(model.parameters(), lr=1e-2)
    ids = tiny.draw_ids(model, 4, 6)
    losses = [train_step(model, optimizer, ids, (ids + 1) % 7, micro_batch=2) for _ in range(60)]
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.parametrize("n_heads", [0, 4, 7])
def test_heads_must_divide_the_channels(n_heads):
    with pytest.raises(InputError, match="n_heads is"):
        TransformerConfig(d_model=6, n_heads=n_heads)
    with pytest.raises(ShapeError, match="causal_attention"):
        causal_attention(Tensor(np.zeros((1, 2, 18))), n_heads=4)


def test_a_past_that_does_not_fit_is_refused():
    with pytest.raises(ShapeError, match=r"past \(1, 3, 6\)"):
        causal_attention(Tensor(np.zeros((2, 2, 18))), np.zeros((1, 3, 6)), n_heads=2)
