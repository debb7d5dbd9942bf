"""Train a model. The default is a small GAM on PocketStories: about a minute on two cores."""

import os
import shlex
import sys
import time
from argparse import Namespace
from contextlib import ExitStack, redirect_stderr, suppress
from dataclasses import fields, replace
from io import StringIO
from pathlib import Path
from typing import Any

from minigam import cli, launcher, threads
from minigam.config import (
    POCKETSTORIES,
    PRESETS,
    DataConfig,
    InputError,
    ModelConfig,
    TrainConfig,
)  # fmt: skip
from minigam.data.corpus import Corpus, find_prepared
from minigam.data.pocketstories import REACH
from minigam.engine import backend as backends
from minigam.engine.memory import ran_out
from minigam.engine.precision import require
from minigam.files import locked
from minigam.launcher import Place
from minigam.models import MODELS
from minigam.models.decoding import continued, first_ids
from minigam.models.lm import LanguageModel
from minigam.training import loop, profile
from minigam.training.optim import AdamW
from minigam.training.ranks.agreement import (
    Diverged,
    require_agreement,
    require_same_weights,
    together,
)  # fmt: skip
from minigam.training.ranks.start import connected, divided, require_divisible, use_gpus
from minigam.training.ranks.world import ALONE, DEADLINE, EX_TEMPFAIL, HOLD_BACK, ROLL_CALL, RankLost, World
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
    p.add_argument("--shard-optimizer", action="store_true",
                   help="under mpiexec: each rank holds AdamW's moments of its share of the parameters only; "
                        "saves memory, same bits")  # fmt: skip
    p.add_argument("--deadline", type=float, metavar="SECONDS",
                   help="under mpiexec: how long to wait for another rank, in addition to the time of ten "
                        f"steps (default: {DEADLINE:g})")  # fmt: skip
    p.add_argument("--model", choices=MODELS, help="model to train (default: gam)")
    cli.add_flags(p, DataConfig, PRESETS["small"], "data")
    cli.add_flags(p, ModelConfig, PRESETS["small"], "every model")
    for name, model in MODELS.items():
        cli.add_flags(p, model.Config, PRESETS["small"], f"{name} only", excluding=ModelConfig)
    cli.add_flags(p, TrainConfig, PRESETS["small"], "training")
    return p


def main(argv: list[str] | None = None) -> int:
    try:
        return _main(argv)
    except RankLost as e:  # before training, which has its own ending
        if e.speaks:
            print(f"{PROG}: {e}", file=sys.stderr)
        else:
            time.sleep(ROLL_CALL)  # the rank that speaks ends all
        return EX_TEMPFAIL
    except KeyboardInterrupt:
        if launcher.rank() > 0:  # so do all ranks get a Ctrl-C, and rank 0 says so
            time.sleep(ROLL_CALL)
        raise


def _main(argv: list[str] | None) -> int:
    place = launcher.place()
    if place is not None and place.rank > 0:
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123, SIM115  rank 0 prints for all
    args = _parsed(argv, place)
    given = {k: v for k, v in vars(args).items() if k in _FLAGS}
    world = connected(place, DEADLINE if args.deadline is None else args.deadline)
    if world.size > 1:
        cli.AT_EXIT.append(world.leave)
    backend = together(world, lambda: _backend(args, world))
    if args.profile:
        return _profile(args, given, backend)
    if args.resume is not None:
        opened, corpus = together(world, lambda: _reopen(args, given, backend, world))
        config, path = opened.config, opened.path
    else:
        config, corpus = together(world, lambda: _checked(args, given, backend, world))
    options = {"--shard-optimizer": args.shard_optimizer, "--deadline": args.deadline, "backend": backend,
               "--resume": str(args.resume)}  # fmt: skip
    require_agreement(world, config, options)
    if backend == "cupy":
        use_gpus(world, backends.get(backend))
    if args.resume is None:
        path = together(world, lambda: args.out or _next_free(corpus.name, world))
        path = Path(world.exchange(str(path))[0])
    with ExitStack() as stack:
        together(world, lambda: world.rank > 0 or stack.enter_context(locked(path)))
        if args.resume is not None:
            run = opened
            model, optimizer, step = together(world, lambda: run.resume(backend, world, args.shard_optimizer))
            require_same_weights(world, optimizer, step)
            about = f"resuming after step {step} of {run.config.train.steps}"
        else:
            run, model, optimizer = together(
                world,
                lambda: Run.create(path, config, corpus.tokenizer, backend, world, args.shard_optimizer),
            )
            step, about = 0, _describe(run, model, corpus)
        if place is not None:
            about += f"; {_count(world.size, 'rank')}, each {_count(threads.count(), 'thread')}"
        return _train(run, model, optimizer, corpus, step, args, about, world)


def _parsed(argv: list[str] | None, place: Place | None) -> Namespace:
    """Parse the flags. Of the ranks of a machine, one tells what is wrong with them."""
    if place is None or place.local_rank == 0:
        return parser().parse_args(argv)
    try:
        with redirect_stderr(StringIO()):
            return parser().parse_args(argv)
    except SystemExit:
        time.sleep(HOLD_BACK)
        raise


def _backend(args: Namespace, world: World) -> str:
    """Refuse flags that do not go together, or with the number of ranks; choose the backend."""
    if args.profile and (args.resume or args.out):
        raise InputError("--profile times a new model and saves nothing; omit --resume and --out")
    if args.shard_optimizer and world.size == 1:
        raise InputError("--shard-optimizer needs several ranks; omit it, or start them with mpiexec")
    if args.profile and world.size > 1:
        raise InputError("--profile times one process; start it without mpiexec")
    if args.backend != "numpy":
        world.choose_gpu()
    return cli.choose_backend(args.backend, args.kernels)


def _count(n: int, what: str) -> str:
    return f"{n} {what}{'' if n == 1 else 's'}"


def _train(
    run: Run, model: LanguageModel, optimizer: AdamW, corpus: Corpus, step: int, args: Namespace, about: str,
    world: World,
) -> int:  # fmt: skip
    """Say what the run is about, train from `step` to the end, validate, print a sample; return the exit
    code. Whatever ends this early, the last checkpoint is on disk, and a message says how to continue."""
    command = f"{PROG} --resume {shlex.quote(str(run.path))}"
    if world.size > 1:  # the run does not record the other two
        command = f"mpiexec -n {world.size} {command}{' --shard-optimizer' if args.shard_optimizer else ''}"
        command += f" --deadline {args.deadline:g}" if args.deadline is not None else ""
    resume = f"To resume:\n  {command}"
    error: BaseException | None = None
    try:
        print(f"{run.path}: {about}")
        step = loop.train(run, model, optimizer, corpus, step, world=world)
        if step == run.config.train.steps:
            _finish(run, model, corpus, args.prompt, world)
            return 0
    except (
        NonFinite, Diverged, RankLost, MemoryError, RuntimeError, KeyboardInterrupt, OSError
    ) as e:  # fmt: skip
        error = e
    code, why, advice = _ending(error, run.path, resume)
    at_once = error is None or isinstance(error, (NonFinite, Diverged))  # on all ranks
    if at_once:
        speaks = world.rank == 0
    else:
        speaks = error.speaks if isinstance(error, RankLost) else True
        if isinstance(error, KeyboardInterrupt):  # all ranks get it
            speaks = world.rank == 0
        why = f"rank {world.rank}: {why}" if world.rank > 0 else why
    if speaks:
        print(f"\n{PROG}: {why}. {_saved(run)}. {advice}", file=sys.stderr)
    elif isinstance(error, (RankLost, KeyboardInterrupt)):
        time.sleep(ROLL_CALL)  # the rank that speaks ends all
    if at_once:
        with suppress(RankLost):  # then this rank ends the others, with its own code
            world.close()
    if error is None:
        run.plot()
    return code


def _saved(run: Run) -> str:
    """Say which step is saved. A rank of another machine may not see the folder."""
    try:
        return f"Step {run.saved_step()} is saved in {run.path}"
    except (InputError, OSError):
        if run.writes:
            raise
        return f"The last checkpoint is in {run.path}"


def _ending(error: BaseException | None, path: Path, resume: str) -> tuple[int, str, str]:
    """Return the exit code of a run that has stopped early, why, and what to do. Raises an error that says
    nothing about the run."""
    code, why, advice = 1, str(error), resume
    match error:
        case None:
            code, why = 130, "interrupted"
        case NonFinite():
            advice = "Start again with a smaller --lr or --weight-decay."
        case Diverged():
            pass
        case RankLost():
            code = EX_TEMPFAIL
        case KeyboardInterrupt():  # a second Ctrl-C, or one after the last step
            code, why = 130, "stopped immediately"
        case BrokenPipeError():
            why = "nobody reads the output any more"
        case OSError():  # a full disk, for example
            why = f"{error.filename or path}: {error.strerror or error}"
            code, advice = 2, f"Mend that first. {resume}"
        case MemoryError() | RuntimeError() if ran_out(error):
            why = f"out of memory ({error})"
            advice = "Start again with --micro-batch 1, or a smaller --batch-size."
        case _:
            raise error
    return code, why, advice


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


def _checked(args: Namespace, given: dict, backend: str, world: World = ALONE) -> tuple[RunConfig, Corpus]:
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
    train = divided(train, given, backend)
    require_divisible(model, train, world.size)
    require_memory(model_type, replace(model, vocab_size=1), train, backend)
    corpus = make_corpus(data, model.block_size, progress=world.rank == 0)
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


def _next_free(name: str, world: World = ALONE) -> Path:
    """Make the first of the folders runs/NAME-1, runs/NAME-2 ... that does not exist, and return its path.
    Two trainings that start together get two folders, but all ranks of a training one."""
    n = 1
    if world.rank > 0:
        return Path("runs")
    while True:
        path = Path("runs") / f"{Path(name).stem}-{n}"
        try:
            path.mkdir(parents=True)
            return path
        except FileExistsError:
            n += 1


def _reopen(args: Namespace, given: dict, backend: str, world: World) -> tuple[Run, Corpus]:
    """Open a run to continue, and refuse any flag that contradicts its settings."""
    run = Run(args.resume, writes=world.rank == 0)
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
    if launcher.place() is not None and backend == "numpy" and not c.train.tree:
        raise InputError(
            f"--resume {run.path}: one process started it without --rank-tree, and ranks would add in "
            "another order; resume it without mpiexec, or start a new run"
        )
    require_divisible(c.model, c.train, world.size)
    require_memory(c.model_type, c.model, c.train, backend)
    return run, run.corpus(progress=world.rank == 0)


def _describe(run: Run, model: LanguageModel, corpus: Corpus) -> str:
    c = run.config
    reach = f", receptive field {model.reach} tokens" if model.reach is not None else ""
    return (
        f"{c.model.label} of {model.num_parameters():,} parameters{reach}; "
        f"{corpus.name}, {corpus.train_tokens():,} training tokens, vocabulary {c.model.vocab_size}; "
        f"{c.train.steps} steps"
    )


def _finish(run: Run, model: LanguageModel, corpus: Corpus, prompt: str, world: World) -> None:
    """Validate on all rows, plot, and print the table and a sample."""
    print(table(loop.finish(run, model, corpus, world), model.reach))
    if world.rank > 0:
        return
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
