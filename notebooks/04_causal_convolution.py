# %% [markdown]
# # 04 · The causal convolution
#
# **Goal.** Derive, code and check the local half of a GAM block, E2: every token mixes what the K latest tokens
# say, and nothing that comes after it. At the end you will have written it forwards, backwards and token by token,
# and a test that finds out whether *any* map of a sequence looks into the future.
#
# **Time.** 75 minutes, 5 exercises. **Needs** 02 (gradient checks). Letters: B batch, T tokens, C channels,
# K kernel size, L layers.

# %% tags=["setup"]
import time

import numpy as np

from minigam import GAM, GAMConfig, Tensor, gradcheck, interop, nn, sequence, viz
from minigam.course import check, show

# %% [markdown]
# ## 1. A window that slides over the text
#
# "She had a red ..." To guess the next word, the last few words help most: an article wants a noun, "red" wants
# something that can be red. A GAM block therefore lets each token look back at a window of K tokens, itself
# included. In each channel it multiplies the K numbers that stand there by K learned weights and adds them up:
#
# $$ \mathrm{local\_context}_{btc} = b_c + \sum_{j=0}^{K-1} w_{cj}\; u_{b,\,t-(K-1)+j,\,c},
#    \qquad u_{btc} = 0 \ \text{ for } t < 0 $$
#
# That is E2. The K weights of a channel are its *filter*, and each weight is a *tap*. Read the index once with a
# pencil: at $j = K-1$ it is $t$, the present token; at $j = 0$ it is $t-(K-1)$, the oldest one in the window. There
# is no $j$ that reaches $t+1$. Here it is letter by letter, four loops and slow:

# %%
rng = np.random.default_rng(4)
B, T, C, K = 2, 8, 3, 3
u = rng.standard_normal((B, T, C))
w = rng.standard_normal((C, K))  # a filter for each channel
b = rng.standard_normal(C)


def by_the_formula(u, w, b):
    """E2, one number at a time: u (B, T, C), w (C, K), b (C) -> (B, T, C)."""
    (B, T, C), K = u.shape, w.shape[1]
    y = np.zeros((B, T, C))
    for i, t, c in np.ndindex(B, T, C):
        y[i, t, c] = b[c]
        for j in range(K):
            place = t - (K - 1) + j
            if place >= 0:  # before the first token everything is zero
                y[i, t, c] += w[c, j] * u[i, place, c]
    return y


local_context = by_the_formula(u, w, b)  # (B, T, C)
present = b + w[:, K - 1] * u[:, 0]  # at the first token, all taps but the last meet zeros
assert np.abs(local_context[:, 0] - present).max() < 1e-12
by_minigam = sequence.causal_conv1d(Tensor(u), Tensor(w), Tensor(b)).data
assert np.abs(local_context - by_minigam).max() < 1e-12

# %% [markdown]
# The same as a picture, for K = 3. Each row is one output, each column one input. The three taps move one token to
# the right from row to row, and the weights stay what they are.

# %%
words = ["she", "had", "a", "red", "button", "in", "a", "drawer"]
figure, axes = viz.panels("input token (z: zero, before the text)", "output of token")
figure.set_size_inches(8.0, 4.2)
axes.grid(False)
for t in range(len(words)):
    for j in range(K):
        place = t - (K - 1) + j
        looks = {"facecolor": "none", "edgecolor": viz.COLOURS[j], "linewidth": 2}
        axes.bar(place, 0.84, width=0.88, bottom=t - 0.42, linestyle=":" if place < 0 else "-", **looks)
        axes.text(place, t, f"$w_{j}$", ha="center", va="center", fontsize=12)
axes.set(xlim=(-2.6, T - 0.4), ylim=(T - 0.4, -0.6), xticks=range(-2, T), yticks=range(T))
axes.set_xticklabels(["z", "z", *words])
axes.set_yticklabels(words)
show(
    figure,
    "A staircase: the output of each word is made of three taps, w0 and w1 at the two words "
    "before and w2 at the word itself. In the first two rows some taps fall on zeros.",
)

# %% [markdown]
# ### Which way round? Three conventions
#
# Column $K-1$ of `w` meets the present token: the filter is laid over the window in reading order. PyTorch's
# `Conv1d` does the same. Strictly this is a *cross-correlation*. What a mathematician or an engineer of signals
# calls a convolution counts the taps by how far they look back, the lag $k = K-1-j$:
#
# $$ y_t = b + \sum_{k=0}^{K-1} h_k\, u_{t-k}, \qquad h_k = w_{K-1-k} $$
#
# The numbers are the same, and the filter is written backwards. Whoever mixes the two up gets a model that trains,
# with taps in a mirror, until weights from elsewhere are loaded into it: then it is silently wrong.

# %%
one, taps = u[0, :, 0], w[0]  # one sequence, one channel
h = taps[::-1]  # by lag, as NumPy's convolve counts
as_convolution = np.convolve(one, h)[:T]
as_correlation = np.correlate(np.concatenate([np.zeros(K - 1), one]), taps, mode="valid")
assert np.abs(b[0] + as_convolution - local_context[0, :, 0]).max() < 1e-12
assert np.abs(b[0] + as_correlation - local_context[0, :, 0]).max() < 1e-12

# %% [markdown]
# ## 2. Zeros on the left
#
# The first token has nobody before it. To give its window K numbers all the same, put K - 1 zeros before the text.
# Then T tokens come in and T outputs go out, and every window is a slice of one array.
#
# ### Exercise 04.1 ★☆☆ The padding
#
# Put K - 1 tokens of zeros before the first token of every sequence, and nothing anywhere else.
#
# <details><summary>Hint</summary>
#
# Tokens lie along axis 1. `np.concatenate` joins arrays along an axis, `np.zeros(shape)` makes the other one. With
# K = 1 there is nothing to add, and an array of shape (B, 0, C) is a good array.
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
# With `padded = pad_left(u, K)` the index of E2 loses its offset. Input token $t$ now stands at $t + (K-1)$, so
# $u_{t-(K-1)+j}$ is padded token $t + j$:
#
# $$ \mathrm{local\_context}_{t} = b + \sum_{j=0}^{K-1} w_{j}\; \mathrm{padded}_{t+j} $$

# %%
padded = pad_left(u, K)  # (B, K - 1 + T, C)
for t in range(T):
    window = padded[:, t : t + K]  # (B, K, C), the K latest tokens
    assert np.abs(b + (window * w.T).sum(axis=1) - local_context[:, t]).max() < 1e-12

# %% [markdown]
# ### Exercise 04.2 ★★☆ The convolution
#
# Write E2 for whole arrays. A loop over the K taps is fine; a loop over tokens, batch or channels is not: K is 3 or
# 4, T may be thousands.
#
# <details><summary>Hint</summary>
#
# Turn the sum round: which array of shape (B, T, C) does tap j multiply, for all tokens at once? It is `padded`
# from j on, T tokens long. And `w[:, j]` of shape (C) meets the last axis by broadcasting.
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

# %% [markdown]
# ### Depthwise: no channel hears another
#
# A convolution layer usually has a weight for each *pair* of channels, $W_{c c' j}$, and C outputs that each mix all C
# inputs. GAM's has one filter per channel, which is called *depthwise* (`groups=C` in PyTorch). It is the full one
# with zeros everywhere but at $c = c'$:
#
# $$ \mathrm{dense}_{btc} = b_c + \sum_{c'} \sum_j W_{cc'j}\, \mathrm{padded}_{b,\,t+j,\,c'}, \qquad
#    W_{cc'j} = \begin{cases} w_{cj} & c = c' \\ 0 & \text{otherwise} \end{cases} $$
#
# Mixing channels is left to the memory, the gate and the feed-forward layers, whose matrices do it anyway. What that saves:

# %%
W = np.zeros((C, C, K))
W[range(C), range(C)] = w
dense = b + sum(padded[:, j : j + T] @ W[:, :, j].T for j in range(K))
assert np.abs(dense - causal_conv(u, w, b)).max() < 1e-12

published = GAMConfig()
wide, taps_of = published.d_model, published.kernel_size
print(f"weights at C = {wide} and K = {taps_of}:")
print(f"depthwise {wide * taps_of:,}, dense {wide**2 * taps_of:,}")
layer = nn.CausalConv(wide, taps_of, np.random.default_rng(0))
assert layer.num_parameters() == wide * taps_of + wide  # a filter and a bias for each channel

# %% [markdown]
# In the authors' PyTorch weights the filters have the shape (C, 1, K): each of C output channels sees one input
# channel. `minigam.interop` reads and writes them; the order of the taps is the same.

# %%
config = GAMConfig(vocab_size=9, block_size=8, d_model=4, n_layers=1, n_slots=2)  # K = 3
tiny = GAM(config)
theirs = interop.to_official(tiny)["blocks.0.causal_conv.weight"]
assert theirs.shape == (4, 1, 3)
assert np.array_equal(theirs[:, 0], tiny.blocks[0].conv.weight.numpy())

# %% [markdown]
# ## 3. What can three numbers do?
#
# A lot, for a window of three. Take a signal that is flat, steps up and comes down again, with noise on it. Four
# filters, and what they make of it:

# %%
filters = {
    "shift: two tokens ago": [1.0, 0.0, 0.0],
    "difference: present minus previous": [0.0, -1.0, 1.0],
    "smoothing: mean of three": [1 / 3, 1 / 3, 1 / 3],
    "bend: second difference": [1.0, -2.0, 1.0],
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
    "tokens; the difference is near zero but for a peak up and a peak down at the steps; the "
    "mean rounds the steps and the noise; the second difference answers each step with a pair "
    "of peaks.",
)
flat_noise = slice(12, 20)
assert np.abs(filtered[0, 2:, 0] - signal[:-2]).max() < 1e-12  # the shift is exact
assert filtered[0, 10, 1] > 0.5 and filtered[0, 20, 1] < -0.5  # both steps are found
assert filtered[0, flat_noise, 2].std() < signal[flat_noise].std()  # less noise

# %% [markdown]
# With words the same thing reads differently. Give every word a channel of its own: 1 where the word stands, 0
# elsewhere. Equal taps then *count* the words of the window: a bag of words, in which "dog bites man" and "man bites
# dog" are the same. Taps that differ *say where* each word stands. A filter is a learned answer to the question
# "which of the last K words matter to this channel, and how much?"

# %%
vocabulary = ["dog", "bites", "man"]
one_hot = lambda text: np.array([[[float(v == x) for v in vocabulary] for x in text.split()]])
news, no_news = one_hot("man bites dog"), one_hot("dog bites man")  # (1, 3, 3) each
for name, row in (("equal taps", [1.0, 1.0, 1.0]), ("taps 1, 2, 4", [1.0, 2.0, 4.0])):
    seen = [causal_conv(x, np.tile(row, (3, 1)), np.zeros(3))[0, -1] for x in (news, no_news)]
    print(f"{name:13s} man bites dog: {seen[0]}   dog bites man: {seen[1]}")
    assert np.array_equal(seen[0], seen[1]) == (name == "equal taps")
print(f"channels: {vocabulary}")

# %% [markdown]
# And what it cannot do: decide by *content*. The taps are the same whatever the words are, so the map is linear, up
# to the bias, and the weight of a place is settled before the text is read:
#
# $$ \mathrm{conv}(\alpha u + \beta v) = \alpha\, \mathrm{conv}(u) + \beta\, \mathrm{conv}(v) \qquad (b = 0) $$
#
# "Look for the name, wherever it is in the window" is not among its filters. The gate of notebook 06 lets
# each token choose how much of the mix it takes, and attention (notebook 10) weighs every place by what stands there.

# %%
v = rng.standard_normal(u.shape)
conv = lambda z: causal_conv(z, w, np.zeros(C))
assert np.abs(conv(2.0 * u - 3.0 * v) - (2.0 * conv(u) - 3.0 * conv(v))).max() < 1e-12

# %% [markdown]
# ## 4. Causal, or cheating?
#
# A language model learns to name token $t+1$ from what it makes of tokens $0 \dots t$, at all $t$ at once. That works
# only if the output of token $t$ has not seen token $t+1$, which is the answer. A map with this property is *causal*.
# For a map $y = f(u)$ that has derivatives:
#
# $$ \frac{\partial y_{t}}{\partial u_{t'}} = 0 \quad \text{for all } t' > t $$
#
# One slip of the padding breaks it. Zeros on both sides, which libraries offer as "same" padding, put each token in
# the middle of its window. (PyTorch's `Conv1d` pads both ends alike. Whoever pads by K - 1 there has to cut off the last
# K - 1 outputs, and must not cut the first.)

# %%


def conv_padded(u, left):
    """E2 without bias, but only `left` of the K - 1 zeros before the text, others after."""
    zeros = lambda n: np.zeros((len(u), n, C))
    padded = np.concatenate([zeros(left), u, zeros(K - 1 - left)], axis=1)
    return sum(w[:, j] * padded[:, j : j + u.shape[1]] for j in range(K))


causal = lambda u: conv_padded(u, K - 1)
centred = lambda u: conv_padded(u, (K - 1) // 2)  # sees one token ahead
ahead = lambda u: conv_padded(u, 0)  # sees two tokens ahead

nudged = u.copy()
nudged[:, 5] += 1e-6  # a small step of token 5, in the future of token 4
change = [np.abs(f(nudged) - f(u))[:, :5].max() / 1e-6 for f in (causal, centred, ahead)]
print("earlier outputs move by, per unit of token 5:", [f"{c:.2f}" for c in change])
assert change[0] == 0 and change[1] > 1e-3 and change[2] > 1e-3

# %% [markdown]
# ### Exercise 04.3 ★★☆ A causality test
#
# Write the test for *any* map: `is_causal(f, u)` calls `f` as often as it likes on arrays of the shape of `u`, and
# says whether an output ever depends on a later token. `f` may be anything: it may normalise, look at one place only, or
# compute by a Fourier transform, so let an output that moves by less than `tolerance` count as rounding.
#
# <details><summary>Hint</summary>
#
# Change one token, call `f` again, and look at the outputs *before* that token. Each token in turn: a map may leak at one
# place only. Change it by random numbers about as large as `u`, not by the same number in all channels: LayerNorm takes away what all
# channels share, and would hide the leak. A seeded `np.random.default_rng` makes the test repeatable.
#
# </details>


# %% tags=["exercise"]
def is_causal(f, u, tolerance=1e-9):
    """Return whether no output of f moves when a later token does.

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
# The test on the three paddings, and on other maps you know. A memory asked by each token alone is causal, and so is a
# running sum; a mean over all tokens is not, and neither is subtracting it, which is an innocent looking way to normalise.

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
    assert is_causal(f, u) == wanted

# %% [markdown]
# Such a test can convict a map, but not acquit it: it tries one u, and one change of each token. Run it at several places.
#
# The whole picture is a map of T x T: change each input token in turn (a column) and mark the outputs that move (the
# rows). A causal map has nothing above the diagonal. A convolution has a band, K tokens wide.


# %%
def moved(f, u):
    """Return whether output t (row) moves when input t' (column) is changed: (T, T)."""
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
    ax.plot(columns, rows, "x", color=viz.COLOURS[1])  # what a causal map must not have
    ax.grid(False)
    ax.set_title(title, fontsize=10)


seen = {"padded left": causal, "padded on both sides": centred, "padded right": ahead}
figure, axes = viz.panels("input token changed", "output token", n=3, size=(10.0, 3.6))
for ax, (name, f) in zip(axes, seen.items(), strict=True):
    draw(ax, moved(f, u), name)
show(
    figure,
    "Three maps of 8 x 8, the outputs that move for each input. Padded left: a band of three "
    "on and below the diagonal. Padded on both sides: one token above the diagonal too, with "
    "crosses. Padded right: two tokens above it.",
)
lag = np.arange(T)[:, None] - np.arange(T)  # t - t'
assert np.array_equal(moved(causal, u), (lag >= 0) & (lag < K))
assert np.array_equal(moved(centred, u), (lag >= -1) & (lag < K - 1))

# %% [markdown]
# ### Why a cheat is hard to notice: it looks better
#
# Pure noise cannot be predicted. Let a filter try all the same: choose its taps, by least squares, so that output $t$
# comes near token $t+1$. The error is counted in parts of the noise's variance, so 1 is as good as knowing nothing.
# Then let the filter *write*: the next token does not exist yet, so wherever a tap reaches for it, it finds a zero.

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
    unknown = np.arange(K) > left  # taps on tokens that do not exist when writing
    writing = np.mean((np.where(unknown, 0.0, inputs) @ fitted - targets) ** 2) / noise.var()
    print(f"{name:13s} error in training {training:.3f}, when writing {writing:.3f}")
    assert writing > 0.9
    assert training > 0.9 if left == K - 1 else training < 1e-20

# %% [markdown]
# Both cheats reach an error of zero on something that cannot be predicted, and are worth nothing when they write. A
# loss that is too good is the first sign, and a causality test in the test suite the cure: this project has one for
# each of its models.

# %% [markdown]
# ## 5. The same thing as a matrix
#
# For one channel, E2 is linear in the T inputs, so it is a T x T matrix. Which? Output $t$ takes input $t'$ with the
# tap for which $t' = t-(K-1)+j$, that is $j = K-1-(t-t')$:
#
# $$ \mathrm{local\_context} = A\,u + b, \qquad
#    A_{tt'} = \begin{cases} w_{K-1-(t-t')} & 0 \le t-t' \le K-1 \\ 0 & \text{otherwise} \end{cases} $$
#
# Three things can be read off it. It is lower triangular: causal. It is a band: local. Its diagonals are constant, and
# such a matrix is called *Toeplitz*: every token is treated alike, wherever it stands.


# %%
def banded(taps, T):
    """Return the matrix A of one channel: taps (K) -> (T, T)."""
    K = len(taps)
    return sum(taps[j] * np.eye(T, k=j - (K - 1)) for j in range(K))


A = np.stack([banded(w[c], T) for c in range(C)])  # (C, T, T)
y = np.einsum("cts,bsc->btc", A, u) + b
assert np.abs(y - causal_conv(u, w, b)).max() < 1e-12
assert np.abs(np.triu(A, 1)).max() == 0  # causal
assert np.count_nonzero(A[0]) == T * K - K * (K - 1) // 2  # local; some taps fell on zeros

later = np.concatenate([np.zeros((B, 2, C)), u[:, :-2]], axis=1)  # everything two tokens later
assert np.abs(conv(later)[:, 2:] - conv(u)[:, :-2]).max() < 1e-12  # and so is the output

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
# A loss $\mathcal{L}$ has the gradient $dy = \partial \mathcal{L} / \partial\,\mathrm{local\_context}$ at the output. We
# want $du$, $dw$ and $db$. Take one sequence and one channel (others do not meet here) and write E2 once more with the
# place of each input spelled out, $s = t-(K-1)+j$:
#
# $$ y_t = b + \sum_{j=0}^{K-1} w_j\, u_{t-(K-1)+j} $$
#
# **The bias** is added to every output with weight 1: $\partial y_t / \partial b = 1$ for all $t$. **A tap** multiplies
# the input at its place: $\partial y_t / \partial w_j = u_{t-(K-1)+j}$. Each collects from all outputs, and from all
# sequences of the batch:
#
# $$ db = \sum_t dy_t, \qquad dw_j = \sum_t dy_t\, u_{t-(K-1)+j} $$
#
# **An input** is used by K outputs. Input $s$ is met by tap $j$ in the output $t$ for which $t-(K-1)+j = s$, so
# $t = s + (K-1) - j$, if that output exists:
#
# $$ du_s = \sum_t dy_t \frac{\partial y_t}{\partial u_s} = \sum_{j=0}^{K-1} w_j\, dy_{s+(K-1)-j},
#    \qquad dy_t = 0 \ \text{ for } t \ge T $$
#
# Look at the signs. Forwards tap $j$ looked $K-1-j$ tokens back; backwards it looks $K-1-j$ tokens *ahead*. The gradient
# is a sum over a window again, with the same taps and the window on the other side, the zeros now at the end.

# %%
dy = rng.standard_normal(u.shape)
du, dw, db = np.zeros_like(u), np.zeros_like(w), dy.sum(axis=(0, 1))
for j in range(K):
    for s in range(T):
        t = s + (K - 1) - j  # the output in which tap j meets input s
        if t < T:
            du[:, s] += w[:, j] * dy[:, t]
            dw[:, j] += (dy[:, t] * u[:, s]).sum(axis=0)

tape = [Tensor(z, requires_grad=True) for z in (u, w, b)]
sequence.causal_conv1d(*tape).backward(dy)
for by_hand, by_tape in zip((du, dw, db), tape, strict=True):
    assert np.abs(by_hand - by_tape.grad).max() < 1e-12

# %% [markdown]
# The matrix says it in one line: if $y = A u$, then $du = A^\top dy$. Transposing a lower triangular band gives an upper
# triangular one. So the gradient of a map that sees no future comes from the present and the future only: a token is told
# by its own output, and by those after it, what it was good for.
#
# $$ du = A^\top\, dy $$

# %%
assert np.abs(np.einsum("cts,btc->bsc", A, dy) - du).max() < 1e-12
assert not is_causal(lambda dy: np.einsum("cts,btc->bsc", A, dy), dy)

# %%
example, impulse = np.array([0.4, 0.7, 1.0]), np.zeros(11)
impulse[5] = 1.0
M = banded(example, 11)
figure, axes = viz.panels("token", n=2, size=(9.0, 3.2))
for ax, z, title in (
    (axes[0], M @ impulse, "forwards: an input at token 5 reaches these outputs"),
    (axes[1], M.T @ impulse, "backwards: a gradient at token 5 reaches these inputs"),
):
    colours = [viz.COLOURS[t == 5] for t in range(11)]
    ax.bar(range(11), z, width=0.6, color=colours)
    for t in np.flatnonzero(z):
        ax.text(t, z[t] + 0.03, f"$w_{int(np.flatnonzero(example == z[t])[0])}$", ha="center")
    ax.set(ylim=(0, 1.25), xticks=range(11))
    ax.set_title(title, fontsize=10)
axes[0].set_ylabel("size")
show(
    figure,
    "Left: an input at token 5 spreads to tokens 5, 6 and 7, with w2, w1 and w0. Right: a "
    "gradient at token 5 spreads to tokens 3, 4 and 5, with w0, w1 and w2.",
)
assert np.flatnonzero(M @ impulse).tolist() == [5, 6, 7]
assert np.flatnonzero(M.T @ impulse).tolist() == [3, 4, 5]

# %% [markdown]
# ### Exercise 04.4 ★★★ The convolution, backwards
#
# Write the three gradients for whole arrays: again a loop over the taps at most.
#
# <details><summary>Hint</summary>
#
# Do it in two steps. For the taps you need `padded` again. For the input, find the gradient of `padded` first: forwards
# tap j read `padded[:, j : j + T]`, so backwards it *adds* `w[:, j] * dy` into the same slice. Then drop the K - 1 tokens
# that were zeros: nobody asks for their gradient.
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
# `gradcheck` of notebook 02 on the project's own rule, and the edges. With K = 1 there is no window, only a scale and a
# shift of each token. With T < K some taps meet nothing but zeros, and get a gradient of exactly zero: they cannot learn
# from texts this short.

# %%
worst = gradcheck(sequence.causal_conv1d, *tape)
print(f"worst relative error {worst:.1e}")
assert worst < 1e-6

assert np.abs(causal_conv(u, w[:, :1], b) - (w[:, 0] * u + b)).max() < 1e-12  # K = 1
short = u[:, :2]  # T = 2 < K = 3
du, dw, db = conv_backward(np.ones_like(short), short, w)
assert np.abs(dw[:, 0]).max() == 0  # tap 0 has never met a token
assert (np.abs(dw[:, 1:]).max(axis=0) > 0).all()

# %% [markdown]
# ### Filters that learn where to look
#
# Your two functions are all that learning needs. Texts of random words, each word with a channel of its own; the wanted
# output of channel c is 1 where word c stood $c \bmod 3$ tokens ago, else 0. Nothing tells the filters so: they start at random and
# follow the gradient of the mean squared error.

# %%
V, taps_learned, bias = 6, rng.uniform(-0.5, 0.5, (6, K)), np.zeros(6)
lags = np.arange(V) % K
texts = np.eye(V)[rng.integers(V, size=(16, 64))]  # (16, 64, 6), one-hot
earlier = [pad_left(texts, K)[:, K - 1 - lag :][:, :64] for lag in lags]  # lag tokens ago
wanted = np.stack([earlier[c][..., c] for c in range(V)], axis=-1)  # (16, 64, 6)
before, losses = taps_learned.copy(), []
for _ in range(60):
    error = causal_conv(texts, taps_learned, bias) - wanted  # (16, 64, 6)
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
    "The error falls steadily on a logarithmic scale. Before, the 6 x 3 taps are random; "
    "after, each channel has a tap near 1 at the place it was asked for (2, 1, 0, 2, 1, 0), "
    "and taps near 0 elsewhere.",
)
assert np.array_equal(taps_learned.argmax(axis=1), K - 1 - lags)
assert losses[-1] < 0.01 * losses[0]

# %% [markdown]
# ## 7. Token by token: a state of K - 1 inputs
#
# Whoever writes a text, writes one token at a time. To compute output $t$ anew from the whole text would be a waste: all
# it needs from the past is the K - 1 inputs before it. Call them the *past*, oldest first. One step is
#
# $$ y_t = b + \sum_{j=0}^{K-2} w_j\, \mathrm{past}_j + w_{K-1}\, u_t, \qquad
#    \mathrm{past} \leftarrow (\mathrm{past}_1, \dots, \mathrm{past}_{K-2},\, u_t) $$
#
# and before the first token the past is zero: the padding of section 2 is nothing but the first state.
#
# ### Exercise 04.5 ★★☆ One step
#
# Write the step: take the past and one token of every sequence, return the output and the new past. It must work for
# K = 1 too, where the past is empty.
#
# <details><summary>Hint</summary>
#
# Put past and present together into one window of K tokens; the output is a weighted sum over it, and the new past is
# the window without its oldest token. Write "without the first" as `window[:, 1:]`. The other way, `window[:, -(K-1):]`,
# returns *everything* when K is 1, because -0 is 0.
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
assert np.array_equal(past, u[:, T - (K - 1) :])  # all it remembers

# %% [markdown]
# Single tokens are not the only way: a text may be cut into parts of any length. `sequence.causal_conv1d` takes a `past`, and `nn.CausalConv` keeps it in a `BlockState`.
# The plain rule adds in the same order whether a text comes whole or in parts, so the results are equal to the last
# bit; the faster rule for whole texts may add in another order, and is equal to rounding.

# %%
rule = sequence.causal_conv1d.rule  # the plain one
for cut in range(1, T):
    first, _ = rule(np, u[:, :cut], w, b, np.zeros((B, K - 1, C)))
    past = np.concatenate([np.zeros((B, K - 1, C)), u[:, :cut]], axis=1)[:, cut:]
    second, _ = rule(np, u[:, cut:], w, b, past)
    assert np.array_equal(np.concatenate([first, second], axis=1), rule(np, u, w, b)[0])

layer = nn.CausalConv(C, K, np.random.default_rng(1))
state = layer.new_state(B)
parts = [layer(Tensor(u[:, i:k]), state).numpy() for i, k in ((0, 1), (1, 4), (4, 8))]
assert np.abs(np.concatenate(parts, axis=1) - layer(Tensor(u)).numpy()).max() < 1e-12
print(f"state of a layer at C = {wide}, K = {taps_of}: {(taps_of - 1) * wide:,} numbers")

# %% [markdown]
# Attention has to keep a key and a value for *every* token read so far. That a GAM's state does not grow is why its
# ten-thousandth token costs what its hundredth did. The next section shows the price.

# %% [markdown]
# ## 8. Layer upon layer: how far can it see?
#
# One layer sees K tokens: the present one and K - 1 before it. Its outputs are the inputs of the next layer, which sees K
# of *those*, and the oldest of those has itself seen K - 1 tokens further back. Each layer adds K - 1. With $R_L$ for the
# number of tokens that L layers see:
#
# $$ R_0 = 1, \qquad R_L = R_{L-1} + (K-1) \quad\Longrightarrow\quad R_L = 1 + L\,(K-1) $$

# %%
long = rng.standard_normal((1, 16, C))


def stacked(layers, K):
    """Return the map of several convolutions with filters of their own, tanh between them."""
    own = rng.uniform(0.5, 1.5, (layers, C, K))

    def f(u):
        for filters in own:
            u = np.tanh(0.3 * causal_conv(u, filters, np.zeros(C)))
        return u

    return f


for size in (1, 2, 3, 4):
    for L in (1, 2, 3, 4):
        seen = moved(stacked(L, size), long)[-1].sum()  # inputs that move the last output
        assert seen == 1 + L * (size - 1)

# %%
figure, axes = viz.panels("input token changed", "output token", n=3, size=(10.0, 3.6))
for ax, L in zip(axes, (1, 2, 3), strict=True):
    reach = moved(stacked(L, K), long)
    draw(ax, reach, f"L = {L}, K = {K}: sees {reach[-1].sum()} tokens")
    assert reach[-1].sum() == 1 + L * (K - 1)
show(
    figure,
    "Three maps of 16 x 16. The band on and below the diagonal is 3 tokens wide for one "
    "layer, 5 for two, 7 for three.",
)

# %% [markdown]
# Without anything between them the layers would even melt into one (biases aside). Filters in a row are one long filter, their
# convolution, and a convolution of L filters of K taps has $1 + L(K-1)$ taps. The same number, seen from another side:
#
# $$ A^{(2)} A^{(1)} = A \quad \text{with the taps} \quad w = w^{(2)} * w^{(1)} $$

# %%
inner, outer = rng.standard_normal((2, K))
both = np.convolve(outer, inner)
assert np.abs(banded(outer, T) @ banded(inner, T) - banded(both, T)).max() < 1e-12
assert len(both) == 1 + 2 * (K - 1)

# %% [markdown]
# In a GAM nothing else moves information between tokens, so this is how far the *whole model* sees: its `reach`. At the
# published size that is not many words. Notebook 09 is about what follows from it.

# %%
reach = 1 + published.n_layers * (published.kernel_size - 1)
print(f"published: L = {published.n_layers}, K = {published.kernel_size}, sees {reach} tokens")
assert tiny.reach == 1 + tiny.config.n_layers * (tiny.config.kernel_size - 1)

# %% [markdown]
# ## 9. What does it cost?
#
# Every output takes K products and K sums in each channel. Backwards it is twice that: once for $du$, once for $dw$. A
# count of operations ("flop" is one multiplication or one addition):
#
# $$ \text{forward} = 2\,B\,T\,C\,K \ \text{flop}, \qquad \text{backward} = 4\,B\,T\,C\,K \ \text{flop} $$
#
# For the backward pass $u$ must be kept: $B\,T\,C$ numbers, which the layer before made anyway. As a full matrix, most of
# it zeros, the same map would take $2\,B\,T^2 C$.

# %%
flop = lambda T, K: 2 * B * T * C * K
products = B * np.count_nonzero(A)  # of a tap and a token
on_zeros = B * C * K * (K - 1) // 2  # taps that meet the padding
assert flop(T, K) == 2 * (products + on_zeros)
assert np.count_nonzero(A.transpose(0, 2, 1)) == np.count_nonzero(A)  # du takes as many
assert flop(T, T) == 2 * B * T**2 * C  # what a full matrix would take


def median_ms(f, *arrays, repeats=5):
    """Return the median time of a call, in milliseconds."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        f(*arrays)
        times.append((time.perf_counter() - start) * 1e3)
    return float(np.median(times))


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
    "On logarithmic axes the time of the matrix rises steeply with the length; that of the "
    "taps rises slowly, and lies far below it for long texts.",
)

# %% [markdown]
# For very short texts a matrix may even win: there the time goes into calling NumPy a few times, not into sums. Then
# linear growth wins, and wins by more the longer the text is. Notebook 12 measures whole blocks.

# %% [markdown]
# ## What you have now
#
# * E2 forwards, backwards and token by token, in a few lines each, and checked.
# * A causality test that works on any map. Use it on whatever you build.
# * The one number that the rest of the course comes back to: L layers of K taps see $1 + L(K-1)$ tokens.
# * A local context that treats every text alike. Notebook 05 asks a memory instead, and 06 lets each token choose.
#
# **Read on in the code:** `minigam/engine/sequence.py`, `causal_conv1d`; the faster rule of the same name in
# `minigam/engine/compiled/sequence.py`, which pads nothing; and `CausalConv` and `BlockState` in `minigam/models/nn.py`.
