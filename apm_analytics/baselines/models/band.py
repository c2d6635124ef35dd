"""Expected values with bounds, and the score of a value against them.

In:  expected values and bounds of a signal, on the model's scale or in its unit.
Out: `Band` in the signal's unit; scores above 1 exactly where a value is outside its bounds.
"""

from dataclasses import dataclass

import numpy as np

from apm_analytics.baselines.models.series import Floats

# Avoids division by zero in a band of no width; no signal is measured this finely.
_LEAST_WIDTH = 1e-12


@dataclass(frozen=True)
class Band:
    """Expected values and bounds in the signal's unit, arrays of one shape."""

    expected: Floats
    lower: Floats
    upper: Floats


def side_score(values: Floats, expected: Floats, lower: Floats, upper: Floats) -> Floats:
    """Score values by their distance from the expected value; 1 is the bound on their side."""
    width = np.where(values >= expected, upper - expected, expected - lower)
    return np.abs(values - expected) / np.maximum(width, _LEAST_WIDTH)
