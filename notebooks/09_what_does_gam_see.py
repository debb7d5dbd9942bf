# %% [markdown]
# # 09 · What does GAM see?
#
# **Goal.** Say exactly which tokens an output of a GAM depends on, derive the number, measure it on any model, and tell
# from it, before any training, what a model can learn and what it never will. At the end you will have shown that,
# on words that must be recalled from further back, a trained GAM is within a few per cent of the best that *any* model
# with the same view can do.
#
# **Time.** 90 minutes, 5 exercises. **Needs** 04 (the causal convolution), 05 (the memory) and 07 (the block); 08
# (training) helps. Letters: B batch, T tokens, C channels, S slots, K kernel size, L layers, V vocabulary, R reach.

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
# ## 1. Who talks to whom?
#
# Go through a block, equation by equation, and ask each: does it let one token see another?
#
# | eq. | what it does | tokens that its output at t reads |
# |---|---|---|
# | E1 | LayerNorm | t |
# | E2 | causal convolution of K taps | t - (K - 1), ..., t |
# | E3-E5 | recall from the memory, which is a constant | t |
# | E6-E7 | gate and fusion | t |
# | E8-E9 | residual, feed-forward | t |
#
# Only E2 looks back, and it looks back K - 1 tokens. Now stack blocks. Write $R_\ell$ for the number of tokens,
# the present one included, that feed one position after block $\ell$.
#
# * Before the first block a position holds the embedding of its own token: $R_0 = 1$.
# * A position after block $\ell$ reads K neighbouring positions after block $\ell - 1$. The oldest of them lies K - 1
#   tokens back, and had itself seen $R_{\ell-1}$ tokens. The views of neighbours overlap in all but one token, so the
#   view grows by K - 1, whatever it was before. From $R_0 = 1$ it does so L times:
#
# $$ R_0 = 1, \qquad R_\ell = R_{\ell - 1} + (K - 1) \qquad\Longrightarrow\qquad R = R_L = 1 + L\,(K - 1) $$
#
# Step by step, for the model that `make train` makes:

# %%
L, K = 4, 4
R = 1
for layer in range(1, L + 1):
    R = R + (K - 1)
    print(f"after block {layer}: {R} tokens")
assert R == 1 + L * (K - 1)

# %% [markdown]
# As a picture: start at the last position at the top and follow every line down.

# %%
show(
    viz.receptive_field(L, K),
    "A triangle: one position at block 4 reads four after block 3, seven after block 2, ten after "
    "block 1, and thirteen tokens. All that lies further back is not connected to it.",
)

# %% [markdown]
# ### Exercise 09.1 ★☆☆ The reach
#
# Write R as a function of the model's numbers. `mixer` is what a block mixes with: "gated" (E7), "sum" (no gate) and
# "local" (the convolution alone) contain the convolution; **"global" has the memory alone**. Return a whole number.
#
# <details><summary>Hint</summary>
#
# Three of the four mixers share the formula above. For the fourth, look at the table again and leave out its second line: how many
# tokens does an output see then, however many blocks there are?
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
# Both the published model (L = 6, K = 3) and ours (L = 4, K = 4) see the same 13 tokens. The learned positions tell a token
# *where* it stands. They tell it nothing about what stands elsewhere.

# %% [markdown]
# ## 2. Do not believe it: measure
#
# A formula derived on paper is a claim about code. Two measurements test it, and both must give **exactly** zero beyond
# the reach, not merely little: what is not connected cannot matter, not even by one bit.
#
# **The gradient.** Let $x_s$ (C,) be what enters the first block at position $s$, and $c$ (V,) random numbers, which make
# one number $\langle c, \mathrm{logits}_{T-1} \rangle$ of the logits at the last position (random, so that nothing cancels). Then
#
# $$ J_s = \Big\| \frac{\partial\, \langle c, \mathrm{logits}_{T-1} \rangle}{\partial x_s} \Big\| $$
#
# is zero where $x_s$ cannot be felt. There is a neat place to read it off: row $s$ of the position embedding is added to
# token $s$ and used nowhere else, so *its gradient is the gradient with respect to $x_s$*.


# %%
def tiny(kind, T=24, **numbers):
    """Make a small random model in double precision, 7 tokens in its vocabulary."""
    shared = {"vocab_size": 7, "block_size": T, "d_model": 12, "dropout": 0.0}
    return kind(kind.Config(**shared, **numbers), seed=9, dtype="float64").eval()


def gradient_by_position(model, ids, rng):
    """Return J (T): how the last output feels each input."""
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
    assert (J[:R] > 0).all(), "every token in reach is felt"
    assert (J[R:] == 0).all(), "and beyond it nothing, to the last bit"

# %% [markdown]
# **The replacement.** Gradients need the inside of a model. The second measurement needs nothing: put another token at
# position $s$, run the model again, and see which outputs moved. It works on anything that maps tokens to numbers, and it is
# yours to write.
#
# ### Exercise 09.2 ★★☆ The reach of a black box
#
# `f` takes ids of shape (T,) and returns an array (T, V), one row of numbers for each position. Return how many tokens
# back its **last** row reaches, the present one included: 1 + d for the largest d such that replacing the token d places before the last moves
# that row at all. Return 0 if nothing does. Three traps: a box may skip tokens in between; it may take two tokens for the
# same, so try all others; and a change of $10^{-9}$ is a change.
#
# <details><summary>Hint</summary>
#
# Two loops: over d = 0 .. T-1, and over all tokens that could stand there. Copy `ids` before you change an entry. Compare with `!=` and
# `.any()`, not with `np.allclose`. Keep the largest 1 + d that moved anything: `max` does.
#
# </details>


# %% tags=["exercise"]
def measured_reach(f, ids, vocab_size):
    """Return how many tokens the last row of f(ids) (T, V) depends on, 0 to T; ids (T,)."""
    # SOLUTION
    before, T, found = f(ids)[-1], len(ids), 0
    for d in range(T):
        for token in range(vocab_size):
            changed = ids.copy()
            changed[T - 1 - d] = token
            if (f(changed)[-1] != before).any():
                found = max(found, 1 + d)
    return found
    # END


# %%
check.ex_09_2(measured_reach)

# %% [markdown]
# Your measurement against what each model says of itself, the rivals among them: `reach` is `None` for a model that sees all.


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
print(f"{'model':30} says  measured, of {len(ids)}")
for label, model in tqdm(boxes.items(), leave=False):
    found = measured_reach(black_box(model), ids, 7)
    print(f"{label:30} {model.reach!s:>4} {found:9}")
    assert found == (model.reach or len(ids))

# %% [markdown]
# The memory alone, whatever its size, sees one token. "Global context" means that all of the memory answers, not that all of
# the text is asked.
#
# ## 3. The whole map
#
# Not only the last output: every output $t$ against every input $s$. The entry is the largest change of a logit at
# $t$ when token $s$ is replaced (here by one other token, the next of the vocabulary):
#
# $$ I_{ts} = \max_v \big|\, \mathrm{logits}_{tv}(\text{token } s \text{ replaced}) - \mathrm{logits}_{tv} \,\big| $$


# %%
def influence(f, ids, vocab_size):
    """Return (T, T): how far each output t moves when input s is replaced."""
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
    "Three square maps. In all, what lies above the diagonal is empty: no output sees the future. "
    "In GAM's a band along the diagonal is coloured and everything below it empty; in the Transformer's "
    "and Mamba's the whole lower triangle is coloured.",
)
back = np.subtract.outer(np.arange(24), np.arange(24))  # [t, s]: how far back s lies
for label, moved in maps.items():
    assert (moved[back < 0] == 0).all(), "causal: the future moves nothing"
    seen = (back >= 0) & (back < R) if label == "GAM" else back >= 0
    assert (moved[seen] > 0).all(), label
    assert (moved[~seen] == 0).all(), label
last = {label: moved[-1] for label, moved in maps.items()}
# The first 8 inputs against the 8 just before the last.
fading = {label: row[:8].mean() / row[-9:-1].mean() for label, row in last.items()}
for label, ratio in fading.items():
    print(f"{label:12} far inputs move the last output {ratio:.3f} times as much as near ones")
assert fading["GAM"] == 0.0 < fading["Mamba"] < 0.1 < fading["Transformer"]

# %% [markdown]
# Above the diagonal all three are empty, because all three are causal (notebook 04). Below it the difference is one of
# kind, not of degree. In these random models Mamba's influence fades with the distance and attention's hardly does. GAM's stops.
#
# ## 4. How deep must a GAM be?
#
# ### Exercise 09.3 ★☆☆ Layers for a distance
#
# How many blocks of K taps does it take until an output at t can see the token d places before it, at t - d?
# Return the smallest such L; for d = 0 that is 0. With K = 1 no depth helps: return `math.inf` then, unless d is 0.
#
# <details><summary>Hint</summary>
#
# The output sees t - d if d is at most R - 1. Put the formula in, solve for L, and round to the side that is
# still enough: `-(-a // b)` is a / b rounded up.
#
# </details>


# %% tags=["exercise"]
def layers_needed(d, kernel_size):
    """Return the least number of blocks with which an output sees the token d places before."""
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
# The published model has K = 3 and reads rows of 256 tokens. To see the first of them from the last it would need 128
# blocks. It has 6.
#
# ## 5. A trained model
#
# Training does not change what is connected. Here is the model that `make train` makes (the first call trains it, which takes a
# minute or a few; later ones read it), on PocketStories, little stories whose every token carries its exact probability.

# %%
run, model, corpus = trained()
model.eval()
R = model.reach
words = corpus.tokenizer.vocabulary
rows, targets = inputs_and_targets(corpus.valid)  # (N, T) each; a target follows its input
print(model.config)
assert reach(model.config.n_layers, model.config.kernel_size) == R == 13

# %% [markdown]
# Now replace the token d places before t in real stories, and measure how far the *prediction* at t moves: the total
# variation distance between two distributions over the next word, 0 if they are equal and 1 if they have no word in common:
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
    "The movement of the prediction is largest among the nearest tokens and falls over several orders "
    "of magnitude up to the one 12 back. There is no point after the line at 13 tokens: there it is "
    "exactly 0.",
)
print("d =  0:", f"{moved[0]:.3f}")
print("d = 12:", f"{moved[12]:.1e}")
print("d = 13:", moved[13])
assert (moved[:R] > 0).all()
assert (moved[R:] == 0).all(), "not little: nothing"

# %% [markdown]
# The logarithmic axis cannot even draw what is at 13 and beyond. The same measurement on the trained models of the project's
# `reach` experiment, stored with the repository, from replacing every token of 32 stories:

# %%
stored = results("reach")["runs"]
means, reaches = ({k: v[name] for k, v in stored.items()} for name in ("mean", "reach"))
show(
    viz.reach_plot(means, reaches),
    "GAM's curve ends at 12 tokens back. The others' (the written memory is that of notebook 16) go on to more than a hundred.",
)
assert [v["measured_reach"] for v in stored.values() if v["reach"]] == [R]
assert all(v["mean"][R] > 0 for v in stored.values() if v["reach"] is None)
assert stored["GAM"]["mean"][R] == 0

# %% [markdown]
# ## 6. A story, seen through a window
#
# Every token of PocketStories is of a kind. At a *choice* something random happens: nobody can know it. *Syntax* is
# settled by the 13 tokens before it. *Recall* is settled by something further back: who the hero was, what
# was lost. The stories can be written again from their seed, and then each token also tells its `nats`, -log of its exact
# probability (0: settled), and its `lookback`: how many tokens before it the mention lies that settles it (0 for what no mention settles).
#
# Mind the counting. The model predicts word $j$ from the words before it, of which the last is its "present token". A
# mention $n$ tokens before the *predicted* word is $d = n - 1$ places before the *present* token. In sight is $d \le R - 1$, and so $n \le R$.

# %%
names = lambda slot, form="name": {value[form] for value in pocketstories.SLOTS[slot]}
told = list(pocketstories.stories(len(rows), 1))  # their seed is 1
story = told[0]
text = [token.text for token in story]
assert text == [words[i] for i in targets[0, : len(story)]]
settled = lambda token: token.lookback > 0 and token.nats == 0  # and by a mention
mentions = {j: token.lookback for j, token in enumerate(story) if settled(token)}
inside = min(mentions, key=mentions.get)  # the nearest mention
name = next(j for j in mentions if mentions[j] > R and text[j] in names("hero"))  # again
edge = max((j for j in mentions if mentions[j] <= R), key=mentions.get)  # furthest in sight


def look(j):
    """Say and show what the model sees when it predicts word j, and what it then predicts."""
    back = story[j].lookback
    print(f"hidden: {text[j]!r}, settled by {text[j - back]!r}, {back} tokens before it")
    show(
        viz.text_in_sight(text, j, j - back, R),
        f"A story up to word {j}, which is hidden. Blue boxes: the {R} words before it, all that the "
        f"model sees. A frame marks the mention that settles the word, {back} tokens back.",
    )
    p = predictions(rows[:1])[0, j]
    for v in np.argsort(-p)[:6]:
        print(f"{p[v]:7.3f}  {words[v]}")
    return p[targets[0, j]]


sure = look(inside)
assert story[inside].lookback <= R
assert sure > 0.9

# %% [markdown]
# The mention is inside the blue window, and the model is all but certain. Now the hero's name, when it comes back:

# %%
unsure = look(name)
assert story[name].lookback > R
assert unsure < 0.3

# %% [markdown]
# The model knows that a name comes here, and it knows the names. It has no idea which: the frame lies outside the
# blue. The whole story, its loss ($-\log p$, in nats) token by token:

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
    "One stem a token. Syntax lies at zero, but for one token; choices between 0 and 3 nats; the "
    "recall tokens between 0.5 and 3.",
)
assert losses[kinds == pocketstories.KINDS.index("syntax")].mean() < 0.2
assert losses[kinds == pocketstories.KINDS.index("recall")].mean() > 1.0

# %% [markdown]
# A floor is the mean of $-\log$ of the exact probability: what the generator itself would lose. Over all validation stories, by kind:

# %%
N = 400  # stories
parts = []
with no_grad():
    for i in tqdm(range(0, N, 40), leave=False):
        parts.append(model.token_losses(rows[i : i + 40], targets[i : i + 40]).numpy())
losses, told_kind, counted = np.concatenate(parts), corpus.kinds[:N], targets[:N] >= 0
print("kind       loss   floor   (nats per token)")
for i, kind in enumerate(pocketstories.KINDS):
    chosen = counted & (told_kind == i)
    loss, floor = losses[chosen].mean(), corpus.floor[:N][chosen].mean()
    print(f"{kind:8} {loss:6.3f} {floor:7.3f}")
    assert abs(loss - floor) < 0.1 if kind != "recall" else loss > floor + 1.5

# %% [markdown]
# Syntax and choice arrive near their floors. Recall is two nats above its own.
#
# **In sight is not the same as used.** One more look, at the mention furthest back that is still in sight:

# %%
half = look(edge)
assert story[edge].lookback <= R

# %% [markdown]
# Ten tokens back stands the name that says whether "He" or "She" comes. The convolutions connect the two, as section 5 has shown for every token in reach. Yet
# the model hardly uses it, and not in this story alone. Here is the mean loss of every token that a mention settles, by how far back the mention lies:

# %%
pairs = []
for i in range(N):
    places = [j for j, token in enumerate(told[i]) if settled(token)]
    pairs += [(told[i][j].lookback, losses[i, j]) for j in places]
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
    "Up to six tokens back the loss is nearly zero. At ten, still in reach, it is log 2, a coin's "
    "flip. Beyond the reach it lies between log 2 and nearly three nats.",
)
assert max(loss for m, loss in mean_lost.items() if m <= 6) < 0.1
assert mean_lost[10] > 0.1, "in sight, and not used"
assert min(loss for m, loss in mean_lost.items() if m > R) > 0.6

# %% [markdown]
# The reach is a limit from above. What lies just inside it comes through many convolutions, each of which mixes it with its
# neighbours: training has to find a way for it, and in a short run it does not. What lies beyond no training finds, and that can be proved.
#
# ## 7. No training helps
#
# Perhaps the model is too small, or was trained for too short a time? There is an answer that needs no experiment.
#
# Take all stories whose hero is Lily, and write Mia wherever Lily stands. That gives all stories whose hero is Mia, each
# exactly as probable as before, because the generator draws the hero's name evenly. A window in which no name stands
# looks the same before and after. So, given that window, Lily and Mia are **equally probable**. So are Lily and Tom, if "she" and
# "he" are exchanged along with them and neither is in the window. Say there are m words that can be exchanged like this: each is
# the right one in a share 1/m of all cases. Whatever a model answers to the window, call $q_i$ its probability for word $i$. Its mean loss there is
#
# $$ -\frac{1}{m} \sum_{i=1}^{m} \log q_i \;\ge\; -\log\Big( \frac{1}{m} \sum_{i=1}^{m} q_i \Big) \;\ge\; \log m $$
#
# The first step is Jensen's inequality (the logarithm of a mean is at least the mean of the logarithms), the second says that
# probabilities add up to at most 1, so that their mean is at most 1/m. Equality holds for the even guess alone.

# %%
m = 12  # names
q = rng.dirichlet(np.ones(m + 1), size=1000)  # 1000 models
q = q[:, :m]  # the rest is for other words
loss_of = -np.log(q).mean(axis=-1)
assert (loss_of >= -np.log(q.mean(axis=-1))).all()
assert (-np.log(q.mean(axis=-1)) >= math.log(m)).all()
even = np.full(m, 1.0 / m)
assert abs(-np.log(even).mean() - math.log(m)) < 1e-12

# %% [markdown]
# How many words can be exchanged? The argument needs windows that do not tell, so let the code look at every window of every
# recall token:
#
# * a hero's name: all 12, if no name and no "he" or "she" is in the window;
# * friend, place, feeling: all 8 each, if none of them is in the window;
# * the thing: 8 things, singular or plural, 16 words, if no word in the window tells the number; but 8 where "this" or
#   "these" has just told it;
# * "he" or "she": 2, if no name and no pronoun is in the window; "this" or "these": 2, if nothing there tells the number.

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
    """Return the family of recall word j, and how many words its window leaves as probable."""
    family = next(name for name, members in families.items() if text[j] in members)
    window = set(text[max(0, j - R) : j])
    tells = families[family] | telling.get(family, set())
    assert not window & tells, "the window must not tell"
    if family in ("he, she", "this, these"):
        return family, 2
    if family == "thing" and window & families["this, these"]:
        return family, 8
    return family, len(families[family])


found = {family: [] for family in families}
for i in range(N):
    text_i = [token.text for token in told[i]]
    for j in np.flatnonzero(counted[i] & (told_kind[i] == pocketstories.KINDS.index("recall"))):
        family, m = exchangeable(text_i, j)
        found[family].append((losses[i, j], math.log(m), text_i[j]))

# %%
print("recall token    count   GAM    bound   counted (nats)")
for family, lines in found.items():
    loss, bound = (np.mean([line[k] for line in lines]) for k in (0, 1))
    share = np.unique([line[2].lower() for line in lines], return_counts=True)[1] / len(lines)
    entropy = -(share * np.log(share)).sum()
    print(f"{family:14} {len(lines):6} {loss:6.3f} {bound:7.3f} {entropy:8.3f}")
    assert bound - 0.1 < loss < bound + 0.15
every = [line for lines in found.values() for line in lines]
ours, bound = (float(np.mean([line[k] for line in every])) for k in (0, 1))
print(f"{'all':14} {len(every):6} {ours:6.3f} {bound:7.3f}")
assert 0.97 < ours / bound < 1.06

# %% [markdown]
# *Bound* is the least that any model of 13 tokens can reach on average, the mean of log m; *counted* is the entropy of how often each word
# came in these stories, what one loses who knows nothing else. (For the thing *counted* is larger than the bound, as "this" and "these" sometimes tell the number.)
#
# What the comparison shows: on recall tokens the trained GAM loses what its window costs, and hardly anything else. More parameters, data or
# steps could win the last per cent of it, and nothing beyond. What it does **not** show is that a wider window would be used
# well: section 6 has just warned of that, and section 8 asks it again.

# %%
others = results("table1_pocketstories")["cells"]
label_of = {"gam": "GAM", "transformer": "Transformer", "mamba": "Mamba"}
recall_of = {
    label: others[f"{name}-seed0"]["result"]["kinds"]["recall"]["loss"]
    for name, label in label_of.items()
}  # fmt: skip
mean_of = lambda k: [np.mean([line[k] for line in lines]) for lines in found.values()]
at = np.arange(len(found))
figure, axes = viz.panels("", "recall loss (nats)", size=(9.0, 3.4))
axes.bar(at, mean_of(1), **viz.bars(0), label="bound, any model of 13 tokens")
axes.plot(at, mean_of(0), "o", color=viz.COLOURS[1], label="trained GAM")
for (label, loss), style in zip(recall_of.items(), ("-", "--", ":"), strict=True):
    axes.axhline(loss, color=viz.INK, linestyle=style, label=f"{label}, all recall tokens")
axes.set_xticks(at, list(found))
axes.legend(frameon=False, fontsize=8, ncols=2, loc="upper right")
axes.set_ylim(0, 4.2)
show(
    figure,
    "Bars: the bound of each family of words, from log 2 to about log 16. The GAM's losses lie on top "
    "of them. Lines, over all recall tokens: GAM at two nats, Mamba a little lower, the Transformer "
    "far lower.",
)
assert recall_of["Transformer"] < 0.5 * bound, "with the whole story in sight, it is learnable"

# %% [markdown]
# The Transformer of equal size, which sees the whole story, goes far below that bound, and Mamba a little. The information is there, further back.
#
# ### Exercise 09.4 ★★☆ What a reach can hope for
#
# Some tokens are settled by a mention n tokens before them (1: the token just before). `back` is an array of all
# these n. Return the share, from 0 to 1, of mentions that lie within the `reach` of a model, which is None for a model
# that sees all.
#
# <details><summary>Hint</summary>
#
# Section 6 says which n are in sight: a model of reach 1 still sees the token just before the one it
# predicts, because that *is* its present token. The mean of a boolean array is a share.
#
# </details>


# %% tags=["exercise"]
def share_in_reach(back, reach):
    """Return the share of mentions in sight; back: how far each lies before its word."""
    # SOLUTION
    if reach is None:
        return 1.0
    return float(np.mean(np.asarray(back) <= reach))
    # END


# %%
check.ex_09_4(share_in_reach)

# %%
back = np.array([token.lookback for s in told for token in s if settled(token)])
reaches = np.arange(1, back.max() + 10)
figure, axes = viz.panels("reach R (tokens)", "share of mentions in reach", size=(7.0, 3.4))
axes.plot(reaches, [share_in_reach(back, int(R)) for R in reaches], "-")
axes.axvline(13, color=viz.INK, linestyle=":")
axes.annotate("GAM, 13 tokens", (13, 0.9), xytext=(6, 0), textcoords="offset points")
show(
    figure,
    "The share climbs in steps from a reach of 1 to one of about 85 tokens. At 13 it is below a quarter.",
)
print(f"in reach of 13 tokens: {share_in_reach(back, 13):.1%}")
print(f"the furthest mention: {back.max()} tokens back")
assert 0.1 < share_in_reach(back, 13) < 0.25
assert share_in_reach(back, int(back.max())) == 1.0

# %% [markdown]
# ## 8. In the laboratory: associative recall
#
# Stories mix everything. **Multi-query associative recall** (MQAR,
# [Arora et al.](https://arxiv.org/abs/2312.04927)) asks for one thing alone. A row begins with pairs of a key and a value. Later each key comes
# once more, and the model has to say its value. Pairs are drawn anew for every row, so nothing can be learned by heart.

# %%
n_keys = 8
# 200 rows of 24 tokens, each with 4 pairs; the keys are 1 .. 8, the values 9 .. 16.
tokens, answers = mqar.mqar(200, np.full(200, 4), 24, n_keys, n_keys, np.random.default_rng(91))
called = [".", *(f"{letter}{i}" for letter in "kv" for i in range(1, n_keys + 1))]
print("read  ", " ".join(f"{called[i]:2}" for i in tokens[0]))
print("answer", " ".join(f"{called[i] if i >= 0 else '':2}" for i in answers[0]))

# %% [markdown]
# ### Exercise 09.5 ★★★ The perfect answerer of R tokens
#
# Be the model. `tokens` (T,) is one row: 0 is a blank, 1 .. n_keys are keys, larger numbers are values. At each position t you may
# look at tokens t - R + 1 .. t only, where R is the argument `reach`. Return an array (T,): where t holds a key that also stands at
# an earlier place in that view, the token just after that earlier place, its value; -1 where there is nothing to say: at a blank or
# a value, at a key's first coming, and where that first coming is out of sight.
#
# <details><summary>Hint</summary>
#
# For each t, cut the view out of the row first, without the present token. Mind its start near the beginning of the row: a
# negative one would count from the end. `np.flatnonzero(view == key)` finds the place s of the key *in the view*. Its value
# stands at s + 1, and is in the view as well.
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
# Its accuracy against the distance from the pair to the query is a step, from 1 to 0. No model of that reach
# can do better, except by guessing. (A
# pair at distance $n$ from its query needs $R \ge n + 1$: here the query itself is the present token, and is counted.)

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
assert right[24].all(), "who sees the whole row knows every answer"
assert (right[13] == (far <= 12)).all(), "who sees 13 tokens knows those at most 12 back"
for reach_of, answered in right.items():
    print(f"a perfect answerer of {reach_of} tokens answers {answered.mean():.1%} of them")

# %% [markdown]
# And learned models? Training three of them takes longer than this notebook has; the project's `recall` experiment stores what it found.
# Its GAM has other numbers (L = 2, K = 7) and the same reach. Its plot, drawn from the stored numbers (distances asked fewer than
# 100 times are left out, as noise); below it, *guessing* is taking any of the values in sight, blind to the keys, which is easier
# for a GAM, as it has fewer of them in sight:

# %%
recall = results("recall")
curves = {label: recall["cells"][name]["by_distance"] for name, label in label_of.items()}
show(
    viz.recall_plot(
        curves,
        {label: recall["cells"][name]["result"]["reach"] for name, label in label_of.items()},
        recall["chance"],
    ),
    "The Transformer answers everything at every distance, Mamba about seventy per cent. GAM is "
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
assert between(gam, 1, 12) < 0.9, "within its reach: far from the perfect answerer"

# %% [markdown]
# Two different limits, to be kept apart:
#
# * **Beyond the reach, GAM is at chance.** That is arithmetic, as in section 7.
# * **Within the reach it is better than guessing and far from perfect.** That is no theorem. A convolution gives each place a fixed weight, whatever
#   stands there, so "find the place that holds *this* key" is left to the gate and the feed-forward layers, which see one position at a time.
#   Attention compares every pair of tokens by construction: notebook 10 builds it by hand so that it answers every query.
#
# The experiment is one size, one seed, and about two thousand steps. The first limit holds for every size; the second may move with it.
#
# ## 9. What would help?
#
# More layers or larger kernels widen the view, by the formula. A third way is *dilation*: let block $\ell$ (from 0) look at every
# $2^\ell$-th token. Its K taps then look back $(K-1)\,2^\ell$ tokens, by which the view grows, and the reach about doubles with each block (the
# powers of two below $2^L$ add up to $2^L - 1$):
#
# $$ R_{\text{dilated}} = 1 + (K - 1) \sum_{\ell=0}^{L-1} 2^{\ell} = 1 + (K - 1)\,(2^{L} - 1) $$
#
# No GAM of this project does that. But a stack of such convolutions is a black box like any other, and you have an instrument:


# %%
def dilated_stack(n_layers, kernel_size, rng):
    """Return f(ids (T,)) -> (T, 3): random causal convolutions; block l skips 2^l tokens."""
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
    "Reach against depth: slow growth for K = 3, 4 and 8; the dilated stack passes the furthest "
    "mention, 84 tokens, with six blocks.",
)
furthest = int(back.max())  # n tokens before the word, d = n - 1 before the present token
for K in (3, 4, 8):
    print(f"to see the furthest mention with K = {K}: {layers_needed(furthest - 1, K)} blocks")
depth = next(L for L in range(1, 20) if dilated_reach(L, 3) >= furthest)
print(f"with K = 3, dilated: {depth} blocks")
assert depth < layers_needed(furthest - 1, 8) < layers_needed(furthest - 1, 3)

# %% [markdown]
# A wide view is necessary and not sufficient, as MQAR has just shown. And every one of these ways still gives a view with an edge.
# Notebook 16 removes the edge: there the text writes into the memory. (That is an extension of ours, not in the paper.)
#
# ## 10. The other side of the coin
#
# An edge is also a promise: what is out of sight may be forgotten. To write the next token a GAM needs the K - 1 latest inputs of each
# convolution and nothing else, however long the text has become:
#
# $$ \text{numbers held} = L\,(K - 1)\,C $$
#
# A Transformer holds a key and a value (notebook 10) of every token in every block, $2\,L\,T\,C$ numbers, growing with T. `lm.Stream` reads token by token:

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
assert np.abs(logits - full).max() < 1e-3, "and what it answers is what a full pass answers"
print(f"a GAM holds {held[0]:,} numbers after 1 token, {held[-1]:,} after 40")
print(f"a Transformer of this size would hold {2 * c.n_layers * 40 * c.d_model:,} after 40")

# %%
# And the time of writing one more token, as the project's `generate` experiment stored it.
writing = results("generate")["summary"]["minigam GAM"]
for position, at in writing.items():
    print(f"token {int(position):6,} of the published model: {at['median_ms']:.1f} ms")
slowest, fastest = (f(at["median_ms"] for at in writing.values()) for f in (max, min))
assert slowest < 1.5 * fastest, "the 10,000th token takes about the time of the 100th"

# %% [markdown]
# ## What you have now
#
# * R = 1 + L (K - 1), derived, and measured to the last bit with an instrument that works on any model.
# * A bound, log m, that says before training what a window of R tokens can never predict; the trained GAM sits on it.
# * Two limits to keep apart: what a model cannot see, and what it sees and does not use.
# * The reason to want a GAM all the same: its memory and its time for a token never grow.
#
# **Read on in the code:** `GAM.reach` in `minigam/models/gam.py`, `Stream` in `minigam/models/decoding.py`; `minigam/experiments/reach.py`, `minigam/data/mqar.py` and
# `minigam/data/pocketstories.py`.
