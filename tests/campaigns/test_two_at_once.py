"""Two processes on one folder: the second is refused in one line, and the first is unharmed.

The first stops before a file operation, the second runs, the first continues: an order for each operation.
"""

import os
from collections.abc import Callable

import pytest
from helpers import crashes
from helpers.campaigns import Campaign, campaign, pick
from helpers.children import Child, Orders, Server, minigam, posix

pytestmark = posix


def interleaved(
    server: Server, c: Campaign, orders: Orders, first: tuple, second: tuple
) -> tuple[Child, Child] | None:
    """Start `first`, run `second` while it waits as ordered, then let it end. None: it never waited."""
    waits = server.start(*first, orders=orders)
    if not waits.waiting():
        waits.wait()
        return None
    other = server.run(*second, orders=Orders(orders.within, cwd=orders.cwd))
    waits.go.touch()
    c.count("forced orders")
    return waits.wait(), other


def orders_of(server: Server, c: Campaign, folder: Callable, first: Callable, second: Callable, **settings):
    """Yield each order: the folder, both children, and the number of the operation."""
    for n in range(1, 10_000, pick(17, 1)):
        path = folder(n)
        pair = interleaved(server, c, Orders(path, at=n, does="wait", **settings), first(path), second(path))
        if pair is None:
            return
        c.count("refused", sum(crashes.refused(child) for child in pair))
        yield path, *pair, n


def order(first: Child, n: int) -> str:
    return f"first before {first.operations[n - 1]} (operation {n})"


def outcome(a: Child, b: Child, n: int) -> str:
    """Return what is wrong unless one of the two ended well and the other was refused in one line."""
    if sorted((a.code, b.code)) == [0, 2] and crashes.refused(a if a.code else b):
        return ""
    return "; ".join(f"exit code {x.code}: {x.err.strip()}" for x in (a, b))


def repeatable(a: Child, b: Child, n: int) -> str:
    """Return the same for commands that may be repeated: both end well if `a` held no lock when `b` ran.

    The file of a lock is removed while it is held, as the last thing but for leaving an empty folder.
    """
    before = a.operations[: n - 1]
    removed = [x for x in before if x.startswith("os.remove") and x.endswith(f"{os.sep}.lock")]
    free = before.count("lock") == len(removed)
    return "" if a.code == b.code == 0 and free else outcome(a, b, n)


def test_two_trainings_of_one_folder(server, text, tmp_path):
    with campaign("two_trainings") as c:
        run = crashes.whole(server, tmp_path / "whole", crashes.flags_of(text))

        def new(path):
            return minigam, "train", *run.flags, f"--out={path}"

        def resuming(path):
            return minigam, "train", "--resume", str(path), "--backend=numpy"

        for name, second, wanted in (("out", new, outcome), ("resume", resuming, repeatable)):
            pairs = orders_of(server, c, lambda n, name=name: tmp_path / f"{name}{n}", new, second)
            for path, a, b, n in pairs:
                if wrong := wanted(a, b, n) or crashes.differences(path, run.path):
                    c.fault(f"second --{name}, {order(a, n)}: {wrong}")


def test_two_trainings_without_a_folder(server, text, tmp_path):
    with campaign("two_trainings_without_out") as c:
        run = crashes.whole(server, tmp_path / "whole", crashes.flags_of(text))
        argv = (minigam, "train", *run.flags)
        for n in range(1, 10_000, pick(19, 1)):
            here = tmp_path / f"{n}"
            here.mkdir()
            pair = interleaved(server, c, Orders(here, at=n, does="wait", cwd=here), argv, argv)
            if pair is None:
                break
            runs = sorted((here / "runs").iterdir())
            wrong = "; ".join(f"exit code {x.code}: {x.err.strip()}" for x in pair if x.code)
            wrong = wrong or ", ".join(filter(None, (crashes.differences(p, run.path) for p in runs)))
            if wrong or [p.name for p in runs] != ["t-1", "t-2"]:
                c.fault(f"first before {pair[0].operations[n - 1]}: {wrong or runs}")


def test_reading_a_run_while_it_is_trained(server, text, tmp_path):
    """A reader sees the last checkpoint, or says in one line that there is none."""
    with campaign("reading_while_training") as c:
        run = crashes.whole(server, tmp_path / "whole", crashes.flags_of(text))
        pairs = orders_of(
            server, c, lambda n: tmp_path / f"{n}",
            lambda path: (minigam, "train", *run.flags, f"--out={path}"),
            lambda path: (minigam, "generate", str(path), "--backend=numpy", "--tokens=2"),
        )  # fmt: skip
        for path, trained, read, n in pairs:
            wrong = "" if read.code == 0 or crashes.refused(read) else f"{read.code}: {read.err.strip()}"
            if wrong := wrong or trained.err.strip() or crashes.differences(path, run.path):
                c.fault(f"{order(trained, n)}: {wrong}")


def test_two_experiments_in_one_folder(server, tmp_path):
    with campaign("two_experiments") as c:
        whole = tmp_path / "whole"
        assert server.run(crashes.table, whole, orders=Orders(whole)).code == 0
        pairs = orders_of(
            server, c, lambda n: tmp_path / f"{n}",
            lambda path: (crashes.table, path), lambda path: (crashes.table, path),
        )  # fmt: skip
        for path, a, b, n in pairs:
            if wrong := repeatable(a, b, n) or crashes.differing_tables(path, whole):
                c.fault(f"{order(a, n)}: {wrong}")
        assert c.counts["refused"], "no lock was ever met"


def test_two_preparations_of_one_folder(server, text, tmp_path):
    pytest.importorskip("tokenizers")
    with campaign("two_preparations") as c:
        whole = tmp_path / "whole"
        whole.mkdir()
        assert server.run(*crashes.preparing(text, whole), orders=Orders(whole)).code == 0

        def folder(n):
            (tmp_path / f"{n}").mkdir()
            return tmp_path / f"{n}"

        pairs = orders_of(
            server, c, folder,
            lambda path: crashes.preparing(text, path), lambda path: crashes.preparing(text, path),
        )  # fmt: skip
        for path, a, b, n in pairs:
            if wrong := repeatable(a, b, n) or crashes.differing_files(path, whole):
                c.fault(f"{order(a, n)}: {wrong}")
        assert c.counts["refused"], "no lock was ever met"
