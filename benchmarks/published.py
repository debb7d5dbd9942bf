"""Time a training step of every model of table 1 at the published size, here and in PyTorch.

Each measurement is in a process of its own; those of one round follow each other, and ratios are taken within
a round. A step's matrix products alone, in NumPy and in PyTorch, tell how much of a ratio is due to the BLAS.
The Mamba of the paper's code computes on a GPU only, and the written memory is ours: they have no
counterpart in PyTorch here.
"""

from functools import partial
from pathlib import Path

from benchmarks import environment, measure, train_step
from minigam import cli
from minigam.experiments import report
from minigam.experiments.comparison import TABLE1
from minigam.models import MODELS
from minigam.training import provenance

PROG = "benchmarks.published"
SIZE = train_step.CONFIGS["published"]
NAMES = [name for name in TABLE1 if name != "mamba-bare"]  # which takes as long as mamba
IN_TORCH = ("gam", "transformer")
PROGRAMS = {  # the kind of work -> how its line begins
    "minigam": "minigam", "torch": "PyTorch",
    "products": "products alone, NumPy:", "torch_products": "products alone, PyTorch:",
}  # fmt: skip


def parser() -> cli.Parser:
    p = cli.Parser(prog=f"python -m {PROG}", description=(__doc__ or "").splitlines()[0])
    p.add_argument("--models", nargs="+", choices=NAMES, default=NAMES, help="models (default: all)")
    p.add_argument("--pairs", type=int, default=3, help="rounds (default: 3)")
    p.add_argument("--steps", type=int, default=SIZE.steps,
                   help=f"timed steps of every process (default: {SIZE.steps})")  # fmt: skip
    p.add_argument("--out", type=Path, default=measure.RESULTS / "published",
                   help="folder for results (default: benchmarks/results/published)")  # fmt: skip
    return p


def main(argv: list[str] | None = None) -> int:
    args = parser().parse_args(argv)
    cli.require_at_least(args, pairs=1, steps=1)
    cli.require_folder(args.out)
    measure.require("torch", "threadpoolctl")
    where = environment.line()
    print(where)
    measured = provenance.measured_by("numpy")
    programs = {name: competitors(name, args.steps) for name in dict.fromkeys(args.models)}
    every = {label: work for of_model in programs.values() for label, work in of_model.items()}
    rounds = measure.rounds(every, args.pairs, "published")
    models = {}
    for name, of_model in programs.items():
        found = [{label: of_round[label] for label in of_model} for of_round in rounds]
        models[name] = measure.summary(found, f"minigam {TABLE1[name].label}")
    content = {
        "environment": where, "measured": measured, "pairs": args.pairs, "steps": args.steps,
        "batch": SIZE.batch, "block_size": SIZE.model.block_size, "models": models, "rounds": rounds,
    }  # fmt: skip
    report.write(args.out, "published", content, [{"measured": measured}], markdown(content), None)
    return 0


def competitors(name: str, steps: int) -> dict:
    """Return what measures a model: in minigam, and the rest of PROGRAMS where PyTorch has the model."""
    line = TABLE1[name]
    job = {
        "model_type": line.model_type, "model": MODELS[line.model_type].Config(**line.changes).to_dict(),
        "batch": SIZE.batch, "warm_up": SIZE.warm_up, "steps": steps,
    }  # fmt: skip
    kinds = PROGRAMS if name in IN_TORCH else ("minigam",)
    labels = {kind: f"{PROGRAMS[kind]} {line.label}" for kind in kinds}
    return {
        label: partial(measure.fresh, PROG, label, job | {"kind": kind}) for kind, label in labels.items()
    }


def markdown(content: dict) -> str:
    """Return the table: for each model the step here and in PyTorch, tokens per second, and the ratios."""
    tokens, dropout = content["batch"] * content["block_size"], SIZE.model.dropout

    def row(label: str, r: dict) -> list[str]:
        cells = [f"{tokens / r['seconds']:,.0f}", f"{r['peak_mib']:.0f}", measure.shown(r["memory_ratio"])]
        if label.startswith("products alone"):  # no tokens, and the memory of the step that lists them
            cells = [""] * len(cells)
        return [label, f"{r['seconds']:.2f}", *cells[:2], measure.shown(r["time_ratio"]), cells[2]]

    lines = [row(label, r) for summary in content["models"].values() for label, r in summary.items()]
    heads = ["", "s / step", "tokens / s", "peak memory (MiB)", "time / minigam", "memory / minigam"]
    return (
        f"{content['environment']}\n\n"
        f"published: one training step at the published size, {content['batch']} rows of "
        f"{content['block_size']} tokens, float32, dropout {dropout}; the median of {content['steps']} "
        f"steps; each measurement in its own process, {content['pairs']} rounds in alternation. Ratios to "
        "minigam's step of the same model are taken within a round: median (least to most). PyTorch is "
        "eager, with its defaults. Products alone: the matrix products of minigam's step. Memory is the peak "
        "of the whole process, its libraries included.\n\n" + report.table(heads, lines)
    )


if __name__ == "__main__":
    measure.run(main, train_step.work, PROG)
