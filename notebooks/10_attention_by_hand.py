# %% [markdown]
# # 10 · The rivals: attention by hand
#
# **Goal.** Write causal self-attention, its gradient and its cache by hand, and compare it exactly with GAM's memory: what
# the two have in common, what separates them, and what each costs. At the end you choose the weights of a two-layer
# Transformer yourself, without training, so that it answers every query of associative recall.
#
# **Time.** 110 minutes, 5 exercises. **Needs** 02 (gradient checks) and 05 (the memory); 07 (the block) and 09 (the
# receptive field) help. Letters: B batch, T tokens, C channels, H heads, D = C / H channels of a head, P tokens before the
# newest one, L layers, S slots, K kernel size, V vocabulary.

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
# In notebook 05 each token sent a query to a memory, and the memory was a learned constant. In attention, each token sends its
# query to **the other tokens**. So every token has three roles, and gets one vector for each role, by a matrix of its own:
#
# * The **query** q says what the token looks for.
# * The **key** k is compared with the queries of other tokens.
# * The **value** v is what the token passes on when its key matches.
#
# One matrix product computes all three, for $u$ of shape (B, T, C) and $W$ of shape (3C, C):
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
# As in E3, a query is compared with a key by the dot product of their D numbers. How large is the result? Assume that all
# entries are independent, with mean 0 and variance 1. (At the start of training the variance is about a third, by section 9 of
# notebook 07. That changes a constant, not the argument.)
#
# 1. One term of the sum has mean $\mathbb{E}[q_d]\,\mathbb{E}[k_d] = 0$.
# 2. Its variance is $\mathbb{E}[q_d^2 k_d^2] = \mathbb{E}[q_d^2]\,\mathbb{E}[k_d^2] = 1$.
# 3. The variances of independent terms add up:
#
# $$ \mathrm{Var}\Big( \sum_{d=1}^{D} q_d\, k_d \Big) = \sum_{d=1}^{D} \mathrm{Var}(q_d\, k_d) = D $$
#
# So the scores have a standard deviation of $\sqrt{D}$. Divided by $\sqrt D$ it is 1, whatever the width.
#
# The right half of the figure shows why this matters. The softmax of widely spread scores gives nearly all the weight to
# one of 32 keys. Then its derivative $a_i (\delta_{ij} - a_j)$ is nearly zero, and training learns nothing about the other
# keys. (Here $\delta_{ij}$ is 1 for $i = j$ and 0 otherwise.)

# %%
widths = [4, 16, 64, 256, 1024]
spread, largest = [], {"s": [], "s / √D": []}
for D in widths:
    s = (rng.standard_normal((4000, D)) * rng.standard_normal((4000, D))).sum(axis=-1)
    spread.append(s.std())
    assert abs(s.var() / D - 1.0) < 0.2
    s = s[:3968].reshape(-1, 32)  # 124 queries, 32 keys each
    for means, scale in zip(largest.values(), (1.0, math.sqrt(D)), strict=True):
        e = np.exp((s - s.max(axis=-1, keepdims=True)) / scale)
        means.append((e.max(axis=-1) / e.sum(axis=-1)).mean())
figure, (left, right) = viz.panels("D, channels of a head", n=2)
left.loglog(widths, spread, "o", label="measured")
left.loglog(widths, np.sqrt(widths), ":", label="√D")
left.set_ylabel("standard deviation of q · k")
for (label, means), style in zip(largest.items(), (viz.STYLES[1], viz.STYLES[0]), strict=True):
    right.semilogx(widths, means, **style, label=f"softmax of {label}")
right.set_ylabel("largest of 32 weights, mean")
right.set_ylim(0, 1.05)
for axes in (left, right):
    axes.legend(frameon=False)
show(
    figure,
    "Left: the measured standard deviation of dot products lies on the line of the square root "
    "of D. Right: without the division the largest weight rises to nearly 1 as D grows; with it, "
    "it hardly changes.",
)
assert largest["s"][-1] > 0.8 and max(largest["s / √D"]) < 0.4

# %% [markdown]
# ## 3. The causal mask
#
# A language model predicts the next token. So token i may attend to itself and to the tokens before it, but not to tokens
# after it. The mask is applied **before** the softmax: a score of minus infinity becomes a weight of exactly 0, and the
# other weights still add up to 1.
#
# $$ a_{ij} = \frac{e^{s_{ij}}}{\sum_{j' \le i} e^{s_{ij'}}} \;\;\text{for } j \le i, \qquad a_{ij} = 0 \;\;\text{for } j > i $$
#
# ### Exercise 10.1 ★☆☆ The causal softmax
#
# Compute the weights $a$ from the scores $s$. The last two axes are (queries, keys), of equal length; there may be any number
# of axes before them. Scores may be large, also those of future tokens: for $s_{ij} = 10^4$ at some j > i, `np.exp(s)`
# overflows.
#
# <details><summary>Hint</summary>
#
# `np.tril(np.ones((T, T), dtype=bool))` is True where j ≤ i. `np.where(condition, s, -np.inf)` applies the mask. Then
# continue as in 05.1: subtract the largest score of each row. Do this *after* the mask, so that a future score is never the
# largest.
#
# </details>


# %% tags=["exercise"]
def causal_softmax(s):
    """Return the weights (..., T, T) of scores s (..., T, T); row i has weights for keys 0 to i."""
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
# A head computes its scores, its weights and its result in one line:
#
# $$ y = \mathrm{softmax}_{\text{causal}}\!\Big( \frac{q\, k^\top}{\sqrt{D}} \Big)\, v, \qquad
#    y_i = \sum_{j \le i} a_{ij}\, v_j $$
#
# ### Exercise 10.2 ★☆☆ A head
#
# Write it with your `causal_softmax`. The last two axes of q, k and v are (T, D). There may be any number of axes before
# them, such as batches or heads.
#
# <details><summary>Hint</summary>
#
# `k.T` reverses the order of all axes. You want to exchange only the last two: `k.swapaxes(-1, -2)`. D is the last axis of
# q. `@` multiplies the last two axes, for all the others at once.
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

# %% [markdown]
# To see the weights, use one-hot vectors as values, $v_j = e_j$. Then channel j of the result is the weight of key j:
#
# $$ \Big( \sum_{j' \le i} a_{ij'}\, e_{j'} \Big)_j = a_{ij} $$

# %%
one_hot = np.broadcast_to(np.eye(T, C), (B, T, C))
weights = head(q, k, one_hot)[..., :T]  # (B, T, T)
assert np.abs(head(q, k, v) - weights @ v).max() < 1e-12
assert np.abs(weights.sum(axis=-1) - 1.0).max() < 1e-12
assert np.abs(head(q, k, v)[:, 0] - v[:, 0]).max() < 1e-12, "token 0 can only attend to itself"
figure, axes = viz.panels("key j (tokens)", "query i (tokens)", size=(4.6, 3.6))
image = axes.imshow(weights[0], cmap=viz.shades(), vmin=0, vmax=1)
axes.grid(visible=False)
figure.colorbar(image, label="weight a")
show(
    figure,
    "A square map of weights: coloured on and below the diagonal, empty above it. In the first row "
    "the diagonal has all the weight.",
)

# %% [markdown]
# ## 5. Several heads
#
# The weights of a softmax add up to 1. A token that looks for two things at once has to divide its weight between them, and it gets
# one mixture of both. Several heads solve this. Cut the C channels into H pieces of D = C / H channels. Each piece is a
# **head** with weights of its own. Afterwards, put the H results next to each other again:
#
# $$ \mathrm{split}(z)_{bhtd} = z_{b,\,t,\,hD + d}, \qquad \mathrm{merge}(\mathrm{split}(z)) = z $$
#
# ### Exercise 10.3 ★★☆ Split and merge
#
# Write both. A reshape alone is not enough. It keeps the order of the numbers in memory, so it cannot put the axis of the
# heads before the axis of the tokens.
#
# <details><summary>Hint</summary>
#
# First cut the last axis: (B, T, C) becomes (B, T, H, D). Then exchange two axes with `transpose(0, 2, 1, 3)`. `merge` undoes
# the two steps in the opposite order.
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
# With `split`, `head` and `merge` you have the whole rule that this project's Transformer runs,
# `sequence.causal_attention`:


# %%
def attention(qkv, n_heads):
    """Return causal attention of H heads: (B, T, 3C) -> (B, T, C)."""
    q, k, v = (split(z, n_heads) for z in np.split(qkv, 3, axis=-1))
    return merge(head(q, k, v))


for n_heads in (1, 2, 4, 8):
    rule = sequence.causal_attention(Tensor(qkv), n_heads=n_heads).data
    assert np.abs(attention(qkv, n_heads) - rule).max() < 1e-12
change = np.abs(attention(qkv, 1) - attention(qkv, 2)).max()
print(f"two heads need no more parameters than one, and change the result by up to {change:.2f}")
assert change > 0.01

# %% [markdown]
# ## 6. The gradient
#
# Let $dy$ be the gradient with respect to $y$. The forward pass has three steps, so the backward pass has three, in the
# opposite order.
#
# **The mixture**, $y = a\,v$. A matrix product $y = X Z$ has the gradients $dX = dy\,Z^\top$ and $dZ = X^\top dy$. So
#
# $$ dv = a^\top dy, \qquad da = dy\, v^\top $$
#
# **The softmax**, one row at a time. Its derivative is $\partial a_j / \partial s_i = a_j(\delta_{ij} - a_i)$. So
#
# $$ ds_i = \sum_j da_j\, a_j (\delta_{ij} - a_i) = a_i \Big( da_i - \sum_j da_j\, a_j \Big) $$
#
# The mask needs no extra step: a masked weight is 0, so its $ds$ is 0 as well.
#
# **The scores**, $s = q\,k^\top / \sqrt D$. This is a matrix product again, with a constant factor:
#
# $$ dq = \frac{1}{\sqrt D}\, ds\; k, \qquad dk = \frac{1}{\sqrt D}\, ds^\top q $$
#
# ### Exercise 10.4 ★★★ A head, backwards
#
# Write the gradients of your `head` with respect to q, k and v, for any number of axes before the last two. The arguments are $dy$
# and the inputs of the forward pass, so compute `a` again.
#
# <details><summary>Hint</summary>
#
# After `a`, compute dv, da, ds, dq and dk, one line each. The shapes tell you where a transpose belongs: dv is (T, D), and it
# is the product of a (T, T) and dy (T, D). Key j is compared with many queries, so dk sums over the queries, which are the
# *rows* of ds.
#
# </details>


# %% tags=["exercise"]
def head_backward(dy, q, k, v):
    """Return (dq, dk, dv), the gradients of <dy, head(q, k, v)>: each (..., T, D)."""
    # SOLUTION
    scale, transposed = 1.0 / math.sqrt(q.shape[-1]), lambda z: z.swapaxes(-1, -2)
    a = causal_softmax(q @ transposed(k) * scale)
    dv = transposed(a) @ dy  # y = a v, through v
    da = dy @ transposed(v)  # through a
    ds = a * (da - (da * a).sum(axis=-1, keepdims=True))  # a = softmax(s)
    dq = ds @ k * scale  # s = q k^T / sqrt(D), through q
    dk = transposed(ds) @ q * scale  # through k
    return dq, dk, dv
    # END


# %%
check.ex_10_4(head_backward)

# %% [markdown]
# Three properties of attention must show in your gradients. Here $\langle a, b \rangle$ is the sum of all products of entries.
#
# 1. A small step in v changes $\langle dy, y \rangle$ by $\langle dv, \text{step} \rangle$. This is exact, because y is linear in v.
# 2. A token does not depend on later tokens. Let $dy$ be 0 except at token 2. Then only tokens 0 to 2 get a gradient for their key
#    and value, and only token 2 gets one for its query.
# 3. Add one vector to all keys. Then all scores of a row change by the same number, and the softmax stays the same. So the
#    gradients of the keys add up to zero:
#
# $$ \sum_j dk_j = 0 $$

# %%
dy = rng.standard_normal(q.shape)
dq, dk, dv = head_backward(dy, q, k, v)
step = 1e-6 * rng.standard_normal(v.shape)
assert abs((dy * (head(q, k, v + step) - head(q, k, v))).sum() - (dv * step).sum()) < 1e-12
assert np.abs(dk.sum(axis=1)).max() < 1e-12, "adding one vector to all keys changes nothing"

only_2 = np.zeros_like(dy)
only_2[:, 2] = dy[:, 2]  # a loss that reads token 2 alone
for name, gradient in zip("qkv", head_backward(only_2, q, k, v), strict=True):
    with_gradient = np.flatnonzero(np.abs(gradient).max(axis=(0, 2)) > 1e-12).tolist()  # tokens
    print(f"tokens whose {name} gets a gradient: {with_gradient}")
    assert with_gradient == ([2] if name == "q" else [0, 1, 2]), "no gradient flows to the future"

# %% [markdown]
# The Jacobian of the softmax is inside your function too. To see it alone, use T = D, and identity matrices for k and v.
# Then the scores are $s = q / \sqrt D$ and the result is $y = a$. So $ds = \sqrt D\, dq$, and in the last row, where nothing is
# masked, it must be the Jacobian times $dy$:
#
# $$ ds = \big( \mathrm{diag}(a) - a\, a^\top \big)\, dy $$

# %%
n = 5
q5, dy5, eye = rng.standard_normal((n, n)), rng.standard_normal((n, n)), np.eye(n)
a_last = head(q5, eye, eye)[-1]  # the weights of the last token
jacobian = np.diag(a_last) - np.outer(a_last, a_last)
ds_last = math.sqrt(n) * head_backward(dy5, q5, eye, eye)[0][-1]
assert np.abs(ds_last - jacobian @ dy5[-1]).max() < 1e-12
assert abs(ds_last.sum()) < 1e-12, "adding a number to all scores of a row changes nothing"

# %% [markdown]
# With your split and merge it becomes the gradient of the whole rule with several heads. The gradient of a split is a merge, because
# both only move numbers:

# %%
n_heads = 4
tape = Tensor(qkv, requires_grad=True)
sequence.causal_attention(tape, n_heads=n_heads).backward(dy)
q4, k4, v4 = (split(z, n_heads) for z in np.split(qkv, 3, axis=-1))
gradients = head_backward(split(dy, n_heads), q4, k4, v4)
dqkv = np.concatenate([merge(z) for z in gradients], axis=-1)
assert np.abs(dqkv - tape.grad).max() < 1e-12
worst = gradcheck(lambda z: sequence.causal_attention(z, n_heads=n_heads), tape)
print(f"the tape against finite differences: worst relative error {worst:.1e}")
assert worst < 1e-6

# %% [markdown]
# ## 7. Attention and GAM's memory, side by side
#
# Compare this with E3 to E5 of notebook 05. Three changes turn attention into GAM's memory:
#
# 1. Remove the mask.
# 2. Use the S slots as keys *and* as values.
# 3. Multiply the query by $\sqrt C$, which cancels the division.
#
# So GAM's memory is **attention to constants**, with one head.
#
# $$ \mathrm{softmax}(u\, M^\top)\, M \;=\; \mathrm{softmax}\!\Big(\frac{q\, k^\top}{\sqrt{C}}\Big)\, v
#    \qquad\text{with}\quad q = \sqrt{C}\, u, \quad k = v = M $$


# %%
def cross_attention(q, k, v):
    """Return attention without a mask: queries q (..., T, D), keys and values k, v (S, D)."""
    a = ops.softmax(Tensor(q @ k.T / math.sqrt(q.shape[-1]))).data  # (..., T, S)
    return a @ v


S = 5
M = rng.standard_normal((S, C))
memory = lambda u: sequence.associative_memory(Tensor(u), Tensor(M)).data
assert np.abs(memory(u) - cross_attention(math.sqrt(C) * u, M, M)).max() < 1e-12

# %% [markdown]
# The formula is the same, but the two behave differently. Some lines of the table are measured on the two functions, and the others
# follow from the shapes of their arrays.


# %%
def attend(u):
    """Return one head of self-attention of u (B, T, C)."""
    return attention(u @ W.T + b, 1)


def depends_on_the_first_token(f):
    """Return whether the last result changes when the first token does."""
    changed = u.copy()
    changed[:, 0] += 1.0
    return bool(np.abs(f(changed) - f(u))[:, -1].max() > 1e-9)


def products(n_tokens, n_keys):
    """Return the millions of products in scores and mixture, masked ones too, for 512 channels."""
    return 2 * n_tokens * n_keys * 512 / 1e6


n_keys_of = {t: int((weights[0, t] > 0).sum()) for t in (2, 5)}  # attention's weights, section 4
yes = {True: "yes", False: "no"}
depends = [yes[depends_on_the_first_token(f)] for f in (attend, memory)]
table = [
    ("keys for token 2, and for token 5", f"{n_keys_of[2]}, {n_keys_of[5]}", f"{S}, {S}"),
    ("a result depends on earlier tokens", *depends),
    ("keys and values are the same vectors", yes[np.array_equal(k, v)], "yes, both are M"),
    ("scores are divided by", f"√{C}", "1"),
    ("parameters, C = 512, S = 512", f"{4 * 512**2 + 4 * 512:,}", f"{512 * 512:,}"),
]
for T_long in (256, 8192):
    counts = (f"{products(T_long, n_keys):,.0f}" for n_keys in (T_long, 512))
    table.append((f"products for {T_long} tokens, in millions", *counts))
print(f"{'':44}{'attention':>14}{'GAM memory':>18}")
for line in table:
    print(f"{line[0]:44}{line[1]:>14}{line[2]:>18}")
assert depends == ["yes", "no"]
assert n_keys_of == {2: 3, 5: 6}, "attention has more keys for later tokens"
assert products(256, 256) < products(256, 512), "at 256 tokens attention needs fewer products"
assert products(8192, 8192) > 10 * products(8192, 512)

# %% [markdown]
# The second line explains the others. Attention's keys come from the text, so attention can look things up in the text. Its
# cost grows with the square of the length. GAM's keys are constant, so its cost is linear, and its memory cannot know what the
# text said. The convolution has to carry that information (notebook 09). For short texts GAM's memory is the more
# expensive of the two: S keys are more than T.
#
# ## 8. The block
#
# A pre-norm Transformer block has the form of E8 and E9, with attention and a linear map in place of E2 to E7. For one
# token:
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
# ## 9. Generating text: the key-value cache
#
# A model generates text one token at a time. The simplest way reads the whole text again for every new token. Then token
# number T costs at least T times as much as one token. But the keys and values of earlier tokens do not change, because they do not
# depend on later tokens. So the model stores them in a **cache**, and computes only the newest token.
#
# ### Exercise 10.5 ★★☆ One step with a cache
#
# The arguments are `qkv` of the newest token, (B, 1, 3C), and the cache `past`, (B, P, 2C). For each of the P tokens before it, the cache
# holds C channels of keys, followed by C channels of values. P may be 0. Return the result for the newest token, (B, 1, C),
# and the cache with the newest token at its end, (B, P + 1, 2C).
#
# <details><summary>Hint</summary>
#
# The last 2C channels of `qkv` are the new key and value. Append them to `past` first, with `np.concatenate` along the axis
# of tokens, because a token may attend to itself. There is only one query, and no key in the cache is later than it. Do you
# need a mask? `split` and `merge` work for any number of tokens.
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
# Used token by token, the cache gives the same results as one pass over all tokens:

# %%
past, results, cache_sizes = np.zeros((B, 0, 2 * C)), [], []
for t in range(T):
    y, past = attention_step(qkv[:, t : t + 1], past, n_heads)
    results.append(y)
    cache_sizes.append(past[0].size)
assert np.abs(np.concatenate(results, axis=1) - attention(qkv, n_heads)).max() < 1e-12
print("numbers in the cache of one block, token by token:", cache_sizes)
assert cache_sizes == [2 * C * (t + 1) for t in range(T)]

# %% [markdown]
# How many numbers do the two models carry from one token to the next?
#
# $$ \text{Transformer: } 2\, L\, T\, C, \qquad \text{GAM: } L\,(K - 1)\, C $$
#
# The first grows with every token. The second does not depend on T. The next cell measures both on small models. The figure then
# shows the published sizes, in float32 with 4 bytes per number. (It ignores that their tables of position embeddings end at
# 256.)

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
assert carried["Transformer"] == [2 * 2 * tokens * 16 for tokens in range(1, 33)]
assert set(carried["GAM"]) == {2 * (3 - 1) * 16}

# %%
c, lengths = GAMConfig(), 2 ** np.arange(0, 17)
mib = 4 / 2**20  # MiB of one number
ylabel = "carried from token to token (MiB)"
figure, axes = viz.panels("T, tokens read", ylabel, size=(6.5, 3.8))
transformer_mib = 2 * c.n_layers * lengths * c.d_model * mib
gam_mib = np.full(len(lengths), c.n_layers * (c.kernel_size - 1) * c.d_model * mib)
axes.loglog(lengths, transformer_mib, **viz.STYLES[1], markersize=4, label="Transformer: keys, values")
axes.loglog(lengths, gam_mib, **viz.STYLES[0], markersize=4, label="GAM: inputs of its convolutions")
axes.legend(frameon=False)
show(
    figure,
    "On logarithmic axes the Transformer's cache is a rising line, from hundredths of a MiB "
    "to more than a thousand MiB. GAM's state is a horizontal line at hundredths of a MiB. Both "
    "are equal at one token.",
)
assert transformer_mib[0] == gam_mib[0], "K - 1 = 2 here: equal at the first token"
assert transformer_mib[-1] > 10_000 * gam_mib[-1]

# %% [markdown]
# In return for its larger cache, the Transformer *remembers* more. GAM's state can stay small because no prediction depends on
# tokens outside its receptive field.
#
# ## 10. How many parameters?
#
# The paper says that its Transformer has "24.2 M" parameters. Count them with a pencil:
#
# * A linear map from $m$ to $n$ channels has $n\,m + n$ parameters, and a LayerNorm has 2C.
# * The head is the token embedding again, so it adds none.
# * H does not appear, because the heads share the C channels.
#
# $$ \underbrace{VC + TC}_{\text{embeddings}} + L\Big( \underbrace{4C}_{\text{two norms}} + \underbrace{3C^2 + 3C}_{q,\,k,\,v} + \underbrace{C^2 + C}_{W_o} +
#    \underbrace{8C^2 + 5C}_{\text{feed-forward}} \Big) + \underbrace{2C}_{\text{last norm}} $$


# %%
def shell_parameters(V, T, C, L):
    """Return the number of parameters outside the mixers: embeddings, norms, feed-forward."""
    return V * C + T * C + L * (4 * C + 8 * C * C + 5 * C) + 2 * C


def transformer_parameters(V, T, C, L):
    """Return the number of parameters of a Transformer."""
    return shell_parameters(V, T, C, L) + L * ((3 * C * C + 3 * C) + (C * C + C))


def gam_parameters(V, T, C, L, S, K):
    """Return that of a GAM: convolution, memory and gate in place of attention."""
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
# Notebook 09 introduced associative recall: the text has pairs of a key and a value, and later a key occurs again and the model
# must answer with its value. A GAM cannot answer beyond its receptive field, and the trained one answered only some of the
# queries within it. With attention we can *construct* the answer, in two layers of one head each:
#
# 1. In layer 1, every token attends to the position just before it, and copies the token there. Afterwards each token knows
#    what came before it.
# 2. In layer 2, a token attends to the position whose *previous* token is the same as itself, and copies the token at that
#    position. If the token is a key that occurs again, that position holds its value.
#
# Such a pair of layers is called an induction circuit, and trained Transformers develop them. Here we set the weights by hand.
# The Transformer has only attention and residuals, without LayerNorm and feed-forward layers. The vector of a token has
# four parts:
#
# * *what* the token is (one-hot),
# * *where* it stands (one-hot),
# * what stood *before* it: layer 1 fills this in,
# * its *answer*: layer 2 fills this in.
#
# Each row of W picks one number of one part. With $e$ for one-hot vectors and $\beta$ for a large factor, which makes the
# softmax sharp:
#
# $$ \begin{array}{llll}
#    \text{layer 1:} & q_t = \beta\, e^{\text{where}}_{t-1} & k_t = e^{\text{where}}_t & v_t = e^{\text{what}}_t \to \text{before} \\
#    \text{layer 2:} & q_t = \beta\, e^{\text{what}}_t & k_t = e^{\text{before}}_t & v_t = e^{\text{what}}_t \to \text{answer}
#    \end{array} $$

# %%
n_keys, length = 8, 64
V, T = 1 + 2 * n_keys, length + 1  # a blank in front, so that the first token has one before it
part = {"what": V, "where": T, "before": V, "answer": V}  # channels of each part
ends = np.cumsum(list(part.values()))
place = {name: np.arange(end - part[name], end) for name, end in zip(part, ends, strict=True)}
C = int(ends[-1])
beta = 20.0 * math.sqrt(C)  # scores of 20 after the division: all other weights are near e^-20


def weights_of(query, key, value, into, shift=0):
    """Return W (3C, C): part `query` is compared with part `key`; part `value` is copied into `into`."""
    W = np.zeros((3, C, C))
    n = part[query]
    W[0, place[key][: n - shift], place[query][shift:]] = beta  # q, in the channels of its key
    W[1, place[key], place[key]] = 1.0
    W[2, place[into], place[value]] = 1.0
    return W.reshape(3 * C, C)


layers = [
    weights_of("where", "where", "what", "before", shift=1),  # copy the token before
    weights_of("what", "before", "what", "answer"),  # copy what followed the same token
]
at_5 = np.zeros(C)
at_5[place["where"][5]] = 1.0  # a token at position 5
its_query = (at_5 @ layers[0][:C].T)[place["where"]]
assert its_query.argmax() == 4 and np.count_nonzero(its_query) == 1, "position 5 looks for position 4"


def run_layers(tokens):
    """Return the vectors after both layers (B, T, C), and the attention weights: tokens (B, T)."""
    B, T = tokens.shape
    x = np.zeros((B, T, C))
    x[..., place["what"]] = np.eye(V)[tokens]
    x[..., place["where"]] = np.eye(part["where"])[:T]
    weights = []
    for W in layers:
        qkv = x @ W.T
        q, k, _ = np.split(qkv, 3, axis=-1)
        weights.append(causal_softmax(q @ k.swapaxes(-1, -2) / math.sqrt(C)))
        x = x + attention(qkv, 1)  # the residual keeps the other parts
    return x, weights


pairs = np.full(100, 8)
tokens, wanted = mqar.mqar(100, pairs, length, n_keys, n_keys, np.random.default_rng(11))
blank = np.zeros((100, 1), dtype=tokens.dtype)
x, _ = run_layers(np.concatenate([blank, tokens], axis=1))
answers = x[:, 1:, place["answer"]].argmax(axis=-1)
right = (answers == wanted)[wanted >= 0]
distances = mqar.distances(tokens, wanted)
print(f"{right.mean():.1%} of {len(right)} queries right, pairs up to {distances.max()} tokens back")
assert right.all()
assert distances.max() > 13

# %% [markdown]
# Here are the weights for a short text. In layer 1 they form a line just below the diagonal. In layer 2, look at the lower rows, where
# keys occur for the second time. Each of them has its weight at one position: the value that followed the same key before.

# %%
small, small_wanted = mqar.mqar(1, np.array([3]), 14, n_keys, n_keys, np.random.default_rng(3))
row = np.concatenate([[0], small[0]])
_, (first, second) = run_layers(row[None])
names = [".", *(f"k{i}" for i in range(n_keys)), *(f"v{i}" for i in range(n_keys))]
labels = [names[i] for i in row]
figure, panels = viz.panels("attended token (key)", n=2, size=(9.6, 4.4))
titles = ("layer 1: the token before", "layer 2: what followed the same token")
for axes, layer_weights, title in zip(panels, (first, second), titles, strict=True):
    image = axes.imshow(layer_weights[0], cmap=viz.shades(), vmin=0, vmax=1)
    axes.set_xticks(range(len(row)), labels, fontsize=8)
    axes.set_yticks(range(len(row)), labels, fontsize=8)
    axes.set_title(title, fontsize=10)
    axes.grid(visible=False)
queries = np.flatnonzero(small_wanted[0] >= 0) + 1
for t in queries:
    at = int(np.flatnonzero(row == small_wanted[0, t - 1])[0])
    panels[1].plot(at, t, "o", markersize=13, markerfacecolor="none", markeredgecolor=viz.COLOURS[1])
    assert second[0, t, at] > 0.99
panels[0].set_ylabel("attending token (query)")
figure.colorbar(image, ax=list(panels), label="weight a", shrink=0.8)
show(
    figure,
    "Two maps of weights. Left: a strong line just below the diagonal. Right: each of the three "
    "queries has one strong entry, marked by a circle, at the value that followed its key. Most "
    "other rows are pale, spread over several positions.",
)
assert all(first[0, t, t - 1] > 0.99 for t in range(1, len(row)))

# %% [markdown]
# Layer 2 does not use the distance at all: it finds a match at any position. A convolution cannot do this, because its weights
# belong to positions. GAM's memory cannot do it either, because its keys do not come from the text. This ability is what
# attention's quadratic cost pays for.
#
# ## What you can do now
#
# You can
#
# * write causal attention with heads, its gradient and its cache,
# * derive why scores are divided by the square root of D, and count a Transformer's parameters, and
# * set the weights of two layers by hand so that they answer associative recall at any distance.
#
# ## Think about it
#
# No check can answer these. Write down your answer, or discuss it with someone.
#
# 1. Attention keeps every key and value. Which of them could be dropped without a loss, and who could know?
# 2. You set an induction circuit by hand. How would you look for one in a trained model?
#
# ## Read on
#
# In the code:
#
# * `minigam/engine/attention.py`
# * `minigam/models/transformer.py`: `KeyValueCache` is your exercise 10.5
#
# Elsewhere:
#
# * [Attention Is All You Need](https://arxiv.org/abs/1706.03762)
# * [A Mathematical Framework for Transformer Circuits](https://transformer-circuits.pub/2021/framework/index.html)
# * [Thinking Like Transformers, weights as programs](https://arxiv.org/abs/2106.06981)
# * [FlashAttention](https://arxiv.org/abs/2205.14135)
