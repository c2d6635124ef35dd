"""The lake: telemetry as Parquet parts, one manifest that says which of them are current.

Start with `schema` (tables and columns), `snapshots` (writing) and `query` (reading).

In:  Arrow tables with the columns of `schema.TABLES`.
Out: parts and snapshots; DuckDB connections and Polars frames over them.
"""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
