"""Training: one step, one evaluation, and the loop around them that can be interrupted."""

import math
import signal
import sys
import time
from collections.abc import Callable
from contextlib import contextmanager
from functools import lru_cache

import numpy as np
from tqdm import tqdm

from minigam import backend
from minigam.config import TrainConfig
from minigam.corpus import Corpus, inputs_and_targets
from minigam.lm import LanguageModel, as_array, count_targets
from minigam.optim import AdamW, warmup_cosine
from minigam.pocketstories import KINDS
from minigam.tensor import no_grad, observing


class NonFinite(FloatingPointError):
    """A loss or a gradient became nan or infinite. The parameters are those before the step."""


def train_step(
    model: LanguageModel,
    optimizer: AdamW,
    ids,
    targets,
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
        backend.keep_freed_memory()
    drawn, scaling = model.dropout_stream.drawn, optimizer.loss_scale
    optimizer.zero_grad()
    loss = 0.0
    for part_loss, share in _parts(model, ids, targets, micro_batch):
        part_loss.backward(share * (scaling.value if scaling else 1.0), retain_graph=False)
        loss = loss + share * part_loss.data
    norm = optimizer.step(max_norm, loss)
    mean, norm = float(loss), float(norm)  # the one place where the host waits for a device
    finite = math.isfinite(mean) and math.isfinite(norm)
    optimizer.steps -= not finite
    if scaling and math.isfinite(mean) and (finite or scaling.value > 1.0):
        scaling.update(finite)
    elif not finite:
        optimizer.zero_grad()
        model.dropout_stream.drawn = drawn  # the same masks again
        culprit = first_non_finite(model, ids, targets, micro_batch)
        model.dropout_stream.drawn = drawn  # a step not taken draws nothing
        raise NonFinite(f"loss {mean}, gradient norm {norm}; first wrong: {culprit}")
    return mean


WIDEST = 3_500_000  # numbers in the widest array of a part, (rows, T, 4C); about what a cache holds


def _parts(model: LanguageModel, ids, targets, micro_batch: int | None):
    """Yield the loss of each part of the batch that has targets, and its share of them all."""
    ids, targets, stream = as_array(ids), as_array(targets), model.dropout_stream
    total, drawn, T = count_targets(targets), stream.drawn, targets.shape[1]
    if total == 0:
        raise ValueError("train_step: every target is negative, wanted at least one to predict")
    try:
        for rows, begin, start, end in _places(model, *targets.shape, micro_batch):
            part = rows, slice(begin, end)
            wanted = targets[part]
            if begin < start:  # these tokens are read again, and were predicted before
                wanted = np.where(np.arange(begin, end) < start, -1, wanted.astype(np.int64))
            if count := count_targets(wanted):
                stream.drawn, stream.first_token = drawn, rows.start * T + begin
                yield model.loss(ids[part], wanted, begin), count / total
    finally:
        stream.first_token = 0


def _places(model: LanguageModel, B: int, T: int, micro_batch: int | None):
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


def first_non_finite(model: LanguageModel, ids, targets, micro_batch: int | None = None) -> str:
    """Run the step's forward and backward again and say where nan or infinity came first."""
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
            for loss, share in _parts(model, ids, targets, micro_batch):
                loss.backward(share, retain_graph=False)
    except Found as found:
        return str(found)
    finally:
        model.zero_grad()
    return "the sum over micro-batches or the gradient norm, every operation alone being finite"


def evaluate(
    model: LanguageModel,
    corpus: Corpus,
    rows: int | None = None,
    batch: int | None = None,
    progress: bool = False,
) -> dict:
    """Measure the loss on validation rows, and beside it the floor where it is known.

    rows  : how many rows to take, from the first; None for all
    batch : rows computed at a time; None for about 2,048 tokens, whose logits are all there at once
    returns what `summary` does
    """
    n, T = min(rows or len(corpus.valid), len(corpus.valid)), model.config.block_size
    ids, targets = inputs_and_targets(corpus.valid[:n])
    losses = np.empty((n, T))
    parts = tqdm(
        list(_places(model, n, T, batch or max(1, 2048 // T))),
        desc="validating", leave=False, delay=2, disable=None if progress else True,
    )  # fmt: skip
    was_training = model.training
    model.eval()
    try:
        with no_grad():
            for row, begin, start, end in parts:
                part = row, slice(begin, end)
                found = backend.to_numpy(model.token_losses(ids[part], targets[part], begin).data)
                losses[row, start:end] = found[:, start - begin :]
    finally:
        model.train(was_training)
    return summary(corpus, losses)


def summary(corpus: Corpus, losses: np.ndarray) -> dict:
    """Return the mean of a model's losses, and the means by kind of token where kinds are known.

    losses : (n, T) nats, of the first n validation rows
    returns {"loss": mean nats, "tokens": count}, and for PocketStories "floor" and "kinds":
    for each kind its loss, floor and count, and "syntax+choice" for those two together
    """
    n = len(losses)
    counted = inputs_and_targets(corpus.valid[:n])[1] >= 0
    result: dict = {"loss": losses[counted].mean(), "tokens": int(counted.sum())}
    if corpus.kinds is not None:
        floor, kinds = corpus.floor[:n], corpus.kinds[:n]
        result["floor"] = floor[counted].mean()
        chosen = {name: counted & (kinds == i) for i, name in enumerate(KINDS)}
        chosen["syntax+choice"] = chosen["syntax"] | chosen["choice"]
        result["kinds"] = {
            name: {"loss": losses[mask].mean(), "floor": floor[mask].mean(), "tokens": int(mask.sum())}
            for name, mask in chosen.items()
            if mask.any()
        }
    return result


@lru_cache(maxsize=2)
def _shuffled(n: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng(np.random.SeedSequence((seed, epoch))).permutation(n)


def batch_of(step: int, n_rows: int, batch_size: int, seed: int) -> np.ndarray:
    """Return the row numbers of one step (1, 2, ...): epochs follow each other, each in an order
    of its own that (seed, epoch) decides, so a run can go on from any step."""
    place = np.arange((step - 1) * batch_size, step * batch_size)
    return np.array([_shuffled(n_rows, seed, int(p // n_rows))[p % n_rows] for p in place])


@contextmanager
def noticing_interrupt():
    """Give a function that says whether Ctrl-C (or SIGTERM) came: the step at hand is finished
    first. A second Ctrl-C stops at once."""
    came = False

    def notice(signum, frame):
        nonlocal came
        came = True
        print("\nstopping after this step; Ctrl-C again stops at once", file=sys.stderr)
        signal.signal(signum, before[signum])

    try:
        before = {s: signal.signal(s, notice) for s in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not the main thread, where no signal arrives
        before = {}
    try:
        yield lambda: came
    finally:
        for s, handler in before.items():
            signal.signal(s, handler)


def fit(
    model: LanguageModel,
    optimizer: AdamW,
    corpus: Corpus,
    config: TrainConfig,
    *,
    start: int = 0,
    on_step: Callable[[dict], None],
    on_validation: Callable[[dict], None],
    on_checkpoint: Callable[[int], None],
) -> int:
    """Train from step `start` to `config.steps`; return the last step done.

    on_step, on_validation : called with what was measured
    on_checkpoint          : called with the step, each `checkpoint_every` steps, at the end, and
                             when Ctrl-C ends the run early
    Raises NonFinite, with the step, when the loss does.
    """
    model.train()
    step = start
    with noticing_interrupt() as interrupted, np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        while step < config.steps:
            began = time.perf_counter()
            rows = batch_of(step + 1, len(corpus.train), config.batch_size, config.seed)
            ids, targets = inputs_and_targets(corpus.train[rows])
            optimizer.lr = warmup_cosine(step + 1, config.steps, config.warmup_steps, config.lr)
            try:
                loss = train_step(model, optimizer, ids, targets, config.micro_batch or None, config.max_norm)
            except NonFinite as e:
                raise NonFinite(f"step {step + 1}: {e}") from e
            step += 1
            seconds = time.perf_counter() - began
            tokens = count_targets(targets)
            on_step({"step": step, "loss": loss, "lr": optimizer.lr, "seconds": seconds, "tokens": tokens})
            if step % config.eval_every == 0 and step < config.steps:
                on_validation({"step": step, **evaluate(model, corpus, config.eval_rows)})
            stop = interrupted()  # asked once, after the validation, so that what stops is saved
            if step % config.checkpoint_every == 0 or step == config.steps or stop:
                require_finite(model, step)  # a checkpoint is always one to go on from
                on_checkpoint(step)
            if stop:
                break
    return step
