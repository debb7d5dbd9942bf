"""GAM, the Transformer and Mamba in plain PyTorch functions, to compare minigam with.   E1-E9

Written from the equations, without calls to minigam. `w` holds the weights by published name; the weights
of a part that a mixer lacks are absent.
"""

import numpy as np
import torch
import torch.nn.functional as F

from helpers import tiny


def leaves(arrays: dict) -> dict[str, torch.Tensor]:
    """Return tensors that collect gradients; the head is the token embedding."""
    w = {name: torch.tensor(a, requires_grad=True) for name, a in arrays.items()}
    return w | {"head.weight": w["token_embedding.weight"]}


def logits(w: dict, ids: torch.Tensor, written: bool = False) -> torch.Tensor:  # (B, T) -> (B, T, V)
    x = F.embedding(ids, w["token_embedding.weight"]) + w["pos_embedding.weight"][: ids.shape[1]]
    for i in range(len({name.split(".")[1] for name in w if name.startswith("blocks.")})):
        prefix = f"blocks.{i}."
        x = block(
            {name.removeprefix(prefix): a for name, a in w.items() if name.startswith(prefix)}, x, written
        )
    return F.linear(norm(w, "ln_f", x), w["head.weight"])


def loss(w: dict, ids: torch.Tensor, targets: torch.Tensor, written: bool = False) -> torch.Tensor:
    """Mean cross-entropy in nats; a target of -1 is not predicted."""
    return F.cross_entropy(logits(w, ids, written).flatten(0, 1), targets.flatten(), ignore_index=-1)


def block(w: dict, x: torch.Tensor, written: bool = False) -> torch.Tensor:  # (B, T, C) -> (B, T, C)
    u = norm(w, "ln1", x)  # E1
    h = x + mix(w, u, written)  # E8
    hidden = F.gelu(F.linear(norm(w, "ln2", h), w["ffn.0.weight"], w["ffn.0.bias"]))
    return h + F.linear(hidden, w["ffn.2.weight"], w["ffn.2.bias"])  # E9


def mix(w: dict, u: torch.Tensor, written: bool) -> torch.Tensor:
    contexts = []
    if "causal_conv.weight" in w:
        C, _, K = w["causal_conv.weight"].shape
        padded = F.pad(u.transpose(1, 2), (K - 1, 0))  # zeros before the first token
        local = F.conv1d(padded, w["causal_conv.weight"], w["causal_conv.bias"], groups=C)
        contexts.append(local.transpose(1, 2))  # E2
    if "memory_bank" in w:
        attention = F.softmax(F.linear(u, w["memory_bank"]), dim=-1)  # E3, E4
        memory = w["memory_bank"]  # E5
        if written:  # X1-X4: for every token the mean of what each slot held at first and was given since
            weights = F.softmax(F.linear(contexts[0], memory), dim=-1)  # (B, T, S)
            total = (weights[..., None] * u[:, :, None]).cumsum(dim=1) + memory / len(memory)
            memory = total / (weights.cumsum(dim=1) + 1 / len(memory))[..., None]  # (B, T, S, C)
            contexts.append(torch.einsum("bts,btsc->btc", attention, memory))
        else:
            contexts.append(attention @ memory)
    if "gate.weight" in w:
        gates = F.linear(u, w["gate.weight"], w["gate.bias"]).sigmoid().chunk(2, dim=-1)  # E6
        contexts = [g * c for g, c in zip(gates, contexts, strict=True)]
    return sum(contexts)  # E7


def norm(w: dict, name: str, x: torch.Tensor) -> torch.Tensor:
    return F.layer_norm(x, x.shape[-1:], w[f"{name}.weight"], w[f"{name}.bias"], eps=1e-5)


def transformer_logits(w: dict, ids: torch.Tensor, n_heads: int) -> torch.Tensor:  # (B, T) -> (B, T, V)
    """The pre-norm Transformer, weights by minigam's own names, attention by PyTorch's own function."""
    x = F.embedding(ids, w["token_embedding.weight"]) + w["position_embedding.weight"][: ids.shape[1]]
    for i in range(len({name.split(".")[1] for name in w if name.startswith("blocks.")})):
        b = f"blocks.{i}"
        qkv = linear(w, f"{b}.attention.qkv", norm(w, f"{b}.norm1", x))
        q, k, v = (z.unflatten(-1, (n_heads, -1)).transpose(1, 2) for z in qkv.chunk(3, dim=-1))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(-2)
        x = x + linear(w, f"{b}.attention.out", y)
        hidden = F.gelu(linear(w, f"{b}.feed.expand", norm(w, f"{b}.norm2", x)))
        x = x + linear(w, f"{b}.feed.contract", hidden)
    return F.linear(norm(w, "norm", x), w["token_embedding.weight"])


def linear(w: dict, name: str, x: torch.Tensor) -> torch.Tensor:
    return F.linear(x, w[f"{name}.weight"], w[f"{name}.bias"])


def mamba_logits(w: dict, ids: torch.Tensor) -> torch.Tensor:  # (B, T) -> (B, T, V)
    """Mamba, weights by minigam's own names; a block without a norm has no residual either."""
    x = F.embedding(ids, w["token_embedding.weight"]) + w["position_embedding.weight"][: ids.shape[1]]
    for i in range(len({name.split(".")[1] for name in w if name.startswith("blocks.")})):
        bare = f"blocks.{i}.norm.weight" not in w
        y = ssm(w, f"blocks.{i}.ssm", x if bare else norm(w, f"blocks.{i}.norm", x))
        x = y if bare else x + y
    return F.linear(norm(w, "norm", x), w["token_embedding.weight"])


def ssm(w: dict, name: str, u: torch.Tensor) -> torch.Tensor:  # (B, T, C) -> (B, T, C)
    a = {key.removeprefix(f"{name}."): value for key, value in w.items() if key.startswith(f"{name}.")}
    (E, N), R, K = a["A_log"].shape, a["step_size.weight"].shape[1], a["conv.weight"].shape[1]
    x, z = F.linear(u, a["expand.weight"]).chunk(2, dim=-1)
    padded = F.pad(x.transpose(1, 2), (K - 1, 0))
    x = F.silu(F.conv1d(padded, a["conv.weight"][:, None], a["conv.bias"], groups=E).transpose(1, 2))
    step, B, C = F.linear(x, a["select.weight"]).split([R, N, N], dim=-1)
    delta = F.softplus(F.linear(step, a["step_size.weight"], a["step_size.bias"]))
    decay = torch.exp(delta[..., None] * -torch.exp(a["A_log"]))  # (B, T, E, N)
    # Without a recurrence: h_t is the sum over s <= t of what was written at s, decayed since then.
    y = []
    for t in range(x.shape[1]):
        h = sum(
            decay[:, s + 1 : t + 1].prod(dim=1) * (delta * x)[:, s, :, None] * B[:, s, None]
            for s in range(t + 1)
        )
        y.append((h * C[:, t, None]).sum(dim=-1))
    y = torch.stack(y, dim=1) + a["D"] * x
    return F.linear(y * F.silu(z), a["contract.weight"])


def assert_logits_and_gradients_equal(model, logits_of, T: int, B: int) -> None:
    """Compare a model with its reference in this file.

    logits_of : (weights by name, ids) -> logits (B, T, V), both torch tensors
    """
    ids, targets = tiny.draw_ids(model, B, T), tiny.draw_ids(model, B, T, seed=2)
    w = {name: torch.tensor(p.data, requires_grad=True) for name, p in model.named_parameters()}
    logits = logits_of(w, torch.tensor(ids))
    np.testing.assert_allclose(model(ids).data, logits.detach().numpy(), rtol=0, atol=1e-10)
    torch.nn.functional.cross_entropy(logits.flatten(0, 1), torch.tensor(targets).flatten()).backward()
    model.loss(ids, targets).backward()
    for name, p in model.named_parameters():
        wanted = w[name].grad.numpy()
        np.testing.assert_allclose(p.grad, wanted, rtol=0, atol=1e-9 * np.abs(wanted).max(), err_msg=name)
