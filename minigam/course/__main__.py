"""Build the notebooks of the course: execute them in place, or write the learner's copies."""

import time
from pathlib import Path

from tqdm import tqdm

from minigam import cli
from minigam.config import InputError
from minigam.course import notebooks

PROG = "minigam.course"


def parser() -> cli.Parser:
    p = cli.Parser(prog=f"python -m {PROG}", description=__doc__)
    commands = p.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=cli.Parser)
    for name, what in (
        ("build", "execute notebooks/NN_name.py into notebooks/NN_name.ipynb, solutions in place"),
        ("exercises", "write the learner's copies, with gaps to fill in"),
    ):
        c = commands.add_parser(name, help=what, description=what)
        c.add_argument("numbers", nargs="*", metavar="NN", help="which notebooks (default: all)")
    c.add_argument("--out", type=Path, default=notebooks.FOLDER / "exercises",
                   help="folder of the copies (default: notebooks/exercises)")  # fmt: skip
    c.add_argument("--overwrite", action="store_true", help="replace copies that are there, answers and all")
    return p


def main(argv: list[str] | None = None) -> int:
    args = parser().parse_args(argv)
    try:
        import jupytext  # noqa: F401
        import nbclient  # noqa: F401
    except ImportError as e:
        raise InputError(f"{e.name} is not installed; install it with pip install '.[notebooks]'") from e
    chosen = notebooks.chosen(args.numbers)
    return _build(chosen) if args.command == "build" else _exercises(chosen, args.out, args.overwrite)


def _build(sources: list[Path]) -> int:
    from nbclient.exceptions import CellExecutionError

    for source in tqdm(sources, unit="notebook", disable=None, leave=False):
        notebook, start = notebooks.with_solutions(source), time.perf_counter()
        try:
            notebooks.execute(notebook)
        except CellExecutionError as e:
            raise InputError(f"{source.name}: a cell failed, nothing was written\n{e}") from e
        notebooks.store(notebook, source.with_suffix(".ipynb"))
        tqdm.write(f"{source.stem:<28}{time.perf_counter() - start:6.1f} s")
    return 0


def _exercises(sources: list[Path], out: Path, overwrite: bool) -> int:
    cli.require_folder(out)
    out.mkdir(parents=True, exist_ok=True)
    kept = []
    for source in sources:
        path = out / f"{source.stem}.ipynb"
        if path.exists() and not overwrite:
            kept.append(source)
        else:
            notebooks.store(notebooks.for_learners(source), path)
    print(f"{out}: {len(sources) - len(kept)} notebooks written", end="")
    print(f", {len(kept)} kept with your answers (--overwrite begins them anew)" if kept else "")
    outdated = [s.stem[:2] for s in kept if notebooks.is_outdated(out / f"{s.stem}.ipynb", s)]
    if outdated:
        print(f"kept, though the course has a newer one: {', '.join(outdated)}")
    return 0


if __name__ == "__main__":
    cli.run(main, PROG)
