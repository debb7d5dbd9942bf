# %% [markdown]
# # 07 · The block and the model
#
# **Goal.** Put the pieces together: LayerNorm, GELU, residuals and dropout around the two contexts make a block
# (E1, E8, E9), and blocks between an embedding and a head make a language model. At the end you will have written
# a whole GAM that agrees with this project's to twelve digits, and you can say where each of its 22,599,680
# parameters is.
#
# **Time.** 90 minutes, 5 exercises. **Needs** 04, 05 and 06, whose pieces come together here. Letters: B batch,
# T tokens, C channels, S slots, K kernel size, L layers, V vocabulary.

# %% tags=["setup"]
import math

import numpy as np

from minigam import GAM, GAMBlock, GAMConfig, Tensor, gradcheck, interop, masks, nn, numeric, ops, viz
from minigam.course import check, show

# %%
rng = np.random.default_rng(7)
B, T, C = 2, 5, 6
x = rng.standard_normal((B, T, C)) * 3.0 + 1.0  # what a block may be given

# %% [markdown]
# ## 1. LayerNorm: the same scale for everyone (E1)
#
# A block is stacked on blocks. If each of them made its numbers a little larger, the last would see huge ones, and
# no learning rate would suit them all. So every block first brings each token to a standard form: its C channels get
# the mean 0 and the variance 1. Two learned numbers a channel, a weight $w$ and a bias $b$, may then set
# whatever scale training likes. For one token $x$, a vector of C numbers:
#
# $$ \mu = \frac1C \sum_c x_c, \qquad \sigma^2 = \frac1C \sum_c (x_c - \mu)^2, \qquad
#    n = \frac{x - \mu}{\sqrt{\sigma^2 + \varepsilon}}, \qquad y = n \odot w + b $$
#
# The small $\varepsilon$ is there for a token whose channels are all equal: it becomes 0, and not 0 / 0.
#
# ### Exercise 07.1 ★☆☆ LayerNorm
#
# Write it for tokens of any number of axes: the last axis is C, and each vector along it is treated alone.
#
# <details><summary>Hint</summary>
#
# `mean(axis=-1, keepdims=True)` leaves an axis of length 1, over which NumPy repeats the mean. The variance is
# the mean of the squares of what is left when the mean is gone: divide by C, not by C - 1.
#
# </details>


# %% tags=["exercise"]
def layer_norm(x, weight, bias, eps=1e-5):
    """Normalise x (..., C) over its last axis; scale and shift by weight (C) and bias (C)."""
    # SOLUTION
    centred = x - x.mean(axis=-1, keepdims=True)
    variance = (centred * centred).mean(axis=-1, keepdims=True)
    n = centred / np.sqrt(variance + eps)
    return n * weight + bias
    # END


# %%
check.ex_07_1(layer_norm)

# %% [markdown]
# Two things can happen to a token that its normal form does not notice: a number added to all channels, and a
# positive factor on all of them.
#
# $$ n(x + \alpha \mathbf{1}) = n(x), \qquad n(\beta x) = n(x) \quad (\beta > 0,\ \varepsilon = 0) $$
#
# Why: a shift moves the mean along, and $x - \mu$ stays. A factor multiplies $x - \mu$ and $\sigma$ alike, and
# cancels. With $\varepsilon > 0$ the second holds only while the variance is far above $\varepsilon$.

# %%
normal = lambda x, eps=0.0: layer_norm(x, np.ones(x.shape[-1]), np.zeros(x.shape[-1]), eps)
assert np.abs(normal(x + 100.0) - normal(x)).max() < 1e-9
assert np.abs(normal(0.001 * x) - normal(x)).max() < 1e-9
faint = np.abs(normal(0.001 * x, eps=1e-5) - normal(x, eps=1e-5)).max()
print(f"with eps = 1e-5 a token a thousand times fainter differs by up to {faint:.2f}")
assert faint > 0.1
assert np.abs(normal(np.full(C, 7.0), eps=1e-5)).max() == 0.0  # and not nan

# %% [markdown]
# ## 2. LayerNorm, backwards: two projections
#
# The forward pass has three steps, so the backward pass has three, in the opposite order. Write $c = x - \mu$
# for the centred token, $r = \sqrt{\sigma^2 + \varepsilon}$ for what it is divided by, and $n = c / r$.
#
# **Scale and shift.** $y = n \odot w + b$ acts on each entry alone. Every token used the same $w$ and $b$, so
# their gradients are sums over all tokens:
#
# $$ dn = dy \odot w, \qquad dw = \sum_{bt} dy \odot n, \qquad db = \sum_{bt} dy $$
#
# **Division.** Move $c$ by a small $\delta$. Then $r^2 = \frac1C\, c \cdot c + \varepsilon$ moves by
# $\frac2C\, c \cdot \delta$, which is also $2 r\, \delta r$. So $r$ moves by $\frac{1}{C r}\, c \cdot \delta = \frac1C\,
# n \cdot \delta$, and the quotient rule gives the movement of $n$: $\frac{\delta}{r} - \frac{c}{r^2}\, \delta r =
# \frac1r \big(\delta - n\, \frac{n \cdot \delta}{C}\big)$. That is a matrix times $\delta$, and the matrix is
# symmetric. Backwards a linear map is its transpose, here therefore the same matrix:
#
# $$ dc = \frac1r \Big(dn - n\, \frac{n \cdot dn}{C}\Big) $$
#
# **Centring.** Taking the mean away is a symmetric matrix too, $I - \frac1C \mathbf{1}\mathbf{1}^\top$, so the gradient is centred
# as the token was:
#
# $$ dx = dc - \overline{dc} $$
#
# The bar is the mean over the channels. As $n$ has the mean 0, the two lines become one:
#
# $$ dx = \frac1r \Big(dn - \overline{dn} - n\, \overline{dn \odot n}\Big) $$

# %%
w, b = rng.standard_normal(C), rng.standard_normal(C)  # not 1 and 0, which would hide mistakes
dy = rng.standard_normal((B, T, C))
mean = lambda z: z.mean(axis=-1, keepdims=True)
eps = 1e-5
c = x - mean(x)
r = np.sqrt(mean(c * c) + eps)
n = c / r
dn, dw, db = dy * w, (dy * n).sum(axis=(0, 1)), dy.sum(axis=(0, 1))
dc = (dn - n * mean(n * dn)) / r
dx = dc - mean(dc)
in_one_line = (dn - mean(dn) - n * mean(dn * n)) / r
assert np.abs(dx - in_one_line).max() < 1e-12

tape_x, tape_w, tape_b = (Tensor(z, requires_grad=True) for z in (x, w, b))
ops.layer_norm(tape_x, tape_w, tape_b, eps=eps).backward(dy)
for by_hand, tape in ((dx, tape_x), (dw, tape_w), (db, tape_b)):
    assert np.abs(by_hand - tape.grad).max() < 1e-12

# %% [markdown]
# Look at the matrices again. For $\varepsilon = 0$ the vector $n$ has the length $\sqrt C$, and both are projections:
#
# $$ P = I - \tfrac1C\, \mathbf{1}\mathbf{1}^\top, \qquad Q = I - \tfrac1C\, n n^\top, \qquad dx = \tfrac1r\, P\, Q\, dn $$
#
# P takes away the part along $\mathbf{1}$, Q the part along $n$. These are the directions of the shift and of the factor:
# what the token's normal form does not notice has no gradient. Two of C directions are lost, and what is left is
# divided by $r$: a faint token has a large gradient.

# %%
n0 = normal(x[0, 0])  # one token, eps = 0
P = np.eye(C) - np.ones((C, C)) / C
Q = np.eye(C) - np.outer(n0, n0) / C
assert np.abs(P @ P - P).max() < 1e-12 and np.abs(Q @ Q - Q).max() < 1e-12  # twice is once
assert np.abs(P @ np.ones(C)).max() < 1e-12 and np.abs(Q @ n0).max() < 1e-12
assert np.linalg.matrix_rank(P @ Q, tol=1e-9) == C - 2
assert np.abs(P @ Q @ dn[0, 0] / r[0, 0] - dx[0, 0]).max() < 1e-4  # but for eps

# %% [markdown]
# With three channels this can be drawn. Look along $\mathbf{1} = (1, 1, 1)$, so that a shift is invisible: a token is a point of
# the plane. LayerNorm pushes it out or in to a circle of radius $\sqrt 3$. The gradient of any loss is at right angles to
# the ray through it and, for the same $dn$, longer near the middle: $dx$ has the factor $1 / r$.

# %%
across = np.array([[1.0, -1.0, 0.0], [1.0, 1.0, -2.0]])  # both at right angles to (1, 1, 1)
plane = across / np.linalg.norm(across, axis=1, keepdims=True)  # (2, 3)
angle = np.linspace(0.3, 0.3 + 2 * np.pi, 9, endpoint=False)
radius = np.array([0.9, 2.4, 1.2, 2.9, 1.0, 2.6, 1.4, 3.1, 1.3])
at = radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)  # (9, 2)
leaf = Tensor(at @ plane, requires_grad=True)  # as tokens of three channels, (9, 3)
above = np.tile([0.7, -0.2, -0.5], (9, 1))  # the same gradient above each
ops.layer_norm(leaf, Tensor(np.ones(3)), Tensor(np.zeros(3))).backward(above)
on_circle, arrow = normal(leaf.data) @ plane.T, leaf.grad @ plane.T
assert np.abs(np.hypot(*on_circle.T) - math.sqrt(3)).max() < 1e-9
assert np.abs((at * arrow).sum(axis=1)).max() < 1e-3  # at right angles, but for eps

figure, axes = viz.panels("first axis", "second axis", size=(5.4, 5.0))
around = np.linspace(0, 2 * np.pi, 200)
axes.plot(math.sqrt(3) * np.cos(around), math.sqrt(3) * np.sin(around), color=viz.INK)
for start, end in zip(at, on_circle, strict=True):
    axes.plot(*np.stack([start, end]).T, color=viz.INK, linestyle=":")
axes.plot(*at.T, "o", markersize=5, label="token x")
axes.plot(*on_circle.T, "^", markersize=6, markerfacecolor="none", label="normal form n")
axes.plot([], [], "-", label="gradient dx (arrow)")
axes.quiver(*at.T, *arrow.T, angles="xy", scale_units="xy", scale=1.0, width=0.005, color=viz.COLOURS[2])
axes.set(aspect="equal", xlim=(-3.6, 3.6), ylim=(-3.6, 3.6))
axes.legend(frameon=False, loc="upper right", fontsize=8)
show(
    figure,
    "Nine tokens in the plane, joined by rays to their normal forms, which lie on one "
    "circle around 0. At each token an arrow, the gradient, stands at right angles to the "
    "ray. Near the middle the arrows are longest.",
)
near, far = radius < 1.3, radius > 2.3
assert np.hypot(*arrow[near].T).mean() > np.hypot(*arrow[far].T).mean()

# %% [markdown]
# ### Exercise 07.2 ★★★ LayerNorm, backwards
#
# Write the three gradients without looking at the cells above. Compute $n$ again from `x`; the bias is not given,
# because none of them needs it.
#
# <details><summary>Hint</summary>
#
# Walk back: from $y = n \odot w + b$ to `dn`; then take away from `dn` its mean, and `n` times the mean of
# `dn * n`; then divide by what the token was divided by. `weight` and `bias` serve every token: their gradients
# are sums over all axes but the last.
#
# </details>


# %% tags=["exercise"]
def layer_norm_backward(dy, x, weight, eps=1e-5):
    """Return (dx, dweight, dbias) of <dy, layer_norm(x, weight, bias)>: (..., C), (C), (C)."""
    # SOLUTION
    mean = lambda z: z.mean(axis=-1, keepdims=True)
    rows = lambda z: z.reshape(-1, z.shape[-1])
    c = x - mean(x)
    r = np.sqrt(mean(c * c) + eps)
    n = c / r
    dn = dy * weight
    dx = (dn - mean(dn) - n * mean(dn * n)) / r
    return dx, rows(dy * n).sum(axis=0), rows(dy).sum(axis=0)
    # END


# %%
check.ex_07_2(layer_norm_backward)

# %%
worst = gradcheck(ops.layer_norm, tape_x, tape_w, tape_b)
print(f"worst relative error of the tape against finite differences {worst:.1e}")
assert worst < 1e-6

# %% [markdown]
# ## 3. GELU: let through what is large
#
# Between the two matrices of E9 stands a bend; without one, two matrices in a row would be a single matrix. GAM's bend is the
# Gaussian error linear unit. It multiplies $x$ by the share of a standard normal population that lies below $x$:
#
# $$ y = x\, \Phi(x), \qquad \Phi(x) = \int_{-\infty}^{x} \varphi(s)\, ds = \frac12 \Big(1 + \mathrm{erf}\frac{x}{\sqrt 2}\Big),
#    \qquad \varphi(s) = \frac{1}{\sqrt{2\pi}}\, e^{-s^2/2} $$
#
# Far on the right everything is below, and $y = x$. Far on the left nothing is, and $y = 0$. Between them the bend is smooth.

# %%
Phi = lambda x: 0.5 * (1.0 + numeric.erf(np, x / math.sqrt(2.0)))
phi = lambda x: np.exp(-0.5 * x * x) / math.sqrt(2.0 * math.pi)
population = rng.standard_normal(200_000)
for place in (-1.0, 0.0, 0.5, 2.0):
    assert abs((population < place).mean() - Phi(np.array(place))) < 0.01
assert abs(float(Phi(np.array(0.3)) - 0.5 * (1.0 + math.erf(0.3 / math.sqrt(2.0))))) < 1e-12

# %% [markdown]
# NumPy has no error function. `minigam.numeric` has one for arrays, `numeric.erf(np, x)`; Python's `math.erf` takes one number
# at a time.
#
# The derivative comes from the product rule. $\Phi' = \varphi$, because $\Phi$ is the integral of $\varphi$ up to $x$:
#
# $$ \frac{dy}{dx} = \Phi(x) + x\, \varphi(x) $$
#
# ### Exercise 07.3 ★★☆ GELU and its derivative
#
# Return both, for an array of any shape: the value and the derivative at each entry. Be exact: use erf.
#
# <details><summary>Hint</summary>
#
# `Phi` and `phi` are one line each, but write them inside your function. Mind the two square roots: $\sqrt 2$ inside erf,
# $\sqrt{2\pi}$ below $\varphi$.
#
# </details>


# %% tags=["exercise"]
def gelu(x):
    """Return (y, slope), both of the shape of x: y = GELU(x), and dy/dx at each entry."""
    # SOLUTION
    Phi = 0.5 * (1.0 + numeric.erf(np, x / math.sqrt(2.0)))
    phi = np.exp(-0.5 * x * x) / math.sqrt(2.0 * math.pi)
    return x * Phi, Phi + x * phi
    # END


# %%
check.ex_07_3(gelu)

# %% [markdown]
# Older code often has a formula with tanh in place of erf, because that was the faster of the two to compute:
#
# $$ y \approx \frac{x}{2} \Big(1 + \tanh\big(\sqrt{2/\pi}\,(x + 0.044715\, x^3)\big)\Big) $$
#
# GAM's authors use the exact one. The difference is small, but far above rounding: weights trained with one and run with the
# other answer a little differently, and a test to twelve digits notices at once.

# %%
grid = np.linspace(-5.0, 5.0, 1001)
y, slope = gelu(grid)
inner = math.sqrt(2 / math.pi) * (grid + 0.044715 * grid**3)
approximation = 0.5 * grid * (1.0 + np.tanh(inner))
difference = approximation - y
print(f"largest difference {np.abs(difference).max():.1e}, float32 rounds to about 1e-7")
assert 1e-5 < np.abs(difference).max() < 1e-3
assert np.abs(difference[[0, -1]]).max() < 1e-5  # far out both are the same

figure, (left, right) = viz.panels("x", n=2)
left.plot(grid, y, "-", label="GELU")
left.plot(grid, slope, "--", label="its derivative")
left.plot(grid, np.maximum(grid, 0.0), color=viz.INK, linestyle="-.", label="max(x, 0)")
left.set(ylabel="y", xlim=(-4, 3), ylim=(-0.5, 3))
left.legend(frameon=False)
right.plot(grid, difference, "-")
right.set(ylabel="tanh formula minus exact GELU")
right.ticklabel_format(axis="y", style="sci", scilimits=(0, 0))
show(
    figure,
    "Left: GELU follows 0 on the left and x on the right, with a shallow dip below 0 "
    "between; its derivative dips below 0 too, then rises, overshoots 1 and settles there. "
    "Right: the tanh formula errs by a few 1e-4, too little near 0, too much further out.",
)
lowest = grid[y.argmin()]
print(f"GELU is lowest at x = {lowest:.2f}, where it is {y.min():.3f}: it is not monotone")
assert -1.0 < lowest < -0.5 and slope.max() > 1.05

# %% [markdown]
# ## 4. Residuals: a road that no block can close (E8, E9)
#
# A block does not replace its input, it adds to it: $h = x + \mathrm{fused}$ in E8, and the same again in E9. For
# one such step $y = x + f(x)$, with the Jacobian $J$ of $f$, the Jacobian is $I + J$. For two:
#
# $$ (I + J_2)(I + J_1) = I + J_1 + J_2 + J_2 J_1 $$
#
# One of the terms is $I$, whatever the $J$ are: along that path the gradient reaches the first block as it left the last. Without
# the residuals only the longest product, $J_2 J_1$, remains. If a typical $J$ makes vectors shorter, a product of many of them makes
# the gradient vanish.

# %%
A1, A2 = rng.standard_normal((2, C, C)) / math.sqrt(C)
x0, dy0 = rng.standard_normal((2, C))  # one token, and the gradient above it
first, slope1 = gelu(A1 @ x0)  # f(x) = GELU(A x), whose Jacobian is diag(slope) A
x1 = x0 + first
J1, J2 = slope1[:, None] * A1, gelu(A2 @ x1)[1][:, None] * A2
by_paths = dy0 @ (np.eye(C) + J1 + J2 + J2 @ J1)

leaf = Tensor(x0[None], requires_grad=True)
between = leaf + ops.gelu(ops.linear(leaf, Tensor(A1)))
(between + ops.gelu(ops.linear(between, Tensor(A2)))).backward(dy0[None])
assert np.abs(by_paths - leaf.grad[0]).max() < 1e-12

# %% [markdown]
# Now real blocks with their initial values, up to 24 of them, in four variants: with and without the residuals, with and
# without the LayerNorms. How long is the gradient at the bottom, for a gradient of length 1 at the top?

# %%
config = GAMConfig(d_model=32, n_slots=16, kernel_size=3, dropout=0.0)
tower = [GAMBlock(config, nn.MaskCounter(0), rng) for _ in range(24)]
bottom, top = rng.standard_normal((2, 2, 16, 32))  # (B, T, C) each


def gradient_through(n_blocks, residual, norm):
    """Return the length of the gradient below n_blocks blocks, relative to that above them."""
    x = leaf = Tensor(bottom, requires_grad=True)
    for block in tower[:n_blocks]:
        mixed = block.mix(block.norm1(x) if norm else x, None)
        x = x + mixed if residual else mixed
        fed = block.feed(block.norm2(x) if norm else x)
        x = x + fed if residual else fed
    x.backward(top)
    return np.linalg.norm(leaf.grad) / np.linalg.norm(top)


depths = (1, 2, 4, 8, 12, 16, 20, 24)
variants = {
    "residuals and LayerNorm": (True, True),
    "residuals alone": (True, False),
    "LayerNorm alone": (False, True),
    "neither": (False, False),
}
lengths = {name: [gradient_through(d, *v) for d in depths] for name, v in variants.items()}
figure, (left, right) = viz.panels("blocks", n=2)
for style, (name, values) in zip(viz.STYLES, lengths.items(), strict=False):
    left.semilogy(depths, values, **style, markersize=4, label=name)
    if variants[name][0]:
        right.plot(depths, values, **style, markersize=4, label=name)
left.set(ylabel="gradient below / gradient above", title="all, on a logarithmic axis")
right.set(ylim=(0, None), title="with residuals, on a plain axis")
left.legend(frameon=False)
right.legend(frameon=False)
show(
    figure,
    "Left: with residuals the gradient stays near 1, with LayerNorm alone it falls a "
    "hundredfold, and with neither it falls straight down, by tens of powers of ten. "
    "Right: with residuals and LayerNorm it grows slowly; with residuals alone it grows "
    "ever faster.",
)
last = {name: values[-1] for name, values in lengths.items()}
print({name: f"{value:.1e}" for name, value in last.items()})
assert 0.5 < last["residuals and LayerNorm"] < 10.0
assert last["residuals alone"] > last["residuals and LayerNorm"]  # it grows, ever faster
assert last["LayerNorm alone"] < 0.1
assert last["neither"] < 1e-12

# %% [markdown]
# With residuals but no LayerNorm the gradient grows instead, faster with every block: each block adds a share of what it is
# given, backwards as forwards. A LayerNorm divides its branch's gradient by $r$ (section 2), and $r$ grows on the way up with the sum
# that it normalises, so later branches add less. The two need each other. A GAM, like most
# models of today, is *pre-norm*: the LayerNorm stands at the entrance of each branch, and the road of the residuals stays free.

# %% [markdown]
# ## 5. Dropout: noise that can be repeated
#
# In training, E9 (and the model, after its embedding) sets each entry to 0 with probability $p$, so that no channel can count on another. What is kept
# is scaled up, so that the mean over all masks is as it was, and nothing is to be changed when the noise is
# switched off. With $m$ a mask of 0 and 1:
#
# $$ y = \frac{x \odot m}{1 - p}, \qquad \mathrm{E}[y] = \frac{x\,(1 - p) + 0 \cdot p}{1 - p} = x $$

# %%
p, ones = 0.1, np.ones((4, 8, 6))
key = (42, 1)  # a seed, and the number of the mask
m = masks.keep_mask(np, key, p, ones.shape)
y = ops.dropout(Tensor(ones), p=p, key=key).data
assert np.abs(y - ones * m / (1.0 - p)).max() < 1e-12
one = lambda number: ops.dropout(Tensor(ones), p=p, key=(42, number)).data
many = np.mean([one(number) for number in range(1, 501)], axis=0)
print(f"mean of one mask {y.mean():.3f}; of an entry over 500 masks, ", end="")
print(f"{many.min():.2f} to {many.max():.2f}")
assert abs(many.mean() - 1.0) < 0.01 and np.abs(many - 1.0).max() < 0.1

# %% [markdown]
# A mask is usually drawn from a generator. Its state must then be stored if a run is to be resumed, and a batch computed in parts
# gets other masks than the whole. Here it is a *function* of three things: the seed, the number of the mask, which counts up with every one that is
# drawn (one for each dropout layer and step), and the place of the entry in the batch. The same step again is the same noise again, on a processor and on a GPU.

# %%
assert (masks.keep_mask(np, key, p, ones.shape) == m).all()  # again, the same
assert (masks.keep_mask(np, (42, 2), p, ones.shape) != m).any()  # the next mask is another
second_half = masks.keep_mask(np, key, p, (2, 8, 6), first=2 * 8 * 6)  # rows 2 and 3 alone
assert (second_half == m[2:]).all()
assert ops.dropout(Tensor(ones), p=0.0, key=key).data.tolist() == ones.tolist()

# %% [markdown]
# ## 6. The whole block
#
# Everything is there. With $u$, the local context of notebook 04, the global context of 05 and the gate of 06:
#
# $$ \begin{aligned}
# \text{E1}\quad & u = \mathrm{LayerNorm}(x) \\
# \text{E2}\quad & \mathrm{local\_context}_t = b + \sum_{j=0}^{K-1} w_{:,j} \odot u_{t-(K-1)+j} \\
# \text{E3-E5}\quad & \mathrm{global\_context} = \mathrm{softmax}(u M^\top)\, M \\
# \text{E6}\quad & [g_\mathrm{local},\, g_\mathrm{global}] = u W_g^\top + b_g \\
# \text{E7}\quad & \mathrm{fused} = \sigma(g_\mathrm{local}) \odot \mathrm{local\_context}
#                   + \sigma(g_\mathrm{global}) \odot \mathrm{global\_context} \\
# \text{E8}\quad & h = x + \mathrm{fused} \\
# \text{E9}\quad & y = h + W_2\, \mathrm{GELU}(W_1\, \mathrm{LayerNorm}(h) + b_1) + b_2
# \end{aligned} $$
#
# (Dropout is off.) The parameters come as a dictionary of arrays, by the names that `GAMBlock` gives them:
#
# | name | shape | in | | name | shape | in |
# |---|---|---|---|---|---|---|
# | `norm1.weight`, `norm1.bias` | (C) | E1 | | `norm2.weight`, `norm2.bias` | (C) | E9 |
# | `conv.weight`, `conv.bias` | (C, K), (C) | E2 | | `feed.expand.weight`, `feed.expand.bias` | (4C, C), (4C) | $W_1$, $b_1$ |
# | `memory` | (S, C) | E3-E5 | | `feed.contract.weight`, `feed.contract.bias` | (C, 4C), (C) | $W_2$, $b_2$ |
# | `gate.weight`, `gate.bias` | (2C, C), (2C) | E6 | | | | |
#
# ### Exercise 07.4 ★★☆ A block in a dozen lines
#
# Write a GAM block on plain arrays. Use your `layer_norm` and `gelu`, and what you wrote in 04, 05 and 06: copy it here, or
# write it anew, a line or two each.
#
# <details><summary>Hint</summary>
#
# For E2 put K - 1 rows of zeros before the first token, `np.concatenate([zeros, u], axis=1)`: place j of the kernel then reads
# `padded[:, j : j + T]`. `np.split(g, 2, axis=-1)` cuts the 2C gates in two. The sigmoid is `1 / (1 + np.exp(-g))`. The second
# LayerNorm reads h, not x.
#
# </details>


# %% tags=["exercise"]
def block(x, p):
    """Return E1-E9 without dropout, for x (B, T, C) and the parameters by name: (B, T, C)."""
    # SOLUTION
    (B, T, C), K = x.shape, p["conv.weight"].shape[1]
    u = layer_norm(x, p["norm1.weight"], p["norm1.bias"])  # E1
    padded = np.concatenate([np.zeros((B, K - 1, C)), u], axis=1)
    taps = [p["conv.weight"][:, j] * padded[:, j : j + T] for j in range(K)]
    local_context = p["conv.bias"] + sum(taps)  # E2
    s = u @ p["memory"].T  # E3
    e = np.exp(s - s.max(axis=-1, keepdims=True))
    global_context = e / e.sum(axis=-1, keepdims=True) @ p["memory"]  # E4, E5
    g = 1.0 / (1.0 + np.exp(-(u @ p["gate.weight"].T + p["gate.bias"])))  # E6
    g_local, g_global = np.split(g, 2, axis=-1)
    h = x + g_local * local_context + g_global * global_context  # E7, E8
    v = layer_norm(h, p["norm2.weight"], p["norm2.bias"])
    hidden, _ = gelu(v @ p["feed.expand.weight"].T + p["feed.expand.bias"])
    return h + hidden @ p["feed.contract.weight"].T + p["feed.contract.bias"]  # E9
    # END


# %%
check.ex_07_4(block)

# %% [markdown]
# Against the project's own block, with random numbers in every parameter (the initial ones, weights of 1 and biases of 0, would
# hide a LayerNorm that forgot them):

# %%
theirs = GAMBlock(GAMConfig(d_model=8, n_slots=5, kernel_size=3), nn.MaskCounter(0), rng).eval()
for parameter in theirs.parameters():
    parameter.data = rng.standard_normal(parameter.shape)
x = rng.standard_normal((2, 7, 8))
error = np.abs(block(x, theirs.state_dict()) - theirs(Tensor(x)).data).max()
print(f"largest difference {error:.1e}")
assert error < 1e-12 * max(1.0, np.abs(theirs(Tensor(x)).data).max())

# %% [markdown]
# ## 7. The model around the blocks
#
# A token is a number, an id from 0 to V - 1. It becomes a vector by looking up row id of a learned table, the token
# embedding E (V, C). A second table, P (T, C), adds a learned vector for each position: without it a
# block could tell only the first few places of a text, by the zeros that E2 puts before them. At the end the same E is the head: the score of a word is the dot product of the
# last vector with that word's row. With $i_{bt}$ the ids:
#
# $$ x_{bt} = E_{i_{bt}} + P_t, \qquad x \leftarrow \mathrm{block}_\ell(x)\ \text{ for } \ell = 1 .. L, \qquad
#    \mathrm{logits} = \mathrm{LayerNorm}(x)\, E^\top $$


# %%
def language_model(ids, p, n_layers):
    """Return the logits (B, T, V) of ids (B, T), from a GAM's parameters by name."""
    E, P = p["token_embedding.weight"], p["position_embedding.weight"]
    x = E[ids] + P[: ids.shape[1]]  # (B, T, C)
    for layer in range(n_layers):
        prefix = f"blocks.{layer}."
        own = {k.removeprefix(prefix): a for k, a in p.items() if k.startswith(prefix)}
        x = block(x, own)
    return layer_norm(x, p["norm.weight"], p["norm.bias"]) @ E.T


V = 50
size = {"vocab_size": V, "block_size": 16, "d_model": 24, "n_layers": 3}
small = GAMConfig(**size, n_slots=10, kernel_size=4)
model = GAM(small, seed=7, dtype="float64").eval()
ids = rng.integers(V // 2, size=(3, 12))  # half of the vocabulary is never read
logits = model(ids).data
error = np.abs(language_model(ids, model.state_dict(), 3) - logits).max()
print(f"largest difference {error:.1e}, of logits up to {np.abs(logits).max():.1f}")
assert error < 1e-12 * max(1.0, np.abs(logits).max())

# %% [markdown]
# That is a whole GAM, in about thirty lines; those of the block are your own.
#
# One table with two uses has a gradient of two terms, as the memory of notebook 05 had. As the input's table a row gets
# something only where its word was read. As the head every row gets something at every token: each word is told
# whether it should have come.

# %%
targets = rng.integers(V, size=(3, 12))
model.loss(ids, targets).backward()
both = model.token_embedding.weight.grad  # (V, C)
head = Tensor(model.token_embedding.weight.data, requires_grad=True)
ops.linear_cross_entropy(Tensor(model.features(ids).data), head, targets).backward()
as_table = both - head.grad
moved = lambda gradient: np.abs(gradient).max(axis=1) > 1e-12  # (V)
print("rows with a gradient: table", moved(as_table).sum(), "head", moved(head.grad).sum())
assert moved(as_table).tolist() == [v in ids for v in range(V)]
assert moved(head.grad).all()

# %% [markdown]
# ## 8. Where the parameters are
#
# ### Exercise 07.5 ★★☆ Count them
#
# Return the number of parameters of a gated GAM, from its six numbers. Use sections 6 and 7: every array is there.
#
# <details><summary>Hint</summary>
#
# Go through the table of section 6 and multiply out the shapes; that is one block. Outside of the blocks there are the two
# embeddings, and one LayerNorm before the head. The head has no array of its own.
#
# </details>


# %% tags=["exercise"]
def count(V, T, C, L, S, K):
    """Return how many numbers training changes in a GAM."""
    # SOLUTION
    norms = 2 * (C + C)
    conv = C * K + C
    memory = S * C
    gate = 2 * C * C + 2 * C
    feed = 4 * C * C + 4 * C + C * 4 * C + C
    return V * C + T * C + L * (norms + conv + memory + gate + feed) + 2 * C
    # END


# %%
check.ex_07_5(count)

# %% [markdown]
# Multiplied out and collected, term by term:
#
# $$ \begin{aligned} N = {} & \underbrace{VC}_{\text{tokens}} + \underbrace{TC}_{\text{positions}}
#      + \underbrace{2C}_{\text{last LayerNorm}} \\
#      & + L \big(\underbrace{8C^2 + 5C}_{\text{feed-forward}} + \underbrace{2C^2 + 2C}_{\text{gate}}
#      + \underbrace{SC}_{\text{memory}} + \underbrace{KC + C}_{\text{convolution}}
#      + \underbrace{4C}_{\text{LayerNorms}}\big) \end{aligned} $$
#
# The published model has V 10,000, T 256, C 512, L 6, S 512 and K 3, and 22,599,680 parameters. `GAM()` builds it.

# %%
V, T, C, L, S, K = 10_000, 256, 512, 6, 512, 3
terms = {
    "token embedding, and head": V * C,
    "positions": T * C,
    "feed-forward": L * (8 * C**2 + 5 * C),
    "gates": L * (2 * C**2 + 2 * C),
    "memories": L * S * C,
    "convolutions": L * (K * C + C),
    "LayerNorms": L * 4 * C + 2 * C,
}
N = sum(terms.values())
published = GAM()
print(f"by the formula {N:,}, in the arrays {published.num_parameters():,}")
assert N == count(V, T, C, L, S, K) == published.num_parameters() == 22_599_680
config, fields = GAMConfig(), interop.FIELDS | {"L": "n_layers"}
assert {letter: getattr(config, fields[letter]) for letter in "VTCLSK"} == {
    "V": V, "T": T, "C": C, "L": L, "S": S, "K": K,
}  # fmt: skip
del published

figure, axes = viz.panels("parameters (millions)", size=(8.0, 3.4))
kinds, numbers = list(terms)[::-1], list(terms.values())[::-1]
bars = axes.barh(kinds, np.array(numbers) / 1e6, **viz.bars(0))
axes.bar_label(bars, [f"{n:,} ({n / N:.2%})" for n in numbers], padding=3, fontsize=8)
axes.set_xlim(0, 17)
show(
    figure,
    "Bars for the seven kinds of parameters. The feed-forward layers have more than half, "
    "the token embedding almost a quarter, gates and memories most of the rest. "
    "Positions, convolutions and LayerNorms are hardly visible.",
)
assert terms["feed-forward"] > N / 2
assert terms["convolutions"] < N / 1000

# %% [markdown]
# More than half of a GAM is a feed-forward network that works on each token alone. The convolutions, *the only part
# that carries anything from one token to another*, are less than a thousandth of it.
#
# The formula also explains the sizes in the paper's ablation. Without the gate, its term goes; with the local context alone the memory goes too, with the global context alone the convolution.

# %%
without_gate = N - terms["gates"]
sizes = {
    "gated": N,
    "global": without_gate - terms["convolutions"],
    "sum": without_gate,
    "local": without_gate - terms["memories"],
}
paper = {"gated": "22.6", "global": "19.4", "sum": "19.4", "local": "17.9"}  # millions
assert {mixer: f"{n / 1e6:.1f}" for mixer, n in sizes.items()} == paper
size = {"vocab_size": 9, "block_size": 8, "d_model": 4, "n_layers": 2}
gone = {"gated": 0, "sum": 2 * 40, "global": 2 * (40 + 16), "local": 2 * (40 + 12)}
for mixer in sizes:  # a small one of each, two layers, really is that much smaller
    made = GAM(GAMConfig(**size, n_slots=3, mixer=mixer))
    assert made.num_parameters() == count(9, 8, 4, 2, 3, 3) - gone[mixer]

# %% [markdown]
# ## 9. The first numbers
#
# Before training the numbers are random, but not any numbers. Say a unit sums $n$ inputs of mean square 1, with weights drawn
# evenly from $(-\beta, \beta)$. A weight has the variance $\beta^2 / 3$, independent parts add their variances, so the
# output's is $n \beta^2 / 3$. To keep it from growing with the width, $\beta$ must fall as $1/\sqrt n$:
#
# $$ \mathrm{Var}\, w = \frac{\beta^2}{3}, \qquad \beta_\text{linear} = \frac{1}{\sqrt{n}}, \qquad
#    \beta_M = \sqrt{\frac{6}{S + C}} $$
#
# The first bound goes with the *fan-in* n, and is PyTorch's default. The second, for the memory, is Xavier Glorot's, which weighs
# both sides of a matrix: E3 sums over C numbers of M, and E5 over S. It makes the variance $2 / (S + C)$, one over the mean of the
# two. Biases are drawn as the weights are; LayerNorms begin with 1 and 0, positions as normal numbers.

# %%
wide = GAMConfig(vocab_size=400, block_size=64, d_model=96, n_layers=1, n_slots=48)
fresh = GAM(wide, seed=0).state_dict()
C, S, K = wide.d_model, wide.n_slots, wide.kernel_size
bounds = {
    "token_embedding.weight": 1 / math.sqrt(C),  # the head's: a linear map of C inputs
    "blocks.0.gate.weight": 1 / math.sqrt(C),
    "blocks.0.feed.expand.weight": 1 / math.sqrt(C),
    "blocks.0.feed.contract.weight": 1 / math.sqrt(4 * C),
    "blocks.0.conv.weight": 1 / math.sqrt(K),  # a depthwise filter has K inputs
    "blocks.0.memory": math.sqrt(6 / (S + C)),
}
for name, bound in bounds.items():
    largest, spread = np.abs(fresh[name]).max(), fresh[name].var() / (bound**2 / 3)
    print(f"{name:30} within {bound:.3f}: {largest:.3f}; 3 variance / bound²: {spread:.2f}")
    assert largest <= bound * (1 + 1e-6)
    assert 0.75 < spread < 1.25
assert 0.9 < fresh["position_embedding.weight"].std() < 1.1
inputs = rng.standard_normal((2000, C))
assert abs((inputs @ fresh["blocks.0.gate.weight"].T).var() - 1 / 3) < 0.05  # n β² / 3

# %% [markdown]
# This tells what the loss is, nearly, before the first step, and a model with these initial values that begins far from it has a mistake in it. The last LayerNorm
# gives every token $n$ with $n \cdot n = C$. The score $z_v$ of a word is the dot product of $n$ with $E_v$, C independent numbers of
# variance $1 / (3C)$:
#
# $$ \mathrm{Var}\, z_v = \sum_c n_c^2 \cdot \frac{1}{3C} = \frac13, \qquad
#    \mathrm{loss} = \mathrm{E}\big[\log \sum_v e^{z_v} - z_\mathrm{target}\big] \approx \log V + \frac12 \cdot \frac13 $$
#
# If all scores were equal it would be $\log V$: each of V words is as likely. The sixth on top is the price of having random
# opinions. (For a normal $z$ of mean 0, the mean of $e^z$ is $e^{\mathrm{Var}/2}$.)

# %%
sizes, begins = (30, 100, 300, 1000, 3000), []
for V in sizes:
    new = GAM(GAMConfig(vocab_size=V, block_size=32, d_model=64, n_layers=2)).eval()
    tokens = rng.integers(V, size=(16, 33))
    begins.append(new.token_losses(tokens[:, :-1], tokens[:, 1:]).data.mean())
expected = np.log(sizes) + 1 / 6
assert np.abs(np.array(begins) - expected).max() < 0.15
figure, axes = viz.panels("V, words in the vocabulary", "loss before training (nats)")
axes.semilogx(sizes, begins, "o", label="measured")
axes.semilogx(sizes, expected, "-", label="log V + 1/6")
axes.semilogx(sizes, np.log(sizes), color=viz.INK, linestyle="--", label="log V")
axes.legend(frameon=False)
show(figure, "The losses of five untrained models rise along the line log V + 1/6, just above log V.")

# %% [markdown]
# ## 10. The authors' weights
#
# The authors' PyTorch code has the same arrays under other names. `minigam.interop` translates, and both ways: what
# they trained runs here, and what is trained here runs there.

# %%
official = interop.to_official(model)
ours = model.state_dict()
for name, here, shape, kinds in interop.NAMES:
    if "gated" in kinds:
        one = official[name.replace("*", "0")]
        print(f"{name:30} {here:30} ({', '.join(shape.split())}) = {one.shape}")

# %% [markdown]
# Two lines differ in more than the name: PyTorch's convolution has an axis more, of length 1, because each channel is
# filtered alone; and the tied table has two names, `token_embedding.weight` and `head.weight`.

# %%
back = interop.from_official(official)
assert all((a == ours[name]).all() for name, a in back.state_dict().items())  # to the bit
assert np.abs(back.eval()(ids).data - model(ids).data).max() < 1e-12
assert np.shares_memory(official["head.weight"], official["token_embedding.weight"])
incomplete = {name: a for name, a in official.items() if name != "blocks.1.memory_bank"}
try:
    interop.from_official(incomplete)
except KeyError as e:
    message = e.args[0]
print(message)
assert "missing ['blocks.1.memory_bank']" in message

# %% [markdown]
# ## What you have now
#
# * LayerNorm and its backward pass as two projections; exact GELU; residuals, and the measurement that shows what they are for.
# * A block in a dozen lines and a language model in ten more, equal to the project's.
# * Each of the 22,599,680 parameters in its place: most work on one token alone.
# * A number to expect before the first step, log V + 1/6. The next notebook, 08, takes the steps.
#
# **Read on in the code:** `minigam/models/gam.py`, `minigam/models/lm.py` and `minigam/models/nn.py`; `layer_norm`, `gelu` and `dropout` in
# `minigam/engine/ops.py`; the table `NAMES` in `minigam/models/interop.py`.
