"""tf32, float16 and bfloat16: what products are asked for, where they are refused; the scale of the loss."""

import json
import math
import shutil
import signal

import numpy as np
import pytest
from helpers import fakecuda, fakegpu
from helpers.runs import FLAGS, assert_same_run
from helpers.steps import batch, tiny

from minigam import backend, ops, sequence, train
from minigam.config import PRECISIONS, WRITTEN, InputError
from minigam.engine import cuda, precision
from minigam.engine.precision import PrecisionUnavailable
from minigam.engine.tensor import Tensor
from minigam.files import read_arrays
from minigam.training import step
from minigam.training.optim import AdamW, LossScale
from minigam.training.run import Run
from minigam.training.step import NonFinite, train_step

xp = fakegpu.xp
HALF = [*FLAGS, "--precision=float16"]


@pytest.fixture
def capable(monkeypatch):
    """Let every library be a GPU of compute capability 9.0."""
    fakecuda.install(monkeypatch)
    monkeypatch.setattr(precision, "capability", lambda xp: 90)


def operands(dtype="float32") -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.standard_normal(shape).astype(dtype) for shape in ((4, 50), (50, 3))]


# ----------------------------------------------------------------------------------------- products


@pytest.mark.parametrize(
    ("name", "dtype", "kind", "compute"),
    [
        ("float32", "float32", np.float32, fakecuda.CUBLAS.CUBLAS_COMPUTE_32F),
        ("tf32", "float32", np.float32, fakecuda.CUBLAS.CUBLAS_COMPUTE_32F_FAST_TF32),
        ("float16", "float32", np.float16, fakecuda.CUBLAS.CUBLAS_COMPUTE_32F),
        ("bfloat16", "float32", "bfloat16", fakecuda.CUBLAS.CUBLAS_COMPUTE_32F),
        ("tf32", "float64", np.float64, fakecuda.CUBLAS.CUBLAS_COMPUTE_64F),
        ("float16", "float64", np.float64, fakecuda.CUBLAS.CUBLAS_COMPUTE_64F),
        ("bfloat16", "float64", np.float64, fakecuda.CUBLAS.CUBLAS_COMPUTE_64F),
    ],
)
def test_a_product_asks_cublas_for_the_precision_that_is_set(name, dtype, kind, compute, capable):
    a, b = map(xp.asarray, operands(dtype))
    with precision.using(xp, name):
        y = cuda.linear.product(xp, a, b)
    call = fakecuda.calls[-1]
    assert (call.kind, call.out, call.compute, y.dtype) == (kind, np.dtype(dtype).type, compute, dtype)


@fakecuda.each_device
def test_float16_rounds_what_goes_in_and_not_what_comes_out(library, monkeypatch):
    fakecuda.install(monkeypatch)
    if library == "fakegpu":
        monkeypatch.setattr(precision, "capability", lambda xp: 90)
    a, b = operands()
    a *= 1000.0  # so that sums are beyond float16
    here, rounded = backend.get(library), [z.astype("float16").astype("float64") for z in (a, b.T)]
    with precision.using(here, "float16"):
        y = cuda.linear.product(here, here.asarray(a), here.asarray(b))
    np.testing.assert_allclose(backend.to_numpy(y), rounded[0] @ rounded[1].T, rtol=1e-4)
    assert np.abs(backend.to_numpy(y) - a.astype("float64") @ b).max() > 1e-2


def in_bfloat16(z: np.ndarray) -> np.ndarray:
    """Round float32 numbers to 8 significant bits, to the even one of two, in float64."""
    mantissa, exponent = np.frexp(z.astype("float64"))
    return np.ldexp(np.rint(mantissa * 256.0), exponent - 8)


@fakecuda.each_device
def test_bfloat16_rounds_to_the_nearest_number_of_8_bits(library, monkeypatch):
    fakecuda.install(monkeypatch)
    if library == "fakegpu":
        monkeypatch.setattr(precision, "capability", lambda xp: 90)
    halves = np.array([[1.0 + 2**-8, 1.0 + 3 * 2**-8, -(1.0 + 2**-8), 1e38, 1e-38, 0.0]], "float32").T
    a, b = operands()
    here = backend.get(library)
    with precision.using(here, "bfloat16"):
        one = here.asarray(np.ones((1, 1), "float32"))
        y = cuda.linear.product(here, here.asarray(halves), one)
        z = cuda.linear.product(here, here.asarray(a), here.asarray(b.T.copy()).T)  # stored as its transpose
        bad = cuda.linear.product(here, here.asarray(np.array([[np.nan, np.inf, -np.inf]], "float32").T), one)
    np.testing.assert_array_equal(backend.to_numpy(y), in_bfloat16(halves))
    np.testing.assert_allclose(backend.to_numpy(z), in_bfloat16(a) @ in_bfloat16(b), rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(backend.to_numpy(bad).ravel(), [np.nan, np.inf, -np.inf])


@pytest.mark.parametrize("name", ["float16", "bfloat16"])
def test_a_linear_layer_rounds_each_array_once(name, capable, monkeypatch):
    made, to_half = [], cuda.linear._to_half
    monkeypatch.setattr(
        cuda.linear, "_to_half", lambda xp, z, name: made.append(z.shape) or to_half(xp, z, name)
    )
    x, weight = (Tensor(xp.ones(shape, dtype="float32"), requires_grad=True) for shape in ((7, 5), (3, 5)))
    with precision.using(xp, name):
        ops.linear(x, weight).sum().backward()
    assert made == [(7, 5), (3, 5), (7, 3)]  # x, the weight, dy: for three products


@pytest.mark.parametrize("name", ["float16", "bfloat16"])
def test_a_written_memory_rounds_each_array_once(name, capable, monkeypatch):
    made, to_half = [], cuda.linear._to_half
    monkeypatch.setattr(
        cuda.linear, "_to_half", lambda xp, z, name: made.append(z.shape) or to_half(xp, z, name)
    )
    B, T, C, S = 2, 3, 4, 5
    u, local_context, memory = (
        Tensor(xp.ones(s, dtype="float32"), True) for s in ((B, T, C), (B, T, C), (S, C))
    )
    with precision.using(xp, name):
        y = sequence.written_memory(u, local_context, memory)
        forward = made.copy()
        y.sum().backward()
    assert forward == [(B, T, C), (B, T, C), (S, C), *2 * [(B * T, S)], (B, 1, S, C), (B, 1, T, T)]
    assert made[7:] == [(B, T, C), (B, 1, S, C), (B, 1, T, T), *2 * [(B * T, S)]]  # for 18 products


@fakecuda.each_device
@pytest.mark.parametrize(
    ("forward", "backward"), [("float16", "float32"), ("bfloat16", "float16"), ("float32", "float16")]
)
def test_a_backward_pass_in_another_precision_is_no_other_computation(
    forward, backward, library, monkeypatch
):
    """An array that was rounded before is met by one that is rounded alike."""
    fakecuda.install(monkeypatch)
    if library == "fakegpu":
        monkeypatch.setattr(precision, "capability", lambda xp: 90)
    here, (a, b) = backend.get(library), operands()
    x, weight = (Tensor(backend.to(z, library), requires_grad=True) for z in (a, b.T.copy()))
    memory = Tensor(backend.to(b.T.copy(), library), requires_grad=True)
    with precision.using(here, forward):
        loss = ops.linear(x, weight).sum() + sequence.associative_memory(x, memory).sum()
        text = x.reshape(2, 2, 50)
        loss = loss + sequence.written_memory(text, text, memory).sum()
    with precision.using(here, backward):
        loss.backward()
    np.testing.assert_allclose(backend.to_numpy(weight.grad), np.ones((3, 4)) @ a, rtol=2e-2, atol=0.1)
    assert np.isfinite(backend.to_numpy(memory.grad)).all()


def test_products_of_two_formats_are_refused(capable):
    half = xp.ones((2, 2), dtype="float16")
    with pytest.raises(TypeError, match="product: float16 and float64 on a GPU"):
        cuda.linear.product(xp, half, xp.ones((2, 2), dtype="float64"))


@pytest.mark.gpu
def test_tf32_on_a_device_is_less_exact_and_not_wrong():
    here, rng = backend.get("cupy"), np.random.default_rng(0)
    a, b = rng.standard_normal((2, 256, 256)).astype("float32")  # large enough for tensor cores
    exact, got = a.astype("float64") @ b, {}
    for name in ("float32", "tf32"):
        with precision.using(here, name):
            y = cuda.linear.product(here, here.asarray(a), here.asarray(b))
        got[name] = np.abs(backend.to_numpy(y) - exact).max()
    assert got["float32"] < 1e-4
    assert 1e-3 < got["tf32"] < 0.2


# ------------------------------------------------------------------------------------------ refusals


@pytest.mark.parametrize("name", ["tf32", "float16", "bfloat16"])
def test_a_processor_has_float32_alone(name):
    with pytest.raises(
        PrecisionUnavailable, match=rf"{name} on numpy, no GPU, wanted a GPU of compute capability \d\.0 or"
    ):
        precision.require(np, name)
    precision.require(np, "float32")


@pytest.mark.parametrize(
    ("name", "have", "enough"), [("tf32", 75, 80), ("float16", 61, 70), ("bfloat16", 75, 80)]
)
def test_an_old_gpu_is_named_by_its_capability(name, have, enough, monkeypatch):
    monkeypatch.setattr(precision, "capability", lambda xp: have)
    wanted = (
        f"precision {name} on compute capability {have / 10}, "
        f"wanted a GPU of compute capability {enough / 10} or more"
    )
    with pytest.raises(PrecisionUnavailable, match=wanted):
        precision.require(xp, name)
    monkeypatch.setattr(precision, "capability", lambda xp: enough)
    precision.require(xp, name)


def test_the_precision_before_comes_back(capable):
    with pytest.raises(KeyError), precision.using(xp, "tf32"):
        with precision.using(xp, "float16"):
            assert precision.current() == "float16"
        assert precision.current() == "tf32"
        raise KeyError
    assert precision.current() == "float32"


def test_each_precision_says_what_it_needs():
    assert tuple(precision.NEEDED) == PRECISIONS


def test_train_refuses_before_it_writes(tmp_path):
    with pytest.raises(PrecisionUnavailable, match="precision float16 on numpy"):
        train.main([*HALF, f"--out={tmp_path / 'run'}"])
    assert not list(tmp_path.iterdir())


# ------------------------------------------------------------------------------------------ loss scale


def test_the_scale_halves_at_once_and_doubles_in_time(monkeypatch):
    monkeypatch.setattr(LossScale, "GROWTH", 3)
    scale, seen = LossScale(), []
    for finite in (True, True, False, True, True, True, True):
        scale.update(finite)
        seen.append(math.log2(scale.value))
    assert seen == [16, 16, 15, 15, 15, 16, 16]
    assert scale.good_steps == 1


def test_a_scale_changes_no_bit_of_a_step():
    """All its values are powers of two."""
    ids, targets = batch()
    models = [tiny(dropout=0.2) for _ in range(2)]
    for model, scale in zip(models, (None, LossScale(2.0**10)), strict=True):
        optimizer = AdamW(model.parameters(), loss_scale=scale)
        losses = [train_step(model, optimizer, ids, targets, micro_batch=2, max_norm=0.5) for _ in range(3)]
        model.result = losses, optimizer.state_dict([n for n, _ in model.named_parameters()])
    assert models[0].result[0] == models[1].result[0]
    for name, m in models[0].result[1].items():
        np.testing.assert_array_equal(m, models[1].result[1][name], err_msg=name)
    assert scale.good_steps == 3


def test_gradients_that_overflow_cost_a_step_and_half_the_scale():
    model, (ids, targets) = tiny(dtype="float32"), batch()
    optimizer, before = AdamW(model.parameters(), loss_scale=LossScale(2.0**127)), model.state_dict()
    with np.errstate(all="ignore"):
        loss = train_step(model, optimizer, ids, targets)
    assert math.isfinite(loss)
    assert (optimizer.steps, optimizer.loss_scale.value) == (0, 2.0**126)
    for name, a in model.state_dict().items():
        np.testing.assert_array_equal(a, before[name])
    with np.errstate(all="ignore"):
        for _ in range(80):
            train_step(model, optimizer, ids, targets)
    assert 0 < optimizer.steps < 80


def test_a_scale_that_has_fallen_to_one_grows_again(monkeypatch):
    monkeypatch.setattr(LossScale, "GROWTH", 3)
    model, (ids, targets) = tiny(), batch()
    optimizer = AdamW(model.parameters(), loss_scale=LossScale(1.0))
    for _ in range(3):
        train_step(model, optimizer, ids, targets)
    assert optimizer.loss_scale.value == 2.0


def test_what_no_scale_mends_is_an_error(monkeypatch):
    model, (ids, targets) = tiny(), batch()
    optimizer = AdamW(model.parameters(), loss_scale=LossScale(2.0))
    monkeypatch.setattr(step, "first_non_finite", lambda *args: "here")
    monkeypatch.setattr(optimizer, "step", lambda *args: np.float64(math.inf))
    train_step(model, optimizer, ids, targets)
    assert optimizer.loss_scale.value == 1.0
    with pytest.raises(NonFinite, match="gradient norm inf; first fault: here"):
        train_step(model, optimizer, ids, targets)


@fakecuda.each_device
@pytest.mark.parametrize("name", ["tf32", "float16", "bfloat16"])
@pytest.mark.parametrize("mixer", ["gated", WRITTEN])
def test_a_model_learns_almost_as_in_float32(mixer, name, library, monkeypatch):
    fakecuda.install(monkeypatch)
    if library == "fakegpu":
        monkeypatch.setattr(precision, "capability", lambda xp: 90)
    ids, targets = batch()
    losses = {}
    for how in ("float32", name):
        model = tiny(dropout=0.2, dtype="float32", mixer=mixer).to(library)
        optimizer = AdamW(model.parameters(), lr=1e-2, loss_scale=LossScale() if how == "float16" else None)
        with precision.using(model.xp, how):
            losses[how] = [train_step(model, optimizer, ids, targets) for _ in range(10)]
        assert optimizer.steps == 10
    np.testing.assert_allclose(losses[name], losses["float32"], rtol=2e-2 if name == "bfloat16" else 5e-3)
    assert losses[name][-1] < losses[name][0]
    if name != "tf32":  # which is not emulated, and for which a device may take other products
        assert losses[name] != losses["float32"]


# -------------------------------------------------------------------------------------------- the run


def saved_scale(path) -> dict:
    return json.loads(read_arrays(path / "optimizer.safetensors", "training state")[1]["loss_scale"])


def test_a_run_keeps_its_precision_and_goes_on_with_its_scale(tmp_path, capable, monkeypatch):
    monkeypatch.setattr(LossScale, "GROWTH", 5)
    whole, parts, log, seen = tmp_path / "whole", tmp_path / "parts", Run.log, set()

    def log_and_interrupt(self, line):
        log(self, line)
        seen.add(precision.current())
        if self.path == parts and line["step"] == 7 and "lr" in line:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(Run, "log", log_and_interrupt)
    assert train.main([*HALF, f"--out={whole}"]) == 0
    assert train.main([*HALF, f"--out={parts}"]) == 130
    assert saved_scale(parts) == {"value": 2.0**17, "good_steps": 2}
    monkeypatch.setattr(Run, "log", log)
    assert train.main(["--backend=numpy", f"--resume={parts}"]) == 0
    assert_same_run(whole, parts)
    assert saved_scale(whole) == {"value": 2.0**18, "good_steps": 2}
    assert seen == {"float16"} | {"float32"}  # in training; and at the end, in the last validation
    with pytest.raises(InputError, match="--precision is tf32, the run was started with float16"):
        train.main(["--backend=numpy", f"--resume={parts}", "--precision=tf32"])


def test_resuming_where_the_precision_is_missing_is_refused(tmp_path, capable, monkeypatch):
    assert train.main([*HALF, f"--out={tmp_path / 'run'}"]) == 0
    monkeypatch.undo()
    with pytest.raises(PrecisionUnavailable, match="precision float16 on numpy"):
        train.main(["--backend=numpy", f"--resume={tmp_path / 'run'}"])


def test_runs_from_before_there_was_a_choice_are_read(tmp_path):
    assert train.main([*FLAGS, f"--out={tmp_path / 'run'}"]) == 0
    path = shutil.copytree(tmp_path / "run", tmp_path / "old")
    config = json.loads((path / "config.json").read_text())
    assert config["train"].pop("precision") == "float32"
    (path / "config.json").write_text(json.dumps(config))
    assert Run(path).config.train.precision == "float32"
    Run(path).load_model()
