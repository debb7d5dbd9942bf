"""The course at a glance: its notebooks, what each needs, and how long it takes. Notebook 00 shows it.

The minutes come from one model, `minutes`; `minigam course times --write` puts them into the notebooks and
the documents.
"""

import ast
import platform
import re
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

import minigam
from minigam.config import InputError
from minigam.course import PROJECT, in_clone, notebooks
from minigam.files import write_text
from minigam.viz.style import INK, finish, panels

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# The model of the time that a notebook takes: minutes for one of each. An assumption, not a measurement.
WORD, EQUATION, CODE_LINE, FIGURE = 1 / 180, 0.75, 0.1, 0.5
EXERCISE = {1: 5, 2: 12, 3: 25}  # by its number of stars
TIME = re.compile(r"(?<=\*\*Time\.\*\* )(\d+) minutes, (\d+) exercises")
NEEDED = ("matplotlib", "tqdm", "safetensors", "jupytext", "nbformat", "nbclient")


@dataclass(frozen=True)
class Lesson:
    """A notebook as its first cell presents it. needs: the numbers of earlier notebooks it builds on."""

    number: str
    title: str
    file: str
    goal: str
    minutes: int
    exercises: int
    needs: tuple[str, ...]


def lessons() -> list[Lesson]:
    """Return what the first cell of every notebook says, in order."""
    return [_lesson(source) for source in notebooks.sources()]


def _lesson(source: Path) -> Lesson:
    number, first = source.stem[:2], source.read_text(encoding="utf-8").split("# %%")[1]
    text = re.sub(r"^# ?", "", first, flags=re.M)
    title = re.search(r"^# \d\d · (.*)", text, re.M)
    goal = re.search(r"\*\*Goal\.\*\* (.*?[.!?])(?:\s|$)", text, re.S)
    time, needs = TIME.search(text), re.search(r"\*\*Needs\*\*([^.;]*)", text)  # after ; is what helps
    if title is None or goal is None or time is None:
        raise ValueError(f"{source.name}: the first cell needs a title, **Goal.** and **Time.**")
    earlier = tuple(sorted(n for n in re.findall(r"\b\d\d\b", needs[1] if needs else "") if n < number))
    file, goal_line = f"{source.stem}.ipynb", " ".join(goal[1].split())
    return Lesson(number, title[1], file, goal_line, int(time[1]), int(time[2]), earlier)


def table() -> str:
    """Return the course as a Markdown table, with the total of hours and exercises below it."""
    rows = ["| | notebook | what you will do | minutes | exercises | needs |", "|-|-|-|-|-|-|"]
    course = lessons()
    for n in course:
        needs = ", ".join(n.needs)
        rows.append(
            f"| {n.number} | [{n.title}]({n.file}) | {n.goal} | {n.minutes} | {n.exercises} | {needs} |"
        )
    hours, count = sum(n.minutes for n in course) / 60, sum(n.exercises for n in course)
    return "\n".join([*rows, "", f"{hours:.0f} hours and {count} exercises in all."])


def needs_plot() -> "Figure":
    """Draw the notebooks as numbered circles, with an arrow from each to those that need it."""
    needs = {n.number: set(n.needs) for n in lessons()}
    for number, direct in needs.items():  # in order, so those before it are complete
        needs[number] = direct.union(*(needs[m] for m in direct))
    column: dict[str, int] = {}
    for number, before in needs.items():  # one column to the right of all that it needs
        column[number] = 1 + max((column[m] for m in before), default=-1)
    place: dict[str, tuple[float, float]] = {}
    for k in range(max(column.values()) + 1):
        members = [n for n in column if column[n] == k]
        place |= {n: (k, (len(members) - 1) / 2 - i) for i, n in enumerate(members)}
    figure, axes = panels(size=(9.0, 3.6))
    arrow = {"arrowstyle": "->", "color": INK, "shrinkA": 14, "shrinkB": 14}
    for number, before in needs.items():
        for m in before.difference(*(needs[k] for k in before)):  # unless a longer way leads there
            bow = arrow | {"connectionstyle": "arc3,rad=-0.12"}
            axes.annotate("", place[number], place[m], arrowprops=bow)
        circle = {"boxstyle": "circle", "facecolor": "none", "edgecolor": INK}
        axes.text(*place[number], number, ha="center", va="center", bbox=circle)
    height = max(abs(y) for _, y in place.values()) + 0.8
    axes.set(xlim=(-0.5, max(column.values()) + 0.5), ylim=(-height, height))
    axes.axis("off")
    return finish(figure)


def minutes(source: Path) -> int:
    """Return how long a notebook takes: reading, equations, code, figures and exercises, to 5 minutes.

    Solutions and hints are not counted: an exercise has a time of its own, by its stars.
    """
    notebook = notebooks.read(source)
    texts = [c.source for c in notebook.cells if c.cell_type == "markdown"]
    text = re.sub(r"<details>.*?</details>", "", "\n".join(texts), flags=re.S)
    words = len(re.sub(r"\$\$.*?\$\$", "", text, flags=re.S).split())
    total = WORD * words + EQUATION * len(re.findall(r"\$\$.*?\$\$", text, re.S))
    for cell in notebook.cells:
        if cell.cell_type == "code" and "exercise" not in cell.metadata.get("tags", ()):
            total += CODE_LINE * len(ast.unparse(ast.parse(cell.source)).splitlines())
            total += FIGURE * len(re.findall(r"^\s*show\(", cell.source, re.M))
    stars = re.findall(r"^### Exercise \d\d\.\d (★+)", text, re.M)
    return 5 * round((total + sum(EXERCISE[len(s)] for s in stars)) / 5)


def write_times() -> int:
    """Write the minutes of every notebook into its source and docs/course.md, and the hours there, in
    README.md and in paper/paper.md; return the total in minutes."""
    total, course = 0, in_clone(PROJECT / "docs" / "course.md")
    for source in notebooks.sources():
        spent = minutes(source)
        total += spent
        _replace(source, TIME, rf"{spent} minutes, \2 exercises")
        row = rf"(?<=^\| )(\[{source.stem[:2]} · .*?\) \|) \d+ min"
        _replace(course, re.compile(row, re.M), rf"\1 {spent} min")
    for path in (course, PROJECT / "README.md", PROJECT / "paper" / "paper.md"):
        _replace(path, re.compile(r"(about|planned for) \d+ hours"), rf"\1 {total / 60:.0f} hours")
    return total


def _replace(path: Path, pattern: re.Pattern, by: str) -> None:
    """Replace the first match in a file. Raises InputError if there is none."""
    text, count = pattern.subn(by, path.read_text(encoding="utf-8"), count=1)
    if not count:
        raise InputError(f"{path}: no {pattern.pattern!r}; put it there, the minutes go into it")
    write_text(path, text)


def machine() -> str:
    """Return whether this machine is ready for the course, one line for each thing."""
    version, built = platform.python_version(), np.show_config(mode="dicts")
    blas = built.get("Build Dependencies", {}).get("blas", {})
    missing = [name for name in NEEDED if find_spec(name) is None]
    return "\n".join([
        f"Python   {version}",
        f"minigam  {minigam.__version__}",
        f"NumPy    {np.__version__}",
        f"BLAS     {blas.get('name', 'unknown')} {blas.get('version', '')} (multiplies matrices)",
        f"missing: {', '.join(missing)}; install them with pip install 'minigam[notebooks]'" if missing
        else "All packages are here.",
    ])  # fmt: skip
