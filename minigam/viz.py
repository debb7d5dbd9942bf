"""Plots, each a function that returns a matplotlib Figure. matplotlib is imported when one is drawn."""

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def loss_plot(metrics: list[dict], title: str = "") -> "Figure":
    """Plot training and validation loss against steps, with the floor where it is known.

    metrics : the lines of a run's metrics.jsonl; with kinds of tokens, a second panel shows each
              kind's validation loss beside its own floor
    """
    from matplotlib.figure import Figure

    training = [m for m in metrics if "lr" in m]
    validations = [m for m in metrics if "lr" not in m]
    by_kind = any("kinds" in m for m in validations)
    figure = Figure(figsize=(10, 4) if by_kind else (6, 4), layout="constrained")
    axes = np.atleast_1d(figure.subplots(1, 2 if by_kind else 1, sharex=True, sharey=True))
    steps = [m["step"] for m in training]
    axes[0].plot(
        steps, [m["loss"] for m in training], color="0.75", linewidth=0.8, label="training, each step"
    )
    valid_steps = [m["step"] for m in validations]
    axes[0].plot(valid_steps, [m["loss"] for m in validations], "ko-", markersize=4, label="validation")
    if validations and "floor" in validations[-1]:
        floor = validations[-1]["floor"]
        axes[0].axhline(floor, color="k", linestyle="--", label=f"floor, {floor:.3f} nats")
    axes[0].set_ylabel("loss (nats per token)")
    if by_kind:
        for kind, style in (("recall", "k^:"), ("choice", "ks-"), ("syntax", "kv-.")):
            shown = [(m["step"], m["kinds"][kind]) for m in validations if kind in m.get("kinds", {})]
            if shown:
                axes[1].plot(
                    [s for s, _ in shown], [k["loss"] for _, k in shown], style, markersize=4, label=kind
                )
                axes[1].axhline(shown[-1][1]["floor"], color="0.5", linestyle="--", linewidth=0.8)
        axes[1].set_title("validation by kind of token, floors dashed", fontsize=10)
    for a in axes:
        a.set_xlabel("step")
        a.set_ylim(bottom=-0.1)
        a.grid(alpha=0.3)
        a.legend(frameon=False)
    axes[0].set_title(title, fontsize=10, parse_math=False)  # a name may hold a $
    return figure
