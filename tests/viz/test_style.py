"""Every plot can be read on a white and on a dark page, by the colour-blind, and in a greyscale print."""

import itertools
from io import BytesIO

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.colors import to_hex, to_rgb, to_rgba
from matplotlib.figure import Figure
from matplotlib.image import imread
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.text import Text

from minigam import Tensor, ops, viz
from minigam.config import WRITTEN_LABEL
from minigam.course import overview
from minigam.gradcheck import __main__ as gradcheck
from minigam.viz import graph, style

OKABE_ITO = {"#e69f00", "#56b4e9", "#009e73", "#f0e442", "#0072b2", "#d55e00", "#cc79a7"}  # and black
PAGES = ("#ffffff", "#13171c")
MODELS = ("GAM", "Transformer", "Mamba", WRITTEN_LABEL, "Mamba, stacked bare")


def luminance(colour) -> float:
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(colour)]
    return float(np.dot([0.2126, 0.7152, 0.0722], linear))


def contrast(one, other) -> float:
    dark, light = sorted(map(luminance, (one, other)))
    return (light + 0.05) / (dark + 0.05)


def loss_metrics() -> list[dict]:
    kinds = {
        kind: {"loss": 1.0 + i, "floor": 0.1 * i} for i, kind in enumerate(("syntax", "choice", "recall"))
    }
    steps = [{"step": s, "loss": 9.0 / s, "lr": 0.1} for s in range(1, 9)]
    return [*steps, *({"step": s, "loss": 2.0, "floor": 0.4, "kinds": kinds} for s in (4, 8))]


def gradcheck_plot(monkeypatch) -> Figure:
    monkeypatch.setattr(gradcheck, "gradcheck", lambda *args, eps, **settings: eps)
    return gradcheck.plot_eps_sweep(0, "numpy")


def product() -> Tensor:
    x, W = (Tensor(np.ones(shape), requires_grad=True) for shape in ((2, 3), (3, 3)))
    return ops.matmul(x, W)


def free_hand() -> Figure:
    """Return what a notebook may draw: lines and bars without a colour, text, a legend, a picture."""
    figure, (left, right) = viz.panels("x", "y", "title", n=2)
    left.plot([1, 2], [1, 2], "o-", label="one")
    left.plot([1, 2], [2, 1], "s--", label="other")
    left.text(1, 1, "a word")
    left.annotate("another", (1, 2))
    left.legend()
    right.bar([0, 1], [1, 2], yerr=[0.1, 0.2], **viz.bars(0))
    right.bar([2, 3], [1, 2], **viz.bars(1))
    figure.colorbar(right.imshow([[0.0, 1.0]], cmap=viz.shades()), label="weight")
    return viz.finish(figure)


MEASURED = {name: [1.0 + i, 2.0 + 2 * i] for i, name in enumerate(MODELS)}
CELLS = {
    name: {8: {"time_ms": 1.0, "peak_mib": 2.0}, 16: {"time_ms": 3.0, "peak_mib": 4.0}} for name in MODELS
}
CURVES = {
    name: {str(d): {"accuracy": 0.1 * i, "queries": 900} for d in range(9)} for i, name in enumerate(MODELS)
}
PLOTS = {
    "block": lambda m: viz.block_plot(),
    "map of the course": lambda m: overview.needs_plot(),
    "comparison": lambda m: viz.comparison_plot({n: [{"loss": 1.0}] for n in MODELS}, {"trigram": 1.1}),
    "complexity": lambda m: viz.complexity_plot([8, 16], MEASURED, {"GAM": (1.0, 0.1)}),
    "curves": lambda m: viz.curves_plot(
        {n: [{"train": [[1, 2.0], [2, 1.0]], "valid": [[2, 1.1]]}] for n in MODELS}, {"trigram": 1.1}
    ),
    "free hand": lambda m: free_hand(),
    "gates": lambda m: viz.gates_plot(["a", "b"], [[0.1, 0.2]], [[0.3, 0.4]]),
    "gradcheck": gradcheck_plot,
    "graph": lambda m: viz.graph_plot(product()),
    "influence": lambda m: viz.influence_map(np.tril(np.ones((4, 4))), 2),
    "loss": lambda m: viz.loss_plot(loss_metrics()),
    "reach": lambda m: viz.reach_plot({name: [0.5, 0.1] for name in MODELS}, {"GAM": 2}),
    "recall": lambda m: viz.recall_plot(CURVES, {"GAM": 13}, 0.125),
    "receptive field": lambda m: viz.receptive_field(2, 3),
    "scaling": lambda m: viz.scaling_plot(CELLS, {name: {} for name in MODELS}),
    "slots": lambda m: viz.slots_plot([["a", "b"]], [[0.5, 0.25]]),
    "text": lambda m: viz.text_in_sight(["once", "upon", "a", "time"], 3, 0, 2),
}  # fmt: skip


@pytest.fixture(params=PLOTS)
def figure(request, monkeypatch) -> Figure:
    figure = PLOTS[request.param](monkeypatch)
    figure.draw(FigureCanvasAgg(figure).get_renderer())  # which makes the ticks
    return figure


def colours_of(figure: Figure) -> set[str]:
    """Return the colours of everything that is drawn but text, without their transparency."""
    found = []
    for line in filter(Line2D.get_visible, figure.findobj(Line2D)):
        if line.get_linestyle() != "None":
            found.append(line.get_color())
        if line.get_marker() not in ("None", None, ""):
            found += [line.get_markerfacecolor(), line.get_markeredgecolor()]
    for patch in filter(Patch.get_visible, figure.findobj(Patch)):
        found += [patch.get_facecolor()] + [patch.get_edgecolor()] * (patch.get_linewidth() > 0.0)
    for lines in figure.findobj(LineCollection):  # error bars
        found += list(lines.get_edgecolors()) if lines.get_segments() else []
    return {to_hex(c) for c in found if to_rgba(c)[3] > 0.0}


def test_the_colours_are_those_of_okabe_and_ito_and_one_grey(figure):
    assert colours_of(figure) <= OKABE_ITO | {viz.INK}


def test_what_is_drawn_shows_on_both_pages(figure):
    for colour, page in itertools.product(colours_of(figure), PAGES):
        assert contrast(colour, page) >= 2.0, (colour, page)


def test_text_can_be_read_on_both_pages(figure):
    boxes = [p for p in figure.findobj(Patch) if p.get_facecolor() == to_rgba(style.BLUE)]
    texts = [t for t in figure.findobj(Text) if t.get_text() and t.get_visible()]
    assert texts
    for text in texts:
        if to_hex(text.get_color()) == "#ffffff":  # on a box of its own
            assert boxes
            assert contrast("white", style.BLUE) >= 4.0
        else:
            assert to_hex(text.get_color()) == viz.INK
            assert all(contrast(viz.INK, page) >= 4.0 for page in PAGES)


def test_lines_differ_without_colour(figure):
    for axes in figure.axes:
        named = [
            line for line in axes.lines
            if not line.get_label().startswith("_") and line.get_marker() not in ("None", None, "")
        ]  # fmt: skip
        for one, other in itertools.combinations(named, 2):
            looks = [
                (a.get_marker(), a.get_linestyle(), a.get_markerfacecolor() == "none") for a in (one, other)
            ]
            assert looks[0] != looks[1]
            assert one.get_color() != other.get_color()


def test_a_file_has_no_ground_of_its_own(figure):
    file = BytesIO()
    figure.savefig(file, format="png")  # as all commands do
    file.seek(0)
    alpha = imread(file)[..., 3]
    assert alpha[0, 0] == alpha[-1, -1] == 0.0
    assert (alpha == 0.0).mean() > 0.2
    assert alpha.max() == 1.0


def test_no_legend_has_a_frame(figure):
    for legend in [*figure.legends, *filter(None, (axes.get_legend() for axes in figure.axes))]:
        assert not legend.get_frame_on()


def test_the_drawing_of_a_graph_has_the_same_colours():
    drawing = product()._repr_svg_()
    used = {word.strip('"') for word in drawing.replace("=", " ").split() if word.startswith('"#')}
    assert {c.split('"')[0].lower() for c in used} == {viz.INK, style.BLUE.lower()}
    assert "<rect" in drawing
    assert drawing.count("<rect") == len(graph.layout(product().node).boxes), "no ground behind the boxes"


def test_a_model_looks_the_same_in_every_plot():
    alone = {name: viz.styles_of([name])[name] for name in MODELS}
    assert viz.styles_of(reversed(MODELS)) == alone
    assert viz.styles_of(["a new model", "minigam Mamba"])["minigam Mamba"] == alone["Mamba"]
    assert viz.styles_of(["full (gated)"])["full (gated)"] == alone["GAM"]


def test_a_library_has_the_colour_of_the_model_but_hollow_markers():
    styles = viz.styles_of(["minigam GAM", "PyTorch GAM", "PyTorch GAM, the window again"])
    ours, theirs, again = styles.values()
    assert ours["color"] == theirs["color"] == again["color"]
    assert theirs["markerfacecolor"] == "none"
    assert ours["linestyle"] != theirs["linestyle"]


def test_what_is_no_model_gets_a_style_that_is_free():
    styles = viz.styles_of(["other", "GAM", "another", WRITTEN_LABEL])
    for look in ("color", "marker"):
        assert len({s[look] for s in styles.values()}) == 4
    assert len(viz.styles_of(map(str, range(12)))) == 12


def test_every_style_differs_in_all_ways():
    assert len({s["color"] for s in viz.STYLES}) == len({s["marker"] for s in viz.STYLES}) == len(viz.STYLES)
    for one, other in itertools.pairwise(viz.STYLES):
        assert one["linestyle"] != other["linestyle"]


def test_bars_next_to_each_other_differ_without_colour():
    assert len({viz.bars(i)["hatch"] for i in range(5)}) == 5
    assert len({viz.bars(i)["edgecolor"] for i in range(5)}) == 5


def test_a_stronger_shade_is_more_on_any_page():
    shades = viz.shades()(np.linspace(0.0, 1.0, 9))
    for page in PAGES:
        seen = [contrast(a * np.array(rgb) + (1 - a) * np.array(to_rgb(page)), page) for *rgb, a in shades]
        assert seen == sorted(seen)
        assert seen[0] == pytest.approx(1.0)
        assert seen[-1] > 3.0


def test_finishing_twice_changes_nothing():
    def drawn() -> bytes:
        file = BytesIO()
        figure.savefig(file, format="png")
        return file.getvalue()

    figure = free_hand()
    drawn()  # which places the axes
    before = drawn()
    viz.finish(figure)
    assert drawn() == before


def test_a_range_is_filled_by_its_values():
    (low, high), far = style.range_of([1.0, 2.0], {"near": 2.4, "far": 9.0})
    assert 0.9 < low < 1.0
    assert 2.4 < high < 2.5
    assert far == ["far"]
    (low, high), far = style.range_of([3.0], {})
    assert low < 3.0 < high


def test_names_at_ends_keep_their_distance():
    placed = style._spread([0.1, 0.11, 0.12, 0.9], 0.05)
    assert placed == pytest.approx([0.06, 0.11, 0.16, 0.9])
