"""The plots show the curves they claim to."""

from minigam.viz import comparison_plot, loss_plot, panels, reach_plot, recall_plot, scaling_plot


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
    assert list(lines(left)["training, each step"].get_xdata()) == list(range(1, 9))
    assert list(lines(left)["validation"].get_xdata()) == [4, 8]
    assert lines(left)["floor, 0.400 nats"].get_ydata()[0] == 0.4
    for kind, (value, _) in kinds.items():
        assert list(lines(right)[kind].get_ydata()) == [value, value]
    assert left.get_xlabel() == "step"
    assert "nats" in left.get_ylabel()


def test_loss_plot_of_a_text_has_no_floor():
    metrics = [{"step": 1, "loss": 2.0, "lr": 0.1}, {"step": 1, "loss": 2.5}]
    (axes,) = loss_plot(metrics).axes
    assert set(lines(axes)) == {"training, each step", "validation"}


def test_comparison_plot_shows_every_run_and_every_baseline():
    def metrics(loss, recall):
        measured = {"floor": 0.4, "kinds": {"recall": {"loss": recall, "floor": 0.0}}}
        return [
            {"step": 1, "loss": 9.0, "lr": 0.1},
            {"step": 1, "loss": 2 * loss, **measured},
            {"step": 2, "loss": loss, **measured},
        ]

    counted = {"trigram": 3.0, "bigram": 4.0, "unigram": 5.0}
    figure = comparison_plot({"GAM": metrics(1.0, 2.0), "Mamba": metrics(0.8, 0.5)}, counted)
    left, right = figure.axes
    assert set(lines(left)) == {
        "GAM",
        "Mamba",
        "trigram, 3.00",
        "bigram, 4.00",
        "unigram, 5.00",
        "floor, 0.40",
    }
    assert list(lines(left)["Mamba"].get_ydata()) == [1.6, 0.8]
    assert list(lines(right)["GAM"].get_ydata()) == [2.0, 2.0]
    (alone,) = comparison_plot({"GAM": [{"step": 1, "loss": 2.0}]}).axes
    assert set(lines(alone)) == {"GAM"}


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
    assert lines(axes)["receptive field of GAM, 13 tokens"].get_xdata()[0] == 13
    assert lines(axes)["chance, 12.5%"].get_ydata()[0] == 0.125
    assert len(axes.lines) == 3


def test_reach_plot_shows_only_what_moved():
    (axes,) = reach_plot({"GAM": [0.5, 0.1, 0.0]}, {"GAM": 2}).axes
    assert list(lines(axes)["GAM"].get_xdata()) == [0, 1]
    assert lines(axes)["receptive field of GAM, 2 tokens"].get_xdata()[0] == 1.5


def test_panels_are_labelled_axes_side_by_side_and_in_rows():
    figure, axes = panels("step", "loss (nats)", "a run")
    assert (axes.get_xlabel(), axes.get_ylabel(), axes.get_title()) == ("step", "loss (nats)", "a run")
    assert panels(n=3)[1].shape == (3,)
    figure, grid = panels("x", "y", n=3, rows=2)
    assert grid.shape == (2, 3)
    assert all(a.get_xlabel() == "x" for a in figure.axes)
