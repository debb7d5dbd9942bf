"""Run folders: interrupted runs end as if they never were, and damage is refused."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from helpers.commands import assert_refused
from helpers.runs import FLAGS, STATE, assert_same_run

from minigam import generate, threads, train
from minigam.config import DataConfig, GAMConfig, InputError, TrainConfig
from minigam.data.corpus import from_pocketstories
from minigam.files import read_arrays, write_arrays
from minigam.training import loop
from minigam.training.run import Run, RunConfig
from minigam.training.schedule import warmup_cosine


def test_the_run_folder_holds_what_it_should(whole):
    assert {p.name for p in whole.iterdir()} == {
        *STATE,
        "machine.json",
        "metrics.jsonl",
        "loss.png",
        "complete.json",
    }
    assert (whole / "loss.png").read_bytes().startswith(b"\x89PNG")
    config = json.loads((whole / "config.json").read_text())
    assert config["model"]["d_model"] == 8
    assert config["train"]["steps"] == 12
    metrics = Run(whole).metrics()
    assert [m["step"] for m in metrics if "lr" in m] == list(range(1, 13))
    assert [m["step"] for m in metrics if "lr" not in m] == [4, 8, 12]


def test_the_same_flags_give_the_same_bits(whole, tmp_path):
    assert train.main([*FLAGS, f"--out={tmp_path / 'again'}"]) == 0
    assert_same_run(whole, tmp_path / "again")


def test_ctrl_c_saves_and_resuming_ends_in_the_same_bits(whole, tmp_path, capsys, monkeypatch):
    path, log = tmp_path / "interrupted", Run.log

    def log_and_interrupt(self, line):
        log(self, line)
        if line["step"] == 7 and "lr" in line:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(Run, "log", log_and_interrupt)
    assert train.main([*FLAGS, f"--out={path}"]) == 130
    err = capsys.readouterr().err
    assert f"interrupted. Step 7 is saved in {path}. To resume:\n  minigam train --resume {path}" in err
    monkeypatch.undo()
    assert train.main([f"--resume={path}", "--backend=numpy"]) == 0
    assert_same_run(whole, path)


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="this system has no SIGKILL")
def test_kill_between_checkpoints_loses_nothing_in_the_end(whole, tmp_path):
    path = tmp_path / "killed"
    # More steps than will be done: the process is killed once step 7 is logged, after the checkpoint of 5.
    code = (
        "import time\nfrom minigam import train\nfrom minigam.training.run import Run\nlog = Run.log\n"
        "def slow(self, line):\n    log(self, line)\n    time.sleep(60 * (line['step'] == 7))\n"
        "Run.log = slow\n"
        f"train.main({[*FLAGS, f'--out={path}']!r})\n"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        deadline = time.monotonic() + 60
        while (
            not (path / "metrics.jsonl").is_file() or '"step": 7' not in (path / "metrics.jsonl").read_text()
        ):
            assert child.poll() is None and time.monotonic() < deadline
            time.sleep(0.02)
    finally:
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
    with (path / "metrics.jsonl").open("a") as f:
        f.write('{"step": 8, "los')  # a line the crash cut short
    assert Run(path).resume()[2] == 5
    assert train.main([f"--resume={path}", "--backend=numpy"]) == 0
    assert_same_run(whole, path)


def test_kill_between_the_two_files_of_a_checkpoint(whole, copy, tmp_path):
    """The training state is newer than model.safetensors: resuming reads the state, which is whole."""
    run = Run(copy)
    run._save_weights(run.config.new_model().state_dict(), 0)
    model, _, step = Run(copy).resume()
    assert step == 12
    assert (copy / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    for name, a in Run(whole).load_model().state_dict().items():
        assert (a == model.state_dict()[name]).all()


def test_a_finished_run_resumed_says_the_same_once_more(copy, whole, capsys):
    assert train.main([f"--resume={copy}", "--backend=numpy"]) == 0
    assert "syntax+choice" in capsys.readouterr().out
    assert_same_run(whole, copy)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--d-model=16"], "--d-model is 16, the run was started with 8"),
        (["--model=transformer"], "--model is transformer, the run has gam"),
        (["--lr=0.1"], "--lr is 0.1, the run was started with"),
        (["--text=other.txt"], "the run was started with None"),
        (["--out=elsewhere"], "omit --out"),
    ],
)
def test_resuming_with_another_configuration_is_refused(copy, flags, message):
    with pytest.raises(InputError, match=message):
        train.main([f"--resume={copy}", "--backend=numpy", *flags])


def test_resuming_with_the_same_flags_is_not(copy):
    assert train.main([f"--resume={copy}", *FLAGS]) == 0


def damage_truncate(path: Path, name: str) -> None:
    data = (path / name).read_bytes()
    (path / name).write_bytes(data[: len(data) // 2])


def damage_swap(path: Path, name: str) -> None:
    """Put arrays of another model there."""
    content = "model" if name.startswith("model") else "training state"
    arrays, metadata = read_arrays(path / name, content)
    some = sorted(arrays)[0]
    write_arrays(path / name, content, {some: np.zeros(3, np.float32)}, metadata)


def damage_remove(path: Path, name: str) -> None:
    (path / name).unlink()


@pytest.mark.parametrize("damage", [damage_truncate, damage_swap, damage_remove])
@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors"])
def test_a_damaged_or_foreign_checkpoint_is_refused(copy, damage, name):
    damage(copy, name)
    commands = [[train.main, [f"--resume={copy}", "--backend=numpy"]]]
    if name == "model.safetensors":
        commands.insert(0, [generate.main, [str(copy), "--backend=numpy"]])  # before training mends it
    for main, argv in commands:
        if damage is not damage_truncate and name == "model.safetensors" and main is train.main:
            assert main(argv) == 0  # resuming needs no weights beside the training state
            Run(copy).load_model()  # and has written them anew
            continue
        with pytest.raises(InputError, match=name) as e:
            main(argv)
        assert "\n" not in str(e.value)
        assert len(str(e.value)) < 600


@pytest.mark.parametrize(
    "change",
    [
        lambda c: c["model"].update(d_model=16),
        lambda c: c["train"].update(lr=0.5),
        lambda c: c["train"].update(nonsense=1),
        lambda c: c["model"].update(d_model="many"),
        lambda c: c["model"].pop("d_model"),
        lambda c: c.pop("data"),
        lambda c: c.update(format="other"),
        lambda c: c.update(model_type="lstm"),
    ],
)
def test_a_changed_config_is_refused(copy, change):
    config = json.loads((copy / "config.json").read_text())
    change(config)
    (copy / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=r"config\.json"):
        train.main([f"--resume={copy}", "--backend=numpy"])


def test_a_run_without_any_checkpoint_is_refused_and_keeps_its_metrics(copy):
    before = (copy / "metrics.jsonl").read_bytes()
    for name in ("model.safetensors", "optimizer.safetensors"):
        (copy / name).unlink()
    with pytest.raises(InputError, match=r"optimizer\.safetensors: No such file"):
        train.main([f"--resume={copy}", "--backend=numpy"])
    assert (copy / "metrics.jsonl").read_bytes() == before


@pytest.mark.parametrize("at", ["tokenizer.json", "metrics.jsonl", "config.json", "model.safetensors"])
def test_a_creation_that_was_stopped_can_be_started_again(whole, tmp_path, monkeypatch, capsys, at):
    class Killed(BaseException):
        pass

    def replace(self, target):
        if Path(target).name == at:
            raise Killed
        return moved(self, target)

    path, moved = tmp_path / "run", Path.replace
    monkeypatch.setattr(Path, "replace", replace)
    with pytest.raises(Killed):
        train.main([*FLAGS, f"--out={path}"])
    monkeypatch.undo()
    assert_refused(train.main, [f"--resume={path}", "--backend=numpy"], capsys, "start it again")
    assert_refused(generate.main, [path, "--backend=numpy"], capsys, "start it again")
    assert train.main([*FLAGS, f"--out={path}"]) == 0
    assert_same_run(whole, path)
    assert_refused(train.main, [*FLAGS, f"--out={path}"], capsys, "not empty", "--resume")


def test_a_finished_run_without_its_metrics_ends_well(copy, capsys):
    (copy / "metrics.jsonl").unlink()
    assert train.main([f"--resume={copy}", "--backend=numpy"]) == 0
    (last,) = Run(copy).metrics()  # the final validation, measured again
    assert f"{last['loss']:.4f}" in capsys.readouterr().out


def test_an_exploded_update_is_never_a_checkpoint(tmp_path, capsys):
    flags = [*FLAGS, f"--out={tmp_path / 'run'}", "--lr=1e38", "--weight-decay=100", "--checkpoint-every=1"]
    assert train.main(flags) == 1
    assert "is saved in" in capsys.readouterr().err
    assert all(np.isfinite(a).all() for a in Run(tmp_path / "run").load_model().state_dict().values())


@pytest.mark.parametrize("step", [4, 5, 8])
def test_interrupts_at_validations_and_checkpoints_end_in_the_same_bits(whole, tmp_path, monkeypatch, step):
    path, measure = tmp_path / "interrupted", loop.evaluate
    done = []

    def evaluate_and_interrupt(*args, **settings):
        if len(done) == step // 4 - 1:
            signal.raise_signal(signal.SIGINT)
        done.append(1)
        return measure(*args, **settings)

    monkeypatch.setattr(loop, "evaluate", evaluate_and_interrupt)
    assert train.main([*FLAGS, f"--out={path}"]) == 130
    assert Run(path).saved_step() == 4 * (step // 4)
    monkeypatch.undo()
    assert train.main([f"--resume={path}", "--backend=numpy"]) == 0
    assert_same_run(whole, path)


def test_the_run_trains_with_the_numbers_it_was_given(whole):
    run = Run(whole)
    c, optimizer = run.config.train, run.resume()[1]
    assert (optimizer.betas, optimizer.weight_decay) == ((c.beta1, c.beta2), c.weight_decay)
    for line in run.metrics():
        if "lr" in line:
            assert line["lr"] == warmup_cosine(line["step"], c.steps, c.warmup_steps, c.lr)


def test_a_flipped_bit_is_damage(copy):
    data = bytearray((copy / "optimizer.safetensors").read_bytes())
    data[-5] ^= 1
    (copy / "optimizer.safetensors").write_bytes(data)
    with pytest.raises(InputError, match=r"optimizer\.safetensors: damaged"):
        train.main([f"--resume={copy}", "--backend=numpy"])


def test_changed_data_is_refused(tmp_path):
    text = tmp_path / "t.txt"
    text.write_text("abcdefgh" * 100)
    flags = ["--backend=numpy", f"--text={text}", f"--out={tmp_path / 'run'}", "--block-size=16", *FLAGS[3:]]
    assert train.main(flags) == 0
    text.write_text("abcdefgh" * 99)
    with pytest.raises(InputError, match="the data of this run has changed"):
        train.main([f"--resume={tmp_path / 'run'}", "--backend=numpy"])


def test_nan_stops_with_the_step_the_operation_and_the_last_good_checkpoint(tmp_path, capsys, monkeypatch):
    from minigam import ops

    reference, calls = ops.gelu.rule, [0]

    def sick(xp, *arrays):
        calls[0] += 1
        y, backward = reference(xp, *arrays)
        # From step 7 on: before it came 6 steps of 2 micro-batches, and a validation, in 2 layers each.
        return (y * np.float32(np.nan) if calls[0] > (6 * 2 + 1) * 2 else y), backward

    monkeypatch.setattr(ops.gelu, "rule", sick)
    monkeypatch.setattr(ops.gelu, "fast", {})
    assert train.main([*FLAGS, f"--out={tmp_path / 'sick'}"]) == 1
    err = capsys.readouterr().err
    assert "step 7: loss nan" in err
    assert "op 'gelu', forward" in err
    assert "Step 5 is saved in" in err
    assert Run(tmp_path / "sick").metrics()[-1]["step"] == 6  # what led to it can still be read
    model, _, step = Run(tmp_path / "sick").resume()
    assert step == 5
    assert all(np.isfinite(a).all() for a in model.state_dict().values())


def test_generation_is_repeatable_and_tells_stories_apart(whole, capsys):
    texts = []
    for seed in (1, 1, 2):
        assert (
            generate.main([str(whole), "--prompt=Once upon a time", f"--seed={seed}", "--backend=numpy"]) == 0
        )
        texts.append(capsys.readouterr().out)
    assert texts[0] == texts[1] != texts[2]
    assert all(t.startswith("Once upon a time") for t in texts)


def test_resuming_with_another_number_of_threads_says_so(whole, tmp_path, capsys):
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    machine = json.loads((run / "machine.json").read_text())
    assert machine["threads"] == threads.count()
    (run / "machine.json").write_text(json.dumps(machine | {"threads": 99}))
    assert train.main([f"--resume={run}", "--backend=numpy"]) == 0
    said = capsys.readouterr().err
    assert "started with 99 threads of BLAS per process" in said
    assert "OPENBLAS_NUM_THREADS=99 keeps them" in said


def test_steps_that_a_loss_scale_has_skipped_stay_skipped_after_resuming(tmp_path):
    """The bias corrections of AdamW count the steps taken, the schedule counts all."""
    corpus = from_pocketstories(128, n_train=2, n_valid=1)
    config = GAMConfig(block_size=128, d_model=8, n_layers=1, n_slots=4)
    made = RunConfig.of("gam", config, DataConfig(), TrainConfig(precision="float16", steps=9), corpus)
    tmp_path.joinpath("run").mkdir()
    run, model, optimizer = Run.create(tmp_path / "run", made, corpus.tokenizer)
    optimizer.steps = 3
    run.save(model, optimizer, 5)
    _, resumed, step = Run(run.path).resume()
    assert (resumed.steps, step) == (3, 5)
