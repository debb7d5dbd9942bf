"""minigam: Gated Associative Memory from scratch, to learn, check and use.

This is the public API. Importing it loads NumPy and nothing else that is heavy, and decides nothing: every
operation runs where its inputs are. `minigam` on the command line lists the commands.
"""

from minigam import viz
from minigam.config import GAMConfig, MambaConfig, TransformerConfig
from minigam.engine import backend, ops, sequence
from minigam.engine.operation import op
from minigam.engine.tensor import Tensor, no_grad, reference_only
from minigam.gradcheck import gradcheck
from minigam.models import GAM, Mamba, Transformer, nn
from minigam.models.interop import from_official, to_official
from minigam.training.optim import AdamW
from minigam.training.schedule import warmup_cosine
from minigam.training.step import train_step

__all__ = [
    "GAM", "AdamW", "GAMConfig", "Mamba", "MambaConfig", "Tensor", "Transformer", "TransformerConfig",
    "backend", "from_official", "gradcheck", "nn", "no_grad", "op", "ops", "reference_only", "sequence",
    "to_official", "train_step", "viz", "warmup_cosine",
]  # fmt: skip
__version__ = "0.1.0"
