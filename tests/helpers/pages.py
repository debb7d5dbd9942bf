"""Write pages of minigam explain and read the data in them."""

import json
import re
from pathlib import Path

from minigam.explain import __main__ as explain

HOSTILE = "</script><script>document.title='x'</script><!-- <b>&amp;\u2028 \"'\\"


def data_of(html: str) -> dict:
    return json.loads(re.search(r'<script id="data"[^>]*>(.*?)</script>', html, re.S)[1])


def write(run: Path, out: Path, *flags: str) -> dict:
    assert explain.main([str(run), "--backend=numpy", f"--out={out}", *flags]) == 0
    assert out.stat().st_size < 1_000_000
    return data_of(out.read_text(encoding="utf-8"))
