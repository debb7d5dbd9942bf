"""Which library holds an array, what is said when it cannot work, and the arithmetic libraries lack."""

import math
import subprocess
import sys
import types

import fakegpu
import numpy as np
import pytest

from minigam import backend


@pytest.fixture
def put_cupy(monkeypatch):
    """A function that puts a module (or None, which makes its import fail) in CuPy's place."""
    monkeypatch.setattr(backend, "_OWNER", dict(backend._OWNER))  # a stand-in may register its arrays
    backend._cupy.cache_clear()
    yield lambda module: monkeypatch.setitem(sys.modules, "cupy", module)
    backend._cupy.cache_clear()


def no_driver(*args, **kwargs):
    raise RuntimeError("cudaErrorInsufficientDriver: CUDA driver version is insufficient\nmore detail")


def module(**attributes) -> types.ModuleType:
    m = types.ModuleType("cupy")
    vars(m).update(__version__="0.0", float32=np.float32, **attributes)
    return m


def one_gpu() -> types.ModuleType:
    """CuPy as far as `choose` asks: it multiplies, and its one device has a name."""
    runtime = types.SimpleNamespace(getDeviceProperties=lambda i: {"name": b"Pretend 9000"})
    device = types.SimpleNamespace(id=0)
    return module(ones=np.ones, cuda=types.SimpleNamespace(runtime=runtime, Device=lambda: device))


# ----------------------------------------------------------------------------- finding a library


def test_an_array_belongs_to_its_library(xp):
    x = xp.ones((2, 3))
    assert backend.owner(x) is xp
    assert backend.xp_of(x, None, 2.0, x) is xp


def test_numbers_and_lists_belong_to_none_and_default_to_numpy():
    assert backend.owner(2.0) is backend.owner(None) is backend.owner([1.0]) is None
    assert backend.xp_of(2.0, None) is np
    assert backend.owner(np.float64(2.0)) is np


def test_two_libraries_do_not_meet():
    with pytest.raises(backend.BackendMismatch, match=r"here: input 1 \(2,\) is numpy, b \(3,\) is fakegpu"):
        backend.xp_of(1.0, np.ones(2), fakegpu.xp.ones(3), where="here", names=("a", "input 1", "b"))
    with pytest.raises(backend.BackendMismatch, match=r"operation: input 0 \(2,\) is numpy, input 1 \(3,\)"):
        backend.xp_of(np.ones(2), fakegpu.xp.ones(3))


def test_importing_minigam_imports_no_gpu_library():
    code = "import sys, minigam; sys.exit(bool({'cupy', 'cupyx', 'torch', 'matplotlib'} & set(sys.modules)))"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_an_array_is_cupys_once_cupy_is_there(put_cupy):
    class Array:
        shape = (2,)

    put_cupy(None)
    assert backend.owner(Array()) is None
    stand_in = module(ndarray=Array)
    put_cupy(stand_in)
    assert backend.owner(Array()) is stand_in


def test_get_finds_what_is_registered():
    assert backend.get("numpy") is np
    assert backend.get("fakegpu") is fakegpu.xp


def test_unknown_name():
    with pytest.raises(backend.UnknownBackend, match="'jax' is unknown; choose 'numpy' or 'cupy'"):
        backend.get("jax")


def test_cupy_not_installed(put_cupy):
    put_cupy(None)
    with pytest.raises(
        backend.BackendNotInstalled, match=r"cannot be imported .*; .* or use backend 'numpy'"
    ):
        backend.get("cupy")


def broken_product():
    """Arrays that can be made and not multiplied, as CuPy's where CUDA's libraries are missing."""

    class Array:
        def __matmul__(self, other):
            raise ImportError("libcublas.so.12: cannot open shared object file")

    return lambda *args, **kwargs: Array()


@pytest.mark.parametrize(
    ("ones", "reason"), [(no_driver, "cudaErrorInsufficientDriver"), (broken_product(), "libcublas")]
)
def test_cupy_without_a_gpu_that_answers(put_cupy, ones, reason):
    put_cupy(module(ones=ones))
    with pytest.raises(backend.NoDevice, match=f"CuPy 0.0 is installed but no GPU answers .{reason}") as e:
        backend.get("cupy")
    assert "\n" not in str(e.value)


def test_cupy_is_probed_once(put_cupy):
    probes = []
    put_cupy(module(ones=lambda *args, **kwargs: probes.append(1) or np.ones(*args, **kwargs)))
    assert backend.get("cupy") is backend.get("cupy") is sys.modules["cupy"]
    assert len(probes) == 1


def test_the_three_failures_are_told_apart():
    apart = {backend.UnknownBackend, backend.BackendNotInstalled, backend.NoDevice}
    assert not any(issubclass(a, b) for a in apart for b in apart - {a})


def test_auto_says_what_it_chose_and_why(put_cupy):
    put_cupy(None)
    assert backend.choose("auto") == ("numpy", "CuPy is not installed")
    put_cupy(module(ones=no_driver))
    name, why = backend.choose("auto")
    assert name == "numpy"
    assert why.startswith("CuPy 0.0 is installed but no GPU answers (cudaErrorInsufficientDriver")
    put_cupy(one_gpu())
    assert backend.choose("auto") == ("cupy", "Pretend 9000 answers")


@pytest.mark.parametrize(
    ("line", "wanted"),
    [("raise ImportError('libcublas.so.12')", "(libcublas.so.12)"), ("import a_part_of_it", "a_part_of_it")],
)
def test_auto_does_not_call_a_broken_cupy_absent(put_cupy, monkeypatch, tmp_path, line, wanted):
    put_cupy(None)
    (tmp_path / "cupy.py").write_text(line)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "cupy")
    name, why = backend.choose("auto")
    assert name == "numpy"
    assert why.startswith("CuPy cannot be imported (")
    assert wanted in why


def test_nothing_but_auto_falls_back(put_cupy):
    assert backend.choose("numpy")[0] == "numpy"
    put_cupy(None)
    with pytest.raises(backend.BackendNotInstalled):
        backend.choose("cupy")
    with pytest.raises(backend.UnknownBackend):
        backend.choose("tpu")


# ------------------------------------------------------------------------------ the pretend GPU


@pytest.mark.parametrize(
    "fault",
    [
        lambda there, here: there + here,
        lambda there, here: here + there,
        lambda there, here: there.__iadd__(here),
        lambda there, here: there * np.array(2.0),
        lambda there, here: there @ here,
        lambda there, here: np.exp(there),
        lambda there, here: np.concatenate([there, there]),
        lambda there, here: np.asarray(there),
        lambda there, here: fakegpu.xp.concatenate([there, here]),
        lambda there, here: fakegpu.xp.where(there > 0.0, there, here),
        lambda there, here: fakegpu.xp.add.at(there, (np.array([0]),), 1.0),
        lambda there, here: there[np.array([0])],
        lambda there, here: there[0, np.array([0])],
        lambda there, here: there.__setitem__(0, here),
        lambda there, here: here[there > 0.0],
    ],
)
def test_the_pretend_gpu_refuses_host_arrays(fault):
    """Each line is a mistake that NumPy alone would let pass."""
    with pytest.raises(TypeError, match=r"device array|host array"):
        fault(fakegpu.xp.ones((2, 2)), np.ones((2, 2)))


def test_the_pretend_gpu_has_only_what_is_listed():
    assert not hasattr(fakegpu.xp, "linalg")
    assert not hasattr(fakegpu.xp.ones(2), "tolist")


@pytest.mark.gpu
def test_the_pretend_gpu_has_nothing_that_cupy_lacks():
    cupy = backend.get("cupy")
    assert [name for name in fakegpu.FUNCTIONS if not hasattr(cupy, name)] == []
    listed = (*fakegpu.METHODS, *fakegpu.PROPERTIES)
    assert [name for name in listed if not hasattr(cupy.ndarray, name)] == []


# --------------------------------------------------------------------------------------- moving


def test_there_and_back(xp):
    x = np.arange(6.0).reshape(2, 3)
    there = backend.to(x, xp.__name__)
    assert backend.owner(there) is xp
    back = backend.to_numpy(there)
    assert type(back) is np.ndarray
    np.testing.assert_array_equal(back, x)


def test_what_is_there_already_is_not_copied(xp):
    x = xp.ones(3)
    assert backend.to(x, xp.__name__) is x


def test_lists_become_arrays(xp):
    assert isinstance(backend.to([1.0, 2.0], xp.__name__), xp.ndarray)


def test_synchronize_is_harmless(xp):
    backend.synchronize(xp)


# -------------------------------------------------------------------------------------- memory


def test_track_memory_sees_the_peak_and_not_what_was_there_before():
    before, megabyte = np.ones(250_000), 1_000_000
    with backend.track_memory(np) as memory:
        kept = np.ones(125_000)  # 1 MB
        np.ones(500_000).sum()  # 4 MB, freed again
    assert 5 * megabyte <= memory.peak_bytes < 5.1 * megabyte
    assert before.nbytes + kept.nbytes == 3 * megabyte


def test_track_memory_nests():
    with backend.track_memory(np) as outer:
        np.ones(250_000).sum()
        with backend.track_memory(np) as inner:
            np.ones(125_000).sum()
    assert 1_000_000 <= inner.peak_bytes < 1_100_000
    assert outer.peak_bytes >= inner.peak_bytes


@pytest.mark.gpu
def test_track_memory_on_a_gpu():
    cupy = backend.get("cupy")
    with backend.track_memory(cupy) as memory:
        cupy.ones(1_000_000)
    assert 8_000_000 <= memory.peak_bytes < 12_000_000


# ---------------------------------------------------------------------------------- arithmetic


@pytest.mark.parametrize(("dtype", "allowed"), [("float64", 1e-12), ("float32", 2e-7)])
def test_erf_is_good_to_its_precision(dtype, allowed, xp):
    x = np.concatenate([np.linspace(-7.0, 7.0, 100_001), np.logspace(-30, 30, 1000)]).astype(dtype)
    got = backend.to_numpy(backend.erf(xp, xp.asarray(x)))
    want = np.array([math.erf(v) for v in x.tolist()])
    assert got.dtype == dtype
    assert np.abs(got - want).max() < allowed
    assert np.abs(got).max() <= 1.0


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_erf_at_the_edges(dtype, xp):
    x = xp.asarray(np.array([math.inf, -math.inf, math.nan, 0.0, -0.0], dtype))
    y = backend.to_numpy(backend.erf(xp, x))
    np.testing.assert_array_equal(y, [1.0, -1.0, math.nan, 0.0, -0.0])
    assert np.signbit(y).tolist()[3:] == [False, True]


def test_erf_keeps_any_shape(xp):
    for shape in ((), (0,), (2, 0), (2, 3, 1)):
        assert backend.erf(xp, xp.ones(shape)).shape == shape


def test_sigmoid_neither_overflows_nor_warns(xp):
    y = backend.to_numpy(backend.sigmoid(xp, xp.asarray([-math.inf, -1e4, 0.0, 1e4, math.inf])))
    np.testing.assert_array_equal(y, [0.0, 0.0, 0.5, 1.0, 1.0])


def test_rows(xp):
    assert backend.rows(xp.ones((2, 3, 4))).shape == (6, 4)
    assert backend.rows(xp.ones(4)).shape == (1, 4)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_scatter_add_adds_repeated_ids(dtype, xp, rng):
    ids, values = np.array([[0, 2, 2], [2, 0, 4]]), rng.standard_normal((2, 3, 4)).astype(dtype)
    want = np.zeros((5, 4), dtype)
    for i in np.ndindex(ids.shape):
        want[ids[i]] += values[i]
    got = backend.scatter_add(xp, 5, xp.asarray(ids), xp.asarray(values))
    assert (type(got), got.dtype) == (xp.ndarray, dtype)
    np.testing.assert_allclose(backend.to_numpy(got), want, rtol=1e-6)


def mask(xp, *key, p=0.3, shape=(50, 40), first=0) -> np.ndarray:
    kept = backend.keep_mask(xp, key, p, shape, first)
    assert (type(kept), kept.dtype, kept.shape) == (xp.ndarray, bool, shape)
    return backend.to_numpy(kept)


def test_a_mask_is_decided_by_its_key_in_every_library(xp):
    first = mask(xp, 1, 2)
    np.testing.assert_array_equal(first, mask(np, 1, 2))
    for other in (mask(xp, 1, 3), mask(xp, 2, 1), mask(xp, 1)):
        assert abs((first != other).mean() - 2 * 0.3 * 0.7) < 0.05  # as often as two that know nothing


def test_a_mask_is_splitmix64_sixteen_bits_at_a_time(xp):
    """The generator once more, in Python's own numbers."""
    state, bits, wanted = int(backend.mask_seed((4, 2))), 2**64 - 1, []
    for _ in range(5):
        state = (state + 0x9E3779B97F4A7C15) & bits
        z = state
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & bits
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & bits
        z ^= z >> 31
        wanted += [(z >> shift & 0xFFFF) >= 0.25 * 65536 for shift in (0, 16, 32, 48)]
    assert mask(xp, 4, 2, p=0.25, shape=(1, 18)).tolist() == [wanted[:18]]


@pytest.mark.parametrize("p", [0.0, 0.1, 0.5, 0.9])
def test_a_mask_drops_a_share_p_of_the_entries(p):
    n = 400_000
    dropped = n - mask(np, 7, p=p, shape=(n,)).sum()
    assert abs(dropped - p * n) <= 4.0 * math.sqrt(n * p * (1.0 - p)) + n / 131072  # 4 standard deviations


@pytest.mark.parametrize("row", [(3,), (4,), (2, 3)], ids=str)
def test_a_row_has_its_mask_however_the_batch_is_split(row, xp):
    whole = mask(xp, 3, shape=(7, *row))
    for size in (1, 2, 3, 7):
        starts = range(0, 7, size)
        parts = [mask(xp, 3, shape=(min(size, 7 - i), *row), first=i * math.prod(row)) for i in starts]
        np.testing.assert_array_equal(np.concatenate(parts), whole)


def test_tiles_cover_every_row_once(monkeypatch):
    monkeypatch.setattr(backend, "TILE", 12)
    assert backend.tiles(7, 4) == [slice(0, 3), slice(3, 6), slice(6, 7)]
    assert backend.tiles(3, 100) == [slice(0, 1), slice(1, 2), slice(2, 3)]  # never less than a row
    assert backend.tiles(0, 4) == []
