"""The disk fills up: one message names the file and says how to continue, and nothing is lost.

Simulated by a limit on the size of a file, by an error of each operation that needs space, and by a real
file system of a few blocks where a test may mount one.
"""

import os
import re
import shutil
import subprocess

import numpy as np
import pytest
from helpers import crashes
from helpers.campaigns import campaign, pick
from helpers.children import Orders, minigam, posix

pytestmark = posix

FILES = r"[\w.]*(config|tokenizer|model|optimizer|metrics|loss|complete|unfinished|lock)[\w.]*"


def complaint(child, path) -> str:
    """Return what is wrong with the message of a training that the disk stopped."""
    if child.code not in (1, 2) or "Traceback" in child.err:
        return f"exit code {child.code}: {child.err}"
    if not re.search(rf"{re.escape(str(path))}(/{FILES})?: ", child.err):
        return f"no file is named: {child.err}"
    if (path / "model.safetensors").exists() and (path / "config.json").exists():
        if not re.search(r"[Ss]tep \d+ is saved", child.err) or f"--resume {path}" not in child.err:
            return f"it does not say what is safe and how to continue: {child.err}"
    elif child.err.count("\n") > 3:
        return f"more than a line: {child.err}"
    return ""


def test_a_full_disk_at_random_sizes(server, text, tmp_path):
    rng = np.random.default_rng(1)
    with campaign("disk_full_at_a_size") as c:
        for k in range(pick(4, 100)):
            run = crashes.whole(server, tmp_path / f"whole{k}", crashes.random_flags(text, rng))
            largest, path = (run.path / "optimizer.safetensors").stat().st_size, tmp_path / f"{k}"
            limit = int(rng.choice([rng.integers(600, largest), rng.integers(600, 2000)]))  # 600: the message
            child = server.run(
                minigam, "train", *run.flags, f"--out={path}", orders=Orders(path, limit=limit)
            )
            if child.code == 0:
                continue
            c.count("full disks")
            if wrong := complaint(child, path) or crashes.end(server, path, run):
                c.fault(f"{' '.join(run.flags)}, files of {limit} bytes: {wrong}")


def test_a_full_disk_from_each_operation_on(server, text, tmp_path):
    with campaign("disk_full_from_an_operation_on") as c:
        run = crashes.whole(server, tmp_path / "whole", crashes.flags_of(text))
        for n in range(1, run.operations + 1, pick(13, 1)):
            path = tmp_path / f"{n}"
            orders = Orders(path, at=n, does="full")
            child = server.run(minigam, "train", *run.flags, f"--out={path}", orders=orders)
            if child.code == 0:
                continue
            c.count("full disks")
            if wrong := complaint(child, path) or crashes.end(server, path, run):
                c.fault(f"full before operation {n}, {child.operations[n - 1]}: {wrong}")


@pytest.fixture
def small_disk(tmp_path):
    """A mounted file system of 256 KiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    command = [shutil.which("mount"), "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(disk)]
    if command[0] is None or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("this system or user cannot mount a tmpfs")
    yield disk
    subprocess.run([shutil.which("umount"), str(disk)], check=True)


def test_a_disk_that_is_really_full(server, text, tmp_path, small_disk):
    rng = np.random.default_rng(2)
    path, filling = small_disk / "run", small_disk / "filling"
    with campaign("disk_full_mounted") as c:
        run = crashes.whole(server, tmp_path / "whole", crashes.flags_of(text, "--checkpoint-every=1"))
        shutil.copytree(run.path, path)
        needed = 256 - os.statvfs(small_disk).f_bavail * os.statvfs(small_disk).f_frsize // 1024
        for _ in range(pick(2, 40)):
            shutil.rmtree(path)
            space_kib = rng.integers(0, needed + 16)
            filling.write_bytes(bytes(1024 * int(256 - space_kib)))
            child = server.run(minigam, "train", *run.flags, f"--out={path}", orders=Orders(path))
            filling.unlink()
            if child.code != 0:
                c.count("full disks")
                if wrong := complaint(child, path):
                    c.fault(f"{space_kib} KiB free: {wrong}")
            if wrong := crashes.end(server, path, run):
                c.fault(f"{space_kib} KiB free: {wrong}")
