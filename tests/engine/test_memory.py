"""Memory: how much there is, what is refused for it, and the peak that is measured."""

import math
import subprocess
import sys

import numpy as np
import pytest

from minigam.config import InputError
from minigam.engine import backend, memory


def test_track_memory_sees_the_peak_and_not_what_was_there_before():
    before, megabyte = np.ones(250_000), 1_000_000
    with memory.track_memory(np) as taken:
        kept = np.ones(125_000)  # 1 MB
        np.ones(500_000).sum()  # 4 MB, freed again
    assert 5 * megabyte <= taken.peak_bytes < 5.1 * megabyte
    assert before.nbytes + kept.nbytes == 3 * megabyte


def test_track_memory_nests():
    with memory.track_memory(np) as outer:
        np.ones(250_000).sum()
        with memory.track_memory(np) as inner:
            np.ones(125_000).sum()
    assert 1_000_000 <= inner.peak_bytes < 1_100_000
    assert outer.peak_bytes >= inner.peak_bytes


@pytest.mark.gpu
def test_track_memory_on_a_gpu():
    cupy = backend.get("cupy")
    with memory.track_memory(cupy) as taken:
        cupy.ones(1_000_000)
    assert 8_000_000 <= taken.peak_bytes < 12_000_000


@pytest.mark.skipif(sys.platform != "linux", reason="needs a limit on the memory of a process")
def test_a_limit_on_the_process_is_the_memory_there_is():
    code = (
        "import resource, minigam.engine.memory as m; before = m.physical_memory(); "
        "resource.setrlimit(resource.RLIMIT_AS, (3 * 2**30,) * 2); print(before, m.physical_memory())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    before, limited = map(float, done.stdout.split())
    assert limited == min(before, 3 * 2**30)


@pytest.mark.parametrize(
    ("content", "limit"), [("max\n", math.inf), ("1073741824\n", 2**30), (None, math.inf)]
)
def test_the_limit_of_a_container_counts(content, limit, tmp_path, monkeypatch):
    path = tmp_path / "memory.max"
    if content is not None:
        path.write_text(content)
    monkeypatch.setattr(memory, "_installed_memory", lambda: 2.0**50)
    monkeypatch.setattr(memory, "_process_limit", lambda: math.inf)
    monkeypatch.setattr(memory, "Path", lambda name: path)
    assert memory.physical_memory() == min(2.0**50, limit)


def test_what_does_not_fit_is_refused_with_both_sizes(monkeypatch):
    monkeypatch.setattr(memory, "physical_memory", lambda name: 2 * memory.GIB)
    memory.require_memory("a", 2 * memory.GIB, "b")
    with pytest.raises(InputError) as e:
        memory.require_memory("7 rows", 3 * memory.GIB + 2**29, "fewer rows", "cupy")
    assert str(e.value) == "7 rows: at least 3.5 GiB of memory needed, the GPU has 2.0; choose fewer rows"


def test_sizes_are_brief():
    assert [memory.brief(n) for n in (1234, 0.5, 10**30)] == ["1,234", "0.5", "1.0e+30"]
