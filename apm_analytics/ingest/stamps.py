"""The resource attributes that a sender's token adds to everything it sends: its stamp.

In:  the attributes of a token.
Out: bytes that the journal keeps beside a request; pairs that `decode.columns.context` sets.
"""

from collections.abc import Mapping
from functools import lru_cache

import orjson

from apm_analytics.ingest.decode.columns import Stamp


def stamp(attributes: Mapping[str, str]) -> bytes:
    """Return the stamp of these attributes; empty without any.

    Examples
    --------
    >>> stamp({"tenant.id": "shop"})
    b'{"tenant.id":"shop"}'
    """
    return orjson.dumps(attributes, option=orjson.OPT_SORT_KEYS) if attributes else b""


@lru_cache(maxsize=1024)
def pairs(stamp: bytes) -> Stamp:
    """Return the attributes of a stamp."""
    return tuple(orjson.loads(stamp).items()) if stamp else ()
