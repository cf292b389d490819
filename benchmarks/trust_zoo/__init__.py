"""Sixty programs with known answers."""

from trust_zoo import conjugate, supports
from trust_zoo.entry import Entry

ZOO: dict[str, Entry] = conjugate.ENTRIES | supports.ENTRIES
EVIDENCE: tuple[str, ...] = ()
