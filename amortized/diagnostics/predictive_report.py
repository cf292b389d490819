"""The verdict on a network's predictive for one dataset: calibrated, in range, as a reference."""

import time
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from sklearn.base import BaseEstimator
from torch import Tensor

from amortized.diagnostics.out_of_range import TrainingRange
from amortized.diagnostics.page import ALARM, Report, in_words
from amortized.diagnostics.pit import pit
from amortized.diagnostics.predictive_trial import PredictiveTrial
from amortized.diagnostics.prior_fit import LEAST_ROWS, LEVEL, PriorFit, prior_fit
from amortized.infer import infer
from amortized.networks import PFN
from amortized.plotting import predictive_band
from amortized.predictive import OneOfBatch
from amortized.priors.named import PRIORS, named_prior
from amortized.seeding import seeded

_MAX_REFERENCE_ROWS = 100
_N_DRAWS = 500  # of the reference's predictive, for the divergence between the two


def report_pfn(
    network: PFN,
    x: Float[Tensor, "n features"],
    y: Float[Tensor, " n"],
    *,
    estimator: BaseEstimator | None = None,
    reference: str | None = "auto",
    n_datasets: int = 200,
    seed: int = 0,
    fit: PriorFit | None = None,
) -> Report:
    """The verdict on a network's predictive for one dataset, in the network's units.

    Args:
        network: whose config names its prior.
        x: inputs, in the network's units.
        y: answers, in the network's units.
        estimator: that answers by the network: it is put on trial then, so that what it does to
            the data is judged as well; None puts the network itself on trial.
        reference: method of `infer` on the same prior; "auto" is "smc" up to 100 rows and none
            beyond, None is none.
        n_datasets: of the prior, for the calibration at this size.
        seed: of these and of the reference.
        fit: of the prior to the rows, in the order in which they were observed; None compares
            them in the order given.
    """
    name = network.config.prior
    if name is None:
        raise ValueError("Expected a network whose config names its prior; this one's does not.")
    prior, n, units = named_prior(name), len(x), network.config.units
    x, y, warnings = x.float(), y.float(), list[str]()
    grid = _new_rows(x)
    began = time.perf_counter()
    with torch.no_grad():
        predictive = network(x[None], y[None], grid[None])
    seconds = time.perf_counter() - began
    trial = PredictiveTrial.run(
        prior,
        network if estimator is None else estimator,
        n_datasets=n_datasets,
        n_context=n,
        seed=seed,
        progress=False,
    )
    test = pit(trial)
    if test.p_value < ALARM:
        on_trial = "network" if estimator is None else "estimator"
        warnings.append(
            f"Over its prior, at {n} rows, the {on_trial} is not calibrated "
            f"(p = {test.p_value:.2g})."
        )
    if fit is None and n >= LEAST_ROWS:
        fit = prior_fit(network, x, y, seed=seed)
    sections: dict[str, dict[str, Any]] = fit_section(fit, warnings) | {
        "What was asked": {"rows": n, "features": x.shape[1], "network": name},
        "Prior": {"name": name, "in words": in_words(PRIORS[name]), "units": units},
        "Method": {"method": "pfn", "in words": "one forward pass, not corrected by a density"},
        "Calibration": {f"PIT over {n_datasets} datasets of the prior, p-value": test.p_value},
        "Seconds": {"network, on " + x.device.type: seconds},
    }
    sections["Range"] = _range(network, prior, x, y, seed, warnings)
    position = grid[:, 0].numpy() if x.shape[1] == 1 else np.arange(len(grid), dtype=float)
    x_label = f"x ({units})" if x.shape[1] == 1 else "new row"
    labels: dict[str, Any] = {"x_label": x_label, "y_label": f"y ({units})"}
    ax = predictive_band(OneOfBatch(predictive), position, label="network", **labels)
    if x.shape[1] == 1:
        ax.plot(x[:, 0], y, "k.", label="data")
    if reference == "auto":
        reference = "smc" if n <= _MAX_REFERENCE_ROWS else None
        if reference is None:
            warnings.append(f"No reference was run: {n} rows take it minutes. Ask for one by name.")
    if reference is not None:
        posterior = infer(prior, x, y, method=reference, n_draws=_N_DRAWS, seed=seed)
        exact = posterior.predictive(grid.double())
        predictive_band(exact, position, label=reference, colour=1, ax=ax, **labels)
        sections["Reference"] = _compared(predictive, exact, reference, warnings)
        sections["Seconds"][f"reference, {reference}"] = posterior.diagnostics["seconds"]
    figures = {
        "What the network predicts, and the reference on the same data.": ax.figure,
        "Calibration over the prior: inside the grey band is calibrated.": test.plot().figure,
    }
    return Report(f"{name} on {n} rows", sections, warnings, figures)


def fit_section(fit: PriorFit | None, warnings: list[str]) -> dict[str, dict[str, Any]]:
    """The first section of a report, whose finding is the first warning where the fit is poor.

    Args:
        fit: of the prior to the rows; None of too few rows.
        warnings: of the report, added to.
    """
    if fit is None:
        return {"Prior against rows": {"finding": f"not judged below {LEAST_ROWS} rows"}}
    if fit.p_value < LEVEL:
        warnings.insert(0, fit.sentence)
    section: dict[str, Any] = {
        "finding": fit.sentence,
        "p-value": fit.p_value,
        "expected values": fit.expected_from,
    }
    for name, score in fit.log_scores.items():
        section[f"held-out log score, {name}"] = score
    for name, found in fit.statistics.items():
        section[name] = (
            f"{found.value:.3g} (expected {found.low:.3g} to {found.high:.3g}; "
            f"p = {found.p_value:.2g})"
        )
    return {"Prior against rows": section}


def _range(
    network: PFN, prior: Any, x: Tensor, y: Tensor, seed: int, warnings: list[str]
) -> dict[str, Any]:
    if len(x) < 8:
        return {"inside the training range": "not judged with fewer than 8 rows"}
    standardised = network.config.units == "standardised"
    judge = TrainingRange(network, prior, len(x), x.shape[1], standardised=standardised, seed=seed)
    verdict = judge(x[None], y[None])
    outside = bool(verdict.flagged()[0])
    if outside:
        warnings.append(
            f"The data look unlike those the network was trained on: {verdict.reason()}."
        )
    return {"inside the training range": not outside, "p-value": float(verdict.p_values[0])}


def _compared(network: Any, exact: Any, name: str, warnings: list[str]) -> dict[str, Any]:
    """How far the network's predictive is from a reference's, averaged over new rows."""
    with torch.no_grad(), seeded(0):
        draws = exact.sample((_N_DRAWS,))
        behind = exact.log_prob(draws) - network.log_prob(draws.unsqueeze(1).float()).squeeze(1)
        moved = (network.mean[0] - exact.mean).abs() / exact.variance.sqrt()
        ratio = network.variance[0].sqrt() / exact.variance.sqrt()
    divergence = behind.mean().item()
    if divergence > 0.1:
        warnings.append(
            f"On these data the network is {divergence:.2f} nats per answer behind {name}: "
            f"prefer {name}."
        )
    return {
        "method": name,
        "divergence from it (nats per answer)": divergence,
        "means differ by (its standard deviations)": moved.mean().item(),
        "ratio of standard deviations": ratio.mean().item(),
    }


def _new_rows(x: Tensor, n: int = 40) -> Tensor:
    """Inputs to compare answers at: along the line, or between pairs of the data's own rows."""
    if x.shape[1] == 1:
        return torch.linspace(x.min().item(), x.max().item(), n).unsqueeze(1)
    generator = torch.Generator().manual_seed(0)
    pairs = torch.randint(len(x), (2, n), generator=generator)
    return (x[pairs[0]] + x[pairs[1]]) / 2
