"""Write tests/helpers/golden: results of PyTorch, which the tests use where it is not installed.

    cd tests && python -m helpers.make_golden

Each file holds the inputs next to the results, so the tests do not depend on a random number generator.
The versions that made a file are in its metadata.
"""

from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import save_file

from helpers import published_mamba, reference_mamba, reference_torch, tiny
from minigam.config import MIXERS, WRITTEN
from minigam.models.interop import to_official

FOLDER = Path(__file__).parent / "golden"
MADE = {"made": f"python -m helpers.make_golden; torch {torch.__version__}; numpy {np.__version__}"}


def model_case(mixer: str) -> dict[str, np.ndarray]:
    """Weights, ids and targets of a tiny model; its logits, loss and gradients from PyTorch."""
    model, written = tiny.gam(mixer, seed=3), mixer == WRITTEN
    arrays = to_official(model)
    ids, targets = (tiny.draw_ids(model, B=2, T=5, seed=seed) for seed in (1, 2))
    targets[0, 1] = -1  # not predicted
    w = reference_torch.leaves(arrays)
    loss = reference_torch.loss(w, torch.tensor(ids), torch.tensor(targets), written)
    loss.backward()
    return {
        "ids": ids,
        "targets": targets,
        "logits": reference_torch.logits(w, torch.tensor(ids), written).detach().numpy(),
        "loss": loss.detach().numpy(),
        **{f"weight.{name}": a for name, a in arrays.items()},
        **{f"gradient.{name}": t.grad.numpy() for name, t in w.items()},
    }


def mamba_case() -> dict[str, np.ndarray]:
    """Weights and ids of a tiny published Mamba; its logits, loss and gradients from PyTorch."""
    arrays = published_mamba.random_arrays()
    ids, targets = np.random.default_rng(1).integers(0, published_mamba.SIZES["V"], (2, 2, 7))
    w = reference_mamba.leaves(arrays)
    logits = reference_mamba.logits(w, torch.tensor(ids))
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), torch.tensor(targets).flatten())
    loss.backward()
    return {
        "ids": ids,
        "targets": targets,
        "logits": logits.detach().numpy(),
        "loss": loss.detach().numpy(),
        **{f"weight.{name}": a for name, a in arrays.items()},
        **{f"gradient.{name}": t.grad.numpy() for name, t in w.items()},
    }


def adamw_case(dtype: str, steps: int = 30) -> dict[str, np.ndarray]:
    """A parameter under PyTorch's AdamW: its value after each step, and all inputs."""
    rng = np.random.default_rng(4)
    scale = np.array([1e-9, 1e-8, 1e-6, 1e-2, 1.0, 1e3])  # around eps, where eps matters, and far above
    gradients = (scale * rng.standard_normal((steps, scale.size))).astype(dtype)
    rates = 0.05 * rng.random(steps)
    settings = {"betas": (0.8, 0.97), "weight_decay": 0.3, "eps": 1e-7}
    p = torch.nn.Parameter(torch.tensor(rng.standard_normal(scale.size).astype(dtype)))
    start, path = p.detach().numpy().copy(), []
    optimizer = torch.optim.AdamW([p], **settings)
    for g, rate in zip(gradients, rates, strict=True):
        optimizer.param_groups[0]["lr"] = float(rate)
        p.grad = torch.tensor(g)
        optimizer.step()
        path.append(p.detach().numpy().copy())
    return {
        "start": start,
        "gradients": gradients,
        "rates": rates,
        "path": np.stack(path),
        **{name: np.array(value) for name, value in settings.items()},
    }


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    cases = {f"gam-{mixer}": model_case(mixer) for mixer in MIXERS}
    cases |= {"mamba": mamba_case()}
    cases |= {f"adamw-{dtype}": adamw_case(dtype) for dtype in ("float32", "float64")}
    for name, arrays in cases.items():
        contiguous = {key: np.ascontiguousarray(a).reshape(a.shape) for key, a in arrays.items()}
        save_file(contiguous, FOLDER / f"{name}.safetensors", metadata=MADE)
