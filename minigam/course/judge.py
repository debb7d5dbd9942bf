"""Judge an answer: is it right, and if not, what is wrong? The checks of the exercises are built on this."""

import functools
import inspect
import re
import sys
import traceback
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np

from minigam.engine.backend import to_numpy
from minigam.engine.tensor import Tensor
from minigam.gradcheck import differences

EPS = 1e-5  # step of the central differences
TOLERANCE = {"f4": 2e-4, "f8": 1e-8}  # of the largest entry; other algorithms round differently


class NotYet(AssertionError):
    """An answer that is not right yet. A notebook shows only its message, without a traceback."""

    def _render_traceback_(self) -> list[str]:
        return str(self).splitlines()


def exercise(check: Callable) -> Callable:
    """Make the check of one exercise from a function ex_NN_K that raises NotYet for a wrong answer.

    Answers are functions. They arrive guarded: their positional arguments are copied, and their errors
    become NotYet. The check returns a text that says what was checked; it is printed.
    """
    number = check.__name__.removeprefix("ex_").replace("_", ".")

    @functools.wraps(check)
    def run_check(*answers: Any) -> None:
        wanted = len(inspect.signature(check).parameters)
        if len(answers) != wanted:
            raise NotYet(f"Exercise {number}: {len(answers)} answers, wanted {wanted}")
        try:
            checked = check(*map(_guarded, answers))
        except NotYet as e:
            raise NotYet(f"Exercise {number}: {e}") from None
        print(f"Exercise {number}: right ({checked}).")

    return run_check


def _guarded(answer):
    """Return a function that calls `answer` on copies, and turns its errors into NotYet."""
    if answer is None or answer is Ellipsis:
        raise NotYet("still to be written: put your answer where the cell says so, and run it again")
    if not callable(answer):
        raise NotYet(f"got {type(answer).__name__}, wanted the function itself, not its result")
    name = getattr(answer, "__name__", "your function")

    @functools.wraps(answer)
    def call(*args, **settings):
        copies = _copy(args)
        try:
            returned = answer(*copies, **settings)
        except NotYet:
            raise
        except NotImplementedError as e:
            stub = traceback.extract_tb(e.__traceback__)[-1].name  # this answer, or one that it calls
            raise NotYet(f"{stub} is still to be written: replace the line that raises") from e
        except Exception as e:  # anything that a learner's code may raise
            raise NotYet(f"{name}{_shapes(args)} raised {type(e).__name__}: {_plain(e)}{_line(e)}") from e
        if not _same(args, copies):
            raise NotYet(f"{name} changed its input in place; return a new array, or change a .copy()")
        if returned is None:
            raise NotYet(f"{name}{_shapes(args)} returned None; is a return missing?")
        return returned

    return call


def _copy(a):
    """Copy arrays, including those inside tuples, lists and dictionaries."""
    if isinstance(a, np.ndarray):
        return a.copy()
    if type(a) in (tuple, list):
        return type(a)(map(_copy, a))
    return {k: _copy(v) for k, v in a.items()} if type(a) is dict else a


def _same(before: Any, after: Any) -> bool:
    """Return whether the arrays in an argument and in its copy are still equal."""
    if isinstance(before, np.ndarray):
        return np.array_equal(before, after, equal_nan=before.dtype.kind == "f")
    if type(before) in (tuple, list):
        return len(before) == len(after) and all(map(_same, before, after))
    if type(before) is dict:
        return before.keys() == after.keys() and all(_same(v, after[k]) for k, v in before.items())
    return True


def _shapes(args: tuple) -> str:
    return f"({', '.join(map(_shown, args))})"


def _shown(a: object) -> str:
    """Return a short text for an argument: the shape of an array, the name of a function or a library."""
    if isinstance(a, np.ndarray | Tensor):
        return str(a.shape)
    if callable(a) or isinstance(a, ModuleType):
        return getattr(a, "__name__", repr(a)[:40])
    return f"{{{', '.join(map(str, a))}}}" if isinstance(a, dict) else repr(a)[:40]


def _plain(e: Exception) -> str:
    """Return the text of an error; for `@` with shapes that do not fit, a clearer one than NumPy's."""
    sizes = re.search(r"matmul: .*mismatch in its core dimension.*size (\d+) is different from (\d+)", str(e))
    if sizes is None:
        return " ".join(str(e).split())
    right, left = sizes.groups()
    return f"the sides of @ do not fit: rows of {left} numbers on the left, columns of {right} on the right"


def _line(e: Exception) -> str:
    """Return the line of the learner's cell that raised the error."""
    lines = [f.line for f in traceback.extract_tb(e.__traceback__) if "ipykernel" in f.filename and f.line]
    return f", in the line: {lines[-1].strip()}" if lines else ""


def lines_run(f: Callable, *args: Any) -> int:
    """Return how many lines of Python a call runs. A loop over the tokens runs more for more of them."""
    count = 0

    def trace(frame: Any, event: str, arg: Any) -> Any:
        nonlocal count
        count += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        f(*args)
    finally:
        sys.settrace(before)
    return count


def require_whole_arrays(f: Callable, inputs: Callable[[int, int, int], tuple]) -> None:
    """Raise NotYet if a function loops over rows, tokens or channels.

    inputs : returns its arguments for B rows of T tokens with C channels
    """
    few = lines_run(f, *inputs(2, 8, 2))
    for what, sizes, more in (
        ("tokens", (2, 64, 2), 56), ("rows of the batch", (16, 8, 2), 14), ("channels", (2, 8, 16), 14),
    ):  # fmt: skip
        many = lines_run(f, *inputs(*sizes))
        require(
            many - few < more,
            f"the values are right, but with {more} more {what} it runs {many - few} more lines of Python: a "
            f"loop over the {what}; write it for whole arrays, with a loop over the taps at most",
        )


def require(condition: bool, message: str) -> None:
    """Raise NotYet with the message unless the condition holds."""
    if not condition:
        raise NotYet(message)


def expect(got: Any, want: Any, where: str, mistakes: dict | None = None, rtol: float | None = None) -> None:
    """Raise NotYet unless `got` equals `want`; both are numbers or arrays (or Tensors).

    Right values in a narrower dtype, in a list or in a Tensor are refused too: cells after the check rely on
    the type.

    where    : what is compared, for the message: "u of shape (2, 5, 4)"
    mistakes : {message: the value that a plausible mistake gives}, tried in order
    rtol     : error allowed in float64, relative to the largest entry; the default is TOLERANCE
    """
    made, got, want = type(got), numbers(got, where), np.asarray(want)
    if _close(got, want, rtol):
        if want.dtype == np.float64 and got.dtype.kind == "f" and got.dtype != np.float64:
            raise NotYet(f"{where}: right, but in {got.dtype}; the inputs are float64, keep their dtype")
        if made in (list, Tensor) and want.ndim:
            raise NotYet(f"{where}: right, but a {made.__name__}; return an array")
        return
    for message, value in (mistakes or {}).items():
        value = np.asarray(value)
        if _close(got, value, rtol) and not _close(value, want, rtol):
            raise NotYet(f"{where}: {message}")
    if got.shape != want.shape:
        raise NotYet(f"{where}: shape {got.shape}, wanted {want.shape}")
    if got.dtype == want.dtype == np.float64 and _close(got, want, TOLERANCE["f4"]) and rtol is None:
        raise NotYet(f"{where}: right to a few digits only; compute in float64 throughout, without rounding")
    if got.size > 1 and got.dtype.kind == "f" and not np.isfinite(got).all() and np.isfinite(want).all():
        raise NotYet(f"{where}: {int((~np.isfinite(got)).sum())} of {got.size} entries are nan or infinite")
    with np.errstate(invalid="ignore"):
        error = np.where(got == want, 0.0, np.abs(got.astype(float) - want.astype(float)))
    worst = tuple(map(int, np.unravel_index(error.argmax(), error.shape)))
    entry = f" entry {worst} is" if worst else ""
    raise NotYet(f"{where}:{entry} {got[worst]:.9g}, wanted {want[worst]:.9g}")


def pair(got: Any, where: str, names: str) -> Any:
    """Return the two parts of an answer. Raises NotYet if it is no pair."""
    if not isinstance(got, tuple | list):
        raise NotYet(f"{where}: got {type(got).__name__}, wanted a pair ({names})")
    if len(got) != 2:
        raise NotYet(f"{where}: got {len(got)} values, wanted a pair ({names})")
    return got


def numbers(got: Any, where: str) -> np.ndarray:
    """Return the result of an answer as an array on the host. Raises NotYet if it is not numbers."""
    if got is None or got is Ellipsis:
        raise NotYet(f"{where}: still to be written")
    try:
        array = np.asarray(to_numpy(got.data if isinstance(got, Tensor) else got))
    except (TypeError, ValueError) as e:
        raise NotYet(f"{where}: got {type(got).__name__}, wanted numbers") from e
    if array.dtype.kind == "c":
        raise NotYet(f"{where}: got complex numbers, wanted real ones")
    if array.dtype.kind not in "biuf":
        raise NotYet(f"{where}: got {type(got).__name__}, wanted numbers")
    return array


def _close(got: np.ndarray, want: np.ndarray, rtol: float | None) -> bool:
    if got.shape != want.shape:
        return False
    if want.dtype.kind in "biu":
        return bool(np.array_equal(got, want))
    single = got.dtype.kind == "f" and got.dtype.itemsize < 8
    allowed = max(rtol or 0.0, TOLERANCE["f4"]) if single else rtol or TOLERANCE["f8"]
    finite = want[np.isfinite(want)]
    scale = float(np.abs(finite).max(initial=0.0))
    return bool(np.allclose(got, want, rtol=0.0, atol=allowed * scale + 1e-9, equal_nan=True))


def gradients(
    got: Any, f: Callable, arrays: tuple, dy: np.ndarray | float, names: str, where: str,
    mistakes: dict | None = None,
) -> None:  # fmt: skip
    """Raise NotYet unless `got` are the gradients of <dy, f(*arrays)>, by finite differences of f.

    got      : the gradients that the answer gave, one per array
    f        : the correct function of the arrays, in float64
    names    : the names of the arrays in one string: "u weight bias"
    mistakes : {name: {message: the gradient that a plausible mistake gives}}
    """
    wanted = names.split()
    got = (got,) if len(wanted) == 1 and not isinstance(got, tuple) else got
    if not isinstance(got, tuple | list) or len(got) != len(wanted):
        count = len(got) if isinstance(got, tuple | list) else 1
        received = "one gradient" if count == 1 else f"{count} gradients"
        raise NotYet(f"{where}: {received}, wanted {len(wanted)}: those of {', '.join(wanted)}")
    for i, (name, gradient) in enumerate(zip(wanted, got, strict=True)):
        x = Tensor(arrays[i].astype(np.float64))  # a copy, which `differences` changes

        def loss(i: int = i, x: Tensor = x) -> float:
            return float((dy * f(*arrays[:i], x.data, *arrays[i + 1 :])).sum())

        numeric = differences(loss, x, EPS)
        expect(gradient, numeric, f"{where}, gradient with respect to {name}", (mistakes or {}).get(name))
