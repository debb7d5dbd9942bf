"""The generator as a reader: exact probabilities of next words, against those it gave while writing."""

import math

import pytest

from minigam.data import oracle, pocketstories
from minigam.data.pocketstories import BOUNDARY
from minigam.data.tokenizer import WordTokenizer

STORIES = list(pocketstories.stories(40, seed=5))


@pytest.mark.parametrize("n", range(len(STORIES)))
def test_what_it_reads_is_what_was_written(n):
    story = STORIES[n]
    known = oracle.read([BOUNDARY, *(token.text for token in story), BOUNDARY])
    assert [k.lookback for k in known[1:-1]] == [token.lookback for token in story]
    assert [k.nats for k in known[1:-1]] == pytest.approx([token.nats for token in story], abs=1e-12)
    assert (known[0].nats, known[-1].nats) == (None, 0.0)
    for k in known:
        assert math.fsum(k.follows.values()) == pytest.approx(1.0, abs=1e-12)


def test_the_next_word_by_hand():
    first, *_, sam = oracle.read([BOUNDARY, "Once", "upon", "a", "time", ",", "Sam"])
    assert first.follows == {"Once": 0.5, "Long": 0.25, "There": 0.25}  # weights 2, 1, 1
    assert sam.follows == {"lived": 1.0}
    assert sam.nats == pytest.approx(math.log(12))  # heroes


def test_pronouns_follow_the_hero():
    split = WordTokenizer(pocketstories.vocabulary()).split
    for name, they in (("Sam", "He"), ("Ida", "She")):
        told = split(f"Once upon a time, {name} lived beside the lake with a small fox.")
        assert oracle.read([BOUNDARY, *told])[-1].follows == {they: 1.0}


def test_it_follows_only_what_a_story_can_be():
    known = oracle.read([BOUNDARY, "Once", "Once", "upon", BOUNDARY, "Long", "ago"])
    assert [k.nats for k in known] == [None, math.log(2), None, None, None, math.log(4), 0.0]
    assert [bool(k.follows) for k in known] == [True, True, False, False, True, True, True]


def test_before_a_boundary_nothing_is_known():
    assert oracle.read(["Once", "upon"]) == [oracle.Known(None, None, {})] * 2
    assert oracle.read([]) == []
