r"""The calibration of a flow, measured on the simulations that it was not trained on.

Of a posterior: the truth's rank among draws is uniform for every latent, for the flow's own log
density, and for the distance to a random point (TARP), if the answers are exact; where the program
has a density, draws are weighted by it. Of a likelihood: the flow maps the data to independent
standard normal numbers z, so :math:`\Phi(z)` is uniform, and so is :math:`P(\chi^2 < |z|^2)`.

All of these are uniform too for an answer that ignores the data, such as the prior itself. So a
classifier is trained, on other simulations, to tell the truth from draws *given the data*: the
truth's score is ranked among those of draws for the same data (a local classifier test).

References:
    | Talts et al., Validating Bayesian inference algorithms with simulation-based calibration
    | (2018), arXiv 1804.06788
    | Lemos et al., Sampling-based accuracy testing of posterior estimators for general inference
    | (2023), arXiv 2302.03026
    | Linhart, Gramfort and Rodrigues, L-C2ST: local diagnostics for posterior approximations in
    | simulation-based inference (2023), arXiv 2306.03580
"""

from typing import Any

import numpy as np
import torch
from scipy import stats
from sklearn.ensemble import HistGradientBoostingClassifier
from torch import Tensor

from amortized.networks.calibration import Calibration, random_rank
from amortized.program.density import ProgramDensity
from amortized.seeding import seeded
from amortized.simulation_based.flows.likelihood_flow import LikelihoodFlow
from amortized.simulation_based.flows.posterior_flow import FromFlow, PosteriorFlow
from amortized.simulation_based.simulations import Simulations

_N_DRAWS = 99
_MOST = 1000  # simulations ranked
_MOST_WEIGHED = 200
_N_RIVALS, _MOST_GIVEN = (
    9,
    100,
)  # draws beside each truth, and numbers of the data, for a classifier


def measure_posterior(
    network: PosteriorFlow, held_out: Simulations, density: ProgramDensity | None, seed: int
) -> Calibration:
    """Ranks, and the efficiency of weights where there is a density.

    Args:
        network: trained, in eval mode.
        held_out: simulations from the prior that it was not trained on.
        density: density of the program, for any data; None for a simulator.
        seed: seed of the draws.
    """
    u, x, y = held_out.u[:_MOST], held_out.x[:_MOST], held_out.y[:_MOST]
    inputs = network.inputs(x, y)
    with seeded(seed), torch.no_grad():
        draws = network.sample(_N_DRAWS, inputs)
        found = {
            name: random_rank(u[:, i], draws[..., i]) for i, name in enumerate(network.config.names)
        }
        found["the log density"] = random_rank(
            network.log_prob(u, inputs), network.log_prob(draws, inputs)
        )
        points, spread = u.roll(1, 0), u.std(0).clamp_min(1e-12)  # another dataset's truth
        distances = [((each - points) / spread).square().sum(-1) for each in (u, draws)]
        found["the distance to a random point"] = random_rank(*distances)
        found["a classifier's score"] = _classifier_rank(u, draws, inputs, seed)
        efficiency = None
        if density is not None:
            efficiency = _efficiency(network, density.of_data(x.double(), y.double()), inputs)
    return Calibration.of_ranks(found, (y.shape[1],), efficiency)


def measure_likelihood(
    network: LikelihoodFlow, residual: Tensor, given: Tensor, n_rows: int
) -> Calibration:
    """Whether held-out data are standard normal after the flow.

    Args:
        network: trained, in eval mode.
        residual: residual of held-out data, as `LikelihoodFlow.prepare` makes them.
        given: what they depend on.
        n_rows: rows of a dataset.
    """
    n_members = len(network.ensemble.members)
    with torch.no_grad():
        # A mean of densities has no such map; its members' ranks are as uniform as they are good.
        parts = zip(residual.tensor_split(n_members), given.tensor_split(n_members), strict=True)
        members: list[Any] = list(network.ensemble.members)
        pairs = zip(members, parts, strict=True)
        z = torch.cat([member.to_noise(*part) for member, part in pairs]).double()
    found = {f"number {i} of the data": torch.special.ndtr(z[:, i]) for i in range(z.shape[1])}
    size = z.square().sum(-1).numpy()
    found["the log density"] = torch.as_tensor(stats.chi2.cdf(size, z.shape[1]))
    return Calibration.of_ranks(found, (n_rows,))


def _classifier_rank(u: Tensor, draws: Tensor, inputs: Tensor, seed: int) -> Tensor:
    """The rank of the truth's score among those of draws for the same data, in two folds.

    Args:
        u: the truth, ``(n, dim)``.
        draws: draws of the answers, ``(draws, n, dim)``.
        inputs: what they are given, ``(n, numbers)``.
        seed: seed of the folds and the classifier.
    """
    both = torch.cat([u.unsqueeze(0), draws[:_N_RIVALS]])
    spread = both.flatten(0, 1).std(0).clamp_min(1e-12)
    off = (
        both - draws.mean(0)
    ) / spread  # where the answer's centre is, the classifier need not learn
    given = inputs[:, :_MOST_GIVEN].expand(len(both), -1, -1)
    rows = torch.cat([both / spread, off, given], -1).numpy()
    is_truth = np.zeros(rows.shape[:2])
    is_truth[0] = 1
    fold, scores = torch.rand(len(u)).numpy() < 0.5, np.zeros(rows.shape[:2])
    for chosen in (fold, ~fold):
        judge = HistGradientBoostingClassifier(
            max_iter=60, max_leaf_nodes=15, random_state=seed, class_weight="balanced"
        )
        judge.fit(rows[:, chosen].reshape(-1, rows.shape[-1]), is_truth[:, chosen].reshape(-1))
        others = rows[:, ~chosen].reshape(-1, rows.shape[-1])
        scores[:, ~chosen] = judge.predict_proba(others)[:, 1].reshape(len(rows), -1)
    found = torch.as_tensor(scores)
    found = found + 1e-9 * torch.rand_like(found)  # leaves of a tree give ties
    return random_rank(found[0], found[1:])


def _efficiency(network: PosteriorFlow, density: ProgramDensity, inputs: Tensor) -> float:
    """Effective share of the draws under the exact density, median over datasets."""
    few = torch.arange(min(len(inputs), _MOST_WEIGHED))
    answer, density = FromFlow(network, inputs[few]), density.take(few)
    u = answer.sample(_N_DRAWS)
    log_weights = density.log_density(u) - answer.log_prob(u)
    log_weights = log_weights.where(log_weights.isfinite(), -torch.inf)
    share = 1 / log_weights.softmax(-1).square().sum(-1) / _N_DRAWS
    return float(torch.where(log_weights.isfinite().any(-1), share, 0.0).median())
