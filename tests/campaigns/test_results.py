"""The table in docs/trust.md is what the long campaigns stored."""

import json
import math
import re

from helpers.campaigns import RESULTS

TRUST = RESULTS.parents[2] / "docs" / "trust.md"


def row(name: str, stored: dict) -> str:
    """Return the line of the table for one campaign."""
    tried = ", ".join(f"{n:,} {what}" for what, n in stored["tried"].items())
    return f"| {name.replace('_', ' ')} | {tried} | {len(stored['faults'])} |"


def test_each_stored_campaign_has_its_row_and_found_no_fault():
    text = TRUST.read_text(encoding="utf-8")
    stored = {p.stem: json.loads(p.read_text(encoding="utf-8")) for p in sorted(RESULTS.glob("*.json"))}
    assert [row(name, s) for name, s in stored.items() if row(name, s) not in text] == []
    assert [name for name, s in stored.items() if s["faults"]] == []


def measured(pattern: str, what: str) -> list[float]:
    """Return one number of all stored campaigns whose names match."""
    stored = [json.loads(p.read_text(encoding="utf-8"))["measured"] for p in RESULTS.glob(pattern)]
    assert stored, pattern
    return [s[what] for s in stored]


def test_the_figures_in_the_text_are_those_that_were_stored():
    text = " ".join(TRUST.read_text(encoding="utf-8").split())
    steps, tokens = (measured(f"long_{of}_*.json", f"MB per 1,000 {what}")
                     for of, what in (("training", "steps"), ("generation", "tokens")))  # fmt: skip
    assert f"Measured: at most {max(steps):.3f} MB and {math.ceil(1000 * max(tokens)) / 1000:.3f} MB" in text
    drift = measured("blas_threads.json", "largest relative difference of a loss")[0]
    one, two = (
        measured("blas_threads.json", f"final validation loss, {n}")[0] for n in ("1 thread", "2 threads")
    )
    assert f"at most {drift:.1e} (relative), the final validation loss by {abs(one - two) / one:.1e}" in text
    report = (RESULTS.parent / "coverage" / "report.txt").read_text(encoding="utf-8")
    statements, missed = map(int, re.search(r"^TOTAL +(\d+) +(\d+)", report, re.MULTILINE).groups())
    assert f"covers {1 - missed / statements:.1%} of the package's lines".replace("%", " %") in text


def test_the_table_of_mutants_is_the_stored_one():
    text = TRUST.read_text(encoding="utf-8")
    stored = json.loads((RESULTS.parent / "mutants" / "mutants.json").read_text(encoding="utf-8"))
    tried, killed = (sum(m[k] for m in stored["modules"].values()) for k in ("mutants", "killed"))
    rows = [f"| `{name}` | {m['mutants']} | {m['killed']} |" for name, m in stored["modules"].items()]
    rows += [
        f"| together | {tried} | {killed} ({killed / tried:.1%}) |",
        f"{tried} of the {stored['of']:,} mutants",
    ]
    assert [row for row in rows if row not in text] == []
    assert all(s["reason"] for m in stored["modules"].values() for s in m["survivors"])
