"""Detect anomalies in one series, point by point as it arrives or all at once, with equal scores.

In:  times in seconds and values, of any unit, in the order of time.
Out: for each point a score (above 1 is anomalous), its expected range, and its novelty.

The detector is causal and has no parameters per series: it learns the interval, the season and
the tails of the values seen so far. Its state has a constant size, about 110 kB at 5 minutes.
"""

import io
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from apm_analytics.baselines.detection import detector_kernel as kernel
from apm_analytics.baselines.detection.detector_kinds import (
    AFTER,
    Episode,
    Kind,
    episodes_of,
    kind_of,
)
from apm_analytics.baselines.models.scales import Floats
from apm_analytics.foundation.atomic import write_atomic
from apm_analytics.foundation.errors import BadInput, BadParameter, NotFound
from apm_analytics.foundation.settings import DetectorParams

Status = Literal["scored", "learning", "missing", "late"]

# The interval is the median of this many differences between the first times.
INTERVAL_FROM = 20
# Series with more points per day share slots of the day.
MAX_SLOTS = 1_440
# A single odd point moves two of the six magnitudes, its level and its spread. It scores 1 when the
# -log10 probability of both is this many times the threshold.
SPIKE_FACTOR = (kernel.MAGNITUDES / 2) ** 0.5
FORMAT = 1


@dataclass(frozen=True)
class Score:
    """The result for one point.

    Parameters
    ----------
    score : 0 as usual, above 1 anomalous; NaN unless `status` is "scored".
    novelty : the score where it is the highest of the last points, else 0, so that an alarm that
        continues is not new. An alert starts where it is above 1.
    expected, lower, upper : in the unit of the series; NaN while learning.
    status : "learning" at first, "missing" without a value, "late" where the time is not after
        the previous one; missing and late points leave the state unchanged.
    kind : kind of the anomaly so far, for 64 points after an anomalous one: at first a new level
        looks like a spike. None otherwise.
    """

    time: float
    value: float
    score: float
    novelty: float
    expected: float
    lower: float
    upper: float
    status: Status
    kind: Kind | None


@dataclass(frozen=True)
class Detection:
    """The results for many points; every field has shape (n_points,)."""

    times: Floats
    values: Floats
    score: Floats
    novelty: Floats
    expected: Floats
    lower: Floats
    upper: Floats

    def episodes(self) -> list[Episode]:
        """Group adjacent anomalous points into episodes, each with its kind."""
        return episodes_of(self.score, self.values - self.expected, self.upper - self.expected)


class SeriesDetector:
    """A causal detector of one series, of constant memory.

    Parameters
    ----------
    params : params.yaml `detector`.
    interval_s : seconds between points; by default learned from the first 21 points.

    Raises
    ------
    BadParameter
        `interval_s` is not above 0.

    Examples
    --------
    >>> from apm_analytics.foundation.settings import load
    >>> detector = SeriesDetector(load().params.detector, interval_s=300)
    >>> detector.update(time=0.0, value=0.2).status
    'learning'
    """

    def __init__(self, params: DetectorParams, *, interval_s: float | None = None) -> None:
        if interval_s is not None and not interval_s > 0:
            raise BadParameter(f"interval_s is {interval_s}; pass seconds above 0, or None")
        self.params = params
        self._interval_s = interval_s
        # The first points, until the interval is known.
        self._first: list[tuple[float, float]] = []
        self._state: kernel.State | None = None
        if interval_s is not None:
            self._begin(interval_s)

    @property
    def interval_s(self) -> float | None:
        """Seconds between points; None while it is not known."""
        return self._interval_s

    def update(self, time: float, value: float) -> Score:
        """Process the next point; a missing `value` is NaN."""
        last = self._last
        row = self._advance(np.array([time], dtype=float), np.array([value], dtype=float))[0]
        surprise, novelty, expected, reach, _ = row / self._units
        status: Status = "scored"
        if not np.isfinite(value):
            status = "missing"
        elif not time > last:
            status = "late"
        elif np.isnan(surprise):
            status = "learning"
        kind = kind_of(self._kept_residuals() / reach) if self._odd_lately(status) else None
        return Score(
            time,
            value,
            surprise,
            novelty,
            expected,
            expected - reach,
            expected + reach,
            status,
            kind,
        )

    def score(self, times: Floats, values: Floats) -> Detection:
        """Process the next points at once; the scores equal those of `update`, one by one.

        Parameters
        ----------
        times : float array of shape (n_points,), seconds.
        values : float array of shape (n_points,); NaN is missing.

        Raises
        ------
        BadInput
            The shapes differ.
        """
        times = np.ascontiguousarray(times, dtype=np.float64)
        values = np.ascontiguousarray(values, dtype=np.float64)
        if times.shape != values.shape or times.ndim != 1:
            raise BadInput(
                f"times have shape {times.shape}, values {values.shape}; pass two arrays of one "
                "dimension and equal length"
            )
        surprise, novelty, expected, reach, _ = (self._advance(times, values) / self._units).T
        return Detection(
            times, values, surprise, novelty, expected, expected - reach, expected + reach
        )

    def save(self, file: Path) -> None:
        """Write the state atomically, as arrays (.npz, no pickle)."""
        content = io.BytesIO()
        arrays = dict(zip(kernel.NAMES, self._state, strict=True)) if self._state else {}
        np.savez_compressed(
            content,
            allow_pickle=False,
            format=np.array(FORMAT),
            interval_s=np.array(np.nan if self._interval_s is None else self._interval_s),
            first=np.array(self._first, dtype=np.float64).reshape(-1, 2),
            **arrays,
        )
        write_atomic(file, content.getvalue())

    @classmethod
    def load(cls, file: Path, params: DetectorParams) -> "SeriesDetector":
        """Read a state that `save` wrote; the detector continues where it stopped.

        Raises
        ------
        NotFound
            There is no such file.
        BadInput
            The file is damaged, or was made with another `refractory_points`.
        """
        if not file.exists():
            raise NotFound(f"no detector at {file}; create a new one and feed it the history")
        try:
            with np.load(io.BytesIO(file.read_bytes()), allow_pickle=False) as stored:
                arrays = {name: stored[name] for name in stored.files}
            interval_s = float(arrays["interval_s"])
            detector = cls(params, interval_s=None if np.isnan(interval_s) else interval_s)
            detector._first = [(float(a), float(b)) for a, b in arrays["first"]]
            if detector._state is not None:
                for name, own in zip(kernel.NAMES, detector._state, strict=True):
                    if arrays[name].shape != own.shape:
                        raise ValueError(f"{name} has shape {arrays[name].shape}")
                    own[...] = arrays[name]
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise BadInput(
                f"{file} is no state of a detector with these params ({error}); create a new one "
                "and feed it the history"
            ) from error
        return detector

    @property
    def _units(self) -> Floats:
        """Divisors of the kernel's columns."""
        return np.array([self.params.threshold, self.params.threshold, 1.0, 1.0, 1.0])

    @property
    def _last(self) -> float:
        if self._state is not None:
            return float(self._state[0][kernel.LAST])
        return self._first[-1][0] if self._first else -np.inf

    def _begin(self, interval_s: float) -> None:
        per_day = int(min(max(round(kernel.DAY_S / interval_s), 1), MAX_SLOTS))
        self._interval_s = interval_s
        self._state = kernel.new_state(per_day, self.params.refractory_points)
        self._numbers = np.zeros(kernel.NUMBERS)
        self._numbers[kernel.INTERVAL] = interval_s
        self._numbers[kernel.PER_DAY] = per_day
        self._numbers[kernel.QUANTILE] = self.params.quantile
        self._numbers[kernel.FADING] = 1.0 / (1.0 - 1.0 / self.params.memory_points)
        self._numbers[kernel.HABIT] = self.params.habit
        self._numbers[kernel.THRESHOLD] = self.params.threshold
        self._numbers[kernel.SPIKE_LOG] = SPIKE_FACTOR * self.params.threshold
        if self._first:
            times, values = np.array(self._first).T.copy()
            self._first = []
            self._advance(times, values)

    def _advance(self, times: Floats, values: Floats) -> Floats:
        results = np.full((times.size, kernel.COLUMNS), np.nan)
        begun = 0
        while self._state is None and begun < times.size:
            if np.isfinite(values[begun]) and times[begun] > self._last:
                self._first.append((float(times[begun]), float(values[begun])))
            begun += 1
            if len(self._first) > INTERVAL_FROM:
                self._begin(float(np.median(np.diff([time for time, _ in self._first]))))
        if self._state is not None and begun < times.size:
            kernel.advance(
                *self._state, self._numbers, times[begun:], values[begun:], results[begun:]
            )
        return results

    def _odd_lately(self, status: Status) -> bool:
        if status != "scored" or self._state is None:
            return False
        facts = self._state[0]
        return bool(facts[kernel.POINTS] - 1 - facts[kernel.ODD] < AFTER)

    def _kept_residuals(self) -> Floats:
        """Return the last residuals without a gap between them, in order of time."""
        assert self._state is not None
        facts, residuals = self._state[0], self._state[kernel.NAMES.index("residuals")]
        run = int(facts[kernel.RUN])
        places = np.arange(run - min(run, kernel.KEPT), run) % kernel.KEPT
        return np.take(residuals, places)
