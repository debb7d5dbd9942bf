"""Which array library holds an array, and the few things NumPy and CuPy say differently.

Every other file computes with `xp`, the library that owns its inputs. Importing this file
imports NumPy alone: CuPy is looked up among the modules already loaded, and imported only
when somebody asks for it by name.
"""

import ctypes
import math
import platform
import sys
import tracemalloc
from contextlib import contextmanager
from functools import cache
from types import ModuleType, SimpleNamespace

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


def xp_of(*arrays: object, where: str = "operation", names: tuple[str, ...] = ()) -> ModuleType:
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


def to(array, name: str):
    """Return `array` (any library's, or a list) held by the library called `name`."""
    library, source = get(name), owner(array)
    if source is library:
        return array
    if source not in (None, np):
        array = array.get()  # device to host
    return library.asarray(array)


def to_numpy(array) -> np.ndarray:
    """Return `array` on the host, without a copy when it is there already."""
    return np.asarray(to(array, "numpy"))


def synchronize(xp: ModuleType) -> None:
    """Wait until the device has done everything asked of it, so that a clock reads true."""
    if hasattr(xp, "cuda"):
        xp.cuda.get_current_stream().synchronize()


@cache
def keep_freed_memory() -> None:
    """Let NumPy's next large array have the memory of the last, from now on in the whole process.

    glibc otherwise hands it back to the system, which fills it with zeros, page by page, before anyone
    gets it again. Does nothing where the C library is another.
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_MMAP_MAX, 0)  # large arrays from the heap as well
        libc.mallopt(_M_TRIM_THRESHOLD, -1)  # which never shrinks


_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # malloc.h


@contextmanager
def track_memory(xp: ModuleType):
    """Measure array memory inside a `with` block: afterwards its target has `.peak_bytes`.

    NumPy: the peak of traced allocations above what was held at the start (tracemalloc,
    which NumPy reports to). CuPy: what a fresh memory pool took from the device, which is
    the peak of use rounded up to the pool's blocks.
    """
    memory = SimpleNamespace(peak_bytes=0)
    if hasattr(xp, "cuda"):
        pool = xp.cuda.MemoryPool()
        with xp.cuda.using_allocator(pool.malloc):
            yield memory
            synchronize(xp)
        memory.peak_bytes = pool.total_bytes()
        return
    nested = tracemalloc.is_tracing()
    if nested:
        tracemalloc.reset_peak()
    else:
        tracemalloc.start()
    start = tracemalloc.get_traced_memory()[0]
    try:
        yield memory
        memory.peak_bytes = tracemalloc.get_traced_memory()[1] - start
    finally:
        if not nested:
            tracemalloc.stop()


# ------------------------------------------------------------ arithmetic the libraries lack


def tiles(n: int, width: int = 1) -> list[slice]:
    """Return slices of 0 .. n-1, each of as many rows of `width` numbers as a cache holds well."""
    step = max(1, TILE // width)
    return [slice(start, min(start + step, n)) for start in range(0, n, step)]


TILE = 2**16  # numbers: many beside the cost of a call, few beside the cache


def rows(z):
    """Return z of shape (..., C) as a matrix (N, C) of its rows."""
    return z.reshape(-1, z.shape[-1])


def scatter_add(xp: ModuleType, n_rows: int, ids, values):
    """Return (n_rows, C) zeros to which row `values[i]` was added at row `ids[i]`, repeats too.

    ids : (...) integers, 0 <= id < n_rows     values : (..., C)
    On a GPU the order of the additions, and so the last bits, vary from run to run.
    """
    total = xp.zeros((n_rows, values.shape[-1]), dtype=values.dtype)
    xp.add.at(total, ids.reshape(-1), rows(values))
    return total


def sigmoid(xp: ModuleType, z):
    """Return 1 / (1 + exp(-z)), by way of tanh, which cannot overflow."""
    return 0.5 * (1.0 + xp.tanh(0.5 * z))


def keep_mask(xp: ModuleType, key: tuple[int, ...], p: float, shape: tuple[int, ...], first: int = 0):
    """Return for every entry whether dropout keeps it: False with probability p, to the nearest 1/65536.

    key   : non-negative integers that decide the mask, the same in every library
    first : how many entries of the mask come before these, so that an entry has the same mask however a
            batch is split
    Four entries share a number of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014), 16 bits each. Its
    n-th number is a function of n, so a mask can be computed again, from any entry on.
    """
    size = math.prod(shape)
    z = xp.arange(first // 4 + 1, (first + size - 1) // 4 + 2, dtype=np.uint64)
    z *= np.uint64(0x9E3779B97F4A7C15)
    z += mask_seed(key)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        z ^= z >> np.uint64(shift)
        z *= np.uint64(factor)
    z ^= z >> np.uint64(31)
    drawn = z.view(np.uint16)[first % 4 :][:size]
    return (drawn >= mask_threshold(p)).reshape(shape)


def mask_seed(key: tuple[int, ...]) -> np.uint64:
    """Return where SplitMix64 starts for this key."""
    return np.random.SeedSequence(key).generate_state(1, np.uint64)[0]


def mask_threshold(p: float) -> int:
    """Return the smallest number of 16 bits that keeps an entry."""
    return round(p * 65536)


def erf(xp: ModuleType, x):
    """Return the error function, 2/sqrt(pi) times the integral of exp(-s^2) from 0 to x.

        erf(c + d) = sum over m of a_m(c) d^m,   c the grid point nearest to |x|

    Tested: error under 1e-12 in float64 and under 2e-7 in float32. NumPy has no erf; math.erf
    takes one number at a time. A Taylor series about the nearest of the points where
    math.erf is known serves both precisions by its length alone, and holds no fitted constant.
    CuPy has its own.
    """
    if hasattr(xp, "cuda"):
        from cupyx.scipy.special import erf as device_erf

        return device_erf(x)
    series = xp.asarray(_erf_series(3 if x.dtype == np.float32 else 6).astype(x.dtype))
    size = xp.minimum(xp.abs(x), _ERF_END)
    nearest = xp.rint(size * _ERF_CELLS)
    d = size - nearest / _ERF_CELLS
    with np.errstate(invalid="ignore"):  # nan has no cell; it comes back through d
        cell = nearest.astype(np.intp)
    y = series[-1].take(cell, mode="clip")
    for a in series[-2::-1]:  # Horner's rule
        y = y * d + a.take(cell, mode="clip")
    return xp.copysign(y, x)


_ERF_END, _ERF_CELLS = 6.0, 128  # erf(6) is 1 in float64; grid points a unit


@cache
def _erf_series(terms: int) -> np.ndarray:
    """Return (terms, points): the Taylor coefficients a_m of erf about every grid point c.

    g = erf' obeys g' = -2 x g, so its own coefficients follow (m+1) g_{m+1} = -2 (c g_m + g_{m-1}),
    and a_{m+1} = g_m / (m+1).
    """
    table = []
    for i in range(int(_ERF_END * _ERF_CELLS) + 1):
        c = i / _ERF_CELLS
        a, before, g = [math.erf(c)], 0.0, 2.0 / math.sqrt(math.pi) * math.exp(-c * c)
        for m in range(terms - 1):
            a.append(g / (m + 1))
            before, g = g, -2.0 * (c * g + before) / (m + 1)
        table.append(a)
    return np.array(table).T
