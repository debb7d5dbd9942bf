"""One look for all plots: colours, markers and dashes, axes, and files with a transparent ground.

A reader's page may be white or dark, so no plot has a ground of its own. Text and axes are in one grey whose
contrast is the same on both. The colours are those of Okabe and Ito that show on both; the colour-blind can
tell them apart. Each has its own marker and dash, which remain in a greyscale print.
"""

from collections.abc import Iterable, Mapping, Sequence
from itertools import cycle
from textwrap import fill
from typing import TYPE_CHECKING, Any

import numpy as np

from minigam.config import WRITTEN_LABEL

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure

INK = "#7b7b7b"  # text, axes and reference lines: a contrast of 4.2 on white and on a page like #13171c
BLUE, VERMILION, GREEN, PURPLE, ORANGE = COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00")


def _style(color: str, marker: str, linestyle: str) -> dict[str, Any]:
    return {"color": color, "marker": marker, "linestyle": linestyle}


STYLES = tuple(map(_style, COLOURS, "os^vD", ("-", "--", ":", "-.", "-")))  # axes.plot(x, y, **STYLES[0])
OF_MODEL = {  # the same in every plot
    "GAM": STYLES[0],
    "full (gated)": STYLES[0],  # table 3's name for it
    "Transformer": STYLES[1],
    "Mamba": STYLES[2],
    WRITTEN_LABEL: STYLES[3],
    "Mamba, stacked bare": STYLES[4],
}
HATCHES = ("", "///", "...", "xxx", "---")
LEGEND: dict[str, Any] = {"frameon": False, "fontsize": 9}
RIGHT_OF_AXES: dict[str, Any] = {"loc": "center left", "bbox_to_anchor": (1.01, 0.5)}
_LINE = 0.165  # inches of a line of text of 9 points
_LETTERS = 28  # in a line of the label at the end of a curve, at most


def styles_of(labels: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Return a style for each label, to unpack into axes.plot: a model's own, for others one that is free.

    A library's name may come first: "minigam GAM" looks as "GAM" does, "PyTorch GAM" has its colour with
    hollow markers and a dash of its own.
    """
    labels = list(labels)
    styles: dict[str, dict[str, Any]] = {}
    for label in labels:
        library, _, rest = label.partition(" ")
        if library == "PyTorch" and (model := rest.split(",")[0]) in OF_MODEL:
            styles[label] = OF_MODEL[model] | {
                "markerfacecolor": "none",
                "linestyle": (0, (5, 1, 1, 1, 1, 1)),
            }
        elif (model := label.removeprefix("minigam ")) in OF_MODEL:
            styles[label] = OF_MODEL[model]
    taken = {style["color"] for style in styles.values()}
    free = cycle([style for style in STYLES if style["color"] not in taken] or STYLES)
    return {label: styles.get(label) or next(free) for label in labels}


def draw(
    axes: "Axes", curves: Mapping[str, tuple[Sequence[float], Sequence[float]]], names: Mapping[str, str] = {}
) -> None:
    """Draw a line with markers for each label -> (x, y).

    Lines that lie on each other both show: the first, a dashed one too, is on top, and where there are many
    points the lines take turns at having a marker.

    names : for the legend, where they differ from the labels
    """
    n, most = len(curves), max((len(x) for x, _ in curves.values()), default=0)
    step = 1 if most <= 12 else max(n, most // 12)
    styles = styles_of(curves)
    for i, (label, (x, y)) in enumerate(curves.items()):
        axes.plot(
            x, y, **styles[label], label=names.get(label, label), markersize=5, linewidth=1.4,
            markevery=(i * step // n, step), zorder=3 - i / n,
        )  # fmt: skip


def bars(i: int) -> dict[str, Any]:
    """Return the look of the i-th set of bars: a pale colour, its edge and hatch in the full one."""
    from matplotlib.colors import to_rgba

    colour, hatch = COLOURS[i % len(COLOURS)], HATCHES[i % len(HATCHES)]
    return {"facecolor": to_rgba(colour, 0.4), "edgecolor": colour, "hatch": hatch, "ecolor": INK}


def shades() -> "Colormap":
    """Return a colour map for pictures of numbers from 0: the more, the stronger the blue. What is masked,
    and almost what is least, lets the page show."""
    from matplotlib.colors import LinearSegmentedColormap, to_rgba

    ends = [to_rgba(BLUE, 0.0), to_rgba(BLUE, 1.0)]
    return LinearSegmentedColormap.from_list("shades", ends).with_extremes(bad="none")


def blank(
    width: float,
    height: float,
    rows: int = 1,
    columns: int = 1,
    *,
    sharex: bool = False,
    sharey: bool = False,
) -> tuple["Figure", Any]:
    """Return a figure of so many inches, and an array (rows, columns) of axes with a grid and our colours."""
    from cycler import cycler
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False, sharex=sharex, sharey=sharey)
    for axes in grid.flat:
        axes.set_prop_cycle(cycler(color=COLOURS))
        axes.grid()
        axes.set_axisbelow(True)
    return finish(figure), grid


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

    Lines take our colours in turn: axes.plot(x, y, "o-").

    size : width and height in inches
    """
    width, height = size or (min(10.0, 2.0 + 4.0 * n), 3.5 * rows)
    figure, grid = blank(width, height, rows, n)
    for a in figure.axes:
        a.set(xlabel=xlabel, ylabel=ylabel)
        a.set_title(title, fontsize=10)
    return figure, grid if rows > 1 else grid[0] if n > 1 else grid[0, 0]


def finish(figure: "Figure") -> "Figure":
    """Make the ground of a figure transparent, its axes and black text grey, its legends frameless.

    Call it last: what is drawn later has matplotlib's own colours. A second call does no harm.
    """
    from matplotlib import rcParams
    from matplotlib.colors import same_color
    from matplotlib.text import Text

    figure.set_facecolor("none")
    for axes in figure.axes:
        axes.set_facecolor("none")
        axes.tick_params(which="both", colors=INK, grid_color=INK, grid_alpha=0.3)
        for spine in axes.spines.values():
            spine.set_edgecolor(INK)
    for text in figure.findobj(Text):
        if any(same_color(text.get_color(), default) for default in ("black", rcParams["text.color"])):
            text.set_color(INK)
    for legend in [*figure.legends, *filter(None, (axes.get_legend() for axes in figure.axes))]:
        legend.set_frame_on(False)
    return figure


def range_of(values: Iterable[float], references: dict[str, float]) -> tuple[tuple[float, float], list[str]]:
    """Return limits of an axis that the values fill, and the names of the references that lie outside.

    references : constants drawn as lines. The limits include those near the values: no further from them
                 than half their range. A line far off would leave the values a strip.
    """
    low, high = min(values := list(values)), max(values)
    reach = 0.5 * (high - low) or 0.1 * abs(high) or 1.0
    near = [value for value in references.values() if low - reach <= value <= high + reach]
    low, high = min([low, *near]), max([high, *near])
    margin = 0.06 * (high - low) or reach
    return (low - margin, high + margin), [label for label, v in references.items() if v not in near]


def label_ends(axes: "Axes") -> None:
    """Write the label of every line right of the axes, level with its last point or as near as fits.

    Call it when the lines and the scales of the axes are final.
    """
    lines = [line for line in axes.lines if not str(line.get_label()).startswith("_")]
    points = [np.asarray(line.get_xydata())[-1] for line in lines]
    axes.autoscale_view()
    to_fraction = axes.transScale + axes.transLimits
    levels = [to_fraction.transform(end)[1] for end in points]
    names = [fill(str(line.get_label()), _LETTERS) for line in lines]
    tallest = max((name.count("\n") + 1 for name in names), default=1)
    height = (
        axes.get_window_extent().height / axes.figure.dpi
    )  # inches; the layout may still change it a little
    gap = tallest * _LINE / height
    for i, level in zip(sorted(range(len(lines)), key=levels.__getitem__), _spread(sorted(levels), gap)):
        axes.annotate(
            names[i], tuple(points[i]), (1.04, level), textcoords="axes fraction", va="center",
            fontsize=9, color=INK, parse_math=False, annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": lines[i].get_color(), "linewidth": 0.8,
                        "shrinkA": 1.0, "shrinkB": 3.0, "relpos": (0.0, 0.5)},
        )  # fmt: skip


def _spread(levels: list[float], gap: float) -> list[float]:
    """Move ascending levels apart to at least the gap, each group about its mean."""
    groups: list[list[float]] = []
    for level in levels:
        groups.append([level])
        while len(groups) > 1 and _places(groups[-2], gap)[-1] + gap > _places(groups[-1], gap)[0]:
            groups[-2:] = [groups[-2] + groups[-1]]
    return [place for group in groups for place in _places(group, gap)]


def _places(group: list[float], gap: float) -> list[float]:
    middle = sum(group) / len(group)
    return [middle + (i - (len(group) - 1) / 2) * gap for i in range(len(group))]
