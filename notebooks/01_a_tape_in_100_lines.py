# %% [markdown]
# # 01 · A tape in 100 lines
#
# **Goal.** Build automatic differentiation from nothing: operations that know their derivative, a tape that writes
# down what was computed, and a walk that carries gradients back along it. At the end you can say what `.backward()`
# does, line by line, and a network learns with your engine.
#
# **Time.** 90 minutes, 5 exercises. **Needs** 00 (NumPy's broadcasting and `@`), and the derivative of a function of
# one variable. In this notebook L is the loss, a number. Matrices are (M, K) and (K, N).

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
# Take a number $x$ and compute $y = x^2$. Move $x$ by a little $h$. By how much does $y$ move?
# Multiply out: $(x+h)^2 - x^2 = 2xh + h^2$. Per step,
#
# $$ \frac{(x+h)^2 - x^2}{h} = 2x + h \quad\longrightarrow\quad \frac{dy}{dx} = 2x \quad\text{as } h \to 0 $$
#
# The derivative is an exchange rate: move $x$ a little, and $y$ moves $2x$ times as far.

# %%
x = 3.0
for h in (1e-1, 1e-2, 1e-3):
    slope = ((x + h) ** 2 - x**2) / h
    print(f"h = {h:<6} slope {slope:.4f}")
    assert abs(slope - (2 * x + h)) < 1e-9

# %% [markdown]
# A network has millions of parameters and, while it learns, a single output that counts: the loss L. So for every number
# $v$ on the way there is one exchange rate worth having, $\partial L / \partial v$: how far L moves when $v$ alone
# moves. It is the gradient of L with respect to $v$, for short the **gradient** of $v$. Code writes `dv` for it, an array of the shape of `v`. That name is used in the
# whole course: `dx` is $\partial L/\partial x$, `dW` is $\partial L/\partial W$.
#
# Start with addition. If $a$ moves by $h$, then $y = a + b$ moves by $h$ too, and L by $dy$ times that. So
#
# $$ y = a + b \quad\Rightarrow\quad da = dy, \qquad db = dy $$
#
# We need some L to try this on. The sum $L = \sum_i c_i\, y_i$ with fixed numbers $c$ will do: its gradient
# with respect to $y$ is $c$. And we need slopes that no theory has touched: move one entry at a time, both ways.


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
# ### Exercise 01.1 ★☆☆ Backwards through a product
#
# $y = a\,b$, entry by entry. You are given $dy$, and $a$ and $b$ as they were on the way forward. Return $da$ and $db$.
#
# <details><summary>Hint</summary>
#
# If $a$ moves by $h$, then $y = (a + h)\,b$ moves by $h\,b$. How far does L move, when it moves $dy$ times as far as $y$?
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
# Look at what was needed: $dy$, and values from the way forward. Not L, and not what comes after. An operation can be
# taught its derivative once, alone, and then be used anywhere. That is the whole idea of this notebook.
#
# ## 2. A chain of operations
#
# Now $x \to z \to y \to L$. Exchange rates multiply: if $y$ moves 3 times as far as $z$, and $z$ 2 times as far as $x$,
# then $y$ moves 6 times as far as $x$. With arrays, every entry of $y$ may depend on every entry of $x$, and the rates
# of one operation fill a table, the Jacobian $J_{ij} = \partial y_i / \partial x_j$. L feels $x_j$ through every $y_i$:
#
# $$ dx_j = \sum_i dy_i\, J_{ij} \qquad\text{or, with } dy \text{ as a row,}\qquad dx = dy\, J $$
#
# This is a **vector-Jacobian product**. Going back through an operation is one of them.

# %%
x = rng.standard_normal(4)
W = rng.standard_normal((4, 4))
J = W  # of y = W x: the entry y_i moves W_ij times as far as x_j
assert np.allclose(dy @ J, differences(lambda x: dy @ (W @ x), x))

J = np.diag(np.exp(x))  # of y = exp(x): y_i depends on x_i alone, at the rate exp(x_i)
assert np.allclose(dy @ J, differences(lambda x: dy @ np.exp(x), x))
assert np.allclose(dy @ J, dy * np.exp(x))  # the same without the table

# %% [markdown]
# The last line matters. For a million numbers the table of exp has $10^{12}$ entries, and all but a millionth of them
# are 0. Nobody builds it: a rule computes the *product* `dy @ J` straight away, in about the time of the way forward.
#
# Why from the end, with $dy$ first? A chain of operations is a product of Jacobians, and a product of matrices may be
# bracketed as one likes:
#
# $$ dx = \big((dy\, J_3)\, J_2\big)\, J_1 = dy\, \big(J_3\, (J_2\, J_1)\big) $$
#
# The result is the same. The work is not: on the left every product is a row times a matrix, $n^2$ multiplications for
# $n$ numbers; on the right two of the three are matrices times matrices, $n^3$ each.

# %%
n = 60
dy, J1, J2, J3 = rng.standard_normal(n), *rng.standard_normal((3, n, n))
from_the_end = ((dy @ J3) @ J2) @ J1
from_the_start = dy @ (J3 @ (J2 @ J1))
assert np.allclose(from_the_end, from_the_start)

back, forth = 3 * n**2, 2 * n**3 + n**2
print(f"multiplications: {back:,} from the end, {forth:,} from the start")
assert forth > 10 * back

# %% [markdown]
# One loss, many inputs: go from the end. All gradients together then cost about as much as computing L a few times,
# however many there are. This is reverse-mode differentiation, better known as **backpropagation**.
#
# ## 3. Shapes that broadcast
#
# In `x + b` with `x` of shape (3, 4) and `b` of shape (4,), NumPy repeats `b` for each of the three rows. So each $b_j$
# is used three times, and L feels it in three places. The sum over $i$ above has three terms, with rate 1 each:
#
# $$ y_{ij} = x_{ij} + b_j \quad\Rightarrow\quad db_j = \sum_i dy_{ij} $$
#
# What was repeated on the way forward is summed on the way back.

# %%
x, dy, b = rng.standard_normal((3, 4)), rng.standard_normal((3, 4)), rng.standard_normal(4)
db = dy.sum(axis=0)
assert db.shape == b.shape
assert np.allclose(db, differences(lambda b: (dy * (x + b)).sum(), b))

# %% [markdown]
# ### Exercise 01.2 ★★☆ Undo the broadcasting
#
# `g` is the gradient of an array *after* NumPy repeated it, the tuple `shape` is its shape *before*. Return the gradient before. NumPy
# repeats in two ways: it adds axes on the left, so that (4,) becomes (3, 4); and it stretches axes of length 1, so
# that (3, 1) becomes (3, 4). Both can happen at once.
#
# <details><summary>Hint</summary>
#
# First the axes on the left: there are `g.ndim - len(shape)` of them, and `sum` takes a tuple of axes. Then the axes where
# `shape` has a 1: they stay, with length 1, so `keepdims=True`.
#
# </details>


# %% tags=["exercise"]
def unbroadcast(g, shape):
    """Sum g over the axes that broadcasting had repeated; return an array of this shape."""
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
# $y = a\,b$ with $a$ of shape (M, K) and $b$ of shape (K, N). Write the entries out, and the rest is reading. The
# number $a_{ik}$ is met in row $i$ of $y$ only, there in every column $j$, and each time with the rate $b_{kj}$:
#
# $$ y_{ij} = \sum_k a_{ik}\, b_{kj} \quad\Rightarrow\quad
#    da_{ik} = \sum_j dy_{ij}\, b_{kj}, \qquad db_{kj} = \sum_i a_{ik}\, dy_{ij} $$

# %%
a, b = rng.standard_normal((2, 3)), rng.standard_normal((3, 4))
dy = rng.standard_normal((2, 4))
da = np.einsum("ij,kj->ik", dy, b)  # the two sums, letter by letter
db = np.einsum("ik,ij->kj", a, dy)
assert np.allclose(da, differences(lambda a: (dy * (a @ b)).sum(), a))
assert np.allclose(db, differences(lambda b: (dy * (a @ b)).sum(), b))

# %% [markdown]
# ### Exercise 01.3 ★★☆ Backwards through a matrix product
#
# Both sums are matrix products themselves: write them with `@`. Then go one step further. `a` may have axes in front,
# (..., M, K), and so may `b`, (..., K, N). `@` multiplies the last two axes and broadcasts those in front; a batch of
# sentences times one matrix of weights is the case to think of.
#
# <details><summary>Hint</summary>
#
# In $\sum_j dy_{ij}\, b_{kj}$ the letter $j$ is last in both: one of them has to be turned. `.swapaxes(-1, -2)` turns the last
# two axes and leaves those in front alone. (`.T` would reverse them all.) And if NumPy repeated something in front,
# your 01.2 knows the way back.
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
# ## 5. A rule, and the tape
#
# A **rule** takes arrays and returns two things: the value, and a function `backward` that turns `dy` into one gradient
# for each input. What `backward` needs later, Python keeps with the function (a *closure*); nobody has to say what.
#
# Three rules are new. A mean of n numbers hands $dy/n$ to each of them. And with $\sigma(x) = 1/(1+e^{-x})$,
#
# $$ y = \tanh x \;\Rightarrow\; dx = dy\,(1 - y^2), \qquad y = \log(1 + e^x) \;\Rightarrow\; dx = dy\;\sigma(x) $$
#
# (For the first: $\tanh = s/c$ with $s = \sinh x$, $c = \cosh x$, $s' = c$ and $c' = s$, so the derivative is
# $(c \cdot c - s \cdot s)/c^2 = 1 - \tanh^2 x$. For the second: by the chain rule $e^x / (1 + e^x)$.)


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
    sigmoid = 0.5 * (1.0 + np.tanh(0.5 * x))  # 1 / (1 + e^-x), without an overflow
    return np.logaddexp(0.0, x), lambda dy: (dy * sigmoid,)


def mean(x):
    return x.mean(), lambda dy: (np.full(x.shape, dy / x.size),)


x, dy = rng.standard_normal(5), rng.standard_normal(5)
for rule in (tanh, softplus):
    (dx,) = rule(x)[1](dy)
    assert np.allclose(dx, differences(lambda x, rule=rule: (dy * rule(x)[0]).sum(), x))
assert np.allclose(mean(x)[1](2.0)[0], differences(lambda x: 2.0 * x.mean(), x))

# %% [markdown]
# The **tape** is the record of what was done. Each computed value gets a `Node`: which operation made it, from what, and
# the way back. The `Tensor` is what you calculate with: an array, and its node. A tensor without a node was not computed:
# it is a **leaf**, an input or a parameter, and leaves are where gradients are wanted.
#
# Look at what a node does *not* hold: the tensors that were computed. Its inputs are other nodes, or leaves. So a value that no
# rule has kept can go as soon as you drop it.


# %%
class Node:
    """How a value was made: the operation, its inputs (nodes or leaves), the way back."""

    def __init__(self, op, inputs, backward, shape):
        self.op, self.inputs, self.backward, self.shape = op, inputs, backward, shape


class Tensor:
    """An array, and how it was made; without a node it is a leaf."""

    inputs = ()  # a leaf was made from nothing
    __array_ufunc__ = None  # NumPy leaves `array * tensor` to us

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
    """Compute with a rule, and write down how: the one place where the tape grows."""
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
show(viz.graph_plot(y), "The tape of a layer: x and W go into matmul, that and b into add, that into tanh.")

# %% [markdown]
# That is your own tape, drawn. (`viz.graph_plot` asks a tensor for its node, and a node for its inputs. It does not care
# whose they are.) Round boxes are leaves. On the way back, every arrow is passed in the other direction.
#
# ## 6. Three walks that look right
#
# Where several paths lead from a value to L, it has several effects on L, and they add up. This is the sum over $i$ of
# section 2 again, now over everything that *uses* a value $v$:
#
# $$ dv = \sum_{u \text{ uses } v} du\; \frac{\partial u}{\partial v} $$
#
# A number that is used twice makes the smallest example, the diamond: $b = a + a$ and $c = b + b$. Then $c = 4a$, so the
# gradient is 4. You see it in the graph, too: count the paths from $c$ up to $a$.

# %%
a = Tensor(1.0, name="a")
b = a + a
c = b + b
assert np.allclose(differences(lambda a: float((a + a) + (a + a)), np.array(1.0)), 4.0)
show(viz.graph_plot(c), "Two arrows from a to the first add, two from there to the second.")

# %% [markdown]
# Now write the walk the obvious way: start at the end with `dy`, ask the rule for the gradients of the inputs, and
# call yourself for each of them. Three variants come to mind, by what a value passes on when something arrives at it.


# %%
def plain_walk(node, g, arrived, passes_on):
    """Add g to what has arrived at node, pass something on, and count the calls."""
    first = node not in arrived
    arrived[node] = arrived.get(node, 0.0) + g
    calls = 1
    if node.inputs and (first or passes_on != "the first arrival"):
        dy = arrived[node] if passes_on == "all so far" else g
        for x, dx in zip(node.inputs, node.backward(dy), strict=True):
            calls += plain_walk(x, dx, arrived, passes_on)
    return calls


found = {}
for passes_on in ("all so far", "the first arrival", "each arrival"):
    plain_walk(c.node, np.ones(()), arrived := {}, passes_on)
    found[passes_on] = float(arrived[a])
    print(f"{passes_on:<18} gradient of a: {found[passes_on]:.0f}")
assert found == {"all so far": 6.0, "the first arrival": 2.0, "each arrival": 4.0}

# %% [markdown]
# Follow the calls with a pencil, they are few.
#
# * **All so far**: $b$ gets 1 and passes 1 on; then it gets its second 1, has 2, and passes 2 on. The first 1 went up twice.
# * **The first arrival**: $b$ passes its first 1 on, and its second 1 stays lying there.
# * **Each arrival** on its own: right. But every *path* is walked, and with $n$ such steps one above the other there are
#   $2^n$ of them.

# %%
depths, calls = list(range(1, 13)), []
for n in depths:
    top = a
    for _ in range(n):
        top = top + top
    calls.append(plain_walk(top.node, np.ones(()), {}, "each arrival"))
    assert calls[-1] == 2 ** (n + 1) - 1

figure, axes = viz.panels("n, diamonds on top of each other", "calls of the walk")
axes.semilogy(depths, calls, **viz.STYLES[0], markersize=4, label="each arrival on its own")
values = [n + 1 for n in depths]
axes.semilogy(depths, values, **viz.STYLES[1], markersize=4, label="values to visit")
axes.legend(frameon=False)
show(figure, "The calls double with every diamond; the values to visit hardly grow.")

# %% [markdown]
# And all three share a fault: they call themselves, and Python by default lets a function do that only about a thousand times deep. A
# network that reads a long text token by token can make a longer chain than that.

# %%
end, small = a, Tensor(0.001, name="small")
for _ in range(100_000):
    end = end + small
try:
    plain_walk(end.node, np.ones(()), {}, "each arrival")
    refused = False
except RecursionError as e:
    refused = True
    print("RecursionError:", e)
assert refused

# %% [markdown]
# ## 7. The right order
#
# What went wrong in the diamond is that $b$ spoke too early. The rule that mends it:
#
# > A value passes its gradient on once, **after everything that uses it has delivered**.
#
# ### Exercise 01.4 ★★★ The order
#
# Given the last node, list it and all that it was made from, each once, each after everything that uses it. Every node and every
# leaf has `.inputs`, a tuple; that of a leaf is empty, and a value that is used twice can be in it twice. The chain
# may be 100,000 long, so no recursion.
#
# <details><summary>Hint</summary>
#
# Two loops. The first finds out how often each node is used: keep a list of nodes to look at, and look at each node's inputs
# only the first time you meet it. The second keeps a list of nodes that are ready. At the start that is the root. Take one
# out, write it down, and count its inputs' users down by one each; whoever reaches 0 is ready.
#
# </details>


# %% tags=["exercise"]
def order(root):
    """Return a list of root and all it was made from, each once and after all its users."""
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
# ## 8. The walk
#
# With the order in hand the walk is a loop. Gradients that arrive are added up in a dictionary; when a node's turn comes,
# all of its gradient has arrived.
#
# One trap is left. A rule may hand out one array for two inputs. That of minigam's `add` does: where nothing was repeated,
# it returns `dy` itself, twice, and copies nothing. So add **out of place**, `old + new`, which makes a new array. See
# what happens otherwise:

# %%
dy = np.ones(2)
_, backward = ops.add.rule(np, np.zeros(2), np.zeros(2))  # it takes the array library, too
da, db = backward(dy)
assert da is dy
assert db is dy
da += 5.0  # in place, and meant for da alone
print("db is now", db)
assert (db == 6.0).all()

# %% [markdown]
# ### Exercise 01.5 ★★★ The walk back
#
# Carry `dy` from the root back to the leaves. `node.backward(g)` gives a tuple with one gradient for each of `node.inputs`; a
# leaf has no `backward`. Return a dictionary with the gradient of every leaf.
#
# <details><summary>Hint</summary>
#
# Begin with `arrived = {root: dy}` and go through `order(root)`. A node with inputs takes out what has arrived for it, and
# what its `backward` makes of it arrives at its inputs: the first to arrive is stored, later ones are added.
#
# </details>


# %% tags=["exercise"]
def walk(root, dy):
    """Return {leaf: gradient} for every leaf that root, with gradient dy, was made from."""
    # SOLUTION
    arrived = {root: dy}
    for node in order(root):
        if not node.inputs:
            continue  # a leaf: here the way ends
        g = arrived.pop(node)
        for x, dx in zip(node.inputs, node.backward(g), strict=True):
            arrived[x] = arrived[x] + dx if x in arrived else dx  # out of place
    return arrived
    # END


# %%
check.ex_01_5(walk)

# %% [markdown]
# `Tensor` gets its last method. A leaf that already has a gradient keeps it and adds, so that several losses can be walked
# back one after the other.


# %%
def backward(self):
    """Add the gradients of self, one number, to `.grad` of every leaf it was made from."""
    for leaf, g in walk(self.node or self, np.ones(self.shape)).items():
        if isinstance(leaf, Tensor):
            leaf.grad = g if leaf.grad is None else leaf.grad + g


Tensor.backward = backward

c.backward()
assert a.grad == 4.0

start, a.grad = time.perf_counter(), None
end.backward()  # the chain that broke the recursion
assert a.grad == 1.0
assert small.grad == 100_000.0  # it was used that often
print(f"100,000 operations walked back in {time.perf_counter() - start:.2f} s")

# %% [markdown]
# How long is your engine? Rules, tape, order and walk, docstrings and all, but without the heads of the classes:

# %%
parts = [mul_backward, unbroadcast, matmul_backward, add, mul, matmul, tanh, softplus, mean]
parts += [apply, order, walk, Node.__init__, Tensor.shape.fget]
parts += {method for method in vars(Tensor).values() if inspect.isfunction(method)}  # once
print("lines:", sum(len(inspect.getsource(part).splitlines()) for part in parts))

# %% [markdown]
# ## 9. The same computation with minigam
#
# minigam's engine, `minigam/engine/tensor.py`, is built like yours. Give both the same numbers and the same small network:
#
# $$ s = \tanh(x\, W_1 + b_1)\, W_2 + b_2, \qquad L = \frac{1}{B}\sum_{i} \log\!\big(1 + e^{-t_i s_i}\big) $$
#
# Here $x$ is (B, 2), the score $s$ is (B, 1), and the target $t_i$ is 1 or -1. The loss is small where $s_i$ has the
# sign of $t_i$ and is large.


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
    assert np.abs(a.grad - b.grad).max() < 1e-12
show(viz.graph_plot(L), "The tape of the network, from x down to the mean of the losses.")

# %% [markdown]
# The same, up to rounding. What minigam's engine has that yours lacks, each a few lines:
#
# * `requires_grad`: your `x` and `t` got gradients that nobody reads. minigam skips them.
# * The array decides which library computes, so the same rules run on a GPU: notebook 03.
# * Shape and dtype of every gradient are checked in one place, by the engine; a wrong rule is named at once.
# * `backward(retain_graph=False)` lets go of each node as it passes, so that memory falls during the walk.
# * A rule may have a faster twin for one library: notebook 15.
#
# ## 10. It learns
#
# Two half moons that no straight line can part, 49 parameters, and your engine. Each step walks back and moves every parameter
# a little against its gradient.

# %%
rng = np.random.default_rng(7)
angle = rng.uniform(0.0, np.pi, 200)
upper = np.arange(200) < 100
moons = np.stack([np.cos(angle), np.sin(angle)], axis=1)
moons = np.where(upper[:, None], moons, [1.0, 0.5] - moons)  # the lower one: turned and moved
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
    "Left: the loss falls fast, then slowly, to near 0. Right: a curved line between the two "
    "half moons parts them.",
)

# %% [markdown]
# ## What you have now
#
# * A rule is a value and its vector-Jacobian product; it knows nothing of L, and nothing of what comes after it.
# * The tape is nodes that point at their inputs. The walk visits each once, after all its users, and adds out of place.
# * Repeating forward is summing backward: for broadcasting, and for every value that is used more than once.
# * How sure are we of a derivative? Notebook 02 makes `differences` into a check that can fail.
#
# **Read on in the code:** `minigam/engine/tensor.py`, `Tensor.backward` and `_order`; then `minigam/engine/ops.py`, whose rules are yours with an
# `xp` in front.
