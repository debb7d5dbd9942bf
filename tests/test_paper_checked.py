"""docs/paper.md: every figure is in the file that stands with it, or computed here; commands are stored."""

import json
import math
import re
from pathlib import Path

import numpy as np

from minigam.experiments import paper

ROOT = Path(__file__).parents[1]
HERE = ROOT / "docs"
TEXT = (HERE / "paper.md").read_text(encoding="utf-8")
FIGURE = re.compile(r"(?<![\w.])\d[\d,]*\.\d+")
OURS = ("gated", "sum", "local")
NAMES = {"gam": "GAM", "transformer": "Transformer"}


def stored(folder: str) -> dict:
    path = ROOT / "benchmarks" / "results" / folder / f"{folder.partition('_')[0]}.json"
    return json.loads(path.read_text(encoding="utf-8"))


def losses(folder: str, model: str) -> list[float]:
    """Return the validation loss of each seed."""
    cells = stored(folder)["cells"]
    return [c["result"]["loss"] for name, c in cells.items() if name.startswith(f"{model}-seed")]


def flat(value: object) -> list[float]:
    if isinstance(value, dict | tuple):
        return [x for v in (value.values() if isinstance(value, dict) else value) for x in flat(v)]
    return [] if value is None else [float(value)]


PAPERS = {f"{x:.{digits}f}" for x in flat((paper.TABLE1, paper.TABLE2, paper.TABLE3)) for digits in (1, 2, 4)}


def nats(a: float, b: float) -> str:
    """Return the difference of two perplexities in nats, as the page writes it."""
    return f"{math.log(a / b):.4f}"


def differences() -> dict[str, str]:
    """Return the figures that the page computes, by a few words that stand before or after them."""
    wiki, tiny, parts = paper.TABLE1["wikitext-2"], paper.TABLE1["tinystories"], paper.TABLE3
    full = parts["gated"][1]
    spread = max(np.ptp(losses("table1_wikitext", m)) for m in ("gam", "transformer", "mamba"))
    here = {m: losses("table3_small", m) for m in (*OURS, "global")}
    mean = {m: float(np.mean(values)) for m, values in here.items()}
    return {
        "They are X nats apart": f"{wiki['transformer'][2] - wiki['gam'][2]:.4f}",
        "900.84 in table 3: X nats": nats(full, wiki["gam"][3]),
        "up to X nats apart, at another scale": f"{spread:.4f}",
        "One seed, X nats apart": f"{tiny['transformer'][2] - tiny['gam'][2]:.4f}",
        "puts it second, X nats": nats(parts["global"][1], full),
        "differs by X nats between tables 1 and 3": nats(full, wiki["gam"][3]),
        "the other two are X and": nats(parts["sum"][1], full),
        "and X nats behind": nats(parts["local"][1], full),
        "differ by up to X nats": f"{max(np.ptp(v) for v in here.values()):.4f}",
        "Removing the convolution costs X nats": f"{mean['global'] - mean['gated']:.4f}",
    }


def perplexity(folder: str, model: str) -> str:
    """Return the perplexity of a model, with its spread over seeds, as the table writes it."""
    values = np.exp(losses(folder, model))
    return f"{values.mean():.2f} ± {values.std(ddof=1):.2f}"


def costs(model: str) -> list[float]:
    """Return the nats that each seed of table 3 loses without a part."""
    return [
        a - b for a, b in zip(losses("table3_small", model), losses("table3_small", "gated"), strict=True)
    ]


def phrases() -> list[str]:
    """Return what the page says of stored numbers, in its words and in its order."""
    wiki, tales = "table1_wikitext", "table1_pocketstories"
    counted = {n: math.exp(c["loss"]) for n, c in stored(wiki)["ngrams"].items()}
    floor = math.exp(stored(tales)["cells"]["gam-seed0"]["result"]["floor"])
    block = {
        m: {T: c["time_ms"] for T, c in by_T.items()} for m, by_T in stored("table2_small")["cells"].items()
    }
    gam, other, mamba = (block[m] for m in ("gam", "transformer", "mamba"))
    gate, parts = costs("sum"), [*costs("sum"), *costs("local")]
    kept, without = (losses("table3_small", m) for m in ("gated", "sum"))
    bigrams = [math.exp(c["ngrams"]["bigram"]["loss"]) for c in stored("ngrams")["corpora"].values()]
    first, second, third = (f"{paper.TABLE1['wikitext-2']['gam'][3] / b:.0f}" for b in bigrams)
    assert first == second
    return [
        f"GAM {perplexity(wiki, 'gam')}, Transformer {perplexity(wiki, 'transformer')}, "
        f"Mamba (with residuals) {perplexity(wiki, 'mamba')}",
        f"trigram {counted['trigram']:.2f}, bigram {counted['bigram']:.2f}",
        f"GAM {perplexity(tales, 'gam')}, Transformer {perplexity(tales, 'transformer')}, "
        f"Mamba {perplexity(tales, 'mamba')}; the entropy floor {floor:.2f}",
        f"{gam['256']:.1f} ms a block at 256 tokens "
        f"(Transformer {other['256']:.1f}, Mamba {mamba['256']:.1f}), "
        f"{gam['8192']:.1f} ms at 8,192 ({other['8192']:.1f}, {mamba['8192']:.1f})",
        f"with the gate {np.mean(kept):.4f} ± {np.std(kept, ddof=1):.4f}, "
        f"without {np.mean(without):.4f} ± {np.std(without, ddof=1):.4f}",
        f"{min(gate):.5f} and {max(gate):.5f} nats better with the two seeds",
        f"costs {min(parts):.5f} to {max(parts):.5f} nats with either seed",
        f"is {first} times the bigram's perplexity in the first two rows and {third} times in the third",
        *published(),
    ]


def published() -> list[str]:
    """Return what is said of table 1 at the published size, trained on a ninth of the text."""
    folder = "table1_published"
    by_model = {m: np.array(losses(folder, m)) for m in ("gam", "transformer", "mamba", "written")}
    gam, other, mamba, _ = by_model.values()
    counted = {n: math.exp(c["loss"]) for n, c in stored(folder)["ngrams"].items()}
    step = {
        label: r["seconds"]
        for of_model in stored("published")["models"].values()
        for label, r in of_model.items()
    }
    ours, theirs, numpy, torch = (
        [s for label, s in step.items() if label.startswith(p)]
        for p in ("minigam", "PyTorch", "products alone, NumPy", "products alone, PyTorch")
    )
    return [
        f"GAM {perplexity(folder, 'gam')}, Transformer {perplexity(folder, 'transformer')}, "
        f"Mamba (with residuals) {perplexity(folder, 'mamba')}; "
        f"the unigram {counted['unigram']:.2f}, the bigram {counted['bigram']:.2f}",
        "GAM is ahead of the Transformer by {:.4f} and {:.4f} nats with the two seeds".format(*(other - gam)),
        "of Mamba by {:.4f} and {:.4f}".format(*(mamba - gam)),
        f"GAM is {(other - gam).mean():.4f} nats ahead of the Transformer",
        f"two seeds of one model are up to {max(map(np.ptp, by_model.values())):.4f} nats apart",
        "{:.2f} s for GAM, {:.2f} s for the Transformer and {:.2f} s for Mamba".format(*ours[:3]),
        "in PyTorch {:.2f} and {:.2f} s for the first two".format(*theirs),
        "of them {:.2f} and {:.2f} s for".format(*torch),
        "that OpenBLAS does in {:.2f} and {:.2f} s".format(*numpy),
    ]


def test_the_models_of_the_published_size_end_near_the_unigram():
    content = stored("table1_published")
    assert content["scale"] == "published" and content["seeds"] == [0, 1]
    unigram = content["ngrams"]["unigram"]["loss"]
    for model in ("gam", "transformer", "mamba", "written"):
        for loss in losses("table1_published", model):
            assert abs(loss - unigram) < 0.05
    rows, lines = content["data"]["sources"]["train"], (4_358, 36_718)
    assert rows["file"] == "test.txt" and 1 / 9 < lines[0] / lines[1] < 1 / 8


def test_the_results_say_what_is_stored_of_the_published_size():
    folder = "table1_published"
    gam, other, mamba, written = (
        np.array(losses(folder, m)) for m in ("gam", "transformer", "mamba", "written")
    )
    here, xeon = (stored(f)["models"] for f in ("published", "published_xeon"))
    ours, theirs = (here["gam"][f"products alone, {p}: GAM"]["seconds"] for p in ("NumPy", "PyTorch"))
    ratios = (xeon[m][f"PyTorch {n}"]["time_ratio"]["median"] for m, n in NAMES.items())
    page = plain((HERE / "results.md").read_text(encoding="utf-8"))
    for phrase in [
        *published()[:3],
        published()[4],
        f"{perplexity(folder, 'written')}, behind GAM by "
        + "{:.4f} and {:.4f} nats".format(*(written - gam)),
        f"(MKL) needs {theirs:.2f} s for the matrix products of a GAM step alone, "
        f"NumPy's (OpenBLAS) {ours:.2f} s",
        "the ratios were {:.2f} for GAM and {:.2f} for the Transformer".format(*ratios),
    ]:
        assert phrase in page, phrase
    assert {*np.sign(mamba - other)} == {-1.0, 1.0}, "each is ahead with one seed"


def test_the_page_says_what_is_stored():
    for phrase in phrases():
        assert phrase in plain(TEXT), phrase


def known() -> set[str]:
    """Return the figures that are the paper's, or computed here."""
    return PAPERS | set(differences().values()) | set(FIGURE.findall(" ".join(phrases())))


def plain(text: str) -> str:
    return " ".join(text.split())


def test_differences_are_computed_from_the_papers_and_the_stored_numbers():
    for words, figure in differences().items():
        assert words.replace("X", figure) in plain(TEXT), (words, figure)


def rows() -> list[list[str]]:
    """Return the cells of the rows of the two tables of claims."""
    tables = TEXT.partition("## No global context")[0]
    lines = [line.strip("|").split(" | ") for line in tables.splitlines() if re.match(r"\| (?!-)", line)]
    return [[cell.strip() for cell in line] for line in lines if line[-1].strip(" |") != "command and result"]


def test_figures_of_a_claim_are_in_the_file_beside_it():
    """A figure is the paper's, is computed above, or is in a stored file that the row links to."""
    checked = 0
    for claim, found, source in rows():
        linked = [(HERE / target).resolve() for target in re.findall(r"\]\(([^)#]+\.md)\)", source)]
        numbers = {n for path in linked for n in FIGURE.findall(path.read_text(encoding="utf-8"))}
        for figure in FIGURE.findall(f"{claim} {found}"):
            assert figure in numbers | known(), (claim, figure)
            checked += figure in numbers
    assert checked > 30


def test_figures_of_the_text_are_the_papers_or_computed_or_in_the_quoted_table():
    table = (ROOT / "benchmarks" / "results" / "ngrams" / "ngrams.md").read_text(encoding="utf-8")
    allowed = known() | set(FIGURE.findall(table)) | {"2509.00605"}
    text = TEXT.partition("## No global context")[2]
    assert set(FIGURE.findall(text)) <= allowed
    quoted = [line for line in text.splitlines() if line.startswith("| wikitext-2")]
    assert len(quoted) == 3 and all(line in table.splitlines() for line in quoted)


def test_commands_of_a_claim_are_those_of_its_result():
    pairs = [p for *_, source in rows() for p in re.findall(r"`([^`]+)`, \[\w+\]\(([^)]+)\)", source)]
    assert len(pairs) > 10
    for command, target in pairs:
        text = (HERE / target).resolve().read_text(encoding="utf-8")
        start, place = re.fullmatch(r"(.*?)( [A-Z]+)?", command).groups()  # RUN and FOLDER stand for folders
        assert f"`{start} " in text if place else f"`{start}`" in text, (command, target)


def test_what_the_sentences_say_is_so():
    """Orders and factors that the page states in words."""
    mean = {m: float(np.mean(losses("table1_wikitext", m))) for m in ("gam", "transformer", "mamba")}
    assert mean["mamba"] < stored("table1_wikitext")["ngrams"]["trigram"]["loss"] < mean["gam"]
    assert mean["gam"] < mean["transformer"]
    stories = {m: max(losses("table1_pocketstories", m)) for m in ("transformer", "mamba")}
    assert max(stories.values()) < min(losses("table1_pocketstories", "gam"))
    block = stored("table2_small")["cells"]
    for T in paper.LENGTHS:
        gam, *others = (block[m][str(T)]["time_ms"] for m in ("gam", "transformer", "mamba"))
        assert gam < min(others), T
    step = stored("scaling")["cells"]
    gam, other = (
        [step[f"PyTorch {m}"][str(T)]["time_ms"] for T in paper.LENGTHS] for m in ("GAM", "Transformer")
    )
    ratios = [a / b for a, b in zip(gam, other, strict=True)]
    assert min(ratios[:2]) > 0.95 and max(ratios[2:]) < 0.9, "level up to 512 tokens, faster from 1,024"
    parts = {m: losses("table3_small", m) for m in OURS}
    highest = max(np.mean(values) for values in parts.values())
    assert highest - np.mean(parts["gated"]) < max(np.ptp(values) for values in parts.values())
    corpora = stored("ngrams")["corpora"].values()
    gam = paper.TABLE1["wikitext-2"]["gam"][3]
    near = [math.exp(c["ngrams"]["unigram"]["loss"]) / gam for c in corpora]
    assert all(0.5 < factor < 2 for factor in near)
