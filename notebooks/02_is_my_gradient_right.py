# %% [markdown]
# # 02 · Is my gradient right?
#
# **Goal.** Build a tool that tells a right gradient from a wrong one, and know what it can see: why its step is
# neither large nor tiny, why a plain `.sum()` can let even zeros pass, and what an error has to be measured against.
# At the end you check a whole GAM with it.
#
# **Time.** 90 minutes, 5 exercises. **Needs** 01 (what a backward rule is). Letters: f a function, x the point at
# which its derivative is wanted, h a step, ε the relative rounding error of a number, y = f(x), c random numbers of y's
# shape; `dx` is the gradient of a loss with respect to x.

# %% tags=["setup"]
from unittest import mock

import numpy as np

from minigam import GAM, GAMConfig, Tensor, gradcheck, op, ops, sequence, viz
from minigam.course import check, show

# %% [markdown]
# ## 1. A wrong gradient also trains
#
# A wrong gradient raises no error. Often it even trains. Here one neuron, $\tanh(X w)$, learns to predict noisy
# targets by gradient descent, twice: once with the right gradient of its mean squared error, once with a factor forgotten.
# Both losses fall. Can you tell from the curves which is which?

# %%
rng = np.random.default_rng(2)
X = rng.standard_normal((200, 5))
target = np.tanh(X @ rng.standard_normal(5)) + 0.1 * rng.standard_normal(200)


def descend(gradient, steps=40, rate=0.3):
    """Return the loss before each step of gradient descent."""
    w, losses = np.zeros(5), []
    for _ in range(steps):
        y = np.tanh(X @ w)
        losses.append(((y - target) ** 2).mean())
        w = w - rate * gradient(y)
    return np.array(losses)


one = descend(lambda y: 2.0 * X.T @ (y - target) / len(X))
other = descend(lambda y: 2.0 * X.T @ ((y - target) * (1.0 - y * y)) / len(X))
figure, axes = viz.panels("step", "mean squared error")
axes.semilogy(one, "-", label="one")
axes.semilogy(other, "--", label="other")
axes.legend(frameon=False)
show(figure, "Two losses fall smoothly from the same start and flatten out. Neither looks broken.")
assert one[-1] < 0.3 * one[0] and other[-1] < 0.3 * other[0] and one[5] < other[5]

# %% [markdown]
# The one that forgets the slope of tanh, $1 - y^2$, is "one", the curve that falls faster. A loss curve is no
# test of a gradient. What is? The definition of a derivative, taken at its word. That is what `differences` in
# notebook 01 did, and we trusted it. Here it is taken apart: how exact is it, and what does it fail to see?

# %% [markdown]
# ## 2. Two differences, and how wrong they are
#
# Take one number x first. The derivative is a limit of $(f(x+h) - f(x))/h$, and a computer has to stop at some
# $h > 0$. Taylor's expansion says what that costs:
#
# $$ f(x+h) = f(x) + h f'(x) + \frac{h^2}{2} f''(x) + \frac{h^3}{6} f'''(x) + \dots $$
#
# Subtract $f(x)$ and divide by h: the **one-sided** difference is wrong by a term of first order, a
# multiple of h:
#
# $$ \frac{f(x+h) - f(x)}{h} = f'(x) + \frac{h}{2} f''(x) + \dots $$
#
# We try it on $f(x) = e^{\sin x}$, whose derivatives a pencil gives, each from the one before by
# the product rule: $f' = f \cos x$, $\;f'' = f\,(\cos^2 x - \sin x)$, $\;f''' = f \cos x\,(\cos^2 x - 3 \sin x - 1)$.

# %%
f = lambda x: np.exp(np.sin(x))
x = 0.75
sin, cos = np.sin(x), np.cos(x)
f1 = f(x) * cos  # the first derivative, at x
f2 = f(x) * (cos**2 - sin)
f3 = f(x) * cos * (cos**2 - 3 * sin - 1)

h = 1e-4
one_sided = (f(x + h) - f(x)) / h
print(f"f'(x) {f1:.10f}   one-sided {one_sided:.10f}   error {one_sided - f1:.2e}")
assert abs((one_sided - f1) / (h / 2 * f2) - 1.0) < 0.01, "its error is h/2 f'', to 1 %"

# %% [markdown]
# Now step to both sides. With $-h$ in place of $h$, the odd powers change their sign:
#
# $$ f(x-h) = f(x) - h f'(x) + \frac{h^2}{2} f''(x) - \frac{h^3}{6} f'''(x) + \dots $$
#
# Subtract the two expansions. $f(x)$ and $f''(x)$ cancel, and what is left, divided by $2h$, is the **central**
# difference, wrong by a term of second order, a multiple of $h^2$:
#
# $$ \frac{f(x+h) - f(x-h)}{2h} = f'(x) + \frac{h^2}{6} f'''(x) + \dots $$
#
# ### Exercise 02.1 ★☆☆ The central difference
#
# Write the left side, for a function of one number.
#
# <details><summary>Hint</summary>
#
# One line. From $x - h$ to $x + h$ the way is $2h$ long.
#
# </details>


# %% tags=["exercise"]
def central(f, x, h):
    """Return the central difference of f at the number x with step h."""
    # SOLUTION
    return (f(x + h) - f(x - h)) / (2 * h)
    # END


# %%
check.ex_02_1(central)

# %% [markdown]
# First order means: a tenth of the step, a tenth of the error. Second order: a tenth of the step, a hundredth of the
# error. On axes that are both logarithmic a power $h^p$ is a straight line of slope p, so the order can be read off.

# %%
steps = np.geomspace(1e-4, 1e-2, 9)
errors = {
    "one-sided": np.array([abs((f(x + h) - f(x)) / h - f1) for h in steps]),
    "central": np.array([abs(central(f, x, h) - f1) for h in steps]),
}
slope = {name: np.polyfit(np.log(steps), np.log(e), 1)[0] for name, e in errors.items()}
figure, axes = viz.panels("step h", "error of the derivative")
for (name, e), style in zip(errors.items(), viz.STYLES):
    axes.loglog(steps, e, **style, markersize=4, label=f"{name}, slope {slope[name]:.2f}")
axes.legend(frameon=False)
show(figure, "Two straight lines on logarithmic axes: slope 1 for one-sided differences, 2 for central ones.")
assert abs(slope["one-sided"] - 1.0) < 0.1 and abs(slope["central"] - 2.0) < 0.1

# %% [markdown]
# ## 3. The U: why the step must not be tiny
#
# If a smaller step is better, why not $10^{-15}$? Because $f(x+h)$ and $f(x-h)$ then agree in nearly all of their
# digits, and the subtraction throws those away. What remains is rounding.
#
# A computed f is wrong by up to about $\varepsilon |f|$, where $\varepsilon$ is the spacing of numbers near 1:
# `np.finfo(dtype).eps`. Two such errors, divided by $2h$, add at most $\varepsilon|f|/h$ to the error of the
# formula:
#
# $$ E(h) = \underbrace{\frac{\varepsilon\,|f|}{h}}_{\text{rounding}} +
#           \underbrace{\frac{h^2}{6}\,|f'''|}_{\text{truncation}} $$
#
# One falls with h, the other grows: a U. Its bottom is where the derivative of E is zero,
# $-\varepsilon|f|/h^2 + h|f'''|/3 = 0$, that is at
#
# $$ h^* = \Big(3\,\varepsilon\,\frac{|f|}{|f'''|}\Big)^{1/3}, \qquad E(h^*) = \frac{3}{2}\,\frac{\varepsilon\,|f|}{h^*} $$
#
# (At $h^*$ the second term of E is half of the first. Put $h^{*3}$ into it and see.)
#
# If $f$ and $f'''$ are of the size of 1, so is $|f|/|f'''|$, and what remains is $\varepsilon^{1/3}$. The best error is
# then of the size of $\varepsilon / \varepsilon^{1/3} = \varepsilon^{2/3}$: **two thirds of the digits**, however
# careful you are.

# %%
E = lambda h, eps: eps * abs(f(x)) / h + h * h / 6 * abs(f3)
best = {}
for dtype in (np.float64, np.float32):
    eps = float(np.finfo(dtype).eps)
    best[dtype] = h_star = (3 * eps * abs(f(x)) / abs(f3)) ** (1 / 3)
    beside = E(0.9 * h_star, eps), E(1.1 * h_star, eps)
    assert E(h_star, eps) < min(beside), "the bottom of the U"
    assert abs(E(h_star, eps) / (1.5 * eps * abs(f(x)) / h_star) - 1.0) < 1e-6
    print(f"{dtype.__name__}: best step {h_star:.1e}, beside eps^(1/3) = {eps ** (1 / 3):.1e};")
    print(f"    its error up to {E(h_star, eps):.0e}, beside eps^(2/3) = {eps ** (2 / 3):.0e}")

# %% [markdown]
# That is the theory. Now measure. The steps are powers of two and x is 3/4, so that $x \pm h$ is exact and all the
# rounding is that of f.

# %%
figure, panes = viz.panels("step h", "error of the derivative", n=2, size=(10.0, 3.8))
measured = {}
for axes, dtype, smallest in zip(panes, (np.float64, np.float32), (49, 21)):
    eps, at = float(np.finfo(dtype).eps), dtype(x)
    steps = 2.0 ** -np.arange(1.0, smallest + 1)
    one = [abs(float((f(at + dtype(h)) - f(at)) / dtype(h)) - f1) for h in steps]
    two = [abs(float(central(f, at, dtype(h))) - f1) for h in steps]
    measured[dtype] = steps, np.array(two)
    axes.loglog(steps, one, "s", color=viz.INK, markersize=4, label="one-sided")
    axes.loglog(steps, two, "o", markersize=4, label="central")
    axes.loglog(steps, E(steps, eps), "-", linewidth=0.9, label="E(h), derived")
    axes.axvline(best[dtype], color=viz.INK, linestyle=":", label="h*, derived")
    axes.set_title(dtype.__name__, fontsize=10)
    axes.set_ylim(1e-13, 3.0)
    axes.legend(frameon=False, fontsize=8)
show(
    figure,
    "Errors of central differences fall along a line of slope 2 to a least value near the "
    "derived best step, then rise again, scattered, as the step shrinks: a U. In float32 "
    "the U sits far higher and further to the right.",
)
for dtype, (steps, two) in measured.items():
    eps = np.finfo(dtype).eps
    assert (two <= 10 * E(steps, eps)).all(), "the derived bound holds"
    lowest = steps[two.argmin()]
    assert best[dtype] / 100 < lowest < best[dtype] * 100
assert measured[np.float32][1].min() > 100 * measured[np.float64][1].min()

# %% [markdown]
# Three things to take along.
#
# * To the left of the bottom the points scatter: rounding is no smooth function. E is an upper bound there.
# * For float64, $h = 10^{-5}$ is near the bottom of most functions. It is the default of `minigam.gradcheck`.
# * float32 leaves about four digits at best, and fewer where f is much larger than its slope. **Check in float64, train in
#   float32.**

# %% [markdown]
# ## 4. A derivative without a subtraction
#
# Rounding hurts because two nearly equal numbers are subtracted. There is a way round it that looks like a trick:
# step in the *imaginary* direction. Taylor again, with $ih$ for $h$, and $i^2 = -1$:
#
# $$ f(x + ih) = f(x) + i h f'(x) - \frac{h^2}{2} f''(x) - i \frac{h^3}{6} f'''(x) + \dots $$
#
# The value f(x) is in the real part and the derivative in the imaginary part. They are kept apart, and nothing
# is left to subtract:
#
# $$ \frac{\mathrm{Im}\, f(x + ih)}{h} = f'(x) - \frac{h^2}{6} f'''(x) + \dots $$
#
# ### Exercise 02.2 ★☆☆ The complex step
#
# Write the left side, for a function of one number. Nothing cancels, so h may be so small that $h^2$ is nothing.
#
# <details><summary>Hint</summary>
#
# Python writes $ih$ as `1j * h`, and the imaginary part of a number z as `z.imag`. NumPy's `np.exp`, `np.sin` and
# the like take complex numbers.
#
# </details>


# %% tags=["exercise"]
def complex_step(f, x, h=1e-20):
    """Return f'(x) from one call of f at x + ih; x is a real number, f(x) too."""
    # SOLUTION
    return f(x + 1j * h).imag / h
    # END


# %%
check.ex_02_2(complex_step)

# %%
steps = 10.0 ** -np.arange(1.0, 41.0)
by_complex = np.array([abs(complex_step(f, x, h) - f1) for h in steps])
by_central = np.array([abs(central(f, x, h) - f1) for h in steps])
figure, axes = viz.panels("step h", "error of the derivative")
axes.loglog(steps, by_central, "o", markersize=4, label="central difference")
seen = np.maximum(by_complex, 1e-17)
axes.loglog(steps, seen, "^", markersize=4, label="complex step (0 drawn at 1e-17)")
axes.legend(frameon=False, fontsize=8)
show(
    figure,
    "The central difference makes its U and is useless below 1e-16. The error of the "
    "complex step falls to the last digit at 1e-8 and stays there for every smaller step.",
)
assert by_complex[steps < 1e-9].max() < 1e-14
assert by_central.min() > 100 * by_complex[-1] and by_central[-1] > 0.5

# %% [markdown]
# Why does anyone still subtract? Because the step of Taylor's series into the complex plane asks something of f: it
# must be **analytic** there, which means that the series holds for complex steps too. And each function that f calls
# must take complex numbers and be such a function itself. Look at what comes out for the slope of $|x|$ at $x = -2$,
# which is $-1$, and for an innocent sum of squares:

# %%
slope_of_abs = complex_step(abs, -2.0)  # |x + ih| = sqrt(x^2 + h^2): a real number
print("abs:", slope_of_abs)
assert slope_of_abs == 0.0, "silently wrong"

repaired = complex_step(lambda z: -z if z.real < 0 else z, -2.0)  # the sign from the real part
assert repaired == -1.0

squares = complex_step(lambda z: np.vdot([z], [z]), 3.0)  # vdot conjugates one of the two
print("vdot:", squares)
assert squares.real == 0.0 and complex_step(lambda z: z * z, 3.0) == 6.0

try:
    complex_step(lambda z: max(z, 0.0), 3.0)
except TypeError as e:
    print("max:", e)
else:
    raise AssertionError("complex numbers have no order")

# %% [markdown]
# `abs`, a product with a conjugate, a norm made of either: zero, without a word. `max` and `<`: an error, where you are lucky
# (NumPy's own `np.maximum` orders complex numbers by their real parts first, and gets away with it). The complex step
# is the best ruler for smooth formulas. For a whole program, central differences ask nothing but that it can be
# called.

# %% [markdown]
# ## 5. Many entries
#
# The gradient of a function of an array has one entry for each entry of the array: move that one alone. With
# $e_j$ for the array that is 1 at index j and 0 elsewhere,
#
# $$ g_j = \frac{f(x + h e_j) - f(x - h e_j)}{2h} $$
#
# ### Exercise 02.3 ★★☆ The numeric gradient
#
# Write it for a function of a float64 array of any shape that returns one number. `x` must be as it was when you are
# done, to the last bit: adding h and taking it off again is not enough, since both are rounded.
#
# <details><summary>Hint</summary>
#
# `np.ndindex(x.shape)` goes through all indices, as tuples. Move an entry of a *copy*; and before the next entry is
# moved, the last one must be back where it was.
#
# </details>


# %% tags=["exercise"]
def numeric_gradient(f, x, h=1e-5):
    """Return the gradient at x of f, which maps an array to one number; shape of x."""
    # SOLUTION
    gradient = np.empty(x.shape)
    for j in np.ndindex(x.shape):
        above, below = x.copy(), x.copy()
        above[j] += h
        below[j] -= h
        gradient[j] = (f(above) - f(below)) / (2 * h)
    return gradient
    # END


# %%
check.ex_02_3(numeric_gradient)

# %%
points = rng.standard_normal((3, 4))
of_sines = numeric_gradient(lambda z: np.sin(z).sum(), points)
assert np.abs(of_sines - np.cos(points)).max() < 1e-9

# The other ruler, on a product in which every entry meets every other.
product = lambda z: f(z).prod()
unit = np.eye(12).reshape(12, 3, 4)  # a unit array for each entry
by_complex_step = [product(points + 1e-20j * e).imag / 1e-20 for e in unit]
by_differences = np.ravel(numeric_gradient(product, points))
assert np.abs(by_differences - by_complex_step).max() < 1e-7 * np.abs(by_complex_step).max()

# %% [markdown]
# It costs two calls of f for each entry. For the five numbers of a small test that is nothing. For a model of
# millions it is millions of passes, where the backward pass needs one: that is why we have backward rules at all, and
# why they are checked on small arrays.

# %% [markdown]
# ## 6. From an array to a number: why `.sum()` lies
#
# Most functions worth checking return an array, $y = f(x)$. A gradient belongs to one number, so we need a loss. The
# nearest one at hand is `y.sum()`. Take the softmax, $y_i = e^{x_i} / \sum_j e^{x_j}$, and let it have two backward rules: a
# right one (you will write it yourself in section 8), and one that returns zeros. (minigam's rules take the array library
# first, here `np`. Their `backward` returns a tuple, one gradient for each input.)


# %%
def softmax(x):
    """Return y = softmax(x) over the last axis, and minigam's backward rule for it: dy -> dx."""
    y, backward = ops.softmax.rule(np, x)
    return y, lambda dy: backward(dy)[0]


def softmax_zeros(x):
    """The same values, and a backward rule that nobody wrote yet."""
    return softmax(x)[0], lambda dy: np.zeros_like(x)


x = rng.standard_normal((2, 5))
by_sum = numeric_gradient(lambda z: softmax(z)[0].sum(), x)
for rule in (softmax, softmax_zeros):
    difference = np.abs(rule(x)[1](np.ones((2, 5))) - by_sum).max()
    print(f"{rule.__name__:>14}: off the numeric gradient of the sum by {difference:.0e}")
    assert difference < 1e-9, "both pass!"

# %% [markdown]
# Both pass. The reason is one line. The entries of a softmax add up to 1, whatever x is, so no move of x
# can move the sum:
#
# $$ \sum_i \frac{\partial y_i}{\partial x_j} = \frac{\partial}{\partial x_j} \sum_i y_i
#    = \frac{\partial}{\partial x_j} 1 = 0 $$
#
# LayerNorm (section 9) is no better: its normalised entries add up to 0. The test compared zero with zero. The cure is to weigh
# each output by a number of its own, drawn at random:
#
# $$ L = \langle c, f(x)\rangle = \sum_i c_i\, y_i, \qquad
#    \frac{\partial L}{\partial x_j} = \sum_i c_i \frac{\partial y_i}{\partial x_j} $$
#
# The right side is what a backward rule computes when it is handed $dy = c$. The plain sum is the special case
# $c = 1$; and a special case may well be the one direction in which the function never moves.

# %%
c = rng.standard_normal((2, 5))
by_c = numeric_gradient(lambda z: (c * softmax(z)[0]).sum(), x)
jacobian = np.array(
    [numeric_gradient(lambda z, i=i: softmax(z)[0][0, i], x)[0] for i in range(5)]
)  # dy_i / dx_j
assert np.abs(jacobian.sum(axis=0)).max() < 1e-9, "sum over i of dy_i / dx_j is 0"
assert np.abs(c[0] @ jacobian - by_c[0]).max() < 1e-9
assert np.abs(softmax(x)[1](c) - by_c).max() < 1e-9, "the right rule passes"
assert np.abs(softmax_zeros(x)[1](c) - by_c).max() > 0.01, "and zeros no longer do"

# %% [markdown]
# With random c a wrong rule passes only if c happens to be at right angles to the mistake in each column of its Jacobian.
# That has probability zero.

# %% [markdown]
# ## 7. Equal up to what?
#
# The two gradients never agree to the last bit. How far apart may they be? "A millionth of it" is a good answer for
# one number. For an array there are two ways to read it, and one is a trap. This function is right, and its gradient
# has entries from tiny to huge:

# %%
x = np.geomspace(1e-9, 1e3, 25) * rng.choice([-1.0, 1.0], 25)
exact = 2 * x  # of the sum of squares
numeric = numeric_gradient(lambda z: (z * z).sum(), x)
error = np.abs(numeric - exact)
to_itself, to_largest = error / np.abs(exact), error / np.abs(exact).max()
figure, axes = viz.panels("size of the entry of the gradient", "error relative to ...")
for label, style, e in (("the entry itself", "o", to_itself), ("the largest", "^", to_largest)):
    axes.loglog(np.abs(exact), np.maximum(e, 1e-16), style, markersize=4, label=label)
axes.axhline(1e-6, color=viz.INK, linestyle=":", label="allowed, 1e-6")
axes.legend(frameon=False, fontsize=8)
show(
    figure,
    "Relative to the entry itself the error of a right gradient climbs to 1, all of it, as "
    "entries get small. Relative to the largest entry it stays below 1e-6 for all.",
)
assert to_itself.max() > 0.1 and to_largest.max() < 1e-6

# %% [markdown]
# Every entry of a numeric gradient has the same noise: the rounding of f, divided by h. It depends on the size of f and
# not on the size of the entry. So an error is measured against the **largest** entry of the gradient. A small number
# $a$ is added for gradients that are zero altogether, such as that of a softmax over one entry:
#
# $$ \max_j |g_j - \mathrm{numeric}_j| \;\le\; a + r \max_j |\mathrm{numeric}_j|, \qquad a = 10^{-9}, \quad r = 10^{-6} $$
#
# Why $r = 10^{-6}$? The floor of central differences, $\varepsilon^{2/3}$, is some ten thousand times below it. Mistakes
# of a formula begin far above: a forgotten term mostly is 10 % or more, and even 0.1 % is a thousand times what is allowed.

# %%
a, r = 1e-9, 1e-6
right = lambda g, numeric: bool(np.abs(g - numeric).max() <= a + r * np.abs(numeric).max())
assert right(exact, numeric) and not right(1.001 * exact, numeric)
assert right(np.zeros(3), np.full(3, 1e-11)), "zero against noise"
assert not right(np.full(3, np.nan), np.ones(3)), "nan <= anything is False"
assert np.finfo(np.float64).eps ** (2 / 3) < r / 10_000

# %% [markdown]
# ### Exercise 02.4 ★★☆ The checker
#
# Put it together. `rule(x)` returns `(y, backward)` as `softmax` above does, `backward(dy)` returns `dx`. Return
# whether `backward` is right at x: `True` or `False`. `rtol` and `atol` are r and a of
# the line above. A gradient with nan in it is wrong, and so is one whose shape is not that of x. The shape of y may be another.
#
# <details><summary>Hint</summary>
#
# Draw c with the shape of y from `np.random.default_rng(0)`. Your `numeric_gradient` wants a function that returns one
# number: $\langle c, f(x) \rangle$, where f is the first part of what `rule` returns. The nan: every comparison with
# nan is `False`, so ask whether the error *is* small, not whether it is large.
#
# </details>


# %% tags=["exercise"]
def is_right(rule, x, rtol=1e-6, atol=1e-9):
    """Return whether rule(x) -> (y, backward) has a right backward at x, a float64 array."""
    # SOLUTION
    y, backward = rule(x)
    c = np.random.default_rng(0).standard_normal(y.shape)
    got = backward(c)
    if got.shape != x.shape:
        return False
    numeric = numeric_gradient(lambda z: (c * rule(z)[0]).sum(), x)
    return bool(np.abs(got - numeric).max() <= atol + rtol * np.abs(numeric).max())
    # END


# %%
check.ex_02_4(is_right)

# %% [markdown]
# A check that cannot fail checks nothing. So yours was tried on right rules, which it has to let pass, and on a handful of
# wrong ones. Do that with every checker you write. Here once more, on the matrix product of notebook 01, $y = x A$ with a square A:

# %%
x, A = rng.standard_normal((3, 4)), rng.standard_normal((4, 4))
last = np.zeros((3, 4))
last[-1, -1] = 1e-3
for name, dx_from in {
    "right": lambda dy: dy @ A.T,
    "zeros": lambda dy: 0.0 * dy,
    "A for its transpose": lambda dy: dy @ A,
    "0.1 % too large": lambda dy: 1.001 * (dy @ A.T),
    "0.001 off in one entry": lambda dy: dy @ A.T + last,
}.items():
    verdict = is_right(lambda z, dx_from=dx_from: (z @ A, dx_from), x)
    print(f"{name:>24}: {'passes' if verdict else 'caught'}")
    assert verdict == (name == "right")

# %% [markdown]
# ## 8. A softmax by hand
#
# Time to use it on something that you derive yourself. Write the softmax of one row in three lines, with $Z$ for the sum:
#
# $$ e_i = \exp(x_i), \qquad Z = \sum_i e_i, \qquad y_i = e_i / Z $$
#
# Each $x_j$ moves y by two roads: through its own $e_j$, and through Z, which every entry of y is divided by. So
# $dx_j$ is a sum of two terms, and the second one needs all of dy.
#
# ### Exercise 02.5 ★★★ The softmax, backwards
#
# Walk the three lines backwards on paper, then write it for an array of any number of axes, row by row over the last
# axis. Entries of x may be as large as 10,000.
#
# <details><summary>Hint</summary>
#
# The last line first: $y_i = e_i / Z$ gives $de_i$ with Z held, and $dZ$ with all $e_i$ held. Every $y_i$ uses Z, so $dZ$ is a sum
# over i, and the derivative of $1/Z$ is $-1/Z^2$. Next, $Z = \sum_i e_i$ adds $dZ$ to every $de_i$. Last, $\exp$ is its own
# derivative. Then look for $e_i / Z$ in what you have: it is $y_i$. And the large entries: a softmax does not change if the
# same number is taken from all entries of a row.
#
# </details>


# %% tags=["exercise"]
def softmax_backward(dy, x):
    """Return dx for y = softmax(x) over the last axis; dy and x: (..., S), S entries a row."""
    # SOLUTION
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    y = e / e.sum(axis=-1, keepdims=True)
    through_Z = (dy * y).sum(axis=-1, keepdims=True)
    return y * (dy - through_Z)
    # END


# %%
check.ex_02_5(softmax_backward)

# %% [markdown]
# And now with the tool you built:

# %%
x = rng.standard_normal((2, 3, 5))
assert is_right(lambda z: (softmax(z)[0], lambda dy: softmax_backward(dy, z)), x)
assert not is_right(lambda z: (softmax(z)[0], lambda dy: softmax(z)[0] * dy), x), "only one road"

# %% [markdown]
# Here is the walk again, in full. $y_i = e_i / Z$ gives $de_j = dy_j / Z$ and $dZ = -\sum_i dy_i\, e_i / Z^2$; the sum adds $dZ$ to
# every $de_j$; and exp multiplies by $e_j$. Then put y for $e / Z$:
#
# $$ dx_j = \Big(\frac{dy_j}{Z} - \sum_i \frac{dy_i\, e_i}{Z^2}\Big)\, e_j = y_j \Big(dy_j - \sum_i dy_i\, y_i\Big) $$
#
# You will meet this line in every attention and every memory, first in notebook 05. What $dy_i$ is multiplied by in $dx_j$ is
# an entry of the Jacobian, with $[i = j]$ for 1 if $i = j$ and 0 otherwise:
#
# $$ \frac{\partial y_i}{\partial x_j} = y_i\, \big([i = j] - y_j\big) $$

# %%
row = x[0, 0]
y = softmax(row)[0]
by_formula = y[:, None] * (np.eye(5) - y)
entry_by_entry = [numeric_gradient(lambda z, i=i: softmax(z)[0][i], row) for i in range(5)]
assert np.abs(by_formula - entry_by_entry).max() < 1e-9
dy, e = rng.standard_normal(5), np.exp(row)
Z = e.sum()
dx = (dy / Z - (dy * e / Z**2).sum()) * e
assert np.abs(dx - y * (dy - (dy * y).sum())).max() < 1e-12, "both sides of the first line"
assert np.abs(dx - dy @ by_formula).max() < 1e-12
assert np.abs(dx - softmax_backward(dy, row)).max() < 1e-12

# %% [markdown]
# ## 9. Which test catches which mistake?
#
# LayerNorm has the gradient on which most people slip. It takes the C channels of each token alone, $x$ here, and makes
# their mean 0 and their variance 1; then it scales and shifts them by a learned weight $w$ and bias $b$:
#
# $$ n = q\,\Big(x - \frac{1}{C}\sum_j x_j\Big), \qquad q = (\mathrm{variance} + \epsilon)^{-1/2}, \qquad y = n \odot w + b $$
#
# ($\epsilon = 10^{-5}$ is LayerNorm's own: it keeps q finite where all channels are equal.) Notebook 07 derives its
# gradient. Here is the result. It takes two parts out of $dn$, one along a shift of all channels and one along a stretch
# of them, because neither move changes n (but for ε). You need not believe it: you have a checker.
#
# $$ dn = dy \odot w, \qquad dx = q\, \Big(dn - \frac{1}{C}\sum_j dn_j - n\, \frac{1}{C}\sum_j dn_j\, n_j \Big) $$


# %%
mean = lambda m: m.mean(axis=-1, keepdims=True)


def normalise(x, eps=1e-5):
    """Return n and q."""
    q = (mean((x - mean(x)) ** 2) + eps) ** -0.5
    return q * (x - mean(x)), q


def dx_of(dy, x, w, shift=1.0, stretch=1.0, scale=1.0):
    """The line above; shift or stretch 0 leaves a term out, scale spoils it."""
    n, q = normalise(x)
    dn = dy * w
    return scale * q * (dn - shift * mean(dn) - stretch * n * mean(dn * n))


x, w, b = rng.standard_normal((2, 3, 6)), rng.standard_normal(6), rng.standard_normal(6)
layer_norm = lambda x, w, b: normalise(x)[0] * w + b
assert np.abs(layer_norm(x, w, b) - ops.layer_norm.rule(np, x, w, b)[0]).max() < 1e-12
assert is_right(lambda z: (layer_norm(z, w, b), lambda dy: dx_of(dy, z, w)), x)

# %% [markdown]
# Now five wrong rules for dx, and four tests. The tests differ in two choices: what the loss is, `.sum()` or
# $\langle c, \cdot \rangle$; and where the weight stands, at its initial value 1 or at random numbers.

# %%
mistakes = {
    "zeros": lambda dy, x, w: 0.0 * dy,
    "weight forgotten": lambda dy, x, w: dx_of(dy, x, 1.0),
    "no term for the mean": lambda dy, x, w: dx_of(dy, x, w, shift=0.0),
    "no term for the variance": lambda dy, x, w: dx_of(dy, x, w, stretch=0.0),
    "0.1 % too large": lambda dy, x, w: dx_of(dy, x, w, scale=1.001),
}
c = rng.standard_normal(x.shape)
tests = {
    "sum\nweight 1": (np.ones_like(x), np.ones(6)),
    "sum\nrandom weight": (np.ones_like(x), w),
    "random c\nweight 1": (c, np.ones(6)),
    "random c\nrandom weight": (c, w),
}
caught = np.zeros((len(mistakes), len(tests)), dtype=bool)
for column, (dy, weight) in enumerate(tests.values()):
    loss = lambda z, dy=dy, weight=weight: (dy * layer_norm(z, weight, b)).sum()
    numeric = numeric_gradient(loss, x)
    assert right(dx_of(dy, x, weight), numeric), "the right rule passes every test"
    for row, wrong in enumerate(mistakes.values()):
        caught[row, column] = not right(wrong(dy, x, weight), numeric)
figure, axes = viz.panels(size=(7.0, 3.4))
axes.imshow(~caught, cmap=viz.shades(), aspect="auto")
axes.set_xticks(range(len(tests)), tests)
axes.set_yticks(range(len(mistakes)), mistakes)
axes.grid(False)
for (row, column), ok in np.ndenumerate(caught):
    word, colour = ("caught", viz.INK) if ok else ("PASSES", "w")
    axes.text(column, row, word, ha="center", va="center", color=colour)
show(
    figure,
    "A table of wrong rules and tests. The sum with weight 1 catches only the missing term "
    "for the mean. A random c with weight 1 lets the forgotten weight pass. Random c with a "
    "random weight catches all.",
)
assert caught[:, 3].all() and not caught[0, :1].any() and not caught[1, 2]
assert caught[:, 0].sum() < caught[:, 2].sum() < caught[:, 3].sum()

# %% [markdown]
# In the second column the weight does by chance what c is there for: a sum of $n \odot w$ is $\langle w, n \rangle$.
# A softmax has no weight to help it.
#
# A parameter at its initial value is a special point, as a sum is a special loss: multiplying by 1 and forgetting to
# multiply look the same. **Everything random, in a test of a gradient: c, the inputs and the parameters.**

# %% [markdown]
# ## 10. `minigam.gradcheck`
#
# The project's own checker is what you wrote, for functions of several Tensors: central differences in float64 with
# $h = 10^{-5}$, $\langle c, f \rangle$ with a random c, relative to the largest entry. It returns the worst relative
# error and raises `AssertionError` if that is too large. Try it on operations of the GAM, and on the same operations
# with every gradient 0.1 % too large. (`op` makes an operation on Tensors from a rule. What the operations do is told in
# notebooks 04 to 07; a checker need not know.)


# %%
def too_large(operation):
    """Make an operation whose gradients are 0.1 % too large."""

    def rule(xp, *arrays):
        y, backward = operation.rule(xp, *arrays)  # may have gradients for optional inputs too
        return y, lambda dy: tuple(1.001 * g for g in backward(dy)[: len(arrays)])

    return op(rule)


leaf = lambda *shape: Tensor(rng.standard_normal(shape), requires_grad=True)
cases = {
    ops.softmax: [leaf(3, 5)],
    ops.gelu: [leaf(3, 5)],
    ops.layer_norm: [leaf(2, 3, 5), leaf(5), leaf(5)],
    ops.linear: [leaf(2, 3, 5), leaf(4, 5), leaf(4)],
    sequence.causal_conv1d: [leaf(2, 7, 4), leaf(4, 3), leaf(4)],
    sequence.associative_memory: [leaf(2, 5, 4), leaf(3, 4)],
    sequence.gated_fusion: [leaf(2, 5, 4), leaf(2, 5, 4), leaf(2, 5, 8)],
}
worst = {o.name: gradcheck(o, *leaves) for o, leaves in cases.items()}
measured = {"rtol": 1.0}  # let everything pass, and only return the error
spoilt = {o.name: gradcheck(too_large(o), *leaves, **measured) for o, leaves in cases.items()}

figure, axes = viz.panels("worst error, relative to the largest entry", size=(7.0, 3.4))
axes.semilogx(list(worst.values()), list(worst), "o", markersize=5, label="right")
axes.semilogx(list(spoilt.values()), list(spoilt), "^", markersize=5, label="0.1 % too large")
axes.axvline(1e-6, color=viz.INK, linestyle=":", label="allowed")
axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
show(
    figure,
    "For seven operations the error of the right gradient lies between 1e-12 and 1e-8, that "
    "of the wrong one at 1e-3. The line at 1e-6 stands in the wide gap between them.",
)
assert max(worst.values()) < 1e-7 and min(spoilt.values()) > 1e-4

# %%
in_float32 = Tensor(rng.standard_normal((3, 5)).astype(np.float32), requires_grad=True)
for what, operation, leaves in (
    ("0.1 %", too_large(ops.softmax), cases[ops.softmax]),
    ("float32", ops.softmax, [in_float32]),
):
    try:
        gradcheck(operation, *leaves)
    except (AssertionError, TypeError) as e:
        print(f"{what}: {type(e).__name__}: {e}\n")
    else:
        raise AssertionError(f"{what} should not pass")

# %% [markdown]
# ### When it cries wolf
#
# Sometimes the checker says no, and the gradient is right. At a kink there is no derivative to compare with, and a
# central difference returns the mean of both sides. A function that draws random numbers is another one at
# each call: dropout, which sets random entries to 0, has to keep the same ones. And where x itself is large, adding
# $10^{-5}$ to it is rounded as well.

# %%
relu = lambda z: np.maximum(z, 0.0)
assert central(abs, 0.0, 1e-5) == 0.0 and abs(central(relu, 0.0, 1e-5) - 0.5) < 1e-12, (
    "means of -1, 1 and 0, 1"
)

noise = np.random.default_rng(0)
drops = lambda z: z * (noise.random() < 0.5)  # another mask at each call
unsteady = central(drops, 1.0, 1e-5)
print(f"dropout, a new mask each time: slope {unsteady:.0f}")
holds = lambda z: ops.dropout(z, p=0.5, key=(0, 1))  # the key decides the mask
held = gradcheck(holds, leaf(4, 5))
assert held < 1e-6

x_large = 1e10
moved = ((x_large + 1e-5) - x_large) / 1e-5
print(f"at x = 1e10 a step of 1e-5 is really {moved:.2f} times that")
assert 0.01 < abs(moved - 1.0) < 0.2

# %% [markdown]
# ## 11. A whole model: random directions
#
# A model has too many entries to move one by one. But a gradient g makes a promise about *every* direction d, not only
# about those along an axis: along d, the loss L of the parameters θ changes at the rate $\langle g, d \rangle$. Draw a
# random d of length 1 through all the parameters together, and two calls test all of g at once:
#
# $$ \frac{L(\theta + h d) - L(\theta - h d)}{2h} = \langle g, d \rangle + O(h^2) $$

# %%
config = GAMConfig(vocab_size=9, block_size=8, d_model=8, n_layers=2, n_slots=4, dropout=0.0)
model = GAM(config, dtype="float64")
for p in model.parameters():
    p.data = 0.5 * rng.standard_normal(p.shape)  # random, not at their initial values
ids = rng.integers(9, size=(2, 8))
targets = rng.integers(9, size=(2, 8))
parameters = model.parameters()
model.loss(ids, targets).backward()
gradients = [p.grad for p in parameters]


def loss_at(h, d):
    """Return the loss with every parameter moved by h times its part of the direction d."""
    before = [p.data for p in parameters]
    for p, part in zip(parameters, d):
        p.data = p.data + h * part
    value = model.loss(ids, targets).item()
    for p, values in zip(parameters, before):
        p.data = values
    return value


d = [rng.standard_normal(p.shape) for p in parameters]
length = sum((part * part).sum() for part in d) ** 0.5
d = [part / length for part in d]
promised = sum((g * part).sum() for g, part in zip(gradients, d))
along = (loss_at(1e-5, d) - loss_at(-1e-5, d)) / 2e-5
print(f"<g, d> = {promised:.9f}, difference along d = {along:.9f}")
assert abs(along - promised) < 1e-7

# %% [markdown]
# `gradcheck(..., directions=5)` does that five times. Compare the price: two calls for each direction against two for
# each number in the model. Then the same check on the same model, with one wrong rule put into it: that of the memory.

# %%
losses = lambda *parameters: model.token_losses(ids, targets)
worst = gradcheck(losses, *parameters, directions=5)
print(f"worst of five directions: {worst:.1e}")
print(f"calls of the model: {2 * 5}, against {2 * model.num_parameters()} entry by entry")
assert worst < 1e-6


@op
def values_only(xp, u, memory):
    """The recall, whose backward forgets that the memory is compared with as well."""
    y, backward = sequence.associative_memory.rule(xp, u, memory)
    s = u @ memory.T
    a = softmax(s)[0]
    return y, lambda dy: (backward(dy)[0], a.reshape(-1, 4).T @ dy.reshape(-1, 8))


with mock.patch("minigam.models.gam.associative_memory", values_only):  # in the same model
    try:
        gradcheck(losses, *parameters, directions=5)
    except AssertionError as e:
        print(f"\nwith a wrong memory: {e}")
    else:
        raise AssertionError("a wrong memory should not pass")

# %% [markdown]
# What does a direction not tell? *Where* the mistake is. And it sees a mistake in a small part of the model thinned out
# by the rest: if a parameter holds a hundredth of the length of g, then a mistake of 0.1 % there changes
# $\langle g, d\rangle$ by about a hundred-thousandth. That is still ten times what is allowed. Where it would not
# be, the small check is the one that sees it.

# %%
whole = sum((g * g).sum() for g in gradients) ** 0.5
share = {p.name: (g * g).sum() ** 0.5 / whole for p, g in zip(parameters, gradients)}
figure, axes = viz.panels("share of the length of the gradient", size=(7.0, 6.0))
axes.barh(list(share), list(share.values()), **viz.bars(0))
axes.set_xscale("log")
axes.set_xlim(left=1e-4)
axes.tick_params(axis="y", labelsize=8)
axes.invert_yaxis()
axes.axvline(1e-3, color=viz.INK, linestyle=":", label="left of here a mistake of 0.1 % may hide")
axes.legend(frameon=False, fontsize=8, loc="lower right")
show(
    figure,
    "Every parameter of the model by its share of the gradient's length: the largest have "
    "about a half, the smallest a few thousandths or hundredths. All lie right of the line "
    "at one thousandth.",
)
assert max(share.values()) < 1.0 and min(share.values()) > 1e-3

# %% [markdown]
# So: every operation entry by entry on small arrays, every layer too, and whole models along a few directions. That is
# what `minigam gradcheck` does, for everything in this project.

# %% [markdown]
# ## What you have now
#
# * A checker of your own, which you have seen fail: central differences, $\langle c, f\rangle$, relative to the
#   largest entry; and a complex step where two thirds of the digits are not enough.
# * The softmax's gradient by hand, and a table of which careless test lets which mistake through.
# * A habit: a check that has never failed is not trusted. From notebook 04 on, `gradcheck` meets every operation of the
#   GAM in its turn.
#
# **Read on in the code:** `minigam/gradcheck/__init__.py`, the checker; `minigam/gradcheck/cases.py`, everything it is
# tried on.
