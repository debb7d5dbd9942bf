"""Make the notebooks of the course from their sources: the executed ones and the learner's copies.

A source is a jupytext percent file, notebooks/NN_name.py. Its cells have tags:

    setup      the first code cell: the imports that every exercise may use
    exercise   an answer; the lines between `# SOLUTION` and `# END` are the solution, which the
               learner's copy replaces with `raise NotImplementedError`

The cell after an exercise calls its check. A folded cell with the solution is added after that.
jupytext, nbformat and nbclient are imported only when they are needed.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING

from minigam.config import InputError
from minigam.course import PROJECT, glossary, hosting, is_clone
from minigam.files import read_json, reading, sha256_of, write_text

if TYPE_CHECKING:
    from nbformat import NotebookNode

FOLDER = PROJECT / "notebooks" if is_clone() else Path(__file__).parent / "sources"
STUB = 'raise NotImplementedError("replace this line")'
_SOLUTION = re.compile(r"^(?P<indent>[ ]*)# SOLUTION\n(?P<body>.*?)^[ ]*# END[ ]*(?:\n|\Z)", re.M | re.S)
_CHECK = re.compile(r"check\.(?P<name>ex_\d\d_\d+)\((?P<answer>.*)\)\s*\Z", re.S)
_PROMISE = re.compile(r"^\* A folded \*\*solution\*\*[^\n]*(?:\n  [^\n]*)*", re.M)  # in notebook 00
_INSTEAD = "* The solutions are not in this copy. Later cells use *your* answer, so do not leave a gap open."
TIMEOUT_S = 300  # seconds a cell may take
_MADE_FROM = "minigam_source_sha256"


@dataclass(frozen=True)
class Exercise:
    """One exercise: its number NN_K, the arguments of its check, and its cell with solution and with stub."""

    number: str
    answer: str
    solution: str
    stub: str


def sources() -> list[Path]:
    """Return the sources of the course, in order: those of the clone, or those in the installed package."""
    return sorted(FOLDER.glob("[0-9][0-9]_*.py"))


def learners_folder() -> Path:
    """Return where a learner's copies are by default."""
    return PROJECT / "notebooks" / "exercises" if is_clone() else Path("minigam-course")


def chosen(numbers: list[str]) -> list[Path]:
    """Return the sources with these numbers, or all for none. Raises InputError for an unknown one."""
    by_number = {p.name[:2]: p for p in sources()}
    if unknown := [n for n in numbers if n.zfill(2) not in by_number]:
        raise InputError(f"notebook {unknown[0]!r}: does not exist, wanted one of {', '.join(by_number)}")
    return [by_number[n.zfill(2)] for n in numbers] or list(by_number.values())


def read(source: Path) -> "NotebookNode":
    """Return the notebook of a source, as its author wrote it."""
    import jupytext

    notebook = jupytext.read(source, fmt="py:percent")
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    return notebook


def exercises(notebook: "NotebookNode") -> list[Exercise]:
    """Return the exercises of a notebook that `read` returned, in order.

    Raises InputError for an exercise without a check or without a solution.
    """
    result = []
    for cell, after in zip(notebook.cells, [*notebook.cells[1:], None], strict=True):
        if "exercise" in cell.metadata.get("tags", ()):
            called = _CHECK.search(after.source) if after is not None else None
            if called is None or not _SOLUTION.search(cell.source):
                raise InputError(f"an exercise needs # SOLUTION, # END and its check below it: {cell.source}")
            number = called["name"].removeprefix("ex_")
            result.append(Exercise(number, called["answer"], _solved(cell.source), _stubbed(cell.source)))
    return result


def setup(notebook: "NotebookNode") -> str:
    """Return the imports that every exercise may use."""
    return next(c.source for c in notebook.cells if "setup" in c.metadata.get("tags", ()))


def _solved(code: str) -> str:
    return _SOLUTION.sub(lambda m: m["body"], code).rstrip()


def _stubbed(code: str) -> str:
    return _SOLUTION.sub(lambda m: f"{m['indent']}{STUB}\n", code).rstrip()


def with_solutions(source: Path) -> "NotebookNode":
    """Return the notebook to store: with solutions in place, and folded below each check as well."""
    return _built(source, "solution", folded=True)


def for_learners(source: Path) -> "NotebookNode":
    """Return the learner's copy: with stubs in place, and the solutions folded below each check.

    Its metadata has the SHA-256 of its source.
    """
    notebook = _built(source, "stub", folded=True)
    notebook.metadata[_MADE_FROM] = sha256_of(source)
    return notebook


def for_students(source: Path) -> "NotebookNode":
    """Return a copy with stubs and hints, and without any solution: for a class, and for Colab.

    Its first code cell installs minigam where it is missing.
    """
    import nbformat

    notebook = _built(source, "stub", folded=False)
    for cell in notebook.cells:
        cell.source = _PROMISE.sub(_INSTEAD, cell.source)
    at = next(i for i, c in enumerate(notebook.cells) if c.cell_type == "code")
    install = nbformat.v4.new_code_cell(hosting.install_cell(), id=f"{source.stem[:2]}-install")
    notebook.cells.insert(at, install)
    notebook.metadata[_MADE_FROM] = sha256_of(source)
    return notebook


def student_copy(source: Path) -> Path:
    """Return where the copy for Colab is stored, in the clone."""
    return source.parent / hosting.COLAB / f"{source.stem}.ipynb"


def navigation(source: Path) -> str:
    """Return links to the notebook before, the map in notebook 00, and the notebook after, as Markdown."""
    course = sources()
    at = course.index(source) if source in course else 0
    links = [f"[← {p.stem[:2]}]({p.stem}.ipynb)" for p in course[max(0, at - 1) : at]]
    links.append(f"[map of the course]({course[0].stem}.ipynb#2.-The-map)")
    links += [f"[{p.stem[:2]} →]({p.stem}.ipynb)" for p in course[at + 1 : at + 2]]
    return " · ".join(links)


def is_outdated(copy: Path, source: Path) -> bool:
    """Return whether a learner's copy says that it was made from another version of its source."""
    try:
        return read_json(copy)["metadata"][_MADE_FROM] != sha256_of(source)
    except (InputError, KeyError, TypeError):
        return False


def _built(source: Path, version: str, folded: bool) -> "NotebookNode":
    """Return the notebook with the "solution" or the "stub" in each exercise, and with its navigation.

    folded : whether each solution also stands folded below its check
    """
    import nbformat

    notebook, cells, solution = read(source), [], None
    remaining = iter(exercises(notebook))
    links = " · ".join(filter(None, (navigation(source), hosting.badges(source))))
    for cell in notebook.cells:
        cells.append(cell)
        if len(cells) == 1:
            cells.append(nbformat.v4.new_markdown_cell(links))
        if solution is not None:  # this cell is the check
            if folded:
                cells.append(nbformat.v4.new_markdown_cell(solution))
            solution = None
        elif "exercise" in cell.metadata.get("tags", ()):
            exercise = next(remaining)
            cell.source = getattr(exercise, version)
            solution = (
                f"<details><summary>Solution</summary>\n\n```python\n{exercise.solution}\n```\n\n</details>"
            )
    notebook.cells = cells = [*cells, nbformat.v4.new_markdown_cell(navigation(source))]
    texts = [cell for cell in cells if cell.cell_type == "markdown"]
    stored = version == "solution"  # in notebooks/, next to docs/
    linked = glossary.link((c.source for c in texts), "../docs/glossary.md" if stored else "glossary.md")
    for cell, text in zip(texts, linked, strict=True):
        cell.source = text if stored else glossary.without_files(text)
    for i, cell in enumerate(cells):
        cell.id = f"{source.stem[:2]}-{i:03d}"  # the same in every build
        cell.metadata.pop("lines_to_next_cell", None)  # describes the layout of the source
    return notebook


def execute(notebook: "NotebookNode", folder: Path) -> None:
    """Run every cell in a fresh kernel, in `folder`; keep all outputs except those on stderr.

    Raises nbclient's CellExecutionError, CellTimeoutError or DeadKernelError if a cell fails.
    """
    from nbclient import NotebookClient

    NotebookClient(
        notebook,
        timeout=TIMEOUT_S,
        kernel_name="python3",
        resources={"metadata": {"path": str(folder)}},
        record_timing=False,
        coalesce_streams=True,
        extra_arguments=["--log-level=40"],  # errors only: the kernel warns about its own setup
    ).execute()
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [o for o in cell.outputs if o.output_type != "stream" or o.name == "stdout"]


def store(notebook: "NotebookNode", path: Path) -> None:
    """Write a notebook, completely or not at all."""
    import nbformat

    nbformat.validate(notebook)
    write_text(path, nbformat.writes(notebook) + "\n")


def put(path: Path, build: Callable[[Path], "NotebookNode"], source: Path, overwrite: bool) -> bool:
    """Write build(source); return False if the file exists and is kept. An overwritten one is renamed to
    NAME-before."""
    if keeps(path, overwrite):
        return False
    store(build(source), path)
    return True


def keeps(path: Path, overwrite: bool) -> bool:
    """Return whether a file exists and is kept. One that is to be replaced is renamed to NAME-before."""
    if path.exists():
        if not overwrite:
            return True
        path.replace(path.with_name(f"{path.stem}-before{path.suffix}"))
    path.parent.mkdir(parents=True, exist_ok=True)
    return False


def stored(source: Path) -> "NotebookNode":
    """Return the stored, executed notebook of a source. Raises InputError if there is none."""
    import nbformat

    with reading(source.with_suffix(".ipynb"), "a notebook; make it with `make notebooks`") as f:
        return nbformat.read(f, as_version=4)


def faults(built: "NotebookNode", stored: "NotebookNode") -> list[str]:
    """Return how a stored notebook differs from what its source gives: stale cells, missing outputs.

    built : the notebook made again from its source; if it was executed, its types of output are required
    """
    texts = ([c.source for c in notebook.cells] for notebook in (built, stored))
    at = next((i for i, (new, old) in enumerate(zip_longest(*texts)) if new != old), None)
    if at is not None:
        return [f"stale from cell {at} on; rebuild it with `make notebooks`"]
    result = []
    count = 0
    for i, (new, old) in enumerate(zip(built.cells, stored.cells, strict=True)):
        if old.cell_type != "code":
            continue
        count += 1
        if old.execution_count != count:
            result.append(f"cell {i} was not run in order")
        if any(o.output_type == "error" for o in old.outputs):
            result.append(f"cell {i} stores an error")
        if missing := _output_types(new) - _output_types(old):
            result.append(f"cell {i} stores no {', '.join(sorted(missing))}")
    return result


def _output_types(cell: "NotebookNode") -> set[str]:
    """Return the types of a cell's outputs: MIME types, stdout."""
    mime_types = {k for o in cell.outputs if "data" in o for k in o.data}
    return mime_types | {o.name for o in cell.outputs if o.output_type == "stream"}
