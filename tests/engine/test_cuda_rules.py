"""CuPy's faster rules, emulated: on every case of the table, at sizes of several blocks, in whole models.

Tests marked gpu do the same on a device.
"""

import numpy as np
import pytest
from helpers import fakecuda, fakegpu, tiny
from helpers.fakecuda import each_device, needs_compiler
from helpers.rules import assert_all_close, assert_faster_equals_reference, value_and_gradients

from minigam import (
    GAM,
    GAMConfig,
    Mamba,
    MambaConfig,
    Transformer,
    TransformerConfig,
    backend,
    ops,
    reference_only,
    sequence,
)
from minigam.engine import cuda, masks
from minigam.engine.tensor import OPS, ShapeError, Tensor
from minigam.gradcheck.arguments import between, ids, some_ignored, strided, transposed
from minigam.gradcheck.cases import CASES, case
from minigam.training import optim
from minigam.training.optim import AdamW
from minigam.training.step import train_step

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


@each_device
@pytest.mark.parametrize("case", [c for c in CASES if c.op in FAST], ids=str)
def test_each_rule_equals_its_reference_on_the_table(case, library, monkeypatch):
    assert_faster_equals_reference(case, library, monkeypatch)


C, N = 50, (3, 47)  # more than a warp and not a multiple of one; tokens of more than one block and slab
BATCHES = [
    case(ops.gelu, (*N, C)),
    case(ops.gelu, transposed(*N, 130), strided(130), label="bias"),
    case(ops.silu, strided(*N, C)),
    case(ops.softplus, transposed(*N, C)),
    case(ops.dropout, (*N, C), p=0.3, key=(1, 2), first_token=5),
    case(ops.dropout, transposed(*N, 7), p=0.9, key=(1, 2), first_token=1, label="odd"),
    case(ops.dropout, transposed(*N, 130), strided(130), p=0.3, key=(1, 2), first_token=5, label="bias"),
    case(ops.softmax, (*N, C)),
    case(ops.layer_norm, transposed(*N, C), (C,), (C,)),
    case(ops.layer_norm, (*N, 130), (130,), (130,), label="two blocks of channels"),
    case(ops.linear, transposed(*N, C), transposed(70, C), strided(70)),
    case(ops.embedding, (40, C), ids(20, 61, below=40)),
    case(ops.embedding, (300, 3), ids(600, below=300), label="wide"),
    case(ops.cross_entropy, transposed(*N, 70), some_ignored(*N, below=70)),
    case(ops.linear_cross_entropy, strided(*N, C), transposed(70, C), some_ignored(*N, below=70)),
    case(sequence.causal_conv1d, (*N, C), (C, 3), (C,)),
    case(sequence.causal_conv1d, strided(*N, C), transposed(C, 4), strided(C), transposed(3, 3, C),
         label="past"),
    case(sequence.associative_memory, strided(*N, C), transposed(70, C)),
    case(sequence.written_memory, strided(2, 131, C), transposed(2, 131, C), transposed(70, C), prior=0.5),
    case(sequence.written_memory, strided(2, 67, 130), (2, 67, 130), strided(140, 130),
         between(0.5, 2.0, 2, 140, 131), label="past, two blocks of channels and slots"),
    case(sequence.gated_fusion, transposed(*N, C), strided(*N, C), strided(*N, 2 * C)),
    case(sequence.gated_fusion, (*N, 130), (*N, 130), strided(*N, 260), strided(260), label="bias"),
    case(sequence.causal_attention, strided(*N, 3 * 12), n_heads=3),
    case(sequence.causal_attention, (*N, 3 * 12), transposed(3, 9, 24), n_heads=3, p=0.2, key=(3,),
         first_token=4, label="past, dropout"),
]  # fmt: skip
each_batch = pytest.mark.parametrize("case", BATCHES, ids=str)


def test_every_faster_rule_has_a_batch_of_several_blocks():
    elsewhere = {sequence.selective_scan}  # test_compiled_rules.py
    assert {c.op for c in BATCHES} | elsewhere == set(FAST)


@each_device
@each_dtype
@each_batch
def test_several_blocks_the_last_not_full(case, library, dtype, rtol, monkeypatch):
    monkeypatch.setattr(cuda.cross_entropy, "ROWS", 50)  # of logits at a time: three parts
    got, want = both(case, library, dtype)
    assert {(type(a), str(a.dtype)) for a in got} == {(backend.get(library).ndarray, dtype)}
    assert_all_close(got, want, rtol)


@each_device
@each_batch
def test_infinities_and_nan_go_where_the_reference_puts_them(case, library, monkeypatch):
    def broken(seed=0, dtype="float64"):
        arrays = inputs(seed, dtype)
        arrays[0] = arrays[0].copy()
        for row, bad in zip((0, 2, 5), (np.nan, np.inf, -np.inf), strict=True):
            arrays[0].reshape(-1, arrays[0].shape[-1])[row, 1] = bad
        return arrays

    inputs = case.inputs
    monkeypatch.setattr(type(case), "inputs", lambda self, *args: broken(*args))
    with np.errstate(all="ignore"):
        got, want = both(case, library)
    assert not np.isfinite(want[0]).all()
    for a, b in zip(got, want, strict=True):
        np.testing.assert_allclose(backend.to_numpy(a), b, rtol=1e-9, atol=1e-9)


@each_device
@each_batch
def test_inputs_stay_as_they_were(case, library):
    tensors = case.tensors(library=library)
    arrays = [t.data if isinstance(t, Tensor) else t for t in tensors]
    before = [backend.to_numpy(a).copy() for a in arrays]
    y = case.op(*tensors, **case.settings)
    value = backend.to_numpy(y.data).copy()
    dy = backend.get(library).asarray(np.random.default_rng(1).standard_normal(y.shape))
    y.backward(dy)
    once = [backend.to_numpy(t.grad).copy() for t in tensors if isinstance(t, Tensor)]
    y.backward(dy)  # adds the same once more, to the bit
    twice = [backend.to_numpy(t.grad) for t in tensors if isinstance(t, Tensor)]
    for a, b in zip([*arrays, y.data, *twice], [*before, value, *(2 * g for g in once)], strict=True):
        np.testing.assert_array_equal(backend.to_numpy(a), b)


@needs_compiler
@each_batch
def test_no_rule_waits_for_the_device(case, monkeypatch):
    tensors = case.tensors(library="fakegpu")

    def waited(*args):
        raise AssertionError("a rule asked the device for a number")

    for name in ("get", "item", "__float__", "__int__", "__bool__"):
        monkeypatch.setattr(fakegpu.DeviceArray, name, waited)
    y = case.op(*tensors, **case.settings)
    y.backward(fakegpu.xp.ones_like(y.data))


WRONG = [
    (ops.linear, [(2, 3), (4, 5)], {}),
    (ops.linear, [(2, 3), (4, 3), (3,)], {}),
    (ops.layer_norm, [(2, 3), (3,), (2,)], {}),
    (ops.gelu, [(2, 3), (2,)], {}),
    (ops.dropout, [(2, 3)], {"p": 1.0, "key": (1,)}),
    (sequence.gated_fusion, [(2, 3, 4), (2, 3, 4), (2, 3, 8), (4,)], {}),
    (ops.cross_entropy, [(2, 3), (3,)], {}),
    (ops.linear_cross_entropy, [(2, 3), (4, 5), (2,)], {}),
    (ops.linear_cross_entropy, [(2, 3), (4, 3), (3,)], {}),
    (sequence.causal_conv1d, [(2, 3, 4), (3, 2), (4,)], {}),
    (sequence.causal_conv1d, [(2, 3, 4), (4, 2), (4,), (2, 2, 4)], {}),
    (sequence.associative_memory, [(2, 3, 4), (5, 3)], {}),
    (sequence.written_memory, [(2, 3, 4), (2, 3, 4), (5, 3)], {}),
    (sequence.written_memory, [(2, 3, 4), (2, 4, 4), (5, 4)], {}),
    (sequence.written_memory, [(2, 3, 4), (2, 3, 4), (5, 4), (2, 5, 4)], {}),
    (sequence.gated_fusion, [(2, 3, 4), (2, 3, 4), (2, 3, 4)], {}),
    (sequence.causal_attention, [(2, 3, 4)], {"n_heads": 1}),
    (sequence.causal_attention, [(2, 3, 12), (2, 3, 4)], {"n_heads": 2}),
]


@pytest.mark.parametrize(("op", "shapes", "settings"), WRONG, ids=lambda v: getattr(v, "name", None))
def test_what_does_not_fit_is_refused_in_the_words_of_the_reference(op, shapes, settings):
    arrays = [fakegpu.xp.ones(shape, dtype="float32") for shape in shapes]
    kind = ValueError if op is ops.dropout else ShapeError
    with reference_only(), pytest.raises(kind) as reference:
        op(*arrays, **settings)
    with pytest.raises(kind) as faster:
        op(*arrays, **settings)
    assert str(faster.value) == str(reference.value)


# ---------------------------------------------------------------------------- promises of single rules


@each_device
@pytest.mark.parametrize("first_token", [0, 1, 2, 3, 10**7])
@pytest.mark.parametrize("shape", [(300_001,), (5, 7), (3, 5, 7)], ids=str)  # of many some are the threshold
def test_dropout_has_the_mask_of_the_backend_bit_for_bit(shape, first_token, library):
    x = backend.to(np.ones(shape, np.float32), library)
    got = backend.to_numpy(ops.dropout(x, p=0.37, key=(4, 2**40), first_token=first_token).data)
    mask = masks.keep_mask(np, (4, 2**40), 0.37, shape, first_token * shape[-1])
    np.testing.assert_array_equal(got, mask.astype(np.float32) * np.float32(1 / 0.63))


@each_device
@pytest.mark.parametrize("below", [1, 2, 3, 40])  # an id as frequent as all tokens, or few of each
def test_embedding_adds_in_one_order_whatever_the_ids(below, library):
    case = next(c for c in BATCHES if c.op is ops.embedding)
    rng, table = np.random.default_rng(1), case.inputs(dtype="float32")[0]
    drawn = rng.integers(below, size=(20, 61))
    assert drawn.size > max(2 * cuda.embedding.COUNTED, 2 * cuda.embedding.RUN)
    dy = rng.standard_normal((*drawn.shape, C)).astype("float32")
    want, got = np.zeros(table.shape), []
    np.add.at(want, drawn.reshape(-1), dy.reshape(-1, C))
    for _ in range(2):
        leaf = Tensor(backend.to(table, library), requires_grad=True)
        ops.embedding(leaf, backend.to(drawn, library)).backward(backend.to(dy, library))
        got.append(backend.to_numpy(leaf.grad))
    np.testing.assert_allclose(got[0], want, rtol=0.0, atol=1e-5 * np.abs(want).max())
    np.testing.assert_array_equal(got[0], got[1])


@needs_compiler
def test_logits_of_all_rows_never_exist(monkeypatch):
    monkeypatch.setattr(cuda.cross_entropy, "ROWS", 50)
    case, made, empty = next(c for c in BATCHES if c.op is ops.linear_cross_entropy), [], fakegpu.xp.empty
    monkeypatch.setattr(fakegpu.xp, "empty", lambda shape, dtype: made.append(shape) or empty(shape, dtype))
    value_and_gradients(case, case.tensors(library="fakegpu"))
    assert (50, 70) in made
    assert max(np.prod(shape) for shape in made) <= max(50 * 70, 3 * 47 * C)


@needs_compiler
def test_attention_keeps_one_array_that_grows_with_the_square(monkeypatch):
    case = next(c for c in BATCHES if c.op is sequence.causal_attention)
    qkv = case.tensors(library="fakegpu")[0].data
    _, backward = case.op.fast["cupy"](fakegpu.xp, qkv, n_heads=3, p=0.3, key=(1,))
    kept = [c.cell_contents for c in backward.__closure__]
    square = [a for a in kept if isinstance(a, fakegpu.DeviceArray) and a.size >= 3 * 3 * 47 * 47]
    assert len(square) == 1


def test_the_batches_are_several_blocks_and_slabs_the_last_not_full():
    tokens = N[0] * N[1]
    assert tokens * C > 2 * cuda.kernels.THREADS
    assert tokens * cuda.kernels.WARP % cuda.kernels.THREADS
    assert tokens > 2 * cuda.kernels.SLAB
    assert tokens % cuda.kernels.SLAB


@pytest.mark.parametrize("rows", [0, 1, 64, 65, 16_384, 16_385, 131_072, 10**7 + 1])
def test_slabs_cover_all_rows_and_are_not_too_many(rows):
    slabs, slab = cuda.kernels.slabs_of(rows)
    assert (slabs - 1) * slab < max(rows, 1) <= slabs * slab
    assert slabs <= 256 and slab >= 64


# ------------------------------------------------------------------------------------------ whole models

SIZES = {"vocab_size": 11, "block_size": 16, "d_model": 12, "n_layers": 2, "dropout": 0.2}
SHARED = {"embedding", "dropout", "layer_norm", "linear", "linear_cross_entropy", "adamw"}
MODELS = [
    (GAM, GAMConfig(**SIZES, n_slots=5), {"causal_conv1d", "associative_memory", "gated_fusion", "gelu"}),
    (
        GAM,
        GAMConfig(**SIZES, n_slots=5, mixer="written"),
        {"causal_conv1d", "written_memory", "gated_fusion", "gelu"},
    ),
    (Transformer, TransformerConfig(**SIZES, n_heads=2), {"causal_attention", "gelu"}),
    (
        Mamba,
        MambaConfig(**SIZES, d_state=3, expand=2),
        {"causal_conv1d", "selective_scan", "silu", "softplus"},
    ),
]


def trained(kind, config, library: str, micro_batch: int | None = None):
    """Return the losses of three steps, and the parameters after them."""
    model = tiny.randomise(kind(config, dtype="float64")).to(library)
    optimizer = AdamW(model.parameters(), lr=1e-3, eps=1e-3)  # so that tiny gradients take no full step
    ids = tiny.draw_ids(model, 4, 16)
    targets = np.where(np.arange(16) % 5 == 0, -1, np.roll(ids, -1, axis=1))
    loss = [train_step(model, optimizer, ids, targets, micro_batch) for _ in range(3)]
    return loss, model.state_dict()


@each_device
@pytest.mark.parametrize("micro_batch", [None, 3])
@pytest.mark.parametrize(("kind", "config", "own"), MODELS, ids=lambda v: getattr(v, "__name__", ""))
def test_a_model_trains_as_by_the_references(kind, config, own, micro_batch, library, monkeypatch):
    used = set()

    def noted(name, fast):
        return lambda *args, **settings: used.add(name) or fast(*args, **settings)

    for op in FAST:
        monkeypatch.setitem(op.fast, library, noted(op.name, op.fast[library]))
    monkeypatch.setitem(optim.FASTER, library, noted("adamw", optim.FASTER[library]))
    loss, parameters = trained(kind, config, library, micro_batch)
    assert used == SHARED | own
    with reference_only():
        want_loss, want = trained(kind, config, "numpy", micro_batch)
    np.testing.assert_allclose(loss, want_loss, rtol=1e-9)
    for name, a in parameters.items():
        np.testing.assert_allclose(a, want[name], rtol=1e-8, atol=1e-9, err_msg=name)


@each_device
@pytest.mark.parametrize("op", [ops.gelu, ops.silu, ops.softplus], ids=str)
def test_a_single_number_keeps_its_shape(op, library):
    """NumPy's and CuPy's ascontiguousarray give it an axis."""
    x = Tensor(np.array(0.7), requires_grad=True).to(library)
    y = op(x)
    y.backward()
    assert y.shape == x.grad.shape == ()
