"""What a baseline says about times: expected value and bounds, and the score of a value.

In:  expected value and bounds of a signal, on the model's scale or in its unit.
Out: `Band` in the signal's unit; scores above 1 exactly where a value is outside its bounds.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from apm_analytics.baselines.models.scales import Floats
from apm_analytics.baselines.models.series import Times

# A band of no width would divide by zero; nothing is measured this finely.
_LEAST_WIDTH = 1e-12


@dataclass(frozen=True)
class Band:
    """Expected value and bounds in the signal's unit, each of shape (n_times,)."""

    expected: Floats
    lower: Floats
    upper: Floats


class Baseline(Protocol):
    """What every fitted baseline of one series can tell."""

    @property
    def model(self) -> str:
        """Name of the model, as in the derived tables."""

    @property
    def reason(self) -> str:
        """Why this model and not a richer one; empty for Prophet."""

    def predict(self, times: Times) -> Band:
        """Give expected value and bounds at these times."""

    def score(self, times: Times, values: Floats) -> Floats:
        """Score values: 0 as expected, above 1 outside the bounds; NaN without a value."""


def side_score(values: Floats, expected: Floats, lower: Floats, upper: Floats) -> Floats:
    """Score values by how far towards the bound on their side they are; 1 is the bound."""
    width = np.where(values >= expected, upper - expected, expected - lower)
    return np.abs(values - expected) / np.maximum(width, _LEAST_WIDTH)
