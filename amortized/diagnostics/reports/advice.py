"""What a warning of each section of a report means for its reader, and what to do about it."""

from typing import NamedTuple


class Advice(NamedTuple):
    """The consequence of a problem, and its remedy."""

    meaning: str
    remedy: str


SOUND = Advice(
    "Intervals and probabilities can be used as stated for data like these. The checks cannot see "
    "what they do not test, such as new data of another kind.",
    "Make the report again when the data change.",
)

ADVICE = {
    "Prior against rows": Advice(
        "Predictions follow the prior that the network was trained on, and these rows do not look "
        "like datasets of it. Intervals and probabilities are those of a wrong model.",
        "Use a network whose prior fits, or train one on a prior of your own. Until then rely only "
        "on what held-out rows confirm.",
    ),
    "Calibration": Advice(
        "Over many datasets of the prior, events do not happen as often as stated: intervals for "
        "your data may be too narrow or too wide as well.",
        "Use a sampler on the same model, infer(..., method='smc') or 'nuts', or train the network "
        "longer.",
    ),
    "Range": Advice(
        "The network has hardly seen data like these, so its calibration over the prior says "
        "little about this answer.",
        "Check units and outliers of the rows. If they are right, use a sampler on the same prior "
        "or another network.",
    ),
    "Reference": Advice(
        "Two methods for the same model disagree on your data by more than their sampling error, "
        "so at least one answer is wrong.",
        "Prefer the reference, unless its own diagnostics are poor; then compare with a third "
        "method.",
    ),
    "Method": Advice(
        "The method doubts its own answer: means and intervals may be off.",
        "Follow the advice in the warning, or compare with method='smc' or 'nuts'.",
    ),
    "Fit: share of replicates below the data": Advice(
        "The model cannot reproduce a feature of the data. Its posterior may be exact, but it is "
        "the posterior of a wrong model.",
        "Extend the model where it fails, for example by heavier tails or its own noise level.",
    ),
    "Held-out rows": Advice(
        "Rows that were left out are predicted worse than stated, or worse than by a simple model. "
        "Expect the same of new rows.",
        "Correct intervals with amortized.uncertainty.ConformalRegressor and class "
        "probabilities with CalibratedClassifierCV, or use the better model.",
    ),
    "Held-out curves": Advice(
        "The hidden ends of curves are predicted worse than stated, or worse than by their last "
        "value. Expect the same of running curves.",
        "Check the bounds and the direction of the metric, or use another network.",
    ),
}
