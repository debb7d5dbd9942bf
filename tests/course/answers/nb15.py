"""Wrong answers to the exercises of notebook 15."""

import numpy as np

from answers import wrong


def softmax(s, axis=-1):
    e = np.exp(s - s.max(axis=axis, keepdims=True))
    return e / e.sum(axis=axis, keepdims=True)


def sigmoid(z):
    return 0.5 * (1.0 + np.tanh(0.5 * z))


@wrong("15_1", says="nothing was written into out")
def names_a_new_array(s, out, tile):
    for start in range(0, len(s), tile):
        e = out[start : start + tile]
        e = softmax(s[start : start + tile] + 0.0 * e)
    assert e is not out
    return out


@wrong("15_1", says="peak memory")
def all_at_once(s, out, tile):
    out[...] = softmax(s)
    return out


@wrong("15_1", says="rows of out were not written")
def forgets_the_last_tile(s, out, tile):
    for i in range(len(s) // tile):
        out[i * tile : (i + 1) * tile] = softmax(s[i * tile : (i + 1) * tile])
    return out


@wrong("15_1", says="subtract the largest of each row")
def overflows(s, out, tile):
    for i in range(0, len(s), tile):
        e = np.exp(s[i : i + tile])
        out[i : i + tile] = e / e.sum(axis=1, keepdims=True)
    return out


@wrong("15_1", says="wanted the sum of each row")
def one_sum_a_tile(s, out, tile):
    for i in range(0, len(s), tile):
        e = np.exp(s[i : i + tile] - s[i : i + tile].max())
        out[i : i + tile] = e / e.sum()
    return out


def fused(m, g, gate, out, tile, *, swap=False, squash=sigmoid):
    C = m.shape[1]
    for i in range(0, len(m), tile):
        part = slice(i, i + tile)
        p, q = squash(gate[part, :C]), squash(gate[part, C:])
        p, q = (q, p) if swap else (p, q)
        out[part] = p * m[part] + q * g[part]
    return out


@wrong("15_2", says="halves of the gate are swapped")
def exchanged(local_context, global_context, gate, out, tile):
    return fused(local_context, global_context, gate, out, tile, swap=True)


@wrong("15_2", says="sigmoid is missing")
def no_sigmoid(local_context, global_context, gate, out, tile):
    return fused(local_context, global_context, gate, out, tile, squash=lambda z: z)


@wrong("15_2", says="gate was changed")
def writes_into_the_gate(local_context, global_context, gate, out, tile):
    gate *= 0.5
    return fused(local_context, global_context, gate, out, tile, squash=lambda z: 0.5 * (1 + np.tanh(z)))


@wrong("15_2", says="do not overwrite out")
def overwrites(local_context, global_context, gate, out, tile):
    C = out.shape[1]
    for i in range(0, len(out), tile):
        part = slice(i, i + tile)
        np.multiply(sigmoid(gate[part, :C]), local_context[part], out=out[part])
        np.multiply(sigmoid(gate[part, C:]), global_context[part], out=out[part])
    return out


@wrong("15_2", says="one tile at a time")
def whole_gate(local_context, global_context, gate, out, tile):
    return fused(local_context, global_context, gate, out, len(out))


def parts_of(f, ids, targets, size):
    for i in range(0, len(ids), size):
        if (targets[i : i + size] >= 0).any():
            yield i, f(ids[i : i + size], targets[i : i + size])


@wrong("15_3", says="this is the plain mean over the parts")
def mean_of_means(f, ids, targets, size):
    found = [part for _, part in parts_of(f, ids, targets, size)]
    return sum(p[0] for p in found) / len(found), sum(p[1] for p in found) / len(found)


@wrong("15_3", says="each part is weighted by its rows")
def by_rows(f, ids, targets, size):
    loss, gradient = 0.0, 0.0
    for i, (a, b) in parts_of(f, ids, targets, size):
        share = len(ids[i : i + size]) / len(ids)
        loss, gradient = loss + share * a, gradient + share * b
    return loss, gradient


@wrong("15_3", says="rows were computed at once")
def at_once(f, ids, targets, size):
    return f(ids, targets)


@wrong("15_3", says="raised ValueError: every target is negative")
def asks_for_nothing(f, ids, targets, size):
    loss, gradient, n = 0.0, 0.0, (targets >= 0).sum()
    for i in range(0, len(ids), size):
        share = (targets[i : i + size] >= 0).sum() / n
        a, b = f(ids[i : i + size], targets[i : i + size])
        loss, gradient = loss + share * a, gradient + share * b
    return loss, gradient


@wrong("15_3", says="and do not keep it")
def keeps_every_gradient(f, ids, targets, size):
    n = (targets >= 0).sum()
    found = [((targets[i : i + size] >= 0).sum() / n, p) for i, p in parts_of(f, ids, targets, size)]
    return sum(w * p[0] for w, p in found), sum(w * p[1] for w, p in found)


def head(x, weight, targets, rows, *, count=None, mask=True, hot=1.0, safe=True):
    counts = targets >= 0
    n, loss = count or counts.sum(), 0.0
    dx, dweight = np.zeros_like(x), np.zeros_like(weight)
    for i in range(0, len(x), rows):
        z = x[i : i + rows] @ weight.T
        z = z - z.max(axis=1, keepdims=True) if safe else z
        place = np.arange(len(z)), np.maximum(targets[i : i + rows], 0)
        c = counts[i : i + rows]
        loss += (np.log(np.exp(z).sum(axis=1)) - z[place])[c].sum()
        a = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
        a[place] -= hot
        a *= (c[:, None] if mask else 1.0) / n
        dx[i : i + rows] = a @ weight
        dweight += a.T @ x[i : i + rows]
    return loss / n, dx, dweight


@wrong("15_4", says="counts negative targets, too")
def mean_over_rows(x, weight, targets, rows):
    return head(x, weight, targets, rows, count=len(x))


@wrong("15_4", says="have a gradient here; it must be 0")
def gradient_of_nothing(x, weight, targets, rows):
    return head(x, weight, targets, rows, mask=False)


@wrong("15_4", says="1 at the target is not subtracted")
def softmax_alone(x, weight, targets, rows):
    return head(x, weight, targets, rows, hot=0.0)


@wrong("15_4", says="subtract the largest of each row before")
def overflowing(x, weight, targets, rows):
    return head(x, weight, targets, rows, safe=False)


@wrong("15_4", says="compute the logits of a few rows")
def whole_logits(x, weight, targets, rows):
    return head(x, weight, targets, len(x))


@wrong("15_4", says="this is only the last chunk")
def does_not_add(x, weight, targets, rows):
    loss, dx, dweight = head(x, weight, targets, rows)
    n, last = (targets >= 0).sum(), (len(x) - 1) // rows * rows
    if (targets[last:] < 0).all():
        return loss, dx, np.zeros_like(dweight)
    return loss, dx, head(x[last:], weight, targets[last:], rows, count=n)[2]
