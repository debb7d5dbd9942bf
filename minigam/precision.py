"""What a GPU rounds the inputs of its matrix products to, and the scale that lets float16 gradients survive.

float32 : as they are
tf32    : to 11 bits in place of 24, with float32's range
float16 : to 11 bits, and nothing above 65,504 or below 6e-8. Whatever is above becomes infinite

Sums and results are float32 in all three, as is everything that is no matrix product.
"""

from contextlib import contextmanager

from minigam.config import InputError

NEEDED = {"float32": 0, "tf32": 80, "float16": 70}  # compute capability: 8.0 is Ampere, 7.0 Volta
_state = {"precision": "float32"}


def current() -> str:
    """Return the precision that is set."""
    return _state["precision"]


def require(xp, name: str) -> None:
    """Raise InputError if the device of this library does not have the precision."""
    have, needed = capability(xp), NEEDED[name]
    if have < needed:
        found = f"compute capability {have / 10}" if have else f"{xp.__name__}, no GPU"
        raise InputError(
            f"precision {name} on {found}, wanted a GPU of compute capability {needed / 10} or more; "
            "choose --precision float32"
        )


def capability(xp) -> int:
    """Return ten times the compute capability of the device at hand; 0 for a processor."""
    return int(xp.cuda.Device().compute_capability) if hasattr(xp, "cuda") else 0


@contextmanager
def using(xp, name: str):
    """Compute in this precision inside a `with` block. Raises InputError as `require` does."""
    require(xp, name)
    before, _state["precision"] = _state["precision"], name
    try:
        yield
    finally:
        _state["precision"] = before


class LossScale:
    """What the loss is multiplied by before the walk back, so that small gradients are above float16's least.

    Halved when gradients become infinite, and that step is left out; doubled after GROWTH good steps.
    Source: Micikevicius et al., arXiv 1710.03740; the numbers are those of torch.amp.GradScaler.
    """

    GROWTH = 2000

    def __init__(self, value: float = 2.0**16, good_steps: int = 0):
        self.value, self.good_steps = value, good_steps

    def update(self, finite: bool) -> None:
        """Take note of a step, whose gradients were finite or not."""
        self.good_steps = self.good_steps + 1 if finite else 0
        if not finite:
            self.value /= 2.0
        elif self.good_steps == self.GROWTH:
            self.value, self.good_steps = 2.0 * self.value, 0
