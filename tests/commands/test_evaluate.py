"""Evaluation: units that compare, n-grams on the same targets, and a command that refuses in one line."""

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
from helpers.commands import assert_refused, call

from minigam import evaluate, train
from minigam.config import GAMConfig
from minigam.data.corpus import TextSize, from_pocketstories, from_text
from minigam.data.ngram import NGram
from minigam.evaluate import evaluation, units
from minigam.files import read_arrays, write_arrays
from minigam.models.gam import GAM

FLAGS = [
    "--backend=numpy", "--d-model=8", "--n-layers=1", "--n-slots=4", "--batch-size=4", "--steps=2",
]  # fmt: skip


@pytest.fixture(scope="module")
def stories():
    return from_pocketstories(128, n_train=60, n_valid=8)


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("runs") / "stories"
    assert train.main([*FLAGS, "--stories=60", "--valid-stories=8", f"--out={path}"]) == 0
    return path


@pytest.fixture
def run(whole, tmp_path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "run"))


@pytest.fixture
def text(tmp_path) -> Path:
    path = tmp_path / "t.txt"
    path.write_text("Some text, long enough for a few blocks.\n" * 40)
    return path


def knows_nothing(corpus, block_size: int) -> GAM:
    """Return a model whose logits are all 0: every token has probability 1 / V."""
    model = GAM(
        GAMConfig(vocab_size=len(corpus.tokenizer), block_size=block_size, d_model=4, n_layers=1, n_slots=2)
    )
    for p in model.parameters():
        p.data[...] = 0.0
    return model


def test_units_by_hand():
    """A text of 6 tokens, 3 words, 24 bytes at 2 bits a token: 12 bits, 4 a word, half a one a byte."""
    measured = units(2 * math.log(2), TextSize(tokens=6, words=3, bytes=24))
    assert measured == {
        "loss": 2 * math.log(2),
        "perplexity": pytest.approx(4.0),
        "word_perplexity": pytest.approx(16.0),
        "bits_per_byte": pytest.approx(0.5),
    }


def test_tokenizers_compare_by_word_and_by_byte_alone():
    """Eight fair coins, told one by one or in pairs, are the same text to the same expert."""
    single = units(math.log(2), TextSize(tokens=8, words=2, bytes=8))
    pairs = units(math.log(4), TextSize(tokens=4, words=2, bytes=8))
    assert single["perplexity"] == pytest.approx(pairs["perplexity"] / 2)
    for name in ("word_perplexity", "bits_per_byte"):
        assert single[name] == pytest.approx(pairs[name])


def test_what_has_no_number_has_none():
    assert units(1.0, TextSize(tokens=3, words=0, bytes=3))["word_perplexity"] is None
    endless = units(5.0, TextSize(tokens=1000, words=1, bytes=3000))
    assert endless["word_perplexity"] is None
    result = {"model": "GAM", "results": {"GAM": endless, "unigram": endless}}
    assert evaluate.table(result).splitlines()[2].split() == ["GAM", "5.0000", "148.41", "-", "2.4045"]


def test_a_model_that_knows_nothing(stories):
    result = evaluation(knows_nothing(stories, 128), stories, order=4)
    counted, V = stories.valid[:, 1:] >= 0, len(stories.tokenizer)
    names = ["GAM", "4-gram", "trigram", "bigram", "unigram", "floor"]
    assert list(result["results"]) == names
    assert (result["rows"], result["tokens"]) == (8, counted.sum())
    own = result["results"]["GAM"]
    assert own["perplexity"] == pytest.approx(V, rel=1e-5)
    assert own["kinds"]["recall"] == pytest.approx(math.log(V), rel=1e-5)
    for order, name in ((4, "4-gram"), (2, "bigram"), (1, "unigram")):
        losses = NGram(stories.train, V, order).losses(stories.valid)
        assert result["results"][name]["loss"] == losses[counted].mean()
        assert result["results"][name]["kinds"]["choice"] == losses[counted & (stories.kinds == 1)].mean()
    floor = result["results"]["floor"]
    assert floor["loss"] == stories.floor[counted].mean()
    assert floor["kinds"]["syntax"] == floor["kinds"]["recall"] == 0.0 < floor["kinds"]["choice"]
    for r in result["results"].values():
        assert r == units(r["loss"], stories.valid_size) | {"kinds": r["kinds"]}
    assert "no better than n-grams" in evaluate.verdict(result)


def test_a_text_has_no_kinds_and_no_floor(text):
    corpus = from_text(text, block_size=16)
    result = evaluation(knows_nothing(corpus, 16), corpus, order=1)
    assert list(result["results"]) == ["GAM", "unigram"]
    assert "kinds" not in result["results"]["GAM"]
    assert result["tokens"] == 16 * len(corpus.valid)
    assert result["results"]["GAM"]["bits_per_byte"] == pytest.approx(
        math.log2(len(corpus.tokenizer)), rel=1e-5
    )


def test_a_sample_keeps_rows_kinds_and_floor_together(stories):
    for seed in range(3):
        some = evaluate._drawn(stories, 5, seed)
        place = [int(np.flatnonzero((stories.valid == row).all(axis=1))[0]) for row in some.valid]
        assert place == sorted(set(place))
        assert len(place) == 5
        np.testing.assert_array_equal(some.kinds, stories.kinds[place])
        np.testing.assert_array_equal(some.floor, stories.floor[place])


def test_samples_are_the_seeds(stories):
    model = knows_nothing(stories, 128)
    results = [evaluation(model, stories, 1, rows=4, seed=seed) for seed in (1, 1, 2)]
    assert results[0] == results[1]
    assert results[0]["rows"] == 4
    assert results[0]["results"]["unigram"] != results[2]["results"]["unigram"]
    assert evaluation(model, stories, 1, rows=99) == evaluation(model, stories, 1)


def test_the_verdict_names_the_best_of_the_ngrams():
    losses = {"GAM": 1.5, "trigram": 2.5, "bigram": 2.0, "unigram": 3.0, "floor": 1.0}
    result = {"model": "GAM", "results": {name: {"loss": loss} for name, loss in losses.items()}}
    told = "The GAM predicts better than n-grams do: 1.5000 nats per token against 2.0000 of the bigram."
    assert evaluate.verdict(result) == told
    result["results"]["GAM"]["loss"] = 2.2  # better than the longest n-grams, worse than the best
    assert "no better than n-grams do: 2.2000 nats per token against 2.0000" in evaluate.verdict(result)


def test_the_command_prints_and_writes_the_same_numbers(run, tmp_path, capsys):
    file = tmp_path / "numbers.json"
    code, out, err = call(evaluate.main, [run, "--backend=numpy", f"--json={file}"], capsys)
    assert (code, err) == (0, "")
    written = json.loads(file.read_text())
    assert (written["run"], written["model"], written["rows"]) == (str(run), "GAM", 8)
    told = {line.split()[0]: line.split()[1:] for line in out.splitlines() if line}
    for name, r in written["results"].items():
        assert told[name][0] == f"{r['loss']:.4f}"
        assert told[name][3:] == [f"{x:.4f}" for x in (r["bits_per_byte"], *r["kinds"].values())]
    assert out.endswith(evaluate.verdict(written) + "\n")


def test_the_loss_is_that_of_the_end_of_training(run, tmp_path, capsys):
    """The last line of metrics.jsonl is the whole validation, by the same weights."""
    last = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
    evaluate.main([str(run), "--backend=numpy", f"--json={tmp_path / 'n.json'}"])
    own = json.loads((tmp_path / "n.json").read_text())["results"]["GAM"]
    assert own["loss"] == pytest.approx(last["loss"], rel=1e-12)
    assert own["kinds"]["recall"] == pytest.approx(last["kinds"]["recall"]["loss"], rel=1e-12)


@pytest.mark.parametrize(
    ("flags", "wanted"),
    [
        (["--rows=-1"], ["--rows is -1, wanted at least 1"]),
        (["--rows=0"], ["--rows is 0"]),
        (["--rows=few"], ["--rows", "'few'"]),
        (["--order=0"], ["--order is 0, wanted at least 1"]),
        (["--order=130"], ["--order is 130, wanted at most 129"]),
        (["--seed=-1"], ["--seed is -1"]),
        (["--json=nowhere/n.json"], ["nowhere/n.json", "a folder that exists"]),
        (["--json=."], ["--json .", "wanted a file"]),
        (["--row=3"], ["did you mean --rows"]),
    ],
)
def test_flags_it_refuses(flags, wanted, whole, capsys):
    assert_refused(evaluate.main, [whole, "--backend=numpy", *flags], capsys, *wanted)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:100])


def fill_with_nan(path: Path) -> None:
    arrays, metadata = read_arrays(path, "model")
    write_arrays(path, "model", {name: np.full_like(a, np.nan) for name, a in arrays.items()}, metadata)


@pytest.mark.parametrize(
    ("file", "damage", "wanted"),
    [
        ("model.safetensors", Path.unlink, "wanted a safetensors file that a training run wrote"),
        ("model.safetensors", truncate, "model.safetensors: damaged"),
        ("model.safetensors", fill_with_nan, "the loss is nan"),
        ("config.json", Path.unlink, "config.json"),
        ("config.json", truncate, "config.json: damaged"),
        ("tokenizer.json", truncate, "belongs to another tokenizer.json"),
        (
            "tokenizer.json",
            lambda p: p.write_text('{"kind": "char", "vocabulary": ["a"]}'),
            "belongs to another tokenizer.json",
        ),
    ],
)
def test_damaged_runs_are_refused(file, damage, wanted, run, capsys):
    damage(run / file)
    assert_refused(evaluate.main, [run, "--backend=numpy"], capsys, str(run), wanted)


def test_folders_that_are_no_run_are_refused(tmp_path, capsys):
    assert_refused(evaluate.main, [tmp_path / "nowhere"], capsys, "nowhere", "not a folder")
    assert_refused(evaluate.main, [tmp_path], capsys, "config.json")


def test_changed_data_is_refused(text, tmp_path, capsys):
    path = tmp_path / "run"
    assert train.main([*FLAGS, f"--text={text}", "--block-size=16", f"--out={path}"]) == 0
    assert evaluate.main([str(path), "--backend=numpy"]) == 0
    capsys.readouterr()
    text.write_text(text.read_text().replace("Some text", "Some texts"))  # the same characters
    assert_refused(evaluate.main, [path, "--backend=numpy"], capsys, "the data of this run has changed")
    text.unlink()
    assert_refused(evaluate.main, [path, "--backend=numpy"], capsys, "t.txt", "No such file")
