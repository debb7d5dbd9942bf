"""A folder with one of everything that a command reads, and with what no command should read."""

import os
import shutil
import signal
from pathlib import Path

import numpy as np

from helpers import prepared
from helpers.children import Orders, Server, minigam, skip_drawing
from helpers.lines import Lines

TINY = ["--backend=numpy", "--d-model=8", "--n-layers=1", "--batch-size=2", "--steps=2", "--warmup-steps=1",
        "--eval-rows=1", "--eval-every=1", "--checkpoint-every=1"]  # fmt: skip
ON_TEXT = [*TINY, "--text=t.txt", "--block-size=8"]
ON_STORIES = [*TINY, "--stories=4", "--valid-stories=2", "--block-size=128"]
ON_PREPARED = [*TINY, "--dataset=prep", "--block-size=8"]
RUNS = {
    "run": ON_TEXT,
    "bpe": [*ON_TEXT, "--tokenizer=bpe", "--bpe-size=300", "--model=transformer", "--n-heads=2"],
    "words": ON_STORIES,
    "paper": [*ON_PREPARED, "--model=mamba", "--expand=1"],
}
TABLE1 = ["table1", "--scale=small", "--dataset=prep", "--backend=numpy", "--models", "gam"]
TABLE2 = [
    "table2",
    "--scale=small",
    "--models",
    "gam",
    "--lengths",
    "4",
    "8",
    "--repeats=1",
    "--backend=numpy",
]
REACH = ["reach", "run", "--rows=2", "--backend=numpy"]


def quicken(folder: Path) -> None:
    """Make the commands that take long take less: tiny experiments, one gradient, no plots, no notebooks."""
    import jupytext  # noqa: F401  # it takes a second

    from minigam.course import __main__ as course
    from minigam.course import notebooks, overview
    from minigam.experiments import comparison, reach, recall, scaling
    from minigam.gradcheck import __main__ as gradcheck

    skip_drawing()
    os.environ["HF_ENDPOINT"] = "http://127.0.0.1:9"  # where nobody answers
    comparison.SCALES["small"] = comparison.Scale(
        {"block_size": 8, "d_model": 4, "n_layers": 1}, {"steps": 1, "batch_size": 2, "warmup_steps": 1},
        {"gam": {"n_slots": 2}, "transformer": {"n_heads": 2}, "mamba": {"d_state": 2}}, {},
    )  # fmt: skip
    scaling.SCALES["small"] |= {"batch": 1, "d_model": 8, "gam": {"n_slots": 2}}
    recall.recall_plot = reach.reach_plot = scaling.scaling_plot = comparison.comparison_plot
    recall.ROWS, recall.OFTEN = 100, 0
    recall.SHARED["d_model"] = 4
    gradcheck.LAYERS, gradcheck.MODELS = [], []
    notebooks.FOLDER, notebooks.execute = folder / "notebooks", lambda *args: None
    overview.write_times = lambda: 0  # they would go into the documents of the project
    course.run_lab = lambda args: 0  # it would run until someone stops it


class World:
    """The folder, put back whenever a command line has changed it, and the lines that run in it.

    A run stores where its text is, so the world never moves; what it is made of again is a copy of it.
    """

    def __init__(self, path: Path, server: Server) -> None:
        self.path, self.master = path, path.with_name(f"{path.name}-master")
        path.mkdir()
        self.lines = Lines(server.context, path, quicken)
        self._build(server)
        self.before = self._state()
        shutil.copytree(path, self.master, symlinks=True, ignore=lambda *_: ["pipe"])

    def _build(self, server: Server) -> None:
        words = np.random.default_rng(0).choice(["the cat", "a dog", "sat on", "mat", "ran.\n", "so\n"], 600)
        for name, part in (("t.txt", words[:500]), ("v.txt", words[500:])):
            (self.path / name).write_text(" ".join(part) + "\n", encoding="utf-8")
        prepared.write_parquet(self.path / "t.parquet", " ".join(words[:300]).splitlines())
        (self.path / "notebooks").mkdir()
        source = "# %% [markdown]\n# # 00 · A\n#\n# **Goal.** Go.\n#\n# **Time.** 5 minutes, 3 exercises.\n\n"
        source += '# %% tags=["setup"]\nimport minigam\n'
        (self.path / "notebooks" / "00_a.py").write_text(source, encoding="utf-8")
        prepare = ["--train=t.txt", "--valid=v.txt", "--out=prep", "--vocab-size=80"]
        commands = [
            ["data", "prepare", "wikitext-2", *prepare],
            *(["train", *flags, f"--out={name}"] for name, flags in RUNS.items()),
            ["experiments", *TABLE1, "--out=table"],
            ["experiments", *TABLE2, "--out=table2"],
            ["experiments", *REACH, "--out=reach"],
        ]  # fmt: skip
        for command in commands:
            ended = self.lines.run(*command)
            assert ended.code == 0, f"{command}: {ended.err}"
        killed = Orders(
            self.path, at=2, does=signal.SIGKILL, call="minigam.training.loop:begin_step", cwd=self.path
        )
        server.run(minigam, "train", *ON_TEXT, "--out=half", orders=killed)
        (self.path / "half" / ".lock").unlink(missing_ok=True)
        (self.path / "file").write_bytes(b"\0\1 something else \xff")
        (self.path / "deep.json").write_text("[" * 100_000)
        (self.path / "folder").mkdir()
        os.mkfifo(self.path / "pipe")
        (self.path / "zeros").symlink_to("/dev/zero")
        (self.path / "full").symlink_to("/dev/full")
        (self.path / "loop").symlink_to("loop")
        (self.path / "unreadable").write_text("a secret\n")
        (self.path / "unreadable").chmod(0)

    def _state(self) -> dict[str, tuple]:
        """Return what identifies every file and folder: its inode, size, time of change and mode."""
        state = {}
        for path in self.path.rglob("*"):
            s = path.lstat()
            content = (s.st_size, s.st_mtime_ns) if not path.is_dir() else ()
            state[path.relative_to(self.path).as_posix()] = (s.st_mode, s.st_ino, *content)
        return state

    def changes(self) -> tuple[list[str], list[str]]:
        """Return the paths of new files, and of old ones that are gone or have other bytes."""
        now = self._state()
        if now == self.before:
            return [], []
        touched = [p for p in self.before if now.get(p) != self.before[p]]
        return sorted(now.keys() - self.before.keys()), [p for p in touched if not self._equal(p)]

    def _equal(self, name: str) -> bool:
        here, there = self.path / name, self.master / name
        return here.is_file() and there.is_file() and here.read_bytes() == there.read_bytes()

    def restore(self) -> None:
        """Put back every file that is not as it was, and remove new ones."""
        now = self._state()
        for name in sorted(now.keys() - self.before.keys(), reverse=True):
            path = self.path / name
            path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
        for name in self.before:
            if now.get(name) == self.before[name]:
                continue
            here, there = self.path / name, self.master / name
            if here.is_symlink() or not here.is_dir():
                here.unlink(missing_ok=True)
            if name == "pipe":
                os.mkfifo(here)
            elif there.is_symlink():
                here.symlink_to(there.readlink())
            elif there.is_dir():
                here.mkdir(exist_ok=True)
            else:
                shutil.copy2(there, here)
        self.before = self._state()
