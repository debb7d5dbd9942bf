"""The checks of the exercises: `check.ex_05_2(my_function)` says whether it is right, and if not, why.

Each notebook's checks are a room of their own, imported when the first of them is asked for.
"""

import re
from importlib import import_module
from pathlib import Path


def _rooms() -> list[str]:
    return sorted(p.stem for p in Path(__file__).parent.glob("nb[0-9][0-9].py"))


def __getattr__(name: str):
    numbered = re.fullmatch(r"ex_(\d\d)_\d+", name)
    if numbered and f"nb{numbered[1]}" in _rooms():
        room = import_module(f"{__name__}.nb{numbered[1]}")
        if hasattr(room, name):
            return getattr(room, name)
    raise AttributeError(f"check has no {name}; exercises are ex_NN_K, such as check.ex_05_2")


def __dir__() -> list[str]:
    rooms = (import_module(f"{__name__}.{room}") for room in _rooms())
    return [name for room in rooms for name in dir(room) if name.startswith("ex_")]
