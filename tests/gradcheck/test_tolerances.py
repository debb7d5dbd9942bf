"""The numbers of a gradient check: steps, random cotangent, tolerances, and the error it returns."""

import inspect

import numpy as np
import pytest

from minigam import Tensor, gradcheck, ops
from minigam.engine.dispatch import op
from minigam.engine.tensor import OPS
from minigam.gradcheck import differences


def leaf(*values: float) -> Tensor:
    return Tensor(np.array(values), requires_grad=True)


@pytest.fixture
def scaled_by():
    """Make an operation a x + b whose gradients are off by these factors; it remembers the cotangents."""
    before = dict(OPS)

    def make(*factors, slopes=(1.0, 1.0)):
        cotangents = []

        @op
        def line(xp, a, b):
            def backward(dy):
                cotangents.append(dy)
                return tuple(f * s * dy for f, s in zip(factors, slopes, strict=True))

            return slopes[0] * a + slopes[1] * b, backward

        return line, cotangents

    yield make
    OPS.clear()
    OPS.update(before)


def test_the_defaults_are_those_of_the_docstring():
    parameters = inspect.signature(gradcheck).parameters.items()
    defaults = {name: p.default for name, p in parameters if p.default is not p.empty}
    assert defaults == {"eps": 1e-5, "rtol": 1e-6, "atol": 1e-9, "seed": 0, "directions": None}


def test_differences_take_one_step_to_either_side_of_every_entry():
    x, seen = leaf(1.0, -2.0), []

    def loss():
        seen.append(x.data.tolist())
        return float((x.data**2).sum())

    np.testing.assert_allclose(
        differences(loss, x, 0.25), [2.0, -4.0]
    )  # exact for a square, whatever the step
    assert seen == [[1.25, -2.0], [0.75, -2.0], [1.0, -1.75], [1.0, -2.25]]


@pytest.mark.parametrize("directions", [None, 1, 3])
def test_a_check_calls_the_function_twice_for_every_entry_or_direction(directions):
    calls, x = [], leaf(1.0, 2.0, 3.0)

    def square(x):
        calls.append(x.data.copy())
        return x * x

    gradcheck(square, x, directions=directions, eps=2.0**-10)
    assert len(calls) == 1 + 2 * (directions or 3)
    for plus, minus in zip(calls[1::2], calls[2::2], strict=True):
        np.testing.assert_allclose(plus + minus, 2.0 * calls[0], rtol=1e-15)
        assert np.linalg.norm(plus - minus) == pytest.approx(2.0 * 2.0**-10)  # a direction has length 1


@pytest.mark.parametrize("seed", [0, 5])
def test_the_cotangent_is_drawn_from_the_seed(seed, scaled_by):
    line, cotangents = scaled_by(1.0, 1.0)
    gradcheck(line, leaf(1.0, 2.0), leaf(3.0, 4.0), **({"seed": seed} if seed else {}))
    np.testing.assert_array_equal(cotangents[0], np.random.default_rng(seed).standard_normal(2))


@pytest.mark.parametrize("directions", [None, 2])
def test_an_error_within_the_tolerance_passes_and_is_returned(directions, scaled_by):
    a, b = leaf(1.0, 2.0), leaf(3.0, 4.0)
    for factor in (1.0009, 0.9991):
        line, _ = scaled_by(factor, factor)
        assert gradcheck(line, a, b, rtol=1e-3, directions=directions) == pytest.approx(9e-4, rel=1e-3)
    for factor in (1.0011, 0.9989):
        line, _ = scaled_by(factor, factor)
        with pytest.raises(AssertionError, match=r"error \d\.\de-0\d, allowed \d\.\de-0\d"):
            gradcheck(line, a, b, rtol=1e-3, directions=directions)


@pytest.mark.parametrize("factors", [(1.02, 1.01), (1.01, 1.02), (1.02, 1.0)], ids=str)
def test_the_worst_input_is_returned(factors, scaled_by):
    line, _ = scaled_by(*factors)
    assert gradcheck(line, leaf(1.0, 2.0), leaf(3.0, 4.0), rtol=0.1) == pytest.approx(0.02, rel=1e-3)


@pytest.mark.parametrize("directions", [None, 1])
def test_of_a_tiny_gradient_the_error_is_relative_to_the_tolerances(directions, scaled_by):
    """Below atol / rtol the absolute tolerance is the larger one."""
    line, _ = scaled_by(3.0, 3.0, slopes=(1e-7, 1e-7))
    (c,) = np.random.default_rng(0).standard_normal(1)
    a, b = leaf(1.0), leaf(2.0)
    error = gradcheck(line, a, b, atol=1e-6, rtol=1e-3, directions=directions, eps=1e-2)
    d = np.array([1.0])
    if directions:
        rng = np.random.default_rng(0)
        rng.standard_normal(1)
        d = np.array([rng.standard_normal(1)[0] for _ in range(2)])
        d = np.array([d.sum() / np.linalg.norm(d)])
    assert error == pytest.approx(2e-7 * abs(c * d[0]) / (1e-6 / 1e-3), rel=1e-5)
    with pytest.raises(AssertionError):
        gradcheck(line, a, b, atol=1e-8, rtol=1e-3, directions=directions, eps=1e-2)


def test_the_message_names_the_input_the_entry_and_both_numbers(scaled_by):
    line, _ = scaled_by(1.0, 2.0)
    (c,) = np.random.default_rng(0).standard_normal(1)
    with pytest.raises(
        AssertionError, match=rf"input 1 \(1,\), entry \(0,\): backward {2 * c:.6}\d*, numeric {c:.6}"
    ):
        gradcheck(line, leaf(1.0), leaf(2.0))


def test_nothing_to_check_has_no_error():
    assert gradcheck(ops.exp, Tensor(np.ones((0, 3)), requires_grad=True)) == 0.0


def test_the_gradient_of_the_check_is_left_in_the_inputs(scaled_by):
    line, cotangents = scaled_by(1.0, 1.0, slopes=(2.0, 3.0))
    a, b = leaf(1.0), leaf(2.0)
    gradcheck(line, a, b)
    np.testing.assert_allclose([a.grad, b.grad], [2.0 * cotangents[0], 3.0 * cotangents[0]])


@pytest.mark.parametrize("dtype", ["float16", "float32", "longdouble"])
def test_only_float64_is_checked(dtype):
    if np.dtype(dtype) == np.float64:
        pytest.skip("this system has no floats longer than float64")
    with pytest.raises(TypeError, match="wanted float64"):
        gradcheck(ops.exp, Tensor(np.ones(2, dtype), requires_grad=True))
