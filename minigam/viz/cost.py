"""Plots of cost against the length of the text, on logarithmic axes."""

from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import TYPE_CHECKING

from minigam.viz.style import STYLES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Values = Sequence[float | None]
Fit = float | tuple[float, float]  # an exponent, or an exponent and its standard error


def complexity_plot(
    lengths: Sequence[int],
    measured: Mapping[str, Values],
    fits: dict[str, Fit] | None = None,
    ylabel: str = "time (ms)",
) -> "Figure":
    """Plot a cost against the length. A power law is a straight line, and its exponent the slope.

    measured : for each label a value at every length, None if it is missing
    fits     : for each label the exponent of T for the legend, alone or with its standard error
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    draw_against_length(figure.subplots(), lengths, measured, fits or {}, ylabel)
    return figure


def draw_against_length(
    axes: "Axes", lengths: Sequence[int], measured: Mapping[str, Values], fits: dict[str, Fit], ylabel: str
) -> None:
    """Draw the curves of `complexity_plot` on these axes."""
    for (label, values), style in zip(measured.items(), cycle(STYLES), strict=False):
        points = {T: v for T, v in zip(lengths, values, strict=True) if v is not None}
        if points:  # a logarithmic axis cannot be empty
            power = _power(fits[label]) if label in fits else ""
            axes.loglog(points.keys(), points.values(), style, markersize=4, label=label + power)
    axes.set_xscale("log", base=2)
    axes.set_xticks(lengths, [str(T) for T in lengths])
    axes.set_xlabel("T, tokens")
    axes.set_ylabel(ylabel)
    axes.grid(alpha=0.3)
    if axes.lines:
        axes.legend(frameon=False)


def _power(fit: Fit) -> str:
    p, *error = fit if isinstance(fit, tuple | list) else (fit,)
    return f", T^{p:.2f}" + "".join(f" ± {e:.2f}" for e in error)
