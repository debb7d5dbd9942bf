"""Write small files for the tests of datasets, and read prepared folders."""

import json
from pathlib import Path

import numpy as np

from minigam.data import tokenizer

LINES = ["", " = Foxes = \n", "", ' The fox said , " I am red . " \n', " The fox isn 't a cat . \n"]
ROWS = {"train": LINES * 30, "valid": ["", " A red cat . \n", " Ünknown \n"] * 8, "test": [" ẞ \n"] * 3}


def write_parquet(path: Path, rows: list[str], column: str = "text") -> bytes:
    import pyarrow
    from pyarrow import parquet

    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pyarrow.table({column: rows}), path)
    return path.read_bytes()


def meta_of(folder: Path) -> dict:
    return json.loads((folder / "meta.json").read_text())


def tokens_of(folder: Path, split: str) -> np.ndarray:
    return np.fromfile(folder / f"{split}.bin", "<u2")


def tokenizer_of(folder: Path):
    return tokenizer.load(folder / "tokenizer.json")
