"""Blocks: what is computed at once, or in bfloat16, is what its parts compute."""

import pytest
import torch
from torch.nn import functional as F

from amortized.networks.layers.blocks import Norm
from amortized.networks.layers.cell_block import CellBlock, RowBlock


def filled(module):
    """With weights that are not zero."""
    for weight in module.parameters():
        torch.nn.init.normal_(weight, std=0.5)
    return module


@pytest.mark.parametrize("size", [1e-3, 1.0, 1e3])
def test_norm_in_bfloat16_is_that_in_float32(size):
    norm, x = filled(Norm(48)), (size * torch.randn(5, 7, 48)).bfloat16()
    expected = F.rms_norm(x.float(), (48,), norm.weight)
    for found in (norm(x), torch.inference_mode()(norm)(x)):
        assert found.dtype == torch.bfloat16
        torch.testing.assert_close(found.float(), expected, rtol=2**-8, atol=1e-6)


def test_norm_in_bfloat16_has_the_gradient_of_that_in_float32():
    norm, direction = filled(Norm(48)), torch.randn(6, 48).bfloat16()
    x = torch.randn(6, 48).bfloat16()
    gradients = []
    for given in (x.clone().requires_grad_(), x.float().requires_grad_()):
        found = torch.autograd.grad((norm(given) * direction).sum(), [given, norm.weight])
        gradients.append([gradient.float() for gradient in found])
    for low, exact in zip(*gradients, strict=True):
        torch.testing.assert_close(low, exact, rtol=2**-5, atol=2**-5)


@pytest.mark.parametrize("masked", [False, True])
def test_rows_among_themselves_are_rows_to_their_keys_and_values(masked):
    block, cells = filled(RowBlock(16, 2, 16)), torch.randn(2, 3, 9, 16)
    mask = torch.arange(9) < torch.tensor([[9], [4]]) if masked else None
    n_context = torch.tensor([9.0, 4.0 if masked else 9.0])
    rows, kept = block.among(cells, n_context, mask)
    keys_values = block.keys_values(cells, n_context)
    torch.testing.assert_close(kept, keys_values)
    torch.testing.assert_close(rows, block(cells, keys_values, mask))


def test_the_last_block_updates_summaries_alone():
    whole, last = CellBlock(16, 2, 16), CellBlock(16, 2, 16, is_last=True)
    last.load_state_dict(filled(whole).state_dict())
    cells = torch.randn(2, 4, 9, 16)
    torch.testing.assert_close(last.mix_features(cells), whole.mix_features(cells)[:, :1])
