"""Is the gradient right? Finite differences against the tape."""

from collections.abc import Callable, Sequence

import numpy as np

from minigam.engine.backend import to_numpy, xp_of
from minigam.engine.tensor import Tensor, no_grad


def gradcheck(
    f: Callable[..., Tensor],
    *inputs: Tensor,
    eps: float = 1e-5,
    rtol: float = 1e-6,
    atol: float = 1e-9,
    seed: int = 0,
    directions: int | None = None,
) -> float:
    """Raise AssertionError unless f's gradients match; return the worst relative error.

        dL/dx_j ~ (L(x + eps e_j) - L(x - eps e_j)) / (2 eps),   L = <c, f(inputs)>, c random

    A plain sum instead of <c, .> would have zero gradient through softmax and LayerNorm: a
    backward rule that returns zeros would pass.

    f          : deterministic function of the inputs
    inputs     : float64 leaves that require a gradient; perturbed in place, then restored
    eps        : step of the central difference
    rtol, atol : an error above atol + rtol * (largest entry of that input's gradient) fails
    directions : None checks every entry; a number checks that many random directions through
                 all inputs together, which is affordable for a whole model
    Raises TypeError for any other input.
    Cost: two calls of f per entry, or per direction.

    >>> x = mg.Tensor([0.3, -0.2], requires_grad=True)
    >>> mg.gradcheck(mg.ops.tanh, x) < 1e-6
    True
    """
    for i, x in enumerate(inputs):
        if x.dtype != np.float64:
            raise TypeError(f"gradcheck: input {i} {x.shape} is {x.dtype}, wanted float64")
        if not x.requires_grad or x.node is not None:
            raise TypeError(f"gradcheck: input {i} {x.shape} must be a leaf that requires a gradient")
        x.grad = None
    rng = np.random.default_rng(seed)
    y = f(*inputs)
    c = xp_of(y.data).asarray(rng.standard_normal(y.shape))
    if isinstance(c, np.ndarray):
        c.setflags(write=False)  # a rule may not write into what it is given
    y.backward(c)
    for i, x in enumerate(inputs):
        if x.grad is None:
            raise AssertionError(f"gradcheck: input {i} {x.shape} received no gradient")

    def loss() -> float:
        with no_grad():
            return float((c * f(*inputs).data).sum())

    if directions is not None:
        return max(_along(loss, inputs, rng, eps, rtol, atol) for _ in range(directions))
    return max(_entries(loss, i, x, eps, rtol, atol) for i, x in enumerate(inputs))


def differences(loss: Callable[[], float], x: Tensor, eps: float) -> np.ndarray:
    """Return dL/dx by central differences, for a function `loss()` of the entries of x, on the host.

        (L(x + eps e_j) - L(x - eps e_j)) / (2 eps)   for every entry j

    Entries are changed in place, then restored. Cost: two calls of `loss` per entry.
    """
    numeric = np.empty(x.shape)
    for j in np.ndindex(x.shape):
        original, values = float(x.data[j]), []
        try:
            for step in (+eps, -eps):
                x.data[j] = original + step
                values.append(loss())
        finally:
            x.data[j] = original
        numeric[j] = (values[0] - values[1]) / (2 * eps)
    return numeric


def _entries(loss: Callable[[], float], i: int, x: Tensor, eps: float, rtol: float, atol: float) -> float:
    """Compare every entry of one input's gradient; return the worst error relative to the largest entry."""
    numeric = differences(loss, x, eps)
    grad = to_numpy(x.grad)
    scale, error = np.abs(numeric).max(initial=0.0), np.abs(grad - numeric)
    allowed = atol + rtol * scale
    if not (error <= allowed).all():  # not `error > allowed`: nan must fail too
        j = tuple(map(int, np.unravel_index(np.nan_to_num(error, nan=np.inf).argmax(), error.shape)))
        raise AssertionError(
            f"gradcheck: input {i} {x.shape}, entry {j}: backward {grad[j]:.9g}, "
            f"numeric {numeric[j]:.9g}, error {error[j]:.1e}, allowed {allowed:.1e}"
        )
    return float(error.max(initial=0.0) / max(scale, atol / rtol))


def _along(
    loss: Callable[[], float], inputs: Sequence[Tensor], rng: np.random.Generator,
    eps: float, rtol: float, atol: float,
) -> float:  # fmt: skip
    """Compare the derivative along one random direction of length 1 through all inputs."""
    direction = [rng.standard_normal(x.shape) for x in inputs]
    length = sum(float((d * d).sum()) for d in direction) ** 0.5
    direction = [d / length for d in direction]
    backward = sum(float((to_numpy(x.grad) * d).sum()) for x, d in zip(inputs, direction, strict=True))
    originals, values = [x.data for x in inputs], []
    try:
        for step in (+eps, -eps):
            for x, a, d in zip(inputs, originals, direction, strict=True):
                x.data = a + xp_of(a).asarray(step * d)
            values.append(loss())
    finally:
        for x, a in zip(inputs, originals, strict=True):
            x.data = a
    numeric = (values[0] - values[1]) / (2 * eps)
    error, allowed = abs(backward - numeric), atol + rtol * abs(numeric)
    if not error <= allowed:
        raise AssertionError(
            f"gradcheck: along a random direction: backward {backward:.9g}, "
            f"numeric {numeric:.9g}, error {error:.1e}, allowed {allowed:.1e}"
        )
    return error / max(abs(numeric), atol / rtol)
