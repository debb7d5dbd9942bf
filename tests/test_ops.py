"""Every operation, against finite differences, PyTorch, another library and another dtype.

One line in minigam/gradcheck/cases.py makes one test of each kind here.
"""

import math
import operator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import mutually_broadcastable_shapes

from minigam import backend, gradcheck, ops, reference_only, sequence
from minigam.gradcheck.cases import CASES, LAYERS, MODELS
from minigam.lm import LanguageModel
from minigam.nn import Module
from minigam.tensor import OPS, ShapeError, Tensor

each_case = pytest.mark.parametrize("case", CASES, ids=str)


def value_and_gradients(case, tensors, cotangent=None) -> list:
    """Return the arrays y, dx, ... of one pass forward and one back, from a random dy if none is given."""
    y = case.op(*tensors, **case.settings)
    if cotangent is None:
        cotangent = np.random.default_rng(1).standard_normal(y.shape).astype(y.dtype)
    y.backward(backend.xp_of(y.data).asarray(cotangent))
    return [y.data, *(t.grad for t in tensors if isinstance(t, Tensor))]


def assert_all_close(got, want, rtol: float) -> None:
    """Compare arrays, each within rtol of its largest entry, or of 1 where that is more."""
    for a, b in zip(got, want, strict=True):
        a, b = backend.to_numpy(a), backend.to_numpy(b)
        np.testing.assert_allclose(a, b, rtol=0.0, atol=rtol * np.abs(b).max(initial=1.0))


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
    with pytest.raises(AssertionError, match="gradcheck"):
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
    used, stack = {}, [problem.f()]
    while stack:
        t = stack.pop()
        if t.node is not None:
            used[t.node.op] = OPS[t.node.op]
            stack += [x for x in t.node.inputs if x is not None]
    assert "cross_entropy" in used
    for op in used.values():
        with monkeypatch.context() as patch:
            patch.setattr(op, "rule", off_by(next(c for c in CASES if c.op is op), None))
            with pytest.raises(AssertionError, match="gradcheck"):
                gradcheck(problem.f, *problem.leaves, directions=case.directions)


# ----------------------------------------------------------------------- promises of a rule


@each_case
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_dtype_and_device_are_kept(case, dtype, xp):
    got = value_and_gradients(case, case.tensors(dtype=dtype, library=xp.__name__))
    assert {(type(a), str(a.dtype)) for a in got} == {(xp.ndarray, dtype)}


@each_case
def test_inputs_are_not_written_to(case):
    tensors = case.tensors()
    arrays = [t.data if isinstance(t, Tensor) else t for t in tensors]
    arrays = [a for a in arrays if isinstance(a, np.ndarray)]
    before = [a.copy() for a in arrays]
    for a in arrays:
        a.setflags(write=False)  # a rule that writes stops here
    cotangent = np.ones_like(case.op(*tensors, **case.settings).data)
    cotangent.setflags(write=False)
    value_and_gradients(case, tensors, cotangent)
    for a, b in zip(arrays, before, strict=True):
        np.testing.assert_array_equal(a, b)


@each_case
@pytest.mark.parametrize("library", ["fakegpu", pytest.param("cupy", marks=pytest.mark.gpu)])
def test_libraries_agree(case, library):
    if case.op is ops.dropout and library == "cupy":
        pytest.skip("CuPy draws other masks")
    on_device = value_and_gradients(case, case.tensors(library=library))
    assert_all_close(on_device, value_and_gradients(case, case.tensors()), rtol=1e-12)


# ------------------------------------------------------------------------------ faster rules


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


FASTER = [
    pytest.param(c, name, id=f"{c} {name}", marks=pytest.mark.gpu if name == "cupy" else ())
    for c in CASES
    for name in c.op.fast
] or [pytest.param(None, "", marks=pytest.mark.skip(reason="no faster rule is registered"))]


@pytest.mark.parametrize(("case", "library"), FASTER)
def test_faster_rules_equal_the_reference(case, library, monkeypatch):
    assert_faster_equals_reference(case, library, monkeypatch)


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

    def causal_conv1d(u, weight, bias, past=None):
        B, _, C = u.shape
        past = torch.zeros(B, weight.shape[1] - 1, C, dtype=u.dtype) if past is None else past
        padded = torch.cat([past, u], dim=1).transpose(1, 2)
        return F.conv1d(padded, weight[:, None], bias, groups=C).transpose(1, 2)

    def gated_fusion(local_context, global_context, gate):
        g_local, g_global = gate.chunk(2, dim=-1)
        return torch.sigmoid(g_local) * local_context + torch.sigmoid(g_global) * global_context

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
        "gelu": F.gelu,
        "sum": sum_,
        "reshape": lambda x, shape: x.reshape(shape),
        "transpose": lambda x, axes: x.permute(axes),
        "getitem": lambda x, index: x[index],
        "softmax": lambda x: F.softmax(x, dim=-1),
        "linear": F.linear,
        "layer_norm": lambda x, weight, bias, eps=1e-5: F.layer_norm(x, x.shape[-1:], weight, bias, eps),
        "embedding": lambda table, ids: F.embedding(ids, table),
        "cross_entropy": cross_entropy,
        "causal_conv1d": causal_conv1d,
        "associative_memory": lambda u, memory: F.softmax(u @ memory.T, dim=-1) @ memory,
        "gated_fusion": gated_fusion,
    }


# Left out: PyTorch draws other masks, and takes no negative steps.
@pytest.mark.parametrize(
    "case", [c for c in CASES if c.op is not ops.dropout and c.label != "reversed"], ids=str
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


# ------------------------------------------------------- what the operations are, in plain Python


def test_gelu_is_x_times_the_normal_distribution(rng):
    x = 3.0 * rng.standard_normal(200)
    want = [v * (1.0 + math.erf(v / math.sqrt(2.0))) / 2.0 for v in x]
    np.testing.assert_allclose(ops.gelu(x).data, want, rtol=0.0, atol=1e-14)


def test_sigmoid_is_the_logistic_function(rng):
    x = 3.0 * rng.standard_normal(200)
    np.testing.assert_allclose(ops.sigmoid(x).data, [1.0 / (1.0 + math.exp(-v)) for v in x], rtol=1e-13)


def test_softmax_is_a_share_of_exponentials(rng):
    x = rng.standard_normal(5)
    total = math.fsum(math.exp(v) for v in x)
    np.testing.assert_allclose(ops.softmax(x).data, [math.exp(v) / total for v in x], rtol=1e-13)


def test_layer_norm_gives_the_mean_and_deviation_it_is_told(rng):
    y = ops.layer_norm(7.0 + 3.0 * rng.standard_normal((4, 50)), np.full(50, 2.0), np.full(50, 5.0), eps=0.0)
    np.testing.assert_allclose(y.data.mean(axis=-1), 5.0, rtol=1e-12)
    np.testing.assert_allclose(y.data.std(axis=-1), 2.0, rtol=1e-12)


def test_cross_entropy_is_minus_the_log_of_the_softmax(rng):
    logits, targets = rng.standard_normal((2, 3, 4)), np.array([[0, 3, -1], [2, -5, 2]])
    want = np.zeros((2, 3))  # and 0 where the target is ignored
    for b, t in zip(*np.nonzero(targets >= 0), strict=True):
        want[b, t] = -math.log(ops.softmax(logits[b, t]).data[targets[b, t]])
    np.testing.assert_allclose(ops.cross_entropy(logits, targets).data, want, rtol=0.0, atol=1e-14)


def test_huge_scores_give_finite_answers(rng):
    scores = np.array([[1e4, 0.0, -1e4]])
    np.testing.assert_array_equal(ops.softmax(scores).data, [[1.0, 0.0, 0.0]])
    np.testing.assert_array_equal(ops.cross_entropy(scores, np.array([2])).data, [2e4])
    memory = rng.standard_normal((3, 4))
    recalled = sequence.associative_memory(1e4 * memory[None, :1], memory).data
    assert np.isfinite(recalled).all()
    np.testing.assert_array_equal(recalled[0, 0], memory[(memory @ memory[0]).argmax()])


def test_associative_memory_mixes_the_slots_by_likeness(rng):
    u, M = rng.standard_normal((2, 3, 4)), rng.standard_normal((5, 4))
    y = sequence.associative_memory(u, M).data
    for b, t in np.ndindex(2, 3):
        weights = [math.exp(math.fsum(M[s] * u[b, t])) for s in range(5)]
        want = np.sum([w * M[s] for s, w in enumerate(weights)], axis=0) / math.fsum(weights)
        np.testing.assert_allclose(y[b, t], want, rtol=0.0, atol=1e-13)


def test_gated_fusion_lets_each_channel_choose(rng):
    local_context, global_context = rng.standard_normal((2, 1, 1, 3))
    gate = np.array([[[40.0, -40.0, 0.0, -40.0, 40.0, 0.0]]])  # open or shut, and in channel 2 half of each
    y = sequence.gated_fusion(local_context, global_context, gate).data[0, 0]
    (a, _, c), (_, e, f) = local_context[0, 0], global_context[0, 0]
    np.testing.assert_allclose(y, [a, e, (c + f) / 2.0], rtol=0.0, atol=1e-14)


def test_dropout_keeps_the_mean_and_repeats_by_key(xp):
    p, ones = 0.3, xp.ones((100, 100))
    y = ops.dropout(ones, p=p, key=(1, 2)).numpy()
    kept = y != 0.0
    np.testing.assert_allclose(y[kept], 1.0 / (1.0 - p))
    assert abs(kept.mean() - (1.0 - p)) < 4.0 * math.sqrt(p * (1.0 - p) / kept.size)  # 4 standard deviations
    np.testing.assert_array_equal(ops.dropout(ones, p=p, key=(1, 2)).numpy(), y)
    assert (ops.dropout(ones, p=p, key=(1, 3)).numpy() != y).any()


@given(data=st.data())
def test_causal_conv1d_equals_the_loops_of_its_equation(data):
    B, T, C, K = (
        data.draw(st.integers(1, most), name) for name, most in zip("BTCK", (3, 6, 3, 5), strict=True)
    )
    rng = np.random.default_rng(data.draw(st.integers(0, 99), "seed"))
    u, w, bias = rng.standard_normal((B, T, C)), rng.standard_normal((C, K)), rng.standard_normal(C)
    past = rng.standard_normal((B, K - 1, C)) if data.draw(st.booleans(), "past") else None
    want = np.zeros((B, T, C))
    for b, t, c in np.ndindex(B, T, C):
        want[b, t, c] = bias[c]
        for j in range(K):
            i = t - (K - 1) + j  # the token that filter entry j meets; before the first, i < 0
            seen = u[b, i, c] if i >= 0 else 0.0 if past is None else past[b, K - 1 + i, c]
            want[b, t, c] += w[c, j] * seen
    np.testing.assert_allclose(sequence.causal_conv1d(u, w, bias, past).data, want, rtol=0.0, atol=1e-13)


# ---------------------------------------------------------------------- broadcasting and operators


@given(shapes=mutually_broadcastable_shapes(num_shapes=2, max_dims=4, max_side=4, min_side=0))
def test_unbroadcast_sums_what_broadcasting_repeated(shapes):
    g = np.random.default_rng(0).standard_normal(shapes.result_shape)
    for shape in shapes.input_shapes:
        size = math.prod(shape)
        source = np.broadcast_to(np.arange(size).reshape(shape), g.shape)  # the entry each one came from
        want = np.bincount(source.ravel(), weights=g.ravel(), minlength=size).reshape(shape)
        np.testing.assert_allclose(ops.unbroadcast(g, shape), want, rtol=0.0, atol=1e-12)


@given(shapes=mutually_broadcastable_shapes(num_shapes=2, max_dims=3, max_side=3))
def test_arithmetic_has_the_gradients_of_calculus(shapes):
    rng = np.random.default_rng(0)
    a, b = (Tensor(rng.uniform(0.5, 2.0, shape), requires_grad=True) for shape in shapes.input_shapes)
    x, y = a.data, b.data
    for f, da, db in (
        (lambda: a + b, 1.0, 1.0),
        (lambda: a - b, 1.0, -1.0),
        (lambda: a * b, y, x),
        (lambda: a / b, 1.0 / y, -x / (y * y)),
    ):
        a.grad = b.grad = None
        c = rng.standard_normal(shapes.result_shape)
        f().backward(c)
        np.testing.assert_allclose(a.grad, ops.unbroadcast(c * da, a.shape), rtol=0.0, atol=1e-12)
        np.testing.assert_allclose(b.grad, ops.unbroadcast(c * db, b.shape), rtol=0.0, atol=1e-12)


@pytest.mark.parametrize("other", ["tensor", "array", "number", "numpy number"])
@pytest.mark.parametrize("name", ["add", "sub", "mul", "truediv"])
def test_operators_take_tensors_arrays_and_numbers_on_either_side(name, other, rng):
    f, x = getattr(operator, name), rng.uniform(1.0, 2.0, (2, 3))
    y = {"number": 1.5, "numpy number": np.float64(1.5)}.get(other, rng.uniform(1.0, 2.0, (2, 3)))
    t, u = Tensor(x, requires_grad=True), Tensor(y) if other == "tensor" else y
    for got, want in ((f(t, u), f(x, y)), (f(u, t), f(y, x))):
        assert isinstance(got, Tensor)
        np.testing.assert_array_equal(got.data, want)


def test_the_other_operators(rng):
    x, y = rng.uniform(1.0, 2.0, (2, 3)), rng.standard_normal((3, 4))
    t = Tensor(x)
    for got, want in (
        (-t, -x),
        (t**2.5, x**2.5),
        (t @ Tensor(y), x @ y),
        (t @ y, x @ y),
        (x @ Tensor(y), x @ y),
        (t[1], x[1]),
        (t[:, None, ::-1], x[:, None, ::-1]),
        (t.sum(), x.sum()),
        (t.sum(axis=1, keepdims=True), x.sum(axis=1, keepdims=True)),
        (t.mean(), x.sum() / 6),
        (t.reshape(3, 2), x.reshape(3, 2)),
        (t.transpose(1, 0), x.T),
    ):
        assert isinstance(got, Tensor)
        np.testing.assert_array_equal(got.data, want)


# ---------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("op", "shapes", "message"),
    [
        (ops.matmul, [(3,), (3, 2)], r"matmul: a \(3,\) and b \(3, 2\), wanted \(..., M, K\)"),
        (ops.matmul, [(2, 3), (2, 3)], r"matmul: a \(2, 3\) and b \(2, 3\)"),
        (ops.linear, [(2, 3), (4, 2)], r"linear: x \(2, 3\) and weight \(4, 2\), wanted"),
        (ops.linear, [(2, 3), (4, 3), (3,)], r"linear: bias \(3,\), wanted \(4,\)"),
        (ops.layer_norm, [(2, 3), (2,), (3,)], r"layer_norm: weight \(2,\), bias \(3,\), wanted \(3,\)"),
        (ops.cross_entropy, [(2, 3), (3,)], r"cross_entropy: targets \(3,\), wanted \(2,\)"),
        (sequence.causal_conv1d, [(1, 2, 3), (2, 3), (3,)], r"causal_conv1d: weight \(2, 3\)"),
        (sequence.causal_conv1d, [(1, 2, 3), (3, 2), (2,)], r"causal_conv1d: .*bias \(2,\), wanted \(3, K\)"),
        (
            sequence.causal_conv1d,
            [(1, 2, 3), (3, 2), (3,), (1, 2, 3)],
            r"past \(1, 2, 3\), wanted \(1, 1, 3\)",
        ),
        (sequence.associative_memory, [(1, 2, 3), (4, 2)], r"associative_memory: u .* memory \(4, 2\)"),
        (
            sequence.gated_fusion,
            [(1, 2, 3), (1, 2, 3), (1, 2, 3)],
            r"gated_fusion: .*gate \(1, 2, 3\), wanted",
        ),
    ],
)
def test_shapes_that_do_not_fit_are_named(op, shapes, message):
    with pytest.raises(ShapeError, match=message):
        op(*(np.zeros(shape) for shape in shapes))


@pytest.mark.parametrize("p", [-0.1, 1.0])
def test_dropout_refuses_what_is_no_probability(p):
    with pytest.raises(ValueError, match="dropout: p is"):
        ops.dropout(np.zeros(3), p=p, key=(0,))
