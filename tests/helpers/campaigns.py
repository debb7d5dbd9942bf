"""Campaigns: one promise, tried in many ways; what breaks it is counted as a fault.

The tests run the short form. `make campaigns` sets MINIGAM_CAMPAIGNS=long, which tries many more and stores
the counts for docs/trust.md.
"""

import os
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from minigam.files import write_json
from minigam.training import provenance

LONG = os.environ.get("MINIGAM_CAMPAIGNS") == "long"
RESULTS = Path(__file__).parents[2] / "benchmarks" / "results" / "campaigns"

Value = TypeVar("Value")


def pick(short: Value, long: Value) -> Value:
    """Return the value for the form that runs."""
    return long if LONG else short


class Campaign:
    """What a campaign has tried and measured, and the faults it has found."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.faults: list[str] = []
        self.measured: dict[str, float] = {}

    def count(self, what: str, n: int = 1) -> None:
        self.counts[what] += n

    def fault(self, text: str) -> None:
        self.faults.append(text)


@contextmanager
def campaign(name: str) -> Iterator[Campaign]:
    """Yield a Campaign, and fail with its faults at the end; the long form stores NAME.json first."""
    started, running = time.monotonic(), Campaign()
    yield running
    if LONG:
        content = {
            "command": "make campaigns",
            "tried": dict(running.counts),
            "measured": running.measured,
            "faults": running.faults,
            "seconds": round(time.monotonic() - started),
            "commit": provenance.commit(),
            "system": provenance.machine()["system"],
            "versions": provenance.versions(),
        }
        RESULTS.mkdir(parents=True, exist_ok=True)
        write_json(RESULTS / f"{name}.json", content)
    assert running.counts, "nothing was tried"
    few = "\n".join(running.faults[:10])
    assert not running.faults, f"{len(running.faults)} faults:\n{few}"
