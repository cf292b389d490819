"""SMC: calibrated over a prior, exact in its evidence, honest on hard targets, and mutants."""

import warnings
from functools import partial

import numpy as np
import oracles
import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy import stats

from amortized.distributions.gaussian_mixture import GaussianMixture
from amortized.infer import infer
from amortized.priors.program_prior import ProgramPrior
from amortized.priors.regression.linear_regression import LinearRegressionPrior
from amortized.program.density import ProgramDensity
from amortized.sampling import smc as replicates
from amortized.sampling.checks.verdict import any_doubt
from amortized.sampling.hmc import hmc
from amortized.sampling.importance import importance
from amortized.sampling.laplace import laplace
from amortized.sampling.smc import smc
from amortized.sampling.steps import tempered_run as module
from amortized.sampling.steps.hamiltonian import initial_tuning, with_factor
from amortized.sampling.steps.tempered_run import next_temperature

ZERO = torch.zeros(1, 1, 0, dtype=torch.float64)


def noise_and_mean(x, y=None):
    """A hierarchy with two supports; small enough for a thousand datasets in a second."""
    scale = pyro.sample("scale", dist.Gamma(3.0, 2.0))
    mean = pyro.sample("mean", dist.Normal(0.0, 2.0 * scale))
    return pyro.sample("y", dist.Normal(mean, scale).expand([len(x)]).to_event(1), obs=y)


def conjugate(x, y=None):
    mean = pyro.sample("mean", dist.Normal(0.0, 2.0))
    return pyro.sample("y", dist.Normal(mean, 1.0).expand([len(x)]).to_event(1), obs=y)


N_DATASETS, N_DRAWS = 1000, 63
# Two tests for each of at most two latents; a right sampler fails one with probability below 4e-4.
ALARM = 1e-4


def sbc_p_values(program, sampler, n_datasets=N_DATASETS):
    """Least p-value of chi-square and KS over the latents' ranks among posterior draws.

    With it the share of datasets whose draws are in doubt.
    """
    batch = ProgramPrior(program).sample(n_datasets, 4, 0, seed=0)
    density = ProgramDensity(program, batch.x_context.double(), batch.y_context.double())
    truth = density.unconstrain({k: v.double().unsqueeze(1) for k, v in batch.latents.items()})
    draws = sampler(density)
    ranks = (draws.u < truth).sum(1)
    p_values = []
    for rank in ranks.T:
        counts = torch.bincount(rank * 16 // (N_DRAWS + 1), minlength=16)
        p_values.append(stats.chisquare(counts.numpy()).pvalue)
        uniform = (rank + torch.rand(len(rank))) / (N_DRAWS + 1)
        p_values.append(stats.kstest(uniform.numpy(), "uniform").pvalue)
    return min(p_values), any_doubt(draws.diagnostics).double().mean()


def resampled(draws):
    """The equally weighted draws of a weighted answer, as the Posterior gives them."""
    index = torch.multinomial(draws.log_weights.exp(), N_DRAWS, replacement=True)
    return draws._replace(
        u=draws.u.gather(1, index.unsqueeze(-1).expand(-1, -1, draws.u.shape[-1]))
    )


SAMPLERS = {
    "smc": lambda density: smc(density, N_DRAWS, n_particles=128),
    "smc from the prior": lambda density: smc(density, N_DRAWS, n_particles=128, start="prior"),
    "hmc": lambda density: _thinned(hmc(density, 8 * N_DRAWS, n_chains=16, n_warmup=40)),
    "importance": lambda density: resampled(importance(density, 500)),
}


def _thinned(draws):
    return draws._replace(u=draws.u[:, torch.randperm(draws.u.shape[1])[:N_DRAWS]])


@pytest.mark.parametrize("name", SAMPLERS)
def test_calibrated_over_the_prior(name):
    p_value, doubtful = sbc_p_values(noise_and_mean, SAMPLERS[name])
    assert p_value > ALARM and (doubtful < 0.05 or name in ("hmc", "importance"))


def without_jacobian(monkeypatch):
    from amortized.program import sites

    original = sites.Evaluate._pyro_sample

    def forgetful(self, message):
        before = self.log_jacobian
        original(self, message)
        self.log_prior = self.log_prior - (self.log_jacobian - before)

    monkeypatch.setattr(sites.Evaluate, "_pyro_sample", forgetful)


def a_stage_behind(monkeypatch):
    """Moves at the temperature before, and returns the particles as if they were at 1."""
    original = module._move

    def late(path, point, beta, tuning, limits):
        return original(path, point, 0.5 * beta, tuning, limits)

    monkeypatch.setattr(module, "_move", late)


def weights_forgotten(monkeypatch):
    monkeypatch.setattr(
        module, "systematic_resample", lambda w, u: torch.arange(w.shape[1]).expand(w.shape)
    )
    monkeypatch.setattr(
        module, "_move", lambda path, point, beta, tuning, limits: (point, tuning, 0 * beta)
    )


def variance_for_scale(monkeypatch):
    """The data's variance is taken for their scale."""
    original = replicates.Path.__init__

    def wrong(self, density, *arguments):
        def program(x, y=None):
            scale = pyro.sample("scale", dist.Gamma(3.0, 2.0))
            mean = pyro.sample("mean", dist.Normal(0.0, 2.0 * scale))
            answers = dist.Normal(mean, scale.square()).expand([len(x)])
            return pyro.sample("y", answers.to_event(1), obs=y)

        original(self, ProgramDensity(program, density.x, density.y), *arguments)

    monkeypatch.setattr(replicates.Path, "__init__", wrong)


MUTANTS = {
    f.__name__: f for f in (without_jacobian, a_stage_behind, weights_forgotten, variance_for_scale)
}


@pytest.mark.parametrize("mutant", MUTANTS)
def test_calibration_catches_planted_faults(mutant, monkeypatch):
    MUTANTS[mutant](monkeypatch)
    warnings.simplefilter("ignore")  # that it may warn as well is not the question
    try:
        p_value, doubtful = sbc_p_values(noise_and_mean, SAMPLERS["smc from the prior"], 200)
        assert p_value < ALARM or doubtful > 0.1
    except ValueError:  # as well: the fault may leave no way to the posterior
        pass


def test_steps_keep_their_length_where_the_spread_narrows():
    """Tiny steps beside far particles are not tiny for those that are left."""
    wide = torch.diag_embed(torch.tensor([1.0, 1e4], dtype=torch.float64)).expand(3, 2, 2, 2)
    tuning = initial_tuning(wide)
    longest = tuning.step[0]
    tuning = tuning._replace(step=torch.tensor([1e-6, 1e-2, 2.0], dtype=torch.float64))
    after = with_factor(tuning, torch.eye(2, dtype=torch.float64).expand(3, 2, 2, 2))
    expected = torch.tensor([1e-2, longest, 2.0], dtype=torch.float64)
    torch.testing.assert_close(after.step, expected)
    torch.testing.assert_close(with_factor(after, wide).step, expected)


def test_evidence_of_ten_dimensional_regression():
    prior = LinearRegressionPrior(9, variance=0.5)
    batch = prior.sample(16, 40, 0, seed=0)
    x, y = batch.x_context.double(), batch.y_context.double()
    density, exact = ProgramDensity(prior.model, x, y), prior.posterior(x, y)
    draws = smc(density, 512)
    error = draws.log_evidence - exact.log_evidence
    assert error.square().mean().sqrt() < 0.05  # measured 0.021
    spread = torch.cholesky_inverse(exact.precision_tril).diagonal(dim1=-1, dim2=-2).sqrt()
    assert ((draws.u.mean(1) - exact.mean) / spread).abs().max() < 0.25
    assert (draws.u.std(1) / spread).log().abs().max() < 0.2
    assert abs((draws.u.std(1) / spread).mean() - 1) < 0.02


def test_evidence_of_a_long_way_from_the_prior_scatters_as_it_says():
    """Forty runs of a dozen stages, with few particles for ten latents."""
    prior = LinearRegressionPrior(9, variance=0.5)
    batch = prior.sample(1, 40, 0, seed=0)
    x, y = (t.double().expand(40, *t.shape[1:]) for t in (batch.x_context, batch.y_context))
    draws = smc(ProgramDensity(prior.model, x, y), n_particles=256, start="prior")
    assert draws.diagnostics["n_stages"].median() > 8
    error = draws.log_evidence - prior.posterior(x[:1], y[:1]).log_evidence
    assert (error.abs() < 3 * draws.log_evidence_error).double().mean() > 0.9
    assert abs(error.mean()) < 0.05


def test_a_stage_on_the_way_takes_a_third_of_the_moves(monkeypatch):
    betas = []

    def stuck(path, point, beta, tuning):
        betas.append(beta.item())
        return point, tuning

    monkeypatch.setattr(module, "hamiltonian_move", stuck)
    density = ProgramDensity(conjugate, ZERO, torch.full((1, 1), 9.0, dtype=torch.float64))
    module.run(module.Path(density), 64, 2, module.Limits(0.5, 0.15, 9))
    *on_the_way, last = [betas.count(beta) for beta in dict.fromkeys(betas)]
    assert set(on_the_way) == {3} and last == 9


def test_geweke_joint_distribution():
    """(latents | data) by SMC, then (data | latents), leaves the joint distribution as it was."""
    prior = ProgramPrior(noise_and_mean)
    batch = prior.sample(2000, 4, 0, seed=1)
    density = ProgramDensity(noise_and_mean, batch.x_context.double(), batch.y_context.double())
    latents = density.constrain(smc(density, 1, n_particles=64).u)
    fresh = latents["mean"] + latents["scale"] * torch.randn(2000, 4, dtype=torch.float64)
    for new, old in (
        (latents["scale"][:, 0], batch.latents["scale"]),
        (latents["mean"][:, 0], batch.latents["mean"]),
        (fresh.mean(1), batch.y_context.mean(1)),
        (fresh.std(1), batch.y_context.std(1)),
    ):
        assert stats.ks_2samp(new.numpy(), old.numpy()).pvalue > ALARM


@pytest.mark.parametrize("method", ["smc", "nuts", "importance", "hmc"])
def test_moments_and_evidence_agree_with_quadrature(method):
    y = torch.tensor([0.5, 2.0, 1.0])

    def program(x, y=None):
        scale = pyro.sample("scale", dist.HalfCauchy(1.0))
        return pyro.sample("y", dist.Laplace(0.0, scale).expand([3]).to_event(1), obs=y)

    density = ProgramDensity(program, torch.zeros(1, 3, 0, dtype=torch.float64), y[None].double())
    grid_density = lambda u: density.log_density(torch.as_tensor(u)[None, :, None])[0].numpy()  # noqa: E731
    mean, std, evidence = oracles.moments_by_quadrature(grid_density, -8, 8)
    options = {"n_chains": 2, "n_warmup": 100, "n_draws": 600} if method == "nuts" else {}
    posterior = infer(program, y, method=method, **options)
    log_scale = posterior.sample(1000, seed=0)["scale"].log()
    assert abs(log_scale.mean() - mean) < 0.15 * std and abs(log_scale.std() / std - 1) < 0.12
    if posterior.log_evidence is not None:
        assert abs(posterior.log_evidence - evidence) < 0.1


@pytest.mark.parametrize(("centre", "unit"), [(1.6e9, 1e8), (0.0, 1e-8)])
@pytest.mark.parametrize("method", ["smc", "hmc", "importance", "laplace", "nested"])
def test_the_unit_of_a_latent_does_not_matter(method, centre, unit):
    # A mean of time stamps was clamped to a million, and no check said so.
    def program(x, y=None):
        mean = pyro.sample("mean", dist.Normal(centre, unit))
        return pyro.sample("y", dist.Normal(mean, 0.1 * unit).expand([3]).to_event(1), obs=y)

    z = torch.tensor([0.9, 1.0, 1.1], dtype=torch.float64)
    cov = 0.01 * np.eye(3) + np.ones((3, 3))
    evidence = stats.multivariate_normal.logpdf(z.numpy(), cov=cov) - 3 * np.log(unit)
    found = infer(program, centre + unit * z, method=method)
    assert not found.diagnostics["doubt"]
    error = torch.hypot(found.log_evidence_error, torch.tensor(0.01))
    assert abs(found.log_evidence - evidence) < 4 * error
    sd = (1 + 300) ** -0.5
    assert abs((found.mean["mean"] - centre) / unit - 300 / 301) < 0.15 * sd
    assert abs(found.std["mean"] / unit / sd - 1) < 0.15


def funnel(x, y=None):
    width = pyro.sample("width", dist.Normal(0.0, 1.5))
    inner = pyro.sample("inner", dist.Normal(torch.zeros(4), (width / 2).exp()).to_event(1))
    return pyro.sample("y", dist.Normal(0 * inner.sum(), 1.0).expand([len(x)]).to_event(1), obs=y)


def banana(x, y=None):
    a = pyro.sample("a", dist.Normal(0.0, 1.0))
    b = pyro.sample("b", dist.Normal(0.0, 3.0))
    return pyro.sample("y", dist.Normal(b - a**2, 0.8).expand([len(x)]).to_event(1), obs=y)


def two_modes(x, y=None):
    mean = pyro.sample("mean", dist.Normal(0.0, 10.0))
    return pyro.sample("y", dist.Normal(mean.abs(), 0.5).expand([len(x)]).to_event(1), obs=y)


def simplex(x, y=None):
    probs = pyro.sample("probs", dist.Dirichlet(torch.ones(4)))
    return pyro.sample("y", dist.Categorical(probs).expand([len(x)]).to_event(1), obs=y)


SCALES = torch.logspace(0, -2, 10, dtype=torch.float64)
ROTATION = torch.linalg.qr(
    torch.randn(10, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
).Q


def correlated(x, y=None):
    factor = ROTATION * SCALES
    w = pyro.sample("w", dist.MultivariateNormal(torch.zeros(10).double(), factor @ factor.T))
    return pyro.sample("y", dist.Normal(0 * w.sum(), 1.0).expand([len(x)]).to_event(1), obs=y)


def test_two_separated_modes_have_equal_shares():
    posterior = infer(two_modes, torch.full((4,), 12.0), method="smc", n_draws=2000)
    assert posterior.diagnostics["correlation"] > 0.5  # no move leads across: weights do
    share = (posterior.draws["mean"] > 0).double().mean()
    assert abs(share - 0.5) < 0.1


def test_correlated_normal_with_condition_number_ten_thousand():
    posterior = infer(correlated, torch.zeros(1), method="smc", n_draws=2000)
    whitened = posterior.draws["w"] @ ROTATION / SCALES
    assert whitened.mean(0).abs().max() < 0.15
    assert (whitened.std(0) - 1).abs().max() < 0.1


def test_constrained_simplex_meets_its_dirichlet():
    y = torch.tensor([0.0, 0, 0, 1, 1, 2])
    posterior = infer(simplex, y, method="smc", n_draws=2000)
    concentration = np.array([4.0, 3.0, 2.0, 1.0])
    law = stats.dirichlet(concentration)
    np.testing.assert_allclose(posterior.mean["probs"], law.mean(), atol=0.02)
    np.testing.assert_allclose(posterior.std["probs"], np.sqrt(law.var()), atol=0.02)
    sums = posterior.draws["probs"].sum(-1)
    torch.testing.assert_close(sums, torch.ones_like(sums))


def test_funnel_has_its_width():
    posterior = infer(funnel, torch.zeros(1), method="smc", n_draws=4000)
    width = posterior.draws["width"]
    assert abs(width.mean()) < 0.35 and abs(width.std() / 1.5 - 1) < 0.15


def test_banana_has_the_moments_of_the_grid():
    posterior = infer(banana, torch.zeros(2), method="smc", n_draws=2000)
    a, b = torch.meshgrid(torch.linspace(-6, 6, 601), torch.linspace(-15, 40, 2751), indexing="ij")
    log_density = -0.5 * a**2 - b**2 / 18 - (b - a**2) ** 2 / 0.64
    weights = torch.softmax(log_density.flatten(), 0)
    for name, grid in (("a", a), ("b", b)):
        mean = (weights * grid.flatten()).sum()
        std = (weights * (grid.flatten() - mean) ** 2).sum().sqrt()
        assert abs(posterior.mean[name] - mean) < 0.12 * std
        assert abs(posterior.std[name] / std - 1) < 0.1


def dark_energy(x, y=None):
    """Distance moduli of supernovae: the posterior is curved and cut at a bound."""
    h0 = pyro.sample("h0", dist.Uniform(60.0, 80.0))
    matter = pyro.sample("matter", dist.Uniform(0.05, 0.7))
    w0 = pyro.sample("w0", dist.Uniform(-2.0, -0.3))
    mean = distance_modulus(x, h0, matter, w0)
    return pyro.sample("y", dist.Normal(mean, 0.047).to_event(1), obs=y)


def distance_modulus(x, h0, matter, w0):
    node, weight = (torch.as_tensor(v) for v in np.polynomial.legendre.leggauss(12))
    at = 0.5 * x * (node + 1)
    e = matter * (1 + at) ** 3 + (1 - matter) * (1 + at) ** (3 * (1 + w0))
    return 5 * ((1 + x[:, 0]) / h0 * x[:, 0] * (weight / e.sqrt()).sum(-1)).log10()


def test_normals_with_heavy_weights_are_no_start():
    """Their path would meet the rest of a curved posterior only at its end."""
    x = torch.linspace(0.05, 1.2, 20, dtype=torch.float64).unsqueeze(-1)
    y = distance_modulus(x, 70.0, 0.3, -1.0)
    shares = [
        replicates._path(density, "auto", 0.1, 0.5)[0].prior_share.item()
        for density in (ProgramDensity(dark_energy, x[None], y[None]), DENSITY)
    ]
    assert shares[0] == 1 and shares[1] < 1


@pytest.mark.parametrize(
    ("family", "others"), [(dist.Cauchy, 0), (partial(dist.StudentT, 2.0), 0), (dist.Cauchy, 8)]
)
def test_a_mode_far_out_in_a_heavy_tail_is_found(family, others):
    """Two readings outweigh a prior that is a hundred spreads away, also beside other latents."""

    def program(x, y=None):
        m = pyro.sample("m", family(0.0, 1.0))
        if others:
            pyro.sample("others", dist.Normal(torch.zeros(others), 1.0).to_event(1))
        return pyro.sample("y", family(m, 1.0).expand([len(x)]).to_event(1), obs=y)

    y = torch.tensor([0.0, 60.0, 61.0], dtype=torch.float64)
    grid = torch.linspace(-500, 500, 1_000_001, dtype=torch.float64)
    law = family(torch.zeros((), dtype=torch.float64), 1.0)
    height = law.log_prob(grid) + law.log_prob(y[:, None] - grid).sum(0)
    weights = height.softmax(0)
    far = weights[grid > 30].sum()
    posterior = infer(program, y.expand(4, -1), method="smc")
    shares = (posterior["m"] > 30).double().mean(0)
    assert 0.4 < far < 0.5
    assert (shares - far).abs().max() < 5 * (far * (1 - far) / 300).sqrt()


def test_laplace_admits_that_the_banana_is_no_normal():
    density = ProgramDensity(banana, ZERO, torch.zeros(1, 1, dtype=torch.float64))
    poor, good = (laplace(each, 1000).diagnostics["k_hat"] for each in (density, DENSITY))
    assert good < 0.2 < poor
    with pytest.warns(UserWarning, match="sd_off|mean_off"):
        infer(banana, torch.zeros(1), method="laplace")


def test_importance_warns_where_the_proposal_is_poor():
    density = ProgramDensity(conjugate, ZERO, torch.ones(1, 1, dtype=torch.float64))
    far = GaussianMixture(
        torch.zeros(1, 1, dtype=torch.float64),
        torch.full((1, 1, 1), 9.0, dtype=torch.float64),
        torch.full((1, 1, 1, 1), 0.3, dtype=torch.float64),
    )
    poor = importance(density, 500, start=far, prior_share=0.0).diagnostics
    assert poor["k_hat"] > 0.7 and poor["poor_weights"] == 1
    assert smc(density, 500, start=far).u.mean().abs() < 1.2  # and SMC comes back from there


def test_warm_start_from_yesterday_takes_one_stage():
    y = torch.randn(2, 50) + 3
    yesterday = infer(noise_and_mean, y[:, :45], method="smc", n_draws=500)
    today = infer(noise_and_mean, y, method="smc", n_draws=500, start=yesterday)
    assert (today.diagnostics["n_stages"] == 1).all()
    assert today.diagnostics["start"] == "GaussianMixture"
    cold = infer(noise_and_mean, y, method="smc", n_draws=500)
    assert (today.mean["mean"] - cold.mean["mean"]).abs().max() < 0.1


def test_a_torch_distribution_is_a_start():
    start = torch.distributions.MultivariateNormal(torch.zeros(1).double(), torch.eye(1).double())
    posterior = infer(conjugate, torch.ones(3), method="smc", start=start, n_draws=2000)
    assert abs(posterior.mean["mean"] - 3 / 3.25) < 0.1
    single = GaussianMixture.from_moments(torch.zeros(1, 1), torch.eye(1)[None])
    for method in ("smc", "hmc", "importance"):
        posterior = infer(conjugate, torch.ones(3), method=method, start=single, n_draws=2000)
        assert abs(posterior.mean["mean"] - 3 / 3.25) < 0.1


def test_next_temperature_moves_though_most_particles_are_dead():
    gain = torch.full((1, 100), -torch.inf, dtype=torch.float64)
    gain[0, :10] = torch.linspace(-1e6, 0, 10, dtype=torch.float64)
    beta = next_temperature(gain, torch.zeros(1, dtype=torch.float64), 0.5)
    assert 0 < beta < 1


def test_more_draws_than_particles_come_from_more_moves():
    density = ProgramDensity(conjugate, ZERO.expand(3, 1, 0), torch.ones(3, 1, dtype=torch.float64))
    draws = smc(density, 1000, n_particles=128)
    assert draws.u.shape == (3, 1000, 1)
    assert (draws.diagnostics["mcse_mean"] < 0.08).all()
    assert (draws.u.mean(1) - 0.8).abs().max() < 0.15


def impossible(x, y=None):
    low = pyro.sample("low", dist.Gamma(1.0, 1.0))
    return pyro.sample("y", dist.Uniform(low + 100, low + 101).expand([1]).to_event(1), obs=y)


DENSITY = ProgramDensity(conjugate, ZERO, torch.ones(1, 1, dtype=torch.float64))
WRONG = {
    "particles": (lambda: smc(DENSITY, n_particles=3), "n_particles >= 16"),
    "ess": (lambda: smc(DENSITY, ess_target=1.5), "ess_target in"),
    "start": (lambda: smc(DENSITY, start="magic"), "Expected start"),
    "share": (lambda: smc(DENSITY, prior_share=2.0), "prior_share in"),
    "impossible": (
        lambda: infer(impossible, torch.ones(1), method="smc"),
        "data that are impossible",
    ),
    "impossible, prior": (
        lambda: infer(impossible, torch.ones(1), method="smc", start="prior"),
        "data that are impossible",
    ),
    "chains": (lambda: hmc(DENSITY, n_chains=9), "multiple of 8"),
    "guide": (lambda: infer(conjugate, torch.ones(1), method="vi", guide="x"), "Expected guide"),
    "start of another size": (
        lambda: infer(
            conjugate,
            torch.ones(1),
            method="smc",
            start=torch.distributions.MultivariateNormal(torch.zeros(2), torch.eye(2)),
        ),
        "Expected a start over u",
    ),
}


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG)
def test_wrong_use_is_refused(wrong):
    call, message = wrong
    with pytest.raises(ValueError, match=message):
        call()


def test_few_draws_are_not_judged_by_themselves():
    """Eight draws of an easy posterior raised doubts, and "auto" went on to chains."""

    def scaled(x, y=None):
        mean = pyro.sample("mean", dist.Normal(0.0, 3.0))
        noise = pyro.sample("noise", dist.LogNormal(0.0, 0.5))
        return pyro.sample("y", dist.Normal(mean, noise).expand([len(x)]).to_event(1), obs=y)

    data = torch.zeros(1, 1), torch.tensor([2.0])
    few, many = (infer(scaled, *data, method="smc", n_draws=n) for n in (8, 512))
    assert few.draws["mean"].shape == (8,) and few.diagnostics["doubt"] == []
    torch.testing.assert_close(few.draws["mean"], many.draws["mean"][:8])
