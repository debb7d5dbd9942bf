"""The table in docs/trust.md is what the long campaigns stored."""

import json

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
