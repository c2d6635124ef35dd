"""`business.impact`: the loss is right, its interval holds it, quiet times have no loss."""

from datetime import datetime, timedelta

import numpy as np
import polars as pl
import pytest

from apm_analytics.business import impact
from apm_analytics.foundation.errors import BadInput, BadParameter, NotEnoughData
from apm_analytics.simulate import business

START = datetime(2026, 1, 4)
STEP = timedelta(minutes=5)


def frame(values: np.ndarray) -> pl.DataFrame:
    times = np.datetime64(START, "us") + np.arange(values.size) * np.timedelta64(300_000_000, "us")
    return pl.DataFrame({"time": times, "value": values}, nan_to_null=True)


def estimate(draw: business.Cut, **options: object) -> impact.Impact:
    return impact.of_incident(
        frame(draw.figure),
        START + draw.first * STEP,
        START + draw.last * STEP,
        **options,  # type: ignore[arg-type]
    ).impact


def _certain(loss: impact.Impact) -> bool:
    return loss.loss_lower > 0 or loss.loss_upper < 0


@pytest.mark.parametrize("control", [False, True])
def test_the_interval_holds_the_true_loss_and_the_middle_is_near(control: bool) -> None:
    held, errors = [], []
    for seed in range(30):
        draw = business.cut(seed)
        impacts = estimate(draw, control=pl.Series(draw.control) if control else None)
        held.append(impacts.loss_lower <= draw.loss <= impacts.loss_upper)
        errors.append(impacts.loss / draw.loss - 1)
        assert impacts.loss_lower > 0 and impacts.placebo_p < 0.05
    assert np.mean(held) >= 0.9
    assert np.mean(np.abs(errors)) < 0.19 and abs(np.mean(errors)) < 0.08


def test_a_quiet_time_cost_nothing() -> None:
    impacts = [estimate(business.cut(seed, depth=0.0)) for seed in range(20)]
    assert np.mean([_certain(one) for one in impacts]) <= 0.1
    assert np.median([one.placebo_p for one in impacts]) > 0.2


def test_a_control_that_shares_the_trouble_of_the_day_narrows_the_interval() -> None:
    widths: dict[bool, list[float]] = {True: [], False: []}
    for seed in range(10):
        draw = business.cut(seed)
        for control, collected in widths.items():
            impacts = estimate(draw, control=pl.Series(draw.control) if control else None)
            collected.append(impacts.loss_upper - impacts.loss_lower)
    assert np.mean(widths[True]) < np.mean(widths[False])


def test_few_events_give_a_wide_interval_and_no_negative_expectation() -> None:
    held = []
    for seed in range(20):
        draw = business.cut(seed, per_window=0.5, depth=0.0)
        counts = np.random.default_rng(seed).poisson(draw.figure).astype(float)
        impacts = impact.of_incident(
            frame(counts), START + draw.first * STEP, START + draw.last * STEP
        ).impact
        assert impacts.expected > 0
        held.append(impacts.loss_lower <= 0 <= impacts.loss_upper)
    assert np.mean(held) >= 0.85


def test_another_incident_in_the_past_has_no_effect_when_masked() -> None:
    draw = business.cut(2)
    hit = np.zeros(draw.figure.size, bool)
    for week in (1, 2, 3):
        hit[draw.first - week * 2016 : draw.last - week * 2016] = True
    spoilt = business.Cut(
        np.where(hit, draw.figure * 0.2, draw.figure),
        draw.control,
        draw.first,
        draw.last,
        draw.loss,
    )
    clean, naive = estimate(draw), estimate(spoilt)
    masked = estimate(spoilt, masked=pl.Series(hit))
    assert abs(masked.loss / clean.loss - 1) < 0.05 < 0.5 < abs(naive.loss / clean.loss - 1)


def test_what_cannot_be_said_is_refused_with_its_reason() -> None:
    draw = business.cut(1)
    at = (START + draw.first * STEP, START + draw.last * STEP)
    with pytest.raises(NotEnoughData, match="days of history"):
        impact.of_incident(frame(draw.figure).tail(3000), *at)
    with pytest.raises(NotEnoughData, match="not wholly inside the data"):
        impact.of_incident(frame(draw.figure).head(draw.last - 6), *at)
    gaps = draw.figure.copy()
    gaps[draw.first : draw.last : 2] = np.nan
    with pytest.raises(NotEnoughData, match="of the incident have no value"):
        impact.of_incident(frame(gaps), *at)
    holes = np.where(np.random.default_rng(1).random(gaps.size) < 0.3, np.nan, draw.figure)
    holes[draw.first : draw.last] = draw.figure[draw.first : draw.last]
    with pytest.raises(NotEnoughData, match="of the history have no value"):
        impact.of_incident(frame(holes), *at)
    with pytest.raises(NotEnoughData, match="quiet windows"):
        impact.of_incident(frame(draw.figure), at[0] - timedelta(days=5), at[0])
    with pytest.raises(NotEnoughData, match="nothing could be lost"):
        impact.of_incident(frame(np.zeros(draw.figure.size)), *at)
    with pytest.raises(BadInput, match="no values below 0"):
        impact.of_incident(frame(-draw.figure), *at)
    with pytest.raises(BadParameter, match="swap them"):
        impact.of_incident(frame(draw.figure), at[1], at[0])
