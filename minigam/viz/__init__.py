"""Plots: functions that return a matplotlib Figure. matplotlib is imported only when one is called."""

from minigam.viz.anatomy import gates_plot, slots_plot
from minigam.viz.block import block_plot
from minigam.viz.cost import complexity_plot
from minigam.viz.experiments import reach_plot, recall_plot, scaling_plot
from minigam.viz.receptive_field import influence_map, receptive_field, text_in_sight
from minigam.viz.runs import comparison_plot, curves_plot, loss_plot
from minigam.viz.style import COLOURS, INK, STYLES, bars, finish, panels, shades, styles_of
from minigam.viz.tape import graph_plot

__all__ = [
    "COLOURS", "INK", "STYLES", "bars", "block_plot", "comparison_plot", "complexity_plot", "curves_plot",
    "finish", "gates_plot", "graph_plot", "influence_map", "loss_plot", "panels", "reach_plot",
    "recall_plot", "receptive_field", "scaling_plot", "shades", "slots_plot", "styles_of", "text_in_sight",
]  # fmt: skip
