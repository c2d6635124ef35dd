"""Write Parquet: what pyarrow's writer does for the lake's columns, at a third of the CPU.

`files.FileWriter` writes a file, `reading` opens one with its text columns as dictionaries.

In:  Arrow tables.
Out: Parquet files that any engine reads (docs/decisions/0016).
"""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
