"""Files of public datasets: downloaded from the Hugging Face hub, and held to the SHA-256 we know."""

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from tqdm import tqdm

from minigam.config import InputError
from minigam.files import sha256_of

HUB = "https://huggingface.co"


@dataclass(frozen=True)
class HubFile:
    """One file of a dataset repository at one revision, and what must arrive.

    size   : bytes
    sha256 : hexadecimal
    """

    repo: str
    revision: str
    path: str
    size: int
    sha256: str


def verify(file: HubFile, path: Path, trust: bool = False) -> tuple[str, bool]:
    """Return the SHA-256 of what lies at `path`, and whether it is the one of `file`.

    Raises InputError naming both when it is not, unless told to trust; then one line on stderr says so.
    """
    if not path.is_file():
        raise InputError(f"{path}: not there; download it with minigam data fetch")
    own = sha256_of(path)
    if own == file.sha256 and path.stat().st_size == file.size:
        return own, True
    found = (
        f"{path}: {path.stat().st_size:,} bytes of SHA-256 {own}, wanted {file.size:,} bytes of SHA-256 "
        f"{file.sha256}"
    )
    if not trust:
        raise InputError(f"{found}; fetch it again, or go on with it as it is by --trust-download")
    print(f"{found}; trusted, as you asked", file=sys.stderr)
    return own, False


def fetch(file: HubFile, folder: Path, *, trust: bool = False, offline: bool = False) -> str:
    """Make `file` lie in `folder`, verified; return a word on what was done.

    A file already there and right is not asked for again. One that is wrong is downloaded anew, or,
    with `trust`, taken as it is. HF_ENDPOINT names another server, read at this moment.
    Raises InputError when the server cannot be reached or has something else.
    """
    path = folder / file.path
    if path.is_file():
        own, right = sha256_of(path), path.stat().st_size == file.size
        if (right and own == file.sha256) or trust or offline:
            return "there, verified" if verify(file, path, trust)[1] else "there, not verified"
    elif offline:
        raise InputError(f"{path}: not there, and --offline downloads nothing; leave --offline away")
    _download(file, folder)
    return "downloaded, verified" if verify(file, path, trust)[1] else "downloaded, not verified"


class _Progress(tqdm):
    """The library goes on for ever with a server that cuts every answer and cannot resume one: each
    attempt brings something, and then is begun anew. Seen here as steps back."""

    steps_back = 0

    def __init__(self, **settings: Any):
        super().__init__(disable=None, **settings)  # shown to a terminal alone

    def update(self, n: float = 1) -> bool | None:
        self.steps_back += n < 0
        if self.steps_back > 5:
            raise ConnectionError("the server cut six attempts and resumed none")
        return super().update(n)


def _download(file: HubFile, folder: Path) -> None:
    hub = _library()
    endpoint = (os.environ.get("HF_ENDPOINT") or HUB).rstrip("/")
    where = {"repo_type": "dataset", "revision": file.revision, "endpoint": endpoint}
    try:
        # Asked once beforehand: to a server that is dead or silent hf_hub_download returns for minutes.
        # No token: what is public needs none, and a mirror shall not see the user's.
        hub.get_hf_file_metadata(
            hub.hf_hub_url(file.repo, file.path, **where),
            timeout=hub.constants.HF_HUB_ETAG_TIMEOUT,
            endpoint=endpoint,
            token=False,
        )
        hub.hf_hub_download(
            file.repo,
            file.path,
            **where,
            local_dir=folder,
            force_download=(folder / file.path).exists(),
            token=False,
            tqdm_class=_Progress,
        )
    except Exception as e:  # of the library, of the HTTP client under it, of the system
        reason = e.__cause__ or e
        text = " ".join(f"{type(reason).__name__}: {reason}".split())[:300]
        raise InputError(
            f"{endpoint}: no {file.path} of {file.repo} from there ({text}); "
            "try again later, or name a mirror in HF_ENDPOINT"
        ) from e


def _library() -> ModuleType:
    # Both are read when the library is first imported. Its other protocol writes to a cache outside our
    # folder, as does what it would ask a server besides files, and mirrors have neither.
    os.environ.setdefault("HF_HUB_DISABLE_XET", "1")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    try:
        import huggingface_hub.constants
    except ImportError as e:
        raise InputError(
            "downloading needs the extra `data`, which is not installed; "
            "the README's section Install says how"
        ) from e
    huggingface_hub.logging.set_verbosity_error()  # every retry is a warning otherwise
    return huggingface_hub
