"""The scoring of the Numenta Anomaly Benchmark, written from its published definition.

In:  per file, scores, labelled windows; weights of true positives, false ones, misses (a profile).
Out: raw scores at thresholds, and the normalised score: 0 for no detection at all, 100 for the
     earliest possible detection of every window and nothing else.

A. Lavin and S. Ahmad, Evaluating Real-time Anomaly Detection Algorithms: the Numenta Anomaly
Benchmark, 2015. The first detection inside a window counts by how early it is, a missed window
costs the weight of a miss, and every detection outside costs by how far it is from the last
window. The first 15 % of a file, at most 750 points, are not scored.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

PROBATION_RATIO = 0.15
PROBATION_MOST_POINTS = 5_000
# Further than this many widths behind a window, a false positive costs its full weight.
FAR = 3.0


@dataclass(frozen=True)
class Profile:
    """What a true positive, a false positive and a missed window weigh."""

    true_positive: float
    false_positive: float
    miss: float


@dataclass(frozen=True)
class Labels:
    """The windows of one file, as places [first, last], both included, ascending."""

    points: int
    windows: tuple[tuple[int, int], ...]

    @property
    def probation(self) -> int:
        """How many points at the beginning are not scored."""
        return int(PROBATION_RATIO * min(self.points, PROBATION_MOST_POINTS))


def position_weight(position: Floats) -> Floats:
    """Weigh a detection by its position: -1 begins a window, 0 ends it, above 0 is behind it."""
    inside = 2.0 / (1.0 + np.exp(5.0 * np.minimum(position, FAR))) - 1.0
    return np.where(position > FAR, -1.0, inside)


def point_weights(labels: Labels) -> Floats:
    """Return the value of a detection at each point, before the weights of a profile.

    In a window up to 1, at its first point; outside down to -1.
    """
    places = np.arange(labels.points)
    weights = np.full(labels.points, -1.0)
    best = position_weight(np.array(-1.0))
    for first, last in labels.windows:
        behind = places > last
        weights[behind] = position_weight((places[behind] - last) / max(last - first, 1))
    for first, last in labels.windows:
        inside = places[first : last + 1]
        weights[inside] = position_weight(-(last - inside + 1) / (last - first + 1.0)) / best
    return weights


def raw_scores(scores: Floats, labels: Labels, thresholds: Floats, profile: Profile) -> Floats:
    """Return the raw score of one file at each threshold; a detection is a score >= threshold.

    Parameters
    ----------
    scores : float array of shape (n_points,); NaN is no detection.
    thresholds : float array of shape (n_thresholds,).

    Returns
    -------
    float array of shape (n_thresholds,).
    """
    scores = np.where(np.isnan(scores), -np.inf, scores)
    scores[: labels.probation] = -np.inf
    weights = point_weights(labels)
    outside = np.ones(labels.points, dtype=bool)
    raw = np.zeros(thresholds.size)
    for first, last in labels.windows:
        outside[first : last + 1] = False
        if last < labels.probation:
            continue
        highest = np.maximum.accumulate(scores[first : last + 1])
        at = np.searchsorted(highest, thresholds, side="left")
        hit = weights[first + np.minimum(at, highest.size - 1)]
        raw += np.where(at < highest.size, profile.true_positive * hit, -profile.miss)
    order = np.argsort(scores[outside])
    summed = np.concatenate([[0.0], np.cumsum(weights[outside][order][::-1])])
    detected = order.size - np.searchsorted(scores[outside][order], thresholds, side="left")
    return raw + profile.false_positive * summed[detected]


def normalised(raw: Floats, labels: Sequence[Labels], profile: Profile) -> Floats:
    """Put summed raw scores on the scale where no detection is 0 and a perfect detector is 100."""
    windows = sum(len(one.windows) for one in labels)
    scored = sum(last >= one.probation for one in labels for _, last in one.windows)
    null = -profile.miss * scored
    return 100.0 * (raw - null) / (profile.true_positive * windows - null)


def candidate_thresholds(scores: Sequence[Floats], labels: Sequence[Labels]) -> Floats:
    """Return every score that separates detections, ascending, and one above all."""
    scored = np.concatenate([one[its.probation :] for one, its in zip(scores, labels, strict=True)])
    found = np.unique(scored[np.isfinite(scored) & (scored > 0.0)])
    above = np.nextafter(found[-1], np.inf) if found.size else 1.0
    return np.append(found, above)
