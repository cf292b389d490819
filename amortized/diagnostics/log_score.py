r"""Expected log score, and its gap to an oracle.

.. math:: S = E_{D, y} \log q(y \mid D), \qquad
    S_{\text{oracle}} - S = E_D \, \mathrm{KL}(p(\cdot \mid D) \| q(\cdot \mid D)) \ge 0,

estimated on the same datasets for both, which removes most of the noise.

References:
    Gneiting and Raftery, Strictly proper scoring rules, prediction, and estimation (2007).
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats
from torch import Tensor

from amortized.arrays import refuse_nan
from amortized.diagnostics.predictive_trial import PredictiveTrial
from amortized.diagnostics.trial import PosteriorTrial
from amortized.plotting import histogram

Trial = PosteriorTrial | PredictiveTrial


@dataclass(frozen=True)
class LogScore:
    """Log scores of a method, and of an oracle on the same datasets.

    Attributes:
        scores: log score of each dataset, in nats, ``(n_datasets,)``.
        oracle_scores: log scores of the oracle, or None.
        method: name of the method.
    """

    scores: np.ndarray
    oracle_scores: np.ndarray | None
    method: str

    @property
    def mean(self) -> float:
        """Expected log score, in nats; higher is better."""
        return float(self.scores.mean())

    @property
    def standard_error(self) -> float:
        """Standard error of ``mean``."""
        return _standard_error(self.scores)

    @property
    def gap(self) -> float:
        """Expected Kullback-Leibler divergence from the oracle, in nats."""
        return float(self._gaps.mean())

    @property
    def gap_standard_error(self) -> float:
        """Standard error of ``gap``."""
        return _standard_error(self._gaps)

    @property
    def p_value(self) -> float:
        """p-value of Student's t test of a gap of 0 against a positive gap."""
        gaps = self._gaps
        if np.ptp(gaps) == 0:
            return 1.0 if gaps[0] <= 0 else 0.0
        return float(stats.ttest_1samp(gaps, 0.0, alternative="greater").pvalue)

    @property
    def _gaps(self) -> np.ndarray:
        if self.oracle_scores is None:
            raise ValueError("Expected an oracle to compare with; give log_score(trial, oracle).")
        return np.asarray(self.oracle_scores - self.scores)

    def plot(self, ax: Any = None) -> Any:
        """A histogram of the datasets' gaps, or of their scores if there is no oracle."""
        values = self.scores if self.oracle_scores is None else self._gaps
        what = "log score" if self.oracle_scores is None else "log score below the oracle"
        title = f"Log score of {self.method}, {len(values)} datasets"
        return histogram(values, f"{what} (nats)", "datasets", title, ax)

    def __repr__(self) -> str:
        head = f"LogScore({self.method}, {self.mean:.4f} +- {self.standard_error:.4f} nats"
        if self.oracle_scores is None:
            return head + ")"
        return (
            f"{head}, gap {self.gap:.4f} +- {self.gap_standard_error:.4f}, p = {self.p_value:.3g})"
        )


def log_score(trial: Trial, oracle: Trial | None = None) -> LogScore:
    """Scores held-out answers under predictives, or true latents under posteriors.

    A method that equals the oracle raises no alarm at all.

    Args:
        trial: trial of the method.
        oracle: trial of the exact method on the same datasets, run with equal seed and sizes.

    Example:
        >>> from amortized.priors.regression.normal_mean import NormalMeanPrior
        >>> prior, size = NormalMeanPrior(), {"n_datasets": 50, "n_context": 3, "progress": False}
        >>> exact = PredictiveTrial.run(prior, "exact", **size)
        >>> log_score(exact, oracle=exact).gap
        0.0
    """
    if oracle is None:
        return LogScore(_scores(trial), None, trial.method)
    if type(trial) is not type(oracle) or not _same_datasets(trial, oracle):
        raise ValueError(
            "Expected a trial of the oracle on the same datasets; run both with equal prior, seed, "
            "n_datasets, n_context, n_query and batch_size."
        )
    return LogScore(_scores(trial), _scores(oracle), trial.method)


def _same_datasets(one: Trial, other: Trial) -> bool:
    return all(
        a.shape == b.shape and bool((a == b).all())
        for a, b in zip(_truths(one), _truths(other), strict=True)
    )


def _truths(trial: Trial) -> list[Tensor]:
    return [trial.y] if isinstance(trial, PredictiveTrial) else list(trial.truth.values())


def _scores(trial: Trial) -> np.ndarray:
    scores = trial.scores if isinstance(trial, PredictiveTrial) else trial.log_prob_truth
    if scores is None:
        raise ValueError(
            f"Expected a method that knows its density; {trial.method} does not. Use 'exact' or "
            "'smc', or compare draws with c2st."
        )
    refuse_nan(f"log scores of {trial.method}", scores)
    if bool((scores == np.inf).any()):
        raise ValueError(
            f"Expected log scores of {trial.method} below infinity; got infinite ones. Look for a "
            "predictive of zero width."
        )
    return np.asarray(scores.double().cpu().numpy())


def _standard_error(values: np.ndarray) -> float:
    return float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else float("nan")
