"""Settings of a training: sizes, lengths, rates and the seed."""

from dataclasses import dataclass, fields

from amortized.networks.config_fields import check_types


@dataclass(frozen=True)
class TrainingConfig:
    """Settings of a training; its defaults train a small network in minutes.

    Attributes:
        n_steps: length of the whole schedule, in optimizer steps.
        stop_at: step after which this run stops, to be resumed later; None runs to the end.
        n_tasks: largest number of tasks in a batch.
        n_rows: largest total number of context and query rows in a batch; long contexts then come
            with fewer tasks, so that all steps have similar cost. None sets no limit.
        n_context: smallest and largest number of context rows, which is drawn for each batch.
        log_uniform_context: whether that number is log-uniform instead of uniform.
        n_query: query rows of each task.
        optimizer: "muon" (Muon and AdamW together, torch >= 2.9) or "adamw".
        lr: peak learning rate of AdamW.
        muon_lr: peak learning rate of Muon.
        weight_decay: decoupled weight decay.
        warmup: fraction of the steps used for warm-up.
        clip: largest norm of the gradient.
        ema_decay: decay of the exponential moving average of the weights, which is returned.
        precision: precision as for Lightning, such as "bf16-mixed" or "32-true".
        compile: whether to use ``torch.compile``, which is faster, but makes resumed runs equal
            only up to rounding.
        n_workers: number of processes that draw tasks, on the CPU only.
        checkpoint_every: number of steps between checkpoints.
        seed: seed of the weights and of all batches.

    Raises:
        ValueError: if a value is out of range.
    """

    n_steps: int = 2000
    stop_at: int | None = None
    n_tasks: int = 32
    n_rows: int | None = None
    n_context: tuple[int, int] = (1, 50)
    log_uniform_context: bool = False
    n_query: int = 24
    optimizer: str = "muon"
    lr: float = 1e-3
    muon_lr: float = 3e-3
    weight_decay: float = 1e-2
    warmup: float = 0.05
    clip: float = 1.0
    ema_decay: float = 0.99
    precision: str = "32-true"
    compile: bool = False
    n_workers: int = 0
    checkpoint_every: int = 500
    seed: int = 0

    def __post_init__(self) -> None:
        check_types(self)
        if self.optimizer not in ("muon", "adamw"):
            raise ValueError(f"Expected optimizer 'muon' or 'adamw'; got {self.optimizer!r}.")
        low, high = self.n_context
        if not 0 <= low <= high or (self.log_uniform_context and low < 1):
            raise ValueError(
                f"Expected n_context as (fewest, most), with fewest >= 1 if it is log-uniform; "
                f"got {self.n_context}."
            )
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, bool) or not isinstance(value, int | float):
                continue
            may_be_zero = field.name in ("seed", "n_workers", "weight_decay", "warmup", "ema_decay")
            if not (value > 0 or (may_be_zero and value == 0)):
                bound = ">= 0" if may_be_zero else "> 0"
                raise ValueError(f"Expected {field.name} {bound}; got {value}.")
        for name in ("warmup", "ema_decay"):
            if not getattr(self, name) < 1:
                raise ValueError(f"Expected {name} < 1; got {getattr(self, name)}.")

    @property
    def last_step(self) -> int:
        """The step after which this run stops."""
        return self.n_steps if self.stop_at is None else min(self.stop_at, self.n_steps)
