"""Modules: finding parameters, saving and loading them, moving them; and the smallest layers."""

import numpy as np
import pytest
from helpers import tiny

from minigam import GAM, GAMConfig, Tensor, backend
from minigam.engine.tensor import ShapeError
from minigam.models.nn import Dropout, Embedding, LayerNorm, Linear, MaskCounter, Module, Parameter


class Leaf(Module):
    def __init__(self, *shape):
        self.weight = Parameter(np.zeros(shape))


class Tree(Module):
    """Every place where a parameter may be, and some where none is looked for."""

    def __init__(self):
        self.child = Leaf(2, 3)
        self.own = Parameter(np.zeros(5))
        self.list = [Leaf(1), 7, Leaf(4)]
        self.constant, self.array, self.name = Tensor(np.zeros(9)), np.zeros(9), "tree"


# ------------------------------------------------------------------------------------ walking


def test_parameters_are_found_in_order_a_module_s_own_first():
    found = list(Tree().named_parameters())
    assert [name for name, _ in found] == ["own", "child.weight", "list.0.weight", "list.2.weight"]
    assert [p.shape for _, p in found] == [(5,), (2, 3), (1,), (4,)]
    tree = Tree()
    assert all(p is q for p, (_, q) in zip(tree.parameters(), tree.named_parameters(), strict=True))
    assert tree.num_parameters() == 5 + 6 + 1 + 4


def test_modes_and_zero_grad_reach_every_module():
    tree = Tree()
    modules = [tree, tree.child, tree.list[0], tree.list[2]]
    assert tree.eval() is tree and not any(m.training for m in modules)
    assert tree.train() is tree and all(m.training for m in modules)
    for p in tree.parameters():
        p.grad = np.ones(p.shape)
    tree.zero_grad()
    assert [p.grad for p in tree.parameters()] == [None] * 4


def test_a_tied_matrix_counts_once():
    model = tiny.gam()
    names = [name for name, _ in model.named_parameters()]
    assert len(names) == len(set(names))
    assert sum(p.shape == (7, 4) for p in model.parameters()) == 1  # the embedding, which is the head


# ------------------------------------------------------------------------- saving and loading


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_state_put_back_is_the_same_to_the_bit(dtype, xp):
    model = tiny.gam(dtype=dtype).to(xp.__name__)
    saved = model.state_dict()
    assert all(type(a) is np.ndarray and a.dtype == dtype for a in saved.values())
    other = GAM(model.config, seed=9, dtype=dtype, backend=xp.__name__)
    other.load_state_dict(saved)
    for name, a in other.state_dict().items():
        np.testing.assert_array_equal(a, saved[name], err_msg=name)
    assert all(backend.owner(p.data) is xp for p in other.parameters())


def test_saved_and_loaded_arrays_are_copies():
    model = tiny.gam()
    saved = model.state_dict()
    before = {name: a.copy() for name, a in saved.items()}
    other = GAM(model.config, dtype="float64")
    other.load_state_dict(saved)
    for module in (model, other):
        for p in module.parameters():
            p.data += 1.0  # in place, as the optimizer does
    for name, a in saved.items():
        np.testing.assert_array_equal(a, before[name], err_msg=name)


def damaged(change) -> tuple[GAM, dict]:
    model = tiny.gam()
    arrays = {name: a + 1.0 for name, a in model.state_dict().items()}
    change(arrays)
    return model, arrays


def refused(change, error, *messages) -> None:
    """Loading raises the error, says all the messages, and changes no parameter."""
    model, arrays = damaged(change)
    before = model.state_dict()
    with pytest.raises(error) as caught:
        model.load_state_dict(arrays)
    for message in messages:
        assert message in str(caught.value)
    for name, a in model.state_dict().items():
        np.testing.assert_array_equal(a, before[name], err_msg=name)


def test_names_that_do_not_fit_are_listed_and_change_nothing():
    def change(arrays):
        del arrays["norm.bias"], arrays["blocks.1.memory"]
        arrays["blocks.2.memory"] = arrays["zebra"] = np.zeros(3)

    refused(
        change, KeyError, "missing ['blocks.1.memory', 'norm.bias']", "unknown ['blocks.2.memory', 'zebra']"
    )


def test_shapes_that_do_not_fit_are_listed_and_change_nothing():
    def change(arrays):
        arrays["norm.bias"] = np.zeros(5)
        arrays["blocks.0.memory"] = arrays["blocks.0.memory"].T

    refused(change, ShapeError, "norm.bias (5,), wanted (4,)", "blocks.0.memory (4, 3), wanted (3, 4)")


def test_dtypes_that_do_not_fit_are_listed_and_change_nothing():
    def change(arrays):
        arrays["norm.bias"] = arrays["norm.bias"].astype(np.float32)
        arrays["norm.weight"] = arrays["norm.weight"].astype(np.int64)

    refused(change, TypeError, "norm.bias float32, wanted float64", "norm.weight int64, wanted float64")


# ------------------------------------------------------------------------------------- moving


def test_to_moves_every_parameter_and_drops_gradients(xp):
    model = tiny.gam()
    before = model.state_dict()
    for p in model.parameters():
        p.grad = np.ones(p.shape)
    parameters = model.parameters()
    assert model.to(xp.__name__) is model
    assert model.xp is xp
    for p, q in zip(parameters, model.parameters(), strict=True):
        assert p is q and p.grad is None  # the same objects, so that an optimizer still has them
        assert backend.owner(p.data) is xp and p.dtype == np.float64
    for name, a in model.to("numpy").state_dict().items():
        np.testing.assert_array_equal(a, before[name], err_msg=name)


def test_an_unknown_backend_is_refused():
    with pytest.raises(backend.UnknownBackend, match="'abacus' is unknown"):
        tiny.gam().to("abacus")
    with pytest.raises(backend.UnknownBackend, match="'abacus' is unknown"):
        GAM(GAMConfig(**tiny.TINY), backend="abacus")


# ------------------------------------------------------------------------------------- layers


def test_layers_are_their_formulas(rng):
    x = rng.standard_normal((2, 3, 4))
    linear, norm = tiny.randomise(Linear(4, 5, rng)), tiny.randomise(LayerNorm(4))
    table = Embedding(rng.standard_normal((6, 4)))
    np.testing.assert_allclose(
        linear(Tensor(x)).data, x @ linear.weight.data.T + linear.bias.data, rtol=1e-12
    )
    centred = x - x.mean(axis=-1, keepdims=True)
    wanted = centred / np.sqrt(x.var(axis=-1, keepdims=True) + 1e-5) * norm.weight.data + norm.bias.data
    np.testing.assert_allclose(norm(Tensor(x)).data, wanted, rtol=1e-12)
    ids = np.array([[5, 0, 5]])
    np.testing.assert_array_equal(table(ids).data, table.weight.data[ids])


def test_dropout_that_does_nothing_keeps_the_tensor_itself(rng):
    stream, x = MaskCounter(0), Tensor(rng.standard_normal((2, 3)))
    assert Dropout(0.5, stream).eval()(x) is x
    assert Dropout(0.0, stream)(x) is x
    assert stream.drawn == 0  # no mask was counted


def test_masks_follow_from_the_seed_and_their_number():
    x = Tensor(np.ones((8, 8)))

    def masks(seed, drawn=0, n=3):
        stream = MaskCounter(seed)
        stream.drawn = drawn
        dropout = Dropout(0.5, stream)
        return [dropout(x).data.tobytes() for _ in range(n)]

    assert masks(1) == masks(1)
    assert masks(1)[1:] == masks(1, drawn=1, n=2)
    assert len({*masks(1), *masks(2)}) == 6


def test_a_parameter_that_two_layers_share_is_listed_and_counted_once(rng):
    class Tied(Module):
        def __init__(self):
            self.first, self.second = Linear(3, 3, rng), Linear(3, 3, rng)
            self.second.weight = self.first.weight

    assert len(Tied().parameters()) == 3
    assert Tied().num_parameters() == 9 + 3 + 3
