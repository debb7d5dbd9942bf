# %% [markdown]
# # 03 · One code, two backends
#
# **Goal.** Write an operation once, so that it runs on a processor with NumPy and on a GPU with CuPy; find out on any
# laptop whether it would; and know what still differs between the two: order, precision, copies, and clocks.
#
# **Time.** 60 minutes, 4 exercises. **Needs** 01 (what a rule is); 02 helps. Letters: B batch, T tokens, C channels,
# V rows of a table. `xp` is the library that holds the arrays at hand.

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
# CuPy is NumPy for GPUs: `cupy.exp` is called as `numpy.exp` is, and so is nearly everything else. So an
# operation need not be written twice. It is written for *a library*, which it is handed as its first argument, and
# it calls nothing else. Here is one, $y = x\,\sigma(x)$ with $\sigma(x) = 1/(1 + e^{-x})$. Its derivative
# is the product rule, with $\sigma' = \sigma\,(1 - \sigma)$:
#
# $$ y = x\,\sigma(x), \qquad dx = dy\;\sigma(x)\,\big(1 + x\,(1 - \sigma(x))\big) $$

# %%
xp = library()
rng = np.random.default_rng(3)
numbers = rng.standard_normal((3, 5))  # drawn on the host: the same for every library


def swish(xp, x):
    """y = x sigmoid(x), for arrays of the library xp."""
    s = 1.0 / (1.0 + xp.exp(-x))
    y = x * s

    def backward(dy):
        return (dy * s * (1.0 + x * (1.0 - s)),)  # one gradient for each array

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
# `op(swish)` made an operation of the rule: it takes Tensors, looks at the arrays inside, and hands the rule the
# library that owns them. Nobody chooses a backend for an operation. **Operations follow their inputs**, and the
# inputs are where you put them.
#
# ## 2. Whose array is it?
#
# `backend.owner(array)` answers that. Python's numbers and lists are nobody's: they go with everything. Two libraries in one
# operation are an error, raised before anything is computed, and the message says which argument is where.

# %%
assert backend.owner(x) is xp and backend.owner(numbers) is np
assert backend.owner(2.0) is None and backend.owner([1.0, 2.0]) is None
assert backend.xp_of(x, 2.0, None) is xp
assert backend.xp_of(2.0) is np, "with no array at all: NumPy"

# %% [markdown]
# ### Exercise 03.1 ★☆☆ The library of a pair
#
# Write `library_of`, an `xp_of` for two arguments, each an array, a Python number or None. Raise `TypeError` where two libraries
# meet. (Do it by `backend.owner`, without `xp_of`.)
#
# <details><summary>Hint</summary>
#
# Ask `backend.owner` about both. There are three cases: nobody owns any, there is one owner, there are two.
#
# </details>


# %% tags=["exercise"]
def library_of(a, b):
    """Return the library that owns a and b; NumPy if neither is an array.

    Raises TypeError when two libraries meet.
    """
    # SOLUTION
    found = {backend.owner(a), backend.owner(b)} - {None}
    if len(found) > 1:
        raise TypeError(f"two libraries: {', '.join(sorted(f.__name__ for f in found))}")
    return found.pop() if found else np
    # END


# %%
check.ex_03_1(library_of)

# %% [markdown]
# ### Three ways to have no GPU
#
# `backend.get(name)` returns a library that has been seen to compute. It can fail in three ways, and each wants
# another cure, so each is an error of its own:
#
# * the name is unknown: a typing mistake;
# * CuPy cannot be imported: install it;
# * CuPy is there and no GPU answers: look at the driver. `import cupy` succeeds without a GPU, so this shows only
#   when something is computed. `get` multiplies two small matrices to find out.

# %%
cures = {
    backend.UnknownBackend: "mend the name",
    backend.BackendNotInstalled: "install CuPy, or use numpy",
    backend.NoDevice: "look at the driver, or use numpy",
}
for name in ("numpy", "cupy", "jax"):
    try:
        print(f"{name}: {backend.get(name).__name__} computes")
    except tuple(cures) as e:
        print(f"{name}: {type(e).__name__}: {e}\n    -> {cures[type(e)]}")
        assert (type(e) is backend.UnknownBackend) == (name == "jax")

# %% [markdown]
# `auto` is for commands that want a GPU if there is one. It never fails, and it never keeps silent about what it took:

# %%
name, why = backend.choose("auto")
print(f"auto: {name}, because {why}")
assert backend.get(name) is xp

# %% [markdown]
# ## 3. A pretend GPU
#
# How do you know that your rule runs on a GPU, if you have none? Most faults that break it are of one kind: a host
# array meets a device array. To find those no GPU is needed, only an array that *refuses* to meet NumPy's. So build one:
# a class that hides a NumPy array, and comes out with it only when asked by `.get()`, as CuPy's arrays do.


# %%
class DeviceArray:
    """An array on a pretend device. It computes with its own kind and with numbers alone."""

    copies = 0  # how often something went back to the host

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

    def __getattr__(self, name):  # .shape, .dtype, .sum(), ... : what NumPy has, lifted
        if name.startswith("__"):
            raise AttributeError(name)
        return lift(getattr(self.hidden, name))

    def __getitem__(self, index):
        return lift(self.hidden[lower(index)])

    def __setitem__(self, index, value):
        self.hidden[lower(index)] = lower(value)

    def __array_ufunc__(self, function, *args, **kwargs):
        raise TypeError(f"np.{function.__name__} met a device array; keep host arrays off it")

    def __array_function__(self, function, *args, **kwargs):
        name = function.__name__
        raise TypeError(f"np.{name} met a device array; call xp.{name}")

    def __array__(self, *args, **kwargs):
        raise TypeError("a device array becomes a host array by .get() only")


# %% [markdown]
# `lower` unwraps what the device computes with, and refuses host arrays; `lift` wraps the result again. The operators
# go through the two, and so does every function of the pretend library: whatever NumPy has, by the same name.


# %%
def lower(value):
    """Return what the device computes with; refuse host arrays."""
    if isinstance(value, np.ndarray):
        raise TypeError(f"a host array {value.shape} met a device array; make it with xp")
    if isinstance(value, tuple | list):
        return type(value)(map(lower, value))
    return value.hidden if isinstance(value, DeviceArray) else value


def lift(value):
    """Return an array as a DeviceArray, a function as one of those, anything else as it is."""
    if isinstance(value, np.ndarray | np.generic):
        return DeviceArray(np.asarray(value))
    if callable(value) and not isinstance(value, type):
        return lambda *args, **kwargs: lift(
            value(*map(lower, args), **{k: lower(v) for k, v in kwargs.items()})
        )
    return value


def operate(name, function):
    """Give DeviceArray an operator, and where there is one its mirror image."""

    def computed(a, b):
        return NotImplemented if isinstance(b, Tensor) else lift(function(lower(a), lower(b)))

    setattr(DeviceArray, f"__{name}__", computed)
    setattr(DeviceArray, f"__r{name}__", lambda a, b: lift(function(lower(b), lower(a))))


for function in (operator.add, operator.sub, operator.mul, operator.truediv, operator.pow):
    operate(function.__name__, function)
for name in ("matmul", "lt", "le", "eq", "ge", "gt"):
    operate(name, getattr(operator, name))
DeviceArray.__neg__ = lambda a: lift(-a.hidden)

pretend = types.ModuleType("pretend")
pretend.__getattr__ = lambda name: lift(getattr(np, name))  # pretend.exp is np.exp, lifted
pretend.add = types.SimpleNamespace(at=lift(np.add.at))


def array(a, dtype=None):
    """Copy a host array, a list or a device array to the device."""
    return DeviceArray(np.array(getattr(a, "hidden", a), dtype=dtype))


def asarray(a, dtype=None):
    """The same, without a copy of what is there already."""
    there = isinstance(a, DeviceArray) and dtype in (None, a.dtype)
    return a if there else array(a, dtype)


pretend.array, pretend.asarray = array, asarray

# %% [markdown]
# One call tells minigam that there is a third library. From then on every operation knows what to do with its arrays.

# %%
backend.register(DeviceArray, pretend)

on_device = pretend.asarray(numbers)
y, backward = swish(pretend, on_device)
assert isinstance(y, DeviceArray)
assert (y.get() == swish(np, numbers)[0]).all(), "the same numbers; nobody touched the rule"

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
# Now a rule written on a laptop, with NumPy alone in mind. It adds up all tokens so far, and scales the sums: if the inputs
# are independent standard normal numbers, each row of C outputs has a length of about 1, whatever t is:
#
# $$ y_{btc} = \frac{1}{\sqrt{C\,(t+1)}} \sum_{i \le t} x_{bic}, \qquad
#    dx_{bic} = \sum_{t \ge i} \frac{dy_{btc}}{\sqrt{C\,(t+1)}} $$
#
# The second formula reads the first one backwards: token i is in every sum from $t = i$ on.


# %%
def running_sum_of_a_laptop(xp, x):
    """Scaled sums over the tokens so far: (B, T, C) -> (B, T, C)."""
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
# In float64 on the host it is right, gradient and all. Change the device, or the precision, and it is not:

# %%
for what, x in (("on the device", pretend.asarray(tokens)), ("in float32", tokens.astype(np.float32))):
    try:
        laptop(Tensor(x))
    except TypeError as e:
        print(f"{what}: {e}")
    else:
        raise AssertionError(f"{what} it should fail")

# %% [markdown]
# The second message comes from the engine, which insists that float32 in means float32 out. `np.arange` makes
# integers, the root of integers is float64, and one float64 array turns all it touches into float64. Without
# the engine's check that would cost twice the memory, and on most GPUs most of the speed, without a word.
#
# ### Exercise 03.2 ★★☆ Make it portable
#
# Write the rule so that it runs on every library, and keeps the dtype of x. `backward` returns a tuple of one.
#
# <details><summary>Hint</summary>
#
# Three rules do it. Functions come from `xp`. Every array that is made names its dtype, `dtype=x.dtype`. And roots of
# Python numbers come from `math`.
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
# Every rule of minigam was written so. That is why a whole GAM moves to the device you have just made, and gives the
# same logits and the same gradient there, up to rounding. No line of it knows that this device exists.

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
# The last digits can differ because `"numpy"` has faster rules of its own, and the device got the plain ones.
#
# The tests of this project run every operation, layer and model on such a device (`tests/helpers/fakegpu.py`), stricter than
# this one: it has only the functions that CuPy has. What it cannot tell is how fast a GPU is, and the differences that
# come next.

# %% [markdown]
# ## 4. The same code, and what differs
#
# **Ids out of range.** NumPy raises. CuPy wraps round and answers nonsense: to check would cost a GPU a wait. Negative
# ids count from the end in both. So a model looks at its ids once, on the host, before they go anywhere.

# %%
table = xp.asarray(np.arange(12.0).reshape(3, 4))  # rows 0, 1 and 2
try:
    print(f"row 3 of three: {float(table[xp.asarray([3])][0, 0])} (wrapped round)")
except IndexError as e:
    print("row 3 of three:", e)
assert float(table[xp.asarray([-1])][0, 0]) == 8.0, "row -1 is the last one, everywhere"
for wrong in (9, -1):
    try:
        model(np.full((1, 4), wrong))
    except ValueError as e:
        print(e)
    else:
        raise AssertionError("the model should refuse it")

# %% [markdown]
# **Scalars.** NumPy's own scalars carry a dtype, Python's do not. `np.sqrt(64)` is a float64, and since NumPy 2 it
# turns a float32 array into float64. `math.sqrt(64)` is a Python number and adapts itself.

# %%
single = np.ones(3, dtype=np.float32)
assert (single * np.sqrt(64)).dtype == np.float64
assert (single * math.sqrt(64)).dtype == np.float32

# %% [markdown]
# **Copies.** A number that Python looks at has to come back to the host, and the host has to wait until it is computed:
# `float(loss)`, `if (x > 0).all()`, `print(x)`. One is no fault; too many of them keep a GPU idle. Our device
# counts them:

# %%
steps = [pretend.asarray(rng.standard_normal(100)) for _ in range(20)]

DeviceArray.copies, total = 0, 0.0
for x in steps:
    total += float((x * x).sum())  # asked for at once, 20 times
at_once = DeviceArray.copies

DeviceArray.copies, kept = 0, pretend.zeros(())
for x in steps:
    kept = kept + (x * x).sum()  # stays where it is
later = float(kept)
print(f"copies to the host: {at_once} and {DeviceArray.copies}")
assert at_once == 20 and DeviceArray.copies == 1 and abs(later - total) < 1e-9 * total

# %% [markdown]
# **Order.** An embedding looks up rows of a table, and its gradient adds what comes back to the rows it came from. An id
# that occurs three times must get three additions. With `total[ids] += values` it gets one: NumPy and CuPy read the old rows,
# add, and write, and of the three writes one survives. `xp.add.at` adds all of them. A GPU adds in whatever
# order its threads arrive, and in floating point the order decides the last digits. Two runs then differ in their last
# bits, and both are right.
#
# ### Exercise 03.3 ★★☆ Adding at repeated places
#
# Do without `add.at`, with a matrix product: the matrix H has a 1 where row v of the result is to receive `values[i]`, and
# a 0 elsewhere.
#
# $$ \mathrm{total}_{vc} = \sum_{i:\, \mathrm{ids}_i = v} \mathrm{values}_{ic} = \sum_i H_{vi}\, \mathrm{values}_{ic},
#    \qquad H_{vi} = [\mathrm{ids}_i = v] $$
#
# <details><summary>Hint</summary>
#
# Flatten ids to (N) and values to (N, C). Comparing `xp.arange(n_rows)[:, None]` with ids gives the matrix as True and
# False; `.astype(values.dtype)` makes numbers of it.
#
# </details>


# %% tags=["exercise"]
def scatter_rows(xp, n_rows, ids, values):
    """Return (n_rows, C) zeros to which values[i] was added at row ids[i].

    ids (...) integers, values (..., C)
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
assert float(abs(by_product - numeric.scatter_add(xp, V, ids, values)).max()) < 1e-12

lost = xp.zeros((V, C))
lost[ids.reshape(-1)] += values.reshape(-1, C)  # the mistake
rows_lost = int((abs(lost - by_product).max(axis=1) > 1e-9).sum())
print(f"with += {rows_lost} of {V} rows are wrong: those whose id repeats")
assert rows_lost > 5

places, terms = rng.integers(3, size=3000), rng.standard_normal((3000, 1)).astype(np.float32)
there = numeric.scatter_add(np, 3, places, terms)
back = numeric.scatter_add(np, 3, places[::-1], terms[::-1])  # the same terms, last first
print(f"another order of the additions moves a sum by up to {np.abs(there - back).max():.0e}")
assert 0.0 < np.abs(there - back).max() < 1e-2

# %% [markdown]
# The product with H is right, portable, and wasteful: H has V N entries for N ids, nearly all of them 0. For V = 10,000 words and
# 8,192 tokens, 82 million. What minigam really does is in `minigam/engine/compiled` and `minigam/engine/cuda`; notebook 15 measures.

# %% [markdown]
# ## 5. What a sum loses
#
# Every addition of two float32 numbers is rounded: the result is off by up to $u$ of itself, with $u = 2^{-24}$. Add n
# numbers one after the other, and the first of them goes through $n - 1$ additions. Add them in pairs, then the pairs in
# pairs, and each goes through $\log_2 n$. To first order in u, the sums are off by at most
#
# $$ |\mathrm{error}| \le (n-1)\,u \sum_i |x_i| \;\;\text{one by one}, \qquad
#    |\mathrm{error}| \le \lceil \log_2 n \rceil\, u \sum_i |x_i| \;\;\text{in pairs} $$
#
# The same numbers, the same number of additions, in another order. The numbers below are all above 0, so $\sum_i |x_i|$ is
# the sum itself, and the factor before it bounds the relative error.


# %%
def one_by_one(x):
    """Add from left to right, rounding to x's dtype each time: cumsum cannot do otherwise."""
    return np.cumsum(x)[-1]


def in_pairs(x):
    """Add neighbours, then their sums, and so on; len(x) is a power of two."""
    while len(x) > 1:
        x = x[0::2] + x[1::2]
    return x[0]


u = np.finfo(np.float32).eps / 2
numbers = rng.random(2**20).astype(np.float32)
counts = 2 ** np.arange(4, 21, 2)
found = {"one by one": [], "in pairs": [], "x.sum()": []}
for n in counts:
    x = numbers[:n]
    true = math.fsum(x.tolist())  # exact, rounded once
    for name, add in (("one by one", one_by_one), ("in pairs", in_pairs), ("x.sum()", np.sum)):
        found[name].append(abs(float(add(x)) - true) / true)
    assert found["one by one"][-1] <= 1.01 * (n - 1) * u
    assert found["in pairs"][-1] <= 1.01 * math.ceil(math.log2(n)) * u

figure, axes = viz.panels("n, numbers added", "relative error of their sum", size=(6.5, 4.0))
for (name, errors), style in zip(found.items(), viz.STYLES):
    axes.loglog(counts, np.maximum(errors, 1e-9), **style, markersize=4, label=name)
axes.loglog(counts, (counts - 1) * u, "-", color=viz.INK, label="bound (n - 1) u")
axes.loglog(counts, np.log2(counts) * u, "-.", color=viz.INK, label="bound log2(n) u")
axes.legend(frameon=False, fontsize=8, loc="upper left")
show(
    figure,
    "The error of adding float32 numbers one by one grows with their count, to about 1e-5 "
    "at a million. Added in pairs, and by NumPy's sum, it stays at 1e-7 or below. Both "
    "orders lie under their bounds.",
)
assert found["one by one"][-1] > 10 * found["in pairs"][-1]

# %% [markdown]
# NumPy's `sum` adds in pairs (of blocks) where the numbers lie side by side in memory. Along another axis it adds row by
# row, one by one. The gradient of a bias is such a sum, over all tokens. A GPU's threads add in a tree, which is
# in pairs again. None of this is a fault; it is why float32 results of two libraries are compared with a
# tolerance, and why gradients are checked in float64.

# %%
n = 2**20
columns = np.repeat(numbers[:, None], 4, axis=1)  # (n, 4), four times the same column
true = math.fsum(numbers.tolist())
down = abs(float(columns.sum(axis=0)[0]) - true) / true
along = abs(float(np.ascontiguousarray(columns.T).sum(axis=1)[0]) - true) / true
in_double = abs(float(columns.sum(axis=0, dtype=np.float64)[0]) - true) / true
print(f"relative error: down the rows {down:.0e}, along memory {along:.0e}", end=", ")
print(f"in float64 {in_double:.0e}")
assert along < 1e-6 and in_double < 1e-12

# %% [markdown]
# ## 6. Reading a clock
#
# How long does a matrix product take? `start = time.perf_counter()`, the product, and the clock again: on a GPU this
# measures almost nothing. The host does not compute there. It *asks*: each call puts work of duration d into the
# device's queue, which takes the host only a short time q, and returns. After n calls
#
# $$ t_{\text{not waiting}} = n\,q, \qquad t_{\text{waiting}} = q + n\,d \quad (d \ge q) $$
#
# where "waiting" means that the host synchronises, that is, sleeps until the queue is empty, before it reads the clock.


# %%
def timeline(n, q, d):
    """Return when the host asks and when the device works, n calls: (start, length) each."""
    asks = [(i * q, q) for i in range(n)]
    works, free = [], 0.0
    for start, length in asks:
        begin = max(free, start + length)  # asked, and the one before it done
        works.append((begin, d))
        free = begin + d
    return asks, works


n, q, d = 5, 0.1, 0.8  # ms
asks, works = timeline(n, q, d)
not_waiting = sum(asks[-1])
waiting = sum(works[-1])
assert abs(not_waiting - n * q) < 1e-9 and abs(waiting - (q + n * d)) < 1e-9

figure, axes = viz.panels("time (ms)", size=(8.0, 2.6))
axes.broken_barh(asks, (1.6, 0.8), facecolor=viz.COLOURS[0], edgecolor=viz.INK)
axes.broken_barh(works, (0.6, 0.8), facecolor=viz.COLOURS[1], edgecolor=viz.INK, hatch="//")
axes.set_yticks([2.0, 1.0], ["host asks", "device works"])
axes.set_ylim(0.3, 3.4)
axes.set_xlim(0.0, 4.6)
for at, words in ((not_waiting, "the clock, not waiting"), (waiting, "the clock, waiting")):
    axes.axvline(at, color=viz.INK, linestyle=":")
    side = "right" if at > 2.0 else "left"
    axes.text(at, 2.9, f" {words} ", ha=side)
show(
    figure,
    "Two rows of bars against time. The host asks five times in the first half millisecond. "
    "The device works for four milliseconds, from 0.1 ms on. A clock read without waiting "
    "stops at 0.5 ms, with waiting at 4.1 ms.",
)

# %% [markdown]
# Three more things spoil a measurement. The **first call** compiles, or gets memory, and is slow: leave it out. Work asked
# for **earlier** may still be in the queue when the clock starts: wait before, too. And a machine does other things at
# times: measure several times, and take the **median**, which one slow run does not move, as it would a mean.
#
# ### Exercise 03.4 ★★★ A timer
#
# Call `work` `warmup` times unmeasured, then `repeats` times, each measured on its own, and return the median. `synchronize()`
# waits until the device is idle, and `clock()` returns seconds. The check hands you a device and a clock of its own, on
# which every mistake has its time.
#
# <details><summary>Hint</summary>
#
# For each repeat: wait, read, work, wait, read. `statistics.median` takes a list.
#
# </details>


# %% tags=["exercise"]
def measure(work, synchronize, clock=time.perf_counter, warmup=2, repeats=7):
    """Return the median time in seconds of a call of work(), the device's work included."""
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
# And now in earnest, on what computes here. `backend.synchronize(xp)` waits for a GPU, and returns at once on NumPy, where
# a call comes back when its work is done.

# %%
wait = lambda: backend.synchronize(xp)
for dtype in (np.float32, np.float64):
    a = xp.asarray(rng.standard_normal((512, 512)), dtype=dtype)
    seconds = measure(lambda a=a: a @ a, wait)
    rate = 2 * 512**3 / seconds / 1e9
    print(f"512 x 512 product, {np.dtype(dtype)}: {1e3 * seconds:.2f} ms, {rate:.0f} Gflop/s")
    assert seconds > 0.0

# %% [markdown]
# float64 takes about twice as long on a processor, which fits half as many numbers in a register. GPUs made for graphics
# have few units for float64 and take 32 or 64 times as long; those made for science about twice. So check gradients in
# float64 on small arrays, and train in float32.
#
# What does the median protect from? Here are a hundred runs of one thing, each measured on its own.

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
    "A hundred timings of one softmax as dots, their median a solid line, their mean dashed. "
    "Slow runs, where there are any, lift the mean more than the median.",
)

# %% [markdown]
# ## What you have now
#
# * Operations that follow their inputs: one rule, handed its library, for NumPy, CuPy and whatever refuses to be either.
# * A device of your own making that finds what would fail on a GPU, and a whole GAM that ran on it.
# * The list of what differs though the code is the same: ids, scalars, copies, order, sums; and a timer that waits.
# * The next notebook puts the first rule of the GAM on this ground: the causal convolution. Notebook 12 uses the timer's
#   ideas to ask how cost grows with length.
#
# **Read on in the code:** `minigam/engine/backend.py`, all of it; `class Op` in `minigam/engine/dispatch.py`; `tests/helpers/fakegpu.py`.
