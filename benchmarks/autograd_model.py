"""GAM's loss and AdamW in HIPS autograd, written plainly from the equations, without dropout.

`w` holds the weights by the authors' names, as `minigam.interop.to_official` returns them, except
head.weight, which is token_embedding.weight.
"""

import autograd.numpy as np
from autograd import value_and_grad
from autograd.scipy.special import erf


def step_of(w: dict, n_layers: int):
    """Return a function (ids, targets) -> loss that updates `w` by AdamW; the gradient norm is clipped at 1.

    ids, targets : (B, T)
    """
    loss_and_gradients = value_and_grad(loss)
    m, v = ({name: np.zeros_like(a) for name, a in w.items()} for _ in range(2))
    t = 0
    lr, beta1, beta2, decay, eps = 3e-4, 0.9, 0.95, 0.1, 1e-8

    def step(ids, targets) -> float:
        nonlocal t
        t += 1
        value, gradients = loss_and_gradients(w, ids, targets, n_layers)
        norm = float(np.sqrt(sum((g * g).sum() for g in gradients.values())))
        for name, g in gradients.items():
            g = g * min(1.0, 1.0 / (norm + 1e-6))
            m[name] = beta1 * m[name] + (1 - beta1) * g
            v[name] = beta2 * v[name] + (1 - beta2) * g * g
            update = m[name] / (1 - beta1**t) / (np.sqrt(v[name] / (1 - beta2**t)) + eps)
            w[name] = w[name] * (1 - lr * decay) - lr * update
        return float(value)

    return step


def loss(w: dict, ids, targets, n_layers: int):
    """Return the mean cross-entropy in nats; ids, targets (B, T)."""
    x = w["token_embedding.weight"][ids] + w["pos_embedding.weight"][: ids.shape[1]]
    for i in range(n_layers):
        x = block(w, f"blocks.{i}", x)
    logits = norm(w, "ln_f", x) @ w["token_embedding.weight"].T
    z = logits - np.max(logits, axis=-1, keepdims=True)
    log_p = z - np.log(np.sum(np.exp(z), axis=-1, keepdims=True))
    B, T = ids.shape
    return -np.mean(log_p[np.arange(B)[:, None], np.arange(T), targets])


def block(w: dict, b: str, x):  # (B, T, C) -> (B, T, C)
    """One GAM block.   E1-E9"""
    u = norm(w, f"{b}.ln1", x)
    T, (_, _, K) = x.shape[1], w[f"{b}.causal_conv.weight"].shape
    padded = np.pad(u, ((0, 0), (K - 1, 0), (0, 0)), mode="constant")
    taps = [w[f"{b}.causal_conv.weight"][:, 0, j] * padded[:, j : j + T] for j in range(K)]
    local_context = sum(taps) + w[f"{b}.causal_conv.bias"]
    s = u @ w[f"{b}.memory_bank"].T
    e = np.exp(s - np.max(s, axis=-1, keepdims=True))
    global_context = e / np.sum(e, axis=-1, keepdims=True) @ w[f"{b}.memory_bank"]
    gates = 0.5 + 0.5 * np.tanh(0.5 * (u @ w[f"{b}.gate.weight"].T + w[f"{b}.gate.bias"]))
    g_local, g_global = np.split(gates, 2, axis=-1)
    x = x + g_local * local_context + g_global * global_context
    z = norm(w, f"{b}.ln2", x) @ w[f"{b}.ffn.0.weight"].T + w[f"{b}.ffn.0.bias"]
    hidden = 0.5 * z * (1.0 + erf(z * 0.5**0.5))
    return x + hidden @ w[f"{b}.ffn.2.weight"].T + w[f"{b}.ffn.2.bias"]


def norm(w: dict, name: str, x):
    """LayerNorm over the last axis."""
    centred = x - np.mean(x, axis=-1, keepdims=True)
    variance = np.mean(centred * centred, axis=-1, keepdims=True)
    return centred / np.sqrt(variance + 1e-5) * w[f"{name}.weight"] + w[f"{name}.bias"]
