"""The front page: short, a result first, figures that are stored, an example that runs as it stands."""

import re
from pathlib import Path

import pytest

pytest.importorskip("markdown_it", reason="needs markdown-it-py (the group `test`)")
import markdown_it

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
RESULTS = ROOT / "benchmarks" / "results"


def rows_of(text: str) -> dict[str, list[str]]:
    """Return the cells of every table row, by the first of them."""
    rows = (line.strip("|").split("|") for line in text.splitlines() if line.startswith("|"))
    return {first.strip(): [cell.strip() for cell in cells] for first, *cells in rows}


def test_it_is_short_and_begins_with_a_result():
    lines = README.splitlines()
    assert len(lines) <= 150
    first_screen = "\n".join(lines[:25])
    assert "entropy floor" in first_screen and "![" in first_screen


def test_the_losses_are_those_of_the_stored_run():
    printed = (RESULTS / "default_run" / "output.txt").read_text(encoding="utf-8")
    stored = dict(re.findall(r"^(syntax|choice|recall) +[\d,]+ +([\d.]+ +[\d.]+)", printed, re.M))
    shown = rows_of(README)
    for kind, row in (
        ("syntax", "the last 13 tokens"),
        ("choice", "chance"),
        ("recall", "a word further back"),
    ):
        assert shown[row] == [f"{float(number):.3f}" for number in stored[kind].split()], row


def test_the_samples_are_those_of_the_stored_runs():
    samples = re.findall(
        r"^> \*\*(?:GAM|Ours)\*\* \(`make train[^`]*`\): ((?:.*\n)(?:> .*\n)*)", README, re.M
    )
    assert len(samples) == 2
    for sample, folder in zip(samples, ("default_run", "written_run"), strict=True):
        printed = (RESULTS / folder / "output.txt").read_text(encoding="utf-8")
        quoted = " ".join(sample.replace("\n> ", " ").removesuffix("[...]\n").split())
        assert len(quoted) > 200 and quoted in " ".join(printed.split())


def test_the_loss_of_the_extension_is_that_of_its_stored_run():
    printed = (RESULTS / "written_run" / "output.txt").read_text(encoding="utf-8")
    (recall,) = re.findall(r"^recall +[\d,]+ +([\d.]+)", printed, re.M)
    assert f"The third loss falls to {float(recall):.3f}." in README


def test_the_times_are_those_of_the_stored_benchmark():
    published = (RESULTS / "train_step" / "train_step.md").read_text(encoding="utf-8").split("small:")[0]
    stored, shown = rows_of(published), rows_of(README)
    for competitor in ("minigam", "PyTorch eager", "PyTorch tuned", "matrix products alone"):
        seconds, _, mib, _ = stored[competitor]
        assert shown[competitor] == [seconds, mib], competitor
    eager, tuned = (float(stored[name][0]) for name in ("PyTorch eager", "PyTorch tuned"))
    assert float(stored["minigam"][0]) < tuned < eager  # as the text says


def test_the_example_runs_as_it_stands(capsys):
    (example,) = re.findall(r"^```python\n(.*?)^```", README, re.M | re.S)
    assert max(map(len, example.splitlines())) <= 39  # a phone cuts nothing
    exec(compile(example, "README.md", "exec"), {})
    loss, counted, error = capsys.readouterr().out.splitlines()
    assert float(loss) < 0.1
    assert counted == "[ 3  4  5  6  7  8  9 10]"
    assert float(error) < 1e-7


STYLE = """
body { font: 16px/1.5 sans-serif; margin: 0 } div { padding: 16px; overflow-wrap: break-word }
img { max-width: 100% }
table { display: block; width: max-content; max-width: 100%; overflow: auto; border-collapse: collapse }
th, td { padding: 6px 13px; border: 1px solid } code, pre { font: 13.6px/1.45 monospace }
pre { padding: 16px; overflow: auto }
"""
TOO_WIDE = (
    "return [...document.querySelectorAll('table, pre')].filter(e => e.scrollWidth > e.clientWidth).length"
)


def test_nothing_scrolls_sideways_on_a_phone(browser, tmp_path):
    body = markdown_it.MarkdownIt("commonmark").enable("table").render(README)
    page = tmp_path / "readme.html"
    for html, expected in ((body, 0), (f"{body}<pre>{'x' * 60}</pre>", 1)):
        head = f"<meta charset=utf-8><meta name=viewport content='width=device-width'><style>{STYLE}</style>"
        page.write_text(f"<!doctype html>{head}<div>{html}</div>", encoding="utf-8")
        size = {"width": 390, "height": 800, "deviceScaleFactor": 1, "mobile": True}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        browser.get(page.as_uri())
        assert browser.execute_script(TOO_WIDE) == expected
