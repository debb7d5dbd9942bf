"""The benchmark of ranks, and the prediction for many of them."""

import json
import math
import shutil
import sys
from dataclasses import replace

import pytest
from helpers import mpi, tiny
from helpers.bench import needs_torch
from helpers.commands import assert_refused, call

from benchmarks import measure, ranks, ranks_model
from benchmarks.train_step import CONFIGS, Size
from minigam import GAMConfig

TINY = Size(GAMConfig(**tiny.TINY), 8, 1, 2, autograd=False)
ETHERNET = "Ethernet, 10 Gb/s"


def test_a_worker_without_others_sends_nothing():
    result = ranks.work(TINY.model.to_dict(), batch=8, warm_up=1, steps=2, leaves=8)
    assert result["sent_bytes"] == 0
    assert len(result["times"]) == 2
    assert len(result["peak_mib_by_rank"]) == 1


@needs_torch
def test_ranks_send_what_a_sum_needs_at_least(tmp_path, monkeypatch, capsys):
    mpi.require("mpich")
    monkeypatch.setattr(ranks, "CONFIGS", {"small": TINY})
    monkeypatch.setattr(ranks, "LONG", replace(ranks.LONG, d_model=4))
    assert ranks.main(["--config=small", "--ranks=2", "--pairs=1", "--long=400", f"--out={tmp_path}"]) == 0
    content = json.loads((tmp_path / "ranks.json").read_text())
    summary = content["configs"]["small"]["summary"]
    gradient = 4 * ranks.GAM(TINY.model).num_parameters()
    loss = 4  # the loss is summed too, by one rank of the two
    assert summary["2 ranks, the same batch"]["sent_bytes"] == pytest.approx(gradient, abs=loss + 4)
    assert summary["2 ranks, --shard-optimizer"]["sent_bytes"] == pytest.approx(1.5 * gradient, abs=loss + 8)
    assert summary["2 ranks, the same batch"]["threads"] == summary["1 process, 1 thread"]["threads"] == 1
    assert [len(r["peak_mib_by_rank"]) for r in content["long"]["rows"].values()] == [4, 4]
    assert "| 400 tokens" in capsys.readouterr().out
    assert (tmp_path / "ranks.png").read_bytes().startswith(b"\x89PNG")


def test_what_cannot_be_measured_is_refused(tmp_path, monkeypatch, capsys):
    assert_refused(ranks.main, ["--ranks=1"], capsys, "--ranks is 1, wanted at least 2")
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    with pytest.raises(ranks.InputError, match="mpiexec is not installed"):
        ranks.mpiexec(2)


def test_waiting_is_the_formula_of_the_docstring():
    G, g, k, c, N = 90e6, 20e6, 25, 0.05, 64
    w, a = ranks_model.LINKS[ETHERNET]

    def s(b):
        return 2 * (N - 1) / N * b / w + 2 * math.log2(N) * a

    hidden = s(G - g) + 2 * (k - 2) * math.log2(N) * a - 2 / 3 * c
    wanted = s(g) + max(0.0, hidden) + math.log2(N) * a
    assert ranks_model.exposed(N, G, g, k, c, ETHERNET) == pytest.approx(wanted, rel=1e-12)
    assert hidden > 0.0  # else the formula would not be tried
    assert ranks_model.exposed(N, G, g, k, 10.0, ETHERNET) < wanted


def test_more_ranks_or_a_slower_link_never_predict_more():
    lines = ranks_model.predict(1e12, 1e14, 90e6, 20e6, 25)
    for link in ranks_model.LINKS:
        for what in ("weak", "strong"):
            falling = [line[what] for line in lines if line["link"] == link]
            assert falling == sorted(falling, reverse=True)
            assert all(0.0 < x < 1.0 for x in falling)
    of_eight = [line["weak"] for line in lines if line["ranks"] == 8]
    assert of_eight == sorted(of_eight, reverse=True)


def test_linear_until_is_the_last_number_that_is_linear():
    model = 1e12, 1e13, 90e6, 20e6, 25
    link = next(iter(ranks_model.LINKS))
    N = ranks_model.linear_until(*model, link)
    each = model[0] / model[1]

    def efficiency(n: int) -> float:
        return each / n / (each / n + ranks_model.exposed(n, *model[2:], each / n, link))

    assert efficiency(2 * N) < ranks_model.LINEAR
    assert N == 1 or efficiency(N) >= ranks_model.LINEAR


def test_the_prediction_reads_what_was_measured(tmp_path, capsys):
    code, _, err = call(ranks_model.main, [f"--out={tmp_path}"], capsys)
    assert code == 2
    assert "run python -m benchmarks.ranks" in err
    shutil.copy(measure.RESULTS / "ranks" / "ranks.json", tmp_path)
    assert ranks_model.main(["--tflops=50", f"--out={tmp_path}"]) == 0
    content = json.loads((tmp_path / "ranks_model.json").read_text())
    assert content["flop_per_second"] == 5e13
    gradient = 4 * ranks_model.GAM(CONFIGS["published"].model).num_parameters()
    assert content["gradient_bytes"] == pytest.approx(gradient, rel=1e-6)
