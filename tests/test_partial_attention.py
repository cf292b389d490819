"""Attention to parts of a context, merged, is attention to all of it."""

import math
from functools import reduce

import pytest
import torch

from amortized.networks.layers.attention import attend_reference
from amortized.networks.layers.partial_attention import PartialAttention, attend_to_part


def qkv(n_context=60, size=1.0):
    """Queries of three batches, two heads and five rows of width 8, and their context."""
    q, k, v = (torch.randn(3, 2, n, 8, dtype=torch.float64) for n in (5, n_context, n_context))
    return size * q, k, v


def merged(q, k, v, sizes, mask=None):
    """Attention to parts of these sizes, one after another."""
    masks = [None] * len(sizes) if mask is None else mask.split(sizes, 1)
    parts = zip(k.split(sizes, 2), v.split(sizes, 2), masks, strict=True)
    return reduce(PartialAttention.merged, [attend_to_part(q, *part) for part in parts])


def near(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("size", [0.0, 1.0, 1e3, 1e6])
@pytest.mark.parametrize("sizes", [[60], [30, 30], [1, 0, 58, 1], [0, 60], [1] * 60], ids=str)
def test_any_split_is_the_whole(sizes, size):
    """Also where exponentials of the scores would overflow."""
    q, k, v = qkv(size=size)
    near(merged(q, k, v, sizes).mean, attend_reference(q, k, v))


@pytest.mark.parametrize("dtype, off", [(torch.float32, 1e-6), (torch.bfloat16, 2e-2)])
def test_in_lower_precision(dtype, off):
    q, k, v = qkv()
    found = merged(*(tensor.to(dtype) for tensor in (q, k, v)), [10, 25, 25]).mean
    assert found.dtype == dtype
    torch.testing.assert_close(found.double(), attend_reference(q, k, v), rtol=off, atol=off)


def test_padding_and_parts_without_any_row():
    q, k, v = qkv()
    mask = torch.arange(60) < torch.tensor([[60], [12], [0]])
    near(merged(q, k, v, [20, 20, 20], mask).mean, attend_reference(q, k, v, mask))


def test_order_and_grouping_of_parts_do_not_matter():
    q, k, v = qkv()
    a, b, c = (attend_to_part(q, k[:, :, s : s + 20], v[:, :, s : s + 20]) for s in (0, 20, 40))
    for other in (c.merged(a).merged(b), a.merged(b.merged(c))):
        near(other, a.merged(b).merged(c))


def test_state_of_a_stream_does_not_grow():
    torch.manual_seed(0)
    q, k, v = qkv(n_context=10_000)
    state = attend_to_part(q, k[:, :, :0], v[:, :, :0])
    n_numbers = sum(tensor.numel() for tensor in state)
    for rows in torch.arange(10_000).split(100):
        state = state.merged(attend_to_part(q, k[:, :, rows], v[:, :, rows]))
        assert sum(tensor.numel() for tensor in state) == n_numbers
    near(state.mean, attend_reference(q, k, v))


def test_copies_share_a_context():
    q, k, v = torch.randn(12, 2, 5, 8), *torch.randn(2, 3, 2, 7, 8)
    mask = torch.arange(7) < torch.tensor([[7], [4], [0]])
    alone = attend_to_part(q, k.repeat(4, 1, 1, 1), v.repeat(4, 1, 1, 1), mask.repeat(4, 1))
    torch.testing.assert_close(attend_to_part(q, k, v, mask), alone, rtol=1e-5, atol=1e-6)


def test_gradients_are_those_of_the_whole():
    mask, direction = torch.arange(9) < torch.tensor([[9], [4], [0]]), torch.randn(3, 2, 5, 8)
    inputs = [tensor.requires_grad_() for tensor in qkv(9)]
    whole = attend_reference(*(tensor[:2] for tensor in inputs), mask[:2])
    parts = merged(*inputs, [4, 5], mask).mean
    assert (parts[2] == 0).all() and parts.isfinite().all()
    for found, expected in zip(
        torch.autograd.grad((parts * direction).sum(), inputs),
        torch.autograd.grad((whole * direction[:2]).sum(), inputs),
        strict=True,
    ):
        near(found, expected)


def test_no_rows_weigh_nothing():
    part = attend_to_part(*qkv(0))
    assert (part.mean == 0).all() and (part.log_weight == -math.inf).all()


def test_queries_of_no_context():
    q, k, v = qkv()
    with pytest.raises(ValueError, match="each of 2 contexts"):
        attend_to_part(q, k[:2], v[:2])
