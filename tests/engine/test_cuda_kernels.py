"""What CuPy's faster rules stand on: the launcher, the products, the optimizer's kernel, the emulators."""

import numpy as np
import pytest
from helpers import fakecuda, fakegpu
from helpers.fakecuda import each_device, needs_compiler
from helpers.rules import assert_all_close

from minigam import backend
from minigam.engine import cuda
from minigam.training import optim


@pytest.fixture(autouse=True)
def emulated(monkeypatch):
    fakecuda.install(monkeypatch)


each_dtype = pytest.mark.parametrize(("dtype", "rtol"), [("float64", 1e-12), ("float32", 1e-6)])

# ------------------------------------------------------------------------------------------- products

each_layout = pytest.mark.parametrize("layout", ["rows", "columns", "neither"])


def laid_out(xp, z, layout: str):
    """Return the same numbers with the last axis together in memory, the last but one, or neither."""
    if layout == "rows":
        return xp.ascontiguousarray(z)
    if layout == "columns":
        return xp.ascontiguousarray(z.swapaxes(-1, -2)).swapaxes(-1, -2)
    return xp.concatenate([z, z], axis=-1)[..., : z.shape[-1]]


@each_device
@pytest.mark.parametrize("batch", [(), (2,), (2, 3)], ids=str)
@pytest.mark.parametrize("other", ["rows", "columns", "neither"])
@each_layout
@each_dtype
def test_products_of_every_layout(batch, layout, other, dtype, rtol, library):
    rng, xp = np.random.default_rng(0), backend.get(library)
    for M, K, n in ((4, 5, 6), (1, 5, 1), (4, 1, 6)):
        a, b = (rng.standard_normal((*batch, *size)).astype(dtype) for size in ((M, K), (K, n)))
        operands = [laid_out(xp, xp.asarray(z), how) for z, how in ((a, layout), (b, other))]
        got, total = cuda.linear.product(xp, *operands), xp.ones((*batch, M, n), dtype=dtype)
        assert cuda.linear.product(xp, *operands, out=total, add=True) is total
        assert_all_close([got, total], [a @ b, a @ b + 1.0], rtol)
        assert (type(got), got.dtype) == (xp.ndarray, np.dtype(dtype))


@needs_compiler
def test_a_transposed_batch_is_not_copied(monkeypatch):
    copied = []
    monkeypatch.setattr(fakegpu.xp, "ascontiguousarray", lambda z: copied.append(z.shape) or z)
    a = fakegpu.xp.ones((2, 3, 5, 4), dtype="float32")
    cuda.linear.product(fakegpu.xp, a.swapaxes(-1, -2), a)
    assert (2, 3, 4, 5) not in copied


# ----------------------------------------------------------------------------------------- the optimizer


def flat_arrays(library: str, n: int, dtype: str) -> list:
    rng = np.random.default_rng(0)
    p, g, m = rng.standard_normal((3, n)).astype(dtype)
    return [backend.to(a, library) for a in (p, g, m, rng.random(n).astype(dtype))]


SETTINGS = {"lr": 0.01, "betas": (0.9, 0.95), "weight_decay": 0.1, "eps": 1e-8, "t": 3}


@each_device
@each_dtype
def test_adamw_in_one_kernel_equals_the_update(library, dtype, rtol):
    xp, n = backend.get(library), 2 * cuda.kernels.THREADS + 7
    got, want = flat_arrays(library, n, dtype), flat_arrays("numpy", n, dtype)
    optim.FASTER[library](xp, *got, xp.asarray(np.asarray(0.7, dtype)), **SETTINGS)
    optim.update(np, *want, np.asarray(0.7, dtype), **SETTINGS)
    assert_all_close(got, want, rtol)


@each_device
def test_a_learning_rate_may_be_a_number_of_numpy(library):
    xp, settings = backend.get(library), SETTINGS | {"lr": np.float64(0.01)}
    got, want = flat_arrays(library, 300, "float32"), flat_arrays("numpy", 300, "float32")
    optim.FASTER[library](xp, *got, xp.asarray(np.float32(0.7)), **settings)
    optim.update(np, *want, np.asarray(0.7, "float32"), **SETTINGS)
    assert_all_close(got, want, 1e-6)


@each_device
@pytest.mark.parametrize("factor", [np.nan, np.inf, -np.inf])
def test_adamw_changes_nothing_where_the_factor_is_not_finite(library, factor):
    xp = backend.get(library)
    got, want = flat_arrays(library, 300, "float32"), flat_arrays("numpy", 300, "float32")
    optim.FASTER[library](xp, *got, xp.asarray(np.float32(factor)), **SETTINGS)
    for a, b in zip(got, want, strict=True):
        np.testing.assert_array_equal(backend.to_numpy(a), b)


# ----------------------------------------------------------------------------------------- the launcher


def softmax_launch(x, y, **sizes):
    sizes = {"rows": 2, "width": 3} | sizes
    threads = 2 * cuda.kernels.WARP
    cuda.kernels.launch(
        fakegpu.xp, cuda.softmax.SOFTMAX, "softmax", threads, x, y, sizes["rows"], sizes["width"]
    )


def test_a_launch_refuses_what_its_kernel_would_misread():
    x = fakegpu.xp.ones((2, 3), dtype="float32")
    for wrong in (x.T, x.astype("float64"), x.astype("int32")):
        with pytest.raises(TypeError, match=r"softmax: an array .* wanted C-contiguous float32 or int64"):
            softmax_launch(x, wrong)
    half = x.astype("float16")
    with pytest.raises(TypeError, match="softmax: float16 on a GPU, wanted float32 or float64"):
        softmax_launch(half, half)


@needs_compiler
def test_the_launcher_rounds_up_to_whole_blocks_and_starts_none_for_nothing(monkeypatch):
    started, x = [], fakegpu.xp.ones((2, 3), dtype="float32")
    monkeypatch.setattr(
        cuda.kernels, "kernel", lambda *_: lambda grid, block, passed: started.append((grid, block))
    )
    for threads in (0, 1, 128, 129, (0, 5), (5, 0), (7, 5), (7, 129)):
        cuda.kernels.launch(fakegpu.xp, cuda.softmax.SOFTMAX, "softmax", threads, x, x, 2, 3)
    assert started == [
        ((blocks, columns), (128,)) for blocks, columns in ((1, 1), (1, 1), (2, 1), (7, 1), (7, 2))
    ]


@needs_compiler
def test_compiling_is_announced_once(capsys):
    for cached in (cuda.kernels.announce, cuda.kernels.module, cuda.kernels.kernel):
        cached.cache_clear()
    x = fakegpu.xp.ones((2, 3), dtype="float32")
    for _ in range(2):
        softmax_launch(x, x)
    x = x.astype("float64")
    softmax_launch(x, x)
    assert capsys.readouterr().err.count("loading CUDA kernels") == 1


# ----------------------------------------------------------------------------------------- the emulators

BAD = r"""
extern "C" __global__ void too_far(REAL* y, size n) { if (my_index() <= n) y[my_index()] = 1; }
extern "C" __global__ void too_far_whole(size* y, size n) { if (my_index() <= n) y[my_index()] = 1; }
extern "C" __global__ void leaves_the_warp(REAL* y, size n) {
    if (my_index() >= n) return;
    y[my_index()] = sum_of_warp(1);
}
extern "C" __global__ void count(REAL* y, size n) { y[my_index()] = sum_of_warp(my_lane()); }
"""


@needs_compiler
@pytest.mark.parametrize(
    ("name", "dtype", "n", "fault"),
    [
        ("too_far", "float32", 40, "written outside"),
        ("too_far_whole", "int64", 40, "written outside"),
        ("leaves_the_warp", "float64", 40, "some threads of a warp or block ended"),
        ("leaves_the_warp", "float64", 64, None),
    ],
)
def test_the_emulator_finds_faults(name, dtype, n, fault):
    y = fakegpu.xp.zeros(n, dtype=dtype)
    if fault is None:
        cuda.kernels.launch(fakegpu.xp, BAD, name, n, y, n)
        np.testing.assert_array_equal(y.get(), 32.0)
        return
    with pytest.raises(AssertionError, match=fault):
        cuda.kernels.launch(fakegpu.xp, BAD, name, n, y, n)


@needs_compiler
def test_the_emulated_warp_adds_what_all_its_threads_bring():
    n = 3 * cuda.kernels.THREADS
    y = fakegpu.xp.zeros(n, dtype="float32")
    cuda.kernels.launch(fakegpu.xp, BAD, "count", n, y, n)
    np.testing.assert_array_equal(y.get(), 31 * 32 / 2)
