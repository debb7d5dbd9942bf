"""Download the paper's datasets, and prepare them or your own copies for training."""

import shlex
from argparse import Namespace
from pathlib import Path

from minigam import cli
from minigam.config import InputError
from minigam.data.corpus import read_meta
from minigam.data.datasets import DATASETS, SPLITS, find_texts
from minigam.data.download import Download
from minigam.data.prepare import ROWS, VOCAB_SIZE, fetched_parts, local_parts, prepare

PROG = "minigam data"


def parser() -> cli.Parser:
    p = cli.Parser(
        prog=PROG, description=f"{__doc__} `minigam data ACTION --help` lists the flags and their defaults."
    )
    actions = p.add_subparsers(dest="action", required=True, metavar="ACTION")

    def action(name: str, help: str, dataset: bool = True) -> cli.Parser:
        sub = actions.add_parser(name, help=help, description=cli.sentence(help))
        if dataset:
            sub.add_argument("dataset", choices=DATASETS, metavar="NAME", help=" or ".join(DATASETS))
        sub.add_argument("--data-root", type=Path, default=Path("data"), metavar="FOLDER",
                         help="folder of downloads, with a subfolder for each dataset "
                         "(default: data)")  # fmt: skip
        return sub

    action("list", "list the datasets and their files, and show which are on disk", dataset=False)
    sub = action("fetch", "download a dataset from the Hugging Face hub, or from the server in HF_ENDPOINT")
    sub.add_argument("--offline", action="store_true", help="download nothing; check the files on disk")
    cli.add_trust_flag(sub)

    sub = action("prepare", "tokenise a dataset as the paper does")
    sub.add_argument("--from", dest="folder", type=Path, metavar="FOLDER",
                     help="read text files from this folder instead of the downloads")  # fmt: skip
    sub.add_argument("--train", type=Path, metavar="FILE", help="train on this text or parquet file")
    sub.add_argument("--valid", type=Path, metavar="FILE",
                     help="validate on this file (default: the last tenth of --train)")  # fmt: skip
    sub.add_argument("--out", type=Path, metavar="FOLDER",
                     help="folder to write (default: NAME-prepared, next to the downloads)")  # fmt: skip
    for flag, default, meaning in (
        ("--train-rows", ROWS["train"], "maximum number of training rows"),
        ("--valid-rows", ROWS["valid"], "maximum number of validation rows"),
        ("--vocab-size", VOCAB_SIZE, "V, maximum size of the vocabulary; more only to hold every character"),
    ):
        sub.add_argument(flag, type=int, default=default, help=f"{meaning} (default: {default})")
    sub.add_argument("--tokenizer-on", choices=("train", "all"), default="train",
                     help="rows to train the tokenizer on: train, or all splits, including test, as the "
                     "authors do (default: train)")  # fmt: skip
    cli.add_trust_flag(sub)
    return p


def main(argv: list[str] | None = None) -> int:
    args = parser().parse_args(argv)
    {"list": _list, "fetch": _fetch, "prepare": _prepare}[args.action](args)
    return 0


def _list(args: Namespace) -> None:
    for name, dataset in DATASETS.items():
        download, first = Download(name, args.data_root), next(iter(dataset.hub.values()))
        print(f"{name}   {first.repo} at {first.revision[:8]}, licence {dataset.licence}")
        for split, file in dataset.hub.items():
            path = download.folder / file.path
            size = path.stat().st_size if path.is_file() else None
            state = {None: "not here", file.size: "here"}.get(size, f"wrong size, {size} bytes")
            print(f"  {split:<6} {file.size:>12,} bytes  {file.path}  ({state})")
        if download.prepared.is_dir():
            try:
                splits = read_meta(download.prepared)["splits"]
            except InputError as e:
                print(f"  prepared, but not usable: {e}")
                continue
            counts = ", ".join(f"{split} {n['tokens']:,} tokens" for split, n in splits.items())
            print(f"  prepared in {download.prepared}: {counts}")


def _fetch(args: Namespace) -> None:
    Download(args.dataset, args.data_root, args.trust_download).fetch(args.offline)


def _prepare(args: Namespace) -> None:
    cli.require_at_least(args, train_rows=1, valid_rows=1, vocab_size=1)
    if args.folder is not None and (args.train or args.valid):
        raise InputError("--from finds the files by name, wanted no --train or --valid; omit them, or --from")
    if args.valid is not None and args.train is None:
        raise InputError("--valid without a training file, wanted both; add --train FILE")
    download = Download(args.dataset, args.data_root)
    if args.folder is not None:
        parts = local_parts(args.dataset, find_texts(args.dataset, args.folder))
    elif args.train is not None:
        paths = {s: p for s, p in zip(SPLITS, (args.train, args.valid)) if p is not None}
        parts = local_parts(args.dataset, paths)
    else:
        parts = fetched_parts(args.dataset, download.folder, args.trust_download)
    out = args.out or download.prepared
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
            f"{split}: {n['tokens']:,} tokens from {n['rows']:,} rows, {n['documents']:,} of them with text; "
            f"{n['unknown_share']:.3%} [UNK]"
        )
    command = f"minigam train --dataset {shlex.quote(str(out))}"
    print(f"{out}: vocabulary {meta['tokenizer']['entries']:,}. Train: {command}")


if __name__ == "__main__":
    cli.run(main, PROG)
