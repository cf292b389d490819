"""The verdict as a page on a pretrained network: calibrated over its prior, or not."""

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from torch import nn

from amortized.diagnostics.coverage import coverage
from amortized.diagnostics.importance_efficiency import importance_efficiency
from amortized.diagnostics.latent_trial import latent_trial
from amortized.diagnostics.log_score import log_score
from amortized.diagnostics.order_sensitivity import order_sensitivity
from amortized.diagnostics.page import ALARM, Report, in_words
from amortized.diagnostics.pit import pit
from amortized.diagnostics.predictive_trial import PredictiveTrial
from amortized.diagnostics.sbc import sbc
from amortized.diagnostics.trial import PosteriorTrial
from amortized.diagnostics.uniformity import Uniformity
from amortized.latent_priors.problems import PROBLEMS, named_tasks
from amortized.latent_priors.tasks import LatentTasks
from amortized.networks import PFN, DistributionTransformer, TabularPFN
from amortized.plotting import compare_methods
from amortized.priors.named import PRIORS, named_prior


def report(
    network: nn.Module,
    *,
    n_context: Sequence[int] | None = None,
    n_datasets: int = 300,
    seed: int = 0,
) -> Report:
    """Puts a pretrained network on trial over the prior that it was trained on.

    Args:
        network: a `PFN`, `TabularPFN` or `DistributionTransformer` whose config names its prior.
        n_context: sizes of datasets, in rows; None takes small, middle and large ones of those
            that it was trained on.
        n_datasets: fresh datasets of each size.
        seed: of these.

    Example:
        >>> from amortized.pretrained import load
        >>> print(report(load("gp-1d"), n_context=[5], n_datasets=40).title)
        Network gp-1d over its prior
    """
    name = getattr(getattr(network, "config", None), "prior", None)
    if name is None or not isinstance(network, PFN | TabularPFN | DistributionTransformer):
        raise ValueError(
            "Expected a PFN, TabularPFN or DistributionTransformer whose config names its prior; "
            f"got {type(network).__name__}. For other priors run the diagnostics themselves."
        )
    began = time.perf_counter()
    about = {
        "network": f"{type(network).__name__} {name}",
        "parameters": f"{sum(p.numel() for p in network.parameters()):,}",
        "datasets of each size": n_datasets,
    }
    if isinstance(network, PFN | TabularPFN):
        result = _judge_pfn(network, name, n_context, n_datasets, seed)
    else:
        result = _judge_dt(network, name, n_context, n_datasets, seed)
    sections = {"What was asked": about, **result.sections}
    sections["Cost"] = {
        **sections.get("Cost", {}),
        "seconds for this report": time.perf_counter() - began,
    }
    return Report(f"Network {name} over its prior", sections, result.warnings, result.figures)


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
    network: PFN | TabularPFN,
    name: str,
    sizes: Sequence[int] | None,
    n_datasets: int,
    seed: int,
) -> Report:
    prior, warnings, figures = named_prior(name), list[str](), {}
    calibration, scores = {}, {}
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
        test = pit(trial)
        calibration[f"PIT with {n_context} rows, p-value"] = test.p_value
        score = log_score(trial)
        scores[f"{n_context} rows"] = (score.mean, score.standard_error)
        figures[f"Calibration with {n_context} rows: inside the grey band is calibrated."] = (
            test.plot().figure
        )
        warnings += _alarms([test], n_context)
    order = order_sensitivity(
        prior,
        network,
        n_datasets=16 if of_cells else 50,
        n_context=sizes[0] if of_cells else most // 2,
        progress=False,
    )
    calibration["order of rows, change in nats"] = order.mean
    figures["Log score by number of rows."] = compare_methods(
        scores, "log score (nats per answer)"
    ).figure
    text = {f"log score, {size}": f"{v:.3f} +- {e:.3f} nats" for size, (v, e) in scores.items()}
    about = {"name": name, "in words": in_words(PRIORS[name])}
    return Report(
        "", {"Prior": about, "Calibration": calibration, "Score": text}, warnings, figures
    )


def _of_known_classes(trial: PredictiveTrial) -> PredictiveTrial:
    """The datasets whose context shows the class that is asked for; no network knows of others."""
    known = trial.log_prob.isfinite().all(-1)
    cdf = None if trial.cdf is None else trial.cdf[known]
    return replace(trial, y=trial.y[known], log_prob=trial.log_prob[known], cdf=cdf)


def _judge_dt(
    network: DistributionTransformer,
    name: str,
    sizes: Sequence[int] | None,
    n_datasets: int,
    seed: int,
) -> Report:
    tasks = named_tasks(name)
    about = {"name": name, "in words": PROBLEMS[name].about}
    result = Report("", {"Prior": about, "Calibration": {}, "Cost": {}})
    for n_context in sizes or _trained_sizes(network, tasks):
        size: dict[str, Any] = {"n_datasets": n_datasets, "n_context": n_context, "seed": seed}
        trial = latent_trial(network, tasks, exact_density=True, progress=False, **size)
        _add_posteriors(result, trial, n_context)
    return result


def _add_posteriors(result: Report, trial: PosteriorTrial, n_context: int) -> None:
    """What a trial with so many rows says, beside what others said."""
    ranks, covered = sbc(trial), coverage(trial, "highest")
    weights = importance_efficiency(trial)
    result.warnings.extend(_alarms([ranks, covered], n_context))
    if weights.share_trusted < 0.95:
        result.warnings.append(
            f"With {n_context} rows importance weights can be trusted on "
            f"{weights.share_trusted:.0%} of datasets only."
        )
    result.sections["Calibration"] |= {
        f"SBC with {n_context} rows, p-value": ranks.p_value,
        f"highest-density coverage with {n_context} rows, p-value": covered.p_value,
        f"median importance efficiency with {n_context} rows": weights.quantile(0.5),
        f"5% importance efficiency with {n_context} rows": weights.quantile(0.05),
        f"share with k-hat below 0.7 with {n_context} rows": weights.share_trusted,
    }
    cost = {f"milliseconds a dataset of {n_context} rows": 1000 * trial.seconds / trial.n_datasets}
    result.sections["Cost"] |= cost
    result.figures.update(
        {
            f"Ranks of the truth with {n_context} rows: inside the grey band is "
            "calibrated.": ranks.plot().figure,
            f"Coverage of highest-density regions with {n_context} rows.": covered.plot().figure,
            f"Tails of the importance weights with {n_context} rows.": weights.plot().figure,
        }
    )


def _trained_sizes(network: DistributionTransformer, tasks: LatentTasks) -> list[int]:
    """The fewest, most and, in between, typical rows of its training; 10 where it does not say."""
    if tasks.ordered or not network.config.n_context:
        return [tasks.ordered or 10]
    low, high = network.config.n_context
    return sorted({low, round((low * high) ** 0.5), high})


def _alarms(tests: Sequence[Uniformity], n_context: int) -> list[str]:
    """In plain words, the tests that an exact method would fail in one of a hundred reports."""
    return [
        f"{test.title} with {n_context} rows: not calibrated (p = {test.p_value:.2g})."
        for test in tests
        if test.p_value < ALARM
    ]
