"""Laws of bijections to supports: they invert, know their Jacobian and stay inside."""

import pyro
import pytest
import torch
from torch.distributions import Normal, Uniform, constraints

from amortized.latent_priors import fit_mixture
from amortized.program.density import ProgramDensity
from amortized.program.support import bijection_to

SUPPORTS = {
    "real": constraints.real,
    "positive": constraints.positive,
    "unit interval": constraints.unit_interval,
    "interval": constraints.interval(-2.0, 5.0),
    "half-open interval": constraints.half_open_interval(0.0, 0.5),
    "box": constraints.independent(constraints.interval(torch.zeros(3), 2.0), 1),
    "simplex": constraints.simplex,
}
each_support = pytest.mark.parametrize("name", SUPPORTS)


@each_support
def test_it_inverts_and_stays_inside(name):
    torch.manual_seed(0)
    bijection, u = bijection_to(SUPPORTS[name]), 2 * torch.randn(50, 3, dtype=torch.float64)
    value = bijection(u)
    assert SUPPORTS[name].check(value).all()
    assert torch.allclose(bijection.inv(value), u, atol=1e-6)


@each_support
def test_jacobian_is_that_of_the_map(name):
    torch.manual_seed(0)
    bijection, u = bijection_to(SUPPORTS[name]), torch.randn(3, dtype=torch.float64)
    if name == "simplex":
        matrix = torch.func.jacrev(lambda u: bijection(u)[:-1])(u)
    else:
        matrix = torch.func.jacrev(bijection)(u)
    stated = bijection.log_abs_det_jacobian(u, bijection(u)).sum()
    assert torch.allclose(torch.linalg.slogdet(matrix)[1], stated)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "ends", [(0.0, 1.0), (-1.0, 1.0), (-2.0, 5.0), (-3.0, 0.0), (100.0, 101.0)]
)
def test_far_out_it_is_still_inside_an_interval(ends, dtype):
    bijection = bijection_to(constraints.interval(*ends))
    value = bijection(torch.tensor([-1e3, -40.0, -6.0, 6.0, 40.0, 1e3], dtype=dtype))
    assert ((value > ends[0]) & (value < ends[1])).all()
    assert bijection.inv(torch.tensor(ends, dtype=dtype)).isfinite().all()


def test_a_uniform_prior_is_the_standard_normal():
    def program(x, y=None):
        width = pyro.sample("width", pyro.distributions.Uniform(1.0, 4.0))
        return pyro.sample(
            "y", pyro.distributions.Normal(width, 1.0).expand([2]).to_event(1), obs=y
        )

    density = ProgramDensity(program, torch.zeros(1, 2, 0), torch.zeros(1, 2))
    u = torch.linspace(-3, 3, 7).reshape(1, 7, 1)
    assert torch.allclose(density.log_prior(u), Normal(0.0, 1.0).log_prob(u[..., 0]), atol=1e-5)
    mixture = fit_mixture(Uniform(1.0, 4.0))
    assert mixture.n_components == 1 and mixture.mean == 0 and mixture.variance == 1
