"""What is shown of a GAM's inside is what the model computed."""

import numpy as np
import pytest
from helpers import tiny

from minigam import Tensor
from minigam.models import anatomy


def by_hand(model, ids):
    """The equations again, in NumPy: the input, gates and shares of every block."""
    x = model.token_embedding.weight.data[ids] + model.position_embedding.weight.data[: ids.shape[1]]
    for block in model.blocks:
        u = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
        u = u * block.norm1.weight.data + block.norm1.bias.data
        g = 1.0 / (1.0 + np.exp(-(u @ block.gate.weight.data.T + block.gate.bias.data)))
        e = np.exp(u @ block.memory.data.T)
        yield g, e / e.sum(-1, keepdims=True)
        x = block(Tensor(x)).data


def test_views_are_the_equations():
    model = tiny.gam()
    ids = tiny.draw_ids(model, 2, 5)
    logits, views = anatomy.views(model, ids)
    assert np.array_equal(logits, model(ids).data)
    assert len(views) == len(model.blocks)
    for view, (gate, shares) in zip(views, by_hand(model, ids), strict=True):
        assert np.allclose(np.concatenate([view.local_gate, view.global_gate], -1), gate, rtol=0, atol=1e-12)
        assert np.allclose(view.shares, shares, rtol=0, atol=1e-12)


@pytest.mark.parametrize("mixer", ["sum", "local", "global"])
def test_a_mixer_shows_the_parts_it_has(mixer):
    model = tiny.gam(mixer)
    _, views = anatomy.views(model, tiny.draw_ids(model, 1, 4))
    assert all(v.local_gate is None and v.global_gate is None for v in views)
    assert all((v.shares is None) == (mixer == "local") for v in views)


def test_a_model_is_left_as_it_was():
    model = tiny.gam(dropout=0.5).train()
    ids = tiny.draw_ids(model, 1, 4)
    before = set(vars(model.blocks[0]))
    first, second = anatomy.views(model, ids)[0], anatomy.views(model, ids)[0]
    assert np.array_equal(first, second), "looking is without dropout"
    assert model.training
    assert set(vars(model.blocks[0])) == before


def test_exciting_tokens_are_means_over_the_places_of_a_token():
    rng = np.random.default_rng(0)
    ids, shares = np.array([[0, 1, 1, -1], [1, 0, 2, 0]]), rng.random((2, 4, 3))
    found = anatomy.exciting_tokens(shares, ids, n_tokens=4, least=2)
    assert found.shape == (3, 4)
    for token in (0, 1):
        assert np.allclose(found[:, token], shares[ids == token].mean(axis=0))
    assert np.isnan(found[:, 2:]).all(), "token 2 came once, token 3 never"
