"""Recall by distance, and how far back a prediction depends on a token."""

import json

import numpy as np
import pytest
from helpers import tiny
from helpers.commands import assert_refused
from helpers.tables import compare

from minigam import Mamba, MambaConfig, Transformer, TransformerConfig, evaluate, generate
from minigam.data.corpus import inputs_and_targets
from minigam.data.mqar import from_mqar
from minigam.experiments import reach, recall
from minigam.training.run import Run


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


def test_reach_reads_every_run_once(tmp_path, monkeypatch):
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
