"""Training here and in PyTorch, step for step: the comparison, and that it can fail."""

import json

import pytest
from helpers.bench import needs_torch
from helpers.commands import assert_refused

from benchmarks import measure, trajectory

TINY = {"block_size": 128, "d_model": 8, "n_layers": 1, "n_slots": 4, "n_heads": 2, "position_std": 0.02}


@pytest.fixture
def tiny(monkeypatch):
    size = trajectory.Size(TINY, True, batch=2, steps=6, of_steps=8, warmup_steps=3, peak=3e-3)
    monkeypatch.setattr(trajectory, "SIZES", {"tiny": size})
    return size


@needs_torch
def test_both_programs_train_alike(tiny, tmp_path, capsys):
    assert trajectory.main(["--size", "tiny", "--out", str(tmp_path)]) == 0
    cells = json.loads((tmp_path / "trajectory.json").read_text(encoding="utf-8"))["cells"]
    assert list(cells) == [
        f"{label}, tiny, {dtype}" for label in ("GAM", "Transformer") for dtype in ("float64", "float32")
    ]
    for name, cell in cells.items():
        bound = 1e-12 if name.endswith("float64") else 1e-4
        assert len(cell["differences"]) == 6
        assert max(cell["differences"]) < bound
        assert trajectory.within(name, cell)
        assert cell["minigam"][-1] < cell["minigam"][0], "it has learned"
    assert (tmp_path / "trajectory.png").is_file()
    assert " ".join(capsys.readouterr().out.split()).count("| yes |") == 4


def test_the_stored_trajectories_are_within_their_bounds():
    stored = json.loads((measure.RESULTS / "trajectory" / "trajectory.json").read_text(encoding="utf-8"))
    assert len(stored["cells"]) == 8
    assert stored["tolerances"] == {"loss": trajectory.LOSS, "parameter": trajectory.PARAMETER}
    assert trajectory.LOSS == {"float64": 1e-9, "float32": 1e-3}
    for name, cell in stored["cells"].items():
        assert len(cell["differences"]) == (200 if "small" in name else 10), name
        assert trajectory.within(name, cell), name


@needs_torch
@pytest.mark.parametrize("changed", ["lr", "weight_decay"])
def test_a_millionth_more_is_noticed(tiny, tmp_path, monkeypatch, capsys, changed):
    step = trajectory.train_step

    def slightly_off(model, optimizer, *batch, **settings):
        setattr(optimizer, changed, getattr(optimizer, changed) * (1 + 1e-6))
        return step(model, optimizer, *batch, **settings)

    monkeypatch.setattr(trajectory, "train_step", slightly_off)
    assert trajectory.main(["--size", "tiny", "--out", str(tmp_path)]) == 1
    lines = {
        line.split("|")[1].strip(): line for line in capsys.readouterr().out.splitlines() if "tiny, " in line
    }
    assert {name: line.rstrip(" |").endswith("yes") for name, line in lines.items()} == {
        "GAM, tiny, float64": False, "GAM, tiny, float32": True,
        "Transformer, tiny, float64": False, "Transformer, tiny, float32": True,
    }  # fmt: skip


def test_a_parameter_that_the_last_step_changed_otherwise_is_noticed():
    cell = {"differences": [0.0], "weights": {"memory_bank": 0.0, "attn.c_attn.bias": 2e-4}}
    assert trajectory.within("Transformer, small, float32", cell)
    assert not trajectory.within("Transformer, small, float64", cell)
    cell["weights"]["memory_bank"] = 2e-4
    assert not trajectory.within("Transformer, small, float32", cell)


def test_more_steps_than_the_schedule_has_are_refused(tiny, capsys):
    assert_refused(
        trajectory.main, ["--size", "tiny", "--steps=9"], capsys, "--steps is 9", "has 8; take fewer"
    )
