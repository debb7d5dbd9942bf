"""Checks of notebook 16: the memory that the text writes."""

from functools import partial

import numpy as np

from minigam.course.judge import exercise, expect, gradients, pair

SHAPES = ((6, 4, 3), (1, 3, 2), (5, 2, 1), (9, 3, 5))  # T, C, S
WITH_PRIOR = tuple(zip((*SHAPES, (6, 4, 3)), (0.3, 1.0, 0.25, 0.2, 2.5), strict=True))
UNDER_U = "written under u; X1 takes the address from local, softmax(local M^T)"
STRICT = "a token reads what it has just written: the diagonal, j = t, belongs to it"


def _inputs(rng, T, C, S):
    """Return u, local and M."""
    return rng.standard_normal((T, C)), rng.standard_normal((T, C)), rng.standard_normal((S, C))


def _softmax(s):
    e = np.exp(s - s.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def _softmax_back(a, da):
    return a * (da - (da * a).sum(axis=-1, keepdims=True))


def _states(w, u, N, n):
    """Return N (T, S, C) and n (T, S) after each token, from N and n before the first."""
    return N + np.cumsum(w[:, :, None] * u[:, None, :], axis=0), n + np.cumsum(w, axis=0)


def _answered(a, N, n):
    """Return y of the states N and n: X4 and X5."""
    return np.einsum("ts,tsc->tc", a / n, N)


def _read(a, w, u, N, n):
    return _answered(a, *_states(w, u, N, n))


def _written(u, local, M, prior, write=None, read=None):
    """Return y; `write` and `read` replace what the addresses are taken from."""
    a, w = _softmax((u if read is None else read) @ M.T), _softmax((local if write is None else write) @ M.T)
    return _read(a, w, u, prior * M, prior)


@exercise
def ex_16_1(write):
    """One token of X1, X2 and X3."""
    rng = np.random.default_rng(161)
    for _, C, S in SHAPES:
        (u, local), M = rng.standard_normal((2, C)), rng.standard_normal((S, C))
        N, n = rng.standard_normal((S, C)), rng.uniform(0.2, 2.0, S)
        where = f"u {u.shape}, M {M.shape}"
        got_N, got_n = pair(write(N, n, u, local, M), where, "N, n")
        w, under_u, scores = _softmax(M @ local), _softmax(M @ u), M @ local
        new_N, new_n = N + np.outer(w, u), n + w
        expect(
            got_n,
            new_n,
            f"n, {where}",
            {
                UNDER_U: n + under_u,
                "these are N and n in each other's place; return (N, n)": new_N,
                "this is w alone; X2 adds it to what the slots held": w,
                "n has not changed; X2 adds w_t": n,
                "every slot counts a whole token; it holds only its share, w_t": n + 1.0,
                "the scores are added without their softmax": n + scores,
                "this is the sum over the slots; wanted one number for each": new_n.sum(),
                "n is multiplied by 1 - w before w is added; X2 only adds": (1.0 - w) * n + w,
            },
        )
        expect(
            got_N,
            new_N,
            f"N, {where}",
            {
                UNDER_U: N + np.outer(under_u, u),
                "local itself is written; it is the address, and u is what is written": (
                    N + np.outer(w, local)
                ),
                "this is what the token writes; X3 adds it to the old N": np.outer(w, u),
                "N has not changed; X3 adds w_t^T u_t": N,
                "u is added to every slot alike; each gets its share, w_t": N + u,
                "N is divided by n here; it stays a sum, and X4 divides when it is read": (
                    new_N / new_n[:, None]
                ),
                "divided by n before adding: N / n is a mean; X3 adds to the sum N": (
                    N / n[:, None] + np.outer(w, u)
                ),
                "what is written is divided by n; X3 adds w_t^T u_t, and X4 divides": (
                    N + np.outer(w, u) / new_n[:, None]
                ),
                "this erases the share w of a slot first; X3 only adds": (
                    (1.0 - w)[:, None] * N + np.outer(w, u)
                ),
                "the scores are used without their softmax": N + np.outer(scores, u),
                "this is its transpose; wanted one row for each slot, (S, C)": new_N.T,
            },
        )
    return "N and n, four shapes, one slot"


@exercise
def ex_16_2(written):
    """The recurrence X1 to X5."""
    rng = np.random.default_rng(162)
    for (T, C, S), prior in WITH_PRIOR:
        u, local, M = z = _inputs(rng, T, C, S)
        a, w = _softmax(u @ M.T), _softmax(local @ M.T)
        N, n = _states(w, u, prior * M, prior)
        before = (
            np.concatenate([(prior * M)[None], N[:-1]]),
            np.concatenate([np.full((1, S), prior), n[:-1]]),
        )
        fed_back, mean = [], prior * M
        for t in range(T):
            mean = (mean + np.outer(w[t], u[t])) / n[t][:, None]
            fed_back.append(a[t] @ mean)
        read, other = partial(_answered, a), partial(_written, u, local, M, prior)
        expect(
            written(*z, prior),
            read(N, n),
            f"u {u.shape}, M {M.shape}, prior {prior:g}",
            {
                UNDER_U: other(write=u),
                "u and local are in each other's place: read under u, write under local": (
                    other(write=u, read=local)
                ),
                "read under local; X5 reads under u, softmax(u M^T)": other(read=local),
                "local is written; X3 writes u": _read(a, w, local, prior * M, prior),
                "reads the state before the token is written; write first, then read": read(*before),
                "the prior is missing in n: n_0 is lambda, not 0": read(N, n - prior),
                "the prior is missing in N: N_0 is lambda M, not 0": read(N - prior * M, n),
                "N_0 is lambda M; yours is M": read(N + (1.0 - prior) * M, n),
                "n_0 is lambda; yours is 1": read(N, n + 1.0 - prior),
                "the prior is missing: n_0 is lambda and N_0 is lambda M": read(N - prior * M, n - prior),
                "the prior is always 1/S here; use the one that is given": (
                    _read(a, w, u, M / S, 1.0 / S)
                ),
                "divided before adding: N stays a sum, and N / n is only read": np.stack(fed_back),
                "the division by n, X4, is missing": np.einsum("ts,tsc->tc", a, N),
                "divided by all that the slots hold together; X4 divides each row by its own n": (
                    read(N, n.sum(axis=-1, keepdims=True))
                ),
                "every slot is divided by the number of tokens; it holds only its share of each": (
                    read(N, prior + np.arange(1.0, T + 1)[:, None] + 0.0 * n)
                ),
                "the state is not carried from token to token": (
                    read(prior * M + w[:, :, None] * u[:, None], prior + w)
                ),
                "every token reads the last state, which later tokens have written": (
                    read(N[-1:] + 0.0 * N, n[-1:] + 0.0 * n)
                ),
                "this is the learned memory alone, E3 to E5; nothing was written": a @ M,
                "these are the states; X5 reads them": N / n[:, :, None],
            },
        )  # fmt: skip
    return "five sizes and priors, one token, one slot"


@exercise
def ex_16_3(sources):
    """Where each read comes from."""
    rng = np.random.default_rng(163)
    for (T, C, S), prior in WITH_PRIOR:
        u, local, M = z = _inputs(rng, T, C, S)
        a, w = _softmax(u @ M.T), _softmax(local @ M.T)
        n = prior + np.cumsum(w, axis=0)
        r, where = a / n, f"u {u.shape}, M {M.shape}, prior {prior:g}"
        A = np.tril(r @ w.T)
        got_A, got_share = pair(sources(*z, prior), where, "A, share")
        under_u = _softmax(u @ M.T)
        expect(
            got_A,
            A,
            f"A, {where}",
            {
                UNDER_U: np.tril((a / (prior + np.cumsum(under_u, axis=0))) @ under_u.T),
                STRICT: np.tril(A, -1),
                "above the diagonal it is 0: no token reads a later one": r @ w.T,
                "this is its transpose: row t is the reader, column j what it reads": A.T,
                "the division by n is missing": np.tril(a @ w.T),
                "divided by n_j, what the slots held when j was written; wanted n_t, when t reads": (
                    np.tril(a @ (w / n).T)
                ),
                "n has no prior here: n_0 is lambda": np.tril((a / np.cumsum(w, axis=0)) @ w.T),
                "n of the token before is used; t reads after it has written": (np.tril((a / (n - w)) @ w.T)),
                "the rows were scaled to add up to 1; the prior has its share of them": (
                    A / A.sum(axis=-1, keepdims=True)
                ),
                "a and w are in each other's place: t reads with a, j was written with w": (
                    np.tril((w / n) @ a.T)
                ),
                "n is the last one for all; token t reads with n_t": np.tril((a / n[-1]) @ w.T),
            },
        )
        share = (prior * r).sum(axis=-1)
        expect(
            got_share,
            share,
            f"share, {where}",
            {
                "lambda is missing: a slot holds lambda of its n from the start": r.sum(axis=-1),
                "this is the share of the text; the prior has the rest": A.sum(axis=-1),
                "this is each slot's; wanted their sum for each token": prior * r,
                "the address a is missing: a slot counts as far as it is read": (prior / n).sum(axis=-1),
                "this is the mean over the slots; a is a share already": (prior / n).mean(axis=-1),
            },
        )
    return "five sizes and priors; with the prior's share each row adds up to 1"


def _backward(
    dy, u, local, M, prior, *, reads=1.0, writes=1.0, first=None, n_back=1.0, query=1.0, value=1.0,
    carried=1.0, late=False, centred=True, running=True, slot=False,
):  # fmt: skip
    """Return du, dlocal, dM; the switches make them wrong."""
    first = prior if first is None else first
    a, w = _softmax(u @ M.T), _softmax(local @ M.T)
    N, n = _states(w, u, prior * M, prior)
    r = a / n
    da, dw, dv = np.zeros_like(a), np.zeros_like(w), np.zeros_like(u)
    dN, dn = np.zeros_like(M), np.zeros(len(M))
    for t in reversed(range(len(u))):
        dr = N[t] @ dy[t]
        own = np.outer(r[t], dy[t])
        before, dN = dN, carried * dN + own
        da[t] = dr if slot else dr / n[t]
        dn = (dn if running else 0.0 * dn) - n_back * dr * r[t] / n[t]
        used = before if late else dN
        dw[t], dv[t] = used @ u[t] + dn, w[t] @ used
    back = _softmax_back if centred else lambda a, da: a * da
    ds, dq = back(a, da), back(w, dw)
    du = value * dv + query * ds @ M
    return du, dq @ M, reads * ds.T @ u + writes * dq.T @ local + first * dN


@exercise
def ex_16_4(written_backward):
    """The backward pass: u in two roles, M in three."""
    rng = np.random.default_rng(164)
    for (T, C, S), prior in zip(SHAPES, (0.3, 1.0, 0.25, 0.2), strict=True):
        z = u, local, M = _inputs(rng, T, C, S)
        dy = rng.standard_normal((T, C))
        wrong = partial(_backward, dy, u, local, M, prior)
        shared = {
            "n_t contains w_t too: dn, the gradient through X2, is missing": wrong(n_back=0.0),
            "n is a running sum: its gradient runs back, dn adds up from the last token to the first": (
                wrong(running=False)
            ),
            "dN is not carried from later tokens to earlier ones": wrong(carried=0.0),
            "token t reads N_t, with its own write in it: add r_t^T dy_t to dN before dw and du": (
                wrong(late=True)
            ),
            "r = a / n: da is dr / n": wrong(slot=True),
            "through the softmax: subtract the sum of da * a, and of dw * w, over the slots": (
                wrong(centred=False)
            ),
        }
        roles = {
            "M's role as where to read, ds^T u, is missing": wrong(reads=0.0),
            "M's role as where to write, dq^T local, is missing": wrong(writes=0.0),
            "M's role as what the slots hold at first, N_0 = lambda M, is missing": wrong(first=0.0),
            "N_0 is lambda M, so the last term of dM is lambda dN, not dN": wrong(first=1.0),
            "only M's role as where to read is there; it has three": wrong(writes=0.0, first=0.0),
            "only M's role as where to write is there; it has three": wrong(reads=0.0, first=0.0),
            "only M's role as N_0 is there; it has three": wrong(reads=0.0, writes=0.0),
        }
        gradients(
            written_backward(dy, *z, prior),
            lambda u, local, M, prior=prior: _written(u, local, M, prior),
            z,
            dy,
            "u local M",
            f"u {u.shape}, M {M.shape}, prior {prior:g}",
            {
                "u": {
                    "only u's role as the query is there; it is also what is written": wrong(value=0.0)[0],
                    "only u's role as what is written is there; it is also the query": wrong(query=0.0)[0],
                    **{message: gradient[0] for message, gradient in shared.items()},
                },
                "local": {message: gradient[1] for message, gradient in shared.items()},
                "M": {message: gradient[2] for message, gradient in (roles | shared).items()},
            },
        )
    return "three gradients against finite differences, four shapes"


def _chunks(
    r, w, u, N, length, *, diagonal=0, mask=True, carried=True, read="before", inside=True, whole=False
):
    """Return y and the state after the last token; the switches make them wrong."""
    y, first = np.zeros((len(r), u.shape[1])), N
    for c in range(0, len(u) - (len(u) % length if whole else 0), length):
        part = slice(c, c + length)
        P = r[part] @ w[part].T
        P = np.tril(P, diagonal) if mask else P
        after = N + w[part].T @ u[part]
        old = after if read == "after" else N
        y[part] = (0.0 if read == "nothing" else r[part] @ old) + (P @ u[part] if inside else 0.0)
        N = after if carried else first
    return y, N


@exercise
def ex_16_5(in_chunks):
    """Chunks of tokens by matrix products."""
    rng = np.random.default_rng(165)
    for (T, C, S), length in zip(
        ((6, 4, 3), (6, 4, 3), (7, 3, 2), (5, 2, 4), (1, 3, 2), (4, 2, 3)), (3, 2, 3, 1, 4, 9), strict=True
    ):
        u, local, M = _inputs(rng, T, C, S)
        a, w = _softmax(u @ M.T), _softmax(local @ M.T)
        N, n = rng.standard_normal((S, C)), rng.uniform(0.2, 1.0, S)
        r = a / (n + np.cumsum(w, axis=0))
        where = f"{T} tokens, chunks of {length}"
        got_y, got_N = pair(in_chunks(r, w, u, N, length), where, "y, N")
        want_y, want_N = _chunks(r, w, u, N, length)
        wrong = partial(_chunks, r, w, u, N, length)
        mistakes = {
            STRICT: wrong(diagonal=-1),
            "within a chunk no token reads a later one: P is tril(r w^T)": wrong(mask=False),
            "N is not carried from chunk to chunk": wrong(carried=False),
            "what the chunk writes is read twice: y takes the N before the chunk, and P u": wrong(
                read="after"
            ),
            "what was written before the chunk, r N, is missing": wrong(read="nothing"),
            "what the chunk itself writes, P u, is missing": wrong(inside=False),
            "the tokens after the last whole chunk are missing": wrong(whole=True),
        }
        expect(got_y, want_y, f"y, {where}", {k: v[0] for k, v in mistakes.items()})
        expect(
            got_N,
            want_N,
            f"N, {where}",
            {
                "this is N before the first token; wanted that after the last": N,
                "the last chunk has not been written into N": N
                + w[: (T - 1) // length * length].T @ u[: (T - 1) // length * length],
                "N is what the last chunk writes; add it to the old N": want_N - N,
                "this is its transpose; wanted (S, C)": want_N.T,
                **{k: v[1] for k, v in mistakes.items()},
            },
        )
    return "chunks of 1 to 9 tokens, whole and broken ones; the state after the last token"
