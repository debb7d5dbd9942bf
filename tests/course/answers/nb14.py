"""Wrong answers to the exercises of notebook 14."""

import numpy as np

from answers import wrong


def means(values, kinds, counted, n_kinds, none=np.nan):
    chosen = counted[..., None] & (kinds[..., None] == np.arange(n_kinds))
    many = chosen.sum(axis=1)
    return np.where(many > 0, (values[..., None] * chosen).sum(axis=1) / np.maximum(many, 1), none)


@wrong("14_1", says="omit those where counted is False")
def counts_the_end(values, kinds, counted, n_kinds):
    return means(values, kinds, np.ones_like(counted), n_kinds)


@wrong("14_1", says="wanted nan there, not 0")
def zero_for_none(values, kinds, counted, n_kinds):
    return means(values, kinds, counted, n_kinds, none=0.0)


@wrong("14_1", says="divided by T")
def mean_over_the_row(values, kinds, counted, n_kinds):
    chosen = counted[..., None] & (kinds[..., None] == np.arange(n_kinds))
    return (values[..., None] * chosen).mean(axis=1)


@wrong("14_1", says="wanted one for each story")
def pooled(values, kinds, counted, n_kinds):
    return np.array([values[counted & (kinds == k)].mean() for k in range(n_kinds)])


@wrong("14_2", says="argsort puts nan last")
def nan_first(share, words, n):
    return [words[i] for i in np.argsort(share)[::-1][:n]]


@wrong("14_2", says="in reverse order")
def smallest_first(share, words, n):
    order = np.argsort(-np.nan_to_num(share, nan=-1.0))[:n]
    return [words[i] for i in order[::-1]]


@wrong("14_2", says="does not contain words")
def places(share, words, n):
    return list(np.argsort(-np.nan_to_num(share, nan=-1.0))[:n])


def entropy(a):
    return -(a * np.log(np.where(a > 0, a, 1.0))).sum(axis=-1)


@wrong("14_3", says="places after the end")
def all_places(shares, counted):
    a = shares.reshape(-1, shares.shape[-1])
    return np.exp(entropy(a.mean(axis=0))), np.exp(entropy(a).mean())


@wrong("14_3", says="first the mean of the shares, then the entropy")
def exchanged(shares, counted):
    a = shares[counted]
    return np.exp(entropy(a).mean()), np.exp(entropy(a.mean(axis=0)))


@wrong("14_3", says="this is the mean of exp(H)")
def mean_of_counts(shares, counted):
    a = shares[counted]
    return np.exp(entropy(a.mean(axis=0))), np.exp(entropy(a)).mean()


@wrong("14_3", says="wanted two results")
def only_one(shares, counted):
    return np.exp(entropy(shares[counted].mean(axis=0)))


def story_means(z, chosen):
    return np.array([row[c].mean() for row, c in zip(z, chosen, strict=True) if c.any()])


@wrong("14_4", says="the unit is the story")
def independent_tokens(before, after, chosen):
    d = (after - before)[chosen]
    return story_means(after - before, chosen).mean(), d.std(ddof=1) / np.sqrt(len(d))


@wrong("14_4", says="take the difference of each token first")
def unpaired(before, after, chosen):
    b, a = story_means(before, chosen), story_means(after, chosen)
    return (a - b).mean(), np.hypot(a.std(ddof=1), b.std(ddof=1)) / np.sqrt(len(a))


@wrong("14_4", says="divide by the root of their number")
def standard_deviation(before, after, chosen):
    rise = story_means(after - before, chosen)
    return rise.mean(), rise.std(ddof=1)


@wrong("14_4", says="after minus before")
def fall(before, after, chosen):
    rise = story_means(before - after, chosen)
    return rise.mean(), rise.std(ddof=1) / np.sqrt(len(rise))


@wrong("14_5", says="last column multiplies the present token")
def turned_round(u, past, weight, bias):
    window = np.concatenate([past, u[:, None]], axis=1)
    return bias + (window * weight.T[::-1]).sum(axis=1), window[:, 1:]


@wrong("14_5", says="drop the oldest")
def drops_the_youngest(u, past, weight, bias):
    window = np.concatenate([past, u[:, None]], axis=1)
    K = window.shape[1]
    later = np.concatenate([past[:, : max(K - 2, 0)], u[:, None]], axis=1)[:, : K - 1]
    return bias + (window * weight.T).sum(axis=1), later


@wrong("14_5", says="this is the old past")
def never_moves_on(u, past, weight, bias):
    window = np.concatenate([past, u[:, None]], axis=1)
    return bias + (window * weight.T).sum(axis=1), past


@wrong("14_5", says="it has K inputs")
def grows(u, past, weight, bias):
    window = np.concatenate([past, u[:, None]], axis=1)
    return bias + (window * weight.T).sum(axis=1), window
