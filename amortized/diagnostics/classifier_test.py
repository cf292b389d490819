r"""Classifier two-sample tests: can a method's draws be distinguished from exact ones?

A classifier is trained on half of the draws of both and tested on the other half. If all draws come
from one distribution, each held-out prediction is correct with probability 1/2, whatever the
classifier learned, and the number of correct ones is binomial.

References:
    Lopez-Paz and Oquab, Revisiting classifier two-sample tests (2017), arXiv 1610.06545.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy import stats
from sklearn.base import ClassifierMixin, clone
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import PolynomialFeatures, StandardScaler
from tqdm import tqdm

from amortized.diagnostics.trial import PosteriorTrial
from amortized.plotting import BAND, COLOURS, label_axes, new_axes
from amortized.validation import seed_number


def quadratic_classifier() -> Any:
    """Logistic regression on products of features: detects means, variances and correlations.

    It is fast and hardly overfits. A multilayer perceptron or a forest detects finer differences,
    at a cost in time and, with few draws, in power.
    """
    return make_pipeline(
        StandardScaler(),
        PolynomialFeatures(2, include_bias=False),
        StandardScaler(),
        LogisticRegression(max_iter=1000),
    )


@dataclass(frozen=True)
class ClassifierTest:
    """How well a classifier distinguishes two sets of draws, for each dataset.

    Attributes:
        hits: number of held-out draws classified correctly, ``(n_datasets,)``.
        n_held_out: number of held-out draws of each dataset.
        title: what was compared.
    """

    hits: np.ndarray
    n_held_out: int
    title: str

    @property
    def accuracies(self) -> np.ndarray:
        """Held-out accuracy for each dataset; 0.5 if the draws are indistinguishable."""
        return np.asarray(self.hits / self.n_held_out)

    @property
    def accuracy(self) -> float:
        """Mean accuracy over all datasets."""
        return float(self.accuracies.mean())

    @property
    def p_values(self) -> np.ndarray:
        """p-value of each dataset, ``(n_datasets,)``."""
        return np.asarray(stats.binom.sf(self.hits - 1, self.n_held_out, 0.5))

    @property
    def p_value(self) -> float:
        """p-value of all datasets together."""
        total = self.n_held_out * len(self.hits)
        return float(stats.binom.sf(self.hits.sum() - 1, total, 0.5))

    def plot(self, ax: Any = None) -> Any:
        """A histogram of accuracies, and their 95% range if the draws do not differ."""
        ax = new_axes() if ax is None else ax
        low, high = stats.binom.interval(0.95, self.n_held_out, 0.5)
        ax.axvspan(low / self.n_held_out, high / self.n_held_out, color=BAND, label="95% by chance")
        ax.hist(self.accuracies, bins=20, color=COLOURS[2])
        title = f"{self.title}: p = {self.p_value:.2g}, {len(self.hits)} datasets"
        return label_axes(ax, "held-out accuracy of the classifier", "datasets", title)

    def __repr__(self) -> str:
        return f"ClassifierTest({self.title}, accuracy {self.accuracy:.3f}, p = {self.p_value:.3g})"


def c2st(
    trial: PosteriorTrial,
    reference: PosteriorTrial,
    *,
    classifier: ClassifierMixin | Any | None = None,
    seed: int = 0,
    progress: bool = True,
) -> ClassifierTest:
    """Tests a method's draws against a reference's, dataset by dataset.

    Both sets of draws must be independent; thin the chains of NUTS.

    Args:
        trial: a trial of the method.
        reference: a trial of "exact", "nuts" or "smc" on the same datasets, with as many draws.
        classifier: any scikit-learn classifier; None uses `quadratic_classifier`.
        seed: seed for splitting the draws.
        progress: whether a progress bar is shown.

    Example:
        >>> from amortized.priors.regression.normal_mean import NormalMeanPrior
        >>> size = {"n_datasets": 3, "n_context": 3, "n_draws": 500, "progress": False}
        >>> trial = PosteriorTrial.run(NormalMeanPrior(), "exact", **size)
        >>> other = PosteriorTrial.run(NormalMeanPrior(), "laplace", **size)
        >>> c2st(trial, other, progress=False).accuracy < 0.6
        True
    """
    if trial.n_datasets != reference.n_datasets or trial.n_draws != reference.n_draws:
        raise ValueError(
            "Expected trials with equal numbers of datasets and draws; got "
            f"{trial.n_datasets} x {trial.n_draws} and "
            f"{reference.n_datasets} x {reference.n_draws}."
        )
    (truth, ours), (same_truth, theirs) = trial.matrices(), reference.matrices()
    if trial.labels() != reference.labels() or not np.array_equal(truth, same_truth):
        raise ValueError(
            "Expected both trials on the same datasets, with the same latents; run both with "
            "equal prior, seed, n_datasets, n_context and batch_size."
        )
    rng = np.random.default_rng(seed_number(seed))
    datasets = tqdm(range(trial.n_datasets), unit="dataset", disable=not progress)
    hits = [count_hits(ours[:, i], theirs[:, i], classifier, rng) for i in datasets]
    n_held_out = 2 * (trial.n_draws - trial.n_draws // 2)
    title = f"C2ST of {trial.method} against {reference.method}"
    return ClassifierTest(np.array(hits), n_held_out, title)


def count_hits(
    ours: Float[np.ndarray, "n dim"],
    theirs: Float[np.ndarray, "n dim"],
    classifier: Any | None,
    rng: np.random.Generator,
) -> int:
    """Number of correct predictions for the held-out halves of two sets of equal size."""
    if len(ours) < 20:
        raise ValueError(f"Expected at least 20 draws for a classifier; got {len(ours)}.")
    half = len(ours) // 2
    ours, theirs = rng.permutation(ours), rng.permutation(theirs)
    model = quadratic_classifier() if classifier is None else clone(classifier)
    model.fit(np.concatenate([ours[:half], theirs[:half]]), np.repeat([1, 0], half))
    right = (model.predict(ours[half:]) == 1).sum() + (model.predict(theirs[half:]) == 0).sum()
    return int(right)
