"""A training run in its folder: the loop with a progress bar, and the end.

Ctrl-C ends the loop after the current step, which is saved. So do SIGTERM, a closed terminal, and a
reader of our output that quits.
"""

import time
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from minigam.config import TrainConfig
from minigam.data.corpus import Corpus, inputs_and_targets
from minigam.engine.precision import using
from minigam.interrupt import noticed
from minigam.models.lm import LanguageModel, count_targets
from minigam.training.optim import AdamW
from minigam.training.ranks.agreement import require_same_weights
from minigam.training.ranks.world import ALONE, LEAVES, World
from minigam.training.run import Run
from minigam.training.schedule import batch_of, warmup_cosine
from minigam.training.step import NonFinite, begin_step, require_finite
from minigam.training.validation import evaluate


def train(
    run: Run,
    model: LanguageModel,
    optimizer: AdamW,
    corpus: Corpus,
    start: int,
    name: str | None = None,
    world: World = ALONE,
) -> int:
    """Train from step `start` to the end, or until interrupted; return the last step done.

    All measurements go to metrics.jsonl. A checkpoint is written every `checkpoint_every` steps, at the
    end, and when an interrupt ends the run early.
    name  : label of the run in the progress bar
    world : the ranks that train it together; rank 0 alone writes
    Raises NonFinite, with the step, when a loss or gradient is nan or infinite, and PrecisionUnavailable
    when the device does not support the run's precision,
    Diverged when the ranks do not have the same weights before a checkpoint.
    """
    run.unfinish()
    c, step, pending = run.config.train, start, deque[Pending]()
    late = model.xp is not np and optimizer.loss_scale is None
    bar = tqdm(total=c.steps, initial=start, unit="step", disable=True if world.rank else None, desc=name)
    model.train()

    def end_first(after: float) -> float:
        """End the first step that has started and log it; return the time. `after`: when the last ended."""
        first = pending.popleft()
        try:
            loss = first.end()
        except NonFinite as e:
            raise NonFinite(f"step {first.step}: {e}") from e
        now = time.perf_counter()
        seconds = world.step_seconds = now - max(first.started, after)
        line = {"step": first.step, "loss": loss, "lr": first.lr, "seconds": seconds, "tokens": first.tokens}
        run.log(line)
        bar.update()
        bar.set_postfix_str(f"loss {loss:.3f}, {first.tokens / seconds:,.0f} tokens/s", refresh=False)
        return now

    with (
        bar,
        using(model.xp, c.precision),
        noticed() as interrupted,
        np.errstate(over="ignore", invalid="ignore", divide="ignore"),
    ):
        ended, stop = 0.0, False
        while step < c.steps and not stop:
            started = time.perf_counter()
            rows = batch_of(step + 1, len(corpus.train), c.batch_size, c.seed)
            ids, targets = inputs_and_targets(corpus.train[rows])
            optimizer.lr = warmup_cosine(step + 1, c.steps, c.warmup_steps, c.lr)
            step += 1
            end = begin_step(
                model, optimizer, ids, targets, c.micro_batch or None, c.max_norm,
                world, leaves_of(c, model, world), c.split_sequence,
            )  # fmt: skip
            pending.append(Pending(step, optimizer.lr, count_targets(targets), started, end))
            due = step % c.eval_every == 0 or step % c.checkpoint_every == 0 or step == c.steps
            while len(pending) > (late and not due):
                ended = end_first(ended)
            heard = True
            if step % c.eval_every == 0 and step < c.steps:
                line = {"step": step, **evaluate(model, corpus, c.eval_rows, world=world)}
                run.log(line)
                heard = _written(bar, f"{f'{name}   ' if name else ''}step {step:>5}   {_summary(line)}")
            stop = world.any(interrupted() or not heard)  # a run that stops is saved
            while stop and pending:
                ended = end_first(ended)
            if step % c.checkpoint_every == 0 or step == c.steps or stop:
                require_same_weights(world, optimizer, step)  # first, so that all ranks find the same next
                require_finite(model, step)  # so that every checkpoint can be resumed
                _save(run, model, optimizer, step, world)
    return step


def _save(run: Run, model: LanguageModel, optimizer: AdamW, step: int, world: World) -> None:
    """Save a checkpoint. The other ranks wait for rank 0, and will wait ten times as long the next time."""
    started = time.perf_counter()
    run.save(model, optimizer, step)
    if world.size > 1:
        seconds = world.exchange(repr(time.perf_counter() - started), "a checkpoint")
        world.patience = 10.0 * float(seconds[0])


class Pending(NamedTuple):
    """A step that has started. On a GPU it ends when the next has started, so that both work at once."""

    step: int
    lr: float
    tokens: int
    started: float
    end: Callable[[], float]


def _written(bar: tqdm, text: str) -> bool:
    """Print a line above the bar; return False if the reader of our output has quit, as `head` does."""
    try:
        bar.write(text)
    except BrokenPipeError:
        return False
    except OSError:  # the terminal is gone, but whoever detached the process from it wants it to continue
        pass
    return True


def _summary(line: dict) -> str:
    text = f"validation loss {line['loss']:.3f}"
    if "kinds" in line:
        text += f" (floor {line['floor']:.3f})   " + "   ".join(
            f"{kind} {k['loss']:.3f} ({k['floor']:.3f})" for kind, k in line["kinds"].items()
        )
    return text


def leaves_of(config: TrainConfig, model: LanguageModel, world: World) -> int:
    """Return the number of leaves of a batch, for `begin_step`. Sums on a GPU have no fixed order, so there a
    rank has one."""
    if not config.tree and world.size == 1:
        return 1
    return max(LEAVES, world.size) if model.xp is np else world.size


def finish(run: Run, model: LanguageModel, corpus: Corpus, world: World = ALONE) -> dict:
    """Validate on all rows, log the result, mark the run as complete, end the other ranks, plot; return the
    step and the result."""
    result = {"step": run.config.train.steps, **evaluate(model, corpus, world=world)}
    if world.rank == 0 and run.metrics()[-1:] != [result]:  # resuming a finished run gives the same line
        run.log(result)
    run.complete(result)
    world.close()
    run.plot()
    return result
