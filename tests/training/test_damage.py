"""Files that something has changed, locks, and what a stopped process leaves behind."""

import errno
import json
import math
import os
import subprocess
import sys
from functools import partial

import numpy as np
import pytest
from helpers.commands import assert_refused
from helpers.runs import FLAGS, assert_same_run

from minigam import generate, train
from minigam.config import InputError, TrainConfig
from minigam.files import TEMPORARY, locked, read_arrays, replacing, write_arrays, write_text
from minigam.training.run import Run

# ------------------------------------------------------------------------------------------- digests


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'\\"step\\": \\"12\\"', b'\\"step\\": \\"13\\"'),
        (b'\\"dropout_drawn\\": \\"', b'\\"dropout_drawn\\": \\"1'),
        (b"state 2", b"state 1"),
        (b'"F32"', b'"I32"'),
        (b'"shape":[8]', b'"shape":[4,2]'),
        (b'\\"sha256\\"', b'\\"sha257\\"'),
        (b'"minigam"', b'"minigan"'),
    ],
)
def test_every_word_of_a_checkpoint_is_under_its_digest(copy, old, new, capsys):
    path = copy / "optimizer.safetensors"
    data = path.read_bytes()
    assert old in data
    header = int.from_bytes(data[:8], "little")
    changed = data[8 : 8 + header].replace(old, new)  # all of them, so that the layout stays consistent
    path.write_bytes(len(changed).to_bytes(8, "little") + changed + data[8 + header :])
    assert_refused(train.main, [f"--resume={copy}", "--backend=numpy"], capsys, "optimizer.safetensors")


def test_a_checkpoint_of_the_first_format_still_opens(copy, whole, capsys):
    import hashlib

    from safetensors.numpy import load_file, save_file

    for name, content in (("model", "model"), ("optimizer", "training state")):
        path = copy / f"{name}.safetensors"
        arrays, metadata = load_file(path), read_arrays(path, content)[1]
        digest = hashlib.sha256()
        for key in sorted(arrays):
            digest.update(key.encode() + arrays[key].tobytes())
        old = {k: v for k, v in metadata.items() if k != "tokenizer_sha256"}
        old |= {"format": f"minigam {content} 1", "sha256": digest.hexdigest()}
        save_file(arrays, path, {"minigam": json.dumps(old)})
    assert generate.main([str(copy), "--backend=numpy", "--tokens=2"]) == 0
    assert f"{copy / 'model.safetensors'}: of an earlier version" in capsys.readouterr().err
    assert train.main([f"--resume={copy}", "--backend=numpy"]) == 0
    assert f"{copy / 'optimizer.safetensors'}: of an earlier version" in capsys.readouterr().err
    assert (copy / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()


def test_numbers_out_of_range_are_refused_even_under_a_right_digest(copy, capsys):
    path = copy / "optimizer.safetensors"
    arrays, metadata = read_arrays(path, "training state")
    refused = partial(assert_refused, train.main, [f"--resume={copy}", "--backend=numpy"], capsys)
    for wrong in ({"step": "-1"}, {"step": "13"}, {"dropout_drawn": "-5"}, {"step": "many"}):
        write_arrays(path, "training state", arrays, metadata | wrong)
        refused("optimizer.safetensors: damaged")
    for name, value in (("m.norm.weight", np.inf), ("v.norm.weight", np.nan), ("v.norm.weight", -1.0)):
        write_arrays(path, "training state", arrays | {name: np.full_like(arrays[name], value)}, metadata)
        refused(f"{name} is out of range")
    for name in ("config_sha256", "tokenizer_sha256"):
        write_arrays(path, "training state", arrays, {k: v for k, v in metadata.items() if k != name})
        refused("belongs to another")


def test_arrays_of_any_shape_come_back(tmp_path):
    arrays = {
        "a": np.zeros((0, 3), np.float32),
        "b": np.float64(2.0).reshape(()),
        "c": np.arange(6).reshape(2, 3),
    }
    write_arrays(tmp_path / "a.safetensors", "model", arrays, {"step": "1"})
    again, metadata = read_arrays(tmp_path / "a.safetensors", "model")
    assert {k: (v.shape, v.dtype) for k, v in again.items()} == {
        k: (v.shape, v.dtype) for k, v in arrays.items()
    }
    assert metadata["step"] == "1"
    with pytest.raises(InputError, match="not the training state"):
        read_arrays(tmp_path / "a.safetensors", "training state")


# ------------------------------------------------------------------------------------------- metrics


DAMAGED = [
    b"5", b"\xff\xfe", b'{"a": 1}', b"[" * 100_000, b"9" * 10_000, b'{"step": 3, "loss": 1.0',
    b'{"step": true, "loss": 1.0, "tokens": 3}', b'{"step": -1, "loss": 1.0, "tokens": 3}',
    b'{"step": 3, "loss": "1.0", "tokens": 3}', b'{"step": 3, "loss": 1.0, "lr": 0.1, "tokens": 3}',
    b'{"step": 3, "loss": 1.0, "tokens": 3, "kinds": [1]}',
    b'{"step": 3, "loss": 1.0, "tokens": 3, "kinds": {"recall": {"loss": 1.0}}}',
    b'{"step": 3, "loss": 1.0, "tokens": 3, "kinds": {"recall": {"loss": 1.0, "floor": null}}}',
]  # fmt: skip


def test_damaged_lines_of_metrics_are_counted_and_cost_no_others(copy, capsys):
    path = copy / "metrics.jsonl"
    lines = path.read_bytes().splitlines()
    path.write_bytes(b"\n".join([*lines[:3], *DAMAGED, *lines[3:]]) + b"\n")
    assert len(Run(copy).metrics()) == len(lines)
    said = f"{path}: {len(DAMAGED)} of {len(lines) + len(DAMAGED)} lines damaged, left out\n"
    assert capsys.readouterr().err == said
    Run(copy).plot()
    assert train.main([f"--resume={copy}", "--backend=numpy"]) == 0
    assert said in capsys.readouterr().err
    assert path.read_bytes().splitlines() == lines


# --------------------------------------------------------------------------------- settings, streams


def test_an_infinite_max_norm_trains_and_resumes(tmp_path):
    path = tmp_path / "run"
    assert train.main([*FLAGS, "--max-norm=inf", f"--out={path}"]) == 0
    assert json.loads((path / "config.json").read_text())["train"]["max_norm"] == "inf"
    assert Run(path).config.train.max_norm == math.inf
    assert train.main([f"--resume={path}", "--backend=numpy", "--max-norm=inf"]) == 0
    with pytest.raises(InputError, match="batch_size is inf"):
        TrainConfig.from_dict(TrainConfig().to_dict() | {"batch_size": "inf"})


def test_a_full_disk_names_the_file_and_what_is_saved(tmp_path, capsys, monkeypatch):
    def full(self, line):
        if line["step"] == 7:
            raise OSError(errno.ENOSPC, "No space left on device", str(self.path / "metrics.jsonl"))
        log(self, line)

    log, path = Run.log, tmp_path / "run"
    monkeypatch.setattr(Run, "log", full)
    assert train.main([*FLAGS, f"--out={path}"]) == 2
    err = capsys.readouterr().err
    assert f"{path / 'metrics.jsonl'}: No space left on device. Step 5 is saved in {path}." in err
    assert f"minigam train --resume {path}" in err


def test_an_error_while_replacing_names_the_file_and_keeps_the_old_one(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(OSError, match="No space left") as e, replacing(path) as temporary:
        temporary.write_text("new")
        raise OSError(errno.ENOSPC, "No space left on device")
    assert e.value.filename == str(path)
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no FIFOs")
def test_only_regular_files_are_replaced_and_links_followed(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "folder").mkdir()
    (tmp_path / "loop").symlink_to("loop")
    for name in ("fifo", "folder", "loop"):
        with pytest.raises(InputError, match="not a regular file"):
            write_text(tmp_path / name, "new")
    (tmp_path / "link").symlink_to("target")
    for text in ("new", "newer"):
        write_text(tmp_path / "link", text)
        assert (tmp_path / "target").read_text() == text
    assert {p.name for p in tmp_path.iterdir()} == {"fifo", "folder", "loop", "link", "target"}


def test_a_reader_that_quits_stops_the_run_after_it_is_saved(whole, tmp_path):
    path = tmp_path / "run"
    command = [sys.executable, "-m", "minigam.train", *FLAGS, f"--out={path}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
        child.stdout.readline()
        child.stdout.close()
        err = child.stderr.read()
    assert child.returncode in (1, 130), err
    assert "Traceback" not in err and "Exception ignored" not in err
    step = Run(path).saved_step()
    assert f"Step {step} is saved in {path}" in err
    assert train.main([f"--resume={path}", "--backend=numpy"]) == 0
    assert_same_run(whole, path)


@pytest.mark.skipif(sys.platform == "win32", reason="needs a POSIX shell")
@pytest.mark.parametrize("closed", ["2>&-", ">&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_closed_streams_harm_nothing(whole, tmp_path, closed):
    path = tmp_path / "run"
    command = f"{sys.executable} -m minigam.train {' '.join(FLAGS)} --out={path} {closed}"
    assert subprocess.run(["/bin/sh", "-c", command], capture_output=True).returncode == 0
    assert_same_run(whole, path)


# --------------------------------------------------------------------------------------------- locks


HOLD = """
import sys
from functools import partial
from pathlib import Path
from minigam.files import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def other_process(copy):
    """Another process that holds the lock of `copy` until its input ends."""
    command = [sys.executable, "-c", HOLD, str(copy)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        yield process


def test_a_run_in_use_is_refused(copy, other_process, capsys):
    before = {p: p.read_bytes() for p in copy.iterdir() if p.name != ".lock"}
    for flags in ([f"--resume={copy}", "--backend=numpy"], [*FLAGS, f"--out={copy}"]):
        assert_refused(train.main, flags, capsys, "in use by another process")
    assert {p: p.read_bytes() for p in before} == before
    assert generate.main([str(copy), "--backend=numpy", "--tokens=2"]) == 0  # reading harms nobody


def test_the_lock_of_a_killed_process_is_free(copy, other_process):
    other_process.kill()
    other_process.wait()
    with locked(copy):
        pass
    assert not (copy / ".lock").exists()


def test_temporary_files_of_killed_writes_go_at_the_next_start(whole, copy):
    for name in (f"{TEMPORARY}abc-loss.png", f"{TEMPORARY}xyz-optimizer.safetensors"):
        (copy / name).write_bytes(b"half")
    assert train.main([f"--resume={copy}", "--backend=numpy"]) == 0
    assert {p.name for p in copy.iterdir()} == {p.name for p in whole.iterdir()}


def test_two_trainings_without_a_folder_get_two(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    first, second = train._next_free("t.txt"), train._next_free("t.txt")
    assert [first.name, second.name] == ["t-1", "t-2"]
    assert first.is_dir() and second.is_dir()


def test_a_command_that_writes_nothing_leaves_no_folder(tmp_path):
    with pytest.raises(ValueError, match="nothing"), locked(tmp_path / "a" / "b"):
        raise ValueError("nothing written")
    assert not (tmp_path / "a" / "b").exists()
