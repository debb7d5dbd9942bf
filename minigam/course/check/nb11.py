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
    """Return y and the states; `a` and `write` replace what they are, `late` reads the state before."""
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
                "this is 1 + delta A, the first two terms of the exponential": 1.0 + delta * A,
                "the sign of A is turned round; A is below 0 already": np.exp(-delta * A),
                "a and b are in each other's place": exact,
            },
        )
        expect(
            b,
            exact,
            f"b, delta {shape}",
            {
                "this is delta B, as Mamba's code has it; wanted the exact hold": delta * B,
                "the sign is wrong: e^(delta A) - 1 and A are both below 0": -exact,
                "the division by A is missing": np.expm1(delta * A) * B,
                "this divides by delta A; the delta of the integral stays": exact / delta,
                "B is missing": exact / B,
            },
        )
    small = np.array([1e-6, 1e-12, 1e-15])
    a, b = discretise(small, -1.0, 2.0)
    share = np.asarray(b, dtype=np.float64) / (2.0 * small)
    require(
        bool(np.abs(share - 1.0).max() < 1e-4),
        f"delta A = -1e-15: b is {share[-1]:.3f} times what it should be; np.exp(z) - 1 loses the "
        "digits of a small z, np.expm1(z) does not",
    )
    expect(np.asarray(a, dtype=np.float64), np.exp(-small), "a, a tiny delta")
    return "three shapes that broadcast, delta down to 1e-15"


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
        told = {
            "the skip connection is missing, skip x": (y - skip * x, h),
            "the input is written without delta; b is delta B": _scan(*z, write=write / delta[..., None]),
            "this writes the exact zero-order hold; wanted the code's delta B": _scan(*z, write=exact),
            "the decay is exp(A); it depends on the token, exp(delta A)": _scan(
                *z, a=np.broadcast_to(np.exp(A), h.shape)
            ),
            "the state before the token is read; wanted the one after it": _scan(*z, late=True),
            "the state is not carried from token to token": _scan(*z, a=np.zeros_like(h)),
            "B and C are in each other's place: B is written, C is read": _scan(x, delta, A, C, B, skip),
        }
        expect(got_y, y, f"y, {where}", {k: v[0] for k, v in told.items()})
        start = np.concatenate([np.zeros_like(h[:, :1]), h], axis=1)
        expect(
            got_h,
            h,
            f"h, {where}",
            {
                "these are the states before each token; wanted those after it": start[:, :-1],
                "the state before the first token is there too; wanted T states": start,
                "this is the last state alone; wanted that after every token": h[:, -1],
                "time comes first; wanted (b, T, E, N)": h.swapaxes(0, 1),
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
            f"A = {A:g}: delta is {without:.2g} without a mark and {marked:.2g} with one; it must rise with "
            "the mark, w > 0",
        )
        require(
            kept >= 0.99,
            f"A = {A:g}: delta is {without:.2g} without a mark, and 1,000 such tokens leave {kept:.1%} of "
            "the state; a smaller beta forgets less",
        )
        require(
            old <= 0.01,
            f"A = {A:g}: delta is {marked:.2g} at a mark, which leaves {old:.1%} of the old state; delta |A| "
            "must be larger there",
        )
        require(
            abs(size - 1.0) <= 0.01,
            f"A = {A:g}: a marked value is written {size:.3g} times as large as it is; delta c must be 1",
        )
    return "1,000 tokens kept, old values wiped, new ones whole, for A = -1, -0.2, -16"


def _backward(dy, x, delta, A, B, C, skip, *, carried=True, before=True, decay=True):
    """Return the two roads to delta, and dA; the switches make it wrong."""
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
            "the gradient does not go back from token to token: dh_t needs a_{t+1} dh_{t+1}": _backward(
                dy, *z, carried=False
            ),
            "dz takes the state before the token, h_{t-1}; yours takes h_t": _backward(dy, *z, before=False),
            "the derivative of exp(z) is exp(z): dz needs the factor a": _backward(dy, *z, decay=False),
        }
        mistakes = {
            "delta": {
                "only the way through the write is there; delta also decides how much is kept": written,
                "only the way through the decay is there; delta also decides how much is written": kept,
                "through the decay: dz meets A in delta A, so multiply by A before the sum over n": (
                    written + dz.sum(axis=-1)
                ),
                "through the write: x is missing": written / x + kept,
                **{k: v[0] + v[1] for k, v in wrong.items()},
            },
            "A": {
                "dz meets delta in delta A: multiply by delta before the sum": dz.sum(axis=(0, 1)),
                "A serves every token of every sequence: sum over both": (dz * delta[..., None]).sum(axis=1),
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
    """The join of two maps, and the scan made of it."""
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
                "the wrong map acts first: b1 goes through the second map, a2 b1 + b2": a1 * b2 + b1,
                "b1 is multiplied by the a of its own map; wanted that of the second": a1 * b1 + b2,
                "b1 has to go through the second map: a2 b1, not b1": b1 + b2,
                "b2 is missing": a2 * b1,
            },
        )
    for T, rest in ((1, ()), (2, (3,)), (3, ()), (8, (2,)), (13, (2, 2)), (64, (1,)), (100, ())):
        a, b = np.exp(-rng.uniform(0.0, 1.0, (T, *rest))), rng.standard_normal((T, *rest))
        calls = 0

        def counting(first, second, T=T):
            nonlocal calls
            calls += 1
            require(calls <= 2 * T + 2, f"T = {T}: combine was called {calls} times; does a loop not end?")
            return _join(*(pair(z, f"T = {T}: what combine is given", "a, b") for z in (first, second)))

        rounds = math.ceil(math.log2(T))
        want = _rounds(a, b, rounds)
        got = parallel_scan(counting, a, b)
        require(
            not (isinstance(got, tuple | list) and len(got) == 2 and T != 2),
            f"T = {T}: a pair came back; wanted the states alone, which are its b",
        )
        expect(
            got,
            want[1],
            f"scan of T = {T}, a {a.shape}",
            {
                "the last round is missing: repeat while the offset is below T": _rounds(a, b, rounds - 1)[1],
                "this is after one round alone; double the offset and repeat": _rounds(a, b, 1)[1],
                "combine is given the later tokens first; the earlier act first": _rounds(
                    a, b, rounds, lambda p, q: _join(q, p)
                )[1],
                "these are the products of the a; the states from 0 are the b": want[0],
                "this is b itself; nothing was joined": b,
            },
        )
        require(
            T < 13 or calls > 0, f"T = {T}: right, but combine was never called; the scan is to be made of it"
        )
        require(
            T < 13 or calls <= 2 * rounds + 2,
            f"T = {T}: right, but combine was called {calls} times, one after another; {rounds} calls do, "
            "each on many tokens at once",
        )
    return "the join; scans of 1 to 100 tokens, in a number of calls that grows with log T"
