"""The plots show the curves they claim to."""

import pytest

from minigam.viz import comparison_plot, curves_plot, loss_plot, panels, reach_plot, recall_plot, scaling_plot


def lines(axes):
    return {line.get_label(): line for line in axes.lines}


def test_loss_plot_shows_training_validation_and_the_floor():
    metrics = [{"step": s, "loss": 5.0 / s, "lr": 1e-3} for s in range(1, 9)]
    kinds = {"syntax": (0.5, 0.0), "choice": (2.0, 1.7), "recall": (3.0, 0.0)}
    metrics += [
        {
            "step": s,
            "loss": 2.0,
            "floor": 0.4,
            "kinds": {k: {"loss": v, "floor": f} for k, (v, f) in kinds.items()},
        }
        for s in (4, 8)
    ]
    left, right = loss_plot(metrics).axes
    assert list(lines(left)["training, begins at 5.00"].get_xdata()) == list(range(1, 9))
    assert list(lines(left)["validation"].get_xdata()) == [4, 8]
    assert lines(left)["floor, 0.400 nats"].get_ydata()[0] == 0.4
    for kind, (value, _) in kinds.items():
        assert list(lines(right)[kind].get_ydata()) == [value, value]
    assert left.get_xlabel() == "step"
    assert "nats" in left.get_ylabel()


def test_loss_plot_of_a_text_has_no_floor():
    metrics = [{"step": 1, "loss": 2.0, "lr": 0.1}, {"step": 1, "loss": 2.5}]
    (axes,) = loss_plot(metrics).axes
    assert set(lines(axes)) == {"training", "validation"}


def test_loss_plot_is_filled_by_the_validation_losses():
    """However steep the first steps are; the legend names where they began."""
    metrics = [{"step": s, "loss": 9.0 / s, "lr": 1e-3} for s in range(1, 101)]
    metrics += [{"step": s, "loss": loss, "floor": 0.55} for s, loss in ((2, 5.0), (50, 0.8), (100, 0.6))]
    (axes,) = loss_plot(metrics).axes
    bottom, top = axes.get_ylim()
    assert bottom < 0.55
    assert top > 0.8
    assert (0.8 - 0.55) / (top - bottom) > 0.8
    assert "training, begins at 9.00" in lines(axes)
    (axes,) = loss_plot(
        [m for m in metrics if "lr" in m]
    ).axes  # no validation yet: after a tenth of the steps
    assert axes.get_ylim()[1] < 1.0


def result(loss: float, recall: float | None = None) -> dict:
    kinds = {} if recall is None else {"floor": 0.4, "kinds": {"recall": {"loss": recall, "floor": 0.0}}}
    return {"loss": loss} | kinds


def test_comparison_plot_shows_every_run_and_every_baseline():
    counted = {"trigram": 1.2, "unigram": 5.0}
    runs = {"GAM": [result(1.0, 2.0), result(1.1, 2.2)], "Mamba": [result(0.8, 0.5)]}
    left, right = comparison_plot(runs, counted).axes
    assert list(lines(left)["GAM"].get_xdata()) == [1.0, 1.1]
    assert list(lines(right)["Mamba"].get_xdata()) == [0.5]
    assert [t.get_text() for t in left.get_yticklabels()] == ["GAM", "Mamba"]
    assert [t.get_text() for t in left.texts] == ["1.050", "0.800"], "the means"
    assert lines(left)["trigram, 1.20"].get_xdata()[0] == 1.2
    assert lines(left)["floor, 0.40"].get_xdata()[0] == 0.4
    assert {t.get_text() for t in left.get_legend().get_texts()} == {"floor, 0.40", "trigram, 1.20"}
    assert left.yaxis_inverted()
    (alone,) = comparison_plot({"GAM": [result(2.0)]}).axes
    assert set(lines(alone)) == {"GAM"}


def test_comparison_plot_is_filled_by_the_runs():
    """A baseline far off is named under the axis; as a line it would leave them a strip."""
    (axes,) = comparison_plot(
        {"a": [result(0.5)], "b": [result(0.6)]}, {"trigram": 0.62, "unigram": 5.0}
    ).axes
    left, right = axes.get_xlim()
    assert (0.62 - 0.5) / (right - left) > 0.8
    assert "trigram, 0.62" in lines(axes)
    assert not any("unigram" in label for label in lines(axes))
    assert "outside: unigram 5.00" in axes.get_xlabel()


def test_curves_plot_shows_the_mean_of_the_seeds_and_each_training():
    seeds = [
        {"train": [[5, 9.0], [90, 2.0]], "valid": [[50, 3.0], [100, 2.0]]},
        {"train": [[5, 9.5], [90, 2.2]], "valid": [[50, 3.4], [75, 2.5], [100, 2.2]]},
    ]
    (axes,) = curves_plot({"GAM": seeds}, {"trigram": 1.9, "unigram": 6.0}, "a title").axes
    mean = lines(axes)["GAM"]
    assert [*mean.get_xdata()] == [50, 100], "the steps at which all seeds were validated"
    assert [*mean.get_ydata()] == pytest.approx([3.2, 2.1])
    thin = [line for line in axes.lines if [*line.get_xdata()] == [5, 90]]
    assert [line.get_ydata()[1] for line in thin] == [2.0, 2.2]
    assert {line.get_color() for line in thin} == {mean.get_color()}
    assert axes.get_ylim()[1] < 6.0, "what comes before a tenth of the steps need not fit"
    assert "trigram, 1.90" in lines(axes)
    assert "outside: unigram 6.00" in axes.get_xlabel()


def test_scaling_plot_leaves_out_what_was_too_long():
    cells = {8: {"time_ms": 1.0, "peak_mib": 2.0}, 16: {"time_ms": None, "peak_mib": None}}
    time, memory = scaling_plot({"GAM": cells}, {"GAM": {"time_ms": 1.25}}).axes
    assert list(lines(time)["GAM, T^1.25"].get_xdata()) == [8]
    assert list(lines(memory)["GAM"].get_ydata()) == [2.0]
    assert time.get_xscale() == time.get_yscale() == "log"
    assert "ms" in time.get_ylabel()
    assert "MiB" in memory.get_ylabel()


def test_recall_plot_draws_receptive_field_and_chance():
    curves = {"GAM": {d: {"accuracy": 0.9, "queries": n} for d, n in (("2", 900), ("20", 100), ("21", 99))}}
    (axes,) = recall_plot(curves, {"GAM": 13, "Mamba": None}, 0.125).axes
    assert list(lines(axes)["GAM"].get_xdata()) == [2, 20]
    assert lines(axes)["receptive field of\nGAM, 13 tokens"].get_xdata()[0] == 13
    assert lines(axes)["chance, 12.5%"].get_ydata()[0] == 0.125
    assert len(axes.lines) == 3


def test_reach_plot_shows_only_what_moved():
    (axes,) = reach_plot({"GAM": [0.5, 0.1, 0.0]}, {"GAM": 2}).axes
    assert list(lines(axes)["GAM"].get_xdata()) == [0, 1]
    assert lines(axes)["receptive field of\nGAM, 2 tokens"].get_xdata()[0] == 1.5


def test_lines_that_lie_on_each_other_take_turns_at_the_markers():
    curve = {str(d): {"accuracy": 1.0, "queries": 900} for d in range(2, 52, 2)}
    (axes,) = recall_plot({"Transformer": curve, "GAM, written memory (ours)": curve}, {}, 0.125).axes
    over, under = axes.lines[:2]
    marked = [
        set(range(25)[slice(line.get_markevery()[0], None, line.get_markevery()[1])])
        for line in (over, under)
    ]
    assert len(marked[0]) >= 5
    assert len(marked[1]) >= 5
    assert not marked[0] & marked[1]
    assert over.zorder > under.zorder
    assert over.get_linestyle() != "-", "what is under it shows in the gaps"


def test_a_long_curve_has_few_markers():
    (axes,) = reach_plot({"Mamba": [1e-3] * 126}, {}).axes
    start, step = axes.lines[0].get_markevery()
    assert len(range(start, 126, step)) <= 20


def test_panels_are_labelled_axes_side_by_side_and_in_rows():
    figure, axes = panels("step", "loss (nats)", "a run")
    assert (axes.get_xlabel(), axes.get_ylabel(), axes.get_title()) == ("step", "loss (nats)", "a run")
    assert panels(n=3)[1].shape == (3,)
    figure, grid = panels("x", "y", n=3, rows=2)
    assert grid.shape == (2, 3)
    assert all(a.get_xlabel() == "x" for a in figure.axes)
