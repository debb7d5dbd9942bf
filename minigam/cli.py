"""Code that the commands share: flags from configurations, one-line errors, exit codes."""

import argparse
import difflib
import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import fields
from io import TextIOWrapper
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from minigam import interrupt, launcher
from minigam.config import LARGEST, InputError, shortened
from minigam.engine import backend
from minigam.engine.compiled import kernels
from minigam.engine.memory import ran_out


class _Formatter(argparse.HelpFormatter):
    """Shows what sort of value a flag takes: a whole number N, a number X, a FOLDER, a TEXT."""

    def _get_default_metavar_for_optional(self, action: argparse.Action) -> str:
        letters: dict[Any, str] = {int: "N", float: "X", Path: "FOLDER"}
        return letters.get(action.type, "TEXT")


class Parser(argparse.ArgumentParser):
    """argparse with one-line errors that suggest the nearest flag. It takes --like_this for --like-this.

    Refuses an empty path, a whole number that does not fit into 64 bits, and text that is not Unicode.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(allow_abbrev=False, formatter_class=_Formatter, **settings)
        self.register("type", Path, _path)
        self.register("type", int, _whole)

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        args = sys.argv[1:] if args is None else list(args)
        for a in args:
            if re.fullmatch(r"--[^=]+=--|-[^-]--", a):  # argparse of Python 3.11 drops the value
                self.error(f"{a}: the value is --, wanted another")
            if re.search("[\0\ud800-\udfff]", a):
                self.error(f"{a!a}: not Unicode text, or with a zero character; write it in UTF-8")
        args = [re.sub(r"^--[\w-]+", lambda m: m[0].replace("_", "-"), a) for a in args]
        parsed, unknown = self.parse_known_args(args, namespace)
        if unknown:
            flags = [
                s
                for parser in self._chosen(args)
                for action in parser._actions
                for s in action.option_strings
            ]
            near = difflib.get_close_matches(unknown[0].split("=")[0], flags, n=1)
            self.error(f"unknown argument {unknown[0]}{f', did you mean {near[0]}?' if near else ''}")
        return parsed

    def _chosen(self, args: list[str]) -> Iterator["argparse.ArgumentParser"]:
        """Yield this parser, and the parser of the subcommand that the arguments name."""
        yield self
        for action in self._actions:
            if isinstance(action, argparse._SubParsersAction):
                yield from (action.choices[a] for a in args if a in action.choices)

    def error(self, message: str) -> NoReturn:
        message = shortened(" ".join(message.split()), 400)
        self.exit(2, f"{self.prog.removeprefix('python -m ')}: {message} (--help lists the flags)\n")


def sentence(text: str) -> str:
    """Return a line of a list of commands as the sentence that heads its own help."""
    return f"{text[0].upper()}{text[1:]}."


def file_name(text: str) -> str:
    """Return a name of a file or folder. An empty one is refused: Path would make it the current folder. So
    is a line break or another control character, which would garble every message about the file."""
    if not text:
        raise argparse.ArgumentTypeError("an empty name, wanted the name of a file or folder")
    if re.search(r"[\x00-\x1f\x7f]", text):
        raise argparse.ArgumentTypeError(f"{text!r} has a control character, wanted a name without one")
    return text


def _path(text: str) -> Path:
    return Path(file_name(text))


def _whole(text: str) -> int:
    """Return a whole number. Refuses one of more than 64 bits, which no count or seed needs."""
    number = int(text)
    if abs(number) > LARGEST:
        raise argparse.ArgumentTypeError(f"{shortened(text)} is too large, wanted at most {LARGEST}")
    return number


def add_flags(
    parser: argparse.ArgumentParser, config: type, defaults: dict, title: str, excluding: type | None = None
) -> None:
    """Add a flag for every field of a configuration, except those that the class `excluding` has.

    A flag that the user omits is absent from the result.
    """
    group = parser.add_argument_group(title)
    skipped = {f.name for f in fields(excluding)} if excluding is not None else set()
    for f in fields(config):
        if f.metadata.get("derived") or f.name in skipped:
            continue
        default = defaults.get(f.name, f.default)
        shown = "" if default is None else f" (default: {default})"
        value_type: type = Path if f.default is None else type(f.default)
        choices, metavar = f.metadata.get("choices"), f.metadata.get("metavar")
        settings: dict[str, Any] = {"type": file_name if metavar else value_type, "choices": choices}
        if value_type is bool:
            settings = {"action": argparse.BooleanOptionalAction}  # --name or --no-name
        elif choices is None:
            settings["metavar"] = metavar or ("FILE" if value_type is Path else None)
        flag, text = f"--{f.name.replace('_', '-')}", f.metadata["help"].replace("%", "%%") + shown
        group.add_argument(flag, dest=f.name, default=argparse.SUPPRESS, help=text, **settings)


def add_backend_flag(parser: argparse.ArgumentParser, default: str = "auto") -> None:
    """Add --backend and --kernels, for a command that computes."""
    help = f"array library; auto uses a GPU if one responds, and prints its choice (default: {default})"
    parser.add_argument("--backend", choices=("numpy", "cupy", "auto"), default=default, help=help)
    help = "rules on the CPU: C kernels, compiled once on a machine, or NumPy's (default: compiled)"
    parser.add_argument("--kernels", choices=("compiled", "reference"), default="compiled", help=help)


def add_trust_flag(parser: argparse.ArgumentParser) -> None:
    """Add --trust-download, for a command that downloads."""
    help = "accept a file whose SHA-256 differs from the recorded one"
    parser.add_argument("--trust-download", action="store_true", help=help)


def require_at_least(args: argparse.Namespace, **least: float) -> None:
    """Raise InputError for a flag whose value is below its minimum; flags not given are skipped."""
    for name, bound in least.items():
        given = getattr(args, name)
        for value in given if isinstance(given, list) else [given]:
            if value is not None and not value >= bound:  # not `<`, so that nan is refused too
                raise InputError(f"--{name.replace('_', '-')} is {value}, wanted at least {bound}")


def require_folder(out: Path | None) -> None:
    """Raise InputError for an --out that cannot hold results: now, not after an hour."""
    if out is None:
        return
    nearest = next(p for p in (out, *out.absolute().parents) if p.exists())
    if not (nearest.is_dir() and os.access(nearest, os.W_OK)):
        raise InputError(f"--out {out}: {nearest} is not a writable folder; choose another")


def choose_backend(name: str, rules: str = "compiled") -> str:
    """Resolve --backend, and use the rules that --kernels names. For auto, print one line on stderr: what was
    chosen and why. Raises InputError for reference rules on a GPU."""
    chosen, why = backend.choose(name)
    if name == "auto" and launcher.rank() == 0:
        print(f"backend {chosen} (auto: {why})", file=sys.stderr)
    if chosen == "cupy" and rules == "reference":
        raise InputError("--kernels reference has no effect on backend cupy; omit it, or add --backend numpy")
    kernels.choose(rules)
    return chosen


def run(main: Callable[[], int], prog: str) -> NoReturn:
    """Call a command's main and exit with its code. Exit with 2 and one line for an error that the user
    can fix, with 1 and one line when memory runs out, with 130 for Ctrl-C, SIGTERM and SIGHUP."""
    _open_streams()
    try:
        # No warnings of NumPy: each command says itself what a number that is too large has led to.
        with interrupt.handled(), np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            code: Any = main()
            sys.stdout.flush()
    except (InputError, backend.BackendUnavailable, backend.UnknownBackend) as e:
        code = _say(2, f"{prog}: {e}")
    except BrokenPipeError:  # the reader of our output has quit, as head does
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123, SIM115
        code = 1
    except (MemoryError, RuntimeError) as e:
        if not ran_out(e):
            raise
        code = _say(1, f"{prog}: out of memory ({' '.join(str(e).split())}); choose a smaller model or batch")
    except OSError as e:
        code = _say(2, f"{prog}: {e.filename or 'a file'}: {e.strerror or e}")
    except KeyboardInterrupt:
        code = _say(130, f"{prog}: interrupted") if launcher.rank() == 0 else 130
    except SystemExit as e:  # which may come with a text in place of a code
        code = e.code
    for end in AT_EXIT:
        end(code if isinstance(code, int) else int(code is not None))
    sys.exit(code)


AT_EXIT: list[Callable[[int], None]] = []  # called with the exit code of a command that is about to end


def _open_streams() -> None:
    """Give the command two streams to write to, even if the caller closed them."""
    while (spare := os.open(os.devnull, os.O_RDWR)) < 3:  # no data file may become stream 0, 1 or 2
        pass
    os.close(spare)
    sys.stdout = sys.stdout or open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123, SIM115
    sys.stderr = sys.stderr or sys.stdout
    if isinstance(sys.stderr, TextIOWrapper) and sys.stderr is sys.__stderr__:
        sys.stderr = _Messages(sys.stderr.buffer, sys.stderr.encoding, sys.stderr.errors, line_buffering=True)
    if isinstance(sys.stdout, TextIOWrapper):
        # Write each line immediately, and print ? for a character that the terminal cannot show.
        sys.stdout.reconfigure(line_buffering=True, errors="replace")


class _Messages(TextIOWrapper):
    """The stream of messages. A full disk, or a reader that has left, does not end the command."""

    def write(self, text: str) -> int:
        with suppress(OSError):
            super().write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError):
            super().flush()


def _say(code: int, text: str) -> int:
    """Print a line on stderr; return the code."""
    print(text, file=sys.stderr)
    return code
