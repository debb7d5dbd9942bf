"""Compare minigam on CuPy with PyTorch on a CUDA device: a training step, and the paper's table 2 for GAM.

Times come from CUDA events. Memory is what the library took from the device: CuPy's pool, PyTorch's
reserved memory. Every measurement runs in its own process; ratios are taken within a round.
"""

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from statistics import median

import numpy as np

from benchmarks import gpu_report, measure
from minigam import GAM, GAMConfig, backend, cli
from minigam.engine.memory import GIB, physical_memory
from minigam.engine.precision import using
from minigam.experiments import paper, report
from minigam.experiments.scaling import SCALES, Block, block_config
from minigam.training import provenance
from minigam.training.optim import AdamW, LossScale
from minigam.training.step import train_step

PROG = "benchmarks.gpu"
MINIGAM, EAGER, COMPILED = "minigam", "PyTorch eager", "PyTorch compiled"
PARTS = ("step", "table2")
CONFIG, BATCH, WARM_UP = GAMConfig(), 32, 3
BACKENDS = {"cuda": "cupy", "cpu": "numpy"}  # PyTorch's device: minigam's library for it


@dataclass(frozen=True)
class Precision:
    """How each library computes matrix products; parameters are always float32."""

    products: str  # for torch.set_float32_matmul_precision
    half: bool  # float16 products and a scaled loss; PyTorch's under autocast


PRECISIONS = {
    "float32": Precision("highest", half=False),
    "tf32": Precision("high", half=False),
    "float16": Precision("high", half=True),
}


# ------------------------------------------------------------------------------- in a worker


def work(part: str, competitor: str, precision: str, device: str, steps: int, **sizes) -> dict:
    """Measure one competitor.

    device : "cuda"; or "cpu", where the tests run the same code
    sizes  : for part "step": model, batch; for part "table2": scale, lengths
    returns {"seconds", "times", "peak_mib", ...} of a step, or {"lengths": {T: the same, or None if
    memory ran out}} of table 2
    """
    if competitor == MINIGAM and device == "cuda":
        with using(backend.get("cupy"), precision):
            return _work(part, competitor, PRECISIONS[precision], device, steps, **sizes)
    return _work(part, competitor, PRECISIONS[precision], device, steps, **sizes)


def _work(part: str, competitor: str, chosen: Precision, device: str, steps: int, **sizes) -> dict:
    if competitor != MINIGAM:
        import torch

        torch.manual_seed(0)
        torch.set_float32_matmul_precision(chosen.products)
        torch.backends.cudnn.allow_tf32 = chosen.products != "highest"  # on by default for convolutions
    if part == "step":
        return _measured(_step(competitor, chosen, device, **sizes), competitor, device, steps)
    by_length: dict[int, dict | None] = {}
    for T in sizes["lengths"]:
        try:
            step = _block(competitor, chosen, device, sizes["scale"], T)
            by_length[T] = _measured(step, competitor, device, steps)
        except _out_of_memory():
            by_length[T] = None
            break  # a longer one would not fit either
        del step
    return {"lengths": {str(T): by_length.get(T) for T in sizes["lengths"]}}


def _out_of_memory() -> tuple[type[BaseException], ...]:
    torch = sys.modules.get("torch")
    return (MemoryError,) if torch is None else (MemoryError, torch.cuda.OutOfMemoryError)


def _step(competitor: str, precision: Precision, device: str, model: dict, batch: int):
    config = GAMConfig.from_dict(model)
    rng, shape = np.random.default_rng(0), (batch, config.block_size)
    ids, targets = (rng.integers(config.vocab_size, size=shape) for _ in range(2))
    if competitor == MINIGAM:
        own = GAM(config, backend=BACKENDS[device]).train()
        optimizer = AdamW(own.parameters(), loss_scale=LossScale() if precision.half else None)
        return lambda: train_step(own, optimizer, ids, targets)

    import torch

    from benchmarks.torch_models import LanguageModel, Trainer

    compiled = competitor == COMPILED
    peer = LanguageModel(config).to(device)
    trainer = Trainer(peer, half=precision.half, compiled=compiled, fused=compiled or None)
    ids, targets = torch.tensor(ids, device=device), torch.tensor(targets, device=device)
    return lambda: trainer.step(ids, targets)


def _block(competitor: str, precision: Precision, device: str, scale: dict, T: int):
    if competitor == MINIGAM:
        return Block("gam", scale, T, BACKENDS[device]).step

    import torch

    from benchmarks.torch_models import GAMBlock

    config = block_config("gam", scale, T)
    module = GAMBlock(config).to(device)
    forward = torch.compile(module, dynamic=False) if competitor == COMPILED else module
    x = torch.randn(scale["batch"], T, config.d_model, device=device, requires_grad=True)

    def step() -> None:
        module.zero_grad()
        x.grad = None
        with torch.autocast("cuda", dtype=torch.float16, enabled=precision.half):
            y = forward(x)
        y.backward(torch.ones_like(y))

    return step


def _measured(step: Callable[[], object], competitor: str, device: str, steps: int) -> dict:
    """Return times and memory of a step by the device's own clock and allocator."""
    on_gpu = CupyMeter if competitor == MINIGAM else TorchMeter
    meter = on_gpu() if device == "cuda" else HostMeter()
    for _ in range(WARM_UP):
        step()
    marks = [meter.mark()]
    for _ in range(steps):
        step()
        marks.append(meter.mark())
    meter.wait(marks[-1])
    times = [meter.milliseconds(a, b) / 1e3 for a, b in pairwise(marks)]
    return {"seconds": median(times), "times": times} | meter.memory()


class CupyMeter:
    """CuPy's events and pool. Creating it empties the pool, so create it before the measurement."""

    def __init__(self):
        self.cupy = backend.get("cupy")
        self.pool = self.cupy.get_default_memory_pool()
        self.pool.free_all_blocks()

    def mark(self):
        event = self.cupy.cuda.Event()
        event.record()
        return event

    def wait(self, event) -> None:
        event.synchronize()

    def milliseconds(self, a, b) -> float:
        return self.cupy.cuda.get_elapsed_time(a, b)

    def memory(self) -> dict:
        return {"peak_mib": self.pool.total_bytes() / measure.MIB}


class TorchMeter:
    """PyTorch's events and allocator."""

    def __init__(self):
        import torch

        self.cuda, self.Event = torch.cuda, partial(torch.cuda.Event, enable_timing=True)
        self.cuda.empty_cache()
        self.cuda.reset_peak_memory_stats()

    def mark(self):
        event = self.Event()
        event.record()
        return event

    def wait(self, event) -> None:
        event.synchronize()

    def milliseconds(self, a, b) -> float:
        return a.elapsed_time(b)

    def memory(self) -> dict:
        return {
            "peak_mib": self.cuda.max_memory_reserved() / measure.MIB,
            "allocated_mib": self.cuda.max_memory_allocated() / measure.MIB,
        }


class HostMeter:
    """The clock and the memory of a process without a GPU."""

    mark = staticmethod(time.perf_counter)

    def wait(self, moment: float) -> None:
        """Return immediately: the host computes synchronously."""

    def milliseconds(self, a: float, b: float) -> float:
        return 1e3 * (b - a)

    def memory(self) -> dict:
        return {"peak_mib": measure.peak_bytes() / measure.MIB}


# ------------------------------------------------------------------------------- the command


def parser() -> cli.Parser:
    p = cli.Parser(prog=f"python -m {PROG}", description=__doc__.splitlines()[0])
    p.add_argument("--parts", nargs="+", choices=PARTS, default=[*PARTS], help="(default: both)")
    p.add_argument("--precisions", nargs="+", choices=PRECISIONS, default=[*PRECISIONS],
                   help="precisions of matrix products (default: all)")  # fmt: skip
    p.add_argument("--lengths", nargs="+", type=int, default=[*paper.LENGTHS],
                   help="lengths in table 2 (default: 256 to 8192)")  # fmt: skip
    p.add_argument("--pairs", type=int, default=3, help="rounds (default: 3)")
    p.add_argument("--steps", type=int, default=20, help="timed steps of every process (default: 20)")
    p.add_argument("--out", type=Path, default=measure.RESULTS / "gpu",
                   help="folder for results (default: benchmarks/results/gpu)")  # fmt: skip
    return p


def main(argv: list[str] | None = None) -> int:
    args = parser().parse_args(argv)
    cli.require_at_least(args, lengths=1, pairs=1, steps=1)
    cli.require_folder(args.out)
    measure.require("torch")
    where = environment()
    print(where)
    common = {"device": "cuda", "steps": args.steps}
    jobs = {
        "step": common | {"model": CONFIG.to_dict(), "batch": BATCH},
        "table2": common | {"scale": SCALES["published"], "lengths": sorted(set(args.lengths))},
    }
    parts = {
        part: {
            name: compare(part, name, jobs[part], args.pairs)
            for name in PRECISIONS
            if name in args.precisions
        }
        for part in PARTS
        if part in args.parts
    }
    measured = provenance.measured_by("cupy")
    content = {"environment": where, "measured": measured, "pairs": args.pairs, "jobs": jobs, "parts": parts}
    markdown = f"{where}\n\n{gpu_report.markdown(parts, jobs, args.pairs)}"
    report.write(args.out, "gpu", content, [{"measured": measured}], markdown, gpu_report.plot(parts))
    return 0


def environment() -> str:
    """Return one line about the GPU and its libraries. Raises BackendUnavailable if no GPU responds."""
    cupy = backend.get("cupy")
    runtime = cupy.cuda.runtime
    cuda, driver = (
        f"{v // 1000}.{v % 1000 // 10}" for v in (runtime.runtimeGetVersion(), runtime.driverGetVersion())
    )
    return (
        f"{provenance.device('cupy')}, {physical_memory('cupy') / GIB:.0f} GiB, driver for CUDA "
        f"{driver}; cupy {cupy.__version__}, CUDA {cuda}; torch {version('torch')}; "
        f"numpy {version('numpy')}; commit {provenance.commit()}"
    )


def compare(part: str, precision: str, job: dict, pairs: int) -> dict:
    """Measure one part at one precision: {"rounds": ..., "failed": {competitor: why}}.

    A competitor that fails (torch.compile needs a compiler) is left out and named; minigam must not fail.
    """
    failed: dict[str, str] = {}

    def attempt(competitor: str) -> dict:
        arguments = job | {"part": part, "competitor": competitor, "precision": precision}
        try:
            return measure.fresh(PROG, f"{competitor}, {precision}, {part}", arguments)
        except measure.WorkerFailed as e:
            if competitor == MINIGAM:
                raise
            failed[competitor] = str(e)
            return {}

    names = {name: partial(attempt, name) for name in (MINIGAM, EAGER, COMPILED)}
    rounds = measure.rounds(names, pairs, f"{part}, {precision}")
    complete = [{name: r for name, r in results.items() if name not in failed} for results in rounds]
    return {"rounds": complete, "failed": failed}


if __name__ == "__main__":
    measure.run(main, work, PROG)
