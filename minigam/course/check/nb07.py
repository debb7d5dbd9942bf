"""Checks of notebook 07: the block and the model."""

import math

import numpy as np

from minigam.course.judge import NotYet, exercise, expect, gradients, numbers, require
from minigam.engine import ops
from minigam.engine.sequence import associative_memory, causal_conv1d, gated_fusion

SHAPES = ((2, 5, 6), (3, 4), (7,), (1, 1, 2))  # the last axis is C


def _mean(z, axis=-1):
    return z.mean(axis=axis, keepdims=True)


def _rows(z):
    return z.reshape(-1, z.shape[-1])


def _layer_norm(x, weight, bias, eps=1e-5):
    return ops.layer_norm.rule(np, x, weight, bias, eps=eps)[0]


@exercise
def ex_07_1(layer_norm):
    """LayerNorm over the last axis."""
    rng = np.random.default_rng(71)
    for shape in SHAPES:
        C = shape[-1]
        x = rng.standard_normal(shape) * 2.0 + 5.0
        w, b = rng.standard_normal(C), rng.standard_normal(C)
        c = x - _mean(x)
        var = _mean(c * c)
        n = c / np.sqrt(var + 1e-5)
        first = tuple(range(x.ndim - 1))  # all axes but the last
        other = x - x.mean(axis=first, keepdims=True)
        batch = other / np.sqrt((other * other).mean(axis=first, keepdims=True) + 1e-5)
        whole = (x - x.mean()) / np.sqrt(x.var() + 1e-5)
        expect(
            layer_norm(x, w, b),
            n * w + b,
            f"x of shape {shape}",
            {
                "weight and bias are missing: y = n * weight + bias": n,
                "the bias is missing: y = n * weight + bias": n * w,
                "the weight is missing: y = n * weight + bias": n + b,
                "the variance is divided by C - 1; wanted C (np.var's ddof is 0)": (
                    c / np.sqrt(var * (C / (C - 1)) + 1e-5) * w + b
                ),
                "divided by the variance; wanted its square root": c / (var + 1e-5) * w + b,
                "eps is outside the square root; wanted sqrt(variance + eps)": (
                    c / (np.sqrt(var) + 1e-5) * w + b
                ),
                "eps is missing; wanted sqrt(variance + eps)": c / np.sqrt(var) * w + b,
                "the mean is not subtracted": x / np.sqrt(var + 1e-5) * w + b,
                "the variance is the mean of the squares of x - mean; this squares x": (
                    c / np.sqrt(_mean(x * x) + 1e-5) * w + b
                ),
                "normalised over the tokens; wanted over the channels of each token, the last axis": (
                    batch * w + b
                ),
                "one mean and variance for all tokens together; wanted those of each, over the last axis": (
                    whole * w + b
                ),
            },
            rtol=1e-9,
        )
    with np.errstate(invalid="ignore", divide="ignore"):
        got = numbers(layer_norm(np.full((2, 3), 4.0), np.ones(3), np.zeros(3)), "equal channels")
    require(
        bool(np.isfinite(got).all()), "a token of equal channels gives nan: add eps before the square root"
    )
    expect(got, np.zeros((2, 3)), "a token of equal channels")
    x, ones, zeros = rng.standard_normal((2, 4)) * 0.1, np.ones(4), np.zeros(4)
    ignored = {"eps is ignored: use the argument, not a fixed number": _layer_norm(x, ones, zeros)}
    expect(layer_norm(x, ones, zeros, 0.5), _layer_norm(x, ones, zeros, 0.5), "eps of 0.5", ignored)
    return "any number of axes, weight and bias, equal channels, another eps"


@exercise
def ex_07_2(layer_norm_backward):
    """The gradient of LayerNorm."""
    rng = np.random.default_rng(72)
    for shape in ((2, 5, 6), (3, 4), (1, 1, 2), (5,)):
        x, dy = rng.standard_normal(shape) * 0.7 + 2.0, rng.standard_normal(shape)
        w, b = rng.standard_normal((2, shape[-1]))
        c = x - _mean(x)
        r = np.sqrt(_mean(c * c) + 1e-5)
        n, dn = c / r, dy * w
        mistakes = {
            "x": {
                "divide by sqrt(variance + eps) at the end": dn - _mean(dn) - n * _mean(dn * n),
                "the mean and the variance depend on x too; this treats them as constants": dn / r,
                "the term of the variance is missing: n times the mean of dn * n": (dn - _mean(dn)) / r,
                "the term of the mean is missing: the mean of dn": (dn - n * _mean(dn * n)) / r,
                "dy must be multiplied by the weight first: dn = dy * weight": (
                    (dy - _mean(dy) - n * _mean(dy * n)) / r
                ),
                "divided by variance + eps; wanted by its square root": (
                    (dn - _mean(dn) - n * _mean(dn * n)) / r**2
                ),
                "the two terms subtracted are means over the channels; one of yours is a sum": (
                    (dn - _mean(dn) - n * (dn * n).sum(axis=-1, keepdims=True)) / r
                ),
                "the order of the results is dx, dweight, dbias": _rows(dy * n).sum(axis=0),
                "the two terms subtracted are means over the channels; yours are sums": (
                    dn - dn.sum(axis=-1, keepdims=True) - n * (dn * n).sum(axis=-1, keepdims=True)
                )
                / r,
                "subtract the two terms; yours adds them": (dn + _mean(dn) + n * _mean(dn * n)) / r,
                "the term of the variance has x - mean where n is wanted": (
                    (dn - _mean(dn) - c * _mean(dn * c)) / r
                ),
            },
            "weight": {
                "this is the sum of dn * n; y = n * weight + bias, so wanted that of dy * n": (
                    _rows(dn * n).sum(axis=0)
                ),
                "one for each token; the weight serves them all, so sum over all axes but the last": dy * n,
                "summed over the batch alone; wanted over the tokens too": (dy * n).sum(axis=0),
                "wanted the sum over tokens of dy * n; this has x where n is wanted": (
                    _rows(dy * x).sum(axis=0)
                ),
                "this is the bias's gradient; the weight's has a factor n": _rows(dy).sum(axis=0),
                "a mean over the tokens; wanted the sum": _rows(dy * n).mean(axis=0),
            },
            "bias": {
                "one for each token; the bias serves them all, so sum over all axes but the last": dy,
                "summed over the batch alone; wanted over the tokens too": dy.sum(axis=0),
                "a mean over the tokens; wanted the sum": _rows(dy).mean(axis=0),
                "the bias comes after the weight: its gradient has no factor weight": _rows(dn).sum(axis=0),
            },
        }
        if x.ndim == 2:
            over_all = "summed over axes 0 and 1, here the channels too; wanted over all axes but the last"
            mistakes["weight"][over_all] = (dy * n).sum()
        gradients(
            layer_norm_backward(dy, x, w), _layer_norm, (x, w, b), dy, "x weight bias", f"x {shape}", mistakes
        )
    x, dy, w = rng.standard_normal((2, 4)) * 0.1, rng.standard_normal((2, 4)), rng.standard_normal(4)
    for eps in (0.5, 1e-5):

        def f(x, w, b, eps=eps):
            return _layer_norm(x, w, b, eps)

        got = layer_norm_backward(dy, x, w, eps)
        without = {"eps is ignored: divide by sqrt(variance + eps), with the eps that was given": (
            ops.layer_norm.rule(np, x, w, w, eps=1e-5 if eps > 0.1 else 0.0)[1](dy)[0]
        )}  # fmt: skip
        gradients(got, f, (x, w, np.zeros(4)), dy, "x weight bias", f"eps of {eps}", {"x": without})
    return "three gradients against finite differences, four shapes, another eps"


@exercise
def ex_07_3(gelu):
    """GELU, and its derivative."""
    rng = np.random.default_rng(73)
    for shape in ((2, 5, 6), (4,), (1, 1)):
        x = rng.uniform(-2.5, 2.5, shape)
        got = gelu(x)
        if not isinstance(got, tuple | list) or len(got) != 2:
            raise NotYet(f"x of shape {shape}: wanted the pair (y, slope)")
        error = np.vectorize(math.erf, otypes=[float])
        phi = np.exp(-0.5 * x * x) / math.sqrt(2.0 * math.pi)
        Phi, Psi = 0.5 * (1.0 + error(x / math.sqrt(2.0))), 0.5 * (1.0 + error(x))
        inner = math.sqrt(2.0 / math.pi) * (x + 0.044715 * x**3)
        expect(
            got[0],
            x * Phi,
            f"y, x of shape {shape}",
            {
                "this is the tanh approximation; wanted the exact one, with erf": (
                    0.5 * x * (1.0 + np.tanh(inner))
                ),
                "wanted erf(x / sqrt(2)); this is erf(x)": x * Psi,
                "the 1 is missing in Phi: 0.5 * (1 + erf(...))": x * (Phi - 0.5),
                "this is the slope; the order of the results is y, slope": Phi + x * phi,
                "this is Phi alone; GELU is x times it": Phi,
                "the half is missing in Phi: 0.5 * (1 + erf(...))": 2.0 * x * Phi,
                "this is max(x, 0), called ReLU": np.maximum(x, 0.0),
                "this is x sigmoid(x), called SiLU": x / (1.0 + np.exp(-x)),
            },
        )
        expect(
            got[1],
            Phi + x * phi,
            f"slope, x of shape {shape}",
            {
                "this is Phi; the product rule has a second term, x times Phi's own derivative": Phi,
                "this is x phi; the product rule has a first term, Phi": x * phi,
                "the second term is x phi; the factor x is missing": Phi + phi,
                "phi lacks its factor 1 / sqrt(2 pi)": Phi + x * np.exp(-0.5 * x * x),
                "phi is divided by sqrt(2 pi); yours by sqrt(pi)": Phi + x * phi * math.sqrt(2.0),
                "the product rule adds its two terms; yours subtracts": Phi - x * phi,
                "phi's exponent is - x^2 / 2": Phi + x * np.exp(-x * x) / math.sqrt(2.0 * math.pi),
                "the derivative of Phi is phi, which already contains the inner 1 / sqrt(2)": (
                    Phi + x * phi / math.sqrt(2.0)
                ),
            },
        )
    with np.errstate(over="ignore", invalid="ignore"):
        y, slope = gelu(np.array([-1e3, -40.0, 0.0, 40.0, 1e3]))
    expect(y, np.array([0.0, 0.0, 0.0, 40.0, 1e3]), "y at -1000, -40, 0, 40, 1000")
    expect(slope, np.array([0.0, 0.0, 0.5, 1.0, 1.0]), "slope at -1000, -40, 0, 40, 1000")
    return "values and derivatives, three shapes, up to 1000"


# ----------------------------------------------------------------------------------- the block


def _parameters(rng, C: int, S: int, K: int) -> dict:
    shapes = {
        "norm1.weight": (C,), "norm1.bias": (C,), "norm2.weight": (C,), "norm2.bias": (C,),
        "conv.weight": (C, K), "conv.bias": (C,), "memory": (S, C),
        "gate.weight": (2 * C, C), "gate.bias": (2 * C,),
        "feed.expand.weight": (4 * C, C), "feed.expand.bias": (4 * C,),
        "feed.contract.weight": (C, 4 * C), "feed.contract.bias": (C,),
    }  # fmt: skip
    return {name: rng.standard_normal(shape) for name, shape in shapes.items()}


def _block(x, p, *, mixed_from="u", fed_from="h", residual8=True, residual9=True, flipped=False, **other):
    """E1-E9; each keyword makes one mistake."""
    C = x.shape[-1]
    u = _layer_norm(x, p["norm1.weight"], p["norm1.bias"])
    if mixed_from == "x":
        u = x
    w = p["conv.weight"][:, ::-1] if flipped else p["conv.weight"]
    if other.get("ahead"):
        K, T = w.shape[1], x.shape[1]
        padded = np.concatenate([u, np.zeros((len(x), K - 1, C))], axis=1)
        local = p["conv.bias"] + sum(w[:, j] * padded[:, j : j + T] for j in range(K))
    else:
        local = causal_conv1d.rule(np, u, w, p["conv.bias"])[0]
    scores = u / math.sqrt(C) if other.get("scaled") else u
    e = np.exp(scores @ p["memory"].T - (scores @ p["memory"].T).max(axis=-1, keepdims=True))
    shared = associative_memory.rule(np, u, p["memory"])[0]
    if other.get("scaled"):
        shared = (e / e.sum(axis=-1, keepdims=True)) @ p["memory"]
    gate = (x if other.get("gate_of_x") else u) @ p["gate.weight"].T + p["gate.bias"]
    if other.get("swapped"):
        gate = np.concatenate([gate[..., C:], gate[..., :C]], axis=-1)
    if other.get("no_sigmoid"):
        fused = gate[..., :C] * local + gate[..., C:] * shared
    else:
        fused = gated_fusion.rule(np, local, shared, gate)[0]
    h = x + fused if residual8 else fused
    v = {"h": h, "x": x}[fed_from]
    if not other.get("no_norm2"):
        v = _layer_norm(v, p["norm2.weight"], p["norm2.bias"])
    z = v @ p["feed.expand.weight"].T + p["feed.expand.bias"]
    if other.get("tanh"):
        bent = 0.5 * z * (1.0 + np.tanh(math.sqrt(2.0 / math.pi) * (z + 0.044715 * z**3)))
    else:
        bent = z if other.get("straight") else ops.gelu.rule(np, z)[0]
    fed = bent @ p["feed.contract.weight"].T + p["feed.contract.bias"]
    return {"h": h, "x": x, "": 0.0}[other.get("onto", "h") if residual9 else ""] + fed


def _first_departure(block, x, p) -> str:
    """Return which of E1 to E9 differs first, found with parameters that switch the others off."""
    C, K = x.shape[-1], p["conv.weight"].shape[1]
    silent = p | {"feed.contract.weight": np.zeros((C, 4 * C)), "feed.contract.bias": np.zeros(C)}
    open_, shut = np.full(C, 50.0), np.full(C, -50.0)  # sigmoid 1 and 0
    gates = {"gate.weight": np.zeros((2 * C, C))}
    local = silent | gates | {"gate.bias": np.concatenate([open_, shut])}
    shared = silent | gates | {"gate.bias": np.concatenate([shut, open_])}
    nothing = {"conv.weight": np.zeros((C, K)), "conv.bias": np.zeros(C)}
    for equations, parameters in (
        ("E8", local | nothing),
        ("E1 or E2", local),
        ("E3, E4 or E5", shared),
        ("E6 or E7", silent),
    ):
        got = numbers(block(x, {name: a.copy() for name, a in parameters.items()}), "x")
        want = _block(x, parameters)
        if got.shape != want.shape or not np.allclose(got, want, rtol=0.0, atol=1e-4 * np.abs(want).max()):
            return f"the first equation that differs is {equations}"
    return "E1 to E8 are right; E9 differs"


def expect_by_parts(got, want, where: str, mistakes: dict, look) -> None:
    """Do as `expect`; where no mistake is known, add what `look` finds."""
    try:
        expect(got, want, where, mistakes)
    except NotYet as e:
        named = any(message in str(e) for message in mistakes)
        raise NotYet(str(e) if named else f"{e}; {look()}") from None


@exercise
def ex_07_4(block):
    """A GAM block on plain arrays."""
    rng = np.random.default_rng(74)
    for B, T, C, S, K in ((2, 6, 4, 3, 3), (1, 1, 4, 1, 4), (3, 2, 3, 5, 3), (2, 4, 5, 2, 1)):
        x, p = rng.standard_normal((B, T, C)), _parameters(rng, C, S, K)
        where = f"x {x.shape}, {S} slots, kernel size {K}"
        got = block(x, {name: a.copy() for name, a in p.items()})
        require(
            np.ndim(got) < 4, f"{where}: four axes; gelu returns the pair (y, slope), and E9 needs y only"
        )
        expect_by_parts(
            got,
            _block(x, p),
            where,
            {
                "E8 adds x to the fused context; yours does not": _block(x, p, residual8=False),
                "E9 adds h to the feed-forward branch; yours does not": _block(x, p, residual9=False),
                "neither E8 nor E9 adds its input": _block(x, p, residual8=False, residual9=False),
                "E9 adds h, which is after E8; yours adds x": _block(x, p, onto="x"),
                "the second LayerNorm reads h; yours reads x": _block(x, p, fed_from="x"),
                "E9 has a LayerNorm of its own, norm2; yours has none": _block(x, p, no_norm2=True),
                "E2 to E6 read u, the normalised x; yours read x itself": _block(x, p, mixed_from="x"),
                "the gate reads u, the normalised x; yours reads x": _block(x, p, gate_of_x=True),
                "the kernel of E2 is reversed: tap K - 1 belongs to the present token": (
                    _block(x, p, flipped=True)
                ),
                "E2 reads later tokens: the zeros belong before the first token": _block(x, p, ahead=True),
                "the scores of E3 are divided by sqrt(C); GAM does not": _block(x, p, scaled=True),
                "the gates are swapped: the first C belong to the local context": _block(x, p, swapped=True),
                "the gates of E7 need a sigmoid": _block(x, p, no_sigmoid=True),
                "E9 wants the exact GELU; this is the tanh approximation": _block(x, p, tanh=True),
                "GELU is missing between the two maps of E9": _block(x, p, straight=True),
            },
            lambda x=x, p=p: _first_departure(block, x, p),
        )
    x, p = np.full((1, 2, 3), 2.0), _parameters(rng, 3, 2, 3)
    p["memory"] = p["memory"] * 1e4
    with np.errstate(over="ignore", invalid="ignore"):
        got = numbers(block(x, p), "x")
    require(bool(np.isfinite(got).all()), "large scores give nan: subtract the largest before np.exp")
    expect(got, _block(x, p), "a memory of large numbers")
    return "four shapes, one token, one slot, T below K, large scores"


@exercise
def ex_07_5(count):
    """The number of parameters of a gated GAM."""
    for V, T, C, L, S, K in ((29, 17, 11, 3, 13, 5), (20, 16, 8, 1, 6, 3), (10_000, 256, 512, 6, 512, 3)):
        norms, conv, memory = 4 * C, C * K + C, S * C
        gate, feed = 2 * C * C + 2 * C, 8 * C * C + 5 * C
        block = norms + conv + memory + gate + feed
        n = V * C + T * C + L * block + 2 * C
        expect(
            count(V, T, C, L, S, K),
            n,
            f"V {V}, T {T}, C {C}, L {L}, S {S}, K {K}",
            {
                "the head is counted too; it is the token embedding again": n + V * C,
                "the positions are missing, T C of them": n - T * C,
                "the token embedding is missing, V C numbers": n - V * C,
                "the head has no bias": n + V,
                "the LayerNorm before the head is missing": n - 2 * C,
                "there is only one LayerNorm outside the blocks": n + 2 * C,
                "2C numbers of each block are missing: a second LayerNorm, or the bias of the gate": n
                - L * 2 * C,
                "the LayerNorms of the blocks are missing": n - L * norms,
                "a LayerNorm has a weight and a bias; yours has only one of them": n - (2 * L + 1) * C,
                "this counts one block; there are L": n - (L - 1) * block,
                "the biases of the feed-forward maps are missing, 4C and C": n - L * 5 * C,
                "the feed-forward biases are 4C and C; one of them has another size": n + L * 3 * C,
                "the bias of the convolution is missing": n - L * C,
                "no bias is counted in the linear maps and the convolution": n - L * 8 * C,
                "the gate has 2C outputs, C for each context; yours has C": n - L * (C * C + C),
                "the convolution is depthwise: K weights a channel, not K C": n + L * (K * C * C - K * C),
                "the feed-forward network has two maps; yours has one": n - L * (4 * C * C + C),
                "the memory is one matrix, keys and values both; yours has two": n + L * S * C,
                "the memories are missing, S C a block": n - L * S * C,
                "every block has a memory of its own; yours share one": n - (L - 1) * S * C,
                "the gates are missing": n - L * gate,
                "the feed-forward networks are missing": n - L * feed,
                "the convolutions are missing": n - L * conv,
            },
        )
    return "three sizes, the published one among them"
