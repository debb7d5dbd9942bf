"""The published Mamba language model in plain PyTorch functions, to compare minigam with.

Written from the equations of arXiv 2312.00752 (sections 3.2 to 3.4, algorithm 2) and of RMSNorm, without
calls to minigam: one token after the other, one state after the other. `w` holds the weights by published
name, with lm_head.weight or without.
"""

import torch
import torch.nn.functional as F


def leaves(arrays: dict) -> dict[str, torch.Tensor]:
    """Return tensors that collect gradients; the head is the embedding."""
    return {
        name: torch.tensor(a, requires_grad=True) for name, a in arrays.items() if name != "lm_head.weight"
    }


def logits(w: dict, ids: torch.Tensor) -> torch.Tensor:  # (B, T) -> (B, T, V)
    x = w["backbone.embedding.weight"][ids]
    for i in range(len({name.split(".")[2] for name in w if name.startswith("backbone.layers.")})):
        prefix = f"backbone.layers.{i}."
        a = {name.removeprefix(prefix): t for name, t in w.items() if name.startswith(prefix)}
        x = x + mixer(a, rms_norm(x, a["norm.weight"]))
    return rms_norm(x, w["backbone.norm_f.weight"]) @ w["backbone.embedding.weight"].T


def rms_norm(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return x / torch.sqrt((x**2).mean(dim=-1, keepdim=True) + 1e-5) * weight


def mixer(a: dict, u: torch.Tensor) -> torch.Tensor:  # (B, T, C) -> (B, T, C)
    (E, N), R, T = a["mixer.A_log"].shape, a["mixer.dt_proj.weight"].shape[1], u.shape[1]
    both = u @ a["mixer.in_proj.weight"].T
    x, z = both[..., :E], both[..., E:]
    filters, convolved = a["mixer.conv1d.weight"][:, 0], []  # (E, K)
    K = filters.shape[1]
    for t in range(T):
        past = sum(filters[:, K - 1 - j] * x[:, t - j] for j in range(min(K, t + 1)))
        convolved.append(F.silu(past + a["mixer.conv1d.bias"]))
    A, h, outputs = -torch.exp(a["mixer.A_log"]), torch.zeros(len(u), E, N, dtype=u.dtype), []
    for t in range(T):
        x_t = convolved[t]  # (B, E)
        selected = x_t @ a["mixer.x_proj.weight"].T
        dt, B_t, C_t = selected[:, :R], selected[:, R : R + N], selected[:, R + N :]
        delta = F.softplus(dt @ a["mixer.dt_proj.weight"].T + a["mixer.dt_proj.bias"])  # (B, E)
        h = torch.exp(delta[:, :, None] * A) * h + (delta * x_t)[:, :, None] * B_t[:, None, :]
        y_t = (h * C_t[:, None, :]).sum(dim=-1) + a["mixer.D"] * x_t
        outputs.append((y_t * F.silu(z[:, t])) @ a["mixer.out_proj.weight"].T)
    return torch.stack(outputs, dim=1)
