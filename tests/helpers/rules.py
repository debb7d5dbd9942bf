"""Shared by the tests of rules: one forward and backward pass, and comparisons of arrays."""

import numpy as np
import pytest

from minigam import reference_only
from minigam.engine import backend, compiled, numeric
from minigam.engine.compiled import kernels
from minigam.engine.tensor import Tensor

needs_kernels = pytest.mark.skipif(kernels.in_use() == "reference", reason="no C compiler can be used here")


def value_and_gradients(case, tensors, cotangent=None) -> list:
    """Return the arrays y, dx, ... of one forward and backward pass; without a cotangent, dy is random."""
    y = case.op(*tensors, **case.settings)
    if cotangent is None:
        cotangent = np.random.default_rng(1).standard_normal(y.shape).astype(y.dtype)
    y.backward(backend.xp_of(y.data).asarray(cotangent))
    return [y.data, *(t.grad for t in tensors if isinstance(t, Tensor))]


def assert_all_close(got, want, rtol: float) -> None:
    """Compare arrays, each within rtol of its largest entry, or of 1 if that is larger."""
    for a, b in zip(got, want, strict=True):
        a, b = backend.to_numpy(a), backend.to_numpy(b)
        np.testing.assert_allclose(a, b, rtol=0.0, atol=rtol * np.abs(b).max(initial=1.0))


def assert_faster_equals_reference(case, library: str, monkeypatch) -> None:
    fast, runs = case.op.fast[library], []

    def counted(xp, *arrays, **settings):
        runs.append(library)
        return fast(xp, *arrays, **settings)

    monkeypatch.setitem(case.op.fast, library, counted)
    got = value_and_gradients(case, case.tensors(library=library))
    assert runs, "the faster rule did not run"
    with reference_only():
        want = value_and_gradients(case, case.tensors(library=library))
    assert len(runs) == 1, "the faster rule ran where the reference was asked for"
    assert_all_close(got, want, rtol=1e-10)


def small_blocks(monkeypatch) -> None:
    """Make the faster rules of the CPU cut even the smallest arrays into several parts."""
    monkeypatch.setattr(numeric, "TILE", 8)
    for module in (kernels, compiled.elementwise, compiled.adamw):
        monkeypatch.setattr(module, "BLOCK", 8)
    monkeypatch.setattr(compiled.rows, "ROWS", 3)
    monkeypatch.setattr(compiled.attention, "QUERIES", 2)
