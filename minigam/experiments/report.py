"""Write result files, and record with the numbers where and how they were measured."""

import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from minigam.config import InputError
from minigam.files import read_sealed, replacing, write_json, write_sealed, write_text
from minigam.training.provenance import measured_by

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def command() -> str:
    """Return the command line of this process; commands of minigam in their short form."""
    spec = sys.modules["__main__"].__spec__
    name = spec.name.removesuffix(".__main__") if spec is not None else Path(sys.argv[0]).stem
    ours = name.split(".")[0] == "minigam"
    return shlex.join([*(name.split(".") if ours else ["python", "-m", name]), *sys.argv[1:]])


def write(
    out: Path, name: str, content: dict, cells: list[dict], markdown: str,
    figures: "Figure | dict[str, Figure] | None", *, quiet: bool = False,
) -> None:  # fmt: skip
    """Write NAME.json, NAME.md and the figures; print the Markdown unless `quiet`.

    cells   : the measurements, each with its provenance under "measured"
    figures : one, written as NAME.png, or several by their names; None for none
    """
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / f"{name}.json", {"experiment": name, "command": command(), **content})
    devices = {f"{c['measured']['device']}, {c['measured']['machine']['cores']} cores" for c in cells}
    source = f"Command: `{command()}` on {' and on '.join(sorted(devices))}; "
    source += f"numbers, versions and settings in {name}.json.\n"
    write_text(out / f"{name}.md", f"{markdown}\n{source}")
    drawn = figures if isinstance(figures, dict) else {name: figures} if figures else {}
    for stem, figure in drawn.items():
        with replacing(out / f"{stem}.png") as temporary:
            figure.savefig(temporary, dpi=120, format="png")
    if not quiet:
        files = [f"{name}.json", f"{name}.md", *(f"{stem}.png" for stem in drawn)]
        print(f"\n{markdown}\nSaved in {out}: {', '.join(files)}")


def table(heads: list[str], lines: list[list[str]]) -> str:
    """Return a Markdown table, the first column aligned left and the others right; fill short lines up."""
    lines = [line + [""] * (len(heads) - len(line)) for line in lines]
    cells = [heads, *lines]
    widths = [max(len(line[i]) for line in cells) for i in range(len(heads))]

    def text(line: list[str]) -> str:
        pads = [c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(line, widths))]
        return f"| {' | '.join(pads)} |\n"

    rule = [("-" * w) if i == 0 else "-" * (w - 1) + ":" for i, w in enumerate(widths)]
    return text(heads) + f"| {' | '.join(rule)} |\n" + "".join(map(text, lines))


class Cells:
    """Finished measurements of one experiment, stored in a file so that none is repeated.

    settings : everything that determines the numbers; a file with other settings is refused
    backend  : the array library; it is stored with each measurement, as part of its provenance
    """

    FORMAT = "minigam measurements 1"

    def __init__(self, path: Path, settings: dict, backend: str):
        self.path, self.settings, self.cells = path, settings | {"backend": backend}, {}
        self.measured = measured_by(backend)
        if path.exists():
            content = read_sealed(path, self.FORMAT, remedy="delete it")
            if content.get("settings") != self.settings:
                raise InputError(f"{path}: holds other settings; choose another --out, or delete it")
            self.cells = content["cells"]

    def get(self, name: str, measure: Callable[[], dict]) -> dict:
        """Return the measurement called `name`; make it if it is missing."""
        if name not in self.cells:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.cells[name] = {**measure(), "measured": self.measured}
            write_sealed(self.path, self.FORMAT, {"settings": self.settings, "cells": self.cells})
        return self.cells[name]
