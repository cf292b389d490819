"""Inputs and design matrix shared by generalised linear models."""

import torch
from jaxtyping import Float
from torch import Tensor

from amortized.priors.program_prior import ProgramPrior


class GeneralisedLinearPrior(ProgramPrior):
    """Base of programs whose targets depend on a linear predictor.

    Args:
        n_features: number of inputs.
        intercept: whether there is an intercept, the last coefficient.
        vary_features: whether each task uses only the first few features, their number uniform,
            with zeros for the others, so that one network also serves fewer features.
    """

    def __init__(
        self, n_features: int, *, intercept: bool = True, vary_features: bool = False
    ) -> None:
        if n_features + intercept < 1:
            raise ValueError("Expected a feature or an intercept; got neither.")
        super().__init__(inputs=n_features)
        self.n_features, self.intercept = n_features, intercept
        self.vary_features = vary_features

    def _inputs(self, n_tasks: int, n_rows: int) -> Tensor:
        x = super()._inputs(n_tasks, n_rows)
        if not (self.vary_features and self.n_features):
            return x
        used = torch.randint(1, self.n_features + 1, (n_tasks, 1, 1))
        return x * (torch.arange(self.n_features) < used)

    def design(self, x: Float[Tensor, "*batch rows features"]) -> Tensor:
        """The inputs, with a column of ones if there is an intercept."""
        if not self.intercept:
            return x
        return torch.cat([x, x.new_ones(*x.shape[:-1], 1)], -1)
