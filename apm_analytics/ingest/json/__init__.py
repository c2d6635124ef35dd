"""Read OTLP JSON, and Jaeger's JSON as OTLP.

In:  JSON documents as bytes or as parsed objects.
Out: rows in a `decode.sink.Sink`, or the equivalent protobuf request.

`transcode` turns documents as exporters write them into protobuf for the scanner; `otlp` reads all
documents, and is the reference.
"""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
