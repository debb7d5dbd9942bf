"""Finding a compiler, the folder of libraries, and what is said where the kernels cannot be used."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.rules import needs_kernels

from minigam.engine import compiler

# Prints gelu of some numbers, and which rules computed it.
CODE = """
import numpy as np
from minigam import Tensor, ops
from minigam.engine.compiled import kernels
y = ops.gelu(Tensor(np.linspace(-3, 3, 7, dtype="float32"))).data
wanted = [-0.00405, -0.0455, -0.15866, 0.0, 0.84134, 1.9545, 2.99595]
print(kernels.in_use(), np.allclose(y, wanted, atol=1e-5))
"""
ONCE = "compiling the kernels for the CPU (once on a machine)\n"
ROOT = str(Path(__file__).parents[2])
posix = pytest.mark.skipif(os.name != "posix", reason="folders have no mode on this system")


def start(cache: Path | str, code: str = CODE, **environment: str) -> subprocess.Popen:
    """Start a process with this cache; an empty value removes a variable."""
    variables = {k: v for k, v in (os.environ | {"XDG_CACHE_HOME": str(cache)} | environment).items() if v}
    return subprocess.Popen(
        [sys.executable, "-c", code], env=variables, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def outcome(process: subprocess.Popen) -> tuple[str, str]:
    out, err = process.communicate(timeout=200)
    assert process.returncode == 0, err
    return out, err


def assert_reference(process: subprocess.Popen, *wanted: str) -> None:
    """The reference rules compute, and one line says why."""
    out, err = outcome(process)
    assert out == "reference True\n"
    *_, line = err.removeprefix(ONCE).splitlines()
    assert err.removeprefix(ONCE) == f"{line}\n"
    assert line.startswith("no compiled kernels, the slower reference rules compute (")
    for part in wanted:
        assert part in line


@pytest.fixture(scope="module")
def filled(tmp_path_factory):
    """A cache that one process has filled."""
    cache = tmp_path_factory.mktemp("filled")
    assert outcome(start(cache)) == ("compiled True\n", ONCE)
    return cache


@needs_kernels
def test_the_kernels_are_compiled_once_into_a_private_folder(filled, tmp_path):
    shutil.copytree(filled, tmp_path, dirs_exist_ok=True)
    folder = tmp_path / "minigam"
    assert sorted(path.suffix for path in folder.iterdir()) == [".so", ".txt"]
    if os.name == "posix":
        assert folder.stat().st_mode & 0o777 == 0o700
    assert outcome(start(tmp_path)) == ("compiled True\n", "")


@needs_kernels
def test_two_processes_may_compile_at_the_same_time(tmp_path):
    for process in [start(tmp_path) for _ in range(2)]:
        assert outcome(process)[0] == "compiled True\n"
    assert sorted(path.suffix for path in (tmp_path / "minigam").iterdir()) == [".so", ".txt"]


@posix
@needs_kernels
@pytest.mark.parametrize("mode", [0o770, 0o707, 0o777], ids=oct)
def test_a_folder_that_others_may_write_to_is_refused(mode, tmp_path):
    (tmp_path / "minigam").mkdir()
    (tmp_path / "minigam").chmod(mode)
    assert_reference(start(tmp_path), f"{tmp_path / 'minigam'}: others may write to it")


@posix
@needs_kernels
def test_a_folder_that_others_may_read_becomes_private(filled, tmp_path):
    shutil.copytree(filled, tmp_path, dirs_exist_ok=True)
    (tmp_path / "minigam").chmod(0o755)
    assert outcome(start(tmp_path)) == ("compiled True\n", "")
    assert (tmp_path / "minigam").stat().st_mode & 0o777 == 0o700


def test_the_folder_is_the_one_of_XDG_CACHE_HOME_or_in_the_home(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    assert compiler.cache_folder() == tmp_path / "caches" / "minigam"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(sys, "platform", "linux")
    assert compiler.cache_folder() == tmp_path / ".cache" / "minigam"
    monkeypatch.setattr(sys, "platform", "darwin")
    assert compiler.cache_folder() == tmp_path / "Library" / "Caches" / "minigam"


@posix
def test_a_folder_of_somebody_else_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    with pytest.raises(compiler.NoCompiler, match="others may write to it"):
        compiler.cache_folder()


@needs_kernels
def test_a_folder_that_cannot_be_made_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    assert_reference(start(tmp_path / "file"), str(tmp_path / "file"), "set XDG_CACHE_HOME")


@posix
@needs_kernels
def test_a_home_that_cannot_be_written_is_said(tmp_path):
    home = tmp_path if os.getuid() else Path("/proc")  # root may write to any folder but such
    if not home.exists():
        pytest.skip("root may write to any folder of this system")
    if home == tmp_path:
        home.chmod(0o500)
    assert_reference(start("", HOME=str(home)), str(home), "set XDG_CACHE_HOME")


LOUD = """
echo 'cc: a warning first' >&2
echo 'kernels.c:7:1: error: the seventh line is odd' >&2
echo 'kernels.c:9:1: error: so is the ninth' >&2
exit 3
"""


@pytest.mark.parametrize(
    ("cc", "wanted"),
    [
        ("no-such-compiler -O2", "CC is no-such-compiler -O2, which is not a command"),
        ("false", "false failed with exit code 1: no message"),
        ("true", "true failed with exit code 0: no message"),  # it writes no library
        ("sh loud.sh", "failed with exit code 3: kernels.c:7:1: error: the seventh line is odd"),
        ("sh slow.sh", "timed out"),
    ],
)
def test_a_compiler_that_does_not_work_is_said(cc, wanted, tmp_path, monkeypatch):
    command, *_ = cc.split()
    if command != "no-such-compiler" and shutil.which(command) is None:
        pytest.skip(f"this system has no command {command}")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "loud.sh").write_text(LOUD)
    (tmp_path / "slow.sh").write_text("exec sleep 60")
    hurried = "from minigam.engine import compiler; compiler.PATIENCE_S = 0.5\n"
    cache = tmp_path / "cache"
    path = os.pathsep.join([ROOT, os.environ.get("PYTHONPATH", "")])
    assert_reference(start(cache, hurried + CODE, CC=cc, PYTHONPATH=path), wanted)
    assert not list(cache.glob("minigam/*.so")) + list(cache.glob("minigam/.*"))  # nothing half-written


def test_no_compiler_at_all_is_said(tmp_path):
    hide = "import importlib.util; importlib.util.find_spec = lambda name: None\n"
    assert_reference(start(tmp_path, hide + CODE, CC="", PATH=str(tmp_path)), "no C compiler; install one")


def flipped(content: bytes) -> bytes:
    """Change a byte in the middle."""
    i = len(content) // 2
    return content[:i] + bytes([content[i] ^ 255]) + content[i + 1 :]


DAMAGES = {
    "empty": lambda content: b"",
    "cut": lambda content: content[:50],
    "half": lambda content: content[: len(content) // 2],
    "zeros": lambda content: bytes(len(content)),
    "flipped": flipped,
    "text": lambda content: "\N{SNOWMAN}".encode("utf-16") * 50,
}


@needs_kernels
@pytest.mark.parametrize("suffix", [".so", ".txt"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_library_is_said(damage, suffix, filled, tmp_path):
    """And not loaded: half of one ends the process with SIGBUS."""
    shutil.copytree(filled, tmp_path, dirs_exist_ok=True)
    (path,) = (tmp_path / "minigam").glob(f"*{suffix}")
    path.write_bytes(DAMAGES[damage](path.read_bytes()))
    assert_reference(start(tmp_path), f"{path.with_suffix('.so')}: damaged; remove it")


@needs_kernels
def test_a_library_whose_text_is_gone_is_said(filled, tmp_path):
    shutil.copytree(filled, tmp_path, dirs_exist_ok=True)
    (path,) = (tmp_path / "minigam").glob("*.txt")
    path.unlink()
    assert_reference(start(tmp_path), path.name)


@needs_kernels
def test_a_removed_library_is_compiled_again(filled, tmp_path):
    shutil.copytree(filled, tmp_path, dirs_exist_ok=True)
    for path in (tmp_path / "minigam").glob("*.so"):
        path.unlink()
    assert outcome(start(tmp_path)) == ("compiled True\n", ONCE)


@needs_kernels
def test_kernels_that_compute_wrongly_are_not_used(tmp_path):
    spoil = (
        "from minigam.engine.compiled import kernels\n"
        "wrong = [s.replace('sigmoid_(x) * (1 + x', 'sigmoid_(x) * (2 + x') for s in kernels.SOURCES]\n"
        "kernels.SOURCES[:] = wrong\n"
    )
    assert_reference(start(tmp_path, spoil + CODE), "the kernels of silu are wrong on this machine")


@needs_kernels
def test_another_source_or_flag_is_another_library(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for source, macro in (("int a;", "-DA"), ("int a;", "-DB"), ("int b;", "-DB")):
        compiler.library(source, macro)
    assert len(list((tmp_path / "minigam").glob("*.so"))) == 3


def test_ziglang_compiles_where_it_is_installed(tmp_path):
    pytest.importorskip("ziglang", reason="ziglang is not installed")
    out, err = outcome(start(tmp_path, CC=f"{sys.executable} -m ziglang cc"))
    assert (out, err) == ("compiled True\n", ONCE)
