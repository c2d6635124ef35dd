"""Explain where the time of requests goes: slowest operations, waterfalls, critical paths.

In:  a lake through `lake.query`.
Out: frames in seconds, one row per span, step or operation.

Start with `waterfall.slow_trace` and `waterfall.waterfall`.
"""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
