"""Checks of notebook 04: the causal convolution."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from minigam.course.judge import NotYet, exercise, expect, gradients, require, require_whole_arrays
from minigam.engine.sequence import causal_conv1d

SHAPES = ((2, 6, 3, 3), (1, 1, 2, 4), (2, 2, 3, 4), (2, 5, 3, 1), (3, 4, 1, 2))  # B, T, C, K


def _conv(u, w, b):
    return causal_conv1d.rule(np, u, w, b)[0]


def _shifted(u, w, b, left: int):
    """E2 with `left` zeros before the text and the other K - 1 - left after it."""
    T, K = u.shape[1], w.shape[1]
    padded = np.pad(u, ((0, 0), (max(left, 0), K), (0, 0)))
    return b + sum(w[:, j] * padded[:, j : j + T] for j in range(K))


@exercise
def ex_04_1(pad_left):
    """K - 1 zero tokens before each sequence."""
    rng = np.random.default_rng(41)
    for B, T, C, K in SHAPES:
        u, n = rng.standard_normal((B, T, C)), K - 1

        def padded(axis=1, before=n, after=0, u=u, **how):
            widths = [(0, 0)] * 3
            widths[axis] = (before, after)
            return np.pad(u, widths, **how)

        expect(
            pad_left(u, K),
            padded(),
            f"u {u.shape}, K = {K}",
            {
                "the zeros stand after the last token; with them every output would depend on later tokens": (
                    padded(before=0, after=n)
                ),
                "the zeros stand on both sides, half of them after the last token; wanted all before": (
                    padded(before=n // 2, after=n - n // 2)
                ),
                "K - 1 zeros on both sides; wanted them before the first token only": padded(after=n),
                "K zero tokens; wanted K - 1, because the window of K contains the present token": padded(
                    before=K
                ),
                "the zeros lie along axis 2, the channels; tokens are axis 1": padded(axis=2),
                "the zeros lie along axis 0, the batch; tokens are axis 1": padded(axis=0),
                "the first token is repeated; wanted zeros": padded(mode="edge"),
                "the end of the text stands before its start; wanted zeros": padded(mode="wrap"),
                "nothing was added": u,
            },
        )
    return "values, K = 1, fewer tokens than taps"


@exercise
def ex_04_2(causal_conv):
    """E2 for whole arrays."""
    rng = np.random.default_rng(42)
    for B, T, C, K in SHAPES:
        u, w, b = rng.standard_normal((B, T, C)), rng.standard_normal((C, K)), rng.standard_normal(C)
        y = _conv(u, w, b)
        expect(
            causal_conv(u, w, b),
            y,
            f"u {u.shape}, w {w.shape}",
            {
                "the taps are in reverse order; column K-1 of w meets the present token": (
                    _conv(u, w[:, ::-1], b)
                ),
                "w is used as (K, C); it is (C, K), so tap j of all channels is w[:, j]": (
                    _conv(u, w.T, b) if C == K else y
                ),
                "the bias is missing": y - b,
                "the bias is added once for each tap; wanted once": y + (K - 1) * b,
                "every window begins at its token and looks ahead; the zeros belong before the text": (
                    _shifted(u, w, b, 0)
                ),
                "the windows are centred, so they contain later tokens; put all zeros before the text": (
                    _shifted(u, w, b, (K - 1) // 2)
                ),
                "the windows end one token too early; the last tap meets the present token": (
                    _shifted(u, w, b, K)
                ),
                "these are the T - (K-1) outputs without padding; wanted one for each token": (y[:, K - 1 :]),
                "there is an output for every padded token; wanted only the T outputs of the text": (
                    _conv(np.pad(u, ((0, 0), (K - 1, 0), (0, 0))), w, b)
                ),
                "the channels are summed up; each has its own filter and its own output": (
                    np.repeat((y - b).sum(axis=-1, keepdims=True), C, axis=-1) + b
                ),
            },
        )
    require_whole_arrays(causal_conv, lambda B, T, C: (np.ones((B, T, C)), np.ones((C, 3)), np.ones(C)))
    return "values, K = 1, one token, fewer tokens than taps, no loop except over the taps"


# --------------------------------------------------------------------------- a test of causality


def _layer_norm(z):
    return (z - z.mean(axis=-1, keepdims=True)) / np.sqrt(z.var(axis=-1, keepdims=True) + 1e-5)


def _from(u, shift: int):
    """u[t + shift] at token t, and zero where there is none."""
    T, y = u.shape[1], np.zeros_like(u)
    for t in range(max(0, -shift), min(T, T - shift)):
        y[:, t] = u[:, t + shift]
    return y


def _leak(u, at: int, source: int, channel: int = 0):
    """u, with one channel of token `source` added to output `at`."""
    y = u.copy()
    if source < u.shape[1]:
        y[:, at, 0] += u[:, source, channel]
    return y


def _by_matrix(u):
    t = np.arange(u.shape[1])
    return np.tril(np.cos(t[:, None] + 7.0 * t)) @ u


def _by_fourier(u):
    """A causal filter by Fourier transform: its rounding errors reach every output."""
    T, taps = u.shape[1], np.array([1.0, -0.7, 0.4])
    spectrum = np.fft.rfft(u, 2 * T + 2, axis=1) * np.fft.rfft(taps, 2 * T + 2)[:, None]
    return np.fft.irfft(spectrum, 2 * T + 2, axis=1)[:, :T]


@dataclass(frozen=True)
class Map:
    """A map from (B, T, 3) to (B, T, 3), whether it is causal, and what to say to a wrong answer."""

    name: str
    causal: bool
    why: str
    f: Callable
    least: int = 1  # tokens, below which `causal` may not hold

    def __call__(self, u):
        return self.f(u)

    def __repr__(self) -> str:
        return f"the map: {self.name}"


MAPS = (
    Map(
        "u itself",
        True,
        "an output may depend on its own token; only later ones are forbidden",
        lambda u: 1.0 * u,
    ),
    Map("a constant", True, "its outputs never change", np.zeros_like),
    Map(
        "a shift by one token",
        True,
        "outputs may depend on earlier tokens; compare only the outputs before the changed token",
        lambda u: _from(u, -1),
    ),
    Map(
        "a running sum",
        True,
        "outputs may depend on every earlier token; only later ones are forbidden",
        lambda u: u.cumsum(axis=1),
    ),
    Map("LayerNorm", True, "each token is normalised alone", _layer_norm),
    Map(
        "a lower triangular matrix", True, "0 times nan is nan; change a token by finite numbers", _by_matrix
    ),
    Map(
        "a filter by Fourier transform",
        True,
        "rounding changes its earlier outputs by about 1e-16; changes below the tolerance do not count",
        _by_fourier,
    ),
    Map("u one token later", False, "output t is token t + 1", lambda u: _from(u, 1), 2),
    Map(
        "u minus the mean over all tokens",
        False,
        "every output depends on every token",
        lambda u: u - u.mean(axis=1, keepdims=True),
        2,
    ),
    Map(
        "the tokens in reverse order",
        False,
        "the first output is the last token",
        lambda u: u[:, ::-1].copy(),
        2,
    ),
    Map(
        "a leak from token 2 to output 1",
        False,
        "nothing else leaks; change every token in turn",
        lambda u: _leak(u, 1, 2),
        3,
    ),
    Map(
        "a leak from the last token to the first output",
        False,
        "nothing else leaks; change every token, the last one too, and compare all outputs before it",
        lambda u: _leak(u, 0, u.shape[1] - 1),
        2,
    ),
    Map(
        "a leak in the last row of the batch",
        False,
        "only that row leaks; change the token in every row",
        lambda u: u + (np.arange(len(u)) == len(u) - 1)[:, None, None] * _from(u, 1),
        2,
    ),
    Map(
        "a leak of the last channel",
        False,
        "only the last channel leaks; change them all",
        lambda u: _leak(u, 0, 1, -1),
        2,
    ),
    Map(
        "LayerNorm of the next token",
        False,
        "LayerNorm subtracts the mean over the channels; add random numbers, not one number to all",
        lambda u: _layer_norm(_from(u, 1)),
        2,
    ),
    Map(
        "a leak of a thousandth",
        False,
        "a small leak is a leak; only a change within the tolerance counts as rounding",
        lambda u: u + 1e-3 * _from(u, 1),
        2,
    ),
    Map(
        "two channels that leak with opposite signs",
        False,
        "its changes add up to zero over the channels; take absolute values first",
        lambda u: u + (_from(u, 1) ** 2).sum(axis=-1, keepdims=True) * np.array([1.0, -1.0, 0.0]),
        2,
    ),
)


@exercise
def ex_04_3(is_causal):
    """A test of causality for any map."""
    rng = np.random.default_rng(43)

    def said_of(f: Map, u: np.ndarray) -> bool:
        with np.errstate(invalid="ignore"):
            answer = is_causal(f, u)
        got = np.asarray(answer)
        if got.shape != () or got.dtype.kind not in "biu":
            raise NotYet(f"returned {repr(answer)[:40]}; wanted True or False")
        return bool(got)

    texts = [rng.standard_normal(shape) for shape in ((2, 6, 3), (1, 2, 3), (1, 1, 3))]
    if not any(said_of(f, texts[0]) == f.causal for f in MAPS):
        raise NotYet(
            "every answer is the opposite of the right one; True means: no output depends on a later token"
        )
    for u in (*texts, np.zeros((2, 6, 3))):
        T, zeros = (
            u.shape[1],
            "" if u.any() else ", and every token is zero: change it, do not set it to zero",
        )
        for f in (f for f in MAPS if f.least <= T):
            said, truth = said_of(f, u), "is causal" if f.causal else "looks into the future"
            word = "causal" if said else "not causal"
            require(said == f.causal, f"said {word} of {f.name} (T = {T}{zeros}), which {truth}: {f.why}")
    causal = sum(f.causal for f in MAPS)
    return f"{causal} causal maps, {len(MAPS) - causal} that cheat, T = 1 and 2, a text of zeros"


# ---------------------------------------------------------------------------------- backwards


@exercise
def ex_04_4(conv_backward):
    """The gradient of E2 with respect to u, w and b."""
    rng = np.random.default_rng(44)
    for B, T, C, K in SHAPES:
        u, w, b = rng.standard_normal((B, T, C)), rng.standard_normal((C, K)), rng.standard_normal(C)
        dy, none = rng.standard_normal(u.shape), np.zeros(C)
        _, dw, db, _ = causal_conv1d.rule(np, u, w, b)[1](dy)
        dpadded = np.zeros((B, K - 1 + T, C))
        for j in range(K):
            dpadded[:, j : j + T] += w[:, j] * dy
        unpadded = [(dy[:, : T - k] * u[:, k:]).sum(axis=(0, 1)) for k in range(K)]
        mistakes = {
            "u": {
                "this is the forward convolution of dy; the window of the gradient extends to later tokens": (
                    _conv(dy, w, none)
                ),
                "the taps are in reverse order": _shifted(dy, w, none, 0),
                "this is the gradient of the padded array; drop the first K - 1 tokens, which were zeros": (
                    dpadded
                ),
                "the last K - 1 tokens were dropped; the padding is the first K - 1": (dpadded[:, :T]),
                "only the last tap is used; each input affects up to K outputs": dy * w[:, -1],
            },
            "w": {
                "the columns are in reverse order; column K-1 belongs to the present token": dw[:, ::-1],
                "dy meets later inputs; tap j met u[t - (K-1) + j], so use the padded array": (
                    np.stack(unpadded, axis=1)
                ),
                "this is a mean over the batch; wanted the sum": dw / B,
                "this is a mean over batch and tokens; wanted the sum": dw / (B * T),
                "shape (K, C), wanted (C, K)": dw.T,
            },
            "b": {
                "summed over the batch only; the bias is added at every token too": dy.sum(axis=0),
                "summed over the tokens only; the bias is the same in every sequence": dy.sum(axis=1),
                "summed over the channels too; each has its own bias": dy.sum(),
                "this is a mean; wanted the sum": db / (B * T),
            },
        }
        gradients(
            conv_backward(dy, u, w), _conv, (u, w, b), dy, "u w b", f"u {u.shape}, w {w.shape}", mistakes
        )
    require_whole_arrays(conv_backward, lambda B, T, C: (*np.ones((2, B, T, C)), np.ones((C, 3))))
    return "three gradients against finite differences, K = 1, fewer tokens than taps, whole arrays"


# ------------------------------------------------------------------------------ token by token


@exercise
def ex_04_5(conv_step):
    """One step with the K - 1 latest inputs as the state."""
    rng = np.random.default_rng(45)
    for B, _, C, K in SHAPES:
        past, u_t = rng.standard_normal((B, K - 1, C)), rng.standard_normal((B, C))
        w, b = rng.standard_normal((C, K)), rng.standard_normal(C)
        got, where = conv_step(past, u_t, w, b), f"past {past.shape}, u_t {u_t.shape}"
        if not isinstance(got, tuple | list) or len(got) != 2:
            raise NotYet(f"{where}: wanted two results, y_t and the new past")
        window = np.concatenate([past, u_t[:, None]], axis=1)
        y = b + (window * w.T).sum(axis=1)
        reversed_past = np.concatenate([past[:, ::-1], u_t[:, None]], axis=1)
        expect(
            got[0],
            y,
            f"{where}, y_t",
            {
                "the taps are in reverse order; column K-1 of w meets u_t": (
                    b + (window * w[:, ::-1].T).sum(axis=1)
                ),
                "the past is used newest first; it is oldest first": b + (reversed_past * w.T).sum(axis=1),
                "the present token is left out": b + (past * w[:, : K - 1].T).sum(axis=1),
                "the bias is missing": y - b,
                "the past is left out": b + w[:, -1] * u_t,
                "wanted shape (B, C), without an axis for the token": y[:, None],
            },
        )
        new = window[:, 1:]
        last = np.concatenate([past[:, 1:], y[:, None]], axis=1)[:, -(K - 1) :] if K > 1 else new
        expect(
            got[1],
            new,
            f"{where}, new past",
            {
                "this is the old past; add u_t and drop the oldest token": past,
                "this is the whole window; drop the oldest token ([-(K-1):] is everything if K is 1)": window,
                "the newest token was dropped; wanted the oldest": window[:, :-1],
                "the newest token is first; wanted the oldest first": (
                    np.concatenate([u_t[:, None], past[:, :-1]], axis=1) if K > 1 else new
                ),
                "the output was stored; the past consists of inputs": last,
            },
        )
    u, w, b = rng.standard_normal((2, 9, 3)), rng.standard_normal((3, 4)), rng.standard_normal(3)
    past, outputs = np.zeros((2, 3, 3)), []
    for t in range(9):
        y_t, past = conv_step(past, u[:, t], w, b)
        outputs.append(np.asarray(y_t))
    expect(np.stack(outputs, axis=1), _conv(u, w, b), "9 steps from a past of zeros, against the whole")
    return "output and past, K = 1, nine steps against the whole text"
