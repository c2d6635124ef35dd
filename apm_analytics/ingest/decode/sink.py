"""Collect what both decoders read: rows, rejected records, warnings.

In:  rows, rejected records and warnings of any number of documents.
Out: `Decoded`: one Arrow table per lake table, the rejected records, the warnings.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson
import pyarrow as pa

from apm_analytics.ingest.decode.bounds import JSON_RECORD_BYTES, SHARED_PAIR_BYTES, Bound
from apm_analytics.ingest.decode.columns import SERVICE, Pairs, Stamp, TableBuilder, shared_pairs
from apm_analytics.ingest.decode.records import Reject

# (service, metric, unit) -> why metric points in this unit are rejected.
RefusedUnits = Mapping[tuple[str, str, str], str]


@dataclass(frozen=True)
class Rejected:
    """One rejected record; `record` is OTLP JSON with its resource and scope, without `stamp`."""

    signal: str
    path: str
    reason: str
    record: Any
    document: int = 0
    stamp: Stamp = ()


@dataclass(frozen=True)
class Decoded:
    """Decoded tables, rejected records, and warnings with their counts."""

    tables: dict[str, pa.Table]
    rejected: list[Rejected] = field(default_factory=list)
    warnings: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class DecodedRequests(Decoded):
    """Several decoded requests of one signal.

    `broken` has, by the index of a request, what is wrong and where; such a request has no rows.
    """

    broken: dict[int, str] = field(default_factory=dict)


class Sink:
    """Collects the records of several documents.

    `document` is the number of the present one, `stamp` what its sender's token adds to it.
    """

    def __init__(self, refused_units: RefusedUnits | None = None) -> None:
        self._refused_units = refused_units or {}
        self._wrap: Callable[[Any], Any] = lambda record: record
        self.builders: dict[str, TableBuilder] = {}
        self.rejected: list[Rejected] = []
        self.warnings: Counter[str] = Counter()
        self.document = 0
        self.stamp: Stamp = ()
        self.bound: Bound | None = None
        self._context: tuple[Any, ...] = ()
        self._shared_bytes = 0
        self._mark: tuple[dict[str, int], int] = ({}, 0)

    def begin(self, bound: Bound | None) -> int:
        """Begin a request, which may be rolled back; return the number of records rejected so far.

        Parameters
        ----------
        bound : what the request may take; by default anything.
        """
        self.bound = bound
        rows = {name: len(builder) for name, builder in self.builders.items()}
        self._mark = rows, len(self.rejected)
        return len(self.rejected)

    def roll_back(self) -> None:
        """Remove the records of the present request."""
        rows, rejected = self._mark
        for name, builder in self.builders.items():
            builder.roll_back(rows.get(name, 0))
        del self.rejected[rejected:]

    def open_context(self, values: tuple[Any, ...], wrap: Callable[[Any], Any]) -> None:
        """Set the resource and scope of the records that are added next.

        Parameters
        ----------
        wrap : returns an OTLP document of one record, with this resource and scope.
        """
        self._context = values
        self._shared_bytes = SHARED_PAIR_BYTES * shared_pairs(values)
        self._wrap = wrap
        for builder in self.builders.values():
            builder.open_context(values)

    def add(self, name: str, row: tuple[Any, ...], attributes: Pairs) -> None:
        """Add one checked record to a lake table.

        Raises
        ------
        TooLarge, Postponed
            With this record the request takes more memory than it may.
        """
        builder = self.builders.get(name)
        if builder is None:
            builder = self.builders[name] = TableBuilder(name)
            builder.open_context(self._context)
        builder.add(row, attributes)
        if self.bound is not None:
            self.bound.add(self._shared_bytes + JSON_RECORD_BYTES)

    def reject(self, signal: str, path: str, reason: str, record: Any) -> None:
        """Reject a piece of a document without its resource and scope."""
        self.rejected.append(Rejected(signal, path, reason, record, self.document, self.stamp))

    def reject_record(self, signal: str, path: str, reason: str, record: Any) -> None:
        """Reject one record of the present resource and scope.

        Raises
        ------
        TooLarge, Postponed
            The rejected records, each with its resource and scope, take more than they may.
        """
        whole = self._wrap(record)
        if self.bound is not None:
            self.bound.add(len(orjson.dumps(whole, default=str)))
        self.reject(signal, path, reason, whole)

    def check_unit(self, metric: str, unit: str) -> None:
        """Reject a metric of the present resource whose unit has changed."""
        if self._refused_units:
            reason = self._refused_units.get((self._context[SERVICE], metric, unit))
            if reason:
                raise Reject("unit", reason)

    def finish(self) -> Decoded:
        """Return everything; the sink is not used again."""
        tables = {name: builder.finish() for name, builder in self.builders.items() if len(builder)}
        return Decoded(tables, self.rejected, self.warnings)
