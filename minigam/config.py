"""The settings of a model and of a training run: one dataclass each, checked when created.

A field's `help` is its documentation and the text of its command-line flag.
"""

import math
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Self, TypeVar


class InputError(ValueError):
    """The user's input cannot be used. The message is one line: what came, what was wanted, what to do.
    Commands print it and exit with code 2.

    >>> mg.TrainConfig(batch_size=-1)
    Traceback (most recent call last):
        ...
    minigam.config.InputError: batch_size is -1, wanted a whole number, at least 1
    """


LARGEST = 2**63 - 1  # the largest count: beyond it, neither NumPy's integers nor a float can hold one


def shortened(text: str, most: int = 200) -> str:
    """Return a text of a message without its middle if it is long.

    >>> mg.config.shortened("abcdefgh", most=4)
    'ab ... gh'
    """
    return text if len(text) <= most else f"{text[: most // 2]} ... {text[-most // 2 :]}"


Value = TypeVar("Value")


def setting(default: Value, help: str, **metadata: Any) -> Value:
    """A dataclass field with its default and its help text.

    >>> mg.config.setting(3, "how many").metadata["help"]
    'how many'
    """
    return field(default=default, metadata={"help": help, **metadata})


PAPER_MIXERS, WRITTEN = ("gated", "sum", "local", "global"), "written"  # the last one is not in the paper
WRITTEN_LABEL = "GAM, written memory (ours)"
LEAST_PRIOR = 1e-6  # a slot holds at least that: a share of it, and its gradient, stay far from float32's end
MIXERS = (*PAPER_MIXERS, WRITTEN)
NORMS = ("layer", "rms")
PRECISIONS = ("float32", "tf32", "float16", "bfloat16")


@dataclass(frozen=True)
class Checked:
    """Base of the configurations: checks of the values, and a way to JSON and back.

    >>> from dataclasses import dataclass
    >>> @dataclass(frozen=True)
    ... class Run(mg.config.Checked):
    ...     rows: int = 4
    ...     def __post_init__(self):
    ...         self.require_counts("rows")
    ...
    >>> Run(rows=0)
    Traceback (most recent call last):
        ...
    minigam.config.InputError: rows is 0, wanted a whole number, at least 1
    """

    def require(self, ok: bool, name: str, wanted: str) -> None:
        if not ok:
            raise InputError(f"{name} is {shortened(repr(getattr(self, name)))}, wanted {wanted}")

    def require_counts(self, *names: str, least: int = 1) -> None:
        """Require that each named field is an int, at least `least` and at most LARGEST."""
        for name in names:
            value = getattr(self, name)
            self.require(type(value) is int and value >= least, name, f"a whole number, at least {least}")
            self.require(value <= LARGEST, name, f"a whole number, at most {LARGEST}")

    def to_dict(self) -> dict:
        """Return the values by name, infinity as the text "inf", which JSON lacks.

        A field that older files lack is left out at its default, so that what older runs stored stays equal.
        """
        values = {name: "inf" if value == math.inf else value for name, value in asdict(self).items()}
        late = self._late()
        return {name: v for name, v in values.items() if name not in late or v != late[name]}

    @classmethod
    def _late(cls) -> dict:
        """Return the defaults of the fields that older files lack."""
        return {f.name: f.default for f in fields(cls) if f.metadata.get("late")}

    @classmethod
    def of(cls, values: dict) -> Self:
        """Build from the values that this class has fields for; its other fields keep their defaults."""
        return cls(**{f.name: values[f.name] for f in fields(cls) if f.name in values})

    @classmethod
    def from_dict(cls, values: dict) -> Self:
        """Build from what `to_dict` returned. Raises InputError for unknown or missing names."""
        values, names = cls._late() | values, {f.name for f in fields(cls)}
        if wrong := set(values) ^ names:
            raise InputError(f"{cls.__name__}: unknown or missing fields {sorted(wrong)}")
        values = {name: math.inf if value == "inf" else value for name, value in values.items()}
        for f in fields(cls):
            types = {float: (float, int), type(None): (str, type(None))}.get(
                type(f.default), (type(f.default),)
            )
            if type(values[f.name]) not in types:
                given = shortened(repr(values[f.name]))
                raise InputError(f"{f.name} is {given}, wanted {types[0].__name__}")
        return cls(**values)


@dataclass(frozen=True, kw_only=True)
class ModelConfig(Checked):
    """The settings that all models share; the defaults are the published configuration.

    >>> mg.config.ModelConfig(d_model=64).d_model
    64
    """

    vocab_size: int = setting(10_000, "V, tokens in the vocabulary", derived=True)
    block_size: int = setting(256, "T, tokens in a training row; also the number of learned positions")
    d_model: int = setting(512, "C, channels per token")
    n_layers: int = setting(6, "L, number of blocks")
    dropout: float = setting(0.1, "probability of zeroing a channel, in training only")
    position_std: float = setting(1.0, "initial standard deviation of the position embeddings")

    def __post_init__(self):
        # Beyond the upper bound, float32 cannot hold the sum of a position and a token.
        self.require(0.0 <= self.position_std <= 1e6, "position_std", "a number from 0 to 1e6")
        self.require_counts("vocab_size", "block_size", "d_model", "n_layers")
        self.require(0.0 <= self.dropout < 1.0, "dropout", "0 <= dropout < 1")

    @property
    def label(self) -> str:
        """The name of the model, for people."""
        return type(self).__name__.removesuffix("Config")

    @property
    def norm(self) -> str:
        """The norm of the blocks and before the head, one of NORMS; a setting of Mamba alone."""
        return "layer"

    @property
    def positions(self) -> bool:
        """Whether the model has position embeddings; a setting of Mamba alone."""
        return True


@dataclass(frozen=True, kw_only=True)
class GAMConfig(ModelConfig):
    """Gated Associative Memory. The receptive field of a block is K tokens, of the model 1 + L (K - 1).

    Mixer "written" is minigam's extension, not in the paper: the text writes the memory, and the receptive
    field is all earlier tokens.

    >>> mg.GAMConfig(kernel_size=5).kernel_size, mg.GAMConfig().to_dict()["mixer"]
    (5, 'gated')
    >>> mg.GAMConfig(kernel_size=0)
    Traceback (most recent call last):
        ...
    minigam.config.InputError: kernel_size is 0, wanted a whole number, at least 1
    """

    n_slots: int = setting(512, "S, memory slots per block")
    kernel_size: int = setting(3, "K, width of the convolution; the receptive field is 1 + L (K - 1) tokens")
    mixer: str = setting(
        "gated", "how a block combines local and global context; written, ours, is not in the paper",
        choices=MIXERS,
    )  # fmt: skip
    prior: float = setting(
        0.0, "lambda of mixer written: how many written tokens a learned slot weighs as much as; 0 is 1/S",
        late=True,
    )  # fmt: skip

    def __post_init__(self):
        super().__post_init__()
        self.require_counts("n_slots", "kernel_size")
        plain = type(self.prior) in (int, float)  # JSON has no other
        self.require(
            plain and (self.prior == 0.0 or LEAST_PRIOR <= self.prior <= 1e6), "prior", "0, or 1e-6 to 1e6"
        )
        self.require(self.mixer in MIXERS, "mixer", f"one of {', '.join(MIXERS)}")
        unused = f"0: mixer {self.mixer} has no written memory"
        self.require(self.prior == 0.0 or self.mixer == WRITTEN, "prior", unused)

    @property
    def label(self) -> str:
        return WRITTEN_LABEL if self.mixer == WRITTEN else super().label


@dataclass(frozen=True, kw_only=True)
class TransformerConfig(ModelConfig):
    """The baseline with causal self-attention; a block reads all earlier tokens.

    >>> mg.TransformerConfig().n_heads
    8
    """

    n_heads: int = setting(8, "H, attention heads; must divide d_model")

    def __post_init__(self):
        super().__post_init__()
        self.require_counts("n_heads")
        self.require(self.d_model % self.n_heads == 0, "n_heads", f"a divisor of d_model {self.d_model}")


@dataclass(frozen=True, kw_only=True)
class MambaConfig(ModelConfig):
    """The baseline with a selective state space; a block reads all earlier tokens through its states.

    The published Mamba models have norm="rms", positions=False and expand=2. GAM's authors compare with
    LayerNorm, positions, expand=3 and residual=False; the default keeps the residual.

    >>> mg.MambaConfig(residual=False).residual
    False
    """

    d_state: int = setting(16, "N, number of states per expanded channel")
    d_conv: int = setting(4, "width of the convolution, in tokens")
    expand: int = setting(3, "ratio of expanded channels E to d_model")
    residual: bool = setting(True, "x + block(norm(x)); if off, block(x) alone, as GAM's authors did")
    norm: str = setting("layer", "LayerNorm, or the published Mamba's RMSNorm", choices=NORMS, late=True)
    positions: bool = setting(True, "learned position embeddings; the published Mamba has none", late=True)

    def __post_init__(self):
        super().__post_init__()
        self.require_counts("d_state", "d_conv", "expand")
        for name in ("residual", "positions"):
            self.require(isinstance(getattr(self, name), bool), name, "True or False")
        self.require(self.norm in NORMS, "norm", f"one of {', '.join(NORMS)}")


POCKETSTORIES, MQAR = "pocketstories", "mqar"  # corpora that need no file


@dataclass(frozen=True, kw_only=True)
class DataConfig(Checked):
    """What to train on: PocketStories, a prepared dataset, or any text file.

    >>> mg.config.DataConfig().dataset
    'pocketstories'
    """

    dataset: str = setting(
        POCKETSTORIES, "corpus: pocketstories, or a folder from `minigam data prepare`", metavar="NAME"
    )
    data_seed: int = setting(0, "seed of the stories")
    stories: int = setting(20_000, "number of PocketStories to train on")
    valid_stories: int = setting(1_000, "number of PocketStories to validate on")
    mqar_rows: int = setting(50_000, "rows of associative recall to train on", derived=True)
    mqar_pairs: int = setting(8, "maximum number of key-value pairs in a row", derived=True)
    mqar_keys: int = setting(16, "number of different keys, and of different values", derived=True)
    text: str | None = setting(None, "UTF-8 text file to train on, instead of a dataset")
    valid: str | None = setting(None, "text file to validate on (default: the last tenth of --text)")
    tokenizer: str = setting("char", "tokenizer for --text", choices=("char", "bpe"))
    bpe_size: int = setting(10_000, "maximum vocabulary size of a bpe tokenizer")

    def __post_init__(self):
        self.require_counts("stories", "valid_stories", "bpe_size", "mqar_rows", "mqar_pairs", "mqar_keys")
        self.require_counts("data_seed", least=0)
        self.require(bool(self.dataset), "dataset", f"{POCKETSTORIES} or a prepared folder")
        self.require(self.text is None or self.dataset == POCKETSTORIES, "dataset", "none: --text is given")
        self.require(self.tokenizer in ("char", "bpe"), "tokenizer", "char or bpe")
        self.require(self.valid is None or self.text is not None, "valid", "a --text to train on as well")


@dataclass(frozen=True, kw_only=True)
class TrainConfig(Checked):
    """How to train; the defaults are the paper's, except for the length of the run.

    >>> mg.TrainConfig(steps=300).lr
    0.0003
    """

    batch_size: int = setting(32, "rows (of block_size tokens) per step")
    micro_batch: int = setting(
        0, "rows computed at a time; saves memory, same result; 0 chooses a number for the device"
    )
    steps: int = setting(1000, "number of optimizer steps")
    lr: float = setting(3e-4, "peak learning rate")
    warmup_steps: int = setting(100, "steps of linear warm-up, followed by a cosine decay to 0")
    beta1: float = setting(0.9, "AdamW's decay rate for the mean of the gradients")
    beta2: float = setting(0.95, "AdamW's decay rate for the mean of the squared gradients")
    weight_decay: float = setting(0.1, "AdamW's decoupled weight decay, applied to every parameter")
    max_norm: float = setting(1.0, "clip the gradient to this norm")
    eval_every: int = setting(100, "steps between validations")
    eval_rows: int = setting(200, "rows per validation; the last validation uses all rows")
    checkpoint_every: int = setting(100, "steps between checkpoints")
    seed: int = setting(0, "seed of the initial values, the data order, dropout and samples")
    precision: str = setting(
        "float32", "format to which a GPU rounds the inputs of matrix products", choices=PRECISIONS
    )
    rank_tree: bool = setting(
        False, "add gradients in the order of 8 ranks, for the same bits as 1, 2, 4 or 8 of them; always so "
        "under mpiexec. It takes memory for up to 3 more gradients, and a small model's step takes longer",
        late=True,
    )  # fmt: skip
    split_sequence: bool = setting(
        False, "ranks share the tokens of a row, not the rows of a batch; for models with a finite receptive "
        "field", late=True,
    )  # fmt: skip

    @property
    def tree(self) -> bool:
        """Whether gradients are added in the order of a binary tree, as several ranks need it on the CPU."""
        return self.rank_tree or self.split_sequence

    def __post_init__(self):
        self.require_counts("batch_size", "steps")
        self.require_counts("micro_batch", "warmup_steps", "seed", least=0)
        self.require_counts("eval_every", "eval_rows", "checkpoint_every")
        self.require(0.0 < self.lr < math.inf, "lr", "a number above 0")
        for name in ("beta1", "beta2"):
            self.require(0.0 <= getattr(self, name) < 1.0, name, f"0 <= {name} < 1")
        self.require(0.0 <= self.weight_decay < math.inf, "weight_decay", "a number, at least 0")
        self.require(self.max_norm > 0.0, "max_norm", "a number above 0")
        self.require(self.precision in PRECISIONS, "precision", f"one of {', '.join(PRECISIONS)}")


PRESETS: dict[str, dict] = {  # the defaults of `minigam train`
    "small": {
        "block_size": 128, "d_model": 128, "n_layers": 4, "n_slots": 64, "kernel_size": 4, "dropout": 0.0,
        "position_std": 0.02,
        "batch_size": 16, "steps": 300, "lr": 3e-3, "warmup_steps": 50, "eval_every": 50,
    },
    "published": {},
}  # fmt: skip
