"""One training step: forward and backward part by part, clip, update.

A batch has leaves, which several ranks share among them, and a leaf has parts, which are computed one after
the other. Gradients of parts are added as they come, those of leaves in the order of a binary tree.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from operator import add
from types import ModuleType

import numpy as np

from minigam.engine import backend
from minigam.engine.memory import keep_freed_memory
from minigam.engine.tensor import Array, Tensor, no_grad, observing
from minigam.models.lm import LanguageModel, count_targets
from minigam.training.optim import AdamW
from minigam.training.ranks.gradient import GradientSum
from minigam.training.ranks.world import ALONE, World, pairwise, share


class NonFinite(FloatingPointError):
    """A loss, a gradient or a parameter became nan or infinite. `train_step` raises it before its update."""


def train_step(
    model: LanguageModel,
    optimizer: AdamW,
    ids: Array,
    targets: Array,
    micro_batch: int | None = None,
    max_norm: float = 1.0,
) -> float:
    """Forward, backward, clip, update; return the mean loss in nats before the update.   See `begin_step`.

    >>> config = mg.GAMConfig(vocab_size=9, block_size=8, d_model=4, n_layers=2, n_slots=3)
    >>> gam = mg.GAM(config, seed=0)
    >>> optimizer = mg.AdamW(gam.parameters(), lr=1e-2)
    >>> x, y = np.array([[1, 2, 3]]), np.array([[2, 3, 4]])
    >>> losses = [mg.train_step(gam, optimizer, x, y) for _ in range(20)]
    >>> losses[-1] < losses[0]
    True
    """
    return begin_step(model, optimizer, ids, targets, micro_batch, max_norm)()


def begin_step(
    model: LanguageModel,
    optimizer: AdamW,
    ids: Array,
    targets: Array,
    micro_batch: int | None = None,
    max_norm: float = 1.0,
    world: World = ALONE,
    leaves: int = 1,
    split_sequence: bool = False,
) -> Callable[[], float]:
    """Start a step, and return a function that ends it: it waits for the device and returns the mean loss.

    On a GPU the next step may begin before this one ends, so that host and device work at the same time.

    ids, targets : (B, T) integers; a negative target is ignored
    micro_batch  : rows computed at a time. None: as many as fit the CPU cache; on a GPU the whole batch.
                   A part's loss is weighted by its share of the targets, and its dropout masks are those
                   of its place in the batch, so the step is that of the whole batch, in less memory.
                   If a model has a `reach`, a CPU also splits one row that still does not fit the cache
    max_norm     : the norm of the gradient is clipped to this
    world        : the ranks that take part, each with the whole batch, of which it computes its leaves
    leaves       : number of leaves of the batch; the result depends on it in its last bits
    split_sequence : the leaves are tokens of every row; else they are rows
    The end raises NonFinite, naming the first operation at fault. Then neither this step nor one that has
    started since has updated anything. But if only the gradients are at fault and the loss scale is above 1,
    it halves the scale and skips the step instead: with a loss scale, end a step before the next begins.
    """
    if model.xp is np:
        keep_freed_memory()
    optimizer.lay_out()
    own = parts_of(model, ids, targets, micro_batch, world, leaves, split_sequence)
    drawn, taken = model.mask_counter.drawn, optimizer.steps
    optimizer.zero_grad()
    gradient, losses = GradientSum(optimizer, world, leaves), []
    last = max((leaf for leaf, parts in enumerate(own) if parts), default=-1)
    for leaf, parts in enumerate(own[: last + 1]):
        total = None
        for part_loss, part in _losses(model, parts, drawn):
            if leaf == last and part is parts[-1]:
                gradient.watch(part_loss)
            part_loss.backward(part.share * optimizer.scale, retain_graph=False)
            weighted = part_loss.data if part.share == 1.0 else part.share * part_loss.data
            total = weighted if total is None else total + weighted
        losses.append(total)
        if leaf < last:
            gradient.keep(leaf, empty=not parts)
    if last < 0:  # a rank without targets counts the masks all the same
        with no_grad():
            model.features(np.zeros((1, 1), np.int64))
    gradient.finish()
    loss = _of_all_ranks(world, pairwise(losses, add) if losses else model.xp.zeros((), optimizer.flat.dtype))
    numbers = later(model.xp, loss, optimizer.step(max_norm, loss), world=world)
    optimizer.unread += 1

    def end() -> float:
        try:
            mean, norm = numbers()  # the one place where the host waits for a device
        finally:
            optimizer.unread = max(0, optimizer.unread - 1)
        if not optimizer.accepts(mean, norm):
            optimizer.zero_grad()
            optimizer.steps, model.mask_counter.drawn = taken, drawn  # the same masks again
            culprits = world.exchange(first_non_finite(model, [part for parts in own for part in parts]))
            model.mask_counter.drawn = drawn  # a step not taken uses up no masks
            culprit = next(filter(None, culprits), SUM_AT_FAULT)
            raise NonFinite(f"loss {mean}, gradient norm {norm}; first fault: {culprit}")
        return mean

    return end


def _of_all_ranks(world: World, loss: Array) -> Array:
    """Return the sum of a loss over all ranks, an array of one number."""
    if world.size == 1:
        return loss
    total = loss.reshape(1).copy()
    world.start_sum(total)
    world.finish_sums()
    return total[0]


SUM_AT_FAULT = "the sum over micro-batches or the gradient norm; each operation by itself is finite"


def later(xp: ModuleType, *numbers: Array, world: World = ALONE) -> Callable[[], list[float]]:
    """Start copying arrays of one number to the host; return a function that waits for them alone, not for
    what the device has been given since, and returns the numbers."""
    if xp.__name__ != "cupy":
        return lambda: [float(a) for a in numbers]
    import cupyx

    copies = [a.reshape(1).get(out=cupyx.empty_pinned(1, a.dtype), blocking=False) for a in numbers]
    copied = xp.cuda.Event()
    copied.record()

    def wait() -> list[float]:
        world.wait(lambda: copied.done, copied.synchronize)
        return [a.item() for a in copies]

    return wait


@dataclass(frozen=True, eq=False)
class Part:
    """Some rows and tokens of a batch, on the device.

    ids, targets : (rows, tokens); a token that is only read for context has a negative target
    start        : position of the first token in its row
    first_token  : number of tokens in the batch before it
    share        : the fraction of the batch's targets that it has
    """

    ids: Array
    targets: Array
    start: int
    first_token: int
    share: float


def parts_of(
    model: LanguageModel,
    ids: Array,
    targets: Array,
    micro_batch: int | None,
    world: World = ALONE,
    leaves: int = 1,
    split_sequence: bool = False,
) -> list[list[Part]]:
    """Check a batch once and move it to the device once; return for each leaf of this rank those of its parts
    that have targets."""
    ids = model.checked(ids)
    targets = model.checked_targets(targets, ids)
    total, (B, T) = count_targets(targets), targets.shape
    if total == 0:
        raise ValueError("train_step: every target is negative, wanted at least one to predict")
    if split_sequence and model.reach is None:
        raise ValueError(
            f"train_step: {model.config.label} sees all earlier tokens, wanted a finite reach to split rows"
        )
    device_ids, device_targets, own = model.here(ids), model.here(targets), []
    for leaf in range(leaves)[world.share(leaves)]:
        parts: list[Part] = []
        rows, tokens = slice(0, B), slice(0, T)
        if split_sequence:
            tokens = share(T, leaf, leaves)
        else:
            rows = share(B, leaf, leaves)
        for place, begin, start, end in places(model, B, T, micro_batch, rows, tokens):
            count = count_targets(targets[place, start:end])
            wanted = device_targets[place, begin:end]
            if begin < start:  # tokens before `start` are context: an earlier part has their targets
                xp = model.xp
                wanted = xp.where(xp.arange(begin, end) < start, -1, wanted.astype(np.int64))
            if count:
                first = place.start * T + begin
                parts.append(Part(device_ids[place, begin:end], wanted, begin, first, count / total))
        own.append(parts)
    return own


def _losses(model: LanguageModel, parts: list[Part], drawn: int) -> Iterator[tuple[Tensor, Part]]:
    """Yield the loss of each part, and the part, with the dropout masks of the batch.

    drawn : number of masks drawn before the batch
    """
    masks = model.mask_counter
    try:
        for part in parts:
            masks.drawn, masks.first_token = drawn, part.first_token
            yield model.mean_loss(part.ids, part.targets, part.start), part
    finally:
        masks.first_token = 0


WIDEST = 3_700_000  # numbers in the widest array of a part, (rows, T, 4C); about what a cache holds


def places(
    model: LanguageModel,
    B: int,
    T: int,
    micro_batch: int | None,
    rows: slice | None = None,
    tokens: slice | None = None,
) -> Iterator[tuple[slice, int, int, int]]:
    """Yield the parts of a batch (B, T) as (rows, begin, start, end): the part reads the tokens
    begin .. end-1, and start .. end-1 count for its loss.

    rows, tokens : only these; None for all
    A row too long for WIDEST is split as well if the model has a finite receptive field: the part then
    reads the reach - 1 tokens before its first one again, and no more.
    """
    rows, tokens = rows or slice(0, B), tokens or slice(0, T)
    B, T, whole = rows.stop - rows.start, tokens.stop - tokens.start, tokens == slice(0, T)
    most = WIDEST // (4 * model.config.d_model) if model.xp is np else B * T  # tokens of a part
    # The dropout masks of a part are those of consecutive places in the batch, so several rows are whole.
    size, reach = (micro_batch or max(1, most // max(1, T))) if whole else 1, model.reach
    length = T if reach is None or size > 1 else max(most, 8 * reach)
    length = math.ceil(T / math.ceil(T / length)) if T else 1  # parts of nearly equal length
    n = math.ceil(B / size)
    bounds = [i * size if micro_batch and whole else i * B // n for i in range(n)]  # of nearly equal size
    for first, last in zip(bounds, [*bounds[1:], B]):
        for start in range(tokens.start, tokens.stop, length):
            begin = max(0, start - (reach or 1) + 1)
            yield (
                slice(rows.start + first, rows.start + last), begin, start,
                min(start + length, tokens.stop),
            )  # fmt: skip


def require_finite(model: LanguageModel, step: int) -> None:
    """Raise NonFinite, naming the parameter, if a step has made one nan or infinite."""
    for name, p in model.named_parameters():
        if not bool(np.isfinite(backend.to_numpy(p.data)).all()):
            raise NonFinite(f"step {step}: parameter {name} is not finite after the update")


def first_non_finite(model: LanguageModel, parts: list[Part]) -> str:
    """Repeat forward and backward of a step's parts and return where nan or infinity first appears; an empty
    text if every operation by itself is finite."""
    for name, p in model.named_parameters():
        if not bool(np.isfinite(backend.to_numpy(p.data)).all()):
            return f"parameter {name}, before the step began"

    class Fault(Exception):
        pass

    def look(op: str, phase: str, arrays: tuple) -> None:
        for a in arrays:
            if a is not None and not bool(np.isfinite(backend.to_numpy(a)).all()):
                raise Fault(f"op {op!r}, {phase}, in a result of shape {tuple(a.shape)}")

    try:
        with observing(look):
            for loss, part in _losses(model, parts, model.mask_counter.drawn):
                loss.backward(part.share, retain_graph=False)
    except Fault as fault:
        return str(fault)
    finally:
        model.zero_grad()
    return ""
