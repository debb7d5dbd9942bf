"""The plots of cost against length show the curves they claim to."""

import itertools

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text

from minigam.viz import complexity_plot


def lines(axes):
    return {line.get_label(): line for line in axes.lines}


def test_complexity_plot_shows_each_curve_with_its_power():
    measured = {"GAM": [1.0, 2.0, 4.0], "Transformer": [1.0, 4.0, 16.0]}
    (axes,) = complexity_plot([8, 16, 32], measured, {"GAM": 1.0, "Transformer": (2.0, 0.125)}).axes
    assert list(lines(axes)["GAM, T^1.00"].get_ydata()) == measured["GAM"]
    assert list(lines(axes)["Transformer, T^2.00 ± 0.12"].get_xdata()) == [8, 16, 32]
    assert axes.get_xscale() == axes.get_yscale() == "log"
    assert axes.get_xlabel() == "T, tokens"
    assert axes.get_ylabel() == "time (ms)"
    assert [t.get_text() for t in axes.get_xticklabels()] == ["8", "16", "32"]


def test_complexity_plot_distinguishes_curves_without_colour():
    (axes,) = complexity_plot([8, 16], {str(i): [1.0, 2.0 + i] for i in range(4)}).axes
    assert len({line.get_marker() for line in axes.lines}) == 4
    assert len({line.get_linestyle() for line in axes.lines}) == 4
    assert len({line.get_color() for line in axes.lines}) == 4


def test_complexity_plot_names_every_line_at_its_end():
    """In the order of the ends, without overlap, in a figure that holds them."""
    measured = {
        "a": [1.0, 1.0],
        "GAM, written memory (ours)": [1.0, 1.01],
        "c": [1.0, 64.0],
        "d": [9.0, None],
    }
    figure = complexity_plot([8, 16], measured, {"GAM, written memory (ours)": 0.01})
    (axes,) = figure.axes
    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw(renderer)
    texts = [t.get_text().replace("\n", " ") for t in axes.texts]
    assert texts == ["a", "GAM, written memory (ours), T^0.01", "d", "c"]
    assert [t.xy for t in axes.texts] == [(16, 1.0), (16, 1.01), (8, 9.0), (16, 64.0)]
    extents = [Text.get_window_extent(t, renderer) for t in axes.texts]
    assert all(below.y1 <= above.y0 for below, above in itertools.pairwise(extents))
    assert all(e.x0 > axes.bbox.x1 for e in extents)
    assert all(e.x1 <= figure.bbox.x1 for e in extents)


def test_complexity_plot_leaves_out_missing_values():
    (axes,) = complexity_plot([8, 16], {"GAM": [None, 2.0], "none": [None, None]}, ylabel="MiB").axes
    assert list(lines(axes)["GAM"].get_xdata()) == [16]
    assert set(lines(axes)) == {"GAM"}
    assert axes.get_ylabel() == "MiB"


def test_complexity_plot_of_nothing_names_nothing():
    (axes,) = complexity_plot([8, 16], {}).axes
    assert not axes.texts
