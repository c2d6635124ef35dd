"""Simulate weeks of telemetry of a small shop, with known truth.

In:  days, spans, seed and the end of the recording.
Out: OTLP files and truth.json (`shop.write`); series with known relations (`business`).

Start reading at `shop`; `catalog` and `troubles` are the data.
"""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
