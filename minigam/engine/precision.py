"""What a GPU rounds the inputs of its matrix products to, and what the device must be for it.

float32 : as they are
tf32    : to 11 bits in place of 24, with float32's range
float16 : to 11 bits, and nothing above 65,504 or below 6e-8. Whatever is above becomes infinite

Sums and results are float32 in all three, as is everything that is no matrix product.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

from minigam.engine.backend import BackendUnavailable

NEEDED = {"float32": 0, "tf32": 80, "float16": 70}  # compute capability: 8.0 is Ampere, 7.0 Volta
_state = {"precision": "float32"}


class PrecisionUnavailable(BackendUnavailable):
    """The device at hand does not have this precision."""


def current() -> str:
    """Return the precision that is set."""
    return _state["precision"]


def require(xp: ModuleType, name: str) -> None:
    """Raise PrecisionUnavailable if the device of this library does not have the precision."""
    have, needed = capability(xp), NEEDED[name]
    if have < needed:
        found = f"compute capability {have / 10}" if have else f"{xp.__name__}, no GPU"
        raise PrecisionUnavailable(
            f"precision {name} on {found}, wanted a GPU of compute capability {needed / 10} or more; "
            "choose --precision float32"
        )


def capability(xp: ModuleType) -> int:
    """Return ten times the compute capability of the device at hand; 0 for a processor."""
    return int(xp.cuda.Device().compute_capability) if hasattr(xp, "cuda") else 0


@contextmanager
def using(xp: ModuleType, name: str) -> Iterator[None]:
    """Compute in this precision inside a `with` block. Raises PrecisionUnavailable as `require` does."""
    require(xp, name)
    before, _state["precision"] = _state["precision"], name
    try:
        yield
    finally:
        _state["precision"] = before
