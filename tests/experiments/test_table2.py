"""Table 2: a block of each model, measured at growing lengths."""

import json
import math

import numpy as np
import pytest

from minigam.config import InputError
from minigam.experiments import scaling


def test_the_exponent_of_a_power_law_is_found():
    lengths = [8, 16, 64]
    assert scaling.exponent(lengths, [3.0 * T**1.7 for T in lengths]) == pytest.approx(1.7)


def measured(tmp_path, lengths=(8, 16, 32), **changes):
    arguments = {"models": ["gam", "transformer", "mamba"], "repeats": 2, "limit_gib": 1.0, "seed": 0}
    scaling.table2("small", list(lengths), **(arguments | changes), out=tmp_path, backend="numpy")
    return json.loads((tmp_path / "table2.json").read_text())


def test_table2_measures_every_cell_once(tmp_path, monkeypatch):
    content = measured(tmp_path)
    for cells in content["cells"].values():
        for cell in cells.values():
            assert 0.0 < cell["fastest_ms"] <= cell["time_ms"] <= cell["slowest_ms"]
            assert cell["peak_mib"] > 0.0
    gam = content["cells"]["gam"]
    lengths, values = [8, 16, 32], [gam[T]["peak_mib"] for T in ("8", "16", "32")]
    assert content["exponents"]["gam"]["peak_mib"] == pytest.approx(scaling.exponent(lengths, values))
    assert f"{gam['32']['time_ms']:.1f}" in (tmp_path / "table2.md").read_text()
    assert (tmp_path / "table2.png").read_bytes().startswith(b"\x89PNG")
    monkeypatch.setattr(scaling, "measure", pytest.fail)
    assert measured(tmp_path)["cells"] == content["cells"]
    with pytest.raises(InputError, match="holds other settings"):
        measured(tmp_path, repeats=3)


def test_a_length_that_would_not_fit_into_memory_is_left_out(tmp_path):
    content = measured(tmp_path, (8, 16, 512, 1024), models=["transformer"], limit_gib=0.001)
    cells = content["cells"]["transformer"]
    assert cells["16"]["time_ms"] is not None
    assert cells["512"]["time_ms"] is None
    assert cells["1024"]["time_ms"] is None  # longer than one that was left out
    json.loads((tmp_path / "table2.json").read_text(), parse_constant=pytest.fail)  # no Infinity
    assert "left out" in (tmp_path / "table2.md").read_text()


@pytest.mark.parametrize("error", [MemoryError, RuntimeError("CUBLAS_STATUS_ALLOC_FAILED")])
def test_running_out_of_memory_is_a_result(error, tmp_path, monkeypatch):
    def full(block):
        raise error

    monkeypatch.setattr(scaling.Block, "step", full)
    content = measured(tmp_path, (8,), models=["gam"])
    assert content["cells"]["gam"]["8"]["time_ms"] is None


def test_another_error_is_none(tmp_path, monkeypatch):
    def fail(block):
        raise RuntimeError("CUBLAS_STATUS_EXECUTION_FAILED")

    monkeypatch.setattr(scaling.Block, "step", fail)
    with pytest.raises(RuntimeError, match="EXECUTION_FAILED"):
        measured(tmp_path, (8,), models=["gam"])


def test_the_peak_is_that_of_one_step_and_leaves_no_gradient(monkeypatch):
    block, before = scaling.Block("gam", scaling.SCALES["small"], 8, "numpy"), []
    real, leaves = scaling.track_memory, [block.x, *block.block.parameters()]

    def track(xp):
        before.extend(leaf.grad for leaf in leaves)
        return real(xp)

    monkeypatch.setattr(scaling, "track_memory", track)
    block.step()
    assert block.peak_bytes() > 0
    assert {*before, *(leaf.grad for leaf in leaves)} == {None}


def test_the_paper_is_quoted_where_it_has_a_number_and_not_elsewhere():
    cell = {"time_ms": 1.0, "peak_mib": 1.0}
    results = {"transformer": {128: cell, 256: cell, 4096: cell}}
    text = scaling._markdown("published", scaling.SCALES["published"], results, {"transformer": {}}, 1.0)
    line = next(x for x in text.splitlines() if x.startswith("| paper: Transformer, mixed precision "))
    assert [c.strip() for c in line.split("|")[2:5]] == ["", "8.9", "out of memory"]


def test_memory_is_extrapolated_as_a_power_law():
    cells = {8: {"peak_mib": 1.0}, 16: {"peak_mib": 4.0}}
    assert scaling.foreseen(cells, 64) == pytest.approx(64.0)
    assert scaling.foreseen({}, 64) == 0.0
    assert scaling.foreseen(cells | {32: {"peak_mib": None}}, 64) == math.inf


def test_a_block_runs_forward_and_backward():
    block = scaling.Block("gam", scaling.SCALES["small"], 8, "numpy")
    block.step()
    assert block.x.grad.shape == (2, 8, 256)
    assert all(p.grad is not None and p.data.dtype == np.float32 for p in block.block.parameters())
