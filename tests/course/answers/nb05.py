"""Wrong answers to the exercises of notebook 05."""

import numpy as np

from answers import wrong


def softmax(s, axis=-1):
    e = np.exp(s - s.max(axis=axis, keepdims=True))
    return e / e.sum(axis=axis, keepdims=True)


@wrong("05_1", says="over the last axis; yours do over axis")
def over_tokens(s):
    return softmax(s, axis=-2) if s.ndim > 1 else softmax(s)


@wrong("05_1", says="subtract the largest score")
def overflows(s):
    return np.exp(s) / np.exp(s).sum(axis=-1, keepdims=True)


@wrong("05_1", says="not divided by their sum")
def no_division(s):
    return np.exp(s - s.max(axis=-1, keepdims=True))


@wrong("05_1", says="divided by the largest; subtract")
def divides_by_the_largest(s):
    return softmax(s / s.max(axis=-1, keepdims=True))


@wrong("05_2", says="divided by sqrt")
def scaled(u, M):
    return softmax(u @ M.T / np.sqrt(u.shape[-1])) @ M


@wrong("05_2", says="softmax runs over the tokens")
def mixed_tokens(u, M):
    return softmax(u @ M.T, axis=1) @ M


@wrong("05_2", says="softmax runs over the batch")
def mixed_batches(u, M):
    return softmax(u @ M.T, axis=0) @ M


@wrong("05_2", says="the mix of the slots alone")
def with_the_residual(u, M):
    return u + softmax(u @ M.T) @ M


@wrong("05_2", says="E5 is missing")
def shares_only(u, M):
    return softmax(u @ M.T)


def backward(dy, u, M, *, values=1.0, keys=1.0, centred=1.0):
    a, da = softmax(u @ M.T), dy @ M.T
    ds = a * (da - centred * (da * a).sum(axis=-1, keepdims=True))
    flat = [z.reshape(-1, z.shape[-1]) for z in (a, dy, ds, u)]
    return ds @ M, values * flat[0].T @ flat[1] + keys * flat[2].T @ flat[3]


@wrong("05_3", says="the term of M as values alone")
def values_only(dy, u, M):
    return backward(dy, u, M, keys=0.0)


@wrong("05_3", says="the term of M as keys alone")
def keys_only(dy, u, M):
    return backward(dy, u, M, values=0.0)


@wrong("05_3", says="subtract the sum of da")
def softmax_gradient_without_its_sum(dy, u, M):
    return backward(dy, u, M, centred=0.0)


@wrong("05_3", says="not only its own")
def diagonal_of_the_jacobian_alone(dy, u, M):
    a = softmax(u @ M.T)
    return (a * (1.0 - a) * (dy @ M.T)) @ M, backward(dy, u, M)[1]


@wrong("05_3", says="all batches share one M")
def one_gradient_a_batch(dy, u, M):
    each = [backward(dy[b : b + 1], u[b : b + 1], M)[1] for b in range(len(u))]
    return backward(dy, u, M)[0], np.stack(each)


@wrong("05_3", says="the gradient of the softmax is missing")
def softmax_skipped(dy, u, M):
    return (dy @ M.T) @ M, backward(dy, u, M)[1]


@wrong("05_3", says="return (du, dM), in that order")
def other_order(dy, u, M):
    return backward(dy, u, M)[::-1]


@wrong("05_4", says="0 log 0 counts as 0")
def nan_at_zero(a):
    return np.exp(-(a * np.log(a)).sum(axis=-1))


@wrong("05_4", says="this is the entropy itself")
def entropy(a):
    return -(a * np.log(np.where(a > 0, a, 1.0))).sum(axis=-1)


@wrong("05_4", says="a[a > 0] is flat")
def all_tokens_together(a):
    return np.exp(-(a[a > 0] * np.log(a[a > 0])).sum(axis=-1))


@wrong("05_5", says="needs a minus")
def upside_down(x, M, beta):
    return np.log(np.exp(beta * (x @ M.T)).sum(axis=-1)) / beta + 0.5 * (x * x).sum(axis=-1)


@wrong("05_5", says="not divided by beta")
def no_temperature(x, M, beta):
    return -np.log(np.exp(beta * (x @ M.T)).sum(axis=-1)) + 0.5 * (x * x).sum(axis=-1)


@wrong("05_5", says="overflow")
def overflowing_energy(x, M, beta):
    return -np.log(np.exp(beta * (x @ M.T)).sum(axis=-1)) / beta + 0.5 * (x * x).sum(axis=-1)


@wrong("05_5", says="never added back")
def forgets_the_largest(x, M, beta):
    z = beta * (x @ M.T)
    z = z - z.max(axis=-1, keepdims=True)
    return -np.log(np.exp(z).sum(axis=-1)) / beta + 0.5 * (x * x).sum(axis=-1)


@wrong("05_5", says="the largest score of each query")
def one_largest_for_all(x, M, beta):
    z = beta * (x @ M.T)
    return -(z.max() + np.log(np.exp(z - z.max()).sum(axis=-1))) / beta + 0.5 * (x * x).sum(axis=-1)
