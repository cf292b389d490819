"""Sixty programs with known answers."""

from trust_zoo import (
    conjugate,
    discrete,
    heavy,
    hierarchical,
    multimodal,
    regressions,
    supports,
    walks,
)
from trust_zoo.entry import Entry

FAMILIES = {
    "conjugate": conjugate.ENTRIES,
    "supports": supports.ENTRIES,
    "discrete": discrete.ENTRIES,
    "multimodal": multimodal.ENTRIES,
    "heavy": heavy.ENTRIES,
    "hierarchical": hierarchical.ENTRIES,
    "walks": walks.ENTRIES,
    "regressions": regressions.ENTRIES,
}
ZOO: dict[str, Entry] = {n: entry for family in FAMILIES.values() for n, entry in family.items()}
EVIDENCE = (
    "normal-gamma",
    "regression 7d",
    "regression 8d",
    "binned",
    "disc",
    "order",
    "outliers",
    "sign",
    "two labels",
    "spike and slab",
    "Student regression",
    "schools",
    "counted walk",
    "logistic 12d",
    "Gaussian process",
)
"""Those whose stated errors of the evidence are counted."""
