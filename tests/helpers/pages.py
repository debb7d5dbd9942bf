"""Write pages of minigam explain and read the data in them."""

import json
import re
from pathlib import Path

from minigam.data.tokenizer import WordTokenizer
from minigam.explain import __main__ as explain
from minigam.explain import page as pages

HOSTILE = "</script><script>document.title='x'</script><!-- <b>&amp;\u2028 \"'\\"


LETTERS = WordTokenizer(list("abcdefg"))


def element(html: str, name: str) -> str:
    """Return the content of a script element that holds data."""
    return re.search(rf'<script id="{name}"[^>]*>(.*?)</script>', html, re.S)[1]


def data_of(html: str) -> dict:
    return json.loads(element(html, "data"))


def write(run: Path, out: Path, *flags: str) -> dict:
    assert explain.main([str(run), "--backend=numpy", f"--out={out}", *flags]) == 0
    assert out.stat().st_size < 1_000_000
    return data_of(out.read_text(encoding="utf-8"))


def tiny_page(path: Path, model, rival=None, ids: tuple[int, ...] = (0, 3, 1, 6, 3)) -> Path:
    """Write the page of a model of helpers.tiny, whose words are the letters a to g."""
    data, weights = pages.contents(model, rival, LETTERS, pages.Text("a text", list(ids), None, len(ids)))
    slots = 0 if model.config.mixer == "local" else model.config.n_slots
    words = [[["a", "b"]] * slots] * model.config.n_layers
    data |= {"run": "tiny", "corpus": "letters", "rows": 1, "words": words}
    path.write_text(pages.page(data, weights), encoding="utf-8")
    return path
