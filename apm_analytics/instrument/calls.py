"""Describe calls that the service makes with httpx, also to APIs like Microsoft Graph.

In:  contrib's httpx hooks: the span, the request, the response.
Out: ids and baggage only for our own hosts; for Graph hosts span names and attributes that
     describe the call without the tenant's data.

Attributes of Graph calls: `graph.resource` (the path with `{id}` for what identifies something),
`graph.version`, `graph.batch.size`, `graph.throttled`, `graph.retry_after` in seconds,
`graph.request_id`.
"""

import json
import re
from email.utils import parsedate_to_datetime
from time import time
from typing import Any

from opentelemetry.trace import Span

from apm_analytics.instrument.correlation import OwnHosts, calls_host

BATCH = "$batch"
LARGEST_BATCH = 4 * 1024 * 1024  # bytes; a larger $batch body is not parsed
# Segments that are part of the API though they follow a collection.
API_WORDS = {"root", "delta", "me", "microsoft.graph"}
LONGEST_WORD = 40

_VERSION = re.compile(r"v\d+(\.\d+)?|beta")
_WORD = re.compile(r"\$?[A-Za-z]+(\.[A-Za-z]+)*")
_FUNCTION = re.compile(r"([A-Za-z.]+)\(.*\)")


class CallHooks:
    """The hooks of one service, for synchronous and asynchronous clients."""

    def __init__(self, own: OwnHosts, graph_hosts: tuple[str, ...]) -> None:
        self._own = own
        self._graph_hosts = {host.lower() for host in graph_hosts}

    def request(self, span: Span, request: Any) -> None:
        """Inspect a request before its headers are written; never raises."""
        try:
            host = _host(request.url)
            calls_host(self._own.holds(host))
            if self._is_graph(host) and span.is_recording():
                _describe(span, request)
        except Exception:
            calls_host(False)

    def response(self, span: Span, request: Any, response: Any) -> None:
        """Inspect the response of a Graph host; never raises."""
        try:
            if self._is_graph(_host(request.url)) and span.is_recording():
                _describe_response(span, response)
        except Exception:
            calls_host(False)

    async def request_later(self, span: Span, request: Any) -> None:
        """The asynchronous form of `request`."""
        self.request(span, request)

    async def response_later(self, span: Span, request: Any, response: Any) -> None:
        """The asynchronous form of `response`."""
        self.response(span, request, response)

    def _is_graph(self, host: str) -> bool:
        return host in self._graph_hosts


def resource(path: str) -> tuple[str, str]:
    """Return the version and the templated resource of a Graph path.

    Whatever is not a word of the API becomes `{id}`: what follows a collection (a plural), what
    holds digits or other signs, and paths in drives (`root:/...:`).

    Examples
    --------
    >>> resource("/v1.0/users/anna@contoso.com/messages/AAMkAGI2/attachments")
    ('v1.0', '/users/{id}/messages/{id}/attachments')
    >>> resource("/beta/me/drive/root:/Plans/Secret.docx:/content")
    ('beta', '/me/drive/root:/{path}:/content')
    """
    # API segments and paths in a drive take turns: /me/drive/root:/a/b:/content.
    pieces = path.split(":/")
    if len(pieces) > 1 and len(pieces) % 2 and not pieces[-1]:
        pieces.pop()
    version, template = _templated(pieces[0])
    for number, piece in enumerate(pieces[1:]):
        template += ":" + (_templated(piece)[1] or "/") if number % 2 else ":/{path}"
    return version, template or "/"


def _templated(path: str) -> tuple[str, str]:
    """Return the version and the template of API segments."""
    segments = [segment for segment in path.split("/") if segment]
    version = segments.pop(0) if segments and _VERSION.fullmatch(segments[0]) else ""
    template = ""
    previous = ""
    for segment in segments:
        shown = _shown(segment, previous)
        template += f"/{shown}"
        previous = shown
    return version, template


def _shown(segment: str, previous: str) -> str:
    function = _FUNCTION.fullmatch(segment)
    if function:
        return f"{function[1]}({{id}})"
    if len(segment) > LONGEST_WORD or not _WORD.fullmatch(segment):
        return "{id}"
    follows_collection = previous.endswith("s") or previous.endswith("children")
    known = segment in API_WORDS or segment.startswith(("$", "microsoft.graph."))
    return "{id}" if follows_collection and not known else segment


def _describe(span: Span, request: Any) -> None:
    url = request.url
    method = request.method.decode() if isinstance(request.method, bytes) else str(request.method)
    version, template = resource(url.path)
    span.update_name(f"{method} {template}")
    span.set_attributes(
        {
            "graph.resource": template,
            "graph.version": version,
            "url.template": template,
            # Replaces the instrumentation's, whose path and query hold the tenant's data.
            "url.full": f"{url.scheme}://{_host(url)}/{version}{template}",
        }
    )
    if template.endswith(BATCH) and (size := _batch_size(request.stream)) is not None:
        span.set_attribute("graph.batch.size", size)


def _describe_response(span: Span, response: Any) -> None:
    headers = response.headers or {}
    if request_id := headers.get("request-id"):
        span.set_attribute("graph.request_id", request_id)
    if response.status_code in (429, 503):
        span.set_attribute("graph.throttled", response.status_code == 429)
        seconds = _retry_after(headers.get("retry-after"))
        if seconds is not None:
            span.set_attribute("graph.retry_after", seconds)


def _batch_size(stream: Any) -> int | None:
    """Count the requests of a $batch whose body is in memory; streams are left alone."""
    body = getattr(stream, "_stream", None)  # httpx.ByteStream
    if not isinstance(body, bytes) or len(body) > LARGEST_BATCH:
        return None
    requests = json.loads(body).get("requests")
    return len(requests) if isinstance(requests, list) else None


def _retry_after(value: str | None) -> float | None:
    if not value:
        return None
    try:
        return float(value)
    except ValueError:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time())


def _host(url: Any) -> str:
    host = url.host if not isinstance(url, tuple) else url[1].decode()
    return str(host).lower()
