"""Count n-grams in prepared corpora and measure their perplexity on the validation rows.

The paper's table 1 has no counted model. This table has, with the paper's row length and, if the corpora were
prepared with the defaults, its tokenisation: byte pairs, 10,000 entries. The smoothing is interpolated
Kneser-Ney.
"""

import math
from pathlib import Path

from benchmarks import measure
from minigam import GAMConfig, cli
from minigam.config import InputError
from minigam.data.corpus import find_prepared, from_prepared, read_meta
from minigam.experiments import paper, report
from minigam.training import provenance
from minigam.training.validation import ngrams

PROG = "benchmarks.ngrams"
ROW = GAMConfig().block_size  # T, tokens of a row, as in the paper
ORDER = 3


def parser() -> cli.Parser:
    p = cli.Parser(prog=f"python -m {PROG}", description=__doc__.splitlines()[0])
    p.add_argument("corpora", nargs="+", metavar="FOLDER", help="a folder that `minigam data prepare` wrote")
    p.add_argument("--out", type=Path, default=measure.RESULTS / "ngrams",
                   help="folder for results (default: benchmarks/results/ngrams)")  # fmt: skip
    return p


def counted(folder: Path) -> dict:
    """Return what was counted in one corpus, and the loss of each n-gram model in nats per token."""
    corpus, meta = from_prepared(folder, ROW), read_meta(folder)
    return {
        "sources": meta["sources"],
        "corpus_sha256": corpus.fingerprint(),
        "vocabulary": len(corpus.tokenizer),
        "train_tokens": corpus.train_tokens(),
        "ngrams": ngrams(corpus, ORDER, progress=True),
    }


def main(argv: list[str] | None = None) -> int:
    args = parser().parse_args(argv)
    cli.require_folder(args.out)
    folders = [find_prepared(name) for name in args.corpora]  # before the first is counted
    names = [folder.name for folder in folders]
    if len({*names}) < len(names):
        raise InputError(f"folders are called {', '.join(names)}, wanted different names; rename one")
    measured = provenance.measured_by("numpy")
    corpora = {folder.name: counted(folder) for folder in folders}
    lines = []
    for name, corpus in corpora.items():
        models = list(corpus["ngrams"].values())[::-1]  # the shortest context first
        perplexities = [f"{math.exp(m['loss']):,.1f}" for m in models]
        sizes = (corpus["vocabulary"], corpus["train_tokens"], models[0]["tokens"])
        lines.append([name, *(f"{n:,}" for n in sizes), *perplexities])
    heads = ["perplexity per token of", "vocabulary", "counted tokens", "validation tokens"]
    text = report.table([*heads, "unigram", "bigram", "trigram"], lines)
    published = ", ".join(f"{name} {row[3]}" for name, row in paper.TABLE1["wikitext-2"].items())
    text += "\nInterpolated Kneser-Ney smoothing. The paper's perplexities on WikiText-2, with its own "
    text += f"tokenizer: {published}.\n"
    content = {"measured": measured, "corpora": corpora}
    report.write(args.out, "ngrams", content, [{"measured": measured}], text, None)
    return 0


if __name__ == "__main__":
    cli.run(main, PROG)
