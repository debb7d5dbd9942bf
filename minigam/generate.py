"""Write text with a trained model."""

from pathlib import Path

from minigam import cli
from minigam.config import InputError
from minigam.models.decoding import continued, first_ids
from minigam.training.run import Run

PROG = "minigam generate"


def main(argv: list[str] | None = None) -> int:
    p = cli.Parser(prog=PROG, description=__doc__)
    p.add_argument("run", type=Path, metavar="RUN", help="run folder written by `minigam train`")
    p.add_argument("--prompt", default="", help="start of the text (default: a new story or line)")
    p.add_argument("--tokens", type=int, default=300, help="add at most N tokens (default: 300)")
    p.add_argument("--temperature", type=float, default=0.8, help="0 takes the most likely "
                   "token; 1 samples from the model's own probabilities (default: 0.8)")  # fmt: skip
    p.add_argument("--top-k", type=int, metavar="K", help="sample from the K likeliest tokens (default: all)")
    p.add_argument("--seed", type=int, default=0, help="seed of the sampling (default: 0)")
    cli.add_backend_flag(p)
    args = p.parse_args(argv)
    cli.require_at_least(args, tokens=0, temperature=0, top_k=1, seed=0)
    run = Run(args.run)
    tokenizer = run.tokenizer()
    ids = first_ids(tokenizer, args.prompt)  # refuse an unreadable prompt before loading the model
    model = run.load_model(cli.choose_backend(args.backend, args.kernels))
    if len(tokenizer) != model.config.vocab_size:
        raise InputError(
            f"{run.path / 'tokenizer.json'}: {len(tokenizer)} tokens, wanted the model's "
            f"{model.config.vocab_size}; restore the file or train again"
        )
    text, _ = continued(model, tokenizer, ids, args.tokens, args.temperature, args.top_k, args.seed, True)
    print(tokenizer.decode(text))
    return 0


if __name__ == "__main__":
    cli.run(main, PROG)
