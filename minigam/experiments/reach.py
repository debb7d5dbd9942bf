"""The receptive field, measured: the influence of token t - d on output t, compared with 1 + L (K - 1)."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from tqdm import tqdm

from minigam.data.corpus import inputs_and_targets
from minigam.engine import backend as backends
from minigam.engine.tensor import no_grad
from minigam.experiments import report
from minigam.experiments.report import Cells
from minigam.files import sha256_of
from minigam.models.lm import LanguageModel
from minigam.training.run import Run
from minigam.viz import reach_plot

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def influence(model: LanguageModel, ids: np.ndarray, targets: np.ndarray, seed: int = 0) -> dict:
    """Replace one token at a time and measure how much the predictions from there on change.

    ids, targets : (B, T)   rows of real text; a prediction with a negative target is not counted
    returns for d = 0 .. T-1 "mean" and "largest": the total variation distance, 0 to 1, between the
    next-token distributions at position t before and after token t - d is replaced by a random other one
    Cost: T forward passes.
    """
    B, T = ids.shape
    rng, V = np.random.default_rng(seed), model.config.vocab_size
    before, counted = _probabilities(model, ids), targets >= 0
    total, count, largest = np.zeros(T), np.zeros(T), np.zeros(T)
    for s in tqdm(range(T), desc="replacing tokens", unit="token", leave=False, delay=2, disable=None):
        changed = ids.copy()
        changed[:, s] = (changed[:, s] + rng.integers(1, V, size=B)) % V  # never the same token
        moved = 0.5 * np.abs(_probabilities(model, changed) - before)[:, s:].sum(axis=-1)
        moved = np.where(counted[:, s:], moved, 0.0)  # (B, T - s); column d is position s + d
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
    """Return how many tokens, the current one included, changed a prediction at all."""
    return int(np.flatnonzero(largest).max(initial=-1)) + 1


def reach(runs: list[Run], n_rows: int, seed: int, backend: str, out: Path) -> None:
    """Measure the runs that are not measured yet; write reach.json, .md and .png into `out`."""
    cells = Cells(out / "cells.json", {"rows": n_rows, "seed": seed}, backend)
    results, corpora = {}, {}

    def measure(run: Run) -> dict:
        data = run.config.corpus_sha256
        if data not in corpora:
            corpora[data] = run.corpus(progress=True)
        model = run.load_model(backend)
        moved = influence(model, *inputs_and_targets(corpora[data].valid[:n_rows]), seed)
        return {"reach": model.reach, "measured_reach": seen(moved["largest"]), **moved}

    for run in runs:
        # With the settings, which are stored next to the numbers: `measure` refuses changed ones.
        key = f"{run.path.resolve()} {sha256_of(run.path / 'model.safetensors')} {run.config.sha256()}"
        label = run.config.model.label
        if [r.config.model.label for r in runs].count(label) > 1:
            label += f" ({run.path})"
        measured = cells.get(key, partial(measure, run))
        results[label] = {"run": str(run.path), "config": run.config.to_dict()} | measured
    content = {"rows": n_rows, "seed": seed, "runs": results}
    report.write(out, "reach", content, list(results.values()), _markdown(results), plot(content))


def plot(content: dict) -> "Figure":
    """Return the figure of the content of a reach.json."""
    runs = content["runs"]
    return reach_plot(*({label: run[key] for label, run in runs.items()} for key in ("mean", "reach")))


def _markdown(results: dict[str, dict]) -> str:
    heads = ["model", "1 + L (K - 1)", "tokens that moved a prediction"]
    shortest = min(len(r["mean"]) for r in results.values())
    depths = [d for d in (0, 1, 2, 4, 8, 12, 13, 16, 32, 64) if d < shortest]
    heads += [f"d = {d}" for d in depths]
    body = [
        [label, str(r["reach"] or "all"), str(r["measured_reach"]), *(_small(r["mean"][d]) for d in depths)]
        for label, r in results.items()
    ]
    return (
        "reach: mean total variation distance (0 to 1) between the predictions at t before and after "
        "token t - d is replaced.\n\n" + report.table(heads, body)
    )


def _small(value: float) -> str:
    return "0" if value == 0.0 else f"{value:.1e}"
