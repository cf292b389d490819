"""One call for every report; and that of a network: is it calibrated over its prior?"""

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
from amortized.diagnostics.page import ALARM, Report, Section, in_words
from amortized.diagnostics.posterior_report import report_posterior
from amortized.diagnostics.predictive_trial import PredictiveTrial
from amortized.diagnostics.rows_report import report_of_rows
from amortized.diagnostics.trial import PosteriorTrial, latent_trial
from amortized.diagnostics.uniformity import Uniformity
from amortized.latent_priors.problems import PROBLEMS, named_tasks
from amortized.latent_priors.tasks import LatentTasks
from amortized.networks import PFN, DistributionTransformer, SeriesPFN, TabularPFN
from amortized.plotting import compare_methods
from amortized.posterior import Posterior
from amortized.priors.context_standardised import ContextStandardised
from amortized.priors.named import PRIORS, named_prior
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
    """Every reason to distrust a network, a posterior or an estimator.

    Of a network: its calibration over the prior that it was trained on. Of a `Posterior` and of a
    fitted estimator of this package the same as their method ``report``. Of any other estimator
    with the interface of scikit-learn, such as a model to compare with: calibration and accuracy
    of the rows ``x`` and ``y``, each predicted from the others in five folds.

    Args:
        subject: a network, a `Posterior`, or an estimator.
        x: rows, for an estimator that has no report of its own; numbers, ``(rows, features)``.
        y: their targets or classes, ``(rows,)``.
        prior: that a network was trained on; None takes the one that its config names.
        n_context: sizes of datasets of the prior, in rows; None takes small, middle and large ones
            of those that the network was trained on.
        n_datasets: of the prior, of each size.
        seed: of all that is drawn.

    Raises:
        ValueError: if a network's prior is not known, or an estimator is given no rows.

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
    asked = posterior.asked
    if asked is None:
        raise ValueError(
            "Expected a posterior that infer computed for one dataset of rows x, y; got one of a "
            "batch, of data by names, or from elsewhere, which does not keep its model and data. "
            "Use report_posterior(model, x, y, posterior)."
        )
    return report_posterior(
        asked.model,
        asked.x,
        asked.y,
        posterior,
        latent_prior=asked.latent_prior,
        options=asked.options,
        seed=seed,
    )


def _of_network(
    network: nn.Module,
    prior: Prior | LatentTasks | None,
    n_context: Sequence[int] | None,
    n_datasets: int,
    seed: int,
) -> Report:
    if not isinstance(network, PFN | SeriesPFN | TabularPFN | DistributionTransformer):
        raise ValueError(
            "Expected a PFN, SeriesPFN, TabularPFN or DistributionTransformer; got "
            f"{type(network).__name__}. For other networks run the diagnostics themselves."
        )
    name, began = network.config.prior, time.perf_counter()
    of_latents = isinstance(network, DistributionTransformer)
    known = PROBLEMS if of_latents else PRIORS
    if prior is None and name not in known:
        raise ValueError(
            f"Expected the prior of a network whose config names none of {sorted(known)}; got "
            "prior=None. Give it: report(network, prior=...)."
        )
    source = name if prior is None else f"{type(prior).__name__} (given)"
    about = {
        "network": f"{type(network).__name__} {name or ''}".strip(),
        "parameters": f"{sum(p.numel() for p in network.parameters()):,}",
        "datasets of each size": n_datasets,
    }
    described = {"name": source}
    if prior is None and name is not None:
        words = PROBLEMS[name].about if of_latents else in_words(PRIORS[name])
        described["in words"] = words
        prior = named_tasks(name) if of_latents else named_prior(name)

    def sections() -> Iterator[Section]:
        yield Section("What was asked", about)
        yield Section("Prior", described)
        asked = n_context, n_datasets, seed
        if isinstance(network, DistributionTransformer):
            yield from _judge_dt(network, _tasks(network, prior), *asked)
        else:
            yield from _judge_pfn(network, _read(network, prior), *asked)
        yield Section("Cost", {"seconds for this report": time.perf_counter() - began})

    return Report.of(f"Network {name or source} over its prior", sections())


def _tasks(network: DistributionTransformer, prior: Any) -> LatentTasks:
    """The tasks that `amortized.train` makes of such a prior."""
    if isinstance(prior, LatentTasks):
        return prior
    fewest, most = network.config.n_context or (1, 0)
    return LatentTasks(prior, n_rows=most if fewest == most else None)


def _read(network: Any, prior: Any) -> Prior:
    """The prior in the units in which `amortized.train` shows it to such a network."""
    of_tables = isinstance(network, TabularPFN) and network.config.target == "regression"
    read: Prior = ContextStandardised(prior) if of_tables and prior.units == "raw" else prior
    return read


def calibration_rows(
    network: nn.Module, *, n_context: Sequence[int] | None = None, n_datasets: int | None = None
) -> dict[str, str]:
    """What a network's card says of its calibration: numbers and warnings of its `report`.

    Args:
        network: as for `report`.
        n_context: as for `report`.
        n_datasets: fresh datasets of each size; None takes 1,000 of a Distribution Transformer,
            which answers them in a second, and 300 otherwise.

    Example:
        >>> from amortized.pretrained import load
        >>> list(calibration_rows(load("gp-1d"), n_datasets=20))[-1]
        'Mind'
    """
    if n_datasets is None:
        n_datasets = 1000 if isinstance(network, DistributionTransformer) else 300
    page = report(network, n_context=n_context, n_datasets=n_datasets)
    rows = {"Calibration": f"by `amortized.diagnostics.report`, {n_datasets} datasets of each size"}
    rows |= {f"Calibration: {what}": text for what, text in page.texts("Calibration").items()}
    return rows | {"Mind": " ".join(page.warnings) or "no check speaks against it"}


def _judge_pfn(
    network: PFN | SeriesPFN | TabularPFN,
    prior: Prior,
    sizes: Sequence[int] | None,
    n_datasets: int,
    seed: int,
) -> Iterator[Section]:
    scores = {}
    most, of_cells = network.config.max_context, isinstance(network, TabularPFN)
    # Cells cost more than rows: fewer rows, and fewer datasets at once.
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
        caption = f"Calibration with {n_context} rows: inside the grey band is calibrated."
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
    """The datasets whose context shows the class that is asked for; no network knows of others."""
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
    """Ranks, coverage and, where the program has a density, importance weights at one size."""
    ranks, covered = sbc(trial), coverage(trial, "highest")
    entries: dict[str, Any] = {
        f"SBC with {n_context} rows, p-value": ranks.p_value,
        f"highest-density coverage with {n_context} rows, p-value": covered.p_value,
    }
    warnings = _alarms([ranks, covered], n_context)
    figures = {
        f"Ranks of the truth with {n_context} rows: inside the grey band is "
        "calibrated.": ranks.plot().figure,
        f"Coverage of highest-density regions with {n_context} rows.": covered.plot().figure,
    }
    if trial.log_density_draws is not None:
        weights = importance_efficiency(trial)
        if weights.share_trusted < 0.95:
            warnings.append(
                f"With {n_context} rows importance weights can be trusted on "
                f"{weights.share_trusted:.0%} of datasets only."
            )
        entries |= {
            f"median importance efficiency with {n_context} rows": weights.quantile(0.5),
            f"5% importance efficiency with {n_context} rows": weights.quantile(0.05),
            f"share with k-hat below 0.7 with {n_context} rows": weights.share_trusted,
        }
        figures[f"Tails of the importance weights with {n_context} rows."] = weights.plot().figure
    yield Section("Calibration", entries, warnings, figures)
    cost = 1000 * trial.seconds / trial.n_datasets
    yield Section("Cost", {f"milliseconds a dataset of {n_context} rows": cost})


def _trained_sizes(network: DistributionTransformer, tasks: LatentTasks) -> list[int]:
    """The fewest, most and, in between, typical rows of its training; 10 where it does not say."""
    if tasks.ordered or not network.config.n_context:
        return [tasks.ordered or 10]
    low, high = network.config.n_context
    return sorted({low, round((low * high) ** 0.5), high})


def _alarms(tests: Sequence[Uniformity], n_context: int) -> list[str]:
    """Warnings of tests at level 0.01, which an exact method fails in one of a hundred reports."""
    return [
        f"{test.title} with {n_context} rows: not calibrated (p = {test.p_value:.2g})."
        for test in tests
        if test.p_value < ALARM
    ]
