"""One training run from its first step to its last, inside a run folder, with a progress bar."""

from dataclasses import replace
from pathlib import Path

from tqdm import tqdm

from minigam.config import DataConfig, ModelConfig, TrainConfig
from minigam.corpus import Corpus
from minigam.lm import LanguageModel
from minigam.optim import AdamW
from minigam.precision import using
from minigam.run import MODELS, Run, RunConfig
from minigam.training import evaluate, fit


def begin(
    path: Path,
    model_type: str,
    model: ModelConfig,
    data: DataConfig,
    train: TrainConfig,
    corpus: Corpus,
    backend: str,
) -> tuple[Run, LanguageModel, AdamW]:
    """Make a model with the vocabulary of `corpus` and a run folder that holds it, at step 0."""
    model = replace(model, vocab_size=len(corpus.tokenizer))
    made = MODELS[model_type](model, seed=train.seed, backend=backend)
    config = RunConfig(model_type, model, data, train, corpus.fingerprint())
    run = Run.create(path, config, corpus.tokenizer)
    optimizer = run.new_optimizer(made)
    run.save(made, optimizer, 0)
    return run, made, optimizer


def train(
    run: Run, model: LanguageModel, optimizer: AdamW, corpus: Corpus, start: int, name: str | None = None
) -> int:
    """Train on from step `start` to the end, or to a Ctrl-C; return the last step done.

    Everything measured goes to metrics.jsonl. Raises NonFinite when the loss becomes it, and InputError
    where the device does not have the run's precision.
    """
    config = run.config.train
    bar = tqdm(total=config.steps, initial=start, unit="step", disable=None, desc=name)

    def on_step(line: dict) -> None:
        run.log(line)
        bar.update()
        bar.set_postfix_str(
            f"loss {line['loss']:.3f}, {line['tokens'] / line['seconds']:,.0f} tokens/s", refresh=False
        )

    def on_validation(line: dict) -> None:
        run.log(line)
        bar.write(f"{f'{name}   ' if name else ''}step {line['step']:>5}   {_summary(line)}")

    def on_checkpoint(step: int) -> None:
        run.save(model, optimizer, step)

    with bar, using(model.xp, config.precision):
        return fit(model, optimizer, corpus, config, start=start,
                   on_step=on_step, on_validation=on_validation, on_checkpoint=on_checkpoint)  # fmt: skip


def _summary(line: dict) -> str:
    text = f"validation loss {line['loss']:.3f}"
    if "kinds" in line:
        text += f" (floor {line['floor']:.3f})   " + "   ".join(
            f"{kind} {k['loss']:.3f} ({k['floor']:.3f})" for kind, k in line["kinds"].items()
        )
    return text


def finish(run: Run, model: LanguageModel, corpus: Corpus) -> dict:
    """Validate on everything, log it, plot; return what `training.evaluate` says, and the step."""
    result = {"step": run.config.train.steps, **evaluate(model, corpus)}
    if run.metrics()[-1:] != [result]:  # a finished run resumed says the same again, once
        run.log(result)
    run.plot()
    return result
