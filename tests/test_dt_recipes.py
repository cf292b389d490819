"""Recipes of Distribution Transformers: the card says what was measured on the very weights."""

import sys
from dataclasses import replace

import pytest
import torch

from amortized import dt_recipes
from amortized.latent_priors.catalogue import named_tasks
from amortized.networks import DistributionTransformer
from amortized.pretrained import available, card_rows, load, save
from amortized.pretrained.storage import SHIPPED

RELEASED = [name for name in available() if name in dt_recipes.RECIPES]


def stated_gap(card):
    """Mean and standard error of the gap that a card states."""
    words = card["Gap to the exact posterior"].split()
    return float(words[2]), float(words[4])


@pytest.mark.parametrize("n_reference", [40, 0], ids=["quadrature", "importance weights"])
def test_card_is_made_and_renewed(n_reference, tmp_path, monkeypatch):
    recipe = dt_recipes.RECIPES["dt-mean"]
    recipe = recipe._replace(network=replace(recipe.network, prior="dt-mean", n_context=(1, 1)))
    monkeypatch.setitem(dt_recipes.RECIPES, "dt-mean", recipe._replace(n_reference=n_reference))
    tasks = named_tasks("dt-mean")
    untrained = DistributionTransformer.new(tasks, recipe.network).eval()
    text = dt_recipes.card("dt-mean", untrained, tasks, 12.0)
    folder = save(untrained, tmp_path / "dt-mean", text)
    made = card_rows(folder)
    gap, error = stated_gap(made)
    assert gap > 3 * error > 0  # it has learnt nothing
    assert made["Training"].endswith("; 12 s")
    assert float(made["Calibration: importance efficiency with 1 rows"]) < 1
    monkeypatch.setattr(sys, "argv", ["dt_recipes", "dt-mean", "--card", "--out", str(tmp_path)])
    dt_recipes.main()
    again = card_rows(folder)
    assert again.keys() == made.keys() and again["Training"] == made["Training"]
    assert stated_gap(again)[0] == pytest.approx(gap, rel=0.02)  # float16
    load(folder)


@pytest.mark.parametrize("name", RELEASED)
def test_gap_of_a_card_is_reproduced(name):
    recipe, tasks = dt_recipes.RECIPES[name], named_tasks(name)
    mean, error = stated_gap(card_rows(SHIPPED / name))
    batches = dt_recipes.held_out(tasks, recipe.training, 100)
    gap_of = dt_recipes.gaps if recipe.n_reference else dt_recipes.implied_gaps
    torch.manual_seed(0)
    gap = gap_of(tasks, batches, dt_recipes.answers(load(name), batches))
    noise = gap.std().item() / len(gap) ** 0.5
    assert gap.mean().item() == pytest.approx(mean, abs=3 * (error**2 + noise**2) ** 0.5)
