"""Time a training step on several ranks of this machine, which share its cores, next to one process.

Strong scaling: the ranks share the batch of one process. Weak scaling: every rank has a batch of that size.
A row of a million tokens: its tokens are split over the ranks. Every measurement runs in its own processes,
those of one round follow each other, and ratios are taken within a round.
"""

import json
import os
import shutil
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np

from benchmarks import environment, measure
from benchmarks.train_step import CONFIGS
from minigam import GAM, GAMConfig, cli, launcher, threads
from minigam.config import InputError
from minigam.experiments import report
from minigam.training import provenance
from minigam.training.optim import AdamW
from minigam.training.ranks.start import connected
from minigam.training.ranks.world import DEADLINE, LEAVES
from minigam.training.step import begin_step
from minigam.viz.style import INK, bars, blank, finish

PROG = "benchmarks.ranks"
MESSAGES = 200  # small messages timed, and sums of a whole gradient a tenth of that
ONE_THREAD = dict.fromkeys(threads.COUNTS, "1")
ALONE, TREE = "1 process", "1 process, --rank-tree"
LONG = GAMConfig(
    vocab_size=256, block_size=1_000_000, d_model=16, n_layers=2, n_slots=16, kernel_size=4, dropout=0.0
)
LONG_RANKS = 4


@dataclass(frozen=True)
class Setting:
    """One way to compute a step.

    ranks  : processes under mpiexec; 0 for one process without it
    leaves : of the batch
    times  : rows, in batches of one process
    """

    ranks: int = 0
    leaves: int = LEAVES
    times: int = 1
    one_thread: bool = False
    shard: bool = False


def settings_of(ranks: int) -> dict[str, Setting]:
    """Return what is measured of each size: one process, and ranks that share its batch or multiply it."""
    return {
        ALONE: Setting(leaves=1),
        "1 process, 1 thread": Setting(leaves=1, one_thread=True),
        TREE: Setting(),
        f"{ranks} ranks, the same batch": Setting(ranks),
        f"{ranks} ranks, --shard-optimizer": Setting(ranks, shard=True),
        f"{ranks} ranks, {ranks} times the batch": Setting(ranks, times=ranks),
    }


# ------------------------------------------------------------------------------- in a worker


def work(
    model: dict, batch: int, warm_up: int, steps: int, leaves: int, shard: bool = False, split: bool = False
) -> dict:
    """Time training steps on the ranks that were launched together: {"seconds": median, "times": all, ...}.

    "sent_bytes" is what a rank sends in a step, "sum_seconds" how long the sum of a gradient takes when
    nothing else is done, "message_seconds" the smallest exchange between all ranks, "peak_mib_by_rank" the
    memory of each
    """
    world = connected(launcher.place(), DEADLINE)
    config = GAMConfig.from_dict(model)
    own = GAM(config).train()
    optimizer = AdamW(own.parameters(), world=world, shard=shard)
    rng, shape = np.random.default_rng(0), (batch, config.block_size)
    ids, targets = (rng.integers(config.vocab_size, size=shape) for _ in range(2))

    def step() -> None:
        begin_step(own, optimizer, ids, targets, world=world, leaves=leaves, split_sequence=split)()

    measure.timed(step, warm_up - 1, 1)
    before = world.sent
    result = measure.timed(step, 0, steps)
    result["sent_bytes"] = (world.sent - before) / steps

    def add_all() -> None:
        world.start_sum(optimizer.gradients)
        world.finish_sums()

    result["message_seconds"] = measure.timed(lambda: world.any(False), 1, MESSAGES)["seconds"]
    result["sum_seconds"] = measure.timed(add_all, 1, MESSAGES // 10)["seconds"] if steps > 1 else None
    peaks = world.exchange(json.dumps(measure.peak_bytes() / measure.MIB))
    world.close()
    return result | {"peak_mib_by_rank": [json.loads(p) for p in peaks], "threads": threads.count()}


# ------------------------------------------------------------------------------- the command


def parser() -> cli.Parser:
    p = cli.Parser(prog=f"python -m {PROG}", description=__doc__.splitlines()[0])
    p.add_argument("--config", nargs="+", choices=CONFIGS, default=[*CONFIGS], help="sizes (default: both)")
    p.add_argument("--ranks", type=int, default=os.cpu_count(),
                   help="number of ranks (default: the number of cores)")  # fmt: skip
    p.add_argument("--pairs", type=int, default=5, help="rounds (default: 5)")
    p.add_argument("--long", type=int, default=LONG.block_size,
                   help=f"tokens of the long row, 0 for none (default: {LONG.block_size})")  # fmt: skip
    p.add_argument("--out", type=Path, default=measure.RESULTS / "ranks",
                   help="folder for results (default: benchmarks/results/ranks)")  # fmt: skip
    return p


def main(argv: list[str] | None = None) -> int:
    args = parser().parse_args(argv)
    cli.require_at_least(args, pairs=1, ranks=2, long=0)
    cli.require_folder(args.out)
    measure.require("torch", "threadpoolctl", "mpi4py")
    compare(list(dict.fromkeys(args.config)), args.ranks, args.pairs, args.long, args.out)
    return 0


def mpiexec(ranks: int) -> list[str]:
    """Return the command that starts so many ranks: of the MPI installed next to this Python, if there is
    one, else of the MPI on PATH."""
    beside = Path(sys.executable).with_name("mpiexec")
    found = str(beside) if beside.exists() else shutil.which("mpiexec")
    if found is None:
        raise InputError("mpiexec is not installed; install it with pip install -e '.[mpi]'")
    return [found, "-n", str(ranks)]


def compare(configs: list[str], ranks: int, pairs: int, long: int, out: Path) -> None:
    """Measure every size, and the long row; write ranks.json, .md and .png into `out`."""
    where = environment.line()
    print(where)
    measured = provenance.measured_by("numpy")
    results = {name: _measure(name, ranks, pairs) for name in configs}
    row = _long_row(long) if long else None
    content = {"environment": where, "measured": measured, "pairs": pairs, "configs": results, "long": row}
    text = _markdown(where, results, row, ranks, pairs)
    report.write(out, "ranks", content, [{"measured": measured}], text, plot(results))


def _measure(name: str, ranks: int, pairs: int) -> dict:
    size = CONFIGS[name]
    job = {"model": size.model.to_dict(), "warm_up": size.warm_up, "steps": size.steps}

    def measured(label: str, s: Setting) -> dict:
        own = {"batch": s.times * size.batch, "leaves": s.leaves, "shard": s.shard}
        return measure.fresh(
            PROG, f"{name}, {label}", job | own, ONE_THREAD if s.one_thread else None,
            launch=mpiexec(s.ranks) if s.ranks else (),
        )  # fmt: skip

    competitors = {label: partial(measured, label, s) for label, s in settings_of(ranks).items()}
    rounds = measure.rounds(competitors, pairs, name)
    return {"batch": size.batch, "rounds": rounds, "summary": _summary(rounds, ranks)}


def _summary(rounds: list[dict[str, dict]], ranks: int) -> dict[str, dict]:
    """Return for each setting the medians over the rounds, and its tokens per second against one process."""
    return {
        label: {
            what: median(r[label][what] for r in rounds)
            for what in ("seconds", "sent_bytes", "sum_seconds", "message_seconds")
        }
        | {
            "peak_mib": median(max(r[label]["peak_mib_by_rank"]) for r in rounds),
            "threads": rounds[0][label]["threads"],
            "speed": measure.spread(
                [s.times * r[ALONE]["seconds"] / r[label]["seconds"] for r in rounds]
            ),
        }
        for label, s in settings_of(ranks).items()
    }  # fmt: skip


def _long_row(tokens: int) -> dict:
    """Train on one row of so many tokens, split over ranks, and on rows a quarter as long."""
    lengths, rows = [tokens // 4, tokens], {}
    for T in lengths:
        config = GAMConfig.from_dict(LONG.to_dict() | {"block_size": T})
        job = {
            "model": config.to_dict(),
            "batch": 1,
            "warm_up": 1,
            "steps": 1,
            "leaves": LEAVES,
            "split": True,
        }
        rows[str(T)] = measure.fresh(PROG, f"a row of {T:,} tokens", job, launch=mpiexec(LONG_RANKS)) | {
            "parameters": sum(p.data.size for p in GAM(config).parameters())
        }
    return {"model": LONG.to_dict(), "rows": rows}


def _markdown(where: str, results: dict[str, dict], row: dict | None, ranks: int, pairs: int) -> str:
    text = (
        f"{where}\n\nranks: a training step of {ranks} ranks next to one process; medians of {pairs} rounds. "
        f"Speed: tokens per second over those of {ALONE}, within a round: median (least to most). Bytes are "
        "what one rank sends in a step. The sum is that of a whole gradient with nothing else to do, the "
        "message the smallest exchange between all ranks.\n"
    )
    heads = ["threads", "s / step", "speed", "peak memory of a rank (MiB)", "MB sent / step", "sum (ms)",
             "message (us)"]  # fmt: skip
    for name, result in results.items():
        lines = [
            [label, str(r["threads"]), f"{r['seconds']:.3f}", measure.shown(r["speed"]),
             f"{r['peak_mib']:.0f}"]
            + ([f"{r['sent_bytes'] / 1e6:.2f}", f"{1e3 * r['sum_seconds']:.2f}",
                f"{1e6 * r['message_seconds']:.0f}"] if r["sent_bytes"] else [])
            for label, r in result["summary"].items()
        ]  # fmt: skip
        text += f"\n{name}: {result['batch']} rows.\n\n{report.table([name, *heads], lines)}"
    if row is not None:
        heads = [
            "one row, split over ranks",
            "ranks",
            "parameters",
            "s / step",
            "peak memory of a rank (MiB)",
        ]
        lines = [
            [f"{int(T):,} tokens", str(LONG_RANKS), f"{r['parameters']:,}", f"{r['seconds']:.2f}",
             f"{max(r['peak_mib_by_rank']):.0f}"]
            for T, r in row["rows"].items()
        ]  # fmt: skip
        m = row["model"]
        text += (
            f"\n{report.table(heads, lines)}\nGAM with C {m['d_model']}, L {m['n_layers']}, "
            f"S {m['n_slots']}, K {m['kernel_size']}. Nearly all parameters are the learned positions.\n"
        )
    return text


def plot(results: dict[str, dict]):
    """Return a figure: for each size the speed of every setting against one process."""
    figure, (grid,) = blank(2.0 + 3.6 * len(results), 3.2, columns=len(results), sharey=True)
    for a, (name, result) in zip(grid, results.items()):
        speeds = [r["speed"] for r in result["summary"].values()]
        middle = [s["median"] for s in speeds]
        errors = [
            [m - s["least"] for m, s in zip(middle, speeds)],
            [s["most"] - m for m, s in zip(middle, speeds)],
        ]
        a.barh(list(result["summary"]), middle, xerr=errors, **bars(0), capsize=3)
        a.grid(visible=False, axis="y")
        a.axvline(1.0, color=INK, linestyle="--", linewidth=0.9)
        a.set_xlabel("tokens / s, one process = 1")
        a.set_title(name, fontsize=10)
    grid[0].invert_yaxis()  # of all, which share it
    return finish(figure)


if __name__ == "__main__":
    measure.run(main, work, PROG)
