"""How far a model looks: the measured influence of token t - d on output t, against 1 + L (K - 1)."""

from functools import partial
from pathlib import Path

import numpy as np
from tqdm import tqdm

from minigam.data.corpus import inputs_and_targets
from minigam.engine import backend as backends
from minigam.engine.tensor import no_grad
from minigam.experiments import report
from minigam.experiments.report import Cells
from minigam.files import sha256_of
from minigam.models import MODELS
from minigam.models.lm import LanguageModel
from minigam.training.run import Run
from minigam.viz import reach_plot


def influence(model: LanguageModel, ids: np.ndarray, targets: np.ndarray, seed: int = 0) -> dict:
    """Replace one token at a time and measure how far the predictions at it and after it move.

    ids, targets : (B, T)   rows of real text; where a target is negative the prediction is not counted
    returns for d = 0 .. T-1 "mean" and "largest": the total variation distance, 0 to 1, between the
    next-token distributions at place t before and after token t - d was replaced by another at random
    Cost: T forward passes.
    """
    B, T = ids.shape
    rng, V = np.random.default_rng(seed), model.config.vocab_size
    before, counted = _probabilities(model, ids), targets >= 0
    total, count, largest = np.zeros(T), np.zeros(T), np.zeros(T)
    for s in tqdm(range(T), desc="replacing tokens", unit="place", leave=False, delay=2, disable=None):
        changed = ids.copy()
        changed[:, s] = (changed[:, s] + rng.integers(1, V, size=B)) % V  # never the same token
        moved = 0.5 * np.abs(_probabilities(model, changed) - before)[:, s:].sum(axis=-1)
        moved = np.where(counted[:, s:], moved, 0.0)  # (B, T - s); column d is place s + d
        total[: T - s] += moved.sum(axis=0)
        count[: T - s] += counted[:, s:].sum(axis=0)
        largest[: T - s] = np.maximum(largest[: T - s], moved.max(axis=0))
    return {"mean": (total / np.maximum(count, 1)).tolist(), "largest": largest.tolist()}


def _probabilities(model: LanguageModel, ids: np.ndarray) -> np.ndarray:
    with no_grad():
        z = backends.to_numpy(model(ids).data)
    e = np.exp(z - z.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def seen(largest: list[float]) -> int:
    """Return how many tokens, the present one included, moved a prediction at all."""
    return int(np.flatnonzero(largest).max(initial=-1)) + 1


def reach(paths: list[Path], n_rows: int, out: Path, backend: str, seed: int) -> None:
    """Measure the trained runs that are not measured yet; write reach.json, .md and .png into `out`."""
    cells = Cells(out / "cells.json", {"rows": n_rows, "seed": seed}, backend)
    found, corpora = {}, {}

    def measure(run: Run) -> dict:
        data = run.config.corpus_sha256
        if data not in corpora:
            corpora[data] = run.corpus(progress=True)
        model = run.load_model(backend)
        moved = influence(model, *inputs_and_targets(corpora[data].valid[:n_rows]), seed)
        return {"reach": model.reach, "measured_reach": seen(moved["largest"]), **moved}

    for path in paths:
        run = Run(path)
        key = f"{path.resolve()} {sha256_of(path / 'model.safetensors')}"
        label = MODELS[run.config.model_type].__name__
        if [Run(p).config.model_type for p in paths].count(run.config.model_type) > 1:
            label += f" ({path})"
        measured = cells.get(key, partial(measure, run))
        found[label] = {"run": str(path), "config": run.config.to_dict()} | measured
    content = {"rows": n_rows, "seed": seed, "runs": found}
    figure = reach_plot({k: f["mean"] for k, f in found.items()}, {k: f["reach"] for k, f in found.items()})
    report.write(out, "reach", content, list(found.values()), _markdown(found), figure)


def _markdown(found: dict[str, dict]) -> str:
    heads = ["model", "1 + L (K - 1)", "tokens that moved a prediction"]
    shortest = min(len(f["mean"]) for f in found.values())
    depths = [d for d in (0, 1, 2, 4, 8, 12, 13, 16, 32, 64) if d < shortest]
    heads += [f"d = {d}" for d in depths]
    body = [
        [label, str(f["reach"] or "all"), str(f["measured_reach"]), *(_small(f["mean"][d]) for d in depths)]
        for label, f in found.items()
    ]
    return (
        "reach: mean total variation distance (0 to 1) by which the prediction at t moves when token "
        "t - d is replaced.\n\n" + report.table(heads, body)
    )


def _small(value: float) -> str:
    return "0" if value == 0.0 else f"{value:.1e}"
