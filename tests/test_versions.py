"""The versions of Python and NumPy that the files name are those that `make matrix` tries."""

import ast
import json
import re
import tomllib
from pathlib import Path

PROJECT = Path(__file__).parents[1]
PYPROJECT = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
RESULTS = PROJECT / "benchmarks" / "results" / "matrix"


def numpy_by_python() -> dict[str, str]:
    """Return OLDEST of noxfile.py."""
    for node in ast.parse((PROJECT / "noxfile.py").read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "OLDEST":
            return ast.literal_eval(node.value)
    raise AssertionError("noxfile.py has no OLDEST")


def test_the_files_name_the_same_versions():
    pythons = list(numpy_by_python())
    assert PYPROJECT["requires-python"] == f">={pythons[0]}"
    assert [c.rpartition(" ")[2] for c in PYPROJECT["classifiers"] if ":: Python ::" in c] == pythons
    major, _, last = pythons[-1].partition(".")
    environment = (PROJECT / "environment.yml").read_text(encoding="utf-8")
    assert f"python >={pythons[0]},<{major}.{int(last) + 1}\n" in environment
    (floor,) = (re.fullmatch(r"numpy>=([\d.]+)", d)[1] for d in PYPROJECT["dependencies"] if "numpy" in d)
    assert numpy_by_python()[pythons[0]] == f"{floor}.0"
    assert f"numpy >={floor}\n" in environment


def test_the_table_of_versions_is_what_the_sessions_stored():
    stored = [json.loads(p.read_text(encoding="utf-8")) for p in sorted(RESULTS.glob("*.json"))]
    rows = [
        f"| {s['python']} | {s['numpy']} | {s['passed']:,} | {s['skipped']:,} | {s['failed']} |"
        for s in stored
    ]
    trust = (PROJECT / "docs" / "trust.md").read_text(encoding="utf-8")
    assert rows and [row for row in rows if row not in trust] == []
    assert [s for s in stored if s["failed"]] == []
