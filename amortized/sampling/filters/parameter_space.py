r"""Static parameters as unconstrained vectors, with their prior density.

Each parameter is transformed by the bijection of its prior's support, and the results are joined in
one vector ``u``: ``log p(u) = sum over parameters of log p(b(u)) + log |det J_b(u)|``.
"""

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Distribution

from amortized.program.support import bijection_to
from amortized.seeding import seeded


class ParameterSpace:
    """The unconstrained space of independent parameters.

    Args:
        prior: the prior of each parameter, without batch dimensions.

    Raises:
        ValueError: if there are no parameters, or a prior has batch dimensions.

    Example:
        >>> from torch.distributions import Dirichlet, Gamma
        >>> space = ParameterSpace({"rate": Gamma(2.0, 1.0), "share": Dirichlet(torch.ones(3))})
        >>> u = torch.zeros(4, 3)
        >>> {name: tuple(value.shape) for name, value in space.latents(u).items()}
        {'rate': (4,), 'share': (4, 3)}
    """

    def __init__(self, prior: Mapping[str, Distribution]) -> None:
        if not prior:
            raise ValueError("Expected a prior for at least one parameter; got none.")
        for name, law in prior.items():
            if law.batch_shape:
                raise ValueError(
                    f"Expected the prior of '{name}' without batch dimensions; got "
                    f"{tuple(law.batch_shape)}. Wrap it: torch.distributions.Independent(law, "
                    f"{len(law.batch_shape)})."
                )
        self.prior = dict(prior)
        self._bijections = {name: bijection_to(law.support) for name, law in self.prior.items()}
        with seeded(0):  # any values inside the support will do
            self._example = {name: law.sample() for name, law in self.prior.items()}
        self._shapes = {
            name: bijection.inv(self._example[name]).shape
            for name, bijection in self._bijections.items()
        }

    def unconstrained(self, latents: Mapping[str, Tensor]) -> Float[Tensor, "... dim"]:
        """Vectors of parameters in their own units, ``{name: (..., *event)}``."""
        parts = []
        for name, shape in self._shapes.items():
            u = self._bijections[name].inv(latents[name])
            parts.append(u.reshape(*u.shape[: u.ndim - len(shape)], shape.numel()))
        return torch.cat(parts, -1)

    def latents(self, u: Float[Tensor, "... dim"]) -> dict[str, Tensor]:
        """Parameters in their own units, ``{name: (..., *event)}``."""
        return {name: self._bijections[name](part) for name, part in self._split(u).items()}

    def log_prob(
        self, u: Float[Tensor, "... dim"], laws: Mapping[str, Distribution] | None = None
    ) -> Float[Tensor, "..."]:
        """Log density of vectors under the prior, or under other distributions."""
        laws = self.prior if laws is None else laws
        total = u.new_zeros(u.shape[:-1])
        for name, part in self._split(u).items():
            value, law = self._bijections[name](part), laws[name]
            # Far from the origin the bijection rounds to the boundary, where there is no density.
            inside = is_inside(self.prior[name], value) & is_inside(law, value)
            event = inside.reshape(*inside.shape, *[1] * (value.ndim - inside.ndim))
            log_density = law.log_prob(torch.where(event, value, self._example[name]))
            log_jacobian = self._bijections[name].log_abs_det_jacobian(part, value)
            log_jacobian = log_jacobian.reshape(*u.shape[:-1], -1).sum(-1)
            total = total + torch.where(inside, log_density + log_jacobian, -torch.inf)
        return total

    def _split(self, u: Tensor) -> dict[str, Tensor]:
        """The unconstrained values of each parameter, ``(..., *shape)``."""
        sizes = [shape.numel() for shape in self._shapes.values()]
        parts = zip(self._shapes.items(), u.split(sizes, -1), strict=True)
        return {name: part.reshape(*u.shape[:-1], *shape) for (name, shape), part in parts}


def is_inside(law: Distribution, value: Tensor) -> Tensor:
    """Whether each value is finite and in the support of a distribution."""
    support = law.support
    assert support is not None  # bijection_to rejects distributions without one
    finite = value.isfinite()
    within = support.check(value)
    return within & finite.reshape(*within.shape, -1).all(-1)
