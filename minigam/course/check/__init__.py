"""The checks of the exercises: `check.ex_05_2(my_function)` says whether it is right, and if not, why.

The checks of each notebook are a module, imported when the first of them is used.
"""

import re
from importlib import import_module
from pathlib import Path


def _modules() -> list[str]:
    return sorted(p.stem for p in Path(__file__).parent.glob("nb[0-9][0-9].py"))


def __getattr__(name: str):
    numbered = re.fullmatch(r"ex_(\d\d)_\d+", name)
    if numbered and f"nb{numbered[1]}" in _modules():
        module = import_module(f"{__name__}.nb{numbered[1]}")
        if hasattr(module, name):
            return getattr(module, name)
    raise AttributeError(f"check has no {name}; exercises are ex_NN_K, such as check.ex_05_2")


def __dir__() -> list[str]:
    modules = (import_module(f"{__name__}.{module}") for module in _modules())
    return [name for module in modules for name in dir(module) if name.startswith("ex_")]
