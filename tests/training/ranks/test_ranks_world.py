"""The order of sums, the shares, and the world of one rank; and that ranks of the tests end together."""

import threading
import time

import numpy as np
import pytest
from helpers.thread_world import run_ranks
from hypothesis import given
from hypothesis import strategies as st

from minigam.training.ranks.world import ALONE, RankLost, merged, pairwise, share, tree_sum

ITEMS = st.lists(st.none() | st.integers(0, 99).map(str), min_size=1, max_size=20)


def nested(left: str, right: str) -> str:
    return f"({left} {right})"


def by_definition(items: list) -> str | None:
    """Return the tree: of n items the left half is the largest power of two below n."""
    if len(items) == 1:
        return items[0]
    half = 2 ** ((len(items) - 1).bit_length() - 1)
    left, right = by_definition(items[:half]), by_definition(items[half:])
    return (left or right) if left is None or right is None else nested(left, right)


@given(ITEMS)
def test_pairwise_is_the_nested_pairing(items):
    assert pairwise(items, nested) == by_definition(items)


def test_pairwise_by_hand():
    assert pairwise(list("abcdefgh"), nested) == "(((a b) (c d)) ((e f) (g h)))"
    assert pairwise(list("abcde"), nested) == "(((a b) (c d)) e)"
    assert pairwise(["a", None, None, "d", None], nested) == "(a d)"
    assert pairwise([None, None], nested) is None
    assert merged(nested, None, "b") == "b" and merged(nested, "a", None) == "a"


@given(ITEMS, st.sampled_from([1, 2, 4, 8]))
def test_the_trees_of_ranks_are_branches_of_the_tree(items, ranks):
    leaves = (items * 8)[:8]
    branches = [pairwise(leaves[share(8, r, ranks)], nested) for r in range(ranks)]
    assert pairwise(branches, nested) == pairwise(leaves, nested)


@given(
    leaves=st.sampled_from([1, 2, 4, 8, 16, 32]), m=st.integers(0, 5), seed=st.integers(0, 99),
    dtype=st.sampled_from(["float32", "float64"]),
)  # fmt: skip
def test_sums_over_ranks_have_the_bits_of_the_whole_tree(leaves, m, seed, dtype):
    rng = np.random.default_rng(seed)
    rows = (rng.standard_normal((leaves, m)) * 10.0 ** rng.integers(-6, 6, (leaves, m))).astype(dtype)
    wanted = tree_sum(rows.copy())
    ranks = 1
    while ranks <= leaves:
        sums = [tree_sum(rows[share(leaves, r, ranks)].copy()) for r in range(ranks)]
        assert tree_sum(np.stack(sums)).tobytes() == wanted.tobytes()
        ranks *= 2
    np.testing.assert_allclose(wanted, rows.astype("float64").sum(axis=0), rtol=1e-4, atol=1e-1)


@given(n=st.integers(0, 300), parts=st.integers(1, 40))
def test_shares_are_nearly_equal_and_cover_everything_once(n, parts):
    shares = [share(n, i, parts) for i in range(parts)]
    assert [i for s in shares for i in range(n)[s]] == list(range(n))
    sizes = {s.stop - s.start for s in shares}
    assert max(sizes) - min(sizes) <= 1


@given(n=st.integers(1, 8), m=st.integers(1, 20), seed=st.integers(0, 9))
def test_the_ranks_of_the_tests_add_and_gather_as_the_interface_says(n, m, seed):
    rows = np.random.default_rng(seed).standard_normal((n, m)).astype("float32")

    def work(world):
        a, b = rows[world.rank].copy(), np.full(m, float(world.rank))
        world.start_sum(a)
        world.start_sum(b)
        world.finish_sums()
        whole = np.full(m, np.nan, "float32")
        whole[world.share(m)] = rows[0][world.share(m)]
        world.all_gather(whole)
        gathered = world.gather(rows[0][world.share(m)], m)
        assert (world.rank == 0) == (gathered is not None)
        return a, b, whole, gathered if world.rank == 0 else rows[0]

    for found in run_ranks(n, work):
        wanted = tree_sum(rows.copy()), np.full(m, n * (n - 1) / 2.0), rows[0], rows[0]
        assert all((a == b).all() for a, b in zip(found, wanted, strict=True))


def test_one_rank_is_alone():
    a = np.arange(3.0)
    ALONE.start_sum(a)
    ALONE.finish_sums()
    ALONE.all_gather(a)
    assert ALONE.gather(a, 3) is a and (a == np.arange(3.0)).all()
    assert ALONE.exchange("text") == ["text"] and ALONE.any(True) and not ALONE.any(False)
    waited = []
    ALONE.wait(lambda: False, lambda: waited.append(1))
    assert waited == [1] and ALONE.share(5) == slice(0, 5)
    ALONE.close()
    ALONE.leave(1)


# ------------------------------------------------------------- faults of a test are no hang of it


def test_an_error_of_one_rank_is_that_of_the_test():
    def work(world):
        if world.rank == 2:
            raise ZeroDivisionError("of rank 2")
        world.exchange("the others wait here")

    with pytest.raises(ZeroDivisionError, match="of rank 2"):
        run_ranks(4, work)


def test_other_calls_of_one_rank_are_an_error():
    for a, b in ((lambda w: w.exchange(""), lambda w: w.any(True)), (lambda w: w.any(True), lambda w: None)):
        with pytest.raises((AssertionError, RankLost), match=r"call different|not all came"):
            run_ranks(2, lambda world, a=a, b=b: (b if world.rank else a)(world), seconds=0.5)
    with pytest.raises(AssertionError, match="calls other methods"):
        run_ranks(2, lambda world: world.rank or world.start_sum(np.zeros(1)))
    with pytest.raises(AssertionError, match="has not finished its sums"):
        run_ranks(2, lambda world: world.start_sum(np.zeros(1)))


def test_a_rank_that_does_not_come_is_lost():
    begun = time.monotonic()
    with pytest.raises(RankLost, match="rank 0: not all came"):
        run_ranks(2, lambda world: world.rank or world.close(), seconds=0.2)
    assert time.monotonic() - begun < 5.0
    assert not [t for t in threading.enumerate() if t.name.startswith("rank ")]
