"""Success probability over (d, loss level, burn-in) and the threshold training dimension, from stored loss traces."""

# adaptive choice of runs
from subspaces.transition.search import TransitionSearch

# the statistics alone, on counts
from subspaces.transition.statistics import (
    Crossing,
    isotonic,
    logistic_crossing,
    monotone_crossing,
    wilson_interval,
)
from subspaces.transition.success import (
    SuccessTable,
    ThresholdDimension,
    TraceValue,
    success_probability,
    threshold_curve,
    threshold_dimension,
    trace_value,
)

# outcomes of runs → probabilities → thresholds
# the same from the values themselves
from subspaces.transition.values import ValueFit, value_fit

__all__ = [
    "Crossing",
    "SuccessTable",
    "ThresholdDimension",
    "TraceValue",
    "TransitionSearch",
    "ValueFit",
    "isotonic",
    "logistic_crossing",
    "monotone_crossing",
    "success_probability",
    "threshold_curve",
    "threshold_dimension",
    "trace_value",
    "value_fit",
    "wilson_interval",
]
