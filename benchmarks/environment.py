"""Print one line about the machine: BLAS and its threads, kernels, NumPy, PyTorch, processor, commit."""

from benchmarks import measure
from minigam import cli
from minigam.engine.compiled import kernels
from minigam.training import provenance

PROG = "benchmarks.environment"


def work(with_torch: bool) -> dict:
    """Load the libraries of a measurement, or minigam's kernels; return the compiler of the kernels.

    `measure.run` adds the versions of the libraries to the result.
    """
    if with_torch:
        import torch  # noqa: F401

        return {}
    return {"compiler": kernels.compiler_name()}


def line() -> str:
    """Return the line. It comes from fresh processes, so it describes what a measurement runs with."""
    results = [measure.fresh(PROG, "environment", {"with_torch": with_torch}) for with_torch in (False, True)]
    compiler, (own, peer) = results[0]["compiler"], (r["libraries"] for r in results)
    rules = f"kernels compiled by {compiler}" if compiler else "no compiled kernels, reference rules"
    machine = provenance.machine()
    return (
        f"{own['blas']}; {rules}; numpy {own['numpy']}; torch {peer['torch']}; "
        f"{machine['processor']}, {machine['cores']} cores; commit {provenance.commit()}"
    )


def main(argv: list[str] | None = None) -> int:
    cli.Parser(prog=f"python -m {PROG}", description=__doc__).parse_args(argv)
    measure.require("torch", "threadpoolctl")
    print(line())
    return 0


if __name__ == "__main__":
    measure.run(main, work, PROG)
