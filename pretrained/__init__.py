"""Pretrained networks: a folder of weights, configuration and card for each, and their loader."""

if __name__ == "pretrained":
    raise ImportError(
        "Expected 'import amortized.pretrained'; got 'import pretrained'. Add 'amortized.'."
    )

from amortized.pretrained.card import card_rows, card_text
from amortized.pretrained.storage import available, kind_of, load, replace_card, save

__all__ = ["available", "card_rows", "card_text", "kind_of", "load", "replace_card", "save"]
