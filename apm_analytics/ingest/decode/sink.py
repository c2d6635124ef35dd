"""Collect what both decoders read: rows, rejected records, warnings.

In:  rows, rejected records and warnings of any number of documents.
Out: `Decoded`: one Arrow table per lake table, the rejected records, the warnings.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from apm_analytics.ingest.decode.columns import SERVICE, Stamp, TableBuilder
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
        self._context: tuple[Any, ...] = ()

    def open_context(self, values: tuple[Any, ...], wrap: Callable[[Any], Any]) -> None:
        """Set the resource and scope of the records that are added next.

        Parameters
        ----------
        wrap : returns an OTLP document of one record, with this resource and scope.
        """
        self._context = values
        self._wrap = wrap
        for builder in self.builders.values():
            builder.open_context(values)

    def table(self, name: str) -> TableBuilder:
        """Return the builder of a lake table."""
        builder = self.builders.get(name)
        if builder is None:
            builder = self.builders[name] = TableBuilder(name)
            builder.open_context(self._context)
        return builder

    def reject(self, signal: str, path: str, reason: str, record: Any) -> None:
        """Reject a piece of a document without its resource and scope."""
        self.rejected.append(Rejected(signal, path, reason, record, self.document, self.stamp))

    def reject_record(self, signal: str, path: str, reason: str, record: Any) -> None:
        """Reject one record of the present resource and scope."""
        self.reject(signal, path, reason, self._wrap(record))

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
