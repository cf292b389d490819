"""Priors over tables: the laws that all of them keep, and what each part promises."""

import matplotlib
import pytest
import torch

from amortized.priors.mixture import MixturePrior
from amortized.priors.predictability import PredictablePrior, predictability
from amortized.priors.tabular.columns import bend, dense_codes, dress, level_codes, shuffle_codes
from amortized.priors.tabular.families import contrasts, counts, rules, sampled_rows
from amortized.priors.tabular.families.category_rules import (
    CategoryRulePrior,
    ExactRulePrior,
    exact_classes,
)
from amortized.priors.tabular.families.clusters import ClusterPrior
from amortized.priors.tabular.families.contrasts import ContrastPrior
from amortized.priors.tabular.families.counts import CountPrior
from amortized.priors.tabular.families.heavy_tailed import StudentProcessPrior
from amortized.priors.tabular.families.levels import LevelPrior
from amortized.priors.tabular.families.neural_network import NeuralNetworkPrior
from amortized.priors.tabular.families.rules import RulePrior
from amortized.priors.tabular.families.sampled_rows import SampledRowsPrior
from amortized.priors.tabular.families.smooth import SmoothPrior
from amortized.priors.tabular.families.structural_causal import StructuralCausalPrior
from amortized.priors.tabular.inputs import draw_inputs
from amortized.priors.tabular.mechanisms import MECHANISMS
from amortized.priors.tabular.missingness import drop_cells
from amortized.priors.tabular.preview import preview, summarise
from amortized.priors.tabular.table_mixtures import diverse_table_prior, table_prior
from amortized.priors.tabular.targets import compact_classes, draw_classes, show_classes_in_context
from amortized.priors.task import TaskBatch

TABULAR = {
    "structural causal": StructuralCausalPrior,
    "neural network": NeuralNetworkPrior,
    "student process": StudentProcessPrior,
    "rules": RulePrior,
    "clusters": ClusterPrior,
    "exact rules": ExactRulePrior,
    "category rules": CategoryRulePrior,
    "levels": LevelPrior,
    "contrasts": ContrastPrior,
    "smooth": SmoothPrior,
    "counts": CountPrior,
    "sampled rows": SampledRowsPrior,
    "diverse mixture": diverse_table_prior,
    "mixture of all": table_prior,
    "predictable": lambda *args, **kwargs: PredictablePrior(ClusterPrior(*args, **kwargs)),
}
each_prior = pytest.mark.parametrize("make", TABULAR.values(), ids=TABULAR)
each_target = pytest.mark.parametrize("target", ["classification", "regression"])


def tensors(batch):
    return batch.x_context, batch.y_context, batch.x_query, batch.y_query


def equal(one, other):
    return all(
        torch.equal(a.nan_to_num(-1e9), b.nan_to_num(-1e9))
        for a, b in zip(tensors(one), tensors(other), strict=True)
    )


@each_prior
@each_target
def test_tasks_depend_on_the_arguments_alone(make, target):
    prior = make(target, max_features=8)
    before = torch.get_rng_state()
    first = prior.sample(5, 60, 20, seed=3)
    other = prior.sample(5, 60, 20, seed=4)
    again = make(target, max_features=8).sample(5, 60, 20, seed=3)
    assert equal(first, again)
    assert first.n_features != other.n_features or not equal(first, other)
    assert torch.equal(before, torch.get_rng_state())


@each_prior
@each_target
def test_shapes(make, target):
    batch = make(target, n_features=7).sample(6, 40, 30, seed=0)
    assert [tuple(t.shape) for t in tensors(batch)] == [(6, 40, 7), (6, 40), (6, 30, 7), (6, 30)]
    assert {t.dtype for t in tensors(batch)} == {torch.get_default_dtype()}


@each_prior
@each_target
@pytest.mark.parametrize("n_context, n_query", [(0, 3), (1, 0), (1, 5), (2, 2), (9, 1)])
def test_few_rows(make, target, n_context, n_query):
    batch = make(target, n_features=1, missing=0.0).sample(3, n_context, n_query, seed=0)
    assert (batch.n_context, batch.n_query) == (n_context, n_query)
    assert all(t.isfinite().all() for t in tensors(batch))


@each_prior
@each_target
def test_values_are_finite_and_missing_only_where_asked(make, target):
    for seed in range(2):
        x_context, y_context, x_query, y_query = tensors(
            make(target, max_features=12, missing=0.0).sample(16, 100, 50, seed=seed)
        )
        assert all(t.isfinite().all() for t in (x_context, y_context, x_query, y_query))
        batch = make(target, max_features=12, missing=1.0).sample(16, 100, 50, seed=seed)
        assert 0 < batch.x_context.isnan().float().mean() < 0.5
        assert not batch.x_context.isinf().any()
        assert batch.y_context.isfinite().all() and batch.y_query.isfinite().all()


@each_prior
def test_class_counts(make):
    prior = make("classification", max_features=6, max_classes=5)
    counts = []
    for seed in range(6):
        batch = prior.sample(16, 100, 50, seed=seed)
        for y_context, y_query in zip(batch.y_context, batch.y_query, strict=True):
            classes = y_context.unique()
            # 0..C-1, all of them in the context.
            assert torch.equal(classes, torch.arange(len(classes), dtype=classes.dtype))
            assert torch.isin(y_query, classes).all()
            counts.append(len(classes))
    assert min(counts) == 2 and max(counts) <= 5
    assert 0.3 < sum(count == 2 for count in counts) / len(counts) < 0.97


@each_prior
def test_regression_is_standardised_by_the_context(make):
    batch = make("regression", max_features=6).sample(32, 80, 20, seed=0)
    mean, std = batch.y_context.mean(-1), batch.y_context.std(-1, correction=0)
    assert torch.allclose(mean, torch.zeros_like(mean), atol=1e-4)
    assert torch.allclose(std, torch.ones_like(std), atol=1e-3)


@each_prior
def test_more_columns_than_usual_and_only_one(make):
    assert make(n_features=120).sample(2, 70, 10, seed=0).n_features == 120
    assert make(n_features=1).sample(2, 70, 10, seed=0).n_features == 1


def test_number_of_columns_is_log_uniform():
    prior = RulePrior(max_features=63)
    drawn = [prior.sample(1, 2, 0, seed=seed).n_features for seed in range(100)]
    assert min(drawn) == 2 and 40 < max(drawn) <= 63
    # log-uniform: as many below sqrt(2 * 64) = 11.3 as above
    assert 0.35 < sum(n <= 11 for n in drawn) / len(drawn) < 0.65


def test_a_rule_answers_equal_rows_alike(monkeypatch):
    monkeypatch.setattr(rules, "draw_inputs", lambda *shape: torch.randint(2, shape).float())
    columns, scores = RulePrior()._columns(200, 3, 100)
    kind_of_row = (columns * torch.tensor([1.0, 2.0, 4.0])[:, None]).sum(1)
    for kind in range(8):
        here = (kind_of_row == kind)[:, None]
        low = scores.where(here, torch.inf).amin(-1)
        high = scores.where(here, -torch.inf).amax(-1)
        assert (low >= high).all()  # of a kind that a task lacks: inf and -inf
    assert (scores[:, 0].std(-1) > 0).float().mean() > 0.5


@pytest.mark.parametrize("truth", [True, False])
def test_a_disjunction_of_what_is_always_true_or_never(truth, monkeypatch):
    monkeypatch.setattr(rules, "_draw_literals", lambda columns, n: torch.full((300, n, 7), truth))
    score = rules._draw_disjunctions(torch.zeros(300, 2, 7))
    assert score.shape == (300, 1, 7) and (score == score[..., :1]).all()
    if truth:  # whether any conjunction is true, or how many are, of two to ten
        assert set(score.unique().tolist()) == set(range(1, 11))
    else:
        assert (score == 0).all()


def joined(batch):
    """All rows of a batch, ``(tasks, columns, rows)``, and their answers."""
    x = torch.cat((batch.x_context, batch.x_query), 1).transpose(1, 2)
    return x, torch.cat((batch.y_context, batch.y_query), 1)


def agreement(batch):
    """Of rows whose equals exist, the share whose answer is that of the first of them."""
    x, y = joined(batch)
    shares = []
    for columns, answers in zip(x, y, strict=True):
        _, kind = columns.unique(dim=1, return_inverse=True)
        first = torch.full((int(kind.max()) + 1,), len(kind)).scatter_reduce(
            0, kind, torch.arange(len(kind)), "amin"
        )
        others = first[kind] != torch.arange(len(kind))
        shares.append((answers == answers[first[kind]])[others].double().mean())
    return torch.stack(shares).nan_to_num(1.0)


@pytest.mark.parametrize("n_classes", [2, 10])
def test_rules_over_categories_hold_without_exception_in_most_tasks(n_classes):
    prior = CategoryRulePrior(n_features=3, missing=0.0, max_classes=n_classes)
    batch = prior.sample(100, 300, 20, seed=0)
    assert (joined(batch)[0] == joined(batch)[0].round()).all()
    # A sixth has some labels flipped; a few additive tasks of many values are cut with noise.
    assert 0.6 < (agreement(batch) == 1).double().mean() < 0.95


def test_few_values_are_classes_and_many_are_cut():
    few = torch.randint(3, (20, 1, 80)).float()
    labels = exact_classes(few, 3, 1.0)
    same = (few[:, 0, :, None] == few[:, 0, None]) == (labels[:, :, None] == labels[:, None])
    assert 0.5 < same.all(-1).all(-1).double().mean() < 1  # but for flipped labels
    assert exact_classes(torch.randn(20, 2, 80), 3, 1.0).max() <= 2


def test_levels_decide_what_the_order_of_their_codes_does_not():
    batch = LevelPrior("regression", n_features=1, missing=0.0).sample(60, 400, 100, seed=0)
    x, y = joined(batch)
    assert x.amax(-1).median() > 20
    one_hot = torch.nn.functional.one_hot(x[:, 0].long(), 200).double()
    means = (one_hot * y.double()[..., None]).sum(1) / one_hot.sum(1).clamp_min(1)
    left = (y - means.gather(1, x[:, 0].long())).var(-1)
    by_level = 1 - left / y.double().var(-1)
    line = torch.stack(
        [torch.corrcoef(torch.stack(pair))[0, 1] for pair in zip(x[:, 0], y, strict=True)]
    )
    assert by_level.median() > 0.7 and line.square().nan_to_num(0.0).median() < 0.1


def test_contrasts_are_linear_in_columns_that_correlate(monkeypatch):
    monkeypatch.setattr(contrasts, "_ODDS", (1.0, 0.0, 0.0, 0.0))
    columns, parts = contrasts._with_factors(200, 6, 400)
    correlation = torch.stack([torch.corrcoef(x).fill_diagonal_(0.0).abs().amax() for x in columns])
    assert correlation.quantile(0.9) > 0.99 and correlation.min() < 0.9
    score = contrasts._answers(parts, contrast=True)[:, :1].mT.double()
    causes = (parts - parts.mean(-1, keepdim=True)).mT.double()
    left = score - causes @ torch.linalg.lstsq(causes, score).solution
    assert (left.var(1) < 1e-6 * score.var(1)).all()


def test_smooth_answers_have_no_noise_in_most_tasks():
    batch = SmoothPrior("regression", n_features=1, missing=0.0).sample(100, 900, 100, seed=0)
    x, y = joined(batch)
    y = y.gather(-1, x[:, 0].argsort(-1))
    roughness = y.diff(n=2, dim=-1).square().mean(-1) / y.var(-1)
    assert 0.6 < (roughness < 0.01).double().mean() < 0.95


def test_counts_grades_and_amounts():
    scores = torch.randn(400, 2, 500)
    torch.manual_seed(0)
    y = CountPrior("regression")._respond(scores)
    whole = (y == y.round()).all(-1)
    assert (y >= 0).double().mean() > 0.95 and 0.4 < whole.double().mean() < 0.95
    zero = (y == 0).double().mean(-1)
    assert (zero > 0.2).double().mean() > 0.3 and zero.min() < 0.05
    # A Poisson variable has its mean as its variance.
    counted = counts._counts(torch.zeros(3000, 500), torch.full((3000, 500), 50.0))
    index = counted.var(-1) / counted.mean(-1).clamp_min(1e-6)
    assert ((index - 1).abs() < 0.2).double().mean() > 0.35


def test_rows_repeat_or_shift():
    columns = torch.randn(600, 2, 200)
    repeated = sampled_rows._repeated(columns)
    assert all(0 <= row.min() and row.max() < 200 for row in repeated)
    assert max(row.unique().numel() for row in repeated) > 100
    shifted = sampled_rows._shifted(columns)
    assert (shifted.sort(-1).values == torch.arange(200)).all()
    moved = columns.gather(-1, shifted[:, None].expand_as(columns))
    gap = (moved[..., 100:].mean(-1) - moved[..., :100].mean(-1)).abs().amax(1)
    assert gap.quantile(0.9) > 1 and gap.quantile(0.1) < 0.4


def test_columns_are_fewer_where_rows_are_many():
    prior = diverse_table_prior(max_features=60, max_cells=1000)
    widest = [max(prior.sample(2, n, 10, seed=s).n_features for s in range(25)) for n in (30, 490)]
    assert 15 < widest[0] <= 25 and widest[1] == 2


def test_most_tasks_are_predictable_and_few_are_trivial():
    prior = table_prior(max_features=20)  # the tasks of a batch are all of one kind
    statistics = [summarise(prior.sample(8, 200, 200, seed=seed)) for seed in range(32)]
    r2, majority, levels = (
        torch.cat([one[name] for one in statistics])
        for name in ("predictability", "majority", "few_levels")
    )
    assert (r2 < 0.03).float().mean() < 0.1
    assert (r2 > 0.95).float().mean() < 0.2
    assert 0.3 < r2.median() < 0.7
    assert r2.quantile(0.9) - r2.quantile(0.1) > 0.3
    assert majority.quantile(0.1) < 0.45 and majority.quantile(0.9) > 0.7
    assert 0.2 < levels.mean() < 0.6


def test_the_filter_makes_unpredictable_tasks_rare():
    def mean_rate(prior):
        return (
            torch.cat([predictability(prior.sample(32, 100, 100, seed=s)) < 0.05 for s in range(3)])
            .double()
            .mean()
        )

    prior = StudentProcessPrior(n_features=8)
    assert mean_rate(PredictablePrior(prior)) < 0.5 * mean_rate(prior)


def test_predictability_of_known_answers():
    x = torch.randn(2, 300, 3)
    y = torch.stack([x[0, :, 0], torch.randn(300)])
    r2 = predictability(TaskBatch(x[:, :200], y[:, :200], x[:, 200:], y[:, 200:]))
    assert r2[0] > 0.9 and r2[1] < 0.1


@pytest.mark.parametrize("mechanism", MECHANISMS.values(), ids=MECHANISMS)
def test_mechanisms_are_finite_functions_of_their_causes(mechanism):
    causes = torch.randn(4, 3, 50)
    causes[..., 25:] = causes[..., :25]
    effects = mechanism(causes, 2)
    assert effects.shape == (4, 2, 50) and effects.isfinite().all()
    # Equal causes have equal effects: a mechanism holds no noise of its own.
    assert torch.allclose(effects[..., :25], effects[..., 25:], rtol=1e-3, atol=1e-4)


def test_inputs_vary_from_independent_to_collinear():
    x = draw_inputs(64, 2, 500)
    correlation = torch.stack([torch.corrcoef(pair)[0, 1].abs() for pair in x]).nan_to_num(0.0)
    assert correlation.min() < 0.05 and correlation.max() > 0.8


def test_bends_increase():
    x = torch.randn(300, 50).sort(-1).values
    assert (bend(x).diff(dim=-1) >= -1e-5).all()


def test_codes():
    x = torch.randn(20, 200)
    codes = level_codes(x, torch.full((20,), 4.0))
    assert set(codes.unique().tolist()) <= {0.0, 1.0, 2.0, 3.0}
    order = x.argsort(-1)
    assert (codes.gather(-1, order).diff(dim=-1) >= 0).all()
    # Shuffled codes tell the same rows apart.
    shuffled = shuffle_codes(codes)
    one = codes[:, :, None] == codes[:, None]
    assert torch.equal(one, shuffled[:, :, None] == shuffled[:, None])
    assert torch.equal(dense_codes(7 * codes), dense_codes(codes))


def test_dressing_keeps_shape_and_stays_finite():
    x = 1e4 * torch.randn(30, 5, 100) + 1e5
    x[:, 0] = 3.0
    dressed = dress(x)
    assert dressed.shape == x.shape and dressed.isfinite().all()


@pytest.mark.parametrize("probability, low, high", [(0.0, 0.0, 0.0), (1.0, 0.01, 0.3)])
def test_missing_rates(probability, low, high):
    missing = drop_cells(torch.randn(200, 6, 100), probability).isnan()
    assert low <= missing.float().mean() <= high
    assert missing.any(-1).any(-1).float().mean() == pytest.approx(probability, abs=0.25)


def test_missing_cells_can_depend_on_the_value():
    x = torch.randn(400, 4, 200)
    missing = drop_cells(x, 1.0).isnan()
    some = missing.sum(-1) > 20
    shift = (x * missing).sum(-1)[some] / missing.sum(-1)[some]
    # Completely at random the mean of 20 missing values is within 0.9 of 0.
    assert 0.02 < (shift.abs() > 0.9).float().mean() < 0.6


def test_two_classes_are_often_one_against_the_rest():
    """Of ten classes each holds a tenth or so: small shares are frequent."""
    torch.manual_seed(0)
    labels = draw_classes(torch.randn(400, 3, 200), 2)
    assert set(labels.unique().tolist()) == {0, 1}
    share = labels.double().mean(-1)
    assert ((share > 0) & (share < 1)).all()
    assert ((share < 0.25) | (share > 0.75)).double().mean() > 0.3
    assert ((share > 0.4) & (share < 0.6)).double().mean() > 0.1


def test_labels_of_a_constant_score_still_differ():
    labels = draw_classes(torch.zeros(50, 2, 40), 4)
    assert (labels != labels[:, :1]).any(-1).all()


def test_every_class_comes_into_the_context():
    labels = torch.randint(5, (30, 40))
    labels[:, :6] = 0
    moved = labels.gather(-1, show_classes_in_context(labels, 6))
    assert torch.equal(moved.sort(-1).values, labels.sort(-1).values)
    assert all(set(row[6:].tolist()) <= set(row[:6].tolist()) for row in moved)
    assert torch.equal(compact_classes(moved * 2), moved)


def test_mixture_by_weight():
    class Constant(RulePrior):
        def __init__(self, value):
            super().__init__("regression", n_features=2)
            self.value = value

        def _sample(self, n_tasks, n_context, n_query):
            x = torch.zeros(n_tasks, n_context, 2)
            y = torch.full((n_tasks, n_context), self.value)
            return TaskBatch(x, y, x, y, {"value": y[:, 0]})

    prior = MixturePrior([Constant(0.0), Constant(1.0)], weights=[1, 3])
    batch = prior.sample(2000, 1, 1, seed=0)
    assert batch.y_context.mean() == pytest.approx(0.75, abs=0.04)
    assert torch.equal(batch.latents["value"], batch.y_context[:, 0])
    # Tasks are shuffled, and a mixture of mixtures is a mixture.
    assert batch.y_context[:1000].mean() == pytest.approx(0.75, abs=0.06)
    nested = MixturePrior([table_prior(), MixturePrior([RulePrior(), ClusterPrior()])])
    assert nested.sample(12, 30, 10, seed=1).n_tasks == 12


def test_mixture_of_different_widths():
    prior = MixturePrior([RulePrior(n_features=3), RulePrior(n_features=4)])
    with pytest.raises(ValueError, match=r"equal numbers of features.*got \[3, 4\].*same n_feat"):
        prior.sample(16, 30, 10, seed=0)


WRONG = {
    "target": (lambda: RulePrior("ranking"), "'classification' or 'regression'; got 'ranking'"),
    "no columns": (lambda: RulePrior(n_features=0), "n_features to be an integer >= 1.*got 0"),
    "max_features": (lambda: ClusterPrior(max_features=1), "max_features.*>= 2; got 1"),
    "max_classes": (lambda: ClusterPrior(max_classes=1), "max_classes.*>= 2; got 1"),
    "missing": (lambda: ClusterPrior(missing=1.5), r"missing.*\[0, 1\]; got 1.5"),
    "max_cells": (lambda: ClusterPrior(max_cells=0), "max_cells to be an integer >= 1; got 0"),
    "no prior": (lambda: MixturePrior([]), r"one Prior or more; got \(\)"),
    "weights": (lambda: MixturePrior([RulePrior()], [1, 2]), r"1 weights >= 0.*got \(1, 2\)"),
    "zero weights": (lambda: MixturePrior([RulePrior()], [0]), "positive sum"),
    "nan weight": (lambda: MixturePrior([RulePrior()], [float("nan")]), "positive sum"),
    "easy": (lambda: PredictablePrior(RulePrior(), easy=0.0), r"\(0, 1\]; got 0.0"),
    "surplus": (lambda: PredictablePrior(RulePrior(), surplus=-1.0), "surplus.*got -1.0"),
    "n_tasks": (lambda: preview(RulePrior(), n_tasks=2), "at least 4; got 2"),
}


@pytest.mark.parametrize("call, message", WRONG.values(), ids=WRONG)
def test_wrong_arguments(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@each_target
def test_preview(target):
    matplotlib.use("agg")
    figure = preview(table_prior(target, max_features=5), n_tasks=8, n_context=40, n_query=30)
    labels = {axis.get_xlabel() for axis in figure.axes}
    assert "predictability" in labels and ("n classes" in labels) == (target == "classification")
    matplotlib.pyplot.close(figure)


def test_summary_of_a_known_table():
    x = torch.randn(2, 60, 2)
    x[..., 1] = x[..., 1].sign()
    x[0, :30, 0] = torch.nan
    y = (torch.arange(60) % 3).to(x.dtype).expand(2, -1)
    statistics = summarise(TaskBatch(x[:, :30], y[:, :30], x[:, 30:], y[:, 30:]))
    assert statistics["missing"].tolist() == [0.25, 0.0]
    assert statistics["few_levels"].tolist() == [0.5, 0.5]
    assert statistics["n_classes"].tolist() == [3, 3]
    assert statistics["majority"][0] == pytest.approx(1 / 3)
