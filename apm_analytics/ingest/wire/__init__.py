"""Scan OTLP protobuf straight into Arrow buffers, in compiled code.

In:  the bytes of Export*ServiceRequests.
Out: Arrow tables with the lake's columns, texts encoded by dictionaries.

`decode.columnar` uses it. Start with `layout`, which lists the buffers; `scan` fills them message
by message, `state` allocates them, `assembly` makes tables of them.
"""
