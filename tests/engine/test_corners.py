"""Corners where other engines had bug reports: threads, aliased gradients, ignored targets."""

import asyncio
import threading
from contextlib import nullcontext

import numpy as np
import pytest
from helpers import fakecuda

from minigam import AdamW, Tensor, no_grad, observing, op, ops, reference_only
from minigam.engine import backend, precision, tensor
from minigam.engine.tensor import ShapeError
from minigam.models.nn import Parameter


def leaf(*shape: int, seed: int = 0) -> Tensor:
    return Tensor(np.random.default_rng(seed).standard_normal(shape), requires_grad=True)


# ------------------------------------------------------------------------------------- threads and contexts


def in_another_thread(function):
    results = []
    thread = threading.Thread(target=lambda: results.append(function()))
    thread.start()
    thread.join()
    return results[0]


def test_no_context_reaches_another_thread():
    with no_grad(), reference_only(), observing(lambda *result: None):
        assert in_another_thread(tensor.state) == tensor.State()
        assert in_another_thread(lambda: (leaf(2) * 2.0).requires_grad)
        assert not (leaf(2) * 2.0).requires_grad


def test_two_threads_lose_no_gradient():
    lost, stop = [], threading.Event()

    def generates():
        while not stop.is_set():
            with no_grad():
                leaf(3) * 2.0

    thread = threading.Thread(target=generates)
    thread.start()
    try:
        for _ in range(400):
            x = leaf(3)
            y = (x * 2.0).sum()
            if not y.requires_grad:
                lost.append(y)
    finally:
        stop.set()
        thread.join()
    assert not lost


@pytest.mark.parametrize("context", [no_grad, reference_only, lambda: observing(print)])
def test_contexts_may_end_in_any_order(context):
    first, second = context(), context()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert tensor.state() != tensor.State()
    second.__exit__(None, None, None)
    assert tensor.state() == tensor.State()


def test_no_context_reaches_another_task():
    async def generates(entered, done):
        with no_grad():
            entered.set()
            await done.wait()

    async def both():
        entered, done = asyncio.Event(), asyncio.Event()
        task = asyncio.create_task(generates(entered, done))
        await entered.wait()
        kept = (leaf(2) * 2.0).requires_grad
        done.set()
        await task
        return kept

    assert asyncio.run(both())


def test_a_precision_holds_for_its_thread_alone(monkeypatch):
    monkeypatch.setattr(precision, "capability", lambda xp: 90)
    with precision.using(np, "tf32"):
        assert precision.current() == "tf32"
        assert in_another_thread(precision.current) == "float32"
    assert precision.current() == "float32"


# ----------------------------------------------------------------------------------- a leaf owns its gradient


@pytest.mark.parametrize(
    "function",
    [
        lambda a, b: (a + b).sum(), lambda a, b: a + b, lambda a, b: a.reshape(-1) + b.reshape(-1),
        lambda a, b: a - (b + b) * 1.0, lambda a, b: a.transpose(1, 0) + b.transpose(1, 0),
    ],
)  # fmt: skip
def test_no_two_leaves_share_a_gradient(function):
    a, b = leaf(2, 3), leaf(2, 3, seed=1)
    y = function(a, b)
    cotangent = np.ones(y.shape)
    y.backward(cotangent)
    for one, other in ((a.grad, b.grad), (a.grad, cotangent), (b.grad, cotangent)):
        assert not np.shares_memory(one, other)


def test_a_leafs_gradient_is_not_the_callers_cotangent():
    a, cotangent = leaf(3), np.ones(3)
    a.backward(cotangent)
    cotangent[:] = 7.0
    np.testing.assert_array_equal(a.grad, np.ones(3))
    a.backward(cotangent)
    np.testing.assert_array_equal(a.grad, np.full(3, 8.0))


def test_backward_after_an_optimizer_step_is_refused():
    parameter = Parameter(np.ones((2, 2)))
    optimizer, x = AdamW([parameter], lr=0.1), Tensor(np.ones((3, 2)))
    loss = ops.linear(x, parameter).sum()
    loss.backward()
    loss.backward()  # nothing has changed
    optimizer.step()
    with pytest.raises(RuntimeError, match="an input of linear changed since the forward pass; redo"):
        loss.backward()
    optimizer.zero_grad()
    ops.linear(x, parameter).sum().backward()  # of the new values


@pytest.mark.parametrize("rules", [reference_only, nullcontext])
def test_a_computed_array_cannot_be_changed_before_the_backward_pass(rules):
    x = leaf(2, 3)
    with rules():
        for y in (x * 2.0, ops.softmax(x), x.reshape(6), x[0], x.transpose(), x.sum()):
            with pytest.raises(ValueError, match="read-only"):
                y.data[...] = 0.0
    x.data[...] = 0.0  # a leaf is the caller's
    with no_grad():
        ops.softmax(x).data[...] = 0.0  # nothing will read it
    ops.softmax(Tensor(np.ones(3))).data[...] = 0.0


def test_an_operation_that_returns_its_input_leaves_it_writable():
    @op
    def same(xp, x):
        return x, lambda dy: (dy,)

    del tensor.OPS["same"]  # where every operation enters itself
    x = leaf(3)
    y = same(x)
    x.data[...] = 1.0
    assert y.data is x.data


def test_a_float16_mean_does_not_overflow():
    assert Tensor(np.ones(70_000, np.float16)).mean().item() == pytest.approx(1.0, rel=0.02)


# ------------------------------------------------------------------------------------------ ignored targets


WRECKS = [-np.inf, np.inf, np.nan]


def with_a_wreck(library: str, wreck: float, dtype: str, ignored: int = 1):
    xp = backend.get(library)
    x = np.random.default_rng(0).standard_normal((4, 3)).astype(dtype)
    targets = np.array([2, 0, 1, 2])
    targets[ignored] = -1
    clean = x.copy()
    x[ignored, 1] = wreck
    return xp, xp.asarray(x), xp.asarray(clean), xp.asarray(targets)


def pass_of(op, xp, x, *others):
    x = Tensor(x, requires_grad=True)
    weights = [Tensor(o, requires_grad=True) if o.dtype.kind == "f" else o for o in others]
    y = op(x, *weights)
    y.backward(xp.ones_like(y.data))
    return [
        backend.to_numpy(z) for z in (y.data, x.grad, *(w.grad for w in weights if isinstance(w, Tensor)))
    ]


@pytest.mark.parametrize("wreck", WRECKS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("library", ["numpy", *fakecuda.DEVICES])
@pytest.mark.parametrize("rules", [reference_only, nullcontext])
def test_an_ignored_target_changes_nothing_whatever_its_row_holds(rules, library, dtype, wreck, monkeypatch):
    if rules is nullcontext and library == "fakegpu":
        fakecuda.install(monkeypatch)
    xp, x, clean, targets = with_a_wreck(library, wreck, dtype)
    with rules():
        loss, dx = pass_of(ops.cross_entropy, xp, x, targets)
        wanted, dclean = pass_of(ops.cross_entropy, xp, clean, targets)
        np.testing.assert_array_equal(loss, wanted)
        np.testing.assert_array_equal(dx, dclean)
        assert loss[1] == 0.0 and not dx[1].any()
        weight = xp.asarray(np.random.default_rng(1).standard_normal((5, 3)).astype(dtype))
        got = pass_of(ops.linear_cross_entropy, xp, x, weight, targets)
        want = pass_of(ops.linear_cross_entropy, xp, clean, weight, targets)
        for a, b in zip(got, want, strict=True):
            np.testing.assert_array_equal(a, b)


def test_a_counted_target_still_shows_what_its_row_holds():
    _, x, _, targets = with_a_wreck("numpy", np.nan, "float64", ignored=1)
    targets[1] = 0
    assert np.isnan(ops.cross_entropy(x, targets).data[1])
    with pytest.raises(ShapeError):
        ops.cross_entropy(x, targets[:2])
