"""AdamW, gradient clipping, and the learning-rate schedule."""

import math

import numpy as np

from minigam.backend import to_numpy, xp_of
from minigam.nn import Parameter


class AdamW:
    """Adam with decoupled weight decay, in PyTorch's order of operations.

        p <- p (1 - lr decay)
        m <- beta1 m + (1 - beta1) g,   v <- beta2 v + (1 - beta2) g^2
        p <- p - lr m_hat / (sqrt(v_hat) + eps),   m_hat = m / (1 - beta1^t),  v_hat = v / (1 - beta2^t)

    parameters : changed in place; one without a gradient is left alone, and t counts the steps
                 of all together (PyTorch counts each parameter's own)
    lr         : learning rate; set `.lr` before a step to follow a schedule
    Source: Loshchilov and Hutter, arXiv 1711.05101; torch.optim.AdamW.
    """

    def __init__(
        self,
        parameters,
        lr: float = 3e-4,
        betas: tuple[float, float] = (0.9, 0.95),
        weight_decay: float = 0.1,
        eps: float = 1e-8,
    ):
        self.parameters: list[Parameter] = list(parameters)
        if not self.parameters:
            raise ValueError("AdamW: no parameters, wanted at least one")
        self.lr, self.betas, self.weight_decay, self.eps = lr, betas, weight_decay, eps
        self.steps = 0  # t
        self.m = [xp_of(p.data).zeros_like(p.data) for p in self.parameters]
        self.v = [xp_of(p.data).zeros_like(p.data) for p in self.parameters]

    def zero_grad(self) -> None:
        for p in self.parameters:
            p.grad = None

    def step(self) -> None:
        """Update every parameter that has a gradient."""
        self.steps += 1
        beta1, beta2 = self.betas
        correction1, correction2 = 1.0 - beta1**self.steps, 1.0 - beta2**self.steps
        for p, m, v in zip(self.parameters, self.m, self.v, strict=True):
            g, xp = p.grad, xp_of(p.data)
            if g is None:
                continue
            p.data *= 1.0 - self.lr * self.weight_decay
            m *= beta1
            m += (1.0 - beta1) * g
            v *= beta2
            v += (1.0 - beta2) * g * g
            p.data -= (self.lr / correction1) * m / (xp.sqrt(v) / math.sqrt(correction2) + self.eps)

    def state_dict(self, names: list[str]) -> dict[str, np.ndarray]:
        """Return copies of both moments on the host, named after the parameters."""
        moments = (("m", self.m), ("v", self.v))
        return {
            f"{kind}.{name}": to_numpy(a).copy()
            for kind, arrays in moments
            for name, a in zip(names, arrays, strict=True)
        }

    def load_state_dict(self, arrays: dict[str, np.ndarray], names: list[str], steps: int) -> None:
        """Put back what `state_dict` gave, and the count of steps taken."""
        for kind, own in (("m", self.m), ("v", self.v)):
            for i, (name, p) in enumerate(zip(names, self.parameters, strict=True)):
                moment = arrays[f"{kind}.{name}"]
                if moment.shape != p.shape or moment.dtype != p.dtype:
                    raise ValueError(
                        f"{kind}.{name} {moment.shape} {moment.dtype}, wanted {p.shape} {p.dtype}"
                    )
                own[i] = xp_of(p.data).array(moment)
        self.steps = steps


def clip_grad_norm(parameters, max_norm: float) -> float:
    """Scale all gradients down together so that their norm is at most `max_norm`; return the norm before.

    A norm that is not finite changes nothing: the caller decides.
    Source: Pascanu et al., arXiv 1211.5063; the 1e-6 is torch.nn.utils.clip_grad_norm_'s.
    """
    graded = [p for p in parameters if p.grad is not None]
    if not graded:
        return 0.0
    # One number a parameter, added up on the device: a single synchronisation.
    norm = float(sum((p.grad * p.grad).sum() for p in graded)) ** 0.5
    scale = max_norm / (norm + 1e-6)
    if math.isfinite(norm) and scale < 1.0:
        for p in graded:
            p.grad = p.grad * scale  # not in place: two leaves may share an array
    return norm


def warmup_cosine(step: int, steps: int, warmup_steps: int, peak: float) -> float:
    """Learning rate of one step: a line up to the peak, then half a cosine down to 0.

    step : 1 .. steps; the last warm-up step has the peak, the last step has 0
    Source: the paper's schedule; Loshchilov and Hutter, arXiv 1608.03983.
    """
    if step <= warmup_steps:
        return peak * (step / warmup_steps)  # in this order the last one is the peak, to the bit
    return peak * 0.5 * (1.0 + math.cos(math.pi * (step - warmup_steps) / max(1, steps - warmup_steps)))
