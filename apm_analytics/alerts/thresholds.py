"""Turn baseline bounds into alert thresholds, and publish them for Prometheus.

In:  bounds of sustained values (`alerts.gate.levels`), one row per (service_name, operation,
     signal, hour_of_week), their provenance, and what the gate decided.
Out: thresholds, one row per (service_name, operation, signal, bound, hour_of_week), in the
     signal's own unit; thresholds.parquet and prometheus/ (.prom, rules, tests) in a release.
"""

import io
import logging
import os
import shutil
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl

from apm_analytics.alerts import publication
from apm_analytics.alerts.gate.history import KEPT, LEARNED
from apm_analytics.alerts.gate.judge import NOT_JUDGED
from apm_analytics.alerts.prometheus import (
    exporter,
    promtool,
    rule_tests,
    rules,
    signal_specs,
    slo_rules,
)
from apm_analytics.alerts.prometheus.signal_specs import BOUNDS, SignalSpec
from apm_analytics.foundation import settings
from apm_analytics.foundation.errors import ApmError, BadInput, NotEnoughData, NotFound
from apm_analytics.foundation.provenance import Provenance
from apm_analytics.foundation.settings import Params
from apm_analytics.foundation.time import HOURS_PER_WEEK

SERIES = ("service_name", "operation", "signal")
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
    # What the gate decided, from replays over weeks that did not teach the threshold.
    "published": pl.Boolean,  # it pages; where not, the static threshold stands in
    "judgement": pl.String,
    "reason": pl.String,
    "pages_per_week": pl.Float64,
    "precision": pl.Float64,
    "recall": pl.Float64,
}
DECIDED = ("published", "judgement", "reason", "pages_per_week", "precision", "recall")
# Clocks of two machines may differ by this much before "trained in the future" is a fault.
CLOCK_SKEW_S = 300.0
SHOWN = 3  # series that an error message names

log = logging.getLogger(__name__)


def thresholds(
    bounds: pl.DataFrame,
    provenance: Provenance,
    *,
    table: pl.DataFrame | None = None,
    kept: pl.DataFrame | None = None,
) -> pl.DataFrame:
    """Make one threshold of every bound that is watched.

    p95 latency and error ratio get an upper threshold, rate a lower and an upper one.

    Parameters
    ----------
    bounds : derived/levels.parquet, 168 rows a series.
    provenance : the training that the bounds come from; every row carries it.
    table : the gate's, derived/gate.parquet. Without it everything is published, unjudged.
    kept : the thresholds published before; where the gate keeps yesterday's, its rows stay.

    Returns
    -------
    A frame with `COLUMNS`, sorted; `expected` is the baseline's middle in that hour.

    Raises
    ------
    BadInput
        A column is missing, a signal unknown, a series has missing or doubled hours, a bound is
        null, NaN, infinite or negative, or lower is above upper. The message names the series.
    NotEnoughData
        There are no bounds at all.
    """
    _require_columns(bounds, BOUND_COLUMNS, "bounds")
    unknown = sorted(
        str(signal) for signal in set(bounds["signal"].unique().to_list()) - set(BOUNDS)
    )
    if unknown:
        raise BadInput(f"bounds hold the signals {unknown}, known are {sorted(BOUNDS)}")
    crossed = bounds.filter(pl.col("signal") == "rate", pl.col("lower") > pl.col("upper"))
    _refuse(crossed, SERIES, "a lower bound above the upper one", ("hour_of_week",))
    trained_at = provenance.trained_at
    if trained_at.tzinfo is not None:
        trained_at = trained_at.astimezone(UTC).replace(tzinfo=None)
    wanted = [(signal, bound) for signal, of_signal in BOUNDS.items() for bound in of_signal]
    parts = [
        bounds.filter(pl.col("signal") == signal).with_columns(
            bound=pl.lit(bound), value=pl.col(bound)
        )
        for signal, bound in wanted
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
    _check(frame)
    return frame.sort(*BOUND, "hour_of_week")


def publish(
    thresholds: pl.DataFrame,
    release: Path,
    specs: Path,
    *,
    params: Params | None = None,
    now: datetime | None = None,
) -> None:
    """Write thresholds.parquet and prometheus/ into a release, checked by promtool.

    All of it replaces what the release held, or nothing does. promtool checks the rules and runs
    their generated tests when it is on PATH; without it a log line says that nobody checked.

    Parameters
    ----------
    thresholds : as `thresholds()` returns them.
    release : what `publication.begin` returned.
    specs : the folder with signals.yaml.
    params : the numbers of params.yaml; read from the workspace when left out.
    now : the time against which the bounds' age counts; the clock's when left out.

    Raises
    ------
    BadInput
        The thresholds are not whole (see `thresholds()`), come from several runs, or have
        another unit than the spec.
    ApmError
        They were trained longer ago than thresholds.max_age_s or in the future, promtool
        refuses a rule or a test, or the disk is full. The release stays as it was.
    """
    if not release.is_dir():
        raise NotFound(f"no release folder {release}; call publication.begin first")
    params = params or settings.load().params
    frame = thresholds.sort(*BOUND, "hour_of_week") if len(thresholds) else thresholds
    _check(frame)
    _check_provenance(
        frame, params.thresholds.max_age_s, params.gate.keep_days, now or datetime.now(UTC)
    )
    signals = signal_specs.load(specs)
    _check_units(frame, signals)

    parquet = io.BytesIO()
    frame.write_parquet(parquet, compression="zstd")
    newest = frame.filter(pl.col("trained_at") == pl.col("trained_at").max())
    origin = {key: str(newest[key][0]) for key in ("run_id", "git_commit", "data_hash")}
    notebooks = _notebooks(release)
    staging = release / publication.STAGING
    shutil.rmtree(staging, ignore_errors=True)
    try:
        for name, content in {
            "thresholds.parquet": parquet.getvalue(),
            "prometheus/apm_thresholds.prom": exporter.text(frame).encode(),
            f"prometheus/rules/{rules.FILE_NAME}": rules.as_yaml(
                rules.document(signals, params, notebooks), origin
            ).encode(),
            f"prometheus/tests/{rule_tests.FILE_NAME}": rules.as_yaml(
                rule_tests.document(signals, params, notebooks, frame.filter("published")), origin
            ).encode(),
            f"prometheus/tests/{rule_tests.WEEK_FILE_NAME}": rules.as_yaml(
                rule_tests.week_document(signals), origin
            ).encode(),
            **slo_rules.files(specs, params, origin),
        }.items():
            publication.write_atomic(staging / name, content)
        if not promtool.check(staging / "prometheus"):
            log.warning("promtool is not on PATH: the rules are published unchecked")
        _swap(staging, release)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def changes(before: pl.DataFrame | None, after: pl.DataFrame) -> pl.DataFrame:
    """Compare two sets of thresholds, series by series.

    Parameters
    ----------
    before : the thresholds published before, or None when there were none.
    after : the thresholds published now.

    Returns
    -------
    One row per (service_name, operation, signal, bound) with its unit: `before` and `after`, the
    medians over the week, `ratio` = after / before (null without one of them, or when only
    `before` is 0), and `change`: "new", "gone" or "kept".
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
    """Give those of a published set that page, as bounds that may compete again."""
    held = thresholds.filter("published") if "published" in thresholds.columns else thresholds
    of_bound = {
        bound: held.filter(pl.col("bound") == bound).select(*SERIES, "hour_of_week", "value")
        for bound in ("lower", "upper")
    }
    series = held.unique((*SERIES, "hour_of_week")).select(
        *SERIES, "unit", "hour_of_week", "expected", "model"
    )
    for bound, values in of_bound.items():
        series = series.join(
            values.rename({"value": bound}), on=(*SERIES, "hour_of_week"), how="left"
        )
    return series.select(*BOUND_COLUMNS)


def _decided(frame: pl.DataFrame, table: pl.DataFrame | None) -> pl.DataFrame:
    """Put the gate's decision beside every threshold."""
    if table is None:
        nothing = [pl.lit(None).cast(COLUMNS[name]).alias(name) for name in DECIDED]
        return frame.with_columns(nothing).with_columns(
            published=pl.lit(True), judgement=pl.lit(NOT_JUDGED)
        )
    chosen = table.filter("in_force").select(
        *BOUND, "judgement", "reason", published=pl.col("candidate") == LEARNED
    )
    own = table.filter(candidate=LEARNED).select(*BOUND, "pages_per_week", "precision", "recall")
    decided = chosen.join(own, on=BOUND, how="left")
    return frame.join(decided, on=BOUND, how="left").with_columns(
        pl.col("published").fill_null(False),
        pl.col("judgement").fill_null(NOT_JUDGED),
        pl.col("reason").fill_null("too little history to replay it over"),
    )


def _with_kept(frame: pl.DataFrame, table: pl.DataFrame, kept: pl.DataFrame) -> pl.DataFrame:
    """Let yesterday's rows stand where the gate says so."""
    keeps = table.filter(pl.col("in_force"), candidate=KEPT).select(
        *BOUND, "judgement", "reason", "pages_per_week", "precision", "recall"
    )
    rows = kept.drop(set(DECIDED) & set(kept.columns)).join(keeps, on=BOUND, how="inner")
    rows = rows.with_columns(published=pl.lit(True)).select(
        pl.col(name).cast(kind) for name, kind in COLUMNS.items()
    )
    return pl.concat([frame.join(keeps, on=BOUND, how="anti"), rows])


def _median() -> pl.Expr:
    return pl.col("value").cast(pl.Float64).median()


def _check(frame: pl.DataFrame) -> None:
    """Refuse thresholds that would alert wrongly, or never."""
    _require_columns(frame, COLUMNS, "thresholds")
    if frame.is_empty():
        raise NotEnoughData(
            "there are no bounds, so no thresholds; import more telemetry or see "
            "derived/skipped.parquet for why every series was skipped"
        )
    _refuse(
        frame.filter(pl.any_horizontal(pl.col(*BOUND, "model").is_null())),
        BOUND,
        "no service, operation, signal, bound or model",
        (),
    )
    for column in ("value", "expected"):
        value = pl.col(column)
        finite = value.is_not_null() & value.is_finite()
        what = "a bound" if column == "value" else "an expected value"
        _refuse(
            frame.filter(~finite),
            BOUND,
            f"{what} that is no number",
            ("hour_of_week", column),
        )
        _refuse(frame.filter(value < 0), BOUND, f"{what} below 0", ("hour_of_week", column))
    hour = pl.col("hour_of_week")
    hours = frame.group_by(BOUND, maintain_order=True).agg(
        rows=pl.len(), hours=hour.filter(hour.is_between(0, HOURS_PER_WEEK - 1)).n_unique()
    )
    _refuse(
        hours.filter((pl.col("rows") != HOURS_PER_WEEK) | (pl.col("hours") != HOURS_PER_WEEK)),
        BOUND,
        "not exactly the hours 0 to 167 of the week",
        ("rows", "hours"),
    )


def _check_provenance(
    frame: pl.DataFrame, max_age_s: float, keep_days: float, now: datetime
) -> None:
    newest = frame["trained_at"].max()
    of_now = frame.filter(pl.col("trained_at").eq_missing(newest))
    older = frame.filter(pl.col("trained_at").ne_missing(newest))
    for column in ("run_id", "git_commit", "data_hash", "trained_at"):
        found = of_now[column].unique().to_list()
        if len(found) != 1 or found[0] is None:
            raise BadInput(
                f"thresholds hold the {column}s {sorted(map(str, found))[:SHOWN]}, need one: "
                "publish the bounds of one training"
            )
    too_old = older.filter(
        (pl.lit(newest) - pl.col("trained_at") > timedelta(days=keep_days)).fill_null(True)
    )
    _refuse(too_old, BOUND, f"an age over {keep_days:g} days (gate.keep_days)", ("trained_at",))
    trained_at: datetime = of_now["trained_at"][0].replace(tzinfo=UTC)
    age_s = (now - trained_at).total_seconds()
    if age_s > max_age_s:
        raise ApmError(
            f"the bounds were trained at {trained_at:%Y-%m-%d %H:%M} UTC, {age_s / 3600:.1f} h "
            f"ago, and may be at most {max_age_s / 3600:g} h old (thresholds.max_age_s); "
            "train again before publishing"
        )
    if age_s < -CLOCK_SKEW_S:
        raise ApmError(
            f"the bounds were trained at {trained_at:%Y-%m-%d %H:%M} UTC, {-age_s / 3600:.1f} h "
            "in the future; set the clock right and train again"
        )


def _check_units(frame: pl.DataFrame, signals: Mapping[str, SignalSpec]) -> None:
    for signal, unit in frame.select("signal", "unit").unique().sort("signal", "unit").iter_rows():
        if signal not in signals or unit != signals[signal].unit:
            needed = signals[signal].unit if signal in signals else "a known signal"
            raise BadInput(
                f"thresholds of {signal} are in {unit!r}, {signal_specs.FILE_NAME} says "
                f"{needed!r}; the live value and its threshold need one unit"
            )


def _notebooks(release: Path) -> str:
    """Say where the executed notebooks of the runs lie, for links in the alerts."""
    out = release.parent.parent if release.suffix == publication.PARTIAL else release.parent
    return str(out.resolve() / "runs").replace("{{", "{ {")


def _swap(staging: Path, release: Path) -> None:
    """Put checked files into place; `promote` refuses a release where this was cut short."""
    swapping = release / publication.SWAPPING
    try:
        shutil.rmtree(swapping, ignore_errors=True)
        os.rename(staging, swapping)
        if (release / "prometheus").exists():
            os.rename(release / "prometheus", swapping / "old")
        os.rename(swapping / "prometheus", release / "prometheus")
        os.replace(swapping / "thresholds.parquet", release / "thresholds.parquet")
        shutil.rmtree(swapping)
    except OSError as error:
        raise ApmError(
            f"cannot put the thresholds into {release}: {error}; "
            "what was published before stays. Run `apm nightly` again"
        ) from error


def _require_columns(frame: pl.DataFrame, needed: Iterable[str], what: str) -> None:
    missing = [column for column in needed if column not in frame.columns]
    if missing:
        raise BadInput(f"{what} have no column {missing}; found {frame.columns}")


def _refuse(
    rows: pl.DataFrame, series: tuple[str, ...], fault: str, shown: tuple[str, ...]
) -> None:
    """Raise when there are rows, naming the first series and how many more there are."""
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
