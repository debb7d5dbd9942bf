"""Tables 1 and 3: models trained on one corpus, next to the paper's numbers."""

import math
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import TYPE_CHECKING

from minigam.config import POCKETSTORIES, WRITTEN, WRITTEN_LABEL, DataConfig, ModelConfig, TrainConfig
from minigam.data.corpus import Corpus, read_meta
from minigam.data.download import Download
from minigam.data.prepare import ROWS, VOCAB_SIZE
from minigam.experiments import paper, report
from minigam.experiments.plan import Size, announce
from minigam.experiments.training_cell import Cell, require_own, trained
from minigam.models import MODELS
from minigam.training.run import make_corpus
from minigam.training.validation import ngrams
from minigam.viz import comparison_plot, curves_plot

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Line:
    """A line of a table: a model, and its changes to the settings of the scale."""

    label: str
    model_type: str
    changes: dict


OURS = Line(WRITTEN_LABEL, "gam", {"mixer": WRITTEN})
BEYOND = "beyond the paper:"  # the row of a table after which our own extension stands
TABLE1 = {
    "gam": Line("GAM", "gam", {}),
    "transformer": Line("Transformer", "transformer", {}),
    "mamba": Line("Mamba", "mamba", {}),
    "mamba-bare": Line("Mamba, stacked bare", "mamba", {"residual": False}),
    WRITTEN: OURS,
}
TABLE3 = {
    "gated": Line("full (gated)", "gam", {"mixer": "gated"}),
    "global": Line("global only", "gam", {"mixer": "global"}),
    "sum": Line("sum fusion (no gate)", "gam", {"mixer": "sum"}),
    "local": Line("local only", "gam", {"mixer": "local"}),
    WRITTEN: OURS,
}


@dataclass(frozen=True)
class Scale:
    """Settings of models and training: those that all models share, and changes by model type."""

    model: dict
    train: dict
    each_model: dict[str, dict]
    each_train: dict[str, dict]
    epochs: int | None = None  # if given, they determine the steps


# The small scale is the default of minigam.train, but the position embeddings start small. Tokens then
# stand out from positions, and attention starts to recall within these steps.
SCALES = {
    "small": Scale(
        {"block_size": 128, "d_model": 128, "n_layers": 4, "dropout": 0.0, "position_std": 0.02},
        {"batch_size": 16, "micro_batch": 16, "steps": 800, "lr": 3e-3, "warmup_steps": 50,
         "eval_every": 100, "checkpoint_every": 50},
        {
            "gam": {"n_slots": 64, "kernel_size": 4},
            "transformer": {"d_model": 120, "n_heads": 4},
            "mamba": {"expand": 3, "d_state": 16, "d_model": 126},
        },
        {"mamba": {"lr": 6e-3}},  # Mamba recalls later at 3e-3, the Transformer at 6e-3
    ),
    "published": Scale({}, {"eval_every": 500}, {}, {}, epochs=5),
}  # fmt: skip


def cells(lines: dict[str, Line], scale: Scale, steps: int | None, rows: int, seeds: list[int]) -> list[Cell]:
    """Return the training runs of a table on a corpus of `rows` training rows, seed by seed."""
    planned = []
    for seed in seeds:
        for name, line in lines.items():
            numbers = scale.model | scale.each_model.get(line.model_type, {}) | line.changes
            settings = scale.train | scale.each_train.get(line.model_type, {}) | {"seed": seed}
            if scale.epochs is not None:
                c = TrainConfig(**settings)
                settings["steps"] = math.ceil(scale.epochs * rows / c.batch_size)
                # An epoch of a small corpus is short; each one should be a point of the curve.
                settings["eval_every"] = min(c.eval_every, math.ceil(rows / c.batch_size))
            if steps is not None:
                settings["steps"] = steps
            model = MODELS[line.model_type].Config(**numbers)
            planned.append(Cell(f"{name}-seed{seed}", line.model_type, model, TrainConfig(**settings)))
    return planned


def compare(
    name: str,
    lines: dict[str, Line],
    scale: str,
    data: DataConfig,
    steps: int | None,
    seeds: list[int],
    backend: str,
    download: Download | None,
    out: Path,
) -> None:
    """Say what it will take, train every unfinished cell, and write NAME.json, NAME.md and NAME.png into
    `out`.

    lines    : the models to train, by the name of their cells
    steps    : override those of the scale; None keeps them
    download : what `data` is made from first; None if it is there
    """
    block_size = ModelConfig(**SCALES[scale].model).block_size
    if download is not None:
        size = Size.expected(download, block_size)
        announce(cells(lines, SCALES[scale], steps, size.train, seeds), out, size, backend, download)
        download.run()
    corpus = make_corpus(data, block_size, progress=True)
    todo = {c.name: c for c in cells(lines, SCALES[scale], steps, len(corpus.train), seeds)}
    for cell in todo.values():
        require_own(cell, out / "cells", data, corpus)  # now, not when its turn comes
    if download is None:
        announce([*todo.values()], out, Size.of(corpus), backend, None)
    print(
        f"{out}: {len(todo)} runs on {corpus.name}, {len(corpus.train):,} training rows, "
        f"vocabulary {len(corpus.tokenizer):,}"
    )
    results = {c.name: trained(c, out / "cells", data, corpus, backend) for c in todo.values()}
    counted = ngrams(corpus, order=3, progress=True)
    meta = _meta(data)
    content = {
        "scale": scale,
        "seeds": seeds,
        "data": data.to_dict()
        | {
            "dataset": Path(data.dataset).name,
            "corpus_sha256": corpus.fingerprint(),
            "sources": meta["sources"],
        },
        "ngrams": counted,
        "cells": {
            c.name: {
                "model_type": c.model_type,
                "model": c.model.to_dict(),
                "train": c.train.to_dict(),
                "result": results[c.name],
            }
            for c in todo.values()
        },
    }
    by_line = {line: [results[f"{line}-seed{seed}"] for seed in seeds] for line in lines}
    trainings = {line: todo[f"{line}-seed{seeds[0]}"].train for line in lines}
    theirs = {"table1": _paper_table1, "table3": _paper_table3}[name](corpus.name)
    markdown = _head(name, corpus, trainings, seeds) + _losses(lines, by_line, trainings, counted, theirs)
    if theirs:
        markdown += PAPER_NOTE
        markdown += _deviations(meta)
    if corpus.kinds is not None:
        markdown += _by_kind(lines, by_line, counted)
    figures = {name: plot(content, lines), f"{name}_curves": plot_curves(content, lines)}
    report.write(out, name, content, list(results.values()), markdown, figures)


def plot(content: dict, lines: dict[str, Line]) -> "Figure":
    """Return the figure of a table, drawn from the content of its JSON file: the losses of every seed.

    lines : the models, by the name of their cells
    """
    counted = {label: content["ngrams"][label]["loss"] for label in ("trigram", "unigram")}
    return comparison_plot(_by_label(content, lines), counted, content["data"]["dataset"])


def plot_curves(content: dict, lines: dict[str, Line]) -> "Figure":
    """Return the figure of the losses against the steps, drawn from the content of a table's JSON file."""
    runs = _by_label(content, lines)
    constants = {label: c["loss"] for label, c in content["ngrams"].items()}
    first = next(iter(runs.values()))[0]
    constants |= {"floor": first["floor"]} if "floor" in first else {}
    curves = {label: [result["curve"] for result in seeds] for label, seeds in runs.items()}
    return curves_plot(curves, constants, content["data"]["dataset"])


def _by_label(content: dict, lines: dict[str, Line]) -> dict[str, list[dict]]:
    """Return the results of the cells, seed by seed, by the label of their line."""
    cells, seeds = content["cells"], content["seeds"]
    return {
        line.label: [cells[f"{name}-seed{seed}"]["result"] for seed in seeds]
        for name, line in lines.items()
        if f"{name}-seed{seeds[0]}" in cells
    }


PAPER_NOTE = (
    "\nThe paper's seconds were measured on its authors' GPU; its losses are per token of their tokeniser. "
    "They are comparable with these only at the published scale and on the published files.\n"
)


def _deviations(meta: dict) -> str:
    """Return what of a prepared dataset is not as in the paper, a sentence for each."""
    sources, tokenizer, text = meta["sources"], meta["tokenizer"], ""
    if not all(source["verified"] for source in sources.values()):
        files = ", ".join(f"{split} {source['file']}" for split, source in sources.items())
        text += f"The corpus was prepared from other files than the published ones ({files}).\n"
    if tokenizer["vocab_size"] != VOCAB_SIZE:
        text += f"Its vocabulary was limited to {tokenizer['vocab_size']:,} entries, not to {VOCAB_SIZE:,}.\n"
    used = {split: sources[split]["rows"] for split in ROWS}
    if any(start != 0 or stop not in (None, ROWS[split]) for split, (start, stop) in used.items()):
        ranges = ", ".join(
            f"{split} {start} to {stop or 'the last'}" for split, (start, stop) in used.items()
        )
        text += f"It was prepared from other rows than the paper's ({ranges}).\n"
    return text


def _meta(data: DataConfig) -> dict:
    """Return the content of a prepared dataset's meta.json; without sources for a generated one."""
    return {"sources": {}} if data.dataset == POCKETSTORIES else read_meta(Path(data.dataset))


def _head(name: str, corpus: Corpus, trainings: dict[str, TrainConfig], seeds: list[int]) -> str:
    """Return a line about the data and how much of it was read."""
    longest = max(trainings.values(), key=lambda t: t.steps)
    rows = longest.steps * longest.batch_size
    text = f"{name} on {corpus.name}: {longest.steps:,} steps of {longest.batch_size} rows, "
    text += f"{rows / len(corpus.train):.2f} epochs of {len(corpus.train):,} rows; "
    text += "one seed" if len(seeds) == 1 else f"mean and standard deviation of {len(seeds)} seeds"
    return text + ". Losses are in nats per token of the validation rows.\n\n"


def _losses(
    lines: dict[str, Line],
    by_line: dict[str, list[dict]],
    trainings: dict[str, TrainConfig],
    counted: dict[str, dict],
    theirs: dict[str, list[str]],
) -> str:
    """Return the table of losses: ours, those of n-grams, and the paper's if it has any."""
    heads = ["model", "parameters", "peak lr", "s / epoch", "val. loss", "val. ppl"]
    heads += [f"paper: {what}" for what in ("params", "s / epoch", "loss", "ppl")] if theirs else []
    body = []
    for line, results in by_line.items():
        losses = [r["loss"] for r in results]
        body += [[BEYOND]] if line == WRITTEN else []
        body.append(
            [
                lines[line].label,
                f"{results[0]['parameters']:,}",
                f"{trainings[line].lr:g}",
                f"{mean(r['seconds_per_epoch'] for r in results):.1f}",
                _with_spread(losses, ".4f"),
                _with_spread([math.exp(loss) for loss in losses], ".2f"),
                *theirs.get(line, []),
            ]
        )
    others = {label: c["loss"] for label, c in counted.items()}
    first = next(iter(by_line.values()))[0]
    others |= {"floor": first["floor"]} if "floor" in first else {}
    body += [[label, "", "", "", f"{loss:.4f}", f"{math.exp(loss):.2f}"] for label, loss in others.items()]
    return report.table(heads, body)


def _with_spread(values: list[float], form: str) -> str:
    return format(mean(values), form) + (f" ± {stdev(values):{form}}" if len(values) > 1 else "")


def _by_kind(lines: dict[str, Line], by_line: dict, counted: dict) -> str:
    kinds = list(next(iter(by_line.values()))[0]["kinds"])
    floors = next(iter(by_line.values()))[0]["kinds"]
    body = []
    for line, results in by_line.items():
        body += [[BEYOND]] if line == WRITTEN else []
        field = "all" if results[0]["reach"] is None else str(results[0]["reach"])
        losses = [_with_spread([r["kinds"][kind]["loss"] for r in results], ".4f") for kind in kinds]
        body.append([lines[line].label, field, *losses])
    for label, c in counted.items():
        body.append([label, "", *(f"{c['kinds'][kind]['loss']:.4f}" for kind in kinds)])
    body.append(["floor", "", *(f"{floors[kind]['floor']:.4f}" for kind in kinds)])
    text = "\nLoss by kind of token. No model can beat the last line, the entropy floor, on average.\n\n"
    return text + report.table(["model", "receptive field", *kinds], body)


def _paper_table1(corpus_name: str) -> dict[str, list[str]]:
    rows = next((t for name, t in paper.TABLE1.items() if corpus_name.startswith(name)), {})
    cells = {k: [f"{p} M", f"{s:.1f}", f"{loss:.4f}", f"{ppl:.2f}"] for k, (p, s, loss, ppl) in rows.items()}
    if "mamba" in cells:  # the authors' Mamba has no residual
        cells["mamba-bare"] = cells.pop("mamba")
    return cells


def _paper_table3(corpus_name: str) -> dict[str, list[str]]:
    if not corpus_name.startswith("wikitext-2"):
        return {}
    return {k: [f"{p} M", "", f"{math.log(ppl):.4f}", f"{ppl:.2f}"] for k, (p, ppl) in paper.TABLE3.items()}
