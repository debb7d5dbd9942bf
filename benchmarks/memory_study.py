"""Compare designs of a memory that the text writes, and the baselines, on five tasks at equal budgets.

hard     associative recall with more pairs: rows of 256 tokens, up to 32 pairs of 32 keys
recall   the recall experiment: rows of 64 tokens, up to 8 pairs of 8 keys
updated  the same, but about half the keys get a new value later, out of reach of the convolutions
longer   trained on rows of 64 tokens at random positions, validated on rows of 512
stories  PocketStories with the settings of `minigam train`

On a task every model has the same number of steps and of rows. Learning rates: 3e-3 on stories; on the other
tasks 2e-3 for the Transformer and 4e-3 for all others, as in the recall experiment. X1-X5, lambda and these
settings were chosen on prototypes with seed 0 (lambda on `recall` alone); seed 10 is a fresh one.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from benchmarks import environment, measure
from benchmarks.memory_designs import DESIGNS, HEADS, WRONG_TURNS, model_of
from minigam import AdamW, GAMConfig, cli
from minigam.config import PRESETS, WRITTEN, DataConfig, InputError
from minigam.data.corpus import IGNORE, Corpus, inputs_and_targets
from minigam.data.mqar import BLANK, from_mqar
from minigam.engine.memory import keep_freed_memory
from minigam.experiments import recall, report
from minigam.files import locked
from minigam.models import MODELS
from minigam.models.lm import LanguageModel
from minigam.training.run import make_corpus
from minigam.training.schedule import batch_of, warmup_cosine
from minigam.training.step import NonFinite
from minigam.training.validation import evaluate

PROG = "benchmarks.memory_study"
RIVALS = {"gam": "GAM", "transformer": "Transformer", "mamba": "Mamba"}
LABELS = RIVALS | {name: label for name, (label, _) in DESIGNS.items()}
FAR = 14  # tokens between two values of a key, at least; two convolutions of 7 tokens reach 13
HARD_ROWS, UPDATED_ROWS = 20_000, 30_000  # rows to train on; no task reads one twice
LONG = 512  # tokens of a validation row of `longer`


@dataclass(frozen=True)
class Task:
    """A corpus, the models for it and the budget.

    rows  : of the corpus, to train on          models : names of those that are trained
    model : settings of all models              gam    : those of a GAM
    """

    corpus: Callable[[int], Corpus]
    rows: int
    model: dict[str, Any]
    gam: dict[str, Any]
    steps: int
    batch: int
    warmup: int
    weight_decay: float
    models: tuple[str, ...]


@cache
def _recall_corpus(seed: int) -> Corpus:
    return from_mqar(64, recall.ROWS, recall.PAIRS, recall.KEYS, seed)


@cache
def _hard_corpus(seed: int) -> Corpus:
    return from_mqar(256, HARD_ROWS, 32, 32, seed, n_valid=500)


@cache
def _stories(seed: int) -> Corpus:
    return make_corpus(DataConfig(data_seed=seed), PRESETS["small"]["block_size"])


@cache
def _updated_corpus(seed: int) -> Corpus:
    """Return rows of `recall`, in which half the keys get a new value later."""
    corpus = _recall_corpus(seed)
    train, valid = (updated(rows, seed) for rows in (corpus.train[:UPDATED_ROWS], corpus.valid))
    return Corpus("mqar, keys updated", corpus.tokenizer, train, valid, corpus.valid_size)


def updated(rows: np.ndarray, seed: int) -> np.ndarray:
    """Return rows (n, 2, T) of MQAR in which about half the keys are written again, and asked for after that.

    A second pair comes at least FAR tokens after the first, in a gap; another gap behind it asks for the key.
    Every query wants the value that its key was given last.
    """
    rows, rng = rows.copy(), np.random.default_rng((seed, 2))
    for tokens, targets in rows:
        values = np.flatnonzero((tokens[1::2] != BLANK) & (targets[::2] == IGNORE))  # the slots of the pairs
        gaps = set(np.flatnonzero((tokens[::2] == BLANK) & (tokens[1::2] == BLANK)).tolist())
        for slot in values[rng.random(len(values)) < 0.5].tolist():
            free = sorted(g for g in gaps if g >= slot + FAR // 2)
            if len(free) < 2:
                continue
            again, asked = sorted(rng.choice(free, 2, replace=False).tolist())
            gaps -= {again, asked}
            key, value = tokens[2 * slot], int(rng.integers(1 + recall.KEYS, 1 + 2 * recall.KEYS))
            tokens[2 * again], tokens[2 * again + 1], tokens[2 * asked] = key, value, key
            targets[2 * asked] = value
            later = (tokens == key) & (targets != IGNORE) & (np.arange(len(tokens)) > 2 * again)
            targets[later] = value
    return rows


SEEDS = (0, 10)
SHARED = {"d_model": 64, "n_layers": 2, "dropout": 0.0, "position_std": 0.1}
SHORT, FEW = SHARED | {"block_size": 64}, {"n_slots": 64, "kernel_size": 4}
STORY = {k: PRESETS["small"][k] for k in ("block_size", "d_model", "n_layers", "dropout", "position_std")}
GOOD = tuple(name for name in DESIGNS if name not in WRONG_TURNS)
TASKS = {
    "hard": Task(
        _hard_corpus, HARD_ROWS, SHARED | {"block_size": 256}, FEW, 800, 16, 100, 0.01, (*RIVALS, *GOOD),
    ),
    "recall": Task(
        _recall_corpus, recall.ROWS, SHORT, recall.PLAIN, 400, 64, 100, 0.01, tuple(DESIGNS),
    ),
    "updated": Task(
        _updated_corpus, UPDATED_ROWS, SHORT, recall.PLAIN, 400, 64, 100, 0.01,
        ("transformer", "written", "sum", "forget", "delta"),
    ),
    "longer": Task(
        _recall_corpus, recall.ROWS, SHARED | {"block_size": LONG}, recall.PLAIN, 400, 64, 100, 0.01,
        ("transformer", "mamba", "written", "sum"),
    ),
    "stories": Task(
        _stories, DataConfig().stories, STORY, FEW, 300, 16, 50, 0.1, GOOD,
    ),
}  # fmt: skip


def make(name: str, task: Task, vocabulary: int, seed: int) -> LanguageModel:
    """Return a model with its initial values."""
    numbers = task.model | {"vocab_size": vocabulary}
    if name in DESIGNS:
        return model_of(name)(GAMConfig(**numbers, **task.gam, mixer=WRITTEN), seed=seed)
    each = {"gam": task.gam, "transformer": {"n_heads": 2}, "mamba": {"expand": 3, "d_state": 16}}
    return MODELS[name](MODELS[name].Config(**numbers, **each[name]), seed=seed)


def train(model: LanguageModel, corpus: Corpus, task: Task, peak: float, seed: int, label: str) -> None:
    """Train for the steps of the task. Rows shorter than the model's positions begin at random ones, and so
    often at the first and the last that these are covered as often as the others.

    Raises NonFinite when a loss or a gradient is not finite: no model may lose a step.
    """
    opt = AdamW(model.parameters(), weight_decay=task.weight_decay)
    rng, T = np.random.default_rng((seed, 3)), corpus.train.shape[-1] - (corpus.train.ndim == 2)
    room = model.config.block_size - T
    model.train()
    for step in tqdm(range(1, task.steps + 1), label, leave=False, delay=2, disable=None):
        ids, targets = inputs_and_targets(corpus.train[batch_of(step, len(corpus.train), task.batch, seed)])
        opt.lr = warmup_cosine(step, task.steps, task.warmup, peak)
        opt.zero_grad()
        start = min(max(0, int(rng.integers(-T, room + T + 1))), room) if room else 0
        loss = model.loss(ids, targets, start=start)
        loss.backward(retain_graph=False)
        norm = opt.step(1.0, loss.data)
        if not np.isfinite(norm + loss.data):
            raise NonFinite(f"{label}, step {step}: loss {loss.item()}, gradient norm {float(norm)}")
    model.eval()


def peak_lr(name: str, task_name: str) -> float:
    """Return the peak learning rate of a model on a task."""
    if task_name == "stories":
        return PRESETS["small"]["lr"]
    return recall.LR["transformer" if name == "transformer" else "gam"]


def measured(name: str, task_name: str, seed: int) -> dict:
    """Train one model on one task; return its number of parameters and what it answers."""
    task = TASKS[task_name]
    corpus = task.corpus(seed)
    model = make(name, task, len(corpus.tokenizer), seed)
    train(model, corpus, task, peak_lr(name, task_name), seed, f"{task_name}, {name}, seed {seed}")
    return {"parameters": model.num_parameters()} | ANSWERS[task_name](model, corpus, seed)


def by_distance(model: LanguageModel, corpus: Corpus, seed: int) -> dict:
    """Return the accuracy over all queries, and the lowest among distances with recall.OFTEN queries."""
    correct = recall.answers(model, corpus)
    often = [
        c["accuracy"] for c in recall.by_distance(correct, corpus).values() if c["queries"] >= recall.OFTEN
    ]
    return {"accuracy": float(correct.mean()), "worst distance": min(often)}


def before_and_after(model: LanguageModel, corpus: Corpus, seed: int) -> dict:
    """Return the accuracy of queries whose key had one value so far, or has got another; and how often the
    latter were answered with the first value."""
    ids, targets = inputs_and_targets(corpus.valid)
    row, query = np.nonzero(targets >= 0)
    position = np.arange(ids.shape[1])
    pair = (ids[row] == ids[row, query][:, None]) & (targets[row] < 0) & (position < query[:, None])
    answer, wanted, first = (
        recall.likeliest(model, corpus),
        targets[row, query],
        ids[row, pair.argmax(axis=1) + 1],
    )
    once, changed = pair.sum(axis=1) == 1, (pair.sum(axis=1) == 2) & (first != wanted)
    return {
        "one value": float((answer == wanted)[once].mean()),
        "new value": float((answer == wanted)[changed].mean()),
        "answered old": float((answer == first)[changed].mean()),
    }


def at_both_lengths(model: LanguageModel, corpus: Corpus, seed: int) -> dict:
    """Return the accuracy on rows as long as in training, and on rows of LONG tokens."""
    long = from_mqar(LONG, 1, recall.PAIRS, recall.KEYS, seed, n_valid=400)
    return {
        "64 tokens": float(recall.answers(model, corpus).mean()),
        f"{LONG} tokens": float(recall.answers(model, long, batch=20).mean()),
    }


def losses(model: LanguageModel, corpus: Corpus, seed: int) -> dict:
    """Return the losses in nats of recall tokens and of all tokens."""
    result = evaluate(model, corpus)
    return {"recall": result["kinds"]["recall"]["loss"], "all": float(result["loss"])}


ANSWERS = {
    "hard": by_distance, "recall": by_distance, "updated": before_and_after, "longer": at_both_lengths,
    "stories": losses,
}  # fmt: skip


def parser() -> cli.Parser:
    p = cli.Parser(prog=f"python -m {PROG}", description=__doc__.splitlines()[0])
    p.add_argument("--tasks", nargs="+", choices=TASKS, default=[*TASKS], help="tasks (default: all)")
    p.add_argument("--models", nargs="+", choices=LABELS, default=[*LABELS],
                   help="models, as far as a task has them (default: all)")  # fmt: skip
    p.add_argument("--seeds", nargs="+", type=int, default=[*SEEDS], help="seeds (default: 0 10)")
    p.add_argument(
        "--stored", action="store_true", help="report what is stored; measure nothing (default: off)"
    )
    p.add_argument("--out", type=Path, default=measure.RESULTS / "memory_study",
                   help="folder for results (default: benchmarks/results/memory_study)")  # fmt: skip
    return p


def main(argv: list[str] | None = None) -> int:
    args = parser().parse_args(argv)
    cli.require_at_least(args, seeds=0)
    cli.require_folder(args.out)
    with locked(args.out):
        study(args.tasks, args.models, args.seeds, args.out, args.stored)
    return 0


def study(tasks: list[str], models: list[str], seeds: list[int], out: Path, stored: bool = False) -> None:
    """Make the measurements that are missing, unless `stored`; write memory_study.json and .md into `out`."""
    keep_freed_memory()
    protocol = {name: described(name, task) for name, task in TASKS.items()}
    cells = report.Cells(out / "cells.json", protocol, "numpy")
    found: dict[str, dict[str, dict[str, dict]]] = {}
    for t in tasks:
        for name in [m for m in models if m in TASKS[t].models]:
            for seed in seeds:
                key = f"{t} {name} seed {seed}"
                if stored and key not in cells.cells:
                    continue
                cell = cells.get(key, partial(measured, name, t, seed))
                found.setdefault(t, {}).setdefault(name, {})[str(seed)] = cell
    if not found:
        where = "stored for" if stored else "in"
        raise InputError(f"none of the models {', '.join(models)} is {where} the tasks {', '.join(tasks)}")
    text = f"memory_study: {environment.line()}\n"
    for t, by_model in found.items():
        text += f"\n{_markdown(t, by_model)}"
    every = [
        cell for by_model in found.values() for by_seed in by_model.values() for cell in by_seed.values()
    ]
    report.write(out, "memory_study", {"protocol": protocol, "tasks": found}, every, text, None)


def described(name: str, task: Task) -> dict:
    """Return the settings that determine what is measured on a task."""
    return {
        "steps": task.steps, "batch": task.batch, "warmup": task.warmup, "weight_decay": task.weight_decay,
        "model": task.model, "gam": task.gam, "lr": {m: peak_lr(m, name) for m in task.models},
        "rows": task.rows, "heads": HEADS, "long": LONG, "far": FAR,
    }  # fmt: skip


def _markdown(task: str, by_model: dict[str, dict[str, dict]]) -> str:
    """Return the table of one task: a line for each model, a number for each seed."""
    first = next(iter(next(iter(by_model.values())).values()))
    columns = [name for name in first if name not in ("parameters", "measured")]
    form = ".4f" if task == "stories" else ".1%"
    body = []
    for name, by_seed in by_model.items():
        shown = [", ".join(format(cell[c], form) for cell in by_seed.values()) for c in columns]
        body.append(
            [LABELS[name], f"{next(iter(by_seed.values()))['parameters']:,}", ", ".join(by_seed), *shown]
        )
    head = f"{task}: {TASKS[task].steps} steps of {TASKS[task].batch} rows; a number for each seed.\n\n"
    return head + report.table(["model", "parameters", "seeds", *columns], body)


if __name__ == "__main__":
    cli.run(main, f"python -m {PROG}")
