"""The size of a model, computed from its configuration: refused before anything is allocated."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minigam import GAM, Mamba, Transformer
from minigam.config import MIXERS, NORMS, InputError
from minigam.engine import memory

small = st.integers(1, 7)
SHARED = {
    "vocab_size": small,
    "block_size": small,
    "d_model": st.integers(1, 33),
    "n_layers": st.integers(1, 3),
}
OWN = {
    GAM: {"n_slots": small, "kernel_size": small, "mixer": st.sampled_from(MIXERS)},
    Transformer: {"n_heads": st.just(1)},
    Mamba: {
        "d_state": small, "d_conv": small, "expand": small, "residual": st.booleans(),
        "norm": st.sampled_from(NORMS), "positions": st.booleans(),
    },
}  # fmt: skip
each_model = pytest.mark.parametrize("model", OWN)


@each_model
@given(data=st.data())
def test_the_number_of_parameters_follows_from_the_configuration(model, data):
    config = model.Config(**data.draw(st.fixed_dictionaries(SHARED | OWN[model])))
    assert model.count_parameters(config) == model(config).num_parameters()


def test_the_published_model_has_the_published_number_of_parameters():
    assert GAM.count_parameters(GAM.Config()) == 22_599_680


@each_model
@pytest.mark.parametrize("name", ["vocab_size", "block_size", "d_model", "n_layers"])
def test_a_model_that_does_not_fit_is_refused_at_once(model, name, monkeypatch):
    monkeypatch.setattr(np.random, "default_rng", None)  # would fail differently if anything was drawn
    config = replace(model.Config(), **{name: 8 * 10**12})
    with pytest.raises(InputError, match=rf"^{model.__name__} of .* parameters: .* GiB.* a smaller {name}$"):
        model(config)


def test_a_model_that_fits_exactly_is_made(monkeypatch):
    config = GAM.Config(vocab_size=50, block_size=8, d_model=16, n_layers=2, n_slots=4)
    needed = []
    monkeypatch.setattr(memory, "require_memory", lambda what, n, *_: needed.append(n))
    GAM(config)
    monkeypatch.undo()
    monkeypatch.setattr(memory, "physical_memory", lambda name: needed[0])
    GAM(config)
    monkeypatch.setattr(memory, "physical_memory", lambda name: needed[0] - 1)
    with pytest.raises(InputError, match="GAM of 6,688 parameters"):
        GAM(config)


def test_what_is_needed_beside_the_model_names_its_own_setting():
    with pytest.raises(InputError, match=r"a smaller batch_size$"):
        GAM.require_memory(GAM.Config(), 16, {"batch_size": 2**60, "micro_batch": 2**50})
