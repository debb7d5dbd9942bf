"""The loss scale, which steps count, and what an optimizer refuses to restore."""

import math

import numpy as np
import pytest
from helpers.rules import needs_kernels

from minigam.models.nn import Parameter
from minigam.training import optim
from minigam.training.optim import AdamW, LossScale


def parameter(*values: float, grad: list[float] | None = None, dtype: str = "float64") -> Parameter:
    p = Parameter(np.array(values, dtype))
    p.grad = None if grad is None else np.array(grad, dtype)
    return p


def test_the_published_numbers_are_the_defaults():
    optimizer = AdamW([parameter(1.0)])
    assert (optimizer.lr, optimizer.betas, optimizer.weight_decay) == (3e-4, (0.9, 0.95), 0.1)
    assert (optimizer.eps, optimizer.steps, optimizer.scale) == (1e-8, 0, 1.0)
    assert (LossScale().value, LossScale().good_steps, LossScale.GROWTH) == (65536.0, 0, 2000)


@pytest.mark.parametrize(
    ("value", "good_steps"), [(0.0, 0), (-1.0, 0), (math.inf, 0), (math.nan, 0), (1.0, -1), (1.0, 2000)]
)
def test_numbers_that_no_scale_reaches_are_refused(value, good_steps):
    with pytest.raises(ValueError, match="LossScale"):
        LossScale(value, good_steps)
    assert vars(LossScale(5e-324, 1999)) == {"value": 5e-324, "good_steps": 1999}


def test_good_steps_in_a_row_double_the_scale_and_a_bad_one_halves_it(monkeypatch):
    monkeypatch.setattr(LossScale, "GROWTH", 3)
    scale, seen = LossScale(16.0), []
    for finite in (True, True, False, True, True, True, True):
        scale.update(finite)
        seen.append((scale.value, scale.good_steps))
    assert seen == [(16.0, 1), (16.0, 2), (8.0, 0), (8.0, 1), (8.0, 2), (16.0, 0), (16.0, 1)]


def test_a_scaled_step_is_the_step_of_the_gradients_without_the_scale():
    plain, scaled = parameter(1.0, -2.0, grad=[3.0, 4.0]), parameter(1.0, -2.0, grad=[24.0, 32.0])
    norms = [
        float(AdamW([p], lr=0.1, loss_scale=s).step(2.0))
        for p, s in ((plain, None), (scaled, LossScale(8.0)))
    ]
    assert norms == [5.0, 5.0]
    np.testing.assert_allclose(scaled.data, plain.data, rtol=1e-12)


@pytest.mark.parametrize(
    ("scale", "loss", "norm", "accepted", "steps", "after"),
    [
        (None, 1.0, 1.0, True, 1, None),
        (None, 1.0, math.inf, False, 0, None),
        (None, math.nan, 1.0, False, 0, None),
        (8.0, 1.0, 1.0, True, 1, 8.0),
        (8.0, 1.0, math.inf, True, 0, 4.0),  # the gradients alone: training goes on with half the scale
        (8.0, math.inf, math.inf, False, 0, 8.0),
        (2.0, 1.0, math.inf, True, 0, 1.0),
        (1.0, 1.0, math.inf, False, 0, 1.0),
        (0.5, 1.0, math.inf, False, 0, 0.5),
        (1.0, 1.0, 1.0, True, 1, 1.0),
    ],
)
def test_a_step_that_is_not_finite_is_not_counted(scale, loss, norm, accepted, steps, after):
    optimizer = AdamW([parameter(1.0, grad=[1.0])], loss_scale=LossScale(scale) if scale else None)
    optimizer.step()
    assert optimizer.steps == 1
    assert optimizer.accepts(loss, norm) is accepted
    assert optimizer.steps == steps
    if scale:
        assert (optimizer.loss_scale.value, optimizer.loss_scale.good_steps) == (after, int(steps))


@needs_kernels
@pytest.mark.parametrize("missing", [None, 0, 1])
def test_one_call_for_all_parameters_is_a_call_for_each(missing, monkeypatch):
    """A library with a faster update gets all in one call, unless a parameter has no gradient."""
    calls, pairs = [], [[parameter(1.0, 2.0, grad=[3.0, 4.0]), parameter(5.0, grad=[6.0])] for _ in range(2)]
    for pair in pairs:
        if missing is not None:
            pair[missing].grad = None
    AdamW(pairs[0], lr=0.1).step(1.0)
    faster = optim.FASTER["numpy"]
    monkeypatch.setitem(optim.FASTER, "numpy", lambda *a, **s: calls.append(a) or faster(*a, **s))
    AdamW(pairs[1], lr=0.1).step(1.0)
    for p, q in zip(*pairs, strict=True):
        np.testing.assert_array_equal(p.data, q.data)
    assert [len(g) for _, _, g, *_ in calls] == ([3] if missing is None else [[1], [2]][missing])


@pytest.mark.parametrize("letter", "mv")
@pytest.mark.parametrize(
    "wrong",
    [
        np.ones(1),
        np.ones(3),
        np.ones((2, 1)),
        np.ones(2, "float32"),
        np.array([0.0, math.inf]),
        np.array([math.nan, 0.0]),
    ],
    ids=str,
)
def test_moments_that_do_not_fit_are_refused_and_change_nothing(letter, wrong):
    optimizer = AdamW([parameter(1.0, 2.0, grad=[1.0, 1.0])])
    optimizer.step()
    before = {name: a.copy() for name, a in optimizer.state_dict(["p"]).items()}
    arrays = {"m.p": np.zeros(2), "v.p": np.zeros(2)} | {f"{letter}.p": wrong}
    with pytest.raises(
        ValueError, match=rf"{letter}\.p (\(.*\) float.., wanted \(2,\) float64|is out of range)"
    ):
        optimizer.load_state_dict(arrays, ["p"], 7)
    assert optimizer.steps == 1
    for name, a in optimizer.state_dict(["p"]).items():
        np.testing.assert_array_equal(a, before[name])


def test_a_mean_may_be_negative_and_a_mean_of_squares_may_not():
    optimizer, small = AdamW([parameter(1.0, 2.0)]), np.array([0.0, -5e-324])
    optimizer.load_state_dict({"m.p": small, "v.p": -small}, ["p"], 7)
    assert optimizer.steps == 7
    with pytest.raises(ValueError, match=r"v\.p is out of range"):
        optimizer.load_state_dict({"m.p": small, "v.p": small}, ["p"], 8)


def test_every_step_raises_the_version_of_every_parameter():
    ps = [parameter(1.0, grad=[1.0]), parameter(2.0)]
    optimizer = AdamW(ps)
    for n in (1, 2, 3):
        optimizer.step()
        assert [p.version for p in ps] == [n, n]
