"""Wrong answers to the exercises of notebook 06."""

import numpy as np

from answers import wrong


def sigmoid(z):
    return 0.5 * (1.0 + np.tanh(0.5 * z))


def halves(g):
    C = g.shape[-1] // 2
    return g[..., :C], g[..., C:]


@wrong("06_1", says="overflows in np.exp")
def naive(z):
    return 1.0 / (1.0 + np.exp(-z))


@wrong("06_1", says="overflows in np.exp")
def second_form(z):
    return np.exp(z) / (1.0 + np.exp(z))


@wrong("06_1", says="take tanh of z / 2")
def twice_as_steep(z):
    return 0.5 * (1.0 + np.tanh(z))


@wrong("06_1", says="halve it")
def from_0_to_2(z):
    return 1.0 + np.tanh(0.5 * z)


@wrong("06_2", says="the halves of g are swapped")
def swapped(local_context, global_context, g):
    b, a = map(sigmoid, halves(g))
    return a * local_context + b * global_context


@wrong("06_2", says="as in a softmax")
def choice(local_context, global_context, g):
    a, b = halves(g)
    return sigmoid(a - b) * local_context + sigmoid(b - a) * global_context


@wrong("06_2", says="the sigmoid is missing")
def bare(local_context, global_context, g):
    a, b = halves(g)
    return a * local_context + b * global_context


@wrong("06_2", says="a gate of its own")
def one_gate(local_context, global_context, g):
    p, _ = map(sigmoid, halves(g))
    return p * local_context + (1.0 - p) * global_context


def backward(dy, local_context, global_context, g, slope=lambda p: p * (1.0 - p), order=(0, 1)):
    p, q = map(sigmoid, halves(g))
    dg = [dy * local_context * slope(p), dy * global_context * slope(q)]
    return dy * p, dy * q, np.concatenate([dg[i] for i in order], axis=-1)


@wrong("06_3", says="the derivative of the sigmoid, p (1 - p), is missing")
def no_sigmoid_derivative(dy, local_context, global_context, g):
    return backward(dy, local_context, global_context, g, slope=np.ones_like)


@wrong("06_3", says="the derivative of the sigmoid is p (1 - p)")
def half_a_derivative(dy, local_context, global_context, g):
    return backward(dy, local_context, global_context, g, slope=lambda p: p)


@wrong("06_3", says="the halves are swapped")
def global_first(dy, local_context, global_context, g):
    return backward(dy, local_context, global_context, g, order=(1, 0))


@wrong("06_3", says="so its gradient is dy times p")
def through_open_gates(dy, local_context, global_context, g):
    return dy, dy, backward(dy, local_context, global_context, g)[2]


def each(g):
    return 4.0 * sigmoid(g) * sigmoid(-g)


@wrong("06_4", says="the factor 4 is missing")
def at_most_a_quarter(g):
    return each(g).mean(axis=(0, 1)) / 4.0


@wrong("06_4", says="averaged over the channels, too")
def one_number(g):
    return each(g).mean()


@wrong("06_4", says="p was averaged first")
def mean_before(g):
    p = sigmoid(g).mean(axis=(0, 1))
    return 4.0 * p * (1.0 - p)


@wrong("06_4", says="use the safe sigmoid")
def unsafe(g):
    with np.errstate(over="ignore", invalid="ignore"):
        p = np.exp(g) / (1.0 + np.exp(g))
    return (4.0 * p * (1.0 - p)).mean(axis=(0, 1))


def count(C, S, K, mixer, *, conv=None, memory=None, gate=None, always=False):
    n = 0 if mixer == "global" else C * K + C if conv is None else conv
    n += 0 if mixer == "local" else S * C if memory is None else memory
    return n + ((2 * C * C + 2 * C if gate is None else gate) if always or mixer == "gated" else 0)


@wrong("06_5", says="the bias of the convolution is missing")
def no_conv_bias(C, S, K, mixer):
    return count(C, S, K, mixer, conv=C * K)


@wrong("06_5", says="one matrix M is keys and values")
def two_memories(C, S, K, mixer):
    return count(C, S, K, mixer, memory=2 * S * C)


@wrong("06_5", says="this mixer has no gate")
def gates_everywhere(C, S, K, mixer):
    return count(C, S, K, mixer, always=True)


@wrong("06_5", says="depthwise and has C K weights")
def dense_convolution(C, S, K, mixer):
    return count(C, S, K, mixer, conv=C * C * K + C)


@wrong("06_5", says="right, but a float; return an int")
def a_float(C, S, K, mixer):
    return float(count(C, S, K, mixer))


@wrong("06_3", says="dy is missing; the gradient is dy times p")
def without_dy(dy, local_context, global_context, g):
    return backward(np.ones_like(dy), local_context, global_context, g)


@wrong("06_1", says="do not clip z so early")
def clipped(z):
    return 1.0 / (1.0 + np.exp(-np.clip(z, -20.0, 20.0)))
