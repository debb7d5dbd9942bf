"""Local copies of the datasets: which files are found, where rows begin and end, what cannot be read."""

import os
import shlex
from importlib.util import find_spec
from pathlib import Path

import pytest
from helpers.commands import assert_refused
from helpers.prepared import meta_of, tokenizer_of, tokens_of, write_parquet

from minigam.data import __main__ as data
from minigam.data import corpus, datasets
from minigam.data.datasets import read_rows
from minigam.data.tokenizer import PaperTokenizer

if find_spec("tokenizers") is None or find_spec("pyarrow") is None:
    pytest.skip("the extra `data` is not installed", allow_module_level=True)

SHARED = Path(__file__).parents[3] / "shared" / "data"
real = pytest.mark.skipif(not SHARED.is_dir(), reason="the real texts are not beside this checkout")


@pytest.mark.parametrize(
    ("name", "naming"),
    [(name, naming) for name, dataset in datasets.DATASETS.items() for naming in dataset.local],
)
def test_local_copies_are_found_by_their_names(tmp_path, name, naming):
    for split in ("train", "valid"):
        (tmp_path / naming.format(split)).write_text(f"words to {split} on\n" * 20)
    out = tmp_path / "out"
    argv = ["prepare", name, f"--from={tmp_path}", f"--out={out}", "--train-rows=15", "--vocab-size=60"]
    assert data.main(argv) == 0
    meta = meta_of(out)
    assert meta["sources"]["valid"]["file"] == naming.format("valid")
    assert meta["sources"]["valid"]["verified"] is None
    assert [meta["splits"][s]["rows"] for s in ("train", "valid")] == [15, 20]


def test_missing_local_copies_are_named(tmp_path, capsys):
    (tmp_path / "valid.txt").write_text("text")
    argv = ["prepare", "wikitext-2", f"--from={tmp_path}", f"--out={tmp_path / 'out'}"]
    assert_refused(data.main, argv, capsys, str(tmp_path), "wiki.train.tokens", "wiki.valid.raw", "train.txt")
    argv[2] = f"--train={tmp_path / 'mine.txt'}"
    assert_refused(data.main, argv, capsys, "mine.txt", "No such file")


def test_any_two_files_do(tmp_path):
    (tmp_path / "test.txt").write_text("one line\n\n two lines \n")
    write_parquet(tmp_path / "v.parquet", ["one row"])
    argv = ["prepare", "wikitext-2", f"--train={tmp_path / 'test.txt'}", f"--valid={tmp_path / 'v.parquet'}"]
    assert data.main([*argv, f"--out={tmp_path / 'out'}"]) == 0
    splits = meta_of(tmp_path / "out")["splits"]
    assert [splits[s]["rows"] for s in ("train", "valid")] == [3, 1]
    assert [splits[s]["documents"] for s in ("train", "valid")] == [2, 1]


@pytest.mark.parametrize(
    "content",
    [
        "One.\n\nTwo,\nnew line.\n<|endoftext|>\nThree.\n<|endoftext|>\n",
        "One.\n\nTwo,\nnew line.<|endoftext|>Three.",
    ],
)
def test_stories_end_at_their_mark(tmp_path, content):
    (tmp_path / "s.txt").write_text(content)
    assert list(read_rows(tmp_path / "s.txt", "story")) == ["One.\n\nTwo,\nnew line.", "Three."]


@pytest.mark.parametrize(
    ("content", "stories"),
    [
        ("One.\n\nMore.\nTwo.\n \n\nMore.\nThree.\n", ["One.\n\nMore.", "Two.\n \n\nMore.", "Three."]),
        ("One.\nTwo.\nThree.", ["One.", "Two.", "Three."]),
        ("\nOne.\n\n\nTwo.\n\nThree.\n\n", ["One.", "Two.", "Three."]),
        ("\n\n", []),
    ],
)
def test_stories_without_a_mark(tmp_path, content, stories):
    (tmp_path / "s.txt").write_text(content)
    assert list(read_rows(tmp_path / "s.txt", "story")) == stories


def test_the_last_tenth_of_the_stories_validates(tmp_path, capsys):
    path, out = tmp_path / "s.txt", tmp_path / "out"
    path.write_text("".join(f"story {i:02}<|endoftext|>" for i in range(39)))
    argv = ["prepare", "tinystories", f"--train={path}", f"--out={out}"]
    assert data.main(argv) == 0
    made = tokenizer_of(out)
    said = {s: made.decode(tokens_of(out, s)).split("\n\n") for s in ("train", "valid")}
    assert said["train"][-1] == "story 35"
    assert len(said["train"]) == 36
    assert len(said["valid"]) == 3
    assert data.main([*argv, "--train-rows=5", "--valid-rows=2"]) == 0
    assert [n["rows"] for n in meta_of(out)["splits"].values()] == [5, 2]
    path.write_text("one<|endoftext|>two")
    assert_refused(data.main, argv, capsys, str(path), "2 rows", "at least 10")


@pytest.mark.parametrize(
    ("content", "wanted"),
    [(b"text\nGIF\0", "zero byte at 8"), (b"text\ncaf\xe9", "0xe9 at 8"), (b"\n" * 50, "no text")],
)
def test_files_without_readable_text_are_refused(tmp_path, capsys, content, wanted):
    path = tmp_path / "t.txt"
    path.write_bytes(content)
    argv = ["prepare", "wikitext-2", f"--train={path}", f"--valid={path}", f"--out={tmp_path / 'out'}"]
    assert_refused(data.main, argv, capsys, str(path), wanted)
    assert [p.name for p in tmp_path.iterdir()] == ["t.txt"]


def test_validation_rows_of_unknown_characters_only_are_refused(tmp_path, capsys):
    (tmp_path / "t.txt").write_text("some words\n" * 9)
    (tmp_path / "v.txt").write_text("日本語\n語\n")
    argv = ["prepare", "wikitext-2", f"--train={tmp_path / 't.txt'}", f"--valid={tmp_path / 'v.txt'}"]
    argv.append(f"--out={tmp_path / 'out'}")
    assert_refused(data.main, argv, capsys, "v.txt", "no character of the valid rows is in the training rows")
    assert {p.name for p in tmp_path.iterdir()} == {"t.txt", "v.txt"}
    (tmp_path / "v.txt").write_text("日本語\n語o\n")
    assert data.main(argv) == 0
    assert meta_of(tmp_path / "out")["splits"]["valid"]["unknown"] == 4


@pytest.mark.skipif(os.name != "posix", reason="pipes and devices with names")
@pytest.mark.parametrize("name", ["f.txt", "f.parquet"])
@pytest.mark.parametrize("dataset", ["wikitext-2", "tinystories"])
@pytest.mark.parametrize("what", ["pipe", "device", "folder", "loop", "sparse"])
def test_what_is_not_a_file_of_text_is_refused(tmp_path, capsys, name, dataset, what):
    path = tmp_path / name
    {
        "pipe": lambda: os.mkfifo(path),
        "device": lambda: path.symlink_to("/dev/zero"),
        "folder": path.mkdir,
        "loop": lambda: path.symlink_to(name),
        "sparse": lambda: (path.touch(), os.truncate(path, 2**40)),
    }[what]()
    (tmp_path / "t.txt").write_text("some words\n" * 9)
    argv = [
        "prepare",
        dataset,
        f"--train={path}",
        f"--valid={tmp_path / 't.txt'}",
        f"--out={tmp_path / 'out'}",
    ]
    assert_refused(data.main, argv, capsys, str(path))
    assert_refused(data.main, [*argv[:2], f"--train={path}", argv[-1]], capsys, str(path))
    argv[2:4] = f"--train={tmp_path / 't.txt'}", f"--valid={path}"
    assert_refused(data.main, argv, capsys, str(path))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("damage", ["utf-8", "cut", "page"])
def test_a_damaged_parquet_file_is_refused(tmp_path, capsys, damage):
    import pyarrow
    from pyarrow import parquet

    path, text = tmp_path / "f.parquet", pyarrow.array(["some words", "more wörds"] * 500)
    if damage == "utf-8":
        text = pyarrow.array([b"some", b"caf\xe9"]).cast(pyarrow.string(), safe=False)
        text = pyarrow.StringArray.from_buffers(2, *pyarrow.array([b"some", b"caf\xe9"]).buffers()[1:])
    parquet.write_table(pyarrow.table({"text": text}), path, compression="snappy", use_dictionary=False)
    content = bytearray(path.read_bytes())
    if damage == "cut":
        del content[100:200]
    elif damage == "page":
        content[20:200] = bytes(180)
    path.write_bytes(content)
    argv = ["prepare", "wikitext-2", f"--train={path}", f"--valid={path}", f"--out={tmp_path / 'out'}"]
    assert_refused(data.main, argv, capsys, str(path), "not a parquet file with a column `text`")


def test_hints_quote_what_a_shell_would_split(tmp_path, capsys):
    (tmp_path / "t.txt").write_text("some words\n" * 9)
    out = tmp_path / "my data; rm"
    argv = ["prepare", "wikitext-2", f"--train={tmp_path / 't.txt'}", f"--valid={tmp_path / 't.txt'}"]
    assert data.main([*argv, f"--out={out}"]) == 0
    hint = capsys.readouterr().out.partition("Train: ")[2]
    assert shlex.split(hint) == ["minigam", "train", "--dataset", str(out)]


@real
def test_the_real_wikitext(tmp_path):
    import tokenizers

    texts = {s: SHARED / "wikitext-2" / f"{s}.txt" for s in ("test", "valid")}
    argv = ["prepare", "wikitext-2", f"--train={texts['test']}", f"--valid={texts['valid']}"]
    assert data.main([*argv, f"--out={tmp_path / 'out'}"]) == 0
    meta, made = meta_of(tmp_path / "out"), corpus.from_prepared(tmp_path / "out", 256)
    assert [meta["splits"][s]["rows"] for s in ("train", "valid")] == [4358, 3760]
    assert made.valid_size.words == 213_886  # 217,646 with one end of line for each of the 3,760 lines
    assert len(made.tokenizer) == 10_000
    assert 0 < meta["splits"]["valid"]["unknown_share"] < 0.001
    text = made.tokenizer.decode(made.valid[0])
    assert text.startswith(
        "= Homarus gammarus =\n\nHomarus gammarus, known as the European lobster or common"
    )
    assert "60 cm (24 in)" in text
    # The docstring's price of the prefix, against the same tokeniser without it.
    bare = tokenizers.Tokenizer(tokenizers.models.BPE(unk_token="[UNK]"))
    bare.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=10_000, special_tokens=list(PaperTokenizer.SPECIAL), show_progress=False
    )
    lines = {s: [row for row in read_rows(path, "line") if row.strip()] for s, path in texts.items()}
    bare.train_from_iterator(lines["test"], trainer)
    for split, part, percent in (("test", "train", 1.0), ("valid", "valid", 1.5)):
        without = sum(len(encoding.ids) for encoding in bare.encode_batch(lines[split]))
        counted = meta["splits"][part]
        more = (counted["tokens"] - counted["documents"]) / without - 1
        assert round(100 * more, 1) == percent


@real
def test_the_real_stories(tmp_path):
    sample = SHARED / "tinystories" / "sample.txt"
    argv = ["prepare", "tinystories", f"--train={sample}", f"--out={tmp_path / 'out'}", "--vocab-size=3000"]
    assert data.main(argv) == 0
    made = tokenizer_of(tmp_path / "out")
    text = made.decode(tokens_of(tmp_path / "out", "train")[:400])
    assert 'said, "Mom, I found this needle. Can you share it with me and sew my shirt?" Her mom' in text
    assert "\n\nOnce upon a time, there was a little car named Beep." in text
