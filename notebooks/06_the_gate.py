# %% [markdown]
# # 06 · The gate
#
# **Goal.** Derive, code and check E6 and E7: each token decides, channel by channel, how much of its local and how
# much of its global context it takes. At the end you will have written the gate and its gradient by hand, seen it learn
# a choice that no fixed mix can make, and counted what it costs in parameters.
#
# **Time.** 60 minutes, 5 exercises. **Needs** 04 (the convolution), 05 (the memory). Letters: B batch, T tokens,
# C channels, K kernel size, S memory slots, L layers, V vocabulary.

# %% tags=["setup"]
import numpy as np

from minigam import GAM, GAMConfig, Tensor, config, gradcheck, nn, no_grad, ops, sequence, viz
from minigam.course import check, show, trained
from minigam.experiments import paper

# %% [markdown]
# ## 1. Two answers to one question
#
# A token has asked twice. The convolution (E2) told it what its neighbours are; the memory (E3 to E5) told it what
# is known in general. Both answers are arrays of the shape (B, T, C). To add them would be the simplest thing: every
# token would get the same mix. But in "the red ..." the neighbours matter, and at the first word of a story there are none.
#
# A gate lets the token decide. E6 makes two numbers for each channel out of the same $u$ that asked, by one
# matrix $W_g$ of shape (2C, C) and one bias $b_g$ of shape (2C). The first C of them are for the local side:
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
# $g$ may be any number, and a share should lie between 0 and 1. The sigmoid maps the one to the other:
#
# $$ \sigma(z) = \frac{1}{1 + e^{-z}} = \frac{e^{z}}{1 + e^{z}}, \qquad \sigma(-z) = 1 - \sigma(z) $$
#
# On paper both forms are the same. In floating point $e^{z}$ overflows, in float32 from about 89 on. The first form then
# divides by infinity where $z$ is far below 0, which happens to give the right 0, with a warning. The second divides
# infinity by infinity where $z$ is far above 0.

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
# There is a way round. The hyperbolic tangent has the same shape, from -1 to 1, and every library computes it without
# overflow. Move it up by one, halve it, and multiply numerator and denominator by $e^{-x}$:
#
# $$ \tfrac12\big(1 + \tanh x\big) = \tfrac12 \cdot \frac{(e^{x} + e^{-x}) + (e^{x} - e^{-x})}{e^{x} + e^{-x}}
#    = \frac{e^{x}}{e^{x} + e^{-x}} = \frac{1}{1 + e^{-2x}} $$
#
# ### Exercise 06.1 ★☆☆ A safe sigmoid
#
# Write the sigmoid for arrays of any shape, right for every $z$ and without an overflow on the way.
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
# The way by tanh loses one thing: a share below about $10^{-16}$ comes out as 0, because it was added to 1 before. For a gate, which
# multiplies, that does not matter. Where a logarithm follows, as in a cross-entropy, it would.

# %%
assert np.abs(sigmoid(z) - first).max() < 1e-12
assert 0.0 <= sigmoid(np.array(-40.0)) < 1e-15  # the true value is about 4e-18

# %% [markdown]
# ## 3. The fusion
#
# E7 opens two gates, one on each side, and adds what comes through. $\odot$ multiplies entry by entry:
#
# $$ \mathrm{fused} = \underbrace{\sigma(g_\mathrm{local})}_{p} \odot\, \mathrm{local\_context} \;+\;
#    \underbrace{\sigma(g_\mathrm{global})}_{q} \odot\, \mathrm{global\_context} $$
#
# ### Exercise 06.2 ★☆☆ Fuse
#
# Write E7. `g` holds both halves, the local one first.
#
# <details><summary>Hint</summary>
#
# `g[..., :C]` takes the first C numbers along the last axis, whatever comes before. C is the last length of either context.
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
assert np.abs(fused - by_minigam).max() < 1e-12

# %% [markdown]
# ### Two gates, not one choice
#
# Many gates choose *between* two things: shares by a softmax, which add up to 1. With two scores, the softmax is a
# sigmoid of their difference. Divide numerator and denominator by $e^{g_1}$:
#
# $$ \frac{e^{g_1}}{e^{g_1} + e^{g_2}} = \frac{1}{1 + e^{-(g_1 - g_2)}} = \sigma(g_1 - g_2) $$
#
# So a softmax over two has one degree of freedom, and its pair of shares lies on a line. GAM's two sigmoids have two, and
# fill the whole square. Its corners say what that is good for: *both* contexts in full, and *neither*, a mixer that
# leaves its token alone.

# %%
pairs = 2.5 * rng.standard_normal((300, 2))  # g of 300 tokens, one channel
shares = np.exp(pairs) / np.exp(pairs).sum(axis=1, keepdims=True)
assert np.abs(shares[:, 0] - sigmoid(pairs[:, 0] - pairs[:, 1])).max() < 1e-12
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
    "The unit square of the two shares. Pairs of sigmoids fill it, corners included; pairs of "
    "a softmax all lie on the diagonal line from local alone to global alone.",
)

# %% [markdown]
# ## 4. What does each side contribute?
#
# Write $l$ (local) and $m$ (recalled from the memory) for the two contexts. The squared length of what the block adds to a token has three parts: one from
# each side, and one that says whether they pull the same way (above 0) or against each other (below):
#
# $$ \lVert \mathrm{fused} \rVert^2 = \lVert p \odot l \rVert^2 + \lVert q \odot m \rVert^2
#    + 2\, \langle p \odot l,\; q \odot m \rangle $$


# %%
def contributions(local, recalled, g):
    """Return the parts of |fused|^2, all tokens together, as shares: local, global, cross."""
    C = local.shape[-1]
    one, other = sigmoid(g[..., :C]) * local, sigmoid(g[..., C:]) * recalled
    parts = [(one**2).sum(), (other**2).sum(), 2.0 * (one * other).sum()]
    return np.array(parts) / ((one + other) ** 2).sum()


parts = contributions(local_context, global_context, g)
assert abs(parts.sum() - 1.0) < 1e-12
print("local {:.2f}, global {:.2f}, together {:.2f}".format(*parts))

# %% [markdown]
# The bias moves the shares for all tokens at once. Turn the local side up from closed to open, all else as it is:

# %%
turned = np.linspace(-8.0, 8.0, 33)
only_local = np.arange(2 * C) < C
curves = [contributions(local_context, global_context, g + x * only_local) for x in turned]
figure, axes = viz.panels("added to the local half of b_g", "part of |fused|²")
labels = ("local side", "global side", "together (cross term)")
for i, (curve, label) in enumerate(zip(np.array(curves).T, labels, strict=True)):
    axes.plot(turned, curve, **viz.STYLES[i], markersize=4, markevery=4, label=label)
axes.legend(frameon=False, fontsize=8)
show(
    figure,
    "With the local gate closed the global side is all of the squared length. As it opens, "
    "the local side grows, and all three level off where the gate is fully open.",
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
# The derivative needs nothing but the value. It is largest where $p = 1/2$: there it is a quarter.

# %%
z, eps = np.linspace(-9.0, 9.0, 181), 1e-5
p = sigmoid(z)
by_differences = (sigmoid(z + eps) - sigmoid(z - eps)) / (2 * eps)
assert np.abs(p * (1 - p) - by_differences).max() < 1e-8
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
    "Left: the sigmoid rises from 0 to 1, its derivative is a bump of height a quarter at 0. "
    "Right, on a logarithmic scale: the derivative falls like exp(-|g|), a straight line.",
)

# %% [markdown]
# Now E7. In $y = p \odot l + q \odot m$ every entry stands alone: entry $(b,t,c)$ of each input meets only entry
# $(b,t,c)$ of the output. The product rule gives, for the gradient $dy$ of a loss at the output,
#
# $$ dl = dy \odot p, \qquad dp = dy \odot l, \qquad
#    dg_\mathrm{local} = dp \odot \frac{\partial p}{\partial g_\mathrm{local}} = dy \odot l \odot p \odot (1-p) $$
#
# and the same for the global side with $m$ and $q$. (Here $dp$ is the gradient of $p$, as everywhere in this course; the
# fraction is the derivative from above.) In words: a context hears of the loss as far as its gate is open; and a
# gate learns from $dy \odot l$, whether more of this context would have helped, as far as it is not yet decided.

# %%
dy = rng.standard_normal(u.shape)
p, q = sigmoid(g_local), sigmoid(g_global)
dl, dm = dy * p, dy * q
dg = np.concatenate(
    [dy * local_context * p * (1 - p), dy * global_context * q * (1 - q)], axis=-1
)  # (B, T, 2C)

tape = [Tensor(z, requires_grad=True) for z in (local_context, global_context, g)]
sequence.gated_fusion(*tape).backward(dy)
for by_hand, by_tape in zip((dl, dm, dg), tape, strict=True):
    assert np.abs(by_hand - by_tape.grad).max() < 1e-12

# %% [markdown]
# And E6, a linear map. Entry $i$ of $g_{bt}$ is $\sum_c W_{ic}\, u_{btc} + b_i$, so the weight $W_{ic}$ collects
# $dg_{bti}\, u_{btc}$ from all tokens. With the tokens of all batches as rows of one matrix:
#
# $$ du = dg\; W_g, \qquad dW_g = dg^\top u, \qquad db_g = \sum_{bt} dg_{bt} $$
#
# This $du$ is one of three: the same $u$ also went into the convolution and into the memory, and the three add up.

# %%
rows = lambda z: z.reshape(-1, z.shape[-1])  # (B, T, C) -> (B T, C)
du, dW_g, db_g = dg @ W_g, rows(dg).T @ rows(u), rows(dg).sum(axis=0)
tape = [Tensor(z, requires_grad=True) for z in (u, W_g, b_g)]
gate = ops.linear(*tape)
sequence.gated_fusion(Tensor(local_context), Tensor(global_context), gate).backward(dy)
for by_hand, by_tape in zip((du, dW_g, db_g), tape, strict=True):
    assert np.abs(by_hand - by_tape.grad).max() < 1e-12

# %% [markdown]
# ### Exercise 06.3 ★★☆ The fusion, backwards
#
# Write the gradient of E7 with respect to all three inputs without looking above.
#
# <details><summary>Hint</summary>
#
# Compute p and q again. Each side is a product of two things: the gradient of one is dy times the other. The gate's side
# goes on through the sigmoid, by p (1 - p). At the end put both halves of dg together, the local one first.
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
tensors = [Tensor(z, requires_grad=True) for z in (local_context, global_context, g)]
worst = gradcheck(sequence.gated_fusion, *tensors)
print(f"worst relative error {worst:.1e}")
assert worst < 1e-6

# %% [markdown]
# ## 6. Saturation: a gate that is sure does not learn
#
# The factor $p(1-p)$ never exceeds a quarter and falls like $e^{-|g|}$. A gate far out on either side is *saturated*: it
# hardly learns any more, even where it is wrong. One gate of one number, which ought to open, started at
# four places, follows the gradient of $\frac12 (p - 1)^2$:
#
# $$ g \leftarrow g - \eta\, (p - 1)\, p\, (1 - p) $$

# %%
starts, rate = (0.0, -2.0, -4.0, -8.0), 4.0
opening = {}
for start in starts:
    gate, opening[start] = start, []
    for _ in range(100):
        p = sigmoid(gate)
        opening[start].append(p)
        gate = gate - rate * (p - 1.0) * p * (1.0 - p)
figure, axes = viz.panels("step", "p, which ought to be 1")
for i, start in enumerate(starts):
    label = f"from g = {start:g}"
    axes.plot(opening[start], **viz.STYLES[i], markersize=4, markevery=10, label=label)
axes.legend(frameon=False, fontsize=8)
show(
    figure,
    "Started at g = 0 or -2 the gate opens within a few steps; from -4 it takes longer, with "
    "a late sharp rise; from -8 it is still closed after 100 steps.",
)
assert opening[0.0][-1] > 0.9 and opening[-8.0][-1] < 0.01

# %% [markdown]
# ### Where a gate begins
#
# Hence a gate should begin near $g = 0$, undecided. GAM's does, with PyTorch's initial values of a linear layer: all
# weights and biases uniform in $(-a, a)$ with $a = 1/\sqrt{C}$. A uniform number has the variance $a^2/3$, here
# $1/(3C)$, and $u$, which comes from LayerNorm, has a mean square of 1 in each token. A sum of C products and a bias:
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
print(f"nine of ten fresh gates lie between {low:.2f} and {high:.2f}")
assert 0.15 < low < 0.5 < high < 0.85

# %% [markdown]
# So a fresh mixer begins near half the sum of its contexts, and every gate can still go either way. Other choices make other
# beginnings: a bias of +4 on both halves is nearly the plain sum; a bias of -4 nearly shuts the mixer, so that $h$
# begins as $x$ (E8). [Highway networks](https://arxiv.org/abs/1505.00387) start their gates at a negative bias, so
# that each layer begins near the identity; LSTMs are often given a forget gate that starts open. The price is the factor $p(1-p)$.

# %%
both, neither = np.full_like(g, 4.0), np.full_like(g, -4.0)
plain_sum = local_context + global_context
assert np.abs(fuse(local_context, global_context, 0.0 * g) - 0.5 * plain_sum).max() < 1e-12
largest = (np.abs(local_context) + np.abs(global_context)).max()
assert np.abs(fuse(local_context, global_context, both) - plain_sum).max() < 0.02 * largest
assert np.abs(fuse(local_context, global_context, neither)).max() < 0.02 * largest

# %% [markdown]
# ### Exercise 06.4 ★★☆ How much can still be learned?
#
# A number for it. For each gate channel, return $4\,p\,(1-p)$ averaged over all tokens of all sequences: 1 for a gate that is
# undecided everywhere, nearly 0 for one that is saturated everywhere. Let us call it the gradient share: how much of the
# largest possible gradient passes.
#
# <details><summary>Hint</summary>
#
# The channels are the last axis, and all others go: `axis=(0, 1)`. Entries of `g` may be as large as 10,000.
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
assert gradient_share(fresh[None]).mean() > 0.8  # fresh gates learn well
assert gradient_share(16.0 * fresh[None]).mean() < 0.3

# %% [markdown]
# ## 7. When is a gate needed? An experiment
#
# A task that asks for a choice. Every token carries two switches, $\pm 1$, in its first two channels. If the first is on, the
# answer has the local context in it (here: the token before); if the second is on, the global one (here: what a fixed memory
# recalls). Both may be on, and both may be off:
#
# $$ \mathrm{wanted}_{bt} = [\text{switch}_1 > 0]\; l_{bt} + [\text{switch}_2 > 0]\; m_{bt} $$

# %%
B, T, C = 16, 32, 6
u = rng.standard_normal((B, T, C))
u[..., :2] = rng.choice([-1.0, 1.0], size=(B, T, 2))  # the two switches
previous = Tensor(np.tile([1.0, 0.0], (C, 1))), Tensor(np.zeros(C))  # K = 2: the token before
memory = Tensor(rng.standard_normal((8, C)))
local = sequence.causal_conv1d(Tensor(u), *previous).data  # E2
recalled = sequence.associative_memory(Tensor(u), memory).data  # E3-E5
on = u[..., :2] > 0  # (B, T, 2)
wanted = on[..., :1] * local + on[..., 1:] * recalled
assert wanted.shape == (B, T, C)
assert np.array_equal(wanted[on.all(axis=-1)], (local + recalled)[on.all(axis=-1)])

# %% [markdown]
# Three mixers learn it, all by your `fuse` and `fuse_backward` and plain gradient steps:
#
# * **sum**: a learned share for each side and channel, the same for all tokens. It is a gate that sees only its bias. (GAM's own
#   mixer `"sum"`, in section 8, has not even that: it adds the contexts as they are.)
# * **softmax**: a choice between the sides. By section 3 it is a gate with halves $d$ and $-d$, where
#   $d = g_\mathrm{local} - g_\mathrm{global}$; its gradient comes back as $dd = dg_\mathrm{local} - dg_\mathrm{global}$.
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
# How good can a fixed mix be at its very best? Two gains for each channel, $\alpha_c l + \beta_c m$: least squares knows.

# %%
floor = 0.0
for c in range(C):
    sides = np.stack([local[..., c].ravel(), recalled[..., c].ravel()], axis=1)  # (B T, 2)
    gains, *_ = np.linalg.lstsq(sides, wanted[..., c].ravel(), rcond=None)
    floor += ((sides @ gains - wanted[..., c].ravel()) ** 2).mean() / C

figure, axes = viz.panels("gradient step", "mean squared error", size=(6.4, 3.8))
for i, (mixer, (losses, _)) in enumerate(learned.items()):
    axes.semilogy(losses, **viz.STYLES[i], markersize=4, markevery=60, label=mixer)
    print(f"{mixer:8s} {losses[0]:.3f} -> {losses[-1]:.4f}")
axes.axhline(floor, color=viz.INK, linestyle=(0, (8, 3)), label="best fixed mix")
axes.legend(frameon=False, fontsize=8)
show(
    figure,
    "The error of the sum falls to the line of the best fixed mix and stays. The softmax gets "
    "below it and levels off. The gated error goes on falling, more than ten times lower.",
)
assert floor <= learned["sum"][0][-1] < 1.05 * floor
assert learned["gated"][0][-1] < 0.1 * floor
assert learned["gated"][0][-1] < 0.3 * learned["softmax"][0][-1] < 0.3 * floor

# %% [markdown]
# What they learned, in the square of section 3: one point for each token, at its mean share of either side. Two
# sigmoids go to the four corners. The softmax can answer "both" and "neither" only with about half of each.

# %%
first, second = on[..., 0], on[..., 1]  # (B, T) each
cases = {  # which tokens, how they are drawn, and where their name stands
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
    "Softmax: all tokens lie on one diagonal line, those that want both or neither in its "
    "middle. Gated: the four kinds of token lie in four clusters near the four corners.",
)
sides = lambda mixer: sigmoid(learned[mixer][1]).reshape(B, T, 2, C)  # p and q
assert np.abs(sides("softmax").sum(axis=2) - 1.0).max() < 1e-9
assert np.abs(sides("gated").mean(axis=-1) - on).mean() < 0.2  # near the corners

# %% [markdown]
# ## 8. What does it cost? The paper's ablation
#
# An ablation leaves parts out and looks at what is lost. GAM's `mixer` can be `"gated"`, `"sum"` (both contexts, no gate),
# `"local"` or `"global"` (one of them, no gate). What a mixer does not use is not created. In one block,
#
# $$ \mathrm{mixer} = \underbrace{C K + C}_{\text{convolution}} + \underbrace{S\, C}_{\text{memory}}
#    + \underbrace{2 C \cdot C + 2 C}_{\text{gate}} \qquad \text{(gated)} $$
#
# ### Exercise 06.5 ★★☆ The parameters of a mixer
#
# Return how many numbers one block's mixer learns, an int; `mixer` says which of the four it is.
#
# <details><summary>Hint</summary>
#
# Ask three questions: does this mixer have a convolution, a memory, a gate? A memory has no bias, and its M is keys
# and values in one.
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
# Around the mixer a block has two LayerNorms, $4C$ together, and a feed-forward layer from C to 4C and back, with
# biases: $4C \cdot C + 4C + 4C \cdot C + C = 8C^2 + 5C$. Around the blocks are the embeddings of tokens and
# positions, and a last LayerNorm. The head is the token embedding again:
#
# $$ \mathrm{model} = V C + T C + L\,(\mathrm{mixer} + 4C + 8 C^2 + 5 C) + 2 C $$


# %%
def model_parameters(c):
    """Return the number of parameters of a GAM with the configuration c, by the formula."""
    C = c.d_model
    block = mixer_parameters(C, c.n_slots, c.kernel_size, c.mixer) + 4 * C + 8 * C * C + 5 * C
    return c.vocab_size * C + c.block_size * C + c.n_layers * block + 2 * C


small = {"vocab_size": 11, "block_size": 7, "d_model": 8, "n_layers": 3, "n_slots": 5}
for mixer in config.PAPER_MIXERS:  # tiny models, made and counted
    tiny = GAMConfig(**small, kernel_size=4, mixer=mixer)
    assert GAM(tiny).num_parameters() == model_parameters(tiny)

print("mixer     by the formula   paper (million)")
for mixer, (millions, _) in paper.TABLE3.items():  # the published size, by the formula alone
    count = model_parameters(GAMConfig(mixer=mixer))
    print(f"{mixer:8s} {count:15,}   {millions}")
    assert round(count / 1e6, 1) == millions

# %% [markdown]
# The paper trained all four on WikiText-2 and reports these validation perplexities. A perplexity is $e^{\mathrm{loss}}$; its
# logarithm is the loss in nats, in which the four lie close together.

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
    "Four points. Gated has the most parameters and the lowest loss, global nearly the same "
    "loss with fewer, sum and local a loss higher by some hundredths of a nat.",
)
losses = {mixer: float(np.log(perplexity)) for mixer, (_, perplexity) in paper.TABLE3.items()}
print(f"from the best to the worst: {max(losses.values()) - min(losses.values()):.3f} nats")
assert min(losses, key=losses.get) == "gated"
assert max(losses.values()) - min(losses.values()) < 0.06

# %% [markdown]
# Read such a table with care. The gated model has about three million parameters more than the sum, so it is not the gate's *idea*
# alone that is compared; it is one run of each, on a text small enough that the loss stays near 6.8 nats; and
# "global" alone, in which no token sees any other, is nearly as good, which says more about the task than about the gate. What
# the experiment above shows is narrower and certain: there are choices that a gate can make and a sum cannot.

# %% [markdown]
# ## 9. The gates of a trained model
#
# The default GAM of this project, trained on PocketStories as `make train` does it (the first call trains it, about a
# minute on two cores; later ones read it). A forward pass by hand, block by block, keeps what we want to look at.

# %%
run, model, corpus = trained()
model.eval()
C = model.config.d_model
known = corpus.valid[:16, :-1] >= 0  # (B, T): rows are filled up after the end of a story
ids = np.where(known, corpus.valid[:16, :-1], 0)
seen = []  # of each block: local context, global context, g
with no_grad():
    x = model.token_embedding(ids) + model.position_embedding.weight[: ids.shape[1]]
    for block in model.blocks:
        u = block.norm1(x)  # E1
        local = block.conv(u)  # E2
        recalled = sequence.associative_memory(u, block.memory)  # E3-E5
        g = block.gate(u)  # E6
        seen.append([z.numpy()[known] for z in (local, recalled, g)])  # of known tokens
        x = block(x)
    assert np.abs((model.norm(x) - model.features(ids)).numpy()).max() < 1e-4

# %%
figure, axes = viz.panels("sigmoid(g)", n=len(seen), size=(10.0, 3.0))
bins = np.linspace(0.0, 1.0, 41)
for i, (ax, (_, _, g)) in enumerate(zip(axes, seen, strict=True)):
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
    "Histograms of the local and the global gates in each of the four blocks: single humps "
    "around one half. The gradient share, in the titles, is high in all of them.",
)

# %%
figure, axes = viz.panels("block", "part of |fused|²")
parts = np.array([contributions(*z) for z in seen])  # (L, 3)
for i, label in enumerate(labels):
    axes.plot(parts[:, i], **viz.STYLES[i], markersize=6, label=label)
axes.axhline(0.0, color=viz.INK, linewidth=0.8)
axes.set_xticks(range(len(seen)))
axes.legend(frameon=False, fontsize=8)
show(
    figure,
    "In each of the four blocks the local side makes most of the squared length. The "
    "global side and the cross term are small.",
)
assert np.abs(parts.sum(axis=1) - 1.0).max() < 1e-4

# %% [markdown]
# After a few hundred steps the gates still lie around the middle, and their gradient share is high: nothing is saturated.
# And most of the *length* comes from the local side, the only one that looks at other tokens. Length is not use, though:
# a small vector may point just where the head looks. So shut one side in all blocks, by a bias far out, and ask for the loss.

# %%
assert all(gradient_share(g[None]).mean() > 0.4 for _, _, g in seen)
assert (parts[:, 0] > 0.6).all()

targets = corpus.valid[:16, 1:]  # the token after each; -1 is no target
halves = {"as trained": slice(0), "local side shut": slice(C), "global side shut": slice(C, 2 * C)}
kept, losses = [block.gate.bias.data for block in model.blocks], {}
for name, half in halves.items():
    for block, bias in zip(model.blocks, kept, strict=True):
        block.gate.bias.data = bias.copy()
        block.gate.bias.data[half] = -30.0  # sigmoid(-30) is about 1e-13
    losses[name] = float(model.loss(ids, targets).data)
    print(f"{name:17s} {losses[name]:.4f} nats per token")
for block, bias in zip(model.blocks, kept, strict=True):
    block.gate.bias.data = bias  # as it was
assert losses["local side shut"] > losses["as trained"] + 1.0
assert abs(losses["global side shut"] - losses["as trained"]) < 0.05

# %% [markdown]
# Without its neighbours the model is lost. Without its memories it hardly loses anything: on these stories, as it is trained,
# it does not use them. That is less of a surprise than it looks. What a memory tells a token depends on this token's
# row of $u$ alone. What the feed-forward layer behind it says (E9) depends on its row of $h$ alone; that layer is many times
# larger, and can learn to say the same. Whether that holds for other texts and longer training is a question to an experiment, such as the table of section 8. Notebook 14 looks
# closer at this model: at which words a gate opens, and which slots answer.

# %% [markdown]
# ## What you have now
#
# * E6 and E7 and their gradient by hand, with a sigmoid that cannot overflow.
# * Two sigmoids are two decisions: both, neither, one or the other. A softmax over two is one decision.
# * A gate learns as far as it is undecided: $p(1-p)$, at most a quarter. Begin near $g = 0$.
# * The number of parameters of each mixer, and of the model, from its configuration. Notebook 07 builds the block.
#
# **Read on in the code:** `minigam/engine/sequence.py`, `gated_fusion`; `minigam/models/gam.py`, where the four mixers are ten lines;
# and `sigmoid` in `minigam/engine/numeric.py`.
