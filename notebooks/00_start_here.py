# %% [markdown]
# # 00 · Start here
#
# **Goal.** See where this course leads: its notebooks, its letters, and the nine equations of a GAM block as one picture.
# Find out whether your machine is ready, run a small model, and warm up the three NumPy skills that every later
# notebook leans on.
#
# **Time.** 20 minutes, 3 exercises. **Needs** Python, and some NumPy.

# %% tags=["setup"]
import platform
import re
from importlib.util import find_spec

import numpy as np
from IPython.display import Markdown, display

import minigam
from minigam import GAM, GAMConfig, MambaConfig, Tensor, TrainConfig, TransformerConfig, gradcheck, ops, viz
from minigam.course import check, library, notebooks, show

# %% [markdown]
# ## 1. What this is about
#
# A language model reads a text as numbers, one row of numbers for each token (here: a word, or a piece of one), and says
# which token comes next. For that, information must move between tokens. A Transformer lets every token look at all
# before it: twice the tokens, four times the looks. The [Gated Associative Memory](https://arxiv.org/abs/2509.00605), GAM,
# has a cost in proportion to the tokens. It joins two parts: a *convolution*, by which a token sees the few just before
# it, and an *associative memory* of learned patterns, which a token asks on its own. A *gate* decides for each token
# how much of either it takes.
#
# You will build all of it by hand, from the derivative of $a \cdot b$ to a model that writes stories, and beside it the two
# rivals, a Transformer and Mamba. You will check every gradient. And you will see what such a model cannot learn,
# and why.
#
# ## 2. The map
#
# Each title is a link. The table is read from the notebooks themselves, by a cell that JupyterLab shows folded: click on the bar
# beside it to see the code.

# %% jupyter={"source_hidden": true}
course = {}
for source in notebooks.sources():
    text = source.read_text(encoding="utf-8").split("# %%")[1]  # the first cell
    text = re.sub(r"^# ?", "", text, flags=re.M)
    goal = re.search(r"\*\*Goal\.\*\* (.*?[.!?])(?:\s|$)", text, re.S)
    needs = re.search(r"\*\*Needs\*\*([^.]*)", text)
    needs = re.findall(r"\b\d\d\b", needs[1]) if needs else []
    minutes, count = re.search(r"\*\*Time\.\*\* (\d+) minutes, (\d+) exercises", text).groups()
    course[source.stem[:2]] = {
        "title": re.search(r"^# \d\d · (.*)", text, re.M)[1],
        "file": f"{source.stem}.ipynb",
        "goal": " ".join(goal[1].split()),
        "minutes": int(minutes),
        "exercises": int(count),
        "needs": [n for n in needs if n < source.stem[:2]],
    }
rows = ["| | notebook | what you will do | minutes | exercises | needs |", "|-|-|-|-|-|-|"]
for number, n in course.items():
    link, needs = f"[{n['title']}]({n['file']})", ", ".join(n["needs"])
    cells = (number, link, n["goal"], n["minutes"], n["exercises"], needs)
    rows.append(f"| {' | '.join(map(str, cells))} |")
hours = sum(n["minutes"] for n in course.values()) / 60
count = sum(n["exercises"] for n in course.values())
display(Markdown("\n".join([*rows, "", f"{hours:.0f} hours and {count} exercises together."])))

# %% [markdown]
# An arrow leads from a notebook to one that needs it. Any order that follows the arrows will do.


# %% jupyter={"source_hidden": true}
def all_before(number):
    """Return every notebook that this one needs, and those that they need."""
    direct = [m for m in course[number]["needs"] if m in course]
    return set(direct).union(*map(all_before, direct))


level = {}
for number in course:  # one column to the right of all that it needs
    level[number] = 1 + max((level[m] for m in all_before(number)), default=-1)
columns = [[n for n in course if level[n] == k] for k in range(max(level.values()) + 1)]
place = {}
for k, column in enumerate(columns):
    place |= {n: (k, (len(column) - 1) / 2 - i) for i, n in enumerate(column)}
figure, axes = viz.panels(size=(9.0, 3.6))
circle = {"boxstyle": "circle", "fc": "none", "ec": viz.INK}
bow = {"shrinkA": 14, "shrinkB": 14, "connectionstyle": "arc3,rad=-0.12"}
arrow = {"arrowstyle": "->", "color": viz.INK, **bow}
for number in course:
    needed = all_before(number)
    for m in needed.difference(*map(all_before, needed)):  # unless a longer way leads there
        axes.annotate("", place[number], place[m], arrowprops=arrow)
    axes.text(*place[number], number, ha="center", va="center", bbox=circle)
tallest = max(map(len, columns)) / 2
axes.set(xlim=(-0.5, len(columns) - 0.5), ylim=(-tallest - 0.3, tallest + 0.3))
axes.axis("off")
show(figure, "The notebooks as numbered circles, with arrows as the column `needs` of the table says.")

# %% [markdown]
# ## 3. How to work with it
#
# Run `make exercises` once, in the project's folder. It writes your own copies into `notebooks/exercises/`, with gaps where you
# are to write. They are yours: run it again after an update, and copies that are there are left alone, answers and all.
# Then `make notebooks-open` starts JupyterLab.
#
# An exercise looks the same everywhere:
#
# * A task, and a mark: ★☆☆ takes a few minutes, ★★★ may take pencil, paper and half an hour.
# * A folded **hint**. Try without it first.
# * A cell with a gap, `raise NotImplementedError("replace this line")`.
# * A cell with a **check**. It tries your answer on many inputs, the odd ones as well, and compares gradients, where
#   there are any, with finite differences. If something is wrong it says what, in one line. Any right answer passes, whatever way it takes.
# * A folded **solution**. Later cells use *your* answer, so do not skip a gap: copy the solution if you must.
#
# What you read in `notebooks/` itself are the solved ones, with everything that they printed and drew. Every equation has code in the
# same letters below it, and an `assert` that it holds. Change numbers and see what breaks: that is what they are for.
#
# ## 4. Is your machine ready?

# %%
version = platform.python_version()
old = tuple(map(int, platform.python_version_tuple()[:2])) < (3, 11)
blas = np.show_config(mode="dicts").get("Build Dependencies", {}).get("blas", {})
wanted = ("matplotlib", "tqdm", "safetensors", "jupytext", "nbformat", "nbclient")
missing = [name for name in wanted if find_spec(name) is None]

print("Python ", version, "- too old, minigam needs 3.11" if old else "")
print("minigam", minigam.__version__)
print("NumPy  ", np.__version__)
print("BLAS   ", blas.get("name", "unknown"), blas.get("version", ""), "(multiplies matrices)")
xp = library()  # looks for a GPU, and says what it found
if missing:
    print("missing:", ", ".join(missing), "- install with: pip install -e '.[notebooks]'")
else:
    print("all packages are here")

# %% [markdown]
# A GPU is not needed for anything here. Where one answers, notebooks 03, 05 and 12 use it without a change.
#
# ## 5. A first taste
#
# A GAM of two small blocks, the loss of its guesses on random tokens, and a check of its gradients. The loss is
# $-\ln p$, averaged over all tokens, where $p$ is the probability that the model gave to the token that came; its unit
# is the nat. `gradcheck` moves all
# parameters together a little, in a few random directions, and compares how far the loss moves with what the
# gradients say. Notebook 02 builds it.

# %%
config = GAMConfig(vocab_size=20, d_model=8, n_layers=2, n_slots=4, dropout=0.0)
model = GAM(config, seed=0, dtype="float64")
tokens = np.random.default_rng(0).integers(20, size=(2, 11))  # two texts of 11 tokens


def guess(*parameters):  # of what the model has; gradcheck moves them in their place
    return model.loss(tokens[:, :-1], tokens[:, 1:])


worst = gradcheck(guess, *model.parameters(), directions=5)
print(f"{model.num_parameters():,} parameters, {model.reach} tokens seen")
print(f"loss {guess().item():.2f} nats; guessing evenly among 20 costs {np.log(20):.2f}")
print(f"worst relative error of the gradients {worst:.0e}")
assert worst < 1e-6

# %% [markdown]
# And this is what the gradient walked along: the tape of the last of its two blocks, drawn from what ran. Notebook 01
# builds the tape.

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
# These letters mean the same in equations, code and comments. A notebook that needs one of them for something else says so under
# *Letters* at its top. A comment `# (B, T, C)` at the end of a line is the shape of what the line made. Sizes are those of the
# published models:

# %%
gam, transformer, mamba = GAMConfig(), TransformerConfig(), MambaConfig()
letters = {
    "B": (TrainConfig().batch_size, "batch: texts computed at once, in training"),
    "T": (gam.block_size, "tokens in a text (the paper writes N)"),
    "C": (gam.d_model, "channels: numbers for each token"),
    "S": (gam.n_slots, "slots of the memory"),
    "K": (gam.kernel_size, "kernel size: tokens that the convolution sees"),
    "L": (gam.n_layers, "layers, here: blocks"),
    "V": (gam.vocab_size, "vocabulary: different tokens"),
    "H": (transformer.n_heads, "heads of attention, in the Transformer"),
    "D": (transformer.d_model // transformer.n_heads, "channels of a head, C / H"),
    "E": (mamba.expand * mamba.d_model, "expanded channels, in Mamba"),
    "N": (mamba.d_state, "states of each expanded channel, in Mamba"),
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
# You need not understand them yet. But see how little it is. The whole block, in NumPy, line by line, against
# minigam's:


# %%
def layer_norm(z, weight, bias):
    z = z - z.mean(axis=-1, keepdims=True)
    return z / np.sqrt((z * z).mean(axis=-1, keepdims=True) + 1e-5) * weight + bias


def sigmoid(z):
    return 1.0 / (1.0 + np.exp(-z))


block = model.blocks[0]
p = {name: parameter.data for name, parameter in block.named_parameters()}
M, w, b = p["memory"], p["conv.weight"], p["conv.bias"]  # (S, C), (C, K), (C)
B, T, C = x.shape
K = w.shape[1]

u = layer_norm(x.data, p["norm1.weight"], p["norm1.bias"])  # E1
padded = np.concatenate([np.zeros((B, K - 1, C)), u], axis=1)  # nothing comes before
local_context = b + sum(w[:, j] * padded[:, j : j + T] for j in range(K))  # E2
s = u @ M.T  # E3
a = np.exp(s) / np.exp(s).sum(axis=-1, keepdims=True)  # E4
global_context = a @ M  # E5
g_local, g_global = np.split(u @ p["gate.weight"].T + p["gate.bias"], 2, axis=-1)  # E6
fused = sigmoid(g_local) * local_context + sigmoid(g_global) * global_context  # E7
h = x.data + fused  # E8
v = layer_norm(h, p["norm2.weight"], p["norm2.bias"])
v = v @ p["feed.expand.weight"].T + p["feed.expand.bias"]
v = ops.gelu(Tensor(v)).data @ p["feed.contract.weight"].T + p["feed.contract.bias"]
y = h + v  # E9, its dropout aside

assert np.abs(y - block(x).data).max() < 1e-12
print(f"largest difference to minigam's block: {np.abs(y - block(x).data).max():.0e}")

# %% [markdown]
# And as a picture, read from top to bottom. Round boxes are given: the input x, and what is learned. What flows along an arrow has the
# shape that stands in the box where the arrow begins.


# %%
class Box:
    """A box of the picture: what is in it, its shape, and the boxes that it is made from."""

    def __init__(self, text, shape, *inputs):
        self.name, self.shape, self.inputs = text, shape.split(), inputs
        if inputs:
            self.op = text


x_in = Box("x", "B T C")
memory = Box("memory M", "S C")
e1 = Box("E1 u = LayerNorm(x)", "B T C", x_in)
e2 = Box("E2 local_context", "B T C", e1, Box("convolution w, b", "C K"))
e3 = Box("E3 s = u Mᵀ", "B T S", e1, memory)
e4 = Box("E4 a = softmax(s)", "B T S", e3)
e5 = Box("E5 global_context", "B T C", e4, memory)
e6 = Box("E6 g_local, g_global", "B T 2C", e1, Box("gate W_g, b_g", "2C C"))
e7 = Box("E7 fused", "B T C", e2, e5, e6)
e8 = Box("E8 h = x + fused", "B T C", x_in, e7)
e9_norm = Box("E9 LayerNorm(h)", "B T C", e8)
e9_inner = Box("E9 GELU(W_1 … + b_1)", "B T 4C", e9_norm, Box("W_1, b_1", "4C C"))
e9_outer = Box("E9 W_2 … + b_2", "B T C", e9_inner, Box("W_2, b_2", "C 4C"))
e9 = Box("E9 y = h + …", "B T C", e8, e9_outer)
show(
    viz.graph_plot(e9),
    "x goes through LayerNorm, E1. From there the convolution E2, the memory E3 to E5 and the "
    "gate E6, side by side, meet in E7. E8 adds x. E9 is LayerNorm and two layers, and adds "
    "h.",
)

# %% [markdown]
# Where can a token see another? Look through the nine lines for one that mixes two values of $t$. There is one: E2, with its
# $u_{t-(K-1)+j}$. Everything else treats each token alone. Notebook 09 is about what follows from that.

# %%
moved = x.data.copy()
moved[:, 0] += 1.0  # the first token, and what of the outputs moves:
change = np.abs(block(Tensor(moved)).data - block(Tensor(x.data)).data).max(axis=(0, 2))  # (T)
print("moved:", [bool(c > 0) for c in change])
assert (change[:K] > 0).all()
assert (change[K:] == 0).all()

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
# ## What you have now
#
# * A map, a machine that is ready, and the letters.
# * The nine equations of a GAM block, run once and compared.
# * Broadcasting, `@` over the last axis, sums with `keepdims`: most of the code of this course is these three.
#
# **Read on in the code:** `minigam/models/gam.py`, the block you have just seen, in fewer than sixty lines; and `minigam/viz/graph.py`, which
# drew it. Then notebook 01.
