"""A run of 20 steps of each kind of model, as a user would train it, and its losses.

    cd tests && python -m helpers.short_runs

writes helpers/golden/losses.json, with which test_reproducibility.py compares.
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from helpers import runs
from minigam.files import write_json
from minigam.models import MODELS

GOLDEN = Path(__file__).parent / "golden" / "losses.json"
FLAGS = [
    "--backend=numpy", "--stories=100", "--valid-stories=10", "--d-model=32", "--n-layers=2",
    "--dropout=0.1", "--batch-size=4", "--steps=20", "--warmup-steps=4", "--eval-every=10",
    "--checkpoint-every=10",
]  # fmt: skip
CODE = """
import sys
from minigam.train import main
folder, models, *flags = sys.argv[1:]
for model_type in models.split():
    main([f"--out={folder}/{model_type}", f"--model={model_type}", *flags])
"""
THREADS = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")


def start(
    folder: Path, threads: int, *, hash_seed: int = 0,
    models: Iterable[str] = MODELS, flags: Iterable[str] = FLAGS,
) -> subprocess.Popen:  # fmt: skip
    """Train each model in a folder of its name, in one new process with so many BLAS threads."""
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", CODE, folder, " ".join(models), *flags],
        env=os.environ | dict.fromkeys(THREADS, str(threads)) | {"PYTHONHASHSEED": str(hash_seed)},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def finish(*processes: subprocess.Popen) -> None:
    """Wait for processes and fail with the output of one that fails."""
    try:
        for process in processes:
            output, _ = process.communicate(timeout=3600)
            assert process.returncode == 0, output
    finally:
        for process in processes:
            process.kill()


def losses(run: Path) -> list[float]:
    """Return all losses of a run in nats per token: one for each step, and those of the validations."""
    return [line["loss"] for line in runs.losses(run)]


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        finish(start(Path(folder), threads=1))
        stored = {name: losses(Path(folder) / name) for name in MODELS}
    made = f"python -m helpers.short_runs; numpy {np.__version__}"
    write_json(GOLDEN, {"made": made, "flags": FLAGS, "losses": stored})


if __name__ == "__main__":
    main()
