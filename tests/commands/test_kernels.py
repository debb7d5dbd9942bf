"""--kernels: which rules compute on the CPU, and that a run continues with those that it started with."""

import json
import shutil

import numpy as np
import pytest
from helpers.commands import SMALL, assert_refused, call
from helpers.rules import needs_kernels

from minigam import Tensor, backend, evaluate, generate, ops, reference_only, train
from minigam.engine.compiled import kernels
from minigam.experiments.__main__ import main as experiments
from minigam.explain.__main__ import main as explain
from minigam.files import write_json
from minigam.gradcheck.__main__ import main as gradcheck
from minigam.training.run import Run

COMMANDS = {
    "train": train.main, "generate": generate.main, "evaluate": evaluate.main, "explain": explain,
    "experiments": lambda argv: experiments(["table3", *argv]), "gradcheck": gradcheck,
}  # fmt: skip


@pytest.fixture(autouse=True)
def compiled_again():
    yield
    kernels.choose("compiled")


def gelu() -> np.ndarray:
    return ops.gelu(Tensor(np.linspace(-3.0, 3.0, 999, dtype="float32"))).data


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_that_computes_takes_the_flag(name, capsys):
    code, out, _ = call(COMMANDS[name], ["--help"], capsys)
    assert code == 0
    assert "--kernels {compiled,reference}" in out
    assert "(default: compiled)" in out


@needs_kernels
def test_reference_means_the_reference_rules_until_compiled_is_chosen():
    with reference_only():
        want = gelu()
    assert (gelu() != want).any()  # in the last bits
    kernels.choose("reference")
    np.testing.assert_array_equal(gelu(), want)
    assert (kernels.in_use(), kernels.compiler_name()) == ("reference", None)
    kernels.choose("compiled")
    assert (gelu() != want).any()


@needs_kernels
@pytest.mark.parametrize(("first", "then"), [("compiled", "reference"), ("reference", "compiled")])
def test_a_run_continues_with_the_rules_that_it_started_with(first, then, tmp_path, capsys):
    path = tmp_path / "run"
    assert train.main([*SMALL, f"--out={path}", f"--kernels={first}"]) == 0
    record = json.loads((path / "machine.json").read_text())
    assert record["kernels"] == first
    assert (record["compiler"] is None) == (first == "reference")
    assert record["machine"]["processor"]
    files = {file: file.read_bytes() for file in path.iterdir()}
    capsys.readouterr()
    resume = [f"--resume={path}", "--backend=numpy"]
    assert_refused(train.main, [*resume, f"--kernels={then}"], capsys,
                   f"{path}: started with --kernels {first}, here the rules are {then}")  # fmt: skip
    assert {file: file.read_bytes() for file in path.iterdir()} == files
    assert train.main([*resume, f"--kernels={first}"]) == 0


@pytest.mark.parametrize("content", [{}, {"kernels": None}, None])
def test_a_run_that_does_not_say_its_rules_is_resumed(content, run_folder, tmp_path):
    path = shutil.copytree(run_folder, tmp_path / "run")
    (path / "machine.json").unlink()
    if content is not None:
        write_json(path / "machine.json", content)
    Run(path).resume()


@pytest.mark.parametrize("content", ["", "[1]", '{"kernels": "another"}'])
def test_a_damaged_record_is_refused(content, run_folder, tmp_path, capsys):
    path = shutil.copytree(run_folder, tmp_path / "run")
    (path / "machine.json").write_text(content)
    assert_refused(train.main, [f"--resume={path}", "--backend=numpy"], capsys, str(path))


def test_reference_rules_on_a_gpu_are_refused(monkeypatch, capsys):
    monkeypatch.setattr(backend, "choose", lambda name: ("cupy", "a GPU answers"))
    assert_refused(train.main, [*SMALL, "--kernels=reference"], capsys, "--kernels reference has no effect")
