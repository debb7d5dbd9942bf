"""Mamba against PyTorch, against itself in parts, and against its own description."""

import numpy as np
import pytest
from helpers import tiny

from minigam import Mamba, MambaConfig
from minigam.config import InputError
from minigam.engine.sequence import selective_scan
from minigam.engine.tensor import ShapeError, Tensor
from minigam.models.decoding import Stream
from minigam.training.optim import AdamW
from minigam.training.step import train_step

each_stack = pytest.mark.parametrize("residual", [True, False], ids=["residual", "bare"])


def mamba(dtype="float64", **changes) -> Mamba:
    config = {"vocab_size": 7, "block_size": 6, "d_model": 6, "n_layers": 2, "d_state": 3, "expand": 2}
    return tiny.randomise(Mamba(MambaConfig(**(config | changes)), dtype=dtype)).eval()


@each_stack
def test_the_published_configuration_has_the_published_size(residual):
    assert round(Mamba(MambaConfig(residual=residual)).num_parameters() / 1e6, 1) == 20.5


@each_stack
@pytest.mark.parametrize(("T", "B"), [(6, 2), (1, 1), (2, 3)])
def test_logits_and_gradients_equal_pytorch(residual, T, B):
    pytest.importorskip("torch", reason="compares with PyTorch itself")
    from helpers import reference_torch

    reference_torch.assert_logits_and_gradients_equal(
        mamba(residual=residual), reference_torch.mamba_logits, T, B
    )


@each_stack
@pytest.mark.parametrize(("dtype", "atol"), [("float64", 1e-10), ("float32", 1e-5)])
@pytest.mark.parametrize("parts", [[1] * 17, [5, 1, 4, 7]])
def test_the_state_answers_what_a_full_pass_over_the_window_would(parts, dtype, atol, residual):
    model = mamba(dtype, residual=residual)
    tokens, stream, read = tiny.draw_ids(model, 2, sum(parts)), Stream(model, 2), 0
    sizes = set()
    for n in parts:
        got = stream.feed(tokens[:, read : read + n])
        read += n
        T, half = model.config.block_size, model.config.block_size // 2
        begin = 0 if read <= T else -(-(read - T) // half) * half
        want = model(tokens[:, begin:read]).data[:, -1]
        np.testing.assert_allclose(got, want, rtol=0, atol=atol * max(1.0, np.abs(want).max()))
        sizes.add(stream.states[0].h.size + stream.states[0].conv.past.size)
    assert len(sizes) == 1  # what is remembered does not grow


def test_no_token_sees_a_later_one_and_all_see_every_earlier_one():
    model = mamba()
    assert tiny.sees_all_before_and_none_after(model)
    assert model.reach is None


def test_the_initial_values_of_the_state_space_are_the_published_ones():
    ssm = Mamba(MambaConfig(vocab_size=5, d_model=64, n_layers=1), dtype="float64").blocks[0].ssm
    np.testing.assert_allclose(np.exp(ssm.A_log.data), np.tile(np.arange(1, 17), (192, 1)))
    assert (ssm.D.data == 1.0).all()
    delta = np.log1p(np.exp(ssm.step_size.bias.data))
    assert 0.001 <= delta.min() < 0.003
    assert 0.03 < delta.max() <= 0.1
    assert np.abs(ssm.step_size.weight.data).max() <= ssm.rank**-0.5


def test_it_learns():
    model = Mamba(MambaConfig(vocab_size=7, block_size=6, d_model=12, n_layers=2, d_state=3, expand=2))
    optimizer = AdamW(model.parameters(), lr=1e-2)
    ids = tiny.draw_ids(model, 4, 6)
    losses = [train_step(model, optimizer, ids, (ids + 1) % 7, micro_batch=2) for _ in range(60)]
    assert losses[-1] < 0.5 * losses[0]


def test_settings_that_older_runs_lack_leave_their_files_as_they_are():
    """And their hash: a default is not written."""
    stored = MambaConfig().to_dict()
    assert not {"norm", "positions"} & stored.keys()
    assert MambaConfig.from_dict(stored) == MambaConfig()
    published = MambaConfig(norm="rms", positions=False)
    assert published.to_dict() == stored | {"norm": "rms", "positions": False}
    assert MambaConfig.from_dict(published.to_dict()) == published


def test_without_positions_a_text_means_the_same_wherever_it_starts():
    model = mamba(positions=False, norm="rms")
    assert not [name for name, _ in model.named_parameters() if "position" in name or "norm.bias" in name]
    ids = tiny.draw_ids(model, 1, 3)
    np.testing.assert_array_equal(model(ids, start=3).data, model(ids).data)


@pytest.mark.parametrize(
    "change",
    [{"d_state": 0}, {"d_conv": 0}, {"expand": -1}, {"residual": 1}, {"norm": "batch"}, {"positions": 0}],
    ids=str,
)
def test_numbers_that_mean_nothing_are_refused(change):
    with pytest.raises(InputError, match=next(iter(change))):
        MambaConfig(**change)


@pytest.mark.parametrize("wrong", range(1, 7))
def test_shapes_that_do_not_fit_are_named(wrong):
    shapes = [(2, 5, 4), (2, 5, 4), (4, 3), (2, 5, 3), (2, 5, 3), (4,), (2, 4, 3)]
    name = selective_scan.arguments[wrong]
    shapes[wrong] = (9, *shapes[wrong][1:])
    with pytest.raises(ShapeError, match=rf"selective_scan: {name} \(9"):
        selective_scan(*(Tensor(np.ones(s)) for s in shapes))
