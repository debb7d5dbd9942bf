"""Downloads by the real library from a server of our own: whole, cut, wrong, missing, dead, silent."""

import hashlib
import os
import socket
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import pytest
from helpers import hubserver
from helpers.commands import assert_refused, call

from minigam.data import __main__ as data
from minigam.data import datasets, hub
from minigam.data.hub import HubFile

if find_spec("huggingface_hub") is None:
    pytest.skip("the extra `data` is not installed", allow_module_level=True)
huggingface_hub = hub.library()  # with the settings that the commands import it with

CONTENT = {split: f"{split} ".encode() * 40_000 for split in ("train", "valid")}
PATHS = {"train": "raw/train.parquet", "valid": "raw/valid.parquet"}


def known(split: str, content: bytes) -> HubFile:
    digest = hashlib.sha256(content).hexdigest()
    return HubFile("someone/tiny", hubserver.COMMIT, PATHS[split], len(content), digest)


FILES = {split: known(split, content) for split, content in CONTENT.items()}


@pytest.fixture
def server(monkeypatch):
    """A server that has the files of a dataset called tiny, in an environment that leads to it."""
    tiny = datasets.Dataset("a licence", "line", FILES, ("{}.txt",), {"train": 1, "valid": 1})
    monkeypatch.setitem(datasets.DATASETS, "tiny", tiny)
    monkeypatch.setattr(huggingface_hub.constants, "DOWNLOAD_CHUNK_SIZE", 25_000)  # kept when cut: whole ones
    with hubserver.running() as server:
        for split, file in FILES.items():
            server.put(file, CONTENT[split])
        monkeypatch.setenv("HF_ENDPOINT", server.url + "/")
        yield server
        huggingface_hub.close_session()


@pytest.fixture
def fetch(tmp_path):
    """The command line that fetches tiny into an empty folder."""
    return ["fetch", "tiny", f"--data-root={tmp_path}"]


def fetched(root: Path) -> dict[str, bytes]:
    found = {s: root / "tiny" / path for s, path in PATHS.items()}
    return {s: path.read_bytes() for s, path in found.items() if path.exists()}


def test_a_correct_file_is_hashed_once(server, fetch, tmp_path, monkeypatch, capsys):
    assert data.main(fetch) == 0
    hashed, digest = [], hashlib.file_digest
    monkeypatch.setattr(hashlib, "file_digest", lambda f, name: hashed.append(f.name) or digest(f, name))
    assert data.main(fetch) == 0
    assert sorted(hashed) == sorted(str(tmp_path / "tiny" / path) for path in PATHS.values())


def test_a_dataset_is_downloaded_once(server, fetch, tmp_path, capsys):
    assert data.main(fetch) == 0
    assert fetched(tmp_path) == CONTENT
    assert capsys.readouterr().out.count("downloaded, verified") == 2
    asked = len(server.requests)
    assert data.main(fetch) == 0
    assert capsys.readouterr().out.count("there, verified") == 2
    assert len(server.requests) == asked
    assert {path for _, path, _ in server.requests} == set(server.files)  # no other shard, no listing


def test_offline_answers_from_what_is_there(server, fetch, tmp_path, capsys):
    assert_refused(data.main, [*fetch, "--offline"], capsys, PATHS["train"], "not found", "--offline")
    assert data.main(fetch) == 0
    asked = len(server.requests)
    assert data.main([*fetch, "--offline"]) == 0
    (tmp_path / "tiny" / PATHS["valid"]).unlink()
    assert_refused(data.main, [*fetch, "--offline"], capsys, PATHS["valid"], "not found")
    assert len(server.requests) == asked


def test_a_cut_connection_is_resumed(server, fetch, tmp_path):
    server.cut_after, server.cuts = 100_000, 2
    assert data.main(fetch) == 0
    assert fetched(tmp_path) == CONTENT
    ranges = [asked for method, path, asked in server.requests if path.endswith("train.parquet") and asked]
    assert ranges == ["bytes=100000-", "bytes=200000-"]


def test_a_cut_connection_begins_anew_where_it_cannot_be_resumed(server, fetch, tmp_path):
    server.cut_after, server.cuts, server.ranges = 100_000, 2, False
    assert data.main(fetch) == 0
    assert fetched(tmp_path) == CONTENT


@pytest.mark.parametrize("cut_after", [0, 100_000])
def test_a_connection_always_cut_is_one_line(server, fetch, tmp_path, capsys, monkeypatch, cut_after):
    monkeypatch.setattr(time, "sleep", lambda seconds: None)  # between the library's attempts
    server.cut_after, server.cuts, server.ranges = cut_after, 1000, False
    assert_refused(data.main, fetch, capsys, server.url, PATHS["train"], "HF_ENDPOINT")
    assert fetched(tmp_path) == {}
    assert len(server.requests) < 20


def test_a_wrong_file_is_refused_and_names_both_hashes(server, fetch, tmp_path, capsys):
    wrong = CONTENT["valid"][::-1]
    server.put(FILES["valid"], wrong)
    hashes = (FILES["valid"].sha256, hashlib.sha256(wrong).hexdigest())
    assert_refused(data.main, fetch, capsys, PATHS["valid"], *hashes, "--trust-download")
    assert_refused(data.main, [*fetch, "--offline"], capsys, PATHS["valid"], *hashes, "--trust-download")
    assert_refused(data.main, fetch, capsys, PATHS["valid"], *hashes)  # asked again, and as wrong
    asked = len(server.requests)
    code, out, err = call(data.main, [*fetch, "--trust-download"], capsys)
    assert (code, len(server.requests)) == (0, asked)
    assert "there, not verified" in out
    assert all(sha256 in err for sha256 in hashes)
    server.put(FILES["valid"], CONTENT["valid"])  # the server is mended: so is the copy
    assert data.main(fetch) == 0
    assert fetched(tmp_path) == CONTENT


def test_a_wrong_file_can_be_trusted_at_once(server, fetch, tmp_path, capsys):
    server.put(FILES["train"], b"short")
    code, out, _ = call(data.main, [*fetch, "--trust-download"], capsys)
    assert code == 0
    assert "downloaded, not verified" in out
    assert fetched(tmp_path)["train"] == b"short"


@pytest.mark.skipif(os.name != "posix", reason="sparse files")
def test_a_copy_of_another_size_is_not_hashed(server, fetch, tmp_path, capsys):
    assert data.main(fetch) == 0
    os.truncate(tmp_path / "tiny" / PATHS["train"], 2**40)
    began = time.monotonic()
    sizes = "1,099,511,627,776 bytes, wanted 240,000 bytes"
    assert_refused(data.main, [*fetch, "--offline"], capsys, PATHS["train"], sizes)
    assert data.main(fetch) == 0
    assert time.monotonic() - began < 5
    assert fetched(tmp_path) == CONTENT


def test_a_damaged_copy_is_downloaded_anew(server, fetch, tmp_path):
    assert data.main(fetch) == 0
    path = tmp_path / "tiny" / PATHS["train"]
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    assert data.main(fetch) == 0
    assert fetched(tmp_path) == CONTENT


def test_a_file_that_the_server_lacks_is_one_line(server, fetch, capsys):
    server.files.clear()
    assert_refused(data.main, fetch, capsys, server.url, PATHS["train"], "404")


def test_a_dead_server_is_one_line(server, fetch, capsys, monkeypatch):
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        free = s.getsockname()[1]
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{free}")  # nobody listens there
    began = time.monotonic()
    assert_refused(data.main, fetch, capsys, str(free), "refused", "HF_ENDPOINT")
    assert time.monotonic() - began < 10


@pytest.mark.parametrize("method", ["HEAD", "GET"])
def test_a_silent_server_is_one_line(server, fetch, capsys, monkeypatch, method):
    """The limits are 10 seconds for an answer, and six times that, with pauses, for a file."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_ETAG_TIMEOUT", 0.5)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DOWNLOAD_TIMEOUT", 0.5)
    monkeypatch.setattr(time, "sleep", lambda seconds: None)  # between the library's attempts
    server.silent.add(method)
    began = time.monotonic()
    assert_refused(data.main, fetch, capsys, server.url, "timed out")
    assert time.monotonic() - began < 10


@pytest.mark.parametrize("url", ["nonsense", "ftp://127.0.0.1", "http://", "//", "http://[::1", "http://h:port",
                                 "http://h:99999", "http://[x]"])  # fmt: skip
def test_an_endpoint_that_is_none_is_one_line(server, fetch, capsys, monkeypatch, url):
    monkeypatch.setenv("HF_ENDPOINT", url)
    assert_refused(data.main, fetch, capsys, f"HF_ENDPOINT is {url!r}", "https://huggingface.co")


@pytest.mark.parametrize(
    ("name", "value"),
    [("HF_ENDPOINT", "http://[::1"), ("HF_ENDPOINT", "http://h:port"), ("HF_HUB_ETAG_TIMEOUT", "soon")],
)
def test_a_variable_that_the_library_cannot_be_imported_with_is_one_line(tmp_path, name, value):
    command = [sys.executable, "-m", "minigam.data", "fetch", "wikitext-2", f"--data-root={tmp_path}"]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {name: value})
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert value in done.stderr


def test_a_missing_library_is_one_line(server, fetch, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    assert_refused(data.main, fetch, capsys, "extra `data`", "docs/install.md")


def test_through_the_real_interpreter(tmp_path):
    """The registry as it is: a server that has something else under the known names. The user's token
    is not sent, the user's cache is not written to, and nothing but the data root is."""
    home, root = tmp_path / "home", tmp_path / "root"
    home.mkdir()
    tokens = []

    def minigam(url, *argv):
        environment = os.environ | {"HF_ENDPOINT": url, "HF_HOME": str(home), "HF_TOKEN": "hf_secret"}
        command = [sys.executable, "-W", "error", "-m", "minigam.data", *argv, f"--data-root={root}"]
        return subprocess.run(command, capture_output=True, text=True, env=environment)

    with hubserver.running() as server:
        answer = hubserver.Handler.answer

        def listening(handler, with_body):
            tokens.append(handler.headers.get("Authorization"))
            answer(handler, with_body)

        hubserver.Handler.answer = listening
        try:
            for file in datasets.DATASETS["wikitext-2"].hub.values():
                server.put(file, b"not this")
            done = minigam(server.url, "fetch", "wikitext-2")
            trusted = minigam(server.url, "fetch", "wikitext-2", "--trust-download")
        finally:
            hubserver.Handler.answer = answer
    file = datasets.DATASETS["wikitext-2"].hub["train"]
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    for part in ("minigam data: ", file.path, file.sha256, "8 bytes, wanted 6,357,543 bytes"):
        assert part in done.stderr
    assert trusted.returncode == 0, trusted.stderr
    assert set(tokens) == {None}
    assert {path for _, path, _ in server.requests} == set(server.files)
    assert not any(home.iterdir())
    assert {p.name for p in tmp_path.iterdir()} == {"home", "root"}
