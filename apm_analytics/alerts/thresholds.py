"""Turn baseline bounds into alert thresholds.

In:  bounds of sustained values (`alerts.gate.levels`), one row per (service_name, operation,
     signal, hour_of_week), their provenance, and the gate's table.
Out: thresholds, one row per (service_name, operation, signal, bound, hour_of_week), in the
     signal's own unit. `alerts.prometheus.threshold_files` renders them for Prometheus.
"""

from collections.abc import Iterable
from datetime import UTC

import polars as pl

from apm_analytics.alerts.gate.history import KEPT, LEARNED, NAIVE
from apm_analytics.alerts.gate.judge import NOT_JUDGED
from apm_analytics.alerts.prometheus.signal_specs import BOUNDS
from apm_analytics.foundation.errors import BadInput, NotEnoughData
from apm_analytics.foundation.provenance import Provenance
from apm_analytics.foundation.time import HOURS_PER_WEEK
from apm_analytics.signals import SERIES

BOUND = (*SERIES, "bound")
BOUND_COLUMNS = (*SERIES, "unit", "hour_of_week", "expected", "lower", "upper", "model")
COLUMNS: dict[str, type[pl.DataType] | pl.DataType] = {
    "service_name": pl.String,
    "operation": pl.String,
    "signal": pl.String,
    "unit": pl.String,
    "bound": pl.String,  # "lower" or "upper"
    "hour_of_week": pl.Int16,  # 0 = Sunday 00:00 UTC, as PromQL's day_of_week() * 24 + hour()
    "value": pl.Float64,
    "expected": pl.Float64,
    "model": pl.String,
    "run_id": pl.String,
    "git_commit": pl.String,
    "data_hash": pl.String,
    "trained_at": pl.Datetime("us"),  # UTC
    # The gate's decision, from replays over weeks that the threshold was not trained on.
    "candidate": pl.String,  # what is in force: this threshold, "static" or "no alert"
    "published": pl.Boolean,  # this threshold is in force
    "unproven": pl.Boolean,  # what is in force met no incident in the replay: a guard
    "judgement": pl.String,
    "reason": pl.String,
    "pages_per_week": pl.Float64,
    "precision": pl.Float64,
    "recall": pl.Float64,
}
SCORES = ("pages_per_week", "precision", "recall")
DECIDED = ("candidate", "published", "unproven", "judgement", "reason", *SCORES)
SHOWN = 3  # series that an error message names


def thresholds(
    bounds: pl.DataFrame,
    provenance: Provenance,
    *,
    table: pl.DataFrame | None = None,
    kept: pl.DataFrame | None = None,
) -> pl.DataFrame:
    """Return one threshold per watched bound and hour of the week.

    p95 latency and error ratio get an upper threshold, rate a lower and an upper one.

    Parameters
    ----------
    bounds : derived/levels.parquet, 168 rows per series.
    provenance : the training run of the bounds; every row carries it.
    table : derived/gate.parquet. Without it every threshold is published, unjudged.
    kept : the thresholds published before; where the gate keeps yesterday's, their rows stay.

    Returns
    -------
    A frame with `COLUMNS`, sorted; `expected` is the baseline's middle in that hour.

    Raises
    ------
    BadInput
        A column is missing, a signal is unknown, or see `check`; a lower bound is above the
        upper one. The message names the series.
    NotEnoughData
        There are no bounds.
    """
    _require_columns(bounds, BOUND_COLUMNS, "bounds")
    unknown = sorted(
        str(signal) for signal in set(bounds["signal"].unique().to_list()) - set(BOUNDS)
    )
    if unknown:
        raise BadInput(f"bounds hold the signals {unknown}, known are {sorted(BOUNDS)}")
    crossed = bounds.filter(pl.col("signal") == "rate", pl.col("lower") > pl.col("upper"))
    refuse(crossed, SERIES, "a lower bound above the upper one", ("hour_of_week",))
    trained_at = provenance.trained_at
    if trained_at.tzinfo is not None:
        trained_at = trained_at.astimezone(UTC).replace(tzinfo=None)
    parts = [
        bounds.filter(pl.col("signal") == signal).with_columns(
            bound=pl.lit(bound), value=pl.col(bound)
        )
        for signal, of_signal in BOUNDS.items()
        for bound in of_signal
    ]
    columns = [
        pl.lit(value).alias(name).cast(COLUMNS[name])
        for name, value in (
            ("run_id", provenance.run_id),
            ("git_commit", provenance.git_commit),
            ("data_hash", provenance.data_hash),
            ("trained_at", trained_at),
        )
    ]
    frame = _decided(pl.concat(parts).with_columns(columns), table)
    frame = frame.select(pl.col(name).cast(kind) for name, kind in COLUMNS.items())
    if table is not None and kept is not None:
        frame = _with_kept(frame, table, kept)
    check(frame)
    return frame.sort(*BOUND, "hour_of_week")


def changes(before: pl.DataFrame | None, after: pl.DataFrame) -> pl.DataFrame:
    """Compare two sets of thresholds, series by series.

    Parameters
    ----------
    before : the thresholds published before; None when there were none.
    after : the thresholds published now.

    Returns
    -------
    One row per (service_name, operation, signal, bound) with its unit: `before` and `after`, the
    medians over the week; `ratio` = after / before, null when one is missing or only `before` is
    0; `change`: "new", "gone" or "kept".
    """
    _require_columns(after, (*BOUND, "unit", "value"), "thresholds")
    if before is None:
        before = after.clear()
    _require_columns(before, (*BOUND, "unit", "value"), "thresholds")
    old = before.group_by(BOUND).agg(old_unit=pl.col("unit").first(), before=_median())
    new = after.group_by(BOUND).agg(pl.col("unit").first(), after=_median())
    was, now = pl.col("before"), pl.col("after")
    return (
        old.join(new, on=BOUND, how="full", coalesce=True, nulls_equal=True)
        .select(
            *BOUND,
            pl.coalesce("unit", "old_unit").alias("unit"),
            "before",
            "after",
            pl.when(was > 0).then(now / was).when((was == 0) & (now == 0)).then(1.0).alias("ratio"),
            pl.when(was.is_null())
            .then(pl.lit("new"))
            .when(now.is_null())
            .then(pl.lit("gone"))
            .otherwise(pl.lit("kept"))
            .alias("change"),
        )
        .sort(BOUND)
    )


def current(thresholds: pl.DataFrame) -> pl.DataFrame:
    """Return the thresholds of a published set that page as bounds, to compete in the gate."""
    paging = thresholds.filter("published") if "published" in thresholds.columns else thresholds
    hours = (*SERIES, "hour_of_week")
    series = paging.unique(hours).select(*hours, "unit", "expected", "model")
    for bound in ("lower", "upper"):
        values = paging.filter(pl.col("bound") == bound).select(
            *hours, pl.col("value").alias(bound)
        )
        series = series.join(values, on=hours, how="left")
    return series.select(*BOUND_COLUMNS)


def check(frame: pl.DataFrame) -> None:
    """Refuse thresholds that would alert wrongly, or never.

    Raises
    ------
    BadInput
        A column is missing; a series has missing or doubled hours; a value is null, NaN, infinite
        or negative. The message names the series.
    NotEnoughData
        There are none.
    """
    _require_columns(frame, COLUMNS, "thresholds")
    if frame.is_empty():
        raise NotEnoughData(
            "there are no bounds, so no thresholds; import more telemetry, or see in "
            "derived/skipped.parquet why every series was skipped"
        )
    refuse(
        frame.filter(pl.any_horizontal(pl.col(*BOUND, "model").is_null())),
        BOUND,
        "no service, operation, signal, bound or model",
        (),
    )
    for column in ("value", "expected"):
        value = pl.col(column)
        finite = value.is_not_null() & value.is_finite()
        what = "a bound" if column == "value" else "an expected value"
        refuse(
            frame.filter(~finite),
            BOUND,
            f"{what} that is no number",
            ("hour_of_week", column),
        )
        refuse(frame.filter(value < 0), BOUND, f"{what} below 0", ("hour_of_week", column))
    hour = pl.col("hour_of_week")
    hours = frame.group_by(BOUND, maintain_order=True).agg(
        rows=pl.len(), hours=hour.filter(hour.is_between(0, HOURS_PER_WEEK - 1)).n_unique()
    )
    refuse(
        hours.filter((pl.col("rows") != HOURS_PER_WEEK) | (pl.col("hours") != HOURS_PER_WEEK)),
        BOUND,
        "not exactly the hours 0 to 167 of the week",
        ("rows", "hours"),
    )


def refuse(rows: pl.DataFrame, series: tuple[str, ...], fault: str, shown: tuple[str, ...]) -> None:
    """Raise `BadInput` when there are rows; the message names the first series and counts them."""
    if rows.is_empty():
        return
    keys = rows.select(series).unique(maintain_order=True)
    first = rows.unique(series, keep="first", maintain_order=True).head(SHOWN)
    named = "; ".join(
        "/".join(str(row[key]) for key in series)
        + "".join(f" {column}={row[column]}" for column in shown)
        for row in first.iter_rows(named=True)
    )
    more = f" and {len(keys) - SHOWN} more" if len(keys) > SHOWN else ""
    raise BadInput(
        f"{len(keys)} series with {fault}: {named}{more}; "
        "train again, or drop these operations from the bounds"
    )


def _decided(frame: pl.DataFrame, table: pl.DataFrame | None) -> pl.DataFrame:
    """Add the gate's decision to every threshold."""
    if table is None:
        nothing = [pl.lit(None).cast(COLUMNS[name]).alias(name) for name in DECIDED]
        return frame.with_columns(nothing).with_columns(
            candidate=pl.lit(LEARNED), published=pl.lit(True), judgement=pl.lit(NOT_JUDGED)
        )
    # The thresholds of seasonal naive stand in the levels where it is in force.
    decided = table.filter("in_force").select(
        *BOUND,
        *(name for name in DECIDED if name != "published"),
        published=pl.col("candidate").is_in([LEARNED, NAIVE]),
    )
    return frame.join(decided, on=BOUND, how="left").with_columns(
        pl.col("published").fill_null(False),
        pl.col("judgement").fill_null(NOT_JUDGED),
        pl.col("reason").fill_null("too little history to replay it over"),
    )


def _with_kept(frame: pl.DataFrame, table: pl.DataFrame, kept: pl.DataFrame) -> pl.DataFrame:
    """Replace rows by yesterday's where the gate keeps those."""
    keeps = table.filter(pl.col("in_force"), candidate=KEPT).select(
        *BOUND, *(name for name in DECIDED if name != "published")
    )
    rows = kept.drop(set(DECIDED) & set(kept.columns)).join(keeps, on=BOUND, how="inner")
    rows = rows.with_columns(published=pl.lit(True)).select(
        pl.col(name).cast(kind) for name, kind in COLUMNS.items()
    )
    return pl.concat([frame.join(keeps, on=BOUND, how="anti"), rows])


def _median() -> pl.Expr:
    return pl.col("value").cast(pl.Float64).median()


def _require_columns(frame: pl.DataFrame, needed: Iterable[str], what: str) -> None:
    missing = [column for column in needed if column not in frame.columns]
    if missing:
        raise BadInput(f"{what} have no column {missing}; found {frame.columns}")
