"""Each defect of a lake is found by its own expectation and by no other; clean data passes."""

import json
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError
from rows import MONDAY_NS, NS_PER_S, table

from apm_analytics.foundation import settings
from apm_analytics.foundation.errors import BadInput, BadParameter
from apm_analytics.foundation.settings import QualityParams
from apm_analytics.ingest.files.importer import import_files
from apm_analytics.lake import query, snapshots
from apm_analytics.lake.arrivals import MAX_LEAD_S, is_live
from apm_analytics.lake.damage import PartsLeftOut
from apm_analytics.quality import checks, measures
from apm_analytics.quality.result import QualityResult
from apm_analytics.report.pages.quality import page, write_page

PARAMS = settings.load().params.quality
HOURS = 6
LAST = datetime(2026, 3, 2, tzinfo=UTC) + timedelta(hours=HOURS)
MS = 1_000_000
Row = dict[str, Any]


@dataclass
class Telemetry:
    """Rows of a small shop, one list per table; tests plant a defect before they import them."""

    spans: list[Row] = field(default_factory=list)
    metric_points: list[Row] = field(default_factory=list)
    histogram_points: list[Row] = field(default_factory=list)
    exp_histogram_points: list[Row] = field(default_factory=list)
    summary_points: list[Row] = field(default_factory=list)
    logs: list[Row] = field(default_factory=list)

    def leaves(self) -> list[Row]:
        """Return the spans without children."""
        return [span for span in self.spans if span["name"] == "SELECT"]

    def roots(self) -> list[Row]:
        """Return the spans without a parent."""
        return [span for span in self.spans if span["parent_span_id"] is None]

    def save(self, lake: Path, *tables: str) -> Path:
        """Import these tables, or everything."""
        found = {n: rows for n, rows in vars(self).items() if rows and (not tables or n in tables)}
        snapshots.append(
            lake,
            {
                name: table(name, {key: [row[key] for row in rows] for key in rows[0]})
                for name, rows in found.items()
            },
        )
        return lake


def shop() -> Telemetry:
    """Six hours with one trace per minute: a page, three calls below it, a query below each."""
    made = Telemetry()
    for minute in range(HOURS * 60):
        start = MONDAY_NS + minute * 60 * NS_PER_S
        trace = f"{minute + 1:032x}"
        made.spans.append(_span(trace, 0, None, start, 100, "server", "GET /"))
        for call in (1, 2, 3):
            begun = start + call * 20 * MS
            made.spans.append(_span(trace, call, 0, begun, 15, "client", "call"))
            made.spans.append(_span(trace, 10 + call, call, begun + MS, 10, "client", "SELECT"))
        point: Row = {"time": start, "start_time": MONDAY_NS, "service_name": "shop", "flags": 0}
        for name, unit in (("cpu", "1"), ("memory", "By")):
            made.metric_points.append(
                point | {"name": name, "unit": unit, "value": 0.5, "monotonic": False}
            )
        made.histogram_points.append(
            point
            | {"name": "duration", "unit": "s", "count": 3, "min": 0.1, "max": 0.4}
            | {"explicit_bounds": [0.2], "bucket_counts": [1, 2]}
        )
        made.exp_histogram_points.append(
            point
            | {"name": "size", "unit": "By", "count": 4, "zero_count": 1}
            | {"positive_bucket_counts": [1, 2], "negative_bucket_counts": []}
        )
        made.summary_points.append(
            point
            | {"name": "gc", "unit": "s", "count": 4}
            | {"quantiles": [0.5, 1.0], "quantile_values": [0.1, 0.2]}
        )
        made.logs.append({"time": start, "service_name": "shop", "severity_number": 9})
    return made


def _span(
    trace: str, number: int, parent: int | None, start: int, ms: int, kind: str, name: str
) -> Row:
    return {
        "time": start,
        "duration_ns": ms * MS,
        "trace_id": trace,
        "span_id": f"{number + 1:016x}",
        "parent_span_id": None if parent is None else f"{parent + 1:016x}",
        "name": name,
        "kind": kind,
        "status_code": "unset",
        "service_name": "shop",
        "http_response_status_code": 200,
    }


def check(
    lake: Path, *, now: datetime | None = LAST, history_days: float | None = None, **limits: Any
) -> QualityResult:
    with query.connect(lake) as con:
        params = PARAMS.model_copy(update=limits)
        return checks.check(con, params, now=now, history_days=history_days)


def failed(result: QualityResult) -> set[tuple[str, str, str]]:
    return {(e.table, e.name, e.severity) for e in result.expectations if not e.passed}


def some(rows: list[Row], share: float) -> list[Row]:
    return random.Random(7).sample(rows, round(len(rows) * share))


def update(rows: list[Row], **values: Any) -> None:
    for row in rows:
        row.update(values)


def duplicate(shop: Telemetry) -> None:
    shop.spans += [dict(span) for span in some(shop.spans, 0.05)]


def two_hours_of_silence(shop: Telemetry) -> None:
    begin, end = (MONDAY_NS + hour * 3600 * NS_PER_S for hour in (2, 4))
    shop.spans = [span for span in shop.spans if not begin <= span["time"] < end]


def lose_parents(shop: Telemetry) -> None:
    children = [span for span in shop.spans if span["parent_span_id"]]
    update(some(children, 0.2), parent_span_id="ffffffffffffffff")


def start_early(shop: Telemetry) -> None:
    for span in some(shop.leaves(), 0.6):
        span["time"] -= 5 * MS


def end_late(shop: Telemetry) -> None:
    update(some(shop.leaves(), 0.6), duration_ns=50 * MS)


def change_unit(shop: Telemetry) -> None:
    memory = [point for point in shop.metric_points if point["name"] == "memory"]
    update(memory[len(memory) // 2 :], unit="MiBy")


DEFECTS: list[tuple[Callable[[Telemetry], None], str, str, str]] = [
    (lambda s: update(some(s.spans, 0.05), service_name=None), "spans", "null_ratio", "error"),
    (lambda s: update(some(s.spans, 0.05), name=""), "spans", "null_ratio", "error"),
    (duplicate, "spans", "duplicate_ratio", "error"),
    (two_hours_of_silence, "spans", "gap_s", "warning"),
    (lose_parents, "spans", "orphan_ratio", "error"),
    (start_early, "spans", "skew_ratio", "error"),
    (end_late, "spans", "skew_ratio", "error"),
    (
        lambda s: update(some(s.leaves(), 0.1), duration_ns=-MS),
        "spans",
        "negative_duration_ratio",
        "error",
    ),
    (
        lambda s: update(some(s.roots(), 0.1), duration_ns=90_000 * NS_PER_S),
        "spans",
        "long_duration_ratio",
        "error",
    ),
    (
        lambda s: update(some(s.spans, 0.05), http_response_status_code=0),
        "spans",
        "http_status_ratio",
        "error",
    ),
    (lambda s: update(some(s.spans, 0.05), kind="SERVER"), "spans", "unknown_word_ratio", "error"),
    (
        lambda s: [
            update(s.spans, trace_state="ot=th:8"),
            update(some(s.spans, 0.05), trace_state="ot=th:half"),
        ],
        "spans",
        "threshold_ratio",
        "error",
    ),
    (change_unit, "metrics", "mixed_unit_ratio", "error"),
    (
        lambda s: update(s.metric_points[:20], value=float("nan")),
        "metric_points",
        "invalid_ratio",
        "error",
    ),
    (
        lambda s: update(s.metric_points[:20], start_time=MONDAY_NS + 10**15),
        "metric_points",
        "invalid_ratio",
        "error",
    ),
    (
        lambda s: update(s.histogram_points[:20], bucket_counts=[1, 1]),
        "histogram_points",
        "invalid_ratio",
        "error",
    ),
    (
        lambda s: update(s.exp_histogram_points[:20], zero_count=9),
        "exp_histogram_points",
        "invalid_ratio",
        "error",
    ),
    (
        lambda s: update(s.summary_points[:20], quantiles=[0.5, 1.5]),
        "summary_points",
        "invalid_ratio",
        "error",
    ),
    (lambda s: update(s.logs[:20], severity_number=42), "logs", "severity_ratio", "error"),
    (lambda s: update(s.logs[:2], service_name=None), "logs", "null_ratio", "warning"),
]


@pytest.mark.parametrize(("plant", "where", "name", "severity"), DEFECTS)
def test_a_planted_defect_is_found_by_its_own_expectation_alone(
    tmp_path: Path, plant: Callable[[Telemetry], None], where: str, name: str, severity: str
) -> None:
    telemetry = shop()
    plant(telemetry)
    table_of_it = "metric_points" if where == "metrics" else where
    result = check(telemetry.save(tmp_path, "spans", table_of_it))
    assert failed(result) == {(where, name, severity)}
    assert result.passed is (severity == "warning")


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shop().save(tmp_path_factory.mktemp("clean"))


def test_a_clean_lake_meets_every_expectation_of_every_table(clean: Path) -> None:
    result = check(clean)
    assert failed(result) == set()
    assert result.passed
    assert {e.table for e in result.expectations} == {*measures.TABLES, "metrics"}
    assert all(e.observed is not None for e in result.expectations)


def test_an_old_newest_span_stops_publishing_only_where_its_age_counts(clean: Path) -> None:
    late = LAST + timedelta(days=3)
    assert failed(check(clean, now=late)) == {("spans", "age_s", "error")}
    assert check(clean, now=late, check_age=False).passed
    assert check(clean, now=None).passed


def test_a_span_of_the_future_does_not_hide_a_stalled_exporter(clean: Path) -> None:
    result = check(clean, now=LAST - timedelta(days=1))
    assert failed(result) == {("spans", "age_s", "error")}
    assert "needs at least -1 h" in str(result.failures()[0])


def test_age_counts_in_a_lake_fed_live_and_not_in_a_recording(clean: Path, tmp_path: Path) -> None:
    now = datetime.now(UTC)
    assert checks.age_clock(clean, PARAMS, now=now) is None
    fresh = shop()
    for span in fresh.spans:
        span["time"] += int(now.timestamp() - LAST.timestamp()) * NS_PER_S
    live = fresh.save(tmp_path)
    assert is_live(live, max_delay_s=3600)
    assert checks.age_clock(live, PARAMS, now=now) == now
    assert checks.age_clock(live, PARAMS.model_copy(update={"check_age": False}), now=now) is None


def test_columns_of_another_type_or_name_fail_the_schema_alone(tmp_path: Path) -> None:
    lake = shop().save(tmp_path, "spans")
    for part in sorted((lake / "spans").rglob("*.parquet")):
        found = pq.read_table(part, partitioning=None)
        place = found.column_names.index("duration_ns")
        found = found.set_column(place, "duration_ns", found["duration_ns"].cast(pa.string()))
        pq.write_table(found.rename_columns({"trace_state": "state"}), part)
    result = check(lake)
    assert failed(result) == {("spans", "schema", "error")}
    [schema] = result.failures()
    assert schema.observed == 3
    assert "duration_ns is VARCHAR, needs BIGINT; trace_state is missing" in schema.note


@pytest.mark.parametrize("damage", ["text", "rubbish", "cut", "flipped", "missing"])
def test_one_damaged_part_among_many_fails_one_expectation(tmp_path: Path, damage: str) -> None:
    lake = shop().save(tmp_path, "spans")
    first = set((lake / "spans").rglob("*.parquet"))
    later = Telemetry(spans=shop().spans)
    for span in later.spans:
        span["time"] += 24 * 3600 * NS_PER_S
        span["trace_id"] = span["trace_id"].replace("0", "a")
    later.save(lake)
    last = max(set((lake / "spans").rglob("*.parquet")) - first)
    if damage == "text":
        found = pq.read_table(last, partitioning=None)
        words = pa.array(["long"] * found.num_rows)
        place = found.column_names.index("duration_ns")
        pq.write_table(found.set_column(place, "duration_ns", words), last)
        result = check(lake, now=None)
        assert failed(result) == {("spans", "schema", "error")}
        assert result.failures()[0].note
        return
    content = bytearray(last.read_bytes())
    content[len(content) // 2] ^= 1
    changed = {"rubbish": b"no Parquet at all", "cut": content[: len(content) // 2]}
    last.write_bytes(changed.get(damage, content))
    if damage == "missing":
        last.unlink()
    with pytest.warns(PartsLeftOut, match="2,520 rows from 2026-03-03 00:00"):
        result = check(lake, now=None)
    assert failed(result) == {("spans", "missing_rows", "warning")}
    [missing] = result.warnings()
    assert missing.observed == 2_520
    assert ("missing" if damage == "missing" else "damaged") in missing.note


def test_an_empty_lake_fails_in_plain_words(tmp_path: Path) -> None:
    telemetry = shop()
    telemetry.spans.clear()
    result = check(telemetry.save(tmp_path / "no_spans"))
    assert failed(result) == {("spans", "rows", "error")}
    snapshots.append(tmp_path / "nothing", {})
    result = check(tmp_path / "nothing", now=None)
    assert str(result.failures()[0]) == "spans: spans to learn from: 0 rows, needs at least 1 rows"
    assert "apm import" in result.failures()[0].advice


def test_a_little_of_a_defect_warns_and_stops_nothing(tmp_path: Path) -> None:
    telemetry = shop()
    telemetry.spans.append(dict(telemetry.spans[9]))
    update(telemetry.leaves()[50:51], service_name=None)
    update(telemetry.leaves()[90:92], parent_span_id="ffffffffffffffff")
    result = check(telemetry.save(tmp_path, "spans"))
    assert failed(result) == {
        ("spans", "duplicate_ratio", "warning"),
        ("spans", "null_ratio", "warning"),
    }
    assert result.passed
    assert [e.note for e in result.warnings() if e.name == "null_ratio"] == ["service_name"]


def test_traces_cut_by_the_recording_are_no_orphans(tmp_path: Path) -> None:
    telemetry = shop()
    ends = {telemetry.spans[0]["trace_id"], telemetry.spans[-1]["trace_id"]}
    telemetry.spans = [
        span for span in telemetry.spans if span["parent_span_id"] or span["trace_id"] not in ends
    ]
    result = check(telemetry.save(tmp_path, "spans"), warn_orphan_ratio=0.0, max_orphan_ratio=0.0)
    assert failed(result) == set()


def test_asynchronous_work_that_outlives_its_cause_is_no_skew(tmp_path: Path) -> None:
    telemetry = shop()
    update(telemetry.leaves(), kind="consumer", duration_ns=500 * MS)
    assert check(telemetry.save(tmp_path, "spans")).passed


def test_what_lies_before_the_history_is_not_judged(tmp_path: Path) -> None:
    telemetry = shop()
    two_hours_of_silence(telemetry)
    update(telemetry.spans[:20], service_name=None)
    lake = telemetry.save(tmp_path, "spans")
    assert len(failed(check(lake))) == 2
    assert failed(check(lake, history_days=1.5 / 24)) == set()


def test_slices_of_the_traces_add_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    telemetry = shop()
    duplicate(telemetry)
    lose_parents(telemetry)
    start_early(telemetry)
    lake = telemetry.save(tmp_path, "spans")
    whole = check(lake)
    monkeypatch.setattr(measures, "SLICE_SPANS", 400)
    assert check(lake).expectations == whole.expectations


def test_a_result_survives_its_file(tmp_path: Path, clean: Path) -> None:
    result = check(clean, now=LAST + timedelta(days=3))
    file = tmp_path / "derived" / "quality.json"
    result.write(file)
    assert QualityResult.read(file) == result
    assert json.loads(file.read_text())["passed"] is False


@pytest.mark.parametrize("text", ["", "[]", '{"expectations": [{}]}', '{"checked_at": 1}'])
def test_a_file_that_holds_no_result_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "quality.json").write_text(text)
    with pytest.raises(BadInput, match="apm nightly"):
        QualityResult.read(tmp_path / "quality.json")


def test_no_result_yet_is_an_error_that_helps(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="apm nightly"):
        QualityResult.read(tmp_path / "quality.json")


class _Links(HTMLParser):
    """Collects what a browser would fetch, and the state of each row."""

    def __init__(self) -> None:
        super().__init__()
        self.fetched: list[str | None] = []
        self.states: dict[str | None, str | None] = {}

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = dict(attrs)
        self.fetched += [named[key] for key in ("src", "href") if key in named]
        if tag == "script":
            self.fetched.append(tag)
        if "data-name" in named:
            self.states[named["data-name"]] = named["class"]


def test_the_page_shows_what_failed_first_and_fetches_nothing(tmp_path: Path) -> None:
    telemetry = shop()
    lose_parents(telemetry)
    two_hours_of_silence(telemetry)
    result = check(telemetry.save(tmp_path / "lake", "spans"))
    write_page(result, tmp_path / "quality.html")
    html = (tmp_path / "quality.html").read_text()
    links = _Links()
    links.feed(html)
    assert links.fetched == []
    assert list(links.states.items())[:2] == [("orphan_ratio", "error"), ("gap_s", "warning")]
    assert "after 2026-03-02 01:59 UTC" in html
    assert "nothing new is published" in html
    assert "url(" not in html and "@import" not in html


def test_the_page_escapes_names_that_come_from_outside(tmp_path: Path) -> None:
    telemetry = shop()
    update(telemetry.metric_points, name="<script>alert(1)</script>")
    html = page(check(telemetry.save(tmp_path)))
    assert "<script" not in html
    assert "&lt;script&gt;alert(1)" in html


def test_a_warning_limit_above_its_stop_is_refused() -> None:
    values = PARAMS.model_dump() | {"warn_orphan_ratio": 0.5}
    with pytest.raises(ValidationError, match="warn_orphan_ratio"):
        QualityParams.model_validate(values)


OWN = """\
measures:
  - name: failed_ratio
    table: spans
    sql: >
      select count(*) filter (status_code = 'error') / count(*) from spans
      where $since::timestamp is null or time >= $since::timestamp::timestamp_ns
expectations:
  - tables: [spans]
    measure: failed_ratio
    description: spans that failed
    advice: look at them
    warning: {max: 0.0}
    error: {max: 0.5}
  - tables: [spans, logs]
    measure: rows
    unit: rows
    description: rows at all
    advice: send some
    error: {min: 100}
"""


def with_own(folder: Path, text: str = OWN) -> Path:
    (folder / "quality.yaml").write_text(text)
    return folder


def test_own_expectations_on_own_measures_join_the_suite(tmp_path: Path) -> None:
    telemetry = shop()
    update(some(telemetry.spans, 0.1), status_code="error")
    lake, specs = telemetry.save(tmp_path / "lake", "spans", "logs"), with_own(tmp_path)
    listed = checks.table(checks.suite(PARAMS, specs=specs))
    packaged = checks.table(checks.suite(PARAMS))
    assert listed.height == packaged.height + 4
    (warning, error) = listed.filter(name="failed_ratio").to_dicts()
    assert (warning["severity"], warning["max"]) == ("warning", 0.0)
    assert (error["severity"], error["max"]) == ("error", 0.5)
    with query.connect(lake) as con:
        result = checks.check(con, PARAMS, now=LAST, history_days=1, specs=specs)
    assert failed(result) == {("spans", "failed_ratio", "warning")}
    (failure,) = result.warnings()
    assert failure.observed == pytest.approx(0.1, abs=0.001)
    assert str(failure).startswith("spans: spans that failed: 10 %, needs at most 0 %")


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("measure: failed_ratio", "measure: failed", r"quality.yaml:8: .*no measure 'failed'"),
        ("tables: [spans]", "tables: [span]", r"quality.yaml:8: .*tables.0: .*no such table"),
        ("{max: 0.5}", "{max: max_ratio}", r"quality.yaml:8: .*no 'max_ratio'; has warn_null"),
        ("{max: 0.5}", "{}", r"quality.yaml:13: expectations.0.error: .*needs min or max"),
        ("status_code =", "status =", r"quality.yaml:2: failed_ratio needs a SELECT"),
    ],
)
def test_a_quality_spec_that_does_not_fit_is_refused_with_its_line(
    tmp_path: Path, clean: Path, before: str, after: str, message: str
) -> None:
    specs = with_own(tmp_path, OWN.replace(before, after))
    with query.connect(clean) as con, pytest.raises(BadParameter, match=message):
        checks.check(con, PARAMS, now=None, specs=specs)


def test_the_limit_for_spans_from_the_future_is_that_of_live_lakes() -> None:
    (age,) = checks.table(checks.suite(PARAMS)).filter(name="age_s").to_dicts()
    assert age["min"] == -MAX_LEAD_S


def test_real_traces_are_fit_to_learn_from(tmp_path: Path, real_data: Path) -> None:
    traces = real_data / "train-ticket" / "2023-01-30" / "traces.jsonl.gz"
    import_files([traces], tmp_path, workers=1, progress=False)
    now = checks.age_clock(tmp_path, PARAMS, now=datetime.now(UTC))
    result = check(tmp_path, now=now)
    assert failed(result) == set()
    observed = {e.name: e.observed for e in result.expectations}
    # Counted from the OTLP documents themselves: 180,214 children, 418 of them end late.
    assert observed["rows"] == 182_751
    assert observed["skew_ratio"] == pytest.approx(418 / 180_214)
    assert observed["orphan_ratio"] == observed["duplicate_ratio"] == 0
    assert observed["gap_s"] == pytest.approx(662.714, abs=0.001)
