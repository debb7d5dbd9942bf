# %% [markdown]
# # 12 · O(N) or O(N²)?
#
# **Goal.** Predict what a block costs before you run it: the floating-point operations (flops) and bytes of a
# GAM block and a Transformer block as functions of the length. Find the length at which one becomes more
# expensive than the other. Measure the time, fit a power of the length to it, and explain why the fitted
# exponent is not the one in the title.
#
# **Time.** 95 minutes, 4 exercises. **Needs** 07 (the GAM block), 10 (attention). Letters: T tokens (the
# paper's N), C channels, S memory slots, M the memory, K kernel size, H heads, L layers, and E expanded
# channels and N states of Mamba. F is a number of flops, P flops a second, W bytes a second, I flops a byte,
# p an exponent. All counts are for one sequence, B = 1, unless B appears.

# %% tags=["setup"]
from collections import Counter
from statistics import median
from time import perf_counter

import numpy as np
from tqdm import tqdm

from minigam import (
    GAM,
    GAMConfig,
    Mamba,
    MambaConfig,
    Stream,
    Transformer,
    TransformerConfig,
    memory,
    observing,
    profile,
    viz,
)
from minigam import backend as backends
from minigam.course import check, library, results, show
from minigam.experiments import paper, scaling

# %%
xp = library()

# %% [markdown]
# ## 1. Counting
#
# Nearly all arithmetic of a language model is in matrix products. Each entry of the product (i, k) times (k,
# j) is a sum of k products. That is k multiplications and k additions, if we count the first addition, to
# zero. So
#
# $$ \mathrm{flops}\big((i, k) \times (k, j)\big) = 2\, i\, k\, j $$

# %%
i, k, j = 3, 4, 5
left, right = np.ones((i, k)), np.ones((k, j))
flops = 0
for row in range(i):
    for column in range(j):
        total = 0.0
        for inner in range(k):
            total += left[row, inner] * right[inner, column]
            flops += 2  # one multiplication, one addition
assert flops == 2 * i * k * j

# %% [markdown]
# ### Exercise 12.1 ★☆☆ The flops of a GAM block
#
# Count the flops of the forward pass of a GAM block on T tokens, for each part: the convolution (E2, K taps
# on each channel), the memory (E3 and E5), the gate (the product of E6), and the feed-forward (the two
# products of E9, with hidden width 4C). Leave out everything else: biases, norms, softmax, sigmoids, GELU,
# and the sums and products of E7. Return a dict with the four names in the docstring as keys.
#
# <details><summary>Hint</summary>
#
# First write down the shapes. E3 multiplies (T, C) by (C, S), and E5 multiplies the result by (S, C). $W_g$
# has 2C rows. The convolution has no matrix: each of T C numbers is a sum of K products.
#
# </details>


# %% tags=["exercise"]
def gam_flops(T, C, S, K):
    """Return the forward flops as a dict: convolution, memory, gate, feed-forward."""
    # SOLUTION
    return {
        "convolution": 2 * T * C * K,
        "memory": 4 * T * S * C,  # u M^T, a M
        "gate": 4 * T * C**2,  # (T, C) x (C, 2C)
        "feed-forward": 16 * T * C**2,  # (T, C) x (C, 4C), and back
    }
    # END


# %%
check.ex_12_1(gam_flops)

# %% [markdown]
# Add them up:
#
# $$ F_{\text{GAM}}(T) = T\, \big(20\, C^2 + 4\, S C + 2\, K C\big) $$
#
# In the published model S = C = 512. The memory and the convolution are only a small part of the arithmetic:

# %%
PUBLISHED = {"C": 512, "S": 512, "K": 3}
parts = gam_flops(T=256, **PUBLISHED)
total = sum(parts.values())
for name, flops in parts.items():
    print(f"{name:<14}{1e-6 * flops:>10.1f} Mflop {flops / total:>8.1%}")
C, S, K = PUBLISHED.values()
assert total == 256 * (20 * C**2 + 4 * S * C + 2 * K * C)
assert parts["memory"] < 0.2 * total and parts["convolution"] < 0.001 * total

# %% [markdown]
# **Backward.** For $y = x\, A^\top$, with x (i, k) and A (j, k), the backward pass has two products of the
# same three sizes:
#
# $$ dx = dy\, A, \qquad dA = dy^\top x, \qquad \text{each } 2\, i\, k\, j \text{ flops} $$
#
# So the products of a training step cost three times those of the forward pass. We can count them while they
# run. A `Block` of `minigam/experiments/scaling.py` is one block and T random tokens, and its `step()` runs
# forward and backward. `observing` shows every result that the tape computes. `profile.PRODUCTS` knows the
# products of each operation.


# %%
def counted(block: scaling.Block) -> Counter:
    """Return the flops of the products of one step, forward and backward, by operation."""
    flops = Counter()

    def watch(op, phase, arrays):
        if phase == "backward" and op in profile.PRODUCTS:
            flops[op] += sum(2 * n * i * k * j for n, i, k, j in profile.PRODUCTS[op](*arrays))

    with observing(watch):
        block.step()
    return flops


SMALL = {
    "batch": 1,
    "d_model": 64,
    "gam": {"n_slots": 48, "kernel_size": 4},
    "transformer": {"n_heads": 4},
    "mamba": {"expand": 2, "d_state": 8},
}
backend = xp.__name__
seen = counted(scaling.Block("gam", SMALL, T=96, backend=backend))
parts = gam_flops(96, 64, 48, 4)
print(dict(seen))
assert seen["associative_memory"] == 3 * parts["memory"]
assert seen["linear"] == 3 * (parts["gate"] + parts["feed-forward"])

# %% [markdown]
# ### Exercise 12.2 ★☆☆ The flops of a Transformer block
#
# Count the same for the Transformer: the projections (queries, keys, values and the output, four matrices of
# C by C), the attention ($q k^\top$ and $a v$, with every pair of tokens counted), and the feed-forward, as
# in GAM. There are H heads of C / H channels. Return a dict again.
#
# <details><summary>Hint</summary>
#
# One head multiplies (T, C/H) by (C/H, T), and then its weights (T, T) by (T, C/H). There are H heads. Does H
# cancel?
#
# </details>


# %% tags=["exercise"]
def transformer_flops(T, C, H):
    """Return the forward flops as a dict: projections, attention, feed-forward."""
    # SOLUTION
    head = 2 * T * T * (C // H)  # one of its two products
    return {
        "projections": 4 * 2 * T * C**2,
        "attention": H * 2 * head,  # H cancels: 4 T^2 C
        "feed-forward": 16 * T * C**2,
    }
    # END


# %%
check.ex_12_2(transformer_flops)

# %% [markdown]
# $$ F_{\text{Transformer}}(T) = 24\, T C^2 + 4\, T^2 C $$
#
# About half of the pairs are computed for nothing, because a key after the query is masked. Code that
# processes q queries at a time can skip the keys after the last of them. If T is a multiple of q, the m-th
# group of queries needs $m q$ keys, and the attention costs
#
# $$ \sum_{m=1}^{T/q} 4\, q\, (m q)\, C = 4\, q^2\, C \cdot \frac{1}{2}\, \frac{T}{q} \Big(\frac{T}{q} + 1\Big)
#    = 2\, T\, (T + q)\, C $$
#
# For q = T these are all pairs, and for a small q about half of them. minigam's rule for NumPy uses q = 128.
# Its rule for CUDA multiplies all pairs, and so does PyTorch without a fused kernel. (A fused kernel computes
# the attention in one pass and never stores the scores.)

# %%
H = 4
for T in (96, 128, 512):
    q = 128 if xp is np and T > 128 else T
    seen = counted(scaling.Block("transformer", SMALL, T=T, backend=backend))
    parts = transformer_flops(T, 64, H)
    assert sum(parts.values()) == 24 * T * 64**2 + 4 * T**2 * 64
    assert seen["linear"] == 3 * (parts["projections"] + parts["feed-forward"])
    assert seen["causal_attention"] == 3 * 2 * T * (T + q) * 64
    share = seen["causal_attention"] / (3 * parts["attention"])
    print(f"T {T}: {share:.1%} of all pairs multiplied")

# %% [markdown]
# ## 2. From which length on is GAM cheaper?
#
# First compare only attention and memory. Attention compares each token with T tokens, the memory with S
# slots:
#
# $$ 4\, T^2 C = 4\, T S C \quad\Longleftrightarrow\quad T = S $$
#
# So **the crossover is at T = S, the number of slots.** C cancels. A memory of 512 slots costs as much as
# attention over 512 tokens, for every length of text. (Where attention skips the masked half, the crossover
# is at T + q = 2 S, nearly twice as far.)

# %%
for S in (64, 512):
    for C in (64, 512):
        of_memory = [gam_flops(T, C, S, K=3)["memory"] for T in (S // 2, S, 2 * S)]
        attention = [transformer_flops(T, C, H=8)["attention"] for T in (S // 2, S, 2 * S)]
        assert attention[0] < of_memory[0]
        assert attention[1] == of_memory[1]
        assert attention[2] > of_memory[2]

# %% [markdown]
# ### Exercise 12.3 ★★☆ The crossover of whole blocks
#
# A block has other parts too. Above which length does a **whole** Transformer block cost more flops, forward,
# than a whole GAM block? Count every part and every pair. Return a float, not rounded, or 0.0 where the
# formula gives a negative number.
#
# <details><summary>Hint</summary>
#
# Solve $F_{\text{GAM}}(T) = F_{\text{Transformer}}(T)$. Divide both sides by 4 T C; one T remains.
#
# </details>


# %% tags=["exercise"]
def crossover(C, S, K):
    """Return the length above which a Transformer block costs more flops than a GAM block."""
    # SOLUTION
    return max(0.0, S - C + K / 2)  # 20 C + 4 S + 2 K = 24 C + 4 T
    # END


# %%
check.ex_12_3(crossover)

# %% [markdown]
# The Transformer spends 8 C² flops a token on its four projections, and GAM 4 C² on its gate. In the
# published model S = C, so the crossover lies below two tokens: in flops, GAM's block is cheaper for every
# text of two tokens or more. If S is much larger than C, the crossover moves to longer texts.

# %%
print(f"crossover, published sizes: {crossover(**PUBLISHED):.1f} tokens")
print(f"crossover, with 4096 slots: {crossover(512, 4096, 3):.1f} tokens")
assert crossover(**PUBLISHED) < 2
lengths = [2**e for e in range(6, 15)]
per_token = {
    "GAM, S = 512": [sum(gam_flops(T, 512, 512, 3).values()) / T for T in lengths],
    "GAM, S = 4096": [sum(gam_flops(T, 512, 4096, 3).values()) / T for T in lengths],
    "Transformer": [sum(transformer_flops(T, 512, 8).values()) / T for T in lengths],
}
assert len(set(per_token["GAM, S = 512"])) == 1, "the cost of a token does not depend on T"
figure = viz.complexity_plot(lengths, per_token, ylabel="forward flops a token")
figure.axes[0].axvline(crossover(512, 4096, 3), color=viz.INK, linestyle=":")
show(
    figure,
    "Flops a token of one block, C = 512. GAM's do not depend on the length: with 512 slots they lie "
    "below the Transformer's everywhere, with 4096 slots from about 3600 tokens on. The Transformer's "
    "rise, slowly at first and in proportion to T at the end.",
)

# %% [markdown]
# ## 3. Bytes
#
# Training keeps the arrays that the backward pass reads. Attention keeps its weights, one number for each
# pair of tokens in each head. GAM keeps its shares, one number for each token and slot. In float32 they need
#
# $$ \text{bytes}_{\text{attention}} = 4\, B H T^2, \qquad \text{bytes}_{\text{memory}} = 4\, B T S $$
#
# Here H does not cancel.

# %%
B, H, S = 16, 8, 512  # the paper's table 2
print(f"{'T':>6}{'weights of attention (GiB)':>28}{'shares of the memory (GiB)':>28}")
for T in paper.LENGTHS:
    weights, shares = 4 * B * H * T**2, 4 * B * T * S
    print(f"{T:>6}{weights / 2**30:>28.2f}{shares / 2**30:>28.3f}")
    assert weights / shares == H * T / S
assert 4 * B * H * 8192**2 > 30 * 2**30  # of one block

# %% [markdown]
# Does the paper's table agree? Write $m(T) = \alpha T + \beta T^2$ for the memory that its Transformer needs.
# Two lengths are enough for $\beta$, because in $m(2T) - 2\, m(T)$ the linear part cancels:
#
# $$ \beta = \frac{m(2T) - 2\, m(T)}{2\, T^2} $$

# %%
square_part = lambda m, T: (m[2 * T] - 2 * m[T]) / (2 * T**2)
invented = {T: 3.0 * T + 0.25 * T**2 for T in (1024, 2048)}
assert square_part(invented, 1024) == 0.25

theirs = dict(zip(paper.LENGTHS, paper.TABLE2["transformer"]["peak_mb"], strict=True))
bytes_each = 1e6 * square_part(theirs, 1024) / (B * H)  # of one weight
print(f"bytes for each attention weight: {bytes_each:.1f}")
assert 2 < bytes_each < 40

# %% [markdown]
# So several numbers of 2 or 4 bytes are kept for each weight. They are presumably scores, softmax, dropout's
# mask, and their gradients, without a fused kernel. With a fused kernel (FlashAttention) none of the T²
# numbers reaches main memory. Then the memory of attention is linear too. Its flops are not.
#
# ### Arithmetic intensity
#
# A processor's time is limited by its arithmetic or by its memory. The arithmetic intensity tells which: how
# many flops does a product do for each byte that it must move?
#
# $$ I = \frac{2\, i k j}{4\, (i k + k j + i j)} \quad \text{flops a byte, float32, each number moved once} $$
#
# If all three sizes are n, then $I = n / 6$: large products do many flops for each byte. A softmax reads and
# writes every number for only a few flops, so $I < 1$. A product with a single row reads the whole matrix for
# two flops a weight, so $I \approx 1/2$; this is what writing a text token by token does. Let the machine do
# P flops a second and move W bytes a second. For a computation whose numbers come from main memory the upper
# bound is the **roofline**:
#
# $$ \text{flops a second} \le \min(P,\; I\, W) $$


# %%
def intensity(i, k, j):
    """Return the flops a byte of a product (i, k) x (k, j) in float32."""
    return 2 * i * k * j / (4 * (i * k + k * j + i * j))


def seconds(f, repeats=5):
    """Return the shortest time of several calls, after one that is not counted."""
    times = []
    for _ in range(repeats + 1):
        backends.synchronize(xp)
        start = perf_counter()
        f()
        backends.synchronize(xp)
        times.append(perf_counter() - start)
    return min(times[1:])


n = 1024
square, into = xp.ones((n, n), dtype="float32"), xp.empty((n, n), dtype="float32")
large, copy = xp.ones(2**24, dtype="float32"), xp.empty(2**24, dtype="float32")
P = 2 * n**3 / seconds(lambda: xp.matmul(square, square, out=into))
W = 2 * large.nbytes / seconds(lambda: xp.copyto(copy, large))  # read and written
ridge = P / W
print(f"{1e-9 * P:.0f} Gflop/s, {1e-9 * W:.0f} GB/s")
print(f"below {ridge:.1f} flops a byte the memory limits this machine")
attainable = lambda intensity: np.minimum(P, intensity * W)

points = {
    "feed-forward": intensity(1024, 512, 2048),
    "memory, u Mᵀ": intensity(1024, 512, 512),
    "one head, q kᵀ": intensity(1024, 64, 1024),
    "a softmax": 5 / 8,
    "one token, x Aᵀ": intensity(1, 512, 2048),
}
assert abs(intensity(n, n, n) - n / 6) < 1e-9
assert 0.45 < points["one token, x Aᵀ"] < 0.5
reach = np.geomspace(0.1, 1000.0, 200)
figure, axes = viz.panels("arithmetic intensity I (flops a byte)", "Gflop/s", size=(7.0, 4.0))
axes.loglog(reach, 1e-9 * attainable(reach), "-", label="roofline of this machine")
for (name, at), marker in zip(points.items(), "os^vD", strict=True):
    axes.loglog(at, 1e-9 * attainable(at), marker, mfc="none", markersize=8, label=name)
axes.legend(frameon=False, loc="lower right")
show(
    figure,
    "The roofline rises with the intensity and then becomes level. A softmax and the product with one "
    "token lie far left, on the rising part, where memory is the limit. The products of whole texts "
    "lie further right.",
)
assert points["one token, x Aᵀ"] < points["one head, q kᵀ"] < points["memory, u Mᵀ"]

# %% [markdown]
# So the T² scores cost time in two ways: in their two products, which are narrow (C / H), and in every pass
# over them for scale, mask and softmax. For each score, with the published C / H = 64, the roofline gives:

# %%
products_s = 2 * 2 * 64 / P
pass_s = 2 * 4 / W  # one pass reads and writes four bytes
print(f"two products {1e9 * products_s:.3f} ns, each pass {1e9 * pass_s:.3f} ns")
print(f"{products_s / pass_s:.1f} passes take as long as the products")
assert abs(products_s / pass_s - 32 / ridge) < 1e-9 * 32 / ridge  # 256 flops against 8 bytes

# %% [markdown]
# The faster the arithmetic of a machine is compared with its memory, the smaller this number of passes. So
# flops alone underestimate the cost of the T² scores.

# %% [markdown]
# ## 4. Measure
#
# We measure one block of each kind, forward and backward, and small, so that it is quick. The first two steps
# are not counted, because they touch new memory. We take the median of the others: other programs can only
# make a step slower, and a few slow steps would shift a mean. `keep_freed_memory` does what training also
# does (notebook 15). Without it the C library returns every large array to the system and requests it again,
# which distorts the curves where arrays become large.

# %%
memory.keep_freed_memory()
lengths = [128, 256, 512, 1024, 2048]
LABELS = {"gam": "GAM", "transformer": "Transformer", "mamba": "Mamba"}
times = {label: [] for label in LABELS.values()}
peaks = {label: [] for label in LABELS.values()}
for model_type, T in tqdm([(m, T) for T in lengths for m in LABELS], leave=False):
    block = scaling.Block(model_type, SMALL, T, backend)
    for _ in range(2):
        block.step()
    repeats = 7 if T < 2048 else 5
    times[LABELS[model_type]].append([block.time_ms() for _ in range(repeats)])
    peaks[LABELS[model_type]].append(block.peak_bytes() / 2**20)
for label, rows in times.items():
    print(f"{label:<12}", *(f"{median(row):8.2f}" for row in rows), "  ms")

# %% [markdown]
# Which power of T is this? Suppose $t = c\, T^p$. Then $\log t = \log c + p \log T$ is a straight line. Set
# $x = \log T$ and $y = \log t$ for n lengths, and find the $b = \log c$ and p that minimise
# $\sum_i (y_i - b - p x_i)^2$. The derivative with respect to b is 0 where $b = \bar y - p \bar x$. Insert
# that. Then the derivative with respect to p is 0 where
#
# $$ p = \frac{\sum_i (x_i - \bar x)(y_i - \bar y)}{\sum_i (x_i - \bar x)^2} $$
#
# How precise is p? It is a weighted sum of the $y_i$, with weights
# $w_i = (x_i - \bar x) / \sum_j (x_j - \bar x)^2$. Suppose that the $y_i$ scatter about the line
# independently, each with variance $\sigma^2$. Then the variance of p is
# $\sigma^2 \sum_i w_i^2 = \sigma^2 / \sum_i (x_i - \bar x)^2$. We estimate $\sigma^2$ from the residuals
# $r_i = y_i - b - p x_i$: the sum of their squares, divided by n - 2, because two numbers, b and p, were
# fitted. So the standard error of p is
#
# $$ \mathrm{error}(p) = \sqrt{\frac{\sum_i r_i^2 \,/\, (n - 2)}{\sum_i (x_i - \bar x)^2}} $$
#
# ### Exercise 12.4 ★★★ A power law and its standard error
#
# Return the pair of p and its standard error. `lengths` and `values` hold n positive numbers each, n at least
# 3, in a list or an array.
#
# <details><summary>Hint</summary>
#
# First take the logarithm of both. Any base will do, if it is the same for both. Subtract the means from x
# and from y. Then b is 0, and everything is a sum of products.
#
# </details>


# %% tags=["exercise"]
def power_law(lengths, values):
    """Return (p, error) of the best fitting values = c lengths^p: exponent, standard error."""
    # SOLUTION
    x, y = np.log(lengths), np.log(values)
    x, y = x - x.mean(), y - y.mean()
    p = (x * y).sum() / (x * x).sum()
    r = y - p * x
    return p, np.sqrt((r * r).sum() / (len(x) - 2) / (x * x).sum())
    # END


# %%
check.ex_12_4(power_law)

# %%
medians = {label: [median(row) for row in rows] for label, rows in times.items()}
for measured, ylabel in ((medians, "time (ms)"), (peaks, "peak memory (MiB)")):
    fits = {label: tuple(power_law(lengths, values)) for label, values in measured.items()}
    show(
        viz.complexity_plot(lengths, measured, fits, ylabel),
        f"Measured {ylabel} of one block, forward and backward, against the length, with the "
        "fitted powers in the legend. GAM and Mamba approach slope 1 at the end. The Transformer's "
        "curve bends upwards.",
    )
grown = {label: mib[-1] / mib[-2] for label, mib in peaks.items()}  # from 1024 tokens to 2048
assert grown["GAM"] < 2.3 and grown["Mamba"] < 2.3  # memory has no measurement noise
assert grown["Transformer"] > 2.4

# %% [markdown]
# The standard error says how far the points lie from a power law. Memory has no measurement noise, and still
# its standard errors are not 0, because the points lie on a curve. A fit over all lengths is an average of
# slopes, and predicts nothing about longer texts.
#
# ### Why is the exponent not 2?
#
# Look at the slope at one length, the local exponent $p(T) = d \log F / d \log T = T F'(T) / F(T)$. For
# $F = 24\, T C^2 + 4\, T^2 C$ it is
#
# $$ p(T) = \frac{24\, C + 8\, T}{24\, C + 4\, T} = 1 + \frac{T}{6\, C + T} $$
#
# It starts at 1, is 1.5 at T = 6C, and approaches 2 only for much longer texts. With C = 512 the value 1.5 is
# reached at 3072 tokens. Where the masked half is skipped (q = 128), $F = 24\, T C^2 + 2\, T (T + q)\, C$.
# The same steps give $1 + T / (12\, C + q + T)$, which rises even later. For short texts there are also costs
# that do not depend on T at all, such as the calls themselves, or new arrays for the gradients of the
# weights. They reduce the exponent, for GAM below 1.

# %%
every_pair = lambda T, C: 1.0 + T / (6 * C + T)
half_skipped = lambda T, C: 1.0 + T / (12 * C + 128 + T)
flops_of = lambda T, C: sum(transformer_flops(T, C, 1).values())
fewer_of = lambda T, C: flops_of(T, C) - 4 * T**2 * C + 2 * T * (T + 128) * C
for F, p in ((flops_of, every_pair), (fewer_of, half_skipped)):
    for T, C in ((64, 64), (3072, 512), (10**6, 512)):
        slope = np.log(F(1.001 * T, C) / F(T / 1.001, C)) / np.log(1.001**2)
        assert abs(slope - p(T, C)) < 1e-4
assert every_pair(6 * 512, 512) == 1.5
assert every_pair(10**6, 512) > 1.99

stored = results("table2_small")["cells"]
curve = np.geomspace(128, 8192, 50)
figure, axes = viz.panels("T, tokens", "local exponent p(T)", size=(7.0, 4.0))
axes.plot(curve, every_pair(curve, 256), "-", color=viz.COLOURS[1], label="Transformer by flops, every pair")
axes.plot(
    curve, half_skipped(curve, 256), "-.", color=viz.COLOURS[1], label="Transformer by flops, half skipped"
)
for model_type, style in (("transformer", viz.STYLES[1]), ("gam", viz.STYLES[0])):
    T = np.array([int(T) for T in stored[model_type]])
    t = np.array([cell["time_ms"] for cell in stored[model_type].values()])
    between = np.sqrt(T[1:] * T[:-1])
    slope = np.diff(np.log(t)) / np.diff(np.log(T))
    label = f"{LABELS[model_type]}, stored measurement"
    axes.plot(between, slope, **style, mfc="none", label=label)
axes.set_xscale("log", base=2)
axes.set_xticks(paper.LENGTHS, [str(T) for T in paper.LENGTHS])
axes.axhline(1.0, color=viz.INK, linewidth=0.8)
axes.axhline(2.0, color=viz.INK, linewidth=0.8)
axes.legend(frameon=False)
show(
    figure,
    "The Transformer's local exponent by flops, for C = 256, rises from just above 1 at 128 tokens "
    "towards 2. If the masked half is skipped, it rises later. The Transformer's stored measurements "
    "stay near the second curve up to 4096 tokens and lie above both at the longest step. GAM's stay "
    "near 1.",
)

# %% [markdown]
# The stored measurements of the Transformer follow the second curve up to 4096 tokens, and at the longest
# step they lie above both curves. So flops are not its only cost. Its T² numbers are also read and written
# (section 3), and the longer the text, the smaller the part that fits in a cache.
#
# ## 5. The cost of writing one more token
#
# When a model writes, it reads one token at a time and keeps what it needs of the earlier ones. With
# attention a block does $24\, C^2 + 4\, t\, C$ flops for token t. With GAM it does
# $20\, C^2 + 4\, S C + 2\, K C$, whatever t is. L blocks keep this many numbers (Mamba's convolution keeps 3
# past inputs):
#
# $$ \text{GAM: } L (K - 1)\, C, \qquad \text{Transformer: } 2\, L\, t\, C, \qquad \text{Mamba: } L E\, (N + 3) $$

# %%
shared = {"vocab_size": 50, "block_size": 256, "d_model": 64, "n_layers": 2, "dropout": 0.0}
models = {
    "GAM": GAM(GAMConfig(**shared, n_slots=48, kernel_size=4), backend=backend),
    "Transformer": Transformer(TransformerConfig(**shared, n_heads=4), backend=backend),
    "Mamba": Mamba(MambaConfig(**shared, expand=2, d_state=8), backend=backend),
}


def held(states):
    """Return how many numbers the blocks keep."""
    total = 0
    for state in states:
        arrays = [state.conv.past, state.h] if hasattr(state, "h") else [state.past]
        total += sum(array.size for array in arrays)
    return total


kept, times_ms = {}, {}
for name, model in tqdm(models.items(), leave=False):
    stream, kept[name], times_ms[name] = Stream(model), [], []
    for t in range(256):
        start = perf_counter()
        stream.feed(np.array([[t % 50]]))  # the logits are on the host, so the device has finished
        times_ms[name].append(1e3 * (perf_counter() - start))
        kept[name].append(held(stream.states))

L, C, K, E, N = 2, 64, 4, 128, 8
assert set(kept["GAM"]) == {L * (K - 1) * C}
assert kept["Transformer"] == [2 * L * t * C for t in range(1, 257)]
assert set(kept["Mamba"]) == {L * E * (N + 3)}

figure, axes = viz.panels("token", n=2)
for name, style in zip(models, viz.STYLES, strict=False):
    ms = times_ms[name]
    axes[0].semilogy(kept[name], **style, markevery=32, markersize=4, label=name)
    smooth = [median(ms[max(0, t - 15) : t + 16]) for t in range(len(ms))]
    axes[1].plot(smooth, **style, markevery=32, markersize=4, label=name)
axes[0].set_ylabel("numbers kept")
axes[1].set_ylabel("time of a token (ms), running median")
axes[1].set_ylim(bottom=0.0)
axes[0].legend(frameon=False)
show(
    figure,
    "Left: GAM keeps a few hundred numbers and Mamba a few thousand, at every token. The Transformer's "
    "count rises past both without a limit. Right: the times of a token, nearly constant at this small "
    "size, where calls cost more than arithmetic.",
)

# %% [markdown]
# At this size the calls cost more than the arithmetic, so the times do not show the growth with t. The stored
# run of the published GAM shows that its time and memory stay constant for ten thousand tokens
# (`python -m benchmarks.generate`):

# %%
run = results("generate")["summary"]["minigam GAM"]
for position, row in run.items():
    ms, mib = row["median_ms"], row["held_mib"]
    print(f"token {int(position):>6,}: {ms:.2f} ms, {mib:.1f} MiB held by the whole process")
assert 0.7 < run["10000"]["median_ms"] / run["100"]["median_ms"] < 1.4

# %% [markdown]
# ## 6. The whole measurement, and the paper's
#
# `minigam experiments table2 --scale small` has measured up to 8192 tokens, on two processor cores, with C =
# 256, batch 2, float32:

# %%
table2 = results("table2_small")
cells = {LABELS[m]: {int(T): v for T, v in row.items()} for m, row in table2["cells"].items() if m in LABELS}
show(
    viz.scaling_plot(cells, {LABELS[m]: fit for m, fit in table2["exponents"].items() if m in LABELS}),
    "Stored time and peak memory up to 8192 tokens. GAM and Mamba are nearly straight, with exponents "
    "near 1. The Transformer's curves bend upwards, in time and in memory, and are steepest at the "
    "longest step.",
)
assert table2["exponents"]["gam"]["time_ms_at_the_end"] < 1.3
assert table2["exponents"]["transformer"]["time_ms_at_the_end"] > 1.5

# %% [markdown]
# The paper's table 2 was measured on a GPU, with C = 512, batch 16, mixed precision. Its Transformer ran out
# of memory at 4096 tokens:

# %%
theirs = {LABELS[m]: row["time_ms"] for m, row in paper.TABLE2.items()}
fits = {}
for label, ms in theirs.items():
    pairs = [(T, t) for T, t in zip(paper.LENGTHS, ms, strict=True) if t is not None]
    fits[label] = tuple(power_law(*np.transpose(pairs)))
show(
    viz.complexity_plot(paper.LENGTHS, theirs, fits),
    "The paper's times are equal at 256 tokens. Then GAM grows with about the first power of the length, "
    "the Transformer with more than the power 1.5, until it runs out of memory.",
)
T = 2048
ratio = lambda pair: pair["Transformer"] / pair["GAM"]
by_flops = ratio(
    {
        "Transformer": sum(transformer_flops(T, 512, 8).values()),
        "GAM": sum(gam_flops(T, **PUBLISHED).values()),
    }
)
in_paper = ratio({label: ms[paper.LENGTHS.index(T)] for label, ms in theirs.items()})
measured_here = ratio({label: row[T]["time_ms"] for label, row in cells.items()})
print(f"Transformer / GAM at {T} tokens, C = 512: by flops {by_flops:.2f}")
print(f"by the paper's times {in_paper:.2f}")
print(f"by our times, at C = 256 on a processor, {measured_here:.2f}")
assert by_flops < 2 < in_paper

# %% [markdown]
# The flops explain only a small part of the paper's factor. The likely rest is memory traffic: T² scores are
# written, read, scaled, masked, exponentiated and dropped, each time through memory. A fused kernel would
# avoid most of that, and the quadratic term would dominate only for much longer texts.
#
# So, O(N) or O(N²)? **GAM's block is linear in T because it does not compare tokens with each other**: in
# each layer a token is combined with S slots and the K - 1 tokens before it. So GAM is not a cheaper way to
# do what attention does. For its quadratic cost attention compares all pairs. Notebook 09 shows the
# consequence of not comparing them: a reach of 1 + L (K - 1) tokens. Mamba is linear too, and keeps only a
# state of fixed size (notebook 11).
#
# ## What you can do now
#
# You can
#
# * count the floating-point operations of a block from its shapes, and check the count on the tape,
# * say at which length attention and memory cost the same, and why an exponent is a local thing, and
# * decide with a roofline whether operations or bytes limit a computation.
#
# ## Think about it
#
# No check can answer these. Write down your answer, or discuss it with someone.
#
# 1. A paper reports linear time, measured up to 2,048 tokens. What else would you ask to see?
# 2. Your model is linear and still slower than the quadratic one. When is it the right choice?
#
# ## Read on
#
# In the code:
#
# * `minigam/experiments/scaling.py` makes table 2
# * `minigam/training/profile.py` counts products
# * `minigam/engine/compiled/attention.py` leaves out the masked blocks
#
# Elsewhere:
#
# * [Roofline, an Insightful Visual Performance Model](https://doi.org/10.1145/1498765.1498785)
# * [FlashAttention](https://arxiv.org/abs/2205.14135)
# * [Efficient Transformers, a Survey](https://arxiv.org/abs/2009.06732)
# * [Scaling Laws for Neural Language Models](https://arxiv.org/abs/2001.08361)
