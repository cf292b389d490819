"""Programs as the tutorials of Pyro, NumPyro, PyMC and Stan have them, with tiny data.

Each is written anew in plain Pyro, with the arguments and names that its tutorial has.
"""

# ruff: noqa: ANN001, ANN201, D103, N802, N803, N806 - as people write programs

import math
from collections.abc import Callable, Mapping
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch import Tensor

Entry = tuple[Callable[..., Any], Mapping[str, Any]]

_GENERATOR = torch.Generator().manual_seed(0)


def _normal(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=_GENERATOR, dtype=torch.float64)


def _uniform(*shape: int) -> Tensor:
    return torch.rand(*shape, generator=_GENERATOR, dtype=torch.float64)


def eight_schools(J, sigma, y=None):
    mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
    tau = pyro.sample("tau", dist.HalfCauchy(5.0))
    with pyro.plate("J", J):
        eta = pyro.sample("eta", dist.Normal(0.0, 1.0))
        theta = pyro.deterministic("theta", mu + tau * eta)
        return pyro.sample("y", dist.Normal(theta, sigma), obs=y)


def terrain(is_cont_africa, ruggedness, log_gdp=None):
    a = pyro.sample("a", dist.Normal(0.0, 10.0))
    b_a = pyro.sample("bA", dist.Normal(0.0, 1.0))
    b_r = pyro.sample("bR", dist.Normal(0.0, 1.0))
    b_ar = pyro.sample("bAR", dist.Normal(0.0, 1.0))
    sigma = pyro.sample("sigma", dist.Uniform(0.0, 10.0))
    mean = a + b_a * is_cont_africa + b_r * ruggedness + b_ar * is_cont_africa * ruggedness
    with pyro.plate("data", len(ruggedness)):
        return pyro.sample("obs", dist.Normal(mean, sigma), obs=log_gdp)


def logistic_regression(data, labels=None):
    coefs = pyro.sample("beta", dist.Normal(torch.zeros(3), torch.ones(3)).to_event(1))
    return pyro.sample("y", dist.Bernoulli(logits=(coefs * data).sum(-1)).to_event(1), obs=labels)


def baseball(at_bats, hits=None):
    m = pyro.sample("m", dist.Uniform(0.0, 1.0))
    kappa = pyro.sample("kappa", dist.Pareto(1.0, 1.5))
    with pyro.plate("num_players", len(at_bats)):
        phi = pyro.sample("phi", dist.Beta(m * kappa, (1 - m) * kappa))
        return pyro.sample("obs", dist.Binomial(at_bats, probs=phi), obs=hits)


def radon(county, floor, n_counties, log_radon=None):
    mu_a = pyro.sample("mu_a", dist.Normal(0.0, 10.0))
    sigma_a = pyro.sample("sigma_a", dist.HalfCauchy(5.0))
    with pyro.plate("counties", n_counties):
        a = pyro.sample("a", dist.Normal(mu_a, sigma_a))
    b = pyro.sample("b", dist.Normal(0.0, 10.0))
    sigma = pyro.sample("sigma", dist.HalfCauchy(5.0))
    with pyro.plate("houses", len(county)):
        return pyro.sample("y", dist.Normal(a[county] + b * floor, sigma), obs=log_radon)


def coal_disasters(years, disasters=None):
    n = len(years)
    switch = pyro.sample("switchpoint", dist.Categorical(torch.ones(n) / n))
    early = pyro.sample("early_rate", dist.Exponential(1.0))
    late = pyro.sample("late_rate", dist.Exponential(1.0))
    with pyro.plate("years", n):
        rate = torch.where(torch.arange(n) < switch.unsqueeze(-1), early, late)
        pyro.sample("disasters", dist.Poisson(rate), obs=disasters)


def gaussian_mixture(data, K):
    weights = pyro.sample("weights", dist.Dirichlet(0.5 * torch.ones(K)))
    scale = pyro.sample("scale", dist.LogNormal(0.0, 2.0))
    with pyro.plate("components", K):
        locs = pyro.sample("locs", dist.Normal(0.0, 10.0))
    with pyro.plate("data", len(data)):
        assignment = pyro.sample("assignment", dist.Categorical(weights))
        pyro.sample("obs", dist.Normal(locs[assignment], scale), obs=data)


def hidden_markov(sequence, hidden_dim):
    with pyro.plate("states", hidden_dim):
        probs_x = pyro.sample("probs_x", dist.Dirichlet(0.9 * torch.eye(hidden_dim) + 0.1))
        locs = pyro.sample("locs", dist.Normal(0.0, 3.0))
    x = 0
    for t in pyro.markov(range(len(sequence))):
        x = pyro.sample(f"x_{t}", dist.Categorical(probs_x[x]))
        pyro.sample(f"y_{t}", dist.Normal(locs[x], 1.0), obs=sequence[t])


def zero_inflated_poisson(count):
    psi = pyro.sample("psi", dist.Beta(1.0, 1.0))
    rate = pyro.sample("lam", dist.Gamma(2.0, 0.1))
    with pyro.plate("data", len(count)):
        pyro.sample("y", dist.ZeroInflatedPoisson(rate, gate=1 - psi), obs=count)


def ordinal(x, rating=None):
    beta = pyro.sample("beta", dist.Normal(0.0, 1.0))
    ordered = dist.TransformedDistribution(
        dist.Normal(torch.zeros(3), 2.0).to_event(1), dist.transforms.OrderedTransform()
    )
    cutpoints = pyro.sample("cutpoints", ordered)
    with pyro.plate("data", len(x)):
        pyro.sample("rating", dist.OrderedLogistic(beta * x, cutpoints), obs=rating)


def censored_weibull(t, event):
    alpha = pyro.sample("alpha", dist.HalfNormal(2.0))
    beta = pyro.sample("beta", dist.LogNormal(1.0, 1.0))
    with pyro.plate("patients", len(t)):
        with pyro.poutine.mask(mask=event > 0):
            pyro.sample("dead", dist.Weibull(beta, alpha), obs=t)
    pyro.factor("alive", (-((t / beta) ** alpha) * (1 - event)).sum())


def tobit(x, y, limit):
    slope = pyro.sample("slope", dist.Normal(0.0, 1.0))
    sigma = pyro.sample("sigma", dist.HalfNormal(1.0))
    law = dist.Normal(slope * x, sigma)
    log_p = torch.where(y < limit, law.log_prob(y), (1 - law.cdf(torch.tensor(limit))).log())
    with pyro.plate("data", len(x)):
        pyro.factor("censored", log_p)


def item_response(student, question, n_students, n_questions, y=None):
    with pyro.plate("students", n_students):
        ability = pyro.sample("ability", dist.Normal(0.0, 1.0))
    with pyro.plate("questions", n_questions):
        difficulty = pyro.sample("difficulty", dist.Normal(0.0, 1.0))
        discrimination = pyro.sample("discrimination", dist.LogNormal(0.0, 0.5))
    logits = discrimination[question] * (ability[student] - difficulty[question])
    with pyro.plate("answers", len(student)):
        pyro.sample("y", dist.Bernoulli(logits=logits), obs=y)


def capture_recapture(capture_history):
    n, n_times = capture_history.shape
    phi = pyro.sample("phi", dist.Uniform(0.0, 1.0))
    rho = pyro.sample("rho", dist.Uniform(0.0, 1.0))
    with pyro.plate("animals", n):
        z = torch.ones(n)
        first_capture = torch.zeros(n, dtype=torch.bool)
        for t in pyro.markov(range(n_times)):
            with pyro.poutine.mask(mask=first_capture):
                z = pyro.sample(f"z_{t}", dist.Bernoulli(torch.where(first_capture, phi * z, 1.0)))
                pyro.sample(f"y_{t}", dist.Bernoulli(rho * z), obs=capture_history[:, t])
            first_capture = first_capture | (capture_history[:, t] > 0)


def topics(doc, words, n_docs, n_words, n_topics):
    with pyro.plate("topics", n_topics):
        phi = pyro.sample("phi", dist.Dirichlet(torch.ones(n_words)))
    with pyro.plate("documents", n_docs):
        theta = pyro.sample("theta", dist.Dirichlet(torch.ones(n_topics)))
    with pyro.plate("tokens", len(words)):
        z = pyro.sample("z", dist.Categorical(theta[doc]))
        pyro.sample("words", dist.Categorical(phi[z]), obs=words)


def horseshoe(X, Y=None):
    lambdas = pyro.sample("lambdas", dist.HalfCauchy(torch.ones(X.shape[1])).to_event(1))
    tau = pyro.sample("tau", dist.HalfCauchy(1.0))
    betas = pyro.sample("betas", dist.Normal(0.0, tau * lambdas).to_event(1))
    precision = pyro.sample("prec_obs", dist.Gamma(3.0, 1.0))
    with pyro.plate("data", len(X)):
        pyro.sample("Y", dist.Normal(X @ betas, precision.rsqrt()), obs=Y)


def impute_age(age, survived=None):
    """Titanic: a missing covariate is drawn, and takes the place of NaN."""
    mu = pyro.sample("age_mu", dist.Normal(0.0, 1.0))
    sigma = pyro.sample("age_sigma", dist.HalfNormal(1.0))
    missing = torch.isnan(age)
    with pyro.plate("missing", 2):
        drawn = pyro.sample("age_impute", dist.Normal(mu, sigma))
    index = (missing.cumsum(0) - 1).clamp(min=0)
    age = torch.where(missing, drawn[index], age)
    b = pyro.sample("b_age", dist.Normal(0.0, 1.0))
    with pyro.plate("passengers", len(age)):
        pyro.sample("age", dist.Normal(mu, sigma).mask(~missing), obs=age)
        pyro.sample("survived", dist.Bernoulli(logits=b * age), obs=survived)


def lkj_covariance(y):
    d = y.shape[1]
    theta = pyro.sample("theta", dist.HalfCauchy(torch.ones(d)).to_event(1))
    L_omega = pyro.sample("L_omega", dist.LKJCholesky(d, torch.ones(())))
    L = torch.diag(theta.sqrt()) @ L_omega
    with pyro.plate("observations", len(y)):
        pyro.sample("obs", dist.MultivariateNormal(torch.zeros(d), scale_tril=L), obs=y)


def autoregressive(y):
    alpha = pyro.sample("alpha", dist.Normal(0.0, 10.0))
    beta = pyro.sample("beta", dist.Normal(0.0, 1.0))
    sigma = pyro.sample("sigma", dist.HalfCauchy(1.0))
    with pyro.plate("steps", len(y) - 1):
        pyro.sample("y", dist.Normal(alpha + beta * y[:-1], sigma), obs=y[1:])


def stochastic_volatility(returns):
    step_size = pyro.sample("sigma", dist.Exponential(50.0))
    nu = pyro.sample("nu", dist.Exponential(0.1))
    n = len(returns)
    steps = pyro.sample("steps", dist.Normal(torch.zeros(n), 1.0).to_event(1))
    s = pyro.deterministic("s", step_size * steps.cumsum(-1))
    pyro.sample("r", dist.StudentT(nu, 0.0, s.exp()).to_event(1), obs=returns)


def local_level(y):
    """A random walk in a loop, each step a site of its own, some of it unseen."""
    drift = pyro.sample("drift", dist.HalfNormal(1.0))
    level = pyro.sample("level_0", dist.Normal(0.0, 2.0))
    for t in range(len(y)):
        if t > 0:
            level = pyro.sample(f"level_{t}", dist.Normal(level, drift))
        pyro.sample(f"y_{t}", dist.Normal(level, 0.5), obs=y[t])


def splines(basis, blossom=None):
    a = pyro.sample("a", dist.Normal(0.0, 5.0))
    w = pyro.sample("w", dist.Normal(torch.zeros(basis.shape[1]), 1.0).to_event(1))
    sigma = pyro.sample("sigma", dist.Exponential(1.0))
    mean = pyro.deterministic("mu", a + basis @ w)
    with pyro.plate("years", len(basis)):
        pyro.sample("D", dist.Normal(mean, sigma), obs=blossom)


def gaussian_process(X, Y):
    variance = pyro.sample("kernel_var", dist.LogNormal(0.0, 1.0))
    noise = pyro.sample("kernel_noise", dist.LogNormal(0.0, 1.0))
    length = pyro.sample("kernel_length", dist.LogNormal(0.0, 1.0))
    squared = (X[:, None] - X) ** 2
    k = variance * torch.exp(-0.5 * squared / length**2) + (noise + 1e-6) * torch.eye(len(X))
    pyro.sample("Y", dist.MultivariateNormal(torch.zeros(len(X)), covariance_matrix=k), obs=Y)


def log_gaussian_cox(distance, counts):
    amplitude = pyro.sample("amplitude", dist.HalfNormal(1.0))
    n = len(counts)
    k = torch.exp(-0.5 * distance**2) + 1e-4 * torch.eye(n)
    f = pyro.sample("f", dist.MultivariateNormal(torch.zeros(n), covariance_matrix=k))
    with pyro.plate("cells", n):
        pyro.sample("counts", dist.Poisson((amplitude * f).exp()), obs=counts)


def robust_regression(x, y=None):
    b = pyro.sample("b", dist.Normal(0.0, 2.0))
    nu = pyro.sample("nu", dist.Gamma(2.0, 0.1))
    sigma = pyro.sample("sigma", dist.HalfCauchy(1.0))
    with pyro.plate("data", len(x)):
        pyro.sample("y", dist.StudentT(nu, b * x, sigma), obs=y)


def negative_binomial(x, y=None):
    a = pyro.sample("a", dist.Normal(0.0, 1.0))
    b = pyro.sample("b", dist.Normal(0.0, 1.0))
    phi = pyro.sample("phi", dist.Exponential(1.0))
    with pyro.plate("data", len(x)):
        pyro.sample("y", dist.GammaPoisson(phi, phi / (a + b * x).exp()), obs=y)


def dawid_skene(positions, annotations, n_items, n_classes, n_annotators):
    with pyro.plate("annotators", n_annotators, dim=-2), pyro.plate("class", n_classes):
        beta = pyro.sample("beta", dist.Dirichlet(torch.ones(n_classes) + 2 * torch.eye(n_classes)))
    pi = pyro.sample("pi", dist.Dirichlet(torch.ones(n_classes)))
    with pyro.plate("item", n_items, dim=-2):
        c = pyro.sample("c", dist.Categorical(pi))
        with pyro.plate("position", len(positions)):
            pyro.sample("y", dist.Categorical(beta[positions, c]), obs=annotations)


def rats(n, tumours=None):
    a = pyro.sample("a", dist.HalfCauchy(3.0))
    b = pyro.sample("b", dist.HalfCauchy(10.0))
    with pyro.plate("groups", len(n)):
        theta = pyro.sample("theta", dist.Beta(a + 0.1, b + 0.1))
        pyro.sample("y", dist.Binomial(n, theta), obs=tumours)


def predator_prey(n_steps, y=None):
    z = pyro.sample("z_init", dist.LogNormal(math.log(10.0), torch.ones(2)).to_event(1))
    typical = torch.tensor([1.0, 0.05, 1.0, 0.05])
    theta = pyro.sample("theta", dist.LogNormal(typical.log(), 0.2).to_event(1))
    path = []
    for _ in range(n_steps):
        path.append(z)
        for _ in range(4):
            u, v = z[..., 0], z[..., 1]
            du = (theta[..., 0] - theta[..., 1] * v) * u
            dv = (-theta[..., 2] + theta[..., 3] * u) * v
            z = (z + 0.05 * torch.stack([du, dv], -1)).clamp(min=1e-3)
    sigma = pyro.sample("sigma", dist.LogNormal(-1.0, 1.0))
    pyro.sample("y", dist.LogNormal(torch.stack(path).log(), sigma).to_event(2), obs=y)


def weighing(guess, measurement=None):
    weight = pyro.sample("weight", dist.Normal(guess, 1.0))
    return pyro.sample("measurement", dist.Normal(weight, 0.75), obs=measurement)


def neural_network(X, Y=None, D_H=3):
    w1 = pyro.sample("w1", dist.Normal(torch.zeros(X.shape[1], D_H), 1.0).to_event(2))
    w2 = pyro.sample("w2", dist.Normal(torch.zeros(D_H, 1), 1.0).to_event(2))
    precision = pyro.sample("prec_obs", dist.Gamma(3.0, 1.0))
    mean = (torch.tanh(X @ w1) @ w2).squeeze(-1)
    with pyro.plate("data", len(X)):
        pyro.sample("Y", dist.Normal(mean, precision.rsqrt()), obs=Y)


def softmax_regression(X, species=None):
    a = pyro.sample("a", dist.Normal(torch.zeros(3), 10.0).to_event(1))
    b = pyro.sample("b", dist.Normal(torch.zeros(X.shape[1], 3), 1.0).to_event(2))
    with pyro.plate("data", len(X)):
        pyro.sample("species", dist.Categorical(logits=a + X @ b), obs=species)


def outliers(x, y, sigma_y):
    b = pyro.sample("b", dist.Normal(0.0, 2.0))
    share = pyro.sample("p", dist.Beta(1.0, 5.0))
    wide = pyro.sample("sigma_out", dist.HalfNormal(5.0))
    with pyro.plate("data", len(x)):
        is_out = pyro.sample("is_outlier", dist.Bernoulli(share))
        pyro.sample("y", dist.Normal(b * x, sigma_y + wide * is_out), obs=y)


def sprinkler(wet):
    rain = pyro.sample("rain", dist.Bernoulli(0.2))
    on = pyro.sample("sprinkler", dist.Bernoulli(torch.where(rain > 0, 0.01, 0.4)))
    p = torch.where(rain > 0, torch.where(on > 0, 0.99, 0.8), torch.where(on > 0, 0.9, 0.01))
    pyro.sample("wet", dist.Bernoulli(p), obs=wet)


def stick_breaking(data, T):
    alpha = pyro.sample("alpha", dist.Gamma(2.0, 1.0))
    with pyro.plate("beta_plate", T - 1):
        beta = pyro.sample("beta", dist.Beta(1.0, alpha))
    with pyro.plate("mu_plate", T):
        mu = pyro.sample("mu", dist.Normal(0.0, 3.0))
    rest = torch.cat([torch.ones(1), (1 - beta).cumprod(-1)])
    weights = torch.cat([beta, torch.ones(1)]) * rest
    with pyro.plate("data", len(data)):
        z = pyro.sample("z", dist.Categorical(weights))
        pyro.sample("obs", dist.Normal(mu[z], 1.0), obs=data)


def abundance(counts):
    """N-mixture: the number of animals at a site has no largest value."""
    rate = pyro.sample("lambda", dist.Gamma(2.0, 0.2))
    p = pyro.sample("p", dist.Beta(2.0, 2.0))
    with pyro.plate("sites", len(counts)):
        n = pyro.sample("N", dist.Poisson(rate))
        pyro.sample("counts", dist.Binomial(n, p), obs=counts)


def flat_regression(x, y=None):
    """Stan's default: no prior statement at all."""
    a = pyro.sample("a", dist.ImproperUniform(constraints.real, (), ()))
    b = pyro.sample("b", dist.ImproperUniform(constraints.real, (), ()))
    sigma = pyro.sample("sigma", dist.ImproperUniform(constraints.positive, (), ()))
    with pyro.plate("data", len(x)):
        pyro.sample("y", dist.Normal(a + b * x, sigma), obs=y)


def multiple_changepoints(y, n_regimes):
    """A chain that may only move on."""
    with pyro.plate("regimes", n_regimes):
        loc = pyro.sample("loc", dist.Normal(0.0, 3.0))
    stay = pyro.sample("stay", dist.Beta(5.0, 1.0))
    last = torch.eye(n_regimes)[-1]
    step = torch.eye(n_regimes) * stay + torch.eye(n_regimes).roll(1, 1) * (1 - stay)
    table = torch.cat([step[:-1], last.unsqueeze(0)])
    k = None
    for t in pyro.markov(range(len(y))):
        law = dist.Categorical(torch.eye(n_regimes)[0] if k is None else table[k])
        k = pyro.sample(f"k_{t}", law)
        pyro.sample(f"y_{t}", dist.Normal(loc[k], 1.0), obs=y[t])


X12, XN = torch.linspace(-1, 1, 12, dtype=torch.float64), _normal(12, 3)
Y12 = 0.5 + X12 + 0.3 * _normal(12)
COUNTS = torch.tensor([0, 2, 1, 0, 4, 3, 0, 1, 2, 5, 0, 1])
INDEX = torch.arange(12) % 4
PATH = torch.cat([_normal(6) - 2, _normal(6) + 2])
AGE = torch.where(torch.arange(12) % 5 == 4, torch.nan, _normal(12))
WAVES = torch.stack([10 + 3 * X12.sin(), 8 + 2 * X12.cos()], -1)
BASIS = torch.stack([torch.exp(-8 * (X12 - c) ** 2) for c in (-0.8, -0.3, 0.3, 0.8)], -1)
CAPTURES = torch.tensor([[1, 0, 1, 1], [1, 1, 0, 0], [0, 1, 1, 0], [1, 1, 1, 1], [0, 1, 0, 0]])
ANSWERS = torch.tensor([[0, 0, 1], [1, 1, 1], [2, 2, 0], [1, 1, 2], [0, 0, 0]])

PROGRAMS: dict[str, Entry] = {
    "eight schools": (
        eight_schools,
        {
            "J": 8,
            "sigma": [15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0],
            "y": [28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0],
        },
    ),
    "terrain ruggedness": (
        terrain,
        {"is_cont_africa": (INDEX > 1).double(), "ruggedness": X12, "log_gdp": Y12},
    ),
    "logistic regression": (logistic_regression, {"data": XN, "labels": COUNTS > 1}),
    "baseball": (baseball, {"at_bats": [45, 45, 45, 40], "hits": [18, 14, 10, 8]}),
    "radon": (radon, {"county": INDEX, "floor": COUNTS > 1, "n_counties": 4, "log_radon": Y12}),
    "coal disasters": (coal_disasters, {"years": X12, "disasters": COUNTS.sort().values}),
    "Gaussian mixture": (gaussian_mixture, {"data": PATH, "K": 2}),
    "hidden Markov model": (hidden_markov, {"sequence": PATH, "hidden_dim": 2}),
    "zero-inflated Poisson": (zero_inflated_poisson, {"count": COUNTS}),
    "ordered logistic": (ordinal, {"x": X12, "rating": INDEX}),
    "censored Weibull": (censored_weibull, {"t": Y12.exp(), "event": (COUNTS > 0).double()}),
    "Tobit": (tobit, {"x": X12, "y": Y12.clamp(max=1.0), "limit": 1.0}),
    "item response": (
        item_response,
        {
            "student": torch.arange(12) // 4,
            "question": INDEX,
            "n_students": 3,
            "n_questions": 4,
            "y": COUNTS > 1,
        },
    ),
    "capture-recapture": (capture_recapture, {"capture_history": CAPTURES}),
    "topics": (
        topics,
        {"doc": INDEX, "words": COUNTS, "n_docs": 4, "n_words": 6, "n_topics": 2},
    ),
    "horseshoe": (horseshoe, {"X": XN, "Y": Y12}),
    "missing covariates": (impute_age, {"age": AGE, "survived": COUNTS > 1}),
    "LKJ covariance": (lkj_covariance, {"y": XN}),
    "autoregression": (autoregressive, {"y": PATH}),
    "stochastic volatility": (stochastic_volatility, {"returns": 0.1 * _normal(12)}),
    "local level, rows missing": (
        local_level,
        {"y": torch.where(INDEX == 2, torch.nan, Y12.cumsum(0))},
    ),
    "splines": (splines, {"basis": BASIS, "blossom": Y12}),
    "Gaussian process": (gaussian_process, {"X": X12, "Y": Y12}),
    "log-Gaussian Cox process": (
        log_gaussian_cox,
        {"distance": (X12[:, None] - X12).abs(), "counts": COUNTS},
    ),
    "robust regression": (robust_regression, {"x": X12, "y": Y12}),
    "negative binomial": (negative_binomial, {"x": X12, "y": COUNTS}),
    "Dawid-Skene": (
        dawid_skene,
        {
            "positions": [0, 1, 2],
            "annotations": ANSWERS,
            "n_items": 5,
            "n_classes": 3,
            "n_annotators": 3,
        },
    ),
    "rat tumours": (rats, {"n": [20, 20, 19, 18], "tumours": [0, 1, 2, 4]}),
    "predator and prey": (predator_prey, {"n_steps": 12, "y": WAVES}),
    "weighing": (weighing, {"guess": 8.5, "measurement": [9.5]}),
    "neural network": (neural_network, {"X": XN[:, :2], "Y": Y12}),
    "softmax regression": (softmax_regression, {"X": XN[:, :2], "species": INDEX % 3}),
    "outliers": (outliers, {"x": X12, "y": Y12, "sigma_y": 0.3}),
    "sprinkler": (sprinkler, {"wet": torch.tensor(1.0)}),
    "stick-breaking mixture": (stick_breaking, {"data": PATH, "T": 4}),
    "abundance": (abundance, {"counts": COUNTS}),
    "flat priors": (flat_regression, {"x": X12, "y": Y12}),
    "several changepoints": (multiple_changepoints, {"y": PATH, "n_regimes": 3}),
}
