"""What the generator of PocketStories says of a text: the exact probability of every next word.

In a grammar the options of a choice begin with different tokens (see `grammar`), so the tokens read so far
tell every choice made so far, and what may follow, and how likely, can be read off the rules.
"""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from minigam.data.grammar import Grammar, Say
from minigam.data.pocketstories import BOUNDARY, grammar


class Place(NamedTuple):
    """Where in a story a reader is.

    rest    : the nodes of the rules that are still to be told
    values  : slot -> index of the value it has
    choices : those made so far, as `Grammar.expand` asks for them
    """

    rest: tuple
    values: dict[str, int]
    choices: tuple[int, ...]


class Known(NamedTuple):
    """What the generator says of one token of a text, and of what comes after it.

    nats, lookback : as a `grammar.Token` has them; None where no story goes on with this token
    follows        : next token -> exact probability; empty where no story goes on from here
    """

    nats: float | None
    lookback: int | None
    follows: dict[str, float]


def read(tokens: Sequence[str]) -> list[Known]:
    """Return what the generator says of each token. A story begins after a boundary, not before."""
    options: dict[str, tuple[float, Place]] = {}
    found, begin = [], 0
    for i, token in enumerate(tokens):
        place = nats = lookback = None
        if token in options:
            p, place = options[token]
            nats = -math.log(p) if p < 1.0 else 0.0
            lookback = 0 if token == BOUNDARY else _told(place.choices)[i - begin].lookback
        if token == BOUNDARY:
            begin, place = i + 1, Place(tuple(grammar().rules[grammar().start]), {}, ())
        options = {} if place is None else {text: (q, after) for q, text, after in ahead(grammar(), place)}
        found.append(Known(nats, lookback, {text: q for text, (q, _) in options.items()}))
    return found


def ahead(rules: Grammar, place: Place) -> Iterator[tuple[float, str, Place]]:
    """Yield every token that can come next: its probability, itself, and the place after it."""
    if not place.rest:
        yield 1.0, BOUNDARY, place
        return
    node, rest = place.rest[0], place.rest[1:]
    if isinstance(node, list):
        for i, (p, option) in enumerate(node):
            chosen = Place((*option, *rest), place.values, (*place.choices, i))
            yield from ((p * q, text, after) for q, text, after in ahead(rules, chosen))
    elif isinstance(node, Say) and node.new:
        values = rules.slots[node.slot]
        for i in range(len(values)):
            told = place.values | {node.slot: i}
            yield 1.0 / len(values), _say(rules, node, told), Place(rest, told, (*place.choices, i))
    elif isinstance(node, Say):
        yield 1.0, _say(rules, node, place.values), place._replace(rest=rest)
    elif node.startswith("<"):
        yield from ahead(rules, place._replace(rest=(*rules.rules[node[1:-1]], *rest)))
    else:
        yield 1.0, node, place._replace(rest=rest)


def _say(rules: Grammar, node: Say, values: dict[str, int]) -> str:
    return node.text(*(rules.slots[slot][values[slot]] for slot in node.slots))


def _told(choices: tuple[int, ...]) -> list:
    """Return the story of these choices, and of the first option wherever they end."""
    left = iter(choices)
    return grammar().expand(lambda probabilities: next(left, 0))
