"""One step, the order of the data, evaluation, and losses that are no numbers."""

from collections import Counter

import numpy as np
import pytest
from helpers.steps import batch, tiny

from minigam import ops
from minigam.config import GAMConfig
from minigam.engine.tensor import Tensor
from minigam.models.gam import GAM
from minigam.models.mamba import Mamba
from minigam.models.transformer import Transformer
from minigam.training import step
from minigam.training.optim import AdamW
from minigam.training.step import NonFinite, train_step


@pytest.mark.parametrize("micro_batch", [1, 2, 4, 5, 6, 100])
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_micro_batches_are_exact(micro_batch, dropout):
    ids, targets = batch()
    whole, parts = tiny(dropout=dropout), tiny(dropout=dropout)
    losses = [
        train_step(whole, AdamW(whole.parameters()), ids, targets),
        train_step(parts, AdamW(parts.parameters()), ids, targets, micro_batch=micro_batch),
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-14)
    for (name, a), b in zip(whole.named_parameters(), parts.parameters(), strict=True):
        # Adam's first step divides a gradient by its size: compare the gradients themselves.
        np.testing.assert_allclose(a.grad, b.grad, rtol=1e-9, atol=1e-13, err_msg=name)


@pytest.mark.parametrize("Model", [Transformer, Mamba])
def test_micro_batches_are_exact_for_the_rivals(Model):
    config = Model.Config(vocab_size=7, block_size=8, d_model=8, n_layers=2, dropout=0.3)
    ids, targets = np.random.default_rng(0).integers(7, size=(2, 5, 8))
    gradients = []
    for micro_batch in (5, 2):
        model = Model(config, dtype="float64")
        train_step(model, AdamW(model.parameters()), ids, targets, micro_batch)
        assert model.mask_counter.first_token == 0
        gradients.append({name: p.grad for name, p in model.named_parameters()})
    for name, g in gradients[0].items():
        np.testing.assert_allclose(g, gradients[1][name], rtol=1e-9, atol=1e-13, err_msg=name)


def test_left_to_itself_a_step_takes_parts_whose_widest_array_is_bounded(monkeypatch):
    model, (ids, targets) = tiny(), batch()
    shapes, C, T = [], model.config.d_model, ids.shape[1]
    loss = model.mean_loss
    monkeypatch.setattr(model, "mean_loss", lambda ids, *rest: shapes.append(ids.shape) or loss(ids, *rest))
    for numbers, rows in ((10**9, [6]), (4 * 4 * C * T + 1, [3, 3]), (1, [1] * 5)):  # the last has no target
        monkeypatch.setattr(step, "WIDEST", numbers)
        shapes.clear()
        train_step(model, AdamW(model.parameters()), ids, targets)
        assert shapes == [(n, T) for n in rows]


@pytest.mark.parametrize(("mixer", "kernel_size"), [("gated", 3), ("local", 2), ("global", 3)])
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_a_long_row_is_split_exactly(mixer, kernel_size, dropout, monkeypatch):
    config = GAMConfig(vocab_size=7, block_size=90, d_model=4, n_layers=2, n_slots=3,
                       mixer=mixer, kernel_size=kernel_size, dropout=dropout)  # fmt: skip
    rng = np.random.default_rng(0)
    ids, targets = rng.integers(0, 7, (2, 90)), rng.integers(-1, 7, (2, 90))
    results = []
    for numbers in (10**9, 1):
        monkeypatch.setattr(step, "WIDEST", numbers)
        model, shapes = GAM(config, dtype="float64"), []
        loss = model.mean_loss
        monkeypatch.setattr(
            model, "mean_loss", lambda *given, f=loss, s=shapes: s.append(given[0].shape) or f(*given)
        )
        mean = train_step(model, AdamW(model.parameters()), ids, targets)
        results.append((mean, {name: p.grad for name, p in model.named_parameters()}, shapes))
    (whole, wanted, one), (split, got, several) = results
    assert one == [(2, 90)] and len(several) > 4
    assert max(T for _, T in several) <= 9 * model.reach
    assert split == pytest.approx(whole, rel=1e-13)
    for name, g in got.items():
        np.testing.assert_allclose(g, wanted[name], rtol=1e-9, atol=1e-13, err_msg=name)


def test_a_long_row_of_a_model_that_sees_everything_is_not_split(monkeypatch):
    config = Transformer.Config(vocab_size=7, block_size=40, d_model=8, n_layers=1, n_heads=2)
    monkeypatch.setattr(step, "WIDEST", 1)
    model = Transformer(config)
    assert list(step.places(model, 2, 40, None)) == [(slice(0, 1), 0, 0, 40), (slice(1, 2), 0, 0, 40)]


@pytest.mark.parametrize("library", ["numpy", "fakegpu"])
def test_a_batch_is_checked_and_moved_once_however_many_parts_it_has(library, monkeypatch):
    model, (ids, targets) = tiny().to(library), batch()
    calls = Counter()

    def counted(name):
        method = getattr(model, name)
        monkeypatch.setattr(model, name, lambda *given: calls.update([name]) or method(*given))

    for name in ("checked", "checked_targets", "here", "mean_loss"):
        counted(name)
    train_step(model, AdamW(model.parameters()), ids, targets, micro_batch=1)
    assert calls == {"checked": 1, "checked_targets": 1, "here": 2, "mean_loss": 5}  # one row has no target


def test_a_step_returns_the_loss_before_the_update_and_lowers_it():
    ids, targets = batch()
    model = tiny()
    before = model.loss(ids, targets).item()
    optimizer = AdamW(model.parameters(), lr=1e-2)
    assert train_step(model, optimizer, ids, targets) == pytest.approx(before)
    for _ in range(30):
        after = train_step(model, optimizer, ids, targets)
    assert after < 0.5 * before


def test_the_same_seed_gives_the_same_bits_dropout_included():
    ids, targets = batch()
    results = []
    for seed in (1, 1, 2):
        model = tiny(dropout=0.3, dtype="float32", seed=seed)
        optimizer = AdamW(model.parameters())
        losses = [train_step(model, optimizer, ids, targets, micro_batch=2) for _ in range(3)]
        results.append((losses, model.state_dict()))
    assert results[0][0] == results[1][0] != results[2][0]
    for name, a in results[0][1].items():
        assert (a == results[1][1][name]).all(), name


def test_a_step_with_nothing_to_predict_is_refused():
    model = tiny()
    with pytest.raises(ValueError, match="every target is negative"):
        train_step(model, AdamW(model.parameters()), np.zeros((1, 8), int), np.full((1, 8), -1))


def test_nan_names_the_first_operation_and_changes_nothing(monkeypatch):
    model = tiny(dropout=0.2)
    ids, targets = batch()
    optimizer = AdamW(model.parameters())
    drawn, before = model.mask_counter.drawn, model.state_dict()
    reference = ops.gelu.rule

    def faulty(xp, *arrays):
        y, backward = reference(xp, *arrays)
        return np.where(y > y.max() - 1e-9, np.nan, y), backward

    monkeypatch.setattr(ops.gelu, "rule", faulty)
    monkeypatch.setattr(ops.gelu, "fast", {})
    with pytest.raises(NonFinite, match=r"loss nan.*op 'gelu', forward, in a result of shape \(6, 8, 32\)"):
        train_step(model, optimizer, ids, targets)
    assert optimizer.steps == 0
    assert (model.mask_counter.drawn, model.mask_counter.first_token) == (drawn, 0)  # no step was taken
    for name, a in model.state_dict().items():
        assert (a == before[name]).all(), name


def test_an_infinite_gradient_names_the_backward_rule(monkeypatch):
    model = tiny()
    reference = ops.layer_norm.rule

    def faulty(xp, x, weight, bias, *, eps):
        y, backward = reference(xp, x, weight, bias, eps=eps)
        return y, lambda dy: tuple(np.inf * g for g in backward(dy))

    monkeypatch.setattr(ops.layer_norm, "rule", faulty)
    monkeypatch.setattr(ops.layer_norm, "fast", {})
    with pytest.raises(NonFinite, match="op 'layer_norm', backward"), np.errstate(invalid="ignore"):
        train_step(model, AdamW(model.parameters()), *batch())


def test_a_broken_parameter_is_named():
    model = tiny()
    model.blocks[1].memory.data[2, 3] = np.nan
    with pytest.raises(NonFinite, match=r"parameter blocks\.1\.memory, before the step began"):
        train_step(model, AdamW(model.parameters()), *batch())


def test_loss_accepts_tensors_of_ids():
    model, (ids, targets) = tiny(), batch()
    assert model.loss(Tensor(ids), Tensor(targets)).item() == model.loss(ids, targets).item()


def test_a_step_takes_lists_and_unsigned_integers(monkeypatch):
    monkeypatch.setattr(step, "WIDEST", 1)
    config = GAMConfig(vocab_size=7, block_size=60, d_model=4, n_layers=1, n_slots=3)
    ids, targets = np.random.default_rng(0).integers(0, 7, (2, 2, 60))
    losses = []
    for kind in (np.asarray, lambda a: a.astype(np.uint16), lambda a: a.tolist(), Tensor):
        model = GAM(config, dtype="float64")
        losses.append(train_step(model, AdamW(model.parameters()), kind(ids), kind(targets)))
    assert len(set(losses)) == 1


def test_an_interrupted_step_leaves_the_masks_of_the_next_where_they_belong(monkeypatch):
    model, (ids, targets) = tiny(dropout=0.3), batch()
    loss = model.mean_loss

    def interrupted(ids, *rest):
        if model.mask_counter.first_token:
            raise KeyboardInterrupt
        return loss(ids, *rest)

    monkeypatch.setattr(model, "mean_loss", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train_step(model, AdamW(model.parameters()), ids, targets, micro_batch=2)
    assert model.mask_counter.first_token == 0


def test_a_fault_of_no_single_operation_is_said_to_be_of_the_sum():
    model, (ids, targets) = tiny(), batch()
    (parts,) = step.parts_of(model, ids, targets, None)
    assert step.first_non_finite(model, parts) == ""
    assert "each operation by itself is finite" in step.SUM_AT_FAULT
    assert all(p.grad is None for p in model.parameters())
