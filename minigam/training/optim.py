"""AdamW with gradient clipping, and the loss scale that float16 needs."""

import math
from collections.abc import Callable, Iterable

import numpy as np

from minigam.engine import backend
from minigam.engine.adamw import clip, update
from minigam.engine.backend import to_numpy, xp_of
from minigam.engine.compiled import adamw as compiled_adamw
from minigam.engine.cuda import adamw as cuda_adamw
from minigam.engine.tensor import Array
from minigam.models.nn import Parameter
from minigam.training.ranks.world import ALONE, World


class LossScale:
    """A factor on the loss before the backward pass, which keeps small gradients from vanishing in float16.

    Halved when a gradient is not finite, and that step is skipped; doubled after GROWTH good steps in a row.
    Source: Micikevicius et al., arXiv 1710.03740; the numbers are those of torch.amp.GradScaler.
    """

    GROWTH = 2000

    def __init__(self, value: float = 2.0**16, good_steps: int = 0):
        if not (0.0 < value < math.inf and 0 <= good_steps < self.GROWTH):
            raise ValueError(f"LossScale: {value} after {good_steps} good steps, wanted a number above 0")
        self.value, self.good_steps = value, good_steps

    def update(self, finite: bool) -> None:
        """Adapt the scale after a step; `finite` says whether all its gradients were."""
        self.good_steps = self.good_steps + 1 if finite else 0
        if not finite:
            self.value /= 2.0
        elif self.good_steps == self.GROWTH:
            self.value, self.good_steps = 2.0 * self.value, 0


class AdamW:
    """AdamW in PyTorch's order of operations (see `engine.adamw`); every parameter decays, as in the paper.

    parameters : changed in place; one without a gradient is left alone. A single t counts the steps
                 (PyTorch counts them for each parameter)
    lr         : learning rate; set `.lr` before a step to follow a schedule
    loss_scale : the factor that the gradients given to `step` contain; None for 1
    world      : the ranks that train together, each with the same parameters and gradients
    shard      : whether each rank holds the moments of its share of the parameters only, updates that share,
                 and then gets the others; the bits are the same. Every parameter then needs a gradient
    All parameters are joined into one array, and each `.data` becomes a view of it. Gradients and moments are
    three more such arrays, so one kernel updates everything. The backward pass writes into that of the
    gradients: a `.grad` is a view of it, which the first backward pass after zero_grad overwrites.

    >>> p = mg.nn.Parameter(np.array([1.0]))
    >>> optimizer = mg.AdamW([p], lr=0.1, weight_decay=0.0)
    >>> (p * p).sum().backward()
    >>> norm = optimizer.step()
    >>> round(p.item(), 3)
    0.9
    """

    def __init__(
        self,
        parameters: Iterable[Parameter],
        lr: float = 3e-4,
        betas: tuple[float, float] = (0.9, 0.95),
        weight_decay: float = 0.1,
        eps: float = 1e-8,
        loss_scale: LossScale | None = None,
        world: World = ALONE,
        shard: bool = False,
    ):
        self.loss_scale, self.world, self.sharded = loss_scale, world, shard
        self.parameters: list[Parameter] = list(parameters)
        if not self.parameters:
            raise ValueError("AdamW: no parameters, wanted at least one")
        self.lr, self.betas, self.weight_decay, self.eps = lr, betas, weight_decay, eps
        self.steps = 0  # t
        self.unread = 0  # steps whose loss and norm are not read yet
        ends = np.cumsum([p.data.size for p in self.parameters]).tolist()
        self.places = [slice(end - p.data.size, end) for p, end in zip(self.parameters, ends)]
        self.own = world.share(ends[-1]) if shard else slice(0, ends[-1])  # what this rank updates
        held = self.own.stop - self.own.start
        self.m, self.v = (np.zeros(held, self.parameters[0].dtype) for _ in range(2))
        self.views: list[Array] = [None] * len(self.parameters)
        self.lay_out()

    def lay_out(self) -> None:
        """Make each parameter a view of `flat`, unless they all are already."""
        if all(p.data is view for p, view in zip(self.parameters, self.views)):
            return
        self.xp = xp_of(*(p.data for p in self.parameters), where="AdamW")
        dtypes = {p.dtype for p in self.parameters} | {self.m.dtype}
        if len(dtypes) > 1:
            raise TypeError(f"AdamW: parameters and moments are {sorted(map(str, dtypes))}, wanted one dtype")
        self.flat = self.xp.concatenate([p.data.reshape(-1) for p in self.parameters])
        self.gradients = self.xp.zeros_like(self.flat)
        for p, place in zip(self.parameters, self.places):
            p.data, p.home = (joined[place].reshape(p.shape) for joined in (self.flat, self.gradients))
        self.views = [p.data for p in self.parameters]
        self.m, self.v = (backend.to(moments, self.xp.__name__) for moments in (self.m, self.v))

    def zero_grad(self) -> None:
        for p in self.parameters:
            p.grad = None

    def step(self, max_norm: float = math.inf, loss: Array = 0.0) -> Array:
        """Clip all gradients by their joint norm, update each parameter with a gradient; return the norm.

        max_norm : all gradients are scaled by one factor so that their joint norm is at most this
        loss     : unless this number and the norm are finite, only the step count changes, also in the steps
                   that start before the outcome of this one is read, if the caller counts it in `unread`
        returns    the norm before clipping, an array of one number on the device: the host need not wait
        """
        self.lay_out()
        self.steps += 1
        xp, places = self.xp, [at for p, at in zip(self.parameters, self.places) if p.grad is not None]
        for p, at in zip(self.parameters, self.places):
            if p.grad is not None and p.grad is not p.home:  # set by the user, or before the first step
                self.gradients[at] = p.grad.reshape(-1)
        if len(places) == len(self.places):  # all in one call
            places = [slice(None)]
        if self.unread == 0:
            self.blocked = xp.zeros((), dtype=self.flat.dtype)  # nan after a step that was not finite
        gradients = [self.gradients[at] for at in places]
        norm, factor = CLIP.get(xp.__name__, clip)(
            xp, gradients, loss, self.blocked,
            max_norm=max_norm, scale=self.scale, squares=compiled_adamw.squares,
        )  # fmt: skip
        for at in [self.own] if self.sharded else places:
            held = slice(None) if self.sharded else at
            FASTER.get(xp.__name__, update)(
                xp, self.flat[at], self.gradients[at], self.m[held], self.v[held], factor,
                lr=self.lr, betas=self.betas, weight_decay=self.weight_decay, eps=self.eps, t=self.steps,
            )  # fmt: skip
        if self.sharded:
            self.world.all_gather(self.flat)
        for p in self.parameters:
            p.version += 1
        return norm

    @property
    def scale(self) -> float:
        """The factor by which to multiply a loss before its backward."""
        return self.loss_scale.value if self.loss_scale else 1.0

    def accepts(self, loss: float, norm: float) -> bool:
        """Return whether training may continue after a step with this loss and norm; adapt the loss scale.

        A step that is not finite has changed nothing and is not counted. If the loss is finite, only the
        gradients are not, and the loss scale is above 1, training continues with half the scale.
        """
        finite = math.isfinite(loss) and math.isfinite(norm)
        if not finite:
            self.steps, self.unread = (
                self.steps - 1,
                0,
            )  # a step that has started since changes nothing either
        if self.loss_scale and math.isfinite(loss) and (finite or self.loss_scale.value > 1.0):
            self.loss_scale.update(finite)
            return True
        return finite

    def state_dict(self, names: list[str]) -> dict[str, np.ndarray]:
        """Return copies of both moments on the host, named after the parameters. If they are sharded, only
        rank 0 gets them; on the other ranks the result is empty."""
        joined = {
            letter: self._whole(moments) if self.sharded else moments
            for letter, moments in (("m", self.m), ("v", self.v))
        }
        return {
            f"{letter}.{name}": to_numpy(moments[at]).reshape(p.shape).copy()
            for letter, moments in joined.items()
            if moments is not None
            for name, p, at in zip(names, self.parameters, self.places, strict=True)
        }

    def _whole(self, moments: Array) -> Array | None:
        """Return on rank 0 the moments of all ranks, None on the others."""
        n = self.places[-1].stop
        if self.steps == 0:  # so that a run can be made before the ranks depend on each other
            return np.zeros(n, moments.dtype) if self.world.rank == 0 else None
        return self.world.gather(moments, n)

    def load_state_dict(self, arrays: dict[str, np.ndarray], names: list[str], steps: int) -> None:
        """Restore what `state_dict` returned, and the number of steps taken.

        Raises ValueError, and changes nothing, when a shape or dtype does not fit, a moment is not finite, or
        a mean of squares is negative.
        """
        for letter in "mv":
            for name, p in zip(names, self.parameters, strict=True):
                a = arrays[f"{letter}.{name}"]
                if a.shape != p.shape or a.dtype != p.dtype:
                    raise ValueError(f"{letter}.{name} {a.shape} {a.dtype}, wanted {p.shape} {p.dtype}")
                if not np.isfinite(a).all() or (letter == "v" and (a < 0.0).any()):
                    raise ValueError(f"{letter}.{name} is out of range")
        self.m, self.v = (
            self.xp.asarray(
                np.concatenate([arrays[f"{letter}.{name}"].reshape(-1) for name in names])[self.own].copy()
            )
            for letter in "mv"
        )
        self.steps = steps


# Name of the array library -> a faster `update`, a faster `clip`
FASTER: dict[str, Callable] = {"numpy": compiled_adamw.update, "cupy": cuda_adamw.update}
CLIP: dict[str, Callable] = {"cupy": cuda_adamw.clip}
