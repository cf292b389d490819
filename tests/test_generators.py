"""Particles over generators against enumeration, Kalman filters and normal tails."""

import itertools
import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy import stats

from amortized.generators import (
    CurveGenerator,
    Generator,
    ParticleGibbs,
    ProgramGenerator,
    TokenGenerator,
    learn_lookahead,
    sample_program,
    sample_sequences,
)
from amortized.generators.ancestry import Ancestry
from amortized.mcmc import Target, validate
from amortized.priors.state_space.state_space_model import LinearGaussianModel
from amortized.sampling.filters.kalman import kalman_filter

DOUBLE = torch.float64
SELDOM = 1e-4  # chance of a false alarm of a test

# A chain of three states with a reward in each step.
FIRST = torch.tensor([0.5, 0.3, 0.2], dtype=DOUBLE)
MOVES = torch.tensor([[0.8, 0.1, 0.1], [0.2, 0.5, 0.3], [0.1, 0.3, 0.6]], dtype=DOUBLE)
REWARD = torch.tensor([0.0, 0.7, 1.5], dtype=DOUBLE)
LENGTH = 5


class Chain(Generator):
    def __init__(self, n_steps=LENGTH):
        self.n_steps = n_steps

    def start(self, n, generator):
        return torch.multinomial(FIRST, n, replacement=True, generator=generator)

    def extend(self, state, t, generator):
        return torch.multinomial(MOVES[state], 1, generator=generator)[:, 0]


def reward(state, t):
    return REWARD[state]


def to_go(n_steps):
    """The exact expected product of the later rewards, ``(steps, states)``."""
    values = [torch.ones(3, dtype=DOUBLE)]
    for _ in range(n_steps - 1):
        values.append(MOVES @ (REWARD.exp() * values[-1]))
    return torch.stack(values[::-1])


def log_z(n_steps):
    return float((FIRST * REWARD.exp() * to_go(n_steps)[0]).sum().log())


def every_sequence():
    """All sequences of the chain and their probabilities under the reward."""
    sequences = torch.tensor(list(itertools.product(range(3), repeat=LENGTH)))
    log_p = FIRST.log()[sequences[:, 0]] + REWARD[sequences].sum(1)
    log_p = log_p + MOVES.log()[sequences[:, :-1], sequences[:, 1:]].sum(1)
    return sequences, log_p


def agrees(ratio):
    """Whether independent estimates of 1 are unbiased, as far as their spread tells."""
    return abs(ratio.mean() - 1) < 4.5 * ratio.std() / math.sqrt(len(ratio))


@pytest.mark.parametrize("ess_threshold", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("looks_ahead", [False, True])
def test_the_evidence_is_unbiased(ess_threshold, looks_ahead):
    ahead = to_go(20).log() / 2  # half of the right logarithm: any positive function will do

    found = sample_sequences(
        Chain(20),
        reward,
        40,
        lookahead=(lambda state, t: ahead[t][state]) if looks_ahead else None,
        n_runs=1000,
        ess_threshold=ess_threshold,
    )
    ratio = (found.diagnostics["log_evidences"] - log_z(20)).exp()
    assert agrees(ratio) and ratio.std() > 0
    assert (found.diagnostics["n_resampled"] > 0).all() == (ess_threshold > 0)
    error = abs(found.log_evidence - log_z(20))
    assert error < 5 * found.log_evidence_error


def test_weighted_sequences_have_the_right_law():
    sequences, log_p = every_sequence()
    shares = log_p.softmax(0)
    found = sample_sequences(Chain(), reward, 500, n_runs=60)
    drawn = found.log_weights.exp()
    exact = (shares[:, None] * (sequences == 2)).sum(0)
    each = (drawn[:, None] * (found._draws["sequence"] == 2)).view(60, 500, LENGTH).sum(1) * 60
    error = each.std(0) / math.sqrt(60)
    assert ((each.mean(0) - exact).abs() < 5 * error + 1e-3).all()
    assert found["sequence"].shape == (30_000, LENGTH)


def test_ancestors_are_kept_and_the_dead_forgotten():
    generator = torch.Generator().manual_seed(0)
    tree, whole = Ancestry(), []
    n, steps = 64, 200
    for t in range(steps):
        values = torch.arange(n) + n * t
        parents = torch.randint(n, (n,), generator=generator)
        tree.append(values, None if t == 0 else parents)
        whole = (
            [[v] for v in values.tolist()]
            if t == 0
            else [[*whole[p], v] for p, v in zip(parents.tolist(), values.tolist(), strict=True)]
        )
    assert tree.paths().tolist() == whole
    assert tree.n_nodes < steps + 3 * n * math.log(n)


class Walk(Generator):
    """A random walk, the state space model whose filter is Kalman's."""

    def __init__(self, n_steps):
        self.n_steps = n_steps

    def start(self, n, generator):
        return torch.randn(n, 1, generator=generator, dtype=DOUBLE)

    def extend(self, state, t, generator):
        return state + self.start(len(state), generator)


ONE = torch.ones(1, 1, dtype=DOUBLE)
KALMAN = LinearGaussianModel(
    transition=ONE,
    transition_cov=ONE,
    observation=ONE,
    observation_cov=0.25 * ONE,
    initial_mean=0 * ONE[0],
    initial_cov=ONE,
)
SERIES = torch.tensor([0.3, 1.0, 1.4, 0.2, -0.6], dtype=DOUBLE)


def fit(state, t):
    return torch.distributions.Normal(state[:, 0], 0.5).log_prob(SERIES[t])


def test_the_kalman_filter_agrees():
    exact = kalman_filter(KALMAN, SERIES.view(1, -1, 1))
    found = sample_sequences(Walk(5), fit, 100, n_runs=400)
    assert agrees((found.diagnostics["log_evidences"] - exact.log_evidence).exp())
    last = (found.log_weights.exp() * found._draws["sequence"][:, -1, 0]).view(400, 100)
    mean = last.sum(1) * 400
    assert abs(mean.mean() - exact.mean[0, -1, 0]) < 5 * mean.std() / 20


def test_particle_gibbs_keeps_the_exact_law():
    sequences, log_p = every_sequence()

    def draw(n, generator):
        chosen = torch.multinomial(log_p.softmax(0), n, replacement=True, generator=generator)
        return sequences[chosen].double()

    target = Target(lambda u: REWARD[u.long()].sum(-1), LENGTH, sample=draw)
    kernel = ParticleGibbs(Chain(), reward, 4, target=target)
    found = validate(kernel, n_chains=2000, n_steps=3, level=SELDOM)
    assert found.passed, f"{found}"
    # Resampling the held particle away is a fault that the test must see.
    wrong = ParticleGibbs(Chain(), lambda state, t: 0.5 * reward(state, t), 4, target=target)
    assert not validate(wrong, n_chains=2000, n_steps=3, level=SELDOM).passed


def test_particle_gibbs_of_a_state_space_model():
    # Exact smoothing: a walk and its observations are jointly normal.
    steps = torch.ones(5, 5, dtype=DOUBLE).tril()
    covariance = steps @ steps.mT
    gain = covariance @ torch.linalg.inv(covariance + 0.25 * torch.eye(5, dtype=DOUBLE))
    mean, factor = gain @ SERIES, torch.linalg.cholesky(covariance - gain @ covariance)

    def draw(n, generator):
        return mean + torch.randn(n, 5, generator=generator, dtype=DOUBLE) @ factor.mT

    law = torch.distributions.MultivariateNormal(mean, scale_tril=factor)
    kernel = ParticleGibbs(Walk(5), fit, 5, target=Target(law.log_prob, 5, sample=draw))
    found = validate(kernel, n_chains=2000, n_steps=3, level=SELDOM)
    assert found.passed, f"{found}"


def logits(tokens):
    """Three tokens that prefer to follow the sum of all before."""
    total = tokens.sum(1, keepdim=True) if tokens.shape[1] else torch.zeros(len(tokens), 1)
    return torch.cos(total + torch.arange(3.0))


def test_tokens_under_a_constraint_by_enumeration():
    generator = TokenGenerator(logits, 4, prompt=[1], temperature=0.7)
    every = torch.tensor(list(itertools.product(range(3), repeat=4)))
    tokens, log_p = torch.ones(81, 1, dtype=torch.long), torch.zeros(81, dtype=DOUBLE)
    for t in range(4):
        log_p += generator.log_probs(tokens).gather(1, every[:, t : t + 1])[:, 0]
        tokens = torch.cat([tokens, every[:, t : t + 1]], 1)
    allowed = every.sum(1) == 5
    exact = log_p[allowed].exp().sum()

    def sums_to_five(state, t):
        total = state[:, 1:].sum(1)
        possible = (total <= 5) & (total + 2 * (3 - t) >= 5)
        return torch.where(possible, 0.0, -torch.inf)

    found = sample_sequences(generator, sums_to_five, 50, n_runs=500)
    assert agrees(found.diagnostics["log_evidences"].exp() / exact)
    assert (found["sequence"].sum(1) == 5).all()
    alone = generator.draw(20_000)
    frequency = (alone == torch.tensor([0, 2, 1, 0])).all(1).double().mean()
    expected = log_p[(every == torch.tensor([0, 2, 1, 0])).all(1)].exp().item()
    assert abs(frequency - expected) < 5 * math.sqrt(expected / 20_000)


def test_a_lookahead_finds_a_rare_end():
    generator, bound = Walk(12), 10.0
    exact = stats.norm.sf(bound / math.sqrt(12))  # 0.002

    def high(state, t):
        return torch.where((t < 11) | (state[:, 0] > bound), 0.0, -torch.inf)

    def right(state, t):
        gap = (bound - state[:, 0]) / math.sqrt(11 - t)
        return torch.special.log_ndtr(-gap).clamp(min=-12.0)

    learnt = learn_lookahead(generator, high, lambda state, t: state, n_rounds=1)
    ratio = {}
    for name, ahead in (("without", None), ("learnt", learnt), ("right", right)):
        found = sample_sequences(generator, high, 100, lookahead=ahead, n_runs=200)
        ratio[name] = found.diagnostics["log_evidences"].exp() / exact
    assert agrees(ratio["learnt"]) and agrees(ratio["right"])
    spread = {name: float(each.std()) for name, each in ratio.items()}
    assert spread["right"] < 0.5 * spread["without"], spread
    assert spread["learnt"] < 0.8 * spread["without"], spread


def test_programs_with_several_observations():
    def program(y):
        z = torch.zeros(())
        for t in range(len(y)):
            z = pyro.sample(f"z{t}", dist.Normal(z, 1.0))
            pyro.sample(f"y{t}", dist.Normal(z, 0.5), obs=y[t])
        pyro.sample("next", dist.Normal(z, 1.0))

    exact = kalman_filter(KALMAN, SERIES.view(1, -1, 1))
    found = sample_program(program, {"y": SERIES}, 50, n_runs=300)
    assert found.names == [*(f"z{t}" for t in range(5)), "next"]
    assert agrees((found.diagnostics["log_evidences"] - exact.log_evidence).exp())
    mean = (found.log_weights.exp() * found._draws["next"]).view(300, 50).sum(1) * 300
    assert abs(mean.mean() - exact.mean[0, -1, 0]) < 5 * mean.std() / math.sqrt(300)


def test_programs_with_discrete_latents_and_factors():
    def program(n):
        z = pyro.sample("z0", dist.Categorical(FIRST))
        pyro.factor("reward0", REWARD[z])
        for t in range(1, n):
            z = pyro.sample(f"z{t}", dist.Categorical(MOVES[z]))
            pyro.factor(f"reward{t}", REWARD[z])

    generator = ProgramGenerator(program, {"n": 4})
    assert generator.observed == [f"reward{t}" for t in range(4)]
    found = sample_program(program, {"n": 4}, 30, n_runs=400)
    assert agrees((found.diagnostics["log_evidences"] - log_z(4)).exp())


class ExactNetwork:
    """The predictive of normal observations of a normal mean, which a network would learn."""

    def __call__(self, x_context, y_context, x_query):
        n = y_context.shape[1]
        variance = 1 / (1 + n)
        mean = y_context.sum(1, keepdim=True) * variance
        return torch.distributions.Normal(mean, math.sqrt(1 + variance))


def test_a_network_that_grows_its_context_draws_jointly():
    generator = CurveGenerator(ExactNetwork(), [0.0, 1.0], [0.5, 1.5], [2.0, 3.0, 4.0])
    draws = generator.draw(20_000)
    mean, shared = 2 / 3, 1 / 3
    covariance = shared + torch.eye(3)
    assert (draws.mean(0) - mean).abs().max() < 5 * math.sqrt(4 / 3 / 20_000)
    assert (draws.mT.cov() - covariance).abs().max() < 0.07

    def high(state, t):
        return torch.where((t < 2) | (state[:, -1] > 3.0), 0.0, -torch.inf)

    exact = stats.norm.sf((3.0 - mean) / math.sqrt(4 / 3))

    def ahead(state, t):
        return generator.log_chance_above(state, 2, 3.0)

    for lookahead in (None, ahead):
        found = sample_sequences(generator, high, 200, lookahead=lookahead, n_runs=200)
        assert agrees(found.diagnostics["log_evidences"].exp() / exact)
        assert (found["sequence"][:, -1] > 3.0).all()
    chance = ahead(torch.tensor([[1.0], [-9.0]]), 0).exp()
    right = stats.norm.sf((3.0 - 3 / 4) / math.sqrt(5 / 4))
    assert abs(chance[0] - right) < 1e-6 and abs(chance[1] - 1e-3) < 1e-9


def test_inputs_outside_of_the_training_range_are_said():
    class Trained(ExactNetwork):
        class config:  # noqa: N801
            x_range = [[0.0, 1.0]]

    CurveGenerator(Trained(), [0.0], [0.5], [1.0])
    with pytest.warns(UserWarning, match="where the network was trained"):
        CurveGenerator(Trained(), [0.0], [0.5], [2.0])


def test_equal_seeds_give_equal_draws():
    before = torch.get_rng_state()
    one, two, other = (sample_sequences(Chain(), reward, 20, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(one["sequence"], two["sequence"])
    assert one.log_evidence == two.log_evidence != other.log_evidence
    assert torch.equal(before, torch.get_rng_state())


def nothing(state, t):
    return torch.full((len(state),), -torch.inf)


WRONG = {
    "particles": (
        lambda: sample_sequences(Chain(), reward, 0),
        "n_particles to be an integer >= 1",
    ),
    "threshold": (lambda: sample_sequences(Chain(), reward, ess_threshold=2.0), "ess_threshold"),
    "shape": (lambda: sample_sequences(Chain(), lambda s, t: s[:2] * 1.0), "potential of shape"),
    "nan": (lambda: sample_sequences(Chain(), lambda s, t: s * math.nan), "got NaN"),
    "impossible": (lambda: sample_sequences(Chain(), nothing), "some possible sequences"),
    "lookahead": (
        lambda: sample_sequences(Chain(), reward, lookahead=nothing),
        "positive everywhere",
    ),
    "rounds": (lambda: learn_lookahead(Chain(), reward, reward, n_rounds=0), "n_rounds"),
    "two": (lambda: ParticleGibbs(Chain(), reward, 1), "n_particles to be an integer >= 2"),
    "held": (
        lambda: ParticleGibbs(Chain(), nothing).step(torch.zeros(2, LENGTH), torch.Generator()),
        "chains at possible sequences",
    ),
    "tokens": (lambda: TokenGenerator(logits, 0), "n_steps to be an integer >= 1"),
    "logits": (lambda: TokenGenerator(lambda t: torch.zeros(3), 2).draw(2), "logits of shape"),
    "curve": (lambda: CurveGenerator(ExactNetwork(), [0.0], [1.0, 2.0], [3.0]), "x_context"),
    "program": (lambda: ProgramGenerator(lambda y: 1 / 0, {"y": 1}), "runs with the arguments"),
    "unobserved": (lambda: ProgramGenerator(lambda y: y, {"y": 1}), "observes something"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_inputs(name, no_shape_checks):
    make, message = WRONG[name]
    with pytest.raises(ValueError, match=message):
        make()


def test_scaled_latents_have_the_power_of_their_density():
    """As in `infer`: with N(0, 1) squared, the latent has half the variance, and a constant."""

    def program(y):
        first = pyro.sample("first", dist.Bernoulli(0.3))
        pyro.sample("a", dist.Normal(first, 1.0), obs=y[0])
        with pyro.poutine.scale(scale=2.0):
            shift = pyro.sample("shift", dist.Normal(0.0, 1.0))
        pyro.sample("b", dist.Normal(shift + first, 1.0), obs=y[1])

    found = sample_program(program, {"y": torch.tensor([1.0, 2.0])}, 2000, n_runs=16)
    constant = math.log(math.sqrt(math.pi) / (2 * math.pi))
    each = [
        math.log(share)
        + stats.norm(value, 1.0).logpdf(1.0)
        + constant
        + stats.norm(value, math.sqrt(1.5)).logpdf(2.0)
        for value, share in ((0, 0.7), (1, 0.3))
    ]
    evidence = torch.tensor(each).logsumexp(0)
    assert abs(found.log_evidence - evidence) < 4 * found.log_evidence_error
    assert abs(found.mean["first"] - (each[1] - evidence).exp()) < 0.03
