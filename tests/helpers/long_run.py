"""Train or generate for long in a process of its own; print its memory and speed along the way, as JSON.

cd tests && python -m helpers.long_run train gam 20000 FOLDER
cd tests && python -m helpers.long_run generate gam 100000
"""

import contextlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from minigam import train
from minigam.models import MODELS
from minigam.training.run import Run

TESTS = Path(__file__).parents[1]
STATM = Path("/proc/self/statm")  # exists on Linux
SAMPLES = 200  # at equal distances
SIZES = {"gam": {"n_slots": 4}, "transformer": {"n_heads": 2}, "mamba": {"d_state": 4}}
SHARED = {"block_size": 16, "d_model": 8, "n_layers": 2, "dropout": 0.1}
TRAINING = {"batch_size": 4, "warmup_steps": 10, "eval_every": 100, "checkpoint_every": 100}

Sample = tuple[int, float, float]  # steps or tokens, resident memory in MB, seconds


def sampled(*argv: str) -> list[Sample]:
    """Run this module in a new process and return what it prints."""
    done = subprocess.run(
        [sys.executable, "-m", "helpers.long_run", *argv], cwd=TESTS, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def slope(samples: list[Sample]) -> float:
    """Return the growth in MB per 1,000 steps or tokens, by a least-squares line, without the first fifth."""
    n, mb, _ = np.array(samples[len(samples) // 5 :]).T
    return float(1000.0 * np.polyfit(n, mb, 1)[0])


def _now(n: int) -> Sample:
    pages = int(STATM.read_text(encoding="utf-8").split()[1])
    return n, pages * os.sysconf("SC_PAGE_SIZE") / 1e6, time.perf_counter()


def _train(model_type: str, steps: int, folder: Path) -> list[Sample]:
    """The real command, watched where it logs a step."""
    text, samples, log = folder / "text.txt", [], Run.log
    text.write_text(
        "\n".join(f"the cat sat on mat {n} and the dog ran." for n in range(200)), encoding="utf-8"
    )

    def watched(run: Run, line: dict) -> None:
        log(run, line)
        if "lr" in line and line["step"] % max(1, steps // SAMPLES) == 0:
            samples.append(_now(line["step"]))

    Run.log = watched
    settings = SHARED | TRAINING | SIZES[model_type] | {"steps": steps, "model": model_type, "text": text}
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in settings.items()]
    with contextlib.redirect_stdout(sys.stderr):
        assert train.main([f"--out={folder / 'run'}", "--backend=numpy", *flags]) == 0
    return samples


def _generate(model_type: str, tokens: int) -> list[Sample]:
    """Tokens one by one, far beyond block_size."""
    Model = MODELS[model_type]
    model = Model(Model.Config(vocab_size=50, **SHARED, **SIZES[model_type])).eval()
    samples = []
    for n, _ in enumerate(model.continuation(np.zeros((1, 1), int), tokens), 1):
        if n % max(1, tokens // SAMPLES) == 0:
            samples.append(_now(n))
    return samples


if __name__ == "__main__":
    what, model_type, n, *folder = sys.argv[1:]
    print(
        json.dumps(
            _train(model_type, int(n), Path(*folder)) if what == "train" else _generate(model_type, int(n))
        )
    )
