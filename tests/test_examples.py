"""Every public function and class has a runnable example, in its docstring or in docs/examples.md. Those of
docs/interop.md run as well."""

import ast
import doctest
import inspect
import re
import types
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import minigam as mg
from minigam.engine import backend, dispatch
from minigam.engine.dispatch import Op

ROOT = Path(__file__).parents[1]


def blocks(page: str) -> list[str]:
    """Return the examples of a page of docs."""
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    return re.findall(r"^```pycon\n(.*?)^```", text, re.M | re.S)


BLOCKS = blocks("examples.md")
PARSER = doctest.DocTestParser()

NEEDS_MORE = {  # examples that are shown and not run, each with its reason
    "course.library": "prints a choice that depends on the machine",
    "course.show": "shows a picture in a notebook",
    "course.trained": "trains for a minute",
    "profile.gpu": "needs a GPU",
}


def public() -> Iterator[tuple[str, object]]:
    """Yield every public name of minigam and of its public modules: a function, class or operation."""
    for name in mg.__all__:
        value = getattr(mg, name)
        if not isinstance(value, types.ModuleType):
            yield name, value
            continue
        exported = getattr(value, "__all__", None) or [n for n in vars(value) if not n.startswith("_")]
        for inner in exported:
            item = getattr(value, inner)
            ours = isinstance(item, Op) or (
                (inspect.isfunction(item) or inspect.isclass(item))
                and item.__module__.startswith(value.__name__)
            )
            if ours:
                yield f"{name}.{inner}", item


PUBLIC = dict(public())


def example_of(name: str, item: object) -> str:
    """Return the text with the example of a public name, or ""."""
    docstring = item.__doc__ or ""
    if ">>> " in docstring:
        return inspect.cleandoc(docstring)
    return next((block for block in BLOCKS if re.search(rf"\b{re.escape(name)}\b", block)), "")


def test_the_public_names_are_found():
    assert len(PUBLIC) > 130
    assert {"GAM", "ops.softmax", "sequence.associative_memory", "viz.loss_plot", "memory.brief"} <= set(
        PUBLIC
    )


def test_every_public_name_has_an_example_that_uses_it():
    missing = [name for name, item in PUBLIC.items() if not example_of(name, item)]
    assert missing == []
    silent = [
        name for name, item in PUBLIC.items()
        if not re.search(rf"^(>>>|\.\.\.) .*\b{name.rpartition('.')[2]}\b", example_of(name, item), re.M)
        and not is_an_error(item)
    ]  # fmt: skip
    assert silent == []


def is_an_error(item: object) -> bool:
    """Return whether the item is an error, whose example raises it."""
    return inspect.isclass(item) and issubclass(item, Exception)


def docstrings() -> Iterator[pytest.param]:
    """Yield each docstring of the package with an example, and each block of the page."""
    for path in sorted((ROOT / "minigam").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, (ast.FunctionDef, ast.ClassDef, ast.Module)):
                text = ast.get_docstring(node) or ""
                if ">>> " in text:
                    name = getattr(node, "name", path.stem)
                    yield pytest.param(text, id=f"{path.relative_to(ROOT)}::{name}")
    for number, block in enumerate(BLOCKS):
        yield pytest.param(block, id=f"docs/examples.md::{number}")


def failures(text: str) -> str:
    """Run a text's examples; return what doctest reports."""
    test, report = (
        PARSER.get_doctest(text, {"np": np, "mg": mg, "__name__": "__main__"}, "example", None, 0),
        [],
    )
    assert test.examples
    doctest.DocTestRunner(verbose=False).run(test, out=report.append, clear_globs=False)
    return "".join(report)


@pytest.mark.parametrize("text", [*docstrings()])
def test_an_example_prints_what_it_says(text, monkeypatch):
    pytest.importorskip("matplotlib").use("Agg")
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(dispatch, "OPS", {**dispatch.OPS})  # an example adds an operation,
    monkeypatch.setattr(backend, "_OWNER", {**backend._OWNER})  # and another one a type of array
    assert failures(text) == ""


def test_the_examples_of_interop_run_one_after_the_other(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)  # they write files
    examples = blocks("interop.md")
    assert len(examples) > 3
    assert failures("\n".join(examples)) == ""


def test_a_wrong_example_is_noticed():
    assert "Expected" in failures(">>> 1 + 1\n3\n")


def test_only_what_a_laptop_cannot_run_is_skipped():
    skipped = {
        name for name, item in PUBLIC.items()
        if re.search(rf"\b{re.escape(name)}\(.*doctest: \+SKIP", example_of(name, item))
    }  # fmt: skip
    assert skipped == set(NEEDS_MORE)
