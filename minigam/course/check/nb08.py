"""Checks of notebook 08: training."""

import math

import numpy as np

from minigam.course.judge import NotYet, exercise, expect, gradients, numbers, require


def _log_softmax(z):
    z = z - z.max(axis=-1, keepdims=True)
    return z - np.log(np.exp(z).sum(axis=-1, keepdims=True))


def _losses(logits, targets):
    return -np.take_along_axis(_log_softmax(logits), targets[..., None], axis=-1)[..., 0]


def _hits(logits, targets):
    return (np.arange(logits.shape[-1]) == targets[..., None]).astype(float)


@exercise
def ex_08_1(cross_entropy):
    """The loss of every position, in nats."""
    rng = np.random.default_rng(81)
    for shape in ((2, 5, 7), (4, 3), (6,), (3, 1)):
        z = rng.standard_normal(shape) * 2.0
        targets = np.asarray(rng.integers(shape[-1], size=shape[:-1]))
        want = _losses(z, targets)
        at_target = np.take_along_axis(z, targets[..., None], axis=-1)[..., 0]
        largest = z.max(axis=-1)
        expect(
            cross_entropy(z, targets),
            want,
            f"logits of shape {shape}",
            {
                "the sign is wrong: the loss is minus the logarithm of the probability": -want,
                "this is the mean; wanted the loss of every position": want.mean(),
                "this is the sum; wanted the loss of every position": want.sum(),
                "this is the probability of the target; wanted minus its logarithm": np.exp(-want),
                "these are bits; wanted nats, with the natural logarithm": want / math.log(2.0),
                "the target's score is not subtracted": want + at_target,
                "the largest score is subtracted in the sum, and not added back": (want - largest),
                "the largest score is subtracted from the target's score, but not in the sum": want + largest,
                "this is - log p of every word; wanted that of the target alone": -_log_softmax(z),
            },
        )
    large = np.array([[1e4, 0.0, -1e4], [-1e4, -1e4, -1e4], [1e4, 1e4 - 1.0, 0.0]])
    targets = np.array([2, 0, 1])
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        got = numbers(cross_entropy(large, targets), "scores of 10,000")
    want = _losses(large, targets)
    if got.shape == want.shape and got.dtype.kind == "f" and not np.isfinite(got).all():
        softened = np.isinf(got[0]) and np.isfinite(got[2])
        raise NotYet(
            "a probability too small for a float became 0, and its logarithm infinite: do not compute the "
            "softmax; subtract the target's score from the logarithm of the sum"
            if softened
            else "scores of 10,000 overflow: first subtract the largest score of each position"
        )
    if got.shape == want.shape and abs(got[0] - 2e4) > 1.0 and abs(got[2] - want[2]) < 1e-3:
        raise NotYet(
            f"a target with a score 20,000 below the best has a loss of 20,000 nats; got {got[0]:.6g}: is "
            "something added to a probability, or is it clipped?"
        )
    expect(got, want, "scores of 10,000")
    return "any number of axes, one word, scores of 10,000"


@exercise
def ex_08_2(cross_entropy_backward):
    """The gradient of the mean loss."""
    rng = np.random.default_rng(82)
    for shape in ((2, 3, 5), (4, 3), (1, 2)):
        z = rng.standard_normal(shape) * 2.0
        targets = rng.integers(shape[-1], size=shape[:-1])
        p, hit, n = np.exp(_log_softmax(z)), _hits(z, targets), targets.size
        gradients(
            cross_entropy_backward(z, targets),
            lambda z, targets=targets: _losses(z, targets).mean(),
            (z,),
            1.0,
            "logits",
            f"logits {shape}",
            {
                "logits": {
                    "each position has the share 1 / N in a mean: divide by the number of targets": p - hit,
                    "divided by V, the number of words; divide by the number of targets": (p - hit)
                    / shape[-1],
                    "divided by the number of logits; divide by the number of targets": (p - hit) / z.size,
                    "divided by the length of the first axis; N counts all positions": ((p - hit) / shape[0]),
                    "the sign is wrong": (hit - p) / n,
                    "this is the softmax; subtract 1 at the target": p / n,
                    "the 1 is subtracted after dividing by N; divide it by N too": p / n - hit,
                    "this is zero except at the target; at a wrong word it is the probability": (p - 1)
                    * hit
                    / n,
                    "1 is subtracted at every word; subtract it at the target alone": (p - 1.0) / n,
                }
            },
        )
    large = np.array([[1e4, 0.0], [-1e4, -1e4]])
    with np.errstate(over="ignore", invalid="ignore"):
        got = cross_entropy_backward(large, np.array([1, 0]))
    got = numbers(got[0] if isinstance(got, tuple) and len(got) == 1 else got, "scores of 10,000")
    require(bool(np.isfinite(got).all()), "scores of 10,000 give nan: subtract the largest before np.exp")
    expect(got, np.array([[0.5, -0.5], [-0.25, 0.25]]), "scores of 10,000")
    return "finite differences on three shapes, scores of 10,000"


def _adamw(theta, g, m, v, t, lr, betas, weight_decay, eps, **wrong):
    """Return theta after one step; each keyword of `wrong` makes one mistake."""
    (b1, b2), decay = betas, 0.0 if wrong.get("no_decay") else lr * weight_decay
    if wrong.get("l2"):
        g, decay = g + weight_decay * theta, 0.0
    m = b1 * m + (1 - b1) * g
    v = b2 * v + (1 - b2) * (g if wrong.get("unsquared") else g * g)
    late = t - 1 if wrong.get("late") else t
    m_hat, v_hat = (m, v) if wrong.get("uncorrected") else (m / (1 - b1**late), v / (1 - b2**late))
    if wrong.get("eps_inside"):
        change = m_hat / np.sqrt(v_hat + eps)
    elif wrong.get("no_root"):
        change = m_hat / (v_hat + eps)
    else:
        change = m_hat / (np.sqrt(v_hat) + eps)
    if wrong.get("no_lr_in_decay"):
        decay = weight_decay
    if wrong.get("plain_gradient"):
        change = g / (np.sqrt(v_hat) + eps)
    sign = -1.0 if wrong.get("uphill") else 1.0
    if wrong.get("decay_last"):
        return (theta - lr * change) * (1 - decay)
    return theta * (1 - decay) - sign * lr * change


@exercise
def ex_08_3(adamw):
    """One step of AdamW."""
    rng = np.random.default_rng(83)
    for shape, t, lr, betas, decay, eps in (
        ((2, 3), 4, 0.1, (0.9, 0.95), 0.2, 1e-2),
        ((5,), 1, 0.05, (0.8, 0.99), 0.5, 1e-3),
        ((1,), 200, 0.3, (0.9, 0.999), 0.1, 1e-2),
    ):
        theta, g = rng.standard_normal((2, *shape))
        m, v = rng.standard_normal(shape) * 0.3, rng.uniform(0.1, 1.0, shape)
        got = adamw(theta, g, m, v, t, lr, betas, decay, eps)
        where = f"theta of shape {shape}, t = {t}"
        if not isinstance(got, tuple | list) or len(got) != 3:
            raise NotYet(f"{where}: wanted the three (theta, m, v)")
        (b1, b2), given = betas, (theta, g, m, v, t, lr, betas, decay, eps)
        m2, v2 = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g * g
        after = {
            message: _adamw(*given, **{name: True})
            for name, message in (
                ("uncorrected", "the moments are not corrected: divide by 1 - beta ** t"),
                ("l2", "the decay is in the moments; apply it to theta alone: theta * (1 - lr * decay)"),
                ("no_decay", "the weight decay is missing: theta * (1 - lr * weight_decay)"),
                ("no_lr_in_decay", "the decay is lr * weight_decay; lr is missing"),
                ("decay_last", "the decay comes before the step; it multiplies the old theta"),
                ("eps_inside", "eps is added to the root, not under it"),
                ("no_root", "the step is divided by the root of v_hat; the root is missing"),
                ("unsquared", "v averages the square of the gradient"),
                ("plain_gradient", "the step uses m_hat, not the gradient itself"),
                ("uphill", "this goes uphill: subtract the step"),
            )
        }
        if t > 1:
            after["corrected for t - 1; t begins at 1, so the power is t"] = _adamw(*given, late=True)
        expect(got[1], m2, f"m, {where}", {
            "the factors are exchanged: beta1 goes with the old m": (1 - b1) * m + b1 * g,
            "this is the corrected m; return the uncorrected one": m2 / (1 - b1**t),
            "this is m as it was given": m,
            "the factor 1 - beta1 of the gradient is missing": b1 * m + g,
            "the decay is in it; apply it to theta alone": b1 * m + (1 - b1) * (g + decay * theta),
        })  # fmt: skip
        expect(got[2], v2, f"v, {where}", {
            "the factors are exchanged: beta2 goes with the old v": (1 - b2) * v + b2 * g * g,
            "this is the corrected v; return the uncorrected one": v2 / (1 - b2**t),
            "v averages the square of the gradient": b2 * v + (1 - b2) * g,
            "this is v as it was given": v,
            "v uses beta1; its own is beta2": b1 * v + (1 - b1) * g * g,
        })  # fmt: skip
        expect(got[0], _adamw(*given), f"theta, {where}", after)
    return "theta and both moments, first, fourth and two hundredth step"


@exercise
def ex_08_4(schedule):
    """Warm-up and cosine."""
    for steps, warmup, peak in ((100, 20, 0.5), (10, 0, 3.0), (8, 8, 1.0), (7, 1, 2.0)):
        for t in (1, 2, warmup, warmup + 1, (steps + warmup) // 2 + 1, steps):
            if not 1 <= t <= steps:
                continue
            rest = max(1, steps - warmup)
            rising = t <= warmup
            want = peak * (t / warmup if rising else 0.5 * (1 + math.cos(math.pi * (t - warmup) / rest)))
            mistakes = {}
            if rising:
                mistakes = {
                    "the rate of step 1 is above 0: t / W, not (t - 1) / W": (peak * (t - 1) / warmup),
                    "the peak is reached one step late: t / W, not t / (W + 1)": peak * t / (warmup + 1),
                    "this is the peak already; the warm-up rises to it along a line": peak,
                    "the peak is missing as a factor": t / warmup,
                }
            else:
                mistakes = {
                    "the cosine runs over all steps; it runs over those after the warm-up": (
                        peak * 0.5 * (1 + math.cos(math.pi * t / steps))
                    ),
                    "the cosine counts from step 1; count from the end of the warm-up": (
                        peak * 0.5 * (1 + math.cos(math.pi * t / rest))
                    ),
                    "this is a line down; wanted half a cosine": peak * (steps - t) / rest,
                    "this is a quarter of a cosine; wanted half of one, (1 + cos) / 2": (
                        peak * math.cos(0.5 * math.pi * (t - warmup) / rest)
                    ),
                    "the factor 1/2 is missing: (1 + cos) / 2": peak
                    * (1 + math.cos(math.pi * (t - warmup) / rest)),
                    "the cosine alone falls below 0: (1 + cos) / 2": (
                        peak * math.cos(math.pi * (t - warmup) / rest)
                    ),
                    "this is a whole cosine, which rises again; wanted half of one: pi, not 2 pi": (
                        peak * 0.5 * (1 + math.cos(2 * math.pi * (t - warmup) / rest))
                    ),
                    "after the warm-up the rate falls": peak,
                    "the peak is missing as a factor": (0.5 * (1 + math.cos(math.pi * (t - warmup) / rest))),
                }
            expect(
                schedule(t, steps, warmup, peak),
                want,
                f"step {t} of {steps}, warm-up {warmup}, peak {peak}",
                mistakes,
            )
    return "first, last and middle steps, no warm-up, warm-up alone"


@exercise
def ex_08_5(floor_of):
    """Floor and perplexity of a text."""
    for stories in (
        [[1.0, 0.5, 1.0, 0.25], [0.125, 1.0]],
        [[0.1], [1.0, 1.0, 0.3, 1.0, 1.0, 0.7], [0.5, 1.0, 1.0]],
        [[1.0, 1.0, 1.0]],
    ):
        nats = [[-math.log(p) for p in story] for story in stories]
        every = [x for story in nats for x in story]
        floor = sum(every) / len(every)
        where = f"{len(stories)} stories of {', '.join(str(len(s)) for s in stories)} words"
        got = floor_of([list(story) for story in stories])
        if not isinstance(got, tuple | list) or len(got) != 2:
            raise NotYet(f"{where}: wanted the pair (floor, perplexity)")
        choices = [x for x in every if x > 0] or [0.0]
        expect(
            got[0],
            floor,
            f"floor, {where}",
            {
                "this is the mean of the stories' means; a long story has more words": (
                    np.mean([np.mean(story) for story in nats])
                ),
                "words of probability 1 count as well": np.mean(choices),
                "this is the sum; wanted nats per word": sum(every),
                "this is per story; wanted per word": sum(every) / len(stories),
                "these are bits; wanted nats, with the natural logarithm": floor / math.log(2.0),
                "the sign is wrong: - log p": -floor,
                "this is the logarithm of the mean probability; wanted the mean of the logarithms": (
                    -math.log(np.mean(np.exp(-np.array(every))))
                ),
                "an entropy is a sum of - p log p; here each word occurred once, so its share is 1 / N": (
                    np.mean([x * math.exp(-x) for x in every])
                ),
            },
        )
        expect(
            got[1],
            math.exp(floor),
            f"perplexity, {where}",
            {
                "the mean comes first, then the exponential": np.mean(np.exp(every)),
                "this is 2 to the power of nats; wanted e": 2.0**floor,
                "the sign is wrong: a perplexity is 1 or more": math.exp(-floor),
                "this is the floor again": floor,
            },
        )
    return "three texts, words of probability 1, stories of different lengths"
