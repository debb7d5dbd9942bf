"""The counted baseline of the paper's corpus: losses that are known beforehand, the paper's row length."""

import json
import math
import shutil

import numpy as np
import pytest
from helpers.commands import assert_refused

from benchmarks import ngrams
from minigam.data import __main__ as data
from minigam.data.corpus import from_prepared
from minigam.experiments import paper

pytest.importorskip("tokenizers", reason="needs tokenizers (the extra `data`)")


@pytest.fixture
def prepared(tmp_path):
    """Prepare a text in which a word names the next one, so that a bigram knows more than a unigram."""
    order = np.random.default_rng(0)
    pairs = [("red", "fox"), ("grey", "owl"), ("old", "bear")]
    lines = [" ".join(w for i in order.integers(3, size=20) for w in pairs[i]) for _ in range(600)]
    (tmp_path / "text.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    folder = tmp_path / "pairs"
    arguments = ["wikitext-2", "--train", str(tmp_path / "text.txt"), "--out", str(folder)]
    assert data.main(["prepare", *arguments]) == 0
    return folder


def test_a_bigram_knows_the_second_word_of_a_pair(prepared, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(ngrams, "ROW", 32)
    assert ngrams.main([str(prepared), "--out", str(tmp_path / "out")]) == 0
    stored = json.loads((tmp_path / "out" / "ngrams.json").read_text(encoding="utf-8"))["corpora"]["pairs"]
    losses = {name: m["loss"] for name, m in stored["ngrams"].items()}
    end, word, pair = 1 / 41, 40 / 41 / 6, 19 / 20 / 3  # a document is 40 words and its end
    unigram = -end * math.log(end) - 6 * word * math.log(word)
    after_a_pair = -math.log(1 / 20) / 20 - 3 * pair * math.log(pair)
    assert losses["unigram"] == pytest.approx(unigram, abs=0.02)
    assert losses["bigram"] == pytest.approx(20 / 41 * after_a_pair + end * math.log(3), abs=0.03)
    assert stored["train_tokens"] == from_prepared(prepared, 32).train[:, 1:].size
    text = (tmp_path / "out" / "ngrams.md").read_text(encoding="utf-8")
    for loss in losses.values():
        assert f" {math.exp(loss):,.1f} |" in text
    for row in paper.TABLE1["wikitext-2"].values():
        assert str(row[3]) in text


def test_two_folders_of_one_name_are_refused_before_anything_is_counted(
    prepared, tmp_path, capsys, monkeypatch
):
    shutil.copytree(prepared, tmp_path / "other" / prepared.name)
    monkeypatch.setattr(ngrams, "counted", None)  # it would fail
    folders = [str(prepared), str(tmp_path / "other" / prepared.name)]
    assert_refused(ngrams.main, folders, capsys, "folders are called pairs, pairs", "rename one")
