"""Inference for programs that can only be simulated: flows learned from simulations."""

from amortized.simulation_based.black_box import Simulated
from amortized.simulation_based.config import FlowConfig, FlowTraining
from amortized.simulation_based.flows.likelihood_flow import (
    LearnedProgram,
    LikelihoodFlow,
    learned_program,
)
from amortized.simulation_based.flows.posterior_flow import PosteriorFlow
from amortized.simulation_based.simulations import Simulations, simulate

__all__ = [
    "FlowConfig",
    "FlowTraining",
    "LearnedProgram",
    "LikelihoodFlow",
    "PosteriorFlow",
    "Simulated",
    "Simulations",
    "learned_program",
    "simulate",
]
