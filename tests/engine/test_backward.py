"""What the backward pass asks of rules and cotangents, and whose array a gradient is."""

import numpy as np
import pytest
from helpers import fakegpu

from minigam import AdamW, observing, ops
from minigam.engine.tensor import ShapeError, Tensor
from minigam.models.nn import Parameter


def leaf(*values: float, dtype: str = "float64") -> Tensor:
    return Tensor(np.array(values, dtype), requires_grad=True)


# ------------------------------------------------------------------------------- what a rule returns


@pytest.mark.parametrize(
    ("dtype", "gradient"),
    [
        ("float64", np.ones(1)),
        ("float64", np.ones((2, 1))),
        ("float64", np.ones(2, "float32")),
        ("float32", np.ones(2, "float64")),
    ],
    ids=lambda g: str(getattr(g, "shape", g)),
)
def test_a_gradient_of_any_wrong_shape_or_dtype_is_reported(new_op, dtype, gradient):
    @new_op
    def careless(xp, x):
        return x * 1.0, lambda dy: (gradient,)

    with pytest.raises(AssertionError, match=r"careless.backward gave \(.*\) float.. for an input of \(2,\)"):
        careless(leaf(1.0, 2.0, dtype=dtype)).backward(np.ones(2))


@pytest.mark.parametrize("gradients", [1, 3])
def test_a_rule_with_too_few_or_too_many_gradients_is_reported(new_op, gradients):
    @new_op
    def miscounted(xp, a, b):
        return a + b, lambda dy: (dy,) * gradients

    with pytest.raises(AssertionError, match=r"miscounted\.backward must return a tuple of 2"):
        miscounted(leaf(1.0), leaf(2.0)).backward()


def test_a_rule_without_a_gradient_for_one_input_does_not_end_the_pass(new_op):
    @new_op
    def first(xp, a, b):
        return a * 1.0, lambda dy: (dy, None)

    a, b = leaf(0.5), leaf(0.5)
    for y in (first(ops.exp(a), ops.exp(b)), first(ops.exp(a), ops.exp(b)) * 1.0):
        a.grad = None
        y.backward()
        np.testing.assert_allclose(a.grad, np.exp([0.5]))
        assert b.grad is None


@pytest.mark.parametrize("home", [False, True])
def test_a_gradient_is_an_array_of_the_leaf_alone(new_op, home):
    """A rule may keep the array that it returns, or return it for two inputs."""
    made = []

    @new_op
    def twice(xp, a, b):
        return a + b, lambda dy: (made.append(1.0 * dy) or made[-1],) * 2

    a, b = leaf(1.0, 2.0), leaf(3.0, 4.0)
    if home:
        a.home, b.home = np.zeros((2, 2))
    for times in (1.0, 2.0):
        twice(a, b).backward(np.ones(2))
        for x, other in ((a, b), (b, a)):
            np.testing.assert_array_equal(x.grad, [times, times])
            assert not any(np.shares_memory(x.grad, array) for array in (other.grad, *made))
            assert (x.grad is x.home) is home


@pytest.mark.parametrize("wrong", [np.zeros(3), np.zeros(2, "float32"), fakegpu.DeviceArray(np.zeros(2))])
def test_a_home_that_does_not_fit_is_left_alone(wrong):
    a = leaf(1.0, 2.0)
    a.home = wrong
    (2.0 * a).backward(np.ones(2))
    np.testing.assert_array_equal(a.grad, [2.0, 2.0])
    assert a.grad is not wrong


# ------------------------------------------------------------------------------- cotangents


@pytest.mark.parametrize("cotangent", [np.ones(2), np.ones(0), np.ones((1, 2))], ids=lambda c: str(c.shape))
def test_one_value_takes_one_number(cotangent):
    with pytest.raises(ShapeError, match=r"cotangent \(.*\), wanted the tensor's \(1,\)"):
        leaf(1.0).backward(cotangent)
    a = leaf(2.0)
    (a * 3.0).backward(cotangent=np.ones((1, 1, 1)))
    np.testing.assert_array_equal(a.grad, [3.0])


def test_nothing_takes_a_cotangent_of_nothing():
    a = Tensor(np.ones((0, 3)), requires_grad=True)
    with pytest.raises(ValueError, match=r"a tensor of \(0, 3\) needs a cotangent"):
        (a * 2.0).backward()
    with pytest.raises(ShapeError, match=r"cotangent \(1,\), wanted the tensor's \(0, 3\)"):
        (a * 2.0).backward(np.ones(1))
    (a * 2.0).backward(np.ones((0, 3)))
    assert a.grad.shape == (0, 3)


def test_booleans_cannot_require_a_gradient():
    with pytest.raises(TypeError, match="bool has no gradient"):
        Tensor(np.array([True, False]), requires_grad=True)


def test_a_pass_after_many_steps_is_not_refused():
    """The versions are compared as numbers, however large."""
    parameter = Parameter(np.ones(2))
    optimizer = AdamW([parameter], lr=1e-3)
    for _ in range(300):
        (parameter * 2.0).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    assert parameter.version == 300


# ------------------------------------------------------------------------------- the tensor


def test_the_innermost_observer_alone_is_told():
    outer, inner = [], []
    with observing(lambda name, *result: outer.append(name)):
        with observing(lambda name, *result: inner.append(name)):
            ops.exp(leaf(1.0))
            with observing(None):
                ops.tanh(leaf(1.0))
        ops.log(leaf(1.0))
    assert (outer, inner) == (["log"], ["exp"])


def test_sums_and_means_drop_their_axes_unless_asked_not_to():
    t = Tensor(np.arange(6.0).reshape(2, 3))
    for f in (t.sum, t.mean):
        assert [f().shape, f(1).shape, f(axis=0).shape, f(1, True).shape] == [(), (2,), (3,), (2, 1)]
    np.testing.assert_array_equal(t.mean(axis=1).data, [1.0, 4.0])
    half = Tensor(np.array([[1.5], [2.5]], "float16"))
    np.testing.assert_array_equal(half.mean(axis=1).data, [1.5, 2.5])


def test_transpose_without_axes_reverses_them_and_shapes_come_as_numbers_or_as_one_tuple():
    t = Tensor(np.arange(24.0).reshape(2, 3, 4))
    np.testing.assert_array_equal(t.transpose().data, t.data.T)
    np.testing.assert_array_equal(t.transpose((2, 0, 1)).data, t.data.transpose(2, 0, 1))
    assert t.reshape(4, 6).shape == t.reshape((4, 6)).shape == t.reshape([4, 6]).shape == (4, 6)
    with pytest.raises(TypeError):
        t.reshape((4, 6), 1)


def test_only_a_computed_tensor_has_a_drawing():
    assert leaf(1.0)._repr_svg_() is None
    assert "<svg" in ops.exp(leaf(1.0))._repr_svg_()
