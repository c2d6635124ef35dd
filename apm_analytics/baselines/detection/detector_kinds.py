"""Classify an anomaly: spike or dip, level shift, trend change, or more noise.

In:  residuals in units of the reach of the expected range: outside is below -1 or above 1.
Out: a kind, and the episodes of a series.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from apm_analytics.baselines.models.scales import Floats

Kind = Literal["spike", "dip", "level shift", "trend change", "more noise"]

# Points examined around an anomaly: a trend begins long before it is anomalous, a new level shows
# afterwards.
BEFORE, AFTER = 256, 64
# An episode continues over this many usual points: a value near its bound flickers.
BRIDGED = 6
# Points per median: a spike does not move a median, a change twice as long does.
BLOCK = 6
# A step or a bend must explain this share of the variance of the medians, and move them by this
# many times the usual distance of a point from the median of its block.
EXPLAINED = 0.6
MOVED = 4.0
# Blocks that a step must have lasted, and a bend: a short bend cannot be told from a step.
STEP_BLOCKS, BEND_BLOCKS = 2, 4
LEAST_BLOCKS = STEP_BLOCKS + 1
# In doubt it is a step: a bend must leave less than this share of what a step leaves.
BENT = 0.8
# More noise: the last points spread this much more than those before, on both sides.
SPREAD = 2.0
# Fewer points say nothing about spread.
LEAST_SPREAD = 12


@dataclass(frozen=True)
class Episode:
    """Adjacent anomalous points: indices [start, end), the highest score, the kind."""

    start: int
    end: int
    score: float
    kind: Kind


def kind_of(residuals: Floats, odd: int | None = None) -> Kind:
    """Classify an anomaly from the residuals before, in and after it.

    Parameters
    ----------
    residuals : float array of shape (n,), n >= 1, in reaches of the expected range; NaN where
        there is no value. Begins before the anomaly.
    odd : number of points from the start of the anomaly to the end; by default it starts at the
        first point outside among the last `AFTER`.

    Examples
    --------
    >>> quiet = np.tile([-0.2, 0.2], 50)
    >>> kind_of(np.append(quiet, [4.0, 5.0]))
    'spike'
    >>> kind_of(np.append(quiet, np.full(40, -3.0)))
    'level shift'
    """
    known = residuals[np.isfinite(residuals)]
    if odd is None:
        outside = np.flatnonzero(np.abs(known[-AFTER:]) > 1.0)
        odd = min(known.size, AFTER) - int(outside[0]) if outside.size else 1
    before, during = known[: known.size - odd], known[known.size - odd :]
    lasting = _lasting(known)
    if lasting is not None:
        return lasting
    if during.size >= LEAST_SPREAD and before.size >= LEAST_SPREAD and _noisier(before, during):
        return "more noise"
    if not during.size:
        return "spike"
    return "spike" if during[np.argmax(np.abs(during))] > 0 else "dip"


def episodes_of(score: Floats, residuals: Floats, reach: Floats) -> list[Episode]:
    """Return the runs of scores above 1, of one series in the order of time.

    Parameters
    ----------
    score, residuals, reach : float arrays of shape (n,); residuals and reach in the same unit.
    """
    odd = np.flatnonzero(score > 1.0)
    if not odd.size:
        return []
    episodes = []
    runs = np.split(odd, np.flatnonzero(np.diff(odd) > BRIDGED) + 1)
    for run, following in zip(runs, [*runs[1:], None], strict=True):
        start, end = int(run[0]), int(run[-1]) + 1
        until = start + AFTER
        if following is not None:
            # The next run is another episode, unless it follows too soon to classify this one.
            until = max(min(until, int(following[0])), start + LEAST_BLOCKS * BLOCK)
        until = max(until, end)
        near = residuals[max(start - BEFORE, 0) : until] / max(reach[start], np.finfo(float).tiny)
        kind = kind_of(near, int(np.isfinite(residuals[start:until]).sum()))
        episodes.append(Episode(start, end, float(np.nanmax(score[start:end])), kind))
    return episodes


def _lasting(known: Floats) -> Kind | None:
    """Fit a step and a bend to medians of blocks, counted from the end; None if neither fits."""
    blocks = known.size // BLOCK
    if blocks < 4:
        return None
    blocked = known[known.size - blocks * BLOCK :].reshape(blocks, BLOCK)
    medians = np.median(blocked, axis=1)
    # Smooth over up to 3 neighbours: a change that ends within 3 blocks is neither a step nor a
    # bend.
    reach = np.minimum(np.minimum(np.arange(blocks), np.arange(blocks)[::-1]), 3)
    medians = np.array(
        [np.median(medians[at - one : at + one + 1]) for at, one in enumerate(reach)]
    )
    usual = float(np.median(np.abs(blocked - np.median(blocked, axis=1)[:, None])))
    varied = float(((medians - medians.mean()) ** 2).sum())
    if varied <= 0.0:
        return None
    at = np.arange(blocks)
    step, bend = (varied, 0.0), (varied, 0.0)
    for first in range(2, blocks):
        if blocks - first >= STEP_BLOCKS:
            step = min(step, _left(medians, (at >= first).astype(np.float64)))
        if blocks - first >= BEND_BLOCKS:
            bend = min(bend, _left(medians, np.maximum(at - first + 1.0, 0.0)))
    kind: Kind = "trend change" if bend[0] < BENT * step[0] else "level shift"
    left, moved = bend if kind == "trend change" else step
    lasting = left <= (1.0 - EXPLAINED) * varied and moved >= MOVED * usual
    return kind if lasting else None


def _left(medians: Floats, shape: Floats) -> tuple[float, float]:
    """Fit a multiple of a shape; return the residual squares, and how far it moves the medians."""
    away = shape - shape.mean()
    slope = float(away @ medians / (away @ away))
    varied = float(((medians - medians.mean()) ** 2).sum())
    return varied - slope**2 * float(away @ away), abs(slope) * float(np.ptp(shape))


def _noisier(before: Floats, during: Floats) -> bool:
    usual = float(np.median(np.abs(before - np.median(before))))
    now = during - np.median(before)
    sides = np.array(
        [
            np.median(now[now > 0]) if (now > 0).any() else 0.0,
            -np.median(now[now < 0]) if (now < 0).any() else 0.0,
        ]
    )
    return bool((sides > SPREAD * usual).all())
