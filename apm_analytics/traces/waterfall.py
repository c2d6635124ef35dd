"""Rank the slowest operations and lay out one trace as a waterfall.

In:  a connection of `lake.query`.
Out: frames in seconds; a waterfall has its rows in drawing order.
"""

from collections import defaultdict
from datetime import datetime
from typing import Any

import polars as pl

from apm_analytics.foundation.errors import NotFound
from apm_analytics.lake import Connection, query

# The p95 of fewer requests is their maximum.
MIN_REQUESTS = 20
CANDIDATES = 50
# More rows are unreadable; the longest spans are kept.
MAX_ROWS = 40


def slowest_operations(
    con: Connection,
    *,
    count: int = 15,
    min_requests: int = MIN_REQUESTS,
    since: datetime | None = None,
    until: datetime | None = None,
) -> pl.DataFrame:
    """Rank operations by their p95 duration.

    Parameters
    ----------
    min_requests : operations with fewer requests are left out.
    since, until : the period, UTC; by default the whole lake.

    Returns
    -------
    service_name, operation, requests, error_ratio, latency_p50_s, latency_p95_s, latency_p99_s,
    latency_max_s, total_s; slowest first.
    """
    return query.named(
        con, "slowest_operations", count=count, min_requests=min_requests, since=since, until=until
    )


def slow_trace(
    con: Connection, service_name: str | None = None, operation: str | None = None
) -> str:
    """Choose a slow trace with much detail: the one with the most spans among the slowest.

    Parameters
    ----------
    service_name, operation : of the request; by default the operation with the highest p95.

    Returns
    -------
    A trace id.

    Raises
    ------
    NotFound
        The operation has no request, or the lake has none at all.
    """
    if service_name is None or operation is None:
        slowest = slowest_operations(con, count=1)
        if slowest.is_empty():
            slowest = slowest_operations(con, count=1, min_requests=1)
        if slowest.is_empty():
            raise NotFound("the lake holds no request; fill it with `apm import`")
        service_name, operation = slowest.row(0)[:2]
    slow = query.named(
        con, "slow_traces", service_name=service_name, operation=operation, count=CANDIDATES
    )
    if slow.is_empty():
        raise NotFound(
            f"{service_name} has no request called {operation!r}; "
            "`apm query slowest_operations` lists the existing ones"
        )
    ids = slow["trace_id"].to_list()
    sizes = query.frame(
        con,
        "select trace_id, count(distinct span_id) as size from spans"
        " where trace_id in (select unnest($ids)) group by trace_id",
        {"ids": ids},
    )
    best = slow.join(sizes, on="trace_id").sort(
        "size", "duration_s", "trace_id", descending=[True, True, False]
    )
    return str(best["trace_id"][0])


def waterfall(con: Connection, trace_id: str, *, max_rows: int = MAX_ROWS) -> pl.DataFrame:
    """Lay out one trace with parents above their children, children sorted by start.

    A span whose parent never arrived, or that is its own ancestor, is a root.

    Parameters
    ----------
    trace_id : lower-case hex.
    max_rows : the longest spans are kept, together with their ancestors.

    Returns
    -------
    row, depth, span_id, service_name, name, kind, status_code, status_message, start_s (since the
    first span), duration_s, self_s (not covered by children), hidden (spans left out).

    Raises
    ------
    NotFound
        The lake has no such trace.
    """
    spans = query.named(con, "one_trace", trace_id=trace_id).to_dicts()
    if not spans:
        raise NotFound(f"the lake holds no trace {trace_id!r}; ids are 32 lower-case hex digits")
    children = _children(spans)
    ordered = _depth_first(children)
    kept = _longest(spans, max_rows)
    rows = [
        {
            **{key: value for key, value in span.items() if key != "parent_span_id"},
            "depth": depth,
            "self_s": _self_time(span, children[span["span_id"]]),
        }
        for depth, span in ordered
        if span["span_id"] in kept
    ]
    frame = pl.DataFrame(rows, infer_schema_length=None)
    return frame.with_row_index("row").with_columns(hidden=pl.lit(len(spans) - len(rows)))


Span = dict[str, Any]


def _children(spans: list[Span]) -> defaultdict[str | None, list[Span]]:
    """Return the children of each span id, and the roots under None."""
    parents = {span["span_id"]: span["parent_span_id"] for span in spans}
    children: defaultdict[str | None, list[Span]] = defaultdict(list)
    for span in spans:
        parent = span["parent_span_id"]
        rooted = parent in parents and not _in_cycle(span["span_id"], parents)
        children[parent if rooted else None].append(span)
    return children


def _in_cycle(span_id: str, parents: dict[str, str | None]) -> bool:
    at = parents.get(span_id)
    seen: set[str] = set()
    while at is not None and at not in seen:
        if at == span_id:
            return True
        seen.add(at)
        at = parents.get(at)
    return False


def _depth_first(children: dict[str | None, list[Span]]) -> list[tuple[int, Span]]:
    ordered: list[tuple[int, Span]] = []
    waiting = [(0, span) for span in reversed(children[None])]
    while waiting:
        depth, span = waiting.pop()
        ordered.append((depth, span))
        waiting += [(depth + 1, child) for child in reversed(children[span["span_id"]])]
    return ordered


def _longest(spans: list[Span], max_rows: int) -> set[str]:
    """Return the ids of the longest spans and their ancestors, at most `max_rows`."""
    by_id = {span["span_id"]: span for span in spans}
    kept: set[str] = set()
    for span in sorted(spans, key=lambda span: -span["duration_s"]):
        path: list[str] = []
        at: Span | None = span
        while at is not None and at["span_id"] not in kept and at["span_id"] not in path:
            path.append(at["span_id"])
            at = by_id.get(at["parent_span_id"])
        if len(kept) + len(path) <= max_rows:
            kept.update(path)
    return kept


def _self_time(span: Span, children: list[Span]) -> float:
    """Return the time not covered by children: duration minus the union of their intervals."""
    end = span["start_s"] + span["duration_s"]
    covered, reached = 0.0, span["start_s"]
    for child in children:  # in order of their start
        start = max(child["start_s"], reached)
        stop = min(child["start_s"] + child["duration_s"], end)
        if stop > start:
            covered += stop - start
            reached = stop
    return max(0.0, float(span["duration_s"] - covered))
