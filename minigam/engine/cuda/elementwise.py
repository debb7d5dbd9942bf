"""Elementwise rules: activations, which keep only their input, and dropout, which keeps nothing."""

from minigam.engine import ops
from minigam.engine.cuda.gradients import place_for
from minigam.engine.cuda.kernels import counters, launch, slabs_of
from minigam.engine.masks import mask_arguments
from minigam.engine.numeric import packed, rows

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


def activation(op):
    """Return the rule of an activation; ACTIVATIONS defines its value and slope, NAME and NAME_slope."""

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

    return rule


for _op in (ops.silu, ops.softplus):
    _op.faster("cupy")(activation(_op))
_gelu = activation(ops.gelu)

GELU = (
    ACTIVATIONS
    + r"""
// One thread per channel of a row.
extern "C" __global__ void gelu_of_sum(
    const REAL* __restrict__ x, const REAL* __restrict__ bias, REAL* __restrict__ y, size C)
{
    const size c = my_channel(), i = my_part() * C + c;
    if (c < C) y[i] = gelu(x[i] + bias[c]);
}

// One thread per channel of `slab` rows: dx and its part of dbias, in sums (slabs, C); then dbias.
extern "C" __global__ void gelu_of_sum_back(
    const REAL* __restrict__ x, const REAL* __restrict__ bias, const REAL* __restrict__ dy,
    REAL* __restrict__ dx, REAL* sums, size* arrived, REAL* dbias, size more, size rows, size C, size slab)
{
    const size c = my_channel(), first = my_part() * slab;
    if (c < C) {
        REAL sum = 0;
        for (size row = first; row < rows && row < first + slab; ++row) {
            const size i = row * C + c;
            sum += dx[i] = dy[i] * gelu_slope(x[i] + bias[c]);
        }
        sums[my_part() * C + c] = sum;
    }
    if (all_arrived(arrived) && c < C) put(dbias, c, total(sums, C, c), more);
}
"""
)


@ops.gelu.faster("cupy")
def gelu(xp, x, bias=None):
    """Keeps only x and the bias."""
    if bias is None:
        y, backward = _gelu(xp, x)
        return y, lambda dy: (*backward(dy), None)
    x, bias = packed(xp, x, bias)
    (N, C), y = rows(x).shape, xp.empty(x.shape, dtype=x.dtype)
    launch(xp, GELU, "gelu_of_sum", (N, C), x, bias, y, C, VALUE="gelu", SLOPE="gelu_slope")

    def backward_of_sum(dy):
        (dy,), dx, (slabs, slab) = packed(xp, dy), xp.empty(x.shape, dtype=x.dtype), slabs_of(N)
        sums, (dbias, more) = xp.empty((slabs, C), dtype=x.dtype), place_for(xp, bias)
        launch(xp, GELU, "gelu_of_sum_back", (slabs, C), x, bias, dy, dx, sums, counters(xp, C), dbias, more,
               N, C, slab, VALUE="gelu", SLOPE="gelu_slope")  # fmt: skip
        return dx, dbias

    return y, backward_of_sum


DROPOUT = r"""
// y = x times the factor of dropout; the first entry is entry `first` of the whole batch.
extern "C" __global__ void dropout(
    const REAL* __restrict__ x, REAL* __restrict__ y, size n,
    size first, word seed, size threshold, REAL scale)
{
    const size i = my_index();
    if (i < n) y[i] = x[i] * dropout_factor(first + i, seed, threshold, scale);
}

// The same of x + bias. One thread per channel of a row.
extern "C" __global__ void dropout_of_sum(
    const REAL* __restrict__ x, const REAL* __restrict__ bias, REAL* __restrict__ y, size C,
    size first, word seed, size threshold, REAL scale)
{
    const size c = my_channel(), i = my_part() * C + c;
    if (c < C) y[i] = (x[i] + bias[c]) * dropout_factor(first + i, seed, threshold, scale);
}

// One thread per channel of `slab` rows: dx and its part of dbias, in sums (slabs, C); then dbias.
extern "C" __global__ void dropout_of_sum_back(
    const REAL* __restrict__ dy, REAL* __restrict__ dx, REAL* sums, size* arrived, REAL* dbias, size more,
    size rows, size C, size slab, size entry, word seed, size threshold, REAL scale)
{
    const size c = my_channel(), first = my_part() * slab;
    if (c < C) {
        REAL sum = 0;
        for (size row = first; row < rows && row < first + slab; ++row) {
            const size i = row * C + c;
            sum += dx[i] = dy[i] * dropout_factor(entry + i, seed, threshold, scale);
        }
        sums[my_part() * C + c] = sum;
    }
    if (all_arrived(arrived) && c < C) put(dbias, c, total(sums, C, c), more);
}
"""


@ops.dropout.faster("cupy")
def dropout(xp, x, bias=None, *, p: float, key: tuple[int, ...], first_token: int = 0):
    """Keeps nothing: backward recomputes the mask."""
    shape, mask = x.shape, mask_arguments(p, key, first_token * x.shape[-1])

    def masked(z):
        (z,), y = packed(xp, z), xp.empty(shape, dtype=z.dtype)
        launch(xp, DROPOUT, "dropout", z.size, z, y, z.size, *mask)
        return y

    if bias is None:
        return masked(x), lambda dy: (masked(dy), None)
    x, bias = packed(xp, x, bias)
    (N, C), y = rows(x).shape, xp.empty(shape, dtype=x.dtype)
    launch(xp, DROPOUT, "dropout_of_sum", (N, C), x, bias, y, C, *mask)

    def backward_of_sum(dy):
        (dy,), dx, (slabs, slab) = packed(xp, dy), xp.empty(shape, dtype=dy.dtype), slabs_of(N)
        sums, (dbias, more) = xp.empty((slabs, C), dtype=dy.dtype), place_for(xp, bias)
        launch(xp, DROPOUT, "dropout_of_sum_back", (slabs, C), dy, dx, sums, counters(xp, C), dbias, more,
               N, C, slab, *mask)  # fmt: skip
        return dx, dbias

    return y, backward_of_sum
