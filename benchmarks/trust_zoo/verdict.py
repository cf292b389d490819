"""Whether an answer is right, and whether it said that it may not be: both are decided here only.

An answer is a record of plain numbers, as `trust_zoo.answer` makes them and JSON keeps them.
"""

import math
from collections.abc import Mapping
from typing import Any

from trust_zoo.reference import LEVELS, Reference, Summary

MOST_OFF = 0.2  # of a mean in standard deviations, of a standard deviation as a share
STATED_ERRORS = 5.0  # that the log evidence may be off
LEAST_ERROR = 0.01  # nats: an error below is rounded up to it
UNSTATED = 1.0  # nats that a log evidence without a stated error may be off
KURTOSIS = 10.0  # up to it moments are compared, beyond it shares of draws below quantiles
# What a mean .2 deviations off makes of the median's level, and a deviation 20% off of the others';
# of the last level, at least 8 of 4,000 draws must lie beyond (see `trust_zoo.answer`).
SHARES = ((0.02, 0.085), (0.42, 0.58), (0.915, 0.98), (0.974, 0.998))
VERDICTS = ("right", "alarm", "said", "refused", "slow", "broke", "silent")
ABOUT_SPEED = ("which is slow", "performance drop", "one task at a time", "one by one")

Record = Mapping[str, Any]


def said(record: Record) -> list[str]:
    """What the answer said against itself: an error with advice, a warning, or a stated doubt.

    Numbers in ``diagnostics`` that nobody judges do not count, nor do warnings of speed, of
    deprecation or of arithmetic: only those that are raised for a user to read.
    """
    words = [record["error"]] if record["status"] == "refused" else []
    for category, text in record.get("warnings", []):
        for_users = category == "builtins.UserWarning" or category.startswith("amortized.")
        if for_users and not any(phrase in text for phrase in ABOUT_SPEED):
            words.append(text)
    doubt = record.get("diagnostics", {}).get("doubt")
    if isinstance(doubt, list | tuple):
        return words + [str(each) for each in doubt]
    return words + ([f"doubt: {doubt}"] if doubt else [])


def faults(record: Record, reference: Reference) -> list[str]:
    """Where the answer is wrong, in words with numbers; empty if it is right."""
    if record["status"] != "answered":
        return []
    found = []
    # Discrete latents are among the draws; the references are of continuous ones.
    missing = set(reference.latents) - set(record["latents"])
    if missing:
        found.append(f"latents {sorted(missing)[:4]} have no answer")
    for label, answer in record["latents"].items():
        if label in reference.latents:
            found += _faults_of_one(label, answer, reference.latents[label], reference.error)
    return found + _faults_of_evidence(record, reference)


def _faults_of_one(label: str, answer: Record, right: Summary, error: float) -> list[str]:
    if right.sd < 1e-9 * max(1.0, abs(right.mean)):  # a constant entry of a matrix
        off = abs(answer["mean"] - right.mean)
        return [f"{label} is {answer['mean']:.3g}, not {right.mean:.3g}"] if off > 1e-4 else []
    if right.kurtosis <= KURTOSIS:
        return _faults_of_moments(label, answer, right, error)
    found = []
    for level, share, (low, high) in zip(LEVELS, answer["shares"], SHARES, strict=True):
        if not low - error <= share <= high + error:
            found.append(f"{label}: {share:.3f} of the draws below the {level:g} quantile")
    return found


def _faults_of_moments(label: str, answer: Record, right: Summary, error: float) -> list[str]:
    shift = (answer["mean"] - right.mean) / right.sd
    stretch = answer["sd"] / right.sd - 1
    found = []
    if not abs(shift) <= MOST_OFF + error:
        found.append(f"{label}: mean {answer['mean']:.4g} for {right.mean:.4g}, {shift:+.2f} sd")
    if not abs(stretch) <= MOST_OFF + error:
        found.append(f"{label}: sd {answer['sd']:.3g} for {right.sd:.3g}, {stretch:+.0%}")
    return found


def _faults_of_evidence(record: Record, reference: Reference) -> list[str]:
    evidence, error = record["log_evidence"], record["log_evidence_error"]
    if evidence is None:
        return []
    if math.isnan(evidence):
        return ["log evidence is NaN"]
    off = evidence - reference.log_evidence
    if error is None or math.isnan(error):
        most, stated = UNSTATED, "no stated error"
    else:
        most, stated = STATED_ERRORS * max(error, LEAST_ERROR), f"stated {error:.3f}"
    if abs(off) <= most + reference.error:
        return []
    return [f"log evidence {evidence:.6g} for {reference.log_evidence:.6g}, {stated}"]


def verdict(record: Record, reference: Reference) -> str:
    """One word: right, alarm (right, but warned), said (wrong, and said so), silent, or none.

    No answer at all is "refused" where the error is one of those that speak to the user, "broke"
    for any other, and "slow" past the limit of time.
    """
    if record["status"] != "answered":
        return str(record["status"])
    words = said(record)
    if faults(record, reference):
        return "said" if words else "silent"
    return "alarm" if words else "right"
