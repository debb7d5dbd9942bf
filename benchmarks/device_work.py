"""What `benchmarks.device` computes in its child processes: training on both backends, the time of a step
and of single kernels. Imports no more than a training run does."""

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from types import ModuleType

import numpy as np

from benchmarks import gpu, measure
from minigam import GAM, GAMConfig, backend, ops, sequence
from minigam.config import PRECISIONS
from minigam.engine import cuda
from minigam.engine.precision import PrecisionUnavailable, using
from minigam.files import read_json, write_json
from minigam.models import MODELS
from minigam.training.optim import FASTER, AdamW, LossScale
from minigam.training.run import Run
from minigam.training.step import begin_step, train_step

CLOSE = 1e-4  # most relative difference of a loss between the backends
STATE = ("model.safetensors", "optimizer.safetensors")


def work(task: str, **settings) -> dict:
    """Run one task; return {"line": one line that sums it up}. Raises WorkerFailed where a check fails."""
    return {"line": TASKS[task](**settings)}


def environment() -> str:
    """Return the line that heads all results."""
    try:
        return gpu.environment()
    except backend.BackendUnavailable as e:
        raise measure.WorkerFailed(str(e)) from None


def train(*flags: str) -> None:
    """Run `minigam train` in a process of its own; the package need not be installed."""
    command = [sys.executable, "-m", "minigam", "train", *flags]
    print("\n$", *command[1:], flush=True)
    done = subprocess.run(command, cwd=measure.PROJECT)
    if done.returncode != 0:
        raise measure.WorkerFailed(
            f"minigam train: exit code {done.returncode}; its last line is in logs.txt"
        )


def training(folder: str, flags: list[str]) -> str:
    """Train on CuPy twice and on NumPy once. The two runs on CuPy must be equal, losses and final state, bit
    for bit; the losses on NumPy must be close to theirs."""

    def losses(name: str, library: str) -> np.ndarray:
        train("--out", str(Path(folder, name)), "--backend", library, *flags)
        return np.array([m["loss"] for m in Run(Path(folder, name)).metrics()])

    cupy, again = losses("cupy", "cupy"), losses("again", "cupy")
    if not np.array_equal(cupy, again):
        raise measure.WorkerFailed("two runs on CuPy have different losses")
    for file in STATE:
        if Path(folder, "cupy", file).read_bytes() != Path(folder, "again", file).read_bytes():
            raise measure.WorkerFailed(f"two runs on CuPy have the same losses and a different {file}")
    print("two runs on CuPy are equal, bit for bit", flush=True)
    numpy = losses("numpy", "numpy")
    if cupy.shape != numpy.shape:
        raise measure.WorkerFailed("the runs on CuPy and NumPy have different numbers of losses")
    worst = float(np.abs(cupy / numpy - 1.0).max())
    if not worst <= CLOSE:
        raise measure.WorkerFailed(f"losses on CuPy and NumPy differ by {worst:.1e}, wanted {CLOSE:.0e}")
    return (
        f"{len(cupy)} losses: two runs on CuPy are equal, bit for bit; "
        f"CuPy and NumPy differ by at most {worst:.1e}"
    )


def profiles(flags: list[str]) -> str:
    """Profile a training step of each model."""
    for name in MODELS:
        train("--profile", "--backend", "cupy", "--model", name, *flags)
    return f"profiles of {', '.join(MODELS)} in the log"


# ------------------------------------------------------------------------------------- a training step


AHEAD = 64  # products that the device has to do while the host starts a step


class Stamped(AdamW):
    """AdamW that notes when the host has started the last kernel of a step."""

    def step(self, *args, **settings):
        norm = super().step(*args, **settings)
        self.launched = time.perf_counter()
        return norm


def steps(out: str, model: dict, batch: int, repeats: int) -> str:
    """Time a training step in each precision; write it to `out` after each."""
    cupy, config, cells = backend.get("cupy"), GAMConfig.from_dict(model), {}
    for name in PRECISIONS:
        try:
            with using(cupy, name):
                cells[name] = _step(cupy, config, batch, repeats, scaled=name == "float16")
        except PrecisionUnavailable as e:
            cells[name] = {"left_out": str(e)}
        _add(Path(out), {"model": model, "batch": batch, "repeats": repeats, "steps": cells})
        cupy.get_default_memory_pool().free_all_blocks()
    return "; ".join(f"{name} {c['device_ms']:.2f} ms" for name, c in cells.items() if "device_ms" in c)


def _step(cupy: ModuleType, config: GAMConfig, batch: int, repeats: int, scaled: bool) -> dict:
    """Return medians in ms: until the host has started the last kernel, of the device's work alone, and until
    the host has read the loss."""
    model, (ids, targets) = GAM(config, backend="cupy").train(), _batches(config, batch)
    optimizer = Stamped(model.parameters(), loss_scale=LossScale() if scaled else None)
    host, device, whole = [], [], []
    for _ in range(gpu.WARM_UP + repeats):
        backend.synchronize(cupy)
        start = time.perf_counter()
        train_step(model, optimizer, ids, targets)
        whole.append(1e3 * (time.perf_counter() - start))
        host.append(1e3 * (optimizer.launched - start))
    other = cupy.ones((8 * config.d_model, 8 * config.d_model), dtype="float32")
    for _ in range(gpu.WARM_UP + repeats):
        begin, end = cupy.cuda.Event(), cupy.cuda.Event()
        for _ in range(AHEAD):
            other @ other  # so that the device waits for nothing once the step begins
        begin.record()
        finish = begin_step(model, optimizer, ids, targets)
        end.record()
        finish()
        end.synchronize()  # it comes after the copy that finish has waited for
        device.append(cupy.cuda.get_elapsed_time(begin, end))
    times = {"host_ms": host, "device_ms": device, "whole_ms": whole}
    return {what: median(values[gpu.WARM_UP :]) for what, values in times.items()}


def _batches(config: GAMConfig, batch: int) -> tuple[np.ndarray, np.ndarray]:
    """Return random ids and targets."""
    rng, shape = np.random.default_rng(0), (batch, config.block_size)
    return rng.integers(config.vocab_size, size=shape), rng.integers(config.vocab_size, size=shape)


# ---------------------------------------------------------------------------------------- single rules


@contextmanager
def launched(xp: ModuleType) -> Iterator[dict[str, dict]]:
    """Yield {kernel: {"calls", "ms"}}, which holds what was launched inside the `with` block when it ends. A
    time includes the gap before the kernel starts, if the device waits for the host."""
    spans, times, original = [], {}, cuda.kernels.kernel

    def kernel(xp, source, name, *options):
        function = original(xp, source, name, *options)

        def start(*arguments):
            begin, end = xp.cuda.Event(), xp.cuda.Event()
            begin.record()
            function(*arguments)
            end.record()
            spans.append((name, begin, end))

        return start

    cuda.kernels.kernel = kernel
    try:
        yield times
    finally:
        cuda.kernels.kernel = original
    backend.synchronize(xp)
    for name, begin, end in spans:
        cell = times.setdefault(name, {"calls": 0, "ms": 0.0})
        cell["calls"] += 1
        cell["ms"] += xp.cuda.get_elapsed_time(begin, end)


def kernels(out: str, model: dict, batch: int, repeats: int) -> str:
    """Time each suspect alone, forward and backward, with the bytes that it must read or write at least, and
    each kernel in it and in a training step; write all to `out` after each."""
    cupy, config, cells, launches = backend.get("cupy"), GAMConfig.from_dict(model), {}, {}
    for name, (op, arrays) in suspects(cupy, config, batch).items():
        y, backward = op.fast["cupy"](cupy, *arrays)
        dy = cupy.ones_like(y)
        gradients = [g for g in backward(dy) if g is not None]
        forward = _timed(cupy, lambda: op.fast["cupy"](cupy, *arrays), repeats, [*arrays, y])  # noqa: B023
        back = _timed(cupy, lambda: backward(dy), repeats, [*arrays, dy, *gradients])  # noqa: B023
        cells[name] = {"forward": forward, "backward": back}
        with launched(cupy) as launches[name]:
            op.fast["cupy"](cupy, *arrays)[1](dy)
        _add(Path(out), {"kernels": cells, "launches": launches})
    own = GAM(config, backend="cupy").train()
    cells["AdamW"] = {"update": _adamw(cupy, own.num_parameters(), repeats)}
    optimizer, batches = AdamW(own.parameters()), _batches(config, batch)
    train_step(own, optimizer, *batches)
    with launched(cupy) as launches["a training step"]:
        train_step(own, optimizer, *batches)
    _add(Path(out), {"kernels": cells, "launches": launches})
    speeds = {f"{name} {phase}": c["gb_per_s"] for name, cell in cells.items() for phase, c in cell.items()}
    slowest = min(speeds, key=speeds.__getitem__)
    return f"{len(speeds)} timed; the slowest moves {speeds[slowest]:.1f} GB/s: {slowest}"


def suspects(xp: ModuleType, c: GAMConfig, batch: int) -> dict[str, tuple]:
    """Return the rules that may be slow on a device, each with its arrays at the sizes of a model."""
    rng, T, C, V, S = np.random.default_rng(0), c.block_size, c.d_model, c.vocab_size, 16
    N, E = batch * T, MODELS["mamba"].Config().expand * C

    def normal(*shape: int, sign: int = 0):
        z = rng.standard_normal(shape, dtype=np.float32)
        return xp.asarray(sign * np.abs(z) if sign else z)

    def whole(values: np.ndarray):
        return xp.asarray(values.astype(np.int64))

    rows = min(N, 4096)  # logits of so many rows are in memory at a time
    scan = (normal(batch, T, E), normal(batch, T, E, sign=1), normal(E, S, sign=-1),
            normal(batch, T, S), normal(batch, T, S), normal(E))  # fmt: skip
    return {
        "embedding, skewed ids": (ops.embedding, (normal(V, C), whole(V * rng.random(N) ** 4))),
        "embedding, one id": (ops.embedding, (normal(V, C), whole(np.zeros(N)))),
        "cross_entropy": (ops.cross_entropy, (normal(rows, V), whole(rng.integers(V, size=rows)))),
        "causal_conv1d": (
            sequence.causal_conv1d, (normal(batch, T, C), normal(C, c.kernel_size), normal(C))
        ),
        "layer_norm": (ops.layer_norm, (normal(N, C), normal(C), normal(C))),
        "selective_scan": (sequence.selective_scan, scan),
        "written_memory": (
            sequence.written_memory, (normal(batch, T, C), normal(batch, T, C), normal(c.n_slots, C))
        ),
    }  # fmt: skip


def _adamw(xp: ModuleType, n: int, repeats: int) -> dict:
    p, g, m, v = (xp.ones(n, dtype=np.float32) for _ in range(4))
    settings = {"lr": 1e-3, "betas": (0.9, 0.95), "weight_decay": 0.1, "eps": 1e-8, "t": 1}
    one = xp.ones((), dtype=np.float32)
    return _timed(xp, lambda: FASTER["cupy"](xp, p, g, m, v, one, **settings), repeats, [p, p, g, m, m, v, v])


def _timed(xp: ModuleType, compute: Callable[[], object], repeats: int, arrays: list) -> dict:
    """Return the mean time of a call by the device's clock, and the speed if it moves these arrays once."""
    compute()
    begin, end = xp.cuda.Event(), xp.cuda.Event()
    begin.record()
    for _ in range(repeats):
        compute()
    end.record()
    end.synchronize()
    ms, size = xp.cuda.get_elapsed_time(begin, end) / repeats, sum(a.nbytes for a in arrays)
    return {"ms": ms, "bytes": size, "gb_per_s": size / ms / 1e6}


def _add(path: Path, content: dict) -> None:
    write_json(path, (read_json(path) if path.exists() else {}) | content)


TASKS: dict[str, Callable[..., str]] = {
    "environment": environment, "training": training, "profiles": profiles,
    "steps": steps, "kernels": kernels,
}  # fmt: skip
