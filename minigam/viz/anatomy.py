"""Plots of the inside of a GAM: gates over the tokens of a text, and the words that excite each slot."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from minigam.viz.style import INK, LEGEND, STYLES, bars, blank, finish

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLUMNS = 4  # slots side by side


def gates_plot(
    tokens: Sequence[str], local_gates: "np.typing.ArrayLike", global_gates: "np.typing.ArrayLike"
) -> "Figure":
    """Plot both gates of every layer over the tokens of a text, one panel per layer.

    tokens                    : the T words, in order
    local_gates, global_gates : (L, T)   a mean over channels of sigmoid(g), from 0 to 1
    Raises ValueError if the shapes do not fit.
    """
    local_gates, global_gates = np.asarray(local_gates), np.asarray(global_gates)
    T, position = len(tokens), np.arange(len(tokens))
    if local_gates.ndim != 2 or local_gates.shape[1] != T or global_gates.shape != local_gates.shape:
        raise ValueError(
            f"gates_plot: {T} tokens, gates {local_gates.shape} and {global_gates.shape}, "
            "wanted T, (L, T) and (L, T)"
        )
    L = len(local_gates)
    figure, grid = blank(10.0, 0.9 + 1.25 * L, rows=L, sharex=True, sharey=True)
    rows = grid[:, 0]
    for layer, axes in enumerate(rows):
        axes.axhline(0.5, color=INK, linewidth=0.9)
        for gates, label, style in zip((local_gates, global_gates), ("local", "global"), STYLES):
            axes.plot(position, gates[layer], **style, markersize=3.5, linewidth=0.8, label=label)
        axes.set_ylabel(f"layer {layer + 1}")
    rows[0].legend(**LEGEND, ncols=2, loc="lower right", bbox_to_anchor=(1.0, 0.98))
    rows[0].set_title("gate, mean over channels (0 closed, 1 open)", fontsize=10, loc="left")
    rows[-1].set_xticks(position, tokens, rotation=90, fontsize=8, parse_math=False)
    rows[-1].set_xlim(-0.5, T - 0.5)
    return finish(figure)


def slots_plot(
    words: Sequence[Sequence[str]], shares: Sequence, titles: Sequence[str] = (), xlabel: str = "mean share"
) -> "Figure":
    """Plot a bar chart for each slot: the words that excite it, the first at the top.

    words, shares : for each slot its words, and its share for each of them, from 0 to 1
    titles        : for each slot the title of its chart; by default its index
    Raises ValueError if the lengths differ, or if there is no slot.
    """
    n = len(words)
    counts = [list(map(len, both)) for both in (words, shares)]
    if n == 0 or counts[0] != counts[1] or len(titles) not in (0, n):
        raise ValueError(
            f"slots_plot: words {counts[0]}, shares {counts[1]}, {len(titles)} titles, wanted at least one "
            "slot and as many of each"
        )
    titles = titles or [f"slot {i}" for i in range(n)]
    columns, lines = min(n, COLUMNS), -(-n // COLUMNS)
    height = 0.9 + 0.22 * max(map(len, words))
    figure, grid = blank(2.5 * columns, height * lines, lines, columns, sharex=True)
    for axes, some, values, title in zip(grid.flat, words, shares, titles, strict=False):
        line = np.arange(len(some))
        axes.barh(line, np.asarray(values), **bars(0), linewidth=0.8)
        axes.set_yticks(line, some, fontsize=8, parse_math=False)
        axes.invert_yaxis()
        axes.set_title(title, fontsize=9, parse_math=False)
        axes.set_xlim(0.0, 1.0)
        axes.grid(visible=False, axis="y")
        axes.set_xlabel(xlabel)
    for axes in list(figure.axes)[n:]:
        axes.set_axis_off()
    return finish(figure)
