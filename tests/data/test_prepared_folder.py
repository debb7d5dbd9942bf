"""A prepared folder on disk: whole or not there, one process at a time, and every change to it is noticed."""

import errno
import json
import os
import time
from importlib.util import find_spec
from pathlib import Path

import pytest
from helpers.commands import assert_refused
from helpers.prepared import meta_of

from minigam import files, train
from minigam.config import DataConfig, InputError
from minigam.data import __main__ as data
from minigam.data import corpus, prepare
from minigam.experiments import comparison

if find_spec("tokenizers") is None or find_spec("pyarrow") is None:
    pytest.skip("the extra `data` is not installed", allow_module_level=True)


def test_the_list_says_what_is_wrong_with_a_prepared_folder(root, folder, capsys):
    (folder / "meta.json").write_text(json.dumps({"format": meta_of(folder)["format"]}))
    assert data.main(["list", f"--data-root={root}"]) == 0
    out = capsys.readouterr().out
    assert "prepared in" not in out
    assert f"not usable: {folder / 'meta.json'}: changed since it was written; prepare it again" in out


def test_what_a_crash_between_two_renames_left_is_put_back(folder):
    old = folder.with_name(f".{folder.name}.old")
    folder.rename(old)
    with pytest.raises(OSError, match="full"), files.replacing_folder(folder):
        raise OSError("the disk is full")
    assert (folder / "meta.json").is_file()
    assert not old.exists()


@pytest.mark.parametrize("fault", [KeyboardInterrupt, OSError])
def test_what_is_interrupted_between_two_renames_leaves_the_old_folder(folder, monkeypatch, fault):
    rename, before = Path.rename, (folder / "meta.json").read_bytes()

    def interrupted(path, target):
        if path.parent.name == ".tiny-prepared.unfinished":
            raise fault
        return rename(path, target)

    with pytest.raises(fault), files.replacing_folder(folder):
        monkeypatch.setattr(Path, "rename", interrupted)
    assert (folder / "meta.json").read_bytes() == before
    assert {p.name for p in folder.parent.iterdir()} == {"tiny", "tiny-prepared"}


def test_a_file_that_comes_meanwhile_is_kept(command, folder, capsys, monkeypatch):
    def writing(path, format, content):
        files.write_sealed(path, format, content)
        (folder / "notes.txt").write_text("mine")

    monkeypatch.setattr(prepare, "write_sealed", writing)
    assert_refused(data.main, command, capsys, "choose another --out")
    assert (folder / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("fault", [KeyboardInterrupt, OSError])
def test_what_is_interrupted_leaves_the_old_folder_or_none(command, root, monkeypatch, fault):
    out, write = root / "tiny-prepared", prepare.write_sealed

    def interrupted(*sealed):
        raise fault

    for old in (None, "whole"):
        before = {p.name: p.read_bytes() for p in out.iterdir()} if old else None
        monkeypatch.setattr(prepare, "write_sealed", interrupted)
        with pytest.raises(fault):
            data.main([*command, "--train-rows=7"])
        assert [p.name for p in root.iterdir() if p.name != "tiny"] == ([out.name] if old else [])
        if old:
            assert {p.name: p.read_bytes() for p in out.iterdir()} == before
        monkeypatch.setattr(prepare, "write_sealed", write)
        assert data.main(command) == 0  # a rerun makes it, or replaces it


def test_what_a_crash_left_over_is_no_dataset_and_goes(command, root, monkeypatch):
    left_over = root / ".tiny-prepared.unfinished"
    (left_over / "tiny-prepared").mkdir(parents=True)
    (left_over / "tiny-prepared" / "train.bin").write_bytes(b"12")
    for path in (left_over, left_over / "tiny-prepared"):
        with pytest.raises(InputError, match="no prepared dataset"):
            corpus.find_prepared(str(path))
    assert data.main(command) == 0
    assert not left_over.exists()


def test_a_second_process_is_refused_and_changes_nothing(command, root, capsys):
    out = root / "tiny-prepared"
    with files.replacing_folder(out) as made:
        (made / "train.bin").write_bytes(b"12")
        assert_refused(data.main, command, capsys, ".tiny-prepared.unfinished", "in use by another process")
        assert [p.name for p in made.iterdir()] == ["train.bin"]
    assert [p.name for p in out.iterdir()] == ["train.bin"]
    assert {p.name for p in root.iterdir()} == {"tiny", "tiny-prepared"}


def test_a_full_disk_names_the_folder(command, root, capsys, monkeypatch):
    def full(*arguments):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))  # as a write does, without a name

    monkeypatch.setattr(prepare, "_write_tokens", full)
    assert_refused(data.main, command, capsys, f"{root / 'tiny-prepared'}: {os.strerror(errno.ENOSPC)}")
    assert [p.name for p in root.iterdir()] == ["tiny"]


def test_another_folder_is_never_replaced(command, tmp_path, capsys):
    mine = tmp_path / "mine"
    mine.mkdir()
    assert data.main([*command, f"--out={mine}"]) == 0  # empty
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "meta.json").write_text('{"format": "mine"}')
    for path in (tmp_path / "full", tmp_path / "full" / "meta.json"):
        assert_refused(data.main, [*command, f"--out={path}"], capsys, path.name, "choose another --out")
    for name in prepare.FILES:  # names alone do not make it ours
        (tmp_path / "full" / name).write_text("mine")
    assert_refused(data.main, [*command, f"--out={tmp_path / 'full'}"], capsys, "choose another --out")
    assert (tmp_path / "full" / "meta.json").read_text() == '{"format": "mine"}'
    (mine / "notes.txt").write_text("mine")  # into a prepared folder
    assert_refused(data.main, [*command, f"--out={mine}"], capsys, "choose another --out")
    assert (mine / "notes.txt").read_text() == "mine"


def edit_meta(folder: Path, change) -> None:
    content = meta_of(folder)
    change(content)
    (folder / "meta.json").write_text(json.dumps(content))


def test_a_damaged_or_older_folder_is_refused_until_it_is_prepared_again(command, folder, capsys):
    whole = (folder / "meta.json").read_bytes()
    for content in (b"", b"{", whole.replace(b"prepared 2", b"prepared 1")):
        (folder / "meta.json").write_bytes(content)
        with pytest.raises(InputError, match="prepare it again"):
            corpus.from_prepared(folder, block_size=9)
        assert data.main(command) == 0
        assert (folder / "meta.json").read_bytes() == whole


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m["splits"]["valid"].update(words=7),
        lambda m: m["splits"]["valid"].update(bytes=10**30),
        lambda m: m["splits"]["valid"].update(tokens=m["splits"]["valid"]["tokens"] - 1),
        lambda m: m["splits"].pop("valid"),
        lambda m: m.update(dataset="another"),
        lambda m: m.update(dtype="uint32"),
        lambda m: m.update(dtype="int16"),
        lambda m: m.update(more=0),
        lambda m: m["sources"]["train"].update(verified=None),
        lambda m: m["tokenizer"].update(trained_on=["train", "valid"]),
        lambda m: m["files"].pop("valid.bin"),
        lambda m: m["files"]["valid.bin"].update(sha256="0" * 64),
        lambda m: m["files"].update({"../other": m["files"]["valid.bin"]}),
        lambda m: m.pop("sha256"),
        lambda m: m.update(sha256=None),
    ],
)
def test_a_changed_description_is_refused(folder, tmp_path, capsys, change):
    edit_meta(folder, change)
    argv = ["--backend=numpy", f"--dataset={folder}", f"--out={tmp_path / 'run'}"]
    message = f"{folder / 'meta.json'}: changed since it was written; prepare it again"
    assert_refused(train.main, argv, capsys, message)
    with pytest.raises(InputError, match="changed since"):
        comparison._meta(DataConfig(dataset=str(folder)))


@pytest.mark.skipif(os.name != "posix", reason="sparse files")
@pytest.mark.parametrize("name", [*prepare.FILES, "meta.json"])
def test_a_file_that_grew_is_not_hashed(folder, name):
    os.truncate(folder / name, 2**40)
    began = time.monotonic()
    with pytest.raises(InputError, match=name):
        corpus.from_prepared(folder, block_size=9)
    assert time.monotonic() - began < 5


def damage(folder: Path, name: str, change) -> None:
    path = folder / name
    if change is None:
        path.unlink()
    else:
        path.write_bytes(change(path.read_bytes()))


@pytest.mark.parametrize(
    ("name", "change", "wanted"),
    [
        ("train.bin", lambda b: b[:-1], "train.bin: changed since it was prepared"),
        ("valid.bin", lambda b: b[:-1] + bytes([b[-1] ^ 1]), "valid.bin: changed since it was prepared"),
        ("valid.bin", None, "valid.bin: No such file"),
        ("tokenizer.json", lambda b: b + b" ", "tokenizer.json: changed since it was prepared"),
        ("meta.json", lambda b: b[:-20], "meta.json: damaged"),
        ("meta.json", lambda b: b.replace(b"prepared 2", b"prepared 0"), "format 'minigam prepared 0'"),
        (
            "meta.json",
            lambda b: b.replace(b'"splits"', b'"split"'),
            "meta.json: changed since it was written",
        ),
        ("meta.json", lambda b: b.replace(b'"tokens"', b'"words"', 1), "'words' twice"),
        ("meta.json", lambda b: b"[]", "meta.json: holds a list"),
        ("meta.json", None, "no prepared dataset"),
    ],
)
def test_damage_is_refused(folder, tmp_path, capsys, name, change, wanted):
    damage(folder, name, change)
    argv = ["--backend=numpy", f"--dataset={folder}", f"--out={tmp_path / 'run'}"]
    assert_refused(train.main, argv, capsys, wanted)
    assert not (tmp_path / "run").exists()
