"""Checks of notebook 03: one code, two backends."""

import operator
import types
from typing import Any

import numpy as np

from minigam.course.judge import NotYet, exercise, expect, gradients, require
from minigam.engine import backend

# ------------------------------------------------- a device that refuses to meet host arrays


class DeviceArray:
    """Hides a NumPy array; has the methods of NumPy's; combines only with its own kind and numbers."""

    __hash__: Any = None

    def __init__(self, hidden: np.ndarray):
        self.hidden = hidden

    def get(self) -> np.ndarray:
        return self.hidden.copy()

    def __getattr__(self, name: str):
        if name.startswith("__"):
            raise AttributeError(name)
        return _lift(getattr(self.hidden, name))

    def __getitem__(self, index):
        return _lift(self.hidden[_lower(index)])

    def __setitem__(self, index, value):
        self.hidden[_lower(index)] = _lower(value)

    def __len__(self):
        return len(self.hidden)

    def __iter__(self):
        return map(_lift, self.hidden)

    def __array_ufunc__(self, function, method, *inputs, **kwargs):
        if any(isinstance(i, np.generic) for i in inputs):
            raise TypeError(
                "a NumPy scalar, which has a dtype, met a device array; take roots with math.sqrt"
            )
        raise TypeError(f"np.{function.__name__} met a device array; call functions of xp, on arrays of xp")

    def __array_function__(self, function, *args, **kwargs):
        raise TypeError(f"np.{function.__name__} met a device array; call xp.{function.__name__}")

    def __array__(self, *args, **kwargs):
        raise TypeError("a device array is not converted to a host array; keep it on the device")


def _lower(value):
    if isinstance(value, np.ndarray):
        raise TypeError(f"a host array {value.shape} met a device array; make it with xp")
    if isinstance(value, tuple | list):
        return type(value)(map(_lower, value))
    return value.hidden if isinstance(value, DeviceArray) else value


def _lift(value):
    if isinstance(value, np.ndarray | np.generic):
        return DeviceArray(np.asarray(value))
    if callable(value) and not isinstance(value, type):

        def lifted(*args, **kwargs):
            return _lift(value(*map(_lower, args), **{k: _lower(v) for k, v in kwargs.items()}))

        return lifted
    return value


def _operator(function, mirrored=False):
    def computed(a, b):
        return _lift(function(_lower(b), _lower(a)) if mirrored else function(_lower(a), _lower(b)))

    return computed


for _name in ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul", "and", "or", "xor"):
    _function = getattr(operator, f"__{_name}__")
    setattr(DeviceArray, f"__{_name}__", _operator(_function))
    setattr(DeviceArray, f"__r{_name}__", _operator(_function, mirrored=True))
for _name in ("lt", "le", "eq", "ne", "gt", "ge"):
    setattr(DeviceArray, f"__{_name}__", _operator(getattr(operator, f"__{_name}__")))
for _name in ("neg", "invert", "abs"):
    _function = getattr(operator, f"__{_name}__")
    setattr(DeviceArray, f"__{_name}__", lambda a, f=_function: _lift(f(a.hidden)))
for _kind in (float, int, bool, operator.index):
    setattr(DeviceArray, f"__{_kind.__name__}__", lambda a, kind=_kind: kind(a.hidden))


def _array(a, dtype=None, **_):
    return DeviceArray(np.array(_lower(a) if isinstance(a, DeviceArray | list | tuple) else a, dtype=dtype))


class _Library(types.ModuleType):
    """An array library, printed by its name: NumPy's functions, lifted for a device."""

    def __init__(self, name: str, on_device: bool, add_at: bool = True):
        super().__init__(name)
        self.on_device, self.add_at = on_device, add_at
        if on_device:
            self.array = self.asarray = self.ascontiguousarray = _array
        self.hold = _array if on_device else np.asarray

    def __repr__(self) -> str:
        return self.__name__

    def __getattr__(self, name: str):
        if name == "shape":
            raise AttributeError("an array has a shape, x.shape; a library has none")
        found = getattr(np, name)
        if name == "add":
            return _Add(found, self)
        return _lift(found) if self.on_device else found


class _Add:
    """The function add of a library, with or without add.at."""

    def __init__(self, add, library: _Library):
        self.add, self.library = add, library

    def __call__(self, *args, **kwargs):
        return (_lift(self.add) if self.library.on_device else self.add)(*args, **kwargs)

    def at(self, *args):
        if not self.library.add_at:
            raise TypeError("add.at is not available in this exercise; use a matrix product")
        (_lift(self.add.at) if self.library.on_device else self.add.at)(*args)


host, device = _Library("numpy", False), _Library("a_device", True)
LIBRARIES = (host, device)
WITHOUT_ADD_AT = (_Library("numpy", False, False), _Library("a_device", True, False))


def _device_is_known() -> None:
    backend.register(DeviceArray, device)


def _call(backward, dy, where: str):
    """Call a backward function that an answer returned; if it fails, the message says where."""
    try:
        got = backward(dy)
    except Exception as e:  # whatever a learner's code may raise
        raise NotYet(f"{where}: backward raised {type(e).__name__}: {e}") from e
    one = isinstance(got, tuple) and len(got) == 1
    require(one, f"{where}: backward returned {type(got).__name__}, wanted a tuple of one gradient: (dx,)")
    return got[0]


def _here(got, xp, where: str) -> None:
    """Require an array of this library."""
    is_device = isinstance(got, DeviceArray)
    if xp.on_device:
        require(is_device, f"{where}: the result is a {type(got).__name__}, wanted an array on the device")
    else:
        require(not is_device, f"{where}: the inputs are host arrays, but the result is a device array")


# ------------------------------------------------------------------------------ exercises


@exercise
def ex_03_1(library_of):
    """The library that owns a pair."""
    _device_is_known()
    ours, there = np.ones((2, 3)), _array(np.ones(3))
    for a, b, want, what in (
        (ours, ours, np, "two NumPy arrays"),
        (there, there, device, "two device arrays"),
        (ours, 2.0, np, "a NumPy array and a number"),
        (2.0, there, device, "a number and a device array"),
        (there, 2.0, device, "a device array and a number"),
        (None, there, device, "None and a device array"),
        (there, None, device, "a device array and None"),
        (2.0, None, np, "a number and None"),
    ):
        got = library_of(a, b)
        named, is_library = getattr(got, "__name__", repr(got)[:40]), isinstance(got, types.ModuleType)
        require(is_library, f"{what}: got {named}, wanted the library itself, a module")
        why = "; a number has no owner, so look at both arguments" if want is device else ""
        require(got is want, f"{what}: got {named}, wanted {want.__name__}{why}")
    for a, b in ((ours, there), (there, ours)):
        try:
            got = library_of(a, b)
        except NotYet as e:
            cause = type(e.__cause__)
            ok = issubclass(cause, TypeError)
            require(ok, f"two libraries meet: raised {cause.__name__}, wanted TypeError")
        else:
            named = getattr(got, "__name__", repr(got)[:40])
            raise NotYet(f"two libraries meet: got {named}, wanted a TypeError")
    return "arrays of two libraries, numbers, None, and two libraries refused"


def _from_the_end(z):
    return np.cumsum(z[:, ::-1], axis=1)[:, ::-1]


def _running_sum(x):
    T, C = x.shape[1:]
    return np.cumsum(x, axis=1) / np.sqrt(C * np.arange(1, T + 1))[:, None]


@exercise
def ex_03_2(running_sum):
    """The scaled running sum on any library, in any precision."""
    _device_is_known()
    rng = np.random.default_rng(32)
    for shape in ((2, 5, 3), (1, 1, 4), (3, 4, 1)):
        x, dy = rng.standard_normal(shape), rng.standard_normal(shape)
        T, C = shape[1:]
        t = np.arange(T)[:, None]
        sums = np.cumsum(x, axis=1)
        scale = 1.0 / np.sqrt(C * (t + 1))
        for xp in LIBRARIES:
            where = f"{xp}, x {shape}"
            returned = running_sum(xp, xp.hold(x))
            require(
                isinstance(returned, tuple | list) and len(returned) == 2 and callable(returned[1]),
                f"{where}: return y and backward, an array and a function",
            )
            y, backward = returned
            _here(y, xp, where)
            expect(
                y,
                _running_sum(x),
                where,
                {
                    "the sums are not scaled": sums,
                    "divided by sqrt(t + 1); C is part of the scale, too": sums / np.sqrt(t + 1),
                    "divided by C (t + 1), without the square root": sums / (C * (t + 1)),
                    "summed over the channels; wanted the sum over the tokens, axis 1": np.cumsum(x, axis=2)
                    * scale,
                },
            )
            dx = _call(backward, xp.hold(dy), where)
            _here(dx, xp, f"{where}, dx")
            gradients(
                backend.to_numpy(dx), _running_sum, (x,), dy, "x", where,
                {"x": {
                    "backward sums from the first token on; token i is in every sum with t >= i": (
                        np.cumsum(dy * scale, axis=1)
                    ),
                    "the scale is missing in backward": _from_the_end(dy),
                    "backward scales after the sum; each term has its own scale": _from_the_end(dy) * scale,
                }},
            )  # fmt: skip
    for xp in LIBRARIES:
        x = rng.standard_normal((2, 5, 3)).astype(np.float32)
        y, backward = running_sum(xp, xp.hold(x))
        where = f"{xp}, float32"
        for what, got in (("y", y), ("dx", _call(backward, xp.hold(x), where))):
            require(
                got.dtype == np.float32,
                f"{where}: {what} is {got.dtype}; an array made without dtype=x.dtype, or a root taken with "
                "np.sqrt, turns float32 into float64",
            )
    return "NumPy and a device, values and gradient, one token, one channel, float32 kept"


def _scattered(n_rows: int, ids, values):
    total = np.zeros((n_rows, values.shape[-1]), dtype=values.dtype)
    np.add.at(total, ids.reshape(-1), values.reshape(-1, values.shape[-1]))
    return total


@exercise
def ex_03_3(scatter_rows):
    """Rows added at repeated places."""
    _device_is_known()
    rng = np.random.default_rng(33)
    for n_rows, shape, C, below in ((5, (9,), 3, 4), (4, (2, 6), 2, 4), (1, (3,), 2, 1), (6, (1,), 3, 6)):
        ids = rng.integers(below, size=shape)
        if n_rows == 5:
            ids[:4] = (0, 2, 2, 2)  # some row comes more than twice
        values = rng.standard_normal((*shape, C))
        want = _scattered(n_rows, ids, values)
        flat, rows = ids.reshape(-1), values.reshape(-1, C)
        last, count = np.zeros_like(want), np.bincount(flat, minlength=n_rows)[:, None]
        for i, row in zip(flat, rows, strict=True):
            last[i] = row
        for xp in WITHOUT_ADD_AT:
            where = f"{xp}, {n_rows} rows, ids {shape}, values {values.shape}"
            got = scatter_rows(xp, n_rows, xp.hold(ids), xp.hold(values))
            _here(got, xp, where)
            expect(
                got,
                want,
                where,
                {
                    "an id that repeats got only its last value: total[ids] += writes each row once": last,
                    "this is the result transposed; wanted (n_rows, C)": want.T,
                    "this counts the ids; the values are missing": count + 0.0 * want,
                    "rows after the largest id are missing; a row without an id is zero": (
                        want[: flat.max() + 1]
                    ),
                },
            )
    single = scatter_rows(WITHOUT_ADD_AT[0], 3, np.array([0, 2, 2]), np.ones((3, 2), dtype=np.float32))
    require(
        np.dtype(single.dtype) == np.float32,
        f"float32 values gave {single.dtype}; make every array with dtype=values.dtype",
    )
    return "NumPy and a device, repeated ids, rows without one, one row, ids of two axes, float32 kept"


class FakeDevice:
    """A device with a clock, whose time passes only through work and waiting.

    durations : seconds of each call's work, in their order
    pending   : seconds of earlier work that is still in the queue
    """

    LAUNCH, READ = 1e-3, 1e-9  # seconds for a launch, and for reading the clock

    def __init__(self, durations: list[float], pending: float = 0.0):
        self.now, self.free, self.durations = 100.0, 100.0 + pending, durations
        self.calls, self.reads = 0, 0

    def work(self):
        self.now += self.LAUNCH
        duration = self.durations[self.calls] if self.calls < len(self.durations) else 1.0
        self.free = max(self.free, self.now) + duration
        self.calls += 1
        return self  # what a matrix product would return

    def synchronize(self) -> None:
        self.now = max(self.now, self.free)

    def clock(self) -> float:
        self.now += self.READ
        self.reads += 1
        return self.now


@exercise
def ex_03_4(measure):
    """A timer that warms up, waits and takes the median."""
    launch = FakeDevice.LAUNCH
    for times, warmup, pending in (
        ([9.0, 9.0, 0.2, 0.3, 5.0, 0.1, 0.4], 2, 0.0),
        ([0.5], 0, 7.0),  # work from before must not count
        ([9.0, 0.25], 1, 0.0),
        ([0.2, 0.6, 3.0], 0, 0.0),
        ([0.2, 5.0, 0.4, 0.8], 0, 0.0),  # an even number of repeats
    ):
        on = FakeDevice(times, pending)
        measured = times[warmup:]
        where = f"warmup {warmup}, repeats {len(measured)}"
        got = measure(on.work, on.synchronize, on.clock, warmup, len(measured))
        require(on.reads > 0, f"{where}: the clock that was passed was never read; call clock()")
        counted = f"work() was called {on.calls} times, wanted {len(times)}, warmup + repeats"
        require(on.calls == len(times), f"{where}: {counted}")
        middle = float(np.median(measured))
        expect(
            got,
            middle + launch,
            where,
            {
                "this is the time of the launch; synchronise before you read the clock again": launch,
                "this is in milliseconds; clock() gives seconds, return seconds": 1e3 * (middle + launch),
                "this is the mean; one slow run moves it, the median does not": np.mean(measured) + launch,
                "this is the shortest of the times; wanted the median": min(measured) + launch,
                "for an even number of times the median is the mean of the two in the middle": (
                    sorted(measured)[len(measured) // 2] + launch
                ),
                "for an even number of times the median is the mean of both in the middle": (
                    sorted(measured)[(len(measured) - 1) // 2] + launch
                ),
                "the times of the warm-up are in it; leave them out": np.median(times) + launch,
                "this includes earlier work: synchronise before you read the clock first, too": (
                    _not_waited(times, warmup, pending)
                ),
            },
        )
    return "a simulated device: slow first calls, work still in the queue, a slow run, an even number of runs"


def _not_waited(times: list[float], warmup: int, pending: float) -> float:
    """Return what is measured without a wait before the clock is first read."""
    on, measured = FakeDevice(times, pending), []
    for _ in range(warmup):
        on.work()
    for _ in times[warmup:]:
        start = on.clock()
        on.work()
        on.synchronize()
        measured.append(on.clock() - start)
    return float(np.median(measured))
