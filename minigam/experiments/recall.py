"""Multi-query associative recall: accuracy against distance, with GAM's reach drawn as a line."""

from pathlib import Path

import numpy as np

from minigam import backend as backends
from minigam.config import MQAR, DataConfig, TrainConfig
from minigam.corpus import Corpus, inputs_and_targets
from minigam.experiments import report
from minigam.experiments.training import Cell, trained
from minigam.lm import LanguageModel
from minigam.mqar import distances
from minigam.run import MODELS, Run, make_corpus
from minigam.tensor import no_grad
from minigam.viz import recall_plot

SHARED = {"block_size": 64, "d_model": 64, "n_layers": 2, "dropout": 0.0, "position_std": 0.02}
MODELS_BY_NAME = {
    "gam": ("GAM", {"n_slots": 128, "kernel_size": 7}),
    "transformer": ("Transformer", {"n_heads": 2}),
    "mamba": ("Mamba", {"expand": 3, "d_state": 16}),
}
TRAIN = {
    "batch_size": 64, "micro_batch": 64, "lr": 2e-3, "warmup_steps": 100, "weight_decay": 0.01,
    "eval_every": 200, "checkpoint_every": 100,
}  # fmt: skip
STEPS = {"gam": 2000, "transformer": 1000, "mamba": 2000}


def recall(names: list[str], steps: int | None, seed: int, out: Path, backend: str) -> None:
    """Train what is not finished; write recall.json, .md and .png into `out`."""
    data = DataConfig(dataset=MQAR, mqar_rows=100_000, data_seed=seed)
    corpus = make_corpus(data, SHARED["block_size"])
    found, curves = {}, {}
    for name in names:
        label, numbers = MODELS_BY_NAME[name]
        model = MODELS[name].Config(**(SHARED | numbers))
        train = TrainConfig(**TRAIN, seed=seed, steps=steps or STEPS[name])
        cell = Cell(f"{name}-seed{seed}", label, name, model, train)
        result = trained(cell, out / "cells", data, corpus, backend)
        correct = answers(Run(out / "cells" / cell.name).load_model(backend), corpus)
        curves[label] = accuracy(correct, corpus)
        found[name] = {"model": model.to_dict(), "train": train.to_dict(), "result": result,
                       "accuracy": float(correct.mean()), "by_distance": curves[label]}  # fmt: skip
    chance = 1.0 / data.mqar_keys
    content = report.provenance(backend) | {
        "experiment": "recall", "seed": seed, "data": data.to_dict(), "chance": chance, "cells": found,
    }  # fmt: skip
    reach = {MODELS_BY_NAME[n][0]: c["result"]["reach"] for n, c in found.items()}
    report.write(out, "recall", content, _markdown(found, chance), recall_plot(curves, reach, chance))


def answers(model: LanguageModel, corpus: Corpus, batch: int = 100) -> np.ndarray:
    """Return, for every query of the validation rows, row by row, whether the likeliest token is it."""
    parts = []
    with no_grad():
        for start in range(0, len(corpus.valid), batch):
            ids, targets = inputs_and_targets(corpus.valid[start : start + batch])
            chosen = backends.to_numpy(model(ids).data.argmax(axis=-1))
            parts.append((chosen == targets)[targets >= 0])
    return np.concatenate(parts)


def accuracy(correct: np.ndarray, corpus: Corpus) -> dict[str, dict]:
    """Return accuracy and number of answers for every distance between a key and its query."""
    far = distances(*inputs_and_targets(corpus.valid))
    return {
        str(d): {"accuracy": float(correct[far == d].mean()), "answers": int((far == d).sum())}
        for d in np.unique(far).tolist()
    }


def share(by_distance: dict[str, dict], least: int, most: int) -> float | None:
    """Return the accuracy over all answers at distances least .. most; None where there are none."""
    chosen = [c for d, c in by_distance.items() if least <= int(d) <= most]
    total = sum(c["answers"] for c in chosen)
    return sum(c["accuracy"] * c["answers"] for c in chosen) / total if total else None


def _markdown(found: dict[str, dict], chance: float) -> str:
    longest = max(int(d) for c in found.values() for d in c["by_distance"])
    reaches = [c["result"]["reach"] for c in found.values() if c["result"]["reach"] is not None]
    # Whole pairs are inside the reach R up to distance R - 1, and wholly outside from R + 1 on.
    cut = reaches[0] if reaches else longest
    bands = [(1, cut - 1), (cut + 1, longest)] if reaches else [(1, longest)]
    heads = ["model", "parameters", "steps", "sees tokens", "accuracy", "worst distance"]
    heads += [f"distance {a} to {b}" for a, b in bands]
    body = []
    for name, c in found.items():
        worst = min(c["by_distance"], key=lambda d: c["by_distance"][d]["accuracy"])
        shown = [share(c["by_distance"], a, b) for a, b in bands]
        body.append(
            [
                MODELS_BY_NAME[name][0],
                f"{c['result']['parameters']:,}",
                str(c["train"]["steps"]),
                str(c["result"]["reach"] or "all"),
                f"{c['accuracy']:.1%}",
                f"{c['by_distance'][worst]['accuracy']:.1%} at {worst}",
                *("" if s is None else f"{s:.1%}" for s in shown),
            ]
        )
    return (
        f"recall: multi-query associative recall, validation rows of 8 pairs. Chance is {chance:.2%}. "
        "Distance: tokens from the key's pair to its query.\\n\\n" + report.table(heads, body)
    )
