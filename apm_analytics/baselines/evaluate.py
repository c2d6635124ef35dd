"""Score every baseline on days it has not seen, beside simpler peers.

In:  the features.
Out: `Evaluation`: nested metrics, coverage by series, and the forecast of a middling series.

The last days are held out, the same training as always runs on what is before them, and its
bounds meet the held-out windows, incidents and all. Peers: robust bounds and seasonal naive.
"""

from dataclasses import dataclass, field
from datetime import timedelta

import numpy as np
import polars as pl

from apm_analytics.analyze.signals import OPERATION, SIGNALS, Schema
from apm_analytics.baselines import training
from apm_analytics.baselines.band import Baseline
from apm_analytics.baselines.robust import RobustBaseline
from apm_analytics.baselines.seasonal import SeasonalNaiveBaseline
from apm_analytics.baselines.series import DAY_S, Series, of_operation, operations
from apm_analytics.baselines.training import FOREST, Trained
from apm_analytics.errors import NotEnoughData
from apm_analytics.settings import BaselineParams

# Without a season to spare, this share of the history is held out.
SHORT_HOLDOUT_RATIO = 0.25
# Of the held-out windows of a series, at least this many must have a value.
MIN_SCORED = 6
# What is published: Prophet or robust bounds, whichever a series got.
PUBLISHED = "published"
SCORED_SCHEMA: Schema = {
    **dict.fromkeys((*OPERATION, "signal", "model"), pl.String),
    **dict.fromkeys(("coverage", "mae", "mape", "width"), pl.Float64),
}
FORECAST_SCHEMA: Schema = {
    "hour": pl.Float64,
    **dict.fromkeys(("value", "expected", "lower", "upper"), pl.Float64),
}


@dataclass
class Evaluation:
    """What the held-out days say.

    Parameters
    ----------
    holdout_days : days held out.
    note : in words, which history was used and what it could not show.
    metrics : model -> signal -> {n_series, coverage, mae, mape, width}; `mape` not of ratios.
    scored : one row per series and model, with `SCORED_SCHEMA`.
    forecasts : signal -> the held-out days of its series with the median error.
    """

    holdout_days: float
    note: str
    metrics: dict[str, dict[str, dict[str, float]]] = field(default_factory=dict)
    scored: pl.DataFrame = field(default_factory=lambda: pl.DataFrame(schema=SCORED_SCHEMA))
    forecasts: dict[str, pl.DataFrame] = field(default_factory=dict)


def evaluate(
    features: pl.DataFrame,
    params: BaselineParams,
    *,
    window_s: float,
    seed: int,
    progress: bool = False,
) -> Evaluation:
    """Train without the last days and score on them.

    Parameters
    ----------
    features : as `analyze.signals.features` gives them.
    params : the numbers of params.yaml; `holdout_days` of them are held out, less when the
        rest would be too short for a season.
    window_s : length of a window, in seconds.
    seed : as in training.
    progress : show a progress bar.

    Raises
    ------
    NotEnoughData
        There are no features, or too few to hold any out.
    """
    if features.is_empty():
        raise NotEnoughData("there are no features to evaluate; import more telemetry")
    days = history_days(features, window_s)
    holdout = _holdout_days(days, params)
    note = f"{days:.1f} days of history, the last {holdout:.1f} held out"
    if days - holdout < params.min_season_days:
        note += (
            f"; without them it is shorter than baselines.min_season_days = "
            f"{params.min_season_days:g}, so only bounds without a season could be evaluated"
        )
    last = features["time"].max()
    assert last is not None
    cut = last + timedelta(seconds=window_s) - timedelta(days=holdout)  # type: ignore[operator]
    before = features.filter(pl.col("time") < cut)
    trained = training.train(
        before, params, window_s=window_s, seed=seed, only_models=True, progress=progress
    )
    held_out = {
        part.select(OPERATION).row(0): part
        for part in operations(features.filter(pl.col("time") >= cut))
    }
    rows: list[tuple[object, ...]] = []
    flagged: list[float] = []
    for part in operations(before):
        history = of_operation(part, window_s)
        key = history[0].key[:2]
        if key not in held_out:
            continue
        future = of_operation(held_out[key], window_s)
        for past, coming in zip(history, future, strict=True):
            for name, baseline in _competitors(past, trained, params).items():
                scored = _score(baseline, coming)
                if scored is not None:
                    rows.append((*coming.key, name, *scored))
        forest = trained.forests.get(key)
        if forest is not None:
            _, deviations, _ = training.deviations_of(future, trained.baselines)
            score = forest.predict(deviations)
            flagged.append(float(np.mean(score[np.isfinite(score)] > 1.0)))
    scored_frame = pl.DataFrame(rows, schema=SCORED_SCHEMA, orient="row")
    if scored_frame.is_empty():
        raise NotEnoughData(
            f"no operation has {MIN_SCORED} windows with a value in the last {holdout:.2f} days; "
            "import more telemetry"
        )
    result = Evaluation(holdout, note, _metrics(scored_frame), scored_frame)
    if flagged:
        result.metrics[FOREST] = {
            "together": {"n_series": len(flagged), "flagged": _rounded(float(np.mean(flagged)))}
        }
    for signal in SIGNALS:
        middle = _middling(scored_frame, signal)
        if middle is not None:
            coming = next(
                one for one in of_operation(held_out[middle], window_s) if one.signal == signal
            )
            result.forecasts[signal] = _forecast(trained.baselines[coming.key], coming)
    return result


def history_days(features: pl.DataFrame, window_s: float) -> float:
    """Give the days from the first to the end of the last window of any operation."""
    first, last = features["time"].min(), features["time"].max()
    assert first is not None and last is not None
    length: timedelta = last - first  # type: ignore[operator,assignment]
    return (length.total_seconds() + window_s) / DAY_S


def _holdout_days(days: float, params: BaselineParams) -> float:
    """Hold out what the season can spare, a quarter of the history if it cannot spare a day."""
    spare = min(params.holdout_days, days - params.min_season_days)
    return spare if spare >= 1.0 else min(days * SHORT_HOLDOUT_RATIO, params.holdout_days)


def _competitors(past: Series, trained: Trained, params: BaselineParams) -> dict[str, Baseline]:
    """Give every baseline that this series has: the published one under both its names."""
    found: dict[str, Baseline] = {}
    published = trained.baselines.get(past.key)
    if published is None:
        return found
    found[PUBLISHED] = published
    if published.model != RobustBaseline.model:
        found[published.model] = published
    found[RobustBaseline.model] = RobustBaseline.fit(
        past,
        deviations=params.robust_deviations,
        min_windows=params.min_windows,
        knows_week=past.days >= params.min_season_days,
    )
    try:
        found[SeasonalNaiveBaseline.model] = SeasonalNaiveBaseline.fit(
            past, level=params.level, min_windows=params.min_windows
        )
    except NotEnoughData:
        # A peer without two weeks of history; metrics show it by its number of series.
        return found
    return found


def _score(baseline: Baseline, coming: Series) -> tuple[float | None, ...] | None:
    """Give coverage, mean absolute error, the same in percent, and the width of the bounds."""
    band = baseline.predict(coming.times)
    known = coming.known & np.isfinite(band.expected)
    if known.sum() < MIN_SCORED:
        return None
    values = coming.values[known]
    error = np.abs(values - band.expected[known])
    inside = (values >= band.lower[known]) & (values <= band.upper[known])
    # Percent of nothing says nothing: windows without requests or failures are left out.
    some = values > 0
    mape = float(np.mean(error[some] / values[some])) if some.any() else None
    return (
        float(np.mean(inside)),
        float(np.mean(error)),
        None if coming.signal == "error_ratio" else mape,
        float(np.mean(band.upper[known] - band.lower[known])),
    )


def _metrics(scored: pl.DataFrame) -> dict[str, dict[str, dict[str, float]]]:
    summed = (
        scored.group_by("model", "signal")
        .agg(
            pl.len().alias("n_series"),
            pl.col("coverage").mean(),
            pl.col("coverage").min().alias("coverage_worst"),
            pl.col("mae", "mape", "width").median(),
        )
        .sort("model", "signal")
    )
    metrics: dict[str, dict[str, dict[str, float]]] = {}
    for row in summed.iter_rows(named=True):
        values = {
            name: _rounded(row[name])
            for name in ("n_series", "coverage", "coverage_worst", "mae", "mape", "width")
            if row[name] is not None
        }
        metrics.setdefault(row["model"], {})[row["signal"]] = values
    return metrics


def _middling(scored: pl.DataFrame, signal: str) -> tuple[str, ...] | None:
    """Name the operation whose error is the median one."""
    published = scored.filter(signal=signal, model=PUBLISHED).sort("mae", *OPERATION)
    if published.is_empty():
        return None
    return published.select(OPERATION).row(len(published) // 2)


def _forecast(baseline: Baseline, coming: Series) -> pl.DataFrame:
    band = baseline.predict(coming.times)
    hours = (coming.times - coming.times[0]) / np.timedelta64(3600, "s")
    return pl.DataFrame(
        {
            "hour": hours,
            "value": coming.values,
            "expected": band.expected,
            "lower": band.lower,
            "upper": band.upper,
        },
        schema=FORECAST_SCHEMA,
        nan_to_null=True,
    )


def _rounded(value: float) -> float:
    """Keep six digits: more are noise in a diff of metrics."""
    return value if isinstance(value, int) else float(f"{value:.6g}")
