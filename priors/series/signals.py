"""Parts of simulated series, each ``(n_tasks, n_steps)``, without a loop over time."""

import math

import torch
from torch import Tensor

Span = tuple[float, float]


def log_uniform(span: Span, *shape: int) -> Tensor:
    """Draws whose logarithm is uniform."""
    low, high = math.log(span[0]), math.log(span[1])
    return (low + (high - low) * torch.rand(shape)).exp()


def filtered(shocks: Tensor, impulse: Tensor) -> Tensor:
    """Causal convolution over time, by Fourier transforms.

    Args:
        shocks: ``(n_tasks, n_steps)``.
        impulse: response to a shock of one after 0, 1, ... steps, of the same shape.
    """
    n = shocks.shape[-1]
    spectrum = torch.fft.rfft(shocks, 2 * n) * torch.fft.rfft(impulse, 2 * n)
    return torch.fft.irfft(spectrum, 2 * n)[..., :n]


def heavy_tailed(n_tasks: int, n_steps: int) -> Tensor:
    """Noise of variance near one: normal in most tasks, and Student's t of 3 to 10 degrees."""
    dof = log_uniform((3.0, 10.0), n_tasks, 1)
    chi2 = 2 * torch._standard_gamma((dof / 2).expand(n_tasks, n_steps))
    student = torch.randn(n_tasks, n_steps) * ((dof - 2) / chi2.clamp_min(1e-3)).sqrt()
    return torch.where(torch.rand(n_tasks, 1) < 0.3, student, torch.randn(n_tasks, n_steps))


def cycles(n_tasks: int, n_steps: int) -> Tensor:
    """Stationary autoregressions of order 1 and 2, and their cascade; roots of any half-life."""
    t = torch.arange(n_steps, dtype=torch.float32)
    decay = (-1 / log_uniform((0.7, 60.0), n_tasks, 1)).exp()
    angle = 2 * math.pi / log_uniform((2.5, 60.0), n_tasks, 1)
    turning = decay**t * ((t + 1) * angle).sin() / angle.sin()
    sign = torch.where(torch.rand(n_tasks, 1) < 0.1, -1.0, 1.0)
    memory = (decay * sign) ** t
    kind = torch.rand(n_tasks, 1)
    shocks = heavy_tailed(n_tasks, n_steps)
    again = (0.9 * torch.rand(n_tasks, 1)) ** t
    first = torch.where(kind < 0.5, memory, turning)
    cascade = filtered(filtered(shocks, first), again)
    return torch.where(kind < 0.7, filtered(shocks, first), cascade)


def smooth(n_tasks: int, n_steps: int, n_waves: int = 24) -> Tensor:
    """Gaussian processes by random waves: squared exponential or Matern, any lengthscale."""
    lengthscale = log_uniform((3.0, 2.0 * n_steps + 3), n_tasks, 1)
    chi2 = 2 * torch._standard_gamma(torch.full((n_tasks, n_waves), 1.5)) / 3
    matern = torch.rand(n_tasks, 1) < 0.5
    frequency = torch.randn(n_tasks, n_waves) / lengthscale
    frequency = torch.where(matern, frequency / chi2.clamp_min(1e-2).sqrt(), frequency)
    phase = 2 * math.pi * torch.rand(n_tasks, n_waves, 1)
    waves = (frequency[..., None] * torch.arange(n_steps) + phase).cos()
    return (torch.randn(n_tasks, n_waves, 1) * waves).mean(1) * math.sqrt(2 * n_waves)


def wandering(n_tasks: int, n_steps: int) -> Tensor:
    """Random walks, and walks whose slope wanders and fades."""
    shocks = heavy_tailed(n_tasks, n_steps)
    fading = (-1 / log_uniform((2.0, 300.0), n_tasks, 1)).exp() ** torch.arange(n_steps)
    return torch.where(torch.rand(n_tasks, 1) < 0.6, shocks, filtered(shocks, fading)).cumsum(-1)


def broken_lines(n_tasks: int, n_steps: int, n_breaks: int = 3) -> Tensor:
    """Straight lines whose slope changes at some times."""
    t = torch.arange(n_steps, dtype=torch.float32)
    at = n_steps * torch.rand(n_tasks, n_breaks, 1)
    change = torch.randn(n_tasks, n_breaks, 1) * (torch.rand(n_tasks, n_breaks, 1) < 0.3)
    bends = (change * (t - at).clamp_min(0)).sum(1)
    return (torch.randn(n_tasks, 1) * t + bends) / n_steps


def steps(n_tasks: int, n_steps: int) -> Tensor:
    """Levels that hold for random times: a few shifts, or two regimes that alternate."""
    rate = log_uniform((0.5 / n_steps, 0.05), n_tasks, 1)
    number = (torch.rand(n_tasks, n_steps) < rate).cumsum(-1)
    levels = torch.randn(n_tasks, n_steps).gather(1, number)
    return torch.where(torch.rand(n_tasks, 1) < 0.5, levels, (number % 2).float())


def season(n_tasks: int, n_steps: int, period: float) -> Tensor:
    """A pattern of this period, smooth or rough, that repeats or slowly changes."""
    if period < 2:
        return torch.zeros(n_tasks, n_steps)
    t, total = torch.arange(n_steps), torch.zeros(n_tasks, n_steps)
    fades = log_uniform((0.3, 3.0), n_tasks, 1)
    drift = log_uniform((0.005, 0.5), n_tasks, 1) * (torch.rand(n_tasks, 1) < 0.5)
    for harmonic in range(1, min(6, int(period // 2)) + 1):
        angle = 2 * math.pi * harmonic * t / period
        for wave in (angle.cos(), angle.sin()):
            change = torch.randn(n_tasks, n_steps).cumsum(-1) * drift / math.sqrt(period)
            total += harmonic**-fades * (torch.randn(n_tasks, 1) + change) * wave
    place = (t % round(period)).expand(n_tasks, -1)
    sparse = torch.where(torch.rand(n_tasks, 1) < 0.5, 1.0, 0.3)
    pattern = torch.randn(n_tasks, round(period))
    pattern = pattern * (torch.rand(n_tasks, round(period)) < sparse)
    rough = pattern.gather(1, place)
    return torch.where(torch.rand(n_tasks, 1) < 0.3, rough, total)


def unit(x: Tensor) -> Tensor:
    """The part with a standard deviation of one over its steps; a constant becomes zero."""
    x = x - x.mean(-1, keepdim=True)
    return x / x.std(-1, keepdim=True).clamp_min(1e-6)
