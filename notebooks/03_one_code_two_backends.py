# %% [markdown]
# # 03 · One code, two backends
#
# **Goal.** Write an operation once, so that it runs on a CPU with NumPy and on a GPU with CuPy. Learn to find out on
# any laptop whether it would run on a GPU, and what still differs between the two: order, precision, copies and
# clocks.
#
# **Time.** 100 minutes, 4 exercises. **Needs** 01 (what a rule is); 02 helps. Letters: B batch, T tokens, C channels,
# V rows of a table, N ids; `xp` is the library that owns the arrays.

# %% tags=["setup"]
import math
import operator
import statistics
import time
import types

import numpy as np

from minigam import GAM, GAMConfig, Tensor, backend, gradcheck, numeric, op, ops, viz
from minigam.course import check, library, show

# %% [markdown]
# ## 1. One rule, any library
#
# CuPy is NumPy for GPUs. `cupy.exp` is called like `numpy.exp`, and so is nearly everything else. An operation
# therefore does not have to be written twice. Its rule gets the library as its first argument, `xp`, and calls no
# other library. Here is one, $y = x\,\sigma(x)$ with the sigmoid $\sigma(x) = 1/(1 + e^{-x})$. Its derivative follows
# from the product rule and $\sigma' = \sigma\,(1 - \sigma)$:
#
# $$ y = x\,\sigma(x), \qquad dx = dy\;\sigma(x)\,\big(1 + x\,(1 - \sigma(x))\big) $$

# %%
xp = library()
rng = np.random.default_rng(3)
numbers = rng.standard_normal((3, 5))  # drawn on the host, so they are the same for every library


def swish(xp, x):
    """y = x sigmoid(x), for arrays of the library xp; any shape."""
    s = 1.0 / (1.0 + xp.exp(-x))
    y = x * s

    def backward(dy):
        return (dy * s * (1.0 + x * (1.0 - s)),)  # a tuple, one gradient for each array

    return y, backward


x = xp.asarray(numbers)
y, backward = swish(xp, x)
swish_op = op(swish)
worst = gradcheck(swish_op, Tensor(x, requires_grad=True))
assert type(y) is type(x)
assert float(abs(y - ops.silu(Tensor(x)).data).max()) < 1e-12
print(f"worst relative error of its gradient: {worst:.0e}")
assert worst < 1e-6

# %% [markdown]
# `op(swish)` turned the rule into an operation. The operation takes Tensors, looks at the arrays inside, and gives
# the rule the library that owns them. You do not choose a backend for an operation. **Operations follow their
# inputs**, and you decide where the inputs are.
#
# ## 2. Which library owns an array?
#
# `backend.owner(array)` returns the library. A Python number or a list has no owner, so it can be combined with any
# array. If arrays of two libraries meet in one operation, this is an error. It is raised before anything is computed,
# and the message says which argument belongs to which library.

# %%
assert backend.owner(x) is xp and backend.owner(numbers) is np
assert backend.owner(2.0) is None and backend.owner([1.0, 2.0]) is None
assert backend.xp_of(x, 2.0, None) is xp
assert backend.xp_of(2.0) is np, "with no array at all: NumPy"

# %% [markdown]
# ### Exercise 03.1 ★☆☆ The library of a pair
#
# Write `library_of`, which does for two arguments what `xp_of` does for any number of them. Each argument is an
# array, a Python number or None. Return the library that owns them, or NumPy if neither is an array. Raise
# `TypeError` if two libraries meet. Use `backend.owner`, not `xp_of`.
#
# <details><summary>Hint</summary>
#
# Ask `backend.owner` for both owners; it returns None for a number. There are three cases: no owner, one owner, two
# owners.
#
# </details>


# %% tags=["exercise"]
def library_of(a, b):
    """Return the library that owns a and b; NumPy if neither is an array.

    Raises TypeError when two libraries meet.
    """
    # SOLUTION
    owners = {backend.owner(a), backend.owner(b)} - {None}
    if len(owners) > 1:
        raise TypeError(f"two libraries: {', '.join(sorted(owner.__name__ for owner in owners))}")
    return owners.pop() if owners else np
    # END


# %%
check.ex_03_1(library_of)

# %% [markdown]
# ### Three ways to have no GPU
#
# `backend.get(name)` returns a library only after it has computed something with it. This can fail in three ways.
# Each has another remedy, so each is an error class of its own:
#
# * The name is unknown: correct it.
# * CuPy cannot be imported: install it.
# * CuPy is installed but no GPU answers: check the driver. `import cupy` succeeds without a GPU, so this error shows
#   only when something is computed. `get` therefore multiplies two small matrices.

# %%
remedies = {
    backend.UnknownBackend: "correct the name",
    backend.BackendNotInstalled: "install CuPy, or use numpy",
    backend.NoDevice: "check the driver, or use numpy",
}
for name in ("numpy", "cupy", "jax"):
    try:
        print(f"{name}: {backend.get(name).__name__} computes")
    except tuple(remedies) as e:
        print(f"{name}: {type(e).__name__}: {e}\n    -> {remedies[type(e)]}")
        assert (type(e) is backend.UnknownBackend) == (name == "jax")

# %% [markdown]
# `auto` is for commands that use a GPU if there is one. It never fails, and it always says what it chose and why:

# %%
name, why = backend.choose("auto")
print(f"auto: {name}, because {why}")
assert backend.get(name) is xp

# %% [markdown]
# ## 3. A pretend GPU
#
# How do you know that your rule runs on a GPU, if you have none? Most faults that would break it are of one kind: a
# host array meets a device array. (The *host* is the CPU with its memory, the *device* the GPU with its own.) You can
# find these faults without a GPU. You need only an array class that *refuses* to be combined with NumPy's arrays. So
# build one: a class that hides a NumPy array, and returns it only from `.get()`, as CuPy's arrays do.


# %%
class DeviceArray:
    """An array on a pretend device. It computes with its own kind and with numbers only."""

    copies = 0  # how often an array was copied to the host

    def __init__(self, hidden):
        self.hidden = hidden

    def get(self):
        """Copy it to the host."""
        DeviceArray.copies += 1
        return self.hidden.copy()

    def item(self):
        return self.get().item()

    def __float__(self):
        return float(self.get())

    def __int__(self):
        return int(self.get())

    def __bool__(self):
        return bool(self.get())

    def __len__(self):
        return len(self.hidden)

    def __getattr__(self, name):  # .shape, .dtype, .sum(), ... : NumPy's, lifted
        if name.startswith("__"):
            raise AttributeError(name)
        return lift(getattr(self.hidden, name))

    def __getitem__(self, index):
        return lift(self.hidden[lower(index)])

    def __setitem__(self, index, value):
        self.hidden[lower(index)] = lower(value)

    def __array_ufunc__(self, function, *args, **kwargs):
        raise TypeError(f"np.{function.__name__} met a device array; do not combine it with host arrays")

    def __array_function__(self, function, *args, **kwargs):
        name = function.__name__
        raise TypeError(f"np.{name} met a device array; call xp.{name}")

    def __array__(self, *args, **kwargs):
        raise TypeError("a device array becomes a host array only by .get()")


# %% [markdown]
# `lower` unwraps a device array before the device computes with it, and refuses host arrays. `lift` wraps the result
# again. The operators use the two, and so does every function of the pretend library: it has each function of NumPy,
# by the same name.


# %%
def lower(value):
    """Return the array inside a DeviceArray; refuse host arrays; return anything else as it is."""
    if isinstance(value, np.ndarray):
        raise TypeError(f"a host array {value.shape} met a device array; make it with xp")
    if isinstance(value, tuple | list):
        return type(value)(map(lower, value))
    return value.hidden if isinstance(value, DeviceArray) else value


def lift(value):
    """Return an array as a DeviceArray, a function as one of DeviceArrays, anything else as it is."""
    if isinstance(value, np.ndarray | np.generic):
        return DeviceArray(np.asarray(value))
    if callable(value) and not isinstance(value, type):
        return lambda *args, **kwargs: lift(
            value(*map(lower, args), **{k: lower(v) for k, v in kwargs.items()})
        )
    return value


def operate(name, function):
    """Give DeviceArray the operator `name`, and its mirrored form for a number on the left."""

    def computed(a, b):
        return NotImplemented if isinstance(b, Tensor) else lift(function(lower(a), lower(b)))

    setattr(DeviceArray, f"__{name}__", computed)
    setattr(DeviceArray, f"__r{name}__", lambda a, b: lift(function(lower(b), lower(a))))


for name in ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul"):
    operate(name, getattr(operator, name))
for name in ("lt", "le", "eq", "ne", "ge", "gt"):
    operate(name, getattr(operator, name))
DeviceArray.__neg__ = lambda a: lift(-a.hidden)
DeviceArray.__abs__ = lambda a: lift(abs(a.hidden))

pretend = types.ModuleType("pretend")
pretend.__getattr__ = lambda name: lift(getattr(np, name))  # pretend.exp is np.exp, lifted
pretend.add = lift(np.add)
pretend.add.at = lift(np.add.at)


def array(a, dtype=None):
    """Copy a host array, a list or a device array to the device."""
    return DeviceArray(np.array(getattr(a, "hidden", a), dtype=dtype))


def asarray(a, dtype=None):
    """The same, but an array that is already on the device is not copied."""
    on_device = isinstance(a, DeviceArray) and dtype in (None, a.dtype)
    return a if on_device else array(a, dtype)


pretend.array, pretend.asarray = array, asarray

# %% [markdown]
# One call registers the class as the array of a third library. From then on every operation of minigam can compute
# with it.

# %%
backend.register(DeviceArray, pretend)

on_device = pretend.asarray(numbers)
y, backward = swish(pretend, on_device)
assert isinstance(y, DeviceArray)
assert (y.get() == swish(np, numbers)[0]).all(), "the same numbers, by the same rule"

for what, meet in (
    ("host array times device array", lambda: numbers * on_device),
    ("device array plus host array", lambda: on_device + numbers),
    ("a function of NumPy", lambda: np.exp(on_device)),
    ("an operation of minigam", lambda: ops.add(Tensor(on_device), Tensor(numbers))),
):
    try:
        meet()
    except TypeError as e:
        print(f"{what}:\n    {type(e).__name__}: {e}")
    else:
        raise AssertionError(f"{what} should be refused")

# %% [markdown]
# Now a rule that was written on a laptop, by someone who had only NumPy in mind. For each token it adds up the tokens
# so far and scales the sum. The scale is such that each row of C outputs has a length of about 1 for every t, if the
# inputs are independent standard normal numbers:
#
# $$ y_{btc} = \frac{1}{\sqrt{C\,(t+1)}} \sum_{i \le t} x_{bic}, \qquad
#    dx_{bic} = \sum_{t \ge i} \frac{dy_{btc}}{\sqrt{C\,(t+1)}} $$
#
# The second formula follows from the first: token i is part of every sum from $t = i$ on, so its gradient collects a
# term from each of them.


# %%
def running_sum_of_a_laptop(xp, x):
    """Return the scaled sums over the tokens so far, x (B, T, C) -> y (B, T, C), and backward."""
    T, C = x.shape[1:]
    scale = 1.0 / np.sqrt(C * np.arange(1, T + 1))[:, None]
    y = np.cumsum(x, axis=1) * scale

    def backward(dy):
        return (np.cumsum((dy * scale)[:, ::-1], axis=1)[:, ::-1],)

    return y, backward


tokens = rng.standard_normal((2, 6, 64))
laptop = op(running_sum_of_a_laptop)
y = laptop(Tensor(tokens)).data
assert np.abs(y[1, 2] - tokens[1, :3].sum(axis=0) / math.sqrt(64 * 3)).max() < 1e-12
print("lengths:", ", ".join(f"{length:.2f}" for length in np.sqrt((y[0] ** 2).sum(axis=-1))))
assert gradcheck(laptop, Tensor(tokens[:, :, :3], requires_grad=True)) < 1e-6

# %% [markdown]
# In float64 on the host both the values and the gradient are right. On another device, or in another precision, the
# rule fails:

# %%
for what, x in (("on the device", pretend.asarray(tokens)), ("in float32", tokens.astype(np.float32))):
    try:
        laptop(Tensor(x))
    except TypeError as e:
        print(f"{what}: {e}")
    else:
        raise AssertionError(f"{what} the rule should fail")

# %% [markdown]
# The second message comes from the engine, which requires float32 results for float32 inputs. `np.arange` makes
# integers, and the square root of integers is float64. One float64 array then turns every array that it is combined
# with into float64. Without the engine's check nobody would notice, although it doubles the memory and, on most GPUs,
# costs most of the speed.
#
# ### Exercise 03.2 ★★☆ Make it portable
#
# Write the same rule so that it runs with every library and keeps the dtype of x, in y and in dx. Return `y,
# backward`. `backward(dy)` returns a tuple with one entry, `(dx,)`.
#
# <details><summary>Hint</summary>
#
# Three changes are enough. Take every function from `xp`. Give every new array its dtype, `dtype=x.dtype`. Take
# square roots of Python numbers from `math`.
#
# </details>


# %% tags=["exercise"]
def running_sum(xp, x):
    """Return y and backward: y_t = (x_0 + ... + x_t) / sqrt(C (t + 1)) for x (B, T, C)."""
    # SOLUTION
    T, C = x.shape[1:]
    count = xp.arange(1, T + 1, dtype=x.dtype)[:, None]  # (T, 1)
    scale = 1.0 / (math.sqrt(C) * xp.sqrt(count))
    y = xp.cumsum(x, axis=1) * scale

    def backward(dy):
        return (xp.cumsum((dy * scale)[:, ::-1], axis=1)[:, ::-1],)

    return y, backward
    # END


# %%
check.ex_03_2(running_sum)

# %%
portable = op(running_sum)
for name, x in (
    (xp.__name__, xp.asarray(tokens, dtype=np.float32)),
    ("pretend", pretend.asarray(tokens, dtype=np.float32)),
):
    y = portable(Tensor(x))
    assert type(y.data) is type(x) and y.dtype == np.float32
    worst = np.abs(y.numpy() - laptop(Tensor(tokens)).data).max()
    print(f"{name}: {y.dtype}, off by at most {worst:.0e}")
    assert worst < 1e-5
few = Tensor(pretend.asarray(tokens[:, :, :3]), requires_grad=True)
assert gradcheck(portable, few) < 1e-6, "the checker follows its inputs too"

# %% [markdown]
# Every rule of minigam is written like this. That is why a whole GAM runs on the device that you have just made, and
# gives the same logits and the same gradient there, up to rounding. No line of minigam was written for this device.

# %%
config = GAMConfig(vocab_size=9, block_size=8, d_model=8, n_layers=2, n_slots=4)
model = GAM(config, seed=0).eval()
ids = rng.integers(9, size=(2, 8))
logits = model(ids).numpy()
model.loss(ids, ids).backward()
gradient = model.blocks[0].memory.grad

model.to("pretend")
moved = model(ids)
model.loss(ids, ids).backward()
moved_gradient = model.blocks[0].memory.grad
assert isinstance(moved.data, DeviceArray) and isinstance(moved_gradient, DeviceArray)
worst = [np.abs(moved.numpy() - logits).max(), np.abs(moved_gradient.get() - gradient).max()]
print(f"logits differ by {worst[0]:.0e}, the gradient of a memory by {worst[1]:.0e}")
assert max(worst) < 1e-5

# %% [markdown]
# The last digits can differ because the library `"numpy"` has faster rules of its own, and the pretend device used
# the reference rules.
#
# The tests of this project run every operation, layer and model on such a device (`tests/helpers/fakegpu.py`). It is
# stricter than the one above: it has only the functions that CuPy has. It cannot tell how fast a GPU is, and it does
# not show the differences of the next section.

# %% [markdown]
# ## 4. The same code, and what differs
#
# **Ids out of range.** NumPy raises an error. CuPy wraps around and returns a wrong row, because a check would make
# the host wait for the GPU. In both libraries negative ids count from the end. A model therefore checks its ids once,
# on the host, before it uses them.

# %%
table = xp.asarray(np.arange(12.0).reshape(3, 4))  # rows 0, 1 and 2
try:
    print(f"row 3 of three: {float(table[xp.asarray([3])][0, 0])} (wrapped round)")
except IndexError as e:
    print("row 3 of three:", e)
assert float(table[xp.asarray([-1])][0, 0]) == 8.0, "row -1 is the last one in both libraries"
for wrong in (9, -1):
    try:
        model(np.full((1, 4), wrong))
    except ValueError as e:
        print(e)
    else:
        raise AssertionError("the model should refuse it")

# %% [markdown]
# **Scalars.** NumPy's scalars have a dtype, Python's numbers do not. `np.sqrt(64)` is a float64. Since NumPy 2 it
# turns a float32 array into float64. `math.sqrt(64)` is a Python number, and the result keeps the dtype of the array.

# %%
single = np.ones(3, dtype=np.float32)
assert (single * np.sqrt(64)).dtype == np.float64
assert (single * math.sqrt(64)).dtype == np.float32

# %% [markdown]
# **Copies.** When Python needs the value of a number on the device, the number is copied to the host, and the host
# waits until it is computed. This happens in `float(loss)`, in `if (x > 0).all()` and in `print(x)`. One copy does no
# harm; many of them keep a GPU idle. The pretend device counts them:

# %%
steps = [pretend.asarray(rng.standard_normal(100)) for _ in range(20)]

DeviceArray.copies, total = 0, 0.0
for x in steps:
    total += float((x * x).sum())  # copied to the host in every step
in_every_step = DeviceArray.copies

DeviceArray.copies, sum_on_device = 0, pretend.zeros(())
for x in steps:
    sum_on_device = sum_on_device + (x * x).sum()  # stays on the device
at_the_end = float(sum_on_device)
print(f"copies to the host: {in_every_step} and {DeviceArray.copies}")
assert in_every_step == 20 and DeviceArray.copies == 1 and abs(at_the_end - total) < 1e-9 * total

# %% [markdown]
# **Order.** An embedding looks up rows of a table. Its gradient adds each incoming row to the row of the table that
# was looked up. If an id occurs three times, three rows must be added. `total[ids] += values` adds only one: NumPy
# and CuPy read the three old rows, add, and write three times to the same place, so that only the last write
# survives. `xp.add.at` adds all three. A GPU adds them in the order in which its threads arrive, and in floating
# point the order decides the last digits. Two runs then differ in their last bits, and both are right.
#
# ### Exercise 03.3 ★★☆ Adding at repeated places
#
# Do it without `add.at`, by a matrix product. The matrix $\mathrm{hits}$ has a 1 where row v of the result receives
# `values[i]`, and a 0 elsewhere; $[\,\cdot\,]$ is 1 if the condition holds and 0 otherwise:
#
# $$ \mathrm{total}_{vc} = \sum_{i:\, \mathrm{ids}_i = v} \mathrm{values}_{ic} = \sum_i \mathrm{hits}_{vi}\, \mathrm{values}_{ic},
#    \qquad \mathrm{hits}_{vi} = [\mathrm{ids}_i = v] $$
#
# `ids` may have several axes. Return an array with `n_rows` rows in the dtype of `values`. A row without an id is
# zero.
#
# <details><summary>Hint</summary>
#
# Flatten ids to (N) and values to (N, C). Compare `xp.arange(n_rows)[:, None]` with ids: this gives the matrix as
# True and False. `.astype(values.dtype)` turns these into numbers.
#
# </details>


# %% tags=["exercise"]
def scatter_rows(xp, n_rows, ids, values):
    """Return (n_rows, C) zeros to which values[i] was added at row ids[i].

    ids (...) integers from 0 to n_rows - 1, values (..., C)
    """
    # SOLUTION
    values = values.reshape(-1, values.shape[-1])  # (N, C)
    hits = xp.arange(n_rows)[:, None] == ids.reshape(-1)  # (n_rows, N)
    return hits.astype(values.dtype) @ values
    # END


# %%
check.ex_03_3(scatter_rows)

# %%
V, C = 50, 8
ids = xp.asarray(rng.integers(V, size=(4, 25)))
values = xp.asarray(rng.standard_normal((4, 25, C)))
by_product = scatter_rows(xp, V, ids, values)
assert float(abs(by_product - numeric.scatter_add(xp, V, ids, values)).max()) < 1e-6

lost = xp.zeros((V, C))
lost[ids.reshape(-1)] += values.reshape(-1, C)  # the mistake
rows_lost = int((abs(lost - by_product).max(axis=1) > 1e-9).sum())
print(f"with += {rows_lost} of {V} rows are wrong: those whose id repeats")
assert rows_lost > 5

ids, values = rng.integers(3, size=3000), rng.standard_normal((3000, 1)).astype(np.float32)
forwards = numeric.scatter_add(np, 3, ids, values)
backwards = numeric.scatter_add(np, 3, ids[::-1], values[::-1])  # the same values, last first
print(f"another order of the additions changes a sum by up to {np.abs(forwards - backwards).max():.0e}")
assert 0.0 < np.abs(forwards - backwards).max() < 1e-2

# %% [markdown]
# The matrix product is right and portable, but wasteful: `hits` has V N entries for N ids, nearly
# all of them zeros. For V = 10,000 words and 8,192 tokens these are 82 million numbers. minigam has faster code for it, in
# `minigam/engine/compiled` and `minigam/engine/cuda`.

# %% [markdown]
# ## 5. What a sum loses
#
# Every addition of two float32 numbers is rounded: the relative error of the result is at most $u = 2^{-24}$. If you
# add n numbers one after the other, the first of them takes part in $n - 1$ additions. If you add them in pairs, then
# the sums in pairs, and so on, each number takes part in only $\log_2 n$ additions. To first order in u, the error of
# the sum is at most
#
# $$ |\mathrm{error}| \le (n-1)\,u \sum_i |x_i| \;\;\text{one by one}, \qquad
#    |\mathrm{error}| \le \lceil \log_2 n \rceil\, u \sum_i |x_i| \;\;\text{in pairs} $$
#
# Both ways add the same numbers with the same number of additions, in another order. The numbers below are all
# positive, so $\sum_i |x_i|$ is the sum itself, and the factor before it bounds the relative error.


# %%
def one_by_one(x):
    """Add from left to right, and round to x's dtype each time. cumsum has no other way."""
    return np.cumsum(x)[-1]


def in_pairs(x):
    """Add neighbours, then neighbouring sums, and so on; len(x) is a power of two."""
    while len(x) > 1:
        x = x[0::2] + x[1::2]
    return x[0]


u = np.finfo(np.float32).eps / 2
numbers = rng.random(2**20).astype(np.float32)
counts = 2 ** np.arange(4, 21, 2)
errors = {"one by one": [], "in pairs": [], "x.sum()": []}
for n in counts:
    x = numbers[:n]
    true = math.fsum(x.tolist())  # exact, rounded once
    for name, add in (("one by one", one_by_one), ("in pairs", in_pairs), ("x.sum()", np.sum)):
        errors[name].append(abs(float(add(x)) - true) / true)
    assert errors["one by one"][-1] <= 1.01 * (n - 1) * u
    assert errors["in pairs"][-1] <= 1.01 * math.ceil(math.log2(n)) * u

figure, axes = viz.panels("n, numbers added", "relative error of their sum", size=(6.5, 4.0))
for (name, error), style in zip(errors.items(), viz.STYLES):
    axes.loglog(counts, np.maximum(error, 1e-9), **style, markersize=4, label=name)
axes.loglog(counts, (counts - 1) * u, "-", color=viz.INK, label="bound (n - 1) u")
axes.loglog(counts, np.log2(counts) * u, "-.", color=viz.INK, label="bound log2(n) u")
axes.legend(frameon=False, fontsize=8, loc="upper left")
show(
    figure,
    "The error of adding float32 numbers one by one grows with their count, to about 1e-5 "
    "at a million. Added in pairs, and by NumPy's sum, it stays at 1e-7 or below. Both "
    "orders lie under their bounds.",
)
assert errors["one by one"][-1] > 10 * errors["in pairs"][-1]

# %% [markdown]
# NumPy's `sum` adds in pairs (of blocks) along an axis whose numbers are neighbours in memory. Along another axis it
# adds row by row, one by one. The gradient of a bias is such a sum, over all tokens. On a GPU the threads add in a
# tree, that is, in pairs again. All of these results are correct. But because they differ, float32 results of two
# libraries are compared with a tolerance, and gradients are checked in float64.

# %%
n = 2**20
columns = np.repeat(numbers[:, None], 4, axis=1)  # (n, 4), the same column four times
true = math.fsum(numbers.tolist())
down = abs(float(columns.sum(axis=0)[0]) - true) / true
along = abs(float(np.ascontiguousarray(columns.T).sum(axis=1)[0]) - true) / true
in_double = abs(float(columns.sum(axis=0, dtype=np.float64)[0]) - true) / true
print(f"relative error: row by row {down:.0e}, along memory {along:.0e}", end=", ")
print(f"row by row in float64 {in_double:.0e}")
assert along < 1e-6 and in_double < 1e-12

# %% [markdown]
# ## 6. Reading a clock
#
# How long does a matrix product take? On the host you can read the clock, `time.perf_counter()`, before and after the
# product. On a GPU this measures almost nothing, because there the host does not compute. Each call puts work of
# duration d into the device's queue and returns. That takes the host only a short time q. If the clock is read after
# n calls, it shows
#
# $$ t_{\text{not waiting}} = n\,q, \qquad t_{\text{waiting}} = q + n\,d \quad (d \ge q) $$
#
# "Waiting" means that the host *synchronises* before it reads the clock: it waits until the queue is empty.


# %%
def timeline(n, q, d):
    """Return (start, length) of each of n calls: when the host launches it, when the device computes it."""
    launches = [(i * q, q) for i in range(n)]
    works, free = [], 0.0
    for start, length in launches:
        begin = max(free, start + length)  # after the launch, and after the work before it
        works.append((begin, d))
        free = begin + d
    return launches, works


n, q, d = 5, 0.1, 0.8  # ms
launches, works = timeline(n, q, d)
not_waiting = sum(launches[-1])
waiting = sum(works[-1])
assert abs(not_waiting - n * q) < 1e-9 and abs(waiting - (q + n * d)) < 1e-9

figure, axes = viz.panels("time (ms)", size=(8.0, 2.6))
axes.broken_barh(launches, (1.6, 0.8), facecolor=viz.COLOURS[0], edgecolor=viz.INK)
axes.broken_barh(works, (0.6, 0.8), facecolor=viz.COLOURS[1], edgecolor=viz.INK, hatch="//")
axes.set_yticks([2.0, 1.0], ["host launches", "device works"])
axes.set_ylim(0.3, 3.4)
axes.set_xlim(0.0, 4.6)
for at, words in ((not_waiting, "clock, not waiting"), (waiting, "clock, waiting")):
    axes.axvline(at, color=viz.INK, linestyle=":")
    side = "right" if at > 2.0 else "left"
    axes.text(at, 2.9, f" {words} ", ha=side)
show(
    figure,
    "Two rows of bars against time. The host launches five calls in the first half millisecond. "
    "The device works for four milliseconds, from 0.1 ms on. Without waiting the clock is read "
    "at 0.5 ms, with waiting at 4.1 ms.",
)

# %% [markdown]
# Three more things spoil a measurement:
#
# * The **first calls** are slow, because they compile code or allocate memory. Do not count them.
# * **Earlier work** may still be in the queue when the clock starts. Synchronise before that, too.
# * The machine sometimes does **other work**. Measure several times and take the **median**: one slow run moves the
#   mean, but not the median.
#
# ### Exercise 03.4 ★★★ A timer
#
# Call `work` `warmup` times without measuring. Then call it `repeats` times, measure each call on its own, and return
# the median in seconds. `synchronize()` waits until the device is idle; `clock()` returns the time in seconds. The
# check passes a device and a clock of its own, on which each mistake gives another time.
#
# <details><summary>Hint</summary>
#
# For each repeat: synchronise, read the clock, work, synchronise, read the clock. `statistics.median` takes a list.
#
# </details>


# %% tags=["exercise"]
def measure(work, synchronize, clock=time.perf_counter, warmup=2, repeats=7):
    """Return the median time of a call of work() in seconds, including the device's work."""
    # SOLUTION
    for _ in range(warmup):
        work()
    times = []
    for _ in range(repeats):
        synchronize()
        start = clock()
        work()
        synchronize()
        times.append(clock() - start)
    return statistics.median(times)
    # END


# %%
check.ex_03_4(measure)

# %% [markdown]
# Now measure a real product, with the library that computes here. `backend.synchronize(xp)` waits for a GPU. With
# NumPy it returns at once, because there a call returns only when its work is done.

# %%
wait = lambda: backend.synchronize(xp)
for dtype in (np.float32, np.float64):
    a = xp.asarray(rng.standard_normal((512, 512)), dtype=dtype)
    seconds = measure(lambda a=a: a @ a, wait)
    rate = 2 * 512**3 / seconds / 1e9
    print(f"512 x 512 product, {np.dtype(dtype)}: {1e3 * seconds:.2f} ms, {rate:.0f} Gflop/s")
    assert seconds > 0.0

# %% [markdown]
# On a CPU float64 takes about twice as long, because half as many numbers fit into a register. GPUs made for graphics
# have few units for float64: there it takes 32 or 64 times as long. On GPUs made for science it takes about twice as
# long. So check gradients in float64 on small arrays, and train in float32.
#
# Why take the median? Here are a hundred runs of the same operation, each measured on its own.

# %%
a = xp.asarray(rng.standard_normal((256, 2048)), dtype=np.float32)
once = lambda: measure(lambda: ops.softmax(Tensor(a)), wait, warmup=0, repeats=1)
single_runs = [1e3 * once() for _ in range(100)]
middle = statistics.median(single_runs)
figure, axes = viz.panels("run", "time of a softmax (ms)", size=(6.5, 3.4))
axes.plot(single_runs, "o", markersize=3, label="one run each")
axes.axhline(middle, color=viz.INK, label="median")
axes.axhline(statistics.mean(single_runs), color=viz.INK, linestyle="--", label="mean")
axes.set_ylim(bottom=0.0)
axes.legend(frameon=False, fontsize=8)
show(
    figure,
    "A hundred timings of one softmax as dots, their median as a solid line, their mean as a dashed one. "
    "If some runs are slow, they lift the mean more than the median.",
)

# %% [markdown]
# ## What you can do now
#
# You can
#
# * write an operation that runs on NumPy and CuPy without a change,
# * find on a laptop what would fail on a GPU, and
# * time code on a device that works asynchronously, and name what still differs: order, precision, copies.
#
# ## Think about it
#
# No check can answer these. Write down your answer, or discuss it with someone.
#
# 1. Two libraries give results that differ in the last bit. When does that matter, and what would you promise a user?
# 2. What would you have to change to support a third library, such as JAX, whose arrays cannot be changed in place?
#
# ## Read on
#
# In the code:
#
# * `minigam/engine/backend.py`, all of it
# * `minigam/engine/dispatch.py`: `class Op`
# * `tests/helpers/fakegpu.py`: the pretend device
#
# Elsewhere:
#
# * [The Python array API standard](https://data-apis.org/array-api/latest/)
# * [CuPy: basics](https://docs.cupy.dev/en/stable/user_guide/basic.html)
# * [NEP 18, how a library takes over NumPy's functions](https://numpy.org/neps/nep-0018-array-function-protocol.html)
# * [What Every Computer Scientist Should Know About Floating-Point Arithmetic](https://doi.org/10.1145/103162.103163)
