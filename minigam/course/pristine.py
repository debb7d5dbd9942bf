"""What the checks use, as it was before a learner's code ran: to restore it, and to name what has changed."""

import builtins
import functools
import inspect
import re
import sys
import traceback
import types
from typing import Any

TRUSTED = ("numpy", "minigam")  # the packages whose functions the checks call
OTHERS = (builtins, functools, inspect, re, traceback)


class Pristine:
    """The trusted modules as they are now: which functions, classes and Ops they have, and their parts.

    Numbers, dictionaries and lists are held for the checks alone: other modules may have caches.

    package : the package of the checks
    """

    def __init__(self, package: str) -> None:
        roots, held = (*TRUSTED, package), ("minigam.course", "minigam.gradcheck", package)
        self._modules = {n: m for n, m in sys.modules.items() if n.partition(".")[0] in roots or n == package}
        self._modules |= {m.__name__: m for m in OTHERS}
        self._names: list[tuple[str, dict, dict]] = []  # of a module: its name, its names, those to hold
        self._contents: list[tuple[str, Any, Any]] = []  # of a container: its name, itself, a copy
        self._parts: dict[
            int, tuple[str, Any, dict]
        ] = {}  # of a function or class: its name, itself, its parts
        for name, module in self._modules.items():
            everything = name.startswith(held)
            kept = {k: v for k, v in vars(module).items() if not k.startswith("__")
                    and (everything or callable(v) or isinstance(v, types.ModuleType))}  # fmt: skip
            self._names.append((name, vars(module), kept))
            for k, v in kept.items():
                if everything and isinstance(v, dict | list | set):
                    self._contents.append((f"{name}.{k}", v, v.copy()))
                if callable(v) and module not in OTHERS and id(v) not in self._parts:
                    self._parts[id(v)] = f"{name}.{k}", v, _parts(v)

    def restore(self) -> list[str]:
        """Put everything back; return the names of what had changed."""
        changed = []
        for name, module in self._modules.items():
            if sys.modules.get(name) is not module:
                changed.append(f"sys.modules[{name!r}]")
                sys.modules[name] = module
        for name, names, kept in self._names:
            for k, v in kept.items():
                if names.get(k) is not v:
                    changed.append(f"{name}.{k}")
                    names[k] = v
        for name, container, content in self._contents:
            if not _same(container, content):
                changed.append(name)
                container.clear()
                (container.extend if isinstance(container, list) else container.update)(content)
        for name, thing, parts in self._parts.values():
            now = _parts(thing)
            for k in (k for k, v in parts.items() if now.get(k) is not v):
                changed.append(name)
                _put(thing, k, parts[k])
        return changed


def _same(container: Any, content: Any) -> bool:
    """Return whether a container still holds the same objects."""
    if isinstance(container, dict):
        return container.keys() == content.keys() and all(container[k] is v for k, v in content.items())
    return len(container) == len(content) and all(a is b for a, b in zip(container, content, strict=True))


def _parts(thing: Any) -> dict[Any, Any]:
    """Return what makes a function (its code, defaults and closure), a class or another callable object."""
    if isinstance(thing, types.FunctionType):
        parts: dict[Any, Any] = {i: _content(cell) for i, cell in enumerate(thing.__closure__ or ())}
        return parts | {k: getattr(thing, k) for k in ("__code__", "__defaults__", "__kwdefaults__")}
    own = vars(thing) if hasattr(thing, "__dict__") else {}
    if isinstance(thing, type):  # its methods; other attributes may be caches
        methods = types.FunctionType | property | staticmethod | classmethod
        return {k: v for k, v in own.items() if isinstance(v, methods)}
    return dict(own)


def _content(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # empty
        return None


def _put(thing: Any, key: Any, value: Any) -> None:
    """Put back one part of a function, a class or another object."""
    if isinstance(key, int):  # of a closure
        thing.__closure__[key].cell_contents = value
    else:
        setattr(thing, key, value)
