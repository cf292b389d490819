"""Predictives of rows that depend on each other know the data, or are refused."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy import stats

from amortized import BayesianRegressor, infer

X = torch.linspace(0, 3, 6, dtype=torch.float64).unsqueeze(-1)
Y = torch.tensor([1.0, 2.0, 2.8, 2.9, 2.2, 1.1], dtype=torch.float64)
NEW = torch.tensor([[0.3], [1.4]], dtype=torch.float64)


def factor(x):
    """The columns 1 and x, whose random coefficients make rows depend on each other."""
    return 2.0 * torch.cat([torch.ones_like(x), x], -1)


def low_rank(x):
    return dist.LowRankMultivariateNormal(x.new_zeros(len(x)), factor(x), 0.3 + x.new_zeros(len(x)))


def full(x):
    law = low_rank(x)
    return dist.MultivariateNormal(law.mean, law.covariance_matrix)


def student(x):
    scale = torch.linalg.cholesky(low_rank(x).covariance_matrix)
    return dist.MultivariateStudentT(3.0, x.new_zeros(len(x)), scale)


def wrapped(x):
    return dist.Independent(low_rank(x), 0).mask(True)


def program_of(law):
    def program(x, y=None):
        scale = pyro.sample("scale", dist.LogNormal(0.0, 1e-6))
        return pyro.sample("y", law(x * scale), obs=y)

    return program


def normal_given():
    joint = low_rank(torch.cat([X, NEW])).covariance_matrix
    gain = joint[6:, :6] @ joint[:6, :6].inverse()
    return gain @ Y, (joint[6:, 6:] - gain @ joint[:6, 6:]).diagonal()


@pytest.mark.parametrize("law", [low_rank, full, wrapped])
def test_normal_laws_condition_on_the_data(law):
    predictive = infer(program_of(law), X, Y, method="laplace", n_draws=20).predictive(NEW)
    mean, variance = normal_given()
    torch.testing.assert_close(predictive.mean, mean, rtol=0, atol=1e-4)
    torch.testing.assert_close(predictive.variance, variance, rtol=1e-4, atol=0)


def test_student_law_conditions_on_the_data():
    """Against the ratio of the joint density and that of the data."""
    predictive = infer(program_of(student), X, Y, method="laplace", n_draws=20).predictive(NEW)
    values = torch.tensor([[1.0, 2.0], [2.0, 3.5]], dtype=torch.float64)
    for j in range(2):
        x = torch.cat([X, NEW[j : j + 1]])
        shape, known = low_rank(x).covariance_matrix, low_rank(X).covariance_matrix
        below = stats.multivariate_t.logpdf(Y.numpy(), shape=known.numpy(), df=3.0)
        for value in values[:, j]:
            both = torch.cat([Y, value.reshape(1)]).numpy()
            expected = stats.multivariate_t.logpdf(both, shape=shape.numpy(), df=3.0) - below
            ours = predictive.log_prob(value.expand(2))[j].item()
            assert abs(ours - expected) < 1e-3
    level = torch.full((2,), 0.9, dtype=torch.float64)
    torch.testing.assert_close(predictive.cdf(predictive.icdf(level)), level, rtol=0, atol=1e-3)


def exponential_of_normals(x):
    return dist.TransformedDistribution(low_rank(x), [dist.transforms.ExpTransform()])


def mixture_of_joint_laws(x):
    rows = dist.Normal(torch.stack([x[:, 0], -x[:, 0]]), 1.0).to_event(1)
    return dist.MixtureSameFamily(dist.Categorical(torch.ones(2)), rows)


@pytest.mark.parametrize("law", [exponential_of_normals, mixture_of_joint_laws])
def test_other_joint_laws_are_refused(law):
    posterior = infer(program_of(law), X, Y, method="laplace", n_draws=20)
    with pytest.raises(ValueError, match="cannot be conditioned on the data"):
        posterior.predictive(NEW)


def float32_constants(x, y=None):
    """Matrix products take no two precisions."""
    weights = pyro.sample("weights", dist.Normal(torch.zeros(2), 1.0).to_event(1))
    design = x @ torch.ones(1, 2)
    mean = design @ weights + torch.tensor([0.5]) * torch.ones(len(x))
    return pyro.sample("y", dist.Normal(mean, torch.tensor(1.0)).to_event(1), obs=y)


def if_on_a_latent(x, y=None):
    slope = pyro.sample("slope", dist.Normal(0.0, 1.0))
    kink = 1.0 if slope < 0 else 2.0
    return pyro.sample("y", dist.Normal(kink * slope * x[:, 0], 1.0).to_event(1), obs=y)


def test_constants_may_be_float32():
    estimator = BayesianRegressor(float32_constants, random_state=0).fit(X.numpy(), Y.numpy())
    # The sum of the weights, of N(0, 2), is the slope.
    slope = (X[:, 0] @ (Y - 0.5)) / (X.square().sum() + 0.5)
    expected = 0.5 + (slope * NEW[:, 0]).numpy()
    assert abs(estimator.predict(NEW.numpy()) - expected).max() < 0.1


@pytest.mark.filterwarnings("ignore:The program's density cannot be computed")
def test_a_predictive_that_cannot_be_vectorised_is_read_off_one_by_one():
    posterior = infer(if_on_a_latent, X, Y, method="importance", n_draws=50)
    draws, log_weights = posterior.weighted_draws()
    kink = torch.where(draws["slope"] < 0, 1.0, 2.0) * draws["slope"]
    expected = (log_weights.exp() * kink).sum() * NEW[:, 0]
    torch.testing.assert_close(posterior.predictive(NEW).mean, expected)


def test_rows_are_conditioned_in_any_units():
    """Of targets in units of 1e-9 the variances are below 1e-12, which is no rounding error."""

    def program(x, y=None):
        scale = pyro.sample("scale", dist.LogNormal(0.0, 1e-6))
        law = full(x * scale)
        return pyro.sample(
            "y", dist.MultivariateNormal(law.mean, 1e-18 * law.covariance_matrix), obs=y
        )

    predictive = infer(program, X, 1e-9 * Y, method="laplace", n_draws=20).predictive(NEW)
    mean, variance = normal_given()
    torch.testing.assert_close(1e9 * predictive.mean, mean, rtol=0, atol=1e-4)
    torch.testing.assert_close(1e18 * predictive.variance, variance, rtol=1e-4, atol=0)
