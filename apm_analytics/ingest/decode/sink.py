"""Where both decoders put what they read: builders, rejected records, warnings.

In:  rows, rejected records and warnings of any number of documents.
Out: `Decoded`: one Arrow table a lake table, and what could not be taken.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from apm_analytics.ingest.decode.columns import SERVICE, TableBuilder
from apm_analytics.ingest.decode.records import Reject

# (service, metric, unit) -> why metric points in this unit are rejected.
RefusedUnits = Mapping[tuple[str, str, str], str]


@dataclass(frozen=True)
class Rejected:
    """One record that was not taken; `record` is OTLP JSON with its resource and scope."""

    signal: str
    path: str
    reason: str
    record: Any
    document: int = 0


@dataclass(frozen=True)
class Decoded:
    """What came of decoding."""

    tables: dict[str, pa.Table]
    rejected: list[Rejected] = field(default_factory=list)
    warnings: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class DecodedRequests(Decoded):
    """What came of decoding several requests of one signal.

    `broken` says for the index of a request what is wrong and where: none of it was taken.
    """

    broken: dict[int, str] = field(default_factory=dict)

    def rejected_counts(self) -> Counter[int]:
        """Count the records that were put aside, by the index of their request."""
        return Counter(rejected.document for rejected in self.rejected)


class Sink:
    """Collects the records of several documents; `document` numbers the present one.

    Parameters
    ----------
    refused_units : metric points to reject for their unit.
    """

    def __init__(self, refused_units: RefusedUnits | None = None) -> None:
        self._refused_units = refused_units or {}
        self._wrap: Callable[[Any], Any] = lambda record: record
        self.builders: dict[str, TableBuilder] = {}
        self.rejected: list[Rejected] = []
        self.warnings: Counter[str] = Counter()
        self.document = 0
        self._context: tuple[Any, ...] = ()

    def open_context(self, values: tuple[Any, ...], wrap: Callable[[Any], Any]) -> None:
        """Say which resource and scope the records added from now on belong to.

        Parameters
        ----------
        wrap : makes an OTLP document of one record, with this resource and scope.
        """
        self._context = values
        self._wrap = wrap
        for builder in self.builders.values():
            builder.open_context(values)

    def table(self, name: str) -> TableBuilder:
        """Give the builder of a lake table."""
        builder = self.builders.get(name)
        if builder is None:
            builder = self.builders[name] = TableBuilder(name)
            builder.open_context(self._context)
        return builder

    def reject(self, signal: str, path: str, reason: str, record: Any) -> None:
        """Put something aside that stands for itself."""
        self.rejected.append(Rejected(signal, path, reason, record, self.document))

    def reject_record(self, signal: str, path: str, reason: str, record: Any) -> None:
        """Put one record of the present resource and scope aside."""
        self.reject(signal, path, reason, self._wrap(record))

    def check_unit(self, metric: str, unit: str) -> None:
        """Reject a metric of the present resource whose unit is not the one it began with."""
        if self._refused_units:
            reason = self._refused_units.get((self._context[SERVICE], metric, unit))
            if reason:
                raise Reject("unit", reason)

    def finish(self) -> Decoded:
        """Give everything; the sink is not used again."""
        tables = {name: builder.finish() for name, builder in self.builders.items() if len(builder)}
        return Decoded(tables, self.rejected, self.warnings)
