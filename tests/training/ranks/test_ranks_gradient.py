"""Buckets of gradients: each parameter in one, sent as soon as it is complete, in one order on all ranks."""

from collections import Counter

import numpy as np
import pytest
from helpers.ranked import MODELS, assert_same_bits, drawn, made, trained, trained_by
from helpers.thread_world import run_ranks
from hypothesis import given
from hypothesis import strategies as st

from minigam.engine.tensor import observing
from minigam.models.nn import Parameter
from minigam.training.optim import AdamW
from minigam.training.ranks import gradient
from minigam.training.step import begin_step

each_model = pytest.mark.parametrize("name", MODELS)


@given(sizes=st.lists(st.integers(1, 50), min_size=1, max_size=30), bucket=st.integers(1, 200))
def test_buckets_cover_each_parameter_once_from_the_last_to_the_first(sizes, bucket):
    optimizer = AdamW([Parameter(np.zeros(n)) for n in sizes])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gradient, "BUCKET", bucket)
        buckets = gradient.buckets_of(optimizer)
    order = [p for parameters, _ in buckets for p in parameters]
    assert [id(p) for p in order] == [id(p) for p in reversed(optimizer.parameters)]
    covered = [i for _, at in reversed(buckets) for i in range(at.start, at.stop)]
    assert covered == list(range(sum(sizes)))
    for parameters, at in buckets:
        assert sum(p.data.size for p in parameters) == at.stop - at.start
        assert at.stop - at.start - parameters[-1].data.size < bucket  # not larger than it has to be
    assert all(at.stop - at.start >= bucket for _, at in buckets[:-1])


def watched(world, name, rows=8, **settings):
    """Take a step; return what happened, in order: the operations of the backward pass, and the sums that
    were started, each by its place in the gradient."""
    model, events = made(name), []
    optimizer = AdamW(model.parameters(), world=world)
    start_sum, gradients = world.start_sum, optimizer.gradients

    def started(a):
        inside = a.base is gradients or a is gradients
        place = (a.ctypes.data - gradients.ctypes.data) // a.itemsize if inside else None
        events.append(("sum", place, len(a)))
        start_sum(a)

    world.start_sum = started
    with observing(lambda op, phase, arrays: phase == "backward" and events.append(("op", op, 0))):
        begin_step(model, optimizer, *drawn(rows), world=world, leaves=8, **settings)()
    places = {n: (at.start, at.stop) for (n, _), at in
              zip(model.named_parameters(), optimizer.places, strict=True)}  # fmt: skip
    return events, places


def sums(events):
    return [(place, n) for what, place, n in events if what == "sum" and place is not None]


@each_model
@pytest.mark.parametrize("bucket", [1, 100, 1000])
def test_buckets_are_sent_while_the_backward_pass_goes_on(name, bucket, monkeypatch):
    monkeypatch.setattr(gradient, "BUCKET", bucket)
    found = run_ranks(4, lambda world: watched(world, name))
    events, places = found[0]
    assert {tuple(sums(e)) for e, _ in found} == {tuple(sums(events))}  # the same order on every rank
    end = sum(at[1] - at[0] for at in places.values())
    for place, n in sums(events):  # from the last parameter to the first, without a gap
        assert place + n == end
        end = place
    assert end == 0
    for e, _ in found:
        last_op = max(i for i, event in enumerate(e) if event[0] == "op")
        early = [i for i, event in enumerate(e) if event[0] == "sum" and i < last_op]
        assert early or bucket == 1000
        if bucket == 1:  # all but the embeddings: those of the tokens get a gradient from the first operation
            assert len(early) >= len(places) - 4, (name, len(early), len(places))


def test_a_rank_sends_nothing_before_its_last_part(monkeypatch):
    monkeypatch.setattr(gradient, "BUCKET", 1)
    for events, _ in run_ranks(2, lambda world: watched(world, "GAM", rows=32, micro_batch=2)):
        kinds = [what if what == "sum" else op for what, op, _ in events]
        heads = [i for i, kind in enumerate(kinds) if kind == "linear_cross_entropy"]
        assert len(heads) == 4 * 2  # leaves of a rank, parts of a leaf
        assert "sum" not in kinds[: heads[-1]] and "sum" in kinds[heads[-1] :]


@each_model
def test_a_parameter_with_two_uses_is_sent_when_both_are_there(name, monkeypatch):
    monkeypatch.setattr(gradient, "BUCKET", 1)

    sent = []

    def step(world):
        model = made(name)
        optimizer = AdamW(model.parameters(), world=world)
        token, seen = model.token_embedding.weight, Counter()
        start_sum = world.start_sum
        where = optimizer.gradients[optimizer.places[0]].ctypes.data

        def started(a):
            if a.ctypes.data == where:
                sent.append((world.rank, seen["token"]))
            start_sum(a)

        world.start_sum = started
        for _ in range(2):
            seen.clear()
            with observing(
                lambda op, phase, _: (
                    phase == "backward"
                    and seen.update(["token"] if op in ("linear_cross_entropy", "embedding") else [])
                )
            ):
                begin_step(model, optimizer, *drawn(8), world=world, leaves=8)()
        assert token.on_gradient is None

    run_ranks(8, step)
    assert len(sent) == 8 * 2 and {n for _, n in sent} == {2}  # as the head and as the embedding


@each_model
@pytest.mark.parametrize("bucket", [1, 64])
def test_the_size_of_a_bucket_changes_no_bit(name, bucket, monkeypatch):
    batches = [drawn(8), drawn(11, seed=1)]
    wanted = trained(lambda: made(name), batches)
    monkeypatch.setattr(gradient, "BUCKET", bucket)
    for found in trained_by(4, lambda: made(name), batches):
        assert_same_bits(found, wanted)


def test_what_a_rank_sends_is_the_least():
    """Of n numbers a rank sends all but its own, and its own sum to all others: 2 (R - 1)/R n."""

    def step(world):
        model = made("GAM")
        begin_step(model, AdamW(model.parameters(), world=world), *drawn(8), world=world, leaves=8)()
        return world.sent

    n = made("GAM").num_parameters()
    for ranks in (2, 4, 8):
        for sent in run_ranks(ranks, step):
            assert sent == pytest.approx(2 * (ranks - 1) / ranks * n * 4, rel=0.01)
    assert run_ranks(1, step) == [0]
