"""Draws from a generator of one's own: those of the global one, which stays as it is."""

import re
import threading
from pathlib import Path

import pyro.distributions as dist
import pytest
import torch

from amortized.seeding import nothing_drawn, only_sites_drawn, remembered, seeded

ONE = torch.ones(4)
CALLS = {
    "rand": lambda: torch.rand(3),
    "randn": lambda: torch.randn(2, 3, dtype=torch.float64),
    "randint": lambda: torch.randint(9, (5,)),
    "randperm": lambda: torch.randperm(9),
    "normal": lambda: torch.normal(0.0, 1.0, (3,)),
    "normal of tensors": lambda: torch.normal(torch.zeros(3), ONE[:3]),
    "rand_like": lambda: torch.rand_like(ONE),
    "randn_like": lambda: torch.randn_like(ONE, dtype=torch.float64),
    "randint_like": lambda: torch.randint_like(ONE, 2, 9),
    "multinomial": lambda: ONE.multinomial(3),
    "bernoulli": lambda: (ONE / 2).bernoulli(),
    "in place": lambda: torch.cat([ONE.clone().normal_(), ONE.clone().bernoulli_(0.5)]),
    "vmap": lambda: torch.func.vmap(
        lambda row: torch.randn(3) + torch.rand_like(row).sum(), randomness="different"
    )(torch.zeros(4, 2)),
    "layer": lambda: torch.nn.Linear(3, 2).weight.detach(),
}
LAWS = [
    *(dist.Normal(0.0, ONE), dist.Gamma(ONE, ONE), dist.Beta(ONE, ONE), dist.Dirichlet(ONE)),
    *(dist.Poisson(ONE), dist.Binomial(9, ONE / 2), dist.Categorical(ONE), dist.Exponential(ONE)),
    *(dist.Cauchy(0.0, ONE), dist.LogNormal(0.0, ONE), dist.Geometric(ONE / 2)),
    *(dist.StudentT(ONE), dist.Gumbel(0.0, ONE), dist.Laplace(0.0, ONE), dist.VonMises(ONE, ONE)),
    *(dist.LKJCholesky(3, 1.0), dist.MultivariateNormal(ONE, torch.eye(4)), dist.Chi2(ONE)),
]
NO_GENERATOR = {
    "dropout": lambda: torch.nn.Dropout(0.5)(torch.ones(100)),
    "gumbel_softmax": lambda: torch.nn.functional.gumbel_softmax(ONE),
}
CALLS |= {type(law).__name__: lambda law=law: law.sample((2,)) for law in LAWS}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_draws_what_the_global_generator_would(call):
    torch.manual_seed(3)
    expected = call()
    torch.manual_seed(7)
    before = torch.random.get_rng_state()
    with seeded(3):
        found = call()
        more = call()
    assert torch.equal(torch.random.get_rng_state(), before)
    assert found.dtype == expected.dtype and found.shape == expected.shape
    if "randint_like" not in str(call):
        assert torch.equal(found, expected)
    assert not torch.equal(found, more) or found.numel() == 0


@pytest.mark.parametrize("call", NO_GENERATOR.values(), ids=NO_GENERATOR)
def test_what_takes_no_generator_is_seeded_too(call):
    torch.manual_seed(7)
    before = torch.random.get_rng_state()
    with seeded(3):
        one, other = call(), call()
    with seeded(3):
        again = call()
    assert torch.equal(one, again) and not torch.equal(one, other)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_named_generators_and_inner_seeds_are_left_alone():
    with seeded(0):
        torch.rand(1)
        own = torch.rand(2, generator=torch.Generator().manual_seed(5))
        with seeded(5):
            inner = torch.rand(2)
        rest = torch.rand(1)
    assert torch.equal(own, inner)
    with seeded(0):
        torch.rand(1)
        assert torch.equal(rest, torch.rand(1))


def test_shapes_without_numbers_draw_nothing():
    with seeded(3):
        with torch.device("meta"):
            layer = torch.nn.Linear(3, 2)
            assert torch.rand(4).is_meta and layer.weight.is_meta
        found = torch.rand(3)
    with seeded(3):
        assert torch.equal(torch.rand(3), found)


def test_threads_do_not_meet():
    found = {}

    def work(seed):
        with seeded(seed):
            found[seed] = torch.stack([torch.rand(50) for _ in range(200)])

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    before = torch.random.get_rng_state()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert torch.equal(torch.random.get_rng_state(), before)
    for seed, draws in found.items():
        torch.manual_seed(seed)
        assert torch.equal(draws, torch.stack([torch.rand(50) for _ in range(200)]))


def test_what_is_remembered_is_drawn_again():
    for where in (seeded(1), torch.no_grad()):
        with where:
            rewind = remembered(torch.device("cpu"))
            one = torch.rand(3)
            rewind()
            assert torch.equal(torch.rand(3), one)


def test_sites_are_drawn_where_nothing_else_is():
    import pyro

    with seeded(4):
        expected = torch.randn(3)
    with seeded(9), seeded(4):
        with only_sites_drawn():
            assert torch.equal(pyro.sample("a", dist.Normal(torch.zeros(3), 1.0)), expected)
        with nothing_drawn():
            torch.manual_seed(2)
            of_the_user = torch.rand(1)
    torch.manual_seed(2)
    assert torch.equal(torch.rand(1), of_the_user)


def test_no_other_file_reads_or_sets_the_global_random_state():
    """A prior that hands on the global seed would draw the same tasks for every seed of its own."""
    root = Path(__file__).parents[1]
    files = [
        path
        for folder in ("amortized", "priors", "pretrained")
        for path in (root / folder).rglob("*.py")
        if path.name != "seeding.py"
        # `validate` compares the state before and after, to find kernels that draw from it.
        and path.relative_to(root) != Path("amortized/mcmc/validation.py")
    ]
    names = "initial_seed|manual_seed|seed|get_rng_state|set_rng_state"
    used = re.compile(rf"\b(torch|torch\.random|torch\.cuda|random)\.({names})\(|\bfork_rng\b")
    assert len(files) > 200
    assert not [path.name for path in files if used.search(path.read_text())]
