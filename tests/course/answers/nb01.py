"""Wrong answers to the exercises of notebook 01."""

import numpy as np

from answers import wrong, wrong_value


@wrong("01_1", says="are exchanged")
def exchanged(dy, a, b):
    return dy * a, dy * b


@wrong("01_1", says="dy is missing")
def local_rates_only(dy, a, b):
    return b, a


@wrong("01_1", says="da is dy alone")
def like_a_sum(dy, a, b):
    return dy, dy


@wrong("01_1", says="one gradient, wanted 2")
def one_gradient(dy, a, b):
    return dy * b


def right_unbroadcast(g, shape):
    g = g.sum(axis=tuple(range(g.ndim - len(shape))))
    return g.sum(axis=tuple(i for i, n in enumerate(shape) if n == 1), keepdims=True)


@wrong("01_2", says="still stretched")
def left_axes_only(g, shape):
    return g.sum(axis=tuple(range(g.ndim - len(shape))))


@wrong("01_2", says="it stays, with length 1")
def loses_axes(g, shape):
    g = g.sum(axis=tuple(range(g.ndim - len(shape))))
    return g.sum(axis=tuple(i for i, n in enumerate(shape) if n == 1))


@wrong("01_2", says="wanted the sum")
def averages(g, shape):
    total = right_unbroadcast(g, shape)
    return total * (total.size / g.size)


@wrong("01_2", says="one copy is kept")
def takes_the_first(g, shape):
    g = g[(0,) * (g.ndim - len(shape))]
    return g[tuple(slice(0, 1) if n == 1 else slice(None) for n in shape)]


@wrong("01_2", says="still there")
def does_nothing(g, shape):
    return g


def transposed(z):
    return z.swapaxes(-1, -2)


@wrong("01_3", says="transpose b")
def nothing_turned(dy, a, b):
    return dy @ b, a @ dy


@wrong("01_3", says="still there; sum over them")
def batch_kept(dy, a, b):
    return dy @ transposed(b), transposed(a) @ dy


@wrong("01_3", says="wrong order: da = dy times b transposed")
def products_exchanged(dy, a, b):
    return transposed(b) @ dy, dy @ transposed(a)


@wrong("01_3", says="sides of @ do not fit")
def all_axes_reversed(dy, a, b):
    return dy @ b.T, a.T @ dy


# ------------------------------------------------------------------------------------- the order


def postorder(root):
    """Inputs first, by recursion."""
    seen, done = set(), []

    def visit(node):
        if node not in seen:
            seen.add(node)
            for x in node.inputs:
                visit(x)
            done.append(node)

    visit(root)
    return done


@wrong("01_4", says="the leaves come first")
def leaves_first(root):
    return postorder(root)


@wrong("01_4", says="a loop, and a list of the values still to do")
def recursive_order(root):
    return postorder(root)[::-1]


@wrong("01_4", says="which uses it; wanted after all its users")
def first_meeting(root):
    done, waiting = [], [root]
    while waiting:
        node = waiting.pop(0)
        if node not in done:
            done.append(node)
            waiting += node.inputs
    return done


@wrong("01_4", says="b is listed 2 times, wanted once")
def every_meeting(root):
    done, waiting = [], [root]
    while waiting:
        node = waiting.pop(0)
        done.append(node)
        waiting += node.inputs
    return done


@wrong("01_4", says="a set, which has no order")
def unordered(root):
    return set(right_order(root))


@wrong("01_4", says="a is missing")
def nodes_only(root):
    return [node for node in right_order(root) if node.inputs]


@wrong("01_4", says="your code follows every path")
def counts_along_every_path(root):
    users, waiting = {}, [root]
    while waiting:
        node = waiting.pop()
        for x in node.inputs:
            users[x] = users.get(x, 0) + 1
            waiting.append(x)
    return right_order(root)


@wrong("01_4", says="use a set or a dictionary")
def searches_a_list(root):
    """Right, but it takes a time in proportion to the square of the length."""
    users, met = {root: 0}, [root]
    for node in met:
        for x in node.inputs:
            users[x] = users.get(x, 0) + 1
            if x not in met:
                met.append(x)
    return right_order(root)


def right_order(root):
    users, stack = {root: 0}, [root]
    while stack:
        for x in stack.pop().inputs:
            if x not in users:
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


# --------------------------------------------------------------------------- the backward pass


def backpropagate(root, dy, order=right_order, add=lambda old, new: old + new):
    arrived = {root: dy}
    for node in order(root):
        if node.inputs:
            g = arrived.pop(node)
            for x, dx in zip(node.inputs, node.backward(g), strict=True):
                arrived[x] = add(arrived[x], dx) if x in arrived else dx
    return arrived


@wrong("01_5", says="add them up")
def keeps_the_last(root, dy):
    return backpropagate(root, dy, add=lambda old, new: new)


@wrong("01_5", says="changed in place")
def in_place(root, dy):
    dy = dy.copy() if isinstance(dy, np.ndarray) else dy

    def add(old, new):
        old += new
        return old

    return backpropagate(root, dy, add=add)


@wrong("01_5", says="the gradient of the root is 1 here")
def starts_with_one(root, dy):
    return backpropagate(root, np.ones_like(dy))


@wrong("01_5", says="every time a gradient arrived")
def impatient(root, dy):
    arrived = {}

    def visit(node, g):
        arrived[node] = arrived.get(node, 0.0) + g
        if node.inputs:
            for x, dx in zip(node.inputs, node.backward(arrived[node]), strict=True):
                visit(x, dx)

    visit(root, dy)
    return arrived


@wrong("01_5", says="before all of its gradient had arrived")
def passes_on_once_too_early(root, dy):
    arrived, waiting = {root: dy}, [root]
    passed = set()
    while waiting:
        node = waiting.pop(0)
        if node.inputs and node not in passed:
            passed.add(node)
            for x, dx in zip(node.inputs, node.backward(arrived[node]), strict=True):
                arrived[x] = arrived[x] + dx if x in arrived else dx
                waiting.append(x)
    return arrived


@wrong("01_5", says="b passed its gradient on 2 times; wanted once")
def along_every_path(root, dy):
    arrived, waiting = {}, [(root, dy)]
    while waiting:
        node, g = waiting.pop()
        arrived[node] = arrived[node] + g if node in arrived else g
        if node.inputs:
            waiting += zip(node.inputs, node.backward(g), strict=True)
    return arrived


@wrong("01_5", says="a leaf has no backward")
def asks_leaves(root, dy):
    arrived = {root: dy}
    for node in right_order(root):
        for x, dx in zip(node.inputs, node.backward(arrived[node]), strict=True):
            arrived[x] = arrived[x] + dx if x in arrived else dx
    return arrived


@wrong("01_5", says="backward was called on the leaf")
def knows_leaves_by_a_missing_backward(root, dy):
    """Fails later in the notebook, where Tensor, the leaves' class, gets a method `backward`."""
    arrived = {root: dy}
    for node in right_order(root):
        if hasattr(node, "backward"):
            for x, dx in zip(node.inputs, node.backward(arrived[node]), strict=True):
                arrived[x] = arrived[x] + dx if x in arrived else dx
    return arrived


@wrong("01_5", says="wanted the leaves themselves")
def by_name(root, dy):
    return {node.name: g for node, g in backpropagate(root, dy).items()}


wrong_value("01_4", "still to be written", None)
