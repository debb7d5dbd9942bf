"""Checks of notebook 05: the associative memory."""

import numpy as np

from minigam.course.judge import exercise, expect, gradients, numbers, require
from minigam.engine.sequence import associative_memory

SHAPES = ((2, 5, 4, 3), (1, 1, 4, 1), (3, 2, 1, 6))  # B, T, C, S


def _softmax(s, axis=-1):
    e = np.exp(s - s.max(axis=axis, keepdims=True))
    return e / e.sum(axis=axis, keepdims=True)


def _recall(u, M):
    return associative_memory.rule(np, u, M)[0]


@exercise
def ex_05_1(softmax):
    """The softmax over the last axis."""
    rng = np.random.default_rng(51)
    for shape in ((2, 5, 3), (4, 3), (6,), (2, 3, 1)):
        s = rng.standard_normal(shape) * 3.0
        expect(
            softmax(s),
            _softmax(s),
            f"scores of shape {shape}",
            {
                f"the shares of a token must add up to 1 over the last axis; yours do over axis {k}": (
                    _softmax(s, axis=k)
                )
                for k in range(s.ndim - 1)
            }
            | {
                "all scores together add up to 1; wanted those of each token, over the last axis": (
                    np.exp(s) / np.exp(s).sum()
                ),
                "the exponentials are not divided by their sum": np.exp(s - s.max(axis=-1, keepdims=True)),
                "the scores are divided by the largest; subtract it: e^s / e^m is e^(s - m)": (
                    _softmax(s / s.max(axis=-1, keepdims=True))
                ),
            },
        )
    large = np.array([[1e4, 1e4 - 1.0], [-1e4, -1e4]])
    with np.errstate(over="ignore", invalid="ignore"):
        got = numbers(softmax(large), "scores of 10,000")
    require(
        bool(np.isfinite(got).all()),
        "scores of 10,000 give nan: subtract the largest score of each token before np.exp",
    )
    expect(got, _softmax(large), "scores of 10,000")
    return "any number of axes, one slot, scores of 10,000"


@exercise
def ex_05_2(recall):
    """Recall, E3 to E5."""
    rng = np.random.default_rng(52)
    for B, T, C, S in SHAPES:
        u, M = rng.standard_normal((B, T, C)), rng.standard_normal((S, C))
        s = u @ M.T
        expect(
            recall(u, M),
            _recall(u, M),
            f"u {u.shape}, M {M.shape}",
            {
                "the scores are divided by sqrt(C), as attention does; GAM does not": _softmax(s / C**0.5)
                @ M,
                "the softmax runs over the tokens; wanted over the slots, the last axis": _softmax(s, axis=1)
                @ M,
                "the softmax runs over the batch; wanted over the slots, the last axis": _softmax(s, axis=0)
                @ M,
                "u is added to the answer; E5 is the mix of the slots alone": _recall(u, M) + u,
                "these are the scores times M; the softmax between them is missing": s @ M,
                "these are the shares a; E5 is missing, the sum of the slots times their shares": _softmax(s),
                "this is the best slot alone; wanted a mix of all slots": M[s.argmax(axis=-1)],
            },
        )
    return "values, one slot, one token, one channel"


@exercise
def ex_05_3(recall_backward):
    """The gradient of recall with respect to u and M."""
    rng = np.random.default_rng(53)
    for B, T, C, S in SHAPES:
        u, M = rng.standard_normal((B, T, C)), rng.standard_normal((S, C))
        dy = rng.standard_normal(u.shape)
        a, da = _softmax(u @ M.T), dy @ M.T
        ds = a * (da - (da * a).sum(axis=-1, keepdims=True))
        wrong_centres = {
            "the sum of da * a runs over all tokens; wanted over the slots of each token": (da * a).sum(),
            "the sum over the slots is of da alone; wanted of da * a": da.sum(axis=-1, keepdims=True),
            "a score changes the shares of all slots, not only its own: sum da * a over them": da * a,
        }
        rows = [z.reshape(-1, z.shape[-1]) for z in (a, dy, ds, u, a * da)]
        values, keys = rows[0].T @ rows[1], rows[2].T @ rows[3]
        each = a.swapaxes(1, 2) @ dy + ds.swapaxes(1, 2) @ u  # (B, S, C)
        mistakes = {
            "M": {
                "one gradient for each batch; all batches share one M, so their gradients add up": each,
                "this is the mean over the batches; wanted the sum": each.mean(axis=0),
                "these are the tokens of the first batch; wanted the sum over all batches": each[0],
                "this is its transpose; E3 uses M.T, so transpose the gradient back": (values + keys).T,
                "this is the term of M as values alone; M is also used as keys, in E3": values,
                "this is the term of M as keys alone; M is also used as values, in E5": keys,
                "through the softmax: subtract the sum of da * a over the slots before multiplying by a": (
                    values + rows[4].T @ rows[3]
                ),
            },
            "u": {
                "through the softmax: subtract the sum of da * a over the slots before multiplying by a": (
                    (a * da) @ M
                ),
                "this is the gradient of M; return (du, dM), in that order": values + keys,
                "this is da @ M; the gradient of the softmax is missing": da @ M,
                **{message: (a * (da - centre)) @ M for message, centre in wrong_centres.items()},
            },
        }
        gradients(
            recall_backward(dy, u, M), _recall, (u, M), dy, "u M", f"u {u.shape}, M {M.shape}", mistakes
        )
    return "both gradients, by finite differences, three shapes"


@exercise
def ex_05_4(slots_in_use):
    """exp(entropy) of the shares."""
    rng = np.random.default_rng(54)
    for shape in ((2, 5, 7), (4, 1), (3,)):
        a = _softmax(rng.standard_normal(shape) * 2.0)
        entropy = -(a * np.log(a)).sum(axis=-1)
        expect(
            slots_in_use(a),
            np.exp(entropy),
            f"shares of shape {shape}",
            {
                "this is the entropy itself; wanted its exponential": entropy,
                "the entropy has the wrong sign": np.exp(-entropy),
                "this is 2 to the power of the entropy in nats; wanted e": 2.0**entropy,
                "the logarithm has base 2, the power base e; use one": np.exp(entropy / np.log(2.0)),
                "the entropy is a mean over the slots; wanted a sum": np.exp(entropy / shape[-1]),
                "one number for all tokens; wanted one for each (a[a > 0] is flat)": np.exp(entropy.sum()),
            },
        )
    sure = np.array([[1.0, 0.0, 0.0], [0.25, 0.25, 0.5]])
    with np.errstate(divide="ignore", invalid="ignore"):
        got = numbers(slots_in_use(sure), "shares of exactly 0")
    require(bool(np.isfinite(got).all()), "a share of exactly 0 gives nan; 0 log 0 counts as 0")
    expect(got, np.array([1.0, np.exp(1.5 * np.log(2.0))]), "shares of exactly 0")
    return "values, one slot, shares of exactly 0"


@exercise
def ex_05_5(energy):
    """The energy of a modern Hopfield network."""
    rng = np.random.default_rng(55)
    for shape, S, beta in (((4,), 3, 1.0), ((2, 5, 4), 6, 0.3), ((3, 4), 1, 8.0)):
        x, M = rng.standard_normal(shape), rng.standard_normal((S, shape[-1]))
        z = beta * (x @ M.T)
        lse, square, top = np.log(np.exp(z).sum(axis=-1)), (x * x).sum(axis=-1), z.max(axis=-1)
        expect(
            energy(x, M, beta),
            -lse / beta + 0.5 * square,
            f"x {shape}, M {M.shape}, beta {beta}",
            {
                "the first term needs a minus: a good match has a low energy": lse / beta + 0.5 * square,
                "the logarithm is not divided by beta": -lse + 0.5 * square,
                "the second term is half of x times x": -lse / beta + square,
                "the second term, half of x times x, is missing": -lse / beta,
                "x times x is summed over all queries; wanted one number for each": (
                    -lse / beta + 0.5 * square.sum()
                ),
                "the largest score is subtracted and never added back": (-(lse - top) / beta + 0.5 * square),
                "beta belongs inside the exponential too": (
                    -np.log(np.exp(x @ M.T).sum(axis=-1)) / beta + 0.5 * square
                ),
            },
        )
    x, M = np.array([[100.0, 100.0], [-100.0, -100.0]]), np.array([[10.0, 10.0], [1.0, 1.0]])
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        got = numbers(energy(x, M, 1.0), "scores of 2,000")
    require(
        bool(np.isfinite(got).all()),
        "scores of 2,000 overflow, or -2,000 give log 0: first subtract the largest score of each query",
    )
    expect(got, np.array([-2000.0, 200.0]) + 10000.0, "scores of 2,000")
    return "values, one pattern, three temperatures, scores of 2,000"
