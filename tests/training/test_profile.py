"""The profile of a step: who is charged, which products are counted, and what the command leaves behind."""

import itertools
import math
import sys
import types
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from helpers import fakecuda, fakegpu
from helpers.commands import SMALL, assert_refused, call
from helpers.fakecuda import needs_compiler

from minigam import GAM, Mamba, Transformer, backend, ops, sequence, train
from minigam.config import WRITTEN, GAMConfig, MambaConfig, TrainConfig, TransformerConfig
from minigam.data.corpus import from_pocketstories
from minigam.engine import cuda, precision, tensor
from minigam.engine.compiled.written_memory import CHUNK
from minigam.training import optim, profile
from minigam.training.profile import OPTIMIZER, REST, Profile, Watch, measure
from minigam.training.step import NonFinite

L, B, T, C, S = 2, 4, 128, 8, 3
SIZES = {"block_size": T, "d_model": C, "n_layers": L}
CONFIG = TrainConfig(batch_size=B, micro_batch=2)
PARTS = 2  # micro-batches of a step


class Clock:
    """Stands still, but for what a test adds to it."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(scope="module")
def corpus():
    return from_pocketstories(T, n_train=8, n_valid=1)


@pytest.fixture(autouse=True)
def few_steps(monkeypatch):
    monkeypatch.setattr(profile, "SECONDS", 0.0)


def make(kind: str, corpus, backend="numpy"):
    made = {
        "gam": lambda **sizes: GAM(GAMConfig(n_slots=S, **sizes), backend=backend),
        "written": lambda **sizes: GAM(GAMConfig(n_slots=S, mixer=WRITTEN, **sizes), backend=backend),
        "transformer": lambda **sizes: Transformer(TransformerConfig(n_heads=2, **sizes), backend=backend),
        "mamba": lambda **sizes: Mamba(MambaConfig(d_state=4, expand=2, **sizes), backend=backend),
    }
    return made[kind](vocab_size=len(corpus.tokenizer), **SIZES)


def slow(monkeypatch, clock, op, forward: float, backward: float) -> None:
    """Make an operation take so many seconds of `clock`."""
    rule = op.rule

    def rule_that_takes_time(xp, *arrays, **settings):
        clock.now += forward
        y, back = rule(xp, *arrays, **settings)

        def backward_that_takes_time(dy):
            clock.now += backward
            return back(dy)

        return y, backward_that_takes_time

    monkeypatch.setattr(op, "rule", rule_that_takes_time)
    monkeypatch.setattr(op, "fast", {})


def test_time_is_charged_to_who_takes_it(corpus, monkeypatch):
    clock = Clock()
    slow(monkeypatch, clock, ops.gelu, forward=5.0, backward=7.0)
    slow(monkeypatch, clock, ops.layer_norm, forward=0.5, backward=0.25)
    update, batch_of = optim.AdamW.step, profile.batch_of

    def slow_update(optimizer, *clip):
        clock.now += 11.0
        return update(optimizer, *clip)

    def slow_batch(*args):
        clock.now += 3.0
        return batch_of(*args)

    monkeypatch.setattr(optim.AdamW, "step", slow_update)
    monkeypatch.setattr(profile, "batch_of", slow_batch)
    found = measure(make("gam", corpus), corpus, CONFIG, clock)
    assert {key: seconds for key, seconds in found.seconds.items() if seconds} == {
        ("gelu", "forward"): 5.0 * PARTS * L,
        ("gelu", "backward"): 7.0 * PARTS * L,
        ("layer_norm", "forward"): 0.5 * PARTS * (2 * L + 1),
        ("layer_norm", "backward"): 0.25 * PARTS * (2 * L + 1),
        (OPTIMIZER, ""): 11.0,
        (REST, ""): 3.0,
    }
    assert found.alone == sum(found.seconds.values()) > 0.0


def test_a_step_alone_is_not_watched(corpus):
    ticks = itertools.count()
    found = measure(make("gam", corpus), corpus, CONFIG, lambda: next(ticks))
    assert found.alone == 1
    assert sum(found.seconds.values()) > found.calls.total()


def test_between_the_parts_of_a_batch_is_the_rest():
    clock = Clock()
    watch = Watch(backend.get("numpy"), clock)
    for op, phase in (("embedding", "forward"), ("exp", "forward"), ("exp", "backward")) * 2:
        clock.now += 1.0
        watch(op, phase, ())
    assert watch.seconds == {(REST, ""): 2.0, ("exp", "forward"): 2.0, ("exp", "backward"): 2.0}
    assert watch.calls == {"embedding": 2, "exp": 2}


def test_the_clock_is_read_after_the_device_has_done_its_work(corpus, monkeypatch):
    said = []

    def clock() -> float:
        said.append("clock")
        return float(len(said))

    monkeypatch.setattr(backend, "synchronize", lambda xp: said.append("waited"))
    watch = Watch(backend.get("numpy"), clock)
    said.clear()
    watch("exp", "forward", ())
    watch.charge(OPTIMIZER)
    profile.bound_seconds(Counter({(1, 2, 3, 4): 1}), backend.get("numpy"), "float32", clock)
    assert said == ["waited", "clock"] * 8


def test_calls_are_those_of_the_model(corpus):
    calls = measure(make("gam", corpus), corpus, CONFIG).calls
    for name in ("associative_memory", "causal_conv1d", "gated_fusion", "gelu"):
        assert calls[name] == L * PARTS, name
    assert calls["layer_norm"] == (2 * L + 1) * PARTS
    assert calls["linear"] + calls["linear_cross_entropy"] == (3 * L + 1) * PARTS
    assert calls["embedding"] == PARTS
    assert "causal_attention" not in calls


def multiplications(kind: str, V: int) -> int:
    """What the equations say of one token's forward."""
    E, N, R, n = 2 * C, 4, math.ceil(C / 16), CHUNK
    block = {
        "gam": 10 * C * C + 2 * S * C,  # gate 2, feed-forward 8; keys and values
        # gate 2, feed-forward 8; 2 scores; a chunk reads what others wrote, and writes; within it r w^T, P u
        "written": 10 * C * C + (2 + 2) * S * C + n * (S + C),
        "transformer": 12 * C * C + 2 * T * C,  # q, k, v and output 4, feed-forward 8; q k^T and a v
        "mamba": C * 2 * E + E * (R + 2 * N) + R * E + E * C,
    }[kind]
    return L * block + V * C


@pytest.mark.parametrize("kind", ["gam", "written", "transformer", "mamba"])
def test_the_products_are_those_of_the_equations(kind, corpus):
    products = measure(make(kind, corpus), corpus, CONFIG).products
    assert profile.flops(products) == 3 * 2 * B * T * multiplications(kind, len(corpus.tokenizer))


@needs_compiler
@pytest.mark.parametrize("n_tokens", [5, cuda.written_memory.CHUNK, 65, 131])
def test_the_products_of_a_written_memory_are_those_a_gpu_is_asked_for(n_tokens, rng, monkeypatch):
    asked, product, watch = Counter(), cuda.written_memory.product, Watch(backend.get("numpy"), Clock())

    def watched(xp, a, b, *more, **settings):
        asked[math.prod(a.shape[:-2]), *a.shape[-2:], b.shape[-1]] += 1
        return product(xp, a, b, *more, **settings)

    fakecuda.install(monkeypatch)
    monkeypatch.setattr(cuda.written_memory, "product", watched)
    shapes = (B, n_tokens, C), (B, n_tokens, C), (S, C)
    arrays = (tensor.Tensor(rng.standard_normal(shape), True).to("fakegpu") for shape in shapes)
    with tensor.observing(watch):
        sequence.written_memory(*arrays).sum().backward()
    assert watch.products == asked


def test_the_products_of_matmul_have_its_shapes(rng):
    a, b = (tensor.Tensor(rng.standard_normal(s), True) for s in ((2, 3, 4), (4, 5)))
    watch = Watch(backend.get("numpy"), Clock())
    with tensor.observing(watch):
        (a @ b).sum().backward()
    assert watch.products == {(2, 3, 4, 5): 1, (2, 3, 5, 4): 1, (2, 4, 3, 5): 1}


def test_the_head_counts_as_a_linear_map_when_its_loss_is_fused_with_it():
    watch = Watch(backend.get("numpy"), Clock())
    watch("linear_cross_entropy", "backward", (np.empty((2, 3, 4)), np.empty((7, 4)), None))
    assert watch.products == {(1, 6, 4, 7): 1, (1, 6, 7, 4): 1, (1, 7, 6, 4): 1}


def test_every_operation_with_products_exists():
    assert profile.PRODUCTS.keys() - {"linear_cross_entropy"} <= tensor.OPS.keys()


def test_products_are_computed_as_often_as_they_come_each_shape_into_one_output(monkeypatch):
    computed, product = [], np.matmul

    def watched(a, b, out):
        product(a, b, out=out)
        computed.append((a.shape, b.shape, out.shape, out.dtype, id(out)))

    compute = profile.matrix_products(Counter({(1, 2, 3, 4): 3, (5, 4, 3, 2): 1}), np, "float32")
    monkeypatch.setattr(np, "matmul", watched)
    compute()
    (first, three), (second, one) = Counter(computed).items()
    assert (first[:4], three) == (((1, 2, 3), (1, 3, 4), (1, 2, 4), "float32"), 3)
    assert (second[:4], one) == (((5, 4, 3), (5, 3, 2), (5, 4, 2), "float32"), 1)


def test_the_bound_counts_each_shape_as_often_as_it_comes():
    ticks = iter([0, 1, 2, 3, 4, 100, 0, 9, 19, 29, 39, 49])  # medians 1 and 10
    products = Counter({(1, 2, 3, 4): 3, (5, 2, 3, 4): 2})
    bound = profile.bound_seconds(products, backend.get("numpy"), "float32", lambda: next(ticks))
    assert bound == 3 * 1 + 2 * 10


def pretend_cuda(monkeypatch, **more) -> None:
    """Give the pretend GPU kernels, products, and events between which each product takes 2 ms."""
    waited = []

    class Event:
        def record(self):
            self.at = len(fakecuda.calls)

        def synchronize(self):
            waited.append(self)

    def get_elapsed_time(start, end) -> float:
        assert end in waited
        return 2.0 * (end.at - start.at)

    fakecuda.install(monkeypatch)
    monkeypatch.setattr(precision, "capability", lambda xp: 90)
    names = {"Event": Event, "get_elapsed_time": get_elapsed_time} | more
    monkeypatch.setattr(fakegpu.xp, "cuda", types.SimpleNamespace(**names), raising=False)


@pytest.mark.parametrize("mode", ["float32", "tf32", "float16"])
def test_a_device_times_the_products_itself_in_the_precision_of_the_run(mode, monkeypatch):
    pretend_cuda(monkeypatch)
    fakecuda.calls.clear()
    products = Counter({(1, 2, 3, 4): 3, (5, 2, 3, 4): 2})
    with precision.using(fakegpu.xp, mode):
        bound = profile.bound_seconds(products, fakegpu.xp, np.dtype("float32"), Clock())
    assert bound == pytest.approx(5 * 0.002)
    assert len(fakecuda.calls) > 2 * 5 * profile.LAUNCHES
    assert {c.kind for c in fakecuda.calls} == {np.float16 if mode == "float16" else np.float32}
    assert {c.compute for c in fakecuda.calls} == {77 if mode == "tf32" else 68}


@needs_compiler
@pytest.mark.parametrize("mode", ["tf32", "float16"])
def test_the_steps_are_those_of_the_runs_precision(mode, corpus, monkeypatch):
    stepped, taken = [], profile.train_step

    def step(model, optimizer, *args):
        stepped.append((precision.current(), optimizer.scale > 1.0))
        return taken(model, optimizer, *args)

    model, stream = make("gam", corpus, "fakegpu"), types.SimpleNamespace(synchronize=lambda: None)
    pretend_cuda(monkeypatch, get_current_stream=lambda: stream)
    monkeypatch.setattr(profile, "train_step", step)
    found = measure(model, corpus, replace(CONFIG, batch_size=1, micro_batch=1, precision=mode))
    assert stepped == (2 + 2 * profile.FEWEST) * [(mode, mode == "float16")]  # the first compiles
    assert found.bound == pytest.approx(0.002 * found.products.total())
    assert precision.current() == "float32"


def test_the_head_names_the_device(corpus, monkeypatch):
    pretend_cuda(
        monkeypatch,
        Device=lambda: types.SimpleNamespace(id=0),
        runtime=types.SimpleNamespace(
            getDeviceProperties=lambda i: {"name": b"Pretend 9000"}, runtimeGetVersion=lambda: 13020
        ),
        cublas=types.SimpleNamespace(getVersion=lambda handle: 130200),
        device=types.SimpleNamespace(get_cublas_handle=lambda: 1),
    )
    monkeypatch.setattr(fakegpu.xp, "__version__", "14.2.0", raising=False)
    line = profile.head(make("gam", corpus, "fakegpu"), replace(CONFIG, precision="tf32"))
    wanted = "backend fakegpu, Pretend 9000, CuPy 14.2.0, CUDA 13.2, cuBLAS 130200, precision tf32"
    assert line.endswith(wanted)
    assert "cores" not in line


@pytest.mark.gpu
@pytest.mark.parametrize("mode", ["float32", "tf32", "float16"])
def test_a_profile_on_a_device(mode, corpus):
    config, model = replace(CONFIG, precision=mode), make("gam", corpus, "cupy")
    assert f"precision {mode}" in profile.head(model, config)
    found = measure(model, corpus, config)
    assert 0.0 < found.bound < 10 * found.alone


def test_it_watches_where_the_model_is(corpus, monkeypatch):
    asked = []
    monkeypatch.setattr(profile, "bound_seconds", lambda products, xp, *_: asked.append(xp.__name__))
    found = [measure(make("gam", corpus, name), corpus, CONFIG) for name in ("numpy", "fakegpu")]
    assert asked == ["numpy", "fakegpu"]
    assert found[0].products == found[1].products
    assert found[0].calls == found[1].calls


def test_the_table_is_sorted_and_adds_up():
    seconds = {("exp", "forward"): 0.010, ("exp", "backward"): 0.020, ("log", "forward"): 0.005}
    seconds |= {(OPTIMIZER, ""): 0.050, (REST, ""): 0.015}
    found = Profile(seconds, Counter(exp=3, log=1), 0.08, 40.0, Counter({(1, 100, 200, 300): 2}), 0.02)
    lines = profile.text(found).splitlines()
    assert [line.split("  ")[0] for line in lines[1:7]] == [
        OPTIMIZER, "exp", REST, "log", "one step, watched", "one step, alone",
    ]  # fmt: skip
    assert lines[1].split()[-2:] == ["50.00", "50.0%"]
    assert lines[2].split() == ["exp", "3", "10.00", "20.00", "30.00", "30.0%"]
    assert lines[4].split() == ["log", "1", "5.00", "0.00", "5.00", "5.0%"]
    assert lines[5].split()[-2:] == ["100.00", "100.0%"]
    assert lines[6].split()[-1] == "80.00"
    assert len({len(line) for line in lines[:6]}) == 1
    assert lines[-1].startswith("500 tokens/s")
    assert "0.02 s (0.024 GFLOP at 1 GFLOP/s)" in lines[-1]
    assert lines[-1].endswith("25% of that lower bound.")


def test_the_head_does_without_threadpoolctl(corpus, monkeypatch):
    monkeypatch.setitem(sys.modules, "threadpoolctl", None)
    line = profile.head(make("transformer", corpus), CONFIG)
    for part in (
        "Transformer of ",
        "4 rows of 128 tokens, at most 2",
        "backend numpy",
        "without threadpoolctl",
    ):
        assert part in line
    assert "\n" not in line


@pytest.mark.parametrize("kind", ["gam", "transformer", "mamba"])
def test_the_command_prints_a_table_and_writes_nothing(kind, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    code, out, err = call(train.main, [*SMALL, "--profile", f"--model={kind}"], capsys)
    assert code == 0, err
    for part in ("rows of 128 tokens", "linear", OPTIMIZER, REST, "tokens/s", "of that lower bound"):
        assert part in out
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("flag", ["--resume=run", "--out=run"])
def test_no_run_folder_goes_with_it(flag, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert_refused(train.main, [*SMALL, "--profile", flag], capsys, "--profile", "omit --resume and --out")
    assert not list(tmp_path.iterdir())


def test_a_model_that_is_no_number_is_one_line(tmp_path, monkeypatch, capsys):
    def diverge(*arguments):
        raise NonFinite("loss nan")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(profile, "measure", diverge)
    assert_refused(train.main, [*SMALL, "--profile"], capsys, "loss nan", "--position-std")


def test_ctrl_c_leaves_nothing_behind(tmp_path, monkeypatch, capsys):
    def interrupt(optimizer, *clip):
        raise KeyboardInterrupt

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(optim.AdamW, "step", interrupt)
    code, _, err = call(train.main, [*SMALL, "--profile"], capsys)
    assert code == 130
    assert err.splitlines()[-1] == "command: interrupted"
    assert tensor.state() == tensor.State()
    assert not list(tmp_path.iterdir())
