"""Mutation testing: change the code in one place at a time, and count which changes the fast tests notice.

    python tests/mutants.py --sample 1000  1,000 mutants, drawn with seed 0; without --sample all
    python tests/mutants.py --again        the survivors of the last run, after tests were added

Writes benchmarks/results/mutants/mutants.json. Fails if a survivor has no reason in tests/mutants.toml.

cosmic-ray makes the mutants. A test session for each would take days, so they share one: a mutant is a forked
child in which the functions already imported get the changed code. It runs the tests that reach the changed
statement, the fastest first, until one fails. What runs at import (constants, defaults, the making of
operations) is changed in a copy of the project, with a session of its own.

Not mutated: messages, annotations, decorators, bit operators. `is` does not become `==`: for None they agree.
A test that hangs or takes too much memory has noticed. PyTorch counts as not installed.
"""

import argparse
import ast
import contextlib
import gc
import hashlib
import importlib
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import CodeType, FunctionType

import coverage
import pytest
from _pytest.runner import runtestprotocol
from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code
from cosmic_ray.plugins import get_operator, operator_names
from tqdm import tqdm

ROOT = Path(__file__).parents[1]
RESULT = ROOT / "benchmarks" / "results" / "mutants" / "mutants.json"
REASONS = ROOT / "tests" / "mutants.toml"  # why no test can notice -> its mutants, "before => after"
WANTED = 0.9


def tests_of(folder: str, *names: str) -> tuple[str, ...]:
    return tuple(f"tests/{folder}/test_{name}.py" for name in names)


ENGINE = tests_of("engine", "tensor", "backward", "corners", "dispatch", "at_the_prompt", "equations")
RULES = tests_of("engine", "equations", "accuracy", "empty", "properties")
MODULES = {  # -> the tests that have to notice
    "minigam/engine/tensor.py": ENGINE,
    "minigam/engine/dispatch.py": ENGINE,
    "minigam/engine/ops.py": RULES,
    "minigam/engine/sequence.py": RULES,
    "minigam/engine/attention.py": RULES,
    "minigam/engine/selective_scan.py": RULES + tests_of("engine", "compiled_rules"),
    "minigam/engine/written_memory.py": RULES
    + tests_of("engine", "written_rules")
    + tests_of("models", "written"),
    "minigam/training/optim.py": tests_of("training", "optim", "loss_scale"),
    "minigam/gradcheck/__init__.py": tests_of("gradcheck", "gradcheck", "tolerances"),
}
BUDGET_S = 30.0  # what the tests of one mutant may take together, when their lines are recorded
LONGEST_S, MOST_BYTES = 120, 8 * 2**30  # of one mutant

ARITHMETIC = {"Add", "Sub", "Mul", "Div", "FloorDiv", "Mod", "Pow"}
SAME = {"core/ReplaceComparisonOperator_Is_Eq", "core/ReplaceComparisonOperator_IsNot_NotEq"}
OTHERS = {
    "AddNot", "NumberReplacer", "ReplaceAndWithOr", "ReplaceOrWithAnd", "ReplaceBreakWithContinue",
    "ReplaceContinueWithBreak", "ReplaceFalseWithTrue", "ReplaceTrueWithFalse", "ReplaceComparisonOperator",
    "ReplaceUnaryOperator", "ZeroIterationForLoop",
}  # fmt: skip


def operators() -> list[str]:
    """Return the names of the cosmic-ray operators used."""

    def used(name: str) -> bool:
        kind, *parts = name.removeprefix("core/").split("_")
        return (kind in OTHERS and name not in SAME) or (
            kind == "ReplaceBinaryOperator" and set(parts) <= ARITHMETIC
        )

    return sorted(filter(used, operator_names()))


# ---------------------------------------------------------------------------------- the mutants


@dataclass
class Mutant:
    """One change of one module."""

    path: str
    line: int
    operator: str
    occurrence: int
    before: str
    after: str
    code: str = field(repr=False)
    statement: range = field(repr=False)  # its lines
    outcome: str = ""
    reason: str = ""


def places_of(path: str) -> list[tuple[str, str, int, int]]:
    """Return (path, operator, its how-manieth occurrence, line) of all mutants of a module."""
    source = (ROOT / path).read_text(encoding="utf-8")
    tree, (text, _), places = get_ast(source), regions(ast.parse(source)), []
    for name in operators():
        starts = [start for n in ast_nodes(tree) for start, _ in get_operator(name)().mutation_positions(n)]
        for occurrence, start in enumerate(starts):
            keyword_only = source.split("\n")[start[0] - 1][start[1] :].startswith("*,")  # not a product
            if not keyword_only and not any(begin <= start < end for begin, end in text):
                places.append((path, name, occurrence, start[0]))
    return places


def mutant_at(path: str, name: str, occurrence: int, line: int) -> Mutant | None:
    """Make a mutant; return None if it is no Python or no change."""
    source = (ROOT / path).read_text(encoding="utf-8")
    code = mutate_code(source, get_operator(name)(), occurrence)
    changed = [(a.strip(), b.strip()) for a, b in zip(source.split("\n"), code.split("\n")) if a != b]
    if not changed or not compiles(code):
        return None
    before, after = (" ".join(side) for side in zip(*changed))
    statements = [s for s in regions(ast.parse(source))[1] if line in s]
    statement = min(statements, key=len, default=range(line, line + 1))
    return Mutant(path, line, name, occurrence, before, after, code, statement)


def regions(tree: ast.Module) -> tuple[list, list[range]]:
    """Return (begin, end) of all messages and annotations, and each statement's lines without its body."""
    text, statements = [], []
    for node in ast.walk(tree):
        if isinstance(node, ast.stmt):
            body = getattr(node, "body", None)
            end = body[0].lineno - 1 if isinstance(body, list) else node.end_lineno
            statements.append(range(node.lineno, max(node.lineno, end) + 1))
        parts = [node] if isinstance(node, ast.JoinedStr) else []
        parts += [getattr(node, "annotation", None), getattr(node, "returns", None)]
        text += [((p.lineno, p.col_offset), (p.end_lineno, p.end_col_offset)) for p in parts if p]
    return text, statements


def compiles(code: str) -> bool:
    with contextlib.suppress(SyntaxError), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # "is" with a literal
        compile(code, "mutant", "exec")
        return True
    return False


# ---------------------------------------------------------------------------- code of functions


def install(old: CodeType, new: CodeType, functions: dict[CodeType, list[FunctionType]]) -> bool:
    """Give all functions the new code; return whether that is the whole difference between old and new."""
    found = functions.get(old, [])
    for f in found:
        f.__code__ = new
    inside = [install(a, b, functions) for a, b in zip(nested(old), nested(new))]
    return bool(found) or (own(old) == own(new) and all(inside))


def nested(code: CodeType) -> list[CodeType]:
    return [c for c in code.co_consts if isinstance(c, CodeType)]


def own(code: CodeType) -> tuple:
    """What code does itself, without the functions in it."""
    return code.co_code, code.co_names, [repr(c) for c in code.co_consts if not isinstance(c, CodeType)]


def functions_of(path: Path) -> dict[CodeType, list[FunctionType]]:
    """Return the functions that exist in this process by their code."""
    found: dict[CodeType, list[FunctionType]] = {}
    for f in gc.get_objects():
        if isinstance(f, FunctionType) and f.__code__.co_filename == str(path):
            found.setdefault(f.__code__, []).append(f)
    return found


# ----------------------------------------------------------------------------------- the session


def fails(item: pytest.Item) -> bool:
    try:
        return any(report.failed for report in runtestprotocol(item, log=False, nextitem=None))
    except BaseException:
        return True


class Session:
    """A pytest plugin that runs the mutants where pytest would run the tests."""

    def __init__(self, mutants: list[Mutant], copy: Path, at_import: dict[str, set[int]]):
        self.mutants, self.copy, self.at_import = mutants, copy, at_import

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection(self) -> None:
        from hypothesis import Phase, settings  # here: pytest rewrites it first

        phases = [Phase.explicit, Phase.generate]  # a failure need not be made small
        settings.register_profile("mutants", settings.get_profile("minigam"), phases=phases)
        settings.load_profile("mutants")

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        reach, seconds = baseline(session.items)
        functions = {path: functions_of(ROOT / path) for path in MODULES}
        for mutant in tqdm(self.mutants, unit="mutant", disable=None):
            tests = {i for line in mutant.statement for i in reach[mutant.path].get(line, ())}
            chosen, left = [], BUDGET_S
            for i in sorted(tests, key=seconds.__getitem__):
                left -= seconds[i]
                if left > 0.0 and session.items[i].nodeid.split("::")[0] in MODULES[mutant.path]:
                    chosen.append(session.items[i])
            mutant.outcome = "at import"
            if not self.at_import[mutant.path].intersection(mutant.statement):
                mutant.outcome = outcome(mutant, chosen, functions[mutant.path])
            assert mutant.outcome != "failed", mutant
            if mutant.outcome == "at import":
                mutant.outcome = outcome_of_session(mutant, self.copy)
        return True


def recorder() -> coverage.Coverage:
    return coverage.Coverage(data_file=None, config_file=False, include=[str(ROOT / p) for p in MODULES])


def lines_at_import() -> dict[str, set[int]]:
    """Import the modules; return the lines that this runs."""
    cover = recorder()
    cover.start()
    for path in MODULES:
        importlib.import_module(path.removesuffix(".py").removesuffix("/__init__").replace("/", "."))
    cover.stop()
    return {path: set(cover.get_data().lines(str(ROOT / path)) or ()) for path in MODULES}


def baseline(items: Sequence[pytest.Item]) -> tuple[dict[str, dict[int, list[int]]], list[float]]:
    """Run all tests once; return path -> line -> numbers of the tests that reach it, and their times."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "baseline.json")
        if os.fork() == 0:
            hide_output()
            cover = recorder()
            cover.start()
            seconds, failed = [], []
            for i, item in enumerate(items):
                cover.switch_context(str(i))
                start = time.perf_counter()
                failed += [item.nodeid] * fails(item)
                seconds.append(time.perf_counter() - start)
            cover.stop()
            data = cover.get_data()
            reach = {
                path: {line: [int(i) for i in tests if i] for line, tests in lines.items()}
                for path in MODULES
                for lines in [data.contexts_by_lineno(str(ROOT / path))]
            }
            file.write_text(
                json.dumps({"reach": reach, "seconds": seconds, "failed": failed}), encoding="utf-8"
            )
            os._exit(0)
        os.wait()
        result = json.loads(file.read_text(encoding="utf-8"))
    if result["failed"]:
        sys.exit(f"mutants: without a mutant {len(result['failed'])} tests fail, first {result['failed'][0]}")
    reach = {path: {int(n): tests for n, tests in lines.items()} for path, lines in result["reach"].items()}
    return reach, result["seconds"]


def hide_output() -> None:
    for stream in (1, 2):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream)


def outcome(mutant: Mutant, tests: list[pytest.Item], functions: dict[CodeType, list[FunctionType]]) -> str:
    """Run the tests with this mutant, in a child, up to the first failure."""
    child = os.fork()
    if child == 0:
        try:
            hide_output()
            signal.alarm(LONGEST_S)  # ends this process
            resource.setrlimit(resource.RLIMIT_AS, (MOST_BYTES, MOST_BYTES))
            file = str(ROOT / mutant.path)
            warnings.simplefilter("ignore")
            original = compile(Path(file).read_text(encoding="utf-8"), file, "exec")
            if not install(original, compile(mutant.code, file, "exec"), functions):
                os._exit(2)
            os._exit(1 if any(map(fails, tests)) else 0)
        finally:
            os._exit(3)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return "timeout" if os.WTERMSIG(status) == signal.SIGALRM else "killed"
    return ("survived", "killed", "at import", "failed")[os.WEXITSTATUS(status)]


def outcome_of_session(mutant: Mutant, copy: Path) -> str:
    """Run the module's own tests on a copy of the project in which the mutant is written."""
    file, original = copy / mutant.path, (ROOT / mutant.path).read_text(encoding="utf-8")
    code = "import sys, pytest; sys.modules['torch'] = None; sys.exit(pytest.main(sys.argv[1:]))"
    flags = ["-x", "-q", "-p", "no:cacheprovider", *MODULES[mutant.path]]
    file.write_text(mutant.code, encoding="utf-8")
    try:
        command = [sys.executable, "-B", "-c", code, *flags]
        done = subprocess.run(command, cwd=copy, capture_output=True, timeout=LONGEST_S)
        return "killed" if done.returncode else "survived"
    except subprocess.TimeoutExpired:
        return "timeout"
    finally:
        file.write_text(original, encoding="utf-8")


# ------------------------------------------------------------------------------------ the report


def summary(path: str, mutants: list[Mutant], killed_before: int) -> dict:
    survivors = [m for m in mutants if m.outcome == "survived"]
    shown = ("line", "operator", "occurrence", "before", "after", "reason")
    return {
        "sha256": hashlib.sha256((ROOT / path).read_bytes()).hexdigest(),
        "mutants": killed_before + len(mutants),
        "killed": killed_before + len(mutants) - len(survivors),
        "survivors": [{name: asdict(m)[name] for name in shown} for m in survivors],
    }


def survivors_of(results: dict) -> list[tuple[str, str, int, int]]:
    """Return the places of the last run's survivors. Mutants of code that has changed since are others."""
    for path, result in results.items():
        if result["sha256"] != hashlib.sha256((ROOT / path).read_bytes()).hexdigest():
            sys.exit(f"mutants: {path} has changed since the last run; run without --again")
    return [
        (path, m["operator"], m["occurrence"], m["line"])
        for path in results
        for m in results[path]["survivors"]
    ]


def report(results: dict[str, dict], of: int) -> int:
    """Print and write the results; return the exit code."""
    for path, result in results.items():
        print(f"| `{path}` | {result['mutants']} | {result['killed']} |")
        for m in result["survivors"]:
            if not m["reason"]:
                print(f"    {m['line']}: {m['before']} => {m['after']}")
    tried, killed = (sum(result[name] for result in results.values()) for name in ("mutants", "killed"))
    unexplained = sum(not m["reason"] for result in results.values() for m in result["survivors"])
    print(f"{tried} of {of} mutants tried, {killed} killed ({killed / tried:.1%}), {unexplained} unexplained")
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"command": "make mutants", "of": of, "modules": results}, indent=1)
    RESULT.write_text(text + "\n", encoding="utf-8")
    return 0 if killed >= WANTED * tried and not unexplained else 1


def main(argv: list[str] | None = None) -> int:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--sample", type=int, metavar="N", help="try N mutants, drawn with seed 0 (default: all)")
    p.add_argument("--again", action="store_true", help="try the survivors of the last run")
    args = p.parse_args(argv)
    os.chdir(ROOT)
    sys.path[:0] = [str(ROOT)]
    os.environ |= dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"), "1")  # threads end in a fork
    sys.modules["torch"] = None  # type: ignore[assignment]
    places = [place for path in MODULES for place in places_of(path)]
    killed, of = dict.fromkeys(MODULES, 0), len(places)
    if args.again:
        last = json.loads(RESULT.read_text(encoding="utf-8"))["modules"]
        places, killed = survivors_of(last), {path: last[path]["killed"] for path in MODULES}
    elif args.sample:
        places = random.Random(0).sample(places, min(args.sample, of))  # noqa: S311
    mutants = [m for place in tqdm(sorted(places), disable=None) if (m := mutant_at(*place)) is not None]
    with tempfile.TemporaryDirectory() as folder:
        for name in ("minigam", "tests"):
            shutil.copytree(name, Path(folder, name))
        shutil.copy("pyproject.toml", folder)
        tests = sorted({test for m in mutants for test in MODULES[m.path]})
        plugin = Session(mutants, Path(folder), lines_at_import())
        if pytest.main(["-s", "-q", "-p", "no:cacheprovider", *tests], plugins=[plugin]) != 0:
            return 1
    reasons = tomllib.loads(REASONS.read_text(encoding="utf-8"))
    by_mutant = {(path, m): r for path in reasons for r, group in reasons[path].items() for m in group}
    for m in mutants:
        m.reason = by_mutant.get((m.path, f"{m.before} => {m.after}"), "")
    return report({p: summary(p, [m for m in mutants if m.path == p], killed[p]) for p in MODULES}, of)


if __name__ == "__main__":
    sys.exit(main())
