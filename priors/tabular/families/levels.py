"""Informative categorical columns of many levels: postcodes, species, products, operators.

One to three columns have 6 to 200 levels with arbitrary codes. Every level has its own effect:
normal, with two values, or one of a few classes. The frequencies of levels are equal or very
unequal. The target is the sum of these effects and, in half of the tasks, of a mechanism of the
other columns, as in models with random effects or target encoding.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from amortized.priors.tabular.columns import draw_integer, dress, log_uniform, standardise
from amortized.priors.tabular.families.category_rules import exact_classes
from amortized.priors.tabular.inputs import draw_inputs
from amortized.priors.tabular.mechanisms import additive
from amortized.priors.tabular.tabular_prior import TableDraw, TabularPrior

_MOST_LEVELS = 200


class LevelPrior(TabularPrior):
    """Tables with categorical columns of many levels; arguments as in ``TabularPrior``."""

    _noiseless = 0.7

    def _columns(self, n_tasks: int, n_features: int, n_rows: int) -> TableDraw:
        n_coded = draw_integer(1, min(3, n_features))
        codes, effects = _draw_categories(n_tasks, n_coded, n_rows)
        if n_features == n_coded:
            return codes, effects
        others = draw_inputs(n_tasks, n_features - n_coded, n_rows)
        share = log_uniform(0.1, 2.0, n_tasks, 1, 1) * (torch.rand(n_tasks, 1, 1) < 0.5)
        scores = effects + share * standardise(additive(others, effects.shape[1]))
        columns = torch.cat((codes, dress(others)), 1)
        order = torch.rand(n_tasks, n_features).argsort(-1)
        return columns[torch.arange(n_tasks)[:, None], order], scores

    def _dress(self, columns: Float[Tensor, "batch columns rows"]) -> Tensor:
        return columns  # the other columns were already transformed

    def _labels(self, scores: Float[Tensor, "batch scores rows"]) -> Int[Tensor, "batch rows"]:
        return exact_classes(scores, self.max_classes, self._noiseless)


def _draw_categories(n_tasks: int, n_coded: int, n_rows: int) -> tuple[Tensor, Tensor]:
    """Codes, ``(batch, columns, rows)``, and summed effects, ``(batch, 2, rows)``."""
    # At least about two rows per level, because nothing could be learned otherwise.
    most = float(min(_MOST_LEVELS, max(7, n_rows // 3)))
    n_levels = log_uniform(6.0, most + 1.0, n_tasks, n_coded, 1).floor()
    popularity = torch.randn(n_tasks, n_coded, _MOST_LEVELS) * 1.5 * torch.rand(n_tasks, 1, 1)
    popularity = popularity.exp().masked_fill(torch.arange(_MOST_LEVELS) >= n_levels, 0.0)
    codes = torch.multinomial(popularity.flatten(0, 1), n_rows, replacement=True)
    codes = codes.view(n_tasks, n_coded, n_rows)
    kind = torch.randint(3, (n_tasks, 1, 1, 1))
    normal = torch.randn(n_tasks, n_coded, 2, _MOST_LEVELS)
    classes = torch.randint(60, normal.shape) % torch.randint(2, 8, (n_tasks, 1, 1, 1))
    effect = torch.where(kind == 0, normal, torch.where(kind == 1, normal.sign(), classes))
    # Often a single column determines the target.
    strength = torch.rand(n_tasks, n_coded, 1, 1).round()
    strength[:, 0] = 1.0
    wide = codes[:, :, None].expand(-1, -1, 2, -1)
    effects = (strength * effect).gather(-1, wide).sum(1)
    return codes.to(effects.dtype), effects
