r"""Held-out class probabilities: are they calibrated, and better than simple baselines?

The expected calibration error (ECE) bins rows by a predicted probability, that of the second class
if there are two and else that of the predicted class, and averages the distance of each bin's mean
prediction from the observed frequency. It is positive even for exact probabilities, so it is
compared with its distribution if labels are drawn from the predicted probabilities.

References:
    | Increasing the Reliability of Reliability Diagrams (Broecker and Smith, 2007)
    | On Calibration of Modern Neural Networks (Guo et al., 2017), arXiv:1706.04599
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import confusion_matrix

from amortized.diagnostics.data.held_out import boosted_trees
from amortized.diagnostics.reports.page import ALARM, Section
from amortized.plotting import BAND, COLOURS, label_axes, new_axes, plain_text
from amortized.validation import seed_number

Array = NDArray[np.float64]
Rows = NDArray[np.intp]

N_FOLDS = 5
_MOST_ROWS = 500  # of a larger table, a random subset of rows is evaluated
_MOST_BINS, _ROWS_A_BIN = 10, 10
_N_SIMULATIONS = 999
_SMALLEST = 1e-15  # probabilities are clipped here, as in scikit-learn
_MOST_NAMED = 12  # classes of a confusion matrix


@dataclass(frozen=True)
class HeldOutClasses:
    """Class probabilities of rows, each predicted from the other rows.

    Attributes:
        y: class index of each row, ``(rows,)``.
        probs: probabilities by method, ``{name: (rows, classes)}``; the evaluated method comes
            first, then baselines.
        n_left_out: number of rows not evaluated, because the table is large or no other row has
            their class.
    """

    y: Rows
    probs: dict[str, Array]
    n_left_out: int = 0

    @property
    def own(self) -> Array:
        return next(iter(self.probs.values()))

    def log_losses(self) -> dict[str, Array]:
        """Log-loss of each row, by method."""
        rows = np.arange(len(self.y))
        return {
            name: -np.log(np.maximum(probs[rows, self.y], _SMALLEST))
            for name, probs in self.probs.items()
        }


def held_out_classes(
    answer: Callable[[Rows, Rows], Array], x: Array, y: Rows, n_classes: int, seed: int = 0
) -> HeldOutClasses:
    """Predicts every row from the rows of the other folds, by the method and by two baselines.

    Args:
        answer: probabilities ``(out, classes)`` of the rows ``out`` given the rows ``given``, as
            ``answer(given, out)``.
        x: inputs as numbers, ``(rows, features)``, for the boosted baseline.
        y: class index of each row.
        n_classes: number of classes.
        seed: seed of the folds.

    Raises:
        ValueError: if there are fewer rows than folds.
    """
    if len(y) < N_FOLDS:
        raise ValueError(f"Expected at least {N_FOLDS} rows for cross-validation; got {len(y)}.")
    rows = np.sort(np.random.default_rng(seed_number(seed)).permutation(len(y))[:_MOST_ROWS])
    # Stratified folds: rows are sorted by class and assigned to the folds in turn.
    shuffled = np.random.default_rng(seed_number(seed)).permutation(rows)
    dealt = shuffled[np.argsort(y[shuffled], kind="stable")]
    folds = [dealt[fold::N_FOLDS] for fold in range(N_FOLDS)]
    kept, found = [], dict[str, list[Array]]()
    for held in folds:
        given = np.setdiff1d(np.arange(len(y)), held)
        out = held[np.isin(y[held], y[given])]
        if len(out) == 0 or len(np.unique(y[given])) < 2:
            continue
        kept.append(out)
        parts = {"estimator": answer(given, out)} | _baselines(x, y, given, out, n_classes)
        for name, probs in parts.items():
            found.setdefault(name, []).append(probs)
    if not kept:
        raise ValueError("Expected two classes with two rows each for cross-validation; got fewer.")
    joined = np.concatenate(kept)
    by_method = {name: np.concatenate(parts) for name, parts in found.items()}
    return HeldOutClasses(y[joined], by_method, len(rows) - len(joined))


def _baselines(x: Array, y: Rows, given: Rows, out: Rows, n_classes: int) -> dict[str, Array]:
    counts = np.bincount(y[given], minlength=n_classes) + 0.5
    boosted = boosted_trees(HistGradientBoostingClassifier, x[given], y[given])
    probs = np.zeros((len(out), n_classes))
    probs[:, boosted.classes_] = boosted.predict_proba(x[out])
    return {
        "class prevalence": np.tile(counts / counts.sum(), (len(out), 1)),
        "boosted trees": probs,
    }


def classes_section(held_out: HeldOutClasses, classes: Any, seed: int = 0) -> Section:
    """Calibration, log-loss, confusion matrix and counts of held-out rows.

    Args:
        held_out: probabilities of the held-out rows.
        classes: names of the classes.
        seed: seed of the labels simulated from the probabilities.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> p = rng.uniform(0.1, 0.9, 400)
        >>> own = np.column_stack((1 - p, p))
        >>> y = (rng.random(400) < p).astype(np.intp)
        >>> classes_section(HeldOutClasses(y, {"estimator": own}), ["no", "yes"]).warnings
        []
    """
    calibration = _Calibration(held_out.y, held_out.own, seed)
    entries: dict[str, Any] = {
        "rows judged": f"{len(held_out.y)}, each predicted from those of {N_FOLDS - 1} other folds"
    }
    if held_out.n_left_out:
        entries["rows not judged"] = f"{held_out.n_left_out}: large table, or only row of a class"
    entries["accuracy"] = float((held_out.own.argmax(1) == held_out.y).mean())
    entries |= calibration.entries()
    warnings = calibration.warnings()
    entries |= _compared(held_out, warnings)
    names = [str(name) for name in classes]
    entries |= calibration.counts(names)
    figures = {
        "Reliability diagram: grey bars show where bins would lie if the probabilities were "
        "calibrated.": calibration.plot(names)
    }
    if len(names) <= _MOST_NAMED:
        figures["Confusion matrix of held-out rows."] = _confusion(held_out, names)
    return Section("Held-out rows", entries, warnings, figures)


def _compared(held_out: HeldOutClasses, warnings: list[str]) -> dict[str, str]:
    losses = held_out.log_losses()
    own = next(iter(losses.values()))
    entries = {}
    for name, loss in losses.items():
        error = loss.std(ddof=1) / np.sqrt(len(loss))
        entries[f"log-loss, {name}"] = f"{loss.mean():.4g} +- {error:.2g}"
        behind = own - loss
        if behind.mean() > 3 * behind.std(ddof=1) / np.sqrt(len(loss)):
            warnings.append(
                f"On held-out rows {name} has a lower log-loss than this estimator "
                f"({loss.mean():.3g} against {own.mean():.3g}): prefer another model."
            )
    return entries


class _Calibration:
    """Compares observed labels with labels drawn from the predicted probabilities."""

    def __init__(self, y: Rows, probs: Array, seed: int) -> None:
        self.y, self.probs = y, probs
        edges = probs.cumsum(1)[:, :-1]
        u = np.random.default_rng(seed_number(seed)).random((_N_SIMULATIONS, len(y), 1))
        self.drawn = (u > edges).sum(-1)
        binary = probs.shape[1] == 2
        predicted = np.ones(len(y), np.intp) if binary else probs.argmax(1)
        self.predicted = probs[np.arange(len(y)), predicted]
        n_bins = int(np.clip(len(y) // _ROWS_A_BIN, 1, _MOST_BINS))
        order = np.argsort(self.predicted, kind="stable")
        self.bins = np.array_split(order, n_bins)
        self.mean = np.array([self.predicted[rows].mean() for rows in self.bins])
        self.frequency = self._frequencies(y[None] == predicted)[0]
        self.simulated = self._frequencies(self.drawn == predicted)
        share = np.array([len(rows) for rows in self.bins]) / len(y)
        self.ece = float(np.abs(self.frequency - self.mean) @ share)
        self.expected = np.abs(self.simulated - self.mean) @ share

    def _frequencies(self, hits: NDArray[np.bool_]) -> Array:
        return np.stack([hits[:, rows].mean(1) for rows in self.bins], 1)

    @property
    def p_value(self) -> float:
        return float((1 + (self.expected >= self.ece - 1e-12).sum()) / (1 + _N_SIMULATIONS))

    def entries(self) -> dict[str, str]:
        low, high = np.quantile(self.expected, [0.05, 0.95])
        return {
            "expected calibration error (ECE)": (
                f"{self.ece:.3g} ({low:.3g} to {high:.3g} if calibrated; p = {self.p_value:.2g})"
            )
        }

    def warnings(self) -> list[str]:
        if self.p_value >= ALARM:
            return []
        top = self.probs.max(1).mean()
        right = (self.probs.argmax(1) == self.y).mean()
        word = "overconfident" if top > right else "underconfident"
        return [
            f"Class probabilities are {word} on held-out rows: expected accuracy {top:.0%}, "
            f"observed {right:.0%} (ECE {self.ece:.2g}, p = {self.p_value:.2g}). Calibrate them, "
            "for instance with scikit-learn's CalibratedClassifierCV."
        ]

    def counts(self, names: list[str]) -> dict[str, str]:
        """Rows of each class: their number, the expected number, and those classified correctly."""
        entries = {}
        for i, name in enumerate(names):
            low, high = np.quantile((self.drawn == i).sum(1), [0.05, 0.95])
            own = self.y == i
            found = (self.probs.argmax(1)[own] == i).sum()
            entries[f"class {name}"] = (
                f"{own.sum()} rows, {low:.0f} to {high:.0f} expected; {found} classified correctly"
            )
        return entries

    def plot(self, names: list[str]) -> Any:
        ax = new_axes()
        low, high = np.quantile(self.simulated, [0.05, 0.95], axis=0)
        ax.vlines(self.mean, low, high, color=BAND, linewidth=7, label="90% if calibrated")
        ax.plot([0, 1], [0, 1], color="0.5", linewidth=0.8)
        ax.plot(self.mean, self.frequency, "o-", color=COLOURS[0], label="observed")
        what = f"class {names[1]}" if len(names) == 2 else "the predicted class"
        label_axes(ax, f"predicted probability of {what}", "observed frequency")
        return ax.figure


def _confusion(held_out: HeldOutClasses, names: list[str]) -> Any:
    n = len(names)
    counts = confusion_matrix(held_out.y, held_out.own.argmax(1), labels=range(n))
    ax = new_axes(2.5 + 0.35 * n, 2.0 + 0.35 * n)
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    ax.imshow(shares, cmap="Greys", vmin=0, vmax=1)
    for (i, j), count in np.ndenumerate(counts):
        colour = "white" if shares[i, j] > 0.5 else COLOURS[0]
        ax.text(j, i, str(count), ha="center", va="center", color=colour, fontsize=8)
    short = [name if len(name) <= 14 else f"{name[:13]}..." for name in names]
    ax.set_xticks(range(n), short, rotation=90 if n > 3 else 0)
    ax.set_yticks(range(n), short)
    plain_text([*ax.get_xticklabels(), *ax.get_yticklabels()])
    label_axes(ax, "predicted class", "true class")
    return ax.figure
