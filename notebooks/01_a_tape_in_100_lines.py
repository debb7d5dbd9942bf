# %% [markdown]
# # 01 · A tape in 100 lines
#
# **Goal.** Build automatic differentiation from nothing: operations that know their derivative, a tape that records
# what was computed, and a backward pass that carries gradients back along the tape. At the end you can say what
# `.backward()` does, line by line, and you train a network with your own engine.
#
# **Time.** 130 minutes, 5 exercises. **Needs** 00 (NumPy's broadcasting and `@`), and the derivative of a function of
# one variable.
#
# Letters: L is the loss, a number. M, K and N are the sizes of matrices, (M, K) and (K, N). B is a number of texts, or
# of points in section 9.

# %% tags=["setup"]
import inspect
import time

import numpy as np

import minigam
from minigam import ops, viz
from minigam.course import check, show

# %% [markdown]
# ## 1. One operation
#
# Take a number $x$ and compute $y = x^2$. Now change $x$ by a small step $h$. By how much does $y$ change?
# Multiply out: $(x+h)^2 - x^2 = 2xh + h^2$. Divide by the step:
#
# $$ \frac{(x+h)^2 - x^2}{h} = 2x + h \quad\longrightarrow\quad \frac{dy}{dx} = 2x \quad\text{as } h \to 0 $$
#
# The derivative is a rate: if $x$ changes a little, $y$ changes $2x$ times as much.

# %%
x = 3.0
for h in (1e-1, 1e-2, 1e-3):
    slope = ((x + h) ** 2 - x**2) / h
    print(f"h = {h:<6} slope {slope:.4f}")
    assert abs(slope - (2 * x + h)) < 1e-9

# %% [markdown]
# A network has millions of parameters. While it learns, only one output counts: the loss L. So for every number $v$ in
# the computation we want one rate, $\partial L / \partial v$: how much L changes when $v$ alone changes. This rate is the
# gradient of L with respect to $v$, for short the **gradient** of $v$. In code it is called `dv`, an array of the shape
# of `v`. The whole course uses these names: `dx` is $\partial L/\partial x$, `dW` is $\partial L/\partial W$.
#
# Start with addition. If $a$ changes by $h$, then $y = a + b$ changes by $h$ too, and L changes by $dy$ times $h$. The
# same holds for $b$. So
#
# $$ y = a + b \quad\Rightarrow\quad da = dy, \qquad db = dy $$
#
# To test this we need two things.
#
# * **A loss.** Take $L = \sum_i c_i\, y_i$ with fixed numbers $c$. Its gradient with respect to $y$ is $c$. In the code
#   below `dy` plays the part of $c$, so the loss is `(dy * y).sum()`.
# * **Derivatives that use none of our formulas.** The function `differences` moves one entry at a time, up and down, and
#   computes the loss both times.


# %%
def differences(loss, x, h=1e-5):
    """Return dL/dx of loss(x), a number, by moving each entry of x a little up and down."""
    dx = np.zeros(x.shape)
    for i in np.ndindex(x.shape):
        step = np.zeros(x.shape)
        step[i] = h
        dx[i] = (loss(x + step) - loss(x - step)) / (2 * h)
    return dx


rng = np.random.default_rng(1)
a, b, dy = rng.standard_normal((3, 4))  # three arrays of four numbers
assert np.allclose(differences(lambda a: (dy * (a + b)).sum(), a), dy)  # da = dy
assert np.allclose(differences(lambda b: (dy * (a + b)).sum(), b), dy)  # db = dy

# %% [markdown]
# ### Exercise 01.1 ★☆☆ The gradients of a product
#
# $y = a\,b$, entry by entry. You are given $dy$, and the values of $a$ and $b$ in the forward pass (the computation of
# $y$). Return $da$ and $db$.
#
# <details><summary>Hint</summary>
#
# If $a$ changes by $h$, then $y = (a + h)\,b$ changes by $h\,b$. And L changes $dy$ times as much as $y$. How much is that?
#
# </details>


# %% tags=["exercise"]
def mul_backward(dy, a, b):
    """Return (da, db) for y = a * b; all arrays have one shape."""
    # SOLUTION
    return dy * b, dy * a
    # END


# %%
check.ex_01_1(mul_backward)

# %%
da, db = mul_backward(dy, a, b)
assert np.allclose(da, differences(lambda a: (dy * (a * b)).sum(), a))
assert np.allclose(db, differences(lambda b: (dy * (a * b)).sum(), b))

# %% [markdown]
# What did you need? Only $dy$, and values from the forward pass. You needed neither L nor the operations between $y$ and
# L. So each operation can be given its derivative once, on its own, and then be used anywhere. This is the main idea of
# the notebook.
#
# ## 2. A chain of operations
#
# Now take a chain, $x \to z \to y \to L$. Rates multiply: if $y$ changes 3 times as much as $z$, and $z$ changes 2 times as
# much as $x$, then $y$ changes 6 times as much as $x$.
#
# With arrays, every entry of $y$ may depend on every entry of $x$. The rates then form a matrix, the **Jacobian**
# $J_{ij} = \partial y_i / \partial x_j$. If $x_j$ changes, every $y_i$ may change, and each of them changes L. These
# contributions add up:
#
# $$ dx_j = \sum_i dy_i\, J_{ij} \qquad\text{or, with } dy \text{ as a row,}\qquad dx = dy\, J $$
#
# This is a **vector-Jacobian product**. The backward step of one operation is one such product.

# %%
x = rng.standard_normal(4)
W = rng.standard_normal((4, 4))
J = W  # of y = W x: y_i changes W_ij times as much as x_j
assert np.allclose(dy @ J, differences(lambda x: dy @ (W @ x), x))

J = np.diag(np.exp(x))  # of y = exp(x): y_i depends on x_i alone, with rate exp(x_i)
assert np.allclose(dy @ J, differences(lambda x: dy @ np.exp(x), x))
assert np.allclose(dy @ J, dy * np.exp(x))  # the same without the Jacobian

# %% [markdown]
# The last line matters. For a million numbers the Jacobian of exp has $10^{12}$ entries, and all except the million on
# its diagonal are 0. No program builds it. The code computes the *product* `dy @ J` directly, in about the time of the
# forward pass.
#
# Why do we start at the end, with $dy$? The gradient of a chain of operations is a product of $dy$ and several Jacobians.
# A matrix product may be bracketed in any way:
#
# $$ dx = \big((dy\, J_3)\, J_2\big)\, J_1 = dy\, \big(J_3\, (J_2\, J_1)\big) $$
#
# The result is the same, but the work is not. Count multiplications for Jacobians of size $n \times n$. On the left
# every product is a row times a matrix, $n^2$ multiplications. On the right two of the three products are a matrix
# times a matrix, $n^3$ each.

# %%
n = 60
dy, J1, J2, J3 = rng.standard_normal(n), *rng.standard_normal((3, n, n))
from_the_end = ((dy @ J3) @ J2) @ J1
from_the_start = dy @ (J3 @ (J2 @ J1))
assert np.allclose(from_the_end, from_the_start)

cost_end, cost_start = 3 * n**2, 2 * n**3 + n**2
print(f"multiplications: {cost_end:,} from the end, {cost_start:,} from the start")
assert cost_start > 10 * cost_end

# %% [markdown]
# With one loss and many inputs, start at the end. All gradients together then cost about as much as computing L a few
# times, however many inputs there are. This is reverse-mode differentiation, better known as **backpropagation**.
#
# ## 3. Shapes that broadcast
#
# In `x + b` with `x` of shape (3, 4) and `b` of shape (4,), NumPy repeats `b` for each of the three rows. So each $b_j$
# is used in three entries of $y$, each time with rate 1. As in section 2, the contributions add up:
#
# $$ y_{ij} = x_{ij} + b_j \quad\Rightarrow\quad db_j = \sum_i dy_{ij} $$
#
# The general rule: an axis that was repeated in the forward pass is summed in the backward pass.

# %%
x, dy, b = rng.standard_normal((3, 4)), rng.standard_normal((3, 4)), rng.standard_normal(4)
db = dy.sum(axis=0)
assert db.shape == b.shape
assert np.allclose(db, differences(lambda b: (dy * (x + b)).sum(), b))

# %% [markdown]
# ### Exercise 01.2 ★★☆ Undo the broadcasting
#
# NumPy broadcast an array of shape `shape` (a tuple) to a larger shape. `g` is the gradient of the result and has the
# larger shape. Return the gradient of the original array: an array of shape `shape`.
#
# NumPy repeats in two ways. It adds axes on the left, so that (4,) becomes (3, 4). And it stretches axes of length 1, so
# that (3, 1) becomes (3, 4). Both can happen at once, or neither.
#
# <details><summary>Hint</summary>
#
# Start with the axes on the left. There are `g.ndim - len(shape)` of them, and `sum` takes a tuple of axes. Then sum over
# the axes where `shape` has a 1. They keep length 1, so use `keepdims=True`.
#
# </details>


# %% tags=["exercise"]
def unbroadcast(g, shape):
    """Sum g over the axes that broadcasting repeated; return an array of this shape."""
    # SOLUTION
    g = g.sum(axis=tuple(range(g.ndim - len(shape))))
    stretched = tuple(i for i, length in enumerate(shape) if length == 1)
    return g.sum(axis=stretched, keepdims=True)
    # END


# %%
check.ex_01_2(unbroadcast)

# %%
for shape in ((4,), (3, 1), (1, 4), (1, 1), ()):
    v = rng.standard_normal(shape)
    assert np.allclose(unbroadcast(dy, shape), differences(lambda v: (dy * (x + v)).sum(), v))

# %% [markdown]
# ## 4. The product of two matrices
#
# Now $y = a\,b$ with $a$ of shape (M, K) and $b$ of shape (K, N). One entry of $y$ is
#
# $$ y_{ij} = \sum_k a_{ik}\, b_{kj} $$
#
# We find $da_{ik}$ in three steps.
#
# 1. Which entries of $y$ contain $a_{ik}$? Those of row $i$: one for every column $j$.
# 2. With which rate? In $y_{ij}$ the number $a_{ik}$ is multiplied by $b_{kj}$, so the rate is $b_{kj}$.
# 3. Add the contributions: $da_{ik} = \sum_j dy_{ij}\, b_{kj}$.
#
# ### Exercise 01.3 ★★☆ The gradients of a matrix product
#
# * Derive $db_{kj}$ with the same three steps.
# * Both sums are matrix products. Write them with `@`.
# * Make it work for batches. `a` may have further axes in front, (..., M, K), and so may `b`, (..., K, N). `@`
#   multiplies the last two axes and broadcasts those in front. A typical case is a batch of B sentences, each with M
#   words of K numbers, times one matrix of weights: (B, M, K) times (K, N). The gradient `da` has the shape of `a`, and
#   `db` has the shape of `b`.
#
# <details><summary>Hint</summary>
#
# $b_{kj}$ stands in column $j$ of $y$, once in every row $i$, with the rate $a_{ik}$. So
# $db_{kj} = \sum_i a_{ik}\, dy_{ij}$.
#
# In $\sum_j dy_{ij}\, b_{kj}$ the index $j$ is last in both arrays, but `@` needs it last on the left and last but one on
# the right. So one of them has to be transposed. `.swapaxes(-1, -2)` exchanges the last two axes and leaves those in front
# alone. (`.T` would reverse all axes.) If NumPy repeated an axis in front, your `unbroadcast` of 01.2 sums over it.
#
# </details>


# %% tags=["exercise"]
def matmul_backward(dy, a, b):
    """Return (da, db) for y = a @ b, with a (..., M, K), b (..., K, N) and dy (..., M, N)."""
    # SOLUTION
    da = dy @ b.swapaxes(-1, -2)
    db = a.swapaxes(-1, -2) @ dy
    return unbroadcast(da, a.shape), unbroadcast(db, b.shape)
    # END


# %%
check.ex_01_3(matmul_backward)

# %% [markdown]
# These are the two sums. The next cell computes them as they are written and compares them with your answer.
#
# $$ da_{ik} = \sum_j dy_{ij}\, b_{kj}, \qquad db_{kj} = \sum_i a_{ik}\, dy_{ij} $$

# %%
a, b = rng.standard_normal((2, 3)), rng.standard_normal((3, 4))
dy = rng.standard_normal((2, 4))
da, db = matmul_backward(dy, a, b)
assert np.allclose(da, np.einsum("ij,kj->ik", dy, b))  # the sums, in their letters
assert np.allclose(db, np.einsum("ik,ij->kj", a, dy))
assert np.allclose(da, differences(lambda a: (dy * (a @ b)).sum(), a))
assert np.allclose(db, differences(lambda b: (dy * (a @ b)).sum(), b))

# %% [markdown]
# ## 5. A rule, and the tape
#
# A **rule** is a function that takes arrays and returns two things: the value of an operation, and a function `backward`.
# `backward` turns `dy` into a tuple with one gradient for each input. It may need values from the forward pass. Python
# keeps those together with the function; this is called a *closure*.
#
# Three rules are new. In a mean of $n$ numbers each number has weight $1/n$, so each gets the gradient $dy/n$. The
# other two are, with $\sigma(x) = 1/(1+e^{-x})$,
#
# $$ y = \tanh x \;\Rightarrow\; dx = dy\,(1 - y^2), \qquad y = \log(1 + e^x) \;\Rightarrow\; dx = dy\;\sigma(x) $$
#
# The second function is called *softplus*; its derivative follows from the chain rule: $e^x / (1 + e^x) = \sigma(x)$.
# For the first, write $\tanh x = s/c$ with $s = (e^x - e^{-x})/2$ and $c = (e^x + e^{-x})/2$. Their derivatives are
# $s' = c$ and $c' = s$, so the derivative of the quotient is $(c \cdot c - s \cdot s)/c^2 = 1 - \tanh^2 x$.


# %%
def add(a, b):
    return a + b, lambda dy: (unbroadcast(dy, a.shape), unbroadcast(dy, b.shape))


def mul(a, b):
    def backward(dy):
        da, db = mul_backward(dy, a, b)
        return unbroadcast(da, a.shape), unbroadcast(db, b.shape)

    return a * b, backward


def matmul(a, b):
    return a @ b, lambda dy: matmul_backward(dy, a, b)


def tanh(x):
    y = np.tanh(x)
    return y, lambda dy: (dy * (1.0 - y * y),)


def softplus(x):
    sigmoid = 0.5 * (1.0 + np.tanh(0.5 * x))  # 1 / (1 + e^-x), but it cannot overflow
    return np.logaddexp(0.0, x), lambda dy: (dy * sigmoid,)


def mean(x):
    return x.mean(), lambda dy: (np.full(x.shape, dy / x.size),)


x, dy = rng.standard_normal(5), rng.standard_normal(5)
for rule in (tanh, softplus):
    (dx,) = rule(x)[1](dy)
    assert np.allclose(dx, differences(lambda x, rule=rule: (dy * rule(x)[0]).sum(), x))
assert np.allclose(mean(x)[1](2.0)[0], differences(lambda x: 2.0 * x.mean(), x))

# %% [markdown]
# The **tape** is a record of the computation. There are two classes.
#
# * A `Node` belongs to one computed value. It holds the name of the operation, its inputs, and the function `backward`.
# * A `Tensor` is what you calculate with. It holds an array and its node.
#
# A tensor without a node was not computed. It is a **leaf**: an input or a parameter. Leaves are where we want gradients.
#
# The inputs of a node are other nodes, or leaves. A node does *not* hold the tensors that were computed. So the memory of
# a value is freed as soon as you drop its tensor, unless a rule needs the value for its `backward`.


# %%
class Node:
    """How a value was made: the operation, its inputs (nodes or leaves), its backward function."""

    def __init__(self, op, inputs, backward, shape):
        self.op, self.inputs, self.backward, self.shape = op, inputs, backward, shape


class Tensor:
    """An array, and how it was made; without a node it is a leaf."""

    inputs = ()  # a leaf has no inputs
    __array_ufunc__ = None  # makes NumPy call our __rmul__ for `array * tensor`

    def __init__(self, data, node=None, name=""):
        self.data, self.node, self.name, self.grad = np.asarray(data, float), node, name, None

    @property
    def shape(self):
        return self.data.shape

    def __add__(self, other):
        return apply(add, self, other)

    def __mul__(self, other):
        return apply(mul, self, other)

    def __matmul__(self, other):
        return apply(matmul, self, other)

    __radd__, __rmul__ = __add__, __mul__


def apply(rule, *inputs):
    """Compute with a rule and record it: the one place where the tape grows."""
    inputs = [x if isinstance(x, Tensor) else Tensor(x, name="number") for x in inputs]
    y, backward = rule(*(x.data for x in inputs))
    node = Node(rule.__name__, tuple(x.node or x for x in inputs), backward, np.shape(y))
    return Tensor(y, node)


# %%
x = Tensor(rng.standard_normal((8, 2)), name="x")
W, b = Tensor(rng.standard_normal((2, 3)), name="W"), Tensor(np.zeros(3), name="b")
y = apply(tanh, x @ W + b)
assert y.node.op == "tanh"
assert y.node.inputs[0].op == "add"
assert y.node.inputs[0].inputs[1] is b
show(
    viz.graph_plot(y),
    "The tape of a layer: x and W enter matmul; its result and b enter add; that enters tanh.",
)

# %% [markdown]
# This figure is your own tape. (`viz.graph_plot` reads attributes such as `.node` and `.inputs`, so it can draw any
# engine that has them.) Round boxes are leaves. The backward pass follows every arrow in the other direction.
#
# ## 6. Three backward passes that look right
#
# A value may be used several times. Then several paths lead from it to L, and its effects on L add up. This is the sum
# over $i$ of section 2 again, now over every operation $u$ that *uses* the value $v$:
#
# $$ dv = \sum_{u \text{ uses } v} du\; \frac{\partial u}{\partial v} $$
#
# The smallest example is the *diamond*: $b = a + a$ and $c = b + b$. Here $c = 4a$, so the gradient of $a$ is 4. You can
# count it in the graph too: four different paths lead from $c$ up to $a$.

# %%
a = Tensor(1.0, name="a")
b = a + a
c = b + b
assert np.allclose(differences(lambda a: float((a + a) + (a + a)), np.array(1.0)), 4.0)
show(viz.graph_plot(c), "Two arrows lead from a to the first add, and two from there to the second.")

# %% [markdown]
# Now write the backward pass in the obvious way, with recursion: start at the end with `dy`, ask `backward` for the
# gradients of the inputs, and do the same for each input. Three variants come to mind. They differ in what a value
# passes on to its inputs when a gradient arrives:
#
# * **all so far**: the sum of everything that has arrived until now;
# * **the first arrival**: the first gradient, and nothing after that;
# * **each arrival**: every gradient, on its own.


# %%
def naive_backward(node, g, arrived, passes_on):
    """Add g to what has arrived at node, pass something on, and return the number of calls."""
    first = node not in arrived
    arrived[node] = arrived.get(node, 0.0) + g
    calls = 1
    if node.inputs and (first or passes_on != "the first arrival"):
        dy = arrived[node] if passes_on == "all so far" else g
        for x, dx in zip(node.inputs, node.backward(dy), strict=True):
            calls += naive_backward(x, dx, arrived, passes_on)
    return calls


gradient_of_a = {}
for passes_on in ("all so far", "the first arrival", "each arrival"):
    naive_backward(c.node, np.ones(()), arrived := {}, passes_on)
    gradient_of_a[passes_on] = float(arrived[a])
    print(f"{passes_on:<18} gradient of a: {gradient_of_a[passes_on]:.0f}")
assert gradient_of_a == {"all so far": 6.0, "the first arrival": 2.0, "each arrival": 4.0}

# %% [markdown]
# Follow the calls with a pencil; there are only a few.
#
# * **All so far** is wrong. First $b$ gets 1 and passes 1 on. Then it gets a second 1, now has 2, and passes 2 on. So the
#   first 1 is passed on twice.
# * **The first arrival** is wrong. $b$ passes its first 1 on and never passes on its second 1.
# * **Each arrival** is right, but slow. It follows every *path*. A tower of $n$ sums, each added to itself, has $2^n$
#   paths.

# %%
depths, calls = list(range(1, 13)), []
for n in depths:
    top = a
    for _ in range(n):
        top = top + top
    calls.append(naive_backward(top.node, np.ones(()), {}, "each arrival"))
    assert calls[-1] == 2 ** (n + 1) - 1

figure, axes = viz.panels("n, sums on top of each other", "calls of naive_backward")
axes.semilogy(depths, calls, **viz.STYLES[0], markersize=4, label="each arrival on its own")
values = [n + 1 for n in depths]
axes.semilogy(depths, values, **viz.STYLES[1], markersize=4, label="values to visit")
axes.legend(frameon=False)
show(figure, "The calls double with every sum; the number of values grows by one.")

# %% [markdown]
# All three variants have another fault: they are recursive. By default Python allows about a thousand nested calls. A
# network that reads a long text token by token can make a longer chain than that.

# %%
end, small = a, Tensor(0.001, name="small")
for _ in range(100_000):
    end = end + small
try:
    naive_backward(end.node, np.ones(()), {}, "each arrival")
    refused = False
except RecursionError as e:
    refused = True
    print("RecursionError:", e)
assert refused

# %% [markdown]
# ## 7. The right order
#
# In the diamond $b$ passed its gradient on too early, when only half of it had arrived. This rule mends it:
#
# > A value passes its gradient on once, **after all its users have done so**. Its *users* are the values computed from it.
#
# To follow it we list the values in such an order first. (It is called a *topological order*.)
#
# ### Exercise 01.4 ★★★ The order
#
# You are given the last node, the *root*. Return a list of the root and everything that it was made from, nodes and leaves.
# Each stands in the list once, and after every node of the list that uses it.
#
# Every node and every leaf has `.inputs`, a tuple. That of a leaf is empty. A value that is used twice by one operation
# stands in its tuple twice. Nodes and leaves may be keys of a dictionary or members of a set. The chain may be 100,000
# long, so use no recursion.
#
# <details><summary>Hint</summary>
#
# Use two loops. The first counts how often each value is used. It keeps a list of values to look at, starting with the
# root, and looks at the inputs of each value only once, when it meets the value for the first time.
#
# The second loop keeps a list of values that are ready. At the start only the root is ready. Take one out, append it to the
# result, and lower the count of each of its inputs by one. An input whose count reaches 0 is ready.
#
# </details>


# %% tags=["exercise"]
def order(root):
    """Return a list of root and everything it was made from, each once and after all its users."""
    # SOLUTION
    users, stack = {root: 0}, [root]
    while stack:
        for x in stack.pop().inputs:
            if x not in users:  # met for the first time
                users[x] = 0
                stack.append(x)
            users[x] += 1
    done, ready = [], [root]
    while ready:
        node = ready.pop()
        done.append(node)
        for x in node.inputs:
            users[x] -= 1
            if users[x] == 0:
                ready.append(x)
    return done
    # END


# %%
check.ex_01_4(order)

# %%
assert [getattr(node, "op", "leaf") for node in order(c.node)] == ["add", "add", "leaf"]
assert len(list(order(end.node))) == 100_002  # 100,000 sums, small, and a

# %% [markdown]
# ## 8. The backward pass
#
# With this order the backward pass is a loop. It keeps a dictionary with the sum of the gradients that have arrived at each
# value. When the loop comes to a node, all of its gradient has arrived.
#
# One trap is left. A rule may return the same array for two inputs. The rule of minigam's own `add` does: where nothing was
# broadcast, it returns `dy` itself, twice, and copies nothing. So add **out of place**, `old + new`, which makes a new
# array. This is what happens otherwise:

# %%
dy = np.ones(2)
_, backward = ops.add.rule(np, np.zeros(2), np.zeros(2))  # its first argument is the array library
da, db = backward(dy)
assert da is dy
assert db is dy
da += 5.0  # in place, and meant for da alone
print("db is now", db)
assert (db == 6.0).all()

# %% [markdown]
# ### Exercise 01.5 ★★★ Backpropagation
#
# `dy` is the gradient of the root. Carry it back to the leaves, and return a dictionary with the gradient of every
# leaf. (The dictionary may contain nodes too.)
#
# Each node has a function `node.backward(g)`. It takes the gradient of the node and returns a tuple with one gradient
# for each of `node.inputs`. Leaves have no such function; you recognise a leaf by its empty `.inputs`.
#
# <details><summary>Hint</summary>
#
# Begin with `arrived = {root: dy}` and go through `order(root)`. For each node with inputs, call its `backward` with
# what has arrived for it. Each gradient in the result belongs to one input: store it if it is the first to arrive
# there, and add it otherwise.
#
# </details>


# %% tags=["exercise"]
def backpropagate(root, dy):
    """Return {leaf: gradient} for every leaf that root, with gradient dy, was made from."""
    # SOLUTION
    arrived = {root: dy}
    for node in order(root):
        if not node.inputs:
            continue  # a leaf passes nothing on
        g = arrived.pop(node)
        for x, dx in zip(node.inputs, node.backward(g), strict=True):
            arrived[x] = arrived[x] + dx if x in arrived else dx  # out of place
    return arrived
    # END


# %%
check.ex_01_5(backpropagate)

# %% [markdown]
# Now `Tensor` gets its last method. If a leaf already has a gradient, the new one is added to it, so you can call
# `backward` for several losses one after the other.


# %%
def backward(self):
    """Add the gradients of self, one number, to `.grad` of every leaf it was made from."""
    for leaf, g in backpropagate(self.node or self, np.ones(self.shape)).items():
        if isinstance(leaf, Tensor):
            leaf.grad = g if leaf.grad is None else leaf.grad + g


Tensor.backward = backward

c.backward()
assert a.grad == 4.0, f"c = 4a, so the gradient of a is 4, not {a.grad}"

start, a.grad = time.perf_counter(), None
end.backward()  # the chain that was too long for recursion
assert a.grad == 1.0, a.grad
assert small.grad == 100_000.0, small.grad  # it was used that often
print(f"backward through 100,000 operations: {time.perf_counter() - start:.2f} s")

# %% [markdown]
# How long is your engine? Count the lines of the rules, the tape, the order and the backward pass, with docstrings but
# without the first lines of the classes:

# %%
parts = [mul_backward, unbroadcast, matmul_backward, add, mul, matmul, tanh, softplus, mean]
parts += [apply, order, backpropagate, Node.__init__, Tensor.shape.fget]
parts += {method for method in vars(Tensor).values() if inspect.isfunction(method)}  # each once
print("lines:", sum(len(inspect.getsource(part).splitlines()) for part in parts))

# %% [markdown]
# ## 9. The same computation with minigam
#
# minigam's engine, `minigam/engine/tensor.py`, is built like yours. Give both engines the same numbers and the same small
# network:
#
# $$ s = \tanh(x\, W_1 + b_1)\, W_2 + b_2, \qquad L = \frac{1}{B}\sum_{i} \log\!\big(1 + e^{-t_i s_i}\big) $$
#
# Here $x$ is (B, 2), the score $s$ is (B, 1), and the target $t_i$ is 1 or -1. The loss is small if $s_i$ is large and
# has the same sign as $t_i$.


# %%
def make_parameters(hidden=12):
    """Return W1 (2, hidden), b1 (hidden), W2 (hidden, 1), b2 (1) as arrays."""
    rng = np.random.default_rng(11)
    W1, W2 = rng.standard_normal((2, hidden)), rng.standard_normal((hidden, 1)) / hidden**0.5
    return W1, np.zeros(hidden), W2, np.zeros(1)


def scores(x, W1, b1, W2, b2):
    return apply(tanh, x @ W1 + b1) @ W2 + b2


def loss(x, t, *parameters):
    return apply(mean, apply(softplus, scores(x, *parameters) * -t))


x, t = rng.standard_normal((8, 2)), rng.choice([-1.0, 1.0], (8, 1))
names = ("W1", "b1", "W2", "b2")
mine = [Tensor(p, name=name) for p, name in zip(make_parameters(), names, strict=True)]
L = loss(Tensor(x, name="x"), t, *mine)
L.backward()

theirs = [minigam.Tensor(p, requires_grad=True) for p in make_parameters()]
W1, b1, W2, b2 = theirs
s = ops.tanh(minigam.Tensor(x) @ W1 + b1) @ W2 + b2
L_minigam = ops.softplus(s * -t).sum() * (1.0 / len(x))
L_minigam.backward()

assert abs(L.data - L_minigam.item()) < 1e-12
for a, b in zip(mine, theirs, strict=True):
    assert np.abs(a.grad - b.grad).max() < 1e-12, a.name
show(viz.graph_plot(L), "The tape of the network, from x at the top down to the mean of the losses.")

# %% [markdown]
# The losses and gradients are equal up to rounding. minigam's engine has a few things that yours lacks:
#
# * `requires_grad`: your engine computes gradients of `x` and `t` that no one needs. minigam skips them.
# * The array decides which library computes, so the same rules run on a GPU: notebook 03.
# * The engine checks the shape and dtype of every gradient and names the operation whose rule is wrong.
# * `backward(retain_graph=False)` frees each node after use, so memory falls during the backward pass.
# * A rule may have a faster version for one library: notebook 15.
#
# ## 10. It learns
#
# The task: two half moons that no straight line can separate. The model: 49 parameters, and your engine. Each step
# computes the gradients and moves every parameter a little against its gradient.

# %%
rng = np.random.default_rng(7)
angle = rng.uniform(0.0, np.pi, 200)
upper = np.arange(200) < 100
moons = np.stack([np.cos(angle), np.sin(angle)], axis=1)
moons = np.where(upper[:, None], moons, [1.0, 0.5] - moons)  # the lower one, rotated and shifted
moons += 0.1 * rng.standard_normal(moons.shape)  # (B, 2)
target = np.where(upper, 1.0, -1.0)[:, None]  # (B, 1)

parameters = [Tensor(p) for p in make_parameters()]
count = sum(p.data.size for p in parameters)
losses = []
for _ in range(400):
    L = loss(Tensor(moons), target, *parameters)
    L.backward()
    losses.append(float(L.data))
    for p in parameters:
        p.data = p.data - 1.0 * p.grad
        p.grad = None

right = np.sign(scores(Tensor(moons), *parameters).data) == target
print(f"{count} parameters, {right.mean():.1%} right")
print(f"loss {losses[0]:.2f} at the start, {losses[-1]:.3f} at the end")
assert count == 49
assert right.mean() > 0.97
assert losses[-1] < 0.2 * losses[0]

# %%
grid_x, grid_y = np.meshgrid(np.linspace(-1.6, 2.6, 120), np.linspace(-1.2, 1.7, 90))
points = np.stack([grid_x.ravel(), grid_y.ravel()], axis=1)
score = scores(Tensor(points), *parameters).data.reshape(grid_x.shape)
figure, (left, axes) = viz.panels(n=2)
left.plot(losses, "-")
left.set(xlabel="step", ylabel="loss (nats per point)", ylim=(0.0, None))
axes.contourf(grid_x, grid_y, score, levels=[-1e9, 0.0], colors=[viz.COLOURS[0]], alpha=0.15)
axes.contour(grid_x, grid_y, score, levels=[0.0], colors=viz.INK)
axes.plot(*moons[upper].T, "o", markersize=4, fillstyle="none", label="target 1")
axes.plot(*moons[~upper].T, "^", markersize=4, label="target -1")
axes.set(xlabel="first input", ylabel="second input")
axes.legend(frameon=False, fontsize=8, loc="upper right")
show(
    figure,
    "Left: the loss falls fast, then slowly, to near 0. Right: a curved line separates the two half moons.",
)

# %% [markdown]
# ## What you can do now
#
# You can
#
# * write the rule of an operation: its value and its vector-Jacobian product,
# * record a computation on a tape, and carry gradients back along it, each node once and after all its users, and
# * explain why a value that is used twice gets the sum of two gradients, and why broadcasting forward is summing backward.
#
# ## Think about it
#
# No check can answer these. Write down your answer, or discuss it with someone.
#
# 1. Reverse mode keeps every intermediate value. When would you rather compute it again, and what would that cost?
# 2. A program has a branch that depends on a value. What does its gradient say about the branch that was not taken?
#
# ## Read on
#
# In the code:
#
# * `minigam/engine/tensor.py`: `Tensor.backward` and `_order`
# * `minigam/engine/ops.py`: the rules, with an `xp` in front
#
# Elsewhere:
#
# * [Automatic Differentiation in Machine Learning: a Survey](https://arxiv.org/abs/1502.05767)
# * [micrograd, the smallest tape](https://github.com/karpathy/micrograd)
# * [Autograd, a tape around NumPy](https://github.com/HIPS/autograd)
# * [Evaluating Derivatives, the textbook](https://doi.org/10.1137/1.9780898717761)
