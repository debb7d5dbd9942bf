"""Plots, each a function that returns a matplotlib Figure. matplotlib is imported when one is drawn."""

from minigam.viz.experiments import reach_plot, recall_plot, scaling_plot
from minigam.viz.runs import comparison_plot, loss_plot
from minigam.viz.style import STYLES, panels

__all__ = [
    "STYLES", "comparison_plot", "loss_plot", "panels", "reach_plot", "recall_plot", "scaling_plot",
]  # fmt: skip
