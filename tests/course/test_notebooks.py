"""How notebooks are made from their sources: solutions, stubs, stored files, and faults that are found."""

import ast
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

import minigam
from minigam import course
from minigam.config import DataConfig, InputError
from minigam.course import __main__ as command
from minigam.course import glossary, hosting, notebooks
from minigam.training.run import Run

pytest.importorskip("jupytext", reason="needs jupytext and nbclient (the group `test`)")
pytest.importorskip("nbclient", reason="needs jupytext and nbclient (the group `test`)")
import nbformat

PROJECT = Path(__file__).parents[2]
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


def test_a_copy_for_students_has_hints_and_no_solution(source):
    cells = [c.source for c in notebooks.for_students(source).cells]
    first, second = notebooks.exercises(notebooks.read(source))
    assert {first.stub, second.stub, "check.ex_77_1(half)"} <= set(cells)
    assert not any("y = x / 2" in text or "<summary>Solution" in text for text in cells)
    assert hosting.install_cell() in cells[: cells.index("import math")], "before anything is imported"


def test_students_copies_are_stored():
    for source in notebooks.sources():
        stored = nbformat.read(notebooks.student_copy(source), as_version=4)
        assert nbformat.writes(stored) == nbformat.writes(notebooks.for_students(source)), (
            "run make notebooks"
        )


def test_each_notebook_links_to_its_neighbours():
    course = notebooks.sources()
    assert notebooks.navigation(course[0]) == (
        f"[map of the course]({course[0].stem}.ipynb#2.-The-map) · [01 →]({course[1].stem}.ipynb)"
    )
    assert notebooks.navigation(course[-1]).startswith(
        f"[← 15]({course[-2].stem}.ipynb) · [map of the course]"
    )
    links = notebooks.navigation(course[4])
    assert f"[← 03]({course[3].stem}.ipynb)" in links
    assert f"[05 →]({course[5].stem}.ipynb)" in links
    texts = [c.source for c in notebooks.for_learners(course[4]).cells]
    assert texts[1] == texts[-1] == links
    assert any("\n## 2. The map\n" in c.source for c in notebooks.read(course[0]).cells)


def test_the_first_use_of_a_term_is_linked(monkeypatch, tmp_path):
    file = tmp_path / "glossary.md"
    file.write_text(
        "## The model\n\n* **gate**: one.\n* **gate value**: two.\n* **K**: three.\n", encoding="utf-8"
    )
    monkeypatch.setattr(glossary, "FILE", file)
    texts = ["# Gates\n`gate` $gate$ **gate** [gate](x) delegate", "A gate value, two Gates, a gate, a rule."]
    assert glossary.link(texts, "g.md") == [
        texts[0], "A [gate value](g.md#the-model), two [Gates](g.md#the-model), a gate, a rule."
    ]  # fmt: skip


def test_links_of_a_copy_lead_somewhere(tmp_path):
    """Copies stand in any folder: with the glossary next to them, and without the files of the project."""
    assert command.main(["exercises", "--out", str(tmp_path)]) == 0
    for path in tmp_path.glob("*.ipynb"):
        for cell in nbformat.read(path, as_version=4).cells:
            links = (
                re.findall(r"\]\((?!https?:)([^)#]+)", cell.source) if cell.cell_type == "markdown" else []
            )
            assert [x for x in links if not (tmp_path / x).exists()] == [], path.name


def test_badges_come_from_one_setting(source, monkeypatch):
    assert hosting.badges(source) == "", "no repository, no badge that leads nowhere"
    assert hosting.requirement() == f"./minigam-{minigam.__version__}-py3-none-any.whl[notebooks]"
    monkeypatch.setattr(hosting, "REPOSITORY", "owner/name")
    monkeypatch.setattr(hosting, "ADDRESS", "https://github.com/owner/name")
    monkeypatch.setattr(hosting, "TAG", "v1")
    assert hosting.requirement() == "minigam[notebooks] @ git+https://github.com/owner/name@v1"
    colab, binder = (
        urlsplit(u) for u in re.findall(r"\]\((https://[^)\s]+)\)", hosting.badges(source))[1::2]
    )
    path = "notebooks/colab/77_test.ipynb"
    assert (colab.netloc, colab.path) == ("colab.research.google.com", f"/github/owner/name/blob/v1/{path}")
    assert (binder.netloc, binder.path) == ("mybinder.org", "/v2/gh/owner/name/v1")
    assert parse_qs(binder.query) == {"labpath": [path]}
    assert hosting.badges(source) in notebooks.for_learners(source).cells[1].source
    ast.parse(hosting.install_cell().replace("%pip", "pip_").replace("pip_ install --quiet", "print,"))


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
    (copy,) = out.glob("*.ipynb")
    assert notebooks.STUB in json.loads(copy.read_text(encoding="utf-8"))["cells"][3]["source"][-1]
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
    assert notebooks.STUB in json.loads(copy.read_text(encoding="utf-8"))["cells"][3]["source"][-1]
    assert (out / "77_test-before.ipynb").read_text(encoding="utf-8") == "mine", "nothing is lost"


def test_building_needs_a_clone(monkeypatch, tmp_path):
    monkeypatch.setattr(course, "PROJECT", tmp_path)
    with pytest.raises(InputError, match="only a clone of the project has it; install one with pip install"):
        command.main(["build"])


LAB = """
import signal, sys, time

def stop(*_):
    print("ended", *sys.argv[1:])
    sys.exit(7)

signal.signal(signal.SIGINT, stop)
print("ready", flush=True)
time.sleep(60)
"""


@pytest.mark.skipif(
    sys.platform == "win32", reason="sends Ctrl-C to a group of processes, as a terminal does"
)
def test_open_leaves_ctrl_c_to_jupyterlab(tmp_path):
    """Which ends its kernels; one that is killed would leave them."""
    (tmp_path / "jupyterlab").mkdir()
    (tmp_path / "jupyterlab" / "__init__.py").touch()
    (tmp_path / "jupyterlab" / "__main__.py").write_text(LAB, encoding="utf-8")
    paths = os.pathsep.join([str(tmp_path), str(PROJECT)])
    command_line = [
        sys.executable,
        "-m",
        "minigam",
        "course",
        "open",
        "--out",
        tmp_path / "mine",
        "--",
        "--x",
    ]
    with subprocess.Popen(
        command_line, env=os.environ | {"PYTHONPATH": paths}, cwd=tmp_path, text=True,
        stdout=subprocess.PIPE, start_new_session=True,
    ) as opened:  # fmt: skip
        for line in opened.stdout:
            if line == "ready\n":
                break
        os.killpg(opened.pid, signal.SIGINT)
        rest = opened.communicate(timeout=60)[0]
    assert (opened.returncode, rest) == (
        7,
        f"ended --x {tmp_path / 'mine' / notebooks.sources()[0].stem}.ipynb\n",
    )


def test_open_writes_the_copies_and_runs_jupyterlab(project, tmp_path, monkeypatch):
    called = []
    monkeypatch.setattr(command, "run_lab", lambda args: called.append(args) or 3)
    monkeypatch.setattr(command, "find_spec", lambda name: True)
    out = tmp_path / "mine"
    assert command.main(["open", "--out", str(out), "--", "--no-browser", "--ip=0.0.0.0"]) == 3
    assert called == [["--no-browser", "--ip=0.0.0.0", str(out / "77_test.ipynb")]]
    assert (out / "77_test.ipynb").is_file()
    monkeypatch.setattr(command, "find_spec", lambda name: None if name == "jupyterlab" else True)
    with pytest.raises(InputError, match=r"jupyterlab is not installed; .* 'minigam\[notebooks\]'"):
        command.main(["open", "--out", str(out)])


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
