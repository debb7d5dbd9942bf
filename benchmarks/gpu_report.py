"""The tables and the plot of `benchmarks.gpu`."""

from statistics import median

from benchmarks import measure
from minigam.experiments import paper, report
from minigam.viz.style import INK, LEGEND, RIGHT_OF_AXES, STYLES, bars, blank, finish

MEMORY = ("device (MiB)", "memory ratio", "pool (MiB)", "allocated (MiB)")


def markdown(found: dict, jobs: dict, pairs: int) -> str:
    """Return the report on the measurements {part: {precision: {"rounds", "failed", "left_out"}}}."""
    text = (
        f"gpu: up to {pairs} rounds in alternation, each measurement in its own process, timed by CUDA "
        "events. Device memory: what the device has in use after the steps, minus before the first "
        "allocation. Part of it is the pool: CuPy's pool, or PyTorch's reserved memory, of which PyTorch "
        "counts what was allocated at most. Ratios within a round: median (least to most).\n"
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
            ["", "precision", "rounds", "ms / step", "time ratio", *MEMORY],
            [line for precision, result in found["step"].items() for line in _step_lines(precision, result)],
        )
    if "table2" in found:
        scale = jobs["table2"]["scale"]
        text += (
            f"\nTable 2: one block, forward and backward, batch {scale['batch']}, C {scale['d_model']}, "
            "no dropout; medians. The paper used another GPU and mixed precision.\n"
        )
        units = {"time_ms": "time (ms)", "device_mib": "device memory (MiB)", "peak_mib": "pool (MiB)"}
        for what, unit in units.items():
            lengths = jobs["table2"]["lengths"]
            body = [
                [label, *("out of memory" if c[what] is None else f"{c[what]:.2f}" for c in by_T.values())]
                for label, by_T in table2(found["table2"]).items()
            ]
            what_there, unit_there = ("time_ms", "") if what == "time_ms" else ("peak_mb", " (MB)")
            theirs = dict(zip(paper.LENGTHS, paper.TABLE2["gam"][what_there], strict=True))
            body.append([f"paper: GAM{unit_there}", *(str(theirs.get(T, "")) for T in lengths)])
            text += "\n" + report.table([unit, *map(str, lengths)], body)
    for part, by_precision in found.items():
        for result in by_precision.values():
            reasons = [*result["failed"].values(), *filter(None, [result["left_out"]])]
            text += "".join(f"\nLeft out of {part}: {why}\n" for why in reasons)
    return text


def _step_lines(precision: str, result: dict) -> list[list[str]]:
    rounds, lines = result["rounds"], []
    for name in competitors(result):
        of = {what: [results[name].get(what) for results in rounds] for what in rounds[0][name]}
        time_ratio, memory_ratio = (
            measure.shown(measure.paired(rounds, name, competitors(result)[0], what))
            for what in ("seconds", "device_mib")
        )
        allocated = f"{median(of['allocated_mib']):.0f}" if "allocated_mib" in of else ""
        device, pool = (f"{median(of[what]):.0f}" for what in ("device_mib", "peak_mib"))
        ms = f"{1e3 * median(of['seconds']):.2f}"
        lines.append(
            [name, precision, str(len(rounds)), ms, time_ratio, device, memory_ratio, pool, allocated]
        )
    return lines


def competitors(result: dict) -> list[str]:
    """Return the names of those that were measured, minigam first; none if there are no rounds."""
    return list(result["rounds"][0]) if result["rounds"] else []


def table2(by_precision: dict) -> dict[str, dict[int, dict]]:
    """Return for each line "competitor, precision" and length the medians over the rounds: "time_ms",
    "device_mib" and "peak_mib", None if memory ran out."""
    lines = {}
    for precision, result in by_precision.items():
        for name in competitors(result):
            rounds = [results[name]["lengths"] for results in result["rounds"]]
            lines[f"{name}, {precision}"] = {int(T): _cell([by_T[T] for by_T in rounds]) for T in rounds[0]}
    return lines


def _cell(rounds: list[dict | None]) -> dict:
    memory = ("device_mib", "peak_mib")
    if None in rounds:
        return dict.fromkeys(("time_ms", *memory))
    cell = {what: median(r[what] for r in rounds) for what in memory}
    return cell | {"time_ms": 1e3 * median(r["seconds"] for r in rounds)}


def plot(found: dict):
    """Return a figure: bars of a step's time by precision, and table 2 against the length."""
    figure, (grid,) = blank(2.0 + 5.0 * len(found), 4.0, columns=len(found))
    axes = dict(zip(found, grid))
    if "step" in found:
        _bars(axes["step"], found["step"])
    if "table2" in found:
        _curves(axes["table2"], table2(found["table2"]))
    return finish(figure)


def _bars(axes, by_precision: dict) -> None:
    names = list(dict.fromkeys(name for result in by_precision.values() for name in competitors(result)))
    for i, name in enumerate(names):
        measured = [
            (place, r["rounds"]) for place, r in enumerate(by_precision.values()) if name in competitors(r)
        ]
        heights = [1e3 * median(results[name]["seconds"] for results in rounds) for _, rounds in measured]
        places = [place + 0.27 * (i - (len(names) - 1) / 2) for place, _ in measured]
        drawn = axes.bar(places, heights, 0.27, **bars(i), label=name)
        axes.bar_label(drawn, fmt="%.1f", fontsize=9)
    axes.set_xticks(range(len(by_precision)), by_precision)
    axes.set_ylabel("time of a training step (ms)")
    axes.grid(visible=False, axis="x")
    axes.margins(y=0.15)
    if names:
        axes.legend(**LEGEND)


def _curves(axes, lines: dict[str, dict[int, dict]]) -> None:
    """Draw a line for each competitor, which has a colour and marker, and precision, which has a dash."""
    names, precisions = (
        list(dict.fromkeys(label.rpartition(", ")[part] for label in lines)) for part in (0, 2)
    )
    for label, by_T in lines.items():
        name, _, precision = label.rpartition(", ")
        points = {T: c["time_ms"] for T, c in by_T.items() if c["time_ms"] is not None}
        dash = {"linestyle": ("-", "--", ":", "-.")[precisions.index(precision) % 4]}
        style = STYLES[names.index(name) % len(STYLES)] | dash
        axes.loglog([*points], [*points.values()], **style, markersize=4, label=label)
    theirs = paper.TABLE2["gam"]["time_ms"]
    axes.loglog(
        paper.LENGTHS, theirs, "x:", color=INK, markersize=5, label="paper, mixed precision, another GPU"
    )
    axes.set_xscale("log", base=2)
    lengths = sorted({T for by_T in lines.values() for T in by_T} | {*paper.LENGTHS})
    axes.set_xticks(lengths, map(str, lengths))
    axes.set_xlabel("T, tokens")
    axes.set_ylabel("one block, forward and backward (ms)")
    axes.legend(**LEGEND, **RIGHT_OF_AXES)  # a dozen lines
