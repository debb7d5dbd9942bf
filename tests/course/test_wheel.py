"""The course without a clone: from the installed wheel, in an empty folder, without a network."""

import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

pytest.importorskip("hatchling", reason="needs hatchling, jupytext and nbclient (the group `test`)")
pytest.importorskip("jupytext", reason="needs hatchling, jupytext and nbclient (the group `test`)")
pytest.importorskip("nbclient", reason="needs hatchling, jupytext and nbclient (the group `test`)")

PROJECT = Path(__file__).parents[2]
NO_NETWORK = """
import socket
connect = socket.socket.connect
def local_only(self, address):
    if self.family != socket.AF_UNIX and address[0] != "127.0.0.1":  # a kernel is reached over 127.0.0.1
        raise OSError(f"no network: {address}")
    return connect(self, address)
socket.socket.connect = local_only
"""
SOLVE = """
import re, sys
from pathlib import Path
import nbformat
import minigam
from minigam.course import check, notebooks

assert Path(minigam.__file__).is_relative_to(sys.prefix), minigam.__file__
folder, solved, runs = Path("minigam-course"), 0, ("00", "13")
for path in sorted(folder.glob("*.ipynb")):
    notebook, names = nbformat.read(path, as_version=4), {}
    for cell, called, folded in zip(notebook.cells, notebook.cells[1:], notebook.cells[2:]):
        if "setup" in cell.metadata.get("tags", ()):
            exec(cell.source, names)
        if "exercise" in cell.metadata.get("tags", ()):
            assert notebooks.STUB in cell.source
            cell.source = re.search(r"```python\\n(.*)\\n```", folded.source, re.S)[1]
            exec(cell.source, names)
            if path.name[:2] not in runs:
                exec(called.source, names)
                solved += 1
    if path.name[:2] in runs:  # these run whole: stored weights, and stored results
        notebooks.execute(notebook, folder)
        output = [o.text for c in notebook.cells if c.cell_type == "code" for o in c.outputs if "text" in o]
        solved += len(re.findall(r"^Exercise \\d\\d\\.\\d: right", "".join(output), re.M))
total = sum(len(notebooks.exercises(notebooks.read(s))) for s in notebooks.sources())
print(f"solved {solved} of {total}")
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """Build the wheel, install it alone into an environment of its own; return that environment's Python."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(build, cwd=PROJECT, check=True, capture_output=True)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder / "env")], check=True)
    python = folder / "env" / ("Scripts" if sys.platform == "win32" else "bin") / Path(sys.executable).name
    packages = subprocess.run(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        check=True, capture_output=True, text=True,
    ).stdout.strip()  # fmt: skip
    (wheel,) = folder.glob("*.whl")
    shutil.unpack_archive(wheel, packages, "zip")
    # What minigam depends on is read from the environment of the tests. Its .pth files are not, so the clone
    # is not found.
    (Path(packages) / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    (Path(packages) / "sitecustomize.py").write_text(NO_NETWORK, encoding="utf-8")
    return python


def run(python, folder, *args):
    done = subprocess.run([python, *args], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_all_exercises_are_solved_from_the_wheel(installed, tmp_path):
    assert "17 notebooks written" in run(installed, tmp_path, "-m", "minigam", "course", "exercises")
    _, solved, _, total = run(installed, tmp_path, "-c", SOLVE).splitlines()[-1].split()
    assert solved == total != "0"
    assert {p.name for p in tmp_path.iterdir()} == {"minigam-course"}, "nothing else is written"


def test_the_wheel_trains_and_explains(installed, tmp_path):
    small = ["--stories", "20", "--valid-stories", "4", "--steps", "2", "--d-model", "8", "--n-layers", "1"]
    run(installed, tmp_path, "-m", "minigam", "train", "--kernels", "reference", *small, "--out", "run")
    run(installed, tmp_path, "-m", "minigam", "explain", "run", "--rows", "2", "--prompt", "Once upon a time")
    assert (tmp_path / "explain.html").stat().st_size > 10_000
