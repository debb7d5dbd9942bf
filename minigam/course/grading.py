"""Grade submitted notebooks into a CSV file, with the checks of this installation and limits for each file.

The exercises of a file are those whose checks it calls, `check.ex_NN_K(...)`, wherever the calls are: the
order, the number and the metadata of its cells do not matter. How the answers run is in `worker`, and what
the limits are in `sandbox`.
"""

import argparse
import csv
import io
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from minigam import cli, threads
from minigam.config import InputError
from minigam.course import sandbox
from minigam.course.progress import add_limits, limits_of
from minigam.course.sandbox import Limits, Verdict
from minigam.files import write_text


@dataclass(frozen=True)
class Grade:
    """One submitted file. notebook: its number NN, empty if it was refused for the reason."""

    file: str
    notebook: str
    verdicts: dict[str, Verdict]
    reason: str = ""

    def points(self) -> int:
        """Return the number of solved exercises."""
        return sum(v.state == "solved" for v in self.verdicts.values())


def submissions(folder: Path) -> list[Path]:
    """Return the notebooks in a folder and below, in order. Raises InputError if there are none."""
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; wanted one with submitted notebooks")
    paths = [p for p in folder.rglob("*.ipynb") if ".ipynb_checkpoints" not in p.parts]
    if not paths:
        raise InputError(f"{folder}: no notebooks (*.ipynb) in it or below it")
    return sorted(paths, key=lambda p: p.relative_to(folder).parts)


def grade(folder: Path, limits: Limits, jobs: int, checks: Any = None) -> list[Grade]:
    """Grade every notebook in a folder and below, `jobs` of them at a time.

    checks : the package of the checks, minigam.course.check for None
    """
    paths, package = submissions(folder), checks or sandbox.check
    known = sandbox.exercises(package)

    def one(path: Path, worker: sandbox.Worker) -> Grade:
        return _one(path, _shown(path.relative_to(folder)), known, limits, worker)

    with sandbox.workers(jobs, package.__name__) as each:
        bar = tqdm(each(one, paths), total=len(paths), unit="file", disable=None, leave=False, delay=2)
        return list(bar)


def _one(path: Path, file: str, known: dict[str, list[str]], limits: Limits, worker: sandbox.Worker) -> Grade:
    try:
        cells = sandbox.code(sandbox.read_cells(path))
    except InputError as e:
        return Grade(file, "", {}, _one_line(str(e).removeprefix(f"{path}: ")))
    notebook = sandbox.notebook_of(cells, list(known))
    if notebook is None:
        return Grade(file, "", {}, "calls no check of an exercise, check.ex_NN_K(...)")
    found = sandbox.verdicts(cells, limits, worker)
    wanted = dict.fromkeys(known[notebook], Verdict("missing", "its check is not called"))
    return Grade(file, notebook, wanted | found)


def _shown(path: Path) -> str:
    """Return a file's name for a table: one line, of text, and no formula for a spreadsheet."""
    name = _one_line(path.as_posix().encode("utf-8", "backslashreplace").decode())
    return f"./{name}" if name[:1] in "=+-@" else name


def _one_line(text: str) -> str:
    return re.sub(r"[\x00-\x1f\x7f]+", " ", text)[:500]


def table(grades: list[Grade], package: Any = None) -> str:
    """Return the grades as CSV: file, notebook, one column for each exercise of the notebooks that were
    submitted, points (solved exercises), and notes: why an exercise is failing, in error or missing, or why a
    file was refused."""
    submitted = {g.notebook for g in grades} | {k[:2] for g in grades for k in g.verdicts}
    known = sandbox.exercises(package or sandbox.check)
    columns = [name for n, names in known.items() if n in submitted for name in names]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    dotted = [name.replace("_", ".") for name in columns]
    writer.writerow(["file", "notebook", *dotted, "points", "notes"])
    for g in grades:
        states = [g.verdicts[name].state if name in g.verdicts else "" for name in columns]
        notes = [f"{k.replace('_', '.')}: {_one_line(v.message)}" for k, v in sorted(g.verdicts.items())
                 if v.message and v.state not in ("solved", "open")]  # fmt: skip
        points = "" if g.reason else str(g.points())
        writer.writerow([g.file, g.notebook, *states, points, g.reason or "; ".join(notes)])
    return out.getvalue()


def add_command(commands: Any) -> None:
    """Add `minigam course grade`."""
    what = "grade submitted notebooks with these checks, into a CSV file"
    p = commands.add_parser("grade", help=what, description=(
        f"{cli.sentence(what)} The answers run in processes with limits, which protect from mistakes and "
        "simple cheats, not from hostile code."))  # fmt: skip
    p.add_argument("submitted", type=Path, metavar="FOLDER", help="its notebooks (*.ipynb) are graded, and "
                   "those of its subfolders")  # fmt: skip
    p.add_argument("--csv", type=Path, required=True, metavar="OUT",
                   help="file to write, NAME.csv; one that exists is replaced")  # fmt: skip
    p.add_argument("--jobs", type=int, default=None,
                   help="notebooks that run at the same time (default: one for each processor)")  # fmt: skip
    add_limits(p)
    p.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Write the grades, and print how many there are."""
    cli.require_at_least(args, jobs=1)
    if args.csv.suffix.lower() != ".csv" or args.csv.is_dir():
        raise InputError(f"--csv {args.csv}: wanted the name of a file, NAME.csv")
    cli.require_folder(args.csv.absolute().parent)
    grades = grade(args.submitted, limits_of(args), args.jobs or threads.cores())
    args.csv.absolute().parent.mkdir(parents=True, exist_ok=True)
    write_text(args.csv, table(grades))
    refused = sum(bool(g.reason) for g in grades)
    print(f"{args.csv}: {len(grades) - refused} notebooks graded, {refused} refused")
    return 0
