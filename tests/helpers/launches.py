"""Count what a training step asks of the device: kernels, matrix products and functions of the array library.

Counted on the pretend GPU. A view costs the device nothing and does not count.
"""

import cProfile
import pstats
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import pytest

from helpers import fakecuda, fakegpu
from minigam import GAM, GAMConfig, Mamba, MambaConfig, Transformer, TransformerConfig, backend
from minigam.config import WRITTEN_LABEL
from minigam.engine.cuda import kernels
from minigam.training.optim import AdamW
from minigam.training.step import train_step

SIZES = {"vocab_size": 11, "block_size": 16, "d_model": 12, "n_layers": 6, "dropout": 0.1}  # of six layers
MODELS = {
    "GAM": (GAM, GAMConfig(**SIZES, n_slots=5)),
    WRITTEN_LABEL: (GAM, GAMConfig(**SIZES, n_slots=5, mixer="written")),
    "Transformer": (Transformer, TransformerConfig(**SIZES, n_heads=2)),
    "Mamba": (Mamba, MambaConfig(**SIZES, d_state=3, expand=2)),
}
VIEWS = {"reshape", "swapaxes", "transpose", "view"}
OPERATORS = (
    "add", "sub", "mul", "truediv", "pow", "matmul", "and", "or", "xor", "rshift",
    "lt", "le", "eq", "ne", "gt", "ge", "neg", "invert",
)  # fmt: skip


def step_of(name: str) -> Callable[[], float]:
    """Return a training step of one of MODELS on the pretend GPU, the published one in all but its sizes."""
    backend.register(fakegpu.DeviceArray, fakegpu.xp)
    kind, config = MODELS[name]
    model = kind(config).to("fakegpu").train()
    optimizer = AdamW(model.parameters())
    ids = np.random.default_rng(0).integers(11, size=(4, 16))
    return lambda: train_step(model, optimizer, ids, np.roll(ids, -1, axis=1))


@contextmanager
def counting() -> Iterator[Counter[str]]:
    """Run the faster rules emulated inside this context, and count what they ask of the device, by name."""
    count: Counter[str] = Counter()

    def counted(owner, name: str, label: str | Callable, launches: Callable = lambda *_: True) -> None:
        function = getattr(owner, name)

        def call(*args, **settings):
            result = function(*args, **settings)
            if launches(result, *args):
                count[label if isinstance(label, str) else label(*args)] += 1
            return result

        patch.setattr(owner, name, call)

    def copies(result, array, *_) -> bool:
        return not (isinstance(array, fakegpu.DeviceArray) and np.shares_memory(result._host, array._host))

    kernels.kernel.cache_clear()  # kernels made before are not counted
    with pytest.MonkeyPatch.context() as patch:
        fakecuda.install(patch)
        for name in set(fakegpu.FUNCTIONS) - {"ascontiguousarray"}:
            counted(fakegpu.xp, name, name)
        counted(fakegpu.xp, "ascontiguousarray", "copy", copies)
        counted(fakegpu.xp, "asarray", "copy from the host", copies)
        for name in set(fakegpu.METHODS) - VIEWS:
            counted(fakegpu.DeviceArray, name, name)
        for name in OPERATORS:
            for prefix in ("", "r", "i"):
                if hasattr(fakegpu.DeviceArray, f"__{prefix}{name}__"):
                    counted(fakegpu.DeviceArray, f"__{prefix}{name}__", name)
        counted(fakegpu.DeviceArray, "__getitem__", "getitem", copies)
        counted(fakegpu.DeviceArray, "__setitem__", "setitem")
        counted(fakecuda.RawModule, "_launch", lambda module, name, *_: f"kernel {name}")
        counted(fakecuda.CUBLAS, "gemmStridedBatchedEx", "matrix product")
        yield count
    kernels.kernel.cache_clear()


def launches(name: str) -> Counter[str]:
    """Return what one training step of one of MODELS asks of the device, after two to warm up."""
    with counting() as count:
        step = step_of(name)
        for _ in range(2):
            step()
        count.clear()
        step()
        return Counter(count)


def host_seconds(name: str, steps: int = 8) -> float:
    """Return the time of a step in functions of the package, as cProfile measures it, emulation excluded."""
    with pytest.MonkeyPatch.context() as patch:
        fakecuda.install(patch)
        step = step_of(name)
        step()
        profile = cProfile.Profile()
        with profile:
            for _ in range(steps):
                step()
    functions = pstats.Stats(profile).stats.items()
    return sum(own for (file, _, _), (_, _, own, _, _) in functions if "/minigam/" in file) / steps
