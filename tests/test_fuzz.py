"""Generated inputs to every kind of public call, a few of those that `benchmarks/fuzz.py` runs."""

import sys
from collections import Counter
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))

from fuzz import KINDS, outcome  # noqa: E402


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_an_answer_or_an_error_that_helps(kind, no_shape_checks):
    found = Counter()
    for seed in range(40):
        found[outcome(kind, seed)] += 1
        if found.total() >= KINDS[kind] and found["answered"]:
            return
    pytest.fail("every input was refused")
