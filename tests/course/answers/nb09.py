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


@wrong("09_1", says="R is 1, not K")
def from_k(n_layers, kernel_size, mixer="gated"):
    return kernel_size + n_layers * (kernel_size - 1)


@wrong("09_1", says="carries nothing between tokens")
def global_sees_all(n_layers, kernel_size, mixer="gated"):
    return math.inf if mixer == "global" else 1 + n_layers * (kernel_size - 1)


@wrong("09_1", says='only mixer "global"')
def local_sees_one(n_layers, kernel_size, mixer="gated"):
    return 1 if mixer in ("global", "local") else 1 + n_layers * (kernel_size - 1)


def moved(f, ids, s, tokens):
    """Return whether one of the tokens at place s moves the last row of f."""
    for token in tokens:
        changed = ids.copy()
        changed[s] = token
        if (f(changed)[-1] != f(ids)[-1]).any():
            return True
    return False


@wrong("09_1", says="return an int")
def as_a_float(n_layers, kernel_size, mixer="gated"):
    return 1.0 if mixer == "global" else 1.0 + n_layers * (kernel_size - 1)


@wrong("09_2", says="the present token counts")
def largest_d(f, ids, vocab_size):
    T = len(ids)
    return max((d for d in range(T) if moved(f, ids, T - 1 - d, range(vocab_size))), default=0)


@wrong("09_2", says="this is the number of tokens that matter")
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


@wrong("09_2", says="changed its input in place")
def in_place(f, ids, vocab_size):
    ids[0] = (ids[0] + 1) % vocab_size
    return len(ids)


@wrong("09_2", says="one place off")
def minus_d(f, ids, vocab_size):
    T = len(ids)
    return max((1 + d for d in range(T) if moved(f, ids, -d, range(vocab_size))), default=0)


@wrong("09_2", says="counted from the end")
def from_the_front(f, ids, vocab_size):
    return max((1 + d for d in range(len(ids)) if moved(f, ids, d, range(vocab_size))), default=0)


@wrong("09_2", says="copy ids for each replacement")
def one_copy_for_all(f, ids, vocab_size):
    changed, found = ids.copy(), 0
    for d in range(len(ids)):
        for token in range(vocab_size):
            changed[-1 - d] = token
            if (f(changed)[-1] != f(ids)[-1]).any():
                found = max(found, 1 + d)
    return found


@wrong("09_2", says="try every other token")
def zero_alone(f, ids, vocab_size):
    T = len(ids)
    return max((1 + d for d in range(T) if moved(f, ids, T - 1 - d, [0])), default=0)


@wrong("09_3", says="rounded down")
def floor(d, kernel_size):
    return d // (kernel_size - 1)


@wrong("09_3", says="one block too many")
def always_one_more(d, kernel_size):
    return d // (kernel_size - 1) + 1


@wrong("09_3", says="adds K - 1 tokens, not K")
def k_taps(d, kernel_size):
    return math.ceil(d / kernel_size)


@wrong("09_3", says="this is enough for d - 1 only")
def one_nearer(d, kernel_size):
    return math.ceil((d - 1) / (kernel_size - 1))


@wrong("09_3", says="rounded to the nearest whole number")
def rounded(d, kernel_size):
    return round(d / (kernel_size - 1))


@wrong("09_3", says="even with K = 1")
def one_tap_first(d, kernel_size):
    return math.inf if kernel_size == 1 else math.ceil(d / (kernel_size - 1))


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


@wrong("09_5", says="some answers lie out of reach")
def sees_all(tokens, n_keys, reach):
    return answers(tokens, n_keys, len(tokens))


@wrong("09_5", says="one token too many")
def one_too_far(tokens, n_keys, reach):
    return answers(tokens, n_keys, reach + 1)


@wrong("09_5", says="one token too few")
def one_too_few(tokens, n_keys, reach):
    return answers(tokens, n_keys, reach - 1)


@wrong("09_5", says="this is the key itself")
def the_key_again(tokens, n_keys, reach):
    return answers(tokens, n_keys, reach, after=0)


@wrong("09_5", says="it is -1, not 0")
def zeros(tokens, n_keys, reach):
    return answers(tokens, n_keys, reach, blank=0)


@wrong("09_5", says="counts from the end")
def negative_start(tokens, n_keys, reach):
    found = np.full(len(tokens), -1)
    for t, key in enumerate(tokens):
        view = tokens[t - reach + 1 : t]
        at = np.flatnonzero(view == key)
        if 1 <= key <= n_keys and len(at):
            found[t] = view[at[0] + 1]
    return found


@wrong("09_5", says="used as a place in the row")
def place_in_the_row(tokens, n_keys, reach):
    found = np.full(len(tokens), -1)
    for t, key in enumerate(tokens):
        at = np.flatnonzero(tokens[max(0, t - reach + 1) : t] == key)
        if 1 <= key <= n_keys and len(at):
            found[t] = tokens[at[0] + 1]
    return found


@wrong("09_5", says="the value itself")
def numbered_values(tokens, n_keys, reach):
    right = answers(tokens, n_keys, reach)
    return np.where(right < 0, right, right - n_keys)
