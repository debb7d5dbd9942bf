"""Formulas become MathML when the site is built: browsers draw it without a script, or a request."""

import html
import re
from typing import Any

from latex2mathml.converter import convert

FORMULA = re.compile(r'<(span|div) class="arithmatex">\\([(\[])(.*?)\\[)\]]</\1>', re.DOTALL)
BAR = re.compile(r'<mo ((?:fence="false" )?stretchy="false")>(?=&#x0007C;|&#x02016;)')  # |x| has no gaps


def on_page_content(content: str, page: Any, **_: Any) -> str:
    """Return the page with its formulas drawn. Raises ValueError for a command that is not known."""

    def drawn(match: re.Match) -> str:
        tex = html.unescape(match[3]).strip().replace(r"\Big\|", r"\Big‖")
        tex = re.sub(r"\\(begin|end)\{aligned\}", r"\\\1{align*}", tex)  # of the two it knows this one alone
        mathml = convert(tex, display="block" if match[2] == "[" else "inline")
        if "\\" in html.unescape(re.sub(r"<annotation.*?</annotation>", "", mathml)):
            raise ValueError(f"{page.file.src_uri}: latex2mathml does not know all of {tex}")
        if "<mi>&</mi>" in mathml:
            raise ValueError(f"{page.file.src_uri}: latex2mathml does not know the columns of {tex}")
        return BAR.sub(r'<mo \1 lspace="0" rspace="0">', mathml)

    return FORMULA.sub(drawn, content)


SHIM = "https://unpkg.com/iframe-worker/shim"  # what the plugin `offline` would load; worker.js does the same


def on_post_page(output: str, page: Any, **_: Any) -> str:
    """Return the page with our own script for the search."""
    return output.replace(SHIM, "../" * page.file.dest_uri.count("/") + "worker.js")


def on_post_template(output_content: str, **_: Any) -> str:
    """Return the page of a missing page, which is no page to MkDocs, in the same way."""
    return output_content.replace(SHIM, "worker.js")
