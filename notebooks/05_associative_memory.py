# %% [markdown]
# # 05 · The associative memory
#
# **Goal.** Derive, code and check the global half of a GAM block: a token queries a learned memory and gets
# back a mix of its slots (equations E3, E4, E5 of notebook 00). At the end you will have written the recall
# and its gradient by hand, and used the same three equations to repair a damaged picture.
#
# **Time.** 90 minutes, 5 exercises. **Needs** 01 (the tape) and 02 (gradient checks). Letters: B batch, T
# tokens, C channels, S memory slots, M the memory. H is an entropy (not the number of heads), and E(x) is an
# energy (E3, E4 and E5 are equations).

# %% tags=["setup"]
import numpy as np

from minigam import Tensor, gradcheck, sequence, viz
from minigam.course import check, library, show

# %% [markdown]
# `library()` returns the array library, as in notebook 03: CuPy if there is a GPU, NumPy otherwise. Every
# line below runs with both. NumPy draws the random numbers, so that both start from the same ones.

# %%
xp = library()
rng = np.random.default_rng(5)
B, T, C, S = 2, 5, 4, 3
u = xp.asarray(rng.standard_normal((B, T, C)))  # the queries of the tokens
M = xp.asarray(rng.standard_normal((S, C)))  # S slots of C numbers

# %% [markdown]
# ## 1. The scores: how well does each slot match?
#
# A Python dictionary returns a value only if a key is *equal* to the query. A memory that learns by gradients
# cannot work that way: the step from "equal" to "not equal" has no useful gradient. So each slot is compared
# with the query by a dot product, and every slot contributes to the answer.
#
# E3 compares each token $u_{bt}$, the C numbers that come from E1, with each slot $M_s$, a row of M. The
# result is a score for each token and slot:
#
# $$ s = u\, M^\top, \qquad s_{bts} = \sum_{c} u_{btc}\, M_{sc} $$

# %%
s = xp.stack([(u * M[k]).sum(axis=-1) for k in range(S)], axis=-1)  # one slot after another
by_hand = sum(u[0, 1, c] * M[2, c] for c in range(C))  # batch 0, token 1, slot 2
assert s.shape == (B, T, S)
assert abs(float(s[0, 1, 2] - by_hand)) < 1e-12

# %% [markdown]
# Attention (notebook 10) divides the scores by $\sqrt{C}$. GAM does not: M is learned, so training can choose
# the scale of the scores.

# %% [markdown]
# ## 2. The shares: they add up to one
#
# E4 turns the S scores of a token into shares. All shares are positive, and they add up to 1:
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
# Divide numerator and denominator by the same $e^m$. The shares stay the same, and every exponent becomes
# $s - m$. For which $m$ is the largest exponent of each token 0? `keepdims=True` keeps the reduced axis, with
# length 1, so that the result broadcasts against s.
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
# ## 3. The answer: a mix of the slots
#
# E5 returns the sum of the slots, each multiplied by its share. A dictionary has two parts: a key, which is
# compared with the query, and a value, which is returned. In GAM one matrix M plays both parts: its slots are
# the keys in E3 and the values in E5.
#
# $$ \mathrm{global\_context} = a\, M, \qquad \mathrm{global\_context}_{btc} = \sum_{s} a_{bts}\, M_{sc} $$

# %%
global_context = sum(a[..., k, None] * M[k] for k in range(S))  # one slot after another, (B, T, C)
assert global_context.shape == u.shape
assert bool((global_context <= M.max(axis=0) + 1e-12).all())  # each channel lies between the slots
assert bool((global_context >= M.min(axis=0) - 1e-12).all())

# %% [markdown]
# ### Exercise 05.2 ★☆☆ Recall
#
# Combine E3, E4 and E5 in one function. The cells above take one slot after another; write both sums as
# matrix products. You can use your `softmax`.
#
# <details><summary>Hint</summary>
#
# Three lines, one for each equation. E3 and E5 use `@`, and only one of them needs a transpose.
#
# </details>


# %% tags=["exercise"]
def recall(u, M):
    """Return the answer of the memory M (S, C) to each token of u (B, T, C): (B, T, C)."""
    # SOLUTION
    s = u @ M.T  # E3
    a = softmax(s)  # E4
    return a @ M  # E5
    # END


# %%
check.ex_05_2(recall)

# %%
assert float(abs(recall(u, M) - global_context).max()) < 1e-12

# %% [markdown]
# We can draw two channels. Wherever the query lies, the answer lies inside the triangle of the three slots.

# %%
corners = np.array([[2.0, 0.0], [-1.0, 1.8], [-1.0, -1.8]])  # three slots
queries = rng.standard_normal((400, 2)) * 2.0
answers = recall(queries[None], corners)[0]  # one text of 400 tokens
figure, axes = viz.panels("channel 0", "channel 1", size=(5.0, 4.2))
axes.plot(*queries.T, ".", color=viz.INK, label="queries u")
axes.plot(*answers.T, ".", markersize=4, label="answers a M")
axes.plot(*corners.T, "^", markersize=9, label="slots of M")
axes.set_aspect("equal")
axes.legend(frameon=False)
show(
    figure,
    "Grey points, the queries, are spread over the plane. Blue points, the answers, all lie "
    "inside the triangle of the three slots.",
)

# %% [markdown]
# Your `recall` computes the same as `sequence.associative_memory`, which every GAM of this project runs. Each
# answer depends on one token alone: change token 2, and the other answers stay the same to the last bit. So
# the memory carries no information from one token to another.

# %%
assert float(abs(recall(u, M) - sequence.associative_memory(Tensor(u), Tensor(M)).data).max()) < 1e-12
changed = u.copy()
changed[:, 2] += 1.0
moved = abs(recall(changed, M) - recall(u, M)).max(axis=(0, 2)) > 0  # (T)
print("moved:", [bool(m) for m in moved])
assert [bool(m) for m in moved] == [False, False, True, False, False]

# %% [markdown]
# ## 4. The gradient: one memory, two terms
#
# Write $dz = \partial L / \partial z$ for the gradient of a loss L with respect to any $z$. Start with the
# softmax of one token. If one score $s_j$ rises, its share grows and all other shares shrink. In
# $a_i = e^{s_i} / \sum_k e^{s_k}$ the denominator always depends on $s_j$; the numerator does only if
# $i = j$. The quotient rule gives, with $1[i = j]$ for 1 where $i = j$ and 0 elsewhere:
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
# E3 and E5 are matrix products. Consider $y = p\,q$. The entry $p_{ik}$ enters each $y_{ij}$ with the factor
# $q_{kj}$. So $dp_{ik} = \sum_j dy_{ij}\, q_{kj}$, that is, $dp = dy\, q^\top$. In the same way
# $dq = p^\top dy$.
#
# The recall consists of these parts: E3 is a product, E4 a softmax, E5 a product. To find its gradient, go
# back through E5, E4 and E3 in this order. Two facts need care. M is used twice, as keys in E3 and as values
# in E5, so its gradient is a sum of two terms. And all B T tokens share M, so the terms of all tokens add up.
#
# ### Exercise 05.3 ★★★ Recall, backwards
#
# Derive du and dM on paper, then write them. You get only `dy`, the gradient with respect to the answer
# $y = \mathrm{global\_context}$, and `u` and `M`, so compute the shares `a` again. Return the pair
# `(du, dM)`.
#
# <details><summary>Hint</summary>
#
# Compute `da`, `ds`, `du`, then `dM`. A matrix product `y = p @ q` gives `dp = dy @ q.T` and `dq = p.T @ dy`.
# M is an input of two products, E3 and E5. For `dM`, first make one matrix of all tokens:
# `z.reshape(-1, z.shape[-1])`.
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
# Here is the derivation in full. Write $y = \mathrm{global\_context}$. Go from its gradient $dy$ back through
# E5, E4 and E3. ($\odot$ multiplies entry by entry, and the sum is over the slots of each token.)
#
# $$ da = dy\, M^\top, \qquad ds = a \odot \Big(da - \sum_{s'} da_{s'}\, a_{s'}\Big), \qquad du = ds\, M $$
#
# For dM, take the tokens of all batches as the B T rows of one matrix. E5 gives $a^\top dy$. E3 gives
# $d(M^\top) = u^\top ds$, whose transpose is $ds^\top u$:
#
# $$ dM = \underbrace{a^\top dy}_{\text{as values, E5}} + \underbrace{ds^\top u}_{\text{as keys, E3}} $$

# %%
rows = lambda z: z.reshape(-1, z.shape[-1])  # (B, T, C) -> (B T, C)
dy = xp.asarray(rng.standard_normal((B, T, C)))
da = dy @ M.T
ds = a * (da - (da * a).sum(axis=-1, keepdims=True))
as_values, as_keys = rows(a).T @ rows(dy), rows(ds).T @ rows(u)  # the two terms, (S, C) each
du, dM = recall_backward(dy, u, M)
assert float(abs(du - ds @ M).max()) < 1e-12
assert float(abs(dM - (as_values + as_keys)).max()) < 1e-12

tape_u, tape_M = Tensor(u, requires_grad=True), Tensor(M, requires_grad=True)
sequence.associative_memory(tape_u, tape_M).backward(dy)
assert float(abs(du - tape_u.grad).max()) < 1e-12
assert float(abs(dM - tape_M.grad).max()) < 1e-12

# %% [markdown]
# Neither term is small, so a gradient with only one of them is wrong. Their sizes (the square root of the sum
# of squares):

# %%
size = lambda z: float((z * z).sum()) ** 0.5
print(f"as values {size(as_values):.2f}, as keys {size(as_keys):.2f}, together {size(dM):.2f}")
assert size(as_values - dM) > 0.05 * size(dM)
assert size(as_keys - dM) > 0.05 * size(dM)

# %% [markdown]
# `gradcheck`, the check of notebook 02, compares the tape's gradient with finite differences, entry by entry:

# %%
worst = gradcheck(sequence.associative_memory, tape_u, tape_M)
print(f"worst relative error {worst:.1e}")
assert worst < 1e-6

# %% [markdown]
# ## 5. How sharp is the choice? The temperature
#
# Multiply every score by a number $\beta$, the inverse temperature:
#
# $$ a = \mathrm{softmax}(\beta s) $$
#
# With $\beta = 0$ all slots have the same share. As $\beta$ grows, the share of the best slot approaches 1.
# GAM has $\beta = 1$ and no parameter for it. It needs none: slots or queries of twice the length (as
# vectors) have scores twice as large, and training chooses this length.

# %%
for beta in (0.0, 0.5, 2.0, 40.0):
    a = softmax(beta * s)
    assert float(abs(a - softmax((beta * u) @ M.T)).max()) < 1e-12  # a longer query makes it sharper
    assert float(abs(a - softmax(u @ (beta * M).T)).max()) < 1e-12  # and so does a longer slot
assert float(abs(softmax(0.0 * s) - 1.0 / S).max()) < 1e-12

# %% [markdown]
# ### Exercise 05.4 ★★☆ How many slots answer?
#
# The entropy of the shares measures this: $H = -\sum_s a_s \log a_s$, in nats (natural logarithm). Its
# exponential counts slots, because $k$ equal shares $1/k$ have $H = \log k$. So $e^H$ is 1 when one slot has
# the whole share, S when all slots have the same share, and between 1 and S otherwise. Return $e^H$ for each
# token.
#
# <details><summary>Hint</summary>
#
# A share can be exactly 0 in floating point, and `0 * log(0)` is nan. Its limit is 0, so take the logarithm
# only where the share is positive. `np.where(a > 0, ..., ...)` keeps the shape; `a[a > 0]` does not.
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
queries = rng.standard_normal((200, 32))
betas = np.geomspace(0.01, 10.0, 25)
used = [slots_in_use(softmax(beta * queries @ many.T)).mean() for beta in betas]
figure, axes = viz.panels("inverse temperature β", "slots in use, exp(entropy)")
axes.semilogx(betas, used, **viz.STYLES[0], markersize=4)
axes.axvline(1.0, color=viz.INK, linestyle=":")
axes.annotate("β = 1, GAM", (1.0, 50.0), xytext=(6, 0), textcoords="offset points")
show(
    figure,
    "As β grows, the number of slots in use falls from 64 to nearly 1. At β = 1, as in GAM, a few "
    "slots are in use.",
)
assert used[0] > 60 and used[-1] < 2

# %% [markdown]
# ## 6. A Hopfield network: a memory that repairs
#
# Use the answer as the next query, and repeat. This is a Hopfield network. Each step lowers an energy $E$,
# and with a large enough $\beta$ the query converges to a point near a stored pattern. For one query $x$, a
# column of C numbers ([Ramsauer et al.](https://arxiv.org/abs/2008.02217), up to a constant in $E$):
#
# $$ x \leftarrow M^\top \mathrm{softmax}(\beta M x), \qquad
#    E(x) = -\frac{1}{\beta}\log\sum_s e^{\beta M_s \cdot x} + \frac{1}{2}\, x \cdot x $$
#
# **One update with $\beta = 1$ is exactly E3, E4 and E5.** Why does it lower the energy? By the chain rule
# $\nabla E = x - M^\top \mathrm{softmax}(\beta M x)$. So the update is a gradient step of length 1: it goes
# to $x - \nabla E$. Such a step cannot raise E, for the following reason. The first term of E is concave, so
# it lies on or below its tangent at $x$. Replace the first term by this tangent. The result is a parabola
# that touches E at $x$ and lies on or above E everywhere. Its minimum is exactly at the update, so E at the
# update is at most E at $x$.

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
# Write $E(x)$ for many queries at once. It must not overflow: with $\beta M_s \cdot x = 2000$ a plain
# `np.exp` does.
#
# <details><summary>Hint</summary>
#
# $\log \sum_s e^{z_s} = m + \log \sum_s e^{z_s - m}$ for any $m$. The softmax of 05.1 needed the same $m$.
#
# </details>


# %% tags=["exercise"]
def energy(x, M, beta):
    """Return E of each query x (..., C), for the patterns M (S, C): (...)."""
    # SOLUTION
    z = beta * (x @ M.T)  # (..., S)
    top = z.max(axis=-1)
    lse = top + np.log(np.exp(z - top[..., None]).sum(axis=-1))
    return -lse / beta + 0.5 * (x * x).sum(axis=-1)
    # END


# %%
check.ex_05_5(energy)

# %% [markdown]
# Now pictures. Six patterns of 12 x 12 pixels, each -1 or 1, are stored as the slots of a memory. A query is
# a picture with noise on every pixel, whose right half was set to 0 before the noise. A few recalls restore
# the whole picture, because only one slot matches the half that is left. The dot product of a pattern with
# itself is 144. So with $\beta = 1$ one slot would get nearly the whole share at once; with $\beta = 0.04$ we
# can watch the convergence.

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
    """Return the query and the answers that follow it, (times + 1, ..., C)."""
    states = [x]
    for _ in range(times):
        states.append(softmax(beta * states[-1] @ patterns.T) @ patterns)
    return np.stack(states)


assert softmax(torn @ patterns.T).max(axis=-1).min() > 0.99  # at β = 1 one slot has nearly all
states = ask(torn, beta=0.04, times=5)
figure, grid = viz.panels(n=6, rows=2, size=(9.0, 3.4))
for picture in range(6):
    for row, state in zip(grid[:, picture], (states[0], states[-1]), strict=True):
        row.imshow(state[picture].reshape(side, side), cmap="gray", vmin=-1, vmax=1)
        row.set(xticks=[], yticks=[])
        row.grid(False)
grid[0, 0].set_ylabel("query")
grid[1, 0].set_ylabel("answer")
show(
    figure, "Above: six noisy pictures without their right half. Below: the answers, each complete and clean."
)
repaired = (np.sign(states[-1]) == patterns).all(axis=-1)
print("repaired with no wrong pixel:", int(repaired.sum()), "of 6")
assert repaired.all()

# %%
energies = energy(states, patterns, 0.04)  # (6 states, 6 pictures)
above_rest = energies[:-1] - energies[-1]
figure, axes = viz.panels("updates made", "energy minus that of the last answer")
axes.set_xticks(range(len(above_rest)))
for picture in range(6):
    axes.semilogy(above_rest[:, picture], **viz.STYLES[picture % 5], markersize=4)
show(figure, "Six lines, one for each picture, on a logarithmic axis: the energy falls at every update.")
assert (np.diff(energies, axis=0) <= 1e-9).all(), "no update raises the energy"

# %% [markdown]
# If $\beta$ is too small, this no longer works: every query then gives nearly the same mix of all patterns. A
# GAM recalls once in each block, from patterns that are learned. Notebook 14 counts how many slots answer a
# token.

# %%
mixed = ask(torn, beta=0.001, times=5)[-1]
spread = np.abs(mixed - mixed.mean(axis=0)).max()
print(f"largest difference between the six answers at β = 0.001: {spread:.1e}")
assert spread < 0.1

# %% [markdown]
# ## What you can do now
#
# You can
#
# * compute the recall of an associative memory and both terms of its gradient,
# * explain how a temperature turns a soft look-up into a hard one, and
# * say why this memory moves no information between tokens.
#
# ## Think about it
#
# No check can answer these. Write down your answer, or discuss it with someone.
#
# 1. The memory is both keys and values. What could a memory with separate values do that this one cannot?
# 2. What would you look at to find out whether a trained slot is used at all?
#
# ## Read on
#
# In the code:
#
# * `minigam/engine/sequence.py`: `associative_memory`
# * `minigam/engine/compiled/sequence.py`: the faster rule of the same name
#
# Elsewhere:
#
# * [Hopfield Networks is All You Need](https://arxiv.org/abs/2008.02217)
# * [Dense Associative Memory for Pattern Recognition](https://arxiv.org/abs/1606.01164)
# * [Augmenting Self-attention with Persistent Memory](https://arxiv.org/abs/1907.01470)
# * [Memory Networks](https://arxiv.org/abs/1410.3916)
