"""Write files completely or not at all. Read files and, if that fails, say why in one clear line."""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from minigam.config import InputError


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path next to `path`, and move it to `path` when the block ends without an error.

    A crash at any moment leaves the old file or the new one, never half of one.
    """
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=path.suffix)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb+") as f:
            os.fsync(f.fileno())  # written to disk before the rename
        temporary.chmod(0o666 & ~_umask())  # mkstemp gives 0600
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """Yield an empty folder next to `path`, and move it to `path` when the block ends without an error.

    A crash leaves the old folder or the new one (between the two renames: neither), never half of one.
    The next call for the same path restores the old one and removes leftovers. Make one call at a time.
    """
    path = path.resolve()
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary, old = (path.with_name(f".{path.name}.{state}") for state in ("unfinished", "old"))
    if old.exists() and not path.exists():  # a crash came between the two renames
        old.rename(path)
    for left_over in (temporary, old):
        shutil.rmtree(left_over, ignore_errors=True)
    temporary.mkdir()
    try:
        yield temporary
        if path.exists():
            path.rename(old)
        temporary.rename(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    shutil.rmtree(old, ignore_errors=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text, completely or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, content: dict) -> None:
    """Write a JSON object, completely or not at all."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path, remedy: str = "train again") -> dict:
    """Read a JSON object. Raises InputError when the file is missing or holds something else;
    `remedy` says what the user can do instead of restoring it."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as e:
        raise InputError(f"{path}: {e.strerror or e}; wanted a file that a training run wrote") from e
    except ValueError as e:
        raise InputError(f"{path}: damaged, not JSON ({e}); restore the file or {remedy}") from e
    if not isinstance(content, dict):
        raise InputError(f"{path}: holds a {type(content).__name__}, wanted a JSON object")
    return content


def read_text(path: Path) -> str:
    """Read a UTF-8 text file. Raises InputError when it is missing, empty, binary or not UTF-8."""
    try:
        data = path.read_bytes()
    except OSError as e:
        raise InputError(f"{path}: {e.strerror or e}; wanted a text file") from e
    if not data.strip():
        raise InputError(f"{path}: empty, wanted a text file with something in it")
    return _decode(path, data).removeprefix("\ufeff").replace("\r\n", "\n")


def read_lines(path: Path) -> Iterator[str]:
    """Yield the lines of a UTF-8 text file with their line breaks, without reading the whole file first.

    Raises InputError when the file is missing, binary or not UTF-8.
    """
    try:
        with path.open("rb") as f:
            place = 0
            for line in f:
                text = _decode(path, line, place)
                yield (text if place else text.removeprefix("\ufeff")).replace("\r\n", "\n")
                place += len(line)
    except OSError as e:
        raise InputError(f"{path}: {e.strerror or e}; wanted a text file") from e


def _decode(path: Path, data: bytes, place: int = 0) -> str:
    """Decode UTF-8 bytes that start at `place` in a file. Raises InputError with the place of a fault."""
    if b"\0" in data:
        at = place + data.index(0)
        raise InputError(f"{path}: binary (a zero byte at {at}), wanted a UTF-8 text file")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as e:
        raise InputError(
            f"{path}: not UTF-8 (byte {data[e.start]:#04x} at {place + e.start}); "
            "convert it, for example with iconv -f latin1 -t utf-8"
        ) from e


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file of any size, in hexadecimal."""
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def _digest(arrays: dict[str, np.ndarray]) -> str:
    digest = hashlib.sha256()
    for name in sorted(arrays):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(arrays[name]).data)
    return digest.hexdigest()


def write_arrays(path: Path, arrays: dict[str, np.ndarray], metadata: dict[str, str]) -> None:
    """Write a safetensors file; equal content gives equal bytes.

    The library writes metadata in a varying order, so all of it goes under one key, as JSON.
    """
    metadata = metadata | {"sha256": _digest(arrays)}
    content = {"minigam": json.dumps(metadata, sort_keys=True)}
    data = save({name: np.ascontiguousarray(a) for name, a in arrays.items()}, content)
    with replacing(path) as temporary:
        temporary.write_bytes(data)


def read_arrays(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Read a safetensors file and `write_arrays`' metadata (empty if another program wrote it).

    Raises InputError when it is missing or damaged.
    """
    if not path.is_file():
        raise InputError(f"{path}: not found, wanted a safetensors file that a training run wrote")
    try:
        with safe_open(path, framework="numpy") as f:
            arrays = {name: f.get_tensor(name) for name in f.keys()}  # noqa: SIM118
            metadata = json.loads((f.metadata() or {}).get("minigam", "{}"))
        own = _digest(arrays)
        if isinstance(metadata, dict) and metadata.get("sha256", own) != own:
            raise ValueError("its numbers have changed since it was written")
        return arrays, metadata
    except (SafetensorError, OSError, ValueError) as e:
        raise InputError(f"{path}: damaged or not safetensors ({e}); restore the file or train again") from e
