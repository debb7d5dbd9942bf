"""Check the gradient of every operation, layer and model against central differences, in float64.

The exit code is 1 if any gradient is wrong.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from minigam import cli, gradcheck
from minigam.config import InputError
from minigam.files import replacing
from minigam.gradcheck.cases import CASES, LAYERS, MODELS, ModuleCase, OpCase, Problem
from minigam.viz.style import INK, LEGEND, STYLES, blank, finish

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PROG = "minigam gradcheck"
SWEPT = ("gelu", "softmax", "layer_norm", "associative_memory", "causal_conv1d")  # operations in the plot

# Tolerances so large that gradcheck returns any error instead of raising. An error is relative to the largest
# entry of the gradient, or to atol / rtol = 1e-3 if that is larger; every call here has the same ratio.
ANY_ERROR: dict[str, Any] = {"rtol": 1e6, "atol": 1e3}


def worst_error(case: OpCase | ModuleCase, problem: Problem, seed: int) -> tuple[float, str]:
    """Return the worst relative error of a case, and the message of a failed check or ''."""
    settings: dict[str, Any] = {"eps": case.step, "directions": case.directions, "seed": seed}
    try:
        return gradcheck(problem.f, *problem.leaves, rtol=case.limit, atol=1e-3 * case.limit, **settings), ""
    except AssertionError as e:
        message = str(e)
    try:  # again, for the error itself
        return gradcheck(problem.f, *problem.leaves, **settings, **ANY_ERROR), message
    except AssertionError:  # there is none: the gradient is nan or missing
        return float("nan"), message


def table(results: list[tuple]) -> str:
    """Lay out (case, shapes, error, message) in columns, with a heading for each group."""
    name = max(len(str(case)) for case, *_ in results)
    width = max(len(shapes) for _, shapes, *_ in results)
    lines = [f"  {'':{name}}  {'shapes':{width}}  worst relative error  limit"]
    group = None
    for case, shapes, error, message in results:
        if case.kind != group:
            group = case.kind
            lines.append(f"{group}s")
        verdict = "FAIL" if message else "ok"
        lines.append(f"  {case!s:{name}}  {shapes:{width}}  {error:20.1e}  {case.limit:.0e}  {verdict}")
    return "\n".join(lines)


def plot_eps_sweep(seed: int, library: str) -> "Figure":
    """Plot the worst error against eps: a U, with rounding on its left and truncation on its right.

    The convolution is linear in every single entry, so it has no truncation error: half a U.
    """
    all_eps = [10.0 ** (-k / 4) for k in range(4, 49)]  # 1e-1 to 1e-12
    figure, ((axes,),) = blank(7.5, 5.0)
    for name, style in zip(SWEPT, STYLES, strict=True):
        problem = next(c for c in CASES if c.name == name).problem(seed, library)
        errors = [gradcheck(problem.f, *problem.leaves, eps=eps, **ANY_ERROR) for eps in all_eps]
        axes.loglog(all_eps, errors, **style, markevery=4, markersize=5, linewidth=1.3, label=name)
    axes.axvline(1e-5, color=INK, alpha=0.3, linewidth=6, zorder=0, label="the default, 1e-5")
    axes.set(
        title="Gradient check: worst relative error against the step",
        xlabel="eps, step of the central difference\n"
        "(left: rounding, grows as 1/eps; right: truncation, grows as eps²)",
        ylabel="worst relative error",
    )
    axes.legend(**LEGEND)
    return finish(figure)


def main(argv: list[str] | None = None) -> int:
    p = cli.Parser(prog=PROG, description=__doc__)
    p.add_argument("--seed", type=int, default=0, help="seed of all random numbers (default: 0)")
    p.add_argument("--eps-sweep", action="store_true", help="also plot the worst error against eps")
    p.add_argument("-o", "--out", dest="output", type=Path, default=Path("gradcheck.png"), metavar="FILE",
                   help="file for the plot, .png, .pdf or .svg (default: gradcheck.png)")  # fmt: skip
    cli.add_backend_flag(p, default="numpy")
    args = p.parse_args(argv)
    if args.seed < 0:
        raise InputError(f"--seed is {args.seed}, wanted a whole number, at least 0")
    if args.output.suffix not in (".png", ".pdf", ".svg"):
        raise InputError(f"--out is {args.output}, wanted a name that ends in .png, .pdf or .svg")
    if not args.output.parent.is_dir():
        raise InputError(f"--out is {args.output}, wanted a name in a folder that exists")
    library = cli.choose_backend(args.backend, args.kernels)

    results = []
    for case in tqdm([*CASES, *LAYERS, *MODELS], unit="check", delay=2, leave=False):
        problem = case.problem(args.seed, library)
        results.append((case, problem.shapes, *worst_error(case, problem, args.seed)))
    print(table(results))
    wrong = [(case, message) for case, _, _, message in results if message]
    for case, message in wrong:
        print(f"FAIL {case.kind} {case}: {message}")
    print(f"{len(results)} checks, {len(wrong)} failed")
    if args.eps_sweep:
        with replacing(args.output) as temporary:
            plot_eps_sweep(args.seed, library).savefig(temporary, dpi=150)
        print(f"wrote {args.output}")
    return 1 if wrong else 0


if __name__ == "__main__":
    cli.run(main, PROG)
