"""Checks of notebook 14: inside a trained GAM."""

import numpy as np

from minigam.course.judge import exercise, expect, require
from minigam.engine.sequence import causal_conv1d


def _pair(got, where: str, names: str) -> tuple:
    """Return two results."""
    one_of = isinstance(got, tuple | list) or getattr(got, "ndim", 0) == 1
    count = f" of {len(got)}" if one_of else ""
    require(count == " of 2", f"{where}: wanted two results, {names}, got {type(got).__name__}{count}")
    return tuple(got)


def _means(values, kinds, counted, n_kinds, none=np.nan):
    out = np.full((len(values), n_kinds), none)
    for n in range(len(values)):
        for kind in range(n_kinds):
            chosen = counted[n] & (kinds[n] == kind)
            if chosen.any():
                out[n, kind] = values[n][chosen].mean()
    return out


def _stories(rng, N: int, T: int, n_kinds: int):
    values = rng.random((N, T)) + 0.5
    kinds = rng.integers(n_kinds, size=(N, T))
    counted = np.arange(T) < rng.integers((T + 1) // 2, T + 1, size=(N, 1))
    return values, kinds, counted


@exercise
def ex_14_1(mean_by_kind):
    """A mean for each story and kind of token."""
    rng = np.random.default_rng(141)
    for N, T, n_kinds in ((4, 30, 3), (1, 25, 2), (6, 12, 1)):
        values, kinds, counted = _stories(rng, N, T, n_kinds)
        everywhere = np.ones_like(counted)
        chosen = counted[..., None] & (kinds[..., None] == np.arange(n_kinds))  # (N, T, n_kinds)
        total = (values[..., None] * chosen).sum(axis=1)
        pooled = (values[..., None] * chosen).sum(axis=(0, 1)) / np.maximum(chosen.sum(axis=(0, 1)), 1)
        expect(
            mean_by_kind(values, kinds, counted, n_kinds),
            _means(values, kinds, counted, n_kinds),
            f"{N} stories of at most {T} tokens, {n_kinds} kinds",
            {
                "places after the end of a story are in the mean; omit those where counted is False": (
                    _means(values, kinds, everywhere, n_kinds)
                ),
                "these are sums; divide by the number of tokens of the kind in the story": total,
                "divided by T; divide by the number of tokens of the kind in the story": total / T,
                "divided by all counted tokens of the story; divide by those of the kind": (
                    total / counted.sum(axis=1, keepdims=True)
                ),
                "one mean over all stories; wanted one for each story": pooled,
                "kinds and stories are exchanged; wanted (stories, kinds)": (
                    _means(values, kinds, counted, n_kinds).T
                ),
            },
        )
    values = np.array([[1.0, 2.0, 9.0], [3.0, 5.0, 7.0]])
    kinds, counted = np.array([[0, 0, 1], [1, 1, 1]]), np.array([[True, True, False], [True, True, True]])
    expect(
        mean_by_kind(values, kinds, counted, 2),
        [[1.5, np.nan], [np.nan, 5.0]],
        "stories without a token of a kind",
        {
            "a story without a token of the kind has no mean: wanted nan there, not 0": [
                [1.5, 0.0],
                [0.0, 5.0],
            ]
        },
    )
    return "values, one story, one kind, places after the end, a story without a kind"


def _words(share, words, n):
    valid = [i for i in range(len(share)) if not np.isnan(share[i])]
    return [words[i] for i in sorted(valid, key=lambda i: -share[i])[:n]]


@exercise
def ex_14_2(top_words):
    """The words with the largest share of a slot."""
    rng = np.random.default_rng(142)
    words = ["ant", "bee", "cat", "dog", "elk", "fox", "gnu", "hen", "ibis", "jay"]
    for n, unknown in ((3, 0), (4, 3), (1, 5), (0, 2)):
        share = rng.permutation(10) / 10.0
        share[rng.permutation(10)[:unknown]] = np.nan
        where = f"{10 - unknown} words with a share, the first {n}"
        got = top_words(share, words, n)
        require(
            isinstance(got, list | tuple) or getattr(got, "ndim", 0) == 1,
            f"{where}: got {type(got).__name__}, wanted a list of words",
        )
        got, want = list(got), _words(share, words, n)
        if got == want:
            continue
        require(
            all(isinstance(w, str) for w in got),
            f"{where}: the list does not contain words; wanted words[i] for each index i",
        )
        bad = [w for w in got if w in words and np.isnan(share[words.index(w)])]
        require(
            not bad, f"{where}: {' '.join(bad[:1])} has nan, and is never returned; argsort puts nan last"
        )
        require(len(got) == len(want), f"{where}: {len(got)} words, wanted {len(want)}")
        require(got != want[::-1], f"{where}: the words are right, but in reverse order: largest first")
        least = _words(-share, words, n)
        require(
            got not in (least, least[::-1]), f"{where}: these have the smallest share; wanted the largest"
        )
        require(False, f"{where}: got {got}, wanted {want}")
    share = np.full(10, np.nan)
    share[[7, 2]] = 0.25, 0.5
    got = list(top_words(share, words, 5))
    require(got == ["cat", "hen"], f"two words with a share, 5 asked for: got {got}, wanted ['cat', 'hen']")
    return "order, words with nan, fewer words than asked for"


def _entropy(a):
    return -(a * np.log(np.where(a > 0, a, 1.0))).sum(axis=-1)


@exercise
def ex_14_3(slots_in_use):
    """How many slots are in use, by all tokens together and by one token."""
    rng = np.random.default_rng(143)
    names = ("of all tokens together", "of one token")
    for N, T, S in ((3, 8, 5), (1, 6, 1), (2, 9, 12)):
        shares = rng.dirichlet(np.full(S, 0.5), size=(N, T))
        counted = np.arange(T) < rng.integers(3, T, size=(N, 1))
        where = f"shares {shares.shape}"
        got = _pair(slots_in_use(shares, counted), where, " and ".join(names))
        a, every = shares[counted], shares.reshape(-1, S)
        H, mean = _entropy(a), _entropy(a.mean(axis=0))
        mistakes = (
            {
                "this is the mean entropy of a token: first the mean of the shares, then the entropy": (
                    np.exp(H.mean())
                ),
                "this is the entropy itself; wanted its exponential": mean,
                "places after the end of a story are counted too": np.exp(_entropy(every.mean(axis=0))),
                "this is the mean of exp(H) over tokens; first the mean of the shares": np.exp(H).mean(),
            },
            {
                "this is the mean of exp(H); first the mean of the entropies, then its exponential": (
                    np.exp(H).mean()
                ),
                "this is the entropy of the mean shares; wanted the mean of the tokens' entropies": np.exp(
                    mean
                ),
                "this is the mean entropy itself; wanted its exponential": H.mean(),
                "places after the end of a story are counted too": np.exp(_entropy(every).mean()),
                "one number for each token; wanted one for the corpus": np.exp(H),
            },
        )
        for value, want, name, wrong in zip(got, (np.exp(mean), np.exp(H.mean())), names, mistakes):
            expect(value, want, f"{where}, {name}", wrong)
    sure = np.zeros((1, 2, 2))
    sure[0, [0, 1], [0, 1]] = 1.0
    with np.errstate(divide="ignore", invalid="ignore"):
        together, alone = _pair(slots_in_use(sure, np.ones((1, 2), bool)), "shares of 0 and 1", "both counts")
    expect(together, 2.0, "two tokens, each with a slot of its own, together")
    expect(
        alone,
        1.0,
        "a token with one slot alone",
        {"a share of exactly 0 gives nan; 0 log 0 counts as 0": np.nan},
    )
    return "values, one slot, shares of exactly 0, places after the end"


@exercise
def ex_14_4(cost):
    """The mean rise of the loss and its standard error."""
    rng = np.random.default_rng(144)
    for N, T in ((6, 20), (3, 9), (2, 5)):
        hard = rng.exponential(size=(N, T)) * 2.0
        before, after = hard, hard + 0.1 * rng.standard_normal((N, T)) + rng.random((N, 1))
        chosen = rng.random((N, T)) < np.linspace(0.3, 0.9, N)[:, None]
        chosen[:, :2] = True, False
        where = f"losses {before.shape}"
        mean, error = _pair(cost(before, after, chosen), where, "the mean and its standard error")
        one = np.zeros((N, T), int)
        b, a, rise = (_means(z, one, chosen, 1)[:, 0] for z in (before, after, after - before))
        se, tokens = rise.std(ddof=1) / N**0.5, (after - before)[chosen]
        expect(
            mean,
            rise.mean(),
            f"{where}, mean",
            {
                "the sign is wrong; wanted after minus before": -rise.mean(),
                "places that are not chosen are in the mean": (after - before).mean(),
                "this is the mean over tokens; first take a mean for each story, then over stories": (
                    tokens.mean()
                ),
            },
        )
        expect(
            error,
            se,
            f"{where}, standard error",
            {
                "this treats tokens as independent; the unit is the story": (
                    tokens.std(ddof=1) / len(tokens) ** 0.5
                ),
                "this treats tokens as independent; the unit is the story ": tokens.std()
                / len(tokens) ** 0.5,
                "this combines the errors of two separate means; take the difference of each token first": (
                    np.hypot(b.std(ddof=1), a.std(ddof=1)) / N**0.5
                ),
                "this is the standard deviation of the stories; divide by the root of their number": rise.std(
                    ddof=1
                ),
                "divide the squares by N - 1, not by N (ddof=1)": rise.std() / N**0.5,
                "divided by N; divide by the root of N": rise.std(ddof=1) / N,
            },
        )
    before = np.zeros((3, 2))
    after, chosen = (
        np.array([[1.0, 1.0], [3.0, 3.0], [9.0, 9.0]]),
        np.array([[True, True], [True, False], [False] * 2]),
    )
    mean, error = _pair(cost(before, after, chosen), "a story without a chosen token", "mean and error")
    expect(
        mean,
        2.0,
        "a story without a chosen token",
        {"it has no mean; omit it": np.nan, "it counts as 0; omit it": 4.0 / 3.0},
    )
    expect(error, 1.0, "a story without a chosen token, standard error")
    return "mean, standard error, a story without a chosen token"


@exercise
def ex_14_5(conv_step):
    """One step of the causal convolution, and the next past."""
    rng = np.random.default_rng(145)
    names = "the local context and the next past"
    for B, C, K in ((2, 3, 4), (1, 1, 2), (3, 2, 1)):
        u, past = rng.standard_normal((B, C)), rng.standard_normal((B, K - 1, C))
        weight, bias = rng.standard_normal((C, K)), rng.standard_normal(C)
        where = f"u {u.shape}, past {past.shape}, weight {weight.shape}"
        y, later = _pair(conv_step(u, past, weight, bias), where, names)
        window = np.concatenate([past, u[:, None]], axis=1)
        expect(
            y,
            bias + (window * weight.T).sum(axis=1),
            f"{where}, local context",
            {
                "the filter is reversed: its last column multiplies the present token": (
                    bias + (window * weight.T[::-1]).sum(axis=1)
                ),
                "the bias is missing": (window * weight.T).sum(axis=1),
                "this uses the present token alone; the past is missing": bias + u * weight[:, -1],
                "this uses the past alone; the present token is missing": (
                    bias + (past * weight.T[:-1]).sum(axis=1)
                ),
            },
        )
        expect(
            later,
            window[:, 1:],
            f"{where}, next past",
            {
                "this is the old past; the present token must be in it": past,
                "the present token belongs at its end: the oldest comes first": (
                    np.concatenate([u[:, None], past[:, 1:]], axis=1)[:, : K - 1]
                ),
                "the newest input of the past is dropped; drop the oldest": (
                    np.concatenate([past[:, : max(K - 2, 0)], u[:, None]], axis=1)[:, : K - 1]
                ),
                "it has K inputs; drop the oldest, which is no longer needed": window,
            },
        )
    B, T, C, K = 2, 7, 3, 4
    u, weight, bias = rng.standard_normal((B, T, C)), rng.standard_normal((C, K)), rng.standard_normal(C)
    want, _ = causal_conv1d.rule(np, u, weight, bias)
    past = np.zeros((B, K - 1, C))
    for t in range(T):
        y, past = _pair(conv_step(u[:, t], np.asarray(past), weight, bias), f"token {t}", names)
        expect(y, want[:, t], f"a text of {T} tokens read one by one, token {t}")
    return "K = 4, 2 and 1, and a text read token by token"
