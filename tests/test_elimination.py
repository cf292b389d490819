"""Sums, marginals and draws of factor graphs are those of their whole tables."""

import math

import pytest
import torch

from amortized.program.discrete.elimination import Elimination, draw_all, named

CHAIN = ["a", *(first + second for first, second in zip("abcdefg", "bcdefgh", strict=True))]
GRAPHS = {
    "chain": CHAIN,
    "chain the other way": [term[::-1] for term in CHAIN] + list("abcdefgh"),
    "two chains": ["ab", "bc", "cd", "ef", "fg", "gh"],
    "star": ["ab", "ac", "ad", "ae", "af", "ag", "ah"],
    "loop": [*CHAIN, "ha"],
    "second order": ["ab", "abc", "bcd", "cde", "def", "efg", "fgh"],
    "grid": ["ab", "bc", "cd", "ef", "fg", "gh", "ae", "bf", "cg", "dh"],
    "one": ["a", "a"],
}
SIZES = dict(zip("abcdefgh", (2, 3, 2, 2, 3, 2, 2, 3), strict=True))


def random_terms(graph):
    generator = torch.Generator().manual_seed(0)
    shapes = [tuple(SIZES[d] for d in term) for term in graph]
    tables = [torch.randn(s, dtype=torch.float64, generator=generator) for s in shapes]
    tables[-1].view(-1)[0] = -torch.inf  # an impossible value
    return [named(table, term) for table, term in zip(tables, graph, strict=True)]


def whole_table(terms):
    letters = sorted(set("".join(term._pyro_dims for term in terms)))
    at = {letter: i for i, letter in enumerate(letters)}
    pairs = [part for t in terms for part in (t.exp(), [at[d] for d in t._pyro_dims])]
    return torch.einsum(*pairs, list(range(len(letters)))), letters


@pytest.mark.parametrize("largest", [0, 2**12])
@pytest.mark.parametrize("graph", GRAPHS.values(), ids=GRAPHS)
def test_sums_and_marginals_are_those_of_the_whole_table(graph, largest):
    terms = random_terms(graph)
    for term in terms:
        term.requires_grad_()
    table, letters = whole_table([named(t.detach(), t._pyro_dims) for t in terms])
    total = Elimination(largest).sumproduct(terms, letters)
    torch.testing.assert_close(total, table.sum().log(), rtol=0, atol=1e-12)
    for term, slope in zip(terms, torch.autograd.grad(total, terms), strict=True):
        others = [i for i, letter in enumerate(letters) if letter not in term._pyro_dims]
        marginal = table.sum(others) if others else table
        order = [sorted(term._pyro_dims).index(d) for d in term._pyro_dims]
        expected = (marginal / table.sum()).permute(order)
        torch.testing.assert_close(slope, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("largest", [0, 2**12])
@pytest.mark.parametrize("graph", GRAPHS.values(), ids=GRAPHS)
def test_draws_have_the_frequencies_of_the_whole_table(graph, largest):
    n, terms = 20_000, random_terms(graph)
    ring = Elimination(largest)
    table, letters = whole_table(terms)
    ring.sumproduct(terms, letters)
    drawn = draw_all(ring.steps, dict.fromkeys(letters, {}), n)
    at = torch.zeros(n, dtype=torch.long)
    for letter in letters:
        at = at * SIZES[letter] + drawn[letter]
    share = torch.bincount(at, minlength=table.numel()) / n
    p = (table / table.sum()).flatten()
    assert ((share - p).abs() < 5.5 * (p * (1 - p) / n).sqrt() + 5 / n).all()
    assert (share[p == 0] == 0).all()


def test_rows_of_a_plate_are_drawn_given_what_is_outside_of_it():
    """Outside a; inside b and c, of three rows, where c has no factor that differs by row."""
    generator = torch.Generator().manual_seed(1)
    tables = {"ab#": (2, 3, 3), "bc": (3, 2)}
    inside = [named(torch.randn(s, generator=generator), d) for d, s in tables.items()]
    ring, n = Elimination(2**12), 40_000
    message = ring.sumproduct(inside, "bc")
    assert set(message._pyro_dims) == {"a", "#"}
    outer = named(message.sum(message._pyro_dims.index("#")), "a")
    ring.sumproduct([outer], "a")
    drawn = draw_all(ring.steps, {"a": {}, "b": {"#": 3}, "c": {"#": 3}}, n)
    joint = torch.einsum("abi,bc->iabc", *(term.exp() for term in inside))
    a = outer.softmax(0)
    for row in range(3):
        p = (joint[row] / joint[row].sum((1, 2), keepdim=True) * a[:, None, None]).flatten()
        at = (drawn["a"] * 3 + drawn["b"][:, row]) * 2 + drawn["c"][:, row]
        share = torch.bincount(at, minlength=12) / n
        assert ((share - p).abs() < 5 * (p * (1 - p) / n).sqrt()).all()


@pytest.mark.parametrize("n", [100, 400])
def test_a_chain_takes_as_many_operations_as_its_length_has_digits(n):
    letters = [chr(0x4E00 + i) for i in range(n)]
    pairs = zip(letters, letters[1:], strict=False)
    terms = [named(torch.zeros(4, 4), first + second) for first, second in pairs]
    ring = Elimination(2**12)
    assert ring.sumproduct(terms, letters) == pytest.approx(n * math.log(4), rel=1e-5)
    assert len(ring.steps) < 3 * math.log2(n) + 3
    ends = Elimination(0)  # two at a time, from both ends
    ends.sumproduct(terms, letters)
    assert len(ends.steps) >= n / 2 and max(step.joint.numel() for step in ends.steps) <= 32
