"""Download the paper's datasets, and prepare them or your own copies for training."""

from argparse import Namespace
from pathlib import Path

from minigam import cli
from minigam.config import InputError
from minigam.data.datasets import DATASETS, SPLITS, find_texts
from minigam.data.hub import fetch
from minigam.data.prepare import fetched_parts, local_parts, prepare, read_meta

PROG = "minigam data"


def parser() -> cli.Parser:
    p = cli.Parser(
        prog=PROG, description=f"{__doc__} Each action has --help with its flags and their defaults."
    )
    actions = p.add_subparsers(dest="action", required=True, metavar="ACTION")

    def action(name: str, does: str, dataset: bool = True) -> cli.Parser:
        sub = actions.add_parser(name, help=does, description=f"{does[0].upper()}{does[1:]}.")
        if dataset:
            sub.add_argument("dataset", choices=DATASETS, metavar="NAME", help=" or ".join(DATASETS))
        sub.add_argument("--data-root", type=Path, default=Path("data"), metavar="FOLDER",
                         help="where downloads lie, each dataset in a folder (default: data)")  # fmt: skip
        return sub

    def trust(sub: cli.Parser) -> None:
        sub.add_argument("--trust-download", action="store_true",
                         help="go on with a file whose SHA-256 is not the known one")  # fmt: skip

    action("list", "list the datasets, their files and what is here", dataset=False)
    sub = action("fetch", "download a dataset from the Hugging Face hub, or from where HF_ENDPOINT says")
    sub.add_argument("--offline", action="store_true", help="download nothing; say whether all is here")
    trust(sub)

    sub = action("prepare", "tokenise a dataset as the paper does")
    sub.add_argument("--from", dest="folder", type=Path, metavar="FOLDER",
                     help="take text files from this folder, not what was fetched")  # fmt: skip
    sub.add_argument("--train", type=Path, metavar="FILE", help="take this text or parquet file to train on")
    sub.add_argument("--valid", type=Path, metavar="FILE",
                     help="and this one to validate on (default: the last tenth of --train)")  # fmt: skip
    sub.add_argument("--out", type=Path, metavar="FOLDER",
                     help="what to write (default: NAME-prepared beside the downloads)")  # fmt: skip
    for flag, default, meaning in (
        ("--train-rows", 50_000, "most rows to train on"),
        ("--valid-rows", 5_000, "most rows to validate on"),
        ("--vocab-size", 10_000, "V, most entries of the tokeniser, if that many hold all characters"),
    ):
        sub.add_argument(flag, type=int, default=default, metavar="N", help=f"{meaning} (default: {default})")
    sub.add_argument("--tokenizer-on", choices=("train", "all"), default="train",
                     help="rows to train the tokeniser on; all, the test split too, is the authors' way "
                     "(default: train)")  # fmt: skip
    trust(sub)
    return p


def main(argv: list[str] | None = None) -> int:
    args = parser().parse_args(argv)
    {"list": _list, "fetch": _fetch, "prepare": _prepare}[args.action](args)
    return 0


def _list(args: Namespace) -> None:
    for name, dataset in DATASETS.items():
        some = next(iter(dataset.hub.values()))
        print(f"{name}   {some.repo} at {some.revision[:8]}, licence {dataset.licence}")
        for split, file in dataset.hub.items():
            path = args.data_root / name / file.path
            here = path.stat().st_size if path.is_file() else None
            state = {None: "not here", file.size: "here"}.get(here, f"here with {here} bytes")
            print(f"  {split:<6} {file.size:>12,} bytes  {file.path}  ({state})")
        out = args.data_root / f"{name}-prepared"
        if meta := read_meta(out):
            counts = ", ".join(f"{split} {n['tokens']:,} tokens" for split, n in meta["splits"].items())
            print(f"  prepared in {out}: {counts}")


def _fetch(args: Namespace) -> None:
    folder = args.data_root / args.dataset
    for file in DATASETS[args.dataset].hub.values():
        done = fetch(file, folder, trust=args.trust_download, offline=args.offline)
        print(f"{folder / file.path}: {done}")


def _prepare(args: Namespace) -> None:
    cli.require_at_least(args, train_rows=1, valid_rows=1, vocab_size=1)
    if args.folder is not None and (args.train or args.valid):
        raise InputError("--from finds its files by their names; leave --train and --valid away, or --from")
    if args.valid is not None and args.train is None:
        raise InputError("--valid names a file to validate on, wanted --train FILE beside it")
    if args.folder is not None:
        parts = local_parts(args.dataset, find_texts(args.dataset, args.folder))
    elif args.train is not None:
        paths = {s: p for s, p in zip(SPLITS, (args.train, args.valid)) if p is not None}
        parts = local_parts(args.dataset, paths)
    else:
        parts = fetched_parts(args.dataset, args.data_root / args.dataset, args.trust_download)
    out = args.out or args.data_root / f"{args.dataset}-prepared"
    meta = prepare(
        args.dataset,
        parts,
        out,
        rows={"train": args.train_rows, "valid": args.valid_rows},
        vocab_size=args.vocab_size,
        tokenizer_on=args.tokenizer_on,
    )
    for split, n in meta["splits"].items():
        print(
            f"{split}: {n['tokens']:,} tokens of {n['rows']:,} rows, {n['documents']:,} of them with text; "
            f"{n['unknown_share']:.3%} [UNK]"
        )
    print(f"{out}: {meta['tokenizer']['entries']:,} entries. Train: minigam train --dataset {out}")


if __name__ == "__main__":
    cli.run(main, PROG)
