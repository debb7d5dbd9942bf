"""The compilers of CUDA, without CuPy and without a GPU: NVRTC, which CuPy uses, and nvcc."""

import ctypes
import re
import shutil
import subprocess
import sys
from ctypes.util import find_library
from functools import cache
from pathlib import Path

import pytest

OPTIONS = ("-std=c++17", "-ftz=true")  # CuPy 14 adds them to those of a launch
PLACES = [
    *(p for folder in sys.path for p in Path(folder).glob("nvidia/*/lib/libnvrtc.so.*")),  # of the package
    *Path("/usr/local").glob("cuda*/lib64/libnvrtc.so.*"),
]


@cache
def library() -> ctypes.CDLL | None:
    """Return NVRTC, from the package nvidia-cuda-nvrtc, from a toolkit or from the system."""
    for name in (*(p for p in PLACES if "alt" not in p.name), find_library("nvrtc")):
        try:
            return ctypes.CDLL(str(name)) if name else None
        except OSError:
            continue
    return None


class Unusable(AssertionError):
    """The compiler refuses a source; the text is its log."""


def by_nvrtc(source: str, options: tuple[str, ...], folder: Path) -> tuple[str, str]:
    """Compile with CuPy's own options; return the PTX and the log, which tells of registers and spills."""
    nvrtc, program, done = library(), ctypes.c_void_p(), {}
    code = ctypes.c_char_p(source.encode())
    assert nvrtc.nvrtcCreateProgram(ctypes.byref(program), code, b"kernels.cu", 0, None, None) == 0
    given = [*options, *OPTIONS, "--device-as-default-execution-space", "--ptxas-options=-v"]
    status = nvrtc.nvrtcCompileProgram(
        program, len(given), (ctypes.c_char_p * len(given))(*map(str.encode, given))
    )
    for part in ("ProgramLog",) if status else ("ProgramLog", "PTX", "CUBIN"):
        size = ctypes.c_size_t()
        assert getattr(nvrtc, f"nvrtcGet{part}Size")(program, ctypes.byref(size)) == 0, part
        content = ctypes.create_string_buffer(size.value)
        assert getattr(nvrtc, f"nvrtcGet{part}")(program, content) == 0, part
        done[part] = content.raw
    nvrtc.nvrtcDestroyProgram(ctypes.byref(program))
    log = done["ProgramLog"].rstrip(b"\0").decode()
    if status:
        raise Unusable(log)
    return done["PTX"].rstrip(b"\0").decode(), log


def by_nvcc(source: str, options: tuple[str, ...], folder: Path) -> tuple[str, str]:
    """Do the same with nvcc."""
    (folder / "kernels.cu").write_text(source, encoding="utf-8")
    command = ["nvcc", *options, *OPTIONS, "-cubin", "--keep", "-Xptxas=-v", "kernels.cu"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder)
    if done.returncode:
        raise Unusable(done.stderr)
    return (folder / "kernels.ptx").read_text(encoding="utf-8"), done.stderr


each_compiler = pytest.mark.parametrize(
    "compiled",
    [
        pytest.param(
            by_nvrtc,
            id="nvrtc",
            marks=pytest.mark.skipif(library() is None, reason="needs NVRTC (the group `nvrtc`)"),
        ),
        pytest.param(
            by_nvcc, id="nvcc", marks=pytest.mark.skipif(not shutil.which("nvcc"), reason="needs nvcc")
        ),
    ],
)

USAGE = re.compile(r"Compiling entry function '(\w+)'.*?Used (\d+) registers", re.DOTALL)
SPILLS = re.compile(r"(\d+) bytes spill (?:stores|loads)")


def registers(log: str) -> dict[str, int]:
    """Return how many registers a thread of each kernel has."""
    return {kernel: int(number) for kernel, number in USAGE.findall(log)}


def spilled(log: str) -> int:
    """Return how many bytes the functions of a source spill: what finds no register goes to slow memory."""
    return sum(map(int, SPILLS.findall(log)))
