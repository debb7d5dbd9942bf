"""Reading safetensors files of other programs: every dtype, several parts, and what is refused."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from helpers.safetensors_files import write
from safetensors.numpy import save_file

from minigam import read_weights
from minigam.config import InputError
from minigam.models import weights

ARRAYS = {
    "a": np.arange(6, dtype=np.float32).reshape(2, 3),
    "b": np.array([-0.0, np.inf, 1e-45], dtype=np.float32),
    "no-axes": np.array(2.5, dtype=np.float32),
    "empty": np.zeros((0, 3), dtype=np.float32),
}


def bfloat16(*values: float) -> bytes:
    """Return the bytes of numbers whose lower 16 bits are zero in float32."""
    bits = np.array(values, dtype=np.float32).view(np.uint32)
    assert not (bits & 0xFFFF).any()
    return (bits >> 16).astype("<u2").tobytes()


def sharded(folder, parts: dict[str, dict[str, np.ndarray]], **changes: str):
    """Write files and the index that lists them, with `changes` to its weight_map; return its path."""
    for file, arrays in parts.items():
        save_file(arrays, folder / file)
    weight_map = {name: file for file, arrays in parts.items() for name in arrays} | changes
    path = folder / "model.safetensors.index.json"
    path.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": weight_map}))
    return path


def assert_same(got: dict, wanted: dict) -> None:
    assert {n: (a.tobytes(), a.shape, a.dtype) for n, a in got.items()} == {
        n: (a.tobytes(), a.shape, a.dtype) for n, a in wanted.items()
    }


def refused(path, *messages: str, **settings) -> None:
    with pytest.raises(InputError) as caught:
        read_weights(path, **settings)
    assert "\n" not in str(caught.value)
    for message in messages:
        assert message in str(caught.value)


def test_a_file_and_its_folder_give_the_stored_bits(tmp_path):
    file = tmp_path / "model.safetensors"
    save_file(ARRAYS, file, {"format": "pt"})
    for path in (file, str(file), tmp_path):
        assert_same(read_weights(path), ARRAYS)
        assert_same(read_weights(path, dtype="float32"), ARRAYS)
    assert read_weights(file, dtype="float64")["b"].dtype == np.float64
    arrays = read_weights(file)
    arrays["a"] += 1.0  # its own, and writable


def test_each_dtype_of_numpy_is_kept(tmp_path):
    kept = {t: np.array([0, 1, 1], dtype=t) for t in ("f8", "f4", "i8", "i4", "i2", "i1", "u8", "u4", "u2",
                                                      "u1", "?")}  # fmt: skip
    save_file(kept, tmp_path / "x.safetensors")
    assert_same(read_weights(tmp_path / "x.safetensors"), kept)
    wide = read_weights(tmp_path / "x.safetensors", dtype="float64")
    assert wide["f4"].dtype == np.float64 and wide["i8"].dtype == np.int64


def test_halves_are_converted_on_request_alone_and_without_loss(tmp_path):
    numbers = [1.0, -0.0, 2.0**-133, np.inf, -3.140625]  # a subnormal too
    half = np.array([1.0, -0.0, 6e-8, 65504.0], dtype=np.float16)
    path = write(tmp_path / "x.safetensors", {
        "b": ("BF16", [5], bfloat16(*numbers)), "h": ("F16", [2, 2], half.tobytes()),
        "f": ("F32", [1], np.float32(0.1).tobytes()), "one": ("BF16", [], bfloat16(3.0)),
    })  # fmt: skip
    refused(path, 'b BF16, h F16, one BF16; convert them with dtype="float32"')
    got = read_weights(path, dtype="float32")
    assert_same(got, {
        "b": np.array(numbers, dtype=np.float32), "h": half.astype(np.float32).reshape(2, 2),
        "f": np.array([0.1], dtype=np.float32), "one": np.array(3.0, dtype=np.float32),
    })  # fmt: skip
    assert all(type(a) is np.ndarray and a.flags.writeable for a in got.values())
    assert_same(read_weights(path, dtype=np.float32), got)
    assert {a.dtype for a in read_weights(path, dtype="float64").values()} == {np.dtype("float64")}


def test_every_bfloat16_is_what_torch_reads(tmp_path):
    torch = pytest.importorskip("torch", reason="compares with PyTorch itself")
    from safetensors.torch import save_file as save_torch

    values = torch.arange(2**16, dtype=torch.int32).to(torch.uint16).view(torch.bfloat16)
    save_torch({"x": values}, tmp_path / "x.safetensors")
    got = read_weights(tmp_path / "x.safetensors", dtype="float32")["x"]
    np.testing.assert_array_equal(got.view(np.uint32), values.float().numpy().view(np.uint32))


@pytest.mark.parametrize("dtype", [int, "float", [], 3.5])
def test_a_dtype_that_is_none_is_one_line(tmp_path, dtype):
    refused(tmp_path, "wanted float32, float64 or None" if dtype != "float" else "wanted model", dtype=dtype)


def test_a_name_that_cannot_be_printed_is_shown_as_text(tmp_path):
    path = write(tmp_path / "x.safetensors", {"a\n\x1b[31m": ("F16", [1], b"\0\0")})
    refused(path, r"'a\n\x1b[31m' F16; convert")


def test_a_stand_in_of_git_lfs_is_recognised(tmp_path):
    (tmp_path / "x.safetensors").write_text(
        "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"
    )
    refused(tmp_path / "x.safetensors", "stands for a file of Git LFS; run git lfs pull")


def test_a_file_that_becomes_shorter_while_it_is_read_is_refused(tmp_path, monkeypatch):
    file = tmp_path / "x.safetensors"
    save_file({"longer than a buffer": np.zeros(100_000)}, file)

    def shorten(*args):
        os.truncate(file, file.stat().st_size - 1)

    monkeypatch.setattr(weights, "_require_dtypes", shorten)
    refused(file, "became shorter while it was read")


def test_a_conversion_that_loses_digits_is_refused(tmp_path):
    save_file({"wide": np.ones(2)}, tmp_path / "x.safetensors")
    refused(tmp_path / "x.safetensors", "wide F64; float32 would lose digits", dtype="float32")
    refused(tmp_path / "x.safetensors", "dtype is 'float16', wanted float32, float64", dtype="float16")


def test_dtypes_that_numpy_lacks_are_named(tmp_path):
    path = write(tmp_path / "x.safetensors", {f"w{i}": ("F8_E4M3", [1], b"\0") for i in range(6)})
    refused(path, "w0 F8_E4M3, w1 F8_E4M3, w2 F8_E4M3, w3 F8_E4M3 and 2 more; wanted one of F64, F32")


PARTS = {
    "model-00001-of-00002.safetensors": {"a": ARRAYS["a"], "b": ARRAYS["b"]},
    "model-00002-of-00002.safetensors": {"no-axes": ARRAYS["no-axes"], "empty": ARRAYS["empty"]},
}
FIRST, SECOND = PARTS


def test_parts_are_put_together(tmp_path):
    index = sharded(tmp_path, PARTS)
    assert_same(read_weights(index), ARRAYS)
    assert_same(read_weights(tmp_path), ARRAYS)


def test_an_index_is_compared_with_all_files_before_numbers_are_read(tmp_path, monkeypatch):
    monkeypatch.setattr(weights, "_read_array", None)  # it would fail
    refused(sharded(tmp_path, PARTS, z=SECOND), f"z is not in {SECOND}")


def test_an_index_that_does_not_fit_its_files_is_refused(tmp_path):
    index = sharded(tmp_path, PARTS, a=SECOND, z=FIRST)
    refused(index, f"a of {FIRST} is not listed", f"a is not in {SECOND}", f"z is not in {FIRST}")
    (tmp_path / SECOND).unlink()
    refused(tmp_path, SECOND, "No such file")


@pytest.mark.parametrize(
    "file", ["../model.safetensors", "/etc/passwd", "a/b", "", "..", "..\\x", "C:x", "a\n", 3]
)
def test_an_index_names_files_of_its_own_folder_alone(tmp_path, file):
    refused(sharded(tmp_path, PARTS, a=file), repr(file), "wanted a name in the same folder")


@pytest.mark.parametrize("content", ["{}", '{"weight_map": {}}', '{"weight_map": ["a"]}'])
def test_an_index_without_a_map_is_refused(tmp_path, content):
    path = tmp_path / "model.safetensors.index.json"
    path.write_text(content)
    refused(path, "wanted an index with a weight_map")


@pytest.mark.parametrize("name", ["pytorch_model.bin", "gam.pt", "gam.pth", "gam.ckpt", "gam.pkl"])
def test_a_pickle_is_never_opened(tmp_path, name):
    (tmp_path / name).write_bytes(b"cos\nsystem\n(S'touch broken'\ntR.")
    for path in (tmp_path / name, tmp_path):
        refused(path, name, "may be a pickle", "safetensors.torch.save_file")


@pytest.mark.parametrize("start", [b"PK\x03\x04", b"\x80\x02}q\0"])
def test_a_pickle_under_another_name_is_recognised(tmp_path, start):
    (tmp_path / "model.safetensors").write_bytes(start + 100 * b"\0")
    refused(tmp_path, "not a safetensors file", "begins as a pickle does", "safetensors.torch.save_file")


def test_what_torch_saves_is_refused(tmp_path):
    torch = pytest.importorskip("torch", reason="writes a file of PyTorch")
    for new in (True, False):
        torch.save({"a": torch.ones(3)}, tmp_path / "x", _use_new_zipfile_serialization=new)
        refused(tmp_path / "x", "begins as a pickle does")


def test_damaged_and_missing_files_are_refused(tmp_path):
    file = tmp_path / "x.safetensors"
    refused(file, "No such file", "wanted a safetensors file")
    refused(tmp_path / "x.json", "No such file", "wanted an index of safetensors files")
    refused(tmp_path, "wanted model.safetensors or model.safetensors.index.json in it")
    save_file(ARRAYS, file)
    data = file.read_bytes()
    for damaged in (b"", data[:7], data[:50], data[:-1], data + b"\0", b"\xff" * 8 + data[8:]):
        file.write_bytes(damaged)
        refused(file, "damaged, or not a safetensors file", "download it again")


def test_the_advice_for_a_pickle_is_the_documented_one():
    """The one line of the error does what the lines of docs/interop.md do."""
    page = (Path(__file__).parents[2] / "docs" / "interop.md").read_text(encoding="utf-8")
    for part in ("t.contiguous().clone() for name, t in", "weights_only=True", "save_file(", "map_location="):
        assert part in page and part in weights.CONVERT
