"""The report of a network over rows for a dataset: prior, calibration, range and reference."""

import time
from collections.abc import Iterator, Sequence
from typing import Any, cast

import numpy as np
import torch
from jaxtyping import Float
from sklearn.base import BaseEstimator
from torch import Tensor

from amortized.diagnostics.calibration import pit
from amortized.diagnostics.data.out_of_range import TrainingRange
from amortized.diagnostics.data.prior_fit import LEAST_ROWS, LEVEL, PriorFit, prior_fit
from amortized.diagnostics.predictive_trial import PredictiveTrial
from amortized.diagnostics.reports.page import ALARM, Report, Section, in_words
from amortized.infer import infer
from amortized.latent_priors.trained_prior import trained_prior
from amortized.networks import PFN
from amortized.plotting import predictive_band
from amortized.predictive import OneOfBatch
from amortized.priors.named import PRIORS
from amortized.priors.prior import Prior
from amortized.priors.program_prior import ProgramPrior
from amortized.seeding import seeded

_MAX_REFERENCE_ROWS = 100
_N_DRAWS = 500  # draws of the reference's predictive, for the divergence


def report_pfn(
    network: PFN,
    x: Float[Tensor, "n features"],
    y: Float[Tensor, " n"],
    *,
    prior: Prior | None = None,
    estimator: BaseEstimator | None = None,
    reference: str | None = "auto",
    n_datasets: int = 200,
    seed: int = 0,
    names: Sequence[str] | None = None,
    fit: PriorFit | None = None,
) -> Report:
    """The report of a network's predictive for one dataset, in the network's units.

    Args:
        network: a network over rows.
        x: inputs, in the network's units.
        y: targets, in the network's units.
        prior: training prior of the network; None takes the one that its config names, or whose
            import path was stored. Without any, calibration, range and reference are left out.
        estimator: estimator that uses the network; calibration then includes its preprocessing;
            None evaluates the network itself.
        reference: method of `infer` with the same prior; "auto" is "smc" up to 100 rows and none
            beyond, None is none.
        n_datasets: number of datasets of the prior, for the calibration at this size.
        seed: seed of these datasets and of the reference.
        names: names of the columns, for the axes; None calls a single one x.
        fit: fit of the prior to the rows in the order in which they were observed; None computes
            it for the rows in the given order.
    """
    name, n, x, y = network.config.prior, len(x), x.float(), y.float()
    about = {"name": name or "unknown", "units": network.config.units or "raw"}
    if prior is None:
        prior = cast("Prior | None", trained_prior(network))
        if prior is not None and name is not None and name in PRIORS:
            about["in words"] = in_words(PRIORS[name])
    if prior is None or (reference == "auto" and not isinstance(prior, ProgramPrior)):
        reference = None  # there is no program for another method
    asked = {"rows": n, "features": x.shape[1], "network": name or type(network).__name__}

    def sections() -> Iterator[Section]:
        judged = fit
        if judged is None and n >= LEAST_ROWS:
            judged = prior_fit(network, x, y, prior=prior, seed=seed)
        yield fit_section(judged)
        if judged is not None:
            yield _scores_section(judged)
        yield Section("Subject", asked)
        yield Section("Prior", about)
        if prior is None:
            yield _measured(network)
        else:
            yield _calibration(prior, estimator or network, n, n_datasets, seed)
            yield _range(network, prior, x, y, seed)
        label = "x" if names is None or len(names) != 1 else str(names[0])
        yield from _predictions(network, prior, x, y, reference, label, seed)

    title = f"The network {name}" if name else "A network"
    return Report.of(f"{title} on {n} rows", sections())


def fit_section(fit: PriorFit | None) -> Section:
    """Whether the prior fits the rows; the first section of a report.

    Args:
        fit: fit of the prior to the rows; None if there are too few rows.
    """
    if fit is None:
        finding = f"not checked with fewer than {LEAST_ROWS} rows"
        return Section("Prior against rows", {"finding": finding})
    entries: dict[str, Any] = {
        "finding": fit.sentence,
        "p-value": fit.p_value,
        "expected values": fit.expected_from,
    }
    for name, found in fit.statistics.items():
        entries[name] = (
            f"{found.value:.3g} (expected {found.low:.3g} to {found.high:.3g}; "
            f"p = {found.p_value:.2g})"
        )
    warnings = [fit.sentence] if fit.p_value < LEVEL else []
    return Section("Prior against rows", entries, warnings)


def _scores_section(fit: PriorFit) -> Section:
    """Log scores of held-out rows: a network may be calibrated and yet know little."""
    scores, warnings = fit.log_scores, list[str]()
    best, own = max(scores, key=lambda name: scores[name]), scores["network"]
    if scores[best] > own + 3 * fit.score_error:
        warnings.append(
            f"On held-out rows a {best} has a higher log score than this network "
            f"({scores[best]:.3g} against {own:.3g}): prefer another model."
        )
    entries: dict[str, Any] = {f"log score, {name}": score for name, score in scores.items()}
    entries["log score, network"] = f"{own:.4g} +- {fit.score_error:.2g} nats per row"
    return Section("Held-out rows", entries, warnings)


def _measured(network: PFN) -> Section:
    """The calibration measured after training, used if the prior is not available."""
    found, text = network.calibration, "not measured; give the prior: report(..., prior=...)"
    doubts = [] if found is None else [f"{doubt[0].upper()}{doubt[1:]}." for doubt in found.doubts]
    if found is not None:
        text = f"p = {found.p_value:.2g} over {found.n_datasets} datasets of its prior"
    return Section("Calibration", {"measured after training": text}, doubts)


def _calibration(prior: Any, method: Any, n: int, n_datasets: int, seed: int) -> Section:
    """PIT of the network, or of an estimator that uses it, over the prior at this size."""
    trial = PredictiveTrial.run(
        prior, method, n_datasets=n_datasets, n_context=n, seed=seed, progress=False
    )
    test, warnings = pit(trial), list[str]()
    if test.p_value < ALARM:
        judged = "estimator" if isinstance(method, BaseEstimator) else "network"
        warnings.append(
            f"Over its prior, at {n} rows, the {judged} is not calibrated (p = {test.p_value:.2g})."
        )
    entries = {f"PIT over {n_datasets} datasets of the prior, p-value": test.p_value}
    caption = "Calibration over the prior: calibrated if inside the grey band."
    return Section("Calibration", entries, warnings, {caption: test.plot().figure})


def _range(network: PFN, prior: Any, x: Tensor, y: Tensor, seed: int) -> Section:
    if len(x) < LEAST_ROWS:
        skipped = f"not checked with fewer than {LEAST_ROWS} rows"
        return Section("Range", {"inside the training range": skipped})
    standardised = network.config.units == "standardised"
    judge = TrainingRange(network, prior, len(x), x.shape[1], standardised=standardised, seed=seed)
    verdict = judge(x[None], y[None])
    outside, warnings = bool(verdict.flagged()[0]), list[str]()
    if outside:
        warnings.append(
            f"The data are outside of the network's training range: {verdict.reason()}."
        )
    entries = {"inside the training range": not outside, "p-value": float(verdict.p_values[0])}
    return Section("Range", entries, warnings)


def _predictions(
    network: PFN, prior: Any, x: Tensor, y: Tensor, reference: str | None, label: str, seed: int
) -> Iterator[Section]:
    """The network's predictive at new rows, and its divergence from a reference's."""
    grid, units, began = _new_rows(x), network.config.units, time.perf_counter()
    with torch.no_grad():
        predictive = network(x[None], y[None], grid[None])
    seconds = {f"network, on {x.device.type}": time.perf_counter() - began}
    one_input = x.shape[1] == 1
    position = grid[:, 0].numpy() if one_input else np.arange(len(grid), dtype=float)
    x_label = f"{label} ({units})" if one_input else "new row"
    labels: dict[str, Any] = {"x_label": x_label, "y_label": f"y ({units})"}
    ax = predictive_band(OneOfBatch(predictive), position, label="network", **labels)
    if one_input:
        ax.plot(x[:, 0], y, "k.", label="data")
    caption, compared = "What the network predicts, and the reference on the same data.", None
    if reference == "auto":
        reference = "smc" if len(x) <= _MAX_REFERENCE_ROWS else None
        if reference is None:
            text = f"not run, because {len(x)} rows take minutes; name one to run it"
            compared = Section("Reference", {"method": "none"}, [text])
    if reference is not None:
        posterior = infer(prior, x, y, method=reference, n_draws=_N_DRAWS, seed=seed)
        exact = posterior.predictive(grid.double())
        predictive_band(exact, position, label=reference, colour=1, ax=ax, **labels)
        compared = _compared(predictive, exact, reference)
        seconds[f"reference, {reference}"] = posterior.diagnostics["seconds"]
    about = {"method": "pfn", "in words": "one forward pass, without correction"}
    yield Section("Method", about, figures={caption: ax.figure})
    if compared is not None:
        yield compared
    yield Section("Seconds", seconds)


def _compared(network: Any, exact: Any, name: str) -> Section:
    """Divergence of the network's predictive from a reference's, averaged over new rows."""
    with torch.no_grad(), seeded(0):
        draws = exact.sample((_N_DRAWS,))
        behind = exact.log_prob(draws) - network.log_prob(draws.unsqueeze(1).float()).squeeze(1)
        moved = (network.mean[0] - exact.mean).abs() / exact.variance.sqrt()
        ratio = network.variance[0].sqrt() / exact.variance.sqrt()
    divergence, warnings = behind.mean().item(), list[str]()
    if divergence > 0.1:
        warnings.append(
            f"For these data the network's predictive has a divergence of {divergence:.2f} nats "
            f"per target from that of {name}: prefer {name}."
        )
    entries = {
        "method": name,
        "divergence (nats per target)": divergence,
        "difference of means (in standard deviations)": moved.mean().item(),
        "ratio of standard deviations": ratio.mean().item(),
    }
    return Section("Reference", entries, warnings)


def _new_rows(x: Tensor) -> Tensor:
    """Inputs at which predictions are compared: on a line, or between pairs of rows."""
    if x.shape[1] == 1:
        return torch.linspace(x.min().item(), x.max().item(), 40).unsqueeze(1)
    generator = torch.Generator().manual_seed(0)
    pairs = torch.randint(len(x), (2, 40), generator=generator)
    return (x[pairs[0]] + x[pairs[1]]) / 2
