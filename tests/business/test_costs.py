"""The cost of an incident, from the lake to a sentence: `business.costs` and `business.summary`."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from click.testing import CliRunner
from rows import MONDAY_NS, NS_PER_S, table

from apm_analytics.business import charts as business_plots
from apm_analytics.business import costs, summary
from apm_analytics.business import specs as kpi_specs
from apm_analytics.cli import apm
from apm_analytics.foundation import settings
from apm_analytics.foundation.errors import BadParameter
from apm_analytics.lake import query, snapshots
from apm_analytics.signals import calendar
from apm_analytics.signals.calendar import Calendar, Entry

DAYS = 21
WINDOW_S = 300
PER_DAY = 86_400 // WINDOW_S
LOST = 0.6
START = datetime(2026, 3, 2, tzinfo=UTC) + timedelta(days=20, hours=13)
END = START + timedelta(hours=2)
KPIS = """kpis:
- name: orders
  title: orders
  unit: "{order}"
  better: up
  source: {kind: metric, name: orders, aggregate: sum, segment: region}
- name: revenue
  title: revenue
  unit: EUR
  better: up
  money: true
  source: {kind: metric, name: revenue, aggregate: sum}
- name: satisfaction
  title: satisfaction
  unit: "1"
  better: up
  source: {kind: metric, name: orders, aggregate: mean}
"""


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, float]:
    """Three weeks of orders in two regions; for two hours the south loses most of them."""
    lake = tmp_path_factory.mktemp("costs") / "lake"
    rng = np.random.default_rng(3)
    count = DAYS * PER_DAY
    ends = MONDAY_NS + (np.arange(count) + 1) * WINDOW_S * NS_PER_S
    hour = np.arange(count) % PER_DAY / 12
    usual = 40 * np.exp(0.8 * np.cos((hour - 14) * np.pi / 12))
    day = np.exp(np.repeat(rng.normal(0, 0.15, DAYS), PER_DAY))
    rows: dict[str, list[object]] = {"time": [], "name": [], "value": [], "attributes": []}
    lost = 0.0
    begins = (START.timestamp() - MONDAY_NS / 1e9) / WINDOW_S
    hit = (np.arange(count) >= begins) & (np.arange(count) < begins + 24)
    for region in ("north", "south"):
        orders = rng.poisson(usual * day * (1.5 if region == "north" else 1.0)).astype(float)
        if region == "south":
            left = np.where(hit, rng.binomial(orders.astype(int), 1 - LOST), orders)
            lost = float((orders - left).sum())
            orders = left
        for name, factor in (("orders", 1.0), ("revenue", 30.0)):
            rows["time"] += ends.tolist()
            rows["name"] += [name] * count
            rows["value"] += (orders * factor).tolist()
            rows["attributes"] += [[("region", region)]] * count
    points = table("metric_points", {**rows, "kind": ["sum"] * len(rows["time"])})
    edge = [MONDAY_NS, MONDAY_NS + count * WINDOW_S * NS_PER_S]
    spans = table(
        "spans",
        {"time": edge, "duration_ns": [1, 1], "trace_id": ["a", "b"], "span_id": ["a", "b"],
         "name": ["GET /"] * 2},
    )  # fmt: skip
    snapshots.append(lake, {"metric_points": points, "spans": spans})
    return lake, lost


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("specs")
    (folder / "kpis.yaml").write_text(KPIS)
    (folder / "calendar.yaml").write_text("")
    return folder


def cost(lake: Path, folder: Path, **options: object) -> costs.Costs:
    with query.connect(lake) as con:
        return costs.of_incident(
            con,
            kpi_specs.load(folder),
            START,
            END,
            window_s=WINDOW_S,
            history_days=20,
            level=0.95,
            **options,  # type: ignore[arg-type]
        )


def test_the_loss_of_the_whole_and_of_each_segment_is_found(
    shop: tuple[Path, float], folder: Path
) -> None:
    lake, lost = shop
    costs = cost(lake, folder, control=("north",))
    rows = {(r["kpi"], r["segment"]): r for r in costs.table.iter_rows(named=True)}
    assert set(rows) == {(k, s) for k, s in [("orders", "all"), ("orders", "north"),
                                             ("orders", "south"), ("revenue", "all")]}  # fmt: skip
    south, north = rows["orders", "south"], rows["orders", "north"]
    assert south["loss_lower"] <= lost <= south["loss_upper"]
    assert south["loss_lower"] > 0 and south["method"].startswith("control")
    assert north["loss_lower"] <= 0 <= north["loss_upper"]
    revenue = rows["revenue", "all"]
    assert revenue["loss_lower"] <= 30 * lost <= revenue["loss_upper"]
    sentence = summary.money(costs)
    assert sentence.startswith("It cost ") and "EUR of revenue" in sentence
    assert "quiet periods" in summary.placebo(costs)
    assert business_plots.course(costs).to_dict()["layer"]
    assert business_plots.losses(costs).to_dict()["layer"]


def test_a_control_narrows_what_the_segment_lost(shop: tuple[Path, float], folder: Path) -> None:
    lake, _ = shop

    def width(found: costs.Costs) -> float:
        row = found.table.filter(kpi="orders", segment="south").row(0, named=True)
        return float(row["loss_upper"] - row["loss_lower"])

    assert width(cost(lake, folder, control=("north",))) < width(cost(lake, folder))


def test_what_cannot_be_said_is_insufficient_with_its_reason(
    shop: tuple[Path, float], folder: Path
) -> None:
    lake, _ = shop
    with query.connect(lake) as con:
        early = costs.of_incident(
            con,
            kpi_specs.load(folder),
            datetime(2026, 3, 8),
            datetime(2026, 3, 8, 2),
            window_s=WINDOW_S,
            history_days=20,
            level=0.95,
        )
    assert early.table["status"].unique().to_list() == ["insufficient"]
    assert early.table["loss"].null_count() == early.table.height
    assert "days of history" in early.table["reason"][0]
    assert "cannot be estimated" in summary.money(early)
    with pytest.raises(BadParameter, match="swap them"), query.connect(lake) as con:
        costs.of_incident(con, kpi_specs.load(folder), END, START, window_s=300, history_days=20,
                          level=0.95)  # fmt: skip


def test_the_command_prints_the_loss(shop: tuple[Path, float], folder: Path) -> None:
    lake, _ = shop
    asked = ["--lake", str(lake), "--specs", str(folder), "--from", "2026-03-22T13:00",
             "--to", "2026-03-22T15:00"]  # fmt: skip
    result = CliRunner().invoke(apm, ["impact", *asked, "--format", "csv"])
    assert result.exit_code == 0, result.output
    assert result.output.splitlines()[0].startswith("kpi,title,unit,money,segment,status,expected")
    shown = CliRunner().invoke(apm, ["impact", *asked])
    assert "95% interval" in shown.output and "as bad in quiet times" in shown.output
    listed = CliRunner().invoke(apm, ["kpis", "--lake", str(lake), "--specs", str(folder)])
    assert "revenue" in listed.output and listed.exit_code == 0


def scores(episodes: list[tuple[str, int, int]]) -> pl.DataFrame:
    """Scores in windows of 5 min: each episode is a range of one operation out of bounds."""
    rows = [
        {
            "service_name": "shop",
            "operation": operation,
            "signal": "latency_p95",
            "time": datetime(2026, 3, 2) + timedelta(minutes=5 * window),
            "value": 1.0,
            "expected": 0.1,
            "lower": 0.0,
            "upper": 0.2,
            "score": 5.0 if first <= window < last else 0.1,
            "model": "prophet",
        }
        for operation, first, last in episodes
        for window in range(60)
    ]
    return pl.DataFrame(rows)


def test_incidents_come_from_hand_else_calendar_and_detector() -> None:
    scored = scores([("GET /", 10, 16), ("GET /a", 12, 20), ("GET /b", 40, 50)])
    known = calendar.of(
        [Entry("incident", "disk full", datetime(2026, 3, 1, tzinfo=UTC),
               datetime(2026, 3, 1, 1, tzinfo=UTC))]
    )  # fmt: skip
    incidents = summary.incidents(known, scored, window_s=300, start="", end="")
    assert incidents.select("source", "operations").rows() == [("detector", 2), ("calendar", None)]
    assert incidents["start"][0] == datetime(2026, 3, 2, 0, 50)
    assert incidents["end"][0] == datetime(2026, 3, 2, 1, 40)
    by_hand = summary.incidents(
        known, scored, window_s=300, start="2026-03-02T14:00+02:00", end="2026-03-02T13:00"
    )
    assert by_hand["source"].to_list() == ["by hand"]
    assert by_hand["start"][0] == datetime(2026, 3, 2, 12)
    assert summary.incidents(Calendar(()), None, window_s=300, start="", end="").is_empty()


def test_without_an_incident_nothing_is_claimed(shop: tuple[Path, float], folder: Path) -> None:
    lake, _ = shop
    none = summary.incidents(Calendar(()), None, window_s=300, start="", end="")
    with query.connect(lake) as con:
        params = settings.load().params.business
        assert summary.latest_cost(con, kpi_specs.load(folder), none, Calendar(()), params) is None
    assert summary.title(None) == "No incident is known" and summary.estimated(None) == 0
