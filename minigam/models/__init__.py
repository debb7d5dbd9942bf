"""Layers and language models, each model beside its block. MODELS has them by the name commands know."""

from minigam.models.gam import GAM
from minigam.models.lm import LanguageModel
from minigam.models.mamba import Mamba
from minigam.models.transformer import Transformer

MODELS: dict[str, type[LanguageModel]] = {"gam": GAM, "transformer": Transformer, "mamba": Mamba}
