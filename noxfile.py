#!/usr/bin/env -S uv run --script
# /// script
# dependencies = ["nox"]
# ///
"""The tests on every Python and on the oldest and newest NumPy: `make matrix`.

A session runs the tests that need no notebook and no browser, on packages as new as that NumPy allows, and
stores its counts in benchmarks/results/matrix/. A Python that is not installed is skipped. Arguments
after -- replace the tests, and nothing is stored then. The other sessions run
when named: `nox -s lint docs citation`.
"""

import json
import platform
from pathlib import Path
from xml.etree import ElementTree

import nox

TESTS = ("engine", "models", "training", "commands", "test_reproducibility.py")
RESULTS = Path(__file__).parent / "benchmarks" / "results" / "matrix"
OLDEST = {"3.11": "2.0.0", "3.12": "2.0.0", "3.13": "2.1.0", "3.14": "2.3.2"}  # the first one for that Python

GROUPS = nox.project.load_toml("pyproject.toml")

nox.needs_version = ">=2025.2.9"
nox.options.default_venv_backend = "uv|virtualenv"
nox.options.error_on_missing_interpreters = False
nox.options.reuse_existing_virtualenvs = True


def group(name: str) -> list[str]:
    """Return the packages of a dependency group of pyproject.toml, for any version of pip."""
    return list(nox.project.dependency_groups(GROUPS, name))


@nox.session(python=list(OLDEST))
@nox.parametrize("numpy", ["oldest", "newest"])
def tests(session: nox.Session, numpy: str) -> None:
    """Run the tests, and store what ran."""
    pin = f"numpy=={OLDEST[str(session.python)]}" if numpy == "oldest" else "numpy"
    session.install("--editable", ".", *group("test"), pin, "tokenizers")
    if session.posargs:
        session.run("pytest", *session.posargs)
        return
    xml = Path(session.create_tmp()).absolute() / "tests.xml"
    session.run("pytest", f"--junitxml={xml}", *(f"tests/{name}" for name in TESTS), success_codes=[0, 1])
    code = "import numpy, platform; print(platform.python_version(), numpy.__version__)"
    versions = str(session.run("python", "-c", code, silent=True)).split()
    suite = ElementTree.parse(xml).getroot()[0].attrib  # noqa: S314 (written by pytest just now)
    failed, skipped = int(suite["failures"]) + int(suite["errors"]), int(suite["skipped"])
    content = {
        "command": "make matrix",
        "python": versions[0],
        "numpy": versions[1],
        "passed": int(suite["tests"]) - failed - skipped,
        "skipped": skipped,
        "failed": failed,
        "seconds": round(float(suite["time"])),
        "system": platform.system(),
    }
    RESULTS.mkdir(parents=True, exist_ok=True)
    path = RESULTS / f"python-{session.python}-numpy-{numpy}.json"
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    if failed:
        session.error(f"{failed} tests failed")


@nox.session(default=False, venv_backend="none")
def lint(session: nox.Session) -> None:
    """Check style, types and spelling: make lint, in its own environment."""
    session.run("make", "lint", external=True)


@nox.session(default=False, venv_backend="none")
def docs(session: nox.Session) -> None:
    """Build the docs site: make docs, in its own environment."""
    session.run("make", "docs", external=True)


@nox.session(default=False)
def citation(session: nox.Session) -> None:
    """Check CITATION.cff against its schema, away from the other packages: it needs an old jsonschema."""
    session.install("cffconvert==2.0.0")
    session.run("cffconvert", "--validate", "-i", "CITATION.cff")


if __name__ == "__main__":
    nox.main()
