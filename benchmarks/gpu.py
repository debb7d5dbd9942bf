"""Compare minigam on CuPy with PyTorch on a CUDA device: a training step, and the paper's table 2 for GAM.

Times come from CUDA events. Memory is what the device has in use since before the first allocation, and
what each library's allocator took. Every measurement runs in its own process; ratios are taken within a
round. Results are written after every round.
"""

import argparse
import math
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
from benchmarks.gpu_meters import CupyMeter, HostMeter, TorchMeter
from minigam import GAM, GAMConfig, backend, cli, config
from minigam.config import InputError
from minigam.engine import compiler
from minigam.engine.memory import GIB, physical_memory, ran_out
from minigam.engine.precision import PrecisionUnavailable, require, using
from minigam.experiments import paper, report
from minigam.experiments.scaling import SCALES, Block, block_config
from minigam.training import provenance
from minigam.training.optim import AdamW, LossScale
from minigam.training.step import begin_step, train_step

PROG = "benchmarks.gpu"
MINIGAM, EAGER, COMPILED = "minigam", "PyTorch eager", "PyTorch compiled"
COMPETITORS = {"minigam": MINIGAM, "eager": EAGER, "compiled": COMPILED}
PARTS = ("step", "table2")
CONFIG, BATCH, WARM_UP = GAMConfig(), 32, 3
TOY = GAMConfig(vocab_size=40, block_size=8, d_model=32, n_layers=1, n_slots=8)
TINY = {
    "step": {"model": TOY.to_dict(), "batch": 2},
    "table2": {"scale": {"batch": 2, "d_model": 32, "gam": {"n_slots": 8}}, "lengths": [4, 8]},
}
BACKENDS = {"cuda": "cupy", "cpu": "numpy"}  # PyTorch's device: minigam's library for it


@dataclass(frozen=True)
class Precision:
    """How each library computes matrix products; parameters are always float32."""

    products: str  # for torch.set_float32_matmul_precision
    half: str | None = None  # PyTorch's products under autocast; the loss is scaled for float16


PRECISIONS = {
    "float32": Precision("highest"),
    "tf32": Precision("high"),
    "float16": Precision("high", half="float16"),
    "bfloat16": Precision("high", half="bfloat16"),
}


# ------------------------------------------------------------------------------- in a worker


def work(part: str, competitor: str, precision: str, device: str, steps: int, **sizes) -> dict:
    """Measure one competitor.

    device : "cuda"; or "cpu", where the tests run the same code
    sizes  : for part "step": model, batch; for part "table2": scale, lengths
    returns {"seconds", "times", "device_mib", "peak_mib", ...} of a step, or {"lengths": {T: the same, or
    None if memory ran out}} of table 2
    """
    arguments = (part, competitor, PRECISIONS[precision], device, steps)
    if device != "cuda":
        return _work(HostMeter(), *arguments, **sizes)
    if competitor != MINIGAM:
        return _work(TorchMeter(), *arguments, **sizes)
    meter = CupyMeter()  # before `get`, which computes
    with using(backend.get("cupy"), precision):
        return _work(meter, *arguments, **sizes)


def _work(meter, part: str, competitor: str, chosen: Precision, device: str, steps: int, **sizes) -> dict:
    if competitor != MINIGAM:
        import torch

        torch.manual_seed(0)
        torch.set_float32_matmul_precision(chosen.products)
        torch.backends.cudnn.allow_tf32 = chosen.products != "highest"  # on by default for convolutions
    if part == "step":
        return _measured(_step(competitor, chosen, device, **sizes), meter, steps)
    by_length: dict[int, dict | None] = {}
    for T in sizes["lengths"]:
        try:
            step = _block(competitor, chosen, device, sizes["scale"], T)
            by_length[T] = _measured(step, meter, steps)
        except (MemoryError, RuntimeError) as e:
            if not ran_out(e):
                raise
            by_length[T] = None
            break  # a longer one would not fit either
        del step
    return {"lengths": {str(T): by_length.get(T) for T in sizes["lengths"]}}


def _step(competitor: str, precision: Precision, device: str, model: dict, batch: int):
    config = GAMConfig.from_dict(model)
    rng, shape = np.random.default_rng(0), (batch, config.block_size)
    ids, targets = (rng.integers(config.vocab_size, size=shape) for _ in range(2))
    if competitor == MINIGAM:
        own = GAM(config, backend=BACKENDS[device]).train()
        scale = LossScale() if precision.half == "float16" else None
        optimizer = AdamW(own.parameters(), loss_scale=scale)
        if scale is not None:
            return lambda: train_step(own, optimizer, ids, targets)
        started: list[Callable[[], float]] = []

        def step() -> None:
            """Start a step and end the one before, as the training loop does."""
            started.append(begin_step(own, optimizer, ids, targets))
            if len(started) > 1:
                started.pop(0)()

        return step

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

    from benchmarks.torch_models import GAMBlock, autocast

    config = block_config("gam", scale, T)
    module = GAMBlock(config).to(device)
    forward = torch.compile(module, dynamic=False) if competitor == COMPILED else module
    x = torch.randn(scale["batch"], T, config.d_model, device=device, requires_grad=True)

    def step() -> None:
        module.zero_grad()
        x.grad = None
        with autocast(precision.half):
            y = forward(x)
        y.backward(torch.ones_like(y))

    return step


def _measured(step: Callable[[], object], meter, steps: int) -> dict:
    """Return times and memory of a step by the device's own clock and allocator."""
    meter.reset()
    for _ in range(WARM_UP):
        step()
    marks = [meter.mark()]
    for _ in range(steps):
        step()
        marks.append(meter.mark())
    meter.wait(marks[-1])
    times = [meter.milliseconds(a, b) / 1e3 for a, b in pairwise(marks)]
    return {"seconds": median(times), "times": times} | meter.memory()


# ------------------------------------------------------------------------------- the command


def parser() -> cli.Parser:
    p = cli.Parser(prog=f"python -m {PROG}", description=__doc__.splitlines()[0])
    p.add_argument("--parts", nargs="+", choices=PARTS, default=[*PARTS], help="(default: both)")
    p.add_argument("--precisions", nargs="+", choices=config.PRECISIONS, default=[*config.PRECISIONS],
                   help="precisions of matrix products (default: all that the GPU supports)")  # fmt: skip
    p.add_argument("--competitors", nargs="+", choices=COMPETITORS, default=[*COMPETITORS],
                   help="PyTorch eager or compiled; minigam always is measured (default: all)")  # fmt: skip
    p.add_argument("--lengths", nargs="+", type=int, default=[*paper.LENGTHS],
                   help="lengths in table 2 (default: 256 to 8192)")  # fmt: skip
    p.add_argument("--pairs", type=int, default=3, help="most rounds (default: 3)")
    p.add_argument("--steps", type=int, default=20, help="timed steps of every process (default: 20)")
    p.add_argument("--limit", type=float, default=120.0, metavar="SECONDS",
                   help="longest time of one process, for each length in table 2 (default: 120)")  # fmt: skip
    p.add_argument("--minutes", type=float,
                   help="time of the whole run, by fewer rounds and measurements (default: any)")  # fmt: skip
    p.add_argument("--cache", type=Path, metavar="FOLDER",
                   help="where torch.compile keeps its results (default: in ~/.cache/minigam)")  # fmt: skip
    p.add_argument("--out", type=Path, default=measure.RESULTS / "gpu",
                   help="folder for results (default: benchmarks/results/gpu)")  # fmt: skip
    p.add_argument("--tiny", action="store_true", help=argparse.SUPPRESS)  # sizes for the tests
    return p


def main(argv: list[str] | None = None) -> int:
    args = parser().parse_args(argv)
    cli.require_at_least(args, lengths=1, pairs=1, steps=1, limit=1, minutes=0)
    cli.require_folder(args.out)
    names = [name for short, name in COMPETITORS.items() if short in {"minigam", *args.competitors}]
    if len(names) > 1:
        measure.require("torch")
    budget = Budget(args.minutes, args.limit, caches(args.cache))
    where, measured = environment(), provenance.measured_by("cupy")
    print(where)
    common = {"device": "cuda", "steps": args.steps}
    jobs = {
        "step": common | {"model": CONFIG.to_dict(), "batch": BATCH},
        "table2": common | {"scale": SCALES["published"], "lengths": sorted(set(args.lengths))},
    }
    if args.tiny:
        jobs = {part: job | TINY[part] for part, job in jobs.items()}
    todo = [(part, name) for part in PARTS if part in args.parts
            for name in config.PRECISIONS if name in args.precisions]  # fmt: skip
    print(plan(todo, args.pairs, args.minutes))
    parts: dict[str, dict[str, dict]] = {}

    def save(*, quiet: bool = True) -> None:
        content = {"environment": where, "measured": measured, "pairs": args.pairs, "minutes": args.minutes}
        content |= {"limit_s": args.limit, "jobs": jobs, "parts": parts}
        markdown, figure = gpu_report.markdown(parts, jobs, args.pairs), gpu_report.plot(parts)
        head = [{"measured": measured}]
        report.write(args.out, "gpu", content, head, f"{where}\n\n{markdown}", figure, quiet=quiet)

    for i, (part, name) in enumerate(todo):
        result = parts.setdefault(part, {})[name] = {"rounds": [], "failed": {}, "left_out": None}
        compare(result, part, name, jobs[part], names, args.pairs, budget.share(len(todo) - i), save)
        save()
    save(quiet=False)
    results = [result for by_precision in parts.values() for result in by_precision.values()]
    print(f"measured: {sum(bool(r['rounds']) for r in results)} of {len(results)}")
    if broken := [r["failed"][MINIGAM] for r in results if MINIGAM in r["failed"]]:
        raise measure.WorkerFailed(broken[0])
    return 0


def plan(todo: list[tuple[str, str]], pairs: int, minutes: float | None) -> str:
    """Return one line about what will be measured, in which order."""
    order = "; then ".join(
        f"{part} in {', '.join(name for p, name in todo if p == part)}" for part in dict(todo)
    )
    limit = "" if minutes is None else f" within {minutes:g} min, each within its share of the time left"
    return f"plan: {order}; {'1 round' if pairs == 1 else f'up to {pairs} rounds'}{limit}"


def caches(folder: Path | None) -> dict[str, str]:
    """Return the environment in which torch.compile keeps on disk what it has compiled, as CuPy does: each
    process would otherwise compile everything again."""
    try:
        folder = folder.absolute() if folder is not None else compiler.cache_folder() / "gpu"
    except compiler.NoCompiler as e:  # the folder cannot be used
        raise InputError(f"--cache: {e}") from e
    cli.require_folder(folder)
    return {"TORCHINDUCTOR_CACHE_DIR": str(folder / "inductor"), "TRITON_CACHE_DIR": str(folder / "triton")}


class Budget:
    """The time of a run, and of the share of it that the measurement in progress has.

    minutes     : None for no limit
    limit_s     : most seconds of one process
    environment : variables of the processes
    """

    def __init__(self, minutes: float | None, limit_s: float, environment: dict[str, str]):
        self.ends = math.inf if minutes is None else time.monotonic() + 60.0 * minutes
        self.limit_s, self.environment, self.share_ends = limit_s, environment, self.ends

    def left(self) -> float:
        return self.ends - time.monotonic()

    def share(self, measurements: int) -> "Budget":
        """Start a share of the time left, for the first of so many measurements."""
        self.share_ends = time.monotonic() + self.left() / measurements
        return self

    def holds(self, seconds: float) -> bool:
        """Return whether so many seconds more fit into the share."""
        return time.monotonic() + seconds <= self.share_ends


def environment() -> str:
    """Return one line about the GPU and its libraries. Raises BackendUnavailable if no GPU responds."""
    cupy = backend.get("cupy")
    runtime = cupy.cuda.runtime
    cuda, driver = (
        f"{v // 1000}.{v % 1000 // 10}" for v in (runtime.runtimeGetVersion(), runtime.driverGetVersion())
    )
    torch = f"torch {version('torch')}" if measure.find_spec("torch") else "no torch"
    return (
        f"{provenance.device('cupy')}, {physical_memory('cupy') / GIB:.0f} GiB, driver for CUDA "
        f"{driver}; cupy {cupy.__version__}, CUDA {cuda}; {torch}; "
        f"numpy {np.__version__}; commit {provenance.commit()}"
    )


def compare(
    result: dict, part: str, precision: str, job: dict, names: list[str], pairs: int, budget: Budget,
    save: Callable[[], None],
) -> None:  # fmt: skip
    """Measure one part at one precision. Fills `result`, and calls `save` after each round:

    rounds   : [{competitor: what `work` returned}, ...]
    failed   : {competitor: why}. One that fails or exceeds its limit is left out of all rounds and not tried
               again. If minigam fails, there are no rounds
    left_out : why nothing was measured: the precision, or the time
    """
    limit_s = budget.limit_s * len(job.get("lengths", [0]))
    failed: dict[str, str] = result["failed"]

    def attempt(competitor: str) -> dict:
        arguments = job | {"part": part, "competitor": competitor, "precision": precision}
        name, seconds = f"{competitor}, {precision}, {part}", min(limit_s, max(0.0, budget.left()))
        try:
            return measure.fresh(PROG, name, arguments, budget.environment, seconds)
        except measure.WorkerFailed as e:
            if budget.left() > 0.0:
                raise
            raise measure.WorkerFailed(f"{name}: no time left") from e

    longest, before = 0.0, time.monotonic()

    def another(by_round: list[dict]) -> bool:
        nonlocal longest, before
        longest, before = max(longest, time.monotonic() - before), time.monotonic()
        result["rounds"] = measure.complete(by_round, failed)
        save()
        return budget.holds(longest)

    calls = {name: partial(attempt, name) for name in names}
    calls |= measure.optional({name: call for name, call in calls.items() if name != MINIGAM}, failed)
    if budget.left() <= 0.0:
        result["left_out"] = f"{part}, {precision}: no time left"
        return
    try:
        require(backend.get("cupy"), precision)
        measure.rounds(calls, pairs, f"{part}, {precision}", another)
    except PrecisionUnavailable as e:
        result["left_out"] = str(e)
    except measure.WorkerFailed as e:
        if budget.left() > 0.0:
            result["rounds"], failed[MINIGAM] = [], str(e)
        elif not result["rounds"]:
            result["left_out"] = f"{part}, {precision}: no time left"


if __name__ == "__main__":
    measure.run(main, work, PROG)
