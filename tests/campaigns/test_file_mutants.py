"""Every file that a command reads, damaged in many ways: it means the same, or is refused in one line.

A command that ends with exit code 0 must have printed and written exactly what it does with the whole file.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from helpers.campaigns import campaign, pick
from helpers.lines import Ended, linux
from helpers.world import ON_PREPARED, ON_TEXT, REACH, RUNS, TABLE1, TABLE2, World

pytestmark = linux

RUN = ("config.json", "tokenizer.json", "model.safetensors")
STATE = (*RUN, "optimizer.safetensors", "metrics.jsonl")
FOLDER = ("meta.json", "tokenizer.json", "train.bin", "valid.bin")
CELL = "table/cells/gam-seed0"


@dataclass(frozen=True)
class Target:
    """A command and the files that it reads.

    writes : files that hold its results
    new    : whether the files are new to it, so that any text in them is a right one
    """

    argv: list[str]
    reads: list[str]
    writes: tuple[str, ...] = ()
    new: bool = False


def inside(folder: str, names: tuple[str, ...]) -> list[str]:
    return [f"{folder}/{name}" for name in names]


NUMPY, WEIGHTS = "--backend=numpy", ("new/model.safetensors", "new/optimizer.safetensors")
TARGETS = [
    *(Target(["generate", run, "--tokens=9", NUMPY], inside(run, RUN)) for run in RUNS),
    *(
        Target(["evaluate", run, "--json=new.json", NUMPY], [*inside(run, RUN), *corpus], ("new.json",))
        for run, corpus in (("run", ["t.txt"]), ("words", []), ("paper", inside("prep", FOLDER)))
    ),
    Target(["explain", "run", "--out=new.html", NUMPY], inside("run", RUN), ("new.html",)),
    Target(
        ["train", "--resume=half", NUMPY], [*inside("half", STATE), "t.txt"],
        tuple(inside("half", ("model.safetensors", "optimizer.safetensors"))),
    ),
    Target(["train", *ON_PREPARED, "--out=new"], inside("prep", FOLDER), WEIGHTS),
    Target(["train", *ON_TEXT, "--out=new"], ["t.txt"], new=True),
    Target(["data", "prepare", "wikitext-2", "--train=t.txt", "--out=new"], ["t.txt"], new=True),
    Target(["data", "prepare", "wikitext-2", "--train=t.parquet", "--out=new"], ["t.parquet"], new=True),
    Target(
        ["experiments", *TABLE1, "--out=table"], inside(CELL, (*STATE, "result.json")), ("table/table1.json",)
    ),
    Target(["experiments", *TABLE2, "--out=table2"], ["table2/cells.json"], ("table2/table2.json",)),
    Target(
        ["experiments", *REACH, "--out=reach"], ["reach/cells.json", *inside("run", RUN)],
        ("reach/reach.json",),
    ),
]  # fmt: skip


def digits(data: bytes, rng: np.random.Generator) -> list[int]:
    """Return the places of two digits; of any two bytes if there is no digit."""
    places = [m.start() for m in re.finditer(rb"\d", data)] or range(len(data))
    return rng.choice(places, 2).tolist()


def replaced(data: bytes, at: int, by: bytes, n: int = 1) -> bytes:
    """Return the data with `by` in place of the n bytes from `at`."""
    return data[:at] + by + data[at + n :]


def swapped(data: bytes, a: int, b: int) -> bytes:
    return replaced(replaced(data, a, data[b : b + 1]), b, data[a : a + 1])


def shuffled(data: bytes, rng: np.random.Generator) -> bytes:
    lines = data.splitlines(keepends=True)
    rng.shuffle(lines)
    return b"".join(lines)


# Each returns the damaged bytes. `at` is a random place, n a small number.
Damage = Callable[[bytes, int, int, np.random.Generator], bytes]
DAMAGES: dict[str, Damage] = {
    "a bit flipped": lambda data, at, n, rng: replaced(data, at, bytes([data[at] ^ 1 << (n % 8)])),
    "a byte set": lambda data, at, n, rng: replaced(data, at, b'\0\xff"{ -\n'[n % 7 :][:1]),
    "bytes cut out": lambda data, at, n, rng: replaced(data, at, b"", n),
    "bytes doubled": lambda data, at, n, rng: replaced(data, at, data[at : at + n], 0),
    "the end cut off": lambda data, at, n, rng: data[:at],
    "a digit changed": lambda data, at, n, rng: replaced(data, digits(data, rng)[0], b"%d" % (n % 10)),
    "two digits swapped": lambda data, at, n, rng: swapped(data, *digits(data, rng)),
    "digits added": lambda data, at, n, rng: replaced(data, digits(data, rng)[0], b"9" * n, 0),
    "lines shuffled": lambda data, at, n, rng: shuffled(data, rng),
}


def outcome(world: World, target: Target, ended: Ended) -> tuple:
    """Return what must be equal: the exit code, the output, and the results on disk."""
    results = [path.read_bytes() if (path := world.path / name).exists() else None for name in target.writes]
    return ended.code, ended.out, *results


def mutants(
    data: bytes, others: list[bytes], number: int, seed: tuple[int, ...]
) -> Iterator[tuple[str, bytes]]:
    """Yield that many damaged copies, each with the name of what was done; one in ten is another file."""
    for k in range(number):
        rng = np.random.default_rng((*seed, k))
        at, n = int(rng.integers(len(data))), int(rng.integers(1, 24))
        if rng.random() < 0.1:
            yield f"another file, {k}", others[rng.integers(len(others))]
        else:
            name = rng.choice(list(DAMAGES))
            yield f"{name}, {k}", DAMAGES[name](data, at, n, rng)


def test_every_file_with_every_kind_of_damage(world):
    files = (p for p in world.master.rglob("*") if p.suffix in {".json", ".bin", ".safetensors", ".txt"})
    others = [p.read_bytes() for p in sorted(files)]
    with campaign("file_mutants") as c:
        for i, target in enumerate(TARGETS):
            ended = world.lines.run(*target.argv)
            assert ended.code == 0, ended.err
            whole = outcome(world, target, ended)
            world.restore()
            for j, name in enumerate(target.reads):
                data, path = (world.master / name).read_bytes(), world.path / name
                for damage, damaged in mutants(data, others, pick(3, 110), (i, j)):
                    if damaged == data:
                        continue
                    path.write_bytes(damaged)
                    ended = world.lines.run(*target.argv)
                    c.count("mutants")
                    c.count("refused", ended.code == 2)
                    c.count("same results", ended.code == 0 and not target.new)
                    if wrong := ended.fault() or side_effects(world, target, ended, name, damaged, whole):
                        c.fault(f"{' '.join(target.argv)}: {name}, {damage}: {wrong}")
                    world.restore()


def side_effects(world: World, target: Target, ended: Ended, name: str, damaged: bytes, whole: tuple) -> str:
    """Return what a command did that it must not do to a damaged file, or because of it; or ''."""
    if ended.code == 0:
        return "" if target.new or outcome(world, target, ended) == whole else f"other results, {ended.out!r}"
    new, changed = world.changes()
    if new or set(changed) - {name} or (world.path / name).read_bytes() != damaged:
        return f"refused, but wrote {new} and changed {changed}"
    return ""
