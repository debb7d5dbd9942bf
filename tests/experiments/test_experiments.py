"""The experiments as commands: what they measure, what they write, and that they resume if stopped."""

import json
import math
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
from helpers import tiny
from helpers.commands import assert_refused

from minigam import Mamba, MambaConfig, Transformer, TransformerConfig, cli, evaluate, generate
from minigam.config import DataConfig, GAMConfig, InputError, TrainConfig
from minigam.data.corpus import inputs_and_targets
from minigam.data.mqar import from_mqar
from minigam.data.pocketstories import vocabulary
from minigam.experiments import __main__ as command
from minigam.experiments import comparison, paper, reach, recall, report, scaling, training_cell
from minigam.training import loop, provenance, validation
from minigam.training.run import Run, RunConfig
from minigam.training.step import NonFinite

DATA = DataConfig(stories=40, valid_stories=6)
SMALL = comparison.Scale(
    {"block_size": 128, "d_model": 8, "n_layers": 1, "dropout": 0.0},
    {"batch_size": 4, "steps": 3, "lr": 1e-2, "warmup_steps": 1, "eval_every": 2, "checkpoint_every": 2},
    {"gam": {"n_slots": 4}, "transformer": {"n_heads": 2}, "mamba": {"expand": 2, "d_state": 2}},
    {"mamba": {"lr": 2e-2}},
)


SMALL_RUN = RunConfig("gam", GAMConfig(), DataConfig(), TrainConfig(), "0")


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setitem(comparison.SCALES, "small", SMALL)


def compare(out, lines=("gam", "mamba"), **changes):
    chosen = {name: comparison.TABLE1[name] for name in lines}
    arguments = {
        "scale": "small",
        "data": DATA,
        "steps": None,
        "seeds": [0, 1],
        "out": out,
        "backend": "numpy",
        "download": None,
    }
    comparison.compare("table1", chosen, **(arguments | changes))
    return json.loads((out / "table1.json").read_text())


# ------------------------------------------------------------------------------- tables 1 and 3


def test_a_table_says_what_its_json_does(small, tmp_path, capsys):
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


def test_a_table_keeps_its_curves(small, tmp_path):
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


def test_each_cell_is_a_run_folder_like_any_other(small, tmp_path):
    content = compare(tmp_path, seeds=[1])
    run = Run(tmp_path / "cells" / "gam-seed1")
    again = validation.evaluate(run.load_model(), run.corpus())
    result = content["cells"]["gam-seed1"]["result"]
    assert result["loss"] == pytest.approx(again["loss"], rel=1e-6)
    seconds = [m["seconds"] for m in run.metrics() if "seconds" in m]
    assert result["seconds_per_epoch"] == pytest.approx(np.median(seconds) * 10)  # 40 rows, 4 a step


def test_a_finished_cell_is_not_run_again(small, tmp_path, monkeypatch):
    first = compare(tmp_path)
    monkeypatch.setattr(loop, "begin_step", None)  # any step would now fail
    monkeypatch.setattr(provenance, "commit", lambda: "another")  # each cell keeps its provenance
    assert compare(tmp_path)["cells"] == first["cells"]


def test_an_interrupted_table_resumes_to_the_same_result(small, tmp_path, monkeypatch, capsys):
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


def test_results_of_other_settings_are_refused(small, tmp_path):
    compare(tmp_path, seeds=[0])
    with pytest.raises(
        InputError, match=r"gam-seed0: a run of other settings \(steps 3, now 4\); choose another --out"
    ):
        compare(tmp_path, seeds=[0], steps=4)


def test_a_cell_of_other_settings_is_refused_before_any_is_trained(small, tmp_path, monkeypatch):
    compare(tmp_path, lines=["mamba"], seeds=[0], steps=2)
    monkeypatch.setattr(comparison, "announce", None)  # it would fail
    with pytest.raises(InputError, match="mamba-seed0: a run of other settings"):
        compare(tmp_path, seeds=[0])


def test_a_finished_cell_does_not_read_its_metrics_again(small, tmp_path):
    first = compare(tmp_path, seeds=[0])
    (tmp_path / "cells" / "gam-seed0" / "metrics.jsonl").write_text("")
    assert compare(tmp_path, seeds=[0])["cells"] == first["cells"]


def test_a_cell_of_another_backend_is_refused(small, tmp_path):
    compare(tmp_path, lines=["gam"], seeds=[0])
    result, machine = (tmp_path / "cells" / "gam-seed0" / f"{name}.json" for name in ("result", "machine"))
    result.unlink()
    machine.write_text(json.dumps(json.loads(machine.read_text()) | {"backend": "cupy"}))
    with pytest.raises(
        InputError, match="started with --backend cupy, now numpy, wanted the same; give --ba"
    ):
        compare(tmp_path, lines=["gam"], seeds=[0])


def test_a_folder_of_prepared_data_may_have_moved(tmp_path):
    config = SMALL_RUN
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


# ------------------------------------------------------------------------------------- table 2


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


# -------------------------------------------------------------------------------- recall, reach


def test_accuracy_by_distance_counts_every_query():
    corpus = from_mqar(32, 1, n_pairs=4, n_keys=6, n_valid=30)
    correct = np.random.default_rng(0).random(120) < 0.5
    curve = recall.by_distance(correct, corpus)
    assert sum(c["queries"] for c in curve.values()) == 120
    assert recall.between(curve, 1, 99) == (pytest.approx(correct.mean()), 120)
    near, far = recall.between(curve, 1, 9), recall.between(curve, 10, 99)
    assert near[0] * near[1] + far[0] * far[1] == pytest.approx(correct.sum())
    assert recall.between(curve, 98, 99) == (0.0, 0)


@pytest.mark.parametrize("reach", [None, 9])
def test_guessing_takes_any_value_in_the_receptive_field(reach):
    corpus = from_mqar(32, 1, n_pairs=4, n_keys=6, n_valid=30)
    want = []
    for tokens, targets in zip(*inputs_and_targets(corpus.valid), strict=True):
        for t in np.flatnonzero(targets >= 0):
            field = tokens[max(0, t + 1 - reach) if reach else 0 : t + 1]
            values = [v for v in field if v > 6]
            want.append(values.count(targets[t]) / len(values) if values else 1 / 6)
    np.testing.assert_allclose(recall.guesses(corpus, reach), want)


def test_answers_are_judged_by_the_likeliest_token():
    corpus = from_mqar(32, 1, n_pairs=4, n_keys=6, n_valid=7)
    inputs, answers = inputs_and_targets(corpus.valid)

    class Oracle:
        """Recognises each row by its pairs, and is wrong in row 0."""

        def __call__(self, ids):
            logits = np.zeros((*ids.shape, 13))
            for row, one in zip(logits, ids, strict=True):
                i = int((inputs == one).all(axis=1).argmax())
                row[np.arange(len(row)), np.maximum(answers[i], 0) if i else 0] = 1.0
            return type("Out", (), {"data": logits})

    correct = recall.answers(Oracle(), corpus, batch=3)
    assert list(correct) == [False] * 4 + [True] * 24


def test_recall_writes_its_three_files(tmp_path, capsys):
    recall.recall(["gam", "transformer"], 2, 0, "numpy", tmp_path)
    content = json.loads((tmp_path / "recall.json").read_text())
    gam = content["cells"]["gam"]
    assert gam["result"]["reach"] == 1 + gam["model"]["n_layers"] * (gam["model"]["kernel_size"] - 1)
    assert f"{gam['accuracy']:.1%}" in (tmp_path / "recall.md").read_text()
    assert (tmp_path / "recall.png").read_bytes().startswith(b"\x89PNG")
    capsys.readouterr()
    run = tmp_path / "cells" / "gam-seed0"  # not a text: n-grams and an empty prompt mean nothing
    assert_refused(evaluate.main, [run, "--backend=numpy"], capsys, "trained on mqar, wanted a run on text")
    assert_refused(generate.main, [run, "--backend=numpy"], capsys, "--prompt")


def test_the_models_of_recall_have_the_same_number_of_parameters():
    sizes = [
        recall.MODELS[line.model_type](
            recall.MODELS[line.model_type].Config(
                vocab_size=1 + 2 * recall.KEYS, **(recall.SHARED | line.changes)
            )
        ).num_parameters()
        for line in recall.LINES.values()
    ]
    assert max(sizes) <= 1.05 * min(sizes), sizes


def test_gam_depends_on_its_receptive_field_and_on_nothing_else():
    model = tiny.gam(block_size=16, n_layers=2, kernel_size=3)
    ids = tiny.draw_ids(model, 3, 16)
    moved = reach.influence(model, ids, ids)
    assert model.reach == 5
    assert min(moved["largest"][:5]) > 0.0
    assert max(moved["largest"][5:]) == 0.0
    assert reach.seen(moved["largest"]) == 5
    assert all(m <= x for m, x in zip(moved["mean"], moved["largest"], strict=True))


@pytest.mark.parametrize(
    ("Model", "Config"),
    [(Transformer, TransformerConfig), (Mamba, MambaConfig)],
    ids=["Transformer", "Mamba"],
)
def test_the_baselines_depend_on_every_token(Model, Config):
    rest = {"n_heads": 2} if Model is Transformer else {"d_state": 2}
    config = Config(vocab_size=7, block_size=9, d_model=6, n_layers=1, **rest)
    model = tiny.randomise(Model(config, dtype="float64")).eval()
    ids = tiny.draw_ids(model, 2, 9)
    assert reach.seen(reach.influence(model, ids, ids)["largest"]) == 9


def test_predictions_without_a_target_are_not_counted():
    model = tiny.gam(block_size=8)
    ids = tiny.draw_ids(model, 2, 8)
    moved = reach.influence(model, ids, np.full_like(ids, -1))
    assert reach.seen(moved["largest"]) == 0


def test_reach_reads_every_run_once(small, tmp_path, monkeypatch):
    compare(tmp_path, ("gam", "mamba"), seeds=[0])
    runs = [tmp_path / "cells" / "gam-seed0", tmp_path / "cells" / "mamba-seed0"]
    reach.reach([Run(path) for path in runs], 4, 0, "numpy", tmp_path / "reach")
    with monkeypatch.context() as patch:
        patch.setattr(reach, "influence", None)  # everything is measured already: a call would fail
        reach.reach([Run(path) for path in runs], 4, 0, "numpy", tmp_path / "reach")
    content = json.loads((tmp_path / "reach" / "reach.json").read_text())
    assert content["runs"]["GAM"]["measured_reach"] == content["runs"]["GAM"]["reach"] == 3
    assert content["runs"]["Mamba"]["measured_reach"] > 3
    assert (tmp_path / "reach" / "reach.png").read_bytes().startswith(b"\x89PNG")
    assert "1 + L (K - 1)" in (tmp_path / "reach" / "reach.md").read_text()


# --------------------------------------------------------------------------------- the command


@pytest.mark.parametrize(
    ("flags", "wanted"),
    [
        (["table9"], ["'table9'", "table1"]),
        ([], ["EXPERIMENT"]),
        (["table1", "--scale=huge"], ["'huge'", "small"]),
        (["table1", "--steps=0"], ["--steps is 0, wanted at least 1"]),
        (["table1", "--seeds", "0", "-1"], ["--seeds is -1, wanted at least 0"]),
        (["table1", "--models", "rnn"], ["'rnn'", "mamba-bare"]),
        (["table2", "--lengths", "0"], ["--lengths is 0, wanted at least 1"]),
        (["table2", "--memory=nan"], ["--memory is nan"]),
        (["recall", "--stepz=3"], ["--stepz=3", "did you mean --steps"]),
        (["reach", "/nowhere"], ["/nowhere", "not a folder"]),
        (["table1", "--dataset=mqar"], ["mqar: no prepared dataset"]),
        (["recall", "--out=README.md"], ["--out README.md", "not a writable folder"]),
        (["reach"], ["RUN"]),
    ],
)
def test_wrong_input_is_one_line(flags, wanted, capsys):
    backend = ["--backend=numpy"] if flags and "table9" not in flags else []
    assert_refused(command.main, [*flags, *backend], capsys, *wanted)


@pytest.mark.parametrize("exception", [command.Interrupted, KeyboardInterrupt])
def test_an_interrupt_says_how_to_resume(exception, monkeypatch, capsys, tmp_path):
    def interrupted(*args):
        raise exception

    monkeypatch.setattr(command.recall, "recall", interrupted)
    with pytest.raises(SystemExit) as exit:
        cli.run(lambda: command.main(["recall", "--backend=numpy", f"--out={tmp_path}"]), "command")
    assert exit.value.code == 130
    assert "run the same command again to resume" in capsys.readouterr().err


def test_a_loss_that_is_nan_says_what_to_do(monkeypatch, capsys, tmp_path):
    def diverged(*args):
        raise NonFinite("step 3: loss nan")

    monkeypatch.setattr(command.recall, "recall", diverged)
    assert command.main(["recall", "--backend=numpy", f"--out={tmp_path}"]) == 1
    assert (
        "step 3: loss nan; leave this model out with --models, or choose another seed"
        in capsys.readouterr().err
    )


def test_tables_are_markdown():
    text = report.table(["model", "n"], [["GAM", "1"], ["Transformer", "22"]])
    assert text.splitlines() == [
        "| model       |  n |",
        "| ----------- | -: |",
        "| GAM         |  1 |",
        "| Transformer | 22 |",
    ]
