"""Time the compiled kernels with 1 and 2 threads: bytes, operations and speed of each rule, and a step.

A rule runs forward and backward on the tokens that a training step computes at a time. The settings
alternate within a process, and ratios are taken within a round.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np

from benchmarks import environment, measure
from benchmarks.train_step import CONFIGS, Size
from minigam import GAM, GAMConfig, MambaConfig, cli
from minigam.config import InputError
from minigam.engine.compiled import adamw, kernels
from minigam.engine.compiled.selective_scan import CHUNK, WIDTH
from minigam.engine.memory import keep_freed_memory
from minigam.engine.numeric import mills_ratio
from minigam.engine.tensor import OPS
from minigam.experiments import report
from minigam.training import provenance
from minigam.training.optim import AdamW
from minigam.training.step import places, train_step
from minigam.viz.style import LEGEND, bars, blank, finish

PROG = "benchmarks.threads"
STEP, SUM = "a whole step", "sum of two large arrays"
LARGE = 2**24  # numbers in each array of the sum; more than any cache holds

# Operations on floats: + - * / sqrt and comparisons, one each; those on integers are not counted.
EXP = 23  # exp_ in engine/compiled/functions.py: range 2, reduction 7, polynomial 12, scale 2
SIGMOID = EXP + 3
PHI = EXP + 9 + sum(2 * (len(c) - 1) for c in mills_ratio(np.dtype("float32"))[:2])  # and two polynomials


@dataclass(frozen=True)
class Rule:
    """The work of one rule, forward and backward.

    run      : computes it once
    elements : how many entries its result has
    numbers  : float32 numbers read or written per element, each array of a kernel counted once
    flops    : operations per element
    """

    run: Callable[[], object]
    elements: int
    numbers: float
    flops: float


# ------------------------------------------------------------------------------- in a worker


def rules_of(c: GAMConfig, B: int, n_parameters: int, large: int) -> dict[str, Rule]:
    """Return the rules at the sizes of a model, on B rows of T tokens.

    n_parameters : length of AdamW's arrays
    large        : length of the arrays of the sum
    """
    rng = np.random.default_rng(0)
    T, C, S, K = c.block_size, c.d_model, c.n_slots, c.kernel_size
    mamba = MambaConfig(d_model=C)
    E, N = mamba.expand * C, mamba.d_state

    def drawn(*shape):
        return rng.standard_normal(shape, np.float32)

    def rule(name: str, numbers: float, flops: float, *inputs, **settings) -> Rule:
        compiled = OPS[name].fast["numpy"]
        dy = drawn(*compiled(np, *inputs, **settings)[0].shape)

        def run() -> None:
            _, backward = compiled(np, *inputs, **settings)
            backward(dy)

        return Rule(run, dy.size, numbers, flops)

    def bias() -> None:
        kernels.launch("add_bias", B * T, step, wide, offset, 4 * C)
        kernels.launch("sum_rows", B * T, step, wide, sums, 4 * C, step)

    def update() -> None:
        adamw.squares(np, g)
        adamw.update(
            np, p, g, m, v, np.float32(1.0), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1, eps=1e-8, t=10
        )

    wide, offset, step = drawn(B, T, 4 * C), drawn(4 * C), kernels.blocks_of(4 * C)
    sums = np.empty((-(-B * T // step), 4 * C), np.float32)
    p, g, m, v = drawn(n_parameters), drawn(n_parameters), drawn(n_parameters), drawn(n_parameters) ** 2
    a, b, total = (np.ones(large, np.float32) for _ in range(3))
    u = drawn(B, T, C)
    # Numbers: forward + backward. Most rules read x, write y; read x (or y) and dy, write dx.
    return {
        "gelu": rule("gelu", 2 + 3, 2 * PHI + 4, wide),
        "layer_norm": rule("layer_norm", 2 + 3, 13 + 17, u, drawn(C), drawn(C)),
        "gated_fusion": rule("gated_fusion", 5 + 9, 6 * SIGMOID + 9, u, drawn(B, T, C), drawn(B, T, 2 * C)),
        "causal_conv1d": rule("causal_conv1d", 2 + 3, 6 * K + 1, u, drawn(C, K), drawn(C)),
        "softmax": rule("softmax", 2 + 3, EXP + 8, drawn(B, T, S)),
        "dropout": rule("dropout", 2 + 2, 2 + 2, u, p=0.1, key=(1,)),
        "selective_scan": rule(  # NumPy sums dy x. Next to (B, T, E): a state per chunk, dB, dC per WIDTH
            "selective_scan", 3 + 9 + 2 * N / CHUNK + 4 * N / WIDTH + 4 * N / E, 10 + N * (2 * EXP + 24),
            drawn(B, T, E), abs(drawn(B, T, E)) / 10, -abs(drawn(E, N)), drawn(B, T, N), drawn(B, T, N),
            drawn(E),
        ),
        "bias of linear": Rule(bias, wide.size, 2 + 1, 1 + 1),
        "AdamW": Rule(update, n_parameters, 1 + 7, 2 + 15),  # the norm reads g; the update p, g, m, v
        SUM: Rule(lambda: kernels.launch("add", large, kernels.BLOCK, a, b, total), large, 3, 1),
    }  # fmt: skip


def rows_of(model: GAM, batch: int) -> int:
    """Return how many rows a training step computes at a time."""
    T = model.config.block_size
    return max(rows.stop - rows.start for rows, *_ in places(model, batch, T, None))


def work(model: dict, batch: int, threads: list[int], steps: int, whole: bool, large: int) -> dict:
    """Time every rule with each number of threads, in that order: {"rules": {name: ...}}.

    steps : timed calls
    whole : time a whole training step too
    """
    config = GAMConfig.from_dict(model)
    keep_freed_memory()
    if kernels.in_use() != "compiled":
        raise InputError("the kernels are not compiled here")
    own = GAM(config).train()
    rows = rows_of(own, batch)
    rules = rules_of(config, rows, sum(p.data.size for p in own.parameters()), large)
    cells = {
        name: {"elements": r.elements, "bytes": 4 * r.numbers, "flops": r.flops} for name, r in rules.items()
    }
    runs = {name: r.run for name, r in rules.items()}
    if whole:
        optimizer = AdamW(own.parameters(), lr=3e-4)
        rng, shape = np.random.default_rng(0), (batch, config.block_size)
        ids, targets = (rng.integers(config.vocab_size, size=shape) for _ in range(2))
        runs[STEP], cells[STEP] = partial(train_step, own, optimizer, ids, targets), {}
    for name, run in runs.items():
        seconds = {}
        for n in threads:
            kernels.set_threads(n)
            seconds[str(n)] = measure.timed(run, 1, steps)["seconds"]
        cells[name]["seconds"] = seconds
    return {"rows": rows, "rules": cells}


# ------------------------------------------------------------------------------- the command


def parser() -> cli.Parser:
    p = cli.Parser(prog=f"python -m {PROG}", description=__doc__.splitlines()[0])
    p.add_argument("--config", nargs="+", choices=CONFIGS, default=[*CONFIGS], help="sizes (default: both)")
    p.add_argument("--threads", nargs="+", type=int, default=[1, 2], help="numbers of threads (default: 1 2)")
    p.add_argument("--pairs", type=int, default=5, help="rounds (default: 5)")
    p.add_argument("--steps", type=int, default=10, help="timed calls of every rule (default: 10)")
    p.add_argument("--out", type=Path, default=measure.RESULTS / "threads",
                   help="folder for results (default: benchmarks/results/threads)")  # fmt: skip
    return p


def main(argv: list[str] | None = None) -> int:
    args = parser().parse_args(argv)
    cli.require_at_least(args, threads=1, pairs=1, steps=1)
    cli.require_folder(args.out)
    measure.require("torch", "threadpoolctl")
    if kernels.in_use() != "compiled":
        raise InputError("the kernels cannot be compiled here; install a C compiler, or '.[fast]'")
    compare(list(dict.fromkeys(args.config)), sorted(set(args.threads)), args.pairs, args.steps, args.out)
    return 0


def compare(configs: list[str], threads: list[int], pairs: int, steps: int, out: Path) -> None:
    """Measure every size; write threads.json, .md and .png into `out`."""
    where = environment.line()
    print(where)
    measured = provenance.measured_by("numpy")
    results = {name: _measure(name, CONFIGS[name], threads, pairs, steps) for name in configs}
    content = {
        "environment": where, "measured": measured, "pairs": pairs, "steps": steps, "threads": threads,
        "configs": results,
    }  # fmt: skip
    markdown = _markdown(where, results, threads, pairs, steps)
    report.write(out, "threads", content, [{"measured": measured}], markdown, plot(results, threads))


def _measure(name: str, size: Size, threads: list[int], pairs: int, steps: int) -> dict:
    """Measure all rules in `pairs` rounds, every other one with the threads in reverse order."""
    job = {"model": size.model.to_dict(), "batch": size.batch, "steps": steps, "whole": name == "small"}
    orders = [threads[:: 1 if i % 2 == 0 else -1] for i in range(pairs)]

    def fresh() -> dict:
        return measure.fresh(PROG, name, job | {"threads": orders.pop(0), "large": LARGE})

    rounds = [results[name] for results in measure.rounds({name: fresh}, pairs, name)]
    return job | {
        "rows": rounds[0]["rows"],
        "summary": {
            rule: summary([r["rules"][rule] for r in rounds], threads) for rule in rounds[0]["rules"]
        },
        "rounds": rounds,
    }


def summary(cells: list[dict], threads: list[int]) -> dict:
    """Return a rule's median times over the rounds, its GB/s, and its speedup, taken within each round.

    cells : of each round
    """
    few, *_, most = map(str, [*threads, threads[-1]])
    result = cells[0] | {
        "seconds": {str(n): median(c["seconds"][str(n)] for c in cells) for n in threads},
        "speedup": measure.spread([c["seconds"][few] / c["seconds"][most] for c in cells]),
    }
    if "bytes" in result:
        moved = result["elements"] * result["bytes"] / 1e9
        result["gb_per_s"] = {n: moved / s for n, s in result["seconds"].items()}
    return result


def _markdown(where: str, results: dict[str, dict], threads: list[int], pairs: int, steps: int) -> str:
    text = (
        f"{where}\n\nthreads: each rule of compiled kernels, forward and backward, float32; {pairs} rounds, "
        f"in each the median of {steps} calls with every number of threads. Speedup: time with {threads[0]} "
        f"over time with {threads[-1]}, within a round: median (least to most). Bytes count each array that "
        "a kernel reads or writes once, operations those on floats.\n"
    )
    heads = ["elements", "bytes / element", "operations / element", *(f"ms, {n}" for n in threads), "speedup"]
    heads += [f"GB/s, {n}" for n in threads]
    for name, result in results.items():
        m, lines = result["model"], []
        for rule, r in result["summary"].items():
            counts = (
                [f"{r['elements']:,}", f"{r['bytes']:.1f}", f"{r['flops']:.0f}"] if "bytes" in r else [""] * 3
            )
            times = [f"{1e3 * r['seconds'][str(n)]:.2f}" for n in threads]
            speeds = [f"{r['gb_per_s'][str(n)]:.1f}" if "bytes" in r else "" for n in threads]
            lines.append([rule, *counts, *times, measure.shown(r["speedup"]), *speeds])
        text += (
            f"\n{name}: {result['rows']} of {result['batch']} rows at a time, T {m['block_size']}, "
            f"C {m['d_model']}, S {m['n_slots']}, K {m['kernel_size']}.\n\n"
            + report.table([name, *heads], lines)
        )
        speeds = result["summary"][SUM]["gb_per_s"]
        reached = " and ".join(f"{speeds[str(n)]:.1f} GB/s with {n}" for n in threads)
        text += (
            f"\nThe {SUM} is limited by memory and reaches {reached}: with more cores, rules near that rate "
            "get faster only until the memory bandwidth is used up, while those that compute more per byte "
            "scale with the cores.\n"
        )
        if STEP in result["summary"]:
            text += f"In {STEP}, the matrix products keep BLAS's own threads in every column.\n"
    return text


def plot(results: dict[str, dict], threads: list[int]):
    """Return a figure: for each size the GB/s of every rule, by number of threads."""
    rules = max(len(result["summary"]) for result in results.values())
    figure, (grid,) = blank(2.0 + 3.8 * len(results), 1.0 + 0.38 * rules, columns=len(results), sharey=True)
    for axes, (name, result) in zip(grid, results.items()):
        shown = {rule: r for rule, r in result["summary"].items() if "bytes" in r}
        width = 0.8 / len(threads)
        for i, n in enumerate(threads):
            positions = np.arange(len(shown)) + (i - (len(threads) - 1) / 2) * width
            speeds = [r["gb_per_s"][str(n)] for r in shown.values()]
            axes.barh(positions, speeds, width, **bars(i), label=f"threads: {n}")
        axes.set_yticks(range(len(shown)), [r.replace(" ", "\n", 1) for r in shown])
        axes.grid(visible=False, axis="y")
        axes.set_xlabel("GB/s")
        axes.set_title(f"forward and backward, {name} size", fontsize=10)
    grid[0].invert_yaxis()  # of all, which share it
    grid[0].legend(**LEGEND, loc="upper right")
    return finish(figure)


if __name__ == "__main__":
    measure.run(main, work, PROG)
