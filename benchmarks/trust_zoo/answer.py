"""One run of one method on one program, as plain numbers."""

import math
import time
import traceback
import warnings
from typing import Any

import numpy as np
import torch
from torch import Tensor

from amortized import infer
from amortized.posterior import Posterior
from trust_zoo.entry import Entry
from trust_zoo.reference import Reference
from trust_zoo.verdict import KURTOSIS

OPTIONS: dict[str, dict[str, Any]] = {
    name: {"method": name} for name in ("auto", "smc", "nuts", "hmc", "laplace", "vi", "importance")
} | {"smc from the prior": {"method": "smc", "start": "prior"}}
"""Every method by its name in the tables, with its options: a user's defaults."""

N_OF_TAILS = 4000  # draws where the 1% beyond a quantile is judged: of 1,000, chance may leave 1


def answer(entry: Entry, reference: Reference, method: str, seed: int) -> dict[str, Any]:
    """Asks `infer`, and keeps what it answers and what it says."""
    given = (entry.y,) if entry.x is None else (entry.x, entry.y)
    options = dict(OPTIONS[method])
    if any(latent.kurtosis > KURTOSIS for latent in reference.latents.values()):
        options["n_draws"] = N_OF_TAILS
    record: dict[str, Any] = {"status": "answered"}
    began = time.process_time()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            posterior = infer(entry.program, *given, seed=seed, **options)
            record |= _numbers(posterior, reference)
        except (ValueError, TypeError, NotImplementedError) as error:
            record |= {"status": "refused", "error": f"{type(error).__name__}: {error}"[:400]}
            if not str(error).startswith("Expected"):  # not one of our own messages
                record |= {"status": "broke", "where": traceback.format_exc()[-600:]}
        except Exception as error:
            record |= {"status": "broke", "error": f"{type(error).__name__}: {error}"[:400]}
            record["where"] = traceback.format_exc()[-600:]
    record["seconds"] = round(time.process_time() - began, 2)
    raised = {(_full_name(each.category), str(each.message)[:300]) for each in caught}
    return record | {"warnings": sorted(raised)}


def _full_name(category: type[Warning]) -> str:
    return f"{category.__module__}.{category.__qualname__}"


def _numbers(posterior: Posterior, reference: Reference) -> dict[str, Any]:
    draws, log_weights = posterior.weighted_draws()
    weights = log_weights.detach().exp().double()
    latents = {}
    for name, value in draws.items():
        value = value.detach().double()
        for at in np.ndindex(*value.shape[1:]):
            label = f"{name}[{', '.join(map(str, at))}]" if at else name
            latents[label] = _summary(value[(slice(None), *at)], weights, reference, label)
    diagnostics = {name: _plain(value) for name, value in posterior.diagnostics.items()}
    return {
        "latents": latents,
        "log_evidence": _plain(posterior.log_evidence),
        "log_evidence_error": _plain(posterior.log_evidence_error),
        "diagnostics": {name: value for name, value in diagnostics.items() if value is not None},
    }


def _summary(value: Tensor, weights: Tensor, reference: Reference, label: str) -> dict[str, Any]:
    mean = (weights * value).sum()
    sd = (weights * (value - mean).square()).sum().sqrt()
    right = reference.latents.get(label)
    quantiles = right.quantiles if right is not None else ()
    shares = [round(float(weights[value <= each].sum()), 5) for each in quantiles]
    return {"mean": float(mean), "sd": float(sd), "shares": shares}


def _plain(value: Any) -> Any:
    """A number, a word, a flag or a list of words, as doubts are; None for anything larger."""
    if isinstance(value, Tensor):
        value = value.item() if value.numel() == 1 else None
    if isinstance(value, float) and math.isinf(value):
        return math.copysign(1e300, value)
    if isinstance(value, dict):
        value = [f"{name}: {each}" for name, each in value.items()]
    if isinstance(value, list | tuple):
        return [str(each)[:300] for each in value[:8]]
    return value if isinstance(value, bool | int | float | str) else None


def one_thread() -> None:
    """Runs stand side by side, one a core."""
    torch.set_num_threads(1)
