"""`traces.critical_path`: CRISP's cases, and malformed traces."""

import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import rows
from crisp_reference import Node, critical_self

from apm_analytics.lake import query, snapshots
from apm_analytics.traces import critical_path

CASES = [*(f"{number}.json" for number in range(1, 26))]
CASES += [f"err_pattern{kind}/err{number}.json" for kind in range(1, 5) for number in (1, 2)]
NAMES = "ABCDEFGH"


Span = tuple[str, str | None, int, int, str, str]


def columns_of(spans: list[Span], trace: str = "t") -> dict[str, list[object]]:
    """Lay out one trace: id, parent, start and duration in ns, service, operation."""
    columns = list(zip(*spans, strict=True))
    return {
        "time": [rows.MONDAY_NS + start for start in columns[2]],
        "duration_ns": list(columns[3]),
        "trace_id": [trace] * len(spans),
        "span_id": list(columns[0]),
        "parent_span_id": list(columns[1]),
        "service_name": list(columns[4]),
        "name": list(columns[5]),
    }


def lake_of(folder: Path, spans: list[Span]) -> Path:
    """Write one trace."""
    snapshots.append(folder, {"spans": rows.table("spans", columns_of(spans))})
    return folder


def critical_ns(lake: Path) -> dict[str, int]:
    with query.connect(lake) as con:
        path = critical_path.spans(con)
    return {
        span: round(seconds * 1e9)
        for span, seconds in path.select("span_id", "critical_s").iter_rows()
    }


@pytest.mark.parametrize("case", CASES)
def test_crisps_own_cases_agree(real_data: Path, tmp_path: Path, case: str) -> None:
    told: dict[str, Any] = json.loads(
        (real_data / "otlp-samples/crisp/test_cases" / case).read_text()
    )
    (trace,) = told["data"]
    spans = [
        (
            span["spanID"],
            span["references"][0]["spanID"] if span["references"] else None,
            span["startTime"],
            span["duration"],
            trace["processes"][span["processID"]]["serviceName"],
            span["operationName"],
        )
        for span in trace["spans"]
    ]
    expected = told["testing"]
    expected = expected[0] if isinstance(expected, list) else expected["opTimeExclusive"]

    with query.connect(lake_of(tmp_path / "lake", spans)) as con:
        path = critical_path.spans(con)
    found: Counter[str] = Counter()
    for service, operation, seconds in path.select(
        "service_name", "operation", "critical_s"
    ).iter_rows():
        found[f"[{service}] {operation}"] += round(seconds * 1e9)
    assert found == Counter(expected)


def tree(draw: random.Random) -> list[Span]:
    """A tree of up to 8 spans with overlaps, skew, empty spans, orphans and cycles."""
    count = draw.randint(1, 8)
    spans: list[Span] = []
    for number in range(count):
        parent = draw.choice([None, "missing", *NAMES[:count]]) if number else None
        # Few distinct values, so that spans touch and tie.
        most = draw.choice((3, 30, 300))
        start, length = draw.randint(0, most), draw.randint(0, most)
        spans.append((NAMES[number], parent, start, length, "shop", NAMES[number]))
    return spans


def test_any_tree_agrees_with_the_reference(tmp_path: Path) -> None:
    draw = random.Random(4)
    trees = {f"trace-{number}": tree(draw) for number in range(400)}
    tables = [rows.table("spans", columns_of(spans, name)) for name, spans in trees.items()]
    snapshots.append(tmp_path, {"spans": pa.concat_tables(tables)})
    with query.connect(tmp_path) as con:
        ties = dict(con.sql("select distinct span_id, hash(span_id) from spans").fetchall())
        path = critical_path.spans(con)
    found: dict[str, dict[str, int]] = {name: {} for name in trees}
    for trace, span, seconds in path.select("trace_id", "span_id", "critical_s").iter_rows():
        found[trace][span] = round(seconds * 1e9)
    for name, spans in trees.items():
        nodes = [
            Node(span, parent, start, start + length, ties[span])
            for span, parent, start, length, _, _ in spans
        ]
        assert found[name] == critical_self(nodes), spans


def test_a_span_that_arrives_twice_is_one(tmp_path: Path) -> None:
    spans: list[Span] = [
        ("A", None, 0, 100, "shop", "GET /"),
        ("B", "A", 10, 50, "stock", "GET /stock"),
    ]
    lake_of(tmp_path / "lake", spans)
    assert critical_ns(lake_of(tmp_path / "lake", spans)) == {"A": 50, "B": 50}


def test_circles_and_spans_that_are_their_own_parent_end(tmp_path: Path) -> None:
    spans: list[Span] = [
        ("A", None, 0, 100, "shop", "GET /"),
        ("B", "C", 10, 50, "stock", "GET /stock"),
        ("C", "B", 10, 50, "stock", "GET /stock"),
        ("D", "D", 10, 50, "stock", "GET /stock"),
    ]
    assert critical_ns(lake_of(tmp_path / "lake", spans)) == {"A": 100}


def test_the_slowest_step_is_the_one_that_holds_up_the_root(tmp_path: Path) -> None:
    lake = lake_of(
        tmp_path / "lake",
        [
            ("A", None, 0, 100, "shop", "GET /"),
            ("B", "A", 5, 70, "stock", "GET /stock"),
            ("C", "A", 10, 20, "cart", "GET /cart"),  # parallel to B, which takes longer
            ("D", "B", 10, 60, "stock", "SELECT"),
        ],
    )
    with query.connect(lake) as con:
        steps = critical_path.slowest_steps(critical_path.spans(con))
    assert steps["operation"].to_list() == ["SELECT", "GET /", "GET /stock"]
    assert steps["share"].to_list() == pytest.approx([0.6, 0.3, 0.1])
