"""Write Parquet: what pyarrow's writer does for the lake's columns, for a third of the CPU.

In:  Arrow tables.
Out: Parquet files that any engine reads (docs/decisions/0016).
"""
