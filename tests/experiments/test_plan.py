"""What a table says before it starts, and the one command from the hub to a table."""

import errno
import hashlib
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from helpers import hubserver
from helpers.commands import assert_refused, call
from helpers.prepared import write_parquet

from minigam import GAM
from minigam.config import GAMConfig, InputError, TrainConfig
from minigam.data import corpus, datasets, hub
from minigam.data.download import Download
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


@pytest.mark.parametrize(("steps", "validated"), [(10, 20 + 20 + 30), (8, 20 + 30)])
def test_the_time_counts_steps_and_validations(steps, validated):
    cell = replace(CELL, train=replace(CELL.train, steps=steps, eval_rows=20))  # 8 rows a step, eval_every 4
    assert plan._seconds(cell, steps, 3.0, SIZE) == pytest.approx(3.0 * (steps + validated / 8 / 3))


def test_the_time_is_said_of_each_run_and_of_all(clock, tmp_path, capsys):
    other = replace(CELL, name="gam-seed1", train=replace(CELL.train, seed=1))
    text = announced(capsys, CELL, other, out=tmp_path)
    assert clock == [2, 2, 4], "seeds share a measurement"
    seconds = plan._seconds(CELL, 10, 3.0 + 2.0 * 8, SIZE)
    assert f"time      about {2 * seconds / 60:.0f} min, by" in text
    assert f"gam-seed0 {seconds / 60:.0f} min, gam-seed1 {seconds / 60:.0f} min" in text


def test_memory_is_that_of_a_step():
    config = GAMConfig(block_size=64, d_model=128, n_layers=2)
    cell = Cell("gam-seed0", "gam", config, TrainConfig(steps=1, batch_size=2))
    n = GAM.count_parameters(replace(config, vocab_size=500))
    assert plan.measured_step(cell, 500, "numpy").peak_bytes > 16 * n  # values, gradients and two moments


def test_a_gpu_is_measured_when_its_memory_pool_is_filled(clock):
    plan.measured_step(CELL, 20, "fakegpu")
    assert clock == [2, 2, 2, 4]


def test_an_estimate_is_called_one(clock, tmp_path, capsys):
    assert "plan: 1 run of 10 steps on 100 training rows" in announced(capsys, CELL, out=tmp_path)
    text = announced(capsys, CELL, out=tmp_path, size=replace(SIZE, estimated=True))
    assert "plan: 1 run of about 10 steps on about 100 training rows" in text


def test_a_disk_that_is_too_small_is_refused_before_anything_is_measured(clock, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=10))
    with pytest.raises(InputError, match=r"of disk needed, 0\.0 MB are free; choose another --out"):
        plan.announce([CELL], tmp_path / "new" / "folder", SIZE, "numpy", None)
    assert clock == []


def test_memory_that_runs_out_is_one_line(monkeypatch, tmp_path):
    def exhausted(*args):
        raise MemoryError

    monkeypatch.setattr(plan, "train_step", exhausted)
    with pytest.raises(InputError, match="gam-seed0: memory ran out in a step of it; leave it out"):
        plan.announce([CELL], tmp_path, SIZE, "numpy", None)


# ------------------------------------------------------------------- from the hub to the table

SMALL = comparison.Scale(
    {"block_size": 8, "d_model": 64, "n_layers": 2},
    {"batch_size": 4, "warmup_steps": 1, "checkpoint_every": 2},
    {"gam": {"n_slots": 2}},
    {},
    epochs=1,
)
TABLE = ["table1", "--scale=small", "--dataset=wikitext-2", "--models", "gam", "--backend=numpy"]
TOKENS = {"train": 600, "valid": 80}


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
    tiny = datasets.Dataset("a licence", "line", files, ("{}.txt",), TOKENS)
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


OUT = Path("runs/table1-small-wikitext-2")


def test_one_command_goes_from_the_hub_to_a_table(server, capsys):
    assert command.main(TABLE) == 0
    text = capsys.readouterr().out
    assert "plan: 1 run of about 17 steps on about 66 training rows" in text
    order = ["plan:", f"from {server.url}", "disk", "memory", "time", "downloaded, verified",
             "wikitext-2-prepared: train", "gam-seed0:", "Saved in"]  # fmt: skip
    assert sorted(order, key=text.index) == order
    content = json.loads((OUT / "table1.json").read_text())
    assert content["data"]["sources"]["train"]["verified"] is True


def test_the_expected_rows_are_those_that_so_many_tokens_give(server):
    expected = Size.expected(Download("wikitext-2"), block_size=8)
    assert expected.train == len(corpus._blocks(np.zeros(TOKENS["train"], "uint16"), 8, "train", "a file"))


def test_the_disk_that_was_foreseen_is_what_is_there(server, capsys, monkeypatch):
    def said(size: float) -> str:
        sizes.append(size)
        return f"{size}"

    sizes: list[float] = []
    monkeypatch.setattr(plan, "_bytes", said)
    assert command.main([*TABLE, "--steps=1"]) == 0
    download, disk, _ = sizes
    assert download == sum(file.stat().st_size for file in Path("data/wikitext-2").glob("*.parquet"))
    checkpoint, weights = (
        (OUT / "cells" / "gam-seed0" / f"{name}.safetensors").stat().st_size
        for name in ("optimizer", "model")
    )
    vocabulary = len(
        json.loads(Path("data/wikitext-2-prepared/tokenizer.json").read_text(encoding="utf-8"))["model"][
            "vocab"
        ]
    )
    unknown = (
        (10_000 - vocabulary) * 64 * (2 * plan.CHECKPOINT_BYTES + plan.WEIGHTS_BYTES)
    )  # not known before
    wanted = 2 * checkpoint + weights + unknown + download + 2 * sum(TOKENS.values())
    assert disk == pytest.approx(wanted, rel=0.01)


def test_the_same_command_continues_where_it_stopped(server, capsys, monkeypatch):
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


def test_data_that_are_gone_are_announced_even_if_every_run_is_finished(server, capsys):
    assert command.main([*TABLE, "--steps=1"]) == 0
    shutil.rmtree("data")
    capsys.readouterr()
    assert command.main([*TABLE, "--steps=1"]) == 0
    text = capsys.readouterr().out
    assert "plan: 0 runs" in text and "download" in text and "time" not in text.partition("Saved")[0]


def test_a_cell_needs_the_steps_it_lacks(server):
    assert command.main([*TABLE, "--steps=3"]) == 0
    folder = OUT / "cells"
    run = Run(folder / "gam-seed0")
    cell = Cell("gam-seed0", "gam", run.config.model, run.config.train)
    assert plan.steps_left(cell, folder) == 0
    (folder / "gam-seed0" / "result.json").unlink()
    assert plan.steps_left(cell, folder) == 1  # its last validation
    assert plan.steps_left(replace(cell, name="gam-seed1"), folder) == 3


def test_another_file_than_the_recorded_one_needs_trust(server, capsys):
    path = next(path for path in server.files if path.endswith("valid.parquet"))
    server.files[path] = write_parquet(Path("other.parquet"), [" the dog sat . \n"] * 9)
    for _ in range(2):  # the wrong file is on disk the second time, and announced again
        assert_refused(command.main, TABLE, capsys, "SHA-256", "--trust-download")
        assert not Path("data/wikitext-2-prepared").exists()
        assert [file.path for file in Download("wikitext-2").missing()] == ["valid.parquet", "test.parquet"]
    assert command.main([*TABLE, "--trust-download"]) == 0
    assert "prepared from other files than the published ones" in capsys.readouterr().out


def test_something_else_where_to_prepare_is_said_first(server, clock, capsys):
    Path("data/wikitext-2-prepared").mkdir(parents=True)
    Path("data/wikitext-2-prepared/notes.txt").write_text("mine", encoding="utf-8")
    assert_refused(
        command.main, TABLE, capsys, "wikitext-2-prepared: exists and is not a prepared dataset", "move it"
    )
    assert clock == server.requests == []


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES])
def test_what_is_wrong_with_the_disk_is_not_blamed_on_the_server(number, server, capsys, monkeypatch):
    def fail(*args, **settings):
        raise OSError(number, os.strerror(number), "data/wikitext-2/train.parquet")

    monkeypatch.setattr(hub.library(), "hf_hub_download", fail)
    code, _, err = call(command.main, TABLE, capsys)
    assert code == 2
    assert f"data/wikitext-2/train.parquet: {os.strerror(number)}" in err and "mirror" not in err


def test_trust_without_a_download_is_refused(capsys):
    flags = ["table1", "--scale=small", "--trust-download", "--backend=numpy"]
    assert_refused(command.main, flags, capsys, "--trust-download has no effect on pocketstories", "omit it")


@pytest.mark.parametrize("endpoint", ["nowhere", "http://127.0.0.1:9"])  # where nobody answers
def test_a_download_that_is_not_possible_is_said_first(endpoint, server, clock, capsys, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", endpoint)
    assert_refused(command.main, TABLE, capsys, endpoint)
    assert clock == []  # nothing was measured


def test_a_folder_of_your_own_is_never_downloaded(server, capsys):
    assert_refused(command.main, [*TABLE, "--dataset=mine"], capsys, "mine: no prepared dataset")
    assert server.requests == []
