"""Names, shapes and random weights of a published Mamba checkpoint, without PyTorch."""

import numpy as np

SIZES = {"V": 16, "C": 20, "E": 40, "N": 3, "K": 4, "R": 2, "L": 2}  # R = 20 / 16, rounded up


def shapes() -> dict[str, tuple[int, ...]]:
    """Return the published names and their shapes."""
    V, C, E, N, K, R = (SIZES[letter] for letter in "VCENKR")
    layer = {
        "norm.weight": (C,),
        "mixer.in_proj.weight": (2 * E, C),
        "mixer.conv1d.weight": (E, 1, K),
        "mixer.conv1d.bias": (E,),
        "mixer.x_proj.weight": (R + 2 * N, E),
        "mixer.dt_proj.weight": (E, R),
        "mixer.dt_proj.bias": (E,),
        "mixer.A_log": (E, N),
        "mixer.D": (E,),
        "mixer.out_proj.weight": (C, E),
    }
    result = {"backbone.embedding.weight": (V, C), "backbone.norm_f.weight": (C,), "lm_head.weight": (V, C)}
    for i in range(SIZES["L"]):
        result |= {f"backbone.layers.{i}.{name}": shape for name, shape in layer.items()}
    return result


def random_arrays() -> dict[str, np.ndarray]:
    """Return random weights in the published names and shapes, the head stored like the embedding."""
    rng = np.random.default_rng(0)
    arrays = {name: 0.5 * rng.standard_normal(shape) for name, shape in shapes().items()}
    return arrays | {"lm_head.weight": arrays["backbone.embedding.weight"].copy()}
