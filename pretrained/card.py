"""CARD.md of a released network: a heading, a text, and a table of facts and measurements."""

import inspect
from collections.abc import Mapping
from pathlib import Path

from amortized.pretrained.storage import CARD


def card_text(name: str, text: str, rows: Mapping[str, str]) -> str:
    """The text of a card, for `amortized.pretrained.save`.

    Args:
        name: name of the network.
        text: description of the training prior, such as a docstring.
        rows: rows of the table.

    Example:
        >>> card_text("tiny", "Made for tests.", {"Parameters": "12"}).splitlines()[-1]
        '| Parameters | 12 |'
    """
    lines = [f"# {name}", "", inspect.cleandoc(text), "", "| | |", "| --- | --- |"]
    return "\n".join(lines + [f"| {key} | {value} |" for key, value in rows.items()]) + "\n"


def card_rows(folder: str | Path) -> dict[str, str]:
    """The table of the card in a folder.

    Args:
        folder: folder of a saved network.

    Raises:
        ValueError: if there is no card, or no table in it.
    """
    path = Path(folder) / CARD
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    cells = [line.strip("| ").split(" | ", 1) for line in lines if line.startswith("| ")]
    rows = {row[0]: row[1] for row in cells if len(row) == 2 and row[0] != "---"}
    if not rows:
        raise ValueError(
            f"Expected {path} with a table of the network's properties; got none. Save the network "
            "with a card first."
        )
    return rows
