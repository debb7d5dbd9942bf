"""The numbers of a model and of a training run: one dataclass each, checked when made.

A field's `help` is its documentation and the text of its command-line flag.
"""

import math
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Self, TypeVar


class InputError(ValueError):
    """What the user gave cannot be used. Its message is one line:
    what came, what was wanted, what to do. Commands print it and exit with code 2."""


Value = TypeVar("Value")


def setting(default: Value, help: str, **metadata: Any) -> Value:
    """A dataclass field with its default and its help text."""
    return field(default=default, metadata={"help": help, **metadata})


MIXERS = ("gated", "sum", "local", "global")
PRECISIONS = ("float32", "tf32", "float16")


@dataclass(frozen=True)
class Checked:
    """Base of the configurations: bounds that hold, and a way to and from JSON."""

    def require(self, ok: bool, name: str, wanted: str) -> None:
        if not ok:
            raise InputError(f"{name} is {getattr(self, name)!r}, wanted {wanted}")

    def require_counts(self, *names: str) -> None:
        """Each named field is an int of at least 1."""
        for name in names:
            value = getattr(self, name)
            self.require(type(value) is int and value >= 1, name, "a whole number, at least 1")

    def to_dict(self) -> dict:
        return asdict(self)

    @classmethod
    def of(cls, values: dict) -> Self:
        """Build from those values that there is a field for; the others keep their defaults."""
        return cls(**{f.name: values[f.name] for f in fields(cls) if f.name in values})

    @classmethod
    def from_dict(cls, values: dict) -> Self:
        """Build from what `to_dict` gave. Raises InputError for unknown or missing names."""
        known = {f.name for f in fields(cls)}
        if wrong := set(values) ^ known:
            raise InputError(f"{cls.__name__}: unknown or missing fields {sorted(wrong)}")
        for f in fields(cls):
            kinds = {float: (float, int), type(None): (str, type(None))}.get(
                type(f.default), (type(f.default),)
            )
            if type(values[f.name]) not in kinds:
                raise InputError(f"{f.name} is {values[f.name]!r}, wanted {kinds[0].__name__}")
        return cls(**values)


@dataclass(frozen=True, kw_only=True)
class ModelConfig(Checked):
    """What every language model here has; the defaults are the published configuration."""

    vocab_size: int = setting(10_000, "V, tokens in the vocabulary", derived=True)
    block_size: int = setting(256, "T, tokens in one training row, and learned positions")
    d_model: int = setting(512, "C, channels per token")
    n_layers: int = setting(6, "L, blocks")
    dropout: float = setting(0.1, "probability of zeroing a channel, in training only")
    position_std: float = setting(1.0, "standard deviation of the learned positions before training")

    def __post_init__(self):
        self.require(0.0 <= self.position_std < math.inf, "position_std", "a number, at least 0")
        self.require_counts("vocab_size", "block_size", "d_model", "n_layers")
        self.require(0.0 <= self.dropout < 1.0, "dropout", "0 <= dropout < 1")


@dataclass(frozen=True, kw_only=True)
class GAMConfig(ModelConfig):
    """Gated Associative Memory; a block sees K tokens, the model 1 + L (K - 1)."""

    n_slots: int = setting(512, "S, memory slots per block")
    kernel_size: int = setting(3, "K, tokens the convolution sees; the reach is 1 + L (K - 1)")
    mixer: str = setting("gated", "how local and global context are fused", choices=MIXERS)

    def __post_init__(self):
        super().__post_init__()
        self.require_counts("n_slots", "kernel_size")
        self.require(self.mixer in MIXERS, "mixer", f"one of {', '.join(MIXERS)}")


@dataclass(frozen=True, kw_only=True)
class TransformerConfig(ModelConfig):
    """The baseline with causal self-attention; a block sees every token before."""

    n_heads: int = setting(8, "H, attention heads; divides d_model")

    def __post_init__(self):
        super().__post_init__()
        self.require_counts("n_heads")
        self.require(self.d_model % self.n_heads == 0, "n_heads", f"a divisor of d_model {self.d_model}")


@dataclass(frozen=True, kw_only=True)
class MambaConfig(ModelConfig):
    """The baseline with a selective state space; a block sees all before through its states."""

    d_state: int = setting(16, "N, states of each expanded channel")
    d_conv: int = setting(4, "tokens its convolution sees")
    expand: int = setting(3, "expanded channels E, in multiples of d_model")
    residual: bool = setting(True, "x + block(LayerNorm(x)); False stacks blocks bare, as GAM's authors did")

    def __post_init__(self):
        super().__post_init__()
        self.require_counts("d_state", "d_conv", "expand")
        self.require(isinstance(self.residual, bool), "residual", "True or False")


POCKETSTORIES, MQAR = "pocketstories", "mqar"  # corpora that need no file


@dataclass(frozen=True, kw_only=True)
class DataConfig(Checked):
    """What to train on: PocketStories, a prepared dataset, or any text file."""

    dataset: str = setting(
        POCKETSTORIES, "what to train on: that, or a folder of minigam data prepare", metavar="NAME"
    )
    data_seed: int = setting(0, "decides what the stories are")
    stories: int = setting(20_000, "PocketStories to train on")
    valid_stories: int = setting(1_000, "PocketStories to validate on")
    mqar_rows: int = setting(50_000, "rows of associative recall to train on", derived=True)
    mqar_pairs: int = setting(8, "most pairs of a key and a value in a row", derived=True)
    mqar_keys: int = setting(16, "keys to choose from, and as many values", derived=True)
    text: str | None = setting(None, "UTF-8 text file to train on, in place of a dataset")
    valid: str | None = setting(None, "text file to validate on (default: the last tenth of --text)")
    tokenizer: str = setting("char", "tokenizer for --text", choices=("char", "bpe"))
    bpe_size: int = setting(10_000, "most entries of a bpe tokenizer")

    def __post_init__(self):
        self.require_counts("stories", "valid_stories", "bpe_size", "mqar_rows", "mqar_pairs", "mqar_keys")
        self.require(self.data_seed >= 0, "data_seed", "a whole number, at least 0")
        self.require(bool(self.dataset), "dataset", f"{POCKETSTORIES} or a prepared folder")
        self.require(self.text is None or self.dataset == POCKETSTORIES, "dataset", "no other beside --text")
        self.require(self.tokenizer in ("char", "bpe"), "tokenizer", "char or bpe")
        self.require(self.valid is None or self.text is not None, "valid", "--text beside it")


@dataclass(frozen=True, kw_only=True)
class TrainConfig(Checked):
    """How to train; the defaults are the paper's, but for the length of the run."""

    batch_size: int = setting(32, "rows (of block_size tokens) in one step")
    micro_batch: int = setting(
        0, "rows computed at a time, to save memory; changes nothing else. 0: what suits the device"
    )
    steps: int = setting(1000, "optimiser steps")
    lr: float = setting(3e-4, "peak learning rate")
    warmup_steps: int = setting(100, "steps of linear warm-up, before the cosine to 0")
    beta1: float = setting(0.9, "AdamW's decay of the mean of gradients")
    beta2: float = setting(0.95, "AdamW's decay of the mean of squared gradients")
    weight_decay: float = setting(0.1, "AdamW's decoupled decay, on every parameter")
    max_norm: float = setting(1.0, "the gradient's norm is clipped to this")
    eval_every: int = setting(100, "steps between validations")
    eval_rows: int = setting(200, "rows of a validation on the way; the last one takes all")
    checkpoint_every: int = setting(100, "steps between checkpoints")
    seed: int = setting(0, "decides initial values, order of the data, dropout and samples")
    precision: str = setting(
        "float32", "what a GPU rounds the inputs of matrix products to", choices=PRECISIONS
    )

    def __post_init__(self):
        self.require_counts("batch_size", "steps")
        whole = type(self.micro_batch) is int and self.micro_batch >= 0
        self.require(whole, "micro_batch", "a whole number, at least 0")
        self.require_counts("eval_every", "eval_rows", "checkpoint_every")
        self.require(0.0 < self.lr < math.inf, "lr", "a number above 0")
        self.require(self.warmup_steps >= 0, "warmup_steps", "a whole number, at least 0")
        for name in ("beta1", "beta2"):
            self.require(0.0 <= getattr(self, name) < 1.0, name, f"0 <= {name} < 1")
        self.require(0.0 <= self.weight_decay < math.inf, "weight_decay", "a number, at least 0")
        self.require(self.max_norm > 0.0, "max_norm", "a number above 0")
        self.require(self.seed >= 0, "seed", "a whole number, at least 0")
        self.require(self.precision in PRECISIONS, "precision", f"one of {', '.join(PRECISIONS)}")


PRESETS: dict[str, dict] = {  # where the defaults of a training come from
    "small": {
        "block_size": 128, "d_model": 128, "n_layers": 4, "n_slots": 64, "kernel_size": 4, "dropout": 0.0,
        "position_std": 0.02,
        "batch_size": 16, "steps": 300, "lr": 3e-3, "warmup_steps": 50, "eval_every": 50,
    },
    "published": {},
}  # fmt: skip
