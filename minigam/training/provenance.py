"""Where and how a run or a measurement is made: commit, versions, machine, kernels, backend and device."""

import math
import os
import platform
import re
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np

from minigam.config import InputError, shortened
from minigam.engine import backend
from minigam.engine.compiled import kernels
from minigam.engine.memory import GIB, physical_memory


def machine() -> dict:
    """Return what determines the speed of this machine: processor, memory, BLAS, threads."""
    blas = np.show_config(mode="dicts")["Build Dependencies"]["blas"]
    memory = physical_memory()
    threads = {k: v for k, v in os.environ.items() if k.startswith(("OPENBLAS_", "OMP_", "MKL_"))}
    return {
        "system": platform.platform(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory_gib": round(memory / GIB, 1) if math.isfinite(memory) else None,
        "blas": f"{blas.get('name')} {blas.get('version')}",
        "blas_settings": threads,
    }


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    names = (
        [x for x in info.read_text(encoding="utf-8").splitlines() if x.startswith("model name")]
        if info.exists()
        else []
    )
    return names[0].partition(":")[2].strip() if names else platform.processor()


def device(backend_name: str) -> str:
    """Return the name of the processor or GPU that computes."""
    if backend_name == "numpy":
        return _processor()
    cuda = backend.get(backend_name).cuda
    return cuda.runtime.getDeviceProperties(cuda.Device().id)["name"].decode()


def versions() -> dict:
    """Return the versions of Python and of the packages that compute."""
    by_package = {"python": platform.python_version()}
    for name in ("minigam", "numpy", "tokenizers", "cupy-cuda12x", "cupy-cuda13x"):
        try:
            by_package[name] = version(name)
        except PackageNotFoundError:
            continue
    return by_package


def commit() -> str | None:
    """Return the commit of the source, with -dirty after local changes. Outside a clone it is what
    MINIGAM_COMMIT says, or None. Raises InputError if that is no commit."""
    project = Path(__file__).parents[2]
    git = ["git", "-C", str(project)]
    if not (project / ".git").exists():  # a copy, or installed: a clone around it is another project's
        return _named_commit()
    try:
        done = subprocess.run(
            [*git, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
            capture_output=True,
            text=True,
        )
    except OSError:
        return None
    return done.stdout.strip() or None


def _named_commit() -> str | None:
    named = os.environ.get("MINIGAM_COMMIT")
    if named and not re.fullmatch("[0-9a-fA-F]{7,40}(-dirty)?", named):
        raise InputError(
            f"MINIGAM_COMMIT is {shortened(named)!r}, wanted 7 to 40 hexadecimal digits, with -dirty after "
            "local changes; correct it, or unset it"
        )
    return named or None


def measured_by(backend_name: str) -> dict:
    """Return where a measurement was made: commit, versions, machine, backend and device."""
    return {
        "commit": commit(),
        "versions": versions(),
        "machine": machine(),
        "backend": backend_name,
        "device": device(backend_name),
        "kernels": kernels.in_use() if backend_name == "numpy" else None,
        "compiler": kernels.compiler_name() if backend_name == "numpy" else None,
    }
