"""GAM and the Transformer as one would write them in PyTorch, dropout included, to compare speed with.

Parameters have the names of the authors' code, so that the arrays of `minigam.interop.to_official` fit.
The tests' reference, tests/helpers/reference_torch.py, is separate on purpose: functions without modules or
dropout, for every mixer, written to be read next to the equations. This one is written to be fast.
"""

import torch
import torch.nn.functional as F
from torch import nn

from minigam.config import GAMConfig, ModelConfig, TransformerConfig


class GAMBlock(nn.Module):
    """x + gate(local, global), then x + feed-forward.   E1-E9"""

    def __init__(self, c: GAMConfig):
        super().__init__()
        C = c.d_model
        self.ln1, self.ln2 = nn.LayerNorm(C), nn.LayerNorm(C)
        self.causal_conv = nn.Conv1d(C, C, c.kernel_size, groups=C)
        self.memory_bank = nn.Parameter(nn.init.xavier_uniform_(torch.empty(c.n_slots, C)))
        self.gate = nn.Linear(C, 2 * C)
        self.ffn = feed_forward(c)

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # (B, T, C) -> (B, T, C)
        u = self.ln1(x)
        padded = F.pad(u.transpose(1, 2), (self.causal_conv.kernel_size[0] - 1, 0))
        local_context = self.causal_conv(padded).transpose(1, 2)
        global_context = torch.softmax(u @ self.memory_bank.T, dim=-1) @ self.memory_bank
        g_local, g_global = torch.sigmoid(self.gate(u)).chunk(2, dim=-1)
        x = x + g_local * local_context + g_global * global_context
        return x + self.ffn(self.ln2(x))


class TransformerBlock(nn.Module):
    """Pre-norm attention by PyTorch's fused function, and the same feed-forward."""

    def __init__(self, c: TransformerConfig):
        super().__init__()
        C, self.n_heads, self.p = c.d_model, c.n_heads, c.dropout
        self.ln_1, self.ln_2 = nn.LayerNorm(C), nn.LayerNorm(C)
        self.attn = nn.ModuleDict({"c_attn": nn.Linear(C, 3 * C), "c_proj": nn.Linear(C, C)})
        self.dropout = nn.Dropout(c.dropout)
        self.ffn = feed_forward(c)

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # (B, T, C) -> (B, T, C)
        qkv = self.attn["c_attn"](self.ln_1(x))
        q, k, v = (z.unflatten(-1, (self.n_heads, -1)).transpose(1, 2) for z in qkv.chunk(3, dim=-1))
        p = self.p if self.training else 0.0
        y = F.scaled_dot_product_attention(q, k, v, dropout_p=p, is_causal=True)  # (B, H, T, D)
        x = x + self.dropout(self.attn["c_proj"](y.transpose(1, 2).flatten(-2)))
        return x + self.ffn(self.ln_2(x))


def feed_forward(c: ModelConfig) -> nn.Sequential:
    """Return Dropout(W_2 GELU(W_1 x + b_1) + b_2)."""
    C = c.d_model
    return nn.Sequential(nn.Linear(C, 4 * C), nn.GELU(), nn.Linear(4 * C, C), nn.Dropout(c.dropout))


class LanguageModel(nn.Module):
    """The embeddings and the head that both models share; the configuration chooses the block."""

    def __init__(self, c: ModelConfig):
        super().__init__()
        block = {GAMConfig: GAMBlock, TransformerConfig: TransformerBlock}[type(c)]
        self.token_embedding = nn.Embedding(c.vocab_size, c.d_model)
        self.pos_embedding = nn.Embedding(c.block_size, c.d_model)
        self.dropout = nn.Dropout(c.dropout)
        self.blocks = nn.Sequential(*(block(c) for _ in range(c.n_layers)))
        self.ln_f = nn.LayerNorm(c.d_model)
        self.head = nn.Linear(c.d_model, c.vocab_size, bias=False)
        self.token_embedding.weight = self.head.weight

    def forward(self, ids: torch.Tensor) -> torch.Tensor:  # (B, T) -> (B, T, V)
        x = self.token_embedding(ids) + self.pos_embedding.weight[: ids.shape[1]]
        return self.head(self.ln_f(self.blocks(self.dropout(x))))

    def loss(self, ids: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Return the mean cross-entropy in nats; ids, targets (B, T)."""
        return F.cross_entropy(self(ids).flatten(0, 1), targets.flatten())


def autocast(half: str | None) -> torch.autocast:
    """Return a context in which matrix products on a GPU are computed in "float16" or "bfloat16"."""
    dtype = torch.bfloat16 if half == "bfloat16" else torch.float16
    return torch.autocast("cuda", dtype=dtype, enabled=half is not None)


class Trainer:
    """A model, its AdamW, and the step that `minigam.training.train_step` is compared with.

    micro_batch : rows computed at a time; None for the whole batch
    fused       : AdamW in one kernel, which is not PyTorch's default on a CPU
    half        : "float16" or "bfloat16" for matrix products in it on a GPU; the loss is then scaled for
                  float16, as the authors trained
    compiled    : the model's loss through torch.compile
    """

    def __init__(
        self,
        model: LanguageModel,
        micro_batch: int | None = None,
        *,
        fused: bool | None = None,
        half: str | None = None,
        compiled: bool = False,
    ):
        self.model, self.micro_batch, self.half = model.train(), micro_batch, half
        self.loss = torch.compile(model.loss) if compiled else model.loss
        self.optimizer = torch.optim.AdamW(
            model.parameters(), lr=3e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=fused
        )
        self.scaler = torch.amp.GradScaler("cuda", enabled=half == "float16")

    def step(self, ids: torch.Tensor, targets: torch.Tensor) -> float:
        """Forward, backward, clip, update; return the mean loss in nats before the update."""
        self.optimizer.zero_grad()
        rows, total = self.micro_batch or len(ids), 0.0
        for part_ids, part_targets in zip(ids.split(rows), targets.split(rows), strict=True):
            with autocast(self.half):
                loss = self.loss(part_ids, part_targets) * (len(part_ids) / len(ids))
            self.scaler.scale(loss).backward()
            total += loss.detach()
        self.scaler.unscale_(self.optimizer)
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return float(total)
