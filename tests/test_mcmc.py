"""Kernels keep their targets, and `validate` sees when one does not."""

import math
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from scipy import stats

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))

from seeded_bugs import BUGS, HIERARCHY, JOINT, LOG_EVIDENCE, PAIR, POSTERIOR, PRIOR, RIGHT

from amortized.mcmc import (
    AnnealedSampler,
    Hamiltonian,
    ImportanceSampler,
    Independence,
    Kernel,
    Langevin,
    NoUTurn,
    RandomWalk,
    Slice,
    Target,
    Tempered,
    cycle,
    mix,
    program_target,
    repeat,
    run_chains,
    temper,
    validate,
)
from amortized.mcmc.mean_test import RankFeatures, means_are_zero

DOUBLE = torch.float64
# A failure of a right one is a bug: its chance is 1 in 10,000 for each.
SELDOM = 1e-4
KERNELS = {
    "random walk": partial(RandomWalk, scale=1.0),
    "Langevin": partial(Langevin, scale=0.6),
    "slice": Slice,
    "Hamiltonian": partial(Hamiltonian, step_size=0.5),
    "NUTS": NoUTurn,
}


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def normal(sd=1.0, dim=1):
    def draw(n, generator):
        return sd * torch.randn(n, dim, generator=generator, dtype=DOUBLE)

    return Target(lambda u: -0.5 * (u / sd).square().sum(-1), dim, sample=draw)


@pytest.mark.parametrize("name", sorted(RIGHT.keys() - {"NUTS", "tempered SMC"}))
def test_right_ones_pass(name):
    found = RIGHT[name](0, SELDOM)
    assert found.passed, f"{found}"


def test_nuts_passes():
    found = validate(NoUTurn(PAIR), n_chains=100, n_steps=1, level=SELDOM)
    assert found.passed, f"{found}"


@pytest.mark.parametrize("name", BUGS)
def test_bugs_are_found(name):
    assert not RIGHT.keys() & BUGS.keys()
    assert not BUGS[name](0).passed


@pytest.mark.parametrize("name", KERNELS)
def test_a_step_depends_on_state_and_generator_only(name):
    kernel = KERNELS[name](PAIR)
    state = PAIR.sample(4, generator())
    before, copy = torch.get_rng_state(), state.clone()
    one, two, other = (kernel.step(state, generator(seed)) for seed in (1, 1, 2))
    assert torch.equal(one, two) and not torch.equal(one, other)
    assert torch.equal(before, torch.get_rng_state()) and torch.equal(state, copy)
    assert one.shape == state.shape and one.dtype == state.dtype


@pytest.mark.parametrize("name", KERNELS)
def test_chains_reach_the_target_from_elsewhere(name):
    few, n = (20, 8) if name == "NUTS" else (400, 40)
    start = torch.full((few, 2), 3.0, dtype=DOUBLE)
    draws = run_chains(KERNELS[name](PAIR), start, 1, n_warmup=n)
    last = draws[:, -1]
    error = 1 / few**0.5
    assert last.mean(0).abs().max() < 5 * error
    assert (last.std(0) - 1).abs().max() < 5 * error


def test_points_of_zero_density_move_to_positive_density():
    half = Target(lambda u: torch.where(u < 0, -torch.inf, -u)[..., 0], 1)
    for make in KERNELS.values():
        moved = run_chains(make(half), torch.full((3, 1), 0.1, dtype=DOUBLE), 20)
        assert (moved >= 0).all()
    assert (
        run_chains(RandomWalk(half), torch.full((50, 1), -0.1, dtype=DOUBLE), 20)[:, -1] > 0
    ).all()


def test_tempered_kernels_keep_tempered_targets():
    for beta in (0.25, 1.0):
        tempered = temper(RandomWalk(normal(), 2.0), beta)
        exact = normal(beta**-0.5)
        kernel = tempered.on(Target(tempered.target.log_density, 1, sample=exact.sample))
        found = validate(kernel, level=SELDOM)
        assert found.passed, f"{found}"
    path = Tempered(normal(0.5), 0.5, normal(2.0))
    u = torch.linspace(-1, 1, 5, dtype=DOUBLE).unsqueeze(-1)
    expected = -0.25 * (u[:, 0].square() * (4 + 0.25))
    torch.testing.assert_close(path.log_density(u), expected)
    assert Tempered(PAIR, 0.5) == Tempered(PAIR, 0.5) != Tempered(PAIR, 0.4)
    cycle(temper(RandomWalk(PAIR), 0.5), temper(Slice(PAIR), 0.5))


def test_combinations_apply_their_parts():
    class Add(Kernel):
        def __init__(self, target, amount):
            self.target, self.amount = target, amount

        def step(self, state, generator):
            return state + self.amount

    target = normal()
    one, ten = Add(target, 1.0), Add(target, 10.0)
    at = torch.zeros(2, 1)
    assert cycle(one, repeat(ten, 3)).step(at, generator()).unique().item() == 31
    chosen = torch.cat(
        [mix(one, ten, weights=[3, 1]).step(at[:1], generator(i)) for i in range(400)]
    )
    count = int((chosen == 1).sum())
    assert stats.binomtest(count, 400, 0.75).pvalue > SELDOM
    moved = cycle(one, mix(one, ten)).on(normal())
    assert moved.parts[1].parts[0].target is moved.target is not target


class _Other(Kernel):
    """A composition of a user's own whose parts have other targets."""

    def __init__(self):
        self.target = PAIR
        self.part = RandomWalk(normal(1.0, 2))

    @property
    def parts(self):
        return (self.part,)

    def step(self, state, generator):
        return self.part.step(state, generator)


class _Global(RandomWalk):
    def step(self, state, generator):
        return super().step(state, torch.Generator().manual_seed(int(torch.randint(9, ()))))


class _Idle(RandomWalk):
    def step(self, state, generator):
        return state


class _Wider(RandomWalk):
    def step(self, state, generator):
        return torch.cat([state, state], -1)


FAULTS = {
    "composition": (_Other(), "one target"),
    "global generator": (_Global(PAIR), "global generator"),
    "idle": (_Idle(PAIR), "no point moved"),
    "shape": (_Wider(PAIR), "another shape"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_faults_of_construction_are_named(name):
    kernel, words = FAULTS[name]
    found = validate(kernel)
    assert not found.passed and words in str(found)


def test_the_level_is_the_nominal_one():
    p_values = [
        validate(RandomWalk(PAIR, 1.5), n_chains=300, seed=seed)["invariance"].p_value
        for seed in range(100)
    ]
    assert stats.kstest(p_values, "uniform").pvalue > SELDOM


def test_means_of_dependent_columns():
    p_values = []
    for seed in range(100):
        own = generator(seed)
        shared = torch.randn(400, 1, generator=own)
        values = shared + 0.2 * torch.randn(400, 12, generator=own)
        p_values.append(means_are_zero(values, own).p_value)
    assert stats.kstest(p_values, "uniform").pvalue > SELDOM
    assert means_are_zero(torch.zeros(10, 2), generator()).p_value == 1.0
    assert means_are_zero(torch.ones(10, 2), generator()).p_value == 0.0


def test_rank_features_are_orthonormal():
    draws = torch.randn(20_000, 2, generator=generator(), dtype=DOUBLE)
    features = RankFeatures(draws, ["a", "b"])
    values = features(draws)
    moments = values.mT @ values / len(values)
    assert values.shape[1] == len(features.names) == 9
    assert values.mean(0).abs().max() < 0.05
    torch.testing.assert_close(moments, torch.eye(9, dtype=DOUBLE), atol=0.05, rtol=0)


def test_annealing_estimates_the_evidence():
    sampler = AnnealedSampler(RandomWalk(POSTERIOR, 0.5), PRIOR, [0.05, 0.3, 1.0], 200, 0.0)
    _, log_weights = sampler.sample(200, generator())
    ratio = (log_weights - LOG_EVIDENCE).exp().mean(-1)
    assert abs(ratio.mean() - 1) < 4.5 * ratio.std() / math.sqrt(200)
    found = validate(ImportanceSampler(POSTERIOR, PRIOR), log_evidence=LOG_EVIDENCE + 0.1)
    assert not found["proper weights"].passed


def test_program_targets_have_the_programs_density():
    u = HIERARCHY.log_density(torch.zeros(1, 3, 2, dtype=DOUBLE))
    assert u.shape == (1, 3)
    data = JOINT.sample_data(JOINT.sample_latents(4, generator()), generator())
    both = JOINT.target(data)
    points = torch.randn(4, 1, 2, generator=generator(), dtype=DOUBLE)
    for i in range(4):
        alone = both.of_dataset(i).log_density(points[i])
        torch.testing.assert_close(alone, both.log_density(points)[i])


WRONG = {
    "scale": (lambda: RandomWalk(PAIR, 0.0), "positive scale"),
    "scale of Langevin": (lambda: Langevin(PAIR, -1.0), "positive scale"),
    "width": (lambda: Slice(PAIR, 0.0), "positive width"),
    "step": (lambda: Hamiltonian(PAIR, 0.0), "step_size > 0"),
    "factor": (lambda: Hamiltonian(PAIR, 0.5, torch.eye(3)), r"factor of shape \(2, 2\)"),
    "tree": (lambda: NoUTurn(PAIR, 0.5, 0), "max_tree_depth"),
    "dim": (lambda: Target(lambda u: u, 0), "dim to be an integer >= 1"),
    "beta": (lambda: temper(RandomWalk(PAIR), 1.5), "beta in"),
    "proposal": (
        lambda: Independence(PAIR, torch.distributions.Normal(0.0, 1.0)),
        "proposal of event shape",
    ),
    "targets": (lambda: cycle(RandomWalk(PAIR), Slice(normal(1.0, 2))), "kernels of one target"),
    "weights": (lambda: mix(RandomWalk(PAIR), weights=[0.0]), "1 positive weights"),
    "times": (lambda: repeat(RandomWalk(PAIR), 0), "n to be an integer >= 1"),
    "temperatures": (
        lambda: AnnealedSampler(RandomWalk(POSTERIOR), PRIOR, [0.5]),
        "temperatures that rise",
    ),
    "reference": (
        lambda: AnnealedSampler(RandomWalk(POSTERIOR), HIERARCHY, [1.0]),
        "reference with exact draws",
    ),
    "start": (lambda: run_chains(RandomWalk(PAIR), torch.zeros(3, 1)), r"shape \(chains, 2\)"),
    "draws": (lambda: run_chains(RandomWalk(PAIR), torch.zeros(3, 2), 0), "n_draws to be"),
    "nothing": (lambda: validate(RandomWalk(HIERARCHY)), "something to compare with"),
    "level": (lambda: validate(RandomWalk(PAIR), level=0.0), "level in"),
    "evidence": (lambda: validate(ImportanceSampler(POSTERIOR, PRIOR)), "log_evidence"),
    "data": (lambda: program_target(lambda x, y=None: None, [[0.0]], [0.0]), "observe its data"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_inputs(name, no_shape_checks):
    make, message = WRONG[name]
    with pytest.raises(ValueError, match=message):
        make()


def test_combinations_of_other_things(no_shape_checks):
    with pytest.raises(TypeError, match="at least one Kernel"):
        cycle()
    with pytest.raises(TypeError, match="at least one Kernel"):
        mix(lambda state: state)
