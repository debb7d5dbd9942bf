"""Reading files: whatever is not a regular file with the right content is one clear line, soon."""

import json
import os
import socket
import time
import tracemalloc
from pathlib import Path

import pytest
from helpers.commands import ON_TEXT, assert_refused

from minigam import evaluate, files, generate, train
from minigam.config import InputError
from minigam.data.corpus import from_text
from minigam.training.run import Run

READERS = (files.read_json, files.read_text, lambda path: list(files.read_lines(path)), files.sha256_of)
posix = pytest.mark.skipif(os.name != "posix", reason="pipes, sockets and devices with names")


def make_folder(path: Path) -> None:
    path.mkdir()


def make_loop(path: Path) -> None:
    path.symlink_to(path.name)


def make_pipe(path: Path) -> None:
    os.mkfifo(path)


def make_endless(path: Path) -> None:
    path.symlink_to("/dev/zero")


def make_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as s:
        s.bind(os.path.relpath(path))  # the address is short


NOT_FILES = [
    pytest.param(make_folder, "a folder, not a regular file"),
    pytest.param(make_loop, "symbolic links", marks=posix),
    pytest.param(make_pipe, "a pipe, not a regular file", marks=posix),
    pytest.param(make_endless, "a device, not a regular file", marks=posix),
    pytest.param(make_socket, "a device, not a regular file", marks=posix),
    pytest.param(lambda path: None, "No such file"),
]


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize(("make", "wanted"), NOT_FILES)
def test_only_regular_files_are_read(tmp_path, read, make, wanted):
    path = tmp_path / "f"
    make(path)
    with pytest.raises(InputError, match=wanted) as e:
        read(path)
    assert str(path) in str(e.value)


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize("name", ["a\0b", "\ud800", "x" * 5000])
def test_a_name_that_no_file_can_have_is_one_line(read, name):
    with pytest.raises(InputError, match="wanted") as e:
        read(Path(name))
    str(e.value).encode("utf-8")  # it can be printed


@posix
@pytest.mark.parametrize("read", READERS[:3])
def test_a_sparse_file_is_not_read_to_its_end(tmp_path, read):
    path = tmp_path / "f"
    path.write_text("some text\n")
    os.truncate(path, 2**40)
    began = time.monotonic()
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match=r"zero byte at 10|more than 16,777,216 bytes"):
            read(path)
        assert tracemalloc.get_traced_memory()[1] < 1e8
    finally:
        tracemalloc.stop()
    assert time.monotonic() - began < 5
    assert not files.is_same(path, 10, "0" * 64)
    assert time.monotonic() - began < 5


@pytest.mark.parametrize(
    ("content", "wanted"),
    [
        (b"[" * 100_000, "nested too deep"),
        (b'{"a":' * 100_000, "nested too deep"),
        (b'{"a": 1, "a": 1}', "'a' twice"),
        (b'{"a": {"b": 1, "c": 2, "b": 3}}', "'b' twice"),
        (b'{"a": NaN}', "the number NaN"),
        (b'{"a": -Infinity}', "the number -Infinity"),
        (b'{"a": 1e999}', "the number 1e999"),
        (b'{"a": %s}' % (b"9" * 5000), "4300 digits"),
        (b'{"a": "\\ud800"}', "surrogates not allowed"),
        (b'{"a": "\xff"}', "invalid start byte"),
        (b'{"a": 1} {', "Extra data"),
        (b"\xef\xbb\xbf{}", "BOM"),
        (b"3", "holds a int"),
    ],
)
def test_json_that_minigam_does_not_write_is_refused(tmp_path, content, wanted):
    path = tmp_path / "f.json"
    path.write_bytes(content)
    with pytest.raises(InputError, match=wanted) as e:
        files.read_json(path)
    assert str(e.value).startswith(f"{path}: ")
    assert len(str(e.value)) < 500


def test_many_names_with_one_twice_are_refused_soon(tmp_path):
    names = "".join(f'"{i}": 0, ' for i in range(100_000))
    (tmp_path / "f.json").write_text(f'{{{names}"99999": 1}}')
    began = time.monotonic()
    with pytest.raises(InputError, match="'99999' twice"):
        files.read_json(tmp_path / "f.json")
    assert time.monotonic() - began < 5


def test_json_comes_back(tmp_path):
    content = {"a": [1, 2.5, None, True, {"ü": "日\n\0"}], "b": {}, "c": 10**30}
    files.write_json(tmp_path / "f.json", content)
    assert files.read_json(tmp_path / "f.json") == content
    (tmp_path / "f.json").write_text(json.dumps({"a": "\N{GRINNING FACE}"}))  # a pair of surrogates
    assert files.read_json(tmp_path / "f.json") == {"a": "\N{GRINNING FACE}"}


@pytest.mark.parametrize("ending", ["\n", ""])
def test_lines_longer_than_a_part(tmp_path, ending):
    lines = ["ü" * 2**20 + "\n", "\n", "a" * (2**21 - 1) + "\n", "é" * 700_000 + ending]
    (tmp_path / "f.txt").write_bytes("".join(lines).encode())
    assert list(files.read_lines(tmp_path / "f.txt")) == lines
    assert files.read_text(tmp_path / "f.txt") == "".join(lines)
    with (tmp_path / "f.txt").open("ab") as f:
        f.write(b"\nok\nno\xff")
    place = (tmp_path / "f.txt").stat().st_size - 1
    for read in (files.read_text, lambda path: list(files.read_lines(path))):
        with pytest.raises(InputError, match=f"0xff at {place}"):
            read(tmp_path / "f.txt")


def test_text_that_utf8_cannot_hold_is_not_written(tmp_path):
    with pytest.raises(InputError, match="UTF-8"):
        files.write_json(tmp_path / "f.json", {"path": "a\udcff"})
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A run on a text file."""
    folder = tmp_path_factory.mktemp("run")
    (folder / "t.txt").write_text("the cat sat on the mat. " * 200)
    assert (
        train.main([*ON_TEXT, f"--text={folder / 't.txt'}", "--block-size=16", f"--out={folder / 'r'}"]) == 0
    )
    return folder / "r"


@posix
@pytest.mark.parametrize("make", [make_pipe, make_endless, make_loop])
@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
def test_a_run_with_something_else_for_a_file_is_refused(run, capsys, make, name):
    path = run / name
    path.rename(run / "kept")
    try:
        make(path)
        for command in (generate, evaluate):
            assert_refused(command.main, [run, "--backend=numpy"], capsys, str(path))
    finally:
        path.unlink()
        (run / "kept").rename(path)


@posix
def test_metrics_that_are_a_pipe_are_refused(run):
    path = run / "metrics.jsonl"
    path.rename(run / "kept")
    try:
        make_pipe(path)
        with pytest.raises(InputError, match="a pipe"):
            Run(run).metrics()
    finally:
        path.unlink()
        (run / "kept").rename(path)


@pytest.mark.parametrize(("make", "wanted"), NOT_FILES)
def test_training_on_something_else_is_refused(tmp_path, capsys, make, wanted):
    make(tmp_path / "f")
    (tmp_path / "t.txt").write_text("text " * 100)
    argv = [*ON_TEXT, "--block-size=8", f"--out={tmp_path / 'run'}"]
    assert_refused(train.main, [*argv, f"--text={tmp_path / 'f'}"], capsys, wanted)
    assert_refused(
        train.main, [*argv, f"--text={tmp_path / 't.txt'}", f"--valid={tmp_path / 'f'}"], capsys, wanted
    )
    assert not (tmp_path / "run").exists()


def test_a_text_in_a_folder_whose_name_is_not_utf8(tmp_path):
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    try:
        folder.mkdir()
    except OSError:
        pytest.skip("this file system takes names in UTF-8 only")
    (folder / "t.txt").write_text("the cat sat on the mat. " * 20)
    assert from_text(folder / "t.txt", block_size=16).train.shape == (25, 17)
