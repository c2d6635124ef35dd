"""Make Arrow tables from the buffers that the scanner filled.

In:  a `State`, and the values that the records of each resource and scope share.
Out: one Arrow table per lake table, its columns in the order of `lake.schema`, texts encoded.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from apm_analytics.ingest.decode.columns import CONTEXT_COLUMNS
from apm_analytics.ingest.decode.records import SPAN_KINDS, STATUS_CODES, TEMPORALITIES
from apm_analytics.ingest.wire import layout
from apm_analytics.ingest.wire.arrays import (
    Codes,
    bitmap,
    dictionary,
    encoded_schema,
    fixed,
    masked,
    not_zero,
    over_words,
    repeated_maps,
    repeated_texts,
)
from apm_analytics.ingest.wire.entries import follow, gather, renumber
from apm_analytics.ingest.wire.scan import EXPONENTIAL, GAUGE, HISTOGRAM, SUM_KIND, SUMMARY
from apm_analytics.ingest.wire.state import State
from apm_analytics.lake.parquet import varied
from apm_analytics.lake.schema import (
    ENCODED,
    ENCODED_TYPES,
    EVENT,
    EXEMPLAR,
    LINK,
    NUMBER_MAP,
    PROMOTED,
    TEXT,
    TEXT_MAP,
    TIME,
    column_name,
)

_KINDS = {
    GAUGE: "gauge",
    SUM_KIND: "sum",
    HISTOGRAM: "histogram",
    EXPONENTIAL: "exponential_histogram",
    SUMMARY: "summary",
}
# A column without any value is made once per type and used for all such columns.
_OFTEN_NULL = (
    *(ENCODED, ENCODED_TYPES[TEXT_MAP], pa.int64()),
    *(pa.list_(EVENT), pa.list_(LINK), pa.list_(EXEMPLAR)),
)
Places = NDArray[np.int64]
_AS_THEY_ARE: Places = np.empty(0, np.int64)
Contexts = Sequence[tuple[Any, ...]]


def tables(
    state: State, contexts: Contexts, context_of: Codes, *, in_order: bool = False
) -> dict[str, pa.Table]:
    """Return every table that has rows.

    Parameters
    ----------
    contexts : the shared values, in the order of `columns.CONTEXT_COLUMNS`.
    context_of : the number of the context of each group.
    in_order : sort rows by time, which costs less here than later; else they keep their order.
    """
    made: dict[str, pa.Table] = {}
    for name in state.tables:
        if state.count(name, layout.RECORD):
            builder = _TableMaker(state, name, in_order)
            columns = builder.columns(contexts, context_of)
            schema = encoded_schema(name)
            made[name] = pa.table([columns[field] for field in schema.names], schema=schema)
    return made


class _TableMaker:
    def __init__(self, state: State, name: str, in_order: bool) -> None:
        self._state = state
        self._name = name
        self._rows = state.count(name, layout.RECORD)
        self._in_order = in_order
        self._order: Places | None = None
        if in_order:
            times = self._eight(layout.TIME)
            if (times[1:] < times[:-1]).any():
                self._order = np.argsort(times, kind="stable")  # fastest for nearly sorted times
        ends, arena = state.texts()
        self._ends, self._arena = ends, arena
        self._texts = pa.StringArray.from_buffers(
            len(ends) - 1, pa.py_buffer(ends), pa.py_buffer(arena)
        )
        self._numbers = np.full(len(ends) - 1, -1, np.int32)
        self._none = {kind: pa.nulls(self._rows, kind) for kind in _OFTEN_NULL}

    def columns(self, contexts: Contexts, context_of: Codes) -> dict[str, pa.Array]:
        columns: dict[str, pa.Array] = {
            "time": fixed(TIME, self._eight(layout.TIME)),
            "flags": self._unsigned(layout.FLAGS),
            "attributes": self._text_map(),
            "attributes_num": self._number_map(),
            **self._shared(contexts, context_of[self._four(layout.CONTEXT)]),
            **self._promoted(),
        }
        if self._name == layout.SPANS:
            columns |= self._span_columns()
        elif self._name == layout.LOGS:
            columns |= self._log_columns()
        else:
            columns |= self._point_columns()
        return columns

    # --- the columns of each kind of record ---

    def _span_columns(self) -> dict[str, pa.Array]:
        present = self._eight(layout.PRESENT)
        return {
            "duration_ns": fixed(pa.int64(), self._eight(layout.DURATION)),
            "trace_id": self._hex(layout.TRACE_ID),
            "span_id": self._hex(layout.SPAN_ID),
            "parent_span_id": self._hex(layout.PARENT_ID, present & layout.HAS_PARENT),
            "name": self._text(layout.NAME),
            "kind": over_words(SPAN_KINDS, self._four(layout.KIND)),
            "status_code": over_words(STATUS_CODES, self._four(layout.STATUS)),
            "status_message": self._text(layout.STATUS_MESSAGE),
            "trace_state": self._text(layout.TRACE_STATE),
            "dropped_attributes_count": self._unsigned(layout.DROPPED),
            "dropped_events_count": self._unsigned(layout.DROPPED_EVENTS),
            "dropped_links_count": self._unsigned(layout.DROPPED_LINKS),
            "events": self._list(layout.ITEM_END, EVENT, self._events),
            "links": self._list(layout.LINK_END, LINK, self._links),
        }

    def _log_columns(self) -> dict[str, pa.Array]:
        present = self._eight(layout.PRESENT)
        return {
            "observed_time": not_zero(TIME, self._eight(layout.OTHER_TIME)),
            "severity_number": self._unsigned(layout.SEVERITY),
            "severity_text": self._text(layout.SEVERITY_TEXT),
            "body": self._text(layout.BODY),
            "event_name": self._text(layout.EVENT_NAME),
            "trace_id": self._hex(layout.TRACE_ID, present & layout.HAS_TRACE),
            "span_id": self._hex(layout.SPAN_ID, present & layout.HAS_SPAN),
            "dropped_attributes_count": self._unsigned(layout.DROPPED),
        }

    def _point_columns(self) -> dict[str, pa.Array]:
        metric = self._four(layout.METRIC_ROW)
        head = {
            name: self._state.column(layout.HEAD, offset, np.int32)[metric]
            for name, offset in (
                ("name", layout.METRIC_NAME),
                ("unit", layout.METRIC_UNIT),
                ("description", layout.METRIC_DESCRIPTION),
                ("kind", layout.METRIC_KIND),
                ("temporality", layout.METRIC_TEMPORALITY),
                ("monotonic", layout.METRIC_MONOTONIC),
            )
        }
        kinds = np.unique(head["kind"])
        columns = {
            "start_time": not_zero(TIME, self._eight(layout.OTHER_TIME)),
            **{name: self._encoded(head[name]) for name in ("name", "unit", "description")},
            "kind": over_words(
                [_KINDS[int(kind)] for kind in kinds],
                np.searchsorted(kinds, head["kind"]).astype(np.int32),
            ),
            "temporality": over_words(TEMPORALITIES[1:], head["temporality"] - np.int32(1)),
            "metric_metadata": self._none[ENCODED_TYPES[TEXT_MAP]],
        }
        present = self._eight(layout.PRESENT)
        if self._name == layout.POINTS:
            columns["value"] = self._optional(layout.VALUE, present & layout.HAS_VALUE)
            columns["value_int"] = self._optional(
                layout.VALUE_INT, present & layout.HAS_INT, pa.int64()
            )
            columns["monotonic"] = pa.array(
                head["monotonic"] == 1, mask=head["kind"] != SUM_KIND, type=pa.bool_()
            )
        else:
            columns["count"] = fixed(pa.int64(), self._eight(layout.COUNT))
        if self._name == layout.SUMMARIES:
            columns["sum"] = fixed(pa.float64(), self._eight(layout.SUM))
            columns["quantiles"] = self._numbers_list(layout.LIST_ONE_END, layout.LIST_ONE_VALUE)
            columns["quantile_values"] = self._numbers_list(
                layout.LIST_TWO_END, layout.LIST_TWO_VALUE
            )
            return columns
        columns["exemplars"] = self._list(layout.ITEM_END, EXEMPLAR, self._exemplars)
        if self._name == layout.POINTS:
            return columns
        columns["sum"] = self._optional(layout.SUM, present & layout.HAS_SUM)
        columns["min"] = self._optional(layout.MIN, present & layout.HAS_MIN)
        columns["max"] = self._optional(layout.MAX, present & layout.HAS_MAX)
        if self._name == layout.HISTOGRAMS:
            columns["explicit_bounds"] = self._numbers_list(
                layout.LIST_ONE_END, layout.LIST_ONE_VALUE
            )
            columns["bucket_counts"] = self._numbers_list(
                layout.LIST_TWO_END, layout.LIST_TWO_VALUE, pa.int64()
            )
            return columns
        columns["scale"] = pa.array(self._four(layout.SCALE).astype(np.int64))
        columns["zero_count"] = fixed(pa.int64(), self._eight(layout.ZERO_COUNT))
        columns["zero_threshold"] = fixed(pa.float64(), self._eight(layout.ZERO_THRESHOLD))
        for side, offset, end, values in (
            ("positive", layout.POSITIVE_OFFSET, layout.LIST_ONE_END, layout.LIST_ONE_VALUE),
            ("negative", layout.NEGATIVE_OFFSET, layout.LIST_TWO_END, layout.LIST_TWO_VALUE),
        ):
            columns[f"{side}_offset"] = pa.array(self._four(offset).astype(np.int64))
            columns[f"{side}_bucket_counts"] = self._numbers_list(end, values, pa.int64())
        return columns

    def _events(self) -> pa.Array:
        return pa.StructArray.from_arrays(
            [
                not_zero(TIME, self._eight(layout.ITEM_TIME)),
                self._plain(layout.ITEM_NAME),
                self._item_map(layout.ITEM_PAIR_FROM, layout.ITEM_PAIR_END),
                self._unsigned(layout.ITEM_DROPPED),
            ],
            fields=list(EVENT),
        )

    def _links(self) -> pa.Array:
        present = self._eight(layout.LINK_PRESENT)
        return pa.StructArray.from_arrays(
            [
                self._hex(layout.LINK_TRACE, present & layout.HAS_TRACE),
                self._hex(layout.LINK_SPAN, present & layout.HAS_SPAN),
                self._plain(layout.LINK_STATE),
                self._item_map(layout.LINK_PAIR_FROM, layout.LINK_PAIR_END),
                self._unsigned(layout.LINK_FLAGS),
                self._unsigned(layout.LINK_DROPPED),
            ],
            fields=list(LINK),
        )

    def _exemplars(self) -> pa.Array:
        present = self._eight(layout.ITEM_PRESENT)
        return pa.StructArray.from_arrays(
            [
                not_zero(TIME, self._eight(layout.ITEM_TIME)),
                fixed(pa.float64(), self._eight(layout.ITEM_VALUE)),
                self._hex(layout.ITEM_TRACE, present & layout.HAS_TRACE),
                self._hex(layout.ITEM_SPAN, present & layout.HAS_SPAN),
                self._item_map(layout.ITEM_PAIR_FROM, layout.ITEM_PAIR_END),
            ],
            fields=list(EXEMPLAR),
        )

    # --- columns of all records ---

    def _shared(self, contexts: Contexts, context: Codes) -> dict[str, pa.Array]:
        columns = {}
        used = np.zeros(len(contexts), np.bool_)
        used[context] = True
        if not used.all():  # requests that were taken back had others
            contexts = [values for values, kept in zip(contexts, used, strict=True) if kept]
            context = (np.cumsum(used, dtype=np.int32) - np.int32(1))[context]
        for name, values in zip(CONTEXT_COLUMNS, zip(*contexts, strict=True), strict=True):
            is_map = name.endswith("_attributes")
            if all(value is None for value in values):
                columns[name] = self._none[ENCODED_TYPES[TEXT_MAP] if is_map else ENCODED]
            else:
                columns[name] = (repeated_maps if is_map else repeated_texts)(values, context)
        return columns

    def _promoted(self) -> dict[str, pa.Array]:
        columns = {}
        present = self._eight(layout.PRESENT)
        for number, (key, kind) in enumerate(PROMOTED.items()):
            buffer, filled = self._state.promoted(self._name, number)
            name = column_name(key)
            if not filled:
                columns[name] = self._none[ENCODED if kind == TEXT else kind]
            elif kind == TEXT:
                codes = buffer[: 4 * self._rows].view(np.int32)
                codes[filled:] = -1
                columns[name] = self._encoded(codes, self._order)
            else:
                bit = 1 << (layout.FIRST_PROMOTED_BIT + number)
                values = buffer[: 8 * self._rows].view(np.int64)
                if self._order is not None:
                    values = values.take(self._order)
                columns[name] = masked(kind, values, present & bit != 0)
        return columns

    def _text_map(self) -> pa.Array:
        offsets, places = self._pairs(layout.TEXT_END)
        return pa.MapArray.from_arrays(
            offsets,
            self._numbered(self._four(layout.TEXT_KEY), places),
            self._numbered(self._four(layout.TEXT_VALUE), places),
            type=ENCODED_TYPES[TEXT_MAP],
        )

    def _number_map(self) -> pa.Array:
        offsets, places = self._pairs(layout.NUMBER_END)
        values = self._eight(layout.NUMBER_VALUE)
        return pa.MapArray.from_arrays(
            offsets,
            self._numbered(self._four(layout.NUMBER_KEY), places),
            fixed(pa.float64(), values if places is None else values.take(places)),
            type=ENCODED_TYPES[NUMBER_MAP],
        )

    def _pairs(self, end: int) -> tuple[pa.Array, Places | None]:
        """Return where the pairs of each record begin, and their order; None keeps the order."""
        ends = self._state.column(self._name, end, np.int32)
        if self._order is None:
            return self._offsets(ends), None
        offsets, places = follow(ends, self._order)
        return pa.array(offsets), places

    # --- from buffers to arrays ---

    def _four(self, offset: int) -> Codes:
        return self._ordered(offset, self._state.column(self._name, offset, np.int32))

    def _eight(self, offset: int) -> NDArray[np.int64]:
        return self._ordered(offset, self._state.column(self._name, offset, np.int64))

    def _ordered(self, offset: int, values: NDArray[Any]) -> NDArray[Any]:
        """Return a column of records in order of time; those of other frames as they are."""
        if self._order is None or layout.column(offset).frame != layout.RECORD:
            return values
        return values.take(self._order)

    def _unsigned(self, offset: int) -> pa.Array:
        return pa.array(self._four(offset).view(np.uint32).astype(np.int64))

    def _optional(
        self, offset: int, has: NDArray[np.int64], kind: pa.DataType | None = None
    ) -> pa.Array:
        return masked(kind or pa.float64(), self._eight(offset), has != 0)

    def _text(self, offset: int) -> pa.Array:
        return self._encoded(self._state.column(self._name, offset, np.int32), self._order)

    def _encoded(self, codes: Codes, order: Places | None = None) -> pa.Array:
        """Encode a column of codes; without any text it is the shared column of nulls."""
        return self._numbered(codes, order) if (codes >= 0).any() else self._none[ENCODED]

    def _numbered(self, codes: Codes, order: Places | None = None) -> pa.Array:
        """Encode codes by a dictionary of the texts in use, with the rows in the given order."""
        used = np.empty(min(len(codes), len(self._numbers)), np.int32)
        coded = np.empty(len(codes), np.int32)
        rows = _AS_THEY_ARE if order is None else order
        count, missing = renumber(codes, rows, self._numbers, used, coded)
        used = used[:count]
        sizes = self._ends[used + 1] - self._ends[used]
        if self._in_order and not missing and count < len(coded) and varied(sizes, coded):
            # Parts store texts that hardly repeat one per row, so copy one per row.
            used = used[coded]
            coded = np.arange(len(coded), dtype=np.int32)
        offsets, content = gather(self._ends, self._arena, used)
        words = pa.StringArray.from_buffers(len(used), pa.py_buffer(offsets), pa.py_buffer(content))
        return dictionary(coded, words, missing)

    def _plain(self, offset: int) -> pa.Array:
        codes = self._four(offset)
        return self._texts.take(pa.array(codes, mask=codes < 0 if (codes < 0).any() else None))

    def _hex(self, offset: int, has: NDArray[np.int64] | None = None) -> pa.Array:
        size = layout.column(offset).size
        ids = self._state.column(self._name, offset, np.uint8).view(f"V{size}")
        digits = self._ordered(offset, ids).view(np.uint8)
        count = len(ids)
        offsets = np.arange(0, len(digits) + 1, size, dtype=np.int32)
        valid = None if has is None or has.all() else bitmap(has != 0)
        if valid is not None:
            digits.reshape(count, size)[has == 0] = 48  # the value behind a null is never read
        return pa.StringArray.from_buffers(
            count, pa.py_buffer(offsets), pa.py_buffer(digits), valid
        )

    def _offsets(self, ends: Codes) -> pa.Array:
        offsets = np.empty(len(ends) + 1, np.int32)
        offsets[0] = 0
        offsets[1:] = ends
        return pa.array(offsets)

    def _item_map(self, first: int, last: int) -> pa.Array:
        """Return the pairs of events, exemplars or links, which may be interleaved with others."""
        starts, ends = self._four(first), self._four(last)
        sizes = ends - starts
        offsets = np.concatenate([np.zeros(1, np.int32), np.cumsum(sizes, dtype=np.int32)])
        keys, values = self._four(layout.PAIR_KEY), self._four(layout.PAIR_VALUE)
        if offsets[-1] != len(keys) or (starts != offsets[:-1]).any():
            chosen = np.repeat(starts - offsets[:-1], sizes) + np.arange(offsets[-1])
            keys, values = keys[chosen], values[chosen]
        return pa.MapArray.from_arrays(
            pa.array(offsets),
            self._texts.take(pa.array(keys)),
            self._texts.take(pa.array(values)),
            type=TEXT_MAP,
        )

    def _list(self, end: int, kind: pa.DataType, values: Any) -> pa.Array:
        """Return lists of structs, null where a list is empty."""
        ends = self._state.column(self._name, end, np.int32)
        if not ends[-1]:
            return self._none[pa.list_(kind)]
        empty = np.diff(ends, prepend=np.int32(0)) == 0
        mask = pa.array(empty) if empty.any() else None
        lists = pa.ListArray.from_arrays(
            self._offsets(ends), values(), type=pa.list_(kind), mask=mask
        )
        return lists if self._order is None else lists.take(pa.array(self._order))

    def _numbers_list(self, end: int, values: int, kind: pa.DataType | None = None) -> pa.Array:
        ends = self._state.column(self._name, end, np.int32)
        lists = pa.ListArray.from_arrays(
            self._offsets(ends), fixed(kind or pa.float64(), self._eight(values))
        )
        return lists if self._order is None else lists.take(pa.array(self._order))
