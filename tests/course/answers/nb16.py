"""Wrong answers to the exercises of notebook 16."""

import numpy as np

from answers import wrong


def softmax(s):
    e = np.exp(s - s.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


@wrong("16_1", says="written under u")
def one_address(N, n, u, local, M):
    w = softmax(u @ M.T)
    return N + np.outer(w, u), n + w


@wrong("16_1", says="local is written here")
def writes_the_context(N, n, u, local, M):
    w = softmax(local @ M.T)
    return N + np.outer(w, local), n + w


@wrong("16_1", says="1 is added to n")
def counts_tokens(N, n, u, local, M):
    return N + np.outer(softmax(local @ M.T), u), n + 1.0


@wrong("16_1", says="N stays a sum, and X4 divides")
def returns_the_mean(N, n, u, local, M):
    w = softmax(local @ M.T)
    return (N + np.outer(w, u)) / (n + w)[:, None], n + w


@wrong("16_1", says="the old N is divided by n")
def divides_before_adding(N, n, u, local, M):
    w = softmax(local @ M.T)
    return N / n[:, None] + np.outer(w, u), n + w


@wrong("16_1", says="X3 only adds")
def erases(N, n, u, local, M):
    w = softmax(local @ M.T)
    return (1.0 - w)[:, None] * N + np.outer(w, u), n + w


@wrong("16_1", says="apply the softmax first")
def scores_alone(N, n, u, local, M):
    w = local @ M.T
    return N + np.outer(w, u), n + w


@wrong("16_1", says="are swapped")
def wrong_order(N, n, u, local, M):
    w = softmax(local @ M.T)
    return n + w, N + np.outer(w, u)


@wrong("16_1", says="changed its input in place")
def in_place(N, n, u, local, M):
    w = softmax(local @ M.T)
    N += np.outer(w, u)
    n += w
    return N, n


@wrong("16_1", says="wanted a pair (N, n)")
def sum_alone(N, n, u, local, M):
    return N + np.outer(softmax(local @ M.T), u)


def written(u, local, M, prior, *, N_0=None, n_0=None, write=None, value=None, late=False, divide=True):
    N, n = (prior * M if N_0 is None else N_0), (np.full(len(M), prior) if n_0 is None else n_0)
    y = []
    for t in range(len(u)):
        w = softmax((local if write is None else write)[t] @ M.T)
        new = N + np.outer(w, (u if value is None else value)[t]), n + w
        read = (N, n) if late else new
        N, n = new
        y.append(softmax(u[t] @ M.T) @ (read[0] / read[1][:, None] if divide else read[0]))
    return np.stack(y)


@wrong("16_2", says="written under u")
def written_as_read(u, local, M, prior):
    return written(u, local, M, prior, write=u)


@wrong("16_2", says="are swapped")
def swapped(u, local, M, prior):
    N, n, y = prior * M, np.full(len(M), prior), []
    for t in range(len(u)):
        w = softmax(u[t] @ M.T)
        N, n = N + np.outer(w, u[t]), n + w
        y.append(softmax(local[t] @ M.T) @ (N / n[:, None]))
    return np.stack(y)


@wrong("16_2", says="local is written")
def the_context_is_the_value(u, local, M, prior):
    return written(u, local, M, prior, value=local)


@wrong("16_2", says="write first, then read")
def reads_before_it_writes(u, local, M, prior):
    return written(u, local, M, prior, late=True)


@wrong("16_2", says="the prior is missing in n")
def no_prior_in_n(u, local, M, prior):
    return written(u, local, M, prior, n_0=np.zeros(len(M)))


@wrong("16_2", says="the prior is missing in N")
def no_prior_in_N(u, local, M, prior):
    return written(u, local, M, prior, N_0=np.zeros_like(M))


@wrong("16_2", says="the prior is missing: ")
def no_prior(u, local, M, prior):
    return written(u, local, M, prior, N_0=np.zeros_like(M), n_0=np.zeros(len(M)))


@wrong("16_2", says="N_0 is lambda M; yours is M")
def starts_with_M(u, local, M, prior):
    return written(u, local, M, prior, N_0=M)


@wrong("16_2", says="n_0 is lambda; yours is 1")
def starts_with_one(u, local, M, prior):
    return written(u, local, M, prior, n_0=np.ones(len(M)))


@wrong("16_2", says="the prior is always 1/S")
def ignores_the_prior(u, local, M, prior):
    return written(u, local, M, 1.0 / len(M))


@wrong("16_2", says="X4, is missing")
def no_division(u, local, M, prior):
    return written(u, local, M, prior, divide=False)


@wrong("16_2", says="N is replaced by N / n")
def divides_the_state(u, local, M, prior):
    N, n, y = prior * M, np.full(len(M), prior), []
    for t in range(len(u)):
        w = softmax(local[t] @ M.T)
        n = n + w
        N = (N + np.outer(w, u[t])) / n[:, None]
        y.append(softmax(u[t] @ M.T) @ N)
    return np.stack(y)


@wrong("16_2", says="every token reads the last state")
def reads_the_future(u, local, M, prior):
    w = softmax(local @ M.T)
    N, n = prior * M + w.T @ u, prior + w.sum(axis=0)
    return softmax(u @ M.T) @ (N / n[:, None])


def sources(u, local, M, prior, *, write=None, k=0, n_0=None, late=False):
    a, w = softmax(u @ M.T), softmax((local if write is None else write) @ M.T)
    n = (prior if n_0 is None else n_0) + np.cumsum(w, axis=0)
    r = a / (n - w if late else n)
    return np.tril(r @ w.T, k), prior * r.sum(axis=-1)


@wrong("16_3", says="written under u")
def sources_under_u(u, local, M, prior):
    return sources(u, local, M, prior, write=u)


@wrong("16_3", says="keep the diagonal, j = t")
def strictly_earlier(u, local, M, prior):
    return sources(u, local, M, prior, k=-1)


@wrong("16_3", says="no token reads a later one")
def all_pairs(u, local, M, prior):
    return sources(u, local, M, prior, k=len(u))


@wrong("16_3", says="n has no prior here")
def sources_without_a_prior(u, local, M, prior):
    return sources(u, local, M, prior, n_0=0.0)


@wrong("16_3", says="t reads after its own write")
def sources_before_the_write(u, local, M, prior):
    return sources(u, local, M, prior, late=True)


@wrong("16_3", says="only with the share of the prior")
def scaled_rows(u, local, M, prior):
    A, share = sources(u, local, M, prior)
    return A / A.sum(axis=-1, keepdims=True), share


@wrong("16_3", says="lambda is missing")
def share_without_lambda(u, local, M, prior):
    A, share = sources(u, local, M, prior)
    return A, share / prior


@wrong("16_3", says="this is the share of the text")
def share_of_the_text(u, local, M, prior):
    A, share = sources(u, local, M, prior)
    return A, 1.0 - share


@wrong("16_3", says="this is the transpose")
def columns_read(u, local, M, prior):
    A, share = sources(u, local, M, prior)
    return A.T, share


@wrong("16_3", says="the division by n is missing")
def not_divided(u, local, M, prior):
    share = sources(u, local, M, prior)[1]
    return np.tril(softmax(u @ M.T) @ softmax(local @ M.T).T), share


def backward(
    dy, u, local, M, prior, *, roles=(1.0, 1.0, None), n_back=1.0, carry=1.0, late=False, query=1.0, value=1.0
):
    a, w = softmax(u @ M.T), softmax(local @ M.T)
    n = prior + np.cumsum(w, axis=0)
    N = prior * M + np.cumsum(w[:, :, None] * u[:, None, :], axis=0)
    r = a / n
    da, dw, du = np.zeros_like(a), np.zeros_like(w), np.zeros_like(u)
    dN, dn = np.zeros_like(M), np.zeros(len(M))
    for t in reversed(range(len(u))):
        dr, after = N[t] @ dy[t], dN
        dN = carry * dN + np.outer(r[t], dy[t])
        da[t], dn = dr / n[t], dn - n_back * dr * r[t] / n[t]
        used = after if late else dN
        dw[t], du[t] = used @ u[t] + dn, w[t] @ used
    ds = a * (da - (a * da).sum(axis=-1, keepdims=True))
    dq = w * (dw - (w * dw).sum(axis=-1, keepdims=True))
    reads, writes, first = roles
    dM = reads * ds.T @ u + writes * dq.T @ local + (prior if first is None else first) * dN
    return value * du + query * ds @ M, dq @ M, dM


@wrong("16_4", says="where to read, ds^T u, is missing")
def not_where_to_read(*z):
    return backward(*z, roles=(0.0, 1.0, None))


@wrong("16_4", says="where to write, dq^T local, is missing")
def not_where_to_write(*z):
    return backward(*z, roles=(1.0, 0.0, None))


@wrong("16_4", says="what is held at first")
def not_what_is_there_at_first(*z):
    return backward(*z, roles=(1.0, 1.0, 0.0))


@wrong("16_4", says="lambda dN, not dN")
def without_lambda(*z):
    return backward(*z, roles=(1.0, 1.0, 1.0))


@wrong("16_4", says="only M's role as where to read")
def as_in_the_paper(*z):
    return backward(*z, roles=(1.0, 0.0, 0.0))


@wrong("16_4", says="the gradient through X2, is missing")
def n_is_a_constant(*z):
    return backward(*z, n_back=0.0)


@wrong("16_4", says="not carried from later tokens")
def no_time(*z):
    return backward(*z, carry=0.0)


@wrong("16_4", says="N_t contains the write of token t")
def own_write_last(*z):
    return backward(*z, late=True)


@wrong("16_4", says="it is also what is written")
def u_as_the_query_alone(*z):
    return backward(*z, value=0.0)


@wrong("16_4", says="it is also the query")
def u_as_the_value_alone(*z):
    return backward(*z, query=0.0)


@wrong("16_4", says="2 gradients, wanted 3")
def two_gradients(*z):
    du, _, dM = backward(*z)
    return du, dM


def in_chunks(r, w, u, N, length, *, k=0, first=False, after=False, inside=1.0, before=1.0, whole=False):
    y, N_0 = np.zeros((len(u), u.shape[1])), N
    for start in range(0, len(u) // length * length if whole else len(u), length):
        chunk = slice(start, start + length)
        written = N + w[chunk].T @ u[chunk]
        P = np.tril(r[chunk] @ w[chunk].T, k)
        y[chunk] = before * r[chunk] @ (written if after else N) + inside * P @ u[chunk]
        N = N_0 if first else written
    return y, N


@wrong("16_5", says="keep the diagonal, j = t")
def strict_chunks(*z):
    return in_chunks(*z, k=-1)


@wrong("16_5", says="P is tril(r w^T)")
def chunks_that_see_the_future(r, w, u, N, length):
    return in_chunks(r, w, u, N, length, k=length)


@wrong("16_5", says="not carried from chunk to chunk")
def every_chunk_alone(*z):
    return in_chunks(*z, first=True)


@wrong("16_5", says="is read twice")
def writes_first(*z):
    return in_chunks(*z, after=True)


@wrong("16_5", says="what the chunk itself writes")
def only_earlier_chunks(*z):
    return in_chunks(*z, inside=0.0)


@wrong("16_5", says="what was written before the chunk")
def only_this_chunk(*z):
    return in_chunks(*z, before=0.0)


@wrong("16_5", says="after the last whole chunk")
def whole_chunks_alone(*z):
    return in_chunks(*z, whole=True)


@wrong("16_5", says="this is N before the first token")
def returns_the_old_state(r, w, u, N, length):
    return in_chunks(r, w, u, N, length)[0], N


@wrong("16_5", says="the last chunk is missing in N")
def last_chunk_not_written(r, w, u, N, length):
    earlier = (len(u) - 1) // length * length
    return in_chunks(r, w, u, N, length)[0], N + w[:earlier].T @ u[:earlier]


@wrong("16_5", says="wanted a pair (y, N)")
def outputs_alone(*z):
    return in_chunks(*z)[0]
