"""The exact probability of every next word of a text, according to the generator of PocketStories.

In a grammar the options of a choice begin with different tokens (see `grammar`), so the tokens read so far
reveal every choice made so far. The rules then give every possible next token and its probability.
"""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from minigam.data.grammar import Grammar, Say
from minigam.data.pocketstories import BOUNDARY, grammar


class Place(NamedTuple):
    """The position of a reader in a story.

    rest    : the nodes of the rules that are still to come
    values  : slot -> index of its value
    choices : those made so far, in the order in which `Grammar.expand` asks for them
    """

    rest: tuple
    values: dict[str, int]
    choices: tuple[int, ...]


class Known(NamedTuple):
    """What the generator knows about one token of a text and the token after it.

    nats, lookback : as in `grammar.Token`; None if no story continues with this token
    follows        : next token -> exact probability; empty if no story continues from here
    """

    nats: float | None
    lookback: int | None
    follows: dict[str, float]


def read(tokens: Sequence[str]) -> list[Known]:
    """Return what the generator knows about each token. Tokens before the first boundary have no story."""
    options: dict[str, tuple[float, Place]] = {}
    results, start = [], 0
    for i, token in enumerate(tokens):
        place = nats = lookback = None
        if token in options:
            p, place = options[token]
            nats = -math.log(p) if p < 1.0 else 0.0
            lookback = 0 if token == BOUNDARY else _story(place.choices)[i - start].lookback
        if token == BOUNDARY:
            start, place = i + 1, Place(tuple(grammar().rules[grammar().start]), {}, ())
        options = {} if place is None else {text: (q, after) for q, text, after in ahead(grammar(), place)}
        results.append(Known(nats, lookback, {text: q for text, (q, _) in options.items()}))
    return results


def ahead(rules: Grammar, place: Place) -> Iterator[tuple[float, str, Place]]:
    """Yield every token that can come next, as (probability, token, place after it)."""
    if not place.rest:
        yield 1.0, BOUNDARY, place
        return
    node, rest = place.rest[0], place.rest[1:]
    if isinstance(node, list):
        for i, (p, option) in enumerate(node):
            chosen = Place((*option, *rest), place.values, (*place.choices, i))
            yield from ((p * q, text, after) for q, text, after in ahead(rules, chosen))
    elif isinstance(node, Say) and node.new:
        n = len(rules.slots[node.slot])
        for i in range(n):
            values = place.values | {node.slot: i}
            yield 1.0 / n, _say(rules, node, values), Place(rest, values, (*place.choices, i))
    elif isinstance(node, Say):
        yield 1.0, _say(rules, node, place.values), place._replace(rest=rest)
    elif node.startswith("<"):
        yield from ahead(rules, place._replace(rest=(*rules.rules[node[1:-1]], *rest)))
    else:
        yield 1.0, node, place._replace(rest=rest)


def _say(rules: Grammar, node: Say, values: dict[str, int]) -> str:
    return node.text(*(rules.slots[slot][values[slot]] for slot in node.slots))


def _story(choices: tuple[int, ...]) -> list:
    """Return the story that makes these choices and after them always takes the first option."""
    remaining = iter(choices)
    return grammar().expand(lambda probabilities: next(remaining, 0))
