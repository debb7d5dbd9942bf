"""Plots of cost against the length of the text, on logarithmic axes."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from minigam.viz.style import blank, draw, finish, label_ends

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
    """Plot a cost against the length, each line named at its end. A power law is a straight line.

    Its exponent is the slope.

    measured : for each label a value at every length, None if it is missing
    fits     : for each label the exponent of T for its name, alone or with its standard error
    """
    figure, grid = blank(7.0, 4.0)
    draw_against_length(grid[0, 0], lengths, measured, fits or {}, ylabel)
    return finish(figure)


def draw_against_length(
    axes: "Axes", lengths: Sequence[int], measured: Mapping[str, Values], fits: dict[str, Fit], ylabel: str
) -> None:
    """Draw the curves of `complexity_plot` on these axes."""
    curves, names = {}, {}
    for label, values in measured.items():
        points = {T: v for T, v in zip(lengths, values, strict=True) if v is not None}
        if not points:  # a logarithmic axis cannot be empty
            continue
        curves[label] = [*points], [*points.values()]
        names[label] = label + (_power(fits[label]) if label in fits else "")
    draw(axes, curves, names)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks(lengths, [str(T) for T in lengths])
    axes.set_xlabel("T, tokens")
    axes.set_ylabel(ylabel)
    label_ends(axes)


def _power(fit: Fit) -> str:
    p, *error = fit if isinstance(fit, tuple | list) else (fit,)
    return f", T^{p:.2f}" + "".join(f" ± {e:.2f}" for e in error)
