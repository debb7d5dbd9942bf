"""A pretend GPU: its arrays refuse to be mixed with NumPy's, as CuPy's do.

A rule that would fail on a GPU therefore fails on any laptop. A `DeviceArray` wraps a NumPy array;
only the names in FUNCTIONS and METHODS exist on this device. They are also the library calls that
a rule may use: add a name when a rule needs it and CuPy has it. The pretend GPU is stricter than
CuPy in one way: it refuses NumPy's own functions, some of which CuPy accepts.
"""

import numbers
import operator
import types

import numpy as np

FUNCTIONS = (
    "abs", "arange", "ascontiguousarray", "concatenate", "copysign", "cumsum", "exp", "isfinite", "log",
    "log1p", "maximum", "minimum", "ones", "ones_like", "rint", "sqrt", "stack", "tanh", "tril", "vdot",
    "where", "zeros", "zeros_like",
)  # fmt: skip
METHODS = (
    "all", "any", "argmax", "astype", "copy", "max", "min", "reshape", "sum", "swapaxes", "take", "transpose",
    "view",
)  # fmt: skip
PROPERTIES = ("dtype", "flags", "nbytes", "ndim", "shape", "size")


class DeviceArray:
    """An array on the pretend device; `.get()` is the only way back to the host."""

    __slots__ = ("__weakref__", "_host")
    __hash__ = None

    def __init__(self, host):
        self._host = np.asarray(host)

    def get(self) -> np.ndarray:
        return self._host.copy()

    def item(self):
        return self._host.item()

    @property
    def T(self):
        return DeviceArray(self._host.T)

    @property
    def base(self):
        """The array that this one is a view of, None if it owns its numbers."""
        return self._host.base

    @property
    def data(self):
        """The address of the numbers, in the form that CuPy's arrays give it."""
        return types.SimpleNamespace(ptr=self._host.ctypes.data)

    def __repr__(self):
        return f"DeviceArray({self._host})"

    def __len__(self):
        return len(self._host)

    def __iter__(self):
        return map(DeviceArray, self._host)

    def __getitem__(self, index):
        return DeviceArray(self._host[_lower(index, "an index")])

    def __setitem__(self, index, value):
        self._host[_lower(index, "an index")] = _lower(value, "a value")

    def __array__(self, *args, **kwargs):
        raise TypeError("a device array is not converted to a host array implicitly; use .get()")

    def __array_ufunc__(self, ufunc, method, *inputs, **kwargs):
        raise TypeError(f"np.{ufunc.__name__} met a device array; keep host arrays off it, call xp.*")

    def __array_function__(self, function, kinds, args, kwargs):
        raise TypeError(f"np.{function.__name__} met a device array; call xp.{function.__name__}")


def _lower(value, where: str):
    """Return the wrapped array or the value itself; refuse host arrays, also inside lists and tuples."""
    if isinstance(value, DeviceArray):
        return value._host
    if isinstance(value, np.ndarray):
        raise TypeError(f"fakegpu: {where} is a host array {value.shape}")
    if isinstance(value, list | tuple):
        return type(value)(_lower(v, where) for v in value)
    return value


def _on_device(function, where: str):
    def call(*args, **kwargs):
        args = [_lower(a, f"an argument of {where}") for a in args]
        kwargs = {k: _lower(v, f"{k} of {where}") for k, v in kwargs.items()}
        return DeviceArray(function(*args, **kwargs))

    return call


def _operator(function, where: str, *, reflected=False, in_place=False):
    def call(self, *other):
        if other and not isinstance(other[0], DeviceArray | np.ndarray | np.generic | numbers.Number):
            return NotImplemented  # a Tensor, for example, handles the operation
        other = [_lower(o, f"an operand of {where}") for o in other]
        result = function(*other, self._host) if reflected else function(self._host, *other)
        return self if in_place else DeviceArray(result)

    return call


for _name in PROPERTIES:
    setattr(DeviceArray, _name, property(operator.attrgetter(f"_host.{_name}")))
for _name in METHODS:
    setattr(DeviceArray, _name, _on_device(getattr(np.ndarray, _name), _name))
for _name in ("add", "sub", "mul", "truediv", "pow", "matmul", "and", "or", "xor", "rshift"):
    _function = getattr(operator, f"__{_name}__")
    setattr(DeviceArray, f"__{_name}__", _operator(_function, _name))
    setattr(DeviceArray, f"__r{_name}__", _operator(_function, _name, reflected=True))
    _function = getattr(operator, f"__i{_name}__")
    setattr(DeviceArray, f"__i{_name}__", _operator(_function, _name, in_place=True))
for _name in ("lt", "le", "eq", "ne", "gt", "ge", "neg", "invert"):
    setattr(DeviceArray, f"__{_name}__", _operator(getattr(operator, f"__{_name}__"), _name))
for _type in (float, int, bool):
    setattr(DeviceArray, f"__{_type.__name__}__", lambda self, type=_type: type(self._host))

xp = types.ModuleType("fakegpu")  # the library, as rules see it
xp.ndarray = DeviceArray
for _name in FUNCTIONS:
    setattr(xp, _name, _on_device(getattr(np, _name), _name))
xp.add = types.SimpleNamespace(at=_on_device(np.add.at, "add.at"))


def _array(a, dtype=None) -> DeviceArray:
    """Copy a host array, a list or a device array to the device."""
    return DeviceArray(np.array(a._host if isinstance(a, DeviceArray) else a, dtype=dtype))


def _asarray(a, dtype=None) -> DeviceArray:
    """The same, without copying an array that is on the device already."""
    return a if isinstance(a, DeviceArray) and dtype in (None, a.dtype) else _array(a, dtype)


def _empty(shape, dtype) -> DeviceArray:
    """An array of nan, or of the smallest integer, so that entries a rule forgets to write show."""
    dtype = np.dtype(dtype)
    return DeviceArray(np.full(shape, np.nan if dtype.kind == "f" else np.iinfo(dtype).min, dtype))


xp.array, xp.asarray, xp.empty = _array, _asarray, _empty
