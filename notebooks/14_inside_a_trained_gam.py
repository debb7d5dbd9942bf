# %% [markdown]
# # 14 · Inside a trained GAM
#
# **Goal.** Look inside a trained model: what do the gates do, which words activate which slots, what does a
# slot predict, and which of these parts does the model need? At the end you can distinguish a part that is
# *readable* from a part that is *needed*. In this model they are not the same.
#
# **Time.** 105 minutes, 5 exercises. **Needs** 04, 05, 06 and 07 (the parts of a block), 08 (training). Letters: N
# stories (not Mamba's states), T tokens, C channels, S memory slots, K kernel size, L layers, V vocabulary, M
# the memory, E the token embedding (not Mamba's channels), H an entropy (not the number of heads). p and q
# are the two gates. P and Q are the probabilities of generator and model.

# %% tags=["setup"]
from contextlib import contextmanager

import numpy as np
from IPython.display import Markdown
from tqdm import tqdm

from minigam import Stream, Tensor, anatomy, inputs_and_targets, no_grad, ops, pocketstories, sequence, viz
from minigam.course import check, show, trained

# %% [markdown]
# The model is the one that `make train` makes: 4 layers, 128 channels, 64 slots a layer, a convolution over 4
# tokens, and so a reach of 13 tokens. The first call of `trained()` on a machine trains it, later ones read
# it. We look at it while it reads 100 stories on which it was not trained.

# %%
run, model, corpus = trained()
model.eval()
N = 100
ids, targets = inputs_and_targets(corpus.valid[:N])  # (N, T) each
counted = targets >= 0  # False after the end of a story, which is shorter than its row
kinds, floor = (corpus.kinds[:N], corpus.floor[:N])  # of each target: its kind, and the generator's -log p
words = corpus.tokenizer.vocabulary
C, L, S = model.config.d_model, model.config.n_layers, model.config.n_slots
logits, views = anatomy.views(model, ids)  # one view a layer: its gates and its shares
print(f"C {C}, L {L}, S {S}, V {len(words)}; the model sees {model.reach} tokens")
print(" ".join(words[i] for i in ids[0][counted[0]]))

# %% [markdown]
# ## 1. The gates
#
# E6 computes two gates from 0 to 1 for every token and channel, one for each context (notebook 06). In the
# first layer, whose input is the token embedding plus the position, we can compute them from the ids:
#
# $$ u = \mathrm{LayerNorm}(x), \qquad [p,\, q] = \sigma\big(u\, W_g^\top + b_g\big) $$

# %%
block = model.blocks[0]
with no_grad():
    x = model.token_embedding(ids) + model.position_embedding.weight[: ids.shape[1]]
    u = block.norm1(x)
    gate = ops.sigmoid(block.gate(u)).data  # (N, T, 2C)
p, q = gate[..., :C], gate[..., C:]
assert np.abs(p - views[0].local_gate).max() < 1e-6
assert np.abs(q - views[0].global_gate).max() < 1e-6

# %% [markdown]
# A story has about 120 tokens, and each has 2 C gates in every layer. For a first picture we take the mean
# over channels.

# %%
shown = slice(0, 42)  # the beginning of the first story
local_gates = [v.local_gate[0, shown].mean(axis=-1) for v in views]
global_gates = [v.global_gate[0, shown].mean(axis=-1) for v in views]
show(
    viz.gates_plot([words[i] for i in ids[0, shown]], local_gates, global_gates),
    "Four panels, one for each layer, over the first 42 words of a story. Both gates stay close to "
    "one half everywhere and vary a little from word to word.",
)
assert np.min(local_gates + global_gates) > 0.35 and np.max(local_gates + global_gates) < 0.7

# %% [markdown]
# The mean gates stay near one half and vary little. But the mean could hide gates near 1 together with gates
# near 0. So look at single gates: how many are below 0.2 or above 0.8, and how much does one gate vary from
# token to token?

# %%
for layer, v in enumerate(views, 1):
    both = np.hstack([v.local_gate[counted], v.global_gate[counted]])  # (tokens, 2C)
    far = ((both < 0.2) | (both > 0.8)).mean()
    moves = both.std(axis=0).mean()
    print(f"layer {layer}: {far:5.1%} far from one half; a gate varies by ± {moves:.2f}")
    assert 0.01 < far < 0.3 and moves > 3 * v.local_gate.mean(axis=-1)[counted].std()

# %% [markdown]
# The mean does hide something. A single gate varies several times as much as the mean, because the channels
# do not vary together. The next section uses the mean, so it cannot show what single gates do.
#
# ## 2. Do the gates depend on the kind of token?
#
# Each token to be predicted has one of three kinds: *syntax* (determined by the last 13 tokens), *choice*
# (random), *recall* (determined by something further back). Do the gates differ between the kinds? For
# example, the memory's gate could be larger before one kind and the convolution's before another. To answer,
# we need a mean for each kind, and the precision of that mean.
#
# Tokens of one story are not independent, because they share a hero and a plot. So we take the **story** as
# the unit. Each story gives one mean. From these N numbers $m_1, \dots, m_N$ we compute the mean and its
# standard error:
#
# $$ \bar m = \frac{1}{N} \sum_n m_n, \qquad
#    \mathrm{se} = \frac{1}{\sqrt N}\, \sqrt{\frac{1}{N-1} \sum_n (m_n - \bar m)^2} $$


# %%
def mean_and_error(m):
    """Return the mean of m (N) and its standard error, without nan entries."""
    m = m[~np.isnan(m)]
    return m.mean(), m.std(ddof=1) / np.sqrt(len(m))


# Test the formula: draw 25 numbers, 4,000 times. How much do their means vary?
drawn = np.random.default_rng(14).standard_normal((4000, 25))
predicted = np.mean([mean_and_error(m)[1] for m in drawn])
assert abs(predicted / drawn.mean(axis=1).std() - 1.0) < 0.05

# %% [markdown]
# ### Exercise 14.1 ★☆☆ One mean for each story and kind
#
# `values` holds one number for each token, here a mean gate. Return an array (N, n_kinds): for each story and
# each kind the mean over its tokens of that kind. Count only places where `counted` is True. Where a story
# has no such token, the entry is nan.
#
# <details><summary>Hint</summary>
#
# For one kind, `chosen = counted & (kinds == kind)` is a mask (N, T). A mean is the sum over the mask divided
# by the number of its tokens, along the last axis. To get nan without a warning where that number is 0, use
# `np.maximum(how_many, 1)` and `np.where`.
#
# </details>


# %% tags=["exercise"]
def mean_by_kind(values, kinds, counted, n_kinds):
    """Return the mean of values (N, T) for each story and kind, (N, n_kinds); nan for none.

    kinds   : (N, T) integers, 0 .. n_kinds-1
    counted : (N, T) bool, False after the end of a story
    """
    # SOLUTION
    means = np.full((len(values), n_kinds), np.nan)
    for kind in range(n_kinds):
        chosen = counted & (kinds == kind)  # (N, T)
        how_many = chosen.sum(axis=1)
        total = np.where(chosen, values, 0.0).sum(axis=1)
        means[:, kind] = np.where(how_many > 0, total / np.maximum(how_many, 1), np.nan)
    return means
    # END


# %%
check.ex_14_1(mean_by_kind)

# %%
figure, axes = viz.panels("layer", n=2, size=(9.0, 3.6))
mean_gates = {}
for a, name in zip(axes, ("local", "global"), strict=True):
    gates = [getattr(v, f"{name}_gate") for v in views]  # (N, T, C) each
    for kind, kind_name in enumerate(pocketstories.KINDS):
        by_story = [mean_by_kind(gate.mean(axis=-1), kinds, counted, 3) for gate in gates]
        rows = [mean_and_error(m[:, kind]) for m in by_story]
        means, errors = np.array(rows).T  # (L) each
        mean_gates[name, kind_name] = means, errors
        place = np.arange(1, L + 1) + 0.12 * (kind - 1)
        a.errorbar(
            place, means, yerr=2 * errors, **viz.STYLES[kind], markersize=4, linewidth=0.8, label=kind_name
        )
    a.set_xticks(range(1, L + 1))
    a.set_title(f"{name} gate, mean and 2 standard errors", fontsize=10)
    a.axhline(0.5, color=viz.INK, linewidth=0.9)
axes[0].set_ylabel("gate, mean over channels")
axes[0].sharey(axes[1])
axes[0].legend(frameon=False, fontsize=8)
show(
    figure,
    "Mean gates by layer and kind of token, with error bars that are hardly wider than the "
    "markers. The kinds differ by a few hundredths at most, around one half.",
)

# %% [markdown]
# Do the kinds differ? **Yes**, by many standard errors, so the difference is not due to the choice of these
# stories. Do they differ *much*? **No**, by a few hundredths at most. With enough tokens any difference
# becomes significant, so always report its size too. And a gate does not see the kind. It sees the words in
# its reach, and before a recall token these are mostly the same few ("your", "the"). Section 6 measures how
# much the gates matter to the model.

# %%
gap, in_errors = 0.0, 0.0
for name in ("local", "global"):
    for one, other in (("syntax", "choice"), ("syntax", "recall"), ("choice", "recall")):
        (m1, e1), (m2, e2) = mean_gates[name, one], mean_gates[name, other]
        gap = max(gap, np.abs(m1 - m2).max())
        in_errors = max(in_errors, (np.abs(m1 - m2) / np.hypot(e1, e2)).max())
print(f"largest difference between kinds: {gap:.3f}; most standard errors: {in_errors:.0f}")
assert gap < 0.1 and in_errors > 4

# %% [markdown]
# ## 3. The words that activate a slot
#
# E4 gives each token a share for each of the S slots. `anatomy.exciting_tokens` computes the mean share of
# each slot for each word, an array (S, V). A word that occurs fewer than three times gets nan, because a mean
# of two numbers says little.
#
# ### Exercise 14.2 ★☆☆ The words of a slot
#
# Return a list of the n words with the largest share, the largest first. `words[i]` is the word whose share
# is `share_of_word[i]`. Never return a word whose share is nan; so there may be fewer than n.
#
# <details><summary>Hint</summary>
#
# `np.argsort` puts nan *last*, after the largest number. If you reverse its result, nan comes first. So
# replace nan by a value below all shares, or remove it before sorting.
#
# </details>


# %% tags=["exercise"]
def top_words(share_of_word, words, n):
    """Return the n words with the largest share_of_word (V), a list, the largest first."""
    # SOLUTION
    valid = np.flatnonzero(~np.isnan(share_of_word))
    order = valid[np.argsort(-share_of_word[valid], kind="stable")]
    return [words[i] for i in order[:n]]
    # END


# %%
check.ex_14_2(top_words)

# %% [markdown]
# Here are the four slots with the largest mean share, in the first and the last layer:

# %%
seen = np.where(counted, ids, -1)  # `exciting_tokens` ignores negative ids
id_of = corpus.tokenizer.id_of
for layer in (0, L - 1):
    share = views[layer].shares  # (N, T, S)
    by_word = anatomy.exciting_tokens(share, seen, len(words))  # (S, V)
    busiest = np.argsort(-share[counted].mean(axis=0))[:4]
    lists = [top_words(by_word[s], words, 8) for s in busiest]
    figure = viz.slots_plot(
        lists,
        [[by_word[s, id_of[w]] for w in some] for s, some in zip(busiest, lists, strict=True)],
        [f"layer {layer + 1}, slot {s}" for s in busiest],
        "mean share",
    )
    show(figure, f"Layer {layer + 1}, eight words of each slot: " + "; ".join(map(", ".join, lists)))

# %% [markdown]
# In the first layer a typical word has shares in many slots, and few slots belong to one word. In the last
# layer a slot often belongs to a **class of words**, those with the same next words. The model found such
# classes, for example prepositions, without any label.
#
# ## 4. How many slots are in use?
#
# Notebook 05 counted the slots that one token uses: $e^H$, with $H$ the entropy of its shares. Over a corpus
# there are two such numbers. Let $\bar a$ be the mean share of each slot over all $N_t$ tokens, and $H(a_t)$
# the entropy of token t. Then
#
# $$ I = H(\bar a) - \frac{1}{N_t} \sum_t H(a_t) \;\ge\; 0 $$
#
# $e^{H(\bar a)}$ is the number of slots that *all tokens together* use, and $e^{\text{mean } H(a_t)}$ the
# number that *one token* uses. I is the mutual information of token and slot, in nats: how much the token
# says about the slot that answers. It is 0 if every token mixes the slots in the same way.
#
# ### Exercise 14.3 ★★☆ Slots in use over a corpus
#
# Return the pair $e^{H(\bar a)}$, $e^{\text{mean } H(a_t)}$, over the tokens where `counted` is True.
#
# <details><summary>Hint</summary>
#
# `shares[counted]` is (tokens, S). For the first number, take the mean over tokens, then the entropy. For the
# second, take the entropy, then the mean over tokens. A share of 0 contributes 0 to the entropy.
#
# </details>


# %% tags=["exercise"]
def slots_in_use(shares, counted):
    """Return (of all tokens together, of one), for shares (N, T, S), counted (N, T) bool."""

    # SOLUTION
    def entropy(a):
        return -(a * np.log(np.where(a > 0, a, 1.0))).sum(axis=-1)

    a = shares[counted]  # (tokens, S)
    return np.exp(entropy(a.mean(axis=0))), np.exp(entropy(a).mean())
    # END


# %%
check.ex_14_3(slots_in_use)

# %%
alone_by_layer = []
heads = ("layer", "all tokens together", "one token", "information (nats)", "hardly used")
lines = [f"| {' | '.join(heads)} |"]
lines += ["|---|---|---|---|---|"]
for layer, v in enumerate(views, 1):
    together, alone = slots_in_use(v.shares, counted)
    alone_by_layer.append(alone)
    information = np.log(together) - np.log(alone)
    hardly = (v.shares[counted].mean(axis=0) < 0.1 / S).sum()  # a tenth of an equal share
    lines.append(f"| {layer} | {together:.1f} | {alone:.1f} | {information:.2f} | {hardly} |")
    assert information > -1e-4 and together <= S + 1e-3
assert alone_by_layer[0] > 2 * alone_by_layer[-1], "the last layer chooses more sharply"
Markdown("\n".join(lines))

# %% [markdown]
# Most of the 64 slots of each layer are in use; few of them are dead, if any. A token uses many slots in the
# first layer and only a handful in the last.
#
# ## 5. What does a slot predict?
#
# E5 returns a mix of the slots. A gate scales it, and E8 adds it to the residual stream, the sum that runs
# through all blocks and that the head reads at the end. To see what a single slot predicts, apply the head to
# the slot directly, as if the stream contained nothing else. This is known as the logit lens ([nostalgebraist
# 2020](https://www.lesswrong.com/posts/AcKRB8wDpdaN6v6ru/interpreting-gpt-the-logit-lens)):
#
# $$ z_s = E\; \mathrm{LayerNorm}(M_s) $$
#
# Here E (V, C) is the token embedding, which is also the matrix of the head. (After the last block come a
# LayerNorm and the head.)


# %%
def lens(layer):
    """Return the logits that each slot of a layer gives alone, (S, V)."""
    with no_grad():
        slots = model.norm(model.blocks[layer].memory)
        return ops.linear(slots, model.token_embedding.weight).data


M = model.blocks[L - 1].memory.data
centred = M - M.mean(axis=1, keepdims=True)
normal = centred / np.sqrt((centred**2).mean(axis=1, keepdims=True) + 1e-5)
E = model.token_embedding.weight.data
z = (normal * model.norm.weight.data + model.norm.bias.data) @ E.T
assert np.abs(z - lens(L - 1)).max() < 1e-3

share = views[L - 1].shares
by_word = anatomy.exciting_tokens(share, seen, len(words))
lines = ["| slot | activated by | predicts |", "|---|---|---|"]
for s in np.argsort(-share[counted].mean(axis=0))[:8]:
    inputs, outputs = top_words(by_word[s], words, 5), top_words(z[s], words, 5)
    lines.append(f"| {s} | `{'` `'.join(inputs)}` | `{'` `'.join(outputs)}` |")
Markdown("\n".join(lines))

# %% [markdown]
# Each line reads like a rule of grammar: after these words come those. But eight slots prove little, so we
# measure it. For each token take the slot with the largest share, and the five words with the largest logits
# in its lens. How often is the **next** word among them, and how often the **present** word? For comparison
# we shuffle the lenses among the slots, which shows what chance gives.


# %%
def hits(layer, wanted, order):
    """Return how often `wanted` (N, T) is among the five top words of the strongest slot's lens."""
    five = np.argsort(-lens(layer), axis=1)[:, :5]  # (S, 5)
    strongest = views[layer].shares.argmax(axis=-1)  # (N, T)
    return (five[order[strongest]] == wanted[..., None]).any(axis=-1)[counted].mean()


rng = np.random.default_rng(0)
shuffles = [rng.permutation(S) for _ in range(20)]
next_word = np.array([hits(layer, targets, np.arange(S)) for layer in range(L)])
present = np.array([hits(layer, ids, np.arange(S)) for layer in range(L)])
guesses = [[hits(layer, targets, order) for order in shuffles] for layer in range(L)]
chance = np.mean(guesses, axis=1)
figure, axes = viz.panels("layer", "share of tokens", "is the word among the lens's five?")
for values, style, label in zip(
    (next_word, present, chance), viz.STYLES, ("next word", "present word", "next word, slots shuffled")
):
    axes.plot(range(1, L + 1), values, **style, markersize=5, label=label)
axes.set_xticks(range(1, L + 1))
axes.set_ylim(bottom=0.0)
axes.legend(frameon=False, fontsize=8)
show(
    figure,
    f"In layer 1 the strongest slot's lens names the present word for {present[0]:.0%} of the "
    f"tokens and the next word for {next_word[0]:.0%}; in the last layer it names the present "
    f"word for {present[-1]:.0%} and the next for {next_word[-1]:.0%}. With shuffled slots at "
    f"most {chance.max():.0%}.",
)
assert present[0] > next_word[0] and next_word[-1] > present[-1]
assert next_word[-1] > 5 * chance[-1]

# %% [markdown]
# So the lens is meaningful here, far above chance: slots of the first layer predict the present word, and
# slots of the last layer the next word. This is a small vocabulary with a regular grammar. In other models
# the lens may say less.
#
# It is tempting to conclude: *the memory knows the grammar, and that is how GAM predicts.*
#
# ## 6. Which parts does it need?
#
# To test this conclusion, remove the memory. In one layer, replace a part of E7
#
# $$ \mathrm{fused} = \underbrace{p \odot \mathrm{local\_context}}_{\text{convolution}}
#    + \underbrace{q \odot \mathrm{global\_context}}_{\text{memory}} $$
#
# by something constant, and measure how much the loss rises. By which constant? The following layers have
# never received zeros. So we use the **mean** of the part over all tokens. This removes what the part says
# about *this* token, and nothing else.


# %%
def parts(block, u, state=None):
    """Return the two summands of E7, (N, T, C) each, and their factors p, local, q, global."""
    local_context = block.conv(u, state).data
    global_context = sequence.associative_memory(u, block.memory).data
    gate = ops.sigmoid(block.gate(u)).data
    p, q = gate[..., :C], gate[..., C:]
    return p * local_context, q * global_context, (p, local_context, q, global_context)


def mean_of(values):
    """Return the mean of values (N, T, C) over all counted tokens, at every token."""
    return np.broadcast_to(values[counted].mean(axis=0), values.shape)


CUTS = {
    "nothing": lambda conv, memory, f: conv + memory,
    "memory": lambda conv, memory, f: conv + mean_of(memory),
    "convolution": lambda conv, memory, f: mean_of(conv) + memory,
    "gates": lambda conv, memory, f: mean_of(f[0]) * f[1] + mean_of(f[2]) * f[3],
}


@contextmanager
def cut(layers, what):
    """In this context, the blocks of these layers mix with a part replaced by its mean."""
    for layer in layers:
        block = model.blocks[layer]
        block.mix = lambda u, state, block=block: Tensor(CUTS[what](*parts(block, u, state)))
    try:
        yield
    finally:
        for layer in layers:
            del model.blocks[layer].mix


def losses():
    """Return the loss of every prediction, (N, T) nats."""
    with no_grad():
        return model.token_losses(ids, targets).data


whole = losses()
with cut(range(L), "nothing"):
    assert np.abs(losses() - whole).max() < 1e-3, "with nothing replaced, nothing changes"

# %% [markdown]
# ### Exercise 14.4 ★★☆ What does a cut cost?
#
# `before` and `after` are the losses on the same tokens. Return the pair of the mean rise of the loss and its
# standard error, with the **story** as the unit: first take a mean for each story, over its tokens where
# `chosen` is True. Omit a story without such tokens.
#
# <details><summary>Hint</summary>
#
# The two losses of a token are strongly correlated: a hard word is hard before and after. So first take the
# difference, token by token. What makes a word hard then cancels, and the standard error is far smaller than
# that of two separate means. Your `mean_by_kind` can help, with one kind.
#
# </details>


# %% tags=["exercise"]
def cost(before, after, chosen):
    """Return (mean rise, its standard error) over stories; all three (N, T), chosen bool."""
    # SOLUTION
    rise = mean_by_kind(after - before, np.zeros(chosen.shape, int), chosen, 1)[:, 0]  # (N)
    rise = rise[~np.isnan(rise)]
    return rise.mean(), rise.std(ddof=1) / np.sqrt(len(rise))
    # END


# %%
check.ex_14_4(cost)

# %%
asked = [([layer], what) for what in ("memory", "convolution", "gates") for layer in range(L)]
asked += [(range(L), what) for what in ("memory", "gates", "convolution")]
table = [f"| cut out (rise in nats ± standard error) | {' | '.join((*pocketstories.KINDS, 'all'))} |"]
table += ["|---|" + "---|" * 4]
rise = {}
for layers, what in tqdm(asked, desc="cutting", leave=False):
    with cut(layers, what):
        after = losses()
    place = f"layer {layers[0] + 1}" if len(layers) == 1 else "all layers"
    cells = []
    for kind in range(4):
        mean, error = cost(whole, after, counted & (kinds == kind if kind < 3 else True))
        cells.append(f"{mean:+.4f} ± {error:.4f}")
    rise[what, place] = mean  # the last: all kinds
    table.append(f"| {what}, {place} | " + " | ".join(cells) + " |")
Markdown("\n".join(table))

# %%
figure, axes = viz.panels("layer cut", "rise of the loss (nats per token)", size=(6.5, 3.5))
for what, style in zip(("convolution", "gates", "memory"), viz.STYLES):
    values = [max(rise[what, f"layer {layer}"], 1e-5) for layer in range(1, L + 1)]
    axes.semilogy(range(1, L + 1), values, **style, markersize=5, label=what)
axes.set_xticks(range(1, L + 1))
axes.legend(frameon=False, fontsize=8)
show(
    figure,
    "On a logarithmic axis: cutting the convolution of layer 1 costs several nats, that of the "
    "other layers far less. Fixing the gates or cutting the memory of one layer costs hardly "
    "anything. Values below 0.00001 are drawn there.",
)
assert rise["convolution", "layer 1"] > 1.0
assert max(rise["memory", f"layer {layer}"] for layer in range(1, L + 1)) < 0.05
assert rise["convolution", "all layers"] > 10 * rise["memory", "all layers"]
numbers = lambda module: sum(p.data.size for p in module.parameters())
ratio = numbers(model.blocks[0].feed) / model.blocks[0].memory.data.size
print(f"a layer's feed-forward part has {ratio:.0f} times as many numbers as its memory")
assert ratio > 10

# %% [markdown]
# This model depends most on the first layer's convolution. It is the first place where neighbouring words are
# combined. **The memory, whose slots we have just read, can be cut at almost no cost**, and constant gates
# cost hardly more. The slots do predict the next word, but other parts can predict it too. The memory acts on
# each token alone. So does the feed-forward part behind it, which has many more numbers.
#
# What follows from this, and what does not:
#
# * *This* trained model, on *this* corpus, does not need its memories. To know what a part contains does not
#   tell whether anything depends on it. Only an intervention does.
# * It does not follow that a GAM trained *without* memory would be as good, or worse. That is a different
#   experiment, the paper's table 3 (notebook 13). There the variant without memory comes last.
# * If one part can replace another, cutting them one at a time misses it. For that reason we also cut all
#   layers at once.
#
# ## 7. Comparison with the generator
#
# In PocketStories the true probability of every word is known. If the truth is $P$ and the model predicts
# $Q$, the mean loss of the model is the floor plus the Kullback-Leibler divergence of P and Q:
#
# $$ -\sum_w P_w \log Q_w \;=\; \underbrace{-\sum_w P_w \log P_w}_{\text{the floor}} +
#    \underbrace{\sum_w P_w \log \frac{P_w}{Q_w}}_{\mathrm{KL}(P\,\|\,Q)\; \ge\; 0} $$
#
# Take the position after "lived ... with a", where the generator chooses what the friend is like: a *choice*.
# Each story gives the probability of one word there, $P_w = e^{-\text{floor}}$. All stories together give all
# of them.


# %%
def places(*before):
    """Return all (story, token) of the validation rows where these words end."""
    wanted = [id_of[w] for w in before]
    rows = corpus.valid[:, :-1]
    at = np.ones(rows.shape, bool)
    for back, token in enumerate(reversed(wanted)):
        at[:, back:] &= rows[:, : rows.shape[1] - back] == token
        at[:, :back] = False
    return np.argwhere(at)


truth = {
    words[corpus.valid[n, t + 1]]: float(np.exp(-corpus.floor[n, t]))
    for n, t in places("with", "a")
    if corpus.kinds[n, t] == pocketstories.KINDS.index("choice")
}
P = np.array(list(truth.values()))
assert abs(P.sum() - 1.0) < 1e-6, "every possible word occurs in the stories"


def softmax(z):
    e = np.exp(z - z.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


n, t = next((n, t) for n, t in places("with", "a") if n < N)
Q = softmax(logits[n, t].astype(np.float64))[[id_of[w] for w in truth]]
loss, entropy, divergence = -P @ np.log(Q), -P @ np.log(P), P @ np.log(P / Q)
assert abs(loss - (entropy + divergence)) < 1e-9 and divergence >= -1e-9
print(f"the model's loss is {loss:.4f} nats, the floor {entropy:.4f}: a difference of {divergence:.4f}")

# %% [markdown]
# Now a *recall* token. After "Bring your" comes the one thing of this story; the generator gives it
# probability 1 there. The thing was mentioned long before, out of reach. The best prediction without it gives
# every thing its frequency, and that is about what the model does.

# %%
n2, t2 = next((n, t) for n, t in places("Bring", "your") if n < N)
things = sorted({words[corpus.valid[n, t + 1]] for n, t in places("Bring", "your")})
right = words[targets[n2, t2]]
Q2 = softmax(logits[n2, t2].astype(np.float64))[[id_of[w] for w in things]]
figure, axes = viz.panels("probability", n=2, size=(9.0, 4.2))
order = np.argsort(-P, kind="stable")
for a, names, true, model_says, title in (
    (axes[0], [list(truth)[i] for i in order], P[order], Q[order], "choice: “... with a”"),
    (axes[1], things, [float(w == right) for w in things], Q2, "recall: “Bring your”"),
):
    height = np.arange(len(names))
    a.barh(height, model_says, **viz.bars(0), label="model")
    a.plot(true, height, "D", color=viz.COLOURS[1], markersize=5, label="generator")
    a.set_yticks(height, names, fontsize=8)
    a.invert_yaxis()
    a.set_title(title, fontsize=10)
    a.locator_params(axis="x", nbins=5)
axes[0].legend(frameon=False, loc="lower right")
show(
    figure,
    f"Left: {len(truth)} words that may describe the friend. The model's bars end close to the "
    f"generator's marks. Right: {len(things)} things. The generator gives one of them probability 1, "
    "the model gives each a small probability.",
)
assert divergence < 0.1
assert Q2.sum() > 0.9 and Q2.max() < 0.5, "a thing, but the model does not know which"

# %% [markdown]
# ## 8. Reading without end in constant memory
#
# Which numbers must be kept to read one token after another? The memory, the gates and the feed-forward
# layers use one token alone. The convolution E2 needs the K - 1 inputs before it, in every layer. That is
# **all**:
#
# $$ \mathrm{local\_context}_t = b + \sum_{j=0}^{K-1} w_{\cdot j} \odot u_{t-(K-1)+j} $$
#
# ### Exercise 14.5 ★★★ One token at a time
#
# Write one step of E2. From the present token's u and the K - 1 inputs before it, return the pair of the
# local context and the past that the *next* token needs. The last column of the filter multiplies the present
# token. If K is 1, there is no past, and both pasts have shape (B, 0, C). Do not change the arrays that you
# are given.
#
# <details><summary>Hint</summary>
#
# Join past and present: `window = np.concatenate([past, u[:, None]], axis=1)` is (B, K, C), the oldest first.
# The sum runs over its middle axis. Which of these K inputs does the next token not need?
#
# </details>


# %% tags=["exercise"]
def conv_step(u, past, weight, bias):
    """Return (local_context (B, C), the next past (B, K-1, C)).

    u : (B, C), past : (B, K-1, C) the oldest first, weight : (C, K), bias : (C)
    """
    # SOLUTION
    window = np.concatenate([past, u[:, None]], axis=1)  # (B, K, C)
    local_context = bias + (window * weight.T).sum(axis=1)  # E2
    return local_context, window[:, 1:]
    # END


# %%
check.ex_14_5(conv_step)

# %% [markdown]
# With your step a whole GAM can read one token at a time. Everything else is E1 and E3 to E9 for a single
# token.


# %%
def read_token(tokens, position, pasts):
    """Return the logits (B, V) after tokens (B) at `position`, and the pasts of all layers."""
    where = model.position_embedding.weight[position : position + 1]
    x, later = model.token_embedding(tokens[:, None]) + where, []
    for block, past in zip(model.blocks, pasts, strict=True):
        u = block.norm1(x)  # E1, (B, 1, C)
        weight, bias = block.conv.weight.data, block.conv.bias.data
        local_context, past = conv_step(u.data[:, 0], past, weight, bias)  # E2
        global_context = sequence.associative_memory(u, block.memory)  # E3-E5
        local_context = Tensor(local_context[:, None].astype(np.float32))  # the model's dtype
        x = x + sequence.gated_fusion(local_context, global_context, block.gate(u))  # E6-E8
        x = x + block.feed(block.norm2(x))  # E9
        later.append(past)
    return ops.linear(model.norm(x), model.token_embedding.weight).data[:, 0], later


K = model.config.kernel_size
pasts = [np.zeros((2, K - 1, C), np.float32) for _ in range(L)]  # no past: the zero padding of E2
with no_grad():
    for t in range(ids.shape[1]):
        step_logits, pasts = read_token(ids[:2, t], t, pasts)
        assert np.abs(step_logits - logits[:2, t]).max() < 1e-2 * np.abs(logits[:2, t]).max()
kept = sum(past[0].size for past in pasts)
print(f"{ids.shape[1]} tokens, each from {kept} kept numbers: the same logits")

# %% [markdown]
# The project's own implementation is `Stream`. It keeps the same states, (B, K-1, C) a block. It also
# handles the end of the learned positions, after 128 tokens: it drops the older half of its window and
# continues. We let it write a thousand tokens, and measure the size of its states.

# %%
stream, written = Stream(model), [int(ids[0, 0])]
rng, sizes = np.random.default_rng(3), {}
for count in tqdm(range(1, 1001), desc="writing", leave=False):
    answer = stream.feed([[written[-1]]])[0].astype(np.float64)
    drawn = answer + rng.gumbel(size=answer.shape)  # its argmax is a draw from the softmax
    written.append(int(drawn.argmax()))
    sizes[count] = sum(state.past.nbytes for state in stream.states)
    if count in (10, 100, 1000):
        with no_grad():  # what a full pass over the stream's window says
            full = model(stream.tokens).data[0, -1]
        assert np.abs(answer - full).max() < 1e-2 * np.abs(full).max()
        assert all(state.past.shape == (1, K - 1, C) for state in stream.states)
        print(f"token {count:4}: {sizes[count]:,} bytes of state")
assert len(set(sizes.values())) == 1 and sizes[1] == L * (K - 1) * C * 4
print("\n" + " ".join(words[i] for i in written[:110]))

# %% [markdown]
# Read the text twice, first sentence by sentence: each sentence reads well. Then look for who has what, and
# which friend returns: the sentences do not fit together. The cause is the reach of 13 tokens (notebook 09),
# which no gate or slot can change.
#
# ## What you can do now
#
# You can
#
# * describe gates by kind of token with a standard error, and slots by the words that excite them,
# * tell a part that is readable from a part that is needed, with an ablation and a control, and
# * let a GAM read for ever with L (K - 1) C remembered numbers.
#
# ## Think about it
#
# No check can answer these. Write down your answer, or discuss it with someone.
#
# 1. A slot responds to names. Which experiment would show that the model uses it for names?
# 2. What would you have to see to say that you understand this model?
#
# ## Read on
#
# In the code:
#
# * `minigam/models/anatomy.py`: looking in
# * `minigam/models/decoding.py`: `Stream`
# * `minigam/models/nn.py`: `BlockState`
#
# Elsewhere:
#
# * [Transformer Feed-Forward Layers Are Key-Value Memories](https://arxiv.org/abs/2012.14913)
# * [Attention is not Explanation](https://arxiv.org/abs/1902.10186)
# * [Eliciting Latent Predictions with the Tuned Lens](https://arxiv.org/abs/2303.08112)
# * [Ablation Studies in Artificial Neural Networks](https://arxiv.org/abs/1901.08644)
