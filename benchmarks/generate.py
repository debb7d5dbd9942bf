"""Measure tokens per second, and memory, while a text of ten thousand tokens is generated.

minigam continues the text with its decoder, `Stream`. PyTorch eager reads a window of T tokens again for
every new token, as the authors' code does. The prompt fills the window, so every model is in its steady
state from the first new token on: after each T/2 tokens the window moves, and the text in it is read
again. T/2 tokens are timed around every position, so that each timing includes exactly one move.
"""

import time
from functools import partial
from pathlib import Path
from statistics import mean, median

import numpy as np

from benchmarks import environment, measure
from minigam import GAMConfig, MambaConfig, TransformerConfig, cli
from minigam.config import WRITTEN, ModelConfig
from minigam.experiments import report
from minigam.experiments.scaling import LINES
from minigam.models import MODELS
from minigam.training import provenance
from minigam.viz.style import LEGEND, blank, draw, finish

PROG = "benchmarks.generate"
CONFIGS = {
    "gam": GAMConfig(),
    "transformer": TransformerConfig(),
    "mamba": MambaConfig(),
    WRITTEN: GAMConfig(mixer=WRITTEN),
}
OWN = {m: f"minigam {line.label}" for m, line in LINES.items()}
TORCH = "PyTorch GAM, the window again for every token"
FIRST = 100  # the position that the others are compared with


def positions(tokens: int) -> list[int]:
    """Return 100, 1,000, ... and `tokens`, the positions where the speed is measured."""
    powers = [FIRST * 10**i for i in range(len(str(tokens))) if FIRST * 10**i < tokens]
    return [*powers, tokens]


def period_of(block_size: int) -> int:
    """Return the number of tokens between two moves of the decoder's window."""
    return max(1, block_size // 2)


def window(position: int, period: int) -> slice:
    """Return the `period` tokens around a position, or the first `period` tokens if it is too early."""
    start = max(0, position - period // 2)
    return slice(start, start + period)


# ------------------------------------------------------------------------------- in a worker


def work(kind: str, model_type: str, model: dict, tokens: int) -> dict:
    """Generate tokens, and measure time and memory around each position.

    returns {"at": {position: {"median" and "mean" seconds per token, "held_mib"}}}
    """
    config = MODELS[model_type].Config.from_dict(model)
    wanted = {p: window(p, period_of(config.block_size)) for p in positions(tokens)}
    prompt = np.random.default_rng(0).integers(config.vocab_size, size=(1, config.block_size))
    text = {"minigam": _minigam, "torch": _torch}[kind](model_type, config, prompt)
    next(text)  # reads the prompt, starts threads
    times, held = [], {}
    for i in range(max(w.stop for w in wanted.values())):
        start = time.perf_counter()
        next(text)
        times.append(time.perf_counter() - start)
        held |= {p: measure.held_bytes() for p, w in wanted.items() if i == w.stop - 1}
    at = {
        str(p): {"median": median(times[w]), "mean": mean(times[w]), "held_mib": held[p] / measure.MIB}
        for p, w in wanted.items()
    }
    return {"at": at}


def _minigam(model_type: str, config: ModelConfig, prompt):
    endless = 10**9
    return MODELS[model_type](config).eval().continuation(prompt, endless)


def _torch(model_type: str, config: ModelConfig, prompt):
    import torch

    from benchmarks.torch_models import LanguageModel

    torch.manual_seed(0)
    model, ids = LanguageModel(config).eval(), torch.tensor(prompt)
    with torch.inference_mode():
        while True:
            logits = model(ids[:, -config.block_size :])[:, -1]
            ids = torch.cat([ids, torch.multinomial(torch.softmax(logits, dim=-1), 1)], dim=1)
            yield ids[:, -1]


# ------------------------------------------------------------------------------- the command


def parser() -> cli.Parser:
    p = cli.Parser(prog=f"python -m {PROG}", description=__doc__.splitlines()[0])
    p.add_argument("--tokens", type=int, default=10_000, help="the last position (default: 10000)")
    p.add_argument("--peer-tokens", type=int, default=FIRST, metavar="N",
                   help="tokens for PyTorch, whose time per token is constant (default: 100)")  # fmt: skip
    p.add_argument("--pairs", type=int, default=3, help="rounds (default: 3)")
    p.add_argument("--models", nargs="+", choices=CONFIGS, default=[*CONFIGS],
                   help="models of minigam; GAM is always included (default: all)")  # fmt: skip
    p.add_argument("--out", type=Path, default=measure.RESULTS / "generate",
                   help="folder for results (default: benchmarks/results/generate)")  # fmt: skip
    return p


def main(argv: list[str] | None = None) -> int:
    args = parser().parse_args(argv)
    cli.require_at_least(args, tokens=1, peer_tokens=1, pairs=1)
    cli.require_folder(args.out)
    measure.require("torch", "threadpoolctl")
    models = [m for m in CONFIGS if m == "gam" or m in args.models]
    compare(models, args.tokens, args.peer_tokens, args.pairs, args.out)
    return 0


def compare(models: list[str], tokens: int, peer_tokens: int, pairs: int, out: Path) -> None:
    """Measure `pairs` rounds; write generate.json, .md and .png into `out`."""
    where, measured = environment.line(), provenance.measured_by("numpy")
    print(where)

    def job(label: str, kind: str, m: str, n: int):
        arguments = {"kind": kind, "model_type": LINES[m].model_type, "tokens": n}
        arguments["model"] = CONFIGS[m].to_dict()
        return partial(measure.fresh, PROG, label, arguments)

    competitors = {OWN[m]: job(OWN[m], "minigam", m, tokens) for m in models}
    competitors[TORCH] = job(TORCH, "torch", "gam", peer_tokens)
    rounds = measure.rounds(competitors, pairs, "continuing a text")
    content = {
        "environment": where,
        "measured": measured,
        "tokens": tokens,
        "models": {OWN[m]: CONFIGS[m].to_dict() for m in models},
        "summary": {name: along(rounds, name) for name in competitors},
        "speedup": measure.spread(
            [_mean(r[TORCH], peer_tokens) / _mean(r[OWN["gam"]], tokens) for r in rounds]
        ),
        "rounds": rounds,
    }
    report.write(
        out,
        "generate",
        content,
        [{"measured": measured}],
        f"{where}\n\n{_markdown(content, pairs)}",
        plot(content["summary"]),
    )


def _mean(result: dict, position: int) -> float:
    return result["at"][str(position)]["mean"]


def along(rounds: list[dict[str, dict]], name: str) -> dict[str, dict]:
    """Return for every position of one competitor the medians over the rounds, in ms and MiB, and the ratios
    of its time per token (median and mean) to that at the first position, taken within each round."""
    by_round = [results[name]["at"] for results in rounds]
    first = next(iter(by_round[0]))
    return {
        p: {
            "median_ms": 1e3 * median(at[p]["median"] for at in by_round),
            "mean_ms": 1e3 * median(at[p]["mean"] for at in by_round),
            "tokens_per_second": median(1.0 / at[p]["mean"] for at in by_round),
            "held_mib": median(at[p]["held_mib"] for at in by_round),
            "median_ratio": measure.spread([at[p]["median"] / at[first]["median"] for at in by_round]),
            "mean_ratio": measure.spread([at[p]["mean"] / at[first]["mean"] for at in by_round]),
        }
        for p in by_round[0]
    }


def _markdown(content: dict, pairs: int) -> str:
    c, first = content["models"][OWN["gam"]], next(iter(content["summary"][OWN["gam"]]))
    text = (
        f"generate: one text continued, batch 1, float32, V {c['vocab_size']}, C {c['d_model']}, "
        f"L {c['n_layers']}, T {c['block_size']}; medians of {pairs} rounds, every measurement in "
        "its own process. Position: tokens after a prompt of T. "
        f"Time per token: over the {period_of(c['block_size'])} tokens around the position, in which the "
        "window moves once. The mean counts this move; the median does not. "
        f"Ratios to position {first}: median (least to most).\n\n"
    )
    heads = [
        "",
        "position",
        "median (ms)",
        "mean (ms)",
        "tokens / s",
        "held (MiB)",
        "median ratio",
        "mean ratio",
    ]
    body = [
        [
            name,
            f"{int(p):,}",
            f"{at['median_ms']:.2f}",
            f"{at['mean_ms']:.2f}",
            f"{at['tokens_per_second']:.0f}",
            f"{at['held_mib']:.0f}",
            measure.shown(at["median_ratio"]),
            measure.shown(at["mean_ratio"]),
        ]
        for name, by_position in content["summary"].items()
        for p, at in by_position.items()
    ]
    text += report.table(heads, body)
    return text + (
        f"\n{TORCH}: its time per token is {measure.shown(content['speedup'])} times that of minigam's GAM "
        f"at position {content['tokens']:,}.\n"
    )


def plot(summary: dict[str, dict[str, dict]]):
    """Return a figure: time per token and memory held, against the position; what was measured at one
    position only, PyTorch, is named under the axis, for it is far off."""
    figure, (grid,) = blank(9.5, 4.4, columns=2)
    lines = {name: by_position for name, by_position in summary.items() if len(by_position) > 1}
    for axes, (what, title, unit) in zip(
        grid, (("mean_ms", "time per token", "ms"), ("held_mib", "memory held", "MiB"))
    ):
        curves = {
            name: ([int(p) for p in by_position], [at[what] for at in by_position.values()])
            for name, by_position in lines.items()
        }
        draw(axes, curves)
        points = [
            f"{name}:\n{at[what]:.0f} {unit} at position {p}"
            for name, by_position in summary.items()
            if name not in lines
            for p, at in by_position.items()
        ]
        axes.set_xscale("log")
        axes.margins(y=0.12)
        axes.set_xlabel("\n".join(["position (tokens generated)", *points]))
        axes.set_ylabel(f"{title} ({unit})")
    figure.legend(*axes.get_legend_handles_labels(), **LEGEND, ncols=len(lines), loc="outside upper center")
    return finish(figure)


if __name__ == "__main__":
    measure.run(main, work, PROG)
