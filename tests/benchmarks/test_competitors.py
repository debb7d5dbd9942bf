"""The competitors do the same work as minigam: the same losses, gradients and weights."""

import json
import subprocess
import sys

import numpy as np
import pytest
from helpers import tiny
from helpers.bench import TINY, flops_of_a_step
from helpers.parity import assert_close, official_gradients

from benchmarks import measure, train_step
from minigam import GAM, GAMConfig, Transformer, TransformerConfig
from minigam.models import interop
from minigam.training import step
from minigam.training.optim import AdamW


def batch(model, B: int = 3, T: int = 6):
    return tiny.draw_ids(model, B, T, seed=1), tiny.draw_ids(model, B, T, seed=2)


# ------------------------------------------------------------------------- the same work for all


def peer_of(model, torch_models):
    """Return PyTorch's model with the same weights, in their precision."""
    import torch

    peer = torch_models.LanguageModel(model.config).to(torch.float64)
    peer.load_state_dict({name: torch.tensor(a) for name, a in interop.to_official(model).items()})
    return peer


def models():
    yield tiny.gam(dropout=0.0)
    config = TransformerConfig(
        vocab_size=7, block_size=6, d_model=4, n_layers=2, n_heads=2, dropout=0.0, position_std=1.0
    )
    yield tiny.randomise(Transformer(config, dtype="float64"))


@pytest.mark.parametrize("model", [*models()], ids=["gam", "transformer"])
def test_torchs_loss_and_gradients_are_minigams(model):
    torch = pytest.importorskip("torch", reason="compares with PyTorch itself")
    from benchmarks import torch_models

    ids, targets = batch(model)
    peer = peer_of(model, torch_models)
    loss, wanted = model.loss(ids, targets), peer.loss(torch.tensor(ids), torch.tensor(targets))
    assert loss.item() == pytest.approx(wanted.item(), abs=1e-10)
    model.zero_grad()
    loss.backward()
    wanted.backward()
    theirs = {name: p.grad.numpy() for name, p in peer.named_parameters(remove_duplicate=False)}
    if isinstance(model, GAM):
        assert_close(official_gradients(model), theirs, rtol=1e-9)
    else:
        qkv = model.blocks[0].attention.qkv.weight.grad
        assert_close({"w": qkv}, {"w": theirs["blocks.0.attn.c_attn.weight"]}, rtol=1e-9)


def own_losses(model, ids, targets, steps: int = 4) -> list[float]:
    optimizer = AdamW(model.parameters(), lr=3e-4, betas=(0.9, 0.95), weight_decay=0.1)
    return [step.train_step(model, optimizer, ids, targets) for _ in range(steps)]


@pytest.mark.parametrize("settings", [{}, {"micro_batch": 2, "fused": True}], ids=["eager", "tuned"])
def test_torch_trains_as_minigam_does(settings):
    torch = pytest.importorskip("torch", reason="compares with PyTorch itself")
    from benchmarks import torch_models

    model = tiny.gam(dropout=0.0)
    ids, targets = batch(model)
    trainer = torch_models.Trainer(peer_of(model, torch_models), **settings)
    theirs = [trainer.step(torch.tensor(ids), torch.tensor(targets)) for _ in range(4)]
    np.testing.assert_allclose(theirs, own_losses(model, ids, targets), rtol=0, atol=1e-9)


def test_autograd_trains_as_minigam_does():
    pytest.importorskip("autograd.scipy.special", reason="compares with HIPS autograd itself")
    from benchmarks import autograd_model

    model = tiny.gam(dropout=0.0)
    ids, targets = batch(model)
    weights = interop.to_official(model)
    del weights["head.weight"]
    loss, gradients = autograd_model.value_and_grad(autograd_model.loss)(weights, ids, targets, 2)
    own = model.loss(ids, targets)
    assert own.item() == pytest.approx(loss, abs=1e-10)
    own.backward()
    assert_close(official_gradients(model), gradients, rtol=1e-9)
    peer_step = autograd_model.step_of(weights, 2)
    theirs = [peer_step(ids, targets) for _ in range(4)]
    np.testing.assert_allclose(theirs, own_losses(model, ids, targets), rtol=0, atol=1e-9)


JAX_LOSSES = """
import json, sys
import numpy as np
from benchmarks.jax_model import dropout, jax, step_of
given = dict(np.load(sys.argv[1]))
ids, targets = given.pop("ids"), given.pop("targets")
step = step_of(given, 2)
print(json.dumps([step(ids, targets) for _ in range(4)]))
print(json.dumps(dropout(jax.random.key(0), np.ones(10_000, np.float32), 0.25).tolist()))
"""


@pytest.mark.skipif(not measure.find_spec("jax"), reason="compares with JAX itself")
def test_jax_trains_as_minigam_does(tmp_path):
    """In a process of its own: JAX's threads would stay in this one, and forbid a fork."""
    model = tiny.gam(dropout=0.0, dtype="float32")
    ids, targets = batch(model)
    weights = interop.to_official(model)
    del weights["head.weight"]
    np.savez(tmp_path / "given.npz", **weights, ids=ids, targets=targets)
    command = [sys.executable, "-c", JAX_LOSSES, str(tmp_path / "given.npz")]
    done = subprocess.run(command, cwd=measure.PROJECT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    theirs, dropped = map(json.loads, done.stdout.splitlines())
    np.testing.assert_allclose(theirs, own_losses(model, ids, targets), rtol=1e-5)
    assert np.unique(dropped) == pytest.approx([0.0, 4 / 3])
    assert np.mean(dropped) == pytest.approx(1.0, abs=0.02)


def test_autograd_stays_in_float32():
    pytest.importorskip("autograd.scipy.special", reason="runs HIPS autograd itself")
    from benchmarks.autograd_model import step_of

    weights = interop.to_official(tiny.gam(dtype="float32"))
    del weights["head.weight"]
    step_of(weights, 2)(*batch(tiny.gam()))
    assert {a.dtype for a in weights.values()} == {np.dtype("float32")}


@pytest.mark.parametrize("numbers", [10**9, 1], ids=["one part", "parts of a row"])
def test_the_lower_bound_is_the_matrix_products_of_a_step(numbers, monkeypatch):
    counted = []

    def timed(compute, warm_up, steps):
        monkeypatch.setattr(np, "matmul", lambda a, b, out: counted.append(2 * out.size * a.shape[-1]))
        compute()
        return {}

    monkeypatch.setattr(step, "WIDEST", numbers)
    monkeypatch.setattr(measure, "timed", timed)
    result = train_step.work("products", TINY.to_dict(), batch=3, warm_up=1, steps=2)
    assert sum(counted) == result["flops"] == flops_of_a_step(TINY, 3 * TINY.block_size)


def test_a_step_of_the_published_size_is_about_a_teraflop():
    assert train_step.CONFIGS["published"].model == GAMConfig()
    assert flops_of_a_step(GAMConfig(), 32 * 256) == pytest.approx(1.18e12, rel=0.01)
