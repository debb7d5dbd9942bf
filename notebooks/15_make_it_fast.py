# %% [markdown]
# # 15 · Make it fast
#
# **Goal.** Find out where the time of a training step goes, and reduce it. Count the passes that NumPy makes over
# memory, keep their data in the cache, then replace them by one compiled loop. Run the loop on all cores, and read it
# as CUDA. You measure every version, and one gradient check holds for all. At the end you know what NumPy can do,
# what C adds, and which time is a lower bound for any code.
#
# **Time.** 120 minutes, 4 exercises. **Needs** 01 (rules and the tape), 06 (the gate), 08 (training). Letters: N rows,
# C channels, V vocabulary, B rows of a batch, T tokens, L layers; n counts numbers or targets, m is a size, b is a
# block of rows.

# %% tags=["setup"]
import minigam  # before NumPy, because it sets how NumPy's BLAS waits (section 6)

# isort: split
import ctypes
import math
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from IPython.display import Markdown
from tqdm import tqdm

from minigam import (
    GAM,
    GAMConfig,
    Tensor,
    TrainConfig,
    from_pocketstories,
    gradcheck,
    inputs_and_targets,
    memory,
    numeric,
    op,
    ops,
    profile,
    reference_only,
    viz,
)
from minigam.course import check, median_ms, results, show

# %% [markdown]
# ## 1. Measure first
#
# Every operation has a *reference rule*, written in NumPy to be read. On the CPU it also has a *faster rule*, whose
# loops are written in C. `reference_only()` switches the faster rules off. Begin with the reference rules: where
# would *you* expect the time to go? Decide before you run the cell. `minigam.profile` runs training steps of a small
# GAM and measures the time of each operation, forward and backward.

# %%
corpus = from_pocketstories(block_size=128, n_train=400, n_valid=16)
config = GAMConfig(
    vocab_size=len(corpus.tokenizer), block_size=128, d_model=128, n_layers=2, n_slots=64, kernel_size=4
)
model = GAM(config, seed=0)
with reference_only():
    in_numpy = profile.measure(model, corpus, TrainConfig(batch_size=8))
print(profile.head(model, TrainConfig(batch_size=8)))
print(profile.text(in_numpy))


# %%
def ms_by_operation(measured):
    """Return the milliseconds of each operation, forward and backward together."""
    total = {}
    for (name, _), seconds in measured.seconds.items():
        total[name] = total.get(name, 0.0) + 1e3 * seconds
    return total


numpy_ms = ms_by_operation(in_numpy)
largest = sorted(numpy_ms, key=numpy_ms.get)[-9:]
figure, axes = viz.panels("ms a step, forward and backward", size=(7.5, 3.8))
axes.barh(largest, [numpy_ms[name] for name in largest], **viz.bars(0))
show(
    figure,
    "Bars of the milliseconds of each operation in a training step of the reference rules: "
    + "; ".join(f"{name} {numpy_ms[name]:.0f} ms" for name in largest[::-1])
    + ".",
)
assert abs(sum(numpy_ms.values()) - 1e3 * sum(in_numpy.seconds.values())) < 1e-6

# %% [markdown]
# There are two sorts of work. *Products* of matrices (`linear`, most of `linear_cross_entropy` and of
# `associative_memory`) do many multiplications with each number they read. *Elementwise* operations (GELU, LayerNorm,
# the gate, softmax, dropout) do only a few. The last lines of the table compare the whole step with its products
# alone. The difference is elementwise work, which has hardly any arithmetic. Why does it take so long?
#
# (Measure on a quiet machine. If other programs compute at the same time, the threads of BLAS, the library that
# computes the products, wait for each other. The products then look much slower than they are.)
#
# ## 2. A pass costs its traffic
#
# The CPU computes faster than memory delivers. `y = x * 2` on $n$ numbers of float32 is one *pass*: it reads $4n$
# bytes and writes $4n$ bytes. This is its *traffic*. If the memory moves $\beta$ bytes a second, the pass cannot take
# less time than
#
# $$ t \;\ge\; \frac{\text{bytes read} + \text{bytes written}}{\beta} = \frac{8\,n}{\beta} $$
#
# If this bound decides, the *number of passes* matters and the arithmetic hardly does. Is that true here?


# %%
rng = np.random.default_rng(15)
n = 2**24  # 64 MiB of float32: more than most caches hold
x, y = rng.standard_normal(n, dtype=np.float32), np.empty(n, np.float32)
copying = median_ms(lambda: np.copyto(y, x))
bandwidth = 8 * n / (copying * 1e-3)  # beta, in bytes a second
print(f"a copy:          {copying:6.2f} ms, that is {bandwidth / 1e9:.1f} GB/s")
for name, pass_over in {
    "x * 2": lambda: np.multiply(x, 2, out=y),
    "x + 1": lambda: np.add(x, 1, out=y),
    "-x": lambda: np.negative(x, out=y),
    "x * 2, then + 1": lambda: np.add(np.multiply(x, 2, out=y), 1, out=y),
}.items():
    print(f"{name + ':':<17}{median_ms(pass_over):6.2f} ms")
assert x.nbytes + y.nbytes == 8 * n
assert np.array_equal(np.add(np.multiply(x, 2, out=y), 1, out=y), x * 2 + 1)

# %% [markdown]
# One multiplication, one addition and a plain copy take about the same time, as far as other work on the machine
# allows. A second pass costs the same again (here somewhat less, because it works in place, on one array instead of
# two). All these times are medians, because one interruption changes a mean.
#
# ## 3. How many passes does GELU make?
#
# The reference rule computes, in the letters of its formula,
#
# $$ y = x\,\Phi(x), \qquad \Phi(x) = \frac{1}{2}\big(1 + \mathrm{erf}(x/\sqrt 2)\big) $$
#
# $$ \frac{dy}{dx} = \Phi(x) + x\,\varphi(x), \qquad \varphi(x) = \frac{e^{-x^2/2}}{\sqrt{2\pi}} $$

# %%
shape = (4096, 2048)  # 8 million numbers, 32 MiB of float32
x, dy = rng.standard_normal((2, *shape), dtype=np.float32)
x *= 2.0


def gelu_reference(x, dy):
    y, backward = ops.gelu.rule(np, x)
    return y, backward(dy)[0]


def exact(v):
    return v * 0.5 * (1.0 + math.erf(v / math.sqrt(2.0)))


some = x[0, :8].astype(np.float64)
want = gelu_reference(x, dy)
assert np.abs(want[0][0, :8] - [exact(v) for v in some]).max() < 1e-5
difference = np.array([(exact(v + 1e-5) - exact(v - 1e-5)) / 2e-5 for v in some])
assert np.abs(want[1][0, :8] - dy[0, :8] * difference).max() < 1e-4


def same(got):
    """Assert that the value and the gradient equal those of the reference, to 2e-5."""
    for ours, theirs in zip(got, want, strict=True):
        assert np.abs(ours - theirs).max() < 2e-5


# %% [markdown]
# `numeric.normal` computes $\Phi$ as an exponential times a quotient of two polynomials. NumPy computes one operation
# at a time, each over the whole array. An array can count these operations: NumPy calls `__array_ufunc__` for every
# operation on an array of a class of our own. If pass $i$ reads $r_i$ bytes and writes $w_i$ bytes, the bound is
#
# $$ t \;\ge\; \frac{1}{\beta}\sum_i (r_i + w_i), \qquad \text{of which needed: } \frac{20\,n}{\beta} $$
#
# The needed part follows from the formula. The forward pass must read $x$ and write $y$. The backward pass must read
# $x$ and $dy$ and write $dx$. That is five times $4n$ bytes.


# %%
class Counted(np.ndarray):
    """An array that records, for each operation, its name and the bytes it reads and writes."""

    passes = []

    def __array_ufunc__(self, ufunc, method, *inputs, **settings):
        plain = [np.asarray(a) if isinstance(a, np.ndarray) else a for a in inputs]
        y = getattr(ufunc, method)(*plain, **settings)
        arrays = [a for a in plain if isinstance(a, np.ndarray)]
        self.passes.append((ufunc.__name__, sum(a.nbytes for a in arrays) + y.nbytes))
        return y.view(Counted)


few = x[:64]
gelu_reference(few.view(Counted), dy[:64].view(Counted))
names = [name for name, _ in Counted.passes]
traffic = sum(size for _, size in Counted.passes) / few.size  # bytes for each number
print(f"{len(names)} passes: {', '.join(names)}\n")
reference_ms = median_ms(lambda: gelu_reference(x, dy), repeats=3)
print(f"bytes read and written for each number: {traffic:.0f}, needed: 20")
print(
    f"at {bandwidth / 1e9:.1f} GB/s at least {1e3 * traffic * x.size / bandwidth:.0f} ms, measured {reference_ms:.0f} ms"
)
print(f"the bound for one pass forward and one backward: {1e3 * 20 * x.size / bandwidth:.0f} ms")
assert len(names) > 20 and traffic > 10 * 20

# %% [markdown]
# This is more than ten times the traffic that the formula needs. (The bound counts bytes only. The exponential and
# the divisions add arithmetic; a number that is still in the cache costs less than the bound assumes. So the measured
# time may be above or below the bound.)
#
# ## 4. Tiles that fit the cache
#
# In GELU each output depends on one input only. So take a *tile*, a part of the array that fits the cache, make all
# passes over it, and continue with the next tile. Then memory delivers each number once. But a call from Python costs
# about a microsecond, however small the tile is. If a call costs $c$, and a tile of $m$ numbers needs $k$ calls, each
# number costs at least
#
# $$ \frac{t}{n} \;\ge\; \frac{k\,c}{m} + \text{work per number} $$
#
# The second term grows when the tile no longer fits the cache. The best size is between the two.


# %%
flat_x, flat_dy = x.reshape(-1), dy.reshape(-1)
y, dx = np.empty_like(x), np.empty_like(x)
flat_y, flat_dx = y.reshape(-1), dx.reshape(-1)


def gelu_tiled(tile, n=x.size):
    """Apply the reference rule to one tile after the other; write the results into y and dx, return them."""
    for start in range(0, n, tile):
        part = slice(start, min(start + tile, n))
        flat_y[part], flat_dx[part] = gelu_reference(flat_x[part], flat_dy[part])
    return y, dx


same(gelu_tiled(numeric.TILE))
sizes, ns, n = [2**k for k in range(9, 23)], [], 2**22
for tile in tqdm(sizes, desc="tiles", leave=False):
    flat_y[:n] = np.nan
    ns.append(1e6 * median_ms(lambda tile=tile: gelu_tiled(tile, n), repeats=3) / n)
    assert np.abs(flat_y[:n] - want[0].reshape(-1)[:n]).max() < 2e-5, "whatever the tile, the same numbers"
figure, axes = viz.panels("numbers in a tile", "time per number (ns)")
axes.loglog(sizes, ns, **viz.STYLES[0], markersize=4)
axes.set_xscale("log", base=2)
show(
    figure,
    "Time per number of GELU, forward and backward, against the size of a tile, both "
    f"logarithmic: {ns[0]:.0f} ns for tiles of {sizes[0]} numbers, {min(ns):.0f} ns for the best, "
    f"{sizes[int(np.argmin(ns))]} numbers, {ns[-1]:.0f} ns for all {sizes[-1]} at once.",
)
print(f"best tile: {ns[-1] / min(ns):.1f} times as fast as the whole array at once")

# %% [markdown]
# On the left most of the time goes to calls. In the middle the data stay in the cache. On the right every pass goes
# to memory. Tiles help, but the passes remain: each still loads every number from the cache into the CPU and stores
# the result, on one core. On the other hand, tiles need no compiler and save memory. The next two exercises use them.

# %% [markdown]
# ### Exercise 15.1 ★☆☆ Softmax, a few rows at a time
#
# Write the softmax of each row of `s` (N, C) into `out` (N, C), `tile` rows at a time, and return `out`. You may
# allocate a few tiles, but no array as large as `s`: the check measures your memory. `out` may be the same array as
# `s`; then this is a softmax in place. If it is another array, leave `s` unchanged.
#
# <details><summary>Hint</summary>
#
# `e = out[start : start + tile]` is a *view*: what you write into it is written into `out`. `np.subtract(...,
# out=e)`, `np.exp(e, out=e)` and `e /= ...` write into it. `e = np.exp(e)` does not: it gives the name e to a new
# array, and `out` does not change. The last tile may be shorter; a slice ends where the array ends.
#
# </details>


# %% tags=["exercise"]
def softmax_rows(s, out, tile):
    """Write the softmax of each row of s (N, C) into out (N, C), by tiles; return out."""
    # SOLUTION
    for start in range(0, len(s), tile):
        part = slice(start, start + tile)
        e = out[part]
        np.subtract(s[part], s[part].max(axis=1, keepdims=True), out=e)
        np.exp(e, out=e)
        e /= e.sum(axis=1, keepdims=True)
    return out
    # END


# %%
check.ex_15_1(softmax_rows)

# %%
s = rng.standard_normal((8192, 512), dtype=np.float32)
out = np.empty_like(s)
plain = lambda: ops.softmax.rule(np, s)[0]
assert np.abs(softmax_rows(s, out, 128) - plain()).max() < 1e-4
print(f"reference {median_ms(plain, repeats=5):5.1f} ms")
print(f"yours     {median_ms(lambda: softmax_rows(s, out, 128), repeats=5):5.1f} ms")

# %% [markdown]
# The two times may be close, because the exponential is most of the work, and because this process keeps freed memory
# (section 9). But your version saves memory: it never allocates an array as large as its input.

# %% [markdown]
# ### Exercise 15.2 ★★☆ The gate, fused
#
# Write E7, the sigmoid included, into `out` (N, C), `tile` rows at a time, and return `out`:
#
# $$ \mathrm{fused} = \sigma(g_{\mathrm{local}}) \odot \mathrm{local\_context} + \sigma(g_{\mathrm{global}}) \odot \mathrm{global\_context} $$
#
# `gate` (N, 2C) holds both halves, the C columns of $g_{\mathrm{local}}$ first. Leave the inputs unchanged, and again
# allocate no more than a few tiles.
#
# <details><summary>Hint</summary>
#
# For each tile: compute the sigmoids of `gate[part]`, a new array of one tile. Write its left half times the local
# context into `out[part]`, then add its right half times the global context. $\sigma(z) = (1 + \tanh(z/2))/2$ cannot
# overflow.
#
# </details>


# %% tags=["exercise"]
def fuse_into(local_context, global_context, gate, out, tile):
    """Write E7's fused into out (N, C), by tiles; return out.

    contexts : (N, C), gate : (N, 2C) before the sigmoid
    """
    # SOLUTION
    C = local_context.shape[1]
    for start in range(0, len(out), tile):
        part = slice(start, start + tile)
        opened = np.multiply(gate[part], 0.5)  # (tile, 2C)
        np.tanh(opened, out=opened)
        opened += 1.0
        opened *= 0.5
        np.multiply(opened[:, :C], local_context[part], out=out[part])
        opened[:, C:] *= global_context[part]
        out[part] += opened[:, C:]
    return out
    # END


# %%
check.ex_15_2(fuse_into)

# %% [markdown]
# ## 5. One loop in C
#
# Tiles do not reduce the number of passes. A function that computes all of GELU makes only one. NumPy has no such
# function, so write it in C: a loop that reads a number, does everything with it in registers, and writes the result.
# Its traffic is the 20 bytes for each number that the formula needs.
#
# There is one difficulty. `expf` and `erfcf` of the C library are functions of one number. A compiler cannot turn a
# loop of such calls into *vector code*, in which one instruction handles 8 or 16 numbers. So minigam has these
# functions in plain arithmetic. This is its exponential: write $x = k \ln 2 + r$; compute $e^r$ by a polynomial, and
# $2^k$ from the bits of a float.

# %%
kernels = minigam.engine.compiled.kernels
FUNCTIONS = minigam.engine.compiled.functions.FUNCTIONS
print(re.search(r"static inline float exp_[\s\S]*?^\}", FUNCTIONS, re.M)[0])

# %% [markdown]
# The next cell has the loops twice: once with the calls, and once with minigam's `Phi_`, which uses this exponential
# and the polynomials of `numeric.normal`. `EACH` tells the compiler that no iteration reads what another one writes.
# `minigam.engine.compiler` finds the C compiler of this machine and keeps what it has built. Without a compiler, this
# notebook uses the reference rule, as minigam does.

# %%
LOOPS = r"""
void forward(size n, const REAL* x, REAL* y) {
    EACH for (size i = 0; i < n; ++i) y[i] = x[i] * Phi_(x[i]).value;
}
void back(size n, const REAL* x, const REAL* dy, REAL* dx) {
    EACH for (size i = 0; i < n; ++i) {
        const Normal at = Phi_(x[i]);  // Phi and its slope, phi
        dx[i] = dy[i] * (at.value + x[i] * at.slope);
    }
}

#ifdef FLOAT32
void forward_by_calls(size n, const REAL* x, REAL* y) {
    for (size i = 0; i < n; ++i) y[i] = x[i] * 0.5f * erfcf(-x[i] * 0.70710678f);
}
void back_by_calls(size n, const REAL* x, const REAL* dy, REAL* dx) {
    for (size i = 0; i < n; ++i) {
        const REAL phi = 0.39894228f * expf(-0.5f * x[i] * x[i]);
        dx[i] = dy[i] * (0.5f * erfcf(-x[i] * 0.70710678f) + x[i] * phi);
    }
}
#endif
"""


def compiled(source):
    """Return the libraries of a C source by dtype; no library if C cannot be compiled."""
    try:
        library = minigam.engine.compiler.library
        return {
            "float32": library(source, "-DREAL=float", "-DFLOAT32")[0],
            "float64": library(source, "-DREAL=double", "-DFLOAT64")[0],
        }
    except minigam.engine.compiler.NoCompiler as e:
        print(f"no compiled loops here: {e}")
        return {}


def call(function, *arrays):
    """Call a C function with the size and the addresses of arrays of one size and dtype."""
    assert all(
        a.flags.c_contiguous and (a.size, a.dtype) == (arrays[0].size, arrays[0].dtype) for a in arrays
    )
    function(ctypes.c_longlong(arrays[0].size), *(ctypes.c_void_p(a.ctypes.data) for a in arrays))


loops = compiled(kernels.COMMON + FUNCTIONS + LOOPS)
print(f"compiler: {kernels.compiler_name()}")


def gelu_calls(x, dy):
    call(loops["float32"].forward_by_calls, x, y)
    call(loops["float32"].back_by_calls, x, dy, dx)
    return y, dx


def gelu_vectors(x, dy):
    call(loops["float32"].forward, x, y)
    call(loops["float32"].back, x, dy, dx)
    return y, dx


versions = {"NumPy, whole arrays": gelu_reference, "NumPy, in tiles": lambda x, dy: gelu_tiled(numeric.TILE)}
if loops:
    versions |= {"C, calls, 1 thread": gelu_calls, "C, vector code, 1 thread": gelu_vectors}
for name, gelu in versions.items():
    same(gelu(x, dy))
    print(f"{name:<26}{median_ms(lambda gelu=gelu: gelu(x, dy), repeats=3):7.1f} ms")

# %% [markdown]
# `same` compares every number with the reference, to 2e-5. The loop with the calls makes one pass, too, but it
# computes one number at a time. So it need not be faster than NumPy, whose own loops are vector code. Only one pass
# *and* vector code together make the difference.
#
# ## 6. All cores, and the same bits
#
# These are minigam's own loops for GELU. A *kernel* computes the entries `first` to `last - 1`, so that several
# threads can share the work. The backward kernel computes $\Phi$ again, because reading it from memory would take
# longer.

# %%
c_text = "".join(kernels.SOURCES)
print(
    "\n".join(
        re.findall(r"^(?:static inline REAL \w+_gelu\(.*|KERNEL each_gelu\w*\([\s\S]*?^\})", c_text, re.M)
    )
)
print("\n// each thread:\n" + re.search(r"^static void take_blocks[\s\S]*?^\}", kernels.THREADS, re.M)[0])

# %% [markdown]
# Each thread takes a block of rows, computes it, and takes the next free block, until none is left. A thread that was
# interrupted takes fewer blocks.
#
# For GELU it does not matter which thread computes an entry. For a *sum* over rows, such as the gradient of a bias,
# it does matter, because floating-point addition is not associative. With one partial sum for each *thread*, the last
# bits would change with the number of threads. minigam therefore keeps one partial sum for each *block* $b$, whose
# size does not depend on the threads, and adds these in the order of the blocks:
#
# $$ s_b = \sum_{i \in \text{block } b} x_i, \qquad s = (\dots((s_0 + s_1) + s_2) + \dots) $$

# %%
numbers, block = rng.standard_normal(2**20, dtype=np.float32), 2**14


def sum_by(size, threads):
    """Return the sum of `numbers`: a partial sum for each `size` numbers, on some threads, added in order."""
    with ThreadPoolExecutor(threads) as pool:
        partial = pool.map(lambda i: numbers[i : i + size].sum(), range(0, len(numbers), size))
        return sum(partial, np.float32(0.0))


by_thread = [sum_by(-(-len(numbers) // threads), threads) for threads in (1, 2, 3, 5)]
by_block = [sum_by(block, threads) for threads in (1, 2, 3, 5)]
print("one partial sum for each thread:", *(f"{s:.9g}" for s in by_thread))
print("one partial sum for each block: ", *(f"{s:.9g}" for s in by_block))
assert len(set(by_block)) == 1, "the same bits, whichever thread computes a block"
print("\n" + re.search(r"^// sums \(blocks, D\)[\s\S]*?^\}", c_text, re.M)[0])

# %% [markdown]
# `sum_rows` writes the partial sum of a block to place `first / step`. Is this true of the real kernels?
# LayerNorm sums over rows for two of its gradients. Run it in new processes with one thread and with two, and compare
# all results bit by bit:

# %%
script = """
import hashlib
import minigam
import numpy as np
from minigam import Tensor, ops

rng = np.random.default_rng(0)
x, weight, bias, dy = (rng.standard_normal(s, dtype=np.float32) for s in ((5000, 512), 512, 512, (5000, 512)))
x, weight, bias = (Tensor(a, requires_grad=True) for a in (x, weight, bias))
y = ops.layer_norm(x, weight, bias)
y.backward(dy)
bits = b"".join(a.tobytes() for a in (y.data, x.grad, weight.grad, bias.grad))
print(minigam.threads.count(), hashlib.sha256(bits).hexdigest()[:16])
"""
hashes = []
for threads in (1, 2):
    environment = os.environ | {"OPENBLAS_NUM_THREADS": str(threads)}  # which the kernels follow
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    threads_used, digest = done.stdout.split()
    hashes.append(digest)
    print(f"threads {threads_used}: {digest}")
assert hashes[0] == hashes[1]

# %% [markdown]
# Two groups of threads share the cores: these, and those of BLAS. After a product the threads of BLAS wait for the
# next one by spinning, which keeps a core busy. If you import minigam before NumPy, it tells OpenBLAS not to spin. If
# NumPy was loaded first, the kernels stay on one thread.
#
# Now measure all versions in alternation. Each round runs every version once, so that a busy moment of the machine
# affects all of them. The dotted line is the traffic of one pass forward and one backward, at the bandwidth of
# section 2.


# %%
def gelu_of_minigam(x, dy):
    y, backward = ops.gelu.fast["numpy"](np, x)
    return y, backward(dy)[0]


same(gelu_of_minigam(x, dy))
versions[f"minigam ({kernels.in_use()}), threads: {minigam.threads.count()}"] = gelu_of_minigam
rounds = {name: [] for name in versions}
for _ in tqdm(range(5), desc="rounds", leave=False):
    for name, gelu in versions.items():
        rounds[name].append(median_ms(lambda gelu=gelu: gelu(x, dy), repeats=1))
steps = {name: float(np.median(times)) for name, times in rounds.items()}
needed = 1e3 * 20 * x.size / bandwidth
figure, axes = viz.panels("ms, forward and backward of 8 million numbers", size=(7.5, 3.0))
names = list(steps)[::-1]
bars = axes.barh(names, [steps[name] for name in names], **viz.bars(0))
axes.bar_label(bars, [f"{steps[name]:.0f}" for name in names], padding=3)
axes.axvline(needed, color=viz.INK, linestyle=":")
axes.set_xlim(0, 1.15 * max(steps.values()))
show(
    figure,
    "Bars, one for each version of GELU: "
    + "; ".join(f"{name} {ms:.0f} ms" for name, ms in steps.items())
    + f". A dotted line at {needed:.0f} ms, the traffic that is needed.",
)

# %% [markdown]
# The line uses the bandwidth of a copy on one core. Several cores together may reach more, so a bar may end left of
# the line. If other programs keep the other cores busy, threads gain nothing.
#
# Other approaches were tried while this project was built. (This is a report; nothing here measures it.) numexpr
# evaluates a whole expression in tiles of its own, but one expression at a time. Numba's loops are about as fast as
# these, but need 184 MB and 8 s of compiling. Two Python threads, each with half of the batch, gained little and
# needed a second copy of the gradient.
#
# ## 7. The same rule in CUDA
#
# A GPU runs thousands of threads. There is no loop over a block: every thread computes one entry, and `my_index()`
# tells it which one. Otherwise the text is the same. (`VALUE` and `SLOPE` stand for `gelu` and `gelu_slope`; $\Phi$
# is CUDA's own `normcdf`.)

# %%
cuda_text = minigam.engine.cuda.elementwise.ACTIVATIONS
lines = r"^(?:__device__ REAL gelu\(.*|__device__ REAL gelu_slope[\s\S]*?^\}|extern \"C\"[\s\S]*?^\})"
print("\n\n".join(re.findall(lines, cuda_text, re.M)))

# %% [markdown]
# Sums need more care on a GPU, too. In softmax, which needs the sum of a row, 32 threads (a *warp*) share a row. Each
# adds every 32nd entry; then they exchange their partial sums in a fixed order (`minigam/engine/cuda/softmax.py`).
#
# You need no GPU to test this text. A few lines of C define what CUDA would provide, and run the threads one after
# the other on the CPU. This tests the *text*, but neither a GPU nor its compiler. It is enough for GELU, whose
# threads exchange nothing; minigam's own tests emulate warps as well.

# %%
PRETEND = r"""
#include <math.h>
typedef struct { int x, y; } Dim;
static Dim threadIdx, blockIdx, blockDim = {128};
#define __global__ static
#define __device__ static
#define __shfl_xor_sync(warp, x, distance) (x)  // GELU does not use it
static double normcdf(double x) { return 0.5 * erfc(-x * 0.70710678118654752440); }
"""
EVERY_THREAD = "for (blockIdx.x = 0; blockIdx.x * 128LL < n; ++blockIdx.x) for (threadIdx.x = 0; threadIdx.x < 128; ++threadIdx.x)"
RUN = f"""
void forward(size n, const REAL* x, REAL* y) {{ {EVERY_THREAD} activate(x, y, n); }}
void back(size n, const REAL* x, const REAL* dy, REAL* dx) {{ {EVERY_THREAD} activate_back(x, dy, dx, n); }}
"""
cuda_source = (minigam.engine.cuda.kernels.COMMON + cuda_text).replace('extern "C" ', "")
macros = "#define VALUE gelu\n#define SLOPE gelu_slope\n"
emulated = compiled(PRETEND + macros + cuda_source + RUN)
if emulated:
    call(emulated["float32"].forward, x, y)
    call(emulated["float32"].back, x, dy, dx)
    same((y, dx))

# %% [markdown]
# ## 8. One gradient check for all three
#
# Fast code is hard to read, so it does not replace the plain rule. An operation keeps its reference rule and may have
# one faster rule for each library, registered by `faster`. Both have the same contract: arrays in, the value and a
# backward function out. Here is GELU as an operation of our own. Its reference is the plain rule, and its faster rule
# is the loops of section 5. A second operation uses the CUDA text:


# %%
@op
def our_gelu(xp, x):
    """GELU, the plain rule."""
    Phi, phi = numeric.normal(xp, x)
    return x * Phi, lambda dy: (dy * (Phi + x * phi),)


def rule_of(libraries):
    """Return the rule that calls forward and back of these libraries; the reference if there are none."""

    def rule(xp, x):
        if x.dtype.name not in libraries:
            return our_gelu.rule(xp, x)
        library, x = libraries[x.dtype.name], np.ascontiguousarray(x)
        y = np.empty_like(x)
        call(library.forward, x, y)

        def backward(dy):
            dx = np.empty_like(x)
            call(library.back, x, np.ascontiguousarray(dy), dx)
            return (dx,)

        return y, backward

    return rule


our_gelu.faster("numpy")(rule_of(loops))


@op
def gelu_in_cuda(xp, x):
    """GELU by the CUDA text, emulated."""
    return rule_of(emulated)(xp, x)


def plainly(x):
    with reference_only():
        return our_gelu(x)


checked = {"reference": plainly}
if loops and emulated:
    checked |= {
        "C": our_gelu,
        "CUDA text, emulated": gelu_in_cuda,
        f"minigam's, {kernels.in_use()}": ops.gelu,
    }
x = Tensor(rng.standard_normal((4, 6)) * 3.0, requires_grad=True)
for name, gelu in checked.items():
    error = gradcheck(gelu, x)
    print(f"{name:<22} worst relative error {error:.0e}")
    assert error < 1e-6
    assert np.abs(gelu(x).data - plainly(x).data).max() < 1e-12
wrong = op(lambda xp, x: (x * numeric.normal(xp, x)[0], lambda dy: (dy * numeric.normal(xp, x)[0],)))
try:
    gradcheck(wrong, x)
except AssertionError as e:
    print("without x phi(x):     ", e)
else:
    raise AssertionError("a wrong gradient passed")

# %% [markdown]
# One check serves all versions, and it can fail: the last line shows a rule whose gradient lacks a term. On a machine
# with a GPU, `minigam gradcheck --backend cupy` checks the real CUDA kernels in the same way. `minigam gradcheck
# --kernels reference` checks the plain rules.

# %% [markdown]
# ## 9. No fresh arrays
#
# The memory of an array of many megabytes comes from the operating system. It hands out this memory page by page,
# filled with zeros, when a page is first touched: a *page fault*. When the array is freed, the memory goes back, and
# the next array needs new pages. So a fresh array costs a hidden, slow pass, in C as much as in NumPy.
#
# A process can tell its C library to keep freed memory, and `train_step` does so (`memory.keep_freed_memory`). The
# profile above has called it in this process, and it cannot be undone. So the next cell uses a new process.

# %%
script = """
import time
import numpy as np
from minigam import memory

try:
    import resource
    count = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt
except ImportError:  # Windows does not count page faults
    count = lambda: 0

n, buffer = 2**23, np.ones(2**23, np.float32)

def fresh():
    np.empty(n, np.float32).fill(1.0)

def reused():
    buffer.fill(1.0)

def report(name, f):
    f()
    times, before = [], count()
    for _ in range(9):
        start = time.perf_counter()
        f()
        times.append(1e3 * (time.perf_counter() - start))
    faults = (count() - before) / 9
    print(f"{name:<28}{np.median(times):7.2f} ms{faults:9.1f} page faults")

report("fresh", fresh)
report("reused", reused)
memory.keep_freed_memory()
report("fresh, freed memory kept", fresh)
"""
done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
print(done.stdout or done.stderr)
faults = [float(line.split()[-3]) for line in done.stdout.splitlines()]
assert done.returncode == 0 and len(faults) == 3
assert faults[1] <= faults[0], "an array that was touched before causes no new faults"

# %% [markdown]
# (A system that hands out pages of 2 MiB counts few faults, each of them long.)
#
# ## 10. The batch in parts
#
# The idea of tiles also works for a whole training step. A step keeps what its backward pass needs from every layer,
# so its memory grows with the batch. But the loss is a mean over targets, and a gradient is linear. With $n_k$
# targets in part $k$, and $n$ in all,
#
# $$ \mathcal{L} = \sum_k \frac{n_k}{n}\, \mathcal{L}_k, \qquad
#    \frac{\partial \mathcal{L}}{\partial \theta} = \sum_k \frac{n_k}{n}\, \frac{\partial \mathcal{L}_k}{\partial \theta} $$
#
# This is exact, except for rounding. The weights must be right: a plain mean of the parts' means is wrong when the
# parts have different numbers of targets. This is so for stories: a negative target stands for no target, after the
# end of a story.
#
# ### Exercise 15.3 ★★☆ The same step in parts
#
# `loss_and_gradient(ids, targets)` returns the mean loss over the targets that are not negative, and its gradient, an
# array. It raises an error if its rows have no such target. Call it for `size` rows at a time (for fewer the last
# time), and return the loss and the gradient of the whole batch. Never hold the gradients of all parts at once: add
# them up.
#
# <details><summary>Hint</summary>
#
# `(targets >= 0).sum()` counts the targets of the whole batch; the same for the rows of a part counts its targets.
# Skip a part that has none. The sum of the gradient can start at 0.0.
#
# </details>


# %% tags=["exercise"]
def in_parts(loss_and_gradient, ids, targets, size):
    """Return (loss, gradient) of the batch ids, targets (B, T), size rows at a time."""
    # SOLUTION
    total, loss, gradient = (targets >= 0).sum(), 0.0, 0.0
    for start in range(0, len(ids), size):
        part = slice(start, start + size)
        count = (targets[part] >= 0).sum()
        if count == 0:
            continue
        part_loss, part_gradient = loss_and_gradient(ids[part], targets[part])
        loss = loss + count / total * part_loss
        gradient = gradient + count / total * part_gradient
    return loss, gradient
    # END


# %%
check.ex_15_3(in_parts)

# %%
ids, targets = inputs_and_targets(corpus.train[:16])
model = GAM(config, seed=0).eval()  # no dropout, so that the parts can be compared


def loss_and_gradient(ids, targets):
    model.zero_grad()
    loss = model.loss(ids, targets)
    loss.backward(retain_graph=False)
    gradient = np.concatenate([p.grad.reshape(-1) for p in model.parameters()])
    model.zero_grad()
    return loss.item(), gradient


sizes, peaks = (1, 2, 3, 4, 8, 16), []
whole_loss, whole_gradient = loss_and_gradient(ids, targets)
for size in sizes:
    with memory.track_memory(np) as taken:
        loss, gradient = in_parts(loss_and_gradient, ids, targets, size)
    peaks.append(taken.peak_bytes / 2**20)
    assert abs(loss - whole_loss) < 1e-5
    assert np.abs(gradient - whole_gradient).max() < 1e-4 * np.abs(whole_gradient).max()
figure, axes = viz.panels("rows in a part", "peak memory of a step (MiB)")
axes.plot(sizes, peaks, **viz.STYLES[0], markersize=5)
axes.set_ylim(bottom=0.0)
show(
    figure,
    "Peak memory grows with the rows in a part: it is smallest for one row at a time, and "
    "several times as large for all 16 at once.",
)
assert peaks[-1] > 2 * peaks[0]

# %% [markdown]
# This is the same gradient in a fraction of the memory. Smaller arrays stay in the cache, so parts are often
# *faster*, too. `train_step` therefore takes as many rows at a time as fit the cache. This also works with dropout,
# because the mask is a function of the token's place in the batch.
#
# ## 11. Logits that never exist whole
#
# The largest array of this training step is in no GAM block. It is the logits, N rows of V numbers, and their
# gradient has the same size. For the published model these are 8,192 rows of 10,000 numbers, 328 MB each. Yet only
# one number is wanted from all of them:
#
# $$ z = x W^\top, \qquad \mathcal{L} = \frac{1}{n}\sum_i \Big(\log\sum_v e^{z_{iv}} - z_{i,y_i}\Big) $$
#
# $$ dz_{iv} = \frac{\partial\mathcal{L}}{\partial z_{iv}} = \frac{1}{n}\Big(\frac{e^{z_{iv}}}{\sum_{v'} e^{z_{iv'}}} - [v = y_i]\Big) $$
#
# Here $y_i$ is the target of row $i$, and $[v = y_i]$ is 1 at the target and 0 elsewhere. Then $dx = dz\,W$ and $dW =
# dz^\top x$. Row $i$ of $dz$ depends only on row $i$ of $z$. So take a few rows. Compute their logits, their loss and
# at once their *gradient*, and drop the logits before you take the next rows.
#
# ### Exercise 15.4 ★★★ Head and loss in chunks
#
# Return the mean loss, dx and dW, and work on `rows` rows of x at a time. A negative target is no target: its row
# adds nothing to the loss and has no gradient, and n counts only the other rows. Logits may be large, so subtract the
# largest of each row before the exponential. The check measures your peak memory: never hold all logits.
#
# <details><summary>Hint</summary>
#
# Compute n first. For one chunk: `z = x[part] @ weight.T`, subtract the largest of each row, and keep
# `z[np.arange(len(z)), y]` before you overwrite z with its exponentials. (y are the targets, with 0 in place of
# negative ones.) dz is the softmax minus 1 at the target, times 1/n for a row with a target and 0 for one without.
# Then `dx[part] = dz @ weight` and `dweight += dz.T @ x[part]`.
#
# </details>


# %% tags=["exercise"]
def head_loss(x, weight, targets, rows):
    """Return (mean loss, dx (N, C), dweight (V, C)) of a linear head, rows of x at a time.

    x : (N, C), weight : (V, C), targets : (N) integers below V, a negative one is ignored
    """
    # SOLUTION
    n, loss = (targets >= 0).sum(), 0.0
    dx, dweight = np.empty_like(x), np.zeros_like(weight)
    for start in range(0, len(x), rows):
        part = slice(start, start + rows)
        counts, y = targets[part] >= 0, np.maximum(targets[part], 0)
        z = x[part] @ weight.T
        place = np.arange(len(z)), y
        z -= z.max(axis=1, keepdims=True)
        at_target = z[place]
        np.exp(z, out=z)
        sums = z.sum(axis=1)
        loss += (np.log(sums) - at_target)[counts].sum()
        z *= (counts / (sums * n)).astype(z.dtype)[:, None]
        z[place] -= counts / n  # z is dz now
        dx[part] = z @ weight
        dweight += z.T @ x[part]
    return loss / n, dx, dweight
    # END


# %%
check.ex_15_4(head_loss)

# %%
N, C, V = 2048, 64, 4000
x, weight = (rng.standard_normal((N, C), dtype=np.float32), rng.standard_normal((V, C), dtype=np.float32))
targets = rng.integers(-200, V, size=N)


def of_minigam():
    x_, weight_ = Tensor(x, requires_grad=True), Tensor(weight, requires_grad=True)
    loss = ops.linear_cross_entropy(x_, weight_, targets)
    loss.backward(retain_graph=False)
    return loss.item(), x_.grad, weight_.grad


def of_the_reference():
    with reference_only():
        return of_minigam()


print(f"all logits: {4 * N * V / 2**20:.0f} MiB")
outputs = {}
for name, f in (
    ("reference", of_the_reference),
    ("yours, 128 rows", lambda: head_loss(x, weight, targets, 128)),
    ("minigam's", of_minigam),
):
    with memory.track_memory(np) as taken:
        outputs[name] = f()
    print(f"{name:<17}{taken.peak_bytes / 2**20:7.1f} MiB{median_ms(f, repeats=3):8.1f} ms")
for name in ("yours, 128 rows", "minigam's"):
    for ours, theirs in zip(outputs[name], outputs["reference"], strict=True):
        assert np.abs(ours - theirs).max() < 1e-4 * np.abs(theirs).max()

# %% [markdown]
# ## 12. Where the time goes now
#
# What is left if all elementwise work is free? The products. The product of an (i, k) and a (k, j) matrix has
# $2\,i\,k\,j$ floating-point operations. If each matrix goes through memory once, its traffic is $4\,(ik + kj + ij)$
# bytes. The operations per byte are its *intensity* (notebook 12). It decides whether the CPU waits for memory:
#
# $$ \text{product: } \frac{2\,ikj}{4\,(ik + kj + ij)} \;=\; \frac{m}{6} \;\text{ for } i = k = j = m,
#    \qquad\quad \text{pass: } \frac{1}{8} $$

# %%
m = 1024
intensity = 2 * m**3 / (4 * 3 * m**2)
assert abs(intensity - m / 6) < 1e-9
left, right = rng.standard_normal((2, m, m), dtype=np.float32)
out = np.empty((m, m), np.float32)
product = 2 * m**3 / (median_ms(lambda: np.matmul(left, right, out=out), repeats=5) * 1e6)  # GFLOP/s
a_pass = m**2 / (median_ms(lambda: np.multiply(left, 2.0, out=out)) * 1e6)
assert (left.nbytes + out.nbytes) / left.size == 8  # bytes for one operation
print(profile.blas())
print(f"product of {m} x {m}: {intensity:6.1f} operations a byte, {product:8.2f} GFLOP/s")
print(f"one matrix, times 2:     {1 / 8:8.2f} operations a byte, {a_pass:8.2f} GFLOP/s")

# %% [markdown]
# So a large product can keep the CPU fully busy. BLAS, which has been tuned for decades, nearly achieves this, and
# minigam leaves products to it. Profile the step of section 1 again, now with all faster rules. For a fair
# comparison, the reference rules are measured once more just before:

# %%
model = GAM(config, seed=0)
with reference_only():
    in_numpy = profile.measure(model, corpus, TrainConfig(batch_size=8))
measured = profile.measure(model, corpus, TrainConfig(batch_size=8))
print(f"rules in use: {kernels.in_use()}; threads: {minigam.threads.count()}\n")
print(profile.text(measured))

# %%
numpy_ms, now_ms = ms_by_operation(in_numpy), ms_by_operation(measured)
largest = sorted(numpy_ms, key=numpy_ms.get)[-9:]
figure, axes = viz.panels("ms a step, forward and backward", size=(7.5, 4.4))
place = np.arange(len(largest))
axes.barh(place + 0.2, [numpy_ms[name] for name in largest], 0.4, **viz.bars(0), label="reference")
axes.barh(place - 0.2, [now_ms.get(name, 0.0) for name in largest], 0.4, **viz.bars(1), label="now")
axes.set_yticks(place, largest)
axes.legend(loc="lower right")
show(
    figure,
    "Pairs of bars: the milliseconds of each operation with the reference rules and with the faster ones: "
    + "; ".join(f"{name} {numpy_ms[name]:.0f} and {now_ms.get(name, 0.0):.0f}" for name in largest[::-1])
    + ".",
)
for name, one in (("reference", in_numpy), ("now", measured)):
    print(
        f"{name:<10} {1e3 * one.alone:6.1f} ms a step; its products alone take {1e3 * one.bound:.1f} ms, "
        f"{one.bound / one.alone:.0%} of it"
    )
assert measured.products == in_numpy.products, "the rules differ, the products do not"

# %% [markdown]
# What remains are the operations with products, and most of their time is the products themselves: a bias or a
# softmax takes little now. The time of the products alone is a lower bound for any code that uses this BLAS. The
# larger the model, the larger the share of the products: per token, a product has of the order of $C^2$ operations,
# elementwise work only of the order of $C$.
#
# ## 13. Next to PyTorch
#
# These are stored results, made by `python -m benchmarks.train_step`. They measure a whole training step. Each
# measurement has a process of its own; the programs alternate, over several rounds. "Eager" is PyTorch as one usually
# writes it. "Tuned" is the best that was found for PyTorch: its fused optimizer, the best part size, the best
# settings of malloc. "Reference rules" is minigam without its kernels.

# %%
stored = results("train_step")
print(stored["environment"])
figure, axes = viz.panels("time, in multiples of minigam's", n=2, size=(10.5, 3.4))
for one, (name, measurement) in zip(axes, stored["configs"].items(), strict=True):
    summary = measurement["summary"]
    labels = [label for label in summary if "autograd" not in label][::-1]
    ratios = [summary[label]["time_ratio"] for label in labels]
    low, middle, high = np.array([sorted(r.values()) for r in ratios]).T
    height, spread = np.arange(len(labels)), (middle - low, high - middle)
    one.errorbar(middle, height, xerr=spread, fmt="o", capsize=3, markersize=5)
    one.set_yticks(height, labels)
    one.axvline(1.0, color=viz.INK, linestyle=":")
    one.set_xlim(left=0.0)
    numbers = measurement["model"]
    one.set_title(
        f"{name}: C {numbers['d_model']}, L {numbers['n_layers']}, V {numbers['vocab_size']}", fontsize=10
    )
means = {
    f"{label}, {name}": one["time_ratio"]
    for name, measurement in stored["configs"].items()
    for label, one in measurement["summary"].items()
    if "autograd" not in label
}
show(
    figure,
    "Time of a training step in multiples of minigam's, for two sizes of model, median of the rounds: "
    + "; ".join(f"{label} {sorted(ratios.values())[1]:.2f}" for label, ratios in means.items())
    + ".",
)


# %%
def verdict(low, high):
    """Return what the range of the ratios over the rounds shows."""
    if low > 1.02:
        return "minigam faster in every round"
    return "minigam slower in every round" if high < 0.98 else "undecided"


assert verdict(0.9, 1.1) == "undecided"
lines = [
    "| model | | s / step | time / minigam, median (range) | | peak memory (MiB) |",
    "|---|---|---|---|---|---|",
]
for name, measurement in stored["configs"].items():
    for label, one in measurement["summary"].items():
        low, middle, high = sorted(one["time_ratio"].values())
        alone = label == "matrix products alone"
        peak = "" if alone else f"{one['peak_mib']:,.0f}"
        said = "lower bound" if alone else "" if label == "minigam" else verdict(low, high)
        lines.append(
            f"| {name} | {label} | {one['seconds']:.3f} | {middle:.2f} ({low:.2f} to {high:.2f}) | {said} | {peak} |"
        )
    summary = measurement["summary"]
    assert summary["matrix products alone"]["seconds"] < summary["minigam"]["seconds"]
    assert summary["minigam"]["peak_mib"] < summary["PyTorch tuned"]["peak_mib"]
alone = stored["configs"]["published"]["summary"]["matrix products alone"]["time_ratio"]
assert min(alone.values()) > 0.6
Markdown("\n".join(lines))

# %% [markdown]
# Read the ranges, not only the medians: if a range includes 1, the rounds do not agree. On this machine minigam's
# step takes less memory than that of tuned PyTorch, whose memory includes PyTorch itself. At the published size the
# products take most of minigam's step, so with this BLAS there is little left to gain. On the small model more of the
# time is elementwise work and the cost of calls. Other machines have other caches, other cores and another BLAS.
#
# ## What you can do now
#
# You can
#
# * profile a step, count its passes over memory, change one thing, and measure again,
# * keep a computation in the cache, or in little memory, without changing its numbers, and
# * compare a time with a lower bound, and say how much is left to gain.
#
# ## Think about it
#
# No check can answer these. Write down your answer, or discuss it with someone.
#
# 1. Which of these changes would you keep if the code had to fit on one page? Why?
# 2. A faster rule differs from the plain one in the last digit. Who has to agree before you use it?
#
# ## Read on
#
# In the code:
#
# * `minigam/engine/compiled/elementwise.py`, `rows.py` and `kernels.py`
# * `minigam/engine/cuda/elementwise.py`
# * `minigam/training/step.py` (`parts_of`) and `profile.py`
# * `minigam/engine/dispatch.py` (`Op.faster`)
#
# Elsewhere:
#
# * [What Every Programmer Should Know About Memory](https://people.freebsd.org/~lstewart/articles/cpumemory.pdf)
# * [Anatomy of High-Performance Matrix Multiplication](https://doi.org/10.1145/1356052.1356053)
# * [Online Normalizer Calculation for Softmax](https://arxiv.org/abs/1805.02867)
# * [Training Deep Nets with Sublinear Memory Cost](https://arxiv.org/abs/1604.06174)
