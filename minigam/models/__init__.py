"""Layers and language models, each model in one file with its block. MODELS maps names to models."""

from minigam.models.gam import GAM, GAMBlock
from minigam.models.lm import LanguageModel
from minigam.models.mamba import Mamba, MambaBlock
from minigam.models.transformer import Transformer, TransformerBlock

__all__ = ["GAM", "MODELS", "GAMBlock", "Mamba", "MambaBlock", "Transformer", "TransformerBlock"]

MODELS: dict[str, type[LanguageModel]] = {"gam": GAM, "transformer": Transformer, "mamba": Mamba}
