"""Line styles and axes that all plots share."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STYLES = ("ko-", "ks--", "k^:", "kv-.", "kD-")  # distinguishable without colour


def panels(
    xlabel: str = "",
    ylabel: str = "",
    title: str = "",
    *,
    n: int = 1,
    rows: int = 1,
    size: tuple[float, float] | None = None,
) -> tuple["Figure", Any]:
    """Return a matplotlib Figure and its axes: one, n side by side, or an array (rows, n) for several rows.

    size : width and height in inches
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=size or (min(10.0, 2.0 + 4.0 * n), 3.5 * rows), layout="constrained")
    axes = figure.subplots(rows, n, squeeze=rows == 1)
    for a in figure.axes:
        a.set(xlabel=xlabel, ylabel=ylabel)
        a.set_title(title, fontsize=10)
        a.grid(alpha=0.3)
    return figure, axes
