"""Render thresholds in Prometheus' text format, for node-exporter's textfile collector.

In:  thresholds of one run, one row per (service, operation, signal, bound, hour of the week).
Out: the text of apm_thresholds.prom: 168 gauges per bound, and their provenance. A threshold that
     the gate does not publish is left out; the static alert stands in for it unless
     apm_alert_off says that this one is over the budget too.

The text is not written by prometheus_client: that sorts labels and writes times as 1.7e+09, which
changes every published line, and took 0.66 s for 31,000 lines instead of 0.32 s.
"""

from collections.abc import Iterator

import polars as pl

from apm_analytics.alerts.gate.history import NONE
from apm_analytics.alerts.gate.judge import NOT_WATCHED
from apm_analytics.signals import SERIES

HELP = {
    "apm_baseline_expected": "Expected value of the signal in this hour of the week "
    "(0 = Sunday 00:00 UTC), in its base unit.",
    "apm_baseline_lower": "Below it the sustained signal alerts in this hour of the week "
    "(0 = Sunday 00:00 UTC), in its base unit.",
    "apm_baseline_upper": "Above it the sustained signal alerts in this hour of the week "
    "(0 = Sunday 00:00 UTC), in its base unit.",
    "apm_threshold_pages_per_week": "How often the alert would have fired over the weeks before, "
    "replayed with thresholds trained on earlier weeks.",
    "apm_threshold_unproven": "The alert in force met no incident in the replayed weeks; always 1.",
    "apm_alert_off": "No alert keeps the budget of false pages, so none pages; always 1.",
    "apm_baseline_info": "Where the baseline of this signal comes from; always 1.",
    "apm_baseline_trained_timestamp_seconds": "When the baselines were trained, Unix time.",
}


def text(thresholds: pl.DataFrame) -> str:
    """Return thresholds as Prometheus text.

    Parameters
    ----------
    thresholds : as `alerts.thresholds.thresholds` returns them, of one run.

    Returns
    -------
    Text format 0.0.4, in UTF-8 when written; the same thresholds give the same text.
    """
    lines: list[str] = []
    hours = [*SERIES, "hour_of_week"]
    expected = thresholds.unique(hours).select(*hours, value="expected")
    lines += _metric("apm_baseline_expected", _hourly(expected))
    for bound in ("lower", "upper"):
        rows = thresholds.filter(pl.col("bound") == bound, "published").select(*hours, "value")
        lines += _metric(f"apm_baseline_{bound}", _hourly(rows))
    lines += _metric("apm_threshold_pages_per_week", _pages(thresholds.filter("published")))
    lines += _metric("apm_threshold_unproven", _marks(thresholds.filter("unproven")))
    off = thresholds.filter(pl.col("judgement") != NOT_WATCHED, candidate=NONE)
    lines += _metric("apm_alert_off", _marks(off))
    lines += _metric("apm_baseline_info", _infos(thresholds))
    trained = thresholds.select(pl.col("trained_at").dt.epoch("ms").max() / 1000).item()
    lines += _metric("apm_baseline_trained_timestamp_seconds", iter([({}, float(trained))]))
    return "\n".join(lines) + "\n"


def escape(value: str) -> str:
    """Escape a label value: backslash, quote and newline."""
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _metric(name: str, samples: Iterator[tuple[dict[str, str], float]]) -> Iterator[str]:
    first = True
    for labels, value in samples:
        if first:  # a metric without samples has no head
            yield f"# HELP {name} {HELP[name]}"
            yield f"# TYPE {name} gauge"
            first = False
        pairs = ",".join(f'{label}="{escape(text)}"' for label, text in labels.items())
        yield f"{name}{{{pairs}}} {value!r}" if pairs else f"{name} {value!r}"


def _hourly(rows: pl.DataFrame) -> Iterator[tuple[dict[str, str], float]]:
    for service, operation, signal, hour, value in rows.sort(*SERIES, "hour_of_week").iter_rows():
        yield (
            {
                "service": service,
                "operation": operation,
                "signal": signal,
                "hour_of_week": str(hour),
            },
            value,
        )


def _pages(thresholds: pl.DataFrame) -> Iterator[tuple[dict[str, str], float]]:
    columns = [*SERIES, "bound"]
    rows = thresholds.filter(pl.col("pages_per_week").is_not_null())
    for *key, pages in rows.select(*columns, "pages_per_week").unique().sort(columns).iter_rows():
        yield dict(zip(["service", *columns[1:]], key, strict=True)), pages


def _marks(thresholds: pl.DataFrame) -> Iterator[tuple[dict[str, str], float]]:
    columns = [*SERIES, "bound"]
    for key in thresholds.select(columns).unique().sort(columns).iter_rows():
        yield dict(zip(["service", *columns[1:]], key, strict=True)), 1.0


def _infos(thresholds: pl.DataFrame) -> Iterator[tuple[dict[str, str], float]]:
    columns = [*SERIES, "unit", "model", "run_id", "git_commit", "data_hash"]
    for row in thresholds.select(columns).unique().sort(columns).iter_rows():
        yield dict(zip(["service", *columns[1:]], row, strict=True)), 1.0
