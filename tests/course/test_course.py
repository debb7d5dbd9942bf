"""The course: its notebooks run and are stored as they ran, and its checks tell right from wrong."""

import ast
import functools
import re
import types
from importlib import import_module
from pathlib import Path

import answers
import numpy as np
import pytest

from minigam.course import check, notebooks
from minigam.course.judge import NotYet
from minigam.engine.compiled import kernels
from minigam.engine.tensor import Tensor

pytest.importorskip("jupytext", reason="needs jupytext and nbclient (the group `test`)")
pytest.importorskip("nbclient", reason="needs jupytext and nbclient (the group `test`)")

SOURCES = notebooks.sources()
each_notebook = pytest.mark.parametrize("source", SOURCES, ids=lambda p: p.stem)

for module in sorted(Path(answers.__file__).parent.glob("nb*.py")):
    import_module(f"answers.{module.stem}")


@pytest.fixture(scope="module")
def read():
    """Read a source once."""
    known: dict = {}
    return lambda source: known.setdefault(source, notebooks.read(source))


EXERCISES = [(s, i) for s in SOURCES for i in range(len(notebooks.exercises(notebooks.read(s))))]
each_exercise = pytest.mark.parametrize("at", EXERCISES, ids=lambda at: f"{at[0].stem[:2]}_{at[1] + 1}")


def namespace(notebook, number: int, stub: bool) -> tuple[notebooks.Exercise, dict]:
    """Run the setup and the exercises up to one, the last with its stub or its solution."""
    found, names = notebooks.exercises(notebook), {}
    exec(notebooks.setup(notebook), names)
    for exercise in found[:number]:
        exec(exercise.solution, names)
    exec(found[number].stub if stub else found[number].solution, names)
    return found[number], names


def judge(exercise: notebooks.Exercise, names: dict, change=lambda answer: answer) -> None:
    """Check the answers to an exercise, each changed first."""
    answers = eval(f"({exercise.answer},)", names)
    getattr(check, f"ex_{exercise.number}")(*map(change, answers))


# ------------------------------------------------------------------------------- the notebooks


@each_notebook
def test_a_notebook_is_stored_as_it_runs(source):
    """Every cell again, in a fresh kernel: no error, no stale cell, no missing output."""
    if source.stem.startswith("15") and kernels.in_use() == "reference":
        pytest.skip("notebook 15 prints the C kernels, and no C compiler can be used here")
    notebook = notebooks.with_solutions(source)
    notebooks.execute(notebook, source.parent)
    assert notebooks.faults(notebook, notebooks.stored(source)) == []


@each_notebook
def test_a_notebook_says_its_goal_and_its_time(source, read):
    first = read(source).cells[0].source
    assert first.startswith(f"# {source.stem[:2]} · ")
    assert "**Goal.**" in first
    assert re.search(r"\*\*Time\.\*\* \d+ minutes, [3-6] exercises", first)


@each_notebook
def test_an_equation_has_a_twin_that_asserts(source, read):
    """The next code cell asserts, or is the reader's own to write, and its check asserts."""
    cells = read(source).cells
    for i, cell in enumerate(cells):
        if cell.cell_type == "markdown" and "$$" in cell.source:
            twin = next(c for c in cells[i + 1 :] if c.cell_type == "code")
            asserts = any(isinstance(node, ast.Assert) for node in ast.walk(ast.parse(twin.source)))
            own = "exercise" in twin.metadata.get("tags", ())
            assert asserts or own, f"no assertion after {cell.source[-200:]}"


@each_notebook
def test_exercises_have_a_mark_a_hint_and_a_number(source, read):
    notebook = read(source)
    found = notebooks.exercises(notebook)
    assert 3 <= len(found) <= 6
    text = "\n".join(c.source for c in notebook.cells if c.cell_type == "markdown")
    for k, exercise in enumerate(found, 1):
        assert exercise.number == f"{source.stem[:2]}_{k}"
        assert re.search(rf"^### Exercise {source.stem[:2]}\.{k} (★☆☆|★★☆|★★★) ", text, re.M)
    assert text.count("<details><summary>Hint</summary>") == len(found)
    assert text.count("</details>") == len(found)


@each_notebook
def test_figures_say_what_they_show(source):
    shown = 0
    for cell in notebooks.stored(source).cells:
        for output in cell.get("outputs", ()):
            for kind in (k for k in output.get("data", ()) if k.startswith("image/")):
                assert len(output["metadata"][kind]["alt"]) > 20, f"a figure of {cell.source}"
                shown += 1
    assert shown > 0


@each_notebook
def test_the_learners_copy_has_gaps_and_folded_solutions(source, read):
    copy, found = notebooks.for_learners(source), notebooks.exercises(read(source))
    cells = [c.source for c in copy.cells]
    for exercise in found:
        assert exercise.stub in cells
        assert exercise.solution not in cells
    folded = [c for c in cells if c.startswith("<details><summary>Solution</summary>")]
    assert len(folded) == len(found)
    assert all(e.solution in text for e, text in zip(found, folded, strict=True))
    code = "\n".join(c.source for c in copy.cells if c.cell_type == "code")
    assert "# SOLUTION" not in code
    assert "# END" not in code


# ------------------------------------------------------------------------------- the checks


@each_exercise
def test_the_solution_is_right(at, read, capsys):
    exercise, names = namespace(read(at[0]), at[1], stub=False)
    judge(exercise, names)
    assert capsys.readouterr().out.startswith(f"Exercise {exercise.number.replace('_', '.')}: right (")


@each_exercise
def test_the_stub_fails_kindly(at, read):
    exercise, names = namespace(read(at[0]), at[1], stub=True)
    with pytest.raises(NotYet, match=r"^Exercise \d\d\.\d: .*still to be written"):
        judge(exercise, names)


@each_exercise
@pytest.mark.parametrize("as_what", ["float32", "float32 inside", "list", "Tensor"])
def test_right_values_of_another_type_are_told_so(at, as_what, read):
    """So that no later cell fails with an answer that its check has accepted.

    float32 inside: the answer is float64, but has the accuracy of float32.
    """
    changed = []

    def changing(z):
        if isinstance(z, tuple) or (isinstance(z, list) and not changed):
            return type(z)(map(changing, z))
        if isinstance(z, dict):
            return {k: changing(v) for k, v in z.items()}
        if isinstance(z, types.FunctionType):
            return functools.wraps(z)(lambda *a, **s: changing(z(*a, **s)))
        if isinstance(z, np.ndarray) and z.dtype == np.float64 and z.ndim:
            single = z.astype(np.float32)
            if as_what != "float32 inside":
                changed.append(z.shape)
                return {"list": z.tolist(), "Tensor": Tensor(z), "float32": single}[as_what]
            if (single != z).any():  # what float32 holds exactly, such as 0.5, loses nothing
                changed.append(z.shape)
            return single.astype(np.float64)
        return z

    exercise, names = namespace(read(at[0]), at[1], stub=False)
    try:
        judge(exercise, names, changing)
    except NotYet as e:
        assert changed, e
    else:
        assert not changed, f"{exercise.number} accepts {as_what}: {changed[:3]}"


@each_exercise
def test_there_are_wrong_answers(at):
    number = f"{at[0].stem[:2]}_{at[1] + 1}"
    assert sum(w.number == number for w in answers.WRONG) >= 2


@pytest.mark.parametrize(
    "wrong", answers.WRONG, ids=lambda w: f"{w.number}-{getattr(w.answers[0], '__name__', 'value')}"
)
def test_a_wrong_answer_is_told_its_mistake(wrong):
    with pytest.raises(NotYet, match=re.escape(wrong.says)):
        getattr(check, f"ex_{wrong.number}")(*wrong.answers)


def test_the_stored_map_shows_every_notebook():
    """Notebook 00 reads the others, so it is stale when one of them has changed."""
    (table,) = [
        o["data"]["text/markdown"]
        for c in notebooks.stored(SOURCES[0]).cells
        for o in c.get("outputs", ())
        if "text/markdown" in o.get("data", ())
    ]
    for source in SOURCES:
        first = source.read_text(encoding="utf-8").split("# %%")[1]
        (title,), (minutes,) = (
            re.findall(r"^# # \d\d · (.+)$", first, re.M),
            re.findall(r"\d+(?= minutes)", first),
        )
        assert re.search(rf"{re.escape(title)}\]\({source.stem}\.ipynb\).*\| {minutes} \|", table), (
            source.stem
        )


def test_every_check_has_its_exercise(read):
    numbered = {f"ex_{e.number}" for s in SOURCES for e in notebooks.exercises(read(s))}
    assert set(dir(check)) == numbered
