"""Which array library holds an array: choosing one, moving between two, and the errors.

Every other file computes with `xp`, the library that owns its inputs. Importing this file
imports NumPy alone: CuPy is looked up among the modules already loaded, and imported only
when somebody asks for it by name.
"""

import sys
from functools import cache
from types import ModuleType
from typing import Any

import numpy as np


class BackendMismatch(TypeError):
    """One operation was given arrays of two libraries."""


class UnknownBackend(ValueError):
    """No array library has this name."""


class BackendUnavailable(RuntimeError):
    """The library has this name, and cannot be used here: see the two subclasses."""


class BackendNotInstalled(BackendUnavailable):
    """The library cannot be imported."""


class NoDevice(BackendUnavailable):
    """The library is installed, and no GPU computes for it."""


_OWNER: dict[type, ModuleType] = {np.ndarray: np, np.generic: np}  # array type -> its library


def register(kind: type, library: ModuleType) -> None:
    """Make arrays of type `kind` belong to `library` (tests use this for a pretend GPU)."""
    _OWNER[kind] = library


def owner(array: object) -> ModuleType | None:
    """Return the library that `array` belongs to; None for scalars, lists and None.

    CuPy is looked up, never imported: no array can be CuPy's before CuPy is.
    """
    cupy = sys.modules.get("cupy")
    if cupy is not None and hasattr(cupy, "ndarray"):
        register(cupy.ndarray, cupy)
    return next((_OWNER[t] for t in type(array).__mro__ if t in _OWNER), None)


def xp_of(*arrays: Any, where: str = "operation", names: tuple[str, ...] = ()) -> ModuleType:
    """Return the one library that owns every array given; NumPy when there is none.

    where, names : what to call the operation and its arguments in the error
    Raises BackendMismatch when two libraries meet.
    """
    found: dict[ModuleType, str] = {}
    for i, array in enumerate(arrays):
        library = owner(array)
        if library is not None and library not in found:
            name = names[i] if i < len(names) else f"input {i}"
            found[library] = f"{name} {tuple(array.shape)} is {library.__name__}"
    if len(found) > 1:
        raise BackendMismatch(
            f"{where}: {', '.join(found.values())}; move one with .to('numpy') or .to('cupy')"
        )
    return next(iter(found), np)


def get(name: str) -> ModuleType:
    """Return the array library called `name`, checked to compute.

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
    try:
        import cupy
    except ImportError as e:
        raise BackendNotInstalled(
            f"backend 'cupy': CuPy cannot be imported ({e}); "
            "install it as the README's section Install says, or use backend 'numpy'"
        ) from e
    try:  # a small product, because missing CUDA libraries show only at the first one
        probe = cupy.ones((2, 2), dtype=cupy.float32)
        (probe @ probe).sum().item()
    except Exception as e:  # CuPy and its loaders raise many types here
        reason = str(e).strip().splitlines()[0] if str(e).strip() else type(e).__name__
        raise NoDevice(
            f"backend 'cupy': CuPy {cupy.__version__} is installed but no GPU answers ({reason}); "
            "check the driver with nvidia-smi, or use backend 'numpy'"
        ) from e
    return cupy


def choose(name: str) -> tuple[str, str]:
    """Resolve 'auto' to a backend that works here; return its name and why it was chosen."""
    if name != "auto":
        return get(name).__name__, "as asked"
    try:
        cupy = get("cupy")
    except BackendUnavailable as e:
        if isinstance(e.__cause__, ModuleNotFoundError) and e.__cause__.name == "cupy":
            return "numpy", "CuPy is not installed"  # the ordinary case, and no fault
        return "numpy", str(e).split(";")[0].removeprefix("backend 'cupy': ")
    gpu = cupy.cuda.runtime.getDeviceProperties(cupy.cuda.Device().id)["name"].decode()
    return "cupy", f"{gpu} answers"


def to(array: Any, name: str) -> Any:
    """Return `array` (any library's, or a list) held by the library called `name`."""
    library, source = get(name), owner(array)
    if source is library:
        return array
    if source not in (None, np):
        array = array.get()  # device to host
    return library.asarray(array)


def to_numpy(array: Any) -> np.ndarray:
    """Return `array` on the host, without a copy when it is there already."""
    return np.asarray(to(array, "numpy"))


def synchronize(xp: ModuleType) -> None:
    """Wait until the device has done everything asked of it, so that a clock reads true."""
    if hasattr(xp, "cuda"):
        xp.cuda.get_current_stream().synchronize()
