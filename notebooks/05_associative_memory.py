# %% [markdown]
# # 05 · The associative memory
#
# **Goal.** Derive, code and check the global half of a GAM block: a token asks a learned memory, and gets
# back a mix of what is stored there (equations E3, E4, E5 of notebook 00). At the end you will have written the
# recall and its gradient by hand, and seen that the same three lines repair a damaged picture.
#
# **Time.** 75 minutes, 5 exercises. **Needs** 01 (the tape) and 02 (gradient checks). Letters: B batch, T tokens,
# C channels, S memory slots.

# %% tags=["setup"]
import numpy as np

from minigam import Tensor, gradcheck, sequence, viz
from minigam.course import check, library, show

# %% [markdown]
# `library()` is the array library of notebook 03: CuPy where there is a GPU, NumPy otherwise. Every line below runs
# on both. NumPy draws the random numbers, so that both begin with the same ones.

# %%
xp = library()
rng = np.random.default_rng(5)
B, T, C, S = 2, 5, 4, 3
u = xp.asarray(rng.standard_normal((B, T, C)))  # what the tokens ask
M = xp.asarray(rng.standard_normal((S, C)))  # S slots of C numbers

# %% [markdown]
# ## 1. Asking: how well does each slot fit?
#
# A Python dictionary answers only if a key is *equal* to what you ask. A differentiable one cannot be so
# strict: a step from "equal" to "not equal" has no useful gradient. So every slot is compared with the
# question by a dot product, and all of them answer a little.
#
# E3 compares each token $u_{bt}$, C numbers that come out of E1, with each slot $M_s$, a row of M:
#
# $$ s = u\, M^\top, \qquad s_{bts} = \sum_{c} u_{btc}\, M_{sc} $$

# %%
s = u @ M.T  # (B, T, S)
by_hand = sum(u[0, 1, c] * M[2, c] for c in range(C))  # batch 0, token 1, slot 2
assert s.shape == (B, T, S)
assert abs(float(s[0, 1, 2] - by_hand)) < 1e-12

# %% [markdown]
# Attention (notebook 10) divides by $\sqrt{C}$ here. GAM does not: M is learned, so training can choose its own scale.

# %% [markdown]
# ## 2. Choosing: shares that add up to one
#
# E4 turns the S scores of a token into shares, all above 0, that add up to 1:
#
# $$ a = \mathrm{softmax}(s), \qquad a_{bts} = \frac{e^{s_{bts}}}{\sum_{s'} e^{s_{bts'}}} $$
#
# ### Exercise 05.1 ★☆☆ The shares
#
# Write the softmax over the **last** axis, for an array of any number of axes. Scores may be large: with
# $s = 1000$ a plain `np.exp(s)` overflows.
#
# <details><summary>Hint</summary>
#
# Divide numerator and denominator by the same $e^m$: no share changes, and every exponent becomes $s - m$. Which $m$
# makes the largest exponent of a token 0? And `keepdims=True` leaves an axis of length 1 behind, over which NumPy
# repeats what it needs.
#
# </details>


# %% tags=["exercise"]
def softmax(s):
    """Return the softmax of s over its last axis: (..., S) -> (..., S)."""
    # SOLUTION
    e = np.exp(s - s.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)
    # END


# %%
check.ex_05_1(softmax)

# %%
a = softmax(s)  # (B, T, S)
assert bool((a > 0).all())
assert float(abs(a.sum(axis=-1) - 1.0).max()) < 1e-12

# %% [markdown]
# ## 3. Answering: a mix of the slots
#
# E5 mixes the slots by their shares. What a question is compared with is called a key, what is given back a value. A
# dictionary stores both; here the same M that was compared with now answers, so keys and values are one.
#
# $$ \mathrm{global\_context} = a\, M, \qquad \mathrm{global\_context}_{btc} = \sum_{s} a_{bts}\, M_{sc} $$

# %%
global_context = a @ M  # (B, T, C)
assert global_context.shape == u.shape
assert bool((global_context <= M.max(axis=0) + 1e-12).all())  # a mix of the slots lies between them
assert bool((global_context >= M.min(axis=0) - 1e-12).all())

# %% [markdown]
# With two channels that can be drawn. The answers lie in the triangle between the three slots and never leave it,
# wherever the question lies.

# %%
corners = np.array([[2.0, 0.0], [-1.0, 1.8], [-1.0, -1.8]])  # three slots
questions = rng.standard_normal((400, 2)) * 2.0
answers = softmax(questions @ corners.T) @ corners
figure, axes = viz.panels("channel 0", "channel 1", size=(5.0, 4.2))
axes.plot(*questions.T, ".", color=viz.INK, label="questions u")
axes.plot(*answers.T, ".", markersize=4, label="answers a M")
axes.plot(*corners.T, "^", markersize=9, label="slots of M")
axes.set_aspect("equal")
axes.legend(frameon=False)
show(
    figure,
    "Grey points, the questions, lie all over the plane. The answers lie inside the triangle of the three slots.",
)

# %% [markdown]
# ### Exercise 05.2 ★☆☆ Recall
#
# Put E3, E4 and E5 together. Your `softmax` may help.
#
# <details><summary>Hint</summary>
#
# Three lines, one for each equation. The first and the last are `@`; only one of them needs a transpose.
#
# </details>


# %% tags=["exercise"]
def recall(u, M):
    """Ask the memory M (S, C) what it holds for each token of u (B, T, C); return (B, T, C)."""
    # SOLUTION
    s = u @ M.T  # E3
    a = softmax(s)  # E4
    return a @ M  # E5
    # END


# %%
check.ex_05_2(recall)

# %% [markdown]
# This is `sequence.associative_memory`, the rule that every GAM of this project runs. And it is a function of one
# token alone: change token 2, and no other answer moves by a single bit. Whatever a memory is good for, it carries
# nothing from one token to another.

# %%
assert float(abs(recall(u, M) - sequence.associative_memory(Tensor(u), Tensor(M)).data).max()) < 1e-12
changed = u.copy()
changed[:, 2] += 1.0
moved = abs(recall(changed, M) - recall(u, M)).max(axis=(0, 2)) > 0  # (T)
print("moved:", [bool(m) for m in moved])
assert [bool(m) for m in moved] == [False, False, True, False, False]

# %% [markdown]
# ## 4. The gradient: one memory, two roads
#
# Write $dz = \partial L / \partial z$ for the gradient of a loss L with respect to any $z$. First the softmax of one
# token alone. Raise one score $s_j$ a little: its share grows at the cost of all others. In
# $a_i = e^{s_i} / \sum_k e^{s_k}$ the denominator always depends on $s_j$, the numerator only if $i = j$. So, by the
# quotient rule, with $1[i = j]$ for 1 where $i = j$ and 0 elsewhere:
#
# $$ \frac{\partial a_i}{\partial s_j} = a_i\,(1[i = j] - a_j), \qquad\text{so}\qquad
#    ds_j = \sum_i da_i\, \frac{\partial a_i}{\partial s_j} = a_j \Big(da_j - \sum_i da_i\, a_i\Big) $$

# %%
row, da_row = softmax(rng.standard_normal(S)), rng.standard_normal(S)  # the shares of one token
jacobian = row[:, None] * (np.eye(S) - row)  # (i, j)
ds_row = da_row @ jacobian
assert np.abs(ds_row - row * (da_row - (da_row * row).sum())).max() < 1e-12
assert abs(ds_row.sum()) < 1e-12, "adding the same number to all scores changes no share"

# %% [markdown]
# Two of the three lines are matrix products. In $y = p\,q$ the entry $p_{ik}$ reaches each $y_{ij}$ through $q_{kj}$, so
# $dp_{ik} = \sum_j dy_{ij}\, q_{kj}$, which is $dp = dy\, q^\top$; in the same way $dq = p^\top dy$. Call the answer
# $y = \mathrm{global\_context}$ and walk from its gradient $dy$ back through E5, E4 and E3 ($\odot$ multiplies entry by
# entry, the sum is over the slots of each token):
#
# $$ da = dy\, M^\top, \qquad ds = a \odot \Big(da - \sum_{s'} da_{s'}\, a_{s'}\Big), \qquad du = ds\, M $$
#
# M was used twice, so its gradient has two terms, one for each use. All B T tokens share it and their gradients add up:
# take the tokens of all batches as the N = B T rows of one matrix. (E3 gives $d(M^\top) = u^\top ds$; transpose it.)
#
# $$ dM = \underbrace{a^\top dy}_{\text{as values, E5}} + \underbrace{ds^\top u}_{\text{as keys, E3}} $$

# %%
rows = lambda z: z.reshape(-1, z.shape[-1])  # (B, T, C) -> (N, C)
dy = xp.asarray(rng.standard_normal((B, T, C)))
da = dy @ M.T
ds = a * (da - (da * a).sum(axis=-1, keepdims=True))
du = ds @ M
as_values, as_keys = rows(a).T @ rows(dy), rows(ds).T @ rows(u)  # two terms, (S, C) each
dM = as_values + as_keys

tape_u, tape_M = Tensor(u, requires_grad=True), Tensor(M, requires_grad=True)
sequence.associative_memory(tape_u, tape_M).backward(dy)
assert float(abs(du - tape_u.grad).max()) < 1e-12
assert float(abs(dM - tape_M.grad).max()) < 1e-12

# %% [markdown]
# Neither term is small. Who thinks of M only as "the values", or only as "the keys", loses the other term. Their sizes
# (square root of the sum of squares):

# %%
size = lambda z: float((z * z).sum()) ** 0.5
print(f"as values {size(as_values):.2f}, as keys {size(as_keys):.2f}, together {size(dM):.2f}")
assert size(as_values - dM) > 0.05 * size(dM)
assert size(as_keys - dM) > 0.05 * size(dM)

# %% [markdown]
# ### Exercise 05.3 ★★★ Recall, backwards
#
# Write the gradient without looking at the cell above. `dy`, `u` and `M` are all you get: compute `a` again.
#
# <details><summary>Hint</summary>
#
# Go in the order `da`, `ds`, `du`, then `dM`. A matrix product `y = p @ q` gives `dp = dy @ q.T` and `dq = p.T @ dy`.
# M is an input of two products. For `dM`, make the tokens one axis first: `z.reshape(-1, z.shape[-1])`.
#
# </details>


# %% tags=["exercise"]
def recall_backward(dy, u, M):
    """Return (du, dM), the gradients of (dy * recall(u, M)).sum(): (B, T, C) and (S, C)."""
    # SOLUTION
    a = softmax(u @ M.T)  # (B, T, S)
    da = dy @ M.T  # y = a M, through a
    ds = a * (da - (da * a).sum(axis=-1, keepdims=True))  # a = softmax(s)
    du = ds @ M  # s = u M^T, through u
    rows = lambda z: z.reshape(-1, z.shape[-1])
    dM = rows(a).T @ rows(dy) + rows(ds).T @ rows(u)  # M as values, M as keys
    return du, dM
    # END


# %%
check.ex_05_3(recall_backward)

# %% [markdown]
# `gradcheck` compares the tape's gradient with finite differences, entry by entry: the check of notebook 02.

# %%
worst = gradcheck(sequence.associative_memory, tape_u, tape_M)
print(f"worst relative error {worst:.1e}")
assert worst < 1e-6

# %% [markdown]
# ## 5. How sharp is a memory? The temperature
#
# Multiply every score by a number $\beta$, the inverse temperature:
#
# $$ a = \mathrm{softmax}(\beta s) $$
#
# With $\beta = 0$ every slot has the same share; as $\beta$ grows, the best fitting slot takes all. GAM has
# $\beta = 1$ and no knob for it, and needs none: slots or questions of twice the length (as vectors) have scores twice
# as large, and training chooses that length.

# %%
for beta in (0.0, 0.5, 2.0, 40.0):
    a = softmax(beta * s)
    assert float(abs(a - softmax((beta * u) @ M.T)).max()) < 1e-12  # a longer question is sharper
    assert float(abs(a - softmax(u @ (beta * M).T)).max()) < 1e-12  # and so is a longer slot
assert float(abs(softmax(0.0 * s) - 1.0 / S).max()) < 1e-12

# %% [markdown]
# ### Exercise 05.4 ★★☆ How many slots answer?
#
# A number for it: the entropy of the shares, $H = -\sum_s a_s \log a_s$, in nats (natural logarithm). Its exponential
# counts slots: $k$ equal shares $1/k$ have $H = \log k$. So $e^H$ is 1 when one slot has everything, S when all have the
# same, and something between otherwise. Return $e^H$ for each token.
#
# <details><summary>Hint</summary>
#
# A share can be exactly 0 in floating point, and `0 * log(0)` is nan. The limit is 0: take the logarithm only
# where the share is above 0. `np.where(a > 0, ..., ...)` keeps the shape; `a[a > 0]` does not.
#
# </details>


# %% tags=["exercise"]
def slots_in_use(a):
    """Return exp(entropy) of shares a (..., S) over the last axis: (...), from 1 to S."""
    # SOLUTION
    positive = np.where(a > 0, a, 1.0)  # log 1 = 0, and 0 * 0 = 0
    return np.exp(-(a * np.log(positive)).sum(axis=-1))
    # END


# %%
check.ex_05_4(slots_in_use)

# %%
many = rng.standard_normal((64, 32))  # S = 64 slots of C = 32
asked = rng.standard_normal((200, 32))
betas = np.geomspace(0.01, 10.0, 25)
used = [slots_in_use(softmax(beta * asked @ many.T)).mean() for beta in betas]
figure, axes = viz.panels("inverse temperature β", "slots in use, exp(entropy)")
axes.semilogx(betas, used, **viz.STYLES[0], markersize=4)
axes.axvline(1.0, color=viz.INK, linestyle=":")
axes.annotate("β = 1, GAM", (1.0, 50.0), xytext=(6, 0), textcoords="offset points")
show(
    figure,
    "From 64 slots at a small β the number in use falls to nearly 1 at a large β; at 1, GAM's, a few are in use.",
)
assert used[0] > 60 and used[-1] < 2

# %% [markdown]
# ## 6. The Hopfield view: a memory that repairs
#
# Take the answer as the next question and ask again. That is a Hopfield network: it moves downhill on an energy $E$, and
# with a large enough $\beta$ it comes to rest near a stored pattern. For one question $x$, a column of C numbers
# ([Ramsauer et al.](https://arxiv.org/abs/2008.02217), up to a constant in $E$):
#
# $$ x \leftarrow M^\top \mathrm{softmax}(\beta M x), \qquad
#    E(x) = -\frac{1}{\beta}\log\sum_s e^{\beta M_s \cdot x} + \frac{1}{2}\, x \cdot x $$
#
# **One update with $\beta = 1$ is exactly E3, E4 and E5.** Why downhill? By the chain rule
# $\nabla E = x - M^\top \mathrm{softmax}(\beta M x)$, so the update is a gradient step of length 1: $x - \nabla E$. And no
# such step climbs. The first term of E is concave, so its tangent at $x$ lies nowhere below it. With the tangent in its
# place, E becomes a parabola that touches E at $x$, lies nowhere below it, and is lowest exactly at the update.

# %%
x = rng.standard_normal(C)
memory = rng.standard_normal((S, C))
beta = 1.0
update = memory.T @ softmax(beta * (memory @ x))


def energy_of(x):
    return -np.log(np.exp(beta * (memory @ x)).sum()) / beta + 0.5 * x @ x


assert np.abs(update - recall(x[None, None], memory)[0, 0]).max() < 1e-12
nudges = 1e-5 * np.eye(C)  # one channel at a time, as in notebook 02
slope = np.array([energy_of(x + e) - energy_of(x - e) for e in nudges]) / 2e-5
assert np.abs(update - (x - slope)).max() < 1e-6
assert energy_of(update) <= energy_of(x)

# %% [markdown]
# ### Exercise 05.5 ★★☆ The energy
#
# Write $E(x)$ for many questions at once, safely: with $\beta M_s \cdot x = 2000$ a plain `np.exp` overflows.
#
# <details><summary>Hint</summary>
#
# $\log \sum_s e^{z_s} = m + \log \sum_s e^{z_s - m}$ for any $m$. The softmax of 05.1 needed the same $m$.
#
# </details>


# %% tags=["exercise"]
def energy(x, M, beta):
    """Return E of each question x (..., C), for the patterns M (S, C): (...)."""
    # SOLUTION
    z = beta * (x @ M.T)  # (..., S)
    top = z.max(axis=-1)
    lse = top + np.log(np.exp(z - top[..., None]).sum(axis=-1))
    return -lse / beta + 0.5 * (x * x).sum(axis=-1)
    # END


# %%
check.ex_05_5(energy)

# %% [markdown]
# Now pictures: six patterns of 12 x 12 pixels, each -1 or 1, are stored as the slots of a memory. A question is a
# picture with its right half torn away (0 there) and noise on every pixel. A few recalls bring back the whole, because
# only one slot fits well what is left. A pattern times itself is 144, so with $\beta = 1$ the best slot would take all at
# once; $\beta = 0.04$ lets us watch.

# %%
side = 12
grid_y, grid_x = np.mgrid[:side, :side] - (side - 1) / 2
pictures = [
    np.hypot(grid_x, grid_y) < 4.5,
    np.abs(np.abs(grid_x) - np.abs(grid_y)) < 1.5,
    (np.abs(grid_x) < 1.5) | (np.abs(grid_y) < 1.5),
    np.maximum(np.abs(grid_x), np.abs(grid_y)) > 3.5,
    np.floor(grid_y / 2) % 2 == 0,
    np.floor(grid_x / 3) % 2 == 0,
]
patterns = np.where(np.array(pictures).reshape(6, -1), 1.0, -1.0)  # (S, C) = (6, 144)
torn = patterns.reshape(6, side, side).copy()
torn[:, :, side // 2 :] = 0.0
torn = torn.reshape(6, -1) + 0.7 * rng.standard_normal(patterns.shape)


def ask(x, beta, times):
    """Return the question and every answer that follows it, (times + 1, ..., C)."""
    asked = [x]
    for _ in range(times):
        asked.append(softmax(beta * asked[-1] @ patterns.T) @ patterns)
    return np.stack(asked)


assert softmax(torn @ patterns.T).max(axis=-1).min() > 0.99  # one slot takes all at β = 1
states = ask(torn, beta=0.04, times=5)
figure, grid = viz.panels(n=6, rows=2, size=(9.0, 3.4))
for picture in range(6):
    for row, state in zip(grid[:, picture], (states[0], states[-1]), strict=True):
        row.imshow(state[picture].reshape(side, side), cmap="gray", vmin=-1, vmax=1)
        row.set(xticks=[], yticks=[])
        row.grid(False)
grid[0, 0].set_ylabel("question")
grid[1, 0].set_ylabel("answer")
show(
    figure,
    "Above: six noisy pictures without their right half. Below: what is recalled, each whole and clean.",
)
repaired = (np.sign(states[-1]) == patterns).all(axis=-1)
print("repaired without a wrong pixel:", int(repaired.sum()), "of 6")
assert repaired.all()

# %%
energies = energy(states, patterns, 0.04)  # (6 states, 6 pictures)
above_rest = energies[:-1] - energies[-1]
figure, axes = viz.panels("updates made", "energy above that of the last answer")
axes.set_xticks(range(len(above_rest)))
for picture in range(6):
    axes.semilogy(above_rest[:, picture], **viz.STYLES[picture % 5], markersize=4)
show(figure, "Six lines, one a picture, on a logarithmic axis: the energy falls at every update.")
assert (np.diff(energies, axis=0) <= 1e-9).all(), "no update may climb"

# %% [markdown]
# This has a limit: at a small $\beta$ the patterns melt into one, a mix that looks like none of them. A GAM
# asks once a block, with patterns that are learned; notebook 14 counts how many of them answer a token.

# %%
melted = ask(torn, beta=0.001, times=5)[-1]
spread = np.abs(melted - melted.mean(axis=0)).max()
print(f"largest difference between the six answers at β = 0.001: {spread:.1e}")
assert spread < 0.1

# %% [markdown]
# ## What you have now
#
# * The recall E3, E4, E5 and its gradient, in a dozen lines, checked.
# * One memory as keys and values means two terms in its gradient.
# * No token sees another here. What moves information between tokens is the convolution of notebook 04, and nothing
#   else: the next notebook lets a gate choose between the two, and 09 shows what follows.
#
# **Read on in the code:** `minigam/engine/sequence.py`, `associative_memory`, and the faster rule of the same name in
# `minigam/engine/compiled/sequence.py`.
