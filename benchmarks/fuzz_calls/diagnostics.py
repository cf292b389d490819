"""Diagnostics of methods, draws and predictives."""

from typing import Any

import numpy as np

from amortized.diagnostics import (
    PosteriorTrial,
    PredictiveTrial,
    c2st,
    coverage,
    importance_efficiency,
    local_c2st,
    log_score,
    order_sensitivity,
    pit,
    predictive_check,
    sbc,
    tarp,
)
from amortized.priors import (
    ProgramPrior,
)
from fuzz_calls.programs import counts, normal, scaled
from fuzz_calls.source import Source


def judged(g: Source) -> list[Any]:
    """Diagnostics of a method."""
    trial = PosteriorTrial.run(
        ProgramPrior(g.one(normal, scaled, counts)),
        g.often(g.one("importance", "laplace")),
        n_datasets=g.often(1 + g.size(4)),
        n_context=g.often(1 + g.size(3)),
        n_draws=g.often(1 + g.size(11)),
        seed=g.often(3),
        progress=False,
    )
    check = g.one(sbc, coverage, tarp, importance_efficiency)
    verdict = check(trial)
    p_values = getattr(verdict, "p_values", None)
    return [np.array(list(p_values.values()) if p_values else [verdict.p_value])]


def judged_draws(g: Source) -> list[Any]:
    """Diagnostics of draws from elsewhere."""
    n, m = g.size(12), g.size(10)
    trial = PosteriorTrial({"m": g.tensor(n, broken=0.05)}, {"m": g.tensor(m, n, broken=0.05)})
    way = g.rng.random()
    if way < 0.4:
        return list(g.one(sbc, coverage, tarp)(trial, seed=g.often(0)).p_values.values())
    if way < 0.7:
        other = PosteriorTrial({"m": trial.truth["m"]}, {"m": g.tensor(m, n, broken=0.02)})
        return list(c2st(trial, other, seed=g.often(0), progress=False).p_values.values())
    predictive = PredictiveTrial(g.tensor(n, 1), g.tensor(n, 1), g.tensor(n, 1).abs() % 1)
    if way < 0.85:
        return [log_score(predictive).mean]
    return list(pit(predictive).p_values.values())


def judged_networks(g: Source) -> list[Any]:
    """Diagnostics of predictives."""
    prior = ProgramPrior(g.one(normal, scaled))
    sizes = {"n_datasets": g.often(2), "n_context": g.often(3), "n_query": g.often(2)}
    way = g.rng.random()
    if way < 0.4:
        trial = PredictiveTrial.run(prior, "importance", **sizes, progress=False, n_draws=10)
        return [log_score(trial).mean, *pit(trial).p_values.values()]
    if way < 0.7:
        found = order_sensitivity(prior, "importance", **sizes, n_orders=g.often(2),
                                  progress=False, n_draws=10)  # fmt: skip
        return [found.mean]
    del sizes["n_query"]
    drawn = PosteriorTrial.run(prior, "importance", **sizes, n_draws=10, progress=False)
    if way < 0.9:
        checked = predictive_check(drawn, prior, n_replicates=g.often(5), seed=g.often(0))
        return list(checked.p_values.values())
    return [local_c2st(drawn, n_inspected=g.often(1), n_null=g.often(2), progress=False).p_value]


KINDS = {judged: 2, judged_draws: 4, judged_networks: 1}
