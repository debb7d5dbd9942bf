"""Draw the stored plots again from the numbers stored next to them; nothing is measured."""

from collections.abc import Callable
from pathlib import Path

from tqdm import tqdm

from benchmarks import generate, measure, ranks, ranks_model, scaling, threads, train_step, trajectory
from minigam import cli
from minigam.config import InputError
from minigam.experiments import comparison, reach, recall
from minigam.experiments import scaling as table2
from minigam.files import read_json, replacing
from minigam.training.run import Run
from minigam.viz import loss_plot

PROG = "benchmarks.redraw"
REMEDY = "restore it from the repository"
PLOTS: dict[str, Callable] = {  # the name of a PNG: the figure of the content of its JSON file
    "generate": lambda c: generate.plot(c["summary"]),
    "ranks": lambda c: ranks.plot(c["configs"]),
    "ranks_model": ranks_model.plot,
    "reach": reach.plot,
    "recall": recall.plot,
    "scaling": scaling.plot,
    "table1": lambda c: comparison.plot(c, comparison.TABLE1),
    "table1_curves": lambda c: comparison.plot_curves(c, comparison.TABLE1),
    "table2": table2.plot,
    "table3": lambda c: comparison.plot(c, comparison.TABLE3),
    "threads": lambda c: threads.plot(c["configs"], c["threads"]),
    "train_step": lambda c: train_step.plot(c["configs"]),
    "trajectory": lambda c: trajectory.plot(c["cells"]),
}
DPI = 120  # as the commands that measure


def figure_of(png: Path):
    """Return the figure of a stored plot; None if it is not drawn from numbers, as the explain page is."""
    if png.stem == "loss":
        return loss_plot(Run(png.parent).metrics(), title=Run(png.parent).config.data.dataset)
    plot = PLOTS.get(png.stem)
    content = png.with_name(f"{png.stem.removesuffix('_curves')}.json")
    return None if plot is None else plot(read_json(content, REMEDY))


def main(argv: list[str] | None = None) -> int:
    p = cli.Parser(prog=f"python -m {PROG}", description=__doc__)
    p.add_argument("folder", nargs="?", type=Path, default=measure.RESULTS,
                   help="folder with folders of results (default: benchmarks/results)")  # fmt: skip
    args = p.parse_args(argv)
    pictures = sorted(args.folder.glob("*/*.png"))
    if not pictures:
        raise InputError(f"{args.folder}: no */*.png in it, wanted a folder with folders of results")
    for png in tqdm(pictures, disable=None, unit="plot"):
        if (figure := figure_of(png)) is not None:
            with replacing(png) as temporary:
                figure.savefig(temporary, dpi=DPI, format="png")
    return 0


if __name__ == "__main__":
    cli.run(main, PROG)
