"""The GAM block: its equations one number at a time, its reach, its memory, its two modes."""

import math

import numpy as np
import pytest
from helpers import tiny
from hypothesis import given
from hypothesis import strategies as st

from minigam import GAM, GAMConfig, Tensor, gradcheck, ops
from minigam.config import MIXERS, PAPER_MIXERS, WRITTEN
from minigam.engine.backend import to_numpy
from minigam.engine.sequence import associative_memory

each_mixer = pytest.mark.parametrize("mixer", MIXERS)
each_of_the_paper = pytest.mark.parametrize("mixer", PAPER_MIXERS)


# --------------------------------------------------------------------------------- equations


def by_hand(p: dict, x: np.ndarray, mixer: str) -> np.ndarray:
    """E1 to E9 as they are printed, one token and one number at a time."""
    C, T = x.shape[1], len(x)

    def layer_norm(v, weight, bias):
        mean = sum(v) / C
        variance = sum((a - mean) ** 2 for a in v) / C
        return [(a - mean) / math.sqrt(variance + 1e-5) * w + b for a, w, b in zip(v, weight, bias)]

    def affine(v, weight, bias):
        return [sum(w * a for w, a in zip(row, v)) + b for row, b in zip(weight, bias)]

    def sigmoid(z):
        return 1 / (1 + math.exp(-z))

    y = []
    memory = p.get("memory", [])
    held, total = [1 / len(memory) for _ in memory], [[m / len(memory) for m in slot] for slot in memory]
    u = [layer_norm(row, p["norm1.weight"], p["norm1.bias"]) for row in x]  # E1
    for t in range(T):
        if mixer != "global":  # E2
            w, b = p["conv.weight"], p["conv.bias"]
            K = w.shape[1]
            seen = [(j, t - (K - 1) + j) for j in range(K) if t - (K - 1) + j >= 0]
            local = [b[c] + sum(w[c, j] * u[s][c] for j, s in seen) for c in range(C)]
        if mixer != "local":
            e = [math.exp(sum(m * a for m, a in zip(slot, u[t]))) for slot in p["memory"]]  # E3
            a = [v / sum(e) for v in e]  # E4
            slots = p["memory"]
            if mixer == WRITTEN:
                e = [math.exp(sum(m * v for m, v in zip(slot, local))) for slot in slots]
                w = [v / sum(e) for v in e]  # X1
                held = [n + w[s] for s, n in enumerate(held)]  # X2
                total = [[N[c] + w[s] * u[t][c] for c in range(C)] for s, N in enumerate(total)]  # X3
                slots = [[v / held[s] for v in N] for s, N in enumerate(total)]  # X4
            recalled = [sum(a[s] * slot[c] for s, slot in enumerate(slots)) for c in range(C)]  # E5, X5
        match mixer:
            case "gated" | "written":
                g = affine(u[t], p["gate.weight"], p["gate.bias"])  # E6
                fused = [sigmoid(g[c]) * local[c] + sigmoid(g[C + c]) * recalled[c] for c in range(C)]  # E7
            case "sum":
                fused = [local[c] + recalled[c] for c in range(C)]
            case "local":
                fused = local
            case "global":
                fused = recalled
        h = [x[t, c] + fused[c] for c in range(C)]  # E8
        n = layer_norm(h, p["norm2.weight"], p["norm2.bias"])
        hidden = affine(n, p["feed.expand.weight"], p["feed.expand.bias"])
        hidden = [z * (1 + math.erf(z / math.sqrt(2))) / 2 for z in hidden]  # GELU
        out = affine(hidden, p["feed.contract.weight"], p["feed.contract.bias"])
        y.append([h[c] + out[c] for c in range(C)])  # E9, no dropout
    return np.array(y)


@each_mixer
@pytest.mark.parametrize("kernel_size", [1, 3, 5])
def test_a_block_is_its_equations(mixer, kernel_size, rng):
    block = tiny.gam(mixer, kernel_size=kernel_size).blocks[0]
    x = rng.standard_normal((2, 4, 4))
    wanted = np.stack([by_hand(block.state_dict(), row, mixer) for row in x])
    np.testing.assert_allclose(block(Tensor(x)).data, wanted, rtol=0, atol=1e-12)


@each_mixer
def test_what_a_mixer_leaves_out_is_not_created(mixer):
    has = {name.split(".")[0] for name, _ in tiny.gam(mixer).blocks[0].named_parameters()}
    wanted = {"gated": {"conv", "memory", "gate"}, "sum": {"conv", "memory"}, "local": {"conv"}}
    wanted["written"] = wanted["gated"]
    assert has - {"norm1", "norm2", "feed"} == wanted.get(mixer, {"memory"})


@each_mixer
def test_the_gradient_of_the_loss_is_right(mixer):
    model = tiny.gam(mixer)
    ids, targets = tiny.draw_ids(model, 2, 6, seed=1), tiny.draw_ids(model, 2, 6, seed=2)
    assert gradcheck(lambda *_: model.loss(ids, targets), *model.parameters(), directions=4) < 1e-6


@each_mixer
def test_every_library_answers_the_same(mixer, xp):
    here, there = tiny.gam(mixer), tiny.gam(mixer).to(xp.__name__)
    ids, targets = tiny.draw_ids(here, 2, 6, seed=1), tiny.draw_ids(here, 2, 6, seed=2)
    np.testing.assert_allclose(to_numpy(there(ids).data), here(ids).data, rtol=0, atol=1e-12)
    for model in (here, there):
        model.loss(ids, targets).backward()
    for (name, p), q in zip(here.named_parameters(), there.parameters(), strict=True):
        assert type(q.grad) is type(xp.zeros(1, dtype=q.dtype)), name
        np.testing.assert_allclose(to_numpy(q.grad), p.grad, rtol=0, atol=1e-12, err_msg=name)


# ------------------------------------------------------------------------------------- reach


SIZES = [(1, 2), (2, 3), (3, 4)]  # L, K


def reaching(mixer: str, L: int, K: int) -> GAM:
    """A model with room for four tokens more than it reaches."""
    return tiny.gam(mixer, n_layers=L, kernel_size=K, block_size=1 + L * (K - 1) + 4)


@each_of_the_paper
@pytest.mark.parametrize(("L", "K"), SIZES)
def test_a_token_changes_the_outputs_within_reach_and_no_other(mixer, L, K):
    model = reaching(mixer, L, K)
    assert model.reach == (1 if mixer == "global" else 1 + L * (K - 1))
    ids, at = tiny.draw_ids(model, 1, model.config.block_size), 1
    changed = ids.copy()
    changed[0, at] = (ids[0, at] + 1) % model.config.vocab_size
    differs = (model(ids).data != model(changed).data).any(axis=-1)
    assert np.flatnonzero(differs).tolist() == list(range(at, at + model.reach))


@each_of_the_paper
@pytest.mark.parametrize(("L", "K"), SIZES)
def test_the_jacobian_of_the_last_output_is_zero_beyond_reach(mixer, L, K, rng):
    # Each position has its own embedding, so that one's gradient is the gradient of the token there.
    model = reaching(mixer, L, K)
    T, V = model.config.block_size, model.config.vocab_size
    model(tiny.draw_ids(model, 1, T))[:, -1].backward(rng.standard_normal((1, V)))
    felt = (model.position_embedding.weight.grad != 0).any(axis=1)
    assert np.flatnonzero(felt).tolist() == list(range(T - model.reach, T))


def test_the_published_depth_and_kernel_see_thirteen_tokens():
    assert GAM(GAMConfig(vocab_size=5, block_size=5, d_model=2, n_slots=2)).reach == 13


# ------------------------------------------------------------------------------------ memory


@given(C=st.integers(1, 5), seed=st.integers(0, 999), scale=st.floats(0.0, 10.0))
def test_a_recall_is_a_convex_mix_of_slots(C, seed, scale):
    rng = np.random.default_rng(seed)
    # C + 1 slots around the origin span a simplex: a point has one set of weights that sum to 1.
    slots = np.concatenate([np.eye(C), -np.ones((1, C))]) + 0.1 * rng.standard_normal((C + 1, C))
    u = scale * rng.standard_normal((1, 4, C))
    y = associative_memory(Tensor(u), Tensor(slots)).data[0]
    corners, points = (np.concatenate([a, np.ones((len(a), 1))], axis=1) for a in (slots, y))
    weights = np.linalg.solve(corners.T, points.T).T  # (4, C + 1)
    assert (weights > -1e-9).all() and (weights < 1 + 1e-9).all()
    e = np.exp(u[0] @ slots.T)
    np.testing.assert_allclose(weights, e / e.sum(axis=1, keepdims=True), rtol=0, atol=1e-9)


def test_one_slot_is_all_that_can_be_recalled(rng):
    slot = rng.standard_normal((1, 4))
    y = associative_memory(Tensor(rng.standard_normal((2, 3, 4))), Tensor(slot)).data
    np.testing.assert_array_equal(y, np.broadcast_to(slot, y.shape))


def test_a_recall_is_one_step_down_the_hopfield_energy(rng):
    # E(u) = |u|^2 / 2 - log(sum over slots of exp(m . u)), and a step of length 1 down its slope.
    u, slots = Tensor(rng.standard_normal((1, 3, 4)), requires_grad=True), rng.standard_normal((5, 4))
    energy = (u * u).sum() * 0.5 - ops.log(ops.exp(ops.linear(u, slots)).sum(axis=-1)).sum()
    energy.backward()
    np.testing.assert_allclose(associative_memory(u, slots).data, u.data - u.grad, rtol=0, atol=1e-12)


# ------------------------------------------------------------------------------------- modes


def test_dropout_acts_in_training_and_not_in_evaluation():
    model = tiny.gam(dropout=0.5)
    ids = tiny.draw_ids(model, 2, 6)
    without = tiny.gam(dropout=0.0).train()(ids).data
    np.testing.assert_array_equal(model(ids).data, without)
    assert model.train() is model
    first, second = model(ids).data, model(ids).data
    assert (first != without).any() and (first != second).any()
    assert model.eval() is model
    np.testing.assert_array_equal(model(ids).data, without)


def test_the_same_count_draws_the_same_masks():
    model = tiny.gam(dropout=0.5).train()
    ids = tiny.draw_ids(model, 2, 6)
    start, first = model.mask_counter.drawn, model(ids).data
    per_pass = model.mask_counter.drawn - start
    assert per_pass == 1 + model.config.n_layers  # after the embeddings, and in each block
    second = model(ids).data
    model.mask_counter.drawn = start
    np.testing.assert_array_equal(model(ids).data, first)
    np.testing.assert_array_equal(model(ids).data, second)
    other = GAM(model.config, seed=1, dtype="float64").train()
    other.load_state_dict(model.state_dict())
    assert (other(ids).data != first).any()  # the masks come from the seed
