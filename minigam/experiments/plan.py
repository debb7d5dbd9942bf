"""What the runs of a table will take, said before they start: download, disk, memory and time.

A step of each model is measured on the device that will train it.
"""

import math
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter

import numpy as np
from tqdm import tqdm

from minigam.config import InputError
from minigam.data.corpus import Corpus
from minigam.data.datasets import DATASETS
from minigam.data.download import Download
from minigam.data.hub import endpoint
from minigam.data.prepare import VOCAB_SIZE
from minigam.engine import backend as backends
from minigam.engine.memory import GIB, physical_memory, ran_out, release_freed_memory, track_memory
from minigam.engine.precision import using
from minigam.experiments.training_cell import Cell, finished
from minigam.models import MODELS
from minigam.training.run import Run, new_optimizer
from minigam.training.size import require_memory
from minigam.training.step import places, train_step

# Bytes of a run folder for each parameter: its value and two moments to resume with, and its value to use.
CHECKPOINT_BYTES, WEIGHTS_BYTES = 12, 4
TOKEN_BYTES = 2  # of a prepared token
FORWARD = 1 / 3  # share of a step that a validation of its rows takes: backward costs twice a forward


@dataclass(frozen=True)
class Size:
    """The size of a corpus: rows of each split, entries of the vocabulary, and whether it is estimated."""

    train: int
    valid: int
    vocab_size: int
    estimated: bool = False

    @classmethod
    def of(cls, corpus: Corpus) -> "Size":
        return cls(len(corpus.train), len(corpus.valid), len(corpus.tokenizer))

    @classmethod
    def expected(cls, download: Download, block_size: int) -> "Size":
        """Return the size of a dataset once it is prepared; a row has one token more than a block."""
        rows = {split: n // (block_size + 1) for split, n in DATASETS[download.name].tokens.items()}
        return cls(rows["train"], rows["valid"], VOCAB_SIZE, estimated=True)


@dataclass(frozen=True)
class Step:
    """What one training step of a model takes: seconds, and the peak of its arrays in bytes."""

    seconds: float
    peak_bytes: int


def announce(cells: list[Cell], out: Path, size: Size, backend: str, download: Download | None) -> None:
    """Print what the unfinished cells in `out`/cells will take, and what is to be downloaded first.

    Raises InputError if the disk, or the memory of this machine or of its GPU, is too small, and if a
    download is due that is not possible here.
    """
    todo = {c.name: (c, left) for c in cells if (left := steps_left(c, out / "cells"))}
    if not todo and download is None:
        return
    if download is not None:
        download.require_possible()
    about, steps = "about " if size.estimated else "", [left for _, left in todo.values()]
    runs = f"{len(steps)} run{'s' * (len(steps) != 1)}"
    if steps:
        runs += f" of {'up to ' * (len({*steps}) > 1)}{about}{max(steps):,} steps"
    block = cells[0].model.block_size
    print(f"plan: {runs} on {about}{size.train:,} training rows of {block} tokens")
    if download is not None:
        size_left = _bytes(sum(file.size for file in download.missing()))
        print(f"  download  {size_left} from {endpoint()} into {download.folder}")
    _require_disk(todo, out, size, download)
    if not todo:
        return
    measured = _measured([cell for cell, _ in todo.values()], size.vocab_size, backend)
    largest = max(todo, key=lambda name: measured[name].peak_bytes)
    there, owner = physical_memory(backend), "this machine" if backend == "numpy" else "the GPU"
    has = f"; {owner} has {there / GIB:.1f} GiB" if math.isfinite(there) else ""
    peak = measured[largest].peak_bytes / GIB
    print(f"  memory    about {peak:.1f} GiB of arrays in {largest}, the most{has}")
    seconds = {
        name: _seconds(cell, left, measured[name].seconds, size) for name, (cell, left) in todo.items()
    }
    each = ", ".join(f"{name} {_time(s)}" for name, s in seconds.items())
    print(f"  time      about {_time(sum(seconds.values()))}, by a measured step of each: {each}")


def _require_disk(
    todo: dict[str, tuple[Cell, int]], out: Path, size: Size, download: Download | None
) -> None:
    """Print how much disk the cells, and a download to the same disk, will take. Raises InputError if that is
    more than is free."""
    sizes = {
        name: MODELS[cell.model_type].count_parameters(replace(cell.model, vocab_size=size.vocab_size))
        for name, (cell, _) in todo.items()
    }
    # A run that was stopped has its files; a checkpoint is written next to the one before it.
    new = sum(n for name, n in sizes.items() if not Run.exists(out / "cells" / name))
    needed = (CHECKPOINT_BYTES + WEIGHTS_BYTES) * new + CHECKPOINT_BYTES * max(sizes.values(), default=0)
    what, here = f"checkpoints in {out}", _nearest(out)
    if download is not None and _nearest(download.root).stat().st_dev == here.stat().st_dev:
        needed += sum(f.size for f in download.missing())
        needed += TOKEN_BYTES * sum(DATASETS[download.name].tokens.values())
        what += f", and data in {download.root}"
    free = shutil.disk_usage(here).free
    print(f"  disk      about {_bytes(needed)} for {what}; {_bytes(free)} are free")
    if needed > free:
        raise InputError(
            f"{out}: about {_bytes(needed)} of disk needed, {_bytes(free)} are free; "
            "choose another --out, or fewer --models or --seeds"
        )


def _nearest(path: Path) -> Path:
    """Return the path, or the nearest folder above it that exists."""
    return next(p for p in (path, *path.absolute().parents) if p.exists())


def steps_left(cell: Cell, folder: Path) -> int:
    """Return how many steps of a cell are not trained yet; 0 for one that is finished."""
    path = folder / cell.name
    if not Run.exists(path):
        return cell.train.steps
    if finished(path):
        return 0
    return max(1, cell.train.steps - Run(path).saved_step())  # at the end, the last validation is left


def _measured(cells: list[Cell], vocab_size: int, backend: str) -> dict[str, Step]:
    """Return the step of each cell by its name; seeds share a measurement."""
    by_name: dict[str, Step] = {}
    by_settings: dict[tuple, Step] = {}
    for cell in tqdm(cells, desc="measuring a step of each model", leave=False, delay=1, disable=None):
        settings = cell.model_type, cell.model, replace(cell.train, seed=0)
        if settings not in by_settings:
            by_settings[settings] = measured_step(cell, vocab_size, backend)
            release_freed_memory(backends.get(backend))
        by_name[cell.name] = by_settings[settings]
    return by_name


def measured_step(cell: Cell, vocab_size: int, backend: str) -> Step:
    """Measure a training step of a cell with random tokens.

    It takes as many rows as are computed at a time and, if the batch has more, twice as many; from there on
    each row adds the same.
    Raises InputError when memory runs out.
    """
    model, c = replace(cell.model, vocab_size=vocab_size), cell.train
    require_memory(cell.model_type, model, c, backend)
    B, T, xp, rng = c.batch_size, model.block_size, backends.get(backend), np.random.default_rng(0)

    def seconds(rows: int) -> float:
        ids, targets = rng.integers(0, vocab_size, (2, rows, T))
        start = perf_counter()
        train_step(network, optimizer, ids, targets, c.micro_batch or None, c.max_norm)
        return perf_counter() - start

    try:
        with using(xp, c.precision):
            with track_memory(xp) as memory:
                network = MODELS[cell.model_type](model, seed=c.seed, backend=backend)
                optimizer = new_optimizer(network, c)
                part, *_ = next(places(network, B, T, c.micro_batch or None))
                few = part.stop - part.start
                seconds(few)  # it also starts threads and compiles kernels
            if xp is not np:
                seconds(few)  # fills the memory pool that training uses
            step = seconds(few)
            if more := min(B - few, few):
                step += max(0.0, seconds(few + more) - step) * (B - few) / more
    except (MemoryError, RuntimeError) as e:
        if not ran_out(e):
            raise
        raise InputError(f"{cell.name}: memory ran out in a step of it; leave it out with --models") from e
    return Step(step, memory.peak_bytes)


def _seconds(cell: Cell, steps: int, step: float, size: Size) -> float:
    """Return the time that `steps` steps of a cell take with their validations."""
    c = cell.train
    validated = (steps - 1) // c.eval_every * min(c.eval_rows, size.valid) + size.valid
    return step * (steps + FORWARD * validated / c.batch_size)


def _bytes(n: float) -> str:
    return f"{n / 1e9:,.1f} GB" if n >= 1e9 else f"{n / 1e6:,.1f} MB"


def _time(seconds: float) -> str:
    if seconds < 99:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 99 * 60 else f"{seconds / 3600:.1f} h"
