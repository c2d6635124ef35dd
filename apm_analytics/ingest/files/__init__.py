"""Import telemetry files: each document once, the valid records of every file.

In:  files and folders of OTLP or Jaeger's JSON, plain or compressed.
Out: parts in the lake, dead letters beside them, a summary.

Start with `importer.import_files`.
"""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
