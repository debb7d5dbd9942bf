"""How far the default run with two BLAS threads drifts from the one with one thread."""

from helpers import short_runs
from helpers.campaigns import campaign, pick

EARLY = 20  # steps in which rounding has not grown yet


def test_losses_hardly_depend_on_the_number_of_threads(tmp_path):
    """The BLAS cuts long sums at other places, and training lets the difference grow."""
    flags = ["--backend=numpy", *pick(["--stories=300", "--valid-stories=20", "--steps=5"], [])]
    losses = {}
    with campaign("blas_threads") as c:
        for threads in (1, 2):
            folder = tmp_path / str(threads)
            short_runs.finish(short_runs.start(folder, threads, models=["gam"], flags=flags))
            losses[threads] = short_runs.losses(folder / "gam")
            c.count("losses", len(losses[threads]))
        drift = [abs(a / b - 1.0) for a, b in zip(losses[1], losses[2], strict=True)]
        c.measured = {
            f"largest relative difference of a loss, steps 1 to {EARLY}": max(drift[:EARLY]),
            "largest relative difference of a loss": max(drift),
            "final validation loss, 1 thread": losses[1][-1],
            "final validation loss, 2 threads": losses[2][-1],
        }
        if max(drift[:EARLY]) > 1e-6:
            c.fault(f"a loss of the first {EARLY} steps differs by {max(drift[:EARLY]):.1e}")
        if max(drift) > 1e-4:
            c.fault(f"a loss differs by {max(drift):.1e}")
