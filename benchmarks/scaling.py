"""Measure time and peak memory of a training step against the length of the text, minigam and PyTorch.

A step trains on one row of T tokens, and every measurement runs in its own process. Memory is the peak
of the process minus what it held before the model was made, so that its growth with T shows.
"""

import argparse
import math
from functools import partial
from itertools import pairwise
from pathlib import Path
from statistics import median

import numpy as np
from tqdm import tqdm

from benchmarks import environment, measure
from minigam import GAMConfig, MambaConfig, TransformerConfig, cli
from minigam.config import ModelConfig
from minigam.engine.memory import GIB, physical_memory
from minigam.experiments import paper, report
from minigam.experiments.scaling import LABELS, fits_of, foreseen, left_out
from minigam.models import MODELS
from minigam.training import provenance
from minigam.training.optim import AdamW
from minigam.training.step import train_step
from minigam.viz import scaling_plot

PROG = "benchmarks.scaling"
NARROW = {"vocab_size": 2000, "d_model": 128, "n_layers": 2, "dropout": 0.0}
CONFIGS = {
    "gam": GAMConfig(**NARROW, n_slots=128),
    "transformer": TransformerConfig(**NARROW, n_heads=4),
    "mamba": MambaConfig(**NARROW),
}
LINES = {f"minigam {LABELS[m]}": ("minigam", m) for m in CONFIGS}  # label: library, model
LINES |= {f"PyTorch {LABELS[m]}": ("torch", m) for m in ("gam", "transformer")}
WARM_UP = 1
WIDE, WIDE_LENGTH = "GAM, published width", 8192


# ------------------------------------------------------------------------------- in a worker


def work(library: str, model_type: str, model: dict, length: int, steps: int) -> dict:
    """Time training steps on one row; add "before_mib", the memory held before the model was made."""
    config = MODELS[model_type].Config.from_dict(model | {"block_size": length})
    make = {"minigam": _minigam, "torch": _torch}[library]
    rng = np.random.default_rng(0)
    ids, targets = (rng.integers(config.vocab_size, size=(1, length)) for _ in range(2))
    before, step = make(model_type, config, ids, targets)
    return measure.timed(step, WARM_UP, steps) | {"before_mib": before / measure.MIB}


def _minigam(model_type: str, config: ModelConfig, ids, targets):
    before = measure.held_bytes()
    model = MODELS[model_type](config).train()
    optimizer = AdamW(model.parameters())
    return before, lambda: train_step(model, optimizer, ids, targets)


def _torch(model_type: str, config: ModelConfig, ids, targets):
    import torch

    from benchmarks.torch_models import LanguageModel, Trainer

    ids, targets = torch.tensor(ids), torch.tensor(targets)
    before = measure.held_bytes()
    trainer = Trainer(LanguageModel(config))
    return before, lambda: trainer.step(ids, targets)


# ------------------------------------------------------------------------------- the command


def parser() -> cli.Parser:
    p = cli.Parser(prog=f"python -m {PROG}", description=__doc__.splitlines()[0])
    p.add_argument("--lengths", nargs="+", type=int, default=[*paper.LENGTHS],
                   help="lengths in tokens (default: 256 to 8192)")  # fmt: skip
    p.add_argument("--pairs", type=int, default=3, help="rounds (default: 3)")
    p.add_argument("--steps", type=int, default=3, help="timed steps of every process (default: 3)")
    p.add_argument("--memory", type=float, metavar="GIB",
                   help="skip lengths that would need more (default: half of all memory)")  # fmt: skip
    p.add_argument("--wide", action=argparse.BooleanOptionalAction, default=True,
                   help=f"also measure the published width, T {WIDE_LENGTH} (default: yes)")  # fmt: skip
    p.add_argument("--out", type=Path, default=measure.RESULTS / "scaling",
                   help="folder for results (default: benchmarks/results/scaling)")  # fmt: skip
    return p


def main(argv: list[str] | None = None) -> int:
    args = parser().parse_args(argv)
    cli.require_at_least(args, lengths=1, pairs=1, steps=1, memory=0.0)
    cli.require_folder(args.out)
    measure.require("torch", "threadpoolctl")
    limit = args.memory if args.memory is not None else physical_memory() / GIB / 2
    compare(sorted(set(args.lengths)), args.pairs, args.steps, limit, args.wide, args.out)
    return 0


def compare(lengths: list[int], pairs: int, steps: int, limit_gib: float, wide: bool, out: Path) -> None:
    """Measure every length; write scaling.json, .md and .png into `out`.

    limit_gib : a length is left out if its memory, extrapolated from the two before it, is above this
    wide      : measure one step of the published GAM on one long row too
    """
    where = environment.line()
    print(where)
    measured = provenance.measured_by("numpy")
    cells: dict[str, dict[int, dict]] = {label: {} for label in LINES}
    for T in lengths:
        expected = {label: foreseen(cells[label], T) for label in LINES}
        fits_in = [label for label in LINES if expected[label] <= limit_gib * 1024]
        jobs = {label: partial(_fresh, label, *LINES[label], T, steps) for label in fits_in}
        rounds = measure.rounds(jobs, pairs, f"T {T}") if jobs else []
        for label in LINES:
            of_label = [results[label] for results in rounds if label in results]
            cells[label][T] = _cell(of_label) if of_label else left_out(expected[label])
    fits = {label: fits_of(cells[label]) for label in LINES}
    content = {
        "environment": where,
        "measured": measured,
        "pairs": pairs,
        "steps": steps,
        "limit_gib": limit_gib if math.isfinite(limit_gib) else None,
        "models": {name: config.to_dict() for name, config in CONFIGS.items()},
        "cells": {label: {str(T): cell for T, cell in by_T.items()} for label, by_T in cells.items()},
        "growth_kib": {label: growth(by_T) for label, by_T in cells.items()},
        "exponents": fits,
        "wide": _wide() if wide else None,
    }
    markdown = f"{where}\n\n" + _markdown(cells, content)
    report.write(out, "scaling", content, [{"measured": measured}], markdown, plot(content))


def plot(content: dict):
    """Return the figure of the content of a scaling.json."""
    cells = {label: {int(T): cell for T, cell in by_T.items()} for label, by_T in content["cells"].items()}
    title = f"one training step of one row, C {NARROW['d_model']}"
    return scaling_plot(cells, content["exponents"], title)


def _fresh(label: str, library: str, model_type: str, T: int, steps: int) -> dict:
    job = {"library": library, "model_type": model_type, "model": CONFIGS[model_type].to_dict()}
    return measure.fresh(PROG, f"{label}, T {T}", job | {"length": T, "steps": steps})


def _wide() -> dict:
    job = {"library": "minigam", "model_type": "gam", "model": GAMConfig().to_dict()}
    with tqdm(total=1, desc=f"{WIDE}, T {WIDE_LENGTH}", disable=None, unit="measurement") as bar:
        result = measure.fresh(PROG, WIDE, job | {"length": WIDE_LENGTH, "steps": 1})
        bar.update()
    return result | {"length": WIDE_LENGTH, "batch": 1, "model": GAMConfig().to_dict()}


def _cell(rounds: list[dict]) -> dict:
    """Return the medians over the rounds, time in ms and memory in MiB, and the rounds themselves."""
    return {
        "time_ms": 1e3 * median(r["seconds"] for r in rounds),
        "peak_mib": median(r["peak_mib"] - r["before_mib"] for r in rounds),
        "process_mib": median(r["peak_mib"] for r in rounds),
        "rounds": rounds,
    }


def growth(cells: dict[int, dict]) -> list[float]:
    """Return the memory in KiB that each additional token takes, between each length and the next.

    If memory is linear in T, these numbers are equal.
    """
    points = [(T, cell["peak_mib"]) for T, cell in cells.items() if cell["peak_mib"] is not None]
    return [1024 * (m2 - m1) / (t2 - t1) for (t1, m1), (t2, m2) in pairwise(points)]


def _markdown(cells: dict[str, dict[int, dict]], content: dict) -> str:
    lengths = list(next(iter(cells.values())))
    text = (
        f"scaling: one training step, batch 1, float32, V {NARROW['vocab_size']}, C {NARROW['d_model']}, "
        f"L {NARROW['n_layers']}, no dropout; medians of {content['pairs']} rounds, "
        "every measurement in its own process. minigam trains a GAM on parts of a row that is too long "
        "for the cache, which the short receptive field allows; PyTorch's model takes the whole row.\n"
    )
    for what, unit in (("time_ms", "time (ms)"), ("peak_mib", "peak memory (MiB)")):
        body = []
        for label, by_T in cells.items():
            shown = ["left out" if c[what] is None else f"{c[what]:.1f}" for c in by_T.values()]
            ends = [content["exponents"][label].get(key) for key in (what, f"{what}_at_the_end")]
            body.append([label, *shown, *("" if e is None else f"{e:.2f}" for e in ends)])
        text += "\n" + report.table([unit, *map(str, lengths), "exponent", "at the end"], body)
    steps = [f"{a} to {b}" for a, b in pairwise(lengths)]
    body = [[label, *(f"{g:.1f}" for g in grown)] for label, grown in content["growth_kib"].items()]
    body = [line + [""] * (len(steps) + 1 - len(line)) for line in body]
    text += "\n" + report.table(["KiB for each token more", *steps], body)
    text += (
        "\nMemory: the peak of the process above what it held before the model was made. The exponents are "
        "those of the best fitting T^p, over all lengths and over the three longest. If memory is linear, "
        "each additional token takes the same. PyTorch's attention is its fused one, which stores no T by T "
        "matrix. A Mamba in plain PyTorch would be a loop over tokens, and is left out.\n"
    )
    if any(cell["time_ms"] is None for by_T in cells.values() for cell in by_T.values()):
        text += f"Left out: more than {content['limit_gib']:.1f} GiB expected.\n"
    if (wide := content["wide"]) is not None:
        text += (
            f"\n{WIDE}: V {wide['model']['vocab_size']}, C {wide['model']['d_model']}, "
            f"L {wide['model']['n_layers']}, one row of T {wide['length']}: {wide['seconds']:.2f} s a step, "
            f"peak memory of the process {wide['peak_mib']:.0f} MiB.\n"
        )
    return text


if __name__ == "__main__":
    measure.run(main, work, PROG)
