"""The plots of cost against length show the curves they claim to."""

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
    assert len({(line.get_marker(), line.get_linestyle()) for line in axes.lines}) == 4
    assert len({line.get_color() for line in axes.lines}) == 1


def test_complexity_plot_leaves_out_missing_values():
    (axes,) = complexity_plot([8, 16], {"GAM": [None, 2.0], "none": [None, None]}, ylabel="MiB").axes
    assert list(lines(axes)["GAM"].get_xdata()) == [16]
    assert set(lines(axes)) == {"GAM"}
    assert axes.get_ylabel() == "MiB"


def test_complexity_plot_of_nothing_has_no_legend():
    (axes,) = complexity_plot([8, 16], {}).axes
    assert axes.get_legend() is None
