"""What a teacher gets: an edition without solutions, one with them, and a guide that tells the truth."""

import json
import re
from collections import Counter

import pytest
from answers import messages

from minigam.config import InputError
from minigam.course import __main__ as command
from minigam.course import classroom, notebooks, overview
from minigam.files import read_json

pytest.importorskip("jupytext", reason="needs jupytext and nbclient (the group `test`)")
pytest.importorskip("nbclient", reason="needs jupytext and nbclient (the group `test`)")

SOURCES = notebooks.sources()


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    """All that the command writes."""
    folder = tmp_path_factory.mktemp("class")
    assert command.main(["class", "--out", str(folder)]) == 0
    return folder


def lines(text: str) -> Counter:
    """Return the lines of a text that are long enough to tell something, without their indent."""
    return Counter(line.strip() for line in text.splitlines() if len(line.strip()) > 12)


def texts(path) -> str:
    """Return the text of all cells of a notebook file."""
    return "\n\n".join("".join(c["source"]) for c in json.loads(path.read_text(encoding="utf-8"))["cells"])


def leaked(source, text: str) -> list[str]:
    """Return the lines of solutions that stand in a text more often than in the rest of the notebook."""
    read = notebooks.read(source)
    found = notebooks.exercises(read)
    solutions = sum((lines(e.solution) - lines(e.stub) for e in found), Counter())
    assert len(solutions) > 2
    rest, shown = lines("\n".join(c.source for c in read.cells)) - solutions, lines(text)
    return [line for line in solutions if shown[line] > rest[line]]


@pytest.mark.parametrize("source", SOURCES, ids=lambda p: p.stem)
def test_students_get_no_line_of_a_solution(source, out):
    path, found = out / "student" / f"{source.stem}.ipynb", notebooks.exercises(notebooks.read(source))
    text, raw = texts(path), path.read_text(encoding="utf-8")
    assert leaked(source, text) == []
    assert all(e.stub in text for e in found)
    for word in ("# SOLUTION", "# END", "<summary>Solution", "folded **solution**"):
        assert word not in raw
    assert raw.count("<summary>Hint</summary>") == len(found)


@pytest.mark.parametrize("source", SOURCES, ids=lambda p: p.stem)
def test_a_solution_that_leaks_is_noticed(source, out):
    """In a student's file with one more line, and in the answers."""
    text = texts(out / "student" / f"{source.stem}.ipynb")
    (first, *_) = leaked(source, texts(out / "answers" / f"{source.stem}.ipynb"))
    assert leaked(source, f"{text}\n{first}") == [first]


def test_students_get_notebooks_and_nothing_else(out):
    assert sorted(p.name for p in out.iterdir()) == ["answers", "guide.md", "student"]
    for edition in ("student", "answers"):
        names = sorted(p.name for p in (out / edition).iterdir())
        assert names == [*(f"{s.stem}.ipynb" for s in SOURCES), "glossary.md"]


@pytest.mark.parametrize("source", SOURCES, ids=lambda p: p.stem)
def test_answers_have_every_solution(source, out):
    text = texts(out / "answers" / f"{source.stem}.ipynb")
    for exercise in notebooks.exercises(notebooks.read(source)):
        assert text.count(exercise.solution) == 2  # in place, and folded


def test_the_guide_has_every_notebook_and_exercise(out):
    guide = (out / "guide.md").read_text(encoding="utf-8")
    for source, lesson in zip(SOURCES, overview.lessons(), strict=True):
        assert f"## {lesson.number} {lesson.title}\n\n{lesson.minutes} minutes." in guide
        for exercise in notebooks.exercises(notebooks.read(source)):
            title = re.escape(f"### Exercise {exercise.number.replace('_', '.')} ")
            assert re.search(rf"^{title}★[★☆]{{2}} \S.*\n\n\| wrong answer", guide, re.M), exercise.number
        assert lesson.goal[:60] in guide
    assert guide.count("**Objectives.** Afterwards the students can") == len(SOURCES)
    assert guide.count("### Questions for discussion") == len(SOURCES)


def test_the_guide_quotes_what_the_checks_say():
    """The stored messages are those of today: `python tests/course/answers` writes them again. Digits may
    differ between processors."""

    def without_digits(content: dict) -> dict:
        return json.loads(re.sub(r"-?\d[\d.]*(e[-+]?\d+)?", "0", json.dumps(content)))

    stored = read_json(classroom.MISTAKES)
    assert without_digits(stored) == without_digits(messages.all_of_them())
    assert all(len(stored[e.number]) >= 2 for s in SOURCES for e in notebooks.exercises(notebooks.read(s)))


def test_plans_name_notebooks_that_exist_and_what_they_leave_out():
    lessons = {n.number: n for n in overview.lessons()}
    for plan in (classroom.DAY, [n for session in classroom.WEEK for n in session]):
        assert set(plan) <= set(lessons)
        assert list(plan) == sorted(plan), "in the order of the course"
    text = "\n".join(classroom.plans(lessons))
    day, week, term = re.split(r"^### ", text, flags=re.M)[1:]
    assert "show their results first: 01 A tape in 100 lines; 02 Is my gradient right?." in day
    assert "leaves out" not in week + term
    assert week.count("\n| ") == 1 + len(classroom.WEEK)
    assert all(f"{n} {lesson.title}" in term for n, lesson in lessons.items())
    minutes = [int(m) for m in re.findall(r"\| (\d+) \|$", term, re.M)]
    assert max(minutes) <= classroom.SESSION and sum(minutes) == sum(n.minutes for n in lessons.values())


def test_questions_for_discussion_are_those_of_the_notebook():
    text = "# A\n\n## Think about it\n\n* Why?\n* When?\n\n## Next\n\nNo.\n"
    assert classroom.section(text, "Think about it") == "* Why?\n* When?"
    assert classroom.section("## Think about it\n1. Who?", "Think about it") == "1. Who?"
    assert classroom.section("## Think\n\nNo.", "Think about it") == ""


def test_existing_files_are_kept_or_renamed(out, capsys):
    guide = out / "guide.md"
    written = guide.read_text(encoding="utf-8")
    guide.write_text("mine", encoding="utf-8")
    assert command.main(["class", "--out", str(out)]) == 0
    assert f"0 files written, {2 * len(SOURCES) + 3} kept unchanged" in capsys.readouterr().out
    assert guide.read_text(encoding="utf-8") == "mine"
    assert not notebooks.keeps(guide, overwrite=True)
    guide.write_text(written, encoding="utf-8")
    assert (out / "guide-before.md").read_text(encoding="utf-8") == "mine", "nothing is lost"
    assert guide.read_text(encoding="utf-8") == written
    (out / "guide-before.md").unlink()


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="is not a writable folder"):
        command.main(["class", "--out", str(tmp_path / "file")])


def test_an_answer_without_its_outputs_is_written_all_the_same(tmp_path, monkeypatch):
    """Where the stored notebook is missing or stale."""
    source = tmp_path / SOURCES[0].name
    source.write_text(SOURCES[0].read_text(encoding="utf-8"), encoding="utf-8")
    built = notebooks.with_solutions(source)
    code = [c.source for c in built.cells if c.cell_type == "code"]
    without = classroom._answers(source)
    assert [c.source for c in without.cells if c.cell_type == "code"] == code
    built.cells[0].source = "stale"
    notebooks.store(built, source.with_suffix(".ipynb"))
    assert classroom._answers(source) == without
