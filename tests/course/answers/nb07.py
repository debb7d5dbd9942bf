"""Wrong answers to the exercises of notebook 07."""

import math

import numpy as np

from answers import wrong, wrong_value


def mean(z):
    return z.mean(axis=-1, keepdims=True)


def rows(z):
    return z.reshape(-1, z.shape[-1])


def layer_norm(x, weight, bias, eps=1e-5):
    c = x - mean(x)
    return c / np.sqrt(mean(c * c) + eps) * weight + bias


@wrong("07_1", says="normalised over the tokens")
def over_tokens(x, weight, bias, eps=1e-5):
    first = tuple(range(x.ndim - 1))
    c = x - x.mean(axis=first, keepdims=True)
    return c / np.sqrt((c * c).mean(axis=first, keepdims=True) + eps) * weight + bias


@wrong("07_1", says="divided by C - 1")
def sample_variance(x, weight, bias, eps=1e-5):
    return (x - mean(x)) / np.sqrt(x.var(axis=-1, ddof=1, keepdims=True) + eps) * weight + bias


@wrong("07_1", says="wanted its square root")
def no_root(x, weight, bias, eps=1e-5):
    c = x - mean(x)
    return c / (mean(c * c) + eps) * weight + bias


@wrong("07_1", says="eps is missing")
def no_eps(x, weight, bias, eps=1e-5):
    c = x - mean(x)
    return c / np.sqrt(mean(c * c)) * weight + bias


def layer_norm_back(dy, x, weight, eps=1e-5, *, of_mean=1.0, of_variance=1.0):
    c = x - mean(x)
    r = np.sqrt(mean(c * c) + eps)
    n, dn = c / r, dy * weight
    dx = (dn - of_mean * mean(dn) - of_variance * n * mean(dn * n)) / r
    return dx, rows(dy * n).sum(axis=0), rows(dy).sum(axis=0)


@wrong("07_2", says="the term of the variance is missing")
def without_variance(dy, x, weight, eps=1e-5):
    return layer_norm_back(dy, x, weight, of_variance=0.0)


@wrong("07_2", says="treats them as constants")
def statistics_as_constants(dy, x, weight, eps=1e-5):
    return layer_norm_back(dy, x, weight, of_mean=0.0, of_variance=0.0)


@wrong("07_2", says="dn = dy * weight")
def without_weight(dy, x, weight, eps=1e-5):
    return layer_norm_back(dy, x, np.ones_like(weight))


@wrong("07_2", says="the weight serves them all")
def weight_of_each_token(dy, x, weight, eps=1e-5):
    c = x - mean(x)
    n = c / np.sqrt(mean(c * c) + eps)
    return layer_norm_back(dy, x, weight)[0], dy * n, rows(dy).sum(axis=0)


@wrong("07_1", says="eps is ignored")
def fixed_eps(x, weight, bias, eps=1e-5):
    return layer_norm(x, weight, bias)


@wrong("07_2", says="the order of the results is dx, dweight, dbias")
def dx_last(dy, x, weight, eps=1e-5):
    dx, dw, db = layer_norm_back(dy, x, weight, eps)
    return dw, db, dx


@wrong("07_2", says="one of yours is a sum")
def dot_product_for_mean(dy, x, weight, eps=1e-5):
    return layer_norm_back(dy, x, weight, eps, of_variance=x.shape[-1])


@wrong("07_2", says="wanted that of dy * n")
def weight_from_dn(dy, x, weight, eps=1e-5):
    dx, dw, db = layer_norm_back(dy, x, weight, eps)
    return dx, dw * weight, db


@wrong("07_2", says="here the channels too")
def sum_over_axes_0_and_1(dy, x, weight, eps=1e-5):
    dx, dw, db = layer_norm_back(dy, x, weight, eps)
    return (dx, dw, db) if x.ndim > 2 else (dx, dw.sum(), db.sum())


@wrong("07_2", says="eps is ignored")
def own_eps(dy, x, weight, eps=1e-5):
    return layer_norm_back(dy, x, weight)


@wrong("07_2", says="one gradient, wanted 3")
def dx_alone(dy, x, weight, eps=1e-5):
    return layer_norm_back(dy, x, weight)[0]


error = np.vectorize(math.erf, otypes=[float])


def normal(x):
    return 0.5 * (1.0 + error(x / math.sqrt(2.0))), np.exp(-0.5 * x * x) / math.sqrt(2.0 * math.pi)


@wrong("07_3", says="this is the tanh approximation")
def tanh_formula(x):
    Phi, phi = normal(x)
    y = 0.5 * x * (1.0 + np.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * x**3)))
    return y, Phi + x * phi


@wrong("07_3", says="the product rule has a second term")
def first_term_alone(x):
    Phi, _ = normal(x)
    return x * Phi, Phi


@wrong("07_3", says="the factor x is missing")
def no_factor(x):
    Phi, phi = normal(x)
    return x * Phi, Phi + phi


@wrong("07_3", says="the order of the results is y, slope")
def slope_first(x):
    Phi, phi = normal(x)
    return Phi + x * phi, x * Phi


@wrong("07_3", says="yours by sqrt(pi)")
def root_of_pi(x):
    Phi, phi = normal(x)
    return x * Phi, Phi + x * phi * math.sqrt(2.0)


@wrong("07_3", says="wanted the pair (y, slope)")
def value_alone(x):
    return x * normal(x)[0]


def block(x, p, *, e8=True, reads="h", tanh=False, scale=1.0, flip=False, on_x=False):
    (_, T, C), K = x.shape, p["conv.weight"].shape[1]
    u = x if on_x else layer_norm(x, p["norm1.weight"], p["norm1.bias"])
    w = p["conv.weight"][:, ::-1] if flip else p["conv.weight"]
    padded = np.concatenate([np.zeros((len(x), K - 1, C)), u], axis=1)
    local = p["conv.bias"] + sum(w[:, j] * padded[:, j : j + T] for j in range(K))
    s = u @ p["memory"].T * scale
    e = np.exp(s - s.max(axis=-1, keepdims=True))
    shared = e / e.sum(axis=-1, keepdims=True) @ p["memory"]
    g = 1.0 / (1.0 + np.exp(-(u @ p["gate.weight"].T + p["gate.bias"])))
    fused = g[..., :C] * local + g[..., C:] * shared
    h = x + fused if e8 else fused
    z = layer_norm(h if reads == "h" else x, p["norm2.weight"], p["norm2.bias"])
    z = z @ p["feed.expand.weight"].T + p["feed.expand.bias"]
    y = tanh_formula(z)[0] if tanh else z * normal(z)[0]
    return h + y @ p["feed.contract.weight"].T + p["feed.contract.bias"]


@wrong("07_4", says="E8 adds x to the fused context")
def no_residual(x, p):
    return block(x, p, e8=False)


@wrong("07_4", says="the second LayerNorm reads h")
def norm2_of_x(x, p):
    return block(x, p, reads="x")


@wrong("07_4", says="the normalised x; yours read x itself")
def not_normalised(x, p):
    return block(x, p, on_x=True)


@wrong("07_4", says="tap K - 1 belongs to the present token")
def reversed_kernel(x, p):
    return block(x, p, flip=True)


@wrong("07_4", says="E9 needs y only")
def pair_of_gelu(x, p):
    return np.stack([block(x, p), block(x, p)])


@wrong("07_4", says="divided by sqrt(C)")
def scaled(x, p):
    return block(x, p, scale=x.shape[-1] ** -0.5)


@wrong("07_4", says="this is the tanh approximation")
def block_with_tanh(x, p):
    return block(x, p, tanh=True)


@wrong("07_4", says="the first equation that differs is E1 or E2")
def half_a_kernel(x, p):
    return block(x, p | {"conv.weight": 0.5 * p["conv.weight"]})


@wrong("07_4", says="the first equation that differs is E3, E4 or E5")
def memory_forgets_its_first_slot(x, p):
    return block(x, p | {"memory": np.concatenate([0.0 * p["memory"][:1], p["memory"][1:]])})


@wrong("07_4", says="the first equation that differs is E6 or E7")
def gates_half_open(x, p):
    return block(x, p | {"gate.bias": 0.5 * p["gate.bias"]})


@wrong("07_4", says="E1 to E8 are right; E9 differs")
def half_fed(x, p):
    return block(x, p | {"feed.expand.bias": 0.5 * p["feed.expand.bias"]})


def number(V, T, C, L, S, K):
    per_block = 4 * C + C * K + C + S * C + 2 * C * C + 2 * C + 8 * C * C + 5 * C
    return V * C + T * C + L * per_block + 2 * C


@wrong("07_5", says="the head is counted too")
def untied(V, T, C, L, S, K):
    return number(V, T, C, L, S, K) + V * C


@wrong("07_5", says="the gate has 2C outputs")
def narrow_gate(V, T, C, L, S, K):
    return number(V, T, C, L, S, K) - L * (C * C + C)


@wrong("07_5", says="the convolution is depthwise")
def full_convolution(V, T, C, L, S, K):
    return number(V, T, C, L, S, K) + L * (K * C * C - K * C)


wrong_value("07_5", "the LayerNorm before the head is missing", lambda *n: number(*n) - 2 * n[2])
