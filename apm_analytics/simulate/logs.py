"""Write the logs of a recording: failures and orders with their spans, and deployments.

In:  the spans that leave a record, `Timeline` and `Fleet`.
Out: OTLP log files, one per day; the number of records.
"""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord, ResourceLogs, SeverityNumber

from apm_analytics.simulate.fields import SCHEMA_URL, SCOPE_VERSION, add_attributes
from apm_analytics.simulate.fleet import TOGETHER, Fleet
from apm_analytics.simulate.spans import SAMPLED, Noteworthy, exception_attributes
from apm_analytics.simulate.timeline import DAY_NS, LOGS, S, Timeline
from apm_analytics.simulate.wire import DelimitedFile

INFO, ERROR = SeverityNumber.SEVERITY_NUMBER_INFO, SeverityNumber.SEVERITY_NUMBER_ERROR
KEPT_EVENTS = 0.35  # share of successes that leave a record
OBSERVED_NS = 2_000_000_000  # delay by a Collector's batch


class LogWriter:
    """Writes log records for the spans they belong to."""

    def __init__(self, timeline: Timeline, fleet: Fleet) -> None:
        self._timeline = timeline
        self._fleet = fleet

    def write_day(self, day: int, path: Path, noteworthy: Iterable[Noteworthy]) -> int:
        """Write one day's records; return how many."""
        rng = self._timeline.random(LOGS, day)
        request = ExportLogsServiceRequest()
        groups: dict[int, ResourceLogs] = {}
        number = 0
        for spans in noteworthy:
            chosen = np.arange(spans.times.size)
            if not spans.failed:
                chosen = chosen[rng.random(chosen.size) < KEPT_EVENTS]
            for place in chosen.tolist():
                self._add_of_span(
                    self._records(request, groups, spans.resources[place]), spans, place
                )
            number += chosen.size
        first_ns = self._timeline.start_ns + day * DAY_NS
        for place, resource in enumerate(self._fleet.resources):
            if resource.instance != TOGETHER and first_ns <= resource.start_ns < first_ns + DAY_NS:
                records = self._records(request, groups, place)
                record = _record(records, resource.start_ns + S, INFO, "INFO")
                record.body.string_value = f"{resource.service} {resource.version} is ready"
                record.event_name = "shop.process.started"
                number += 1
        for group in groups.values():
            group.scope_logs[0].log_records.sort(key=lambda record: record.time_unix_nano)
        if number:  # an empty file would look damaged
            with DelimitedFile(path) as file:
                file.write(request.SerializeToString())
        return number

    def _records(
        self, request: ExportLogsServiceRequest, groups: dict[int, ResourceLogs], place: int
    ) -> ResourceLogs:
        place = int(place)
        if place not in groups:
            group = request.resource_logs.add(schema_url=SCHEMA_URL)
            group.resource.CopyFrom(self._fleet.resources[place].message)
            scope = group.scope_logs.add(schema_url=SCHEMA_URL)
            scope.scope.name = f"shop.{self._fleet.resources[place].service}"
            scope.scope.version = SCOPE_VERSION
            groups[place] = group
        return groups[place]

    def _add_of_span(self, group: ResourceLogs, spans: Noteworthy, place: int) -> None:
        call = spans.call
        severity, text = (ERROR, "ERROR") if spans.failed else (INFO, "INFO")
        record = _record(group, int(spans.times[place]), severity, text)
        record.trace_id = spans.trace_ids[place].tobytes()
        record.span_id = spans.span_ids[place].tobytes()
        record.flags = SAMPLED
        if spans.failed:
            record.body.string_value = f"{call.name} failed: {call.error_text}"
            add_attributes(record.attributes, exception_attributes(call))
        else:
            record.body.string_value = "order placed"
            record.event_name = call.log_event


def _record(
    group: ResourceLogs, time_ns: int, severity: "SeverityNumber.ValueType", text: str
) -> LogRecord:
    return group.scope_logs[0].log_records.add(
        time_unix_nano=time_ns,
        observed_time_unix_nano=time_ns + OBSERVED_NS,
        severity_number=severity,
        severity_text=text,
    )
