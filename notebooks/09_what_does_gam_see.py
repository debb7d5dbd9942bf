# %% [markdown]
# # 09 · What does GAM see?
#
# **Goal.** Say exactly which tokens an output of a GAM depends on: derive their number, measure it on any
# model, and use it to tell before any training what a model cannot learn. At the end you will have shown
# this: on words that must be recalled from further back, a trained GAM is within a few per cent of the best
# result that *any* model with the same view can reach.
#
# **Time.** 120 minutes, 5 exercises. **Needs** 04 (the causal convolution), 05 (the memory) and 07 (the
# block); 08 (training) helps. Letters: B batch, T tokens, C channels, S slots, K kernel size, L layers, V
# vocabulary, R reach, N stories (not Mamba's states). t is the position of an output, d counts tokens back
# from t, and n tokens back from the predicted word.

# %% tags=["setup"]
import math

import numpy as np
from tqdm import tqdm

from minigam import (
    GAM,
    GAMConfig,
    Mamba,
    Stream,
    Transformer,
    inputs_and_targets,
    mqar,
    no_grad,
    pocketstories,
    viz,
)
from minigam.course import check, results, show, trained

# %% [markdown]
# ## 1. Which token reads which?
#
# Go through a block equation by equation. For each one ask: which tokens does its output at position t depend
# on?
#
# | eq. | what it does | tokens that its output at t reads |
# |---|---|---|
# | E1 | LayerNorm | t |
# | E2 | causal convolution of K taps | t - (K - 1), ..., t |
# | E3-E5 | recall from the memory, the same for every text | t |
# | E6-E7 | gate and fusion | t |
# | E8-E9 | residual, feed-forward | t |
#
# Only E2 reads earlier tokens, and it reads K - 1 of them. Now stack blocks. Write $R_\ell$ for the number of
# tokens, the present one included, on which a position depends after block $\ell$.
#
# * Before the first block a position holds the embedding of its own token: $R_0 = 1$.
# * A position after block $\ell$ reads K neighbouring positions after block $\ell - 1$. The oldest of them
#   lies K - 1 tokens back and depends on $R_{\ell-1}$ tokens itself. So each block extends the view by K - 1
#   tokens.
#
# $$ R_0 = 1, \qquad R_\ell = R_{\ell - 1} + (K - 1) \qquad\Longrightarrow\qquad R = R_L = 1 + L\,(K - 1) $$
#
# R is called the **receptive field** of the model, or its **reach**. Step by step, for the model that
# `make train` makes:

# %%
L, K = 4, 4
R = 1
for layer in range(1, L + 1):
    R = R + (K - 1)
    print(f"after block {layer}: {R} tokens")
assert R == 1 + L * (K - 1)

# %% [markdown]
# The same as a picture. Start at the last position at the top and follow every line down.

# %%
show(
    viz.receptive_field(L, K),
    "A triangle: one position after block 4 depends on four after block 3, seven after block 2, ten "
    "after block 1, and thirteen tokens. Tokens further back are not connected to it.",
)

# %% [markdown]
# ### Exercise 09.1 ★☆☆ The reach
#
# Write R as a function of the number of layers, the kernel size and the mixer. `mixer` says how a block
# combines its two contexts: "gated" is E7, "sum" has no gate, "local" is the convolution alone. These three
# contain the convolution. **"global" is the memory alone.** Return an int.
#
# <details><summary>Hint</summary>
#
# The formula above holds for three of the four mixers. For the fourth, remove the row of E2 from the table.
# On how many tokens does an output depend then, whatever the number of blocks?
#
# </details>


# %% tags=["exercise"]
def reach(n_layers, kernel_size, mixer="gated"):
    """Return how many tokens, the present one included, an output of a GAM can depend on."""
    # SOLUTION
    if mixer == "global":
        return 1
    return 1 + n_layers * (kernel_size - 1)
    # END


# %%
check.ex_09_1(reach)

# %%
published = GAMConfig()
print("the published model sees", reach(published.n_layers, published.kernel_size), "tokens")
assert reach(published.n_layers, published.kernel_size) == reach(4, 4)

# %% [markdown]
# The published model (L = 6, K = 3) and ours (L = 4, K = 4) have the same reach of 13 tokens. The learned
# positions do not extend it. They tell a token *where* it stands, but nothing about the other tokens.

# %% [markdown]
# ## 2. Measure it
#
# A formula derived on paper is a claim about code. We test it with two measurements. Beyond the reach both
# must give **exactly** zero, not just a small number: a token that is not connected cannot change even one
# bit of the output.
#
# **The gradient.** Let $x_s$ (C,) be the input of the first block at position $s$. Let $c$ (V,) be random
# numbers. They turn the logits at the last position into one number,
# $\langle c, \mathrm{logits}_{T-1} \rangle$. (Random numbers avoid accidental cancellation, see notebook 02.)
# Then
#
# $$ J_s = \Big\| \frac{\partial\, \langle c, \mathrm{logits}_{T-1} \rangle}{\partial x_s} \Big\| $$
#
# is zero for every $x_s$ on which the last output does not depend. It is easy to read off: row $s$ of the
# position embedding is added to token $s$ and used nowhere else, so *its gradient is the gradient with
# respect to $x_s$*.


# %%
def tiny(kind, T=24, **numbers):
    """Make a small random model in double precision, 7 tokens in its vocabulary."""
    shared = {"vocab_size": 7, "block_size": T, "d_model": 12, "dropout": 0.0}
    return kind(kind.Config(**shared, **numbers), seed=9, dtype="float64").eval()


def gradient_by_position(model, ids, rng):
    """Return J (T): how strongly the last output depends on each input."""
    c = np.zeros((1, len(ids), model.config.vocab_size))
    c[0, -1] = rng.standard_normal(model.config.vocab_size)
    model.zero_grad()
    model(ids[None]).backward(c)
    return np.linalg.norm(model.position_embedding.weight.grad, axis=-1)


rng = np.random.default_rng(9)
ids = rng.integers(7, size=24)
print(" L  K   formula   positions with a gradient")
for n_layers, kernel_size in ((1, 1), (1, 5), (2, 3), (3, 2), (4, 4), (6, 3)):
    model = tiny(GAM, n_layers=n_layers, n_slots=5, kernel_size=kernel_size)
    J = gradient_by_position(model, ids, rng)[::-1]  # J[d]: d places back
    R = reach(n_layers, kernel_size)
    print(f"{n_layers:2} {kernel_size:2} {R:9} {int((J != 0).sum()):10}")
    assert (J[:R] > 0).all(), "the output depends on every token in reach"
    assert (J[R:] == 0).all(), "beyond the reach the gradient is exactly 0"

# %% [markdown]
# **The replacement.** The gradient needs access to the inside of a model. The second measurement does not:
# replace the token at position $s$, run the model again, and see which outputs change. It works for any
# function from tokens to numbers. You write it.
#
# ### Exercise 09.2 ★★☆ The reach of a black box
#
# `f` takes ids of shape (T,) and returns an array (T, V), one row for each position. Return how many tokens
# back its **last** row reaches, the present token included. That is 1 + d for the largest d such that
# replacing the token d places before the last changes the last row at all. Return 0 if no replacement changes
# it. There are three traps. The function may ignore some of the tokens in between. It may treat two tokens as
# the same, so try every token in each place. And a change of $10^{-9}$ counts as a change.
#
# <details><summary>Hint</summary>
#
# Two loops: over d = 0 .. T-1, and over all tokens of the vocabulary. Copy `ids` before you change an entry.
# Compare with `!=` and `.any()`, not with `np.allclose`. Keep the largest 1 + d that changed something, with
# `max`.
#
# </details>


# %% tags=["exercise"]
def measured_reach(f, ids, vocab_size):
    """Return how many tokens the last row of f(ids) (T, V) depends on, 0 to T; ids (T,)."""
    # SOLUTION
    before, T, furthest = f(ids)[-1], len(ids), 0
    for d in range(T):
        for token in range(vocab_size):
            changed = ids.copy()
            changed[T - 1 - d] = token
            if (f(changed)[-1] != before).any():
                furthest = max(furthest, 1 + d)
    return furthest
    # END


# %%
check.ex_09_2(measured_reach)

# %% [markdown]
# Compare your measurement with the attribute `reach` of each model, the Transformer and Mamba included.
# `reach` is `None` for a model that sees all earlier tokens.


# %%
def black_box(model):
    """Return the model as a function of ids (T,) alone."""

    def f(ids):
        with no_grad():
            return model(ids[None]).numpy()[0]

    return f


large = {"n_layers": 3, "n_slots": 5, "kernel_size": 4}
boxes = {
    "GAM, L 2, K 3": tiny(GAM, n_layers=2, n_slots=5, kernel_size=3),
    "GAM, L 3, K 4": tiny(GAM, **large),
    "GAM, L 3, K 4, memory alone": tiny(GAM, **large, mixer="global"),
    "Transformer, L 1": tiny(Transformer, n_layers=1, n_heads=2),
    "Mamba, L 1": tiny(Mamba, n_layers=1, d_state=4),
}
print(f"{'model':30} reach  measured, of {len(ids)}")
for label, model in tqdm(boxes.items(), leave=False):
    measured = measured_reach(black_box(model), ids, 7)
    print(f"{label:30} {model.reach!s:>5} {measured:9}")
    assert measured == (model.reach or len(ids))

# %% [markdown]
# With the memory alone an output depends on one token, whatever the size of the memory. "Global context"
# means that a token reads the whole memory. It does not mean that it reads the whole text.
#
# ## 3. The whole map
#
# Now every output $t$ against every input $s$. The entry is the largest change of a logit at $t$ when token
# $s$ is replaced (here by one other token, the next of the vocabulary):
#
# $$ I_{ts} = \max_v \big|\, \mathrm{logits}_{tv}(\text{token } s \text{ replaced}) - \mathrm{logits}_{tv} \,\big| $$


# %%
def influence(f, ids, vocab_size):
    """Return (T, T): how far each output t changes when input s is replaced."""
    before, columns = f(ids), []
    for s in range(len(ids)):
        changed = ids.copy()
        changed[s] = (changed[s] + 1) % vocab_size
        columns.append(np.abs(f(changed) - before).max(axis=-1))
    return np.stack(columns, axis=1)


chosen = {"GAM": "GAM, L 3, K 4", "Transformer": "Transformer, L 1", "Mamba": "Mamba, L 1"}
maps = {label: influence(black_box(boxes[name]), ids, 7) for label, name in chosen.items()}
R = reach(3, 4)
show(
    viz.influence_map(maps, {"GAM": R}),
    "Three square maps. In all of them the part above the diagonal is empty: no output depends on a "
    "later token. In GAM's a band along the diagonal is coloured and everything below it empty. In the "
    "Transformer's and Mamba's the whole lower triangle is coloured.",
)
back = np.subtract.outer(np.arange(24), np.arange(24))  # [t, s]: how far back s lies
for label, moved in maps.items():
    assert (moved[back < 0] == 0).all(), "causal: later tokens change nothing"
    seen = (back >= 0) & (back < R) if label == "GAM" else back >= 0
    assert (moved[seen] > 0).all(), label
    assert (moved[~seen] == 0).all(), label
last = {label: moved[-1] for label, moved in maps.items()}
# The mean of the first 8 inputs, divided by that of the 8 just before the last.
fading = {label: row[:8].mean() / row[-9:-1].mean() for label, row in last.items()}
for label, ratio in fading.items():
    print(f"{label:12} far inputs change the last output {ratio:.3f} times as much as near ones")
assert fading["GAM"] == 0.0 < fading["Mamba"] < 0.1 < fading["Transformer"]

# %% [markdown]
# All three are empty above the diagonal, because all three are causal (notebook 04). Below the diagonal they
# differ. In these random models Mamba's influence fades with the distance, and attention's hardly does. GAM's
# is exactly zero beyond its reach.
#
# ## 4. How deep must a GAM be?
#
# ### Exercise 09.3 ★☆☆ Layers for a distance
#
# How many blocks with kernel size K are needed so that an output at t depends on the token at t - d? Return
# the smallest such L. For d = 0 it is 0. With K = 1 no number of blocks is enough: return `math.inf`, unless
# d is 0.
#
# <details><summary>Hint</summary>
#
# The output depends on t - d if d is at most R - 1. Insert the formula for R, solve for L, and round up:
# `-(-a // b)` is a / b rounded up.
#
# </details>


# %% tags=["exercise"]
def layers_needed(d, kernel_size):
    """Return the least number of blocks with which an output sees the token d places back."""
    # SOLUTION
    if d == 0:
        return 0
    if kernel_size == 1:
        return math.inf
    return -(-d // (kernel_size - 1))
    # END


# %%
check.ex_09_3(layers_needed)

# %%
print(" d    K=2    K=3    K=4    K=8")
for d in (1, 12, 13, 60, 255):
    print(f"{d:3}" + "".join(f"{layers_needed(d, K):7}" for K in (2, 3, 4, 8)))
for d in (1, 12, 13, 60, 255):
    for K in (2, 3, 4, 8):
        needed = layers_needed(d, K)
        assert reach(needed, K) > d >= reach(needed - 1, K)

# %% [markdown]
# The published model has K = 3 and reads rows of 256 tokens. For its last output to depend on the first token
# it would need 128 blocks. It has 6.
#
# ## 5. A trained model
#
# Training does not change the connections. Now take the model that `make train` makes. (The first call trains
# it, which takes a minute or a few; later calls read it.) It was trained on PocketStories, short generated
# stories in which the exact probability of every token is known.

# %%
run, model, corpus = trained()
model.eval()
R = model.reach
words = corpus.tokenizer.vocabulary
rows, targets = inputs_and_targets(corpus.valid)  # (N, T) each; a target follows its input
print(model.config)
assert reach(model.config.n_layers, model.config.kernel_size) == R == 13

# %% [markdown]
# Replace the token d places before t in these stories and measure how much the *prediction* at t changes. The
# measure is the total variation distance between two distributions over the next word. It is 0 if they are
# equal, and 1 if they have no word in common:
#
# $$ \mathrm{TV}(p, q) = \frac{1}{2} \sum_{v} |p_v - q_v| $$


# %%
def predictions(ids):
    """Return the model's distribution over the next token: ids (B, T) -> (B, T, V)."""
    with no_grad():
        z = model(ids).numpy()
    e = np.exp(z - z.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def total_variation(p, q):
    """Return TV of distributions (..., V): (...)."""
    return 0.5 * np.abs(p - q).sum(axis=-1)


assert total_variation(np.array([0.5, 0.5, 0.0]), np.array([0.5, 0.5, 0.0])) == 0.0
assert total_variation(np.array([0.5, 0.5, 0.0]), np.array([0.0, 0.0, 1.0])) == 1.0

# %%
t, furthest = 60, 24
asked = rows[:16, : t + 1]  # 16 stories up to position t
assert (targets[:16, t] >= 0).all()
before = predictions(asked)[:, -1]
moved = []
for d in tqdm(range(furthest), leave=False):
    changed = asked.copy()
    changed[:, t - d] = (changed[:, t - d] + rng.integers(1, len(words), size=16)) % len(words)
    moved.append(total_variation(predictions(changed)[:, -1], before).mean())
moved = np.array(moved)
figure = viz.reach_plot({"GAM": moved.tolist()}, {"GAM": R})
figure.axes[0].set_xlim(-0.5, furthest - 0.5)
show(
    figure,
    "The change of the prediction is largest for the nearest tokens and falls by several orders of "
    "magnitude up to the token 12 back. There is no point beyond the line at 13 tokens: there the "
    "change is exactly 0.",
)
print("d =  0:", f"{moved[0]:.3f}")
print("d = 12:", f"{moved[12]:.1e}")
print("d = 13:", moved[13])
assert (moved[:R] > 0).all()
assert (moved[R:] == 0).all(), "exactly 0"

# %% [markdown]
# A logarithmic axis cannot show the zeros at 13 and beyond. The project's `reach` experiment has done the
# same with trained models, replacing every token of 32 stories. Its numbers are stored in the repository:

# %%
stored = results("reach")["runs"]
means, reaches = ({k: v[name] for k, v in stored.items()} for name in ("mean", "reach"))
show(
    viz.reach_plot(means, reaches),
    "GAM's curve ends at 12 tokens back. The other curves continue to more than a hundred. (The "
    "written memory is that of notebook 16.)",
)
assert [v["measured_reach"] for v in stored.values() if v["reach"]] == [R]
assert all(v["mean"][R] > 0 for v in stored.values() if v["reach"] is None)
assert stored["GAM"]["mean"][R] == 0

# %% [markdown]
# ## 6. One story, word by word
#
# Every token of PocketStories has one of three kinds. A *choice* is random: nothing before it determines it.
# A *syntax* token is determined by the 13 tokens before it. A *recall* token is determined by something
# further back, such as who the hero is or what was lost. The stories can be generated again from their seed.
# Then each token comes with two more numbers. `nats` is -log of its exact probability (0: determined).
# `lookback` says how many tokens before it lies the mention that determines it (0 if no mention does).
#
# Two ways of counting differ by one. The model predicts word $j$ from the words before it; the last of these
# is the present token. A mention $n$ tokens before the *predicted* word is $d = n - 1$ places before the
# *present* token. It is in reach if $d \le R - 1$, that is, if $n \le R$.

# %%
names = lambda slot, form="name": {value[form] for value in pocketstories.SLOTS[slot]}
stories = list(pocketstories.stories(len(rows), 1))  # their seed is 1
story = stories[0]
text = [token.text for token in story]
assert text == [words[i] for i in targets[0, : len(story)]]
determined = lambda token: token.lookback > 0 and token.nats == 0  # by a mention
mentions = {j: token.lookback for j, token in enumerate(story) if determined(token)}
inside = min(mentions, key=mentions.get)  # the nearest mention
name = next(j for j in mentions if mentions[j] > R and text[j] in names("hero"))  # the name again
edge = max((j for j in mentions if mentions[j] <= R), key=mentions.get)  # the furthest in reach


def look(j):
    """Show the words from which the model predicts word j, and its prediction."""
    back = story[j].lookback
    print(f"hidden: {text[j]!r}, determined by {text[j - back]!r}, {back} tokens before it")
    show(
        viz.text_in_sight(text, j, j - back, R),
        f"A story up to word {j}, which is hidden. Blue boxes mark the {R} words before it, which the "
        f"model reads. A frame marks the mention that determines the word, {back} tokens back.",
    )
    p = predictions(rows[:1])[0, j]
    for v in np.argsort(-p)[:6]:
        print(f"{p[v]:7.3f}  {words[v]}")
    return p[targets[0, j]]


sure = look(inside)
assert story[inside].lookback <= R
assert sure > 0.9

# %% [markdown]
# The mention is inside the blue window, and the model is nearly certain. Next, a place where the hero's name
# appears again:

# %%
unsure = look(name)
assert story[name].lookback > R
assert unsure < 0.3

# %% [markdown]
# The model knows that a name comes here, and it knows the names. It does not know which one, because the
# mention lies outside the window. Here is the loss ($-\log p$, in nats) of every token of the story:

# %%
with no_grad():
    losses = model.token_losses(rows[:1], targets[:1]).numpy()[0, : len(story)]
kinds = corpus.kinds[0, : len(story)]
figure, axes = viz.panels("position in the story (tokens)", "loss (nats)", size=(9.0, 3.2))
axes.vlines(np.arange(len(story)), 0, losses, color=viz.INK, linewidth=1)
for kind, style in zip(pocketstories.KINDS, (".", "s", "^"), strict=True):
    at = np.flatnonzero(kinds == pocketstories.KINDS.index(kind))
    axes.plot(at, losses[at], style, markersize=5, label=kind)
axes.legend(frameon=False)
show(
    figure,
    "One line for each token. Syntax lies at zero, except for one token, choices between 0 and 3 nats, "
    "recall tokens between 0.5 and 3.",
)
assert losses[kinds == pocketstories.KINDS.index("syntax")].mean() < 0.2
assert losses[kinds == pocketstories.KINDS.index("recall")].mean() > 1.0

# %% [markdown]
# The floor is the mean of $-\log$ of the exact probability: the loss of the generator itself, and the lowest
# possible one. Over 400 validation stories, by kind:

# %%
N = 400  # stories
parts = []
with no_grad():
    for i in tqdm(range(0, N, 40), leave=False):
        parts.append(model.token_losses(rows[i : i + 40], targets[i : i + 40]).numpy())
losses, kinds, counted = np.concatenate(parts), corpus.kinds[:N], targets[:N] >= 0
print("kind       loss   floor   (nats per token)")
for i, kind in enumerate(pocketstories.KINDS):
    chosen = counted & (kinds == i)
    loss, floor = losses[chosen].mean(), corpus.floor[:N][chosen].mean()
    print(f"{kind:8} {loss:6.3f} {floor:7.3f}")
    assert abs(loss - floor) < 0.1 if kind != "recall" else loss > floor + 1.5

# %% [markdown]
# Syntax and choice come close to their floors. Recall stays two nats above its own.
#
# **In reach does not mean used.** One more prediction, for the mention that is furthest back but still in
# reach:

# %%
half = look(edge)
assert story[edge].lookback <= R

# %% [markdown]
# Ten tokens back stands the name that determines whether "He" or "She" comes. The convolutions connect the
# two; section 5 has shown that for every token in reach. Yet the model hardly uses this connection, and not
# only in this story. Here is the mean loss of all tokens that a mention determines, by how far back the
# mention lies:

# %%
pairs = []
for i in range(N):
    places = [j for j, token in enumerate(stories[i]) if determined(token)]
    pairs += [(stories[i][j].lookback, losses[i, j]) for j in places]
away, lost = map(np.array, zip(*pairs, strict=True))
at = [m for m in np.unique(away) if (away == m).sum() >= 20]
mean_lost = {int(m): float(lost[away == m].mean()) for m in at}
xlabel = "n, tokens from the mention to the word"
figure, axes = viz.panels(xlabel, "mean loss (nats)", size=(8.0, 3.4))
axes.plot(mean_lost.keys(), mean_lost.values(), "o", markersize=4)
axes.axvline(R + 0.5, color=viz.INK, linestyle=":", label=f"reach, {R} tokens")
axes.axhline(math.log(2), color=viz.INK, linestyle="--", label="log 2, one of two words")
axes.legend(frameon=False)
show(
    figure,
    "Up to six tokens back the loss is nearly zero. At ten, still in reach, it is about log 2, that of "
    "a guess between two words. Beyond the reach it lies between log 2 and nearly three nats.",
)
assert max(loss for m, loss in mean_lost.items() if m <= 6) < 0.1
assert mean_lost[10] > 0.1, "in reach, and not used"
assert min(loss for m, loss in mean_lost.items() if m > R) > 0.6

# %% [markdown]
# The reach is an upper limit. Information from just inside the reach passes through many convolutions, and
# each mixes it with that of its neighbours. Training must find weights that preserve it, and a short run does
# not. What lies beyond the reach no training can use. That can be proved.
#
# ## 7. No training helps
#
# Is the model perhaps too small, or was it trained for too short a time? The following argument needs no
# experiment.
#
# Take all stories whose hero is Lily, and replace Lily by Mia. The result is all stories whose hero is Mia,
# each as probable as before, because the generator draws the hero's name with equal probabilities. A window
# that contains no name is the same before and after. So, given this window, Lily and Mia are **equally
# probable**. The same holds for Lily and Tom, if "she" and "he" are exchanged too and the window contains
# neither.
#
# Now let m words be exchangeable in this way. Each is the right one in a share 1/m of all cases. Let $q_i$ be
# the probability that the model gives to word $i$, given the window. Its mean loss over these cases is
#
# $$ -\frac{1}{m} \sum_{i=1}^{m} \log q_i \;\ge\; -\log\Big( \frac{1}{m} \sum_{i=1}^{m} q_i \Big) \;\ge\; \log m $$
#
# The first step is Jensen's inequality: the logarithm of a mean is at least the mean of the logarithms. The
# second step holds because probabilities add up to at most 1, so their mean is at most 1/m. Both are
# equalities only if every $q_i$ is 1/m.

# %%
m = 12  # names
q = rng.dirichlet(np.ones(m + 1), size=1000)  # the predictions of 1000 models
q = q[:, :m]  # the rest is for other words
loss_of = -np.log(q).mean(axis=-1)
assert (loss_of >= -np.log(q.mean(axis=-1))).all()
assert (-np.log(q.mean(axis=-1)) >= math.log(m)).all()
even = np.full(m, 1.0 / m)
assert abs(-np.log(even).mean() - math.log(m)) < 1e-12

# %% [markdown]
# How many words are exchangeable? The argument needs windows that contain no hint. So the code below examines
# the window of every recall token:
#
# * A hero's name: all 12 names, if the window contains no name and no "he" or "she".
# * Friend, place, feeling: all 8 of each, if the window contains none of them.
# * The thing: 8 things, singular or plural, which is 16 words, if no word in the window shows the number; 8
#   words if "this" or "these" has just shown it.
# * "he" or "she": 2, if the window contains no name and no pronoun. "this" or "these": 2, if nothing in the
#   window shows the number.

# %%
families = {
    "hero": names("hero"),
    "friend": names("friend"),
    "place": names("place"),
    "feeling": names("feeling"),
    "thing": names("thing", "one") | names("thing", "many"),
    "he, she": {"he", "she", "He", "She"},
    "this, these": {"this", "these"},
}
number = {"some", "them", "was", "were"}  # words that agree with the thing's number
telling = {"hero": families["he, she"], "he, she": families["hero"], "thing": number}
telling["this, these"] = number | families["thing"]


def exchangeable(text, j):
    """Return the family of recall word j, and how many words are equally probable given its window."""
    family = next(name for name, members in families.items() if text[j] in members)
    window = set(text[max(0, j - R) : j])
    tells = families[family] | telling.get(family, set())
    assert not window & tells, "the window must not contain a hint"
    if family in ("he, she", "this, these"):
        return family, 2
    if family == "thing" and window & families["this, these"]:
        return family, 8
    return family, len(families[family])


by_family = {family: [] for family in families}
for i in range(N):
    text_i = [token.text for token in stories[i]]
    for j in np.flatnonzero(counted[i] & (kinds[i] == pocketstories.KINDS.index("recall"))):
        family, m = exchangeable(text_i, j)
        by_family[family].append((losses[i, j], math.log(m), text_i[j]))

# %%
print("recall token    count   GAM    bound   counted (nats)")
for family, lines in by_family.items():
    loss, bound = (np.mean([line[k] for line in lines]) for k in (0, 1))
    share = np.unique([line[2].lower() for line in lines], return_counts=True)[1] / len(lines)
    entropy = -(share * np.log(share)).sum()
    print(f"{family:14} {len(lines):6} {loss:6.3f} {bound:7.3f} {entropy:8.3f}")
    assert bound - 0.1 < loss < bound + 0.15
every = [line for lines in by_family.values() for line in lines]
ours, bound = (float(np.mean([line[k] for line in every])) for k in (0, 1))
print(f"{'all':14} {len(every):6} {ours:6.3f} {bound:7.3f}")
assert 0.97 < ours / bound < 1.06

# %% [markdown]
# *Bound* is the mean of log m, the lowest mean loss that any model with a reach of 13 tokens can have.
# *Counted* is the entropy of how often each word occurred in these stories: the loss of a guess that uses
# these frequencies alone. (For the thing *counted* is larger than the bound, because "this" and "these"
# sometimes show the number.)
#
# The comparison shows that on recall tokens the trained GAM loses what its window costs, and hardly anything
# more. More parameters, data or steps could gain the last few per cent, and nothing below the bound. It does
# **not** show that a model would use a wider window well. Section 6 gave a reason to doubt it, and section 8
# tests it.

# %%
others = results("table1_pocketstories")["cells"]
label_of = {"gam": "GAM", "transformer": "Transformer", "mamba": "Mamba"}
recall_of = {
    label: others[f"{name}-seed0"]["result"]["kinds"]["recall"]["loss"]
    for name, label in label_of.items()
}  # fmt: skip
mean_of = lambda k: [np.mean([line[k] for line in lines]) for lines in by_family.values()]
at = np.arange(len(by_family))
figure, axes = viz.panels("", "recall loss (nats)", size=(9.0, 3.4))
axes.bar(at, mean_of(1), **viz.bars(0), label="bound, any model of 13 tokens")
axes.plot(at, mean_of(0), "o", color=viz.COLOURS[1], label="trained GAM")
for (label, loss), style in zip(recall_of.items(), ("-", "--", ":"), strict=True):
    axes.axhline(loss, color=viz.INK, linestyle=style, label=f"{label}, all recall tokens")
axes.set_xticks(at, list(by_family))
axes.legend(frameon=False, fontsize=8, ncols=2, loc="upper right")
axes.set_ylim(0, 4.2)
show(
    figure,
    "Bars: the bound of each family of words, from log 2 to about log 16. The GAM's losses lie at their "
    "tops. Lines, over all recall tokens: GAM at two nats, Mamba a little lower, the Transformer far "
    "lower.",
)
assert recall_of["Transformer"] < 0.5 * bound, "with the whole story in reach, it can be learned"

# %% [markdown]
# The Transformer of equal size reads the whole story. It goes far below this bound, and Mamba goes a little
# below it. So the information is there, further back.
#
# ### Exercise 09.4 ★★☆ The share of mentions in reach
#
# Some tokens are determined by a mention n tokens before them (n = 1: the token just before). `back` is an
# array of these n. Return the share of mentions that are in reach, a float from 0 to 1. `reach` is the number
# of tokens that the model sees, or None for a model that sees all.
#
# <details><summary>Hint</summary>
#
# Section 6 says which n are in reach. A model of reach 1 still sees the token just before the one that it
# predicts, because that *is* its present token. The mean of a boolean array is a share.
#
# </details>


# %% tags=["exercise"]
def share_in_reach(back, reach):
    """Return the share of mentions in reach; back: how far each lies before its word."""
    # SOLUTION
    if reach is None:
        return 1.0
    return float(np.mean(np.asarray(back) <= reach))
    # END


# %%
check.ex_09_4(share_in_reach)

# %%
back = np.array([token.lookback for s in stories for token in s if determined(token)])
reaches = np.arange(1, back.max() + 10)
figure, axes = viz.panels("reach R (tokens)", "share of mentions in reach", size=(7.0, 3.4))
axes.plot(reaches, [share_in_reach(back, int(R)) for R in reaches], "-")
axes.axvline(13, color=viz.INK, linestyle=":")
axes.annotate("GAM, 13 tokens", (13, 0.9), xytext=(6, 0), textcoords="offset points")
show(
    figure,
    "The share rises in steps and is complete at a reach of about 85 tokens. At 13 it is below a quarter.",
)
print(f"in reach of 13 tokens: {share_in_reach(back, 13):.1%}")
print(f"the furthest mention: {back.max()} tokens back")
assert 0.1 < share_in_reach(back, 13) < 0.25
assert share_in_reach(back, int(back.max())) == 1.0

# %% [markdown]
# ## 8. One ability alone: associative recall
#
# Stories need several abilities at once. **Multi-query associative recall** (MQAR, [Arora et
# al.](https://arxiv.org/abs/2312.04927)) tests one. A row begins with pairs of a key and a value. Later each
# key occurs once more, and the model must give its value. Every row has new random pairs, so memorising them
# does not help.

# %%
n_keys = 8
# 200 rows of 24 tokens, each with 4 pairs; the keys are 1 .. 8, the values 9 .. 16.
tokens, answers = mqar.mqar(200, np.full(200, 4), 24, n_keys, n_keys, np.random.default_rng(91))
called = [".", *(f"{letter}{i}" for letter in "kv" for i in range(1, n_keys + 1))]
print("read  ", " ".join(f"{called[i]:2}" for i in tokens[0]))
print("answer", " ".join(f"{called[i] if i >= 0 else '':2}" for i in answers[0]))

# %% [markdown]
# ### Exercise 09.5 ★★★ A perfect model with a reach of R tokens
#
# Write what a perfect model would answer. `tokens` (T,) is one row: 0 is a blank, 1 .. n_keys are keys,
# larger numbers are values. At position t the model sees only the tokens t - R + 1 .. t, where R is the
# argument `reach`. Return an integer array (T,). If t holds a key, and the same key also stands at an earlier
# place that the model sees, the answer is the token just after that earlier place: its value. Everywhere else
# the answer is -1: at blanks and values, at the first occurrence of a key, and where that first occurrence is
# out of reach.
#
# <details><summary>Hint</summary>
#
# For each t, first take the slice of the tokens that the model sees before the present one. Near the
# beginning of the row its start must not become negative, because a negative start counts from the end.
# `np.flatnonzero(view == key)` gives the place s of the key *in the view*. Its value is at s + 1. It lies in
# the view too.
#
# </details>


# %% tags=["exercise"]
def answer_in_sight(tokens, n_keys, reach):
    """Return (T,) the value of each key asked again, or -1, looking at `reach` tokens."""
    # SOLUTION
    answers = np.full(len(tokens), -1)
    for t, key in enumerate(tokens):
        view = tokens[max(0, t - reach + 1) : t]
        at = np.flatnonzero(view == key)
        if 1 <= key <= n_keys and len(at):
            answers[t] = view[at[0] + 1]
    return answers
    # END


# %%
check.ex_09_5(answer_in_sight)

# %% [markdown]
# Its accuracy as a function of the distance from the pair to the query is a step, from 1 to 0. No model of
# this reach can do better, except by guessing. (A pair at distance $n$ from its query needs $R \ge n + 1$:
# here the query is the present token, and it counts.)

# %%
far = mqar.distances(tokens, answers)
right = {
    reach_of: np.concatenate(
        [
            (answer_in_sight(row, n_keys, reach_of) == wanted)[wanted >= 0]
            for row, wanted in zip(tokens, answers, strict=True)
        ]
    )
    for reach_of in (13, 24)
}
assert right[24].all(), "with the whole row in reach every answer is known"
assert (right[13] == (far <= 12)).all(), "with 13 tokens in reach, those at most 12 back are known"
for reach_of, answered in right.items():
    print(f"a perfect model with a reach of {reach_of} tokens answers {answered.mean():.1%} of them")

# %% [markdown]
# And trained models? Training three of them takes too long for a notebook, so we use the stored numbers of
# the project's `recall` experiment. Its GAM has L = 2 and K = 7, and so the same reach. The plot omits
# distances with fewer than 100 queries, which are noisy. The table below it compares with *guessing*: the
# accuracy of answering with any of the values in reach, whatever the key. Guessing is easier for a GAM,
# because it has fewer values in reach:

# %%
recall = results("recall")
curves = {label: recall["cells"][name]["by_distance"] for name, label in label_of.items()}
show(
    viz.recall_plot(
        curves,
        {label: recall["cells"][name]["result"]["reach"] for name, label in label_of.items()},
        recall["chance"],
    ),
    "The Transformer answers every query at every distance, Mamba about seventy per cent. GAM is "
    "well above chance at short distances, and at chance, one in eight, beyond 13 tokens.",
)


def between(curve, least, most):
    """Return the accuracy over all queries at distances least .. most."""
    chosen = [c for d, c in curve.items() if least <= int(d) <= most]
    queries = [c["queries"] for c in chosen]
    return np.average([c["accuracy"] for c in chosen], weights=queries)


for name in label_of:
    cell = recall["cells"][name]
    near, beyond = between(cell["by_distance"], 1, 12), between(cell["by_distance"], 14, 63)
    guess = between(cell["guessing"], 1, 12)
    print(f"{name:11} up to 12: {near:6.1%} (guessing {guess:5.1%})   beyond: {beyond:6.1%}")
gam = recall["cells"]["gam"]["by_distance"]
assert abs(between(gam, 14, 63) - recall["chance"]) < 0.02, "beyond its reach: chance"
assert between(gam, 1, 12) < 0.9, "within its reach: far from perfect"

# %% [markdown]
# These are two different limits:
#
# * **Beyond the reach GAM is at chance.** This follows from the connections alone, as in section 7.
# * **Within the reach it is better than guessing, and far from perfect.** No theorem says so. A likely
#   reason: a convolution weighs positions, not content, so it cannot match a query to a key. That is left to
#   the gate and the feed-forward layers, which read one position at a time. Attention compares every pair of
#   tokens; the attention that notebook 10 builds by hand answers every query.
#
# The experiment has one model size, one seed, and about two thousand steps. The first limit holds for every
# size. The second may change with the size.
#
# ## 9. How to extend the reach
#
# The formula names two ways: more layers, or larger kernels. A third is *dilation*: block $\ell$ (from 0)
# reads every $2^\ell$-th token. Its K taps then extend the view by $(K-1)\,2^\ell$ tokens, and the reach
# about doubles with each block. (The powers of two below $2^L$ add up to $2^L - 1$.)
#
# $$ R_{\text{dilated}} = 1 + (K - 1) \sum_{\ell=0}^{L-1} 2^{\ell} = 1 + (K - 1)\,(2^{L} - 1) $$
#
# No GAM of this project is dilated. But your `measured_reach` works on any function, so it can measure a
# stack of such convolutions:


# %%
def dilated_stack(n_layers, kernel_size, rng):
    """Return f(ids (T,)) -> (T, 3): random causal convolutions; block l reads every 2^l-th token."""
    table = rng.standard_normal((7, 3))
    weights = rng.standard_normal((n_layers, kernel_size, 3))

    def f(ids):
        x = table[ids]
        for layer in range(n_layers):
            y = np.zeros_like(x)
            for j in range(kernel_size):
                back = j * 2**layer  # tokens
                y[back:] += weights[layer, j] * x[: len(x) - back]
            x = np.tanh(y)
        return x

    return f


def dilated_reach(n_layers, kernel_size):
    """Return the reach of such a stack."""
    return 1 + (kernel_size - 1) * (2**n_layers - 1)


for n_layers, kernel_size in ((1, 3), (2, 3), (3, 3), (4, 2)):
    f = dilated_stack(n_layers, kernel_size, np.random.default_rng(0))
    R_dilated = dilated_reach(n_layers, kernel_size)
    assert R_dilated == 1 + (kernel_size - 1) * sum(2**layer for layer in range(n_layers))
    assert measured_reach(f, np.arange(24) % 7, 7) == R_dilated < 24

# %%
depths = np.arange(1, 33)
figure, axes = viz.panels("L, blocks", "reach R (tokens)", size=(7.0, 3.8))
for K, style in zip((3, 4, 8), viz.STYLES, strict=False):
    grown = [reach(int(L), K) for L in depths]
    axes.semilogy(depths, grown, **style, markersize=3, label=f"K = {K}")
grown = [dilated_reach(int(L), 3) for L in depths[:9]]
axes.semilogy(depths[:9], grown, **viz.STYLES[3], label="K = 3, dilated")
axes.axhline(back.max(), color=viz.INK, linestyle="--", label="furthest mention in a story")
axes.legend(frameon=False)
show(
    figure,
    "Reach against the number of blocks: slow growth for K = 3, 4 and 8. The dilated stack passes the "
    "furthest mention with six blocks.",
)
furthest = int(back.max())  # n tokens before the word, d = n - 1 before the present token
for K in (3, 4, 8):
    print(f"to see the furthest mention with K = {K}: {layers_needed(furthest - 1, K)} blocks")
depth = next(L for L in range(1, 20) if dilated_reach(L, 3) >= furthest)
print(f"with K = 3, dilated: {depth} blocks")
assert depth < layers_needed(furthest - 1, 8) < layers_needed(furthest - 1, 3)

# %% [markdown]
# A wide view is necessary, but not sufficient, as MQAR has shown. And all of these ways still end at a fixed
# distance. Notebook 16 removes this limit: there the text writes into the memory. (That is an extension of
# ours, not in the paper.)
#
# ## 10. The advantage of a finite reach
#
# What is out of reach may be forgotten. To write the next token, a GAM needs only the K - 1 latest inputs of
# each convolution, however long the text is:
#
# $$ \text{numbers held} = L\,(K - 1)\,C $$
#
# A Transformer keeps a key and a value (notebook 10) of every token in every block. These are $2\,L\,T\,C$
# numbers, and they grow with T. `Stream` reads a text token by token:

# %%
stream, c = Stream(model), model.config
held = []
for t in range(40):
    logits = stream.feed(rows[:1, t : t + 1])
    held.append(sum(state.past.size for state in stream.states))
with no_grad():
    full = model(rows[:1, :40]).numpy()[:, -1]
always = c.n_layers * (c.kernel_size - 1) * c.d_model
assert set(held) == {always}, "the same after every token"
assert np.abs(logits - full).max() < 1e-3, "its logits equal those of a full pass"
print(f"a GAM holds {held[0]:,} numbers after 1 token, {held[-1]:,} after 40")
print(f"a Transformer of this size would hold {2 * c.n_layers * 40 * c.d_model:,} after 40")

# %%
# The time to write one more token, as the project's `generate` experiment stored it.
writing = results("generate")["summary"]["minigam GAM"]
for position, at in writing.items():
    print(f"token {int(position):6,} of the published model: {at['median_ms']:.1f} ms")
slowest, fastest = (f(at["median_ms"] for at in writing.values()) for f in (max, min))
assert slowest < 1.5 * fastest, "the 10,000th token takes about the time of the 100th"

# %% [markdown]
# ## What you can do now
#
# You can
#
# * derive the receptive field R = 1 + L (K - 1), and measure it on any model, exactly,
# * compute from a task, before any training, the lowest loss that a window of R tokens allows, and
# * keep two limits apart: what a model cannot see, and what it sees and does not use.
#
# ## Think about it
#
# No check can answer these. Write down your answer, or discuss it with someone.
#
# 1. A model cannot see a fact. Which changes to the text, not to the model, would bring it back into view?
# 2. When is a memory of constant size worth more than being able to look anything up?
#
# ## Read on
#
# In the code:
#
# * `minigam/models/gam.py`: `GAM.reach`
# * `minigam/models/decoding.py`: `Stream`
# * `minigam/experiments/reach.py`, `minigam/data/mqar.py` and `pocketstories.py`
#
# Elsewhere:
#
# * [Zoology, multi-query associative recall](https://arxiv.org/abs/2312.04927)
# * [Understanding the Effective Receptive Field](https://arxiv.org/abs/1701.04128)
# * [Repeat After Me, what models with a state of constant size cannot copy](https://arxiv.org/abs/2402.01032)
# * [In-context Learning and Induction Heads](https://arxiv.org/abs/2209.11895)
