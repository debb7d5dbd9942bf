"""The beginning of a training run, and its end."""

from dataclasses import replace
from pathlib import Path

from minigam.config import DataConfig, ModelConfig, TrainConfig
from minigam.data.corpus import Corpus
from minigam.models import MODELS
from minigam.models.lm import LanguageModel
from minigam.training.optim import AdamW
from minigam.training.run import Run, RunConfig
from minigam.training.validation import evaluate


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


def finish(run: Run, model: LanguageModel, corpus: Corpus) -> dict:
    """Validate on everything, log it, plot; return what `validation.evaluate` says, and the step."""
    result = {"step": run.config.train.steps, **evaluate(model, corpus)}
    if run.metrics()[-1:] != [result]:  # a finished run resumed says the same again, once
        run.log(result)
    run.plot()
    return result
