"""Plots of receptive fields: influence of each token on each output, connections, and a marked text."""

from typing import TYPE_CHECKING

import numpy as np

from minigam.viz.style import BLUE, INK, LEGEND, VERMILION, blank, finish, shades

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

COLUMNS = 84  # characters per line of a drawn text
POINTS = 9.0  # its font size
WIDTH = 0.602  # of a letter of DejaVu Sans Mono, relative to the font size


def influence_map(
    influence: "np.ndarray | dict[str, np.ndarray]",
    reach: "int | dict[str, int | None] | None" = None,
    title: str = "",
    unit: str = "influence (largest change of a logit)",
) -> "Figure":
    """Plot how much every input token changes every output: a stronger colour is more, none is exactly 0.

    influence : (T, T), at least 0, with outputs in rows and inputs in columns; or label -> such an array,
                drawn side by side on one scale
    reach     : tokens in the receptive field, the current one included; drawn as a line. None for all
    unit      : label of the colour bar
    """
    from matplotlib.colors import ListedColormap, LogNorm

    maps = influence if isinstance(influence, dict) else {title: influence}
    reaches = reach if isinstance(reach, dict) else dict.fromkeys(maps, reach)
    positive = np.concatenate([z[z > 0].ravel() for z in map(np.asarray, maps.values())])
    low, high = (positive.min(), positive.max()) if positive.size else (0.1, 1.0)
    seen = ListedColormap(shades()(np.linspace(0.2, 1.0, 256))).with_extremes(bad="none")
    n = len(maps)
    figure, (grid,) = blank(1.4 + 3.1 * n, 3.7 if n > 1 or title else 3.5, columns=n, sharey=True)
    for axes, (label, z) in zip(grid, maps.items(), strict=True):
        axes.grid(visible=False)
        z = np.asarray(z, dtype=float)
        image = axes.imshow(
            np.ma.masked_less_equal(z, 0.0),
            cmap=seen,
            norm=LogNorm(low, high if high > low else low * 10.0),
            interpolation="nearest",
        )
        T, R = len(z), reaches.get(label)
        if R is not None and T > R:
            edge = np.array([R, T]) - 0.5  # between the furthest input in the field and the next
            axes.plot(
                edge - R, edge, "--", color=VERMILION, linewidth=1.5, label=f"receptive field, {R} tokens"
            )
            axes.legend(**LEGEND, loc="upper right")
        axes.set_xlabel("position of the input (tokens)")
        axes.set_title(label, fontsize=10, parse_math=False)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.yaxis.get_major_locator().set_params(integer=True)
    figure.axes[0].set_ylabel("position of the output (tokens)")
    figure.colorbar(image, ax=figure.axes, label=unit, shrink=0.85)
    if title and isinstance(influence, dict):
        figure.suptitle(title, fontsize=10, parse_math=False)
    return finish(figure)


def receptive_field(n_layers: int, kernel_size: int) -> "Figure":
    """Plot the positions that the last output depends on, for L blocks with K taps: a triangle."""
    L, K = n_layers, kernel_size
    R = 1 + L * (K - 1)
    shown = R + 2
    figure, ((axes,),) = blank(min(10.0, 1.6 + 0.5 * shown), 1.6 + 0.55 * L)
    axes.grid(visible=False)
    outside = [(-d, level) for level in range(L + 1) for d in range(1 + (L - level) * (K - 1), shown)]
    inside = [(-d, level) for level in range(L + 1) for d in range(1 + (L - level) * (K - 1))]
    for x, level in inside:
        for j in range(K if level else 0):
            axes.plot([x, x - j], [level, level - 1], color=INK, linewidth=0.8, zorder=1)
    axes.plot(*zip(*outside, strict=True), "o", color=INK, markerfacecolor="none", label="outside")
    axes.plot(*zip(*inside, strict=True), "o", color=BLUE, label="in the receptive field")
    axes.set_xticks(range(1 - shown, 1), [f"t - {d}" if d else "t" for d in range(shown - 1, -1, -1)])
    axes.tick_params(axis="x", labelsize=8)
    axes.set_yticks(range(L + 1), ["tokens", *(f"block {level}" for level in range(1, L + 1))])
    axes.set_xlabel("position (tokens)")
    axes.set_title(f"L = {L}, K = {K}: a receptive field of {R} tokens", fontsize=10)
    figure.legend(**LEGEND, ncols=2, loc="outside lower center")
    return finish(figure)


def text_in_sight(words: list[str], target: int, mention: int, reach: int | None) -> "Figure":
    """Draw a text and mark the receptive field of a model that predicts the word `target`.

    words   : of the text; those after the target are left out
    mention : index of the word that determines the target; it gets a frame
    reach   : words in the receptive field, just before the target: white on blue, earlier ones on
              the page. None for all
    """
    from matplotlib.figure import Figure

    lines = _lines(words[: target + 1])
    count = 1 + max(line for line, _ in lines)
    letter_in = WIDTH * POINTS / 72.0  # width of a letter, in inches
    height = 0.27  # of a line, in inches
    figure = Figure(figsize=(COLUMNS * letter_in + 0.3, count * height + 0.2))
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    axes.set(xlim=(-0.15 / letter_in, COLUMNS + 0.15 / letter_in), ylim=(count + 0.1 / height, -0.1 / height))
    axes.axis("off")
    for i, (word, (line, column)) in enumerate(zip(words[: target + 1], lines, strict=True)):
        inside = target - (target if reach is None else reach) <= i < target
        if inside or i in (target, mention):
            axes.add_patch(_box(column, line, len(word), fill=inside, framed=i in (target, mention)))
        axes.text(
            column,
            line + 0.5,
            "?" * len(word) if i == target else word,
            family="DejaVu Sans Mono",
            fontsize=POINTS,
            va="center",
            color="white" if inside else INK,
            weight="bold" if i in (target, mention) else "normal",
            parse_math=False,
        )
    return finish(figure)


def _box(column: int, line: int, letters: int, fill: bool, framed: bool) -> "Rectangle":
    from matplotlib.patches import Rectangle

    return Rectangle(
        (column - 0.4, line + 0.06),
        letters + 0.8,
        0.88,
        facecolor=BLUE if fill else "none",
        edgecolor=VERMILION if framed else "none",
        linewidth=2.0 if framed else 0.0,
    )


def _lines(words: list[str]) -> list[tuple[int, int]]:
    """Return the line and column of every word, with one space between words."""
    places, line, column = [], 0, 0
    for word in words:
        if column and column + len(word) > COLUMNS:
            line, column = line + 1, 0
        places.append((line, column))
        column += len(word) + 1
    return places
