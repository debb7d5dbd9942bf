"""Plots of experiments: cost against length, recall and influence against distance."""

from typing import TYPE_CHECKING

from minigam.viz.cost import draw_against_length
from minigam.viz.style import INK, LEGEND, RIGHT_OF_AXES, blank, draw, finish

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def scaling_plot(
    cells: dict[str, dict[int, dict]], fits: dict[str, dict], title: str = "one block, forward and backward"
) -> "Figure":
    """Plot time and peak memory against the length, on logarithmic axes.

    cells : for each label and length T "time_ms" and "peak_mib", None if that length was left out
    fits  : for each label the exponents of T, under the same names
    """
    figure, grid = blank(11.0, 4.0, columns=2)
    lengths = sorted({T for row in cells.values() for T in row})
    for axes, what, unit in zip(
        grid[0], ("time_ms", "peak_mib"), ("time (ms)", "peak memory (MiB)"), strict=True
    ):
        measured = {
            label: [row[T][what] if T in row else None for T in lengths] for label, row in cells.items()
        }
        powers = {label: fits[label][what] for label in cells if what in fits[label]}
        draw_against_length(axes, lengths, measured, powers, unit)
        axes.set_title(title, fontsize=10)
    return finish(figure)


OFTEN = 100  # queries at one distance, at least, whose accuracy is drawn or reported


def recall_plot(curves: dict[str, dict[str, dict]], reach: dict[str, int | None], chance: float) -> "Figure":
    """Plot the accuracy of recall against the distance, with every finite receptive field as a line.

    curves : for each label {distance: {"accuracy": ..., "queries": their number}}; a distance with fewer
             queries than OFTEN is noise and not drawn
    """
    figure, grid = blank(8.5, 4.0)
    axes = grid[0, 0]
    often = {
        label: {int(d): c["accuracy"] for d, c in by_distance.items() if c["queries"] >= OFTEN}
        for label, by_distance in curves.items()
    }
    draw(axes, {label: ([*points], [*points.values()]) for label, points in often.items()})
    _fields(axes, reach, 0.0)
    axes.axhline(chance, color=INK, linestyle="--", linewidth=0.9, label=f"chance, {chance:.1%}")
    axes.set_xlabel("distance from the pair to the query (tokens)")
    axes.set_ylabel("accuracy")
    axes.set_ylim(-0.03, 1.03)
    axes.legend(**LEGEND, **RIGHT_OF_AXES)
    return finish(figure)


def reach_plot(influence: dict[str, list[float]], reach: dict[str, int | None]) -> "Figure":
    """Plot how much a prediction changes when the token d positions back is replaced, d = 0, 1, ...

    influence : for each label the mean total variation distance at every d; zeros are not drawn
    """
    figure, grid = blank(8.5, 4.0)
    axes = grid[0, 0]
    moved = {label: {d: v for d, v in enumerate(values) if v > 0.0} for label, values in influence.items()}
    draw(axes, {label: ([*points], [*points.values()]) for label, points in moved.items()})
    _fields(axes, reach, 0.5)
    axes.set_yscale("log")
    axes.set_xlabel("d, distance of the replaced token (tokens)")
    axes.set_ylabel("change of the prediction (total variation)")
    axes.legend(**LEGEND, **RIGHT_OF_AXES)
    return finish(figure)


def _fields(axes: "Axes", reach: dict[str, int | None], back: float) -> None:
    """Draw every finite receptive field as a line, `back` tokens before its length."""
    for label, tokens in reach.items():
        if tokens is not None:
            name = f"receptive field of\n{label}, {tokens} tokens"
            axes.axvline(tokens - back, color=INK, linestyle=":", linewidth=1.2, label=name)
