"""Every flag of every command with every wrong value: the command does what it says, or refuses in one line.

The flags are found in the parsers, so that a new one is tried too.
"""

import argparse
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from unittest.mock import patch

import pytest
from helpers.campaigns import LONG, campaign
from helpers.lines import Ended, linux
from helpers.world import ON_PREPARED, ON_STORIES, ON_TEXT, TABLE1

from minigam import cli
from minigam.__main__ import COMMANDS, module_of
from minigam.config import LARGEST

pytestmark = linux

NUMBERS = f"1e999 1e-400 nan inf -inf -1 0 1 1.5 5e-324 1e308 0x10 1_0 {LARGEST} {10**30} {'9' * 5000}"
TEXTS = ["", " ", "\n", "-", "letters", "ü", "x" * 5000, "\udcff", "a\0b", "a\nb", "$(true)", "--", "--help"]
PATHS = (
    "pipe folder zeros full missing missing/a unreadable loop file file/a deep.json t.txt t.parquet run prep"
)
ENDLESS = {"--steps", "--tokens", "--repeats"}  # with the largest number, a command would work for years
VALUES = [*NUMBERS.split(), *TEXTS, *PATHS.split()]

NUMPY, PREPARE = "--backend=numpy", ["--train=t.txt", "--valid=v.txt", "--out=new"]
SMALL = ["--scale=small", "--out=new", NUMPY]
# What stands before the flag that is tried, for each command: its positional arguments, then flags that make
# it do little. A command may have several such lines.
LINES: dict[str, list[tuple[list[str], list[str]]]] = {
    "train": [
        ([], [*ON_TEXT, "--out=new"]),
        ([], [*ON_TEXT, "--out=new", "--valid=v.txt", "--tokenizer=bpe", "--bpe-size=300"]),
        ([], [*ON_TEXT, "--out=new", "--model=transformer", "--n-heads=2"]),
        ([], [*ON_TEXT, "--out=new", "--model=mamba"]),
        ([], [*ON_STORIES, "--out=new"]),
        ([], [*ON_PREPARED, "--out=new"]),
        ([], [*ON_TEXT, "--profile"]),
        ([], ["--resume=half", NUMPY]),
    ],
    "generate": [(["run"], ["--tokens=2", NUMPY]), (["words"], ["--tokens=2", NUMPY])],
    "evaluate": [(["run"], ["--rows=3", NUMPY])],
    "explain": [(["run"], ["--rows=2", NUMPY]), (["run"], ["--prompt=the", "--tokens=2", "--rows=2", NUMPY])],
    "data list": [([], [])],
    "data fetch": [(["wikitext-2"], [])],
    "data prepare": [(["wikitext-2"], PREPARE), (["tinystories"], PREPARE), (["wikitext-2"], [])],
    "experiments table1": [([], [*TABLE1[1:], "--out=new"])],
    "experiments table2": [([], [*SMALL, "--models", "gam", "--lengths", "4", "--repeats=1"])],
    "experiments table3": [([], [*SMALL, "--models", "gated", "--dataset=prep"])],
    "experiments recall": [([], ["--models", "gam", "--steps=1", "--out=new", NUMPY])],
    "experiments reach": [(["run"], ["--rows=2", "--out=new", NUMPY])],
    "gradcheck": [([], [])],
    "course build": [(["0"], [])],
    "course exercises": [(["0"], ["--out=new"])],
    "course times": [([], [])],
    "course open": [([], ["--out=new"])],
    "course status": [(["0"], ["--folder=folder"]), (["0"], ["--folder=folder", "--json"])],
    "course class": [([], ["--out=new"])],
    "course grade": [(["folder"], ["--csv=new.csv", "--jobs=1"])],
}  # fmt: skip


class Found(Exception):
    """Carries a parser out of its command."""


def parsers() -> dict[str, argparse.ArgumentParser]:
    """Return the parser of every command and action, by name."""

    def parse(self: cli.Parser, *args: object) -> None:
        raise Found(self)

    found = {}
    for command in COMMANDS:
        with patch.object(cli.Parser, "parse_args", parse), pytest.raises(Found) as caught:
            import_module(f"minigam.{module_of(command)}").main([])
        found |= dict(inside(command, caught.value.args[0]))
    return found


def inside(name: str, parser: argparse.ArgumentParser) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """Yield the parsers of a command: its own, or those of its actions."""
    groups = [a for a in parser._actions if isinstance(a, argparse._SubParsersAction)]
    if not groups:
        yield name, parser
    for group in groups:
        for action, below in group.choices.items():
            yield from inside(f"{name} {action}", below)


def command_lines() -> Iterator[list[str]]:
    """Yield all command lines of the campaign: every value before the first line of a command, a quarter of
    them before each of its others."""
    for name, parser in parsers().items():
        for i, (positionals, flags) in enumerate(LINES[name]):
            values = VALUES if i == 0 else VALUES[i % 4 :: 4]
            start, end = name.split(), [*positionals, *flags]
            yield [*start, *flags]
            yield [*start, *end, "--no-such-flag=1"]
            for place in range(sum(not a.option_strings for a in parser._actions)):
                yield from (
                    [*start, *positionals[:place], v, *positionals[place + 1 :], *flags] for v in values
                )
            for flag in (f for a in parser._actions for f in a.option_strings):
                yield [*start, *end, flag]
                yield [*start, *end, f"{flag}=1", f"{flag}=1"]
                for v in values:
                    if v == f"{LARGEST}" and flag in ENDLESS:
                        continue
                    yield [*start, *end, *([f"{flag}={v}"] if flag.startswith("--") else [flag, v])]


def outputs(argv: list[str]) -> list[str]:
    """Return what a command line is told to write, and may replace."""
    named = [a.partition("=")[2] for a in argv if a.startswith(("--out=", "--json=", "--csv=", "--resume="))]
    return [*named, argv[-1]] if "-o" in argv else named


@pytest.mark.parametrize(
    ("ended", "fault"),
    [
        (Ended(0, "text", "", 0.1, 99.0), ""),
        (Ended(2, "", "minigam train: no\n", 0.1, 99.0), ""),
        (Ended(2, "", "minigam train: no\nor yes\n", 0.1, 99.0), "exit code 2"),
        (Ended(2, "", "", 0.1, 99.0), "exit code 2"),
        (Ended(1, "", "Traceback\n  line 1\nKeyError: 'a'\n", 0.1, 99.0), "KeyError"),
        (Ended(0, "", "a.py:1: RuntimeWarning: overflow\n", 0.1, 99.0), "RuntimeWarning"),
        (Ended(1, "", "minigam train: out of memory\n", 0.1, 99.0), "exit code 1"),
        (Ended(2, "", "minigam train: no\n", 5.1, 99.0), "5.1 s until refused"),
        (Ended(0, "text", "", 0.1, 1500.0), "1500 MiB"),
        (Ended(-9, "", "", 0.1, 99.0), "hangs"),
    ],
)
def test_what_counts_as_a_fault(ended, fault):
    assert fault in ended.fault()
    assert bool(ended.fault()) == bool(fault)


def test_a_line_runs_within_its_limits(world):
    assert world.lines.run("--version").out.startswith("minigam ")
    assert world.lines.run("generate", "missing").fault() == ""
    assert world.changes() == ([], [])
    (world.path / "t.txt").write_text("changed")
    (world.path / "new").mkdir()
    assert world.changes() == (["new"], ["t.txt"])
    world.restore()
    assert world.changes() == ([], [])


def test_every_flag_with_every_wrong_value(world):
    whole = list(command_lines())
    tried = whole if LONG else whole[::97]
    with campaign("flags") as c:
        c.count("commands", len(LINES))
        for argv in tried:
            ended = world.lines.run(*argv)
            c.count("command lines")
            c.count("refused", ended.code == 2)
            new, changed = world.changes()
            if wrong := ended.fault():
                c.fault(f"{argv}: {wrong}")
            elif ended.code == 2 and (new or changed):
                c.fault(f"{argv}: refused, but wrote {new} and changed {changed}")
            elif others := [p for p in changed if not any(Path(p).is_relative_to(o) for o in outputs(argv))]:
                c.fault(f"{argv}: changed {others}")
            if new or changed:
                world.restore()
