"""The pages of the reference: the public names of each public module, from their docstrings.

A docstring is set as it is written, as `help` shows it: its equations and shapes are aligned by hand.
"""

import inspect
import types
from pathlib import Path

import minigam
from minigam.engine.dispatch import Op

ROOT = Path(__file__).parents[2]


def modules() -> dict[str, types.ModuleType]:
    """Return minigam and its public modules by name."""
    public = {name: getattr(minigam, name) for name in sorted(minigam.__all__, key=str.lower)}
    return {"minigam": minigam} | {n: m for n, m in public.items() if isinstance(m, types.ModuleType)}


def members(module: types.ModuleType) -> dict[str, object]:
    """Return the public functions, classes and operations of a module by name."""
    names = getattr(module, "__all__", None) or [n for n in vars(module) if not n.startswith("_")]
    found = {name: getattr(module, name) for name in names}
    return {
        name: item for name, item in found.items()
        if isinstance(item, Op)
        or ((inspect.isroutine(item) or inspect.isclass(item))
            and getattr(item, "__module__", "").startswith(module.__name__))
    }  # fmt: skip


def docstring(item: object) -> list[str]:
    """Return the docstring of an item as blocks of Markdown: its text, then its example."""
    text, mark, example = inspect.cleandoc(getattr(item, "__doc__", None) or "").partition("\n>>> ")
    blocks = (
        [f'<div class="docstring" markdown="1">\n\n````text\n{text.rstrip()}\n````\n\n</div>'] if text else []
    )
    return blocks + ([f"```pycon\n>>> {example}\n```"] if mark else [])


def signature(name: str, item: object) -> str:
    """Return how an item is called. A rule's first argument, the library, is the operation's own."""
    try:
        called = inspect.signature(item.rule if isinstance(item, Op) else item)  # type: ignore[arg-type]
    except ValueError:
        return name
    shown = [
        p for p in called.parameters.values() if p.name not in ("self", "xp") or not isinstance(item, Op)
    ]
    text = str(called.replace(parameters=shown)).replace("~", "")
    return f"{name}{text}"


def methods(item: object) -> list[str]:
    """Return the public methods of a class, each with its docstring's first line."""
    if not inspect.isclass(item):
        return []
    rows = []
    for name, method in inspect.getmembers(item, lambda m: inspect.isfunction(m) or isinstance(m, property)):
        text = (inspect.getdoc(method) or "").partition("\n\n")[0].replace("\n", " ")
        if not name.startswith("_") and text and method.__doc__:
            rows.append(f"* **`{name}`**: {escaped(text)}")
    return ["Methods and properties:", "\n".join(rows)] if rows else []


def escaped(text: str) -> str:
    """Return text of a docstring for a line of Markdown: only its code is marked up."""
    parts = text.split("`")
    plain = [
        p.replace("*", "\\*").replace("_", "\\_").replace("<", "&lt;").replace("$", "\\$") for p in parts
    ]
    return "`".join(plain[i] if i % 2 == 0 else parts[i] for i in range(len(parts)))


def place_of(item: object) -> Path:
    """Return the file of an item, relative to the repository."""
    rule = inspect.unwrap(item.rule if isinstance(item, Op) else item)  # type: ignore[arg-type]
    return Path(inspect.getsourcefile(rule)).relative_to(ROOT)  # type: ignore[arg-type]


def pages() -> dict[str, str]:
    """Return the pages of the reference by name; "index" lists them."""
    result, rows = {}, []
    for name, module in modules().items():
        title = name if name == "minigam" else f"minigam.{name}"
        first = inspect.cleandoc(module.__doc__ or "").partition("\n\n")[0].replace("\n", " ")
        rows.append(f"| [`{title}`]({name}.md) | {escaped(first)} |")
        own = members(module)
        parts = [f"# {title}", *docstring(module)]
        parts += (
            [] if own else ["This module has no public functions: its commands are in `minigam experiments`."]
        )
        for inner, item in own.items():
            file = place_of(item)
            parts += [
                f"## {inner}",
                f"```python\n{signature(inner, item)}\n```",
                *docstring(item),
                *methods(item),
            ]
            if ">>> " not in (getattr(item, "__doc__", None) or ""):
                parts.append("An example is among the [examples](../docs/examples.md).")
            parts.append(f"Source: [{file.as_posix()}](../{file.as_posix()})")
        result[name] = "\n\n".join(parts) + "\n"
    head = ["# Reference", "", "The public names, as `minigam.__all__` lists them.", ""]
    return {"index": "\n".join([*head, "| module | what it is |", "|---|---|", *rows, ""])} | result
