"""The benchmarks: what workers report, ratios within a round, and what the commands refuse."""

import json
import mmap
import os
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from helpers import tiny
from helpers.bench import TINY, flops_of_a_step, needs_torch
from helpers.commands import assert_refused
from helpers.rules import needs_kernels

from benchmarks import environment, generate, gpu, measure, scaling, threads, train_step
from minigam import threads as own_threads
from minigam.experiments import report
from minigam.models.decoding import Stream

needs_all = pytest.mark.skipif(
    not all(map(measure.find_spec, ("torch", "threadpoolctl", "autograd", "scipy"))),
    reason="measures every competitor: pip install -e '.[bench]'",
)


# ---------------------------------------------------------------------------------- arithmetic


def made_up(*rows: tuple[float, float]) -> list[dict]:
    """Rounds in which "ours" takes the first number of seconds and "theirs" the second."""
    return [
        {"ours": {"seconds": a, "peak_mib": 10.0}, "theirs": {"seconds": b, "peak_mib": 25.0}}
        for a, b in rows
    ]


def test_ratios_are_those_of_one_round():
    rounds = made_up((1.0, 2.0), (10.0, 30.0), (2.0, 8.0))  # the machine was slow for a while
    summary = measure.summary(rounds, "ours")
    assert summary["theirs"]["time_ratio"] == {"median": 3.0, "least": 2.0, "most": 4.0}
    assert summary["theirs"]["seconds"] == 8.0
    assert summary["theirs"]["memory_ratio"] == {"median": 2.5, "least": 2.5, "most": 2.5}
    assert summary["ours"]["time_ratio"] == {"median": 1.0, "least": 1.0, "most": 1.0}
    assert measure.shown(summary["theirs"]["time_ratio"]) == "3.00 (2.00 to 4.00)"


def test_every_other_round_is_in_reverse_order():
    order = []

    def competitor(name):
        return lambda: order.append(name) or {"name": name}

    rounds = measure.rounds({name: competitor(name) for name in "abc"}, 2, "")
    assert order == list("abccba")
    assert [list(results) for results in rounds] == [list("abc")] * 2
    assert all(r["name"] == name for results in rounds for name, r in results.items())


def test_warm_up_steps_are_not_timed(monkeypatch):
    moments = iter([0.0, 5.0, 10.0, 11.0, 20.0, 22.0])
    monkeypatch.setattr(measure.time, "perf_counter", lambda: next(moments))
    calls = []
    result = measure.timed(lambda: calls.append(0), warm_up=2, steps=3)
    assert len(calls) == 5
    assert result == {"seconds": 2.0, "times": [5.0, 1.0, 2.0]}


def test_linear_memory_is_the_same_for_every_token():
    cells = {T: {"peak_mib": 7.0 + T / 1024} for T in (256, 512, 2048)} | {4096: {"peak_mib": None}}
    assert scaling.growth(cells) == pytest.approx([1.0, 1.0])


def test_each_window_holds_one_move_of_the_decoder(monkeypatch):
    model = tiny.gam(block_size=6)
    moved, restart, tokens = [], Stream._restart, []

    def noticing(stream):
        moved.append(len(tokens))
        restart(stream)

    text = model.continuation(tiny.draw_ids(model, 1, 6), 999)
    next(text)  # reads the prompt
    monkeypatch.setattr(Stream, "_restart", noticing)
    while len(tokens) < 300:
        tokens.append(next(text))
    for p in (1, 2, 100, 250):
        w = generate.window(p, generate.period_of(6))
        assert w.start <= p <= w.stop
        assert sum(w.start <= m < w.stop for m in moved) == 1, p
    assert generate.window(1000, 128) == slice(936, 1064)
    assert generate.window(10, 128) == slice(0, 128)
    assert generate.positions(10_000) == [100, 1000, 10_000]
    assert generate.positions(250) == [100, 250]
    assert generate.positions(7) == [7]


def test_speed_along_a_text_is_compared_within_its_round():
    def at(first, last):
        cell = {"held_mib": 5.0}
        return {
            "GAM": {
                "at": {"100": cell | {"median": first, "mean": 2 * first},
                       "1000": cell | {"median": last, "mean": 3 * last}}
            }
        }  # fmt: skip

    along = generate.along([at(1.0, 1.5), at(10.0, 10.0), at(1.0, 2.0)], "GAM")
    assert along["1000"]["median_ratio"] == {"median": 1.5, "least": 1.0, "most": 2.0}
    assert along["1000"]["mean_ratio"]["median"] == pytest.approx(2.25)
    assert along["100"]["tokens_per_second"] == pytest.approx(0.5)


# ------------------------------------------------------------------------------------ workers


def toy_job(**changes) -> dict:
    job = {"kind": "products", "model": TINY.to_dict(), "batch": 2, "warm_up": 1, "steps": 2}
    return job | changes


@pytest.mark.skipif(not measure.find_spec("threadpoolctl"), reason="a worker reports its libraries")
def test_a_workers_memory_is_its_own():
    ballast = np.ones(400 * measure.MIB, dtype=np.uint8)  # a child inherits this in Linux's ru_maxrss
    result = measure.fresh(train_step.PROG, train_step.BOUND, toy_job())
    assert 10.0 < result["peak_mib"] < ballast.nbytes / measure.MIB
    assert len(result["times"]) == 2
    assert "threads" in result["libraries"]["blas"]


def test_peak_and_present_memory_are_of_this_process():
    before, size = measure.held_bytes(), 200 * measure.MIB
    with mmap.mmap(-1, size) as ballast:  # from the system: malloc could reuse freed memory
        ballast.write(bytes(size))
        assert measure.held_bytes() - before > size * 3 // 4 or sys.platform != "linux"
    assert measure.peak_bytes() >= size


def test_a_worker_that_fails_is_one_line_with_its_name(capsys):
    with pytest.raises(
        measure.WorkerFailed, match=r"^PyTorch tuned failed with exit code 1: KeyError: 'no'$"
    ):
        measure.fresh(train_step.PROG, "PyTorch tuned", toy_job(kind="no"))

    def main():
        raise measure.WorkerFailed("PyTorch tuned failed")

    with pytest.raises(SystemExit) as exit:
        measure.run(main, train_step.work, "benchmarks.x")
    assert exit.value.code == 1
    assert capsys.readouterr().err == "benchmarks.x: PyTorch tuned failed\n"


# ------------------------------------------------------------------------------------ commands


def test_a_result_names_the_command_that_made_it(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/somewhere/x.py", "--out", "a folder"])
    for module, name in (("benchmarks.x", "python -m benchmarks.x"), ("minigam.x.__main__", "minigam x")):
        running = SimpleNamespace(__spec__=SimpleNamespace(name=module))
        monkeypatch.setitem(sys.modules, "__main__", running)
        assert report.command() == f"{name} --out 'a folder'"


@needs_all
def test_a_step_is_measured_end_to_end(monkeypatch, tmp_path, capsys):
    toy = train_step.Size(TINY, batch=4, warm_up=1, steps=2, autograd=True, compilers=True, busy=True)
    monkeypatch.setenv("TORCH_COMPILE_DISABLE", "1")  # a minute of compilation
    monkeypatch.setitem(train_step.CONFIGS, "small", toy)
    monkeypatch.setattr(train_step, "MALLOC", {"default malloc": {}})
    assert train_step.main(["--config", "small", "--pairs", "1", "--out", str(tmp_path)]) == 0
    content = json.loads((tmp_path / "train_step.json").read_text())
    small = content["configs"]["small"]
    (results,) = small["rounds"]
    assert list(small["sweep"]) == ["4 rows at a time, default malloc"]
    losses = [results[name]["first_loss"] for name in (train_step.MINIGAM, train_step.AUTOGRAD)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)  # the same weights and the same text
    for name in (train_step.REFERENCE, train_step.TORCH, train_step.TUNED, train_step.BOUND):
        ratio = results[name]["seconds"] / results[train_step.MINIGAM]["seconds"]
        assert small["summary"][name]["time_ratio"]["median"] == pytest.approx(ratio)
        assert len(results[name]["times"]) == 2
    assert small["floor_flops"] == flops_of_a_step(TINY, 4 * TINY.block_size)
    assert "torch" in results[train_step.TUNED]["libraries"]
    assert "torch" not in results[train_step.MINIGAM]["libraries"]
    assert train_step.COMPILED in results
    if measure.find_spec("jax"):
        assert results[train_step.JAX]["first_loss"] == pytest.approx(losses[0], rel=1e-5)
    else:
        assert small["failed"] == {train_step.JAX: "JAX, jit: jax is not installed"}
    assert list(small["busy"]["summary"]) == [train_step.MINIGAM, train_step.TORCH]
    assert "; kernels compiled by " in content["environment"] or "reference rules" in content["environment"]
    out, text = capsys.readouterr().out, (tmp_path / "train_step.md").read_text()
    assert out.startswith(content["environment"]) and text.startswith(content["environment"])
    assert "V 7, T 6, C 4, L 2, S 3, K 3, B 4, dropout 0.0" in text
    assert (tmp_path / "train_step.png").read_bytes().startswith(b"\x89PNG")


def test_a_compiler_that_fails_is_omitted_with_its_reason(monkeypatch, tmp_path, no_workers):
    failing = {train_step.COMPILED: 1, train_step.JAX: 2}  # in these rounds

    def fresh(module, name, job, settings=None):
        label = name.removesuffix(", small")
        if label in failing:
            failing[label] -= 1
            if failing[label] == 0:
                raise measure.WorkerFailed(f"{name} failed with exit code 1: no compiler")
        return {"seconds": 1.0, "peak_mib": 1.0, "flops": 1}

    monkeypatch.setattr(measure, "fresh", fresh)
    monkeypatch.setattr(measure, "find_spec", lambda name: True)
    assert train_step.main(["--config", "small", "--pairs", "3", f"--out={tmp_path}"]) == 0
    small = json.loads((tmp_path / "train_step.json").read_text())["configs"]["small"]
    assert list(small["failed"]) == list(failing)
    assert all(label not in small["summary"] for label in failing)
    text = (tmp_path / "train_step.md").read_text()
    assert text.count(", small failed with exit code 1: no compiler.\n") == 2
    assert "| next to one busy core |" in text


def test_a_core_is_busy_only_meanwhile(monkeypatch):
    children, popen = [], subprocess.Popen

    def noticing(*args, **settings):
        children.append(popen(*args, **settings))
        return children[-1]

    monkeypatch.setattr(subprocess, "Popen", noticing)
    with pytest.raises(KeyboardInterrupt), measure.busy_core():
        assert children[0].poll() is None
        raise KeyboardInterrupt
    assert children[0].poll() is not None


def answers(module, name, job, settings=None):
    """A worker that answers without measuring: twice the length takes twice as long."""
    seconds = 0.001 * job.get("length", 1)
    cell = {"median": seconds, "mean": seconds, "held_mib": 90.0}
    peak = 50.0 + job.get("length", 0)
    return {"seconds": seconds, "peak_mib": peak, "before_mib": 50.0, "at": {str(job.get("tokens")): cell}}


@pytest.fixture
def no_workers(monkeypatch):
    monkeypatch.setattr(measure, "require", lambda *packages: None)
    monkeypatch.setattr(measure, "fresh", answers)
    monkeypatch.setattr(environment, "line", lambda: "a machine")


def test_scaling_writes_exponents_and_leaves_out_what_does_not_fit(no_workers, tmp_path):
    flags = ["--lengths", "64", "16", "32", "--pairs", "2", "--memory", "0.04", "--out", str(tmp_path)]
    assert scaling.main(flags) == 0
    content = json.loads((tmp_path / "scaling.json").read_text())
    gam = content["cells"]["minigam GAM"]
    assert list(gam) == ["16", "32", "64"]
    assert (gam["32"]["time_ms"], gam["32"]["peak_mib"]) == (32.0, 32.0)
    assert gam["64"]["time_ms"] is None  # 64 MiB expected
    assert gam["64"]["foreseen_mib"] == pytest.approx(64.0)
    assert content["exponents"]["minigam GAM"]["peak_mib"] == pytest.approx(1.0)
    assert content["wide"]["peak_mib"] == 50.0 + 8192
    text = (tmp_path / "scaling.md").read_text()
    assert "left out" in text and "8242 MiB" in text and text.startswith("a machine\n")
    assert (tmp_path / "scaling.png").read_bytes().startswith(b"\x89PNG")


def test_generation_is_reported_along_the_text(no_workers, tmp_path):
    flags = ["--tokens=7", "--peer-tokens=9", "--models=mamba", "--pairs=2", f"--out={tmp_path}"]
    assert generate.main(flags) == 0
    content = json.loads((tmp_path / "generate.json").read_text())
    assert list(content["summary"]) == ["minigam GAM", "minigam Mamba", generate.TORCH]
    assert content["speedup"] == {"median": 1.0, "least": 1.0, "most": 1.0}
    text = (tmp_path / "generate.md").read_text()
    assert text.count(" 1000 |") == 3  # tokens a second, all three
    assert (tmp_path / "generate.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("kind", ["minigam", pytest.param("torch", marks=needs_torch)])
def test_a_text_is_continued_and_timed(kind):
    result = generate.work(kind, "gam", TINY.to_dict(), tokens=110)
    assert list(result["at"]) == ["100", "110"]
    for cell in result["at"].values():
        assert cell["median"] > 0.0 and cell["mean"] > 0.0 and cell["held_mib"] > 1.0


@pytest.mark.parametrize(("library", "model_type"), scaling.LINES.values(), ids=scaling.LINES)
def test_a_step_of_any_length_is_measured(library, model_type):
    if library == "torch":
        pytest.importorskip("torch", reason="measures PyTorch")
    config = scaling.CONFIGS[model_type].to_dict() | {"d_model": 8, "n_layers": 1, "vocab_size": 9}
    result = scaling.work(library, model_type, config, length=12, steps=2)
    assert len(result["times"]) == 2 and result["before_mib"] > 1.0


@needs_kernels
@pytest.mark.skipif(not measure.find_spec("threadpoolctl"), reason="a worker reports its libraries")
def test_kernels_are_timed_end_to_end(monkeypatch, tmp_path):
    toy = train_step.Size(TINY, batch=4, warm_up=1, steps=2, autograd=False)
    monkeypatch.setitem(train_step.CONFIGS, "small", toy)
    monkeypatch.setattr(threads, "LARGE", 1000)
    monkeypatch.setattr(measure, "require", lambda *packages: None)
    monkeypatch.setattr(environment, "line", lambda: "a machine")
    flags = ["--config=small", "--pairs=2", "--steps=1", "--threads", "2", "1", f"--out={tmp_path}"]
    assert threads.main(flags) == 0
    content = json.loads((tmp_path / "threads.json").read_text())
    assert content["measured"]["kernels"] == "compiled"
    small = content["configs"]["small"]
    orders = [list(r["rules"]["gelu"]["seconds"]) for r in small["rounds"]]
    assert orders == [["1", "2"], ["2", "1"]]
    gelu = small["summary"]["gelu"]
    assert gelu["elements"] == 4 * TINY.block_size * 4 * TINY.d_model
    speed = gelu["elements"] * 20 / gelu["seconds"]["2"] / 1e9
    assert gelu["gb_per_s"]["2"] == pytest.approx(speed)
    assert set(small["summary"]) >= {"selective_scan", "bias of linear", "AdamW", threads.SUM, threads.STEP}
    text = (tmp_path / "threads.md").read_text()
    assert text.startswith("a machine\n") and "memory bandwidth" in text
    assert (tmp_path / "threads.png").read_bytes().startswith(b"\x89PNG")


def test_speedups_are_those_of_one_round():
    times = [(4.0, 2.0), (9.0, 3.0), (1.0, 1.0)]
    cells = [{"elements": 10**9, "bytes": 4.0, "flops": 1, "seconds": {"1": a, "2": b}} for a, b in times]
    result = threads.summary(cells, [1, 2])
    assert result["speedup"] == {"median": 2.0, "least": 1.0, "most": 3.0}
    assert result["gb_per_s"] == {"1": 1.0, "2": 2.0}
    assert threads.summary(cells, [1])["speedup"]["most"] == 1.0


def test_kernels_that_are_not_compiled_are_refused(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(measure, "require", lambda *packages: None)
    monkeypatch.setattr(threads.kernels, "in_use", lambda: "reference")
    assert_refused(threads.main, [f"--out={tmp_path}"], capsys, "compiler")


def test_the_benchmarks_compute_on_all_cores():
    """benchmarks imports minigam before NumPy, or OpenBLAS's spinning threads would occupy the cores."""
    script = "import benchmarks.threads; from minigam import threads; print(threads.FREE)"
    environment = {k: v for k, v in os.environ.items() if k != own_threads.WAIT}
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=measure.PROJECT, env=environment, capture_output=True, text=True
    )
    assert done.stdout == "True\n", done.stderr


@pytest.mark.parametrize("command", [train_step, scaling, generate, gpu, threads])
def test_rounds_and_folders_are_refused_before_anything_runs(command, capsys, tmp_path):
    (tmp_path / "file").write_text("")
    assert_refused(command.main, ["--pairs=0"], capsys, "--pairs is 0", "at least 1")
    assert_refused(command.main, [f"--out={tmp_path / 'file'}"], capsys, "--out", "folder")
    assert_refused(command.main, ["--parts=none", "--pears=1"], capsys, "--")


@pytest.mark.parametrize(
    ("command", "flags", "wanted"),
    [
        (train_step, ["--steps=0"], "--steps is 0"),
        (train_step, ["--config=huge"], "'huge'"),
        (scaling, ["--lengths", "256", "0"], "--lengths is 0"),
        (scaling, ["--memory=nan"], "--memory is nan"),
        (generate, ["--tokens=0"], "--tokens is 0"),
        (generate, ["--peer-tokens=0"], "--peer-tokens is 0"),
        (gpu, ["--precisions=int8"], "'int8'"),
        (gpu, ["--steps=0"], "--steps is 0"),
        (threads, ["--steps=0"], "--steps is 0"),
        (threads, ["--threads", "2", "0"], "--threads is 0"),
    ],
)
def test_numbers_are_refused(command, flags, wanted, capsys):
    assert_refused(command.main, flags, capsys, wanted)


@pytest.mark.parametrize("command", [train_step, scaling, generate, gpu, threads, environment])
def test_a_competitor_that_is_not_installed_is_one_line(command, capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(measure, "find_spec", lambda name: None)
    flags = [] if command is environment else [f"--out={tmp_path}"]
    assert_refused(command.main, flags, capsys, "torch is not installed", ".[bench]")
