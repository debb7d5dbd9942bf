"""Compare one training step of GAM: minigam, PyTorch, JAX, HIPS autograd, and the matrix products alone.

Every measurement runs in its own process; those of one round follow each other, and ratios are taken
within a round. Each does the same work: forward, backward, clipping of the gradient norm, AdamW. A
competitor that compiles is omitted, with the reason, if it is not installed or fails.
"""

import platform
import time
from collections import Counter
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from benchmarks import environment, measure
from minigam import GAM, GAMConfig, cli, reference_only
from minigam.engine.tensor import observing
from minigam.experiments import report
from minigam.models import MODELS, interop
from minigam.training import provenance
from minigam.training.optim import AdamW
from minigam.training.profile import Product, Watch, flops, matrix_products
from minigam.training.step import train_step
from minigam.viz.style import INK, LEGEND, bars, blank, finish

PROG = "benchmarks.train_step"


@dataclass(frozen=True)
class Size:
    """The model and batch of a step, how many steps are run, and which measurements are made."""

    model: GAMConfig
    batch: int  # B, rows in a step
    warm_up: int  # untimed steps of a process
    steps: int  # timed steps, unless --steps says otherwise
    autograd: bool  # HIPS autograd too; it is too slow for the published size
    compilers: bool = False  # PyTorch compiled and JAX too
    busy: bool = False  # minigam and PyTorch also while another process computes


CONFIGS = {
    "published": Size(GAMConfig(), 32, 1, 3, autograd=False),
    "small": Size(
        GAMConfig(vocab_size=2000, block_size=128, d_model=128, n_layers=4, n_slots=128),
        16, 2, 20, autograd=True, compilers=True, busy=True,
    ),
}  # fmt: skip
MINIGAM, REFERENCE = "minigam", "minigam, reference rules"
TORCH, TUNED, AUTOGRAD = "PyTorch eager", "PyTorch tuned", "HIPS autograd, no dropout"
COMPILED, JAX = "PyTorch compiled", "JAX, jit"
BOUND = "matrix products alone"
BUSY = "next to one busy core"
REFERENCE_ROWS = 8  # rows at a time with the reference rules, which do not reuse arrays

# Keep freed memory in the process, to save PyTorch the page faults in every step.
KEEP = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**40), "MALLOC_TOP_PAD_": str(2**28)}
MALLOC = {"default malloc": {}} | ({"malloc keeps memory": KEEP} if platform.libc_ver()[0] == "glibc" else {})


# ------------------------------------------------------------------------------- in a worker


def work(
    kind: str, model: dict, batch: int, warm_up: int, steps: int, model_type: str = "gam", **settings
) -> dict:
    """Time steps of one competitor: {"seconds": median, "times": all, "first_loss": nats}.

    kind : a key of STEPS; or a step's matrix products alone, with "flops" and no loss: "products" in NumPy,
           "torch_products" in PyTorch
    """
    config = MODELS[model_type].Config.from_dict(model)
    rng, shape = np.random.default_rng(0), (batch, config.block_size)
    ids, targets = (rng.integers(config.vocab_size, size=shape) for _ in range(2))
    if kind in {"products", "torch_products"}:
        products = products_of_a_step(config, ids, targets)
        if kind == "products":
            compute = matrix_products(products, np, np.dtype("float32"))
        else:
            import torch

            on_cpu = SimpleNamespace(ones=torch.ones, empty=torch.empty, matmul=torch.matmul)
            compute = matrix_products(products, on_cpu, torch.float32)
        return measure.timed(compute, warm_up, steps) | {"flops": flops(products)}
    step = STEPS[kind](config, ids, targets, **settings)
    first = step()
    return measure.timed(step, warm_up - 1, steps) | {"first_loss": first}


def _minigam(config, ids, targets, micro_batch=None):
    (Model,) = (M for M in MODELS.values() if M.Config is type(config))
    model = Model(config).train()
    optimizer = AdamW(model.parameters(), lr=3e-4, betas=(0.9, 0.95), weight_decay=0.1)
    return lambda: train_step(model, optimizer, ids, targets, micro_batch=micro_batch, max_norm=1.0)


def _reference(config, ids, targets):
    step = _minigam(config, ids, targets, REFERENCE_ROWS)

    def slowly() -> float:
        with reference_only():
            return step()

    return slowly


def _torch(config, ids, targets, **settings):
    import torch

    from benchmarks.torch_models import LanguageModel, Trainer

    torch.manual_seed(0)
    trainer = Trainer(LanguageModel(config), **settings)
    ids, targets = torch.tensor(ids), torch.tensor(targets)
    return lambda: trainer.step(ids, targets)


def _autograd(config, ids, targets):
    from benchmarks.autograd_model import step_of

    weights = interop.to_official(GAM(config))
    weights.pop("head.weight")  # the token embedding under another name
    return partial(step_of(weights, config.n_layers), ids, targets)


def _jax(config, ids, targets):
    from benchmarks.jax_model import step_of

    weights = interop.to_official(GAM(config))
    weights.pop("head.weight")  # the token embedding under another name
    return partial(step_of(weights, config.n_layers, config.dropout), ids, targets)


def products_of_a_step(config, ids, targets) -> Counter[Product]:
    """Run one step of minigam; return the matrix products in it, and how often each occurs."""
    watch = Watch(np, time.perf_counter)
    with observing(watch):
        _minigam(config, ids, targets)()
    return watch.products


STEPS = {"minigam": _minigam, "reference": _reference, "torch": _torch, "autograd": _autograd, "jax": _jax}


# ------------------------------------------------------------------------------- the command


def parser() -> cli.Parser:
    p = cli.Parser(prog=f"python -m {PROG}", description=__doc__.splitlines()[0])
    p.add_argument("--config", nargs="+", choices=CONFIGS, default=[*CONFIGS], help="sizes (default: both)")
    p.add_argument("--pairs", type=int, default=5, help="rounds (default: 5)")
    p.add_argument("--steps", type=int, help="timed steps of every process (default: 3 published, 20 small)")
    p.add_argument("--out", type=Path, default=measure.RESULTS / "train_step",
                   help="folder for results (default: benchmarks/results/train_step)")  # fmt: skip
    return p


def main(argv: list[str] | None = None) -> int:
    args = parser().parse_args(argv)
    cli.require_at_least(args, pairs=1, steps=1)
    cli.require_folder(args.out)
    measure.require("torch", "threadpoolctl", "autograd", "scipy")
    compare(list(dict.fromkeys(args.config)), args.pairs, args.steps, args.out)
    return 0


def compare(configs: list[str], pairs: int, steps: int | None, out: Path) -> None:
    """Measure every configuration; write train_step.json, .md and .png into `out`.

    steps : timed steps of a process; None for each configuration's own number
    """
    where = environment.line()
    print(where)
    measured = provenance.measured_by("numpy")
    results = {name: _measure(name, CONFIGS[name], pairs, steps or CONFIGS[name].steps) for name in configs}
    content = {"environment": where, "measured": measured, "pairs": pairs, "configs": results}
    report.write(
        out, "train_step", content, [{"measured": measured}], _markdown(where, results, pairs), plot(results)
    )


def _measure(name: str, size: Size, pairs: int, steps: int) -> dict:
    """Find PyTorch's best setting, then measure all competitors in `pairs` rounds."""
    common = {"model": size.model.to_dict(), "batch": size.batch, "warm_up": size.warm_up, "steps": steps}

    def fresh(label: str, kind: str, malloc: str = "default malloc", **settings) -> dict:
        job = common | {"kind": kind} | settings
        return measure.fresh(PROG, f"{label}, {name}", job, MALLOC[malloc])

    settings = {
        f"{rows} rows at a time, {malloc}": (rows, malloc)
        for rows in (4, 8, 16, 32)
        if rows <= size.batch
        for malloc in MALLOC
    }

    def tuned(setting: str, label: str = TUNED, **changes) -> dict:
        rows, malloc = settings[setting]
        return fresh(label, "torch", malloc, micro_batch=rows, fused=True, **changes)

    tried = {setting: partial(tuned, setting, steps=min(steps, 5)) for setting in settings}
    (sweep,) = measure.rounds(tried, 1, f"{name}, PyTorch's best")
    best = min(sweep, key=lambda setting: sweep[setting]["seconds"])
    lines = [[s, f"{r['seconds']:.3f}", f"{r['peak_mib']:.0f}"] for s, r in sweep.items()]
    print("\n" + report.table([f"PyTorch, fused AdamW, {name}", "s / step", "peak memory (MiB)"], lines))
    competitors = {
        MINIGAM: partial(fresh, MINIGAM, "minigam"),
        REFERENCE: partial(fresh, REFERENCE, "reference"),
        TORCH: partial(fresh, TORCH, "torch"),
        TUNED: partial(tuned, best),
        BOUND: partial(fresh, BOUND, "products"),
    }
    if size.autograd:
        competitors[AUTOGRAD] = partial(fresh, AUTOGRAD, "autograd")
    failed: dict[str, str] = {}
    if size.compilers:
        compilers = {COMPILED: partial(tuned, best, label=COMPILED, compiled=True),
                     JAX: partial(fresh, JAX, "jax")}  # fmt: skip
        competitors |= measure.optional(compilers, failed)
        if measure.find_spec("jax") is None:
            failed[JAX] = f"{JAX}: jax is not installed"
    rounds = measure.complete(measure.rounds(competitors, pairs, name), failed)
    busy = _next_to_a_busy_core(competitors, pairs, name, rounds) if size.busy else None
    return common | {
        "sweep": sweep,
        "tuned": best,
        "floor_flops": rounds[0][BOUND]["flops"],
        "summary": measure.summary(rounds, MINIGAM),
        "rounds": rounds,
        "failed": failed,
        "busy": busy,
    }


def _next_to_a_busy_core(competitors: dict, pairs: int, name: str, alone: list[dict[str, dict]]) -> dict:
    """Measure minigam and PyTorch again while another process computes.

    alone : the rounds without that process; each ratio "to_alone" is one of medians
    """
    pair = {label: competitors[label] for label in (MINIGAM, TORCH)}
    with measure.busy_core():
        rounds = measure.rounds(pair, pairs, f"{name}, {BUSY}")
    summary, before = measure.summary(rounds, MINIGAM), measure.summary(alone, MINIGAM)
    for label, r in summary.items():
        r["to_alone"] = r["seconds"] / before[label]["seconds"]
    return {"summary": summary, "rounds": rounds}


def _markdown(where: str, results: dict[str, dict], pairs: int) -> str:
    text = (
        f"{where}\n\ntrain_step: one training step of GAM, float32; each measurement in its own process, "
        f"{pairs} rounds in alternation. Ratios are taken within a round: median (least to most). "
        "Memory is the peak of the whole process, its libraries included.\n"
    )
    for name, result in results.items():
        m, summary = result["model"], result["summary"]
        text += (
            f"\n{name}: V {m['vocab_size']}, T {m['block_size']}, C {m['d_model']}, L {m['n_layers']}, "
            f"S {m['n_slots']}, K {m['kernel_size']}, B {result['batch']}, dropout {m['dropout']}; "
            f"the median of {result['steps']} steps.\n\n"
        )
        body = []
        for label, r in summary.items():
            memory = ["", ""]
            if label != BOUND:
                memory = [f"{r['peak_mib']:.0f}", measure.shown(r["memory_ratio"])]
            body.append([label, f"{r['seconds']:.3f}", measure.shown(r["time_ratio"]), memory[0], memory[1]])
        heads = ["", "s / step", "time / minigam", "peak memory (MiB)", "memory / minigam"]
        text += report.table(heads, body)
        reached, speed = summary[BOUND]["time_ratio"], result["floor_flops"] / summary[BOUND]["seconds"]
        text += (
            f"\nThe matrix products alone, {result['floor_flops'] / 1e12:.3g} TFLOP, run at "
            f"{speed / 1e9:.0f} GFLOP/s: a lower bound for any code that uses this BLAS. minigam reaches "
            f"{reached['median']:.0%} of that speed ({reached['least']:.0%} to {reached['most']:.0%}).\n"
            f"PyTorch tuned: fused AdamW, {result['tuned']}, the best of {len(result['sweep'])} settings. "
            f"{_least_memory(result['sweep'])} Reference rules: {REFERENCE_ROWS} rows at a time.\n"
        )
        if COMPILED in summary:
            text += f"{COMPILED}: the tuned step, its loss through torch.compile; compilation is not timed.\n"
        if JAX in summary:
            text += (
                f"{JAX}: the whole step in one jax.jit, dropout by jax.random; compilation is not timed.\n"
            )
        text += "".join(f"Omitted: {reason}.\n" for reason in result["failed"].values())
        if result["busy"] is not None:
            text += _busy_text(result["busy"]["summary"])
    return text


def _least_memory(sweep: dict[str, dict]) -> str:
    """Return a sentence about the setting of PyTorch that takes the least memory."""
    setting = min(sweep, key=lambda s: sweep[s]["peak_mib"])
    r = sweep[setting]
    return f"The least memory was that of {setting}, {r['peak_mib']:.0f} MiB, in {r['seconds']:.3f} s."


def _busy_text(summary: dict[str, dict]) -> str:
    lines = [
        [label, f"{r['seconds']:.3f}", measure.shown(r["time_ratio"]), f"{r['to_alone']:.2f}"]
        for label, r in summary.items()
    ]
    ratio = measure.shown(summary[TORCH]["time_ratio"])
    return (
        "\n" + report.table([BUSY, "s / step", "time / minigam", "time / alone"], lines) + "\n"
        f"Another process runs a Python loop, which occupies one core. {TORCH} then takes {ratio} times as "
        "long as minigam.\n"
    )


def plot(found: dict[str, dict]):
    """Return a figure: for each size every competitor's time and memory, in multiples of minigam's."""
    figure, grid = blank(9.0, 1.0 + 2.9 * len(found), rows=len(found))
    for axes, (name, result) in zip(grid[:, 0], found.items()):
        shown = {label: r for label, r in result["summary"].items() if label != BOUND}
        places = np.arange(len(shown))
        for i, (what, title) in enumerate((("time", "time of a step"), ("memory", "peak memory"))):
            spreads = [r[f"{what}_ratio"] for r in shown.values()]
            middle = np.array([s["median"] for s in spreads])
            ends = np.array([[s["least"] for s in spreads], [s["most"] for s in spreads]])
            drawn = axes.bar(
                places + 0.4 * (i - 0.5),
                middle,
                0.4,
                yerr=np.abs(ends - middle),
                capsize=3,
                **bars(i),
                label=title,
            )
            axes.bar_label(drawn, fmt="%.2f", fontsize=9, padding=2)
        reached = result["summary"][BOUND]["time_ratio"]["median"]
        axes.axhline(reached, color=INK, linestyle="--", label=f"{BOUND}, time {reached:.2f}")
        axes.set_xticks(places, [label.replace(", ", ",\n") for label in shown], fontsize=9)
        axes.set_ylabel("multiple of minigam's")
        axes.set_title(f"one training step, {name} size", fontsize=10)
        axes.grid(visible=False, axis="x")
        axes.margins(y=0.15)
        axes.legend(**LEGEND)
    return finish(figure)


if __name__ == "__main__":
    measure.run(main, work, PROG)
