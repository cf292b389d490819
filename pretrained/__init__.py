"""Pretrained networks: a folder of weights, configuration and card for each, and their loader."""

if __name__ == "pretrained":
    raise ImportError(
        "Expected 'import amortized.pretrained'; got 'import pretrained'. Add 'amortized.'."
    )

from amortized.pretrained.card import card_rows, card_text
from amortized.pretrained.storage import as_stored, available, kind_of, load, replace_card, save

__all__ = [
    "as_stored",
    "available",
    "card_rows",
    "card_text",
    "kind_of",
    "load",
    "replace_card",
    "save",
]
