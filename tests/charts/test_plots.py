"""`charts.plots` and `charts.theme`: charts stay small whatever the size of the frames."""

import json
from datetime import datetime
from typing import Any

import nbformat
import numpy as np
import polars as pl
import pytest
import small_report
import small_run
import vl_convert

from apm_analytics.charts import plots, theme
from apm_analytics.charts.theme import MIME
from apm_analytics.report.pages import nightly

NAMES = (
    "traffic by_service slowest waterfall baselines heat_strip coverage week".split()  # noqa: SIM905
)


@pytest.fixture(scope="module")
def charts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, plots.Chart]:
    return small_report.charts(small_run.write(tmp_path_factory.mktemp("run"), hostile=True))


@pytest.fixture(scope="module")
def large() -> pl.DataFrame:
    """Four weeks of 20 operations with three signals: half a million windows."""
    windows = pl.datetime_range(
        datetime(2026, 3, 1), datetime(2026, 3, 29), "5m", closed="left", eager=True
    )
    series = pl.DataFrame({"operation": [f"GET /{n}" for n in range(20)]}).join(
        pl.DataFrame({"signal": ["latency_p95", "rate", "error_ratio"]}), how="cross"
    )
    frame = series.join(pl.DataFrame({"time": windows}), how="cross")
    score = np.random.default_rng(1).exponential(0.2, frame.height)
    return frame.with_columns(
        service_name=pl.lit("shop"),
        score=pl.Series(score),
        value=pl.Series(score),
        expected=pl.lit(0.2),
        lower=pl.lit(0.0),
        upper=pl.lit(1.0),
        model=pl.lit("prophet"),
    )


def rows(chart: plots.Chart) -> list[dict[str, Any]]:
    (data,) = chart.to_dict()["datasets"].values()
    return list(data)


@pytest.mark.parametrize("name", NAMES)
def test_every_chart_compiles_for_jupyterlab_and_for_the_report(
    charts: dict[str, plots.Chart], name: str
) -> None:
    spec = charts[name].to_dict()
    for version in ("5.21", nightly.VEGA_LITE):
        assert vl_convert.vegalite_to_vega(spec, vl_version=version)["marks"]


@pytest.mark.parametrize("name", NAMES)
def test_every_chart_is_an_output_that_a_notebook_may_hold(
    charts: dict[str, plots.Chart], name: str
) -> None:
    bundle = theme.mime_bundle(charts[name].to_dict())
    document = nbformat.v4.new_notebook()
    output = nbformat.v4.new_output("display_data", data=bundle)
    document.cells.append(nbformat.v4.new_code_cell("chart", outputs=[output]))
    nbformat.validate(document)
    assert bundle[MIME]["$schema"].endswith("/v5.json")


def test_half_a_million_windows_become_small_charts_that_keep_the_outliers(
    large: pl.DataFrame,
) -> None:
    peaks = {round(score, 3) for score in large.group_by("operation", "signal").max()["score"]}
    strips, series = plots.heat_strip(large), plots.baselines(large)
    for chart in (strips, series):
        assert 0 < len(rows(chart)) <= theme.MAX_ROWS
        assert len(json.dumps(chart.to_dict())) < 400_000
    assert max(row["score"] for row in rows(strips)) == pytest.approx(max(peaks), rel=1e-2)
    shown = {number: 0.0 for number in range(12)}
    for row in rows(series):
        shown[row["series"]] = max(shown[row["series"]], row["score"])
    assert {round(score, 3) for score in shown.values()} <= peaks
    assert len(rows(plots.coverage(large))) == 60


def test_times_leave_as_milliseconds_utc(charts: dict[str, plots.Chart]) -> None:
    first = rows(charts["traffic"])[0]["time"]
    assert first == 1_772_409_600_000  # Monday 2026-03-02 00:00 UTC


def test_the_busiest_services_stay_and_the_rest_is_summed_up() -> None:
    requests = pl.DataFrame(
        {
            "service_name": [f"s{n:02d}" for n in range(30)],
            "time": [datetime(2026, 3, 2)] * 30,
            "requests": list(range(30, 0, -1)),
            "rate_per_s": [float(n) for n in range(30, 0, -1)],
        }
    )
    found = {row["service_name"]: row["rate_per_s"] for row in rows(plots.traffic(requests))}
    assert len(found) == theme.MAX_LINES + 1
    assert found["all others"] == sum(range(1, 23))


def test_a_chart_of_nothing_says_so() -> None:
    empty = pl.DataFrame(
        schema={
            **dict.fromkeys(("service_name", "operation", "signal", "model"), pl.String),
            "time": pl.Datetime("us"),
            **dict.fromkeys(("value", "expected", "lower", "upper", "score"), pl.Float64),
        }
    )
    assert rows(plots.baselines(empty)) == [{"why": "no series has a baseline"}]
    assert rows(plots.heat_strip(empty)) == [{"why": "no window has a score"}]


def test_windows_without_a_value_leave_no_trace_in_a_chart(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    scores = pl.DataFrame(
        {
            "service_name": ["shop"] * 3,
            "operation": ["GET /"] * 3,
            "signal": ["latency_p95"] * 3,
            "time": [datetime(2026, 3, 2, hour) for hour in range(3)],
            "value": [0.1, None, 0.2],
            "expected": [0.1] * 3,
            "lower": [0.0] * 3,
            "upper": [0.3] * 3,
            "score": [0.1, None, 0.2],
            "model": ["robust"] * 3,
        }
    )
    assert [row["value"] for row in rows(plots.baselines(scores))] == [0.1, 0.2]
    assert len(rows(plots.heat_strip(scores))) == 2
