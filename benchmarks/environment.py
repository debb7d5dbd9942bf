"""Print one line about the machine: BLAS and its threads, NumPy, PyTorch, processor, commit."""

from benchmarks import measure
from minigam import cli
from minigam.training import provenance

PROG = "benchmarks.environment"


def work(with_torch: bool) -> dict:
    """Load the libraries of a measurement; `measure.run` adds their versions to the result."""
    if with_torch:
        import torch  # noqa: F401
    return {}


def line() -> str:
    """Return the line. It comes from fresh processes, so it describes what a measurement runs with."""
    own, peer = (
        measure.fresh(PROG, "environment", {"with_torch": with_torch})["libraries"]
        for with_torch in (False, True)
    )
    machine = provenance.machine()
    return (
        f"{own['blas']}; numpy {own['numpy']}; torch {peer['torch']}; "
        f"{machine['processor']}, {machine['cores']} cores; commit {provenance.commit()}"
    )


def main(argv: list[str] | None = None) -> int:
    cli.Parser(prog=f"python -m {PROG}", description=__doc__).parse_args(argv)
    measure.require("torch", "threadpoolctl")
    print(line())
    return 0


if __name__ == "__main__":
    measure.run(main, work, PROG)
