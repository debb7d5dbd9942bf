"""Measure a training step of one block with the memory that the text writes, and with the paper's.

A step is forward and backward. Each measurement runs in its own process. The last table is of one long row,
which shows how the time grows with the length.
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks import environment, measure
from minigam import GAMConfig, Tensor, cli
from minigam.config import WRITTEN
from minigam.engine.memory import keep_freed_memory
from minigam.experiments import report
from minigam.experiments.scaling import exponent
from minigam.models.gam import GAMBlock
from minigam.models.nn import MaskCounter
from minigam.training import provenance

PROG = "benchmarks.written_memory"


@dataclass(frozen=True)
class Size:
    """Channels, slots, rows and tokens; and how many steps are timed."""

    C: int
    S: int
    B: int
    T: int
    steps: int


SIZES = {
    "the default run": Size(128, 64, 16, 128, 30),
    "recall": Size(64, 128, 64, 64, 30),
    "published, 4 rows": Size(512, 512, 4, 256, 10),
}
LENGTHS = {f"T {T}": Size(128, 64, 1, T, max(5, 20_000 // T)) for T in (1024, 2048, 4096, 8192)}
KERNEL_SIZE, WARM_UP = 4, 3
MIXERS = {"plain": "gated", "written": WRITTEN}


def work(mixer: str, size: dict) -> dict:
    """Time steps of one block, in seconds, and take the peak memory of the process."""
    keep_freed_memory()  # as training does
    s = Size(**size)
    config = GAMConfig(
        block_size=s.T,
        d_model=s.C,
        n_slots=s.S,
        n_layers=1,
        kernel_size=KERNEL_SIZE,
        dropout=0.0,
        mixer=mixer,
    )
    rng = np.random.default_rng(0)
    block = GAMBlock(config, MaskCounter(0), rng)
    for p in block.parameters():
        p.data = p.data.astype("float32")
    x = Tensor(rng.standard_normal((s.B, s.T, s.C)).astype("float32"), requires_grad=True)

    def step() -> None:
        block.zero_grad()
        x.grad = None
        y = block(x)
        y.backward(np.ones_like(y.data), retain_graph=False)

    return measure.timed(step, WARM_UP, s.steps)


def parser() -> cli.Parser:
    p = cli.Parser(prog=f"python -m {PROG}", description=__doc__.splitlines()[0])
    p.add_argument("--pairs", type=int, default=5, help="rounds (default: 5)")
    p.add_argument("--out", type=Path, default=measure.RESULTS / "written_memory",
                   help="folder for results (default: benchmarks/results/written_memory)")  # fmt: skip
    return p


def main(argv: list[str] | None = None) -> int:
    args = parser().parse_args(argv)
    cli.require_at_least(args, pairs=1)
    cli.require_folder(args.out)
    measure.require("torch", "threadpoolctl")  # the environment line names both
    compare(args.pairs, args.out)
    return 0


def compare(pairs: int, out: Path) -> None:
    """Measure every size; write written_memory.json and .md into `out`."""
    where, measured, summaries = environment.line(), provenance.measured_by("numpy"), {}
    for name, size in (SIZES | LENGTHS).items():
        jobs = {
            label: partial(measure.fresh, PROG, f"{name}, {label}", {"mixer": mixer, "size": vars(size)})
            for label, mixer in MIXERS.items()
        }
        summaries[name] = measure.summary(measure.rounds(jobs, pairs, name), "plain")
    powers = {
        label: exponent([s.T for s in LENGTHS.values()], [summaries[n][label]["seconds"] for n in LENGTHS])
        for label in MIXERS
    }
    content = {
        "environment": where,
        "measured": measured,
        "sizes": {name: vars(size) for name, size in (SIZES | LENGTHS).items()},
        "summary": summaries,
        "exponents": powers,
    }
    text = f"{where}\n\n{_markdown(summaries, powers, pairs)}"
    report.write(out, "written_memory", content, [{"measured": measured}], text, None)


def _markdown(summaries: dict[str, dict], powers: dict[str, float], pairs: int) -> str:
    heads = ["block", "C", "S", "rows", "tokens", "plain (ms)", "written (ms)", "written / plain"]
    body = [
        [name, str(s.C), str(s.S), str(s.B), f"{s.T:,}"]
        + [f"{1e3 * summaries[name][label]['seconds']:.1f}" for label in MIXERS]
        + [measure.shown(summaries[name]["written"]["time_ratio"])]
        for name, s in (SIZES | LENGTHS).items()
    ]
    shown = ", ".join(f"{label} {power:.2f}" for label, power in powers.items())
    return (
        f"written_memory: one block, forward and backward, float32, K {KERNEL_SIZE}; medians of {pairs} "
        "rounds, every measurement in its own process. written / plain: median (least to most) of the ratios "
        f"within a round.\n\n{report.table(heads, body)}\n"
        f"Exponent p of the best fitting time = c T^p from {min(s.T for s in LENGTHS.values()):,} tokens on: "
        f"{shown}.\n"
    )


if __name__ == "__main__":
    measure.run(main, work, PROG)
