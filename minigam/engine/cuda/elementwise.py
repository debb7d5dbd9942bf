"""Elementwise rules: activations, which keep only their input, and dropout, which keeps nothing."""

from minigam.engine import ops
from minigam.engine.cuda.kernels import launch
from minigam.engine.masks import mask_arguments
from minigam.engine.numeric import packed

ACTIVATIONS = r"""
// normcdf is Phi, right to the last bits however small it is.
__device__ REAL gelu(REAL x) { return x * normcdf(x); }
__device__ REAL gelu_slope(REAL x) {
    return normcdf(x) + x * (exp((REAL)-0.5 * x * x) * (REAL)0.39894228040143267794);
}

__device__ REAL silu(REAL x) { return x * sigmoid(x); }
__device__ REAL silu_slope(REAL x) { return sigmoid(x) * (1 + x * sigmoid(-x)); }

__device__ REAL softplus(REAL x) { return (x > 0 ? x : 0) + log1p(exp(-fabs(x))); }
__device__ REAL softplus_slope(REAL x) { return sigmoid(x); }

extern "C" __global__ void activate(const REAL* __restrict__ x, REAL* __restrict__ y, size n) {
    const size i = my_index();
    if (i < n) y[i] = VALUE(x[i]);
}

extern "C" __global__ void activate_back(
    const REAL* __restrict__ x, const REAL* __restrict__ dy, REAL* __restrict__ dx, size n)
{
    const size i = my_index();
    if (i < n) dx[i] = dy[i] * SLOPE(x[i]);
}
"""


def activation(op) -> None:
    """Register the rule of an activation; ACTIVATIONS defines its value and slope, NAME and NAME_slope."""

    @op.faster("cupy")
    def rule(xp, x):
        (x,) = packed(xp, x)
        y = xp.empty(x.shape, dtype=x.dtype)
        functions = {"VALUE": op.name, "SLOPE": f"{op.name}_slope"}
        launch(xp, ACTIVATIONS, "activate", x.size, x, y, x.size, **functions)

        def backward(dy):
            (dy,), dx = packed(xp, dy), xp.empty(x.shape, dtype=x.dtype)
            launch(xp, ACTIVATIONS, "activate_back", x.size, x, dy, dx, x.size, **functions)
            return (dx,)

        return y, backward


for _op in (ops.gelu, ops.silu, ops.softplus):
    activation(_op)


DROPOUT = r"""
// y = x times the factor of dropout; the first entry is entry `first` of the whole batch.
extern "C" __global__ void dropout(
    const REAL* __restrict__ x, REAL* __restrict__ y, size n,
    size first, word seed, size threshold, REAL scale)
{
    const size i = my_index();
    if (i < n) y[i] = x[i] * dropout_factor(first + i, seed, threshold, scale);
}
"""


@ops.dropout.faster("cupy")
def dropout(xp, x, *, p: float, key: tuple[int, ...], first_token: int = 0):
    """Keeps nothing: backward recomputes the mask."""
    shape, mask = x.shape, mask_arguments(p, key, first_token * x.shape[-1])

    def masked(z):
        (z,), y = packed(xp, z), xp.empty(shape, dtype=z.dtype)
        launch(xp, DROPOUT, "dropout", z.size, z, y, z.size, *mask)
        return y

    return masked(x), lambda dy: (masked(dy),)
