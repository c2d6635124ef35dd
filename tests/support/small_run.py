"""A small shop of two days with one incident: its lake, and what a training would derive from it.

In:  folders to write to.
Out: a lake of about 20,000 spans, derived/ and models/ in the shapes of a run. The checkout is
     slow and fails in the last 45 minutes; one operation is new, one is gone.
"""

import json
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np
import polars as pl
from rows import MONDAY_NS, NS_PER_S, table

from apm_analytics.alerts.gate import stage
from apm_analytics.alerts.prometheus import signal_specs
from apm_analytics.foundation import settings
from apm_analytics.lake import snapshots
from apm_analytics.signals.calendar import Calendar

DAYS = 2
EVERY_S = 30  # one request
WINDOW_S = 300
INCIDENT_S = 45 * 60
SLOW = ("storefront", "POST /checkout")
NEW = ("storefront", "GET /wishlist")
GONE = ("storefront", "GET /legacy")
HOSTILE = "GET /</script><script>alert(1)</script><img src=x onerror=alert(2)>&amp;"
RUN_ID = "20260304T000500Z-00aa"
SIGNALS = {
    "latency_p95": ("s", "latency_p95_s"),
    "rate": ("1/s", "rate_per_s"),
    "error_ratio": ("1", "error_ratio"),
}


@dataclass(frozen=True)
class SmallRun:
    """Where everything lies."""

    workspace: Path
    lake: Path
    derived: Path
    models: Path


def write(folder: Path, *, hostile: bool = False, trained: bool = True) -> SmallRun:
    """Write lake, derived and models under `folder`/data and `folder`/models."""
    run = SmallRun(folder, folder / "data/lake", folder / "data/derived", folder / "models")
    spans = _spans(hostile)
    snapshots.append(run.lake, {"spans": table("spans", spans.to_dict(as_series=False))})
    if trained:
        run.derived.mkdir(parents=True)
        _derive(spans, run)
    return run


def _spans(hostile: bool) -> pl.DataFrame:
    rng = np.random.default_rng(7)
    end_s = DAYS * 86_400
    rows: list[tuple[object, ...]] = []
    for number, start in enumerate(range(0, end_s, EVERY_S)):
        trace = f"{number + 1:032x}"
        at = MONDAY_NS + start * NS_PER_S + int(rng.integers(0, NS_PER_S))
        slow = start >= end_s - INCIDENT_S
        match number % 5:
            case 0 | 1:
                _checkout(rows, rng, trace, at, slow)
            case 2 | 3:
                name = HOSTILE if hostile and number % 5 == 3 else "GET /cart"
                _cart(rows, rng, trace, at, name)
            case _:
                later = start > end_s - 12 * 3_600
                early = start < 12 * 3_600
                name = NEW[1] if later else GONE[1] if early else "GET /"
                _span(rows, trace, 1, None, at, 0.02 * rng.lognormal(0, 0.2), "storefront", name)
    names = ("time", "duration_ns", "trace_id", "span_id", "parent_span_id")
    return pl.DataFrame(
        rows,
        schema=[*names, "service_name", "name", "kind", "status_code", "status_message"],
        orient="row",
        infer_schema_length=None,
    )


def _checkout(
    rows: list[tuple[object, ...]], rng: np.random.Generator, trace: str, at: int, slow: bool
) -> None:
    charge = rng.lognormal(0, 0.15) * (1.6 if slow else 0.25)
    failed = bool(rng.random() < (0.4 if slow else 0.004))
    ms = 10**6
    status = "error" if failed else "unset"
    _span(rows, trace, 1, None, at, charge + 0.06, *SLOW, "server", status)
    _span(rows, trace, 2, 1, at + 5 * ms, charge + 0.04, "storefront", "charge", "client", status)
    _span(
        rows, trace, 3, 2, at + 12 * ms, charge + 0.02, "payment", "POST /charge", "server", status
    )
    _span(rows, trace, 4, 3, at + 15 * ms, 0.01, "payment", "INSERT payments", "client")
    _span(rows, trace, 5, 3, at + 30 * ms, charge - 0.02, "payment", "POST bank.example", "client")


def _cart(
    rows: list[tuple[object, ...]], rng: np.random.Generator, trace: str, at: int, name: str
) -> None:
    took = 0.03 * rng.lognormal(0, 0.25)
    _span(rows, trace, 1, None, at, took + 0.02, "storefront", name)
    _span(rows, trace, 2, 1, at + 2 * 10**6, took + 0.01, "storefront", "items", "client")
    _span(rows, trace, 3, 2, at + 4 * 10**6, took, "cart", "GET /items")
    _span(rows, trace, 4, 3, at + 5 * 10**6, took / 2, "cart", "SELECT items", "client")


def _span(
    rows: list[tuple[object, ...]],
    trace: str,
    number: int,
    parent: int | None,
    at: int,
    seconds: float,
    service: str,
    name: str,
    kind: str = "server",
    status: str = "unset",
) -> None:
    rows.append(
        (
            at,
            int(seconds * NS_PER_S),
            trace,
            f"{trace[-14:]}{number:02x}",
            None if parent is None else f"{trace[-14:]}{parent:02x}",
            service,
            name,
            kind,
            status,
            "declined" if status == "error" else None,
        )
    )


def _derive(spans: pl.DataFrame, run: SmallRun) -> None:
    features = _features(spans)
    features.write_parquet(run.derived / "features.parquet")
    scores, bounds = _scores(features)
    scores.write_parquet(run.derived / "scores.parquet")
    bounds.write_parquet(run.derived / "bounds.parquet")
    gated = stage.run(
        features,
        bounds,
        scores,
        lambda before: _scores(before)[1],
        signal_specs.load(Path(__file__).resolve().parents[2] / "specs"),
        Calendar(),
        settings.load().params,
    )
    gated.levels.write_parquet(run.derived / "levels.parquet")
    gated.table.write_parquet(run.derived / "gate.parquet")
    gated.firings.write_parquet(run.derived / "firings.parquet")
    forest = scores.filter(pl.col("signal") == "together", pl.col("score") > 1)
    forest.select(
        "service_name",
        "operation",
        "time",
        "score",
        latency_p95=pl.lit(0.8),
        rate=pl.lit(0.1),
        error_ratio=pl.lit(0.1),
    ).write_parquet(run.derived / "contributions.parquet")
    _selection(features).write_parquet(run.derived / "selection.parquet")
    skipped = {
        "service_name": ["cart"],
        "operation": ["GET /rare"],
        "signal": ["latency_p95"],
        "outcome": ["skipped"],
        "reason": ["3 windows with a value, need 12"],
    }
    pl.DataFrame(skipped).write_parquet(run.derived / "skipped.parquet")
    times = features["time"]
    _json(
        run.derived / "snapshot.json",
        {
            "lake": str(run.lake),
            "data_hash": snapshots.data_hash(run.lake),
            "first_time": f"{times.min():%Y-%m-%dT%H:%M:%S}",
            "last_time": f"{times.max():%Y-%m-%dT%H:%M:%S}",
            "rows": {"spans": len(spans)},
            "history_days": 28,
        },
    )
    _json(run.models / "metrics.json", {"robust": {"coverage": 0.995, "series": 15}})
    (run.models / "robust").mkdir()
    (run.models / "robust" / "card.md").write_text(
        "# Robust bounds\n\nMedian +- 5 robust deviations, without a season.\n"
    )
    _json(
        run.models / "run.json",
        {
            "run_id": RUN_ID,
            "git_commit": "0123456789abcdef0123456789abcdef01234567",
            "data_hash": snapshots.data_hash(run.lake),
            "params_hash": "feed",
            "trained_at": datetime.now().astimezone().isoformat(),
        },
    )


def _features(spans: pl.DataFrame) -> pl.DataFrame:
    entries = spans.filter((pl.col("kind") == "server") | pl.col("parent_span_id").is_null())
    time = pl.from_epoch(pl.col("time") // 1_000, time_unit="us")
    seconds = pl.col("duration_ns") / NS_PER_S
    found = (
        entries.select(
            "service_name",
            pl.col("name").alias("operation"),
            time.dt.truncate(f"{WINDOW_S}s").alias("time"),
            seconds.alias("seconds"),
            (pl.col("status_code") == "error").alias("failed"),
        )
        .group_by("service_name", "operation", "time")
        .agg(
            count=pl.len().cast(pl.Int64),
            error_count=pl.col("failed").sum().cast(pl.Int64),
            latency_p50_s=pl.col("seconds").quantile(0.5),
            latency_p95_s=pl.col("seconds").quantile(0.95),
            latency_p99_s=pl.col("seconds").quantile(0.99),
        )
    )
    return found.with_columns(
        rate_per_s=pl.col("count") / WINDOW_S, error_ratio=pl.col("error_count") / pl.col("count")
    ).sort("service_name", "operation", "time")


def _scores(features: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    series = ["service_name", "operation"]
    scores, bounds = [], []
    floors = {"latency_p95": 0.005, "rate": 0.005, "error_ratio": 0.05}
    for signal, (unit, column) in SIGNALS.items():
        value = pl.col(column)
        wide = 5 * pl.max_horizontal(
            1.4826 * (value - value.median()).abs().median(), pl.lit(floors[signal])
        )
        banded = features.select(
            *series,
            "time",
            signal=pl.lit(signal),
            value=value,
            expected=value.median().over(series),
            lower=(value.median() - wide).clip(0).over(series),
            upper=(value.median() + wide).over(series),
        ).with_columns(
            score=(pl.col("value") - pl.col("expected")).abs()
            / (pl.col("upper") - pl.col("expected"))
        )
        scores.append(banded.with_columns(model=pl.lit("robust")))
        hours = pl.DataFrame({"hour_of_week": range(168)}, schema={"hour_of_week": pl.Int16})
        one = banded.group_by(series, maintain_order=True).agg(
            signal=pl.lit(signal),
            unit=pl.lit(unit),
            expected=pl.col("expected").first(),
            lower=pl.col("lower").first(),
            upper=pl.col("upper").first(),
            model=pl.lit("robust"),
        )
        bounds.append(one.join(hours, how="cross"))
    nothing = pl.lit(None, pl.Float64)
    together = scores[0].with_columns(
        signal=pl.lit("together"),
        value=nothing,
        expected=nothing,
        lower=nothing,
        upper=nothing,
        score=pl.col("score") / 2,
        model=pl.lit("forest"),
    )
    return pl.concat([*scores, together]), pl.concat(bounds)


def _selection(features: pl.DataFrame) -> pl.DataFrame:
    """As if the rates of all operations had been back-tested with two models."""
    operations = features.select("service_name", "operation").unique().sort(pl.all())
    return pl.concat(
        [
            operations.with_columns(
                signal=pl.lit("rate"),
                model=pl.lit(model),
                chosen=pl.lit(chosen),
                origins=pl.lit(7, pl.Int32),
                won=pl.lit(5 if chosen else 2, pl.Int32),
                scaled_error=pl.lit(error),
                pinball=pl.lit(error / 5),
                coverage=pl.lit(0.991),
                reason=pl.lit("time_of_day: MASE 0.8 over 7 days" if chosen else ""),
            )
            for model, chosen, error in (
                ("time_of_day", True, 0.8),
                ("seasonal_naive", False, 1.0),
            )
        ]
    )


def _json(file: Path, value: object) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(value, indent=1))
