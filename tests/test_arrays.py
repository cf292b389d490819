"""Arrays of every kind are read as the numbers they hold, or refused: nothing is dropped."""

from decimal import Decimal
from fractions import Fraction

import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch

from amortized import (
    BayesianClassifier,
    BayesianRegressor,
    LearningCurveRegressor,
    PFNClassifier,
    PFNRegressor,
    infer,
    load,
)
from amortized.arrays import as_tensor, as_values, without_mask
from amortized.distributions.bar_distribution import BarDistribution
from amortized.priors.state_space.state_space_model import LinearGaussianModel
from amortized.uncertainty import (
    joint_log_prob,
    joint_sample,
    martingale_posterior,
    split_by_twins,
)

VALUES = [0.5, -1.0, 0.25, 0.75, 2.0, -0.5]
ARRAY = np.array(VALUES)
TENSOR = torch.tensor(VALUES)
AT_TWO = np.arange(6) == 2
# The same numbers, all exact in bfloat16.
SAME = {
    "list": VALUES,
    "tuple": tuple(VALUES),
    "float16": ARRAY.astype(np.float16),
    "longdouble": ARRAY.astype(np.longdouble),
    "other byte order": ARRAY.astype(">f8"),
    "backwards twice": ARRAY[::-1].copy()[::-1],
    "every other": np.repeat(ARRAY, 2)[::2],
    "read only": np.frombuffer(ARRAY.tobytes()),
    "objects": ARRAY.astype(object),
    "Decimal": [Decimal(str(v)) for v in VALUES],
    "Fraction": [Fraction(v) for v in VALUES],
    "pandas": pd.Series(VALUES, index=range(6, 0, -1)),
    "masked nowhere": np.ma.array(ARRAY),
    "masked by an array of False": np.ma.array(ARRAY, mask=~(AT_TWO | ~AT_TWO)),
    "tensor": TENSOR,
    "double": TENSOR.double(),
    "half": TENSOR.half(),
    "bfloat16": TENSOR.bfloat16(),
    "with a gradient": TENSOR.clone().requires_grad_(),
    "parameter": torch.nn.Parameter(TENSOR.clone()),
    "strided tensor": TENSOR.repeat_interleave(2)[::2],
    "conjugate view": torch.complex(TENSOR, TENSOR).conj().real,
}
# Numbers cannot be read of these without dropping something.
OTHER = {
    "masked": np.ma.array(np.where(AT_TWO, 1e9, ARRAY), mask=AT_TWO),
    "masked whole numbers": np.ma.array(np.arange(6), mask=AT_TWO),
    "masked bools": np.ma.array(AT_TWO, mask=AT_TWO),
    "list with masked": [np.ma.masked if hidden else 1.0 for hidden in AT_TWO],
    "complex": ARRAY + 1j,
    "complex with a zero": ARRAY + 0j,
    "complex tensor": torch.complex(TENSOR, TENSOR),
    "sparse": TENSOR.to_sparse(),
    "meta": TENSOR.to("meta"),
    "quantized": torch.quantize_per_tensor(TENSOR, 0.1, 0, torch.qint8),
    "NaN": [*VALUES[:-1], np.nan],
    "infinite": [*VALUES[:-1], -np.inf],
    "None among numbers": [*VALUES[:-1], None],
    "pandas NA": pd.Series([1, None, 2, 3, 4, 5], dtype="Int64"),
    "words": list("abcdef"),
    "400 digits": [10**400, *VALUES[1:]],
    "dictionary": dict(enumerate(VALUES)),
    "set": set(VALUES),
    "nothing": None,
    "dates": np.arange(6).astype("datetime64[D]"),
    "records": np.zeros(6, dtype=[("a", float)]),
}


def program(x, y=None):
    mean = pyro.sample("m", dist.Normal(0.0, 1.0))
    return pyro.sample("y", dist.Normal(mean, 1.0).expand([len(x)]).to_event(1), obs=y)


def walk():
    eye = torch.eye(1)
    return LinearGaussianModel(eye, 0.1 * eye, eye, eye, torch.zeros(1), eye)


def rows(values):
    """A column of a table."""
    if isinstance(values, torch.Tensor | np.ndarray) and not getattr(values, "is_sparse", False):
        return values[:, None]
    return values.to_frame() if isinstance(values, pd.Series) else values


def task(values):
    """A batch of one."""
    if isinstance(values, torch.Tensor | np.ndarray) and not getattr(values, "is_sparse", False):
        return values[None]
    return [list(values)] if isinstance(values, list | tuple | pd.Series) else values


def inputs(values):
    """A batch of one with one feature."""
    if isinstance(values, torch.Tensor | np.ndarray) and not getattr(values, "is_sparse", False):
        return values[None, :, None]
    return [[[v] for v in values]] if isinstance(values, list | tuple | pd.Series) else values


X, CLASSES, STEPS = ARRAY[:, None], [0, 1] * 3, np.arange(1, 7)
POSTERIOR = infer(program, ARRAY, method="exact")
BARS = BarDistribution(torch.zeros(4), torch.tensor([-2.0, -1.0, 0.0, 1.0, 2.0]))
CALLS = {
    "infer": lambda v: infer(program, v, method="exact").mean["m"],
    "states": lambda v: list(infer(walk(), rows(v)).mean.values())[0],
    "log_prob of latents": lambda v: POSTERIOR.log_prob({"m": v}),
    "log_prob of a predictive": lambda v: POSTERIOR.predictive(np.zeros((6, 0))).log_prob(v),
    "crps of a predictive": lambda v: POSTERIOR.predictive(np.zeros((6, 0))).crps(v),
    "log_prob of bars": BARS.log_prob,
    "cdf of bars": BARS.cdf,
    "crps of bars": BARS.crps,
    "joint_log_prob": lambda v: joint_log_prob(PFN, inputs(v), task(v), inputs(v), task(v)),
    "joint_sample": lambda v: joint_sample(PFN, inputs(v), task(v), inputs(v), 2),
    "twins": lambda v: split_by_twins(PFN, inputs(v), task(v), inputs(v), n_nodes=2).epistemic,
    "martingale": lambda v: martingale_posterior(
        PFN, torch.zeros(6, 1), v, lambda x, y: y.mean(1), n_draws=2, n_future=2
    ),
    "PFNRegressor": lambda v: PFNRegressor("gp-1d").fit(X, v).predict(X),
    "PFNRegressor of X": lambda v: PFNRegressor("gp-1d").fit(rows(v), VALUES).predict(rows(v)),
    "PFNClassifier": lambda v: (
        PFNClassifier(n_estimators=1).fit(rows(v), CLASSES).predict_proba(rows(v))
    ),
    "BayesianRegressor": lambda v: (
        BayesianRegressor(method="exact", n_draws=9, random_state=0).fit(X, v).predict(X)
    ),
    "BayesianClassifier": lambda v: (
        BayesianClassifier(n_draws=9, random_state=0).fit(rows(v), CLASSES).predict_proba(rows(v))
    ),
    "LearningCurveRegressor": lambda v: (
        LearningCurveRegressor(horizon=20, low=-np.inf, high=np.inf).fit(STEPS, v).predict([9])
    ),
}
# What stays NaN, as a density of a NaN, or is a missing value there.
MAY_BE_MISSING = ("infer", "states", "log_prob", "crps", "cdf", "PFNClassifier", "LearningCurve")
IS_TABLE = ("PFNClassifier", "PFNRegressor of X", "BayesianClassifier")
PFN = load("gp-1d")


def answer(call, values):
    found = CALLS[call](values)
    found = found.detach() if isinstance(found, torch.Tensor) else found
    return np.asarray(found, dtype=np.float64)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("call", CALLS)
def test_the_same_numbers_give_the_same_answer(call, no_shape_checks):
    expected = answer(call, ARRAY)
    for kind, values in SAME.items():
        if call in IS_TABLE and not hasattr(values, "ndim"):
            values = [[v] for v in values]
        assert np.allclose(answer(call, values), expected, rtol=1e-4, atol=1e-4), kind


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("call", CALLS)
def test_nothing_is_dropped(call, no_shape_checks):
    """Refused, or missing where values may be; never another finite answer."""
    for kind, values in OTHER.items():
        is_missing = "masked" in kind or kind in ("NaN", "pandas NA", "None among numbers")
        if call in IS_TABLE and kind in ("words", "pandas NA", "None among numbers", "dates"):
            continue  # a table's column of categories or times, with a missing one
        if call in IS_TABLE and not hasattr(values, "ndim") and isinstance(values, list):
            values = [[v] for v in values]
        try:
            answer(call, values)
        except (ValueError, TypeError) as reason:
            assert str(reason), kind
            continue
        assert (is_missing or kind == "infinite") and call.startswith(MAY_BE_MISSING), kind


def test_a_mask_is_seen_within_lists():
    masked = OTHER["masked"]
    for values in ([masked, ARRAY], (ARRAY, masked), [[masked], [ARRAY]]):
        with pytest.raises(ValueError, match="got 1 value that is NaN, infinite or masked"):
            as_tensor(values, "y")
        assert as_tensor(values, "y", allow_nan=True).isnan().sum() == 1
    assert np.isnan(without_mask(masked)).tolist() == AT_TWO.tolist()


def test_tensors_are_copied_and_gradients_kept():
    given = TENSOR.clone().requires_grad_()
    as_tensor(given, "y").sum().backward()
    assert torch.equal(given.grad, torch.ones(6))
    with torch.no_grad():
        given[0] = 9.0
    assert as_values(given, "y") is given
    kept = as_tensor(given, "y", dtype=None)
    assert kept.dtype is torch.float32 and kept.data_ptr() != given.data_ptr()


def test_words_are_not_masked_silently():
    words = np.ma.array(["a", "b"], mask=[True, False])
    with pytest.raises(ValueError, match="Replace them by a category of their own"):
        without_mask(words)
