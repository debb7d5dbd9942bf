"""Which library holds an array, what is said when it cannot work, and the arithmetic libraries lack."""

import subprocess
import sys
import types
import warnings

import numpy as np
import pytest
from helpers import fakegpu

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
    with pytest.raises(backend.NoDevice, match=f"CuPy 0.0 is installed but no GPU responds .{reason}") as e:
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
    assert why.startswith("CuPy 0.0 is installed but no GPU responds (cudaErrorInsufficientDriver")
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


WARNS = """
import warnings
import numpy as np
warnings.warn("multiple CuPy packages are installed")
__version__, float32 = "0.0", np.float32
class Array:
    def __matmul__(self, other):
        warnings.warn("CUDA path could not be detected")
        return np.ones((2, 2))
def ones(shape, dtype):
    return Array()
"""


def test_a_warning_of_cupy_is_shown_and_no_missing_gpu(put_cupy, monkeypatch, tmp_path):
    put_cupy(None)
    (tmp_path / "cupy.py").write_text(WARNS)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "cupy")
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("error")
        assert backend.get("cupy").__version__ == "0.0"
    assert [str(w.message).split()[0] for w in shown] == ["multiple", "CUDA"]


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
