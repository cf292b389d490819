"""Recipes of Distribution Transformers: the card says what was measured on the very weights."""

import sys
from dataclasses import replace

import pytest
import torch

from amortized.distributions.gaussian_mixture import GaussianMixture
from amortized.latent_priors.problems import PROBLEMS, named_tasks
from amortized.networks import DistributionTransformer
from amortized.pretrained import available, card_rows, load, save
from amortized.pretrained.storage import SHIPPED
from amortized.recipes import posteriors, release
from amortized.recipes.table import RECIPES

RELEASED = [name for name in available() if name in PROBLEMS]


@pytest.mark.parametrize("name", PROBLEMS)
def test_a_problem_agrees_with_its_program(name):
    """A series is trained with all its rows; the latents are as many as the program has."""
    problem = PROBLEMS[name]
    tasks = problem.tasks()
    assert problem.n_latents == tasks.dim
    assert problem.n_context == (tasks.ordered, tasks.ordered) or not tasks.ordered


def stated_gap(card):
    """Mean and standard error of the gap that a card states."""
    words = card["Gap to the exact posterior"].split()
    return float(words[2]), float(words[4])


@pytest.mark.parametrize("n_reference", [40, 0], ids=["quadrature", "importance weights"])
def test_card_is_made_and_renewed(n_reference, tmp_path, monkeypatch):
    recipe = RECIPES["dt-mean"]
    monkeypatch.setitem(RECIPES, "dt-mean", recipe._replace(n_reference=n_reference))
    untrained = release.untrained("dt-mean", SHIPPED).eval()
    assert isinstance(untrained, DistributionTransformer) and untrained.config.prior == "dt-mean"
    text = release.card("dt-mean", untrained, (12.0,))
    folder = save(untrained, tmp_path / "dt-mean", text)
    made = card_rows(folder)
    gap, error = stated_gap(made)
    assert gap > 3 * error > 0  # it has learnt nothing
    assert made["Training 1"].endswith("; 12 s")
    assert float(made["Calibration: median importance efficiency with 1 rows"]) < 1
    monkeypatch.setattr(sys, "argv", ["recipes", "dt-mean", "--card", "--to", str(tmp_path)])
    release.main()
    again = card_rows(folder)
    assert again.keys() == made.keys() and again["Training 1"] == made["Training 1"]
    assert stated_gap(again)[0] == pytest.approx(gap, rel=0.02)  # float16
    load(folder)


@pytest.mark.parametrize("exact", [True, False], ids=["quadrature", "importance weights"])
def test_gap_is_the_divergence(exact):
    """None for exact answers; in closed form for answers moved by one and a half deviations."""
    tasks = named_tasks("dt-mean")
    batch = tasks.sample(300, 1, seed=0)
    one = GaussianMixture.from_moments(torch.zeros(300, 1), torch.eye(1).expand(300, 1, 1))
    batch = replace(batch, latent_prior=one, u=one.sample(), density=batch.density)
    y = batch.u + torch.randn_like(batch.u)
    batch = replace(
        batch,
        observations={"data": y.unsqueeze(1)},
        density=batch.density.of_data(batch.density.x, y),
    )
    right, _ = one.update(y, torch.ones(300, 1, 1))
    moved = GaussianMixture(right.log_weights, right.means + 1.5 * 0.5**0.5, right.scale_tril)
    torch.manual_seed(0)
    gap = posteriors.gaps(tasks, [batch], [right], exact)
    assert gap.abs().max() < 1e-3
    gap = posteriors.gaps(tasks, [batch], [moved], exact)
    assert gap.mean().item() == pytest.approx(1.5**2 / 2, abs=0.05)


@pytest.mark.parametrize("name", RELEASED)
def test_gap_of_a_card_is_reproduced(name):
    recipe, tasks = RECIPES[name], named_tasks(name)
    mean, error = stated_gap(card_rows(SHIPPED / name))
    batches = posteriors.held_out(tasks, recipe.stages[-1], 10)
    torch.manual_seed(0)
    mixtures = posteriors.answers(load(name), batches)
    gap = posteriors.gaps(tasks, batches, mixtures, bool(recipe.n_reference))
    # Few tasks have most of the gap, and a small sample without them knows nothing of its noise.
    noise = max(gap.std().item(), error * (recipe.n_reference or 1000) ** 0.5) / len(gap) ** 0.5
    assert gap.mean().item() == pytest.approx(mean, abs=3 * (error**2 + noise**2) ** 0.5)
