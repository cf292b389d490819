"""Rules as priors over tables: parity, counts, conjunctions, nested rules, decision tables.

A task draws k <= 5 literals "column > threshold". Their truth values are the bits of a code
0..2^k - 1, and a table of the codes answers; the kind of the table is the kind of the rule:
    parity        the number of true literals is odd (XOR when k = 2)
    count         how many are true ("at least m of n")
    conjunction   all are true: a box in the space of inputs
    nested        the first true literal decides, as in a list of if and else-if
    table         any function of the bits: a full decision tree
Parity is what greedy trees and smooth models miss; rule tables are otherwise rare in other priors.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from amortized.priors.tabular.columns import draw_integer
from amortized.priors.tabular.inputs import draw_inputs
from amortized.priors.tabular.tabular_prior import TabularPrior

_N_LITERALS = 5
_N_SCORES = 3


class RulePrior(TabularPrior):
    """Tables answered by logical rules; arguments as in ``TabularPrior``.

    Example:
        >>> prior = RulePrior("classification", n_features=4, missing=0.0)
        >>> prior.sample(2, 50, 10, seed=0).y_query.shape
        torch.Size([2, 10])
    """

    # Rules are exact; what blurs them is mostly the flipping of labels.
    _noiseless = 0.8

    def _columns(
        self, n_tasks: int, n_features: int, n_rows: int
    ) -> tuple[Float[Tensor, "batch columns rows"], Float[Tensor, "batch scores rows"]]:
        columns = draw_inputs(n_tasks, n_features, n_rows)
        used = draw_integer(1, _N_LITERALS) + torch.randint(-1, 2, (n_tasks, 1))
        used = torch.arange(_N_LITERALS) < used.clamp(1, min(_N_LITERALS, 2 * n_features))
        literals = _draw_literals(columns) & used[..., None]
        bits = 2 ** torch.arange(_N_LITERALS)
        code = (literals * bits[:, None]).sum(1)
        table = _draw_tables(used)
        return columns, table.gather(-1, code[:, None].expand(-1, _N_SCORES, -1))


def _draw_literals(columns: Tensor) -> Tensor:
    """Truth of random threshold statements, ``(batch, literal, rows)``."""
    n_tasks, n_columns, n_rows = columns.shape
    tasks = torch.arange(n_tasks)[:, None]
    which = torch.rand(n_tasks, max(n_columns, _N_LITERALS)).argsort(-1)[:, :_N_LITERALS]
    value = columns[tasks, which % n_columns]
    # The middle one of three random rows: thresholds near the median, so both sides have rows.
    rows = torch.randint(n_rows, (n_tasks, _N_LITERALS, 3))
    at = value.gather(-1, rows).median(-1, keepdim=True).values
    flip = torch.rand(n_tasks, _N_LITERALS, 1) < 0.5
    return (value > at) ^ flip


def _draw_tables(used: Tensor) -> Tensor:
    """Scores of all codes, ``(batch, score, code)``; ``used`` marks the literals that count."""
    n_tasks = len(used)
    bits = torch.arange(2**_N_LITERALS)[:, None] >> torch.arange(_N_LITERALS) & 1
    count = bits.sum(-1).expand(n_tasks, -1)
    # Index of the first true literal; the last entry is for "none".
    first = torch.where(bits.any(-1), bits.argmax(-1), _N_LITERALS).expand(n_tasks, -1)
    tables = torch.stack(
        [
            (count % 2).float(),
            count.float(),
            (count == used.sum(-1, keepdim=True)).float(),
            torch.randn(n_tasks, _N_LITERALS + 1).gather(-1, first).float(),
            torch.randn(n_tasks, bits.shape[0]).float(),
        ],
        1,
    ).to(torch.get_default_dtype())
    kind = torch.randint(tables.shape[1], (n_tasks,))
    main = tables[torch.arange(n_tasks), kind][:, None]
    # The other scores are functions of the main one, so that argmax targets keep the rule.
    weights = torch.randn(n_tasks, _N_SCORES - 1, 1)
    centre = main.gather(-1, torch.randint(main.shape[-1], (n_tasks, 1, _N_SCORES - 1)))
    return torch.cat([main, weights * (main - centre.transpose(1, 2)).abs()], 1)
