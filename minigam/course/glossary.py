"""Link the first use of each term of docs/glossary.md in a notebook."""

import re
from collections.abc import Iterable
from pathlib import Path

from minigam.course import PROJECT, is_clone
from minigam.files import write_text

FILE = PROJECT / "docs" / "glossary.md" if is_clone() else Path(__file__).parent / "glossary.md"
# Where nothing is linked: code, mathematics, links, headings, HTML, what is in bold (a definition).
_LEFT_ALONE = re.compile(
    r"```.*?```|\$\$.*?\$\$|\$[^$\n]+\$|`[^`]*`|!?\[[^\]]*\]\([^)]*\)|^#+ .*?$|<[^>]+>|\*\*.*?\*\*",
    re.S | re.M,
)
# Not linked, because a notebook also says the chain rule, a special case, the rank of a matrix.
_EVERYDAY = {"rule", "case", "operation", "rank", "leaf", "bucket", "guessing", "baseline"}
_RELATIVE = re.compile(r"\[([^\]]+)\]\(\.\./([^)#]+)[^)]*\)")


def copy(path: Path) -> None:
    """Write the glossary next to copies of notebooks, whose links lead to it."""
    write_text(path, FILE.read_text(encoding="utf-8"))


def terms() -> dict[str, str]:
    """Return each term of the glossary with the anchor of its section."""
    result, anchor = {}, ""
    for line in FILE.read_text(encoding="utf-8").splitlines():
        if line.startswith("## "):
            anchor = line[3:].strip().lower().replace(" ", "-")
        elif (entry := re.match(r"\* \*\*([^*]+)\*\*", line)) and entry[1] not in _EVERYDAY:
            result[entry[1]] = anchor
    return result


def link(texts: Iterable[str], file: str) -> list[str]:
    """Return the Markdown texts of a notebook, with the first use of each term linked to the glossary.

    file : path of the glossary, as the notebook sees it
    """
    texts, unused = list(texts), terms()
    for i, text in enumerate(texts):
        for term in sorted(unused, key=len, reverse=True):  # "recall token" before "token"
            if (place := _first(text, term)) is not None:
                start, end = place
                text = f"{text[:start]}[{text[start:end]}]({file}#{unused.pop(term)}){text[end:]}"
        texts[i] = text
    return texts


def _first(text: str, term: str) -> tuple[int, int] | None:
    """Return where a term, or its plural, is first used outside of code and the like."""
    taken = [m.span() for m in _LEFT_ALONE.finditer(text)]
    for m in re.finditer(rf"(?<![\w-]){re.escape(term)}s?(?![\w-])", text, re.I):
        if not any(start < m.end() and m.start() < end for start, end in taken):
            return m.span()
    return None


def without_files(text: str) -> str:
    """Return Markdown in which links to files of the project are their paths: copies stand anywhere."""
    return _RELATIVE.sub(r"\1 (`\2`)", text)
