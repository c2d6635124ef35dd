"""Masks: which windows are not trained on, and that an incident then moves no bound."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from telemetry import during, features

from apm_analytics.baselines.models.series import Flags
from apm_analytics.baselines.training import masks, training
from apm_analytics.foundation import settings
from apm_analytics.foundation.settings import BaselineParams
from apm_analytics.signals import calendar
from apm_analytics.signals.calendar import Affected, Calendar, Entry, Kind

WINDOW_S = 300.0
MOVED = 0.05  # share of the bound, less than one more night of history moves it


@pytest.fixture(scope="module")
def params(workspace: Path) -> BaselineParams:
    return settings.load_params(workspace / "params.yaml").baselines


def entry(kind: Kind, start: datetime, hours: float, **scope: object) -> Calendar:
    begin = start.replace(tzinfo=UTC)
    return calendar.of([Entry(kind, "x", begin, begin + timedelta(hours=hours), **scope)])  # type: ignore[arg-type]


def masked(frame: pl.DataFrame, held: Calendar) -> pl.DataFrame:
    flags = masks.windows(frame, held, window_s=WINDOW_S, settling_s=1800)
    return frame.filter(pl.Series(flags))


def test_every_window_that_an_entry_touches_is_masked_and_no_other() -> None:
    frame = features(1, seed=1)
    first: datetime = frame["time"].min()  # type: ignore[assignment]
    start = first + timedelta(hours=3, minutes=2)
    times = masked(frame, entry("maintenance", start, 0.25))["time"].to_list()
    assert times == [first + timedelta(hours=3, minutes=5 * n) for n in range(4)]


def test_a_deployment_masks_its_settling_period_of_its_service_alone() -> None:
    frame = pl.concat([features(1, seed=1), features(1, seed=2, operation="POST /")])
    service = str(frame["service_name"][0])
    first: datetime = frame["time"].min()  # type: ignore[assignment]
    found = masked(frame, entry("deployment", first, 0, services=(service,)))
    assert len(found) == 2 * 6
    assert masked(frame, entry("deployment", first, 0, services=("other",))).is_empty()


def test_an_incident_of_one_signal_masks_its_operation_and_the_order_of_rows_does_not_matter() -> (
    None
):
    frame = pl.concat([features(1, seed=1), features(1, seed=2, operation="POST /")])
    service = str(frame["service_name"][0])
    first: datetime = frame["time"].min()  # type: ignore[assignment]
    held = entry("incident", first, 1, operations=(Affected(service, "POST /", ("rate",)),))
    assert masked(frame, held)["operation"].to_list() == ["POST /"] * 12
    shuffled = frame.sample(fraction=1, shuffle=True, seed=1)
    again = masked(shuffled, held).sort("operation", "time")
    assert again.equals(masked(frame, held).sort("operation", "time"))


def test_nothing_is_masked_without_an_entry() -> None:
    frame = features(1, seed=1)
    assert masked(frame, Calendar()).is_empty()
    assert masks.windows(frame.clear(), Calendar(), window_s=300, settling_s=0).size == 0


@pytest.mark.parametrize("labelled", [True, False], ids=["in the calendar", "found by itself"])
@pytest.mark.parametrize(("seed", "slower"), [(1, 3.0), (2, 3.0), (3, 1.0)])
def test_an_incident_in_the_training_window_does_not_move_the_bounds(
    params: BaselineParams, seed: int, slower: float, labelled: bool
) -> None:
    quiet = features(15, seed=seed)
    troubled = features(15, seed=seed, change=during(9.5, 3, latency_s=slower, errors=10.0))
    first: datetime = quiet["time"].min()  # type: ignore[assignment]
    # Without a label, training has to detect the unusual day by itself.
    held = entry("incident", first + timedelta(days=9.5), 3) if labelled else Calendar()
    learned = [
        train(
            frame,
            params,
            masks.windows(frame, held, window_s=WINDOW_S, settling_s=0),
        ).bounds.sort("signal", "hour_of_week")
        for frame in (quiet, troubled)
    ]
    for signal in ("latency_p95", "rate", "error_ratio"):
        before, after = (bounds.filter(signal=signal)["upper"].to_numpy() for bounds in learned)
        assert np.median(np.abs(after / before - 1)) < MOVED, signal


def train(frame: pl.DataFrame, params: BaselineParams, flags: Flags) -> training.Trained:
    return training.train(frame, params, window_s=WINDOW_S, seed=7, masked=flags)
