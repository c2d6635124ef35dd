"""The hot view: the last minutes of spans in memory, for live boards and watchers.

In:  a lake that receives telemetry.
Out: the new spans at each refresh; SQL over the last minutes.

Each part is read once, as it arrived; compacted parts hold the same rows and are skipped.
"""

import time
from collections.abc import Sequence
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from apm_analytics.foundation.errors import BadParameter
from apm_analytics.lake import damage, manifest, query
from apm_analytics.lake.damage import LeftOut
from apm_analytics.lake.manifest import GRACE_S, Part, open_manifest
from apm_analytics.lake.parquet.reading import numbered, open_numbered
from apm_analytics.lake.parts import NO_DICTIONARY
from apm_analytics.lake.schema import TABLES, TEXT, TIME

# About 150 bytes per span in memory.
COLUMNS = (
    "time",
    "duration_ns",
    "trace_id",
    "span_id",
    "parent_span_id",
    "name",
    "kind",
    "status_code",
    "trace_state",
    "service_name",
    "service_version",
    "deployment_environment_name",
    "http_request_method",
    "http_route",
    "http_response_status_code",
    "url_path",
    "error_type",
    "peer_service",
    "db_system_name",
    "messaging_destination_name",
    "user_id",
    "organization_id",
    "session_id",
    "business_transaction",
    "business_operation",
)
# The columns that the views `spans` and `entry_spans` read.
_NEEDED = {
    "time",
    "trace_id",
    "span_id",
    "parent_span_id",
    "kind",
    "trace_state",
    "service_name",
}
# The cost of a query grows with the number of chunks, so this many parts are merged into one.
CHUNKS = 32
# After a longer pause the files of replaced parts may be gone, so the view reloads everything.
MAX_PAUSE_S = GRACE_S / 2


class HotView:
    """The spans of the last minutes of a lake, each once, held in memory.

    Parameters
    ----------
    minutes : length of the view, back from the newest span that is not dated in the future.
    columns : of `schema.TABLES["spans"]`. 15 minutes of 20,000 spans/s with the default columns
        take about 3 GB; use fewer minutes or columns there.

    Raises
    ------
    NotFound
        There is no lake at `lake`.
    BadParameter
        Unknown columns, a column that the views need is missing, or `minutes` is not above 0.
    """

    def __init__(
        self, lake: Path, *, minutes: float = 15.0, columns: Sequence[str] = COLUMNS
    ) -> None:
        schema = TABLES["spans"]
        unknown, missing = set(columns) - set(schema.names), _NEEDED - set(columns)
        if unknown or missing or not minutes > 0:
            raise BadParameter(
                f"got {minutes} minutes, unknown columns {sorted(unknown)} and missing columns "
                f"{sorted(missing)}; need minutes above 0 and columns of spans, see hot.COLUMNS"
            )
        self._lake = lake
        self._length_ns = int(minutes * 60e9)
        self._schema = pa.schema([_held_as(schema.field(name)) for name in columns])
        self._merged: list[pa.Table] = []
        self._recent: list[pa.Table] = []
        self._seen = -1
        self._erasures = 0
        self._refreshed_s = time.monotonic()
        self._newest_ns = 0
        self._con = query.offline()
        self.generation = 0
        """Counts full reloads: the first load, after an erasure, after a long pause."""
        self.refresh()

    def refresh(self) -> pa.Table:
        """Read the spans that arrived since the last refresh.

        Returns
        -------
        The new spans that lie within the view, text dictionary-encoded; all spans of the view
        if `generation` increased.
        """
        try:
            new = self._read()
        except FileNotFoundError:
            # The files of replaced parts were removed; their rows are in other parts.
            self._seen = -1
            new = self._read()
        self._refreshed_s = time.monotonic()
        return new

    def spans(self) -> pa.Table:
        """Return the spans of the view, roughly in order of arrival."""
        cutoff_ns = self._newest_ns - self._length_ns
        held = [_since(rows, cutoff_ns) for rows in (*self._merged, *self._recent)]
        return pa.concat_tables(held or [self._schema.empty_table()])

    def query(self, sql: str, parameters: dict[str, object] | None = None) -> pl.DataFrame:
        """Run SQL over the views `spans` (with `sample_weight`) and `entry_spans`.

        Raises
        ------
        BadInput
            The statement returns no rows.
        """
        self._con.register("stored_spans", self.spans())
        query.create_views(self._con, ("spans", "entry_spans"))
        return query.frame(self._con, sql, parameters)

    def close(self) -> None:
        """Release the rows."""
        self._con.close()
        self._merged, self._recent = [], []

    def _read(self) -> pa.Table:
        with open_manifest(self._lake) as con:
            con.execute("begin")  # reads below see one state of the manifest
            newest, erasures = manifest.newest_snapshot(con), manifest.erasures(con)
            paused_s = time.monotonic() - self._refreshed_s
            reload = self._seen < 0 or erasures != self._erasures or paused_s > MAX_PAUSE_S
            if reload:
                parts = manifest.live_parts(con, "spans")
            elif newest != self._seen:
                parts = manifest.arrived_parts(con, "spans", self._seen)
            else:
                parts = []
            con.execute("commit")
        # Spans dated in the future must not push out the newest ones.
        now_ns = time.time_ns()
        last_ns = [part.last_time_ns for part in parts if part.first_time_ns <= now_ns]
        newest_ns = max([0 if reload else self._newest_ns, *(min(t, now_ns) for t in last_ns)])
        cutoff_ns = newest_ns - self._length_ns
        recent = [part for part in parts if part.last_time_ns >= cutoff_ns]
        new = self._read_parts(recent, cutoff_ns, missing_too=reload)
        if reload:
            self._merged, self._recent = new, []
            self.generation += 1
        else:
            self._recent.extend(new)
            if len(self._recent) >= CHUNKS:
                rows = pa.concat_tables(self._recent)
                self._merged.append(rows.unify_dictionaries().combine_chunks())
                self._recent = []
        self._merged = [rows for rows in self._merged if _last_ns(rows) >= cutoff_ns]
        self._seen, self._erasures, self._newest_ns = newest, erasures, newest_ns
        return pa.concat_tables(new or [self._schema.empty_table()])

    def _read_parts(
        self, parts: Sequence[Part], cutoff_ns: int, *, missing_too: bool
    ) -> list[pa.Table]:
        """Read parts, without damaged ones; a missing part raises unless `missing_too`."""
        new: list[pa.Table] = []
        left_out: list[LeftOut] = []
        for part in parts:
            try:
                new.append(self._rows(part, cutoff_ns))
            except damage.ERRORS as error:
                missing = isinstance(error, FileNotFoundError)
                if (missing and not missing_too) or not damage.find(self._lake, [part]):
                    raise
                left_out.append(LeftOut(part, damage.MISSING if missing else damage.DAMAGED))
        damage.warn(self._lake, left_out)
        return new

    def _rows(self, part: Part, cutoff_ns: int) -> pa.Table:
        """Read the view's columns of one part, without rows that are too old."""
        text = [field.name for field in self._schema if pa.types.is_dictionary(field.type)]
        with open_numbered(self._lake / part.path, text) as file:
            read = file.read(self._schema.names)
        rows = [numbered(read[field.name], field.type) for field in self._schema]
        return _since(pa.table(rows, names=self._schema.names), cutoff_ns)


def _since(rows: pa.Table, cutoff_ns: int) -> pa.Table:
    """Return the rows from a time on."""
    if not rows.num_rows or pc.min(rows["time"]).value >= cutoff_ns:
        return rows
    return rows.filter(pc.greater_equal(rows["time"], pa.scalar(cutoff_ns, TIME)))


def _last_ns(rows: pa.Table) -> int:
    return int(pc.max(rows["time"]).value) if rows.num_rows else 0


def _held_as(field: pa.Field) -> pa.Field:
    """Return a field as it is held: text dictionary-encoded, as in the Parquet files."""
    if field.type == TEXT and field.name not in NO_DICTIONARY:
        return pa.field(field.name, pa.dictionary(pa.int32(), TEXT))
    return pa.field(field.name, field.type)
