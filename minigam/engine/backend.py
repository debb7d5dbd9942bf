"""Array libraries: which one owns an array, how to choose one, and how to move arrays between them.

All other code computes with `xp`, the library that owns its inputs. Importing this file imports NumPy only:
CuPy is looked up among the modules already loaded, and is imported only when it is requested by name.
"""

import sys
import warnings
from functools import cache
from types import ModuleType
from typing import Any

import numpy as np


class BackendMismatch(TypeError):
    """One operation was given arrays of two libraries."""


class UnknownBackend(ValueError):
    """No array library has this name."""


class BackendUnavailable(RuntimeError):
    """The library is supported, but cannot be used here: see the subclasses."""


class BackendNotInstalled(BackendUnavailable):
    """The library cannot be imported."""


class NoDevice(BackendUnavailable):
    """The library is installed, but it finds no working GPU."""


_OWNER: dict[type, ModuleType] = {np.ndarray: np, np.generic: np}  # array type -> its library


def register(kind: type, library: ModuleType) -> None:
    """Declare that arrays of type `kind` belong to `library` (tests register a pretend GPU)."""
    _OWNER[kind] = library


def owner(array: object) -> ModuleType | None:
    """Return the library that `array` belongs to; None for scalars, lists and None."""
    kind = type(array)
    if kind in _OWNER:
        return _OWNER[kind]
    cupy = sys.modules.get("cupy")  # as long as it is not imported, no CuPy array exists
    if cupy is not None and hasattr(cupy, "ndarray"):
        register(cupy.ndarray, cupy)
    return next((_OWNER[t] for t in kind.__mro__ if t in _OWNER), None)


def xp_of(*arrays: Any, where: str = "operation", names: tuple[str, ...] = ()) -> ModuleType:
    """Return the library that owns all of the arrays; NumPy if there are no arrays.

    where, names : names of the operation and of its arguments, for the error message
    Raises BackendMismatch if the arrays belong to two libraries.
    """
    found = {_OWNER.get(type(a)) or owner(a) for a in arrays if a is not None} - {None}
    if len(found) > 1:
        owners, named = [owner(a) for a in arrays], dict(enumerate(names))
        each = [
            f"{named.get(i, f'input {i}')} {tuple(arrays[i].shape)} is {library.__name__}"
            for i, library in enumerate(owners) if library is not None and library not in owners[:i]
        ]  # fmt: skip
        raise BackendMismatch(f"{where}: {', '.join(each)}; move one with .to('numpy') or .to('cupy')")
    return found.pop() if found else np  # type: ignore[return-value]


def get(name: str) -> ModuleType:
    """Return the array library called `name`, after a check that it works here.

    Raises UnknownBackend, BackendNotInstalled or NoDevice.
    """
    libraries = {library.__name__: library for library in _OWNER.values()}
    if name == "cupy":
        return _cupy()
    if name not in libraries:
        raise UnknownBackend(f"backend: {name!r} is unknown; choose 'numpy' or 'cupy'")
    return libraries[name]


@cache
def _cupy() -> ModuleType:
    with warnings.catch_warnings():
        warnings.simplefilter("default")  # a warning turned into an error would read as a missing GPU
        try:
            import cupy
        except ImportError as e:
            raise BackendNotInstalled(
                f"backend 'cupy': CuPy cannot be imported ({e}); see docs/install.md, or use backend 'numpy'"
            ) from e
        try:  # multiply two matrices: missing CUDA libraries show up only then
            probe = cupy.ones((2, 2), dtype=cupy.float32)
            (probe @ probe).sum().item()
        except Exception as e:  # CuPy and the loader of its libraries raise many types
            reason = str(e).strip().splitlines()[0] if str(e).strip() else type(e).__name__
            raise NoDevice(
                f"backend 'cupy': CuPy {cupy.__version__} is installed but no GPU responds ({reason}); "
                "check the driver with nvidia-smi, or use backend 'numpy'"
            ) from e
        return cupy


def choose(name: str) -> tuple[str, str]:
    """Resolve 'auto' to a backend that works here; return its name and why it was chosen."""
    if name != "auto":
        return get(name).__name__, "as requested"
    try:
        cupy = get("cupy")
    except BackendUnavailable as e:
        if isinstance(e.__cause__, ModuleNotFoundError) and e.__cause__.name == "cupy":
            return "numpy", "CuPy is not installed"  # the usual case, not an error
        return "numpy", str(e).split(";")[0].removeprefix("backend 'cupy': ")
    gpu = cupy.cuda.runtime.getDeviceProperties(cupy.cuda.Device().id)["name"].decode()
    return "cupy", f"{gpu} answers"


def to(array: Any, name: str) -> Any:
    """Return `array` (of any library, or a list) as an array of the library called `name`."""
    library, source = get(name), owner(array)
    if source is library:
        return array
    if source not in (None, np):
        array = array.get()  # device to host
    return library.asarray(array)


def to_numpy(array: Any) -> np.ndarray:
    """Return `array` as a NumPy array, without a copy if it is one already."""
    return np.asarray(to(array, "numpy"))


def synchronize(xp: ModuleType) -> None:
    """Wait until the device has finished its work, so that timings are correct."""
    if hasattr(xp, "cuda"):
        xp.cuda.get_current_stream().synchronize()
