"""Decode OTLP bytes of either encoding into Arrow tables with the lake's columns.

In:  Export*ServiceRequests in protobuf, OTLP JSON documents, Jaeger's JSON.
Out: tables, rejected records with their reasons, warnings.

Start with `otlp` for one document, and `requests` for many requests into one set of tables.
"""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
