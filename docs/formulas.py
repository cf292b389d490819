"""Hook of MkDocs: formulas become MathML when the site is built, so that it needs no script."""

import re
from html import unescape
from typing import Any

from latex2mathml.converter import convert

FORMULA = re.compile(r'<(span|div) class="arithmatex">\\([(\[])(.*?)\\[)\]]</\1>', re.DOTALL)


def as_mathml(found: re.Match[str]) -> str:
    """One formula, inline or displayed."""
    display = "inline" if found[2] == "(" else "block"
    return convert(unescape(found[3]).strip(), display=display)


def on_page_content(html: str, **_: Any) -> str:
    """Called by MkDocs with the HTML of every page."""
    return FORMULA.sub(as_mathml, html)
