"""minigam: Gated Associative Memory from scratch, to learn, check and use.

Importing decides nothing: no GPU library is touched, and every operation runs where its
inputs are. `python -m minigam` lists the commands.
"""

from minigam import fast_cupy, fast_numpy, interop, ops, optim, sequence, training  # noqa: F401  fast_*: rules
from minigam import gradcheck as _gradcheck_room
from minigam.config import GAMConfig, MambaConfig, TransformerConfig
from minigam.lm import GAM, Mamba, Transformer
from minigam.tensor import Tensor, no_grad, reference_only

gradcheck = _gradcheck_room.gradcheck  # the function, in place of the room it lives in

__all__ = [
    "GAM", "GAMConfig", "Mamba", "MambaConfig", "Tensor", "Transformer", "TransformerConfig", "gradcheck",
    "interop", "no_grad", "ops", "optim", "reference_only", "sequence", "training",
]  # fmt: skip
__version__ = "0.1.0"
