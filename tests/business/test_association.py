"""`business.association`: pairs and lags that are found, chance and demand that are not.

Also tests `business.whitening` and `business.technical`.
"""

from datetime import datetime

import numpy as np
import polars as pl
import pytest

from apm_analytics.business import association
from apm_analytics.foundation.errors import BadInput, BadParameter
from apm_analytics.simulate import business

START = datetime(2026, 1, 4)


def frames(draw: business.Related) -> tuple[pl.DataFrame, pl.DataFrame, pl.Series]:
    times = pl.Series(
        np.datetime64(START, "us") + np.arange(draw.figure.size) * np.timedelta64(3_600_000_000)
    )
    return (
        pl.DataFrame({"time": times, "orders": draw.figure}),
        pl.DataFrame({"time": times, **draw.metrics}),
        pl.Series(draw.demand),
    )


@pytest.mark.parametrize("seed", range(3))
def test_a_metric_that_leads_is_found_with_its_lag(seed: int) -> None:
    draw = business.related(seed, metrics=20, leading=4, strength=0.35)
    associations = association.associate(*frames(draw), max_lag=6)
    hits = associations.filter(pl.col("metric").is_in(list(draw.lags)))
    assert hits["status"].to_list() == ["associated"] * 4
    assert dict(zip(hits["metric"], hits["lag_s"] / 3600, strict=True)) == draw.lags
    assert (hits["r"] < 0).all() and (hits["q"] <= 0.05).all() and (hits["n"] > 900).all()
    false = associations.filter(
        pl.col("status") == "associated", ~pl.col("metric").is_in(hits["metric"])
    )
    assert false.height <= 1


def test_chance_alone_gives_nothing_although_everything_has_the_same_week() -> None:
    false = sum(
        association.associate(*frames(business.related(seed, metrics=40, leading=0)), max_lag=6)
        .filter(pl.col("status") == "associated")
        .height
        for seed in range(4)
    )
    assert false <= 1  # of 160 pairs


def test_what_only_follows_demand_is_said_to_be_demand() -> None:
    draw = business.related(5, metrics=20, leading=0, shock=0.8)
    kpis, metrics, demand = frames(draw)
    associations = association.associate(kpis, metrics, demand, max_lag=6)
    assert associations.filter(pl.col("status") == "associated").height <= 1
    by_demand = associations.filter(pl.col("status") == "explained by demand")
    assert by_demand.height >= 15
    assert by_demand["confounders"].unique().to_list() == ["demand"]
    without = association.associate(kpis, metrics, max_lag=6)
    assert without.filter(pl.col("status") == "associated").height >= 15


def test_a_metric_that_mirrors_a_stronger_one_names_it() -> None:
    draw = business.related(3, metrics=4, leading=1, strength=0.6)
    echo = draw.metrics["metric_0"] + np.random.default_rng(1).normal(0, 0.4, draw.figure.size)
    kpis, metrics, demand = frames(draw)
    associations = association.associate(kpis, metrics.with_columns(echo=echo), demand, max_lag=6)
    named = {row["metric"]: row["confounders"] for row in associations.iter_rows(named=True)}
    assert named["echo"] == "metric_0" and named["metric_0"] == ""


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda x: np.where(np.arange(x.size) < 500, np.nan, x), "days, needs 21"),
        (lambda x: np.where(np.random.default_rng(2).random(x.size) < 0.3, np.nan, x), "missing"),
        (lambda x: np.full_like(x, 7.0), "always 7"),
        (lambda x: np.full_like(x, np.nan), "0.0 days"),
    ],
)
def test_what_cannot_be_judged_is_insufficient_and_never_zero(spoil: object, reason: str) -> None:
    draw = business.related(1, weeks=5, metrics=2, leading=1, strength=0.8)
    kpis, metrics, demand = frames(draw)
    spoilt = metrics.with_columns(metric_1=spoil(draw.metrics["metric_1"]))  # type: ignore[operator]
    associations = association.associate(kpis, spoilt, demand, max_lag=6)
    row = associations.filter(pl.col("metric") == "metric_1").row(0, named=True)
    assert row["status"] == "insufficient" and reason in row["reason"]
    assert row["r"] is None and row["q"] is None
    assert associations.filter(pl.col("metric") == "metric_0")["status"].item() == "associated"


def test_a_masked_incident_does_not_make_an_association() -> None:
    draw = business.related(4, metrics=3, leading=0)
    hit = np.zeros(draw.figure.size, bool)
    hit[600:606] = True
    draw.figure[hit] -= 40
    draw.metrics["metric_0"][hit] += 40
    kpis, metrics, demand = frames(draw)
    seen = association.associate(kpis, metrics, demand, max_lag=3)
    masked = association.associate(kpis, metrics, demand, max_lag=3, masked=pl.Series(hit))
    assert seen.filter(pl.col("metric") == "metric_0")["status"].item() == "associated"
    assert masked.filter(pl.col("metric") == "metric_0")["status"].item() == "not associated"


def test_q_values_are_those_of_benjamini_and_hochberg() -> None:
    assert association.adjusted([0.01, float("nan"), 0.04, 0.03]) == pytest.approx(
        [0.03, float("nan"), 0.04, 0.04], nan_ok=True
    )


def test_times_that_do_not_fit_are_refused() -> None:
    kpis, metrics, demand = frames(business.related(1, metrics=1, leading=0))
    with pytest.raises(BadInput, match="different times"):
        association.associate(kpis.head(900), metrics, demand, max_lag=3)
    with pytest.raises(BadInput, match="not equally spaced"):
        doubled = pl.concat([kpis.head(2), kpis.tail(-1)])
        association.associate(doubled, doubled.rename({"orders": "x"}), max_lag=3)
    with pytest.raises(BadParameter, match="max_lag"):
        association.associate(kpis, metrics, demand, max_lag=-1)
