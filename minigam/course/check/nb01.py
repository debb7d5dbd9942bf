"""Checks of notebook 01: rules, the order of the backward pass, and the backward pass."""

import numpy as np

from minigam.course.judge import NotYet, exercise, expect, gradients, numbers, require

LONG = 10_000  # values in a chain, far beyond what recursion can do
LEAF = "a leaf has no backward: pass gradients on only from values with inputs"
STRETCHED = "an axis that was stretched from length 1 is still stretched"
PATIENCE = 200  # looks at the inputs of a value before an answer counts as following every path
COMPARED = 5_000  # comparisons of one value with others before an answer counts as searching through lists


@exercise
def ex_01_1(mul_backward):
    """The gradients of a * b."""
    rng = np.random.default_rng(11)
    for shape in ((4,), (2, 3), ()):
        dy, a, b = (np.asarray(rng.standard_normal(shape)) for _ in range(3))
        exchanged = "da and db are exchanged: if a changes, y changes b times as much"
        no_dy = "dy is missing: L changes dy times as much as y"
        mistakes = {
            "a": {
                exchanged: dy * a,
                no_dy: b,
                no_dy + "; and da and db are exchanged": a,
                "da is dy alone": dy,
            },
            "b": {
                exchanged: dy * b,
                no_dy: a,
                "db is dy alone, as for a sum; for a product it depends on a": dy,
            },
        }
        gradients(
            mul_backward(dy, a, b), np.multiply, (a, b), dy, "a b", f"arrays of shape {shape}", mistakes
        )
    return "both gradients against finite differences, three shapes"


@exercise
def ex_01_2(unbroadcast):
    """The sum over what broadcasting repeated."""
    rng = np.random.default_rng(12)
    pairs = (
        ((3, 4), (4,)), ((3, 4), (3, 1)), ((2, 3, 4), (3, 1)), ((3, 3), (3,)), ((3, 4), (3, 4)),
        ((2, 3, 4), (1, 4)), ((3, 4), ()), ((1, 4), (4,)), ((3, 1), (3, 1)), ((2, 3, 4), (2, 1, 4)), ((), ()),
    )  # fmt: skip
    for full, shape in pairs:
        g = np.asarray(rng.standard_normal(full))
        extra = len(full) - len(shape)
        stretched = tuple(i for i, n in enumerate(shape) if n == 1)
        without_left = g.sum(axis=tuple(range(extra)))
        want = without_left.sum(axis=stretched, keepdims=True)
        mistakes = {
            ("the axes that NumPy added on the left are still there" if extra else STRETCHED): g,
            STRETCHED + ".": without_left,
            "an axis of length 1 is gone; it stays, with length 1 (keepdims=True)": without_left.sum(
                axis=stretched
            ),
            "this is a mean; wanted the sum, because the contributions of all uses add up": want
            * (want.size / g.size),
            "summed over all axes; sum only over those that were repeated": g.sum(),
            "one copy is kept and the others are dropped; sum over all copies": _first(g, shape),
        }
        if len(shape) == 1 and full == (3, 3):
            mistakes["summed over the last axis; NumPy adds axes on the left"] = g.sum(axis=-1)
        expect(unbroadcast(g, shape), want, f"g {full}, back to shape {shape}", mistakes)
    return "axes on the left, stretched axes, both, neither, a single number"


def _first(g, shape):
    g = g[(0,) * (g.ndim - len(shape))]
    return g[tuple(slice(0, 1) if n == 1 else slice(None) for n in shape)]


def _transposed(z):
    return z.swapaxes(-1, -2)


@exercise
def ex_01_3(matmul_backward):
    """The gradients of a @ b."""
    rng = np.random.default_rng(13)
    for left, right in (
        ((3, 3), (3, 3)), ((2, 3), (3, 4)), ((1, 3), (3, 1)), ((2, 4, 3), (2, 3, 5)),
        ((2, 4, 3), (3, 5)), ((4, 3), (2, 3, 5)), ((2, 1, 4, 3), (5, 3, 2)),
    ):  # fmt: skip
        a, b = rng.standard_normal(left), rng.standard_normal(right)
        dy = rng.standard_normal((a @ b).shape)
        da, db = dy @ _transposed(b), _transposed(a) @ dy
        repeated = "the axes in front that `@` repeated are still there; sum over them: wanted shape {}"
        square = left == right
        mistakes = {
            "a": {
                repeated.format(left): da,
                "transpose b: in the sum over j, j is the last index of both dy and b": dy @ b
                if square
                else da,
                "the factors are in the wrong order: da = dy times b transposed": _transposed(b) @ dy
                if square
                else da,
                "a and b are exchanged: da depends on dy and b": _transposed(a) @ dy if square else da,
            },
            "b": {
                repeated.format(right): db,
                "transpose a: in the sum over i, i is the first index of both a and dy": a @ dy
                if square
                else db,
                "the factors are in the wrong order: db = a transposed times dy": dy @ _transposed(a)
                if square
                else db,
            },
        }
        gradients(matmul_backward(dy, a, b), np.matmul, (a, b), dy, "a b", f"a {left}, b {right}", mistakes)
    return "both gradients against finite differences, axes in front of either, and repeated ones"


# ---------------------------------------------------------------------------- graphs to traverse


class _Value:
    """A node or a leaf as in the notebook, which counts how often its inputs are read and it is compared."""

    def __init__(self, name: str, *inputs: "_Value", rule=None):
        self.name, self._inputs, self._rule, self.looks, self.compared = name, inputs, rule, 0, 0
        self.passed: list = []
        if inputs:
            self.op = name

    __hash__ = object.__hash__

    def __eq__(self, other: object) -> bool:
        self.compared += 1
        if self.compared > COMPARED:
            raise NotYet(
                f"{self.name} was compared with more than {COMPARED:,} others. `in` searches a list from its "
                "start, too slow for a long chain; use a set or a dictionary"
            )
        return self is other

    @property
    def inputs(self):
        self.looks += 1
        if self.looks > PATIENCE:
            raise NotYet(
                f"the inputs of {self.name} were read more than {PATIENCE} times: your code follows every "
                "path, or goes through all values again and again. "
                "Read the inputs of a value only the first time you meet it"
            )
        return self._inputs

    def backward(self, g):
        if not self._inputs:
            raise NotYet(f"backward was called on the leaf {self.name}; {LEAF}")
        self.passed.append(np.array(g))
        return self._rule(g)

    def __repr__(self) -> str:
        return self.name


def _sum(name: str, *inputs: _Value) -> _Value:
    return _Value(name, *inputs, rule=lambda g: tuple(g for _ in inputs))


def _scaled(name: str, factor: float, x: _Value) -> _Value:
    return _Value(name, x, rule=lambda g: (factor * g,))


def _diamond() -> _Value:
    a = _Value("a")
    b = _sum("b", a, a)
    return _sum("c", b, b)


def _paths() -> _Value:
    """A short and a long path from one value, and a user of it that the root was not made from."""
    a, w = _Value("a"), _Value("w")
    b = _scaled("b", 2.0, a)
    _sum("unused", a, b)
    long = _scaled("long 2", 5.0, _scaled("long 1", 3.0, b))
    return _sum("root", b, long, w, a)


def _paths_reversed() -> _Value:
    """The same with the inputs in the other order, for an answer that takes them from the other end."""
    a, w = _Value("a"), _Value("w")
    b = _scaled("b", 2.0, a)
    long = _scaled("long 2", 5.0, _scaled("long 1", 3.0, b))
    return _sum("root", a, w, long, b)


def _tower(depth: int) -> _Value:
    x = _Value("a")
    for i in range(depth):
        x = _sum(f"sum {i + 1}", x, x)
    return x


def _chain(length: int) -> _Value:
    x = _Value("a")
    for i in range(length):
        x = _sum(f"sum {i + 1}", x)
    return x


GRAPHS = {
    "the diamond b = a + a, c = b + b": _diamond,
    "a short and a long path": _paths,
    "a long and a short path": _paths_reversed,
    "a leaf alone": lambda: _Value("a"),
    "30 diamonds on top of each other": lambda: _tower(30),
    f"a chain of {LONG:,}": lambda: _chain(LONG),
}


def _reached(root: _Value) -> list[_Value]:
    reached, stack = {root}, [root]
    while stack:
        new = [x for x in dict.fromkeys(stack.pop()._inputs) if x not in reached]
        reached.update(new)
        stack += new
    return list(reached)


def _asked(answer, where: str, *given):
    """Return what the answer returns; a RecursionError becomes advice."""
    try:
        return answer(*given)
    except NotYet as e:
        if "RecursionError" in str(e):
            raise NotYet(
                f"{where}: too long for recursion; use a loop, and a list of the values still to do"
            ) from None
        raise NotYet(f"{where}: {e}") from None


@exercise
def ex_01_4(order):
    """Each value once, after all its users."""
    for where, make in GRAPHS.items():
        root = make()
        got = _asked(_listed(order), where, root)
        _in_order(got, root, where)
    return "the diamond, paths of two lengths, a value that root does not need, 30 diamonds, a long chain"


def _listed(order):
    """Return an order whose result is a list; a generator runs here, where its errors are caught."""

    def call(root):
        got = order(root)
        if isinstance(got, set | frozenset):
            raise NotYet("got a set, which has no order; wanted a list")
        try:
            return list(got)
        except NotYet:
            raise
        except Exception as e:
            what = type(e).__name__
            raise NotYet(
                f"got {type(got).__name__}, wanted a list of nodes ({what}: {str(e)[:80]})"
            ) from None

    return call


def _in_order(got: list, root: _Value, where: str) -> None:
    for v in got:
        require(
            isinstance(v, _Value), f"{where}: {str(v)[:40]!r} is in the list, wanted nodes and leaves only"
        )
    reached = _reached(root)
    known = set(reached)
    place = {v: i for i, v in enumerate(got)}
    names = f" (yours: {', '.join(v.name for v in got)})" if len(got) < 9 else ""
    for v in got:
        require(v in known, f"{where}: {v} is listed, but the root was not made from it")
    if len(place) < len(got):
        twice = next(v for i, v in enumerate(got) if place[v] != i)
        times = sum(v is twice for v in got)
        raise NotYet(f"{where}: {twice} is listed {times} times, wanted once{names}")
    for v in reached:
        require(v in place, f"{where}: {v} is missing{names}")
    for user in reached:
        for v in user._inputs:
            if place[v] < place[user]:
                if got[-1] is root and len(got) > 1:
                    raise NotYet(f"{where}: the leaves come first; wanted the root first{names}")
                raise NotYet(
                    f"{where}: {v} comes before {user}, which uses it; wanted after all its users{names}"
                )


@exercise
def ex_01_5(backpropagate):
    """The gradient of every leaf."""
    dy = np.array([1.0, 10.0])
    for where, make, mistakes in _probes(dy):
        root = make()
        got = _asked(backpropagate, where, root, dy)
        _judge(got, root, dy, where, mistakes)
    return "the diamond, paths of two lengths, one array for two inputs, 30 diamonds, a long chain"


def _probes(dy):
    """Yield a name, a graph, and {message: the gradient of every leaf that a mistake gives}."""
    started = "the gradient of the root is 1 here; wanted dy"
    last = "a value that is used several times keeps only one of its gradients; add them up"
    yield (
        "the diamond b = a + a, c = b + b", _diamond,
        {
            "b passed its sum on every time a gradient arrived; wanted once, when all have arrived": 6 * dy,
            "b passed its gradient on before all of it had arrived; use the order of 01.4": 2 * dy,
            last: dy,
            started: np.full(2, 4.0),
            started + " (a number here)": 4.0,
        },
    )  # fmt: skip
    yield "a leaf alone", GRAPHS["a leaf alone"], {started: np.ones(2), started + ".": 1.0}
    in_place = "one array belongs to two inputs and was changed in place (+=); write old + new"
    yield "one array for two inputs", _shared_array, {
        in_place: 12 * dy, in_place + ".": 16 * dy, last: 4 * dy, last + ".": 2 * dy,
    }  # fmt: skip
    for where in list(GRAPHS)[1:]:
        yield where, GRAPHS[where], {}


def _shared_array() -> _Value:
    p, q = _Value("p"), _Value("q")

    def rule(g):
        g = 2.0 * g
        return g, g

    y, z = _Value("y", p, q, rule=rule), _Value("z", p, q, rule=rule)
    return _Value("root", y, z, rule=rule)


def _judge(got, root: _Value, dy, where: str, mistakes: dict) -> None:
    require(
        isinstance(got, dict), f"{where}: got {type(got).__name__}, wanted a dictionary {{leaf: gradient}}"
    )
    totals = _totals(root, dy)
    leaves = [v for v in totals if not v._inputs]
    for leaf in leaves:
        require(
            leaf.name not in got,
            f"{where}: the keys of the dictionary are names; wanted the leaves themselves",
        )
        require(leaf in got, f"{where}: the dictionary has no gradient for the leaf {leaf}")
        arrived = numbers(got[leaf], where)
        for message, value in mistakes.items():
            if arrived.shape == np.shape(value) and np.allclose(arrived, value):
                raise NotYet(f"{where}: {message}")
    for v, total in totals.items():
        if not v._inputs:
            continue
        require(bool(v.passed), f"{where}: {v} never passed its gradient on to its inputs")
        once = f"{where}: {v} passed its gradient on {len(v.passed)} times; wanted once, after all its users"
        require(len(v.passed) == 1, once)
        if not np.allclose(v.passed[0], total):
            had, wanted = (np.array2string(np.asarray(z), precision=4) for z in (v.passed[0], total))
            raise NotYet(
                f"{where}: {v} passed {had} on before all of its gradient had arrived, {wanted}; "
                "use the order of 01.4, and add up what arrives"
            )
    for leaf in leaves:
        expect(got[leaf], totals[leaf], f"{where}, gradient of {leaf}")


def _totals(root: _Value, dy) -> dict[_Value, np.ndarray]:
    """Return the gradient of every value, root first."""
    total, done = {root: dy}, {}
    users = dict.fromkeys(_reached(root), 0)
    for v in users:
        for x in v._inputs:
            users[x] += 1
    ready = [root]
    while ready:
        v = ready.pop()
        done[v] = total[v]
        for x, dx in zip(v._inputs, v._rule(total[v]) if v._inputs else (), strict=True):
            total[x] = total[x] + dx if x in total else dx
            users[x] -= 1
            if not users[x]:
                ready.append(x)
    return done
