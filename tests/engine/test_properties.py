"""Properties that every operation has for any arguments: shapes, layouts in memory, dtypes, sizes of numbers.

Random arguments and the equations, as loops, are in helpers/equations.py: one entry per operation makes
every property here.
"""

import math
from contextlib import nullcontext

import numpy as np
import pytest
from helpers.equations import CURVES
from helpers.examples import EQUATIONS, Draw, examples
from helpers.rules import small_blocks
from hypothesis import given, reject
from hypothesis import strategies as st

from minigam import gradcheck, ops, reference_only
from minigam.engine.tensor import OPS, Tensor

each_equation = pytest.mark.parametrize("equation", EQUATIONS, ids=str)
dtypes = st.sampled_from(["float32", "float64"])
PRECISION = {"float32": 1e-5, "float64": 2e-12}


def leaves(arrays: list, dtype: str | None = None) -> list:
    """Make Tensors that require a gradient of all float arrays, in this dtype."""
    return [
        Tensor(a if dtype is None else a.astype(dtype), requires_grad=True)
        if isinstance(a, np.ndarray) and a.dtype.kind == "f"
        else a
        for a in arrays
    ]


def assert_within(got: np.ndarray, want: np.ndarray, dtype: str, scale: float, error: float = 0.0) -> None:
    """Compare within the precision of the dtype, relative to the largest entry or to `scale`."""
    assert (got.shape, got.dtype) == (np.shape(want), dtype)
    largest = np.abs(want).max(initial=scale)
    allowed = PRECISION[dtype] * largest + 32.0 * np.finfo(dtype).smallest_subnormal
    np.testing.assert_allclose(got, want, rtol=0.0, atol=allowed + error)


def test_every_operation_has_an_equation():
    assert sorted(map(str, EQUATIONS)) == sorted(OPS)


@each_equation
@given(data=st.data(), dtype=dtypes)
def test_every_rule_gives_what_the_equation_says(equation, data, dtype):
    example = data.draw(examples(equation, dtype))
    for rules in (reference_only, nullcontext):
        with rules():
            y = equation.op(*example.arrays, **example.settings).data
        assert_within(y, example.want, dtype, example.factor)


@each_equation
@given(data=st.data())
def test_every_gradient_equals_finite_differences(equation, data):
    example = data.draw(examples(equation, "float64", extreme=False))
    tensors = leaves([a.copy() if isinstance(a, np.ndarray) else a for a in example.arrays])  # writeable
    inputs = [t for t in tensors if isinstance(t, Tensor)]
    if inputs:
        with reference_only():
            # A small step: the norm of an almost constant row has a large curvature.
            gradcheck(lambda *_: equation.op(*tensors, **example.settings), *inputs,
                      eps=1e-6, rtol=1e-5, atol=1e-7, directions=2)  # fmt: skip


def value_and_gradients(example, tensors: list, cotangent: np.ndarray) -> list:
    y = example.op(*tensors, **example.settings)
    y.backward(cotangent.astype(y.dtype))
    return [y.data, *(t.grad for t in tensors if isinstance(t, Tensor))]


@pytest.mark.parametrize("equation", [e for e in EQUATIONS if "numpy" in e.op.fast], ids=str)
@given(data=st.data(), dtype=dtypes, tiled=st.booleans())
def test_faster_rules_equal_the_reference_and_no_rule_changes_its_inputs(equation, data, dtype, tiled):
    example = data.draw(examples(equation, dtype))
    before = [np.copy(a) for a in example.arrays if a is not None]
    cotangent = np.random.default_rng(0).standard_normal(np.shape(example.want))
    cotangent.setflags(write=False)
    with pytest.MonkeyPatch.context() as patch:
        if tiled:
            small_blocks(patch)
        faster = value_and_gradients(example, leaves(example.arrays), cotangent)
    with reference_only():
        own = value_and_gradients(example, leaves(example.arrays), cotangent)
        exact = value_and_gradients(example, leaves(example.arrays, "float64"), cotangent)
    floats = [isinstance(a, np.ndarray) and a.dtype.kind == "f" for a in example.arrays]
    scales = [example.factor, *np.compress(floats, example.factors)]
    for got, rough, want, scale in zip(faster, own, exact, scales, strict=True):
        assert_within(got, want, dtype, scale, error=2.0 * np.abs(rough - want).max(initial=0.0))
    for a, b in zip((a for a in example.arrays if a is not None), before, strict=True):
        np.testing.assert_array_equal(a, b)


@each_equation
@given(data=st.data())
def test_empty_axes_answer_or_refuse_the_same_in_every_rule(equation, data):
    try:
        arrays, settings = equation.arguments(Draw(data.draw, empty=True))
    except (ValueError, IndexError):  # no id is below 0
        reject()
    outcomes = []
    for rules in (reference_only, nullcontext):
        tensors = leaves([np.asarray(a) if isinstance(a, np.generic) else a for a in arrays])
        with rules():
            try:
                y = equation.op(*tensors, **settings)
                gradients = y.backward(np.ones(y.shape)) or [t.grad for t in tensors if isinstance(t, Tensor)]
                outcomes.append([y.data, *gradients])
            except ValueError as e:  # ShapeError is one
                outcomes.append(str(e))
            except RuntimeWarning:  # the mean of no loss is not a number
                outcomes.append("nan")
    got, want = outcomes
    if isinstance(want, str):
        assert got == want
    else:
        for a, b in zip(got, want, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12)


# ------------------------------------------------------------------------- numbers at the edges


def edges(op, dtype: str) -> st.SearchStrategy:
    """Lists of numbers of this dtype: huge, tiny, denormal, and infinite where the curve goes on so far."""
    curve, largest = CURVES[op], float(np.finfo(dtype).max)
    low, high = max(curve.low, -largest), min(curve.high, largest)
    finite = st.floats(float(np.array(low, dtype)), float(np.array(high, dtype)), width=int(dtype[-2:]))
    ends = [v for v in (curve.low, curve.high) if math.isinf(v)]
    special = [
        v for v in (0.0, -0.0, 1e-45, -1e-45, 1e-8, -17.0, -20.0, -40.0, 88.0, -100.0) if low <= v <= high
    ]
    return st.lists(finite | st.sampled_from([*special, *ends]), min_size=1, max_size=8)


@pytest.mark.parametrize("op", CURVES, ids=lambda op: op.name)
@pytest.mark.parametrize("rules", [reference_only, nullcontext], ids=["reference", "faster"])
@given(data=st.data(), dtype=dtypes)
def test_curves_and_their_slopes_are_accurate_at_the_edges(op, rules, data, dtype):
    numbers = np.array(data.draw(edges(op, dtype)), dtype)
    x = Tensor(numbers, requires_grad=True)
    with rules():
        y = op(x)
        y.backward(np.ones_like(numbers))
    values = [(CURVES[op].value(v),) for v in numbers.tolist()]
    for got, terms in ((y.data, values), (x.grad, [CURVES[op].slope(v) for v in numbers.tolist()])):
        assert got.dtype == dtype
        for v, a, parts in zip(numbers.tolist(), got.tolist(), terms, strict=True):
            if math.isinf(sum(parts)):
                assert a == sum(parts)
                continue
            units = 8.0 + (v * v if op is ops.gelu else 0.0)  # in the last place of the largest part
            denormal = 4.0 * max(1.0, abs(v)) * float(np.finfo(dtype).smallest_subnormal)
            allowed = units * float(np.finfo(dtype).eps) * sum(map(abs, parts)) + denormal
            assert abs(a - sum(parts)) <= allowed, (v, a, parts)
