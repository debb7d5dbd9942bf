"""Tiny runs for the campaigns: their commands, what a user does after a crash, what must be equal then."""

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from helpers.children import Child, Orders, Server, minigam
from helpers.runs import STATE, losses
from minigam.engine.compiled import kernels

kernels.in_use()  # children are forked with the kernels, so that none of them compiles, or tells of the lack

MODELS = {"gam": ("--n-slots=2",), "transformer": ("--n-heads=2",), "mamba": ("--d-state=2", "--expand=2")}


def flags_of(text: Path, *others: str, model: str = "gam") -> list[str]:
    """Return the flags of a run that takes a tenth of a second, and leaves a checkpoint every other step."""
    return [
        "--backend=numpy", f"--text={text}", "--block-size=8", "--d-model=4", "--n-layers=1",
        "--batch-size=2", "--dropout=0.2", "--steps=3", "--eval-every=2", "--checkpoint-every=2",
        "--warmup-steps=1", f"--model={model}", *MODELS[model], *others,
    ]  # fmt: skip


def random_flags(text: Path, rng: np.random.Generator) -> list[str]:
    """Return flags of a random run."""
    drawn = {
        "steps": rng.integers(1, 13),
        "checkpoint-every": rng.integers(1, 6),
        "eval-every": rng.integers(1, 5),
        "micro-batch": rng.integers(0, 3),
        "dropout": rng.choice([0.0, 0.3]),
        "seed": rng.integers(1000),
    }
    model = rng.choice(list(MODELS))
    return flags_of(text, *(f"--{name}={value}" for name, value in drawn.items()), model=model)


@dataclass(frozen=True)
class Whole:
    """A run that nothing interrupted."""

    flags: list[str]
    path: Path
    operations: int
    seconds: float


def whole(server: Server, path: Path, flags: Sequence[str], quick: bool = True) -> Whole:
    """Train to the end in a new folder."""
    started = time.monotonic()
    child = server.run(minigam, "train", *flags, f"--out={path}", orders=Orders(path, quick=quick))
    assert child.code == 0, child.err
    return Whole(list(flags), path, len(child.operations), time.monotonic() - started)


def differences(path: Path, other: Path) -> str:
    """Return in what two run folders differ, but for times and plots; empty if in nothing."""
    names = [sorted(p.name for p in folder.iterdir() if p.name != ".lock") for folder in (path, other)]
    if names[0] != names[1]:
        return f"files {names[0]}, wanted {names[1]}"
    changed = [name for name in STATE if (path / name).read_bytes() != (other / name).read_bytes()]
    return ", ".join([*changed, *(["metrics"] if losses(path) != losses(other) else [])])


def refused(child: Child) -> bool:
    """Return whether a command was refused in one line, with exit code 2."""
    return child.code == 2 and child.err.count("\n") == 1 and "Traceback" not in child.err


def end(server: Server, path: Path, run: Whole, quick: bool = True) -> str:
    """Do what a user does after a crash: resume, or the same command again where there is no run to resume.

    returns what is wrong in the end, empty if nothing is
    """
    orders = Orders(path, quick=quick)
    child = server.run(minigam, "train", "--resume", str(path), "--backend=numpy", orders=orders)
    if refused(child):
        child = server.run(minigam, "train", *run.flags, f"--out={path}", orders=orders)
    if child.code != 0:
        return f"cannot be resumed (exit code {child.code}): {child.err.strip()}"
    return differences(path, run.path)


def table(folder: Path) -> None:
    """A target: table 1 of one tiny model on a few stories."""
    from minigam.experiments import __main__ as experiments
    from minigam.experiments import comparison

    comparison.SCALES["small"] = comparison.Scale(
        {"block_size": 126, "d_model": 4, "n_layers": 1},
        {"steps": 2, "batch_size": 2, "eval_every": 1, "checkpoint_every": 1},
        {"gam": {"n_slots": 2}},
        {},
    )
    experiments.DataConfig = partial(experiments.DataConfig, stories=12, valid_stories=2)
    minigam("experiments", "table1", "--scale=small", "--models", "gam", f"--out={folder}", "--backend=numpy")


def differing_tables(folder: Path, other: Path) -> str:
    """Return in what the results of two tables differ, but for times; empty if in nothing."""
    cell = Path("cells") / "gam-seed0"
    if different := differences(folder / cell, other / cell):
        return different
    contents, names = [], []
    for path in (folder, other):
        content = json.loads((path / "table1.json").read_text(encoding="utf-8"))
        contents.append([content["ngrams"], *(cell["result"]["loss"] for cell in content["cells"].values())])
        names.append(sorted(p.name for p in path.iterdir() if p.name != ".lock"))
    return f"files {names[0]}" if names[0] != names[1] else "results" * (contents[0] != contents[1])


def preparing(text: Path, folder: Path, vocab_size: int = 60) -> tuple:
    """Return the target and the arguments that prepare a text as FOLDER/out."""
    argv = (f"--train={text}", f"--out={folder / 'out'}", f"--vocab-size={vocab_size}")
    return minigam, "data", "prepare", "wikitext-2", *argv


def content(folder: Path) -> dict[str, bytes]:
    """Return the files of a folder, locks left out."""
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.suffix != ".lock" and p.name != ".lock"}


def differing_files(folder: Path, other: Path) -> str:
    """Return what distinguishes two results of `preparing`; empty if nothing does."""
    names = [p.name for p in folder.iterdir() if p.suffix != ".lock"]
    if names != ["out"]:
        return f"left-over files {names}"
    return "other files" * (content(folder / "out") != content(other / "out"))
