"""Train here and in PyTorch from the same weights on the same batches, and compare every step.

Dropout is 0; the schedule, the clipping and AdamW are the authors'. `benchmarks.torch_models` has the PyTorch
models, and `minigam.to_official` hands over the weights.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from tqdm import tqdm

from benchmarks import environment, measure
from minigam import AdamW, cli, to_official, train_step, viz, warmup_cosine
from minigam.config import PRESETS, GAMConfig, InputError, ModelConfig, TransformerConfig
from minigam.data.corpus import from_pocketstories, inputs_and_targets
from minigam.experiments import report
from minigam.models import MODELS
from minigam.training import provenance
from minigam.training.schedule import batch_of
from minigam.viz.style import LEGEND, draw, finish

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PROG = "benchmarks.trajectory"
# Tolerances, relative: for the loss of every step, and for each parameter after the last.
LOSS = {"float64": 1e-9, "float32": 1e-3}
PARAMETER = {"float64": 1e-9, "float32": 1e-4}
# A third of it, the bias of the keys, has a gradient of zero: softmax ignores what all scores of a row share.
# AdamW divides what rounding leaves of it by its own size, so in float32 that third drifts without effect.
NO_GRADIENT = "c_attn.bias"
BETAS, WEIGHT_DECAY, MAX_NORM = (0.9, 0.95), 0.1, 1.0
CONFIGS = {"GAM": GAMConfig, "Transformer": TransformerConfig}


@dataclass(frozen=True)
class Size:
    """A model size, and the part of a schedule to follow: the first `steps` of `of_steps`.

    stories : whether it reads PocketStories; otherwise random tokens, with frequencies that fall as in a text
    """

    settings: dict
    stories: bool
    batch: int
    steps: int
    of_steps: int
    warmup_steps: int
    peak: float


SIZES = {
    "small": Size(PRESETS["small"], True, batch=16, steps=200, of_steps=200, warmup_steps=100, peak=3e-3),
    "published": Size({}, False, batch=32, steps=10, of_steps=1500, warmup_steps=100, peak=3e-4),
}


def prepared(label: str, size: Size) -> tuple[ModelConfig, list[tuple[np.ndarray, np.ndarray]]]:
    """Return the configuration of a model, and ids and targets (B, T) of each step."""
    config = replace(CONFIGS[label].of(size.settings), dropout=0.0)
    if size.stories:
        corpus = from_pocketstories(config.block_size, n_train=64 * size.batch, n_valid=1)
        config, rows = replace(config, vocab_size=len(corpus.tokenizer)), corpus.train
    else:
        chances = 1.0 / np.arange(1, config.vocab_size + 1)
        shape = (4 * size.batch, config.block_size + 1)
        rows = np.random.default_rng(0).choice(config.vocab_size, shape, p=chances / chances.sum())
    places = (batch_of(step, len(rows), size.batch, seed=0) for step in range(1, size.steps + 1))
    return config, [inputs_and_targets(rows[place]) for place in places]


def trajectory(label: str, size: Size, dtype: str) -> dict:
    """Train both; return the losses of every step, and how far apart losses and final weights are."""
    import torch

    from benchmarks.torch_models import LanguageModel, Trainer

    config, batches = prepared(label, size)
    here = MODELS[label.lower()](config, seed=0, dtype=dtype)
    there = LanguageModel(config).to(getattr(torch, dtype))
    there.load_state_dict({name: torch.from_numpy(a.copy()) for name, a in to_official(here).items()})
    optimizer = AdamW(here.parameters(), lr=size.peak, betas=BETAS, weight_decay=WEIGHT_DECAY)
    trainer = Trainer(there)
    ours, theirs = [], []
    for step, (ids, targets) in enumerate(tqdm(batches, f"{label}, {dtype}", leave=False, disable=None), 1):
        lr = warmup_cosine(step, size.of_steps, size.warmup_steps, size.peak)
        optimizer.lr = trainer.optimizer.param_groups[0]["lr"] = lr
        ours.append(train_step(here, optimizer, ids, targets, max_norm=MAX_NORM))
        ignored = np.where(targets < 0, -100, targets)  # PyTorch's mark of a target that does not count
        theirs.append(trainer.step(*(torch.from_numpy(a.astype(np.int64)) for a in (ids, ignored))))
    weights = {name: t.detach().numpy() for name, t in there.state_dict().items()}
    return {
        "minigam": ours,
        "PyTorch": theirs,
        "differences": np.abs(np.array(ours) / np.array(theirs) - 1.0).tolist(),
        "weights": {name: _distance(a, weights[name]) for name, a in to_official(here).items()},
    }


def _distance(a: np.ndarray, b: np.ndarray) -> float:
    """Return |a - b| / |b|, with Euclidean norms."""
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


def parser() -> cli.Parser:
    p = cli.Parser(prog=f"python -m {PROG}", description=(__doc__ or "").splitlines()[0])
    p.add_argument("--size", nargs="+", choices=SIZES, default=list(SIZES), metavar="SIZE",
                   help=f"sizes to compare, of {', '.join(SIZES)} (default: all)")  # fmt: skip
    p.add_argument(
        "--steps", type=int, help="steps (default: 200 of the small size, 10 of the published one)"
    )
    p.add_argument("--out", type=Path, default=measure.RESULTS / "trajectory",
                   help="folder for results (default: benchmarks/results/trajectory)")  # fmt: skip
    return p


def main(argv: list[str] | None = None) -> int:
    args = parser().parse_args(argv)
    if args.steps is not None:
        cli.require_at_least(args, steps=1)
    cli.require_folder(args.out)
    measure.require("torch", "threadpoolctl")
    sizes = {name: replace(SIZES[name], steps=args.steps or SIZES[name].steps) for name in args.size}
    for name, size in sizes.items():
        if size.steps > size.of_steps:
            raise InputError(
                f"--steps is {size.steps}, the schedule of {name} has {size.of_steps}; take fewer"
            )
    measured, where = provenance.measured_by("numpy"), environment.line()
    cells = {
        f"{label}, {name}, {dtype}": trajectory(label, size, dtype)
        for name, size in sizes.items()
        for label in CONFIGS
        for dtype in LOSS
    }
    content = {
        "environment": where, "measured": measured, "tolerances": {"loss": LOSS, "parameter": PARAMETER},
        "cells": cells,
        "sizes": {name: vars(size) for name, size in sizes.items()},
    }  # fmt: skip
    text = f"{where}\n\n{markdown(cells)}"
    report.write(args.out, "trajectory", content, [{"measured": measured}], text, plot(cells))
    return 0 if all(within(name, cell) for name, cell in cells.items()) else 1


def within(name: str, cell: dict) -> bool:
    """Return whether the losses of every step, and the parameters after the last, agree within the tolerances
    of their dtype."""
    dtype = name.rpartition(", ")[2]
    return max(cell["differences"]) <= LOSS[dtype] and compared_weights(name, cell) <= PARAMETER[dtype]


def compared_weights(name: str, cell: dict) -> float:
    """Return the largest difference of a parameter; in float32 without those that have NO_GRADIENT."""
    left_out = NO_GRADIENT if name.endswith("float32") else "nothing"
    return max(d for parameter, d in cell["weights"].items() if not parameter.endswith(left_out))


def markdown(cells: dict[str, dict]) -> str:
    """Return the table: for each model, size and dtype the largest differences, and the last loss of both."""
    heads = ["model, size, dtype", "steps", "minigam, last loss", "PyTorch, last loss"]
    heads += ["loss, largest difference", "tolerance", "parameter, largest difference", "tolerance", "within"]
    lines, drift = [], 0.0
    for name, cell in cells.items():
        dtype = name.rpartition(", ")[2]
        lines.append([
            name, str(len(cell["minigam"])), f"{cell['minigam'][-1]:.12g}", f"{cell['PyTorch'][-1]:.12g}",
            f"{max(cell['differences']):.1e}", f"{LOSS[dtype]:.0e}", f"{compared_weights(name, cell):.1e}",
            f"{PARAMETER[dtype]:.0e}", "yes" if within(name, cell) else "no",
        ])  # fmt: skip
        drift = max(drift, *cell["weights"].values()) if dtype == "float32" else drift
    return (
        "Same initial weights, same batches, dropout 0. Differences are relative: of the loss at any step, "
        "and of the Euclidean norm of any parameter after the last.\n\n" + report.table(heads, lines) + "\n"
        f"In float32 the Transformer's {NO_GRADIENT} is not compared; it differs by up to {drift:.1e}. A "
        "third of it, the bias of the keys, has a gradient of zero, because softmax ignores what all scores "
        "of a row share. AdamW divides what rounding leaves of that gradient by its own size, so this third "
        "drifts. No output depends on it.\n"
    )


def plot(cells: dict[str, dict]) -> "Figure":
    """Draw the losses of both programs, and their largest relative difference so far, for each size."""
    by_size: dict[str, dict[str, dict]] = {}
    for name, cell in cells.items():
        label, size, dtype = name.split(", ")
        by_size.setdefault(size, {})[f"{label}, {dtype}"] = cell
    figure, grid = viz.panels("step", n=2, rows=len(by_size), size=(10.0, 3.6 * len(by_size)))
    for (left, right), (size, named) in zip(np.reshape(grid, (-1, 2)), by_size.items(), strict=True):
        losses, differences = {}, {}
        for name, cell in named.items():
            steps = list(range(1, len(cell["minigam"]) + 1))
            label, dtype = name.split(", ")
            if dtype == "float64":
                losses |= {f"{program} {label}": (steps, cell[program]) for program in ("minigam", "PyTorch")}
            least = np.finfo("float64").eps / 2  # equal losses have no logarithm
            differences[name] = steps, np.maximum.accumulate([least, *cell["differences"]])[1:].tolist()
        draw(left, losses)
        draw(right, differences)
        left.set(ylabel="loss (nats per token)", title=f"{size}, float64")
        right.set(ylabel="largest relative difference so far", yscale="log", title=size)
        for axes in (left, right):
            axes.legend(**LEGEND)
    return finish(figure)


if __name__ == "__main__":
    measure.run(main, trajectory, PROG)
