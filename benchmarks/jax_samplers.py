"""NUTS of NumPyro and of BlackJAX on the problems of `samplers`, for one dataset or many at once.

Many datasets are one chain each, mapped by JAX: equal copies here, but nothing uses that. Both
libraries run in float64 at their defaults. Each function gives the CPU seconds before the first
draw, compilation included, and draws in unconstrained or own units, ``(chains, draws, dim)``.
"""

import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.infer import MCMC, NUTS
from numpyro.infer.util import initialize_model

jax.config.update("jax_enable_x64", True)

SIGMA = np.array([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0])


def eight_schools(x: Any, y: Any) -> None:
    """As `samplers.eight_schools`."""
    mean = numpyro.sample("mean", dist.Normal(0.0, 5.0))
    spread = numpyro.sample("spread", dist.HalfCauchy(5.0))
    with numpyro.plate("schools", len(SIGMA)):
        effect = numpyro.sample("effect", dist.Normal(0.0, 1.0))
        numpyro.sample("y", dist.Normal(mean + spread * effect, SIGMA), obs=y)


def gaussian_process(x: Any, y: Any) -> None:
    """As `samplers.gaussian_process`."""
    lengthscale = numpyro.sample("lengthscale", dist.LogNormal(-1.0, 0.5))
    scale = numpyro.sample("scale", dist.LogNormal(0.0, 0.5))
    noise = numpyro.sample("noise", dist.LogNormal(-2.0, 0.5))
    covariance = scale**2 * jnp.exp(-0.5 * ((x - x.T) / lengthscale) ** 2)
    covariance = covariance + noise**2 * jnp.eye(len(x))
    numpyro.sample("y", dist.MultivariateNormal(jnp.zeros(len(x)), covariance), obs=y)


def logistic(x: Any, y: Any) -> None:
    """As `samplers.logistic`."""
    weights = numpyro.sample("weights", dist.Normal(jnp.zeros(x.shape[1]), 1.0).to_event(1))
    shift = numpyro.sample("shift", dist.Normal(0.0, 1.0))
    numpyro.sample("y", dist.Bernoulli(logits=x @ weights + shift).to_event(1), obs=y)


MODELS: dict[str, Callable[[Any, Any], None]] = {
    "eight schools": eight_schools,
    "GP, 20 points": gaussian_process,
    "logistic 500 x 8": logistic,
}


def numpyro_nuts(
    problem: str, x: np.ndarray, y: np.ndarray, n_warmup: int, n_draws: int, n_datasets: int
) -> tuple[float, np.ndarray]:
    """One chain a dataset, all in step."""
    began = time.process_time()
    run = MCMC(
        NUTS(MODELS[problem]),
        num_warmup=n_warmup,
        num_samples=n_draws,
        num_chains=n_datasets,
        chain_method="vectorized",
        progress_bar=False,
    )
    run.warmup(jax.random.PRNGKey(0), x, y)
    jax.block_until_ready(run.last_state)
    before = time.process_time() - began
    run.run(run.last_state.rng_key, x, y)
    draws = run.get_samples(group_by_chain=True).values()
    return before, np.concatenate([np.reshape(d, (*d.shape[:2], -1)) for d in draws], -1)


def blackjax_nuts(
    problem: str, x: np.ndarray, y: np.ndarray, n_warmup: int, n_draws: int, n_datasets: int
) -> tuple[float, np.ndarray]:
    """Window adaptation, then draws; one chain a dataset."""
    import blackjax

    began = time.process_time()
    keys = jax.random.split(jax.random.PRNGKey(0), n_datasets)

    def warm_up(key: Any) -> Any:
        model = initialize_model(key, MODELS[problem], model_args=(x, y))
        log_density = lambda u: -model.potential_fn(u)  # noqa: E731
        adaptation = blackjax.window_adaptation(blackjax.nuts, log_density)
        return adaptation.run(key, model.param_info.z, n_warmup)[0]

    def draw(key: Any, state: Any, parameters: Any) -> Any:
        model = initialize_model(key, MODELS[problem], model_args=(x, y))
        kernel = blackjax.nuts(lambda u: -model.potential_fn(u), **parameters)

        def step(state: Any, key: Any) -> Any:
            state, _ = kernel.step(key, state)
            return state, state.position

        return jax.lax.scan(step, state, jax.random.split(key, n_draws))[1]

    adapted = jax.block_until_ready(jax.jit(jax.vmap(warm_up))(keys))
    before = time.process_time() - began
    draws = jax.jit(jax.vmap(draw))(keys, adapted.state, adapted.parameters)
    flat = [np.reshape(d, (*d.shape[:2], -1)) for d in jax.tree_util.tree_leaves(draws)]
    return before, np.concatenate(flat, -1)
