"""Checks of notebook 15: make it fast. They check results and peak memory."""

import numpy as np

from minigam.course.judge import exercise, expect, require
from minigam.engine.memory import track_memory


def _several(got, names: str, where: str) -> tuple:
    """Return as many results as there are names."""
    count = len(names.split(", "))
    several = isinstance(got, tuple | list)
    kind = type(got).__name__ + (f" of {len(got)}" if several else "")
    require(several and len(got) == count, f"{where}: wanted {count} results, {names}, got {kind}")
    return tuple(got)


def _thrifty(call, limit: int, where: str, what: str):
    """Return call(); raise NotYet if its peak memory is more than `limit` bytes."""
    with track_memory(np) as memory:
        got = call()
    taken, allowed = memory.peak_bytes / 2**10, limit / 2**10
    require(
        memory.peak_bytes <= limit,
        f"{where}: peak memory {taken:,.0f} KiB, wanted at most {allowed:,.0f}; {what}",
    )
    return got


def _written(out, got, want, where: str, mistakes: dict) -> None:
    """Raise NotYet unless `out`, nan before the call, equals `want`, and was returned."""
    empty = np.isnan(out).all(axis=1)
    if empty.all():
        require(
            False, f"{where}: nothing was written into out; e = f(e) makes a new array, e[...] = f(e) writes"
        )
    if empty.any() and not np.isnan(want).any():
        first, n = int(empty.argmax()), int(empty.sum())
        require(False, f"{where}: {n} rows of out were not written, the first is row {first}")
    expect(out, want, f"{where}, out", mistakes)
    expect(got, want, f"{where}, what was returned", {"return all of out, not a part": want[-1:]})


def _softmax(s, axis=-1):
    e = np.exp(s - s.max(axis=axis, keepdims=True))
    return e / e.sum(axis=axis, keepdims=True)


@exercise
def ex_15_1(softmax_rows):
    """The softmax of rows, in tiles, into out."""
    rng = np.random.default_rng(151)
    for N, C, tile, dtype in ((10, 3, 4, "f8"), (6, 5, 6, "f4"), (4, 1, 1, "f8"), (5, 4, 100, "f8")):
        s = (rng.standard_normal((N, C)) * 3.0).astype(dtype)
        out, before, where = np.full_like(s, np.nan), s.copy(), f"s {s.shape}, tile {tile}"
        got = softmax_rows(s=s, out=out, tile=tile)
        require(np.array_equal(s, before), f"{where}: s was changed, though out is another array")
        by_columns = [_softmax(s[i : i + tile], axis=0) for i in range(0, N, tile)]
        mistakes = {
            "your columns add up to 1; each row must": np.concatenate(by_columns),
            "the exponentials are not divided by their sum": np.exp(s - s.max(axis=1, keepdims=True)),
            "the exponentials are not divided by their sum ": np.exp(s),
            "divided by the sum of the whole tile; wanted the sum of each row": np.concatenate(
                [np.exp(z - z.max()) / np.exp(z - z.max()).sum() for z in np.split(s, range(tile, N, tile))]
            ),
        }
        _written(out, got, _softmax(s), where, mistakes)
    s = rng.standard_normal((7, 3))
    want = _softmax(s)
    softmax_rows(s=s, out=s, tile=2)
    expect(s, want, "out is s itself", {"nothing was written into it": np.log(want)})
    large = np.array([[1e4, 1e4 - 1.0], [-1e4, -1e4]])
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        got = np.asarray(softmax_rows(s=large, out=np.full((2, 2), np.nan), tile=1))
    require(
        bool(np.isfinite(got).all()), "entries of 10,000 give nan: subtract the largest of each row first"
    )
    s = rng.standard_normal((4096, 32))
    out = np.empty_like(s)
    what = "compute one tile at a time, and write it into out"
    _thrifty(
        lambda: softmax_rows(s=s, out=out, tile=32), 5 * s.nbytes // 8, "4,096 rows in tiles of 32", what
    )
    return "values, a shorter last tile, in place, entries of 10,000, memory"


def _sigmoid(z):
    return 0.5 * (1.0 + np.tanh(0.5 * z))


@exercise
def ex_15_2(fuse_into):
    """The gate and the fusion, in tiles, into out."""
    rng = np.random.default_rng(152)

    def case(N, C, dtype="f8"):
        made = (rng.standard_normal((N, width)).astype(dtype) for width in (C, C, 2 * C))
        return dict(zip(("local_context", "global_context", "gate"), made))

    for N, C, tile, dtype in ((10, 3, 4, "f8"), (6, 4, 6, "f4"), (3, 1, 1, "f8"), (5, 2, 100, "f8")):
        given = case(N, C, dtype)
        m, g, z = given.values()
        before, out = {k: v.copy() for k, v in given.items()}, np.full_like(m, np.nan)
        where = f"contexts {m.shape}, gate {z.shape}, tile {tile}"
        got = fuse_into(**given, out=out, tile=tile)
        for name, was in before.items():
            same = np.array_equal(given[name], was)
            require(same, f"{where}: {name} was changed; z = gate[part] * 0.5 makes a new array, *= does not")
        p, q = _sigmoid(z[:, :C]), _sigmoid(z[:, C:])
        mistakes = {
            "the halves of the gate are swapped: the local one comes first": q * m + p * g,
            "the sigmoid is missing": z[:, :C] * m + z[:, C:] * g,
            "the global context is missing": p * m,
            "the local context is missing; add the global side, do not overwrite out": q * g,
            "this is tanh of the gate; the sigmoid is (1 + tanh(z / 2)) / 2": (
                np.tanh(z[:, :C]) * m + np.tanh(z[:, C:]) * g
            ),
            "this is sigmoid(2 z); take tanh of z / 2": (
                0.5 * (1.0 + np.tanh(z[:, :C])) * m + 0.5 * (1.0 + np.tanh(z[:, C:])) * g
            ),
        }
        _written(out, got, p * m + q * g, where, mistakes)
    given = case(2, 2)
    given["gate"] = np.array([[1e4, -1e4, 1e4, -1e4]] * 2)
    with np.errstate(over="ignore", invalid="ignore"):
        got = fuse_into(**given, out=np.full((2, 2), np.nan), tile=1)
    expect(got, (given["local_context"] + given["global_context"]) * [1.0, 0.0], "gates of 10,000")
    given = case(4096, 16)
    out, limit = np.empty((4096, 16)), given["gate"].nbytes // 2
    what = "take the sigmoid of one tile at a time"
    _thrifty(lambda: fuse_into(**given, out=out, tile=32), limit, "4,096 rows in tiles of 32", what)
    return "values, a shorter last tile, inputs unchanged, gates of 10,000, memory"


@exercise
def ex_15_3(in_parts):
    """Loss and gradient of a batch, computed in parts."""
    rng = np.random.default_rng(153)
    for B, T, size, width in ((7, 5, 3, 4), (6, 4, 2, 3), (4, 3, 9, 1), (5, 6, 1, 2), (48, 4, 1, 20_000)):
        ids, theta = rng.integers(9, size=(B, T)), rng.standard_normal(width)
        targets = np.where(
            np.arange(T) < rng.integers(1, T + 1, size=(B, 1)), rng.integers(9, size=(B, T)), -1
        )
        if B > 1:
            targets[1] = -1  # a row without a target
        asked: list[int] = []

        def loss_and_gradient(some_ids, some_targets, theta=theta, asked=asked):
            counts = np.asarray(some_targets) >= 0
            if not counts.any():
                raise ValueError("every target is negative, wanted at least one")
            asked.append(len(counts))
            error = (np.asarray(some_ids) * theta.mean() - some_targets)[counts]
            slope = np.asarray(some_ids)[counts] * error
            return (error**2).mean(), 2.0 * slope.mean() * (1.0 + np.arange(len(theta)))

        want = loss_and_gradient(ids, targets)
        asked.clear()
        where = f"{B} rows, {size} at a time"

        def call(size=size, ids=ids, targets=targets, f=loss_and_gradient):
            return in_parts(f, ids, targets, size)

        what = "add the gradient of each part to the sum at once, and do not keep it"
        got = _thrifty(call, 8 * 8 * width + 2**17, where, what)
        got = _several(got, "loss, gradient", where)
        most = max(asked, default=0)
        require(most <= size, f"{where}: {most} rows were computed at once, wanted at most {size}")
        places = [slice(i, i + size) for i in range(0, B, size)]
        parts = [p for p in places if (targets[p] >= 0).any()]
        each = [loss_and_gradient(ids[p], targets[p]) for p in parts]
        counts = np.array([(targets[p] >= 0).sum() for p in parts])
        lengths = np.array([len(ids[p]) for p in parts])
        full = [i for i, p in enumerate(parts) if p.stop <= B]

        def mixed(weights, k, each=each):
            return sum(w * part[k] for w, part in zip(weights, each))

        for k, name in enumerate(("loss", "gradient")):
            mistakes = {
                "this is the plain mean over the parts; weight each part by its share of the targets": (
                    mixed(np.full(len(each), 1.0 / len(each)), k)
                ),
                "this is the plain mean over the parts; weight each part by its share of the targets ": (
                    mixed(np.full(len(each), 1.0 / len(places)), k)
                ),
                "each part is weighted by its rows; weight it by its targets that are not negative": (
                    mixed(lengths / B, k)
                ),
                "this is the plain sum over the parts; weight each part by its share of the targets": (
                    mixed(np.ones(len(each)), k)
                ),
                "weighted by the targets of each part, but not divided by all targets": mixed(counts, k),
                "the last part, which has fewer rows, is missing": sum(
                    (counts[i] / counts.sum() * each[i][k] for i in full), 0.0 * each[0][k]
                ),
                "this is only the last part; add up all parts": each[-1][k],
            }
            expect(got[k], want[k], f"{where}, {name}", mistakes)
    return "loss and gradient, a shorter last part, rows without a target, memory"


def _head(x, weight, targets):
    counts = targets >= 0
    z = x @ weight.T
    a, n = _softmax(z), counts.sum()
    top = z.max(axis=1)
    lse = np.log(np.exp(z - top[:, None]).sum(axis=1)) + top
    place = np.arange(len(z)), np.maximum(targets, 0)
    losses = np.where(counts, lse - z[place], 0.0)
    hot = np.zeros_like(z)
    hot[place] = 1.0
    return losses, a, hot, counts.astype(x.dtype), n


@exercise
def ex_15_4(head_loss):
    """Head and cross-entropy in chunks: loss, gradients, memory."""
    rng = np.random.default_rng(154)
    names = "loss, dx, dweight"
    for N, C, V, rows in ((10, 3, 6, 4), (5, 2, 4, 5), (6, 1, 2, 1), (3, 4, 5, 50)):
        x, weight = rng.standard_normal((N, C)), rng.standard_normal((V, C))
        targets = rng.integers(V, size=N)
        targets[:: max(2, N // 2)] = -1
        where = f"x {x.shape}, weight {weight.shape}, {rows} rows at a time"
        loss, dx, dweight = _several(head_loss(x, weight, targets, rows), names, where)
        losses, a, hot, counts, n = _head(x, weight, targets)
        dz = (a - hot) * counts[:, None] / n
        wrap = np.zeros_like(hot)
        wrap[np.arange(N), targets] = 1.0
        expect(
            loss,
            losses.sum() / n,
            f"{where}, loss",
            {
                "the mean counts negative targets, too; divide by the number of the others": losses.mean(),
                "this is the sum over the targets; wanted the mean": losses.sum(),
                "the sign is wrong": -losses.sum() / n,
                "this is only the loss of the last chunk; add up all chunks": (
                    losses[(N - 1) // rows * rows :].sum() / n
                ),
            },
        )
        wrong = {
            "rows with a negative target have a gradient here; it must be 0": (a - hot) / n,
            "rows with a negative target have a gradient here; it must be 0 ": (a - wrap) / n,
            "rows with a negative target keep the softmax; their gradient must be 0": (
                a - hot * counts[:, None]
            )
            / n,
            "the 1 at the target is not subtracted": a * counts[:, None] / n,
            "dz is not divided by n": dz * n,
            "dz is divided by the number of rows; divide by the number of targets that are not negative": dz
            * n
            / N,
            "the sign is wrong": -dz,
        }
        expect(dx, dz @ weight, f"{where}, dx", {k: z @ weight for k, z in wrong.items()})
        last = (N - 1) // rows * rows
        mistakes = {"this is only the last chunk; add up all chunks": dz[last:].T @ x[last:]}
        mistakes |= {k: z.T @ x for k, z in wrong.items()}
        expect(dweight, dz.T @ x, f"{where}, dweight", mistakes)
    x, weight, targets = np.array([[100.0], [-100.0]]), np.array([[100.0], [-100.0]]), np.array([0, 0])
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        loss, dx, dweight = _several(head_loss(x, weight, targets, 1), names, "logits of 10,000")
    require(
        bool(np.isfinite(loss)),
        "logits of 10,000 overflow: subtract the largest of each row before the exponential",
    )
    expect(loss, 10_000.0, "logits of 10,000, loss")
    expect(dx, [[0.0], [-100.0]], "logits of 10,000, dx")
    expect(dweight, [[50.0], [-50.0]], "logits of 10,000, dweight")
    N, C, V = 512, 8, 512
    x, weight, targets = rng.standard_normal((N, C)), rng.standard_normal((V, C)), rng.integers(V, size=N)
    what = "compute the logits of a few rows, use them, and drop them before the next rows"
    where, limit = f"{N} rows of {V} logits, 16 at a time", 8 * N * V // 2
    _thrifty(lambda: head_loss(x, weight, targets, 16), limit, where, what)
    return "loss, both gradients, negative targets, a shorter last chunk, logits of 10,000, memory"
