r"""Bayesian prediction for Gaussian processes with one to three scalar hyperparameters, on a grid.

The hyperparameters' prior is divided into cells of equal mass with their medians as nodes. The
posterior weight of a node is therefore proportional to its likelihood, and the predictive is the
weighted mixture of the exact predictives given each node. The error decreases with the number of
nodes and can be estimated by doubling it.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Categorical, Distribution, MixtureSameFamily, Normal

from amortized.priors.regression.gaussian_process import GaussianProcessPrior
from amortized.priors.task import TaskBatch


class HyperposteriorGrid:
    """The posterior of a Gaussian process's hyperparameters given each context of a batch.

    Args:
        prior: Gaussian process prior with one feature and one to three random hyperparameters.
        batch: tasks whose contexts are conditioned on.
        n_nodes: nodes along each hyperparameter.

    Attributes:
        nodes: ``{name: (nodes,)}``, all combinations.
        log_weights: normalised log posterior weights, ``(batch, nodes)``.
        log_evidence: log density of the context targets, ``(batch,)``.

    Raises:
        ValueError: if the prior has more features or random hyperparameters than a grid can handle.

    Example:
        >>> from amortized.priors import named_prior
        >>> prior = named_prior("gp-1d")
        >>> batch = prior.sample(2, 10, 5, seed=0)
        >>> HyperposteriorGrid(prior, batch, n_nodes=20).predictive(batch).mean.shape
        torch.Size([2, 5])
    """

    def __init__(self, prior: GaussianProcessPrior, batch: TaskBatch, n_nodes: int = 50) -> None:
        latent = {n: h for n, h in prior.hyperparameters.items() if isinstance(h, Distribution)}
        if batch.n_features != 1 or not 1 <= len(latent) <= 3:
            raise ValueError(
                f"Expected one feature and one to three latent hyperparameters; got "
                f"{batch.n_features} and {sorted(latent)}. Use infer(..., method='nuts')."
            )
        self.prior = prior
        levels = (torch.arange(n_nodes, dtype=torch.float64) + 0.5) / n_nodes
        axes = torch.meshgrid(*(h.icdf(levels) for h in latent.values()), indexing="ij")
        self.nodes = {name: axis.flatten() for name, axis in zip(latent, axes, strict=True)}
        n = len(levels) ** len(latent)
        self._hyperparameters = {
            name: torch.full((n,), float(value)).double()
            for name, value in prior.hyperparameters.items()
            if not isinstance(value, Distribution)
        } | self.nodes
        for name in ("lengthscale", "period"):
            if name in self._hyperparameters:
                self._hyperparameters[name] = self._hyperparameters[name][:, None]
        log_likelihood = torch.stack([self._log_likelihood(batch, i) for i in range(batch.n_tasks)])
        self.log_evidence = log_likelihood.logsumexp(-1) - math.log(n)
        self.log_weights = log_likelihood.log_softmax(-1)

    def _one(self, batch: TaskBatch, i: int) -> TaskBatch:
        """Task i in float64, expanded (as a view) to one copy per node."""
        n = len(next(iter(self.nodes.values())))
        x, y, z, w = (
            part[i].double().expand(n, *part[i].shape)
            for part in (batch.x_context, batch.y_context, batch.x_query, batch.y_query)
        )
        return TaskBatch(x, y, z, w)

    def _log_likelihood(self, batch: TaskBatch, i: int) -> Tensor:
        task = self._one(batch, i)
        return self.prior.log_evidence(task.x_context, task.y_context, self._hyperparameters)

    def predictive(self, batch: TaskBatch) -> MixtureSameFamily:
        """Posterior predictives, mixtures over the nodes of batch shape ``(batch, query)``.

        Args:
            batch: the batch from which the weights were computed.
        """
        per_task = [
            self.prior.posterior_predictive(self._one(batch, i), self._hyperparameters)
            for i in range(batch.n_tasks)
        ]
        mean = torch.stack([normal.mean.T for normal in per_task])
        scale = torch.stack([normal.stddev.T for normal in per_task])
        logits = self.log_weights[:, None, :].expand_as(mean)
        return MixtureSameFamily(Categorical(logits=logits), Normal(mean, scale))

    def mean(self) -> dict[str, Float[Tensor, " batch"]]:
        """Posterior mean of each hyperparameter."""
        weights = self.log_weights.exp()
        return {name: weights @ nodes for name, nodes in self.nodes.items()}
