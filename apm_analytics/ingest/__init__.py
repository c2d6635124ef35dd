"""Bring OTLP telemetry into the lake, from files and over the network.

In:  OTLP in protobuf or JSON (or Jaeger's JSON), as files, as requests over gRPC and HTTP, or from
     the OpenTelemetry SDK in the same process.
Out: rows in the lake's tables; rejected records with their reasons in its dead-letter folder.

Start with `files.importer` for files and `receiver` for the network. Both decode with
`decode.requests`: by the compiled scanner in `wire`, or by the protobuf library.
"""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
