"""A step on several ranks: the bits of 1, 2, 4 and 8, and how close any other number comes."""

import numpy as np
import pytest
from helpers import fakecuda
from helpers.ranked import MODELS, POWERS, assert_same_bits, drawn, made, trained, trained_by
from helpers.steps import batch, tiny
from helpers.thread_world import run_ranks

from minigam.models.nn import Parameter
from minigam.training.optim import AdamW
from minigam.training.step import begin_step

BATCHES = [drawn(8), drawn(16, seed=1), drawn(11, seed=2)]  # 11 rows: leaves of one row and of two


def silent(first: int, last: int):
    """Return a batch whose rows first .. last-1 have no targets."""
    ids, targets = drawn(8, seed=5)
    targets[first:last] = -1
    return ids, targets


@pytest.mark.parametrize("shard", [False, True])
@pytest.mark.parametrize("name", MODELS)
def test_powers_of_two_ranks_give_the_same_bits(name, shard):
    wanted = trained(lambda: made(name), BATCHES)
    for n in POWERS:
        first, *others = trained_by(n, lambda: made(name), BATCHES, shard=shard)
        assert_same_bits(first, wanted)
        assert first.keys() == wanted.keys()
        for other in others:
            assert_same_bits(other, wanted)
            assert shard or other.keys() == wanted.keys()


@pytest.mark.parametrize("micro_batch", [1, 2])
def test_parts_of_a_leaf_give_the_same_bits_on_any_number_of_ranks(micro_batch):
    batches = [drawn(27)]
    wanted = trained(lambda: made("GAM"), batches, micro_batch=micro_batch)
    for n in POWERS:
        for found in trained_by(n, lambda: made("GAM"), batches, micro_batch=micro_batch):
            assert_same_bits(found, wanted)


@pytest.mark.parametrize("rows", [(7, 8), (0, 4), (1, 8), (0, 7), (2, 6)])
def test_a_rank_without_targets_gives_the_same_bits(rows):
    batches = [silent(*rows), drawn(8)]  # the second step shows that the masks go on where they should
    wanted = trained(lambda: made("GAM"), batches)
    assert wanted["masks"].tolist() == [2 * trained(lambda: made("GAM"), [drawn(8)])["masks"][0], 0]
    for n in POWERS:
        for found in trained_by(n, lambda: made("GAM"), batches, shard=n in (2, 8)):
            assert_same_bits(found, wanted)


def test_fewer_rows_than_leaves_give_the_same_bits():
    batches = [drawn(3), drawn(1, seed=1)]
    wanted = trained(lambda: made("GAM"), batches)
    for n in POWERS:
        for found in trained_by(n, lambda: made("GAM"), batches):
            assert_same_bits(found, wanted)


@pytest.mark.parametrize("n", [3, 5, 16])
def test_any_other_number_of_ranks_comes_close(n):
    batches = [drawn(16), drawn(11, seed=1)]  # with 16 ranks some have no row of the second
    wanted = trained(lambda: made("GAM"), batches)
    found = trained_by(n, lambda: made("GAM"), batches, leaves=max(8, n))
    for other in found[1:]:
        assert_same_bits(other, found[0])  # if not those of another number, then those of each other
    assert (found[0]["masks"] == wanted["masks"]).all()
    scale = np.abs(wanted["gradient"]).max()
    np.testing.assert_allclose(found[0]["losses"], wanted["losses"], rtol=1e-6)
    np.testing.assert_allclose(found[0]["gradient"], wanted["gradient"], rtol=1e-6, atol=1e-6 * scale)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("n", [1, 3, 4, 16])
def test_the_gradient_is_that_of_one_process(name, n):
    for rows in (16, 11):
        alone = trained(lambda: made(name, "float64"), [drawn(rows)], leaves=1)
        for found in trained_by(n, lambda: made(name, "float64"), [drawn(rows)], leaves=max(8, n)):
            scale = np.abs(alone["gradient"]).max()
            np.testing.assert_allclose(found["losses"], alone["losses"], rtol=1e-12)
            np.testing.assert_allclose(found["gradient"], alone["gradient"], rtol=0.0, atol=1e-12 * scale)


def test_every_rank_needs_its_share():
    """Were a rank's gradient lost, the tests above would notice: its rows count."""
    ids, targets = drawn(8)
    wanted = trained(lambda: made("GAM"), [(ids, targets)])
    for rows in range(8):
        changed = targets.copy()
        changed[rows] = np.where(changed[rows] >= 0, (changed[rows] + 1) % 11, -1)
        assert trained(lambda: made("GAM"), [(ids, changed)])["losses"] != wanted["losses"]


def test_lists_do_as_well_on_a_rank_without_targets():
    ids, targets = silent(4, 8)
    wanted = trained(lambda: made("GAM"), [(ids, targets)])
    for found in trained_by(2, lambda: made("GAM"), [(ids.tolist(), targets.tolist())]):
        assert_same_bits(found, wanted)


def scaled(dtype="float32"):
    """Return a model with a parameter that is a single number, and one that no rule needs."""
    model = tiny(dropout=0.2, dtype=dtype)
    model.factor, model.unused = Parameter(np.asarray(1.5, dtype)), Parameter(np.ones(3, dtype))
    mean_loss = model.mean_loss
    model.mean_loss = lambda *given: mean_loss(*given) * model.factor
    return model


def test_a_parameter_of_one_number_and_one_without_gradient_are_the_same_on_all_ranks():
    batches = [batch(rows=8), batch(seed=1, rows=8)]
    wanted = trained(scaled, batches)
    assert wanted["m.factor"] != 0.0
    for n in POWERS:
        for found in trained_by(n, scaled, batches, shard=n > 2):
            assert_same_bits(found, wanted)
    alone = trained(lambda: scaled("float64"), batches[:1], leaves=1)
    for leaves in (8, 3):
        tree = trained(lambda: scaled("float64"), batches[:1], leaves=leaves)
        np.testing.assert_allclose(tree["gradient"], alone["gradient"], rtol=1e-9, atol=1e-13)


def test_a_frozen_parameter_is_left_alone():
    def frozen():
        model = made("GAM")
        model.blocks[0].memory.requires_grad = False
        return model

    before = frozen().state_dict()["blocks.0.memory"]
    for world_size, leaves in ((1, 1), (1, 8), (4, 8)):
        for found in trained_by(world_size, frozen, BATCHES, leaves=leaves):
            assert (found["blocks.0.memory"] == before).all()
            assert not found["m.blocks.0.memory"].any()


def test_one_process_leaves_a_parameter_without_a_gradient_alone():
    before = scaled().state_dict()["unused"]
    assert (trained(scaled, [batch()], leaves=1)["unused"] == before).all()


def test_bits_depend_on_the_number_of_leaves():
    """Else the tests of equal bits would show nothing."""
    tree, plain = (trained(lambda: made("GAM"), BATCHES, leaves=leaves) for leaves in (8, 1))
    assert (tree["gradient"] != plain["gradient"]).any()


# -------------------------------------------------------------------------------------- devices


@pytest.mark.parametrize("shard", [False, True])
def test_ranks_with_a_device_each_compute_the_same(shard):
    batches = [silent(4, 8), drawn(11, seed=2)]
    wanted = trained(lambda: made("GAM", "float64"), batches)
    first, *others = trained_by(
        4, lambda: made("GAM", "float64").to("fakegpu"), batches, leaves=4, shard=shard
    )
    assert first.keys() == wanted.keys()
    for name, a in first.items():
        scale = np.abs(wanted[name]).max()
        np.testing.assert_allclose(a, wanted[name], rtol=0.0, atol=1e-9 * scale, err_msg=name)
    for other in others:
        assert_same_bits(other, first)


@pytest.mark.parametrize("name", MODELS)
def test_kernels_that_write_into_the_gradient_add_the_leaves_too(name, monkeypatch):
    wanted = trained(lambda: made(name), [drawn(11)])
    fakecuda.install(monkeypatch)
    found = trained(lambda: made(name).to("fakegpu"), [drawn(11)], leaves=3)
    scale = np.abs(wanted["gradient"]).max()
    np.testing.assert_allclose(found["gradient"], wanted["gradient"], rtol=0.0, atol=1e-5 * scale)


# ---------------------------------------------------------------------------- sharded moments


def test_a_rank_holds_the_moments_of_its_share_only():
    def held(world):
        model = made("GAM")
        optimizer = AdamW(model.parameters(), world=world, shard=True)
        for rows in (8, 11):
            begin_step(model, optimizer, *drawn(rows), world=world, leaves=8)()
        assert optimizer.own == world.share(model.num_parameters())
        return optimizer.m, optimizer.v

    n = made("GAM").num_parameters()
    alone = run_ranks(1, held)[0]
    for ranks in (2, 3, 8):
        moments = run_ranks(ranks, held)
        assert {len(m) for pair in moments for m in pair} <= {n // ranks, n // ranks + 1}
        assert sum(len(m) for m, _ in moments) == n
        if ranks != 3:
            for whole, parts in zip(alone, zip(*moments, strict=True), strict=True):
                assert (np.concatenate(parts) == whole).all()


@pytest.mark.parametrize("ranks", [2, 4, 8])
def test_fewer_numbers_than_ranks_can_be_sharded(ranks):
    def moved(world):
        p = Parameter(np.array([1.0, -2.0, 3.0]))
        optimizer = AdamW([p], lr=0.1, world=world, shard=world.size > 1)
        for step in range(3):
            p.grad = np.array([1.0, 2.0, -1.0]) * (step + 1)
            optimizer.step(max_norm=1.0)
        return p.data.copy(), optimizer.state_dict(["p"])

    [(wanted, state)] = run_ranks(1, moved)
    for rank, (found, own_state) in enumerate(run_ranks(ranks, moved)):
        assert (found == wanted).all()
        assert rank or {name: a.tolist() for name, a in own_state.items()} == {
            name: a.tolist() for name, a in state.items()
        }
        assert rank == 0 or own_state == {}


def test_sharded_moments_are_saved_whole_and_loaded_by_any_number_of_ranks():
    names = [name for name, _ in made("GAM").named_parameters()]

    def walk(world, start, steps, state=None, weights=None):
        model = made("GAM")
        if weights is not None:
            model.load_state_dict(weights)
        optimizer = AdamW(model.parameters(), lr=0.01, world=world, shard=True)
        if state is not None:
            optimizer.load_state_dict(state, names, start)
            model.mask_counter.drawn = start * 3
        for i in range(start, start + steps):
            model.mask_counter.drawn = i * 3
            begin_step(model, optimizer, *drawn(8, seed=i), world=world, leaves=8)()
        return model.state_dict(), optimizer.state_dict(names)

    whole = run_ranks(1, lambda world: walk(world, 0, 4))[0]
    for before, after in ((2, 4), (8, 1), (1, 8)):
        weights, state = run_ranks(before, lambda world: walk(world, 0, 2))[0]
        found = run_ranks(after, lambda world, s=state, w=weights: walk(world, 2, 2, s, w))
        assert_same_bits(found[0][0] | found[0][1], whole[0] | whole[1])
        assert all((p == whole[0][name]).all() for w, _ in found for name, p in w.items())


def test_moments_before_the_first_step_need_no_other_rank():
    """A run is made by rank 0 alone."""

    def made_alone(world):
        if world.rank:
            return None
        optimizer = AdamW(made("GAM").parameters(), world=world, shard=True)
        return optimizer.state_dict([name for name, _ in made("GAM").named_parameters()])

    state = run_ranks(2, made_alone)[0]
    assert {f"m.{name}": p.shape for name, p in made("GAM").state_dict().items()}.items() <= {
        name: a.shape for name, a in state.items()
    }.items()
    assert not any(a.any() for a in state.values())
