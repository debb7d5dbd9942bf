"""General differentiable operations, each a value and its hand-derived derivative.

In every rule `xp` is the library of the arrays, `dy` is dL/dy, `dx` is dL/dx. A rule never
writes into its inputs. The check of an operation, if it has one, follows the operation.
"""

from minigam.engine.cross_entropy import cross_entropy, linear_cross_entropy  # noqa: F401  with the others
from minigam.engine.dispatch import integer_op, op
from minigam.engine.masks import keep_mask
from minigam.engine.numeric import add_at, normal, require_bias, rows, scatter_add, shape_of, unbroadcast
from minigam.engine.numeric import sigmoid as sigmoid_of
from minigam.engine.tensor import ShapeError, Tensor

# ---------------------------------------------------------------------------- arithmetic


@integer_op
def add(xp, a, b):
    """a + b, with NumPy's broadcasting."""
    y, a_shape, b_shape = a + b, shape_of(a), shape_of(b)  # backward needs only the shapes

    def backward(dy):
        return unbroadcast(dy, a_shape), unbroadcast(dy, b_shape)

    return y, backward


@integer_op
def sub(xp, a, b):
    """a - b, with NumPy's broadcasting."""
    y, a_shape, b_shape = a - b, shape_of(a), shape_of(b)

    def backward(dy):
        return unbroadcast(dy, a_shape), unbroadcast(-dy, b_shape)

    return y, backward


@integer_op
def mul(xp, a, b):
    """Elementwise a * b, with NumPy's broadcasting."""
    y = a * b

    def backward(dy):
        return unbroadcast(dy * b, shape_of(a)), unbroadcast(dy * a, shape_of(b))

    return y, backward


@integer_op
def div(xp, a, b):
    """Elementwise a / b, with NumPy's broadcasting."""
    y = a / b

    def backward(dy):
        return unbroadcast(dy / b, shape_of(a)), unbroadcast(-dy * y / b, shape_of(b))

    return y, backward


@integer_op
def neg(xp, x):
    """-x."""
    return -x, lambda dy: (-dy,)


@integer_op
def power(xp, x, *, exponent: float):
    """x ** exponent; the exponent is one number."""
    exponent = exponent.item() if hasattr(exponent, "item") else exponent  # float32 ** np.float64 is float64
    y = x**exponent

    def backward(dy):
        # x ** 0 is 1 everywhere, so its slope is 0; the formula would give 0 * infinity at x = 0.
        return (dy * (exponent * x ** (exponent - 1)) if exponent else xp.zeros_like(x),)

    return y, backward


@power.check
def _(x, *, exponent):
    numpy_number = getattr(exponent, "shape", None) == () and not isinstance(exponent, Tensor)
    if not isinstance(exponent, (int, float)) and not numpy_number:
        raise TypeError(f"power: the exponent is a {type(exponent).__name__}, wanted one number")


@integer_op
def matmul(xp, a, b):
    """a @ b, batched and broadcast over the leading axes.

    a : (..., M, K)   b : (..., K, N)   returns (..., M, N)
    Raises ShapeError for fewer than two axes or unequal K.
    """
    y = a @ b

    def backward(dy):
        da = dy @ b.swapaxes(-1, -2)
        db = a.swapaxes(-1, -2) @ dy
        return unbroadcast(da, a.shape), unbroadcast(db, b.shape)

    return y, backward


@matmul.check
def _(a, b):
    if min(len(shape_of(a)), len(shape_of(b))) < 2 or a.shape[-1] != b.shape[-2]:
        raise ShapeError(f"matmul: a {shape_of(a)} and b {shape_of(b)}, wanted (..., M, K) and (..., K, N)")


# --------------------------------------------------------------------------- elementwise


@op
def exp(xp, x):
    """e to the power x."""
    y = xp.exp(x)
    return y, lambda dy: (dy * y,)


@op
def log(xp, x):
    """Natural logarithm."""
    return xp.log(x), lambda dy: (dy / x,)


@op
def tanh(xp, x):
    """Hyperbolic tangent."""

    def backward(dy):
        e = xp.exp(-xp.abs(x))
        sech = 2.0 * e / (1.0 + e * e)
        return (dy * sech * sech,)  # 1 - y^2, which cancels for large |x|

    return xp.tanh(x), backward


@op
def sigmoid(xp, x):
    """1 / (1 + exp(-x)), in (0, 1)."""
    y = sigmoid_of(xp, x)
    return y, lambda dy: (dy * y * sigmoid_of(xp, -x),)  # 1 - y is sigmoid(-x)


@op
def silu(xp, x):
    """x sigmoid(x), used by Mamba.   Source: Elfwing et al., arXiv 1702.03118."""
    s = sigmoid_of(xp, x)
    return x * s, lambda dy: (dy * s * (1.0 + x * sigmoid_of(xp, -x)),)


@op
def softplus(xp, x):
    """log(1 + exp(x)), always positive. Does not overflow for large x."""
    y = xp.maximum(x, 0.0) + xp.log1p(xp.exp(-xp.abs(x)))
    return y, lambda dy: (dy * sigmoid_of(xp, x),)


@op
def gelu(xp, x, bias=None):
    """Exact Gaussian error linear unit, of x + bias if there is one.   Part of E9

        y = x Phi(x),   Phi(x) = (1 + erf(x / sqrt 2)) / 2,   phi = Phi'

    x : (..., C)   bias : (C) or None
    Raises ShapeError if the C differ.
    Source: Hendrycks and Gimpel, arXiv 1606.08415.
    """
    x = x if bias is None else x + bias
    Phi, phi = normal(xp, x)

    def backward(dy):
        dx = dy * (Phi + x * phi)
        return dx, None if bias is None else rows(dx).sum(axis=0)

    return x * Phi, backward


@gelu.check
def _(x, bias=None):
    require_bias("gelu", x, bias)


# ---------------------------------------------------------------------- shape and sums


@integer_op
def sum(xp, x, *, axis=None, keepdims: bool = False):
    """Sum over `axis` (all axes when None)."""
    y = x.sum(axis=axis, keepdims=keepdims)
    axes = range(x.ndim) if axis is None else axis if isinstance(axis, tuple) else (axis,)
    reduced = tuple(1 if i in {a % x.ndim for a in axes} else n for i, n in enumerate(x.shape))

    def backward(dy):
        return (dy.reshape(reduced) + xp.zeros_like(x),)

    return y, backward


@integer_op
def reshape(xp, x, *, shape: tuple[int, ...]):
    """The same entries in another shape."""
    before = x.shape
    return x.reshape(shape), lambda dy: (dy.reshape(before),)


@integer_op
def transpose(xp, x, *, axes: tuple[int, ...]):
    """Permute the axes: axis i of the result is axis axes[i] of x."""
    y = x.transpose(axes)  # raises if an axis is missing, repeated or out of range
    axes = tuple(a % x.ndim for a in axes)
    inverse = tuple(axes.index(i) for i in range(x.ndim))
    return y, lambda dy: (dy.transpose(inverse),)


@integer_op
def getitem(xp, x, *, index):
    """x[index], for any index that NumPy accepts; the gradients of a repeated entry add up."""
    y = x[index]

    def backward(dy):
        dx = xp.zeros_like(x)
        add_at(xp, dx, index, dy)
        return (dx,)

    return y, backward


# ------------------------------------------------------------------------ for networks


@op
def softmax(xp, x):
    """Softmax over the last axis.   y_i = exp(x_i) / sum over j of exp(x_j)"""
    e = xp.exp(x - x.max(axis=-1, keepdims=True))
    y = e / e.sum(axis=-1, keepdims=True)

    def backward(dy):
        return (y * (dy - (dy * y).sum(axis=-1, keepdims=True)),)  # y_i (1[i=j] - y_j)

    return y, backward


@softmax.check
def _(x):
    if x.shape[-1:] in ((), (0,)):
        raise ShapeError(f"softmax: x {x.shape}, wanted a last axis that is not empty")


@op
def linear(xp, x, weight, bias=None):
    """Affine map of the last axis.   y = x W^T + b

    x : (..., C)   weight : (D, C)   bias : (D) or None   returns (..., D)
    Raises ShapeError if the C or the D differ.
    Source: torch.nn.functional.linear.
    """
    y = (rows(x) @ weight.T).reshape(*x.shape[:-1], weight.shape[0])  # one product, not B of them
    if bias is not None:
        y = y + bias

    def backward(dy):
        dx = (rows(dy) @ weight).reshape(x.shape)
        dweight = rows(dy).T @ rows(x)
        dbias = rows(dy).sum(axis=0) if bias is not None else None
        return dx, dweight, dbias

    return y, backward


@linear.check
def _(x, weight, bias=None):
    if weight.ndim != 2 or x.shape[-1:] != weight.shape[1:]:
        raise ShapeError(f"linear: x {x.shape} and weight {weight.shape}, wanted (..., C) and (D, C)")
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ShapeError(f"linear: bias {bias.shape}, wanted {weight.shape[:1]}")


@op
def layer_norm(xp, x, weight, bias, *, eps: float = 1e-5):
    """Normalise the last axis, then scale and shift it.   E1

        n = (x - mean) / sqrt(variance + eps),   y = n * weight + bias

    x : (..., C)   weight, bias : (C)   returns (..., C)
    Raises ShapeError if weight or bias is not (C).
    Source: Ba, Kiros and Hinton, arXiv 1607.06450.
    """
    C = x.shape[-1]
    centred = x - (x / C).sum(axis=-1, keepdims=True)
    centred = centred - centred.sum(axis=-1, keepdims=True) / C  # the rounding error of the mean
    variance = (centred * centred).sum(axis=-1, keepdims=True) / C
    scale = 1.0 / xp.sqrt(variance + eps)
    n = centred * scale
    y = n * weight + bias

    def backward(dy):
        dn = dy * weight
        mean_dn = dn.sum(axis=-1, keepdims=True) / C  # through the mean
        mean_dn_n = (dn * n).sum(axis=-1, keepdims=True) / C  # through the variance
        dx = scale * (dn - mean_dn - n * mean_dn_n)
        return dx, rows(dy * n).sum(axis=0), rows(dy).sum(axis=0)

    return y, backward


@layer_norm.check
def _(x, weight, bias, *, eps=0.0):
    C = x.shape[-1:]
    if not weight.shape == bias.shape == C or C == (0,):
        raise ShapeError(f"layer_norm: weight {weight.shape}, bias {bias.shape}, wanted {C}, not empty")


@op
def rms_norm(xp, x, weight, *, eps: float = 1e-5):
    """Divide the last axis by its root mean square, then scale it: a layer_norm without mean and bias.

        n = x / sqrt(mean of x^2 + eps),   y = n * weight

    x : (..., C)   weight : (C)   returns (..., C)
    Raises ShapeError if weight is not (C).
    Source: Zhang and Sennrich, arXiv 1910.07467.
    """
    C = x.shape[-1]
    scale = 1.0 / xp.sqrt((x * x).sum(axis=-1, keepdims=True) / C + eps)
    n = x * scale
    y = n * weight

    def backward(dy):
        dn = dy * weight
        mean_dn_n = (dn * n).sum(axis=-1, keepdims=True) / C  # through the root mean square
        return scale * (dn - n * mean_dn_n), rows(dy * n).sum(axis=0)

    return y, backward


@rms_norm.check
def _(x, weight, *, eps=0.0):
    C = x.shape[-1:]
    if weight.shape != C or C in ((), (0,)):
        raise ShapeError(f"rms_norm: x {x.shape}, weight {weight.shape}, wanted (..., C) and (C), not empty")


@op
def embedding(xp, table, ids):
    """Look up rows.   y_i = table[ids_i]

    table : (V, C)   ids : (...) integers in 0 .. V-1; the caller checks this
    returns (..., C)
    """
    y = table[ids]

    def backward(dy):
        return scatter_add(xp, table.shape[0], ids, dy), None

    return y, backward


@op
def dropout(xp, x, bias=None, *, p: float, key: tuple[int, ...], first_token: int = 0):
    """Zero each entry of x + bias with probability p, and scale the others by 1 / (1 - p).

    x : (..., C)   bias : (C) or None
    key         : integers that determine the mask, so that a repeated step draws the same mask
    first_token : position of the first token (row of x) in the whole batch; a token then has the same mask
                  however the batch is split
    Raises ValueError unless 0 <= p < 1, ShapeError if the C differ.
    Source: Srivastava et al., JMLR 15 (2014).
    """
    mask = 1.0
    if p > 0.0:
        mask = keep_mask(xp, key, p, x.shape, first_token * x.shape[-1]).astype(x.dtype) * (1.0 / (1.0 - p))
    y = (x if bias is None else x + bias) * mask

    def backward(dy):
        dx = dy * mask
        return dx, None if bias is None else rows(dx).sum(axis=0)

    return y, backward


@dropout.check
def _(x, bias=None, *, p, **_which_mask):
    require_bias("dropout", x, bias)
    if not 0.0 <= p < 1.0:
        raise ValueError(f"dropout: p is {p}, wanted 0 <= p < 1")
