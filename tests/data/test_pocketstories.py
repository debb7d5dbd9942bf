"""The floor is proven, not believed: probabilities, labels and the stored bits of the corpus."""

import hashlib
import itertools
import math
import re
from pathlib import Path

import numpy as np
import pytest

from minigam import GAM, GAMConfig
from minigam.data import pocketstories
from minigam.data.corpus import from_pocketstories, inputs_and_targets
from minigam.data.grammar import Grammar

HASH = Path(__file__).parents[1] / "helpers" / "golden" / "pocketstories.sha256"

SLOTS = {
    "hero": [
        {"name": "Lily", "they": "she", "their": "her"},
        {"name": "Mia", "they": "she", "their": "her"},
        {"name": "Tom", "they": "he", "their": "his"},
    ],
    "number": [{"name": "one", "some": "a", "was": "was"}, {"name": "many", "some": "some", "was": "were"}],
    "thing": [{"name": n, "one": n, "many": n + "s"} for n in ("kite", "drum")],
}
SMALL = Grammar(
    {
        "story": "<who> had {new number.some} [ 3: red | blue ] {new thing@number} . <end>",
        "who": "[ 2: {new hero} | once {new hero} ]",
        "end": "[ The {thing@number} {number.was} lost | {Hero.they} [ sang | slept [ well | 4: ill ] ] ] .",
    },
    SLOTS,
)


class Script:
    """Chooses as written, then the first option each time; remembers what there was to choose."""

    def __init__(self, written: list[int]):
        self.written, self.taken, self.options, self.p = written, [], [], 1.0

    def __call__(self, probabilities: list[float]) -> int:
        n = len(self.taken)
        i = self.written[n] if n < len(self.written) else 0
        self.taken.append(i)
        self.options.append(len(probabilities))
        self.p *= probabilities[i]
        return i


def all_stories(grammar: Grammar):
    """Yield every story of a small grammar with its probability, taking every branch once."""
    waiting: list[list[int]] = [[]]
    while waiting:
        script = Script(waiting.pop())
        yield grammar.expand(script), script.p
        for n in range(len(script.written), len(script.taken)):
            waiting += [[*script.taken[:n], i] for i in range(1, script.options[n])]


def texts(story) -> tuple[str, ...]:
    return tuple(t.text for t in story)


def test_the_probabilities_of_all_stories_add_up_to_one():
    stories = list(all_stories(SMALL))
    assert len({texts(s) for s, _ in stories}) == len(stories) > 100
    assert math.fsum(p for _, p in stories) == pytest.approx(1.0, abs=1e-12)


def test_every_token_carries_its_exact_conditional_probability():
    """P(token | prefix), counted over all stories that share the prefix, is what the token says."""
    stories = list(all_stories(SMALL))
    of_prefix: dict[tuple[str, ...], float] = {}
    for story, p in stories:
        for n in range(len(story) + 1):
            of_prefix[texts(story)[:n]] = of_prefix.get(texts(story)[:n], 0.0) + p
    for story, p in stories:
        words = texts(story)
        for n, token in enumerate(story):
            assert math.exp(-token.nats) == pytest.approx(of_prefix[words[: n + 1]] / of_prefix[words[:n]])
        assert math.exp(-math.fsum(t.nats for t in story)) == pytest.approx(p)


def test_the_entropy_is_the_mean_over_all_stories():
    nats, length = SMALL.entropy()
    stories = list(all_stories(SMALL))
    assert SMALL.longest() == max(len(s) for s, _ in stories)
    assert nats == pytest.approx(math.fsum(-p * math.log(p) for _, p in stories))
    assert length == pytest.approx(math.fsum(p * len(s) for s, p in stories))


def test_lookback_is_the_shortest_context_that_settles_the_word():
    """Brute force over all stories: with `lookback` tokens of context the word is settled among
    the stories that made the same choices of structure, with one token less it is not."""
    rule = "{new number.some} {new hero} {new thing@number} so {hero.they} saw {thing@number} by {hero} ."
    grammar = Grammar({"story": rule}, SLOTS)
    stories = [texts(s) for s, _ in all_stories(grammar)]
    for story, _ in all_stories(grammar):
        for n, token in enumerate(story):
            if token.lookback == 0:
                continue

            def possible(context: int, n=n, story=story) -> set[str]:
                seen = texts(story)[n - context : n]
                return {s[n] for s in stories if s[n - context : n] == seen}

            if token.nats == 0.0:
                assert len(possible(token.lookback)) == 1
            assert len(possible(token.lookback - 1)) > len(possible(token.lookback))


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ({"story": "[ a b | a c ]"}, "begin with 'a'"),
        ({"story": "[ <x> | a ]", "x": "[ b | a ]"}, "begin with 'a'"),
        ({"story": "[ {new hero} | Tom ]"}, "begin with 'Tom'"),
        ({"story": "[ a | ]"}, "nothing where a token"),
        ({"story": "[ a | b"}, "not closed"),
        ({"story": "a ]"}, "unexpected"),
        ({"story": "<nowhere>"}, "not a rule"),
        ({"story": "{villain}"}, "unknown slot"),
        ({"story": "{hero.age}"}, "form 'age'"),
        ({"story": "{new hero.they}"}, "share the form"),
    ],
)
def test_a_grammar_that_would_lie_is_refused(rules, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        Grammar(rules, SLOTS)


def test_a_slot_is_introduced_once_and_first():
    for rule in ("{hero}", "{new hero} {new hero}"):
        with pytest.raises(ValueError, match="introduced"):
            Grammar({"story": rule}, SLOTS).expand(lambda p: 0)


# ------------------------------------------------------------------------- the real corpus


def made():
    return list(pocketstories.stories(2_000, seed=1))


@pytest.fixture(scope="module")
def stories():
    return made()


def digest(stories) -> str:
    lines = (" ".join(f"{t.text}/{t.lookback}" for t in story) for story in stories)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def test_stories_are_the_same_bits_everywhere(stories):
    """A new hash is a new corpus: every figure about it must then be measured again.
    `PYTHONPATH=tests python tests/data/test_pocketstories.py` stores it."""
    assert digest(stories) == HASH.read_text().strip()


def test_the_mean_story_has_the_exact_entropy(stories):
    nats = np.array([math.fsum(t.nats for t in story) for story in stories])
    exact, length = pocketstories.grammar().entropy()
    standard_error = nats.std() / math.sqrt(len(nats))
    assert abs(nats.mean() - exact) < 4 * standard_error
    assert abs(np.mean([len(s) for s in stories]) - length) < 1.0


def test_stories_are_sentences(stories):
    for story in stories:
        words = texts(story)
        assert words[-1] == "."
        assert words.count("“") == words.count("”")
        for a, b in itertools.pairwise(words):
            assert not (a in ".!?" and b[0].islower()), f"small letter after {a}: {' '.join(words)}"
            assert not (a == "a" and b[0] in "aeiou"), f"a {b}"
            assert a != b or a not in ",.!?"


def test_pronouns_and_numbers_agree(stories):
    she = {v["name"] for v in pocketstories.SLOTS["hero"] if v["they"] == "she"}
    plurals = {v["many"] for v in pocketstories.SLOTS["thing"]}
    for story in stories:
        words = set(texts(story))
        assert not words & ({"he", "He", "him", "his"} if words & she else {"she", "She", "her"})
        assert not words & ({"this"} if words & plurals else {"these", "were"})


def test_vocabulary_is_exactly_what_stories_use(stories):
    used = {t.text for story in stories for t in story}
    vocabulary = pocketstories.vocabulary()
    assert len(set(vocabulary)) == len(vocabulary)
    assert used <= set(vocabulary)
    assert len(set(vocabulary) - used - {pocketstories.BOUNDARY}) < 5  # rare ones, not dead ones


def test_the_line_between_syntax_and_recall_is_the_published_reach():
    assert GAM(GAMConfig(vocab_size=2, block_size=2, d_model=2, n_slots=2)).reach == pocketstories.REACH


def test_labels_follow_their_definition(stories):
    syntax, choice, recall = range(3)
    for story in stories:
        for token in story:
            kind = pocketstories.kind_of(token)
            assert (kind == recall) == (token.lookback > pocketstories.REACH)
            if kind == syntax:
                assert token.nats == 0.0
            if kind == choice:
                assert token.nats > 0.0
            assert not (kind == recall and token.nats > 0.0)


def test_a_repeated_name_looks_back_to_its_mention(stories):
    """The hero's name and the friend's are told by no other word, so the distance can be counted."""
    for slot in ("friend", "place", "feeling"):
        names = {v["name"] for v in pocketstories.SLOTS[slot]}
        for story in stories[:300]:
            at = [n for n, t in enumerate(story) if t.text in names and (t.lookback or t.nats > math.log(7))]
            for before, n in itertools.pairwise(at):
                assert story[n].lookback == n - before


def test_corpus_rows_hold_whole_stories():
    corpus = from_pocketstories(128, n_train=20, n_valid=10)
    end = corpus.tokenizer.id_of[pocketstories.BOUNDARY]
    ids, targets = inputs_and_targets(corpus.valid)
    assert (ids >= 0).all()
    for row, target, kinds, floor in zip(ids, targets, corpus.kinds, corpus.floor, strict=True):
        n = int((target >= 0).sum())
        assert row[0] == end
        assert target[n - 1] == end
        assert (target[n:] < 0).all()
        assert (floor[n - 1 :] == 0.0).all()
        assert set(kinds[floor > 0.0]) == {1}
    assert not {tuple(r) for r in corpus.train} & {tuple(r) for r in corpus.valid}
    again = from_pocketstories(128, n_train=20, n_valid=10)
    other = from_pocketstories(128, n_train=20, n_valid=10, seed=1)
    assert corpus.fingerprint() == again.fingerprint() != other.fingerprint()


if __name__ == "__main__":
    HASH.write_text(digest(made()) + "\n")
