"""The critical path: CRISP's own cases, and what traces must not be able to do to it."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import rows
from crisp_reference import Node, critical_self
from hypothesis import given, settings
from hypothesis import strategies as st

from apm_analytics.analyze import critical_path
from apm_analytics.lake import query, snapshots

CASES = [*(f"{number}.json" for number in range(1, 26))]
CASES += [f"err_pattern{kind}/err{number}.json" for kind in range(1, 5) for number in (1, 2)]
NAMES = "ABCDEFGH"


def lake_of(folder: Path, spans: list[tuple[str, str | None, int, int, str, str]]) -> Path:
    """Write one trace: id, parent, start and duration in ns, service, operation."""
    columns = list(zip(*spans, strict=True))
    snapshots.append(
        folder,
        {
            "spans": rows.table(
                "spans",
                {
                    "time": [rows.MONDAY_NS + start for start in columns[2]],
                    "duration_ns": columns[3],
                    "trace_id": ["t"] * len(spans),
                    "span_id": columns[0],
                    "parent_span_id": columns[1],
                    "service_name": columns[4],
                    "name": columns[5],
                },
            )
        },
    )
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


@st.composite
def traces(draw: st.DrawFn) -> list[tuple[str, str | None, int, int, str, str]]:
    """Trees of up to 8 spans with overlaps, skew, empty spans, orphans and circles."""
    count = draw(st.integers(1, 8))
    spans: list[tuple[str, str | None, int, int, str, str]] = []
    for number in range(count):
        parent = draw(st.sampled_from([None, "missing", *NAMES[:count]])) if number else None
        start, length = draw(st.integers(0, 300)), draw(st.integers(0, 300))
        spans.append((NAMES[number], parent, start, length, "shop", NAMES[number]))
    return spans


@settings(max_examples=40, deadline=None)
@given(traces())
def test_any_tree_agrees_with_the_reference(
    tmp_path_factory: pytest.TempPathFactory,
    spans: list[tuple[str, str | None, int, int, str, str]],
) -> None:
    lake = lake_of(tmp_path_factory.mktemp("tree") / "lake", spans)
    with query.connect(lake) as con:
        ties = dict(con.sql("select span_id, hash(span_id) from spans").fetchall())
    nodes = [
        Node(span, parent, start, start + length, ties[span])
        for span, parent, start, length, _, _ in spans
    ]
    assert critical_ns(lake) == critical_self(nodes)


def test_a_span_that_arrives_twice_is_one(tmp_path: Path) -> None:
    spans: list[tuple[str, str | None, int, int, str, str]] = [
        ("A", None, 0, 100, "shop", "GET /"),
        ("B", "A", 10, 50, "stock", "GET /stock"),
    ]
    lake_of(tmp_path / "lake", spans)
    assert critical_ns(lake_of(tmp_path / "lake", spans)) == {"A": 50, "B": 50}


def test_circles_and_spans_that_are_their_own_parent_end(tmp_path: Path) -> None:
    spans: list[tuple[str, str | None, int, int, str, str]] = [
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
            ("C", "A", 10, 20, "cart", "GET /cart"),  # beside B: nobody waits for it
            ("D", "B", 10, 60, "stock", "SELECT"),
        ],
    )
    with query.connect(lake) as con:
        steps = critical_path.slowest_steps(critical_path.spans(con))
    assert steps["operation"].to_list() == ["SELECT", "GET /", "GET /stock"]
    assert steps["share"].to_list() == pytest.approx([0.6, 0.3, 0.1])
