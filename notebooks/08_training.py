# %% [markdown]
# # 08 · Training
#
# **Goal.** Turn random numbers into a model that writes stories, and know the reason for each step: the loss,
# its gradient, AdamW, clipping, the schedule. Then compare the loss of a trained GAM with the lowest loss
# that is possible, and see what the model has learned almost perfectly and what it cannot learn.
#
# **Time.** 110 minutes, 5 exercises. **Needs** 02 (gradient checks) and 07 (the model). Letters: B batch, T
# tokens, V vocabulary, L layers, K kernel size, N the number of predicted tokens (not Mamba's states). v is a
# word in sections 1 and 2, and a moment of AdamW from section 3 on. n is the number of training steps, W of
# them warm-up.

# %% tags=["setup"]
import math
import textwrap
from dataclasses import replace

import numpy as np
from tqdm import tqdm

from minigam import (
    GAM,
    AdamW,
    GAMConfig,
    Tensor,
    from_pocketstories,
    inputs_and_targets,
    nn,
    no_grad,
    ops,
    pocketstories,
    train_step,
    validation,
    viz,
)
from minigam.course import check, show, trained

# %%
rng = np.random.default_rng(8)

# %% [markdown]
# ## 1. The loss
#
# For every position of a text the model gives each word $v$ of its vocabulary a score $z_v$, the *logit*. The
# softmax turns the logits into probabilities. The word that really comes next is the *target*. The loss is
# minus the logarithm of the target's probability:
#
# $$ p_v = \frac{e^{z_v}}{\sum_{v'} e^{z_{v'}}}, \qquad
#    \mathrm{loss} = -\log p_\mathrm{target} = \log \sum_{v} e^{z_v} - z_\mathrm{target} $$
#
# The loss is 0 if the target had probability 1, and grows without limit as its probability goes to 0. With
# the natural logarithm its unit is the *nat*. One nat is $1 / \log 2$ bits.

# %%
V = 6
z, target = rng.standard_normal(V), 2
p = np.exp(z) / np.exp(z).sum()
loss = -math.log(p[target])
assert abs(loss - (math.log(np.exp(z).sum()) - z[target])) < 1e-12
print(f"probability {p[target]:.3f}, loss {loss:.3f} nats = {loss / math.log(2):.3f} bits")

# %% [markdown]
# Scores may be large, and $e^{1000}$ is more than a float can hold. But any number $m$ can be subtracted from
# all scores inside the sum and added again outside. With the largest score as $m$ nothing overflows, and at
# least one term of the sum is 1:
#
# $$ \log \sum_v e^{z_v} = m + \log \sum_v e^{z_v - m}, \qquad m = \max_v z_v $$
#
# ### Exercise 08.1 ★☆☆ Cross-entropy
#
# Return the loss of every position, for logits (..., V) and integer targets (...). The result has the shape
# of the targets. Scores of 10,000 must work, even if the target has by far the lowest score.
#
# <details><summary>Hint</summary>
#
# Do not compute the probability: if it is too small for a float, it becomes 0, and its logarithm minus
# infinity. To pick each target's score, use `np.take_along_axis(z, targets[..., None], axis=-1)[..., 0]`.
#
# </details>


# %% tags=["exercise"]
def cross_entropy(logits, targets):
    """Return -log p_target in nats, for logits (..., V) and integer targets (...): (...)."""
    # SOLUTION
    z = logits - logits.max(axis=-1, keepdims=True)
    at_target = np.take_along_axis(z, targets[..., None], axis=-1)[..., 0]
    return np.log(np.exp(z).sum(axis=-1)) - at_target
    # END


# %%
check.ex_08_1(cross_entropy)

# %% [markdown]
# ## 2. Its gradient: prediction minus target
#
# The loss has two terms. The derivative of $-z_\mathrm{target}$ is $-1$ for the target and 0 for all other
# words. The derivative of the logarithm of the sum is, by the chain rule, $e^{z_v}$ divided by the sum. That
# is the probability itself. Together:
#
# $$ \frac{\partial\, \mathrm{loss}}{\partial z_v} = p_v - [v = \mathrm{target}] $$
#
# The bracket is 1 where it is true, else 0. A gradient step lowers the score of each wrong word in proportion
# to its probability, and raises the target's score in proportion to what its probability lacks to 1. The
# entries of the gradient add up to 0.

# %%
loss_of = lambda z: cross_entropy(z, np.array(target))
h = 1e-6
numeric = [(loss_of(z + h * e) - loss_of(z - h * e)) / (2 * h) for e in np.eye(V)]
dz = p - (np.arange(V) == target)
assert np.abs(dz - numeric).max() < 1e-8
assert abs(dz.sum()) < 1e-12

figure, axes = viz.panels("word v", "probability, gradient", size=(6.0, 3.2))
axes.bar(np.arange(V) - 0.2, p, 0.4, **viz.bars(0), label="probability p")
axes.bar(np.arange(V) + 0.2, dz, 0.4, **viz.bars(1), label="gradient of the loss")
axes.axhline(0.0, color=viz.INK, linewidth=0.8)
axes.legend(frameon=False)
show(
    figure,
    "Six words. The gradient of each equals its probability, except for word 2, the target, "
    "where it is negative: its probability minus 1.",
)

# %% [markdown]
# ### Exercise 08.2 ★★☆ The gradient of the mean loss
#
# A model is trained on the *mean* loss over all N positions. Return the gradient of this mean with respect to
# the logits, an array (..., V). Scores of 10,000 must work here too.
#
# <details><summary>Hint</summary>
#
# First compute the softmax at every position. Then subtract 1 at each target: compare `np.arange(V)` with
# `targets[..., None]`. Last, what share has each position in a mean?
#
# </details>


# %% tags=["exercise"]
def cross_entropy_backward(logits, targets):
    """Return the gradient of the mean of cross_entropy(logits, targets): (..., V)."""
    # SOLUTION
    e = np.exp(logits - logits.max(axis=-1, keepdims=True))
    p = e / e.sum(axis=-1, keepdims=True)
    hit = np.arange(logits.shape[-1]) == targets[..., None]
    return (p - hit) / targets.size
    # END


# %%
check.ex_08_2(cross_entropy_backward)

# %% [markdown]
# Compare both with `ops.cross_entropy`, the rule with which every model of this project is trained:

# %%
logits, targets = rng.standard_normal((3, 4, V)), rng.integers(V, size=(3, 4))
tape = Tensor(logits, requires_grad=True)
losses = ops.cross_entropy(tape, targets)  # (3, 4)
losses.mean().backward()
assert np.abs(cross_entropy(logits, targets) - losses.data).max() < 1e-12
assert np.abs(cross_entropy_backward(logits, targets) - tape.grad).max() < 1e-12

# %% [markdown]
# Losses are often given as *perplexity*, the exponential of the mean loss. A model of perplexity 8 is as
# uncertain as someone who guesses the throw of a fair die with eight faces.
#
# $$ \mathrm{perplexity} = \exp\Big(\frac1N \sum_{i=1}^N -\log p_i\Big) = \Big(\prod_i \frac1{p_i}\Big)^{1/N} $$
#
# First take the mean, then the exponential. In the other order a few large losses would dominate the result.

# %%
p_i = np.array([1.0, 0.5, 0.25, 1.0, 0.125])  # of five targets
perplexity = math.exp(np.mean(-np.log(p_i)))
assert abs(perplexity - np.prod(1 / p_i) ** (1 / 5)) < 1e-12
assert np.mean(1 / p_i) > 1.3 * perplexity  # the other order
uniform = cross_entropy(np.zeros((4, 472)), np.array([0, 5, 100, 471]))
assert abs(math.exp(uniform.mean()) - 472) < 1e-9  # equal scores: a die with V faces

# %% [markdown]
# ## 3. AdamW: a step size for every parameter
#
# Gradient descent takes a step of $\eta$ times the gradient. But between parameters the size of the gradients
# can differ by a factor of thousands, and then no single $\eta$ suits all of them. AdamW keeps two moving
# averages for each parameter, called its moments: $m$, the mean of its gradient $g$, and $v$, the mean of the
# squared gradient. The root of $v$ is the typical size of this parameter's gradients. The step is
# proportional to $m$ divided by this root.
#
# $$ m_t = \beta_1 m_{t-1} + (1 - \beta_1)\, g_t, \qquad v_t = \beta_2 v_{t-1} + (1 - \beta_2)\, g_t^2 $$
#
# Both start at 0, so at first they are too small. By what factor? Insert the formula for $m_{t-1}$, then that
# for $m_{t-2}$, and so on down to $m_0 = 0$:
#
# $$ m_t = (1 - \beta_1) \sum_{i=1}^{t} \beta_1^{t-i} g_i, \qquad
#    (1 - \beta_1) \sum_{i=1}^{t} \beta_1^{t-i} = 1 - \beta_1^t $$
#
# The weights of the gradients form a geometric series. They add up to $1 - \beta_1^t$ and not to 1. So we
# divide by that:
#
# $$ \hat m_t = \frac{m_t}{1 - \beta_1^t}, \qquad \hat v_t = \frac{v_t}{1 - \beta_2^t} $$

# %%
beta1, steps = 0.9, 40
g = 1.0 + 0.5 * rng.standard_normal(steps)  # a noisy gradient whose mean is 1
m, plain, corrected = 0.0, [], []
for t in range(1, steps + 1):
    m = beta1 * m + (1 - beta1) * g[t - 1]
    weights = (1 - beta1) * beta1 ** np.arange(t - 1, -1, -1.0)
    assert abs(m - weights @ g[:t]) < 1e-12
    assert abs(weights.sum() - (1 - beta1**t)) < 1e-12
    plain.append(m)
    corrected.append(m / (1 - beta1**t))
assert abs(corrected[0] - g[0]) < 1e-12  # after one step: that gradient
assert abs(corrected[-1] - plain[-1]) < 0.05  # after many: no difference

figure, axes = viz.panels("step t", "moving average of g")
axes.plot(range(1, steps + 1), g, ".", color=viz.INK, label="g")
axes.plot(range(1, steps + 1), plain, "--", label="m, starts at 0")
axes.plot(range(1, steps + 1), corrected, "-", label="m / (1 - β₁ᵗ)")
axes.legend(frameon=False)
show(
    figure,
    "Noisy gradients around 1. The plain average needs some twenty steps to rise from 0 to "
    "them. The corrected one is close to them from the first step.",
)

# %% [markdown]
# The update has two parts, with the learning rate $\eta$. First each parameter shrinks by the share
# $\eta \lambda$. This is *weight decay*: it keeps a parameter from growing unless the data require it. Then
# comes the step:
#
# $$ \theta \leftarrow \theta\, (1 - \eta \lambda), \qquad
#    \theta \leftarrow \theta - \eta\, \frac{\hat m_t}{\sqrt{\hat v_t} + \varepsilon} $$
#
# ### Exercise 08.3 ★★★ One step of AdamW
#
# Return the tuple of the new parameter and both new moments, `(theta, m, v)`. `t` is the number of this step;
# the first step has t = 1. `theta`, `g`, `m` and `v` are arrays of one shape.
#
# <details><summary>Hint</summary>
#
# Five lines, one for each formula: m, v, the two corrections, and the update. Return the uncorrected moments,
# because the next step starts from them. $\varepsilon$ is added to the root, not under it.
#
# </details>


# %% tags=["exercise"]
def adamw(theta, g, m, v, t, lr, betas=(0.9, 0.95), weight_decay=0.1, eps=1e-8):
    """Return (theta, m, v) after step t, all of the shape of theta; g is the gradient."""
    # SOLUTION
    beta1, beta2 = betas
    m = beta1 * m + (1 - beta1) * g
    v = beta2 * v + (1 - beta2) * g * g
    m_hat, v_hat = m / (1 - beta1**t), v / (1 - beta2**t)
    theta = theta * (1 - lr * weight_decay) - lr * m_hat / (np.sqrt(v_hat) + eps)
    return theta, m, v
    # END


# %%
check.ex_08_3(adamw)

# %% [markdown]
# Over twenty steps your function gives the same numbers as the project's optimiser:

# %%
theta = rng.standard_normal((3, 4))
m, v = np.zeros((2, 3, 4))
parameter = nn.Parameter(theta)
optimizer = AdamW([parameter], lr=0.01)
for t in range(1, 21):
    g = rng.standard_normal((3, 4))
    theta, m, v = adamw(theta, g, m, v, t, lr=0.01)
    parameter.grad = g
    optimizer.step()
assert np.abs(theta - parameter.data).max() < 1e-12

# %% [markdown]
# AdamW has three properties that matter in practice, as long as the gradient is well above $\varepsilon$.
#
# * Apart from the decay, the first step has size $\eta$ *whatever the gradient is*, because $\hat m = g$ and
#   $\sqrt{\hat v} = |g|$.
# * If the gradients of all steps are a thousand times larger, the steps stay the same.
# * The decay is *decoupled*: it is not divided by $\sqrt{\hat v}$. "L2 regularisation" instead adds
#   $\lambda \theta$ to the gradient. Then parameters with large gradients hardly decay.
#
# The code below tests the first property with gradients of three sizes, and compares the two kinds of decay:

# %%
zero = np.zeros(2)
for scale in (1e-3, 1.0, 1e3):
    g = scale * np.array([1.0, -2.0])
    first, _, _ = adamw(zero, g, zero, zero, 1, lr=0.01, weight_decay=0.0)
    assert np.abs(first - [-0.01, 0.01]).max() < 1e-6

decoupled = inside = np.ones(2)
m, v, m_in, v_in = np.zeros((4, 2))
for t in range(1, 201):
    g = np.array([1.0, 100.0]) * (-1) ** t  # alternating signs: only the decay has a direction
    decoupled, m, v = adamw(decoupled, g, m, v, t, lr=0.01, weight_decay=0.5)
    g = g + 0.5 * inside  # L2
    inside, m_in, v_in = adamw(inside, g, m_in, v_in, t, lr=0.01, weight_decay=0.0)
print("a parameter of 1.0 after 200 steps, for gradients of size 1 and of size 100")
print(f"decoupled      {decoupled[0]:.2f}  {decoupled[1]:.2f}")
print(f"in the gradient {inside[0]:.2f}  {inside[1]:.2f}")
assert np.abs(decoupled - 0.37).max() < 0.05  # the same for both
assert inside[0] < 0.5 and inside[1] > 0.9

# %% [markdown]
# An example with two parameters shows the effect: a long valley, a hundred times steeper across than along.
# Gradient descent needs a small step because of the steep direction. Even so it jumps from wall to wall, and
# along the valley it is slow.

# %%
curvature = np.array([1.0, 100.0])
valley = lambda at: 0.5 * (at**2 * curvature).sum(axis=-1)
descent, adam = [np.array([-4.0, 0.7])], [np.array([-4.0, 0.7])]
m, v = np.zeros((2, 2))
for t in range(1, 41):
    descent.append(descent[-1] - 0.018 * curvature * descent[-1])
    after, m, v = adamw(adam[-1], curvature * adam[-1], m, v, t, lr=0.15, weight_decay=0.0)
    adam.append(after)
descent, adam = np.array(descent), np.array(adam)
figure, axes = viz.panels("along the valley", "across it", size=(8.0, 3.4))
grid_x, grid_y = np.meshgrid(np.linspace(-4.5, 1.5, 80), np.linspace(-0.8, 0.9, 80))
heights = valley(np.stack([grid_x, grid_y], axis=-1))
axes.contour(grid_x, grid_y, heights, np.geomspace(0.1, 60, 9), colors=viz.INK, linewidths=0.8)
axes.plot(*descent.T, **viz.STYLES[1], markersize=3, linewidth=0.8, label="gradient descent")
axes.plot(*adam.T, **viz.STYLES[0], markersize=3, linewidth=0.8, label="AdamW")
axes.plot(0, 0, "*", markersize=12)
axes.legend(frameon=False, loc="lower right")
show(
    figure,
    "Level lines of a long valley with its lowest point marked. Gradient descent jumps "
    "from side to side and after forty steps is only half way along. AdamW oscillates less "
    "and after forty steps is slightly past the lowest point.",
)
heights = valley(descent[-1]), valley(adam[-1])
print("height after 40 steps: gradient descent {:.3f}, AdamW {:.3f}".format(*heights))
assert valley(adam[-1]) < 0.5 * valley(descent[-1])

# %% [markdown]
# ## 4. Clipping, and the schedule
#
# Occasionally a batch has a gradient ten or a hundred times as long as the others. Clipping limits the
# length. It multiplies all gradients by the same factor, so their direction stays the same. The norm is taken
# over all parameters together:
#
# $$ g \leftarrow g \cdot \min\Big(1, \frac{\mathrm{max\_norm}}{\lVert g \rVert}\Big), \qquad
#    \lVert g \rVert = \sqrt{\sum_{\text{all parameters}} g^2} $$

# %%
pair = [nn.Parameter(np.zeros(3)), nn.Parameter(np.zeros((2, 2)))]
optimizer = AdamW(pair, lr=0.01)
pair[0].grad, pair[1].grad = np.array([3.0, 0.0, 4.0]), np.full((2, 2), 6.0)
g = np.concatenate([q.grad.reshape(-1) for q in pair])
norm = optimizer.step(max_norm=1.0)
assert abs(float(norm) - math.sqrt(9 + 16 + 4 * 36)) < 1e-12
clipped = g * min(1.0, 1.0 / float(norm))
assert np.abs(optimizer.m - 0.1 * clipped).max() < 1e-6  # after one step m is (1 - β₁) g

# %% [markdown]
# AdamW divides by the size of the gradients anyway. Why clip then? Because one huge gradient makes $v$ large.
# It makes the following steps small for as long as the average with $\beta_2$ remembers it:

# %%
sizes = {}
for name, longest in (("not clipped", math.inf), ("clipped to 1", 1.0)):
    theta = m = v = np.zeros(1)
    sizes[name] = []
    for t in range(1, 121):
        g = 100.0 if t == 30 else 1.0  # one parameter, one bad batch
        before = theta
        g = np.array([min(g, longest)])
        theta, m, v = adamw(theta, g, m, v, t, lr=1.0, weight_decay=0.0)
        sizes[name].append((before - theta)[0])
figure, axes = viz.panels("step", "size of the step, in learning rates", size=(7.0, 3.2))
for style, (name, values) in zip(("--", "-"), sizes.items(), strict=True):
    axes.plot(range(1, 121), values, style, label=name)
axes.axvline(30, color=viz.INK, linestyle=":", label="a gradient of 100, the others are 1")
axes.set_ylim(0, 1.1)
axes.legend(frameon=False)
show(
    figure,
    "Steps of size 1. After the gradient of 100 at step 30 the steps without clipping fall "
    "to less than a fifth, and at step 120 they have not recovered. With clipping nothing "
    "changes.",
)
assert min(sizes["not clipped"]) < 0.3 and min(sizes["clipped to 1"]) > 0.99

# %% [markdown]
# The learning rate $\eta$ changes during training. At first $\hat v$ is the mean of only a few squared
# gradients, a poor estimate. So the rate rises linearly from near 0 to its peak over $W$ steps, the
# *warm-up*. At the end, the noise of the batches keeps the model from converging. So the rate falls again,
# along half a cosine. Of $n$ steps, at step $t = 1 .. n$:
#
# $$ \eta_t = \eta_\mathrm{peak} \cdot \begin{cases} t / W & t \le W \\
#    \frac12 \Big(1 + \cos\big(\pi\, \frac{t - W}{n - W}\big)\Big) & t > W \end{cases} $$
#
# ### Exercise 08.4 ★☆☆ The schedule
#
# Return the learning rate of step `t`, a float. `steps` is n and `warmup` is W. The warm-up may have 0 steps,
# or all n.
#
# <details><summary>Hint</summary>
#
# Use an `if` for each case. If you test `t <= warmup` first, you reach the second case only where n - W is
# positive. The cosine runs over the steps after the warm-up, from 1 to -1.
#
# </details>


# %% tags=["exercise"]
def schedule(t, steps, warmup, peak):
    """Return the learning rate of step t of 1 .. steps: a line up to peak, half a cosine to 0."""
    # SOLUTION
    if t <= warmup:
        return peak * t / warmup
    return peak * 0.5 * (1.0 + math.cos(math.pi * (t - warmup) / (steps - warmup)))
    # END


# %%
check.ex_08_4(schedule)

# %%
figure, axes = viz.panels("step", "learning rate", size=(6.0, 3.0))
for warmup, style in ((50, "-"), (0, "--")):
    rates = [schedule(t, 300, warmup, 3e-3) for t in range(1, 301)]
    axes.plot(range(1, 301), rates, style, label=f"warm-up of {warmup} steps")
axes.legend(frameon=False)
show(
    figure,
    "Over 300 steps: a line up to the peak at step 50, then half a cosine down to 0. Without "
    "warm-up the half cosine starts at once, just below the peak.",
)

# %% [markdown]
# ## 5. A large batch in small parts
#
# A batch may need more memory than there is. The gradient is a sum over tokens, so the batch can be processed
# in parts. The mean over all N tokens is the sum of the parts' means, each multiplied by its share of the
# tokens, $N_k / N$:
#
# $$ \mathrm{loss} = \frac1N \sum_{i=1}^N \ell_i = \sum_k \frac{N_k}{N}\, \mathrm{loss}_k, \qquad
#    \nabla \mathrm{loss} = \sum_k \frac{N_k}{N}\, \nabla \mathrm{loss}_k $$
#
# The shares matter, because texts have different lengths. (A target of -1 means "nothing to predict here".)
# The plain mean of the parts' means is a different number and has a different gradient.

# %%
tiny = GAMConfig(vocab_size=20, block_size=12, d_model=16, n_layers=2, n_slots=8, dropout=0.0)
model = GAM(tiny, seed=0, dtype="float64")
ids, targets = rng.integers(20, size=(2, 8, 12))
for row in range(8):
    targets[row, 3 + row :] = -1  # rows of 3 to 10 targets
N = (targets >= 0).sum()


def gradient(parts, share):
    """Return all gradients in one array: the sum over the parts, each times its share."""
    model.zero_grad()
    for part in parts:
        model.loss(ids[part], targets[part]).backward(share(part))
    return np.concatenate([q.grad.reshape(-1) for q in model.parameters()])


halves = (slice(0, 4), slice(4, 8))
whole = gradient([slice(0, 8)], lambda part: 1.0)
by_share = gradient(halves, lambda part: (targets[part] >= 0).sum() / N)
mean_of_means = gradient(halves, lambda part: 0.5)
error = lambda g: np.abs(g - whole).max()
print(f"error {error(by_share):.0e} with the shares, {error(mean_of_means):.0e} without")
assert error(by_share) < 1e-12
assert error(mean_of_means) > 1e-5

# %% [markdown]
# `train_step` does that and everything above: forward, backward in parts, clip, update. With dropout the
# parts make no difference either, because the mask depends only on the place in the batch (notebook 07).

# %%
ends = {}
for micro_batch in (8, 3, 1):
    noisy = GAM(replace(tiny, dropout=0.2), seed=0, dtype="float64")
    optimizer = AdamW(noisy.parameters(), lr=1e-3)
    for _ in range(3):
        ends[micro_batch] = train_step(noisy, optimizer, ids, targets, micro_batch)
    print(f"loss of the third step, {micro_batch} rows at a time: {ends[micro_batch]:.10f}")
assert max(ends.values()) - min(ends.values()) < 1e-9

# %% [markdown]
# ## 6. The first thing to do with a new model: overfit one batch
#
# Before a long training run, train on one small batch again and again. A model with more parameters than the
# batch has tokens should be able to memorise it. If the loss does not fall to nearly 0, something is wrong,
# and you find it in seconds: a gradient with the wrong sign, targets shifted by one, a layer that is not
# connected.

# %%
little = from_pocketstories(128, n_train=4, n_valid=40)
ids, targets = inputs_and_targets(little.train)
size = {"vocab_size": len(little.tokenizer), "block_size": 128, "d_model": 64, "n_layers": 2}
pupil = GAM(GAMConfig(**size, n_slots=32, kernel_size=4, dropout=0.0, position_std=0.3), seed=0)
optimizer = AdamW(pupil.parameters(), lr=1e-2)
by_heart = [train_step(pupil, optimizer, ids, targets) for _ in tqdm(range(60), leave=False)]

# %% [markdown]
# The lowest possible loss on the batch can be computed. Two stories that start alike and continue differently
# cannot both be memorised. The model sees the position and the last 1 + L (K - 1) tokens. Where these are
# equal in several rows, the best prediction gives each continuation its share:

# %%
together = {}
for row, place in zip(*np.nonzero(targets >= 0), strict=True):
    seen = (place, *ids[row, max(0, place - pupil.reach + 1) : place + 1])
    together.setdefault(seen, []).append(targets[row, place])
total_nats = 0.0
for continuations in together.values():
    counts = np.unique(continuations, return_counts=True)[1]
    total_nats -= (counts * np.log(counts / counts.sum())).sum()
lowest = total_nats / (targets >= 0).sum()
unseen, uniform_loss = validation.evaluate(pupil, little)["loss"], math.log(len(little.tokenizer))
print(f"first loss {by_heart[0]:.2f}, last {by_heart[-1]:.3f}, lowest possible {lowest:.3f}")
print(f"on new stories {unseen:.2f}; equal scores for all words give log V = {uniform_loss:.2f}")
assert lowest - 1e-3 < by_heart[-1] < lowest + 0.1
assert unseen > uniform_loss

figure, axes = viz.panels("step", "loss on the batch (nats per token)")
axes.semilogy(range(1, 61), by_heart, "-")
axes.axhline(lowest, color=viz.INK, linestyle="--", label=f"lowest possible, {lowest:.3f}")
axes.legend(frameon=False)
show(
    figure,
    "The loss on one batch falls from about 6 nats to the dashed line, the lowest possible "
    "loss, within sixty steps.",
)

# %% [markdown]
# The test shows that the steps reduce the loss, that inputs and targets fit together, and that the model can
# represent the batch. It does not show that the model has learned anything useful. On new stories this model
# is *worse than one that gives all words the same score*, whose loss is log V: it is certain of what it has
# memorised. And one mistake makes this test even easier: a model that can see its target. The test of
# causality in notebook 09 finds it.

# %% [markdown]
# ## 7. A corpus with a known floor
#
# Is a loss of 0.6 good? For ordinary text nobody knows, because nobody knows how much of it is predictable.
# [PocketStories](../minigam/data/pocketstories.py) is written by a program that makes random choices, so the
# lowest possible loss is known exactly.
#
# Let the words of a text have the probabilities $q$, and let a model predict $p$. Its mean loss is the
# *entropy* of $q$ plus the divergence of $p$ from $q$, which is never negative. So the entropy is the floor
# of the loss. ($\mathrm{E}_q$ is the mean over words drawn with the probabilities $q$.)
#
# $$ \mathrm{E}_q[-\log p] = \underbrace{\mathrm{E}_q[-\log q]}_{\text{entropy, the floor}}
#    + \underbrace{\mathrm{E}_q\Big[\log \frac{q}{p}\Big]}_{\ge\, 0} $$
#
# The divergence is never negative because $\log x \le x - 1$. So
# $\mathrm{E}_q[\log \frac pq] \le \sum_v q_v \big(\frac{p_v}{q_v} - 1\big) = 1 - 1 = 0$.

# %%
for _ in range(200):
    q, p = rng.dirichlet(np.ones(8), size=2)
    entropy, divergence = -(q * np.log(q)).sum(), (q * np.log(q / p)).sum()
    assert abs(-(q * np.log(p)).sum() - (entropy + divergence)) < 1e-9
    assert divergence >= 0

# %% [markdown]
# The random choices are written as a grammar. (Punctuation marks count as words.) `[ a | b ]` is a choice
# between a and b. `2:` makes an option twice as likely. `{new feeling}` chooses one of eight feelings, and
# `{feeling}` repeats it later. This is the rule for a story's mood:

# %%
print(pocketstories.RULES["mood"])
story = next(pocketstories.stories(1, seed=1))
mood = next(i for i, word in enumerate(story) if word.text == "But")
for word in story[mood : mood + 12]:
    print(f"{word.text:8} probability {math.exp(-word.nats):.3f}, {word.nats:.3f} nats")
assert abs(story[mood + 1].nats - math.log(4)) < 1e-9  # one of four, equally likely
feeling = next(word for word in story[mood:] if word.text == story[-4].text)  # felt sad
assert abs(feeling.nats - math.log(8)) < 1e-9

# %% [markdown]
# One property makes the floor exact: the options of a choice always start with different words. So the first
# word after a choice shows its result. Given all words before it, this word has the probability of the
# choices just made, and every other word has probability 1. The product along a story is the probability of
# the story.
#
# Each word has one of three kinds. At a **choice** word something was chosen at random. A **syntax** word
# follows from the last 13 tokens. A **recall** word follows from something further back: who the hero is, or
# what was lost. For syntax and recall the floor is 0. Here is a story with [choices] and {recalls} marked:

# %%
marked = ("{}", "[{}]", "{{{}}}")  # syntax, choice, recall
words = [marked[pocketstories.kind_of(word)].format(word.text) for word in story]
print(textwrap.fill(" ".join(words), 92))
nats = np.array([word.nats for word in story])
print(f"\n{len(story)} words, {(nats > 0).sum()} choices, {nats.sum():.1f} nats in all")
print(f"its probability is e^-{nats.sum():.1f}, 1 in {math.exp(nats.sum()):.0e}")
recalls = [word for word in story if pocketstories.kind_of(word) == 2]
assert all(word.nats == 0 and word.lookback > pocketstories.REACH for word in recalls)

# %% [markdown]
# ### Exercise 08.5 ★★☆ The floor of a text
#
# `stories` is a list of stories, and each story is a list of the probabilities of its words. Return the pair
# of the floor, in nats per word over all words of all stories, and its perplexity.
#
# <details><summary>Hint</summary>
#
# A word with probability 1 has 0 nats, but it counts as a word. Long stories have more words than short ones,
# so do not take the mean of the stories' means.
#
# </details>


# %% tags=["exercise"]
def floor_of(stories):
    """Return (floor in nats per word, its perplexity); stories are lists of probabilities."""
    # SOLUTION
    nats = [-math.log(p) for story in stories for p in story]
    floor = sum(nats) / len(nats)
    return floor, math.exp(floor)
    # END


# %%
check.ex_08_5(floor_of)

# %% [markdown]
# Over many stories the floor approaches the entropy of the grammar. That can be computed from the rules,
# without a single story. (Each story has one more word, the end mark, with probability 1.)

# %%
probabilities = lambda story: [math.exp(-word.nats) for word in story] + [1.0]  # and the end mark
several = [probabilities(story) for story in pocketstories.stories(400, seed=1)]
floor, floor_perplexity = floor_of(several)
expected_nats, expected_words = pocketstories.grammar().entropy()
print(f"floor {floor:.4f} nats per word, perplexity {floor_perplexity:.3f}")
print(f"the grammar: {expected_nats:.2f} nats a story, of {expected_words:.1f} words")
assert abs(floor - expected_nats / (expected_words + 1)) < 0.02 * floor

# %% [markdown]
# ## 8. The default run
#
# `trained()` returns the GAM that `make train` makes: 4 layers with kernel size 4, so that it sees 13 tokens;
# 300 steps of 16 stories. The first call trains it, which takes a minute or two.

# %%
run, model, corpus = trained()
metrics, settings = run.metrics(), run.config.train
rates = {line["step"]: line["lr"] for line in metrics if "lr" in line}
for t, rate in rates.items():  # the run followed your schedule
    assert abs(rate - schedule(t, settings.steps, settings.warmup_steps, settings.lr)) < 1e-12
assert model.reach == 1 + 4 * (4 - 1) == pocketstories.REACH
assert abs(metrics[0]["loss"] - math.log(len(corpus.tokenizer))) < 0.5  # log V: notebook 07
show(
    viz.loss_plot(metrics),
    "Left: training and validation loss fall from about 6 nats to about 0.6 and stay above "
    "the floor of 0.42. Right, by kind: choice and syntax come close to their dashed floors. "
    "Recall stops at 2 nats, although its floor is 0.",
)

# %% [markdown]
# Now compute the loss of every word of some validation stories, and compare it with the floor:

# %%
rows = 192
ids, targets = inputs_and_targets(corpus.valid[:rows])
losses = np.empty(targets.shape)
with no_grad():
    for start in tqdm(range(0, rows, 16), leave=False):
        part = slice(start, start + 16)
        losses[part] = model.token_losses(ids[part], targets[part]).numpy()
counted, kinds, floors = targets >= 0, corpus.kinds[:rows], corpus.floor[:rows]
own_floor, _ = floor_of(several[:rows])  # your floor, of the same stories
assert abs(floors[counted].mean() - own_floor) < 1e-9

by_kind = {}
print("kind       words    loss   floor   above   perplexity")
for i, kind in enumerate(pocketstories.KINDS):
    here = counted & (kinds == i)
    by_kind[kind] = losses[here].mean(), floors[here].mean(), here.sum()
for kind, here in (("not recall", counted & (kinds != 2)), ("all", counted)):
    by_kind[kind] = losses[here].mean(), floors[here].mean(), here.sum()
for kind, (loss, low, n) in by_kind.items():
    print(f"{kind:10} {n:6,} {loss:7.3f} {low:7.3f} {loss - low:7.3f} {math.exp(loss):9.2f}")

loss, low, _ = by_kind["not recall"]
assert low < loss < 1.1 * low  # close to the lowest possible loss
assert by_kind["syntax"][0] < 0.05
assert by_kind["recall"][0] > 1.0 and by_kind["recall"][1] == 0.0
assert 4 < math.exp(by_kind["recall"][0]) < 12

# %% [markdown]
# After 300 steps the model is within a few per cent of perfect where the last 13 tokens determine the word.
# Where they do not, it guesses: its perplexity is about seven, and there are eight friends, eight places,
# twelve names. More training could improve the guess a little, but not turn it into knowledge. Only the
# convolutions carry information between tokens, and they reach no further than 13 tokens. Notebook 09 proves
# it.
#
# One story word by word. The bars are the floor, the part of the loss that no model can avoid:

# %%
length = counted[0].sum()
place = np.arange(length)
figure, axes = viz.panels("word of the story", "loss (nats)", size=(10.0, 3.8))
axes.bar(place, floors[0, :length], color=viz.INK, alpha=0.4, label="floor")
for kind, style, label in ((0, ".", "syntax"), (1, "o", "choice"), (2, "^", "recall")):
    at = place[kinds[0, :length] == kind]
    axes.plot(at, losses[0, at], style, markersize=4, label=label)
for at in place[kinds[0, :length] == 2]:
    word = corpus.tokenizer.vocabulary[targets[0, at]]
    axes.annotate(
        word, (at, losses[0, at]), xytext=(0, 6), textcoords="offset points",
        ha="center", rotation=90, fontsize=8,
    )  # fmt: skip
axes.set_ylim(-0.15, losses[0, :length].max() + 1.2)
axes.legend(frameon=False, ncols=4, loc="upper right", fontsize=8)
show(
    figure,
    "Along one story the model's losses at choices lie near the tops of the floor's bars, and "
    "those of syntax nearly all at 0. Names and other recall words, written above their "
    "triangles, cost up to three nats although their floor is 0.",
)

# %% [markdown]
# Here is a story that the model writes. Each word is drawn from the model's own probabilities:

# %%
end = corpus.tokenizer.end
written = model.generate(np.full((16, 1), end), 127, seed=8)  # (16, 128): 16 stories at once


def first_story(ids):
    """Return the ids of a row between its first two end marks."""
    stop = [*np.flatnonzero(ids[1:] == end), len(ids) - 1][0]
    return ids[1 : 1 + stop]


print(textwrap.fill(corpus.tokenizer.decode(first_story(written[0])), 92))

# %% [markdown]
# The grammar is right and the plot is in order, but the characters change within the story. This can be
# counted: how many different heroes does a story name?

# %%
heroes = {hero["name"] for hero in pocketstories.SLOTS["hero"]}
named = lambda ids: len({corpus.tokenizer.vocabulary[i] for i in ids if i >= 0} & heroes)
true = [named(row) for row in corpus.valid[:200]]
made = [named(first_story(row)) for row in written]
print(f"heroes a story: {np.mean(true):.2f} in the corpus, {np.mean(made):.2f} in its own")
assert set(true) == {1}
assert np.mean(made) > 1.5

# %% [markdown]
# ## What you can do now
#
# You can
#
# * write the loss and its gradient, AdamW, clipping and the schedule, equal to the project's,
# * test a training program by overfitting one batch on purpose, and
# * compare a loss with the lowest possible one before you judge it.
#
# ## Think about it
#
# No check can answer these. Write down your answer, or discuss it with someone.
#
# 1. The loss has stopped falling. Name three reasons, and a measurement that tells them apart.
# 2. Real text has no known entropy floor. How would you still estimate how much there is left to learn?
#
# ## Read on
#
# In the code:
#
# * `minigam/training/optim.py`, `step.py` and `loop.py`
# * `minigam/data/pocketstories.py` and `grammar.py`
#
# Elsewhere:
#
# * [Decoupled Weight Decay Regularization, AdamW](https://arxiv.org/abs/1711.05101)
# * [Adam](https://arxiv.org/abs/1412.6980)
# * [SGDR, the cosine schedule](https://arxiv.org/abs/1608.03983)
# * [On the Difficulty of Training Recurrent Neural Networks, clipping](https://arxiv.org/abs/1211.5063)
# * [TinyStories](https://arxiv.org/abs/2305.07759)
