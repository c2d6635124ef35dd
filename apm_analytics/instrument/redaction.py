"""Apply the privacy rules to telemetry before it leaves the process.

In:  spans, log records and metric points of the SDK.
Out: the same without secrets and personal data.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any
from urllib.parse import unquote

from opentelemetry.attributes import BoundedAttributes
from opentelemetry.sdk._logs import ReadableLogRecord
from opentelemetry.sdk.metrics.export import MetricsData
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan, SpanLimits
from opentelemetry.trace import Link, Status

from apm_analytics.foundation.privacy import PrivacyRules
from apm_analytics.instrument.calls import resource

# Log records carry these as attributes of Python's log record, whose names have no dots.
LOG_NAMES = {"correlation_id": "correlation.id", "request_id": "request.id"}


def _templated(match: re.Match[str]) -> str:
    path = match[2].partition("?")[0].rstrip("'),.;")
    version, template = resource(unquote(path))
    return match[1] + (f"/{version}" if version else "") + template


class Redaction:
    """Apply the rules to the SDK's objects; URLs of Graph hosts are templated in every text."""

    def __init__(self, rules: PrivacyRules, graph_hosts: tuple[str, ...] = ()) -> None:
        self._rules = rules
        self._limits = SpanLimits()  # of OTEL_SPAN_* and OTEL_ATTRIBUTE_*
        self._graph_hosts = tuple(host.lower() for host in graph_hosts)
        hosts = "|".join(re.escape(host) for host in self._graph_hosts)
        self._graph_url = re.compile(rf"(?i:(https?://(?:{hosts})(?::\d+)?))(/[^\s\"<>]*)")

    def resource(self, resource: Resource) -> Resource:
        """Return the resource without secrets, which command lines may hold."""
        return Resource(self.attributes(resource.attributes), resource.schema_url)

    def span(self, span: ReadableSpan) -> ReadableSpan:
        """Return the span with redacted name, status, attributes, events and links, in limits."""
        limits = self._limits
        text = self._text
        status = span.status
        if status.description:
            status = Status(status.status_code, text(status.description))
        return ReadableSpan(
            name=text(span.name),
            context=span.context,
            parent=span.parent,
            resource=span.resource,
            attributes=BoundedAttributes(
                limits.max_span_attributes,
                self.attributes(span.attributes),
                max_value_len=limits.max_span_attribute_length,
            ),
            events=[
                Event(text(event.name), self.attributes(event.attributes), event.timestamp)
                for event in span.events
            ],
            links=[Link(link.context, self.attributes(link.attributes)) for link in span.links],
            kind=span.kind,
            status=status,
            start_time=span.start_time,
            end_time=span.end_time,
            instrumentation_scope=span.instrumentation_scope,
        )

    def log(self, record: ReadableLogRecord) -> ReadableLogRecord:
        """Redact a log record's body and attributes in place."""
        content = record.log_record
        attributes = self.attributes(content.attributes)
        for old, new in LOG_NAMES.items():
            value = attributes.pop(old, None)
            if value:
                attributes[new] = value
        content.attributes = attributes
        content.body = self._value(content.body)
        return record

    def metrics(self, data: MetricsData) -> MetricsData:
        """Return the points with redacted attributes, exemplars included."""
        return replace(
            data,
            resource_metrics=[
                replace(
                    resource,
                    scope_metrics=[
                        replace(scope, metrics=[self._metric(metric) for metric in scope.metrics])
                        for scope in resource.scope_metrics
                    ],
                )
                for resource in data.resource_metrics
            ],
        )

    def attributes(self, attributes: Mapping[str, Any] | None) -> dict[str, Any]:
        """Return the attributes after redaction; dropped ones are missing."""
        left: dict[str, Any] = {}
        attribute = self._rules.attribute
        for key, value in (attributes or {}).items():
            if type(value) is str:
                text = attribute(key, value)
                if text is not None:
                    left[key] = self._without_tenant(text) if "://" in text else text
            else:
                other = self._attribute(key, value)
                if other is not None:
                    left[key] = other
        return left

    def _attribute(self, key: str, value: Any) -> Any:
        rule = self._rules.key_rule(key)
        if rule is not None and rule.action not in ("keep", "literals"):
            if isinstance(value, (list, tuple)):
                texts = (self._rules.attribute(key, str(item)) for item in value)
                return [text for text in texts if text is not None] or None
            return self._rules.attribute(key, str(value))
        return self._value(value)

    def _value(self, value: Any) -> Any:
        if value is None or isinstance(value, (bool, float)):
            return value
        if isinstance(value, int):  # a card number may be an int
            text = self._rules.text(str(value))
            return value if text == str(value) else text
        if isinstance(value, str):
            return self._text(value)
        if isinstance(value, bytes):
            return self._text(value.decode(errors="replace"))
        if isinstance(value, Mapping):
            return self.attributes({str(key): item for key, item in value.items()})
        if isinstance(value, Sequence):
            return [self._value(item) for item in value]
        return self._text(str(value))

    def _text(self, value: str) -> str:
        text = self._rules.text(value)
        return self._without_tenant(text) if "://" in text else text

    def _without_tenant(self, text: str) -> str:
        lowered = text.lower()
        if any(host in lowered for host in self._graph_hosts):
            return self._graph_url.sub(_templated, text)
        return text

    def _metric(self, metric: Any) -> Any:
        points = [
            replace(
                point,
                attributes=self.attributes(point.attributes),
                exemplars=[
                    replace(
                        exemplar,
                        filtered_attributes=self.attributes(exemplar.filtered_attributes),
                    )
                    for exemplar in point.exemplars
                ],
            )
            for point in metric.data.data_points
        ]
        return replace(metric, data=replace(metric.data, data_points=points))
