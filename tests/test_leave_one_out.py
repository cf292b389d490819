"""Leave-one-out densities are ArviZ's and the exact ones, for one dataset and for many."""

import arviz as az
import numpy as np
import oracles
import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy import stats

from amortized.infer.compare import compare

NOISE = 0.5


def polynomial(degree):
    def program(x, y=None):
        powers = torch.stack([x[:, 0] ** k for k in range(degree + 1)], -1)
        w = pyro.sample("w", dist.Normal(torch.zeros(degree + 1), 1.0).to_event(1))
        with pyro.plate("rows", len(x)):
            return pyro.sample("y", dist.Normal(powers @ w, NOISE), obs=y)

    return program


MODELS = {f"degree {d}": polynomial(d) for d in range(3)}
X = torch.linspace(-1, 1, 25, dtype=torch.float64).unsqueeze(-1)
NOISES = torch.randn(2, 25, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
Y = 0.2 + 0.9 * X[:, 0] + NOISE * NOISES


def exact(degree, y):
    """Log density of each observation given the others."""
    design = np.stack([X[:, 0].numpy() ** k for k in range(degree + 1)], -1)
    found, size = [], degree + 1
    for i in range(len(y)):
        keep = np.arange(len(y)) != i
        mean, covariance, _ = oracles.linear_gaussian(
            design[keep], y[keep], np.zeros(size), np.eye(size), NOISE**2 * np.eye(len(y) - 1)
        )
        sd = np.sqrt(design[i] @ covariance @ design[i] + NOISE**2)
        found.append(stats.norm(design[i] @ mean, sd).logpdf(y[i]))
    return np.array(found)


@pytest.mark.parametrize("method", ["exact", "smc"])
def test_one_dataset_is_as_arviz_compares_it(method):
    found = compare(MODELS, X, Y[0], method=method, n_draws=2000)
    data = {name: posterior.to_inference_data() for name, posterior in found.posteriors.items()}
    table = az.compare(data, ic="loo")
    rows = found.loo.summary()
    assert list(rows) == list(table.index)
    for name, row in rows.items():
        theirs = table.loc[name]
        assert row["elpd_loo"] == pytest.approx(theirs["elpd_loo"], abs=1e-3)
        assert row["se"] == pytest.approx(theirs["se"], abs=1e-3)
        assert row["p_loo"] == pytest.approx(theirs["p_loo"], abs=1e-3)
        assert row["difference"] == pytest.approx(theirs["elpd_diff"], abs=2e-3)
        assert row["difference_se"] == pytest.approx(theirs["dse"], abs=2e-3)
        assert bool(row["high_k_hat"]) == theirs["warning"]
        if method == "smc":  # equal draws at the cutoff, which ArviZ counts as outside of the tail
            continue
        k_hat = az.loo(data[name], pointwise=True).pareto_k.values
        ours = found.loo.k_hat[:, found.names.index(name)].numpy()
        tail = np.isfinite(ours)
        np.testing.assert_allclose(ours[tail], k_hat[tail], atol=1e-3)
        assert (k_hat[~tail] < 0.5).all()  # weights that are nearly equal


def test_many_datasets_are_each_near_the_exact_densities():
    found = compare(MODELS, X.expand(2, -1, -1), Y, method="exact", n_draws=20_000)
    assert found.loo.pointwise.shape == (2, 25, 3) and found.loo.elpd.shape == (2, 3)
    expected = np.stack([np.stack([exact(d, y.numpy()) for d in range(3)], -1) for y in Y])
    np.testing.assert_allclose(found.loo.pointwise, expected, atol=0.03)
    np.testing.assert_allclose(found.loo.elpd, expected.sum(1), atol=0.15)
    best = expected.sum(1).argmax(-1)
    terms = expected[np.arange(2), :, best][..., None] - expected
    np.testing.assert_allclose(found.loo.difference, terms.sum(1), atol=0.15)
    np.testing.assert_allclose(found.loo.difference_se, np.sqrt(25 * terms.var(1)), atol=0.05)
    assert "PSIS" not in repr(found) and "2 models" not in repr(found.loo)


def test_an_outlier_is_said_to_be_unreliable():
    y = Y[0].clone()
    y[-1] += 8.0
    found = compare({name: MODELS[name] for name in ("degree 0", "degree 2")}, X, y, n_draws=500)
    assert found.loo.unreliable[1] >= 1
    assert found.loo.summary()["degree 2"]["high_k_hat"] >= 1
    assert "in doubt" in repr(found.loo) and "in doubt" in repr(found)


def test_plots_show_both():
    found = compare(MODELS, X, Y[0], method="exact", n_draws=200)
    left, right = found.plot().figure.axes
    assert "probability" in left.get_xlabel() and "elpd" in right.get_xlabel()
    alone = found.loo.plot()
    assert [label.get_text() for label in alone.get_yticklabels()] == list(MODELS)
    behind = [line.get_xdata()[0] for line in alone.lines if line.get_marker() == "o"]
    assert behind == pytest.approx((-found.loo.difference).tolist())


def joint(x, y=None):
    mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
    law = dist.MultivariateNormal(mean.expand(len(x)), 0.25 * torch.eye(len(x)))
    return pyro.sample("y", law, obs=y)


def test_a_joint_event_is_no_single_observation():
    found = compare({"joint": joint, "rows": MODELS["degree 0"]}, X, Y[0], n_draws=100)
    with pytest.raises(ValueError, match=r"Expected the same single.*'joint': 1, 'rows': 25"):
        _ = found.loo
    assert "LeaveOneOut" not in repr(found) and len(found.plot().figure.axes) == 1


def test_missing_observations_do_not_count():
    y = Y[0].clone()
    y[[3, 10, 11]] = torch.nan
    seen = ~y.isnan()
    with_gaps = compare(MODELS, X, y, method="exact").loo
    without = compare(MODELS, X[seen], y[seen], method="exact").loo
    for name in ("elpd", "se", "p_loo", "difference", "difference_se"):
        torch.testing.assert_close(
            getattr(with_gaps, name), getattr(without, name), atol=0.02, rtol=0.01
        )
    assert "22 observations" in repr(with_gaps) and with_gaps.pointwise[3].isnan().all()
