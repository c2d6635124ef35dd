"""Refusals of requests, as HTTP and gRPC responses.

In:  a reason, a message for the sender, when to retry.
Out: HTTP status, headers and body; gRPC code and details.

A response to a request that may be retried says when: Retry-After in HTTP, RetryInfo in gRPC.
Without RetryInfo an OTLP client drops a request that was refused with RESOURCE_EXHAUSTED.
"""

from enum import Enum

import grpc
import orjson
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status

from apm_analytics.foundation.errors import ApmError

STATUS_TRAILER = "grpc-status-details-bin"


class Reason(Enum):
    """Every reason to refuse a request: HTTP status and gRPC code."""

    MALFORMED = 400, grpc.StatusCode.INVALID_ARGUMENT
    UNAUTHENTICATED = 401, grpc.StatusCode.UNAUTHENTICATED
    NOT_FOUND = 404, grpc.StatusCode.UNIMPLEMENTED
    WRONG_METHOD = 405, grpc.StatusCode.UNIMPLEMENTED
    TOO_SLOW = 408, grpc.StatusCode.DEADLINE_EXCEEDED
    TOO_LARGE = 413, grpc.StatusCode.RESOURCE_EXHAUSTED
    UNSUPPORTED = 415, grpc.StatusCode.INVALID_ARGUMENT
    TOO_OFTEN = 429, grpc.StatusCode.RESOURCE_EXHAUSTED
    BUSY = 503, grpc.StatusCode.RESOURCE_EXHAUSTED
    UNAVAILABLE = 503, grpc.StatusCode.UNAVAILABLE

    @property
    def http_status(self) -> int:
        return int(self.value[0])

    @property
    def grpc_code(self) -> grpc.StatusCode:
        return self.value[1]


class Refused(ApmError):
    """A refused request; with `retry_after_s` the sender may retry it."""

    def __init__(self, reason: Reason, message: str, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.reason = reason
        self.retry_after_s = retry_after_s

    def status(self) -> Status:
        """Return the message that both protocols carry."""
        status = Status(code=self.reason.grpc_code.value[0], message=str(self))
        if self.retry_after_s is not None:
            delay = Duration(
                seconds=int(self.retry_after_s), nanos=int(self.retry_after_s % 1 * 10**9)
            )
            packed = AnyMessage()
            packed.Pack(RetryInfo(retry_delay=delay))
            status.details.append(packed)
        return status

    def body(self, *, as_json: bool) -> bytes:
        """Return the body of an HTTP response, in the encoding of its request."""
        if as_json:
            return orjson.dumps({"code": self.reason.grpc_code.value[0], "message": str(self)})
        return bytes(self.status().SerializeToString())
