"""Posteriors of programs as tables, files and ArviZ's object, whatever the method."""

import math
import pickle
import warnings

import arviz as az
import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch

from amortized.infer import infer
from amortized.posterior import Posterior

X = torch.linspace(-1, 1, 12, dtype=torch.float64).unsqueeze(-1)
Y = 0.8 * X[:, 0] + 0.4 * torch.randn(12, generator=torch.Generator().manual_seed(5)).double()


OPTIONS = {"nuts": {"n_warmup": 100, "n_chains": 2}, "vi": {"n_steps": 300, "learning_rate": 0.05}}


def line(x, y=None):
    slope = pyro.sample("slope", dist.Normal(0.0, 1.0))
    with pyro.plate("rows", len(x)):
        return pyro.sample("y", dist.Normal(slope * x[:, 0], 0.5), obs=y)


def switches(x, y=None):
    slope = pyro.sample("slope", dist.Normal(0.0, 1.0))
    with pyro.plate("rows", len(x)):
        z = pyro.sample("z", dist.Bernoulli(0.2))
        return pyro.sample("y", dist.Normal(slope * x[:, 0] + z, 0.5), obs=y)


def named(inputs, heights=None):
    slope = pyro.sample("slope", dist.Normal(0.0, 1.0))
    with pyro.plate("rows", len(inputs)):
        pyro.sample("heights", dist.Normal(slope * inputs, 0.5), obs=heights)


def leave_one_out():
    """Exact: the predictive density of each row given the others, for `line`."""
    total = 0.0
    for i in range(12):
        keep = torch.arange(12) != i
        precision = 1 + (X[keep, 0] ** 2).sum() / 0.25
        mean = (X[keep, 0] * Y[keep]).sum() / 0.25 / precision
        sd = (0.25 + X[i, 0] ** 2 / precision).sqrt()
        total += dist.Normal(mean * X[i, 0], sd).log_prob(Y[i])
    return total


@pytest.mark.parametrize("method", ["exact", "smc", "nuts", "hmc", "laplace", "importance", "vi"])
def test_loo_of_every_method(method):
    posterior = infer(line, X, Y, method=method, n_draws=1000, **OPTIONS.get(method, {}))
    data = posterior.to_inference_data()
    loo = az.loo(data)
    assert abs(loo.elpd_loo - leave_one_out()) < 0.25 and loo.n_data_points == 12
    assert az.summary(data, kind="stats").loc["slope", "mean"] == pytest.approx(
        posterior.mean["slope"].item(), abs=0.05
    )
    np.testing.assert_allclose(data.observed_data["y"], Y)
    np.testing.assert_allclose(data.constant_data["x"], X)
    drawn = data.posterior_predictive["y"].mean(("chain", "draw")).values
    slope, spread = posterior.mean["slope"].item(), 5 * 0.6 / math.sqrt(1000)
    assert (abs(drawn - slope * X[:, 0].numpy()) < spread + 0.05).all()


def test_the_log_density_of_the_draws():
    posterior = infer(line, X, Y, method="exact", n_draws=100)
    lp = posterior.to_inference_data().sample_stats["lp"].values[0]
    expected = posterior.log_prob(posterior.draws) + posterior.log_evidence
    np.testing.assert_allclose(lp, expected, rtol=1e-6)


@pytest.mark.parametrize("in_plate", [False, True])
def test_the_log_density_is_joint_in_the_discrete_latents_that_are_given(in_plate):
    def two_switches(x, y=None):
        z = pyro.sample("z", dist.Bernoulli(0.2))
        k = pyro.sample("k", dist.Categorical(torch.tensor([0.3, 0.5, 0.2]).double()))
        m = pyro.sample("m", dist.LogNormal(0.0, 1.0))
        pyro.deterministic("double", 2 * m)
        law = dist.Normal(m + z + 2 * k, 0.5)
        if not in_plate:
            return pyro.sample("y", law.expand([len(x)]).to_event(1), obs=y)
        with pyro.plate("rows", len(x)):
            return pyro.sample("y", law, obs=y)

    posterior = infer(two_switches, X, Y, method="importance", n_draws=50)
    m = torch.tensor([0.1, 0.4]).double()
    joint = torch.stack(
        [
            torch.stack(
                [
                    dist.LogNormal(0.0, 1.0).log_prob(m)
                    + math.log([0.8, 0.2][z] * [0.3, 0.5, 0.2][k])
                    + dist.Normal(m + z + 2 * k, 0.5).log_prob(Y[:, None]).sum(0)
                    for k in range(3)
                ]
            )
            for z in range(2)
        ]
    )
    joint -= posterior.log_evidence
    z, k = torch.tensor([1.0, 0.0]), torch.tensor([0, 1])
    close = torch.testing.assert_close
    close(posterior.log_prob({"m": m}), joint.logsumexp((0, 1)))
    close(posterior.log_prob({"m": m, "z": z}), joint.logsumexp(1)[z.long(), [0, 1]])
    close(posterior.log_prob({"m": m, "z": z, "k": k, "double": 2 * m}), joint[z.long(), k, [0, 1]])
    assert (posterior.log_prob({"m": m, "z": z + 0.5}) == -math.inf).all()
    assert (posterior.log_prob({"m": -m, "z": z}) == -math.inf).all()
    with pytest.raises(ValueError, match=r"latents \['k', 'm', 'z'\]; got \['q'\]"):
        posterior.log_prob({"m": m, "q": m})


def test_the_log_density_of_the_rows_switches():
    posterior = infer(switches, X, Y, method="importance", n_draws=50)
    z = torch.zeros(12).double()
    z[[3, 5]] = 1
    slope = torch.tensor(0.4).double()
    expected = dist.Normal(0.0, 1.0).log_prob(slope) + dist.Bernoulli(0.2).log_prob(z).sum()
    expected += dist.Normal(slope * X[:, 0] + z, 0.5).log_prob(Y).sum()
    ours = posterior.log_prob({"slope": slope, "z": z}) + posterior.log_evidence
    torch.testing.assert_close(ours, expected)


def test_arviz_1_gets_all_groups_in_one_mapping(monkeypatch):
    """Its `from_dict` takes ``{group: {name: (chain, draw, ...)}}``, where 0.2x takes keywords."""
    posterior = infer(line, X, Y, method="exact", n_draws=100)
    with monkeypatch.context() as patched:
        patched.setattr(az, "__version__", "1.3.0")
        patched.setattr(az, "from_dict", lambda groups: groups)
        groups = posterior.to_inference_data()
    data = posterior.to_inference_data()
    assert set(groups) == set(data.groups())
    for group, values in groups.items():
        for name, value in values.items():
            np.testing.assert_array_equal(value, data[group][name].values)


def test_predictive_checks_are_plotted():
    import matplotlib

    matplotlib.use("Agg")
    data = infer(line, X, Y, n_draws=100).to_inference_data()
    assert az.plot_ppc(data, num_pp_samples=10) is not None


def test_log_likelihoods_of_rows_with_switches_sum_over_them():
    posterior = infer(switches, X, Y, method="smc", n_draws=300)
    data = posterior.to_inference_data()
    slope = posterior.draws["slope"].unsqueeze(-1)
    terms = [
        math.log(p) + dist.Normal(slope * X[:, 0] + z, 0.5).log_prob(Y)
        for z, p in ((0, 0.8), (1, 0.2))
    ]
    expected = torch.stack(terms).logsumexp(0)
    np.testing.assert_allclose(data.log_likelihood["y"].values[0], expected, rtol=1e-6)
    assert data.posterior["z"].shape == (1, 300, 12)


def test_named_data_have_their_names():
    posterior = infer(named, data={"inputs": X[:, 0], "heights": Y}, n_draws=200)
    data = posterior.to_inference_data()
    assert set(data.constant_data) == {"inputs"} and set(data.observed_data) == {"heights"}
    assert az.loo(data).elpd_loo == pytest.approx(leave_one_out().item(), abs=0.4)


def test_batches_keep_their_dimension():
    data = infer(line, X.expand(3, 12, 1), Y.expand(3, 12), n_draws=50).to_inference_data()
    assert data.log_likelihood["y"].shape == (1, 50, 3, 12)


def test_draws_by_name_and_as_a_table():
    posterior = infer(switches, X, Y, method="smc", n_draws=64)
    assert torch.equal(posterior["slope"], posterior.draws["slope"])
    with pytest.raises(KeyError, match="among.*slope.*got 'b'"):
        posterior["b"]
    frame = posterior.to_dataframe()
    assert list(frame) == ["slope", *(f"z[{i}]" for i in range(12))] and len(frame) == 64
    np.testing.assert_allclose(frame["z[3]"], posterior["z"][:, 3])
    weighted = Posterior({"a": torch.arange(3.0)}, log_weights=torch.tensor([0.0, 9.0, 0.0]))
    assert (weighted["a"] == 1).float().mean() > 0.5 and len(weighted.to_dataframe()) == 3


def test_print_says_what_it_leaves_out():
    posterior = Posterior({"a": torch.randn(50, 45)})
    assert repr(posterior).splitlines()[-1] == "... 5 of 45 rows more: see summary()"
    assert "more" not in repr(Posterior({"a": torch.randn(50, 40)}))


@pytest.mark.parametrize("method", ["exact", "smc", "importance"])
def test_a_file_holds_the_answer(method, tmp_path):
    posterior = infer(line, X, Y, method=method, n_draws=200)
    again = Posterior.load(posterior.save(tmp_path / "a.safetensors"))
    for name, value in posterior.sample(50, seed=1).items():
        assert torch.equal(value, again.sample(50, seed=1)[name])
    assert repr(again) == repr(posterior)
    assert again.diagnostics["method"] == method
    assert (again.log_evidence is None) == (posterior.log_evidence is None)
    ours, theirs = az.loo(again.to_inference_data()), az.loo(posterior.to_inference_data())
    assert ours.elpd_loo == pytest.approx(theirs.elpd_loo)
    with pytest.raises(ValueError, match="from a program"):
        again.predictive(X)


def test_a_file_keeps_the_probabilities_of_discrete_latents(tmp_path):
    posterior = infer(switches, X.expand(2, 12, 1), Y.expand(2, 12), method="smc", n_draws=50)
    again = Posterior.load(posterior.save(tmp_path / "a.safetensors"))
    assert torch.equal(again.probabilities("z"), posterior.probabilities("z"))
    assert again.batch_shape == (2,) and again.summary() == posterior.summary()


def test_files_that_are_no_posteriors_are_refused(tmp_path):
    path = tmp_path / "a.safetensors"
    with pytest.raises(FileNotFoundError):
        Posterior.load(path)
    path.write_bytes(b"something else")
    with pytest.raises(ValueError, match="Expected .* a saved posterior"):
        Posterior.load(path)
    posterior = infer(line, X, Y, n_draws=20)
    with pytest.raises(ValueError, match="another at"):
        posterior.save(path)
    assert path.read_bytes() == b"something else"
    path.unlink()
    content = bytearray(posterior.save(path).read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(ValueError, match="checksum"):
        Posterior.load(path)


def test_an_answer_with_discrete_latents_pickles():
    posterior = infer(switches, X, Y, method="smc", n_draws=20)
    again = pickle.loads(pickle.dumps(posterior))
    assert torch.equal(again.probabilities("z"), posterior.probabilities("z"))


def test_what_arviz_reads_raises_no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        infer(line, X, Y, n_draws=20).to_inference_data()
