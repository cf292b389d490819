"""Size and problem of a Distribution Transformer; what its ``config.json`` holds."""

from dataclasses import dataclass, replace

from amortized.latent_priors.tasks import LatentTasks
from amortized.networks.config_fields import check_fields, check_positive

_MOST_NUMBERS = 10**6


@dataclass(frozen=True)
class DistributionTransformerConfig:
    """Size and problem of a `DistributionTransformer`.

    The size is chosen; the problem is filled in from the tasks by `fitted_to`.

    Attributes:
        d_model: width of a token.
        n_heads: attention heads.
        n_layers: layers of components attending to each other and to the data.
        n_data_layers: layers of data rows attending to each other.
        reads_rows: whether rows are tokens. Without, data are known by the sketch and the summary
            alone: all there is to know where these are sufficient statistics, and at a cost that
            does not grow with the rows.
        d_hidden: hidden width of the gated MLPs.
        n_components: K, components of the posterior.
        prior: name of the tasks it is trained on, or None for tasks without a name.
        dim: number of unconstrained latents; 0 until it is filled in.
        channels: names of the observation channels.
        widths: numbers in a row of each channel.
        lengths: rows of each channel that is a series in order; 0 for one that is a set.
        n_sketch: rows of the program's sketch of its likelihood; 0 without one.
        location: centre of the latents; empty for zero.
        scale: their unit; empty for one.
        row_location: centre of the numbers of a channel, channel after channel; for a series, of
            all its rows. Empty for zero.
        row_scale: their unit; empty for one.
        reach: how far the tasks go, see `LatentTasks.reach`; empty where that is not known.
        n_context: fewest and most rows of its training; empty where that is not known.

    Raises:
        ValueError: if the channels do not fit together.
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
            raise ValueError(
                f"Expected different names of channels, without a dot; got {self.channels}."
            )
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
        """Numbers in one token of a channel: a row of a set, or a whole series."""
        at = self.channels.index(channel)
        return self.widths[at] * max(1, self.lengths[at])

    def fitted_to(self, tasks: LatentTasks) -> "DistributionTransformerConfig":
        """The same size, for the problem of these tasks."""
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
