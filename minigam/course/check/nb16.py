"""Checks of notebook 16: the memory that the text writes."""

from functools import partial

import numpy as np

from minigam.course.judge import exercise, expect, gradients, pair

SHAPES = ((6, 4, 3), (1, 3, 2), (5, 2, 1), (9, 3, 5))  # T, C, S
WITH_PRIOR = tuple(zip((*SHAPES, (6, 4, 3)), (0.3, 1.0, 0.25, 0.2, 2.5), strict=True))
UNDER_U = "written under u; X1 takes the address from local, softmax(local M^T)"
STRICT = "a token also reads what it has just written: keep the diagonal, j = t"


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
    """Return y; `write` and `read` replace the inputs of the addresses."""
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
                "N and n are swapped; return (N, n)": new_N,
                "this is w; X2 adds it to the old n": w,
                "n has not changed; X2 adds w_t": n,
                "1 is added to n; a slot gets only its share of the token, w_t": n + 1.0,
                "the scores are added; apply the softmax first": n + scores,
                "this is the sum over the slots; wanted one number for each slot": new_n.sum(),
                "n is multiplied by 1 - w before w is added; X2 only adds": (1.0 - w) * n + w,
            },
        )
        expect(
            got_N,
            new_N,
            f"N, {where}",
            {
                UNDER_U: N + np.outer(under_u, u),
                "local is written here; it is the address, and u is what is written": (
                    N + np.outer(w, local)
                ),
                "this is what the token writes; X3 adds it to the old N": np.outer(w, u),
                "N has not changed; X3 adds w_t^T u_t": N,
                "every slot gets all of u; each gets only its share, w_t": N + u,
                "N is divided by n here; N stays a sum, and X4 divides for the read": (
                    new_N / new_n[:, None]
                ),
                "the old N is divided by n; X3 adds to the sum N itself": (N / n[:, None] + np.outer(w, u)),
                "what is written is divided by n; X3 adds w_t^T u_t, and only X4 divides": (
                    N + np.outer(w, u) / new_n[:, None]
                ),
                "the share w of a slot is erased first; X3 only adds": (
                    (1.0 - w)[:, None] * N + np.outer(w, u)
                ),
                "the scores are used as the shares; apply the softmax first": N + np.outer(scores, u),
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
                "u and local are swapped: read under u, write under local": (
                    other(write=u, read=local)
                ),
                "read under local; X5 reads under u, softmax(u M^T)": other(read=local),
                "local is written; X3 writes u": _read(a, w, local, prior * M, prior),
                "y reads the state before the token is written; write first, then read": read(*before),
                "the prior is missing in n: n_0 is lambda, not 0": read(N, n - prior),
                "the prior is missing in N: N_0 is lambda M, not 0": read(N - prior * M, n),
                "N_0 is lambda M; yours is M": read(N + (1.0 - prior) * M, n),
                "n_0 is lambda; yours is 1": read(N, n + 1.0 - prior),
                "the prior is missing: n_0 is lambda and N_0 is lambda M": read(N - prior * M, n - prior),
                "the prior is always 1/S here; use the argument prior": (
                    _read(a, w, u, M / S, 1.0 / S)
                ),
                "N is replaced by N / n; N stays a sum, and N / n is only for the read": np.stack(fed_back),
                "the division by n, X4, is missing": np.einsum("ts,tsc->tc", a, N),
                "divided by the sum of n; X4 divides each row by its own n": (
                    read(N, n.sum(axis=-1, keepdims=True))
                ),
                "every slot is divided by the number of tokens; X4 divides by n": (
                    read(N, prior + np.arange(1.0, T + 1)[:, None] + 0.0 * n)
                ),
                "the state is not carried from token to token": (
                    read(prior * M + w[:, :, None] * u[:, None], prior + w)
                ),
                "every token reads the last state; token t must read the state after token t": (
                    read(N[-1:] + 0.0 * N, n[-1:] + 0.0 * n)
                ),
                "this is the learned memory, E3 to E5; nothing was written": a @ M,
                "these are the states M_t; X5 reads them": N / n[:, :, None],
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
                "entries above the diagonal must be 0: no token reads a later one": r @ w.T,
                "this is the transpose: row t is the token that reads, column j the token that is read": A.T,
                "the division by n is missing": np.tril(a @ w.T),
                "divided by n_j, the n after token j; wanted n_t, the n when t reads": (
                    np.tril(a @ (w / n).T)
                ),
                "n has no prior here: n_0 is lambda": np.tril((a / np.cumsum(w, axis=0)) @ w.T),
                "n of the token before is used; t reads after its own write": (np.tril((a / (n - w)) @ w.T)),
                "the rows are scaled to add up to 1; they do so only with the share of the prior": (
                    A / A.sum(axis=-1, keepdims=True)
                ),
                "a and w are swapped: t reads with a, j was written with w": (np.tril((w / n) @ a.T)),
                "the last n is used for all tokens; token t reads with n_t": np.tril((a / n[-1]) @ w.T),
            },
        )
        share = (prior * r).sum(axis=-1)
        expect(
            got_share,
            share,
            f"share, {where}",
            {
                "lambda is missing: the prior's part of n_t[s] is lambda": r.sum(axis=-1),
                "this is the share of the text; wanted the rest, the share of the prior": A.sum(axis=-1),
                "this is the share in each slot; wanted the sum over the slots for each token": prior * r,
                "the address a is missing: weight each slot by a": (prior / n).sum(axis=-1),
                "this is the plain mean over the slots; weight each slot by a": (prior / n).mean(axis=-1),
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
    """The backward pass: u has two roles, M has three."""
    rng = np.random.default_rng(164)
    for (T, C, S), prior in zip(SHAPES, (0.3, 1.0, 0.25, 0.2), strict=True):
        z = u, local, M = _inputs(rng, T, C, S)
        dy = rng.standard_normal((T, C))
        wrong = partial(_backward, dy, u, local, M, prior)
        shared = {
            "dn, the gradient through X2, is missing: n_t contains w_t, too": wrong(n_back=0.0),
            "dn is not summed: n is a running sum, so dn adds up from the last token to the first": (
                wrong(running=False)
            ),
            "dN is not carried from later tokens to earlier ones": wrong(carried=0.0),
            "N_t contains the write of token t: add r_t^T dy_t to dN before you compute dw and du": (
                wrong(late=True)
            ),
            "da is dr / n, because r = a / n": wrong(slot=True),
            "in the softmax: subtract the sum of da * a, and of dw * w, over the slots": (
                wrong(centred=False)
            ),
        }
        roles = {
            "M's role as where to read, ds^T u, is missing": wrong(reads=0.0),
            "M's role as where to write, dq^T local, is missing": wrong(writes=0.0),
            "M's role as what is held at first, N_0 = lambda M, is missing": wrong(first=0.0),
            "N_0 is lambda M, so the last term of dM is lambda dN, not dN": wrong(first=1.0),
            "only M's role as where to read is included; it has three roles": wrong(writes=0.0, first=0.0),
            "only M's role as where to write is included; it has three roles": wrong(reads=0.0, first=0.0),
            "only M's role as N_0 is included; it has three roles": wrong(reads=0.0, writes=0.0),
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
                    "only u's role as the query is included; it is also what is written": wrong(value=0.0)[0],
                    "only u's role as what is written is included; it is also the query": wrong(query=0.0)[0],
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
            "a token reads later tokens of its chunk; P is tril(r w^T)": wrong(mask=False),
            "N is not carried from chunk to chunk": wrong(carried=False),
            "what the chunk writes is read twice; y is r N + P u with the N before the chunk": wrong(
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
                "this is N before the first token; wanted N after the last": N,
                "the last chunk is missing in N": N
                + w[: (T - 1) // length * length].T @ u[: (T - 1) // length * length],
                "the old N is missing; add what the chunks write to it": want_N - N,
                "this is the transpose; wanted (S, C)": want_N.T,
                **{k: v[1] for k, v in mistakes.items()},
            },
        )
    return "chunks of 1 to 9 tokens, a shorter last chunk; the state after the last token"
