"""Plots of training runs: losses against steps."""

from itertools import cycle
from typing import TYPE_CHECKING

from minigam.viz.style import STYLES

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def loss_plot(metrics: list[dict], title: str = "") -> "Figure":
    """Plot training and validation loss against steps, with the entropy floor if it is known.

    metrics : the lines of a run's metrics.jsonl; if they have kinds of tokens, a second panel shows
              the validation loss of each kind and its floor
    """
    from matplotlib.figure import Figure

    training = [m for m in metrics if "lr" in m]
    validations = [m for m in metrics if "lr" not in m]
    by_kind = any("kinds" in m for m in validations)
    figure = Figure(figsize=(10, 4) if by_kind else (6, 4), layout="constrained")
    axes = figure.subplots(1, 2 if by_kind else 1, sharex=True, sharey=True, squeeze=False)[0]
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
    axes[0].set_title(title, fontsize=10, parse_math=False)  # a name may contain a $
    return figure


def comparison_plot(
    curves: dict[str, list[dict]], baselines: dict[str, float] | None = None, title: str = ""
) -> "Figure":
    """Plot the validation losses of several runs against steps, with baselines as constant lines.

    curves    : for each label the lines of its run's metrics.jsonl; if all have kinds of tokens,
                a second panel shows the loss on recall tokens
    baselines : losses in nats, such as those of n-grams
    """
    from matplotlib.figure import Figure

    validations = {label: [m for m in metrics if "lr" not in m] for label, metrics in curves.items()}
    validations = {label: lines for label, lines in validations.items() if lines}
    by_kind = all("recall" in v[-1].get("kinds", {}) for v in validations.values())
    figure = Figure(figsize=(10, 4) if by_kind else (6, 4), layout="constrained")
    axes = figure.subplots(1, 2 if by_kind else 1, sharex=True, squeeze=False)[0]
    for (label, lines), style in zip(validations.items(), cycle(STYLES), strict=False):
        steps = [m["step"] for m in lines]
        axes[0].plot(steps, [m["loss"] for m in lines], style, markersize=4, label=label)
        if by_kind:
            recall = [m["kinds"]["recall"]["loss"] for m in lines]
            axes[1].plot(steps, recall, style, markersize=4, label=label)
    for (label, loss), grey in zip((baselines or {}).items(), cycle(("0.3", "0.6")), strict=False):
        axes[0].axhline(loss, color=grey, linestyle=(0, (8, 3)), linewidth=0.9, label=f"{label}, {loss:.2f}")
    floor = next((v[-1].get("floor") for v in validations.values()), None)
    if floor is not None:
        axes[0].axhline(floor, color="k", linewidth=0.9, label=f"floor, {floor:.2f}")
    axes[0].set_title(title, fontsize=10, parse_math=False)
    axes[0].set_ylabel("validation loss (nats per token)")
    if by_kind:
        axes[1].axhline(0.0, color="k", linewidth=0.9, label="floor, 0")
        axes[1].set_title("recall tokens alone", fontsize=10)
    for a in axes:
        a.set_xlabel("step")
        a.xaxis.get_major_locator().set_params(integer=True)
        a.grid(alpha=0.3)
        a.legend(frameon=False, fontsize=8)
    return figure
