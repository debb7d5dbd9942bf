"""GAM's loss, clipping and AdamW in JAX, one function that XLA compiles, dropout included.

`w` holds the weights by the authors' names, as `minigam.interop.to_official` returns them, except
head.weight, which is token_embedding.weight.
"""

from functools import partial

import jax
import jax.numpy as jnp


def step_of(w: dict, n_layers: int, p: float = 0.0, seed: int = 0):
    """Return a function (ids, targets) -> loss that updates weights by AdamW; the gradient norm is clipped
    at 1. It starts from the arrays in `w`, in float32, and keeps its own.

    ids, targets : (B, T)
    p            : probability of dropout
    """
    w = {name: jnp.array(a, jnp.float32) for name, a in w.items()}
    state = w, *(jax.tree.map(jnp.zeros_like, w) for _ in range(2)), jnp.float32(0)
    key = jax.random.key(seed)

    def step(ids, targets) -> float:
        nonlocal state, key
        key, drawn = jax.random.split(key)
        value, state = updated(state, drawn, ids, targets, n_layers, p)
        jax.block_until_ready(state)
        return float(value)

    return step


@partial(jax.jit, static_argnames=("n_layers", "p"), donate_argnums=0)
def updated(state, key, ids, targets, n_layers: int, p: float):
    """Return the loss and the state after a step. A state is the weights, AdamW's two means, and t."""
    w, m, v, t = state
    lr, beta1, beta2, decay, eps, t = 3e-4, 0.9, 0.95, 0.1, 1e-8, t + 1
    value, g = jax.value_and_grad(loss)(w, key, ids, targets, n_layers, p)
    size = jnp.sqrt(sum(jnp.sum(a * a) for a in g.values()))
    factor = jnp.minimum(1.0, 1.0 / (size + 1e-6))
    g = {name: factor * a for name, a in g.items()}
    m = {name: beta1 * m[name] + (1 - beta1) * a for name, a in g.items()}
    v = {name: beta2 * v[name] + (1 - beta2) * a * a for name, a in g.items()}
    for name, a in w.items():
        update = m[name] / (1 - beta1**t) / (jnp.sqrt(v[name] / (1 - beta2**t)) + eps)
        w[name] = a * (1 - lr * decay) - lr * update
    return value, (w, m, v, t)


def loss(w: dict, key, ids, targets, n_layers: int, p: float):
    """Return the mean cross-entropy in nats; ids, targets (B, T)."""
    keys = jax.random.split(key, n_layers + 1)
    x = w["token_embedding.weight"][ids] + w["pos_embedding.weight"][: ids.shape[1]]
    x = dropout(keys[-1], x, p)
    for i in range(n_layers):
        x = block(w, f"blocks.{i}", keys[i], x, p)
    log_p = jax.nn.log_softmax(norm(w, "ln_f", x) @ w["token_embedding.weight"].T)
    return -jnp.mean(jnp.take_along_axis(log_p, targets[..., None], axis=-1))


def block(w: dict, b: str, key, x, p: float):  # (B, T, C) -> (B, T, C)
    """One GAM block.   E1-E9"""
    u = norm(w, f"{b}.ln1", x)
    T, (_, _, K) = x.shape[1], w[f"{b}.causal_conv.weight"].shape
    padded = jnp.pad(u, ((0, 0), (K - 1, 0), (0, 0)))
    taps = [w[f"{b}.causal_conv.weight"][:, 0, j] * padded[:, j : j + T] for j in range(K)]
    local_context = sum(taps) + w[f"{b}.causal_conv.bias"]
    global_context = jax.nn.softmax(u @ w[f"{b}.memory_bank"].T) @ w[f"{b}.memory_bank"]
    gates = jax.nn.sigmoid(u @ w[f"{b}.gate.weight"].T + w[f"{b}.gate.bias"])
    g_local, g_global = jnp.split(gates, 2, axis=-1)
    x = x + g_local * local_context + g_global * global_context
    z = norm(w, f"{b}.ln2", x) @ w[f"{b}.ffn.0.weight"].T + w[f"{b}.ffn.0.bias"]
    y = jax.nn.gelu(z, approximate=False) @ w[f"{b}.ffn.2.weight"].T + w[f"{b}.ffn.2.bias"]
    return x + dropout(key, y, p)


def dropout(key, x, p: float):
    """Set each entry to 0 with probability p, and scale the others by 1 / (1 - p)."""
    return jnp.where(jax.random.bernoulli(key, 1 - p, x.shape), x / (1 - p), 0) if p else x


def norm(w: dict, name: str, x):
    """LayerNorm over the last axis."""
    centred = x - jnp.mean(x, axis=-1, keepdims=True)
    variance = jnp.mean(centred * centred, axis=-1, keepdims=True)
    return centred * jax.lax.rsqrt(variance + 1e-5) * w[f"{name}.weight"] + w[f"{name}.bias"]
