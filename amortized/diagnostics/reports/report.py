"""The function `report` for every kind of subject, and the report of a network over its prior."""

import inspect
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, cast

from sklearn.base import BaseEstimator
from torch import nn

from amortized.diagnostics.calibration import coverage, pit, sbc
from amortized.diagnostics.importance_efficiency import importance_efficiency
from amortized.diagnostics.log_score import log_score
from amortized.diagnostics.order_sensitivity import order_sensitivity
from amortized.diagnostics.predictive_trial import PredictiveTrial
from amortized.diagnostics.reports.page import ALARM, Report, Section, in_words
from amortized.diagnostics.reports.posterior_report import report_posterior
from amortized.diagnostics.reports.rows_report import report_of_rows
from amortized.diagnostics.trial import PosteriorTrial, latent_trial
from amortized.diagnostics.uniformity import Uniformity
from amortized.latent_priors.problems import PROBLEMS
from amortized.latent_priors.tasks import LatentTasks
from amortized.latent_priors.trained_prior import trained_prior
from amortized.networks import DistributionTransformer, TabularPFN
from amortized.networks.catalogue import NETWORK_TYPES
from amortized.plotting import compare_methods
from amortized.posterior import Posterior
from amortized.priors.context_standardised import ContextStandardised
from amortized.priors.named import PRIORS
from amortized.priors.prior import Prior


def report(
    subject: nn.Module | Posterior | BaseEstimator,
    x: Any = None,
    y: Any = None,
    *,
    prior: Prior | LatentTasks | None = None,
    n_context: Sequence[int] | None = None,
    n_datasets: int = 300,
    seed: int = 0,
) -> Report:
    """Reports every reason to distrust a network, a posterior or an estimator.

    For a network, the report covers its calibration over its training prior. For a `Posterior` or a
    fitted estimator of this package, it is that of their method ``report``. For any other estimator
    with the interface of scikit-learn, such as a model to compare with, it covers calibration and
    accuracy in five-fold cross-validation on the rows ``x`` and ``y``.

    Args:
        subject: a network, a `Posterior`, or an estimator.
        x: rows, for an estimator without a report of its own; numbers, ``(rows, features)``.
        y: their targets or classes, ``(rows,)``.
        prior: training prior of a network; None takes the one that its config names, or whose
            import path was stored at the end of its training.
        n_context: numbers of context rows; None takes a small, a medium and a large size of the
            network's training range.
        n_datasets: number of datasets of the prior, for each size.
        seed: seed of all random numbers.

    Raises:
        ValueError: if a network's prior is unknown, or if an estimator comes without rows.

    Example:
        >>> from amortized.pretrained import load
        >>> print(report(load("gp-1d"), n_context=[5], n_datasets=40).title)
        Network gp-1d over its prior
    """
    if isinstance(subject, nn.Module):
        return _of_network(subject, prior, n_context, n_datasets, seed)
    if isinstance(subject, Posterior):
        return _of_posterior(subject, seed)
    if hasattr(subject, "report") and x is None:
        return cast(Report, subject.report(seed=seed) if _is_seeded(subject) else subject.report())
    return report_of_rows(subject, x, y, seed)


def _is_seeded(subject: Any) -> bool:
    return "seed" in inspect.signature(subject.report).parameters


def _of_posterior(posterior: Posterior, seed: int) -> Report:
    origin = posterior.origin
    if origin is None or origin.options is None or origin.problem.batch_shape:
        raise ValueError(
            "Expected a posterior from infer for one dataset of rows x, y; got one of a batch, of "
            "data by names, of an update, or from elsewhere. "
            "Use report_posterior(model, x, y, posterior)."
        )
    return report_posterior(
        origin.model,
        origin.problem.x[0],
        origin.problem.y[0],
        posterior,
        latent_prior=origin.latent_prior,
        options=origin.options,
        seed=seed,
    )


def _of_network(
    network: nn.Module,
    prior: Prior | LatentTasks | None,
    n_context: Sequence[int] | None,
    n_datasets: int,
    seed: int,
) -> Report:
    if not isinstance(network, NETWORK_TYPES):
        names = ", ".join(each.__name__ for each in NETWORK_TYPES)
        raise ValueError(
            f"Expected a network among {names}; got {type(network).__name__}. For other networks "
            "run the diagnostics themselves."
        )
    name, began = network.config.prior, time.perf_counter()
    of_latents = isinstance(network, DistributionTransformer)
    known = PROBLEMS if of_latents else PRIORS
    path = getattr(network.calibration, "prior", None)
    given, prior = prior is not None, trained_prior(network) if prior is None else prior
    if prior is None:
        raise ValueError(
            f"Expected the prior of a network whose config names none of {sorted(known)}; got "
            "prior=None. Give it: report(network, prior=...)"
            + (f", or import it first: it was trained on {path}." if path else ".")
        )
    source = f"{type(prior).__name__} (given)" if given else name or path
    about = {
        "network": f"{type(network).__name__} {name or ''}".strip(),
        "parameters": f"{sum(p.numel() for p in network.parameters()):,}",
        "datasets of each size": n_datasets,
    }
    described = {"name": source}
    if not given and name is not None and name in known:
        described["in words"] = PROBLEMS[name].about if of_latents else in_words(PRIORS[name])

    def sections() -> Iterator[Section]:
        yield Section("Subject", about)
        yield Section("Prior", described)
        asked = n_context, n_datasets, seed
        if isinstance(network, DistributionTransformer):
            yield from _judge_dt(network, _tasks(network, prior), *asked)
        else:
            yield from _judge_pfn(network, _read(network, prior), *asked)
        yield Section("Cost", {"seconds for this report": time.perf_counter() - began})

    return Report.of(f"Network {name or source} over its prior", sections())


def _tasks(network: DistributionTransformer, prior: Any) -> LatentTasks:
    """The tasks on which `amortized.train` trains such a network."""
    if isinstance(prior, LatentTasks):
        return prior
    fewest, most = network.config.n_context or (1, 0)
    return LatentTasks(prior, n_rows=most if fewest == most else None)


def _read(network: Any, prior: Any) -> Prior:
    """The prior in the units in which `amortized.train` trains such a network."""
    of_tables = isinstance(network, TabularPFN) and network.config.target == "regression"
    read: Prior = ContextStandardised(prior) if of_tables and prior.units == "raw" else prior
    return read


def calibration_rows(
    network: nn.Module, *, n_context: Sequence[int] | None = None, n_datasets: int | None = None
) -> dict[str, str]:
    """The rows of a network's card about its calibration: numbers and warnings of its `report`.

    Args:
        network: as for `report`.
        n_context: as for `report`.
        n_datasets: number of new datasets of each size; None takes 1,000 for a Distribution
            Transformer, which is fast, and 300 otherwise.

    Example:
        >>> from amortized.pretrained import load
        >>> list(calibration_rows(load("gp-1d"), n_datasets=20))[-1]
        'Warnings'
    """
    if n_datasets is None:
        n_datasets = 1000 if isinstance(network, DistributionTransformer) else 300
    page = report(network, n_context=n_context, n_datasets=n_datasets)
    rows = {"Calibration": f"by `amortized.diagnostics.report`, {n_datasets} datasets of each size"}
    rows |= {f"Calibration: {what}": text for what, text in page.texts("Calibration").items()}
    return rows | {"Warnings": " ".join(page.warnings) or "no check found a problem"}


def _judge_pfn(
    network: Any, prior: Prior, sizes: Sequence[int] | None, n_datasets: int, seed: int
) -> Iterator[Section]:
    scores = {}
    most, of_cells = network.config.max_context, isinstance(network, TabularPFN)
    # Networks over cells cost more: fewer rows, and fewer datasets at once.
    shares = (30, 8, 2) if of_cells else (10, 3, 1)
    sizes = sizes or sorted({max(2, min(most // share, most - 1)) for share in shares})
    for n_context in sizes:
        trial = PredictiveTrial.run(
            prior,
            network,
            n_datasets=n_datasets,
            n_context=n_context,
            batch_size=16 if of_cells else 256,
            seed=seed,
            progress=False,
        )
        trial = _of_known_classes(trial)
        test, score = pit(trial), log_score(trial)
        scores[f"{n_context} rows"] = (score.mean, score.standard_error)
        caption = f"Calibration with {n_context} rows: calibrated if inside the grey band."
        yield Section(
            "Calibration",
            {f"PIT with {n_context} rows, p-value": test.p_value},
            _alarms([test], n_context),
            {caption: test.plot().figure},
        )
    order = order_sensitivity(
        prior,
        network,
        n_datasets=16 if of_cells else 50,
        n_context=sizes[0] if of_cells else max(most // 2, 2),
        progress=False,
    )
    yield Section("Calibration", {"order of rows, change in nats": order.mean})
    figure = compare_methods(scores, "log score (nats per target)").figure
    text = {f"log score, {size}": f"{v:.3f} +- {e:.3f} nats" for size, (v, e) in scores.items()}
    yield Section("Score", text, figures={"Log score by number of rows.": figure})


def _of_known_classes(trial: PredictiveTrial) -> PredictiveTrial:
    """The datasets whose context contains the class of the query; others cannot be predicted."""
    known = trial.log_prob.isfinite().all(-1)
    cdf = None if trial.cdf is None else trial.cdf[known]
    return replace(trial, y=trial.y[known], log_prob=trial.log_prob[known], cdf=cdf)


def _judge_dt(
    network: DistributionTransformer,
    tasks: LatentTasks,
    sizes: Sequence[int] | None,
    n_datasets: int,
    seed: int,
) -> Iterator[Section]:
    for n_context in sizes or _trained_sizes(network, tasks):
        size: dict[str, Any] = {"n_datasets": n_datasets, "n_context": n_context, "seed": seed}
        trial = latent_trial(network, tasks, exact_density=True, progress=False, **size)
        yield from _posteriors(trial, n_context)


def _posteriors(trial: PosteriorTrial, n_context: int) -> Iterator[Section]:
    """Ranks, coverage and, if the program has a density, importance weights for one size."""
    ranks, covered = sbc(trial), coverage(trial, "highest")
    entries: dict[str, Any] = {
        f"SBC with {n_context} rows, p-value": ranks.p_value,
        f"highest-density coverage with {n_context} rows, p-value": covered.p_value,
    }
    warnings = _alarms([ranks, covered], n_context)
    figures = {
        f"Ranks of the truth with {n_context} rows: calibrated if inside the grey "
        "band.": ranks.plot().figure,
        f"Coverage of highest-density regions with {n_context} rows.": covered.plot().figure,
    }
    if trial.log_density_draws is not None:
        weights = importance_efficiency(trial)
        if weights.share_trusted < 0.95:
            warnings.append(
                f"With {n_context} rows importance weights are reliable for only "
                f"{weights.share_trusted:.0%} of datasets."
            )
        entries |= {
            f"median importance efficiency with {n_context} rows": weights.quantile(0.5),
            f"5% importance efficiency with {n_context} rows": weights.quantile(0.05),
            f"share with k-hat below 0.7 with {n_context} rows": weights.share_trusted,
        }
        figures[f"Tails of the importance weights with {n_context} rows."] = weights.plot().figure
    yield Section("Calibration", entries, warnings, figures)
    cost = 1000 * trial.seconds / trial.n_datasets
    yield Section("Cost", {f"milliseconds per dataset of {n_context} rows": cost})


def _trained_sizes(network: DistributionTransformer, tasks: LatentTasks) -> list[int]:
    """The smallest, a typical and the largest size of its training; 10 if they are unknown."""
    if tasks.ordered or not network.config.n_context:
        return [tasks.ordered or 10]
    low, high = network.config.n_context
    return sorted({low, round((low * high) ** 0.5), high})


def _alarms(tests: Sequence[Uniformity], n_context: int) -> list[str]:
    """Warnings of tests at a level at which an exact method fails in one of a hundred reports."""
    return [
        f"{test.title} with {n_context} rows: not calibrated (p = {test.p_value:.2g})."
        for test in tests
        if test.p_value < ALARM
    ]
