"""What a teacher needs: the notebooks without solutions, those with solutions, and a guide made from both."""

import argparse
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tqdm import tqdm

from minigam import cli
from minigam.course import glossary, notebooks, overview
from minigam.course.overview import Lesson
from minigam.files import read_json, write_text

MISTAKES = Path(__file__).parent / "mistakes.json"  # made by tests/course/answers/__main__.py
DAY = ("00", "04", "05", "06", "07")
WEEK = (("00", "01"), ("02", "04"), ("05", "06"), ("07", "08"), ("09", "14"))
SESSION = 150  # minutes of a session in a term, at most

INTRODUCTION = """# Teacher's guide

`student` has the notebooks with gaps, hints and checks, without solutions. `answers` has them with solutions.
The students install minigam, and the package contains all solutions. So these exercises are for learning; a
mark needs something else as well, such as a conversation about an answer.

A student sees at once whether an answer is right, and `minigam course status --folder FOLDER` lists what is
solved. `minigam course grade FOLDER --csv grades.csv` runs the same checks on the notebooks that you collect.

The minutes are estimated from the length of the text, the code, the figures and the exercises, not measured.
"""


def guide() -> str:
    """Return the teacher's guide as Markdown: three plans, then a chapter for each notebook."""
    lessons = overview.lessons()
    mistakes = read_json(MISTAKES, remedy="install minigam again")
    chapters = [_chapter(lesson, source, mistakes)
                for lesson, source in zip(lessons, notebooks.sources(), strict=True)]  # fmt: skip
    return "\n".join([INTRODUCTION, *plans({n.number: n for n in lessons}), *chapters])


def plans(lessons: dict[str, Lesson]) -> list[str]:
    """Return three ways to teach the course as Markdown lines."""
    term: list[list[str]] = []
    for number, lesson in lessons.items():
        spent = sum(lessons[n].minutes for n in term[-1]) if term else SESSION
        if spent + lesson.minutes > SESSION:
            term.append([])
        term[-1].append(number)
    lines = ["## Three ways to teach it", ""]
    for title, sessions in (
        ("One long day", [[n] for n in DAY]),
        ("A week of five sessions", [list(session) for session in WEEK]),
        (f"A term: everything, in {len(term)} sessions of at most {SESSION} minutes", term),
    ):
        sessions = [[n for n in session if n in lessons] for session in sessions]
        lines += [f"### {title}", "", "| session | notebooks | minutes |", "|-|-|-|"]
        for i, session in enumerate(sessions, 1):
            names = "; ".join(f"{n} {lessons[n].title}" for n in session)
            lines.append(f"| {i} | {names} | {sum(lessons[n].minutes for n in session)} |")
        taught = [n for session in sessions for n in session]
        total = sum(lessons[n].minutes for n in taught)
        lines += ["", f"{total / 60:.1f} hours in all."]
        if assumed := sorted({m for n in taught for m in lessons[n].needs} - set(taught)):
            names = "; ".join(f"{n} {lessons[n].title}" for n in assumed)
            lines.append(f"It builds on notebooks that it leaves out; show their results first: {names}.")
        lines.append("")
    return lines


def _chapter(lesson: Lesson, source: Path, mistakes: dict) -> str:
    texts = [c.source for c in notebooks.read(source).cells if c.cell_type == "markdown"]
    text = "\n\n".join(texts)
    needs = f" Needs {', '.join(lesson.needs)}." if lesson.needs else ""
    lines = [f"## {lesson.number} {lesson.title}", "", f"{lesson.minutes} minutes.{needs}", "",
             f"**Goal.** {lesson.goal}", ""]  # fmt: skip
    if objectives := section(text, "What you can do now"):
        lines += [objectives.replace("You can", "**Objectives.** Afterwards the students can", 1), ""]
    for number, stars, title in re.findall(r"^### Exercise (\d\d\.\d+) (★+☆*) (.*)", text, re.M):
        lines += [f"### Exercise {number} {stars} {title}", ""]
        if wrong := mistakes.get(number.replace(".", "_")):
            lines += ["| wrong answer | its check says |", "|-|-|"]
            lines += [f"| {_cell(w['answer'])} | {_cell(w['message'])} |" for w in wrong]
            lines.append("")
    if questions := section(text, "Think about it"):
        lines += ["### Questions for discussion", "", questions, ""]
    return "\n".join(lines)


def section(text: str, heading: str) -> str:
    """Return a section of a notebook's text, without its heading; empty if there is none."""
    found = re.search(rf"^## {heading}[^\n]*\n(.*?)(?=^##? |\Z)", text, re.M | re.S)
    return found[1].strip() if found else ""


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*").replace("_", "\\_")


def write(out: Path, overwrite: bool) -> tuple[int, int]:
    """Write both editions and the guide; return how many files were written, and how many kept."""
    written: list[tuple[Path, Callable[[Path], None]]] = []
    for source in notebooks.sources():
        name = f"{source.stem}.ipynb"
        written += [(out / "student" / name, _storing(notebooks.for_students, source)),
                    (out / "answers" / name, _storing(_answers, source))]  # fmt: skip
    for folder in ("student", "answers"):
        written.append((out / folder / glossary.FILE.name, glossary.copy))
    written.append((out / "guide.md", lambda path: write_text(path, guide())))
    bar = tqdm(written, unit="file", disable=None, leave=False, delay=2)
    done = 0
    for path, make in bar:
        if not notebooks.keeps(path, overwrite):
            make(path)
            done += 1
    return done, len(written) - done


def _storing(build: Callable, source: Path) -> Callable[[Path], None]:
    return lambda path: notebooks.store(build(source), path)


def _answers(source: Path) -> Any:
    """Return the notebook with its solutions, and with its outputs if the stored one is up to date."""
    built = notebooks.with_solutions(source)
    if source.with_suffix(".ipynb").is_file():
        stored = notebooks.stored(source)
        built = built if notebooks.faults(built, stored) else stored
    for cell in built.cells:
        if cell.cell_type == "markdown":  # the copy stands in another folder, with the glossary next to it
            cell.source = glossary.without_files(cell.source.replace("../docs/glossary.md", "glossary.md"))
    return built


def add_command(commands: Any) -> None:
    """Add `minigam course class`."""
    what = "write the notebooks without solutions, those with solutions, and a teacher's guide"
    p = commands.add_parser("class", help=what, description=cli.sentence(what))
    p.add_argument("--out", type=Path, required=True,
                   help="folder to write, with student, answers and guide.md in it")  # fmt: skip
    p.add_argument("--overwrite", action="store_true",
                   help="replace existing files, and rename them to NAME-before (default: keep)")  # fmt: skip
    p.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Write what a teacher needs."""
    cli.require_folder(args.out)
    written, kept = write(args.out, args.overwrite)
    print(f"{args.out}: {written} files written, {kept} kept unchanged")
    return 0
