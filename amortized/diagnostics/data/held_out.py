"""Cross-validation of one dataset: each row predicted from others, and statistics of the errors.

Every row is held out once, in five folds that a network predicts in one batch, also for many
datasets of equal size.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import special, stats
from sklearn.linear_model import BayesianRidge
from torch import Tensor

from amortized.validation import seed_number

Array = NDArray[np.float64]

_FOLDS = 5
_ROWS_AT_ONCE = 20_000
_SMALLEST = 1e-6  # u and 1 - u: the rounding error of a float32 sum over a thousand bars
_QUARTILES = (0.25, 0.5, 0.75)


@dataclass(frozen=True)
class HeldOut:
    """Predictions of rows that the network did not see, each ``(datasets, rows)``."""

    u: Array
    log_prob: Array
    entropy: Array
    residual: Array  # from the median, in interquartile ranges
    middle: Array

    @property
    def z(self) -> Array:
        return np.asarray(special.ndtri(np.clip(self.u, _SMALLEST, 1 - _SMALLEST)))


def folds(n: int, seed: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Test and training rows of each fold, ``(folds, ...)``, all folds of equal size.

    If the number of rows is not a multiple of the number of folds, the last fold repeats rows of
    the first.
    """
    order, size = np.random.default_rng(seed_number(seed)).permutation(n), -(-n // _FOLDS)
    turned = np.stack([np.roll(order, -fold * size) for fold in range(_FOLDS)])
    return turned[:, :size], turned[:, size:]


def held_out_rows(network: Any, x: Tensor, y: Tensor, seed: int) -> HeldOut:
    """Predictions of every row of datasets ``(datasets, rows, ...)``."""
    out, given = (torch.as_tensor(rows) for rows in folds(x.shape[1], seed))
    device, at_once = network.borders.device, max(1, _ROWS_AT_ONCE // (_FOLDS * x.shape[1]))
    parts = []
    for own_x, own_y in zip(x.split(at_once), y.split(at_once), strict=True):
        contexts = own_x[:, given], own_y[:, given], own_x[:, out]
        with torch.no_grad():
            predictive = network(*(part.flatten(0, 1).to(device) for part in contexts))
            target = own_y[:, out].flatten(0, 1).to(device)
            low, middle, high = predictive.icdf(target.new_tensor(_QUARTILES)[:, None, None])
            found = (
                predictive.cdf(target),
                predictive.log_prob(target),
                predictive.entropy(),
                (target - middle) / (high - low),
                middle,
            )
        parts.append(torch.stack(found).cpu().unflatten(1, (len(own_x), _FOLDS)))
    values = torch.cat(parts, 1).flatten(2).double().numpy()
    first = np.unique(out.flatten().numpy(), return_index=True)[1]
    return HeldOut(*values[..., first])


def inside(u: Array, level: float) -> NDArray[np.bool_]:
    """Whether each target lies inside its central interval of that probability."""
    return np.asarray(np.abs(u - 0.5) < level / 2)


def held_out_statistics(held_out: HeldOut, x: Tensor, y: Tensor, raw: bool) -> dict[str, Array]:
    """Statistics by name, each ``(datasets,)``, transformed to have roughly exponential tails."""
    z, u = held_out.z, held_out.u
    n, squares = z.shape[1], np.square(z).mean(1)
    expected_u = (np.arange(n) + 0.5) / n
    excess = (held_out.log_prob + held_out.entropy).mean(1)
    # Signs, ranks and correlations do not depend on the width of the intervals.
    centred = z - z.mean(1, keepdims=True)
    scale = np.sqrt(np.square(centred).mean(1)) + 1e-9
    order, size = np.broadcast_to(np.arange(float(n)), z.shape), np.abs(centred)
    columns = [x[..., j].double().numpy() for j in range(x.shape[2])]
    found = {
        "exact copies of rows": _copies(torch.cat((x, y[..., None]), -1)),
        "repeated targets": _copies(y[..., None]),
        "coverage of 90% intervals": inside(u, 0.9).mean(1),
        "coverage of 50% intervals": inside(u, 0.5).mean(1),
        "largest residual (log interquartile ranges)": np.log(
            np.abs(held_out.residual).max(1) + 1e-3
        ),
        "mean square of normal scores (log)": np.log(squares + 1e-3),
        "log score less its expectation": np.arcsinh(excess),
        "distance of PIT from uniform": np.sqrt(np.square(np.sort(u, 1) - expected_u).mean(1)),
        "trend over the order of rows": _correlation(z, order),
        "dependence of successive rows": (z[:, 1:] * z[:, :-1]).mean(1) / squares,
        "dependence of neighbours in x": (z * np.take_along_axis(z, _neighbours(x), 1)).mean(1)
        / squares,
        "error size along x": np.abs([_correlation(size, column) for column in columns]).max(0),
        "error size along the prediction": _correlation(size, held_out.middle),
        "mean of normal scores": np.arcsinh(z.mean(1)),
        "skewness of normal scores": np.power(centred, 3).mean(1) / scale**3,
        "kurtosis of normal scores (log)": np.log(np.power(centred, 4).mean(1) / scale**4),
    }
    if raw:
        found["centre of x"] = x.double().mean(1).abs().amax(1).numpy()
        found["largest x"] = x.double().abs().amax((1, 2)).numpy()
        found["spread of y (log)"] = np.log(y.double().std(1).numpy() + 1e-9)
    return found


def _copies(rows: Tensor) -> Array:
    """Fraction of rows that equal an earlier one."""
    return np.array([1 - len(own.unique(dim=0)) / len(own) for own in rows])


def _neighbours(x: Tensor) -> NDArray[np.intp]:
    """Index of the nearest neighbour of each row."""
    distance = torch.cdist(x, x) + torch.diag_embed(torch.full(x.shape[:2], torch.inf))
    return np.asarray(distance.argmin(-1).numpy())


def _correlation(a: Array, b: Array) -> Array:
    """Fisher's z transform of the rank correlation, for each dataset."""
    ranks = [stats.rankdata(values, axis=1) for values in (a, b)]
    ranks = [values - values.mean(1, keepdims=True) for values in ranks]
    norm = np.sqrt(np.square(ranks[0]).sum(1) * np.square(ranks[1]).sum(1)) + 1e-9
    return np.asarray(np.arctanh(np.clip((ranks[0] * ranks[1]).sum(1) / norm, -0.999, 0.999)))


def boosted_trees(kind: type, x: Array, y: Any) -> Any:
    """Small boosted trees fitted as a baseline; ``kind`` is a class of scikit-learn."""
    least = int(np.clip(len(y) // 20, 2, 20))
    settings = {"max_iter": 60, "max_leaf_nodes": 8, "min_samples_leaf": least}
    return kind(**settings, early_stopping=False, random_state=0).fit(x, y)


def baseline_scores(x: Tensor, y: Tensor, seed: int) -> dict[str, float]:
    """Held-out log scores of a normal distribution and of a linear model, on the same folds."""
    inputs, target = np.nan_to_num(x.double().numpy()), y.double().numpy()
    scores: dict[str, list[float]] = {"normal at the mean": [], "Bayesian linear model": []}
    for out, given in zip(*folds(len(x), seed), strict=True):
        linear = BayesianRidge().fit(inputs[given], target[given])
        mean, sd = linear.predict(inputs[out], return_std=True)
        floor = 1e-9 + 1e-3 * target.std()
        at_mean = stats.norm(target[given].mean(), target[given].std(ddof=1) + floor)
        scores["normal at the mean"] += list(at_mean.logpdf(target[out]))
        scores["Bayesian linear model"] += list(stats.norm(mean, sd + floor).logpdf(target[out]))
    return {name: float(np.mean(values)) for name, values in scores.items()}
