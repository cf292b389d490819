"""Every test starts from the same random state; torch's default float32 stays, networks use it."""

import hypothesis
import jaxtyping
import pyro
import pytest

# Examples are the same in every run, and a busy machine fails no test.
hypothesis.settings.register_profile("amortized", deadline=None, derandomize=True)
hypothesis.settings.load_profile("amortized")


@pytest.fixture(autouse=True)
def _same_random_state():
    pyro.set_rng_seed(0)  # of torch, numpy and random
    pyro.clear_param_store()


@pytest.fixture
def no_shape_checks(monkeypatch):
    """As a user runs it: a wrong shape meets our own message, not jaxtyping's."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
