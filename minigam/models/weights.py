"""Weights in safetensors files of other programs: one file, or the parts that an index lists.

    arrays = read_weights("mamba-130m-hf", dtype="float32")   # a folder, a file, or an index

Only safetensors is read. Other formats can hold a pickle, which runs code when it is loaded.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from minigam.config import InputError, shortened
from minigam.files import parse_json, read_json, reading

ONE, INDEX = "model.safetensors", "model.safetensors.index.json"  # what a folder holds
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
CONVERT = (
    "convert it where PyTorch is installed: safetensors.torch.save_file({name: t.contiguous().clone() "
    "for name, t in torch.load(FILE, map_location='cpu', weights_only=True).items()}, 'model.safetensors')"
)
LFS = b"version https://git-lfs"  # how the stand-in begins that a clone without git-lfs has for a large file
BFLOAT16 = "BF16"  # the upper half of a float32; NumPy lacks it
DTYPES = {
    "F64": "<f8", "F32": "<f4", "F16": "<f2", BFLOAT16: "<u2", "I64": "<i8", "I32": "<i4", "I16": "<i2",
    "I8": "i1", "U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "u1", "BOOL": "?",
}  # fmt: skip
FLOATS = {BFLOAT16: 16, "F16": 16, "F32": 32, "F64": 64}  # bits
WANTED = {None: 0, "float32": 32, "float64": 64}


def read_weights(path: str | os.PathLike, dtype: str | None = None) -> dict[str, np.ndarray]:
    """Return the arrays of a safetensors file, of the files that an index lists, or of a folder with either.

    path  : FILE.safetensors, FILE.safetensors.index.json, or a folder
    dtype : "float32" or "float64" converts floating-point arrays of fewer bits, which loses nothing; without
            it float16 and bfloat16 are refused, and others keep their dtype
    Raises InputError for a file that is missing, damaged, of another format, or has another dtype, and for
    an index that does not fit its files.

    >>> import tempfile
    >>> from safetensors.numpy import save_file
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_file({"D": np.ones(3, np.float16)}, f"{folder}/model.safetensors")
    ...     arrays = mg.read_weights(folder, dtype="float32")
    ...
    >>> arrays["D"]
    array([1., 1., 1.], dtype=float32)
    """
    with suppress(TypeError):  # of what is no dtype
        dtype = dtype if dtype is None else np.dtype(dtype).name
    if dtype not in WANTED:
        raise InputError(f"dtype is {dtype!r}, wanted float32, float64 or None")
    path = Path(path)
    with suppress(OSError):  # a folder that cannot be read is reported when the file is opened
        if path.is_dir():
            path = _in_folder(path)
    if path.suffix == ".json":
        return _read_index(path, dtype)
    return _read_file(path, dtype)


def _in_folder(folder: Path) -> Path:
    """Return the file of a folder that holds the weights, or lists the files that do."""
    try:
        files = sorted(folder.iterdir())
    except OSError as e:
        raise InputError(f"{folder}: {e.strerror or e}; wanted a folder that can be read") from e
    for name in (ONE, INDEX):
        if folder / name in files:
            return folder / name
    for file in files:
        if file.suffix in PICKLES:
            return file  # refused with its own remedy
    raise InputError(f"{folder}: wanted {ONE} or {INDEX} in it")


def _read_index(path: Path, dtype: str | None) -> dict[str, np.ndarray]:
    """Return the arrays of the files that an index lists."""
    with reading(path, "an index of safetensors files"):
        pass
    weight_map = read_json(path, "download it again").get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise InputError(f"{path}: wanted an index with a weight_map from names to files")
    for file in weight_map.values():
        plain = isinstance(file, str) and file.isprintable() and not set(file) & {"/", "\\", ":"}
        if not plain or not file.strip("."):
            raise InputError(f"{path}: file {shortened(repr(file))}, wanted a name in the same folder")
    files, wrong = sorted(set(weight_map.values())), []
    for file in files:  # the headers of all, before the numbers of any
        with _opened(path.parent / file, dtype) as (_, header, _):
            listed = {name for name, where in weight_map.items() if where == file}
            wrong += [f"{_shown(name)} is not in {file}" for name in sorted(listed - header.keys())]
            wrong += [f"{_shown(name)} of {file} is not listed" for name in sorted(header.keys() - listed)]
    if wrong:
        raise InputError(f"{path}: {_listed(wrong)}; download the files again")
    arrays: dict[str, np.ndarray] = {}
    for file in files:
        arrays |= _read_file(path.parent / file, dtype)
    return arrays


def _read_file(path: Path, dtype: str | None) -> dict[str, np.ndarray]:
    """Return the arrays of one safetensors file."""
    with _opened(path, dtype) as (f, header, start):
        return {name: _read_array(f, start, entry, dtype) for name, entry in header.items()}


@contextmanager
def _opened(path: Path, dtype: str | None) -> Iterator[tuple[Any, dict[str, Any], int]]:
    """Yield a safetensors file, the entries of its header, and where its numbers start. All dtypes can be
    returned as `dtype`."""
    if path.suffix in PICKLES:
        raise InputError(f"{path}: may be a pickle, which can run code when it is loaded; {CONVERT}")
    with reading(path, "a safetensors file") as f:
        try:
            with safe_open(path, framework="numpy"):
                pass  # the library has checked the header: that parts are in order, and the file complete
            size = int.from_bytes(f.read(8), "little")
            header = parse_json(f.read(size).decode())
        except (SafetensorError, ValueError) as e:
            message = f"{path}: damaged, or not a safetensors file ({shortened(str(e))})"
            f.seek(0)
            begin = f.read(len(LFS))
            if begin.startswith((b"PK", b"\x80\x02")):  # as torch.save begins
                raise InputError(f"{message}; it begins as a pickle does, {CONVERT}") from e
            if begin == LFS:
                raise InputError(f"{path}: stands for a file of Git LFS; run git lfs pull") from e
            raise InputError(f"{message}; download it again") from e
        header.pop("__metadata__", None)
        _require_dtypes(path, header, dtype)
        yield f, header, 8 + size


def _require_dtypes(path: Path, header: dict[str, Any], dtype: str | None) -> None:
    """Raise InputError listing the arrays that cannot be returned, or not in this dtype without a loss."""
    types = {_shown(name): entry["dtype"] for name, entry in header.items()}
    unknown = [f"{name} {t}" for name, t in types.items() if t not in DTYPES]
    if unknown:
        raise InputError(f"{path}: {_listed(unknown)}; wanted one of {', '.join(DTYPES)}")
    halves = [f"{name} {t}" for name, t in types.items() if FLOATS.get(t) == 16]
    if halves and dtype is None:
        raise InputError(f'{path}: {_listed(halves)}; convert them with dtype="float32"')
    larger = [f"{name} {t}" for name, t in types.items() if 0 < WANTED[dtype] < FLOATS.get(t, 0)]
    if larger:
        raise InputError(f'{path}: {_listed(larger)}; {dtype} would lose digits, use dtype="float64"')


def _shown(name: str) -> str:
    """Return the name of an array, in one printable line."""
    return name if name.isprintable() else repr(name)


def _listed(items: list[str], most: int = 4) -> str:
    rest = f" and {len(items) - most} more" if len(items) > most else ""
    return f"{', '.join(items[:most])}{rest}"


def _read_array(f: Any, start: int, entry: dict[str, Any], dtype: str | None) -> np.ndarray:
    """Return one array of an open file. Its bytes are at entry["data_offsets"], counted from `start`."""
    array = np.empty(entry["shape"], DTYPES[entry["dtype"]])
    f.seek(start + entry["data_offsets"][0])
    if f.readinto(array.reshape(-1).view(np.uint8)) != array.nbytes:
        raise InputError(f"{f.name}: became shorter while it was read; restore the file")
    if entry["dtype"] == BFLOAT16:
        bits = array.astype(np.uint32)
        bits <<= 16  # the missing half of the float32 is zero
        array = bits.view(np.float32)
    return array.astype(dtype, copy=False) if dtype and entry["dtype"] in FLOATS else array
