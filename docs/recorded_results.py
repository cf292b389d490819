"""Hook of MkDocs: `{{ result NAME }}` becomes the stored output of a benchmark, with its origin."""

import re
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parents[1] / "benchmarks" / "results"
PLACE = re.compile(r"^\{\{ result (\w+) \}\}$", re.MULTILINE)


def shown(name: str) -> str:
    """A stored result as Markdown: what it is of, and the table."""
    path = RESULTS / f"{name}.txt"
    if not path.exists():
        raise ValueError(f"Expected a result in {sorted(RESULTS.glob('*.txt'))}; got {name!r}.")
    head, body = path.read_text(encoding="utf-8").split("\n\n", 1)
    about = dict(line.split(": ", 1) for line in head.splitlines())
    origin = f"`{about['command']}` — {about['machine']}; recorded {about['recorded']}."
    if "note" in about:
        origin += f" Note: {about['note']}."
    table = body if body.startswith("|") else f"```text\n{body.rstrip()}\n```"
    return f"{origin}\n{{: .recorded }}\n\n{table}\n"


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Called by MkDocs with the text of every page."""
    return PLACE.sub(lambda found: shown(found[1]), markdown)
