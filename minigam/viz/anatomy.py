"""Plots of the inside of a GAM: gates over the tokens of a text, and the words that excite each slot."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from minigam.viz.style import STYLES

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
    from matplotlib.figure import Figure

    local_gates, global_gates = np.asarray(local_gates), np.asarray(global_gates)
    T, position = len(tokens), np.arange(len(tokens))
    if local_gates.ndim != 2 or local_gates.shape[1] != T or global_gates.shape != local_gates.shape:
        raise ValueError(
            f"gates_plot: {T} tokens, gates {local_gates.shape} and {global_gates.shape}, "
            "wanted T, (L, T) and (L, T)"
        )
    L = len(local_gates)
    figure = Figure(figsize=(10.0, 0.9 + 1.25 * L), layout="constrained")
    rows = np.atleast_1d(figure.subplots(L, 1, sharex=True, sharey=True))
    for layer, axes in enumerate(rows):
        axes.axhline(0.5, color="0.5", linewidth=0.9)
        for gates, label, style in zip((local_gates, global_gates), ("local", "global"), STYLES):
            face = None if label == "local" else "white"
            axes.plot(position, gates[layer], style, markersize=3.5, linewidth=0.8, label=label,
                      markerfacecolor=face)  # fmt: skip
        axes.set_ylabel(f"layer {layer + 1}")
        axes.grid(alpha=0.3)
    rows[0].legend(frameon=False, fontsize=8, ncols=2, loc="lower right", bbox_to_anchor=(1.0, 0.98))
    rows[0].set_title("gate, mean over channels (0 closed, 1 open)", fontsize=10, loc="left")
    rows[-1].set_xticks(position, tokens, rotation=90, fontsize=8, parse_math=False)
    rows[-1].set_xlim(-0.5, T - 0.5)
    return figure


def slots_plot(
    words: Sequence[Sequence[str]], shares: Sequence, titles: Sequence[str] = (), xlabel: str = "mean share"
) -> "Figure":
    """Plot a bar chart for each slot: the words that excite it, the first at the top.

    words, shares : for each slot its words, and its share for each of them, from 0 to 1
    titles        : for each slot the title of its chart; by default its index
    Raises ValueError if the lengths differ, or if there is no slot.
    """
    from matplotlib.figure import Figure

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
    figure = Figure(figsize=(2.5 * columns, height * lines), layout="constrained")
    grid = figure.subplots(lines, columns, squeeze=False, sharex=True).flat
    for axes, some, values, title in zip(grid, words, shares, titles, strict=False):
        line = np.arange(len(some))
        axes.barh(line, np.asarray(values), color="0.6", edgecolor="k", linewidth=0.5)
        axes.set_yticks(line, some, fontsize=8, parse_math=False)
        axes.invert_yaxis()
        axes.set_title(title, fontsize=9, parse_math=False)
        axes.set_xlim(0.0, 1.0)
        axes.grid(alpha=0.3, axis="x")
        axes.set_xlabel(xlabel)
    for axes in list(figure.axes)[n:]:
        axes.set_axis_off()
    return figure
