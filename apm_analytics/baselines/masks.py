"""Tell which windows must not teach a baseline: incidents, deployments, maintenance.

In:  features, a calendar, and what detectors found in the history.
Out: one flag a row of the features, for `training.train(masked=...)`.
"""

from datetime import timedelta

import numpy as np
import polars as pl

from apm_analytics.analyze import calendar as calendar_of
from apm_analytics.analyze.calendar import Calendar
from apm_analytics.analyze.signals import OPERATION
from apm_analytics.baselines.series import Flags
from apm_analytics.settings import Settings


def windows(
    features: pl.DataFrame,
    calendar: Calendar,
    *,
    window_s: float,
    settling_s: float,
    found: pl.DataFrame | None = None,
) -> Flags:
    """Flag the windows that touch something unusual.

    Parameters
    ----------
    features : as `analyze.signals.features` gives them, in any order.
    calendar : incidents, deployments and maintenance windows. An entry of single signals masks
        all signals of its operation: what moves one seldom leaves the others alone.
    window_s : length of a window, in seconds.
    settling_s : after a deployment, caches are cold and instances come and go for so long.
    found : what detectors found by themselves, with service_name, operation, start and end
        (UTC, without a zone); None without.

    Returns
    -------
    Flags of shape (len(features),).

    Examples
    --------
    >>> windows(features, calendar.load(Path("specs")), window_s=300, settling_s=1800)
    ... # doctest: +SKIP
    """
    spans = _spans(calendar, features, settling_s)
    if found is not None:
        spans += found.select(*OPERATION, "start", "end").unique().rows()
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
    """Flag what the calendar of the workspace says must not teach."""
    return windows(
        features,
        calendar_of.of_workspace(settings.workspace),
        window_s=settings.params.features.window_s,
        settling_s=settings.params.baselines.settling_s,
    )


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
