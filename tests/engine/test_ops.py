"""Every operation, against finite differences, PyTorch, another library and another dtype.

One line in minigam/gradcheck/cases.py makes one test of each kind here.
"""

from contextlib import nullcontext

import numpy as np
import pytest
from helpers.rules import assert_all_close, assert_faster_equals_reference, value_and_gradients

from minigam import gradcheck, ops, reference_only
from minigam.engine.tensor import OPS, Tensor, observing
from minigam.gradcheck.cases import CASES, LAYERS, MODELS
from minigam.models.lm import LanguageModel
from minigam.models.nn import Module

each_case = pytest.mark.parametrize("case", CASES, ids=str)
each_rule = pytest.mark.parametrize(
    ("case", "rules"),
    [
        *(pytest.param(case, reference_only, id=str(case)) for case in CASES),
        *(pytest.param(case, nullcontext, id=f"{case} faster") for case in CASES if case.op.fast),
    ],
)


# ------------------------------------------------------------------------- the table itself


def test_every_operation_has_a_case():
    assert {case.name for case in CASES} == set(OPS)


def test_every_layer_and_model_has_a_case():
    def below(kind):
        return {kind, *(k for sub in kind.__subclasses__() for k in below(sub))}

    ours = {k.__name__ for k in below(Module) if k.__module__.startswith("minigam.")}
    assert {case.name for case in [*LAYERS, *MODELS]} == ours - {Module.__name__, LanguageModel.__name__}


def test_names_tell_cases_apart():
    names = [str(case) for case in [*CASES, *LAYERS, *MODELS]]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("case", [c for c in CASES if c.label == "not-contiguous"], ids=str)
def test_what_is_called_not_contiguous_is_not(case):
    assert not all(t.data.flags.c_contiguous for t in case.tensors() if isinstance(t, Tensor))


# --------------------------------------------------------------------------- the derivatives


@each_case
def test_backward_equals_finite_differences(case):
    problem = case.problem()
    with reference_only():
        assert gradcheck(problem.f, *problem.leaves, eps=case.step) < case.limit


@pytest.mark.parametrize("case", [*LAYERS, *MODELS], ids=str)
def test_backward_of_layers_and_models_equals_finite_differences(case):
    problem = case.problem()
    error = gradcheck(problem.f, *problem.leaves, eps=case.step, directions=case.directions)
    assert error < case.limit


def off_by(case, wanted: str | None, factor: float = 1.001):
    """Return the case's rule with the gradient of one argument (None: of every one) off by a factor."""
    rule = case.op.rule

    def mutant(xp, *arrays, **settings):
        y, backward = rule(xp, *arrays, **settings)

        def wrong(dy):
            names = zip(case.op.arguments, backward(dy), strict=False)
            return tuple(factor * g if g is not None and wanted in (None, n) else g for n, g in names)

        return y, wrong

    return mutant


@pytest.mark.parametrize(
    ("case", "argument"),
    [pytest.param(c, n, id=f"{c} d{n}") for c in CASES for n in c.named_leaves() if n not in c.flat],
)
def test_a_derivative_off_by_a_thousandth_is_caught(case, argument, monkeypatch):
    problem = case.problem()
    monkeypatch.setattr(case.op, "rule", off_by(case, argument))
    with reference_only(), pytest.raises(AssertionError, match="gradcheck"):
        gradcheck(problem.f, *problem.leaves, eps=case.step)


@pytest.mark.parametrize(
    ("case", "argument"), [pytest.param(c, n, id=f"{c} d{n}") for c in CASES for n in c.flat]
)
def test_a_derivative_called_flat_is_zero(case, argument):
    gradients = dict(zip(case.named_leaves(), value_and_gradients(case, case.tensors())[1:], strict=True))
    np.testing.assert_allclose(gradients[argument], 0.0, atol=1e-12)


@pytest.mark.parametrize("case", MODELS, ids=str)
def test_any_operation_of_a_model_off_by_a_thousandth_is_caught(case, monkeypatch):
    problem = case.problem()
    used = {}
    with observing(lambda name, phase, arrays: used.setdefault(name, OPS[name])):
        problem.f()
    assert {"cross_entropy", "linear_cross_entropy"} & used.keys()
    for op in used.values():
        with monkeypatch.context() as patch:
            patch.setattr(op, "rule", off_by(next(c for c in CASES if c.op is op), None))
            with reference_only(), pytest.raises(AssertionError, match="gradcheck"):
                gradcheck(problem.f, *problem.leaves, directions=case.directions)


# ----------------------------------------------------------------------- promises of a rule


@each_rule
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_dtype_and_device_are_kept(case, dtype, rules, xp):
    with rules():
        got = value_and_gradients(case, case.tensors(dtype=dtype, library=xp.__name__))
    assert {(type(a), str(a.dtype)) for a in got} == {(xp.ndarray, dtype)}


@each_rule
def test_inputs_are_not_written_to(case, rules):
    tensors = case.tensors()
    arrays = [t.data if isinstance(t, Tensor) else t for t in tensors]
    arrays = [a for a in arrays if isinstance(a, np.ndarray)]
    before = [a.copy() for a in arrays]
    for a in arrays:
        a.setflags(write=False)  # a rule that writes stops here
    cotangent = np.ones_like(case.op(*tensors, **case.settings).data)
    cotangent.setflags(write=False)
    with rules():
        value_and_gradients(case, tensors, cotangent)
    for a, b in zip(arrays, before, strict=True):
        np.testing.assert_array_equal(a, b)


@each_case
@pytest.mark.parametrize("library", ["fakegpu", pytest.param("cupy", marks=pytest.mark.gpu)])
def test_libraries_agree(case, library):
    on_device = value_and_gradients(case, case.tensors(library=library))
    assert_all_close(on_device, value_and_gradients(case, case.tensors()), rtol=1e-12)


# ------------------------------------------------------------------------------ faster rules


@each_case
def test_faster_rules_equal_the_reference(case, xp, monkeypatch):
    if xp.__name__ in case.op.fast:
        assert_faster_equals_reference(case, xp.__name__, monkeypatch)
        return
    runs, rule = [], case.op.rule
    monkeypatch.setattr(case.op, "rule", lambda *args, **settings: runs.append(1) or rule(*args, **settings))
    value_and_gradients(case, case.tensors(library=xp.__name__))
    assert runs == [1], "where there is no faster rule, the reference runs"


def test_a_faster_rule_that_differs_is_caught(monkeypatch):
    case = next(c for c in CASES if c.op is ops.softmax)
    monkeypatch.setitem(case.op.fast, "numpy", case.op.rule)
    assert_faster_equals_reference(case, "numpy", monkeypatch)
    monkeypatch.setitem(case.op.fast, "numpy", off_by(case, "x", 1.0 + 1e-9))
    with pytest.raises(AssertionError, match="Mismatch"):
        assert_faster_equals_reference(case, "numpy", monkeypatch)


# ----------------------------------------------------------------------------------- PyTorch


def torch_twins(torch) -> dict:
    """For every operation, what PyTorch calls it; tensors by position, settings by name."""
    F = torch.nn.functional

    def cross_entropy(logits, targets):
        targets = targets.clamp(min=-1).reshape(-1)
        losses = F.cross_entropy(logits.reshape(len(targets), -1), targets, ignore_index=-1, reduction="none")
        return losses.reshape(logits.shape[:-1])

    def linear_cross_entropy(x, weight, targets):
        logits = F.linear(x, weight).flatten(0, 1)
        return F.cross_entropy(logits, targets.flatten().clamp(min=-1), ignore_index=-1)

    def causal_conv1d(u, weight, bias, past=None):
        B, _, C = u.shape
        past = torch.zeros(B, weight.shape[1] - 1, C, dtype=u.dtype) if past is None else past
        padded = torch.cat([past, u], dim=1).transpose(1, 2)
        return F.conv1d(padded, weight[:, None], bias, groups=C).transpose(1, 2)

    def gated_fusion(local_context, global_context, gate, bias=0.0):
        g_local, g_global = (gate + bias).chunk(2, dim=-1)
        return torch.sigmoid(g_local) * local_context + torch.sigmoid(g_global) * global_context

    def causal_attention(qkv, past=None, *, n_heads):
        T, C, H = qkv.shape[1], qkv.shape[-1] // 3, n_heads
        q, kv = qkv[..., :C], qkv[..., C:] if past is None else torch.cat([past, qkv[..., C:]], dim=1)
        q, k, v = (z.unflatten(-1, (H, C // H)).transpose(1, 2) for z in (q, kv[..., :C], kv[..., C:]))
        before = torch.ones(T, k.shape[2], dtype=torch.bool).tril(k.shape[2] - T)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=before).transpose(1, 2).flatten(-2)

    def selective_scan(x, delta, A, B, C, skip, past=None):
        h, y = torch.zeros(x.shape[0], *A.shape, dtype=x.dtype) if past is None else past, []
        for x_t, d_t, B_t, C_t in zip(*(z.unbind(dim=1) for z in (x, delta, B, C)), strict=True):
            h = torch.exp(torch.einsum("be,en->ben", d_t, A)) * h + torch.einsum("be,bn->ben", d_t * x_t, B_t)
            y.append(torch.einsum("ben,bn->be", h, C_t) + skip * x_t)
        return torch.stack(y, dim=1)

    def written_memory(u, local_context, memory, past=None, prior=None):
        prior, a, w = prior or 1 / len(memory), *(F.softmax(z @ memory.T, dim=-1) for z in (u, local_context))
        N = prior * memory.expand(len(u), *memory.shape) if past is None else past[..., :-1]
        n, y = torch.full(N.shape[:2], prior, dtype=u.dtype) if past is None else past[..., -1], []
        for u_t, a_t, w_t in zip(*(z.unbind(dim=1) for z in (u, a, w)), strict=True):
            n, N = n + w_t, N + torch.einsum("bs,bc->bsc", w_t, u_t)
            y.append(torch.einsum("bs,bsc->bc", a_t, N / n[..., None]))
        return torch.stack(y, dim=1)

    def sum_(x, axis=None, keepdims=False):
        return x.sum() if axis is None else x.sum(axis, keepdims)

    return {
        "add": lambda a, b: a + b,
        "sub": lambda a, b: a - b,
        "mul": lambda a, b: a * b,
        "div": lambda a, b: a / b,
        "neg": torch.neg,
        "power": lambda x, exponent: x**exponent,
        "matmul": torch.matmul,
        "exp": torch.exp,
        "log": torch.log,
        "tanh": torch.tanh,
        "sigmoid": torch.sigmoid,
        "gelu": lambda x, bias=0.0: F.gelu(x + bias),
        "silu": F.silu,
        "softplus": F.softplus,
        "sum": sum_,
        "reshape": lambda x, shape: x.reshape(shape),
        "transpose": lambda x, axes: x.permute(axes),
        "getitem": lambda x, index: x[index],
        "softmax": lambda x: F.softmax(x, dim=-1),
        "linear": F.linear,
        "layer_norm": lambda x, weight, bias, eps=1e-5: F.layer_norm(x, x.shape[-1:], weight, bias, eps),
        "rms_norm": lambda x, weight, eps=1e-5: F.rms_norm(x, x.shape[-1:], weight, eps),
        "embedding": lambda table, ids: F.embedding(ids, table),
        "cross_entropy": cross_entropy,
        "linear_cross_entropy": linear_cross_entropy,
        "causal_conv1d": causal_conv1d,
        "associative_memory": lambda u, memory: F.softmax(u @ memory.T, dim=-1) @ memory,
        "gated_fusion": gated_fusion,
        "causal_attention": causal_attention,
        "selective_scan": selective_scan,
        "written_memory": written_memory,
    }


# Left out: PyTorch draws other masks, and takes no negative steps.
@pytest.mark.parametrize(
    "case", [c for c in CASES if c.settings.get("p") is None and c.label != "reversed"], ids=str
)
def test_value_and_gradients_equal_pytorch(case):
    torch = pytest.importorskip("torch")
    theirs = [torch.tensor(a) if isinstance(a, np.ndarray) else a for a in case.inputs()]
    leaves = [t.requires_grad_() for t in theirs if torch.is_tensor(t) and t.is_floating_point()]
    y = torch_twins(torch)[case.name](*theirs, **case.settings)
    cotangent = np.random.default_rng(1).standard_normal(y.shape)
    y.backward(torch.tensor(cotangent))
    got = value_and_gradients(case, case.tensors(), cotangent)
    assert_all_close(got, [y.detach().numpy(), *(t.grad.numpy() for t in leaves)], rtol=1e-11)
