"""An n-gram language model with interpolated Kneser-Ney smoothing: the baseline to beat."""

from dataclasses import dataclass

import numpy as np

from minigam.engine.memory import require_memory


@dataclass(frozen=True)
class _Level:
    """The statistics of one order k. An n-gram is a context and the token after it. Contexts and n-grams
    are stored as sorted codes and identified by their index. The last entries of `discounted` and of
    `backoff` are for everything that was not counted, whose index is -1."""

    contexts: np.ndarray  # codes of the k - 1 tokens before
    ngrams: np.ndarray  # codes of all k tokens
    discounted: np.ndarray  # (n-grams + 1,)  max(c(h w) - D, 0) / c(h)
    backoff: np.ndarray  # (contexts + 1,)  D N(h) / c(h)


class NGram:
    """An interpolated Kneser-Ney model: for k = 1..order, with h' for h without its first token,

        P_k(w | h) = max(c(h w) - D_k, 0) / c(h) + D_k N(h) / c(h) * P_{k-1}(w | h'),   P_0(w) = 1 / V

    c(h w) : the number of different tokens that occur before h w; or, where none can occur before it
             (k is the order, or h starts with the row), the number of times that h w occurs
    c(h)   : the sum of c(h w) over w; N(h) : the number of different w that occur after h
    D_k    : n1 / (n1 + 2 n2), with n1 and n2 the numbers of n-grams of k tokens whose c is 1 and 2;
             1/2 if one of them is 0
    If h never occurs, P_k = P_{k-1}. No token has probability 0.

    Context never extends past the row, as in a language model. The start of a row counts as one token
    of context, because a language model recognises it by the position. Order 1 is a unigram model,
    discounted and interpolated with the uniform distribution.

    rows : (N, T+1) integers to count, perhaps memory-mapped; a row's first token is only context,
           and negative numbers may follow its last
    Raises InputError when memory is too small.
    Cost: 2 * order - 1 sorts of all tokens, and at the peak about 40 * order bytes per token.
    Source: Kneser and Ney 1995; interpolated as in Chen and Goodman 1999.

    >>> ngram = mg.NGram(np.array([[0, 1, 2, 1, 2, 1]]), vocab_size=3, order=2)
    >>> ngram.losses(np.array([[0, 1, 2]])).round(2).tolist()  # nats
    [[0.08, 0.07]]
    """

    def __init__(self, rows: np.ndarray, vocab_size: int, order: int = 3):
        if order < 1:
            raise ValueError(f"NGram: order is {order}, wanted at least 1")
        require_memory(f"n-grams of up to {order:,} tokens", 40 * order * rows.size, "a smaller order")
        self.vocab_size, self.order = vocab_size, order
        tokens = self._tokens(rows)
        if tokens.shape[1] == 0:
            raise ValueError("NGram: no token to count, wanted at least one after the first of a row")
        contexts, context = np.zeros(1, np.int64), np.zeros(tokens.shape[1], np.int64)
        levels: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        ngram = context
        for k in range(order):
            inside = tokens[k] <= vocab_size  # the others would start before their row
            if not inside.any():
                break  # no row is that long
            tokens, context, shorter = tokens[:, inside], context[inside], ngram[inside]
            if k > 0:
                contexts, context = np.unique(self._code(context, tokens[k]), return_inverse=True)
            ngrams, first, ngram, counts = np.unique(
                self._code(context, tokens[0]), return_index=True, return_inverse=True, return_counts=True
            )
            if levels:  # each n-gram puts one more token before the shorter n-gram that it ends with
                before = np.bincount(shorter[first], minlength=len(levels[-1][1]))
                levels[-1] = (*levels[-1][:2], np.where(before > 0, before, levels[-1][2]))
            levels.append((contexts, ngrams, counts))
        self._levels = [self._level(*level) for level in levels]

    def losses(self, rows: np.ndarray) -> np.ndarray:
        """Return -log P of every target of rows (N, T+1) in nats, (N, T) float64; 0 for negative ones."""
        tokens = self._tokens(rows)
        p, context = np.full(tokens.shape[1], 1.0 / self.vocab_size), np.zeros(tokens.shape[1], np.int64)
        for k, level in enumerate(self._levels):
            if k > 0:
                context = _find(self._code(context, tokens[k]), level.contexts)
            ngram = _find(self._code(context, tokens[0]), level.ngrams)
            p = level.discounted[ngram] + level.backoff[context] * p
        losses = np.zeros((len(rows), rows.shape[1] - 1))
        losses[rows[:, 1:] >= 0] = -np.log(p)
        return losses

    def _tokens(self, rows: np.ndarray) -> np.ndarray:
        """Return (order, M): each of the M targets, then the tokens 1, 2, ... places before it.

        V stands for the start of a row, V + 1 for the places before it.
        """
        rows = rows.astype(np.int64)  # the integers of a file may be unsigned
        if rows.size and rows.max() >= self.vocab_size:
            raise ValueError(f"NGram: token {rows.max()}, wanted below vocab_size {self.vocab_size}")
        left = np.full((len(rows), self.order - 1), self.vocab_size + 1)
        left[:, -1:] = self.vocab_size
        T, counted = rows.shape[1] - 1, rows[:, 1:] >= 0
        rows = np.concatenate([left, rows], axis=1)
        return np.stack([rows[:, self.order - j :][:, :T][counted] for j in range(self.order)])

    def _code(self, place: np.ndarray, token: np.ndarray) -> np.ndarray:
        """Return one number for a context, given by its index, and a token; negative for index -1."""
        return place * (self.vocab_size + 2) + token

    def _level(self, contexts: np.ndarray, ngrams: np.ndarray, counts: np.ndarray) -> _Level:
        n1, n2 = (counts == 1).sum(), (counts == 2).sum()
        # The formula needs both: n1 = 0 leaves nothing for new n-grams, n2 = 0 nothing for those with c = 1.
        discount = n1 / (n1 + 2 * n2) if n1 and n2 else 0.5
        context = ngrams // (self.vocab_size + 2)
        total = np.bincount(context, counts)
        backoff = discount * np.bincount(context) / total
        return _Level(
            contexts,
            ngrams,
            np.append((counts - discount) / total[context], 0.0),  # c is at least 1, D below 1
            np.append(backoff, 1.0),
        )


def _find(codes: np.ndarray, table: np.ndarray) -> np.ndarray:
    """Return the index of each code in a sorted table, -1 for a code that it lacks."""
    place = np.minimum(np.searchsorted(table, codes), len(table) - 1)
    return np.where(table[place] == codes, place, -1)
