"""AdamW, clipping and the schedule, against PyTorch and against their definitions."""

import math
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from safetensors.numpy import load_file

from minigam import backend
from minigam.engine import numeric
from minigam.models.nn import Parameter
from minigam.training.optim import AdamW
from minigam.training.schedule import warmup_cosine

GOLDEN = Path(__file__).parents[1] / "helpers" / "golden"
PRECISIONS = [("float64", 1e-12), ("float32", 2e-6)]
each_precision = pytest.mark.parametrize(("dtype", "tolerance"), PRECISIONS)


def parameters(*arrays) -> list[Parameter]:
    return [Parameter(np.array(a)) for a in arrays]


def give(params, gradients) -> None:
    for p, g in zip(params, gradients, strict=True):
        p.grad = None if g is None else np.array(g, dtype=p.dtype)


# ------------------------------------------------------------------------------------- AdamW


@each_precision
def test_adamw_takes_the_stored_path(dtype, tolerance):
    stored = load_file(GOLDEN / f"adamw-{dtype}.safetensors")
    [p] = parameters(stored["start"])
    optimizer = AdamW(
        [p],
        betas=tuple(stored["betas"].tolist()),
        weight_decay=stored["weight_decay"].item(),
        eps=stored["eps"].item(),
    )
    for g, rate, wanted in zip(stored["gradients"], stored["rates"].tolist(), stored["path"], strict=True):
        optimizer.lr = rate
        give([p], [g])
        optimizer.step()
        assert p.dtype == dtype
        np.testing.assert_allclose(p.data, wanted, rtol=tolerance, atol=tolerance)


@each_precision
@given(
    rate=st.floats(1e-6, 0.1),
    betas=st.tuples(st.floats(0.0, 0.999), st.floats(0.0, 0.999)),
    weight_decay=st.floats(0.0, 1.0),
    eps=st.floats(1e-8, 1e-3),
    seed=st.integers(0, 9),
)
def test_adamw_is_torchs(dtype, tolerance, rate, betas, weight_decay, eps, seed):
    torch = pytest.importorskip("torch", reason="compares with PyTorch itself")
    rng = np.random.default_rng(seed)
    shapes = [(3, 2), (4,)]
    ours = parameters(*(rng.standard_normal(s).astype(dtype) for s in shapes))
    theirs = [torch.nn.Parameter(torch.tensor(p.data)) for p in ours]
    settings = {"lr": rate, "betas": betas, "weight_decay": weight_decay, "eps": eps}
    optimizers = AdamW(ours, **settings), torch.optim.AdamW(theirs, **settings)
    for _ in range(20):
        give(ours, [rng.standard_normal(s) for s in shapes])
        for p, q in zip(ours, theirs, strict=True):
            q.grad = torch.tensor(p.grad)
        for optimizer in optimizers:
            optimizer.step()
    for p, q in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(p.data, q.detach().numpy(), rtol=tolerance, atol=tolerance)


def test_the_first_step_without_decay_is_the_learning_rate_against_the_sign():
    # Both moments are corrected for having started at zero: m_hat = g and v_hat = g^2.
    [p] = parameters(np.zeros(3))
    give([p], [[5.0, -1e-3, 0.0]])
    AdamW([p], lr=0.1, weight_decay=0.0, eps=1e-12).step()
    np.testing.assert_allclose(p.data, [-0.1, 0.1, 0.0], rtol=1e-8)


def test_a_parameter_without_a_gradient_is_left_alone(rng):
    moving, still = parameters(rng.standard_normal(4), rng.standard_normal(4))
    optimizer, before = AdamW([moving, still], lr=0.1), still.data.copy()
    for _ in range(3):
        give([moving, still], [rng.standard_normal(4), None])
        optimizer.step()
    np.testing.assert_array_equal(still.data, before)  # decay included
    assert not optimizer.m[4:].any() and not optimizer.v[4:].any()
    assert optimizer.m[:4].all()


def test_a_step_leaves_gradients_as_they_are_and_zero_grad_drops_them():
    params = parameters(np.ones(3), np.ones(2))
    give(params, [[1.0, 2.0, 3.0], [4.0, 5.0]])
    optimizer = AdamW(params)
    optimizer.step()
    assert [p.grad.tolist() for p in params] == [[1.0, 2.0, 3.0], [4.0, 5.0]]
    optimizer.zero_grad()
    assert [p.grad for p in params] == [None, None]


def test_no_parameters_are_refused():
    with pytest.raises(ValueError, match="AdamW: no parameters"):
        AdamW(iter(()))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_state_put_back_continues_bit_for_bit(dtype, rng):
    gradients = rng.standard_normal((10, 2, 3))
    names = ["a", "b"]

    def walk(params, optimizer, gradients):
        for g in gradients:
            give(params, g)
            optimizer.step()

    params = parameters(*rng.standard_normal((2, 3)).astype(dtype))
    optimizer = AdamW(params, lr=0.01)
    walk(params, optimizer, gradients[:5])
    saved, steps = optimizer.state_dict(names), optimizer.steps
    kept = {name: a.copy() for name, a in saved.items()}
    copies = parameters(*(p.data.copy() for p in params))
    walk(params, optimizer, gradients[5:])

    assert all((saved[name] == kept[name]).all() for name in kept)  # a copy, not a view
    resumed = AdamW(copies, lr=0.01)
    resumed.load_state_dict(saved, names, steps)
    walk(copies, resumed, gradients[5:])
    for p, q in zip(params, copies, strict=True):
        assert p.dtype == dtype
        np.testing.assert_array_equal(p.data, q.data)
    assert all((saved[name] == kept[name]).all() for name in kept)  # loading copied too
    for name, a in resumed.state_dict(names).items():
        np.testing.assert_array_equal(a, optimizer.state_dict(names)[name])


def test_parameters_given_other_arrays_are_taken_in_again(rng, xp):
    """load_state_dict and to do that, and the optimizer works on views."""
    first, second, g = rng.standard_normal((3, 2, 3))
    plain, moved = parameters(first), parameters(first)
    optimizers = AdamW(plain, lr=0.1), AdamW(moved, lr=0.1)
    plain[0].data[...] = second  # in place: the same as
    moved[0].data = xp.asarray(second)  # another array, on another device
    for params, optimizer in zip((plain, moved), optimizers, strict=True):
        for _ in range(2):
            params[0].grad = backend.xp_of(params[0].data).asarray(g)
            optimizer.step()
    np.testing.assert_allclose(backend.to_numpy(moved[0].data), plain[0].data, rtol=1e-12)
    assert not np.allclose(plain[0].data, second)


def test_a_step_over_several_tiles_is_the_step_of_each_number(rng, monkeypatch):
    whole, split = (parameters(np.linspace(-1.0, 1.0, 11)) for _ in range(2))
    for params, size in ((whole, 2**16), (split, 4)):
        monkeypatch.setattr(numeric, "TILE", size)
        optimizer = AdamW(params, lr=0.1)
        for step in range(3):
            give(params, [np.sin(step + np.arange(11.0))])
            optimizer.step()
    np.testing.assert_array_equal(whole[0].data, split[0].data)


def test_two_dtypes_are_refused():
    mixed = [Parameter(np.zeros(2, "float32")), Parameter(np.zeros(2))]
    with pytest.raises(TypeError, match=r"AdamW: .*float32.*float64.*wanted one dtype"):
        AdamW(mixed)


# ---------------------------------------------------------------------------------- clipping


def clip(params, max_norm: float) -> tuple[float, list[np.ndarray]]:
    """Return the norm, and the gradients that a step took: with betas of zero the first moments are these."""
    optimizer = AdamW(params, betas=(0.0, 0.0))
    norm = float(optimizer.step(max_norm))
    return norm, [optimizer.m[at].reshape(p.shape) for p, at in zip(params, optimizer.places, strict=True)]


@given(
    gradients=st.lists(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=4), min_size=1, max_size=3),
    share=st.floats(0.1, 3.0),
)
def test_clipping_bounds_the_norm_and_keeps_the_direction(gradients, share):
    flat = np.concatenate([np.array(g) for g in gradients])
    before = math.hypot(*flat)
    assume(before > 1e-3)
    params, max_norm = parameters(*(np.zeros(len(g)) for g in gradients)), share * before
    give(params, gradients)
    norm, clipped = clip(params, max_norm)
    assert norm == pytest.approx(before, rel=1e-12)
    clipped = np.concatenate(clipped)
    if norm + 1e-6 <= max_norm:
        np.testing.assert_array_equal(clipped, flat)
    else:
        after = math.hypot(*clipped)
        assert after <= max_norm and after == pytest.approx(max_norm, rel=1.1e-6 / norm)
        np.testing.assert_allclose(clipped / after, flat / before, rtol=0, atol=1e-12)


@each_precision
@given(seed=st.integers(0, 99), max_norm=st.floats(0.01, 10.0))
def test_clipping_is_torchs(dtype, tolerance, seed, max_norm):
    torch = pytest.importorskip("torch", reason="compares with PyTorch itself")
    rng = np.random.default_rng(seed)
    gradients = [rng.standard_normal(s).astype(dtype) for s in ((3, 2), (4,))]
    # Within 1e-6 of max_norm PyTorch scales by up to that much and minigam not at all.
    assume(abs(math.hypot(*np.concatenate([g.ravel() for g in gradients])) - max_norm) > 2e-6)
    ours = parameters(*(np.zeros_like(g) for g in gradients))
    theirs = [torch.nn.Parameter(torch.zeros(g.shape, dtype=getattr(torch, dtype))) for g in gradients]
    give(ours, gradients)
    for q, g in zip(theirs, gradients, strict=True):
        q.grad = torch.tensor(g)
    wanted = torch.nn.utils.clip_grad_norm_(theirs, max_norm).item()
    norm, clipped = clip(ours, max_norm)
    assert norm == pytest.approx(wanted, rel=tolerance)
    for g, q in zip(clipped, theirs, strict=True):
        assert g.dtype == dtype
        np.testing.assert_allclose(g, q.grad.numpy(), rtol=tolerance)


def test_two_parameters_may_share_one_gradient_array():
    a, b = parameters(np.zeros(2), np.zeros(2))
    a.grad = b.grad = np.array([3.0, 4.0])  # as the backward of a + b leaves it
    norm, clipped = clip([a, b], 1.0)
    assert norm == pytest.approx(math.sqrt(50.0))
    np.testing.assert_allclose(clipped, [np.array([3.0, 4.0]) / math.sqrt(50.0)] * 2, rtol=1e-5)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_norm_that_is_not_finite_changes_nothing(bad):
    params = parameters(np.ones(2), np.ones(2))
    give(params, [[30.0, bad], [1.0, 2.0]])
    optimizer = AdamW(params)
    assert not math.isfinite(optimizer.step(1.0))
    np.testing.assert_array_equal(optimizer.flat, 1.0)
    assert not optimizer.m.any() and not optimizer.v.any()


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_not_finite_changes_nothing(bad):
    [p] = parameters(np.ones(2))
    give([p], [[1.0, 2.0]])
    AdamW([p]).step(1.0, loss=bad)
    np.testing.assert_array_equal(p.data, 1.0)


def test_parameters_without_gradients_have_no_norm():
    with_one, without = parameters(np.zeros(2), np.zeros(2))
    assert clip([without], 1.0)[0] == 0.0
    give([with_one], [[3.0, 4.0]])
    assert clip([without, with_one], 10.0)[0] == 5.0
    assert without.grad is None


# ---------------------------------------------------------------------------------- schedule


@given(steps=st.integers(2, 300), warmup=st.integers(0, 300), peak=st.floats(1e-6, 1.0))
def test_the_rate_rises_to_the_peak_and_falls_to_zero(steps, warmup, peak):
    assume(warmup < steps)
    rates = [warmup_cosine(step, steps, warmup, peak) for step in range(1, steps + 1)]
    rising, falling = rates[:warmup], rates[max(0, warmup - 1) :]
    assert all(0.0 < a < b for a, b in pairwise(rising))
    assert all(a > b >= 0.0 for a, b in pairwise(falling))
    assert rates[-1] == pytest.approx(0.0, abs=1e-15)
    assert max(rates) <= peak
    if warmup:
        assert rates[0] == pytest.approx(peak / warmup)
        assert rates[warmup - 1] == peak
    else:
        assert rates[0] == pytest.approx(peak * math.cos(math.pi / (2 * steps)) ** 2)  # no step is lost


@given(half=st.integers(1, 100), warmup=st.integers(0, 100))
def test_half_way_down_the_rate_is_half(half, warmup):
    assert warmup_cosine(warmup + half, warmup + 2 * half, warmup, 1.0) == pytest.approx(0.5)


@pytest.mark.parametrize(("steps", "warmup"), [(1, 0), (1, 1), (5, 5), (5, 9)])
def test_a_run_as_short_as_its_warm_up_has_rates(steps, warmup):
    rates = [warmup_cosine(step, steps, warmup, 1.0) for step in range(1, steps + 1)]
    assert rates == [step / warmup if warmup else 0.0 for step in range(1, steps + 1)]
