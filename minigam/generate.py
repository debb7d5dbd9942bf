"""Write text with a trained model."""

from pathlib import Path

import numpy as np
from tqdm import tqdm

from minigam import cli
from minigam.config import InputError
from minigam.lm import LanguageModel
from minigam.run import Run

PROG = "minigam.generate"


def write(
    model: LanguageModel,
    tokenizer,
    prompt: str = "",
    n: int = 300,
    temperature: float = 0.8,
    top_k: int | None = None,
    seed: int = 0,
    progress: bool = False,
) -> str:
    """Return the prompt continued by at most n tokens; a story or a document ends where the model ends it.

    An empty prompt begins a story, a document, or a line. Raises InputError for words the tokenizer lacks.
    """
    ids = first_ids(tokenizer, prompt)
    return tokenizer.decode(continued(model, tokenizer, ids, n, temperature, top_k, seed, progress)[0])


def continued(
    model: LanguageModel,
    tokenizer,
    ids: list[int],
    n: int,
    temperature: float,
    top_k: int | None,
    seed: int,
    progress: bool = False,
) -> tuple[list[int], int | None]:
    """Return ids and at most n sampled tokens more; then the token that ended the text, None if none did."""
    ids = list(ids)
    sampled = model.continuation(np.array([ids]), n, temperature, top_k, seed)
    for new in tqdm(sampled, total=n, unit="token", leave=False, delay=2, disable=None if progress else True):
        if new[0] == tokenizer.end:
            return ids, int(new[0])
        ids.append(int(new[0]))
    return ids, None


def first_ids(tokenizer, prompt: str) -> list[int]:
    """Return the ids that sampling begins with: before a story or a document stands the end of another."""
    if tokenizer.end is not None:
        return [tokenizer.end, *tokenizer.encode(prompt)]
    ids = tokenizer.encode(prompt) if prompt else tokenizer.encode("\n", strict=False)
    if not ids:
        raise InputError("nothing to begin with; give a --prompt")
    return ids


def main(argv: list[str] | None = None) -> int:
    p = cli.Parser(prog=f"python -m {PROG}", description=__doc__)
    p.add_argument("run", type=Path, metavar="RUN", help="folder that python -m minigam.train wrote")
    p.add_argument("--prompt", default="", help="how the text begins (default: with a new story or line)")
    p.add_argument("--tokens", type=int, default=300, metavar="N", help="most tokens to add (default: 300)")
    p.add_argument(
        "--temperature",
        type=float,
        default=0.8,
        metavar="X",
        help="0 takes the likeliest token, 1 samples as the model believes (default: 0.8)",
    )
    p.add_argument("--top-k", type=int, metavar="K", help="sample among the K likeliest (default: all)")
    p.add_argument("--seed", type=int, default=0, help="decides the sample (default: 0)")
    cli.add_backend_flag(p)
    args = p.parse_args(argv)
    cli.require_at_least(args, tokens=0, temperature=0, top_k=1, seed=0)
    run = Run(args.run)
    tokenizer = run.tokenizer()
    first_ids(tokenizer, args.prompt)  # a prompt that cannot be read is refused before the model loads
    model = run.load_model(cli.choose_backend(args.backend))
    if len(tokenizer) != model.config.vocab_size:
        raise InputError(
            f"{run.path / 'tokenizer.json'}: {len(tokenizer)} tokens, wanted the model's "
            f"{model.config.vocab_size}; restore the file or train again"
        )
    print(write(model, tokenizer, args.prompt, args.tokens, args.temperature, args.top_k, args.seed, True))
    return 0


if __name__ == "__main__":
    cli.run(main, PROG)
