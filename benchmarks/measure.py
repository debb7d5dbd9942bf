"""Measure competitors in alternation, each in a fresh process, and take ratios within a round.

A fresh process has neither a warm allocator nor a memory peak that another measurement left behind.
The measurements of one round follow each other closely, so what slows the machine for minutes slows
all of them, and cancels in their ratios.
"""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from statistics import median

from tqdm import tqdm

from minigam import cli, launcher
from minigam.config import InputError
from minigam.training.profile import blas

PROJECT = Path(__file__).parents[1]
RESULTS = PROJECT / "benchmarks" / "results"
MIB = 2**20


class WorkerFailed(RuntimeError):
    """A measurement failed. The message is one line that says which one, and why."""


def require(*packages: str) -> None:
    """Raise InputError for a package that cannot be imported, before anything is measured."""
    for name in packages:
        if find_spec(name) is None:
            raise InputError(f"{name} is not installed; install it with pip install -e '.[bench]'")


def run(main: Callable[[], int], work: Callable[..., dict], prog: str) -> None:
    """Run the command `prog`; or, in a process that `fresh` started, do the work and print its result."""
    if sys.argv[1:2] == ["worker"]:
        result = work(**json.loads(sys.argv[2]))
        if launcher.rank() == 0:
            print(json.dumps({"peak_mib": peak_bytes() / MIB, "libraries": libraries()} | result))
        return

    def guarded() -> int:
        try:
            return main()
        except WorkerFailed as e:
            print(f"{prog}: {e}", file=sys.stderr)
            return 1

    cli.run(guarded, prog)


def fresh(
    module: str, name: str, job: dict, environment: dict[str, str] | None = None,
    limit_s: float | None = None, launch: Sequence[str] = (),
) -> dict:  # fmt: skip
    """Run one measurement in a fresh process and return the result of its work, with "peak_mib" (of the
    whole process, unless the work measures its own) and "libraries" (those that computed).

    module      : the module whose `work` is called with the arguments `job`
    name        : name of the measurement in an error
    environment : environment variables to set
    limit_s     : seconds after which the process is killed
    launch      : the command that starts it, such as mpiexec -n 2; of several ranks the first one reports
    Raises WorkerFailed when the process fails or its time is up.
    """
    try:
        done = supervised(
            [*launch, sys.executable, "-m", module, "worker", json.dumps(job)], limit_s,
            env=os.environ | (environment or {}), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise WorkerFailed(f"{name} was stopped at its limit of {limit_s:.0f} s") from None
    if done.returncode != 0:
        raise WorkerFailed(f"{name} failed with exit code {done.returncode}: {last_error(done.stderr)}")
    return json.loads(done.stdout.splitlines()[-1])


def last_error(text: str) -> str:
    """Return the line of what a process wrote that says best why it failed."""
    lines = text.strip().splitlines() or ["no message"]
    errors = [line for line in lines if re.match(r"[\w.]+(Error|Exception|Failed)\b", line)]
    return [*lines, *errors][-1]


def supervised(
    command: list[str], limit_s: float | None = None, grace_s: float = 0.0, **settings
) -> subprocess.CompletedProcess:
    """Run a command in the project's folder. When its time is up, or when this process is interrupted, end
    it and all that it started.

    grace_s  : seconds to wait after SIGINT, and again after SIGTERM, before SIGKILL
    settings : of subprocess.Popen
    Raises subprocess.TimeoutExpired when the time is up.
    """
    with subprocess.Popen(command, cwd=PROJECT, start_new_session=True, **settings) as child:
        try:
            out, err = child.communicate(timeout=limit_s)
        finally:
            _end(child, grace_s)
    return subprocess.CompletedProcess(command, child.returncode, out, err)


def _end(child: subprocess.Popen, grace_s: float) -> None:
    """End a child and what is left of its process group; outside POSIX, the child alone."""
    if not hasattr(os, "killpg"):
        child.kill()
        return
    for number in (signal.SIGINT, signal.SIGTERM) if grace_s else ():
        if child.poll() is None:
            with suppress(ProcessLookupError):
                os.killpg(child.pid, number)
            with suppress(subprocess.TimeoutExpired):
                child.wait(grace_s)
    with suppress(ProcessLookupError, PermissionError):  # macOS: of a group that has ended
        os.killpg(child.pid, signal.SIGKILL)


def rounds(
    competitors: dict[str, Callable[[], dict]],
    pairs: int,
    title: str,
    another: Callable[[list[dict[str, dict]]], bool] = lambda by_round: True,
) -> list[dict[str, dict]]:
    """Measure every competitor once per round; return {name: result} for each of `pairs` rounds.

    Every other round is in reverse order, so that a drift of the machine favours no competitor.
    another : called after each round with those so far; if it returns False, no other follows
    """
    by_round = []
    with tqdm(total=pairs * len(competitors), desc=title, disable=None, unit="measurement") as bar:
        for i in range(pairs):
            results = {}
            for name in list(competitors)[:: 1 if i % 2 == 0 else -1]:
                bar.set_postfix_str(name)
                results[name] = competitors[name]()
                bar.update()
            by_round.append({name: results[name] for name in competitors})
            if not another(by_round):
                break
    return by_round


def optional(competitors: dict[str, Callable[[], dict]], failed: dict[str, str]) -> dict[str, Callable]:
    """Return competitors that write the reason of a failure into `failed` instead of raising it.

    Each is called no more once it has failed; `complete` then removes its results.
    """

    def attempt(name: str) -> dict:
        if name not in failed:
            try:
                return competitors[name]()
            except WorkerFailed as e:
                failed[name] = str(e)
        return {}

    return {name: partial(attempt, name) for name in competitors}


def complete(rounds: list[dict[str, dict]], failed: dict[str, str]) -> list[dict[str, dict]]:
    """Return the rounds without the competitors that failed in one of them."""
    return [{name: r for name, r in results.items() if name not in failed} for results in rounds]


BUSY = """
import os, sys
print(flush=True)
while os.getppid() == int(sys.argv[1]):
    for _ in range(10**6): pass
"""


@contextmanager
def busy_core() -> Iterator[None]:
    """Keep one core busy from another process, which also ends if this process is killed."""
    command = [sys.executable, "-c", BUSY, str(os.getpid())]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as child:
        try:
            child.stdout.readline()  # it has started
            yield
        finally:
            child.kill()


# ------------------------------------------------------------------------------- in a worker


def timed(step: Callable[[], object], warm_up: int, steps: int) -> dict:
    """Return {"seconds": median time of a step, "times": all of them}, after untimed warm-up steps."""
    for _ in range(warm_up):
        step()
    times = []
    for _ in range(steps):
        start = time.perf_counter()
        step()
        times.append(time.perf_counter() - start)
    return {"seconds": median(times), "times": times}


def peak_bytes() -> int:
    """Return the peak memory of this process, in bytes.

    On Linux, ru_maxrss would include memory of the parent, which a child inherits at its start. VmHWM
    counts this program alone. Elsewhere only ru_maxrss exists (in bytes on macOS).
    """
    if (peak := _status("VmHWM")) is not None:
        return peak
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def held_bytes() -> int:
    """Return the memory this process holds now, in bytes; outside Linux, its peak so far."""
    held = _status("VmRSS")
    return peak_bytes() if held is None else held


def _status(field: str) -> int | None:
    """Return a field of /proc/self/status, in bytes; None outside Linux."""
    status = Path("/proc/self/status")
    if not status.exists():
        return None
    return next(
        int(x.split()[1]) * 1024
        for x in status.read_text(encoding="utf-8").splitlines()
        if x.startswith(field)
    )


def libraries() -> dict[str, str]:
    """Return the loaded libraries that compute, with their settings: BLAS, NumPy, PyTorch, autograd, JAX."""
    by_name = {"blas": blas(), "numpy": version("numpy")}
    if "torch" in sys.modules:
        by_name["torch"] = _torch()
    for name in ("autograd", "jax"):
        if name in sys.modules:
            by_name[name] = version(name)
    return by_name


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
    """Return the median, the least and the most of some values."""
    return {"median": median(values), "least": min(values), "most": max(values)}


def paired(found: list[dict[str, dict]], name: str, base: str, what: str) -> dict[str, float]:
    """Return the spread of name / base, taken within each round."""
    return spread([results[name][what] / results[base][what] for results in found])


def summary(found: list[dict[str, dict]], base: str) -> dict[str, dict]:
    """Return for each competitor its median time and memory over the rounds, and its ratios to `base`."""
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
