"""Print what computes here: BLAS and its threads, NumPy, PyTorch, processor, commit."""

from benchmarks import measure
from minigam import cli
from minigam.experiments import report

PROG = "benchmarks.environment"


def work(with_torch: bool) -> dict:
    """Load what a measurement would; `measure.run` adds what was loaded."""
    if with_torch:
        import torch  # noqa: F401
    return {}


def line() -> str:
    """Return one line, asked of fresh processes, so that it says what really runs in one."""
    own, peer = (
        measure.fresh(PROG, "what computes here", {"with_torch": given})["libraries"]
        for given in (False, True)
    )
    machine = report.machine()
    return (
        f"{own['blas']}; numpy {own['numpy']}; torch {peer['torch']}; "
        f"{machine['processor']}, {machine['cores']} cores; commit {report.commit()}"
    )


def main(argv: list[str] | None = None) -> int:
    cli.Parser(prog=f"python -m {PROG}", description=__doc__).parse_args(argv)
    measure.require("torch", "threadpoolctl")
    print(line())
    return 0


if __name__ == "__main__":
    measure.run(main, work, PROG)
