"""All series of one signal as a matrix on one grid of windows.

In:  the features, sorted or not, and optionally which windows are masked.
Out: `Fleet`s of up to `CHUNK` operations each; `Outcome`s of series that needed attention.

Every problem is reported: problems with the times of an operation here, problems with the values
of a series in `checks`.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import polars as pl
from numpy.typing import NDArray

from apm_analytics.baselines.models.scales import Floats, Scale, scale_of
from apm_analytics.baselines.models.series import DAY_S, Flags, Times, seconds
from apm_analytics.foundation.errors import BadInput
from apm_analytics.signals import OPERATION, SIGNALS, Schema

# Operations trained at once: small enough that all matrices of two such chunks stay below 2 GB.
CHUNK = 128
# Outcomes of a series.
SKIPPED, NO_SEASON, MENDED = "skipped", "no season", "mended"
OUTCOME_SCHEMA: Schema = dict.fromkeys((*OPERATION, "signal", "outcome", "reason"), pl.String)
# What is published: expected values and bounds of each hour of the coming week.
BOUNDS_SCHEMA: Schema = {
    **dict.fromkeys((*OPERATION, "signal", "unit"), pl.String),
    "hour_of_week": pl.Int16,
    **dict.fromkeys(("expected", "lower", "upper"), pl.Float64),
    "model": pl.String,
}
# Length of a gap in the whole recording where there usually are requests; shorter ones are chance.
GAP_S = 3_600.0
SLOTS_PER_DAY = 24


@dataclass(frozen=True)
class Outcome:
    """What happened to a series and why; `signal` is None for all signals of an operation."""

    service_name: str
    operation: str
    signal: str | None
    outcome: str
    reason: str

    @property
    def key(self) -> tuple[str, str, str | None]:
        """Service, operation and signal."""
        return self.service_name, self.operation, self.signal


@dataclass(frozen=True)
class Fleet:
    """All series of one signal of some operations.

    Parameters
    ----------
    operations : (service_name, operation) of each row.
    times : datetime64[us] of shape (n_time,), starts of windows, UTC, without holes.
    values : float64 of shape (n, n_time), in the signal's unit; NaN where there is no value.
    requests : float64 of shape (n, n_time), requests in each window; NaN where nothing was
        recorded at all.
    may_teach : bool of shape (n, n_time), false in masked windows: those of known incidents,
        deployments and maintenance are neither fitted nor counted.
    window_s : length of a window, in seconds.
    """

    signal: str
    operations: list[tuple[str, str]]
    times: Times
    values: Floats
    requests: Floats
    may_teach: Flags
    window_s: float

    def __len__(self) -> int:
        return len(self.operations)

    @property
    def scale(self) -> Scale:
        """The scale this signal is modelled on."""
        return scale_of(self.signal, self.window_s)

    @property
    def days(self) -> Floats:
        """Days from the first to the end of the last value of each series; 0 without one."""
        known = ~np.isnan(self.values)
        at = seconds(self.times)
        first = at[known.argmax(axis=1)]
        last = at[at.size - 1 - known[:, ::-1].argmax(axis=1)]
        return np.where(known.any(axis=1), (last - first + self.window_s) / DAY_S, 0.0)

    def pick(self, rows: NDArray[np.int64]) -> "Fleet":
        """Keep some series."""
        return replace(
            self,
            operations=[self.operations[row] for row in rows],
            values=self.values[rows],
            requests=self.requests[rows],
            may_teach=self.may_teach[rows],
        )


def fleets(
    features: pl.DataFrame, window_s: float, *, masked: Flags | None = None, chunk: int = CHUNK
) -> tuple[list[Outcome], Iterator[list[Fleet]]]:
    """Split features into fleets, one per signal, and report problems with their times.

    Parameters
    ----------
    features : as `signals.operations.features` returns them; order does not matter.
    window_s : length of a window, in seconds.
    masked : bool of shape (len(features),): windows that are not fitted.
    chunk : operations in a fleet.

    Returns
    -------
    Outcomes of whole operations, and chunk by chunk the fleets of `SIGNALS`, in their order.

    Raises
    ------
    BadInput
        `masked` is of another length.
    """
    if masked is not None and len(masked) != len(features):
        raise BadInput(f"got {len(masked)} masks for {len(features)} windows, need one each")
    flags = np.zeros(len(features), np.bool_) if masked is None else np.asarray(masked, np.bool_)
    marked = features.with_columns(pl.col("time").cast(pl.Datetime("us")), masked=flags)
    outcomes, good = _checked(marked, window_s)
    return outcomes, _fleets(good, window_s, chunk)


def windows(at: Times, window_s: float) -> Times:
    """Return the windows from the first to the last of some, without holes."""
    step = np.timedelta64(int(window_s * 1e6), "us")
    at = at.astype("datetime64[us]")
    return np.arange(at.min(), at.max() + step, step)


def frame(outcomes: list[Outcome]) -> pl.DataFrame:
    """Return outcomes as a table, one row per series."""
    rows = [
        (one.service_name, one.operation, signal, one.outcome, one.reason)
        for one in outcomes
        for signal in ([one.signal] if one.signal else SIGNALS)
    ]
    return pl.DataFrame(rows, schema=OUTCOME_SCHEMA, orient="row").sort(*OPERATION, "signal")


def _checked(features: pl.DataFrame, window_s: float) -> tuple[list[Outcome], pl.DataFrame]:
    """Sort, drop repeated rows, and leave out operations whose times make no grid."""
    outcomes = []
    by = list(OPERATION)
    late = (pl.col("time").diff() < pl.duration(seconds=0)).any()
    unsorted = features.group_by(by).agg(late.alias("late")).filter("late").sort(by)
    outcomes += [
        Outcome(service, operation, None, MENDED, "unsorted times: sorted before learning")
        for service, operation, _ in unsorted.rows()
    ]
    measured = [name for name in features.columns if name != "masked"]
    unique = features.unique(subset=measured, keep="any").sort(*by, "time")
    repeated = (
        _counts(features).join(_counts(unique), on=by).filter(pl.col("n") > pl.col("n_right"))
    )
    outcomes += [
        Outcome(
            service,
            operation,
            None,
            MENDED,
            f"duplicated times: {before - after} rows came twice and count once",
        )
        for service, operation, before, after in repeated.sort(by).rows()
    ]
    twice = unique.group_by(*by, "time").len().filter(pl.col("len") > 1)
    clashing = twice.group_by(by).agg(pl.len(), pl.col("time").min()).sort(by)
    outcomes += [
        Outcome(
            service,
            operation,
            None,
            SKIPPED,
            f"duplicated times: {count} windows have two different values, the first at {first}; "
            "a clock that was set back causes this; keep one value per window",
        )
        for service, operation, count, first in clashing.rows()
    ]
    step_us = int(window_s * 1e6)
    crooked = (
        unique.join(clashing, on=by, how="anti")
        .filter(
            pl.col("time").dt.epoch("us") % step_us != pl.col("time").dt.epoch("us").min() % step_us
        )
        .group_by(by)
        .agg(pl.len(), pl.col("time").min())
        .sort(by)
    )
    outcomes += [
        Outcome(
            service,
            operation,
            None,
            SKIPPED,
            f"irregular times: {count} windows do not begin at a multiple of {window_s:g} s, the "
            f"first at {first}; measure again with one features.window_s",
        )
        for service, operation, count, first in crooked.rows()
    ]
    good = unique.join(clashing, on=by, how="anti").join(crooked, on=by, how="anti")
    return outcomes, good.sort(*by, "time")


def _counts(features: pl.DataFrame) -> pl.DataFrame:
    return features.group_by(OPERATION).agg(n=pl.len())


def _fleets(features: pl.DataFrame, window_s: float, chunk: int) -> Iterator[list[Fleet]]:
    if features.is_empty():
        return
    step = np.timedelta64(int(window_s * 1e6), "us")
    at = features["time"].to_numpy()
    times = windows(at, window_s)
    first = times[0]
    silent = _recording_gaps(at, features["count"].to_numpy(), times, window_s)
    names = features.select(OPERATION).unique(maintain_order=True)
    for begin in range(0, len(names), chunk):
        some = names[begin : begin + chunk].with_row_index("row")
        part = features.join(some, on=OPERATION, how="inner", maintain_order="left")
        rows = part["row"].to_numpy()
        columns = (part["time"].to_numpy() - first) // step
        shape = (len(some), times.size)
        requests = np.full(shape, np.nan)
        # The noise depends on the requests that arrived, not on those that they represent.
        requests[rows, columns] = part["seen_count"].to_numpy()
        requests[:, silent] = np.nan
        may_teach = np.ones(shape, np.bool_)
        may_teach[rows, columns] = ~part["masked"].to_numpy()
        chunk_fleets = []
        for name, signal in SIGNALS.items():
            values = np.full(shape, np.nan)
            values[rows, columns] = part[signal.column].cast(pl.Float64).fill_null(np.nan)
            values[:, silent] = np.nan
            operations = some.select(OPERATION).rows()
            chunk_fleets.append(
                Fleet(name, operations, times, values, requests, may_teach, window_s)
            )
        yield chunk_fleets


def _recording_gaps(at: Times, count: NDArray[np.int64], times: Times, window_s: float) -> Flags:
    """Return windows in which nothing at all was recorded, for longer than chance explains.

    A stopped exporter looks like no requests; hours that are silent on most days are not a gap.
    """
    step = np.timedelta64(int(window_s * 1e6), "us")
    total = np.bincount((at - times[0]) // step, weights=count, minlength=times.size)
    hour = ((seconds(times) % DAY_S) / DAY_S * SLOTS_PER_DAY).astype(np.int64)
    busy = np.bincount(hour, total > 0, SLOTS_PER_DAY) / np.maximum(
        np.bincount(hour, minlength=SLOTS_PER_DAY), 1
    )
    odd = (total == 0) & (busy > 0.5)[hour]
    edges = np.flatnonzero(np.diff(np.r_[False, odd, False].astype(np.int8)))
    silent = np.zeros(times.size, np.bool_)
    for begin, end in zip(edges[::2], edges[1::2], strict=True):
        silent[begin:end] = (end - begin) * window_s >= GAP_S
    return silent
