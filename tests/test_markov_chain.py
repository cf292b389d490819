"""Markov chains against enumeration, and against draws of their transition probabilities."""

from itertools import product

import numpy as np
import pytest

from amortized.forecasting import MarkovChain

DATA = "abbacabbca"


@pytest.mark.parametrize("order", [0, 1, 2, [0, 1, 2]])
def test_probabilities_of_all_continuations_add_to_one(order):
    chain = MarkovChain(order, concentration=0.7).fit(DATA)
    context = "ca"
    total = [chain.log_prob(context + "".join(end)) for end in product("abc", repeat=4)]
    highest = np.max(order)
    if highest == 2:  # else further symbols of the context are counted as well
        np.testing.assert_allclose(np.exp(total).sum(), 1.0, rtol=1e-12)
    np.testing.assert_allclose(chain.predict_proba(context).sum(), 1.0, rtol=1e-12)


@pytest.mark.parametrize("order", [0, 1, 2, [0, 2, 1]])
def test_evidence_is_the_product_of_predictives(order):
    """Each symbol's probability given those before it, by chains that know only those."""
    first = int(np.max(order))
    log_prob = 0.0
    for t in range(first + 1, len(DATA)):
        chain = MarkovChain(order, symbols=list("abc")).fit(DATA[:t])
        log_prob += np.log(chain.predict_proba()["abc".index(DATA[t])])
    start = MarkovChain(order, symbols=list("abc")).fit(DATA[: first + 1]).log_evidence_
    whole = MarkovChain(order, symbols=list("abc")).fit(DATA)
    np.testing.assert_allclose(whole.log_evidence_, start + log_prob, rtol=1e-12)


def test_predictive_is_the_mean_of_dirichlet_rows():
    """Importance sampling of the two rows from their prior."""
    rng, a = np.random.default_rng(0), 0.5
    rows = rng.dirichlet([a, a], size=(400_000, 2))
    data, log_likelihood = [0, 0, 1, 0, 0, 1, 1], 0.0
    for before, after in zip(data[:-1], data[1:], strict=True):
        log_likelihood = log_likelihood + np.log(rows[:, before, after])
    weight = np.exp(log_likelihood)
    exact = (weight[:, None] * rows[:, 1]).sum(0) / weight.sum()
    chain = MarkovChain(concentration=a).fit(data)
    error = 5 * np.sqrt((weight**2).sum()) / weight.sum()
    np.testing.assert_allclose(chain.predict_proba([1]), exact, atol=error)
    assert abs(np.exp(chain.log_evidence_) / weight.mean() - 1) < 5 * weight.std() / (
        weight.mean() * 400_000**0.5
    )


def test_the_right_order_is_found():
    rng = np.random.default_rng(0)
    sequence = [0, 1]
    for _ in range(800):
        sequence.append(int(rng.random() < (0.9 if sequence[-2] else 0.2)))
    chain = MarkovChain([0, 1, 2, 3]).fit(sequence)
    assert chain.order_probabilities_[2] > 0.9


def test_paths_are_joint_draws():
    """Frequencies of three symbols together against the exact probability of each triple."""
    chain = MarkovChain([0, 1]).fit([0, 1, 1, 0, 1])
    n = 20_000
    paths = chain.sample_paths(3, n)
    for triple in product([0, 1], repeat=3):
        exact = np.exp(chain.log_prob([1, *triple]))
        share = (paths == triple).all(1).mean()
        assert abs(share - exact) < 5 * (exact * (1 - exact) / n) ** 0.5


def test_several_sequences_do_not_run_into_each_other():
    chain = MarkovChain().fit(["ab", "ab", "ab"])
    np.testing.assert_allclose(chain.predict_proba("a"), [1 / 5, 4 / 5])
    np.testing.assert_allclose(chain.predict_proba("b"), [1 / 2, 1 / 2])


WRONG = {
    "short": (lambda: MarkovChain(3).fit("abc"), "more than 3 symbols.*got 3"),
    "unknown": (lambda: MarkovChain(symbols=list("ab")).fit("abz"), r"among \['a', 'b'\].*'z'"),
    "order": (lambda: MarkovChain(-1).fit("abc"), "order to be an integer >= 0"),
    "concentration": (
        lambda: MarkovChain(concentration=0.0).fit("abc"),
        "concentration > 0; got 0",
    ),
    "context": (lambda: MarkovChain(2).fit("abcab").predict_proba("a"), "at least 2 symbols"),
    "nothing": (lambda: MarkovChain().fit([]), "more than 1 symbols|none at all"),
}


@pytest.mark.parametrize(("act", "message"), WRONG.values(), ids=WRONG)
def test_wrong_sequences(act, message):
    with pytest.raises(ValueError, match=message):
        act()
