"""The language model's shell: what it reads, its loss, its stream and its samples."""

import math

import numpy as np
import pytest
from helpers import tiny

from minigam import GAM, Tensor, gradcheck, ops
from minigam.config import MIXERS, WRITTEN, InputError
from minigam.engine.tensor import ShapeError
from minigam.models.decoding import Stream, sample

each_mixer = pytest.mark.parametrize("mixer", MIXERS)
each_precision = pytest.mark.parametrize(("dtype", "atol"), [("float64", 1e-10), ("float32", 1e-5)])


def full_pass(model: GAM, tokens: np.ndarray) -> np.ndarray:
    """The logits (B, V) after the last token, computed from the whole window at once."""
    return model(tiny.window(tokens, model.config.block_size)).data[:, -1]


# -------------------------------------------------------------------------------- streaming


@each_mixer
@each_precision
@pytest.mark.parametrize("block_size", [1, 7, 8, 20], ids="block{}".format)  # less and more than the reach
def test_a_stream_answers_what_a_full_pass_would(mixer, dtype, atol, block_size):
    model = tiny.gam(mixer, dtype=dtype, n_layers=3, kernel_size=4, block_size=block_size)
    tokens, stream = tiny.draw_ids(model, 2, 50), Stream(model, batch=2)  # many windows
    for n in range(1, 51):
        got = stream.feed(tokens[:, n - 1 : n])
        assert got.dtype == dtype
        np.testing.assert_allclose(got, full_pass(model, tokens[:, :n]), rtol=0, atol=atol, err_msg=str(n))


class Counting(GAM):
    """Keeps the number of tokens of every pass."""

    def __call__(self, ids, *args, **settings):
        vars(self).setdefault("lengths", []).append(np.shape(ids)[1])
        return super().__call__(ids, *args, **settings)


@pytest.mark.parametrize(("mixer", "reread"), [("gated", 5), (WRITTEN, 16 // 2 + 1)])  # the reach; all left
def test_a_stream_costs_the_same_at_every_token(mixer, reread):
    model = tiny.gam(mixer, kind=Counting, block_size=16)
    stream, held = Stream(model), []
    for token in tiny.draw_ids(model, 1, 160).T:
        stream.feed(token[None])
        arrays = [stream.tokens, *(a for state in stream.states for a in vars(state).values())]
        assert len(arrays) == 1 + 2 * (2 if mixer == WRITTEN else 1)
        held.append(sum((a if a.base is None else a.base).nbytes for a in arrays))  # what a view holds, too
    assert max(held[80:]) == max(held[:80])
    again = [length for length in model.lengths if length > 1]
    assert again == [reread] * ((160 - 16) // 8)  # one restart each half block
    assert len(model.lengths) == 160


# ------------------------------------------------------------------------------- generation


@each_mixer
@pytest.mark.parametrize("prompt_length", [1, 4, 6, 15], ids="prompt{}".format)  # block_size is 6
def test_greedy_generation_is_the_argmax_of_full_passes(mixer, prompt_length):
    model = tiny.gam(mixer)
    tokens = prompt = tiny.draw_ids(model, 2, prompt_length)
    for _ in range(20):
        tokens = np.concatenate([tokens, full_pass(model, tokens).argmax(axis=-1)[:, None]], axis=1)
    got = model.generate(prompt, 20, temperature=0)
    np.testing.assert_array_equal(got, tokens)
    for wanted, row in zip(tokens, prompt, strict=True):
        np.testing.assert_array_equal(model.generate(row, 20, temperature=0), wanted)  # (T,) -> (T + n,)


def test_a_seed_repeats_and_another_does_not():
    model = tiny.gam()
    prompt = tiny.draw_ids(model, 2, 3)
    first, again, other = (model.generate(prompt, 30, seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any() and (first[0, 3:] != first[1, 3:]).any()
    assert (first[:, :3] == prompt).all() and set(first.ravel().tolist()) <= set(range(7))


def test_one_likeliest_token_is_greedy_at_any_temperature():
    model = tiny.gam()
    prompt = tiny.draw_ids(model, 2, 3)
    greedy = model.generate(prompt, 20, temperature=0)
    np.testing.assert_array_equal(model.generate(prompt, 20, temperature=5.0, top_k=1), greedy)
    np.testing.assert_array_equal(model.generate(prompt, 20, temperature=1e-6), greedy)
    np.testing.assert_array_equal(model.generate(prompt, 20, temperature=5e-324), greedy)


@pytest.mark.parametrize(("temperature", "top_k"), [(1.0, None), (0.5, None), (2.0, 3), (1.0, 99)])
def test_samples_have_the_probabilities_asked_for(temperature, top_k, rng):
    z, n = np.array([0.3, -1.0, 2.0, 1.0, 0.0]), 20_000
    p = np.exp(z / temperature) * (z >= np.sort(z)[-min(top_k or 5, 5)])
    p /= p.sum()
    drawn = sample(np.tile(z, (n, 1)).astype(np.float32), temperature, top_k, rng)
    share = np.bincount(drawn, minlength=5) / n
    assert (np.abs(share - p) <= 5 * np.sqrt(p * (1 - p) / n)).all()  # none at all where p is 0


def test_top_k_leaves_exactly_k_also_among_equal_logits(rng):
    assert set(sample(np.zeros((1000, 4)), 1.0, 2, rng).tolist()) == {0, 1}
    assert set(sample(np.tile([1.0, 3.0, 3.0, 3.0], (1000, 1)), 1.0, 1, rng).tolist()) == {1}  # as argmax


@pytest.mark.parametrize("temperature", [math.inf, 1e300, 1e-300])
def test_no_temperature_draws_what_is_excluded(temperature, rng):
    z = np.tile([0.0, 5.0, 4.0, -np.inf], (1000, 1))
    assert set(sample(z, temperature, 2, rng).tolist()) <= {1, 2}
    assert set(sample(z, temperature, None, rng).tolist()) <= {0, 1, 2}
    assert len(set(sample(z, math.inf, 2, rng).tolist())) == 2  # uniform among those left


@pytest.mark.parametrize("wreck", [[math.nan, 1.0], [-math.inf, -math.inf], [math.inf, 1.0]], ids=str)
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_logits_of_which_none_can_be_drawn_are_refused(wreck, temperature, rng):
    with pytest.raises(InputError, match=r"logits: the largest is .*, wanted a number; use a smaller --lr"):
        sample(np.array([[1.0, 2.0], wreck]), temperature, None, rng)


def test_another_library_generates_the_same(xp):
    model = tiny.gam(dtype="float64")
    prompt = tiny.draw_ids(model, 2, 3)
    here = model.generate(prompt, 12)
    np.testing.assert_array_equal(model.to(xp.__name__).generate(prompt, 12), here)


def test_nothing_more_is_asked_for():
    model, prompt = tiny.gam(), np.array([3, 1, 4], dtype=np.uint8)
    got = model.generate(prompt, 0)
    np.testing.assert_array_equal(got, prompt)


@pytest.mark.parametrize("training", [True, False])
def test_generation_leaves_the_model_as_it_was(training):
    model = tiny.gam(dropout=0.5).train(training)
    before, drawn = model.state_dict(), model.mask_counter.drawn
    model.generate([1, 2], 9)
    with pytest.raises(ValueError, match="ids"):
        model.generate([1, 99], 9)
    assert model.training is training and all(b.training is training for b in model.blocks)
    assert model.mask_counter.drawn == drawn  # no mask was drawn
    assert all(p.grad is None for p in model.parameters())
    for name, a in model.state_dict().items():
        np.testing.assert_array_equal(a, before[name])


@pytest.mark.parametrize(
    "settings",
    [{"n": -1}, {"temperature": -0.5}, {"temperature": math.nan}, {"top_k": 0}, {"top_k": -1}],
    ids=str,
)
def test_generation_refuses_settings_that_mean_nothing(settings):
    with pytest.raises(ValueError, match=r"generate: n .*wanted"):
        tiny.gam().generate([1], **({"n": 2} | settings))


# --------------------------------------------------------------------------------- wrong ids


UNREADABLE = [  # ids, error, what came, what was wanted
    pytest.param([[0, -1]], ValueError, "from -1 to 0", "0 to 6", id="negative"),
    pytest.param([[0, 7]], ValueError, "from 0 to 7", "0 to 6", id="too-big"),
    pytest.param([[1.0, 2.0]], TypeError, "float64", "integers", id="float"),
    pytest.param([[True, False]], TypeError, "bool", "integers", id="bool"),
    pytest.param([[]], ShapeError, r"\(1, 0\)", "at least one token", id="no-token"),
    pytest.param(np.zeros((0, 3), int), ShapeError, r"\(0, 3\)", "at least one token", id="no-row"),
    pytest.param([[[1]]], ShapeError, r"\(1, 1, 1\)", r"\(B, T\)", id="three-axes"),
]
UNREADABLE_AT_ONCE = [  # a prompt may be so
    pytest.param([1, 2], ShapeError, r"\(2,\)", r"\(B, T\)", id="one-axis"),
    pytest.param([[0] * 7], ShapeError, "7 tokens", "block_size 6", id="too-long"),
]


@pytest.mark.parametrize(("ids", "error", "came", "wanted"), UNREADABLE + UNREADABLE_AT_ONCE)
@pytest.mark.parametrize("kind", [np.asarray, Tensor])
def test_ids_the_model_cannot_read_are_refused(ids, error, came, wanted, kind):
    with pytest.raises(error, match=f"ids: {came}.*wanted.*{wanted}"):
        tiny.gam()(kind(ids))


@pytest.mark.parametrize(("ids", "error", "came", "wanted"), UNREADABLE)
@pytest.mark.parametrize("n", [0, 3])
def test_prompts_the_model_cannot_read_are_refused(ids, error, came, wanted, n):
    with pytest.raises(error, match=f"ids: {came}.*wanted.*{wanted}"):
        tiny.gam().generate(ids, n)


def test_a_bad_id_is_refused_where_no_window_would_show_it():
    with pytest.raises(ValueError, match="from 0 to 7, wanted 0 to 6"):
        tiny.gam().generate([7] + [0] * 30, 1)


@pytest.mark.parametrize("kind", ["uint8", "int16", "uint64", "list", "Tensor"])
def test_ids_of_every_kind_of_integer_are_read(kind):
    model = tiny.gam()
    plain, targets = tiny.draw_ids(model, 2, 5), tiny.draw_ids(model, 2, 5, seed=2)
    kinds = {"list": np.ndarray.tolist, "Tensor": Tensor}
    convert = kinds.get(kind, lambda a: a.astype(kind))
    np.testing.assert_array_equal(model(convert(plain)).data, model(plain).data)
    assert model.loss(convert(plain), convert(targets)).item() == model.loss(plain, targets).item()
    np.testing.assert_array_equal(model.generate(convert(plain), 9), model.generate(plain, 9))


@pytest.mark.parametrize(
    ("targets", "error", "message"),
    [
        ([[1, 7]], ValueError, "targets: up to 7, wanted below vocab_size 7"),
        ([[1.0, 2.0]], TypeError, "targets: float64, wanted integers"),
        ([[1]], ShapeError, r"targets: \(1, 1\), wanted one for each of the ids \(1, 2\)"),
        ([1, 2], ShapeError, r"targets: \(2,\), wanted one for each of the ids \(1, 2\)"),
        ([[-1, -1]], ValueError, "every target is negative"),
    ],
)
def test_targets_that_cannot_be_predicted_are_refused(targets, error, message):
    with pytest.raises(error, match=message):
        tiny.gam().loss([[1, 2]], targets)


# -------------------------------------------------------------------------------------- loss


def test_the_loss_is_the_mean_over_the_targets_that_are_not_negative():
    model = tiny.gam()
    ids, targets = tiny.draw_ids(model, 2, 6, seed=1), tiny.draw_ids(model, 2, 6, seed=2)
    logits = model(ids).data
    log_p = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    every = -np.take_along_axis(log_p, targets[..., None], axis=-1)[..., 0]
    np.testing.assert_allclose(model.token_losses(ids, targets).data, every, rtol=1e-12)
    hidden = np.zeros((2, 6), bool)
    hidden[0, 2] = hidden[1, :4] = True
    masked = np.where(hidden, -100, targets)
    np.testing.assert_array_equal(model.token_losses(ids, masked).data == 0, hidden)
    assert model.loss(ids, masked).item() == pytest.approx(every[~hidden].mean(), rel=1e-12)


def test_a_negative_target_moves_no_parameter():
    # The last place alone is not predicted, and it alone holds the last position.
    model = tiny.gam()
    ids, targets = tiny.draw_ids(model, 2, 6, seed=1), tiny.draw_ids(model, 2, 6, seed=2)
    targets[:, -1] = -1
    model.loss(ids, targets).backward()
    moved = (model.position_embedding.weight.grad != 0).any(axis=1)
    assert moved.tolist() == [True] * 5 + [False]


def test_the_tied_embedding_gets_the_gradient_of_both_its_uses():
    model = tiny.gam()
    E = model.token_embedding.weight
    ids, targets = tiny.draw_ids(model, 2, 6, seed=1), tiny.draw_ids(model, 2, 6, seed=2)
    assert gradcheck(lambda _: model(ids), E) < 1e-6

    def gradient(as_input: Tensor, as_head: Tensor, of: Tensor) -> np.ndarray:
        model.token_embedding.weight = as_input
        x = model.token_embedding(ids) + model.position_embedding.weight
        for block in model.blocks:
            x = block(x)
        losses = ops.cross_entropy(ops.linear(model.norm(x), as_head), targets)
        of.grad = None
        (losses.sum() / targets.size).backward()
        return of.grad

    E.grad = None
    model.loss(ids, targets).backward()
    both = E.grad
    parts = gradient(E, E.detach(), E), gradient(E.detach(), E, E)
    assert all(np.abs(part).max() > 1e-3 for part in parts)
    np.testing.assert_allclose(both, sum(parts), rtol=0, atol=1e-14)
