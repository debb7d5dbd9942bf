"""List the commands."""

import ast
import sys
from pathlib import Path

COMMANDS = ("data", "train", "generate", "evaluate", "explain", "experiments", "gradcheck", "course")


def main() -> None:
    print("minigam: Gated Associative Memory from scratch\n\nCommands (each has --help):\n")
    for name in COMMANDS:
        room = Path(__file__).parent / name
        source = room / "__main__.py" if room.is_dir() else room.with_suffix(".py")
        doc = ast.get_docstring(ast.parse(source.read_text(encoding="utf-8"))) or ""
        print(f"  python -m minigam.{name:<12}{doc.splitlines()[0]}")


if __name__ == "__main__":
    main()
    if sys.argv[1:]:
        print(
            f"minigam: {sys.argv[1]!r} cannot follow; write python -m minigam.NAME as above", file=sys.stderr
        )
        sys.exit(2)
