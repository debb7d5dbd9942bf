"""minigam against PyTorch: values, gradients and initial values.

The golden files hold what PyTorch answered (tests/helpers/make_golden.py) and are compared with always;
the tests that call PyTorch itself cover more shapes and are skipped without it.
"""

import math
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from helpers import tiny
from helpers.parity import assert_close, official_gradients
from safetensors.numpy import load_file

from minigam import GAM, GAMConfig
from minigam.config import MIXERS, WRITTEN
from minigam.models import interop

GOLDEN = Path(__file__).parents[1] / "helpers" / "golden"
each_mixer = pytest.mark.parametrize("mixer", MIXERS)


# ------------------------------------------------------------------------ values and gradients


@each_mixer
@pytest.mark.parametrize(("dtype", "atol", "rtol"), [("float64", 1e-10, 1e-9), ("float32", 1e-5, 1e-4)])
def test_logits_loss_and_gradients_are_the_stored_ones(mixer, dtype, atol, rtol):
    stored = load_file(GOLDEN / f"gam-{mixer}.safetensors")

    def part(prefix):
        return {n.removeprefix(prefix): a.astype(dtype) for n, a in stored.items() if n.startswith(prefix)}

    model = interop.from_official(part("weight."), written=mixer == WRITTEN).eval()
    assert model.config.mixer == mixer
    np.testing.assert_allclose(model(stored["ids"]).data, stored["logits"], rtol=0, atol=atol)
    loss = model.loss(stored["ids"], stored["targets"])
    np.testing.assert_allclose(loss.item(), stored["loss"], rtol=0, atol=atol)
    loss.backward()
    wanted = part("gradient.")
    assert wanted.keys() == part("weight.").keys()
    assert_close(official_gradients(model), wanted, rtol)


@each_mixer
@pytest.mark.parametrize("kernel_size", [1, 3, 4])
@pytest.mark.parametrize(
    ("B", "T"), [(2, 6), (1, 1), (3, 2)], ids=["full-block", "one-token", "shorter-than-kernel"]
)
def test_logits_and_gradients_are_torchs(mixer, kernel_size, B, T):
    torch = pytest.importorskip("torch", reason="compares with PyTorch itself")
    from helpers import reference_torch

    model = tiny.gam(mixer, kernel_size=kernel_size)
    ids, targets = tiny.draw_ids(model, B, T, seed=1), tiny.draw_ids(model, B, T, seed=2)
    targets[1:, 0] = -1  # not predicted
    w = reference_torch.leaves(interop.to_official(model))
    written = mixer == WRITTEN
    wanted = reference_torch.logits(w, torch.tensor(ids), written).detach().numpy()
    np.testing.assert_allclose(model(ids).data, wanted, rtol=0, atol=1e-10)

    loss = model.loss(ids, targets)
    wanted = reference_torch.loss(w, torch.tensor(ids), torch.tensor(targets), written)
    assert loss.item() == pytest.approx(wanted.item(), abs=1e-10)
    loss.backward()
    wanted.backward()
    assert_close(official_gradients(model), {name: t.grad.numpy() for name, t in w.items()}, rtol=1e-9)


# ------------------------------------------------------------------------------ initial values


V, T, C, S, K = 600, 250, 128, 160, 4


@cache
def fresh() -> dict[str, np.ndarray]:
    config = GAMConfig(vocab_size=V, block_size=T, d_model=C, n_slots=S, kernel_size=K, n_layers=1)
    return interop.to_official(GAM(config, dtype="float64"))


def uniform(bound: float):
    """Return the distribution function of the uniform distribution on (-bound, bound)."""
    return lambda x: np.clip((x / bound + 1.0) / 2.0, 0.0, 1.0)


def normal(x):
    return np.array([(1.0 + math.erf(z / math.sqrt(2.0))) / 2.0 for z in x])


DRAWN = {  # how PyTorch draws each layer by default
    "token_embedding.weight": uniform(1 / math.sqrt(C)),  # the head's Linear
    "pos_embedding.weight": normal,
    "blocks.0.causal_conv.weight": uniform(1 / math.sqrt(K)),  # a depthwise filter has K inputs
    "blocks.0.causal_conv.bias": uniform(1 / math.sqrt(K)),
    "blocks.0.memory_bank": uniform(math.sqrt(6 / (S + C))),  # Xavier
    "blocks.0.gate.weight": uniform(1 / math.sqrt(C)),
    "blocks.0.gate.bias": uniform(1 / math.sqrt(C)),
    "blocks.0.ffn.0.weight": uniform(1 / math.sqrt(C)),
    "blocks.0.ffn.0.bias": uniform(1 / math.sqrt(C)),
    "blocks.0.ffn.2.weight": uniform(1 / math.sqrt(4 * C)),
    "blocks.0.ffn.2.bias": uniform(1 / math.sqrt(4 * C)),
}
FAR = 2.7  # Kolmogorov-Smirnov: above FAR / sqrt(n) about once in a million samples


@pytest.mark.parametrize("name", DRAWN)
def test_initial_values_have_the_distribution(name):
    values = np.sort(fresh()[name].ravel())
    wanted, found = DRAWN[name](values), np.arange(1, values.size + 1) / values.size
    assert (wanted > 0).all() and (wanted < 1).all()  # none outside the bounds
    assert np.abs(wanted - found).max() < FAR / math.sqrt(values.size)


def test_norms_start_as_the_identity_and_nothing_else_is_left_out():
    norms = fresh().keys() - DRAWN.keys() - {"head.weight"}
    assert {name.rsplit(".", 1)[0] for name in norms} == {"blocks.0.ln1", "blocks.0.ln2", "ln_f"}
    for name in norms:
        assert (fresh()[name] == (1.0 if name.endswith("weight") else 0.0)).all()


def test_initial_values_are_distributed_as_torchs():
    torch = pytest.importorskip("torch", reason="draws PyTorch's own layers")
    torch.manual_seed(0)
    layers = {
        "head": torch.nn.Linear(C, V, bias=False),
        "pos_embedding": torch.nn.Embedding(T, C),
        "blocks.0.causal_conv": torch.nn.Conv1d(C, C, K, groups=C),
        "blocks.0.gate": torch.nn.Linear(C, 2 * C),
        "blocks.0.ffn.0": torch.nn.Linear(C, 4 * C),
        "blocks.0.ffn.2": torch.nn.Linear(4 * C, C),
        "ln_f": torch.nn.LayerNorm(C),
    }
    theirs = {f"{name}.{k}": p for name, layer in layers.items() for k, p in layer.named_parameters()}
    theirs["blocks.0.memory_bank"] = torch.nn.init.xavier_uniform_(torch.empty(S, C))
    for name, tensor in theirs.items():
        ours, drawn = np.sort(fresh()[name].ravel()), np.sort(tensor.detach().numpy().ravel())
        assert fresh()[name].shape == tensor.shape, name
        distance = np.abs(
            np.searchsorted(ours, drawn, "right") - np.searchsorted(drawn, drawn, "right")
        ).max()
        assert distance / ours.size < FAR * math.sqrt(2 / ours.size), name


def test_an_untrained_model_knows_nothing():
    # Logits are n . e with |n|^2 = C and e uniform(+-1/sqrt(C)): variance 1/3. The mean of their
    # logsumexp is then ln V + 1/6, and the target's own logit is 0 on average.
    model = GAM(GAMConfig(vocab_size=V, block_size=T, d_model=C, n_layers=2, n_slots=S)).eval()
    ids, targets = tiny.draw_ids(model, 4, T, seed=1), tiny.draw_ids(model, 4, T, seed=2)
    assert model.loss(ids, targets).item() == pytest.approx(math.log(V) + 1 / 6, abs=0.1)


def test_the_published_configuration_has_the_published_number_of_parameters():
    full = GAM()
    assert full.num_parameters() == 22_599_680
    sizes = {name: p.data.size for name, p in full.named_parameters()}
    leaves_out = {"sum": (".gate.",), "global": (".gate.", ".conv."), "local": (".gate.", ".memory")}
    for mixer, published_millions in {"sum": 19.4, "global": 19.4, "local": 17.9}.items():
        small = {name for name, _ in tiny.gam(mixer, n_layers=6).named_parameters()}
        kept = {name for name in sizes if not any(part in name for part in leaves_out[mixer])}
        assert small == kept
        assert round(sum(sizes[name] for name in kept) / 1e6, 1) == published_millions


@each_mixer
def test_a_seed_decides_every_bit_in_both_precisions(mixer):
    config = GAMConfig(**tiny.TINY, mixer=mixer)
    double, again, other = (GAM(config, seed=s, dtype="float64").state_dict() for s in (5, 5, 6))
    single = GAM(config, seed=5).state_dict()
    for name, a in double.items():
        np.testing.assert_array_equal(a, again[name])
        assert single[name].dtype == np.float32
        np.testing.assert_array_equal(a.astype(np.float32), single[name])
        assert "norm" in name or not np.isin(a, other[name]).any(), name
