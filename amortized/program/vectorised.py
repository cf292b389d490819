"""Runs a Pyro program for many tasks at once, in one `torch.func.vmap`.

Two properties of torch's samplers prevent `vmap`: many fill a new tensor in place
(``torch.empty(shape).exponential_()``), and Beta and Dirichlet draw inside an
``autograd.Function``. Both are replaced during the run. A program that still fails, for example
because of an ``if`` on a drawn value, is run task by task, with a warning.
"""

import math
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, no_type_check

import pyro
import pyro.distributions as dist
import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits as cross_entropy
from torch.nn.functional import softplus
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

from amortized.one_at_a_time import ONE_AT_A_TIME
from amortized.seeding import remembered

Program = Callable[..., Any]

_TINY = 1e-38  # the smallest normal float32: log of it is finite


@contextmanager
def quiet_program() -> Iterator[None]:
    """Runs a program without argument checks, which read values and so break `vmap`."""
    with ONE_AT_A_TIME, pyro.validation_enabled(False), warnings.catch_warnings():
        # Some operations have no batching rule yet; torch loops over them, which is only slower.
        warnings.filterwarnings("ignore", "There is a performance drop")
        yield


@contextmanager
def precision(dtype: torch.dtype) -> Iterator[None]:
    """Sets torch's default dtype, so that constants of the program are as precise as the data."""
    with ONE_AT_A_TIME:
        before = torch.get_default_dtype()
        torch.set_default_dtype(dtype)
        try:
            yield
        finally:
            torch.set_default_dtype(before)


def _uniform(like: Tensor) -> Tensor:
    return torch.rand(like.shape, dtype=like.dtype, device=like.device)


def _exponential(like: Tensor, rate: float = 1.0) -> Tensor:
    return -torch.log1p(-_uniform(like)).clamp(max=-_TINY) / rate


def _normal(like: Tensor, mean: float = 0.0, std: float = 1.0) -> Tensor:
    return mean + std * torch.randn(like.shape, dtype=like.dtype, device=like.device)


def _cauchy(like: Tensor, median: float = 0.0, sigma: float = 1.0) -> Tensor:
    return median + sigma * torch.tan(math.pi * (_uniform(like) - 0.5))


def draw_index(logits: Tensor, dim: int) -> Tensor:
    """Draws an index along a dimension from logits.

    It is the index of the largest logit plus Gumbel noise, which `vmap` can batch.
    """
    return (logits - _exponential(logits).log()).argmax(dim)


_FUNCTIONAL: dict[Any, Callable[..., Tensor]] = {
    Tensor.normal_: _normal,
    Tensor.uniform_: lambda like, low=0.0, high=1.0: low + (high - low) * _uniform(like),
    Tensor.exponential_: _exponential,
    Tensor.cauchy_: _cauchy,
    Tensor.log_normal_: lambda like, mean=1.0, std=2.0: _normal(like, mean, std).exp(),
}


KEEP_TENSORS = (
    "Write torch functions of drawn values: m in place of float(m), m.item() or m.numpy()"
)


class FunctionalSamplers(TorchFunctionMode):
    """Turns in-place samplers into functional ones, for callers inside torch and Pyro only.

    Distributions use the returned tensor, so a new one can be returned. A user's code may rely on
    the tensor being filled in place, so for it torch's error is kept, and the loop is used.
    """

    @no_type_check  # a type-checking wrapper would change the caller's frame
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        functional = _FUNCTIONAL.get(func)
        if functional is not None:
            caller = sys._getframe(1).f_globals.get("__name__", "")
            if caller.startswith(("torch.distributions", "pyro.distributions")):
                return functional(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


class ForBatches(TorchFunctionMode):
    """Replaces two functions of torch by equivalents for many particles at once.

    A singular matrix affects its own particle only: its Cholesky factor is NaN, where torch would
    raise for all. The Bernoulli likelihood is ``y z - softplus(z)``, which is faster under `vmap`
    than torch's decomposition of it.
    """

    @no_type_check  # a checking wrapper would cost more than most of the operations
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.linalg.cholesky:
            factor, info = torch.linalg.cholesky_ex(*args, **(kwargs or {}))
            return torch.where((info == 0)[..., None, None], factor, torch.nan)
        if func is cross_entropy:
            options = {key: value for key, value in (kwargs or {}).items() if value is not None}
            if options == {"reduction": "none"} and len(args) == 2:
                logits, y = args
                return softplus(logits, threshold=40.0) - y * logits
        return func(*args, **kwargs) if kwargs else func(*args)


@contextmanager
def refusing_numpy() -> Iterator[None]:
    """Says what to write where a program turns a latent into an array, which has no gradient."""
    try:
        yield
    except RuntimeError as reason:
        if "numpy() on Tensor that requires grad" not in str(reason):
            raise
        raise ValueError(
            "Expected a program that computes with tensors, so that it has a gradient; got a drawn "
            f"value read by .numpy(). {KEEP_TENSORS}."
        ) from reason


def loop(function: Callable[..., Any], particles: Any, x: Tensor, y: Tensor) -> Any:
    """The same as the two nested vmaps, one particle at a time."""
    leaves, spec = tree_flatten(particles)
    with refusing_numpy():
        results = [
            function(tree_unflatten([leaf[i, j] for leaf in leaves], spec), x[i], y[i])
            for i in range(len(x))
            for j in range(leaves[0].shape[1])
        ]
    shape = leaves[0].shape[:2]
    return tree_map(lambda *values: torch.stack(values).unflatten(0, shape), *results)


def _dirichlet(concentration: Tensor, shape: torch.Size) -> Tensor:
    """Normalises independent gammas, in logs, so that tiny concentrations do not underflow.

    In distribution, ``log Gamma(a) = log Gamma(a + 1) + log(U) / a`` (Marsaglia and Tsang, 2000,
    section 6).
    """
    gamma = dist.Gamma(concentration + 1, torch.ones_like(concentration)).sample(shape)
    log_gamma = gamma.log() - _exponential(gamma) / concentration
    return torch.softmax(log_gamma, -1)


def _lkj_cholesky(dim: int, concentration: Tensor, shape: torch.Size) -> Tensor:
    """Draws Cholesky factors row by row, as on an onion (Lewandowski et al., 2009, section 3.2).

    Row i (from 0) is a point in the ball of its first i entries: squared length
    ``Beta(i / 2, eta + (d - 1 - i) / 2)``, direction uniform. torch 2.13's own ``sample`` uses
    ``Beta(i - 1/2, ...)``, which disagrees with its ``log_prob`` from d = 3 on.
    """
    row = torch.arange(1, dim, dtype=concentration.dtype, device=concentration.device)
    tail = concentration.unsqueeze(-1) + (dim - 1 - row) / 2
    squared = _dirichlet(torch.stack([(row / 2).expand(tail.shape), tail], -1), shape)
    direction = _normal(squared[..., :1].expand(*squared.shape[:-1], dim - 1)).tril()
    direction = direction / direction.norm(dim=-1, keepdim=True)
    below = squared[..., :1].sqrt() * direction
    diagonal = torch.diag_embed(squared[..., 1].sqrt())
    pad = torch.nn.functional.pad
    return pad(below, (0, 1, 1, 0)) + pad(pad(diagonal, (1, 0)), (0, 0, 1, 0)) + _corner(below, dim)


def _corner(like: Tensor, dim: int) -> Tensor:
    corner = like.new_zeros(dim, dim)
    corner[0, 0] = 1.0
    return corner


def _von_mises(loc: Tensor, concentration: Tensor, shape: torch.Size) -> Tensor:
    """The first of 64 proposals of Best and Fisher (1979) that is accepted, of each at least 65%.

    All are drawn at once, because `vmap` cannot wait for the last element to be accepted.
    """
    like = concentration.expand(64, *shape, *concentration.shape)
    tau = 1 + (1 + 4 * concentration.square()).sqrt()
    rho = (tau - (2 * tau).sqrt()) / (2 * concentration)
    r = (1 + rho.square()) / (2 * rho)
    r = torch.where(concentration < 1e-5, 1 / concentration + concentration, r)
    z = torch.cos(math.pi * _uniform(like))
    cosine = (1 + r * z) / (r + z)
    c = concentration * (r - cosine)
    accepted = c.log() + 1 - c >= _uniform(like).clamp(min=_TINY).log()
    first = accepted.to(torch.int8).argmax(0, keepdim=True)
    angle = cosine.gather(0, first)[0].clamp(-1, 1).acos()
    angle = torch.where(_uniform(like[0]) < 0.5, angle, -angle)
    return (loc + angle + math.pi) % (2 * math.pi) - math.pi


def draw(distribution: Any, sample_shape: Sequence[int] = ()) -> Tensor:
    """Draws from a distribution like ``sample``, with operations that `vmap` supports."""
    shape = torch.Size(sample_shape)
    if isinstance(distribution, torch.distributions.Independent | dist.MaskedDistribution):
        return draw(distribution.base_dist, shape)
    if isinstance(distribution, torch.distributions.Dirichlet):
        return _dirichlet(distribution.concentration, shape)
    if isinstance(distribution, torch.distributions.Beta):
        pair = torch.stack([distribution.concentration1, distribution.concentration0], -1)
        return _dirichlet(pair, shape)[..., 0]
    if isinstance(distribution, torch.distributions.LKJCholesky):
        return _lkj_cholesky(distribution.dim, distribution.concentration, shape)
    if isinstance(distribution, torch.distributions.VonMises):
        return _von_mises(distribution.loc, distribution.concentration, shape)
    return distribution.sample(shape)


class _Draw(Messenger):
    """Gives every latent site of a program a value by `draw`."""

    def _pyro_sample(self, message: Any) -> None:
        if message["value"] is None and not is_subsample(message):
            message["value"] = draw(message["fn"])


def is_subsample(message: Any) -> bool:
    """Whether a site is the subsample of a plate, not a random variable of the program."""
    return type(message["fn"]).__name__ == "_Subsample"


def is_deterministic(message: Any) -> bool:
    """Whether a site is a `pyro.deterministic`, a function of other sites."""
    return message["type"] == "sample" and bool((message["infer"] or {}).get("_deterministic"))


def is_factor(message: Any) -> bool:
    """Whether a site is a `pyro.factor`."""
    return type(message["fn"]).__name__ == "Unit"


def is_observation(message: Any) -> bool:
    """Whether a site is data: observed, and neither a function of other sites nor a factor."""
    return bool(
        message["type"] == "sample"
        and message["is_observed"]
        and not is_subsample(message)
        and not is_deterministic(message)
        and not is_factor(message)
    )


def warn_of_parameters(trace: Any) -> None:
    """Warns that values of `pyro.param` are not optimised."""
    names = sorted(name for name, site in trace.nodes.items() if site["type"] == "param")
    if names:
        warnings.warn(
            f"The program has pyro.param {names}, which is not inferred: every method uses the "
            "value in Pyro's store, which is the initial one unless you set it. Give it a prior, "
            "pyro.sample(name, dist...), if it is unknown, or fit it by marginal likelihood first: "
            "amortized.fit_parameters(program, x, y).program.",
            UserWarning,
            stacklevel=4,
        )


def run_program(program: Program, x: Tensor, y: Tensor | None = None) -> dict[str, Tensor]:
    """Runs a program once and returns the values at its sample sites, except deterministic ones.

    Args:
        program: a Pyro program ``program(x, y)``.
        x: inputs of one dataset, ``(n, n_features)``.
        y: the observation, ``(n,)``; None draws it.
    """
    with ONE_AT_A_TIME, torch.no_grad(), pyro.poutine.trace() as tracer, _Draw():
        program(x, y)
    sites: dict[str, Any] = tracer.trace.nodes
    return {
        name: site["value"]
        for name, site in sites.items()
        if site["type"] == "sample" and not is_subsample(site) and not is_deterministic(site)
    }


def run_programs(program: Program, x: Tensor) -> dict[str, Tensor]:
    """Draws every sample site of a program for many datasets, in one vectorised run if possible.

    Args:
        program: a Pyro program ``program(x, y=None)``, written for one dataset.
        x: inputs, ``(batch, n, n_features)``.

    Returns:
        each site's values with the batch first, ``{name: (batch, ...)}``.

    Raises:
        ValueError: if the program also fails on a single dataset.

    Example:
        >>> import pyro, torch, pyro.distributions as dist
        >>> def coin(x, y=None):
        ...     p = pyro.sample("p", dist.Beta(2.0, 2.0))
        ...     return pyro.sample("y", dist.Bernoulli(p).expand([len(x)]).to_event(1), obs=y)
        >>> {name: tuple(v.shape) for name, v in run_programs(coin, torch.zeros(5, 3, 0)).items()}
        {'p': (5,), 'y': (5, 3)}
    """
    rewind = remembered(x.device)  # the loop must not depend on draws of the failed attempt
    try:
        with quiet_program(), precision(x.dtype), FunctionalSamplers():
            one_run = torch.func.vmap(lambda row: run_program(program, row), randomness="different")
            return one_run(x)
    except (
        Exception
    ) as reason:  # the loop below distinguishes errors of the program from limits of vmap
        rewind()
        draws = _run_one_by_one(program, x)
        first_line = str(reason).split(". ")[0].split("\n")[0]
        warnings.warn(
            f"The program could not be run for all {len(x)} tasks at once and was run one task at "
            f"a time, which is slow. Torch reports: {first_line}. Write choices on drawn values "
            "with torch.where instead of if, and use distributions that broadcast.",
            UserWarning,
            stacklevel=2,
        )
        return draws


def _run_one_by_one(program: Program, x: Tensor) -> dict[str, Tensor]:
    try:
        with precision(x.dtype):
            runs = [run_program(program, row) for row in x]
        return {name: torch.stack([run[name] for run in runs]) for name in runs[0]}
    except Exception as reason:
        raise ValueError(
            "Expected a Pyro program that runs on one dataset as program(x) with x of shape "
            f"{tuple(x.shape[1:])} and has the same sample sites and shapes in every run; got "
            f"{type(reason).__name__}: {reason}. Call it yourself on one x to see where it fails."
        ) from reason
