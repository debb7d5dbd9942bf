"""Measure how fast the page of `minigam explain` answers: a story is typed word by word in headless Chromium.

The time of a word is that of the page's own answer to it: the model reads the word, the page is built again,
and the browser lays it out. Of each story the first word is left out, because the text before it goes.
"""

import shutil
import sys
import tempfile
from pathlib import Path
from statistics import median, quantiles

from tqdm import tqdm

from benchmarks import measure
from minigam import GAM, GAMConfig, cli
from minigam.config import PRESETS, WRITTEN, InputError
from minigam.data import pocketstories
from minigam.data.tokenizer import WordTokenizer
from minigam.experiments import report
from minigam.explain import page
from minigam.models.lm import LanguageModel
from minigam.training import provenance
from minigam.training.run import Run

PROG = "benchmarks.explain"
RUNS = Path(page.__file__).parents[1] / "course" / "runs"
STORIES = 3
TYPE = """
const field = document.getElementById("typed"), words = arguments[0].match(/\\S+\\s*/g), times = [];
for (let n = 1; n <= words.length; n += 1) {
  field.value = words.slice(0, n).join("");
  const start = performance.now();
  field.dispatchEvent(new Event("input"));
  document.body.getBoundingClientRect();  // waits for the layout
  times.push(performance.now() - start);
}
return times.slice(1);
"""


def parser() -> cli.Parser:
    p = cli.Parser(prog=f"python -m {PROG}", description=__doc__.splitlines()[0])
    p.add_argument("--out", type=Path, default=measure.RESULTS / "explain",
                   help="folder for results (default: benchmarks/results/explain)")  # fmt: skip
    return p


def models(tokenizer: WordTokenizer) -> dict[str, list[LanguageModel]]:
    """Return the models of each page. Those of the default size are not trained, which changes no time."""
    stored = [Run(RUNS / name).load_model() for name in ("gam", "transformer")]
    small = PRESETS["small"] | {"vocab_size": len(tokenizer)}
    sizes = {mixer: GAM(GAMConfig.of(small | {"mixer": mixer})).eval() for mixer in ("gated", WRITTEN)}
    return {
        "GAM and Transformer of the course": stored,
        "GAM, default size": [sizes["gated"]],
        "GAM, written memory (ours), default size": [sizes[WRITTEN]],
    }


def write_page(path: Path, pair: list[LanguageModel], tokenizer: WordTokenizer) -> None:
    """Write the page of a GAM and of its rival, if there is one; the words of the slots are left out."""
    gam, *others = pair
    text = page.Text("a text", [0], None, 1)
    data, weights = page.contents(gam, others[0] if others else None, tokenizer, text)  # type: ignore[arg-type]
    c = gam.config
    data |= {"run": "run", "corpus": "pocketstories", "rows": 0, "grammar": page.grammar()}
    data["words"] = [[["-"]] * data["model"]["slots"]] * c.n_layers
    path.write_text(page.page(data, weights), encoding="utf-8")


def main(argv: list[str] | None = None) -> int:
    args = parser().parse_args(argv)
    cli.require_folder(args.out)
    measure.require("selenium", "pytest")
    if missing := [name for name in ("chromium", "chromedriver") if shutil.which(name) is None]:
        raise InputError(f"{missing[0]} is not installed; install Debian's chromium and chromium-driver")
    sys.path.insert(0, str(measure.PROJECT / "tests"))
    from helpers import browser

    tokenizer = WordTokenizer(pocketstories.vocabulary())
    stories = [
        tokenizer.decode([tokenizer.id_of[t.text] for t in story])
        for story in pocketstories.stories(STORIES, 1)
    ]
    results, measured = {}, provenance.measured_by("numpy")
    with tempfile.TemporaryDirectory() as folder:
        driver = browser.start(Path(folder) / "profile")
        try:
            for name, pair in tqdm(models(tokenizer).items(), desc="typing", disable=None, unit="page"):
                path = Path(folder) / "page.html"
                write_page(path, pair, tokenizer)
                driver.get(path.as_uri())
                times = [t for story in stories for t in driver.execute_script(TYPE, story)]
                results[name] = {
                    "parameters": sum(m.num_parameters() for m in pair), "words": len(times),
                    "median_ms": median(times), "p95_ms": quantiles(times, n=20)[-1],
                    "largest_ms": max(times), "page_mb": path.stat().st_size / 1e6,
                }  # fmt: skip
            version = driver.capabilities["browserVersion"]
        finally:
            driver.quit()
    heads = [
        "page",
        "parameters",
        "page (MB)",
        "words typed",
        "median (ms)",
        "95 % below (ms)",
        "largest (ms)",
    ]
    lines = [
        [name, f"{r['parameters']:,}", f"{r['page_mb']:.1f}", str(r["words"]),
         *(f"{r[key]:.1f}" for key in ("median_ms", "p95_ms", "largest_ms"))]
        for name, r in results.items()
    ]  # fmt: skip
    text = f"Milliseconds until the page has answered a typed word, in Chromium {version}.\n\n"
    content = {"measured": measured, "chromium": version, "pages": results}
    report.write(args.out, "live", content, [{"measured": measured}], text + report.table(heads, lines), None)
    return 0


if __name__ == "__main__":
    measure.run(main, lambda: {}, PROG)
