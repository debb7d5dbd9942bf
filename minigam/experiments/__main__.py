"""Rerun the paper's experiments: three tables, recall against distance, and the measured receptive field."""

import sys
from argparse import Namespace
from collections.abc import Callable
from functools import partial
from pathlib import Path

from minigam import cli
from minigam.config import POCKETSTORIES, DataConfig, InputError
from minigam.data.corpus import find_prepared
from minigam.data.download import Download
from minigam.experiments import comparison, paper, reach, recall, scaling
from minigam.experiments.training_cell import Interrupted
from minigam.files import locked
from minigam.training.run import Run
from minigam.training.step import NonFinite

PROG = "minigam experiments"


SCALE_HELP = "small: minutes on two cores; published: the paper's sizes and protocol (default: published)"
DATASET_HELP = (
    "pocketstories, or a dataset from `minigam data prepare`, by name or folder "
    "(default: wikitext-2; at the small scale pocketstories, which needs no download). wikitext-2 and "
    "tinystories are downloaded and prepared if they are not there"
)

TABLES = {
    "table1": (
        comparison.TABLE1,
        "GAM, Transformer and Mamba side by side, and a GAM whose text writes its memory: loss and time",
    ),
    "table3": (
        comparison.TABLE3,
        "GAM without its gate, its memory or its convolution; and with a memory that the text writes",
    ),
}


def parser() -> cli.Parser:
    p = cli.Parser(prog=PROG, description=__doc__)
    commands = p.add_subparsers(dest="experiment", required=True, metavar="EXPERIMENT")

    def add(name: str, description: str) -> cli.Parser:
        c = commands.add_parser(name, help=description, description=cli.sentence(description))
        c.add_argument("--out", type=Path, help="folder for results and runs (default: one under runs/)")
        cli.add_backend_flag(c)
        return c

    for name, (lines, description) in TABLES.items():
        c = add(name, description)
        c.add_argument("--scale", choices=comparison.SCALES, default="published", help=SCALE_HELP)
        c.add_argument("--dataset", type=cli.file_name, metavar="NAME", help=DATASET_HELP)
        c.add_argument("--models", nargs="+", choices=lines,
                       help="models to train (default: all that the scale includes)")  # fmt: skip
        c.add_argument("--seeds", nargs="+", type=int, default=[0], help="one run per seed (default: 0)")
        c.add_argument("--steps", type=int, help="optimizer steps (default: set by the scale)")
        cli.add_trust_flag(c)
    c = add("table2", "time and memory of one block against the length of the text")
    c.add_argument("--scale", choices=scaling.SCALES, default="published", help=SCALE_HELP)
    c.add_argument("--lengths", nargs="+", type=int, default=[*paper.LENGTHS],
                   help="lengths in tokens (default: 256 to 8192)")  # fmt: skip
    c.add_argument("--models", nargs="+", choices=scaling.LABELS, default=[*scaling.LABELS],
                   help="blocks to measure (default: all four)")  # fmt: skip
    c.add_argument("--repeats", type=int, default=5, help="timed steps; reports the median (default: 5)")
    c.add_argument("--memory", type=float, metavar="GIB",
                   help="skip lengths that would need more (default: half of all memory)")  # fmt: skip
    c.add_argument("--seed", type=int, default=0, help="seed of parameters and inputs (default: 0)")
    c = add("recall", "associative recall: accuracy against distance")
    c.add_argument("--models", nargs="+", choices=recall.LINES, default=[*recall.LINES],
                   help="models to train (default: all four)")  # fmt: skip
    c.add_argument("--steps", type=int, help="optimizer steps of every model (default: set per model)")
    c.add_argument("--seed", type=int, default=0, help="seed of the data and of training (default: 0)")
    c = add("reach", "the receptive field of trained models, measured")
    c.add_argument("runs", nargs="+", type=Path, metavar="RUN",
                   help="run folders, such as OUT/cells/gam-seed0 of table1")  # fmt: skip
    c.add_argument("--rows", type=int, default=32, help="validation rows (default: 32)")
    c.add_argument("--seed", type=int, default=0, help="seed of the replacements (default: 0)")
    return p


def main(argv: list[str] | None = None) -> int:
    args = parser().parse_args(argv)
    cli.require_folder(args.out)
    least = {"steps": 1, "repeats": 1, "rows": 1, "seed": 0, "seeds": 0, "lengths": 1, "memory": 0.0}
    cli.require_at_least(args, **{name: low for name, low in least.items() if hasattr(args, name)})
    backend = cli.choose_backend(args.backend, args.kernels)
    again = "progress is saved, run the same command again to resume"
    out, work = _planned(args, backend)
    try:
        with locked(out):
            work(out)
    except (Interrupted, KeyboardInterrupt):
        print(f"\ninterrupted; {again}", file=sys.stderr)
        return 130
    except NonFinite as e:
        print(f"{PROG}: {e}; leave this model out with --models, or choose another seed", file=sys.stderr)
        return 1
    except BrokenPipeError:  # the reader of our output has quit
        print(f"{PROG}: nobody reads the output any more; {again}", file=sys.stderr)
        return 1
    except OSError as e:  # a full disk, for example
        print(f"{PROG}: {e.filename or out}: {e.strerror or e}; {again}", file=sys.stderr)
        return 2
    return 0


def _planned(args: Namespace, backend: str) -> tuple[Path, Callable[[Path], None]]:
    """Return the folder for the results of an experiment, and what fills it."""
    experiment = args.experiment
    if experiment in TABLES:
        dataset = args.dataset
        if dataset is None:
            dataset = POCKETSTORIES if args.scale == "small" else "wikitext-2"
        default = f"{experiment}-{args.scale}-{Path(dataset).name}"
        lines, _ = TABLES[experiment]
        # mamba-bare is the authors' own stack. It trains badly, and the small scale has no time for it.
        names = args.models or [n for n in lines if n != "mamba-bare" or args.scale == "published"]
        seeds = list(dict.fromkeys(args.seeds))  # without duplicates
        if args.trust_download and dataset == POCKETSTORIES:
            raise InputError("--trust-download has no effect on pocketstories, which is generated; omit it")
        download = Download.needed(dataset, args.trust_download)
        if dataset != POCKETSTORIES:
            dataset = str(download.prepared.resolve() if download else find_prepared(dataset))
        data = DataConfig(dataset=dataset)
        chosen = {n: lines[n] for n in names}
        settings = (experiment, chosen, args.scale, data, args.steps, seeds, backend, download)
        work = partial(comparison.compare, *settings)
    elif experiment == "table2":
        measured = (args.scale, args.lengths, args.models, args.repeats, args.memory, args.seed, backend)
        default, work = f"table2-{args.scale}", partial(scaling.table2, *measured)
    elif experiment == "recall":
        default, work = "recall", partial(recall.recall, args.models, args.steps, args.seed, backend)
    else:
        runs = [Run(path) for path in args.runs]
        default, work = "reach", partial(reach.reach, runs, args.rows, args.seed, backend)
    return args.out or Path("runs") / default, work


if __name__ == "__main__":
    cli.run(main, PROG)
