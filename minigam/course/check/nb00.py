"""Checks of notebook 00: broadcasting, `@` over the last axis, sums that keep their axis."""

import numpy as np

from minigam.course.judge import NotYet, exercise, expect


@exercise
def ex_00_1(weigh):
    """x times a number for each token and one for each channel."""
    rng = np.random.default_rng(1)
    for B, T, C in ((2, 4, 4), (2, 5, 3), (1, 1, 4), (3, 6, 1)):  # T = C first: there nothing raises
        x, token, channel = rng.standard_normal((B, T, C)), rng.standard_normal(T), rng.standard_normal(C)
        mistakes = {
            "token is left out": x * channel,
            "channel is left out": x * token[:, None],
            "token and channel are added; wanted x times both": x * (token[:, None] + channel),
        }
        if T == C:
            both = "token weighs the channels: (T,) lines up with the last axis; make it (T, 1)"
            mistakes |= {
                both: x * token * channel,
                "token and channel are exchanged": x * channel[:, None] * token,
                both + ", and leave channel as it is": x * token[:, None] * channel[:, None],
            }
        expect(_shaped(weigh, x, token, channel), x * token[:, None] * channel, f"x {x.shape}", mistakes)
    return "values, T = C, one token, one channel"


def _shaped(answer, *given):
    """Return what the answer gives; where NumPy cannot line shapes up, add a word on what it tried."""
    try:
        return answer(*given)
    except NotYet as e:
        if "could not be broadcast" in str(e):
            raise NotYet(f"{e}. Axes line up from the right") from None
        raise


@exercise
def ex_00_2(compare):
    """The dot product of each token with each row of M."""
    rng = np.random.default_rng(2)
    for B, T, C, S in ((2, 4, 4, 4), (2, 5, 3, 6), (1, 1, 4, 1), (3, 2, 1, 5)):
        x, M = rng.standard_normal((B, T, C)), rng.standard_normal((S, C))
        s = np.einsum("btc,sc->bts", x, M)
        mistakes = {"the last two axes are exchanged; wanted (B, T, S)": s.swapaxes(1, 2)}
        if S == C:
            mistakes["M must be turned: the sum runs over its C, the last axis"] = x @ M
            mistakes["M is on the wrong side: tokens times M turned"] = M @ x
            mistakes["M is on the wrong side, and turned: x @ M.T"] = M.T @ x
        else:
            total = x.sum(axis=-1, keepdims=True) * M.sum(axis=-1)
            mistakes["the sums were multiplied; multiply first, then sum over c"] = total
        expect(compare(x, M), s, f"x {x.shape}, M {M.shape}", mistakes)
    return "values, S = C, one token, one slot, one channel"


@exercise
def ex_00_3(to_shares):
    """Every token's numbers divided by their sum."""
    rng = np.random.default_rng(3)
    for B, T, C in ((4, 4, 4), (2, 5, 3), (1, 1, 4), (3, 2, 1)):  # B = T = C first: there nothing raises
        x = rng.uniform(0.1, 2.0, (B, T, C))
        e = np.exp(x)
        mistakes = {
            "all numbers together add up to 1; wanted those of each token": x / x.sum(),
            "the shares add up to 1 over the tokens; wanted over the channels, the last axis": (
                x / x.sum(axis=1, keepdims=True)
            ),
            "the shares add up to 1 over the batch; wanted over the channels, the last axis": (
                x / x.sum(axis=0, keepdims=True)
            ),
            "these are the sums; wanted x divided by them": x.sum(axis=-1, keepdims=True),
            "these are the sums, without their axis; wanted x divided by them": x.sum(axis=-1),
            "divided by the largest; wanted by the sum": x / x.max(axis=-1, keepdims=True),
            "divided by the mean; wanted by the sum": x / x.mean(axis=-1, keepdims=True),
            "this is the softmax; no exponential here, the numbers are above 0 already": (
                e / e.sum(axis=-1, keepdims=True)
            ),
        }
        if T == C == B:
            lost = "the sum has lost its axis, and lines up with the wrong one; keepdims=True"
            mistakes[lost] = x / x.sum(axis=-1)
        expect(_shaped(to_shares, x), x / x.sum(axis=-1, keepdims=True), f"x {x.shape}", mistakes)
    return "values, B = T = C, one token, one channel"
