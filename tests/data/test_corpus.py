"""Text files to rows, and files that cannot be used."""

from importlib.util import find_spec

import numpy as np
import pytest

from minigam import files
from minigam.config import InputError
from minigam.data.corpus import from_pocketstories, from_text, inputs_and_targets


def write(path, content: bytes | str):
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def test_blocks_do_not_overlap_and_targets_come_one_later(tmp_path):
    text = "".join(chr(ord("a") + i % 26) for i in range(1000))
    corpus = from_text(write(tmp_path / "t.txt", text), block_size=9)
    assert corpus.train.shape == (90, 10)  # nine tenths of the text
    assert corpus.valid.shape == (10, 10)  # the last tenth
    joined = np.concatenate([corpus.train.ravel(), corpus.valid.ravel()])
    assert corpus.tokenizer.decode(joined) == text
    ids, targets = inputs_and_targets(corpus.train)
    assert (ids[:, 1:] == targets[:, :-1]).all()


def test_a_validation_file_keeps_the_whole_text_for_training(tmp_path):
    train, valid = write(tmp_path / "t.txt", "ab" * 50), write(tmp_path / "v.txt", "aXb" * 10)
    corpus = from_text(train, valid, block_size=9)
    assert corpus.train.shape == (10, 10)
    assert corpus.valid.shape == (3, 10)
    assert len(corpus.tokenizer) == 3  # a, b and the unknown: nothing was learned from v.txt


@pytest.mark.parametrize("held_out", [True, False])
def test_validation_text_of_unknown_characters_only_is_refused(tmp_path, held_out):
    train, valid = write(tmp_path / "t.txt", "ab" * 50), write(tmp_path / "v.txt", "日本" * 10)
    if held_out:
        train, valid = write(train, "ab" * 90 + "日本" * 10), None
    source = train if held_out else valid
    with pytest.raises(InputError, match="no character of the validation text is in the training text") as e:
        from_text(train, valid, block_size=9)
    assert str(source) in str(e.value)
    write(source, f"{source.read_text()[:-1]}a")  # one that is known
    assert from_text(train, valid, block_size=9).valid.max() > 0


@pytest.mark.skipif(find_spec("tokenizers") is None, reason="the extra `data` is not installed")
def test_no_text_is_unknown_to_bytes(tmp_path):
    train, valid = write(tmp_path / "t.txt", "ab" * 50), write(tmp_path / "v.txt", "日本" * 10)
    assert len(from_text(train, valid, block_size=9, tokenizer="bpe", vocab_size=256).valid) == 6


def test_windows_line_ends_and_byte_order_marks_go(tmp_path):
    assert files.read_text(write(tmp_path / "t.txt", b"\xef\xbb\xbfa\r\nb")) == "a\nb"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "No such file"),
        ("", "empty"),
        (" \n\n ", "empty"),
        (b"GIF\0\1\2", r"binary \(a zero byte at 3\)"),
        ("Grüße".encode("latin-1"), r"not UTF-8 \(byte 0xfc at 2\)"),
        ("too short", r"9 tokens for training, wanted at least one block of block_size \+ 1 = 65"),
    ],
)
def test_files_that_cannot_be_used(tmp_path, content, message):
    path = tmp_path / "t.txt"
    if content is not None:
        write(path, content)
    with pytest.raises(InputError, match=message) as e:
        from_text(path, block_size=64)
    assert str(path) in str(e.value)
    assert "\n" not in str(e.value)


def test_a_folder_is_not_a_text_file(tmp_path):
    with pytest.raises(InputError, match="wanted a text file"):
        from_text(tmp_path, block_size=8)


def test_a_story_that_does_not_fit_is_refused():
    with pytest.raises(InputError, match="holds one whole story"):
        from_pocketstories(64, n_train=5, n_valid=5)


def test_replacing_is_all_or_nothing(tmp_path):
    path = write(tmp_path / "f.txt", "old")
    with pytest.raises(RuntimeError, match="half way"), files.replacing(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError("half way")
    assert path.read_text() == "old"
    files.write_text(path, "new")
    assert path.read_text() == "new"
    assert [p.name for p in tmp_path.iterdir()] == ["f.txt"]  # nothing temporary is left


def test_arrays_come_back_and_damage_is_named(tmp_path):
    path, arrays = tmp_path / "a.safetensors", {"a": np.arange(6.0).reshape(2, 3), "t": np.ones((3, 2)).T}
    files.write_arrays(path, "model", arrays, {"step": "3"})
    again, metadata = files.read_arrays(path, "model")
    assert metadata["step"] == "3"
    for name, a in arrays.items():
        np.testing.assert_array_equal(again[name], a)
    whole = path.read_bytes()
    for damaged in (whole[:-5], whole[:10], b"", b"\xff" * 64):
        path.write_bytes(damaged)
        with pytest.raises(InputError, match="damaged, or not the model"):
            files.read_arrays(path, "model")
