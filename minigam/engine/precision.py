"""How a GPU rounds the inputs of its matrix products, and which device each precision needs.

float32  : no rounding
tf32     : to 11 significant bits instead of 24, with the range of float32
float16  : to 11 significant bits, with a range from 6e-8 to 65,504; larger numbers become infinite
bfloat16 : to 8 significant bits, with the range of float32

Sums and results are float32 in all four, and so is everything that is not a matrix product.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from types import ModuleType

from minigam.engine.backend import BackendUnavailable

# Compute capability: 8.0 is Ampere, 7.0 Volta
NEEDED = {"float32": 0, "tf32": 80, "float16": 70, "bfloat16": 80}
_current: ContextVar[str] = ContextVar("minigam.precision", default="float32")


class PrecisionUnavailable(BackendUnavailable):
    """The current device does not support this precision."""


def current() -> str:
    """Return the current precision."""
    return _current.get()


def require(xp: ModuleType, name: str) -> None:
    """Raise PrecisionUnavailable if the device of this library does not support the precision."""
    have, needed = capability(xp), NEEDED[name]
    if have < needed:
        device = f"compute capability {have / 10}" if have else f"{xp.__name__}, no GPU"
        raise PrecisionUnavailable(
            f"precision {name} on {device}, wanted a GPU of compute capability {needed / 10} or more; "
            "choose --precision float32"
        )


def capability(xp: ModuleType) -> int:
    """Return ten times the compute capability of the current device; 0 for a CPU."""
    return int(xp.cuda.Device().compute_capability) if hasattr(xp, "cuda") else 0


@contextmanager
def using(xp: ModuleType, name: str) -> Iterator[None]:
    """Use this precision inside a `with` block. Raises PrecisionUnavailable, as `require` does."""
    require(xp, name)
    token = _current.set(name)
    try:
        yield
    finally:
        _current.reset(token)
