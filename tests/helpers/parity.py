"""Gradients under the names of the authors' code, and a comparison of arrays."""

import numpy as np

from minigam import GAM, to_official


def official_gradients(model: GAM) -> dict[str, np.ndarray]:
    """Return gradients by published name. They have the shapes of the parameters and are converted alike."""
    carrier = GAM(model.config, dtype=model.norm.weight.dtype)
    carrier.load_state_dict({name: p.grad for name, p in model.named_parameters()})
    return to_official(carrier)


def assert_close(got, wanted, rtol: float):
    """Compare arrays by name, every entry within rtol of the largest one."""
    for name in wanted:
        scale = np.abs(wanted[name]).max()
        np.testing.assert_allclose(got[name], wanted[name], rtol=0, atol=rtol * scale, err_msg=name)
