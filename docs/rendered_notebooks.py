"""Runs the notebooks and writes them as pages with their outputs.

    python docs/rendered_notebooks.py             # all, some minutes
    python docs/rendered_notebooks.py 02_tables   # one

The notebooks themselves are stored without outputs. The pages, `docs/notebooks/NAME.md`, are stored
with them, so that the site builds in seconds; a test says when a page is older than its notebook.
"""

import argparse
import base64
import re
from datetime import date
from pathlib import Path
from typing import Any

import nbformat
import torch
from nbclient import NotebookClient

ROOT = Path(__file__).parents[1]
NOTEBOOKS, PAGES = ROOT / "notebooks", ROOT / "docs" / "notebooks"
MAGIC = re.compile(r"^%.*\n", re.MULTILINE)
TERMINAL = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
FRAME = re.compile(r"<style.*?</style>", re.DOTALL)


def source_of(cell: Any) -> str:
    """A cell as the page shows it."""
    if cell.cell_type == "code":
        return f"```python\n{MAGIC.sub('', cell.source).strip()}\n```"
    return cell.source


def joined(outputs: list[Any]) -> list[Any]:
    """Outputs without progress bars, and what was printed in parts as one."""
    kept: list[Any] = []
    for output in outputs:
        if output.output_type != "stream":
            kept.append(output)
        elif output.name == "stdout":
            if kept and kept[-1].output_type == "stream":
                kept[-1].text += output.text
            else:
                kept.append(output)
    return kept


def output_of(output: Any, image: Path, title: str) -> str:
    """An output as Markdown; a figure goes into a file beside the page."""
    if output.output_type == "stream":
        shown = TERMINAL.sub("", output.text).rstrip()
        return f"```text\n{shown}\n```" if shown else ""
    data = output.get("data", {})
    if "image/png" in data:
        image.write_bytes(base64.b64decode(data["image/png"]))
        return f"![Figure of {title}]({image.parent.name}/{image.name})"
    if "text/html" in data:
        frame = FRAME.sub("", data["text/html"]).replace("\n\n", "\n")
        return f'<div class="frame">\n{frame}\n</div>'
    return f"```text\n{data['text/plain']}\n```" if "text/plain" in data else ""


def render(path: Path) -> Path:
    """Runs one notebook and writes its page."""
    book = nbformat.read(path, as_version=4)
    NotebookClient(book, timeout=1200, resources={"metadata": {"path": path.parent}}).execute()
    folder = PAGES / path.stem
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.png"):
        old.unlink()
    title = book.cells[0].source.splitlines()[0].lstrip("# ")
    parts, number = [], 0
    for cell in book.cells:
        parts.append(source_of(cell))
        for output in joined(cell.get("outputs", [])):
            parts.append(output_of(output, folder / f"{number}.png", title))
            number += 1
    parts.append(
        f"*Outputs of {date.today()} with torch {torch.__version__}; seconds depend on the machine "
        "and on what else it does.*"
    )
    page = PAGES / f"{path.stem}.md"
    page.write_text("\n\n".join(part for part in parts if part) + "\n", encoding="utf-8")
    return page


def main() -> None:
    """Render the notebooks that are named, or all."""
    names = sorted(path.stem for path in NOTEBOOKS.glob("*.ipynb"))
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"among {', '.join(names)}")
    for name in parser.parse_args().names or names:
        print(render(NOTEBOOKS / f"{name}.ipynb"))


if __name__ == "__main__":
    main()
