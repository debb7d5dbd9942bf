"""What the commands share: flags from configurations, one-line errors, exit codes."""

import argparse
import difflib
import os
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import fields
from io import TextIOWrapper
from pathlib import Path
from typing import Any, NoReturn

from minigam.config import InputError
from minigam.engine import backend


class Parser(argparse.ArgumentParser):
    """argparse with one line an error, a guess at what was meant, --like-this for --like_this, and no
    path without a name."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(allow_abbrev=False, **settings)
        self.register("type", Path, _path)

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        args = sys.argv[1:] if args is None else list(args)
        args = [re.sub(r"^--[\w-]+", lambda m: m[0].replace("_", "-"), a) for a in args]
        parsed, unknown = self.parse_known_args(args, namespace)
        if unknown:
            known = [
                s
                for parser in self._chosen(args)
                for action in parser._actions
                for s in action.option_strings
            ]
            near = difflib.get_close_matches(unknown[0].split("=")[0], known, n=1)
            self.error(f"unknown argument {unknown[0]}{f', did you mean {near[0]}?' if near else ''}")
        return parsed

    def _chosen(self, args: list[str]) -> Iterator["argparse.ArgumentParser"]:
        """Yield this parser and the one of the subcommand that the arguments name."""
        yield self
        for action in self._actions:
            if isinstance(action, argparse._SubParsersAction):
                yield from (action.choices[a] for a in args if a in action.choices)

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog.removeprefix('python -m ')}: {message} (--help lists the flags)\n")


def _path(name: str) -> Path:
    """Return the path of that name; the empty one would be the current folder."""
    if not name:
        raise argparse.ArgumentTypeError("an empty name, wanted that of a file or a folder")
    return Path(name)


def add_flags(
    parser: argparse.ArgumentParser, config: type, defaults: dict, title: str, besides: type | None = None
) -> None:
    """Add a flag for every field of a configuration that is not one of `besides` too.

    A flag not given is absent from the result.
    """
    group = parser.add_argument_group(title)
    known = {f.name for f in fields(besides)} if besides is not None else set()
    for f in fields(config):
        if f.metadata.get("derived") or f.name in known:
            continue
        default = defaults.get(f.name, f.default)
        shown = "" if default is None else f" (default: {default})"
        kind: type = Path if f.default is None else type(f.default)
        choices = f.metadata.get("choices")
        shape: dict[str, Any] = {"type": kind, "choices": choices}
        if kind is bool:
            shape = {"action": argparse.BooleanOptionalAction}  # --name or --no-name
        elif choices is None:
            shape["metavar"] = f.metadata.get("metavar") or {int: "N", float: "X", Path: "FILE"}[kind]
        group.add_argument(
            f"--{f.name.replace('_', '-')}",
            dest=f.name,
            default=argparse.SUPPRESS,
            help=f.metadata["help"].replace("%", "%%") + shown,
            **shape,
        )


def add_backend_flag(parser: argparse.ArgumentParser, default: str = "auto") -> None:
    """Add --backend, which every command that computes has."""
    what = f"where to compute; auto takes a GPU that answers, and says so (default: {default})"
    parser.add_argument("--backend", choices=("numpy", "cupy", "auto"), default=default, help=what)


def require_at_least(args: argparse.Namespace, **least: float) -> None:
    """Raise InputError for a flag with a value below its least; one not given is no fault."""
    for name, bound in least.items():
        given = getattr(args, name)
        for value in given if isinstance(given, list) else [given]:
            if value is not None and not value >= bound:  # so that nan is refused too
                raise InputError(f"--{name.replace('_', '-')} is {value}, wanted at least {bound}")


def require_folder(out: Path | None) -> None:
    """Raise InputError now, not after an hour, for an --out that cannot hold results."""
    if out is None:
        return
    nearest = next(p for p in (out, *out.absolute().parents) if p.exists())
    if not (nearest.is_dir() and os.access(nearest, os.W_OK)):
        raise InputError(f"--out {out}: {nearest} is no folder that can be written to; choose another")


def choose_backend(name: str) -> str:
    """Resolve --backend, with one line on stderr that says what was chosen and why."""
    chosen, why = backend.choose(name)
    if name == "auto":
        print(f"backend {chosen} (auto: {why})", file=sys.stderr)
    return chosen


def run(main: Callable[[], int], prog: str) -> NoReturn:
    """Call a command's main and exit: 2 and one line for what the user can mend, 1 and one line
    when memory runs out, 130 for Ctrl-C."""
    if isinstance(sys.stdout, TextIOWrapper):
        # Each line when it is printed, and ? for what a terminal cannot show.
        sys.stdout.reconfigure(line_buffering=True, errors="replace")
    try:
        code = main()
    except (InputError, backend.BackendUnavailable, backend.UnknownBackend) as e:
        code = 2
        print(f"{prog}: {e}", file=sys.stderr)
    except BrokenPipeError:  # whoever read our output has gone, as head does
        sys.stdout = open(os.devnull, "w")  # noqa: PTH123, SIM115
        code = 1
    except MemoryError as e:
        code = 1
        print(f"{prog}: out of memory ({e}); choose a smaller model or batch", file=sys.stderr)
    except OSError as e:
        code = 2
        print(f"{prog}: {e.filename or 'a file'}: {e.strerror or e}", file=sys.stderr)
    except KeyboardInterrupt:
        code = 130
        print(f"{prog}: interrupted", file=sys.stderr)
    sys.exit(code)
