"""One series fitted by the Prophet library with all it offers, beside the batched solver.

In:  the features of a run, the series, the calendar.
Out: `Comparison`: curves, components, forecasts of held-out days, and how far the solvers differ.

All values are on the scale of the fit (`scales.Scale.to_fit`), on the grid of the nightly.
"""

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from apm_analytics.baselines.models import prophet, prophet_library
from apm_analytics.baselines.models.season import Season
from apm_analytics.baselines.models.series import DAY_S, Floats, Times
from apm_analytics.baselines.training import fitting, masks
from apm_analytics.baselines.training.backtest import SEASONS
from apm_analytics.baselines.training.evaluate import history_days
from apm_analytics.baselines.training.fleet import fleets
from apm_analytics.foundation.settings import Settings
from apm_analytics.signals import OPERATION, SIGNALS, Calendar

if TYPE_CHECKING:
    import pandas as pd
    from prophet import Prophet

COMPLETE, PLAIN, BATCHED = "prophet, complete", "prophet, plain", "batched"
ADDED = "extra_regressors_additive"
# Held-out days; the library is fitted twice for each, 0.5 s per fit.
MOST_DAYS = 4


@dataclass(frozen=True)
class Comparison:
    """The fits of one series.

    Parameters
    ----------
    service, operation, signal : the series.
    reason : why there is no fit; empty otherwise, and the frames are empty with a reason.
    curves : time, value, and one column per model (`COMPLETE`, `PLAIN`, `BATCHED`).
    components : time, component, effect; of the complete model.
    changepoints : time, change; where the library let the trend change.
    forecasts : time, value, model, forecast; every held-out day from the days before it.
    difference : largest distance of the batched curve from the plain one, relative to the
        largest absolute value of the series.
    """

    service: str
    operation: str
    signal: str
    reason: str = ""
    curves: pl.DataFrame = field(default_factory=pl.DataFrame)
    components: pl.DataFrame = field(default_factory=pl.DataFrame)
    changepoints: pl.DataFrame = field(default_factory=pl.DataFrame)
    forecasts: pl.DataFrame = field(default_factory=pl.DataFrame)
    difference: float = 0.0

    @property
    def errors(self) -> pl.DataFrame:
        """Mean absolute and root mean square error of each model on the held-out days."""
        if self.reason:
            return pl.DataFrame(schema={"model": pl.String, "MAE": pl.Float64, "RMSE": pl.Float64})
        error = pl.col("forecast") - pl.col("value")
        return (
            self.forecasts.group_by("model")
            .agg(MAE=error.abs().mean(), RMSE=(error**2).mean().sqrt())
            .sort("MAE")
        )


def busiest(features: pl.DataFrame) -> tuple[str, str]:
    """Return service and operation with the most requests."""
    counts = features.group_by(OPERATION).agg(pl.col("count").sum())
    row = counts.sort("count", *OPERATION, descending=[True, False, False]).row(0)
    return str(row[0]), str(row[1])


def compare(
    features: pl.DataFrame,
    settings: Settings,
    calendar: Calendar,
    *,
    service: str = "",
    operation: str = "",
    signal: str = "latency_p95",
    country: str = "",
) -> Comparison:
    """Fit one series with the library and with the batched solver.

    Parameters
    ----------
    features : derived/features.parquet.
    calendar : its entries become holidays of the complete model, beside being masked.
    service, operation : the busiest operation by default.
    signal : one of `SIGNALS`; the others become extra regressors of the complete model.
    country : ISO code whose public holidays the complete model knows; empty for none.
    """
    if not (service and operation):
        service, operation = busiest(features)
    rows = features.filter(service_name=service, operation=operation)
    if rows.is_empty():
        return Comparison(service, operation, signal, "the features have no such operation")
    params, window_s = settings.params.baselines, settings.params.features.window_s
    days = history_days(rows, window_s)
    if days < params.min_season_days + 1:
        return Comparison(
            service,
            operation,
            signal,
            f"{days:.1f} days of history, a season needs {params.min_season_days:g} and a day to "
            "forecast; import more telemetry",
        )
    masked = masks.windows(rows, calendar, window_s=window_s, settling_s=params.settling_s)
    chunk = next(fleets(rows, window_s, masked=masked)[1])
    grids = {
        fleet.signal: fitting.points(
            fleet, np.where(fleet.may_teach, fleet.values, np.nan), params.fit_grid_s
        )
        for fleet in masks.without_disturbed(chunk, params)
    }
    times, values = grids[signal].times, grids[signal].values[0]
    regressors = {
        SIGNALS[name].title: _filled(points.values[0])
        for name, points in grids.items()
        if name != signal and np.nanstd(points.values[0]) > 0
    }
    frame = _frame(times, values, regressors)
    seasons = prophet_library.shown([Season(*season) for season in SEASONS], times, values)
    holidays = _events(calendar, service, operation)

    def complete() -> "Prophet":
        model = prophet_library.new(
            seasons, tau=params.tau, prior=params.prior, holidays=holidays, uncertainty_samples=0
        )
        if country:
            model.add_country_holidays(country)
        for name in regressors:
            model.add_regressor(name)
        return model

    def plain() -> "Prophet":
        return prophet_library.new(
            seasons, tau=params.tau, prior=params.prior, uncertainty_samples=0
        )

    def batched(until: np.datetime64 | None, at: Times) -> Floats:
        kept = slice(None) if until is None else times <= until
        fitted = prophet.fit_batch(
            times[kept], values[None, kept], seasons, params.tau, params.prior
        )
        expected: Floats = prophet.predict(fitted, at)[0]
        return expected

    known = frame.dropna()
    full = prophet_library.fit(complete(), known)
    bare = prophet_library.fit(plain(), known)
    with prophet_library.quiet():
        parts, alone = full.predict(frame), bare.predict(frame)
    curves = pl.DataFrame(
        {
            "time": times,
            "value": values,
            COMPLETE: parts["yhat"].to_numpy(),
            PLAIN: alone["yhat"].to_numpy(),
            BATCHED: batched(None, times),
        },
        nan_to_null=True,
    )
    forecasts = []
    for cut in _cuts(times, min(params.backtest_days, MOST_DAYS), params.min_season_days):
        past, day = times <= cut, (times > cut) & (times <= cut + np.timedelta64(1, "D"))
        ahead = {BATCHED: batched(cut, times[day])}
        for name, model in ((COMPLETE, complete()), (PLAIN, plain())):
            fitted = prophet_library.fit(model, frame[past].dropna())
            with prophet_library.quiet():
                ahead[name] = fitted.predict(frame[day])["yhat"].to_numpy()
        forecasts += [
            pl.DataFrame({"time": times[day], "value": values[day], "forecast": expected})
            .with_columns(model=pl.lit(name))
            .drop_nans()
            for name, expected in ahead.items()
        ]
    changepoints = np.asarray(full.changepoints, dtype="datetime64[us]")
    largest = float(np.nanmax(np.abs(values)))
    return Comparison(
        service,
        operation,
        signal,
        curves=curves,
        components=_components(times, parts, [season.name for season in seasons]),
        changepoints=pl.DataFrame(
            {
                "time": changepoints,
                "change": np.asarray(full.params["delta"])[0][: changepoints.size],
            }
        ),
        forecasts=pl.concat(forecasts),
        difference=float((curves[BATCHED] - curves[PLAIN]).abs().max() or 0.0) / largest,  # type: ignore[arg-type]
    )


def _filled(values: Floats) -> Floats:
    """Replace missing values of a regressor by its median: the library takes none."""
    return np.where(np.isnan(values), np.nanmedian(values), values)


def _frame(times: Times, values: Floats, regressors: dict[str, Floats]) -> "pd.DataFrame":
    import pandas as pd

    return pd.DataFrame({"ds": times, "y": values, **regressors})


def _events(calendar: Calendar, service: str, operation: str) -> "pd.DataFrame | None":
    """Return the calendar's entries of a series as the days on which the library expects them."""
    import pandas as pd

    rows = [
        {"holiday": entry.kind, "ds": day}
        for entry in calendar
        if entry.concerns(service, operation)
        for day in pd.date_range(entry.start.date(), entry.end.date())
    ]
    return pd.DataFrame(rows).drop_duplicates() if rows else None


def _cuts(times: Times, days: int, least_days: float) -> list[np.datetime64]:
    """Return the ends of the histories that the last days are forecast from."""
    first = times[0] + np.timedelta64(int(least_days * DAY_S), "s")
    cuts = [times[-1] - np.timedelta64(back, "D") for back in range(days, 0, -1)]
    return [cut for cut in cuts if cut >= first]


def _components(times: Times, parts: "pd.DataFrame", seasons: Collection[str]) -> pl.DataFrame:
    columns = {"trend": "trend", "holidays": "holidays", ADDED: "extra regressors"}
    columns |= {name: f"{name} season" for name in seasons}
    return pl.concat(
        pl.DataFrame({"time": times, "effect": parts[column].to_numpy()}).with_columns(
            component=pl.lit(title)
        )
        for column, title in columns.items()
        if column in parts
    )
