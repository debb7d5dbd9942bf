"""CuPy's faster rules: emulated on every case of the table, at sizes of several blocks, and compiled.

Tests marked gpu do the same on a device.
"""

import shutil
import subprocess

import fakecuda
import fakegpu
import numpy as np
import pytest
import tiny
from test_ops import assert_all_close, assert_faster_equals_reference, value_and_gradients

from minigam import backend, fast_cupy, ops, optim, reference_only, sequence
from minigam.fast_cupy import kernels, losses, mixers, pointwise, products, rows, scan, tables
from minigam.gradcheck.arguments import ids, some_ignored, strided, transposed
from minigam.gradcheck.cases import CASES, case
from minigam.tensor import OPS, ShapeError, Tensor

needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="g++ compiles the kernels' emulation")
LIBRARIES = [
    pytest.param("fakegpu", marks=needs_compiler, id="emulated"),
    pytest.param("cupy", marks=pytest.mark.gpu),
]
each_library = pytest.mark.parametrize("library", LIBRARIES)
each_dtype = pytest.mark.parametrize(("dtype", "rtol"), [("float64", 1e-10), ("float32", 2e-5)])
FAST = [op for op in OPS.values() if "cupy" in op.fast]


@pytest.fixture(autouse=True)
def emulated(monkeypatch):
    fakecuda.install(monkeypatch)


def both(case, library: str, dtype="float64") -> tuple[list, list]:
    """Return value and gradients by the faster rules of a library, and by NumPy's references."""
    got = value_and_gradients(case, case.tensors(dtype=dtype, library=library))
    with reference_only():
        return got, value_and_gradients(case, case.tensors(dtype=dtype))


# --------------------------------------------------------------------------- equal to the reference


@each_library
@pytest.mark.parametrize("case", [c for c in CASES if c.op in FAST], ids=str)
def test_each_rule_equals_its_reference_on_the_table(case, library, monkeypatch):
    assert_faster_equals_reference(case, library, monkeypatch)


C, N = 50, (3, 47)  # more than a warp and not a multiple of one; tokens of more than one block and slab
BATCHES = [
    case(ops.gelu, (*N, C)),
    case(ops.silu, strided(*N, C)),
    case(ops.softplus, transposed(*N, C)),
    case(ops.dropout, (*N, C), p=0.3, key=(1, 2), first_row=5),
    case(ops.dropout, transposed(*N, 7), p=0.9, key=(1, 2), first_row=1, label="odd"),
    case(ops.softmax, (*N, C)),
    case(ops.layer_norm, transposed(*N, C), (C,), (C,)),
    case(ops.linear, transposed(*N, C), transposed(70, C), strided(70)),
    case(ops.embedding, (40, C), ids(20, 61, below=40)),
    case(ops.embedding, (300, 3), ids(600, below=300), label="wide"),
    case(ops.cross_entropy, transposed(*N, 70), some_ignored(*N, below=70)),
    case(ops.linear_cross_entropy, strided(*N, C), transposed(70, C), some_ignored(*N, below=70)),
    case(sequence.causal_conv1d, (*N, C), (C, 3), (C,)),
    case(sequence.causal_conv1d, strided(*N, C), transposed(C, 4), strided(C), transposed(3, 3, C), label="past"),
    case(sequence.associative_memory, strided(*N, C), transposed(70, C)),
    case(sequence.gated_fusion, transposed(*N, C), strided(*N, C), strided(*N, 2 * C)),
    case(sequence.causal_attention, strided(*N, 3 * 12), n_heads=3),
    case(sequence.causal_attention, (*N, 3 * 12), transposed(3, 9, 24), n_heads=3, p=0.2, key=(3,), first_row=4,
         label="past, dropout"),
]  # fmt: skip
each_batch = pytest.mark.parametrize("case", BATCHES, ids=str)


def test_every_faster_rule_has_a_batch_of_several_blocks():
    assert {c.op for c in BATCHES} | {sequence.selective_scan} == set(FAST)  # the scan's are in test_fast.py


@each_library
@each_dtype
@each_batch
def test_several_blocks_the_last_not_full(case, library, dtype, rtol, monkeypatch):
    monkeypatch.setattr(losses, "ROWS", 50)  # of logits at a time: three parts
    got, want = both(case, library, dtype)
    assert {(type(a), str(a.dtype)) for a in got} == {(backend.get(library).ndarray, dtype)}
    assert_all_close(got, want, rtol)
