"""A cell of a table: one model, trained in its own run folder and resumed if it was interrupted."""

from dataclasses import dataclass
from pathlib import Path
from statistics import median

from minigam.config import DataConfig, InputError, ModelConfig, TrainConfig
from minigam.data.corpus import Corpus
from minigam.files import locked, read_sealed, write_sealed
from minigam.training import loop, provenance
from minigam.training.run import Run, RunConfig
from minigam.training.size import require_memory

FORMAT = "minigam cell 1"  # of result.json


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

    returns the result of `loop.finish`, "parameters", "reach", "seconds_per_epoch", and the provenance
    under "measured"
    Raises InputError when the folder holds a run of other settings, Interrupted after a Ctrl-C.
    """
    path = folder / cell.name
    config = RunConfig.of(cell.model_type, cell.model, data, cell.train, corpus)
    require_memory(cell.model_type, config.model, cell.train, backend)
    measured = provenance.measured_by(backend)  # before training: the code may change meanwhile
    with locked(path):
        started = Run.exists(path)
        if started and (other := _differences(Run(path).config, config)):
            raise InputError(f"{path}: a run of other settings ({other}); choose another --out, or delete it")
        if started and (path / "result.json").exists():
            return read_sealed(path / "result.json", FORMAT, remedy="delete it")
        if started:
            run = Run(path)
            model, optimizer, step = run.resume(backend)
        else:
            (run, model, optimizer), step = Run.create(path, config, corpus.tokenizer, backend), 0
        print(f"{cell.name}: {model.num_parameters():,} parameters, steps {step + 1} to {cell.train.steps}")
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
        write_sealed(path / "result.json", FORMAT, result)
    return result


def _differences(stored: RunConfig, wanted: RunConfig) -> str:
    """Return the settings in which two runs differ, with both values; empty if they are equal."""
    flat = [
        {k: v for part in c.to_dict().values() if isinstance(part, dict) for k, v in part.items()}
        | {"model_type": c.model_type, "corpus_sha256": c.corpus_sha256}
        for c in (stored, wanted)
    ]
    names = sorted(k for k in flat[0].keys() | flat[1].keys() if flat[0].get(k) != flat[1].get(k))
    return ", ".join(f"{k} {flat[0].get(k)}, now {flat[1].get(k)}" for k in names)
