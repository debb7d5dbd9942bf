"""Weights of other programs: the same numbers under other names.

    arrays = {name: t.numpy() for name, t in torch.load("gam.pt", weights_only=True).items()}
    model = from_official(arrays)
    mamba = from_mamba(read_weights("model.safetensors", dtype="float32"))

NAMES is the whole translation for the GAM authors' PyTorch code, MAMBA_NAMES for the published Mamba; the
functions below only apply them. `*` stands for the number of a block. An architecture is a mixer of the
paper's GAM, or "transformer". Shapes are the published ones, in the usual letters: V vocabulary,
T positions, C channels, S slots, K kernel size; of Mamba E expanded channels, N states, R rank of the step
size; "2C" is twice C, and "1" an axis of length 1 that minigam omits.
"""

from collections import Counter
from collections.abc import Iterable
from typing import Any

import numpy as np

from minigam.config import PAPER_MIXERS, WRITTEN, GAMConfig, MambaConfig, ModelConfig, TransformerConfig
from minigam.engine.tensor import ShapeError
from minigam.models.gam import GAM
from minigam.models.lm import LanguageModel
from minigam.models.mamba import Mamba, dt_rank
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

MAMBA_NAMES = (
    # published name                           name here                       shape
    ("backbone.embedding.weight", "token_embedding.weight", "V C"),
    ("backbone.layers.*.norm.weight", "blocks.*.norm.weight", "C"),
    ("backbone.layers.*.mixer.in_proj.weight", "blocks.*.ssm.expand.weight", "2E C"),
    ("backbone.layers.*.mixer.conv1d.weight", "blocks.*.ssm.conv.weight", "E 1 K"),
    ("backbone.layers.*.mixer.conv1d.bias", "blocks.*.ssm.conv.bias", "E"),
    ("backbone.layers.*.mixer.x_proj.weight", "blocks.*.ssm.select.weight", "R+2N E"),
    ("backbone.layers.*.mixer.dt_proj.weight", "blocks.*.ssm.step_size.weight", "E R"),
    ("backbone.layers.*.mixer.dt_proj.bias", "blocks.*.ssm.step_size.bias", "E"),
    ("backbone.layers.*.mixer.A_log", "blocks.*.ssm.A_log", "E N"),
    ("backbone.layers.*.mixer.D", "blocks.*.ssm.D", "E"),
    ("backbone.layers.*.mixer.out_proj.weight", "blocks.*.ssm.contract.weight", "C E"),
    ("backbone.norm_f.weight", "norm.weight", "C"),
    ("lm_head.weight", "token_embedding.weight", "V C"),  # tied: a file may hold it once
)
MAMBA_FIELDS = {"V": "vocab_size", "C": "d_model", "N": "d_state", "K": "d_conv"}  # and E, R: see from_mamba
EMBEDDING, HEAD = "backbone.embedding.weight", "lm_head.weight"
TRANSFORMERS_EMBEDDING = "backbone.embeddings.weight"  # the one name that the library transformers changed


def from_official(
    arrays: dict[str, np.ndarray],
    dropout: float = 0.1,
    n_heads: int = 8,
    written: bool = False,
    prior: float = 0.0,
) -> GAM | Transformer:
    """Build the GAM, or the Transformer, that published weights describe, in their dtype.

    arrays  : by published name; all float32 or all float64. The names determine the architecture,
              the shapes its configuration; a number that no shape determines (n_slots of "local",
              kernel_size of "global") keeps its default. The causal mask stored with the authors'
              Transformer is skipped
    dropout, n_heads : cannot be determined from weights
    written : make a GAM of mixer "written", which is not in the paper, from the weights of a gated one
    prior   : its prior, which no weight shows; 0 for 1/S
    Raises KeyError listing missing and unknown names, TypeError or ShapeError listing misfits,
    ValueError if head.weight is not token_embedding.weight, or if `written` and the weights are not a gated
    GAM's, InputError if memory cannot hold the model.

    >>> config = mg.GAMConfig(vocab_size=9, block_size=8, d_model=4, n_layers=2, n_slots=3)
    >>> arrays = mg.to_official(mg.GAM(config, seed=1))
    >>> copy = mg.from_official(arrays)
    >>> copy.config.n_slots, copy.num_parameters()
    (3, 540)
    """
    arrays = {name: a for name, a in arrays.items() if not name.endswith(CAUSAL_MASK)}
    n_layers = max(1, len({name.split(".")[1] for name in arrays if name.startswith("blocks.")}))
    best = min(ARCHITECTURES, key=lambda a: len(_names(_rows(a), n_layers).keys() ^ arrays.keys()))
    names = _names(_rows(best), n_layers)
    read_as = f"{n_layers} blocks of architecture {best!r}; see minigam.interop.NAMES"
    _require_names("from_official", names, arrays, read_as)
    if written and best != "gated":
        raise ValueError(f"from_official: weights of architecture {best!r}, wanted 'gated' to be written")
    dtype = _dtype("from_official", "token_embedding.weight", arrays)
    sizes = _sizes("from_official", FIELDS, names, arrays)
    _require_tied("from_official", "head.weight", "token_embedding.weight", arrays)
    settings: dict[str, Any] = {FIELDS[letter]: n for letter, n in sizes.items()}
    settings |= {"n_layers": n_layers, "dropout": dropout}
    if best == "transformer":
        config = TransformerConfig(n_heads=n_heads, **settings)
        model: GAM | Transformer = Transformer(_affordable(config, Transformer, dtype), dtype=dtype)
    else:
        settings |= {"mixer": WRITTEN, "prior": prior} if written else {"mixer": best}
        model = GAM(_affordable(GAMConfig(**settings), GAM, dtype), dtype=dtype)
    _load(model, names, arrays)
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
    architecture = model.config.mixer if isinstance(model, GAM) else "transformer"
    rows = _rows("gated" if architecture == WRITTEN else architecture)
    return _published(model, _names(rows, model.config.n_layers))


def from_mamba(arrays: dict[str, np.ndarray], block_size: int = 2048, dropout: float = 0.0) -> Mamba:
    """Build the Mamba that published weights describe, in their dtype: RMSNorm and no position embeddings.

    arrays     : by published name, of state-spaces/mamba or of the library transformers; all float32 or all
                 float64 (`read_weights` converts). lm_head.weight may be absent: it is the embedding
    block_size : tokens that a pass and `Stream` read at most; no shape determines it, and it costs no
                 parameter
    dropout    : of the embeddings, in training
    V is the length of the published matrix, which has more rows than the tokenizer has tokens.
    Raises KeyError listing missing and unknown names, TypeError or ShapeError listing misfits, ValueError if
    lm_head.weight is not the embedding, InputError if memory cannot hold the model.

    >>> config = mg.MambaConfig(vocab_size=16, d_model=4, n_layers=2, norm="rms", positions=False)
    >>> arrays = mg.to_mamba(mg.Mamba(config, seed=1))
    >>> copy = mg.from_mamba(arrays)
    >>> copy.config.expand, copy.generate([1, 2], 3).shape
    (3, (5,))
    """
    name_of = {TRANSFORMERS_EMBEDDING: EMBEDDING} if EMBEDDING not in arrays else {}
    arrays = {name_of.get(name, name): a for name, a in arrays.items()}
    n_layers = max(1, len({name.split(".")[2] for name in arrays if name.startswith("backbone.layers.")}))
    names = _names(MAMBA_NAMES, n_layers)
    if HEAD not in arrays:
        del names[HEAD]
    _require_names("from_mamba", names, arrays, f"{n_layers} blocks; see minigam.interop.MAMBA_NAMES")
    dtype = _dtype("from_mamba", EMBEDDING, arrays)
    sizes = _sizes("from_mamba", (*MAMBA_FIELDS, "E", "R"), names, arrays)
    C, E, R = (sizes[letter] for letter in "CER")
    if not C or E % C or dt_rank(C) != R:
        raise ShapeError(
            f"from_mamba: C {C}, E {E}, R {R}; wanted E a multiple of C, and R = C / 16, rounded up"
        )
    if HEAD in arrays:
        _require_tied("from_mamba", HEAD, EMBEDDING, arrays)
    settings: dict[str, Any] = {field: sizes[letter] for letter, field in MAMBA_FIELDS.items()}
    settings |= {"expand": E // C, "n_layers": n_layers, "block_size": block_size, "dropout": dropout}
    config = MambaConfig(norm="rms", positions=False, **settings)
    model = Mamba(_affordable(config, Mamba, dtype), dtype=dtype)
    _load(model, names, arrays)
    return model


def to_mamba(model: Mamba, transformers: bool = False) -> dict[str, np.ndarray]:
    """Return a copy of every weight on the host, under the published names and in their shapes.

    transformers : the embedding has the name that the library transformers gives it, with an s
    lm_head.weight and the embedding share one array, because the model has one matrix for both.
    Raises TypeError for another model, ValueError for a Mamba that is not built as the published ones.

    >>> config = mg.MambaConfig(vocab_size=16, d_model=4, n_layers=2, norm="rms", positions=False)
    >>> arrays = mg.to_mamba(mg.Mamba(config))
    >>> len(arrays), arrays["backbone.layers.1.mixer.conv1d.weight"].shape
    (23, (12, 1, 4))
    """
    if not isinstance(model, Mamba):
        raise TypeError(f"to_mamba: {type(model).__name__}, wanted a Mamba")
    c = model.config
    if (c.norm, c.positions, c.residual) != ("rms", False, True):
        raise ValueError(
            f"to_mamba: norm {c.norm!r}, positions {c.positions}, residual {c.residual}; "
            "wanted 'rms', False, True, as published"
        )
    arrays = _published(model, _names(MAMBA_NAMES, c.n_layers))
    name_of = {EMBEDDING: TRANSFORMERS_EMBEDDING} if transformers else {}
    return {name_of.get(name, name): a for name, a in arrays.items()}


Names = dict[str, tuple[str, list[str]]]  # published name: (name here, published shape in letters)


def _rows(architecture: str) -> list[tuple[str, str, str]]:
    """Return the rows of NAMES of one architecture."""
    return [(name, ours, shape) for name, ours, shape, having in NAMES if architecture in having]


def _names(rows: Iterable[tuple[str, str, str]], n_layers: int) -> Names:
    """Return the names of one model."""
    return {
        name.replace("*", str(i)): (ours.replace("*", str(i)), shape.split())
        for name, ours, shape in rows
        for i in (range(n_layers) if "*" in name else [0])
    }


def _require_names(who: str, names: Names, arrays: dict[str, np.ndarray], read_as: str) -> None:
    missing, unknown = sorted(names.keys() - arrays.keys()), sorted(arrays.keys() - names.keys())
    if missing or unknown:
        raise KeyError(f"{who}: missing {_listed(missing)}, unknown {_listed(unknown)}, read as {read_as}")


def _listed(names: list[str], most: int = 8) -> str:
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return f"{names[:most]}{rest}"


def _affordable(config: ModelConfig, Model: type[LanguageModel], dtype: np.dtype) -> ModelConfig:
    """Return the configuration. Raises InputError if memory cannot hold the model, whose initial values are
    drawn in float64, next to the arrays that it is read from."""
    Model.require_memory(config, bytes_each=8 + dtype.itemsize)
    return config


def _require_tied(who: str, head: str, embedding: str, arrays: dict[str, np.ndarray]) -> None:
    if not np.array_equal(arrays[head], arrays[embedding], equal_nan=True):
        raise ValueError(
            f"{who}: {head} is not {embedding}, wanted the same numbers under both names; "
            "the model has one matrix for both"
        )


def _load(model: LanguageModel, names: Names, arrays: dict[str, np.ndarray]) -> None:
    """Put the arrays into the model."""
    model.load_state_dict(
        {ours: np.squeeze(arrays[name], _extra_axes(dims)) for name, (ours, dims) in names.items()}
    )


def _published(model: LanguageModel, names: Names) -> dict[str, np.ndarray]:
    """Return the weights of the model by published name."""
    own = model.state_dict()
    return {name: np.expand_dims(own[ours], _extra_axes(dims)) for name, (ours, dims) in names.items()}


def _extra_axes(dims: list[str]) -> tuple[int, ...]:
    return tuple(axis for axis, dim in enumerate(dims) if dim == "1")


def _dtype(who: str, reference: str, arrays: dict[str, Any]) -> np.dtype:
    """Return the dtype that all arrays share with the one called `reference`. Raises TypeError listing those
    with another."""
    wrong = [f"{name} {type(a).__name__}" for name, a in arrays.items() if not isinstance(a, np.ndarray)]
    if wrong:
        raise TypeError(f"{who}: {', '.join(wrong)}; wanted NumPy arrays")
    first = arrays[reference].dtype
    allowed = [first] if first in (np.float32, np.float64) else []
    wrong = [f"{name} {a.dtype}" for name, a in arrays.items() if a.dtype not in allowed]
    if wrong:
        raise TypeError(f"{who}: {', '.join(wrong)}; wanted float32, or float64, for all")
    return first


def _sizes(who: str, letters: Iterable[str], names: Names, arrays: dict[str, np.ndarray]) -> dict[str, int]:
    """Return the length that each letter stands for, by majority vote of the shapes.

    Raises ShapeError listing the arrays whose shape disagrees.
    """
    votes: dict[str, Counter[int]] = {letter: Counter() for letter in letters}
    for name, (_, dims) in names.items():
        if arrays[name].ndim == len(dims):
            for dim, n in zip(dims, arrays[name].shape, strict=True):
                if dim in votes:
                    votes[dim][n] += 1
    sizes = {letter: count.most_common(1)[0][0] for letter, count in votes.items() if count}

    def length(dim: str) -> int:  # "2C" is twice "C", "R+2N" a sum, "1" is 1
        if "+" in dim:
            return sum(map(length, dim.split("+")))
        return int(dim) if dim.isdigit() else int(dim[:-1] or 1) * sizes.get(dim[-1], -1)

    wrong = [
        f"{name} {arrays[name].shape}, wanted ({', '.join(dims)})"
        for name, (_, dims) in names.items()
        if arrays[name].shape != tuple(map(length, dims))
    ]
    if wrong:
        lengths = ", ".join(f"{letter} {n}" for letter, n in sizes.items())
        raise ShapeError(f"{who}: {'; '.join(wrong)}; with {lengths}")
    return sizes
