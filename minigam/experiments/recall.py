"""Multi-query associative recall: accuracy against distance, with GAM's receptive field as a line."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from minigam.config import MQAR, WRITTEN, WRITTEN_LABEL, DataConfig, TrainConfig
from minigam.data.corpus import Corpus, inputs_and_targets
from minigam.data.mqar import distances
from minigam.engine import backend as backends
from minigam.engine.tensor import no_grad
from minigam.experiments import report
from minigam.experiments.comparison import Line
from minigam.experiments.training_cell import Cell, trained
from minigam.models import MODELS
from minigam.models.lm import LanguageModel
from minigam.training.run import Run, make_corpus
from minigam.viz import recall_plot
from minigam.viz.experiments import OFTEN

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHARED: dict[str, Any] = {"block_size": 64, "d_model": 64, "n_layers": 2, "dropout": 0.0, "position_std": 0.1}
PLAIN = {"n_slots": 128, "kernel_size": 7}
LINES = {
    "gam": Line("GAM", "gam", PLAIN),
    "transformer": Line("Transformer", "transformer", {"n_heads": 2}),
    "mamba": Line("Mamba", "mamba", {"expand": 3, "d_state": 16}),
    WRITTEN: Line(WRITTEN_LABEL, "gam", PLAIN | {"mixer": WRITTEN}),
}
TRAIN: dict[str, Any] = {
    "batch_size": 64, "micro_batch": 64, "warmup_steps": 100, "weight_decay": 0.01,
    "eval_every": 200, "checkpoint_every": 100,
}  # fmt: skip
# By model. At twice this rate attention stays on its plateau; Mamba needs more steps to leave its own.
LR = {"gam": 4e-3, "transformer": 2e-3, "mamba": 4e-3, WRITTEN: 4e-3}
STEPS = {"gam": 2400, "transformer": 1600, "mamba": 2400, WRITTEN: 400}
ROWS, PAIRS, KEYS = 100_000, 8, 8  # training rows, most pairs in a row, number of keys and of values


def recall(names: list[str], steps: int | None, seed: int, backend: str, out: Path) -> None:
    """Train the unfinished models; write recall.json, .md and .png into `out`."""
    data = DataConfig(dataset=MQAR, mqar_rows=ROWS, mqar_pairs=PAIRS, mqar_keys=KEYS, data_seed=seed)
    corpus = make_corpus(data, SHARED["block_size"])
    cells: dict[str, dict] = {}
    for name in names:
        line = LINES[name]
        model = MODELS[line.model_type].Config(**(SHARED | line.changes))
        train = TrainConfig(**TRAIN, lr=LR[name], seed=seed, steps=steps or STEPS[name])
        cell = Cell(f"{name}-seed{seed}", line.model_type, model, train)
        result = trained(cell, out / "cells", data, corpus, backend)
        correct = answers(Run(out / "cells" / cell.name).load_model(backend), corpus)
        cells[name] = {
            "model": model.to_dict(),
            "train": train.to_dict(),
            "result": result,
            "accuracy": float(correct.mean()),
            "by_distance": by_distance(correct, corpus),
            "guessing": by_distance(guesses(corpus, result["reach"]), corpus),
        }
    chance = 1.0 / data.mqar_keys
    content = {"seed": seed, "data": data.to_dict(), "chance": chance, "cells": cells}
    results = [c["result"] for c in cells.values()]
    report.write(out, "recall", content, results, _markdown(cells, chance), plot(content))


def plot(content: dict) -> "Figure":
    """Return the figure of the content of a recall.json."""
    cells = {LINES[name].label: cell for name, cell in content["cells"].items()}
    curves = {label: cell["by_distance"] for label, cell in cells.items()}
    reach = {label: cell["result"]["reach"] for label, cell in cells.items()}
    return recall_plot(curves, reach, content["chance"])


def answers(model: LanguageModel, corpus: Corpus, batch: int = 100) -> np.ndarray:
    """Return for every query of the validation rows, row by row, whether the likeliest token is right."""
    targets = inputs_and_targets(corpus.valid)[1]
    return likeliest(model, corpus, batch) == targets[targets >= 0]


def likeliest(model: LanguageModel, corpus: Corpus, batch: int = 100) -> np.ndarray:
    """Return for every query of the validation rows, row by row, the likeliest token."""
    parts = []
    with no_grad():
        for start in range(0, len(corpus.valid), batch):
            ids, targets = inputs_and_targets(corpus.valid[start : start + batch])
            parts.append(backends.to_numpy(model(ids).data.argmax(axis=-1))[targets >= 0])
    return np.concatenate(parts)


def guesses(corpus: Corpus, reach: int | None) -> np.ndarray:
    """Return for every query the probability that a random value in the receptive field is right: the
    accuracy of a model of that `reach` (None: all tokens) that ignores the keys."""
    tokens, targets = inputs_and_targets(corpus.valid)
    row, query = np.nonzero(targets >= 0)
    back = query[:, None] - np.arange(tokens.shape[1])
    is_value = np.array([token.startswith("v") for token in corpus.tokenizer.vocabulary])
    in_field = (back >= 0) & (back < (reach or tokens.shape[1])) & is_value[tokens[row]]
    right = in_field & (tokens[row] == targets[row, query][:, None])
    chance = 1.0 / is_value.sum()
    return np.where(in_field.any(axis=1), right.sum(axis=1) / np.maximum(in_field.sum(axis=1), 1), chance)


def by_distance(correct: np.ndarray, corpus: Corpus) -> dict[str, dict]:
    """Return the accuracy and the number of queries for every distance from a key to its query."""
    distance = distances(*inputs_and_targets(corpus.valid))
    return {
        str(d): {"accuracy": float(correct[distance == d].mean()), "queries": int((distance == d).sum())}
        for d in np.unique(distance).tolist()
    }


def between(curve: dict[str, dict], least: int, most: int) -> tuple[float, int]:
    """Return the accuracy over all queries at distances least .. most, and their number."""
    chosen = [c for d, c in curve.items() if least <= int(d) <= most]
    n = sum(c["queries"] for c in chosen)
    return sum(c["accuracy"] * c["queries"] for c in chosen) / max(n, 1), n


def _markdown(cells: dict[str, dict], chance: float) -> str:
    curves = {name: c["by_distance"] for name, c in cells.items()}
    longest = max(int(d) for curve in curves.values() for d in curve)
    # Both tokens of a pair are in the receptive field up to distance R - 1, neither from R + 1 on.
    R = min(c["result"]["reach"] or longest for c in cells.values())
    bands = [(1, R - 1), (R + 1, longest)] if longest > R else [(1, longest)]
    heads = ["model", "parameters", "peak lr", "steps", "receptive field", "accuracy", "worst distance"]
    for a, b in bands:
        heads += [f"distance {a} to {b}", "guessing there"]
    body = []
    for name, c in cells.items():
        frequent = {d: at["accuracy"] for d, at in curves[name].items() if at["queries"] >= OFTEN}
        worst = min(frequent, key=frequent.__getitem__)
        line = [
            LINES[name].label,
            f"{c['result']['parameters']:,}",
            f"{c['train']['lr']:g}",
            str(c["train"]["steps"]),
            str(c["result"]["reach"] or "all"),
            f"{c['accuracy']:.1%}",
            f"{frequent[worst]:.1%} at {worst}",
        ]
        for a, b in bands:
            line += [f"{between(curves[name], a, b)[0]:.1%}", f"{between(c['guessing'], a, b)[0]:.1%}"]
        body.append(line)
    n = between(next(iter(curves.values())), *bands[-1])[1]
    error = (chance * (1.0 - chance) / max(n, 1)) ** 0.5
    return (
        f"recall: multi-query associative recall, validation rows of {PAIRS} pairs. Chance is {chance:.1%}; "
        f"its standard error over the {n:,} queries of the last band is {error:.1%}. Distance: tokens from "
        "the pair to the query. Guessing: picking any value in the receptive field, ignoring the keys. "
        f"The worst distance is the worst of those with {OFTEN} queries or more.\n\n"
        + report.table(heads, body)
    )
