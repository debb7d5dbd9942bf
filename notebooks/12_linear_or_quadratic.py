# %% [markdown]
# # 12 · O(N) or O(N²)?
#
# **Goal.** Know what a block costs before running it: floating-point operations and bytes of a GAM block and a
# Transformer block as functions of the length. Find where one becomes dearer than the other, measure, fit a power
# to the measurements, and explain why it is not the one in the title.
#
# **Time.** 60 minutes, 4 exercises. **Needs** 07 (the GAM block), 10 (attention). Letters: T tokens (the paper's N),
# C channels, S memory slots, K kernel size, H heads. All counts are for one sequence, B = 1, unless B is there.

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
# Nearly all arithmetic of a language model is in matrix products. Each entry of (i, k) times (k, j) is a sum of k
# products: k multiplications and k additions, the first of them to zero. So
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
# Count the forward pass of a GAM block on T tokens, part by part: the convolution (E2, K taps on each channel alone), the
# memory (E3 and E5), the gate (the product of E6), the feed-forward (the two products of E9, hidden width 4C). Leave
# out all else: biases, norms, softmax, sigmoids, GELU, the sums and products of E7.
#
# <details><summary>Hint</summary>
#
# Write down the shapes first. E3 multiplies (T, C) with (C, S), and E5 multiplies what comes out with (S, C). $W_g$ has 2C rows.
# The convolution has no matrix: each of T C numbers is a sum of K products.
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
# In the published model S = C = 512. Most of the arithmetic is not in what gives GAM its name:

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
# **Backward.** For $y = x\, W^\top$, with x (T, C) and W (D, C), two products of the same three sizes come back:
#
# $$ dx = dy\, W, \qquad dW = dy^\top x, \qquad \text{each } 2\, T D C \text{ flops} $$
#
# So in products a training step costs three times the forward pass. That can be counted while it happens. A `Block` of
# `minigam/experiments/scaling.py` is one block and T random tokens, and its `step()` runs both ways; `observing` shows
# every result that the tape computes, and `profile.PRODUCTS` knows the products behind each.


# %%
def counted(block: scaling.Block) -> Counter:
    """Return the flops of the products of one step, forward and backward, by operation."""
    found = Counter()

    def watch(op, phase, arrays):
        if phase == "backward" and op in profile.PRODUCTS:
            found[op] += sum(2 * n * i * k * j for n, i, k, j in profile.PRODUCTS[op](*arrays))

    with observing(watch):
        block.step()
    return found


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
# The same for the rival: the projections (queries, keys and values, and the output: four of C by C), the attention ($q k^\top$ and
# $a v$, every pair of tokens counted), the feed-forward. H heads of C / H channels.
#
# <details><summary>Hint</summary>
#
# One head multiplies (T, C/H) with (C/H, T), and its weights (T, T) with (T, C/H). There are H of them. What becomes of H?
#
# </details>


# %% tags=["exercise"]
def transformer_flops(T, C, H):
    """Return the forward flops as a dict: projections, attention, feed-forward."""
    # SOLUTION
    head = 2 * T * T * (C // H)  # one of its two products
    return {
        "projections": 4 * 2 * T * C**2,
        "attention": H * 2 * head,  # H goes out: 4 T^2 C
        "feed-forward": 16 * T * C**2,
    }
    # END


# %%
check.ex_12_2(transformer_flops)

# %% [markdown]
# $$ F_{\text{Transformer}}(T) = 24\, T C^2 + 4\, T^2 C $$
#
# Half of the pairs are computed in vain: a key after the query is masked away. Code that takes q queries at a time can leave
# out the keys after the last of them. With T a multiple of q, block m meets $m q$ keys, and
#
# $$ \sum_{m=1}^{T/q} 4\, q\, (m q)\, C = 4\, q^2\, C \cdot \frac{1}{2}\, \frac{T}{q} \Big(\frac{T}{q} + 1\Big)
#    = 2\, T\, (T + q)\, C $$
#
# which is everything for q = T and about half of it for a small q. minigam's rule for NumPy has q = 128; its rule for CUDA, as PyTorch
# without a fused kernel, multiplies everything.

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
# ## 2. Where do the lines cross?
#
# Compare what mixes. Attention meets T tokens for each token, the memory meets S slots:
#
# $$ 4\, T^2 C = 4\, T S C \quad\Longleftrightarrow\quad T = S $$
#
# Said plainly: **the crossover is S, the number of slots, and nothing else.** C cancels out. A memory of 512 slots costs what
# attention over 512 tokens costs, at every length. (Where attention leaves out the masked half, T + q = 2 S: nearly twice as far.)

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
# But a block is more than what mixes. From which length on does a **whole** Transformer block cost more flops, forward, than a whole
# GAM block? Count every part and every pair. Return a number, not rounded, or 0 where the formula gives a negative one.
#
# <details><summary>Hint</summary>
#
# $F_{\text{GAM}}(T) = F_{\text{Transformer}}(T)$. Divide both sides by 4 T C; one T is left.
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
# The Transformer pays 8 C² a token for its four projections; GAM pays 4 C² for its gate. With the published S = C the
# lines cross before the second token: in flops GAM's block is the cheaper one for every text of two tokens or more. A memory that shall
# hold much, S far above C, moves the crossing to the right.

# %%
print(f"crossing, published sizes: {crossover(**PUBLISHED):.1f} tokens")
print(f"crossing, with 4096 slots: {crossover(512, 4096, 3):.1f} tokens")
assert crossover(**PUBLISHED) < 2
lengths = [2**e for e in range(6, 15)]
per_token = {
    "GAM, S = 512": [sum(gam_flops(T, 512, 512, 3).values()) / T for T in lengths],
    "GAM, S = 4096": [sum(gam_flops(T, 512, 4096, 3).values()) / T for T in lengths],
    "Transformer": [sum(transformer_flops(T, 512, 8).values()) / T for T in lengths],
}
assert len(set(per_token["GAM, S = 512"])) == 1, "a token costs the same among any number"
figure = viz.complexity_plot(lengths, per_token, ylabel="forward flops a token")
figure.axes[0].axvline(crossover(512, 4096, 3), color=viz.INK, linestyle=":")
show(
    figure,
    "Flops a token of one block, C = 512. GAM's are level, with 512 slots below the "
    "Transformer's everywhere, with 4096 slots below them from about 3600 tokens on. The "
    "Transformer's rise, slowly at first and with T at the end.",
)

# %% [markdown]
# ## 3. Bytes: what runs out first
#
# Training keeps what backward will read. Attention keeps its weights, one number for each pair in each head; GAM keeps its
# shares, one number for each token and slot. In float32:
#
# $$ M_{\text{attention}} = 4\, B H T^2 \text{ bytes}, \qquad M_{\text{memory}} = 4\, B T S \text{ bytes} $$
#
# Here H does not cancel out.

# %%
B, H, S = 16, 8, 512  # the paper's table 2
print(f"{'T':>6}{'weights of attention (GiB)':>28}{'shares of the memory (GiB)':>28}")
for T in paper.LENGTHS:
    weights, shares = 4 * B * H * T**2, 4 * B * T * S
    print(f"{T:>6}{weights / 2**30:>28.2f}{shares / 2**30:>28.3f}")
    assert weights / shares == H * T / S
assert 4 * B * H * 8192**2 > 30 * 2**30  # of one block

# %% [markdown]
# Does the paper's table say the same? Its Transformer needs $M(T) = \alpha T + \beta T^2$. Two lengths give $\beta$, for in
# $M(2T) - 2 M(T)$ the part that is linear in T goes out:
#
# $$ \beta = \frac{M(2T) - 2\, M(T)}{2\, T^2} $$

# %%
square_part = lambda M, T: (M[2 * T] - 2 * M[T]) / (2 * T**2)
made_up = {T: 3.0 * T + 0.25 * T**2 for T in (1024, 2048)}
assert square_part(made_up, 1024) == 0.25

theirs = dict(zip(paper.LENGTHS, paper.TABLE2["transformer"]["peak_mb"], strict=True))
bytes_each = 1e6 * square_part(theirs, 1024) / (B * H)  # of one weight
print(f"bytes for each attention weight: {bytes_each:.1f}")
assert 2 < bytes_each < 40

# %% [markdown]
# Several numbers of 2 or 4 bytes for each weight: scores, softmax, dropout's mask, and their gradients, none of them fused. With a fused
# kernel (FlashAttention) none of the T² numbers ever reaches main memory. The memory of attention is then linear too; its flops are not.
#
# ### Arithmetic intensity
#
# A processor can be busy calculating or busy fetching. How many flops does a product do for each byte it must move?
#
# $$ I = \frac{2\, i k j}{4\, (i k + k j + i j)} \quad \text{flops a byte, float32, each number moved once} $$
#
# With all three sizes n it is $n / 6$: large products are worth their bytes. A softmax reads and writes every number for a handful of flops:
# $I < 1$. And a product with one row, which is what writing a text does token by token, reads the whole matrix for two flops a weight: $I
# \approx 1/2$. If the machine does P flops and moves W bytes a second, nothing whose numbers come from main memory gets beyond the **roofline**:
#
# $$ \text{flops a second} \le \min(P,\; I\, W) $$


# %%
def intensity(i, k, j):
    """Return the flops a byte of a product (i, k) x (k, j) in float32."""
    return 2 * i * k * j / (4 * (i * k + k * j + i * j))


def seconds(f, repeats=5):
    """Return the least time of a call, after one that does not count."""
    times = []
    for _ in range(repeats + 1):
        backends.synchronize(xp)
        began = perf_counter()
        f()
        backends.synchronize(xp)
        times.append(perf_counter() - began)
    return min(times[1:])


n = 1024
square, into = xp.ones((n, n), dtype="float32"), xp.empty((n, n), dtype="float32")
large, copy = xp.ones(2**24, dtype="float32"), xp.empty(2**24, dtype="float32")
P = 2 * n**3 / seconds(lambda: xp.matmul(square, square, out=into))
W = 2 * large.nbytes / seconds(lambda: xp.copyto(copy, large))  # read and written
ridge = P / W
print(f"{1e-9 * P:.0f} Gflop/s, {1e-9 * W:.0f} GB/s")
print(f"below {ridge:.1f} flops a byte this machine waits for its memory")
attainable = lambda intensity: np.minimum(P, intensity * W)

points = {
    "feed-forward": intensity(1024, 512, 2048),
    "memory, u Mᵀ": intensity(1024, 512, 512),
    "one head, q kᵀ": intensity(1024, 64, 1024),
    "a softmax": 5 / 8,
    "one token, x Wᵀ": intensity(1, 512, 2048),
}
assert abs(intensity(n, n, n) - n / 6) < 1e-9
assert 0.45 < points["one token, x Wᵀ"] < 0.5
reach = np.geomspace(0.1, 1000.0, 200)
figure, axes = viz.panels("arithmetic intensity I (flops a byte)", "Gflop/s", size=(7.0, 4.0))
axes.loglog(reach, 1e-9 * attainable(reach), "-", label="roofline of this machine")
for (name, at), marker in zip(points.items(), "os^vD", strict=True):
    axes.loglog(at, 1e-9 * attainable(at), marker, mfc="none", markersize=8, label=name)
axes.legend(frameon=False, loc="lower right")
show(
    figure,
    "The roofline rises with the intensity and becomes level. A softmax and the product with "
    "one token lie far left, on the rising part, where memory decides; the products of whole "
    "texts lie further right.",
)
assert points["one token, x Wᵀ"] < points["one head, q kᵀ"] < points["memory, u Mᵀ"]

# %% [markdown]
# So the T² scores cost twice: in their two products, thin ones of width C / H, and in every pass over them of scale, mask and softmax.
# Per score, at the published C / H = 64, by the roofline:

# %%
products_s = 2 * 2 * 64 / P
pass_s = 2 * 4 / W  # one pass reads and writes four bytes
print(f"two products {1e9 * products_s:.3f} ns, each pass {1e9 * pass_s:.3f} ns")
print(f"{products_s / pass_s:.1f} passes take as long as the products")
assert abs(products_s / pass_s - 32 / ridge) < 1e-9 * 32 / ridge  # 256 flops against 8 bytes

# %% [markdown]
# The faster a machine calculates compared with its memory, the fewer passes that is. Flops alone will tell too little about T².

# %% [markdown]
# ## 4. Measure
#
# One block of each kind, forward and backward, small so that it is quick. Two steps do not count: they touch new memory. Of those
# after them we take the median: other programs only ever make a step slower, and a mean would add that to the result. `keep_freed_memory` does what
# training does too (notebook 15): otherwise the C library hands every large array back to the system and asks for it again, which bends the
# lines just where arrays become large.

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
# Which power of T is that? Say $t = c\, T^p$. Then $\log t = \log c + p \log T$ is a straight line: with $x = \log T$ and
# $y = \log t$ for n lengths, seek the $b = \log c$ and p that make $\sum_i (y_i - b - p x_i)^2$ least. The derivative with respect to b is 0 where
# $b = \bar y - p \bar x$. Put that in; the derivative with respect to p is 0 where
#
# $$ p = \frac{\sum_i (x_i - \bar x)(y_i - \bar y)}{\sum_i (x_i - \bar x)^2} $$
#
# How sure is p? It is a weighted sum of the $y_i$, with weights $w_i = (x_i - \bar x) / \sum_j (x_j - \bar x)^2$. If the $y_i$ scatter about the line
# independently, each with variance $\sigma^2$, the variance of p is $\sigma^2 \sum_i w_i^2 = \sigma^2 / \sum_i (x_i - \bar x)^2$. And $\sigma^2$ is estimated by
# the sum of the squared residuals $r_i = y_i - b - p x_i$, divided by n - 2, for two numbers were fitted already:
#
# $$ \mathrm{error}(p) = \sqrt{\frac{\sum_i r_i^2 \,/\, (n - 2)}{\sum_i (x_i - \bar x)^2}} $$
#
# ### Exercise 12.4 ★★★ A power law, with an honest error
#
# Return p and its standard error. `lengths` and `values` hold n positive numbers each, n at least 3, in a list or an array.
#
# <details><summary>Hint</summary>
#
# Logarithms first, of both; which base makes no difference, as long as it is the same. Subtract the means from x and from y: then b is 0, and
# everything is a sum of products.
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
for found, ylabel in ((medians, "time (ms)"), (peaks, "peak memory (MiB)")):
    fits = {label: tuple(power_law(lengths, values)) for label, values in found.items()}
    show(
        viz.complexity_plot(lengths, found, fits, ylabel),
        f"Measured {ylabel} of one block, forward and backward, against the length, with the "
        "fitted powers in the legend. GAM and Mamba come near to slope 1 at the end; the "
        "Transformer bends upwards.",
    )
grown = {label: mib[-1] / mib[-2] for label, mib in peaks.items()}  # from 1024 tokens to 2048
assert grown["GAM"] < 2.3 and grown["Mamba"] < 2.3  # memory does not scatter
assert grown["Transformer"] > 2.4

# %% [markdown]
# The error says how far the points lie from *a* power law. Memory does not scatter, and still its errors are not 0: the points lie on a curve. A fit
# over all lengths is an average of slopes, and says nothing about longer ones.
#
# ### Why not 2?
#
# Take the slope at one length instead, the local exponent $p(T) = d \log F / d \log T = T F'(T) / F(T)$. For $F = 24\, T C^2 + 4\, T^2 C$:
#
# $$ p(T) = \frac{24\, C + 8\, T}{24\, C + 4\, T} = 1 + \frac{T}{6\, C + T} $$
#
# It begins at 1, is 1.5 at T = 6C, and comes to 2 only for texts far longer than that. With C = 512 the half-way mark is 3072 tokens. Where
# the masked half is left out (q = 128), $F = 24\, T C^2 + 2\, T (T + q)\, C$, and the same steps give $1 + T / (12\, C + q + T)$: later still. And
# at the short end there are costs that do not depend on T at all, such as the calls themselves, or new arrays for the gradients of the weights: they
# pull the exponent down, for GAM below 1.

# %%
every_pair = lambda T, C: 1.0 + T / (6 * C + T)
half_left_out = lambda T, C: 1.0 + T / (12 * C + 128 + T)
flops_of = lambda T, C: sum(transformer_flops(T, C, 1).values())
fewer_of = lambda T, C: flops_of(T, C) - 4 * T**2 * C + 2 * T * (T + 128) * C
for F, p in ((flops_of, every_pair), (fewer_of, half_left_out)):
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
    curve, half_left_out(curve, 256), "-.", color=viz.COLOURS[1], label="Transformer by flops, half left out"
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
    "The Transformer's local exponent by flops, for C = 256, rises from just above 1 at 128 "
    "tokens towards 2; leaving out the masked half it rises later. The Transformer's stored "
    "measurements stay near the second curve up to 4096 tokens and lie above both at the "
    "longest step; GAM's stay about 1.",
)

# %% [markdown]
# The stored Transformer follows the second curve up to 4096 tokens, and its longest step lies above both: flops are not all that it pays for. Its T² numbers
# are also read and written (section 3), and the longer the text, the fewer of them are still in a cache.
#
# ## 5. Writing: the cost of one more token
#
# A model that writes reads one token at a time and remembers what it needs of the rest. For token t a block does $24\, C^2 + 4\, t\, C$ flops with
# attention, and with GAM $20\, C^2 + 4\, S C + 2\, K C$, whatever t is. What L blocks remember, in numbers (E expanded channels and N states of Mamba, as in
# notebook 11, and 3 past inputs of its convolution):
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
    """Return how many numbers the blocks remember."""
    whole = 0
    for state in states:
        arrays = [state.conv.past, state.h] if hasattr(state, "h") else [state.past]
        whole += sum(array.size for array in arrays)
    return whole


remembered, took_ms = {}, {}
for name, model in tqdm(models.items(), leave=False):
    stream, remembered[name], took_ms[name] = Stream(model), [], []
    for t in range(256):
        began = perf_counter()
        stream.feed(np.array([[t % 50]]))  # its answer is on the host: the device is done
        took_ms[name].append(1e3 * (perf_counter() - began))
        remembered[name].append(held(stream.states))

L, C, K, E, N = 2, 64, 4, 128, 8
assert set(remembered["GAM"]) == {L * (K - 1) * C}
assert remembered["Transformer"] == [2 * L * t * C for t in range(1, 257)]
assert set(remembered["Mamba"]) == {L * E * (N + 3)}

figure, axes = viz.panels("token", n=2)
for name, style in zip(models, viz.STYLES, strict=False):
    ms = took_ms[name]
    axes[0].semilogy(remembered[name], **style, markevery=32, markersize=4, label=name)
    smooth = [median(ms[max(0, t - 15) : t + 16]) for t in range(len(ms))]
    axes[1].plot(smooth, **style, markevery=32, markersize=4, label=name)
axes[0].set_ylabel("numbers remembered")
axes[1].set_ylabel("time of a token (ms), running median")
axes[1].set_ylim(bottom=0.0)
axes[0].legend(frameon=False)
show(
    figure,
    "Left: GAM remembers a few hundred numbers and Mamba a few thousand, at every token; the "
    "Transformer's count rises past both and goes on. Right: the times of a token, nearly "
    "level at this small size, where calls cost more than arithmetic.",
)

# %% [markdown]
# At this size the calls cost more than the arithmetic, and no clock shows the square. The stored run of the published GAM shows that
# its time and memory stay level for ten thousand tokens (`python -m benchmarks.generate`):

# %%
run = results("generate")["summary"]["minigam GAM"]
for position, row in run.items():
    ms, mib = row["median_ms"], row["held_mib"]
    print(f"token {int(position):>6,}: {ms:.2f} ms, {mib:.1f} MiB held by the whole process")
assert 0.7 < run["10000"]["median_ms"] / run["100"]["median_ms"] < 1.4

# %% [markdown]
# ## 6. The whole measurement, and the paper's
#
# `minigam experiments table2 --scale small` measured up to 8192 tokens, on two processor cores, C = 256, batch 2, float32:

# %%
table2 = results("table2_small")
cells = {LABELS[m]: {int(T): v for T, v in row.items()} for m, row in table2["cells"].items() if m in LABELS}
show(
    viz.scaling_plot(cells, {LABELS[m]: fit for m, fit in table2["exponents"].items() if m in LABELS}),
    "Stored time and peak memory up to 8192 tokens. GAM and Mamba are nearly straight, with "
    "exponents near 1; the Transformer bends upwards, in time as in memory, and is the "
    "steepest at its longest step.",
)
assert table2["exponents"]["gam"]["time_ms_at_the_end"] < 1.3
assert table2["exponents"]["transformer"]["time_ms_at_the_end"] > 1.5

# %% [markdown]
# And the paper's table 2, on a GPU, C = 512, batch 16, mixed precision. The Transformer ran out of memory at 4096:

# %%
theirs = {LABELS[m]: row["time_ms"] for m, row in paper.TABLE2.items()}
fits = {}
for label, ms in theirs.items():
    known = [(T, t) for T, t in zip(paper.LENGTHS, ms, strict=True) if t is not None]
    fits[label] = tuple(power_law(*np.transpose(known)))
show(
    viz.complexity_plot(paper.LENGTHS, theirs, fits),
    "The paper's times: equal at 256 tokens; GAM then grows with about the first power, the "
    "Transformer with more than the 1.5th, until it runs out of memory.",
)
T = 2048
ratio = lambda pair: pair["Transformer"] / pair["GAM"]
by_flops = ratio(
    {
        "Transformer": sum(transformer_flops(T, 512, 8).values()),
        "GAM": sum(gam_flops(T, **PUBLISHED).values()),
    }
)
by_clock = ratio({label: ms[paper.LENGTHS.index(T)] for label, ms in theirs.items()})
by_ours = ratio({label: row[T]["time_ms"] for label, row in cells.items()})
print(f"Transformer / GAM at {T} tokens, C = 512: by flops {by_flops:.2f}")
print(f"by the paper's clock {by_clock:.2f}")
print(f"by our clock, at C = 256 on a processor, {by_ours:.2f}")
assert by_flops < 2 < by_clock

# %% [markdown]
# The flops account for a minor part of the paper's factor. The rest is bytes: T² scores that are written, read, scaled, masked, exponentiated,
# dropped, each time through memory. A fused kernel would take most of that away, and the square would be seen much later.
#
# So, O(N) or O(N²)? **GAM's block is linear in T because no token is compared with another**: in each layer a token meets S slots and the K - 1 tokens before it. It
# is not a cheaper way to do what attention does. Attention's square buys the comparison of all pairs, and notebook 09 shows what it means
# to go without: a reach of 1 + L (K - 1) tokens. Mamba is linear too and pays with a state of fixed size (notebook 11).
#
# ## What you have now
#
# * The flops of both blocks by formula, equal to what the tape multiplies; three times that with backward.
# * Memory and attention cross at T = S; whole blocks at T = S - C + K/2, which for the published model is at once.
# * An exponent is a local thing: $1 + T / (6C + T)$ for the Transformer. A fit over short lengths says nothing about long ones.
# * Flops are half of the story. Intensity and the roofline say when bytes are the other.
#
# **Read on in the code:** `minigam/experiments/scaling.py` makes table 2; `minigam/training/profile.py` counts products; `minigam/engine/compiled/attention.py`
# leaves out the masked blocks. Notebook 15 makes things fast.
