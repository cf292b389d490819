"""The fused attention is its formula, and rotated inner products see differences of inputs only."""

import pytest
import torch

from amortized.networks.layers import attention as blocked
from amortized.networks.layers.attention import Rotation, attend, attend_reference, rotate


def qkv(n_rows=5, n_context=7, dtype=torch.float32):
    """Queries, keys and values of two batches, three heads and width 8."""
    return [torch.randn(2, 3, n, 8, dtype=dtype) for n in (n_rows, n_context, n_context)]


MASKS = {
    "no mask": lambda n: None,
    "all rows": lambda n: torch.ones(2, n, dtype=torch.bool),
    "some rows": lambda n: torch.arange(n) % 3 < torch.tensor([[1], [2]]),
    "none in one batch": lambda n: torch.tensor([[True], [False]]).expand(2, n),
    "none at all": lambda n: torch.zeros(2, n, dtype=torch.bool),
}
each_mask = pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)


@each_mask
@pytest.mark.parametrize("n_rows, n_context", [(5, 7), (1, 1), (70, 130), (4, 0), (0, 3)])
def test_fused_is_the_formula(mask, n_rows, n_context):
    q, k, v = qkv(n_rows, n_context)
    mask = mask(n_context)
    torch.testing.assert_close(
        attend(q, k, v, mask), attend_reference(q, k, v, mask), rtol=1e-5, atol=1e-6
    )


@each_mask
def test_gradients_are_those_of_the_formula(mask):
    mask, direction = mask(7), torch.randn(2, 3, 5, 8)
    gradients = []
    for function in (attend, attend_reference):
        torch.manual_seed(0)
        inputs = [tensor.requires_grad_() for tensor in qkv()]
        (function(*inputs, mask) * direction).sum().backward()
        gradients.append([tensor.grad.nan_to_num(nan=0.0) for tensor in inputs])
    for fused, plain in zip(*gradients, strict=True):
        torch.testing.assert_close(fused, plain, rtol=1e-4, atol=1e-6)


@each_mask
def test_gradients_are_finite(mask):
    """A NaN in the gradient of a row without context would spoil the whole batch."""
    inputs = [tensor.requires_grad_() for tensor in qkv()]
    attend(*inputs, mask(7)).sum().backward()
    assert all(tensor.grad.isfinite().all() for tensor in inputs)


@each_mask
@pytest.mark.parametrize("piece", [4, 256, 2**21], ids="{} bytes".format)
@pytest.mark.parametrize("n_rows, n_context", [(5, 7), (1, 1), (70, 130)])
def test_pieces_are_the_formula(mask, piece, n_rows, n_context, monkeypatch):
    """Whatever the size of a piece; rows of an empty context are the caller's to replace."""
    monkeypatch.setattr(blocked, "_PIECE", piece)
    mask = mask(n_context)
    inputs = [tensor.requires_grad_() for tensor in qkv(n_rows, n_context)]
    found = blocked.blocked_attention(*inputs, mask)
    expected = attend_reference(*inputs, mask)
    exists = torch.ones(2, dtype=torch.bool) if mask is None else mask.any(-1)
    torch.testing.assert_close(found[exists], expected[exists], rtol=1e-5, atol=1e-6)
    assert found.isfinite().all()
    if exists.any():
        direction = torch.randn_like(found[exists])
        gradients = [
            torch.autograd.grad((part[exists] * direction).sum(), inputs, retain_graph=True)
            for part in (found, expected)
        ]
        for one, other in zip(*gradients, strict=True):
            torch.testing.assert_close(one[exists], other[exists], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("piece", [256, 2**21], ids="{} bytes".format)
@pytest.mark.parametrize("size", [1.0, 30.0, 1e4])
@pytest.mark.parametrize("n_context", [7, 130])
def test_without_a_gradient_it_is_the_formula(n_context, size, piece, monkeypatch):
    """Also where exponentials of the scores themselves would overflow, in one head or in all."""
    monkeypatch.setattr(blocked, "_PIECE", piece)
    q, k, v = qkv(70, n_context, torch.float64)
    q[0, 0] *= size
    torch.testing.assert_close(
        blocked.blocked_attention(q, k, v), attend_reference(q, k, v), rtol=1e-5, atol=1e-6
    )


@each_mask
def test_bfloat16_is_close(mask):
    q, k, v = qkv()
    low = [tensor.bfloat16() for tensor in (q, k, v)]
    attended = attend(*low, mask(7))
    assert attended.dtype == torch.bfloat16
    expected = attend_reference(*(tensor.float() for tensor in low), mask(7))
    torch.testing.assert_close(attended.float(), expected, rtol=2**-7, atol=2**-7)
    with torch.autocast("cpu", torch.bfloat16):
        assert attend(*low, mask(7)).dtype == torch.bfloat16


def test_masked_rows_do_not_exist():
    q, k, v = qkv()
    mask = torch.arange(7).expand(2, 7) < 4
    rubbish = [tensor.masked_fill(~mask[:, None, :, None], 1e4) for tensor in (k, v)]
    torch.testing.assert_close(
        attend(q, *rubbish, mask), attend(q, k[:, :, :4], v[:, :, :4]), rtol=1e-5, atol=1e-6
    )


def test_a_row_without_context_gets_zeros():
    q, k, v = qkv()
    mask = torch.tensor([[True], [False]]).expand(2, 7)
    assert (attend(q, k, v, mask)[1] == 0).all()
    assert (attend(q, k[:, :, :0], v[:, :, :0]) == 0).all()


def test_context_order_does_not_matter():
    q, k, v = qkv()
    order = torch.randperm(7)
    torch.testing.assert_close(attend(q, k[:, :, order], v[:, :, order]), attend(q, k, v))


def rotated_products(shift=0.0):
    """Inner products of rotated queries and keys whose inputs are all moved by a shift."""
    torch.manual_seed(0)
    q, k, _ = qkv(dtype=torch.float64)
    x, z = torch.randn(2, 5, 3).double(), torch.randn(2, 7, 3).double()
    frequencies = torch.randn(3, 3, 4).double()
    turns = [
        Rotation.by(torch.einsum("bnf,fhw->bnhw", inputs + shift, frequencies)) for inputs in (x, z)
    ]
    q, k = (rotate(v.transpose(1, 2), turn) for v, turn in zip((q, k), turns, strict=True))
    return torch.einsum("bnhw,bmhw->bhnm", q, k)


def test_rotated_products_depend_on_differences_only():
    torch.testing.assert_close(rotated_products(), rotated_products(shift=3.7))


def test_rotation_by_nothing_and_by_a_quarter():
    vectors = torch.randn(2, 3, 5, 8)
    angles = torch.zeros(2, 3, 5, 4)
    assert torch.equal(rotate(vectors, Rotation.by(angles)), vectors)
    quarter = rotate(vectors, Rotation.by(angles + torch.pi / 2))
    torch.testing.assert_close(quarter, torch.cat((-vectors[..., 4:], vectors[..., :4]), -1))
    torch.testing.assert_close(
        rotate(vectors, Rotation.by(torch.randn(2, 3, 5, 4))).norm(dim=-1), vectors.norm(dim=-1)
    )
    assert rotate(vectors.bfloat16(), Rotation.by(angles)).dtype == torch.bfloat16
