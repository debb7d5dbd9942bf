"""Call commands in tests: flags of a run that takes a second, and a check of refused input."""

import pytest

from minigam import cli

SMALL = [
    "--backend=numpy", "--stories=20", "--valid-stories=2", "--d-model=8", "--n-layers=1",
    "--batch-size=2", "--steps=2",
]  # fmt: skip
ON_TEXT = [flag for flag in SMALL if "stories" not in flag]


def call(main, argv, capsys) -> tuple[int, str, str]:
    """Run a command as `python -m` would; return exit code, stdout and stderr."""
    with pytest.raises(SystemExit) as exit:
        cli.run(lambda: main([str(a) for a in argv]), "command")
    out, err = capsys.readouterr()
    return exit.value.code or 0, out, err


def assert_refused(main, argv, capsys, *wanted: str) -> None:
    code, _, err = call(main, argv, capsys)
    assert code == 2, err
    assert err.count("\n") == 1, err
    assert "Traceback" not in err
    for part in wanted:
        assert part in err
