"""The drawing of a tape holds every tensor and every line of it."""

import re

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.patches import FancyBboxPatch, PathPatch

from minigam import GAMConfig, Tensor, ops
from minigam.models.gam import GAMBlock
from minigam.models.nn import MaskCounter
from minigam.viz import graph, graph_plot


def leaf(*shape: int, name: str = "") -> Tensor:
    return Tensor(np.ones(shape), requires_grad=True, name=name)


def drawn(tensor, patch: type) -> list:
    (axes,) = graph_plot(tensor).axes
    return [p for p in axes.patches if isinstance(p, patch)]


def texts(tensor) -> list[str]:
    (axes,) = graph_plot(tensor).axes
    return [t.get_text() for t in axes.texts]


def test_it_names_operations_leaves_and_shapes():
    y = (ops.linear(leaf(2, 3, name="tokens"), leaf(4, 3)) * 2.0).sum()
    assert sorted(texts(y)) == sorted(
        ["tokens", "(2, 3)", "leaf", "(4, 3)", "linear", "(2, 4)", "mul", "(2, 4)", "sum", "()"]
    )


def test_a_name_is_not_read_as_mathematics():
    assert "$x_1$" in texts(ops.exp(leaf(2, name="$x_1$")))


def test_a_shared_tensor_is_drawn_once_and_has_every_line():
    a = leaf(2)
    b = a + a
    y = b + b
    assert len(drawn(y, FancyBboxPatch)) == 3
    assert len(drawn(y, PathPatch)) == 4


def test_it_is_the_same_picture_as_the_svg():
    """The same boxes at the same places, to the pixel."""
    config = GAMConfig(d_model=4, n_slots=3, dropout=0.1)
    y = GAMBlock(config, MaskCounter(0), np.random.default_rng(0))(leaf(2, 5, 4, name="x"))
    svg = y._repr_svg_()
    boxes = re.findall(r'<rect x="([-\d.]+)" y="([\d.]+)"', svg)
    corners = [(p.get_x(), p.get_y()) for p in drawn(y, FancyBboxPatch)]
    np.testing.assert_allclose(corners, np.array(boxes, dtype=float), atol=0.051)
    figure = graph_plot(y)
    size = re.search(r'width="(\d+)" height="(\d+)"', svg)
    np.testing.assert_allclose(figure.get_size_inches() * 100, [float(s) for s in size.groups()], atol=0.51)


def test_it_draws_whatever_has_inputs():
    class Box:
        def __init__(self, name, shape, *inputs):
            self.op, self.shape, self.inputs = name, shape, inputs

    x = Box("x", ("B", "T"))
    assert texts(Box("y", ("B", "T", "2C"), x, x)) == ["x", "(B, T)", "y", "(B, T, 2C)"]


def test_every_text_fits_its_box():
    y = ops.exp(leaf(2, name="W" * 30)) * leaf(2, name="blocks.11.feed.inner.weight")
    figure = graph_plot(y)
    renderer = FigureCanvasAgg(figure).get_renderer()
    for text in figure.axes[0].texts:
        if "W" not in text.get_text():  # no name has 22 of the widest letter
            assert text.get_window_extent(renderer).width <= graph.WIDTH * figure.dpi / 100


def test_nothing_to_draw_is_an_error():
    with pytest.raises(ValueError, match="no tape"):
        graph_plot(leaf(2))
    y = leaf(1)
    for _ in range(400):
        y = -y
    with pytest.raises(ValueError, match="more than 400"):
        graph_plot(y)
