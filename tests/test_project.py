"""The files around the code: licences, citation, changelog, paper, groups of packages, workflows."""

import json
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import minigam
from minigam.course import hosting

ROOT = Path(__file__).parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
REPOSITORY = hosting.ADDRESS
RESULTS = ROOT / "benchmarks" / "results"


def text(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def locked(package: str) -> str:
    """Return the version of a package in requirements.lock."""
    return re.search(rf"^{re.escape(package)}==([^\s;]+)", text("requirements.lock"), re.M)[1]


def field(name: str) -> str:
    """Return the value of a top-level field of CITATION.cff that fits on its line."""
    return re.search(rf'^{name}: "?(.+?)"?$', text("CITATION.cff"), re.M)[1]


def test_the_version_is_the_same_everywhere():
    version = PYPROJECT["project"]["version"]
    newest = re.search(r"^## \[([\d.]+)\] - (unreleased|\d{4}-\d\d-\d\d)$", text("CHANGELOG.md"), re.M)
    assert (minigam.__version__, field("version"), newest[1]) == (version, version, version)


def test_the_licences_and_authors_are_the_same_everywhere():
    project = PYPROJECT["project"]
    licences = re.findall(r"^  - ([A-Z][\w.-]+)$", text("CITATION.cff").partition("keywords")[0], re.M)
    assert project["license"] == " AND ".join(licences) == "MIT AND CC-BY-4.0"
    assert [name for name in project["license-files"] if not (ROOT / name).exists()] == []
    for name in ("README.md", "CONTRIBUTING.md"):
        assert "LICENSE-docs" in text(name) and "CC BY 4.0" in text(name), name
    (author,) = project["authors"]
    for name in ("CITATION.cff", "paper/paper.md"):
        assert f"- name: {author['name']}\n" in text(name), name


def test_the_address_of_the_repository_is_set_in_one_place():
    """While it is empty, no file may invent one."""
    assert PYPROJECT["project"].get("urls", {}).get("Repository", "") == REPOSITORY
    assert ("repository-code: " + REPOSITORY in text("CITATION.cff")) == bool(REPOSITORY)


def test_the_citation_has_its_fields():
    """`nox -s citation` checks the file against its schema."""
    for key in ("cff-version", "message", "title", "type"):
        assert field(key), key


def test_the_numbers_of_the_paper_are_the_stored_ones():
    paper = " ".join(text("paper/paper.md").split())
    readme = text("README.md")
    for row in ("the last 13 tokens", "chance", "a word further back"):
        (line,) = re.findall(rf"^\| {row} .*$", readme, re.M)
        assert re.sub(r"\s+", "", line) in re.sub(r"\s+", "", paper), row
    modules = json.loads(text("benchmarks/results/mutants/mutants.json"))["modules"].values()
    mutants, killed = (sum(m[key] for m in modules) for key in ("mutants", "killed"))
    assert f"of {mutants} random changes" in paper and f"they noticed {killed} " in paper
    table = text("benchmarks/results/train_step/train_step.md").split("small:")[0]
    step = r"^\| {} +\| +([\d.]+) \| +([\d.]+) \(([\d.]+ to [\d.]+)\)"
    seconds = re.search(step.format("minigam"), table, re.M)[1]
    _, ratio, spread = re.search(step.format("PyTorch tuned"), table, re.M).groups()
    assert f"{seconds} s there; tuned PyTorch takes {ratio} times as long ({spread} in five rounds" in paper
    eager, least = re.search(step.format("PyTorch eager"), table, re.M)[2], r"([\d.]+) MiB, in ([\d.]+) s\."
    mib, slowest = re.search(least, table).groups()
    for words in (
        f"takes {eager} times",
        f"{ratio} times ({spread} in five rounds)",
        f"{mib} MiB and {slowest} s",
    ):
        assert words in " ".join(readme.split()), words
    pattern = r"(\w+) notebooks \(about (\d+) hours\).*?(\d+) exercises"
    course = re.search(pattern, text("docs/course.md"), re.S)
    assert f"{course[1].lower()} notebooks" in paper
    assert f"{course[1].lower()} notebooks with {course[3]} checked exercises" in text("CHANGELOG.md")
    assert f"{course[2]} hours and has {course[3]} exercises" in paper
    assert "GAM of 773,376 parameters" in text("benchmarks/results/default_run/output.txt")
    for path in re.findall(r"`((?:benchmarks|tests|docs)/[\w/.]+)`", paper):
        assert (ROOT / path).exists(), path


def test_the_paper_cites_what_its_bibliography_has():
    cited = set(re.findall(r"@(\w+)", text("paper/paper.md")))
    assert cited == set(re.findall(r"^@\w+\{(\w+),", text("paper/paper.bib"), re.M))


def test_the_paper_says_what_has_not_been_tried():
    experience = text("paper/paper.md").partition("# Experience of use\n")[2]
    assert experience.split()[0] == "None."


def packages(requirements: list) -> set[str]:
    return {re.match(r"[\w.-]+", r)[0].lower().replace("_", "-") for r in requirements if isinstance(r, str)}


def test_every_package_is_locked():
    groups = [*PYPROJECT["dependency-groups"].values(), PYPROJECT["project"]["dependencies"]]
    extras = PYPROJECT["project"]["optional-dependencies"]
    groups += [value for name, value in extras.items() if not name.startswith("cuda")]  # either, never both
    assert [name for name in set().union(*map(packages, groups)) if not locked(name)] == []


def test_a_package_has_one_group_or_extra_to_install_it_for_contributors():
    groups = PYPROJECT["dependency-groups"]
    assert not set(groups) & set(PYPROJECT["project"]["optional-dependencies"])
    used = set(re.findall(r"--group ([\w-]+)", text("Makefile")))
    assert used <= set(groups) and {"test", "lint", "docs"} <= used


def test_the_hooks_have_the_versions_of_the_lock():
    hooks = re.findall(r"repo: https://\S+/(\S+)\n +rev: v(\S+)", text(".pre-commit-config.yaml"))
    tools = {"ruff-pre-commit": "ruff", "codespell": "codespell", "zizmor-pre-commit": "zizmor"}
    pinned = {tools[name]: version for name, version in hooks if name in tools}
    assert pinned == {tool: locked(tool) for tool in tools.values()}


def test_the_review_of_scientific_python_finds_nothing_without_a_reason():
    processor = pytest.importorskip("repo_review.processor", reason="needs sp-repo-review (the group `lint`)")
    pytest.importorskip("sp_repo_review", reason="needs sp-repo-review (the group `lint`)")
    results = processor.process(ROOT).results
    assert len(results) > 50
    failed = {r.name for r in results if r.result is False}
    assert failed == set()
    reasons = PYPROJECT["tool"]["repo-review"]["ignore"]
    every = processor.process(ROOT, ignore={"none"}).results
    assert set(reasons) <= {r.name for r in every if r.result is not True}, "a reason without its failure"
    assert all(len(reason) > 20 for reason in reasons.values())


WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


def test_the_workflows_try_every_python_and_system():
    tests = text(".github/workflows/tests.yml")
    versions = [c.rpartition(" ")[2] for c in PYPROJECT["project"]["classifiers"] if ":: Python ::" in c]
    assert re.findall(r'"(3\.\d+)"', re.search(r"python: \[(.*)\]", tests)[1]) == versions
    assert re.search(r"system: \[(.*)\]", tests)[1] == "ubuntu-latest, macos-latest, windows-latest"


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda p: p.stem)
def test_actions_are_pinned_and_hold_no_rights(path):
    content = path.read_text(encoding="utf-8")
    assert re.findall(r"^permissions:\n  contents: read\n(?! )", content, re.M)
    for action in re.findall(r"uses: (.*)", content):
        assert re.fullmatch(r"[\w/-]+@[0-9a-f]{40} # v[\d.]+", action), action


def test_zizmor_finds_nothing():
    binary = shutil.which("zizmor") or shutil.which("zizmor", path=Path(sys.executable).parent)
    if binary is None:
        pytest.skip("needs zizmor (the group `lint`)")
    done = subprocess.run([binary, "--offline", "--quiet", ROOT / ".github"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
