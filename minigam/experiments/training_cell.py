"""A cell of a table: one model, trained in its own run folder and resumed if it was interrupted."""

import math
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, median

from minigam.config import DataConfig, InputError, ModelConfig, TrainConfig
from minigam.data.corpus import Corpus
from minigam.files import locked, read_json, read_sealed, write_sealed
from minigam.training import loop, provenance
from minigam.training.run import Run, RunConfig
from minigam.training.size import require_memory

FORMAT = "minigam cell 2"  # of result.json
CURVE_POINTS = 100  # training losses that a result keeps, at most; each the mean of equally many steps


class Interrupted(Exception):
    """Ctrl-C stopped a cell; its training so far is saved."""


@dataclass(frozen=True)
class Cell:
    """One training run of an experiment: the settings of its model and of its training."""

    name: str  # of the run folder
    model_type: str
    model: ModelConfig
    train: TrainConfig


def trained(cell: Cell, folder: Path, data: DataConfig, corpus: Corpus, backend: str) -> dict:
    """Return the result of the cell; first train it, or finish its training, if that is still to do.

    returns the result of `loop.finish`, "parameters", "reach", "seconds_per_epoch", the "curve", and the
    provenance under "measured"
    Raises InputError when the folder holds a run of other settings or of another backend, Interrupted after
    a Ctrl-C.
    """
    path = folder / cell.name
    config = RunConfig.of(cell.model_type, cell.model, data, cell.train, corpus)
    require_memory(cell.model_type, config.model, cell.train, backend)
    measured = provenance.measured_by(backend)  # before training: the code may change meanwhile
    with locked(path):
        require_own(cell, folder, data, corpus)
        if finished(path):
            return read_sealed(path / "result.json", FORMAT, remedy="delete it")
        if Run.exists(path):
            _require_same_backend(path, backend)
            run = Run(path)
            model, optimizer, step = run.resume(backend)
        else:
            (run, model, optimizer), step = Run.create(path, config, corpus.tokenizer, backend), 0
        if step < cell.train.steps:
            print(
                f"{cell.name}: {model.num_parameters():,} parameters, steps {step + 1} to {cell.train.steps}"
            )
        if loop.train(run, model, optimizer, corpus, step, name=cell.name) < cell.train.steps:
            raise Interrupted
        steps = [m["seconds"] for m in run.metrics() if "seconds" in m]
        if not steps:
            raise InputError(f"{path / 'metrics.jsonl'}: no step is left in it; delete {path} to train again")
        result = {
            "measured": measured,
            "parameters": model.num_parameters(),
            "reach": model.reach,
            "seconds_per_epoch": median(steps) * len(corpus.train) / cell.train.batch_size,
            **loop.finish(run, model, corpus),
        }
        result["curve"] = curve(run.metrics())
        write_sealed(path / "result.json", FORMAT, result)
    return result


def finished(path: Path) -> bool:
    """Return whether the run folder of a cell holds its result."""
    return Run.exists(path) and (path / "result.json").exists()


def require_own(cell: Cell, folder: Path, data: DataConfig, corpus: Corpus) -> None:
    """Raise InputError if the run folder of a cell holds a run of other settings."""
    path = folder / cell.name
    config = RunConfig.of(cell.model_type, cell.model, data, cell.train, corpus)
    if Run.exists(path) and (other := _differences(Run(path).config, config)):
        raise InputError(f"{path}: a run of other settings ({other}); choose another --out, or delete it")


def _require_same_backend(path: Path, backend: str) -> None:
    """Raise InputError if a run started on another backend: its times would be those of two devices."""
    machine = read_json(path / "machine.json") if (path / "machine.json").exists() else {}
    if (started := machine.get("backend", backend)) != backend:
        raise InputError(
            f"{path}: started with --backend {started}, now {backend}, wanted the same; "
            f"give --backend {started}, or choose another --out"
        )


def curve(metrics: list[dict]) -> dict[str, list[list[float]]]:
    """Return the losses of a run as [step, loss]: "train", means of several steps at the last of them, and
    "valid". metrics : the lines of its metrics.jsonl"""
    train = [(m["step"], m["loss"]) for m in metrics if "lr" in m]
    n = math.ceil(len(train) / CURVE_POINTS) or 1
    groups = [train[i : i + n] for i in range(0, len(train), n)]
    return {
        "train": [[group[-1][0], mean(loss for _, loss in group)] for group in groups],
        "valid": [[m["step"], m["loss"]] for m in metrics if "lr" not in m],
    }


def _differences(stored: RunConfig, wanted: RunConfig) -> str:
    """Return the settings in which two runs differ, with both values; empty if they are equal. Not the place
    of the data: the hash of the corpus says whether they are the same."""
    flat = [
        {k: v for part in c.to_dict().values() if isinstance(part, dict) for k, v in part.items()}
        | {"model_type": c.model_type, "corpus_sha256": c.corpus_sha256}
        for c in (stored, wanted)
    ]
    compared = (flat[0].keys() | flat[1].keys()) - {"dataset"}
    names = sorted(k for k in compared if flat[0].get(k) != flat[1].get(k))
    return ", ".join(f"{k} {flat[0].get(k)}, now {flat[1].get(k)}" for k in names)
