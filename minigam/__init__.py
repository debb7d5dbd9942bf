"""minigam: Gated Associative Memory from scratch, to learn, check and use.

This is the public API. Importing it loads no large library except NumPy and chooses no device: every
operation runs where its inputs are. The names in LATER are imported on first use. On the command line,
`minigam` lists the commands.
"""

from importlib import import_module
from typing import Any

from minigam import interrupt, threads  # noqa: F401  first: Ctrl-C while the rest is imported takes one line

# isort: split
from minigam import config
from minigam.config import GAMConfig, MambaConfig, TrainConfig, TransformerConfig
from minigam.engine import backend, masks, memory, numeric, ops, sequence
from minigam.engine.dispatch import op
from minigam.engine.tensor import Tensor, no_grad, observing, reference_only
from minigam.gradcheck import gradcheck  # the function, which hides the package of the same name
from minigam.models import GAM, GAMBlock, Mamba, MambaBlock, Transformer, TransformerBlock, interop, nn
from minigam.models.decoding import Stream
from minigam.models.interop import from_mamba, from_official, to_mamba, to_official
from minigam.training.optim import AdamW
from minigam.training.schedule import warmup_cosine
from minigam.training.step import train_step

LATER = {  # module, or module:name
    "NGram": "data.ngram:NGram", "anatomy": "models.anatomy", "course": "course",
    "experiments": "experiments", "from_pocketstories": "data.corpus:from_pocketstories",
    "from_text": "data.corpus:from_text", "inputs_and_targets": "data.corpus:inputs_and_targets",
    "mqar": "data.mqar", "pocketstories": "data.pocketstories", "profile": "training.profile",
    "read_weights": "models.weights:read_weights",
    "validation": "training.validation", "viz": "viz",
}  # fmt: skip
__all__ = [
    "GAM", "AdamW", "GAMBlock", "GAMConfig", "Mamba", "MambaBlock", "MambaConfig", "NGram", "Stream",
    "Tensor", "TrainConfig", "Transformer", "TransformerBlock", "TransformerConfig", "anatomy", "backend",
    "config", "course", "experiments", "from_mamba", "from_official", "from_pocketstories", "from_text",
    "gradcheck", "inputs_and_targets", "interop", "masks", "memory", "mqar", "nn", "no_grad", "numeric",
    "observing", "op", "ops", "pocketstories", "profile", "read_weights", "reference_only", "sequence",
    "to_mamba", "to_official", "train_step", "validation", "viz", "warmup_cosine",
]  # fmt: skip
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name not in LATER:
        raise AttributeError(f"minigam has no {name!r}; its public names are in minigam.__all__")
    place, _, attribute = LATER[name].partition(":")
    module = import_module(f"minigam.{place}")
    return getattr(module, attribute) if attribute else module
