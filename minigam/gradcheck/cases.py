"""What to check: one line per case, shared by the tests and by `minigam gradcheck`.

Every number is random, even the parameters: with its initial values (weight 1, bias 0) a layer can
hide a wrong gradient. The numbers of a case depend on its name and the seed, so that adding one
changes no other.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from minigam.config import MIXERS, GAMConfig, MambaConfig, ModelConfig, TransformerConfig
from minigam.engine import ops, sequence
from minigam.engine.compiled.written_memory import CHUNK
from minigam.engine.dispatch import Op
from minigam.engine.tensor import Tensor

from minigam.gradcheck.arguments import (  # isort: skip
    apart, between, draw, has_gradient, huge, ids, place, scaled, signs, slots_apart, some_ignored, strided,
    transposed,
)  # fmt: skip
from minigam.models.gam import GAM, GAMBlock
from minigam.models.lm import LanguageModel
from minigam.models.mamba import Mamba, MambaBlock, SelectiveSSM, StepSize

from minigam.models.nn import (  # isort: skip
    CausalConv, Dropout, Embedding, FeedForward, LayerNorm, Linear, MaskCounter, Module, RMSNorm,
)  # fmt: skip
from minigam.models.transformer import Attention, Transformer, TransformerBlock

# --------------------------------------------------------------------------------- the cases


@dataclass(frozen=True)
class Problem:
    """The arguments of `gradcheck`, and the shapes to print next to its result."""

    f: Callable[..., Tensor]
    leaves: list[Tensor]
    shapes: str


@dataclass(frozen=True, kw_only=True)
class OpCase:
    """One operation with one set of arguments.

    flat : arguments whose gradient is always zero, so that a wrong factor cannot show there
    step : step of the finite difference
    """

    op: Op
    arguments: tuple
    settings: dict
    label: str
    flat: tuple[str, ...]
    step: float

    kind: ClassVar = "op"
    limit: ClassVar = 1e-7  # worst relative error allowed
    directions: ClassVar = None  # check every entry

    @property
    def name(self) -> str:
        return self.op.name

    def __str__(self) -> str:
        return f"{self.name} {self.label}".strip()

    def inputs(self, seed: int = 0, dtype: str = "float64") -> list:
        """Draw the arguments on the host: arrays (integers stay integers), numbers, None."""
        rng = np.random.default_rng([seed, *str(self).encode()])
        drawn = [draw(a, rng) for a in self.arguments]
        return [a.astype(dtype, copy=False) if has_gradient(a) else a for a in drawn]

    def tensors(self, seed: int = 0, dtype: str = "float64", library: str = "numpy") -> list:
        """The same in `library`; arrays that can have a gradient become Tensors that require one."""
        return [place(a, library) for a in self.inputs(seed, dtype)]

    def named_leaves(self) -> list[str]:
        """Names of the arguments that have a gradient."""
        return [n for n, a in zip(self.op.arguments, self.inputs(), strict=False) if has_gradient(a)]

    def problem(self, seed: int = 0, library: str = "numpy") -> Problem:
        tensors = self.tensors(seed, library=library)
        leaves = [t for t in tensors if isinstance(t, Tensor)]
        shapes = " ".join(str(getattr(t, "shape", t)) for t in tensors)
        # The checker changes the leaves in place, so f need not read its arguments.
        return Problem(lambda *leaves: self.op(*tensors, **self.settings), leaves, shapes)


def case(
    op: Op, *arguments: Any, label: str = "", flat: tuple[str, ...] = (), step: float = 1e-5, **settings: Any
) -> OpCase:
    """One line of CASES; all other keywords are settings of the operation."""
    return OpCase(op=op, arguments=arguments, settings=settings, label=label, flat=flat, step=step)


@dataclass(frozen=True, kw_only=True)
class ModuleCase:
    """A layer or a model with all its parameters.

    make : builds it from a random generator      call : the method or function to check
    """

    kind: str
    make: Callable[[np.random.Generator], Module]
    call: Callable[..., Tensor]
    arguments: tuple
    name: str
    label: str
    directions: int | None

    limit: ClassVar = 1e-6
    step: ClassVar = 1e-5

    def __str__(self) -> str:
        return f"{self.name} {self.label}".strip()

    def problem(self, seed: int = 0, library: str = "numpy") -> Problem:
        rng = np.random.default_rng([seed, *str(self).encode()])
        module = self.make(rng)
        for p in module.parameters():
            p.data = rng.normal(0.0, 0.5, p.shape)
        module.to(library)
        inputs = [place(draw(a, rng), library) for a in self.arguments]
        leaves = [*module.parameters(), *(t for t in inputs if isinstance(t, Tensor))]

        def f(*leaves):
            rewind_dropout(module)
            return self.call(module, *inputs)

        shapes = " ".join(str(a.shape) for a in inputs)
        return Problem(f, leaves, f"{shapes}, {module.num_parameters()} parameters")


def rewind_dropout(module: Module) -> None:
    """Make the next call draw the same masks again: finite differences need a deterministic function."""
    if isinstance(module, Dropout):
        module.masks.drawn = 0
    for _, child in module.children():
        rewind_dropout(child)


def layer(cls: type[Module], make: Callable[..., Module], *arguments: Any, label: str = "") -> ModuleCase:
    """One line of LAYERS: every entry of every parameter and input is checked."""
    return ModuleCase(
        kind="layer", make=make, call=cls.__call__, arguments=arguments,
        name=cls.__name__, label=label, directions=None,
    )  # fmt: skip


def model(
    cls: type[LanguageModel], config: ModelConfig, *, label: str, batch: int = 2, tokens: int = 5,
    call: Callable[..., Tensor] | None = None,
) -> ModuleCase:  # fmt: skip
    """One line of MODELS: checks all losses but an ignored one, or `call`, along random directions."""
    V = config.vocab_size
    return ModuleCase(
        kind="model", make=lambda rng: cls(config, dtype="float64"), call=call or cls.token_losses,
        arguments=(ids(batch, tokens, below=V), some_ignored(batch, tokens, below=V)),
        name=cls.__name__, label=label, directions=5,
    )  # fmt: skip


PAIRS = {  # the ways in which two arguments broadcast
    "": ((2, 3), (2, 3)),
    "broadcast": ((2, 5, 4), (4,)),
    "broadcast-both": ((3, 1), (1, 4)),
    "no-axes": ((), (2, 3)),
    "number-left": (1.5, (2, 3)),
    "number-right": ((2, 3), 1.5),
    "not-contiguous": (transposed(3, 2), strided(3, 2)),
}

CASES = [
    *(case(op, *pair, label=label) for op in (ops.add, ops.sub, ops.mul) for label, pair in PAIRS.items()),
    case(ops.div, (2, 3), between(0.5, 2.0, 2, 3)),
    case(ops.div, (2, 5, 4), between(0.5, 2.0, 4), label="broadcast"),
    case(ops.div, (3, 1), between(-2.0, -0.5, 1, 4), label="broadcast-both"),
    case(ops.div, 1.5, between(0.5, 2.0, 2, 3), label="number-left"),
    case(ops.div, (2, 3), 1.5, label="number-right"),
    case(ops.neg, (2, 3)),
    case(ops.power, (2, 3), exponent=3),
    case(ops.power, scaled(0.0, 2, 3), exponent=0, label="zero to the zero", flat=("x",)),
    case(ops.power, between(0.5, 2.0, 2, 3), exponent=-0.5, label="root"),
    case(ops.matmul, (2, 3), (3, 4)),
    case(ops.matmul, (2, 3, 4), (2, 4, 5), label="batched"),
    case(ops.matmul, (2, 1, 3, 4), (5, 4, 2), label="broadcast"),
    case(ops.matmul, transposed(3, 4), transposed(4, 2), label="not-contiguous"),
    case(ops.matmul, (1, 1), (1, 1), label="one-entry"),
    case(ops.exp, (2, 3)),
    case(ops.log, between(0.5, 2.0, 2, 3)),
    case(ops.tanh, (2, 3)),
    case(ops.sigmoid, (2, 3)),
    case(ops.sigmoid, signs(1e4, 2, 3), label="saturated", flat=("x",)),
    case(ops.gelu, (2, 3)),
    case(ops.gelu, strided(2, 3), label="not-contiguous"),
    case(ops.gelu, (2, 3, 5), (5,), label="bias"),
    case(ops.gelu, transposed(4, 5), strided(5), label="bias, not-contiguous"),
    case(ops.gelu, signs(1e4, 3, 4), label="saturated", step=2.0**-7),
    case(ops.silu, (2, 3)),
    case(ops.silu, signs(1e4, 3, 4), label="saturated", step=2.0**-7),
    case(ops.softplus, (2, 3)),
    case(ops.softplus, signs(1e4, 3, 4), label="saturated", step=2.0**-7),
    case(ops.sum, (2, 3)),
    case(ops.sum, (), label="no-axes"),
    case(ops.sum, (2, 3, 4), axis=1, label="axis"),
    case(ops.sum, (2, 3, 4), axis=-1, keepdims=True, label="axis-kept"),
    case(ops.sum, transposed(2, 3, 4), axis=(0, -1), label="not-contiguous"),
    case(ops.reshape, (2, 6), shape=(3, 4)),
    case(ops.reshape, transposed(2, 6), shape=(-1,), label="not-contiguous"),
    case(ops.transpose, (2, 3), axes=(1, 0)),
    case(ops.transpose, strided(2, 3, 4), axes=(-1, 0, 1), label="not-contiguous"),
    case(ops.getitem, (3, 4), index=1),
    case(ops.getitem, (3, 4), index=(1, 2), label="one-entry"),
    case(ops.getitem, (5, 4), index=slice(1, 4), label="slice"),
    case(ops.getitem, (3, 4), index=(..., None, slice(None, None, 2)), label="new-axis"),
    case(ops.getitem, (3, 4), index=slice(None, None, -1), label="reversed"),
    case(ops.getitem, (3, 4), index=[0, 2, 0], label="repeated-rows"),
    case(ops.getitem, transposed(3, 4), index=([0, 1, 0], [2, 3, 2]), label="repeated-entries"),
    case(ops.softmax, (3, 5)),
    case(ops.softmax, (5,), label="no-batch"),
    case(ops.softmax, (3, 1), label="one-class", flat=("x",)),
    case(ops.softmax, transposed(2, 3, 5), label="not-contiguous"),
    case(ops.softmax, huge(3, 5), label="near-1e4", step=2.0**-17),
    case(ops.softmax, apart(3, 5), label="1e4-apart", flat=("x",)),
    case(ops.linear, (2, 5, 4), (6, 4), (6,)),
    case(ops.linear, (2, 5, 4), (6, 4), label="no-bias"),
    case(ops.linear, (2, 5, 4), (6, 4), None, label="bias-none"),
    case(ops.linear, (4,), (6, 4), (6,), label="no-batch"),
    case(ops.linear, (1, 1, 1), (1, 1), (1,), label="one-entry"),
    case(ops.linear, transposed(2, 5, 4), transposed(6, 4), strided(6), label="not-contiguous"),
    case(ops.layer_norm, (2, 3, 5), (5,), (5,)),
    case(ops.layer_norm, (1, 1, 4), (4,), (4,), label="one-token"),
    case(ops.layer_norm, (2, 3, 1), (1,), (1,), label="one-channel", flat=("x", "weight")),
    case(ops.layer_norm, scaled(1e-3, 2, 3, 5), (5,), (5,), label="small-variance", step=1e-7),
    case(ops.layer_norm, (2, 3, 5), (5,), (5,), eps=0.5, label="large-eps"),
    case(ops.layer_norm, huge(2, 3, 4), (4,), (4,), label="near-1e4", step=2.0**-17),
    case(ops.layer_norm, transposed(2, 3, 5), strided(5), strided(5), label="not-contiguous"),
    case(ops.rms_norm, (2, 3, 5), (5,)),
    case(ops.rms_norm, (1, 1, 4), (4,), label="one-token"),
    case(ops.rms_norm, (2, 3, 1), (1,), label="one-channel, large-eps", eps=0.5),
    case(ops.rms_norm, scaled(1e-3, 2, 3, 5), (5,), label="small", step=1e-7),
    case(ops.rms_norm, huge(2, 3, 4), (4,), label="near-1e4", step=2.0**-17),
    case(ops.rms_norm, transposed(2, 3, 5), strided(5), label="not-contiguous"),
    case(ops.embedding, (6, 4), ids(2, 9, below=6), label="repeated-ids"),
    case(ops.embedding, (6, 4), ids(2, 3, below=2), label="unused-rows"),
    case(ops.embedding, (1, 4), ids(1, 1, below=1), label="one-row"),
    case(ops.embedding, transposed(6, 4), ids(3, below=6), label="not-contiguous"),
    case(ops.dropout, (4, 5), p=0.3, key=(0, 1)),
    case(ops.dropout, (4, 5), p=0.0, key=(0, 1), label="p-zero"),
    case(ops.dropout, transposed(4, 5), p=0.5, key=(2, 3), label="not-contiguous"),
    case(ops.dropout, (2, 3, 5), (5,), p=0.3, key=(0, 1), first_token=2, label="bias"),
    case(ops.dropout, transposed(4, 5), strided(5), p=0.0, key=(0,), label="bias, p-zero"),
    case(ops.cross_entropy, (2, 5, 4), ids(2, 5, below=4)),
    case(ops.cross_entropy, (2, 5, 4), some_ignored(2, 5, below=4), label="ignored"),
    case(ops.cross_entropy, (1, 4), some_ignored(1, below=4), label="all-ignored", flat=("logits",)),
    case(ops.cross_entropy, (1, 1, 4), ids(1, 1, below=4), label="one-token"),
    case(ops.cross_entropy, (2, 5, 1), ids(2, 5, below=1), label="one-class", flat=("logits",)),
    case(ops.cross_entropy, transposed(2, 5, 4), ids(2, 5, below=4), label="not-contiguous"),
    case(ops.cross_entropy, huge(2, 5, 4), ids(2, 5, below=4), label="near-1e4", step=2.0**-17),
    case(ops.cross_entropy, apart(2, 5, 4), ids(2, 5, below=4), label="1e4-apart", step=2.0**-7),
    case(ops.linear_cross_entropy, (2, 5, 4), (6, 4), ids(2, 5, below=6)),
    case(ops.linear_cross_entropy, (2, 5, 4), (6, 4), some_ignored(2, 5, below=6), label="ignored"),
    case(ops.linear_cross_entropy, (1, 1, 4), (6, 4), ids(1, 1, below=6), label="one-token"),
    case(ops.linear_cross_entropy, (2, 5, 4), (1, 4), ids(2, 5, below=1), label="one-class",
         flat=("x", "weight")),
    case(ops.linear_cross_entropy, transposed(2, 5, 4), transposed(6, 4), ids(2, 5, below=6),
         label="not-contiguous"),
    case(ops.linear_cross_entropy, signs(1e2, 2, 5, 2), signs(1e2, 6, 2), ids(2, 5, below=6),
         label="logits-near-1e4", step=2.0**-17),
    case(sequence.causal_conv1d, (2, 7, 4), (4, 3), (4,)),
    case(sequence.causal_conv1d, (2, 2, 4), (4, 5), (4,), label="shorter-than-kernel"),
    case(sequence.causal_conv1d, (1, 1, 4), (4, 3), (4,), label="one-token"),
    case(sequence.causal_conv1d, (2, 5, 4), (4, 1), (4,), label="kernel-of-one"),
    case(sequence.causal_conv1d, (2, 5, 1), (1, 3), (1,), label="one-channel"),
    case(sequence.causal_conv1d, (2, 5, 4), (4, 3), (4,), (2, 2, 4), label="past"),
    case(sequence.causal_conv1d, (2, 1, 4), (4, 4), (4,), (2, 3, 4), label="past-one-token"),
    case(sequence.causal_conv1d, (2, 5, 4), (4, 1), (4,), (2, 0, 4), label="past-empty", flat=("past",)),
    case(sequence.causal_conv1d, transposed(2, 5, 4), transposed(4, 3), strided(4), label="not-contiguous"),
    case(sequence.associative_memory, (2, 5, 4), (3, 4)),
    case(sequence.associative_memory, (2, 5, 4), (1, 4), label="one-slot", flat=("u",)),
    case(sequence.associative_memory, (1, 1, 4), (3, 4), label="one-token"),
    case(sequence.associative_memory, (2, 5, 1), (3, 1), label="one-channel"),
    case(sequence.associative_memory, transposed(2, 5, 4), transposed(3, 4), label="not-contiguous"),
    case(sequence.associative_memory, signs(1.0, 2, 5, 1), slots_apart(3), label="scores-1e4-apart",
         flat=("u",), step=2.0**-7),
    case(sequence.written_memory, (2, 5, 4), (2, 5, 4), (3, 4)),
    case(sequence.written_memory, (2, 5, 4), (2, 5, 4), (3, 4), between(0.5, 2.0, 2, 3, 5), label="past"),
    case(sequence.written_memory, (2, 1, 4), (2, 1, 4), (3, 4), between(0.5, 2.0, 2, 3, 5),
         label="past-one-token"),
    case(sequence.written_memory, (1, 1, 4), (1, 1, 4), (3, 4), label="one-token"),
    case(sequence.written_memory, (2, 5, 4), (2, 5, 4), (1, 4), label="one-slot", flat=("local_context",)),
    case(sequence.written_memory, (2, 5, 1), (2, 5, 1), (3, 1), label="one-channel"),
    case(sequence.written_memory, (2, 5, 4), (2, 5, 4), (3, 4), label="heavy-prior", prior=10.0),
    case(sequence.written_memory, (1, 2 * CHUNK + 3, 3), (1, 2 * CHUNK + 3, 3), (4, 3), label="chunks"),
    case(sequence.written_memory, transposed(2, 5, 4), strided(2, 5, 4), transposed(3, 4),
         label="not-contiguous"),
    case(sequence.gated_fusion, (2, 5, 4), (2, 5, 4), (2, 5, 8)),
    case(sequence.gated_fusion, (1, 1, 1), (1, 1, 1), (1, 1, 2), label="one-entry"),
    case(sequence.gated_fusion, (2, 5, 4), (2, 5, 4), signs(1e4, 2, 5, 8), label="saturated", flat=("gate",)),
    case(sequence.gated_fusion, strided(2, 5, 4), strided(2, 5, 4), transposed(2, 5, 8),
         label="not-contiguous"),
    case(sequence.gated_fusion, (2, 5, 4), (2, 5, 4), strided(2, 5, 8), strided(8), label="bias"),
    case(sequence.causal_attention, (2, 5, 12), n_heads=2),
    case(sequence.causal_attention, (2, 5, 12), n_heads=1, label="one-head"),
    case(sequence.causal_attention, (2, 5, 12), n_heads=4, label="head-of-one-channel"),
    case(sequence.causal_attention, (1, 3, 3), n_heads=1, label="one-channel"),
    case(sequence.causal_attention, (2, 5, 12), (2, 3, 8), n_heads=2, label="past"),
    case(sequence.causal_attention, (2, 1, 12), (2, 3, 8), n_heads=2, label="past-one-token"),
    case(sequence.causal_attention, (2, 5, 12), n_heads=2, p=0.3, key=(0, 1), label="dropout"),
    *(
        case(sequence.selective_scan, (2, T, 4), between(0.1, 1.0, 2, T, 4), between(-1.0, -0.1, 4, 3),
             (2, T, 3), (2, T, 3), (4,), *past, label=label)
        for T, past, label in ((5, (), ""), (5, ((2, 4, 3),), "past"), (1, ((2, 4, 3),), "past-one-token"))
    ),
    case(sequence.selective_scan, (1, 3, 1), between(0.1, 1.0, 1, 3, 1), between(-1.0, -0.1, 1, 1),
         (1, 3, 1), (1, 3, 1), (1,), label="one-state"),
    case(sequence.selective_scan, strided(2, 3, 4), strided(2, 3, 4), transposed(4, 3),
         strided(2, 3, 3), transposed(2, 3, 3), strided(4), transposed(2, 4, 3), label="not-contiguous"),
    case(sequence.causal_attention, transposed(2, 5, 12), transposed(2, 3, 8), n_heads=2,
         label="not-contiguous"),
]  # fmt: skip

# Not smaller: the norm of very few channels is too curved for finite differences.
SHARED: dict[str, Any] = {"vocab_size": 7, "block_size": 6, "d_model": 8, "n_layers": 2}
SMALL = SHARED | {"n_slots": 3}
MAMBA = SHARED | {"d_state": 3, "expand": 2}
TRANSFORMER = SHARED | {"n_heads": 2}
BLOCK = {"d_model": 5, "n_slots": 2, "kernel_size": 2}


def heads(dropout: float) -> TransformerConfig:
    """Two heads of three channels."""
    return TransformerConfig(d_model=6, n_heads=2, dropout=dropout)


def states(residual: bool) -> MambaConfig:
    """Two states for each of eight expanded channels."""
    return MambaConfig(d_model=4, d_state=2, d_conv=3, expand=2, residual=residual)


LAYERS = [
    layer(Linear, lambda rng: Linear(4, 3, rng), (2, 5, 4)),
    layer(Linear, lambda rng: Linear(4, 3, rng, bias=False), (2, 5, 4), label="no-bias"),
    layer(LayerNorm, lambda rng: LayerNorm(4), (2, 5, 4)),
    layer(RMSNorm, lambda rng: RMSNorm(4), (2, 5, 4)),
    layer(Embedding, lambda rng: Embedding(np.zeros((6, 4))), ids(2, 9, below=6)),
    layer(Dropout, lambda rng: Dropout(0.3, MaskCounter(0)), (2, 5, 4)),
    layer(FeedForward, lambda rng: FeedForward(3, 12, 0.0, MaskCounter(0), rng), (2, 5, 3)),
    layer(FeedForward, lambda rng: FeedForward(3, 12, 0.3, MaskCounter(0), rng), (2, 5, 3), label="dropout"),
    layer(CausalConv, lambda rng: CausalConv(4, 3, rng), (2, 5, 4)),
    *(
        layer(
            GAMBlock,
            lambda rng, m=m: GAMBlock(GAMConfig(**BLOCK, mixer=m, dropout=0.1), MaskCounter(0), rng),
            (2, 4, 5),
            label=m,
        )
        for m in MIXERS
    ),
    layer(StepSize, lambda rng: StepSize(2, 3, rng), (2, 5, 2)),
    layer(SelectiveSSM, lambda rng: SelectiveSSM(states(True), rng), (2, 4, 4)),
    *(
        layer(MambaBlock, lambda rng, r=r: MambaBlock(states(r), MaskCounter(0), rng), (2, 4, 4), label=label)
        for r, label in ((True, "residual"), (False, "bare"))
    ),
    *(
        layer(cls, lambda rng, cls=cls, p=p: cls(heads(p), MaskCounter(0), rng), (2, 4, 6), label=label)
        for cls in (Attention, TransformerBlock)
        for p, label in ((0.0, ""), (0.3, "dropout"))
    ),
]

MODELS = [
    *(model(GAM, GAMConfig(**SMALL, mixer=m, dropout=0.0), label=m) for m in MIXERS),
    *(model(GAM, GAMConfig(**SMALL, mixer=m, dropout=0.2), label=f"{m}, dropout") for m in MIXERS),
    model(GAM, GAMConfig(**SMALL, kernel_size=1), label="kernel of one"),
    model(GAM, GAMConfig(**SMALL, kernel_size=4), label="shorter than kernel, batch 1", batch=1, tokens=2),
    model(GAM, GAMConfig(**SMALL, dropout=0.2), label="the mean loss that trains", call=GAM.loss),
    model(Transformer, TransformerConfig(**TRANSFORMER, dropout=0.0), label=""),
    model(Transformer, TransformerConfig(**TRANSFORMER, dropout=0.2), label="dropout"),
    *(
        model(Mamba, MambaConfig(**MAMBA, dropout=0.2, residual=r), label=label)
        for r, label in ((True, "residual"), (False, "bare"))
    ),
    model(Mamba, MambaConfig(**MAMBA, norm="rms", positions=False), label="as published"),
]
