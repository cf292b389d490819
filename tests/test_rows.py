"""The program's own observation decides what one dataset is."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch

from amortized.infer import infer
from amortized.program.vectorised import precision

N, SD = 30, 0.5
POINTS = torch.randn(N, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) + 1.0


def points(x, y=None):
    mean = pyro.sample("mean", dist.Normal(torch.zeros(2), 1.0).to_event(1))
    with pyro.plate("rows", len(x)):
        return pyro.sample("y", dist.Normal(mean, SD).to_event(1), obs=y)


def points_as_one_event(x, y=None):
    mean = pyro.sample("mean", dist.Normal(torch.zeros(2), 1.0).to_event(1))
    return pyro.sample("y", dist.Normal(mean, SD).expand([len(x), 2]).to_event(2), obs=y)


def points_of_a_joint_law(x, y=None):
    mean = pyro.sample("mean", dist.Normal(torch.zeros(2), 1.0).to_event(1))
    with pyro.plate("rows", len(x)):
        law = dist.MultivariateNormal(mean, SD**2 * torch.eye(2))
        return pyro.sample("y", law, obs=y)


def numbers(x, y=None):
    mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
    return pyro.sample("y", dist.Normal(mean, SD).expand([len(x)]).to_event(1), obs=y)


def closed_form(y):
    """Mean and sd of a normal's mean under N(0, 1), and the evidence, of each column's n values."""
    n, total = len(y), y.sum(0)
    precision = 1 + n / SD**2
    log_evidence = -n * math.log(SD * math.sqrt(2 * math.pi)) - 0.5 * math.log(precision)
    log_evidence = log_evidence - y.square().sum(0) / (2 * SD**2)
    return (
        total / SD**2 / precision,
        precision**-0.5,
        log_evidence + (total / SD**2) ** 2 / (2 * precision),
    )


@pytest.mark.parametrize("program", [points, points_as_one_event, points_of_a_joint_law])
@pytest.mark.parametrize("method", ["auto", "laplace"])
@pytest.mark.parametrize("with_x", [False, True])
def test_rows_may_be_vectors(program, method, with_x):
    data = (torch.zeros(N, 0), POINTS) if with_x else (POINTS,)
    posterior = infer(program, *data, method=method, n_draws=4000)
    assert posterior.batch_shape == () and posterior.mean["mean"].shape == (2,)
    mean, sd, evidence = closed_form(POINTS)
    assert ((posterior.mean["mean"] - mean).abs() < 5 * sd / math.sqrt(4000)).all()
    assert abs(posterior.log_evidence - evidence.sum()) < 1e-3
    with pytest.raises(ValueError, match="one number per row for a predictive"):
        posterior.predictive(torch.zeros(3, 0))


def test_datasets_of_vectors():
    y = torch.stack([POINTS, POINTS + 1.0, POINTS - 2.0])
    posterior = infer(points, y)
    assert posterior.batch_shape == (3,)
    expected = torch.stack([closed_form(each)[2].sum() for each in y])
    torch.testing.assert_close(posterior.log_evidence, expected)


def test_datasets_of_numbers():
    posterior = infer(numbers, POINTS)
    assert posterior.batch_shape == (N,)
    torch.testing.assert_close(posterior.log_evidence, closed_form(POINTS.T)[2])


@pytest.mark.parametrize("method", ["auto", "smc"])
def test_a_column_of_answers_is_refused(method):
    with pytest.raises(ValueError, match=r"\(30,\) for one dataset.*got \(30, 1\).*y\[:, 0\]"):
        infer(numbers, torch.zeros(N, 1), POINTS[:, :1], method=method)


@pytest.mark.parametrize(
    ("method", "option", "valid"),
    [("smc", "n_particle", "n_particles"), ("auto", "n_warmup", "n_particles"), ("exact", "a", "")],
)
def test_an_unknown_option_is_answered_by_the_valid_ones(method, option, valid):
    with pytest.raises(TypeError, match=f"options of method '{method}'.*{valid}.*{option}"):
        infer(numbers, POINTS[:, 0], method=method, **{option: 1})


def test_constants_are_as_precise_as_asked():
    with precision(torch.float64):
        assert torch.tensor(1.0).dtype == torch.float64
    assert torch.tensor(1.0).dtype == torch.float32
