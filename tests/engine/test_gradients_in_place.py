"""On a GPU a rule writes or adds the gradient of a parameter straight into the optimizer's array."""

import numpy as np
import pytest
from helpers import fakecuda, fakegpu
from helpers.fakecuda import each_device
from helpers.launches import MODELS, launches

from minigam import backend, ops
from minigam.config import WRITTEN_LABEL
from minigam.engine.cuda.gradients import place_for
from minigam.engine.tensor import Tensor, observing
from minigam.models.nn import Parameter
from minigam.training.optim import AdamW


@pytest.fixture(autouse=True)
def emulated(monkeypatch):
    fakecuda.install(monkeypatch)


def parameters(library: str, *shapes: tuple[int, ...]) -> list[Parameter]:
    rng = np.random.default_rng(0)
    made = [Parameter(backend.to(rng.standard_normal(shape), library)) for shape in shapes]
    AdamW(made)
    return made


@each_device
def test_the_gradient_is_in_the_optimizers_array_and_the_second_pass_adds(library):
    x = backend.to(np.random.default_rng(1).standard_normal((5, 3)), library)
    weight, bias = parameters(library, (4, 3), (4,))
    for times in (1, 2):
        ops.linear(x, weight, bias).sum().backward()
        for p, want in ((weight, backend.to_numpy(x).sum(axis=0) * np.ones((4, 1))), (bias, np.full(4, 5.0))):
            assert p.grad is p.home
            np.testing.assert_allclose(backend.to_numpy(p.grad), times * want, rtol=1e-12)


@each_device
def test_a_parameter_used_twice_gets_the_sum(library):
    x = backend.to(np.random.default_rng(1).standard_normal((5, 3)), library)
    weight, bias = parameters(library, (3, 3), (3,))
    ops.linear(ops.linear(x, weight), weight).sum().backward()  # by two operations
    w, x_, dy = weight.numpy(), backend.to_numpy(x), np.ones((5, 3))
    want = dy.T @ (x_ @ w.T) + (dy @ w).T @ x_
    np.testing.assert_allclose(backend.to_numpy(weight.grad), want, rtol=1e-12)
    ops.layer_norm(x, bias, bias).sum().backward()  # twice by one operation
    normed = (x_ - x_.mean(axis=1, keepdims=True)) / np.sqrt(x_.var(axis=1, keepdims=True) + 1e-5)
    np.testing.assert_allclose(backend.to_numpy(bias.grad), normed.sum(axis=0) + 5.0, rtol=1e-9)


@each_device
def test_a_gradient_that_comes_back_as_a_cotangent_is_added_as_any_other(library):
    (p,) = parameters(library, (3,))
    p.backward(backend.to(np.arange(3.0), library))
    p.backward(p.grad)
    (p + 0.0).backward(p.grad)
    np.testing.assert_array_equal(backend.to_numpy(p.grad), 4 * np.arange(3.0))


@each_device
def test_one_parameter_as_two_inputs_gets_both_gradients(library):
    (p,) = parameters(library, (3, 3))
    ops.linear(p, p).sum().backward()
    w, dy = p.numpy(), np.ones((3, 3))
    np.testing.assert_allclose(backend.to_numpy(p.grad), dy @ w + dy.T @ w, rtol=1e-12)


@each_device
def test_what_is_detached_gets_no_gradient(library):
    """It has the parameter's own array."""
    x = backend.to(np.ones((5, 3)), library)
    (weight,) = parameters(library, (4, 3))
    ops.linear(Tensor(x, requires_grad=True), weight.detach()).sum().backward()
    assert weight.grad is None
    ops.linear(x, weight).sum().backward()
    ops.linear(Tensor(x, requires_grad=True), weight.detach()).sum().backward()
    np.testing.assert_array_equal(backend.to_numpy(weight.grad), np.full((4, 3), 5.0))


@each_device
def test_an_exception_in_a_rule_leaves_no_trace(library, monkeypatch):
    x = backend.to(np.ones((5, 3)), library)
    (weight,) = parameters(library, (4, 3))

    def look(*_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), observing(look):
        ops.linear(x, weight).sum().backward()
    with pytest.raises(KeyboardInterrupt):
        y = ops.linear(x, weight).sum()
        with observing(look):
            y.backward()
    ops.linear(x, weight).sum().backward()
    np.testing.assert_array_equal(backend.to_numpy(weight.grad), np.full((4, 3), 5.0))
    assert weight.grad is weight.home


@each_device
def test_a_gradient_set_by_the_user_is_added_to(library):
    (weight,) = parameters(library, (4, 3))
    weight.grad = backend.to(np.ones((4, 3)), library)
    ops.linear(backend.to(np.ones((5, 3)), library), weight).sum().backward()
    np.testing.assert_array_equal(backend.to_numpy(weight.grad), np.full((4, 3), 6.0))


@each_device
def test_a_transposed_parameter_has_no_place_of_its_own(library):
    """Its address and shape are those of the parameter."""
    (weight,) = parameters(library, (3, 3))
    x = backend.to(np.random.default_rng(1).standard_normal((5, 3)), library)
    ops.linear(x, weight.transpose()).sum().backward()
    want = np.ones((5, 3)).T @ backend.to_numpy(x)
    np.testing.assert_allclose(backend.to_numpy(weight.grad), want.T, rtol=1e-12)


def test_a_leaf_without_an_optimizer_gets_a_new_array():
    weight = Tensor(fakegpu.xp.ones((4, 3), dtype="float64"), requires_grad=True)
    place, add = place_for(fakegpu.xp, weight.data)
    assert (place.shape, add) == ((4, 3), 0)
    assert not np.shares_memory(place._host, weight.data._host)


# Launches of a step of six layers
MOST = {"GAM": 260, WRITTEN_LABEL: 397, "Transformer": 295, "Mamba": 433}


@fakecuda.needs_compiler
@pytest.mark.parametrize("name", MODELS)
def test_a_step_asks_the_device_no_more_often_than_this(name):
    assert launches(name).total() <= MOST[name]
