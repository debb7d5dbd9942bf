"""Random text whose every token carries its exact probability.

A grammar is a set of rules written as text:

    word               a token
    [ a b | 3: c ]     a choice; an option's weight stands before its colon, 1 if omitted
    <name>             another rule
    {new hero}         choose a value for the slot `hero`, all equally likely, and write its name
    {hero} {hero.they} write the name of the slot's value again, or another form of it
    {Hero.they}        the same with a capital
    {thing@number}     write the form of `thing` that the value of the slot `number` names

The options of every choice begin with different tokens; `Grammar` refuses a rule that breaks this.
The first token after a choice therefore reveals it. The probability of that token is the product of
the choices just made; every other token has probability 1. The mean of -log(probability) is the
entropy floor: no model can have a lower loss on average.
"""

import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from itertools import product
from typing import NamedTuple, NoReturn

Value = dict[str, str]  # one value of a slot: its "name" and its other forms


@dataclass(frozen=True)
class Say:
    """One mention of a slot in a rule: `{new slot.form@selector}`."""

    slot: str
    form: str
    selector: str | None
    new: bool
    capital: bool

    @property
    def slots(self) -> tuple[str, ...]:
        return (self.slot,) if self.selector is None else (self.slot, self.selector)

    def text(self, *values: Value) -> str:
        """Return the token, given a value for each of `slots`."""
        word = values[0][self.form if self.selector is None else values[1]["name"]]
        return word.capitalize() if self.capital else word


class Token(NamedTuple):
    """One token of a story.

    nats     : -log of its exact probability, given all tokens before it
    lookback : how many tokens back a reader must look to know the word of a slot, that is, the distance
               to the mention that determines it; 0 for an ordinary token or a choice
    """

    text: str
    nats: float
    lookback: int


class Grammar:
    """A checked set of rules and slots; `expand` makes a story from them.

    rules : name -> text, in the notation described at the top of this file; `start` names the whole story
    slots : name -> values, which all have the same forms and different names
    Raises ValueError, naming the rule, when a text does not parse or a choice is ambiguous.
    """

    def __init__(self, rules: dict[str, str], slots: dict[str, list[Value]], start: str = "story"):
        self.slots, self.start = slots, start
        self.rules = {name: _Parser(name, text, slots).sequence() for name, text in rules.items()}
        self._reveals = {say: self._revealed_by(say) for say in self._says()}
        for name in rules:
            self._check(name, self.rules[name])

    def expand(self, choose: Callable[[list[float]], int]) -> list[Token]:
        """Make one story; `choose` takes a list of probabilities and returns the index of its choice."""
        story = _Story(self, choose)
        story.emit(self.rules[self.start])
        return story.tokens

    def vocabulary(self) -> list[str]:
        """Return every token that a story can contain, sorted."""
        words = {node for node in self._nodes() if isinstance(node, str) and not node.startswith("<")}
        return sorted(words | {text for table in self._reveals.values() for text in table})

    def entropy(self) -> tuple[float, float]:
        """Return the exact expected nats and the exact expected number of tokens of a story."""
        return self._expected(self.rules[self.start])

    def longest(self) -> int:
        """Return the number of tokens of the longest story."""

        def most(sequence: list) -> int:
            return sum(
                max(most(option) for _, option in node)
                if isinstance(node, list)
                else most(self.rules[node[1:-1]])
                if isinstance(node, str) and node.startswith("<")
                else 1
                for node in sequence
            )

        return most(self.rules[self.start])

    def _expected(self, sequence: list) -> tuple[float, float]:
        nats = length = 0.0
        for node in sequence:
            if isinstance(node, list):
                for p, option in node:
                    inner = self._expected(option)
                    nats += p * (inner[0] - math.log(p))
                    length += p * inner[1]
            elif isinstance(node, str) and node.startswith("<"):
                inner = self._expected(self.rules[node[1:-1]])
                nats, length = nats + inner[0], length + inner[1]
            else:
                length += 1.0
                if isinstance(node, Say) and node.new:
                    nats += math.log(len(self.slots[node.slot]))
        return nats, length

    def _nodes(self) -> Iterator[str | Say]:
        stack = list(self.rules.values())
        while stack:
            for node in stack.pop():
                if isinstance(node, list):
                    stack += [option for _, option in node]
                else:
                    yield node

    def _says(self) -> set[Say]:
        return {node for node in self._nodes() if isinstance(node, Say)}

    def _texts(self, say: Say, among: tuple[int, ...]) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Yield each token `say` can become and the values that give it; the bit masks limit the values."""
        slots = [self.slots[s] for s in say.slots]
        ranges = ([i for i in range(len(v)) if mask >> i & 1] for v, mask in zip(slots, among, strict=True))
        for chosen in product(*ranges):
            yield say.text(*(v[i] for v, i in zip(slots, chosen, strict=True))), chosen

    def _revealed_by(self, say: Say) -> dict[str, dict[str, int]]:
        """Map each token `say` can become to what it reveals: slot -> bit mask of values still possible."""
        table: dict[str, dict[str, int]] = {}
        for text, chosen in self._texts(say, tuple(-1 for _ in say.slots)):
            masks = table.setdefault(text, dict.fromkeys(say.slots, 0))
            for slot, i in zip(say.slots, chosen, strict=True):
                masks[slot] |= 1 << i
        if say.new and len(table) < len(self.slots[say.slot]):
            raise ValueError(f"slot {say.slot!r}: values share the form that introduces them")
        return table

    @cache  # noqa: B019  (a grammar lives as long as the program)
    def settled(self, say: Say, among: tuple[int, ...]) -> bool:
        """Return whether all values in these bit masks (one per slot) give the same token."""
        return len({text for text, _ in self._texts(say, among)}) == 1

    def _first(self, sequence: list) -> set[str]:
        """Return every token that `sequence` can begin with."""
        node = sequence[0]
        if isinstance(node, list):
            return set().union(*(self._first(option) for _, option in node))
        if isinstance(node, Say):
            return set(self._reveals[node])
        return self._first(self.rules[node[1:-1]]) if node.startswith("<") else {node}

    def _check(self, name: str, sequence: list) -> None:
        for node in sequence:
            if isinstance(node, str) and node.startswith("<") and node[1:-1] not in self.rules:
                raise ValueError(f"rule {name!r}: {node} is not a rule")
            if isinstance(node, list):
                first_tokens: set[str] = set()
                for _, option in node:
                    first = self._first(option)
                    if shared := sorted(first & first_tokens):
                        raise ValueError(f"rule {name!r}: two options of a choice begin with {shared[0]!r}")
                    first_tokens |= first
                    self._check(name, option)


class _Story:
    """A story under construction: its tokens, the slots' values, and the mentions of the slots."""

    def __init__(self, grammar: Grammar, choose: Callable[[list[float]], int]):
        self.grammar, self.choose = grammar, choose
        self.tokens: list[Token] = []
        self.values: dict[str, int] = {}  # slot -> index of its value
        self.mentions: list[tuple[int, dict[str, int]]] = []  # position, what that token reveals
        self.p = 1.0  # probability of the choices made since the last token

    def emit(self, sequence: list) -> None:
        for node in sequence:
            if isinstance(node, list):
                i = self.choose([p for p, _ in node])
                self.p *= node[i][0]
                self.emit(node[i][1])
            elif isinstance(node, Say):
                self.say(node)
            elif node.startswith("<"):
                self.emit(self.grammar.rules[node[1:-1]])
            else:
                self.put(node)

    def say(self, say: Say) -> None:
        slots = self.grammar.slots
        if say.new == (say.slot in self.values):
            raise ValueError(f"slot {say.slot!r}: introduced twice, or mentioned before it was introduced")
        if say.new:
            n = len(slots[say.slot])
            self.values[say.slot] = self.choose([1.0 / n] * n)
            self.p *= 1.0 / n
        text = say.text(*(slots[s][self.values[s]] for s in say.slots))
        self.put(text, self.lookback(say))
        self.mentions.append((len(self.tokens) - 1, self.grammar._reveals[say][text]))

    def put(self, text: str, lookback: int = 0) -> None:
        self.tokens.append(Token(text, -math.log(self.p) if self.p < 1.0 else 0.0, lookback))
        self.p = 1.0

    def lookback(self, say: Say) -> int:
        """Return the distance to the mention that, together with all later ones, determines the word."""
        if say.new and say.selector is None:
            return 0
        among = [1 << self.values[s] if say.new and s == say.slot else -1 for s in say.slots]
        for place, revealed in reversed(self.mentions):
            among = [mask & revealed.get(s, -1) for s, mask in zip(say.slots, among, strict=True)]
            if self.grammar.settled(say, tuple(among)):
                return len(self.tokens) - place
        raise ValueError(f"slot {say.slot!r}: mentioned before the slot it depends on")


class _Parser:
    """Recursive descent over one rule. A sequence is a list of nodes: a token or "<rule>" as str,
    a Say, or a choice as a list of (probability, sequence)."""

    PIECE = re.compile(r"\[|\]|\||<\w+>|\{[^}]*\}|\d+:|[^\s\[\]|{}]+")
    SAY = re.compile(r"\{(new )?(\w+)(?:\.(\w+))?(?:@(\w+))?\}")

    def __init__(self, rule: str, text: str, slots: dict[str, list[Value]]):
        self.rule, self.slots = rule, slots
        self.pieces = [*self.PIECE.findall(text), None]

    def fail(self, what: str) -> NoReturn:
        raise ValueError(f"rule {self.rule!r}: {what}")

    def sequence(self, closers: tuple = (None,)) -> list:
        nodes: list = []
        while self.pieces[0] not in closers:
            piece = self.pieces.pop(0)
            if piece is None or piece in ("]", "|"):
                self.fail(f"unexpected {piece or 'end'!r}")
            nodes.append(self.choice() if piece == "[" else self.say(piece) if piece[0] == "{" else piece)
        return nodes or self.fail("nothing where a token was wanted")

    def choice(self) -> list:
        options = []
        while True:
            weight = self.pieces.pop(0)[:-1] if re.fullmatch(r"\d+:", self.pieces[0] or "") else "1"
            options.append((int(weight), self.sequence(("|", "]", None))))
            closer = self.pieces.pop(0)
            if closer is None:
                self.fail("a choice is not closed")
            if closer == "]":
                total = sum(weight for weight, _ in options)
                return [(weight / total, option) for weight, option in options]

    def say(self, piece: str) -> Say:
        match = self.SAY.fullmatch(piece) or self.fail(f"{piece} is not a slot")
        new, slot, form, selector = match.groups()
        capital, slot = slot[0].isupper(), slot.lower()
        if slot not in self.slots or (selector and selector not in self.slots):
            self.fail(f"{piece}: unknown slot")
        forms = [v["name"] for v in self.slots[selector]] if selector else [form or "name"]
        if missing := [f for f in forms if any(f not in value for value in self.slots[slot])]:
            self.fail(f"{piece}: not every value of {slot!r} has the form {missing[0]!r}")
        return Say(slot, form or "name", selector, bool(new), capital)
