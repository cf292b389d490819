"""Rules as priors over tables: parity, counts, conjunctions, nested rules, decision tables.

A literal is a statement about one column, "column > threshold", or "column = level" if it has few
levels. A task draws k <= 5 literals. Their truth values are the bits of a code 0..2^k - 1, and a
table maps codes to targets; the type of the table is the type of the rule:
    parity        the number of true literals is odd (XOR when k = 2)
    count         how many are true ("at least m of n")
    conjunction   all are true: a box in the space of inputs
    nested        the first true literal determines the target, as in a decision list
    table         any function of the bits: a full decision tree
In half of the tasks the target is a disjunction instead: whether any of 2 to 10 conjunctions of 2
to 4 literals is true, or how many, as in board games. Greedy trees and smooth models cannot learn
parity, and other priors rarely generate rule tables.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from amortized.priors.tabular.columns import draw_integer
from amortized.priors.tabular.inputs import draw_inputs
from amortized.priors.tabular.tabular_prior import TableDraw, TabularPrior

_N_LITERALS = 5
_N_SCORES = 3
# For disjunctions: number of literals to choose from, and largest number of conjunctions.
_N_POOL, _N_TERMS = 24, 10
# A level is used in a literal only if at least this share of the rows has it.
_COMMON = 0.05


class RulePrior(TabularPrior):
    """Tables with logical rules as targets; arguments as in ``TabularPrior``."""

    # Rules are mostly exact; most of the noise is label noise.
    _noiseless = 0.8

    def _columns(self, n_tasks: int, n_features: int, n_rows: int) -> TableDraw:
        columns = draw_inputs(n_tasks, n_features, n_rows)
        used = draw_integer(1, _N_LITERALS) + torch.randint(-1, 2, (n_tasks, 1))
        used = torch.arange(_N_LITERALS) < used.clamp(1, min(_N_LITERALS, 2 * n_features))
        literals = _draw_literals(columns, _N_LITERALS) & used[..., None]
        bits = 2 ** torch.arange(_N_LITERALS)
        code = (literals * bits[:, None]).sum(1)
        table = _draw_tables(used)
        scores = table.gather(-1, code[:, None].expand(-1, _N_SCORES, -1))
        other = (torch.rand(n_tasks) < 0.5).nonzero()[:, 0]
        if len(other):
            scores[other] = and_functions_of(_draw_disjunctions(columns[other]))
        return columns, scores


def _draw_literals(columns: Tensor, n: int) -> Tensor:
    """Truth values of n random literals, each about one column, ``(batch, n, rows)``."""
    n_tasks, n_columns, n_rows = columns.shape
    tasks = torch.arange(n_tasks)[:, None]
    which = torch.rand(n_tasks, max(n_columns, n)).argsort(-1)[:, :n]
    value = columns[tasks, which % n_columns]
    # The median of three random rows: thresholds lie near the median, with rows on both sides.
    rows = torch.randint(n_rows, (n_tasks, n, 3))
    at = value.gather(-1, rows).median(-1, keepdim=True).values
    flip = torch.rand(n_tasks, n, 1) < 0.5
    has_level = value == value.gather(-1, rows[..., :1])
    by_level = has_level.float().mean(-1, keepdim=True) > _COMMON
    by_level = by_level & (torch.rand(n_tasks, n, 1) < 0.5)
    return torch.where(by_level, has_level, (value > at) ^ flip)


def _draw_disjunctions(columns: Tensor) -> Tensor:
    """Whether any of a few conjunctions is true, or how many are, ``(batch, 1, rows)``."""
    n_tasks = len(columns)
    literals = _draw_literals(columns, _N_POOL)
    size = draw_integer(2, 4)
    members = torch.rand(n_tasks, _N_TERMS, _N_POOL).argsort(-1)[..., :size]
    terms = literals[torch.arange(n_tasks)[:, None, None], members].all(2)
    n_terms = torch.randint(2, _N_TERMS + 1, (n_tasks, 1, 1))
    count = (terms & (torch.arange(_N_TERMS)[:, None] < n_terms)).sum(1, keepdim=True)
    whether = torch.rand(n_tasks, 1, 1) < 0.7
    return torch.where(whether, count.clamp_max(1), count).to(torch.get_default_dtype())


def _draw_tables(used: Tensor) -> Tensor:
    """Scores of all codes, ``(batch, score, code)``; ``used`` marks the literals that matter."""
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
    return and_functions_of(main)


def and_functions_of(main: Float[Tensor, "batch 1 n"]) -> Float[Tensor, "batch scores n"]:
    """A score and functions of it only, so that argmax targets preserve the rule."""
    n_tasks, _, n = main.shape
    weights = torch.randn(n_tasks, _N_SCORES - 1, 1)
    centre = main.gather(-1, torch.randint(n, (n_tasks, 1, _N_SCORES - 1)))
    return torch.cat([main, weights * (main - centre.transpose(1, 2)).abs()], 1)
