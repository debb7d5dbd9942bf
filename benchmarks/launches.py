"""Count the launches of a training step on a GPU, and time the Python code that makes them, without a GPU.

The pretend GPU of the tests emulates the kernels, so the sizes are small, but the models have six layers.
Larger sizes add launches: Mamba's backward has two for every 64 tokens in each layer, a written memory six in
each layer for padding where its chunks need it, the head four for every 4,096 rows. Time is that of the
package's functions as cProfile measures it.
"""

import sys
from pathlib import Path

from tqdm import tqdm

from benchmarks import measure
from minigam import cli
from minigam.experiments import report
from minigam.training import provenance

PROG = "benchmarks.launches"


def parser() -> cli.Parser:
    p = cli.Parser(prog=f"python -m {PROG}", description=__doc__.splitlines()[0])
    p.add_argument("--out", type=Path, default=measure.RESULTS / "launches",
                   help="folder for results (default: benchmarks/results/launches)")  # fmt: skip
    return p


def main(argv: list[str] | None = None) -> int:
    args = parser().parse_args(argv)
    cli.require_folder(args.out)
    measure.require("pytest")
    sys.path.insert(0, str(measure.PROJECT / "tests"))
    from helpers import launches

    measured = provenance.measured_by("numpy")
    models = {}
    for name in tqdm(launches.MODELS, desc="four models", disable=None, unit="model"):
        count = launches.launches(name)
        models[name] = {
            "launches": count.total(),
            "by_name": dict(count.most_common()),
            "host_ms": 1e3 * launches.host_seconds(name),
        }
    text = report.table(
        ["one training step", "launches", "time in Python functions (ms)"],
        [[name, str(m["launches"]), f"{m['host_ms']:.2f}"] for name, m in models.items()],
    )
    content = {"measured": measured, "sizes": launches.SIZES, "models": models}
    report.write(args.out, "launches", content, [{"measured": measured}], text, None)
    return 0


if __name__ == "__main__":
    measure.run(main, lambda: {}, PROG)
