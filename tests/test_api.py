"""The public API: the names that outside scripts call, and how they behave at the prompt."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import minigam
from minigam import __main__ as listing

PROJECT = Path(__file__).parents[1]
PROMISED = {
    "Tensor", "no_grad", "reference_only", "gradcheck", "ops", "sequence", "nn", "backend", "viz", "GAM",
    "GAMConfig",
    "Transformer", "TransformerConfig", "Mamba", "MambaConfig", "AdamW", "train_step", "warmup_cosine",
    "from_official", "to_official", "from_mamba", "to_mamba", "read_weights",
}  # fmt: skip


def test_every_public_name_is_there():
    assert set(minigam.__all__) >= PROMISED
    assert sorted(minigam.__all__) == sorted(set(minigam.__all__))
    for name in minigam.__all__:
        assert getattr(minigam, name) is not None, name
    assert callable(minigam.gradcheck)  # the function, not the package of its name
    with pytest.raises(AttributeError, match="minigam has no 'gam'; its public names are in"):
        minigam.gam  # noqa: B018


def test_tensors_and_models_have_what_scripts_call():
    for name in ("data", "grad", "shape", "dtype", "backward", "numpy", "item", "to"):
        assert hasattr(minigam.Tensor([1.0]), name), name
    model = minigam.GAM(minigam.GAMConfig(vocab_size=5, block_size=4, d_model=4, n_layers=1, n_slots=2))
    for name in ("loss", "generate", "train", "eval", "parameters", "named_parameters", "state_dict",
                 "load_state_dict", "num_parameters", "to", "reach"):  # fmt: skip
        assert hasattr(model, name), name


def imports_of(code: str) -> set[tuple[str, str]]:
    """Return (module, name) of every import from minigam."""
    return {
        (node.module, alias.name)
        for node in ast.walk(ast.parse(code))
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "minigam"
        for alias in node.names
    }


SOURCES = sorted((PROJECT / "notebooks").glob("[0-9][0-9]_*.py"))
EXAMPLES = re.findall(r"```python\n(.*?)```", (PROJECT / "README.md").read_text(encoding="utf-8"), re.S)


@pytest.mark.parametrize(
    "code", [*(pytest.param(p.read_text(encoding="utf-8"), id=p.stem) for p in SOURCES), *EXAMPLES]
)
def test_notebooks_and_readme_use_public_names_alone(code):
    imported = imports_of(code)
    assert imported or "import minigam" in code
    for module, name in imported:
        public = name if module == "minigam" else module.split(".")[1]  # a package such as minigam.course
        assert public in minigam.__all__, f"from {module} import {name}"
        assert module.count(".") <= 1, f"from {module} import {name} reaches inside"


@pytest.mark.parametrize("start", [["-m", "minigam", "gradcheck"], ["-m", "minigam.gradcheck"]])
def test_a_command_is_the_same_however_it_is_called(start):
    """And so is its exit code; the script `minigam` calls the same function as `-m minigam`."""
    done = subprocess.run([sys.executable, *start, "--seed=-1"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "minigam gradcheck: --seed is -1, wanted a whole number, at least 0\n"


def test_the_console_script_is_the_module():
    import tomllib

    scripts = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["scripts"]
    assert scripts == {"minigam": f"{listing.__name__}:main"}


@pytest.mark.parametrize(
    ("argv", "code", "out", "err"),
    [
        ([], 0, "minigam train ", ""),
        (["--help"], 0, "minigam course ", ""),
        (["--version"], 0, f"minigam {minigam.__version__}\n", ""),
        (["trian"], 2, "", "minigam: no command 'trian', did you mean train? (--help lists them)\n"),
        (["x", "--steps=3"], 2, "", "minigam: no command 'x', choose from train, generate"),
    ],
)
def test_minigam_alone(argv, code, out, err, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["minigam", *argv])
    try:
        listing.main()
    except SystemExit as e:
        assert e.code == code
    else:
        assert code == 0
    told = capsys.readouterr()
    assert out in told.out and err in told.err
    assert bool(told.err) == bool(err) and told.err.count("\n") <= 1


def test_listing_the_commands_loads_none():
    code = (
        "import sys; sys.argv = ['minigam']; from minigam.__main__ import main; main(); print(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"minigam.cli", "minigam.train", "tqdm", "safetensors"} & set(done.stdout.split())


def test_a_model_prints_itself():
    model = minigam.GAM(
        minigam.GAMConfig(vocab_size=5, block_size=4, d_model=4, n_layers=2, n_slots=3, kernel_size=2)
    )
    lines = repr(model).splitlines()
    assert lines[0] == f"GAM  {model.num_parameters():,} parameters"
    assert lines[1] == "  token_embedding: Embedding(weight [5, 4])  20 parameters"
    blocks = next(line for line in lines if "blocks" in line)
    assert blocks.startswith("  blocks.0 to blocks.1, each: GAMBlock(memory [3, 4], mixer=gated)")
    assert f"{model.blocks[0].num_parameters():,} parameters" in blocks
    assert "    conv: CausalConv(weight [4, 2], bias [4])  12 parameters" in lines
    assert "      dropout: Dropout(p=0.1)" in lines
    assert len(lines) == 13  # equal children once
    assert repr(model.blocks[0].gate) == "Linear(weight [8, 4], bias [8])  40 parameters"
