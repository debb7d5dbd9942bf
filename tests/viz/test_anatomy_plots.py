"""The plots of a GAM's gates and slots show the numbers they were given."""

import numpy as np
import pytest

from minigam.viz import gates_plot, slots_plot


def test_gates_plot_shows_both_gates_of_every_layer():
    local, opened = np.array([[0.2, 0.4], [0.6, 0.8]]), np.array([[0.1, 0.3], [0.5, 0.7]])
    figure = gates_plot(["once", "$upon_"], local, opened)
    assert len(figure.axes) == 2
    for layer, axes in enumerate(figure.axes):
        lines = {line.get_label(): line for line in axes.lines}
        assert list(lines["local"].get_ydata()) == list(local[layer])
        assert list(lines["global"].get_ydata()) == list(opened[layer])
        assert lines["local"].get_marker() != lines["global"].get_marker()
        assert axes.get_ylabel() == f"layer {layer + 1}"
    assert [t.get_text() for t in figure.axes[-1].get_xticklabels()] == ["once", "$upon_"]
    figure.draw_without_rendering()


def test_gates_plot_of_one_layer_and_one_token():
    (axes,) = gates_plot(["a"], [[0.5]], [[0.25]]).axes
    assert axes.get_ylabel() == "layer 1"


def test_gates_plot_refuses_what_does_not_fit():
    with pytest.raises(ValueError, match="3 tokens"):
        gates_plot(["a", "b", "c"], np.zeros((2, 2)), np.zeros((2, 2)))


def test_slots_plot_shows_the_words_from_the_top_down():
    words, shares = [["sang", "hid"], ["by"], ["a"], ["b"], ["c"]], [[0.9, 0.4], [0.7], [0.1], [0.2], [0.3]]
    figure = slots_plot(words, shares, ["first", "second", "3", "4", "$5_"])
    assert len(figure.axes) == 8  # two lines of four, the last three left empty
    first = figure.axes[0]
    assert [t.get_text() for t in first.get_yticklabels()] == ["sang", "hid"]
    assert [bar.get_width() for bar in first.patches] == [0.9, 0.4]
    assert first.yaxis_inverted()
    assert [a.get_title() for a in figure.axes[:2]] == ["first", "second"]
    assert [a.axison for a in figure.axes] == 5 * [True] + 3 * [False]
    figure.draw_without_rendering()


def test_slots_plot_refuses_what_does_not_fit():
    with pytest.raises(ValueError, match="as many of each"):
        slots_plot([["a", "b"]], [[0.5]])
