"""The GPU benchmark without a GPU: its measurements on a CPU, its report on made-up numbers."""

import sys

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


def test_a_competitor_that_fails_on_the_gpu_is_left_out_and_named(monkeypatch):
    def fresh(module, name, job):
        if job["competitor"] == gpu.COMPILED:
            raise measure.WorkerFailed("PyTorch compiled failed: no compiler")
        assert job["precision"] == "tf32"
        return {"seconds": 0.002 if job["competitor"] == gpu.MINIGAM else 0.003, "peak_mib": 100.0}

    monkeypatch.setattr(measure, "fresh", fresh)
    result = gpu.compare("step", "tf32", {}, 2)
    assert [list(results) for results in result["rounds"]] == [[gpu.MINIGAM, gpu.EAGER]] * 2
    jobs = {"step": {"model": GAMConfig().to_dict(), "batch": 32}}
    text = gpu_report.markdown({"step": {"tf32": result}}, jobs, 2)
    assert "3.00 | 1.50 (1.50 to 1.50)" in " ".join(text.split())
    assert "Left out of step: PyTorch compiled failed: no compiler" in text
    gpu_report.plot({"step": {"tf32": result}})


def test_minigam_may_not_be_left_out(monkeypatch):
    def fresh(module, name, job):
        raise measure.WorkerFailed(name)

    monkeypatch.setattr(measure, "fresh", fresh)
    with pytest.raises(measure.WorkerFailed, match="minigam, float32, step"):
        gpu.compare("step", "float32", {}, 1)


def test_table_2_stands_next_to_the_papers():
    def result(seconds):
        return {"lengths": {"256": {"seconds": seconds, "peak_mib": 5.0}, "8192": None}}

    rounds = [{gpu.MINIGAM: result(0.001)}, {gpu.MINIGAM: result(0.004)}]
    parts = {"table2": {"float32": {"rounds": rounds, "failed": {}}}}
    jobs = {"table2": {"scale": {"batch": 16, "d_model": 512}, "lengths": [256, 8192]}}
    lines = gpu_report.markdown(parts, jobs, 2).splitlines()
    own = [c.strip() for c in next(x for x in lines if x.startswith("| minigam, float32")).split("|")]
    assert own[2:4] == ["2.50", "out of memory"]
    theirs = [c.strip() for c in next(x for x in lines if x.startswith("| paper: GAM")).split("|")]
    assert theirs[2:4] == [str(paper.TABLE2["gam"]["time_ms"][0]), str(paper.TABLE2["gam"]["time_ms"][-1])]
    (axes,) = gpu_report.plot(parts).axes
    assert list(axes.lines[0].get_xdata()) == [256]  # what ran out of memory is not drawn
    assert not [x for x in lines if "Left out" in x]
