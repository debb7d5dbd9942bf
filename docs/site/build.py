"""Build the docs site into build/site, without a network: `make docs`.

The pages are collected in build/pages, in the folders of the repository, so that links stay as they are:
documents, solved notebooks, stored results, and each source file that a page links to. The reference is made
from docstrings. MkDocs turns the pages into HTML, and stops at a link that leads nowhere.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
from base64 import b64decode
from pathlib import Path

ROOT = Path(__file__).parents[2]
HERE = ROOT / "docs" / "site"
PARSER = argparse.ArgumentParser(
    prog="python docs/site/build.py", description=(__doc__ or "").splitlines()[0]
)
PARSER.add_argument("folder", nargs="?", type=Path, default=ROOT / "build",
                    help="folder to write, with pages and site in it (default: build)")  # fmt: skip
BUILD = PARSER.parse_args().folder.resolve()
PAGES, SITE = BUILD / "pages", BUILD / "site"
sys.path[:0] = [str(ROOT), str(HERE)]

import reference  # noqa: E402  next to this file

from minigam.course import hosting  # noqa: E402

RESULTS = Path("benchmarks/results")
LANGUAGES = {
    ".py": "python",
    ".toml": "toml",
    ".yml": "yaml",
    ".sh": "bash",
    ".slurm": "bash",
    ".json": "json",
}
LINK = re.compile(r"(`+[^`]*`+|^ *(?:```|~~~).*?^ *(?:```|~~~)$)|(\]\()([^)\s#:]*)(#[^)\s]*)?\)", re.M | re.S)
LONGEST = 20_000  # characters of a stored file that its page shows
DOCUMENTS = {
    "Start": ["README.md", "docs/install.md", "docs/commands.md", "docs/interop.md", "explain.md",
              "docs/glossary.md"],
    "Results": ["docs/results.md", "docs/paper.md", "docs/extension.md", "docs/performance.md",
                "docs/scaling.md", "docs/gpu.md", "docs/status.md", "docs/trust.md", "paper/paper.md"],
    "Project": ["CONTRIBUTING.md", "CHANGELOG.md", "CODE_OF_CONDUCT.md", "data/README.md"],
}  # fmt: skip


LISTED = {name for group in DOCUMENTS.values() for name in group}
LISTED |= {"docs/course.md", "docs/capstone.md", "docs/examples.md"}
OTHERS = [f"docs/{p.name}" for p in sorted((ROOT / "docs").glob("*.md")) if f"docs/{p.name}" not in LISTED]
if OTHERS:
    DOCUMENTS["More"] = OTHERS  # a new document has a place before anyone gives it one


class Site:
    """The pages so far, by their path in the repository, and the files that they link to."""

    def __init__(self) -> None:
        self.wanted: list[Path] = []
        self.done: set[Path] = set()

    def place(self, path: Path) -> Path:
        """Return where the page of a file or folder of the repository is, relative to the pages."""
        if path == Path("README.md"):
            return Path("index.md")
        if (ROOT / path).is_dir():
            return path / "index.md"
        if path.suffix in (".md", ".png"):
            return path
        return path.with_suffix(".md") if path.suffix == ".ipynb" else path.with_name(f"{path.name}.md")

    def linked(self, text: str, page: Path) -> str:
        """Return a document with its links to files turned into links to pages, which become wanted."""

        here = page if (ROOT / page).is_dir() else page.parent

        def rewritten(match: re.Match) -> str:
            code, start, target, anchor = match.groups()
            found = Path(os.path.normpath(here / target)) if target else page
            if code or not target or not (ROOT / found).exists():
                return match[0]
            self.wanted.append(found)
            if anchor and found.suffix == ".ipynb":  # JupyterLab's anchor of a heading, as MkDocs makes it
                anchor = "#" + re.sub(r"[^\w-]", "", anchor).lower()
            there = os.path.relpath(self.place(found), self.place(page).parent)
            return f"{start}{Path(there).as_posix()}{anchor or ''})"

        return LINK.sub(rewritten, text)

    def write(self, page: Path, text: str) -> None:
        """Store the page of a file or folder of the repository."""
        target = PAGES / self.place(page)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(self.linked(text, page), encoding="utf-8")
        self.done.add(page)

    def add(self, path: Path) -> None:
        """Make the page of a document, notebook, folder, picture or source file."""
        if path in self.done:
            return
        self.done.add(path)
        if path.suffix == ".png":
            (PAGES / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / path, PAGES / path)
        elif (ROOT / path).is_dir():
            self.write(path, folder(path))
        elif path.suffix == ".md":
            self.write(path, document((ROOT / path).read_text(encoding="utf-8")))
        elif path.suffix == ".ipynb":
            shutil.copy(ROOT / path, PAGES / path)
            self.write(path, self.notebook(path))
        else:
            self.write(path, source(path))

    def notebook(self, path: Path) -> str:
        """Return a notebook as Markdown. Its figures become files."""
        parts = []
        for number, cell in enumerate(json.loads((ROOT / path).read_text(encoding="utf-8"))["cells"]):
            text = "".join(cell["source"])
            if cell["cell_type"] == "markdown":
                parts.append(text.replace("<details>", '<details markdown="1">'))
                continue
            parts.append(f"```python\n{text}\n```")
            for place, output in enumerate(cell["outputs"]):
                parts.append(self.output(output, path.with_suffix(""), f"{number}-{place}"))
        title, *others = parts
        own = (
            f"[This notebook]({path.name}) with its outputs; [how to get a copy with gaps](../docs/course.md)"
        )
        return "\n\n".join([title, own, *others]) + "\n"

    def output(self, output: dict, folder: Path, name: str) -> str:
        """Return one output of a cell as Markdown."""
        data = output.get("data", {})
        if "image/png" in data:
            picture = folder / f"{name}.png"
            (PAGES / picture).parent.mkdir(parents=True, exist_ok=True)
            (PAGES / picture).write_bytes(b64decode("".join(data["image/png"])))
            alt = re.sub(r"[\[\]\n]", " ", "".join(data.get("text/plain", "figure")))
            return f"![{alt}]({picture.relative_to(folder.parent).as_posix()})"
        if "text/markdown" in data:
            return f'<div class="output" markdown="1">\n\n{"".join(data["text/markdown"])}\n\n</div>'
        shown = "".join(output.get("text", data.get("text/plain", ""))).rstrip()
        return f'<div class="output" markdown="1">\n\n````text\n{shown}\n````\n\n</div>'


def document(text: str) -> str:
    """Return a document as Python-Markdown wants it, where that differs from GitHub's rules."""
    front = re.match(r'---\ntitle: "(.*?)"\n.*?\n---\n', text, re.S)
    if front:  # the paper
        text = f"# {front[1]}\n" + re.sub(r"^#", "##", text[front.end() :], flags=re.M)
        text = re.sub(r"\[@(\w+)\]", r"([\1](paper.bib))", text)
    text = re.sub(r"^(>.*\n)\n(?=>)", r"\1\n<!-- -->\n\n", text, flags=re.M)  # two quotations, not one
    lines, inside = [], False
    for line in text.splitlines():
        number = bool(re.match(r"\d+\. ", line))
        if number and inside and lines[-1].startswith(" "):
            lines.append("")  # or the number would continue the paragraph
        inside = number or (inside and (not line or line.startswith("   ")))
        lines.append(f" {line}" if inside and line.startswith("   ") else line)  # four columns in a list
    return "\n".join(lines) + "\n"


def source(path: Path) -> str:
    """Return a page with a text file."""
    text = (ROOT / path).read_text(encoding="utf-8")
    shown, note = text, ""
    if len(text) > LONGEST and path.suffix != ".py":
        shown, note = text[:LONGEST], f"\n\nThese are the first {LONGEST:,} of {len(text):,} characters."
    return f"# {path.as_posix()}\n\n````{LANGUAGES.get(path.suffix, 'text')}\n{shown.rstrip()}\n````{note}\n"


def folder(path: Path) -> str:
    """Return a page with the files of a folder: reports and pictures in full, links to the others."""
    parts, others = [f"# {path.as_posix()}"], []
    for file in sorted((ROOT / path).iterdir()):
        if file.suffix == ".md":
            parts.append(re.sub(r"^#", "##", file.read_text(encoding="utf-8"), flags=re.M))
        elif file.suffix == ".png":
            parts.append(f"![{file.stem}]({file.name})")
        elif file.is_file():
            others.append(f"* [{file.name}]({file.name})")
    return "\n\n".join([*parts, "\n".join(others)]) + "\n"


def explain_page() -> str:
    """Make the explain page of a model that comes with the package, and return the page around it."""
    runs, module = ROOT / "minigam" / "course" / "runs", [sys.executable, "-m", "minigam", "explain"]
    command = [*module, runs / "gam", "--rival", runs / "transformer", "--backend", "numpy"]
    command += ["--out", PAGES / "explain-gam.html"]
    subprocess.run(command, check=True, cwd=ROOT, stdout=subprocess.DEVNULL)
    return """# Inside a trained model

The page that `minigam explain` writes, for a small model that comes with the package. It shows, token by
token, the gates, the memory slots that respond, the receptive field, and the next words.
[Open it alone](explain-gam.html).

<iframe src="explain-gam.html" title="What a trained GAM does with every word of a story"></iframe>
"""


def settings(notebooks: list[Path], modules: list[str]) -> str:
    """Return MkDocs' settings for these pages, in JSON, which YAML contains."""
    site = Site()
    places = lambda names: [site.place(Path(name)).as_posix() for name in names]  # noqa: E731
    reference_pages = ["api/index.md", *(f"api/{name}.md" for name in modules), "docs/examples.md"]
    nav = [{name: places(pages)} for name, pages in DOCUMENTS.items()]
    nav.insert(1, {"Course": places(["docs/course.md", *notebooks, "docs/capstone.md"])})
    nav.insert(2, {"Reference": reference_pages})
    content = {"INHERIT": str(HERE / "mkdocs.yml"), "docs_dir": str(PAGES), "site_dir": str(SITE),
               "hooks": [str(HERE / "hooks.py")], "nav": nav}  # fmt: skip
    return json.dumps(content | ({"repo_url": hosting.ADDRESS} if hosting.ADDRESS else {}), indent=1)


def main() -> int:
    shutil.rmtree(PAGES, ignore_errors=True)
    PAGES.mkdir(parents=True)
    for name in ("site.css", "worker.js"):
        shutil.copy(HERE / name, PAGES / name)
    (PAGES / "explain.md").write_text(explain_page(), encoding="utf-8")
    site = Site()
    for name, text in reference.pages().items():
        site.write(Path(f"api/{name}.md"), text)
    notebooks = sorted(p.relative_to(ROOT) for p in (ROOT / "notebooks").glob("[0-9]*.ipynb"))
    (PAGES / "notebooks").mkdir()
    names = [name for group in DOCUMENTS.values() for name in group if name != "explain.md"]
    site.wanted += [*map(Path, names), *notebooks]
    site.wanted += [Path(f"docs/{name}.md") for name in ("course", "capstone", "examples")]
    while site.wanted:
        site.add(site.wanted.pop())
    modules = [name for name in reference.modules() if name != "index"]
    (BUILD / "mkdocs.yml").write_text(settings(notebooks, modules), encoding="utf-8")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "-f", BUILD / "mkdocs.yml"]
    code = subprocess.run(command, env=os.environ | {"NO_MKDOCS_2_WARNING": "1"}).returncode
    if code == 0:
        print(f"Saved in {SITE / 'index.html'}; open it in a browser.")
    return code


if __name__ == "__main__":
    sys.exit(main())
