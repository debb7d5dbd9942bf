"""The course at a glance: its notebooks, their times, and what comes with the package."""

import re
import time

import pytest

from minigam import course, viz
from minigam.config import InputError
from minigam.course import __main__ as command
from minigam.course import notebooks, overview
from minigam.data.corpus import from_pocketstories, inputs_and_targets
from minigam.engine.tensor import no_grad
from minigam.files import read_json

pytest.importorskip("jupytext", reason="needs jupytext and nbclient (the group `test`)")

LESSON = """# %% [markdown]
# # 77 · A title
#
# **Goal.** Do one thing. And another.
#
# **Time.** 20 minutes, 3 exercises. **Needs** 01 and 05 (this and that), not 88.
"""


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "77_test.py"
    path.write_text(LESSON, encoding="utf-8")
    return path


def test_a_lesson_is_what_the_first_cell_says(source):
    lesson = overview._lesson(source)
    assert lesson == overview.Lesson("77", "A title", "77_test.ipynb", "Do one thing.", 20, 3, ("01", "05"))
    source.write_text("# %% [markdown]\n# # 77 · A title\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"77_test\.py: the first cell needs a title, \*\*Goal"):
        overview._lesson(source)


def test_the_table_and_the_plot_show_every_notebook():
    table, axes = overview.table(), overview.needs_plot().axes[0]
    numbers = [s.stem[:2] for s in notebooks.sources()]
    assert re.findall(r"^\| (\d\d) \|", table, re.M) == numbers
    assert [t.get_text() for t in axes.texts if t.get_text()] == numbers
    place = {t.get_text(): t.get_position() for t in axes.texts if t.get_text()}
    for lesson in overview.lessons():
        assert all(place[n][0] < place[lesson.number][0] for n in lesson.needs), "an arrow leads to the right"


def test_each_part_of_a_notebook_costs_its_time(source):
    """In steps that are exact multiples of the 5 minutes that the result is rounded to."""
    empty = overview.minutes(source)
    for part, spent in (
        ("# %% [markdown]\n# " + "word " * 1800, 1800 * overview.WORD),
        ("# %% [markdown]\n#" + " $$ a = b $$\n#" * 20, 20 * overview.EQUATION),
        ("# %%\n" + "x = 1\n" * 100, 100 * overview.CODE_LINE),
        ("# %%\n" + "show(figure)\n" * 50, 50 * (overview.FIGURE + overview.CODE_LINE)),
        ("# %% [markdown]\n# ### Exercise 77.1 ★★★ A task\n", overview.EXERCISE[3]),
        ("# %% [markdown]\n# <details>" + "word " * 9999 + "</details>\n", 0),
    ):
        source.write_text(f"{LESSON}\n{part}\n", encoding="utf-8")
        assert abs(overview.minutes(source) - empty - spent) <= 5, part[:40]


@pytest.mark.parametrize("source", notebooks.sources(), ids=lambda p: p.stem)
def test_the_minutes_are_those_of_the_model(source):
    stated = overview._lesson(source).minutes
    assert stated == overview.minutes(source), "run: minigam course times --write"


def test_times_lists_every_notebook(capsys):
    assert command.main(["times"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == [s.stem for s in notebooks.sources()]


def test_write_puts_the_minutes_everywhere(source, tmp_path, monkeypatch):
    (tmp_path / "docs").mkdir()
    table = tmp_path / "docs" / "course.md"
    table.write_text("about 1 hours\n| [77 · A title](x.ipynb) | 1 min | 3 | what |\n", encoding="utf-8")
    (tmp_path / "README.md").write_text("It takes about 9 hours.\n", encoding="utf-8")
    (tmp_path / "paper").mkdir()
    (tmp_path / "paper" / "paper.md").write_text("planned for 9 hours\n", encoding="utf-8")
    monkeypatch.setattr(overview, "PROJECT", tmp_path)
    monkeypatch.setattr(notebooks, "sources", lambda: [source])
    monkeypatch.setattr(overview, "minutes", lambda source: 185)
    assert overview.write_times() == 185
    assert "**Time.** 185 minutes, 3 exercises" in source.read_text(encoding="utf-8")
    assert table.read_text(encoding="utf-8") == (
        "about 3 hours\n| [77 · A title](x.ipynb) | 185 min | 3 | what |\n"
    )
    assert "about 3 hours" in (tmp_path / "README.md").read_text(encoding="utf-8")
    table.write_text("nothing\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"course\.md: no .*77"):
        overview.write_times()


def test_machine_names_what_is_missing(monkeypatch):
    assert overview.machine().endswith("All packages are here.")
    monkeypatch.setattr(overview, "NEEDED", ("numpy", "no_such_package"))
    assert "missing: no_such_package; install" in overview.machine()


@pytest.mark.parametrize("name", ["gam", "transformer"])
def test_a_stored_model_has_the_loss_of_its_run(name):
    model, tokenizer = course.stored(name)
    corpus = from_pocketstories(block_size=128, n_train=1, n_valid=100)  # the first of its validation rows
    assert corpus.tokenizer.to_json() == tokenizer.to_json()
    with no_grad():
        loss = model.loss(*inputs_and_targets(corpus.valid)).item()
    stated = read_json(course.STORED / name / "complete.json")["loss"]
    assert abs(loss - stated) < 0.03


def test_an_unknown_stored_model_is_refused():
    with pytest.raises(InputError, match="'mamba': does not exist, wanted one of gam, transformer"):
        course.stored("mamba")


def test_median_ms_does_not_count_the_first_call():
    waits, seen = iter([0.2, 0.0, 0.0, 0.0]), []

    def slow_at_first(x, y):
        seen.append((x, y))
        time.sleep(next(waits))

    assert course.median_ms(slow_at_first, 1, 2, repeats=3) < 100
    assert seen == [(1, 2)] * 4


def test_block_plot_shows_every_equation():
    texts = " ".join(t.get_text() for t in viz.block_plot().axes[0].texts)
    assert [f"E{n}" for n in range(1, 10) if f"E{n} " not in texts] == []
