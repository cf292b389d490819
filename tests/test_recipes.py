"""Recipes: what released a network can be run again, and the card says what was measured."""

import re
import sys

import pytest
import torch

from amortized import recipes
from amortized.networks import PFN, PFNConfig
from amortized.pretrained import available, load
from amortized.priors import named_prior
from amortized.training import TrainingConfig, train

TINY = recipes.Recipe(
    PFNConfig(n_features=1, max_context=5, d_model=16, n_heads=2, n_layers=1, n_bars=20),
    (
        TrainingConfig(n_steps=3, n_tasks=4, n_context=(1, 5), n_query=3),
        TrainingConfig(n_steps=2, n_tasks=4, n_context=(1, 5), n_query=3, seed=1),
    ),
)


@pytest.mark.parametrize("name", recipes.RECIPES)
def test_recipe_trains_on_a_named_prior(name):
    recipe = recipes.RECIPES[name]
    assert named_prior(name)
    assert all(stage.n_context[1] <= recipe.network.max_context for stage in recipe.stages)
    # No stage goes over the tasks of another.
    assert len({stage.seed for stage in recipe.stages}) == len(recipe.stages)


@pytest.mark.parametrize("name", available())
def test_released_network_is_that_of_its_recipe(name):
    config = load(name).config
    assert config.prior == name
    assert config.max_context == recipes.RECIPES[name].network.max_context


def test_held_out_batches_are_no_training_batches():
    prior, config = named_prior("gp-1d"), TINY.stages[0]
    held_out = recipes.held_out(prior, config, 2)
    again = recipes.held_out(prior, config, 2)
    trained_on = recipes.StepBatches(prior, config).batch(0)
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
            started.append(network) or train(prior, network, config, progress=False, **options)
        ),
    )
    recipes.main()
    assert isinstance(started[0], PFNConfig) and isinstance(started[1], PFN)


def test_command_trains_and_releases(tmp_path, monkeypatch):
    monkeypatch.setitem(recipes.RECIPES, "gp-1d", TINY)
    arguments = ["recipes", "gp-1d", "--runs", str(tmp_path / "runs"), "--to", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", arguments)
    recipes.main()
    card = (tmp_path / "gp-1d" / "CARD.md").read_text(encoding="utf-8")
    network = load(tmp_path / "gp-1d")
    assert network.config.prior == "gp-1d"
    assert "Training 1 | 3 steps of up to 4 tasks" in card
    assert "Training 2 | 2 steps of up to 4 tasks" in card
    batches = recipes.held_out(named_prior("gp-1d"), TINY.stages[-1])
    mean, _ = recipes.log_likelihood(network, batches)
    # The card's number is that of the very weights beside it, up to their float16.
    stated = re.search(r"Held-out log-likelihood \| (\S+) ", card)
    assert stated and float(stated[1]) == pytest.approx(mean, abs=2e-3)
