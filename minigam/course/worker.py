"""The process that runs a learner's answers and checks them: `python -m minigam.course.worker CHECKS HOW`.

It reads a job per line, a JSON object, and answers each with a line. CHECKS is a package with functions
ex_NN_K. Each job runs in a child of its own if HOW is `fork`, so that NumPy is imported once, and otherwise
in this process, which then ends. The child may be killed, exceed its memory or end
itself: `minigam.course.sandbox` reads how far it came.

Of a notebook only those statements run that the answers need: each check call needs the statements that bind
or change a name it uses, these need others, and so on. Figures, timings and training runs are left out: all
cells of the course take minutes, and its answers seconds. A statement that fails does not stop those after
it, and after the last the failed ones run once more. So a cell that was moved up still finds what it needs.

The verdict is that of the checks as they were imported before any of the learner's code: before each check,
and after one that passes, `Pristine` restores what the learner's code has changed in them and in NumPy.
"""

import ast
import json
import linecache
import os
import re
import select
import signal
import symtable
import sys
import time
import types
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, cast

from minigam.course.judge import NotYet
from minigam.course.pristine import Pristine

# macOS kills children that use its libraries after a fork.
FORKS = hasattr(os, "fork") and sys.platform != "darwin"
READY = "ready"  # the first line of a worker
MOST = 2**20  # bytes that a child may report
_CALL = re.compile(r"ex_(\d\d_\d+)")
_CALL_IN_TEXT = re.compile(r"\bcheck\.ex_(\d\d_\d+)\s*\(")


@dataclass
class Item:
    """One step of a job: a statement to run, or a check of one exercise. names: what it binds or changes."""

    code: ast.stmt | ast.expr
    cell: int
    exercise: str | None = None
    names: set[str] = field(default_factory=set)
    uses: set[str] = field(default_factory=set)


def steps(cells: list[str]) -> tuple[list[Item], dict[str, str]]:
    """Return the steps that the checks in these code cells need, in order; and for each exercise whose check
    is in a cell that is not Python, the reason."""
    items: list[Item] = []
    broken: dict[str, str] = {}
    for i, text in enumerate(cells):
        try:
            items += [item for node in _statements(text) for item in _items(node, i)]
        except SyntaxError as e:
            reason = f"line {e.lineno} of its cell is not Python ({e.msg})"
            broken |= dict.fromkeys(_CALL_IN_TEXT.findall(text), reason)
        except (ValueError, RecursionError, MemoryError):
            broken |= dict.fromkeys(_CALL_IN_TEXT.findall(text), "its cell cannot be read as Python")
    return _needed(items), broken


def _statements(text: str) -> list[ast.stmt]:
    """Return the statements of a cell. If it is not Python, lines that begin with % or ! are IPython's."""
    try:
        return ast.parse(text).body
    except SyntaxError:
        return ast.parse(re.sub(r"^([ \t]*)[%!].*", r"\1pass", text, flags=re.M)).body


def _items(node: ast.stmt, cell: int) -> Iterator[Item]:
    """Yield the steps of one statement: itself unless it is nothing but a check, and each check in it."""
    calls = [n for n in ast.walk(node) if isinstance(n, ast.Call) and _exercise(n.func)]
    if not (isinstance(node, ast.Expr) and node.value in calls):
        binds, uses = _names(node)
        yield Item(node, cell, None, binds | _changed(node), uses)
    for call in calls:
        answers = ast.Tuple([*call.args, *(k.value for k in call.keywords)], ast.Load())
        yield Item(ast.fix_missing_locations(ast.copy_location(answers, call)), cell,
                   _exercise(call.func), set(), _names(answers)[1])  # fmt: skip


def _exercise(function: ast.expr) -> str | None:
    """Return the exercise NN_K of `check.ex_NN_K`, None for any other function."""
    if isinstance(function, ast.Attribute) and ast.unparse(function.value).split(".")[-1] == "check":
        found = _CALL.fullmatch(function.attr)
        return found[1] if found else None
    return None


def _names(node: ast.AST) -> tuple[set[str], set[str]]:
    """Return the global names that a piece of code binds, and those that it uses, also inside functions."""
    top = symtable.symtable(ast.unparse(node), "cell", "exec")
    binds = {s.get_name() for s in top.get_symbols() if s.is_assigned() or s.is_imported()}
    uses = {s.get_name() for s in top.get_symbols() if s.is_referenced()}
    inner = top.get_children()
    while inner:
        table = inner.pop()
        uses |= {s.get_name() for s in table.get_symbols() if s.is_global()}
        inner += table.get_children()
    return binds, uses


def _changed(node: ast.AST) -> set[str]:
    """Return the names whose objects a statement may change: a.b = 1, a[0] = 1, a.append(1), fill(a)."""
    roots: list[ast.expr] = []
    for n in ast.walk(node):
        if isinstance(n, ast.Attribute | ast.Subscript) and not isinstance(n.ctx, ast.Load):
            roots.append(n)
        elif isinstance(n, ast.Expr) and isinstance(n.value, ast.Call):
            roots += [n.value.func, *n.value.args, *(k.value for k in n.value.keywords)]
    names = {root.id for root in roots if isinstance(root, ast.Name)}
    for root in (r for r in roots if isinstance(r, ast.Attribute | ast.Subscript)):
        value: ast.expr = root
        while isinstance(value, ast.Attribute | ast.Subscript | ast.Call):
            value = value.func if isinstance(value, ast.Call) else value.value
        names |= {value.id} if isinstance(value, ast.Name) else set()
    return names


def _needed(items: list[Item]) -> list[Item]:
    """Return the checks, and the statements that they need."""
    names = set().union(*(i.uses for i in items if i.exercise))
    chosen: set[int] = set()
    while True:
        new = {n for n, i in enumerate(items) if not i.exercise and n not in chosen
               and (i.names & names or _is_star(i.code))}  # fmt: skip
        if not new:
            return [item for n, item in enumerate(items) if item.exercise or n in chosen]
        chosen |= new
        names = names.union(*(items[n].uses for n in new))


def _is_star(node: ast.AST) -> bool:
    return isinstance(node, ast.ImportFrom) and node.names[0].name == "*"


# ------------------------------------------------------------------------------------ run and check


def judge(cells: list[str], checks: Any, pristine: Pristine, skip: set[int]) -> Iterator[list]:
    """Run the steps of a notebook, and yield what happens: ["at", step] before each step, and
    ["verdict", exercise, state, message] after a check. state: solved, open, failing or error.

    skip : the steps that ended an earlier attempt
    """
    items, broken = steps(cells)
    yield from (["verdict", number, "error", reason] for number, reason in broken.items())
    module = types.ModuleType("__main__")
    sys.modules["__main__"] = module
    names, done = vars(module), set()
    names["display"] = lambda *shown, **settings: None
    for i, text in enumerate(cells):  # so that the message of a check can quote the line
        linecache.cache[_file(i)] = len(text), None, text.splitlines(keepends=True), _file(i)
    for _ in range(2):
        for n, item in enumerate(items):
            if n in done or n in skip:
                continue
            yield ["at", n, item.exercise]
            if item.exercise is None:
                if _run(item, names):
                    done.add(n)
                continue
            state, message = _verdict(item, names, getattr(checks, f"ex_{item.exercise}", None), pristine)
            yield ["verdict", item.exercise, state, message]
            if state == "solved":
                done.add(n)


def _file(cell: int) -> str:
    return f"<ipykernel cell {cell}>"


def _run(item: Item, names: dict) -> bool:
    """Run a statement of the learner; return whether it ended without an error."""
    try:
        exec(compile(ast.Module([cast(ast.stmt, item.code)], []), _file(item.cell), "exec"), names)
    except BaseException:  # also SystemExit
        return False
    return True


def _verdict(item: Item, names: dict, check: Callable | None, pristine: Pristine) -> tuple[str, str]:
    """Return the state of an exercise, and the message of its check if it is not solved."""
    if check is None:
        return "error", "there is no such exercise"
    try:
        answers = eval(compile(ast.Expression(cast(ast.expr, item.code)), _file(item.cell), "eval"), names)
        pristine.restore()
        check(*answers)
    except NotYet as e:
        message = re.sub(r"^Exercise [\d.]+: ", "", _line(e))
        return "open" if "still to be written" in message else "failing", message
    except NameError as e:
        return "error", f"{e}; its cell is missing, is not Python or fails"
    except BaseException as e:  # the check raises nothing else, but the answer may end Python
        return "error", f"{type(e).__name__}: {_line(e)}"
    if changed := pristine.restore():
        return "error", f"the answer changed {changed[0]} while it was checked"
    return "solved", ""


def _line(e: BaseException) -> str:
    try:
        return " ".join(str(e).encode("utf-8", "backslashreplace").decode().split())[:400]
    except Exception:
        return "an error without a text"


# ------------------------------------------------------------------------------------ the processes


def limit(seconds: int, memory_mib: int, file_mib: int) -> None:
    """Limit this process, where the system can: processor time, memory, the size of a file."""
    try:
        import resource
    except ImportError:  # Windows, where only the time limit of the sandbox holds
        return
    for what, most in (
        (resource.RLIMIT_AS, memory_mib * 2**20),
        (resource.RLIMIT_FSIZE, file_mib * 2**20),
        (resource.RLIMIT_CPU, 64 * seconds),  # with threads; ends a child whose parent has died
        (resource.RLIMIT_CORE, 0),
    ):
        hard = resource.getrlimit(what)[1]
        with suppress(ValueError, OSError, OverflowError):
            resource.setrlimit(what, (most, most) if hard < 0 else (min(most, hard), min(most, hard)))


def _attempt(job: dict, checks: Any, pristine: Pristine, out: int) -> None:
    """Run a job in this process and write its events to the file descriptor `out`."""
    key = job["key"]
    limit(job["seconds"], job["memory_mib"], job["file_mib"])
    os.chdir(job["folder"])

    def write(event: list) -> None:
        data = json.dumps([key, *event]).encode() + b"\n"
        while data:
            data = data[os.write(out, data) :]

    for event in judge(job["cells"], checks, pristine, set(job["skip"])):
        write(event)
    write(["done"])


def _silence() -> None:
    """Give this process nothing to read, and nowhere to print."""
    null = os.open(os.devnull, os.O_RDWR)
    for stream in range(3):
        os.dup2(null, stream)


def _forked(job: dict, checks: Any, pristine: Pristine) -> dict:
    """Run a job in a forked child with a time limit; return its output and how it ended."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.setsid()
            os.close(reader)
            _silence()
            _attempt(job, checks, pristine, writer)
        finally:
            os._exit(0)
    os.close(writer)
    data, ended, deadline = bytearray(), "died", time.monotonic() + job["seconds"]
    last = f'["{job["key"]}", "done"]'.encode()
    try:
        while last not in data[-len(last) - 2 :]:
            ready = select.select([reader, 0], [], [], max(0.0, deadline - time.monotonic()))[0]
            if 0 in ready:  # the sandbox has closed this worker
                sys.exit(0)
            if not ready:
                ended = "time"
                break
            part = os.read(reader, 2**16)
            data += part
            if not part or len(data) > MOST:
                break
    finally:
        os.close(reader)
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(pid, signal.SIGKILL)  # also what it has started
        with suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)  # if it had no time to become a group
        os.waitpid(pid, 0)
    return {"output": data.decode("utf-8", "replace"), "ended": ended}


def main(argv: list[str]) -> int:
    """Serve jobs until the standard input ends."""
    package = import_module(argv[0])
    numbered = {name: getattr(package, name) for name in dir(package) if name.startswith("ex_")}
    checks = types.SimpleNamespace(**numbered)  # as they are now
    pristine = Pristine(argv[0])
    print(READY, flush=True)
    while line := sys.stdin.buffer.readline():
        job = json.loads(line)
        if argv[1] == "fork":
            print(json.dumps(_forked(job, checks, pristine)), flush=True)
        else:
            out = os.dup(1)
            _silence()
            _attempt(job, checks, pristine, out)
            os._exit(0)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
