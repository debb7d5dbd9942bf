"""Shared by the notebooks of the course: show a figure, read results, get a trained model."""

import base64
import hashlib
import json
import sys
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from io import BytesIO
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from minigam.config import PRESETS, DataConfig, GAMConfig, InputError, TrainConfig
from minigam.data.corpus import Corpus
from minigam.data.tokenizer import Tokenizer
from minigam.engine import backend
from minigam.files import locked, read_json
from minigam.models.gam import GAM
from minigam.models.lm import LanguageModel
from minigam.training import loop
from minigam.training.run import Run, RunConfig, make_corpus
from minigam.viz import finish

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PROJECT = Path(__file__).parents[2]
STORED = Path(__file__).parent / "runs"  # small trained models that come with the package


def show(figure: "Figure | str", alt: str) -> None:
    """Show a matplotlib Figure, or SVG as text, in a notebook.

    alt : a description for readers who cannot see it
    """
    from IPython.display import display

    if isinstance(figure, str):
        mime_type, content = "image/svg+xml", figure
    else:
        data = BytesIO()
        finish(figure).savefig(data, format="png", dpi=100)
        mime_type, content = "image/png", base64.b64encode(data.getvalue()).decode()
    display({mime_type: content, "text/plain": alt}, metadata={mime_type: {"alt": alt}}, raw=True)


def is_clone() -> bool:
    """Return whether the package is read from a clone of the project, and not from an installed wheel."""
    return (PROJECT / "pyproject.toml").is_file()


def in_clone(path: Path) -> Path:
    """Return the path. Raises InputError if the project is not a clone but an installed package."""
    if not is_clone():
        raise InputError(f"{path}: only a clone of the project has it; install one with pip install -e")
    return path


def _results() -> Path:
    return PROJECT / "benchmarks" / "results" if is_clone() else Path(__file__).parent / "results"


def results(name: str) -> dict:
    """Return the stored numbers of an experiment or benchmark, such as "table1_pocketstories"."""
    folder = _results() / name
    files = sorted(folder.glob("*.json"))
    if len(files) != 1:
        names = ", ".join(sorted({p.parent.name for p in _results().glob("*/*.json")}))
        raise InputError(f"{folder}: {len(files)} result files, wanted one; choose from {names}")
    return read_json(files[0], remedy="run its command again")


def stored(name: str) -> tuple[LanguageModel, Tokenizer]:
    """Return a small model that comes with the package, trained on PocketStories, and its tokenizer.

    name : "gam" or "transformer"
    """
    names = sorted(path.parent.name for path in STORED.glob("*/config.json"))
    if name not in names:
        raise InputError(f"stored model {name!r}: does not exist, wanted one of {', '.join(names)}")
    run = Run(STORED / name)
    return run.load_model("numpy"), run.tokenizer()


def median_ms(f: Callable, *inputs: Any, repeats: int = 5) -> float:
    """Return the median time of f(*inputs) in milliseconds, after one call that does not count."""
    times = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        f(*inputs)
        times.append(1e3 * (time.perf_counter() - start))
    return float(np.median(times[1:]))


def library() -> ModuleType:
    """Return the array library, CuPy if a GPU answers and NumPy otherwise, and print the choice."""
    name, why = backend.choose("auto")
    print(f"computing with {name} ({why})")
    return backend.get(name)


def trained() -> tuple[Run, GAM, Corpus]:
    """Return a run on PocketStories with the settings of `make train`, its trained GAM and its corpus.

    The first call trains it, about a minute on two cores, and stores it under runs/ in the clone, or in the
    current folder if there is none; later calls read it.
    """
    model, train = GAMConfig.of(PRESETS["small"]), TrainConfig.of(PRESETS["small"])
    data = DataConfig()
    corpus = make_corpus(data, model.block_size, progress=True)
    settings = json.dumps([model.to_dict(), train.to_dict(), corpus.fingerprint()], sort_keys=True)
    name = f"course-{hashlib.sha256(settings.encode()).hexdigest()[:8]}"
    runs = (PROJECT if is_clone() else Path.cwd()) / "runs"
    folder, unfinished = runs / name, runs / f"{name}-unfinished"
    if not folder.is_dir():
        with locked(unfinished):
            if Run.exists(unfinished):  # stopped halfway
                run = Run(unfinished)
                made, optimizer, start = run.resume()
            else:
                config = RunConfig.of("gam", model, data, train, corpus)
                (run, made, optimizer), start = Run.create(unfinished, config, corpus.tokenizer), 0
            with redirect_stdout(sys.stderr):  # so that the notebook's output is always the same
                done = loop.train(run, made, optimizer, corpus, start)
            if done < train.steps:
                raise KeyboardInterrupt(f"stopped after step {done} of {train.steps}; run the cell again")
        unfinished.rename(folder)
    run = Run(folder)
    return run, cast(GAM, run.load_model("numpy")), corpus
