"""Checks of notebook 12: what a block costs."""

import numpy as np

from minigam.course.judge import NotYet, exercise, expect, require

SIZES = ((7, 6, 5, 3), (1, 8, 1, 1), (256, 512, 512, 4), (1000, 64, 4096, 2))  # T, C, S, K


def _parts(got, names: tuple[str, ...], where: str) -> dict:
    """Return the answer if it is a dict with these names. Raises NotYet otherwise."""
    if not isinstance(got, dict):
        raise NotYet(f"{where}: got {type(got).__name__}, wanted a dict of {', '.join(names)}")
    if set(got) != set(names):
        odd = ", ".join(map(repr, sorted(set(got) ^ set(names), key=str)))
        raise NotYet(f"{where}: missing or unknown parts {odd}; wanted {', '.join(names)}")
    return got


def _judge(got: dict, want: dict, mistakes: dict, where: str) -> None:
    """Compare part by part. Half of a part is always the same mistake."""
    for name, flops in want.items():
        half = {"a multiplication and an addition are two flops; this is half of them": flops / 2}
        expect(got[name], flops, f"{where}: {name}", mistakes.get(name, {}) | half)


@exercise
def ex_12_1(gam_flops):
    """Flops of a GAM block, forward."""
    for T, C, S, K in SIZES:
        where = f"T = {T}, C = {C}, S = {S}, K = {K}"
        want = {
            "convolution": 2 * T * C * K,
            "memory": 4 * T * S * C,
            "gate": 4 * T * C * C,
            "feed-forward": 16 * T * C * C,
        }
        mistakes = {
            "convolution": {
                "each channel has a filter of its own: K products, not K C": 2 * T * C * C * K,
                "only one tap is counted; there are K": 2 * T * C,
            },
            "memory": {
                "only one of E3 and E5 is counted; both multiply by the memory": 2 * T * S * C,
                "a token is compared with S slots, not with T tokens": 4 * T * T * C,
                "a slot has C channels, and so has a token: T S C, not T S": 4 * T * S,
            },
            "gate": {"W_g has 2C rows, C for each gate": 2 * T * C * C},
            "feed-forward": {
                "only one of its two products is counted": 8 * T * C * C,
                "its hidden width is 4C": 4 * T * C * C,
            },
        }
        _judge(_parts(gam_flops(T, C, S, K), tuple(want), where), want, mistakes, where)
    return "four parts, four sizes"


@exercise
def ex_12_2(transformer_flops):
    """Flops of a Transformer block, forward."""
    for T, C, H in ((7, 6, 3), (1, 8, 2), (256, 512, 8), (1000, 64, 4)):
        where = f"T = {T}, C = {C}, H = {H}"
        want = {"projections": 8 * T * C * C, "attention": 4 * T * T * C, "feed-forward": 16 * T * C * C}
        mistakes = {
            "projections": {
                "only three of the four are counted; the output has one too": 6 * T * C * C,
                "only one of the four is counted": 2 * T * C * C,
            },
            "attention": {
                "H heads have C / H channels each, so H cancels; this is H times too much": (
                    want["attention"] * H
                ),
                "this is one head of H": want["attention"] / H,
                "only one of its two products, q k^T and a v, is counted": 2 * T * T * C,
                "the masked half is left out; count every pair": 2 * T * (T + 1) * C,
                "every token is compared with every token: T times T": 4 * T * C * C,
            },
            "feed-forward": {
                "only one of its two products is counted": 8 * T * C * C,
                "its hidden width is 4C": 4 * T * C * C,
            },
        }
        _judge(_parts(transformer_flops(T, C, H), tuple(want), where), want, mistakes, where)
    return "three parts, four sizes, one to eight heads"


@exercise
def ex_12_3(crossover):
    """Where the Transformer block begins to cost more than the GAM block."""
    for C, S, K in ((64, 256, 4), (100, 1000, 3), (512, 4096, 1), (512, 512, 3), (512, 64, 3), (8, 8, 1)):
        where = f"C = {C}, S = {S}, K = {K}"
        cross = S - C + K / 2
        want = max(0.0, cross)
        expect(
            crossover(C, S, K),
            want,
            where,
            {
                "no text is that short: where the formula gives a negative number, return 0.0": cross,
                "this is the crossover of attention alone and memory alone; whole blocks have projections "
                "and a gate too": S,
                "the convolution is missing, 2 K C a token": max(0.0, S - C),
                "the number is rounded": max(0, round(cross)),
                "the number is rounded down": int(want),
                "the sign of the convolution's share is wrong; it is part of GAM": max(0.0, S - C - K / 2),
                "gate and projections are exchanged: 20 C^2 is GAM's, 24 C^2 the Transformer's": S
                + C
                + K / 2,
                "divide all terms by 4 T C, the convolution's too": max(0.0, S - C + 2 * K),
            },
        )
    return "six sizes, two of them without a crossover"


def _fit(x, y):
    x, y = x - x.mean(), y - y.mean()
    p = (x * y).sum() / (x * x).sum()
    return p, ((y - p * x) ** 2).sum(), (x * x).sum()


@exercise
def ex_12_4(power_law):
    """The exponent of a power law and its standard error."""
    rng = np.random.default_rng(124)
    for lengths, p, noise in (
        ([128, 256, 512, 1024], 1.0, 0.1),
        ([10, 30, 50, 400, 1000], 2.0, 0.3),
        ([3, 5, 9], 0.5, 0.2),
        ([2, 4, 8, 16, 32, 64], 1.5, 0.0),
    ):
        T = np.array(lengths)
        t = 0.7 * T**p * np.exp(noise * rng.standard_normal(len(T)))
        where = f"{len(T)} lengths from {T[0]} to {T[-1]}"
        got = power_law(T, t)
        several = isinstance(got, tuple | list | np.ndarray)
        count = f"{len(got)} values" if several else type(got).__name__
        require(several and len(got) == 2, f"{where}: got {count}, wanted two numbers, p and its error")
        x, y, n = np.log(T), np.log(t), len(T)
        slope, squares, spread = _fit(x, y)
        expect(
            got[0],
            slope,
            f"{where}: p",
            {
                "this is a line through the values themselves; take the logarithm of both": _fit(T, t)[0],
                "the logarithm of the lengths is missing": _fit(T, y)[0],
                "the logarithm of the values is missing": _fit(x, t)[0],
                "this line goes through the origin; subtract the means first": (x * y).sum() / (x * x).sum(),
                "this is the slope from the first point to the last; use all points": (
                    (y[-1] - y[0]) / (x[-1] - x[0])
                ),
                "x and y are exchanged": _fit(y, x)[0],
            },
        )
        error = np.sqrt(squares / (n - 2) / spread)
        expect(
            got[1],
            error,
            f"{where}: error of p",
            {
                "divide the squares of the residuals by n - 2: two numbers were fitted": (
                    np.sqrt(squares / n / spread)
                ),
                "divide by n - 2, not n - 1: two numbers were fitted": np.sqrt(squares / (n - 1) / spread),
                "this is the scatter of the points about the line; divide by the spread of x, the sum of "
                "(x - mean)^2": np.sqrt(squares / (n - 2)),
                "this is log c, the intercept; wanted the standard error of the slope": y.mean()
                - slope * x.mean(),
                "the square root is missing": squares / (n - 2) / spread,
                "the spread of x is a sum here, not a mean": error * np.sqrt(n),
                "the division by n - 2 is missing": np.sqrt(squares / spread),
            },
        )
    got = power_law([1, 2, 4], [3.0, 6.0, 12.0])
    expect(got[0], 1.0, "lists of three numbers: p")
    expect(got[1], 0.0, "lists of three numbers: error of p")
    return "noisy and exact powers, three to six lengths, evenly spaced or not, lists"
