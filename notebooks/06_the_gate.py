# %% [markdown]
# # 06 · The gate
#
# **Goal.** Derive, code and check E6 and E7: each token decides, for each channel, how much of its local and of its
# global context it takes. At the end you will have written the gate and its gradient by hand, trained it on a choice
# that no fixed mix can make, and counted its parameters.
#
# **Time.** 100 minutes, 5 exercises. **Needs** 04 (the convolution), 05 (the memory). Letters: B batch, T tokens, C
# channels, K kernel size, S memory slots, L layers, V vocabulary; p and q are the shares of the two contexts.

# %% tags=["setup"]
import numpy as np

from minigam import GAM, GAMConfig, Tensor, config, gradcheck, nn, no_grad, ops, sequence, viz
from minigam.course import check, show, trained
from minigam.experiments import paper

# %% [markdown]
# ## 1. Two contexts, one sum
#
# A token now has two contexts. The convolution (E2) has combined its neighbours: the local context. The memory (E3 to
# E5) has returned a mix of learned patterns: the global context. Both are arrays of shape (B, T, C). The simplest
# mixer adds them. But then every token gets the same mix, although the neighbours matter after "the red ..." and the
# first word of a story has none.
#
# A gate lets each token decide. E6 computes two numbers for each channel from $u$, the same array that the
# convolution and the memory read. It needs one matrix $W_g$ of shape (2C, C) and one bias $b_g$ of shape (2C). The
# first C numbers are for the local context:
#
# $$ [\,g_\mathrm{local},\; g_\mathrm{global}\,] = u\, W_g^\top + b_g $$

# %%
rng = np.random.default_rng(6)
B, T, C, S, K = 2, 5, 4, 3, 3
u = rng.standard_normal((B, T, C))  # after LayerNorm, E1
W_g = rng.standard_normal((2 * C, C))
b_g = rng.standard_normal(2 * C)
conv = [Tensor(rng.standard_normal(shape)) for shape in ((C, K), (C,))]
memory = Tensor(rng.standard_normal((S, C)))
local_context = sequence.causal_conv1d(Tensor(u), *conv).data  # E2, (B, T, C)
global_context = sequence.associative_memory(Tensor(u), memory).data  # E3-E5, (B, T, C)

g = u @ W_g.T + b_g  # E6, (B, T, 2C)
g_local, g_global = g[..., :C], g[..., C:]  # (B, T, C) each
assert g_local.shape == g_global.shape == u.shape
assert abs(g_global[0, 1, 2] - (W_g[C + 2] @ u[0, 1] + b_g[C + 2])) < 1e-12

# %% [markdown]
# ## 2. From any number to a share: the sigmoid
#
# $g$ can be any number, but a share lies between 0 and 1. The sigmoid maps one to the other:
#
# $$ \sigma(z) = \frac{1}{1 + e^{-z}} = \frac{e^{z}}{1 + e^{z}}, \qquad \sigma(-z) = 1 - \sigma(z) $$
#
# On paper both fractions are the same. In floating point $e^{z}$ overflows to infinity, in float32 from about $z =
# 89$ on. If $z$ is far below 0, the first fraction divides by infinity; the result is the correct 0, with a warning.
# If $z$ is far above 0, the second fraction divides infinity by infinity; the result is nan.

# %%
z = np.array([-1000.0, -1.0, 0.0, 1.0, 1000.0])
with np.errstate(over="ignore", invalid="ignore"):
    first, second = 1 / (1 + np.exp(-z)), np.exp(z) / (1 + np.exp(z))
    assert np.isinf(np.exp(np.float32(89.0)))
print("first form: ", first)
print("second form:", second)
assert np.abs(first - second)[:-1].max() < 1e-12 and np.isnan(second[-1])
assert np.abs(first[::-1] - (1 - first)).max() < 1e-12  # sigmoid(-z) = 1 - sigmoid(z)

# %% [markdown]
# The hyperbolic tangent avoids the overflow. It has the same shape, from -1 to 1, and every library computes it
# without overflow. Add one, halve, write tanh as a quotient of exponentials, and divide by $e^{x}$:
#
# $$ \tfrac12\big(1 + \tanh x\big) = \tfrac12 \cdot \frac{(e^{x} + e^{-x}) + (e^{x} - e^{-x})}{e^{x} + e^{-x}}
#    = \frac{e^{x}}{e^{x} + e^{-x}} = \frac{1}{1 + e^{-2x}} $$
#
# ### Exercise 06.1 ★☆☆ A safe sigmoid
#
# Write the sigmoid of each entry of $z$, an array of any shape. It must be right for every $z$, and nothing may
# overflow on the way.
#
# <details><summary>Hint</summary>
#
# The last fraction above is $\sigma(2x)$. Which x gives $\sigma(z)$?
#
# </details>


# %% tags=["exercise"]
def sigmoid(z):
    """Return 1 / (1 + exp(-z)) for each entry of z: (...) -> (...)."""
    # SOLUTION
    return 0.5 * (1.0 + np.tanh(0.5 * z))
    # END


# %%
check.ex_06_1(sigmoid)

# %% [markdown]
# The formula with tanh has one weakness: a share below about $10^{-16}$ becomes 0, because it is lost when 1 is added
# to tanh. A gate only multiplies by its share, so there this does not matter. It would matter before a logarithm, as
# in a cross-entropy.

# %%
assert np.abs(sigmoid(z) - first).max() < 1e-6
assert 0.5 * (1.0 + np.tanh(-20.0)) == 0.0 < np.exp(-40.0) / (1.0 + np.exp(-40.0))  # sigmoid(-40)

# %% [markdown]
# ## 3. The fusion
#
# E7 multiplies each context by its gate and adds the two. $\odot$ multiplies entry by entry:
#
# $$ \mathrm{fused} = \underbrace{\sigma(g_\mathrm{local})}_{p} \odot\, \mathrm{local\_context} \;+\;
#    \underbrace{\sigma(g_\mathrm{global})}_{q} \odot\, \mathrm{global\_context} $$
#
# ### Exercise 06.2 ★☆☆ Fuse
#
# Write E7. `g` holds both halves before the sigmoid, the local one first. The sigmoid is yours from 06.1.
#
# <details><summary>Hint</summary>
#
# `g[..., :C]` takes the first C numbers along the last axis, however many axes there are before it. C is the length
# of the last axis of either context.
#
# </details>


# %% tags=["exercise"]
def fuse(local_context, global_context, g):
    """Return E7: contexts (B, T, C) each, g (B, T, 2C) before the sigmoid -> (B, T, C)."""
    # SOLUTION
    C = local_context.shape[-1]
    p, q = sigmoid(g[..., :C]), sigmoid(g[..., C:])
    return p * local_context + q * global_context
    # END


# %%
check.ex_06_2(fuse)

# %%
fused = fuse(local_context, global_context, g)  # (B, T, C)
by_minigam = sequence.gated_fusion(*map(Tensor, (local_context, global_context, g))).data
assert np.abs(fused - by_minigam).max() < 1e-6

# %% [markdown]
# ### Two gates, not one choice
#
# Many gates choose *between* two inputs: their shares come from a softmax and add up to 1. With two scores, the
# softmax is a sigmoid of their difference. To see this, divide numerator and denominator by $e^{g_1}$:
#
# $$ \frac{e^{g_1}}{e^{g_1} + e^{g_2}} = \frac{1}{1 + e^{-(g_1 - g_2)}} = \sigma(g_1 - g_2) $$
#
# So a softmax over two scores has one degree of freedom: its pairs of shares lie on a line. The two sigmoids of GAM
# have two degrees of freedom: their pairs fill the whole square. This adds two corners that a softmax cannot reach:
# *both* contexts in full, and *neither*, where the mixer adds nothing to its token.

# %%
pairs = 2.5 * rng.standard_normal((300, 2))  # g of 300 tokens, one channel
shares = np.exp(pairs) / np.exp(pairs).sum(axis=1, keepdims=True)
assert np.abs(shares[:, 0] - sigmoid(pairs[:, 0] - pairs[:, 1])).max() < 1e-6
assert np.abs(shares.sum(axis=1) - 1.0).max() < 1e-12
assert np.abs(sigmoid(pairs).sum(axis=1) - 1.0).max() > 0.9  # from nearly 0 to nearly 2

figure, axes = viz.panels("share of the local context, p", "share of the global context, q")
figure.set_size_inches(5.2, 4.4)
axes.plot(*sigmoid(pairs).T, "o", color=viz.INK, markersize=4, label="two sigmoids (GAM)")
axes.plot(*shares.T, "^", markersize=4, label="softmax of the two")
corners = {"neither": (0, 0), "local alone": (1, 0), "global alone": (0, 1), "both": (1, 1)}
for name, (p, q) in corners.items():
    axes.text(p, q * 1.1 - 0.05, name, ha="center", va="center", weight="bold")
axes.set(xlim=(-0.22, 1.22), ylim=(-0.12, 1.34))
axes.legend(frameon=False, loc="upper center", ncols=2, fontsize=8)
show(
    figure,
    "The unit square of the two shares. The pairs of two sigmoids fill it, including the corners. "
    "The pairs of a softmax lie on the diagonal from local alone to global alone.",
)

# %% [markdown]
# ## 4. What does each side contribute?
#
# Write $l$ for the local context and $m$ for the global one, which comes from the memory. The squared length of what
# the mixer adds to a token has three parts. Two come from the two sides. The third, the cross term, is positive where
# the two point in similar directions, and negative where they oppose each other:
#
# $$ \lVert \mathrm{fused} \rVert^2 = \lVert p \odot l \rVert^2 + \lVert q \odot m \rVert^2
#    + 2\, \langle p \odot l,\; q \odot m \rangle $$


# %%
def contributions(local, recalled, g):
    """Return the parts of |fused|^2, summed over all tokens, as shares: local, global, cross term."""
    C = local.shape[-1]
    pl, qm = sigmoid(g[..., :C]) * local, sigmoid(g[..., C:]) * recalled
    parts = [(pl**2).sum(), (qm**2).sum(), 2.0 * (pl * qm).sum()]
    return np.array(parts) / ((pl + qm) ** 2).sum()


parts = contributions(local_context, global_context, g)
assert abs(parts.sum() - 1.0) < 1e-12
print("local {:.2f}, global {:.2f}, cross term {:.2f}".format(*parts))

# %% [markdown]
# The bias changes the shares of all tokens at once. Raise the bias of the local half, so that the local gates go from
# closed to open, and leave everything else as it is:

# %%
raised_by = np.linspace(-8.0, 8.0, 33)
only_local = np.arange(2 * C) < C
curves = [contributions(local_context, global_context, g + x * only_local) for x in raised_by]
figure, axes = viz.panels("added to the local half of b_g", "part of |fused|²")
labels = ("local side", "global side", "cross term")
for i, (curve, label) in enumerate(zip(np.array(curves).T, labels, strict=True)):
    axes.plot(raised_by, curve, **viz.STYLES[i], markersize=4, markevery=4, label=label)
axes.legend(frameon=False, fontsize=8)
show(
    figure,
    "While the local gate is closed, the global side is all of the squared length. As the gate opens, "
    "the share of the local side grows; all three level off where the gate is fully open.",
)
assert curves[0][0] < 0.01 < curves[-1][0]

# %% [markdown]
# ## 5. The gradient
#
# First the sigmoid. By the chain rule, and with $1 - p = e^{-z} / (1 + e^{-z})$:
#
# $$ p = \frac{1}{1+e^{-z}}, \qquad \frac{dp}{dz} = \frac{e^{-z}}{(1+e^{-z})^2}
#    = \frac{1}{1+e^{-z}} \cdot \frac{e^{-z}}{1+e^{-z}} = p\,(1-p) $$
#
# The derivative can be computed from the value $p$ alone. It is largest at $p = 1/2$, where it is a quarter.

# %%
z, eps = np.linspace(-9.0, 9.0, 181), 1e-5
p = sigmoid(z)
by_differences = (sigmoid(z + eps) - sigmoid(z - eps)) / (2 * eps)
assert np.abs(p * (1 - p) - by_differences).max() < 1e-6
assert (p * (1 - p)).max() <= 0.25 and abs(z[(p * (1 - p)).argmax()]) < 1e-9

figure, axes = viz.panels("g", n=2, size=(9.0, 3.4))
axes[0].plot(z, p, "-", label="p = sigmoid(g)")
axes[0].plot(z, p * (1 - p), "--", label="p (1 - p)")
axes[0].axhline(0.25, color=viz.INK, linestyle=":")
axes[0].legend(frameon=False, fontsize=8)
axes[0].set_ylabel("share, and its derivative")
axes[1].semilogy(np.abs(z), p * (1 - p), "--", color=viz.COLOURS[1], label="p (1 - p)")
axes[1].semilogy(np.abs(z), np.exp(-np.abs(z)), ":", color=viz.COLOURS[2], label="exp(-|g|)")
axes[1].set(xlabel="|g|", ylabel="derivative, logarithmic")
axes[1].legend(frameon=False, fontsize=8)
show(
    figure,
    "Left: the sigmoid rises from 0 to 1; its derivative is a bump at 0 with a height of a quarter. "
    "Right, on a logarithmic scale: the derivative falls like exp(-|g|), which is a straight line.",
)

# %% [markdown]
# Now E7. In $y = p \odot l + q \odot m$ entry $(b,t,c)$ of the output depends only on entry $(b,t,c)$ of each factor.
# Let $dy$ be the gradient of a loss with respect to $y$. The product rule and then the chain rule give
#
# $$ dl = dy \odot p, \qquad dp = dy \odot l, \qquad
#    dg_\mathrm{local} = dp \odot \frac{\partial p}{\partial g_\mathrm{local}} = dy \odot l \odot p \odot (1-p) $$
#
# The global side has the same gradients, with $m$ and $q$. ($dp$ is the gradient of the loss with respect to $p$, as
# everywhere in this course; the fraction is the derivative from above.) In words: the gradient of a context is scaled
# by its gate. The gradient of a gate is $dy \odot l$, which says whether more of this context would have helped,
# scaled by $p(1-p)$.
#
# ### Exercise 06.3 ★★☆ The fusion, backwards
#
# Write the gradients of E7 with respect to all three inputs. `dg` has both halves side by side, the local one first,
# like `g`.
#
# <details><summary>Hint</summary>
#
# Compute p and q again. Each side is a product of two factors: the gradient of one factor is dy times the other. The
# gradient of a gate then passes through the sigmoid: multiply by p (1 - p). At the end, concatenate both halves of
# dg.
#
# </details>


# %% tags=["exercise"]
def fuse_backward(dy, local_context, global_context, g):
    """Return (dlocal, dglobal, dg), the gradients of <dy, fuse(local, global, g)>.

    dy, dlocal, dglobal : (B, T, C)     dg : (B, T, 2C)
    """
    # SOLUTION
    C = local_context.shape[-1]
    p, q = sigmoid(g[..., :C]), sigmoid(g[..., C:])
    dg_local = dy * local_context * p * (1.0 - p)
    dg_global = dy * global_context * q * (1.0 - q)
    return dy * p, dy * q, np.concatenate([dg_local, dg_global], axis=-1)
    # END


# %%
check.ex_06_3(fuse_backward)

# %%
dy = rng.standard_normal(u.shape)
dl, dm, dg = fuse_backward(dy, local_context, global_context, g)
tape = [Tensor(z, requires_grad=True) for z in (local_context, global_context, g)]
sequence.gated_fusion(*tape).backward(dy)
for by_hand, by_tape in zip((dl, dm, dg), tape, strict=True):
    assert np.abs(by_hand - by_tape.grad).max() < 1e-6
worst = gradcheck(sequence.gated_fusion, *tape)
print(f"worst relative error {worst:.1e}")
assert worst < 1e-6

# %% [markdown]
# Last E6, a linear map. Entry $i$ of $g_{bt}$ is $\sum_c W_{ic}\, u_{btc} + b_i$. So the gradient of the weight
# $W_{ic}$ is the sum of $dg_{bti}\, u_{btc}$ over all tokens. With all tokens of the batch as rows of one matrix:
#
# $$ du = dg\; W_g, \qquad dW_g = dg^\top u, \qquad db_g = \sum_{bt} dg_{bt} $$
#
# This $du$ is one of three. The convolution and the memory use the same $u$, and the three gradients add up.

# %%
rows = lambda z: z.reshape(-1, z.shape[-1])  # (B, T, C) -> (B T, C)
du, dW_g, db_g = dg @ W_g, rows(dg).T @ rows(u), rows(dg).sum(axis=0)
tape = [Tensor(z, requires_grad=True) for z in (u, W_g, b_g)]
gate = ops.linear(*tape)
sequence.gated_fusion(Tensor(local_context), Tensor(global_context), gate).backward(dy)
for by_hand, by_tape in zip((du, dW_g, db_g), tape, strict=True):
    assert np.abs(by_hand - by_tape.grad).max() < 1e-6

# %% [markdown]
# ## 6. Saturation: a gate far from 0 hardly learns
#
# The factor $p(1-p)$ is at most a quarter and falls like $e^{-|g|}$. A gate with a large $|g|$ is *saturated*: it
# hardly learns, even if it is wrong. To see it, take a gate of one number, which should open. Its loss is $\frac12
# (p - 1)^2$. It starts at four values of $g$ and follows the gradient with the learning rate $\eta$:
#
# $$ g \leftarrow g - \eta\, (p - 1)\, p\, (1 - p) $$

# %%
starts, rate, opening = (0.0, -2.0, -4.0, -8.0), 4.0, []
gates = np.array(starts)  # four gates, each on its own
for _ in range(100):
    p = sigmoid(gates)
    opening.append(p)
    gates = gates - rate * (p - 1.0) * p * (1.0 - p)
figure, axes = viz.panels("step", "p, which should become 1")
for i, (start, curve) in enumerate(zip(starts, np.transpose(opening), strict=True)):
    axes.plot(curve, **viz.STYLES[i], markersize=4, markevery=10, label=f"from g = {start:g}")
axes.legend(frameon=False, fontsize=8)
show(
    figure,
    "From g = 0 or -2 the gate opens within a few steps. From -4 it takes longer and then rises "
    "sharply. From -8 it is still closed after 100 steps.",
)
assert opening[-1][0] > 0.9 and opening[-1][-1] < 0.01

# %% [markdown]
# ### Where a gate begins
#
# A gate should therefore begin near $g = 0$, half open. GAM's gates do, with PyTorch's initial values of a linear
# layer: all weights and biases are uniform in $(-a, a)$ with $a = 1/\sqrt{C}$. Such a number has the variance
# $a^2/3 = 1/(3C)$. The input $u$ comes from LayerNorm, so its mean square is 1 in each token. $g$ is a sum of C products and
# a bias, so
#
# $$ \mathrm{Var}(g) = C \cdot 1 \cdot \frac{1}{3C} + \frac{1}{3C} = \frac{1}{3} + \frac{1}{3C} $$

# %%
wide = 256
normed = rng.standard_normal((500, wide))
normed = (normed - normed.mean(axis=1, keepdims=True)) / normed.std(axis=1, keepdims=True)
fresh = nn.Linear(wide, 2 * wide, np.random.default_rng(0))(Tensor(normed)).data  # E6
print(f"variance of g: {fresh.var():.3f}, by the formula {1 / 3 + 1 / (3 * wide):.3f}")
assert abs(fresh.var() - (1 / 3 + 1 / (3 * wide))) < 0.03
low, high = np.quantile(sigmoid(fresh), (0.05, 0.95))
print(f"nine of ten new gates lie between {low:.2f} and {high:.2f}")
assert 0.15 < low < 0.5 < high < 0.85

# %% [markdown]
# So a new mixer begins near half the sum of its contexts, and every gate can still open or close. Other initial
# values give other beginnings. With a bias of +4 on both halves the mixer begins near the plain sum. With a bias of
# -4 it adds almost nothing, so that $h$ begins near $x$ (E8). [Highway networks](https://arxiv.org/abs/1505.00387)
# begin with a negative bias, so that each layer begins near the identity. LSTMs often begin with an open forget gate.
# The price is a smaller factor $p(1-p)$.

# %%
both, neither = np.full_like(g, 4.0), np.full_like(g, -4.0)
plain_sum = local_context + global_context
assert np.abs(fuse(local_context, global_context, 0.0 * g) - 0.5 * plain_sum).max() < 1e-6
largest = (np.abs(local_context) + np.abs(global_context)).max()
assert np.abs(fuse(local_context, global_context, both) - plain_sum).max() < 0.02 * largest
assert np.abs(fuse(local_context, global_context, neither)).max() < 0.02 * largest

# %% [markdown]
# ### Exercise 06.4 ★★☆ How much can still be learned?
#
# Measure it for each channel of the gate: return $4\,p\,(1-p)$, averaged over all tokens of all sequences. It is 1 if
# all gates of the channel are half open, and nearly 0 if all are saturated. Let us call it the gradient share,
# because it is the share of the largest possible gradient. Entries of `g` may be as large as 10,000.
#
# <details><summary>Hint</summary>
#
# The mean goes over every axis except the last: `axis=(0, 1)`.
#
# </details>


# %% tags=["exercise"]
def gradient_share(g):
    """Return the mean over tokens of 4 p (1 - p), p = sigmoid(g): (B, T, 2C) -> (2C)."""
    # SOLUTION
    p = sigmoid(g)
    return (4.0 * p * (1.0 - p)).mean(axis=(0, 1))
    # END


# %%
check.ex_06_4(gradient_share)

# %%
for scale in (0.0, 1.0, 4.0, 16.0):
    share = gradient_share(scale * fresh[None]).mean()
    print(f"g of standard deviation {scale * fresh.std():5.2f}: gradient share {share:.3f}")
assert gradient_share(fresh[None]).mean() > 0.8  # new gates learn well
assert gradient_share(16.0 * fresh[None]).mean() < 0.3

# %% [markdown]
# ## 7. When is a gate needed? An experiment
#
# Here is a task that needs a choice. Every token has two switches, $\pm 1$, in its first two channels. If the first is
# on, the target contains the local context $l$ (here: the token before). If the second is on, it contains the global
# context $m$ (here: the output of a fixed memory). Both may be on, and both may be off. With $[\,\cdot\,]$ for 1 if the
# condition holds and 0 otherwise:
#
# $$ \mathrm{wanted}_{bt} = [\text{switch}_1 > 0]\; l_{bt} + [\text{switch}_2 > 0]\; m_{bt} $$

# %%
B, T, C = 16, 32, 6
u = rng.standard_normal((B, T, C))
u[..., :2] = rng.choice([-1.0, 1.0], size=(B, T, 2))  # the two switches
previous = Tensor(np.tile([1.0, 0.0], (C, 1))), Tensor(np.zeros(C))  # K = 2: the token before
memory = Tensor(rng.standard_normal((8, C)))
local = sequence.causal_conv1d(Tensor(u), *previous).data  # E2, l in the equation
recalled = sequence.associative_memory(Tensor(u), memory).data  # E3-E5, m in the equation
on = u[..., :2] > 0  # (B, T, 2)
wanted = on[..., :1] * local + on[..., 1:] * recalled
assert wanted.shape == (B, T, C)
assert np.array_equal(wanted[on.all(axis=-1)], (local + recalled)[on.all(axis=-1)])

# %% [markdown]
# Three mixers learn it, all with your `fuse` and `fuse_backward` and plain gradient steps:
#
# * **sum**: one learned share for each side and channel, the same for all tokens. It is a gate with a bias but no
#   weights. (GAM's own mixer `"sum"`, in section 8, does not even learn these shares: it adds the contexts as they
#   are.)
# * **softmax**: a choice between the sides. By section 3 it is a gate with the halves $d$ and $-d$, where $d =
#   g_\mathrm{local} - g_\mathrm{global}$. Its gradient is $dd = dg_\mathrm{local} - dg_\mathrm{global}$.
# * **gated**: E6 and E7.


# %%
def opposite(g):
    """Return [d, -d] for d = first half minus second half: (B, T, 2C) -> (B, T, 2C)."""
    d = g[..., :C] - g[..., C:]
    return np.concatenate([d, -d], axis=-1)


def learn(mixer, steps=600, rate=1.0):
    """Return the loss at every step, and the learned g (B, T, 2C)."""
    start = np.random.default_rng(0)
    W_g, b_g, losses = 0.1 * start.standard_normal((2 * C, C)), np.zeros(2 * C), []
    for _ in range(steps):
        g = u @ W_g.T + b_g if mixer != "sum" else np.zeros((B, T, 2 * C)) + b_g  # E6
        g = opposite(g) if mixer == "softmax" else g
        error = fuse(local, recalled, g) - wanted  # (B, T, C)
        losses.append((error**2).mean())
        _, _, dg = fuse_backward(2.0 * error / (B * T), local, recalled, g)
        dg = opposite(dg) if mixer == "softmax" else dg
        W_g, b_g = W_g - rate * rows(dg).T @ rows(u), b_g - rate * rows(dg).sum(axis=0)
    return np.array(losses), g


learned = {mixer: learn(mixer) for mixer in ("sum", "softmax", "gated")}

# %% [markdown]
# How good can the best fixed mix be? It has two factors for each channel, $\alpha_c l + \beta_c m$. Least squares
# finds them:

# %%
best_fixed = 0.0  # mean squared error
for c in range(C):
    sides = np.stack([local[..., c].ravel(), recalled[..., c].ravel()], axis=1)  # (B T, 2)
    gains, *_ = np.linalg.lstsq(sides, wanted[..., c].ravel(), rcond=None)
    best_fixed += ((sides @ gains - wanted[..., c].ravel()) ** 2).mean() / C

figure, axes = viz.panels("gradient step", "mean squared error", size=(6.4, 3.8))
for i, (mixer, (losses, _)) in enumerate(learned.items()):
    axes.semilogy(losses, **viz.STYLES[i], markersize=4, markevery=60, label=mixer)
    print(f"{mixer:8s} {losses[0]:.3f} -> {losses[-1]:.4f}")
axes.axhline(best_fixed, color=viz.INK, linestyle=(0, (8, 3)), label="best fixed mix")
axes.legend(frameon=False, fontsize=8)
show(
    figure,
    "The error of the sum falls to the line of the best fixed mix and stays there. The error of the "
    "softmax falls below it and levels off. The gated error keeps falling, to less than a tenth of it.",
)
assert best_fixed <= learned["sum"][0][-1] < 1.05 * best_fixed
assert learned["gated"][0][-1] < 0.1 * best_fixed
assert learned["gated"][0][-1] < 0.3 * learned["softmax"][0][-1] < 0.3 * best_fixed

# %% [markdown]
# Look at what they learned in the square of section 3. Each token is a point at its mean share of either side. The
# two sigmoids put the tokens near the four corners. The softmax can give "both" and "neither" only about half of each
# side.

# %%
first, second = on[..., 0], on[..., 1]  # (B, T) each
cases = {  # which tokens, their marker, and the offset of their name
    "neither": (~first & ~second, "o", (-24, -16)),
    "local": (first & ~second, ">", (0, -18)),
    "global": (~first & second, "^", (0, 12)),
    "both": (first & second, "s", (24, 10)),
}
figure, axes = viz.panels("local share p", "global share q", n=2, size=(9.0, 4.2))
for ax, mixer in zip(axes, ("softmax", "gated"), strict=True):
    shares = sigmoid(learned[mixer][1])  # (B, T, 2C)
    p, q = shares[..., :C].mean(axis=-1), shares[..., C:].mean(axis=-1)  # (B, T)
    for name, (case, marker, offset) in cases.items():
        ax.plot(p[case], q[case], marker, markersize=5)
        middle = p[case].mean(), q[case].mean()
        ax.annotate(name, middle, xytext=offset, textcoords="offset points", ha="center")
    ax.set(xlim=(-0.15, 1.15), ylim=(-0.15, 1.15))
    ax.set_title(mixer, fontsize=10)
show(
    figure,
    "Softmax: all tokens lie on one diagonal line; those with the target both or neither are in its "
    "middle. Gated: the four groups of tokens lie in four clusters near the four corners.",
)
sides = lambda mixer: sigmoid(learned[mixer][1]).reshape(B, T, 2, C)  # p and q
assert np.abs(sides("softmax").sum(axis=2) - 1.0).max() < 1e-6
assert np.abs(sides("gated").mean(axis=-1) - on).mean() < 0.2  # near the corners

# %% [markdown]
# ## 8. What does it cost? The paper's ablation
#
# An ablation removes parts of a model and measures what is lost. GAM's `mixer` can be `"gated"`, `"sum"` (both
# contexts, no gate), `"local"` or `"global"` (one context, no gate). A mixer creates only the parameters that it
# uses. In one block,
#
# $$ \mathrm{mixer} = \underbrace{C K + C}_{\text{convolution}} + \underbrace{S\, C}_{\text{memory}}
#    + \underbrace{2 C \cdot C + 2 C}_{\text{gate}} \qquad \text{(gated)} $$
#
# ### Exercise 06.5 ★★☆ The parameters of a mixer
#
# Return the number of parameters of one block's mixer as an int. `mixer` is one of the four names.
#
# <details><summary>Hint</summary>
#
# Ask three questions: does this mixer have a convolution, a memory, a gate? A memory has no bias, and its one matrix
# M serves as keys and as values.
#
# </details>


# %% tags=["exercise"]
def mixer_parameters(C, S, K, mixer):
    """Return the number of parameters of one block's mixer.

    mixer : "gated", "sum", "local" or "global"
    """
    # SOLUTION
    n = 0
    if mixer != "global":
        n += C * K + C  # convolution and its bias
    if mixer != "local":
        n += S * C  # memory
    if mixer == "gated":
        n += 2 * C * C + 2 * C  # W_g and b_g
    return n
    # END


# %%
check.ex_06_5(mixer_parameters)

# %% [markdown]
# In addition to its mixer a block has two LayerNorms with $4C$ parameters together, and a feed-forward layer from C to 4C
# and back, with biases: $4C \cdot C + 4C + 4C \cdot C + C = 8C^2 + 5C$. Outside the blocks are the embeddings of
# tokens and of positions, and a last LayerNorm. The head uses the token embedding again:
#
# $$ \mathrm{model} = V C + T C + L\,(\mathrm{mixer} + 4C + 8 C^2 + 5 C) + 2 C $$


# %%
def model_parameters(c):
    """Return the number of parameters of a GAM with the configuration c, by the formula."""
    C = c.d_model
    block = mixer_parameters(C, c.n_slots, c.kernel_size, c.mixer) + 4 * C + 8 * C * C + 5 * C
    return c.vocab_size * C + c.block_size * C + c.n_layers * block + 2 * C


small = {"vocab_size": 11, "block_size": 7, "d_model": 8, "n_layers": 3, "n_slots": 5}
for mixer in config.PAPER_MIXERS:  # build tiny models and count
    tiny = GAMConfig(**small, kernel_size=4, mixer=mixer)
    assert GAM(tiny).num_parameters() == model_parameters(tiny)

print("mixer     by the formula   paper (million)")
for mixer, (millions, _) in paper.TABLE3.items():  # the published size, only by the formula
    count = model_parameters(GAMConfig(mixer=mixer))
    print(f"{mixer:8s} {count:15,}   {millions}")
    assert round(count / 1e6, 1) == millions

# %% [markdown]
# The paper trained all four on WikiText-2 and reports these validation perplexities. A perplexity is
# $e^{\mathrm{loss}}$, so its logarithm is the loss in nats. In nats the four are close together.

# %%
figure, axes = viz.panels("parameters (million)", "validation loss (nats), from the paper")
for (mixer, (_, perplexity)), style in zip(paper.TABLE3.items(), "oDs^", strict=True):
    count = model_parameters(GAMConfig(mixer=mixer)) / 1e6
    label = f"{mixer}, {perplexity}"
    axes.plot(count, np.log(perplexity), style, markersize=7, label=label)
axes.legend(frameon=False, fontsize=8, title="mixer, perplexity")
axes.set(xlim=(17.0, 23.5), ylim=(6.795, 6.865))
show(
    figure,
    "Four points. Gated has the most parameters and the lowest loss. Global has fewer and nearly the "
    "same loss. The losses of sum and local are higher by some hundredths of a nat.",
)
losses = {mixer: float(np.log(perplexity)) for mixer, (_, perplexity) in paper.TABLE3.items()}
print(f"from the best to the worst: {max(losses.values()) - min(losses.values()):.3f} nats")
assert min(losses, key=losses.get) == "gated"
assert max(losses.values()) - min(losses.values()) < 0.06

# %% [markdown]
# Three things limit what this table shows:
#
# * The gated model has about three million parameters more than the sum. So the table does not compare the *idea* of
#   the gate alone.
# * There is one run of each, on a text so small that the loss stays near 6.8 nats.
# * "global" alone, in which no token depends on any other, is nearly as good. That says more about the task than
#   about the gate.
#
# The experiment above shows less, but it is certain: there are choices that a gate can make and a sum cannot.

# %% [markdown]
# ## 9. The gates of a trained model
#
# This is the default GAM of this project, trained on PocketStories as `make train` does it. (The first call trains
# it, about a minute on two cores; later calls read it.) A forward pass by hand, block by block, keeps the arrays that
# we want to see.

# %%
run, model, corpus = trained()
model.eval()
C = model.config.d_model
is_token = corpus.valid[:16, :-1] >= 0  # (B, T): False for the filling after the end of a story
ids = np.where(is_token, corpus.valid[:16, :-1], 0)
inside = []  # for each block: local context, global context, g
with no_grad():
    x = model.token_embedding(ids) + model.position_embedding.weight[: ids.shape[1]]
    for block in model.blocks:
        u = block.norm1(x)  # E1
        local = block.conv(u)  # E2
        recalled = sequence.associative_memory(u, block.memory)  # E3-E5
        g = block.gate(u)  # E6
        inside.append([z.numpy()[is_token] for z in (local, recalled, g)])
        x = block(x)
    assert np.abs((model.norm(x) - model.features(ids)).numpy()).max() < 1e-4

# %%
figure, axes = viz.panels("sigmoid(g)", n=len(inside), size=(10.0, 3.0))
bins = np.linspace(0.0, 1.0, 41)
for i, (ax, (_, _, g)) in enumerate(zip(axes, inside, strict=True)):
    for half, style, name in ((g[:, :C], "-", "local"), (g[:, C:], ":", "global")):
        heights, _ = np.histogram(sigmoid(half), bins, density=True)
        ax.plot((bins[1:] + bins[:-1]) / 2, heights, style, label=name)
    share = gradient_share(g[None]).mean()
    ax.set_title(f"block {i}, gradient share {share:.2f}", fontsize=9)
    assert 0.0 < share <= 1.0
axes[0].set_ylabel("density")
axes[0].legend(frameon=False, fontsize=8)
show(
    figure,
    "Histograms of the local and the global gates in each of the four blocks: each has one peak near "
    "one half. The gradient share, in the titles, is high in all four.",
)

# %%
figure, axes = viz.panels("block", "part of |fused|²")
parts = np.array([contributions(*z) for z in inside])  # (L, 3)
for i, label in enumerate(labels):
    axes.plot(parts[:, i], **viz.STYLES[i], markersize=6, label=label)
axes.axhline(0.0, color=viz.INK, linewidth=0.8)
axes.set_xticks(range(len(inside)))
axes.legend(frameon=False, fontsize=8)
show(
    figure,
    "In each of the four blocks most of the squared length comes from the local side. The "
    "global side and the cross term are small.",
)
assert np.abs(parts.sum(axis=1) - 1.0).max() < 1e-4

# %% [markdown]
# After a few hundred steps most gates are still near the middle, and their gradient share is high: they are not
# saturated. Most of the *length* comes from the local side, the only one that combines tokens. But length is not use:
# a short vector may point exactly in the direction that the head reads. So close one side in all blocks, by a large
# negative bias, and compare the losses.

# %%
assert all(gradient_share(g[None]).mean() > 0.4 for _, _, g in inside)
assert (parts[:, 0] > 0.6).all()

targets = corpus.valid[:16, 1:]  # the token after each; -1 is no target
halves = {"as trained": slice(0), "local side closed": slice(C), "global side closed": slice(C, 2 * C)}
biases, losses = [block.gate.bias.data for block in model.blocks], {}
for name, half in halves.items():
    for block, bias in zip(model.blocks, biases, strict=True):
        block.gate.bias.data = bias.copy()
        block.gate.bias.data[half] = -30.0  # sigmoid(-30) is about 1e-13
    losses[name] = float(model.loss(ids, targets).data)
    print(f"{name:18s} {losses[name]:.4f} nats per token")
for block, bias in zip(model.blocks, biases, strict=True):
    block.gate.bias.data = bias  # as trained
assert losses["local side closed"] > losses["as trained"] + 1.0
assert abs(losses["global side closed"] - losses["as trained"]) < 0.05

# %% [markdown]
# Without its local side the model fails. Without its global side its loss hardly changes: on these stories, after
# this training, it does not use its memories. There is a reason to expect this. What the memory gives to a token
# depends only on this token's row of $u$. What the feed-forward layer of the same block gives (E9) depends only on
# its row of $h$. That layer is many times larger and can learn the same function. Whether this holds for other texts
# and longer training is a question for experiments, like the table of section 8. Notebook 14 looks more closely at
# this model: at which words a gate opens, and which slots answer.

# %% [markdown]
# ## What you can do now
#
# You can
#
# * compute the gate and its gradient, with a sigmoid that cannot overflow,
# * explain why two sigmoids are two decisions, and a softmax over two is one, and
# * say when a gate stops learning, and how to start it so that it can.
#
# ## Think about it
#
# No check can answer these. Write down your answer, or discuss it with someone.
#
# 1. What would you measure in a trained model to decide whether its gate is worth its parameters?
# 2. Could the block do without the gate if the memory or the convolution were scaled? What would be lost?
#
# ## Read on
#
# In the code:
#
# * `minigam/engine/sequence.py`: `gated_fusion`
# * `minigam/models/gam.py`: `GAMBlock.mix`, all mixers
# * `minigam/engine/numeric.py`: `sigmoid`
#
# Elsewhere:
#
# * [Language Modeling with Gated Convolutional Networks](https://arxiv.org/abs/1612.08083)
# * [Highway Networks](https://arxiv.org/abs/1505.00387)
# * [Long Short-Term Memory](https://doi.org/10.1162/neco.1997.9.8.1735)
# * [GLU Variants Improve Transformer](https://arxiv.org/abs/2002.05202)
