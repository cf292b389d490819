"""Configuration of a Distribution Transformer, as stored in its ``config.json``."""

from dataclasses import dataclass, replace

from amortized.latent_priors.tasks import LatentTasks
from amortized.networks.config_fields import check_fields, check_positive

_MOST_NUMBERS = 10**6


@dataclass(frozen=True)
class DistributionTransformerConfig:
    """Size of a `DistributionTransformer` and description of its problem.

    The user chooses the size; `fitted_to` fills in the problem from the tasks.

    Attributes:
        d_model: width of a token.
        n_heads: attention heads.
        n_layers: layers in which components attend to each other and to the data.
        n_data_layers: layers in which data rows attend to each other.
        reads_rows: whether rows are tokens. Otherwise the network sees the data only through the
            likelihood summary and the summary token, which is enough if these are sufficient
            statistics, and the cost does not grow with the number of rows.
        d_hidden: hidden width of the gated MLPs.
        n_components: K, components of the posterior.
        prior: name of the tasks it is trained on, or None for unnamed tasks.
        dim: number of unconstrained latents; 0 until it is filled in.
        channels: names of the observation channels.
        widths: numbers per row of each channel.
        lengths: rows of each channel that is an ordered series; 0 for one that is a set.
        n_sketch: rows of the program's likelihood summary; 0 without one.
        location: centre of the latents; empty for zero.
        scale: unit of the latents; empty for one.
        row_location: centre of the numbers of all channels, one channel after another; for a
            series, of all its rows. Empty for zero.
        row_scale: unit of these numbers; empty for one.
        reach: training range of the tasks, see `LatentTasks.reach`; empty if unknown.
        n_context: smallest and largest number of rows in training; empty if unknown.

    Raises:
        ValueError: if the fields of the channels are inconsistent.
    """

    d_model: int = 64
    n_heads: int = 4
    n_layers: int = 3
    n_data_layers: int = 1
    reads_rows: bool = True
    d_hidden: int = 128
    n_components: int = 5
    prior: str | None = None
    dim: int = 0
    channels: tuple[str, ...] = ()
    widths: tuple[int, ...] = ()
    lengths: tuple[int, ...] = ()
    n_sketch: int = 0
    location: tuple[float, ...] = ()
    scale: tuple[float, ...] = ()
    row_location: tuple[float, ...] = ()
    row_scale: tuple[float, ...] = ()
    reach: tuple[float, ...] = ()
    n_context: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        check_fields(
            self,
            may_be_zero=("dim", "n_sketch", "n_data_layers"),
            layers=("n_layers", "n_data_layers"),
        )
        check_positive(self, "scale", "row_scale")
        if len({name for name in self.channels if name and "." not in name}) < len(self.channels):
            raise ValueError(f"Expected distinct channel names without a dot; got {self.channels}.")
        if len(self.n_context) not in (0, 2):
            raise ValueError(f"Expected n_context as (fewest, most); got {self.n_context}.")
        if not len(self.channels) == len(self.widths) == len(self.lengths):
            raise ValueError(
                f"Expected a width and a length for each of the channels {self.channels}; got "
                f"{self.widths} and {self.lengths}."
            )
        n_numbers = sum(self.numbers(name) for name in self.channels)
        if max(self.dim, n_numbers) > _MOST_NUMBERS:
            raise ValueError(
                f"Expected at most {_MOST_NUMBERS} latents and as many numbers in a row or a "
                f"series; got {self.dim} and {n_numbers}."
            )
        for name, wanted in (
            ("location", self.dim),
            ("scale", self.dim),
            ("row_location", n_numbers),
            ("row_scale", n_numbers),
        ):
            if len(getattr(self, name)) not in (0, wanted):
                raise ValueError(
                    f"Expected {name} with {wanted} numbers or none; got {getattr(self, name)}."
                )

    def numbers(self, channel: str) -> int:
        """Numbers per token of a channel: a row of a set, or a whole series."""
        at = self.channels.index(channel)
        return self.widths[at] * max(1, self.lengths[at])

    def fitted_to(self, tasks: LatentTasks) -> "DistributionTransformerConfig":
        """Copies the configuration with the problem of these tasks filled in."""
        centre, spread = tasks.row_moments
        return replace(
            self,
            dim=tasks.dim,
            channels=("data",),
            widths=(centre.shape[-1],),
            lengths=(tasks.ordered,),
            n_sketch=tasks.n_sketch,
            location=tuple(tasks.location.tolist()),
            scale=tuple(tasks.scale.tolist()),
            row_location=tuple(centre.flatten().tolist()),
            row_scale=tuple(spread.flatten().tolist()),
            reach=tasks.reach,
        )
