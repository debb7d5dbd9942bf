"""Arithmetic that NumPy and CuPy lack, and tiles: slices of as many rows as fit the CPU cache."""

import math
from functools import cache
from types import ModuleType
from typing import Any

import numpy as np

from minigam.engine.tensor import Array, ShapeError


def tiles(n: int, width: int = 1) -> list[slice]:
    """Cut 0 .. n-1 into slices, each of as many rows of `width` numbers as fit the CPU cache.

    >>> rows = mg.numeric.tiles(10, width=10**9)  # one row is more than fits
    >>> rows[0], len(rows)
    (slice(0, 1, None), 10)
    """
    step = max(1, TILE // max(1, width))
    return [slice(start, min(start + step, n)) for start in range(0, n, step)]


TILE = 2**16  # numbers per tile: enough to amortise the cost of a call, few enough for the cache


def rows(z: Array) -> Array:
    """Return z of shape (..., C) as a matrix (N, C) of its rows.

    >>> mg.numeric.rows(np.zeros((2, 3, 4))).shape
    (6, 4)
    """
    return z.reshape(math.prod(z.shape[:-1]), z.shape[-1])  # -1 would be ambiguous if C is 0


def packed(xp: ModuleType, *arrays: Array) -> list[Array]:
    """Return the arrays as kernels expect them: C-contiguous, integers as int64. Copies only if needed.

    >>> a, ids = mg.numeric.packed(np, np.ones((2, 3)).T, np.array([1], np.int32))
    >>> a.flags.c_contiguous, ids.dtype.name
    (True, 'int64')
    """
    typed = [a if a.dtype.kind == "f" or a.dtype == np.int64 else a.astype(np.int64) for a in arrays]
    return [a if a.flags.c_contiguous else xp.ascontiguousarray(a) for a in typed]  # which makes () a (1,)


def unbroadcast(g: Array, shape: tuple[int, ...]) -> Array:
    """Undo broadcasting: sum `g` over the axes along which an array of this `shape` was repeated.

    >>> mg.numeric.unbroadcast(np.ones((3, 2)), (1, 2)).tolist()
    [[3.0, 3.0]]
    """
    if g.shape == shape:
        return g
    g = g.sum(axis=tuple(range(g.ndim - len(shape))))
    repeated = tuple(i for i, n in enumerate(shape) if n == 1 and g.shape[i] != 1)
    return g.sum(axis=repeated, keepdims=True) if repeated else g


def shape_of(a: Array) -> tuple[int, ...]:
    """Return the shape of a; () for a Python number.

    >>> mg.numeric.shape_of(np.ones((2, 3))), mg.numeric.shape_of(1.5)
    ((2, 3), ())
    """
    return getattr(a, "shape", ())


def require_bias(where: str, x: Array, bias: Array) -> None:
    """Raise ShapeError unless bias is None or (C), for x (..., C).

    >>> mg.numeric.require_bias("gelu", np.ones((2, 3)), np.ones(2))
    Traceback (most recent call last):
        ...
    minigam.engine.tensor.ShapeError: gelu: bias (2,), wanted (3,), the last axis of (2, 3)
    """
    if bias is not None and bias.shape != x.shape[-1:]:
        raise ShapeError(f"{where}: bias {bias.shape}, wanted {x.shape[-1:]}, the last axis of {x.shape}")


def without_ignored(xp: ModuleType, z: Array, targets: Array) -> Array:
    """Return z (..., C) with zeros where the target (...) is negative: nan there must change nothing.

    >>> mg.numeric.without_ignored(np, np.ones((2, 3)), np.array([4, -1])).tolist()
    [[1.0, 1.0, 1.0], [0.0, 0.0, 0.0]]
    """
    return xp.where((targets >= 0)[..., None], z, xp.zeros((), dtype=z.dtype))


def scatter_add(xp: ModuleType, n_rows: int, ids: Array, values: Array) -> Array:
    """Add row `values[i]` to row `ids[i]` of (n_rows, C) zeros, for every i; repeated ids add up.

    ids : (...) integers, 0 <= id < n_rows     values : (..., C)
    On a GPU the order of the additions varies from run to run, and with it the last bits.

    >>> mg.numeric.scatter_add(np, 3, np.array([2, 2]), np.array([[1.0], [5.0]])).tolist()
    [[0.0], [0.0], [6.0]]
    """
    total = xp.zeros((n_rows, values.shape[-1]), dtype=values.dtype)
    xp.add.at(total, ids.reshape(-1), rows(values))
    return total


def add_at(xp: ModuleType, total: Array, index: Any, values: Array) -> None:
    """Add values to total[index]; total is zeros. Repeated entries add up, of which a slice has none.

    >>> total = np.zeros(3)
    >>> mg.numeric.add_at(np, total, np.array([1, 1]), np.array([2.0, 3.0]))
    >>> total.tolist()
    [0.0, 5.0, 0.0]
    """
    parts = index if isinstance(index, tuple) else (index,)
    if all(i is None or i is ... or isinstance(i, slice | int) for i in parts):
        total[index] = values
    else:
        xp.add.at(total, index, values)


def sigmoid(xp: ModuleType, z: Array) -> Array:
    """Return 1 / (1 + exp(-z)), to the last bits however small it is.

    exp(-|z|) cannot overflow. Use sigmoid(-z) for 1 - sigmoid(z), which cancels for large z.

    >>> mg.numeric.sigmoid(np, np.array([0.0, -1e4])).tolist()
    [0.5, 0.0]
    """
    e = xp.exp(-xp.abs(z))
    return xp.maximum(e, z >= 0) / (1.0 + e)  # e for negative z, else 1; where() would take thrice as long


def normal(xp: ModuleType, x: Array) -> tuple[Array, Array]:
    """Return the distribution function Phi of the standard normal, and its density phi.

        phi(x) = exp(-x^2 / 2) / sqrt(2 pi),   Phi(-|x|) = phi(x) p(|x|) / q(|x|)

    Phi keeps its relative accuracy however small it is; 0.5 (1 + erf(x / sqrt 2)) cancels for negative x.
    The rounding error of x^2 / 2 grows with x: both are good to about 2 + x^2 / 2 units in the last place.

    >>> Phi, phi = mg.numeric.normal(np, np.array([0.0, 1.96]))
    >>> Phi.round(3).tolist(), phi.round(3).tolist()
    ([0.5, 0.975], [0.399, 0.058])
    """
    p, q, end = mills_ratio(x.dtype)
    size = xp.minimum(xp.abs(x), end)
    phi = xp.exp(-0.5 * size * size) * (1.0 / math.sqrt(2.0 * math.pi))
    tail = phi * (polynomial(p, size) / polynomial(q, size))
    return xp.abs((x >= 0) - tail), phi  # tail for negative x, 1 - tail for the others


def polynomial(coefficients: tuple[float, ...], x: Array) -> Array:
    """Return the polynomial with these coefficients, the highest power first.

    >>> mg.numeric.polynomial((1.0, 0.0, 2.0), np.array([3.0])).tolist()  # x^2 + 2
    [11.0]
    """
    y = coefficients[0] * x + coefficients[1]
    for a in coefficients[2:]:  # Horner's rule
        y = y * x + a
    return y


def mills_ratio(dtype: np.dtype) -> tuple[tuple[float, ...], tuple[float, ...], float]:
    """Return the coefficients of p and q, where p(x) / q(x) is Phi(-x) / phi(x) for 0 <= x <= end.

    All are positive, so nothing cancels. Beyond the end, phi is 0 in this dtype.
    Fitted to 50 digits by `python -m helpers.fit_mills_ratio`, in tests; the error of the fit is below 1e-8
    for float32 and 2e-16 for float64.

    >>> p, q, end = mg.numeric.mills_ratio(np.dtype("float32"))
    >>> len(q) >= len(p), end > 0.0
    (True, True)
    """
    return _MILLS_FLOAT32 if dtype.itemsize <= 4 else _MILLS_FLOAT64


_MILLS_FLOAT32 = (
    (0.010311406, 0.101836755, 0.459303587, 1.09872132, 1.25331414),
    (0.0103112899, 0.101843078, 0.469466856, 1.20255451, 1.67453773, 1.0),
    15.0,
)
_MILLS_FLOAT64 = (
    (3.417593471205512e-06, 9.215271274947276e-05, 0.0012159615551020884, 0.010159383364248575,
     0.05878903921154048, 0.2435237767876624, 0.7222219438668893, 1.4848555383411588, 1.9394548506930978,
     1.2533141373155001),
    (3.4175934712166467e-06, 9.215271274717903e-05, 0.001219379148786255, 0.010251536065111892,
     0.05999816602904235, 0.2534988424245084, 0.77861349066719, 1.708977960972805, 2.556058386998315,
     2.3453456425451065, 1.0),
    39.0,
)  # fmt: skip


def erf(xp: ModuleType, x: Array) -> Array:
    """Return the error function, 2/sqrt(pi) times the integral of exp(-s^2) from 0 to x.

        erf(c + d) = sum over m of a_m(c) d^m,   c the grid point nearest to |x|

    NumPy has no erf, and math.erf takes one number at a time. Here math.erf gives the values at the
    grid points, and a Taylor series those in between: 3 terms in float32, 6 in float64, no fitted
    constants. Tested: the error is below 1e-12 in float64 and below 2e-7 in float32. CuPy has its
    own erf. The course derives gelu from it; the operation gelu uses `normal`, which keeps the digits of
    both tails.

    >>> mg.numeric.erf(np, np.array([0.0, 0.5, -9.0])).round(4).tolist()
    [0.0, 0.5205, -1.0]
    """
    if hasattr(xp, "cuda"):
        from cupyx.scipy.special import erf as device_erf

        return device_erf(x)
    series = xp.asarray(_erf_series(3 if x.dtype == np.float32 else 6).astype(x.dtype))
    size = xp.minimum(xp.abs(x), _ERF_END)
    nearest = xp.rint(size * _ERF_CELLS)
    d = size - nearest / _ERF_CELLS
    with np.errstate(invalid="ignore"):  # nan has no grid point; it reaches y through d
        cell = nearest.astype(np.intp)
    y = series[-1].take(cell, mode="clip")
    for a in series[-2::-1]:  # Horner's rule
        y = y * d + a.take(cell, mode="clip")
    return xp.copysign(y, x)


_ERF_END, _ERF_CELLS = 6.0, 128  # erf(6) is 1 in float64; grid points per unit


@cache
def _erf_series(terms: int) -> np.ndarray:
    """Return (terms, points): the Taylor coefficients a_m of erf about every grid point c.

    g = erf' satisfies g' = -2 x g, so its coefficients satisfy (m+1) g_{m+1} = -2 (c g_m + g_{m-1}),
    and a_{m+1} = g_m / (m+1).
    """
    table = []
    for i in range(int(_ERF_END * _ERF_CELLS) + 1):
        c = i / _ERF_CELLS
        a, before, g = [math.erf(c)], 0.0, 2.0 / math.sqrt(math.pi) * math.exp(-c * c)
        for m in range(terms - 1):
            a.append(g / (m + 1))
            before, g = g, -2.0 * (c * g + before) / (m + 1)
        table.append(a)
    return np.array(table).T
