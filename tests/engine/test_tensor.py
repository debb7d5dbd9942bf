"""The tape and the walk back: what is computed, what is kept, what is freed, what is refused."""

import gc
import weakref

import numpy as np
import pytest
from helpers import fakegpu

from minigam import no_grad, ops, reference_only
from minigam.engine.backend import BackendMismatch
from minigam.engine.tensor import OPS, ShapeError, Tensor, observing
from minigam.models.nn import LayerNorm, Linear


def leaf(*values: float) -> Tensor:
    return Tensor(np.array(values), requires_grad=True)


# --------------------------------------------------------------------------------- the walk back


def test_an_input_used_twice_gets_both_gradients():
    a = leaf(2.0, 3.0)
    (a * a).backward(np.array([1.0, 10.0]))
    np.testing.assert_array_equal(a.grad, [4.0, 60.0])


def test_diamond():
    a = leaf(1.0)
    b = a + a
    (b + b).backward()
    np.testing.assert_array_equal(a.grad, [4.0])


def test_a_shared_tensor_is_walked_once():
    """Twelve times a short way and a long one: a walk that followed every path would take 2^12 steps."""
    a, walked = leaf(1.0), []
    y = a
    for _ in range(6):
        y = y + 2.0 * y
        y = 2.0 * y + y
    with observing(lambda name, phase, arrays: walked.append(name)):
        y.backward()
    np.testing.assert_array_equal(a.grad, [3.0**12])
    assert len(walked) == 2 * 12


def test_paths_of_different_length_meet():
    a = leaf(0.5)
    b = ops.exp(a)
    (ops.exp(ops.exp(b)) + b * a).backward()
    e = np.exp(0.5)
    np.testing.assert_allclose(a.grad, [np.exp(np.exp(e)) * np.exp(e) * e + e * 0.5 + e])


def test_backward_twice_adds_the_same_again():
    a = leaf(2.0, 3.0)
    y = ops.exp(a * a)
    y.backward(np.ones(2))
    first = a.grad
    y.backward(np.ones(2))
    np.testing.assert_array_equal(a.grad, 2.0 * first)


def test_gradients_add_up_over_graphs():
    a = leaf(2.0)
    (a * 3.0).backward()
    (a * 4.0).backward()
    np.testing.assert_array_equal(a.grad, [7.0])


def test_only_leaves_that_require_it_get_a_gradient():
    a, constant = leaf(2.0), Tensor([5.0])
    b = a * constant
    (b + 1.0).backward()
    assert (constant.grad, b.grad) == (None, None)
    np.testing.assert_array_equal(a.grad, [5.0])


def test_a_leaf_is_its_own_gradient():
    a = leaf(2.0)
    a.backward()
    np.testing.assert_array_equal(a.grad, [1.0])


def test_leaves_that_share_a_gradient_do_not_share_its_sum():
    """add's rule may return dy itself for both inputs; adding to one must not add to the other."""
    a, b = leaf(1.0), leaf(1.0)
    (a + b).backward()
    (a * 5.0).backward()
    np.testing.assert_array_equal((a.grad, b.grad), [[6.0], [1.0]])


def test_a_rule_that_returns_none_stops_the_walk():
    table = Tensor(np.ones((3, 2)), requires_grad=True)
    ops.embedding(table, Tensor(np.array([0, 0, 2]))).backward(np.ones((3, 2)))
    np.testing.assert_array_equal(table.grad, [[2.0, 2.0], [0.0, 0.0], [1.0, 1.0]])


def test_a_layer_used_twice_before_backward(rng):
    layer, x, y = Linear(3, 3, rng), rng.standard_normal((2, 3)), rng.standard_normal((2, 3))
    layer(layer(Tensor(x))).backward(y)
    W, b = layer.weight.data, layer.bias.data
    dh = y @ W  # the second use, W h + b of h = W x + b
    np.testing.assert_allclose(layer.weight.grad, y.T @ (x @ W.T + b) + dh.T @ x)
    np.testing.assert_allclose(layer.bias.grad, y.sum(axis=0) + dh.sum(axis=0))


def test_backward_sums_of_one_value_take_a_number():
    a = leaf(1.0, 2.0)
    (a * a).sum().backward(10.0)
    np.testing.assert_array_equal(a.grad, [20.0, 40.0])


def test_backward_keeps_the_precision(xp):
    a = Tensor(xp.ones((2, 3), dtype="float32"), requires_grad=True)
    (a * 2.0).sum().backward()
    assert (type(a.grad), a.grad.dtype) == (xp.ndarray, np.float32)


# -------------------------------------------------------------------------------------- memory


def chain(n: int) -> tuple[Tensor, list[weakref.ref]]:
    """exp(-exp(- ... )) of a leaf, and weak references to the array each exp has made and kept."""
    made = []

    def remember(name, phase, arrays):
        if name == "exp":
            made.append(weakref.ref(arrays[0]))

    with observing(remember):
        y = leaf(0.5)
        for _ in range(n):
            y = ops.exp(-y)
    return y, made


def alive(references) -> int:
    return sum(r() is not None for r in references)


@pytest.mark.parametrize("retain_graph", [True, False])
def test_memory_falls_while_the_walk_goes_on(retain_graph):
    y, made = chain(10)
    held = []
    with observing(lambda name, phase, arrays: held.append(alive(made))):
        y.backward(retain_graph=retain_graph)
    if retain_graph:
        assert set(held) == {10}
    else:  # y itself is still ours, and the node in hand keeps one
        assert held == sorted(held, reverse=True)
        assert held[-1] <= 2
        assert alive(made) == 1


def test_a_value_that_no_rule_kept_goes_while_its_graph_lives_on():
    a, made = leaf(1.0), []
    with observing(lambda name, phase, arrays: made.append(weakref.ref(arrays[0]))):
        y = ops.gelu(a) + 1.0  # a sum keeps no value
    assert [r() is not None for r in made] == [False, True]
    y.backward()
    assert a.grad is not None


def test_a_released_graph_is_not_walked_again():
    a = leaf(2.0)
    b = ops.exp(a)
    y, z = b * 3.0, b * 4.0
    y.backward(retain_graph=False)
    for again in (y, z):  # z shares what y's walk released
        with pytest.raises(RuntimeError, match="released by backward"):
            again.backward()
    np.testing.assert_allclose(a.grad, 3.0 * np.exp([2.0]))


def test_a_graph_goes_with_its_last_tensor_without_the_collector():
    gc.disable()
    try:
        y, made = chain(10)
        y.backward()
        assert alive(made) == 10
        del y
        assert alive(made) == 0
    finally:
        gc.enable()


def test_a_chain_of_100_000_neither_recurses_forward_nor_backward_nor_when_freed():
    a = leaf(1.0)
    y = a
    for _ in range(100_000):
        y = -y
    y.backward()
    np.testing.assert_array_equal(a.grad, [1.0])
    end = weakref.ref(y)
    del y
    assert end() is None


# ------------------------------------------------------------------------------------ contexts


def test_no_grad_keeps_no_tape():
    a = leaf(1.0)
    with no_grad():
        y = ops.exp(a)
    assert (y.node, y.requires_grad) == (None, False)
    assert ops.exp(a).requires_grad


def test_no_tape_where_no_input_requires_a_gradient():
    y = ops.exp(Tensor([1.0]))
    assert (y.node, y.requires_grad) == (None, False)


def test_contexts_end_with_an_error_and_nest():
    a = leaf(1.0)
    with pytest.raises(ZeroDivisionError), no_grad():
        with reference_only():
            assert not ops.exp(a).requires_grad
        assert not ops.exp(a).requires_grad
        raise ZeroDivisionError
    assert ops.exp(a).requires_grad


def test_reference_only_switches_faster_rules_off(new_op):
    @new_op
    def double(xp, x):
        return 2.0 * x, lambda dy: (2.0 * dy,)

    @double.faster("numpy")
    def shift(xp, x):
        return x + x, lambda dy: (dy + dy + 1.0,)  # so that the two can be told apart

    assert OPS["double"] is double
    a = leaf(3.0)
    double(a).backward()
    np.testing.assert_array_equal(a.grad, [3.0])
    a.grad = None
    with reference_only():
        double(a).backward()
    np.testing.assert_array_equal(a.grad, [2.0])


def test_a_faster_rule_serves_its_own_library_only(new_op):
    @new_op
    def double(xp, x):
        return 2.0 * x, lambda dy: (2.0 * dy,)

    double.faster("numpy")(lambda xp, x: pytest.fail("a NumPy rule met another library's array"))
    double(Tensor(fakegpu.xp.ones(2)))


def test_observing_sees_every_result_in_order():
    seen = []
    with observing(lambda name, phase, arrays: seen.append((name, phase, [a.shape for a in arrays]))):
        a = Tensor(np.ones((2, 3)), requires_grad=True)
        (ops.exp(a) * 2.0).sum().backward()
    assert [(name, phase) for name, phase, _ in seen] == [
        ("exp", "forward"),
        ("mul", "forward"),
        ("sum", "forward"),
        ("sum", "backward"),
        ("mul", "backward"),
        ("exp", "backward"),
    ]
    assert seen[0][2] == seen[-1][2] == [(2, 3)]
    count = len(seen)
    ops.exp(a)
    assert len(seen) == count


# -------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("gradient", "message"),
    [
        (np.ones(3), r"careless.backward gave \(3,\) float64 for an input of \(2,\) float64"),
        (np.ones(2, np.float32), r"gave \(2,\) float32 for an input of \(2,\) float64"),
    ],
)
def test_a_gradient_of_the_wrong_shape_or_dtype_is_reported(new_op, gradient, message):
    @new_op
    def careless(xp, x):
        return x * 1.0, lambda dy: (gradient,)

    with pytest.raises(AssertionError, match=message):
        careless(leaf(1.0, 2.0)).backward(np.ones(2))


def test_a_rule_that_forgets_an_input_is_reported(new_op):
    @new_op
    def forgetful(xp, a, b):
        return a + b, lambda dy: (dy,)

    with pytest.raises(AssertionError, match=r"forgetful\.backward must return a tuple of 2"):
        forgetful(leaf(1.0), leaf(2.0)).backward()


def test_mixed_dtypes_are_named():
    x, weight = np.zeros((2, 3), np.float32), np.zeros((4, 3))
    with pytest.raises(TypeError, match=r"linear: x \(2, 3\) is float32, weight \(4, 3\) is float64"):
        ops.linear(Tensor(x), Tensor(weight))
    with pytest.raises(TypeError, match=r"b .* is float64"):
        Tensor(x) * np.float64(2.0)  # a NumPy number would make everything float64; a Python number does not


def test_mixed_libraries_are_named():
    """The operation, the arguments, their shapes, their libraries and the way out."""
    x, weight = np.zeros((2, 3)), fakegpu.xp.zeros((4, 3))
    with pytest.raises(BackendMismatch) as e:
        ops.linear(Tensor(x), Tensor(weight))
    assert str(e.value) == (
        "linear: x (2, 3) is numpy, weight (4, 3) is fakegpu; move one with .to('numpy') or .to('cupy')"
    )
    with pytest.raises(BackendMismatch, match=r"linear: x .*, bias \(4,\) is fakegpu"):
        ops.linear(x, x, fakegpu.xp.zeros(4))
    with pytest.raises(
        BackendMismatch, match=r"backward: tensor \(2,\) is numpy, cotangent \(2,\) is fakegpu"
    ):
        leaf(1.0, 2.0).backward(fakegpu.xp.zeros(2))


def test_backward_needs_a_fitting_cotangent():
    a = leaf(1.0, 2.0)
    with pytest.raises(ValueError, match=r"a tensor of \(2,\) needs a cotangent"):
        a.backward()
    for wrong in (np.ones(3), np.ones((1, 2)), 1.0):
        with pytest.raises(ShapeError, match=r"cotangent .*, wanted the tensor's \(2,\)"):
            a.backward(wrong)
    with pytest.raises(RuntimeError, match="no input of this tensor requires a gradient"):
        Tensor([1.0]).backward()


def test_what_has_no_gradient_cannot_require_one():
    with pytest.raises(TypeError, match="int64 has no gradient"):
        Tensor(np.array([1, 2]), requires_grad=True)
    with pytest.raises(TypeError, match="got a Tensor"):
        Tensor(leaf(1.0))


# --------------------------------------------------------------------------------- the tensor


def test_a_tensor_shows_its_array(xp):
    x = np.arange(6.0).reshape(2, 3)
    t = Tensor(xp.asarray(x), requires_grad=True, name="x")
    assert (t.shape, t.ndim, t.dtype, len(t)) == ((2, 3), 2, np.float64, 2)
    np.testing.assert_array_equal(t.numpy(), x)
    assert t.sum().item() == x.sum()
    assert "float64, requires_grad" in repr(t)
    assert "op=exp" in repr(ops.exp(t))


def test_numpy_and_detach_share_the_values_not_the_graph():
    t = leaf(1.0)
    assert t.numpy() is t.data
    d = ops.exp(t).detach()
    assert (d.node, d.requires_grad) == (None, False)


def test_to_moves_and_makes_a_leaf():
    t = Tensor(np.arange(3.0), requires_grad=True, name="x")
    there = ops.exp(t).to("fakegpu")
    assert isinstance(there.data, fakegpu.DeviceArray)
    assert there.node is None
    back = t.to("fakegpu").to("numpy")
    assert (back.requires_grad, back.name) == (True, "x")
    np.testing.assert_array_equal(back.data, t.data)


def test_a_layer_runs_where_its_parameters_are(xp):
    layer = LayerNorm(3).to(xp.__name__)
    layer(Tensor(xp.ones((2, 3)))).backward(xp.ones((2, 3)))
    assert {type(a) for p in layer.parameters() for a in (p.data, p.grad)} == {xp.ndarray}


def test_every_operation_says_what_it_does():
    assert [name for name, o in OPS.items() if not o.__doc__] == []
    assert repr(ops.linear) == "<op linear(x, weight, bias=None)>"
