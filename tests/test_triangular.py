"""Factors as numbers: zeros are no change, every entry counts, and correlations can be learned."""

import pytest
import torch

from amortized.networks.layers.triangular import described, n_answered, n_read, triangular

DIMS = [1, 2, 10, 11, 30]


@pytest.mark.parametrize("dim", DIMS)
def test_matrices_are_lower_triangular_and_zero_where_the_numbers_are(dim):
    torch.manual_seed(0)
    entries = torch.randn(3, 4, n_answered(dim))
    matrix = triangular(entries, dim)
    assert matrix.shape == (3, 4, dim, dim)
    assert torch.equal(matrix, matrix.tril())
    assert not triangular(0 * entries, dim).any()


@pytest.mark.parametrize("dim", DIMS)
def test_numbers_of_zero_learn(dim):
    """The gradient reaches the diagonal and below it before anything has moved."""
    entries = torch.zeros(n_answered(dim), requires_grad=True)
    triangular(entries, dim).sum().backward()
    assert entries.grad[:dim].any()
    assert dim == 1 or (entries.grad != 0).sum() > dim


@pytest.mark.parametrize("dim", DIMS)
def test_descriptions_tell_factors_apart(dim):
    torch.manual_seed(0)
    factor = 0.3 * torch.randn(dim, dim).tril(-1) + torch.diag(1 + torch.rand(dim))
    said = described(factor)
    assert said.shape == (n_read(dim),)
    assert torch.allclose(said[:dim], factor.diagonal().log())
    for i, j in torch.tril_indices(dim, dim).T[:: max(1, dim // 3)].tolist():
        other = factor.clone()
        other[i, j] += 0.5
        assert not torch.allclose(described(other), said, atol=1e-4)


def test_a_correlation_along_one_direction_is_learned_in_twenty_dimensions():
    """The factor of I + 3 v v' to a tenth of its distance from the identity's, by the gradient."""
    torch.manual_seed(0)
    v = torch.nn.functional.normalize(torch.randn(20), dim=0)
    covariance = torch.eye(20) + 3 * torch.outer(v, v)
    entries = torch.zeros(n_answered(20), requires_grad=True)
    optimizer = torch.optim.Adam([entries], lr=0.03)

    def divergence():
        """From N(0, covariance) to the answer's."""
        factor = triangular(entries, 20)
        factor = factor.tril(-1) + torch.diag_embed(factor.diagonal().exp())
        white = torch.linalg.solve_triangular(
            factor, torch.linalg.cholesky(covariance), upper=False
        )
        log_det = torch.logdet(covariance) - 2 * entries[:20].sum()
        return 0.5 * (white.square().sum() - 20 - log_det)

    before = divergence().item()
    for _ in range(300):
        optimizer.zero_grad()
        divergence().backward()
        optimizer.step()
    assert divergence().item() < 0.1 * before
