# %% [markdown]
# # 02 · Is my gradient right?
#
# **Goal.** Build a tool that tells a right gradient from a wrong one, and know its limits: why its step is
# neither large nor tiny, why a plain `.sum()` as the loss lets wrong gradients pass, and what an error must
# be compared with. At the end you check a whole GAM with it.
#
# **Time.** 125 minutes, 5 exercises. **Needs** 01 (what a backward rule is). Letters: f is a function, x the
# point at which we want its derivative, h a step, E(h) the error of a difference with step h, ε the relative
# rounding error of a number. y = f(x), c holds random numbers of y's shape, and L is a loss (not the number
# of layers). `dx` is the gradient of L with respect to x.

# %% tags=["setup"]
from unittest import mock

import numpy as np

from minigam import GAM, GAMConfig, Tensor, gradcheck, op, ops, sequence, viz
from minigam.course import check, show

# %% [markdown]
# ## 1. A wrong gradient also trains
#
# A wrong gradient raises no error. Often the model even trains. Below, one neuron, $\tanh(X w)$, learns to
# predict noisy targets by gradient descent, twice. One run uses the right gradient of the mean squared error.
# In the other the gradient lacks a factor. Both losses fall. Can you tell from the curves which is which?

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
# The wrong gradient lacks the slope of tanh, $1 - y^2$. It is "one", the curve that falls faster. So a loss
# curve cannot test a gradient. What can? The definition of the derivative. `differences` in notebook 01 used
# it, and we trusted the result. This notebook takes it apart: how exact is it, and which mistakes does it
# miss?

# %% [markdown]
# ## 2. Two differences, and how wrong they are
#
# Start with a function of one number x. The derivative is the limit of $(f(x+h) - f(x))/h$ as h goes to 0,
# but a computer has to stop at some $h > 0$. Taylor's expansion tells the error this causes:
#
# $$ f(x+h) = f(x) + h f'(x) + \frac{h^2}{2} f''(x) + \frac{h^3}{6} f'''(x) + \dots $$
#
# Subtract $f(x)$ and divide by h. The result is the **one-sided** difference. Its error is of first order,
# that is, proportional to h:
#
# $$ \frac{f(x+h) - f(x)}{h} = f'(x) + \frac{h}{2} f''(x) + \dots $$
#
# We try it on $f(x) = e^{\sin x}$, because its derivatives can be found by hand. Each follows from the one
# before by the product rule: $f' = f \cos x$, $\;f'' = f\,(\cos^2 x - \sin x)$,
# $\;f''' = f \cos x\,(\cos^2 x - 3 \sin x - 1)$.

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
# Now step to both sides. With $-h$ in place of $h$, the terms with odd powers change sign:
#
# $$ f(x-h) = f(x) - h f'(x) + \frac{h^2}{2} f''(x) - \frac{h^3}{6} f'''(x) + \dots $$
#
# Subtract the two expansions: $f(x)$ and $f''(x)$ cancel. Divide what is left by $2h$. The result is the
# **central** difference. Its error is of second order, that is, proportional to $h^2$:
#
# $$ \frac{f(x+h) - f(x-h)}{2h} = f'(x) + \frac{h^2}{6} f'''(x) + \dots $$
#
# ### Exercise 02.1 ★☆☆ The central difference
#
# Write the left side of the last equation, for a function of one number. Do not convert x or h: section 3
# also calls your function in float32.
#
# <details><summary>Hint</summary>
#
# One line. The two points $x - h$ and $x + h$ are $2h$ apart.
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
# First order means that a tenth of the step gives a tenth of the error. Second order means that a tenth of
# the step gives a hundredth of the error. On two logarithmic axes a power $h^p$ is a straight line of slope
# p, so we can read the order from the slope.

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
# If a smaller step is better, why not $10^{-15}$? Because $f(x+h)$ and $f(x-h)$ then agree in nearly all of
# their digits. The subtraction removes the digits that agree, and most of what remains is rounding error.
#
# A computed f has a rounding error of up to about $\varepsilon |f|$, where $\varepsilon$ is the spacing of
# floating-point numbers near 1: `np.finfo(dtype).eps`. The central difference contains two such errors,
# divided by $2h$. Together they add at most $\varepsilon|f|/h$ to the error:
#
# $$ E(h) = \underbrace{\frac{\varepsilon\,|f|}{h}}_{\text{rounding}} +
#           \underbrace{\frac{h^2}{6}\,|f'''|}_{\text{truncation}} $$
#
# The first term falls as h grows, and the second rises. The graph of their sum has the shape of a U. Its
# lowest point is where the derivative of E is zero, $-\varepsilon|f|/h^2 + h|f'''|/3 = 0$, that is, at
#
# $$ h^* = \Big(3\,\varepsilon\,\frac{|f|}{|f'''|}\Big)^{1/3}, \qquad E(h^*) = \frac{3}{2}\,\frac{\varepsilon\,|f|}{h^*} $$
#
# (At $h^*$ the second term of E is half of the first. To see it, insert $h^{*3}$ into the second term.)
#
# If $f$ and $f'''$ are both about 1, then $h^*$ is about $\varepsilon^{1/3}$, and the best error is about
# $\varepsilon / \varepsilon^{1/3} = \varepsilon^{2/3}$. So a central difference gives **two thirds of the
# digits** at best.

# %%
E = lambda h, eps: eps * abs(f(x)) / h + h * h / 6 * abs(f3)
best = {}
for dtype in (np.float64, np.float32):
    eps = float(np.finfo(dtype).eps)
    best[dtype] = h_star = (3 * eps * abs(f(x)) / abs(f3)) ** (1 / 3)
    neighbours = E(0.9 * h_star, eps), E(1.1 * h_star, eps)
    assert E(h_star, eps) < min(neighbours), "the bottom of the U"
    assert abs(E(h_star, eps) / (1.5 * eps * abs(f(x)) / h_star) - 1.0) < 1e-6
    print(f"{dtype.__name__}: best step {h_star:.1e}, eps^(1/3) is {eps ** (1 / 3):.1e};")
    print(f"    its error is at most {E(h_star, eps):.0e}, eps^(2/3) is {eps ** (2 / 3):.0e}")

# %% [markdown]
# That is the theory. Now we measure. The steps are powers of two and x is 3/4. So $x \pm h$ is exact in
# floating point, and only f is rounded.

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
    "As the step shrinks, errors of central differences fall along a line of slope 2 to a minimum "
    "near the derived best step, then rise again and scatter: a U. In float32 the U lies far "
    "higher and further to the right.",
)
for dtype, (steps, two) in measured.items():
    eps = np.finfo(dtype).eps
    assert (two <= 10 * E(steps, eps)).all(), "the derived bound holds"
    lowest = steps[two.argmin()]
    assert best[dtype] / 100 < lowest < best[dtype] * 100
assert measured[np.float32][1].min() > 100 * measured[np.float64][1].min()

# %% [markdown]
# Three conclusions:
#
# * To the left of the minimum the points scatter, because rounding errors are not a smooth function of h.
#   There E is only an upper bound.
# * In float64, $h = 10^{-5}$ is near the minimum for most functions. It is the default of
#   `minigam.gradcheck`.
# * float32 leaves about four digits at best, and fewer where f is much larger than its slope. **Check in
#   float64, train in float32.**

# %% [markdown]
# ## 4. A derivative without a subtraction
#
# Rounding does harm because we subtract two nearly equal numbers. We can avoid the subtraction by a step in
# the *imaginary* direction. Write Taylor's expansion with $ih$ for $h$, and use $i^2 = -1$:
#
# $$ f(x + ih) = f(x) + i h f'(x) - \frac{h^2}{2} f''(x) - i \frac{h^3}{6} f'''(x) + \dots $$
#
# The real part contains the value f(x), and the imaginary part contains the derivative. Nothing is
# subtracted:
#
# $$ \frac{\mathrm{Im}\, f(x + ih)}{h} = f'(x) - \frac{h^2}{6} f'''(x) + \dots $$
#
# ### Exercise 02.2 ★☆☆ The complex step
#
# Write the left side, for a function of one number. Nothing cancels here, so h may be so small that $h^2$ is
# negligible.
#
# <details><summary>Hint</summary>
#
# In Python $ih$ is `1j * h`, and the imaginary part of a number z is `z.imag`. NumPy's `np.exp`, `np.sin` and
# similar functions accept complex numbers.
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
drawn = np.maximum(by_complex, 1e-17)
axes.loglog(steps, drawn, "^", markersize=4, label="complex step (0 drawn at 1e-17)")
axes.legend(frameon=False, fontsize=8)
show(
    figure,
    "The central difference shows its U and is useless below a step of 1e-16. The error of the "
    "complex step falls to rounding level at 1e-8 and stays there for every smaller step.",
)
assert by_complex[steps < 1e-9].max() < 1e-14
assert by_central.min() > 100 * by_complex[-1] and by_central[-1] > 0.5

# %% [markdown]
# Why does anyone still use central differences? Because the complex step needs more of f: Taylor's series
# must hold for complex steps too. Such a function is called **analytic**. Every function that f calls must
# also be analytic and accept complex numbers. Two examples show what happens otherwise. The slope of $|x|$ at
# $x = -2$ should be $-1$, and the slope of a sum of squares, computed with `np.vdot`, should not be 0 either:

# %%
slope_of_abs = complex_step(abs, -2.0)  # |x + ih| = sqrt(x^2 + h^2): a real number
print("abs:", slope_of_abs)
assert slope_of_abs == 0.0, "silently wrong"

repaired = complex_step(lambda z: -z if z.real < 0 else z, -2.0)  # the sign from the real part
assert abs(repaired - -1.0) < 1e-12

squares = complex_step(lambda z: np.vdot([z], [z]), 3.0)  # vdot conjugates one of the two
print("vdot:", squares)
assert squares == 0.0 and abs(complex_step(lambda z: z * z, 3.0) - 6.0) < 1e-12

try:
    max(complex(3.0, 1e-20), 0.0)
except TypeError as e:
    print("max:", e)
else:
    raise AssertionError("complex numbers have no order")

# %% [markdown]
# `abs`, products with a conjugate, and norms built from either give 0 without a warning. `max` and `<` raise
# an error for Python's numbers. (NumPy's `np.maximum` compares the real parts first, and works.) So the
# complex step is the most exact reference for smooth formulas. Central differences work for any program that
# can be called.

# %% [markdown]
# ## 5. Many entries
#
# The gradient of a function of an array has one entry for each entry of the array. To find entry j, move
# entry j alone. With $e_j$ for the array that is 1 at index j and 0 elsewhere,
#
# $$ g_j = \frac{f(x + h e_j) - f(x - h e_j)}{2h} $$
#
# ### Exercise 02.3 ★★☆ The numeric gradient
#
# Write it for a function f that maps a float64 array of any shape to one number. Return an array of the shape
# of x. When you are done, `x` must be exactly as it was. Adding h and subtracting it again is not enough,
# because both operations round.
#
# <details><summary>Hint</summary>
#
# `np.ndindex(x.shape)` yields all indices, as tuples. Change an entry of a *copy* of x. Before you move the
# next entry, the last one must have its old value again.
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

# The complex step as a second reference, on a product of all entries.
product = lambda z: f(z).prod()
unit = np.eye(12).reshape(12, 3, 4)  # a unit array for each entry
by_complex_step = [product(points + 1e-20j * e).imag / 1e-20 for e in unit]
by_differences = np.ravel(numeric_gradient(product, points))
assert np.abs(by_differences - by_complex_step).max() < 1e-7 * np.abs(by_complex_step).max()

# %% [markdown]
# This costs two calls of f for each entry. In a small test that is nothing. For a model of millions of
# numbers it means millions of forward passes, where the backward pass needs one. That is why we have backward
# rules, and why we check them on small arrays.

# %% [markdown]
# ## 6. From an array to a number: why `.sum()` misses mistakes
#
# Most functions that we check return an array, $y = f(x)$. A gradient belongs to one number, so we need a
# loss. The simplest is `y.sum()`. As an example take the softmax, $y_i = e^{x_i} / \sum_j e^{x_j}$, with two
# backward rules: a right one (you will write it yourself in section 8), and one that returns zeros. (A rule
# in minigam takes the array library as its first argument, here `np`. Its `backward` returns a tuple, one
# gradient for each input.)


# %%
def softmax(x):
    """Return y = softmax(x) over the last axis, and minigam's backward rule for it: dy -> dx."""
    y, backward = ops.softmax.rule(np, x)
    return y, lambda dy: backward(dy)[0]


def softmax_zeros(x):
    """The same values, with a backward rule that returns zeros."""
    return softmax(x)[0], lambda dy: np.zeros_like(x)


x = rng.standard_normal((2, 5))
by_sum = numeric_gradient(lambda z: softmax(z)[0].sum(), x)
for rule in (softmax, softmax_zeros):
    difference = np.abs(rule(x)[1](np.ones((2, 5))) - by_sum).max()
    print(f"{rule.__name__:>14}: differs from the numeric gradient of the sum by {difference:.0e}")
    assert difference < 1e-9, "both pass!"

# %% [markdown]
# Both pass. The reason: the entries of a softmax add up to 1, whatever x is. So no change of x changes the
# sum:
#
# $$ \sum_i \frac{\partial y_i}{\partial x_j} = \frac{\partial}{\partial x_j} \sum_i y_i
#    = \frac{\partial}{\partial x_j} 1 = 0 $$
#
# LayerNorm (section 9) has the same problem: its normalised entries add up to 0. The test has compared zero
# with zero. The remedy is to multiply each output by a random number of its own:
#
# $$ L = \langle c, f(x)\rangle = \sum_i c_i\, y_i, \qquad
#    \frac{\partial L}{\partial x_j} = \sum_i c_i \frac{\partial y_i}{\partial x_j} $$
#
# The matrix of all $\partial y_i / \partial x_j$ is called the **Jacobian** of f. The right side is what a
# backward rule computes when it is given $dy = c$. The plain sum is the special case $c = 1$, and for the
# softmax this special case has no gradient.

# %%
c = rng.standard_normal((2, 5))
by_c = numeric_gradient(lambda z: (c * softmax(z)[0]).sum(), x)
jacobian = np.array(
    [numeric_gradient(lambda z, i=i: softmax(z)[0][0, i], x)[0] for i in range(5)]
)  # dy_i / dx_j
assert np.abs(jacobian.sum(axis=0)).max() < 1e-9, "sum over i of dy_i / dx_j is 0"
assert np.abs(c[0] @ jacobian - by_c[0]).max() < 1e-9
assert np.abs(softmax(x)[1](c) - by_c).max() < 1e-9, "the right rule passes"
assert np.abs(softmax_zeros(x)[1](c) - by_c).max() > 0.01, "zeros no longer pass"

# %% [markdown]
# The mistake of a wrong rule is the difference of two Jacobians. With random c the wrong rule passes only if
# c is orthogonal to every column of this difference. The probability of that is zero.

# %% [markdown]
# ## 7. Equal up to what?
#
# The two gradients never agree to the last bit. How large may the difference be? For one number, "a millionth
# of its size" is a good answer. For an array it can mean a millionth of each entry, or a millionth of the
# largest entry. Only one of them works. The next function's gradient is right, and its entries range from
# tiny to huge:

# %%
x = np.geomspace(1e-9, 1e3, 25) * rng.choice([-1.0, 1.0], 25)
exact = 2 * x  # of the sum of squares
numeric = numeric_gradient(lambda z: (z * z).sum(), x)
error = np.abs(numeric - exact)
to_itself, to_largest = error / np.abs(exact), error / np.abs(exact).max()
figure, axes = viz.panels("size of the entry of the gradient", "relative error")
for label, style, e in (
    ("relative to the entry itself", "o", to_itself),
    ("relative to the largest", "^", to_largest),
):
    axes.loglog(np.abs(exact), np.maximum(e, 1e-16), style, markersize=4, label=label)
axes.axhline(1e-6, color=viz.INK, linestyle=":", label="allowed, 1e-6")
axes.legend(frameon=False, fontsize=8)
show(
    figure,
    "Relative to the entry itself, the error of a right gradient rises to 1, which is 100 %, as the "
    "entries get small. Relative to the largest entry it stays below 1e-6 everywhere.",
)
assert to_itself.max() > 0.1 and to_largest.max() < 1e-6

# %% [markdown]
# Every entry of a numeric gradient has the same noise: the rounding error of f, divided by h. The noise
# depends on the size of f, not on the size of the entry. So we measure the error relative to the **largest**
# entry of the gradient. We also allow a small absolute error $a$, for gradients that are zero everywhere,
# such as that of a softmax over one entry:
#
# $$ \max_j |g_j - \mathrm{numeric}_j| \;\le\; a + r \max_j |\mathrm{numeric}_j|, \qquad a = 10^{-9}, \quad r = 10^{-6} $$
#
# Why $r = 10^{-6}$? The best accuracy of central differences, $\varepsilon^{2/3}$, is more than ten thousand
# times smaller. Mistakes in a formula are far larger: a missing term usually changes the gradient by 10 % or
# more, and even 0.1 % is a thousand times the allowed error.

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
# Now combine the pieces. `rule(x)` returns `(y, backward)` as `softmax` above does, and `backward(dy)`
# returns `dx`. Return `True` if `backward` is right at x, and `False` if not. `rtol` and `atol` are r and a
# of the inequality above. A gradient that contains nan is wrong, and so is one whose shape differs from that
# of x. The shape of y may differ from that of x.
#
# <details><summary>Hint</summary>
#
# Draw c with the shape of y from `np.random.default_rng(0)`. Your `numeric_gradient` needs a function that
# returns one number: $\langle c, f(x) \rangle$, where f(x) is the first part of what `rule(x)` returns. As to
# nan: every comparison with nan is `False`, so ask whether the error *is* small, not whether it is large.
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
# A check that cannot fail checks nothing. So the check of this exercise gave your function right rules, which
# must pass, and wrong ones, which must not. Do that with every checker you write. Here is one more example,
# the matrix product of notebook 01, $y = x A$ with a square A:

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
# Now use it on a gradient that you derive yourself. Write the softmax of one row in three lines, with $Z$ for
# the sum:
#
# $$ e_i = \exp(x_i), \qquad Z = \sum_i e_i, \qquad y_i = e_i / Z $$
#
# Each $x_j$ changes y in two ways: through its own $e_j$, and through Z, by which every entry of y is
# divided. So $dx_j$ is a sum of two terms, and the second one needs all of dy.
#
# ### Exercise 02.5 ★★★ The softmax, backwards
#
# Derive the gradient on paper: take the three lines in reverse order. Then write it for an array of any
# number of axes. Each row along the last axis has a softmax of its own. Return one array, dx, of the shape of
# x. Entries of x may be as large as 10,000.
#
# <details><summary>Hint</summary>
#
# Start with the last line, $y_i = e_i / Z$. It gives $de_i$ with Z fixed, and $dZ$ with all $e_i$ fixed.
# Every $y_i$ uses Z, so $dZ$ is a sum over i; the derivative of $1/Z$ is $-1/Z^2$. Next, $Z = \sum_i e_i$
# adds $dZ$ to every $de_i$. Last, $\exp$ is its own derivative. In the result, $e_i / Z$ is $y_i$. For large
# entries: a softmax does not change if you subtract the same number from all entries of a row.
#
# </details>


# %% tags=["exercise"]
def softmax_backward(dy, x):
    """Return dx for y = softmax(x) over the last axis; dy and x: (..., n), n entries a row."""
    # SOLUTION
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    y = e / e.sum(axis=-1, keepdims=True)
    through_Z = (dy * y).sum(axis=-1, keepdims=True)
    return y * (dy - through_Z)
    # END


# %%
check.ex_02_5(softmax_backward)

# %% [markdown]
# Now check it with the tool that you built:

# %%
x = rng.standard_normal((2, 3, 5))
assert is_right(lambda z: (softmax(z)[0], lambda dy: softmax_backward(dy, z)), x)
assert not is_right(lambda z: (softmax(z)[0], lambda dy: softmax(z)[0] * dy), x), "one term of two"

# %% [markdown]
# Here is the derivation in full. $y_i = e_i / Z$ gives $de_j = dy_j / Z$ and $dZ = -\sum_i dy_i\, e_i / Z^2$.
# The sum adds $dZ$ to every $de_j$. The exponential multiplies by $e_j$. Then write y for $e / Z$:
#
# $$ dx_j = \Big(\frac{dy_j}{Z} - \sum_i \frac{dy_i\, e_i}{Z^2}\Big)\, e_j = y_j \Big(dy_j - \sum_i dy_i\, y_i\Big) $$
#
# This formula appears in every attention and every memory, first in notebook 05. The factor of $dy_i$ in
# $dx_j$ is an entry of the Jacobian. With $[i = j]$ for 1 if $i = j$ and 0 otherwise, it is
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
# The gradient of LayerNorm is easy to get wrong. LayerNorm takes the C channels of each token, here called
# $x$, and shifts and scales them to mean 0 and variance 1. Then it multiplies them by a learned weight $w$
# and adds a learned bias $b$:
#
# $$ n = q\,\Big(x - \frac{1}{C}\sum_j x_j\Big), \qquad q = (\mathrm{variance} + \epsilon)^{-1/2}, \qquad y = n \odot w + b $$
#
# ($\epsilon = 10^{-5}$ keeps q finite where all channels are equal. It is not the rounding error ε.) Notebook
# 07 derives the gradient. The result is below. It subtracts two parts from $dn$: one belongs to a shift of
# all channels, the other to a scaling of all channels. Neither changes n (except for the effect of
# $\epsilon$). You need not trust the formula: you have a checker.
#
# $$ dn = dy \odot w, \qquad dx = q\, \Big(dn - \frac{1}{C}\sum_j dn_j - n\, \frac{1}{C}\sum_j dn_j\, n_j \Big) $$


# %%
mean = lambda m: m.mean(axis=-1, keepdims=True)


def normalise(x, eps=1e-5):
    """Return n and q."""
    q = (mean((x - mean(x)) ** 2) + eps) ** -0.5
    return q * (x - mean(x)), q


def dx_of(dy, x, w, shift=1.0, stretch=1.0, scale=1.0):
    """Return dx by the formula above; shift 0 or stretch 0 omits a term, scale multiplies the result."""
    n, q = normalise(x)
    dn = dy * w
    return scale * q * (dn - shift * mean(dn) - stretch * n * mean(dn * n))


x, w, b = rng.standard_normal((2, 3, 6)), rng.standard_normal(6), rng.standard_normal(6)
layer_norm = lambda x, w, b: normalise(x)[0] * w + b
assert np.abs(layer_norm(x, w, b) - ops.layer_norm.rule(np, x, w, b)[0]).max() < 1e-12
assert is_right(lambda z: (layer_norm(z, w, b), lambda dy: dx_of(dy, z, w)), x)

# %% [markdown]
# Now we try five wrong rules for dx against four tests. The tests differ in two choices. The loss is `.sum()`
# or $\langle c, y \rangle$. The weight is at its initial value 1, or random.

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
# In the second column the random weight plays the role of c, because a sum of $n \odot w$ is
# $\langle w, n \rangle$. A softmax has no weight, so there only a random c helps.
#
# The initial value of a parameter is a special case, just as the sum is a special loss. With weight 1,
# multiplying by the weight and forgetting it give the same result. **In a test of a gradient, make everything
# random: c, the inputs and the parameters.**

# %% [markdown]
# ## 10. `minigam.gradcheck`
#
# The project's own checker does what yours does, for functions of several Tensors: central differences in
# float64 with $h = 10^{-5}$, the loss $\langle c, f \rangle$ with random c, and an error relative to the
# largest entry. It returns the worst relative error, and raises `AssertionError` if that is too large. Below
# it checks operations of the GAM, and the same operations with every gradient 0.1 % too large. (`op` makes an
# operation on Tensors from a rule. Notebooks 04 to 07 explain what these operations do. The checker does not
# need to know.)


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
    "For seven operations the error of the right gradient lies between 1e-12 and 1e-8, and "
    "that of the wrong one at 1e-3. The allowed error, 1e-6, lies in the wide gap between them.",
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
# ### False alarms
#
# Sometimes the checker refuses a right gradient. There are three common causes. First, at a kink there is no
# derivative, and a central difference returns the mean of the slopes on both sides. Second, a function that
# draws random numbers differs from call to call. For example, dropout sets random entries to 0, and during
# the check it must set the same ones each time. Third, where x is large, $x + 10^{-5}$ is rounded too.

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
print(f"at x = 1e10 the actual step is {moved:.2f} times 1e-5")
assert 0.01 < abs(moved - 1.0) < 0.2

# %% [markdown]
# ## 11. A whole model: random directions
#
# A model has too many entries to move one by one. But a gradient g predicts the slope along *every* direction
# d, not only along the axes: along d, the loss L of the parameters θ changes at the rate
# $\langle g, d \rangle$. Draw a random d of length 1 that covers all parameters. Then two calls of the loss
# test all of g at once:
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
predicted = sum((g * part).sum() for g, part in zip(gradients, d))
along = (loss_at(1e-5, d) - loss_at(-1e-5, d)) / 2e-5
print(f"<g, d> = {predicted:.9f}, difference along d = {along:.9f}")
assert abs(along - predicted) < 1e-7

# %% [markdown]
# `gradcheck(..., directions=5)` does this for five directions. It needs two calls for each direction, where
# the check entry by entry needs two for each number in the model. After it we check the same model with one
# wrong rule, that of the memory.

# %%
losses = lambda *parameters: model.token_losses(ids, targets)
worst = gradcheck(losses, *parameters, directions=5)
print(f"worst of five directions: {worst:.1e}")
print(f"calls of the model: {2 * 5}, against {2 * model.num_parameters()} entry by entry")
assert worst < 1e-6


@op
def values_only(xp, u, memory):
    """The recall, with a backward that omits the use of the memory as keys."""
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
# This check has two limits. It does not tell *where* the mistake is. And it is less sensitive to a mistake in
# a small part of the model. Suppose that one parameter has a hundredth of the length of g. Then a mistake of
# 0.1 % in it changes $\langle g, d\rangle$ by about a hundred-thousandth. That is still ten times the allowed
# error. For a smaller share the mistake could pass, and only the entry-by-entry check of that operation would
# find it.

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
# In summary, check every operation and every layer entry by entry on small arrays, and whole models along a
# few directions. `minigam gradcheck` does that for everything in this project.

# %% [markdown]
# ## What you can do now
#
# You can
#
# * check any gradient by central differences, and choose a step between rounding and truncation,
# * say why a plain sum hides errors, and against what an error has to be measured, and
# * derive the gradient of the softmax by hand, and use a complex step where more digits are needed.
#
# ## Think about it
#
# No check can answer these. Write down your answer, or discuss it with someone.
#
# 1. Your check passes on random inputs. On which inputs of your own function could it still be wrong?
# 2. When is a wrong gradient good enough to train with, and how would you notice that it is wrong?
#
# ## Read on
#
# In the code:
#
# * `minigam/gradcheck/__init__.py`: the checker
# * `minigam/gradcheck/cases.py`: everything that it is tried on
#
# Elsewhere:
#
# * [The Complex-Step Derivative Approximation](https://doi.org/10.1145/838250.838251)
# * [Using Complex Variables to Estimate Derivatives of Real Functions](https://doi.org/10.1137/S003614459631241X)
# * [Gradient checks, CS231n](https://cs231n.github.io/neural-networks-3/#gradcheck)
# * [Gradcheck mechanics, PyTorch](https://docs.pytorch.org/docs/stable/notes/gradcheck.html)
