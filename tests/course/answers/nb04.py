"""Wrong answers to the exercises of notebook 04."""

import numpy as np

from answers import wrong


def pad(u, before, after=0):
    return np.pad(u, ((0, 0), (before, after), (0, 0)))


def conv(u, w, b, left=None):
    T, K = u.shape[1], w.shape[1]
    padded = pad(u, K - 1 if left is None else left, K)
    return b + sum(w[:, j] * padded[:, j : j + T] for j in range(K))


@wrong("04_1", says="every output would depend on later tokens")
def zeros_after(u, K):
    return pad(u, 0, K - 1)


@wrong("04_1", says="wanted all before")
def zeros_on_both_sides(u, K):
    return pad(u, (K - 1) // 2, K - 1 - (K - 1) // 2)


@wrong("04_1", says="K zero tokens; wanted K - 1")
def one_zero_too_many(u, K):
    return pad(u, K)


@wrong("04_1", says="along axis 2, the channels")
def pads_channels(u, K):
    return np.pad(u, ((0, 0), (0, 0), (K - 1, 0)))


@wrong("04_2", says="the taps are in reverse order; column K-1 of w meets the present")
def mirrored(u, w, b):
    return conv(u, w[:, ::-1], b)


@wrong("04_2", says="tap j of all channels is w[:, j]")
def filters_for_taps(u, w, b):
    T, K = u.shape[1], w.shape[1]
    return b + sum(w[j] * pad(u, K - 1)[:, j : j + T] for j in range(K))


@wrong("04_2", says="looks ahead")
def looks_ahead(u, w, b):
    return conv(u, w, b, left=0)


@wrong("04_2", says="centred")
def same_padding(u, w, b):
    return conv(u, w, b, left=(w.shape[1] - 1) // 2)


@wrong("04_2", says="the bias is missing")
def no_bias(u, w, b):
    return conv(u, w, 0.0)


@wrong("04_2", says="for each token")
def valid_outputs_only(u, w, b):
    return conv(u, w, b)[:, w.shape[1] - 1 :]


def moves(f, u, t, change):
    changed = u.copy()
    changed[:, t] += change
    return np.abs(f(changed) - f(u))


@wrong("04_3", says="change every token in turn")
def last_token_only(f, u):
    return not (moves(f, u, -1, np.arange(1.0, 1 + u.shape[2]))[:, :-1] > 1e-9).any()


@wrong("04_3", says="add random numbers")
def same_number_everywhere(f, u):
    return not any((moves(f, u, t, 1.0)[:, :t] > 1e-9).any() for t in range(u.shape[1]))


@wrong("04_2", says="a loop over the tokens; write it for whole arrays")
def token_by_token(u, w, b):
    y = np.empty_like(u)
    for t in range(u.shape[1]):
        y[:, t] = conv(u[:, : t + 1], w, b)[:, -1]
    return y


@wrong("04_2", says="a loop over the rows of the batch")
def row_by_row(u, w, b):
    return np.stack([conv(row[None], w, b)[0] for row in u])


@wrong("04_3", says="every answer is the opposite of the right one")
def sign_turned_round(f, u):
    change = np.random.default_rng(0).standard_normal(u.shape[2])
    return any((moves(f, u, t, change)[:, :t] > 1e-9).any() for t in range(u.shape[1]))


@wrong("04_3", says="change it, do not set it to zero")
def sets_to_zero(f, u):
    y = f(u)
    for t in range(u.shape[1]):
        v = u.copy()
        v[:, t] = 0.0
        if np.abs(f(v) - y)[:, :t].max(initial=0.0) > 1e-9:
            return False
    return True


@wrong("04_3", says="change the token in every row")
def first_row_alone(f, u):
    y, change = f(u), np.random.default_rng(0).standard_normal(u.shape[2])
    for t in range(u.shape[1]):
        v = u.copy()
        v[0, t] += change
        if np.abs(f(v) - y)[:, :t].max(initial=0.0) > 1e-9:
            return False
    return True


@wrong("04_3", says="changes below the tolerance do not count")
def to_the_last_bit(f, u):
    change = np.random.default_rng(0).standard_normal(u.shape[2])
    return not any((moves(f, u, t, change)[:, :t] > 0).any() for t in range(u.shape[1]))


@wrong("04_3", says="an output may depend on its own token")
def present_forbidden(f, u):
    change = np.random.default_rng(0).standard_normal(u.shape[2])
    return not any((moves(f, u, t, change)[:, : t + 1] > 1e-9).any() for t in range(u.shape[1]))


@wrong("04_3", says="0 times nan is nan")
def by_nan(f, u):
    return not any(np.isnan(moves(f, u, t, np.nan)[:, :t]).any() for t in range(u.shape[1]))


@wrong("04_3", says="compare only the outputs before the changed token")
def wrong_side(f, u):
    change = np.random.default_rng(0).standard_normal(u.shape[2])
    return not any((moves(f, u, t, change)[:, t + 1 :] > 1e-9).any() for t in range(u.shape[1]))


@wrong("04_4", says="a loop over the tokens; write it for whole arrays")
def gradients_token_by_token(dy, u, w):
    (B, T, C), K = u.shape, w.shape[1]
    padded, dpadded, dw = pad(u, K - 1), np.zeros((B, K - 1 + T, C)), np.zeros_like(w)
    for t in range(T):
        dpadded[:, t : t + K] += dy[:, t, None] * w.T
        dw += (dy[:, t, None] * padded[:, t : t + K]).sum(axis=0).T
    return dpadded[:, K - 1 :], dw, dy.sum(axis=(0, 1))


def backward(dy, u, w, *, du=None, flip=False):
    T, K = u.shape[1], w.shape[1]
    padded, dpadded = pad(u, K - 1), np.zeros((len(u), K - 1 + T, u.shape[2]))
    for j in range(K):
        dpadded[:, j : j + T] += w[:, j] * dy
    dw = np.stack([(dy * padded[:, j : j + T]).sum(axis=(0, 1)) for j in range(K)], axis=1)
    return (
        dpadded[:, K - 1 :] if du is None else du(dpadded),
        dw[:, ::-1] if flip else dw,
        dy.sum(axis=(0, 1)),
    )


@wrong("04_4", says="the window of the gradient extends to later tokens")
def forwards_again(dy, u, w):
    return backward(dy, u, w, du=lambda _: conv(dy, w, 0.0))


@wrong("04_4", says="drop the first K - 1 tokens")
def padding_kept(dy, u, w):
    return backward(dy, u, w, du=lambda dpadded: dpadded)


@wrong("04_4", says="the columns are in reverse order")
def taps_mirrored(dy, u, w):
    return backward(dy, u, w, flip=True)


@wrong("04_4", says="summed over the batch only")
def bias_for_every_token(dy, u, w):
    du, dw, _ = backward(dy, u, w)
    return du, dw, dy.sum(axis=0)


def window(past, u_t):
    return np.concatenate([past, u_t[:, None]], axis=1)


@wrong("04_5", says="is everything if K is 1")
def minus_zero(past, u_t, w, b):
    seen = window(past, u_t)
    return b + (seen * w.T).sum(axis=1), seen[:, -(w.shape[1] - 1) :]


@wrong("04_5", says="this is the old past")
def past_stands_still(past, u_t, w, b):
    return b + (window(past, u_t) * w.T).sum(axis=1), past


@wrong("04_5", says="column K-1 of w meets u_t")
def step_mirrored(past, u_t, w, b):
    seen = window(past, u_t)
    return b + (seen * w[:, ::-1].T).sum(axis=1), seen[:, 1:]


@wrong("04_5", says="the past consists of inputs")
def remembers_outputs(past, u_t, w, b):
    y_t = b + (window(past, u_t) * w.T).sum(axis=1)
    return y_t, window(past, y_t)[:, 1:]
