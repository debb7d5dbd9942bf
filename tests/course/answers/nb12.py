"""Wrong answers to the exercises of notebook 12."""

import numpy as np

from answers import wrong


def gam(T, C, S, K):
    return {
        "convolution": 2 * T * C * K,
        "memory": 4 * T * S * C,
        "gate": 4 * T * C * C,
        "feed-forward": 16 * T * C * C,
    }


@wrong("12_1", says="both multiply by the memory")
def memory_once(T, C, S, K):
    return gam(T, C, S, K) | {"memory": 2 * T * S * C}


@wrong("12_1", says="a filter of its own")
def dense_convolution(T, C, S, K):
    return gam(T, C, S, K) | {"convolution": 2 * T * C * C * K}


@wrong("12_1", says="two flops; this is half of them")
def multiplications_alone(T, C, S, K):
    return {name: flops // 2 for name, flops in gam(T, C, S, K).items()}


@wrong("12_1", says="wanted a dict of")
def only_the_sum(T, C, S, K):
    return sum(gam(T, C, S, K).values())


def transformer(T, C, H):
    return {"projections": 8 * T * C * C, "attention": 4 * T * T * C, "feed-forward": 16 * T * C * C}


@wrong("12_2", says="H cancels")
def heads_times_everything(T, C, H):
    return transformer(T, C, H) | {"attention": 4 * T * T * C * H}


@wrong("12_2", says="the output has one too")
def no_output_projection(T, C, H):
    return transformer(T, C, H) | {"projections": 6 * T * C * C}


@wrong("12_2", says="count every pair")
def masked_half(T, C, H):
    return transformer(T, C, H) | {"attention": 2 * T * (T + 1) * C}


@wrong("12_2", says="missing or unknown parts 'qkv'")
def another_name(T, C, H):
    return transformer(T, C, H) | {"qkv": 0}


@wrong("12_3", says="attention alone and memory alone")
def slots(C, S, K):
    return S


@wrong("12_3", says="no text is that short")
def below_nothing(C, S, K):
    return S - C + K / 2


@wrong("12_3", says="the convolution is missing")
def no_convolution(C, S, K):
    return max(0, S - C)


def fit(x, y):
    x, y = x - x.mean(), y - y.mean()
    p = (x * y).sum() / (x * x).sum()
    return p, y - p * x, (x * x).sum()


@wrong("12_4", says="take the logarithm of both")
def no_logarithms(lengths, values):
    p, r, spread = fit(np.asarray(lengths), np.asarray(values))
    return p, np.sqrt((r * r).sum() / (len(r) - 2) / spread)


@wrong("12_4", says="through the origin")
def through_the_origin(lengths, values):
    x, y = np.log(lengths), np.log(values)
    return (x * y).sum() / (x * x).sum(), 0.0


@wrong("12_4", says="divide the squares of the residuals by n - 2")
def divided_by_n(lengths, values):
    p, r, spread = fit(np.log(lengths), np.log(values))
    return p, np.sqrt((r * r).mean() / spread)


@wrong("12_4", says="divide by the spread of x")
def scatter_alone(lengths, values):
    p, r, _ = fit(np.log(lengths), np.log(values))
    return p, np.sqrt((r * r).sum() / (len(r) - 2))
