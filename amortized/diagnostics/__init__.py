"""Tests of inference methods and networks: one diagnostic over many datasets per file."""

from amortized.diagnostics.calibration import coverage, pit, sbc
from amortized.diagnostics.classifier_test import c2st
from amortized.diagnostics.data.out_of_range import TrainingRange
from amortized.diagnostics.data.predictive_check import predictive_check
from amortized.diagnostics.importance_efficiency import importance_efficiency
from amortized.diagnostics.local_classifier_test import local_c2st
from amortized.diagnostics.log_score import log_score
from amortized.diagnostics.order_sensitivity import order_sensitivity
from amortized.diagnostics.predictive_trial import PredictiveTrial
from amortized.diagnostics.reports.page import Report
from amortized.diagnostics.reports.posterior_report import report_posterior
from amortized.diagnostics.reports.predictive_report import report_pfn
from amortized.diagnostics.reports.report import calibration_rows, report
from amortized.diagnostics.tarp import tarp
from amortized.diagnostics.trial import PosteriorTrial, latent_trial

__all__ = [
    "PosteriorTrial",
    "PredictiveTrial",
    "Report",
    "TrainingRange",
    "c2st",
    "calibration_rows",
    "coverage",
    "importance_efficiency",
    "latent_trial",
    "local_c2st",
    "log_score",
    "order_sensitivity",
    "pit",
    "predictive_check",
    "report",
    "report_pfn",
    "report_posterior",
    "sbc",
    "tarp",
]
