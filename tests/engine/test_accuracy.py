"""How many digits are right: against values computed with 50 digits, and against PyTorch.

An error is measured in units in the last place: relative to the value wanted, and to the dtype's eps.
"""

import math
from contextlib import nullcontext
from functools import partial
from operator import attrgetter

import numpy as np
import pytest
from helpers import fakecuda

from minigam import Tensor, backend, ops, reference_only, sequence
from minigam.engine import numeric

pytest.importorskip("mpmath", reason="needs mpmath (the group `test`)")
import mpmath
from helpers import fit_mills_ratio
from mpmath import mpf

LIBRARIES = ["numpy", *fakecuda.DEVICES]
each_library = pytest.mark.parametrize("library", LIBRARIES)
each_rule = pytest.mark.parametrize("rules", [reference_only, nullcontext], ids=["reference", "faster"])
each_dtype = pytest.mark.parametrize("dtype", ["float32", "float64"])


@pytest.fixture(autouse=True)
def emulated(monkeypatch):
    fakecuda.install(monkeypatch)
    monkeypatch.setattr(mpmath.mp, "dps", 50)


# --------------------------------------------------------------------------------------- activations


def sigma(x: mpf) -> mpf:
    return 1 / (1 + mpmath.exp(-x))


# The value of each operation; the terms whose sum is its slope; the largest |x|, by dtype, for which both are
# numbers of full precision.
ACTIVATIONS = {
    ops.sigmoid: (sigma, lambda x: [sigma(x) * sigma(-x)], {"float32": 87, "float64": 708}),
    ops.tanh: (mpmath.tanh, lambda x: [mpmath.sech(x) ** 2], {"float32": 43, "float64": 354}),
    ops.softplus: (lambda x: mpmath.log1p(mpmath.exp(x)), lambda x: [sigma(x)],
                   {"float32": 87, "float64": 708}),
    ops.silu: (lambda x: x * sigma(x), lambda x: [sigma(x), x * sigma(x) * sigma(-x)],
             {"float32": 87, "float64": 708}),
    ops.gelu: (lambda x: x * mpmath.ncdf(x), lambda x: [mpmath.ncdf(x), x * mpmath.npdf(x)],
             {"float32": 12.9, "float64": 37}),
}  # fmt: skip


def points(largest: float, dtype: str) -> np.ndarray:
    """Numbers of both signs up to `largest`, dense near 0."""
    x = np.concatenate([np.geomspace(1e-3, largest, 60), np.linspace(0.5, 3.0, 30)])
    return np.concatenate([-x[::-1], [0.0], x]).astype(dtype)


def value_and_slope(f, x: np.ndarray, library: str) -> tuple[np.ndarray, np.ndarray]:
    x = Tensor(backend.to(x, library), requires_grad=True)
    y = f(x)
    y.backward(backend.xp_of(x.data).ones_like(y.data))
    return backend.to_numpy(y.data), backend.to_numpy(x.grad)


def errors(got: np.ndarray, want: list, scales: list) -> np.ndarray:
    """Return the errors in units in the last place of `scales`."""
    eps = float(np.finfo(got.dtype).eps)
    return np.array(
        [float(abs(mpf(float(g)) - w) / s) / eps for g, w, s in zip(got, want, scales, strict=True)]
    )


def errors_of(op, x: np.ndarray, got: tuple) -> list[np.ndarray]:
    """Return the errors of value and slope; a slope's are relative to the sum of the sizes of its terms."""
    value, terms_of, _ = ACTIVATIONS[op]
    exact = [mpf(float(v)) for v in x]
    values, terms = [value(v) for v in exact], [terms_of(v) for v in exact]
    sizes = [sum(map(abs, t)) for t in terms]
    found = [errors(got[0], values, list(map(abs, values))), errors(got[1], list(map(sum, terms)), sizes)]
    return [e / (1.0 + x.astype(float) ** 2 / 2 if op is ops.gelu else 1.0) for e in found]


ALLOWED = (
    3.0  # units in the last place; for gelu times 1 + x^2 / 2, because of the rounding of exp's argument
)


@each_library
@each_rule
@each_dtype
@pytest.mark.parametrize("op", ACTIVATIONS, ids=lambda op: op.name)
def test_activations_are_right_to_the_last_bits_on_both_tails(op, dtype, rules, library):
    x = points(ACTIVATIONS[op][2][dtype], dtype)
    x = x[x != 0.0]
    with rules():
        for e in errors_of(op, x, value_and_slope(op, x, library)):
            assert e.max() < ALLOWED, f"{e.max():.1f} units at x = {x[e.argmax()]}"


@each_library
@each_rule
@each_dtype
@pytest.mark.parametrize("side", [0, 1], ids=["local", "global"])
def test_gates_are_right_to_the_last_bits_on_both_tails(side, dtype, rules, library):
    x = points(87.0, dtype)
    arrays = [
        np.zeros((1, len(x), 1), dtype),
        np.zeros((1, len(x), 1), dtype),
        np.zeros((1, len(x), 2), dtype),
    ]
    arrays[side] += 1.0  # the context of this side is 1, that of the other is 0
    arrays[2][..., side] = x
    tensors = [Tensor(backend.to(a, library), requires_grad=True) for a in arrays]
    with rules():
        y = sequence.gated_fusion(*tensors)
        y.backward(backend.xp_of(y.data).ones_like(y.data))
    got = backend.to_numpy(y.data).reshape(-1), backend.to_numpy(tensors[2].grad)[0, :, side]
    for e in errors_of(ops.sigmoid, x, got):
        assert e.max() < ALLOWED, f"{e.max():.1f} units at x = {x[e.argmax()]}"


@each_rule
def test_the_logarithm_of_a_tiny_sigmoid(rules):
    x = Tensor(np.array([-40.0, -700.0]), requires_grad=True)
    with rules():
        y = ops.log(ops.sigmoid(x))
    y.backward(np.ones(2))
    np.testing.assert_allclose(y.data, x.data, rtol=1e-15)
    np.testing.assert_allclose(x.grad, 1.0, rtol=1e-15)


@each_library
@each_rule
@each_dtype
@pytest.mark.parametrize("op", ACTIVATIONS, ids=lambda op: op.name)
def test_activations_of_huge_numbers_neither_overflow_nor_warn(op, dtype, rules, library):
    x = np.array([-1.0, 1.0], dtype) * np.finfo(dtype).max
    linear = op not in (ops.sigmoid, ops.tanh)
    with rules():
        y, slope = value_and_slope(op, x, library)
    np.testing.assert_array_equal(y, [-1.0 if op is ops.tanh else 0.0, x[1] if linear else 1.0])
    np.testing.assert_array_equal(slope, [0.0, float(linear)])


TWINS = {"sigmoid": "sigmoid", "tanh": "tanh", "softplus": "nn.functional.softplus",
         "silu": "nn.functional.silu", "gelu": "nn.functional.gelu"}  # fmt: skip


@each_rule
@each_dtype
@pytest.mark.parametrize("op", ACTIVATIONS, ids=lambda op: op.name)
def test_activations_are_as_accurate_as_pytorchs(op, dtype, rules):
    """Or better: PyTorch's slopes of sigmoid and tanh cancel, and so does its gelu."""
    torch = pytest.importorskip("torch")
    x = points(ACTIVATIONS[op][2][dtype], dtype)
    x = x[x != 0.0]
    leaf = torch.tensor(x, requires_grad=True)
    y = attrgetter(TWINS[op.name])(torch)(leaf)
    y.sum().backward()
    theirs = errors_of(op, x, (y.detach().numpy(), leaf.grad.numpy()))
    with rules():
        ours = errors_of(op, x, value_and_slope(op, x, "numpy"))
    for a, b in zip(ours, theirs, strict=True):
        assert a.max() < max(b.max(), ALLOWED)


@each_library
@each_dtype
def test_the_normal_distribution_is_right_to_the_last_bits(dtype, library):
    x = points(12.9 if dtype == "float32" else 37.0, dtype)
    exact = [mpf(float(v)) for v in x]
    got = numeric.normal(backend.get(library), backend.to(x, library))
    for function, z in zip((mpmath.ncdf, mpmath.npdf), got, strict=True):
        want = [function(v) for v in exact]
        assert (errors(backend.to_numpy(z), want, want) / (1.0 + x.astype(float) ** 2 / 2)).max() < ALLOWED


def test_the_ratio_of_mills_is_what_the_fit_gives():
    for name, (degree_p, degree_q, end, digits) in fit_mills_ratio.FITS.items():
        *fitted, last = numeric.mills_ratio(np.dtype(name))
        assert last == end
        for stored, fit in zip(fitted, fit_mills_ratio.fit(degree_p, degree_q, end), strict=True):
            assert stored == tuple(float(mpmath.nstr(a, digits)) for a in reversed(fit))


# --------------------------------------------------------------------------- sums of exponentials


def confident(rng, shape, scale: float) -> np.ndarray:
    """Return logits on top of a large number, each row with one that stands out."""
    z = scale * rng.standard_normal(shape) + 1e3
    z[..., 1] += 12.0
    return z.astype("float32")


def twins(torch) -> list:
    """Return operations, PyTorch's, and their inputs: float32 arrays and targets."""
    F, rng = torch.nn.functional, np.random.default_rng(0)
    targets = np.where(rng.random(200) < 0.5, 1, rng.integers(0, 50, 200))
    logits, x = confident(rng, (200, 50), 2.0), rng.standard_normal((200, 64)).astype("float32")
    head = (0.3 * rng.standard_normal((50, 64))).astype("float32")
    head[:, 0] = x[:, 0] = 30.0  # every logit is 900 and a little
    qkv = (3.0 * rng.standard_normal((2, 150, 3 * 16))).astype("float32")

    def attention(qkv):
        q, k, v = (z.unflatten(-1, (2, 8)).transpose(1, 2) for z in qkv.chunk(3, dim=-1))
        return F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(-2)

    return [
        (ops.softmax, lambda x: F.softmax(x, dim=-1), [logits]),
        (ops.cross_entropy, lambda z, t: F.cross_entropy(z, t, reduction="none"), [logits, targets]),
        (ops.linear_cross_entropy, lambda x, w, t: F.cross_entropy(F.linear(x, w), t), [x, head, targets]),
        (partial(sequence.causal_attention, n_heads=2), attention, [qkv]),
    ]


@each_rule
@pytest.mark.parametrize("which", range(4), ids=["softmax", "cross-entropy", "linear", "attention"])
def test_sums_of_exponentials_are_as_accurate_as_pytorchs(which, rules):
    torch = pytest.importorskip("torch")
    op, twin, arrays = twins(torch)[which]

    def ours(dtype):
        tensors = [Tensor(a.astype(dtype), requires_grad=True) if a.dtype.kind == "f" else a for a in arrays]
        y = op(*tensors)
        y.backward(cotangent(y.data).astype(dtype))
        return [y.data, *(t.grad for t in tensors if isinstance(t, Tensor))]

    def cotangent(y):
        return np.cos(np.arange(y.size)).reshape(y.shape).astype("float32")

    theirs = [torch.tensor(a, requires_grad=a.dtype.kind == "f") for a in arrays]
    y = twin(*theirs)
    y.backward(torch.tensor(cotangent(y.detach().numpy())))
    theirs = [y.detach().numpy(), *(t.grad.numpy() for t in theirs if t.requires_grad)]
    with reference_only():
        exact = ours("float64")
    with rules():
        got = ours("float32")
    for a, b, c in zip(got, theirs, exact, strict=True):
        last_bits = 4.0 * np.finfo(np.float32).eps * np.abs(c).max()
        assert np.abs(a - c).max() <= 1.5 * np.abs(b - c).max() + last_bits


@each_library
@each_rule
def test_a_loss_of_large_logits_keeps_its_digits(rules, library):
    x, weight = np.array([[3e4, 1.0]], "float32"), np.array([[1.0, 0.0], [1.0, -2.0], [1.0, -3.5]], "float32")
    logits, target = x @ weight.T, np.array([0])  # 30000, 29998 and 29996.5, without an error
    want = math.log(1.0 + math.exp(-2.0) + math.exp(-3.5))
    with rules():
        for op, arrays in (
            (ops.cross_entropy, (logits, target)),
            (ops.linear_cross_entropy, (x, weight, target)),
        ):
            loss = op(*(backend.to(a, library) for a in arrays)).data
            assert backend.to_numpy(loss).item() == pytest.approx(want, rel=1e-6)


# ---------------------------------------------------------------------------------------- layer_norm


def normalised(x: np.ndarray, library: str, cotangent: float | np.ndarray = 1.0) -> list[np.ndarray]:
    """Return y, dx, dweight, dbias of layer_norm with weight 3 and bias 0.7."""
    C = x.shape[-1]
    arrays = x, np.full(C, 3.0, x.dtype), np.full(C, 0.7, x.dtype)
    tensors = [Tensor(backend.to(a, library), requires_grad=True) for a in arrays]
    y = ops.layer_norm(*tensors)
    y.backward(backend.to(np.broadcast_to(cotangent, x.shape).astype(x.dtype), library))
    return [backend.to_numpy(z) for z in (y.data, *(t.grad for t in tensors))]


@each_library
@each_rule
@each_dtype
@pytest.mark.parametrize("C", [1, 3, 7, 100, 512, 1000, 4096])
def test_layer_norm_of_a_constant_row_is_the_bias(C, dtype, rules, library):
    values = [0.0, 0.1, 1989.98, -1e6, 123456789.0, 3.3e-20, 1e37]
    x, dy = np.repeat(values, C).reshape(-1, C).astype(dtype), np.cos(np.arange(C))
    with rules():
        y, dx, dweight, dbias = normalised(x, library, dy)
    np.testing.assert_array_equal(y, np.full(x.shape, 0.7, dtype))
    np.testing.assert_array_equal(dweight, 0.0)
    want = 3.0 / np.sqrt(1e-5) * (dy - dy.mean())  # what is left of the derivative: the part through the mean
    np.testing.assert_allclose(dx, np.tile(want, (len(x), 1)), rtol=0.0, atol=1e4 * np.finfo(dtype).eps)
    np.testing.assert_allclose(dbias, len(x) * dy, rtol=1e-5)


def rows_with_an_offset(offset: float) -> np.ndarray:
    x = np.random.default_rng(0).standard_normal((32, 512)) + offset
    x[:4, 0] = 1e4 * (1.0 + offset)  # an entry that is no measure of the others
    return x.astype("float32")


OFFSETS = [0.0, 10.0, 1989.98, -1e6]


@each_library
@each_rule
@pytest.mark.parametrize("offset", OFFSETS)
def test_layer_norm_keeps_its_digits_beside_an_offset(offset, rules, library):
    x, dy = rows_with_an_offset(offset), np.random.default_rng(1).standard_normal((32, 512))
    with reference_only():
        want = normalised(x.astype("float64"), "numpy", dy.astype("float32"))
    with rules():
        got = normalised(x, library, dy)
    for a, b in zip(got, want, strict=True):
        np.testing.assert_allclose(a, b, rtol=0.0, atol=2e-6 * np.abs(b).max())


@each_rule
@pytest.mark.parametrize("offset", OFFSETS)
def test_layer_norm_is_as_accurate_as_pytorchs(offset, rules):
    torch = pytest.importorskip("torch")
    x = rows_with_an_offset(offset)
    with reference_only():
        want = normalised(x.astype("float64"), "numpy")[0]
    with rules():
        ours = normalised(x, "numpy")[0]
    theirs = torch.nn.functional.layer_norm(torch.tensor(x), x.shape[-1:]).numpy() * 3.0 + 0.7
    last_bits = 4.0 * np.finfo(np.float32).eps * np.abs(want).max()
    assert np.abs(ours - want).max() <= np.abs(theirs - want).max() + last_bits
