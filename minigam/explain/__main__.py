"""Write an HTML page that shows what a trained GAM does with every word of a text."""

from argparse import Namespace
from pathlib import Path
from typing import cast

from minigam import cli
from minigam.config import MQAR, InputError
from minigam.data.corpus import IGNORE, Corpus
from minigam.data.tokenizer import Tokenizer
from minigam.explain import page as pages
from minigam.explain.page import Text
from minigam.files import write_text
from minigam.models.decoding import continued, first_ids
from minigam.models.gam import GAM
from minigam.models.lm import LanguageModel
from minigam.training.run import Run

PROG = "minigam explain"


def parser() -> cli.Parser:
    p = cli.Parser(prog=PROG, description=__doc__)
    p.add_argument("run", type=Path, metavar="RUN", help="run folder written by `minigam train`")
    p.add_argument(
        "--rival", type=Path, metavar="RUN",
        help="run of a transformer with the same vocabulary; its next words stand next to those of RUN",
    )  # fmt: skip
    p.add_argument("--prompt", help="text to explain (default: a story of the validation set)")
    p.add_argument("--story", type=int, help="row of the validation set to explain (default: 1)")
    p.add_argument("--tokens", type=int, default=0, help="tokens to sample after the prompt (default: 0)")
    p.add_argument(
        "--temperature", type=float, default=0.8,
        help="0: the likeliest token; 1: as the model believes (default: 0.8)",
    )  # fmt: skip
    p.add_argument("--seed", type=int, default=0, help="seed of the sampling (default: 0)")
    p.add_argument(
        "--rows", type=int, default=200,
        help="validation rows to search for the words that excite each slot (default: 200)",
    )  # fmt: skip
    p.add_argument(
        "-o", "--out", type=Path, default=Path("explain.html"), metavar="FILE",
        help="the page, one self-contained file (default: explain.html)",
    )  # fmt: skip
    cli.add_backend_flag(p)
    return p


def _checked(args: Namespace) -> tuple[Run, Run | None]:
    """Return the run to explain and its rival. Raises InputError for every fault that shows before a model is
    loaded."""
    cli.require_at_least(args, story=1, tokens=0, temperature=0, seed=0, rows=1)
    if args.out.is_dir() or not args.out.parent.is_dir():
        raise InputError(f"--out {args.out}: wanted a file in a folder that exists; choose another")
    if args.prompt is not None and args.story is not None:
        raise InputError("--story and --prompt: both given, wanted one of them; omit the other")
    if args.prompt is None and args.tokens:
        raise InputError("--tokens: no prompt to continue, wanted --prompt; add one")
    run = Run(args.run)
    if run.config.model_type != "gam":
        raise InputError(
            f"{run.path}: a run of {run.config.model_type}, wanted one of gam; "
            "the page shows gates and memory slots"
        )
    if run.config.data.dataset == MQAR:
        raise InputError(f"{run.path}: trained on {MQAR}, wanted a run on text")
    if args.rival is None:
        return run, None
    rival = Run(args.rival)
    if rival.config.model_type != "transformer":
        raise InputError(
            f"--rival {rival.path}: a run of {rival.config.model_type}, wanted one of transformer"
        )
    if rival.tokenizer().to_json() != run.tokenizer().to_json():
        raise InputError(f"--rival {rival.path}: another vocabulary, wanted that of {run.path}")
    return run, rival


def _require_live(model: LanguageModel, tokenizer: Tokenizer, path: Path) -> None:
    if why := pages.why_not_live(model, tokenizer):
        raise InputError(f"--rival: the page cannot run {path}: {why}; omit --rival, or choose smaller runs")


def _story(corpus: Corpus, n: int) -> Text:
    """Return row n of the validation set, counted from 1."""
    if n > len(corpus.valid):
        raise InputError(f"--story is {n}, wanted at most {len(corpus.valid)}, the number of validation rows")
    row = corpus.valid[n - 1]
    *ids, after = row[row != IGNORE].tolist()
    what = "story" if corpus.floor is not None else "row"
    return Text(f"{what} {n} of the validation set", ids, after, len(ids))


def _prompt(ids: list[int], model: GAM, tokenizer: Tokenizer, args: Namespace) -> Text:
    """Return the prompt, followed by the tokens that the flags ask for."""
    whole, after = continued(model, tokenizer, ids, args.tokens, args.temperature, None, args.seed, True)
    return Text("a prompt", whole, after, len(ids))


def main(argv: list[str] | None = None) -> int:
    args = parser().parse_args(argv)
    run, other = _checked(args)
    tokenizer, T = run.tokenizer(), run.config.model.block_size
    prompt = None if args.prompt is None else first_ids(tokenizer, args.prompt)
    if prompt is not None and len(prompt) + args.tokens > T:
        raise InputError(
            f"a prompt of {len(prompt)} tokens and {args.tokens} more, wanted at most "
            f"{T} in all, the model's block_size; shorten one"
        )
    backend = cli.choose_backend(args.backend, args.kernels)
    model = cast(GAM, run.load_model(backend))  # `_checked` made sure
    rival = None if other is None else other.load_model(backend)
    if rival is not None and other is not None:
        _require_live(model, tokenizer, run.path)
        _require_live(rival, tokenizer, other.path)
    corpus = run.corpus(progress=True)
    text = _story(corpus, args.story or 1) if prompt is None else _prompt(prompt, model, tokenizer, args)
    data, weights = pages.contents(model, rival, tokenizer, text)
    valid, known = corpus.valid[: args.rows], corpus.floor is not None
    data |= {"run": run.path.resolve().name, "corpus": corpus.name, "rows": len(valid)}
    data["words"] = [pages.exciting(m, tokenizer) for m in pages.slot_words(model, valid, progress=True)]
    if known:
        data |= {"grammar": pages.grammar(), "examples": pages.examples(tokenizer, model.reach)}
    html = pages.page(data, weights)
    try:
        write_text(args.out, html)
    except OSError as e:
        raise InputError(f"--out {args.out}: {e.strerror or e}; choose a file that can be written") from e
    print(f"{args.out}: {len(text.ids)} tokens, {len(html.encode()) / 1e3:.0f} kB; open it in a browser")
    return 0


if __name__ == "__main__":
    cli.run(main, PROG)
