"""Checks of notebook 13: the paper's tables."""

import math

import numpy as np

from minigam.course.judge import exercise, expect, require


def _results(got, names: str, where: str) -> tuple:
    """Return the results as a tuple. Raises NotYet unless there is one for each name."""
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
                "the ratio is inverted: wanted tokens / words": math.exp(loss * words / tokens),
                "multiply the loss, not the perplexity, by tokens / words": math.exp(loss) * tokens / words,
                "this is nats per word; wanted its exponential": whole / words,
                "this is the perplexity per token": math.exp(loss),
                "the tokens of the text are missing: the loss of the whole text is loss * tokens": (
                    math.exp(loss / words)
                ),
                "this is 2 to the power of the nats per word; wanted e": 2.0 ** (whole / words),
                "these are the bits per byte; they come last": whole / (size * ln2),
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
                "the tokens of the text are missing: the loss of the whole text is loss * tokens": (
                    loss / (size * ln2)
                ),
                "the ratio is inverted: wanted tokens / bytes": loss * size / (tokens * ln2),
                "this divides by log10(2); wanted the natural logarithm": whole / (size * math.log10(2.0)),
                "do not divide by 8: bits per byte is the loss of a whole byte, in bits": whole
                / (8 * size * ln2),
            },
        )
    return "three texts, one of them without any loss"


def _probability(text, context, word, V, *, at_end=False, smooth="shorter", apart=False, empty="", last=True):
    """Return the wanted probability; each keyword makes one mistake.

    empty : mistake at the empty context: "uniform" returns 1 / V, "counts" counts alone, "zero" mixes in 0
    """
    k = len(context)
    if not k and empty in {"uniform", "counts"}:
        return 1.0 / V if empty == "uniform" else text.count(word) / max(len(text), 1)
    end = len(text) - k + (at_end and k > 0) - (not last)
    places = [i for i in range(end) if text[i : i + k] == context]
    if apart:  # as str.count does: the next place begins where the last ends
        places = [i for n, i in enumerate(places) if all(i - j >= k for j in places[:n][-1:])]
    hits = sum(text[i + k : i + k + 1] == [word] for i in places)
    again = {"at_end": at_end, "smooth": smooth, "apart": apart, "empty": empty, "last": last}
    below = 0.0 if empty == "zero" else 1.0 / V
    shorter = _probability(text, context[1:], word, V, **again) if k else below
    n = len(places)
    return {
        "shorter": (hits + shorter) / (n + 1),
        "add-one": (hits + 1) / (n + V),
        "none": hits / n if n else 0.0,
        "no one": (hits + shorter) / n if n else shorter,
        "uniform": (hits + 1.0 / V) / (n + 1),
        "back-off": hits / n if hits else shorter,
    }[smooth]


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
                "the context at the end of the text is counted, but no word follows it": (
                    _probability(toy, context, word, V, at_end=True)
                ),
                "the last word of the text is never counted": _probability(toy, context, word, V, last=False),
                "the denominator is c(h .) + 1; the 1 is missing": (
                    _probability(toy, context, word, V, smooth="no one")
                ),
                "the empty context mixes in 1/V; yours mixes in nothing": (
                    _probability(toy, context, word, V, empty="zero")
                ),
                "the empty context counts too: 1/V takes the place of the shorter context's answer": (
                    _probability(toy, context, word, V, empty="uniform")
                ),
                "the empty context is counts alone; mix in 1/V": (
                    _probability(toy, context, word, V, empty="counts")
                ),
                "every word has one more count; wanted the answer for the shorter context, as one count": (
                    _probability(toy, context, word, V, smooth="add-one")
                ),
                "these are counts alone; mix in the answer for the shorter context": (
                    _probability(toy, context, word, V, smooth="none")
                ),
                "mixed with 1/V; wanted the answer for the shorter context": (
                    _probability(toy, context, word, V, smooth="uniform")
                ),
                "the shorter context is used only where the count is 0; it is always mixed in": (
                    _probability(toy, context, word, V, smooth="back-off")
                ),
                "the shorter context lacks the last word; remove the first": _cut_last(toy, context, word, V),
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
                "occurrences that overlap count too: a a a contains a a twice": (
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
    expect(got, 0.25, "a text without words", {"nothing was counted, so all V words are equally likely": 0.0})
    return "seen and unseen contexts, none to three words, sums of 1, an empty text"


def _by_letters(text, context, word, V, alone=None):
    """Return the answer of a learner who joins the words to one string and counts in that.

    alone : the count of the word without a context; None counts in the string
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
                "the sign is wrong; wanted a - b": -blocks.mean(),
                "the tokens after the last full block are in the mean; leave them out": (a - b).mean(),
                "the last block has fewer than m tokens; leave it out": (
                    np.mean([(a - b)[i : i + m].mean() for i in range(0, n, m)])
                ),
                "the blocks have different lengths; each has m tokens, and the rest is left out": (
                    np.mean([z.mean() for z in np.array_split(a - b, K)])
                ),
                "blocks begin at the first token; yours leave out tokens at the start": (a - b)[
                    -K * m :
                ].mean(),
                "these are sums over the blocks; wanted the mean per token": used.sum() / K,
                "this is the standard error; the mean comes first": blocks.std(ddof=1) / K**0.5,
                "this is the mean of a alone": a[: K * m].mean(),
                "these are absolute values; keep the sign of each difference": np.abs(used).mean(),
            },
        )
        spread = blocks.std(ddof=1)
        expect(
            error,
            spread / K**0.5,
            f"{where}, standard error",
            {
                "this treats the tokens as independent; take the mean of each block first": (
                    used.std(ddof=1) / (K * m) ** 0.5
                ),
                "this treats the tokens as independent; take the mean of each block first ": (
                    (a - b).std(ddof=1) / n**0.5
                ),
                "this is the standard deviation of the blocks; divide by the root of their number": spread,
                "divide the sum of squares by K - 1, not by K (ddof=1)": blocks.std() / K**0.5,
                "divided by the root of n; there are only K independent blocks": spread / n**0.5,
                "this adds the errors of two separate means; take the difference of each token first": (
                    math.hypot(*apart) / K**0.5
                ),
                "this is the square of the standard error": spread**2 / K,
                "divided by the root of K - 1; wanted of K": spread / max(K - 1, 1) ** 0.5,
                "divided by K; wanted by its root": spread / K,
                "a block is m consecutive tokens; reshape to (K, m), not (m, K)": (
                    used.reshape(m, K).mean(axis=0).std(ddof=1) / K**0.5
                ),
            },
        )
    return "mean and standard error, blocks of 1 to 5 tokens, a rest left out"
