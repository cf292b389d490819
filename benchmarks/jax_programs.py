# ruff: noqa: D103 -- what a program is, its namesake says
"""The programs of `posteriors` a second time, in NumPyro, whose compiled NUTS makes references.

``check`` compares both log densities, so that a mistake in one of them is no reference.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from numpyro import sample
from numpyro.infer import MCMC, NUTS
from numpyro.infer.util import log_density

jax.config.update("jax_enable_x64", True)

GROUPS = np.arange(20) % 5
LAG = np.arange(20)[:, None] - np.arange(20)


def normal(x: Any, y: Any) -> None:
    """As `posteriors.normal`; each program below is as the one of its name there."""
    mean, scale = sample("mean", dist.Normal(0.0, 5.0)), sample("scale", dist.HalfNormal(5.0))
    sample("y", dist.Normal(mean, scale).expand([len(x)]), obs=y)


def linear(x: Any, y: Any) -> None:
    weights = sample("weights", dist.Normal(jnp.zeros(3), 2.0).to_event(1))
    sample("y", dist.Normal(x @ weights, sample("scale", dist.HalfCauchy(1.0))), obs=y)


def robust(x: Any, y: Any) -> None:
    weights = sample("weights", dist.Normal(jnp.zeros(3), 2.0).to_event(1))
    scale, freedom = sample("scale", dist.HalfNormal(1.0)), sample("freedom", dist.Gamma(2.0, 0.1))
    sample("y", dist.StudentT(freedom, x @ weights, scale), obs=y)


def logistic(x: Any, y: Any) -> None:
    weights = sample("weights", dist.Normal(jnp.zeros(3), 2.0).to_event(1))
    sample("y", dist.Bernoulli(logits=x @ weights), obs=(y > 0).astype(int))


def poisson(x: Any, y: Any) -> None:
    weights = sample("weights", dist.Normal(jnp.zeros(3), 1.0).to_event(1))
    rate = jnp.exp(jnp.clip(0.5 * x @ weights, max=20.0))
    sample("y", dist.Poisson(rate), obs=jnp.round(jnp.abs(y)))


def negative_binomial(x: Any, y: Any) -> None:
    weights = sample("weights", dist.Normal(jnp.zeros(3), 1.0).to_event(1))
    shape = sample("shape", dist.Gamma(2.0, 0.5))
    rate = shape * jnp.exp(jnp.clip(-0.5 * x @ weights, min=-20.0))
    sample("y", dist.GammaPoisson(shape, rate), obs=jnp.round(jnp.abs(y)))


def groups(x: Any, y: Any) -> None:
    spread, scale = sample("spread", dist.HalfNormal(2.0)), sample("scale", dist.HalfNormal(2.0))
    shift = sample("shift", dist.Normal(jnp.zeros(5), 1.0).to_event(1))
    sample("y", dist.Normal(spread * shift[GROUPS], scale), obs=y)


def varying_slopes(x: Any, y: Any) -> None:
    mean, spread = sample("mean", dist.Normal(0.0, 2.0)), sample("spread", dist.HalfNormal(1.0))
    slope = sample("slope", dist.Normal(jnp.zeros(5), 1.0).to_event(1))
    scale = sample("scale", dist.HalfNormal(2.0))
    sample("y", dist.Normal((mean + spread * slope[GROUPS]) * x[:, 0], scale), obs=y)


def mixture(x: Any, y: Any) -> None:
    share, low = sample("share", dist.Beta(2.0, 2.0)), sample("low", dist.Normal(0.0, 3.0))
    gap, scale = sample("gap", dist.Gamma(4.0, 1.0)), sample("scale", dist.HalfNormal(1.0))
    parts = dist.Normal(jnp.stack([low, low + gap]), scale)
    law = dist.MixtureSameFamily(dist.Categorical(jnp.stack([share, 1 - share])), parts)
    sample("y", law.expand([len(x)]), obs=y)


def autoregression(x: Any, y: Any) -> None:
    persistence = sample("persistence", dist.Uniform(-1.0, 1.0))
    scale = sample("scale", dist.HalfNormal(2.0))
    variance = scale**2 / (1 - persistence**2 + 1e-6)
    sign = jnp.where(LAG % 2 == 0, 1.0, jnp.sign(persistence))
    covariance = variance * sign * (jnp.abs(persistence) + 1e-6) ** np.abs(LAG)
    law = dist.MultivariateNormal(jnp.zeros(len(x)), covariance + 1e-4 * jnp.eye(len(x)))
    sample("y", law, obs=y)


def gaussian_process(x: Any, y: Any) -> None:
    lengthscale = sample("lengthscale", dist.LogNormal(0.0, 0.5))
    scale = sample("scale", dist.LogNormal(0.5, 0.5))
    noise = sample("noise", dist.LogNormal(-1.0, 0.5))
    squared = (x[:, :1] - x[:, :1].T) ** 2
    covariance = scale**2 * jnp.exp(-0.5 * squared / lengthscale**2)
    law = dist.MultivariateNormal(jnp.zeros(len(x)), covariance + noise**2 * jnp.eye(len(x)))
    sample("y", law, obs=y)


def changepoint(x: Any, y: Any) -> None:
    before, after = sample("before", dist.Normal(0.0, 3.0)), sample("after", dist.Normal(0.0, 3.0))
    when, scale = sample("when", dist.Beta(2.0, 2.0)), sample("scale", dist.HalfNormal(2.0))
    share = jax.nn.sigmoid(20 * (jnp.linspace(0, 1, len(x)) - when))
    sample("y", dist.Normal(before + (after - before) * share, scale), obs=y)


def local_level(x: Any, y: Any) -> None:
    step, scale = sample("step", dist.HalfNormal(0.5)), sample("scale", dist.HalfNormal(2.0))
    moves = sample("moves", dist.Normal(jnp.zeros(len(x)), 1.0).to_event(1))
    sample("y", dist.Normal(step * jnp.cumsum(moves), scale), obs=y)


def volatility(x: Any, y: Any) -> None:
    level = sample("level", dist.Normal(0.0, 1.0))
    persistence = sample("persistence", dist.Beta(10.0, 2.0))
    spread = sample("spread", dist.HalfNormal(0.5))
    moves = sample("moves", dist.Normal(jnp.zeros(len(x)), 1.0).to_event(1))
    decay = jnp.where(LAG >= 0, persistence ** np.maximum(LAG, 0), 0.0)
    sample("y", dist.Normal(0.0, jnp.exp(level + spread * decay @ moves)), obs=y)


def counts_in_groups(x: Any, y: Any) -> None:
    slope, mean = sample("slope", dist.Normal(0.0, 1.0)), sample("mean", dist.Normal(0.0, 1.0))
    spread = sample("spread", dist.HalfNormal(1.0))
    shift = sample("shift", dist.Normal(jnp.zeros(5), 1.0).to_event(1))
    rate = jnp.exp(jnp.clip(mean + spread * shift[GROUPS] + slope * x[:, 0], max=20.0))
    sample("y", dist.Poisson(rate), obs=jnp.round(jnp.abs(y)))


def check(
    name: str,
    x: np.ndarray,
    y: np.ndarray,
    values: dict[str, np.ndarray],
    log_joint: Sequence[float],
) -> None:
    """Raises a ValueError where a program here has another log density than its namesake.

    Args:
        name: of the program.
        x: its inputs.
        y: its answers.
        values: of the latents in their own units, some of each.
        log_joint: of these, by the other program.
    """
    for i, expected in enumerate(log_joint):
        at = {latent: jnp.asarray(value[i]) for latent, value in values.items()}
        found = float(log_density(globals()[name], (x, y), {}, at)[0])
        if not np.isclose(found, expected, rtol=1e-6, atol=1e-4):
            raise ValueError(f"Expected log density {expected} of {name} at {at}; got {found}.")


def chains(
    name: str, x: np.ndarray, y: np.ndarray, latents: Sequence[str], n_draws: int, seed: int
) -> np.ndarray:
    """Four chains of NUTS in the latents' own units, ``(4, n_draws, k)``."""
    program: Callable[[Any, Any], None] = globals()[name]
    run = MCMC(
        NUTS(program, target_accept_prob=0.95),
        num_warmup=2000,
        num_samples=n_draws,
        num_chains=4,
        chain_method="sequential",
        progress_bar=False,
    )
    run.run(jax.random.PRNGKey(seed), x, y)
    draws = run.get_samples(group_by_chain=True)
    return np.concatenate([np.reshape(draws[key], (4, n_draws, -1)) for key in latents], -1)
