# %% [markdown]
# # 11 · The rivals: Mamba's selective scan by hand
#
# **Goal.** Go from a differential equation to Mamba's recurrence, let the tokens decide what it keeps, derive its
# backward pass through time, and compute it in a logarithmic number of rounds. At the end you will have written the
# selective scan and its gradient, built a Mamba block, and seen why it needs a residual connection.
#
# **Time.** 150 minutes, 5 exercises. **Needs** 02 (gradient checks), 04 (causal convolution). Letters: b batch, T
# tokens, E channels, N states of each channel, K taps of the convolution. **B and C are Mamba's own here**: B says
# what is written into a state, C what is read from it. A is the rate of a state. R counts rounds in section 5, and is
# the rank of the step size in section 7.

# %% tags=["setup"]

import numpy as np
from tqdm import tqdm

from minigam import (
    AdamW,
    Mamba,
    MambaConfig,
    Tensor,
    gradcheck,
    memory,
    no_grad,
    reference_only,
    sequence,
    train_step,
    viz,
)
from minigam.course import check, median_ms, show

# %% [markdown]
# ## 1. From a differential equation to one step
#
# A cup of tea cools to the temperature of its surroundings; a capacitor leaks while it is charged. Both can be
# described by one number $h$, the state. It decays at the rate $A < 0$ and is driven by an input $x$:
#
# $$ h'(t) = A\, h(t) + B\, x(t) $$
#
# Tokens come one at a time. So assume that the input stays at $x$ for a time $\delta$ and then jumps to the next
# value: a **zero-order hold**. Multiply the equation by $e^{-At}$. Then its left side becomes a derivative,
# $\frac{d}{dt}\big(e^{-At} h\big) = e^{-At}(h' - A h) = e^{-At} B x$. Integrate both sides from 0 to $\delta$:
#
# $$ e^{-A\delta} h(\delta) - h(0) = B x \int_0^\delta e^{-At} dt = B x\, \frac{1 - e^{-A\delta}}{A} $$
#
# Multiply by $e^{A\delta}$. This gives one step of a recurrence, exact for every $\delta$:
#
# $$ h(\delta) = \underbrace{e^{\delta A}}_{a}\, h(0) + \underbrace{\frac{e^{\delta A} - 1}{A}\, B}_{b}\, x $$
#
# To check it, follow the differential equation from 0 to $\delta$ in 100,000 tiny steps.

# %%
A, B, delta, x, h0 = -1.5, 0.8, 0.6, 2.0, 1.0
h, dt = h0, delta / 100_000
for _ in range(100_000):
    h = h + dt * (A * h + B * x)
step = np.exp(delta * A) * h0 + (np.exp(delta * A) - 1.0) / A * B * x
print(f"tiny steps {h:.6f}, one exact step {step:.6f}")
assert abs(h - step) < 1e-4

# %% [markdown]
# ### Exercise 11.1 ★☆☆ Discretise
#
# Return $a$ and $b$ of the exact step. The arguments are numbers or arrays that broadcast with one another. $\delta$
# can be tiny: for $\delta A = -10^{-12}$ the difference $e^{\delta A} - 1$, computed as it stands, loses most of its
# digits. Yours must not.
#
# <details><summary>Hint</summary>
#
# NumPy has a function for $e^z - 1$ that keeps the digits: `np.expm1`. You need no `if`, because A is never 0 here.
#
# </details>


# %% tags=["exercise"]
def discretise(delta, A, B):
    """Return (a, b) of h <- a h + b x, a zero-order hold of length delta; the arguments broadcast."""
    # SOLUTION
    z = delta * A
    return np.exp(z), np.expm1(z) / A * B
    # END


# %%
check.ex_11_1(discretise)

# %% [markdown]
# Mamba's paper (Gu and Dao, arXiv 2312.00752) gives these formulas. Its code does something else: it keeps $a =
# e^{\delta A}$, but uses $b = \delta B$. Put $z = \delta A$ and expand the ratio of the two:
#
# $$ \frac{\delta B}{b} = \frac{z}{e^z - 1} = 1 - \frac{z}{2} + \frac{z^2}{12} - \dots $$
#
# Since $z < 0$, the code writes too much. The excess is a share of about $\delta |A| / 2$, so it shrinks with
# $\delta$.

# %%
too_much = lambda delta, A: delta / discretise(delta, A, 1.0)[1] - 1.0
for A in (-1.0, -16.0):
    assert abs(too_much(1e-4, A) / (1e-4 * abs(A) / 2) - 1.0) < 1e-2  # the first term
    assert abs(too_much(2e-4, A) / too_much(1e-4, A) - 2.0) < 1e-2  # half the step, half the excess

deltas = np.geomspace(1e-3, 1.0, 40)
figure, axes = viz.panels("step size δ", "δB above the exact b (share)")
for A, style in zip((-1.0, -4.0, -16.0), viz.STYLES, strict=False):
    excess = too_much(deltas, A)
    axes.loglog(deltas, excess, **style, markevery=6, markersize=4, label=f"A = {A:g}")
axes.axvspan(1e-3, 0.1, color=viz.INK, alpha=0.15, label="δ of a new model")
axes.legend(frameon=False)
show(
    figure,
    "Three lines of slope 1 on logarithmic axes; the upper two bend up at the right. For "
    "small δ the excess is proportional to δ and to |A|. For the δ of a new model it is at "
    "most a few per cent of b for A = -1, and as large as b for A = -16.",
)

# %% [markdown]
# For the fastest states the excess is large. Yet it does little harm, because B is learned and can make up for a part
# of it. The decay must not be simplified in this way. Its first-order form, $a \approx 1 + \delta A$, has a magnitude
# above 1 if $\delta |A| > 2$, and a state that is multiplied by it at every token explodes. $e^{\delta A}$ is below 1
# for every $\delta > 0$.

# %%
fast = 0.2 * -16.0
print(f"50 tokens: exact {np.exp(fast) ** 50:.1e}, first order {(1.0 + fast) ** 50:.1e}")
assert np.exp(fast) < 1.0 < abs(1.0 + fast)

# %% [markdown]
# ## 2. The recurrence, and what it remembers
#
# Give each channel N states, each with its own rate. Write the input into all of them and read their weighted sum.
# For now $a$, $b$ and $c$ are the same at every token:
#
# $$ h_{t,n} = a_n h_{t-1,n} + b_n x_t, \qquad y_t = \sum_n c_n h_{t,n} $$
#
# Unroll it from a state of zeros: $h_0 = b x_0$, $h_1 = a b x_0 + b x_1$, and so on. What was written $\tau$ tokens
# ago has been multiplied by $a$ exactly $\tau$ times. So the recurrence is a convolution with a filter $k$ of
# unlimited length:
#
# $$ y_t = \sum_{\tau = 0}^{t} k_\tau\, x_{t - \tau}, \qquad k_\tau = \sum_n c_n\, a_n^\tau\, b_n $$

# %%
rng = np.random.default_rng(11)
T, N = 40, 4
x, c = rng.standard_normal(T), rng.standard_normal(N)
a, b = discretise(0.2, -np.arange(1.0, N + 1), np.ones(N))

h, y = np.zeros(N), np.zeros(T)
for t in range(T):
    h = a * h + b * x[t]
    y[t] = c @ h

k = np.array([(c * a**tau * b).sum() for tau in range(T)])
assert np.abs(y - np.convolve(x, k)[:T]).max() < 1e-6

# %% [markdown]
# Which rates? Mamba is initialised with **S4D-real**: $A_n = -n$ for $n = 1 \dots N$. With a step size $\delta$, what
# is written decays as $e^{-\delta n \tau}$. So state $n$ remembers for about $\tau_n = 1 / (\delta n)$ tokens:
#
# $$ a_n^\tau = e^{-\delta n \tau}, \qquad \tau_n = \frac{1}{\delta\, n} $$
#
# Each channel has its own $\delta$, with an initial value between 0.001 and 0.1. Together the channels cover time
# scales from less than a token to a thousand tokens, before anything is learned.

# %%
n = np.arange(1, 17)
a = np.exp(0.05 * -n)
tau = 1.0 / (0.05 * n)
assert np.abs(a**tau - np.exp(-1.0)).max() < 1e-12  # after tau tokens 1/e is left

figure, axes = viz.panels("tokens since the write", "share that is left", n=2)
lags = np.arange(0, 101)
for ax, delta in zip(axes, (0.1, 0.01), strict=True):
    for rate, style in zip((1, 4, 16), viz.STYLES, strict=False):
        left = np.exp(-delta * rate * lags)
        ax.plot(lags, left, **style, markevery=10, markersize=4, label=f"n = {rate}")
    ax.set_title(f"δ = {delta}", fontsize=10)
    ax.legend(frameon=False)
show(
    figure,
    "Decay of what is written into states 1, 4 and 16. At δ = 0.1 it is gone after a few tokens in state "
    "16 and after about fifty in state 1. At δ = 0.01 all three take ten times as long.",
)

new = Mamba(MambaConfig(vocab_size=5, block_size=4, d_model=64, n_layers=1), seed=0)
initial = np.log1p(np.exp(new.blocks[0].ssm.step_size.bias.data))  # softplus
print(f"δ of a new model: {initial.min():.4f} to {initial.max():.4f}")
assert 0.0009 < initial.min() < 0.003 and 0.03 < initial.max() < 0.11

# %% [markdown]
# ## 3. Selective: the token decides
#
# So far all tokens are treated alike: what was written ten tokens ago has the weight $k_{10}$, whether it was a name
# or a comma. Mamba makes **$\delta$, B and C functions of the token**. Each of E channels has its own $\delta$ and
# its own N states. B and C are shared by the channels. A last term adds the input itself, times a learned number for
# each channel, $\mathrm{skip}$:
#
# $$ h_{t,e,n} = e^{\delta_{t,e} A_{e,n}}\, h_{t-1,e,n} + \delta_{t,e}\, x_{t,e}\, B_{t,n}, \qquad
#    y_{t,e} = \sum_n C_{t,n}\, h_{t,e,n} + \mathrm{skip}_e\, x_{t,e} $$
#
# ### Exercise 11.2 ★★☆ The selective scan
#
# Write it, with $b = \delta B$ as in Mamba's code, and with a state of zeros before the first token. Return y, and
# also the states after every token, because the backward pass needs them.
#
# <details><summary>Hint</summary>
#
# Loop over t, with a state of shape (b, E, N). `delta[:, t, :, None]` is (b, E, 1) and broadcasts with A (E, N).
# `B[:, t, None, :]` is (b, 1, N).
#
# </details>


# %% tags=["exercise"]
def selective_scan(x, delta, A, B, C, skip):
    """Return y (b, T, E) and the states h (b, T, E, N) after each token.

    x, delta (b, T, E); A (E, N); B, C (b, T, N); skip (E)
    """
    # SOLUTION
    (b, T, E), N = x.shape, A.shape[1]
    h, y = np.zeros((b, T, E, N)), np.zeros((b, T, E))
    state = np.zeros((b, E, N))
    for t in range(T):
        a = np.exp(delta[:, t, :, None] * A)
        write = delta[:, t] * x[:, t]  # (b, E)
        state = a * state + write[..., None] * B[:, t, None, :]
        h[:, t] = state
        y[:, t] = (state * C[:, t, None, :]).sum(axis=-1) + skip * x[:, t]
    return y, h
    # END


# %%
check.ex_11_2(selective_scan)

# %%
batch, T, E, N = 2, 7, 3, 4
x = rng.standard_normal((batch, T, E))
delta = rng.uniform(0.05, 0.8, (batch, T, E))
A = -np.tile(np.arange(1.0, N + 1), (E, 1)) * rng.uniform(0.5, 1.5, (E, N))
B, C = rng.standard_normal((2, batch, T, N))
skip = rng.standard_normal(E)
y, h = selective_scan(x, delta, A, B, C, skip)

NAMES = "x", "delta", "A", "B", "C", "skip"
tensors = [Tensor(z, requires_grad=True) for z in (x, delta, A, B, C, skip)]
assert np.abs(y - sequence.selective_scan(*tensors).data).max() < 1e-6

later = x.copy()
later[:, 3] += 1.0
moved = np.abs(selective_scan(later, delta, A, B, C, skip)[0] - y).max(axis=(0, 2)) > 1e-9
print("outputs that token 3 changes:", [bool(m) for m in moved])
assert not moved[:3].any()  # no output depends on a later token
assert moved[3:].all()  # all later outputs depend on token 3

# %% [markdown]
# ### δ is a gate
#
# A small $\delta$ makes $a = e^{\delta A}$ nearly 1 and writes nearly nothing: the state is kept and the token is
# ignored. A large $\delta$ makes $a$ nearly 0: the state is erased and replaced by the token. Take one state, $A =
# -1$, $B = 1$, the exact $b$, and $\delta = \mathrm{softplus}(z) = \log(1 + e^z)$. Then this is the gate of a
# recurrent network:
#
# $$ h_t = (1 - g)\, h_{t-1} + g\, x_t, \qquad g = \frac{1}{1 + e^{-z}} $$
#
# because $e^{-\delta} = 1 / (1 + e^z) = 1 - g$.

# %%
z = np.linspace(-6.0, 6.0, 13)
g = 1.0 / (1.0 + np.exp(-z))
a, b = discretise(np.log1p(np.exp(z)), -1.0, 1.0)
assert np.abs(a - (1.0 - g)).max() < 1e-6
assert np.abs(b - g).max() < 1e-6

# %% [markdown]
# ### A task that no fixed filter can do
#
# Now choose by hand what training would have to find. Each token has a value $v_t$ and a mark $m_t$, 0 or 1. The
# state should always hold **the value of the latest marked token**, however many unmarked tokens have come since. As
# in a Mamba block, $\delta$ and B are functions of the token, here with one channel and one state:
#
# $$ \delta_t = \mathrm{softplus}(w\, m_t + \beta), \qquad B_t = c\, m_t, \qquad
#    h_t = e^{\delta_t A} h_{t-1} + \delta_t\, v_t B_t $$
#
# ### Exercise 11.3 ★★☆ A δ that remembers
#
# Return three numbers $w$, $\beta$ and $c$ for a given $A < 0$, with which
#
# * at least 99 % of the state is left after 1,000 tokens without a mark,
# * at most 1 % of the old state is left after one marked token,
# * a marked token writes its value at full size, to within 1 %.
#
# <details><summary>Hint</summary>
#
# Take the three conditions in this order. Without a mark $\delta = \mathrm{softplus}(\beta)$: how small must it be?
# softplus(-20) is about $e^{-20}$. With a mark $\delta = \mathrm{softplus}(w + \beta)$ must be several times $1 /
# |A|$. Then $\delta\, c$ must be 1. `np.logaddexp(0.0, z)` is softplus.
#
# </details>


# %% tags=["exercise"]
def hold(A):
    """Return (w, beta, c), so that a state with the rate A (a float below 0) holds the latest marked value."""
    # SOLUTION
    beta = -20.0  # without a mark: delta is about 2e-9
    w = 20.0 + 10.0 / abs(A)  # with one: delta |A| is 10 at least
    c = 1.0 / np.logaddexp(0.0, w + beta)
    return w, beta, c
    # END


# %%
check.ex_11_3(hold)

# %% [markdown]
# Compare it with a filter, whose $\delta$ is the same at every token. To help it, it gets only the marked values. It
# still has one rate for everything: the old value decays before the new one comes, and the new value is added to what
# is left.

# %%
T = 60
v, marks = rng.standard_normal(T), np.zeros(T)
marks[[4, 15, 22, 48]] = 1.0
v[[4, 15, 22, 48]] = [1.0, -0.8, 0.5, -0.3]
w, beta, c = hold(-1.0)
column = lambda z: z.reshape(1, T, 1)  # one sequence, one channel or state
one = np.ones((1, T, 1))
softplus = lambda z: np.logaddexp(0.0, z)
read_state = lambda x, delta, B: selective_scan(x, delta, -one[:, 0], B, one, np.zeros(1))[0]
held = read_state(column(v), column(softplus(w * marks + beta)), column(c * marks))
fixed = read_state(column(v * marks), 0.08 * one, one / 0.08)

latest = np.maximum.accumulate(np.where(marks > 0, np.arange(T), -1))
wanted = np.where(latest >= 0, v[latest], 0.0)
error = lambda got: np.abs(got.ravel() - wanted).max()
print(f"largest error: selective {error(held):.1e}, fixed {error(fixed):.1e}")
assert error(held) < 0.03 < error(fixed)

figure, axes = viz.panels("token", "value, state h", size=(8.5, 3.6))
axes.plot(v, ".", color=viz.INK, label="values, not marked")
axes.plot(np.flatnonzero(marks), v[marks > 0], "^", markersize=9, label="marked values")
axes.step(np.arange(T), held.ravel(), "-", where="post", label="state, δ from the token")
label = "state, δ fixed, input only marked values"
axes.step(np.arange(T), fixed.ravel(), ":", where="post", label=label)
axes.legend(frameon=False, fontsize=8, ncols=2, loc="upper center", bbox_to_anchor=(0.5, 1.22))
show(
    figure,
    "The selective state is a staircase: it jumps to each of the four marked values and stays "
    "level until the next one. Scattered dots are the unmarked values. The state with a fixed "
    "δ changes by each marked value and decays towards zero in between.",
)

# %% [markdown]
# ## 4. Backward through time
#
# Let $dy$ be the gradient of the loss with respect to $y$. State $h_t$ is used twice: it is read at t, and it is
# carried into $h_{t+1}$. So its gradient has two terms. The second is known only after token t + 1 has been
# processed, so the backward pass goes from the last token to the first. With $a_t = e^{\delta_t A}$, and no term from
# beyond the last token:
#
# $$ dh_t = C_t\, dy_t + a_{t+1} \odot dh_{t+1} $$
#
# The other gradients at t follow from $dh_t$ and one line of the forward pass each. What is read is $C_t h_t$, what
# is written is $\delta_t x_t B_t$, and $\mathrm{skip}\, x_t$ is added to y. B and C are shared by all channels, so
# their gradients are sums over e:
#
# $$ dC_{t,n} = \sum_e dy_{t,e}\, h_{t,e,n}, \qquad dB_{t,n} = \sum_e dh_{t,e,n}\, \delta_{t,e}\, x_{t,e} $$
#
# $$ dx_{t,e} = \delta_{t,e} \sum_n dh_{t,e,n} B_{t,n} + \mathrm{skip}_e\, dy_{t,e} $$

# %%
dy = rng.standard_normal(y.shape)
a = np.exp(delta[..., None] * A)  # (b, T, E, N)
dh = np.zeros_like(h)
carry = np.zeros_like(h[:, 0])
for t in reversed(range(dy.shape[1])):
    dh[:, t] = C[:, t, None, :] * dy[:, t, :, None] + carry
    carry = a[:, t] * dh[:, t]  # the second term of dh at t - 1

dC = np.einsum("bte,bten->btn", dy, h)
dB = np.einsum("bten,bte->btn", dh, delta * x)
dx = delta * np.einsum("bten,btn->bte", dh, B) + skip * dy

sequence.selective_scan(*tensors).backward(dy)
tape = {name: z.grad for name, z in zip(NAMES, tensors, strict=True)}
for name, gradient in {"x": dx, "B": dB, "C": dC, "skip": (dy * x).sum(axis=(0, 1))}.items():
    assert np.abs(gradient - tape[name]).max() < 1e-6, name

# %% [markdown]
# Look again at the line `carry = a[:, t] * dh[:, t]`. A gradient that goes back $\tau$ tokens is multiplied by $\tau$
# decays, all below 1. So it cannot explode along time. It vanishes at the rate at which the state forgets: a model
# learns only about that part of the past which its state still holds.

# %%
ones = np.ones((1, 200, 1))
long = Tensor(ones, requires_grad=True)
last = np.zeros((1, 200, 1))
last[0, -1] = 1.0  # the loss depends only on the last output
y_long = sequence.selective_scan(long, 0.05 * ones, -ones[0, :1], ones, ones, np.zeros(1))
y_long.backward(last)
back = long.grad[0, ::-1, 0]  # d y_last / d x, by the distance of x from the end
assert np.abs(back - 0.05 * np.exp(-0.05 * np.arange(200))).max() < 1e-12

# %% [markdown]
# The gradients of $\delta$ and A are left for you. Both stand in the exponent. Give it a name: $z_t = \delta_t A$, so
# that $a_t = e^{z_t}$. Then $h_t = e^{z_t} h_{t-1} + \dots$ gives
#
# $$ dz_{t,e,n} = dh_{t,e,n}\, h_{t-1,e,n}\, a_{t,e,n} $$
#
# ### Exercise 11.4 ★★★ The gradient of the step size
#
# Return the gradients of $\delta$ (b, T, E) and of A (E, N). Mind that $\delta_{t,e}$ is used in two places of the
# forward pass, and that every token of every sequence uses A.
#
# <details><summary>Hint</summary>
#
# First `h`, from your `selective_scan`. Then `dh`, by the loop above. Then the state *before* each token: `h` moved
# by one token, with zeros in front. $\delta_{t,e}$ decides for every n how much is written, $\delta_{t,e} x_{t,e}
# B_{t,n}$, and how much is kept, $z_{t,e,n} = \delta_{t,e} A_{e,n}$. Each of the two gives a sum over n.
#
# </details>


# %% tags=["exercise"]
def step_gradient(dy, x, delta, A, B, C, skip):
    """Return (ddelta, dA), the gradients of <dy, y> of the scan: (b, T, E) and (E, N)."""
    # SOLUTION
    h = selective_scan(x, delta, A, B, C, skip)[1]
    a = np.exp(delta[..., None] * A)  # (b, T, E, N)
    dh, carry = np.zeros_like(h), np.zeros_like(h[:, 0])
    for t in reversed(range(dy.shape[1])):
        dh[:, t] = C[:, t, None, :] * dy[:, t, :, None] + carry
        carry = a[:, t] * dh[:, t]
    before = np.concatenate([np.zeros_like(h[:, :1]), h[:, :-1]], axis=1)  # h_{t-1}
    dz = dh * before * a
    written = x * (dh * B[:, :, None, :]).sum(axis=-1)  # through delta x B
    kept = (dz * A).sum(axis=-1)  # through delta A
    return written + kept, (dz * delta[..., None]).sum(axis=(0, 1))
    # END


# %%
check.ex_11_4(step_gradient)

# %%
ddelta, dA = step_gradient(dy, x, delta, A, B, C, skip)
assert np.abs(ddelta - tape["delta"]).max() < 1e-6
assert np.abs(dA - tape["A"]).max() < 1e-6
worst = gradcheck(sequence.selective_scan, *tensors)
print(f"worst relative error {worst:.1e}")
assert worst < 1e-6

# %% [markdown]
# This has a price: the gradients of C, $\delta$ and A need every state. There are N states for each number of x; N is
# 16 in the published model. Section 6 shows how to avoid keeping them all.

# %%
print(f"numbers of x: {x.size}, of the states: {h.size}")
assert h.size == N * x.size

# %% [markdown]
# ## 5. Many steps at once: the parallel scan
#
# The loop has T steps, and each waits for the one before. A processor with ten thousand arithmetic units cannot work
# on many tokens at once in this way. Is there another? One token is a map $f_t(h) = a_t h + b_t$, where $b_t$ now
# stands for all that the token writes. The state after t tokens is $f_t \circ \dots \circ f_1$, applied to 0. Compose
# two maps:
#
# $$ f_2(f_1(h)) = a_2 (a_1 h + b_1) + b_2 = \underbrace{(a_2 a_1)}_{a}\, h + \underbrace{(a_2 b_1 + b_2)}_{b} $$
#
# The result is a map of the same form, so one pair of numbers describes any run of tokens. Call this composition the
# *join* of two pairs:
#
# $$ (a_1, b_1) \bullet (a_2, b_2) = (a_2 a_1,\; a_2 b_1 + b_2) $$
#
# Composition is associative, $(f \bullet g) \bullet k = f \bullet (g \bullet k)$: you may set the brackets as you
# like. It is not commutative, because the order of the tokens matters. Two maps as an example:


# %%
def slope_and_offset(f):
    """Return (a, b) of a map f(h) = a h + b."""
    return f(1.0) - f(0.0), f(0.0)


f1, f2 = lambda h: 0.5 * h + 3.0, lambda h: 0.2 * h - 1.0  # (0.5, 3) and (0.2, -1)
f1_first, f2_first = slope_and_offset(lambda h: f2(f1(h))), slope_and_offset(lambda h: f1(f2(h)))
print("first f1, then f2: {:.1f} h {:+.1f}".format(*f1_first))
print("first f2, then f1: {:.1f} h {:+.1f}".format(*f2_first))
assert np.allclose(f1_first, (0.2 * 0.5, 0.2 * 3.0 - 1.0))
assert not np.allclose(f1_first, f2_first)  # not commutative

# %% [markdown]
# The scan of Hillis and Steele uses the freedom of the brackets. In round 1 every token is joined with its left
# neighbour, and then describes its latest 2 tokens. In round 2 it is joined with the token 2 to the left, and then
# describes its latest 4; after that 8, 16, and so on. A token is complete when no token stands that far to its left.

# %%
figure, axes = viz.panels("token", "after round", size=(7.5, 3.6))
for r, offset in enumerate((1, 2, 4)):
    for i in range(8):
        axes.plot([i, i], [r, r + 1], "-", color=viz.INK, zorder=1)
        if i >= offset:
            axes.plot([i - offset, i], [r, r + 1], "-", color=viz.COLOURS[0], linewidth=0.9, zorder=2)
for r in range(4):
    done = [i for i in range(8) if i < 2**r]
    rest = [i for i in range(8) if i >= 2**r]
    names = ("complete", "not complete") if r == 0 else (None, None)
    for at, style, label in ((done, viz.STYLES[0], names[0]), (rest, viz.STYLES[1], names[1])):
        axes.plot(at, [r] * len(at), **style | {"linestyle": ""}, markersize=8, zorder=3, label=label)
axes.set_yticks(range(4))
axes.invert_yaxis()
axes.legend(frameon=False, ncols=2, loc="upper center", bbox_to_anchor=(0.5, 1.18))
show(
    figure,
    "Eight tokens, three rounds. In round 1 a line comes to each token from one to the left, in round 2 "
    "from two, in round 3 from four. One token is complete at the start, then 2, 4 and all 8.",
)

# %% [markdown]
# ### Exercise 11.5 ★★★ Combine, and scan
#
# Write two functions. `combine` is the join $\bullet$. `parallel_scan` returns the state after each token, from a
# state of zeros before the first. It calls `combine` a number of times that grows with $\log T$, not with T; each
# call joins many tokens at once. T can be any number from 1 on.
#
# <details><summary>Hint</summary>
#
# `combine` is the formula of the join. In a round with offset k the tokens k, k+1, ... are joined with 0, 1, ...:
# `combine((a[:-k], b[:-k]), (a[k:], b[k:]))`, all in one call. The first k stay as they are: `np.concatenate`. Double
# k while it is below T. At the end, which half of the pair is the state from 0?
#
# </details>


# %% tags=["exercise"]
def combine(first, second):
    """Return the join (a, b) of two maps h -> a h + b, each a pair (a, b) of arrays; `first` acts first."""
    # SOLUTION
    (a1, b1), (a2, b2) = first, second
    return a2 * a1, a2 * b1 + b2
    # END


def parallel_scan(combine, a, b):
    """Return h (T, ...), h_t = a_t h_{t-1} + b_t from h = 0, in few calls of combine.

    combine : joins two pairs of arrays entry by entry, like the function above
    a, b    : (T, ...), one map for each token
    """
    # SOLUTION
    k = 1
    while k < len(a):
        later = combine((a[:-k], b[:-k]), (a[k:], b[k:]))
        a, b = np.concatenate([a[:k], later[0]]), np.concatenate([b[:k], later[1]])
        k *= 2
    return b
    # END


# %%
check.ex_11_5(combine, parallel_scan)


# %%
act = lambda map_, h: map_[0] * h + map_[1]
f, g, k = [tuple(rng.standard_normal((2, 1000))) for _ in range(3)]  # a thousand maps each
state = rng.standard_normal(1000)
assert np.abs(act(combine(f, g), state) - act(g, act(f, state))).max() < 1e-6  # a join does both
left, right = combine(combine(f, g), k), combine(f, combine(g, k))
assert np.abs(np.subtract(left, right)).max() < 1e-6  # associative
assert np.abs(combine(f, g)[1] - combine(g, f)[1]).max() > 0.1  # not commutative


def one_by_one(a, b):
    """Return the states (T, ...) of the recurrence, by a loop."""
    h = [b[0]]
    for t in range(1, len(a)):
        h.append(a[t] * h[-1] + b[t])
    return np.stack(h)


for T in (1, 2, 3, 5, 8, 13, 64, 100, 255):
    a, b = np.exp(-rng.uniform(0.0, 1.0, (T, 3))), rng.standard_normal((T, 3))
    assert np.abs(parallel_scan(combine, a, b) - one_by_one(a, b)).max() < 1e-6
a, b = np.exp(delta[..., None] * A), (delta * x)[..., None] * B[:, :, None]  # (b, T, E, N)
time_first = parallel_scan(combine, a.swapaxes(0, 1), b.swapaxes(0, 1))
assert np.abs(time_first.swapaxes(0, 1) - h).max() < 1e-6  # the states of exercise 11.2

# %% [markdown]
# The scan has fewer rounds but more work. A round with offset k makes $T - k$ joins; the loop makes $T - 1$ in all.
# With R rounds:
#
# $$ \mathrm{work} = \sum_{r=0}^{R-1} (T - 2^r) = R\, T - 2^R + 1, \qquad \mathrm{depth} = R = \lceil \log_2 T \rceil $$
#
# A scan by Blelloch's method makes fewer joins. Join neighbours to T/2 pairs and scan these, by the same function.
# This completes every second state. One more join of each with its right neighbour gives the others. Each level adds
# two rounds and halves the number of tokens: at most $2T$ joins, in about $2 \log_2 T$ rounds.


# %%
class Count:
    """Your combine, with counters: joins (work), and calls one after another (depth)."""

    def __init__(self):
        self.work = self.depth = 0

    def __call__(self, first, second):
        self.work, self.depth = self.work + len(first[0]), self.depth + 1
        return combine(first, second)


def lean_scan(combine, a, b):
    """Return the joins of all tokens up to each one, as a pair (a, b), with at most 2 T joins in all."""
    T = len(a)
    if T == 1:
        return a, b
    even, odd = (a[: T - 1 : 2], b[: T - 1 : 2]), (a[1::2], b[1::2])
    pairs = lean_scan(combine, *combine(even, odd))  # complete at tokens 1, 3, 5, ...
    scanned = np.empty_like(a), np.empty_like(b)
    for result, complete, own in zip(scanned, pairs, (a, b), strict=True):
        result[1::2], result[0] = complete, own[0]
    if T > 2:
        before = tuple(p[: (T - 1) // 2] for p in pairs)
        scanned[0][2::2], scanned[1][2::2] = combine(before, (a[2::2], b[2::2]))
    return scanned


lengths = [1, 2, 3, 5, 8, 16, 33, 64, 100, 128, 256, 512, 1000, 1024]
costs = {"one by one": [], "Hillis and Steele": [], "pairs (Blelloch)": []}  # (work, depth)
for T in lengths:
    a, b = np.exp(-rng.uniform(0.0, 1.0, (T, 2))), rng.standard_normal((T, 2))
    lean = Count()
    assert np.abs(lean_scan(lean, a, b)[1] - one_by_one(a, b)).max() < 1e-6
    R = int(np.ceil(np.log2(T)))
    assert sum(T - 2**r for r in range(R)) == T * R - 2**R + 1
    assert lean.work <= 2 * T
    assert R <= lean.depth <= 2 * R  # R at least: a round at most doubles the tokens that one describes
    costs["one by one"].append((T - 1, T - 1))
    costs["Hillis and Steele"].append((T * R - 2**R + 1, R))
    costs["pairs (Blelloch)"].append((lean.work, lean.depth))

figure, axes = viz.panels("T, tokens", n=2)
for (name, values), style in zip(costs.items(), viz.STYLES, strict=False):
    for ax, column_ in zip(axes, np.transpose(values), strict=True):
        shown = column_ > 0  # a logarithmic axis has no 0
        ax.loglog(np.array(lengths)[shown], column_[shown], **style, markersize=4, label=name)
axes[0].set_ylabel("work: joins")
axes[1].set_ylabel("depth: rounds, one after another")
axes[0].legend(frameon=False)
show(
    figure,
    "Work grows with T for the loop, with about 2 T for the pairs, and with T log T for Hillis and "
    "Steele. Depth grows with T for the loop, and with log T for the other two: about ten and "
    "twenty rounds at 1024 tokens.",
)

# %% [markdown]
# Depth decides where there are more arithmetic units than numbers. NumPy goes through an array from one end to the
# other, so a round with half the work takes half the time: here **work** decides. The scan runs for each of the E N
# states of a token separately. If there are many, each step of the plain loop has enough to do. If there are few,
# most of its time is the cost of Python calls.


# %%
print(f"{'T = 512, states':>16}{'one by one':>12}{'parallel':>10}{'pairs':>8}   (ms, medians)")
for width in (1, 100, 2_000):
    a = np.exp(-rng.uniform(0.0, 1.0, (512, width)))
    b = rng.standard_normal((512, width))
    ms = (
        median_ms(one_by_one, a, b, repeats=3),
        *(median_ms(scan, combine, a, b, repeats=3) for scan in (parallel_scan, lean_scan)),
    )
    print(f"{width:>16,}{ms[0]:>12.2f}{ms[1]:>10.2f}{ms[2]:>8.2f}")

# %% [markdown]
# ## 6. Chunks: what the fast rule does
#
# There is a formula without any loop. With $P_t = a_1 a_2 \cdots a_t$, divide $h_t = a_t h_{t-1} + b_t$ by $P_t$ and
# sum:
#
# $$ h_t = P_t \sum_{j \le t} \frac{b_j}{P_j} $$
#
# It needs only two cumulative operations, but it is useless: $P_t$ is a product of numbers below 1. In float32 it
# soon becomes 0, and the formula then multiplies 0 by infinity.

# %%
a, b = np.full(400, np.exp(-0.5)), rng.standard_normal(400)
for dtype, length in ((np.float64, 50), (np.float32, 400)):
    P = np.cumprod(a[:length].astype(dtype))
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        direct = P * np.cumsum(b[:length].astype(dtype) / P)
    share = np.isfinite(direct).mean()
    print(f"{np.dtype(dtype).name}, {length} tokens: {share:.0%} of the states are finite")
    if length == 50:
        assert np.abs(direct - one_by_one(a[:50], b[:50])).max() < 1e-4
    else:
        assert not np.isfinite(direct[-1])

# %% [markdown]
# `minigam/engine/compiled/selective_scan.py` keeps the recurrence. It is written in C, and it is fast for three
# reasons:
#
# * **It keeps one state of every 16**, at the borders of chunks of 16 tokens; the reference keeps every state. The
#   backward pass starts at the border before a chunk and computes the 16 states of the chunk again. That costs one
#   more forward pass and needs a sixteenth of the memory.
# * **It takes 32 channels at a time.** Their states, decays and gradients of one chunk fit the first-level cache, and
#   the CPU computes 8 or 16 of them with one instruction.
# * **E is the last axis**, so that the inner loop runs over neighbours in memory.
#
# This is not a parallel scan: within a chunk the tokens are still processed one by one. Here are both rules, forward
# and backward:

# %%
batch, T, E, N = 4, 256, 96, 16
sizes = [(batch, T, E), (batch, T, E), (E, N), (batch, T, N), (batch, T, N), (E,)]
arrays = [rng.standard_normal(s).astype(np.float32) for s in sizes]
arrays[1] = np.log1p(np.exp(arrays[1] - 3.0))  # delta above 0
arrays[2] = -np.abs(arrays[2])
dy = rng.standard_normal((batch, T, E)).astype(np.float32)


def both_ways():
    """One forward and one backward pass; return y and the gradient of delta."""
    inputs = [Tensor(z, requires_grad=True) for z in arrays]
    y = sequence.selective_scan(*inputs)
    y.backward(dy, retain_graph=False)
    return y.data, inputs[1].grad


def measured():
    """Return the results, the median time in ms and the peak memory in MiB."""
    ms = median_ms(both_ways, repeats=3)
    with memory.track_memory(np) as taken:
        outputs = both_ways()
    return outputs, ms, taken.peak_bytes / 2**20


fast = measured()
with reference_only():
    plain = measured()
for p, q in zip(fast[0], plain[0], strict=True):
    assert np.abs(p - q).max() < 1e-4 * np.abs(q).max()
states_mib = 4 * batch * T * E * N / 2**20
print(f"all states      {states_mib:7.1f} MiB")
for name, (_, ms, mib) in (("reference rule", plain), ("fast rule", fast)):
    print(f"{name:<15} {mib:7.1f} MiB at its peak {ms:8.1f} ms")
assert plain[2] > states_mib
assert fast[2] < states_mib or fast[2] > 0.9 * plain[2]  # without a C compiler both are the reference rule

# %% [markdown]
# ## 7. The Mamba block
#
# The scan is the core of the block. Around it the block does the following, in this order:
#
# 1. Expand $C_{\text{model}}$ channels to twice E and split them into $x$ and $z$.
# 2. Apply to $x$ a causal convolution over K = 4 tokens and SiLU.
# 3. Compute B, C and, through a narrow layer of R numbers, the step size from $x$.
# 4. Scan.
# 5. Multiply the result by $\mathrm{SiLU}(z)$, which acts as a gate.
# 6. Contract to $C_{\text{model}}$ channels.
#
# $$ [x, z] = u\, W_{\text{in}}^\top, \qquad x \leftarrow \mathrm{SiLU}(\mathrm{conv}(x)), \qquad
#    \mathrm{SiLU}(v) = \frac{v}{1 + e^{-v}} $$
#
# $$ [r, B, C] = x\, W_x^\top, \qquad \delta = \mathrm{softplus}(r\, W_\delta^\top + \beta), \qquad A = -e^{A_{\log}} $$
#
# $$ \mathrm{out} = \big(\mathrm{scan}(x, \delta, A, B, C, \mathrm{skip}) \odot \mathrm{SiLU}(z)\big)\, W_{\text{out}}^\top $$
#
# The parameter is $A_{\log}$, not A, so that A stays below 0 whatever the optimizer does. Here is the block with your
# scan, compared with `minigam.MambaBlock`.

# %%
silu = lambda v: v / (1.0 + np.exp(-v))


def ssm_by_hand(u, ssm):
    """u (b, T, C_model) -> (b, T, C_model), with the parameters of a SelectiveSSM."""
    E, R, N = len(ssm.D.data), ssm.rank, ssm.n
    xz = u @ ssm.expand.weight.data.T
    x, z = xz[..., :E], xz[..., E:]
    x = silu(sequence.causal_conv1d(x, ssm.conv.weight.data, ssm.conv.bias.data).data)
    selected = x @ ssm.select.weight.data.T
    r, B, C = np.split(selected, [R, R + N], axis=-1)
    delta = softplus(r @ ssm.step_size.weight.data.T + ssm.step_size.bias.data)
    y, _ = selective_scan(x, delta, -np.exp(ssm.A_log.data), B, C, ssm.D.data)
    return (y * silu(z)) @ ssm.contract.weight.data.T


config = MambaConfig(vocab_size=13, block_size=32, d_model=24, n_layers=2, d_state=4)
model = Mamba(config, seed=0, dtype="float64")
block = model.blocks[0]
u = rng.standard_normal((2, 32, 24))
with no_grad():
    whole = block(Tensor(u)).data
    inside = block.norm(Tensor(u)).data
assert np.abs(u + ssm_by_hand(inside, block.ssm) - whole).max() < 1e-6

# %% [markdown]
# **Writing text.** Between two tokens the block has to remember the last K - 1 = 3 inputs of its convolution and the
# state: E (3 + N) numbers, after ten tokens as after ten thousand. A GAM block remembers K - 1 inputs of its
# convolution. Attention remembers all its keys and values, 2 T times the width, and this grows with the text
# (notebook 10).

# %%
remembered = block.new_state(2)
sizes = []
with no_grad():
    for t in range(32):
        step = block(Tensor(u[:, t : t + 1]), remembered).data
        assert np.abs(step[:, 0] - whole[:, t]).max() < 1e-10  # the same as for the whole text at once
        sizes.append((remembered.h.size + remembered.conv.past.size) // 2)
E = config.expand * config.d_model
assert set(sizes) == {E * (config.d_state + config.d_conv - 1)}
print(f"numbers for each sequence and block: {sizes[0]} after each of {len(sizes)} tokens")

# %% [markdown]
# **How many parameters?** E is expand times $C_{\text{model}}$, and R is $C_{\text{model}} / 16$, rounded up. One
# block has
#
# $$ \underbrace{2 C_{\text{model}}}_{\text{norm}} + \underbrace{2 E C_{\text{model}}}_{\text{in}} + \underbrace{E K + E}_{\text{conv}}
#    + \underbrace{E (R + 2N)}_{\text{select}} + \underbrace{R E + E}_{\delta} + \underbrace{E N}_{A} + \underbrace{E}_{\text{skip}}
#    + \underbrace{E C_{\text{model}}}_{\text{out}} $$
#
# The model also has embeddings and a last norm. The next cell compares the formula with a small model. It then
# computes the number of parameters at the published size, with norms and without, and builds neither.


# %%
def count(c: MambaConfig) -> int:
    """Return the parameters of a Mamba language model."""
    C, E, R = c.d_model, c.expand * c.d_model, -(-c.d_model // 16)
    norm = 2 * C if c.residual else 0
    block = norm + 2 * E * C + E * c.d_conv + E + E * (R + 2 * c.d_state)
    block += R * E + E + E * c.d_state + E + E * C
    return (c.vocab_size + c.block_size) * C + c.n_layers * block + 2 * C


assert count(config) == model.num_parameters()
print(f"published size: {count(MambaConfig()):,} parameters, ", end="")
print(f"without norms {count(MambaConfig(residual=False)):,}")
assert count(MambaConfig()) == 20_510_720
assert round(count(MambaConfig(residual=False)) / 1e6, 1) == 20.5  # the paper's number

# %% [markdown]
# ## 8. What happens without a residual connection
#
# Mamba is meant to be stacked as $y = x + \mathrm{ssm}(\mathrm{LayerNorm}(x))$, and this is the default here. The
# function $\mathrm{ssm}$ is the block of section 7; adding $x$ to it is the residual connection. The benchmark of GAM's
# authors stacks six blocks without residual and norm, $y = \mathrm{ssm}(x)$. `residual=False` does the same, so that
# their table can be compared. Look at the size of the signal in a new model, and at the size of the gradient that
# comes back, block by block:


# %%
def sizes_through(residual: bool):
    """Return the root mean squares of the signal and of its gradient, before and after each of six blocks."""
    sizes = {"vocab_size": 5, "block_size": 48, "d_model": 64, "n_layers": 6}
    config, order = MambaConfig(**sizes, residual=residual), np.random.default_rng(0)
    rms = lambda z: float(np.sqrt((z.astype("float64") ** 2).mean()))
    inputs, outputs = [order.standard_normal((2, 48, 64), dtype="float32")], []
    for block in Mamba(config, seed=0).blocks:
        inner = Tensor(inputs[-1], requires_grad=True)  # a leaf, so that its gradient stays
        outputs.append((inner, block(inner)))
        inputs.append(outputs[-1][1].data)
    gradients = [np.ones_like(inputs[-1])]
    for inner, y in reversed(outputs):
        y.backward(gradients[-1])
        gradients.append(inner.grad)
    return np.array([rms(z) for z in inputs]), np.array([rms(z) for z in gradients[::-1]])


figure, axes = viz.panels("after block (0: the input)", "root mean square", n=2)
stacks = {"with residual and norm": True, "bare, residual=False": False}
through = {name: sizes_through(residual) for name, residual in stacks.items()}
titles = ("signal", "gradient, from 1 at the end")
for (name, pair), style in zip(through.items(), viz.STYLES, strict=False):
    for ax, values, title in zip(axes, pair, titles, strict=True):
        ax.semilogy(values, **style, markersize=4, label=name)
        ax.set_title(title, fontsize=10)
axes[0].legend(frameon=False)
show(
    figure,
    "With residual and norm, signal and gradient stay near 1 through six blocks. Bare, each block "
    "makes both tens of times smaller: after six blocks the signal is below a millionth, and "
    "so is the gradient at the input.",
)
healthy, bare = through.values()
assert healthy[0].min() > 0.3 and healthy[0].max() < 3.0
assert bare[0][-1] < 1e-6 and bare[1][0] < 1e-6
assert (np.diff(bare[0]) < 0).all()  # smaller after every block

# %% [markdown]
# Each block multiplies $y$, which is small already, by $\mathrm{SiLU}(z)$, which is about $z/2$ for a small $z$. So
# the signal shrinks from block to block. The last LayerNorm divides by $\sqrt{\sigma^2 + 10^{-5}}$. A signal with a
# variance $\sigma^2$ far below $10^{-5}$ stays nearly 0, so the logits are nearly the same for every input. Does the
# model learn? AdamW divides each gradient by its own size. So small gradients still become steps, unless they are far
# below its $\varepsilon$. The task is to continue rows that count upwards, in 70 steps:

# %%
losses = {}
for name, residual in stacks.items():
    config = MambaConfig(
        vocab_size=16, block_size=16, d_model=32, n_layers=6, d_state=8, dropout=0.0,
        residual=residual, position_std=0.1,
    )  # fmt: skip
    small, order = Mamba(config, seed=0), np.random.default_rng(0)
    optimizer = AdamW(small.parameters(), lr=3e-3)
    losses[name] = []
    for _ in tqdm(range(70), leave=False):
        ids = (order.integers(16, size=(8, 1)) + np.arange(17)) % 16
        losses[name].append(train_step(small, optimizer, ids[:, :-1], ids[:, 1:]))

figure, axes = viz.panels("step", "loss (nats per token)")
for (name, values), style in zip(losses.items(), viz.STYLES, strict=False):
    axes.plot(values, **style, markersize=4, markevery=8, label=name)
axes.axhline(np.log(16), color=viz.INK, linestyle=":", label="all tokens equally likely, log 16")
axes.legend(frameon=False)
show(
    figure,
    "The residual stack learns to count in about twenty steps. The loss of the bare one stays at log 16, "
    "where all tokens are equally likely, for dozens of steps, and only then begins to fall.",
)
good, bare = losses.values()
assert good[25] < 0.5 * np.log(16) and min(bare[:25]) > 0.9 * np.log(16)

# %% [markdown]
# The bare stack learns later, but it learns: once its weights have grown, the signal gets through. The paper's bare
# Mamba did learn, too. But a table that compares a bare stack with two residual ones compares more than the mixers.
# Notebook 13 has the paper's tables.
#
# ## What you can do now
#
# You can
#
# * derive the selective scan from a differential equation, with its gradient,
# * explain what delta decides: keep the state, or take the token, and
# * compute a recurrence of maps a h + b as a parallel scan, and say when that pays.
#
# ## Think about it
#
# No check can answer these. Write down your answer, or discuss it with someone.
#
# 1. A state of fixed size must forget. What should it forget first in a story, and how could delta learn that?
# 2. The paper stacks Mamba layers without residuals. What would you expect that to change, and why?
#
# ## Read on
#
# In the code:
#
# * `minigam/engine/selective_scan.py`
# * `minigam/models/mamba.py`
# * `minigam/engine/compiled/selective_scan.py` and `minigam/engine/cuda/selective_scan.py`: the faster rules
#
# Elsewhere:
#
# * [Mamba](https://arxiv.org/abs/2312.00752)
# * [Transformers are SSMs, Mamba-2](https://arxiv.org/abs/2405.21060)
# * [Efficiently Modeling Long Sequences with Structured State Spaces](https://arxiv.org/abs/2111.00396)
# * [Prefix Sums and Their Applications](https://www.cs.cmu.edu/~guyb/papers/Ble93.pdf)
