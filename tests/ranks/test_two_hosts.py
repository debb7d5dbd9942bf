"""The examples for clusters, and training on two hosts, one of which drops off the network."""

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from helpers import two_hosts

from minigam import train

EXAMPLES = Path(train.__file__).parents[1] / "docs" / "examples"
SSH = EXAMPLES / "train_over_ssh.sh"
TINY = ["--stories=60", "--valid-stories=5", "--d-model=16", "--n-layers=2", "--n-slots=8", "--batch-size=8",
        "--steps=400", "--warmup-steps=5", "--eval-every=200", "--eval-rows=8", "--checkpoint-every=20",
        "--deadline=3"]  # fmt: skip


@pytest.mark.parametrize("example", sorted(EXAMPLES.iterdir()), ids=lambda path: path.name)
def test_an_example_is_a_script_whose_commands_exist(example):
    text = example.read_text(encoding="utf-8")
    shell = text.splitlines()[0].removeprefix("#!/bin/")
    checked = subprocess.run([shell, "-n", str(example)], capture_output=True, text=True)
    assert (checked.returncode, checked.stderr) == (0, "")
    known = {s for action in train.parser()._actions for s in action.option_strings}
    lines = [line for line in text.splitlines() if not line.startswith("#SBATCH")]
    used = set(re.findall(r"--[a-z][a-z-]+", " ".join(lines))) - {"--mpi"}  # of srun
    assert used >= {"--backend", "--preset", "--dataset", "--resume", "--out"}
    assert used - known == set()


def test_without_hosts_the_example_says_how_to_use_it():
    done = subprocess.run(["/bin/sh", str(SSH)], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("usage: ")


def test_a_pulled_cable_ends_in_one_line_and_the_run_resumes_to_the_same_bits(tmp_path):
    if why := two_hosts.why_not():
        pytest.skip(why)
    mpiexec = Path(sys.executable).with_name("mpiexec")
    if not mpiexec.exists():
        pytest.skip("MPICH is not installed next to this Python: make .venv/mpi")
    environment = os.environ | {"OPENBLAS_NUM_THREADS": "1", "PAUSE": "1",
                                "PATH": f"{mpiexec.parent}:{os.environ['PATH']}"}  # fmt: skip
    whole, run = tmp_path / "whole", tmp_path / "run"
    reference = [
        sys.executable,
        "-m",
        "minigam.train",
        "--backend=numpy",
        "--rank-tree",
        *TINY,
        f"--out={whole}",
    ]
    subprocess.run(reference, env=environment, check=True, capture_output=True, timeout=120)
    with two_hosts.two_hosts(tmp_path) as (on_first, reach):
        hosts = ",".join(f"{address}:1" for address in two_hosts.ADDRESSES)
        command = [*on_first, "sh", str(SSH), hosts, "2", str(run), *TINY]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        with subprocess.Popen(command, env=environment | reach, start_new_session=True, **pipes) as child:
            _wait_for_lines(run / "metrics.jsonl", 30, child)
            two_hosts.plug(False)
            message = ""
            while "trying again" not in message:
                message += child.stderr.readline()
            two_hosts.plug(True)
            _, rest = child.communicate(timeout=120)
    assert child.returncode == 0, message + rest
    lines = [line for line in message.splitlines() if line.startswith("minigam train: ")]
    assert len(lines) == 1, message
    assert "rank 1 (on host2) did not answer" in lines[0]
    assert f"--resume {run}" in message
    for name in ("model.safetensors", "optimizer.safetensors"):
        assert (run / name).read_bytes() == (whole / name).read_bytes()
    assert (run / "complete.json").read_bytes() == (whole / "complete.json").read_bytes()


def _wait_for_lines(path: Path, n: int, child: subprocess.Popen) -> None:
    end = time.monotonic() + 60
    while not (path.exists() and len(path.read_bytes().splitlines()) >= n):
        assert child.poll() is None, child.stderr.read()
        assert time.monotonic() < end, "the run has not started"
        time.sleep(0.05)
