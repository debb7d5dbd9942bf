"""A dataset of the paper, from the hub to a prepared folder."""

from dataclasses import dataclass
from pathlib import Path

from minigam.config import InputError
from minigam.data.corpus import find_prepared
from minigam.data.datasets import DATASETS
from minigam.data.hub import HubFile, fetch
from minigam.data.prepare import ROWS, fetched_parts, prepare


@dataclass(frozen=True)
class Download:
    """A dataset that is to be fetched and prepared.

    name  : one of DATASETS
    root  : folder of downloads
    trust : accept a file whose SHA-256 differs from the recorded one
    """

    name: str
    root: Path = Path("data")
    trust: bool = False

    @classmethod
    def needed(cls, name: str, trust: bool = False) -> "Download | None":
        """Return the download that `find_prepared(name)` misses; None if there is a prepared folder, or if
        the hub has no such dataset."""
        if name not in DATASETS:
            return None
        try:
            find_prepared(name)
        except InputError:
            return cls(name, trust=trust)
        return None

    @property
    def folder(self) -> Path:
        return self.root / self.name

    @property
    def prepared(self) -> Path:
        return self.root / f"{self.name}-prepared"

    def missing(self) -> list[HubFile]:
        """Return the files that are not here yet."""
        return [f for f in DATASETS[self.name].hub.values() if not (self.folder / f.path).is_file()]

    def run(self) -> None:
        """Fetch what is missing, prepare it as the paper does, and print what was done.

        Raises InputError where `hub.fetch` and `prepare.prepare` do.
        """
        for file in DATASETS[self.name].hub.values():
            print(f"{self.folder / file.path}: {fetch(file, self.folder, trust=self.trust)}")
        parts = fetched_parts(self.name, self.folder, self.trust)
        meta = prepare(self.name, parts, self.prepared, rows=ROWS)
        counts = ", ".join(f"{split} {n['tokens']:,} tokens" for split, n in meta["splits"].items())
        print(f"{self.prepared}: {counts}")
