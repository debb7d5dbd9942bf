"""Write result files, and record with the numbers the machine, the versions and the commit."""

import math
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from minigam.config import InputError
from minigam.engine import backend
from minigam.engine.memory import GIB, physical_memory
from minigam.files import read_sealed, replacing, write_json, write_sealed, write_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure


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
    names = [x for x in info.read_text().splitlines() if x.startswith("model name")] if info.exists() else []
    return names[0].partition(":")[2].strip() if names else platform.processor()


def device(backend_name: str) -> str:
    """Return the name of the processor or GPU that computes."""
    if backend_name == "numpy":
        return _processor()
    cupy = backend.get("cupy")
    return cupy.cuda.runtime.getDeviceProperties(cupy.cuda.Device().id)["name"].decode()


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
    """Return the commit of the source, with -dirty after local changes; None outside a clone."""
    project = Path(__file__).parents[2]
    git = ["git", "-C", str(project)]
    if not (project / ".git").exists():  # an installed package: a clone around it is another project's
        return None
    try:
        done = subprocess.run(
            [*git, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
            capture_output=True,
            text=True,
        )
    except OSError:
        return None
    return done.stdout.strip() or None


def command() -> str:
    """Return the command line of this process; commands of minigam in their short form."""
    spec = sys.modules["__main__"].__spec__
    name = spec.name.removesuffix(".__main__") if spec is not None else Path(sys.argv[0]).stem
    ours = name.split(".")[0] == "minigam"
    return shlex.join([*(name.split(".") if ours else ["python", "-m", name]), *sys.argv[1:]])


def provenance(backend_name: str) -> dict:
    """Return where a measurement was made: commit, versions, machine, backend and device."""
    return {
        "commit": commit(),
        "versions": versions(),
        "machine": machine(),
        "backend": backend_name,
        "device": device(backend_name),
    }


def write(out: Path, name: str, content: dict, cells: list[dict], markdown: str, figure: "Figure") -> None:
    """Write NAME.json, NAME.md and NAME.png, and print the Markdown.

    cells : the measurements, each with its provenance under "measured"
    """
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / f"{name}.json", {"experiment": name, "command": command(), **content})
    devices = {f"{c['measured']['device']}, {c['measured']['machine']['cores']} cores" for c in cells}
    source = f"Command: `{command()}` on {' and on '.join(sorted(devices))}; "
    source += f"numbers, versions and settings in {name}.json.\n"
    write_text(out / f"{name}.md", f"{markdown}\n{source}")
    with replacing(out / f"{name}.png") as temporary:
        figure.savefig(temporary, dpi=120, format="png")
    print(f"\n{markdown}\nSaved in {out}: {name}.json, {name}.md, {name}.png")


def table(heads: list[str], lines: list[list[str]]) -> str:
    """Return a Markdown table, the first column aligned left and the others right."""
    cells = [heads, *lines]
    widths = [max(len(line[i]) for line in cells) for i in range(len(heads))]

    def text(line: list[str]) -> str:
        pads = [c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(line, widths))]
        return f"| {' | '.join(pads)} |\n"

    rule = [("-" * w) if i == 0 else "-" * (w - 1) + ":" for i, w in enumerate(widths)]
    return text(heads) + f"| {' | '.join(rule)} |\n" + "".join(map(text, lines))


class Cells:
    """Finished measurements of one experiment, stored in a file so that none is repeated.

    settings : everything that determines the numbers; a file with other settings is refused
    backend  : the array library; it is stored with each measurement, as part of its provenance
    """

    FORMAT = "minigam measurements 1"

    def __init__(self, path: Path, settings: dict, backend: str):
        self.path, self.settings, self.cells = path, settings | {"backend": backend}, {}
        self.measured = provenance(backend)
        if path.exists():
            content = read_sealed(path, self.FORMAT, remedy="delete it")
            if content.get("settings") != self.settings:
                raise InputError(f"{path}: holds other settings; choose another --out, or delete it")
            self.cells = content["cells"]

    def get(self, name: str, measure: Callable[[], dict]) -> dict:
        """Return the measurement called `name`; make it if it is missing."""
        if name not in self.cells:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.cells[name] = {**measure(), "measured": self.measured}
            write_sealed(self.path, self.FORMAT, {"settings": self.settings, "cells": self.cells})
        return self.cells[name]
