r"""Heads of networks over rows: from the states of rows to a distribution of the answer.

All answer a query from its own state; the one for classes also asks the context. With the query's
attention :math:`a_{hi}` to context row i in head h, the class c has the mass
:math:`p_h(c) = \sum_i a_{hi} 1[y_i = c]`, and its logit is :math:`\sum_h s_h \log p_h(c)` plus what
the state says about the class's slot. A new network attends to all rows alike: its answer is the
frequency of the classes, and training starts from there.
"""

import math
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.distributions import Categorical
from torch.nn import functional as F

from amortized.attention import attend
from amortized.distributions import BarDistribution

_FAINT = -10.0  # log strength of a new network's normal factor
_RETRIEVAL_FLOOR = 0.02  # share of the class frequencies in what retrieval says


class ClassSlots(NamedTuple):
    """Classes in an order of the data's own, so that their numbers carry no meaning.

    Attributes:
        slot: place of each class number, ``(batch, classes)``; the most frequent is first.
        frequency: share of each slot in the context, ``(batch, classes)``; 0 is an absent class.
    """

    slot: Tensor
    frequency: Tensor


def class_slots(
    labels: Float[Tensor, "batch rows"],
    tie_break: Float[Tensor, "batch rows"],
    n_classes: int,
    mask: Bool[Tensor, "batch rows"] | None = None,
) -> ClassSlots:
    """Order the classes by their frequency, ties by the mean of ``tie_break`` over their rows.

    Renaming the classes changes no slot, so whatever a network makes of slots is exactly
    equivariant to the order of the classes (up to classes with equal counts and equal means).

    Args:
        labels: class numbers 0, 1, ...
        tie_break: a number in [0, 1] for each row that does not depend on the labels.
        n_classes: most classes.
        mask: False marks rows that do not exist.

    Example:
        >>> y = torch.tensor([[2.0, 0.0, 2.0]])
        >>> class_slots(y, torch.zeros(1, 3), n_classes=3).slot
        tensor([[1, 2, 0]])
    """
    members = F.one_hot(labels.long(), n_classes).double()
    if mask is not None:
        members = members * mask[..., None]
    count = members.sum(1)
    mean = (members * tie_break.double()[..., None]).sum(1) / count.clamp_min(1)
    order = (count + 0.5 * mean).argsort(dim=-1, descending=True, stable=True)
    frequency = count.gather(-1, order) / count.sum(-1, keepdim=True).clamp_min(1)
    return ClassSlots(order.argsort(dim=-1), frequency.to(tie_break.dtype))


class ClassDecoder(nn.Module):
    """From states of rows to classes, by the state itself and by retrieval from the context.

    Args:
        d_model: width of a state.
        n_classes: most classes.
        n_heads: heads of the retrieval.
    """

    def __init__(self, d_model: int, n_classes: int, n_heads: int) -> None:
        super().__init__()
        if d_model % n_heads or d_model // n_heads < n_classes:
            raise ValueError(
                f"Expected heads of equal width, at least the {n_classes} classes; got d_model="
                f"{d_model} and {n_heads} heads."
            )
        self.n_classes, self.n_heads = n_classes, n_heads
        self.queries = nn.Linear(d_model, d_model, bias=False)
        self.keys = nn.Linear(d_model, d_model, bias=False)
        self.head_weights = nn.Parameter(torch.full((n_heads,), 1 / n_heads))
        self.slots = nn.Linear(d_model, n_classes)
        for weight in (self.queries.weight, self.slots.weight, self.slots.bias):
            nn.init.zeros_(weight)

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.n_heads, -1)).transpose(-2, -3)

    def keep(
        self, context: Float[Tensor, "batch context d_model"], slots: Int[Tensor, "batch context"]
    ) -> tuple[Tensor, Tensor]:
        """Keys of the context rows and their slots as vectors: what a query asks for."""
        keys = self._heads(self.keys(context))
        members = F.one_hot(slots, keys.shape[-1]).to(keys.dtype)
        return keys, members[:, None].expand_as(keys)

    def forward(
        self,
        query: Float[Tensor, "batch query d_model"],
        kept: tuple[Tensor, Tensor],
        slots: ClassSlots,
        mask: Bool[Tensor, "batch context"] | None = None,
    ) -> Categorical:
        """Distribution of each query's class number; classes that the context lacks have none."""
        queries = self._heads(self.queries(query))
        mass = attend(queries, *kept, mask)[..., : self.n_classes].float()
        frequency = slots.frequency[:, None]
        mass = mass + _RETRIEVAL_FLOOR * (frequency[:, None] - mass)
        # The floor under the logarithm is for absent classes, which are taken out below.
        retrieved = mass.clamp_min(1e-9).log()
        retrieved = torch.einsum("bhqc,h->bqc", retrieved, self.head_weights.float())
        logits = retrieved + self.slots(query).float()
        logits = logits.masked_fill(frequency == 0, -torch.inf)
        by_class = slots.slot[:, None].expand_as(logits)
        return Categorical(logits=logits.gather(-1, by_class), validate_args=False)


class BarDecoder(nn.Module):
    r"""From the state of a query to a ``BarDistribution``.

    The log masses :math:`l_k = w_k^T h` of a normalised state h are of bounded size, and noise far
    below the spread of the prior's answers asks for narrower peaks than they can draw. So

    .. math::
        \log q_k = e^t l_k - \tfrac12 e^a \left(\frac{u_k - m}{s} - d\right)^2 + \text{const},

    where :math:`u_k = k / K` is the place of bar k of K, m and s are the mean and the standard
    deviation of u under the masses :math:`e^t l_k` (s at least one bar), and t, a and d are linear
    in h, but at most 10. A new network answers with bars of nearly equal mass.

    Args:
        d_model: width of a state.
        borders: of the bars; kept with the weights.
    """

    borders: Tensor

    def __init__(self, d_model: int, borders: Float[Tensor, " borders"]) -> None:
        super().__init__()
        self.register_buffer("borders", borders.float())
        self.head = nn.Linear(d_model, len(borders) - 1)
        self.focus = nn.Linear(d_model, 3)
        for layer in (self.head, self.focus):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        nn.init.constant_(self.focus.bias[1:2], _FAINT)

    def forward(self, query: Float[Tensor, "batch query d_model"]) -> BarDistribution:
        """Distribution of each query's answer."""
        # Log masses of a thousand bars differ by less than bfloat16 sees.
        with torch.autocast(query.device.type, enabled=False):
            query = query.float()
            # At e^10 a peak is a single bar; more would only overflow.
            sharpness, strength, shift = self.focus(query).clamp(max=10.0).split(1, dim=-1)
            logits = self.head(query) * sharpness.exp()
            n_bars = logits.shape[-1]
            place = torch.arange(n_bars, device=logits.device, dtype=logits.dtype) / n_bars
            masses = logits.softmax(-1)
            apart = place - (masses @ place).unsqueeze(-1)
            variance = torch.linalg.vecdot(masses, apart.square()).unsqueeze(-1)
            root = (0.5 * strength).exp() / math.sqrt(2)
            z = apart * (variance.clamp_min(n_bars**-2.0).rsqrt() * root) - shift * root
            logits = torch.addcmul(logits, z, z, value=-1)
        return BarDistribution(logits, self.borders, False)
