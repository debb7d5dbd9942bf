"""Wrong answers to the exercises of notebook 09."""

import math

import numpy as np

from answers import wrong


@wrong("09_1", says="the present token is missing")
def without_the_present(n_layers, kernel_size, mixer="gated"):
    return n_layers * (kernel_size - 1)


@wrong("09_1", says="adds K - 1 tokens, not K")
def k_a_block(n_layers, kernel_size, mixer="gated"):
    return 1 + n_layers * kernel_size


@wrong("09_1", says="it is not multiplied by K")
def a_tree(n_layers, kernel_size, mixer="gated"):
    return kernel_size**n_layers


@wrong("09_1", says='mixer "global" has no convolution')
def all_mixers_alike(n_layers, kernel_size, mixer="gated"):
    return 1 + n_layers * (kernel_size - 1)


def moved(f, ids, s, tokens):
    """Return whether one of the tokens at place s moves the last row of f."""
    for token in tokens:
        changed = ids.copy()
        changed[s] = token
        if (f(changed)[-1] != f(ids)[-1]).any():
            return True
    return False


@wrong("09_2", says="the present one counts")
def largest_d(f, ids, vocab_size):
    T = len(ids)
    return max((d for d in range(T) if moved(f, ids, T - 1 - d, range(vocab_size))), default=0)


@wrong("09_2", says="were counted")
def how_many(f, ids, vocab_size):
    return sum(moved(f, ids, s, range(vocab_size)) for s in range(len(ids)))


@wrong("09_2", says="try every other token")
def one_replacement(f, ids, vocab_size):
    T = len(ids)
    return max((1 + d for d in range(T) if moved(f, ids, T - 1 - d, [(ids[T - 1 - d] + 1) % 6])), default=0)


@wrong("09_2", says="compare with !=")
def with_a_tolerance(f, ids, vocab_size):
    T, found = len(ids), 0
    for d in range(T):
        for token in range(vocab_size):
            changed = ids.copy()
            changed[T - 1 - d] = token
            if not np.allclose(f(changed)[-1], f(ids)[-1]):
                found = max(found, 1 + d)
    return found


@wrong("09_2", says="only the last row")
def any_output(f, ids, vocab_size):
    T, found = len(ids), 0
    for d in range(T):
        for token in range(vocab_size):
            changed = ids.copy()
            changed[T - 1 - d] = token
            if (f(changed) != f(ids)).any():
                found = max(found, 1 + d)
    return found


@wrong("09_2", says="the search stopped")
def until_the_first_miss(f, ids, vocab_size):
    T = len(ids)
    return next((d for d in range(T) if not moved(f, ids, T - 1 - d, range(vocab_size))), T)


@wrong("09_2", says="changed an array it was given")
def in_place(f, ids, vocab_size):
    ids[0] = (ids[0] + 1) % vocab_size
    return len(ids)


@wrong("09_3", says="rounded down")
def floor(d, kernel_size):
    return d // (kernel_size - 1)


@wrong("09_3", says="one block too many")
def always_one_more(d, kernel_size):
    return d // (kernel_size - 1) + 1


@wrong("09_3", says="adds K - 1 tokens, not K")
def k_taps(d, kernel_size):
    return math.ceil(d / kernel_size)


@wrong("09_3", says="ZeroDivisionError")
def one_tap_forgotten(d, kernel_size):
    return -(-d // (kernel_size - 1))


@wrong("09_4", says="exactly R tokens before")
def without_the_edge(back, reach):
    return 1.0 if reach is None else float(np.mean(back < reach))


@wrong("09_4", says="out of reach")
def the_rest(back, reach):
    return 1.0 if reach is None else float(np.mean(back > reach))


@wrong("09_4", says="wanted their share")
def number_of_them(back, reach):
    return len(back) if reach is None else int((back <= reach).sum())


@wrong("09_4", says="TypeError")
def no_none(back, reach):
    return float(np.mean(back <= reach))


def answers(tokens, n_keys, reach, after=1, blank=-1, first_key=1):
    found = np.full(len(tokens), blank)
    for t, key in enumerate(tokens):
        start = max(0, t - reach + 1)
        at = np.flatnonzero(tokens[start:t] == key)
        if first_key <= key <= n_keys and len(at):
            found[t] = tokens[start + at[0] + after]
    return found


@wrong("09_5", says="out of sight are given too")
def sees_all(tokens, n_keys, reach):
    return answers(tokens, n_keys, len(tokens))


@wrong("09_5", says="one token too far")
def one_too_far(tokens, n_keys, reach):
    return answers(tokens, n_keys, reach + 1)


@wrong("09_5", says="one token too few")
def one_too_few(tokens, n_keys, reach):
    return answers(tokens, n_keys, reach - 1)


@wrong("09_5", says="this is the key again")
def the_key_again(tokens, n_keys, reach):
    return answers(tokens, n_keys, reach, after=0)


@wrong("09_5", says="it is -1, not 0")
def zeros(tokens, n_keys, reach):
    return answers(tokens, n_keys, reach, blank=0)
