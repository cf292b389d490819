"""The verdict as a page: on a network over its prior, and on one answer to one dataset."""

import inspect
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from amortized.diagnostics.coverage import coverage
from amortized.diagnostics.importance_efficiency import importance_efficiency
from amortized.diagnostics.latent_trial import latent_trial
from amortized.diagnostics.log_score import log_score
from amortized.diagnostics.order_sensitivity import order_sensitivity
from amortized.diagnostics.out_of_range import TrainingRange
from amortized.diagnostics.page import Report
from amortized.diagnostics.pit import pit
from amortized.diagnostics.predictive_trial import PredictiveTrial
from amortized.diagnostics.sbc import sbc
from amortized.diagnostics.trial import PosteriorTrial
from amortized.diagnostics.uniformity import Uniformity
from amortized.infer import infer
from amortized.latent_priors.catalogue import TASKS, named_tasks
from amortized.latent_priors.tasks import LatentTasks
from amortized.networks import PFN, DistributionTransformer, TabularPFN
from amortized.plotting import compare_methods, predictive_band
from amortized.predictive import OneOfBatch
from amortized.priors.catalogue import PRIORS, named_prior

ALARM = 0.01
_MAX_REFERENCE_ROWS = 100
_N_DRAWS = 500  # of the reference's predictive, for the divergence between the two


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
    about = {"name": name, "in words": _first_line(PRIORS[name])}
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
    about = {"name": name, "in words": _first_line(TASKS[name])}
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


def report_pfn(
    network: PFN,
    x: Float[Tensor, "n features"],
    y: Float[Tensor, " n"],
    *,
    reference: str | None = "auto",
    n_datasets: int = 200,
    seed: int = 0,
) -> Report:
    """The verdict on a network's predictive for one dataset, in the network's units.

    Args:
        network: whose config names its prior.
        x: inputs, standardised.
        y: answers, standardised.
        reference: method of `infer` on the same prior; "auto" is "smc" up to 100 rows and none
            beyond, None is none.
        n_datasets: of the prior, for the calibration at this size.
        seed: of these and of the reference.
    """
    name = network.config.prior
    if name is None:
        raise ValueError("Expected a network whose config names its prior; this one's does not.")
    prior, n = named_prior(name), len(x)
    x, y, warnings = x.float(), y.float(), list[str]()
    grid = _new_rows(x)
    began = time.perf_counter()
    with torch.no_grad():
        predictive = network(x[None], y[None], grid[None])
    seconds = time.perf_counter() - began
    trial = PredictiveTrial.run(
        prior, network, n_datasets=n_datasets, n_context=n, seed=seed, progress=False
    )
    test = pit(trial)
    if test.p_value < ALARM:
        warnings.append(
            f"Over its prior, at {n} rows, the network is not calibrated (p = {test.p_value:.2g})."
        )
    sections: dict[str, dict[str, Any]] = {
        "What was asked": {"rows": n, "features": x.shape[1], "network": name},
        "Prior": {"name": name, "in words": _first_line(PRIORS[name])},
        "Rung": {"method": "pfn", "in words": "one forward pass, not corrected by a density"},
        "Calibration": {f"PIT over {n_datasets} datasets of the prior, p-value": test.p_value},
        "Seconds": {"network, on " + x.device.type: seconds},
    }
    sections["Range"] = _range(network, prior, x, y, seed, warnings)
    position = grid[:, 0].numpy() if x.shape[1] == 1 else np.arange(len(grid), dtype=float)
    x_label = "x (standardised)" if x.shape[1] == 1 else "new row"
    labels: dict[str, Any] = {"x_label": x_label, "y_label": "y (standardised)"}
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


def _range(
    network: PFN, prior: Any, x: Tensor, y: Tensor, seed: int, warnings: list[str]
) -> dict[str, Any]:
    if len(x) < 8:
        return {"inside the training range": "not judged with fewer than 8 rows"}
    judge = TrainingRange(network, prior, len(x), x.shape[1], standardised=True, seed=seed)
    verdict = judge(x[None], y[None])
    outside = bool(verdict.flagged()[0])
    if outside:
        warnings.append(
            f"The data look unlike those the network was trained on: {verdict.reason()}."
        )
    return {"inside the training range": not outside, "p-value": float(verdict.p_values[0])}


def _compared(network: Any, exact: Any, name: str, warnings: list[str]) -> dict[str, Any]:
    """How far the network's predictive is from a reference's, averaged over new rows."""
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
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


def _first_line(make: Callable[[], Any]) -> str:
    """What the catalogue says of a prior, without the marks of formulas."""
    return (inspect.getdoc(make) or "").split("\n\n")[0].replace("\n", " ")
