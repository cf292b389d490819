"""The sample sites of a Pyro program: its latents as one vector u, and runs of the program at u.

A program is traced once, on real data, to lay its latents out in a `LatentSpace`. Later runs happen
inside a messenger: `Place` sets the latents from u, `Evaluate` also sums log densities, and
`Unconstrain` collects u from given values or from prior draws.
"""

from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from typing import Any

import pyro
import torch
from jaxtyping import Float
from pyro.distributions import MaskedDistribution
from pyro.distributions.util import scale_and_mask
from pyro.poutine.messenger import Messenger
from torch import Tensor
from torch.distributions import Independent, constraints

from amortized.one_at_a_time import ONE_AT_A_TIME
from amortized.program.laws import check_laws
from amortized.program.support import bijection_to, contains, is_fixed, log_prob, support_of
from amortized.program.vectorised import (
    Program,
    draw,
    is_factor,
    is_observation,
    is_subsample,
    quiet_program,
)
from amortized.seeding import seeded

_N_TRIES = 5
_MISSING_ELSEWHERE = (
    "Expected missing values (NaN) only at observed sites; some enter the distributions of other "
    "observations. Draw them as latents of the program, pyro.sample('missing', ...), and insert "
    "them."
)


class LatentSpace(dict[str, tuple[slice, torch.Size]]):
    """The latents of a program, concatenated in unconstrained space.

    A mapping from each latent's name to its slice of u and its unconstrained shape.

    Example:
        >>> space = LatentSpace()
        >>> space.append("slope", torch.Size([2]))
        >>> space.append("noise", torch.Size([]))
        >>> space.dim, space.unpack("noise", torch.tensor([1.0, 2.0, 3.0]))
        (3, tensor(3.))
    """

    @property
    def dim(self) -> int:
        """Length of u."""
        return sum(shape.numel() for _, shape in self.values())

    def append(self, name: str, shape: torch.Size) -> None:
        """Appends a latent."""
        self[name] = (slice(self.dim, self.dim + shape.numel()), shape)

    def unpack(self, name: str, u: Float[Tensor, " dim"]) -> Tensor:
        """The part of u that belongs to a latent, in its unconstrained shape."""
        where, shape = self[name]
        return u[where].reshape(shape)

    def pack(self, values: Mapping[str, Tensor]) -> Float[Tensor, " dim"]:
        """The unconstrained values of all latents as one vector."""
        return torch.cat([values[name].reshape(-1) for name in self])


class _AllPlaced(Exception):
    """Raised to stop a run of a program after its last latent."""


class _Site(Messenger):
    """Collects the values of the latent sites."""

    to_the_end = True

    def __init__(self, layout: LatentSpace) -> None:
        super().__init__()
        self.layout = layout
        self.values: dict[str, Tensor] = {}

    def _is_latent(self, message: Any) -> bool:
        return message["name"] in self.layout and not message["is_observed"]

    def require_all(self) -> None:
        """Rejects a run without some of the latents, because u would have another dimension."""
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


def refuse(message: Any) -> None:
    """Raises an error for a site that is neither observed nor in u."""
    raise ValueError(
        f"Expected the sample site '{message['name']}' in every run of the program; it "
        "appears in some runs only. Draw it always, and choose with torch.where what it is "
        "used for."
    )


def leave(message: Any) -> None:
    """Lets Pyro draw a site."""


class Place(_Site):
    """Sets the latents from u.

    A mask of a latent is ignored: the latent keeps its prior, which integrates to 1, whereas a
    masked density would be improper.

    Args:
        layout: where each latent lies in u.
        u: the vector.
        other: called with the message of each site that is neither observed nor in u.
        observed: called with the message of each observation.
    """

    def __init__(
        self,
        layout: LatentSpace,
        u: Tensor,
        other: Callable[[Any], None] = refuse,
        observed: Callable[[Any], None] = leave,
    ) -> None:
        super().__init__(layout)
        self.u, self._other, self._observed = u, other, observed
        self._jacobians: list[Callable[[], Tensor]] = []

    @property
    def log_jacobian(self) -> Tensor:
        """Sum over the latents; computed on demand."""
        return sum((jacobian() for jacobian in self._jacobians), self.u.new_zeros(()))

    def _pyro_sample(self, message: Any) -> None:
        if is_subsample(message):
            return
        if not message["is_observed"]:
            _remove_mask(message)
        if self._is_latent(message):
            unconstrained = self.layout.unpack(message["name"], self.u)
            transform = bijection_to(support_of(message["fn"]))
            value = message["value"] = transform(unconstrained)
            self.values[message["name"]] = value
            self._jacobians.append(
                lambda: transform.log_abs_det_jacobian(unconstrained, value).sum()
            )
        elif message["value"] is None:
            self._other(message)
        if message["is_observed"]:
            self._observed(message)


def _remove_mask(message: Any) -> None:
    message["mask"] = None
    while isinstance(message["fn"], MaskedDistribution):
        message["fn"] = message["fn"].base_dist


class Evaluate(Place):
    """Sets the latents from u and sums log densities; for programs without discrete latents.

    Args:
        layout: where each latent lies in u.
        u: the vector.
        is_simulator: whether the observation has no density; the log likelihood is then NaN.
    """

    def __init__(self, layout: LatentSpace, u: Tensor, is_simulator: bool = False) -> None:
        super().__init__(layout, u)
        self.is_simulator = is_simulator
        self.log_prior = u.new_zeros(())
        self.log_likelihood = u.new_zeros(())

    def _pyro_sample(self, message: Any) -> None:
        if self.is_simulator and message["is_observed"]:
            self.log_likelihood = self.log_likelihood + torch.nan
            return
        super()._pyro_sample(message)
        if is_subsample(message):
            return
        each = log_prob(message["fn"], message["value"])
        total = scale_and_mask(each, message["scale"], message["mask"]).sum()
        if self._is_latent(message):
            self.log_prior = self.log_prior + total + self._jacobians[-1]()
        else:
            self.log_likelihood = self.log_likelihood + total


class Unconstrain(_Site):
    """Collects u from given values, and from prior draws for latents without one.

    Attributes:
        inside: whether every given value lies in the support of its latent.
    """

    def __init__(self, layout: LatentSpace, given: Mapping[str, Tensor] | None = None) -> None:
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
        self.values[name] = bijection_to(support_of(fn)).inv(value)

    def vector(self) -> Tensor:
        """The collected u."""
        self.require_all()
        return self.layout.pack(self.values)


def run_for_latents(site: _Site, model: Program, *data: Tensor) -> None:
    """Runs a program up to its last latent.

    This saves the evaluation of the likelihood, which takes most of a run.
    """
    site.to_the_end = False
    with suppress(_AllPlaced), site:
        model(*data)


def first_run(run: Callable[[], Any]) -> Any:
    """The first of a few runs that does not raise: a simulator may fail at some latents."""
    for seed in range(_N_TRIES):
        try:
            with seeded(seed):
                return run()
        except Exception:
            if seed == _N_TRIES - 1:
                raise


def trace_program(model: Program, x: Tensor, y: Tensor) -> Any:
    """Traces the program on real data, with a helpful message if it fails."""
    try:
        with ONE_AT_A_TIME, torch.no_grad():
            trace = first_run(lambda: pyro.poutine.trace(model).get_trace(x, y))
    except Exception as reason:
        if y.isnan().any() and "nan" in str(reason):
            raise ValueError(_MISSING_ELSEWHERE) from reason
        if str(reason).startswith("Multiple sample sites"):
            raise ValueError(
                f"Expected a name of its own for each sample site; got "
                f"{str(reason).splitlines()[0].lower()}. In a loop write the number into the name, "
                "as in pyro.sample(f'z{i}', ...), or draw all at once inside a pyro.plate."
            ) from reason
        raise ValueError(
            f"Expected a Pyro program that runs as model(x, y) with x of shape {tuple(x.shape)} "
            f"and y of shape {tuple(y.shape)}, in {y.dtype}; got {type(reason).__name__}: {reason}"
        ) from reason
    site, samples = trace.nodes.get("y"), _samples(trace)
    if site is not None and not site["is_observed"]:
        raise ValueError(
            "Expected the program to observe its data as pyro.sample('y', ..., obs=y); got sample "
            f"sites {sorted(samples)}, with y drawn, not observed."
        )
    if not observations(trace) and not any(map(is_factor, samples.values())):
        raise ValueError(
            "Expected the program to observe its data as pyro.sample('y', ..., obs=y); got sample "
            f"sites {sorted(samples)}, none of them y or another observation. Give data by other "
            "names as data={...}, with the names of the program's arguments."
        )
    _require_known_laws(trace)
    _check_plates(trace)
    check_laws(trace)
    return trace


def _samples(trace: Any) -> dict[str, Any]:
    return {name: site for name, site in trace.nodes.items() if site["type"] == "sample"}


def observations(trace: Any) -> dict[str, Any]:
    """The observed sites of a trace, without factors and deterministic sites."""
    return {name: site for name, site in trace.nodes.items() if is_observation(site)}


def _require_known_laws(trace: Any) -> None:
    """Rejects missing observations on which other observations depend."""
    for site in observations(trace).values():
        law = site["fn"]
        while isinstance(law, Independent | MaskedDistribution):
            law = law.base_dist
        parts = [getattr(law, part, None) for part in law.arg_constraints]
        if any(isinstance(part, Tensor) and part.isnan().any() for part in parts):
            raise ValueError(_MISSING_ELSEWHERE)


def _check_plates(trace: Any) -> None:
    """Rejects subsampled plates, because the density would change with every run."""
    samples = {name: site for name, site in trace.nodes.items() if site["type"] == "sample"}
    for name, site in samples.items():
        if is_subsample(site) and len(site["value"]) != site["fn"].size:
            raise ValueError(
                f"Expected plates without subsampling; got '{name}', which takes "
                f"{len(site['value'])} of {site['fn'].size}. Leave out subsample_size: the density "
                "is that of all the data."
            )


def latent_sites(trace: Any) -> dict[str, Any]:
    """The sampled sites of a trace that are neither observed nor subsamples of plates."""
    return {
        name: site
        for name, site in trace.nodes.items()
        if site["type"] == "sample" and not site["is_observed"] and not is_subsample(site)
    }


def lay_out(trace: Any, without: Collection[str] = (), *, allow_none: bool = False) -> LatentSpace:
    """Concatenates the latents of a program, except some, in unconstrained space."""
    layout = LatentSpace()
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
        layout.append(name, u.shape)
    if not layout and not allow_none:
        if without:
            raise ValueError(
                f"Expected continuous latents beside the discrete {sorted(without)}; got none. Use "
                "method='exact' or 'auto', which are exact for discrete latents alone."
            )
        raise ValueError("Expected a program with at least one latent; got none.")
    return layout


def base_support(fn: Any) -> Any:
    """The support of single elements, for a distribution of independent elements."""
    support = support_of(fn)
    while isinstance(support, constraints.independent):
        support = support.base_constraint
    return support


def has_density(fn: Any, value: Tensor) -> bool:
    """Whether a distribution has a density; a simulator only draws."""
    try:
        fn.log_prob(value)
    except NotImplementedError:
        return False
    except Exception:  # an error of the program, which is raised when it is run
        return True
    return True


def check_observation(trace: Any, y: Tensor, may_miss: bool = False) -> None:
    """Rejects observations outside of the support of their distribution.

    Args:
        trace: trace of the program on the first dataset.
        y: the observations of all datasets.
        may_miss: whether NaN marks a missing observation.
    """
    wrong = y.isinf() if may_miss else ~torch.isfinite(y)
    if wrong.any():
        raise ValueError(
            f"Expected finite observations y; got {int(wrong.sum())} that are NaN or infinite. "
            "Leave such rows out."
        )
    for name, site in observations(trace).items():
        _check_site(name, site, y)


def _check_site(name: str, site: Any, y: Tensor) -> None:
    fn, observed = site["fn"], site["value"]
    support = base_support(fn)
    if not is_fixed(fn):
        return  # such a support may depend on the latents; the density is then -inf outside of it
    if not torch.equal(observed, y[0]):
        y = observed  # the program observes a function of y: check that of the first dataset
    while isinstance(fn, Independent):  # row by row, to name the row that is wrong
        fn = fn.base_dist
    of_missing = getattr(fn, "integrates_missing", False)
    with quiet_program():
        inside = contains(fn, y.nan_to_num(0.0) if of_missing else y)
    if site["mask"] is not None:
        inside = inside | ~torch.as_tensor(site["mask"])
    if inside.shape == y.shape:
        inside = inside | y.isnan()  # missing observations are valid
    if not inside.all():
        wrong = y[~inside] if inside.shape == y.shape else y
        raise ValueError(
            f"Expected observations {name} in the support {support} of {type(fn).__name__}; got "
            f"{wrong.flatten()[0].item():g}, which is impossible under the program."
        )
