"""Axes of size 0: every rule of an operation gives the same empty or zero result, or the same refusal."""

import re
from contextlib import nullcontext

import numpy as np
import pytest
from helpers import fakecuda
from helpers.rules import value_and_gradients

from minigam import backend, ops, reference_only, sequence
from minigam.engine.tensor import ShapeError, Tensor
from minigam.gradcheck.cases import case


@pytest.fixture(autouse=True)
def emulated(monkeypatch):
    fakecuda.install(monkeypatch)


each_rule = pytest.mark.parametrize(
    ("library", "rules"),
    [
        pytest.param("numpy", reference_only, id="reference"),
        pytest.param("numpy", nullcontext, id="cpu"),
        pytest.param("fakegpu", reference_only, id="pretend-gpu"),
        *(pytest.param(*p.values, nullcontext, marks=p.marks, id=p.id or "cupy") for p in fakecuda.DEVICES),
    ],
)


def ids(*shape: int, value: int = 0) -> np.ndarray:
    return np.full(shape, value)


def scan(b: int, T: int, E: int, N: int) -> tuple:
    return (b, T, E), (b, T, E), (E, N), (b, T, N), (b, T, N), (E,)


CASES = [
    case(ops.sum, (0, 3)),
    case(ops.sum, (0, 3), axis=0, label="no-rows"),
    case(ops.sum, (3, 0), axis=-1, label="no-columns"),
    case(ops.softmax, (0, 3)),
    case(ops.layer_norm, (0, 3), (3,), (3,)),
    case(ops.layer_norm, (2, 0, 3), (3,), (3,), label="no-tokens"),
    case(ops.rms_norm, (0, 3), (3,)),
    case(ops.rms_norm, (2, 0, 3), (3,), label="no-tokens"),
    case(ops.cross_entropy, (0, 5), ids(0)),
    case(ops.linear, (0, 3), (4, 3), (4,)),
    case(ops.linear, (2, 0, 3), (4, 3), (4,), label="no-tokens"),
    case(ops.linear, (2, 3, 0), (4, 0), (4,), label="no-inputs"),
    case(ops.linear, (2, 3), (0, 3), (0,), label="no-outputs"),
    case(ops.matmul, (0, 3), (3, 4)),
    case(ops.matmul, (2, 0), (0, 4), label="no-terms"),
    case(ops.matmul, (0, 2, 3), (0, 3, 4), label="no-matrices"),
    case(ops.embedding, (4, 3), ids(0)),
    case(ops.embedding, (4, 0), ids(2), label="no-channels"),
    case(ops.embedding, (0, 3), ids(0), label="no-table"),
    case(ops.dropout, (0, 3), p=0.3, key=(1,)),
    case(ops.dropout, (3, 0), p=0.3, key=(1,), label="no-channels"),
    *(case(op, (3, 0)) for op in (ops.gelu, ops.silu, ops.softplus, ops.sigmoid, ops.tanh, ops.exp)),
    case(ops.linear_cross_entropy, (2, 0), (5, 0), ids(2), label="no-channels"),
    case(sequence.causal_conv1d, (0, 5, 3), (3, 2), (3,)),
    case(sequence.causal_conv1d, (2, 0, 3), (3, 2), (3,), label="no-tokens"),
    case(sequence.causal_conv1d, (2, 0, 3), (3, 2), (3,), (2, 1, 3), label="no-tokens, past"),
    case(sequence.causal_conv1d, (2, 5, 0), (0, 2), (0,), label="no-channels"),
    case(sequence.associative_memory, (0, 5, 3), (4, 3)),
    case(sequence.associative_memory, (2, 0, 3), (4, 3), label="no-tokens"),
    case(sequence.associative_memory, (2, 5, 0), (4, 0), label="no-channels"),
    case(sequence.written_memory, (0, 5, 3), (0, 5, 3), (4, 3)),
    case(sequence.written_memory, (2, 0, 3), (2, 0, 3), (4, 3), label="no-tokens"),
    case(sequence.written_memory, (2, 0, 3), (2, 0, 3), (4, 3), (2, 4, 4), label="no-tokens, past"),
    case(sequence.written_memory, (2, 5, 0), (2, 5, 0), (4, 0), label="no-channels"),
    case(sequence.gated_fusion, (0, 5, 3), (0, 5, 3), (0, 5, 6)),
    case(sequence.gated_fusion, (2, 5, 0), (2, 5, 0), (2, 5, 0), label="no-channels"),
    case(sequence.causal_attention, (0, 5, 12), n_heads=2),
    case(sequence.causal_attention, (2, 0, 12), (2, 3, 8), n_heads=2, label="no-tokens, past"),
    case(sequence.causal_attention, (2, 3, 12), (2, 0, 8), n_heads=2, label="empty past"),
    case(sequence.selective_scan, *scan(0, 5, 3, 2)),
    case(sequence.selective_scan, *scan(2, 0, 3, 2), label="no-tokens"),
    case(sequence.selective_scan, *scan(2, 5, 0, 2), label="no-channels"),
    case(sequence.selective_scan, *scan(2, 5, 3, 0), label="no-states"),
]


def of_numpy(case) -> list[np.ndarray]:
    with reference_only():
        return value_and_gradients(case, case.tensors())


@each_rule
@pytest.mark.parametrize("case", CASES, ids=str)
def test_every_rule_gives_the_same_result(case, library, rules):
    with rules():
        got = value_and_gradients(case, case.tensors(library=library))
    for a, b in zip(got, of_numpy(case), strict=True):
        np.testing.assert_allclose(backend.to_numpy(a), b, rtol=1e-12, strict=True)
        assert np.isfinite(b).all()


def test_what_the_results_are():
    """The shapes; and zero where a sum has no terms."""
    results = {str(c): of_numpy(c) for c in CASES}
    assert results["softmax"][0].shape == (0, 3)
    assert results["linear no-tokens"][0].shape == (2, 0, 4)
    assert results["causal_attention no-tokens, past"][0].shape == (2, 0, 4)
    np.testing.assert_array_equal(results["matmul no-terms"][0], np.zeros((2, 4)))
    np.testing.assert_array_equal(results["layer_norm"][2], np.zeros(3))
    np.testing.assert_array_equal(results["rms_norm"][2], np.zeros(3))
    np.testing.assert_allclose(results["linear_cross_entropy no-channels"][0], np.log(5))


REFUSED = [
    (case(ops.softmax, (3, 0)), "softmax: x (3, 0), wanted a last axis that is not empty"),
    (case(ops.softmax, (0, 0)), "softmax: x (0, 0), wanted a last axis that is not empty"),
    (case(ops.layer_norm, (3, 0), (0,), (0,)), "wanted (0,), not empty"),
    (case(ops.rms_norm, (3, 0), (0,)), "wanted (..., C) and (C), not empty"),
    (case(ops.cross_entropy, (2, 0), ids(2, value=-1)), "logits (2, 0), wanted at least one class"),
    (
        case(ops.linear_cross_entropy, (2, 3), (0, 3), ids(2, value=-1)),
        "wanted (..., C), (V, C), (...), V > 0",
    ),
    (case(sequence.causal_conv1d, (2, 5, 3), (3, 0), (3,)), "wanted (3, K), (3,), K > 0"),
    (case(sequence.associative_memory, (2, 5, 3), (0, 3)), "wanted (B, T, C), (S, C), S > 0"),
    (case(sequence.written_memory, (2, 5, 3), (2, 5, 3), (0, 3)), "wanted (B, T, C), (S, C), S > 0"),
    (case(sequence.causal_attention, (2, 5, 0), n_heads=2), "wanted (B, T, 3C), C > 0 divisible by 2"),
    (case(sequence.causal_attention, (2, 0, 12), n_heads=2), "wanted at least one token"),
    (case(sequence.causal_attention, (2, 0, 12), (2, 0, 8), n_heads=2), "wanted at least one token"),
]


@each_rule
@pytest.mark.parametrize(("case", "message"), REFUSED, ids=str)
def test_every_rule_refuses_in_the_same_words(case, message, library, rules):
    with rules(), pytest.raises(ShapeError, match=re.escape(message)):
        case.op(*case.tensors(library=library), **case.settings)


@each_rule
@pytest.mark.parametrize("targets", [ids(0), ids(2, value=-1)], ids=["none", "ignored"])
def test_a_mean_of_no_losses_is_nan_with_no_gradient(targets, library, rules):
    x, weight = np.ones((len(targets), 3)), np.ones((5, 3))
    x, weight = (Tensor(backend.to(a, library), requires_grad=True) for a in (x, weight))
    with rules(), np.errstate(invalid="ignore"):
        y = ops.linear_cross_entropy(x, weight, backend.to(targets, library))
        y.backward()
    assert np.isnan(backend.to_numpy(y.data))
    for t in (x, weight):
        np.testing.assert_array_equal(backend.to_numpy(t.grad), np.zeros(t.shape))


@each_rule
def test_a_mean_of_nothing_is_nan_with_no_gradient(library, rules):
    x = Tensor(backend.to(np.ones((0, 3)), library), requires_grad=True)
    with rules(), np.errstate(invalid="ignore", divide="ignore"):
        for y in (x.mean(), x.mean(axis=0)):
            assert np.isnan(backend.to_numpy(y.data)).all()
            y.backward(backend.xp_of(y.data).ones_like(y.data))
        assert x.mean(axis=1).shape == (0,)
    assert x.grad.shape == (0, 3)
