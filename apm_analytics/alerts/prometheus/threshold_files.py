"""Render thresholds as the files of a release: Parquet, Prometheus textfile, rules and their tests.

In:  thresholds of one training run (`alerts.thresholds`), specs/signals.yaml, the params.
Out: the content of thresholds.parquet and of prometheus/ by path, for `publication.fill`.
"""

import io
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl

from apm_analytics.alerts import thresholds as thresholds_of
from apm_analytics.alerts.prometheus import exporter, rule_tests, rules, signal_specs
from apm_analytics.alerts.prometheus.signal_specs import SignalSpec
from apm_analytics.alerts.thresholds import BOUND, SHOWN
from apm_analytics.foundation.errors import ApmError, BadInput
from apm_analytics.foundation.settings import Params

# Clocks of two machines may differ by this much before "trained in the future" is an error.
CLOCK_SKEW_S = 300.0


def files(
    thresholds: pl.DataFrame,
    specs: Path,
    params: Params,
    *,
    runs: str,
    now: datetime | None = None,
) -> dict[str, bytes]:
    """Return the files of thresholds by their path in a release.

    Parameters
    ----------
    thresholds : as `alerts.thresholds.thresholds` returns them, in any order.
    specs : the folder with signals.yaml, or the file itself.
    params : the numbers of params.yaml.
    runs : folder of the executed notebooks for links in alerts, see `publication.runs`.
    now : the time at which the age of the thresholds is checked; the clock's by default.

    Raises
    ------
    BadInput
        The thresholds are not whole (see `alerts.thresholds.check`), come from several training
        runs, or are in another unit than the spec.
    ApmError
        They were trained longer ago than thresholds.max_age_s, or in the future.
    """
    frame = thresholds.sort(*BOUND, "hour_of_week") if len(thresholds) else thresholds
    thresholds_of.check(frame)
    _check_provenance(frame, params, now or datetime.now(UTC))
    signals = signal_specs.load(specs)
    _check_units(frame, signals)
    parquet = io.BytesIO()
    frame.write_parquet(parquet, compression="zstd")
    documents = {
        f"rules/{rules.FILE_NAME}": rules.document(signals, params, runs),
        f"tests/{rule_tests.FILE_NAME}": rule_tests.document(
            signals, params, runs, frame.filter("published")
        ),
        f"tests/{rule_tests.WEEK_FILE_NAME}": rule_tests.week_document(signals),
    }
    head = origin(frame)
    return {
        "thresholds.parquet": parquet.getvalue(),
        "prometheus/apm_thresholds.prom": exporter.text(frame).encode(),
        **{
            f"prometheus/{name}": rules.as_yaml(document, head).encode()
            for name, document in documents.items()
        },
    }


def origin(thresholds: pl.DataFrame) -> dict[str, str]:
    """Return run id, git commit and data hash of the newest training run, for heads of files."""
    newest = thresholds.filter(pl.col("trained_at") == pl.col("trained_at").max())
    return {key: str(newest[key][0]) for key in ("run_id", "git_commit", "data_hash")}


def _check_provenance(frame: pl.DataFrame, params: Params, now: datetime) -> None:
    """Refuse thresholds of several training runs, too old ones, and ones from the future."""
    max_age_s, keep_days = params.thresholds.max_age_s, params.gate.keep_days
    newest = frame["trained_at"].max()
    of_now = frame.filter(pl.col("trained_at").eq_missing(newest))
    older = frame.filter(pl.col("trained_at").ne_missing(newest))
    for column in ("run_id", "git_commit", "data_hash", "trained_at"):
        values = of_now[column].unique().to_list()
        if len(values) != 1 or values[0] is None:
            raise BadInput(
                f"thresholds hold the {column}s {sorted(map(str, values))[:SHOWN]}, need one: "
                "publish the bounds of one training run"
            )
    too_old = older.filter(
        (pl.lit(newest) - pl.col("trained_at") > timedelta(days=keep_days)).fill_null(True)
    )
    thresholds_of.refuse(
        too_old, BOUND, f"an age over {keep_days:g} days (gate.keep_days)", ("trained_at",)
    )
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
