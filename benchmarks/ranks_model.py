"""Predict how training scales to many GPUs, from what benchmarks.ranks counted and from data sheets.

Nothing here is measured on a GPU. With G bytes of gradient in k buckets, the last of which has g bytes, N
ranks, bandwidth w and latency a of a link, c seconds of computation in a step, two thirds of it in the
backward pass:

    a sum of b bytes   s(b) = 2 (N - 1) / N b / w + 2 log2(N) a
    exposed            e = s(g) + max(0, s(G - g) + 2 (k - 2) log2(N) a - 2/3 c) + log2(N) a
    efficiency         c / (c + e)

The last bucket, which holds the token embedding, is complete only when the backward pass ends, so nothing
hides its sum. The last term is the exchange at the end of a step. Weak scaling: c is that of one rank's own
batch, for any N. Strong scaling: N ranks share a batch, so c is divided by N.
"""

import math
from pathlib import Path

from benchmarks import measure
from minigam import GAM, GAMConfig, cli
from minigam.config import InputError
from minigam.experiments import report
from minigam.files import read_json
from minigam.training import provenance
from minigam.training.optim import AdamW
from minigam.training.ranks.gradient import buckets_of
from minigam.viz.style import LEGEND, draw, finish, panels

PROG = "benchmarks.ranks_model"
LINKS = {  # bytes per second in one direction, and seconds until the first byte: data sheets, rounded
    "NVLink 4 in a node, InfiniBand NDR between": (50e9, 5e-6),  # the slower link, 400 Gb/s, decides
    "Ethernet, 100 Gb/s": (12.5e9, 2e-5),
    "Ethernet, 10 Gb/s": (1.25e9, 5e-5),
}
IN_A_NODE = (450e9, 3e-6)  # NVLink 4, while all ranks are in one node
NODE = 8  # GPUs in a node
RANKS = (8, 64, 512)
HIDDEN = 2 / 3  # the backward pass takes two thirds of the computation
LINEAR = 0.9  # the efficiency down to which we call it linear


def exposed(N: int, total: float, last: float, buckets: int, computing: float, link: str) -> float:
    """Return the seconds of a step in which ranks wait for communication."""
    in_a_node = N <= NODE and link.startswith("NVLink")
    bandwidth, latency = IN_A_NODE if in_a_node else LINKS[link]
    steps = math.log2(N)

    def moved(b: float) -> float:
        return 2 * (N - 1) / N * b / bandwidth

    hidden = moved(total - last) + 2 * (buckets - 1) * steps * latency - HIDDEN * computing
    return moved(last) + 2 * steps * latency + max(0.0, hidden) + steps * latency


def predict(flop: float, rate: float, total: float, last: float, buckets: int) -> list[dict]:
    """Return the efficiency of weak and strong scaling for each link and number of ranks.

    flop : in a step of one rank     rate : FLOP/s that a GPU sustains
    """
    alone = flop / rate
    lines = []
    for link in LINKS:
        for N in RANKS:
            weak = exposed(N, total, last, buckets, alone, link)
            strong = exposed(N, total, last, buckets, alone / N, link)
            lines.append({
                "link": link, "ranks": N, "weak": alone / (alone + weak),
                "strong": alone / N / (alone / N + strong), "exposed_seconds": weak,
            })  # fmt: skip
    return lines


def linear_until(flop: float, rate: float, total: float, last: float, buckets: int, link: str) -> int:
    """Return the largest power of two of ranks that share one batch with an efficiency of at least LINEAR."""
    N = 1
    while N < 2**20:
        each = flop / rate / (2 * N)
        if each / (each + exposed(2 * N, total, last, buckets, each, link)) < LINEAR:
            break
        N *= 2
    return N


def parser() -> cli.Parser:
    p = cli.Parser(prog=f"python -m {PROG}", description=__doc__.splitlines()[0])
    p.add_argument("--tflops", type=float, default=100.0,
                   help="10^12 operations a second of a GPU, an assumption (default: 100)")  # fmt: skip
    p.add_argument("--out", type=Path, default=measure.RESULTS / "ranks",
                   help="folder with ranks.json (default: benchmarks/results/ranks)")  # fmt: skip
    return p


def main(argv: list[str] | None = None) -> int:
    args = parser().parse_args(argv)
    cli.require_at_least(args, tflops=0.001)
    cli.require_folder(args.out)
    measured = _stored(args.out / "ranks.json", "ranks")
    step = _stored(measure.RESULTS / "train_step" / "train_step.json", "train_step")
    summary = measured["configs"]["published"]["summary"]
    (label,) = (name for name in summary if name.endswith("ranks, the same batch"))
    N = int(label.split()[0])
    total = summary[label]["sent_bytes"] * N / (2 * (N - 1))  # counted: 2 (N - 1) / N of the gradient is sent
    buckets = buckets_of(AdamW(GAM(GAMConfig()).parameters()))
    at = buckets[-1][1]
    last = 4 * (at.stop - at.start)
    flop, rate = step["configs"]["published"]["floor_flops"], 1e12 * args.tflops
    lines = predict(flop, rate, total, last, len(buckets))
    limits = {link: linear_until(flop, rate, total, last, len(buckets), link) for link in LINKS}
    content = {
        "gradient_bytes": total, "last_bucket_bytes": last, "buckets": len(buckets), "flop": flop,
        "flop_per_second": rate, "measured": provenance.measured_by("numpy"), "lines": lines,
        "linear_until": limits,
    }  # fmt: skip
    report.write(
        args.out, "ranks_model", content, [{"measured": content["measured"]}], _markdown(content),
        plot(content),
    )  # fmt: skip
    return 0


def _stored(path: Path, benchmark: str) -> dict:
    """Read the result of another benchmark. Raises InputError where there is none of the published size."""
    remedy = f"run python -m benchmarks.{benchmark} first"
    content = read_json(path, remedy) if path.exists() else {}
    if "published" not in content.get("configs", {}):
        raise InputError(f"{path}: no measurement of the published size; {remedy}")
    return content


def _markdown(c: dict) -> str:
    heads = ["link", "ranks", "weak scaling", "strong scaling", "waiting in a step (ms)"]
    lines = [
        [line["link"], str(line["ranks"]), f"{line['weak']:.1%}", f"{line['strong']:.1%}",
         f"{1e3 * line['exposed_seconds']:.2f}"]
        for line in c["lines"]
    ]  # fmt: skip
    limits = "; ".join(f"{link}: {n}" for link, n in c["linear_until"].items())
    return (
        f"ranks_model: predicted, not measured. The published GAM, {c['flop'] / 1e12:.2f} TFLOP in a step at "
        f"{c['flop_per_second'] / 1e12:.0f} TFLOP/s: {1e3 * c['flop'] / c['flop_per_second']:.1f} ms. "
        f"A gradient has {c['gradient_bytes'] / 1e6:.1f} MB in {c['buckets']} buckets, the last of "
        f"{c['last_bucket_bytes'] / 1e6:.1f} MB.\n\n{report.table(heads, lines)}\n"
        f"Most ranks that share one batch at an efficiency of {LINEAR:.0%} or more: {limits}.\n"
    )


def plot(c: dict):
    """Return a figure: the efficiency of weak scaling by number of ranks, a line for each link."""
    figure, axes = panels("ranks", "efficiency", "predicted, weak scaling")
    N = [2**i for i in range(1, 11)]
    computing = c["flop"] / c["flop_per_second"]
    curves = {}
    for link in LINKS:
        waits = [
            exposed(n, c["gradient_bytes"], c["last_bucket_bytes"], c["buckets"], computing, link) for n in N
        ]
        curves[link] = N, [computing / (computing + e) for e in waits]
    draw(axes, curves)
    axes.set_xscale("log", base=2)
    axes.set_xticks(N, N)
    axes.set_ylim(0.0, 1.05)
    axes.legend(**LEGEND, loc="center right", bbox_to_anchor=(1.0, 0.25))
    return finish(figure)


if __name__ == "__main__":
    cli.run(main, PROG)
