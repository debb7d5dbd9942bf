"""The stored plots are those that the stored numbers give now."""

from pathlib import Path

import pytest
from matplotlib.image import imread

from benchmarks import redraw
from minigam.config import InputError
from minigam.files import read_json

STORED = sorted(p for p in redraw.measure.RESULTS.glob("*/*.png") if p.stem != "explain")


def test_there_are_plots_of_all_commands():
    assert {p.stem for p in STORED} == {*redraw.PLOTS, "loss"}


@pytest.mark.parametrize("png", STORED, ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_a_stored_plot_is_of_the_present_style(png):
    figure = redraw.figure_of(png)
    image = imread(png)
    width, height = figure.get_size_inches() * redraw.DPI
    assert image.shape == pytest.approx((height, width, 4), abs=1)
    assert image[0, 0, 3] == image[-1, -1, 3] == 0.0, "no ground"


def test_a_png_that_is_not_drawn_from_numbers_is_left_alone(tmp_path):
    assert redraw.figure_of(tmp_path / "explain.png") is None


def test_the_command_writes_the_plot_and_nothing_else(tmp_path):
    folder = tmp_path / "recall"
    folder.mkdir()
    content = redraw.measure.RESULTS / "recall" / "recall.json"
    (folder / "recall.json").write_bytes(content.read_bytes())
    (folder / "recall.png").write_bytes(b"old")
    assert redraw.main([str(tmp_path)]) == 0
    assert (folder / "recall.png").read_bytes().startswith(b"\x89PNG")
    assert (folder / "recall.json").read_bytes() == content.read_bytes()
    assert sorted(p.name for p in folder.iterdir()) == ["recall.json", "recall.png"]


def test_generate_is_filled_by_the_lines_and_names_what_is_far_off():
    summary = read_json(redraw.measure.RESULTS / "generate" / "generate.json", redraw.REMEDY)["summary"]
    for axes, what in zip(redraw.generate.plot(summary).axes, ("mean_ms", "held_mib"), strict=True):
        values = [at[what] for places in summary.values() if len(places) > 1 for at in places.values()]
        low, high = axes.get_ylim()
        assert low < min(values)
        assert high > max(values)
        assert (max(values) - min(values)) / (high - low) > 0.7
        (point,) = (places["100"][what] for places in summary.values() if len(places) == 1)
        assert point > high
        assert f"{point:.0f} " in axes.get_xlabel()


def test_scaling_names_its_lines_at_their_ends():
    stored: Path = redraw.measure.RESULTS / "scaling" / "scaling.png"
    for axes in redraw.figure_of(stored).axes:
        assert len(axes.texts) == len(axes.lines) == 5
        assert axes.get_legend() is None


def test_a_folder_without_plots_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"nothing: no \*/\*\.png in it, wanted a folder"):
        redraw.main([str(tmp_path / "nothing")])
