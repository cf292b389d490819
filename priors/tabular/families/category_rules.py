r"""Tables of categorical columns with targets given by exact rules: boards, votes, diagnoses.

Columns have a few unordered levels each; rows are independent or come from a few latent classes. A
term is a conjunction of 1 to 4 literals "the column has this level" (or one of these levels, or the
same level as another column). The target is one of
    lines       whether any of up to 12 terms is true; in half of the tasks all terms ask for one
                level, as a game is won by any line of one player
    count       how many of the literals are true, or whether k of them are
    parity      whether an odd number of 2 or 3 literals is true
    list        the first true term decides, as in a decision list
    additive    sums of effects of the levels, which a naive Bayes classifier draws
If the target has no more values than the largest number of classes, each value is a class.
Deterministic rules of this kind are found by boosted trees but are improbable under smooth priors.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from amortized.priors.tabular.columns import dense_codes, draw_integer, log_uniform, shuffle_codes
from amortized.priors.tabular.families.rules import RulePrior, and_functions_of
from amortized.priors.tabular.inputs import heavy_weights
from amortized.priors.tabular.tabular_prior import TableDraw, TabularPrior
from amortized.priors.tabular.targets import draw_classes, flip_some

_N_POOL, _N_TERMS, _MOST_LEVELS = 24, 12, 6


class ExactRulePrior(RulePrior):
    """``RulePrior`` whose targets, if they have few values, are the classes; arguments as there."""

    def _labels(self, scores: Float[Tensor, "batch scores rows"]) -> Int[Tensor, "batch rows"]:
        return exact_classes(scores, self.max_classes, self._noiseless)


class CategoryRulePrior(TabularPrior):
    """Tables of categorical columns with rule targets; arguments as in ``TabularPrior``.

    Example:
        >>> prior = CategoryRulePrior("classification", n_features=9, missing=0.0)
        >>> batch = prior.sample(2, 50, 10, seed=0)
        >>> bool((batch.x_context == batch.x_context.round()).all())
        True
    """

    _noiseless = 0.9

    def _columns(self, n_tasks: int, n_features: int, n_rows: int) -> TableDraw:
        codes = _draw_levels(n_tasks, n_features, n_rows)
        return codes.to(torch.get_default_dtype()), and_functions_of(_answer(codes)[:, None])

    def _dress(self, columns: Float[Tensor, "batch columns rows"]) -> Tensor:
        flat = columns.flatten(0, 1)
        renamed = (torch.rand(len(flat)) < 0.5).nonzero()[:, 0]
        flat[renamed] = shuffle_codes(flat[renamed])
        return flat.view_as(columns)

    def _labels(self, scores: Float[Tensor, "batch scores rows"]) -> Int[Tensor, "batch rows"]:
        return exact_classes(scores, self.max_classes, self._noiseless)


def exact_classes(
    scores: Float[Tensor, "batch scores rows"], max_classes: int, noiseless: float
) -> Int[Tensor, "batch rows"]:
    """The values of the first score as classes if they are few; otherwise scores are cut.

    Args:
        scores: scores that determine the target.
        max_classes: largest number of classes of a task.
        noiseless: probability that scores which are cut determine the target without noise.

    Example:
        >>> exact_classes(torch.tensor([[[0.5, -2.0, 0.5, 7.0]]]), 10, 1.0).unique().numel()
        3
    """
    values = dense_codes(scores[:, 0]).long()
    largest = values.amax(-1)
    few = (largest > 0) & (largest < max_classes)
    labels = draw_classes(scores, max_classes, noiseless)
    labels[few] = flip_some(values[few])
    return labels


def _draw_levels(n_tasks: int, n_columns: int, n_rows: int) -> Int[Tensor, "batch columns rows"]:
    """Levels 0, 1, ... of every column, with frequencies that depend on a latent class of rows."""
    n_kinds = draw_integer(1, 4)
    shared = torch.randint(2, _MOST_LEVELS + 1, (n_tasks, 1))
    own = torch.randint(2, _MOST_LEVELS + 1, (n_tasks, n_columns))
    n_levels = torch.where(torch.rand(n_tasks, 1) < 0.6, shared, own)[:, :, None, None]
    weight = torch.randn(n_tasks, n_columns, n_kinds, _MOST_LEVELS)
    weight = (weight * 1.5 * torch.rand(n_tasks, 1, 1, 1)).exp()
    weight = weight.masked_fill(torch.arange(_MOST_LEVELS) >= n_levels, 0.0)
    ends = (weight.cumsum(-1) / weight.sum(-1, keepdim=True))[..., :-1]
    kind = torch.randint(n_kinds, (n_tasks, 1, n_rows, 1))
    ends = ends.gather(2, kind.expand(-1, n_columns, -1, ends.shape[-1]))
    level = (torch.rand(n_tasks, n_columns, n_rows, 1) > ends).sum(-1)
    return level.minimum(n_levels[..., 0] - 1)


def _draw_literals(codes: Tensor) -> Bool[Tensor, "batch literals rows"]:
    """Truth of random statements about one column, or that two columns are equal."""
    n_tasks, n_columns, n_rows = codes.shape
    tasks = torch.arange(n_tasks)[:, None]
    which = torch.rand(n_tasks, max(n_columns, _N_POOL)).argsort(-1)[:, :_N_POOL] % n_columns
    value = codes[tasks, which]
    # Levels of random rows, so that every literal refers to a level that occurs.
    asked = value.gather(-1, torch.randint(n_rows, (n_tasks, _N_POOL, 1)))
    of_one_player = codes[tasks, which[:, :1], torch.randint(n_rows, (n_tasks, 1))][..., None]
    asked = torch.where(torch.rand(n_tasks, 1, 1) < 0.3, of_one_player, asked)
    also = value.gather(-1, torch.randint(n_rows, (n_tasks, _N_POOL, 1)))
    has = (value == asked) | ((value == also) & (torch.rand(n_tasks, _N_POOL, 1) < 0.15))
    pair = value == codes[tasks, which.roll(1, -1)]
    is_pair = (torch.rand(n_tasks, 1, 1) < 0.15) & (torch.rand(n_tasks, _N_POOL, 1) < 0.5)
    return torch.where(is_pair & (which != which.roll(1, -1))[..., None], pair, has)


def _answer(codes: Tensor) -> Float[Tensor, "batch rows"]:
    """The target of each task by its own type of rule."""
    n_tasks = len(codes)
    literals = _draw_literals(codes)
    size = draw_integer(1, 4)
    members = torch.rand(n_tasks, _N_TERMS, _N_POOL).argsort(-1)[..., :size]
    terms = literals[torch.arange(n_tasks)[:, None, None], members].all(2)
    n_terms = torch.randint(1, _N_TERMS + 1, (n_tasks, 1))
    terms = terms & (torch.arange(_N_TERMS) < n_terms)[..., None]
    answers = torch.stack(
        [terms.any(1).float(), *_counts(literals), _first(terms), _additive(codes)], 1
    ).to(torch.get_default_dtype())
    kind = torch.multinomial(torch.tensor([3.0, 1.0, 1.0, 1.0, 3.0, 1.0]), n_tasks, True)
    return answers[torch.arange(n_tasks), kind]


def _counts(literals: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Number of true literals among the first, whether there are enough, and parity of a few."""
    n_tasks, n = literals.shape[:2]
    used = torch.arange(n)[:, None] < torch.randint(2, 10, (n_tasks, 1, 1))
    count = (literals & used).sum(1)
    # The threshold is the count of a random row, so it is neither always nor never reached.
    enough = count >= count.gather(-1, torch.randint(count.shape[-1], (n_tasks, 1)))
    few = torch.arange(n)[:, None] < torch.randint(2, 4, (n_tasks, 1, 1))
    odd = (literals & few).sum(1) % 2
    return count.float(), enough.float(), odd.float()


def _first(terms: Tensor) -> Tensor:
    """The value of the first true term, or the last value if none is true."""
    n_tasks, n_terms, _ = terms.shape
    first = torch.where(terms.any(1), terms.to(torch.uint8).argmax(1), n_terms)
    values = torch.randint(2, 6, (n_tasks, 1))
    value = torch.randint(60, (n_tasks, n_terms + 1)) % values
    return value.gather(-1, first).float()


def _additive(codes: Tensor) -> Tensor:
    n_tasks, n_columns, _ = codes.shape
    effect = torch.randn(n_tasks, n_columns, _MOST_LEVELS) * heavy_weights(n_tasks, n_columns, 1)
    # Rounded in half of the tasks, as in scoring systems.
    points = (effect * log_uniform(1.0, 3.0, n_tasks, 1, 1)).round()
    effect = torch.where(torch.rand(n_tasks, 1, 1) < 0.5, points, effect)
    return effect.gather(-1, codes).sum(1)
