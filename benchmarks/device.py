"""Verify and measure everything on a GPU, within the minutes given, the most worthy first.

Every step is a process with a limit: its share of the time left. A step that fails or is cut off stops no
other. The results so far are written after each, so that a run that is killed leaves what it has.
"""

import json
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ET
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.util import find_spec
from os import environ
from pathlib import Path

from tqdm import tqdm

from benchmarks import gpu, measure
from benchmarks.device_work import work
from minigam import GAMConfig, cli
from minigam.config import InputError, shortened
from minigam.experiments import report
from minigam.files import read_json, write_json, write_text

PROG = "benchmarks.device"
FILES = ("summary.json", "summary.md", "tests.xml", "logs.txt", "steps.json", "gpu.json", "gpu.md", "gpu.png")
LOG_CHARS, FAILURE_CHARS = 200_000, 4_000  # what is kept of the end of a log, and of a test's failure
GRACE_S = 4.0  # for a step that is cut off to write what it has
OK, FAILED, CUT_OFF, LEFT_OUT = "ok", "failed", "cut off at its limit", "left out"

ENGINE = "tests/engine"


@dataclass(frozen=True)
class Sizes:
    """How much a run does. The defaults are those of a device; a test of this file has smaller ones.

    tests   : arguments of pytest, by the name of their step; None for all tests that need a GPU
    train   : flags of a training run
    profile : flags of a profile
    model, batch, repeats : of a training step, and of the rules that are timed alone
    gpu     : flags of benchmarks.gpu
    """

    tests: dict[str, list[str]] | None = None
    train: tuple[str, ...] = ("--steps=60",)
    profile: tuple[str, ...] = ()
    model: GAMConfig = gpu.CONFIG
    batch: int = gpu.BATCH
    repeats: int = 20
    gpu: tuple[str, ...] = ("--limit=60",)


@dataclass(frozen=True)
class Step:
    """One process. MINUTES in its command becomes the minutes that it has.

    weight  : its share of the time left, relative to the steps that are left
    missing : why it cannot run here
    """

    name: str
    command: list[str]
    weight: float
    environment: dict[str, str] = field(default_factory=dict)
    missing: str = ""


def parser() -> cli.Parser:
    p = cli.Parser(prog=f"python -m {PROG}", description=__doc__.splitlines()[0])
    p.add_argument("--minutes", type=float, default=8.0, help="time of the whole run (default: 8)")
    p.add_argument("--out", type=Path, default=measure.RESULTS / "device",
                   help="folder whose results are replaced (default: benchmarks/results/device)")  # fmt: skip
    return p


def main(argv: list[str] | None = None, sizes: Sizes | None = None) -> int:
    args = parser().parse_args(argv)
    cli.require_at_least(args, minutes=0)
    cli.require_folder(args.out)
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # after a script's &; children would be deaf to it
        signal.signal(signal.SIGINT, signal.default_int_handler)
    ends = time.monotonic() + 60.0 * args.minutes
    with tempfile.TemporaryDirectory(prefix="minigam-device-") as folder:
        return Day(args.out, Path(folder), sizes or Sizes(), ends).run()


def task(name: str, **settings: object) -> list[str]:
    """Return the command of one task of `device_work`."""
    return [sys.executable, "-m", PROG, "worker", json.dumps({"task": name, **settings})]


def plan(out: Path, folder: Path, sizes: Sizes) -> list[Step]:
    """Return the steps after the first, the most worthy first."""
    model = {"model": sizes.model.to_dict(), "batch": sizes.batch, "repeats": sizes.repeats}
    model["out"] = str(out.absolute() / "steps.json")
    tests, gpu_out = sizes.tests or tests_by_step(), f"--out={out.absolute()}"
    must = {"MINIGAM_REQUIRE_GPU": "1"}  # a test without a GPU fails
    sanitizer = shutil.which("compute-sanitizer") or ""
    code = "import sys, cupy, pytest; cupy.cuda.set_allocator(None); sys.exit(pytest.main(sys.argv[1:]))"
    first, *later = (
        Step(name, [sys.executable, "-m", "pytest", f"--junitxml={folder}/{i}.xml", *pytest(args)], 4.0, must)
        for i, (name, args) in enumerate(tests.items())
    )
    checked = pytest(next(iter(tests.values())))
    return [
        first,
        *later[:2],
        Step("training", task("training", folder=str(folder), flags=sizes.train), 4.0),
        Step("a step in each precision", task("steps", **model), 3.0),
        Step("single kernels", task("kernels", **model), 2.0),
        Step("comparison with PyTorch",
             [sys.executable, "-m", gpu.PROG, "--minutes=MINUTES", gpu_out, *sizes.gpu], 12.0,
             missing="" if find_spec("torch") else "torch is not installed"),
        *later[2:],
        # Without CuPy's pool, every array is an allocation of its own, with bounds that can be checked.
        Step("compute-sanitizer", [sanitizer, "--tool=memcheck", "--error-exitcode=9",
                                   sys.executable, "-c", code, *checked], 4.0, must,
             missing="" if sanitizer else "compute-sanitizer is not on PATH"),
        Step("profiles", task("profiles", flags=sizes.profile), 2.0),
        *(Step(path.name, [], 0.0, missing="needs a package that is not installed")
          for path in test_files() if not usable(path)),
    ]  # fmt: skip


def pytest(arguments: list[str]) -> list[str]:
    """Return arguments of pytest. Warnings are no errors: one of another CuPy would fail every test."""
    return ["-m", "gpu", "-p", "no:cacheprovider", "-q", "--tb=short", "-W", "default", *arguments]


def tests_by_step() -> dict[str, list[str]]:
    """Return the files with tests that need a GPU, the most worthy first. Each step is a process, for after a
    fault of a kernel the device answers it no more."""
    files = [str(path.relative_to(measure.PROJECT)) for path in test_files() if usable(path)]
    kernels, *rules = (f"{ENGINE}/test_{name}.py" for name in ("cuda_kernels", "cuda_rules", "written_rules"))
    operations = [f"{ENGINE}/test_{name}.py" for name in ("precision", "memory", "backend", "ops")]
    return {
        "tests of kernels": [kernels],
        "tests of rules": rules,
        "tests of operations": operations,
        "other tests": [name for name in files if name not in (kernels, *rules, *operations)],
    }


def test_files() -> list[Path]:
    """Return the files that may have tests that need a GPU."""
    folders = (measure.PROJECT / "tests" / name for name in ("engine", "models", "training", "gradcheck"))
    return [path for folder in folders for path in sorted(folder.glob("test_*.py"))]


def usable(path: Path) -> bool:
    """Return whether the packages that a test file imports first are installed."""
    names = re.findall(r"^(?:import|from) (\w+)", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return all(name in ("helpers", "conftest") or find_spec(name) is not None for name in names)


class Day:
    """The steps so far, and the files that tell of them."""

    def __init__(self, out: Path, folder: Path, sizes: Sizes, ends: float):
        self.out, self.folder, self.sizes, self.ends = out, folder, sizes, ends
        self.steps, self.logs, self.where = [], [], ""

    def run(self) -> int:
        """Run all steps; return 1 if one failed. Raises InputError if CuPy does not compute."""
        self.run_step(Step("environment", task("environment"), 1.0), 60.0)
        (first,) = self.steps
        if first["outcome"] != OK:
            raise InputError(re.sub(r"^[\w.]+: ", "", first["detail"]))
        self.where = first["detail"]
        print(self.where)
        self.out.mkdir(parents=True, exist_ok=True)
        for name in FILES:
            (self.out / name).unlink(missing_ok=True)
        todo = plan(self.out, self.folder, self.sizes)
        self.write()
        bar = tqdm(todo, disable=None, unit="step")
        for i, step in enumerate(bar):
            bar.set_postfix_str(step.name)
            left = self.ends - time.monotonic()
            try:
                self.run_step(step, left * step.weight / (sum(s.weight for s in todo[i:]) or 1.0))
            finally:
                self.write()
                tqdm.write(line(self.steps[-1]))
        print(f"\nSaved in {self.out}: {', '.join(name for name in FILES if (self.out / name).exists())}")
        return int(any(s["outcome"] == FAILED for s in self.steps))

    def run_step(self, step: Step, limit_s: float) -> None:
        """Run one step and add what became of it."""
        result = {"name": step.name, "outcome": LEFT_OUT, "seconds": 0.0, "limit_s": limit_s}
        self.steps.append(result)
        if step.missing or limit_s < 1.0:
            result["detail"] = step.missing or "no time left"
            return
        minutes = f"{max(0.0, limit_s - GRACE_S) / 60.0:.3f}"
        command = [part.replace("MINUTES", minutes) for part in step.command]
        log, start = self.folder / f"{len(self.steps)}.log", time.monotonic()
        result |= {"outcome": "interrupted", "detail": ""}
        try:
            with log.open("wb") as stream:
                done = measure.supervised(command, limit_s, GRACE_S, env={**environ, **step.environment},
                                          stdout=stream, stderr=subprocess.STDOUT)  # fmt: skip
            result["outcome"] = OK if done.returncode == 0 else FAILED
        except subprocess.TimeoutExpired:
            result["outcome"] = CUT_OFF
        finally:
            result["seconds"] = time.monotonic() - start
            text = log.read_text(encoding="utf-8", errors="replace")
            self.logs.append(f"== {step.name}\n{text[-LOG_CHARS:]}\n")
            result["detail"] = detail(text, result["outcome"])

    def write(self) -> None:
        """Write the summary, the logs and the results of the tests so far."""
        steps_json = self.out / "steps.json"
        numbers = read_json(steps_json) if steps_json.exists() else {}
        summary = {"command": report.command(), "environment": self.where, "steps": self.steps}
        write_json(self.out / "summary.json", summary)
        write_text(self.out / "summary.md", markdown(self.where, self.steps, numbers))
        write_text(self.out / "logs.txt", "\n".join(self.logs))
        suites = ET.Element("testsuites")
        for path in sorted(self.folder.glob("*.xml")):
            with suppress(ET.ParseError):  # of a process that was killed
                suites.extend(ET.parse(path).getroot())  # noqa: S314  our own tests wrote it
        for failure in suites.iter():
            failure.text = (failure.text or "")[-FAILURE_CHARS:]
        if len(suites):
            write_text(self.out / "tests.xml", ET.tostring(suites, encoding="unicode"))


def detail(text: str, outcome: str) -> str:
    """Return the line of a log that says most: of a failure, why; of a task, what it returned."""
    if outcome == CUT_OFF and text.strip().endswith("KeyboardInterrupt"):
        text = text.partition("Traceback (most recent")[0]
    last = (text.strip().splitlines() or ["no output"])[-1]
    if outcome == FAILED and not re.search(r"\d+ (passed|failed|errors?)\b", last):
        return shortened(measure.last_error(text))
    with suppress(ValueError, KeyError, TypeError):
        return json.loads(last)["line"]
    return shortened(last.strip("= "))


def line(step: dict) -> str:
    """Return the line about a step in the summary."""
    return f"{step['name']}: {step['outcome']}, {step['seconds']:.1f} s. {step['detail']}"


def markdown(where: str, steps: list[dict], numbers: dict) -> str:
    """Return the summary: what became of each step, and the times of steps and kernels."""
    text = f"{where}\n\n" + "".join(f"* {line(step)}\n" for step in steps)
    if "steps" in numbers:
        heads = ["one training step, ms", "launched by the host", "work of the device", "loss read"]
        text += "\n" + report.table(heads, [
            [name, *([c["left_out"], "", ""] if "left_out" in c
                     else [f"{c[what]:.2f}" for what in ("host_ms", "device_ms", "whole_ms")])]
            for name, c in numbers["steps"].items()
        ])  # fmt: skip
    if "kernels" in numbers:
        cells = [
            (f"{name}, {phase}", c) for name, cell in numbers["kernels"].items() for phase, c in cell.items()
        ]
        heads = ["a rule alone", "ms", "MB", "GB/s"]
        lines = [[n, f"{c['ms']:.3f}", f"{c['bytes'] / 1e6:.1f}", f"{c['gb_per_s']:.0f}"] for n, c in cells]
        text += "\n" + report.table(heads, lines)
    if "launches" in numbers:
        lines = [
            [kernel, where, str(c["calls"]), f"{c['ms']:.3f}"]
            for where, cells in numbers["launches"].items()
            for kernel, c in sorted(cells.items(), key=lambda item: -item[1]["ms"])
        ]
        text += "\n" + report.table(["kernel", "in", "calls", "ms"], lines)
    return text


if __name__ == "__main__":
    measure.run(main, work, PROG)
