"""Training steps of one rank or several that are threads, and what is left of them."""

from collections.abc import Callable

import numpy as np

from helpers.thread_world import run_ranks
from minigam import GAM, GAMConfig, Mamba, MambaConfig, Transformer, TransformerConfig
from minigam.config import WRITTEN_LABEL
from minigam.engine.backend import to_numpy
from minigam.models.lm import LanguageModel
from minigam.training.optim import AdamW
from minigam.training.ranks.world import ALONE, World
from minigam.training.step import begin_step

SIZES = {"vocab_size": 11, "block_size": 8, "d_model": 8, "n_layers": 2, "dropout": 0.2}
MODELS = {
    "GAM": (GAM, GAMConfig(**SIZES, n_slots=4)),
    WRITTEN_LABEL: (GAM, GAMConfig(**SIZES, n_slots=4, mixer="written")),
    "Transformer": (Transformer, TransformerConfig(**SIZES, n_heads=2)),
    "Mamba": (Mamba, MambaConfig(**SIZES, d_state=3, expand=2)),
}
Batch = tuple[np.ndarray, np.ndarray]
POWERS = (2, 4, 8)  # and 1 is `ALONE`


def made(name: str, dtype: str = "float32") -> LanguageModel:
    """Return one of MODELS, with its initial values."""
    kind, config = MODELS[name]
    return kind(config, dtype=dtype, seed=3)


def drawn(rows: int, tokens: int = 8, seed: int = 0, ignored: float = 0.3) -> Batch:
    """Return ids and targets (rows, tokens), some of which do not count."""
    rng = np.random.default_rng(seed)
    targets = rng.integers(0, 11, (rows, tokens))
    targets[rng.random(targets.shape) < ignored] = -1
    return rng.integers(0, 11, (rows, tokens)), targets


def trained(
    make: Callable[[], LanguageModel],
    batches: list[Batch],
    world: World = ALONE,
    shard: bool = False,
    **settings,
) -> dict[str, np.ndarray]:
    """Take a step for each batch; return the losses, the last gradient, the number of masks drawn, the
    weights and the moments. Of sharded moments rank 0 alone returns any.

    settings : of `begin_step`
    """
    model = make()
    optimizer = AdamW(model.parameters(), lr=0.01, world=world, shard=shard)
    settings = {"leaves": 8} | settings
    losses = [begin_step(model, optimizer, *batch, world=world, **settings)() for batch in batches]
    names = [name for name, _ in model.named_parameters()]
    assert all(p.on_gradient is None for p in model.parameters())
    return {
        "losses": np.array(losses), "gradient": to_numpy(optimizer.gradients).copy(),
        "masks": np.array([model.mask_counter.drawn, model.mask_counter.first_token]),
        **model.state_dict(), **optimizer.state_dict(names),
    }  # fmt: skip


def trained_by(n: int, make: Callable[[], LanguageModel], batches: list[Batch], **settings) -> list[dict]:
    """Return what each of n ranks returns from `trained`."""
    return run_ranks(n, lambda world: trained(make, batches, world, **settings))


def assert_same_bits(found: dict, wanted: dict) -> None:
    """Compare what `trained` returns. Moments that a rank does not hold are no difference."""
    assert found and found.keys() <= wanted.keys()
    for name, a in found.items():
        assert a.dtype == wanted[name].dtype, name
        assert a.tobytes() == wanted[name].tobytes(), name
