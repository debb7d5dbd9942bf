"""From rows of text to a prepared folder: a tokenizer, the tokens of each split, and their sources.

train.bin, valid.bin   token ids, unsigned and little-endian, one document after another
tokenizer.json         text to ids and back
meta.json              sources, settings, counts, the SHA-256 of the other three files, and its own
"""

from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from itertools import chain, islice
from pathlib import Path

import numpy as np
from tqdm import tqdm

from minigam.config import InputError
from minigam.data.corpus import PREPARED, TextSize
from minigam.data.datasets import DATASETS, Part, read_rows
from minigam.data.hub import verify
from minigam.data.tokenizer import PaperTokenizer
from minigam.files import read_json, replacing_folder, sha256_of, write_sealed

FILES = ("train.bin", "valid.bin", "tokenizer.json")
# What the paper uses: so many rows at most, and so many entries of the tokenizer.
ROWS = {"train": 50_000, "valid": 5_000}
VOCAB_SIZE = 10_000


def fetched_parts(name: str, folder: Path, trust: bool = False) -> dict[str, Part]:
    """Return split -> downloaded file of a dataset, verified again.

    Raises InputError for a file that is missing, or that has the wrong hash and is not trusted.
    """
    dataset, parts = DATASETS[name], {}
    for split, file in dataset.hub.items():
        path = folder / file.path
        sha256, verified = verify(file, path, trust)
        parts[split] = Part(path, dataset.row, sha256, verified)
    return parts


def local_parts(name: str, paths: dict[str, Path]) -> dict[str, Part]:
    """Return text files as the parts of a dataset. Without a validation file, the last tenth of the
    training rows is held out. Raises InputError for a file that is missing or too short."""
    row = DATASETS[name].row
    for path in paths.values():
        next(read_rows(path, row), None)  # refuse what has no rows before hashing it, which may take long
    parts = {split: Part(path, row, sha256_of(path)) for split, path in paths.items()}
    if "valid" not in parts:
        whole = parts["train"]
        n = sum(1 for _ in whole.rows())
        if n < 10:
            raise InputError(f"{whole.path}: {n} rows, wanted at least 10 to hold out a tenth for validation")
        cut = n - n // 10
        parts |= {"train": replace(whole, stop=cut), "valid": replace(whole, start=cut)}
    return parts


def prepare(
    name: str,
    parts: dict[str, Part],
    out: Path,
    *,
    rows: dict[str, int],
    vocab_size: int = VOCAB_SIZE,
    tokenizer_on: str = "train",
) -> dict:
    """Write a prepared folder, completely or not at all, and return the content of its meta.json.

    parts        : "train", "valid" and perhaps "test", which is used only to train the tokenizer
    rows         : split -> maximum number of rows, empty ones included; a split not named is used whole
    vocab_size   : maximum size of the vocabulary, V
    tokenizer_on : "train" for the training rows used, "all" for those of every split, as the authors do
    An earlier prepared folder is replaced. Memory does not grow with the data, except for the word counts
    of the tokenizer. Raises InputError for any other folder that is not empty, for rows without text or
    without a known character, and while another process prepares the same folder.
    """
    require_ours(out)
    parts = {split: part.at_most(rows.get(split)) for split, part in parts.items()}
    tokenizer_parts = {"train": parts["train"]} if tokenizer_on == "train" else parts
    with replacing_folder(out) as folder:

        def texts() -> Iterable[str]:
            rows = chain.from_iterable(part.rows() for part in tokenizer_parts.values())
            return _documents(tqdm(rows, "reading rows", leave=False, disable=None))

        tokenizer = PaperTokenizer.train(texts, vocab_size)
        tokenizer.save(folder / "tokenizer.json")
        dtype = np.dtype("uint16" if len(tokenizer) <= 2**16 else "uint32")
        splits = {}
        for split in ("train", "valid"):
            bar = tqdm(parts[split].rows(), f"writing {split}", leave=False, disable=None)
            splits[split] = _write_tokens(folder / f"{split}.bin", bar, tokenizer, dtype)
            if splits[split]["tokens"] == 0:
                raise InputError(f"{parts[split].path}: no text in the {split} rows, wanted at least a word")
            if splits[split]["tokens"] == splits[split]["documents"] + splits[split]["unknown"]:
                raise InputError(
                    f"{parts[split].path}: no character of the {split} rows is in the training rows, "
                    "wanted text in the same script; choose another file"
                )
        meta = {
            "dataset": name,
            "sources": {
                split: {
                    "file": part.path.name,
                    "sha256": part.sha256,
                    "verified": part.verified,
                    "rows": [part.start, part.stop],
                }
                for split, part in parts.items()
                if split in splits or split in tokenizer_parts
            },
            "splits": splits,
            "dtype": dtype.name,
            "tokenizer": {
                "kind": tokenizer.kind,
                "vocab_size": vocab_size,
                "entries": len(tokenizer),
                "trained_on": sorted(tokenizer_parts),
            },
            "versions": {name: _version(name) for name in ("minigam", "numpy", "pyarrow", "tokenizers")},
            "files": {
                file: {"bytes": (folder / file).stat().st_size, "sha256": sha256_of(folder / file)}
                for file in FILES
            },
        }
        write_sealed(folder / "meta.json", PREPARED, meta)
        require_ours(out)  # again: somebody may have put a file there meanwhile
    return meta


def require_ours(out: Path) -> None:
    """Raise InputError unless `out` is new, an empty folder, or an earlier prepared folder, with or without
    damage, that nobody put another file into."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    ours = out.is_dir() and {file.name for file in out.iterdir()} == {*FILES, "meta.json"}
    with suppress(InputError):  # of a damaged meta.json
        ours = ours and str(read_json(out / "meta.json").get("format")).startswith("minigam prepared")
    if not ours:
        raise InputError(
            f"{out}: exists and is not a prepared dataset, or has other files too; "
            "move it, or choose another --out"
        )


def _documents(rows: Iterable[str]) -> Iterator[str]:
    return (text for row in rows if (text := row.strip()))


def _write_tokens(path: Path, rows: Iterable[str], tokenizer: PaperTokenizer, dtype: np.dtype) -> dict:
    """Write the tokens of one split, one document per non-empty row, and return the counts.

    A document counts the words and bytes of its text, and one byte for its end, which [EOS] encodes.
    """
    n = dict.fromkeys(("rows", "documents", "tokens", "words", "bytes", "unknown"), 0)
    rows = iter(rows)
    with path.open("wb") as f:
        while batch := list(islice(rows, 1000)):
            texts = list(_documents(batch))
            ids = np.fromiter(chain.from_iterable(tokenizer.encode_documents(texts)), dtype)
            f.write(ids.astype(dtype.newbyteorder("<")).tobytes())
            size = TextSize.of("".join(f"{text}\n" for text in texts), len(ids))
            counts = (len(batch), len(texts), size.tokens, size.words, size.bytes)
            for name, count in zip(n, (*counts, int((ids == tokenizer.unknown).sum()))):
                n[name] += count
    return n | {"unknown_share": n["unknown"] / max(n["tokens"], 1)}


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
