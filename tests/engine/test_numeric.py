"""The arithmetic that NumPy and CuPy lack, and the tiles."""

import math

import numpy as np
import pytest

from minigam.engine import backend, numeric


@pytest.mark.parametrize(("dtype", "allowed"), [("float64", 1e-12), ("float32", 2e-7)])
def test_erf_is_good_to_its_precision(dtype, allowed, xp):
    x = np.concatenate([np.linspace(-7.0, 7.0, 100_001), np.logspace(-30, 30, 1000)]).astype(dtype)
    got = backend.to_numpy(numeric.erf(xp, xp.asarray(x)))
    want = np.array([math.erf(v) for v in x.tolist()])
    assert got.dtype == dtype
    assert np.abs(got - want).max() < allowed
    assert np.abs(got).max() <= 1.0


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_erf_at_the_edges(dtype, xp):
    x = xp.asarray(np.array([math.inf, -math.inf, math.nan, 0.0, -0.0], dtype))
    y = backend.to_numpy(numeric.erf(xp, x))
    np.testing.assert_array_equal(y, [1.0, -1.0, math.nan, 0.0, -0.0])
    assert np.signbit(y).tolist()[3:] == [False, True]


def test_erf_keeps_any_shape(xp):
    for shape in ((), (0,), (2, 0), (2, 3, 1)):
        assert numeric.erf(xp, xp.ones(shape)).shape == shape


def test_sigmoid_neither_overflows_nor_warns(xp):
    y = backend.to_numpy(numeric.sigmoid(xp, xp.asarray([-math.inf, -1e4, 0.0, 1e4, math.inf])))
    np.testing.assert_array_equal(y, [0.0, 0.0, 0.5, 1.0, 1.0])


def test_rows(xp):
    assert numeric.rows(xp.ones((2, 3, 4))).shape == (6, 4)
    assert numeric.rows(xp.ones(4)).shape == (1, 4)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_scatter_add_adds_repeated_ids(dtype, xp, rng):
    ids, values = np.array([[0, 2, 2], [2, 0, 4]]), rng.standard_normal((2, 3, 4)).astype(dtype)
    want = np.zeros((5, 4), dtype)
    for i in np.ndindex(ids.shape):
        want[ids[i]] += values[i]
    got = numeric.scatter_add(xp, 5, xp.asarray(ids), xp.asarray(values))
    assert (type(got), got.dtype) == (xp.ndarray, dtype)
    np.testing.assert_allclose(backend.to_numpy(got), want, rtol=1e-6)


def test_tiles_cover_every_row_once(monkeypatch):
    monkeypatch.setattr(numeric, "TILE", 12)
    assert numeric.tiles(7, 4) == [slice(0, 3), slice(3, 6), slice(6, 7)]
    assert numeric.tiles(3, 100) == [slice(0, 1), slice(1, 2), slice(2, 3)]  # never less than a row
    assert numeric.tiles(0, 4) == []
