"""Run a command, or list them all: `minigam NAME` or `python -m minigam NAME`."""

import ast
import difflib
import sys
from importlib import import_module
from pathlib import Path

from minigam import __version__

COMMANDS = ("train", "generate", "evaluate", "explain", "data", "experiments", "gradcheck", "course")


def module_of(name: str) -> str:
    """Return the module of a command: a file, or the `__main__` of a folder."""
    return f"{name}.__main__" if (Path(__file__).parent / name).is_dir() else name


def listing() -> str:
    """Return one line for each command, read from its source file, so that no command is imported."""
    lines = ["minigam: Gated Associative Memory from scratch\n\nCommands (each has --help):\n"]
    for name in COMMANDS:
        source = Path(__file__).parent / f"{module_of(name).replace('.', '/')}.py"
        doc = ast.get_docstring(ast.parse(source.read_text(encoding="utf-8"))) or ""
        lines.append(f"  minigam {name:<12}{doc.splitlines()[0]}")
    return "\n".join(lines)


def main() -> None:
    """Run the command that the first argument names and exit with its code; 2 for an unknown command."""
    name, *rest = sys.argv[1:] or ["--help"]
    if name in COMMANDS:
        from minigam import cli  # here, so that the listing stays fast

        command = import_module(f"minigam.{module_of(name)}")
        cli.run(lambda: command.main(rest), command.PROG)
    elif name in ("-h", "--help"):
        print(listing())
    elif name in ("-V", "--version"):
        print(f"minigam {__version__}")
    else:
        near = difflib.get_close_matches(name, COMMANDS, n=1)
        guess = f"did you mean {near[0]}?" if near else f"choose from {', '.join(COMMANDS)}"
        print(f"minigam: no command {name!r}, {guess} (--help lists them)", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
