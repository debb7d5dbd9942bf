"""The device day on the emulator: every step through the code that a device would run, at tiny sizes."""

import json
import os
import re
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from helpers import emulator
from helpers.bench import needs_torch
from helpers.children import posix
from helpers.commands import assert_refused
from helpers.fakecuda import needs_compiler

from benchmarks import device, device_work, gpu, measure

SMALL = (f"--text={measure.PROJECT / 'LICENSE'}", "--block-size=8", "--d-model=8", "--n-layers=1",
         "--batch-size=2")  # fmt: skip
TINY = device.Sizes(
    tests={"tests of kernels": ["tests/engine/test_memory.py"]},
    train=(*SMALL, "--steps=3", "--warmup-steps=1"),
    profile=(*SMALL, "--steps=2", "--warmup-steps=1"),
    model=gpu.TOY,
    batch=2,
    repeats=2,
    gpu=("--tiny", "--limit=60", "--pairs=1", "--steps=1", "--precisions=float32", "--competitors=eager"),
)


def section(title: str) -> str:
    """Return a section of docs/commands.md."""
    text = (measure.PROJECT / "docs" / "commands.md").read_text(encoding="utf-8")
    return text.partition(f"## {title}\n")[2].partition("\n## ")[0]


def step(code: str, **settings) -> device.Step:
    return device.Step("a step", [sys.executable, "-c", code], 1.0, **settings)


@pytest.fixture
def day(tmp_path):
    (tmp_path / "work").mkdir()
    (tmp_path / "out").mkdir()
    return device.Day(tmp_path / "out", tmp_path / "work", TINY, time.monotonic() + 60.0)


@needs_compiler
@needs_torch
def test_the_day_runs_from_end_to_end(tmp_path, monkeypatch, capsys):
    emulator.install(monkeypatch)
    monkeypatch.setattr(device.shutil, "which", lambda name: None)
    out = tmp_path / "out"
    code = device.main(["--minutes=10", f"--out={out}"], TINY)
    summary = json.loads((out / "summary.json").read_text())
    outcomes = {s["name"]: s["outcome"] for s in summary["steps"]}
    log = (out / "logs.txt").read_text()
    assert code == 0, log
    assert outcomes.pop("compute-sanitizer") == device.LEFT_OUT
    assert set(outcomes.values()) == {device.OK}, log
    assert "emulated GPU (no device)" in summary["environment"]
    assert sorted(p.name for p in out.iterdir()) == sorted(device.FILES)
    suites = ET.parse(out / "tests.xml").getroot()  # noqa: S314  our own tests wrote it
    assert "test_track_memory_on_a_gpu" in [t.get("name") for t in suites.iter("testcase")]
    numbers = json.loads((out / "steps.json").read_text())
    assert all(c["host_ms"] <= c["whole_ms"] for c in numbers["steps"].values())
    assert {"AdamW", "selective_scan", "written_memory", "embedding, skewed ids"} <= set(numbers["kernels"])
    assert numbers["launches"]["a training step"]["adamw"]["calls"] == 1
    parts = json.loads((out / "gpu.json").read_text())["parts"]
    for part in ("step", "table2"):
        assert list(parts[part]["float32"]["rounds"][0]) == ["minigam"]
        assert "PyTorch eager" in parts[part]["float32"]["failed"]  # this PyTorch sees no GPU
    text = (out / "summary.md").read_text()
    assert "comparison with PyTorch: ok" in text and "measured: 2 of 2" in text
    assert "two runs on CuPy are equal, bit for bit" in text
    assert "* compute-sanitizer: left out, 0.0 s. compute-sanitizer is not on PATH\n" in text
    assert "training: ok" in capsys.readouterr().out


def test_the_day_has_every_step(tmp_path):
    names = [s.name for s in device.plan(tmp_path, tmp_path, device.Sizes())]
    documented = re.findall(r"^\| ([a-z][\w -]+?) \|", section("On a GPU"), flags=re.MULTILINE)
    assert {"environment", "training", "compute-sanitizer"} <= set(documented)
    for name in names:
        assert name in documented or "test" in name, name


def test_without_cupy_the_day_stops_in_one_line(tmp_path, capsys, monkeypatch):
    (tmp_path / "cupy.py").write_text("raise ImportError('none here')")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{measure.PROJECT}")
    out = tmp_path / "out"
    assert_refused(device.main, [f"--out={out}"], capsys, "backend 'cupy': CuPy cannot be imported")
    assert not out.exists()


def test_a_step_that_is_cut_off_or_fails_keeps_its_log(day):
    day.run_step(step("print('before', flush=True); import time; time.sleep(60)"), 1.5)
    day.run_step(step("print('here'); raise ValueError('broken')"), 30.0)
    day.run_step(step("", missing="no such tool"), 30.0)
    day.run_step(step(""), 0.5)
    assert [s["outcome"] for s in day.steps] == [
        device.CUT_OFF,
        device.FAILED,
        device.LEFT_OUT,
        device.LEFT_OUT,
    ]
    assert [s["detail"] for s in day.steps] == [
        "before",
        "ValueError: broken",
        "no such tool",
        "no time left",
    ]
    day.write()
    assert "before" in (day.out / "logs.txt").read_text()
    assert "* a step: cut off at its limit, 1." in (day.out / "summary.md").read_text()


def test_tests_that_are_cut_off_leave_their_results(day, tmp_path):
    (tmp_path / "test_slow.py").write_text("import time\ndef test_a(): pass\ndef test_b(): time.sleep(60)\n")
    command = [sys.executable, "-m", "pytest", f"--junitxml={day.folder}/0.xml", "-p", "no:cacheprovider",
               f"--rootdir={tmp_path}", "-c", os.devnull, str(tmp_path / "test_slow.py")]  # fmt: skip
    day.run_step(device.Step("tests", command, 1.0), 3.0)
    day.write()
    assert day.steps[0]["outcome"] == device.CUT_OFF
    assert 'name="test_a"' in (day.out / "tests.xml").read_text()


@posix
def test_ctrl_c_leaves_the_summary(tmp_path):
    code = (
        "import sys, time; from benchmarks import device, measure\n"
        "wait = device.Step('waits', [sys.executable, '-c', 'import time; time.sleep(60)'], 1.0)\n"
        "device.plan = lambda *_: [wait, wait]\n"
        "device.task = lambda *_: [sys.executable, '-c', 'print(1)']\n"
        f"measure.run(lambda: device.main(['--out={tmp_path / 'out'}']), None, 'benchmarks.device')"
    )
    with subprocess.Popen([sys.executable, "-c", code], cwd=measure.PROJECT, stderr=subprocess.PIPE) as child:
        try:
            summary = tmp_path / "out" / "summary.json"
            deadline = time.monotonic() + 60.0
            while not summary.exists() and time.monotonic() < deadline:
                time.sleep(0.05)
            time.sleep(0.5)
            child.send_signal(signal.SIGINT)
            _, err = child.communicate(timeout=30.0)
        finally:
            child.kill()
    assert child.returncode == 130, err
    steps = json.loads(summary.read_text())["steps"]
    assert [s["outcome"] for s in steps] == [device.OK, "interrupted"]


@posix
def test_what_a_process_has_started_ends_with_it(tmp_path):
    mark = tmp_path / "pid"
    code = (
        "import subprocess, sys, time; child = subprocess.Popen(['sleep', '60']); "
        f"open({str(mark)!r}, 'w').write(str(child.pid)); time.sleep(60)"
    )
    with pytest.raises(subprocess.TimeoutExpired):
        measure.supervised([sys.executable, "-c", code], 1.5)
    pid = int(mark.read_text())
    deadline = time.monotonic() + 10.0
    while time.monotonic() < deadline:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return
        status = Path(f"/proc/{pid}/status")
        if status.exists() and "\nState:\tZ" in status.read_text(
            encoding="utf-8"
        ):  # it has ended, and nobody asked
            return
        time.sleep(0.05)
    raise AssertionError("the process lives on")


def test_the_first_tests_are_the_most_worthy_and_exist():
    groups = device.tests_by_step()
    assert list(groups) == ["tests of kernels", "tests of rules", "tests of operations", "other tests"]
    files = [name for names in groups.values() for name in names]
    assert len(files) == len(set(files))
    assert all((measure.PROJECT / name).exists() for name in files)
    assert "tests/models/test_gam.py" in groups["other tests"]


def test_a_test_file_whose_package_is_missing_is_left_out_and_named(tmp_path, monkeypatch):
    (tmp_path / "test_a.py").write_text("import os\nfrom helpers import tiny\n")
    (tmp_path / "test_b.py").write_text("import os\nimport no_such_package\n")
    monkeypatch.setattr(device, "test_files", lambda: sorted(tmp_path.glob("test_*.py")))
    monkeypatch.setattr(measure, "PROJECT", tmp_path)
    assert device.tests_by_step()["other tests"] == ["test_a.py"]
    last = device.plan(tmp_path, tmp_path, device.Sizes())[-1]
    assert (last.name, last.missing) == ("test_b.py", "needs a package that is not installed")


@pytest.mark.parametrize(
    ("change", "wanted"),
    [
        ({}, None),
        ({"numpy": 1.001}, "losses on CuPy and NumPy differ by 1.0e-03"),
        ({"again": 1.0 + 1e-9}, "two runs on CuPy have different losses"),
        ({"state": b"other"}, "two runs on CuPy have the same losses and a different model.safetensors"),
    ],
)
def test_runs_that_differ_are_reported(change, wanted, tmp_path, monkeypatch):
    def train(*flags):
        folder = tmp_path / flags[1].rpartition("/")[2]
        folder.mkdir()
        for file in device_work.STATE:
            (folder / file).write_bytes(change.get("state", b"same") if folder.name == "again" else b"same")

    class Run:
        def __init__(self, path):
            self.factor = change.get(path.name, 1.0)

        def metrics(self):
            return [{"loss": 2.0 * self.factor}]

    monkeypatch.setattr(device_work, "train", train)
    monkeypatch.setattr(device_work, "Run", Run)
    if wanted is None:
        assert "equal, bit for bit" in device_work.training(str(tmp_path), [])
        return
    with pytest.raises(measure.WorkerFailed, match=wanted):
        device_work.training(str(tmp_path), [])
