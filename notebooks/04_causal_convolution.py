# %% [markdown]
# # 04 · The causal convolution
#
# **Goal.** Derive, code and check the local half of a GAM block, E2: the output of every token combines that token and the
# K - 1 tokens before it, and never a later one. You write the convolution forward, backward and token by token. You also
# write a test for *any* map from sequences to sequences: does an output depend on a later token?
#
# **Time.** 125 minutes, 5 exercises. **Needs** 02 (gradient checks).
#
# Letters: B texts in a batch, T tokens, C channels, K kernel size, L layers. A loss is $\mathcal{L}$.

# %% tags=["setup"]

import numpy as np

from minigam import GAM, GAMConfig, Tensor, gradcheck, interop, nn, sequence, viz
from minigam.course import check, median_ms, show

# %% [markdown]
# ## 1. A window that slides over the text
#
# "She had a red ..." To guess the next word, the last few words help most. After an article comes a noun or an
# adjective, and "red" is followed by something that can be red. A GAM block therefore gives each token a window: the
# token itself and the K - 1 tokens before it. In each channel the window contains K numbers. The block multiplies them
# by K learned weights and adds them up, with a bias. For token $t$ and channel $c$,
#
# $$ \mathrm{local\_context}_{tc} = b_c + \sum_{j=0}^{K-1} w_{cj}\; u_{t-(K-1)+j,\,c},
#    \qquad u_{tc} = 0 \ \text{ for } t < 0 $$
#
# This is equation E2 of the block (notebook 00). It treats each text of the batch alone, so the formula has no index
# for the batch. The K weights of a channel are its *filter*, and each weight is a *tap*.
#
# Read the index of $u$ with a pencil. At $j = K-1$ it is $t$, the present token. At $j = 0$ it is $t-(K-1)$, the oldest
# token in the window. No $j$ reaches $t+1$. Here is the formula as code, with four loops (text, token, channel, tap)
# and slow:

# %%
rng = np.random.default_rng(4)
B, T, C, K = 2, 8, 3, 3
u = rng.standard_normal((B, T, C))
w = rng.standard_normal((C, K))  # a filter for each channel
b = rng.standard_normal(C)


def by_the_formula(u, w, b):
    """E2, number by number: u (B, T, C), w (C, K), b (C) -> (B, T, C)."""
    (B, T, C), K = u.shape, w.shape[1]
    y = np.zeros((B, T, C))
    for i, t, c in np.ndindex(B, T, C):
        y[i, t, c] = b[c]
        for j in range(K):
            place = t - (K - 1) + j
            if place >= 0:  # u is zero before the first token
                y[i, t, c] += w[c, j] * u[i, place, c]
    return y


local_context = by_the_formula(u, w, b)  # (B, T, C)
present = b + w[:, K - 1] * u[:, 0]  # at the first token only the last tap meets a token
assert np.abs(local_context[:, 0] - present).max() < 1e-12
by_minigam = sequence.causal_conv1d(Tensor(u), Tensor(w), Tensor(b)).data
assert np.abs(local_context - by_minigam).max() < 1e-12

# %% [markdown]
# The same as a picture, for K = 3. Each row is one output, each column one input. From row to row the three taps move one
# token to the right, and their values stay the same.

# %%
words = ["she", "had", "a", "red", "button", "in", "a", "drawer"]
figure, axes = viz.panels("input token (z: zero, before the text)", "output of token")
figure.set_size_inches(8.0, 4.2)
axes.grid(False)
for t in range(len(words)):
    for j in range(K):
        place = t - (K - 1) + j
        style = {"facecolor": "none", "edgecolor": viz.COLOURS[j], "linewidth": 2}
        axes.bar(place, 0.84, width=0.88, bottom=t - 0.42, linestyle=":" if place < 0 else "-", **style)
        axes.text(place, t, f"$w_{j}$", ha="center", va="center", fontsize=12)
axes.set(xlim=(-2.6, T - 0.4), ylim=(T - 0.4, -0.6), xticks=range(-2, T), yticks=range(T))
axes.set_xticklabels(["z", "z", *words])
axes.set_yticklabels(words)
show(
    figure,
    "A staircase: the output of each word uses three taps, w0 and w1 at the two words before it "
    "and w2 at the word itself. In the first two rows some taps meet zeros.",
)

# %% [markdown]
# ## 2. Zeros on the left
#
# The first token has no tokens before it. To give its window K numbers too, put K - 1 zeros before the text. Then T tokens
# come in and T outputs go out, and every window is a slice of one array.
#
# ### Exercise 04.1 ★☆☆ The padding
#
# Put K - 1 tokens of zeros before the first token of every text. Add nothing anywhere else.
#
# <details><summary>Hint</summary>
#
# Tokens lie along axis 1. `np.zeros(shape)` makes the zeros, and `np.concatenate` joins arrays along an axis. With K =
# 1 there is nothing to add; an array of shape (B, 0, C) is allowed and does this.
#
# </details>


# %% tags=["exercise"]
def pad_left(u, K):
    """Put K - 1 zero tokens before u: (B, T, C) -> (B, K - 1 + T, C)."""
    # SOLUTION
    B, _, C = u.shape
    return np.concatenate([np.zeros((B, K - 1, C), dtype=u.dtype), u], axis=1)
    # END


# %%
check.ex_04_1(pad_left)

# %% [markdown]
# Let `padded = pad_left(u, K)`. Input token $t$ now stands at index $t + (K-1)$. So $u_{t-(K-1)+j}$ is padded token
# $t + j$, and E2 becomes simpler:
#
# $$ \mathrm{local\_context}_{t} = b + \sum_{j=0}^{K-1} w_{j}\; \mathrm{padded}_{t+j} $$
#
# ### Exercise 04.2 ★★☆ The convolution
#
# Write E2 for whole arrays. You may loop over the K taps, but not over tokens, texts or channels. K is 3 or 4, and T may be
# thousands.
#
# <details><summary>Hint</summary>
#
# Exchange the loops. Take one tap j and think of all tokens at once: which array of shape (B, T, C) does this tap
# multiply? It is the part of `padded` that starts at token j and has T tokens. `w[:, j]` has shape (C) and broadcasts
# over the last axis.
#
# </details>


# %% tags=["exercise"]
def causal_conv(u, w, b):
    """Mix each channel over the K latest tokens: u (B, T, C), w (C, K), b (C) -> (B, T, C)."""
    # SOLUTION
    T, K = u.shape[1], w.shape[1]
    padded = pad_left(u, K)
    y = np.zeros_like(u) + b
    for j in range(K):
        y = y + w[:, j] * padded[:, j : j + T]
    return y
    # END


# %%
check.ex_04_2(causal_conv)

# %%
padded = pad_left(u, K)  # (B, K - 1 + T, C)
assert np.abs(causal_conv(u, w, b) - local_context).max() < 1e-12

# %% [markdown]
# ### Which way round? Three conventions
#
# Column $K-1$ of `w` meets the present token: the filter lies on the window in reading order. PyTorch's `Conv1d` has
# the same order. Strictly this operation is a *cross-correlation*. A convolution in mathematics and signal processing
# counts the taps by how far they look back, the *lag* $k = K-1-j$:
#
# $$ y_t = b + \sum_{k=0}^{K-1} h_k\, u_{t-k}, \qquad h_k = w_{K-1-k} $$
#
# The outputs are the same; only the filter is written backwards. If you confuse the two conventions, your model still
# trains, and learns its taps in reverse order. The mistake shows only when you load weights from another program: the
# outputs are then wrong, without any error message.

# %%
one, taps = u[0, :, 0], w[0]  # one text, one channel
h = taps[::-1]  # by lag, as np.convolve wants it
as_convolution = np.convolve(one, h)[:T]
as_correlation = np.correlate(padded[0, :, 0], taps, mode="valid")
assert np.abs(b[0] + as_convolution - local_context[0, :, 0]).max() < 1e-12
assert np.abs(b[0] + as_correlation - local_context[0, :, 0]).max() < 1e-12

# %% [markdown]
# ### Depthwise: one filter per channel
#
# A convolution layer usually has a weight for each *pair* of channels, $W_{c c' j}$: each of its C outputs combines all
# C inputs. That is a *dense* convolution. GAM's convolution is *depthwise*: it has one filter per channel, and no
# channel affects another (`groups=C` in PyTorch). It equals a dense convolution whose weights are zero except at
# $c = c'$:
#
# $$ \mathrm{dense}_{tc} = b_c + \sum_{c'} \sum_j W_{cc'j}\, \mathrm{padded}_{t+j,\,c'}, \qquad
#    W_{cc'j} = \begin{cases} w_{cj} & c = c' \\ 0 & \text{otherwise} \end{cases} $$
#
# The memory, the gate and the feed-forward layers contain full matrices, so they mix the channels anyway. A depthwise
# convolution saves many weights:

# %%
W = np.zeros((C, C, K))
W[range(C), range(C)] = w
dense = b + sum(padded[:, j : j + T] @ W[:, :, j].T for j in range(K))
assert np.abs(dense - causal_conv(u, w, b)).max() < 1e-12

published = GAMConfig()
d_model, kernel_size = published.d_model, published.kernel_size
print(f"weights at C = {d_model} and K = {kernel_size}:")
print(f"depthwise {d_model * kernel_size:,}, dense {d_model**2 * kernel_size:,}")
layer = nn.CausalConv(d_model, kernel_size, np.random.default_rng(0))
assert layer.num_parameters() == d_model * kernel_size + d_model  # a filter and a bias for each channel

# %% [markdown]
# In the authors' PyTorch weights the filters have the shape (C, 1, K): each of C output channels has one input channel.
# `minigam.interop` converts to and from this format. The order of the taps is the same.

# %%
config = GAMConfig(vocab_size=9, block_size=8, d_model=4, n_layers=1, n_slots=2)  # K = 3
tiny = GAM(config)
theirs = interop.to_official(tiny)["blocks.0.causal_conv.weight"]
assert theirs.shape == (4, 1, 3)
assert np.array_equal(theirs[:, 0], tiny.blocks[0].conv.weight.numpy())

# %% [markdown]
# ## 3. What can three numbers do?
#
# Even a window of three does useful work. Take a signal that is flat, steps up and comes down again, with noise on it.
# Here are four filters and their outputs:

# %%
filters = {
    "shift: two tokens ago": [1.0, 0.0, 0.0],
    "difference: present minus previous": [0.0, -1.0, 1.0],
    "smoothing: mean of three": [1 / 3, 1 / 3, 1 / 3],
    "curvature: second difference": [1.0, -2.0, 1.0],
}
step = np.where((np.arange(30) >= 10) & (np.arange(30) < 20), 1.0, 0.0)
signal = step + 0.08 * rng.standard_normal(30)
stack = np.repeat(signal[None, :, None], len(filters), axis=2)  # (1, 30, 4)
filtered = causal_conv(stack, np.array(list(filters.values())), np.zeros(len(filters)))
figure, grid = viz.panels("token", "signal", n=2, rows=2, size=(10.0, 5.2))
for c, (name, ax) in enumerate(zip(filters, grid.flat, strict=True)):
    ax.plot(signal, color=viz.INK, linestyle="--", label="input")
    ax.plot(filtered[0, :, c], **viz.STYLES[0], markersize=3, label="output")
    ax.set_title(f"{name}, w = {np.round(filters[name], 2).tolist()}", fontsize=9)
ax.legend(frameon=False, fontsize=8)
show(
    figure,
    "A signal with a step up at token 10 and down at token 20. The shift delays it by two "
    "tokens. The difference is near zero, with a peak up at the first step and down at the "
    "second. The mean smooths the steps and the noise. The second difference has a pair of "
    "opposite peaks at each step.",
)
flat_noise = slice(12, 20)
assert np.abs(filtered[0, 2:, 0] - signal[:-2]).max() < 1e-12  # the shift is exact
assert filtered[0, 10, 1] > 0.5 and filtered[0, 20, 1] < -0.5  # both steps are found
assert filtered[0, flat_noise, 2].std() < signal[flat_noise].std()  # less noise

# %% [markdown]
# What do filters do with words? Give every word a channel of its own, which is 1 where the word stands and 0 elsewhere.
# Equal taps then *count* the words in the window. This is called a bag of words, and "dog bites man" and "man bites
# dog" are the same bag. Taps that differ tell *where* in the window each word stands. So a filter is a learned answer
# to this question: which of the last K words matter to this channel, and how much?

# %%
vocabulary = ["dog", "bites", "man"]
one_hot = lambda text: np.array([[[float(v == x) for v in vocabulary] for x in text.split()]])
news, no_news = one_hot("man bites dog"), one_hot("dog bites man")  # (1, 3, 3) each
for name, row in (("equal taps", [1.0, 1.0, 1.0]), ("taps 1, 2, 4", [1.0, 2.0, 4.0])):
    outputs = [causal_conv(x, np.tile(row, (3, 1)), np.zeros(3))[0, -1] for x in (news, no_news)]
    print(f"{name:13s} man bites dog: {outputs[0]}   dog bites man: {outputs[1]}")
    assert np.array_equal(outputs[0], outputs[1]) == (name == "equal taps")
print(f"channels: {vocabulary}")

# %% [markdown]
# A convolution weighs positions, not content: its taps are the same for every text. So the map is linear, apart from
# the bias:
#
# $$ \mathrm{conv}(\alpha u + \beta v) = \alpha\, \mathrm{conv}(u) + \beta\, \mathrm{conv}(v) \qquad (b = 0) $$
#
# No filter can say "look for the name, wherever it stands in the window". Two other mechanisms do depend on the
# content. The gate of notebook 06 lets each token choose how much of the convolution's output it takes. Attention
# (notebook 10) computes the weight of each position from the token that stands there.

# %%
v = rng.standard_normal(u.shape)
conv = lambda z: causal_conv(z, w, np.zeros(C))
assert np.abs(conv(2.0 * u - 3.0 * v) - (2.0 * conv(u) - 3.0 * conv(v))).max() < 1e-12

# %% [markdown]
# ## 4. Causal, or cheating?
#
# A language model learns to predict token $t+1$ from tokens $0 \dots t$, for all $t$ at once. Token $t+1$ is the
# answer. So the output of token $t$ must not depend on token $t+1$, or on any later one. A map with this property is
# called *causal*. For a map $y = f(u)$ that has derivatives, it means
#
# $$ \frac{\partial y_{t}}{\partial u_{t'}} = 0 \quad \text{for all } t' > t $$
#
# A small mistake in the padding breaks it. Libraries offer "same" padding, with zeros on both sides. It puts each token
# in the middle of its window, so the window contains later tokens. (PyTorch's `Conv1d` pads both ends alike. If you pad
# with K - 1 there, you have to cut off the *last* K - 1 outputs, not the first.)
#
# The next cell compares three paddings. It changes token 5 a little and looks at the outputs before it:

# %%


def conv_padded(u, left):
    """E2 without bias, with `left` of the K - 1 zeros before the text and the others after it."""
    zeros = lambda n: np.zeros((len(u), n, C))
    padded = np.concatenate([zeros(left), u, zeros(K - 1 - left)], axis=1)
    return sum(w[:, j] * padded[:, j : j + u.shape[1]] for j in range(K))


causal = lambda u: conv_padded(u, K - 1)
centred = lambda u: conv_padded(u, (K - 1) // 2)  # the window has one later token
ahead = lambda u: conv_padded(u, 0)  # the window has two later tokens

nudged = u.copy()
nudged[:, 5] += 1e-6  # tokens 0 to 4 must not notice
change = [np.abs(f(nudged) - f(u))[:, :5].max() / 1e-6 for f in (causal, centred, ahead)]
names = ("padded left", "padded on both sides", "padded right")
for name, size in zip(names, change, strict=True):
    print(f"{name:22s} change of an earlier output, per unit of token 5: {size:.2f}")
assert change[0] == 0 and change[1] > 1e-3 and change[2] > 1e-3

# %% [markdown]
# ### Exercise 04.3 ★★☆ A causality test
#
# Write a test for *any* map. `is_causal(f, u)` calls `f` on arrays of the shape of `u`, as often as it likes. It
# returns True if no output depends on a later token, as far as these calls show, and False otherwise.
#
# `f` may be anything. It may normalise, or use the next token at one place only. Or it may compute by a Fourier
# transform, whose rounding errors reach every output. So a change of an output by `tolerance` or less counts as
# rounding.
#
# <details><summary>Hint</summary>
#
# Change one token, call `f` again, and compare the outputs *before* that token. Do this for each token in turn, because
# a map may leak at one place only. No output stands before the first token, so begin with the second.
#
# Add random numbers about as large as `u` to the token. Do not add the same number to all channels: LayerNorm subtracts
# the mean over the channels, so that change would disappear and hide the leak. A seeded `np.random.default_rng` makes
# the test repeatable.
#
# </details>


# %% tags=["exercise"]
def is_causal(f, u, tolerance=1e-9):
    """Return whether no output of f changes when a later token does.

    f : function from (B, T, C) to (B, T, C)     u : (B, T, C), where to test it
    """
    # SOLUTION
    rng = np.random.default_rng(0)
    y = f(u)
    for t in range(1, u.shape[1]):
        changed = u.copy()
        changed[:, t] += rng.standard_normal(changed[:, t].shape)
        if np.abs(f(changed) - y)[:, :t].max() > tolerance:
            return False
    return True
    # END


# %%
check.ex_04_3(is_causal)

# %% [markdown]
# Now test the three paddings, and other maps you know. An associative memory is causal, because each token reads it
# alone. A running sum is causal too. The mean over all tokens is not: it contains the future. So subtracting it, which
# looks like harmless normalisation, is a leak.

# %%
memory = Tensor(rng.standard_normal((4, C)))
recall = lambda u: sequence.associative_memory(Tensor(u), memory).data
maps = {
    "convolution, padded left": (causal, True),
    "convolution, padded on both sides": (centred, False),
    "convolution, padded right": (ahead, False),
    "associative memory": (recall, True),
    "running sum": (lambda u: u.cumsum(axis=1), True),
    "minus the mean of the sequence": (lambda u: u - u.mean(axis=1, keepdims=True), False),
}
for name, (f, wanted) in maps.items():
    print(f"{name:34s} {'causal' if is_causal(f, u) else 'looks into the future'}")
    assert is_causal(f, u) == wanted, f"is_causal is wrong about: {name}"

# %% [markdown]
# Such a test can prove that a map is not causal. It cannot prove that a map is: it tries one `u` and one change of each
# token. Run it on several inputs.
#
# The full picture is a T x T matrix: change each input token in turn (a column) and mark the outputs that change (the
# rows). A causal map has nothing above the diagonal. A causal convolution has a band on and below it, K tokens wide.


# %%
def moved(f, u):
    """Return whether output t (row) changes when input t' (column) does: (T, T)."""
    moves = np.zeros((u.shape[1], u.shape[1]), dtype=bool)
    for t in range(u.shape[1]):
        changed = u.copy()
        changed[:, t] += rng.standard_normal(changed[:, t].shape)
        moves[:, t] = np.abs(f(changed) - f(u)).max(axis=(0, 2)) > 1e-12
    return moves


def draw(ax, moves, title):
    T = len(moves)
    ax.imshow(moves, cmap=viz.shades(), vmin=0, vmax=2)
    ax.plot([-0.5, T - 0.5], [-0.5, T - 0.5], ":", color=viz.INK, linewidth=1)
    rows, columns = np.nonzero(np.triu(moves, 1))
    ax.plot(columns, rows, "x", color=viz.COLOURS[1])  # a causal map has none of these
    ax.grid(False)
    ax.set_title(title, fontsize=10)


figure, axes = viz.panels("input token changed", "output token", n=3, size=(10.0, 3.6))
for ax, (name, f) in zip(axes, zip(names, (causal, centred, ahead), strict=True), strict=True):
    draw(ax, moved(f, u), name)
show(
    figure,
    "Three 8 x 8 matrices: which outputs change with each input. Padded left: a band of three "
    "on and below the diagonal. Padded on both sides: the band reaches one token above the "
    "diagonal, marked by crosses. Padded right: two tokens above it.",
)
lag = np.arange(T)[:, None] - np.arange(T)  # t - t'
assert np.array_equal(moved(causal, u), (lag >= 0) & (lag < K))
assert np.array_equal(moved(centred, u), (lag >= -1) & (lag < K - 1))

# %% [markdown]
# ### Why a cheat is hard to notice: it looks better
#
# Pure noise cannot be predicted. Let a filter try all the same: choose its taps by least squares, so that output $t$ comes
# close to token $t+1$. Divide the mean squared error by the variance of the noise. Then an error of 1 is about as good
# as always predicting zero.
#
# After that, let the filter *write*. The next token does not exist yet, so a tap on a later token meets a zero.

# %%
noise = rng.standard_normal(2000)


def windows(x, left):
    """Return the K inputs of every output, (T, K): `left` zeros before x, the rest after."""
    padded = np.concatenate([np.zeros(left), x, np.zeros(K - 1 - left)])
    return np.stack([padded[j : j + len(x)] for j in range(K)], axis=1)


for name, left in (("padded left", 2), ("both sides", 1), ("padded right", 0)):
    inputs, targets = windows(noise, left)[:-1], noise[1:]
    fitted = np.linalg.lstsq(inputs, targets, rcond=None)[0]
    training = np.mean((inputs @ fitted - targets) ** 2) / noise.var()
    unknown = np.arange(K) > left  # taps on tokens that do not exist yet
    writing = np.mean((np.where(unknown, 0.0, inputs) @ fitted - targets) ** 2) / noise.var()
    print(f"{name:13s} error in training {training:.3f}, when writing {writing:.3f}")
    assert writing > 0.9
    assert training > 0.9 if left == K - 1 else training < 1e-20

# %% [markdown]
# Both cheats reach an error of zero on something that cannot be predicted, and are worthless when they write. A loss
# that is too good is the first sign of a leak. The cure is a causality test in the test suite; this project has one for
# each of its models.

# %% [markdown]
# ## 5. The same thing as a matrix
#
# In one channel, E2 without the bias is a linear map from T inputs to T outputs, so it is a T x T matrix. Which one?
# Output $t$ uses input $t'$ with the tap $j$ for which $t' = t-(K-1)+j$. That is $j = K-1-(t-t')$, so
#
# $$ \mathrm{local\_context} = A\,u + b, \qquad
#    A_{tt'} = \begin{cases} w_{K-1-(t-t')} & 0 \le t-t' \le K-1 \\ 0 & \text{otherwise} \end{cases} $$
#
# The matrix shows three properties.
#
# * It is lower triangular: the map is causal.
# * It is a band: the map is local.
# * Its diagonals are constant: all tokens are treated alike, wherever they stand. Such a matrix is called *Toeplitz*.


# %%
def banded(taps, T):
    """Return the matrix A of one channel: taps (K) -> (T, T)."""
    K = len(taps)
    return sum(taps[j] * np.eye(T, k=j - (K - 1)) for j in range(K))


A = np.stack([banded(w[c], T) for c in range(C)])  # (C, T, T)
y = np.einsum("cts,bsc->btc", A, u) + b
assert np.abs(y - causal_conv(u, w, b)).max() < 1e-12
assert np.abs(np.triu(A, 1)).max() == 0  # causal
assert np.count_nonzero(A[0]) == T * K - K * (K - 1) // 2  # local; the first rows are cut off

later = pad_left(u, 3)[:, :T]  # the text, two tokens later
assert np.abs(conv(later)[:, 2:] - conv(u)[:, :-2]).max() < 1e-12  # so is the output

# %%
title = "A of one channel, its taps in the cells"
figure, axes = viz.panels("input token t'", "output token t", title, size=(5.0, 4.4))
axes.imshow(A[0] != 0, cmap=viz.shades(), vmin=0, vmax=4)
axes.grid(False)
for t, s in np.argwhere(A[0] != 0):
    axes.text(s, t, f"$w_{K - 1 - (t - s)}$", ha="center", va="center")
show(
    figure,
    "A lower triangular band of an 8 x 8 matrix: w2 on the diagonal, w1 just below it, w0 "
    "below that, zero elsewhere.",
)

# %% [markdown]
# ## 6. The gradient
#
# A loss $\mathcal{L}$ has the gradient $dy = \partial \mathcal{L} / \partial\,\mathrm{local\_context}$ at the output of
# the convolution. We want $du$, $dw$ and $db$. Take one text and one channel, because different texts and different
# channels do not meet here, and look at E2 once more:
#
# $$ y_t = b + \sum_{j=0}^{K-1} w_j\, u_{t-(K-1)+j} $$
#
# **The bias** is added to every output, so $\partial y_t / \partial b = 1$ for all $t$.
#
# **A tap** multiplies one input in every output: $\partial y_t / \partial w_j = u_{t-(K-1)+j}$.
#
# Each of them affects all outputs, so its gradient is a sum over all outputs (and over all texts of the batch):
#
# $$ db = \sum_t dy_t, \qquad dw_j = \sum_t dy_t\, u_{t-(K-1)+j} $$
#
# **An input** $u_s$ is used by up to K outputs, and $du_s = \sum_t dy_t\, \partial y_t / \partial u_s$. You find it in
# the exercise.
#
# ### Exercise 04.4 ★★★ The gradients of the convolution
#
# * On paper: in which outputs $t$ does the input $u_s$ appear, and which tap multiplies it there? Write $du_s$ as a sum
#   over $j$.
# * In code: return all three gradients, for whole arrays. As in 04.2, you may loop over the taps only.
#
# <details><summary>Hint</summary>
#
# Input $s$ meets tap $j$ in the output $t$ for which $t-(K-1)+j = s$. Not every such $t$ exists: the last inputs are
# used by fewer than K outputs.
#
# The code is easier with the padding. For `dw` use `padded` as in 04.2. For `du` first compute the gradient of
# `padded`: start with zeros; in the forward pass tap j read a slice of `padded`, so in the backward pass it adds
# something into the same slice. At the end drop the K - 1 tokens of padding.
#
# </details>


# %% tags=["exercise"]
def conv_backward(dy, u, w):
    """Return (du, dw, db), the gradients of <dy, causal_conv(u, w, b)>.

    dy, u, du : (B, T, C)     w, dw : (C, K)     db : (C)
    """
    # SOLUTION
    T, K = u.shape[1], w.shape[1]
    padded = pad_left(u, K)
    dpadded = np.zeros_like(padded)
    dw = np.zeros_like(w)
    for j in range(K):
        dpadded[:, j : j + T] += w[:, j] * dy
        dw[:, j] = (dy * padded[:, j : j + T]).sum(axis=(0, 1))
    return dpadded[:, K - 1 :], dw, dy.sum(axis=(0, 1))
    # END


# %%
check.ex_04_4(conv_backward)

# %% [markdown]
# If you solved it on paper, compare. Input $s$ meets tap $j$ in output $t = s + (K-1) - j$, if that output exists:
#
# $$ du_s = \sum_t dy_t \frac{\partial y_t}{\partial u_s} = \sum_{j=0}^{K-1} w_j\, dy_{s+(K-1)-j},
#    \qquad dy_t = 0 \ \text{ for } t \ge T $$
#
# Look at the signs. In the forward pass tap $j$ looks $K-1-j$ tokens back; in the backward pass it looks $K-1-j$ tokens
# *ahead*. The gradient is again a sum over a window, with the same taps. But this window begins at the token and
# extends to later ones, and the zeros are now at the end.

# %%
dy = rng.standard_normal(u.shape)
du, dw, db = conv_backward(dy, u, w)
for s in range(T):
    outputs = [(j, s + (K - 1) - j) for j in range(K) if s + (K - 1) - j < T]
    assert np.abs(du[:, s] - sum(w[:, j] * dy[:, t] for j, t in outputs)).max() < 1e-12

# %% [markdown]
# The matrix says the same in one line. If $y = A u$, then
#
# $$ du = A^\top\, dy $$
#
# The transpose of a lower triangular band is an upper triangular band. So the gradient of a token comes from its own
# output and from later outputs: from those that depend on it.

# %%
assert np.abs(np.einsum("cts,btc->bsc", A, dy) - du).max() < 1e-12
assert not is_causal(lambda dy: np.einsum("cts,btc->bsc", A, dy), dy)

# %%
example, impulse = np.array([0.4, 0.7, 1.0]), np.zeros(11)
impulse[5] = 1.0
band = banded(example, 11)
figure, axes = viz.panels("token", n=2, size=(9.0, 3.2))
for ax, z, title in (
    (axes[0], band @ impulse, "forward: the outputs that token 5 affects"),
    (axes[1], band.T @ impulse, "backward: the inputs that get its gradient"),
):
    colours = [viz.COLOURS[t == 5] for t in range(11)]
    ax.bar(range(11), z, width=0.6, color=colours)
    for t in np.flatnonzero(z):
        ax.text(t, z[t] + 0.03, f"$w_{int(np.flatnonzero(example == z[t])[0])}$", ha="center")
    ax.set(ylim=(0, 1.25), xticks=range(11))
    ax.set_title(title, fontsize=10)
axes[0].set_ylabel("value")
show(
    figure,
    "Left: an input at token 5 affects outputs 5, 6 and 7, with w2, w1 and w0. Right: a "
    "gradient at output 5 reaches inputs 3, 4 and 5, with w0, w1 and w2.",
)
assert np.flatnonzero(band @ impulse).tolist() == [5, 6, 7]
assert np.flatnonzero(band.T @ impulse).tolist() == [3, 4, 5]

# %% [markdown]
# Now run the `gradcheck` of notebook 02 on the project's own rule, compare your gradients with it, and look at two
# special cases.
#
# * K = 1: there is no window, and the convolution only scales and shifts each token.
# * T < K: some taps meet only zeros. Their gradient is exactly zero, so they cannot learn from texts this short.

# %%
tape = [Tensor(z, requires_grad=True) for z in (u, w, b)]
sequence.causal_conv1d(*tape).backward(dy)
for yours, by_tape in zip((du, dw, db), tape, strict=True):
    assert np.abs(yours - by_tape.grad).max() < 1e-12

worst = gradcheck(sequence.causal_conv1d, *tape)
print(f"worst relative error {worst:.1e}")
assert worst < 1e-6

assert np.abs(causal_conv(u, w[:, :1], b) - (w[:, 0] * u + b)).max() < 1e-12  # K = 1
short = u[:, :2]  # T = 2 < K = 3
du, dw, db = conv_backward(np.ones_like(short), short, w)
assert np.abs(dw[:, 0]).max() == 0  # tap 0 meets only zeros
assert (np.abs(dw[:, 1:]).max(axis=0) > 0).all()

# %% [markdown]
# ### Filters that learn where to look
#
# Your two functions are all you need to train a filter. The texts are random words, and each word has a channel of its
# own. The target of channel $c$ is 1 where word $c$ stood $c \bmod 3$ tokens ago, and 0 elsewhere. The filters are not
# told these distances. They start at random and follow the gradient of the mean squared error.

# %%
V, taps_learned, bias = 6, rng.uniform(-0.5, 0.5, (6, K)), np.zeros(6)
lags = np.arange(V) % K
texts = np.eye(V)[rng.integers(V, size=(16, 64))]  # (16, 64, 6), one-hot
earlier = [pad_left(texts, K)[:, K - 1 - lag :][:, :64] for lag in lags]  # the word lag tokens ago
target = np.stack([earlier[c][..., c] for c in range(V)], axis=-1)  # (16, 64, 6)
before, losses = taps_learned.copy(), []
for _ in range(60):
    error = causal_conv(texts, taps_learned, bias) - target  # (16, 64, 6)
    losses.append((error**2).sum(axis=-1).mean())
    _, dw, db = conv_backward(2.0 * error / error[..., 0].size, texts, taps_learned)
    taps_learned, bias = taps_learned - 0.8 * dw, bias - 0.2 * db

figure, axes = viz.panels(n=3, size=(10.0, 3.4))
axes[0].semilogy(losses, "-")
axes[0].set(xlabel="step", ylabel="mean squared error")
for ax, shown in zip(axes[1:], (before, taps_learned), strict=True):
    ax.imshow(shown, cmap=viz.shades(), vmin=-0.5, vmax=4.0, aspect="auto")
    ax.set(xlabel="tap j (2: the present token)", ylabel="channel", xticks=range(K))
    ax.set_title("taps before" if shown is before else "taps after", fontsize=10)
    ax.grid(False)
    for c, j in np.ndindex(shown.shape):
        number = f"{round(shown[c, j], 1) + 0.0:.1f}"  # no -0.0
        ax.text(j, c, number, ha="center", va="center", fontsize=9)
show(
    figure,
    "The error falls steadily on a logarithmic scale. Before training the 6 x 3 taps are "
    "random. After it each channel has a tap near 1 at the position of its target "
    "(2, 1, 0, 2, 1, 0), and taps near 0 elsewhere.",
)
assert np.array_equal(taps_learned.argmax(axis=1), K - 1 - lags)
assert losses[-1] < 0.01 * losses[0]

# %% [markdown]
# ## 7. Token by token: a state of K - 1 inputs
#
# A model that writes produces one token at a time. It would be wasteful to compute output $t$ from the whole text
# again: of the earlier tokens it needs only the last K - 1. Call these the *past*, oldest first. One step is
#
# $$ y_t = b + \sum_{j=0}^{K-2} w_j\, \mathrm{past}_j + w_{K-1}\, u_t, \qquad
#    \mathrm{past} \leftarrow (\mathrm{past}_1, \dots, \mathrm{past}_{K-2},\, u_t) $$
#
# Before the first token the past is all zeros. So the padding of section 2 is the first state.
#
# ### Exercise 04.5 ★★☆ One step
#
# Write the step: take the past and one token of every text, and return the output and the new past. It must also work for
# K = 1, where the past is empty.
#
# <details><summary>Hint</summary>
#
# Join past and present token to a window of K tokens. The output is a weighted sum over it, and the new past is the window
# without its oldest token. Write "without the first" as `window[:, 1:]`. The alternative `window[:, -(K-1):]` returns
# *everything* if K is 1, because -0 is 0.
#
# </details>


# %% tags=["exercise"]
def conv_step(past, u_t, w, b):
    """Read one token: return (y_t, new past).

    past : (B, K - 1, C), oldest first     u_t, y_t : (B, C)     w : (C, K)     b : (C)
    """
    # SOLUTION
    window = np.concatenate([past, u_t[:, None]], axis=1)  # (B, K, C)
    return b + (window * w.T).sum(axis=1), window[:, 1:]
    # END


# %%
check.ex_04_5(conv_step)

# %%
past, outputs = np.zeros((B, K - 1, C)), []
for t in range(T):
    y_t, past = conv_step(past, u[:, t], w, b)
    outputs.append(y_t)
assert np.abs(np.stack(outputs, axis=1) - causal_conv(u, w, b)).max() < 1e-12
assert np.array_equal(past, u[:, T - (K - 1) :])  # all that it keeps

# %% [markdown]
# A text may also be cut into parts of any length. `sequence.causal_conv1d` takes a `past` for this, and `nn.CausalConv`
# keeps it in a `BlockState`.
#
# The operation has two versions. The reference rule is plain NumPy. It adds in the same order whether a text comes
# whole or in parts, so the results are equal to the last bit. The faster rule may add in another order for whole texts,
# so its results are equal up to rounding.

# %%
rule = sequence.causal_conv1d.rule  # the reference rule
for cut in range(1, T):
    first, _ = rule(np, u[:, :cut], w, b, np.zeros((B, K - 1, C)))
    past = np.concatenate([np.zeros((B, K - 1, C)), u[:, :cut]], axis=1)[:, cut:]
    second, _ = rule(np, u[:, cut:], w, b, past)
    assert np.array_equal(np.concatenate([first, second], axis=1), rule(np, u, w, b)[0])

layer = nn.CausalConv(C, K, np.random.default_rng(1))
state = layer.new_state(B)
parts = [layer(Tensor(u[:, i:k]), state).numpy() for i, k in ((0, 1), (1, 4), (4, 8))]
assert np.abs(np.concatenate(parts, axis=1) - layer(Tensor(u)).numpy()).max() < 1e-12
print(f"state of a layer at C = {d_model}, K = {kernel_size}: {(kernel_size - 1) * d_model:,} numbers")

# %% [markdown]
# The state of a GAM does not grow with the text, so each new token costs the same, the hundredth or the ten-thousandth.
# Attention has to keep a key and a value for *every* token so far. But the constant state has a price, and the next
# section shows it.

# %% [markdown]
# ## 8. Layer upon layer: the receptive field
#
# The output of one layer depends on K tokens: the present one and K - 1 before it. The next layer combines K of *those*
# outputs, and the oldest of them depends on K - 1 tokens further back. So each layer adds K - 1 tokens. The tokens that
# an output depends on are its **receptive field**. With $R_L$ for the size of the receptive field of L layers,
#
# $$ R_0 = 1, \qquad R_L = R_{L-1} + (K-1) \quad\Longrightarrow\quad R_L = 1 + L\,(K-1) $$

# %%
long = rng.standard_normal((1, 16, C))


def stacked(layers, K):
    """Return a map of several convolutions, each with its own filters and followed by tanh."""
    all_filters = rng.uniform(0.5, 1.5, (layers, C, K))

    def f(u):
        for filters in all_filters:
            u = np.tanh(0.3 * causal_conv(u, filters, np.zeros(C)))
        return u

    return f


for size in (1, 2, 3, 4):
    for L in (1, 2, 3, 4):
        field = moved(stacked(L, size), long)[-1].sum()  # inputs that change the last output
        assert field == 1 + L * (size - 1)

# %%
figure, axes = viz.panels("input token changed", "output token", n=3, size=(10.0, 3.6))
for ax, L in zip(axes, (1, 2, 3), strict=True):
    moves = moved(stacked(L, K), long)
    draw(ax, moves, f"L = {L}, K = {K}: {moves[-1].sum()} tokens")
    assert moves[-1].sum() == 1 + L * (K - 1)
show(
    figure,
    "Three 16 x 16 matrices. The band on and below the diagonal is 3 tokens wide for one "
    "layer, 5 for two, 7 for three.",
)

# %% [markdown]
# Without a nonlinear function between them, the layers would even collapse into one (apart from the biases). Several
# filters in a row equal one long filter, their convolution, which has $1 + L(K-1)$ taps. This gives the size of the
# receptive field a second time. For two layers, with $*$ for the convolution,
#
# $$ A^{(2)} A^{(1)} = A \quad \text{with the taps} \quad w = w^{(2)} * w^{(1)} $$

# %%
inner, outer = rng.standard_normal((2, K))
both = np.convolve(outer, inner)
assert np.abs(banded(outer, T) @ banded(inner, T) - banded(both, T)).max() < 1e-12
assert len(both) == 1 + 2 * (K - 1)

# %% [markdown]
# In a GAM no other part moves information between tokens. So this is also the receptive field of the *whole model*; its
# attribute `reach` holds the size. In the published model it is only a few words. Notebook 09 shows what follows from
# that.

# %%
reach = 1 + published.n_layers * (published.kernel_size - 1)
print(f"published: L = {published.n_layers}, K = {published.kernel_size}, receptive field {reach} tokens")
assert tiny.reach == 1 + tiny.config.n_layers * (tiny.config.kernel_size - 1)

# %% [markdown]
# ## 9. What does it cost?
#
# In each channel every output takes K products and K sums. The backward pass costs twice as much: the same again for
# $du$ and for $dw$. Count each multiplication and each addition as one operation, a *flop*:
#
# $$ \text{forward} = 2\,B\,T\,C\,K \ \text{flop}, \qquad \text{backward} = 4\,B\,T\,C\,K \ \text{flop} $$
#
# The backward pass needs $u$, $B\,T\,C$ numbers, which the layer before has computed anyway. The same map as a full
# matrix, most of it zeros, would take $2\,B\,T^2 C$ flop.

# %%
flop = lambda T, K: 2 * B * T * C * K
products = B * np.count_nonzero(A)  # of a tap and a token
on_zeros = B * C * K * (K - 1) // 2  # taps that meet the padding
assert flop(T, K) == 2 * (products + on_zeros)
assert np.count_nonzero(A.transpose(0, 2, 1)) == np.count_nonzero(A)  # du takes as many
assert flop(T, T) == 2 * B * T**2 * C  # what a full matrix would take


lengths, by_taps, by_matrix = [64, 128, 256, 512, 1024], [], []
for length in lengths:
    x = rng.standard_normal((1, length, 4))
    filters = rng.standard_normal((4, K))
    matrices = np.stack([banded(row, length) for row in filters])  # (4, T, T)
    columns = np.ascontiguousarray(x.transpose(2, 1, 0))  # (4, T, 1)
    by_taps.append(median_ms(causal_conv, x, filters, np.zeros(4)))
    by_matrix.append(median_ms(np.matmul, matrices, columns))
    y = (matrices @ columns).transpose(2, 1, 0)  # (1, T, 4)
    assert np.abs(causal_conv(x, filters, np.zeros(4)) - y).max() < 1e-9
figure, axes = viz.panels("tokens T", "time (ms), C = 4")
axes.loglog(lengths, by_matrix, **viz.STYLES[1], markersize=5, label="as a T x T matrix")
axes.loglog(lengths, by_taps, **viz.STYLES[0], markersize=5, label="tap by tap")
axes.set_xticks(lengths, [str(n) for n in lengths])
axes.minorticks_off()
axes.legend(frameon=False)
show(
    figure,
    "On logarithmic axes the time of the matrix rises steeply with the length. The time of the "
    "taps rises slowly and is far below it for long texts.",
)

# %% [markdown]
# For very short texts the matrix may even be faster: there, most of the time is the cost of calling NumPy, not of
# arithmetic. For longer texts the linear cost wins, and the gap grows with the length. Notebook 12 measures whole
# blocks.

# %% [markdown]
# ## What you can do now
#
# You can
#
# * compute a causal convolution and its gradient, over whole arrays and token by token,
# * test any map for causality, and say what a weak test misses, and
# * compute the receptive field of L layers of K taps: 1 + L (K - 1) tokens.
#
# ## Think about it
#
# No check can answer these. Write down your answer, or discuss it with someone.
#
# 1. How would you reach a thousand tokens with convolutions, and what would each way cost?
# 2. The filter is the same for every text. Which tasks can it then not do, however long it is?
#
# ## Read on
#
# In the code:
#
# * `minigam/engine/sequence.py`: `causal_conv1d`
# * `minigam/engine/compiled/sequence.py`: the faster rule of the same name, which pads nothing
# * `minigam/models/nn.py`: `CausalConv` and `BlockState`
#
# Elsewhere:
#
# * [WaveNet, causal and dilated convolutions](https://arxiv.org/abs/1609.03499)
# * [An Empirical Evaluation of Generic Convolutional and Recurrent Networks](https://arxiv.org/abs/1803.01271)
# * [A Guide to Convolution Arithmetic](https://arxiv.org/abs/1603.07285)
# * [Xception, depthwise convolutions](https://arxiv.org/abs/1610.02357)
