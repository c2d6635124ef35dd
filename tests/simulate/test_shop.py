"""The simulated shop: its files parse, agree with the truth file and are consistent."""

import io
import json
import resource
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from apm_analytics.foundation.errors import BadParameter
from apm_analytics.simulate import catalog, kpis, shop, timeline, wire
from apm_analytics.simulate.fleet import Fleet
from apm_analytics.simulate.metrics import MetricWriter
from apm_analytics.simulate.observed import Observed, Operation
from apm_analytics.simulate.spans import WIDTHS, SpanWriter, calls
from apm_analytics.simulate.truth import describe

END = datetime(2026, 11, 23, 13, 5, tzinfo=UTC)  # a Monday
DAYS, SPANS, SEED = 3, 60_000, 7
KINDS = {value: name.removeprefix("SPAN_KIND_").lower() for name, value in Span.SpanKind.items()}


def _messages(path: Path) -> Iterator[bytes]:
    content = pa.CompressedInputStream(pa.OSFile(str(path)), "zstd").read()
    stream = io.BytesIO(content)
    while stream.tell() < len(content):
        size = shift = 0
        while True:
            byte = stream.read(1)[0]
            size |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                break
        message = stream.read(size)
        assert len(message) == size
        yield message


def _attributes(pairs: Any) -> dict[str, Any]:
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value")) for pair in pairs}


def _span_row(process: dict[str, Any], span: Span) -> dict[str, Any]:
    attributes = _attributes(span.attributes)
    return {
        "service": process["service.name"],
        "version": process["service.version"],
        "instance": process["service.instance.id"],
        "name": span.name,
        "kind": KINDS[span.kind],
        "trace_id": span.trace_id,
        "span_id": span.span_id,
        "parent_span_id": span.parent_span_id or None,
        "start": span.start_time_unix_nano,
        "end": span.end_time_unix_nano,
        "error": span.status.code == Status.STATUS_CODE_ERROR,
        "error_type": attributes.get("error.type"),
        "link": span.links[0].span_id if span.links else None,
        "user": attributes.get("user.id"),
        "session": attributes.get("session.id"),
        "path": attributes.get("url.path"),
        "status": attributes.get("http.response.status_code"),
        "exceptions": sum(event.name == "exception" for event in span.events),
        "keys": sorted(attributes),
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shop.write(
        tmp_path_factory.mktemp("shop"),
        days=DAYS,
        spans=SPANS,
        seed=SEED,
        end=END,
        progress=False,
    )


@pytest.fixture(scope="module")
def truth(folder: Path) -> dict[str, Any]:
    told: dict[str, Any] = json.loads((folder / "truth.json").read_text())
    return told


@pytest.fixture(scope="module")
def requests(folder: Path) -> list[ExportTraceServiceRequest]:
    return [
        ExportTraceServiceRequest.FromString(message)
        for path in sorted(folder.glob("traces-*.pb.zst"))
        for message in _messages(path)
    ]


@pytest.fixture(scope="module")
def spans(requests: list[ExportTraceServiceRequest]) -> pl.DataFrame:
    rows = []
    for request in requests:
        for group in request.resource_spans:
            process = _attributes(group.resource.attributes)
            for scope in group.scope_spans:
                rows += [_span_row(process, span) for span in scope.spans]
    return pl.DataFrame(rows, infer_schema_length=None).with_columns(
        seconds=(pl.col("end") - pl.col("start")) / 1e9
    )


@pytest.fixture(scope="module")
def entries(spans: pl.DataFrame) -> pl.DataFrame:
    return spans.filter(pl.col("kind").is_in(["server", "consumer"]))


@pytest.fixture(scope="module")
def metrics(folder: Path) -> list[ExportMetricsServiceRequest]:
    return [
        ExportMetricsServiceRequest.FromString(message)
        for path in sorted(folder.glob("metrics-*.pb.zst"))
        for message in _messages(path)
    ]


@pytest.fixture(scope="module")
def logs(folder: Path) -> list[Any]:
    return [
        record
        for path in sorted(folder.glob("logs-*.pb.zst"))
        for message in _messages(path)
        for group in ExportLogsServiceRequest.FromString(message).resource_logs
        for scope in group.scope_logs
        for record in scope.log_records
    ]


@pytest.fixture(scope="module")
def four_weeks(tmp_path_factory: pytest.TempPathFactory) -> tuple[timeline.Timeline, Observed]:
    """What 28 days of a quarter million spans show, window by window."""
    plan = timeline.plan(days=28, seed=SEED, end=END)
    observed = Observed(plan)
    writer = SpanWriter(plan, Fleet(plan), 250_000)
    path = tmp_path_factory.mktemp("weeks") / "day.pb.zst"
    for day in range(28):
        writer.write_day(day, path, observed)
    return plan, observed


def _ns(text: str) -> int:
    return int(datetime.fromisoformat(text).timestamp()) * 10**9


# --- the files ----------------------------------------------------------------------------------


def test_the_truth_file_counts_every_span(truth: dict[str, Any], spans: pl.DataFrame) -> None:
    assert truth["counts"]["spans"] == spans.height
    assert spans.height == pytest.approx(SPANS, rel=0.1)


def test_the_truth_file_counts_every_point_by_type(
    truth: dict[str, Any], metrics: list[ExportMetricsServiceRequest]
) -> None:
    counted: Counter[str] = Counter()
    for request in metrics:
        for group in request.resource_metrics:
            for scope in group.scope_metrics:
                for metric in scope.metrics:
                    kind = metric.WhichOneof("data")
                    assert kind is not None
                    counted[kind] += len(getattr(metric, kind).data_points)
    assert counted == truth["counts"]["points"]
    assert set(counted) == {"gauge", "sum", "histogram", "exponential_histogram", "summary"}


def test_the_truth_file_counts_every_log_record(truth: dict[str, Any], logs: list[Any]) -> None:
    assert truth["counts"]["logs"] == len(logs) > 0


def test_the_truth_file_counts_requests_and_errors_of_every_operation(
    truth: dict[str, Any], entries: pl.DataFrame
) -> None:
    counted = entries.group_by("service", "name").agg(pl.len(), pl.col("error").sum())
    assert {
        (row["service_name"], row["operation"]): (row["requests"], row["errors"])
        for row in truth["operations"]
    } == {(service, name): (count, errors) for service, name, count, errors in counted.rows()}
    assert len(truth["operations"]) == 25
    assert entries["service"].n_unique() == 6


def test_the_same_arguments_write_the_same_bytes(tmp_path: Path) -> None:
    folders = [
        shop.write(tmp_path / name, days=1, spans=2000, seed=seed, end=END, progress=False)
        for name, seed in (("a", 3), ("b", 3), ("c", 4))
    ]
    first, again, other = (
        {path.name: path.read_bytes() for path in folder.iterdir()} for folder in folders
    )
    assert first == again
    assert first.keys() == other.keys() and first != other


def test_an_earlier_recording_in_the_folder_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "traces-2001-01-01.pb.zst").write_bytes(b"old")
    (tmp_path / "notes.pb.zst").write_bytes(b"not ours")
    shop.write(tmp_path, days=1, spans=500, seed=1, end=END, progress=False)
    assert not (tmp_path / "traces-2001-01-01.pb.zst").exists()
    assert (tmp_path / "notes.pb.zst").read_bytes() == b"not ours"


def test_a_recording_of_almost_nothing_has_no_empty_files(tmp_path: Path) -> None:
    shop.write(tmp_path, days=3, spans=1, seed=1, end=END, progress=False)
    told = json.loads((tmp_path / "truth.json").read_text())
    assert all(list(_messages(path)) for path in tmp_path.glob("*.pb.zst"))
    assert told["counts"]["spans"] < 50


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"days": 0}, "days is 0"),
        ({"spans": 0}, "spans is 0"),
        ({"seed": -1}, "seed is -1"),
        ({"end": END.replace(tzinfo=None)}, "without a time zone"),
        ({"end": datetime(1970, 1, 2, tzinfo=UTC)}, "before 1970"),
    ],
)
def test_a_parameter_out_of_range_is_refused_by_name(
    tmp_path: Path, change: dict[str, Any], found: str
) -> None:
    arguments: dict[str, Any] = {"days": 1, "spans": 100, "seed": 1, "end": END} | change
    with pytest.raises(BadParameter, match=found):
        shop.write(tmp_path / "new", progress=False, **arguments)
    assert not (tmp_path / "new").exists()


def test_a_folder_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(BadParameter, match="choose a folder"):
        shop.write(tmp_path / "file", days=1, spans=100, seed=1, end=END, progress=False)


def test_a_full_disk_is_told_and_leaves_no_truth_file(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))
    try:
        with pytest.raises(BadParameter, match="free some space"):
            shop.write(tmp_path, days=1, spans=5000, seed=1, end=END, progress=False)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not (tmp_path / "truth.json").exists()


# --- spans --------------------------------------------------------------------------------------


def test_requests_are_small_and_roughly_sorted(requests: list[ExportTraceServiceRequest]) -> None:
    begins = []
    for request in requests:
        assert request.ByteSize() <= 2_000_000
        groups = [
            [span.start_time_unix_nano for scope in group.scope_spans for span in scope.spans]
            for group in request.resource_spans
        ]
        times = [time for group in groups for time in group]
        assert max(times) - min(times) <= 3600 * 10**9
        begins.append(min(times))
        for group in request.resource_spans:
            for scope in group.scope_spans:
                inside = [span.start_time_unix_nano for span in scope.spans]
                assert inside == sorted(inside)
    assert np.mean(np.diff(begins) > 0) > 0.95


def test_a_busy_hour_is_split_into_requests_below_the_limit(tmp_path: Path) -> None:
    plan = timeline.plan(days=1, seed=SEED, end=END)
    path = tmp_path / "day.pb.zst"
    number, _ = SpanWriter(plan, Fleet(plan), 300_000).write_day(0, path, Observed(plan))
    sizes = [len(message) for message in _messages(path)]
    assert number > 250_000
    assert 1_500_000 < max(sizes) <= 2_000_000


def test_no_span_id_appears_twice(spans: pl.DataFrame) -> None:
    assert spans["span_id"].n_unique() == spans.height
    assert set(spans["span_id"].bin.size().unique()) == {8}
    assert set(spans["trace_id"].bin.size().unique()) == {16}
    roots = spans.filter(pl.col("parent_span_id").is_null())
    assert roots["trace_id"].n_unique() == roots.height


def test_every_child_lies_within_its_parent_and_trace(spans: pl.DataFrame) -> None:
    children = spans.filter(pl.col("parent_span_id").is_not_null())
    pairs = children.join(
        spans.select("span_id", "start", "end", "trace_id"),
        left_on="parent_span_id",
        right_on="span_id",
        suffix="_parent",
    )
    assert pairs.height == children.height  # no orphans
    assert pairs.filter(
        (pl.col("start") < pl.col("start_parent"))
        | (pl.col("end") > pl.col("end_parent"))
        | (pl.col("trace_id") != pl.col("trace_id_parent"))
    ).is_empty()
    assert pairs.height / spans.height > 0.4


def test_every_consumer_links_the_span_that_sent_its_message(spans: pl.DataFrame) -> None:
    consumers = spans.filter(pl.col("kind") == "consumer")
    sent = consumers.join(
        spans.filter(pl.col("kind") == "producer"), left_on="link", right_on="span_id"
    )
    assert sent.height == consumers.height > 0
    assert (sent["start"] >= sent["end_right"]).all()
    assert (sent["trace_id"] != sent["trace_id_right"]).all()


def test_every_span_lies_within_the_recording(spans: pl.DataFrame, truth: dict[str, Any]) -> None:
    start, end = _ns(truth["recording"]["start"]), _ns(truth["recording"]["end"])
    assert end == int(END.timestamp()) * 10**9
    assert spans["start"].min() >= start
    assert end - 10 * 60 * 10**9 < spans["end"].max() < end
    assert (spans["end"] > spans["start"]).all()


def test_values_of_a_request_are_the_same_in_all_its_spans(spans: pl.DataFrame) -> None:
    view = spans.filter(pl.col("path").str.contains("products/"))
    products = view.with_columns(product=pl.col("path").str.extract(r"(\d{4})$"))
    assert products["product"].is_not_null().all()
    assert (products.group_by("trace_id").agg(pl.col("product").n_unique())["product"] == 1).all()
    assert products["product"].n_unique() > 100
    users = spans["user"].drop_nulls()
    assert users.str.contains(r"^u-[0-9a-f]{8}$").all()
    assert users.n_unique() > 100


def test_a_session_is_one_persons_visit_in_the_order_of_a_purchase(entries: pl.DataFrame) -> None:
    visits = entries.filter(pl.col("session").is_not_null()).group_by("session")
    seen = visits.agg(
        pages=pl.len(),
        people=pl.col("user").n_unique(),
        seconds=(pl.col("start").max() - pl.col("start").min()) / 1e9,
        looked=pl.col("start").filter(pl.col("name").str.starts_with("GET /products")).min(),
        paid=pl.col("start").filter(pl.col("name") == "POST /checkout").max(),
    )
    assert seen["people"].unique().to_list() == [1]
    assert 3 < seen["pages"].median() < 7
    assert seen["seconds"].quantile(0.95) < 1_200
    both = seen.filter(pl.col("looked").is_not_null() & pl.col("paid").is_not_null())
    assert both.height > 50
    assert (both["looked"] < both["paid"]).mean() > 0.95


def test_spans_carry_the_attributes_of_their_kind(spans: pl.DataFrame) -> None:
    edge = set(spans.filter(pl.col("name") == "POST /checkout")["keys"][0])
    assert edge >= {
        *("http.request.method", "http.route", "http.response.status_code", "url.path"),
        *("server.address", "user.id", "session.id", "organization.id", "client.address"),
        *("business.transaction", "business.operation"),
    }
    query = set(spans.filter(pl.col("name") == "SELECT products")["keys"][0])
    assert query >= {
        *("db.system.name", "db.namespace", "db.operation.name", "db.collection.name"),
        *("db.query.text", "server.address"),
    }
    outside = set(spans.filter(pl.col("name") == "POST /v1/charges")["keys"][0])
    assert outside >= {"peer.service", "server.address"}


def test_a_failure_has_a_type_and_its_origin_an_exception(spans: pl.DataFrame) -> None:
    failed = spans.filter("error")
    assert 0.002 < failed.height / spans.height < 0.05
    assert failed["error_type"].is_not_null().all()
    assert spans.filter(~pl.col("error"))["error_type"].is_null().all()
    assert (failed.filter(pl.col("kind") == "server")["status"] == 500).all()
    below = set(failed["parent_span_id"].drop_nulls())
    for span_id, exceptions in failed.select("span_id", "exceptions").iter_rows():
        assert exceptions == (span_id not in below)


def test_a_failed_call_fails_its_callers(spans: pl.DataFrame) -> None:
    failed = spans.filter("error")
    parents = spans.join(
        failed.select("parent_span_id"), left_on="span_id", right_on="parent_span_id"
    )
    assert parents.height > 0
    assert parents["error"].all()


def test_nothing_is_called_after_a_failed_call(spans: pl.DataFrame) -> None:
    children = spans.filter(pl.col("parent_span_id").is_not_null())
    failed = children.filter("error").select("parent_span_id", failed_at="end")
    later = children.join(failed, on="parent_span_id").filter(
        pl.col("start") >= pl.col("failed_at")
    )
    assert failed.height > 0
    assert later.is_empty()


def test_versions_change_at_deployments(spans: pl.DataFrame, truth: dict[str, Any]) -> None:
    assert len(truth["deployments"]) >= 4
    for deployment in truth["deployments"]:
        at = _ns(deployment["time"])
        own = spans.filter(pl.col("service") == deployment["service_name"])
        before = own.filter(pl.col("start").is_between(at - 30 * 60 * 10**9, at - 1))
        after = own.filter(pl.col("start").is_between(at + 121 * 10**9, at + 30 * 60 * 10**9))
        assert set(before["version"]) == {deployment["previous_version"]}
        assert set(after["version"]) == {deployment["version"]}
        assert not set(before["instance"]) & set(after["instance"])
        assert after["instance"].n_unique() == 2


def test_entry_spans_are_a_large_share(spans: pl.DataFrame, entries: pl.DataFrame) -> None:
    assert spans.height / entries.height < 2.1
    popularity = entries.group_by("service", "name").len()["len"]
    assert popularity.max() / popularity.min() < 6  # type: ignore[operator]


# --- seasons, incidents -------------------------------------------------------------------------


def test_demand_has_days_nights_and_weekends(
    four_weeks: tuple[timeline.Timeline, Observed],
) -> None:
    plan, observed = four_weeks
    counts = np.sum([seen.count for seen in observed.operations.values()], axis=0)
    seconds = plan.start_ns // 10**9 + np.arange(plan.windows) * 300
    hours = seconds % 86400 // 3600
    weekend = (seconds // 86400 + 3) % 7 >= 5
    day, night = counts[(hours >= 9) & (hours < 20)].mean(), counts[hours < 5].mean()
    assert 1.8 < day / night < 3.2
    assert 0.7 < counts[weekend].mean() / counts[~weekend].mean() < 0.86
    first, last = counts[: 7 * 288].mean(), counts[-7 * 288 :].mean()
    assert 1.0 < last / first < 1.3


def test_latency_rises_with_load(four_weeks: tuple[timeline.Timeline, Observed]) -> None:
    plan, observed = four_weeks
    seen = observed.operations["storefront", "POST /signup"]
    busy, idle = plan.demand > 1.3, plan.demand < 0.6
    mean = seen.seconds[busy].sum() / seen.count[busy].sum()
    assert 1.1 < mean / (seen.seconds[idle].sum() / seen.count[idle].sum()) < 1.5


def test_four_weeks_have_incidents_of_every_kind_and_two_quiet_days_first() -> None:
    plan = timeline.plan(days=28, seed=SEED, end=END)
    assert len(plan.incidents) >= 7
    assert {incident.kind.kind for incident in plan.incidents} == {
        *("latency", "errors", "traffic", "saturation")
    }
    quiet = plan.start_ns + 2 * 86_400 * 10**9
    assert all(incident.start_ns >= quiet for incident in plan.incidents)
    for before, after in pairwise(plan.incidents):
        assert before.end_ns < after.start_ns
        assert 20 * 60e9 <= before.end_ns - before.start_ns <= 3 * 3600e9
    assert plan.incidents[-1].ongoing and plan.incidents[-1].end_ns == plan.end_ns
    regressions = [deployment for deployment in plan.deployments if deployment.effects]
    assert len(regressions) == 1
    assert any(
        later.rolls_back and later.start_ns == regressions[0].end_ns for later in plan.deployments
    )


def test_a_single_day_has_only_the_incident_that_goes_on() -> None:
    plan = timeline.plan(days=1, seed=SEED, end=END)
    assert [incident.ongoing for incident in plan.incidents] == [True]
    assert not any(deployment.effects for deployment in plan.deployments)


@pytest.mark.parametrize(
    ("name", "affected"),
    [
        (
            "catalog-db-locks",
            {
                ("catalog", "GET /catalog/products"),
                ("catalog", "GET /catalog/products/{id}"),
                ("catalog", "GET /catalog/search"),
                ("storefront", "GET /products"),
                ("storefront", "GET /products/{id}"),
                ("storefront", "GET /search"),
            },
        ),
        (
            "payment-provider-slow",
            {
                ("payment", "POST /charges"),
                ("checkout", "POST /orders"),
                ("storefront", "POST /checkout"),
            },
        ),
    ],
)
def test_an_incident_raises_the_p95_of_exactly_its_operations(
    name: str, affected: set[tuple[str, str]], entries: pl.DataFrame, truth: dict[str, Any]
) -> None:
    incident = next(one for one in truth["incidents"] if one["name"] == name)
    begins, ends = _ns(incident["start"]), _ns(incident["end"])
    stated = {
        (row["service_name"], row["operation"])
        for row in incident["operations"]
        if "latency_p95" in row["signals"]
    }
    assert stated == affected
    p95 = pl.col("seconds").quantile(0.95)
    inside = pl.col("start").is_between(begins, ends - 1)
    quiet = pl.col("start") < _ns(truth["recording"]["start"]) + 2 * 86_400 * 10**9
    usual = entries.filter(quiet).group_by("service", "name").agg(usual=p95)
    during = entries.filter(inside).group_by("service", "name").agg(p95)
    ratios = {
        (service, operation): seconds / before
        for service, operation, seconds, before in during.join(
            usual, on=["service", "name"]
        ).iter_rows()
    }
    assert len(ratios) == 25
    raised = {operation for operation, ratio in ratios.items() if ratio > 2}
    assert raised == affected
    assert max(ratio for operation, ratio in ratios.items() if operation not in affected) < 1.7


def test_an_error_burst_fails_exactly_its_operations(
    entries: pl.DataFrame, truth: dict[str, Any]
) -> None:
    incident = next(one for one in truth["incidents"] if one["name"] == "payment-provider-errors")
    inside = pl.col("start").is_between(_ns(incident["start"]), _ns(incident["end"]) - 1)
    ratios = entries.filter(inside).group_by("service", "name").agg(pl.col("error").mean())
    failing = {(service, name) for service, name, ratio in ratios.iter_rows() if ratio > 0.12}
    assert failing == {
        ("payment", "POST /charges"),
        ("checkout", "POST /orders"),
        ("storefront", "POST /checkout"),
    }
    stated = {(row["service_name"], row["operation"]): row for row in incident["operations"]}
    assert {key for key, row in stated.items() if "error_ratio" in row["signals"]} == failing
    # The calls after the charge are then not made.
    assert {key for key, row in stated.items() if "rate" in row["signals"]} == {
        ("cart", "DELETE /carts/{id}"),
        ("inventory", "process orders"),
    }


def test_a_traffic_drop_takes_requests_from_every_operation(
    entries: pl.DataFrame, truth: dict[str, Any]
) -> None:
    incident = next(one for one in truth["incidents"] if one["name"] == "edge-unreachable")
    begins, ends = _ns(incident["start"]), _ns(incident["end"])
    lasts = ends - begins
    during = entries.filter(pl.col("start").is_between(begins, ends - 1)).height
    around = entries.filter(
        pl.col("start").is_between(begins - lasts, begins - 1)
        | pl.col("start").is_between(ends, ends + lasts - 1)
    ).height
    assert during / (around / 2) == pytest.approx(0.25, abs=0.1)
    assert len(incident["operations"]) == 25


def test_a_regression_slows_one_operation_by_a_fifth_until_rolled_back() -> None:
    plan = timeline.plan(days=28, seed=SEED, end=END)
    observed = Observed(plan)
    described = describe(plan, _seen(plan, observed), spans_asked=1, counts={}, points={})
    regressions = [one for one in described["deployments"] if one["regression"]]
    assert [one["service_name"] for one in regressions] == ["catalog"]
    own = regressions[0]["regression"]["operations"][0]
    assert own["operation"] == "GET /catalog/search"
    assert own["signals"] == {"latency_p95": pytest.approx(1.2, abs=0.01)}


def _seen(plan: timeline.Timeline, observed: Observed) -> Observed:
    nothing = np.zeros(plan.windows, np.int64)
    observed.operations[kpis.CHECKOUT] = Operation(nothing, nothing, np.zeros(plan.windows))
    return observed


# --- metrics and logs ---------------------------------------------------------------------------


def _metric(metrics: list[ExportMetricsServiceRequest], name: str) -> dict[str, list[Any]]:
    """Points of a metric by service (and host, where processes report it), in time."""
    found: dict[str, list[Any]] = {}
    for request in metrics:
        for group in request.resource_metrics:
            process = _attributes(group.resource.attributes)
            key = f"{process['service.name']} {process.get('host.name', '')}".strip()
            for scope in group.scope_metrics:
                for metric in scope.metrics:
                    if metric.name == name:
                        points = getattr(metric, metric.WhichOneof("data") or "").data_points
                        found.setdefault(key, []).extend(points)
    return found


def test_the_histogram_counts_the_server_spans(
    metrics: list[ExportMetricsServiceRequest], spans: pl.DataFrame
) -> None:
    servers = spans.filter(pl.col("kind") == "server")
    for service, points in _metric(metrics, "http.server.request.duration").items():
        own = servers.filter(pl.col("service") == service)
        assert sum(point.count for point in points) == own.height
        assert sum(point.sum for point in points) == pytest.approx(own["seconds"].sum())
        for point in points:
            assert sum(point.bucket_counts) == point.count
            assert len(point.bucket_counts) == len(point.explicit_bounds) + 1
        assert max(point.max for point in points) == pytest.approx(own["seconds"].max())


def test_the_exponential_histogram_counts_calls_to_the_provider(
    metrics: list[ExportMetricsServiceRequest], spans: pl.DataFrame
) -> None:
    (points,) = _metric(metrics, "http.client.request.duration").values()
    calls = spans.filter(pl.col("name") == "POST /v1/charges")["seconds"].to_numpy()
    assert sum(point.count for point in points) == calls.size
    base = 2 ** (2 ** -points[0].scale)
    for point in points:
        assert sum(point.positive.bucket_counts) == point.count
        if point.count:
            last = point.positive.offset + len(point.positive.bucket_counts) - 1
            assert base**point.positive.offset <= point.min <= base ** (point.positive.offset + 1)
            assert base**last <= point.max <= base ** (last + 1)


def test_the_summary_holds_the_quantiles_of_searches(
    metrics: list[ExportMetricsServiceRequest], spans: pl.DataFrame
) -> None:
    (points,) = _metric(metrics, "catalog.search.duration").values()
    searches = spans.filter(
        (pl.col("name") == "GET /catalog/search") & (pl.col("kind") == "server")
    )
    assert sum(point.count for point in points) == searches.height
    fullest = max(points, key=lambda point: int(point.count))
    inside = searches.filter(
        (pl.col("end") >= fullest.start_time_unix_nano) & (pl.col("end") < fullest.time_unix_nano)
    )["seconds"].to_numpy()
    for value in fullest.quantile_values:
        expected = np.quantile(inside, value.quantile, method="inverted_cdf")
        assert value.value == pytest.approx(expected)


def test_the_counter_restarts_with_its_process_and_never_falls(
    metrics: list[ExportMetricsServiceRequest],
) -> None:
    series = _metric(metrics, "process.cpu.time")
    assert set(series) == {
        *("checkout node-1", "checkout node-2", "storefront node-1", "storefront node-2")
    }
    for points in series.values():
        assert len(points) == DAYS * 288
        starts = [point.start_time_unix_nano for point in points]
        assert len(set(starts)) == 2
        for before, after in pairwise(points):
            assert after.time_unix_nano - before.time_unix_nano == 300 * 10**9
            if after.start_time_unix_nano == before.start_time_unix_nano:
                assert after.as_double > before.as_double
            else:
                assert after.as_double < before.as_double
                assert before.time_unix_nano - 300 * 10**9 <= after.start_time_unix_nano


def test_a_saturated_service_shows_it_in_its_cpu(tmp_path: Path) -> None:
    plan = timeline.plan(days=28, seed=SEED, end=END)
    fleet = Fleet(plan)
    observed = Observed(plan)
    writer = SpanWriter(plan, fleet, 20_000)
    for day in range(28):
        writer.write_day(day, tmp_path / "traces", observed)
    incident = next(one for one in plan.incidents if one.kind.kind == "saturation")
    day = (incident.start_ns - plan.start_ns) // timeline.DAY_NS
    MetricWriter(plan, fleet, observed).write_day(day, tmp_path / "metrics")
    written = [
        ExportMetricsServiceRequest.FromString(message)
        for message in _messages(tmp_path / "metrics")
    ]
    points = _metric(written, "process.cpu.utilization")
    inside = [
        point.as_double
        for point in points["inventory node-1"]
        if incident.start_ns + 300e9 < point.time_unix_nano <= incident.end_ns
    ]
    assert min(inside) > 0.7
    assert max(point.as_double for point in points["catalog node-1"]) < 0.7


def test_kpis_follow_their_stated_relations_at_their_stated_lags(
    four_weeks: tuple[timeline.Timeline, Observed],
) -> None:
    plan, observed = four_weeks
    figures = kpis.figures(plan, observed)
    relations = {relation.kpi: relation for relation in kpis.RELATIONS}
    checkout = observed.operations[kpis.CHECKOUT]

    slow = relations["shop.cart.abandonment"]
    driver = kpis.latency_driver(checkout)
    correlations = [
        np.corrcoef(driver[: plan.windows - lag], figures[slow.kpi][lag:])[0, 1]
        for lag in range(25)
    ]
    lag = slow.lag_s // 300
    assert int(np.argmax(correlations)) == lag
    slope = np.polyfit(driver[:-lag], figures[slow.kpi][lag:], 1)[0]
    assert slope == pytest.approx(slow.coefficient, rel=0.1)

    succeeded = checkout.count - checkout.errors
    broken = relations["shop.orders"]
    lag = broken.lag_s // 300
    errors = kpis.error_driver(checkout)[:-lag]
    share = figures[broken.kpi][lag:].sum() / succeeded[lag:].sum()
    assert share == pytest.approx(0.92, abs=0.02)
    troubled = errors > 0.5
    after = figures[broken.kpi][lag:][troubled].sum() / succeeded[lag:][troubled].sum()
    assert after < share - 0.1

    revenue = figures["shop.revenue"]
    assert revenue.sum() / figures["shop.orders"].sum() == pytest.approx(42, rel=0.05)
    assert (revenue[figures["shop.orders"] == 0] == 0).all()


def test_the_truth_file_states_the_relation_behind_every_kpi(
    truth: dict[str, Any], metrics: list[ExportMetricsServiceRequest]
) -> None:
    for kpi in truth["kpis"]:
        points = _metric(metrics, kpi["name"])[kpi["service_name"]]
        assert len(points) == DAYS * 288
        assert kpi["formula"]
    assert {kpi["lag_s"] for kpi in truth["kpis"]} > {0, 3600}


def test_every_failure_leaves_a_log_record_with_its_span(
    logs: list[Any], spans: pl.DataFrame
) -> None:
    failed = [record for record in logs if record.severity_text == "ERROR"]
    origins = spans.filter(pl.col("exceptions") > 0)
    assert {(record.trace_id, record.span_id) for record in failed} == set(
        origins.select("trace_id", "span_id").rows()
    )
    assert len(failed) == origins.height > 0


def test_some_logs_are_events_with_a_name(logs: list[Any], spans: pl.DataFrame) -> None:
    names = {record.event_name for record in logs}
    assert names == {"", "shop.order.placed", "shop.process.started"}
    orders = {record.span_id for record in logs if record.event_name == "shop.order.placed"}
    placed = spans.filter((pl.col("name") == "POST /orders") & ~pl.col("error"))
    assert 0 < len(orders) < placed.height
    assert orders <= set(placed["span_id"])


# --- wire ---------------------------------------------------------------------------------------


def test_a_template_fills_text_ids_and_times_alike() -> None:
    widths = {"trace": 16, "start": 8, "order": 8}
    span = Span(
        trace_id=wire.sentinel("trace", 16),
        name=wire.with_sentinels("GET /orders/<order>", widths),
        start_time_unix_nano=int.from_bytes(wire.sentinel("start", 8), "little"),
    )
    template = wire.Template(span.SerializeToString(), widths, 2)
    numbers = np.array([0, 12_345_678])
    values = {
        "trace": np.zeros((2, 16), np.uint8),
        "start": wire.word_bytes(np.array([1, 2**62])),
        "order": wire.digits(numbers, 8),
    }
    first, second = (Span.FromString(row[2:]) for row in template.fill(2, values))
    assert (first.name, second.name) == ("GET /orders/00000000", "GET /orders/12345678")
    assert (first.start_time_unix_nano, second.start_time_unix_nano) == (1, 2**62)
    assert first.trace_id == bytes(16)


def test_no_two_slots_share_a_sentinel_and_no_text_holds_one() -> None:
    marks = [wire.sentinel(slot, width).decode() for slot, width in WIDTHS.items()]
    texts = [
        str(value)
        for _, journey in catalog.JOURNEYS
        for call in calls(journey)
        for value in (call.name, call.error_text, *call.attributes.values())
    ]
    for mark in marks:
        assert sum(mark in other for other in marks) == 1
        assert not any(mark in text for text in texts)


def test_mixed_numbers_never_repeat() -> None:
    numbers = np.arange(200_000, dtype=np.uint64)
    assert np.unique(wire.mixed(numbers, 6)).size == numbers.size
