"""Random numbers from a private generator, independent of other threads and of the user.

Samplers, distributions and programs draw from torch's global generator, and many cannot be given
another one. Seeding the global generator and restoring its state would interfere with draws in
other threads. A torch function mode is local to a thread: within `seeded`, every draw of the thread
uses the given generator.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from threading import local
from typing import Any, no_type_check

import torch
import torch.nn.functional as functional
from pyro.poutine.messenger import Messenger
from torch import Tensor
from torch.nn import init
from torch.overrides import TorchFunctionMode, _get_current_function_mode, _pop_mode_temporarily
from torch.random import fork_rng

from amortized.validation import seed_number

_ACTIVE = local()


def _like(make: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """``rand_like`` and related functions, which take no generator before torch 2.10."""

    def draw(like: Tensor, *args: Any, **options: Any) -> Tensor:
        options.pop("memory_format", None)
        given = {
            name: options.pop(name, None) or getattr(like, name) for name in ("dtype", "device")
        }
        return make(*args, like.shape, **given, **options)

    return draw


_FRESH = (torch.rand, torch.randn, torch.randint, torch.randperm, torch.normal)
_LIKE = {
    torch.rand_like: _like(torch.rand),
    torch.randn_like: _like(torch.randn),
    torch.randint_like: _like(torch.randint),
}
_LAYERS = (init.kaiming_uniform_, init.normal_, init.uniform_)
_OF_TENSORS = (
    *(torch.bernoulli, torch.multinomial, torch.poisson, torch.binomial),
    *(torch._standard_gamma, torch._sample_dirichlet),
    *(Tensor.bernoulli, Tensor.multinomial, Tensor.bernoulli_, Tensor.normal_, Tensor.uniform_),
    *(Tensor.exponential_, Tensor.cauchy_, Tensor.log_normal_, Tensor.geometric_, Tensor.random_),
)
# These take no generator: the global one is set to our state during the call, then restored.
_NO_GENERATOR = {
    *(functional.dropout, functional.dropout1d, functional.dropout2d, functional.dropout3d),
    *(functional.alpha_dropout, functional.feature_alpha_dropout, functional.gumbel_softmax),
    *(functional.rrelu, torch.dropout, torch.dropout_, torch.native_dropout, torch.rrelu),
}
_DRAWS: dict[Any, Callable[..., Tensor]] = {f: f for f in (*_FRESH, *_LAYERS, *_OF_TENSORS)} | _LIKE
_DRAWING = _NO_GENERATOR | _DRAWS.keys()


class seeded(TorchFunctionMode):  # noqa: N801 - used as a function is
    """Context manager in which the draws of this thread come from a generator with this seed.

    Torch's global generator is neither read nor changed. The draws equal those after
    ``torch.manual_seed`` with the same seed. Draws with an explicit generator are not affected.

    Args:
        seed: seed of the generators, one per device.

    Example:
        >>> with seeded(0):
        ...     one = torch.rand(2)
        >>> with seeded(0):
        ...     torch.equal(torch.distributions.Uniform(0.0, 1.0).sample((2,)), one)
        True
    """

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.seed = seed_number(seed)
        self.generators: dict[torch.device, torch.Generator] = {}

    def __enter__(self) -> "seeded":
        _ACTIVE.modes = [*getattr(_ACTIVE, "modes", ()), self]
        super().__enter__()
        return self

    def __exit__(self, *reason: Any) -> None:
        _ACTIVE.modes = _ACTIVE.modes[:-1]
        super().__exit__(*reason)

    @no_type_check  # a type-checking wrapper would change the caller's frame
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func not in _DRAWING:  # nearly every call
            return func(*args, **kwargs) if kwargs else func(*args)
        draws, kwargs = _DRAWS.get(func), dict(kwargs or {})
        if func in _NO_GENERATOR:
            device = _device_of(args, kwargs)
            seed = torch.randint(2**62, (), generator=self.generator(device), device=device)
            with fork_rng([device] if device.type == "cuda" else []):
                torch.manual_seed(int(seed))
                return func(*args, **kwargs)
        if draws is None or kwargs.get("generator") is not None:
            return func(*args, **kwargs)
        device = _device_of(args, kwargs)
        if device.type == "meta":  # meta tensors hold no numbers
            return func(*args, **kwargs)
        kwargs["generator"] = self.generator(device)
        return draws(*args, **kwargs)

    def generator(self, device: torch.device) -> torch.Generator:
        """The generator for a device."""
        if device not in self.generators:
            self.generators[device] = torch.Generator(device).manual_seed(self.seed)
        return self.generators[device]


def _device_of(args: tuple[Any, ...], kwargs: dict[str, Any]) -> torch.device:
    """Device of a draw: the requested one, that of the first tensor, or the default."""
    device = kwargs.get("device")
    if device is None:
        tensors = (value for value in (*args, *kwargs.values()) if isinstance(value, Tensor))
        first = next(tensors, None)
        device = torch.get_default_device() if first is None else first.device
    device = torch.device(device)
    if device.index is None and device.type != "cpu":  # one generator per device
        device = torch.empty(0, device=device).device
    return device


def current_seed() -> int:
    """The seed in effect: that of the innermost `seeded`, otherwise the global one.

    A prior composed of others passes it on. torch's own ``initial_seed`` returns the global seed
    only, which is the same for all tasks.

    Example:
        >>> with seeded(3):
        ...     current_seed()
        3
    """
    modes = getattr(_ACTIVE, "modes", ())
    return modes[-1].seed if modes else torch.initial_seed()


def remembered(device: torch.device) -> Callable[[], None]:
    """Returns a function that restores the current state of the generator in effect."""
    modes = getattr(_ACTIVE, "modes", ())
    if modes:
        generator = modes[-1].generator(_device_of((), {"device": device}))
        state = generator.get_state()
        return lambda: generator.set_state(state) and None
    if device.type == "cuda":
        state = torch.cuda.get_rng_state(device)
        return lambda: torch.cuda.set_rng_state(state, device)
    state = torch.random.get_rng_state()
    return lambda: torch.random.set_rng_state(state)


@contextmanager
def nothing_drawn() -> Iterator[None]:
    """Context manager for code without draws, so that `seeded` need not inspect torch calls."""
    with ExitStack() as stack:
        while isinstance(_get_current_function_mode(), seeded):
            stack.enter_context(_pop_mode_temporarily())
        yield


@contextmanager
def only_sites_drawn() -> Iterator[None]:
    """Context manager in which only Pyro's sample sites draw, which `seeded` then handles."""
    modes = getattr(_ACTIVE, "modes", ())
    if modes:
        with nothing_drawn(), _DrawnSites(modes[-1]):
            yield
    else:
        yield


class _DrawnSites(Messenger):
    """Draws unobserved sites from the generator of a mode."""

    def __init__(self, mode: seeded) -> None:
        super().__init__()
        self.mode = mode

    def _pyro_sample(self, message: Any) -> None:
        if message["value"] is None and not message["is_observed"]:
            with self.mode:
                message["value"] = message["fn"]()
