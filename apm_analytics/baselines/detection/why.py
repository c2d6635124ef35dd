"""Explain why a period is anomalous.

In:  derived/scores.parquet, bounds.parquet and contributions.parquet of a training run, and the
     operation, signal and time of an anomaly.
Out: `Why`: the signal, component and kind, similar windows of the past, earlier episodes.

A deviation is signed and in units of the bound: 1 is the upper bound, -1 the lower one.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from apm_analytics.baselines.detection.detector_kinds import AFTER, BEFORE, Kind, kind_of
from apm_analytics.baselines.models.scales import Floats
from apm_analytics.foundation.errors import NotFound
from apm_analytics.signals import OPERATION, SIGNALS

Component = Literal["time of week", "level", "trend", "noise", "combination"]

TOGETHER = "together"
# Fewer windows outside in a row are chance; up to this many quiet ones do not end an episode.
LASTING, BRIDGED = 2, 2
# Past windows are like this one when they differ by less than this share of its deviation.
ALIKE = 0.5
MOST_ALIKE = 3
# Windows closer than this belong to the same occasion.
APART = timedelta(hours=1)
# An earlier episode is as bad if its peak is at least this share of the present one.
AS_BAD = 0.5
HOURS = 24


@dataclass(frozen=True)
class Past:
    """A similar past window; `distance` 0 is identical, 1 has nothing in common."""

    time: datetime
    distance: float


@dataclass(frozen=True)
class Why:
    """The explanation of one anomaly.

    Parameters
    ----------
    service_name, operation, signal, start, end : the anomaly; times UTC.
    mainly : the signal that explains it best, among those with a baseline.
    deviations : signal -> its largest deviation in that time, signed, in bounds; 1 is the bound.
    shares : signal -> its share of the forest's score, saturation of the service included; empty
        without one.
    kind : spike, dip, level shift, trend change or more noise.
    component : which part of the expectation is broken. "time of week": the value is usual at other
        hours; "level": usual at no hour; "trend": it has been moving; "noise": it spreads more;
        "combination": each signal is inside its bounds, together they are not.
    usual_hour : an hour of the week at which the value would be usual, 0 is Sunday 00:00 UTC;
        None unless the component is "time of week".
    value, expected, bound : of `mainly` at its worst window.
    alike : past windows with the same pattern over all signals, the most similar first.
    before : number of earlier episodes on the same side, at least half as far out.
    last_before : when the last of them began.
    days : days of history before the anomaly.
    """

    service_name: str
    operation: str
    signal: str
    start: datetime
    end: datetime
    mainly: str
    deviations: dict[str, float]
    shares: dict[str, float]
    kind: Kind
    component: Component
    usual_hour: int | None
    value: float
    expected: float
    bound: float
    alike: tuple[Past, ...]
    before: int
    last_before: datetime | None
    days: float


def explain(
    scores: pl.DataFrame,
    bounds: pl.DataFrame,
    contributions: pl.DataFrame | None = None,
    *,
    service: str,
    operation: str,
    signal: str,
    start: datetime,
    end: datetime,
) -> Why:
    """Explain the anomaly of a signal of an operation in [start, end), UTC without a zone.

    Parameters
    ----------
    scores, bounds, contributions : derived/*.parquet, see `baselines.training.training`.
    signal : one of `SIGNALS`, or "together" for the forest's.

    Raises
    ------
    NotFound
        The operation has no scored window in that time.
    """
    own = (pl.col("service_name") == service) & (pl.col("operation") == operation)
    rows = scores.filter(own, pl.col("signal") != TOGETHER, pl.col("score").is_not_null())
    times, names, deviations = _matrix(rows)
    during = (times >= np.datetime64(start, "us")) & (times < np.datetime64(end, "us"))
    known = [
        name for place, name in enumerate(names) if np.isfinite(deviations[during, place]).any()
    ]
    if not known:
        raise NotFound(
            f"{service} {operation} has no scored window between {start} and {end} UTC; see "
            "derived/scores.parquet"
        )
    shares = _shares(contributions, own, start, end)
    worst_of = {name: _extreme(deviations[during, names.index(name)]) for name in known}
    mainly = signal
    if signal not in worst_of:
        ranked = {name: shares.get(name, 0.0) for name in known}
        if not any(ranked.values()):
            ranked = {name: abs(one) for name, one in worst_of.items()}
        mainly = max(ranked, key=lambda name: ranked[name])
    place = names.index(mainly)
    at = int(np.flatnonzero(during)[np.nanargmax(np.abs(deviations[during, place]))])
    row = rows.filter(pl.col("signal") == mainly, pl.col("time") == times[at]).row(0, named=True)
    first = int(np.flatnonzero(during)[0])
    kind = _kind(rows.filter(pl.col("signal") == mainly).sort("time"), start, end)
    usual = _usual_hour(bounds.filter(own, pl.col("signal") == mainly), row["value"])
    component = _component(worst_of, kind, usual)
    # What was outside within the hour before belongs to the same occasion.
    past = int(np.searchsorted(times, times[first] - np.timedelta64(APART)))
    before = _episodes(times[:past], deviations[:past, place], worst_of[mainly])
    return Why(
        service,
        operation,
        signal,
        start,
        end,
        mainly=mainly,
        deviations=worst_of,
        shares=shares,
        kind=kind,
        component=component,
        usual_hour=usual if component == "time of week" else None,
        value=row["value"],
        expected=row["expected"],
        bound=row["upper"] if row["value"] >= row["expected"] else row["lower"],
        alike=_alike(times[:past], deviations[:past], np.nan_to_num(deviations[at])),
        before=len(before),
        last_before=before[-1] if before else None,
        days=float((times[first] - times[0]) / np.timedelta64(1, "D")),
    )


def _matrix(rows: pl.DataFrame) -> tuple[NDArray[np.datetime64], list[str], Floats]:
    """Return times, signals and signed deviations of shape (n_times, n_signals)."""
    names = [name for name in SIGNALS if (rows["signal"] == name).any()]
    side = (pl.col("value") - pl.col("expected")).sign()
    wide = (
        rows.select("time", "signal", deviation=side * pl.col("score"))
        .pivot("signal", index="time", values="deviation")
        .sort("time")
    )
    values = wide.select(pl.col(name).fill_null(np.nan) for name in names).to_numpy()
    return wide["time"].cast(pl.Datetime("us")).to_numpy(), names, values


def _shares(
    contributions: pl.DataFrame | None, own: pl.Expr, start: datetime, end: datetime
) -> dict[str, float]:
    if contributions is None:
        return {}
    rows = contributions.filter(own, pl.col("time") >= start, pl.col("time") < end)
    if rows.is_empty():
        return {}
    worst: dict[str, Any] = rows.sort("score").row(-1, named=True)
    about = {*OPERATION, "time", "score"}
    return {
        name: float(one) for name, one in worst.items() if name not in about and one is not None
    }


def _extreme(deviations: Floats) -> float:
    known = deviations[np.isfinite(deviations)]
    return float(known[np.argmax(np.abs(known))]) if known.size else 0.0


def _kind(series: pl.DataFrame, start: datetime, end: datetime) -> Kind:
    """Classify by the windows around, in units of the bound at the beginning, as bounds vary."""
    first = int((series["time"] < start).sum())
    last = int((series["time"] < end).sum())
    near = series.slice(max(first - BEFORE, 0), last + AFTER - max(first - BEFORE, 0))
    residuals = (near["value"] - near["expected"]).to_numpy()
    at = series.row(min(first, series.height - 1), named=True)
    reach = max(at["upper"] - at["expected"], at["expected"] - at["lower"])
    return kind_of(residuals / max(reach, np.finfo(float).tiny), near.height - min(first, BEFORE))


def _component(worst: dict[str, float], kind: Kind, usual: int | None) -> Component:
    if max(abs(one) for one in worst.values()) <= 1.0:
        return "combination"
    if kind == "trend change":
        return "trend"
    if kind == "more noise":
        return "noise"
    return "level" if usual is None else "time of week"


def _usual_hour(bounds: pl.DataFrame, value: float) -> int | None:
    """Return the hour of the week at which the value is closest to what is expected."""
    width = pl.col("upper") - pl.col("lower")
    inside = bounds.filter(pl.col("lower") <= value, pl.col("upper") >= value, width > 0.0).sort(
        ((pl.col("expected") - value) / width).abs(), "hour_of_week"
    )
    return None if inside.is_empty() else int(inside["hour_of_week"][0])


def _episodes(times: NDArray[np.datetime64], deviations: Floats, peak: float) -> list[datetime]:
    """Return the beginnings of earlier episodes on the same side, at least half as far out."""
    outside = np.flatnonzero(np.sign(peak) * deviations > 1.0)
    if not outside.size:
        return []
    runs = np.split(outside, np.flatnonzero(np.diff(outside) > BRIDGED) + 1)
    return [
        times[run[0]].astype(datetime)
        for run in runs
        if run.size >= LASTING and np.abs(deviations[run]).max() >= AS_BAD * abs(peak)
    ]


def _alike(times: NDArray[np.datetime64], deviations: Floats, pattern: Floats) -> tuple[Past, ...]:
    length = float(np.linalg.norm(pattern))
    if not times.size or length == 0.0:
        return ()
    distances = np.linalg.norm(np.nan_to_num(deviations) - pattern, axis=1) / length
    similar: list[Past] = []
    for place in np.argsort(distances, kind="stable"):
        if distances[place] > ALIKE or len(similar) == MOST_ALIKE:
            break
        time: datetime = times[place].astype(datetime)
        if all(abs(time - one.time) >= APART for one in similar):
            similar.append(Past(time, float(distances[place])))
    return tuple(similar)
