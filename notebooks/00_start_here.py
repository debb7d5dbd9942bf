# %% [markdown]
# # 00 · Start here
#
# **Goal.** Meet a small language model that forgets its hero, and find out why. Then see where this course leads: its
# notebooks, its letters, and the nine equations of a GAM block as one picture. Check that your machine is ready, and
# practise the three NumPy skills that every later notebook uses.
#
# **Time.** 35 minutes, 3 exercises. **Needs** Python, and some NumPy.

# %% tags=["setup"]
from textwrap import fill

import numpy as np
from IPython.display import Markdown, display

from minigam import (
    GAM,
    GAMConfig,
    MambaConfig,
    Tensor,
    TrainConfig,
    TransformerConfig,
    from_pocketstories,
    gradcheck,
    inputs_and_targets,
    no_grad,
    viz,
)
from minigam.course import check, library, overview, show, stored

# %% [markdown]
# ## 1. A story that forgets its hero
#
# A language model reads the beginning of a text and predicts the next token (here: a word or a punctuation mark). Append
# that token, predict again, and the model writes. The model below is a small GAM. It was trained beforehand on short
# stories, and its weights come with the course. It continues a story about Emma and a rabbit:

# %%
gam, tokenizer = stored("gam")


def read(prompt):
    """Return the ids of the prompt's tokens. In training a story followed the end of another; so does the prompt."""
    return [tokenizer.end, *tokenizer.encode(prompt)]


def write(model, prompt, seed):
    """Return the prompt and its continuation, up to the end of the story."""
    _, *story = model.generate(read(prompt), 120, temperature=0.8, seed=seed).tolist()
    if tokenizer.end in story:
        story = story[: story.index(tokenizer.end)]
    return tokenizer.decode(story)


story = write(gam, "Once upon a time, Emma lived beyond the harbour with a cheerful rabbit.", seed=0)
print(fill(story, 100))

# %% [markdown]
# Every sentence is in order, and no word is misspelt. But follow the heroes through the story: what happens to Emma, and
# to the rabbit?
#
# **Your turn.** Change the name, the animal or the seed in the next cell and run it again (Shift + Enter). Any name
# from the stories works: Tom, Nora, Ben, Lily. How many sentences does a hero survive?

# %%
story = write(gam, "Once upon a time, Tom lived near the river with a small fox.", seed=1)
print(fill(story, 100))

# %% [markdown]
# Why does it forget? Test it on one word. The sentence *"But that year ..."* goes on with *he* or *she*. Which of the two
# is right depends on the name at the beginning. We ask the GAM, and next to it a Transformer of about the same size that was
# trained on the same stories:

# %%
transformer, _ = stored("transformer")


def chance_of(word, model, prompt):
    """Return the probability that the model gives to a word after the prompt."""
    with no_grad():
        logits = model(np.array([read(prompt)])).data[0, -1]  # (V)
    p = np.exp(logits - logits.max())
    return float(p[tokenizer.encode(word)[0]] / p.sum())


hidden = " had a blue bell and hid it in a box. But that year"
print(f"{'':32}{'p(he)':>8}{'p(she)':>8}")
for name, pronoun in (("Emma", "She"), ("Tom", "He")):
    prompt = f"Once upon a time, {name} lived beyond the harbour with a cheerful rabbit. {pronoun}{hidden}"
    for label, model in (("GAM", gam), ("Transformer", transformer)):
        p = [chance_of(word, model, prompt) for word in ("he", "she")]
        print(f"{name}'s story, {label:<18}{p[0]:8.2f}{p[1]:8.2f}")
    assert abs(chance_of("he", gam, prompt) - 0.5) < 0.05
    assert chance_of(pronoun.lower(), transformer, prompt) > 0.95
print(f"The GAM sees {gam.reach} tokens; the name and its pronoun are further back than that.")
assert len(tokenizer.encode(pronoun + hidden)) > gam.reach

# %% [markdown]
# The Transformer knows. The GAM gives the same two probabilities, close to one half, whatever the name. It does not
# forget by accident: the name is outside its **receptive field**, the tokens that a prediction depends on.
#
# That is the price of a cheaper design. A Transformer compares every token with all tokens before it: twice the
# tokens, four times the comparisons. The [Gated Associative Memory](https://arxiv.org/abs/2509.00605) network, GAM, needs
# work in proportion to the number of tokens. It has three parts:
#
# * A **convolution** combines each token with the few tokens before it.
# * An **associative memory** holds learned patterns. Each token reads it on its own.
# * A **gate** decides, for each token and channel, how much of the two it takes.
#
# In this course you build all of it by hand, from the derivative of $a \cdot b$ to a model that writes stories. You build
# its two rivals as well, the Transformer and Mamba, and you check every gradient. Notebook 09 proves what a GAM can
# never learn. Notebook 16 gives it a memory that the text writes, and with it the name.
#
# ## 2. The map
#
# The title of each notebook is a link. An arrow leads from a notebook to one that needs it, and any order that follows the
# arrows works. The minutes are an estimate from the length of text, code and exercises.

# %%
display(Markdown(overview.table()))
show(
    overview.needs_plot(),
    "The notebooks as numbered circles, with arrows as the column `needs` of the table says.",
)

# %% [markdown]
# ## 3. How to work with it
#
# `minigam course open` (in a clone of the project: `make notebooks-open`) writes your own copies of the notebooks, with gaps
# for your answers, and opens them in JupyterLab. It keeps copies that exist. On Colab this already is such a copy.
#
# Every exercise has the same parts:
#
# * A task with a mark: ★☆☆ takes a few minutes, ★★★ may take pencil, paper and half an hour.
# * A folded **hint**. Try without it first.
# * A cell with a gap, `raise NotImplementedError("replace this line")`.
# * A cell with a **check**. It tries your answer on many inputs, also on unusual ones, and compares gradients with finite
#   differences. If something is wrong, one line says what. Any right answer passes that returns new arrays in the dtype of
#   its inputs and leaves the inputs unchanged.
# * A folded **solution**. Later cells use *your* answer, so do not leave a gap open: copy the solution if you must.
#
# The solved notebooks, with all their output, are in the project's folder `notebooks`. Below every equation there is code in the
# same letters, and an `assert` that it holds. Change numbers and see what breaks.
#
# ## 4. Is your machine ready?

# %%
print(overview.machine())
xp = library()  # looks for a GPU, and says what it found

# %% [markdown]
# You need no GPU. If there is one, notebooks 03, 05 and 12 use it without a change.
#
# ## 5. A first loss, a first gradient
#
# The **loss** says how well a model predicts. It is $-\ln p$, averaged over all tokens, where $p$ is the probability that the
# model gave to the token that came next. Its unit is the nat. The stories were written by a program with known probabilities,
# so we also know the lowest loss that any model can reach on average, the **entropy floor**.

# %%
corpus = from_pocketstories(block_size=128, n_train=1, n_valid=50, seed=1)  # new stories
ids, targets = inputs_and_targets(corpus.valid)
assert corpus.tokenizer.to_json() == tokenizer.to_json()
with no_grad():
    losses = {label: m.loss(ids, targets).item() for label, m in (("GAM", gam), ("Transformer", transformer))}
losses["all words equally likely"] = float(np.log(len(tokenizer)))
losses["entropy floor"] = float(corpus.floor[targets >= 0].mean())
for label, loss in losses.items():
    print(f"{label:<26}{loss:6.2f} nats per token")
assert losses["entropy floor"] < losses["Transformer"] < losses["GAM"] < losses["all words equally likely"]

# %% [markdown]
# Training moves every parameter a little against its **gradient**, the derivative of the loss. Is a gradient right? `gradcheck`
# moves all parameters together by a tiny step, in a few random directions, and compares the change of the loss with what
# the gradient predicts. You build such a checker in notebook 02. Here it checks a tiny GAM with random weights:

# %%
config = GAMConfig(vocab_size=20, d_model=8, n_layers=2, n_slots=4, dropout=0.0)
model = GAM(config, seed=0, dtype="float64")
tokens = np.random.default_rng(0).integers(20, size=(2, 11))  # two texts of 11 tokens


def loss(*parameters):  # gradcheck changes the parameters in place
    return model.loss(tokens[:, :-1], tokens[:, 1:])


worst = gradcheck(loss, *model.parameters(), directions=5)
print(f"{model.num_parameters():,} parameters, worst relative error of the gradients {worst:.0e}")
assert worst < 1e-6

# %% [markdown]
# The gradient was computed along the **tape**, the graph of all operations that led to the loss. Here is the tape of
# one block, drawn from what ran. In notebook 01 you build a tape.

# %%
x = Tensor(np.random.default_rng(1).standard_normal((2, 10, 8)), requires_grad=True, name="x")
show(
    viz.graph_plot(model.blocks[1](x)),
    "From x through a layer norm to linear, memory and convolution side by side, joined by "
    "the gated fusion and added to x; then the feed-forward part, and added again.",
)

# %% [markdown]
# ## 6. The letters
#
# These letters mean the same in equations, code and comments. A notebook that uses one of them for something else says so
# at its top, under *Letters*. A comment `# (B, T, C)` at the end of a line is the shape of the array that the line
# computes. The sizes are those of the published models:

# %%
g, t, m = GAMConfig(), TransformerConfig(), MambaConfig()  # the published sizes
letters = {
    "B": (TrainConfig().batch_size, "batch: texts computed at once"),
    "T": (g.block_size, "tokens in a text (the paper writes N)"),
    "C": (g.d_model, "channels: numbers for each token"),
    "S": (g.n_slots, "slots of the memory"),
    "K": (g.kernel_size, "kernel size: tokens that the convolution combines"),
    "L": (g.n_layers, "layers, that is blocks"),
    "V": (g.vocab_size, "vocabulary size"),
    "H": (t.n_heads, "heads of attention, in the Transformer"),
    "D": (t.d_model // t.n_heads, "channels of a head, C / H"),
    "E": (m.expand * m.d_model, "expanded channels, in Mamba"),
    "N": (m.d_state, "states of each expanded channel, in Mamba"),
}
for letter, (size, meaning) in letters.items():
    print(f"{letter}  {size:>6,}  {meaning}")
published = GAM()
print(f"{published.num_parameters():,} parameters")
assert published.num_parameters() == 22_599_680  # the paper says 22.6 M

# %% [markdown]
# ## 7. A block in nine equations
#
# A GAM is L such blocks between an embedding and a head. The numbers E1 to E9 are used in the whole project: here, in the
# docstrings of the code, and in its tests. ($\odot$ multiplies entry by entry; $\sigma(z) = 1/(1+e^{-z})$.)
#
# $$
# \begin{aligned}
# \text{E1}\quad & u = \mathrm{LayerNorm}(x) \\
# \text{E2}\quad & \mathrm{local\_context}_t = b + \sum_{j=0}^{K-1} w_{:,j} \odot u_{t-(K-1)+j} \\
# \text{E3}\quad & s = u\, M^\top \\
# \text{E4}\quad & a = \mathrm{softmax}(s) \\
# \text{E5}\quad & \mathrm{global\_context} = a\, M \\
# \text{E6}\quad & [\,g_{\mathrm{local}},\, g_{\mathrm{global}}\,] = u\, W_g^\top + b_g \\
# \text{E7}\quad & \mathrm{fused} = \sigma(g_{\mathrm{local}}) \odot \mathrm{local\_context}
#                  + \sigma(g_{\mathrm{global}}) \odot \mathrm{global\_context} \\
# \text{E8}\quad & h = x + \mathrm{fused} \\
# \text{E9}\quad & y = h + \mathrm{Dropout}\big(W_2\, \mathrm{GELU}(W_1\, \mathrm{LayerNorm}(h) + b_1) + b_2\big)
# \end{aligned}
# $$
#
# You need not understand them yet. But one question is easy: in which of the nine lines does a token meet another token? Look for
# a line with two different values of $t$. There is one, E2, with its $u_{t-(K-1)+j}$. Every other line treats each token alone.
# So one block carries information over K - 1 tokens, and no further. Change the first token of a text, and see which
# outputs of the block change:

# %%
block, K = model.blocks[0], config.kernel_size
changed = x.data.copy()
changed[:, 0] += 1.0
difference = np.abs(block(Tensor(changed)).data - block(Tensor(x.data)).data).max(axis=(0, 2))  # (T)
print("changed:", [bool(d > 0) for d in difference])
assert (difference[:K] > 0).all()
assert (difference[K:] == 0).all()

# %% [markdown]
# That is why the GAM above forgets: L blocks reach 1 + L (K - 1) tokens, and Emma's name is further back. Notebook 09
# continues from here.
#
# The nine equations as a picture, read from top to bottom. Round boxes are given: the input x and the parameters. Each box
# shows the shape of what leaves it.

# %%
show(
    viz.block_plot(),
    "x goes through LayerNorm, E1. From there the convolution E2, the memory E3 to E5 and the "
    "gate E6, side by side, meet in E7. E8 adds x. E9 is LayerNorm and two layers, and adds "
    "h.",
)

# %% [markdown]
# ## 8. Three things to warm up
#
# ### Exercise 00.1 ★☆☆ Broadcasting
#
# NumPy combines arrays of different shapes by lining up their axes *from the right*, and repeating what has length 1 or is
# not there. So (B, T, C) times (C,) weighs each channel. But (B, T, C) times (T,) lines T up with C: an error if you are
# lucky, and nonsense if T happens to be C.
#
# Weigh each token by its own number and each channel by its own.
#
# <details><summary>Hint</summary>
#
# `token` of shape (T,) has to become (T, 1), so that T stands where T stands in (B, T, C): `token[:, None]`.
#
# </details>


# %% tags=["exercise"]
def weigh(x, token, channel):
    """Return x (B, T, C), each entry times its token's (T) and its channel's (C) number."""
    # SOLUTION
    return x * token[:, None] * channel
    # END


# %%
check.ex_00_1(weigh)

# %% [markdown]
# ### Exercise 00.2 ★☆☆ A product over the last axis
#
# Each of the S rows of M is to be compared with each token: the dot product of their C numbers,
#
# $$ s_{bts} = \sum_c x_{btc}\, M_{sc} $$
#
# `@` sums over the **last** axis of its left side and the **last but one** of its right side. Axes further left are
# carried along: that is all that a batch is.
#
# <details><summary>Hint</summary>
#
# On the right C must be the last but one axis: (C, S). M is (S, C), so turn it. (`np.einsum`, which takes the letters
# literally, is right too.)
#
# </details>


# %% tags=["exercise"]
def compare(x, M):
    """Compare each token of x (B, T, C) with each row of M (S, C); return (B, T, S)."""
    # SOLUTION
    return x @ M.T
    # END


# %%
check.ex_00_2(compare)

# %% [markdown]
# ### Exercise 00.3 ★☆☆ Sums that keep their axis
#
# The numbers of each token, all above 0, are to become shares that add up to 1: divide by their sum over the last axis.
# The sum of (B, T, C) over its last axis has shape (B, T), and lined up from the right it no longer fits.
#
# <details><summary>Hint</summary>
#
# `x.sum(axis=-1, keepdims=True)` leaves the axis there, with length 1: (B, T, 1). The rest is broadcasting.
#
# </details>


# %% tags=["exercise"]
def to_shares(x):
    """Return x (B, T, C) with every token's C numbers divided by their sum: (B, T, C)."""
    # SOLUTION
    return x / x.sum(axis=-1, keepdims=True)
    # END


# %%
check.ex_00_3(to_shares)

# %%
x = np.exp(np.random.default_rng(2).standard_normal((2, 5, 4)))
shares = to_shares(weigh(x, np.ones(5), np.ones(4)))
assert np.abs(shares.sum(axis=-1) - 1.0).max() < 1e-12
assert np.abs(compare(x, np.ones((1, 4)))[..., 0] - x.sum(axis=-1)).max() < 1e-12

# %% [markdown]
# With `np.exp` before it, 00.3 is E4. 00.2 is E3. And the channel's half of 00.1 is one term of E2. That is a
# good part of a block.
#
# ## What you can do now
#
# You can
#
# * say what a receptive field is, and show with two probabilities that a word lies outside it,
# * read the shape of an array from the letters, and find E1 to E9 in a picture, and
# * combine arrays with broadcasting, `@` over the last axis, and sums with `keepdims`.
#
# ## Think about it
#
# No check can answer these. Write down your answer, or discuss it with someone.
#
# 1. Where would a model with a short receptive field be good enough, and where would it fail without anyone noticing?
# 2. The two models have nearly the same loss on most words. What does one average over all words hide?
#
# ## Read on
#
# In the code:
#
# * `minigam/models/gam.py` is the block
# * `minigam/viz/block.py` draws the picture above
#
# Elsewhere:
#
# * [The paper](https://arxiv.org/abs/2509.00605)
# * [Attention Is All You Need, the Transformer](https://arxiv.org/abs/1706.03762)
# * [Broadcasting, in NumPy's manual](https://numpy.org/doc/stable/user/basics.broadcasting.html)
