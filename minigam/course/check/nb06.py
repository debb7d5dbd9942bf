"""Checks of notebook 06: the gate."""

import numpy as np

from minigam.course.judge import NotYet, exercise, expect, gradients, require
from minigam.engine.numeric import sigmoid as sigmoid_of
from minigam.engine.sequence import gated_fusion

SHAPES = ((2, 5, 4), (1, 1, 1), (3, 2, 2))  # B, T, C


def _sigmoid(z):
    return sigmoid_of(np, z)


def _fuse(local_context, global_context, g):
    return gated_fusion.rule(np, local_context, global_context, g)[0]


def _drawn(rng, B, T, C):
    """Return two contexts and a gate."""
    return rng.standard_normal((B, T, C)), rng.standard_normal((B, T, C)), rng.standard_normal((B, T, 2 * C))


@exercise
def ex_06_1(sigmoid):
    """The sigmoid, without overflow."""
    rng = np.random.default_rng(61)
    for shape in ((2, 5, 4), (7,), (1, 1), ()):
        z = np.asarray(3.0 * rng.standard_normal(shape))
        expect(
            sigmoid(z),
            _sigmoid(z),
            f"z of shape {shape}",
            {
                "the sign of z is wrong": _sigmoid(-z),
                "this is sigmoid(2 z); take tanh of z / 2": _sigmoid(2.0 * z),
                "this is tanh(z / 2), from -1 to 1; wanted from 0 to 1": np.tanh(0.5 * z),
                "this is 1 + tanh(z / 2), from 0 to 2; halve it": 1.0 + np.tanh(0.5 * z),
                "this is the derivative p (1 - p)": _sigmoid(z) * _sigmoid(-z),
                "this is a softmax over all entries; wanted the sigmoid of each": np.exp(z) / np.exp(z).sum(),
            },
        )
    for dtype, large in ((np.float64, 1e4), (np.float32, 200.0)):
        z, name = np.array([-large, 0.0, large], dtype), np.dtype(dtype).name
        try:
            with np.errstate(over="raise", invalid="raise"):
                got = np.asarray(sigmoid(z))
        except NotYet as e:
            if not ("overflow" in str(e) or "invalid value" in str(e)):
                raise
            raise NotYet(f"z = {large:g} in {name} overflows in np.exp; use np.tanh instead") from None
        require(bool(np.isfinite(got).all()), f"z = {large:g} in {name} gives nan; use np.tanh instead")
        expect(got, np.array([0.0, 0.5, 1.0], dtype), f"z = {large:g} in {name}")
        off = float(np.abs(got - [0.0, 0.5, 1.0]).max())
        require(off < 1e-12, f"z = {large:g} in {name} is off by {off:.0e}; do not clip z so early")
    return "any shape, z of 10,000 without overflow, float32"


@exercise
def ex_06_2(fuse):
    """E7."""
    rng = np.random.default_rng(62)
    for B, T, C in SHAPES:
        local, recalled, g = _drawn(rng, B, T, C)
        a, b = g[..., :C], g[..., C:]
        p, q = _sigmoid(a), _sigmoid(b)
        share = np.exp(g) / np.exp(g).sum(axis=-1, keepdims=True)
        expect(
            fuse(local, recalled, g),
            p * local + q * recalled,
            f"contexts {local.shape}, g {g.shape}",
            {
                "the halves of g are swapped; the first C numbers are for the local side": q * local
                + p * recalled,
                "the sigmoid is missing; apply it to g first": a * local + b * recalled,
                "the two shares add up to 1, as in a softmax; wanted a sigmoid for each side": (
                    _sigmoid(a - b) * local + _sigmoid(b - a) * recalled
                ),
                "the global side is multiplied by 1 - p; it has a gate of its own, the second half of g": (
                    p * local + (1.0 - p) * recalled
                ),
                "one softmax over all 2C numbers; wanted a sigmoid of each": share[..., :C] * local
                + share[..., C:] * recalled,
                "g is split into even and odd entries; wanted the first C and the last C": (
                    _sigmoid(g[..., ::2]) * local + _sigmoid(g[..., 1::2]) * recalled
                ),
                "this is the plain sum; the gate is missing": local + recalled,
                "the global side is missing": p * local,
                "the local side is missing": q * recalled,
            },
        )
    local, recalled, _ = _drawn(rng, 1, 2, 2)
    shut, open_ = np.full(local.shape, -1e4), np.full(local.shape, 1e4)
    for first, second, want, what in (
        (shut, open_, recalled, "only global"),
        (open_, open_, local + recalled, "both sides"),
    ):
        expect(
            fuse(local, recalled, np.concatenate([first, second], axis=-1)),
            want,
            f"g of 10,000 that opens {what}",
        )
    return "values, one channel, one token, gates that are fully open and closed"


@exercise
def ex_06_3(fuse_backward):
    """The gradient of E7."""
    rng = np.random.default_rng(63)
    for B, T, C in SHAPES:
        local, recalled, g = _drawn(rng, B, T, C)
        dy = rng.standard_normal(local.shape)
        p, q = _sigmoid(g[..., :C]), _sigmoid(g[..., C:])

        def both(a, b):
            return np.concatenate([a, b], axis=-1)

        dg = both(dy * local * p * (1 - p), dy * recalled * q * (1 - q))
        mistakes = {
            "local": {
                "dy is missing; the gradient is dy times p": p,
                "this is dy; the local context was multiplied by p, so its gradient is dy times p": dy,
                "dy is multiplied by q, the gate of the other side; wanted p": dy * q,
                "dy is multiplied by the local context; that is the gradient of p. Wanted dy times p": dy
                * local,
                "dy is multiplied by p (1 - p); that factor belongs to the gradient of g": dy * p * (1 - p),
            },
            "global": {
                "dy is missing; the gradient is dy times q": q,
                "this is dy; the global context was multiplied by q, so its gradient is dy times q": dy,
                "dy is multiplied by p, the gate of the other side; wanted q": dy * p,
                "dy is multiplied by 1 - p; the global side has a gate of its own, q": dy * (1 - p),
            },
            "g": {
                "the derivative of the sigmoid, p (1 - p), is missing": both(dy * local, dy * recalled),
                "multiplied by p; the derivative of the sigmoid is p (1 - p)": both(
                    dy * local * p, dy * recalled * q
                ),
                "multiplied by 1 - p; the derivative of the sigmoid is p (1 - p)": (
                    both(dy * local * (1 - p), dy * recalled * (1 - q))
                ),
                "the contexts are missing: the gradient of p is dy times the local context": (
                    both(dy * p * (1 - p), dy * q * (1 - q))
                ),
                "the halves are swapped; the local one comes first": both(dg[..., C:], dg[..., :C]),
                "the two contexts are swapped": both(dy * recalled * p * (1 - p), dy * local * q * (1 - q)),
                "the two halves are added; wanted both side by side, 2C numbers": dg[..., :C] + dg[..., C:],
            },
        }
        where = f"contexts {local.shape}, g {g.shape}"
        got = fuse_backward(dy, local, recalled, g)
        gradients(got, _fuse, (local, recalled, g), dy, "local global g", where, mistakes)
    local, recalled, _ = _drawn(rng, 1, 2, 2)
    with np.errstate(over="ignore", invalid="ignore"):
        dg = np.asarray(fuse_backward(local, local, recalled, np.full((1, 2, 4), -1e4))[2])
    expect(dg, np.zeros((1, 2, 4)), "gradient of g where g is -10,000")
    return "three gradients against finite differences, one channel, saturated gates"


@exercise
def ex_06_4(gradient_share):
    """The mean over tokens of 4 p (1 - p)."""
    rng = np.random.default_rng(64)
    for B, T, C in SHAPES:
        g = 2.0 * rng.standard_normal((B, T, 2 * C))
        p = _sigmoid(g)
        each = 4.0 * p * (1.0 - p)
        mean = p.mean(axis=(0, 1))
        expect(
            gradient_share(g),
            each.mean(axis=(0, 1)),
            f"g {g.shape}",
            {
                "the factor 4 is missing; it makes the largest share 1": each.mean(axis=(0, 1)) / 4.0,
                "averaged over the channels, too; wanted a number for each channel": each.mean(),
                "averaged over the batch only; wanted the mean over the tokens, too": each.mean(axis=0),
                "averaged over the tokens of each sequence; wanted the mean over the batch, too": each.mean(
                    axis=1
                ),
                "averaged over the channels of each token; wanted the mean over the tokens": each.mean(
                    axis=-1
                ),
                "summed over the tokens; wanted the mean": each.sum(axis=(0, 1)),
                "p was averaged first; compute p (1 - p) of each token, then average": 4.0
                * mean
                * (1.0 - mean),
                "this is 1 minus the share, the saturation": 1.0 - each.mean(axis=(0, 1)),
                "g was used for p; apply the sigmoid first": (4.0 * g * (1.0 - g)).mean(axis=(0, 1)),
            },
        )
    sure = np.full((1, 2, 2), 1e4) * np.array([-1.0, 1.0])
    with np.errstate(over="ignore", invalid="ignore"):
        got = np.asarray(gradient_share(sure))
    require(bool(np.isfinite(got).all()), "g of 10,000 gives nan: use the safe sigmoid")
    expect(got, np.zeros(2), "g of -10,000 and 10,000")
    expect(gradient_share(np.zeros((2, 3, 4))), np.ones(4), "g = 0")
    return "values, one channel, g of 0 and of 10,000"


@exercise
def ex_06_5(mixer_parameters):
    """The parameters of a mixer."""
    for C, S, K in ((8, 5, 3), (512, 512, 3), (3, 1, 1), (4, 7, 6)):
        conv, memory, gate = C * K + C, S * C, 2 * C * C + 2 * C
        for mixer, parts in (
            ("gated", (conv, memory, gate)),
            ("sum", (conv, memory)),
            ("local", (conv,)),
            ("global", (memory,)),
        ):
            want, has_conv, has_memory = sum(parts), mixer != "global", mixer != "local"
            mistakes = (
                {"this mixer has no gate": want + gate}
                if gate not in parts
                else {
                    "the gate is missing": want - gate,
                    "the bias of the gate is missing, 2C": want - 2 * C,
                    "the gate needs 2C outputs, one for each side and channel: 2C C weights": want - C * C,
                    "the gate has 2C weights here; its matrix has 2C C": want - 2 * C * C + 2 * C,
                }
            )
            mistakes |= (
                {"the convolution is missing": want - conv}
                if has_conv
                else {"this mixer has no convolution": want + conv}
            )
            mistakes |= (
                {"the memory is missing": want - memory}
                if has_memory
                else {"this mixer has no memory": want + memory}
            )
            if has_conv:
                mistakes |= {
                    "the bias of the convolution is missing, C": want - C,
                    "the convolution is depthwise and has C K weights; C C K would mix the channels": (
                        want - C * K + C * C * K
                    ),
                }
            if has_memory:
                mistakes |= {
                    "the memory is counted twice; one matrix M is keys and values": want + memory,
                    "the memory has no bias": want + S,
                }
            got = mixer_parameters(C, S, K, mixer)
            where = f'C {C}, S {S}, K {K}, "{mixer}"'
            expect(got, want, where, mistakes)
            is_int = isinstance(got, int | np.integer)
            require(is_int, f"{where}: right, but a {type(got).__name__}; return an int")
    return "four mixers, four sizes"
