"""The memory that training needs at least, computed from the settings before anything is allocated."""

from minigam import launcher
from minigam.config import ModelConfig, TrainConfig
from minigam.models import MODELS

# Bytes for each parameter, in float32: its value and its gradient; AdamW's two moments, which ranks may share
BYTES, MOMENTS = 8, 8


def require_memory(model_type: str, model: ModelConfig, train: TrainConfig, backend: str) -> None:
    """Raise InputError if this machine, or its GPU, is too small to train this model with this batch.

    Counts what every run needs: the parameters, a batch, and the output of each block for the rows that
    are computed at a time. The ranks of a machine share its memory; a GPU has one rank.
    """
    place = launcher.place()
    ranks = place.neighbours if place is not None and backend == "numpy" else 1
    T, rows = model.block_size, min(train.micro_batch or 1, train.batch_size)
    batch = train.batch_size * (2 * 8 * T + 100)  # inputs and targets, and the number of each row
    outputs = 4 * rows * T * model.d_model * model.n_layers
    rest = {
        "batch_size": ranks * batch,
        "micro_batch" if train.micro_batch > 1 else "block_size": ranks * outputs,
    }
    MODELS[model_type].require_memory(model, ranks * BYTES + MOMENTS, rest, backend)
