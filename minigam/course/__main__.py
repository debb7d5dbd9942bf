"""The course: execute its notebooks, write copies with gaps, check what is solved, prepare a class, grade."""

import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

from tqdm import tqdm

from minigam import cli
from minigam.config import InputError
from minigam.course import classroom, glossary, grading, in_clone, notebooks, overview, progress

PROG = "minigam course"


def parser() -> cli.Parser:
    p = cli.Parser(prog=PROG, description=__doc__)
    commands = p.add_subparsers(dest="command", required=True, metavar="ACTION", parser_class=cli.Parser)
    what = "execute notebooks/NN_name.py, with solutions, and store it as notebooks/NN_name.ipynb"
    build = commands.add_parser("build", help=what, description=cli.sentence(what))
    what = "write the learner's copies, with gaps to fill in; existing copies are kept"
    copies = commands.add_parser("exercises", help=what, description=cli.sentence(what))
    what = "print how long each notebook takes, by a model of reading and writing"
    times = commands.add_parser("times", help=what, description=cli.sentence(what))
    times.add_argument("--write", action="store_true",
                       help="write the minutes of all notebooks into their sources and docs")  # fmt: skip
    for command in (build, copies):
        command.add_argument("numbers", nargs="*", metavar="NN", help="numbers of notebooks (default: all)")
    what = "write the copies that are not there yet, and open them in JupyterLab"
    opened = commands.add_parser("open", help=what, description=cli.sentence(what))
    opened.add_argument("lab", nargs="*", metavar="FLAG",
                        help="flags for jupyter lab, after --, such as -- --no-browser")  # fmt: skip
    for command in (copies, opened):
        command.add_argument("--out", type=Path, default=notebooks.learners_folder(), metavar="FOLDER",
                             help="folder of the copies (default: notebooks/exercises in a clone of the "
                             "project, else ./minigam-course)")  # fmt: skip
    copies.add_argument("--overwrite", action="store_true",
                        help="replace existing copies; they are renamed to NAME-before.ipynb")  # fmt: skip
    for module in (progress, classroom, grading):
        module.add_command(commands)
    return p


def main(argv: list[str] | None = None) -> int:
    args = parser().parse_args(argv)
    if args.command in ("status", "grade"):
        return args.run(args)
    needed = {"build": ("nbclient", "ipykernel"), "open": ("jupyterlab", "ipykernel")}
    for library in ("jupytext", "nbformat", *needed.get(args.command, ())):
        if find_spec(library) is None:
            raise InputError(f"{library} is not installed; install it with pip install 'minigam[notebooks]'")
    if args.command == "class":
        return args.run(args)
    if args.command == "times":
        return _times(args.write)
    if args.command == "open":
        return _open(args.out, args.lab)
    chosen = notebooks.chosen(args.numbers)
    return _build(chosen) if args.command == "build" else _exercises(chosen, args.out, args.overwrite)


def _build(sources: list[Path]) -> int:
    from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

    in_clone(sources[0])
    for source in tqdm(sources, unit="notebook", disable=None, leave=False):
        notebook, start = notebooks.with_solutions(source), time.perf_counter()
        try:
            notebooks.execute(notebook, source.parent)
        except (CellExecutionError, CellTimeoutError, DeadKernelError) as e:
            raise InputError(f"{source.name}: a cell failed, nothing was written\n{e}") from e
        notebooks.store(notebook, source.with_suffix(".ipynb"))
        copy = notebooks.student_copy(source)
        copy.parent.mkdir(exist_ok=True)
        notebooks.store(notebooks.for_students(source), copy)
        glossary.copy(copy.with_name(glossary.FILE.name))
        tqdm.write(f"{source.stem:<40}{time.perf_counter() - start:6.1f} s")
    return 0


def _open(out: Path, flags: list[str]) -> int:
    """Write the missing copies and run JupyterLab in their folder until it is stopped."""
    _exercises(notebooks.sources(), out, overwrite=False)
    first = out / f"{notebooks.sources()[0].stem}.ipynb"
    return run_lab([*flags, str(first)])


def run_lab(args: list[str]) -> int:
    """Run JupyterLab until it is stopped; return its exit code. Ctrl-C is its own matter: it asks first, and
    ends its kernels."""
    with subprocess.Popen([sys.executable, "-m", "jupyterlab", *args]) as lab:
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            return lab.wait()
        finally:
            signal.signal(signal.SIGINT, before)


def _times(write: bool) -> int:
    if write:
        overview.write_times()
    for source in notebooks.sources():
        print(f"{source.stem:<40}{overview.minutes(source):5} min")
    return 0


def _exercises(sources: list[Path], out: Path, overwrite: bool) -> int:
    cli.require_folder(out)
    out.mkdir(parents=True, exist_ok=True)
    existing = [
        source
        for source in sources
        if not notebooks.put(out / f"{source.stem}.ipynb", notebooks.for_learners, source, overwrite)
    ]
    glossary.copy(out / glossary.FILE.name)
    print(f"{out}: {len(sources) - len(existing)} notebooks written, {len(existing)} kept unchanged")
    outdated = [s.stem[:2] for s in existing if notebooks.is_outdated(out / f"{s.stem}.ipynb", s)]
    if outdated:
        print(
            f"There are newer versions of {', '.join(outdated)}: {PROG} exercises {' '.join(outdated)} "
            "--overwrite writes them, and renames yours to NAME-before.ipynb"
        )
    return 0


if __name__ == "__main__":
    cli.run(main, PROG)
