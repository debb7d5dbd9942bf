# %% [markdown]
# # 16 · A memory that the text writes
#
# **Goal.** Change one thing in a GAM: let the text write into its memory. Derive the five equations X1 to X5, code
# them, their gradient and their fast form. Then train a GAM with exactly as many parameters as before, and watch it
# look up what a plain GAM never finds. **This extension is ours. It is not in the paper.**
#
# **Time.** 135 minutes, 5 exercises. **Needs** 05 (the memory) and 09 (the receptive field); 04 (the convolution) and
# 11 (a recurrence and its gradient) help. Letters: T tokens, C channels, S memory slots, L layers, K kernel size; **n
# and N are what the slots hold**, X2 and X3. `local` is short for local_context.

# %% tags=["setup"]
from time import perf_counter

import numpy as np
from tqdm import tqdm

from minigam import (
    GAM,
    AdamW,
    GAMConfig,
    Stream,
    Tensor,
    gradcheck,
    inputs_and_targets,
    mqar,
    no_grad,
    sequence,
    train_step,
    viz,
)
from minigam.course import check, median_ms, show


def softmax(s):
    """Return the softmax over the last axis, exercise 05.1."""
    e = np.exp(s - s.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


# %% [markdown]
# ## 1. What fails
#
# Notebook 09 measured the receptive field of a GAM: $1 + L\,(K-1)$ tokens. The reason is that the memory M is
# constant. A token reads it, and the answer depends on this token alone, not on the text before it. Only the
# convolution carries anything from token to token, and it covers only K tokens.
#
# Here is this failure as a number. Take the GAM of the recall experiment (L = 2, K = 7) and replace one token of a
# row. Measure how far the *last* output moves, depending on how far back the token is. `mixer="written"` is the model
# of this notebook.

# %%
LAB = {
    "vocab_size": 17,
    "block_size": 64,
    "d_model": 64,
    "n_layers": 2,
    "n_slots": 128,
    "kernel_size": 7,
    "dropout": 0.0,
    "position_std": 0.1,
}
rng = np.random.default_rng(16)
ids = rng.integers(17, size=(1, 64))


def movement(model):
    """Return (T): how far the last output moves if the token d places before it is replaced."""
    moved = []
    with no_grad():
        before = model(ids).numpy()[0, -1]
        for d in range(64):
            changed = ids.copy()
            changed[0, 63 - d] = (changed[0, 63 - d] + 1) % 17
            moved.append(np.abs(model(changed).numpy()[0, -1] - before).max())
    return np.array(moved)


models = {
    mixer: GAM(GAMConfig(**LAB, mixer=mixer), seed=0, dtype="float64") for mixer in ("gated", "written")
}
moved = {mixer: movement(model) for mixer, model in models.items()}
for mixer, by_distance in moved.items():
    print(f"{mixer:8} a token 20 places back moves the last output by {by_distance[20]:.1e}")
assert models["gated"].reach == 1 + 2 * (7 - 1) == 13
assert (moved["gated"][13:] == 0).all(), "exactly 0"
assert (moved["written"] > 0).all()
assert models["gated"].num_parameters() == models["written"].num_parameters()

# %% [markdown]
# Both models have the same parameters, with the same names and shapes. For the plain
# GAM the last output depends on 13 tokens, for the other model on all.
#
# What do 13 tokens mean for the look-ups of MQAR (notebook 09)? A row has 8 pairs of a key and a value. Later each
# key comes once more, as a query, and the model must give its value. For how many queries is the pair inside the
# receptive field?

# %%
rows, answers = mqar.mqar(1000, np.full(1000, 8), 64, 8, 8, rng)
distance = mqar.distances(rows, answers)
print(f"{np.mean(distance <= 12):.1%} of the pairs are inside a receptive field of 13 tokens")
assert np.mean(distance <= 12) < 0.5

# %% [markdown]
# ## 2. The idea: two addresses
#
# To look something up, a token needs a place where an earlier token has stored it. The slots of M are such places. So
# let each token write itself, $u_t$, into the slots. Two questions follow. From which slots does a token *read*? Into
# which does it *write*?
#
# E3 and E4 answer the first: a token reads under the address of **what it is**.
#
# $$ a_t = \mathrm{softmax}(u_t M^\top) $$
#
# Writing needs another address. Take the row "k1 v1 ... k1". The second k1 is the query and wants v1, so v1 must be
# stored where k1 reads. Therefore v1 must be written under the address of **what came before it**. A GAM block
# already computes that: the local context, E2. (The local context also contains the token itself, through the last
# tap. Training has to make this tap weak where it disturbs.)
#
# $$ \text{X1:}\quad w_t = \mathrm{softmax}(\mathrm{local}_t M^\top) $$
#
# A toy example makes this concrete. Its tokens are one-hot vectors, and a convolution with K = 2 gives each token
# its predecessor. M has nine slots: one for each of the 8 keys, and the last one for everything else.

# %%
one_hot = np.eye(17)  # one channel for each token: 0 is a blank, 1 .. 8 are keys, 9 .. 16 values
other = one_hot[[0, *range(9, 17)]].sum(axis=0, keepdims=True)  # all that is not a key
M_toy = 6.0 * np.concatenate([one_hot[1:9], other])
names = [".", *(f"k{i}" for i in range(1, 9)), *(f"v{i}" for i in range(1, 9))]


def toy(ids):
    """Return u and local (T, C) of a row of ids: what each token is, and what came before it."""
    u = one_hot[ids]
    taps = np.tile([1.0, 0.0], (17, 1))  # E2: all weight on the token before
    return u, sequence.causal_conv1d(Tensor(u[None]), Tensor(taps), Tensor(np.zeros(17))).data[0]


row = np.array([1, 12, 2, 9, 3, 16, 0, 0, 2, 0, 1, 0, 3, 0])
u, local = toy(row)
a, w = softmax(u @ M_toy.T), softmax(local @ M_toy.T)  # (T, S) each
print("token          ", " ".join(f"{names[i]:2}" for i in row))
print("read in slot   ", " ".join(f"{s:2}" for s in a.argmax(axis=-1)))
print("written in slot", " ".join(f"{s:2}" for s in w.argmax(axis=-1)))
for value, query in ((1, 10), (3, 8), (5, 12)):
    assert w[value].argmax() == a[query].argmax(), "a value is written where its key reads"

# %% [markdown]
# Slots are counted from 0. The token v4, in second place, is written into slot 0. The second k1 asks for it, and
# reads slot 0. `sequence.written_memory` is the finished operation, which you will write below. It takes u and local
# with a batch axis, and M:


# %%
def written_op(u, local, M, prior=None):
    """Return y (T, C) of one text, from minigam's own rule."""
    return sequence.written_memory(Tensor(u[None]), Tensor(local[None]), Tensor(M), prior=prior).data[0]


y = written_op(u, local, M_toy)
for query in (8, 10, 12):
    print(f"{names[row[query]]} asks and gets {names[y[query].argmax()]}")
assert [y[q].argmax() for q in (8, 10, 12)] == [9, 12, 16]

# %% [markdown]
# ## 3. Three wrong turns
#
# Three simpler designs fail. The first, the third and a close relative of the second were trained, and did not solve
# MQAR (measured in [docs/extension.md](../docs/extension.md)). You can understand each failure without any training.
#
# **One address for both.** Why not write under the address of u as well? Because then a token is stored where it
# reads itself, and a query finds its own earlier copy. It gets back the query instead of the value. So the two
# addresses must differ:

# %%
right, echoed = {"local": [], "u": []}, {"local": [], "u": []}
for tokens, wanted in zip(rows[:200], answers[:200], strict=True):
    u, local = toy(tokens)
    asked = wanted >= 0
    for address, where in (("local", local), ("u", u)):
        got = written_op(u, where, M_toy)[asked].argmax(axis=-1)
        right[address] += list(got == wanted[asked])
        echoed[address] += list(got == tokens[asked])
for address, hits in right.items():
    echo = np.mean(echoed[address])
    print(f"written under {address + ',':6} {np.mean(hits):6.1%} right, {echo:6.1%} give back the query")
assert np.mean(right["local"]) == np.mean(echoed["u"]) == 1.0

# %% [markdown]
# A model of several blocks may compensate for this, because the second block reads what the first block has gathered.
# One block cannot.
#
# **Writes of a fixed size.** A common rule for such a memory erases the share $w_t$ of each slot and writes the same
# share of the new token: $M_t = (1 - w_t)\, M_{t-1} + w_t u_t$, slot by slot. It works with the sharp addresses of
# the toy. But in a new model no slot fits any token yet. The softmax spreads each token over all S slots, so
# every write replaces only about 1/S of a slot.
#
# **A heavy prior.** The remedy is to divide by what has been written so far, so that a slot is a mean. Then what the
# slot has learned needs a weight, $\lambda$, the *prior*: it counts like $\lambda$ written tokens. $\lambda = 1$
# seems natural, but it is too heavy. The prior has the weight 1 *in each slot*, while one token has the weight 1 *in
# all slots together*.
#
# How much of what a token reads comes from the text? You can measure it with a marker. Give u one more channel, which
# is 1 in every token, and give M one more channel, which is 0 in every slot. This changes no score. What a token
# reads in this channel is the share of the text. `written_op` is the mean, with any prior.

# %%
T, S = 64, 128
M = models["written"].blocks[0].memory.data  # (S, C) of a new model
u, local = rng.standard_normal((2, T, 64))  # mean 0 and variance 1, as after LayerNorm
w = softmax(local @ M.T)
print(f"the largest of {S} shares of a token in a new model: {w.max(axis=-1).mean():.3f} on average")

marked_u = np.concatenate([u, np.ones((T, 1))], axis=1)
marked_local = np.concatenate([local, np.zeros((T, 1))], axis=1)
marked_M = np.concatenate([M, np.zeros((S, 1))], axis=1)


def erase_and_write(u, local, M):
    """Return y (T, C): each token replaces the share w of every slot by itself."""
    a, w, M_t, y = softmax(u @ M.T), softmax(local @ M.T), M, []
    for t in range(len(u)):
        M_t = M_t + w[t, :, None] * (u[t] - M_t)
        y.append(a[t] @ M_t)
    return np.stack(y)


share_of_text = {
    f"mean, λ = 1/{S}": written_op(marked_u, marked_local, marked_M)[:, -1],
    "mean, λ = 1": written_op(marked_u, marked_local, marked_M, prior=1.0)[:, -1],
    "erase and write": erase_and_write(marked_u, marked_local, marked_M)[:, -1],
}
figure, axes = viz.panels("tokens read", "share of the text in what is read", size=(7.0, 3.6))
for (name, share), style in zip(share_of_text.items(), viz.STYLES, strict=False):
    axes.plot(np.arange(1, T + 1), share, **style, markevery=7, markersize=4, label=name)
axes.set_ylim(0, 1.03)
axes.legend(frameon=False)
show(
    figure,
    "With lambda = 1/S the share of the text is a half after one token, and nearly all after ten. "
    "With lambda = 1, and with erase and write, it rises slowly to about a third after 64.",
)
for name, share in share_of_text.items():
    print(f"{name:16} after 8 tokens: {share[7]:.1%}")
assert share_of_text["mean, λ = 1/128"][7] > 0.8
assert max(share[7] for name, share in share_of_text.items() if "/128" not in name) < 0.15

# %% [markdown]
# The curves have formulas when the addresses are exactly even, $w = 1/S$ each. After t tokens a slot holds t/S of
# text. Against a prior of $\lambda$ this is the first share below. The second one belongs to erase and write. With
# $\lambda = 1/S$ the first is $t / (t + 1)$: all slots of M together weigh as much as one token.
#
# $$ \frac{t / S}{\lambda + t / S} = \frac{t}{t + \lambda S}, \qquad 1 - \Big(1 - \frac{1}{S}\Big)^t $$

# %%
t = np.arange(1.0, T + 1)
even = 0.0 * marked_M  # all scores 0: even addresses
for prior in (1.0 / S, 1.0):
    share = written_op(marked_u, marked_local, even, prior)[:, -1]
    assert np.abs(share - t / (t + prior * S)).max() < 1e-12
share = erase_and_write(marked_u, marked_local, even)[:, -1]
assert np.abs(share - (1.0 - (1.0 - 1.0 / S) ** t)).max() < 1e-12

# %% [markdown]
# On the two slow curves the text has a small share of every read. It therefore has a small share of the gradient that
# would sharpen the addresses. In our trials such models stayed on a plateau of MQAR. We think that this dilution is
# the reason. It fits how the result changes with $\lambda$, but we have not proved it.
#
# ## 4. The five equations
#
# Each slot keeps two things: $n$, how much it holds (X2), and $N$, the sum of what it holds (X3). A token reads their
# ratio, which is a mean (X4). The learned M is the first entry of this mean, with the weight $\lambda$. You know the
# other letters:
#
# $$ \begin{aligned}
# \text{X1:}\quad & w_t = \mathrm{softmax}(\mathrm{local}_t M^\top) & & (S) \\
# \text{X2:}\quad & n_t = n_{t-1} + w_t, & n_0 = \lambda \qquad & (S) \\
# \text{X3:}\quad & N_t = N_{t-1} + w_t^\top u_t, & N_0 = \lambda M \qquad & (S, C) \\
# \text{X4:}\quad & M_t = N_t / n_t \quad \text{(row by row)} & & (S, C) \\
# \text{X5:}\quad & y_t = a_t M_t, \qquad a_t = \mathrm{softmax}(u_t M^\top) & & (C)
# \end{aligned} $$
#
# $w_t^\top u_t$ is a matrix (S, C): slot s gets the share $w_t[s]$ of $u_t$. X5 is E5 with $M_t$ instead of M. The
# addresses $a_t$ and $w_t$ always use the learned M, so the place of a slot does not change.
#
# ### Exercise 16.1 ★☆☆ Write one token
#
# `N` and `n` are the state before the token. Apply X1, X2 and X3, and return N and n after the token, as new arrays.
#
# <details><summary>Hint</summary>
#
# `local @ M.T` gives S scores. `softmax` is in the first code cell. `np.outer(w, u)` is the matrix with the entries
# $w_s u_c$.
#
# </details>


# %% tags=["exercise"]
def write(N, n, u, local, M):
    """Return (N, n) after one token: N (S, C), n (S); u, local (C); M (S, C)."""
    # SOLUTION
    w = softmax(local @ M.T)  # X1
    return N + np.outer(w, u), n + w  # X3, X2
    # END


# %%
check.ex_16_1(write)

# %% [markdown]
# ### Exercise 16.2 ★★☆ The whole text
#
# Start with the prior. Write token after token, and read after each write, by X4 and X5: a token reads what it has
# just written, too. Return y for all tokens, (T, C). `prior` is $\lambda$, a number. You can use your `write`.
#
# <details><summary>Hint</summary>
#
# N starts as `prior * M`, and n as an array of S times the number `prior`. N remains a sum all the time: `N / n[:,
# None]` divides it row by row, only for the read. The address of the read is `softmax(u[t] @ M.T)`.
#
# </details>


# %% tags=["exercise"]
def written(u, local, M, prior):
    """Return y (T, C) of X1 to X5: u, local (T, C); M (S, C); prior is lambda, a number."""
    # SOLUTION
    N, n, y = prior * M, np.full(len(M), prior), []
    for t in range(len(u)):
        N, n = write(N, n, u[t], local[t], M)  # X1, X2, X3
        M_t = N / n[:, None]  # X4
        y.append(softmax(u[t] @ M.T) @ M_t)  # X5
    return np.stack(y)
    # END


# %%
check.ex_16_2(written)

# %%
T, C, S = 9, 5, 4
u, local = rng.standard_normal((2, T, C))
M = rng.standard_normal((S, C))
prior = 1.0 / S
y = written(u, local, M, prior)
assert np.abs(y - written_op(u, local, M)).max() < 1e-6

# %% [markdown]
# The memory has three properties that matter later.
#
# **It is a running mean.** Insert X3 into X4 and subtract $M_{t-1}$. A write moves each slot towards u by the share
# $w_t / n_t$. This is erase and write again, but with a rate that falls as the slot fills. The first token in an
# empty slot fills it; the hundredth changes it only a little.
#
# $$ M_t = M_{t-1} + \frac{w_t}{n_t}\,(u_t - M_{t-1}) \quad \text{(row by row)} $$

# %%
M_t, n = M, np.full(S, prior)
for t in range(T):
    w = softmax(local[t] @ M.T)
    n = n + w
    M_t = M_t + (w / n)[:, None] * (u[t] - M_t)
    assert np.abs(softmax(u[t] @ M.T) @ M_t - y[t]).max() < 1e-6

# %% [markdown]
# **It is bounded at every length.** $y_t$ is a mean of slots, and each slot is a mean of its row of M and of the u so
# far. So no entry of $y_t$ leaves their range, after ten tokens or ten thousand. And n never falls below $\lambda$,
# so there is no division by 0.

# %%
long_u, long_local = rng.standard_normal((2, 2000, C))
long = written(long_u, long_local, M, prior)
written_or_learned = np.concatenate([M, long_u])
assert (long <= written_or_learned.max(axis=0) + 1e-6).all()
assert (long >= written_or_learned.min(axis=0) - 1e-6).all()

# %% [markdown]
# **The paper's block is a limit.** As $\lambda$ grows, the text counts less and less, until E3 to E5 are left:
#
# $$ \lambda \to \infty: \qquad y_t \to a_t M $$

# %%
constant = sequence.associative_memory(Tensor(u[None]), Tensor(M)).data[0]
differences = {lam: np.abs(written(u, local, M, lam) - constant).max() for lam in (0.1, 1e2, 1e5, 1e8)}
for lam, difference in differences.items():
    print(f"λ = {lam:<12g} largest difference from E3-E5: {difference:.1e}")
assert differences[1e8] < 1e-6 < differences[1e5] < differences[1e2] < differences[0.1]

# %% [markdown]
# ## 5. Which token reads which?
#
# Unroll X3: $N_t = \lambda M + \sum_{j \le t} w_j^\top u_j$. Insert it into X4 and X5. Then $y_t$ is a sum over the
# tokens so far, plus the part of the prior:
#
# $$ y_t = \sum_{j \le t} A_{tj}\, u_j + (\text{the prior's part}), \qquad A_{tj} = \sum_s \frac{a_t[s]\, w_j[s]}{n_t[s]} $$
#
# So the memory is a form of attention. $A_{tj}$ says how much of token j is in what token t reads. It is large where
# the two addresses share a slot. But the memory has a state of fixed size, and never compares t with j directly.
#
# ### Exercise 16.3 ★★☆ The sources of a read
#
# Return A (T, T) and, for each token, the share of the prior (T): how much of what the token reads was in the slots
# before the text. Each row of A and its share of the prior add up to 1.
#
# <details><summary>Hint</summary>
#
# Compute `a`, `w` and `n` first, all (T, S): $n_t$ is $\lambda$ plus a running sum, `np.cumsum(w, axis=0)`. With $r =
# a / n$ all sums over the slots are one product, `r @ w.T`. Which of its entries belong to later tokens? The prior's
# part of $n_t[s]$ is $\lambda$.
#
# </details>


# %% tags=["exercise"]
def sources(u, local, M, prior):
    """Return (A, share): (T, T), how much of token j token t reads, and (T), how much of the prior it reads."""
    # SOLUTION
    a, w = softmax(u @ M.T), softmax(local @ M.T)  # (T, S)
    n = prior + np.cumsum(w, axis=0)
    r = a / n
    return np.tril(r @ w.T), prior * r.sum(axis=-1)
    # END


# %%
check.ex_16_3(sources)

# %%
A, share = sources(u, local, M, prior)
n = prior + np.cumsum(softmax(local @ M.T), axis=0)
of_the_prior = prior * (softmax(u @ M.T) / n) @ M
assert np.abs(A.sum(axis=-1) + share - 1.0).max() < 1e-6
assert np.abs(A @ u + of_the_prior - y).max() < 1e-6

# %% [markdown]
# Here is A for the row of section 2, as a picture. Line t is the token that reads, column j the token that is read.
# The three queries read one token each, the value that they ask for. The first column is pale: before the first token
# there is nothing, so its address is even, and a little of it is in every slot. Blanks and values read the last slot,
# which is a mean of everything that did not follow a key.

# %%
A, share = sources(*toy(row), M_toy, 1.0 / 9)
figure, axes = viz.panels("j, the token that is read", "t, the token that reads", size=(5.6, 5.0))
axes.imshow(A, cmap=viz.shades(), vmin=0, vmax=1)
axes.set_xticks(range(len(row)), [names[i] for i in row])
axes.set_yticks(range(len(row)), [names[i] for i in row])
axes.grid(False)
show(
    figure,
    "A lower triangle, mostly empty. Each of the three queries has one strong cell, in the column of the value "
    "that followed its key. The first column is pale. Blanks and values read a little of many earlier tokens.",
)
for query, value in ((8, 3), (10, 1), (12, 5)):
    asks, reads = names[row[query]], names[row[value]]
    print(f"{asks} reads {A[query, value]:.0%} of {reads}, {share[query]:.0%} of the prior")
    assert A[query].argmax() == value
    assert A[query, value] > 0.7

# %% [markdown]
# ## 6. Backward
#
# As always, $dz$ is the gradient of the loss with respect to z. What is new here is a running sum. In $n_t = n_0 +
# w_1 + \dots + w_t$, the term $w_j$ is part of every $n_t$ with $t \ge j$. So its gradient adds up the gradients of
# all of these. **The gradient of a running sum is a running sum from the end:**
#
# $$ n_t = n_0 + \sum_{j \le t} w_j \qquad\Longrightarrow\qquad dw_j = \sum_{t \ge j} dn_t $$

# %%
dn = rng.standard_normal((T, S))  # any gradient
from_the_end = np.cumsum(dn[::-1], axis=0)[::-1]
for j in range(T):
    change = np.zeros((T, S))
    change[j] = 1.0  # of w_j; the running sum is the change of n
    assert np.abs((dn * np.cumsum(change, axis=0)).sum(axis=0) - from_the_end[j]).max() < 1e-12

# %% [markdown]
# The same holds for N. Now go through the equations from the last token to the first. Let $r_t = a_t / n_t$, so that
# $y_t = r_t N_t$. Let $dN$ (S, C) and $dn$ (S) be the gradients of the state, summed over all later tokens; both
# start at 0. Compute the following at token t, in this order ($\odot$ multiplies entry by entry):
#
# $$ \begin{aligned}
# dr_t &= N_t\, dy_t & & \text{X5, through r} \\
# dN &\mathrel{+}= r_t^\top dy_t & & \text{X5, through } N_t \\
# da_t &= dr_t / n_t & & r = a / n, \text{ through a} \\
# dn &\mathrel{-}= dr_t \odot r_t / n_t & & r = a / n, \text{ through n} \\
# dw_t &= dN\, u_t + dn & & \text{X3 and X2} \\
# du_t &= w_t\, dN & & \text{X3: u as what is written}
# \end{aligned} $$
#
# Then both addresses go back through the softmax, as in notebook 05. Call the scores $s = u M^\top$ for the read and
# $q = \mathrm{local}\, M^\top$ for the write; then $ds = a \odot (da - \sum a \odot da)$ and $dq = w \odot (dw - \sum
# w \odot dw)$, with sums over the slots. M has **three roles** here: it decides where to read ($s$), where to write
# ($q$), and what the slots hold at first ($N_0 = \lambda M$). Each role adds a term to its gradient:
#
# $$ du \mathrel{+}= ds\, M, \qquad d\mathrm{local} = dq\, M, \qquad
#    dM = \underbrace{ds^\top u}_{\text{where to read}} + \underbrace{dq^\top \mathrm{local}}_{\text{where to write}}
#       + \underbrace{\lambda\, dN}_{\text{what is held at first}} $$
#
# ### Exercise 16.4 ★★★ The gradient
#
# Return du, dlocal and dM. You need $N_t$ and $n_t$ after every token: compute them first, and keep them.
#
# <details><summary>Hint</summary>
#
# `n = prior + np.cumsum(w, axis=0)` is (T, S), and `N = prior * M + np.cumsum(w[:, :, None] * u[:, None, :], axis=0)`
# is (T, S, C). Then a loop `for t in reversed(range(T))` with the six lines above, in their order. Keep da, dw and du
# of each token. After the loop dN is the gradient of $N_0$. The products in the loop are `N[t] @ dy[t]`,
# `np.outer(r[t], dy[t])`, `dN @ u[t]` and `w[t] @ dN`.
#
# </details>


# %% tags=["exercise"]
def written_backward(dy, u, local, M, prior):
    """Return (du, dlocal, dM), the gradients of (dy * written(u, local, M, prior)).sum()."""
    # SOLUTION
    a, w = softmax(u @ M.T), softmax(local @ M.T)
    n = prior + np.cumsum(w, axis=0)  # (T, S)
    N = prior * M + np.cumsum(w[:, :, None] * u[:, None, :], axis=0)  # (T, S, C)
    r = a / n
    da, dw, du = np.zeros_like(a), np.zeros_like(w), np.zeros_like(u)
    dN, dn = np.zeros_like(M), np.zeros(len(M))
    for t in reversed(range(len(u))):
        dr = N[t] @ dy[t]
        dN = dN + np.outer(r[t], dy[t])
        da[t] = dr / n[t]
        dn = dn - dr * r[t] / n[t]
        dw[t] = dN @ u[t] + dn
        du[t] = w[t] @ dN
    ds = a * (da - (a * da).sum(axis=-1, keepdims=True))
    dq = w * (dw - (w * dw).sum(axis=-1, keepdims=True))
    dM = ds.T @ u + dq.T @ local + prior * dN
    return du + ds @ M, dq @ M, dM
    # END


# %%
check.ex_16_4(written_backward)

# %%
dy = rng.standard_normal((T, C))
tape = [Tensor(z, requires_grad=True) for z in (u[None], local[None], M)]
sequence.written_memory(*tape).backward(dy[None])
du, dlocal, dM = written_backward(dy, u, local, M, prior)
for gradient, leaf in zip((du[None], dlocal[None], dM), tape, strict=True):
    assert np.abs(gradient - leaf.grad).max() < 1e-6
worst = gradcheck(sequence.written_memory, *tape)
print(f"worst relative error {worst:.1e}")
assert worst < 1e-6

# %% [markdown]
# How large are the three terms of dM? Give each role its own copy of M, and change one copy at a time:
#
# $$ dM = dM_{\text{read}} + dM_{\text{write}} + dM_{\text{first}} $$


# %%
def loss(M_read, M_write, M_first):
    """Return (dy * y).sum() with three memories, one for each role."""
    a, w = softmax(u @ M_read.T), softmax(local @ M_write.T)
    n = prior + np.cumsum(w, axis=0)
    N = prior * M_first + np.cumsum(w[:, :, None] * u[:, None, :], axis=0)
    return (dy * np.einsum("ts,tsc->tc", a / n, N)).sum()


parts = {}
for role, place in (("where to read", 0), ("where to write", 1), ("what is held at first", 2)):
    parts[role] = np.zeros((S, C))
    for at in np.ndindex(S, C):
        change = np.zeros((S, C))
        change[at] = 1e-5
        up, down = ([M + (k == place) * sign * change for k in range(3)] for sign in (1, -1))
        parts[role][at] = (loss(*up) - loss(*down)) / 2e-5
    print(f"{role:24} {np.linalg.norm(parts[role]):.2f}")
assert np.abs(sum(parts.values()) - dM).max() < 1e-6
assert all(np.linalg.norm(part) > 0.02 * np.linalg.norm(dM) for part in parts.values())

# %% [markdown]
# ## 7. Chunks: the recurrence as matrix products
#
# The loop makes T small steps, but a processor is fast at few large ones. Section 5 has the other extreme: all of A
# at once, T² numbers. **Chunks** of tokens are between the two. For the tokens of one chunk, let r, w (length, S) and
# u (length, C) be their rows, and N the state *before* the chunk. These tokens read what was written before the
# chunk, and what the chunk itself writes:
#
# $$ P = \mathrm{tril}(r\, w^\top), \qquad y = r\, N + P\, u, \qquad N \leftarrow N + w^\top u $$
#
# tril keeps the lower triangle *with* its diagonal and sets the rest to 0. n needs no chunks: it is a running sum, so
# $r = a / n$ is computed for all tokens at once. Unlike Mamba's scan (notebook 11) this recurrence has no decay, so
# no product of small numbers can vanish, and the formula is safe as it stands.
#
# ### Exercise 16.5 ★★★ In chunks
#
# Return y (T, C) and N after the last token, as new arrays. `length` is the number of tokens in a chunk; the last
# chunk may be shorter. Loop over the chunks, not over the tokens.
#
# <details><summary>Hint</summary>
#
# `for start in range(0, len(u), length)`, with `slice(start, start + length)` for the rows of a chunk; a slice ends
# where the array ends. Compute y with the old N before you replace it.
#
# </details>


# %% tags=["exercise"]
def in_chunks(r, w, u, N, length):
    """Return (y, N): (T, C), and (S, C) after the last token; r, w (T, S); u (T, C); N before the first."""
    # SOLUTION
    y = np.zeros((len(u), u.shape[1]))
    for start in range(0, len(u), length):
        chunk = slice(start, start + length)
        P = np.tril(r[chunk] @ w[chunk].T)
        y[chunk] = r[chunk] @ N + P @ u[chunk]
        N = N + w[chunk].T @ u[chunk]
    return y, N
    # END


# %%
check.ex_16_5(in_chunks)

# %%
T, C, S = 512, 64, 64
u, local = rng.standard_normal((2, T, C))
M = rng.standard_normal((S, C)) / 8.0
one_by_one = written(u, local, M, 1.0 / S)


def chunked(length):
    """Return y by chunks, from u, local and M."""
    a, w = softmax(u @ M.T), softmax(local @ M.T)
    r = a / (1.0 / S + np.cumsum(w, axis=0))
    return in_chunks(r, w, u, M / S, length)[0]


print(f"token by token      {median_ms(written, u, local, M, 1.0 / S):8.2f} ms")
for length in (8, 64, 512):
    assert np.abs(chunked(length) - one_by_one).max() < 1e-6
    print(f"chunks of {length:3} tokens {median_ms(chunked, length):8.2f} ms")

# %% [markdown]
# The numbers are the same, although the sums differ. minigam's fast rule does this with chunks of 32 or 64 tokens.
# Its backward pass needs only the states between chunks, too.
#
# ## 8. A state of constant size
#
# To continue a text, a block needs N, n and the last K - 1 inputs of its convolution. This is all that it keeps of
# the text, and it does not grow:
#
# $$ \text{numbers held} = L\,\big(S\,(C + 1) + (K - 1)\,C\big) $$
#
# `Stream` (notebook 09) reads token by token:

# %%
model, c = models["written"], GAMConfig(**LAB)
stream, held = Stream(model), []
for t in range(64):
    logits = stream.feed(ids[:, t : t + 1])
    held.append(sum(state.written.size + state.past.size for state in stream.states))
with no_grad():
    full = model(ids).numpy()[:, -1]
assert np.abs(logits - full).max() < 1e-10, "token by token gives the same as all at once"
formula = c.n_layers * (c.n_slots * (c.d_model + 1) + (c.kernel_size - 1) * c.d_model)
assert set(held) == {formula}
print(f"numbers held after 1 token: {held[0]:,}, after 64: {held[-1]:,}")

# %% [markdown]
# A plain GAM holds less, only the second term. And the state is finite: everything that the text has said must fit
# into S slots.
#
# ## 9. Associative recall, live
#
# Now train both models of section 1 on MQAR, with equal numbers of parameters, rows and steps. The settings are those
# of `minigam/experiments/recall.py`, with two differences: fewer steps (150, of 64 rows each), and a learning rate
# that stays at its peak after the warm-up. A training row has 1 to 8 pairs, a validation row always 8, so guessing is
# right in one of eight cases.

# %%
STEPS, BATCH = 150, 64
corpus = mqar.from_mqar(64, STEPS * BATCH, 8, 8, seed=0, n_valid=400)
asked_ids, wanted = inputs_and_targets(corpus.valid)


def correct_answers(model):
    """Return for every query of the validation rows whether the most likely token is right."""
    with no_grad():
        best = np.concatenate([model(part).numpy().argmax(axis=-1) for part in np.split(asked_ids, 8)])
    return (best == wanted)[wanted >= 0]


def learn(mixer):
    """Train a model; return its accuracy at every 25th step, and which answers are correct at the end."""
    model = GAM(GAMConfig(**LAB, mixer=mixer), seed=0)
    optimizer, accuracy = AdamW(model.parameters(), weight_decay=0.01), {}
    for step in tqdm(range(1, STEPS + 1), leave=False):
        optimizer.lr = 4e-3 * min(1.0, step / 100)  # warm-up
        batch = corpus.train[(step - 1) * BATCH : step * BATCH]
        train_step(model, optimizer, *inputs_and_targets(batch), BATCH)
        if step % 25 == 0:
            correct = correct_answers(model)
            accuracy[step] = correct.mean()
    return accuracy, correct


start = perf_counter()
curves, at_the_end = {}, {}
curves["GAM, written memory (ours)"], at_the_end["GAM, written memory (ours)"] = learn("written")
print(f"{perf_counter() - start:.0f} s")

# %%
start = perf_counter()
curves["GAM"], at_the_end["GAM"] = learn("gated")
print(f"{perf_counter() - start:.0f} s")

# %%
figure, axes = viz.panels("training step", "accuracy", size=(7.0, 3.4))
for (name, accuracy), style in zip(curves.items(), viz.styles_of(curves).values(), strict=True):
    axes.plot([*accuracy], [*accuracy.values()], **style, markersize=4, label=name)
axes.axhline(1 / 8, color=viz.INK, linestyle="--", linewidth=0.9, label="guessing one of 8 values")
axes.set_ylim(0, 1.03)
axes.legend(frameon=False)
show(
    figure,
    "The accuracy of the written memory rises slowly at first, then steeply to 100 per cent. That of the "
    "plain GAM stays near one in eight.",
)

far = mqar.distances(asked_ids, wanted)
by_distance = {
    name: {str(d): {"accuracy": c[far == d].mean(), "queries": int((far == d).sum())} for d in np.unique(far)}
    for name, c in at_the_end.items()
}
show(
    viz.recall_plot(by_distance, {"GAM, written memory (ours)": None, "GAM": 13}, 1 / 8),
    "Accuracy against distance. The written memory is at 100 per cent at every distance. GAM is above chance "
    "up to about 13 tokens, and at chance, one in eight, beyond.",
)
for name, c in at_the_end.items():
    print(f"{name:27} within 12 tokens {c[far <= 12].mean():6.1%}   beyond {c[far > 13].mean():6.1%}")
assert at_the_end["GAM, written memory (ours)"].mean() > 0.98
assert at_the_end["GAM"][far > 13].mean() < 0.2

# %% [markdown]
# Beyond its receptive field the plain GAM is at chance, and it stays there however long it is trained (section 7 of
# notebook 09). With the same number of parameters, but with the convolution connected to the memory, the model
# answers every query at every distance.
#
# Stories have look-ups, too: the recall tokens of PocketStories, names and things that come back.
# [docs/extension.md](../docs/extension.md) has all measurements of the written memory there, next to the rivals.
#
# ## 10. Limits
#
# **A key that is written twice is answered by a mixture.** A mean cannot prefer the newer value. Take the toy of
# section 2, which has one layer, and the text "k1 v1 ... k1 v2 ... k1":

# %%
twice = np.array([1, 9, 0, 0, 1, 10, 0, 0, 1])
A, share = sources(*toy(twice), M_toy, 1.0 / 9)
y = written(*toy(twice), M_toy, 1.0 / 9)
print(f"k1 reads {A[-1, 1]:.0%} of v1, {A[-1, 5]:.0%} of v2, {share[-1]:.0%} of the prior")
assert abs(A[-1, 1] - A[-1, 5]) < 0.02
assert abs(y[-1, 9] - y[-1, 10]) < 0.02, "the answer contains both values equally"

# %% [markdown]
# A text that corrects itself ("no, it was in the garden") needs a memory that can erase. The delta rule and the
# forget gates of section 11 can do that; X1 to X5 cannot. A model of several layers can avoid the problem: the write
# that repeats a key can use another address. [docs/extension.md](../docs/extension.md) measures how far trained
# models get in this way.
#
# **Many pairs in few slots.** Two keys whose addresses overlap share their values. Let the keys be random directions,
# and let nothing be learned; the factor 40 below, which we chose, makes the addresses sharp. How many keys get their
# own value back?

# %%
C, S = 64, 64
unit = lambda z: z / np.linalg.norm(z, axis=-1, keepdims=True)
pairs, share_right = (2, 4, 8, 16, 32, 64, 128), []
for p in pairs:
    counted = []
    for _ in range(1280 // p):
        M_random = 40.0 * unit(rng.standard_normal((S, C)))
        keys, values = unit(rng.standard_normal((2, p, C)))
        w = softmax(keys @ M_random.T)  # the address of a key, for the write and for the read
        n, N = 1.0 / S + w.sum(axis=0), M_random / S + w.T @ values
        got = (w / n) @ N
        counted += list((got @ values.T).argmax(axis=-1) == np.arange(p))
    share_right.append(np.mean(counted))
figure, axes = viz.panels("pairs in 64 slots", "share that gets its own value", size=(6.5, 3.4))
axes.semilogx(pairs, share_right, **viz.STYLES[0], markersize=4, base=2)
axes.set_xticks(pairs, pairs)
axes.set_ylim(0, 1.03)
show(
    figure,
    "Up to 32 pairs, more than nine in ten keys get their own value back. With more pairs the share falls, "
    "to little more than a half at 128 pairs in 64 slots.",
)
assert share_right[0] > 0.9
assert share_right[-1] < 0.7

# %% [markdown]
# Training can separate the keys better than chance does, but not without limit.
# [docs/extension.md](../docs/extension.md) measures a harder MQAR with more pairs.
#
# **Little is known about real text.** MQAR consists of look-ups only. Results on it say nothing about ordinary text.
# There is one small measurement in [docs/extension.md](../docs/extension.md).
#
# ## 11. Related work
#
# A memory that the text writes is an old idea with many forms. They differ as follows:
#
# | | how the memory is written | what differs from X1 to X5 |
# |---|---|---|
# | [linear attention](https://arxiv.org/abs/2006.16236) (Katharopoulos et al., 2020) | $N \mathrel{+}= \phi(k_t)^\top v_t$, and a sum of $\phi(k_t)$ to divide by | one division for the query, not one in each slot; $\phi$ needs no learned slots; no prior |
# | [ABC](https://arxiv.org/abs/2110.02488) (Peng et al.) | slots as running normalised sums, as here | keys are written, too, and then compared; no prior |
# | [Gated Slot Attention](https://arxiv.org/abs/2409.07146) | ABC with forget gates | it can forget; two passes over the slots |
# | delta rule: [2102.11174](https://arxiv.org/abs/2102.11174), [2406.06484](https://arxiv.org/abs/2406.06484) | erases what the key held, then writes | the newer value of a key wins; a chunk needs a triangular solve |
# | [Mamba-2](https://arxiv.org/abs/2405.21060) | a decaying state, written under B, read under C | it forgets by a decay that each token chooses; no slots, no division |
#
# Here one learned matrix has three roles, so the paper's block needs no new parameter: its convolution becomes the
# address of the write. In a short search we did not find X1 to X5 elsewhere in this form.
#
# ## What you can do now
#
# You can
#
# * explain why a constant memory cannot look anything up, and what two addresses change,
# * compute X1 to X5 and their gradient, token by token and in chunks, and
# * choose the weight of the prior, and name two limits: a mean cannot correct itself, and slots can be full.
#
# ## Think about it
#
# No check can answer these. Write down your answer, or discuss it with someone.
#
# 1. Which text would break this memory first, and what would you change to survive it?
# 2. The written memory is ours, not the paper's. Which comparison would convince a sceptical reader, and is it here?
#
# ## Read on
#
# In the code:
#
# * `minigam/engine/written_memory.py`
# * `minigam/engine/compiled/written_memory.py`: the fast rule
# * `minigam/models/gam.py`: mixer "written"
#
# Elsewhere:
#
# * [Linear Transformers Are Secretly Fast Weight Programmers](https://arxiv.org/abs/2102.11174)
# * [Transformers are RNNs, linear attention](https://arxiv.org/abs/2006.16236)
# * [Simple Linear Attention Language Models Balance the Recall-Throughput Tradeoff](https://arxiv.org/abs/2402.18668)
# * [Parallelizing Linear Transformers with the Delta Rule](https://arxiv.org/abs/2406.06484)
# * [Gated Slot Attention](https://arxiv.org/abs/2409.07146)
