"""Recipes: what released a network can be run again, and the card says what was measured."""

import hashlib
import re
import shutil
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats

from amortized.diagnostics import calibration_rows
from amortized.networks import PFNConfig
from amortized.pretrained import available, card_rows, load
from amortized.pretrained.storage import SHIPPED
from amortized.priors import LinearRegressionPrior, named_prior
from amortized.priors.named import PRIORS
from amortized.recipes import predictives
from amortized.recipes import release as recipes
from amortized.recipes.table import Recipe
from amortized.training import TrainingConfig, train

TINY = Recipe(
    PFNConfig(n_features=1, max_context=5, d_model=16, n_heads=2, n_layers=1, n_bars=20),
    (
        TrainingConfig(n_steps=3, n_tasks=4, n_context=(1, 5), n_query=3),
        TrainingConfig(n_steps=2, n_tasks=4, n_context=(1, 5), n_query=3, seed=1),
    ),
)


@pytest.mark.parametrize("name", PRIORS)
def test_recipe_trains_on_a_named_prior(name):
    recipe = recipes.RECIPES[name]
    assert named_prior(name)
    assert all(stage.n_context[1] <= recipe.network.max_context for stage in recipe.stages)
    # No stage goes over the tasks of another.
    assert len({stage.seed for stage in recipe.stages}) == len(recipe.stages)


def test_regressor_begins_with_the_weights_of_the_classifier_that_fit(monkeypatch):
    monkeypatch.setattr(recipes, "tasks_of", lambda name: LinearRegressionPrior(1))  # for its bars
    begun = dict(recipes.untrained("tabular-regressor", SHIPPED).named_parameters())
    given = dict(load("tabular-classifier").named_parameters())
    own = {n for n in begun if n not in given or not torch.equal(begun[n], given[n])}
    # What reads an answer and what predicts one are of other sizes.
    decoder = {
        f"decoder.{layer}.{kind}" for layer in ("head", "focus") for kind in ("weight", "bias")
    }
    assert own == {"embed_y.weight"} | decoder


@pytest.mark.parametrize("kind", ["classifier", "regressor"])
def test_the_second_training_begins_with_what_was_released(kind):
    begun = recipes.untrained(f"tabular-{kind}-2", SHIPPED).eval()
    given = load(f"tabular-{kind}")
    batch = named_prior(f"tabular-{kind}").sample(2, 20, 5, seed=0)
    x = (batch.x_context, batch.y_context, batch.x_query)
    with torch.inference_mode():
        found, expected = (n(*x).log_prob(batch.y_query) for n in (begun, given))
    torch.testing.assert_close(found, expected)


def test_the_average_so_far_is_what_a_training_returns(tmp_path, monkeypatch):
    monkeypatch.setitem(recipes.RECIPES, "gp-1d", TINY)
    network = recipes.untrained("gp-1d", SHIPPED)
    returned = train(named_prior("gp-1d"), network, TINY.stages[0], directory=tmp_path)
    found = recipes.average_so_far("gp-1d", tmp_path / recipes.CHECKPOINT).state_dict()
    for name, value in returned.state_dict().items():
        torch.testing.assert_close(found[name], value)


RELEASED = [name for name in available() if name in PRIORS]


@pytest.mark.parametrize("name", RELEASED)
def test_released_network_is_that_of_its_recipe(name):
    config = load(name).config
    assert config.prior == name
    assert config.max_context == recipes.RECIPES[name].network.max_context


def stated_score(card):
    """Mean and standard error of a card's held-out log-likelihood."""
    mean, _, error = card["Held-out log-likelihood"].split()[:3]
    return float(mean), float(error)


def same_verdict(one, other):
    """Whether p-values say the same: none is an alarm, or they lie within their own scatter.

    Ranks are discrete, so that rounding, which differs between processors, moves a p-value.
    """
    if min(one, other) > 0.01:
        return True
    z = stats.norm.ppf(np.clip([one, other], 1e-12, 1 - 1e-12))
    return abs(z[0] - z[1]) < 1.5


def worded(text):
    """A text without its numbers."""
    return "".join(c for c in text if not c.isdigit())


@pytest.mark.parametrize("name", RELEASED)
def test_score_of_a_card_is_reproduced(name):
    mean, error = stated_score(card_rows(SHIPPED / name))
    # Few of the tasks of each batch's size, and of few sizes where cells are dear.
    n_batches, n_tasks = (10, 4) if name.startswith("tabular") else (20, 8)
    last = replace(recipes.RECIPES[name].stages[-1], n_tasks=n_tasks)
    batches = predictives.held_out(named_prior(name), last, n_batches)
    again, noise = predictives.log_likelihood(load(name), batches)
    assert 0 < error < 0.1
    assert again == pytest.approx(mean, abs=3 * (error**2 + noise**2) ** 0.5)


@pytest.mark.parametrize("name", available())
def test_calibration_of_a_card_is_reproduced(name):
    stated = card_rows(SHIPPED / name)
    # The datasets of each size are the same whichever sizes are asked; the smallest is the fastest.
    fewest = min(int(n) for key in stated for n in re.findall(r"with (\d+) rows", key))
    # Of tables fewer datasets must do: none of their p-values is an alarm either.
    n_datasets = 100 if name.startswith("tabular") else None
    again = calibration_rows(load(name), n_context=[fewest], n_datasets=n_datasets)
    assert again.keys() <= stated.keys(), "Run the recipe of this network with --card."
    for key, text in again.items():
        if key.endswith("p-value"):
            assert same_verdict(float(stated[key]), float(text)), key
        elif key.startswith("Calibration: "):
            # The datasets are nearly the same: processors differ in rounding, and a few ranks.
            assert float(stated[key]) == pytest.approx(float(text), rel=0.1, abs=0.02), key
        elif key == "Warnings":  # the card has the warnings of all sizes
            warnings = re.findall(rf"With {fewest} rows [^.]*\.", stated[key])
            assert worded(" ".join(warnings) or "no check found a problem") == worded(text)
        else:
            assert worded(stated[key]) == worded(text), key


def test_card_is_renewed_and_the_training_remembered(tmp_path, monkeypatch):
    folder = tmp_path / "gp-1d"
    shutil.copytree(SHIPPED / "gp-1d", folder)
    before, weights = card_rows(folder), (folder / "model.safetensors").read_bytes()
    text = (folder / "CARD.md").read_text(encoding="utf-8")
    for key in ("Held-out log-likelihood", "Calibration: PIT with 5 rows, p-value"):
        text = text.replace(before[key], "9.9999 +- 0.0001 nats")
    (folder / "CARD.md").write_text(text.replace("| Compute |", "| Old row | 1 |\n| Compute |"))
    assert "Old row" in card_rows(folder)
    monkeypatch.setitem(recipes.RECIPES, "gp-1d", TINY)  # sizes of a held-out set that is small
    monkeypatch.setattr(sys, "argv", ["recipes", "gp-1d", "--card", "--to", str(tmp_path)])
    recipes.main()
    after = card_rows(folder)
    assert (folder / "model.safetensors").read_bytes() == weights
    assert hashlib.sha256(weights).hexdigest() in (folder / "CARD.md").read_text(encoding="utf-8")
    assert "Old row" not in after and before.keys() == after.keys()
    for key in ("Training 1", "Training 2", "Compute", "Gap to the oracle"):
        assert after[key] == before[key]
    key = "Calibration: PIT with 5 rows, p-value"
    assert same_verdict(float(after[key]), float(before[key]))
    batches = predictives.held_out(named_prior("gp-1d"), TINY.stages[-1])
    mean, _ = predictives.log_likelihood(load(folder), batches)
    assert stated_score(after)[0] == pytest.approx(mean, abs=1e-4)


def test_no_card_without_a_network(tmp_path):
    with pytest.raises(ValueError, match="Save the network with a card first"):
        recipes.renewed_card("gp-1d", tmp_path)


def test_held_out_batches_are_no_training_batches():
    prior, config = named_prior("gp-1d"), TINY.stages[0]
    held_out = predictives.held_out(prior, config, 2)
    again = predictives.held_out(prior, config, 2)
    trained_on = predictives.NumberedBatches(prior, config).batch(0)
    assert torch.equal(held_out[1].y_query, again[1].y_query)
    assert not torch.equal(held_out[0].y_query, trained_on.y_query)


def test_stage_starts_where_the_last_one_ended(tmp_path, monkeypatch):
    monkeypatch.setitem(recipes.RECIPES, "gp-1d", TINY)
    arguments = ["recipes", "gp-1d", "--runs", str(tmp_path / "runs"), "--to", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", arguments)
    started = []
    monkeypatch.setattr(
        recipes,
        "train",
        lambda prior, network, config, **options: (
            started.append(network.decoder.head.weight.clone())
            or train(prior, network, config, progress=False, **options)
        ),
    )
    recipes.main()
    first = torch.load(tmp_path / "runs" / "gp-1d" / "1" / "last.ckpt", weights_only=True)
    assert torch.equal(started[0], recipes.untrained("gp-1d", SHIPPED).decoder.head.weight)
    assert torch.equal(started[1], first["state_dict"]["network.decoder.head.weight"])
    assert not torch.equal(*started)


def test_command_trains_and_releases(tmp_path, monkeypatch):
    monkeypatch.setitem(recipes.RECIPES, "gp-1d", TINY)
    arguments = ["recipes", "gp-1d", "--runs", str(tmp_path / "runs"), "--to", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", arguments)
    recipes.main()
    card, network = card_rows(tmp_path / "gp-1d"), load(tmp_path / "gp-1d")
    assert network.config.prior == "gp-1d"
    assert card["Training 1"].startswith("3 steps of up to 4 tasks")
    assert card["Training 2"].startswith("2 steps of up to 4 tasks")
    batches = predictives.held_out(named_prior("gp-1d"), TINY.stages[-1])
    mean, _ = predictives.log_likelihood(network, batches)
    # The card's numbers are those of the very weights beside it.
    assert stated_score(card)[0] == pytest.approx(mean, abs=1e-4)
    assert 0 <= float(card["Calibration: PIT with 4 rows, p-value"]) <= 1
