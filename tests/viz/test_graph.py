"""The drawing of a graph: well-formed, complete, and nothing drawn on top of anything else."""

import itertools
import re
from xml.etree import ElementTree

import numpy as np
import pytest

from minigam import GAMConfig, Tensor, ops
from minigam.config import MIXERS
from minigam.models.gam import GAMBlock
from minigam.models.nn import MaskCounter
from minigam.viz import graph

SVG = "{http://www.w3.org/2000/svg}"


def leaf(*shape: int, name: str = "") -> Tensor:
    return Tensor(np.ones(shape), requires_grad=True, name=name)


def block(mixer: str) -> Tensor:
    config = GAMConfig(d_model=4, n_slots=3, mixer=mixer, dropout=0.1)
    return GAMBlock(config, MaskCounter(0), np.random.default_rng(0))(leaf(2, 5, 4, name="x"))


def texts(drawing: str) -> list[str]:
    return [t.text for t in ElementTree.fromstring(drawing).iter(f"{SVG}text")]


def boxes(drawing: str) -> list[tuple[float, float, float, float]]:
    """Return x, y, width, height of every box."""
    rectangles = ElementTree.fromstring(drawing).iter(f"{SVG}rect")
    return [tuple(float(r.get(k)) for k in ("x", "y", "width", "height")) for r in rectangles]


def edges(drawing: str) -> list[list[tuple[float, float]]]:
    """Return the corners of every line, from first to last; arrow heads are paths without a curve."""
    paths = [p.get("d") for p in ElementTree.fromstring(drawing).iter(f"{SVG}path")]
    lines = []
    for path in (p for p in paths if "C" in p):
        corners = []
        for letter, numbers in re.findall(r"([MVC])([\d., ]+)", path):
            *_, x, y = (
                corners[-1][0] if letter == "V" else 0.0,
                *map(float, re.split("[ ,]", numbers.strip())),
            )
            corners.append((x, y))
        lines.append(corners)
    return lines


def test_it_names_operations_leaves_and_shapes():
    drawing = (ops.linear(leaf(2, 3, name="tokens"), leaf(4, 3)) * 2.0).sum()._repr_svg_()
    assert sorted(zip(texts(drawing)[::2], texts(drawing)[1::2], strict=True)) == [
        ("leaf", "(4, 3)"),
        ("linear", "(2, 4)"),
        ("mul", "(2, 4)"),
        ("sum", "()"),
        ("tokens", "(2, 3)"),
    ]


def test_every_input_has_a_line_from_its_box_down_to_its_use():
    drawing = (ops.exp(leaf(2)) * leaf(2))._repr_svg_()
    assert len(edges(drawing)) == 3
    for corners in edges(drawing):
        (x1, y1), (x2, y2) = corners[0], corners[-1]
        assert [y for _, y in corners] == sorted(y for _, y in corners)
        assert any(x1 == x + w / 2 and y1 == y + h for x, y, w, h in boxes(drawing))
        assert any(x < x2 < x + w and y2 == y for x, y, w, h in boxes(drawing))


def test_an_input_used_twice_has_two_lines():
    a = leaf(2)
    one, other = edges((a + a)._repr_svg_())
    assert one[0] == other[0]
    assert one[-1] != other[-1]


def test_a_shared_tensor_is_drawn_once():
    a = leaf(2)
    b = a + a
    drawing = (b + b)._repr_svg_()
    assert texts(drawing)[::2].count("add") == 2
    assert len(boxes(drawing)) == 3


def test_names_are_escaped():
    drawing = ops.exp(leaf(2, name='<b> & "c"'))._repr_svg_()
    assert '<b> & "c"' in texts(drawing)


@pytest.mark.parametrize("mixer", MIXERS)
def test_a_block_fits_its_drawing_without_overlap(mixer):
    drawing = block(mixer)._repr_svg_()
    page = ElementTree.fromstring(drawing)
    width, height = float(page.get("width")), float(page.get("height"))
    drawn = boxes(drawing)
    for i, (x, y, w, h) in enumerate(drawn):
        assert x >= 0.0
        assert y >= 0.0
        assert x + w <= width
        assert y + h <= height
        for x2, y2, w2, h2 in drawn[:i]:
            assert x + w <= x2 or x2 + w2 <= x or y + h <= y2 or y2 + h2 <= y


@pytest.mark.parametrize("mixer", MIXERS)
def test_no_line_passes_behind_a_box(mixer):
    drawing = block(mixer)._repr_svg_()
    passes, row_height = 0, boxes(drawing)[0][3]
    for corners in edges(drawing):
        for (x1, y1), (x2, y2) in itertools.pairwise(corners):
            if x1 == x2 and y2 - y1 >= row_height:
                passes += 1
                assert not any(x <= x1 <= x + w and y1 < y + h and y < y2 for x, y, w, h in boxes(drawing))
    assert passes >= 2, "the residual connections cross rows"


def test_a_tensor_without_a_graph_is_not_drawn():
    assert leaf(2)._repr_svg_() is None
    assert ops.exp(Tensor([1.0]))._repr_svg_() is None


def test_a_graph_too_large_to_read_is_not_drawn():
    y = leaf(1)
    for _ in range(398):
        y = -y
    largest = -y  # 400 tensors
    assert largest._repr_svg_() is not None
    assert (-largest)._repr_svg_() is None


@pytest.mark.parametrize("seed", range(20))
def test_nothing_is_drawn_beyond_the_edges(seed):
    """The rightmost item may be a line that crosses a row."""
    rng = np.random.default_rng(seed)
    made = [Tensor(rng.standard_normal(2), requires_grad=True) for _ in range(3)]
    for _ in range(12):
        a, b = rng.choice(len(made), 2)
        made.append(made[a] * made[b])
    placed = graph.layout(sum(made[3:], start=made[0]).node)
    across = [x for line in placed.lines for x, _ in line]
    across += [box.x + side * graph.WIDTH / 2 for box in placed.boxes for side in (-1, 1)]
    assert min(across) > 0
    assert max(across) < placed.width
