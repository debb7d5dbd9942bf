"""Checks of notebook 11: the selective scan."""

import math

import numpy as np

from minigam.course.judge import exercise, expect, gradients, pair, require
from minigam.engine.sequence import selective_scan as trusted

SHAPES = ((2, 5, 3, 4), (1, 1, 2, 3), (3, 4, 1, 1))  # b, T, E, N


def _inputs(rng, b, T, E, N):
    """Return x, delta, A, B, C, skip."""
    return (
        rng.standard_normal((b, T, E)),
        rng.uniform(0.1, 1.2, (b, T, E)),
        -rng.uniform(0.3, 2.0, (E, N)),
        rng.standard_normal((b, T, N)),
        rng.standard_normal((b, T, N)),
        rng.standard_normal(E),
    )


def _scan(x, delta, A, B, C, skip, *, a=None, write=None, late=False):
    """Return y and the states; `a` and `write` replace decay and write, `late` reads the state before."""
    a = np.exp(delta[..., None] * A) if a is None else a
    write = (delta * x)[..., None] * B[:, :, None] if write is None else write
    h, states, read = np.zeros_like(a[:, 0]), [], []
    for t in range(x.shape[1]):
        before, h = h, a[:, t] * h + write[:, t]
        states.append(h)
        read.append(((before if late else h) * C[:, t, None]).sum(axis=-1))
    return np.stack(read, axis=1) + skip * x, np.stack(states, axis=1)


@exercise
def ex_11_1(discretise):
    """The exact zero-order hold."""
    rng = np.random.default_rng(111)
    for shape in ((4,), (3, 2), (2, 1, 3)):
        delta, A = rng.uniform(0.05, 1.5, shape), -rng.uniform(0.5, 4.0, shape[-1])
        B = rng.standard_normal(shape)
        a, b = pair(discretise(delta, A, B), f"delta {shape}", "a, b")
        exact = np.expm1(delta * A) / A * B
        expect(
            a,
            np.exp(delta * A),
            f"a, delta {shape}",
            {
                "this is 1 + delta A, only the first two terms of the exponential": 1.0 + delta * A,
                "the sign of A is wrong; A is already below 0": np.exp(-delta * A),
                "a and b are swapped; return (a, b)": exact,
            },
        )
        expect(
            b,
            exact,
            f"b, delta {shape}",
            {
                "this is delta B, as in Mamba's code; wanted the exact step": delta * B,
                "the sign is wrong: e^(delta A) - 1 and A are both below 0": -exact,
                "the division by A is missing": np.expm1(delta * A) * B,
                "divided by delta A; wanted divided by A": exact / delta,
                "B is missing": exact / B,
            },
        )
    small = np.array([1e-6, 1e-12, 1e-15])
    a, b = discretise(small, -1.0, 2.0)
    share = np.asarray(b, dtype=np.float64) / (2.0 * small)
    require(
        bool(np.abs(share - 1.0).max() < 1e-4),
        f"delta A = -1e-15: b is {share[-1]:.3f} times what it should be; np.exp(z) - 1 loses "
        "the digits of a small z, np.expm1(z) does not",
    )
    expect(np.asarray(a, dtype=np.float64), np.exp(-small), "a, a tiny delta")
    a, b = pair(discretise(0.3, -2.0, 1.5), "numbers", "a, b")
    expect(a, np.exp(-0.6), "a, numbers instead of arrays")
    expect(b, np.expm1(-0.6) / -2.0 * 1.5, "b, numbers instead of arrays")
    return "numbers, and three shapes that broadcast; delta down to 1e-15"


@exercise
def ex_11_2(selective_scan):
    """The selective scan, its outputs and states."""
    rng = np.random.default_rng(112)
    for shape in SHAPES:
        z = x, delta, A, B, C, skip = _inputs(rng, *shape)
        where = f"x {x.shape}, A {A.shape}"
        got_y, got_h = pair(selective_scan(*z), where, "y, h")
        y, h = _scan(*z)
        exact = np.expm1(delta[..., None] * A) / A * (x[..., None] * B[:, :, None])
        write = (delta * x)[..., None] * B[:, :, None]
        mistakes = {
            "the last term, skip x, is missing": (y - skip * x, h),
            "delta is missing in what is written; b is delta B": _scan(*z, write=write / delta[..., None]),
            "b is that of the exact zero-order hold; wanted delta B": _scan(*z, write=exact),
            "the decay is exp(A); wanted exp(delta A), which depends on the token": _scan(
                *z, a=np.broadcast_to(np.exp(A), h.shape)
            ),
            "y reads the state before the token; wanted the state after it": _scan(*z, late=True),
            "the state is not carried from token to token": _scan(*z, a=np.zeros_like(h)),
            "B and C are swapped: B is for the write, C for the read": _scan(x, delta, A, C, B, skip),
        }
        expect(got_y, y, f"y, {where}", {k: v[0] for k, v in mistakes.items()})
        start = np.concatenate([np.zeros_like(h[:, :1]), h], axis=1)
        expect(
            got_h,
            h,
            f"h, {where}",
            {
                "these are the states before each token; wanted those after it": start[:, :-1],
                "the state before the first token is included; wanted T states": start,
                "this is only the last state; wanted the states after every token": h[:, -1],
                "the first axis is time; wanted (b, T, E, N)": h.swapaxes(0, 1),
            },
        )
    return "outputs and states, three shapes, one token, one state"


@exercise
def ex_11_3(hold):
    """A state that holds the latest marked value."""
    for A in (-1.0, -0.2, -16.0):
        got = hold(A)
        several = isinstance(got, tuple | list | np.ndarray)
        count = f"{len(got)} values" if several else type(got).__name__
        require(several and len(got) == 3, f"A = {A:g}: got {count}, wanted three numbers, w, beta and c")
        for name, value in zip(("w", "beta", "c"), got, strict=True):
            number = np.asarray(value)
            fine = number.dtype.kind in "iuf" and number.size == 1 and np.isfinite(number).all()
            require(bool(fine), f"A = {A:g}: {name} is {value!r}, wanted one finite number")
        w, beta, c = (float(np.asarray(v).ravel()[0]) for v in got)
        without, marked = np.logaddexp(0.0, beta), np.logaddexp(0.0, w + beta)
        kept, old, size = math.exp(1000 * without * A), math.exp(marked * A), marked * c
        require(
            without < marked,
            f"A = {A:g}: delta is {without:.2g} without a mark and {marked:.2g} with one; it must be larger "
            "with a mark: w > 0",
        )
        require(
            kept >= 0.99,
            f"A = {A:g}: delta is {without:.2g} without a mark, and 1,000 such tokens leave {kept:.1%} of "
            "the state; choose a smaller beta",
        )
        require(
            old <= 0.01,
            f"A = {A:g}: delta is {marked:.2g} at a mark, which leaves {old:.1%} of the old state; choose "
            "a larger w",
        )
        require(
            abs(size - 1.0) <= 0.01,
            f"A = {A:g}: a marked value is written at {size:.3g} times its size; delta c must be 1",
        )
    return "kept for 1,000 tokens, old values erased, new values at full size, for A = -1, -0.2, -16"


def _backward(dy, x, delta, A, B, C, skip, *, carried=True, before=True, decay=True):
    """Return the two parts of ddelta (write, decay), dA and dz; the switches make them wrong."""
    h = _scan(x, delta, A, B, C, skip)[1]
    a = np.exp(delta[..., None] * A)
    dh, carry = np.zeros_like(h), np.zeros_like(h[:, 0])
    for t in reversed(range(x.shape[1])):
        dh[:, t] = C[:, t, None] * dy[:, t, :, None] + carry
        carry = a[:, t] * dh[:, t] if carried else carry
    earlier = np.concatenate([np.zeros_like(h[:, :1]), h[:, :-1]], axis=1) if before else h
    dz = dh * earlier * (a if decay else 1.0)
    written = x * (dh * B[:, :, None]).sum(axis=-1)
    return written, (dz * A).sum(axis=-1), (dz * delta[..., None]).sum(axis=(0, 1)), dz


@exercise
def ex_11_4(step_gradient):
    """The gradients of delta and A."""
    rng = np.random.default_rng(114)
    for shape in SHAPES:
        z = x, delta, A, B, C, skip = _inputs(rng, *shape)
        dy = rng.standard_normal(x.shape)
        written, kept, _, dz = _backward(dy, *z)
        wrong = {
            "the gradient is not carried from token to token: dh_t needs a_{t+1} dh_{t+1}": _backward(
                dy, *z, carried=False
            ),
            "dz needs the state before the token, h_{t-1}; yours uses h_t": _backward(dy, *z, before=False),
            "the derivative of exp(z) is exp(z): dz needs the factor a": _backward(dy, *z, decay=False),
        }
        mistakes = {
            "delta": {
                "the part through the decay is missing; delta also decides how much is kept": written,
                "the part through the write is missing; delta also decides how much is written": kept,
                "z is delta A, so multiply dz by A before the sum over n": (written + dz.sum(axis=-1)),
                "in the part through the write, x is missing": written / x + kept,
                **{k: v[0] + v[1] for k, v in wrong.items()},
            },
            "A": {
                "z is delta A, so multiply dz by delta before the sum": dz.sum(axis=(0, 1)),
                "every token of every sequence uses A: sum over both axes": (dz * delta[..., None]).sum(
                    axis=1
                ),
                **{k: v[2] for k, v in wrong.items()},
            },
        }
        gradients(
            step_gradient(dy, *z),
            lambda delta, A, x=x, B=B, C=C, skip=skip: trusted.rule(np, x, delta, A, B, C, skip)[0],
            (delta, A),
            dy,
            "delta A",
            f"x {x.shape}, A {A.shape}",
            mistakes,
        )
    return "both gradients against finite differences, three shapes"


def _join(first, second):
    return second[0] * first[0], second[0] * first[1] + second[1]


def _rounds(a, b, rounds: int, join=_join):
    """Return Hillis and Steele's a and b after some rounds."""
    for k in (2**r for r in range(rounds)):
        if k < len(a):
            new = join((a[:-k], b[:-k]), (a[k:], b[k:]))
            a, b = np.concatenate([a[:k], new[0]]), np.concatenate([b[:k], new[1]])
    return a, b


@exercise
def ex_11_5(combine, parallel_scan):
    """The join of two maps, and the scan that uses it."""
    rng = np.random.default_rng(115)
    for shape in ((3,), (2, 4)):
        (a1, b1), (a2, b2) = first, second = rng.standard_normal((2, 2, *shape))
        where = f"combine, a and b {shape}"
        got = pair(combine((a1, b1), (a2, b2)), where, "a, b")
        want = _join(first, second)
        expect(
            got[0],
            want[0],
            f"{where}: a",
            {"a is the sum of the two; wanted their product": a1 + a2, "a and b are swapped": want[1]},
        )
        expect(
            got[1],
            want[1],
            f"{where}: b",
            {
                "the order is reversed: first acts first, so b is a2 b1 + b2": a1 * b2 + b1,
                "b1 is multiplied by a1; wanted a2, because the second map is applied to b1": a1 * b1 + b2,
                "b1 is not multiplied by a2; the second map is applied to b1": b1 + b2,
                "b2 is missing": a2 * b1,
            },
        )
    for T, rest in ((1, ()), (2, (3,)), (3, ()), (8, (2,)), (13, (2, 2)), (64, (1,)), (100, ())):
        a, b = np.exp(-rng.uniform(0.0, 1.0, (T, *rest))), rng.standard_normal((T, *rest))
        calls = 0

        def counting(first, second, T=T):
            nonlocal calls
            calls += 1
            require(calls <= 2 * T + 2, f"T = {T}: combine was called {calls} times; does a loop never end?")
            return _join(*(pair(z, f"T = {T}: an argument of combine", "a, b") for z in (first, second)))

        rounds = math.ceil(math.log2(T))
        want = _rounds(a, b, rounds)
        got = parallel_scan(counting, a, b)
        require(
            not (isinstance(got, tuple | list) and len(got) == 2 and T != 2),
            f"T = {T}: got a pair; wanted only the states, which are its b",
        )
        expect(
            got,
            want[1],
            f"scan of T = {T}, a {a.shape}",
            {
                "the last round is missing; repeat while the offset is below T": _rounds(a, b, rounds - 1)[1],
                "this is the result of one round; double the offset and repeat": _rounds(a, b, 1)[1],
                "combine gets the later tokens first; pass the earlier ones first": _rounds(
                    a, b, rounds, lambda p, q: _join(q, p)
                )[1],
                "these are the a of the joins; the states are their b": want[0],
                "this is b itself; nothing was joined": b,
            },
        )
        require(T < 13 or calls > 0, f"T = {T}: right, but combine was never called; use it for the joins")
        require(
            T < 13 or calls <= 2 * rounds + 2,
            f"T = {T}: right, but combine was called {calls} times, one after another; {rounds} calls are "
            "enough, each on many tokens at once",
        )
    return "the join; scans of 1 to 100 tokens, in a number of calls that grows with log T"
