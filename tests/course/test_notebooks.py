"""How notebooks are made from their sources: solutions, stubs, stored files, and faults that are found."""

import json
import signal

import pytest

from minigam import course
from minigam.config import DataConfig, InputError
from minigam.course import __main__ as command
from minigam.course import notebooks
from minigam.training.run import Run

pytest.importorskip("jupytext", reason="needs jupytext and nbclient (the group `test`)")
pytest.importorskip("nbclient", reason="needs jupytext and nbclient (the group `test`)")
import nbformat

SMALL = {
    "block_size": 128, "d_model": 4, "n_layers": 1, "n_slots": 2,
    "steps": 3, "batch_size": 2, "warmup_steps": 1,
}  # fmt: skip
SOURCE = '''# %% [markdown]
# # 77 · A test

# %% tags=["setup"]
import math

# %% tags=["exercise"]
def half(x):
    """Return half of x."""
    # SOLUTION
    y = x / 2
    return y
    # END


# %%
check.ex_77_1(half)

# %% tags=["exercise"]
def third(x):
    # SOLUTION
    return x / 3
    # END


# %%
check.ex_77_2(third, half)
'''


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "77_test.py"
    path.write_text(SOURCE, encoding="utf-8")
    return path


def codes(notebook) -> list[str]:
    return [c.source for c in notebook.cells if c.cell_type == "code"]


def test_exercises_are_found_with_both_of_their_cells(source):
    first, second = notebooks.exercises(notebooks.read(source))
    assert (first.number, first.answer) == ("77_1", "half")
    assert first.solution.endswith('"""Return half of x."""\n    y = x / 2\n    return y')
    assert first.stub.endswith(f'"""Return half of x."""\n    {notebooks.STUB}')
    assert (second.number, second.answer) == ("77_2", "third, half")


def test_a_solution_is_folded_below_its_check(source):
    for built, cell in (
        (notebooks.with_solutions(source), "solution"),
        (notebooks.for_learners(source), "stub"),
    ):
        sources = [c.source for c in built.cells]
        exercise = notebooks.exercises(notebooks.read(source))[0]
        at = sources.index("check.ex_77_1(half)")
        assert sources[at - 1] == getattr(exercise, cell)
        assert f"```python\n{exercise.solution}\n```" in sources[at + 1]
        assert built.cells[at + 1].cell_type == "markdown"


def test_equal_sources_make_equal_files(source):
    first, second = (nbformat.writes(notebooks.for_learners(source)) for _ in range(2))
    assert first == second


def test_an_exercise_without_its_check_is_refused(source):
    source.write_text(SOURCE.replace("check.ex_77_1(half)", "half(2)"), encoding="utf-8")
    with pytest.raises(InputError, match="needs # SOLUTION, # END and its check"):
        notebooks.exercises(notebooks.read(source))


@pytest.fixture
def executed():
    """A stored notebook, made without a kernel: two cells that were run."""

    def make():
        cells = [
            nbformat.v4.new_code_cell(code, execution_count=i)
            for i, code in enumerate(("1 + 1", "print(2)"), 1)
        ]
        cells[0].outputs = [nbformat.v4.new_output("execute_result", {"text/plain": "2"}, execution_count=1)]
        cells[1].outputs = [nbformat.v4.new_output("stream", name="stdout", text="2\n")]
        return nbformat.v4.new_notebook(cells=cells)

    return make


def test_a_stored_notebook_equal_to_its_run_has_no_fault(executed):
    assert notebooks.faults(executed(), executed()) == []


def changed(notebook, change: str):
    first, second = notebook.cells
    if change == "stale":
        second.source = "print(3)"
    elif change == "shorter":
        del notebook.cells[1]
    elif change == "not run":
        second.execution_count = None
    elif change == "out of order":
        second.execution_count = 7
    elif change == "no result":
        first.outputs = []
    elif change == "nothing printed":
        second.outputs = []
    elif change == "an error":
        second.outputs = [nbformat.v4.new_output("error", ename="E", evalue="", traceback=[])]
    return notebook


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("stale", "stale from cell 1 on"),
        ("shorter", "stale from cell 1 on"),
        ("not run", "cell 1 was not run in order"),
        ("out of order", "cell 1 was not run in order"),
        ("no result", "cell 0 stores no text/plain"),
        ("nothing printed", "cell 1 stores no stdout"),
        ("an error", "cell 1 stores an error"),
    ],
)
def test_faults_of_a_stored_notebook_are_found(executed, change, says):
    assert says in " ".join(notebooks.faults(executed(), changed(executed(), change)))


# ------------------------------------------------------------------------------- the commands


@pytest.fixture
def project(source, monkeypatch):
    monkeypatch.setattr(notebooks, "FOLDER", source.parent)
    return source.parent


def test_build_stores_an_executed_notebook(project, source, capsys):
    check = "class check:\n    ex_77_1 = ex_77_2 = staticmethod(print)"
    text = SOURCE.replace("import math", check).replace("ex_77_1(half)", "ex_77_1(half(4))")
    source.write_text(text, encoding="utf-8")
    assert command.main(["build", "77"]) == 0
    stored = notebooks.stored(source)
    printed = [o.text for c in stored.cells if c.cell_type == "code" for o in c.outputs]
    assert printed[0] == "2.0\n"
    again = notebooks.with_solutions(source)
    notebooks.execute(again, project)
    assert notebooks.faults(again, stored) == []


def test_a_notebook_that_fails_is_not_stored(project, source):
    with pytest.raises(InputError, match="a cell failed, nothing was written"):
        command.main(["build", "77"])  # it does not define `check`
    assert not source.with_suffix(".ipynb").exists()


def test_copies_with_answers_are_kept(project, source, tmp_path, capsys):
    out = tmp_path / "copies"
    assert command.main(["exercises", "--out", str(out)]) == 0
    (copy,) = out.iterdir()
    assert notebooks.STUB in json.loads(copy.read_text(encoding="utf-8"))["cells"][2]["source"][-1]
    source.write_text(source.read_text(encoding="utf-8") + "\n", encoding="utf-8")
    assert command.main(["exercises", "--out", str(out)]) == 0
    assert "newer versions of 77: minigam course exercises 77 --overwrite" in capsys.readouterr().out
    copy.write_text("mine", encoding="utf-8")
    assert command.main(["exercises", "--out", str(out)]) == 0
    assert copy.read_text(encoding="utf-8") == "mine"
    printed = capsys.readouterr().out
    assert "0 notebooks written, 1 kept unchanged" in printed
    assert "newer" not in printed, "a file that is not a notebook does not name its source"
    assert command.main(["exercises", "--out", str(out), "--overwrite"]) == 0
    assert notebooks.STUB in json.loads(copy.read_text(encoding="utf-8"))["cells"][2]["source"][-1]
    assert (out / "77_test-before.ipynb").read_text(encoding="utf-8") == "mine", "nothing is lost"


def test_outside_a_clone_the_course_says_what_it_needs(monkeypatch, tmp_path):
    monkeypatch.setattr(course, "PROJECT", tmp_path)
    for call in (notebooks.sources, lambda: course.results("recall"), course.trained):
        with pytest.raises(InputError, match="the course needs a clone of the project"):
            call()


def test_an_unknown_notebook_is_refused(project):
    with pytest.raises(InputError, match=r"notebook .99.: does not exist, wanted one of 77"):
        command.main(["exercises", "99"])


def test_a_missing_stored_notebook_is_refused(project, source):
    with pytest.raises(InputError, match="make it with `make notebooks`"):
        notebooks.stored(source)


# ------------------------------------------------------------------------------- what notebooks use


def test_results_are_read_by_name():
    assert course.results("recall")["experiment"] == "recall"
    with pytest.raises(InputError, match=r"nothing: 0 result files, wanted one; choose from .*recall"):
        course.results("nothing")


def test_a_figure_is_shown_with_its_text(monkeypatch):
    from IPython import display
    from matplotlib.figure import Figure

    shown = []
    monkeypatch.setattr(display, "display", lambda data, **settings: shown.append((data, settings)))
    course.show(Figure(), "an empty figure")
    course.show("<svg/>", "an empty picture")
    for (data, settings), mime_type, alt in zip(
        shown, ("image/png", "image/svg+xml"), ("an empty figure", "an empty picture"), strict=True
    ):
        assert set(data) == {mime_type, "text/plain"}
        assert data["text/plain"] == settings["metadata"][mime_type]["alt"] == alt
        assert settings["raw"]


def clone(path):
    path.mkdir(exist_ok=True)
    (path / "pyproject.toml").touch()
    return path


def test_the_trained_model_is_trained_once(monkeypatch, tmp_path, capsys):
    """All of `trained`, with a tiny model; the second call reads what the first wrote."""
    monkeypatch.setattr(course, "PRESETS", {"small": SMALL})
    monkeypatch.setattr(course, "PROJECT", clone(tmp_path))
    monkeypatch.setattr(course, "DataConfig", lambda: DataConfig(stories=4, valid_stories=2))
    run, model, corpus = course.trained()
    assert [p.name for p in (tmp_path / "runs").iterdir()] == [run.path.name]
    assert capsys.readouterr().out == "", "a notebook prints the same whether it trained or read"
    monkeypatch.setattr(course.loop, "train", None)  # not called again
    again = course.trained()[1]
    assert all((again.state_dict()[k] == a).all() for k, a in model.state_dict().items())
    assert len(corpus.valid) == 2


def test_training_that_was_stopped_resumes(monkeypatch, tmp_path):
    monkeypatch.setattr(course, "PRESETS", {"small": SMALL})
    monkeypatch.setattr(course, "DataConfig", lambda: DataConfig(stories=4, valid_stories=2))
    monkeypatch.setattr(course, "PROJECT", clone(tmp_path / "whole"))
    whole = course.trained()[1].state_dict()
    monkeypatch.setattr(course, "PROJECT", clone(tmp_path / "stopped"))
    log = Run.log

    def stop_at_two(run, line):
        log(run, line)
        if line["step"] == 2 and "lr" in line:
            signal.raise_signal(signal.SIGINT)

    with (
        monkeypatch.context() as patched,
        pytest.raises(KeyboardInterrupt, match="stopped after step 2 of 3"),
    ):
        patched.setattr(Run, "log", stop_at_two)
        course.trained()
    resumed = course.trained()[1].state_dict()
    assert all((resumed[k] == a).all() for k, a in whole.items())
    (folder,) = (tmp_path / "stopped" / "runs").iterdir()
    assert "unfinished" not in folder.name
