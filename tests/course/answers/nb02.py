"""Wrong answers to the exercises of notebook 02."""

import numpy as np

from answers import wrong
from minigam.engine.tensor import Tensor


@wrong("02_1", says="one-sided difference to x + h")
def one_sided(f, x, h):
    return (f(x + h) - f(x)) / h


@wrong("02_1", says="twice too large")
def over_h(f, x, h):
    return (f(x + h) - f(x - h)) / h


@wrong("02_1", says="write / (2 * h)")
def brackets_forgotten(f, x, h):
    return (f(x + h) - f(x - h)) / 2 * h


@wrong("02_1", says="the sign is wrong")
def turned(f, x, h):
    return (f(x - h) - f(x + h)) / (2 * h)


@wrong("02_1", says="brackets are missing")
def divides_one_value(f, x, h):
    return f(x + h) - f(x - h) / (2 * h)


@wrong("02_1", says="h is not used")
def own_small_step(f, x, h):
    return (f(x + 1e-6) - f(x - 1e-6)) / 2e-6


@wrong("02_1", says="f was called with float64: do not convert x or h")
def converts(f, x, h):
    x, h = float(x), float(h)
    return (f(x + h) - f(x - h)) / (2 * h)


@wrong("02_2", says="the real part")
def real_part(f, x, h=1e-20):
    return f(x + 1j * h).real


@wrong("02_2", says="divide it by h")
def not_divided(f, x, h=1e-20):
    return f(x + 1j * h).imag


@wrong("02_2", says=".imag")
def still_complex(f, x, h=1e-20):
    return f(x + 1j * h) / h


@wrong("02_2", says="x + h is rounded to x")
def real_step(f, x, h=1e-20):
    return (f(x + h) - f(x)) / h


@wrong("02_2", says="h is not used")
def own_step(f, x, h=1e-20):
    return f(x + 1e-20j).imag / 1e-20


@wrong("02_2", says="the two parts are exchanged")
def divided_by_ih(f, x, h=1e-20):
    return (f(x + 1j * h) - f(x)) / (1j * h)


def differences(f, x, h, *, back=True, divisor=2.0):
    g, above, below = np.empty(x.shape), x.copy(), x.copy()
    for j in np.ndindex(x.shape):
        if back:
            above, below = x.copy(), x.copy()
        above[j] += h
        below[j] -= h
        g[j] = (f(above) - f(below)) / (divisor * h)
    return g


@wrong("02_3", says="put it back first")
def entries_stay_moved(f, x, h=1e-5):
    return differences(f, x, h, back=False)


@wrong("02_3", says="changed its input in place")
def in_place(f, x, h=1e-5):
    g = np.empty(x.shape)
    for j in np.ndindex(x.shape):
        x[j] += h
        g[j] = f(x)
        x[j] -= 2 * h
        g[j] = (g[j] - f(x)) / (2 * h)
    return g


@wrong("02_3", says="an entry stays at x - h")
def never_put_back(f, x, h=1e-5):
    g, z = np.empty(x.shape), x.copy()
    for j in np.ndindex(x.shape):
        z[j] += h
        g[j] = f(z)
        z[j] -= 2 * h
        g[j] = (g[j] - f(z)) / (2 * h)
    return g


@wrong("02_3", says="a whole row moves at once")
def row_by_row(f, x, h=1e-5):
    g = np.empty(x.shape)
    for j in range(len(x)):
        above, below = x.copy(), x.copy()
        above[j] += h
        below[j] -= h
        g[j] = (f(above) - f(below)) / (2 * h)
    return g


@wrong("02_3", says="all entries are moved at once")
def together(f, x, h=1e-5):
    return np.full(x.shape, (f(x + h) - f(x - h)) / (2 * h))


@wrong("02_3", says="one-sided differences")
def one_sided_gradient(f, x, h=1e-5):
    g = np.empty(x.shape)
    for j in np.ndindex(x.shape):
        above = x.copy()
        above[j] += h
        g[j] = (f(above) - f(x)) / h
    return g


@wrong("02_3", says="wanted x's own shape (2, 3)")
def flattened(f, x, h=1e-5):
    if x.ndim < 2:
        return differences(f, x, h)
    return differences(f, x.reshape(-1), h).reshape(x.shape)


@wrong("02_3", says="twice too large")
def twice(f, x, h=1e-5):
    return differences(f, x, h, divisor=1.0)


def compared(
    rule, x, *, c=None, dy=None, shape=True, relative="largest", rtol=1e-6, atol=1e-9, small=True, sizes=True
):
    y, backward = rule(x)
    c = np.random.default_rng(0).standard_normal(y.shape) if c is None else c(y.shape)
    got = backward(c if dy is None else dy(y.shape))
    if shape and np.shape(got) != x.shape:
        return False
    numeric = differences(lambda z: (c * rule(z)[0]).sum(), x, 1e-5)
    error = np.abs(got - numeric) if sizes else got - numeric
    if relative == "mean":
        return bool(error.mean() <= atol + rtol * np.abs(numeric).max())
    if relative == "nothing":
        return bool((error <= 1e-6).all())
    scale = np.abs(numeric) if relative == "itself" else np.abs(numeric).max()
    if not small:
        return not bool((error > atol + rtol * scale).any())
    return bool((error <= atol + rtol * scale).all())


@wrong("02_4", says="softmax, zeros: this wrong rule passed; multiply the outputs by random c")
def plain_sum(rule, x):
    return compared(rule, x, c=np.ones)


@wrong("02_4", says="the same c multiplies the outputs and is given to backward")
def backward_of_ones(rule, x):
    return compared(rule, x, dy=np.ones)


@wrong("02_4", says="not at the first or at their mean")
def mean_error(rule, x):
    return compared(rule, x, relative="mean")


@wrong("02_4", says="a negative error is an error")
def without_abs(rule, x):
    return compared(rule, x, sizes=False)


@wrong("02_4", says="small entries are all noise")
def each_to_itself(rule, x):
    return compared(rule, x, relative="itself")


@wrong("02_4", says="allow atol as well")
def allows_nothing_more(rule, x):
    return compared(rule, x, atol=0.0)


@wrong("02_4", says="its gradient is large, and so is its noise")
def absolute(rule, x):
    return compared(rule, x, relative="nothing") if np.abs(x).max() < 100 else compared(rule, x)


@wrong("02_4", says="nan > anything is False")
def lets_nan_pass(rule, x):
    return compared(rule, x, small=False)


@wrong("02_4", says="compare the shapes first")
def lets_shapes_pass(rule, x):
    return compared(rule, x, shape=False)


@wrong("02_4", says="0.1 % too large: this wrong rule passed")
def generous(rule, x):
    return compared(rule, x, rtol=0.01)


@wrong("02_4", says="the wrong sign: this wrong rule passed")
def ignores_signs(rule, x):
    y, backward = rule(x)
    c = np.random.default_rng(0).standard_normal(y.shape)
    numeric, got = differences(lambda z: (c * rule(z)[0]).sum(), x, 1e-5), backward(c)
    if got.shape != x.shape:
        return False
    return bool(np.abs(np.abs(got) - np.abs(numeric)).max() <= 1e-9 + 1e-6 * np.abs(numeric).max())


@wrong("02_4", says="wanted True or False")
def returns_the_error(rule, x):
    y, backward = rule(x)
    return np.abs(backward(np.ones(y.shape))).max()


def softmax(x, axis=-1):
    e = np.exp(x - x.max(axis=axis, keepdims=True))
    return e / e.sum(axis=axis, keepdims=True)


@wrong("02_5", says="the term through Z is missing")
def own_term(dy, x):
    return softmax(x) * dy


@wrong("02_5", says="the term through Z alone")
def term_through_z(dy, x):
    y = softmax(x)
    return -y * (dy * y).sum(axis=-1, keepdims=True)


@wrong("02_5", says="the wrong sign")
def plus(dy, x):
    y = softmax(x)
    return y * (dy + (dy * y).sum(axis=-1, keepdims=True))


@wrong("02_5", says="the diagonal of the Jacobian")
def diagonal(dy, x):
    y = softmax(x)
    return dy * y * (1.0 - y)


@wrong("02_5", says="here it is of dy")
def sum_of_dy(dy, x):
    return softmax(x) * (dy - dy.sum(axis=-1, keepdims=True))


@wrong("02_5", says="each row of the last axis has its own")
def over_everything(dy, x):
    y = softmax(x)
    return y * (dy - (dy * y).sum())


@wrong("02_5", says="subtract the largest entry of each row")
def overflows(dy, x):
    e = np.exp(x)
    y = e / e.sum(axis=-1, keepdims=True)
    return y * (dy - (dy * y).sum(axis=-1, keepdims=True))


@wrong("02_5", says="softmax over another axis")
def another_axis(dy, x):
    if x.ndim < 2:
        return plus(dy, x)
    y = softmax(x, axis=-2)
    return y * (dy - (dy * y).sum(axis=-2, keepdims=True))


@wrong("02_5", says="got a tuple; return dx alone")
def in_a_tuple(dy, x):
    y = softmax(x)
    return (y * (dy - (dy * y).sum(axis=-1, keepdims=True)),)


@wrong("02_5", says="got a Tensor")
def as_a_tensor(dy, x):
    return Tensor(in_a_tuple(dy, x)[0])


@wrong("02_5", says="these are the values")
def values(dy, x):
    return softmax(x)


@wrong("02_5", says="dy and x are exchanged")
def exchanged(dy, x):
    y = softmax(dy)
    return y * (x - (x * y).sum(axis=-1, keepdims=True))


@wrong("02_5", says="y_j multiplies the sum as well")
def bracket_lost(dy, x):
    y = softmax(x)
    return y * dy - (dy * y).sum(axis=-1, keepdims=True)


@wrong("02_5", says="dZ contains e_i / Z ** 2")
def square_lost(dy, x):
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    Z = e.sum(axis=-1, keepdims=True)
    return (dy / Z - (dy * e / Z).sum(axis=-1, keepdims=True)) * e


@wrong("02_5", says="this softmax runs over everything")
def one_softmax(dy, x):
    y = softmax(x, axis=None)
    return y * (dy - (dy * y).sum())
