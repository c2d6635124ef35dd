"""Seasonal baselines: Prophet on a coarse grid, bounds from the errors of the fine windows.

In:  the history of one signal of one operation, some weeks long.
Out: `ProphetBaseline`; its parameters as rows of a frame, enough to predict again without
     Prophet, its history or a pickle.

The library itself fits (MAP, linear growth, daily and weekly Fourier terms) [1]_; predicting is
arithmetic on its parameters, so that a report need not import it (3 s).

References
----------
.. [1] Taylor and Letham, Forecasting at Scale, The American Statistician 2018.
"""

import logging
import warnings
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import polars as pl

from apm_analytics.analyze.signals import Schema
from apm_analytics.baselines.band import Band
from apm_analytics.baselines.calibration import Calibration, calibrate, quiet_windows
from apm_analytics.baselines.scales import Floats, Scale, scale_of
from apm_analytics.baselines.series import (
    DAY_S,
    Series,
    Times,
    group_medians,
    require_windows,
    seconds,
)
from apm_analytics.errors import ApmError, NotEnoughData

# (name, period in days, Fourier order), in the order of `beta`. More terms than Prophet's own 3
# and 4: a shop's day has a morning, a lunch and an evening, its weekend begins within hours.
SEASONS = (("weekly", 7.0, 6), ("daily", 1.0, 6))
# A season needs values over the day and the week; nights without traffic are allowed.
MIN_FILLED_RATIO = 0.25
# A grid that repeats one value more often than this has no season to learn.
MAX_SAME_RATIO = 0.9
# The fit is repeated without the masked windows when they fill this many slots.
REFIT_SLOTS = 2
# The curve may leave the range of what was seen by this share of it, not more.
RANGE_MARGIN = 0.25


@dataclass(frozen=True)
class ProphetBaseline:
    """Prophet's curve of one series and the bounds around it.

    Parameters
    ----------
    signal, window_s : what was fitted.
    start_s, span_s : start (seconds since 1970) and length in seconds of the fitted history.
    center : taken off before the fit, on the model's scale.
    y_scale, k, m, delta, changepoints, beta, sigma : Prophet's own parameters.
    least, most : the curve is kept between these, on the model's scale.
    calibration : spread and quantiles of the residuals.
    """

    signal: str
    window_s: float
    start_s: float
    span_s: float
    center: float
    y_scale: float
    k: float
    m: float
    delta: Floats
    changepoints: Floats
    beta: Floats
    sigma: float
    least: float
    most: float
    calibration: Calibration
    model: ClassVar[str] = "prophet"
    reason: ClassVar[str] = ""

    @classmethod
    def fit(
        cls,
        series: Series,
        *,
        level: float,
        grid_s: float,
        changepoint_prior_scale: float,
        min_days: float,
        min_windows: int,
        seed: int,
    ) -> "ProphetBaseline":
        """Fit Prophet, mask what looks like incidents, fit again, and calibrate the bounds.

        Parameters
        ----------
        series : the history.
        level : share of quiet windows inside the bounds.
        grid_s : Prophet sees one point (the median) of each slot of this many seconds.
        changepoint_prior_scale : how readily the trend changes.
        min_days : a shorter history is refused; a week cannot be told from less than two.
        min_windows : fewer windows with a value are refused.
        seed : of the optimiser.

        Raises
        ------
        NotEnoughData
            The series is too short, too sparse or constant; the message begins with which.
        ApmError
            Prophet found no optimum.

        Examples
        --------
        >>> ProphetBaseline.fit(series, level=0.995, grid_s=1800, min_days=14, min_windows=12,
        ...     changepoint_prior_scale=0.05, seed=7)  # doctest: +SKIP
        """
        require_windows(series, min_windows)
        if series.days < min_days:
            raise NotEnoughData(
                f"short history: {series.days:.1f} days, a season needs {min_days:g}; "
                "it will be learned once the lake holds them"
            )
        points = _grid(series, grid_s)
        _require_season(series, points, grid_s)

        def fitted(points: tuple[Times, Floats]) -> "ProphetBaseline":
            found = _fit_curve(
                series, points, changepoint_prior_scale=changepoint_prior_scale, seed=seed
            )
            return found._agree_with_total(series)

        first = fitted(points)
        quiet = quiet_windows(series, first.residuals(series), grid_s=grid_s)
        last = first
        # A lone odd window moves no curve; an incident does, and is worth a second fit.
        if np.sum(~quiet) * series.window_s >= REFIT_SLOTS * grid_s:
            last = fitted(_grid(series.pick(quiet), grid_s))
            quiet = quiet_windows(series, last.residuals(series), grid_s=grid_s)
        residuals = last.residuals(series)
        return replace(last, calibration=calibrate(series, residuals, quiet, level=level))

    def predict(self, times: Times) -> Band:
        """Give expected value and bounds at these times, in the signal's unit."""
        return self.calibration.band(self.curve(times), times, self._scale)

    def score(self, times: Times, values: Floats) -> Floats:
        """Score values: 0 as expected, above 1 outside the bounds; NaN without a value."""
        return self.calibration.score(self.curve(times), times, values, self._scale)

    def curve(self, times: Times) -> Floats:
        """Give the expected value on the model's scale, within the range that was seen."""
        result: Floats = np.clip(self.center + self.yhat(times), self.least, self.most)
        return result

    def yhat(self, times: Times) -> Floats:
        """Give what Prophet's own `predict` calls yhat, by its parameters alone."""
        since_1970 = seconds(times)
        t = (since_1970 - self.start_s) / self.span_s
        passed = np.maximum(t[:, None] - self.changepoints, 0.0)
        trend = self.k * t + self.m + passed @ self.delta
        angle = 2.0 * np.pi * since_1970 / DAY_S
        columns = [
            wave(angle * (i + 1) / period)
            for _, period, order in SEASONS
            for i in range(order)
            for wave in (np.sin, np.cos)
        ]
        result: Floats = (trend + np.column_stack(columns) @ self.beta) * self.y_scale
        return result

    def residuals(self, series: Series) -> Floats:
        """Give value minus curve on the model's scale; NaN without a value."""
        return series.scale.forward(series.values) - self.curve(series.times)

    def row(self) -> dict[str, object]:
        """Give all parameters as one row; `from_row` is the way back."""
        row: dict[str, object] = {}
        for name in SCHEMA:
            value = getattr(self if hasattr(self, name) else self.calibration, name)
            row[name] = value.tolist() if isinstance(value, np.ndarray) else value
        return row

    @classmethod
    def from_row(cls, row: dict[str, Any]) -> "ProphetBaseline":
        """Make a fitted baseline of a row of parameters."""
        fields: dict[str, Any] = {
            name: np.array(row[name], dtype=np.float64)
            if isinstance(row[name], list)
            else row[name]
            for name in SCHEMA
        }
        calibration = Calibration(
            **{name: fields.pop(name) for name in ("spread", "requests", "low", "high", "masked")}
        )
        return cls(**fields, calibration=calibration)

    @property
    def _scale(self) -> Scale:
        return scale_of(self.signal, self.window_s)

    def _agree_with_total(self, series: Series) -> "ProphetBaseline":
        """Shift the curve of an error ratio until it expects as many errors as there were.

        The mean of a transformed ratio is below the transformed mean ratio, by far where most
        slots have no error at all.
        """
        if series.signal != "error_ratio":
            return self
        quiet = series.pick(series.known & quiet_windows(series, self.residuals(series), grid_s=1))
        seen = float(np.sum(quiet.values * quiet.requests))
        curve = self.curve(quiet.times)

        def excess(shift: float) -> float:
            return float(np.sum(series.scale.backward(curve + shift) * quiet.requests)) - seen

        low, high = -0.5, 0.5
        for _ in range(30):
            middle = (low + high) / 2.0
            low, high = (low, middle) if excess(middle) > 0 else (middle, high)
        return replace(self, center=self.center + (low + high) / 2.0)


def _grid(series: Series, grid_s: float) -> tuple[Times, Floats]:
    """Take one point of each slot: its middle and the median, on the model's scale.

    Of an error ratio it is the ratio of the whole slot: most windows of an operation with few
    errors have none, so their median would always be 0.
    """
    known = series.pick(series.known)
    slots = known.times.astype(np.int64) // int(grid_s * 1e6)
    if series.signal == "error_ratio":
        labels, slot_of = np.unique(slots, return_inverse=True)
        failed = np.bincount(slot_of, weights=known.values * known.requests)
        points = failed / np.bincount(slot_of, weights=known.requests)
    else:
        labels, points = group_medians(slots, known.values)
    middle_us = int((grid_s - series.window_s) / 2 * 1e6)
    times = (labels * int(grid_s * 1e6) + middle_us).astype("datetime64[us]")
    return times, series.scale.forward(points)


def _require_season(series: Series, points: tuple[Times, Floats], grid_s: float) -> None:
    """Refuse series that have no season to learn, by name."""
    values = series.values[series.known]
    if (values == values[0]).all():
        name = "all zero" if values[0] == 0 else "constant"
        raise NotEnoughData(f"{name}: every window has the value {values[0]:g}, no season to learn")
    filled = points[0].size / (series.days * DAY_S / grid_s)
    if filled < MIN_FILLED_RATIO:
        raise NotEnoughData(
            f"sparse: {filled:.0%} of the slots of {grid_s:g} s have a value, a season needs "
            f"{MIN_FILLED_RATIO:.0%}; raise features.window_s in params.yaml"
        )
    _, counts = np.unique(points[1], return_counts=True)
    if counts.max() > MAX_SAME_RATIO * points[1].size:
        raise NotEnoughData(
            f"almost constant: {counts.max() / points[1].size:.0%} of the slots of {grid_s:g} s "
            "have the same value, no season to learn"
        )


def _fit_curve(
    series: Series,
    points: tuple[Times, Floats],
    *,
    changepoint_prior_scale: float,
    seed: int,
) -> ProphetBaseline:
    """Run Prophet and keep its parameters."""
    times, values = points
    center = float(np.median(values))
    model = _prophet()(
        growth="linear",
        changepoint_prior_scale=changepoint_prior_scale,
        yearly_seasonality=False,
        weekly_seasonality=False,
        daily_seasonality=False,
        uncertainty_samples=0,
    )
    for name, period, order in SEASONS:
        model.add_seasonality(name, period, order)
    try:
        with warnings.catch_warnings():
            # Prophet's own use of pandas; nothing we could write differently.
            warnings.simplefilter("ignore", DeprecationWarning)
            warnings.simplefilter("ignore", FutureWarning)
            # Centred, so that the unit of a logarithm does not decide how stiff the trend is.
            model.fit(pd.DataFrame({"ds": times, "y": values - center}), seed=seed)
    except (RuntimeError, ValueError) as error:
        raise ApmError(
            f"Prophet found no optimum for {'/'.join(series.key)}: {error}; "
            "robust bounds are used instead"
        ) from error
    params = {name: np.asarray(value)[0] for name, value in model.params.items()}
    known_range = float(values.max() - values.min())
    return ProphetBaseline(
        signal=series.signal,
        window_s=series.window_s,
        start_s=float(seconds(np.array([model.start], dtype="datetime64[us]"))[0]),
        span_s=model.t_scale.total_seconds(),
        center=center,
        y_scale=float(model.y_scale),
        k=float(params["k"].item()),
        m=float(params["m"].item()),
        delta=params["delta"],
        changepoints=np.asarray(model.changepoints_t, dtype=np.float64),
        beta=params["beta"],
        sigma=float(params["sigma_obs"].item()),
        least=max(
            float(values.min()) - RANGE_MARGIN * known_range,
            float(series.scale.forward(np.zeros(1))[0]),
        ),
        most=float(values.max()) + RANGE_MARGIN * known_range,
        calibration=_NO_CALIBRATION,
    )


def _prophet() -> Any:
    """Import Prophet, and keep it from talking: it logs every fit and every missing extra."""
    logging.getLogger("prophet.plot").disabled = True
    logging.getLogger("prophet").setLevel(logging.ERROR)
    import cmdstanpy  # noqa: F401
    from prophet import Prophet

    # It sets up its own logger when imported, so it can only be silenced after that.
    logging.getLogger("cmdstanpy").disabled = True
    return Prophet


_NO_CALIBRATION = Calibration(np.ones(0), np.ones(0), 0.0, 0.0, 0)

# Columns of the saved parameters, besides service_name and operation.
SCHEMA: Schema = {
    "signal": pl.String,
    "window_s": pl.Float64,
    "start_s": pl.Float64,
    "span_s": pl.Float64,
    "center": pl.Float64,
    "y_scale": pl.Float64,
    "k": pl.Float64,
    "m": pl.Float64,
    "delta": pl.List(pl.Float64),
    "changepoints": pl.List(pl.Float64),
    "beta": pl.List(pl.Float64),
    "sigma": pl.Float64,
    "least": pl.Float64,
    "most": pl.Float64,
    "spread": pl.List(pl.Float64),
    "requests": pl.List(pl.Float64),
    "low": pl.Float64,
    "high": pl.Float64,
    "masked": pl.Int64,
}
