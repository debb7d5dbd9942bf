"""The written memory in the model: what it remembers, how far it sees, and the paper's block as a limit."""

from contextlib import nullcontext

import numpy as np
import pytest
from helpers import tiny

from minigam import GAM, GAMConfig, Tensor, reference_only
from minigam.config import LEAST_PRIOR, WRITTEN, InputError
from minigam.engine.compiled.written_memory import CHUNK
from minigam.engine.sequence import associative_memory, written_memory


def inputs(rng, B: int, T: int, S: int = 5, C: int = 6) -> list[Tensor]:
    return [Tensor(rng.standard_normal(s), requires_grad=True) for s in ((B, T, C), (B, T, C), (S, C))]


def in_parts(u, local_context, memory, cuts: list[int]) -> np.ndarray:
    """Read the tokens up to each cut, with the state handed over."""
    outputs, state = [], [None]
    for i, j in zip([0, *cuts], [*cuts, u.shape[1]], strict=True):
        y = written_memory(u[:, i:j], local_context[:, i:j], memory, state[-1], remember=state.append)
        outputs.append(y.data)
    return np.concatenate(outputs, axis=1)


@pytest.mark.parametrize("cuts", [[1], [7], [CHUNK], [CHUNK + 7], list(range(1, 2 * CHUNK + 20))], ids=len)
def test_a_text_in_parts_is_the_text_at_once(cuts, rng):
    T = 2 * CHUNK + 20
    arrays = inputs(rng, 2, T)
    whole = written_memory(*arrays).data
    np.testing.assert_allclose(in_parts(*arrays, cuts=cuts), whole, rtol=0, atol=1e-12)


@pytest.mark.parametrize("at", [0, 1, CHUNK - 1, CHUNK, CHUNK + 5, 2 * CHUNK + 2])
def test_a_token_changes_no_output_before_it_and_all_after_it(at, rng):
    u, local_context, memory = inputs(rng, 1, 2 * CHUNK + 6)
    before = written_memory(u, local_context, memory).data
    changed = u.data.copy()
    changed[0, at] += 1.0
    moved = np.abs(written_memory(changed, local_context, memory).data - before).max(axis=-1)[0]
    assert (moved[:at] <= 1e-12).all()
    assert (moved[at:] > 1e-9).all()


def test_what_is_recalled_is_a_convex_mix(rng):
    # Were every row of M and every u the same vector, every mix of them would be that vector.
    one = rng.standard_normal(6)
    u, memory = np.broadcast_to(one, (2, 100, 6)), np.broadcast_to(one, (5, 6))
    y = written_memory(u, rng.standard_normal((2, 100, 6)), memory).data
    np.testing.assert_allclose(y, np.broadcast_to(one, y.shape), rtol=0, atol=1e-12)


def test_inputs_a_hundred_times_larger_stay_within_their_largest_entry(rng):
    u, local_context, memory = (100.0 * t.data.astype("float32") for t in inputs(rng, 2, 150))
    y = written_memory(u, local_context, memory).data
    assert np.isfinite(y).all()
    assert np.abs(y).max() <= 1.001 * max(np.abs(u).max(), np.abs(memory).max())


def test_with_an_endless_prior_the_memory_is_the_papers(rng):
    u, local_context, memory = inputs(rng, 2, 90)
    y = written_memory(u, local_context, memory, prior=1e9).data
    np.testing.assert_allclose(y, associative_memory(u, memory).data, rtol=0, atol=1e-6)


def test_one_token_under_one_slot_is_the_mean_of_the_slot_and_the_token():
    u, memory = np.array([[[2.0, 4.0]]]), np.array([[0.0, 1.0]])
    y = written_memory(u, u, memory, prior=3.0).data
    np.testing.assert_allclose(y, [[[2.0 / 4.0, (3.0 + 4.0) / 4.0]]], rtol=0, atol=1e-15)


@pytest.mark.parametrize("prior", [0.0, 1e-7, -1.0, float("inf"), float("nan")])
def test_a_prior_out_of_bounds_is_refused(prior, rng):
    with pytest.raises(ValueError, match=r"prior .*, wanted 1e-06 or more, or None for 1/S"):
        written_memory(*inputs(rng, 1, 2), prior=prior)


@pytest.mark.parametrize("rules", [reference_only, nullcontext])
def test_the_gradients_are_those_of_differences_to_ten_digits(rules, rng):
    arrays = [a.data for a in inputs(rng, 2, 7, S=3, C=4)] + [1.0 + rng.random((2, 3, 5))]
    dy = rng.standard_normal(arrays[0].shape)

    def along(i: int, at: tuple, h: float) -> float:
        moved = []
        for sign in (1.0, -1.0):
            changed = [a.copy() for a in arrays]
            changed[i][at] += sign * h
            moved.append((written_memory(*changed).data * dy).sum())
        return (moved[0] - moved[1]) / (2.0 * h)

    with rules():
        leaves = [Tensor(a, requires_grad=True) for a in arrays]
        written_memory(*leaves).backward(dy)
        for i, leaf in enumerate(leaves):
            # Richardson's extrapolation: the error of the differences falls with h^4
            wanted = np.array([
                (4.0 * along(i, at, 1e-3) - along(i, at, 2e-3)) / 3.0 for at in np.ndindex(*leaf.shape)
            ]).reshape(leaf.shape)  # fmt: skip
            assert np.abs(leaf.grad - wanted).max() <= 1e-10 * np.abs(wanted).max()


@pytest.mark.parametrize("rules", [reference_only, nullcontext])
@pytest.mark.parametrize("prior", [np.float64(0.5), np.int64(2), 2])
def test_a_prior_of_any_type_keeps_the_dtype(prior, rules, rng):
    leaves = [Tensor(a.data.astype("float32"), requires_grad=True) for a in inputs(rng, 2, 5)]
    with rules():
        written_memory(*leaves, prior=prior).sum().backward()
    assert {t.grad.dtype for t in leaves} == {np.dtype("float32")}


@pytest.mark.parametrize("rules", [reference_only, nullcontext])
def test_the_least_prior_keeps_float32_finite(rules, rng):
    u, local_context, memory = inputs(rng, 1, 40)
    arrays = [u.data, 30.0 * local_context.data, 30.0 * memory.data]  # sharp addresses: most slots stay empty
    leaves = [Tensor(a.astype("float32"), requires_grad=True) for a in arrays]
    with rules():
        y = written_memory(*leaves, prior=LEAST_PRIOR)
        y.sum().backward()
    assert all(np.isfinite(a).all() for a in (y.data, *(t.grad for t in leaves)))


# --------------------------------------------------------------------------------- the model


def test_it_has_the_parameters_of_the_plain_gam_with_the_same_values():
    plain, written = (GAM(GAMConfig(**tiny.TINY, mixer=m), seed=3) for m in ("gated", WRITTEN))
    assert written.num_parameters() == plain.num_parameters()
    for (name, p), (other, q) in zip(plain.named_parameters(), written.named_parameters(), strict=True):
        assert name == other
        np.testing.assert_array_equal(p.data, q.data, err_msg=name)


def test_a_heavy_prior_gives_the_logits_of_the_plain_gam():
    plain, written = tiny.gam("gated"), tiny.gam(WRITTEN, prior=1e6)
    ids = tiny.draw_ids(plain, 2, 6)
    assert np.abs(written(ids).data - plain(ids).data).max() < 1e-4


def test_it_sees_all_tokens():
    model = tiny.gam(WRITTEN, block_size=20)
    assert model.reach is None
    assert tiny.sees_all_before_and_none_after(model)


def test_the_state_of_a_block_does_not_grow():
    model = tiny.gam(WRITTEN, block_size=40)
    states, sizes = [block.new_state(1) for block in model.blocks], []
    for t in range(40):
        model(np.array([[t % 7]]), states, start=t)
        sizes.append([(s.past.size, s.written.size) for s in states])
    S, C, K = (tiny.TINY[name] for name in ("n_slots", "d_model", "kernel_size"))
    assert all(size == [((K - 1) * C, S * (C + 1))] * len(states) for size in sizes)


@pytest.mark.parametrize("prior", [-0.1, 1e-7, 2e6, float("nan"), np.float64(0.5), True])
def test_a_prior_out_of_range_is_refused(prior):
    with pytest.raises(InputError, match=r"prior is .*, wanted 0, or 1e-6 to 1e6"):
        GAMConfig(mixer=WRITTEN, prior=prior)


def test_a_configuration_of_the_paper_is_stored_as_before_and_a_prior_is_kept():
    assert "prior" not in GAMConfig().to_dict()
    assert GAMConfig.from_dict(GAMConfig().to_dict()) == GAMConfig()
    heavy = GAMConfig(mixer=WRITTEN, prior=0.5)
    assert GAMConfig.from_dict(heavy.to_dict()) == heavy
