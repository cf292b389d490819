r"""The density of a Pyro program, as samplers use it.

The latents of one dataset, each mapped to the real line by the inverse :math:`b^{-1}` of the
bijection to its support and concatenated, are a vector :math:`u \in R^d`. Its log density is

.. math:: \log p(b(u)) + \log |\det J_b(u)| + \log p(y \mid b(u), x),

where the first two terms are the log prior and the last is the log likelihood. Supports are
determined in every run, so the support of one latent may depend on another.

Discrete latents are summed out where Pyro can enumerate them, and rejected otherwise (see
`amortized.program.discrete.enumeration`).
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from amortized.program.discrete.enumeration import enumerable_latents
from amortized.program.discrete.factors import (
    Factors,
    all_factors,
    discrete_draws,
    discrete_probabilities,
    log_densities,
)
from amortized.program.observations.missing import may_miss
from amortized.program.plain_trace import settle
from amortized.program.sites import (
    Evaluate,
    Place,
    Unconstrain,
    base_support,
    check_observation,
    has_density,
    lay_out,
    leave,
    observations,
    refuse,
    run_for_latents,
    trace_program,
)
from amortized.program.support import outside
from amortized.program.vectorised import (
    ForBatches,
    FunctionalSamplers,
    Program,
    is_deterministic,
    loop,
    precision,
    quiet_program,
    refusing_numpy,
)
from amortized.seeding import nothing_drawn

Points = Float[Tensor, "batch particles dim"]
Values = Float[Tensor, "batch particles"]


class ProgramDensity:
    """The log density of a program's latents, for a batch of datasets and many particles.

    Args:
        model: a Pyro program ``model(x, y=None)`` for one dataset, observing ``y`` at site "y".
        x: inputs, ``(batch, n, n_features)``.
        y: observations, ``(batch, n)``; any trailing shape that the site "y" has is allowed.
        allow_no_latents: whether u may be empty; the density is then the evidence.
        allow_simulator: whether the distribution of the site "y" may lack a ``log_prob``; the log
            likelihood, and with it the density, is then NaN everywhere.

    Attributes:
        dim: d, the number of unconstrained coordinates.
        layout: ``{name: (slice into u, unconstrained shape)}``.
        deterministic: names of the program's `pyro.deterministic` sites.
        discrete: the discrete latents, which are summed out; None if there are none.
        is_simulator: whether the observation has no density.
        priors: distributions of the latents in one run of the program on the first dataset.
        supports: supports of their elements.

    Raises:
        ValueError: if the program fails, does not observe ``y``, has discrete latents that Pyro
            cannot enumerate, or subsamples a plate; or if ``y`` is not finite or outside the
            support of its distribution.

    Example:
        >>> import pyro, torch, pyro.distributions as dist
        >>> def coin(x, y=None):
        ...     p = pyro.sample("p", dist.Beta(1.0, 1.0))
        ...     return pyro.sample("y", dist.Bernoulli(p).expand([len(x)]).to_event(1), obs=y)
        >>> density = ProgramDensity(coin, torch.zeros(2, 1, 0), torch.ones(2, 1))
        >>> u = torch.zeros(2, 3, 1)
        >>> density.log_likelihood(u).shape, round(density.constrain(u)["p"][0, 0].item(), 3)
        (torch.Size([2, 3]), 0.5)
    """

    def __init__(
        self,
        model: Program,
        x: Float[Tensor, "batch n features"],
        y: Float[Tensor, "batch n *event"],
        *,
        allow_no_latents: bool = False,
        allow_simulator: bool = False,
    ) -> None:
        if x.ndim != 3 or y.ndim < 2 or x.shape[:2] != y.shape[:2]:
            raise ValueError(
                "Expected x of shape (batch, n, n_features) and y of shape (batch, n); got "
                f"{tuple(x.shape)} and {tuple(y.shape)}."
            )
        self.model, self.x, self.y = model, x, y
        with precision(y.dtype):
            trace = trace_program(model, x[0], y[0])
        simulated = [
            f"the distribution of the site '{name}', {type(site['fn']).__name__}"
            for name, site in observations(trace).items()
            if not has_density(site["fn"], site["value"])
        ]
        self.is_simulator = bool(simulated)
        if self.is_simulator and not allow_simulator:
            raise ValueError(
                f"Expected an observation with a density; {', '.join(simulated)}, has no log_prob. "
                "Use a network trained on the program: infer(..., method='dt', network=...), or "
                "learn from simulations: method='npe' or 'snl'."
            )
        if not self.is_simulator:
            check_observation(trace, y, may_miss(model))
        self.deterministic = [name for name, s in trace.nodes.items() if is_deterministic(s)]
        self.discrete = enumerable_latents(trace)
        summed_out = () if self.discrete is None else self.discrete.names
        self.layout = lay_out(trace, summed_out, allow_none=allow_no_latents)
        self.priors = {name: trace.nodes[name]["fn"] for name in self.layout}
        self.supports = {name: base_support(fn) for name, fn in self.priors.items()}
        self.dim = self.layout.dim
        self.vectorised = True
        self._n_calls = [0]  # shared with the densities of chosen datasets
        self._bytes: dict[tuple[torch.Size, torch.Size], int] = {}  # by the shapes of one dataset
        settle(self, trace)

    @property
    def n_datasets(self) -> int:
        """Number of datasets in the batch."""
        return self.x.shape[0]

    @property
    def n_calls(self) -> int:
        """Number of points at which the likelihood was evaluated so far, over all datasets."""
        return self._n_calls[0]

    def take(self, index: Tensor) -> "ProgramDensity":
        """The density of the chosen datasets alone."""
        return self.of_data(self.x[index], self.y[index])

    def of_data(
        self, x: Float[Tensor, "batch n features"], y: Float[Tensor, "batch n *event"]
    ) -> "ProgramDensity":
        """The density of the same program for other datasets, without checks."""
        other = object.__new__(ProgramDensity)
        other.__dict__.update(self.__dict__)
        other.x, other.y = x, y
        return other

    def log_prior_and_likelihood(self, u: Points) -> tuple[Values, Values]:
        """Log prior with the Jacobian's log determinant, and log likelihood, in one run."""
        self._check(u)
        self._n_calls[0] += u.shape[0] * u.shape[1]
        with nothing_drawn():
            return self.over_all(self.evaluate, u)

    def evaluate(
        self, u: Tensor, x: Tensor, y: Tensor, pinned: Mapping[str, Tensor] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Log prior and log likelihood of one particle of one dataset.

        Discrete latents that are pinned have these values and are not summed out.
        """
        if self.discrete is not None:
            return log_densities(
                all_factors(self.model, self.layout, self.discrete, u, x, y, pinned)
            )
        run = Evaluate(self.layout, u, self.is_simulator)
        if self.is_simulator:  # which is not run in vain
            run_for_latents(run, self.model, x, y)
            return run.log_prior, run.log_likelihood + torch.nan
        with run:
            self.model(x, y)
        run.require_all()
        return run.log_prior, run.log_likelihood

    def log_prior(self, u: Points) -> Values:
        """Log prior density of u, including the log determinant of the Jacobian.

        The runs end with the last latent: the likelihood is not evaluated.
        """
        if self.discrete is not None:
            return self.log_prior_and_likelihood(u)[0]
        self._check(u)
        with nothing_drawn():
            return self.over_all(self._log_prior_of_one, u)

    def _log_prior_of_one(self, u: Tensor, x: Tensor, y: Tensor) -> Tensor:
        run = Evaluate(self.layout, u)
        run_for_latents(run, self.model, x, y)
        run.require_all()
        return run.log_prior

    def log_likelihood(self, u: Points) -> Values:
        """Log likelihood of the observations, including any `pyro.factor`."""
        return self.log_prior_and_likelihood(u)[1]

    def log_density(self, u: Points) -> Values:
        """Log posterior density of u up to a constant: log prior + log likelihood."""
        log_prior, log_likelihood = self.log_prior_and_likelihood(u)
        return log_prior + log_likelihood

    def log_density_of_one(self, u: Float[Tensor, " dim"]) -> Float[Tensor, ""]:
        """Log posterior density of one point for the first dataset, without `vmap`.

        It can therefore be traced; outside `quiet_program` it checks the program's arguments.
        """
        with nothing_drawn(), precision(self.y.dtype), refusing_numpy():
            log_prior, log_likelihood = self.evaluate(u, self.x[0], self.y[0])
        return log_prior + log_likelihood

    def log_jacobian(self, u: Points) -> Values:
        """Log determinant of the Jacobian of `constrain`."""
        return self.run_for_all(lambda u, x, y: self._place(u, x, y).log_jacobian, u)

    def _place(self, u: Tensor, x: Tensor, y: Tensor) -> Place:
        """A run of the program with the latents at u, and any discrete ones drawn."""
        with FunctionalSamplers():
            if self.discrete is None:
                run = Place(self.layout, u)
                run_for_latents(run, self.model, x, y)
                return run
            run = Place(self.layout, u, leave)
            with run:
                self.model(x, y)
        return run

    def constrain(self, u: Points) -> dict[str, Tensor]:
        """The latents in their own units, ``{name: (batch, particles, ...)}``."""
        self._check(u)
        if not self.layout:
            return {}

        with torch.no_grad():
            return self.run_for_all(lambda u, x, y: self._place(u, x, y).values, u)

    def discrete_draws(self, u: Points) -> dict[str, Tensor]:
        """A joint draw of the discrete latents given each particle and its data.

        Returns:
            ``{name: (batch, particles, *shape)}``, with torch's global generator.
        """
        return self._of_discrete(_one_draw, u)

    def discrete_probabilities(self, u: Points) -> dict[str, Tensor]:
        """The probabilities of the values of each discrete latent given each particle.

        Returns:
            ``{name: (batch, particles, *shape, values)}``.
        """
        return self._of_discrete(discrete_probabilities, u)

    def log_probability_of(self, values: Mapping[str, Tensor], u: Points) -> Values:
        """Log probability of values of discrete latents given each particle and its data.

        Args:
            values: ``{name: (batch, particles, *shape)}``; latents without values are summed out.
            u: the particles.
        """
        possible = self.discrete.values if self.discrete else {}
        known = torch.ones(u.shape[:2], dtype=torch.bool, device=u.device)
        for name, value in values.items():
            known &= torch.isin(value, possible[name].to(value)).reshape(*u.shape[:2], -1).all(-1)
        pinned = {name: value.to(possible[name].dtype) for name, value in values.items()}
        with torch.no_grad():
            log_prior, log_likelihood = self.over_all(
                lambda at, x, y: self.evaluate(at[0], x, y, at[1]), (u, pinned)
            )
            total = self.log_density(u)
        known &= total > -torch.inf
        return torch.where(known, log_prior + log_likelihood - total, -torch.inf)

    def _of_discrete(
        self, function: Callable[[list[Factors]], dict[str, Tensor]], u: Tensor
    ) -> dict[str, Tensor]:
        discrete = self.discrete
        if discrete is None:
            return {}

        def one(u: Tensor, x: Tensor, y: Tensor) -> Any:
            return function(all_factors(self.model, self.layout, discrete, u, x, y))

        with torch.no_grad():
            return self.run_for_all(one, u)

    def deterministic_values(self, u: Points, discrete: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The values of the `pyro.deterministic` sites, ``{name: (batch, particles, *shape)}``.

        Args:
            u: the particles.
            discrete: values of the discrete latents for each particle.
        """
        if not self.deterministic:
            return {}

        def one(at: tuple[Tensor, dict[str, Tensor]], x: Tensor, y: Tensor) -> dict[str, Tensor]:
            def put(message: Any) -> None:
                if message["name"] not in at[1]:
                    refuse(message)
                message["value"] = at[1][message["name"]]

            found: dict[str, Tensor] = {}

            def collect(message: Any) -> None:
                if is_deterministic(message):
                    found[message["name"]] = message["value"] + 0

            with Place(self.layout, at[0], put, collect):
                self.model(x, y)
            return found

        with torch.no_grad():
            return self.run_for_all(one, (u, dict(discrete)))

    def unconstrain(self, latents: Mapping[str, Tensor]) -> Points:
        """The inverse of `constrain`."""
        return self.unconstrain_and_check(latents)[0]

    def unconstrain_and_check(
        self, latents: Mapping[str, Tensor]
    ) -> tuple[Points, Bool[Tensor, "batch particles"]]:
        """The inverse of `constrain`, and whether the latents lie in their supports.

        Outside of the supports u is undefined and may be NaN.
        """
        missing = set(self.layout) - set(latents)
        if missing:
            raise ValueError(f"Expected values for {sorted(self.layout)}; got none for {missing}.")

        def collect(given: dict[str, Tensor], x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
            run = Unconstrain(self.layout, given)
            run_for_latents(run, self.model, x, y)
            return run.vector(), run.inside

        return self.run_for_all(collect, {name: latents[name] for name in self.layout})

    def outside(self, u: Points) -> Values:
        """Distance of the observations from supports that depend on latents; 0 if inside."""

        def far(u: Tensor, x: Tensor, y: Tensor) -> Tensor:
            distances = [u.new_zeros(())]

            def add(message: Any) -> None:
                distances.append(outside(message["fn"], message["value"]))

            with FunctionalSamplers(), Place(self.layout, u, leave, add):
                self.model(x, y)
            return torch.stack(distances).sum()

        return self.over_all(far, u)

    def sample_prior(self, n_particles: int) -> Points:
        """Draws u from the prior with torch's global generator."""

        def collect(_: Tensor, x: Tensor, y: Tensor) -> Tensor:
            run = Unconstrain(self.layout)
            with FunctionalSamplers():
                run_for_latents(run, self.model, x, y)
            # A prior with float32 parameters draws float32 even for float64 data.
            return run.vector().to(y.dtype)

        with torch.no_grad():
            return self.run_for_all(collect, self.x.new_empty(self.n_datasets, n_particles))

    def prior_lots(self, n_lots: int, n_each: int) -> Float[Tensor, "batch lots each dim"]:
        """Groups of draws from the prior, as starting points for finding several modes."""
        return self.sample_prior(n_lots * n_each).unflatten(1, (n_lots, n_each))

    def bytes_per_particle(self) -> int:
        """Memory that autograd keeps for one evaluation of the density, as measured once."""
        shapes = self.x.shape[1:], self.y.shape[1:]
        if shapes not in self._bytes:
            self._bytes[shapes] = self._count_bytes()
        return self._bytes[shapes]

    def _count_bytes(self) -> int:
        kept = 0

        def count(tensor: Tensor) -> Tensor:
            nonlocal kept
            kept += tensor.numel() * tensor.element_size()
            return tensor

        one = self.take(torch.tensor([0], device=self.x.device))
        u = self.y.new_zeros(1, 16, self.dim).requires_grad_()
        hooks = torch.autograd.graph.saved_tensors_hooks(count, lambda kept: kept)
        with torch.enable_grad(), hooks:
            one.log_density(u)
        return max(64, kept // 16)

    def _check(self, u: Tensor) -> None:
        if u.ndim != 3 or u.shape[0] != self.n_datasets or u.shape[2] != self.dim:
            raise ValueError(
                f"Expected u of shape ({self.n_datasets}, particles, {self.dim}); got "
                f"{tuple(u.shape)}."
            )

    def over_all(self, function: Callable[..., Any], particles: Any) -> Any:
        """Maps a function of one particle and its dataset over particles and datasets."""
        over_particles = torch.func.vmap(function, (0, None, None), randomness="different")
        over_datasets = torch.func.vmap(over_particles, randomness="different")
        with quiet_program(), precision(self.y.dtype), ForBatches():
            if self.vectorised:
                return over_datasets(particles, self.x, self.y)
            return loop(function, particles, self.x, self.y)

    def run_for_all(self, function: Callable[..., Any], particles: Any) -> Any:
        """`over_all` for functions that draw: `vmap` may fail for a sampler but not the density."""
        try:
            return self.over_all(function, particles)
        except Exception:  # an error of the program itself is raised again in the loop
            if not self.vectorised:
                raise
        singly = self.take(torch.arange(self.n_datasets, device=self.x.device))
        singly.vectorised = False
        return singly.over_all(function, particles)


def _one_draw(runs: list[Factors]) -> dict[str, Tensor]:
    return {name: value[0] for name, value in discrete_draws(runs, 1).items()}
