"""Checks of notebook 10: attention by hand."""

import math

import numpy as np

from minigam.course.judge import exercise, expect, gradients, require
from minigam.engine.sequence import causal_attention


def _softmax(s, axis=-1):
    e = np.exp(s - s.max(axis=axis, keepdims=True))
    return e / e.sum(axis=axis, keepdims=True)


def _masked(s, k: int = 0):
    """Return scores with minus infinity above the k-th diagonal."""
    return np.where(np.tril(np.ones(s.shape[-2:], dtype=bool), k), s, -np.inf)


def _causal(s):
    return _softmax(_masked(s))


def _turned(z):
    return z.swapaxes(-1, -2)


def _head(q, k, v):
    return _causal(q @ _turned(k) / math.sqrt(q.shape[-1])) @ v


@exercise
def ex_10_1(causal_softmax):
    """The softmax of each query's row, over the keys not after it."""
    rng = np.random.default_rng(101)
    for shape in ((2, 3, 5, 5), (4, 4), (1, 1), (2, 6, 6)):
        s = rng.standard_normal(shape) * 2.0
        seen = np.tril(np.ones(shape[-2:]))
        strict = np.exp(s) * np.tril(np.ones(shape[-2:]), -1)
        future = 1.0 - seen
        with np.errstate(invalid="ignore"):
            all_nan = _softmax(seen * s + future * -np.inf)
            empty_row = _softmax(_masked(s, -1))  # the first query has no key, so its row is nan
        expect(
            causal_softmax(s),
            _causal(s),
            f"scores of shape {shape}",
            {
                "nothing is masked: a query has weights for the keys after it": _softmax(s),
                "masked after the softmax, so the rows no longer add up to 1; mask the scores, before it": (
                    _softmax(s) * seen
                ),
                "masked scores are 0, and e^0 is 1; a score of minus infinity has weight 0": _softmax(
                    s * seen
                ),
                "the mask is upside down: a query has weights for itself and later keys": _softmax(
                    np.where(np.triu(np.ones(shape[-2:], dtype=bool)), s, -np.inf)
                ),
                "a token may attend to itself: the diagonal, j = i, is allowed": (
                    strict / np.maximum(strict.sum(axis=-1, keepdims=True), 1e-300)
                ),
                "a token may attend to itself: j = i is allowed; here the first has no key at all": (
                    empty_row
                ),
                "the softmax runs over the queries; wanted over the keys, the last axis": _softmax(
                    _masked(s), axis=-2
                ),
                "the exponentials are not divided by their sum": np.exp(s) * seen,
                "0 times infinity is nan; choose between score and -np.inf with np.where": all_nan,
            },
        )
    large = np.array([[-1e4, 1e4, 1e4], [1e4, 1e4 - 1.0, -1e4], [-1e4, -1e4, -1e4]])
    with np.errstate(all="ignore"):
        got = np.asarray(causal_softmax(large))
    require(
        bool(np.isfinite(got).all()),
        "scores of 10,000 give nan: subtract the largest score of each row before np.exp, and take it "
        "after the mask (a large score in the future must not count)",
    )
    require(
        got.shape != large.shape or not np.triu(got, 1).any(),
        "scores of 10,000: a key in the future has a weight; its score must be -np.inf",
    )
    expect(got, _causal(large), "scores of 10,000, some in the future")
    return "any number of axes, one token, scores of 10,000 in the past and in the future"


@exercise
def ex_10_2(head):
    """Causal attention of one head."""
    rng = np.random.default_rng(102)
    for shape in ((2, 5, 4), (6, 3), (1, 1, 8), (2, 3, 4, 2)):
        q, k, v = rng.standard_normal((3, *shape))
        D = shape[-1]
        s, a = q @ _turned(k), _causal(q @ _turned(k) / math.sqrt(D))
        mistakes = {
            "the scores are not divided by sqrt(D)": _causal(s) @ v,
            "the scores are divided by D; wanted its square root": _causal(s / D) @ v,
            "the scores are multiplied by sqrt(D); wanted divided": _causal(s * math.sqrt(D)) @ v,
            "the future is not masked": _softmax(s / math.sqrt(D)) @ v,
            "queries and keys are exchanged: row i of the scores belongs to query i": (
                _causal(_turned(s) / math.sqrt(D)) @ v
            ),
            "these are the weights; multiply them by v": a,
            "the weights are transposed: token i uses row i": _turned(a) @ v,
            "the weights are multiplied by k; wanted v": a @ k,
            "the result is divided by sqrt(D); divide the scores, before the softmax": (
                _causal(s) @ v / math.sqrt(D)
            ),
            "divided by sqrt(T); wanted sqrt(D), the last axis of q": _causal(s / math.sqrt(shape[-2])) @ v,
        }
        expect(head(q, k, v), a @ v, f"q, k, v of shape {shape}", mistakes)
    return "values, one token, with and without further axes"


@exercise
def ex_10_3(split, merge):
    """Channels to heads and back."""
    rng = np.random.default_rng(103)
    for B, T, H, D in ((2, 5, 3, 4), (1, 1, 2, 3), (2, 3, 1, 4), (1, 4, 4, 1)):
        z = rng.standard_normal((B, T, H * D))
        want = z.reshape(B, T, H, D).transpose(0, 2, 1, 3)
        expect(
            split(z, H),
            want,
            f"split of {z.shape} into {H} heads",
            {
                "a reshape alone mixes tokens and heads; cut C into (H, D) first, then exchange two axes": (
                    z.reshape(B, H, T, D)
                ),
                "the axis of the heads still follows that of the tokens; wanted (B, H, T, D)": z.reshape(
                    B, T, H, D
                ),
                "head h is every H-th channel; wanted the D channels from h D on": (
                    z.reshape(B, T, D, H).transpose(0, 3, 1, 2)
                ),
                "the last two axes are exchanged; wanted (B, H, T, D)": _turned(want),
            },
        )
        expect(
            merge(want),
            z,
            f"merge of {want.shape}",
            {
                "a reshape alone mixes tokens and heads; exchange the two axes first": want.reshape(
                    B, T, H * D
                ),
                "the channels of different heads alternate; wanted head 0 whole, then head 1": (
                    want.transpose(0, 2, 3, 1).reshape(B, T, H * D)
                ),
                "the last two axes are still separate; wanted (B, T, H D)": want.transpose(0, 2, 1, 3),
            },
        )
    return "both, four shapes, one head, heads of one channel"


@exercise
def ex_10_4(head_backward):
    """The gradient of one head."""
    rng = np.random.default_rng(104)
    for shape in ((2, 4, 3), (3, 2), (1, 1, 4), (2, 2, 3, 2)):
        q, k, v = rng.standard_normal((3, *shape))
        dy = rng.standard_normal(shape)
        scale = 1.0 / math.sqrt(shape[-1])
        a, da = _causal(q @ _turned(k) * scale), dy @ _turned(v)
        ds = a * (da - (da * a).sum(axis=-1, keepdims=True))
        flat, unscaled = (
            "through the softmax: subtract the sum of da * a over the keys before multiplying by a",
            ("the factor 1 / sqrt(D) of the scores is missing"),
        )
        b, no_scale = _softmax(q @ _turned(k) * scale), _causal(q @ _turned(k))
        wrong_ds = {
            "the sum of da * a runs over the queries; wanted over the keys, the last axis": (
                a * (da - (da * a).sum(axis=-2, keepdims=True))
            ),
            "the sum over the keys is of da alone; wanted of da * a": (
                a * (da - da.sum(axis=-1, keepdims=True))
            ),
            "a score changes the weights of all keys, not only its own: sum da * a over them": da
            * a
            * (1 - a),
            "da is transposed; it is dy times v transposed": (
                a * (_turned(da) - (_turned(da) * a).sum(axis=-1, keepdims=True))
            ),
            "the weights are computed without the mask": b * (da - (da * b).sum(axis=-1, keepdims=True)),
            "the weights are computed without the scale": (
                no_scale * (da - (da * no_scale).sum(axis=-1, keepdims=True))
            ),
        }
        mistakes = {
            "q": {
                unscaled: ds @ k,
                flat: (a * da) @ k * scale,
                "the softmax is missing: this is da @ k": da @ k * scale,
                "ds is transposed; only dk needs that": _turned(ds) @ k * scale,
                "this is ds^T q, the gradient of k; the order is dq, dk, dv": _turned(ds) @ q * scale,
                "scaled twice: once is enough": ds @ k * scale**2,
                **{message: other @ k * scale for message, other in wrong_ds.items()},
            },
            "k": {
                unscaled: _turned(ds) @ q,
                flat: _turned(a * da) @ q * scale,
                "dk sums over the queries, the rows of ds: transpose ds": ds @ q * scale,
                "this is ds k, the gradient of q": ds @ k * scale,
            },
            "v": {
                "dv sums over the queries, the rows of a: transpose a": a @ dy,
                "this is dy itself; the weights are missing": dy,
            },
        }
        where = f"q, k, v of shape {shape}"
        gradients(head_backward(dy, q, k, v), _head, (q, k, v), dy, "q k v", where, mistakes)
    return "all three gradients against finite differences, four shapes"


@exercise
def ex_10_5(attention_step):
    """One token more, with a cache."""
    rng = np.random.default_rng(105)
    for B, P, H, D in ((2, 4, 3, 2), (1, 0, 2, 3), (1, 7, 1, 4), (2, 2, 2, 2)):
        C = H * D
        qkv, past = rng.standard_normal((B, 1, 3 * C)), rng.standard_normal((B, P, 2 * C))
        where = f"qkv {qkv.shape}, past {past.shape}, {H} heads"
        got = attention_step(qkv, past, H)
        require(
            isinstance(got, tuple | list) and len(got) == 2, f"{where}: wanted two results, y and the past"
        )
        y, longer = got
        want = causal_attention.rule(np, qkv, past, n_heads=H)[0]
        kv = np.concatenate([past, qkv[..., C:]], axis=1)
        ask, key, value = np.split(qkv, 3, axis=-1)
        exchanged = np.concatenate([past, np.concatenate([value, key], axis=-1)], axis=1)
        mistakes = {
            "a mask hides the past: there is one query, and no key in the cache is later than it": (
                _step(ask, kv[:, :1], H)
            ),
            "the scores are divided by sqrt(C); wanted sqrt(D), D = C / H": _step(ask, kv, H, math.sqrt(C)),
            "the scores are not divided by sqrt(D)": _step(ask, kv, H, 1.0),
            "the heads are missing: this is attention of one head": _step(ask, kv, 1, math.sqrt(C)),
            "the heads are missing: this is attention of one head, scaled by sqrt(D)": _step(
                ask, kv, 1, math.sqrt(D)
            ),
            "keys and values are exchanged: the past has keys first": _step(
                ask, np.concatenate([kv[..., C:], kv[..., :C]], axis=-1), H
            ),
            "keys and values of the newest token are exchanged: its last C channels are the value": (
                _step(ask, exchanged, H)
            ),
            "the order of the results is y, past": kv,
            "the heads are still separate: merge them": want.reshape(B, 1, H, D).swapaxes(1, 2),
            "a causal mask has turned the one query into P + 1 rows; no mask is needed": np.concatenate(
                [_step(ask, kv[:, : i + 1], H) for i in range(P + 1)], axis=1
            ),
        }
        if P:
            mistakes[
                "the newest token does not attend to itself: append its key and value to the past first"
            ] = _step(ask, past, H)
        expect(y, want, where, mistakes)
        mistakes = {
            "the cache is returned unchanged; append the newest key and value": past,
            "the newest key and value come first; wanted last": np.concatenate([qkv[..., C:], past], axis=1),
            "the cache holds queries; wanted keys and values, the last 2C channels of qkv": np.concatenate(
                [past, qkv[..., : 2 * C]], axis=1
            ),
            "the newest key and value are exchanged; wanted the key first": exchanged,
        }
        expect(longer, kv, f"{where}, the new past", mistakes)
    return "answers and caches, an empty past, one head and several"


def _step(ask, kv, n_heads, divide_by=None):
    """Return attention of one query to keys and values side by side, scores divided by sqrt(D)."""
    B, C = len(ask), ask.shape[-1]
    q, k, v = (
        z.reshape(B, -1, n_heads, C // n_heads).transpose(0, 2, 1, 3) for z in (ask, kv[..., :C], kv[..., C:])
    )
    a = _softmax(q @ _turned(k) / (divide_by or math.sqrt(C // n_heads)))
    return (a @ v).transpose(0, 2, 1, 3).reshape(B, 1, C)
