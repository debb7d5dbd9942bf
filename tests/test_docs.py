"""The documents tell the truth: what they quote was printed, what they name exists, their code runs."""

import re
import shlex
from pathlib import Path

import pytest

import minigam
from minigam import __main__ as listing
from minigam import train
from minigam.config import PRESETS
from minigam.course import notebooks
from minigam.data import pocketstories
from minigam.training.run import Run

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
RESULT = ROOT / "benchmarks" / "results" / "default_run"


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)


def test_the_table_and_the_sample_were_printed_by_the_run():
    printed = (RESULT / "output.txt").read_text(encoding="utf-8")
    (table,) = [b for b in blocks("") if b.startswith("validation")]
    assert table in printed
    quoted = " ".join(re.findall(r"^> (.*)", README, flags=re.MULTILINE))
    assert len(quoted) > 200
    assert quoted in " ".join(printed.split())


def test_tables_of_results_are_the_stored_ones():
    stored = "".join(p.read_text(encoding="utf-8") for p in RESULT.parent.rglob("*.md"))
    named = r"\| (GAM|Transformer|Mamba|trigram|bigram|unigram|floor|full|global|local|sum"
    named += r"|minigam|PyTorch|HIPS autograd|matrix products)\b"
    quoted = [line for line in README.splitlines() if re.match(named, line)]
    assert len(quoted) > 15
    for line in quoted:
        assert line in stored


def test_n_grams_are_compared_as_the_stored_evaluation_does():
    printed = (RESULT / "evaluate.txt").read_text(encoding="utf-8")
    losses = dict(re.findall(r"^(GAM|5-gram|trigram) +([\d.]+)", printed, flags=re.MULTILINE))
    for name, loss in losses.items():
        assert f"{float(loss):.3f}" in README, name
    assert len(losses) == 3


def test_the_stored_run_is_the_default_run():
    config = Run(RESULT).config
    stored = config.model.to_dict() | config.train.to_dict() | config.data.to_dict()
    parts = (type(config.model)(), type(config.train)(), type(config.data)())
    defaults = {k: v for part in parts for k, v in part.to_dict().items()} | PRESETS["small"]
    vocabulary = len(pocketstories.vocabulary())
    assert stored == defaults | {"vocab_size": vocabulary}


def test_the_example_runs(capsys):
    (example,) = blocks("python")
    assert len(example.splitlines()) <= 15
    names: dict = {}
    exec(compile(example.replace('model.to("cupy")', ""), "README.md", "exec"), names)
    counted, error = capsys.readouterr().out.splitlines()
    assert names["loss"] < 0.1
    assert counted.endswith("[ 3  4  5  6  7  8  9 10]")
    assert float(error) < 1e-7


def test_the_table_of_the_course_is_what_the_notebooks_say():
    rows = re.findall(
        r"^\| \[(\d\d) · (.+?)\]\((notebooks/\S+\.ipynb)\) \| (\d+) min \| (\d) \| \S", README, re.M
    )
    said = []
    for source in notebooks.sources():
        first = source.read_text(encoding="utf-8").split("# %%")[1]
        (title,) = re.findall(r"^# # \d\d · (.+)$", first, re.M)
        ((minutes, exercises),) = re.findall(r"\*\*Time\.\*\* (\d+) minutes, (\d) exercises", first)
        said.append((source.stem[:2], title, f"notebooks/{source.stem}.ipynb", minutes, exercises))
    assert rows == said
    total = sum(int(minutes) for *_, minutes, _ in said)
    assert f"{total / 60:.0f} hours" in README
    assert f"{sum(int(exercises) for *_, exercises in said)} exercises" in README


def test_links_and_files_exist():
    for name in ("README.md", "CONTRIBUTING.md"):
        document = (ROOT / name).read_text(encoding="utf-8")
        targets = re.findall(r"\]\((?!https?:)([^)]+)\)", document)
        targets += re.findall(r"`((?:tests|minigam|benchmarks|notebooks)/[\w/.]+)`", document)
        headings = [h.lower().replace(" ", "-") for h in re.findall(r"^#+ (.+)$", document, flags=re.M)]
        for target in targets:
            assert target[1:] in headings if target[0] == "#" else (ROOT / target).exists(), target


@pytest.mark.parametrize("source", notebooks.sources(), ids=lambda p: p.stem)
def test_files_that_a_notebook_names_exist(source):
    text = source.read_text(encoding="utf-8")
    for path in re.findall(r"(?:tests|minigam|benchmarks|notebooks)/[\w/.]*\w", text):
        assert (ROOT / path).exists() or path == "notebooks/exercises", path


def test_functions_of_the_equation_table_exist():
    rows = [line for line in README.splitlines() if re.match(r"\| (E\d|  ?\|)", line)]
    functions = re.findall(r"`(?:(ops|sequence|nn)\.)?(\w+)`", "".join(row.split("|")[3] for row in rows))
    assert {"layer_norm", "causal_conv1d", "associative_memory", "gated_fusion", "GAMBlock"} <= {
        name for _, name in functions
    }
    for module, name in functions:
        assert hasattr(getattr(minigam, module) if module else minigam, name), f"{module}.{name}"


@pytest.mark.parametrize(
    "document", ["README.md", "CONTRIBUTING.md", "data/README.md", "notebooks/README.md"]
)
def test_commands_and_make_targets_exist(document):
    text = (ROOT / document).read_text(encoding="utf-8")
    assert "python -m minigam" not in text, "the short form is `minigam NAME`"
    for command in re.findall(r"(?:^|`)minigam (\w+)", text, flags=re.MULTILINE):
        assert command in listing.COMMANDS
    for command in re.findall(r"python -m benchmarks\.(\w+)", text):
        assert (ROOT / "benchmarks" / f"{command}.py").exists(), command
    makefile = (ROOT / "Makefile").read_text()
    for targets in re.findall(r"(?:^|`)make ((?:[a-z][a-z-]+ ?)+)", text, flags=re.MULTILINE):
        for target in targets.split():
            assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), target


def test_flags_in_the_readme_are_known():
    for line in re.findall(r"`(minigam train[^`]*)`", README):
        for word in shlex.split(line):
            if word.startswith("--"):
                assert word in train.parser().format_help()


@pytest.mark.parametrize(
    "path",
    [
        p
        for p in ROOT.rglob("*")
        if p.suffix in (".py", ".md", ".toml", ".yml")
        and not any(part.startswith(".venv") for part in p.parts)
    ],
    ids=lambda p: str(p.relative_to(ROOT)),
)
def test_no_path_of_one_machine(path):
    if path == Path(__file__):
        return
    assert not re.search(r"(?<![\w.])/(?:work|root|home|tmp|Users)/", path.read_text(encoding="utf-8"))
