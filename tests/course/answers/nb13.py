"""Wrong answers to the exercises of notebook 13."""

import math

import numpy as np

from answers import wrong


@wrong("13_1", says="so wanted e")
def powers_of_two(loss, tokens, words, size):
    whole = loss * tokens
    return 2.0**loss, math.exp(whole / words), whole / (size * math.log(2.0))


@wrong("13_1", says="divide by ln 2")
def nats_per_byte(loss, tokens, words, size):
    return math.exp(loss), math.exp(loss * tokens / words), loss * tokens / size


@wrong("13_1", says="not the perplexity, by tokens / words")
def scaled_perplexity(loss, tokens, words, size):
    return math.exp(loss), math.exp(loss) * tokens / words, loss * tokens / (size * math.log(2.0))


@wrong("13_1", says="ratio is inverted")
def words_by_tokens(loss, tokens, words, size):
    return math.exp(loss), math.exp(loss * words / tokens), loss * tokens / (size * math.log(2.0))


def after(text, context):
    k = len(context)
    return [text[i + k] for i in range(len(text) - k) if text[i : i + k] == context]


@wrong("13_2", says="every word has one more count")
def add_one(text, context, word, V):
    seen = after(text, context)
    return (seen.count(word) + 1) / (len(seen) + V)


@wrong("13_2", says="no word follows it")
def counts_the_end(text, context, word, V):
    k, seen = len(context), after(text, context)
    shorter = counts_the_end(text, context[1:], word, V) if k else 1.0 / V
    often = sum(text[i : i + k] == context for i in range(len(text) - k + 1)) if k else len(text)
    return (seen.count(word) + shorter) / (often + 1)


@wrong("13_2", says="it is always mixed in")
def backs_off(text, context, word, V):
    seen = after(text, context)
    if word in seen:
        return seen.count(word) / len(seen)
    return backs_off(text, context[1:], word, V) if context else 1.0 / V


@wrong("13_2", says="mixed with 1/V; wanted")
def one_level(text, context, word, V):
    seen = after(text, context)
    return (seen.count(word) + 1.0 / V) / (len(seen) + 1)


@wrong("13_2", says="remove the first")
def cuts_the_last(text, context, word, V):
    shorter = cuts_the_last(text, context[:-1], word, V) if context else 1.0 / V
    seen = after(text, context)
    return (seen.count(word) + shorter) / (len(seen) + 1)


@wrong("13_2", says="compare whole words, in lists")
def counts_letters(text, context, word, V):
    joined, h = " ".join(text), " ".join(context)
    shorter = counts_letters(text, context[1:], word, V) if context else 1.0 / V
    if not context:
        return (text.count(word) + shorter) / (len(text) + 1)
    return (joined.count(f"{h} {word}") + shorter) / (joined.count(f"{h} ") + 1)


@wrong("13_2", says="occurrences that overlap count too")
def skips_overlaps(text, context, word, V):
    k, i, seen = len(context), 0, []
    shorter = skips_overlaps(text, context[1:], word, V) if k else 1.0 / V
    while i < len(text) - k:
        if text[i : i + k] == context:
            seen.append(text[i + k])
            i += max(k, 1)
        else:
            i += 1
    return (seen.count(word) + shorter) / (len(seen) + 1)


@wrong("13_2", says="the 1 is missing")
def no_one_below(text, context, word, V):
    shorter = no_one_below(text, context[1:], word, V) if context else 1.0 / V
    seen = after(text, context)
    return (seen.count(word) + shorter) / len(seen) if seen else shorter


@wrong("13_2", says="yours mixes in nothing")
def nothing_below_the_empty_context(text, context, word, V):
    shorter = nothing_below_the_empty_context(text, context[1:], word, V) if context else 0.0
    seen = after(text, context)
    return (seen.count(word) + shorter) / (len(seen) + 1)


@wrong("13_2", says="the empty context counts too")
def empty_context_is_uniform(text, context, word, V):
    if not context:
        return 1.0 / V
    seen = after(text, context)
    return (seen.count(word) + empty_context_is_uniform(text, context[1:], word, V)) / (len(seen) + 1)


@wrong("13_2", says="the context is not used")
def unigrams(text, context, word, V):
    return (text.count(word) + 1.0 / V) / (len(text) + 1)


def blocks(z, m):
    return z[: len(z) // m * m].reshape(-1, m).mean(axis=1)


@wrong("13_3", says="treats the tokens as independent")
def single_tokens(a, b, m):
    d = (a - b)[: len(a) // m * m]
    return d.mean(), d.std(ddof=1) / math.sqrt(len(d))


@wrong("13_3", says="the last block has fewer than m tokens")
def short_last_block(a, b, m):
    d = np.array([(a - b)[i : i + m].mean() for i in range(0, len(a), m)])
    return d.mean(), d.std(ddof=1) / math.sqrt(len(d))


@wrong("13_3", says="the square of the standard error")
def variance(a, b, m):
    d = blocks(a - b, m)
    return d.mean(), d.var(ddof=1) / len(d)


@wrong("13_3", says="the mean comes first")
def error_first(a, b, m):
    d = blocks(a - b, m)
    return d.std(ddof=1) / math.sqrt(len(d)), d.mean()


@wrong("13_3", says="take the difference of each token first")
def unpaired(a, b, m):
    x, y = blocks(a, m), blocks(b, m)
    return x.mean() - y.mean(), math.hypot(x.std(ddof=1), y.std(ddof=1)) / math.sqrt(len(x))


@wrong("13_3", says="K - 1, not by K")
def biased(a, b, m):
    d = blocks(a - b, m)
    return d.mean(), d.std() / math.sqrt(len(d))


@wrong("13_3", says="are in the mean; leave them out")
def keeps_the_rest(a, b, m):
    d = blocks(a - b, m)
    return (a - b).mean(), d.std(ddof=1) / math.sqrt(len(d))


@wrong("13_3", says="wanted a - b")
def wrong_sign(a, b, m):
    d = blocks(b - a, m)
    return d.mean(), np.std(d, ddof=1) / math.sqrt(len(d))
