"""Receive OTLP over gRPC and HTTP; a request is acknowledged once it is durable.

In:  requests of OpenTelemetry SDKs and Collectors.
Out: parts in the lake within a second, dead letters beside them.

Start reading at `service`, which starts everything. A request passes through `grpc_endpoint` or
`http_endpoint`, `intake` (tokens, limits), `pipeline` (journal, response) and `writer` (parts).
"""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
