"""Plots of training runs: losses against steps, and the final losses of several runs."""

from collections.abc import Callable, Mapping, Sequence
from itertools import cycle
from typing import TYPE_CHECKING, Any

from minigam.viz.style import (
    GREEN,
    INK,
    LEGEND,
    PURPLE,
    STYLES,
    VERMILION,
    blank,
    draw,
    finish,
    range_of,
    styles_of,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

OPENING = 0.1  # share of the steps, the first ones, whose losses need not fit the plot: they fall steeply
KINDS = {"recall": (VERMILION, "^:"), "choice": (GREEN, "s-"), "syntax": (PURPLE, "v-.")}


def loss_plot(metrics: list[dict], title: str = "") -> "Figure":
    """Plot training and validation loss against steps, with the entropy floor if it is known.

    The axis shows the range of the validation losses, or of the training losses if there are none yet, after
    the first tenth of the steps. If the training began above it, the legend says where.

    metrics : the lines of a run's metrics.jsonl; if they have kinds of tokens, a second panel shows
              the validation loss of each kind and its floor
    """
    training = {m["step"]: m["loss"] for m in metrics if "lr" in m}
    validations = [m for m in metrics if "lr" not in m]
    validation = {m["step"]: m["loss"] for m in validations}
    by_kind = any("kinds" in m for m in validations)
    floor = validations[-1].get("floor") if validations else None
    figure, grid = blank(10.0 if by_kind else 6.0, 4.0, columns=2 if by_kind else 1, sharex=True)
    axes = grid[0]
    late = _late(validation) or _late(training)
    (bottom, top), _ = range_of([*late, *([] if floor is None else [floor])], {})
    first = next(iter(training.values()), bottom)
    begins = f"training, begins at {first:.2f}" if first > top else "training"
    axes[0].plot([*training], [*training.values()], color=INK, linewidth=0.8, label=begins)
    axes[0].plot([*validation], [*validation.values()], **STYLES[0], markersize=5, label="validation")
    if floor is not None:
        axes[0].axhline(floor, color=INK, linestyle="--", label=f"floor, {floor:.3f} nats")
    axes[0].set_ylim(bottom, top)
    axes[0].set_ylabel("loss (nats per token)")
    if by_kind:
        _by_kind(axes[1], validations)
    for a in axes:
        a.set_xlabel("step")
        a.legend(**LEGEND)
    axes[0].set_title(title, fontsize=10, parse_math=False)  # a name may contain a $
    return finish(figure)


def _late(losses: dict[int, float]) -> list[float]:
    """Return the losses after the first tenth of the steps."""
    return [loss for step, loss in losses.items() if step > OPENING * max(losses)]


def _by_kind(axes: "Axes", validations: list[dict]) -> None:
    values = []
    for kind, (colour, style) in KINDS.items():
        losses = {m["step"]: m["kinds"][kind]["loss"] for m in validations if kind in m.get("kinds", {})}
        if losses:
            floor = next(m["kinds"][kind]["floor"] for m in validations[::-1] if kind in m.get("kinds", {}))
            axes.plot([*losses], [*losses.values()], style, color=colour, markersize=5, label=kind)
            axes.axhline(floor, color=colour, linestyle="--", linewidth=0.9)
            values += [*_late(losses), floor]
    axes.set_ylim(range_of(values, {})[0])
    axes.set_title("validation by kind of token, floors dashed", fontsize=10)


def comparison_plot(
    runs: Mapping[str, Sequence[dict]], baselines: dict[str, float] | None = None, title: str = ""
) -> "Figure":
    """Plot the final validation losses of several runs: for each label a row with a point for each seed,
    and their mean at its right.

    runs      : for each label the results of its seeds, each with "loss" and, where it is known, "floor"; if
                all have "kinds" of tokens, a second panel shows the loss on recall tokens
    baselines : losses in nats, such as those of n-grams; lines if they are near, else named under the axis
    """
    results = [result for seeds in runs.values() for result in seeds]
    by_kind = all("recall" in result.get("kinds", {}) for result in results)
    figure, grid = blank(
        9.5 if by_kind else 6.5, 1.9 + 0.38 * len(runs), columns=2 if by_kind else 1, sharey=True
    )
    floor = {"floor": results[0]["floor"]} if "floor" in results[0] else {}
    losses = {label: [result["loss"] for result in seeds] for label, seeds in runs.items()}
    _rows(grid[0, 0], losses, floor, baselines or {}, title or "all tokens")
    if by_kind:
        recall = {label: [r["kinds"]["recall"]["loss"] for r in seeds] for label, seeds in runs.items()}
        _rows(grid[0, 1], recall, {"floor": 0.0}, {}, "recall tokens alone")
    grid[0, 0].invert_yaxis()  # of both, which share it
    return finish(figure)


def curves_plot(
    runs: Mapping[str, Sequence[dict]], baselines: dict[str, float] | None = None, title: str = ""
) -> "Figure":
    """Plot the losses of several runs against the step: for each label the validation losses, the mean over
    its seeds, and the training losses of each seed as a thin line.

    The axis shows the range of the losses after the first tenth of the steps.

    runs      : for each label the curves of its seeds, each {"train": [[step, loss], ...], "valid": the same}
    baselines : losses in nats, such as those of n-grams; lines if they are near, else named under the axis
    """
    figure, grid = blank(7.5, 4.5)
    axes, styles = grid[0, 0], styles_of(runs)
    means: dict[str, tuple[list[int], list[float]]] = {}
    late: list[float] = []
    for label, seeds in runs.items():
        for curve in seeds:
            axes.plot(*zip(*curve["train"]), color=styles[label]["color"], linewidth=0.7, alpha=0.5)
            late += _late(dict(curve["train"]))
        by_step = [dict(curve["valid"]) for curve in seeds]
        steps = [step for step in by_step[0] if all(step in losses for losses in by_step)]
        means[label] = steps, [sum(losses[step] for losses in by_step) / len(by_step) for step in steps]
        late += _late(dict(zip(*means[label])))
    draw(axes, means)
    limits, outside = _constants(axes.axhline, late, baselines or {})
    axes.set_ylim(limits)
    axes.set_xlabel(f"step (thin: training){outside}")
    axes.set_ylabel("loss (nats per token)")
    axes.set_title(title, fontsize=10, parse_math=False)
    axes.legend(**LEGEND, ncols=2)
    return finish(figure)


def _constants(
    draw_line: Callable, values: list[float], constants: dict[str, float]
) -> tuple[tuple[float, float], str]:
    """Draw the constants that are near some values as lines, with their labels; return the limits of the
    axis, and a line for its label that names the others."""
    limits, far = range_of(values, constants)
    near = {label: value for label, value in constants.items() if label not in far}
    for (label, value), dash in zip(near.items(), cycle(("--", ":", "-.", (0, (1, 4))))):
        draw_line(value, color=INK, linestyle=dash, linewidth=1.2, label=f"{label}, {value:.2f}")
    outside = ", ".join(f"{label} {constants[label]:.2f}" for label in far)
    return limits, f"\noutside: {outside}" if far else ""


def _rows(
    axes: "Axes",
    losses: dict[str, list[float]],
    floor: dict[str, float],
    others: dict[str, float],
    title: str,
) -> None:
    """Draw a row of points for each label, and the constants; name those that are far off under the axis."""
    styles: dict[str, dict[str, Any]] = styles_of(losses)
    for i, (label, values) in enumerate(losses.items()):
        look = {"color": styles[label]["color"], "marker": styles[label]["marker"]}
        axes.plot(values, [i] * len(values), **look, linestyle="none", markersize=7, label=label)
        mean = f"{sum(values) / len(values):.3f}"
        axes.text(1.02, i, mean, transform=axes.get_yaxis_transform(), va="center", fontsize=9)
    drawn = [value for values in losses.values() for value in values] + [*floor.values()]
    n = len(axes.lines)
    limits, outside = _constants(axes.axvline, drawn, floor | others)
    constants = axes.lines[n:]
    axes.set_xlim(limits)
    axes.set_ylim(-0.6, len(losses) + 0.2)  # a free row, for the legend
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0)  # or the means would seem to be the next panel's
    axes.set_yticks(range(len(losses)), [*losses], parse_math=False)
    axes.set_xlabel(f"validation loss (nats per token){outside}")
    axes.set_title(title, fontsize=10, parse_math=False)
    axes.legend(handles=[*constants], **LEGEND, ncols=2, loc="best")
