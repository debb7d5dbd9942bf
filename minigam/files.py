"""Write files completely or not at all. Read files and, if that fails, say why in one clear line."""

import hashlib
import json
import math
import os
import re
import shutil
import stat
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import BufferedReader
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from minigam import launcher
from minigam.config import InputError, shortened


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path next to `path`, and move it to `path` when the block ends without an error.

    A crash at any moment leaves the old file or the new one, never half of one. A kill also leaves the
    temporary file; `locked` removes it. A link is followed. Raises InputError for a device or a folder,
    and OSError that names `path`, for example on a full disk.
    """
    path = Path(os.path.realpath(path))  # `resolve` raises for links in a circle, of which a link is left
    if path.is_symlink() or (path.exists() and not path.is_file()):
        raise InputError(f"{path}: exists and is not a regular file; choose another name")
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=TEMPORARY, suffix=f"-{path.name}")
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
    except OSError as e:
        raise OSError(e.errno, e.strerror or str(e), str(path)) from e  # not the temporary file's name


TEMPORARY = ".unfinished-"  # how the names of temporary files begin


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold `folder`, made if it is missing, for this process alone, and remove temporary files in it that
    killed processes left. The system releases the lock, the file .lock, however the process ends.

    Raises InputError when another process holds it, or when the folder cannot be written.
    """
    lock, made = folder / LOCK, not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        holder = FileLock(lock, blocking=False).acquire()
    except Timeout as e:
        raise InputError(f"{folder}: in use by another process; wait until it ends") from e
    except OSError as e:
        raise InputError(f"{folder}: {e.strerror or e}; choose a writable --out") from e
    with holder:
        for left_over in folder.glob(f"{TEMPORARY}*"):
            left_over.unlink(missing_ok=True)
        try:
            yield
        finally:
            with suppress(OSError):
                lock.unlink()  # safe while it is held: who waits for this file notices
                if made:
                    folder.rmdir()  # if nothing was written


LOCK = ".lock"


@contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """Yield an empty folder next to `path`, and move it to `path` when the block ends without an error.

    A kill leaves the old folder or the new one (between the two renames: neither), never half of one.
    The next call for the same path restores the old one and removes leftovers.

    Raises InputError while another process makes the same folder, and OSError that names `path`.
    """
    path = Path(os.path.realpath(path))
    work, old = (path.with_name(f".{path.name}.{state}") for state in ("unfinished", "old"))
    new = work / path.name

    def restore() -> None:
        if old.exists() and not path.exists():  # stopped between the two renames
            old.rename(path)

    with locked(work):
        try:
            restore()
            for left_over in (new, old):
                shutil.rmtree(left_over, ignore_errors=True)
            new.mkdir()
            yield new
            if path.exists():
                path.rename(old)
            new.rename(path)
            shutil.rmtree(old, ignore_errors=True)
        except OSError as e:
            raise OSError(e.errno, e.strerror or str(e), str(path)) from e
        finally:
            restore()
            shutil.rmtree(new, ignore_errors=True)
    with suppress(OSError):
        work.rmdir()  # if a call that was killed had made it


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text, completely or not at all. Raises InputError for an invalid byte of a file's name,
    which Python turns into a character that UTF-8 lacks."""
    try:
        data = text.encode()
    except UnicodeEncodeError as e:
        raise InputError(
            f"{path}: cannot hold {text[e.start]!r} of a file's name, wanted UTF-8; rename it"
        ) from e
    with replacing(path) as temporary:
        temporary.write_bytes(data)


def write_json(path: Path, content: dict) -> None:
    """Write a JSON object, completely or not at all."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_sealed(path: Path, format: str, content: dict) -> None:
    """Write a JSON object with its format and its own SHA-256, completely or not at all."""
    content = {"format": format, **content}
    write_json(path, content | {"sha256": _seal(content)})


def read_sealed(path: Path, format: str, remedy: str) -> dict:
    """Read what `write_sealed` wrote. Raises InputError as `read_json` does, for another format, of which
    nothing tells whether the content has changed, and for content that has."""
    content = read_json(path, remedy)
    if content.get("format") != format:
        raise InputError(f"{path}: format {content.get('format')!r}, wanted {format!r}; {remedy}")
    if content.pop("sha256", None) != _seal(content):
        raise InputError(f"{path}: changed since it was written; {remedy}")
    del content["format"]
    return content


def _seal(content: dict) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


@contextmanager
def reading(path: Path, wanted: str) -> Iterator[BufferedReader]:
    """Open a regular file to read its bytes. Every file of the user is opened here.

    Raises InputError when it is missing, unreadable (also later, within the block), or anything else: a
    folder, or a pipe or device, which may never answer or never end.
    """
    try:
        mode = path.stat().st_mode
    except OSError as e:
        raise InputError(f"{path}: {e.strerror or e}; wanted {wanted}") from e
    except ValueError as e:  # a zero byte, which only a file can hold
        raise InputError(f"{str(path)!r}: not the name of a file ({e}); wanted {wanted}") from e
    if not stat.S_ISREG(mode):
        what = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe"}.get(stat.S_IFMT(mode), "a device")
        raise InputError(f"{path}: {what}, not a regular file; wanted {wanted}")
    try:
        with path.open("rb") as f:
            yield f
    except OSError as e:
        raise InputError(f"{path}: {e.strerror or e}; wanted {wanted}") from e


def read_json(path: Path, remedy: str = "train again", most: int = 2**24) -> dict:
    """Read a JSON object of at most `most` bytes. Raises InputError when the file is missing, larger, or
    holds something else; `remedy` says what the user can do instead of restoring it."""
    with reading(path, "a file that minigam wrote") as f:
        small = os.fstat(f.fileno()).st_size <= most
        data = f.read() if small else b""
    try:
        if not small:
            raise ValueError(f"more than {most:,} bytes")
        content = parse_json(data.decode("utf-8"))
    except ValueError as e:
        raise InputError(f"{path}: damaged, not JSON ({e}); restore the file or {remedy}") from e
    if not isinstance(content, dict):
        raise InputError(f"{path}: holds a {type(content).__name__}, wanted a JSON object")
    return content


def parse_json(text: str) -> Any:
    """Return the value of a JSON text. Raises ValueError for everything that minigam never writes: a name
    twice in one object, a number that is not finite, half of a surrogate pair, nesting too deep to read."""

    def unique(pairs: list[tuple[str, Any]]) -> dict:
        if len(content := dict(pairs)) < len(pairs):
            name = next(name for name, n in Counter(name for name, _ in pairs).items() if n > 1)
            raise ValueError(f"{name[:50]!r} twice in one object")
        return content

    def finite(number: str) -> float:
        if not math.isfinite(value := float(number)):
            raise ValueError(f"the number {number[:50]}")
        return value

    try:
        content = json.loads(text, object_pairs_hook=unique, parse_float=finite, parse_constant=finite)
    except RecursionError as e:
        raise ValueError("nested too deep") from e
    if re.search(r"\\u[dD][89a-fA-F]", text):
        json.dumps(content, ensure_ascii=False).encode()  # raises UnicodeEncodeError for half of a pair
    return content


def read_text(path: Path) -> str:
    """Read a UTF-8 text file. Raises InputError when it is missing, empty, binary or not UTF-8."""
    data = bytearray()
    for part in _parts(path, lines=False):
        data += part
    if not data.strip():
        raise InputError(f"{path}: empty, wanted a text file with something in it")
    return _decode(path, data)


def read_lines(path: Path) -> Iterator[str]:
    """Yield the lines of a UTF-8 text file with their line breaks, without reading the whole file first.

    Raises InputError when the file is missing, binary or not UTF-8.
    """
    place, line = 0, bytearray()
    for part in _parts(path, lines=True):
        line += part
        if part.endswith(b"\n"):
            yield _decode(path, line, place)
            place, line = place + len(line), bytearray()
    if line:
        yield _decode(path, line, place)


def _parts(path: Path, lines: bool) -> Iterator[bytes]:
    """Yield a text file in parts of at most 1 MiB, which end no later than their line if `lines`.

    Raises InputError at the first zero byte, so that a sparse file is not read to its end.
    """
    place = 0
    with reading(path, "a text file") as f:
        while part := f.readline(2**20) if lines else f.read(2**20):
            if b"\0" in part:
                at = place + part.index(0)
                raise InputError(f"{path}: binary (a zero byte at {at}), wanted a UTF-8 text file")
            place += len(part)
            yield part


def _decode(path: Path, data: bytearray, place: int = 0) -> str:
    """Decode UTF-8 bytes that start at `place` in a file, without the byte order mark and the line ends of
    Windows. Raises InputError with the place of a fault."""
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as e:
        raise InputError(
            f"{path}: not UTF-8 (byte {data[e.start]:#04x} at {place + e.start}); "
            "convert it, for example with iconv -f latin1 -t utf-8"
        ) from e
    return (text if place else text.removeprefix("\ufeff")).replace("\r\n", "\n")


def sha256_of(path: Path, most: float = math.inf) -> str:
    """Return the SHA-256 of a file, in hexadecimal. Raises InputError if it cannot be read, or has more than
    `most` bytes."""
    with reading(path, "a file") as f:
        if (size := os.fstat(f.fileno()).st_size) > most:
            raise InputError(f"{path}: {size:,} bytes, wanted at most {most:,}; restore the file")
        return hashlib.file_digest(f, "sha256").hexdigest()


def is_same(path: Path, size: int, sha256: str) -> bool:
    """Return whether a file has this size in bytes and this SHA-256. A file of another size, which may take
    hours to hash, is not read. Raises InputError if it cannot be read."""
    with reading(path, "a file") as f:
        return os.fstat(f.fileno()).st_size == size and hashlib.file_digest(f, "sha256").hexdigest() == sha256


def _digest(arrays: dict[str, np.ndarray], metadata: dict[str, str] | None) -> str:
    """Return the SHA-256 of the metadata, and of every array's name, dtype, shape and bytes. Without
    metadata (format 1): of the names and bytes."""
    digest = hashlib.sha256()
    if metadata is not None:
        layout = [(name, a.dtype.name, a.shape) for name, a in sorted(arrays.items())]
        digest.update(json.dumps([metadata, layout], sort_keys=True).encode())
    for name in sorted(arrays):
        digest.update(name.encode())
        digest.update(np.asarray(arrays[name], order="C").reshape(-1).data)
    return digest.hexdigest()


def write_arrays(path: Path, content: str, arrays: dict[str, np.ndarray], metadata: dict[str, str]) -> None:
    """Write a safetensors file of format "minigam CONTENT 2"; equal arguments give equal bytes.

    The library writes metadata in a varying order, so all of it goes under one key, as JSON.
    """
    metadata = metadata | {"format": f"minigam {content} 2"}
    metadata["sha256"] = _digest(arrays, metadata)
    data = save(
        {name: np.asarray(a, order="C") for name, a in arrays.items()},
        {"minigam": json.dumps(metadata, sort_keys=True)},
    )
    with replacing(path) as temporary:
        temporary.write_bytes(data)


def read_arrays(path: Path, content: str) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Read the arrays and the metadata that `write_arrays` wrote with the same `content`.

    Raises InputError when the file is missing, damaged or another program's.
    """
    with reading(path, "a safetensors file that a training run wrote"):
        pass  # the library opens the file itself
    try:
        with safe_open(path, framework="numpy") as f:
            arrays = {name: f.get_tensor(name) for name in f.keys()}  # noqa: SIM118
            metadata = parse_json((f.metadata() or {})["minigam"])
        version = {f"minigam {content} 1": 1, f"minigam {content} 2": 2}[metadata["format"]]
        given = metadata.pop("sha256")
        if given != _digest(arrays, metadata if version == 2 else None):
            raise ValueError("its content has changed since it was written")
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, AttributeError) as e:
        raise InputError(
            f"{path}: damaged, or not the {content} that minigam wrote ({shortened(str(e))}); "
            "restore the file or train again"
        ) from e
    if version == 1 and launcher.rank() == 0:
        print(f"{path}: of an earlier version, whose step and settings cannot be checked", file=sys.stderr)
    return arrays, metadata
