"""Measurements, each in a process of its own, in alternation, and the ratios of those of one round.

A fresh process has no warm allocator and no peak of memory that another measurement left behind.
Measurements beside each other in a round meet the same machine, so ratios are taken within a round:
what slows the machine for minutes falls out of them.
"""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from statistics import median

from tqdm import tqdm

from minigam import cli
from minigam.config import InputError
from minigam.training.profile import blas

PROJECT = Path(__file__).parents[1]
RESULTS = PROJECT / "benchmarks" / "results"
MIB = 2**20


class WorkerFailed(RuntimeError):
    """A measurement ended without a number. The message is one line: which one, and why."""


def require(*packages: str) -> None:
    """Raise InputError for a package that cannot be imported, before anything is measured."""
    for name in packages:
        if find_spec(name) is None:
            raise InputError(f"{name} is not installed; install it with pip install -e '.[bench]'")


def run(main: Callable[[], int], work: Callable[..., dict], prog: str) -> None:
    """Be the command `prog`; or, started by `fresh`, one measurement: do the work, print what it gave."""
    if sys.argv[1:2] == ["worker"]:
        result = work(**json.loads(sys.argv[2]))
        print(json.dumps({"peak_mib": peak_bytes() / MIB, "libraries": libraries()} | result))
        return

    def guarded() -> int:
        try:
            return main()
        except WorkerFailed as e:
            print(f"{prog}: {e}", file=sys.stderr)
            return 1

    cli.run(guarded, prog)


def fresh(module: str, name: str, job: dict, environment: dict[str, str] | None = None) -> dict:
    """Run one measurement in a process of its own and return what its work returned, with "peak_mib"
    (of the whole process, unless the work gave its own) and "libraries" (what computed there).

    module      : whose `work` is called with `job` (its arguments)
    name        : what to call it in an error
    environment : variables to set for it
    Raises WorkerFailed when the process fails.
    """
    done = subprocess.run(
        [sys.executable, "-m", module, "worker", json.dumps(job)],
        cwd=PROJECT,
        env=os.environ | (environment or {}),
        capture_output=True,
        text=True,
    )
    if done.returncode != 0:
        said = done.stderr.strip().splitlines() or ["it said nothing"]
        raise WorkerFailed(f"{name} failed with exit code {done.returncode}: {said[-1]}")
    return json.loads(done.stdout.splitlines()[-1])


def rounds(competitors: dict[str, Callable[[], dict]], pairs: int, title: str) -> list[dict[str, dict]]:
    """Measure every competitor once a round; return {name: result} of each of `pairs` rounds.

    Every other round goes backwards, so that a drift of the machine favours nobody.
    """
    found = []
    with tqdm(total=pairs * len(competitors), desc=title, disable=None, unit="measurement") as bar:
        for i in range(pairs):
            results = {}
            for name in list(competitors)[:: 1 if i % 2 == 0 else -1]:
                bar.set_postfix_str(name)
                results[name] = competitors[name]()
                bar.update()
            found.append({name: results[name] for name in competitors})
    return found


# ------------------------------------------------------------------------------- in a worker


def timed(step: Callable[[], object], warm_up: int, steps: int) -> dict:
    """Return {"seconds": median time of a step, "times": all of them}, after some that do not count."""
    for _ in range(warm_up):
        step()
    times = []
    for _ in range(steps):
        began = time.perf_counter()
        step()
        times.append(time.perf_counter() - began)
    return {"seconds": median(times), "times": times}


def peak_bytes() -> int:
    """Return the most memory this process held at once, in bytes.

    Linux's ru_maxrss would count the parent's memory too, which a child inherits at its start;
    VmHWM is of this program alone. Elsewhere ru_maxrss is all there is (bytes on macOS).
    """
    if (held := _status("VmHWM")) is not None:
        return held
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def held_bytes() -> int:
    """Return the memory this process holds now, in bytes; where only Linux would tell, the most so far."""
    held = _status("VmRSS")
    return peak_bytes() if held is None else held


def _status(field: str) -> int | None:
    """Return a field of Linux's account of this process, in bytes; None elsewhere."""
    status = Path("/proc/self/status")
    if not status.exists():
        return None
    return next(int(x.split()[1]) * 1024 for x in status.read_text().splitlines() if x.startswith(field))


def libraries() -> dict[str, str]:
    """Return what computes in this process, as it is loaded and set here: BLAS, NumPy, PyTorch, autograd."""
    found = {"blas": blas(), "numpy": version("numpy")}
    if "torch" in sys.modules:
        found["torch"] = _torch()
    if "autograd" in sys.modules:
        found["autograd"] = version("autograd")
    return found


def _torch() -> str:
    import torch

    blas = re.search(r"BLAS_INFO=(\w+)", torch.__config__.show())
    processor = torch.backends.cpu.get_cpu_capability()
    return (
        f"{torch.__version__}, threads {torch.get_num_threads()}, "
        f"BLAS {blas[1] if blas else 'unknown'}, {processor}"
    )


# ------------------------------------------------------------------------------- the numbers


def spread(values: list[float]) -> dict[str, float]:
    """Return median, least and most."""
    return {"median": median(values), "least": min(values), "most": max(values)}


def paired(found: list[dict[str, dict]], name: str, base: str, what: str) -> dict[str, float]:
    """Return the spread of name / base, taken in each round alone."""
    return spread([results[name][what] / results[base][what] for results in found])


def summary(found: list[dict[str, dict]], base: str) -> dict[str, dict]:
    """Return for each competitor median time and memory over the rounds, and its paired ratios to `base`."""
    return {
        name: {
            "seconds": median(results[name]["seconds"] for results in found),
            "peak_mib": median(results[name]["peak_mib"] for results in found),
            "time_ratio": paired(found, name, base, "seconds"),
            "memory_ratio": paired(found, name, base, "peak_mib"),
        }
        for name in found[0]
    }


def shown(ratio: dict[str, float]) -> str:
    """Return a ratio as text: median (least to most)."""
    return f"{ratio['median']:.2f} ({ratio['least']:.2f} to {ratio['most']:.2f})"
