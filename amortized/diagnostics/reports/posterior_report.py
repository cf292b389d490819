"""The report of a posterior: method, calibration at these inputs, fit, and comparison."""

import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from amortized.diagnostics.calibration import sbc
from amortized.diagnostics.data.predictive_check import STATISTICS
from amortized.diagnostics.reports.page import ALARM, Report, Section
from amortized.diagnostics.trial import PosteriorTrial
from amortized.infer import LatentPrior, infer
from amortized.infer.inputs.problem import Problem, make_problem
from amortized.plotting import compare_methods, label_axes, line_style, new_axes
from amortized.posterior import Posterior
from amortized.priors.prior import Prior, split
from amortized.priors.program_prior import ProgramPrior
from amortized.priors.task import TaskBatch
from amortized.program.simulation import ProgramSimulator
from amortized.program.vectorised import Program
from amortized.seeding import seeded

_IN_WORDS = {
    "exact": "closed form, without approximation",
    "smc": "particles moved from the prior to the posterior",
    "nuts": "Markov chains; reliable if R-hat is below 1.03",
    "importance": "weighted draws; reliable if k-hat is below 0.7",
    "adapted": "weighted draws of a mixture fitted to the posterior; k-hat should be below 0.7",
    "laplace": "normal approximation at the mode",
    "vi": "the best normal approximation in unconstrained space",
    "dt": "a network's posterior without correction; as reliable as its calibration",
}
_REFERENCES = ("exact", "smc", "nuts")
_DRIFT = 0.2  # nats, which corresponds to a shift of a mean by 0.6 standard deviations


def report_posterior(
    model: Program | Prior,
    x: Float[Tensor, "n features"],
    y: Float[Tensor, " n"],
    posterior: Posterior,
    *,
    reference: str | None = "auto",
    latent_prior: LatentPrior | None = None,
    options: Mapping[str, Any] | None = None,
    n_datasets: int = 100,
    seed: int = 0,
    held_out: Section | None = None,
) -> Report:
    """The report of a posterior of one dataset.

    Args:
        model: the program, or a prior with one.
        x: inputs of the dataset.
        y: targets of the dataset.
        posterior: its posterior, by any method of `infer`.
        reference: method to compare with; "auto" takes the first other method of exact, smc and
            nuts that works, None takes none.
        latent_prior: latent prior of the posterior; None for the model's own.
        options: further arguments of its method, such as a network.
        n_datasets: number of datasets drawn from the program at the same inputs, for the
            calibration.
        seed: seed of these datasets and of the reference.
        held_out: predictions of held-out rows, if available.

    Example:
        >>> from amortized.priors.regression.normal_mean import NormalMeanPrior
        >>> prior, x = NormalMeanPrior(), torch.zeros(5, 0)
        >>> y = torch.tensor([0.1, 2.0, -0.5, 1.5, 1.0])
        >>> posterior = infer(prior, x, y, method="exact")
        >>> page = report_posterior(prior, x, y, posterior, reference="smc")
        >>> page.sections["Method"]["method"], page.warnings
        ('exact', [])
    """
    if posterior.batch_shape:
        raise ValueError(
            f"Expected the posterior of one dataset; got a batch {tuple(posterior.batch_shape)}."
        )
    x, y = torch.as_tensor(x, dtype=torch.float64), torch.as_tensor(y, dtype=torch.float64)
    if y.shape != x.shape[:1]:
        raise ValueError(f"Expected y of shape ({len(x)},); got {tuple(y.shape)}.")
    method, options = str(posterior.diagnostics["method"]), dict(options or {})
    problem = make_problem(model, x, y, latent_prior)

    def answer(rows: Tensor, targets: Tensor, n_draws: int) -> Posterior:
        # Chains need gradients; warnings about simulated datasets are part of the test's result.
        with torch.enable_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            return infer(
                model,
                rows,
                targets,
                method=method,
                latent_prior=latent_prior,
                n_draws=n_draws,
                seed=seed,
                **options,
            )

    program = getattr(model, "__name__", type(model).__name__)
    own = "the program's own" if latent_prior is None else "given at run time"
    asked = {"latent_prior": latent_prior, "n_draws": posterior.n_draws, "seed": seed + 1}

    def sections() -> Iterator[Section]:
        if held_out is not None:
            yield held_out
        yield Section("Subject", {"rows": len(y), "features": x.shape[1]})
        yield Section("Prior", {"program": program, "of its latents": own})
        yield from _answer(posterior, method)
        yield _calibration(problem, answer, method, n_datasets, seed)
        yield _fits(posterior, x, y, seed)
        found = _reference(model, x, y, reference, method, asked)
        seconds = {method: float(posterior.diagnostics.get("seconds", float("nan")))}
        if found is not None:
            yield _compared(posterior, found)
            seconds[f"reference, {found.diagnostics['method']}"] = found.diagnostics["seconds"]
        yield Section("Seconds", seconds)

    return Report.of(f"The posterior by {method} on {len(y)} rows", sections())


def _answer(posterior: Posterior, method: str) -> Iterator[Section]:
    """Summary of the posterior, and the method's own diagnostics."""
    answers = {
        label: f"{row['mean']:.4g} +- {row['sd']:.3g}" for label, row in posterior.summary().items()
    }
    figures = {"The posterior: mean and 90% interval.": posterior.plot()} if answers else {}
    yield Section("Posterior, mean and sd", answers, figures=figures)
    own = {k: v for k, v in posterior.diagnostics.items() if isinstance(v, int | float | str)}
    own.pop("seconds", None)
    doubts = [_in_words(each) for each in posterior.diagnostics.get("doubt", [])]
    in_words = _IN_WORDS.get(str(own.get("stage", method)), method)
    yield Section("Method", {**own, "in words": in_words}, doubts + _own_doubts(own))


def _in_words(doubt: str) -> str:
    """A doubt with its meaning before the name of the diagnostic, as the heading shows it."""
    number, _, meaning = doubt.partition(": ")
    return f"{meaning[0].upper()}{meaning[1:]} ({number})." if meaning else f"{doubt}."


def _own_doubts(own: dict[str, Any]) -> list[str]:
    doubts = list[str]()
    if own["method"] == "dt" and not own.get("inside_training_range", True):
        doubts.append("The prior or the data are outside of the network's training range.")
    if own.get("drift", 0.0) > _DRIFT:
        doubts.append(
            f"The approximation error of the stream is {own['drift']:.2f} nats; infer again from "
            "all rows."
        )
    return doubts


class _UnderMixture(Prior):
    """Datasets of a program at fixed inputs, with latents drawn from a mixture over u."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.simulator = ProgramSimulator(problem.program, problem.x[0])

    def _sample(self, n_tasks: int, n_context: int, n_query: int) -> TaskBatch:
        assert self.problem.latent_prior is not None
        x = self.problem.x.expand(n_tasks, -1, -1)
        u = self.problem.latent_prior.sample((n_tasks,)).reshape(n_tasks, -1)
        latents, y = self.simulator(u.to(x.dtype), x)
        return split(x, y, n_context, latents)


def _calibration(
    problem: Problem,
    answer: Callable[[Tensor, Tensor, int], Posterior],
    method: str,
    n_datasets: int,
    seed: int,
) -> Section:
    """SBC of the method on datasets drawn from the same prior at the inputs of the data."""

    def same_inputs(n_tasks: int, n_rows: int) -> Tensor:
        return problem.x.expand(n_tasks, -1, -1)

    def of_batch(batch: TaskBatch, n_draws: int) -> Posterior:
        return answer(batch.x_context, batch.y_context, n_draws)

    of_batch.__name__ = method
    own = problem.latent_prior is None
    prior = ProgramPrior(problem.program, same_inputs) if own else _UnderMixture(problem)
    trial = PosteriorTrial.run(
        prior,
        of_batch,
        n_datasets=n_datasets,
        n_context=problem.x.shape[1],
        thin=10 if method == "nuts" else 1,
        seed=seed,
        progress=False,
    )
    test, doubts = sbc(trial), list[str]()
    if test.p_value < ALARM:
        doubts.append(f"{method} is not calibrated at these inputs (p = {test.p_value:.2g}).")
    entries = {f"SBC of {n_datasets} datasets at these inputs, p": test.p_value}
    caption = "Ranks of the truth: calibrated if inside the grey band."
    return Section("Calibration", entries, doubts, {caption: test.plot().figure})


def _fits(posterior: Posterior, x: Tensor, y: Tensor, seed: int) -> Section:
    """Usual posterior predictive checks, with rows drawn from the predictive."""
    with seeded(seed):
        replicates = posterior.predictive(x).sample(torch.Size([500]))
    shares, doubts = {}, list[str]()
    for name, statistic in STATISTICS.items():
        ours, theirs = statistic(x[None], y[None]), statistic(x[None], replicates)
        shares[name] = ((theirs < ours).double() + 0.5 * (theirs == ours)).mean().item()
        if not 0.005 <= shares[name] <= 0.995:
            tail = "upper" if shares[name] > 0.5 else "lower"
            doubts.append(
                f"The model does not fit: the {name} of the data lies in the {tail} tail of its "
                f"posterior predictive distribution ({shares[name]:.1%} of replicates are smaller)."
            )
    ax = new_axes()
    low, high = replicates.min().item(), replicates.max().item()
    bins = np.linspace(min(low, y.min().item()), max(high, y.max().item()), 30).tolist()
    for i, (values, label) in enumerate(((y, "data"), (replicates.flatten(), "replicates"))):
        style = line_style(i)
        ax.hist(values.numpy(), bins=bins, density=True, histtype="step", label=label, **style)
    figure = label_axes(ax, "y", "density", "Posterior predictive check").figure
    name, caption = "Fit: fraction of replicates below the data", "Replicated and observed data."
    return Section(name, shares, doubts, {caption: figure})


def _reference(
    model: Program | Prior,
    x: Tensor,
    y: Tensor,
    name: str | None,
    method: str,
    asked: dict[str, Any],
) -> Posterior | None:
    """The reference's posterior; for "auto" that of the first method that works."""
    if name is None:
        return None
    if name != "auto":
        return infer(model, x, y, method=name, **asked)
    for candidate in _REFERENCES:
        if candidate == method:
            continue
        try:
            return infer(model, x, y, method=candidate, **asked)
        except ValueError:  # no closed form, or no density
            continue
    return None


def _compared(posterior: Posterior, reference: Posterior) -> Section:
    """Compares means and standard deviations with the reference's, for each latent."""
    name, rows, points = str(reference.diagnostics["method"]), {}, {}
    doubts = list[str]()
    ours, theirs = posterior.summary(), reference.summary()
    error = (1 / posterior.n_draws + 1 / reference.n_draws) ** 0.5
    for label, row in ours.items():
        unit = max(theirs[label]["sd"], 1e-300)
        moved, ratio = (row["mean"] - theirs[label]["mean"]) / unit, row["sd"] / unit
        rows[label] = f"mean differs by {moved:+.3f} sd, ratio of sds {ratio:.3f}"
        points[label] = (moved, error)
        if abs(moved) > max(0.2, 5 * error) or not 0.8 < ratio < 1.25:
            doubts.append(f"{label} differs from {name}: {rows[label]}.")
    chart = compare_methods(points, f"difference of means to {name} (its sd)")
    caption = "Both posteriors, in units of the reference's standard deviation."
    return Section("Reference", {"method": name, **rows}, doubts, {caption: chart.figure})
