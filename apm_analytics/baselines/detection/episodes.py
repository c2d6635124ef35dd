"""Episodes of adjacent anomalous windows, and what is new since yesterday.

In:  derived/scores.parquet and derived/features.parquet of a run.
Out: frames and plain sentences about them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import polars as pl

from apm_analytics.charts import words

OPERATION = ["service_name", "operation"]
SERIES = [*OPERATION, "signal"]
TOGETHER = "together"
# An episode continues over one quiet window: a value near its bound flickers.
BRIDGED_WINDOWS = 2
# A single window outside happens by chance; alerts wait too (thresholds.for_s).
LASTING_WINDOWS = 2
DAY = timedelta(days=1)

EPISODE: dict[str, type[pl.DataType] | pl.DataType] = {
    "service_name": pl.String,
    "operation": pl.String,
    "signal": pl.String,
    "start": pl.Datetime("us"),
    "end": pl.Datetime("us"),
    "windows": pl.UInt32,
    "value": pl.Float64,
    "expected": pl.Float64,
    "lower": pl.Float64,
    "upper": pl.Float64,
    "score": pl.Float64,
    "model": pl.String,
    "mainly": pl.String,  # the signal that contributed most; in episodes of the forest only
}


@dataclass(frozen=True)
class Changed:
    """Operations and errors that are new or gone on the last day of the data."""

    new: list[tuple[str, str]] = field(default_factory=list)
    gone: list[tuple[str, str]] = field(default_factory=list)
    new_errors: list[tuple[str, str, int]] = field(default_factory=list)
    comparable: bool = True  # false where the data are shorter than a day


def end_of(scores: pl.DataFrame, window_s: int) -> datetime | None:
    """Return the end of the last window, UTC; None without windows."""
    last: Any = scores["time"].max()
    return None if last is None else last + timedelta(seconds=window_s)


def episodes(
    scores: pl.DataFrame, window_s: int, contributions: pl.DataFrame | None = None
) -> pl.DataFrame:
    """Group adjacent windows outside their bounds into episodes.

    Parameters
    ----------
    scores : derived/scores.parquet.
    window_s : the length of a window, params.yaml `features.window_s`.
    contributions : derived/contributions.parquet, what each signal added to the forest's score.

    Returns
    -------
    A frame with `EPISODE`: value, bounds and model are those of the last window outside, score
    is the highest. Sorted by score, the highest first.
    """
    outside = scores.filter(pl.col("score") > 1).sort(*SERIES, "time")
    if outside.is_empty():
        return pl.DataFrame(schema=EPISODE)
    outside = _with_main_signal(outside, contributions)
    apart = pl.col("time").diff().over(SERIES) > pl.duration(seconds=BRIDGED_WINDOWS * window_s)
    grouped = (
        outside.with_columns(apart.fill_null(True).cum_sum().over(SERIES).alias("number"))
        .group_by(*SERIES, "number")
        .agg(
            start=pl.col("time").first(),
            end=pl.col("time").last() + pl.duration(seconds=window_s),
            windows=pl.len(),
            **{name: pl.col(name).last() for name in ("value", "expected", "lower", "upper")},
            score=pl.col("score").max(),
            model=pl.col("model").last(),
            mainly=pl.col("mainly").drop_nulls().mode().sort().first(),
        )
    )
    return grouped.select(pl.col(name).cast(kind) for name, kind in EPISODE.items()).sort(
        "score", *SERIES, "start", descending=[True, False, False, False, False]
    )


def without_single_windows(scores: pl.DataFrame, window_s: int) -> pl.DataFrame:
    """Lower to 1 the score of every window outside its bounds without another one near it.

    Among thousands of windows a few are outside by chance; drawn over weeks, they would hide the
    lasting episodes.
    """
    reach = pl.duration(seconds=BRIDGED_WINDOWS * window_s)
    outside = scores.filter(pl.col("score") > 1).sort(*SERIES, "time")
    gap = pl.col("time").diff().over(SERIES) <= reach
    following = pl.col("time").diff().shift(-1).over(SERIES) <= reach
    single = outside.filter(~gap.fill_null(False) & ~following.fill_null(False))
    return (
        scores.join(
            single.select(*SERIES, "time", single=True),
            on=[*SERIES, "time"],
            how="left",
            maintain_order="left",
        )
        .with_columns(pl.when("single").then(1.0).otherwise("score").alias("score"))
        .drop("single")
    )


def anomalous_now(
    scores: pl.DataFrame,
    *,
    window_s: int,
    recent_s: float,
    contributions: pl.DataFrame | None = None,
) -> pl.DataFrame:
    """Return the episodes that reach into the last `recent_s` of the data, one per series.

    Parameters
    ----------
    recent_s : params.yaml `thresholds.anomaly_recent_s`.

    Returns
    -------
    Episodes with `lasting`: at least `LASTING_WINDOWS` windows. A series with several keeps the
    last one, preferably a lasting one. Where a single signal is outside, the forest's row of that
    operation is left out as a repetition.
    """
    end = end_of(scores, window_s)
    recent = episodes(scores, window_s, contributions)
    if end is None:
        return recent.with_columns(lasting=pl.lit(True))
    recent = recent.filter(pl.col("end") > end - timedelta(seconds=recent_s)).with_columns(
        lasting=pl.col("windows") >= LASTING_WINDOWS
    )
    recent = recent.sort("lasting", "end").group_by(SERIES, maintain_order=True).last()
    single = recent.filter(pl.col("signal") != TOGETHER, pl.col("lasting"))
    forest = recent.filter(pl.col("signal") == TOGETHER).join(single, on=OPERATION, how="anti")
    others = recent.filter(pl.col("signal") != TOGETHER)
    return pl.concat([others, forest]).sort(
        "lasting", "score", *SERIES, descending=[True, True, False, False, False]
    )


def without_repeats(episodes: pl.DataFrame) -> pl.DataFrame:
    """Drop episodes of the forest that overlap one of a signal of the same operation."""
    single = episodes.filter(pl.col("signal") != TOGETHER)
    both = episodes.filter(pl.col("signal") == TOGETHER).join(
        single, on=OPERATION, suffix="_single"
    )
    again = both.filter(
        pl.col("start") < pl.col("end_single"), pl.col("end") > pl.col("start_single")
    )
    return episodes.join(again, on=[*SERIES, "start"], how="anti", maintain_order="left")


def sentence(episode: Mapping[str, Any], now: datetime | None = None) -> str:
    """Describe an episode: "p95 1.9 s, expected 0.42 s (upper 0.61 s) for 40 min".

    Parameters
    ----------
    episode : one row of `episodes`.
    now : the end of the data; for an episode that ended earlier, the text names its end.
    """
    signal = episode["signal"]
    lasted = words.span((episode["end"] - episode["start"]).total_seconds())
    until = "" if now is None or episode["end"] >= now else f" until {words.moment(episode['end'])}"
    if signal == TOGETHER or episode["value"] is None:
        mainly = episode.get("mainly")
        most = f", mainly its {words.signal(mainly)}" if mainly else ""
        return f"unusual as a whole{most} (score {episode['score']:.1f}) for {lasted}{until}"
    low = episode["lower"] is not None and episode["value"] < episode["lower"]
    bound = "lower" if low else "upper"
    value = words.value(episode["value"], signal)
    expected = words.value(episode["expected"], signal)
    limit = words.value(episode[bound], signal)
    return (
        f"{words.signal(signal)} {value}, expected {expected} ({bound} {limit}) for {lasted}{until}"
    )


def why(episodes: pl.DataFrame) -> pl.DataFrame:
    """Return episodes as a table for the report: when, how long, and why in a sentence."""
    rows = [
        {
            "service": row["service_name"],
            "operation": row["operation"],
            "from (UTC)": _unbroken(words.moment(row["start"])),
            "lasted": _unbroken(words.span((row["end"] - row["start"]).total_seconds())),
            "score": round(row["score"], 1),
            "why": sentence(row).rsplit(" for ", 1)[0],
        }
        for row in episodes.iter_rows(named=True)
    ]
    columns = ("service", "operation", "from (UTC)", "lasted", "score", "why")
    return pl.DataFrame(rows) if rows else pl.DataFrame(schema=dict.fromkeys(columns, pl.String))


def changed(features: pl.DataFrame) -> Changed:
    """Compare the last day of the data with the time before.

    New: no request before the last day. Gone: requests on the day before, none on the last.
    New errors: the first ones of an operation that had requests before.
    """
    if features.is_empty():
        return Changed(comparable=False)
    first: Any = features["time"].min()
    last: Any = features["time"].max()
    if last - first <= DAY:
        return Changed(comparable=False)
    time = pl.col("time")
    in_last, in_before = time > last - DAY, (time <= last - DAY) & (time > last - 2 * DAY)
    counts = (
        features.group_by(OPERATION)
        .agg(
            today=pl.col("count").filter(in_last).sum(),
            yesterday=pl.col("count").filter(in_before).sum(),
            before=pl.col("count").filter(~in_last).sum(),
            errors=pl.col("error_count").filter(in_last).sum(),
            errors_before=pl.col("error_count").filter(~in_last).sum(),
        )
        .sort(OPERATION)
    )
    failing = counts.filter(
        pl.col("before") > 0, pl.col("errors") > 0, pl.col("errors_before") == 0
    )
    return Changed(
        new=_pairs(counts.filter(pl.col("today") > 0, pl.col("before") == 0)),
        gone=_pairs(counts.filter(pl.col("today") == 0, pl.col("yesterday") > 0)),
        new_errors=[
            (row[0], row[1], int(row[2])) for row in failing.select(*OPERATION, "errors").rows()
        ],
    )


def _with_main_signal(outside: pl.DataFrame, contributions: pl.DataFrame | None) -> pl.DataFrame:
    if contributions is None or contributions.is_empty():
        return outside.with_columns(mainly=pl.lit(None, pl.String))
    signals = [name for name in contributions.columns if name not in {*OPERATION, "time", "score"}]
    named = (
        contributions.unpivot(signals, index=[*OPERATION, "time"], variable_name="mainly")
        .filter(pl.col("value").is_not_null())
        .sort("value", maintain_order=True)
        .group_by(*OPERATION, "time")
        .agg(pl.col("mainly").last())
        .with_columns(signal=pl.lit(TOGETHER))
    )
    return outside.join(named, on=[*SERIES, "time"], how="left", maintain_order="left")


def _unbroken(text: str) -> str:
    return text.replace(" ", "\u00a0")


def _pairs(frame: pl.DataFrame) -> list[tuple[str, str]]:
    return [(row[0], row[1]) for row in frame.select(OPERATION).rows()]
