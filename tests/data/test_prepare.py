"""From rows of text to a folder that trains: what is read, what is written, what is refused."""

import hashlib
import tracemalloc
from importlib.util import find_spec

import numpy as np
import pytest
from helpers.commands import assert_refused, call
from helpers.prepared import ROWS, meta_of, tokenizer_of, tokens_of, write_parquet

from minigam import files, generate, train
from minigam.config import InputError
from minigam.data import __main__ as data
from minigam.data import corpus, datasets, prepare
from minigam.data.tokenizer import PaperTokenizer
from minigam.training.run import Run

if find_spec("tokenizers") is None or find_spec("pyarrow") is None:
    pytest.skip("the extra `data` is not installed", allow_module_level=True)


def test_every_row_with_text_becomes_a_document(folder):
    made = tokenizer_of(folder)
    for split in ("train", "valid"):
        texts = [text for row in ROWS[split] if (text := row.strip())]
        expected = [i for text in texts for i in [*made.encode(text), made.end]]
        assert tokens_of(folder, split).tolist() == expected
    assert made.decode(tokens_of(folder, "train"))[:60].startswith(
        '= Foxes =\n\nThe fox said, "I am red."\n\nThe'
    )


def test_meta_says_where_the_tokens_come_from(root, folder):
    meta, valid = meta_of(folder), tokens_of(folder, "valid")
    assert {p.name for p in folder.iterdir()} == {"train.bin", "valid.bin", "tokenizer.json", "meta.json"}
    assert (meta["format"], meta["dataset"], meta["dtype"]) == ("minigam prepared 2", "tiny", "uint16")
    assert set(meta["sources"]) == {"train", "valid"}
    for split, source in meta["sources"].items():
        digest = hashlib.sha256((root / "tiny" / f"{split}.parquet").read_bytes()).hexdigest()
        rows = [0, {"train": 50_000, "valid": 5_000}[split]]
        wanted = {"file": f"{split}.parquet", "sha256": digest, "verified": True, "rows": rows}
        assert source == wanted
    for name, file in meta["files"].items():
        content = (folder / name).read_bytes()
        assert file == {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    counted = meta["splits"]["valid"]
    assert (counted["rows"], counted["documents"], counted["tokens"]) == (24, 16, len(valid))
    assert counted["words"] == 8 * (4 + 1)
    assert counted["bytes"] == 8 * (len("A red cat .\n") + len("Ünknown\n".encode()))
    assert counted["unknown"] == (valid == tokenizer_of(folder).unknown).sum() > 0  # Ü, k and w are new
    assert counted["unknown_share"] == counted["unknown"] / len(valid)
    assert meta["splits"]["train"]["unknown"] == 0
    assert meta["tokenizer"] == {
        "kind": "paper", "vocab_size": 120, "entries": len(tokenizer_of(folder)), "trained_on": ["train"]
    }  # fmt: skip
    assert meta["versions"]["tokenizers"]


def test_the_same_rows_give_the_same_bytes(command, folder, tmp_path):
    assert data.main([*command, f"--out={tmp_path / 'again'}"]) == 0
    assert meta_of(tmp_path / "again") == meta_of(folder)


def test_the_first_rows_are_taken_and_empty_ones_count(command, root):
    assert data.main([*command, "--train-rows=4", "--valid-rows=2"]) == 0
    splits = meta_of(root / "tiny-prepared")["splits"]
    assert [splits[s]["rows"] for s in ("train", "valid")] == [4, 2]
    assert [splits[s]["documents"] for s in ("train", "valid")] == [2, 1]


def test_the_tokenizer_learns_from_the_rows_used_or_from_every_split(command, folder, root):
    made = tokenizer_of(folder)
    assert made.encode("Ü") == made.encode("ẞ") == [made.unknown]
    assert data.main([*command, "--tokenizer-on=all"]) == 0
    made = tokenizer_of(folder)
    assert made.unknown not in made.encode("Ü ẞ")
    assert meta_of(folder)["tokenizer"]["trained_on"] == ["test", "train", "valid"]
    assert "test" in meta_of(folder)["sources"]
    assert data.main([*command, "--train-rows=2"]) == 0
    made = tokenizer_of(folder)
    assert made.encode("q") == made.encode("c") == [made.unknown]  # c comes in a later row


def test_files_that_were_not_fetched_or_are_others_are_refused(root, command, capsys):
    path = root / "tiny" / "valid.parquet"
    wanted = datasets.DATASETS["tiny"].hub["valid"]
    content = write_parquet(path, [" Other \n"] * 9)
    hashes = (wanted.sha256, hashlib.sha256(content).hexdigest())
    sizes = (f"{len(content):,} bytes, wanted {wanted.size:,} bytes", wanted.sha256)
    assert_refused(data.main, command, capsys, str(path), *sizes, "--trust-download")
    assert not (root / "tiny-prepared").exists()
    code, _, err = call(data.main, [*command, "--trust-download"], capsys)
    assert code == 0
    assert all(sha256 in err for sha256 in hashes)
    sources = meta_of(root / "tiny-prepared")["sources"]
    assert [sources[s]["verified"] for s in ("train", "valid")] == [True, False]
    path.unlink()
    assert_refused(data.main, command, capsys, str(path), "not found", "fetch")


@pytest.mark.parametrize("content", [b"PAR1 and no more", None, [1, 2]])
def test_a_file_that_is_no_parquet_is_refused(root, command, capsys, content):
    path = root / "tiny" / "train.parquet"
    if content is None:
        write_parquet(path, ["text"], column="story")
    elif isinstance(content, list):
        write_parquet(path, content)
    else:
        path.write_bytes(content)
    code, _, err = call(data.main, [*command, "--trust-download"], capsys)
    assert code == 2
    assert "not a parquet file with a column `text`" in err.splitlines()[-1]
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("flags", "wanted"),
    [
        (["--train-rows=0"], ["--train-rows is 0", "at least 1"]),
        (["--valid-rows=-1"], ["--valid-rows is -1"]),
        (["--vocab-size=5000000000"], ["vocab_size is 5000000000", "to 1000000"]),
        (["--vocab-size=4"], ["vocab_size is 4", "wanted 5 to"]),
        (["--from=.", "--train=t.txt"], ["--from", "--train"]),
        (["--valid=v.txt"], ["--valid", "--train FILE"]),
        (["--tokenizer-on=test"], ["--tokenizer-on", "'test'", "all"]),
        (["--ofline"], ["unknown argument --ofline"]),
    ],
)
def test_flags_that_cannot_be_meant_are_refused(command, capsys, flags, wanted):
    assert_refused(data.main, [*command, *flags], capsys, *wanted)


def test_the_list_shows_what_is_here(root, folder, capsys):
    (root / "tiny" / "test.parquet").unlink()
    (root / "tiny" / "valid.parquet").write_bytes(b"12345")
    assert data.main(["list", f"--data-root={root}"]) == 0
    out = capsys.readouterr().out
    for line in ("train.parquet  (here)", "test.parquet  (not here)", "valid.parquet  (wrong size, 5 bytes)"):
        assert line in out
    for part in (
        "248,731,111 bytes",
        "CDLA-Sharing-1.0",
        "Salesforce/wikitext at b08601e0",
        f"prepared in {folder}",
    ):
        assert part in out


def test_rows_are_views_of_the_file(folder):
    made = corpus.from_prepared(folder, block_size=9)
    for split, rows in (("train", made.train), ("valid", made.valid)):
        flat = tokens_of(folder, split)
        n = len(flat) // 10
        assert rows.shape == (n, 10)
        assert isinstance(rows, np.memmap)
        assert not rows.flags.owndata
        np.testing.assert_array_equal(rows, flat[: n * 10].reshape(n, 10))
    counted = meta_of(folder)["splits"]["valid"]
    assert made.valid_size == corpus.TextSize(counted["tokens"], counted["words"], counted["bytes"])
    ids, targets = corpus.inputs_and_targets(made.train[1:3])
    assert type(ids) is type(targets) is np.ndarray
    assert ids.dtype == targets.dtype == np.int64
    np.testing.assert_array_equal(ids[:, 1:], targets[:, :-1])
    assert made.train_tokens() == made.train.shape[0] * 9


def test_large_vocabularies_take_four_bytes(command, root, monkeypatch):
    monkeypatch.setattr(PaperTokenizer, "__len__", lambda self: 2**16 + 1)
    assert data.main(command) == 0
    folder = root / "tiny-prepared"
    assert meta_of(folder)["dtype"] == "uint32"
    made = corpus.from_prepared(folder, block_size=9)
    monkeypatch.undo()
    assert made.train.dtype == np.uint32
    assert made.tokenizer.decode(made.train[0]).startswith("= Foxes =")


def test_memory_does_not_grow_with_the_data(folder):
    """Three times the rows are written in as much memory; 2 MB of tokens are read in less than 1 MB."""
    made, peaks = tokenizer_of(folder), []
    tracemalloc.start()
    try:
        for n in (3_000, 9_000):
            tracemalloc.reset_peak()
            rows = ("the fox isn 't red " * 16 for _ in range(n))
            counted = prepare._write_tokens(folder / "train.bin", rows, made, np.dtype("uint16"))
            peaks.append(tracemalloc.get_traced_memory()[1])
        meta = corpus.read_meta(folder)
        path = folder / "train.bin"
        meta["files"]["train.bin"] = {"bytes": path.stat().st_size, "sha256": files.sha256_of(path)}
        files.write_sealed(folder / "meta.json", corpus.PREPARED, meta)
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        large = corpus.from_prepared(folder, block_size=9)
        large.fingerprint()
        large.train_tokens()
        read = tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()
    assert peaks[1] < 1.2 * peaks[0]
    assert 2 * counted["tokens"] > 2e6
    assert read < 1e6


def test_a_block_longer_than_the_data_is_refused(folder):
    with pytest.raises(InputError, match=r"tokens for validation, wanted at least one block .* = 201"):
        corpus.from_prepared(folder, block_size=200)


SMALL = [
    "--backend=numpy", "--d-model=8", "--n-layers=1", "--n-slots=4", "--block-size=16", "--batch-size=2",
    "--steps=4", "--warmup-steps=1", "--eval-every=2", "--checkpoint-every=2",
]  # fmt: skip


@pytest.mark.parametrize("given", ["folder", "name", "short name"])
def test_training_and_generating(folder, tmp_path, monkeypatch, capsys, given):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").symlink_to(folder.parent)
    name = {"folder": "data/tiny-prepared", "name": "tiny-prepared", "short name": "tiny"}[given]
    assert train.main([*SMALL, f"--dataset={name}"]) == 0
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    path = tmp_path / "runs" / "tiny-1"
    assert Run(path).config.data.dataset == str(folder.resolve())
    again = [f"--resume={path}", "--backend=numpy"]
    assert train.main(again) == 0
    assert train.main([*again, f"--dataset={folder}"]) == 0
    capsys.readouterr()
    for prompt in ("", "The fox"):
        assert generate.main([str(path), f"--prompt={prompt}", "--tokens=9", "--backend=numpy"]) == 0
        assert capsys.readouterr().out.startswith(prompt)
    other = tmp_path / "other"
    assert data.main(["prepare", "tiny", f"--data-root={folder.parent}", f"--out={other}"]) == 0
    assert_refused(train.main, [*again, f"--dataset={other}"], capsys, "--dataset is", "started with")
    assert data.main(["prepare", "tiny", f"--data-root={folder.parent}", "--train-rows=100"]) == 0
    assert_refused(train.main, again, capsys, "the data of this run has changed")


def test_generation_begins_and_ends_documents(folder):
    made = tokenizer_of(folder)
    assert generate.first_ids(made, "") == [made.end]
    assert generate.first_ids(made, "The fox") == [made.end, *made.encode("The fox")]

    class Model:
        def continuation(self, ids, n, *settings):
            assert ids[0].tolist() == [made.end, *made.encode("The fox")]
            return iter([[i] for i in (*made.encode("is red."), made.end, *made.encode("The"))][:n])

    ids, ended = generate.continued(Model(), made, generate.first_ids(made, "The fox"))
    assert (made.decode(ids), ended) == ("The fox is red.", made.end)


@pytest.mark.parametrize(
    ("flags", "wanted"),
    [
        (["--dataset=nowhere"], ["nowhere", "data/nowhere/meta.json", "data/nowhere-prepared/meta.json"]),
        (["--dataset="], ["--dataset", "an empty name"]),
    ],
)
def test_a_dataset_that_is_none_is_refused(capsys, tmp_path, monkeypatch, flags, wanted):
    monkeypatch.chdir(tmp_path)
    assert_refused(train.main, ["--backend=numpy", *flags], capsys, *wanted)


@pytest.mark.parametrize("flag", ["--stories=9", "--data-seed=1", "--tokenizer=bpe", "--bpe-size=300"])
def test_what_decides_nothing_about_a_dataset_is_refused(capsys, folder, flag):
    argv = ["--backend=numpy", f"--dataset={folder}", flag]
    assert_refused(train.main, argv, capsys, f"{flag.split('=')[0]} has no effect on a prepared dataset")


def test_a_dataset_and_a_text_are_refused(capsys, folder, tmp_path):
    (tmp_path / "t.txt").write_text("text")
    argv = ["--backend=numpy", f"--dataset={folder}", f"--text={tmp_path / 't.txt'}"]
    assert_refused(train.main, argv, capsys, "dataset is", "--text")
