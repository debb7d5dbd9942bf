"""Validation: the loss by kind of token, in parts, beside its floor."""

import math

import pytest

from minigam.config import GAMConfig
from minigam.data.corpus import from_pocketstories
from minigam.models.gam import GAM
from minigam.training import step
from minigam.training.validation import evaluate


def test_evaluation_is_the_mean_over_targets_and_by_kind():
    corpus = from_pocketstories(128, n_train=4, n_valid=7)
    model = GAM(GAMConfig(vocab_size=len(corpus.tokenizer), block_size=128, d_model=8, n_layers=1, n_slots=4))
    result = evaluate(model, corpus, batch=3)
    assert result["tokens"] == (corpus.valid[:, 1:] >= 0).sum()
    kinds = result["kinds"]
    assert sum(kinds[k]["tokens"] for k in ("syntax", "choice", "recall")) == result["tokens"]
    for what in ("loss", "floor"):
        total = math.fsum(kinds[k][what] * kinds[k]["tokens"] for k in ("syntax", "choice", "recall"))
        assert total / result["tokens"] == pytest.approx(result[what])
    both = kinds["syntax+choice"]
    assert both["tokens"] == kinds["syntax"]["tokens"] + kinds["choice"]["tokens"]
    assert model.training  # put back
    assert evaluate(model, corpus, rows=2)["tokens"] == (corpus.valid[:2, 1:] >= 0).sum()


def test_evaluation_reads_a_long_row_in_parts_and_says_the_same(monkeypatch):
    corpus = from_pocketstories(128, n_train=8, n_valid=3)
    config = GAMConfig(vocab_size=len(corpus.tokenizer), block_size=128, d_model=8, n_layers=2, n_slots=4)
    model, found, shapes = GAM(config, dtype="float64"), [], []
    losses = model.token_losses
    monkeypatch.setattr(model, "token_losses", lambda *a: shapes.append(a[0].shape) or losses(*a))
    for widest in (10**9, 1):
        monkeypatch.setattr(step, "WIDEST", widest)
        found.append(evaluate(model, corpus, batch=1)["loss"])
    assert max(T for _, T in shapes) == 128 > min(T for _, T in shapes)
    assert found[0] == pytest.approx(found[1], rel=1e-13)
