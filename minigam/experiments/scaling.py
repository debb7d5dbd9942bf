"""Table 2: time and peak memory of one block, forward and backward, against the length of the text."""

import math
from functools import partial
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm import tqdm

from minigam.config import WRITTEN, ModelConfig
from minigam.engine import backend as backends
from minigam.engine.backend import synchronize
from minigam.engine.memory import (
    GIB,
    keep_freed_memory,
    physical_memory,
    ran_out,
    release_freed_memory,
    track_memory,
)
from minigam.engine.tensor import Tensor
from minigam.experiments import paper, report
from minigam.experiments.comparison import TABLE1
from minigam.experiments.report import Cells
from minigam.models import MODELS
from minigam.models.nn import MaskCounter
from minigam.viz import scaling_plot

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SCALES: dict[str, dict[str, Any]] = {
    "small": {
        "batch": 2, "d_model": 256, "gam": {"n_slots": 256, "kernel_size": 3},
        "transformer": {"n_heads": 4}, "mamba": {"expand": 3, "d_state": 16},
    },
    "published": {"batch": 16, "d_model": 512, "gam": {}, "transformer": {}, "mamba": {}},
}  # fmt: skip
LINES = {name: TABLE1[name] for name in ("gam", "transformer", "mamba", WRITTEN)}
LABELS = {name: line.label for name, line in LINES.items()}

WARM_UP = 3  # untimed steps: the first ones start threads and touch new memory
LEFT_OUT = {"time_ms": None, "peak_mib": None}


def block_config(model: str, scale: dict, T: int) -> ModelConfig:
    """Return the configuration of the block that is measured at a scale, for T tokens."""
    line, numbers = LINES[model], {"d_model": scale["d_model"], "n_layers": 1, "dropout": 0.0}
    numbers |= scale[line.model_type] | line.changes
    return MODELS[line.model_type].Config(block_size=T, **numbers)


class Block:
    """One block of a model and an input of T random tokens; `step` runs it forward and backward."""

    def __init__(self, model: str, scale: dict, T: int, backend: str, seed: int = 0):
        config, rng = block_config(model, scale, T), np.random.default_rng(seed)
        self.block = MODELS[LINES[model].model_type].Block(config, MaskCounter(seed), rng)
        for p in self.block.parameters():
            p.data = p.data.astype("float32")
        self.block.to(backend)
        x = rng.standard_normal((scale["batch"], T, config.d_model)).astype("float32")
        self.x = Tensor(backends.to(x, backend), requires_grad=True)
        self.xp = backends.get(backend)

    def forget_gradients(self) -> None:
        self.block.zero_grad()
        self.x.grad = None

    def step(self) -> None:
        self.forget_gradients()
        y = self.block(self.x)
        y.backward(self.xp.ones_like(y.data), retain_graph=False)

    def time_ms(self) -> float:
        synchronize(self.xp)
        start = perf_counter()
        self.step()
        synchronize(self.xp)
        return 1e3 * (perf_counter() - start)

    def peak_bytes(self) -> int:
        self.forget_gradients()  # or the device would hold those of two steps
        with track_memory(self.xp) as memory:
            self.step()
            self.forget_gradients()  # their memory goes back to the device
        return memory.peak_bytes


def measure(model: str, scale: dict, T: int, backend: str, repeats: int, seed: int) -> dict:
    """Return the median and range of the time of a step in ms, after warm-up steps, and its peak memory
    in MiB, without parameters and input. All are None if memory runs out."""
    if backend == "numpy":
        keep_freed_memory()  # as training does
    release_freed_memory(backends.get(backend))  # what an earlier measurement left behind
    try:
        block = Block(model, scale, T, backend, seed)
        for _ in range(WARM_UP):
            block.step()
        times = [block.time_ms() for _ in range(repeats)]
        peak = block.peak_bytes()
    except (MemoryError, RuntimeError) as e:
        if not ran_out(e):
            raise
        return LEFT_OUT
    return {
        "time_ms": median(times),
        "fastest_ms": min(times),
        "slowest_ms": max(times),
        "peak_mib": peak / 2**20,
    }


def exponent(lengths: list[int], values: list[float]) -> float:
    """Return p of the best fitting power law value = c T^p: the slope between the logarithms."""
    return float(np.polyfit(np.log(lengths), np.log(values), 1)[0])


def table2(
    scale: str,
    lengths: list[int],
    models: list[str],
    repeats: int,
    limit_gib: float | None,
    seed: int,
    backend: str,
    out: Path,
) -> None:
    """Measure the cells that are not measured yet; write table2.json, .md and .png into `out`.

    limit_gib : a length is left out if its peak memory, extrapolated from the two before it, is above
                this, or above all memory; None for half of the memory of the machine or of its GPU
    """
    numbers = SCALES[scale]
    there_gib = physical_memory(backend) / GIB
    limit_gib = min(limit_gib, there_gib) if limit_gib is not None else there_gib / 2
    settings = {
        "scale": scale,
        "batch": numbers["batch"],
        "models": {m: block_config(m, numbers, 1).to_dict() for m in LABELS},
        "repeats": repeats,
        "seed": seed,
    }
    cells = Cells(out / "cells.json", settings, backend)
    todo = [(T, m) for T in sorted(lengths) for m in models]
    bar = tqdm(todo, disable=None, unit="cell")
    results: dict[str, dict[int, dict]] = {m: {} for m in models}
    for T, m in bar:
        bar.set_postfix_str(f"{LABELS[m]} T {T}")
        expected = max(foreseen(results[m], T), least_mib(numbers, T))
        if expected > limit_gib * 1024:
            results[m][T] = left_out(expected)
        else:
            results[m][T] = cells.get(f"{m} T {T}", partial(measure, m, numbers, T, backend, repeats, seed))
    fits = {m: fits_of(results[m]) for m in models}
    content = settings | {
        "limit_gib": limit_gib if math.isfinite(limit_gib) else None,
        "cells": {m: {str(T): v for T, v in results[m].items()} for m in models},
        "exponents": fits,
    }
    measured = [cell for by_length in results.values() for cell in by_length.values() if "measured" in cell]
    markdown = _markdown(scale, numbers, results, fits, limit_gib)
    report.write(out, "table2", content, measured, markdown, plot(content))


def plot(content: dict) -> "Figure":
    """Return the figure of the content of a table2.json."""
    cells = {LABELS[m]: {int(T): cell for T, cell in by_T.items()} for m, by_T in content["cells"].items()}
    return scaling_plot(cells, {LABELS[m]: fits for m, fits in content["exponents"].items()})


def least_mib(scale: dict, T: int) -> float:
    """Return the memory in MiB of the arrays that every block needs at length T: the input as drawn, in
    float64, and input and output with their gradients, in float32."""
    return scale["batch"] * T * scale["d_model"] * (8 + 4 * 4) / 2**20


def foreseen(cells: dict[int, dict], T: int) -> float:
    """Return the expected peak memory in MiB at length T, extrapolated from the last two of `cells`."""
    points = [(t, v["peak_mib"]) for t, v in cells.items() if v["peak_mib"] is not None]
    if len(points) < len(cells):
        return math.inf  # a shorter one was left out already
    if len(points) < 2:
        return 0.0
    (t1, m1), (t2, m2) = points[-2:]
    return m2 * (T / t2) ** (math.log(m2 / m1) / math.log(t2 / t1))


def left_out(expected: float) -> dict:
    """Return the cell of a length that is left out because it would need `expected` MiB."""
    return LEFT_OUT | {"foreseen_mib": expected if math.isfinite(expected) else None}


def fits_of(cells: dict[int, dict]) -> dict[str, float]:
    """Return the exponents p of T^p for time and memory, over all lengths and over the three longest."""
    measured = {T: v for T, v in cells.items() if v["time_ms"] is not None}
    if len(measured) < 2:
        return {}
    lengths = list(measured)
    fits = {}
    for what in ("time_ms", "peak_mib"):
        values = [measured[T][what] for T in lengths]
        fits[what] = exponent(lengths, values)
        fits[f"{what}_at_the_end"] = exponent(lengths[-3:], values[-3:])
    return fits


def _markdown(
    scale: str, numbers: dict, results: dict[str, dict[int, dict]], fits: dict, limit_gib: float
) -> str:
    text = (
        f"table2, scale {scale}: one block, forward and backward, float32, batch {numbers['batch']}, "
        f"C {numbers['d_model']}, no dropout. "
        "Time is a median; memory is the peak above parameters and input.\n"
    )
    for what, unit in (("time_ms", "time (ms)"), ("peak_mib", "peak memory (MiB)")):
        lengths = list(next(iter(results.values())))
        heads = [unit, *map(str, lengths), "exponent", "at the end"]
        body = []
        for m, cells in results.items():
            shown = ["left out" if v[what] is None else f"{v[what]:.1f}" for v in cells.values()]
            ends = [fits[m].get(what), fits[m].get(f"{what}_at_the_end")]
            body.append([LABELS[m], *shown, *("" if e is None else f"{e:.2f}" for e in ends)])
        if scale == "published":
            key = {"time_ms": "time_ms", "peak_mib": "peak_mb"}[what]
            for m, theirs in paper.TABLE2.items():
                by_length = dict(zip(paper.LENGTHS, theirs[key], strict=True))
                shown = [str(by_length.get(T, "")) for T in lengths]
                shown = ["out of memory" if s == "None" else s for s in shown]
                name = f"paper: {LABELS[m]}, mixed precision{', MB' if key == 'peak_mb' else ''}"
                body.append([name, *shown, "", ""])
        text += "\n" + report.table(heads, body)
    text += "\nexponent: p of the best fitting T^p over the lengths measured; at the end: over the three "
    text += "longest, where a quadratic term weighs most.\n"
    if any(v["time_ms"] is None for cells in results.values() for v in cells.values()):
        text += f"Left out: more than {limit_gib:.1f} GiB expected, or out of memory.\n"
    return text
