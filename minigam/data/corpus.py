"""What a model trains on: rows of token ids, from PocketStories or from any text."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from minigam.config import InputError
from minigam.data import pocketstories
from minigam.data.tokenizer import BPETokenizer, CharTokenizer, WordTokenizer
from minigam.data.tokenizer import load as load_tokenizer
from minigam.engine.memory import require_memory
from minigam.files import is_same, read_sealed, read_text

PREPARED = "minigam prepared 2"  # format of the folders that `minigam data prepare` writes
AGAIN = "prepare it again"
IGNORE = -1  # pads a row after its text: as a target it is ignored, as an input it becomes token 0


@dataclass(frozen=True)
class TextSize:
    """The length of one text in three units, so that losses can be compared between tokenizers."""

    tokens: int  # as many as a model predicts in the whole text
    words: int  # separated by white space
    bytes: int  # in UTF-8

    @classmethod
    def of(cls, text: str, tokens: int) -> "TextSize":
        return cls(tokens, len(text.split()), len(text.encode()))


@dataclass(frozen=True)
class Corpus:
    """Rows to train and to validate on.

    train, valid : (N, T+1) integers, perhaps memory-mapped. A row gives T inputs and T targets, each
                   target being the token after its input; IGNORE pads a text shorter than its row.
                   Or (N, 2, T): inputs, and targets that are not simply the next tokens
    valid_size   : length of the validation text
    kinds, floor : (N, T) for `valid`, only where the generator is known: the kind of each target
                   (an index into pocketstories.KINDS), and -log of its probability in nats,
                   whose mean is the floor
    """

    name: str
    tokenizer: Any
    train: np.ndarray
    valid: np.ndarray
    valid_size: TextSize
    kinds: np.ndarray | None = None
    floor: np.ndarray | None = None

    def fingerprint(self) -> str:
        """Return the SHA-256 of all rows; equal data gives an equal hash."""
        digest = hashlib.sha256()
        for rows in (self.train, self.valid):
            digest.update(str(rows.shape).encode())
            for part in _parts(rows):
                digest.update(np.ascontiguousarray(part, dtype="<i4").data)
        return digest.hexdigest()

    def train_tokens(self) -> int:
        """Return the number of targets in the training rows."""
        return sum(int((part[:, 1:] >= 0).sum()) for part in _parts(self.train))


def _parts(rows: np.ndarray) -> Iterator[np.ndarray]:
    """Yield the rows in parts that fit into memory, because a memory-mapped corpus may not."""
    return (rows[start : start + 4096] for start in range(0, len(rows), 4096))


def inputs_and_targets(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Split rows of a `Corpus` into inputs (N, T) and targets (N, T), both int64.

    Negative targets are ignored.

    >>> x, y = mg.inputs_and_targets(np.array([[5, 6, 7, 8]]))
    >>> x.tolist(), y.tolist()
    ([[5, 6, 7]], [[6, 7, 8]])
    """
    rows = rows.astype(np.int64)
    if rows.ndim == 3:
        return rows[:, 0], rows[:, 1]
    return np.maximum(rows[:, :-1], 0), rows[:, 1:]


def from_pocketstories(
    block_size: int, n_train: int = 20_000, n_valid: int = 1_000, seed: int = 0, progress: bool = False
) -> Corpus:
    """Make PocketStories: each row is one story between two boundary tokens.

    Training stories are drawn from the seed 2 * seed, validation stories from 2 * seed + 1.
    Raises InputError when the longest story does not fit into block_size, or the rows into memory.

    >>> corpus = mg.from_pocketstories(block_size=128, n_train=20, n_valid=5)
    >>> corpus.train.shape, corpus.tokenizer.decode(corpus.train[0, :6])
    ((20, 129), 'There was once a plump')
    """
    if block_size <= (longest := pocketstories.grammar().longest()):
        raise InputError(
            f"block_size is {block_size}, wanted at least {longest + 1}: "
            "a row of PocketStories holds one whole story"
        )
    each = block_size * (4 + 1 + 8)  # tokens, kinds, floor
    require_memory(
        f"{n_train + n_valid:,} stories in rows of {block_size:,}", (n_train + n_valid) * each,
        "fewer stories or a smaller block_size",
    )  # fmt: skip
    tokenizer = WordTokenizer(pocketstories.vocabulary())
    end = tokenizer.id_of[pocketstories.BOUNDARY]
    bar = tqdm(total=n_train + n_valid, desc="writing stories", leave=False, disable=not progress or None)

    def split(n: int, split_seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        rows = np.full((n, block_size + 1), IGNORE, dtype=np.int32)
        kinds = np.zeros((n, block_size), dtype=np.int8)
        floor = np.zeros((n, block_size), dtype=np.float64)
        for i, story in enumerate(pocketstories.stories(n, split_seed)):
            length = len(story)
            rows[i, : length + 2] = [end, *(tokenizer.id_of[t.text] for t in story), end]
            kinds[i, :length] = [pocketstories.kind_of(t) for t in story]
            floor[i, :length] = [t.nats for t in story]
            bar.update()
        return rows, kinds, floor

    with bar:
        train, _, _ = split(n_train, 2 * seed)
        valid, kinds, floor = split(n_valid, 2 * seed + 1)
    targets = valid[:, 1:]
    text = "\n\n".join(tokenizer.decode(row[row >= 0]) for row in targets)
    size = TextSize.of(text, tokens=int((targets >= 0).sum()))
    return Corpus("pocketstories", tokenizer, train, valid, size, kinds, floor)


def from_text(
    text: Path,
    valid: Path | None = None,
    *,
    block_size: int,
    tokenizer: str = "char",
    vocab_size: int = 10_000,
) -> Corpus:
    """Cut a text file into non-overlapping blocks of block_size + 1 tokens (the paper's way).

    valid      : file to validate on; without it, the last tenth of `text` is held out
    tokenizer  : "char", or "bpe" with at most `vocab_size` tokens; trained on the training part only
    Raises InputError for an unusable file, or one shorter than a block.

    >>> import pathlib, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder, "text.txt")
    ...     _ = path.write_text("to be or not to be " * 20)
    ...     corpus = mg.from_text(path, block_size=8)
    ...
    >>> corpus.train.shape, corpus.tokenizer.decode(corpus.train[0])
    ((38, 9), 'to be or ')
    """
    content = read_text(text)
    cut = len(content) if valid is not None else len(content) - len(content) // 10
    parts = {"training": content[:cut], "validation": content[cut:] if valid is None else read_text(valid)}
    trained = (
        CharTokenizer.train(parts["training"])
        if tokenizer == "char"
        else BPETokenizer.train(parts["training"], vocab_size)
    )
    rows, tokens = {}, {}
    for name, part in parts.items():
        ids = np.array(trained.encode(part, strict=False), dtype=np.int32)
        source = valid if valid is not None and name == "validation" else text
        tokens[name], rows[name] = len(ids), _blocks(ids, block_size, name, source)
    if trained.unknown is not None and (rows["validation"] == trained.unknown).all():
        raise InputError(
            f"{valid or text}: no character of the validation text is in the training text, "
            "wanted text in the same script; choose another, or --tokenizer bpe"
        )
    size = TextSize.of(parts["validation"], tokens["validation"])
    return Corpus(text.name, trained, rows["training"], rows["validation"], size)


def _blocks(ids: np.ndarray, block_size: int, name: str, source: Path) -> np.ndarray:
    """View ids (n,) as non-overlapping rows (N, T+1), dropping the incomplete row at the end."""
    n = len(ids) // (block_size + 1)
    if n == 0:
        raise InputError(
            f"{source}: {len(ids)} tokens for {name}, wanted at least one block of "
            f"block_size + 1 = {block_size + 1}; give a longer text or a smaller --block-size"
        )
    return ids[: n * (block_size + 1)].reshape(n, block_size + 1)


def find_prepared(name: str) -> Path:
    """Return the absolute path of a prepared folder, given its path or its name under data/.

    Raises InputError that lists the places searched.
    """
    places = (Path(name), Path("data") / name, Path("data") / f"{name}-prepared")
    for place in places:
        if (place / "meta.json").is_file():
            return place.resolve()
    looked = ", ".join(dict.fromkeys(str(place / "meta.json") for place in places))
    raise InputError(f"{name}: no prepared dataset (looked for {looked}); run minigam data prepare")


def read_meta(folder: Path) -> dict:
    """Return the content of a prepared folder's meta.json. Raises InputError when it is missing, has changed
    since it was written, or has an older format."""
    return read_sealed(folder / "meta.json", PREPARED, AGAIN)


def from_prepared(folder: Path, block_size: int) -> Corpus:
    """Cut the token files of a prepared dataset into non-overlapping blocks of block_size + 1 tokens
    (the paper's way). The rows are memory-mapped and stay in their files.

    Raises InputError for a folder that is not a prepared dataset, or whose files have changed.
    """
    meta = read_meta(folder)
    for name, file in meta["files"].items():
        if not is_same(folder / name, file["bytes"], file["sha256"]):
            raise InputError(f"{folder / name}: changed since it was prepared; {AGAIN}")
    dtype, size = np.dtype(meta["dtype"]).newbyteorder("<"), meta["splits"]["valid"]
    rows = {
        split: _blocks(np.memmap(folder / f"{split}.bin", dtype, "r"), block_size, part, folder)
        for split, part in (("train", "training"), ("valid", "validation"))
    }
    return Corpus(
        meta["dataset"],
        load_tokenizer(folder / "tokenizer.json"),
        rows["train"],
        rows["valid"],
        TextSize(size["tokens"], size["words"], size["bytes"]),
    )
