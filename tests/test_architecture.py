"""The shape of the project: what may import what, what importing loads, and how long a file may be."""

import ast
import re
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import minigam

ROOT = Path(minigam.__file__).parent
PROJECT = ROOT.parent
MODULES = sorted(ROOT.rglob("*.py"))
BENCHMARKS = sorted((PROJECT / "benchmarks").glob("*.py"))
every_file = pytest.mark.parametrize(
    "path", [*MODULES, *BENCHMARKS], ids=lambda path: str(path.relative_to(PROJECT))
)

# Each layer may import itself and those before it. Commands (`__main__` of a folder too) import no command.
LAYERS = [
    "config", "launcher", "interrupt", "threads", "files", "engine", "viz", "models", "gradcheck", "data",
    "training", "cli", "explain", "experiments", "course", "commands",
]  # fmt: skip
COMMANDS = ("train", "generate", "evaluate", "__main__")
NEVER = {("data", "models"), ("data", "gradcheck"), ("models", "viz"), ("training", "gradcheck"),
         ("experiments", "explain"), ("course", "explain"), ("course", "experiments")}  # fmt: skip
DRAWING = ("engine.tensor", "viz.graph")  # the exception: a tensor asks for its drawing in a notebook


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


NAMES = {name_of(path) for path in MODULES}


def layer_of(module: str) -> int:
    first, *_, last = module.split(".") * 2
    return LAYERS.index("commands" if first in COMMANDS or last == "__main__" else first)


def imports_of(path: Path) -> set[str]:
    """Return the modules of minigam that a file imports, but for those that only a type checker sees."""
    tree, found = ast.parse(path.read_text(encoding="utf-8")), set()
    typing = [n for n in ast.walk(tree) if isinstance(n, ast.If) and ast.unparse(n.test) == "TYPE_CHECKING"]
    skipped = {id(inner) for block in typing for inner in ast.walk(block)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [a.name for a in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}: relative import"
            names = [f"{node.module}.{a.name}" for a in node.names]
        else:
            continue
        assert not [n for n in names if n.startswith("benchmarks")], path.name  # they measure minigam
        ours = (
            n.removeprefix("minigam.") for n in names if n.startswith("minigam.") and id(node) not in skipped
        )
        found |= {n if n in NAMES else n.rpartition(".")[0] for n in ours}
    return found


IMPORTS = {name_of(path): imports_of(path) for path in MODULES}


@pytest.mark.parametrize("module", sorted(NAMES - {"__init__"}))
def test_imports_point_down(module):
    for imported in IMPORTS[module] - {""}:
        below = layer_of(imported) < layer_of(module)
        same = layer_of(imported) == layer_of(module) != LAYERS.index("commands")
        assert below or same or (module, imported) == DRAWING, f"{module} imports {imported}"
        assert (module.split(".")[0], imported.split(".")[0]) not in NEVER, f"{module} imports {imported}"


def test_no_test_imports_another_test():
    for path in (PROJECT / "tests").rglob("*.py"):
        assert not re.search(r"^\s*(from|import) test_", path.read_text(encoding="utf-8"), re.M), path


def test_no_module_imports_itself_by_a_detour():
    TopologicalSorter(IMPORTS).prepare()  # raises CycleError, naming the modules


@every_file
def test_files_can_be_read_in_one_sitting(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 400


def test_the_engine_can_be_read_in_one_sitting():
    """The whole of the automatic differentiation, and which library holds an array."""
    lines = sum(
        len((ROOT / "engine" / f"{module}.py").read_text().splitlines())
        for module in ("backend", "tensor", "dispatch")
    )
    assert lines <= 600


HEAVY = (
    "cupy", "mpi4py", "torch", "matplotlib", "tokenizers", "huggingface_hub", "pyarrow", "scipy",
    "IPython", "jupytext", "nbformat", "nbclient",
)  # fmt: skip


def test_importing_loads_nothing_heavy():
    modules = ", ".join(f"minigam.{name_of(p)}" for p in MODULES if "__" not in name_of(p))
    code = f"import sys, {modules}; print(*sorted({set(HEAVY)!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_the_public_api_loads_numpy_and_little_else():
    code = (
        "import sys, numpy.random; before = set(sys.modules); import minigam; "
        "print(*sorted(set(sys.modules) - before))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    ours = {m for m in loaded if m.partition(".")[0] == "minigam"}
    folders = {m.split(".")[1] for m in ours if "." in m}
    assert folders == {
        "config",
        "engine",
        "gradcheck",
        "interrupt",
        "launcher",
        "models",
        "threads",
        "training",
    }
    assert {m for m in ours if m.startswith("minigam.training.")} == {
        f"minigam.training.{name}"
        for name in ("optim", "ranks", "ranks.gradient", "ranks.world", "schedule", "step")
    }
    foreign = {m.partition(".")[0] for m in loaded - ours}
    assert foreign <= set(sys.stdlib_module_names) and not foreign & {
        "json",
        "argparse",
        "tempfile",
        "subprocess",
    }
    assert len(foreign) <= 14, foreign  # of the standard library


LOADERS = {"pickle", "cPickle", "_pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}


def ways_to_run_data(source: str) -> list[str]:
    """Return the lines that could run code found in a file: ruff's S rules know some of them, not all."""
    lines = []
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Import() | ast.ImportFrom():
                names = {a.name for a in node.names} | {getattr(node, "module", None)}
                dangerous = bool(LOADERS & {str(n).partition(".")[0] for n in names})
            case ast.Call(func=ast.Name(id="eval" | "exec" | "compile" | "__import__")):
                dangerous = True
            case ast.Call(func=ast.Attribute(value=ast.Name(id="np" | "numpy" | "xp"), attr="load")):
                dangerous = True  # safetensors holds all arrays, and pickles are off by default only
            case ast.Call(func=ast.Attribute(value=ast.Name(id="torch"), attr="load")):
                dangerous = not any(ast.unparse(k) == "weights_only=True" for k in node.keywords)
            case ast.keyword(arg="allow_pickle" | "shell" | "trust_remote_code"):
                dangerous = ast.unparse(node.value) != "False"
            case ast.Attribute(value=ast.Name(id="os"), attr="system" | "popen"):
                dangerous = True
            case _:
                dangerous = False
        if dangerous:
            lines.append(ast.unparse(node))
    return lines


# The exception: a learner's notebook is code, and checking its answers means running it, in its own process.
RUNS_ANSWERS = {"minigam/course/worker.py": 4}


@every_file
def test_no_code_is_loaded_from_data(path):
    lines = ways_to_run_data(path.read_text(encoding="utf-8"))
    assert len(lines) == RUNS_ANSWERS.get(path.relative_to(PROJECT).as_posix(), 0), lines


@pytest.mark.parametrize(
    "line", ["import pickle", "from joblib import load", "eval(text)", "np.load(path)", "torch.load(path)",
             "read(path, allow_pickle=True)", "run(line, shell=True)", "os.system(line)"],
)  # fmt: skip
def test_a_way_to_run_data_is_noticed(line):
    assert ways_to_run_data(line)


def test_weights_of_torch_and_layers_in_eval_mode_are_no_code():
    assert ways_to_run_data("torch.load(path, weights_only=True)\nmodel.eval()") == []


@every_file
def test_public_functions_are_documented(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert ast.get_docstring(tree), "the file says what it is"
    public = [
        node for node in tree.body
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_")
    ]  # fmt: skip
    missing = [n.name for n in public if not ast.get_docstring(n) and n.name not in ("main", "parser")]
    assert not missing
