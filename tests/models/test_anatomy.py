"""What is shown of a GAM's inside is what the model computed."""

import numpy as np
import pytest
from helpers import tiny

from minigam import Tensor
from minigam.config import MIXERS, WRITTEN
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


@pytest.mark.parametrize("mixer", MIXERS)
def test_a_mixer_shows_the_parts_it_has(mixer):
    model = tiny.gam(mixer)
    _, views = anatomy.views(model, tiny.draw_ids(model, 1, 4))
    gated, written = mixer in ("gated", WRITTEN), mixer == WRITTEN
    assert all((v.local_gate is not None) == (v.global_gate is not None) == gated for v in views)
    assert all((v.shares is None) == (mixer == "local") for v in views)
    assert all((part is not None) == written for v in views for part in (v.written, v.sources, v.prior))


@pytest.mark.parametrize("prior", [0.0, 2.5])
def test_the_sources_of_a_recall_are_what_it_mixes(prior):
    """The recall is that of the op, and of sources and prior in the letters of X1-X5, slot by slot."""
    model = tiny.gam(WRITTEN, prior=prior)
    ids = tiny.draw_ids(model, 2, 6)
    x = model.token_embedding(ids) + model.position_embedding.weight[:6]
    for block, view in zip(model.blocks, anatomy.views(model, ids)[1], strict=True):
        u, M, lam = block.norm1(x), block.memory.data, prior or 1.0 / 3.0
        recall = block.recall(u, block.conv(u), None).data
        a, w = view.shares, view.written
        n = lam + np.cumsum(w, axis=1)
        learned = np.einsum("bts,sc->btc", a * lam / n, M)
        np.testing.assert_allclose(view.sources @ u.data + learned, recall, rtol=0, atol=1e-12)
        np.testing.assert_allclose(view.prior, (a * lam / n).sum(axis=-1), rtol=0, atol=1e-15)
        np.testing.assert_allclose(view.sources.sum(axis=-1) + view.prior, 1.0, rtol=0, atol=1e-14)
        np.testing.assert_allclose(w.sum(axis=-1), 1.0, rtol=0, atol=1e-14)
        for t in range(6):
            assert (view.sources[:, t, : t + 1] > 0.0).all()
            assert (view.sources[:, t, t + 1 :] == 0.0).all(), "no token recalls a later one"
        x = block(x)


def test_the_first_token_recalls_itself_and_what_was_learned():
    """By hand: n_1 = lambda + w_1, so its share of slot s is w / (lambda + w)."""
    view = anatomy.views(model := tiny.gam(WRITTEN), tiny.draw_ids(model, 1, 1))[1][0]
    a, w = view.shares[0, 0], view.written[0, 0]
    assert view.sources[0, 0, 0] == pytest.approx(sum(a * w / (1 / 3 + w)), rel=1e-12)
    assert view.prior[0, 0] == pytest.approx(sum(a / (1 + 3 * w)), rel=1e-12)


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
