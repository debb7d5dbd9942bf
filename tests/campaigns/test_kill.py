"""Killed at any moment, a command run again ends as if nothing had happened.

SIGKILL comes before each file operation in turn, at random times, and in the middle of a write.
"""

import signal

import numpy as np
import pytest
from helpers import crashes
from helpers.campaigns import campaign, pick
from helpers.children import Orders, minigam, posix

pytestmark = posix

FORMS = pick([("gam", "--steps=2", "--eval-every=1")], [
    ("gam", "--steps=6"), ("gam", "--steps=3", "--checkpoint-every=1"), ("transformer", "--micro-batch=1"),
    ("mamba", "--steps=4", "--eval-every=1"),
])  # fmt: skip


def test_training_killed_before_each_file_operation(server, text, tmp_path):
    with campaign("kill_points_of_training") as c:
        for form, (model, *others) in enumerate(FORMS):
            flags = crashes.flags_of(text, *others, model=model)
            run = crashes.whole(server, tmp_path / f"{form}", flags)
            for n in range(
                1, run.operations + 1, pick(5, 1)
            ):  # 5 and the operations of a write have no divisor
                path = tmp_path / f"{form}-{n}"
                orders = Orders(path, at=n, does=signal.SIGKILL)
                killed = server.run(minigam, "train", *flags, f"--out={path}", orders=orders)
                assert killed.code == -signal.SIGKILL
                c.count("kill points")
                if wrong := crashes.end(server, path, run):
                    c.fault(f"{model} killed before {killed.operations[-1]} (number {n}): {wrong}")


def test_a_resumed_run_killed_before_each_file_operation(server, text, tmp_path):
    """The first kill comes after the checkpoint of step 2, before step 3 is logged."""
    with campaign("kill_points_of_resuming") as c:
        run = crashes.whole(server, tmp_path / "whole", crashes.flags_of(text))
        for n in range(*pick((2, 12, 3), (1, 1000))):
            path = tmp_path / f"{n}"
            orders = Orders(path, at=3, does=signal.SIGKILL, call="minigam.training.loop:begin_step")
            server.run(minigam, "train", *run.flags, f"--out={path}", orders=orders)
            orders = Orders(path, at=n, does=signal.SIGKILL)
            argv = ("train", f"--resume={path}", "--backend=numpy")
            if (killed := server.run(minigam, *argv, orders=orders)).code == 0:
                break
            c.count("kill points")
            if wrong := crashes.end(server, path, run):
                c.fault(f"resumed, killed before {killed.operations[-1]} (number {n}): {wrong}")


def test_an_experiment_killed_before_each_file_operation(server, tmp_path):
    with campaign("kill_points_of_an_experiment") as c:
        whole = tmp_path / "whole"
        done = server.run(crashes.table, whole, orders=Orders(whole))
        assert done.code == 0, done.err
        for n in range(1, len(done.operations) + 1, pick(17, 1)):
            path = tmp_path / f"{n}"
            killed = server.run(crashes.table, path, orders=Orders(path, at=n, does=signal.SIGKILL))
            assert killed.code == -signal.SIGKILL
            c.count("kill points")
            again = server.run(crashes.table, path, orders=Orders(path))
            wrong = f"exit code {again.code}: {again.err.strip()}" if again.code else ""
            if wrong := wrong or crashes.differing_tables(path, whole):
                c.fault(f"killed before {killed.operations[-1]} (number {n}): {wrong}")


@pytest.mark.parametrize("earlier", [False, True], ids=["new", "over-an-earlier-one"])
def test_preparing_killed_before_each_file_operation(earlier, server, text, tmp_path):
    """At every moment the folder is the old one, the new one or, between two renames, away."""
    pytest.importorskip("tokenizers")

    def prepare(name: str, vocab_size: int, **what):
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        return folder, server.run(*crashes.preparing(text, folder, vocab_size), orders=Orders(folder, **what))

    with campaign(f"kill_points_of_preparing{'_again' * earlier}") as c:
        whole, done = prepare("whole", 60)
        old, _ = prepare("old", 50)
        assert done.code == 0 and crashes.differing_files(old, whole)
        for n in range(1, 10_000, pick(5, 1)):
            if earlier:
                prepare(f"{n}", 50)
            folder, killed = prepare(f"{n}", 60, at=n, does=signal.SIGKILL)
            if killed.code == 0:
                break
            c.count("kill points")
            out = folder / "out"
            if out.exists() and not any(
                crashes.content(out) == crashes.content(x / "out") for x in (old, whole)
            ):
                c.fault(f"killed before {killed.operations[-1]}: neither the old folder nor the new one")
            _, again = prepare(f"{n}", 60)
            if wrong := (again.err.strip() if again.code else crashes.differing_files(folder, whole)):
                c.fault(f"killed before {killed.operations[-1]}: {wrong}")


def test_training_killed_at_random_moments(server, text, tmp_path):
    """Half of the kills come at a random time, half in the middle of a write."""
    rng = np.random.default_rng(0)
    with campaign("random_kills") as c:
        for k in range(pick(4, 180)):
            quick = bool(rng.random() < pick(1.0, 0.9))
            run = crashes.whole(server, tmp_path / f"whole{k}", crashes.random_flags(text, rng), quick)
            largest, path = (run.path / "optimizer.safetensors").stat().st_size, tmp_path / f"{k}"
            c.count("runs")
            story = []
            for _ in range(rng.integers(1, 6)):
                begun = (path / "config.json").exists()
                argv = [f"--resume={path}", "--backend=numpy"] if begun else [*run.flags, f"--out={path}"]
                if rng.random() < 0.5:
                    orders = Orders(path, quick=quick, limit=int(rng.integers(largest)), fatal=True)
                    child = server.run(minigam, "train", *argv, orders=orders)
                else:
                    child = server.start(minigam, "train", *argv, orders=Orders(path, quick=quick))
                    child.kill(after=rng.uniform(0.0, run.seconds))
                story.append(f"{child.code} {child.operations[-1:]}")
                if child.code == 0:
                    break
                c.count("kills", child.code < 0)
                if child.code > 0 and not crashes.refused(child):
                    c.fault(f"{run.flags}, {story}: exit code {child.code}: {child.err.strip()}")
            if wrong := crashes.end(server, path, run, quick):
                c.fault(f"{' '.join(run.flags)}, {story}: {wrong}")
