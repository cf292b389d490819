"""Sizes of a conditional flow, and how it is trained."""

from dataclasses import dataclass, fields

from amortized.networks.config_fields import check_types

ROWS = ("auto", "exchangeable", "ordered")
TARGETS = ("posterior", "likelihood")
_RANGES = {
    "n_transforms": (1, 64),
    "n_bins": (0, 64),
    "d_hidden": (1, 2048),
    "d_embedding": (1, 2048),
    "n_members": (1, 64),
    "dim": (0, 1000),
    "n_features": (0, 10_000),
    "n_rows": (0, 100_000),
}
_MOST_NUMBERS = 100_000


@dataclass(frozen=True)
class FlowConfig:
    """Sizes of a `PosteriorFlow` or a `LikelihoodFlow`, and of its data.

    Attributes:
        target: "posterior" for the density of the latents given the data, "likelihood" for that of
            the data given the latents.
        rows: "ordered" if a dataset is a series or a list of different measurements, which is read
            in order; "exchangeable" if its rows are alike: a set for a posterior, and independent
            given the latents for a likelihood. "auto" takes "ordered", unless the program's own
            density shows that rows are independent and alike.
        n_transforms: autoregressive transforms in a flow.
        n_bins: bins of each transform's spline; 0 leaves affine transforms only.
        d_hidden: width of the two hidden layers of each transform.
        d_embedding: numbers into which rows are summarised, where they are.
        n_members: flows in the ensemble, whose densities are averaged.
        dim: number of latents in unconstrained space; set by the training, as all that follow.
        names: a label for each of them.
        n_features: inputs in a row.
        event: shape of a row's observation.
        n_rows: rows of a dataset.

    Raises:
        ValueError: if a value is out of range.
    """

    target: str = "posterior"
    rows: str = "auto"
    n_transforms: int = 5
    n_bins: int = 8
    d_hidden: int = 64
    d_embedding: int = 32
    n_members: int = 1
    dim: int = 0
    names: tuple[str, ...] = ()
    n_features: int = 0
    event: tuple[int, ...] = ()
    n_rows: int = 0

    def __post_init__(self) -> None:
        check_types(self)
        for name, known in (("target", TARGETS), ("rows", ROWS)):
            if getattr(self, name) not in known:
                raise ValueError(
                    f"Expected {name} among {list(known)}; got {getattr(self, name)!r}."
                )
        for name, (least, most) in _RANGES.items():
            if not least <= getattr(self, name) <= most:
                raise ValueError(
                    f"Expected {name} from {least} to {most}; got {getattr(self, name)}."
                )
        if self.width * max(self.n_rows, 1) > _MOST_NUMBERS:
            raise ValueError(
                f"Expected at most {_MOST_NUMBERS} numbers in a dataset; got "
                f"{self.width * self.n_rows}. Summarise them in the program."
            )

    @property
    def width(self) -> int:
        """Numbers in a row: its inputs and its observation."""
        size = 1
        for length in self.event:
            size *= length
        return self.n_features + size


@dataclass(frozen=True)
class FlowTraining:
    """How a flow is trained on simulations.

    The rate is divided by three whenever the loss on held-out simulations has not fallen for
    ``patience`` epochs, and training ends when that has happened three times. The weights are those
    of the best epoch.

    Attributes:
        n_simulations: calls of the simulator.
        n_rows: rows of a dataset, where the program does not say.
        batch_size: simulations in a step.
        lr: first rate of AdamW.
        held_out: share of the simulations that are not trained on.
        patience: epochs without progress after which the rate falls.
        max_epochs: most epochs of each flow.
        max_seconds: most seconds of training, simulations left out; None sets no limit.
        n_jobs: processes that run a simulator that cannot be vectorised; -1 takes all cores.
        seed: seed of the simulations, the weights and the order of the steps.

    Raises:
        ValueError: if a value is out of range.
    """

    n_simulations: int = 10_000
    n_rows: int = 0
    batch_size: int = 200
    lr: float = 1e-3
    held_out: float = 0.1
    patience: int = 8
    max_epochs: int = 500
    max_seconds: float | None = None
    n_jobs: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        check_types(self)
        if self.n_simulations < 50:
            raise ValueError(f"Expected n_simulations >= 50; got {self.n_simulations}.")
        if not 0 < self.held_out < 1:
            raise ValueError(f"Expected held_out between 0 and 1; got {self.held_out}.")
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name in ("seed", "n_rows", "n_jobs") or value is None:
                continue
            if not value > 0:
                raise ValueError(f"Expected {field.name} > 0; got {value}.")
        if self.n_rows < 0 or self.n_jobs == 0:
            raise ValueError(
                f"Expected n_rows >= 0 and n_jobs other than 0; got {self.n_rows} and "
                f"{self.n_jobs}."
            )
