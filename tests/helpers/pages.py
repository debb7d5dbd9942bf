"""Write pages of minigam explain and read the data in them."""

import json
import re
from pathlib import Path

from minigam.data.tokenizer import WordTokenizer
from minigam.explain import __main__ as explain

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
