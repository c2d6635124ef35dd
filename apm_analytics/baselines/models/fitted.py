"""Fitted baselines of many series, and one of them by itself.

In:  an estimator, the calibration of its errors, the names of the series.
Out: `FittedFleet`: bands and scores of all at once, a table of all parameters and the way back;
     `SeriesBaseline`: the same for one series.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from apm_analytics.baselines.models.band import Band
from apm_analytics.baselines.models.estimator import BatchBaseline, as_lists, as_matrix
from apm_analytics.baselines.models.prophet import ProphetBaseline
from apm_analytics.baselines.models.prophet_library import LibraryProphetBaseline
from apm_analytics.baselines.models.scales import Floats, Scale, scale_of
from apm_analytics.baselines.models.seasonal import (
    ProfileBaseline,
    RobustBaseline,
    SeasonalNaiveBaseline,
)
from apm_analytics.baselines.models.series import Times
from apm_analytics.baselines.training.calibration import Calibration
from apm_analytics.signals import OPERATION

ESTIMATORS: dict[str, type[BatchBaseline]] = {
    estimator.model: estimator
    for estimator in (
        ProphetBaseline,
        LibraryProphetBaseline,
        ProfileBaseline,
        SeasonalNaiveBaseline,
        RobustBaseline,
    )
}
_LISTS = ("spread", "requests")
_NUMBERS = ("least", "most", "lowest", "highest", "masked")


@dataclass(frozen=True)
class FittedFleet:
    """Baselines of some series of one signal that share a model.

    Parameters
    ----------
    model : name of the candidate that won, such as "time_of_week".
    operations : (service_name, operation) of each row.
    estimator : fitted, one row per series, where `Scale.to_fit` takes values.
    least, most : float64 of shape (n,); the curve is kept between them, where it was fitted.
    calibration : spread and quantiles of the errors.
    reasons : why this model was chosen, one sentence per series.
    """

    signal: str
    window_s: float
    model: str
    operations: list[tuple[str, str]]
    estimator: BatchBaseline
    least: Floats
    most: Floats
    calibration: Calibration
    reasons: list[str]

    def __len__(self) -> int:
        return len(self.operations)

    @property
    def scale(self) -> Scale:
        """The scale of this signal."""
        return scale_of(self.signal, self.window_s)

    def scaled(self, times: Times) -> Floats:
        """Return expected values on the model's scale, of shape (n, n_times)."""
        fitted = self.estimator.expected(times)
        return self.scale.from_fit(np.clip(fitted, self.least[:, None], self.most[:, None]))

    def predict(self, times: Times) -> Band:
        """Return expected values and bounds in the signal's unit, each (n, n_times)."""
        return self.calibration.band(self.scaled(times), times, self.scale)

    def score(self, times: Times, values: Floats) -> Floats:
        """Score values: 0 as expected, above 1 outside the bounds; NaN without a value."""
        return self.calibration.score(self.scaled(times), times, values, self.scale)

    def pick(self, rows: NDArray[Any]) -> "FittedFleet":
        """Keep some series, by index."""
        return replace(
            self,
            operations=[self.operations[row] for row in rows],
            estimator=self.estimator.pick(rows),
            least=self.least[rows],
            most=self.most[rows],
            calibration=self.calibration.pick(rows),
            reasons=[self.reasons[row] for row in rows],
        )

    def each(self) -> Iterator[tuple[tuple[str, str, str], "SeriesBaseline"]]:
        """Return the series one by one, with their keys."""
        for row, operation in enumerate(self.operations):
            yield (*operation, self.signal), SeriesBaseline(self, row)

    def frame(self) -> pl.DataFrame:
        """Return all parameters, one row per series; `fleets_of` is the way back."""
        n, calibration = len(self), self.calibration
        knobs = json.dumps(self.estimator.get_params(), sort_keys=True)
        about = pl.DataFrame(
            {
                "service_name": [service for service, _ in self.operations],
                "operation": [operation for _, operation in self.operations],
                "signal": [self.signal] * n,
                "model": [self.model] * n,
                "reason": self.reasons,
                "window_s": np.full(n, self.window_s),
                "estimator": [self.estimator.model] * n,
                "knobs": [knobs] * n,
                "least": self.least,
                "most": self.most,
                "lowest": calibration.low,
                "highest": calibration.high,
                "masked": calibration.masked,
                "spread": as_lists(calibration.spread),
                "requests": as_lists(calibration.requests),
            }
        )
        return pl.concat([about, self.estimator.frame()], how="horizontal")


@dataclass(frozen=True)
class SeriesBaseline:
    """One series of a fitted fleet; arrays have the shape of the times."""

    fleet: FittedFleet
    row: int

    @property
    def model(self) -> str:
        """Name of the model."""
        return self.fleet.model

    @property
    def reason(self) -> str:
        """Why this model, in words."""
        return self.fleet.reasons[self.row]

    def predict(self, times: Times) -> Band:
        """Return expected value and bounds at these times, in the signal's unit."""
        band = self._alone.predict(times)
        return Band(band.expected[0], band.lower[0], band.upper[0])

    def score(self, times: Times, values: Floats) -> Floats:
        """Score values: 0 as expected, above 1 outside the bounds; NaN without a value."""
        score: Floats = self._alone.score(times, values[None, :])[0]
        return score

    @property
    def _alone(self) -> FittedFleet:
        return self.fleet.pick(np.array([self.row]))


def table(fleets: list[FittedFleet]) -> pl.DataFrame:
    """Put the parameters of all series into one table, sorted."""
    frames = [fleet.frame() for fleet in fleets if len(fleet)]
    return pl.concat(frames, how="diagonal").sort(*OPERATION, "signal")


def fleets_of(parameters: pl.DataFrame) -> list[FittedFleet]:
    """Return fitted fleets from a table of parameters."""
    seasons = (
        pl.col("season_days").cast(pl.List(pl.String)).list.join(" ")
        if "season_days" in parameters.columns
        else pl.lit(None, pl.String)
    )
    together = ["signal", "window_s", "model", "estimator", "knobs", "_seasons"]
    parts = parameters.with_columns(_seasons=seasons).partition_by(together, maintain_order=True)
    return [_fleet_of(part) for part in parts]


def _fleet_of(part: pl.DataFrame) -> FittedFleet:
    first = part.row(0, named=True)
    estimator = ESTIMATORS[first["estimator"]](**json.loads(first["knobs"]))
    numbers = {name: part[name].to_numpy() for name in _NUMBERS}
    lists = {name: as_matrix(part[name]) for name in _LISTS}
    return FittedFleet(
        first["signal"],
        first["window_s"],
        first["model"],
        part.select(OPERATION).rows(),
        estimator.with_frame(part),
        numbers["least"],
        numbers["most"],
        Calibration(
            lists["spread"],
            lists["requests"],
            numbers["lowest"],
            numbers["highest"],
            numbers["masked"],
        ),
        part["reason"].to_list(),
    )
