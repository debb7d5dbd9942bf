"""What a learner has solved: the checks run on the learner's copies, and nothing is stored by hand."""

import argparse
import csv
import io
import json
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from minigam import cli, threads
from minigam.config import InputError
from minigam.course import notebooks, sandbox
from minigam.course.sandbox import Limits, Verdict

STATES = ("solved", "open", "failing", "missing")
DAY_S = 24 * 60 * 60


@dataclass(frozen=True)
class Progress:
    """One notebook of a learner. path: the copy, None without one. reason: why it cannot be read."""

    number: str
    title: str
    path: Path | None
    verdicts: dict[str, Verdict]
    reason: str = ""

    def first(self) -> str | None:
        """Return the first exercise NN.K that is not solved, None if there is none."""
        return next((name for name, v in self.verdicts.items() if v.state != "solved"), None)

    def line(self) -> str:
        """Return the line of `minigam course status`."""
        name = f"{self.number} {self.title}".rstrip()
        if self.reason or self.path is None:
            return f"{name:<50}{self.reason or 'no copy'}"
        counts = Counter(v.state for v in self.verdicts.values())
        parts = [f"{counts['solved']} of {len(self.verdicts)} solved"]
        parts += [f"{counts[state]} {state}" for state in STATES[1:] if counts[state]]
        messages = [f"{k} {v.message}" for k, v in self.verdicts.items() if v.state == "failing"]
        return f"{name:<50}{', '.join(parts)}{': ' if messages else ''}{'; '.join(messages)}"


def progress(folder: Path, numbers: list[str], limits: Limits, checks: Any = None) -> list[Progress]:
    """Run the checks on the copies in a folder.

    numbers : of the notebooks, NN or N; all for none
    checks  : the package of the checks, minigam.course.check for None
    """
    package = checks or sandbox.check
    known = sandbox.exercises(package)
    if unknown := [n for n in numbers if n.zfill(2) not in known]:
        raise InputError(f"notebook {unknown[0]!r}: does not exist, wanted one of {', '.join(known)}")
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; write your copies with `minigam course exercises`")
    chosen = [n.zfill(2) for n in numbers] or list(known)

    def one(number: str, worker: sandbox.Worker) -> Progress:
        return _one(folder, number, known[number], limits, worker)

    with sandbox.workers(threads.cores(), package.__name__) as each:
        bar = tqdm(each(one, chosen), total=len(chosen), unit="notebook", disable=None, leave=False, delay=2)
        return list(bar)


def _one(folder: Path, number: str, wanted: list[str], limits: Limits, worker: sandbox.Worker) -> Progress:
    paths = [p for p in sorted(folder.glob(f"{number}_*.ipynb")) if not p.stem.endswith("-before")]
    if not paths:
        return Progress(number, "", None, {})
    try:
        cells = sandbox.read_cells(paths[0])
    except InputError as e:
        return Progress(number, "", paths[0], {}, str(e))
    text = "\n".join(source for kind, source in cells if kind == "markdown")
    title = re.search(rf"^# {number} · (.*)", text, re.M)
    found = sandbox.verdicts(sandbox.code(cells), limits, worker)
    states = {k.replace("_", "."): _as_seen(found.get(k)) for k in wanted}
    return Progress(number, title[1].strip() if title else "", paths[0], states)


def _as_seen(verdict: Verdict | None) -> Verdict:
    """Return a verdict as its learner sees it: an answer that cannot be checked is failing too."""
    if verdict is None:
        return Verdict("missing", "its check is not called")
    return Verdict("failing", verdict.message) if verdict.state == "error" else verdict


def report(results: list[Progress]) -> str:
    """Return one line for each notebook that has a copy, then those without, then what comes next."""
    lines = [r.line() for r in results if r.path]
    if without := [r.number for r in results if not r.path]:
        lines.append(f"no copy: {', '.join(without)}; `minigam course exercises` writes them")
    following = next((r for r in results if r.first() or r.reason or not r.path), None)
    if following is None:
        lines.append("All solved.")
    elif following.path is None or following.reason:
        lines.append(f"Next: notebook {following.number}")
    else:
        lines.append(f"Next: exercise {following.first()} in {following.path}")
    return "\n".join(lines)


def as_json(results: list[Progress]) -> str:
    """Return the same as a JSON array, with an object for each notebook."""
    return json.dumps([
        {"notebook": r.number, "title": r.title, "file": str(r.path) if r.path else None, "reason": r.reason,
         "exercises": {k: v._asdict() for k, v in r.verdicts.items()}}
        for r in results
    ], indent=1, ensure_ascii=False)  # fmt: skip


def as_csv(results: list[Progress]) -> str:
    """Return the same as CSV, with a row for each exercise."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["exercise", "state", "message"])
    for r in results:
        writer.writerows([k, v.state, v.message] for k, v in r.verdicts.items())
    return out.getvalue().rstrip("\n")


def add_limits(parser: argparse.ArgumentParser) -> None:
    """Add the flags that limit what a notebook may use."""
    parser.add_argument("--seconds", type=int, default=Limits.seconds,
                        help="longest time of a notebook, and again after each endless loop "
                        "(default: %(default)s)")  # fmt: skip
    parser.add_argument("--memory", type=int, default=Limits.memory_mib,
                        help="most MiB of memory; not on Windows (default: %(default)s)")  # fmt: skip


def limits_of(args: argparse.Namespace) -> Limits:
    """Return the limits that the flags set. Raises InputError for a time of more than a day, and for one that
    is too small to start Python."""
    cli.require_at_least(args, seconds=1, memory=512)
    if args.seconds > DAY_S:
        raise InputError(f"--seconds is {args.seconds}, wanted at most {DAY_S}")
    return Limits(args.seconds, args.memory)


def add_command(commands: Any) -> None:
    """Add `minigam course status`."""
    what = "run the checks on your copies: which exercises are solved, open or failing"
    p = commands.add_parser("status", help=what, description=cli.sentence(what))
    p.add_argument("numbers", nargs="*", metavar="NN", help="numbers of notebooks (default: all)")
    p.add_argument("--folder", type=Path, default=None,
                   help="folder of your copies (default: notebooks/exercises in a clone, "
                   "else minigam-course)")  # fmt: skip
    form = p.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print JSON, with every message")
    form.add_argument("--csv", action="store_true", help="print CSV, a row for each exercise")
    add_limits(p)
    p.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print what is solved."""
    folder = args.folder or notebooks.learners_folder()
    results = progress(folder, args.numbers, limits_of(args))
    print(as_json(results) if args.json else as_csv(results) if args.csv else report(results))
    return 0
