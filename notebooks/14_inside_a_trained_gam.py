# %% [markdown]
# # 14 · Inside a trained GAM
#
# **Goal.** Open a model that has learned its stories and look: what do the gates do, which words wake which slots,
# what does a slot write, and which of these parts does the model need? At the end you can tell a part that is
# *readable* from a part that is *needed*. They are not the same, and this model shows it plainly.
#
# **Time.** 75 minutes, 5 exercises. **Needs** 04 to 07 (the parts of a block), 08 (training). Letters: N stories, T tokens,
# C channels, S memory slots, K kernel size, L layers, V vocabulary.

# %% tags=["setup"]
from contextlib import contextmanager

import numpy as np
from IPython.display import Markdown
from tqdm import tqdm

from minigam import Stream, Tensor, anatomy, inputs_and_targets, no_grad, ops, pocketstories, sequence, viz
from minigam.course import check, show, trained

# %% [markdown]
# The model is the one that `make train` makes: 4 layers, 128 channels, 64 slots a layer, a convolution over 4 tokens,
# so it sees 13 tokens. The first call of `trained()` on a machine trains it, later ones read it. We look at it while
# it reads 100 stories that it was not trained on.

# %%
run, model, corpus = trained()
model.eval()
N = 100
ids, targets = inputs_and_targets(corpus.valid[:N])  # (N, T) each
counted = targets >= 0  # a story is shorter than its row: places after its end do not count
kinds, floor = (corpus.kinds[:N], corpus.floor[:N])  # of each target: its kind, and the generator's -log p
words = corpus.tokenizer.vocabulary
C, L, S = model.config.d_model, model.config.n_layers, model.config.n_slots
logits, views = anatomy.views(model, ids)  # one view a layer: its gates and its shares
print(f"C {C}, L {L}, S {S}, V {len(words)}; the model sees {model.reach} tokens")
print(" ".join(words[i] for i in ids[0][counted[0]]))

# %% [markdown]
# ## 1. The gates
#
# E6 makes two numbers from 0 to 1 for every token and channel, one for each context (notebook 06). For the first
# layer, whose input is an embedding plus a position, we can follow them from the ids:
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
# A story has about 120 tokens, and each of them 2 C gates a layer. To see anything we take the mean over channels.

# %%
shown = slice(0, 42)  # the beginning of the first story
local_gates = [v.local_gate[0, shown].mean(axis=-1) for v in views]
global_gates = [v.global_gate[0, shown].mean(axis=-1) for v in views]
show(
    viz.gates_plot([words[i] for i in ids[0, shown]], local_gates, global_gates),
    "Four panels, one a layer, over the first 42 words of a story. Both gates stay close to "
    "one half everywhere, with small ups and downs from word to word.",
)
assert np.min(local_gates + global_gates) > 0.35 and np.max(local_gates + global_gates) < 0.7

# %% [markdown]
# A picture of doors that open and shut would look different: these stand half open, and tremble. But could the mean hide doors
# that are wide open behind others that are shut? Look at single gates: how many are below 0.2 or above 0.8, and by
# how much does one move from token to token?

# %%
for layer, v in enumerate(views, 1):
    both = np.hstack([v.local_gate[counted], v.global_gate[counted]])  # (tokens, 2C)
    far = ((both < 0.2) | (both > 0.8)).mean()
    moves = both.std(axis=0).mean()
    print(f"layer {layer}: {far:5.1%} far from one half; a gate moves by ± {moves:.2f}")
    assert 0.01 < far < 0.3 and moves > 3 * v.local_gate.mean(axis=-1)[counted].std()

# %% [markdown]
# It does hide them: a single gate moves several times as much as the mean, but the channels do not move together. What follows
# is about the mean, so keep in mind what it cannot show.
#
# ## 2. Does a gate know what kind of token comes?
#
# Each token to be predicted is of one kind: *syntax* (settled by the last 13 tokens), *choice* (a die was thrown), *recall*
# (settled further back). It would be a nice story if the memory's gate opened before one kind and the convolution's before
# another. To find out we need a mean for each kind, and how far to trust it.
#
# Tokens of one story are not independent: they share a hero and a plot. So take the **story** as the unit: one mean for
# each story, and from these N numbers $m_1, \dots, m_N$ the mean and its standard error
#
# $$ \bar m = \frac{1}{N} \sum_n m_n, \qquad
#    \mathrm{se} = \frac{1}{\sqrt N}\, \sqrt{\frac{1}{N-1} \sum_n (m_n - \bar m)^2} $$


# %%
def mean_and_error(m):
    """Return the mean of m (N) and its standard error, leaving out nan."""
    m = m[~np.isnan(m)]
    return m.mean(), m.std(ddof=1) / np.sqrt(len(m))


# Does the formula say what it promises? Draw 25 numbers, 4,000 times: how much do their means vary?
drawn = np.random.default_rng(14).standard_normal((4000, 25))
promised = np.mean([mean_and_error(m)[1] for m in drawn])
assert abs(promised / drawn.mean(axis=1).std() - 1.0) < 0.05

# %% [markdown]
# ### Exercise 14.1 ★☆☆ One mean for each story and kind
#
# `values` holds a number for each token, here a gate's mean over channels. Return for each story and each kind the
# mean over its tokens of that kind, counting only places where `counted` is True, and nan where a story has no such token.
#
# <details><summary>Hint</summary>
#
# For one kind, `chosen = counted & (kinds == kind)` is a mask (N, T). A mean is a sum over the mask divided by how many
# there are, along the last axis. Dividing by 0 should give nan, without a warning: `np.maximum(how_many, 1)` and `np.where`.
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
found = {}
for a, name in zip(axes, ("local", "global"), strict=True):
    gates = [getattr(v, f"{name}_gate") for v in views]  # (N, T, C) each
    for kind, kind_name in enumerate(pocketstories.KINDS):
        by_story = [mean_by_kind(gate.mean(axis=-1), kinds, counted, 3) for gate in gates]
        rows = [mean_and_error(m[:, kind]) for m in by_story]
        means, errors = np.array(rows).T  # (L) each
        found[name, kind_name] = means, errors
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
# Two questions, and two answers. Do the kinds differ? **Yes**: by many standard errors, so it is no accident of these
# stories. Do they differ *much*? **No**: by a few hundredths at most. With enough tokens any difference becomes
# significant, so always say how large it is too. And a gate never sees the kind: it sees words in its reach, and before a recall there
# are mostly the same few ("your", "the"). What the gates are worth to the model is for section 6.

# %%
gap, in_errors = 0.0, 0.0
for name in ("local", "global"):
    for one, other in (("syntax", "choice"), ("syntax", "recall"), ("choice", "recall")):
        (m1, e1), (m2, e2) = found[name, one], found[name, other]
        gap = max(gap, np.abs(m1 - m2).max())
        in_errors = max(in_errors, (np.abs(m1 - m2) / np.hypot(e1, e2)).max())
print(f"largest difference between kinds: {gap:.3f}; most standard errors: {in_errors:.0f}")
assert gap < 0.1 and in_errors > 4

# %% [markdown]
# ## 3. The slots, by the words that wake them
#
# E4 shares every token among the S slots. `anatomy.exciting_tokens` takes the mean share of each slot for each word, (S, V);
# a word that came fewer than three times has nan, because a mean of two numbers says little.
#
# ### Exercise 14.2 ★☆☆ The words of a slot
#
# Return the n words with the largest share, the largest first. Words whose share is nan are not known and never returned, so there may be
# fewer than n.
#
# <details><summary>Hint</summary>
#
# `np.argsort` puts nan *last*, where the largest number would be. So turn the list round and nan comes first. Give nan
# a value that loses, or drop it before sorting.
#
# </details>


# %% tags=["exercise"]
def top_words(share_of_word, words, n):
    """Return the n words with the largest share_of_word (V), a list, the largest first."""
    # SOLUTION
    known = np.flatnonzero(~np.isnan(share_of_word))
    order = known[np.argsort(-share_of_word[known], kind="stable")]
    return [words[i] for i in order[:n]]
    # END


# %%
check.ex_14_2(top_words)

# %% [markdown]
# For the first and the last layer, the four slots with the largest mean share:

# %%
seen = np.where(counted, ids, -1)  # what `exciting_tokens` leaves out is negative
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
# In the first layer every word spreads over many slots, so no slot belongs to a word. In the last layer a slot is often a **class of
# words**: those after which the same comes next. Nobody told the model about prepositions or rooms of a house.
#
# ## 4. How many slots are in use?
#
# Notebook 05 counted for one token: $e^H$, with $H$ the entropy of its shares. Over a corpus there are two answers, and
# the difference means something. With $\bar a$ the mean share of each slot over all $N_t$ tokens, and $H(a_t)$ the entropy of token t:
#
# $$ I = H(\bar a) - \frac{1}{N_t} \sum_t H(a_t) \;\ge\; 0 $$
#
# $e^{H(\bar a)}$ is how many slots *all tokens together* use, and $e^{\text{mean } H(a_t)}$ how many *one token* uses. I, in nats, is how much
# a token says about the slot that answers (their mutual information): 0 if every token mixes the slots alike.
#
# ### Exercise 14.3 ★★☆ Slots in use over a corpus
#
# Return $e^{H(\bar a)}$ and $e^{\text{mean } H(a_t)}$, over the tokens where `counted` is True.
#
# <details><summary>Hint</summary>
#
# `shares[counted]` is (tokens, S). For the first, take the mean over tokens and then the entropy; for the second, the other
# way round. 0 log 0 counts as 0.
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
# Of the 64 slots of each layer most are in use: few are dead, if any. And from the first layer to the last the choice becomes sharper: from a mix of
# dozens in the first layer to a handful of slots in the last.
#
# ## 5. What does a slot write?
#
# E5 answers with a mix of the slots themselves, which is scaled by a gate and added to the residual stream, which the head reads at the end.
# So ask the head about a slot directly, as if nothing else were in the stream. The trick is known as the logit lens
# ([nostalgebraist 2020](https://www.lesswrong.com/posts/AcKRB8wDpdaN6v6ru/interpreting-gpt-the-logit-lens)):
#
# $$ z_s = E\; \mathrm{LayerNorm}(M_s) $$
#
# with E (V, C) the token embedding, which is the head as well (after the last block come a LayerNorm and the head).


# %%
def lens(layer):
    """Return the logits that each slot of a layer would write alone, (S, V)."""
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
lines = ["| slot | is woken by | writes |", "|---|---|---|"]
for s in np.argsort(-share[counted].mean(axis=0))[:8]:
    woken, writes = top_words(by_word[s], words, 5), top_words(z[s], words, 5)
    lines.append(f"| {s} | `{'` `'.join(woken)}` | `{'` `'.join(writes)}` |")
Markdown("\n".join(lines))

# %% [markdown]
# Read a line from left to right and it is a rule of grammar: after these words come those. It looks wonderful. But eight
# slots prove little, so make a number of it. For each token take the slot with the largest share, and the five
# words that its lens puts first. How often is the **next** word among them, how often the **present** one? And
# what would chance give: the same, with the slots' lenses shuffled?


# %%
def hits(layer, wanted, order):
    """Return how often `wanted` (N, T) is among five words of the strongest slot's lens."""
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
# So the lens is meaningful here, by a wide margin over chance: slots of the first layer write the word that is there, slots of
# the last one the word that comes. On a small vocabulary and a regular grammar, that is; on other models it may not be.
#
# It would be easy to stop at this point and conclude: *the memory knows the grammar, and that is how GAM predicts.*
#
# ## 6. Which parts does it need?
#
# The test of that sentence is to take the memory away. In one layer, replace a part of E7
#
# $$ \mathrm{fused} = \underbrace{p \odot \mathrm{local\_context}}_{\text{convolution}}
#    + \underbrace{q \odot \mathrm{global\_context}}_{\text{memory}} $$
#
# and measure by how much the loss rises. What to put in its place? Zero is something the following layers have never seen. The part's
# **mean** over tokens is gentler: it takes away what the part says about *this* token, and nothing else.


# %%
def parts(block, u, state=None):
    """Return the two summands of E7, (N, T, C) each, and their factors p, local, q, global."""
    local_context = block.conv(u, state).data
    global_context = sequence.associative_memory(u, block.memory).data
    gate = ops.sigmoid(block.gate(u)).data
    p, q = gate[..., :C], gate[..., C:]
    return p * local_context, q * global_context, (p, local_context, q, global_context)


def mean_of(values):
    """Return the mean of values (N, T, C) over all tokens that count, at every token."""
    return np.broadcast_to(values[counted].mean(axis=0), values.shape)


CUTS = {
    "nothing": lambda conv, memory, f: conv + memory,
    "memory": lambda conv, memory, f: conv + mean_of(memory),
    "convolution": lambda conv, memory, f: mean_of(conv) + memory,
    "gates": lambda conv, memory, f: mean_of(f[0]) * f[1] + mean_of(f[2]) * f[3],
}


@contextmanager
def cut(layers, what):
    """Inside this context, the blocks of these layers mix without a part."""
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
    assert np.abs(losses() - whole).max() < 1e-3, "with nothing cut out, nothing changes"

# %% [markdown]
# ### Exercise 14.4 ★★☆ What does a cut cost?
#
# You have the losses `before` and `after` on the same tokens. Return the mean rise of the loss and its standard error, with the
# **story** as the unit: first a mean for each story, over its tokens where `chosen` is True. A story without any is left out.
#
# <details><summary>Hint</summary>
#
# The two losses of a token are close relatives: a hard word is hard before and after. Take their difference first, token by
# token, and what is hard about a word cancels. The standard error of that difference is far smaller than that of two separate means.
# Your `mean_by_kind` may help, with one kind.
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
    "On a logarithmic axis: to cut the convolution of layer 1 costs several nats, that of "
    "the others far less. Fixing the gates or cutting the memory of one layer costs hardly "
    "anything. What is below 0.00001 is drawn there.",
)
assert rise["convolution", "layer 1"] > 1.0
assert max(rise["memory", f"layer {layer}"] for layer in range(1, L + 1)) < 0.05
assert rise["convolution", "all layers"] > 10 * rise["memory", "all layers"]
numbers = lambda module: sum(p.data.size for p in module.parameters())
beside = numbers(model.blocks[0].feed) / model.blocks[0].memory.data.size
print(f"a layer's feed-forward part has {beside:.0f} times as many numbers as its memory")
assert beside > 10

# %% [markdown]
# The first layer's convolution is what this model stands on: there neighbouring words meet for the first time. **The memory,
# whose slots we just read like a grammar book, can be cut out at almost no cost**, and gates that no longer
# move are hardly missed. The slots do carry the next word, but the same may be written by others too: the memory acts on each
# token alone, and so does the feed-forward part behind it, which has many more numbers.
#
# What may be said, and what may not:
#
# * *This* trained model, on *this* corpus, does not need its memories. Knowing what a part contains does not tell whether
#   anything depends on it; only an intervention does.
# * It does not follow that a GAM trained *without* memory would be as good, or worse. That is another experiment, the paper's
#   table 3 (notebook 13), in which the variant without memory comes last.
# * Cutting parts one at a time can miss what two parts do for each other. "All layers" is there for that reason.
#
# ## 7. Beside the generator
#
# In PocketStories the true probability of every word is known. A model with probabilities $q$ pays, where the truth is $P$,
#
# $$ -\sum_w P_w \log q_w \;=\; \underbrace{-\sum_w P_w \log P_w}_{\text{the floor}} +
#    \underbrace{\sum_w P_w \log \frac{P_w}{q_w}}_{\mathrm{KL}(P\,\|\,q)\; \ge\; 0} $$
#
# Take the place after "lived ... with a", where a die chooses what the friend is like: a *choice*. Every story that passes here tells
# one word's probability, $P_w = e^{-\text{floor}}$; all stories together tell all of them.


# %%
def places(*before):
    """Return all (story, token) of the validation rows at which these words end."""
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
assert abs(P.sum() - 1.0) < 1e-6, "all words that can come here were seen"


def softmax(z):
    e = np.exp(z - z.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


n, t = next((n, t) for n, t in places("with", "a") if n < N)
q = softmax(logits[n, t].astype(np.float64))[[id_of[w] for w in truth]]
pays, entropy, divergence = -P @ np.log(q), -P @ np.log(P), P @ np.log(P / q)
assert abs(pays - (entropy + divergence)) < 1e-9 and divergence >= -1e-9
print(f"the model pays {pays:.4f} nats, the floor is {entropy:.4f}: {divergence:.4f} apart")

# %% [markdown]
# Beside it a *recall*: after "Bring your" the generator names the one thing of this story with probability 1. It was said long
# before, out of sight. The best that can be done without is to give every thing its share, and that is what the model does.

# %%
n2, t2 = next((n, t) for n, t in places("Bring", "your") if n < N)
things = sorted({words[corpus.valid[n, t + 1]] for n, t in places("Bring", "your")})
right = words[targets[n2, t2]]
q2 = softmax(logits[n2, t2].astype(np.float64))[[id_of[w] for w in things]]
figure, axes = viz.panels("probability", n=2, size=(9.0, 4.2))
order = np.argsort(-P, kind="stable")
for a, names, true, model_says, title in (
    (axes[0], [list(truth)[i] for i in order], P[order], q[order], "choice: “... with a”"),
    (axes[1], things, [float(w == right) for w in things], q2, "recall: “Bring your”"),
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
    f"Left: {len(truth)} words that may describe the friend; the model's bars end close to "
    f"the generator's marks. Right: {len(things)} things; the generator is certain of one, "
    "the model gives each of them a small probability.",
)
assert divergence < 0.1
assert q2.sum() > 0.9 and q2.max() < 0.5, "things all, and no idea which"

# %% [markdown]
# ## 8. Reading for ever in constant memory
#
# What must be remembered to read on, token by token? The memory, the gates and the feed-forward layers look at one token alone. The
# convolution E2 wants the K - 1 inputs before it, in every layer, and that is **all**:
#
# $$ \mathrm{local\_context}_t = b + \sum_{j=0}^{K-1} w_{\cdot j} \odot u_{t-(K-1)+j} $$
#
# ### Exercise 14.5 ★★★ One token at a time
#
# Write one step: from the present token's u and the K - 1 inputs before it, return the local context, and the past that
# the *next* token will need. The filter's last column meets the present token. K may be 1, then there is no past. Make
# new arrays and leave those you were given as they are.
#
# <details><summary>Hint</summary>
#
# Put past and present together: `window = np.concatenate([past, u[:, None]], axis=1)` is (B, K, C), the oldest first. The sum
# runs over its middle axis. Which of these K does the next token no longer see?
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
# With your step a whole GAM reads one token at a time. Everything else is E1 and E3 to E9 for a single token.


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
        local_context = Tensor(local_context[:, None])
        x = x + sequence.gated_fusion(local_context, global_context, block.gate(u))  # E6-E8
        x = x + block.feed(block.norm2(x))  # E9
        later.append(past)
    return ops.linear(model.norm(x), model.token_embedding.weight).data[:, 0], later


K = model.config.kernel_size
pasts = [np.zeros((2, K - 1, C), np.float32) for _ in range(L)]  # nothing before: E2's padding
with no_grad():
    for t in range(ids.shape[1]):
        step_logits, pasts = read_token(ids[:2, t], t, pasts)
        assert np.abs(step_logits - logits[:2, t]).max() < 1e-2 * np.abs(logits[:2, t]).max()
remembered = sum(past[0].size for past in pasts)
print(f"{ids.shape[1]} tokens, each from {remembered} remembered numbers: the same logits")

# %% [markdown]
# The project's own is `lm.Stream`: the same states, (B, K-1, C) a block. It also knows what to do when the learned positions come to
# their end after 128 tokens: it forgets the older half of its window and reads on. Let it write a thousand tokens, and weigh its states.

# %%
stream, written = Stream(model), [int(ids[0, 0])]
rng, sizes = np.random.default_rng(3), {}
for count in tqdm(range(1, 1001), desc="writing", leave=False):
    answer = stream.feed([[written[-1]]])[0].astype(np.float64)
    drawn = answer + rng.gumbel(size=answer.shape)  # its largest is a draw from the softmax
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
# Read it twice. First sentence by sentence: each reads well by itself. Then look for who has what, and which friend comes back. That is the reach of 13 tokens
# (notebook 09), and no gate or slot can change it.
#
# ## What you have now
#
# * Gates by kind with a standard error, slots by their words, a lens with a control: three ways to look, each with a number.
# * A cut tells what looking cannot: readable parts need not be needed parts. Here the first convolution carries the model.
# * A step of E2 that makes a GAM read for ever with L (K - 1) C remembered numbers, whatever the length.
#
# **Read on in the code:** `minigam/models/anatomy.py` (looking in), `Stream` in `minigam/models/decoding.py`, `BlockState` in `minigam/models/nn.py`.
