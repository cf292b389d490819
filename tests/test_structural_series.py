"""Structural series: their program, their exact answers, and hyperparameters by SMC."""

import math

import pytest
import torch
from torch.distributions import HalfNormal, LogNormal

from amortized import infer
from amortized.forecasting import StructuralSeries
from amortized.forecasting.structural_series import SeriesPredictive
from amortized.priors.regression.gaussian_process import GaussianProcessPrior
from amortized.priors.state_space.matern import Matern
from amortized.priors.state_space.periodic import Periodic, Seasonal
from amortized.priors.state_space.trends import LocalLevel, LocalTrend

F64 = torch.float64


def matern(lengthscale=0.7, noise=0.2):
    return StructuralSeries(
        matern=Matern("matern32", lengthscale, 1.3),
        noise=noise,
        inputs=lambda n_tasks, n_rows: 5 * torch.rand(n_tasks, n_rows, 1),
    )


def test_predictive_and_evidence_are_those_of_the_gaussian_process():
    """In any order of the rows."""
    dense = GaussianProcessPrior("matern32", lengthscale=0.7, outputscale=1.3, noise=0.2)
    batch = matern().sample(3, 30, 10, seed=0)
    series, exact = matern().posterior_predictive(batch), dense.posterior_predictive(batch)
    torch.testing.assert_close(series.mean, exact.mean, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(series.stddev, exact.stddev, atol=1e-4, rtol=1e-4)
    x, y = batch.x_context[0].double(), batch.y_context[0].double()
    evidence = dense.log_evidence(x[None], y[None])[0]
    torch.testing.assert_close(matern().log_evidence(x, y), evidence, atol=1e-6, rtol=1e-8)


def test_draws_have_the_covariance_of_the_kernel():
    """In any order of the rows, whitened by the dense covariance of each task."""
    dense = GaussianProcessPrior("matern32", lengthscale=0.7, outputscale=1.3, noise=0.2)
    batch = matern().sample(4000, 6, 0, seed=0)
    cov = dense.noisy_covariance(batch.x_context, dense._fixed(batch.x_context))
    scale = torch.linalg.cholesky(cov)
    white = torch.linalg.solve_triangular(scale, batch.y_context[..., None], upper=False)[..., 0]
    eye = torch.eye(6)
    assert ((white.T @ white / 4000 - eye).abs() < 6 / 4000**0.5 * (1 + eye)).all()


def two_latents():
    return StructuralSeries(
        level=LocalLevel(HalfNormal(1.0), 2.0),
        season=Seasonal(4.0, 2, 1.0),
        noise=LogNormal(-1.0, 0.5),
    )


def test_hyperparameters_by_smc():
    """Evidence and means against a grid over both latents."""
    series = two_latents()
    batch = series.sample(1, 20, 4, seed=3)
    x, y = batch.x_context[0].double(), batch.y_context[0].double()
    posterior = infer(series, x, y, method="smc", n_particles=128, seed=0)
    drift, noise = torch.meshgrid(
        torch.linspace(-7, 1.5, 80, dtype=F64), torch.linspace(-3.5, 1.0, 60, dtype=F64),
        indexing="ij",
    )  # fmt: skip
    drift, noise = drift.flatten().exp(), noise.flatten().exp()
    log_joint = series.log_evidence(x, y, {"level_drift": drift, "noise": noise})
    log_joint = log_joint + HalfNormal(1.0).log_prob(drift) + LogNormal(-1.0, 0.5).log_prob(noise)
    log_joint = log_joint + drift.log() + noise.log()  # the grid is even in the logarithms
    cell = torch.tensor(8.5 / 79 * 4.5 / 59, dtype=F64).log()
    error = posterior.log_evidence_error.clamp_min(0.02)
    assert (posterior.log_evidence - (log_joint.logsumexp(0) + cell)).abs() < 5 * error
    weights = log_joint.softmax(0)
    for name, value in (("level_drift", drift), ("noise", noise)):
        mean = (weights * value).sum()
        sd = (weights * (value - mean).square()).sum().sqrt()
        assert (posterior.sample(1000)[name].mean() - mean).abs() < 0.2 * sd

    predictive = series.predictive(posterior, x, y, batch.x_query[0].double())
    exact = [
        series._predictive(x, y, batch.x_query[0], {"level_drift": drift, "noise": noise})[k]
        for k in (0, 1)
    ]
    mean = (weights[:, None] * exact[0]).sum(0)
    spread = (weights[:, None] * (exact[1] ** 2 + (exact[0] - mean) ** 2)).sum(0).sqrt()
    assert ((predictive.mean - mean).abs() < 0.2 * spread).all()
    assert ((predictive.variance.sqrt() / spread - 1).abs() < 0.15).all()


@pytest.mark.parametrize(
    ("part", "stationary"),
    [
        (LocalTrend(0.1, 1.0), False),
        (LocalLevel(0.3, 1.0), False),
        (LocalLevel(0.0, 1.0), True),
        (Seasonal(4.0, 2, 1.0, 0.2), False),
        (Seasonal(4.0, 2, 1.0), True),
    ],
)
def test_an_earlier_query_does_not_move_the_prior(part, stationary):
    # The prior of a trend then began at the query, which changed the forecasts too.
    series = StructuralSeries(part=part, noise=0.3)
    x = torch.tensor([[5.0], [6.0], [7.0], [9.0], [10.0]], dtype=F64)
    y = torch.tensor([1.0, 1.5, 2.2, 2.9, 3.0], dtype=F64)
    posterior = infer(series, x, y)
    x_new = torch.tensor([[12.0], [8.0], [5.0]], dtype=F64)
    alone = series.predictive(posterior, x, y, x_new)
    with_earlier = torch.cat((x_new, torch.zeros(1, 1, dtype=F64)))
    if not stationary:
        with pytest.raises(ValueError, match="new times from 5"):
            series.predictive(posterior, x, y, with_earlier)
        return
    together = series.predictive(posterior, x, y, with_earlier)
    torch.testing.assert_close(together.mean[:3], alone.mean)
    torch.testing.assert_close(together.stddev[:3], alone.stddev)


def test_draws_of_the_predictive_are_paths():
    """Their covariance over time is that of the dense conditional."""
    kernel = GaussianProcessPrior("matern32", lengthscale=0.7, outputscale=1.3, noise=0.2)
    x = torch.tensor([[0.3], [1.0], [1.0], [2.2]], dtype=F64)
    y = torch.tensor([0.5, -0.4, torch.nan, 1.0], dtype=F64)
    x_new = torch.tensor([[1.4], [1.5], [2.3], [3.0], [0.0]], dtype=F64)
    posterior = infer(matern(), x[[0, 1, 3]], y[[0, 1, 3]], method="exact")
    torch.manual_seed(0)
    n = 4000
    paths = matern().predictive(posterior, x, y, x_new).sample((n,))
    at = torch.cat((x[[0, 1, 3]], x_new))[None]
    cov = kernel.noisy_covariance(at, kernel._fixed(at))[0]
    gain = torch.linalg.solve(cov[:3, :3], cov[:3, 3:]).mT
    left = cov[3:, 3:] - gain @ cov[:3, 3:]
    scale = torch.linalg.cholesky(left)
    centred = paths - gain @ y[[0, 1, 3]]
    white = torch.linalg.solve_triangular(scale, centred.mT, upper=False).mT
    eye = torch.eye(5, dtype=F64)
    assert white.mean(0).abs().max() < 5 / n**0.5
    assert ((white.mT @ white / n - eye).abs() < 6 / n**0.5 * (1 + eye)).all()


def test_draws_of_the_predictive_keep_hyperparameters_together():
    """A path has one level of noise; draws of single times would mix those of all draws."""
    series = StructuralSeries(level=LocalLevel(0.0, 1e-3), noise=LogNormal(0.0, 2.0))
    values = {"noise": torch.tensor([0.01, 10.0], dtype=F64).repeat(100)}
    x, y = torch.zeros(1, 1, dtype=F64), torch.zeros(1, dtype=F64)
    predictive = SeriesPredictive(series, x, y, torch.arange(1.0, 51.0)[:, None].double(), values)
    torch.manual_seed(0)
    spread = predictive.sample((20, 10)).std(-1)
    assert spread.shape == (20, 10)
    quiet = spread < 0.05
    assert (quiet | (spread > 5)).all() and 0.3 < quiet.double().mean() < 0.7


def test_names_of_latents_in_nested_parts():
    series = StructuralSeries(
        shape=Matern("matern32", LogNormal(0.0, 1.0), 1.0) * Periodic(7.0, HalfNormal(1.0)),
        line=LocalLevel(0.0, 3.0) + LocalTrend(HalfNormal(0.1), 1.0),
        noise=0.1,
    )
    names = ["shape_changing_lengthscale", "shape_repeating_lengthscale", "line_1_bend"]
    assert list(series.hyperpriors) == names
    batch = series.sample(2, 12, 3, seed=0)
    assert torch.isfinite(batch.y_query).all()
    density = series.log_evidence(
        batch.x_context[0], batch.y_context[0], {n: batch.latents[n] for n in names}
    )
    assert density.shape == (2,) and density.isfinite().all()


def test_wrong_series(no_shape_checks):
    with pytest.raises(ValueError, match="at least one named part"):
        StructuralSeries(noise=0.1)
    with pytest.raises(ValueError, match="noise > 0; got -1"):
        StructuralSeries(noise=-1.0, level=LocalLevel(1.0, 1.0))
    with pytest.raises(ValueError, match=r"none for \['level_drift', 'noise'\].*infer them"):
        two_latents().log_evidence(torch.zeros(3, 1), torch.zeros(3))


def test_missing_values_are_integrated_out_by_infer():
    """Moments and evidence on a grid of the two hyperparameters, with the filter's evidence."""
    series = StructuralSeries(level=LocalLevel(HalfNormal(0.5), 1.0), noise=HalfNormal(0.5))
    generator = torch.Generator().manual_seed(0)
    y = 0.3 * torch.randn(10, generator=generator, dtype=F64).cumsum(0)
    y = y + 0.2 * torch.randn(10, generator=generator, dtype=F64)
    y[[3, 4, 8]] = torch.nan
    x, step = torch.arange(10.0, dtype=F64)[:, None], 0.01
    at = torch.arange(step / 2, 1.5, step, dtype=F64)
    drift, noise = (each.flatten() for each in torch.meshgrid(at, at, indexing="ij"))
    prior = HalfNormal(torch.tensor(0.5, dtype=F64)).log_prob
    joint = series.log_evidence(x, y, {"level_drift": drift, "noise": noise})
    joint = joint + prior(drift) + prior(noise)
    mass = joint.softmax(0)
    posterior = infer(series, x, y, n_draws=2000)
    for name, values in (("level_drift", drift), ("noise", noise)):
        mean = (mass * values).sum()
        sd = (mass * (values - mean).square()).sum().sqrt()
        assert abs(posterior.mean[name] - mean) < 0.1 * sd
        assert abs((posterior.std[name] / sd).log()) < 0.1
    evidence = joint.logsumexp(0) + 2 * math.log(step)
    assert abs(posterior.log_evidence - evidence) < 4 * posterior.log_evidence_error + 0.01
    batch = torch.stack([y, y.nan_to_num(0.0)])
    both = infer(series, x.expand(2, -1, -1), batch, method="laplace")
    alone = infer(series, x, y, method="laplace")
    assert abs(both.log_evidence[0] - alone.log_evidence) < 0.02
