"""Plots of the engine: the tape of a tensor."""

from typing import TYPE_CHECKING, Any

from minigam.viz import graph
from minigam.viz.style import BLUE, INK, finish

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_PIXELS = 100.0  # per inch: at 100 dpi, one pixel is one pixel of the layout


def graph_plot(tensor: Any) -> "Figure":
    """Draw the graph that computed a tensor, leaves on top, in the layout of `Tensor._repr_svg_`.

    tensor : a Tensor, or an object that `viz.graph` can draw, or one whose `.node` it can draw
    Raises ValueError if there is no tape, or if it has more than `graph.LIMIT` tensors.
    """
    from matplotlib.figure import Figure
    from matplotlib.patches import FancyBboxPatch, PathPatch
    from matplotlib.path import Path

    root = getattr(tensor, "node", tensor)
    if root is None:
        raise ValueError("graph_plot: no tape; the tensor must be computed from one that requires_grad")
    placed = graph.layout(root)
    if placed is None:
        raise ValueError(f"graph_plot: more than {graph.LIMIT} tensors; draw a smaller computation")
    figure = Figure(figsize=(placed.width / _PIXELS, placed.height / _PIXELS))
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, placed.width), ylim=(placed.height, 0))
    axes.axis("off")
    for corners in placed.lines:
        points, codes = [corners[0]], [Path.MOVETO]
        for start, end in zip(corners[1::2], corners[2::2], strict=True):
            points += [start, *graph.bend(start, end), end]
            codes += [Path.LINETO] + 3 * [Path.CURVE4]
        points += graph.head(corners[-1])
        codes += [Path.MOVETO, Path.LINETO, Path.LINETO]
        axes.add_patch(PathPatch(Path(points, codes), fill=False, edgecolor=INK))
    for x, y, title, shape, leaf in placed.boxes:
        edge, radius = (BLUE, graph.HEIGHT / 2) if leaf else (INK, 6)
        axes.add_patch(
            FancyBboxPatch(
                (x - graph.WIDTH / 2, y), graph.WIDTH, graph.HEIGHT,
                boxstyle=f"round,pad=0,rounding_size={radius}", facecolor="none", edgecolor=edge,
            )
        )  # fmt: skip
        for text, below, weight in ((title, 17, "bold"), (shape, 32, "normal")):
            axes.text(x, y + below, text, ha="center", weight=weight, fontsize=8.6, parse_math=False)
    return finish(figure)
