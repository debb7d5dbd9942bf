"""One training step: forward and backward part by part, clip, update."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from minigam.engine import backend
from minigam.engine.memory import keep_freed_memory
from minigam.engine.tensor import Array, Tensor, observing
from minigam.models.lm import LanguageModel, count_targets
from minigam.training.optim import AdamW


class NonFinite(FloatingPointError):
    """A loss or a gradient became nan or infinite. The parameters are those before the step."""


def train_step(
    model: LanguageModel,
    optimizer: AdamW,
    ids: Array,
    targets: Array,
    micro_batch: int | None = None,
    max_norm: float = 1.0,
) -> float:
    """Forward, backward, clip, update; return the mean loss in nats before the update.

    ids, targets : (B, T) integers; a negative target is ignored
    micro_batch  : rows computed at a time; None for as many as a processor's cache likes, on a GPU all.
                   Each part's loss counts by its share of the targets and has its tokens' dropout masks,
                   so the step is that of the whole batch, in less memory. On a processor a GAM's row too long
                   for this is split as well, where a part has one row
    max_norm     : the gradient's norm is clipped to this
    Raises NonFinite, naming the first operation at fault, and updates nothing. A loss scale above 1 is
    halved instead where the gradients alone are at fault, and the step is left out.
    """
    if model.xp is np:
        keep_freed_memory()
    parts, drawn = parts_of(model, ids, targets, micro_batch), model.mask_counter.drawn
    optimizer.zero_grad()
    loss = 0.0
    for part_loss, share in _losses(model, parts):
        part_loss.backward(share * optimizer.scale, retain_graph=False)
        loss = loss + share * part_loss.data
    norm = optimizer.step(max_norm, loss)
    mean, norm = float(loss), float(norm)  # the one place where the host waits for a device
    if not optimizer.accepts(mean, norm):
        optimizer.zero_grad()
        model.mask_counter.drawn = drawn  # the same masks again
        culprit = first_non_finite(model, parts)
        model.mask_counter.drawn = drawn  # a step not taken draws nothing
        raise NonFinite(f"loss {mean}, gradient norm {norm}; first wrong: {culprit}")
    return mean


@dataclass(frozen=True, eq=False)
class Part:
    """Some rows and tokens of a batch, on the device.

    ids, targets : (rows, tokens); a token that is only read again has a negative target
    start        : position of the first token in its row
    first_token  : how many tokens of the batch come before it
    share        : of the targets of the batch
    """

    ids: Array
    targets: Array
    start: int
    first_token: int
    share: float


def parts_of(model: LanguageModel, ids: Array, targets: Array, micro_batch: int | None) -> list[Part]:
    """Check a batch and move it to the device, once; return its parts that have targets."""
    ids = model.checked(ids)
    targets = model.checked_targets(targets, ids)
    total, (B, T) = count_targets(targets), targets.shape
    if total == 0:
        raise ValueError("train_step: every target is negative, wanted at least one to predict")
    here, wanted, found = model.here(ids), model.here(targets), []
    for rows, begin, start, end in places(model, B, T, micro_batch):
        count, part = count_targets(targets[rows, start:end]), (rows, slice(begin, end))
        predicted = wanted[part]
        if begin < start:  # these tokens are read again, and were predicted before
            xp = model.xp
            predicted = xp.where(xp.arange(begin, end) < start, -1, predicted.astype(np.int64))
        if count:
            found.append(Part(here[part], predicted, begin, rows.start * T + begin, count / total))
    return found


def _losses(model: LanguageModel, parts: list[Part]) -> Iterator[tuple[Tensor, float]]:
    """Yield the loss of each part, and its share of the targets; its dropout masks are those of the batch."""
    masks = model.mask_counter
    drawn = masks.drawn
    try:
        for part in parts:
            masks.drawn, masks.first_token = drawn, part.first_token
            yield model.mean_loss(part.ids, part.targets, part.start), part.share
    finally:
        masks.first_token = 0


WIDEST = 3_500_000  # numbers in the widest array of a part, (rows, T, 4C); about what a cache holds


def places(
    model: LanguageModel, B: int, T: int, micro_batch: int | None
) -> Iterator[tuple[slice, int, int, int]]:
    """Yield the parts of a batch (B, T): rows, and the tokens begin .. end-1, of which start .. end-1 are to
    be predicted.

    A row too long for WIDEST is split as well where a token depends on `model.reach` tokens only: to
    read reach - 1 tokens before the first again is then enough.
    """
    tokens = WIDEST // (4 * model.config.d_model) if model.xp is np else B * T  # of a part
    size, reach = micro_batch or max(1, tokens // T), model.reach
    length = T if reach is None or size > 1 else max(tokens, 8 * reach)
    length = math.ceil(T / math.ceil(T / length))  # parts of about one length
    for row in range(0, B, size):
        for start in range(0, T, length):
            begin = max(0, start - (reach or 1) + 1)
            yield slice(row, row + size), begin, start, min(start + length, T)


def require_finite(model: LanguageModel, step: int) -> None:
    """Raise NonFinite, naming the parameter, when a step has left one that is nan or infinite."""
    for name, p in model.named_parameters():
        if not bool(np.isfinite(backend.to_numpy(p.data)).all()):
            raise NonFinite(f"step {step}: parameter {name} is not finite after the update")


def first_non_finite(model: LanguageModel, parts: list[Part]) -> str:
    """Run forward and backward of a step's parts again and say where nan or infinity came first."""
    for name, p in model.named_parameters():
        if not bool(np.isfinite(backend.to_numpy(p.data)).all()):
            return f"parameter {name}, before the step began"

    class Found(Exception):
        pass

    def look(op: str, phase: str, arrays: tuple) -> None:
        for a in arrays:
            if a is not None and not bool(np.isfinite(backend.to_numpy(a)).all()):
                raise Found(f"op {op!r}, {phase}, in a result of shape {tuple(a.shape)}")

    try:
        with observing(look):
            for loss, share in _losses(model, parts):
                loss.backward(share, retain_graph=False)
    except Found as found:
        return str(found)
    finally:
        model.zero_grad()
    return "the sum over micro-batches or the gradient norm, every operation alone being finite"
