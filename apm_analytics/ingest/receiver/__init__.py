"""The live door of the lake: OTLP over gRPC and HTTP, durable before it is acknowledged.

In:  requests of OpenTelemetry SDKs and Collectors.
Out: parts in the lake within a second, dead letters beside them.
"""

from apm_analytics.ingest.receiver.service import Config, Receiver, Tls, run

__all__ = ["Config", "Receiver", "Tls", "run"]
