"""The tests on every Python and on the oldest and newest NumPy: `make matrix`.

A session runs the tests that need no notebook and no browser, on packages as new as that NumPy allows, and
stores its counts in benchmarks/results/matrix/. A Python that is not installed is skipped. Arguments
after -- replace the tests, and nothing is stored then.
"""

import json
import platform
from pathlib import Path
from xml.etree import ElementTree

import nox

TESTS = ("engine", "models", "training", "commands", "test_reproducibility.py")
RESULTS = Path(__file__).parent / "benchmarks" / "results" / "matrix"
OLDEST = {"3.11": "2.0.0", "3.12": "2.0.0", "3.13": "2.1.0", "3.14": "2.3.2"}  # the first one for that Python

nox.options.error_on_missing_interpreters = False
nox.options.reuse_existing_virtualenvs = True


@nox.session(python=list(OLDEST))
@nox.parametrize("numpy", ["oldest", "newest"])
def tests(session: nox.Session, numpy: str) -> None:
    """Run the tests, and store what ran."""
    pin = f"numpy=={OLDEST[str(session.python)]}" if numpy == "oldest" else "numpy"
    session.install("--editable", ".[test]", pin, "tokenizers")
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
