"""Run folders: flags of a short run, and a comparison of two runs."""

from pathlib import Path

from minigam.training.run import Run

FLAGS = [
    "--backend=numpy", "--stories=40", "--valid-stories=4", "--d-model=8", "--n-layers=2", "--n-slots=4",
    "--dropout=0.2", "--batch-size=4", "--micro-batch=2", "--steps=12", "--warmup-steps=2",
    "--eval-every=4", "--checkpoint-every=5",
]  # fmt: skip
STATE = ("model.safetensors", "optimizer.safetensors", "config.json", "tokenizer.json")


def losses(path: Path) -> list[dict]:
    """Return the metrics of a run without the times, which differ from run to run."""
    return [{k: v for k, v in m.items() if k != "seconds"} for m in Run(path).metrics()]


def assert_same_run(a: Path, b: Path) -> None:
    for name in STATE:
        assert (a / name).read_bytes() == (b / name).read_bytes(), name
    assert losses(a) == losses(b)
