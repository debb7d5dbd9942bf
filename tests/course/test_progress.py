"""`minigam course status` says what the checks say of a learner's copies."""

import csv
import json

import pytest
from helpers import submissions, tiny_checks
from helpers.submissions import HALF, THIRD, notebook, stub, write

from minigam import course
from minigam.config import InputError
from minigam.course import __main__ as command
from minigam.course import notebooks, progress, sandbox
from minigam.course.sandbox import Limits, Verdict

pytest.importorskip("jupytext", reason="needs jupytext and nbclient (the group `test`)")

SOURCES = notebooks.sources()
LIMITS = Limits(seconds=20)


@pytest.fixture(autouse=True)
def tests_can_be_imported(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(submissions.TESTS))


def tiny(folder, *numbers):
    return progress.progress(folder, list(numbers), LIMITS, tiny_checks)


def test_each_exercise_is_solved_open_failing_or_missing(tmp_path):
    path = write(tmp_path / "77_test.ipynb", notebook(half=HALF.format("x"), third=stub(THIRD)))
    (result,) = tiny(tmp_path)
    assert result.verdicts["77.1"] == Verdict("failing", "x: this is x itself")
    assert result.verdicts["77.2"].state == "open"
    assert progress.report([result]) == (
        f"{'77 A test':<50}0 of 2 solved, 1 open, 1 failing: 77.1 x: this is x itself\n"
        f"Next: exercise 77.1 in {path}"
    )
    changed = notebook(third="third = 1 +")
    del changed["cells"][3]
    write(path, changed)
    (result,) = tiny(tmp_path, "77")
    assert result.verdicts["77.1"].state == "missing"
    assert result.verdicts["77.2"].message.startswith("name 'third' is not defined")
    assert "0 of 2 solved, 1 failing, 1 missing: 77.2" in progress.report([result])


def test_the_end_says_what_comes_next(tmp_path):
    write(tmp_path / "77_test.ipynb", notebook())
    write(tmp_path / "77_test-before.ipynb", notebook(half=stub(HALF)))
    assert progress.report(tiny(tmp_path)).endswith("2 of 2 solved\nAll solved.")
    (tmp_path / "77_test.ipynb").write_text("{", encoding="utf-8")
    report = progress.report(tiny(tmp_path))
    assert "not a notebook" in report and report.endswith("\nNext: notebook 77")
    (tmp_path / "77_test.ipynb").unlink()
    assert progress.report(tiny(tmp_path)) == (
        "no copy: 77; `minigam course exercises` writes them\nNext: notebook 77"
    )


def test_the_line_of_an_answer_that_fails_is_quoted(tmp_path):
    write(tmp_path / "77_test.ipynb", notebook(half=HALF.format("x / nothing")))
    (result,) = tiny(tmp_path)
    assert result.verdicts["77.1"].message.endswith("in the line: return x / nothing")


@pytest.mark.parametrize("build", [notebooks.with_solutions, notebooks.for_learners])
def test_the_whole_course_is_solved_or_open(build, tmp_path):
    """With only those statements that the answers need; in the learner's copies nothing is solved."""
    for source in SOURCES:
        notebooks.store(build(source), tmp_path / f"{source.stem}.ipynb")
    results = progress.progress(tmp_path, [], Limits())
    state = "solved" if build is notebooks.with_solutions else "open"
    assert [r.number for r in results] == [s.stem[:2] for s in SOURCES]
    for source, result in zip(SOURCES, results, strict=True):
        wanted = [e.number.replace("_", ".") for e in notebooks.exercises(notebooks.read(source))]
        assert list(result.verdicts) == wanted
        assert {v.state for v in result.verdicts.values()} == {state}, result.line()
        assert f"{result.number} · {result.title}" in source.read_text(encoding="utf-8")
    assert (progress.report(results).splitlines()[-1] == "All solved.") == (state == "solved")


def test_the_checks_know_every_exercise():
    numbered = {s.stem[:2]: [e.number for e in notebooks.exercises(notebooks.read(s))] for s in SOURCES}
    assert sandbox.exercises() == numbered


def test_the_command_prints_text_json_or_csv(tmp_path, capsys):
    cells = [submissions.cell("def scaled(x, token, channel):\n    return x * token[:, None] * channel"),
             submissions.cell("check.ex_00_1(scaled)")]  # fmt: skip
    path = write(tmp_path / "00_x.ipynb", notebook() | {"cells": cells})
    flags = ["status", "0", "--folder", str(tmp_path)]
    assert command.main(flags) == 0
    assert "1 of 3 solved, 2 missing" in capsys.readouterr().out
    assert command.main([*flags, "--json"]) == 0
    (result,) = json.loads(capsys.readouterr().out)
    assert (result["notebook"], result["file"]) == ("00", str(path))
    assert result["exercises"]["00.1"] == {"state": "solved", "message": ""}
    assert command.main([*flags, "--csv"]) == 0
    rows = list(csv.reader(capsys.readouterr().out.splitlines()))
    assert [row[:2] for row in rows] == [
        ["exercise", "state"], ["00.1", "solved"], ["00.2", "missing"], ["00.3", "missing"]]  # fmt: skip


def test_wrong_arguments_are_refused(tmp_path):
    for flags, says in (
        (["99"], "notebook '99': does not exist, wanted one of 00"),
        (["--folder", str(tmp_path / "no")], "no such folder; write your copies with"),
        (["--seconds=0"], "--seconds is 0, wanted at least 1"),
        (["--seconds=86401"], "--seconds is 86401, wanted at most 86400"),
    ):
        with pytest.raises(InputError, match=says):
            command.main(["status", *flags])


def test_the_default_folder_is_that_of_the_exercises(tmp_path, monkeypatch):
    assert notebooks.learners_folder() == notebooks.FOLDER / "exercises"
    monkeypatch.setattr(course, "PROJECT", tmp_path)
    assert str(notebooks.learners_folder()) == "minigam-course"
