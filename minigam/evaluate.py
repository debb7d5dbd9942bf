"""Compare a trained model with n-grams, in nats per token, perplexity per word and bits per byte."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np

from minigam import cli
from minigam.config import InputError
from minigam.data.corpus import Corpus, TextSize
from minigam.data.pocketstories import KINDS
from minigam.files import write_json
from minigam.models.lm import LanguageModel
from minigam.training.run import Run
from minigam.training.validation import evaluate, ngrams, summary

PROG = "minigam evaluate"


def evaluation(
    model: LanguageModel,
    corpus: Corpus,
    order: int = 3,
    rows: int | None = None,
    seed: int = 0,
    progress: bool = False,
) -> dict:
    """Measure a model, and n-gram models counted in the same training rows, on the same targets.

    order : length of the longest n-grams; all shorter ones are measured too
    rows  : how many validation rows to sample with `seed`; None for all
    returns {"model": name, "rows": count, "tokens": count, "results": {name: measures}}: the model first,
    then the n-grams, longest first, then the floor if the corpus has one. Measures are those of `units`
    and, if the corpus has kinds of token, "kinds": the loss of each in nats.
    """
    corpus, name = _drawn(corpus, rows, seed), model.config.label
    with np.errstate(over="ignore", invalid="ignore"):  # a loss of nan speaks for itself
        measured = {name: evaluate(model, corpus, progress=progress)}
    measured |= ngrams(corpus, order, progress)
    if corpus.floor is not None:
        measured["floor"] = summary(corpus, corpus.floor)
    results = {}
    for each, m in measured.items():
        results[each] = units(m["loss"], corpus.valid_size)
        if "kinds" in m:
            results[each]["kinds"] = {kind: m["kinds"][kind]["loss"] for kind in KINDS if kind in m["kinds"]}
    return {"model": name, "rows": len(corpus.valid), "tokens": measured[name]["tokens"], "results": results}


def _drawn(corpus: Corpus, rows: int | None, seed: int) -> Corpus:
    """Return the corpus with a random sample of its validation rows, in their original order."""
    if rows is None or rows >= len(corpus.valid):
        return corpus
    some = np.sort(np.random.default_rng(seed).choice(len(corpus.valid), rows, replace=False))
    labels = {k: getattr(corpus, k)[some] for k in ("kinds", "floor") if getattr(corpus, k) is not None}
    return replace(corpus, valid=corpus.valid[some], **labels)


def units(loss: float, size: TextSize) -> dict:
    """Return a mean loss in four units.

    Longer tokens mean fewer predictions, each of them harder, so loss and perplexity per token cannot be
    compared between tokenizers. Words and bytes do not depend on the tokenizer. The whole text costs
    loss * tokens nats; divided by its words or its bytes, this cost can be compared between tokenizers
    that restore the text. The paper's tokenizer drops white space and replaces rare characters by [UNK]:
    next to a tokenizer that has to predict them, its numbers are too good.

    loss : mean nats per token of the text, or of a sample of it
    size : of the whole text
    returns loss; perplexity = exp(loss); word_perplexity = exp(loss * tokens / words), words being
    separated by white space; bits_per_byte = loss * tokens / (bytes ln 2). A number larger than any
    float is None, and so is word_perplexity for a text without words.
    """
    whole = loss * size.tokens
    return {
        "loss": loss,
        "perplexity": _exp(loss),
        "word_perplexity": _exp(whole / size.words) if size.words else None,
        "bits_per_byte": whole / (size.bytes * math.log(2)),
    }


def _exp(nats: float) -> float | None:
    try:
        return math.exp(nats)
    except OverflowError:
        return None


def table(result: dict) -> str:
    """Return the result of `evaluation` as a table for people, and one line on which model is better."""
    kinds = list(result["results"][result["model"]].get("kinds", {}))
    heads = [("nats", "per token"), ("perplexity", "per token"), ("perplexity", "per word")]
    heads += [("bits", "per byte"), *(("nats per", kind) for kind in kinds)]
    width = max(12, *map(len, result["results"]))
    lines = [" " * width + "".join(f"{h:>11}" for h in line) for line in zip(*heads, strict=True)]
    for name, r in result["results"].items():
        cells = [f"{r['loss']:.4f}", _cell(r["perplexity"]), _cell(r["word_perplexity"])]
        cells += [f"{r['bits_per_byte']:.4f}", *(f"{r['kinds'][kind]:.4f}" for kind in kinds)]
        lines.append(f"{name:<{width}}" + "".join(f"{c:>11}" for c in cells))
    return "\n".join([*lines, "", verdict(result)])


def _cell(perplexity: float | None) -> str:
    if perplexity is None:
        return "-"
    return f"{perplexity:,.2f}" if perplexity < 1e6 else f"{perplexity:.2e}"


def verdict(result: dict) -> str:
    """Return one line on whether the model predicts better than the best of the n-grams."""
    name, losses = result["model"], {n: r["loss"] for n, r in result["results"].items() if n != "floor"}
    own = losses.pop(name)
    best = min(losses, key=losses.__getitem__)
    numbers = f"{own:.4f} nats per token against {losses[best]:.4f} of the {best}"
    if own < losses[best]:
        return f"The {name} predicts better than n-grams do: {numbers}."
    return f"The {name} predicts no better than n-grams do: {numbers}. More training may help."


def main(argv: list[str] | None = None) -> int:
    p = cli.Parser(prog=PROG, description=__doc__)
    p.add_argument("run", type=Path, metavar="RUN", help="run folder written by `minigam train`")
    p.add_argument("--order", type=int, default=3, help="length of the longest n-grams (default: 3)")
    p.add_argument("--rows", type=int, help="validation rows to sample (default: all)")
    p.add_argument("--json", type=Path, metavar="FILE", help="also write the numbers to this file")
    p.add_argument("--seed", type=int, default=0, help="seed of the --rows sample (default: 0)")
    cli.add_backend_flag(p)
    args = p.parse_args(argv)
    cli.require_at_least(args, order=1, rows=1, seed=0)
    if args.json is not None and (args.json.is_dir() or not args.json.parent.is_dir()):
        raise InputError(f"--json {args.json}: wanted a file in a folder that exists; choose another")
    run = Run(args.run)
    if args.order > (most := run.config.model.block_size + 1):
        raise InputError(f"--order is {args.order}, wanted at most {most}, the tokens in a row")
    model = run.load_model(cli.choose_backend(args.backend, args.kernels))
    corpus = run.corpus(progress=True)
    if corpus.valid.ndim == 3:
        raise InputError(f"{run.path}: trained on {corpus.name}, wanted a run on text; see recall.json")
    result = evaluation(model, corpus, args.order, args.rows, args.seed, progress=True)
    if not math.isfinite(loss := result["results"][result["model"]]["loss"]):
        raise InputError(f"{run.path}: the loss is {loss}, wanted a number; train again with a smaller --lr")
    size = corpus.valid_size
    print(
        f"{run.path}: {result['tokens']:,} tokens in {result['rows']:,} validation rows\n"
        f"whole validation text: {size.tokens:,} tokens, {size.words:,} words, {size.bytes:,} bytes\n"
    )
    print(table(result))
    if args.json is not None:
        try:
            write_json(args.json, {"run": str(run.path), **result})
        except OSError as e:
            raise InputError(f"--json {args.json}: {e.strerror or e}; choose a writable file") from e
    return 0


if __name__ == "__main__":
    cli.run(main, PROG)
