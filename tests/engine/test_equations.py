"""What single operations do, broadcasting, operators, and errors.

The equation of every operation, as loops, is in helpers/equations.py.
"""

import math
import operator
from contextlib import nullcontext

import numpy as np
import pytest
from hypothesis import given
from hypothesis.extra.numpy import mutually_broadcastable_shapes

from minigam import Tensor, ops, reference_only, sequence
from minigam.engine.tensor import ShapeError

# ------------------------------------------------------------------------------ single operations


def test_layer_norm_gives_the_mean_and_deviation_it_is_told(rng):
    y = ops.layer_norm(7.0 + 3.0 * rng.standard_normal((4, 50)), np.full(50, 2.0), np.full(50, 5.0), eps=0.0)
    np.testing.assert_allclose(y.data.mean(axis=-1), 5.0, rtol=1e-12)
    np.testing.assert_allclose(y.data.std(axis=-1), 2.0, rtol=1e-12)


def test_huge_scores_give_finite_answers(rng):
    scores = np.array([[1e4, 0.0, -1e4]])
    np.testing.assert_array_equal(ops.softmax(scores).data, [[1.0, 0.0, 0.0]])
    np.testing.assert_array_equal(ops.cross_entropy(scores, np.array([2])).data, [2e4])
    memory = rng.standard_normal((3, 4))
    recalled = sequence.associative_memory(1e4 * memory[None, :1], memory).data
    assert np.isfinite(recalled).all()
    np.testing.assert_array_equal(recalled[0, 0], memory[(memory @ memory[0]).argmax()])


@pytest.mark.parametrize("rules", [reference_only, nullcontext])
def test_huge_scores_of_attention_pick_one_value(rules):
    q, k, v = np.full((1, 3, 1), 1e3), np.array([[[1e3], [2e3], [-1e3]]]), np.array([[[1.0], [2.0], [3.0]]])
    with rules():
        y = sequence.causal_attention(np.concatenate([q, k, v], axis=-1), n_heads=1).data
    np.testing.assert_array_equal(y, [[[1.0], [2.0], [2.0]]])


def test_gated_fusion_lets_each_channel_choose(rng):
    local_context, global_context = rng.standard_normal((2, 1, 1, 3))
    gate = np.array([[[40.0, -40.0, 0.0, -40.0, 40.0, 0.0]]])  # open or shut, and in channel 2 half of each
    y = sequence.gated_fusion(local_context, global_context, gate).data[0, 0]
    (a, _, c), (_, e, f) = local_context[0, 0], global_context[0, 0]
    np.testing.assert_allclose(y, [a, e, (c + f) / 2.0], rtol=0.0, atol=1e-14)


def test_dropout_keeps_the_mean_and_repeats_by_key(xp):
    p, ones = 0.3, xp.ones((100, 100))
    y = ops.dropout(ones, p=p, key=(1, 2)).numpy()
    kept = y != 0.0
    np.testing.assert_allclose(y[kept], 1.0 / (1.0 - p))
    assert abs(kept.mean() - (1.0 - p)) < 4.0 * math.sqrt(p * (1.0 - p) / kept.size)  # 4 standard deviations
    np.testing.assert_array_equal(ops.dropout(ones, p=p, key=(1, 2)).numpy(), y)
    assert (ops.dropout(ones, p=p, key=(1, 3)).numpy() != y).any()


# ---------------------------------------------------------------------- broadcasting and operators


@given(shapes=mutually_broadcastable_shapes(num_shapes=2, max_dims=4, max_side=4, min_side=0))
def test_unbroadcast_sums_what_broadcasting_repeated(shapes):
    g = np.random.default_rng(0).standard_normal(shapes.result_shape)
    for shape in shapes.input_shapes:
        size = math.prod(shape)
        source = np.broadcast_to(np.arange(size).reshape(shape), g.shape)  # the entry each one came from
        want = np.bincount(source.ravel(), weights=g.ravel(), minlength=size).reshape(shape)
        np.testing.assert_allclose(ops.unbroadcast(g, shape), want, rtol=0.0, atol=1e-12)


@given(shapes=mutually_broadcastable_shapes(num_shapes=2, max_dims=3, max_side=3))
def test_arithmetic_has_the_gradients_of_calculus(shapes):
    rng = np.random.default_rng(0)
    a, b = (Tensor(rng.uniform(0.5, 2.0, shape), requires_grad=True) for shape in shapes.input_shapes)
    x, y = a.data, b.data
    for f, da, db in (
        (lambda: a + b, 1.0, 1.0),
        (lambda: a - b, 1.0, -1.0),
        (lambda: a * b, y, x),
        (lambda: a / b, 1.0 / y, -x / (y * y)),
    ):
        a.grad = b.grad = None
        c = rng.standard_normal(shapes.result_shape)
        f().backward(c)
        np.testing.assert_allclose(a.grad, ops.unbroadcast(c * da, a.shape), rtol=0.0, atol=1e-12)
        np.testing.assert_allclose(b.grad, ops.unbroadcast(c * db, b.shape), rtol=0.0, atol=1e-12)


@pytest.mark.parametrize("other", ["tensor", "array", "number", "numpy number"])
@pytest.mark.parametrize("name", ["add", "sub", "mul", "truediv"])
def test_operators_take_tensors_arrays_and_numbers_on_either_side(name, other, rng):
    f, x = getattr(operator, name), rng.uniform(1.0, 2.0, (2, 3))
    y = {"number": 1.5, "numpy number": np.float64(1.5)}.get(other, rng.uniform(1.0, 2.0, (2, 3)))
    t, u = Tensor(x, requires_grad=True), Tensor(y) if other == "tensor" else y
    for got, want in ((f(t, u), f(x, y)), (f(u, t), f(y, x))):
        assert isinstance(got, Tensor)
        np.testing.assert_array_equal(got.data, want)


def test_the_other_operators(rng):
    x, y = rng.uniform(1.0, 2.0, (2, 3)), rng.standard_normal((3, 4))
    t = Tensor(x)
    for got, want in (
        (-t, -x),
        (t**2.5, x**2.5),
        (t @ Tensor(y), x @ y),
        (t @ y, x @ y),
        (x @ Tensor(y), x @ y),
        (t[1], x[1]),
        (t[:, None, ::-1], x[:, None, ::-1]),
        (t.sum(), x.sum()),
        (t.sum(axis=1, keepdims=True), x.sum(axis=1, keepdims=True)),
        (t.mean(), x.sum() / 6),
        (t.reshape(3, 2), x.reshape(3, 2)),
        (t.transpose(1, 0), x.T),
    ):
        assert isinstance(got, Tensor)
        np.testing.assert_array_equal(got.data, want)


# ---------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("op", "shapes", "message"),
    [
        (ops.matmul, [(3,), (3, 2)], r"matmul: a \(3,\) and b \(3, 2\), wanted \(..., M, K\)"),
        (ops.matmul, [(2, 3), (2, 3)], r"matmul: a \(2, 3\) and b \(2, 3\)"),
        (ops.linear, [(2, 3), (4, 2)], r"linear: x \(2, 3\) and weight \(4, 2\), wanted"),
        (ops.linear, [(2, 3), (4, 3), (3,)], r"linear: bias \(3,\), wanted \(4,\)"),
        (ops.layer_norm, [(2, 3), (2,), (3,)], r"layer_norm: weight \(2,\), bias \(3,\), wanted \(3,\)"),
        (ops.cross_entropy, [(2, 3), (3,)], r"cross_entropy: targets \(3,\), wanted \(2,\)"),
        (sequence.causal_conv1d, [(1, 2, 3), (2, 3), (3,)], r"causal_conv1d: weight \(2, 3\)"),
        (sequence.causal_conv1d, [(1, 2, 3), (3, 2), (2,)], r"causal_conv1d: .*bias \(2,\), wanted \(3, K\)"),
        (
            sequence.causal_conv1d,
            [(1, 2, 3), (3, 2), (3,), (1, 2, 3)],
            r"past \(1, 2, 3\), wanted \(1, 1, 3\)",
        ),
        (sequence.associative_memory, [(1, 2, 3), (4, 2)], r"associative_memory: u .* memory \(4, 2\)"),
        (
            sequence.gated_fusion,
            [(1, 2, 3), (1, 2, 3), (1, 2, 3)],
            r"gated_fusion: .*gate \(1, 2, 3\), wanted",
        ),
        (sequence.gated_fusion, [(1, 2, 3), (2, 2, 3), (1, 2, 6)], r"global_context \(2, 2, 3\)"),
        (ops.layer_norm, [(2, 3), (2,), (2,)], r"layer_norm: weight \(2,\), bias \(2,\), wanted \(3,\)"),
        (
            ops.linear_cross_entropy,
            [(2, 3), (5, 4), (2,)],
            r"linear_cross_entropy: x \(2, 3\), weight \(5, 4\)",
        ),
        (ops.linear_cross_entropy, [(2, 3), (5, 3), (1,)], r"linear_cross_entropy: .*targets \(1,\)"),
        (ops.linear_cross_entropy, [(2, 3), (5, 3), (3,)], r"linear_cross_entropy: .*targets \(3,\)"),
        (ops.linear_cross_entropy, [(2, 3), (5, 3, 3), (2,)], r"linear_cross_entropy: .*weight \(5, 3, 3\)"),
    ],
)
def test_shapes_that_do_not_fit_are_named(op, shapes, message):
    with pytest.raises(ShapeError, match=message):
        op(*(np.zeros(shape) for shape in shapes))


@pytest.mark.parametrize("past", [(1, 3, 8), (3, 3, 8), (2, 3, 7), (2, 8), (2, 3, 8, 1)], ids=str)
def test_a_past_that_does_not_fit_is_named(past):
    qkv = np.zeros((2, 5, 12))
    assert sequence.causal_attention(qkv, np.zeros((2, 3, 8)), n_heads=2).shape == (2, 5, 4)
    with pytest.raises(ShapeError, match=r"causal_attention: past \(.*\), wanted \(2, P, 8\)"):
        sequence.causal_attention(qkv, np.zeros(past), n_heads=2)


@pytest.mark.parametrize("wrong", range(7))
@pytest.mark.parametrize("by", [-1, 1])
def test_each_argument_of_a_scan_has_its_shape(wrong, by):
    shapes = [(2, 5, 3), (2, 5, 3), (3, 4), (2, 5, 4), (2, 5, 4), (3,), (2, 3, 4)]
    sequence.selective_scan(*map(np.zeros, shapes))
    for axis in range(len(shapes[wrong])):
        changed = list(shapes)
        changed[wrong] = tuple(n + by * (i == axis) for i, n in enumerate(shapes[wrong]))
        with pytest.raises(ShapeError, match=r"selective_scan: .* \(.*\), wanted \(.*\) for x \("):
            sequence.selective_scan(*map(np.zeros, changed))


def test_an_exponent_is_one_number(rng):
    x = Tensor(rng.uniform(1.0, 2.0, 3))
    for one in (2, 2.0, np.float32(2.0), np.array(2.0)):
        np.testing.assert_array_equal((x**one).data, x.data**2.0)
    for other in (np.ones(3), np.ones(1), Tensor(2.0), "2", None):
        with pytest.raises(TypeError, match=r"power: the exponent is a .*, wanted one number"):
            ops.power(x, exponent=other)


@pytest.mark.parametrize("p", [-0.1, 1.0])
def test_dropout_refuses_what_is_no_probability(p):
    with pytest.raises(ValueError, match="dropout: p is"):
        ops.dropout(np.zeros(3), p=p, key=(0,))
