"""Shapes in signatures are checked in tests, of functions and of dataclasses."""

import pytest
import torch

from amortized.priors.regression.linear_regression import LinearRegressionPosterior
from amortized.sampling.steps.constrained_slice import ordered


def test_a_function_checks_each_call():
    good = torch.zeros(2, 3)
    assert ordered(good, good).shape == (2, 3)
    with pytest.raises(TypeError, match="label"):
        ordered(good, torch.zeros(2, 4))
    with pytest.raises(TypeError, match="label"):
        ordered(good, None)


def test_a_loop_is_checked_at_its_first_calls_and_now_and_then():
    good = torch.zeros(2, 3)
    for call in range(1, 61):
        with pytest.raises(TypeError if call <= 3 or call == 50 else AttributeError):
            ordered(good, None)


def test_a_dataclass_checks_its_fields():
    mean, factor, evidence = torch.zeros(2, 3), torch.eye(3).expand(2, 3, 3), torch.zeros(2)
    LinearRegressionPosterior(mean, factor, evidence, 1.0, True)
    with pytest.raises(TypeError, match="precision_tril"):
        LinearRegressionPosterior(mean, torch.eye(2).expand(2, 2, 2), evidence, 1.0, True)


def test_without_checks_a_call_is_the_function_s(no_shape_checks):
    with pytest.raises(RuntimeError, match="[Ss]ize"):
        ordered(torch.zeros(2, 3), torch.zeros(3, 4))
