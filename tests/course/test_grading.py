"""Submitted notebooks are graded by our checks: classes, damaged files, and cheats that gain nothing."""

import csv
import json
from collections import Counter

import pytest
from helpers import submissions, tiny_checks
from helpers.submissions import HALF, THIRD, cell, notebook, stub, write

from minigam.config import InputError
from minigam.course import __main__ as command
from minigam.course import grading, sandbox
from minigam.course.sandbox import Limits, Verdict
from minigam.course.worker import FORKS

LIMITS = Limits(seconds=20)
RIGHT, WRONG = HALF.format("x / 2"), HALF.format("x + 0")
posix = pytest.mark.skipif(not FORKS, reason="needs limits of the system")


@pytest.fixture(autouse=True)
def tests_can_be_imported(monkeypatch):
    """By the processes of the answers, which use the tiny checks."""
    monkeypatch.setenv("PYTHONPATH", str(submissions.TESTS))


def graded(folder, limits=LIMITS, jobs=2):
    return {g.file: g for g in grading.grade(folder, limits, jobs, tiny_checks)}


def states(grade) -> list[str]:
    return [grade.verdicts[name].state for name in ("77_1", "77_2")]


def test_a_class_is_graded(tmp_path):
    """Three invented submissions, and a file that is none."""
    write(tmp_path / "ada" / "77_test.ipynb", notebook())
    write(tmp_path / "ben" / "77_test.ipynb", notebook(third=stub(THIRD)))
    mixed = notebook(half=WRONG, third="<<<<<<< mine\n" + THIRD)
    del mixed["cells"][-1]
    write(tmp_path / "=cleo.ipynb", mixed)
    (tmp_path / "dora.ipynb").write_text("{", encoding="utf-8")
    write(tmp_path / ".ipynb_checkpoints" / "ada.ipynb", notebook())
    grades = grading.grade(tmp_path, LIMITS, 2, tiny_checks)
    assert grading.table(grades, tiny_checks) == (
        "file,notebook,77.1,77.2,points,notes\n"
        "./=cleo.ipynb,77,failing,missing,0,77.1: x: this is x itself; 77.2: its check is not called\n"
        "ada/77_test.ipynb,77,solved,solved,2,\n"
        "ben/77_test.ipynb,77,solved,open,1,\n"
        "dora.ipynb,,,,,not a notebook: not JSON (Expecting property name enclosed in double quotes: "
        "line 1 column 2 (char 1))\n"
    )


def test_mangled_copies_are_graded_or_refused_in_one_line(tmp_path):
    ways = {}
    for seed in range(500):
        way, data = submissions.mangled(seed)
        path = tmp_path / f"{seed:03d}.ipynb"
        path.write_bytes(data)
        ways[path.name] = way
    grades = graded(tmp_path)
    assert list(grades) == sorted(ways)
    harmless = {way.__name__.strip("_") for way in submissions.HARMLESS}
    for file, grade in grades.items():
        if ways[file] in harmless:
            assert states(grade) == ["solved", "solved"], (file, ways[file], grade)
        for verdict in grade.verdicts.values():
            assert verdict.state in sandbox.STATES
            assert "\n" not in verdict.message and "Traceback" not in verdict.message
        assert (grade.reason == "") == bool(grade.verdicts)
        assert "\n" not in grade.reason
    seen = Counter(s for g in grades.values() for s in (states(g) if not g.reason else ["refused"]))
    assert {"solved", "error", "missing", "refused"} <= set(seen), seen
    rows = list(csv.reader(grading.table(list(grades.values()), tiny_checks).splitlines()))
    assert len(rows) == 501 and {len(row) for row in rows} == {6}


# Each runs in a learner's cell, as the body of a function. An answer that is wrong must stay so.
CHEATS = {
    "prints right": "print('Exercise 77.1: right (values).')",
    "another check": "globals()['check'] = type('check', (), {'ex_77_1': print})",
    "another judge": "from helpers import tiny_checks; tiny_checks.expect = lambda *a, **k: None",
    "another check in the package": "from helpers import tiny_checks; tiny_checks.ex_77_1 = print",
    "another code": "from minigam.course import judge\n"
    "    judge.expect.__code__ = (lambda *a, **k: None).__code__",
    "another function in the closure": "from helpers import tiny_checks\n"
    "    tiny_checks.ex_77_1.__closure__[0].cell_contents = print",
    "generous": "from minigam.course import judge; judge.TOLERANCE.update(f4=99, f8=99)",
    "another NumPy": "np.allclose = np.array_equal = lambda *a, **k: True",
    "another builtin": "import builtins; builtins.bool = lambda x=0: True",
    "another module": "import sys, types; sys.modules['minigam.course.judge'] = types.ModuleType('judge')",
    "reloaded": "import importlib, minigam.course.judge as j; j.NotYet = KeyError; importlib.reload(j)",
    "writes a verdict": "import os, json\n    for fd in range(3, 30):\n        try:\n"
    '            os.write(fd, b\'["verdict", "77_1", "solved", ""]\\n\')\n        except OSError: pass',
    "ends Python": "import os; os._exit(0)",
    "exits": "raise SystemExit(0)",
    "interrupts": "raise KeyboardInterrupt",
}


HARMLESS = ("prints right", "another check.", "writes a verdict")


def test_cheats_gain_nothing(tmp_path):
    """When the answer is defined, and when its check calls it. The exercise after it is graded too."""
    for name, code in CHEATS.items():
        body = f"def half(x):\n    {code}\n    return x + 0"
        write(tmp_path / f"called, {name}.ipynb", notebook(half=body))
        body = f"def prepare():\n    {code}\nhalf = prepare()\n{WRONG}"
        write(tmp_path / f"defined, {name}.ipynb", notebook(half=body))
        body = f"def half(x):\n    {code}\n    return x / 2"  # a right answer
        write(tmp_path / f"right, {name}.ipynb", notebook(half=body))
    grades = graded(tmp_path)
    assert len(grades) == 3 * len(CHEATS)
    for file, grade in grades.items():
        first, _ = states(grade)
        if file.startswith("right"):  # a cheat that changes nothing that counts does no harm either
            assert (first == "solved") == any(n in file for n in HARMLESS), file
        else:
            assert first in ("failing", "error"), file
        if file.startswith("defined"):
            assert states(grade)[1] == "solved", file
    changed = grades["called, another NumPy.ipynb"].verdicts["77_1"]
    assert changed == Verdict("error", "the answer changed numpy.allclose while it was checked")


def test_an_endless_loop_costs_its_exercise_alone(tmp_path):
    write(tmp_path / "answer.ipynb", notebook(half=HALF.format("[0 for _ in iter(int, 1)]")))
    write(tmp_path / "cell.ipynb", notebook(half=f"half = [0 for _ in iter(int, 1)]\n{RIGHT}"))
    grades = graded(tmp_path, Limits(seconds=2))
    assert states(grades["answer.ipynb"]) == ["error", "solved"]
    assert grades["answer.ipynb"].verdicts["77_1"].message == "took more than 2 s"
    assert states(grades["cell.ipynb"]) == ["solved", "solved"]


@posix
def test_memory_and_files_are_limited(tmp_path):
    write(tmp_path / "memory.ipynb", notebook(half=HALF.format("np.ones(2**40)")))
    body = "def half(x):\n    with open('big', 'wb') as f:\n        f.write(bytes(2**21))\n    return x / 2"
    write(tmp_path / "file.ipynb", notebook(half=body))
    here = "def half(x):\n    with open('small', 'w') as f: f.write('x')\n    return x / 2"
    write(tmp_path / "here.ipynb", notebook(half=here))
    grades = graded(tmp_path, Limits(seconds=20, memory_mib=1024, file_mib=1))
    assert states(grades["memory.ipynb"]) == ["failing", "solved"]
    assert "Unable to allocate" in grades["memory.ipynb"].verdicts["77_1"].message
    assert states(grades["file.ipynb"]) == ["failing", "solved"]
    assert "File too large" in grades["file.ipynb"].verdicts["77_1"].message
    assert states(grades["here.ipynb"]) == ["solved", "solved"]
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(grades), (
        "files go to a folder that is deleted"
    )


def test_a_check_in_another_statement_is_found(tmp_path):
    made = notebook()
    made["cells"][3] = cell("try:\n    check.ex_77_1(half)\nexcept AssertionError:\n    pass")
    made["cells"][6] = cell("from minigam import course\ncourse.check.ex_77_2(third=third)")
    write(tmp_path / "a.ipynb", made)
    made = notebook()
    made["cells"].append(cell("check.ex_77_9(half)"))
    write(tmp_path / "b.ipynb", made)
    write(tmp_path / "c.ipynb", notebook() | {"cells": [cell("check.ex_99_1(print)")]})
    grades = graded(tmp_path)
    assert states(grades["a.ipynb"]) == states(grades["b.ipynb"]) == ["solved", "solved"]
    assert grades["b.ipynb"].verdicts["77_9"].message == "there is no such exercise"
    assert grades["c.ipynb"].reason == "calls no check of an exercise, check.ex_NN_K(...)"


def test_only_what_the_answers_need_is_run(tmp_path):
    """An hour in a cell that no answer uses does not matter; a cell that changes what one uses does."""
    made = notebook(half="table = {}\ndef half(x):\n    return table['by'] * x")
    made["cells"].insert(3, cell("table['by'] = 0.5"))
    made["cells"].insert(2, cell("import time\ntime.sleep(3600)\nplot = half"))
    write(tmp_path / "a.ipynb", made)
    assert states(graded(tmp_path)["a.ipynb"]) == ["solved", "solved"]


@pytest.mark.parametrize(
    "half",
    [
        "def half(x):\n    if x is None:\n        raise ValueError('%s'\n            % x)\n    return x / 2",
        'note = """\n% not a magic\n! nor this\n"""\n%time 1 + 1\n' + RIGHT,
        "table = {}\ndef fill(t):\n    t['by'] = 2\nfill(table)\ndef half(x):\n    return x / table['by']",
        "class A:\n    pass\nsetattr(A, 'by', 2)\ndef half(x):\n    return x / A.by",
    ],
    ids=["% in Python", "magics", "a call fills a table", "setattr"],
)
def test_right_answers_in_unusual_forms_are_solved(half, tmp_path):
    write(tmp_path / "a.ipynb", notebook(half=half))
    assert states(graded(tmp_path)["a.ipynb"])[0] == "solved"


def test_without_fork_the_grades_are_the_same(tmp_path, monkeypatch):
    """As on Windows and macOS, where each notebook has a process of its own."""
    write(tmp_path / "a.ipynb", notebook(third=THIRD.format("x / 2")))
    write(tmp_path / "b.ipynb", notebook(half="half = [0 for _ in iter(int, 1)]"))
    forked = graded(tmp_path, Limits(seconds=3))
    monkeypatch.setattr(sandbox, "FORKS", False)
    assert graded(tmp_path, Limits(seconds=3)) == forked
    assert states(forked["a.ipynb"]) == ["solved", "failing"]


# ------------------------------------------------------------------------------------ the command


def test_the_command_grades_the_course(tmp_path, capsys):
    text = "import numpy as np\ndef scaled(x, token, channel):\n    return x * token[:, None] * channel"
    cells = [cell(text), cell("check.ex_00_1(scaled)")]
    write(tmp_path / "in" / "x.ipynb", notebook() | {"cells": cells})
    out = tmp_path / "out" / "grades.csv"
    assert command.main(["grade", str(tmp_path / "in"), "--csv", str(out)]) == 0
    assert capsys.readouterr().out == f"{out}: 1 notebooks graded, 0 refused\n"
    header, row = csv.reader(out.read_text(encoding="utf-8").splitlines())
    assert header == ["file", "notebook", "00.1", "00.2", "00.3", "points", "notes"]
    assert row[:6] == ["x.ipynb", "00", "solved", "missing", "missing", "1"]


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["nowhere"], "nowhere: no such folder"),
        (["."], "no notebooks"),
        ([".", "--jobs=0"], "--jobs is 0, wanted at least 1"),
        ([".", "--memory=1"], "--memory is 1, wanted at least 512"),
        ([".", "--csv=x.ipynb"], "wanted the name of a file, NAME.csv"),
    ],
)
def test_wrong_arguments_are_refused(flags, says, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=says):
        command.main(["grade", "--csv=g.csv", *flags])
    assert list(tmp_path.iterdir()) == []


def test_a_worker_that_cannot_start_is_no_fault_of_the_learner(tmp_path, monkeypatch):
    write(tmp_path / "a.ipynb", notebook())
    monkeypatch.setattr(sandbox, "READY", "never")
    with pytest.raises(RuntimeError, match="did not start"):
        graded(tmp_path)


def test_events_without_the_key_are_ignored():
    lines = [
        '["k", "at", 0, null]',
        '["x", "verdict", "77_1", "solved", ""]',
        "no JSON",
        "3",
        '["k"',
        '["k", 1]',
    ]
    assert list(sandbox._events("\n".join(lines), "k")) == [["at", 0, None], [1]]


def test_the_better_of_two_verdicts_counts():
    found = {}
    for state, message in (("open", ""), ("failing", "a"), ("failing", "b"), ("open", "c"), ("error", "d")):
        sandbox._keep(found, "77_1", Verdict(state, message))
    assert json.dumps(found) == '{"77_1": ["failing", "b"]}'
