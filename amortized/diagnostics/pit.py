r"""The probability integral transform: where the held-out answer falls in its predictive.

:math:`u = F(y^* \mid x^*, D)` is uniform over datasets if F is the exact predictive; of classes,
whose F has steps, u is drawn uniformly from the step at the answer.

References:
    | Gneiting, Balabdaoui and Raftery, Probabilistic forecasts, calibration and sharpness (2007).
    | Czado, Gneiting and Held, Predictive model assessment for count data (2009).
"""

import numpy as np

from amortized.diagnostics.predictive_trial import PredictiveTrial
from amortized.diagnostics.uniformity import Uniformity


def pit(trial: PredictiveTrial) -> Uniformity:
    """Tests whether predictives are calibrated.

    Answers of one dataset depend on each other, so each dataset gives one value: of its queries
    in turn. More datasets give more power, more queries do not.

    Example:
        >>> from amortized.priors.regression.normal_mean import NormalMeanPrior
        >>> trial = PredictiveTrial.run(
        ...     NormalMeanPrior(), "exact", n_datasets=200, n_context=3, progress=False
        ... )
        >>> pit(trial).p_value > 0.01
        True
    """
    if trial.cdf is None:
        raise ValueError(
            "Expected predictives with a distribution function, or of classes; these have none. "
            "Use log_score."
        )
    n, m = trial.y.shape
    row = np.arange(n)
    # Rounding may leave [0, 1] by the last digit.
    u = trial.cdf.numpy()[row, row % m].clip(0.0, 1.0)
    return Uniformity({"y": u}, f"PIT of {trial.method}", "predictive probability below the answer")
