"""What the runs of a table will take, said before they start: download, disk, memory and time.

No list of devices is looked up. A step of each model is measured on the device that will train it.
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
from minigam.data.hub import probe
from minigam.data.prepare import VOCAB_SIZE
from minigam.engine import backend as backends
from minigam.engine.memory import GIB, physical_memory, ran_out, release_freed_memory, track_memory
from minigam.engine.precision import using
from minigam.experiments.training_cell import Cell
from minigam.models import MODELS
from minigam.training.run import Run, new_optimizer
from minigam.training.size import require_memory
from minigam.training.step import places, train_step

# Bytes of a run folder for each parameter: its value and two moments to resume with, and its value to use.
STATE, WEIGHTS = 12, 4
FORWARD = 1 / 3  # share of a step that a validation of its rows takes: backward costs twice a forward


@dataclass(frozen=True)
class Size:
    """The size of a corpus: rows of each split, entries of the vocabulary; `about` if it is an estimate."""

    train: int
    valid: int
    vocab_size: int
    about: bool = False

    @classmethod
    def of(cls, corpus: Corpus) -> "Size":
        return cls(len(corpus.train), len(corpus.valid), len(corpus.tokenizer))

    @classmethod
    def expected(cls, download: Download, block_size: int) -> "Size":
        """Return the size that a dataset will have once it is prepared."""
        tokens = DATASETS[download.name].tokens
        return cls(tokens["train"] // block_size, tokens["valid"] // block_size, VOCAB_SIZE, about=True)


@dataclass(frozen=True)
class Step:
    """What one training step of a model takes: seconds, the peak of its memory in bytes, its parameters."""

    seconds: float
    memory: int
    parameters: int


def announce(cells: list[Cell], out: Path, size: Size, backend: str, download: Download | None) -> None:
    """Print what the unfinished cells in `out`/cells will take, and what is to be downloaded first.

    Raises InputError if the disk, or the memory of this machine or of its GPU, is too small, and if a
    download is due that is not possible here.
    """
    todo = {c.name: (c, left) for c in cells if (left := steps_left(c, out / "cells"))}
    if not todo:
        return
    missing = [] if download is None else download.missing()
    server = probe(missing[0]) if missing else None
    steps = _measured([cell for cell, _ in todo.values()], size.vocab_size, backend)
    seconds = {name: _seconds(cell, left, steps[name].seconds, size) for name, (cell, left) in todo.items()}
    about = "about " if size.about else ""
    block, longest = cells[0].model.block_size, max(left for _, left in todo.values())
    runs = f"{len(todo)} runs of {about}{longest:,} steps" if len(todo) > 1 else f"{about}{longest:,} steps"
    print(f"plan: {runs} on {about}{size.train:,} rows of {block} tokens")
    if download is not None and missing:
        size_left = _bytes(sum(file.size for file in missing))
        print(f"  download  {size_left} from {server} into {download.folder}")
    # A run that was stopped has its files; a checkpoint is written next to the one before it.
    new = sum(steps[name].parameters for name in todo if not Run.exists(out / "cells" / name))
    needed = (STATE + WEIGHTS) * new + STATE * max(steps[name].parameters for name in todo)
    free = shutil.disk_usage(next(p for p in (out, *out.absolute().parents) if p.exists())).free
    print(f"  disk      about {_bytes(needed)} of checkpoints in {out}; {_bytes(free)} are free")
    largest = max(todo, key=lambda name: steps[name].memory)
    there = physical_memory(backend)
    owner = "this machine" if backend == "numpy" else "the GPU"
    has = f"; {owner} has {there / GIB:.1f} GiB" if math.isfinite(there) else ""
    print(f"  memory    about {steps[largest].memory / GIB:.1f} GiB of arrays in {largest}, the most{has}")
    each = ", ".join(f"{name} {_time(s)}" for name, s in seconds.items())
    print(f"  time      about {_time(sum(seconds.values()))}, by a measured step of each: {each}")
    if needed > free:
        raise InputError(
            f"{out}: about {_bytes(needed)} of disk needed, {_bytes(free)} are free; "
            "choose another --out, or fewer --models or --seeds"
        )


def steps_left(cell: Cell, folder: Path) -> int:
    """Return how many steps of a cell are not trained yet; 0 for one that is finished."""
    path = folder / cell.name
    if not Run.exists(path):
        return cell.train.steps
    if (path / "result.json").exists():
        return 0
    return max(1, cell.train.steps - Run(path).saved_step())  # at the end, the last validation is left


def _measured(cells: list[Cell], vocab_size: int, backend: str) -> dict[str, Step]:
    """Return the step of each cell by its name; seeds share a measurement."""
    found: dict[str, Step] = {}
    by_settings: dict[tuple, Step] = {}
    for cell in tqdm(cells, desc="measuring a step of each model", leave=False, delay=1, disable=None):
        settings = cell.model_type, cell.model, replace(cell.train, seed=0)
        if settings not in by_settings:
            by_settings[settings] = measured_step(cell, vocab_size, backend)
        found[cell.name] = by_settings[settings]
    return found


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
            step = seconds(few)
            if more := min(B - few, few):
                step += max(0.0, seconds(few + more) - step) * (B - few) / more
    except (MemoryError, RuntimeError) as e:
        if not ran_out(e):
            raise
        raise InputError(f"{cell.name}: memory ran out in a step of it; leave it out with --models") from e
    finally:
        release_freed_memory(xp)
    return Step(step, memory.peak_bytes, network.num_parameters())


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
