"""Wrong answers to the exercises of notebook 10."""

import math

import numpy as np

from answers import wrong, wrong_value


def softmax(s):
    e = np.exp(s - s.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def allowed(s, k=0):
    return np.tril(np.ones(s.shape[-2:], dtype=bool), k)


def causal(s):
    return softmax(np.where(allowed(s), s, -np.inf))


def turned(z):
    return z.swapaxes(-1, -2)


@wrong("10_1", says="masked after the softmax")
def masked_afterwards(s):
    return np.where(allowed(s), softmax(s), 0.0)


@wrong("10_1", says="e^0 is 1")
def masked_with_zeros(s):
    return softmax(np.where(allowed(s), s, 0.0))


@wrong("10_1", says="upside down")
def the_future(s):
    return softmax(np.where(turned(allowed(s)), s, -np.inf))


@wrong("10_1", says="after the mask")
def largest_of_all(s):
    e = np.where(allowed(s), np.exp(s - s.max(axis=-1, keepdims=True)), 0.0)
    return e / e.sum(axis=-1, keepdims=True)


@wrong("10_1", says="a token may attend to itself")
def not_itself(s):
    e = np.exp(s) * allowed(s, -1)
    return e / np.maximum(e.sum(axis=-1, keepdims=True), 1e-300)


@wrong("10_1", says="here the first has no key at all")
def strictly_before(s):
    with np.errstate(invalid="ignore"):
        return softmax(np.where(allowed(s, -1) > 0, s, -np.inf))


@wrong("10_1", says="choose between score and -np.inf with np.where")
def zero_times_infinity(s):
    with np.errstate(invalid="ignore"):
        return softmax(allowed(s) * s + (1.0 - allowed(s)) * -np.inf)


@wrong("10_1", says="a key in the future has a weight")
def not_far_enough_below(s):
    return softmax(np.where(allowed(s), s, -1e3))


@wrong("10_2", says="divide the scores, before the softmax")
def result_scaled(q, k, v):
    return causal(q @ turned(k)) @ v / math.sqrt(q.shape[-1])


@wrong("10_2", says="not divided by sqrt(D)")
def unscaled(q, k, v):
    return causal(q @ turned(k)) @ v


@wrong("10_2", says="wanted its square root")
def scaled_by_d(q, k, v):
    return causal(q @ turned(k) / q.shape[-1]) @ v


@wrong("10_2", says="queries and keys are exchanged")
def exchanged(q, k, v):
    return causal(k @ turned(q) / math.sqrt(q.shape[-1])) @ v


@wrong("10_2", says="the future is not masked")
def not_causal(q, k, v):
    return softmax(q @ turned(k) / math.sqrt(q.shape[-1])) @ v


def split(z, n_heads):
    B, T, C = z.shape
    return z.reshape(B, T, n_heads, C // n_heads).transpose(0, 2, 1, 3)


def merge(z):
    B, H, T, D = z.shape
    return z.transpose(0, 2, 1, 3).reshape(B, T, H * D)


def reshaped(z, n_heads):
    return z.reshape(len(z), n_heads, z.shape[1], -1)


def interleaved(z, n_heads):
    return z.reshape(*z.shape[:2], -1, n_heads).transpose(0, 3, 1, 2)


def merged_by_reshape(z):
    B, H, T, D = z.shape
    return z.reshape(B, T, H * D)


wrong_value("10_3", "cut C into (H, D) first", reshaped, merge)
wrong_value("10_3", "every H-th channel", interleaved, merge)
wrong_value("10_3", "exchange the two axes first", split, merged_by_reshape)


def backward(dy, q, k, v, *, scale=None, centred=1.0):
    root = 1.0 / math.sqrt(q.shape[-1])
    a, da = causal(q @ turned(k) * root), dy @ turned(v)
    ds = a * (da - centred * (da * a).sum(axis=-1, keepdims=True)) * (root if scale is None else scale)
    return ds @ k, turned(ds) @ q, turned(a) @ dy


@wrong("10_4", says="1 / sqrt(D) of the scores is missing")
def scale_forgotten(dy, q, k, v):
    return backward(dy, q, k, v, scale=1.0)


@wrong("10_4", says="subtract the sum of da")
def softmax_gradient_without_its_sum(dy, q, k, v):
    return backward(dy, q, k, v, centred=0.0)


@wrong("10_4", says="wanted over the keys, the last axis")
def sum_over_queries(dy, q, k, v):
    root = 1.0 / math.sqrt(q.shape[-1])
    a, da = causal(q @ turned(k) * root), dy @ turned(v)
    ds = a * (da - (da * a).sum(axis=-2, keepdims=True)) * root
    return ds @ k, turned(ds) @ q, turned(a) @ dy


@wrong("10_4", says="computed without the mask")
def backward_without_mask(dy, q, k, v):
    root = 1.0 / math.sqrt(q.shape[-1])
    a, da = softmax(q @ turned(k) * root), dy @ turned(v)
    ds = a * (da - (da * a).sum(axis=-1, keepdims=True)) * root
    return ds @ k, turned(ds) @ q, turned(a) @ dy


@wrong("10_4", says="the order is dq, dk, dv")
def other_order(dy, q, k, v):
    dq, dk, dv = backward(dy, q, k, v)
    return dk, dq, dv


@wrong("10_4", says="transpose a")
def values_not_turned(dy, q, k, v):
    dq, dk, _ = backward(dy, q, k, v)
    return dq, dk, causal(q @ turned(k) / math.sqrt(q.shape[-1])) @ dy


def step(qkv, past, n_heads, *, see=None, divide=None, own=True):
    C = qkv.shape[-1] // 3
    longer = np.concatenate([past, qkv[..., C:]], axis=1)
    kv = longer[:, :see] if own or not past.shape[1] else past
    q, k, v = (split(z, n_heads) for z in (qkv[..., :C], kv[..., :C], kv[..., C:]))
    s = q @ turned(k) / (divide or math.sqrt(C // n_heads))
    return merge(softmax(s) @ v), longer


@wrong("10_5", says="a mask hides the past")
def masked_step(qkv, past, n_heads):
    return step(qkv, past, n_heads, see=1)


@wrong("10_5", says="does not attend to itself")
def without_itself(qkv, past, n_heads):
    return step(qkv, past, n_heads, own=False)


@wrong("10_5", says="no mask is needed")
def through_the_causal_head(qkv, past, n_heads):
    C = qkv.shape[-1] // 3
    past = np.concatenate([past, qkv[..., C:]], axis=1)
    q, k, v = (split(z, n_heads) for z in (qkv[..., :C], past[..., :C], past[..., C:]))
    s = q @ turned(k) / math.sqrt(q.shape[-1])
    size = s.shape[-1]
    return merge(softmax(np.where(np.tril(np.ones((size, size), dtype=bool)), s, -np.inf)) @ v), past


@wrong("10_5", says="its last C channels are the value")
def value_before_key(qkv, past, n_heads):
    q, k, v = np.split(qkv, 3, axis=-1)
    return step(np.concatenate([q, v, k], axis=-1), past, n_heads)


@wrong("10_5", says="divided by sqrt(C)")
def scaled_by_all_channels(qkv, past, n_heads):
    return step(qkv, past, n_heads, divide=math.sqrt(qkv.shape[-1] // 3))


@wrong("10_5", says="returned unchanged")
def cache_not_grown(qkv, past, n_heads):
    return step(qkv, past, n_heads)[0], past


@wrong("10_5", says="two results")
def answer_alone(qkv, past, n_heads):
    return step(qkv, past, n_heads)[0]
