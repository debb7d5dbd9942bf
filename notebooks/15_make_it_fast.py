# %% [markdown]
# # 15 · Make it fast
#
# **Goal.** Find out where the time of a training step goes, and take it away: fewer passes over memory, work that stays in the cache, no
# fresh arrays, logits that never exist whole. Every step is measured, and held equal to the plain rule. At the end you know
# what NumPy can do, which time is a lower bound for any code, and how near to it this project comes, PyTorch beside it.
#
# **Time.** 75 minutes, 4 exercises. **Needs** 01 (rules and the tape), 06 (the gate), 08 (training). Letters: N rows, C channels, V vocabulary, B rows of a batch, T tokens.

# %% tags=["setup"]
import math
import subprocess
import sys
import time

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
from minigam.course import check, results, show

# %% [markdown]
# ## 1. Measure first
#
# Where would *you* look for the time? Decide before you run the cell. `minigam.profile` runs training steps of a small GAM and
# charges to every operation the time until its result is there.

# %%
corpus = from_pocketstories(block_size=128, n_train=400, n_valid=16)
config = GAMConfig(
    vocab_size=len(corpus.tokenizer), block_size=128, d_model=128, n_layers=2, n_slots=64, kernel_size=4
)
model = GAM(config, seed=0)
measured = profile.measure(model, corpus, TrainConfig(batch_size=8))
print(profile.head(model, TrainConfig(batch_size=8)))
print(profile.text(measured))

# %%
total = {}
for (name, _), seconds in measured.seconds.items():
    total[name] = total.get(name, 0.0) + 1e3 * seconds
largest = sorted(total, key=total.get)[-9:]
figure, axes = viz.panels("ms a step, forward and backward", size=(7.5, 3.8))
axes.barh(largest, [total[name] for name in largest], color="0.7", edgecolor="k")
show(
    figure,
    "Bars of the milliseconds of each operation in a training step. Products (linear) are "
    "the longest; operations that do little with each number, such as gelu, layer_norm and "
    "the gate, take a good part of the rest.",
)
assert abs(sum(total.values()) - 1e3 * sum(measured.seconds.values())) < 1e-6

# %% [markdown]
# Two kinds of work. *Products* of matrices do many multiplications with each number they read. *Passes* (GELU, LayerNorm, the
# gate, softmax, dropout) do a few. A pass does hardly any arithmetic, and yet takes a good part of the time. Why?
#
# ## 2. A pass costs its traffic
#
# The processor computes faster than memory delivers. `y = x * 2` on $n$ numbers of float32 reads $4n$ bytes and writes $4n$,
# and with $\beta$ bytes a second between processor and memory it cannot take less time than
#
# $$ t \;\ge\; \frac{\text{bytes read} + \text{bytes written}}{\beta} = \frac{8\,n}{\beta} $$
#
# So the arithmetic does not matter much, and the *number of passes* does. Is that true here?


# %%
def median_ms(f, repeats=7):
    """Return the median time of f() in milliseconds, after one call that does not count."""
    f()
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        f()
        times.append(1e3 * (time.perf_counter() - began))
    return float(np.median(times))


rng = np.random.default_rng(15)
n = 2**24  # 64 MiB of float32: more than a cache holds
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
# One multiplication, one addition or nothing but copying: about the same time, give or take what else the machine does. A second pass costs once more
# (somewhat less than the first here, as it works in place and meets one array instead of two). Medians, because a mean is moved by one hiccup.
#
# ## 3. GELU, step by step
#
# The reference rule says what GELU is, in the letters of its formula:
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
    """Assert that value and gradient are those of the reference."""
    for ours, theirs in zip(got, want, strict=True):
        assert np.abs(ours - theirs).max() < 2e-5


# %% [markdown]
# **Step 1: do less.** Value and slope need the same exponential, so compute it once. And float32 keeps 7 digits, so a short formula
# for erf is enough, here number 7.1.26 of Abramowitz and Stegun, off by at most 1.5e-7:
#
# $$ \mathrm{erfc}(z) \approx t\,\big(a_1 + t\,(a_2 + t\,(a_3 + t\,(a_4 + t\,a_5)))\big)\; e^{-z^2}, \qquad
#    t = \frac{1}{1 + p\,z}, \qquad z \ge 0 $$
#
# With $z = |x| / \sqrt 2$ its $e^{-z^2}$ is the $e^{-x^2/2}$ of the slope, and $\mathrm{erf}(x / \sqrt 2)$ is $1 - \mathrm{erfc}(z)$ with the sign of x.

# %%
p, a = 0.3275911, (0.254829592, -0.284496736, 1.421413741, -1.453152027, 1.061405429)
HALF, NORMAL = math.sqrt(0.5), 1.0 / math.sqrt(2.0 * math.pi)


def erfc(z):
    t, q = 1.0 / (1.0 + p * z), 0.0
    for coefficient in reversed(a):  # Horner's rule, from the inside
        q = t * (coefficient + q)
    return q * math.exp(-z * z)


assert max(abs(erfc(z) - math.erfc(z)) for z in np.linspace(0.0, 6.0, 601)) < 1.5e-7


def gelu_short(x, dy):
    e = np.exp(-0.5 * x * x)
    t = 1.0 / (1.0 + (p * HALF) * np.abs(x))
    q = t * (a[0] + t * (a[1] + t * (a[2] + t * (a[3] + t * a[4]))))
    half_erf = np.copysign(0.5 - 0.5 * q * e, x)
    Phi = half_erf + 0.5
    return x * Phi, dy * (Phi + x * e * NORMAL)


same(gelu_short(x, dy))

# %% [markdown]
# **Step 2: in place.** Each operation of the cell above asks for a new array, fills it, and lets it go. NumPy's `out=` and `+=` write into
# one that is there. Now the rule
# needs the two arrays of its results, which hold what comes between as well, and one array besides.


# %%
def gelu_into(x, y, slope):
    """Write GELU of x into y, and its derivative into slope; all of one shape."""
    e = np.multiply(x, x, out=slope)
    e *= -0.5
    np.exp(e, out=e)  # exp(-x^2 / 2)
    t = np.abs(x)
    t *= p * HALF
    t += 1.0
    np.divide(1.0, t, out=t)
    q = np.multiply(t, a[4], out=y)
    for coefficient in a[3::-1]:
        q += coefficient
        q *= t
    q *= e
    q *= -0.5
    q += 0.5  # erf(|x| / sqrt 2) / 2
    Phi = np.copysign(q, x, out=q)
    Phi += 0.5
    e *= x
    e *= NORMAL
    e += Phi  # the slope
    Phi *= x  # y


y, slope = np.empty_like(x), np.empty_like(x)


def gelu_in_place(x, dy):
    gelu_into(x, y, slope)
    return y, dy * slope


same(gelu_in_place(x, dy))

# %% [markdown]
# **Step 3: in tiles.** Those are still more than twenty passes over arrays that no cache holds. But no number depends on its neighbour: so take a
# *tile*, a part that fits into the cache, do all passes on it, and go on to the next. Memory then sees each number once on its
# way in and once on its way out.


# %%
def gelu_tiled(x, dy, tile=numeric.TILE):
    flat_x, flat_y, flat_slope = (z.reshape(-1) for z in (x, y, slope))
    for start in range(0, x.size, tile):
        part = slice(start, start + tile)
        gelu_into(flat_x[part], flat_y[part], flat_slope[part])
    return y, dy * slope


same(gelu_tiled(x, dy))


def gelu_of_the_project(x, dy):
    y, backward = ops.gelu.fast["numpy"](np, x)
    return y, backward(dy)[0]


same(gelu_of_the_project(x, dy))

# %% [markdown]
# Now the times, in alternation: each round runs every version once, so that a moment in which the machine is busy with something else
# falls on all of them alike.

# %%
versions = {
    "reference": gelu_reference,
    "short formula": gelu_short,
    "in place": gelu_in_place,
    "in place, in tiles": gelu_tiled,
    "the project's rule": gelu_of_the_project,
}
rounds = {name: [] for name in versions}
for _ in tqdm(range(7), desc="rounds", leave=False):
    for name, gelu in versions.items():
        rounds[name].append(median_ms(lambda gelu=gelu: gelu(x, dy), 1))
steps = {name: float(np.median(times)) for name, times in rounds.items()}
figure, axes = viz.panels("ms, forward and backward of 8 million numbers", size=(7.5, 3.0))
names = list(steps)[::-1]
bars = axes.barh(names, [steps[name] for name in names], color="0.7", edgecolor="k")
axes.bar_label(bars, [f"{steps[name]:.0f}" for name in names], padding=3)
axes.set_xlim(0, 1.15 * max(steps.values()))
show(
    figure,
    "Five bars, one a version of GELU: "
    + "; ".join(f"{name} {ms:.0f} ms" for name, ms in steps.items())
    + ".",
)

# %% [markdown]
# The short formula is off by about as much as float32 rounds anyway: `same` compares every number with the reference, to 2e-5.
#
# ## 4. How large is a tile?
#
# A small tile means many calls, and a call from Python costs about a microsecond whatever it does. A large one leaves the cache. With $c$
# the cost of a call, and $k$ calls a tile of $m$ numbers, each number pays at least
#
# $$ \frac{t}{n} \;\ge\; \frac{k\,c}{m} + \text{work per number} $$
#
# and the second term grows as soon as the tile no longer fits. The best is between. Watch eight cheap passes:

# %%
n = 2**24  # 64 MiB, which leaves even a large cache
numbers, kept = rng.standard_normal(n, dtype=np.float32), np.empty(n, np.float32)


def eight_passes(tile):
    """Eight cheap passes over every tile, the results in `kept`."""
    for start in range(0, n, tile):
        v, e = numbers[start : start + tile], kept[start : start + tile]
        np.multiply(v, 0.5, out=e)
        e += 1.0
        e *= 0.5
        e -= 0.25
        e *= e
        e += 1.0
        e *= 0.25
        e -= v


at_once = ((((numbers[:1000] * 0.5 + 1.0) * 0.5 - 0.25) ** 2) + 1.0) * 0.25 - numbers[:1000]
sizes, ns = [2**k for k in range(9, 25)], []
for tile in tqdm(sizes, desc="tiles", leave=False):
    ns.append(1e6 * median_ms(lambda tile=tile: eight_passes(tile), 3) / n)
    assert np.abs(kept[:1000] - at_once).max() < 1e-5, "whatever the tile, the same numbers"
figure, axes = viz.panels("numbers in a tile", "time per number (ns)")
axes.loglog(sizes, ns, "ko-", markersize=4)
axes.set_xscale("log", base=2)
axes.axvline(numeric.TILE, color="0.5", linestyle=":")
axes.annotate("TILE", (numeric.TILE, 0.7 * max(ns)), xytext=(5, 0), textcoords="offset points")
show(
    figure,
    "Time per number against the size of a tile, both logarithmic: highest for tiles of a "
    "few hundred numbers, where calls cost most, lowest in the middle, higher again where a "
    "tile no longer fits into a cache.",
)
numbers = kept = None  # their memory is wanted below

# %% [markdown]
# Left the calls, in the middle the cache, right the memory. Where the right end begins to rise depends on the caches of the machine. And how *much* a tile gains depends
# on the work: these passes are cheap, so they wait for memory; GELU's exponential and division are not.

# %% [markdown]
# ### Exercise 15.1 ★☆☆ Softmax, a few rows at a time
#
# Write the softmax of each row of `s` (N, C) into `out`, `tile` rows at a time, and return `out`. What you ask for besides may be as large
# as a few tiles, never as large as `s`: the check watches your memory. `out` may be `s` itself, and then this is a softmax in place.
#
# <details><summary>Hint</summary>
#
# `e = out[start : start + tile]` is a *view*: what is written into it stands in `out`. `np.subtract(..., out=e)`, `np.exp(e, out=e)` and
# `e /= ...` write into it, but `e = np.exp(e)` gives the name e to a new array and leaves `out` alone. The last tile may be shorter; slices
# take care of it.
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
assert np.abs(softmax_rows(s, out, 128) - plain()).max() < 1e-6
print(f"reference {median_ms(plain, 5):5.1f} ms")
print(f"yours     {median_ms(lambda: softmax_rows(s, out, 128), 5):5.1f} ms")

# %% [markdown]
# Do not be disappointed where the two are close: the exponential is most of the work, and freed memory is kept here (section 5). What your version surely has is that it
# asks for nothing as large as its input.

# %% [markdown]
# ### Exercise 15.2 ★★☆ The gate, fused
#
# E7 in one go: $\mathrm{fused} = \sigma(g_{local}) \odot \mathrm{local\_context} + \sigma(g_{global}) \odot \mathrm{global\_context}$, written into `out` (N, C), `tile` rows at a time. `gate` (N, 2C)
# holds both, the local C columns first. Change no input, return `out`, and again ask for no more than a few tiles of memory.
#
# <details><summary>Hint</summary>
#
# For each part: the sigmoids of `gate[part]` (a new array of one tile), then its left half times the local context into `out[part]`, then add its
# right half times the global one. $\sigma(z) = (1 + \tanh(z/2))/2$ cannot overflow.
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
# ## 5. No fresh arrays
#
# An array of many megabytes is asked for from the operating system, which hands out its memory page by page, at the moment each page is first touched, filled
# with zeros: a *page fault*. Freed, it goes back, and the next one begins anew. So a fresh array is a hidden pass, and a slow one.
#
# A process can tell its C library to keep what is freed, and `train_step` does so (`memory.keep_freed_memory`). As this notebook
# has called it above and it cannot be undone, we look at a new process.

# %%
script = """
import resource, time
import numpy as np
from minigam import memory

n, buffer = 2**23, np.ones(2**23, np.float32)

def fresh():
    np.empty(n, np.float32).fill(1.0)

def reused():
    buffer.fill(1.0)

def report(name, f):
    f()
    times, before = [], resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(9):
        began = time.perf_counter()
        f()
        times.append(1e3 * (time.perf_counter() - began))
    faults = (resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) / 9
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
assert faults[1] <= faults[0], "an array that was touched before gives no new faults"

# %% [markdown]
# (A system that hands out pages of 2 MiB counts few faults, each of them long.)
#
# ## 6. The batch in parts
#
# Tiles once more, one floor up. A step keeps for its way back what every layer computed: memory grows with the batch. The loss
# is a mean over targets, and a gradient is linear, so with $n_k$ targets in part $k$, and $n$ in all,
#
# $$ \mathcal{L} = \sum_k \frac{n_k}{n}\, \mathcal{L}_k, \qquad
#    \frac{\partial \mathcal{L}}{\partial \theta} = \sum_k \frac{n_k}{n}\, \frac{\partial \mathcal{L}_k}{\partial \theta} $$
#
# exactly, but for rounding. Only the parts' shares must be right: a mean of means is another number when parts have unequal numbers of targets, and stories
# do. (A negative target is no target: what follows the end of a story.)
#
# ### Exercise 15.3 ★★☆ The same step in parts
#
# `loss_and_gradient(ids, targets)` returns the mean loss over the targets that are not negative, and its gradient, an array. It refuses rows
# without any such target. Call it for `size` rows at a time, the last time perhaps for fewer, and return the loss and the gradient of the
# whole batch. Never hold the gradients of all parts at once: add them up.
#
# <details><summary>Hint</summary>
#
# `count = (targets >= 0).sum()` for the whole, and for a part the same of its rows. A part that has none is left out. The sum of the gradient can begin
# as 0.0.
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
axes.plot(sizes, peaks, "ko-", markersize=5)
axes.set_ylim(bottom=0.0)
show(
    figure,
    "Peak memory grows with the rows in a part, from a fraction for one row at a time to "
    "the most for all 16 at once.",
)
assert peaks[-1] > 2 * peaks[0]

# %% [markdown]
# The same gradient in a fraction of the memory. And what is smaller stays in the cache, so that parts often are *faster* too.
# `train_step` takes a few rows at a time for that reason, as many as a cache likes; with dropout as well, because there a mask is a function
# of the token's place in the batch.
#
# ## 7. Logits that never exist whole
#
# The largest array of this model's training step is not in any block: it is the logits, N rows of V numbers, and their gradient once more. For the published
# model, 8,192 rows of 10,000 words, that is 328 MB each. Yet of all of them only one number is wanted:
#
# $$ z = x W^\top, \qquad \mathcal{L} = \frac{1}{n}\sum_i \Big(\log\sum_v e^{z_{iv}} - z_{i,y_i}\Big) $$
#
# $$ dz_{iv} = \frac{\partial\mathcal{L}}{\partial z_{iv}} = \frac{1}{n}\Big(\frac{e^{z_{iv}}}{\sum_{v'} e^{z_{iv'}}} - [v = y_i]\Big) $$
#
# (with $[v = y_i]$ 1 at the target and 0 elsewhere), and then $dx = dz\,W$ and $dW = dz^\top x$. Row $i$ of $dz$ needs row $i$ of $z$ and nothing else. So take a few rows, compute
# their logits, their loss and at once their *gradient*, and forget the logits before the next rows come.
#
# ### Exercise 15.4 ★★★ Head and loss in chunks
#
# Return the mean loss, dx and dW, for `rows` rows of x at a time. A negative target is no target: it adds nothing and has no gradient, and n
# counts the others. Logits may be large, so take the largest of each row out of the exponential. The check measures your peak memory: never hold all logits.
#
# <details><summary>Hint</summary>
#
# n first. For one chunk: `z = x[part] @ weight.T`, subtract the row's largest, and keep `z[np.arange(len(z)), y]` before you overwrite z with its
# exponentials (y being the targets with 0 in place of negative ones). Softmax, minus 1 at the target, times (1/n for a target, 0 for none): that
# is dz. Then `dx[part] = dz @ weight` and `dweight += dz.T @ x[part]`.
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


def of_the_tape():
    x_, weight_ = Tensor(x, requires_grad=True), Tensor(weight, requires_grad=True)
    loss = ops.linear_cross_entropy(x_, weight_, targets)
    loss.backward(retain_graph=False)
    return loss.item(), x_.grad, weight_.grad


def plainly():
    with reference_only():
        return of_the_tape()


print(f"all logits: {4 * N * V / 2**20:.0f} MiB")
found = {}
for name, f in (
    ("reference", plainly),
    ("yours, 128 rows", lambda: head_loss(x, weight, targets, 128)),
    ("the project's", of_the_tape),
):
    with memory.track_memory(np) as taken:
        found[name] = f()
    print(f"{name:<17}{taken.peak_bytes / 2**20:7.1f} MiB{median_ms(f, 3):8.1f} ms")
for name in ("yours, 128 rows", "the project's"):
    for ours, theirs in zip(found[name], found["reference"], strict=True):
        assert np.abs(ours - theirs).max() < 1e-4 * np.abs(theirs).max()

# %% [markdown]
# ## 8. Small things that pay
#
# **Sums as products.** NumPy's sum along the last axis adds up row by row; a product with ones, or `np.vecdot`, hands the same sum to BLAS, or to a loop made for it. Which is the fastest depends on shapes and
# machine: a thing to measure, not to believe.

# %%
s, ones = rng.standard_normal((8192, 512), dtype=np.float32), np.ones(512, np.float32)
ways = {
    "s.sum(axis=1)": lambda: s.sum(axis=1),
    "s @ ones": lambda: s @ ones,
    "np.vecdot(s, ones)": lambda: np.vecdot(s, ones),
}
for name, f in ways.items():
    print(f"{name:<20}{median_ms(f):6.2f} ms")
    assert np.abs(f() - s.sum(axis=1, dtype=np.float64)).max() < 1e-3

# %% [markdown]
# **What did not pay.** This is a report from building the project, nothing that is measured here: two Python threads, each with half of the batch (they gained little
# with the large model and somewhat more with the small one, at the price of a second copy of the gradient, and BLAS wants the same cores); numexpr, which evaluates a
# whole expression in tiles of its own; an erf faster than the short formula above. They were tried, measured, and left out.
#
# ## 9. Two rules, one operation
#
# Fast code is hard to read, so it does not replace the plain rule: it stands *beside* it. An operation has a reference, and may have a faster
# rule for a library. `reference_only()` switches all faster ones off, and tests hold the two equal. Here is a toy, softplus:
#
# $$ y = \log(1 + e^{x}) = \max(x, 0) + \log(1 + e^{-|x|}), \qquad \frac{dy}{dx} = \frac{1}{1 + e^{-x}} = 1 - e^{-y} $$

# %%
ran = []


@op
def softplus(xp, x):
    """Softplus, y = log(1 + exp(x)), the plain rule."""
    ran.append("reference")
    y = xp.maximum(x, 0.0) + xp.log1p(xp.exp(-xp.abs(x)))
    return y, lambda dy: (dy * (1.0 - xp.exp(-y)),)


@softplus.faster("numpy")
def softplus_in_place(xp, x):
    """The same contract, one scratch array; keeps y alone."""
    ran.append("faster")
    y = np.abs(x)
    np.negative(y, out=y)
    np.exp(y, out=y)
    np.log1p(y, out=y)
    y += np.maximum(x, 0.0)

    def backward(dy):
        dx = np.negative(y)
        np.expm1(dx, out=dx)  # exp(-y) - 1
        dx *= dy
        return (np.negative(dx, out=dx),)

    return y, backward


x = Tensor(rng.standard_normal((3, 5)) * 3.0, requires_grad=True)
fast = softplus(x).data
with reference_only():
    slow = softplus(x).data
print(ran)
assert ran == ["faster", "reference"]
assert np.abs(fast - slow).max() < 1e-12
assert np.abs(slow - np.log1p(np.exp(x.data))).max() < 1e-12
assert gradcheck(softplus, x) < 1e-6  # the faster one
with reference_only():
    assert gradcheck(softplus, x) < 1e-6

# %% [markdown]
# ## 10. The lower bound
#
# What is left when all passes are free? The products. That of (i, k) with (k, j) has $2\,i\,k\,j$ floating-point operations and, if each matrix goes
# through memory once, $4\,(ik + kj + ij)$ bytes. Operations per byte, its *intensity* (notebook 12), decide who waits for whom:
#
# $$ \text{product: } \frac{2\,ikj}{4\,(ik + kj + ij)} \;=\; \frac{m}{6} \;\text{ for } i = k = j = m,
#    \qquad\quad \text{pass: } \frac{1}{8} $$

# %%
m = 1024
intensity = 2 * m**3 / (4 * 3 * m**2)
assert abs(intensity - m / 6) < 1e-9
A, B, out = *rng.standard_normal((2, m, m), dtype=np.float32), np.empty((m, m), np.float32)
product = 2 * m**3 / (median_ms(lambda: np.matmul(A, B, out=out), 5) * 1e6)  # GFLOP/s
a_pass = m**2 / (median_ms(lambda: np.multiply(A, 2.0, out=out)) * 1e6)
assert (A.nbytes + out.nbytes) / A.size == 8  # bytes for one operation
print(profile.blas())
print(f"product of {m} x {m}: {intensity:6.1f} operations a byte, {product:8.2f} GFLOP/s")
print(f"one matrix, times 2:     {1 / 8:8.2f} operations a byte, {a_pass:8.2f} GFLOP/s")
print(
    f"\nThe step profiled above: its products alone take {1e3 * measured.bound:.1f} ms "
    f"of {1e3 * measured.alone:.1f} ms, "
    f"so it runs at {measured.bound / measured.alone:.0%} of their speed."
)

# %% [markdown]
# Products are left to BLAS, and their time is a lower bound for any code that uses this
# BLAS. The larger the model, the larger their share, and the nearer the bound: per token, of the order of $C^2$ operations in a product stand against $C$ in a pass.
#
# ## 11. Beside PyTorch
#
# The stored benchmark, made with `python -m benchmarks.train_step`: a whole training step, each measurement a process of its own, in alternation, five rounds. "Tuned" is
# the best that was found for PyTorch: its fused optimiser, the best part size, the best settings of malloc.

# %%
stored = results("train_step")
print(stored["environment"])
figure, axes = viz.panels("time, in multiples of minigam's", n=2, size=(10.0, 3.4))
for one, (name, measurement) in zip(axes, stored["configs"].items(), strict=True):
    summary = measurement["summary"]
    labels = [label for label in summary if "autograd" not in label][::-1]
    ratios = [summary[label]["time_ratio"] for label in labels]
    low, middle, high = np.array([sorted(r.values()) for r in ratios]).T
    height, spread = np.arange(len(labels)), (middle - low, high - middle)
    one.errorbar(middle, height, xerr=spread, fmt="ko", capsize=3, markersize=5)
    one.set_yticks(height, labels if one is axes[0] else [])
    one.axvline(1.0, color="0.5", linestyle=":")
    one.set_xlim(left=0.0)
    numbers = measurement["model"]
    one.set_title(
        f"{name}: C {numbers['d_model']}, L {numbers['n_layers']}, V {numbers['vocab_size']}", fontsize=10
    )
show(
    figure,
    "Time of a training step in multiples of minigam's, two sizes of model. PyTorch tuned "
    "lies left of 1, faster; PyTorch eager right of 1 for the published model and left of "
    "it for the small one; the products alone are leftmost.",
)

# %%
lines = [
    "| model | | s / step | time / minigam, median (range) | peak memory (MiB) |",
    "|---|---|---|---|---|",
]
for name, measurement in stored["configs"].items():
    for label, found in measurement["summary"].items():
        ratio = sorted(found["time_ratio"].values())
        peak = "" if label == "matrix products alone" else f"{found['peak_mib']:,.0f}"
        lines.append(
            f"| {name} | {label} | {found['seconds']:.3f} "
            f"| {ratio[1]:.2f} ({ratio[0]:.2f} to {ratio[2]:.2f}) "
            f"| {peak} |"
        )
    summary = measurement["summary"]
    assert summary["PyTorch tuned"]["seconds"] < summary["minigam"]["seconds"]
    assert summary["minigam"]["peak_mib"] < summary["PyTorch tuned"]["peak_mib"]
Markdown("\n".join(lines))

# %% [markdown]
# Read it as it is. **PyTorch tuned is faster**, at both sizes; it takes several times the memory, part of which is PyTorch itself. At the published size minigam in NumPy is faster than
# PyTorch without tuning ("eager"), and it and the tuned one are near the products, so there is not much left to gain. At the small size the passes count for more, NumPy does
# them on one core, and PyTorch on both.
#
# ## What you have now
#
# * A habit: profile, count the passes, change one thing, hold it equal, measure again.
# * Four rules of your own that fit into the cache or into little memory, and give the same numbers.
# * A lower bound to compare with, and an honest place beside it.
#
# **Read on in the code:** `minigam/engine/compiled/rows.py`, `minigam/training/step.py` (`parts_of`), `minigam/training/profile.py`,
# `minigam/engine/dispatch.py` (`Op.faster`).
