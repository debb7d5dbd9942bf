"""Tensors as a person at the prompt meets them: what NumPy does, or one line that says what to do."""

import inspect
from contextlib import nullcontext

import numpy as np
import pytest

from minigam import Tensor, gradcheck, op, ops, reference_only
from minigam.engine.tensor import OPS
from minigam.gradcheck.cases import CASES

A = np.arange(1.0, 7.0).reshape(2, 3)


def leaf(values=A) -> Tensor:
    return Tensor(values, requires_grad=True)


# --------------------------------------------------------------------------------------- mean, sum, transpose


@pytest.mark.parametrize("axis", [None, 0, 1, -1, (0, 1), np.int64(0), (np.int64(1),)], ids=str)
@pytest.mark.parametrize("keepdims", [False, True])
def test_sum_and_mean_take_any_axis_numpy_takes(axis, keepdims):
    for name in ("sum", "mean"):
        y = getattr(leaf(), name)(axis=axis, keepdims=keepdims)
        np.testing.assert_allclose(y.data, getattr(A, name)(axis=axis, keepdims=keepdims), rtol=1e-15)
        assert gradcheck(lambda x, name=name: getattr(x, name)(axis, keepdims), leaf()) < 1e-9


def test_a_mean_of_nothing_is_nan_as_numpys_is():
    with np.errstate(invalid="ignore"):
        np.testing.assert_array_equal(Tensor(np.zeros((0, 2))).mean(axis=0).data, [np.nan, np.nan])
    assert Tensor(np.zeros((0, 2))).mean(axis=1).shape == (0,)


@pytest.mark.parametrize("axes", [(0, 2), (0, 0), (0,), (0, 1, 2), (5, 0), (-3, 1)], ids=str)
def test_axes_that_do_not_exist_are_refused(axes):
    with pytest.raises(ValueError, match=r"ax[ei]s"):  # NumPy's own words
        leaf().transpose(axes)
    with pytest.raises(ValueError, match="axis"):
        leaf().sum(axis=axes[0] if len(axes) == 1 and axes[0] else 7)


def test_negative_axes_count_from_the_end():
    assert leaf().transpose(-1, 0).shape == (3, 2)
    assert gradcheck(lambda x: x.transpose(-1, 0), leaf()) < 1e-9


# ---------------------------------------------------------------------------------------- what a Tensor holds


@pytest.mark.parametrize("dtype", [">f4", ">f8", "<f8", ">i4"])
def test_any_byte_order_becomes_this_machines(dtype):
    t = Tensor(A.astype(dtype))
    assert t.dtype.isnative and t.dtype == np.dtype(dtype).newbyteorder("=")
    np.testing.assert_array_equal(t.data, A)


@pytest.mark.parametrize(
    "values",
    [[object()], ["1.0"], [1j], np.array([1.0, None]), [Tensor(1.0), Tensor(2.0)], np.zeros(2, "M8[s]")],
)
def test_what_is_no_number_is_refused_when_it_comes(values):
    with pytest.raises(TypeError, match=r"Tensor: .* values, wanted float32 or float64 numbers, or integers"):
        Tensor(values)


# ----------------------------------------------------------------------------------------- integers and lists


@pytest.mark.parametrize("rules", [reference_only, nullcontext])
@pytest.mark.parametrize("case", [c for c in CASES if not c.op.integers and not c.label], ids=str)
def test_integers_alone_are_refused_the_same_by_every_rule(case, rules):
    whole = [a.astype(np.int64) if isinstance(a, np.ndarray) else a for a in case.inputs()]
    with rules(), pytest.raises(TypeError, match=rf"{case.name}: .* is int64.*wanted float32 or float64"):
        case.op(*whole, **case.settings)


@pytest.mark.parametrize("rules", [reference_only, nullcontext])
def test_arithmetic_takes_integers(rules):
    a, b = Tensor([[1, 2], [3, 4]]), Tensor([[5, 6], [7, 8]])
    with rules():
        results = [
            a + b,
            a - b,
            a * b,
            a / b,
            -a,
            a**2,
            a @ b,
            a[0],
            a.sum(),
            a.reshape(4),
            a.transpose(1, 0),
        ]
    x, y = a.data, b.data
    wanted = [x + y, x - y, x * y, x / y, -x, x**2, x @ y, x[0], x.sum(), x.reshape(4), x.T]
    for got, want in zip(results, wanted, strict=True):
        assert got.dtype == want.dtype
        np.testing.assert_array_equal(got.data, want)
    assert {o.name for o in OPS.values() if o.integers} == {
        "add", "sub", "mul", "div", "neg", "power", "matmul", "getitem", "sum", "reshape", "transpose",
    }  # fmt: skip


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("values", [[[1.0, 2.0, 3.0]], [[1, 2, 3]], ((0.5,), (2,))], ids=str)
def test_lists_stand_in_for_arrays_of_the_same_dtype(dtype, values):
    x, array = leaf(A.astype(dtype)), np.array(values, dtype)
    for got, want in (
        (x * values, x.data * array), (values - x, array - x.data), (x / values, x.data / array),
    ):  # fmt: skip
        assert got.dtype == dtype
        np.testing.assert_array_equal(got.data, want)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_matmul_takes_lists_as_mul_does(dtype):
    x, row = leaf(A.astype(dtype)), [[1, 2]]
    y = row @ x @ [[1.0], [0.5], [2.0]]
    assert y.dtype == dtype
    np.testing.assert_allclose(y.data, [[1.0, 2.0]] @ A @ [[1.0], [0.5], [2.0]])
    y.backward(np.ones((1, 1)))
    np.testing.assert_allclose(x.grad, np.outer([1.0, 2.0], [1.0, 0.5, 2.0]))
    for fault in (lambda: x @ [1.0, 2.0, 3.0], lambda: 2.0 @ x):
        with pytest.raises(ValueError, match=r"matmul: .* wanted \(..., M, K\) and \(..., K, N\)"):
            fault()


def test_ids_may_be_a_list():
    np.testing.assert_array_equal(ops.embedding(leaf(), [1, 0]).data, A[[1, 0]])


def test_arrays_may_be_given_by_name():
    x, weight, bias = leaf([1.0, 2.0]), np.array([[3.0, 4.0]]), leaf([5.0])
    y = ops.linear(bias=bias, x=x, weight=weight)
    y.backward(np.ones(1))
    np.testing.assert_array_equal(y.data, [16.0])
    np.testing.assert_array_equal(x.grad, [3.0, 4.0])
    np.testing.assert_array_equal(bias.grad, [1.0])


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: ops.linear(np.ones((2, 2))), "linear: missing a required argument: 'weight'"),
        (lambda: ops.linear(np.ones(2), x=np.ones(2)), "linear: multiple values for argument 'x'"),
        (lambda: ops.exp(np.ones(2), np.ones(2)), "exp: too many positional arguments"),
    ],
)
def test_a_wrong_number_of_arrays_is_told_in_the_callers_words(call, says):
    with pytest.raises(TypeError, match=says):
        call()


def test_a_signature_is_what_a_caller_passes():
    assert str(inspect.signature(ops.linear)) == "(x, weight, bias=None)"
    assert str(inspect.signature(ops.layer_norm)) == "(x, weight, bias, *, eps: float = 1e-05)"


# ----------------------------------------------------------------------------------------------------- powers


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("exponent", [np.float64(2.0), np.float32(0.5), np.int64(3), np.array(2.0), 2, -1.5])
def test_an_exponent_may_be_a_numpy_scalar(dtype, exponent):
    y = leaf(A.astype(dtype)) ** exponent
    assert y.dtype == dtype
    np.testing.assert_allclose(y.data, A ** float(exponent), rtol=1e-6)
    assert gradcheck(lambda x: x**exponent, leaf()) < 1e-7


@pytest.mark.parametrize(
    "exponent", [A, [1.0, 2.0], Tensor(2.0), "2", None, 2j], ids=lambda e: type(e).__name__
)
def test_any_other_exponent_is_refused_at_once(exponent):
    with pytest.raises(TypeError, match=r"power: the exponent is a \w+, wanted one number"):
        leaf() ** exponent


# ---------------------------------------------------------------------------------------- bool, in, iteration


def test_truth_is_that_of_the_one_number():
    assert Tensor(2.0) and Tensor([[1]]) and not Tensor(0.0) and not Tensor([0])
    with pytest.raises(ValueError, match="truth value of an array"):
        bool(leaf())


def test_in_looks_at_the_values():
    assert 3.0 in leaf() and 7.0 not in leaf()
    assert Tensor(3.0) in leaf()


def test_iteration_goes_over_the_first_axis_and_keeps_the_graph():
    x = leaf()
    first, second = x
    np.testing.assert_array_equal(second.data, A[1])
    (first * 2.0).sum().backward()
    np.testing.assert_array_equal(x.grad, [[2.0] * 3, [0.0] * 3])
    with pytest.raises(TypeError):
        iter(Tensor(1.0)).__next__()


# ---------------------------------------------------------------------------------------- a check stands once


def test_a_check_runs_before_whichever_rule_runs(monkeypatch):
    @op
    def halved(xp, x):
        """x / 2."""
        return x * 0.5, lambda dy: (dy * 0.5,)

    ran = []
    halved.faster("numpy")(lambda xp, x: ran.append(x) or halved.rule(xp, x))

    @halved.check
    def _(x):
        if x.ndim != 1:
            raise ValueError(f"halved: x {x.shape}, wanted one axis")

    try:
        for rules in (nullcontext, reference_only):
            with rules(), pytest.raises(ValueError, match=r"halved: x \(2, 3\), wanted one axis"):
                halved(leaf())
        assert not ran
        np.testing.assert_array_equal(halved(leaf(A[0])).data, A[0] / 2)
        assert len(ran) == 1
    finally:
        del OPS["halved"]
