"""Equal seeds give equal answers beside other threads, and a forked child is free."""

import asyncio
import os
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch

from amortized import BayesianRegressor, PFNRegressor
from amortized.infer import infer
from amortized.infer.streaming import update
from amortized.latent_priors.problems import named_tasks
from amortized.networks import PFN, PFNConfig
from amortized.pretrained import load
from amortized.priors import LinearRegressionPrior, named_prior
from amortized.training import TrainingConfig, train
from amortized.uncertainty import joint_sample, martingale_posterior

X = torch.linspace(-1, 1, 12).unsqueeze(-1)
Y = X[:, 0].sin()
PRIOR = LinearRegressionPrior(1, variance=0.1, intercept=False)
TINY = PFNConfig(n_features=1, max_context=9, d_model=16, n_heads=2, n_layers=1, n_bars=20)


def program(x, y=None):
    slope = pyro.sample("slope", dist.Normal(0.0, 1.0))
    noise = pyro.sample("noise", dist.LogNormal(-1.0, 0.3))
    return pyro.sample("y", dist.Normal(slope * x[:, 0], noise).to_event(1), obs=y)


def draws(method, **options):
    def job(seed):
        posterior = infer(program, X, Y, method=method, n_draws=40, seed=seed, **options)
        return posterior.sample(20, seed=seed)["slope"]

    return job


def streamed(seed):
    network = load("dt-mean")
    posterior = infer(
        named_tasks("dt-mean").prior.model,
        torch.zeros(1, 0),
        torch.ones(1),
        method="dt",
        network=network,
    )
    answer = update(
        named_tasks("dt-mean").prior.model,
        posterior,
        torch.zeros(1, 0),
        torch.ones(1),
        seed=seed,
        network=network,
        n_draws=20,
    )
    return answer.sample(20, seed=seed)["mean"]


def fitted(seed):
    estimator = PFNRegressor("gp-1d").fit(X.numpy(), Y.numpy())
    return estimator.sample_y(X.numpy(), 3, random_state=seed)


def bayesian(seed):
    estimator = BayesianRegressor(random_state=seed, n_draws=50).fit(X.numpy(), Y.numpy())
    return estimator.sample_y(X.numpy(), 3, random_state=seed)


def mean_of(x, y):
    return y.mean(1)


JOBS = {
    "smc": draws("smc"),
    "nuts": draws("nuts", n_warmup=10),
    "hmc": draws("hmc"),
    "vi": draws("vi", n_steps=10),
    "importance": draws("importance"),
    "stream": streamed,
    "load": lambda seed: load("gp-1d").decoder.head.weight.detach(),
    "fit": fitted,
    "bayesian": bayesian,
    "prior": lambda seed: named_prior("gp").sample(3, 4, 4, seed=seed).y_query,
    "tasks": lambda seed: named_tasks("dt-normal").sample(3, 4, 1, seed=seed).u,
    "new network": lambda seed: PFN.new(PRIOR, TINY, seed).embed_x[0].weight.detach(),
    "joint": lambda seed: joint_sample(load("gp-1d"), X[None], Y[None], X[None, :2], 3, seed=seed),
    "martingale": lambda seed: martingale_posterior(
        load("gp-1d"), X, Y, mean_of, n_draws=3, n_future=3, seed=seed
    ),
    "training": lambda seed: (
        train(
            PRIOR,
            TINY,
            TrainingConfig(n_steps=3, n_tasks=4, n_context=(0, 5), n_query=3, seed=seed),
            progress=False,
        )
        .embed_x[0]
        .weight.detach()
    ),
}


def run(name, seed):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return np.asarray(JOBS[name](seed))


@pytest.fixture(scope="module")
def alone():
    """What each job answers when nothing else runs."""
    return {(name, seed): run(name, seed) for name in JOBS for seed in range(2)}


@pytest.mark.filterwarnings("ignore")
def test_answers_do_not_depend_on_other_threads(alone):
    jobs = list(alone)
    torch.manual_seed(5)
    before, dtype = torch.random.get_rng_state(), torch.get_default_dtype()
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda job: run(*job), jobs))
    wrong = {
        job
        for job, answer in zip(jobs, answers, strict=True)
        if not np.array_equal(answer, alone[job])
    }
    assert not wrong
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.get_default_dtype() is dtype


@pytest.mark.filterwarnings("ignore")
def test_the_users_own_draws_do_not_depend_on_other_threads():
    """Nor do the answers depend on the user's draws."""
    alone, found, stop = run("smc", 0), [], threading.Event()

    def draw_on():
        while not stop.is_set():
            torch.manual_seed(1)
            found.append(torch.rand(100, dtype=torch.float32))

    thread = threading.Thread(target=draw_on)
    thread.start()
    answers = [run(name, 0) for name in ("smc", "bayesian", "joint", "smc")]
    stop.set()
    thread.join()
    torch.manual_seed(1)
    expected = torch.rand(100)
    assert all(torch.equal(draws, expected) for draws in found) and len(found) > 10
    assert np.array_equal(answers[0], alone) and np.array_equal(answers[-1], alone)


@pytest.mark.filterwarnings("ignore")
def test_asyncio(alone):
    jobs = [job for job in alone if job[0] in ("smc", "fit", "load", "prior")]

    async def gather():
        return await asyncio.gather(*(asyncio.to_thread(run, *job) for job in jobs))

    for job, answer in zip(jobs, asyncio.run(gather()), strict=True):
        assert np.array_equal(answer, alone[job])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
@pytest.mark.filterwarnings("ignore")
def test_a_child_forked_during_infer_is_free(alone):
    begun, stop = threading.Event(), threading.Event()

    def slow(x, y=None):
        begun.set()
        return program(x, y)

    def work():
        while not stop.is_set():
            infer(slow, X, Y, method="hmc", n_draws=40)

    thread = threading.Thread(target=work)
    thread.start()
    begun.wait()
    for wait in (0.0, 0.03, 0.07):
        time.sleep(wait)
        child = os.fork()
        if child == 0:  # pragma: no cover
            status = 1
            try:
                same = all(np.array_equal(run(n, 0), alone[n, 0]) for n in ("smc", "fit", "prior"))
                plain = torch.get_default_dtype() is torch.float32 and dist.is_validation_enabled()
                status = 0 if same and plain else 2
            finally:
                os._exit(status)
        end = time.monotonic() + 60
        while (found := os.waitpid(child, os.WNOHANG))[0] == 0 and time.monotonic() < end:
            time.sleep(0.01)
        if found[0] == 0:
            os.kill(child, 9)
            os.waitpid(child, 0)
        assert found[0] != 0, "the child hangs"
        assert os.waitstatus_to_exitcode(found[1]) == 0
    stop.set()
    thread.join()
