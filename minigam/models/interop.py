"""Weights of the authors' PyTorch code: the same numbers under other names.

    arrays = {name: t.numpy() for name, t in torch.load("gam.pt", weights_only=True).items()}
    model = from_official(arrays)

NAMES is the whole translation; the functions below only apply it. `*` stands for the number of a
block. An architecture is a mixer of the paper's GAM, or "transformer". Shapes are the published ones, in the
usual letters: V vocabulary, T positions, C channels, S slots, K kernel size; "2C" is twice C, and
"1" an axis of length 1 that minigam omits.
"""

from collections import Counter
from typing import Any

import numpy as np

from minigam.config import PAPER_MIXERS, WRITTEN, GAMConfig, TransformerConfig
from minigam.engine.tensor import ShapeError
from minigam.models.gam import GAM
from minigam.models.lm import LanguageModel
from minigam.models.transformer import Transformer

ARCHITECTURES = (*PAPER_MIXERS, "transformer")
EVERY, ANY_GAM, TRANSFORMER = frozenset(ARCHITECTURES), frozenset(PAPER_MIXERS), {"transformer"}
CONV, MEMORY, GATE = ANY_GAM - {"global"}, ANY_GAM - {"local"}, {"gated"}  # which mixers have which part
CAUSAL_MASK = ".attn.bias"  # stored with the authors' Transformer, but not a weight

NAMES = (
    # published name               name here                         shape    architectures that have it
    ("token_embedding.weight", "token_embedding.weight", "V C", EVERY),
    ("pos_embedding.weight", "position_embedding.weight", "T C", EVERY),
    ("blocks.*.ln1.weight", "blocks.*.norm1.weight", "C", ANY_GAM),
    ("blocks.*.ln1.bias", "blocks.*.norm1.bias", "C", ANY_GAM),
    ("blocks.*.causal_conv.weight", "blocks.*.conv.weight", "C 1 K", CONV),
    ("blocks.*.causal_conv.bias", "blocks.*.conv.bias", "C", CONV),
    ("blocks.*.memory_bank", "blocks.*.memory", "S C", MEMORY),
    ("blocks.*.gate.weight", "blocks.*.gate.weight", "2C C", GATE),
    ("blocks.*.gate.bias", "blocks.*.gate.bias", "2C", GATE),
    ("blocks.*.ln2.weight", "blocks.*.norm2.weight", "C", ANY_GAM),
    ("blocks.*.ln2.bias", "blocks.*.norm2.bias", "C", ANY_GAM),
    ("blocks.*.ln_1.weight", "blocks.*.norm1.weight", "C", TRANSFORMER),
    ("blocks.*.ln_1.bias", "blocks.*.norm1.bias", "C", TRANSFORMER),
    ("blocks.*.attn.c_attn.weight", "blocks.*.attention.qkv.weight", "3C C", TRANSFORMER),
    ("blocks.*.attn.c_attn.bias", "blocks.*.attention.qkv.bias", "3C", TRANSFORMER),
    ("blocks.*.attn.c_proj.weight", "blocks.*.attention.out.weight", "C C", TRANSFORMER),
    ("blocks.*.attn.c_proj.bias", "blocks.*.attention.out.bias", "C", TRANSFORMER),
    ("blocks.*.ln_2.weight", "blocks.*.norm2.weight", "C", TRANSFORMER),
    ("blocks.*.ln_2.bias", "blocks.*.norm2.bias", "C", TRANSFORMER),
    ("blocks.*.ffn.0.weight", "blocks.*.feed.expand.weight", "4C C", EVERY),
    ("blocks.*.ffn.0.bias", "blocks.*.feed.expand.bias", "4C", EVERY),
    ("blocks.*.ffn.2.weight", "blocks.*.feed.contract.weight", "C 4C", EVERY),
    ("blocks.*.ffn.2.bias", "blocks.*.feed.contract.bias", "C", EVERY),
    ("ln_f.weight", "norm.weight", "C", EVERY),
    ("ln_f.bias", "norm.bias", "C", EVERY),
    ("head.weight", "token_embedding.weight", "V C", EVERY),  # tied: one matrix, two names
)
FIELDS = {"V": "vocab_size", "T": "block_size", "C": "d_model", "S": "n_slots", "K": "kernel_size"}


def from_official(
    arrays: dict[str, np.ndarray], dropout: float = 0.1, n_heads: int = 8, written: bool = False
) -> GAM | Transformer:
    """Build the GAM, or the Transformer, that published weights describe, in their dtype.

    arrays  : by published name; all float32 or all float64. The names determine the architecture,
              the shapes its configuration; a number that no shape determines (n_slots of "local",
              kernel_size of "global") keeps its default. The causal mask stored with the authors'
              Transformer is skipped
    dropout, n_heads : cannot be determined from weights
    written : make a GAM of mixer "written", which is not in the paper, from the weights of a gated one
    Raises KeyError listing missing and unknown names, TypeError or ShapeError listing misfits,
    ValueError if head.weight is not token_embedding.weight, or if `written` and the weights are not a gated
    GAM's.

    >>> config = mg.GAMConfig(vocab_size=9, block_size=8, d_model=4, n_layers=2, n_slots=3)
    >>> arrays = mg.to_official(mg.GAM(config, seed=1))
    >>> copy = mg.from_official(arrays)
    >>> copy.config.n_slots, copy.num_parameters()
    (3, 540)
    """
    arrays = {name: a for name, a in arrays.items() if not name.endswith(CAUSAL_MASK)}
    n_layers = max(1, len({name.split(".")[1] for name in arrays if name.startswith("blocks.")}))
    best = min(ARCHITECTURES, key=lambda a: len(_names(a, n_layers).keys() ^ arrays.keys()))
    names = _names(best, n_layers)
    missing, unknown = sorted(names.keys() - arrays.keys()), sorted(arrays.keys() - names.keys())
    if missing or unknown:
        raise KeyError(
            f"from_official: missing {missing}, unknown {unknown}, "
            f"read as {n_layers} blocks of architecture {best!r}; see minigam.interop.NAMES"
        )
    if written and best != "gated":
        raise ValueError(f"from_official: weights of architecture {best!r}, wanted 'gated' to be written")
    dtype = _dtype(arrays)
    sizes = _sizes(names, arrays)
    if not np.array_equal(arrays["head.weight"], arrays["token_embedding.weight"], equal_nan=True):
        raise ValueError(
            "from_official: head.weight is not token_embedding.weight, wanted the same numbers under both "
            "names; the model has one matrix for both"
        )
    settings: dict[str, Any] = {FIELDS[letter]: n for letter, n in sizes.items()}
    settings |= {"n_layers": n_layers, "dropout": dropout}
    if best == "transformer":
        model: GAM | Transformer = Transformer(TransformerConfig(n_heads=n_heads, **settings), dtype=dtype)
    else:
        model = GAM(GAMConfig(mixer=WRITTEN if written else best, **settings), dtype=dtype)
    model.load_state_dict(
        {ours: np.squeeze(arrays[name], _extra_axes(dims)) for name, (ours, dims) in names.items()}
    )
    return model


def to_official(model: LanguageModel) -> dict[str, np.ndarray]:
    """Return a copy of every weight on the host, under the published names and in their shapes.

    head.weight and token_embedding.weight share one array, because the model has one matrix for both. A GAM
    of mixer "written" has the names and shapes of a gated one.

    >>> config = mg.GAMConfig(vocab_size=9, block_size=8, d_model=4, n_layers=2, n_slots=3)
    >>> arrays = mg.to_official(mg.GAM(config))
    >>> sorted(arrays)[:2], arrays["head.weight"].shape
    (['blocks.0.causal_conv.bias', 'blocks.0.causal_conv.weight'], (9, 4))
    """
    if not isinstance(model, (GAM, Transformer)):
        raise TypeError(f"to_official: {type(model).__name__}, wanted a GAM or a Transformer")
    own = model.state_dict()
    architecture = model.config.mixer if isinstance(model, GAM) else "transformer"
    names = _names("gated" if architecture == WRITTEN else architecture, model.config.n_layers)
    return {name: np.expand_dims(own[ours], _extra_axes(dims)) for name, (ours, dims) in names.items()}


def _names(architecture: str, n_layers: int) -> dict[str, tuple[str, list[str]]]:
    """Return {published name: (name here, published shape in letters)} of one model."""
    return {
        name.replace("*", str(i)): (ours.replace("*", str(i)), shape.split())
        for name, ours, shape, architectures in NAMES
        if architecture in architectures
        for i in (range(n_layers) if "*" in name else [0])
    }


def _extra_axes(dims: list[str]) -> tuple[int, ...]:
    return tuple(axis for axis, dim in enumerate(dims) if dim == "1")


def _dtype(arrays: dict[str, Any]) -> np.dtype:
    """Return the dtype that all arrays share. Raises TypeError listing the arrays with another."""
    wrong = [f"{name} {type(a).__name__}" for name, a in arrays.items() if not isinstance(a, np.ndarray)]
    if wrong:
        raise TypeError(f"from_official: {', '.join(wrong)}; wanted NumPy arrays")
    first = arrays["token_embedding.weight"].dtype
    allowed = [first] if first in (np.float32, np.float64) else []
    wrong = [f"{name} {a.dtype}" for name, a in arrays.items() if a.dtype not in allowed]
    if wrong:
        raise TypeError(f"from_official: {', '.join(wrong)}; wanted float32, or float64, for all")
    return first


def _sizes(names: dict[str, tuple[str, list[str]]], arrays: dict[str, np.ndarray]) -> dict[str, int]:
    """Return the length that each letter stands for, by majority vote of the shapes.

    Raises ShapeError listing the arrays whose shape disagrees.
    """
    votes: dict[str, Counter[int]] = {letter: Counter() for letter in FIELDS}
    for name, (_, dims) in names.items():
        if arrays[name].ndim == len(dims):
            for dim, n in zip(dims, arrays[name].shape, strict=True):
                if dim in FIELDS:
                    votes[dim][n] += 1
    sizes = {letter: count.most_common(1)[0][0] for letter, count in votes.items() if count}

    def length(dim: str) -> int:  # "2C" is twice "C", "1" is 1
        return int(dim) if dim.isdigit() else int(dim[:-1] or 1) * sizes.get(dim[-1], -1)

    wrong = [
        f"{name} {arrays[name].shape}, wanted ({', '.join(dims)})"
        for name, (_, dims) in names.items()
        if arrays[name].shape != tuple(map(length, dims))
    ]
    if wrong:
        lengths = ", ".join(f"{letter} {n}" for letter, n in sizes.items())
        raise ShapeError(f"from_official: {'; '.join(wrong)}; with {lengths}")
    return sizes
