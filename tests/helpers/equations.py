"""Every operation a second time: loops over the numbers of its equation, and what arguments it takes."""

import math
import operator
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra.numpy import basic_indices, mutually_broadcastable_shapes

from helpers.examples import Draw, equation
from minigam import ops, sequence
from minigam.engine.dispatch import Op
from minigam.engine.masks import keep_mask

# --------------------------------------------------------------------------------- writing loops


def each(shape: tuple[int, ...], f: Callable[..., float]) -> np.ndarray:
    """Return the array with f(i, j, ...) at every place i, j, ..."""
    y = np.empty(shape)
    for i in np.ndindex(*shape):
        y[i] = f(*i)
    return y


def each_row(x: np.ndarray, f: Callable[..., Any], *others: np.ndarray) -> np.ndarray:
    """Return the array of f(row of x, entry of each other), which is a row or a number."""
    y = [f(x[i].tolist(), *(other[i] for other in others)) for i in np.ndindex(*x.shape[:-1])]
    width = (x.shape[-1],) if not others else ()
    return np.reshape(np.array(y, dtype=np.float64), (*x.shape[:-1], *width))


def dot(*vectors) -> float:
    return math.fsum(math.prod(numbers) for numbers in zip(*vectors, strict=True))


def softmax_of(row: list[float]) -> list[float]:
    e = [math.exp(v - max(row)) for v in row]
    return [v / math.fsum(e) for v in e]


def sigmoid_of(v: float) -> float:
    return 1.0 / (1.0 + math.exp(-v)) if v >= 0.0 else math.exp(v) / (1.0 + math.exp(v))


# ----------------------------------------------------------------------------------- arithmetic


def pair(d: Draw) -> tuple[list, dict]:
    """Two arrays that broadcast, or an array and a number. The second has no zero: it may be a divisor."""
    shapes = d.any(mutually_broadcastable_shapes(num_shapes=2, max_dims=3, max_side=3, min_side=0))
    a, b = (d.array(*shapes.input_shapes[0]), d.positive(*shapes.input_shapes[1]) * d.one_of(-1.0, 1.0))
    number = d.one_of(None, None, "a", "b")
    return [1.25 if number == "a" else a, -0.5 if number == "b" else b], {}


def binary(op: Op, f: Callable[[float, float], float], linear: str) -> None:
    @equation(op, pair, linear)
    def value(a, b):
        a, b = np.broadcast_arrays(a, b)
        return each(a.shape, lambda *i: f(float(a[i]), float(b[i])))


binary(ops.add, operator.add, "a b")
binary(ops.sub, operator.sub, "a b")
binary(ops.mul, operator.mul, "a")
binary(ops.div, operator.truediv, "a")


def matrices(d: Draw) -> tuple[list, dict]:
    batches = d.any(mutually_broadcastable_shapes(num_shapes=2, max_dims=2, max_side=3, min_side=0))
    (M, K, N), (a, b) = (d.size() for _ in range(3)), batches.input_shapes
    return [d.array(*a, M, K), d.array(*b, K, N)], {}


@equation(ops.matmul, matrices, "a")
def matmul(a, b):
    batch = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    a, b = np.broadcast_to(a, (*batch, *a.shape[-2:])), np.broadcast_to(b, (*batch, *b.shape[-2:]))
    shape = (*batch, a.shape[-2], b.shape[-1])
    return each(shape, lambda *i: dot(a[i[:-1]], b[*i[:-2], :, i[-1]]))


@equation(ops.power, lambda d: ([d.positive(*d.shape())], {"exponent": d.one_of(3, 2.0, -0.5, 1, 0)}))
def power(x, exponent):
    return each(x.shape, lambda *i: math.pow(x[i], exponent))


# ---------------------------------------------------------------------------------- elementwise


def anything(d: Draw) -> tuple[list, dict]:
    return [d.array(*d.shape())], {}


def above_zero(d: Draw) -> tuple[list, dict]:
    return [d.positive(*d.shape())], {}


class Curve(NamedTuple):
    """A function of one number, and the terms whose sum is its slope, both accurate from `low` to `high`."""

    value: Callable[[float], float]
    slope: Callable[[float], tuple[float, ...]]
    low: float = -math.inf
    high: float = math.inf


def tanh_slope(v: float) -> tuple[float]:
    e = math.exp(-2.0 * abs(v))
    return (4.0 * e / (1.0 + e) ** 2,)


def silu_slope(v: float) -> tuple[float, float]:
    return sigmoid_of(v), v * sigmoid_of(v) * sigmoid_of(-v)


def gelu_slope(v: float) -> tuple[float, float]:
    return 0.5 * math.erfc(-v / math.sqrt(2.0)), v * math.exp(-0.5 * v * v) / math.sqrt(2.0 * math.pi)


BIG = 1e18  # its square is a number in float32
CURVES = {  # of the elementwise operations
    ops.neg: Curve(operator.neg, lambda v: (-1.0,)),
    ops.exp: Curve(math.exp, lambda v: (math.exp(v),), high=88.0),
    ops.log: Curve(math.log, lambda v: (1.0 / v,), low=1e-30),
    ops.tanh: Curve(math.tanh, tanh_slope),
    ops.sigmoid: Curve(sigmoid_of, lambda v: (sigmoid_of(v) * sigmoid_of(-v),)),
    ops.silu: Curve(lambda v: v * sigmoid_of(v), silu_slope, -BIG, BIG),
    ops.softplus: Curve(lambda v: max(v, 0.0) + math.log1p(math.exp(-abs(v))), lambda v: (sigmoid_of(v),)),
    ops.gelu: Curve(lambda v: 0.5 * v * math.erfc(-v / math.sqrt(2.0)), gelu_slope, -BIG, BIG),
}
for op, curve in CURVES.items():
    arguments, linear = above_zero if op is ops.log else anything, "x" if op is ops.neg else ""
    equation(op, arguments, linear)(lambda x, f=curve.value: each(x.shape, lambda *i: f(x[i])))


def dropped(d: Draw) -> tuple[list, dict]:
    C, p = d.size(), d.one_of(0.0, 0.3, 0.9)
    return [d.array(*d.shape(), C), d.one_of(None, d.array(C))], {
        "p": p,
        "key": (1, C),
        "first_token": d.size(),
    }


@equation(ops.dropout, dropped, "x bias")
def dropout(x, bias, p, key, first_token):
    C, x = x.shape[-1], x if bias is None else x + bias
    kept = keep_mask(np, key, p, ((first_token + math.prod(x.shape[:-1])) * C,))[first_token * C :]
    return each(x.shape, lambda *i: x[i] / (1.0 - p) if kept[np.ravel_multi_index(i, x.shape)] else 0.0)


# -------------------------------------------------------------------------------- shape and sums


def summed(d: Draw) -> tuple[list, dict]:
    x = d.array(*d.shape())
    axes = [(), None, *range(-x.ndim, x.ndim)] + [(0, -1)] * (x.ndim > 1)
    return [x], {"axis": d.one_of(*axes), "keepdims": d.one_of(True, False)}


@equation(ops.sum, summed, "x")
def sum_(x, axis, keepdims):
    axes = range(x.ndim) if axis is None else axis if isinstance(axis, tuple) else (axis,)
    gone = {a % x.ndim for a in axes}
    terms: dict[tuple, list] = {}
    for i in np.ndindex(*x.shape):
        terms.setdefault(tuple(0 if a in gone else n for a, n in enumerate(i)), []).append(x[i])
    ones = tuple(1 if a in gone else n for a, n in enumerate(x.shape))
    kept = each(ones, lambda *i: math.fsum(terms.get(i, [])))
    return kept if keepdims else kept.reshape([n for a, n in enumerate(x.shape) if a not in gone])


def reshaped(d: Draw) -> tuple[list, dict]:
    shape = d.shape()
    others = [shape[::-1], (math.prod(shape),), (1, *shape), (-1,)]
    return [d.array(*shape)], {"shape": d.one_of(*others)}


@equation(ops.reshape, reshaped, "x")
def reshape(x, shape):
    numbers = [x[i] for i in np.ndindex(*x.shape)]  # in C order, whatever the layout
    return np.array(numbers, dtype=np.float64).reshape(shape)


def permuted(d: Draw) -> tuple[list, dict]:
    x = d.array(*d.shape())
    axes = d.any(st.permutations(range(x.ndim)))
    return [x], {"axes": tuple(a - d.one_of(0, x.ndim) for a in axes)}


@equation(ops.transpose, permuted, "x")
def transpose(x, axes):
    axes = [a % x.ndim for a in axes]
    return each(tuple(x.shape[a] for a in axes), lambda *i: x[tuple(i[axes.index(a)] for a in range(x.ndim))])


def indexed(d: Draw) -> tuple[list, dict]:
    shape = (d.size(1), *d.shape(2))
    rows = [d.ids(2, below=shape[0]).tolist(), d.ids(0, 2, below=shape[0]), np.arange(shape[0]) % 2 == 0]
    index = d.one_of(*rows) if d.one_of(True, False) else d.any(basic_indices(shape, allow_newaxis=True))
    return [d.array(*shape)], {"index": index}


@equation(ops.getitem, indexed, "x")
def getitem(x, index):
    places, numbers = np.arange(x.size).reshape(x.shape)[index], [x[i] for i in np.ndindex(*x.shape)]
    return each(np.shape(places), lambda *i: numbers[places[i]] if np.ndim(places) else numbers[places])


# ---------------------------------------------------------------------------------- for networks


equation(ops.softmax, lambda d: ([d.logits(*d.shape(), d.size(1))], {}))(lambda x: each_row(x, softmax_of))


def affine(d: Draw) -> tuple[list, dict]:
    C, D = d.size(1), d.size(1)
    return [d.array(*d.shape(), C), d.array(D, C), d.one_of(None, d.array(D))], {}


@equation(ops.linear, affine, "x bias")
def linear(x, weight, bias):
    bias = np.zeros(len(weight)) if bias is None else bias
    return each((*x.shape[:-1], len(weight)), lambda *i: dot(x[i[:-1]], weight[i[-1]]) + bias[i[-1]])


def normalised(d: Draw) -> tuple[list, dict]:
    C = d.size(1, 4)
    return [d.array(*d.shape(), C), d.array(C), d.array(C)], {"eps": d.one_of(1e-5, 0.5)}


@equation(ops.layer_norm, normalised, "weight bias")
def layer_norm(x, weight, bias, eps):
    def normalise(row):
        centred = [v - math.fsum(row) / len(row) for v in row]
        deviation = math.sqrt(dot(centred, centred) / len(row) + eps)
        return [v / deviation * w + b for v, w, b in zip(centred, weight, bias, strict=True)]

    return each_row(x, normalise)


def divided(d: Draw) -> tuple[list, dict]:
    C = d.size(1, 4)
    return [d.array(*d.shape(), C), d.array(C)], {"eps": d.one_of(1e-5, 0.5)}


@equation(ops.rms_norm, divided, "weight")
def rms_norm(x, weight, eps):
    def divide(row):
        root_mean_square = math.sqrt(dot(row, row) / len(row) + eps)
        return [v / root_mean_square * w for v, w in zip(row, weight, strict=True)]

    return each_row(x, divide)


def looked_up(d: Draw) -> tuple[list, dict]:
    V = d.size(1)
    return [d.array(V, d.size(1)), d.ids(*d.shape(2), below=V)], {}


@equation(ops.embedding, looked_up, "table")
def embedding(table, ids):
    return each((*ids.shape, table.shape[1]), lambda *i: table[ids[i[:-1]], i[-1]])


def predicted(d: Draw) -> tuple[list, dict]:
    V, shape = d.size(1, 4), d.shape(2)
    logits, targets = d.logits(*shape, V), d.ids(*shape, below=V, least=-2)
    targets[np.isneginf(np.take_along_axis(logits, targets.clip(0)[..., None], axis=-1)[..., 0])] = V - 1
    return [logits, targets], {}


def loss_of(row: list[float], target: int) -> float:
    total = math.fsum(math.exp(v - max(row)) for v in row)
    return math.log(total) + max(row) - row[target] if target >= 0 else 0.0


equation(ops.cross_entropy, predicted)(lambda logits, targets: each_row(logits, loss_of, targets))


def predicted_from(d: Draw) -> tuple[list, dict]:
    (V, C), shape = (d.size(1, 4), d.size(1)), (d.size(1), d.size(1))
    targets = d.ids(*shape, below=V, least=-2)
    targets.flat[:1] = 0  # the mean of no loss is not a number
    return [d.array(*shape, C), d.array(V, C), targets], {}


@equation(ops.linear_cross_entropy, predicted_from)
def linear_cross_entropy(x, weight, targets):
    losses = each_row(linear(x, weight, None), loss_of, targets)
    return np.asarray(math.fsum(losses.flat) / np.count_nonzero(targets >= 0))


# ------------------------------------------------------------------------------------- sequences


def convolved(d: Draw) -> tuple[list, dict]:
    B, T, C, K = d.size(), d.size(1, 5), d.size(1), d.size(1, 4)
    return [d.array(B, T, C), d.array(C, K), d.array(C), d.one_of(None, d.array(B, K - 1, C))], {}


@equation(sequence.causal_conv1d, convolved, "u bias past")
def causal_conv1d(u, weight, bias, past):
    K = weight.shape[1]

    def u_at(b, t, c):
        return u[b, t, c] if t >= 0 else 0.0 if past is None else past[b, K - 1 + t, c]

    def mix(b, t, c):
        return bias[c] + dot(weight[c], [u_at(b, t - (K - 1) + j, c) for j in range(K)])

    return each(u.shape, mix)


def recalled(d: Draw) -> tuple[list, dict]:
    C = d.size(1)
    huge = 2.0**10 if d.extreme and d.one_of(True, False) else 1.0  # so that some weights are exactly 0
    return [huge * d.array(d.size(), d.size(), C), d.array(d.size(1), C)], {}


@equation(sequence.associative_memory, recalled)
def associative_memory(u, memory):
    def recall(query):
        a = softmax_of([dot(query, slot) for slot in memory])
        return [dot(a, channel) for channel in memory.T]

    return each_row(u, recall)


def written(d: Draw) -> tuple[list, dict]:
    B, T, S, C = d.size(), d.size(), d.size(1), d.size(1)
    past = d.one_of(None, d.positive(B, S, C + 1))
    return [d.array(B, T, C), d.array(B, T, C), d.array(S, C), past], {"prior": d.one_of(None, 0.1, 2.0)}


@equation(sequence.written_memory, written)
def written_memory(u, local_context, memory, past, prior):
    S, y = len(memory), np.zeros(u.shape)
    prior = 1.0 / S if prior is None else prior
    for b, t in np.ndindex(*u.shape[:2]):
        a = softmax_of([dot(u[b, t], slot) for slot in memory])
        w = [softmax_of([dot(local_context[b, i], slot) for slot in memory]) for i in range(t + 1)]
        for c in range(u.shape[2]):
            N = [prior * memory[s, c] if past is None else past[b, s, c] for s in range(S)]
            n = [prior if past is None else past[b, s, -1] for s in range(S)]
            means = [
                math.fsum([N[s], *(w[i][s] * u[b, i, c] for i in range(t + 1))])
                / math.fsum([n[s], *(w[i][s] for i in range(t + 1))])
                for s in range(S)
            ]
            y[b, t, c] = dot(a, means)
    return y


def fused(d: Draw) -> tuple[list, dict]:
    B, T, C = d.size(), d.size(), d.size(1)
    return [d.array(B, T, C), d.array(B, T, C), d.array(B, T, 2 * C), d.one_of(None, d.array(2 * C))], {}


@equation(sequence.gated_fusion, fused, "local_context global_context")
def gated_fusion(local_context, global_context, gate, bias):
    C, gate = local_context.shape[-1], gate if bias is None else gate + bias

    def fuse(*i):
        *token, c = i
        g_local, g_global = gate[*token, c], gate[*token, C + c]
        return sigmoid_of(g_local) * local_context[i] + sigmoid_of(g_global) * global_context[i]

    return each(local_context.shape, fuse)


def attended(d: Draw) -> tuple[list, dict]:
    B, T, P, H, D = d.size(), d.size(1, 5), d.size(), d.size(1), d.size(1, 2)
    past = d.one_of(None, d.array(B, P, 2 * H * D))
    p, drop = d.one_of(0.0, 0.3), {"key": (d.size(),), "first_token": d.size()}
    return [d.array(B, T, 3 * H * D), past], {"n_heads": H, "p": p, **drop}


@equation(sequence.causal_attention, attended)
def causal_attention(qkv, past, n_heads, p, key, first_token):
    (B, T, C), H = (*qkv.shape[:2], qkv.shape[2] // 3), n_heads
    D, P = C // H, 0 if past is None else past.shape[1]
    kv = qkv[..., C:] if past is None else np.concatenate([past, qkv[..., C:]], axis=1)
    size, first = B * H * T * (P + T), first_token * H * (P + T)
    drop = (keep_mask(np, key, p, (size,), first) / (1.0 - p)).reshape(B, H, T, P + T)

    def attend(b, t, c):
        h, seen = c // D, range(P + t + 1)  # the head, and the keys up to this query
        channels = slice(h * D, (h + 1) * D)
        a = softmax_of([dot(qkv[b, t, channels], kv[b, i, channels]) / math.sqrt(D) for i in seen])
        return dot(a, drop[b, h, t, : P + t + 1], kv[b, : P + t + 1, C + c])

    return each((B, T, C), attend)


def scanned(d: Draw) -> tuple[list, dict]:
    B, T, E, N = d.size(), d.size(1, 5), d.size(1), d.size(1)
    past = d.one_of(None, d.array(B, E, N))
    tokens = [d.array(B, T, E), d.positive(B, T, E), -d.positive(E, N), d.array(B, T, N), d.array(B, T, N)]
    return [*tokens, d.array(E), past], {}


@equation(sequence.selective_scan, scanned, "x past")
def selective_scan(x, delta, A, B, C, skip, past):
    (b, T, E), N = x.shape, A.shape[1]
    h, y = np.zeros((b, E, N)) if past is None else past.copy(), np.zeros(x.shape)
    for i, t, e in np.ndindex(b, T, E):
        for n in range(N):
            decay, step = math.exp(delta[i, t, e] * A[e, n]), delta[i, t, e]
            h[i, e, n] = decay * h[i, e, n] + step * B[i, t, n] * x[i, t, e]
        y[i, t, e] = dot(C[i, t], h[i, e]) + skip[e] * x[i, t, e]
    return y
