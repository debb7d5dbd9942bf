"""Wrong answers to the exercises of notebook 03."""

import math
import statistics
import time

import numpy as np

from answers import wrong
from minigam import backend
from minigam.engine import numeric


@wrong("03_1", says="a number and a device array: got numpy")
def first_only(a, b):
    return backend.owner(a) or np


@wrong("03_1", says="two libraries meet: got a_device, wanted a TypeError")
def takes_the_device(a, b):
    found = {backend.owner(a), backend.owner(b)} - {None, np}
    return found.pop() if found else np


@wrong("03_1", says="raised ValueError, wanted TypeError")
def another_error(a, b):
    found = {backend.owner(a), backend.owner(b)} - {None}
    if len(found) > 1:
        raise ValueError("two")
    return found.pop() if found else np


@wrong("03_1", says="wanted the library itself")
def a_name(a, b):
    return backend.xp_of(a, b).__name__


def scaled(xp, x, *, root=True, by_C=True, forwards=False, back_scale=True, dtype=True, wrapped=True):
    T, C = x.shape[1:]
    count = xp.arange(1, T + 1, dtype=x.dtype if dtype else None)[:, None] * (C if by_C else 1)
    scale = 1.0 / (xp.sqrt(count) if root else count)

    def backward(dy):
        g = dy * scale if back_scale else dy
        dx = xp.cumsum(g, axis=1) if forwards else xp.cumsum(g[:, ::-1], axis=1)[:, ::-1]
        return (dx,) if wrapped else dx

    return xp.cumsum(x, axis=1) * scale, backward


@wrong("03_2", says="np.cumsum met a device array; call xp.cumsum")
def of_a_laptop(xp, x):
    T, C = x.shape[1:]
    scale = 1.0 / np.sqrt(C * np.arange(1, T + 1))[:, None]
    y = np.cumsum(x, axis=1) * scale
    return y, lambda dy: (np.cumsum((dy * scale)[:, ::-1], axis=1)[:, ::-1],)


@wrong("03_2", says="a host array (5, 1) met a device array")
def half_way(xp, x):
    T, C = x.shape[1:]
    scale = 1.0 / np.sqrt(C * np.arange(1, T + 1))[:, None]
    y = xp.cumsum(x, axis=1) * scale
    return y, lambda dy: (xp.cumsum((dy * scale)[:, ::-1], axis=1)[:, ::-1],)


@wrong("03_2", says="y is float64; an array made without dtype")
def without_dtype(xp, x):
    return scaled(xp, x, dtype=False)


@wrong("03_2", says="take roots with math.sqrt")
def a_root_of_numpy(xp, x):
    T, C = x.shape[1:]
    scale = 1.0 / (np.sqrt(C) * xp.sqrt(xp.arange(1, T + 1, dtype=x.dtype)))[:, None]
    return xp.cumsum(x, axis=1) * scale, lambda dy: (xp.cumsum((dy * scale)[:, ::-1], axis=1)[:, ::-1],)


@wrong("03_2", says="C is part of the scale, too")
def no_channels(xp, x):
    return scaled(xp, x, by_C=False)


@wrong("03_2", says="backward sums from the first token on")
def forwards(xp, x):
    return scaled(xp, x, forwards=True)


@wrong("03_2", says="the scale is missing in backward")
def unscaled_back(xp, x):
    return scaled(xp, x, back_scale=False)


@wrong("03_2", says="wanted a tuple")
def no_tuple(xp, x):
    return scaled(xp, x, wrapped=False)


@wrong("03_2", says="return y and backward, an array and a function")
def no_backward(xp, x):
    return scaled(xp, x)[0]


@wrong("03_3", says="got only its last value")
def written_once(xp, n_rows, ids, values):
    total = xp.zeros((n_rows, values.shape[-1]), dtype=values.dtype)
    total[ids.reshape(-1)] += values.reshape(-1, values.shape[-1])
    return total


@wrong("03_3", says="add.at is not available")
def with_add_at(xp, n_rows, ids, values):
    return numeric.scatter_add(xp, n_rows, ids, values)


@wrong("03_3", says="float32 values gave float64")
def in_double(xp, n_rows, ids, values):
    hits = xp.arange(n_rows)[:, None] == ids.reshape(-1)
    return hits.astype(np.float64) @ values.reshape(-1, values.shape[-1])


@wrong("03_3", says="transposed")
def turned(xp, n_rows, ids, values):
    hits = xp.arange(n_rows)[:, None] == ids.reshape(-1)
    return (hits.astype(values.dtype) @ values.reshape(-1, values.shape[-1])).T


@wrong("03_3", says="met a device array")
def host_ids(xp, n_rows, ids, values):
    hits = np.arange(n_rows)[:, None] == ids.reshape(-1)
    return hits.astype(values.dtype) @ values.reshape(-1, values.shape[-1])


def timed(
    work,
    synchronize,
    clock,
    warmup,
    repeats,
    *,
    before=True,
    after=True,
    of=statistics.median,
    all_runs=False,
):
    times = []
    for i in range(warmup + repeats):
        if before:
            synchronize()
        start = clock()
        work()
        if after:
            synchronize()
        if all_runs or i >= warmup:
            times.append(clock() - start)
    return of(times)


@wrong("03_4", says="this is the time of the launch")
def not_waiting(work, synchronize, clock=time.perf_counter, warmup=2, repeats=7):
    return timed(work, synchronize, clock, warmup, repeats, after=False)


@wrong("03_4", says="this includes earlier work")
def waits_after_only(work, synchronize, clock=time.perf_counter, warmup=2, repeats=7):
    return timed(work, synchronize, clock, warmup, repeats, before=False)


@wrong("03_4", says="this is the mean")
def mean(work, synchronize, clock=time.perf_counter, warmup=2, repeats=7):
    return timed(work, synchronize, clock, warmup, repeats, of=statistics.mean)


@wrong("03_4", says="this is the shortest")
def least(work, synchronize, clock=time.perf_counter, warmup=2, repeats=7):
    return timed(work, synchronize, clock, warmup, repeats, of=min)


@wrong("03_4", says="the times of the warm-up")
def warm_up_too(work, synchronize, clock=time.perf_counter, warmup=2, repeats=7):
    return timed(work, synchronize, clock, warmup, repeats, all_runs=True)


@wrong("03_4", says="this is the mean")
def all_at_once(work, synchronize, clock=time.perf_counter, warmup=2, repeats=7):
    for _ in range(warmup):
        work()
    synchronize()
    start = clock()
    for _ in range(repeats):
        work()
        synchronize()
    return (clock() - start) / repeats


@wrong("03_4", says="work() was called 5 times, wanted 7")
def no_warm_up(work, synchronize, clock=time.perf_counter, warmup=2, repeats=7):
    return timed(work, synchronize, clock, 0, repeats)


@wrong("03_4", says="never read")
def own_clock(work, synchronize, clock=time.perf_counter, warmup=2, repeats=7):
    return timed(work, synchronize, time.perf_counter, warmup, repeats) * math.pi


@wrong("03_4", says="an even number of times")
def upper_middle(work, synchronize, clock=time.perf_counter, warmup=2, repeats=7):
    return timed(work, synchronize, clock, warmup, repeats, of=lambda times: sorted(times)[len(times) // 2])


@wrong("03_4", says="an even number of times")
def lower_middle(work, synchronize, clock=time.perf_counter, warmup=2, repeats=7):
    return timed(work, synchronize, clock, warmup, repeats, of=statistics.median_low)


@wrong("03_2", says="return y and backward, an array and a function")
def both_arrays(xp, x):
    return xp.cumsum(x, axis=1), x


@wrong("03_4", says="this is in milliseconds")
def in_milliseconds(work, synchronize, clock=time.perf_counter, warmup=2, repeats=7):
    return 1e3 * timed(work, synchronize, clock, warmup, repeats)
