# %% [markdown]
# # 07 · The block and the model
#
# **Goal.** Build a whole GAM: first the block, then the language model around it. A block adds LayerNorm, GELU,
# residuals and dropout to the two contexts (E1, E8, E9). A language model adds an embedding and a head to L blocks. Yours
# agrees with this project's to twelve digits, and you can say where each of its 22,599,680 parameters is.
#
# **Time.** 120 minutes, 5 exercises. **Needs** 04, 05 and 06, which build the convolution, the memory and the gate.
# Letters: B batch, T tokens, C channels, S slots, K kernel size, L layers, V vocabulary. In section 7, E and P are the tables
# of token and position embeddings; in section 8, N is the number of parameters.

# %% tags=["setup"]
import math

import numpy as np

from minigam import GAM, GAMBlock, GAMConfig, Tensor, gradcheck, interop, masks, nn, numeric, ops, viz
from minigam.course import check, show

# %%
rng = np.random.default_rng(7)
B, T, C = 2, 5, 6
x = rng.standard_normal((B, T, C)) * 3.0 + 1.0  # the input of a block

# %% [markdown]
# ## 1. LayerNorm: every token on the same scale (E1)
#
# A model stacks many blocks. If each block made its numbers a little larger, the numbers of the last block would be
# huge, and no single learning rate would suit all blocks. So every block first normalises each token: it shifts and
# scales the C channels to mean 0 and variance 1. Then each channel gets a learned weight $w$ and a learned bias
# $b$, so that training can choose any other scale. For one token $x$, a vector of C numbers:
#
# $$ \mu = \frac1C \sum_c x_c, \qquad \sigma^2 = \frac1C \sum_c (x_c - \mu)^2, \qquad
#    n = \frac{x - \mu}{\sqrt{\sigma^2 + \varepsilon}}, \qquad y = n \odot w + b $$
#
# We call $n$ the *normal form* of the token. The small $\varepsilon$ matters for a token whose channels are all equal: its
# normal form is 0 instead of 0 / 0.
#
# ### Exercise 07.1 ★☆☆ LayerNorm
#
# Write LayerNorm for an array with any number of axes. The last axis is C. Normalise each vector along it on its own.
#
# <details><summary>Hint</summary>
#
# `mean(axis=-1, keepdims=True)` keeps an axis of length 1, and NumPy broadcasts the mean over it. First subtract the
# mean. The variance is the mean of the squares of the result: divide by C, not by C - 1.
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
# Two changes of a token leave its normal form unchanged: a number added to all channels, and a positive factor on
# all channels.
#
# $$ n(x + \alpha \mathbf{1}) = n(x), \qquad n(\beta x) = n(x) \quad (\beta > 0,\ \varepsilon = 0) $$
#
# Here $\mathbf{1}$ is the vector of C ones. A shift changes $x$ and $\mu$ by the same number, so $x - \mu$ stays the same. A
# factor multiplies both $x - \mu$ and $\sigma$, and cancels. With $\varepsilon > 0$ the second equation holds only
# approximately, as long as the variance is far above $\varepsilon$.

# %%
normal = lambda x, eps=0.0: layer_norm(x, np.ones(x.shape[-1]), np.zeros(x.shape[-1]), eps)
assert np.abs(normal(x + 100.0) - normal(x)).max() < 1e-9
assert np.abs(normal(0.001 * x) - normal(x)).max() < 1e-9
change = np.abs(normal(0.001 * x, eps=1e-5) - normal(x, eps=1e-5)).max()
print(f"with eps = 1e-5 the normal form of 0.001 x differs from that of x by up to {change:.2f}")
assert change > 0.1
assert np.abs(normal(np.full(C, 7.0), eps=1e-5)).max() < 1e-9  # equal channels: 0, not nan

# %% [markdown]
# ## 2. The gradient of LayerNorm: two projections
#
# The forward pass has three steps. We write $z$ for the centred token and $r$ for its divisor:
#
# 1. Centring: $z = x - \mu$.
# 2. Division: $n = z / r$, with $r = \sqrt{\frac1C\, z \cdot z + \varepsilon}$.
# 3. Scale and shift: $y = n \odot w + b$.
#
# The backward pass takes the three steps in the opposite order. It begins with $dy$, the gradient with respect to $y$.
#
# **Scale and shift.** Each entry of $y$ depends on one entry of $n$. All tokens share $w$ and $b$, so the gradients
# of $w$ and $b$ are sums over all tokens:
#
# $$ dn = dy \odot w, \qquad dw = \sum_{bt} dy \odot n, \qquad db = \sum_{bt} dy $$
#
# **Division.** The divisor $r$ also depends on $z$. Take one token, add a small $\delta$ to $z$, and follow the change
# (to first order in $\delta$):
#
# 1. The square $r^2 = \frac1C\, z \cdot z + \varepsilon$ changes by $\frac2C\, z \cdot \delta$.
# 2. By the chain rule, $r^2$ also changes by $2\, r\, \delta r$. So $\delta r = \frac{1}{C r}\, z \cdot \delta$.
# 3. Insert $z = r\, n$. The result is $\delta r = \frac1C\, n \cdot \delta$.
# 4. The quotient rule for $n = z / r$ says $\delta n = \frac{\delta}{r} - \frac{z}{r^2}\, \delta r$.
# 5. Insert $z = r\, n$ and step 3. The result is $\delta n = \frac1r \big(\delta - n\, \frac{n \cdot \delta}{C}\big)$.
# 6. This is a matrix times $\delta$: $\delta n = \frac1r\, Q\, \delta$, with $Q = I - \frac1C\, n n^\top$.
# 7. The backward pass of a linear map multiplies by the transposed matrix. $Q$ is symmetric, so the same matrix appears again:
#
# $$ dz = \frac1r\, Q\, dn = \frac1r \Big(dn - n\, \frac{n \cdot dn}{C}\Big) $$
#
# **Centring.** Subtracting the mean is a linear map too: $z = P x$ with $P = I - \frac1C \mathbf{1}\mathbf{1}^\top$. This matrix is also
# symmetric, so the backward pass subtracts the mean of the gradient:
#
# $$ dx = P\, dz = dz - \overline{dz} $$
#
# The bar is the mean over the channels.
#
# **Both lines together.** Write $\frac1C\, n \cdot dn$ as the mean $\overline{dn \odot n}$. The mean of $n$ is 0, so only $dn$
# has a mean that must be subtracted:
#
# $$ dx = \frac1r \Big(dn - \overline{dn} - n\, \overline{dn \odot n}\Big) $$
#
# ### Exercise 07.2 ★★★ LayerNorm, backwards
#
# Write the three gradients: $dx$ for each token, $dw$ and $db$ summed over all tokens. Compute $n$ and $r$ again from `x`.
# The bias is not an argument, because no gradient depends on it.
#
# <details><summary>Hint</summary>
#
# Compute `n` as in 07.1, but without weight and bias. `dn` is `dy * weight`. From `dn` subtract two things: its mean over
# the channels, and `n` times the mean of `dn * n`. Then divide by `r`. For `weight` and `bias`, sum over all axes except the
# last; `reshape(-1, C)` turns these axes into one.
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

# %% [markdown]
# Your gradients against those of the tape, and the tape against finite differences:

# %%
w, b = rng.standard_normal((2, C))  # not 1 and 0, which would hide mistakes
dy = rng.standard_normal((B, T, C))
leaves = [Tensor(array, requires_grad=True) for array in (x, w, b)]
ops.layer_norm(*leaves).backward(dy)
for by_hand, leaf in zip(layer_norm_backward(dy, x, w), leaves, strict=True):
    assert np.abs(by_hand - leaf.grad).max() < 1e-12
worst = gradcheck(ops.layer_norm, *leaves)
print(f"worst relative error of the tape against finite differences {worst:.1e}")
assert worst < 1e-6

# %% [markdown]
# Look at the two matrices again. For $\varepsilon = 0$ the vector $n$ has the length $\sqrt C$, and both matrices are
# projections: applying one twice is the same as applying it once.
#
# $$ P = I - \tfrac1C\, \mathbf{1}\mathbf{1}^\top, \qquad Q = I - \tfrac1C\, n n^\top, \qquad dx = \tfrac1r\, P\, Q\, dn $$
#
# P removes the component along $\mathbf{1}$, and Q removes the component along $n$. A step of $x$ along $\mathbf{1}$ is a shift.
# A step along $n$ multiplies $z$ by a factor. Neither changes the normal form, so the gradient has no component in
# these two directions. The other C - 2 directions remain. They are divided by $r$, so a token with small numbers gets a
# large gradient.

# %%
token, n = x[0, 0], normal(x[0, 0])  # one token, eps = 0
P = np.eye(C) - np.ones((C, C)) / C
Q = np.eye(C) - np.outer(n, n) / C
assert np.abs(P @ P - P).max() < 1e-12 and np.abs(Q @ Q - Q).max() < 1e-12  # projections
assert np.abs(P @ np.ones(C)).max() < 1e-12 and np.abs(Q @ n).max() < 1e-12
assert np.linalg.matrix_rank(P @ Q, tol=1e-9) == C - 2
dx, _, _ = layer_norm_backward(dy[0, 0], token, w, eps=0.0)
assert np.abs(dx - P @ Q @ (dy[0, 0] * w) / token.std()).max() < 1e-12  # r is the standard deviation
assert abs(dx.sum()) < 1e-12 and abs(dx @ n) < 1e-12  # no component along 1 or n

# %% [markdown]
# With three channels we can draw this. Look along $\mathbf{1} = (1, 1, 1)$. From there a shift is invisible, and each token is a point in
# a plane. LayerNorm moves the point along the ray from the centre to a circle of radius $\sqrt 3$. The gradient is
# perpendicular to that ray, whatever the loss. All nine tokens below get the same $dn$. On average the
# gradient is longer near the centre, because $dx$ has the factor $1 / r$.

# %%
across = np.array([[1.0, -1.0, 0.0], [1.0, 1.0, -2.0]])  # both perpendicular to (1, 1, 1)
plane = across / np.linalg.norm(across, axis=1, keepdims=True)  # (2, 3)
angle = np.linspace(0.3, 0.3 + 2 * np.pi, 9, endpoint=False)
radius = np.array([0.9, 2.4, 1.2, 2.9, 1.0, 2.6, 1.4, 3.1, 1.3])
points = radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)  # (9, 2)
tokens = points @ plane  # (9, 3), three channels each
same_dn = np.tile([0.7, -0.2, -0.5], (9, 1))  # the same gradient for every token
dx, _, _ = layer_norm_backward(same_dn, tokens, np.ones(3), eps=0.0)
on_circle, arrow = normal(tokens) @ plane.T, dx @ plane.T
assert np.abs(np.hypot(*on_circle.T) - math.sqrt(3)).max() < 1e-9
assert np.abs((points * arrow).sum(axis=1)).max() < 1e-9  # perpendicular

figure, axes = viz.panels("first axis", "second axis", size=(5.4, 5.0))
around = np.linspace(0, 2 * np.pi, 200)
axes.plot(math.sqrt(3) * np.cos(around), math.sqrt(3) * np.sin(around), color=viz.INK)
for start, end in zip(points, on_circle, strict=True):
    axes.plot(*np.stack([start, end]).T, color=viz.INK, linestyle=":")
axes.plot(*points.T, "o", markersize=5, label="token x")
axes.plot(*on_circle.T, "^", markersize=6, markerfacecolor="none", label="normal form n")
axes.plot([], [], "-", label="gradient dx (arrow)")
axes.quiver(*points.T, *arrow.T, angles="xy", scale_units="xy", scale=1.0, width=0.005, color=viz.COLOURS[2])
axes.set(aspect="equal", xlim=(-3.6, 3.6), ylim=(-3.6, 3.6))
axes.legend(frameon=False, loc="upper right", fontsize=8)
show(
    figure,
    "Nine tokens in a plane. A dotted line along the ray from the centre joins each to its normal "
    "form, and all normal forms lie on one circle. The gradient of each token is an arrow "
    "perpendicular to the ray. The longest arrows are those of tokens near the centre.",
)
near, far = radius < 1.3, radius > 2.3
assert np.hypot(*arrow[near].T).mean() > np.hypot(*arrow[far].T).mean()

# %% [markdown]
# ## 3. GELU: the nonlinearity of E9
#
# E9 has a nonlinear function between its two matrices. Without one, the product of the two matrices would be a single
# matrix. GAM uses the Gaussian error linear unit, GELU. It multiplies $x$ by $\Phi(x)$, the share of a standard
# normal population that lies below $x$:
#
# $$ y = x\, \Phi(x), \qquad \Phi(x) = \int_{-\infty}^{x} \varphi(s)\, ds = \frac12 \Big(1 + \mathrm{erf}\frac{x}{\sqrt 2}\Big),
#    \qquad \varphi(s) = \frac{1}{\sqrt{2\pi}}\, e^{-s^2/2} $$
#
# For large positive $x$, nearly the whole population lies below $x$, and $y \approx x$. For large negative $x$, almost none
# of it does, and $y \approx 0$. In between, the curve is smooth. The next cell draws a population and counts:

# %%
population = rng.standard_normal(200_000)
for place in (-1.0, 0.0, 0.5, 2.0):
    below = (population < place).mean()
    by_erf = (1.0 + math.erf(place / math.sqrt(2.0))) / 2.0
    print(f"below {place:4}: counted {below:.3f}, by erf {by_erf:.3f}")
    assert abs(below - by_erf) < 0.01

# %% [markdown]
# Python's `math.erf` takes one number at a time, and NumPy has no error function. For arrays use `numeric.erf(np, x)`, from
# `minigam.numeric`.
#
# The derivative of GELU follows from the product rule. $\Phi' = \varphi$, because $\Phi$ is the integral of $\varphi$ up to $x$:
#
# $$ \frac{dy}{dx} = \Phi(x) + x\, \varphi(x) $$
#
# ### Exercise 07.3 ★★☆ GELU and its derivative
#
# For an array of any shape, return the pair (value, derivative), each at every entry. Be exact: use erf.
#
# <details><summary>Hint</summary>
#
# Compute $\Phi(x)$ and $\varphi(x)$ first, one line each. There are two different square roots: $\sqrt 2$ inside erf, and
# $\sqrt{2\pi}$ in the denominator of $\varphi$.
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
# Older code often replaces erf by a formula with tanh, because tanh was faster to compute:
#
# $$ y \approx \frac{x}{2} \Big(1 + \tanh\big(\sqrt{2/\pi}\,(x + 0.044715\, x^3)\big)\Big) $$
#
# GAM's authors use the exact GELU. The difference is small, but far above rounding. If you train weights with one formula and
# run them with the other, the outputs change a little, and a test to twelve digits fails.

# %%
grid = np.linspace(-5.0, 5.0, 1001)
y, slope = gelu(grid)
inner = math.sqrt(2 / math.pi) * (grid + 0.044715 * grid**3)
approximation = 0.5 * grid * (1.0 + np.tanh(inner))
difference = approximation - y
print(f"largest difference {np.abs(difference).max():.1e}, float32 rounds to about 1e-7")
assert 1e-5 < np.abs(difference).max() < 1e-3
assert np.abs(difference[[0, -1]]).max() < 1e-5  # for large |x| both are the same

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
    "Left: GELU follows 0 on the left and x on the right, with a shallow dip below 0 in "
    "between. Its derivative dips below 0 too, then rises above 1 and returns to it. "
    "Right: the tanh formula is wrong by a few 1e-4, too low at about 1.4 on either side of 0, too high at about 2.7.",
)
lowest = grid[y.argmin()]
print(f"GELU is lowest at x = {lowest:.2f}, where it is {y.min():.3f}: it is not monotone")
assert -1.0 < lowest < -0.5 and slope.max() > 1.05

# %% [markdown]
# ## 4. Residuals: a direct path for the gradient (E8, E9)
#
# A block adds to its input: E8 is $h = x + \mathrm{fused}$, and E9 adds again. Consider one such step,
# $y = x + f(x)$, and let $J$ be the Jacobian of $f$. Then the Jacobian of the step is $I + J$. For two steps:
#
# $$ (I + J_2)(I + J_1) = I + J_1 + J_2 + J_2 J_1 $$
#
# The term $I$ does not depend on $J_1$ and $J_2$. Along this path the gradient reaches the first block unchanged. Without
# residuals only the longest product, $J_2 J_1$, remains. If a typical $J$ makes vectors shorter, a product of many of
# them makes the gradient vanish.

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
assert np.abs(by_paths - leaf.grad[0]).max() < 1e-8

# %% [markdown]
# Now the experiment with real blocks, up to 24 of them, with their initial values. There are four variants: with and without the
# residuals, with and without the LayerNorms. How long is the gradient at the bottom if the gradient at the top has
# length 1?

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
left.set(ylabel="gradient below / gradient above", title="all, logarithmic axis")
right.set(ylim=(0, None), title="with residuals, linear axis")
left.legend(frameon=False)
right.legend(frameon=False)
show(
    figure,
    "Left: with residuals the gradient stays near 1. With LayerNorm alone it falls by a factor of "
    "about a hundred. With neither it falls along a straight line, by tens of powers of ten. "
    "Right: with residuals and LayerNorm it grows slowly; with residuals alone it grows "
    "faster and faster.",
)
last = {name: values[-1] for name, values in lengths.items()}
for name, value in last.items():
    print(f"{name:24} after 24 blocks {value:.1e}")
assert 0.5 < last["residuals and LayerNorm"] < 10.0
assert last["residuals alone"] > last["residuals and LayerNorm"]  # it grows faster and faster
assert last["LayerNorm alone"] < 0.1
assert last["neither"] < 1e-12

# %% [markdown]
# With residuals but without LayerNorm, the gradient grows, and it grows faster with every block. Each block adds a
# share of its input, in the forward pass and in the backward pass. A LayerNorm limits this growth. It divides the gradient
# of its branch by $r$ (section 2). The sum on the residual path grows from block to block, so $r$ grows too, and later
# blocks add less. So a deep model needs both.
#
# GAM, like most current models, is *pre-norm*: each branch begins with its LayerNorm, and nothing on the residual path
# changes the gradient.

# %% [markdown]
# ## 5. Dropout: noise that can be repeated
#
# During training, dropout sets each entry to 0 with probability $p$, so that no channel can rely on another. GAM applies
# it at the end of the branch of E9, and after the embedding. The other entries are divided by $1 - p$. This keeps the mean over all masks equal to
# $x$, so nothing has to be rescaled when dropout is off. With a mask $m$ of zeros and ones:
#
# $$ y = \frac{x \odot m}{1 - p}, \qquad \mathrm{E}[y] = \frac{x\,(1 - p) + 0 \cdot p}{1 - p} = x $$

# %%
p, ones = 0.1, np.ones((4, 8, 6))
key = (42, 1)  # the seed, and the number of the mask
m = masks.keep_mask(np, key, p, ones.shape)
y = ops.dropout(Tensor(ones), p=p, key=key).data
assert np.abs(y - ones * m / (1.0 - p)).max() < 1e-12
one = lambda number: ops.dropout(Tensor(ones), p=p, key=(42, number)).data
many = np.mean([one(number) for number in range(1, 501)], axis=0)
print(f"mean over the entries of one mask: {y.mean():.3f}")
print(f"mean of one entry over 500 masks: from {many.min():.2f} to {many.max():.2f}")
assert abs(many.mean() - 1.0) < 0.01 and np.abs(many - 1.0).max() < 0.1

# %% [markdown]
# Most libraries draw a mask from a random generator. Then a run can be resumed only if the state of the generator was
# stored, and a batch computed in parts gets other masks than the whole batch.
#
# Here the mask is a *function* of three things:
#
# * the seed,
# * the number of the mask: it counts up by one for every dropout layer and step,
# * the position of the entry in the batch.
#
# So the same step always has the same noise, on the CPU and on a GPU.

# %%
assert (masks.keep_mask(np, key, p, ones.shape) == m).all()  # the same key gives the same mask
assert (masks.keep_mask(np, (42, 2), p, ones.shape) != m).any()  # the next number gives another
second_half = masks.keep_mask(np, key, p, (2, 8, 6), first=2 * 8 * 6)  # rows 2 and 3 alone
assert (second_half == m[2:]).all()
assert ops.dropout(Tensor(ones), p=0.0, key=key).data.tolist() == ones.tolist()

# %% [markdown]
# ## 6. The whole block
#
# Now all parts are there: the local context from notebook 04, the global context from 05, the gate from 06, and LayerNorm
# and GELU from above. With dropout off, the block is:
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
# In E2, $u_t$ is 0 for $t < 0$. E9 is written for one token, a vector of C numbers, and its hidden layer has 4C. The two
# LayerNorms have parameters of their own. The exercise receives all parameters as a dictionary, under the names that
# `GAMBlock` gives them:
#
# | name | shape | in | | name | shape | in |
# |---|---|---|---|---|---|---|
# | `norm1.weight`, `norm1.bias` | (C) | E1 | | `norm2.weight`, `norm2.bias` | (C) | E9 |
# | `conv.weight`, `conv.bias` | (C, K), (C) | E2: $w$, $b$ | | `feed.expand.weight`, `feed.expand.bias` | (4C, C), (4C) | E9: $W_1$, $b_1$ |
# | `memory` | (S, C) | E3-E5: $M$ | | `feed.contract.weight`, `feed.contract.bias` | (C, 4C), (C) | E9: $W_2$, $b_2$ |
# | `gate.weight`, `gate.bias` | (2C, C), (2C) | E6: $W_g$, $b_g$ | | | | |
#
# ### Exercise 07.4 ★★☆ A block in a dozen lines
#
# Write a GAM block on plain arrays: `block(x, p)`, with `p["norm1.weight"]` and so on. Use your `layer_norm` and your `gelu`
# from above. The convolution, the memory and the gate take a line or two each: copy them from your answers in 04, 05 and
# 06, or write them again.
#
# <details><summary>Hint</summary>
#
# For E2, put K - 1 rows of zeros before the first token, `np.concatenate([zeros, u], axis=1)`. Then tap j of the kernel
# multiplies `padded[:, j : j + T]`. In E4, subtract the largest score of each token before `np.exp`. For E6,
# `np.split(g, 2, axis=-1)` separates the 2C gates, and the sigmoid is `1 / (1 + np.exp(-g))`. `gelu` returns a pair; you need
# its first part. The second LayerNorm reads h, not x.
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
# Compare your block with the project's own. All parameters get random numbers. With the initial weights of 1 and biases of 0, the
# comparison would not notice a LayerNorm that ignores them.

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
# A token is an id, a whole number from 0 to V - 1. The model has three more parts:
#
# * The **token embedding** is a learned table E (V, C). The id selects a row, and that row is the token's vector.
# * The **position embedding** is a second learned table P (T, C). It adds one vector for each position. Without it a block
#   could recognise only the first few positions, by the zeros before the first token in E2.
# * The **head** uses the table E again. The score of a word is the dot product of its row with the final vector.
#
# With $i_{bt}$ the ids:
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
# That is a whole GAM in about thirty lines, and you wrote those of the block yourself.
#
# The table E is used twice, so its gradient has two terms, like that of the memory in notebook 05. As the embedding, a row
# gets a gradient only if its word occurs in the input. As the head, every row gets a gradient from every token, because
# every word's score is part of the softmax.

# %%
targets = rng.integers(V, size=(3, 12))
model.loss(ids, targets).backward()
both = model.token_embedding.weight.grad  # (V, C)
head = Tensor(model.token_embedding.weight.data, requires_grad=True)
ops.linear_cross_entropy(Tensor(model.features(ids).data), head, targets).backward()
as_embedding = both - head.grad
nonzero = lambda gradient: np.abs(gradient).max(axis=1) > 1e-12  # (V)
print("rows with a gradient: as embedding", nonzero(as_embedding).sum(), "as head", nonzero(head.grad).sum())
assert nonzero(as_embedding).tolist() == [v in ids for v in range(V)]
assert nonzero(head.grad).all()

# %% [markdown]
# ## 8. Where the parameters are
#
# ### Exercise 07.5 ★★☆ Count them
#
# Return the number of parameters of a GAM from its six sizes: V words, T positions, C channels, L blocks, S slots and
# kernel size K. Sections 6 and 7 name every array.
#
# <details><summary>Hint</summary>
#
# Multiply the shapes in the table of section 6 and add them up: that is one block. Outside the blocks there are two
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
# The same count as a formula, one term for each part:
#
# $$ \begin{aligned} N = {} & \underbrace{VC}_{\text{tokens}} + \underbrace{TC}_{\text{positions}}
#      + \underbrace{2C}_{\text{last LayerNorm}} \\
#      & + L \big(\underbrace{8C^2 + 5C}_{\text{feed-forward}} + \underbrace{2C^2 + 2C}_{\text{gate}}
#      + \underbrace{SC}_{\text{memory}} + \underbrace{KC + C}_{\text{convolution}}
#      + \underbrace{4C}_{\text{LayerNorms}}\big) \end{aligned} $$
#
# The published model has V = 10,000, T = 256, C = 512, L = 6, S = 512 and K = 3, and therefore 22,599,680 parameters.
# `GAM()` builds it.

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
parts, numbers = list(terms)[::-1], list(terms.values())[::-1]
bars = axes.barh(parts, np.array(numbers) / 1e6, **viz.bars(0))
axes.bar_label(bars, [f"{n:,} ({n / N:.2%})" for n in numbers], padding=3, fontsize=8)
axes.set_xlim(0, 17)
show(
    figure,
    "One bar for each of the seven parts. The feed-forward layers have more than half of the "
    "parameters, the token embedding almost a quarter, gates and memories most of the rest. "
    "The bars of positions, convolutions and LayerNorms are hardly visible.",
)
assert terms["feed-forward"] > N / 2
assert terms["convolutions"] < N / 1000

# %% [markdown]
# More than half of the parameters are in the feed-forward layers, which treat each token on its own. The convolutions are
# *the only part that carries information from one token to another*, and they hold less than a thousandth.
#
# The formula also explains the sizes in the paper's ablation study. Without the gate, the gate's term is missing. "Local
# context only" omits the memory as well, and "global context only" omits the convolution as well.

# %%
without_gate = N - terms["gates"]
sizes = {
    "gated": N,
    "global": without_gate - terms["convolutions"],
    "sum": without_gate,
    "local": without_gate - terms["memories"],
}
in_paper = {"gated": "22.6", "global": "19.4", "sum": "19.4", "local": "17.9"}  # millions
assert {mixer: f"{n / 1e6:.1f}" for mixer, n in sizes.items()} == in_paper
size = {"vocab_size": 9, "block_size": 8, "d_model": 4, "n_layers": 2}
omitted = {"gated": 0, "sum": 2 * 40, "global": 2 * (40 + 16), "local": 2 * (40 + 12)}
for mixer in sizes:  # build a small model of each kind, with two blocks, and count its arrays
    small = GAM(GAMConfig(**size, n_slots=3, mixer=mixer))
    assert small.num_parameters() == count(9, 8, 4, 2, 3, 3) - omitted[mixer]

# %% [markdown]
# ## 9. The initial values, and the first loss
#
# Before training, the parameters are random. Their scale is chosen as follows. Suppose a unit sums $n_\mathrm{in}$ inputs of mean
# square 1, and its weights are drawn uniformly from $(-\beta, \beta)$. Then:
#
# 1. Each weight has the variance $\beta^2 / 3$.
# 2. The variances of independent terms add up, so the output has the variance $n_\mathrm{in}\, \beta^2 / 3$.
# 3. This must not grow with the width, so $\beta$ must be proportional to $1/\sqrt{n_\mathrm{in}}$.
#
# $$ \mathrm{Var}\, w = \frac{\beta^2}{3}, \qquad \beta_\text{linear} = \frac{1}{\sqrt{n_\mathrm{in}}}, \qquad
#    \beta_M = \sqrt{\frac{6}{S + C}} $$
#
# The first bound uses the number of inputs of a unit, its *fan-in*. It is PyTorch's default, and biases are drawn in the
# same way. The second bound is Xavier Glorot's, for the memory. It gives the variance $2 / (S + C)$, which is one over the mean of S and
# C. Both sizes count here: E3 sums over the C numbers of a slot, and E5 sums over the S slots.
#
# LayerNorms begin with weight 1 and bias 0. The position embeddings are standard normal numbers.

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
assert abs((inputs @ fresh["blocks.0.gate.weight"].T).var() - 1 / 3) < 0.05  # n_in β² / 3

# %% [markdown]
# From these initial values we can estimate the loss before the first step. If the first loss of your own model is far from
# the estimate, look for a mistake. The estimate has four steps:
#
# 1. The last LayerNorm gives every token a vector $n$ with $n \cdot n = C$.
# 2. The score $z_v$ of word $v$ is the dot product of $n$ with row $E_v$, which has C independent numbers of variance $1 / (3C)$.
# 3. So the score has mean 0 and variance $\frac13$.
# 4. For a normal $z$ of mean 0, the mean of $e^z$ is $e^{\mathrm{Var}/2}$. So the sum of $e^{z_v}$ over V words is about $V e^{1/6}$.
#
# $$ \mathrm{Var}\, z_v = \sum_c n_c^2 \cdot \frac{1}{3C} = \frac13, \qquad
#    \mathrm{loss} = \mathrm{E}\big[\log \sum_v e^{z_v} - z_\mathrm{target}\big] \approx \log V + \frac12 \cdot \frac13 $$
#
# A model that gives all V words the same score has the loss $\log V$. The random scores of a new model cost
# one sixth of a nat more.

# %%
sizes, first_losses = (30, 100, 300, 1000, 3000), []
for V in sizes:
    new = GAM(GAMConfig(vocab_size=V, block_size=32, d_model=64, n_layers=2)).eval()
    tokens = rng.integers(V, size=(16, 33))
    first_losses.append(new.token_losses(tokens[:, :-1], tokens[:, 1:]).data.mean())
expected = np.log(sizes) + 1 / 6
assert np.abs(np.array(first_losses) - expected).max() < 0.15
figure, axes = viz.panels("V, words in the vocabulary", "loss before training (nats)")
axes.semilogx(sizes, first_losses, "o", label="measured")
axes.semilogx(sizes, expected, "-", label="log V + 1/6")
axes.semilogx(sizes, np.log(sizes), color=viz.INK, linestyle="--", label="log V")
axes.legend(frameon=False)
show(figure, "The losses of five untrained models lie on the line log V + 1/6, just above log V.")

# %% [markdown]
# ## 10. The authors' weights
#
# The authors' PyTorch code has the same arrays under other names. `minigam.interop` translates in both directions: a model
# trained there runs here, and a model trained here runs there.

# %%
official = interop.to_official(model)
ours = model.state_dict()
for name, here, shape, kinds in interop.NAMES:
    if "gated" in kinds:
        one = official[name.replace("*", "0")]
        print(f"{name:30} {here:30} ({', '.join(shape.split())}) = {one.shape}")

# %% [markdown]
# Two lines differ in more than the name. PyTorch's convolution weight has one more axis, of length 1, because each channel is
# filtered on its own. And the shared table has two names there, `token_embedding.weight` and `head.weight`.

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
# ## What you can do now
#
# You can
#
# * derive the backward pass of LayerNorm as two projections, and compute exact GELU and its derivative,
# * build a block and a whole language model, equal to the project's, and
# * place each of the 22,599,680 parameters, and predict the loss before the first step.
#
# ## Think about it
#
# No check can answer these. Write down your answer, or discuss it with someone.
#
# 1. Which part of the block would you remove first, and how would you find out whether that was right?
# 2. The head is the embedding again. What does that save, and what does it force the embedding to do?
#
# ## Read on
#
# In the code:
#
# * `minigam/models/gam.py`, `lm.py` and `nn.py`
# * `minigam/engine/ops.py`: `layer_norm`, `gelu` and `dropout`
# * `minigam/models/interop.py`: the table `NAMES`
#
# Elsewhere:
#
# * [Layer Normalization](https://arxiv.org/abs/1607.06450)
# * [Gaussian Error Linear Units](https://arxiv.org/abs/1606.08415)
# * [Deep Residual Learning](https://arxiv.org/abs/1512.03385)
# * [On Layer Normalization in the Transformer Architecture](https://arxiv.org/abs/2002.04745)
# * [Using the Output Embedding to Improve Language Models](https://arxiv.org/abs/1608.05859)
