"""The GPU benchmark without a GPU: its measurements on a CPU, its report on made-up numbers."""

import json
import sys

import numpy as np
import pytest
from helpers.bench import TINY, needs_torch
from helpers.commands import assert_refused

from benchmarks import gpu, gpu_report, measure
from minigam import GAMConfig, backend
from minigam.experiments import paper


def test_no_gpu_is_one_line(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(measure, "require", lambda *packages: None)
    monkeypatch.setitem(sys.modules, "cupy", None)
    backend._cupy.cache_clear()
    assert_refused(gpu.main, [f"--out={tmp_path}"], capsys, "CuPy cannot be imported")
    backend._cupy.cache_clear()


@pytest.mark.parametrize("competitor", [gpu.MINIGAM, pytest.param(gpu.EAGER, marks=needs_torch)])
def test_the_gpus_measurements_run_on_a_cpu_too(competitor):
    step = gpu.work("step", competitor, "float32", "cpu", 2, model=TINY.to_dict(), batch=2)
    assert len(step["times"]) == 2 and step["seconds"] > 0.0
    scale = {"batch": 2, "d_model": 8, "gam": {"n_slots": 4}}
    blocks = gpu.work("table2", competitor, "float32", "cpu", 2, scale=scale, lengths=[4, 8])["lengths"]
    assert list(blocks) == ["4", "8"] and all(c["peak_mib"] > 1.0 for c in blocks.values())


def test_running_out_of_memory_is_a_result_of_table_2(monkeypatch):
    def full(block):
        if block.x.shape[1] == 8:
            raise MemoryError

    monkeypatch.setattr(gpu.Block, "step", full)
    scale = {"batch": 2, "d_model": 8, "gam": {"n_slots": 4}}
    blocks = gpu.work("table2", gpu.MINIGAM, "float32", "cpu", 1, scale=scale, lengths=[4, 8, 16])["lengths"]
    assert blocks["4"] is not None
    assert blocks["8"] is None and blocks["16"] is None  # longer ones are not tried


@pytest.fixture
def capable(monkeypatch):
    """Let every precision be supported, without a GPU."""
    monkeypatch.setattr(gpu.backend, "get", lambda name: None)
    monkeypatch.setattr(gpu, "require", lambda xp, name: None)


def compared(names=(gpu.MINIGAM, gpu.EAGER, gpu.COMPILED), pairs=2, budget=None, part="step") -> dict:
    """Compare without saving; return the result."""
    result = {"rounds": [], "failed": {}, "left_out": None}
    budget = budget or gpu.Budget(None, 60.0, {})
    gpu.compare(result, part, "tf32", {}, list(names), pairs, budget, lambda: None)
    return result


CELL = {"seconds": 0.002, "device_mib": 200.0, "peak_mib": 100.0}


def test_a_competitor_that_fails_on_the_gpu_is_left_out_named_and_not_tried_again(monkeypatch, capable):
    tried = []

    def fresh(module, name, job, environment, limit_s):
        tried.append(job["competitor"])
        if job["competitor"] == gpu.COMPILED:
            raise measure.WorkerFailed("PyTorch compiled was stopped at its limit of 60 s")
        assert (job["precision"], limit_s) == ("tf32", 60.0)
        return CELL if job["competitor"] == gpu.MINIGAM else CELL | {"seconds": 0.003, "allocated_mib": 90.0}

    monkeypatch.setattr(measure, "fresh", fresh)
    result = compared(pairs=3)
    assert tried.count(gpu.COMPILED) == 1 and tried.count(gpu.EAGER) == 3
    assert [list(results) for results in result["rounds"]] == [[gpu.MINIGAM, gpu.EAGER]] * 3
    jobs = {"step": {"model": GAMConfig().to_dict(), "batch": 32}}
    text = " ".join(gpu_report.markdown({"step": {"tf32": result}}, jobs, 3).split())
    assert "| tf32 | 3 | 3.00 | 1.50 (1.50 to 1.50) | 200 | 1.00 (1.00 to 1.00) | 100 | 90 |" in text
    assert "Left out of step: PyTorch compiled was stopped at its limit of 60 s" in text
    gpu_report.plot({"step": {"tf32": result}})


def test_if_minigam_fails_there_are_no_rounds_and_the_reason(monkeypatch, capable):
    def fresh(module, name, job, *settings):
        raise measure.WorkerFailed(f"{name} failed")

    monkeypatch.setattr(measure, "fresh", fresh)
    result = compared()
    assert result["rounds"] == []
    assert result["failed"][gpu.MINIGAM] == "minigam, tf32, step failed"
    jobs = {"step": {"model": GAMConfig().to_dict(), "batch": 32}}
    assert "Left out of step: minigam, tf32" in gpu_report.markdown({"step": {"tf32": result}}, jobs, 1)
    gpu_report.plot({"step": {"tf32": result}})


def test_a_precision_that_the_device_lacks_is_left_out_with_its_reason(monkeypatch):
    monkeypatch.setattr(gpu.backend, "get", lambda name: np)
    assert "tf32 on numpy, no GPU" in compared()["left_out"]


def test_rounds_are_cut_to_the_time_and_one_is_always_measured(monkeypatch, capable):
    clock = [0.0]
    monkeypatch.setattr(gpu.time, "monotonic", lambda: clock[0])

    def fresh(module, name, job, environment, limit_s):
        clock[0] += 10.0
        return CELL

    monkeypatch.setattr(measure, "fresh", fresh)
    budget, one = gpu.Budget(1.0, 60.0, {}), [gpu.MINIGAM]
    assert len(compared(one, 9, budget.share(2))["rounds"]) == 3  # of its 30 s
    assert len(compared(one, 9, budget.share(1))["rounds"]) == 3  # of the 30 s left
    assert compared(one, 9, budget.share(1))["left_out"] == "step, tf32: no time left"
    budget = gpu.Budget(0.01, 60.0, {})
    assert len(compared(one, 9, budget.share(5))["rounds"]) == 1


@pytest.fixture
def quick(monkeypatch, capable):
    """Measurements that take no time."""
    monkeypatch.setattr(measure, "require", lambda *packages: None)
    monkeypatch.setattr(gpu, "environment", lambda: "a GPU")
    monkeypatch.setattr(
        gpu.provenance, "measured_by", lambda name: {"device": "a GPU", "machine": {"cores": 1}}
    )
    monkeypatch.setattr(measure, "fresh", lambda *arguments: CELL)


def test_results_are_written_after_every_round(quick, monkeypatch, tmp_path, capsys):
    seen, out = [], tmp_path / "gpu.json"

    def fresh(module, name, job, *settings):
        parts = json.loads(out.read_text())["parts"] if out.exists() else {}
        seen.append(sum(len(result["rounds"]) for cells in parts.values() for result in cells.values()))
        if job["precision"] == "tf32" and job["competitor"] == gpu.MINIGAM:
            raise measure.WorkerFailed("minigam failed")
        return CELL

    monkeypatch.setattr(measure, "fresh", fresh)
    flags = ["--parts=step", "--pairs=2", "--precisions", "tf32", "float32", "--competitors=eager"]
    with pytest.raises(measure.WorkerFailed, match="minigam failed"):  # exit code 1
        gpu.main([*flags, f"--out={tmp_path}", f"--cache={tmp_path}"])
    assert seen == [0, 0, 1, 1, 2]  # float32 comes first
    printed = capsys.readouterr().out
    assert "plan: step in float32, tf32; up to 2 rounds\n" in printed
    assert printed.count("One training step") == 1  # at the end, not after every round
    assert (tmp_path / "gpu.png").read_bytes().startswith(b"\x89PNG")


def test_minigam_is_always_measured_and_alone_needs_no_torch(quick, monkeypatch, tmp_path):
    monkeypatch.setattr(measure, "require", lambda *packages: pytest.fail("asked for a package"))
    flags = ["--parts=step", "--precisions=float32", "--competitors=minigam", "--minutes=1"]
    assert gpu.main([*flags, f"--out={tmp_path}", f"--cache={tmp_path}"]) == 0
    (step,) = json.loads((tmp_path / "gpu.json").read_text())["parts"]["step"].values()
    assert [list(results) for results in step["rounds"]] == [[gpu.MINIGAM]] * 3


def test_what_is_compiled_is_kept_in_one_folder(tmp_path, monkeypatch):
    assert gpu.caches(tmp_path)["TRITON_CACHE_DIR"] == str(tmp_path / "triton")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert gpu.caches(None)["TORCHINDUCTOR_CACHE_DIR"] == str(tmp_path / "minigam" / "gpu" / "inductor")


def test_a_worker_that_takes_too_long_is_stopped(tmp_path, monkeypatch):
    (tmp_path / "sleeping.py").write_text("import time; time.sleep(60)")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(measure.WorkerFailed, match=r"^slow was stopped at its limit of 1 s$"):
        measure.fresh("sleeping", "slow", {}, limit_s=1.0)


@needs_torch
@pytest.mark.filterwarnings("ignore:.*CUDA is not available")
def test_half_precision_of_pytorch_is_autocast():
    import torch

    from benchmarks.torch_models import autocast

    for half in ("float16", "bfloat16"):
        assert autocast(half).fast_dtype == getattr(torch, half)
    assert not autocast(None)._enabled


def test_table_2_stands_next_to_the_papers():
    def result(seconds):
        cell = {"seconds": seconds, "device_mib": 7.0, "peak_mib": 5.0}
        return {"lengths": {"256": cell, "8192": None}}

    rounds = [{gpu.MINIGAM: result(0.001)}, {gpu.MINIGAM: result(0.004)}]
    parts = {"table2": {"float32": {"rounds": rounds, "failed": {}, "left_out": None}}}
    jobs = {"table2": {"scale": {"batch": 16, "d_model": 512}, "lengths": [256, 8192]}}
    lines = gpu_report.markdown(parts, jobs, 2).splitlines()
    own = [c.strip() for c in next(x for x in lines if x.startswith("| minigam, float32")).split("|")]
    assert own[2:4] == ["2.50", "out of memory"]
    theirs = [c.strip() for c in next(x for x in lines if x.startswith("| paper: GAM")).split("|")]
    assert theirs[2:4] == [str(paper.TABLE2["gam"]["time_ms"][0]), str(paper.TABLE2["gam"]["time_ms"][-1])]
    (axes,) = gpu_report.plot(parts).axes
    assert list(axes.lines[0].get_xdata()) == [256]  # what ran out of memory is not drawn
    assert not [x for x in lines if "Left out" in x]
