"""The shape of the project: imports point down, importing loads nothing heavy, public names
stay, no file is too long to read in one go."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import minigam

ROOT = Path(minigam.__file__).parent
PROJECT = ROOT.parent
VIZ = {f"viz.{kind}" for kind in ("runs", "experiments", "engine", "sight", "inside")}
CHECKS = {f"course.check.nb{n:02d}" for n in range(16)}
FLOORS = [
    {"backend", "config", "graph", "ngram", "viz.style"},
    {"tensor", "files", "precision", "viz.cost"},
    {"ops", "sequence", "gradcheck", "hub", *VIZ},
    {"nn", "grammar", "datasets", "fast_numpy.general", "fast_numpy.scan", "course.judge"},
    {"fast_cupy.kernels"},
    {
        "fast_numpy.mixers",
        "fast_cupy.pointwise",
        "fast_cupy.products",
        "fast_cupy.rows",
        "fast_cupy.scan",
        "fast_cupy.tables",
    },
    {"fast_numpy", "fast_cupy.losses", "fast_cupy.mixers"},
    {"optim", "gam", "transformer", "mamba", "pocketstories"},
    {"lm", "tokenizer", "viz", "fast_cupy.adamw", "oracle"},
    {"interop", "corpus", "fast_cupy", "anatomy"},
    {"training", "mqar", "prepare"},
    {"run"},
    {"session", "profile"},
    {"cli", "__init__"},
    {"generate", "evaluate", "data"},
    {"train", "explain", "gradcheck.arguments", "__main__"},
    {"gradcheck.cases", "experiments.paper", "experiments"},
    {"gradcheck.__main__", "experiments.report", "experiments.training"},
    {"experiments.comparison", "experiments.scaling", "experiments.recall", "experiments.reach"},
    {"experiments.__main__", "course"},
    {"course.notebooks", "course.check", *CHECKS},
    {"course.__main__"},
]
FLOOR = {room: n for n, rooms in enumerate(FLOORS) for room in rooms}
ROOMS = sorted(ROOT.rglob("*.py"))
BENCHMARKS = sorted((PROJECT / "benchmarks").glob("*.py"))
every_file = pytest.mark.parametrize(
    "path", [*ROOMS, *BENCHMARKS], ids=lambda path: str(path.relative_to(PROJECT))
)


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if len(parts) > 1 and parts[-1] == "__init__" else parts)


def imported_rooms(path: Path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (a.name.partition(".")[2] for a in node.names if a.name.startswith("minigam"))
            assert not [a.name for a in node.names if a.name.startswith("benchmarks")], path.name
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}: relative import"
            top, _, room = (node.module or "").partition(".")
            assert top != "benchmarks", path.name  # they measure minigam, which knows nothing of them
            if top == "minigam":
                yield from ([room] if room else [a.name for a in node.names])


@pytest.mark.parametrize("path", ROOMS, ids=name_of)
def test_imports_point_down(path):
    room = name_of(path)
    for imported in imported_rooms(path):
        if imported in minigam.__all__ and imported not in FLOOR:
            imported = "__init__"  # a public name, through the front door
        assert FLOOR[imported] < FLOOR[room], f"{room} imports {imported}"


@every_file
def test_files_can_be_read_in_one_sitting(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 400


def test_the_engine_can_be_read_in_one_sitting():
    """backend + tensor, the whole of the automatic differentiation and both libraries' differences."""
    lines = sum(len((ROOT / f"{room}.py").read_text().splitlines()) for room in ("backend", "tensor"))
    assert lines <= 600


HEAVY = (
    "cupy", "torch", "matplotlib", "tokenizers", "huggingface_hub", "pyarrow", "scipy",
    "IPython", "jupytext", "nbformat", "nbclient",
)  # fmt: skip


def test_importing_loads_nothing_heavy():
    rooms = ", ".join(f"minigam.{name_of(p)}" for p in ROOMS if "__" not in name_of(p))
    code = f"import sys, {rooms}; print(*sorted({set(HEAVY)!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_public_names():
    for name in ("Tensor", "no_grad", "reference_only", "gradcheck", "GAM", "GAMConfig"):
        assert callable(getattr(minigam, name)), name
    assert callable(minigam.interop.from_official)
    assert callable(minigam.interop.to_official)
    assert callable(minigam.training.train_step)
    assert callable(minigam.optim.AdamW)
    for name in ("data", "grad", "shape", "dtype", "backward", "numpy", "item", "to"):
        assert hasattr(minigam.Tensor([1.0]), name), name
    model = minigam.GAM(minigam.GAMConfig(vocab_size=5, block_size=4, d_model=4, n_layers=1, n_slots=2))
    for name in ("loss", "generate", "train", "eval", "parameters", "named_parameters", "state_dict",
                 "load_state_dict", "num_parameters", "to", "reach"):  # fmt: skip
        assert hasattr(model, name), name
    assert minigam.gradcheck is not sys.modules["minigam.gradcheck"]  # the function, not the room


@every_file
def test_no_code_is_loaded_from_data(path):
    text = path.read_text(encoding="utf-8")
    assert not re.search(r"\bpickle\b|allow_pickle=True|\beval\(\"|\bexec\(|shell=True", text)


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
