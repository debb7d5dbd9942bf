"""Checks of notebook 09: what GAM sees."""

import math

import numpy as np

from minigam.course.judge import exercise, expect, require
from minigam.data.mqar import mqar

T, V = 12, 6  # tokens and vocabulary of the black boxes
IDS = np.array([2, 0, 4, 2, 1, 4, 0, 2, 4, 2, 0, 3])


@exercise
def ex_09_1(reach):
    """R = 1 + L (K - 1), and 1 for the memory alone."""
    for L, K in ((6, 3), (4, 4), (1, 7), (3, 2), (5, 1), (12, 9)):
        for mixer in (None, "gated", "sum", "local"):
            got = reach(L, K) if mixer is None else reach(L, K, mixer)
            expect(
                got,
                1 + L * (K - 1),
                f"L = {L}, K = {K}" + (f", mixer {mixer!r}" if mixer else ""),
                {
                    "the present token is missing: it counts, so add 1": L * (K - 1),
                    "a block adds K - 1 tokens, not K: one of its taps reads the present token": 1 + L * K,
                    "a block adds K - 1 tokens, not K, and the present token counts once": L * K,
                    "before the first block R is 1, not K: K - 1 is added L times to 1": K + L * (K - 1),
                    "the view grows by K - 1 a block; it is not multiplied by K": K**L,
                    "every block adds K - 1 tokens; here only one block is counted": K,
                    'only mixer "global" has no convolution': 1,
                },
            )
            _whole(got, f"L = {L}, K = {K}")
    for L, K in ((4, 4), (1, 3)):
        where = f"L = {L}, K = {K}, mixer 'global'"
        got = reach(L, K, "global")
        expect(
            got,
            1,
            where,
            {
                'mixer "global" has no convolution: it reads no earlier token': 1 + L * (K - 1),
                "the memory is the same for every text: it carries nothing between tokens": math.inf,
                "the present token itself counts, so it is 1": 0,
            },
        )
        _whole(got, where)
    return "six sizes, K = 1, all four mixers"


def _whole(got, where: str) -> None:
    """Raise NotYet for a right number that is no int: later cells slice with it."""
    require(isinstance(got, int | np.integer), f"{where}: right, but {type(got).__name__}; return an int")


class _Box:
    """A black box whose output at t is the sum of weights[d] times the token d back.

    merge   : how many neighbouring tokens of the vocabulary it treats as the same
    changed : the largest number of places at which its input has differed from IDS
    """

    def __init__(self, weights: dict[int, float], merge: int = 1):
        self.weights, self.merge, self.changed = weights, merge, 0

    def __repr__(self) -> str:
        return "f"

    def __call__(self, ids):
        ids = np.asarray(ids)
        require(ids.shape == (T,), f"f was given ids of shape {ids.shape}, wanted ({T},), one token changed")
        require(bool(((ids >= 0) & (ids < V)).all()), f"f was given ids outside 0 .. {V - 1}, the vocabulary")
        self.changed = max(self.changed, int((ids != IDS).sum()))
        x = (ids // self.merge + 1.0) ** 2
        y = np.zeros(T)
        for d, w in self.weights.items():
            y[d:] += w * x[: T - d]
        return np.stack([y, -y, np.ones(T)], axis=1)


@exercise
def ex_09_2(measured_reach):
    """The measured reach, on black boxes whose reach is known."""
    small = 1e-9
    one_short = "wanted 1 + d for the largest d that changes the row: the present token counts"
    all_rows = "only the last row counts, f(ids)[-1]; and d is counted from the end, ids[T - 1 - d]"
    cases = {
        "a box that sees 5 tokens": (
            _Box(dict.fromkeys(range(5), 1.0)),
            5,
            {
                one_short: 4,
                all_rows: T,
                "this is the number of tokens that do not matter": T - 5,
                "counted from the beginning; wanted from the end": T - 4,
                "one place off: ids[-1] is d = 0, the present token, and ids[-1 - d] is d places back": 6,
                "all replacements were counted; wanted 1 + d for the largest d": 5 * (V - 1),
                "a row has changed if one of its numbers has: any, not all": 0,
            },
        ),
        "a box that sees the present token alone": (_Box({0: 1.0}), 1, {one_short: 0, all_rows: T}),
        "a box that sees all": (
            _Box(dict.fromkeys(range(T), 1.0)),
            T,
            {one_short: T - 1, "the first token of the row was not tried": T - 1},
        ),
        "a box that sees the present token and the one 7 back, and none between": (
            _Box({0: 1.0, 7: 1.0}),
            8,
            {
                "this is the number of tokens that matter; wanted 1 + d for the furthest one": 2,
                "the search stopped at the first token that does not matter": 1,
                one_short: 7,
            },
        ),
        "a box that sees only the token 3 back": (
            _Box({3: 1.0}),
            4,
            {"the search stopped at the present token, which this box ignores": 0, one_short: 3},
        ),
        "a box whose furthest token weighs 1e-9": (
            _Box({0: 1.0, 1: 1.0, 6: small}),
            7,
            {"a change of 1e-9 is a change: compare with !=, not with np.allclose or a threshold": 2},
        ),
        "a box that treats tokens 0 and 1, 2 and 3, 4 and 5 as the same": (
            _Box({0: 1.0, 5: 1.0}, merge=2),
            6,
            {
                "this box treats some tokens as the same: try every other token in every place": 1,
                "this box treats some tokens as the same: try all others in each place, not one": 0,
            },
        ),
        "a box that sees nothing": (_Box({}), 0, {"nothing changes its output, so it is 0": 1}),
    }
    for where, (f, want, mistakes) in cases.items():
        got = measured_reach(f, IDS, V)
        if f.changed > 1:  # which may be right; if it is not, this is why
            mistakes = {"several tokens are replaced at once: copy ids for each replacement": got} | mistakes
        expect(got, want, where, mistakes)
    return "eight boxes: all, one or no tokens in reach, gaps, small weights, equal tokens"


@exercise
def ex_09_3(layers_needed):
    """The least L with L (K - 1) >= d."""
    for d, K in ((12, 4), (14, 4), (17, 6), (13, 4), (1, 2), (1, 9), (84, 4), (255, 3), (7, 8), (8, 8)):
        expect(
            layers_needed(d, K),
            -(-d // (K - 1)),
            f"d = {d}, K = {K}",
            {
                "the token d places back needs R = d + 1; this is enough for d - 1 only": -(
                    -(d - 1) // (K - 1)
                ),
                "rounded to the nearest whole number; round up": (round(d / (K - 1))),
                "rounded down; round up": d // (K - 1),
                "one block too many: at d = R - 1 the token is still in reach": d // (K - 1) + 1,
                "a block adds K - 1 tokens, not K": -(-d // K),
                "a fraction of a block; round it up": d / (K - 1),
            },
        )
    for K in (1, 3):
        without = {"the present token is seen without any block, even with K = 1": math.inf}
        expect(layers_needed(0, K), 0, f"d = 0, K = {K}", without)
    expect(layers_needed(5, 1), math.inf, "d = 5, K = 1, where no number of blocks is enough")
    return "ten distances, d = 0, K = 1"


@exercise
def ex_09_4(share_in_reach):
    """The share of mentions at most R tokens before their word."""
    rng = np.random.default_rng(94)
    for n, R in ((40, 13), (25, 1), (30, 5), (1, 3), (10, 30)):
        back = rng.integers(1, 26, size=n)
        back[0] = R  # the furthest that is in reach
        within, inner = np.mean(back <= R), np.mean(back < R)
        expect(
            share_in_reach(back, R),
            within,
            f"{n} mentions, reach {R}",
            {
                "a mention exactly R tokens before the word is in reach, and counts": inner,
                "this is the share out of reach": 1.0 - within,
                "this is a number of mentions; wanted their share": np.sum(back <= R),
                "this is the mean distance of those in reach; wanted their share": np.mean(back[back <= R]),
                "this is in per cent; wanted a share from 0 to 1": 100.0 * within,
                "one token too far: n tokens before the word is in reach if n is at most R": (
                    np.mean(back <= R + 1)
                ),
                "one token too near: the present token is the one just before the predicted word": (
                    np.mean(back <= R - 2)
                ),
            },
        )
    expect(share_in_reach(np.array([1, 500]), None), 1.0, "a reach of None, which sees all")
    return "five sets of mentions, a mention exactly R back, a reach of None"


def _answers(tokens, n_keys, reach, after=1, asked=None, least=0, in_row=False):
    """Return the answers of the exercise, or with one mistake: other tokens are taken for keys (asked), the
    view starts at `least` or later, or a place in the view is used as a place in the row."""
    answers = np.full(len(tokens), -1)
    for t, key in enumerate(tokens):
        start = max(least, t - reach + 1)
        at = np.flatnonzero(tokens[start:t] == key)
        if key in (asked or range(1, n_keys + 1)) and len(at):
            answers[t] = (tokens if in_row else tokens[start : t + 1])[at[0] + after]
    return answers


def _following(tokens, n_keys):
    """Return, at every key, the token after it: its value at the first occurrence, a blank later."""
    return np.where((tokens >= 1) & (tokens <= n_keys), np.append(tokens[1:], 0), -1)


@exercise
def ex_09_5(answer_in_sight):
    """A perfect model with a reach of R tokens."""
    rng = np.random.default_rng(95)
    rows = [mqar(1, np.array([p]), 32, 8, 8, rng)[0][0] for p in (4, 8, 1, 6)]
    by_hand = np.array([1, 10, 0, 2, 9, 1, 0, 2, 0])  # asks at distances 5 and 4
    for tokens, name in [(by_hand, "the row 1 10 0 2 9 1 0 2 0"), *((r, "an MQAR row") for r in rows)]:
        for R in (3, 5, 6, 13, 1, len(tokens)):
            want = _answers(tokens, 8, R)
            everything = _answers(tokens, 8, len(tokens))
            mistakes = {
                "sees one token too many: the present token is one of the R": _answers(tokens, 8, R + 1),
                "some answers lie out of reach; use R tokens only": everything,
                "sees one token too few: the present token and R - 1 before it": (_answers(tokens, 8, R - 1)),
                "this is the key itself; its value is the token after it": _answers(tokens, 8, R, 0),
                "the answer follows the key's earlier place, not the query": _following(tokens, 8),
                "blanks (0) or values are answered too; only keys, 1 .. n_keys, have an answer": (
                    _answers(tokens, 8, R, asked=range(tokens.max() + 1))
                ),
                "a negative start of a slice counts from the end; let the view start at 0 or later": (
                    _answers(tokens, 8, R, least=-len(tokens))
                ),
                "a place in the view is used as a place in the row": _answers(tokens, 8, R, in_row=True),
                "n_keys is a key too": _answers(tokens, 8, R, asked=range(1, 8)),
                "the answer is the value itself, n_keys + 1 or more": np.where(want < 0, want, want - 8),
                "where there is no answer it is -1, not 0": np.where(want < 0, 0, want),
            }
            expect(answer_in_sight(tokens, 8, R), want, f"{name}, 8 keys, reach {R}", mistakes)
    return "rows by hand and at random, reaches from 1 to the whole row"
