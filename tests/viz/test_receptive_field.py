"""The plots of receptive fields show what they claim to."""

import numpy as np
from helpers import tiny

from minigam.config import WRITTEN
from minigam.models import anatomy
from minigam.viz import INK, influence_map, receptive_field, text_in_sight

INFLUENCE = np.array([[2.0, 0.0, 0.0], [0.5, 2.0, 0.0], [0.0, 0.5, 1e-3]])  # a receptive field of two tokens


def lines(axes):
    return {line.get_label(): line for line in axes.lines}


def test_influence_map_has_no_colour_exactly_where_nothing_moves():
    axes, bar = influence_map(INFLUENCE, 2, "GAM").axes
    (image,) = axes.images
    assert (np.ma.getmaskarray(image.get_array()) == (INFLUENCE == 0.0)).all()
    strength = image.to_rgba(image.get_array())[..., 3]  # a strong colour hides the page
    assert (strength[INFLUENCE == 0.0] == 0.0).all()
    assert (strength[INFLUENCE > 0.0] >= 0.2).all()
    assert strength[0, 0] == 1.0 > strength[1, 0] > strength[2, 2]
    assert (image.norm.vmin, image.norm.vmax) == (1e-3, 2.0)
    assert axes.get_title() == "GAM"
    assert "output" in axes.get_ylabel()
    assert "input" in axes.get_xlabel()
    assert "logit" in bar.get_ylabel()


def test_influence_map_draws_the_edge_of_the_receptive_field():
    axes = influence_map(INFLUENCE, 2).axes[0]
    line = lines(axes)["receptive field, 2 tokens"]
    columns, rows = line.get_xdata(), line.get_ydata()
    assert list(columns) == [-0.5, 0.5]
    assert list(rows) == [1.5, 2.5]
    assert not influence_map(INFLUENCE).axes[0].lines
    assert not influence_map(INFLUENCE, 3).axes[0].lines, "it covers every token"


def test_influence_maps_side_by_side_share_a_scale():
    figure = influence_map({"GAM": INFLUENCE, "Mamba": 10.0 * INFLUENCE}, {"GAM": 2, "Mamba": None})
    left, right, _ = figure.axes
    assert left.images[0].norm.vmax == right.images[0].norm.vmax == 20.0
    assert len(left.lines) == 1
    assert len(right.lines) == 0
    assert [left.get_title(), right.get_title()] == ["GAM", "Mamba"]


def test_influence_map_of_nothing_has_no_colour():
    image = influence_map(np.zeros((2, 2))).axes[0].images[0]
    assert np.ma.getmaskarray(image.get_array()).all()


def test_receptive_field_widens_by_k_minus_one_a_block():
    for L, K in ((2, 3), (3, 2), (1, 4), (2, 1)):
        (axes,) = receptive_field(L, K).axes
        inside = lines(axes)["in the receptive field"].get_xydata()
        for level in range(L + 1):
            positions = sorted(x for x, y in inside if y == level)
            assert positions == list(range(-(L - level) * (K - 1), 1))
        outside = lines(axes)["outside"].get_xydata()
        assert not {tuple(p) for p in inside} & {tuple(p) for p in outside}
        assert f"receptive field of {1 + L * (K - 1)} tokens" in axes.get_title()


def test_text_in_sight_hides_the_target_and_marks_the_window():
    story = "Once upon a time , Sam lived beyond the hill with a brave frog ."
    words = story.split()
    (axes,) = text_in_sight(words, target=13, mention=5, reach=3).axes
    drawn = [t.get_text() for t in axes.texts]
    assert drawn == [*words[:13], "????"]
    framed = [p for p in axes.patches if p.get_linewidth() > 0]
    assert len(framed) == 2
    assert len(axes.patches) == 3 + 2, "three words in the field, the mention and the target"
    assert {t.get_color() for t in axes.texts[10:13]} == {"white"}
    assert {t.get_color() for t in [*axes.texts[:10], axes.texts[13]]} == {INK}


def test_text_in_sight_breaks_lines():
    words = ["word"] * 40
    (axes,) = text_in_sight(words, target=39, mention=0, reach=13).axes
    assert len({t.get_position()[1] for t in axes.texts}) > 1
    assert max(t.get_position()[0] + 4 for t in axes.texts) <= 84


def test_text_in_sight_of_a_model_that_sees_all_marks_all():
    words = ["word"] * 20
    (axes,) = text_in_sight(words, target=15, mention=2, reach=None).axes
    assert len(axes.patches) == 15 + 1, "every word before the target, and the target"
    assert {t.get_color() for t in axes.texts[:15]} == {"white"}


def test_the_sources_of_a_recall_are_a_map_too():
    """Of mixer "written": empty above the diagonal, because no token recalls a later one."""
    model = tiny.gam(WRITTEN)
    _, views = anatomy.views(model, tiny.draw_ids(model, 1, 6))
    maps = {f"layer {n + 1}": view.sources[0] for n, view in enumerate(views)}
    figure = influence_map(maps, model.reach, unit="share of the recall")
    for axes in figure.axes[:2]:
        masked = np.ma.getmaskarray(axes.images[0].get_array())
        assert (masked == np.triu(np.ones((6, 6), bool), 1)).all()
        assert not axes.lines
    assert figure.axes[2].get_ylabel() == "share of the recall"
