"""Growth: when a signal passes a limit, and the load at which latency does.

In:  the features, specs/capacity.yaml.
Out: forecasts with intervals, tables and charts.

Start with `capacity.capacity`.
"""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
