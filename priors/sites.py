"""The sample sites of a Pyro program: where each latent lies in u, and how u is put in and read.

A program is run once on real data to learn its latents. After that a messenger stands around each
run: `Place` gives the latents their values from a vector u, `Evaluate` adds up the log densities as
well, `Unconstrain` collects u from values or from prior draws.
"""

from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from typing import Any

import pyro
import torch
from pyro.distributions.util import scale_and_mask
from pyro.poutine.messenger import Messenger
from torch import Tensor
from torch.distributions import Independent, constraints

from amortized.priors.bijection import bijection_to
from amortized.priors.one_at_a_time import ONE_AT_A_TIME
from amortized.priors.seeding import seeded
from amortized.priors.support import contains, is_fixed, log_prob, outside, support_of
from amortized.priors.vectorised import Program, draw, is_subsample, quiet_program

Layout = dict[str, tuple[slice, torch.Size]]


class _AllPlaced(Exception):
    """Ends a run of the program whose latents are all that is wanted of it."""


class _Site(Messenger):
    """What the messengers below share: which sites are latent, and where each lies in u."""

    to_the_end = True

    def __init__(self, layout: Layout) -> None:
        super().__init__()
        self.layout = layout
        self.values: dict[str, Tensor] = {}

    def _is_latent(self, message: Any) -> bool:
        return message["name"] in self.layout and not message["is_observed"]

    def require_all(self) -> None:
        """Refuses a run without some of the latents: the density would have other dimensions."""
        missing = set(self.layout) - set(self.values)
        if missing:
            raise ValueError(
                f"Expected the sample sites {sorted(self.layout)} in every run of the program; "
                f"{sorted(missing)} appear in some runs only. Draw them always, and choose with "
                "torch.where what they are used for."
            )

    def _pyro_post_sample(self, message: Any) -> None:
        if not self.to_the_end and len(self.values) == len(self.layout):
            raise _AllPlaced


class Place(_Site):
    """Gives the latents their values from u, and keeps what their log Jacobian takes."""

    def __init__(self, layout: Layout, u: Tensor) -> None:
        super().__init__(layout)
        self.u = u
        self._jacobians: list[Callable[[], Tensor]] = []

    @property
    def log_jacobian(self) -> Tensor:
        """Sum over the latents; not computed unless it is asked for."""
        return sum((jacobian() for jacobian in self._jacobians), self.u.new_zeros(()))

    def _pyro_sample(self, message: Any) -> None:
        if is_subsample(message):
            return
        if self._is_latent(message):
            where, shape = self.layout[message["name"]]
            unconstrained = self.u[where].reshape(shape)
            transform = bijection_to(support_of(message["fn"]))
            value = message["value"] = transform(unconstrained)
            self.values[message["name"]] = value
            self._jacobians.append(
                lambda: transform.log_abs_det_jacobian(unconstrained, value).sum()
            )
        elif message["value"] is None:
            self._not_in_u(message)

    def _not_in_u(self, message: Any) -> None:
        """What to do about a site that is neither observed nor in u."""
        raise ValueError(
            f"Expected the sample site '{message['name']}' in every run of the program; it "
            "appears in some runs only. Draw it always, and choose with torch.where what it is "
            "used for."
        )


class PlaceAndDraw(Place):
    """Leaves discrete latents to be drawn."""

    def _not_in_u(self, message: Any) -> None:
        pass


class Evaluate(Place):
    """Adds up the log densities as well; for programs without discrete latents."""

    def __init__(self, layout: Layout, u: Tensor) -> None:
        super().__init__(layout, u)
        self.log_prior = u.new_zeros(())
        self.log_likelihood = u.new_zeros(())

    def _pyro_sample(self, message: Any) -> None:
        super()._pyro_sample(message)
        if is_subsample(message):
            return
        each = log_prob(message["fn"], message["value"])
        total = scale_and_mask(each, message["scale"], message["mask"]).sum()
        if self._is_latent(message):
            self.log_prior = self.log_prior + total + self._jacobians[-1]()
        else:
            self.log_likelihood = self.log_likelihood + total


class EvaluatePrior(Evaluate):
    """Leaves out the observation, which has no density: the log likelihood is not known."""

    def _pyro_sample(self, message: Any) -> None:
        if message["is_observed"]:
            self.log_likelihood = self.log_likelihood + torch.nan
        else:
            super()._pyro_sample(message)


class Outside(PlaceAndDraw):
    """Adds up how far observations lie outside their supports."""

    def __init__(self, layout: Layout, u: Tensor) -> None:
        super().__init__(layout, u)
        self.distance = u.new_zeros(())

    def _pyro_sample(self, message: Any) -> None:
        super()._pyro_sample(message)
        if message["is_observed"] and not is_subsample(message):
            self.distance = self.distance + outside(message["fn"], message["value"])


class Unconstrain(_Site):
    """Collects u from given values, or from prior draws where none are given.

    Attributes:
        inside: whether every given value lies in the support of its latent.
    """

    def __init__(
        self,
        layout: Layout,
        given: Mapping[str, Tensor] | None = None,
    ) -> None:
        super().__init__(layout)
        self.given = given
        self.inside = torch.ones((), dtype=torch.bool)

    def _pyro_sample(self, message: Any) -> None:
        if not self._is_latent(message) or message["value"] is not None:
            return
        name, fn = message["name"], message["fn"]
        value = message["value"] = draw(fn) if self.given is None else self.given[name]
        if self.given is not None:
            self.inside = self.inside & contains(fn, value).all()
        self.values[name] = bijection_to(support_of(fn)).inv(value).reshape(-1)

    def vector(self) -> Tensor:
        """The values end to end, in the order of the layout."""
        self.require_all()
        return torch.cat([self.values[name] for name in self.layout])


def run_for_latents(site: _Site, model: Program, *data: Tensor) -> None:
    """A run that ends with the last latent.

    What comes then, the likelihood of all rows above all, is most of a run.
    """
    site.to_the_end = False
    with suppress(_AllPlaced), site:
        model(*data)


def trace_program(model: Program, x: Tensor, y: Tensor) -> Any:
    """One run of the program on real data, with a message that helps where it fails."""
    try:
        with ONE_AT_A_TIME, seeded(0), torch.no_grad():
            trace = pyro.poutine.trace(model).get_trace(x, y)
    except Exception as reason:
        raise ValueError(
            f"Expected a Pyro program that runs as model(x, y) with x of shape {tuple(x.shape)} "
            f"and y of shape {tuple(y.shape)}, in {y.dtype}; got {type(reason).__name__}: {reason}"
        ) from reason
    site = trace.nodes.get("y")
    if site is None or not site["is_observed"]:
        raise ValueError(
            "Expected the program to observe its data as pyro.sample('y', ..., obs=y); got sample "
            f"sites {sorted(name for name, s in trace.nodes.items() if s['type'] == 'sample')}, "
            f"{'none of them y' if site is None else 'with y drawn, not observed'}."
        )
    _check_plates(trace)
    return trace


def _check_plates(trace: Any) -> None:
    """Refuses plates of a choice of rows: the density would be another one in every run."""
    samples = {name: site for name, site in trace.nodes.items() if site["type"] == "sample"}
    for name, site in samples.items():
        if is_subsample(site) and len(site["value"]) != site["fn"].size:
            raise ValueError(
                f"Expected plates of all their rows; got '{name}', which takes "
                f"{len(site['value'])} of {site['fn'].size}. Leave out subsample_size: the "
                "density is that of all the data."
            )


def latent_sites(trace: Any) -> dict[str, Any]:
    """The sites of a trace that are neither observed nor a plate's choice of rows."""
    return {
        name: site
        for name, site in trace.nodes.items()
        if site["type"] == "sample" and not site["is_observed"] and not is_subsample(site)
    }


def lay_out(trace: Any, without: Collection[str] = (), *, allow_none: bool = False) -> Layout:
    """Lays the latents of a program, some left out, end to end in unconstrained space."""
    layout: Layout = {}
    start = 0
    for name, site in latent_sites(trace).items():
        if name in without:
            continue
        support = support_of(site["fn"])
        if support is not None and support.is_discrete:
            raise ValueError(
                f"Expected continuous latents; got '{name}' with the discrete support {support}. "
                "Sum it out in the program (a mixture is dist.MixtureSameFamily)."
            )
        try:
            u = bijection_to(support).inv(site["value"])
            if u.isnan().any():
                raise NotImplementedError
        except NotImplementedError as reason:
            raise ValueError(
                f"Expected latents whose support has a bijection to the real line; got '{name}' "
                f"with the support {support}. Rewrite the program with other latents."
            ) from reason
        layout[name] = (slice(start, start + u.numel()), u.shape)
        start += u.numel()
    if not layout and not allow_none:
        beside = f"continuous latents beside the discrete {sorted(without)}"
        raise ValueError(
            f"Expected a program with {beside if without else 'at least one latent'}; got none."
        )
    return layout


def base_support(fn: Any) -> Any:
    """The support of a distribution's single elements, where it is a product of such."""
    support = support_of(fn)
    while isinstance(support, constraints.independent):
        support = support.base_constraint
    return support


def has_density(fn: Any, value: Tensor) -> bool:
    """Whether a distribution knows its density; a simulator only draws."""
    try:
        fn.log_prob(value)
    except NotImplementedError:
        return False
    except Exception:  # a fault of the program, which is told when it is run
        return True
    return True


def check_observation(trace: Any, y: Tensor) -> None:
    """Refuses observations that no latents could have produced."""
    site = trace.nodes["y"]
    fn, observed = site["fn"], site["value"]
    if not torch.isfinite(y).all():
        raise ValueError(
            f"Expected finite observations y; got {int((~torch.isfinite(y)).sum())} that are NaN "
            "or infinite. Leave such rows out."
        )
    support = base_support(fn)
    if not is_fixed(fn):
        return  # such a support may depend on the latents; the density itself then says -inf
    if not torch.equal(observed, y[0]):
        y = observed  # the program observes something made of y: see that of the first dataset
    while isinstance(fn, Independent):  # row by row, to name the row that is wrong
        fn = fn.base_dist
    with quiet_program():
        inside = contains(fn, y)
    if site["mask"] is not None:
        inside = inside | ~torch.as_tensor(site["mask"])
    if not inside.all():
        wrong = y[~inside] if inside.shape == y.shape else y
        raise ValueError(
            f"Expected observations y in the support {support} of {type(fn).__name__}; got "
            f"{wrong.flatten()[0].item():g}, which is impossible under the program."
        )
