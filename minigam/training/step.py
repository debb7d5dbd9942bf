"""One training step: forward and backward part by part, clip, update."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import ModuleType

import numpy as np

from minigam.engine import backend
from minigam.engine.memory import keep_freed_memory
from minigam.engine.tensor import Array, Tensor, observing
from minigam.models.lm import LanguageModel, count_targets
from minigam.training.optim import AdamW


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
    """Forward, backward, clip, update; return the mean loss in nats before the update.   See `begin_step`."""
    return begin_step(model, optimizer, ids, targets, micro_batch, max_norm)()


def begin_step(
    model: LanguageModel,
    optimizer: AdamW,
    ids: Array,
    targets: Array,
    micro_batch: int | None = None,
    max_norm: float = 1.0,
) -> Callable[[], float]:
    """Start a step, and return a function that ends it: it waits for the device and returns the mean loss.

    On a GPU the next step may begin before this one ends, so that host and device work at the same time.

    ids, targets : (B, T) integers; a negative target is ignored
    micro_batch  : rows computed at a time. None: as many as fit the CPU cache; on a GPU the whole batch.
                   A part's loss is weighted by its share of the targets, and its dropout masks are those
                   of its place in the batch, so the step is that of the whole batch, in less memory.
                   If a model has a `reach`, a CPU also splits one row that still does not fit the cache
    max_norm     : the norm of the gradient is clipped to this
    The end raises NonFinite, naming the first operation at fault. Then neither this step nor one that has
    started since has updated anything. But if only the gradients are at fault and the loss scale is above 1,
    it halves the scale and skips the step instead: with a loss scale, end a step before the next begins.
    """
    if model.xp is np:
        keep_freed_memory()
    parts = parts_of(model, ids, targets, micro_batch)
    drawn, taken = model.mask_counter.drawn, optimizer.steps
    optimizer.zero_grad()
    losses = []
    for part_loss, share in _losses(model, parts):
        part_loss.backward(share * optimizer.scale, retain_graph=False)
        losses.append(part_loss.data if share == 1.0 else share * part_loss.data)
    loss = sum(losses[1:], losses[0])
    numbers = later(model.xp, loss, optimizer.step(max_norm, loss))
    optimizer.unread += 1

    def end() -> float:
        try:
            mean, norm = numbers()  # the one place where the host waits for a device
        finally:
            optimizer.unread = max(0, optimizer.unread - 1)
        if not optimizer.accepts(mean, norm):
            optimizer.zero_grad()
            optimizer.steps, model.mask_counter.drawn = taken, drawn  # the same masks again
            culprit = first_non_finite(model, parts)
            model.mask_counter.drawn = drawn  # a step not taken uses up no masks
            raise NonFinite(f"loss {mean}, gradient norm {norm}; first fault: {culprit}")
        return mean

    return end


def later(xp: ModuleType, *numbers: Array) -> Callable[[], list[float]]:
    """Start copying arrays of one number to the host; return a function that waits for them alone, not for
    what the device has been given since, and returns the numbers."""
    if xp.__name__ != "cupy":
        return lambda: [float(a) for a in numbers]
    import cupyx

    copies = [a.reshape(1).get(out=cupyx.empty_pinned(1, a.dtype), blocking=False) for a in numbers]
    copied = xp.cuda.Event()
    copied.record()

    def wait() -> list[float]:
        copied.synchronize()
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


def parts_of(model: LanguageModel, ids: Array, targets: Array, micro_batch: int | None) -> list[Part]:
    """Check a batch once and move it to the device once; return those of its parts that have targets."""
    ids = model.checked(ids)
    targets = model.checked_targets(targets, ids)
    total, (B, T) = count_targets(targets), targets.shape
    if total == 0:
        raise ValueError("train_step: every target is negative, wanted at least one to predict")
    device_ids, device_targets, parts = model.here(ids), model.here(targets), []
    for rows, begin, start, end in places(model, B, T, micro_batch):
        count, place = count_targets(targets[rows, start:end]), (rows, slice(begin, end))
        wanted = device_targets[place]
        if begin < start:  # tokens before `start` are context: an earlier part has their targets
            xp = model.xp
            wanted = xp.where(xp.arange(begin, end) < start, -1, wanted.astype(np.int64))
        if count:
            parts.append(Part(device_ids[place], wanted, begin, rows.start * T + begin, count / total))
    return parts


def _losses(model: LanguageModel, parts: list[Part]) -> Iterator[tuple[Tensor, float]]:
    """Yield the loss of each part and its share of the targets, with the dropout masks of the batch."""
    masks = model.mask_counter
    drawn = masks.drawn
    try:
        for part in parts:
            masks.drawn, masks.first_token = drawn, part.first_token
            yield model.mean_loss(part.ids, part.targets, part.start), part.share
    finally:
        masks.first_token = 0


WIDEST = 3_700_000  # numbers in the widest array of a part, (rows, T, 4C); about what a cache holds


def places(
    model: LanguageModel, B: int, T: int, micro_batch: int | None
) -> Iterator[tuple[slice, int, int, int]]:
    """Yield the parts of a batch (B, T) as (rows, begin, start, end): the part reads the tokens
    begin .. end-1, and start .. end-1 count for its loss.

    A row too long for WIDEST is split as well if the model has a finite receptive field: the part then
    reads the reach - 1 tokens before its first one again, and no more.
    """
    tokens = WIDEST // (4 * model.config.d_model) if model.xp is np else B * T  # of a part
    size, reach = micro_batch or max(1, tokens // T), model.reach
    length = T if reach is None or size > 1 else max(tokens, 8 * reach)
    length = math.ceil(T / math.ceil(T / length))  # parts of nearly equal length
    n = math.ceil(B / size)
    bounds = [i * size if micro_batch else i * B // n for i in range(n)]  # of nearly equal size as well
    for first, end in zip(bounds, [*bounds[1:], B]):
        for start in range(0, T, length):
            begin = max(0, start - (reach or 1) + 1)
            yield slice(first, end), begin, start, min(start + length, T)


def require_finite(model: LanguageModel, step: int) -> None:
    """Raise NonFinite, naming the parameter, if a step has made one nan or infinite."""
    for name, p in model.named_parameters():
        if not bool(np.isfinite(backend.to_numpy(p.data)).all()):
            raise NonFinite(f"step {step}: parameter {name} is not finite after the update")


def first_non_finite(model: LanguageModel, parts: list[Part]) -> str:
    """Repeat forward and backward of a step's parts and return where nan or infinity first appears."""
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
            for loss, share in _losses(model, parts):
                loss.backward(share, retain_graph=False)
    except Fault as fault:
        return str(fault)
    finally:
        model.zero_grad()
    return "the sum over micro-batches or the gradient norm; each operation by itself is finite"
