"""The tables and the plot of `benchmarks.gpu`."""

from statistics import median

import numpy as np

from benchmarks import measure
from minigam.experiments import paper, report
from minigam.viz import STYLES


def markdown(found: dict, jobs: dict, pairs: int) -> str:
    """Return the report on the measurements {part: {precision: {"rounds", "failed"}}}."""
    text = (
        f"gpu: {pairs} rounds in alternation, each measurement in its own process, timed by CUDA events. "
        "Memory is what the library took from the device. Ratios within a round: median (least to most).\n"
    )
    if "step" in found:
        m = jobs["step"]["model"]
        text += (
            f"\nOne training step: V {m['vocab_size']}, T {m['block_size']}, C {m['d_model']}, "
            f"L {m['n_layers']}, S {m['n_slots']}, K {m['kernel_size']}, B {jobs['step']['batch']}, dropout "
            f"{m['dropout']}; PyTorch compiled also has fused AdamW. "
            "Ratios are to the first line of each precision.\n\n"
        )
        text += report.table(
            ["", "precision", "ms / step", "time ratio", "memory (MiB)", "memory ratio"],
            [line for precision, result in found["step"].items() for line in _step_lines(precision, result)],
        )
    if "table2" in found:
        scale = jobs["table2"]["scale"]
        text += (
            f"\nTable 2: one block, forward and backward, batch {scale['batch']}, C {scale['d_model']}, "
            "no dropout; medians. The paper used another GPU and mixed precision.\n"
        )
        for what, unit in (("time_ms", "time (ms)"), ("peak_mib", "memory (MiB)")):
            lengths = jobs["table2"]["lengths"]
            body = [
                [label, *("out of memory" if c[what] is None else f"{c[what]:.2f}" for c in by_T.values())]
                for label, by_T in table2(found["table2"]).items()
            ]
            theirs = dict(zip(paper.LENGTHS, paper.TABLE2["gam"][what.replace("mib", "mb")], strict=True))
            unit_there = "" if what == "time_ms" else " (MB)"
            body.append([f"paper: GAM{unit_there}", *(str(theirs.get(T, "")) for T in lengths)])
            text += "\n" + report.table([unit, *map(str, lengths)], body)
    for part, by_precision in found.items():
        for result in by_precision.values():
            text += "".join(f"\nLeft out of {part}: {why}\n" for why in result["failed"].values())
    return text


def _step_lines(precision: str, result: dict) -> list[list[str]]:
    rounds = result["rounds"]
    if not rounds[0]:
        return []
    return [
        [
            name,
            precision,
            f"{1e3 * r['seconds']:.2f}",
            measure.shown(r["time_ratio"]),
            f"{r['peak_mib']:.0f}",
            measure.shown(r["memory_ratio"]),
        ]
        for name, r in measure.summary(rounds, next(iter(rounds[0]))).items()
    ]


def table2(by_precision: dict) -> dict[str, dict[int, dict]]:
    """Return for each line "competitor, precision" and length the medians over the rounds: "time_ms" and
    "peak_mib", None if memory ran out."""
    lines = {}
    for precision, result in by_precision.items():
        for name in result["rounds"][0]:
            rounds = [results[name]["lengths"] for results in result["rounds"]]
            lines[f"{name}, {precision}"] = {int(T): _cell([by_T[T] for by_T in rounds]) for T in rounds[0]}
    return lines


def _cell(rounds: list[dict | None]) -> dict:
    if None in rounds:
        return {"time_ms": None, "peak_mib": None}
    return {
        "time_ms": 1e3 * median(r["seconds"] for r in rounds),
        "peak_mib": median(r["peak_mib"] for r in rounds),
    }


def plot(found: dict):
    """Return a figure: bars of a step's time by precision, and table 2 against the length."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(2.0 + 5.0 * len(found), 4), layout="constrained")
    axes = dict(zip(found, np.atleast_1d(figure.subplots(1, len(found)))))
    if "step" in found:
        _bars(axes["step"], found["step"])
    if "table2" in found:
        _curves(axes["table2"], table2(found["table2"]))
    return figure


def _bars(axes, by_precision: dict) -> None:
    greys, hatches = ("0.3", "0.65", "0.9"), ("", "///", "...")
    names = list(dict.fromkeys(name for result in by_precision.values() for name in result["rounds"][0]))
    for i, name in enumerate(names):
        measured = [
            (place, r["rounds"]) for place, r in enumerate(by_precision.values()) if name in r["rounds"][0]
        ]
        heights = [1e3 * median(results[name]["seconds"] for results in rounds) for _, rounds in measured]
        places = [place + 0.27 * (i - (len(names) - 1) / 2) for place, _ in measured]
        bars = axes.bar(places, heights, 0.27, color=greys[i], edgecolor="k", hatch=hatches[i], label=name)
        axes.bar_label(bars, fmt="%.1f", fontsize=8)
    axes.set_xticks(range(len(by_precision)), by_precision)
    axes.set_ylabel("time of a training step (ms)")
    axes.margins(y=0.15)
    axes.legend(frameon=False, fontsize=8)


def _curves(axes, lines: dict[str, dict[int, dict]]) -> None:
    greys = dict.fromkeys(label.rpartition(", ")[2] for label in lines)
    greys = {precision: f"{0.35 * i:.2f}" for i, precision in enumerate(greys)}
    names = list(dict.fromkeys(label.rpartition(", ")[0] for label in lines))
    for label, by_T in lines.items():
        name, _, precision = label.rpartition(", ")
        points = {T: c["time_ms"] for T, c in by_T.items() if c["time_ms"] is not None}
        style = STYLES[names.index(name)].removeprefix("k")
        axes.loglog(points.keys(), points.values(), style, color=greys[precision], markersize=4, label=label)
    theirs = paper.TABLE2["gam"]["time_ms"]
    axes.loglog(paper.LENGTHS, theirs, "kx:", markersize=5, label="paper, mixed precision, another GPU")
    axes.set_xscale("log", base=2)
    lengths = sorted({T for by_T in lines.values() for T in by_T} | {*paper.LENGTHS})
    axes.set_xticks(lengths, map(str, lengths))
    axes.set_xlabel("T, tokens")
    axes.set_ylabel("one block, forward and backward (ms)")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))  # nine lines
