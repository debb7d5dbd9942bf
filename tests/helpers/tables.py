"""Table 1 with models that train in a second."""

import json
from pathlib import Path
from unittest import mock

from minigam.config import DataConfig
from minigam.experiments import comparison

SMALL = comparison.Scale(
    {"block_size": 128, "d_model": 8, "n_layers": 1, "dropout": 0.0},
    {"batch_size": 4, "steps": 3, "lr": 1e-2, "warmup_steps": 1, "eval_every": 2, "checkpoint_every": 2},
    {"gam": {"n_slots": 4}, "transformer": {"n_heads": 2}, "mamba": {"expand": 2, "d_state": 2}},
    {"mamba": {"lr": 2e-2}},
)


def compare(out: Path, lines: tuple[str, ...] = ("gam", "mamba"), **changes) -> dict:
    """Train the lines of table 1 with seeds 0 and 1, and return what table1.json then holds."""
    arguments = {
        "scale": "small",
        "data": DataConfig(stories=40, valid_stories=6),
        "steps": None,
        "seeds": [0, 1],
        "out": out,
        "backend": "numpy",
        "download": None,
    }
    with mock.patch.dict(comparison.SCALES, small=SMALL):
        chosen = {name: comparison.TABLE1[name] for name in lines}
        comparison.compare("table1", chosen, **(arguments | changes))
    return json.loads((out / "table1.json").read_text())
