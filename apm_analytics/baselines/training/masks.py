"""Mask windows that baselines must not be trained on: incidents, deployments, maintenance.

In:  features and a calendar; or all signals of some operations, without a calendar.
Out: one flag per row of the features, for `training.train(masked=...)`; or one per window, from
     the history itself.
"""

from dataclasses import replace
from datetime import timedelta

import numpy as np
import polars as pl

from apm_analytics.baselines.models.series import Flags
from apm_analytics.baselines.training import fitting
from apm_analytics.baselines.training.calibration import MAX_MASKED_RATIO
from apm_analytics.baselines.training.fleet import Fleet
from apm_analytics.foundation.settings import BaselineParams, Settings
from apm_analytics.signals import OPERATION, Calendar
from apm_analytics.signals import calendar as calendar_of

# Share of disturbed windows in a disturbed slot: one odd window is not an incident.
DISTURBED_RATIO = 0.5


def windows(
    features: pl.DataFrame,
    calendar: Calendar,
    *,
    window_s: float,
    settling_s: float,
) -> Flags:
    """Flag the windows that overlap entries of a calendar.

    Parameters
    ----------
    features : as `signals.operations.features` returns them, in any order.
    calendar : incidents, deployments and maintenance windows. An entry of single signals masks all
        signals of its operation, because a disturbance seldom affects one alone.
    window_s : length of a window, in seconds.
    settling_s : how long after a deployment caches are cold and instances change.

    Returns
    -------
    Flags of shape (len(features),).

    Examples
    --------
    >>> windows(features, calendar.load(Path("specs")), window_s=300, settling_s=1800)
    ... # doctest: +SKIP
    """
    spans = _spans(calendar, features, settling_s)
    if not spans or features.is_empty():
        return np.zeros(len(features), dtype=np.bool_)
    held = pl.DataFrame(
        spans,
        schema={
            **dict.fromkeys(OPERATION, pl.String),
            "start": pl.Datetime("us"),
            "end": pl.Datetime("us"),
        },
        orient="row",
    )
    rows = features.select(*OPERATION, pl.col("time").cast(pl.Datetime("us"))).with_row_index("row")
    touched = rows.join(held, on=OPERATION, how="inner").filter(
        pl.col("time") < pl.col("end"),
        pl.col("time") + pl.duration(seconds=window_s) > pl.col("start"),
    )
    flags = np.zeros(len(features), dtype=np.bool_)
    flags[touched["row"].unique().to_numpy()] = True
    return flags


def of_workspace(features: pl.DataFrame, settings: Settings) -> Flags:
    """Flag the windows that overlap entries of the calendar of the workspace."""
    return windows(
        features,
        calendar_of.of_workspace(settings.workspace),
        window_s=settings.params.features.window_s,
        settling_s=settings.params.baselines.settling_s,
    )


def without_disturbed(chunk: list[Fleet], params: BaselineParams) -> list[Fleet]:
    """Mask slots of an operation in which any of its signals was disturbed.

    A disturbance seldom affects one signal alone, even if the others do not show it clearly. So an
    incident that is in no calendar is masked in all of them.

    Parameters
    ----------
    chunk : all signals of some operations, with the same rows and times.
    params : `fit_grid_s` is the length of a slot.
    """
    slots = chunk[0].times.astype(np.int64) // int(params.fit_grid_s * 1e6)
    begin = np.flatnonzero(np.r_[True, slots[1:] != slots[:-1]])
    widths = np.diff(np.r_[begin, slots.size])
    disturbed = np.zeros((len(chunk[0]), begin.size), np.bool_)
    for fleet in chunk:
        known = ~np.isnan(fleet.values)
        odd = known & fleet.may_teach & ~fitting.quiet(fleet, params)
        shares = np.add.reduceat(odd, begin, axis=1, dtype=np.float64) / widths
        disturbed |= shares >= DISTURBED_RATIO
    disturbed[disturbed.mean(axis=1) > MAX_MASKED_RATIO] = False
    may_teach = ~np.repeat(disturbed, widths, axis=1)
    return [replace(fleet, may_teach=fleet.may_teach & may_teach) for fleet in chunk]


def _spans(
    calendar: Calendar, features: pl.DataFrame, settling_s: float
) -> list[tuple[object, ...]]:
    operations = features.select(OPERATION).unique(maintain_order=True).rows()
    spans: list[tuple[object, ...]] = []
    for entry in calendar:
        start, end = entry.start.replace(tzinfo=None), entry.end.replace(tzinfo=None)
        if entry.kind == "deployment":
            end += timedelta(seconds=settling_s)
        spans += [
            (service, operation, start, end)
            for service, operation in operations
            if entry.concerns(service, operation)
        ]
    return spans
