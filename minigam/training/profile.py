"""The time of each operation in a training step, and of its matrix products alone, a lower bound."""

import math
import os
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from types import ModuleType

import numpy as np
from tqdm import tqdm

from minigam.config import TrainConfig
from minigam.data.corpus import Corpus, inputs_and_targets
from minigam.engine import backend, precision
from minigam.engine.compiled import written_memory as compiled
from minigam.engine.compiled.attention import QUERIES
from minigam.engine.cuda import linear
from minigam.engine.cuda import written_memory as cuda
from minigam.engine.tensor import Array, observing
from minigam.models.lm import LanguageModel, count_targets
from minigam.training import provenance
from minigam.training.optim import AdamW, LossScale
from minigam.training.schedule import batch_of
from minigam.training.step import train_step

OPTIMIZER, REST = "the optimizer (clip and update)", "the rest (engine, data)"
SECONDS, FEWEST, MOST = 10.0, 2, 20  # seconds to measure; fewest and most pairs of steps

Product = tuple[int, int, int, int]  # (n, i, k, j): n products of (i, k) with (k, j)


def _linear(dx: Array, dweight: Array, *others: Array) -> list[Product]:
    """y = x W^T, dx = dy W, dW = dy^T x, for x (..., C) and W (D, C)."""
    (D, C), N = dweight.shape, dx.size // dx.shape[-1]
    return [(1, N, C, D), (1, N, D, C), (1, D, N, C)]


def _causal_attention(dqkv: Array, *others: Array) -> list[Product]:
    """q k^T and dy v^T; a v, a^T dy, ds k and ds^T q. All heads count as one: the flops are the same.
    NumPy's rule takes the queries in blocks and skips the keys after each block."""
    (B, T), C = dqkv.shape[:2], dqkv.shape[2] // 3
    block = QUERIES if isinstance(dqkv, np.ndarray) else T
    products = []
    for start in range(0, T, block):
        n, keys = min(block, T - start), min(start + block, T)
        products += 2 * [(B, n, C, keys)] + 2 * [(B, n, keys, C)] + 2 * [(B, keys, n, C)]
    return products


def _matmul(da: Array, db: Array) -> list[Product]:
    """y = a b, da = dy b^T, db = a^T dy, for a (..., i, k) and b (..., k, j)."""
    (i, k), j = da.shape[-2:], db.shape[-1]
    n = math.prod(np.broadcast_shapes(da.shape[:-2], db.shape[:-2]))
    return [(n, i, k, j), (n, i, j, k), (n, k, i, j)]


def _written_memory(du: Array, dlocal: Array, dmemory: Array, *others: Array) -> list[Product]:
    """u M^T and local M^T. In every chunk r w^T, P u and dy u^T, r N and w^T u, and in backward dP w, dP^T r
    and P^T dy, dy N^T, r^T dy, u dN^T and w dN. Each library has its own rule to cut tokens into chunks."""
    (B, T, C), S = du.shape, len(dmemory)
    if isinstance(du, np.ndarray):
        parts = [((tokens.stop - tokens.start) // n, n) for tokens, n in compiled.chunks_of(T, S * C)]
    else:
        parts = [cuda.chunks_of(T)]  # with padding
    N, products = B * sum(k * n for k, n in parts), []
    products += 2 * [(1, N, C, S), (1, N, S, C), (1, S, N, C)]
    for k, n in parts:
        products += [(B * k, n, S, n), (B * k, n, n, C), (B * k, n, C, n), *2 * [(B * k, n, n, S)]]
        products += [(B * k, n, n, C), *2 * [(B * k, n, S, C)], *2 * [(B * k, S, n, C)]]
        products += 2 * [(B * k, n, C, S)]
    return products


PRODUCTS: dict[str, Callable[..., list[Product]]] = {
    "linear": _linear,
    "linear_cross_entropy": _linear,
    "associative_memory": lambda du, dmemory: 2 * _linear(du, dmemory),  # M as keys, M as values
    "written_memory": _written_memory,
    "causal_attention": _causal_attention,
    "matmul": _matmul,
}


def flops(products: Counter[Product]) -> int:
    """Return the floating-point operations of these products, 2 for each multiplication and its addition.

    >>> from collections import Counter
    >>> mg.profile.flops(Counter({(1, 2, 3, 4): 5}))  # five products of (2, 3) with (3, 4)
    240
    """
    return 2 * sum(count * math.prod(shape) for shape, count in products.items())


def matrix_products(products: Counter[Product], xp: ModuleType, dtype: np.dtype) -> Callable[[], None]:
    """Return a function that computes these products once, each into a preallocated output.

    Products of one shape share their arrays, all ones: the work is the same. On a GPU they are those of the
    model's own rules, in the current precision.

    >>> from collections import Counter
    >>> compute = mg.profile.matrix_products(Counter({(1, 2, 3, 4): 1}), np, np.dtype("float32"))
    >>> compute()
    """
    operands = []
    for (n, i, k, j), count in products.items():
        a, b = xp.ones((n, i, k), dtype=dtype), xp.ones((n, k, j), dtype=dtype)
        if hasattr(xp, "cuda"):
            a, b = linear.rounded(xp, a, b)  # a step rounds an array once for several products
        operands.append((a, b, xp.empty((n, i, j), dtype=dtype), count))

    def compute() -> None:
        for a, b, y, count in operands:
            for _ in range(count):
                if hasattr(xp, "cuda"):
                    linear.product(xp, a, b, out=y)
                else:
                    xp.matmul(a, b, out=y)

    return compute


LAUNCHES = 20  # between two events of a device, so that starting the first one hardly counts


def bound_seconds(
    products: Counter[Product], xp: ModuleType, dtype: np.dtype, clock: Callable[[], float]
) -> float:
    """Return how long these products take alone: a lower bound for any code that uses this BLAS.

    The time of a shape is the median of five runs after a warm-up, times the number of such products. A GPU
    tells the time itself, of LAUNCHES products a run.

    >>> from collections import Counter
    >>> from time import perf_counter
    >>> products = Counter({(1, 64, 64, 64): 1})
    >>> mg.profile.bound_seconds(products, np, np.dtype("float32"), perf_counter) > 0.0
    True
    """
    total = 0.0
    for shape, count in products.items():
        if hasattr(xp, "cuda"):
            compute = matrix_products(Counter({shape: LAUNCHES}), xp, dtype)
            compute()
            seconds = [_device_seconds(compute, xp) / LAUNCHES for _ in range(5)]
        else:
            compute, ends = matrix_products(Counter({shape: 1}), xp, dtype), []
            for _ in range(6):
                compute()
                backend.synchronize(xp)
                ends.append(clock())
            seconds = list(np.diff(ends))
        total += count * float(np.median(seconds))
    return total


def _device_seconds(compute: Callable[[], None], xp: ModuleType) -> float:
    """Return how long a device takes for what `compute` launches."""
    start, end = xp.cuda.Event(), xp.cuda.Event()
    start.record()
    compute()
    end.record()
    end.synchronize()
    return xp.cuda.get_elapsed_time(start, end) / 1e3


class Watch:
    """An observer for `tensor.observing` that charges each operation with the time since the last result.

    That is the time of the operation's rule plus a little overhead: the Python code of the modules and,
    in backward, adding the gradients of a result used twice (charged to the operation that made it).
    The time up to the first result of each forward is charged to REST: loading the data, or adding the
    gradients of one part of the batch to those of the others. It hides one embedding lookup. The time
    after the last backward is charged to the optimizer.

    >>> from time import perf_counter
    >>> watch = mg.profile.Watch(np, perf_counter)
    >>> with mg.observing(watch):
    ...     y = mg.ops.exp(mg.Tensor([0.0]))
    ...
    >>> watch.calls["exp"]
    1
    """

    def __init__(self, xp: ModuleType, clock: Callable[[], float]):
        self.xp, self.clock, self.at = xp, clock, clock()
        self.seconds: dict[tuple[str, str], float] = defaultdict(float)  # of (operation, phase)
        self.calls: Counter[str] = Counter()  # forward
        self.products: Counter[Product] = Counter()
        self.going_forward = False

    def __call__(self, op: str, phase: str, arrays: tuple) -> None:
        first = phase == "forward" and not self.going_forward
        self.charge(REST if first else op, "" if first else phase)
        self.going_forward = phase == "forward"
        self.calls[op] += phase == "forward"
        if phase == "backward" and op in PRODUCTS:
            self.products.update(PRODUCTS[op](*arrays))

    def charge(self, name: str, phase: str = "") -> None:
        """Wait for the device, then charge `name` with the time since the last charge."""
        backend.synchronize(self.xp)
        before, self.at = self.at, self.clock()
        self.seconds[name, phase] += self.at - before

    def total(self) -> float:
        return sum(self.seconds.values())


@dataclass(frozen=True)
class Profile:
    """The time and the work of one training step.

    seconds  : by (operation, phase), of the median watched step; phase "" for OPTIMIZER and REST
    calls    : number of forward calls by operation
    alone    : median seconds of a step without the watch
    tokens   : mean number of targets in a step
    products : its matrix products; `bound` is the seconds that they take alone

    >>> from collections import Counter
    >>> profile = mg.profile.Profile({("exp", "forward"): 0.1}, Counter(exp=1), 0.2, 10, Counter(), 0.05)
    >>> profile.bound / profile.alone
    0.25
    """

    seconds: dict[tuple[str, str], float]
    calls: Counter[str]
    alone: float
    tokens: float
    products: Counter[Product]
    bound: float


def measure(
    model: LanguageModel, corpus: Corpus, config: TrainConfig, clock: Callable[[], float] = time.perf_counter
) -> Profile:
    """Time training steps of `model`, alternating watched ones with unwatched. This trains the model.

    config : the sizes of a step, and its precision
    clock  : returns seconds
    Raises NonFinite when a loss or a gradient is nan or infinite.

    >>> corpus = mg.from_pocketstories(block_size=128, n_train=5, n_valid=5)
    >>> config = mg.GAMConfig(vocab_size=472, block_size=128, d_model=4, n_layers=1)
    >>> seconds = iter(range(10**6))  # a clock that ticks once a look; the default is time.perf_counter
    >>> train = mg.TrainConfig(batch_size=2)
    >>> profile = mg.profile.measure(mg.GAM(config), corpus, train, lambda: next(seconds))
    >>> profile.calls["associative_memory"]
    1
    """
    tokens: list[int] = []
    xp = model.train().xp
    scale = LossScale() if config.precision == "float16" else None
    optimizer = AdamW(model.parameters(), loss_scale=scale)  # other settings do not change its cost

    def step(watched: bool) -> Watch:
        watch = Watch(xp, clock)
        rows = batch_of(len(tokens) + 1, len(corpus.train), config.batch_size, config.seed)
        ids, targets = inputs_and_targets(corpus.train[rows])
        with observing(watch if watched else None):
            train_step(model, optimizer, ids, targets, config.micro_batch or None, config.max_norm)
        watch.charge(OPTIMIZER)
        tokens.append(count_targets(targets))
        bar.update()
        return watch

    bar = tqdm(desc="profiling", unit="step", leave=False, disable=None)
    quietly = np.errstate(over="ignore", invalid="ignore", divide="ignore")
    with bar, quietly, precision.using(xp, config.precision):
        if hasattr(xp, "cuda"):
            step(watched=False)  # compiles the kernels, which says nothing of how long a step takes
        warm_up = step(watched=False).total()  # not counted: it gets its memory from the operating system
        pairs = min(MOST, max(FEWEST, int(SECONDS / (2.0 * warm_up))))
        bar.total = len(tokens) + 2 * pairs
        alone, watched = zip(*((step(watched=False), step(watched=True)) for _ in range(pairs)), strict=True)
        typical = sorted(watched, key=Watch.total)[pairs // 2]  # one step, so that its parts add up
        bound = bound_seconds(typical.products, xp, model.token_embedding.weight.dtype, clock)
    seconds, mean = float(np.median([w.total() for w in alone])), sum(tokens) / len(tokens)
    return Profile(typical.seconds, typical.calls, seconds, mean, typical.products, bound)


def text(profile: Profile) -> str:
    """Return a table of the operations, slowest first, and how close the step is to its lower bound.

    >>> from collections import Counter
    >>> product = Counter({(1, 500, 500, 500): 1})
    >>> profile = mg.profile.Profile({("exp", "forward"): 0.1}, Counter(exp=1), 0.2, 10, product, 0.05)
    >>> print(mg.profile.text(profile).splitlines()[-1][-50:])
    FLOP/s): the step reaches 25% of that lower bound.
    """
    ms = {key: 1e3 * seconds for key, seconds in profile.seconds.items()}
    both: dict[str, float] = defaultdict(float)
    for (name, _), value in ms.items():
        both[name] += value
    whole = sum(both.values())
    lines = [f"{'operation':<32}{'calls':>7}{'forward ms':>12}{'backward ms':>13}{'both ms':>11}{'share':>8}"]
    for name, value in sorted(both.items(), key=lambda item: -item[1]):
        forward, backward = (ms.get((name, phase), 0.0) for phase in ("forward", "backward"))
        cells = f"{profile.calls[name]:>7}{forward:>12.2f}{backward:>13.2f}" if profile.calls[name] else ""
        lines.append(f"{name:<32}{cells:32}{value:>11.2f}{value / whole:>8.1%}")
    lines += [f"{'one step, watched':<64}{whole:>11.2f}{1.0:>8.1%}"]
    lines += [f"{'one step, alone':<64}{1e3 * profile.alone:>11.2f}", ""]
    giga = 1e-9 * flops(profile.products)
    lines.append(
        f"{profile.tokens / profile.alone:,.0f} tokens/s. The matrix products alone take "
        f"{profile.bound:.3g} s ({giga:,.3g} GFLOP at {giga / profile.bound:,.0f} GFLOP/s): "
        f"the step reaches {profile.bound / profile.alone:.0%} of that lower bound."
    )
    return "\n".join(lines)


def head(model: LanguageModel, config: TrainConfig) -> str:
    """Return one line: the model, the sizes of a step, the backend, and its BLAS and cores or its GPU.

    >>> config = mg.GAMConfig(vocab_size=9, block_size=8, d_model=4, n_layers=2, n_slots=3)
    >>> mg.profile.head(mg.GAM(config), mg.TrainConfig()).split(";")[0]
    'GAM of 540 parameters, V 9, C 4, L 2'
    """
    c = model.config
    where = gpu(model.xp, config) if hasattr(model.xp, "cuda") else f"{blas()}, {os.cpu_count()} cores"
    parts = f", at most {config.micro_batch} at a time" if config.micro_batch else ""
    return (
        f"{c.label} of {model.num_parameters():,} parameters, V {c.vocab_size}, C {c.d_model}, "
        f"L {c.n_layers}; {config.batch_size} rows of {c.block_size} tokens{parts}; "
        f"backend {model.xp.__name__}, {where}"
    )


def gpu(xp: ModuleType, config: TrainConfig) -> str:
    """Return the name of the GPU, the versions of its libraries, and the precision of a run's products.

    >>> xp = mg.backend.get("cupy")  # doctest: +SKIP
    >>> mg.profile.gpu(xp, mg.TrainConfig())  # doctest: +SKIP
    """
    cuda = xp.cuda.runtime.runtimeGetVersion()
    cublas = xp.cuda.cublas.getVersion(xp.cuda.device.get_cublas_handle())
    return (
        f"{provenance.device(xp.__name__)}, CuPy {xp.__version__}, CUDA {cuda // 1000}.{cuda % 1000 // 10}, "
        f"cuBLAS {cublas}, precision {config.precision}"
    )


def blas() -> str:
    """Return the name of the BLAS, the processor its kernels are for, and its number of threads.

    >>> isinstance(mg.profile.blas(), str)
    True
    """
    if find_spec("threadpoolctl") is None:  # optional
        return "BLAS unknown without threadpoolctl"
    from threadpoolctl import threadpool_info

    libraries = {
        f"{p['internal_api']} {p['version']} for {p.get('architecture', 'any processor')}, "
        f"threads {p['num_threads']}"
        for p in threadpool_info()
        if p["user_api"] == "blas"
    }
    return " and ".join(sorted(libraries)) or "BLAS unknown to threadpoolctl"
