"""How an operation takes its arguments: by position or by name, arrays, lists and numbers, of one dtype."""

import numpy as np
import pytest

from minigam import ops, sequence
from minigam.engine.dispatch import Op
from minigam.engine.tensor import OPS, Tensor


def test_a_call_by_position_does_not_pay_for_names(monkeypatch):
    monkeypatch.setattr(Op, "_by_position", lambda *args: pytest.fail("bound the arguments by name"))
    x, W, b = np.ones((2, 3)), np.ones((4, 3)), np.ones(4)
    for args, settings in (((x, W), {}), ((x, W, b), {}), ((x, W, None), {})):
        assert ops.linear(*args, **settings).shape == (2, 4)
    assert ops.power(x, exponent=2).shape == (2, 3)
    assert sequence.causal_conv1d(np.ones((1, 2, 3)), np.ones((3, 2)), np.ones(3)).shape == (1, 2, 3)


@pytest.mark.parametrize(
    ("args", "named"),
    [((), {"x": 0, "weight": 1, "bias": 2}), ((0,), {"bias": 2, "weight": 1}), ((0, 1), {"bias": 2})],
    ids=str,
)
def test_arrays_by_name_go_where_their_position_is(args, named, rng):
    arrays = [Tensor(rng.standard_normal(s), requires_grad=True) for s in ((2, 3), (4, 3), (4,))]
    want = ops.linear(*arrays)
    got = ops.linear(*(arrays[i] for i in args), **{name: arrays[i] for name, i in named.items()})
    np.testing.assert_array_equal(got.data, want.data)
    got.backward(np.ones((2, 4)))
    assert [a.grad.shape for a in arrays] == [(2, 3), (4, 3), (4,)]


def test_an_omitted_array_gets_no_gradient(rng):
    u, w = (Tensor(rng.standard_normal(s), requires_grad=True) for s in ((1, 4, 3), (3, 2)))
    b = Tensor(rng.standard_normal(3))
    sequence.causal_conv1d(u, weight=w, bias=b).backward(np.ones((1, 4, 3)))
    assert (u.grad.shape, w.grad.shape, b.grad) == ((1, 4, 3), (3, 2), None)

    qkv = Tensor(rng.standard_normal((1, 4, 6)), requires_grad=True)
    sequence.causal_attention(qkv, n_heads=1).backward(np.ones((1, 4, 2)))
    assert qkv.grad.shape == (1, 4, 6)


def test_a_rule_that_changes_the_dtype_is_reported():
    before = dict(OPS)
    try:
        narrow = Op(lambda xp, x: (x.astype("float32"), None))
        wide = Op(lambda xp, x: (x.astype("float64"), None))
    finally:
        OPS.clear()
        OPS.update(before)
    with pytest.raises(TypeError, match="float64 inputs gave float32"):
        narrow(np.ones(2))
    with pytest.raises(TypeError, match="float32 inputs gave float64"):
        wide(np.ones(2, "float32"))


def test_an_operation_knows_its_arrays_and_its_settings():
    assert OPS["linear"].arguments == ("x", "weight", "bias")
    assert OPS["layer_norm"].arguments == ("x", "weight", "bias")  # eps is a setting
    with pytest.raises(TypeError, match=r"linear: missing a required argument: 'weight'; wanted linear\(x, "):
        ops.linear(np.ones((2, 3)))
    with pytest.raises(TypeError, match=r"add: too many positional arguments; wanted add\(a, b\)"):
        ops.add(1.0, 2.0, 3.0)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_integers_that_would_widen_the_result_are_refused(dtype):
    x = Tensor(np.ones(2, dtype))
    for integers in (np.array([1, 2]), np.array([1, 2], np.int32)):
        with pytest.raises(
            TypeError, match=f"mul: {dtype} inputs gave float.*; convert integer arrays first"
        ):
            x * integers


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_lists_and_numbers_take_the_dtype_of_the_arrays(dtype):
    x = Tensor(np.array([1.0, 2.0], dtype))
    for other in ([1.0, 2.0], [1, 2], (1.0, 2.0), 2, 2.0):
        for y in (x * other, other * x, x / other):
            assert y.dtype == dtype
    np.testing.assert_array_equal((x * [3, 4]).data, [3.0, 8.0])
    assert ops.exp([0.0, 0.0]).dtype == "float64"
    assert ops.exp(0.0).shape == ()


def test_integers_alone_stay_integers_where_that_means_something():
    assert (Tensor([1, 2]) + Tensor([3, 4])).dtype.kind == "i"
    with pytest.raises(
        TypeError, match=r"exp: x \(2,\) is int64; wanted float32 or float64; convert it first"
    ):
        ops.exp(np.array([1, 2], np.int64))
