"""The documents tell the truth: what they quote was printed, what they name exists, their code runs."""

import re
import shlex
import tomllib
from pathlib import Path

import pytest

from minigam import __main__ as listing
from minigam import train
from minigam.config import PRESETS
from minigam.course import __main__ as course
from minigam.course import notebooks
from minigam.data import pocketstories
from minigam.training.run import Run

pytest.importorskip("markdown_it", reason="needs markdown-it-py (the group `test`)")
from markdown_it import MarkdownIt

ROOT = Path(__file__).parent.parent
RESULT = ROOT / "benchmarks" / "results" / "default_run"
DOCS = {p.relative_to(ROOT).as_posix(): p.read_text(encoding="utf-8") for p in sorted(ROOT.glob("docs/*.md"))}
OTHERS = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "CODE_OF_CONDUCT.md", "data/README.md",
          "notebooks/README.md", "paper/paper.md")  # fmt: skip
DOCUMENTS = {name: (ROOT / name).read_text(encoding="utf-8") for name in OTHERS} | DOCS
MARKDOWN = MarkdownIt("commonmark").enable("table")


def blocks(text: str, language: str) -> list[str]:
    """Return the contents of the fenced blocks in this language, "" for none."""
    return [t.content for t in MARKDOWN.parse(text) if t.type == "fence" and t.info == language]


def code(text: str) -> str:
    """Return the inline code and the fenced lines of a document, each on a line of its own."""
    spans = [s for t in MARKDOWN.parse(text) for s in [t, *(t.children or [])]]
    return "\n".join(s.content for s in spans if s.type in ("fence", "code_inline"))


def anchors(text: str) -> list[str]:
    """Return the names that GitHub gives to the headings of a document."""
    headings = re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE)
    return [re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings]


def lines_under_tables(text: str) -> list[str]:
    """Return the lines that became table rows because no empty line parts them from the table above."""
    lines, inside, found = text.splitlines(), False, []
    for token in MARKDOWN.parse(text):
        inside = {"tbody_open": True, "tbody_close": False}.get(token.type, inside)
        if inside and token.type == "tr_open" and not lines[token.map[0]].lstrip().startswith("|"):
            found.append(lines[token.map[0]])
    return found


@pytest.mark.parametrize("name", DOCS)
def test_quoted_tables_and_samples_were_printed_by_the_run(name):
    printed = (RESULT / "output.txt").read_text(encoding="utf-8")
    tables = [b for b in blocks(DOCS[name], "") if b.startswith("validation")]
    sample = " ".join(re.findall(r"^> (.*)", DOCS[name], flags=re.MULTILINE))
    assert all(table in printed for table in tables)
    assert sample in " ".join(printed.split())
    if name == "docs/results.md":
        assert len(tables) == 1 and len(sample) > 200


def test_tables_of_results_are_the_stored_ones():
    stored = {
        line for p in RESULT.parent.rglob("*.md") for line in p.read_text(encoding="utf-8").splitlines()
    }
    named = r"\| (GAM|Transformer|Mamba|trigram|bigram|unigram|floor|full|global|local|sum"
    named += r"|minigam|PyTorch|HIPS autograd|matrix products|products alone)\b"
    quoted = [line for text in DOCS.values() for line in text.splitlines() if re.match(named, line)]
    assert len(quoted) > 50
    for line in quoted:
        assert line in stored


@pytest.mark.parametrize("name", DOCS)
def test_results_stand_next_to_their_command(name):
    """And the command is the stored one, but for the names of runs."""
    for section in re.split(r"^## ", DOCS[name], flags=re.MULTILINE):
        sources = re.findall(r"^Command: (`.*?)\]\(([^)]+)\)", section, flags=re.MULTILINE | re.DOTALL)
        assert sources or "![" not in section, section.splitlines()[0]
        for commands, target in sources:
            assert "saved in" in commands, target
            results = sorted((ROOT / name).parent.joinpath(target).glob("*.md"))
            stored = "".join(p.read_text(encoding="utf-8") for p in results).replace(
                "python -m minigam.", "minigam "
            )
            spans = re.findall(r"`([^`]+)`", commands)
            assert not stored or any(span.split(" RUN")[0] in stored for span in spans), target


def test_n_grams_are_compared_as_the_stored_evaluation_does():
    printed = (RESULT / "evaluate.txt").read_text(encoding="utf-8")
    losses = dict(re.findall(r"^(GAM|5-gram|trigram) +([\d.]+)", printed, flags=re.MULTILINE))
    for name, loss in losses.items():
        assert f"{float(loss):.3f}" in DOCS["docs/results.md"], name
    assert len(losses) == 3


def test_the_stored_run_is_the_default_run():
    config = Run(RESULT).config
    stored = config.model.to_dict() | config.train.to_dict() | config.data.to_dict()
    parts = (type(config.model)(), type(config.train)(), type(config.data)())
    defaults = {k: v for part in parts for k, v in part.to_dict().items()} | PRESETS["small"]
    vocabulary = len(pocketstories.vocabulary())
    assert stored == defaults | {"vocab_size": vocabulary}


def test_what_pip_is_told_to_install_exists():
    """Every extra and every group of packages that a document names."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    for name, text in DOCUMENTS.items():
        for extras in re.findall(r"(?:\.|minigam|\.whl)\[([a-z0-9,]+)\]", text):
            assert set(extras.split(",")) <= project["project"]["optional-dependencies"].keys(), name
        assert set(re.findall(r"--group (\w+)", text)) <= project["dependency-groups"].keys(), name


def test_the_table_of_the_course_is_what_the_notebooks_say():
    rows = re.findall(
        r"^\| \[(\d\d) · (.+?)\]\((\.\./notebooks/\S+\.ipynb)\) \| (\d+) min \| (\d) \| \S",
        DOCS["docs/course.md"],
        re.M,
    )
    said = []
    for source in notebooks.sources():
        first = source.read_text(encoding="utf-8").split("# %%")[1]
        (title,) = re.findall(r"^# # \d\d · (.+)$", first, re.M)
        ((minutes, exercises),) = re.findall(r"\*\*Time\.\*\* (\d+) minutes, (\d) exercises", first)
        said.append((source.stem[:2], title, f"../notebooks/{source.stem}.ipynb", minutes, exercises))
    assert rows == said
    total = sum(int(minutes) for *_, minutes, _ in said)
    for name in ("README.md", "docs/course.md"):
        assert f"{total / 60:.0f} hours" in DOCUMENTS[name]
        assert f"{sum(int(exercises) for *_, exercises in said)} exercises" in DOCUMENTS[name]


@pytest.mark.parametrize("name", DOCUMENTS)
def test_links_and_files_exist(name):
    text, here = DOCUMENTS[name], (ROOT / name).parent
    for target in re.findall(r"\]\((?!https?:)([^)]+)\)", text):
        path, _, anchor = target.partition("#")
        linked = (here / path).resolve() if path else ROOT / name
        assert linked.exists(), target
        if anchor:
            assert anchor in anchors(linked.read_text(encoding="utf-8")), target
    for path in re.findall(r"`((?:tests|minigam|benchmarks|notebooks|docs)/[\w/.]+)`", text):
        assert (ROOT / path).exists(), path


@pytest.mark.parametrize("source", notebooks.sources(), ids=lambda p: p.stem)
def test_files_that_a_notebook_names_exist(source):
    text = source.read_text(encoding="utf-8")
    for path in re.findall(r"(?:tests|minigam|benchmarks|notebooks)/[\w/.]*\w", text):
        assert (ROOT / path).exists() or path == "notebooks/exercises", path


def test_functions_of_the_equation_table_are_in_the_files_it_links():
    rows = re.findall(r"^\| ?([EX][\dEX-]+)? ?\| \[`(\w+)`\]\(([\w/.]+)\) \|", DOCUMENTS["README.md"], re.M)
    assert {eq for eq, *_ in rows} == {"", "E1", "E2", "E3-E5", "E6", "E7", "E8-E9", "X1-X5"}
    for _, name, path in rows:
        assert re.search(rf"^(def|class) {name}\b", (ROOT / path).read_text(encoding="utf-8"), re.M), name


@pytest.mark.parametrize("name", DOCUMENTS)
def test_commands_and_make_targets_exist(name):
    assert "python -m minigam" not in DOCUMENTS[name], "the short form is `minigam NAME`"
    written = code(DOCUMENTS[name])
    for command in re.findall(r"^minigam (\w+)", written, flags=re.MULTILINE):
        assert command in listing.COMMANDS
    for command in re.findall(r"(?:^python -m )?benchmarks\.(\w+)", written, flags=re.MULTILINE):
        assert (ROOT / "benchmarks" / f"{command}.py").exists(), command
    makefile = (ROOT / "Makefile").read_text()
    for targets in re.findall(r"^make ((?:[a-z][a-z-]+ ?)+)", written, flags=re.MULTILINE):
        for target in targets.split():
            assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), target


def test_every_command_is_in_the_list():
    """Those of `minigam`, and the actions of `minigam course`."""
    actions = next(a.choices for a in course.parser()._actions if isinstance(a.choices, dict))
    assert {"build", "exercises", "status"} <= set(actions)
    for command in (*listing.COMMANDS, *(f"course {action}" for action in actions)):
        assert f"`minigam {command}" in DOCUMENTS["docs/commands.md"], command


@pytest.mark.parametrize("name", DOCUMENTS)
def test_flags_of_train_are_known(name):
    known = set(re.findall(r"--[\w-]+", train.parser().format_help()))
    for line in re.findall(r"^minigam train.*", code(DOCUMENTS[name]), flags=re.MULTILINE):
        assert {word for word in shlex.split(line, comments=True) if word.startswith("--")} <= known, line


@pytest.mark.parametrize(
    "path",
    [*(ROOT / name for name in DOCUMENTS), *sorted((ROOT / "benchmarks" / "results").rglob("*.md"))],
    ids=lambda p: str(p.relative_to(ROOT)),
)
def test_no_paragraph_became_a_row_of_a_table(path):
    assert lines_under_tables(path.read_text(encoding="utf-8")) == []


def test_a_paragraph_under_a_table_is_noticed():
    table = "| a | b |\n|---|---|\n| 1 | 2 |\n"
    assert lines_under_tables(f"{table}Text.\n") == ["Text."]
    assert lines_under_tables(f"{table}\nText.\n") == []


# Words that read as translated. A floor is the entropy floor; matrix products give a lower bound.
HOUSE_WORDS = re.compile(
    r"""\b( anew | begun | whereof | thereof | leaves?\s(\S+\s){0,3}?away | go(es|ing)?\son | besides?
        | walk(s|ed|ing)?\sback | rooms? | nobody\sgets
        | floor\sunder | of\sthat\sfloor | floor\s(of|from)\s(the\s)?matrix\sproducts )\b""",
    re.IGNORECASE | re.VERBOSE,
)


def prose(path: Path) -> str:
    """Return a file as one line, without the marks of comments and, in PocketStories, without the stories."""
    text = path.read_text(encoding="utf-8")
    if path.name == "pocketstories.py":
        text = re.sub(r"^(SLOTS|RULES) = \{.*?^\}", "", text, flags=re.M | re.S)
    return re.sub(r"\s+(?:[#>]\s+)?", " ", text)


@pytest.mark.parametrize(
    "path",
    [*(ROOT / name for name in DOCUMENTS), *sorted((ROOT / "minigam").rglob("*.py"))],
    ids=lambda p: str(p.relative_to(ROOT)),
)
def test_words_are_those_of_the_field(path):
    text = prose(path)
    found = [text[max(0, m.start() - 30) : m.end() + 30] for m in HOUSE_WORDS.finditer(text)]
    assert found == []


def test_house_words_are_noticed():
    for words in ("begun", "leave --out away", "goes on", "beside it", "walk back", "a room", "floor under"):
        assert HOUSE_WORDS.search(f"This is {words}."), words
    for words in ("resumed", "omit --out", "the entropy floor", "mushroom", "goes one", "walk along"):
        assert not HOUSE_WORDS.search(f"This is {words}."), words


@pytest.mark.parametrize(
    "path",
    [
        p
        for p in ROOT.rglob("*")
        if p.suffix in (".py", ".md", ".toml", ".yml")
        and not any(part.startswith((".venv", ".nox")) for part in p.parts)
        and p.relative_to(ROOT).parts[0] != "build"  # what make docs collects
    ],
    ids=lambda p: str(p.relative_to(ROOT)),
)
def test_no_path_of_one_machine(path):
    if path == Path(__file__):
        return
    assert not re.search(r"(?<![\w.])/(?:work|root|home|tmp|Users)/", path.read_text(encoding="utf-8"))
