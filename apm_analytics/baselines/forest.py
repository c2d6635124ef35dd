"""Isolation forests over the three signals of one operation together.

In:  deviations of each signal from its expected value; 1 is the bound of that signal.
Out: `ForestDetector`: scores above 1 are anomalous; how much each signal contributed.

The forest sees the deviations and their length: without it a forest rates a far outlier in one
signal below a moderate one in several. Beyond the lengths it has seen a forest is flat; there the
score grows with the length. A window without a value of some signal (no latency at
night) counts as expected in that signal, deviation 0; a window without any has no score.
"""

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import joblib
import numpy as np

from apm_analytics.baselines.scales import Floats
from apm_analytics.baselines.series import Flags
from apm_analytics.errors import NotEnoughData, NotFound

# A day of windows of 5 minutes; a forest on fewer isolates noise.
MIN_WINDOWS = 288
# Further out nothing gets odder, and one broken value must not stretch the range of the splits.
MAX_DEVIATION = 10.0
# Keeps the growth finite when all quiet windows are as expected.
MIN_LENGTH = 1e-6
FILE_NAME = "forests.joblib"


@dataclass(frozen=True)
class ForestDetector:
    """A fitted forest and what its raw scores mean.

    Parameters
    ----------
    forest : the scikit-learn estimator.
    signals : the columns it was fitted on, in order.
    far : length beyond which the score grows with it.
    typical : raw score that becomes 0, the median of the quiet windows.
    limit : raw score above `typical` that becomes 1; a share `contamination` of the quiet
        windows lies above it.
    windows : quiet windows it was fitted on.
    """

    forest: Any
    signals: tuple[str, ...]
    far: float
    typical: float
    limit: float
    windows: int

    @classmethod
    def fit(
        cls,
        deviations: Floats,
        signals: tuple[str, ...],
        quiet: Flags,
        *,
        trees: int,
        contamination: float,
        seed: int,
    ) -> "ForestDetector":
        """Grow a forest on the quiet windows and calibrate its score on them.

        Parameters
        ----------
        deviations : float64 of shape (n_windows, n_signals), 1 at the bound; NaN unknown.
        signals : names of the columns.
        quiet : windows to learn from; those of incidents would raise the limit.
        trees : number of trees.
        contamination : share of quiet windows that may score above 1.
        seed : of the trees.

        Raises
        ------
        NotEnoughData
            Fewer than `MIN_WINDOWS` quiet windows, fewer than two signals, or all windows alike.

        Examples
        --------
        >>> ForestDetector.fit(deviations, ("latency_p95", "rate"), quiet, trees=100,
        ...     contamination=0.005, seed=7)  # doctest: +SKIP
        """
        if len(signals) < 2:
            raise NotEnoughData(
                f"one signal: got {list(signals)}, a forest over signals together needs two; "
                "see the other skipped signals of this operation"
            )
        chosen = quiet & np.isfinite(deviations).any(axis=1)
        if chosen.sum() < MIN_WINDOWS:
            raise NotEnoughData(
                f"too short: {chosen.sum()} quiet windows, a forest needs {MIN_WINDOWS}; "
                "import more telemetry"
            )
        columns = _columns(deviations[chosen])
        if (columns == columns[0]).all():
            raise NotEnoughData("constant: all windows are alike, nothing to tell apart")
        # Costs seconds to import; short histories and predicting do not need it.
        from sklearn.ensemble import IsolationForest

        forest = IsolationForest(n_estimators=trees, random_state=seed).fit(columns)
        typical = float(np.median(-forest.score_samples(columns)))
        far = float(np.quantile(columns[:, -1], 1.0 - contamination))
        unscaled = cls(forest, signals, far, typical, 1.0, int(chosen.sum()))
        limit = float(np.quantile(unscaled.predict(deviations[chosen]), 1.0 - contamination))
        if limit <= 0.0 or far <= 0.0:
            raise NotEnoughData("constant: almost all windows are alike, nothing to tell apart")
        return replace(unscaled, limit=limit)

    def predict(self, deviations: Floats) -> Floats:
        """Score windows: 0 typical or less, above 1 anomalous; NaN without any value.

        Parameters
        ----------
        deviations : float64 of shape (n_windows, n_signals), columns as in `signals`.
        """
        score = np.full(deviations.shape[0], np.nan)
        known = np.isfinite(deviations).any(axis=1)
        if known.any():
            columns = _columns(deviations[known])
            # scikit-learn's score is low for anomalies; this line turns it round.
            raw = -self.forest.score_samples(columns)
            growth = np.maximum(columns[:, -1] / max(self.far, MIN_LENGTH), 1.0)
            score[known] = np.maximum(raw - self.typical, 0.0) * growth / self.limit
        return score

    def contributions(self, deviations: Floats) -> Floats:
        """Tell by how much each signal made a window odd.

        Parameters
        ----------
        deviations : float64 of shape (n_windows, n_signals), columns as in `signals`.

        Returns
        -------
        float64 of the same shape: the share of the score that goes when that signal is put back
        to its expected value. Rows sum to 1, or are 0 where no signal alone matters.
        """
        if not len(deviations):
            return np.zeros_like(deviations)
        score = self.predict(deviations)
        lost = np.empty_like(deviations)
        for column in range(deviations.shape[1]):
            expected = deviations.copy()
            expected[:, column] = 0.0
            lost[:, column] = np.maximum(score - self.predict(expected), 0.0)
        total = lost.sum(axis=1, keepdims=True)
        shares: Floats = np.divide(lost, total, out=np.zeros_like(lost), where=total > 0)
        return shares


def save(forests: dict[tuple[str, str], ForestDetector], folder: Path) -> None:
    """Write all forests, keyed by service and operation, into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / f".{FILE_NAME}.tmp"
    plain = {
        key: (one.forest, one.signals, one.far, one.typical, one.limit, one.windows)
        for key, one in forests.items()
    }
    joblib.dump(plain, temporary, compress=3)
    os.replace(temporary, folder / FILE_NAME)


def load(folder: Path) -> dict[tuple[str, str], ForestDetector]:
    """Read what `save` wrote.

    Raises
    ------
    NotFound
        Nothing was trained into `folder` yet.
    """
    file = folder / FILE_NAME
    if not file.exists():
        raise NotFound(f"no forests at {file}; train first: dvc repro train")
    return {key: ForestDetector(*fields) for key, fields in joblib.load(file).items()}


def _columns(deviations: Floats) -> Floats:
    """Make what the forest sees: deviations, 0 where unknown, and their length."""
    known = np.clip(np.nan_to_num(deviations, nan=0.0), -MAX_DEVIATION, MAX_DEVIATION)
    return np.column_stack([known, np.sqrt((known**2).sum(axis=1))])
