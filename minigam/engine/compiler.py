"""The C compiler of this machine, and the libraries it has built, kept in the user's cache folder."""

import ctypes
import hashlib
import importlib.util
import os
import platform
import shlex
import sys
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from minigam import launcher
from minigam.config import shortened

if TYPE_CHECKING:
    import subprocess

# The first lets a loop of comparisons become vector code, the second a product and a sum round once; the
# others change no number. None assumes that there is no nan or infinity.
FLAGS = ("-fno-trapping-math", "-ffp-contract=fast", "-fno-math-errno", "-O3", "-fopenmp-simd", "-std=gnu11",
         "-shared", "-fPIC", "-w")  # fmt: skip
NATIVE = ("-march=native", "-mcpu=native", "")  # names of "for this processor": the first that is understood
PATIENCE_S = 120  # for a compilation of a second or two
LAYOUT = "2"  # of what the cache holds: for each library a text, the compiler's name and the library's digest


class NoCompiler(RuntimeError):
    """C cannot be compiled or loaded here. The message is one line."""


def library(source: str, *macros: str) -> tuple[ctypes.CDLL, str]:
    """Return a C source as a loaded library, compiled unless the cache has it, and the name of its compiler.

    macros : such as "-DREAL=float"
    Raises NoCompiler.
    """
    command, folder = find(), cache_folder()
    key = "\n".join([LAYOUT, source, *macros, *FLAGS, *identity(command), *processor()])
    path = folder / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.so"
    try:
        if not path.exists():
            _compile(command, macros, source, path)
        text = path.with_suffix(".txt").read_text(encoding="utf-8", errors="replace")
        version, _, digest = text.rpartition("\n")
        if digest != _digest(path):  # to load half of a library ends the process
            raise NoCompiler(f"{path}: damaged; remove it")
        return ctypes.CDLL(str(path)), version
    except OSError as e:
        raise NoCompiler(shortened(" ".join(str(e).split()))) from e


def _compile(command: list[str], macros: tuple[str, ...], source: str, path: Path) -> None:
    """Write the library to `path`, whole or not at all, and before it the compiler's name and the digest."""
    from minigam.files import replacing, write_text  # which import much that a learner does not need

    if launcher.rank() == 0:
        print("compiling the kernels for the CPU (once on a machine)", file=sys.stderr)
    version = _run([*command, "--version"]).stdout.strip() or shlex.join(command)
    with replacing(path) as temporary:
        for native in NATIVE:
            flags = [*FLAGS, *filter(None, [native]), *macros, "-x", "c", "-", "-o", str(temporary), "-lm"]
            done = _run([*command, *flags], source)
            if done.returncode == 0 and temporary.stat().st_size > 0:
                write_text(path.with_suffix(".txt"), f"{version.splitlines()[0]}\n{_digest(temporary)}")
                return
        lines = done.stderr.splitlines() or ["no message"]
        reason = shortened(next((line for line in lines if "error" in line), lines[0]))
        raise NoCompiler(f"{shlex.join(command)} failed with exit code {done.returncode}: {reason}")


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _run(command: list[str], source: str = "") -> "subprocess.CompletedProcess[str]":
    import subprocess

    try:
        return subprocess.run(command, input=source, capture_output=True, text=True, timeout=PATIENCE_S)
    except (OSError, subprocess.TimeoutExpired, UnicodeDecodeError) as e:
        raise NoCompiler(f"{shlex.join(command[:2])}: {shortened(str(e))}") from e


@cache
def find() -> list[str]:
    """Return the command of the C compiler: $CC, cc, or the one of the package ziglang.

    Raises NoCompiler. Apple's cc without its tools is not asked, for it would open a dialog.
    """
    from shutil import which  # late: it loads much that a learner does not need

    if given := shlex.split(os.environ.get("CC", "")):
        if which(given[0]) is None:
            raise NoCompiler(f"CC is {shlex.join(given)}, which is not a command")
        return given
    cc = which("cc")
    if cc == "/usr/bin/cc" and sys.platform == "darwin":
        cc = cc if _run(["/usr/bin/xcode-select", "-p"]).returncode == 0 else None
    if cc is not None:
        return [cc]
    if importlib.util.find_spec("ziglang") is not None:
        return [sys.executable, "-m", "ziglang", "cc"]
    raise NoCompiler("no C compiler; install one, or pip install 'minigam[fast]'")


def identity(command: list[str]) -> list[str]:
    """Return texts that change with the compiler, without the cost of starting it."""
    from shutil import which

    file = os.path.realpath(which(command[0]) or command[0])
    status = Path(file).stat()
    zig = importlib.util.find_spec("ziglang") if "ziglang" in command else None
    return [*command, file, str(status.st_size), str(status.st_mtime_ns), str(zig and zig.origin)]


def processor() -> list[str]:
    """Return texts that change with the processor: a library is built for one and may fail on another."""
    texts = [*platform.uname()[:1], platform.node(), platform.machine(), platform.processor()]
    try:
        with Path("/proc/cpuinfo").open(encoding="utf-8") as f:
            lines = f.read(2**14).split("\n\n")[0].splitlines()
    except OSError:
        return texts
    names = ("model name", "flags", "Features", "CPU part")
    return texts + [line for line in lines if line.startswith(names)]


def cache_folder() -> Path:
    """Return the folder of compiled libraries, made if it is missing. Only its owner may write to it.

    Raises NoCompiler if it belongs to somebody else, or if others may write to it.
    """
    home = Path.home() if "HOME" in os.environ or sys.platform == "win32" else Path("/nonexistent")
    usual = {
        "darwin": home / "Library" / "Caches",
        "win32": Path(os.environ.get("LOCALAPPDATA", home / "AppData" / "Local")),
    }.get(sys.platform, home / ".cache")
    folder = Path(os.environ.get("XDG_CACHE_HOME") or usual) / "minigam"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as e:
        raise NoCompiler(f"{folder}: {e.strerror or e}; set XDG_CACHE_HOME to a folder of yours") from e
    if hasattr(os, "getuid"):
        status = folder.stat()
        if status.st_uid != os.getuid() or status.st_mode & 0o022:
            raise NoCompiler(f"{folder}: others may write to it, wanted a folder of yours alone; remove it")
        if status.st_mode & 0o077:
            folder.chmod(0o700)
    return folder
