"""A simulator that is a plain function, as the distribution of an observation."""

from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import pyro.distributions as dist
import torch
from torch import Tensor


class Simulated(dist.TorchDistribution):
    """The distribution of what a function returns: it can be drawn from, and has no density.

    Inside a Pyro program it stands for a simulator written in NumPy, or one that calls another
    program. Runs are independent, so they may be shared among processes.

    Args:
        function: ``function(*latents, rng)`` of NumPy arrays and a ``numpy.random.Generator``,
            from which all its random numbers should come; returns an array of the shape given.
        *latents: what the data depend on, as the program draws it.
        shape: shape of the data, ``(rows,)`` or ``(rows, *event)``.

    Raises:
        ValueError: if the function returns another shape.

    Example:
        >>> import pyro
        >>> def dice(mean, rng):
        ...     return mean + rng.normal(size=3)
        >>> def program(x, y=None):
        ...     mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
        ...     return pyro.sample("y", Simulated(dice, mean, shape=(3,)), obs=y)
        >>> program(torch.zeros(3, 0)).shape
        torch.Size([3])
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}

    def __init__(
        self, function: Callable[..., Any], *latents: Tensor, shape: tuple[int, ...]
    ) -> None:
        self.function, self.latents = function, latents
        super().__init__(torch.Size(), torch.Size(shape), validate_args=False)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        n = torch.Size(sample_shape).numel()
        return torch.stack([self._one() for _ in range(n)]).reshape(
            *sample_shape, *self.event_shape
        )

    def _one(self) -> Tensor:
        """One run, its generator seeded by torch's."""
        rng = np.random.default_rng(int(torch.randint(2**62, ())))
        found = self.function(*(latent.detach().numpy() for latent in self.latents), rng)
        data = torch.as_tensor(np.asarray(found), dtype=torch.get_default_dtype())
        if data.shape != self.event_shape:
            raise ValueError(
                f"Expected data of shape {tuple(self.event_shape)} from the simulator; got "
                f"{tuple(data.shape)}."
            )
        return data
