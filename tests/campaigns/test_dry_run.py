"""The published table 1 as one command, from the hub to the table: made-up rows, two steps of each model."""

import os
import re
import subprocess
import sys

import numpy as np
import pytest
from helpers import hubserver
from helpers.campaigns import campaign, pick
from helpers.prepared import write_parquet

from minigam.data.datasets import DATASETS
from minigam.experiments.comparison import TABLE1

# Rows of WikiText-2, and what a row of text has on average.
ROWS = pick({"train": 300, "valid": 40, "test": 2}, {"train": 36_718, "valid": 3_760, "test": 4_358})
WORDS = 56
MODELS = pick(["gam"], [*TABLE1])
STEPS = pick(1, 2)


def made_up(split: str, n: int) -> list[str]:
    """Return rows of words that are as often as in a language: the k-th with probability 1 / k."""
    rng = np.random.default_rng(len(split))
    letters = np.random.default_rng(0).integers(97, 123, (30_000, 12), dtype=np.uint8)
    lengths = np.random.default_rng(1).integers(2, 12, 30_000)
    words = np.array([letter[:n].tobytes().decode() for letter, n in zip(letters, lengths, strict=True)])
    shares = 1.0 / np.arange(1, len(words) + 1)
    drawn = rng.choice(words, (n, WORDS), p=shares / shares.sum())
    return [f" {' '.join(row)} \n" for row in drawn]


def test_one_command_goes_from_the_hub_to_the_published_table(tmp_path):
    for package in ("pyarrow", "huggingface_hub"):
        pytest.importorskip(package, reason="needs the extra `data`")
    flags = ["--models", *MODELS, f"--steps={STEPS}", "--backend=numpy", "--trust-download"]
    with hubserver.running() as server, campaign("dry_run") as c:
        for split, file in DATASETS["wikitext-2"].hub.items():
            server.put(file, write_parquet(tmp_path / f"{split}.parquet", made_up(split, ROWS[split])))
        result = subprocess.run(
            [sys.executable, "-m", "minigam", "experiments", "table1", *flags],
            cwd=tmp_path, env=os.environ | {"HF_ENDPOINT": server.url}, capture_output=True, text=True,
            timeout=3000,
        )  # fmt: skip
        c.count("commands")
        if result.returncode:
            c.fault(f"exit code {result.returncode}: {result.stderr[-2000:]}")
            return
        text, out = result.stdout, tmp_path / "runs" / "table1-published-wikitext-2"
        if not re.search(
            "plan:.* download .* disk .* memory .* time .*: downloaded.*-seed0: .*Saved in", text, re.S
        ):
            c.fault(f"a part is missing, or not in its place: {text}")
        for name in MODELS:
            parameters = int(re.search(rf"{name}-seed0: ([\d,]+) parameters", text)[1].replace(",", ""))
            c.count("models")
            if not 17e6 < parameters < 25e6:
                c.fault(f"{name} has {parameters:,} parameters, wanted those of the paper")
        found = sum(file.stat().st_size for file in out.rglob("*.safetensors"))
        number, unit = re.search(r"disk +about ([\d.]+) (GB|MB)", text).groups()
        said = float(number) * {"GB": 1e9, "MB": 1e6}[unit]
        if not found <= said <= found + 5e8:  # one checkpoint more, which is being written
            c.fault(f"{said:,.0f} bytes of checkpoints foreseen, {found:,} found")
        c.measured = {"bytes of checkpoints": found, "bytes foreseen": said}
