"""The plots hold the curves they claim to."""

from minigam.viz import loss_plot


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
