"""Checks of notebook 13: the paper's tables."""

import math

import numpy as np

from minigam.course.judge import exercise, expect, require


def _results(got, names: str, where: str) -> tuple:
    """Return as many results as there are names."""
    count = len(names.split(", "))
    one_axis = isinstance(got, tuple | list) or getattr(got, "ndim", 0) == 1
    found = len(got) if one_axis else 1
    kind = type(got).__name__ + (f" of {found}" if one_axis else "")
    require(one_axis and found == count, f"{where}: wanted {count} results, {names}, got {kind}")
    return tuple(got)


@exercise
def ex_13_1(units):
    """Perplexity per token and per word, bits per byte."""
    names = "perplexity per token, perplexity per word, bits per byte"
    ln2 = math.log(2.0)
    for loss, tokens, words, size in ((1.5, 300, 120, 700), (0.0, 50, 20, 99), (6.8, 90, 100, 450)):
        where = f"loss {loss}, {tokens} tokens, {words} words, {size} bytes"
        token, word, bits = _results(units(loss, tokens, words, size), names, where)
        whole = loss * tokens
        expect(
            token,
            math.exp(loss),
            f"{where}, perplexity per token",
            {
                "this is 2 to the power of the loss; it is in nats, so wanted e": 2.0**loss,
                "this is the loss itself; wanted its exponential": loss,
            },
        )
        expect(
            word,
            math.exp(whole / words),
            f"{where}, perplexity per word",
            {
                "the ratio is turned round: tokens / words": math.exp(loss * words / tokens),
                "multiply the loss, not the perplexity, by tokens / words": math.exp(loss) * tokens / words,
                "this is nats per word; wanted its exponential": whole / words,
                "this is the perplexity per token": math.exp(loss),
                "the tokens of the text are left out: the whole costs loss * tokens": math.exp(loss / words),
            },
        )
        expect(
            bits,
            whole / (size * ln2),
            f"{where}, bits per byte",
            {
                "these are nats per byte; divide by ln 2": whole / size,
                "multiplied by ln 2; a bit is less than a nat, so divide": whole * ln2 / size,
                "these are bits per token; wanted per byte": loss / ln2,
                "these are bits per word; wanted per byte": whole / (words * ln2),
                "the tokens of the text are left out: the whole costs loss * tokens": loss / (size * ln2),
                "a byte's bits are not to be divided by 8": whole / (8 * size * ln2),
            },
        )
    return "three texts, one of them without any loss"


def _probability(text, context, word, V, *, at_end=False, smooth="shorter", apart=False):
    k = len(context)
    places = [i for i in range(len(text) - k + (at_end and k > 0)) if text[i : i + k] == context]
    if apart:  # as str.count does: the next place begins where the last ends
        places = [i for n, i in enumerate(places) if all(i - j >= k for j in places[:n][-1:])]
    hits = sum(text[i + k : i + k + 1] == [word] for i in places)
    if smooth == "add-one":
        return (hits + 1) / (len(places) + V)
    if smooth == "none":
        return hits / len(places) if places else 0.0
    if smooth == "uniform":
        return (hits + 1.0 / V) / (len(places) + 1)
    again = {"at_end": at_end, "smooth": smooth, "apart": apart}
    shorter = _probability(text, context[1:], word, V, **again) if k else 1.0 / V
    if smooth == "back-off":
        return hits / len(places) if hits else shorter
    return (hits + shorter) / (len(places) + 1)


@exercise
def ex_13_2(probability):
    """The probability of a word after a context, by counting."""
    toy = ["the", "fox", "sat", ".", "the", "fox", "ran", ".", "the", "owl", "sat", ".", "the"]
    words = sorted(set(toy))
    V = len(words)
    cases = [
        (["the", "fox"], "owl"),
        ([], "the"),
        (["the"], "fox"),
        (["the", "fox"], "sat"),
        (["zoo"], "the"),
    ]
    cases += [(["zoo", "the"], "owl"), (["sat", ".", "the"], "owl"), ([".", "the"], "fox")]
    for context, word in cases:
        where = f"P({word} | {' '.join(context) or 'nothing'})"
        got = probability(list(toy), list(context), word, V)
        last = _probability(toy, context[-1:], word, V)
        expect(
            got,
            _probability(toy, context, word, V),
            where,
            {
                "the context at the very end counts, and has no word after it": (
                    _probability(toy, context, word, V, at_end=True)
                ),
                "every word has one more count; wanted the shorter context's answer, counted once": (
                    _probability(toy, context, word, V, smooth="add-one")
                ),
                "these are bare counts; mix in the shorter context's answer": (
                    _probability(toy, context, word, V, smooth="none")
                ),
                "mixed with 1/V at once; wanted the answer for the shorter context": (
                    _probability(toy, context, word, V, smooth="uniform")
                ),
                "the shorter context is asked only where nothing was seen; it is always mixed in": (
                    _probability(toy, context, word, V, smooth="back-off")
                ),
                "the shorter context lacks its last word; take away the first": _cut_last(
                    toy, context, word, V
                ),
                "the context is not used; this is the answer for the word alone": (
                    _probability(toy, [], word, V)
                ),
                "only the last word of the context is used": last,
            },
        )
    tricky = ["a", "a", "a", "ab", "a", "b", "a", "a", "a"]  # contexts that overlap, a word inside another
    for context, word in ((["a", "a"], "a"), (["a"], "a"), (["a"], "b"), (["a", "a"], "ab"), (["b"], "a")):
        expect(
            probability(list(tricky), list(context), word, V),
            _probability(tricky, context, word, V),
            f"P({word} | {' '.join(context)}) in the text {' '.join(tricky)}",
            {
                "places that overlap count too: a a a holds a a twice": (
                    _probability(tricky, context, word, V, apart=True)
                ),
                "a word is counted inside a longer one; compare whole words, in lists": (
                    _by_letters(tricky, context, word, V)
                ),
                "a context is found inside longer words; compare whole words, in lists": (
                    _by_letters(tricky, context, word, V, alone=tricky.count(word))
                ),
            },
        )
    for context in ([], ["the"], ["the", "fox"], ["no", "such"]):
        total = sum(float(probability(list(toy), list(context), w, V)) for w in words)
        require(
            abs(total - 1.0) < 1e-6,
            f"after {context} the probabilities of all words add up to {total:.4f}, wanted 1",
        )
    got = probability([], ["a"], "b", 4)
    expect(got, 0.25, "a text without words", {"nothing was counted, so all V words are alike": 0.0})
    return "seen and unseen contexts, none to three words, sums of 1, an empty text"


def _by_letters(text, context, word, V, alone=None):
    """The counts of someone who joins the words to one string, and counts in that.

    alone : how often the word is counted without a context; None for in the string
    """
    joined, h = " ".join(text), " ".join(context)
    if not context:
        return ((joined.count(word) if alone is None else alone) + 1.0 / V) / (len(text) + 1)
    shorter = _by_letters(text, context[1:], word, V, alone)
    return (joined.count(f"{h} {word}") + shorter) / (joined.count(f"{h} ") + 1)


def _cut_last(text, context, word, V):
    k = len(context)
    shorter = _cut_last(text, context[:-1], word, V) if k else 1.0 / V
    after = [text[i + k] for i in range(len(text) - k) if text[i : i + k] == context]
    return (after.count(word) + shorter) / (len(after) + 1)


@exercise
def ex_13_3(difference):
    """The mean difference of two models' losses, and its standard error by blocks."""
    rng = np.random.default_rng(133)
    for n, m in ((40, 5), (23, 4), (12, 1), (10, 5)):
        hard = rng.exponential(size=n) * 3.0
        a = hard + 0.3 * rng.standard_normal(n) + np.repeat(rng.random(n // m + 1), m)[:n]
        b, K, where = hard + 0.3 * rng.standard_normal(n), n // m, f"{n} tokens, blocks of {m}"
        mean, error = _results(difference(a, b, m), "the mean, its standard error", where)
        used = (a - b)[: K * m]
        blocks = used.reshape(K, m).mean(axis=1)
        apart = [z[: K * m].reshape(K, m).mean(axis=1).std(ddof=1) for z in (a, b)]
        expect(
            mean,
            blocks.mean(),
            f"{where}, mean",
            {
                "the sign is turned round; wanted a - b": -blocks.mean(),
                "the rest that fills no block is in the mean; leave it out of both": (a - b).mean(),
                "this is the mean of a alone": a[: K * m].mean(),
                "the absolute value of each difference; keep its sign": np.abs(used).mean(),
            },
        )
        spread = blocks.std(ddof=1)
        expect(
            error,
            spread / K**0.5,
            f"{where}, standard error",
            {
                "the tokens are taken as independent; take the mean of each block first": (
                    used.std(ddof=1) / (K * m) ** 0.5
                ),
                "the tokens are taken as independent; take the mean of each block first ": (
                    (a - b).std(ddof=1) / n**0.5
                ),
                "this is the spread of the blocks; divide by the root of their number": spread,
                "divide the squares by K - 1, not by K (ddof=1)": blocks.std() / K**0.5,
                "divided by the root of n; there are only K independent blocks": spread / n**0.5,
                "this adds the errors of two separate means; take the difference of each token first": (
                    math.hypot(*apart) / K**0.5
                ),
                "divided by K; wanted by its root": spread / K,
                "a block is m tokens that follow each other; reshape to (K, m), not (m, K)": (
                    used.reshape(m, K).mean(axis=0).std(ddof=1) / K**0.5
                ),
            },
        )
    return "mean and standard error, blocks of 1 to 5 tokens, a rest left out"
