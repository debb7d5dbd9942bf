"""A small dataset, fetched and prepared."""

import hashlib
from pathlib import Path

import pytest
from helpers.prepared import ROWS, write_parquet

from minigam.data import __main__ as data
from minigam.data import datasets
from minigam.data.hub import HubFile


@pytest.fixture
def root(tmp_path, monkeypatch) -> Path:
    """A data root with the fetched files of a dataset called tiny, which the registry knows."""
    files = {}
    for split, rows in ROWS.items():
        content = write_parquet(tmp_path / "root" / "tiny" / f"{split}.parquet", rows)
        sha256 = hashlib.sha256(content).hexdigest()
        files[split] = HubFile("someone/tiny", "0" * 40, f"{split}.parquet", len(content), sha256)
    tiny = datasets.Dataset("a licence", "line", files, ("{}.txt",), {"train": 1, "valid": 1})
    monkeypatch.setitem(datasets.DATASETS, "tiny", tiny)
    return tmp_path / "root"


@pytest.fixture
def command(root) -> list[str]:
    return ["prepare", "tiny", f"--data-root={root}", "--vocab-size=120"]


@pytest.fixture
def folder(root, command) -> Path:
    """What was prepared from the fetched files."""
    assert data.main(command) == 0
    return root / "tiny-prepared"
