"""How views read a table, and how much each counts: what they keep, and what they find."""

import numpy as np
import pandas as pd
import pytest
import torch

from amortized.estimators import PFNClassifier, PFNRegressor
from amortized.estimators.class_groups import class_groups
from amortized.estimators.level_means import LevelMeans
from amortized.estimators.screening import strongest_columns
from amortized.estimators.view_readings import PLAIN, Kind, Reading, reading_kinds
from amortized.estimators.view_weights import view_weights

N = 200


def reading(x, kind, unordered=None, target=None):
    unordered = np.zeros(x.shape[1], dtype=bool) if unordered is None else unordered
    target = np.zeros((len(x), 1)) if target is None else target
    columns = np.arange(x.shape[1])
    return Reading(x, target, columns, unordered, kind, np.random.RandomState(0))


def test_a_plain_view_reads_numbers_as_they_are():
    x = np.random.default_rng(0).normal(size=(N, 3))
    x[0, 1] = np.nan
    read = reading(x, PLAIN)
    np.testing.assert_array_equal(read.context, x)
    np.testing.assert_array_equal(read(x[:5]), x[:5])
    assert read.is_plain


def test_renamed_codes_tell_the_same_rows_apart():
    rng = np.random.default_rng(0)
    x = np.stack([rng.integers(0, 7, N), rng.integers(0, 7, N)], 1).astype(float)
    x[3, 0] = np.nan
    read = reading(x, Kind(renamed=True), np.array([True, False]))
    np.testing.assert_array_equal(read.context[:, 1], x[:, 1])
    assert np.isnan(read.context[3, 0])
    pairs = {(a, b) for a, b in zip(x[:, 0], read.context[:, 0], strict=True) if a == a}
    assert len(pairs) == 7 and sorted(b for _, b in pairs) == list(range(7))
    assert any(a != b for a, b in pairs)
    np.testing.assert_array_equal(read(x[:9]), read.context[:9])


@pytest.mark.parametrize("correlation", [0.92, 0.99, 0.999, 0.9999])
def test_directions_make_a_small_difference_large(correlation):
    rng = np.random.default_rng(0)
    own = rng.normal(size=(N, 5))
    x = rng.normal(size=(N, 1)) + np.sqrt(1 / correlation - 1) * own
    x[0, 0] = np.nan
    read = reading(x, Kind(turned=True))
    turned = read.context
    assert turned.shape == (N, 5) and np.isfinite(turned).all() and not read.is_plain
    covariance = np.cov(turned[1:], rowvar=False)
    scale = np.sqrt(np.diag(covariance))
    np.testing.assert_allclose(covariance / np.outer(scale, scale), np.eye(5), atol=0.1)
    answer = own[1:, 0] - own[1:, 1]
    whitened = turned[1:] / scale
    found = np.linalg.lstsq(whitened - whitened.mean(0), answer - answer.mean(), rcond=None)[0]
    assert np.linalg.norm(found[1:]) > 0.9 * np.linalg.norm(found)  # not in the common trend
    np.testing.assert_allclose(read(x[:7]), turned[:7])


def test_directions_are_for_columns_that_correlate():
    x = np.random.default_rng(0).normal(size=(N, 5))
    assert reading(x, Kind(turned=True)).is_plain


def test_equal_columns_have_one_direction():
    x = np.repeat(np.random.default_rng(0).normal(size=(N, 1)), 3, axis=1)
    assert reading(x, Kind(turned=True)).context.shape == (N, 1)


def test_directions_of_more_columns_than_rows():
    x = np.random.default_rng(0).normal(size=(10, 40))
    x[:, 1] = x[:, 0]
    assert reading(x, Kind(turned=True))(x).shape[1] <= 10


def test_a_level_mean_does_not_hold_the_rows_own_answer():
    rng = np.random.default_rng(0)
    column, target = rng.integers(0, 20, N).astype(float), rng.normal(size=(N, 1))
    folds = rng.integers(0, 5, N)
    found = LevelMeans(column, target, folds)
    moved = target.copy()
    moved[7] += 100.0
    change = LevelMeans(column, moved, folds).context - found.context
    everywhere = 100.0 / N
    assert abs(change[7, 0]) <= everywhere
    same_level = (column == column[7]) & (folds != folds[7])
    assert (change[same_level, 0] > 1).all()
    # With the levels drawn at random the answers of others say nothing of one's own.
    assert abs(np.corrcoef(found.context[:, 0], target[:, 0])[0, 1]) < 0.25


def test_level_means_stand_beside_categories_of_many_levels():
    rng = np.random.default_rng(0)
    codes = np.stack([rng.integers(0, 30, N), rng.integers(0, 4, N)], 1).astype(float)
    target = rng.normal(size=30)[codes[:, 0].astype(int)][:, None]
    read = reading(codes, Kind(means=True), np.array([True, True]), target)
    assert read.context.shape == (N, 3) and not read.is_plain
    assert np.corrcoef(read.context[:, 2], target[:, 0])[0, 1] > 0.9
    unseen = read(np.array([[77.0, 0.0], [np.nan, 1.0]]))
    np.testing.assert_allclose(unseen[:, 2], target.mean())


def test_two_classes_have_one_mean_and_more_have_one_each():
    codes = np.arange(N, dtype=float)[:, None] % 20
    for n_classes, expected in ((2, 1), (4, 4)):
        members = np.eye(n_classes)[np.arange(N) % n_classes]
        read = reading(codes, Kind(means=True), np.array([True]), members)
        assert read.context.shape[1] == 1 + expected


@pytest.mark.parametrize("share", [0.02, 0.5, 0.9])
def test_weights_of_views(share):
    x = np.repeat(np.random.default_rng(0).normal(size=(N, 1)), 3, axis=1)
    reads = [reading(x, kind) for kind in (PLAIN, Kind(turned=True), PLAIN)]
    weights = view_weights(reads, share)
    np.testing.assert_allclose(weights, [(1 - share) / 2, share, (1 - share) / 2])
    np.testing.assert_allclose(view_weights(reads[1:2], share), [1.0])


def test_kinds_are_not_in_step_with_the_transforms():
    kinds = reading_kinds(8, n_turns=2)
    for transform in (0, 1):
        assert sum(kind.turned for kind in kinds[transform::2]) == 2
    assert not kinds[0].turned and kinds[1].turned


def correlated(correlation):
    rng = np.random.default_rng(0)
    own = rng.normal(size=(500, 5))
    x = rng.normal(size=(500, 1)) + np.sqrt(1 / correlation - 1) * own
    return x, own[:, 0] - own[:, 1]


@pytest.mark.parametrize("correlation", [0.92, 0.999])
def test_contrasts_of_correlated_columns_are_found(correlation):
    x, y = correlated(correlation)
    classifier = PFNClassifier(n_estimators=2).fit(x[:200], y[:200] > 0)
    assert classifier.score(x[200:], y[200:] > 0) > 0.9
    regressor = PFNRegressor("tabular-regressor", n_estimators=2).fit(x[:200], y[:200])
    assert regressor.score(x[200:], y[200:]) > 0.98


def test_a_category_of_eighty_levels_decides():
    rng = np.random.default_rng(0)
    code, effect = rng.integers(0, 80, 800), rng.integers(0, 2, 80)
    x = pd.DataFrame({"code": [f"level {c}" for c in rng.permutation(80)[code]]})
    x["noise"] = rng.normal(size=800)
    y = effect[code]
    assert PFNClassifier(n_estimators=2).fit(x[:400], y[:400]).score(x[400:], y[400:]) > 0.97


@pytest.mark.parametrize("seed", range(3))
def test_an_exclusive_or_among_many_columns_is_shown(seed):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(400, 500))
    y = ((x[:, 7] > 0) ^ (x[:, 300] > 0)).astype(float)
    found = strongest_columns(x, y[:, None], 100)
    assert {7, 300} <= set(found.tolist()) and len(found) < 20


def test_all_columns_are_shown_where_all_matter():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2000, 300))
    y = x.sum(1) + rng.normal(size=2000)
    assert len(strongest_columns(x, y[:, None], 100)) > 90


def test_an_exclusive_or_among_many_columns_is_learned():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(700, 500))
    y = (x[:, 7] > 0) ^ (x[:, 300] > 0)
    assert PFNClassifier(n_estimators=2).fit(x[:400], y[:400]).score(x[400:], y[400:]) > 0.9


def test_groups_are_of_classes_that_look_alike():
    rng = np.random.default_rng(0)
    centre = rng.permutation(np.repeat(np.arange(4), 3))
    labels = np.arange(120) % 12
    x = 50.0 * np.eye(4)[centre[labels]] + rng.normal(size=(120, 4))
    groups = class_groups(x, labels, 4)
    assert sorted(centre[members].tolist() for members in groups) == [[k] * 3 for k in range(4)]
    names = rng.permutation(12)
    renamed = class_groups(x, names[labels], 4)
    as_sets = {frozenset(names[members].tolist()) for members in groups}
    assert {frozenset(members.tolist()) for members in renamed} == as_sets


def test_classes_of_equal_rows_are_grouped_all_the_same():
    groups = class_groups(np.zeros((40, 2)), np.arange(40) % 20, 10)
    assert len(groups) == 10 and sorted(np.concatenate(groups)) == list(range(20))


def test_an_answer_far_out_does_not_move_the_others():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 3))
    y = x[:, 0] + 0.3 * rng.normal(size=200)
    asked = rng.normal(size=(50, 3))

    def median(target):
        fitted = PFNRegressor("tabular-regressor", n_estimators=4).fit(x, target)
        return fitted.predict_quantiles(asked, [0.5])[:, 0]

    spoilt = y.copy()
    spoilt[5] = 1e4
    assert np.abs(median(spoilt) - median(y)).max() < 0.6
    assert torch.isfinite(torch.tensor(median(spoilt))).all()
