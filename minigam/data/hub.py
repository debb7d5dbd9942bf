"""Files of public datasets: downloaded from the Hugging Face hub and checked against a recorded SHA-256."""

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import urlsplit

from tqdm import tqdm

from minigam.config import InputError, shortened
from minigam.files import is_same, sha256_of

HUB = "https://huggingface.co"
OF_THE_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES}  # not of the server


@dataclass(frozen=True)
class HubFile:
    """One file of a dataset repository at one revision, with the size and hash it must have.

    size   : bytes
    sha256 : hexadecimal
    """

    repo: str
    revision: str
    path: str
    size: int
    sha256: str


def verify(file: HubFile, path: Path, trust: bool = False) -> tuple[str, bool]:
    """Return the SHA-256 of the file at `path`, and whether hash and size are those of `file`.

    If they are not, raises InputError with both; with `trust`, prints both to stderr instead.
    """
    if not path.exists():
        raise InputError(f"{path}: not found; download it with minigam data fetch")
    if is_same(path, file.size, file.sha256):
        return file.sha256, True
    size, wanted = path.stat().st_size, f"wanted {file.size:,} bytes with SHA-256 {file.sha256}"
    advice = "fetch it again, or accept it with --trust-download"
    if size != file.size and not trust:  # it may take hours to hash
        raise InputError(f"{path}: {size:,} bytes, {wanted}; {advice}")
    own = sha256_of(path)
    mismatch = f"{path}: {size:,} bytes with SHA-256 {own}, {wanted}"
    if not trust:
        raise InputError(f"{mismatch}; {advice}")
    print(f"{mismatch}; accepted because of --trust-download", file=sys.stderr)
    return own, False


def fetch(file: HubFile, folder: Path, *, trust: bool = False, offline: bool = False) -> str:
    """Download `file` into `folder` unless it is there, and verify it; return what was done.

    A correct copy is not downloaded again. A wrong copy is downloaded again or, with `trust`, accepted.
    The environment variable HF_ENDPOINT, read at each call, can name another server.
    Raises InputError when the server cannot be reached or sends a different file.
    """
    path = folder / file.path
    if path.is_file():
        if is_same(path, file.size, file.sha256):
            return "already there, verified"
        if trust or offline:
            verify(file, path, trust)
            return "already there, not verified"
    elif offline:
        raise InputError(f"{path}: not found, and --offline downloads nothing; omit --offline")
    _download(file, folder)
    return f"downloaded, {'' if verify(file, path, trust)[1] else 'not '}verified"


class _Progress(tqdm):
    """A progress bar that stops an endless download: huggingface_hub retries forever if the server drops
    every connection and cannot resume. We notice because the bar keeps moving backwards."""

    steps_back = 0

    def __init__(self, **settings: Any):
        super().__init__(disable=None, **settings)  # shown only on a terminal

    def update(self, n: float = 1) -> bool | None:
        self.steps_back += n < 0
        if self.steps_back > 5:
            raise ConnectionError("the server dropped six connections and resumed none")
        return super().update(n)


def probe(file: HubFile) -> str:
    """Return the address of the server, after asking it for the size of `file`.

    Raises InputError when the server cannot be reached or has no such file.
    """
    with _asking(file) as (hub, where):
        # hf_hub_download keeps retrying a dead or silent server for minutes; this does not.
        # No token: public files need none, and a mirror should not see the user's.
        hub.get_hf_file_metadata(
            hub.hf_hub_url(file.repo, file.path, **where),
            timeout=hub.constants.HF_HUB_ETAG_TIMEOUT,
            endpoint=where["endpoint"],
            token=False,
        )
    return where["endpoint"]


def _download(file: HubFile, folder: Path) -> None:
    probe(file)
    with _asking(file) as (hub, where):
        hub.hf_hub_download(
            file.repo,
            file.path,
            **where,
            local_dir=folder,
            force_download=(folder / file.path).exists(),
            token=False,
            tqdm_class=_Progress,
        )


@contextmanager
def _asking(file: HubFile) -> Iterator[tuple[ModuleType, dict]]:
    """Yield huggingface_hub and where it finds `file`; what it raises becomes an InputError, but for what is
    wrong with our own disk."""
    server = endpoint()  # first: the library cannot be imported with a malformed one
    hub = library()
    try:
        yield hub, {"repo_type": "dataset", "revision": file.revision, "endpoint": server}
    except Exception as e:  # from the library, from its HTTP client, or from the system
        if isinstance(e, OSError) and e.errno in OF_THE_DISK:
            raise
        reason = e.__cause__ or e
        text = shortened(" ".join(f"{type(reason).__name__}: {reason}".split()), 300)
        raise InputError(
            f"{server}: cannot download {file.path} of {file.repo} ({text}); "
            "try again later, or set HF_ENDPOINT to a mirror"
        ) from e


def endpoint() -> str:
    """Return the address of the server. Raises InputError if HF_ENDPOINT is not one."""
    given = os.environ.get("HF_ENDPOINT") or HUB
    try:
        address = urlsplit(given)
        usable = address.scheme in ("http", "https") and address.hostname and address.port != 0
    except ValueError:  # of brackets or of a port that are none
        usable = False
    if not usable:
        raise InputError(f"HF_ENDPOINT is {given!r}, wanted an address such as {HUB}")
    return given.rstrip("/")


def library() -> ModuleType:
    """Return huggingface_hub. Raises InputError if it is not installed, or cannot be imported here."""
    # huggingface_hub reads both variables when imported. Its Xet protocol and its telemetry write to a
    # cache outside our folder, and mirrors support neither.
    os.environ.setdefault("HF_HUB_DISABLE_XET", "1")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    try:
        import huggingface_hub.constants
    except ImportError as e:
        raise InputError(
            "downloading needs the extra `data`, which is not installed; see docs/install.md"
        ) from e
    except ValueError as e:
        raise InputError(
            f"huggingface_hub refuses an environment variable HF_* ({e}); correct or unset it"
        ) from e
    huggingface_hub.logging.set_verbosity_error()  # otherwise it warns at every retry
    return huggingface_hub
