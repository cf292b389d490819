r"""Output heads of networks over rows: from the states of rows to a predictive distribution.

Every head uses the state of the query; the head for classes also uses the context. If head h
attends from the query to context row i with weight :math:`a_{hi}`, class c has the mass
:math:`p_h(c) = \sum_i a_{hi} 1[y_i = c]`, and its logit is :math:`\sum_h s_h \log p_h(c)` plus a
term that depends on the state and the slot of the class. A new network attends to all rows equally
and so predicts the class frequencies, from which training starts.
"""

import math
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.distributions import Categorical
from torch.nn import functional as F

from amortized.distributions.bar_distribution import BarDistribution
from amortized.networks.layers.attention import attend
from amortized.priors.task import Mask

_FAINT = -10.0  # log strength of the normal factor in a new network
_RETRIEVAL_FLOOR = 0.02  # share of the class frequencies mixed into the retrieval


class ClassSlots(NamedTuple):
    """Classes in an order determined by the data, so that class numbers carry no meaning.

    Attributes:
        slot: slot of each class number, ``(batch, classes)``; the most frequent class is first.
        frequency: share of each slot in the context, ``(batch, classes)``; 0 for an absent class.
    """

    slot: Tensor
    frequency: Tensor


def class_slots(
    labels: Float[Tensor, "batch rows"],
    tie_break: Float[Tensor, "batch rows"],
    n_classes: int,
    mask: Bool[Tensor, "batch rows"] | None = None,
) -> ClassSlots:
    """Orders the classes by frequency, ties by the mean of ``tie_break`` over their rows.

    Renaming the classes does not change the slots, so any function of slots is exactly equivariant
    to the order of the classes (except for classes with equal counts and equal means).

    Args:
        labels: class numbers 0, 1, ...
        tie_break: a number in [0, 1] for each row that does not depend on the labels.
        n_classes: largest number of classes.
        mask: False marks padding rows.

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
    """From states of rows to class probabilities, by the state and by retrieval from the context.

    Args:
        d_model: width of a state.
        n_classes: largest number of classes.
        n_heads: retrieval heads.
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
        """Keys of the context rows and their slots as vectors, for later queries."""
        keys = self._heads(self.keys(context))
        members = F.one_hot(slots, keys.shape[-1]).to(keys.dtype)
        return keys, members[:, None].expand_as(keys)

    def forward(
        self,
        query: Float[Tensor, "batch query d_model"],
        kept: tuple[Tensor, Tensor],
        slots: ClassSlots,
        mask: Mask = None,
    ) -> Categorical:
        """Distribution of each query's class number; absent classes have probability zero."""
        queries = self._heads(self.queries(query))
        mass = attend(queries, *kept, mask)[..., : self.n_classes].float()
        frequency = slots.frequency[:, None]
        mass = mass + _RETRIEVAL_FLOOR * (frequency[:, None] - mass)
        # The floor avoids log 0 for absent classes, which are excluded below.
        retrieved = mass.clamp_min(1e-9).log()
        retrieved = torch.einsum("bhqc,h->bqc", retrieved, self.head_weights.float())
        logits = retrieved + self.slots(query).float()
        logits = logits.masked_fill(frequency == 0, -torch.inf)
        by_class = slots.slot[:, None].expand_as(logits)
        return Categorical(logits=logits.gather(-1, by_class), validate_args=False)


class BarDecoder(nn.Module):
    r"""From the state of a query to a ``BarDistribution``.

    The log masses :math:`l_k = w_k^T h` of a normalised state h are bounded, and noise far below
    the spread of the prior's targets requires narrower peaks than they can represent. Therefore

    .. math::
        \log q_k = e^t l_k - \tfrac12 e^a \left(\frac{u_k - m}{s} - d\right)^2 + \text{const},

    where :math:`u_k = k / K` is the position of bar k of K, m and s are the mean and standard
    deviation of u under the masses :math:`e^t l_k` (s at least one bar), and t, a and d are linear
    in h and at most 10. A new network predicts bars of nearly equal mass.

    Args:
        d_model: width of a state.
        borders: borders of the bars, stored with the weights.
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
        """Predictive distribution of each query's target."""
        # The log masses of a thousand bars differ by less than the resolution of bfloat16.
        with torch.autocast(query.device.type, enabled=False):
            query = query.float()
            # At e^10 a peak is a single bar; larger values would only overflow.
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
