"""What the notebooks of the course share: showing a figure, reading results, a trained model."""

import base64
import hashlib
import json
import sys
from contextlib import redirect_stdout
from io import BytesIO
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, cast

from minigam.config import PRESETS, DataConfig, GAMConfig, InputError, TrainConfig
from minigam.data.corpus import Corpus
from minigam.engine import backend
from minigam.files import read_json
from minigam.models.gam import GAM
from minigam.training import loop
from minigam.training.run import Run, RunConfig, make_corpus

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PROJECT = Path(__file__).parents[2]
RESULTS = PROJECT / "benchmarks" / "results"


def show(figure: "Figure | str", alt: str) -> None:
    """Show a matplotlib Figure, or a text of SVG, in a notebook.

    alt : what a reader who does not see it should know
    """
    from IPython.display import display

    if isinstance(figure, str):
        kind, content = "image/svg+xml", figure
    else:
        data = BytesIO()
        figure.savefig(data, format="png", dpi=100)
        kind, content = "image/png", base64.b64encode(data.getvalue()).decode()
    display({kind: content, "text/plain": alt}, metadata={kind: {"alt": alt}}, raw=True)


def in_clone(path: Path) -> Path:
    """Return the path. Raises InputError where the project is no clone, but installed as a package alone."""
    if not (PROJECT / "pyproject.toml").is_file():
        raise InputError(f"{path}: the course needs a clone of the project, installed with pip install -e")
    return path


def results(name: str) -> dict:
    """Return the stored numbers of an experiment or benchmark, such as "table1_pocketstories"."""
    folder = in_clone(RESULTS) / name
    found = sorted(folder.glob("*.json"))
    if len(found) != 1:
        known = ", ".join(sorted({p.parent.name for p in RESULTS.glob("*/*.json")}))
        raise InputError(f"{folder}: {len(found)} result files, wanted the one of: {known}")
    return read_json(found[0], remedy="run its command again")


def library() -> ModuleType:
    """Return the array library that computes here, CuPy where a GPU answers, and say which."""
    name, why = backend.choose("auto")
    print(f"computing with {name} ({why})")
    return backend.get(name)


def trained() -> tuple[Run, GAM, Corpus]:
    """Return a GAM trained on PocketStories with the settings of `make train`, its run folder and its corpus.

    The first call trains it, about a minute on two cores, and keeps it under runs/; later ones read it.
    """
    model, train = GAMConfig.of(PRESETS["small"]), TrainConfig.of(PRESETS["small"])
    data = DataConfig()
    corpus = make_corpus(data, model.block_size, progress=True)
    asked = json.dumps([model.to_dict(), train.to_dict(), corpus.fingerprint()], sort_keys=True)
    name = f"course-{hashlib.sha256(asked.encode()).hexdigest()[:8]}"
    folder, unfinished = (in_clone(PROJECT / "runs" / n) for n in (name, f"{name}-unfinished"))
    if not folder.is_dir():
        if (unfinished / "config.json").is_file():  # stopped half way
            run = Run(unfinished)
            made, optimizer, start = run.resume()
        else:
            config = RunConfig.of("gam", model, data, train, corpus)
            (run, made, optimizer), start = loop.begin(unfinished, config, corpus.tokenizer, "numpy"), 0
        with redirect_stdout(sys.stderr):  # where progress goes: what a notebook prints stays the same
            done = loop.train(run, made, optimizer, corpus, start)
        if done < train.steps:
            raise KeyboardInterrupt(f"stopped after step {done} of {train.steps}; run the cell again")
        unfinished.rename(folder)
    run = Run(folder)
    return run, cast(GAM, run.load_model("numpy")), corpus
