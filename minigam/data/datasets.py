"""The datasets of the paper: where their files are, and how to read rows from them."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

from minigam.config import InputError, shortened
from minigam.data.hub import HubFile
from minigam.files import read_lines, reading

SPLITS = ("train", "valid", "test")
END_OF_STORY = "<|endoftext|>"


@dataclass(frozen=True)
class Dataset:
    """One dataset of the paper.

    row    : "line" or "story": what one row of a text file is
    hub    : split -> the file to download
    local  : names that its text files go by; {} stands for the split
    tokens : split -> about how many tokens the paper's rows have, to foresee what training takes
    """

    licence: str
    row: str
    hub: dict[str, HubFile]
    local: tuple[str, ...]
    tokens: dict[str, int]


def _wikitext(split: str, size: int, sha256: str) -> HubFile:
    path = f"wikitext-2-raw-v1/{split}-00000-of-00001.parquet"
    return HubFile("Salesforce/wikitext", "b08601e04326c79dfdd32d625aee71d232d685c3", path, size, sha256)


def _tinystories(name: str, size: int, sha256: str) -> HubFile:
    path = f"data/{name}.parquet"
    return HubFile("roneneldan/TinyStories", "f54c09fd23315a6f9c86f9dc80f725de7d8f9c64", path, size, sha256)


# TinyStories: the first of its four training files. It has 529,930 stories; the paper uses 50,000.
DATASETS = {
    "wikitext-2": Dataset(
        licence="CC BY-SA 3.0 and GFDL",
        row="line",
        hub={
            "train": _wikitext(
                "train", 6_357_543, "e83889baabc497075506f91975be5fac0d45c5290b6b20582c8cd1e853d0c9f7"
            ),
            "valid": _wikitext(
                "validation", 657_209, "204929b7ff9d6184953f867dedb860e40aa69c078fc1e54b3baaa8fb28511c4c"
            ),
            "test": _wikitext(
                "test", 732_610, "5f1bea067869d04849c0f975a2b29c4ff47d867f484f5010ea5e861eab246d91"
            ),
        },
        local=("wiki.{}.raw", "wiki.{}.tokens", "{}.txt"),
        tokens={"train": 2_600_000, "valid": 280_000},
    ),
    "tinystories": Dataset(
        licence="CDLA-Sharing-1.0",
        row="story",
        hub={
            "train": _tinystories(
                "train-00000-of-00004-2d5a1467fff1081b",
                248_731_111,
                "77cf780cebe52b6e83e3a2ac84bc56d8059363113e41d17a023f1d8b2ed0fc0b",
            ),
            "valid": _tinystories(
                "validation-00000-of-00001-869c898b519ad725",
                9_989_127,
                "33406a6206554cfc279c29c11f4df51528af487aa1a602b075566fc83c49dcab",
            ),
        },
        local=("TinyStories-{}.txt", "TinyStoriesV2-GPT4-{}.txt", "{}.txt"),
        tokens={"train": 10_000_000, "valid": 1_000_000},
    ),
}


@dataclass(frozen=True)
class Part:
    """A range of rows in one file.

    start, stop : the first row and the one after the last; None for the end of the file
    sha256      : of the whole file; `verified` says whether it is the recorded one, None if none is recorded
    """

    path: Path
    row: str
    sha256: str
    verified: bool | None = None
    start: int = 0
    stop: int | None = None

    def rows(self) -> Iterator[str]:
        """Yield the rows one at a time, so that a file may be larger than memory."""
        return islice(read_rows(self.path, self.row), self.start, self.stop)

    def at_most(self, n: int | None) -> "Part":
        """Return the part that ends after the first n of these rows; None for all."""
        stops = [stop for stop in (self.stop, None if n is None else self.start + n) if stop is not None]
        return replace(self, stop=min(stops, default=None))


def find_texts(name: str, folder: Path) -> dict[str, Path]:
    """Return split -> text file of a dataset in `folder`, using the first set of names that is complete.

    A dataset of stories needs no validation file. Raises InputError that lists the names searched for.
    """
    dataset = DATASETS[name]
    needed = SPLITS[:1] if dataset.row == "story" else SPLITS[:2]
    for naming in dataset.local:
        paths = {split: folder / naming.format(split) for split in SPLITS}
        if all(paths[split].is_file() for split in needed):
            return {split: path for split, path in paths.items() if path.is_file()}
    wanted = ", or ".join(" and ".join(naming.format(s) for s in needed) for naming in dataset.local)
    raise InputError(f"{folder}: no files of {name}, wanted {wanted}; name yours with --train and --valid")


def read_rows(path: Path, row: str) -> Iterator[str]:
    """Yield the rows of a parquet file (its column `text`), or of a text file (its lines or stories).
    Raises InputError when it is neither."""
    if path.suffix == ".parquet":
        return _parquet_rows(path)
    return read_lines(path) if row == "line" else _stories(path)


def _parquet_rows(path: Path) -> Iterator[str]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as e:
        raise InputError(
            "reading a parquet file needs the extra `data`, which is not installed; see docs/install.md"
        ) from e
    with reading(path, "a parquet file") as f:
        try:
            file = parquet.ParquetFile(f)
            dtype = file.schema_arrow.field("text").type
            if dtype not in (pyarrow.string(), pyarrow.large_string()):
                raise KeyError(f"it holds {dtype}")
            for batch in file.iter_batches(batch_size=1000, columns=["text"]):
                yield from (text or "" for text in batch.column("text").to_pylist())
        except (pyarrow.ArrowException, KeyError, OSError, UnicodeDecodeError) as e:
            reason = shortened(" ".join(str(e).split()))
            raise InputError(
                f"{path}: not a parquet file with a column `text` ({reason}); restore it or fetch it again"
            ) from e


def _stories(path: Path) -> Iterator[str]:
    """Yield the stories of a text file.

    They end at <|endoftext|> if the file contains it. Otherwise a blank line ends a paragraph, and a line
    break between two lines of text ends a story; if the file has no such break, a blank line ends a story.
    """
    marked, lone, before = False, False, ""
    for line in read_lines(path):
        marked = marked or END_OF_STORY in line
        lone = lone or bool(before.strip() and line.strip())
        before = line

    def pieces() -> Iterator[str]:
        story: list[str] = []
        for line in read_lines(path):
            if marked:
                *ended, line = line.split(END_OF_STORY)
                for rest in ended:
                    yield "".join([*story, rest])
                    story = []
            elif story and (line.strip() and story[-1].strip() if lone else not line.strip()):
                yield "".join(story)
                story = []
            story.append(line)
        yield "".join(story)

    return (story for piece in pieces() if (story := piece.strip()))
