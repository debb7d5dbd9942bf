"""Train a model. The default is a small GAM on PocketStories: about a minute on two cores."""

import os
import shlex
import sys
from argparse import Namespace
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from minigam import cli
from minigam.config import POCKETSTORIES, PRESETS, DataConfig, InputError, ModelConfig, TrainConfig
from minigam.data.corpus import Corpus, find_prepared
from minigam.data.pocketstories import REACH
from minigam.engine import backend as backends
from minigam.engine.memory import ran_out
from minigam.engine.precision import require
from minigam.files import locked
from minigam.models import MODELS
from minigam.models.decoding import continued, first_ids
from minigam.models.lm import LanguageModel
from minigam.training import loop, profile
from minigam.training.optim import AdamW
from minigam.training.run import Run, RunConfig, make_corpus
from minigam.training.size import require_memory
from minigam.training.step import NonFinite

PROG = "minigam train"


def parser() -> cli.Parser:
    p = cli.Parser(prog=PROG, description=__doc__)
    p.add_argument("--out", type=Path, help="run folder to write (default: the next free runs/NAME-N)")
    p.add_argument(
        "--resume", type=Path, metavar="RUN", help="continue the run in this folder, with its own settings"
    )
    p.add_argument("--preset", choices=PRESETS, default="small",
                   help="set of defaults; this help shows the small one (default: small)")  # fmt: skip
    p.add_argument("--profile", action="store_true",
                   help="time a few steps, print where the time goes, write nothing")  # fmt: skip
    p.add_argument("--prompt", default="", help="start of the sample printed at the end")
    cli.add_backend_flag(p)
    p.add_argument("--model", choices=MODELS, help="model to train (default: gam)")
    cli.add_flags(p, DataConfig, PRESETS["small"], "data")
    cli.add_flags(p, ModelConfig, PRESETS["small"], "every model")
    for name, model in MODELS.items():
        cli.add_flags(p, model.Config, PRESETS["small"], f"{name} only", excluding=ModelConfig)
    cli.add_flags(p, TrainConfig, PRESETS["small"], "training")
    return p


def main(argv: list[str] | None = None) -> int:
    args = parser().parse_args(argv)
    given = {k: v for k, v in vars(args).items() if k in _FLAGS}
    if args.profile and (args.resume or args.out):
        raise InputError("--profile times a new model and saves nothing; omit --resume and --out")
    backend = cli.choose_backend(args.backend, args.kernels)
    if args.profile:
        return _profile(args, given, backend)
    if args.resume is not None:
        run, corpus = _reopen(args, given, backend)
        first_ids(corpus.tokenizer, args.prompt)
        with locked(run.path):
            model, optimizer, step = run.resume(backend)
            about = f"resuming after step {step} of {run.config.train.steps}"
            return _train(run, model, optimizer, corpus, step, args.prompt, about)
    config, corpus = _checked(args, given, backend)
    path = args.out or _next_free(corpus.name)
    with locked(path):
        run, model, optimizer = Run.create(path, config, corpus.tokenizer, backend)
        about = _describe(run, model, corpus)
        return _train(run, model, optimizer, corpus, 0, args.prompt, about)


def _train(
    run: Run, model: LanguageModel, optimizer: AdamW, corpus: Corpus, step: int, prompt: str, about: str
) -> int:
    """Say what the run is about, train from `step` to the end, validate, print a sample; return the exit
    code. Whatever ends this early, the last checkpoint is on disk, and a message says how to continue."""
    resume = f"To resume:\n  {PROG} --resume {shlex.quote(str(run.path))}"
    try:
        print(f"{run.path}: {about}")
        step = loop.train(run, model, optimizer, corpus, step)
        if step == run.config.train.steps:
            _finish(run, model, corpus, prompt)
            return 0
        code, why, advice = 130, "interrupted", resume
        run.plot()
    except NonFinite as e:
        code, why, advice = 1, str(e), "Start again with a smaller --lr or --weight-decay."
    except (MemoryError, RuntimeError) as e:
        if not ran_out(e):
            raise
        advice = "Start again with --micro-batch 1, or a smaller --batch-size."
        code, why = 1, f"out of memory ({e})"
    except KeyboardInterrupt:  # a second Ctrl-C, or one after the last step
        code, why, advice = 130, "stopped immediately", resume
    except BrokenPipeError:
        code, why, advice = 1, "nobody reads the output any more", resume
    except OSError as e:  # a full disk, for example
        code, why, advice = 2, f"{e.filename or run.path}: {e.strerror or e}", f"Mend that first. {resume}"
    print(f"\n{PROG}: {why}. Step {run.saved_step()} is saved in {run.path}. {advice}", file=sys.stderr)
    return code


_FLAGS = {
    f.name
    for config in (DataConfig, TrainConfig, *(model.Config for model in MODELS.values()))
    for f in fields(config)
    if not f.metadata.get("derived")
}


def _profile(args: Namespace, given: dict, backend: str) -> int:
    """Time training steps of the run that the flags describe."""
    config, corpus = _checked(args, given, backend)
    model = config.new_model(backend)
    print(profile.head(model, config.train))
    try:
        print(f"\n{profile.text(profile.measure(model, corpus, config.train))}")
    except NonFinite as e:
        raise InputError(f"--profile: {e}; choose a smaller --position-std") from e
    return 0


def _checked(args: Namespace, given: dict, backend: str) -> tuple[RunConfig, Corpus]:
    """Check the flags that describe a new run, and make its corpus."""
    values = PRESETS[args.preset] | {name: _absolute(name, value) for name, value in given.items()}
    model_type = args.model or "gam"
    Config = MODELS[model_type].Config
    data, train = DataConfig.of(values), TrainConfig.of(values)
    usable = {f.name for config in (DataConfig, TrainConfig, Config) for f in fields(config)}
    if foreign := sorted(given.keys() - usable):
        raise InputError(f"--{foreign[0].replace('_', '-')} does not belong to --model {model_type}; omit it")
    unused = _unused(data)
    if idle := sorted(given.keys() & unused):
        raise InputError(f"--{idle[0].replace('_', '-')} has no effect {unused[idle[0]]}; omit it")
    require(backends.get(backend), train.precision)
    model = Config.of(values)  # before the corpus, which takes longer
    require_memory(model_type, replace(model, vocab_size=1), train, backend)
    corpus = make_corpus(data, model.block_size, progress=True)
    first_ids(corpus.tokenizer, args.prompt)  # refuse a bad prompt before anything is written
    config = RunConfig.of(model_type, model, data, train, corpus)
    require_memory(model_type, config.model, train, backend)
    return config, corpus


def _unused(data: DataConfig) -> dict[str, str]:
    """Return the flags that have no effect on this data, each with the reason."""
    stories, texts = ("data_seed", "stories", "valid_stories"), ("tokenizer", "bpe_size")
    if data.dataset != POCKETSTORIES:
        return dict.fromkeys((*stories, *texts), "on a prepared dataset")
    if data.text is None:
        return dict.fromkeys(texts, "on PocketStories")
    by_characters = {"bpe_size": "with --tokenizer char"} if data.tokenizer == "char" else {}
    return dict.fromkeys(stories, "with --text") | by_characters


def _absolute(name: str, value: Any) -> Any:
    """Make the path of a file or prepared folder absolute, so that resuming works from any folder."""
    if name == "dataset" and value not in ("", POCKETSTORIES):
        return str(find_prepared(value))
    return os.path.realpath(value) if name in ("text", "valid") else value


def _next_free(name: str) -> Path:
    """Make the first of the folders runs/NAME-1, runs/NAME-2 ... that does not exist, and return its path.
    Two trainings that start together get two folders."""
    n = 1
    while True:
        path = Path("runs") / f"{Path(name).stem}-{n}"
        try:
            path.mkdir(parents=True)
            return path
        except FileExistsError:
            n += 1


def _reopen(args: Namespace, given: dict, backend: str) -> tuple[Run, Corpus]:
    """Open a run to continue, and refuse any flag that contradicts its settings."""
    run = Run(args.resume)
    if args.out is not None:
        raise InputError("--resume writes to the run folder; omit --out")
    c = run.config
    if args.model not in (None, c.model_type):
        raise InputError(f"--resume {run.path}: --model is {args.model}, the run has {c.model_type}")
    stored = vars(c.data) | vars(c.model) | vars(c.train)
    for name, value in given.items():
        value = _absolute(name, value)
        if stored.get(name) != value:
            raise InputError(
                f"--resume {run.path}: --{name.replace('_', '-')} is {value}, the run was started with "
                f"{stored.get(name)}; omit the flag, or start a new run"
            )
    require_memory(c.model_type, c.model, c.train, backend)
    return run, run.corpus(progress=True)


def _describe(run: Run, model: LanguageModel, corpus: Corpus) -> str:
    c = run.config
    reach = f", receptive field {model.reach} tokens" if model.reach is not None else ""
    return (
        f"{c.model.label} of {model.num_parameters():,} parameters{reach}; "
        f"{corpus.name}, {corpus.train_tokens():,} training tokens, vocabulary {c.model.vocab_size}; "
        f"{c.train.steps} steps"
    )


def _finish(run: Run, model: LanguageModel, corpus: Corpus, prompt: str) -> None:
    """Validate on all rows, plot, and print the table and a sample."""
    print(table(loop.finish(run, model, corpus), model.reach))
    ids = first_ids(corpus.tokenizer, prompt)
    sample, _ = continued(model.eval(), corpus.tokenizer, ids, seed=run.config.train.seed)
    print(f"\nA sample (temperature 0.8):\n\n{corpus.tokenizer.decode(sample)}\n")
    print(f"Saved in {run.path}. More samples: minigam generate {shlex.quote(str(run.path))}")


def table(result: dict, reach: int | None) -> str:
    """Return the final table: the loss of each kind of token, and its floor if the corpus has one."""
    has_floor = "floor" in result
    heads = ("tokens", "loss", "floor", "above floor") if has_floor else ("tokens", "loss")
    lines = [f"{'validation':<15}" + "".join(f"{h:>12}" for h in heads) + "   (nats per token)"]
    for name, r in (result.get("kinds", {}) | {"all": result}).items():
        cells = [f"{r['tokens']:,}", f"{r['loss']:.4f}"]
        if has_floor:
            above = r["loss"] - r["floor"]
            cells += [f"{r['floor']:.4f}", f"{above / r['floor']:.1%}" if r["floor"] else f"{above:.4f} nats"]
        lines.append(f"{name:<15}" + "".join(f"{c:>12}" for c in cells))
    if has_floor and reach is not None and reach <= REACH:
        lines.append(
            f"The receptive field of this model is {reach} tokens. A recall token depends on a word "
            f"more than {REACH} tokens back, so no training can bring its loss down to the floor."
        )
    return "\n".join(lines)


if __name__ == "__main__":
    cli.run(main, PROG)
