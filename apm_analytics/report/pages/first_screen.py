"""Prepare the first screen of the report: anomalies, changes, data quality.

In:  derived/ of a run, the release and the previous one, the result of the quality checks.
Out: plain values and sentences for the page's template.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import polars as pl
from markupsafe import Markup

from apm_analytics.alerts import thresholds
from apm_analytics.baselines.detection import episodes
from apm_analytics.baselines.training import trained
from apm_analytics.charts import words
from apm_analytics.charts.sparklines import sparkline
from apm_analytics.foundation.frames import read_parquet
from apm_analytics.foundation.settings import Params
from apm_analytics.quality import QualityResult

# The first screen stays short; the notebook 30_anomalies lists everything.
SHOWN = 8
SHOWN_MOVED = 8
DRAWN_H = 24


@dataclass(frozen=True)
class Unusual:
    """One operation outside its bounds, with its worst signal first."""

    service_name: str
    operation: str
    sentences: list[str]
    drawing: Markup
    drawn: str  # the period of the drawing
    together: bool


@dataclass(frozen=True)
class Now:
    """The anomalies of the last hour of the data."""

    scored: bool  # false without a trained model
    until: str = ""
    recent: str = ""
    operations: list[Unusual] = field(default_factory=list)
    more: list[Unusual] = field(default_factory=list)
    brief: int = 0
    series: int = 0
    skipped: int = 0


@dataclass(frozen=True)
class Moved:
    """A threshold that changed between two releases; values are medians over the week."""

    series: str
    bound: str
    before: str
    after: str
    change: str
    up: bool


@dataclass(frozen=True)
class Changes:
    """What changed since the previous release and since the day before."""

    since: str | None  # the run of the previous release
    published: bool
    moved: list[Moved]
    moved_count: int
    series_new: int
    series_gone: int
    series_kept: int
    data: episodes.Changed


@dataclass(frozen=True)
class Quality:
    """The outcome of the data quality checks."""

    known: bool
    passed: bool = True
    total: int = 0
    failed: list[str] = field(default_factory=list)
    warned: list[str] = field(default_factory=list)
    link: str | None = None


def now(derived: Path, params: Params) -> Now:
    """Rank the anomalies of the last `thresholds.anomaly_recent_s` of the data."""
    scores = _frame(derived / "scores.parquet")
    if scores is None or scores.is_empty():
        return Now(scored=False)
    window_s, recent_s = params.features.window_s, params.thresholds.anomaly_recent_s
    recent = episodes.anomalous_now(
        scores,
        window_s=window_s,
        recent_s=recent_s,
        contributions=_frame(derived / "contributions.parquet"),
    )
    lasting = recent.filter("lasting")
    end = episodes.end_of(scores, window_s)
    operations = [
        _unusual(rows, scores, end)
        for _, rows in lasting.group_by(episodes.OPERATION, maintain_order=True)
    ]
    skipped = _frame(derived / "skipped.parquet")
    single = scores.filter(pl.col("signal") != episodes.TOGETHER)
    return Now(
        scored=True,
        until=f"{words.moment(end)} UTC" if end else "",
        recent=words.span(recent_s),
        operations=operations[:SHOWN],
        more=operations[SHOWN:],
        brief=recent.height - lasting.height,
        series=single.select(episodes.SERIES).n_unique(),
        skipped=0 if skipped is None else skipped.filter(outcome="skipped").height,
    )


def _unusual(rows: pl.DataFrame, scores: pl.DataFrame, end: datetime | None) -> Unusual:
    ranked = rows.sort("score", descending=True).to_dicts()
    worst = ranked[0]
    together = worst["signal"] == episodes.TOGETHER
    of_operation = (pl.col("service_name") == worst["service_name"]) & (
        pl.col("operation") == worst["operation"]
    )
    # The forest has no value to draw; the latency of the operation is drawn instead.
    signal = "latency_p95" if together else worst["signal"]
    series = scores.filter(of_operation & (pl.col("signal") == signal))
    return Unusual(
        worst["service_name"],
        worst["operation"],
        [episodes.sentence(episode, end) for episode in ranked],
        sparkline(series, DRAWN_H),
        words.span(min(DRAWN_H * 3_600, _covered_s(series))),
        together,
    )


def _covered_s(series: pl.DataFrame) -> float:
    times = series.filter(pl.col("value").is_not_null())["time"]
    first: Any = times.min()
    last: Any = times.max()
    return float((last - first).total_seconds()) if first is not None else 0.0


def changes(derived: Path, release: Path, previous: Path | None, *, published: bool) -> Changes:
    """Compare with the previous release, and the last day of the data with the days before."""
    features = _frame(derived / "features.parquet")
    data = episodes.Changed(comparable=False) if features is None else episodes.changed(features)
    before = _frame(previous / "thresholds.parquet") if previous else None
    after = _frame(release / "thresholds.parquet") if published else None
    since = str(before["run_id"][0]) if before is not None and before.height else None
    if after is None:
        return Changes(since, False, [], 0, 0, 0, 0, data)
    compared = thresholds.changes(before, after)
    kept = compared.filter(pl.col("change") == "kept")
    moved = trained.moved(compared)
    return Changes(
        since=since,
        published=True,
        moved=[_moved(row) for row in moved.head(SHOWN_MOVED).iter_rows(named=True)],
        moved_count=moved.height,
        series_new=compared.filter(pl.col("change") == "new").height,
        series_gone=compared.filter(pl.col("change") == "gone").height,
        series_kept=kept.height,
        data=data,
    )


def _moved(row: Mapping[str, Any]) -> Moved:
    signal, ratio = row["signal"], row["ratio"]
    up = ratio is None or ratio > 1
    return Moved(
        series=f"{row['service_name']} \u00b7 {row['operation']}",
        bound=f"{words.signal(signal)} {row['bound']}",
        before=words.value(row["before"], signal),
        after=words.value(row["after"], signal),
        change="from 0" if ratio is None else f"{(ratio - 1) * 100:+.0f} %",
        up=up,
    )


def quality(result: Mapping[str, Any] | None, release: Path) -> Quality:
    """Summarise the quality checks; `result` is the content of derived/quality.json."""
    if not result:
        return Quality(known=False)
    checked = QualityResult.model_validate(result)
    return Quality(
        known=True,
        passed=checked.passed,
        total=len(checked.expectations),
        failed=[str(check) for check in checked.failures()],
        warned=[str(check) for check in checked.warnings()],
        link="quality.html" if (release / "quality.html").exists() else None,
    )


def period(derived: Path) -> str | None:
    """Return the period that the data covers, as text."""
    file = derived / "snapshot.json"
    if not file.exists():
        return None
    snapshot = json.loads(file.read_text())
    first, last = (_time(snapshot.get(name)) for name in ("first_time", "last_time"))
    if first is None or last is None:
        return None
    covered = words.span((last - first).total_seconds())
    return f"{words.moment(first)} to {words.moment(last)} {last.year} UTC ({covered})"


def _time(value: object) -> datetime | None:
    try:
        return datetime.fromisoformat(str(value))
    except ValueError:
        return None


def _frame(file: Path) -> pl.DataFrame | None:
    return read_parquet(file) if file.exists() else None
