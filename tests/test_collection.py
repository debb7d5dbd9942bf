"""The GPU tests start wherever NumPy, pytest and hypothesis are: no extra, no clone, no installed minigam."""

import os
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path
from shutil import copy, copytree, ignore_patterns

from packaging.requirements import Requirement  # pytest needs it too
from packaging.utils import canonicalize_name

PROJECT = Path(__file__).parents[1]
CORE = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["dependencies"]

WITHOUT = """
import sys
from importlib import metadata
hidden, *arguments = sys.argv[1:]
for name in hidden.split():
    sys.modules.setdefault(name, None)  # its import fails
find = metadata.Distribution.from_name
def from_name(name):
    if name == "minigam":
        raise metadata.PackageNotFoundError(name)
    return find(name)
metadata.Distribution.from_name = from_name
import pytest
sys.exit(pytest.main(["-p", "_hypothesis_pytestplugin", "-p", "no:cacheprovider", *arguments]))
"""


def needed(*requirements: str) -> set[str]:
    """Return the names of these packages and of all that they need."""
    todo, names = [Requirement(r) for r in requirements], set()
    while todo:
        name = canonicalize_name(todo.pop().name)
        if name not in names:
            names.add(name)
            more = map(Requirement, metadata.requires(name) or [])
            todo += [r for r in more if r.marker is None or r.marker.evaluate({"extra": ""})]
    return names


def modules_of_extras() -> set[str]:
    """Return the modules of the packages that are installed and not needed."""
    kept = needed(*CORE, "pytest", "hypothesis") | {"minigam"}
    return {
        module
        for module, packages in metadata.packages_distributions().items()
        if kept.isdisjoint(map(canonicalize_name, packages))
    }


def run(folder: Path, hidden: set[str], *arguments: str, **variables: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", WITHOUT, " ".join(hidden), *arguments],
        env=os.environ | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "HYPOTHESIS_NO_PLUGINS": "1"} | variables,
        cwd=folder, capture_output=True, text=True,
    )  # fmt: skip


def test_the_gpu_tests_are_found_without_extras_clone_and_installation(tmp_path):
    for folder in ("benchmarks", "docs", "minigam", "notebooks", "tests"):
        copytree(PROJECT / folder, tmp_path / folder, ignore=ignore_patterns("__pycache__", "exercises"))
    for path in filter(Path.is_file, PROJECT.glob("[!.]*.*")):
        copy(path, tmp_path)
    done = run(tmp_path, modules_of_extras(), "--collect-only", "-q", "-m", "gpu", MINIGAM_REQUIRE_GPU="0")
    assert done.returncode == 0, done.stdout + done.stderr
    found = {line.partition("::")[0] for line in done.stdout.splitlines() if "::" in line}
    marked = {
        path.relative_to(PROJECT).as_posix()
        for path in (PROJECT / "tests").rglob("test_*.py")
        if "pytest.mark.gpu\n" in path.read_text(encoding="utf-8")
    }
    assert marked and marked <= found
    assert "tests/engine/test_cuda_rules.py" in found


def test_a_required_gpu_that_is_missing_ends_the_tests_in_one_line():
    for value, code in (("1", 2), ("0", 0)):
        done = run(PROJECT, {"cupy"}, "-q", "tests/test_versions.py", MINIGAM_REQUIRE_GPU=value)
        assert done.returncode == code, done.stdout + done.stderr
        assert ("MINIGAM_REQUIRE_GPU is 1, and backend 'cupy': CuPy cannot be" in done.stderr) == bool(code)
    assert len(done.stderr.splitlines()) <= 1
