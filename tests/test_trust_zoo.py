"""The zoo of `benchmarks/trust.py`: its programs run, its references hold, its verdicts are right.

A reference is a sum over a grid in numpy, or a closed form. It meets what shares nothing with it:
the program's own density, traced plainly: here on a lattice of its coordinates, for `--references`
on particles tempered from the prior.
"""

import json
import math
import sys
from pathlib import Path

import numpy as np
import pyro
import pytest
import torch

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))

from trust_zoo import EVIDENCE, FAMILIES, ZOO
from trust_zoo.answer import OPTIONS, answer
from trust_zoo.plain_density import PlainDensity, doubles
from trust_zoo.reference import LEVELS, Reference, Summary, by_quadrature, line, of_normals
from trust_zoo.runs import Run, missing, read
from trust_zoo.second import Check, check
from trust_zoo.stored import stored_checks, stored_references
from trust_zoo.tables import programs_by_methods, totals
from trust_zoo.verdict import faults, said, verdict

STORED = stored_references()
TAKES_SECONDS = {
    "three labels",
    "Student regression",
    "elimination",
    "walk, unknown scales",
    "counted walk",
    "Poisson regression",
    "logistic 12d",
    "ridge 17d",
    "Gaussian process",
    "field of classes",
    "two groups",
}
# Too thin for a lattice of two dimensions, or computed one node after the other as "bent line" is.
NOT_ON_LATTICE = {"correlated pair", "product", "elimination", "branch"}
SMALL = [n for n in ZOO if 0 < len(STORED[n].latents) <= 2 and n not in NOT_ON_LATTICE]
each_program = pytest.mark.parametrize("program", ZOO)


def test_holds_sixty_programs():
    assert len(ZOO) == sum(map(len, FAMILIES.values())) == 60
    assert set(STORED) == set(ZOO)
    assert len(EVIDENCE) == 15 and set(EVIDENCE) <= set(ZOO)
    assert max(len(reference.latents) for reference in STORED.values()) == 30


@each_program
def test_program_runs(program):
    entry = ZOO[program]
    y = torch.as_tensor(np.asarray(entry.y), dtype=torch.float32)
    x = torch.zeros(len(y), 1) if entry.x is None else torch.as_tensor(entry.x).float()
    drawn = pyro.poutine.trace(entry.program).get_trace(x)
    assert drawn.nodes["y"]["value"].shape == y.shape
    assert not drawn.nodes["y"]["is_observed"]
    latents = [n for n, s in drawn.nodes.items() if s["type"] == "sample" and n != "y"]
    stems = {label.split("[")[0] for label in STORED[program].latents}
    assert stems <= set(latents)


@each_program
def test_second_method_agrees(program):
    assert stored_checks()[program].agrees
    assert STORED[program].error < 0.03


@pytest.mark.parametrize("program", [n for n in ZOO if n not in TAKES_SECONDS])
def test_stored_reference_is_the_program_s(program):
    again, kept = ZOO[program].reference(), STORED[program]
    assert again.log_evidence == pytest.approx(kept.log_evidence, abs=1e-5)
    assert set(again.latents) == set(kept.latents)
    for label, summary in again.latents.items():
        right = kept.latents[label]
        levels = [
            i for i, level in enumerate(LEVELS) if not (program == "product" and level == 0.5)
        ]
        close = pytest.approx([right.quantiles[i] for i in levels], rel=1e-4, abs=1e-4 * right.sd)
        assert [summary.quantiles[i] for i in levels] == close
        # Of two equal modes with hardly any mass between them, rounding moves the median.
        assert abs(summary.quantiles[1] - right.quantiles[1]) < 0.1 * right.sd
        if right.kurtosis <= 10:
            assert summary.mean == pytest.approx(right.mean, rel=1e-4, abs=1e-4 * right.sd)
            assert summary.sd == pytest.approx(right.sd, rel=1e-4)


def lattice(centre, scale, ends, n):
    """Nodes ``(n^dim, dim)`` between ends, closest together at a centre, and log of their cells."""
    t = torch.stack([(end - centre) / scale for end in ends]).asinh()
    lines = [torch.linspace(*each, n) for each in t.T]
    nodes = torch.cartesian_prod(*lines).reshape(-1, len(lines))
    log_cells = (scale * nodes.cosh() * (t[1] - t[0]) / (n - 1)).log().sum(1)
    return centre + scale * nodes.sinh(), log_cells


def distribution(column, shares):
    """The values of a column in order, and their distribution function."""
    at, node = column.unique(return_inverse=True)
    mass = torch.zeros(len(at)).double().index_add(0, node, shares)
    return at, mass.cumsum(0) - mass / 2


def where_it_is(density):
    """A lattice over all coordinates of which the posterior has a share, and log of its cells.

    Its nodes are closest where the last lattice had the mass: a tail of a few degrees of freedom
    is hundreds of standard deviations long.
    """
    prior = torch.stack([density.sample_prior() for _ in range(100)])
    centre = prior.median(0).values
    scale = (prior - centre).abs().median(0).values
    ends = torch.stack([centre - 75 * scale, centre + 75 * scale])
    first, second, third = (2001, 2001, 4001) if len(centre) == 1 else (151, 151, 301)
    nodes, log_cells = lattice(centre, scale, ends, first)
    for depth, n in ((60, second), (25, third)):
        log_density = sum(density(nodes))
        shares = (log_density + log_cells).softmax(0)
        of_each = [distribution(column, shares) for column in nodes.T]
        low, centre, high = torch.tensor(
            np.array([np.interp((0.25, 0.5, 0.75), below, at) for at, below in of_each]).T
        )
        scale = (high - low) / 2
        kept = nodes[log_density > log_density.max() - depth]
        margin = 0.03 * (kept.amax(0) - kept.amin(0))  # where the density jumps to nothing
        ends = torch.stack([kept.amin(0) - margin, kept.amax(0) + margin])
        nodes, log_cells = lattice(centre, scale, ends, n)
    return nodes, log_cells


@pytest.mark.parametrize("program", SMALL)
def test_reference_meets_the_program_s_own_density(program):
    right = STORED[program]
    with doubles(), torch.no_grad():
        density = PlainDensity(ZOO[program])
        nodes, log_cells = where_it_is(density)
        log_joint = sum(density(nodes)) + log_cells
        values = density.constrained(nodes)
    assert float(log_joint.logsumexp(0)) == pytest.approx(right.log_evidence, abs=0.02)
    shares = log_joint.softmax(0)
    for name, value in values.items():
        for i, column in enumerate(value.reshape(len(value), -1).T):
            summary = right.latents[f"{name}[{i}]" if value.ndim > 1 else name]
            at, below = distribution(column, shares)
            assert np.interp(summary.quantiles, at, below) == pytest.approx(LEVELS, abs=0.01)
            if summary.kurtosis <= 10:
                mean = float(shares @ column)
                sd = float(shares @ (column - mean).square()) ** 0.5
                assert mean == pytest.approx(summary.mean, abs=0.02 * summary.sd)
                assert sd == pytest.approx(summary.sd, rel=0.02)


def test_second_opinion_finds_a_wrong_reference():
    right = STORED["box"]
    summary = right.latents["m"]
    moved = {"m": summary._replace(mean=summary.mean + 0.5 * summary.sd)}
    off = right._replace(log_evidence=right.log_evidence + 0.5)
    wrong = right._replace(latents=moved)
    found = [check(ZOO["box"], each, n=100, sweeps=4) for each in (right, wrong, off)]
    assert found[0].off < 0.1
    assert [each.what for each in found[1:]] == ["m, mean", "log evidence"]
    assert not any(each.agrees for each in found[1:])


def test_quadrature_meets_a_normal():
    found = by_quadrature(lambda m: -0.5 * ((m - 1) / 0.3) ** 2, m=line(-5, 7))
    exact = of_normals(np.ones(1), np.array([1.0]), np.array([0.3]))
    assert found.log_evidence == pytest.approx(math.log(0.3 * math.sqrt(2 * math.pi)))
    assert found.latents["m"][:3] == pytest.approx(exact[:3], rel=1e-6)
    assert found.latents["m"].quantiles == pytest.approx(exact.quantiles, rel=1e-3)


RIGHT = Reference(
    {"m": Summary(1.0, 2.0, 3.0, (-2.29, 1.0, 4.29, 5.65))}, -3.0, 0.0, "made up for this test"
)
TAILED = Reference({"m": RIGHT.latents["m"]._replace(kurtosis=50.0)}, -3.0, 0.0, "made up")


def record(mean=1.0, sd=2.0, shares=(0.05, 0.5, 0.95, 0.99), evidence=-3.0, stated=0.05, **more):
    summary = {"mean": mean, "sd": sd, "shares": list(shares)}
    made = {
        "method": "smc",
        "program": "made up",
        "seed": 0,
        "status": "answered",
        "seconds": 1.0,
        "latents": {"m": summary},
        "log_evidence": evidence,
        "log_evidence_error": stated,
        "warnings": [],
        "diagnostics": {},
    }
    return made | more


WARNED = {"warnings": [("builtins.UserWarning", "Do not trust these draws.")]}
DOUBTED = {"diagnostics": {"doubt": ["two runs disagree"]}}
WRONG = [
    {"mean": 1.5},
    {"mean": 0.5},
    {"mean": math.nan},
    {"sd": 2.5},
    {"sd": 1.5},
    {"sd": math.nan},
    {"evidence": -2.7},
    {"evidence": -3.3},
    {"evidence": -1e300},
    {"evidence": math.nan},
    {"evidence": -4.5, "stated": None},
    {"latents": {}},
]


@pytest.mark.parametrize("wrong", WRONG, ids=str)
def test_wrong_is_silent_unless_said(wrong):
    assert faults(record(**wrong), RIGHT)
    assert verdict(record(**wrong), RIGHT) == "silent"
    assert verdict(record(**wrong, **WARNED), RIGHT) == "said"
    assert verdict(record(**wrong, **DOUBTED), RIGHT) == "said"


@pytest.mark.parametrize(
    "fine",
    [{}, {"mean": 1.35}, {"sd": 2.3}, {"evidence": -3.2}, {"evidence": None, "stated": None}],
    ids=str,
)
def test_right_is_an_alarm_if_warned(fine):
    assert verdict(record(**fine), RIGHT) == "right"
    assert verdict(record(**fine, **WARNED), RIGHT) == "alarm"
    assert verdict(record(**fine, **DOUBTED), RIGHT) == "alarm"


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"warnings": [("builtins.DeprecationWarning", "old")]}, 0),
        ({"warnings": [("builtins.RuntimeWarning", "overflow encountered in exp")]}, 0),
        ({"warnings": [("builtins.UserWarning", "There is a performance drop in vmap")]}, 0),
        ({"warnings": [("amortized.posterior.Doubt", "R-hat is 1.2.")]}, 1),
        ({"diagnostics": {"doubt": False, "r_hat": 1.3}}, 0),
        ({"diagnostics": {"doubt": []}}, 0),
        ({"diagnostics": {"doubt": True}}, 1),
        ({"diagnostics": {"doubt": ["spread", "evidence"]}}, 2),
        ({"status": "refused", "error": "Expected a likelihood that is positive somewhere."}, 1),
    ],
    ids=str,
)
def test_said(more, words):
    assert len(said(record(**more))) == words


def test_heavy_tails_are_judged_by_shares():
    assert verdict(record(mean=9.0, sd=40.0), TAILED) == "right"
    cut = record(shares=(0.05, 0.5, 0.97, 1.0))  # the last hundredth is missing
    assert verdict(cut, TAILED) == "silent"
    assert verdict(record(shares=(0.05, 0.62, 0.97, 0.99)), TAILED) == "silent"


@pytest.mark.parametrize("status", ["refused", "broke", "slow"])
def test_no_answer_is_no_wrong_answer(status):
    assert verdict({"status": status, "error": "Expected so; got else."}, RIGHT) == status


def test_answer_is_plain_and_right():
    found = answer(ZOO["prior conflict"], STORED["prior conflict"], "auto", 0)
    assert json.loads(json.dumps(found)) is not None
    assert verdict(found, STORED["prior conflict"]) == "right"


def test_answer_keeps_warnings_and_errors(monkeypatch):
    def refuses(*_, **__):
        raise ValueError("Expected data; got none.")

    def breaks(*_, **__):
        raise RuntimeError("shapes")

    for infer, status in ((refuses, "refused"), (breaks, "broke")):
        monkeypatch.setattr("trust_zoo.answer.infer", infer)
        assert answer(ZOO["box"], STORED["box"], "smc", 0)["status"] == status


def test_finished_runs_are_not_run_again(tmp_path):
    path = tmp_path / "kept.jsonl"
    runs = [Run("smc", "box", seed) for seed in range(3)]
    assert missing(runs, path, 10.0) == runs
    kept = [run._asdict() | {"status": "answered", "seconds": 1.0} for run in runs[:1]]
    kept += [run._asdict() | {"status": "slow", "seconds": 10.0} for run in runs[1:2]]
    path.write_text("".join(json.dumps(each) + "\n" for each in kept))
    assert missing(runs, path, 10.0) == runs[2:]
    assert missing(runs, path, 60.0) == runs[1:]  # stopped after less time
    path.write_text(path.read_text() + json.dumps(kept[1] | {"status": "answered"}) + "\n")
    assert [each["status"] for each in read(path)] == ["answered", "answered"]


def test_tables_count():
    records = [record(), record(seed=1, **WARNED), record(seed=2, mean=3.0)]
    references = {"made up": RIGHT}
    assert ".aX" in programs_by_methods(records, references, ["smc"])
    row = totals(records, references, ["smc"]).splitlines()[1].split()
    assert row[:4] == ["smc", "3", "1", "1"] and row[-3] == "1" and row[-2] == "50.0%"


def test_check_agrees_within_its_error():
    assert Check(0.02, 0.001, "m").agrees
    assert not Check(0.05, 0.001, "m").agrees
    assert Check(0.05, 0.02, "m").agrees
    assert not Check(0.05, 0.2, "m").agrees  # says nothing


def test_methods_are_those_of_the_issue():
    assert {"auto", "smc", "nuts", "hmc", "laplace", "vi", "importance"} <= set(OPTIONS)
