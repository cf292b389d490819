"""Truth inference: enumeration of all truths, a crowd whose majority errs, calibration, streams."""

from itertools import product

import numpy as np
import pytest
from scipy import integrate, stats
from scipy.special import betaln, gammaln, logsumexp, softmax
from sklearn.base import clone

from amortized.crowds import TruthInference
from amortized.crowds.skill_prior import CONCENTRATIONS, SkillPrior, WorkerMeans
from amortized.crowds.top_two import CONFUSION_GRID

ANSWERS = np.array([[0, 0, 1], [1, 1, 1], [0, 0, 0], [1, 0, 1]])
ITEMS, WORKERS = np.repeat(np.arange(4), 3), np.tile(np.arange(3), 4)


def log_shares(truth, k):
    counts = np.bincount(truth, minlength=k)
    return gammaln(1 + counts).sum() + gammaln(k) - gammaln(k + len(truth))


def log_dirichlet_multinomial(alpha, counts):
    """Of answers in order."""
    total = gammaln(alpha.sum()) - gammaln(alpha.sum() + counts.sum())
    return total + (gammaln(alpha + counts) - gammaln(alpha)).sum()


def dawid_skene_likelihood(truth):
    """Summed over who is a spammer and the grids of means, their distribution, concentration."""
    prior = WorkerMeans(0.5, 2)
    counts = np.zeros((3, 2, 2))
    np.add.at(counts, (WORKERS, truth[ITEMS], ANSWERS.ravel()), 1)
    table = np.array(
        [
            [
                [
                    sum(
                        log_dirichlet_multinomial(
                            s * np.where(np.arange(2) == row, mean, 1 - mean), c[row]
                        )
                        for row in range(2)
                    )
                    for mean in prior.means
                ]
                for s in CONCENTRATIONS
            ]
            for c in counts
        ]
    )  # (workers, concentrations, means)
    able = logsumexp(table[:, :, None] + prior.log_shares, -1)  # (workers, concentrations, laws)
    blind = [log_dirichlet_multinomial(np.ones(2), c.sum(0)) for c in counts]
    terms = []
    for spams in product((False, True), repeat=3):
        share = betaln(1 + sum(spams), 4 - sum(spams))
        each = [b + 0 * a if spam else a for spam, a, b in zip(spams, able, blind, strict=True)]
        terms.append(share + sum(each))
    return logsumexp(terms) + log_shares(truth, 2)


def one_coin_likelihood(truth):
    prior = SkillPrior(0.5)
    right = (truth[:, None] == ANSWERS).sum(0)
    each = [
        betaln(prior.right + r, prior.wrong + 4 - r) - betaln(prior.right, prior.wrong)
        for r in right
    ]
    return logsumexp(np.sum(each, 0)) + log_shares(truth, 2)


@pytest.mark.parametrize(
    ("model", "likelihood"),
    [("dawid-skene", dawid_skene_likelihood), ("one-coin", one_coin_likelihood)],
)
def test_probabilities_are_those_of_enumeration(model, likelihood):
    truths = np.array(list(product(range(2), repeat=4)))
    weights = softmax([likelihood(truth) for truth in truths])
    exact = weights @ truths
    crowd = TruthInference(model, n_draws=8000, random_state=0)
    found = crowd.fit(ITEMS, WORKERS, ANSWERS.ravel()).predict_proba()
    np.testing.assert_allclose(found[:, 1], exact, atol=0.03)
    np.testing.assert_allclose(found.sum(1), 1.0)


def test_top_two_is_enumeration_over_pairs_and_quadrature_over_reliabilities():
    k, answers = 3, np.array([[0, 0, 1], [2, 2, 2]])
    p = (np.arange(200) + 0.5) / 200
    prior = SkillPrior(0.0)
    density = stats.beta(prior.right[:, None], prior.wrong[:, None]).pdf(p) / len(p)
    pairs = [(g, h) for g in range(k) for h in range(k) if g != h]
    states = list(product(pairs, range(len(CONFUSION_GRID))))
    # Probability of each worker's answer to each item for every state of it, by reliability.
    terms = np.zeros((2, len(states), 3, len(p)))
    for n, ((g, h), at) in enumerate(states):
        q = CONFUSION_GRID[at]
        meant = q * (answers == g) + (1 - q) * (answers == h)
        terms[:, n] = p * meant[..., None] + (1 - p) / k
    joint = np.zeros((len(states), len(states)))
    for i in range(len(states)):
        of_workers = np.einsum("nwp,gp->ngw", terms[0, i] * terms[1], density)
        joint[i] = of_workers.prod(-1).mean(-1)
    joint /= joint.sum()
    crowd = TruthInference("top-two", n_draws=8000, random_state=0)
    crowd.fit(np.repeat([0, 1], 3), np.tile([0, 1, 2], 2), answers.ravel(), range(k))
    for item, weights in enumerate((joint.sum(1), joint.sum(0))):
        right = [weights[[s[0][0] == c for s in states]].sum() for c in range(k)]
        second = [weights[[s[0][1] == c for s in states]].sum() for c in range(k)]
        q = weights @ [CONFUSION_GRID[s[1]] for s in states]
        np.testing.assert_allclose(crowd.predict_proba()[item], right, atol=0.03)
        assert crowd.confusion_probability_[item] == pytest.approx(q, abs=0.01)
        assert max(second) - second[crowd.second_[item]] < 0.06


def test_shares_of_a_grid_are_beta_distributions():
    prior = WorkerMeans(0.5, 2)
    np.testing.assert_allclose(np.exp(prior.log_shares).sum(-1), 1.0)
    edges = np.linspace(0, 1, len(prior.means) + 1)
    smooth = [s for s in range(len(CONCENTRATIONS) * 12) if s % len(CONCENTRATIONS) == 3]
    for at in smooth[4:8]:
        m, s = (at // len(CONCENTRATIONS) + 0.5) / 12, CONCENTRATIONS[3]
        law = stats.beta(m * s, (1 - m) * s)
        exact = [integrate.quad(law.pdf, *pair)[0] for pair in zip(edges, edges[1:], strict=False)]
        np.testing.assert_allclose(np.exp(prior.log_shares[at]), exact, atol=0.01)


TRUTH = np.array([0, 1, 2, 3, 0, 1, 2, 3])
# Three good workers of whom one errs on items 0 and 5, where both spammers repeat the error.
SPAMMED = np.array(
    [
        [1, 0, 0, 1, 1],
        [1, 1, 1, 0, 3],
        [2, 2, 2, 3, 0],
        [3, 3, 3, 1, 2],
        [0, 0, 0, 2, 1],
        [1, 2, 1, 2, 2],
        [2, 2, 2, 0, 3],
        [3, 3, 3, 2, 0],
    ]
)


def many_answers(table):
    n_items, n_workers = table.shape
    return np.repeat(np.arange(n_items), n_workers), np.tile(np.arange(n_workers), n_items)


@pytest.mark.parametrize("model", ["dawid-skene", "one-coin"])
def test_three_good_workers_outvote_two_spammers_and_one_error(model):
    majority = [np.bincount(row).argmax() for row in SPAMMED]
    assert (majority == TRUTH).sum() == 6
    crowd = TruthInference(model, random_state=0)
    crowd.fit(*many_answers(SPAMMED), SPAMMED.ravel(), range(4))
    assert (crowd.predict() == TRUTH).all()
    assert crowd.worker_skill_[:3].min() > crowd.worker_skill_[3:].max() + 0.2
    low, high = crowd.worker_skill_interval(0.9)
    assert ((low < crowd.worker_skill_) & (crowd.worker_skill_ < high)).all()
    np.testing.assert_allclose(crowd.confusion_.sum(-1), 1.0)


def simulated(rng, n_items=60, n_workers=12, k=3):
    truth = rng.integers(0, k, n_items)
    skill = rng.beta(4.0, 2.0, n_workers)
    right = rng.uniform(size=(n_items, n_workers)) < skill
    wrong = (truth[:, None] + rng.integers(1, k, right.shape)) % k
    asked = rng.uniform(size=right.shape) < 0.4
    asked[np.arange(n_items), rng.integers(0, n_workers, n_items)] = True
    items, workers = asked.nonzero()
    return items, workers, np.where(right, truth[:, None], wrong)[asked], truth, skill


def test_probabilities_and_intervals_are_calibrated():
    rng = np.random.default_rng(0)
    confidence, hit, inside = [], [], []
    for seed in range(12):
        items, workers, answers, truth, skill = simulated(rng)
        crowd = TruthInference("one-coin", n_draws=400, random_state=seed)
        probability = crowd.fit(items, workers, answers, range(3)).predict_proba()
        confidence.append(probability.max(-1))
        hit.append(probability.argmax(-1) == truth)
        low, high = crowd.worker_skill_interval(0.9)
        inside.append((low < skill) & (skill < high))
    confidence, hit = np.concatenate(confidence), np.concatenate(hit)
    for block in np.array_split(confidence.argsort(), 4):
        error = 4 * np.sqrt((confidence[block] * (1 - confidence[block])).mean() / len(block))
        assert abs(confidence[block].mean() - hit[block].mean()) < error + 0.01
    assert 0.8 < np.concatenate(inside).mean() < 0.97


@pytest.mark.parametrize("model", ["dawid-skene", "one-coin", "top-two"])
def test_a_stream_ends_where_all_answers_lead(model):
    items, workers, answers, *_ = simulated(np.random.default_rng(1), 30)
    whole = TruthInference(model, n_draws=2000, random_state=0)
    whole.fit(items, workers, answers, range(3))
    stream = TruthInference(model, n_draws=2000, random_state=1)
    for part in np.array_split(np.argsort(items, kind="stable"), 3):
        stream.partial_fit(items[part], workers[part], answers[part], range(3))
    np.testing.assert_array_equal(stream.items_, whole.items_)
    np.testing.assert_allclose(stream.predict_proba(), whole.predict_proba(), atol=0.1)
    np.testing.assert_allclose(stream.worker_skill_, whole.worker_skill_, atol=0.06)


def test_names_stay_names_order_is_indifferent_and_seeds_repeat():
    names = np.array(["cat", "dog"])[ANSWERS.ravel()]
    crowd = TruthInference("one-coin", random_state=3)
    one = crowd.fit([f"item {i}" for i in ITEMS], WORKERS, names)
    assert set(one.predict()) <= {"cat", "dog"}
    assert one.items_[0] == "item 0"
    again = clone(crowd).fit(ITEMS, WORKERS, names)
    np.testing.assert_array_equal(one.predict_proba(), again.predict_proba())
    order = np.random.default_rng(0).permutation(len(ITEMS))
    mixed = TruthInference("one-coin", n_draws=4000, random_state=0)
    mixed.fit(ITEMS[order], WORKERS[order], names[order])
    np.testing.assert_allclose(mixed.predict_proba(), one.predict_proba(), atol=0.05)


WRONG = {
    "model": (lambda: TruthInference("em").fit(ITEMS, WORKERS, ANSWERS.ravel()), "a model among"),
    "lengths": (lambda: TruthInference().fit(ITEMS[:3], WORKERS, ANSWERS.ravel()), "equal length"),
    "empty": (lambda: TruthInference().fit([], [], []), "equal length"),
    "NaN": (lambda: TruthInference().fit([0], [1], [np.nan]), "answers without NaN"),
    "None": (lambda: TruthInference().fit([0, None], [1, 1], [0, 1]), "items without NaN, None"),
    "mask": (
        lambda: TruthInference().fit([0, 1], [1, 1], np.ma.array([0, 1], mask=[True, False])),
        "answers without NaN",
    ),
    "further rows": (
        lambda: (
            TruthInference(random_state=0)
            .fit(ITEMS, WORKERS, ANSWERS.ravel())
            .partial_fit([0], np.ma.array([7], mask=[True]), [1])
        ),
        "workers without NaN",
    ),
    "one class": (lambda: TruthInference().fit([0, 1], [0, 0], [1, 1]), "two classes"),
    "class": (
        lambda: TruthInference().fit([0, 1], [0, 0], [1, 2], [0, 1]),
        "among at least two classes",
    ),
    "draws": (lambda: TruthInference(n_draws=0).fit([0], [0], [0], [0, 1]), "n_draws"),
    "level": (
        lambda: TruthInference().fit(ITEMS, WORKERS, ANSWERS.ravel()).worker_skill_interval(90),
        "level",
    ),
}


@pytest.mark.parametrize(("make", "message"), WRONG.values(), ids=WRONG)
def test_wrong_inputs(make, message, no_shape_checks):
    with pytest.raises(ValueError, match=f"Expected.*{message}"):
        make()
