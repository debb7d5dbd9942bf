"""The float32 functions of the C kernels over all exponents, against float64 and mpmath.

An error is measured in units in the last place of the value wanted; among the denormals, in their spacing.
The bounds are the largest errors among millions of floats, rounded up, with and without fused instructions.
"""

import ctypes

import numpy as np
import pytest
from helpers.rules import needs_kernels

from minigam.engine import compiler
from minigam.engine.compiled import functions as c_functions
from minigam.engine.compiled.functions import FUNCTIONS
from minigam.engine.compiled.kernels import COMMON

pytest.importorskip("mpmath", reason="needs mpmath (the group `test`)")
import mpmath
from helpers import fit_functions

pytestmark = needs_kernels

LOOP = "void each_{0}(const float* x, float* y, long long n) {{ for (size i = 0; i < n; ++i) y[i] = {1}; }}\n"
CALLS = {
    "exp": "exp_(x[i])", "log": "log_(x[i])", "log1p": "log1p_(x[i])", "tanh": "tanh_(x[i])",
    "sigmoid": "sigmoid_(x[i])", "Phi": "Phi_(x[i]).value", "phi": "Phi_(x[i]).slope",
}  # fmt: skip
TINY = 2.0**-149  # the least float32


@pytest.fixture(scope="module")
def functions():
    source = COMMON + FUNCTIONS + "".join(LOOP.format(*item) for item in CALLS.items())
    library, _ = compiler.library(source, "-DREAL=float", "-DFLOAT32")

    def call(name: str, x) -> np.ndarray:
        x = np.ascontiguousarray(x, np.float32)
        y = np.empty_like(x)
        loop = getattr(library, f"each_{name}")
        loop.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_longlong]
        loop(x.ctypes.data, y.ctypes.data, x.size)
        return y

    return call


def all_exponents(most: float = np.inf, negative: bool = True) -> np.ndarray:
    """64 numbers of each exponent of float32, denormals included, up to `most` in size, of both signs."""
    rng = np.random.default_rng(0)
    bits = (np.arange(255, dtype=np.uint32)[:, None] << 23) + rng.integers(
        2**23, size=(255, 64), dtype=np.uint32
    )
    x = bits.view(np.float32).reshape(-1)
    x = x[x <= most]
    return np.concatenate([x, -x]) if negative else x


def errors(got: np.ndarray, want: np.ndarray) -> np.ndarray:
    """Return the errors of `got`, float32, against `want`, float64."""
    spacing = np.maximum(np.abs(np.spacing(want.astype(np.float32)).astype(np.float64)), TINY)
    return np.abs(got.astype(np.float64) - want) / spacing


def sigma(x: np.ndarray) -> np.ndarray:
    e = np.exp(-np.abs(x))
    return np.where(x < 0.0, e, 1.0) / (1.0 + e)


# The function in float64, in mpmath; its arguments, of all exponents and dense where its values change; the
# largest error.
ACCURATE = {
    "exp": (np.exp, mpmath.exp, [all_exponents(87.0), np.linspace(-103.9, 88.72, 100_001)], 1.5),
    "log": (np.log, mpmath.log, [all_exponents(negative=False), np.linspace(0.5, 2.0, 100_001)], 2.5),
    "log1p": (np.log1p, mpmath.log1p,
              [all_exponents(1.0, negative=False), np.linspace(0.0, 1.0, 100_001)], 2.5),
    "tanh": (np.tanh, mpmath.tanh, [all_exponents(), np.linspace(-10.0, 10.0, 100_001)], 1.5),
    "sigmoid": (sigma, lambda x: 1 / (1 + mpmath.exp(-x)),
                [all_exponents(), np.linspace(-103.9, 103.9, 100_001)], 3.0),
}  # fmt: skip


@pytest.mark.parametrize("name", ACCURATE)
def test_errors_are_a_few_units_in_the_last_place(functions, name):
    f, _, arguments, most = ACCURATE[name]
    for x in arguments:
        x = x.astype(np.float32)
        e = errors(functions(name, x), f(x.astype(np.float64)))
        assert e.max() < most, f"{e.max():.2f} units at x = {x[e.argmax()]}"


@pytest.mark.parametrize("name", ACCURATE)
def test_so_they_are_against_mpmath(functions, name):
    _, f, arguments, most = ACCURATE[name]
    x = np.concatenate([a[:: len(a) // 200] for a in arguments]).astype(np.float32)
    x = x[np.abs(x) < 1e4] if name in ("tanh", "sigmoid") else x  # beyond, mpmath needs thousands of digits
    with mpmath.workdps(60):
        want = np.array([float(f(mpmath.mpf(float(v)))) for v in x])
    assert errors(functions(name, x), want).max() < most


def test_the_normal_distribution_keeps_its_digits_on_both_tails(functions):
    """Down to the denormals. The rounding error of x^2 / 2 grows with x, as in numeric.normal."""
    x = np.concatenate([all_exponents(14.1)[::8], np.linspace(-14.1, 14.1, 1001)]).astype(np.float32)
    for name, f, most in (("Phi", mpmath.ncdf, 4.0), ("phi", mpmath.npdf, 3.0)):
        with mpmath.workdps(60):
            want = np.array([float(f(mpmath.mpf(float(v)))) for v in x])
        allowed = most + x.astype(np.float64) ** 2 / 2
        e = errors(functions(name, x), want)
        assert (e < allowed).all(), f"{name}: x = {x[(e / allowed).argmax()]}"


NAN, INF = np.nan, np.inf


@pytest.mark.parametrize(
    ("name", "x", "want"),
    [
        ("exp", [NAN, INF, -INF, 0.0, -0.0, 89.0, 3e38, -104.0, -3e38], [NAN, INF, 0, 1, 1, INF, INF, 0, 0]),
        ("log", [NAN, INF, -INF, 0.0, -0.0, 1.0, -1.0, -TINY], [NAN, INF, NAN, -INF, -INF, 0, NAN, NAN]),
        ("log1p", [NAN, 0.0, -0.0], [NAN, 0, -0.0]),
        (
            "tanh",
            [NAN, INF, -INF, 0.0, -0.0, 3e38, -3e38, TINY, -TINY],
            [NAN, 1, -1, 0, -0.0, 1, -1, TINY, -TINY],
        ),
        ("sigmoid", [NAN, INF, -INF, 0.0, -0.0, 3e38, -3e38], [NAN, 1, 0, 0.5, 0.5, 1, 0]),
        ("Phi", [NAN, INF, -INF, 0.0, -0.0, 3e38, -3e38], [NAN, 1, 0, 0.5, 0.5, 1, 0]),
    ],
)
def test_nan_infinity_and_zero(functions, name, x, want):
    got, want = functions(name, x), np.array(want, np.float32)
    np.testing.assert_array_equal(got, want)
    zeros = want == 0.0
    np.testing.assert_array_equal(np.signbit(got[zeros]), np.signbit(want[zeros]))


def test_exp_overflows_and_underflows_where_its_value_does(functions):
    x = np.array([88.72283, 88.72284, -103.97, -103.98], np.float32)
    with np.errstate(over="ignore"):
        want = np.exp(x.astype(np.float64)).astype(np.float32)
    assert (np.isfinite(want).tolist(), (want > 0.0).tolist()) == (
        [True, False, True, True],
        [True] * 3 + [False],
    )
    assert errors(functions("exp", x[[0, 2]]), np.exp(x[[0, 2]].astype(np.float64))).max() < 1.5
    np.testing.assert_array_equal(functions("exp", x[[1, 3]]), want[[1, 3]])


def test_the_logarithm_of_any_negative_number_is_nan(functions):
    assert np.isnan(functions("log", -all_exponents(negative=False))).all()


def test_the_coefficients_are_the_fitted_ones():
    with mpmath.workdps(50):
        for name, fitted in fit_functions.fits().items():
            want = getattr(c_functions, name)
            assert [float(mpmath.nstr(a, 9)) for a in fitted] == list(want), name
