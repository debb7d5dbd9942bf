"""Notebooks that learners might hand in: solved, half solved, and mangled in many ways."""

import json
import random
from collections.abc import Callable
from pathlib import Path

TESTS = Path(__file__).parents[1]
SETUP = "import numpy as np\nfrom minigam.course import check"
STUB = 'raise NotImplementedError("replace this line")'
HALF = 'def half(x):\n    """Return half of x."""\n    return {}'
THIRD = 'def third(x):\n    """Return a third of x."""\n    return {}'


def cell(text: str, kind: str = "code", **more) -> dict:
    """Return a cell as a notebook stores it."""
    made = {"cell_type": kind, "metadata": {}, "source": text.splitlines(keepends=True)}
    return made | ({"outputs": [], "execution_count": None} if kind == "code" else {}) | more


def notebook(half: str = HALF.format("x / 2"), third: str = THIRD.format("x / 3")) -> dict:
    """Return notebook 77 with these two answers."""
    cells = [cell("# 77 · A test", "markdown"), cell(SETUP), cell(half), cell("check.ex_77_1(half)"),
             cell("print(half(np.ones(3)))"), cell(third), cell("check.ex_77_2(third)")]  # fmt: skip
    return {"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}


def stub(answer: str) -> str:
    """Return an answer whose last line is still to be written."""
    return answer.replace("return {}", STUB)


def code(content: dict) -> list[dict]:
    """Return the code cells of a notebook."""
    return [c for c in content["cells"] if c["cell_type"] == "code"]


# Each way changes the notebook and returns it as bytes. The first group must not change the grade.


def _moved(content: dict, rng: random.Random) -> None:
    rng.shuffle(content["cells"])


def _doubled(content: dict, rng: random.Random) -> None:
    at = rng.randrange(len(content["cells"]))
    content["cells"].insert(at, content["cells"][at])


def _without_outputs(content: dict, rng: random.Random) -> None:
    for c in content["cells"]:
        c.pop("outputs", None), c.pop("execution_count", None), c.pop("metadata")


def _other_minor(content: dict, rng: random.Random) -> None:
    content["nbformat_minor"] = rng.choice([0, 2, 4, 99])
    content["cells"][0]["id"] = 7


def _huge_output(content: dict, rng: random.Random) -> None:
    output = {"output_type": "stream", "name": "stdout", "text": ["x" * 99 + "\n"] * rng.randrange(9999)}
    rng.choice(code(content))["outputs"] = [output]


def _joined(content: dict, rng: random.Random) -> None:
    """All code in one cell, as a text instead of a list of lines."""
    text = "\n\n".join("".join(c["source"]) for c in code(content))
    content["cells"] = [cell("x") | {"source": text}]


def _magics(content: dict, rng: random.Random) -> None:
    rng.choice(code(content))["source"].insert(0, rng.choice(["%matplotlib inline\n", "!pip list\n"]))


HARMLESS = (_moved, _doubled, _without_outputs, _other_minor, _huge_output, _joined, _magics)


def _split(content: dict, rng: random.Random) -> None:
    at = rng.randrange(len(content["cells"]))
    lines = content["cells"][at]["source"]
    cut = rng.randrange(len(lines) + 1)
    parts = [content["cells"][at] | {"source": part} for part in (lines[:cut], lines[cut:])]
    content["cells"][at : at + 1] = parts


def _retyped(content: dict, rng: random.Random) -> None:
    c = rng.choice(content["cells"])
    c["cell_type"] = rng.choice(["markdown", "raw", "code", "heading", 7])


def _swapped(content: dict, rng: random.Random) -> None:
    for c in content["cells"]:
        c["cell_type"] = "code" if c["cell_type"] == "markdown" else "markdown"


def _lost(content: dict, rng: random.Random) -> None:
    del content["cells"][rng.randrange(len(content["cells"]))]


def _conflict_in_a_cell(content: dict, rng: random.Random) -> None:
    lines = rng.choice(code(content))["source"]
    lines[:] = ["<<<<<<< mine\n", *lines, "\n=======\n", *lines, "\n>>>>>>> theirs\n"]


def _strange_values(content: dict, rng: random.Random) -> None:
    c = rng.choice(content["cells"])
    c[rng.choice(["source", "cell_type", "metadata"])] = rng.choice(
        [None, 3, {}, ["x", None], [[]], "\ud800"]
    )


def _strange_cells(content: dict, rng: random.Random) -> None:
    content["cells"] = rng.choice([None, {}, "cells", [], [None, 3], [{}]])


def _letters(content: dict, rng: random.Random) -> None:
    """Some letters of an answer replaced."""
    lines = rng.choice(code(content))["source"]
    n = rng.randrange(len(lines))
    at = rng.randrange(len(lines[n]))
    lines[n] = lines[n][:at] + rng.choice("(:\t\0é½\n9") + lines[n][at + 1 :]


CHANGES = (_split, _retyped, _swapped, _lost, _conflict_in_a_cell, _strange_values, _strange_cells, _letters)


def _truncated(data: bytes, rng: random.Random) -> bytes:
    return data[: rng.randrange(len(data))]


def _empty(data: bytes, rng: random.Random) -> bytes:
    return rng.choice([b"", b" \n", b"null", b"[]", b"{}", b"3"])


def _conflict(data: bytes, rng: random.Random) -> bytes:
    lines = data.splitlines(keepends=True)
    lines.insert(rng.randrange(len(lines)), b"<<<<<<< HEAD\n")
    return b"".join(lines)


def _encoded(data: bytes, rng: random.Random) -> bytes:
    return data.decode().encode(rng.choice(["utf-16", "utf-32", "latin-1", "utf-8-sig"]))


def _bytes(data: bytes, rng: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.randrange(1, 9)):
        changed[rng.randrange(len(changed))] = rng.randrange(256)
    return bytes(changed)


def _nested(data: bytes, rng: random.Random) -> bytes:
    return b'{"cells": ' + b"[" * 10**5


DAMAGE = (_truncated, _empty, _conflict, _encoded, _bytes, _nested)


def mangled(seed: int) -> tuple[str, bytes]:
    """Return what was done to a solved notebook, and the bytes of the file."""
    rng = random.Random(seed)
    way: Callable = rng.choice([*HARMLESS, *CHANGES, *DAMAGE])
    content = notebook()
    if way not in DAMAGE:
        way(content, rng)
    data = json.dumps(content, indent=1, ensure_ascii=way in CHANGES).encode()
    return way.__name__.strip("_"), way(data, rng) if way in DAMAGE else data


def write(path: Path, content: dict) -> Path:
    """Write a notebook."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")
    return path
