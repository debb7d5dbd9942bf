# %% [markdown]
# # 10 · The rivals: attention by hand
#
# **Goal.** Write causal self-attention, its gradient and its cache by hand, and set it exactly beside GAM's memory: what
# the two share, what separates them, and what each costs. At the end you will have chosen the weights of a two-layer
# Transformer yourself, without training, so that it answers every query of associative recall.
#
# **Time.** 90 minutes, 5 exercises. **Needs** 02 (gradient checks) and 05 (the memory); 07 (the block) and 09 (the
# reach) help. Letters: B batch, T tokens, C channels, H heads, D = C / H channels of a head, P tokens of a past, L layers, S slots,
# K kernel size, V vocabulary.

# %% tags=["setup"]
import math

import numpy as np

from minigam import (
    GAM,
    GAMConfig,
    Stream,
    Tensor,
    Transformer,
    TransformerBlock,
    TransformerConfig,
    gradcheck,
    mqar,
    nn,
    ops,
    sequence,
    viz,
)
from minigam.course import check, show

# %% [markdown]
# ## 1. Three roles for every token
#
# In notebook 05 a token asked a memory, and the memory was a learned constant. Attention keeps the asking and changes
# who answers: **the other tokens**. So a token now plays three parts, and gets a vector for each, by a matrix of its own:
#
# * a **query** q: what am I looking for?
# * a **key** k: what am I found by?
# * a **value** v: what do I hand over when I am found?
#
# One product makes all three at once, for $u$ of shape (B, T, C) and $W$ of shape (3C, C):
#
# $$ [\,q,\; k,\; v\,] = u\, W^\top + b $$

# %%
rng = np.random.default_rng(10)
B, T, C = 2, 6, 8
u = rng.standard_normal((B, T, C))
W, b = rng.standard_normal((3 * C, C)) / math.sqrt(C), rng.standard_normal(3 * C)
qkv = u @ W.T + b  # (B, T, 3C)
q, k, v = np.split(qkv, 3, axis=-1)  # (B, T, C) each
W_q, W_k, W_v = np.split(W, 3)
assert np.abs(k - (u @ W_k.T + b[C : 2 * C])).max() < 1e-12, "one product, three linear maps"

# %% [markdown]
# ## 2. How large is a dot product?
#
# A query meets a key as in E3, by a dot product of their D numbers. How large is that? Take entries that are
# independent, with mean 0 and variance 1. (At the start of training the variance is about a third, by section 9 of notebook 07; that
# changes a constant, not the argument.) One term of the sum has mean
# $\mathbb{E}[q_d]\,\mathbb{E}[k_d] = 0$ and variance $\mathbb{E}[q_d^2 k_d^2] = \mathbb{E}[q_d^2]\,\mathbb{E}[k_d^2] = 1$. Independent
# terms add up their variances:
#
# $$ \mathrm{Var}\Big( \sum_{d=1}^{D} q_d\, k_d \Big) = \sum_{d=1}^{D} \mathrm{Var}(q_d\, k_d) = D $$
#
# So the scores spread by $\sqrt{D}$. Dividing by $\sqrt D$ gives them a spread of 1 whatever the width. Why that matters
# is the right half of the figure: among 32 keys, a softmax of widely spread scores gives nearly everything to one key. Then its gradient
# $a_i (\delta_{ij} - a_j)$ is nearly zero, and nothing is learned about the others.

# %%
widths = [4, 16, 64, 256, 1024]
spread, largest = [], {"s": [], "s / √D": []}
for D in widths:
    s = (rng.standard_normal((4000, D)) * rng.standard_normal((4000, D))).sum(axis=-1)
    spread.append(s.std())
    assert abs(s.var() / D - 1.0) < 0.2
    s = s[:3968].reshape(-1, 32)  # 124 queries, 32 keys each
    for found, scale in zip(largest.values(), (1.0, math.sqrt(D)), strict=True):
        e = np.exp((s - s.max(axis=-1, keepdims=True)) / scale)
        found.append((e.max(axis=-1) / e.sum(axis=-1)).mean())
figure, (left, right) = viz.panels("D, channels of a head", n=2)
left.loglog(widths, spread, "o", label="measured")
left.loglog(widths, np.sqrt(widths), ":", label="√D")
left.set_ylabel("standard deviation of q · k")
for (label, found), style in zip(largest.items(), (viz.STYLES[1], viz.STYLES[0]), strict=True):
    right.semilogx(widths, found, **style, label=f"softmax of {label}")
right.set_ylabel("largest of 32 weights, mean")
right.set_ylim(0, 1.05)
for axes in (left, right):
    axes.legend(frameon=False)
show(
    figure,
    "Left: the measured spread of dot products lies on the line of the square root of D. "
    "Right: without the scale the largest weight climbs to nearly 1 as D grows; with it, it "
    "hardly changes.",
)
assert largest["s"][-1] > 0.8 and max(largest["s / √D"]) < 0.4

# %% [markdown]
# ## 3. Only the past may answer
#
# A language model predicts the next token, so token i may ask itself and those before it, never one after it. The mask
# does that **before** the softmax. A score of minus infinity is a weight of exactly 0, and what is left still adds up to 1:
#
# $$ a_{ij} = \frac{e^{s_{ij}}}{\sum_{j' \le i} e^{s_{ij'}}} \;\;\text{for } j \le i, \qquad a_{ij} = 0 \;\;\text{for } j > i $$
#
# ### Exercise 10.1 ★☆☆ The causal softmax
#
# Write it for scores of any number of axes, the last two (queries, keys) of equal length. Scores may be large,
# those in the future too: with $s_{ij} = 10^4$ at a j > i a plain `np.exp` overflows.
#
# <details><summary>Hint</summary>
#
# `np.tril(np.ones((T, T), dtype=bool))` is True where j ≤ i. `np.where(condition, s, -np.inf)` puts the mask in. Then
# the softmax of 05.1: subtract the largest score of each row, *after* the mask, so that it is one that counts.
#
# </details>


# %% tags=["exercise"]
def causal_softmax(s):
    """Return the weights (..., T, T) of scores s (..., T, T); each row a mix of its past."""
    # SOLUTION
    allowed = np.tril(np.ones(s.shape[-2:], dtype=bool))  # (T, T), j <= i
    s = np.where(allowed, s, -np.inf)
    e = np.exp(s - s.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)
    # END


# %%
check.ex_10_1(causal_softmax)

# %% [markdown]
# ## 4. One head
#
# All together, in one line:
#
# $$ y = \mathrm{softmax}_{\text{causal}}\!\Big( \frac{q\, k^\top}{\sqrt{D}} \Big)\, v, \qquad
#    y_i = \sum_{j \le i} a_{ij}\, v_j $$
#
# ### Exercise 10.2 ★☆☆ A head
#
# Write it. Axes before the last two may be anything: they are batches, or heads.
#
# <details><summary>Hint</summary>
#
# `k.T` turns all axes round; you want the last two only: `k.swapaxes(-1, -2)`. D is the last axis of q. And `@`
# multiplies the last two axes, for all others at once.
#
# </details>


# %% tags=["exercise"]
def head(q, k, v):
    """Return causal attention of one head: q, k, v (..., T, D) -> (..., T, D)."""
    # SOLUTION
    s = q @ k.swapaxes(-1, -2) / math.sqrt(q.shape[-1])  # (..., T, T)
    return causal_softmax(s) @ v
    # END


# %%
check.ex_10_2(head)

# %%
weights = causal_softmax(q @ k.swapaxes(-1, -2) / math.sqrt(C))  # (B, T, T)
assert np.abs(head(q, k, v) - weights @ v).max() < 1e-12
assert np.abs(head(q, k, v)[:, 0] - v[:, 0]).max() < 1e-12, "the first has only itself to ask"
figure, axes = viz.panels("key j (tokens)", "query i (tokens)", size=(4.6, 3.6))
image = axes.imshow(weights[0], cmap=viz.shades(), vmin=0, vmax=1)
axes.grid(visible=False)
figure.colorbar(image, label="weight a")
show(
    figure,
    "A square of weights: coloured on and below the diagonal, empty above. The first row has all "
    "its weight on the diagonal.",
)

# %% [markdown]
# ## 5. Several heads
#
# A softmax has a sum of 1: a token that looks for two things at once must share it out between them, and gets one mix of both. So cut the C
# channels into H pieces of D = C / H, let each piece be a **head** of its own, and put the answers side by side again:
#
# $$ \mathrm{split}(z)_{bhtd} = z_{b,\,t,\,hD + d}, \qquad \mathrm{merge}(\mathrm{split}(z)) = z $$
#
# ### Exercise 10.3 ★★☆ Split and merge
#
# Write both. Mind that a reshape alone keeps the order of the numbers in memory: it cannot bring the heads' axis before the tokens'.
#
# <details><summary>Hint</summary>
#
# First cut the last axis: (B, T, C) to (B, T, H, D). Then exchange two axes with `transpose(0, 2, 1, 3)`. Merging is the same two steps, undone in
# the other order.
#
# </details>


# %% tags=["exercise"]
def split(z, n_heads):
    """Return the heads of z: (B, T, C) -> (B, H, T, D); head h begins at channel h D."""
    # SOLUTION
    B, T, C = z.shape
    return z.reshape(B, T, n_heads, C // n_heads).transpose(0, 2, 1, 3)
    # END


def merge(z):
    """Put the heads side by side again: (B, H, T, D) -> (B, T, H D)."""
    # SOLUTION
    B, H, T, D = z.shape
    return z.transpose(0, 2, 1, 3).reshape(B, T, H * D)
    # END


# %%
check.ex_10_3(split, merge)

# %% [markdown]
# And that is the whole rule which the Transformer of this project runs, `sequence.causal_attention`:


# %%
def attention(qkv, n_heads):
    """Return causal attention of H heads: (B, T, 3C) -> (B, T, C)."""
    q, k, v = (split(z, n_heads) for z in np.split(qkv, 3, axis=-1))
    return merge(head(q, k, v))


for n_heads in (1, 2, 4, 8):
    rule = sequence.causal_attention(Tensor(qkv), n_heads=n_heads).data
    assert np.abs(attention(qkv, n_heads) - rule).max() < 1e-12
print("one head or eight: as many learned numbers and products, other answers")
assert np.abs(attention(qkv, 1) - attention(qkv, 2)).max() > 0.01

# %% [markdown]
# ## 6. The gradient
#
# Let $dy$ be the gradient that arrives at $y$. Three steps forward, so three steps back, the last one first.
#
# **The mix**, $y = a\,v$. A matrix product $y = X Z$ gives $dX = dy\,Z^\top$ and $dZ = X^\top dy$, so
#
# $$ dv = a^\top dy, \qquad da = dy\, v^\top $$

# %%
D, scale = C, 1.0 / math.sqrt(C)
a = causal_softmax(q @ k.swapaxes(-1, -2) * scale)
dy = rng.standard_normal(q.shape)
dv = a.swapaxes(-1, -2) @ dy
da = dy @ v.swapaxes(-1, -2)
step = 1e-6 * rng.standard_normal(v.shape)  # a small step in v moves <dy, y> by <dv, step>
assert abs((dy * (a @ (v + step) - a @ v)).sum() - (dv * step).sum()) < 1e-12

# %% [markdown]
# **The softmax**, row by row. From $\partial a_j / \partial s_i = a_j(\delta_{ij} - a_i)$ follows
#
# $$ ds_i = \sum_j da_j\, a_j (\delta_{ij} - a_i) = a_i \Big( da_i - \sum_j da_j\, a_j \Big) $$
#
# The mask needs no line of its own: a masked weight is 0, and so is its $ds$.

# %%
ds = a * (da - (da * a).sum(axis=-1, keepdims=True))
row = a[0, 4]
jacobian = np.diag(row) - np.outer(row, row)  # a_j (delta_ij - a_i)
assert np.abs(ds[0, 4] - jacobian @ da[0, 4]).max() < 1e-12
assert (ds[:, 1, 2:] == 0).all(), "no gradient flows to the future"
assert np.abs(ds.sum(axis=-1)).max() < 1e-12, "to raise a whole row of scores changes nothing"

# %% [markdown]
# **The scores**, $s = q\,k^\top / \sqrt D$. One more product, and the factor stays:
#
# $$ dq = \frac{1}{\sqrt D}\, ds\; k, \qquad dk = \frac{1}{\sqrt D}\, ds^\top q $$
#
# ### Exercise 10.4 ★★★ A head, backwards
#
# Write the gradient of your `head` with respect to q, k and v, for any axes before the last two. You get the inputs only: compute `a` again.
#
# <details><summary>Hint</summary>
#
# Five lines after `a`: dv, da, ds, dq, dk, in this order. Which of them need a transpose? Let the shapes tell: dv is (T, D) and made of
# a (T, T) and dy (T, D). A key j is met by many queries, so dk sums over them, and they are the *rows* of ds.
#
# </details>


# %% tags=["exercise"]
def head_backward(dy, q, k, v):
    """Return (dq, dk, dv), the gradients of <dy, head(q, k, v)>: each (..., T, D)."""
    # SOLUTION
    scale = 1.0 / math.sqrt(q.shape[-1])
    a = causal_softmax(q @ k.swapaxes(-1, -2) * scale)
    dv = a.swapaxes(-1, -2) @ dy  # y = a v, through v
    da = dy @ v.swapaxes(-1, -2)  # through a
    ds = a * (da - (da * a).sum(axis=-1, keepdims=True))  # a = softmax(s)
    dq = ds @ k * scale  # s = q k^T / sqrt(D), through q
    dk = ds.swapaxes(-1, -2) @ q * scale  # through k
    return dq, dk, dv
    # END


# %%
check.ex_10_4(head_backward)

# %% [markdown]
# With your split and merge it is the gradient of the whole rule, heads and all. The gradient of a split is a merge, because both only move numbers:

# %%
n_heads = 4
tape = Tensor(qkv, requires_grad=True)
sequence.causal_attention(tape, n_heads=n_heads).backward(dy)
q4, k4, v4 = (split(z, n_heads) for z in np.split(qkv, 3, axis=-1))
gradients = head_backward(split(dy, n_heads), q4, k4, v4)
dqkv = np.concatenate([merge(z) for z in gradients], axis=-1)
assert np.abs(dqkv - tape.grad).max() < 1e-12
worst = gradcheck(lambda z: sequence.causal_attention(z, n_heads=n_heads), tape)
print(f"and the tape's against finite differences: worst relative error {worst:.1e}")
assert worst < 1e-6

# %% [markdown]
# ## 7. Attention and GAM's memory, side by side
#
# Compare with E3 to E5 of notebook 05. Take the mask away, put the S slots in the place of keys *and* values, and cancel the
# scale by a longer question. What is left is GAM's memory: **attention to constants**, with one head.
#
# $$ \mathrm{softmax}(u\, M^\top)\, M \;=\; \mathrm{softmax}\!\Big(\frac{q\, k^\top}{\sqrt{C}}\Big)\, v
#    \qquad\text{with}\quad q = \sqrt{C}\, u, \quad k = v = M $$


# %%
def cross_attention(q, k, v):
    """Return attention without a mask: q (..., T, D) asks k, v (S, D)."""
    s = q @ k.T / math.sqrt(q.shape[-1])
    e = np.exp(s - s.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True) @ v


S = 5
M = rng.standard_normal((S, C))
memory = lambda u: sequence.associative_memory(Tensor(u), Tensor(M)).data
assert np.abs(memory(u) - cross_attention(math.sqrt(C) * u, M, M)).max() < 1e-12

# %% [markdown]
# One formula, and all the same two different machines. Most of the table is measured on the two functions, the rest follows from the shapes of their arrays.


# %%
def attend(u):
    """Return one head of self-attention of u (B, T, C)."""
    return attention(u @ W.T + b, 1)


def moves(f):
    """Return whether the last answer moves when the first token does."""
    changed = u.copy()
    changed[:, 0] += 1.0
    return bool(np.abs(f(changed) - f(u))[:, -1].max() > 1e-9)


def products(n_tokens, n_keys):
    """Return the millions of products in scores and mix, masked ones too, for 512 channels."""
    return 2 * n_tokens * n_keys * 512 / 1e6


met = {t: int((a[0, t] > 0).sum()) for t in (2, 5)}  # a: attention's weights, section 6
yes = {True: "yes", False: "no"}
table = [
    ("keys that token 2 meets, and token 5", f"{met[2]}, {met[5]}", f"{S}, {S}"),
    ("an answer moves when an earlier token does", yes[moves(attend)], yes[moves(memory)]),
    ("keys and values are the same vectors", yes[np.array_equal(k, v)], "yes, both are M"),
    ("scores divided by", f"√{C}", "1"),
    ("learned numbers, C = 512, S = 512", f"{4 * 512**2 + 4 * 512:,}", f"{512 * 512:,}"),
]
for T_long in (256, 8192):
    counts = (f"{products(T_long, n_keys):,.0f}" for n_keys in (T_long, 512))
    table.append((f"products for {T_long} tokens, in millions", *counts))
print(f"{'':44}{'attention':>14}{'GAM memory':>18}")
for line in table:
    print(f"{line[0]:44}{line[1]:>14}{line[2]:>18}")
assert moves(attend) and not moves(memory)
assert met == {2: 3, 5: 6}, "attention's memory grows with the text"
assert products(256, 256) < products(256, 512), "a short text is the smaller memory"
assert products(8192, 8192) > 10 * products(8192, 512)

# %% [markdown]
# Everything follows from the second line. Attention's keys *are* the text, so it can look things up in it, and pays with
# the square of the length. GAM's keys are a constant, so its cost is linear and its memory cannot know what was said; the
# convolution has to carry that (notebook 09). At short lengths, mind, the constant is the larger of the two.
#
# ## 8. The block
#
# A pre-norm Transformer block has the same frame as E8 and E9, with attention and a linear map in the place of E2 to E7:
#
# $$ \begin{aligned} h &= x + W_o\,\mathrm{Attention}(W\,\mathrm{LayerNorm}(x) + b) + b_o \\
#    y &= h + W_2\, \mathrm{GELU}(W_1\, \mathrm{LayerNorm}(h) + b_1) + b_2 \end{aligned} $$

# %%
config = TransformerConfig(vocab_size=11, d_model=C, n_layers=1, n_heads=2, dropout=0.0)
block = TransformerBlock(config, nn.MaskCounter(0), np.random.default_rng(3)).eval()
weight = {name: p.data for name, p in block.named_parameters()}
for name, z in weight.items():
    print(f"{name:24} {z.shape}")


def norm(x, name):
    z = (x, weight[f"{name}.weight"], weight[f"{name}.bias"])
    return ops.layer_norm(*map(Tensor, z)).data


linear = lambda x, name: x @ weight[f"{name}.weight"].T + weight[f"{name}.bias"]
gelu = lambda z: ops.gelu(Tensor(z)).data
x = rng.standard_normal((B, T, C))
h = x + linear(attention(linear(norm(x, "norm1"), "attention.qkv"), 2), "attention.out")
y = h + linear(gelu(linear(norm(h, "norm2"), "feed.expand")), "feed.contract")
assert np.abs(y - block(Tensor(x)).data).max() < 1e-12

# %% [markdown]
# ## 9. Writing: the key-value cache
#
# A model that writes adds one token at a time. Read the whole text again for each, and token T costs at least T times what one token costs. But keys and
# values of the past do not change, because nothing before may look at what comes after. So keep them: the **cache**.
#
# ### Exercise 10.5 ★★☆ One step with a cache
#
# The newest token brings its `qkv` (B, 1, 3C), the cache holds keys and values of the P tokens before it, side by side in (B, P, 2C), keys first; P may be 0. Return
# the answer (B, 1, C) and the cache with the newest token in it, (B, P + 1, 2C).
#
# <details><summary>Hint</summary>
#
# The last 2C channels of `qkv` are the new key and value: `np.concatenate` them to the past along the tokens' axis first, for a token may ask itself.
# The query is one token and everything in the cache lies before it, or is itself. So is a mask needed? Your `split` and `merge` do the heads.
#
# </details>


# %% tags=["exercise"]
def attention_step(qkv, past, n_heads):
    """Return (y, past): qkv (B, 1, 3C) and past (B, P, 2C) -> (B, 1, C) and (B, P + 1, 2C)."""
    # SOLUTION
    C = qkv.shape[-1] // 3
    past = np.concatenate([past, qkv[..., C:]], axis=1)
    q = split(qkv[..., :C], n_heads)  # (B, H, 1, D)
    k, v = split(past[..., :C], n_heads), split(past[..., C:], n_heads)  # (B, H, P + 1, D)
    s = q @ k.swapaxes(-1, -2) / math.sqrt(q.shape[-1])  # (B, H, 1, P + 1), and no mask
    e = np.exp(s - s.max(axis=-1, keepdims=True))
    return merge(e / e.sum(axis=-1, keepdims=True) @ v), past
    # END


# %%
check.ex_10_5(attention_step)

# %% [markdown]
# Token by token, the cache gives what one pass over all tokens gives:

# %%
past, answers, held = np.zeros((B, 0, 2 * C)), [], []
for t in range(T):
    y, past = attention_step(qkv[:, t : t + 1], past, n_heads)
    answers.append(y)
    held.append(past[0].size)
assert np.abs(np.concatenate(answers, axis=1) - attention(qkv, n_heads)).max() < 1e-12
print("numbers in the cache of one block, token by token:", held)
assert held == [2 * C * (t + 1) for t in range(T)]

# %% [markdown]
# Here is what the two models carry from token to token, in numbers:
#
# $$ \text{Transformer: } 2\, L\, T\, C, \qquad \text{GAM: } L\,(K - 1)\, C $$
#
# The first grows with every token, the second does not depend on T. Measured on small models, token by token, then drawn for the published
# sizes (float32, 4 bytes a number), as if their tables of positions did not end at 256:

# %%
shared = {"vocab_size": 11, "block_size": 40, "d_model": 16, "n_layers": 2, "dropout": 0.0}
models = {
    "Transformer": Transformer(TransformerConfig(**shared, n_heads=2), seed=1),
    "GAM": GAM(GAMConfig(**shared, n_slots=4, kernel_size=3), seed=1),
}
carried = {label: [] for label in models}
for label, model in models.items():
    stream = Stream(model)
    for t in range(32):
        stream.feed(np.array([[t % 11]]))
        carried[label].append(sum(state.past.size for state in stream.states))
assert carried["Transformer"] == [2 * 2 * read * 16 for read in range(1, 33)]
assert set(carried["GAM"]) == {2 * (3 - 1) * 16}

# %%
c, lengths = GAMConfig(), 2 ** np.arange(0, 17)
mib = 4 / 2**20  # of one number
ylabel = "carried from token to token (MiB)"
figure, axes = viz.panels("T, tokens read", ylabel, size=(6.5, 3.8))
transformer_mib = 2 * c.n_layers * lengths * c.d_model * mib
gam_mib = np.full(len(lengths), c.n_layers * (c.kernel_size - 1) * c.d_model * mib)
axes.loglog(lengths, transformer_mib, **viz.STYLES[1], markersize=4, label="Transformer, keys, values")
axes.loglog(lengths, gam_mib, **viz.STYLES[0], markersize=4, label="GAM, inputs of its convolutions")
axes.legend(frameon=False)
show(
    figure,
    "On logarithmic axes the Transformer's cache is a rising line, from hundredths of a MiB "
    "to more than a thousand; GAM's is a flat line at hundredths of a MiB. They are equal at "
    "one token.",
)
assert transformer_mib[0] == gam_mib[0], "K - 1 = 2 here: equal at the first token"
assert transformer_mib[-1] > 10_000 * gam_mib[-1]

# %% [markdown]
# To be fair: the Transformer carries more because it *remembers* more. GAM's flat line is the edge of its view, seen from the other side.
#
# ## 10. How many parameters?
#
# The paper's Transformer has "24.2 M". Count them with a pencil. A linear map from $m$ to $n$ channels has $n\,m + n$ numbers, a LayerNorm 2C. The head is the token
# embedding again and costs nothing. H does not appear: heads share the channels.
#
# $$ \underbrace{VC + TC}_{\text{embeddings}} + L\Big( \underbrace{4C}_{\text{two norms}} + \underbrace{3C^2 + 3C}_{q,\,k,\,v} + \underbrace{C^2 + C}_{W_o} +
#    \underbrace{8C^2 + 5C}_{\text{feed-forward}} \Big) + \underbrace{2C}_{\text{last norm}} $$


# %%
def shell_parameters(V, T, C, L):
    """Return how many numbers lie around the mixers: embeddings, norms, feed-forward."""
    return V * C + T * C + L * (4 * C + 8 * C * C + 5 * C) + 2 * C


def transformer_parameters(V, T, C, L):
    """Return how many numbers a Transformer trains."""
    return shell_parameters(V, T, C, L) + L * ((3 * C * C + 3 * C) + (C * C + C))


def gam_parameters(V, T, C, L, S, K):
    """The same for a GAM: convolution, memory and gate in the place of the attention."""
    return shell_parameters(V, T, C, L) + L * ((C * K + C) + S * C + (2 * C * C + 2 * C))


c = GAMConfig()
sizes = (c.vocab_size, c.block_size, c.d_model, c.n_layers)
print(f"published Transformer {transformer_parameters(*sizes):,}")
print(f"published GAM         {gam_parameters(*sizes, c.n_slots, c.kernel_size):,}")
assert transformer_parameters(*sizes) == 24_166_400
assert gam_parameters(*sizes, c.n_slots, c.kernel_size) == 22_599_680
assert transformer_parameters(11, 40, 16, 2) == models["Transformer"].num_parameters()
assert gam_parameters(11, 40, 16, 2, 4, 3) == models["GAM"].num_parameters()

# %% [markdown]
# ## 11. A Transformer without training
#
# Notebook 09 posed associative recall: pairs of a key and a value, and later a key again, asking for its value. A GAM cannot answer beyond its
# reach, and the trained one answered only a part of the queries within it. Attention can be *built* to answer, with two layers of one head each. The idea:
#
# 1. **Who was before me?** Layer 1 lets every token look at the place just before it and copy the token there.
# 2. **Who follows my twin?** In layer 2 a token asks: where is a place whose *previous* token is what I am? It copies the token of that place. For a
#    key that comes again, that place holds its value.
#
# Such a pair is called an induction circuit, and trained Transformers grow them. We set the weights by hand, in a Transformer of attention and residuals alone, without LayerNorm and feed-forward layers. A token's vector has four parts, which a
# token fills one after the other: what it is (one-hot), where it stands (one-hot), what stood before it, and its answer. Each row of W picks one
# number of one part. With $e$ for one-hot vectors and $\beta$ for sharpness:
#
# $$ \begin{array}{llll}
#    \text{layer 1:} & q_t = \beta\, e^{\text{where}}_{t-1} & k_t = e^{\text{where}}_t & v_t = e^{\text{what}}_t \to \text{before} \\
#    \text{layer 2:} & q_t = \beta\, e^{\text{what}}_t & k_t = e^{\text{before}}_t & v_t = e^{\text{what}}_t \to \text{answer}
#    \end{array} $$

# %%
n_keys, length = 8, 64
V, T = 1 + 2 * n_keys, length + 1  # a blank in front: the first token has none before it
part = {"what": V, "where": T, "before": V, "answer": V}  # channels of each part
ends = np.cumsum(list(part.values()))
place = {name: np.arange(end - part[name], end) for name, end in zip(part, ends, strict=True)}
C = int(ends[-1])
beta = 20.0 * math.sqrt(C)  # the division by sqrt(D) leaves 20: other places get e^-20


def weights_of(query, key, value, into, shift=0):
    """Return W (3C, C): part `query` asks part `key`; part `value` is copied into `into`."""
    W = np.zeros((3, C, C))
    n = part[query]
    W[0, place[key][: n - shift], place[query][shift:]] = beta  # q, written where its key is
    W[1, place[key], place[key]] = 1.0
    W[2, place[into], place[value]] = 1.0
    return W.reshape(3 * C, C)


layers = [
    weights_of("where", "where", "what", "before", shift=1),  # who was before me?
    weights_of("what", "before", "what", "answer"),  # who follows my twin?
]
at_5 = np.zeros(C)
at_5[place["where"][5]] = 1.0  # a token at place 5
asks_for = (at_5 @ layers[0][:C].T)[place["where"]]
assert asks_for.argmax() == 4 and np.count_nonzero(asks_for) == 1, "place 5 asks for place 4"


def read(tokens):
    """Return the state after each layer, and the weights of attention: tokens (B, T)."""
    B, T = tokens.shape
    x = np.zeros((B, T, C))
    x[..., place["what"]] = np.eye(V)[tokens]
    x[..., place["where"]] = np.eye(part["where"])[:T]
    seen = []
    for W in layers:
        qkv = x @ W.T
        q, k, _ = np.split(qkv, 3, axis=-1)
        seen.append(causal_softmax(q @ k.swapaxes(-1, -2) / math.sqrt(C)))
        x = x + attention(qkv, 1)  # the residual keeps the other parts
    return x, seen


pairs = np.full(100, 8)
tokens, wanted = mqar.mqar(100, pairs, length, n_keys, n_keys, np.random.default_rng(11))
in_front = np.zeros((100, 1), dtype=tokens.dtype)
x, seen = read(np.concatenate([in_front, tokens], axis=1))
answered = x[:, 1:, place["answer"]].argmax(axis=-1)
right = (answered == wanted)[wanted >= 0]
far = mqar.distances(tokens, wanted)
print(f"{right.mean():.1%} of {len(right)} queries right, pairs up to {far.max()} tokens back")
assert right.all()
assert far.max() > 13

# %% [markdown]
# Look at it at work, on a short row. Layer 1 is a line just below the diagonal. In layer 2 find the keys that come a second time, in the lower rows:
# each has its weight on one place, the value after its twin.

# %%
small, small_wanted = mqar.mqar(1, np.array([3]), 14, n_keys, n_keys, np.random.default_rng(3))
row = np.concatenate([[0], small[0]])
_, (first, second) = read(row[None])
called = [".", *(f"k{i}" for i in range(n_keys)), *(f"v{i}" for i in range(n_keys))]
labels = [called[i] for i in row]
figure, panels = viz.panels("token looked at", n=2, size=(9.6, 4.4))
titles = ("layer 1: the token before", "layer 2: the value of my twin")
for axes, found, title in zip(panels, (first, second), titles, strict=True):
    image = axes.imshow(found[0], cmap=viz.shades(), vmin=0, vmax=1)
    axes.set_xticks(range(len(row)), labels, fontsize=8)
    axes.set_yticks(range(len(row)), labels, fontsize=8)
    axes.set_title(title, fontsize=10)
    axes.grid(visible=False)
queries = np.flatnonzero(small_wanted[0] >= 0) + 1
for t in queries:
    at = int(np.flatnonzero(row == small_wanted[0, t - 1])[0])
    panels[1].plot(at, t, "o", markersize=13, markerfacecolor="none", markeredgecolor=viz.COLOURS[1])
    assert second[0, t, at] > 0.99
panels[0].set_ylabel("token that looks")
figure.colorbar(image, ax=list(panels), label="weight a", shrink=0.8)
show(
    figure,
    "Two maps of weights. Left, a strong line just below the diagonal. Right, the three "
    "queries each have one strong, circled entry at the value that followed their key; the "
    "rows of most other tokens are pale, spread over several places.",
)
assert all(first[0, t, t - 1] > 0.99 for t in range(1, len(row)))

# %% [markdown]
# No distance occurs anywhere in layer 2: a match is found wherever it stands. That is what a convolution cannot do, whose weights belong to
# *places*, and a memory of constants neither, whose keys belong to *no* text. It is what the square in attention's cost pays for.
#
# ## What you have now
#
# * Causal attention with heads, its gradient and its cache, each checked against the rule that the project's Transformer runs.
# * $\sqrt D$ derived and measured; 24,166,400 parameters counted with a pencil.
# * GAM's memory as attention to constants: one formula, two machines, and a table of what separates them.
# * Weights, chosen by hand, that answer associative recall at any distance. Notebook 11 asks what a state of constant size can do, 12 what it all costs.
#
# **Read on in the code:** `minigam/engine/attention.py`, and `minigam/models/transformer.py`, whose `KeyValueCache` is your exercise 10.5.
