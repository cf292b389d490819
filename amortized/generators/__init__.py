"""Sequences generated step by step, and sequential Monte Carlo that targets high potentials."""

from amortized.generators.conditional import ParticleGibbs
from amortized.generators.curves import CurveGenerator
from amortized.generators.generator import Generator, Potential
from amortized.generators.lookahead import Lookahead, learn_lookahead
from amortized.generators.programs import ProgramGenerator, sample_program
from amortized.generators.sequences import sample_sequences
from amortized.generators.tokens import TokenGenerator

__all__ = [
    "CurveGenerator",
    "Generator",
    "Lookahead",
    "ParticleGibbs",
    "Potential",
    "ProgramGenerator",
    "TokenGenerator",
    "learn_lookahead",
    "sample_program",
    "sample_sequences",
]
