"""Wrong answers to the exercises of notebook 11."""

import numpy as np

from answers import wrong, wrong_value


@wrong("11_1", says="as in Mamba's code")
def as_in_the_code(delta, A, B):
    return np.exp(delta * A), delta * B


@wrong("11_1", says="np.expm1(z) does not")
def digits_lost(delta, A, B):
    a = np.exp(delta * A)
    return a, (a - 1.0) / A * B


@wrong("11_1", says="only the first two terms of the exponential")
def first_order(delta, A, B):
    return 1.0 + delta * A, delta * B


@wrong("11_1", says="the sign is wrong")
def wrong_sign(delta, A, B):
    return np.exp(delta * A), -np.expm1(delta * A) / A * B


@wrong("11_1", says="arrays_only(0.3, -2.0, 1.5) raised AttributeError")
def arrays_only(delta, A, B):
    z = delta * A
    ratio = np.ones(z.shape)
    ratio[z != 0.0] = np.expm1(z[z != 0.0]) / z[z != 0.0]
    return np.exp(z), ratio * delta * B


def scan(x, delta, A, B, C, skip, *, written=None, token_decay=True, skipped=True):
    (b, T, E), N = x.shape, A.shape[1]
    written = delta * x if written is None else written
    h, y = np.zeros((b, T, E, N)), np.zeros((b, T, E))
    state = np.zeros((b, E, N))
    for t in range(T):
        a = np.exp(delta[:, t, :, None] * A) if token_decay else np.exp(A)
        state = a * state + written[:, t, :, None] * B[:, t, None]
        h[:, t] = state
        y[:, t] = (state * C[:, t, None]).sum(axis=-1)
    return (y + skip * x if skipped else y), h


@wrong("11_2", says="the last term, skip x, is missing")
def no_skip(x, delta, A, B, C, skip):
    return scan(x, delta, A, B, C, skip, skipped=False)


@wrong("11_2", says="delta is missing in what is written")
def written_whole(x, delta, A, B, C, skip):
    return scan(x, delta, A, B, C, skip, written=x)


@wrong("11_2", says="which depends on the token")
def not_selective(x, delta, A, B, C, skip):
    return scan(x, delta, A, B, C, skip, token_decay=False)


@wrong("11_2", says="the state before the first token is included")
def one_state_too_many(x, delta, A, B, C, skip):
    y, h = scan(x, delta, A, B, C, skip)
    return y, np.concatenate([np.zeros_like(h[:, :1]), h], axis=1)


@wrong("11_2", says="wanted a pair (y, h)")
def outputs_alone(x, delta, A, B, C, skip):
    return scan(x, delta, A, B, C, skip)[0]


@wrong("11_3", says="choose a smaller beta")
def forgets(A):
    return 20.0 / abs(A), -5.0, 1.0 / np.logaddexp(0.0, 20.0 / abs(A) - 5.0)


@wrong("11_3", says="delta c must be 1")
def written_too_large(A):
    return 20.0 + 10.0 / abs(A), -20.0, 1.0


@wrong("11_3", says="choose a larger w")
def does_not_wipe(A):
    return 20.0 + 0.5 / abs(A), -20.0, 1.0 / np.logaddexp(0.0, 0.5 / abs(A))


@wrong("11_3", says="it must be larger with a mark")
def upside_down(A):
    return -30.0, 10.0, 0.1


def backward(dy, x, delta, A, B, C, skip, *, carried=1.0, written=1.0, kept=1.0, shift=True):
    h, a = scan(x, delta, A, B, C, skip)[1], np.exp(delta[..., None] * A)
    dh, carry = np.zeros_like(h), np.zeros_like(h[:, 0])
    for t in reversed(range(x.shape[1])):
        dh[:, t] = C[:, t, None] * dy[:, t, :, None] + carry
        carry = carried * a[:, t] * dh[:, t]
    before = np.concatenate([np.zeros_like(h[:, :1]), h[:, :-1]], axis=1) if shift else h
    dz = dh * before * a
    ddelta = written * x * (dh * B[:, :, None]).sum(axis=-1) + kept * (dz * A).sum(axis=-1)
    return ddelta, (dz * delta[..., None]).sum(axis=(0, 1))


@wrong("11_4", says="the part through the decay is missing")
def the_write_alone(*z):
    return backward(*z, kept=0.0)


@wrong("11_4", says="the part through the write is missing")
def the_decay_alone(*z):
    return backward(*z, written=0.0)


@wrong("11_4", says="is not carried from token to token")
def no_time(*z):
    return backward(*z, carried=0.0)


@wrong("11_4", says="yours uses h_t")
def the_state_after(*z):
    return backward(*z, shift=False)


@wrong("11_4", says="sum over both axes")
def one_gradient_a_sequence(dy, x, delta, A, B, C, skip):
    whole = backward(dy, x, delta, A, B, C, skip)[0]
    each = [backward(*(z[i : i + 1] for z in (dy, x, delta)), A, B[i : i + 1], C[i : i + 1], skip)[1]
            for i in range(len(x))]  # fmt: skip
    return whole, np.stack(each)


def combine(first, second):
    (a1, b1), (a2, b2) = first, second
    return a2 * a1, a2 * b1 + b2


def parallel_scan(combine, a, b, *, swapped=False, stop=0):
    k = 1
    while k < len(a) - stop:
        earlier, later = (a[:-k], b[:-k]), (a[k:], b[k:])
        new = combine(later, earlier) if swapped else combine(earlier, later)
        a, b = np.concatenate([a[:k], new[0]]), np.concatenate([b[:k], new[1]])
        k *= 2
    return b


def wrong_way_round(first, second):
    return combine(second, first)


def sum_of_decays(first, second):
    return first[0] + second[0], combine(first, second)[1]


def later_first(combine, a, b):
    return parallel_scan(combine, a, b, swapped=True)


def stops_early(combine, a, b):
    rounds = int(np.log2(len(a)))  # rounded down
    for k in (2**r for r in range(rounds)):
        new = combine((a[:-k], b[:-k]), (a[k:], b[k:]))
        a, b = np.concatenate([a[:k], new[0]]), np.concatenate([b[:k], new[1]])
    return b


def a_loop(combine, a, b):
    state, h = (np.ones_like(a[:1]), np.zeros_like(b[:1])), []
    for t in range(len(a)):
        state = combine(state, (a[t : t + 1], b[t : t + 1]))
        h.append(state[1])
    return np.concatenate(h)


wrong_value("11_5", "the order is reversed", wrong_way_round, parallel_scan)
wrong_value("11_5", "wanted their product", sum_of_decays, parallel_scan)
wrong_value("11_5", "pass the earlier ones first", combine, later_first)
wrong_value("11_5", "the last round is missing", combine, stops_early)
wrong_value("11_5", "one after another", combine, a_loop)
