"""Checks of notebook 02: is my gradient right?"""

import numpy as np

from minigam.course.judge import NotYet, exercise, expect, gradients, numbers, require
from minigam.engine.ops import softmax
from minigam.engine.tensor import Tensor

LARGE = 1e8  # next to a derivative of 1, a subtraction loses half of the digits


class _Named:
    """A function with a name to print. With `shape` it accepts only arrays of that shape."""

    def __init__(self, name: str, function, shape: tuple | None = None):
        self.name, self.function, self.takes = name, function, shape

    def __repr__(self) -> str:
        return self.name

    def __call__(self, z):
        if self.takes is not None and np.shape(z) != self.takes:
            raise NotYet(f"f was called with shape {np.shape(z)}, wanted x's own shape {self.takes}")
        return self.function(z)


# --------------------------------------------------------------------------- differences

CURVES = (
    (_Named("exp", np.exp), 0.7, 0.1),
    (_Named("cube", lambda z: z * z * z), -1.2, 0.5),
    (_Named("inverse", lambda z: 1.0 / z), 2.0, 1e-3),
)


@exercise
def ex_02_1(central):
    """The central difference of a function of one number."""
    for f, x, h in CURVES:
        above, here, below = f(x + h), f(x), f(x - h)
        expect(
            central(f, x, h),
            (above - below) / (2 * h),
            f"f {f}, x {x}, h {h}",
            {
                "this is the one-sided difference to x + h; step to x - h as well": (above - here) / h,
                "this is the one-sided difference to x - h; step to x + h as well": (here - below) / h,
                "twice too large: x - h and x + h are 2 h apart": (above - below) / h,
                "a factor h * h is wrong: / 2 * h multiplies by h, write / (2 * h)": (above - below) / 2 * h,
                "the sign is wrong: f(x + h) comes first": (below - above) / (2 * h),
                "brackets are missing: the whole difference is divided, not f(x - h) alone": (
                    above - below / (2 * h)
                ),
                "the two values are added; wanted their difference": (above + below) / (2 * h),
                "these are steps of h / 2; step by h to both sides": (f(x + h / 2) - f(x - h / 2)) / h,
                "the points are h apart, but this divides by 2 h; step by h to both sides": (
                    (f(x + h / 2) - f(x - h / 2)) / (2 * h)
                ),
                "h is not used: this is the slope with a far smaller step": (
                    (f(x + 1e-5) - f(x - 1e-5)) / 2e-5
                ),
            },
        )
    central(_square32, np.float32(0.75), np.float32(0.125))
    return "three functions, three steps, float32 kept"


def _square32(z):
    require(
        np.asarray(z).dtype == np.float32,
        f"x and h are float32, but f was called with {np.asarray(z).dtype}: do not convert x or h",
    )
    return z * z


@exercise
def ex_02_2(complex_step):
    """The derivative from the imaginary part at x + ih."""
    sine = _Named("exp(sin)", lambda z: np.exp(np.sin(z)))
    for f, x, want in (
        (sine, 0.75, np.cos(0.75) * np.exp(np.sin(0.75))),
        (CURVES[1][0], -1.2, 3 * 1.2**2),
        (_Named("1e8 + sin", lambda z: LARGE + np.sin(z)), 1.0, np.cos(1.0)),
        (_Named("constant", lambda z: 2.0 + 0.0 * z), 1.0, 0.0),
    ):
        got, where = complex_step(f, x), f"f {f}, x {x}, h as it is by default"
        if str(f).startswith("1e8"):
            where += " (near 1e8 a difference of two values loses its digits; the imaginary part does not)"
        require(
            not np.iscomplexobj(got) or np.ndim(got) > 0 or abs(np.real(got) - want) > 1e-6,
            f"{where}: this is a complex number with the derivative in its real part: divided by 1j * h, the "
            "two parts are exchanged; divide by h, and take .imag",
        )
        require(
            not np.iscomplexobj(got),
            f"{where}: this is a complex number; wanted the real number in its imaginary part, .imag",
        )
        require(
            want == 0 or np.ndim(got) > 0 or got != 0,
            f"{where}: got 0, x + h is rounded to x; step to x + 1j * h",
        )
        expect(
            got,
            want,
            where,
            {
                "this is f(x): the real part; the derivative is in the imaginary part": f(x),
                "this is f(x) / h, from the real part; the derivative is in the imaginary part": f(x) / 1e-20,
                "the imaginary part is h times the derivative: divide it by h": 1e-20 * want,
                "the step is 1j here; wanted 1j * h": f(x + 1j).imag / 1e-20,
                "twice too small: there is one call and one step, so divide by h": want / 2,
            },
        )
    got = complex_step(sine, 0.75, 0.5)
    want = sine(0.75 + 0.5j).imag / 0.5
    expect(
        got, want, "a step of 0.5", {"h is not used: the step was 0.5, not 1e-20": sine(0.75) * np.cos(0.75)}
    )
    return "four functions, one of them near 1e8, a large step"


def _moved(f, x: np.ndarray, h: float, how: str) -> np.ndarray:
    """Return central differences of f; how: entries are moved "alone", or one mistake is made."""
    g, above, below = np.empty(x.shape), x.copy(), x.copy()
    for j in np.ndindex(x.shape):
        if how == "alone":
            above, below = x.copy(), x.copy()
        above[j] += h
        below[j] -= h
        g[j] = (f(above) - f(below)) / (2 * h)
        if how == "left below":
            above = below.copy()
    return g


def _moved_rows(f, x: np.ndarray, h: float) -> np.ndarray:
    """Return the result of moving x[j] for j in range(len(x)): a whole row at once."""
    g = np.empty(x.shape)
    for j in range(len(x)):
        above, below = x.copy(), x.copy()
        above[j] += h
        below[j] -= h
        g[j] = (f(above) - f(below)) / (2 * h)
    return g


@exercise
def ex_02_3(numeric_gradient):
    """Central differences for every entry of an array."""
    rng = np.random.default_rng(23)
    for shape in ((4,), (2, 3), (), (2, 1, 3), (1, 1)):
        x, weight, h = np.asarray(rng.standard_normal(shape)), rng.standard_normal(shape), 0.5
        f = _Named("f", lambda z, w=weight: float((w * z**3).sum() + z.sum() ** 2), shape)
        want = np.zeros(shape) + _moved(f, x, h, "alone")
        one_sided = np.zeros(shape)
        for j in np.ndindex(shape):
            above = x.copy()
            above[j] += h
            one_sided[j] = (f(above) - f(x)) / h
        got = numeric_gradient(f, x, h)
        expect(
            got,
            want,
            f"x of shape {shape}, h {h}",
            {
                "an entry is still moved when the next one is; put it back first": _moved(
                    f, x, h, "together"
                ),
                "an entry stays at x - h when the next one is moved; put it back first": (
                    _moved(f, x, h, "left below")
                ),
                "a whole row moves at once; an entry has an index for each axis, see np.ndindex(x.shape)": (
                    _moved_rows(f, x, h) if shape else want
                ),
                "all entries are moved at once; move one at a time": np.full(
                    shape, (f(x + h) - f(x - h)) / (2 * h)
                ),
                "these are one-sided differences; step to both sides of each entry": one_sided,
                "twice too large: the two points are 2 h apart": 2.0 * want,
                "a factor h * h is wrong: / 2 * h multiplies by h, write / (2 * h)": want * h * h,
                "the numbers are right, their shape is not: wanted that of x": want.reshape(-1),
                "this is the sum of all entries; wanted one number an entry": want.sum(),
            },
        )
    x = rng.standard_normal((3, 2))
    sines = _Named("sum of sines", lambda z: float(np.sin(z).sum()), (3, 2))
    expect(numeric_gradient(sines, x), np.cos(x), "the step as it is by default")
    return "five shapes, among them no axes and one entry; x unchanged"


# ----------------------------------------------------------------------------- the checker


def _rule(name: str, function, backward):
    """Return a rule x -> (y, backward) whose gradient is `backward(dy, x)`."""
    return _Named(name, lambda x: (function(x), lambda dy: backward(dy, x)))


def _softmax(x):
    return softmax.rule(np, x)[0]


def _softmax_back(dy, x):
    return softmax.rule(np, x)[1](dy)[0]


def _but_last(good):
    """Return a backward that is wrong in the last entry alone."""

    def backward(dy, x):
        g = good(dy, x).copy()
        g[(-1,) * g.ndim] += 5e-6 * np.abs(g).max()  # too small to show in a mean
        return g

    return backward


@exercise
def ex_02_4(is_right):
    """The checker with the loss <c, f>: right rules pass, wrong ones do not."""
    rng = np.random.default_rng(24)
    x, A = rng.standard_normal((3, 4)), rng.standard_normal((4, 4))
    wide = np.geomspace(1e-9, 1e3, 9)
    rights = (
        ("softmax", x, _softmax, _softmax_back,
         "draw c once; the same c multiplies the outputs and is given to backward"),
        ("squares", x, np.square, lambda dy, z: 2 * z * dy, ""),
        ("x @ A", x, lambda z: z @ A, lambda dy, z: dy @ A.T, ""),
        ("x @ A[:, :2]", x, lambda z: z @ A[:, :2], lambda dy, z: dy @ A[:, :2].T, "c has the shape of y"),
        ("softmax of one entry", x[:, :1], _softmax, _softmax_back,
         "its gradient is 0, and so is the largest entry: do not divide by it"),
        ("squares, 1e-9 to 1e3", wide, np.square, lambda dy, z: 2 * z * dy,
         "its small entries are all noise: allow an error of rtol times the largest entry, in every entry"),
        ("1e6 times squares", x, lambda z: 1e6 * np.square(z), lambda dy, z: 2e6 * z * dy,
         "its gradient is large, and so is its noise: measure against the largest entry"),
        ("sin^2 + cos^2", x, lambda z: np.sin(z) ** 2 + np.cos(z) ** 2, lambda dy, z: 0.0 * z,
         "its gradient is 0, and the numeric one is nothing but rounding: allow atol as well"),
    )  # fmt: skip
    for name, at, f, back, why in rights:
        require(
            _verdict(is_right, _rule(name, f, back), at),
            f"{name}: a right rule was refused{'; ' * bool(why)}{why}",
        )
    wrongs = (
        ("softmax, zeros", x, _softmax, lambda dy, z: 0.0 * z,
         "multiply the outputs by random c: a plain sum, like any c of equal entries, has gradient zero"),
        ("softmax, 0.1 % too large", x, _softmax, lambda dy, z: 1.001 * _softmax_back(dy, z),
         "allow a millionth of the largest entry, not a hundredth"),
        ("softmax times 1e-4, 0.1 % too large", x, lambda z: 1e-4 * _softmax(z),
         lambda dy, z: 1.001e-4 * _softmax_back(dy, z),
         "with a small gradient a fixed tolerance allows too much: measure against the largest entry"),
        ("squares, 0.01 too small", x, np.square, lambda dy, z: 2 * z * dy - 0.01,
         "take the size of the error, np.abs: a negative error is an error"),
        ("squares, 0.01 too large", x, np.square, lambda dy, z: 2 * z * dy + 0.01,
         "take the size of the error, np.abs: a negative error is an error"),
        ("softmax, its sum forgotten", x, _softmax, lambda dy, z: _softmax(z) * dy,
         "is its gradient compared with the numeric one at all?"),
        ("x @ A, A for its transpose", x, lambda z: z @ A, lambda dy, z: dy @ A,
         "is its gradient compared with the numeric one at all?"),
        ("squares, wrong in the last entry", x, np.square, _but_last(lambda dy, z: 2 * z * dy),
         "look at the largest error of all entries, not at the first or at their mean"),
        ("squares, the wrong sign", x, np.square, lambda dy, z: -2 * z * dy,
         "compare the gradients, not their absolute values"),
        ("squares, all nan", x, np.square, lambda dy, z: np.full(z.shape, np.nan),
         "nan > anything is False: return whether the error IS small"),
        ("squares, one axis too many", x, np.square, lambda dy, z: (2 * z * dy)[None],
         "its gradient has shape (1, 3, 4) for an x of (3, 4): compare the shapes first"),
    )  # fmt: skip
    for name, at, f, back, why in wrongs:
        require(
            not _verdict(is_right, _rule(name, f, back), at),
            f"{name}: this wrong rule passed{'; ' * bool(why)}{why}",
        )
    return f"{len(rights)} right rules pass, {len(wrongs)} wrong ones are caught"


def _verdict(is_right, rule: _Named, x: np.ndarray) -> bool:
    try:
        with np.errstate(divide="ignore", invalid="ignore"):
            got = is_right(rule, x)
    except NotYet as e:
        if isinstance(e.__cause__, AssertionError):
            raise NotYet(f"{rule}: raised AssertionError, wanted True or False returned") from e
        raise
    if not isinstance(got, bool | np.bool_):
        raise NotYet(f"{rule}: got {type(got).__name__}, wanted True or False")
    return bool(got)


# ---------------------------------------------------------------------------- the softmax


def _array(got, where: str):
    """Return the gradient. Raises NotYet for a tuple or a Tensor, which later cells cannot use."""
    require(not isinstance(got, tuple), f"{where}: got a tuple; return dx alone, as an array")
    require(not isinstance(got, Tensor), f"{where}: got a Tensor; return its array, .data")
    return got


@exercise
def ex_02_5(softmax_backward):
    """The gradient of the softmax over the last axis."""
    rng = np.random.default_rng(25)
    for shape in ((4, 3), (2, 3, 5), (6,), (3, 1)):
        x, dy = rng.standard_normal(shape), rng.standard_normal(shape)
        y = _softmax(x)
        own, shared = y * dy, y * (dy * y).sum(axis=-1, keepdims=True)
        mistakes = {
            "this is y * dy, the term through e_j alone; the term through Z is missing": own,
            "this is the term through Z alone; x_j also changes its own e_j": -shared,
            "the term through Z has the wrong sign: a larger Z makes every y smaller": own + shared,
            "this is dy * y * (1 - y), the diagonal of the Jacobian; x_j changes the other y_i too": dy
            * y
            * (1 - y),
            "the sum over the row is of dy * y; here it is of dy": (
                y * (dy - dy.sum(axis=-1, keepdims=True))
            ),
            "the sum runs over everything; each row of the last axis has its own": y * (dy - (dy * y).sum()),
            "this is a mean of dy * y over the row; wanted the sum": own - shared / shape[-1],
            "these are the values of the softmax; wanted their gradient": y,
            "dy and x are exchanged; dy comes first": _softmax_back(x, dy),
            "y_j multiplies the sum as well; here it multiplies dy_j alone": (
                own - (dy * y).sum(axis=-1, keepdims=True)
            ),
            "x is used where the softmax of x belongs": x * (dy - (dy * x).sum(axis=-1, keepdims=True)),
            "this softmax runs over everything; each row of the last axis has its own": (
                _softmax_back(dy.reshape(-1), x.reshape(-1)).reshape(shape)
            ),
        }
        for e, how in ((np.exp(x), ""), (np.exp(x - x.max(axis=-1, keepdims=True)), " (e of the shifted x)")):
            mistakes[f"this is de; the derivative of exp is missing: multiply by e{how}"] = (own - shared) / e
            mistakes[f"dZ contains e_i / Z ** 2; here it is e_i / Z{how}"] = own - e * (dy * y).sum(
                axis=-1, keepdims=True
            )
        if len(shape) > 1:
            mistakes["the sum runs over another axis; wanted the last one"] = (
                y * (dy - (dy * y).sum(axis=-2, keepdims=True))
            )  # fmt: skip
            mistakes["this is the softmax over another axis; wanted the last one"] = _softmax_back(
                dy.swapaxes(-1, -2), x.swapaxes(-1, -2)
            ).swapaxes(-1, -2)
        got = _array(softmax_backward(dy, x), f"x of shape {shape}")
        gradients((got,), _softmax, (x,), dy, "x", f"x of shape {shape}", {"x": mistakes})
    large, dy = np.array([[1e4, 1e4 - 1.0], [-1e4, -1e4]]), rng.standard_normal((2, 2))
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        got = numbers(softmax_backward(dy, large), "entries of 10,000")
    require(
        bool(np.isfinite(got).all()),
        "entries of 10,000 give nan: subtract the largest entry of each row before np.exp",
    )
    expect(got, _softmax_back(dy, large), "entries of 10,000")
    return "finite differences, several axes, rows of one entry, entries of 10,000"
