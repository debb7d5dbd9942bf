"""Run a command, or list them all: `minigam NAME`, `python -m minigam NAME`."""

import ast
import difflib
import sys
from importlib import import_module
from pathlib import Path

COMMANDS = ("train", "generate", "evaluate", "explain", "data", "experiments", "gradcheck", "course")


def listing() -> str:
    """Return one line for each command."""
    lines = ["minigam: Gated Associative Memory from scratch\n\nCommands (each has --help):\n"]
    for name in COMMANDS:
        doc = ast.get_docstring(ast.parse(_source(name).read_text(encoding="utf-8"))) or ""
        lines.append(f"  minigam {name:<12}{doc.splitlines()[0]}")
    return "\n".join(lines)


def _source(name: str) -> Path:
    folder = Path(__file__).parent / name
    return folder / "__main__.py" if folder.is_dir() else folder.with_suffix(".py")


def main() -> None:
    """Run the command that the first argument names; exit with its code, or with 2 where there is none."""
    name, *rest = sys.argv[1:] or [""]
    if name in COMMANDS:
        from minigam import cli

        command = import_module(
            f"minigam.{name}.__main__" if _source(name).stem == "__main__" else f"minigam.{name}"
        )
        cli.run(lambda: command.main(rest), command.PROG)
    if name in ("--version", "-V"):
        from minigam import __version__

        print(f"minigam {__version__}")
        return
    print(listing())
    if name not in ("", "-h", "--help"):
        near = difflib.get_close_matches(name, COMMANDS, n=1)
        guess = f", did you mean minigam {near[0]}?" if near else "; the commands are those above"
        print(f"minigam: no command {name!r}{guess}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
