"""Tables 1 and 3: what they measure, what they write, and that they resume if stopped."""

import json
import math
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
from helpers.tables import compare

from minigam.config import DataConfig, GAMConfig, InputError, TrainConfig
from minigam.data.pocketstories import vocabulary
from minigam.experiments import __main__ as command
from minigam.experiments import comparison, paper, report, training_cell
from minigam.training import loop, provenance, validation
from minigam.training.run import Run, RunConfig


def test_a_table_says_what_its_json_does(tmp_path, capsys):
    content = compare(tmp_path)
    text = (tmp_path / "table1.md").read_text()
    assert set(content["cells"]) == {"gam-seed0", "mamba-seed0", "gam-seed1", "mamba-seed1"}
    for name in ("experiment", "command", "seeds", "data"):
        assert name in content, name
    for cell in content["cells"].values():
        assert set(cell["result"]["measured"]) == {
            "commit", "versions", "machine", "backend", "device", "kernels", "compiler"
        }  # fmt: skip
    results = [content["cells"][f"gam-seed{s}"]["result"] for s in (0, 1)]
    losses = np.array([r["loss"] for r in results])
    assert f"| {losses.mean():.4f} ± {losses.std(ddof=1):.4f} |" in text
    assert f"| {np.exp(losses).mean():.2f} ± " in text
    recall_losses = np.array([r["kinds"]["recall"]["loss"] for r in results])
    assert f"{recall_losses.mean():.4f} ± " in text
    assert f"{results[0]['parameters']:,}" in text
    assert f"{content['ngrams']['trigram']['loss']:.4f}" in text
    assert f"{results[0]['floor']:.4f}" in text
    assert text.split("\nCommand:")[0] in capsys.readouterr().out
    assert (tmp_path / "table1.png").read_bytes().startswith(b"\x89PNG")


def test_a_table_keeps_its_curves(tmp_path):
    content = compare(tmp_path, seeds=[0])
    for name, cell in content["cells"].items():
        metrics = Run(tmp_path / "cells" / name).metrics()
        curve = cell["result"]["curve"]
        assert curve["train"] == [[m["step"], m["loss"]] for m in metrics if "lr" in m]
        assert curve["valid"][-1] == [3, cell["result"]["loss"]]
    assert (tmp_path / "table1_curves.png").read_bytes().startswith(b"\x89PNG")


def test_a_long_curve_is_kept_as_means():
    metrics = [{"step": n, "loss": float(n), "lr": 1.0} for n in range(1, 252)] + [{"step": 251, "loss": 7.0}]
    stored = training_cell.curve(metrics)
    assert len(stored["train"]) == 84
    assert stored["train"][:2] == [[3, 2.0], [6, 5.0]]
    assert stored["train"][-1] == [251, 250.5]
    assert stored["valid"] == [[251, 7.0]]


def test_each_cell_is_a_run_folder_like_any_other(tmp_path):
    content = compare(tmp_path, seeds=[1])
    run = Run(tmp_path / "cells" / "gam-seed1")
    again = validation.evaluate(run.load_model(), run.corpus())
    result = content["cells"]["gam-seed1"]["result"]
    assert result["loss"] == pytest.approx(again["loss"], rel=1e-6)
    seconds = [m["seconds"] for m in run.metrics() if "seconds" in m]
    assert result["seconds_per_epoch"] == pytest.approx(np.median(seconds) * 10)  # 40 rows, 4 a step


def test_a_finished_cell_is_not_run_again(tmp_path, monkeypatch):
    first = compare(tmp_path)
    monkeypatch.setattr(loop, "begin_step", None)  # any step would now fail
    monkeypatch.setattr(provenance, "commit", lambda: "another")  # each cell keeps its provenance
    assert compare(tmp_path)["cells"] == first["cells"]


def test_an_interrupted_table_resumes_to_the_same_result(tmp_path, monkeypatch, capsys):
    want = compare(tmp_path / "whole", seeds=[0])

    @contextmanager
    def immediately():
        yield lambda: True

    for _ in range(3):  # every call is interrupted after one more step
        with monkeypatch.context() as patch:
            patch.setattr(loop, "noticed", immediately)
            with pytest.raises(command.Interrupted):
                compare(tmp_path / "parts", seeds=[0])
    got = compare(tmp_path / "parts", seeds=[0])
    for name, cell in want["cells"].items():
        assert got["cells"][name]["result"]["kinds"] == cell["result"]["kinds"]


def test_results_of_other_settings_are_refused(tmp_path):
    compare(tmp_path, seeds=[0])
    with pytest.raises(
        InputError, match=r"gam-seed0: a run of other settings \(steps 3, now 4\); choose another --out"
    ):
        compare(tmp_path, seeds=[0], steps=4)


def test_a_cell_of_other_settings_is_refused_before_any_is_trained(tmp_path, monkeypatch):
    compare(tmp_path, lines=["mamba"], seeds=[0], steps=2)
    monkeypatch.setattr(comparison, "announce", None)  # it would fail
    with pytest.raises(InputError, match="mamba-seed0: a run of other settings"):
        compare(tmp_path, seeds=[0])


def test_a_finished_cell_does_not_read_its_metrics_again(tmp_path):
    first = compare(tmp_path, seeds=[0])
    (tmp_path / "cells" / "gam-seed0" / "metrics.jsonl").write_text("")
    assert compare(tmp_path, seeds=[0])["cells"] == first["cells"]


def test_a_cell_of_another_backend_is_refused(tmp_path):
    compare(tmp_path, lines=["gam"], seeds=[0])
    result, machine = (tmp_path / "cells" / "gam-seed0" / f"{name}.json" for name in ("result", "machine"))
    result.unlink()
    machine.write_text(json.dumps(json.loads(machine.read_text()) | {"backend": "cupy"}))
    with pytest.raises(
        InputError, match="started with --backend cupy, now numpy, wanted the same; give --ba"
    ):
        compare(tmp_path, lines=["gam"], seeds=[0])


def test_a_folder_of_prepared_data_may_have_moved(tmp_path):
    config = RunConfig("gam", GAMConfig(), DataConfig(), TrainConfig(), "0")
    moved = replace(config, data=replace(config.data, dataset="elsewhere"))
    assert training_cell._differences(config, moved) == ""
    other = replace(moved, corpus_sha256="1")
    assert training_cell._differences(config, other) == "corpus_sha256 0, now 1"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, ""),
        ({"verified": None}, "prepared from other files than the published ones (train t.txt, valid v.txt)"),
        ({"vocab_size": 2000}, "vocabulary was limited to 2,000 entries, not to 10,000"),
        ({"rows": [0, 100]}, "other rows than the paper's (train 0 to 100, valid 0 to the last)"),
    ],
)
def test_what_is_not_as_in_the_paper_is_said(changes, said):
    source = {
        "file": "t.txt",
        "verified": changes.get("verified", True),
        "rows": changes.get("rows", [0, 50_000]),
    }
    meta = {
        "sources": {"train": source, "valid": source | {"file": "v.txt", "rows": [0, None]}},
        "tokenizer": {"vocab_size": changes.get("vocab_size", 10_000)},
    }
    assert said in comparison._deviations(meta)
    assert bool(comparison._deviations(meta)) == bool(said)


def test_the_papers_numbers_stand_next_to_ours_on_its_data():
    ours = comparison._paper_table1("wikitext-2-prepared")
    assert ours["gam"] == ["22.6 M", "117.2", "6.7828", "882.57"]
    assert "mamba" not in ours  # the authors stacked it bare
    assert ours["mamba-bare"][3] == "1017.54"
    assert comparison._paper_table3("wikitext-2")["gated"] == [
        "22.6 M",
        "",
        f"{math.log(900.84):.4f}",
        "900.84",
    ]
    assert not comparison._paper_table1("pocketstories")
    assert not comparison._paper_table3("pocketstories")
    for rows in paper.TABLE1.values():  # loss and perplexity agree
        for _, _, loss, perplexity in rows.values():
            assert math.exp(loss) == pytest.approx(perplexity, rel=1e-3)


@pytest.mark.parametrize("scale", ["small", "published"])
def test_the_steps_of_a_scale(scale):
    lines = {"gam": comparison.TABLE1["gam"]}
    (cell,) = comparison.cells(lines, comparison.SCALES[scale], None, 1000, [3])
    assert cell.train.seed == 3
    steps = {"small": comparison.SCALES["small"].train["steps"], "published": math.ceil(5 * 1000 / 32)}
    assert cell.train.steps == steps[scale]
    (cell,) = comparison.cells(lines, comparison.SCALES[scale], 7, 1000, [3])
    assert cell.train.steps == 7


@pytest.mark.parametrize(("rows", "every"), [(1000, 32), (100_000, 500)])
def test_the_published_scale_validates_after_every_epoch_of_a_small_corpus(rows, every):
    lines = {"gam": comparison.TABLE1["gam"]}
    (cell,) = comparison.cells(lines, comparison.SCALES["published"], None, rows, [0])
    assert cell.train.eval_every == every


def test_the_small_scale_gives_all_models_the_same_number_of_parameters():
    sizes = {}
    for cell in comparison.cells(comparison.TABLE1, comparison.SCALES["small"], None, 1, [0]):
        model = replace(cell.model, vocab_size=len(vocabulary()))
        sizes[cell.name] = comparison.MODELS[cell.model_type](model).num_parameters()
    assert max(sizes.values()) <= 1.05 * min(sizes.values()), sizes


def test_tables_are_markdown():
    text = report.table(["model", "n"], [["GAM", "1"], ["Transformer", "22"]])
    assert text.splitlines() == [
        "| model       |  n |",
        "| ----------- | -: |",
        "| GAM         |  1 |",
        "| Transformer | 22 |",
    ]
