"""Wrong answers to the exercises that a learner might plausibly give, and what the check must say of each."""

from collections.abc import Callable
from typing import NamedTuple


class Wrong(NamedTuple):
    """A wrong answer to the exercise `number`, NN_K, and a part of the message that points at its mistake."""

    number: str
    says: str
    answers: tuple


WRONG: list[Wrong] = []


def wrong(number: str, says: str) -> Callable:
    """Register the function below as a wrong answer."""

    def register(function):
        WRONG.append(Wrong(number, says, (function,)))
        return function

    return register


def wrong_value(number: str, says: str, *answers) -> None:
    """Register values (or several functions) as a wrong answer."""
    WRONG.append(Wrong(number, says, answers))
