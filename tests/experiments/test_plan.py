"""What a table says before it starts, and the one command from the hub to a table."""

import hashlib
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from helpers import hubserver
from helpers.commands import assert_refused
from helpers.prepared import write_parquet

from minigam.config import GAMConfig, InputError, TrainConfig
from minigam.data import datasets, hub
from minigam.data.hub import HubFile
from minigam.experiments import __main__ as command
from minigam.experiments import comparison, plan
from minigam.experiments.plan import Size
from minigam.experiments.training_cell import Cell
from minigam.training.run import Run

MODEL = GAMConfig(block_size=8, d_model=4, n_layers=1, n_slots=2)
CELL = Cell("gam-seed0", "gam", MODEL, TrainConfig(batch_size=8, micro_batch=2, steps=10, eval_every=4))
SIZE = Size(100, 30, 20)


def announced(capsys, *cells, out, size=SIZE) -> str:
    plan.announce([*cells], out, size, "numpy", None)
    return capsys.readouterr().out


@pytest.fixture
def clock(monkeypatch):
    """A clock that only training steps move: 3 seconds a step, and 2 for each of its rows."""
    now, rows = [0.0], []

    def step(model, optimizer, ids, targets, micro_batch, max_norm):
        now[0] += 3.0 + 2.0 * len(ids)
        rows.append(len(ids))
        return 0.0

    monkeypatch.setattr(plan, "perf_counter", lambda: now[0])
    monkeypatch.setattr(plan, "train_step", step)
    return rows


@pytest.mark.parametrize(
    ("batch", "micro", "measured"), [(8, 2, [2, 2, 4]), (3, 2, [2, 2, 3]), (4, 4, [4, 4])]
)
def test_a_whole_step_follows_from_a_few_rows(clock, batch, micro, measured):
    cell = replace(CELL, train=replace(CELL.train, batch_size=batch, micro_batch=micro))
    assert plan.measured_step(cell, 20, "numpy").seconds == pytest.approx(3.0 + 2.0 * batch)
    assert clock == measured


def test_the_time_counts_steps_and_validations(clock, tmp_path, capsys):
    train = replace(CELL.train, eval_rows=20)
    text = announced(capsys, replace(CELL, train=train), out=tmp_path)
    step, validated = 3.0 + 2.0 * 8, 20 + 20 + 30  # after steps 4 and 8, and at the end
    assert f"about {(10 * step + step * validated / 8 / 3) / 60:.0f} min, by" in text


def test_the_seeds_of_a_model_are_measured_once(clock, tmp_path, capsys):
    other = replace(CELL, name="gam-seed1", train=replace(CELL.train, seed=1))
    text = announced(capsys, CELL, other, out=tmp_path)
    assert clock == [2, 2, 4]
    assert text.count("gam-seed0") == 2  # the largest, and in the list of times
    assert "gam-seed1" in text


def test_memory_and_disk_are_those_of_the_run(tmp_path, capsys):
    config = GAMConfig(block_size=64, d_model=128, n_layers=2)
    cell = Cell("gam-seed0", "gam", config, TrainConfig(steps=1, batch_size=2))
    step = plan.measured_step(cell, 500, "numpy")
    assert step.memory > 16 * step.parameters  # values, gradients and two moments
    text = announced(capsys, cell, out=tmp_path, size=Size(2, 2, 500))
    said = float(re.search(r"about ([\d.]+) MB of checkpoints", text)[1])
    assert said == pytest.approx((plan.STATE + plan.WEIGHTS + plan.STATE) * step.parameters / 1e6, abs=0.1)


def test_an_estimate_is_called_one(clock, tmp_path, capsys):
    assert "10 steps on 100 rows" in announced(capsys, CELL, out=tmp_path)
    text = announced(capsys, CELL, out=tmp_path, size=replace(SIZE, about=True))
    assert "about 10 steps on about 100 rows" in text


def test_a_disk_that_is_too_small_is_refused_before_the_first_step(clock, tmp_path, monkeypatch):
    usage = type("usage", (), {"free": 10})
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(InputError, match=r"of disk needed, 0\.0 MB are free; choose another --out"):
        plan.announce([CELL], tmp_path / "new" / "folder", SIZE, "numpy", None)


def test_memory_that_runs_out_is_one_line(monkeypatch, tmp_path):
    def exhausted(*args):
        raise MemoryError

    monkeypatch.setattr(plan, "train_step", exhausted)
    with pytest.raises(InputError, match="gam-seed0: memory ran out in a step of it; leave it out"):
        plan.announce([CELL], tmp_path, SIZE, "numpy", None)


# ------------------------------------------------------------------- from the hub to the table

SMALL = comparison.Scale(
    {"block_size": 8, "d_model": 4, "n_layers": 1},
    {"batch_size": 4, "warmup_steps": 1, "checkpoint_every": 2},
    {"gam": {"n_slots": 2}},
    {},
    epochs=1,
)
TABLE = ["table1", "--scale=small", "--dataset=wikitext-2", "--models", "gam", "--backend=numpy"]


@pytest.fixture
def server(monkeypatch, tmp_path):
    """The hub, with a WikiText-2 of a few rows, whose hashes are the recorded ones; we stand in an empty
    folder."""
    pytest.importorskip("pyarrow", reason="needs the extra `data`")
    pytest.importorskip("huggingface_hub", reason="needs the extra `data`")
    files, contents = {}, {}
    for split, n in {"train": 40, "valid": 8, "test": 2}.items():
        rows = [f" the cat sat on mat {i} and the dog ran . \n" for i in range(n)]
        contents[split] = write_parquet(tmp_path / "made" / f"{split}.parquet", rows)
        digest = hashlib.sha256(contents[split]).hexdigest()
        files[split] = HubFile(
            "someone/tiny", hubserver.COMMIT, f"{split}.parquet", len(contents[split]), digest
        )
    tiny = datasets.Dataset("a licence", "line", files, ("{}.txt",), {"train": 600, "valid": 80})
    monkeypatch.setitem(datasets.DATASETS, "wikitext-2", tiny)
    monkeypatch.setitem(comparison.SCALES, "small", SMALL)
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    with hubserver.running() as server:
        for split, file in files.items():
            server.put(file, contents[split])
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        yield server
        hub.library().close_session()


def test_one_command_goes_from_the_hub_to_a_table(server, capsys):
    assert command.main(TABLE) == 0
    text = capsys.readouterr().out
    order = ["plan: about 19 steps on about 75 rows", f"from {server.url}", "downloaded, verified",
             "wikitext-2-prepared: train", "gam-seed0:", "Saved in"]  # fmt: skip
    assert sorted(order, key=text.index) == order
    content = json.loads(Path("runs/table1-small-wikitext-2/table1.json").read_text())
    assert content["data"]["sources"]["train"]["verified"] is True


def test_the_same_command_goes_on_where_it_stopped(server, capsys, monkeypatch):
    def stopped(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(comparison, "trained", stopped)
        assert command.main(TABLE) == 130
    asked = len(server.requests)
    capsys.readouterr()
    assert command.main(TABLE) == 0
    assert "plan:" in capsys.readouterr().out
    assert command.main(TABLE) == 0
    assert "plan:" not in capsys.readouterr().out  # nothing is left to do
    assert len(server.requests) == asked


def test_a_cell_that_has_begun_needs_its_other_steps_only(server):
    assert command.main([*TABLE, "--steps=3"]) == 0
    folder = Path("runs/table1-small-wikitext-2/cells")
    run = Run(folder / "gam-seed0")
    cell = Cell("gam-seed0", "gam", run.config.model, run.config.train)
    assert plan.steps_left(cell, folder) == 0
    (folder / "gam-seed0" / "result.json").unlink()
    assert plan.steps_left(cell, folder) == 1  # its last validation
    longer = replace(cell, train=replace(cell.train, steps=10))
    assert plan.steps_left(longer, folder) == 7
    assert plan.steps_left(replace(cell, name="gam-seed1"), folder) == 3


def test_another_file_than_the_recorded_one_needs_trust(server, capsys):
    path = next(path for path in server.files if path.endswith("valid.parquet"))
    server.files[path] = write_parquet(Path("other.parquet"), [" the dog sat . \n"] * 9)
    assert_refused(command.main, TABLE, capsys, "SHA-256", "--trust-download")
    assert not Path("data/wikitext-2-prepared").exists()
    assert command.main([*TABLE, "--trust-download"]) == 0
    assert "prepared from other files than the published ones" in capsys.readouterr().out


@pytest.mark.parametrize("endpoint", ["nowhere", "http://127.0.0.1:9"])  # where nobody answers
def test_a_download_that_is_not_possible_is_said_first(endpoint, server, clock, capsys, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", endpoint)
    assert_refused(command.main, TABLE, capsys, endpoint)
    assert clock == []  # nothing was measured


def test_a_folder_of_your_own_is_never_downloaded(server, capsys):
    assert_refused(command.main, [*TABLE, "--dataset=mine"], capsys, "mine: no prepared dataset")
    assert server.requests == []
