"""Wrong answers to the exercises of notebook 08."""

import math

import numpy as np

from answers import wrong


def log_softmax(z):
    z = z - z.max(axis=-1, keepdims=True)
    return z - np.log(np.exp(z).sum(axis=-1, keepdims=True))


def at(z, targets):
    return np.take_along_axis(z, targets[..., None], axis=-1)[..., 0]


@wrong("08_1", says="scores of 10,000 overflow")
def overflowing(logits, targets):
    return np.log(np.exp(logits).sum(axis=-1)) - at(logits, targets)


@wrong("08_1", says="do not compute the softmax")
def through_the_softmax(logits, targets):
    return -np.log(at(np.exp(log_softmax(logits)), targets))


@wrong("08_1", says="is something added to a probability")
def with_a_small_number(logits, targets):
    return -np.log(at(np.exp(log_softmax(logits)), targets) + 1e-12)


@wrong("08_1", says="this is the mean")
def mean_loss(logits, targets):
    return -at(log_softmax(logits), targets).mean()


@wrong("08_1", says="not added back")
def maximum_lost(logits, targets):
    z = logits - logits.max(axis=-1, keepdims=True)
    return np.log(np.exp(z).sum(axis=-1)) - at(logits, targets)


def parts(logits, targets):
    return np.exp(log_softmax(logits)), np.arange(logits.shape[-1]) == targets[..., None]


@wrong("08_2", says="share 1 / N in a mean")
def of_the_sum(logits, targets):
    p, hit = parts(logits, targets)
    return p - hit


@wrong("08_2", says="subtract 1 at the target")
def softmax_alone(logits, targets):
    return parts(logits, targets)[0] / targets.size


@wrong("08_2", says="the sign is wrong")
def uphill(logits, targets):
    p, hit = parts(logits, targets)
    return (hit - p) / targets.size


@wrong("08_2", says="divided by the number of logits")
def mean_over_logits(logits, targets):
    p, hit = parts(logits, targets)
    return (p - hit) / logits.size


def step(theta, g, m, v, t, lr, betas, decay, eps, *, correct=1, l2=0, inside=0, store=0):
    g = g + l2 * decay * theta
    m, v = betas[0] * m + (1 - betas[0]) * g, betas[1] * v + (1 - betas[1]) * g * g
    m_hat, v_hat = (m / (1 - betas[0] ** t), v / (1 - betas[1] ** t)) if correct else (m, v)
    root = np.sqrt(v_hat + eps) if inside else np.sqrt(v_hat) + eps
    theta = theta * (1 - lr * decay * (1 - l2)) - lr * m_hat / root
    return (theta, m_hat, v_hat) if store else (theta, m, v)


@wrong("08_3", says="the moments are not corrected")
def uncorrected(theta, g, m, v, t, lr, betas, weight_decay, eps):
    return step(theta, g, m, v, t, lr, betas, weight_decay, eps, correct=0)


@wrong("08_3", says="apply it to theta alone")
def decay_in_the_gradient(theta, g, m, v, t, lr, betas, weight_decay, eps):
    return step(theta, g, m, v, t, lr, betas, weight_decay, eps, l2=1)


@wrong("08_3", says="eps is added to the root, not under it")
def eps_under_the_root(theta, g, m, v, t, lr, betas, weight_decay, eps):
    return step(theta, g, m, v, t, lr, betas, weight_decay, eps, inside=1)


@wrong("08_3", says="return the uncorrected one")
def corrected_moments(theta, g, m, v, t, lr, betas, weight_decay, eps):
    return step(theta, g, m, v, t, lr, betas, weight_decay, eps, store=1)


@wrong("08_3", says="the decay is lr * weight_decay")
def decay_without_lr(theta, g, m, v, t, lr, betas, weight_decay, eps):
    new, m, v = step(theta, g, m, v, t, lr, betas, 0.0, eps)
    return new - weight_decay * theta, m, v


@wrong("08_4", says="t / W, not (t - 1) / W")
def from_zero(t, steps, warmup, peak):
    if t <= warmup:
        return peak * (t - 1) / warmup
    return peak * 0.5 * (1 + math.cos(math.pi * (t - warmup) / (steps - warmup)))


@wrong("08_4", says="the cosine runs over all steps")
def cosine_over_all(t, steps, warmup, peak):
    return peak * t / warmup if t <= warmup else peak * 0.5 * (1 + math.cos(math.pi * t / steps))


@wrong("08_4", says="wanted half a cosine")
def line_down(t, steps, warmup, peak):
    return peak * t / warmup if t <= warmup else peak * (steps - t) / (steps - warmup)


@wrong("08_4", says="ZeroDivisionError")
def division_by_no_warmup(t, steps, warmup, peak):
    return min(
        peak * t / warmup, peak * 0.5 * (1 + math.cos(math.pi * (t - warmup) / max(1, steps - warmup)))
    )


@wrong("08_5", says="mean of the stories' means")
def mean_of_means(stories):
    floor = np.mean([np.mean([-math.log(p) for p in story]) for story in stories])
    return floor, math.exp(floor)


@wrong("08_5", says="words of probability 1 count as well")
def choices_alone(stories):
    nats = [-math.log(p) for story in stories for p in story if p < 1.0]
    floor = sum(nats) / max(1, len(nats))
    return floor, math.exp(floor)


@wrong("08_5", says="the mean comes first, then the exponential")
def exponential_first(stories):
    probabilities = [p for story in stories for p in story]
    return -np.mean(np.log(probabilities)), np.mean(1.0 / np.array(probabilities))


@wrong("08_5", says="these are bits")
def bits(stories):
    floor = -np.mean([math.log2(p) for story in stories for p in story])
    return floor, 2.0**floor
