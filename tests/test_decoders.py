"""The head of bars: its formula, what a new one says, and its extremes."""

import numpy as np
import torch
from scipy.special import log_softmax, softmax

from amortized.networks.layers.decoders import BarDecoder

BORDERS = torch.linspace(-1.0, 2.0, 61) ** 3


def decoder(d_model: int = 8, scale: float = 0.5) -> BarDecoder:
    made = BarDecoder(d_model, BORDERS)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for layer in (made.head, made.focus):
            torch.nn.init.normal_(layer.weight, std=scale)
            torch.nn.init.normal_(layer.bias, std=scale)
    return made


STATES = torch.randn(5, 3, 8, generator=torch.Generator().manual_seed(1))


def test_log_masses_are_those_of_the_formula():
    made = decoder()
    found = made(STATES).log_masses.detach().numpy()
    weights, w, b = [
        part.detach().double().numpy()
        for part in (made.head.weight, made.focus.weight, made.focus.bias)
    ]
    place = np.arange(60) / 60
    for index in np.ndindex(5, 3):
        h = STATES[index].double().numpy()
        sharpness, strength, shift = w @ h + b
        logits = np.exp(sharpness) * (weights @ h + made.head.bias.detach().double().numpy())
        masses = softmax(logits)
        m = masses @ place
        s = max(np.sqrt(masses @ (place - m) ** 2), 1 / 60)
        expected = logits - 0.5 * np.exp(strength) * ((place - m) / s - shift) ** 2
        np.testing.assert_allclose(found[index], log_softmax(expected), rtol=1e-4, atol=1e-4)


def test_a_peak_is_as_narrow_as_it_is_asked_to_be():
    """Masses to a power: the mode stays, and takes all."""
    made = decoder()
    torch.nn.init.constant_(made.focus.bias[1:2], -30.0)
    before = made(STATES).masses
    made.focus.bias.data[0] += 6.0
    after = made(STATES).masses
    assert torch.equal(after.argmax(-1), before.argmax(-1))
    assert before.amax(-1).median() < 0.5 and (after.amax(-1) > 0.9).all()


def test_extreme_states_have_finite_masses_and_gradients():
    made = decoder(scale=3.0)
    for factor in (0.0, 1.0, 10.0):
        made.zero_grad()
        predictive = made(factor * STATES)
        loss = -predictive.log_prob(torch.zeros(5, 3)).mean()
        loss.backward()
        assert predictive.log_masses.isfinite().all()
        assert all(p.grad.isfinite().all() for p in made.parameters())


def test_masses_are_in_float32_under_autocast():
    made = decoder()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = made(STATES).log_masses
    torch.testing.assert_close(found, made(STATES).log_masses)


def test_default_precision_of_torch_changes_nothing():
    made = decoder()
    expected = made(STATES).log_masses
    torch.set_default_dtype(torch.float64)
    try:
        found = made(STATES).log_masses
    finally:
        torch.set_default_dtype(torch.float32)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
