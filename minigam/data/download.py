"""A dataset of the paper, from the hub to a prepared folder."""

from dataclasses import dataclass
from pathlib import Path

from minigam.config import InputError
from minigam.data.corpus import find_prepared, read_meta
from minigam.data.datasets import DATASETS
from minigam.data.hub import HubFile, fetch, probe
from minigam.data.prepare import ROWS, fetched_parts, prepare, require_ours


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
        """Return the files that will be downloaded."""
        files = DATASETS[self.name].hub.values()
        return [file for file in files if not self._is_here(file)]

    def _is_here(self, file: HubFile) -> bool:
        path = self.folder / file.path
        return path.is_file() and (self.trust or path.stat().st_size == file.size)

    def require_possible(self) -> None:
        """Raise InputError if the server does not answer, or if something else is where to prepare it."""
        require_ours(self.prepared)
        for file in self.missing()[:1]:
            probe(file)

    def fetch(self, offline: bool = False) -> None:
        """Download what is not here, verify all, and print what was done. Raises InputError as `hub.fetch`
        does."""
        for file in DATASETS[self.name].hub.values():
            print(f"{self.folder / file.path}: {fetch(file, self.folder, trust=self.trust, offline=offline)}")

    def run(self) -> None:
        """Fetch and prepare it as the paper does, unless another process has done so meanwhile.

        Raises InputError where `fetch` and `prepare.prepare` do.
        """
        self.fetch()
        if Download.needed(self.name) is not None:
            prepare(self.name, fetched_parts(self.name, self.folder, self.trust), self.prepared, rows=ROWS)
        splits = read_meta(self.prepared)["splits"]
        counts = ", ".join(f"{split} {n['tokens']:,} tokens" for split, n in splits.items())
        print(f"{self.prepared}: {counts}")
