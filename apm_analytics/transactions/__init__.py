"""Measure business transactions against their SLA, over weeks and live.

In:  a lake through `lake.query`; specs/transactions.yaml.
Out: instances with their state and duration, funnels, violations.

Start with `report.gather`, which collects the instances of a lake; `live.Watcher` follows a lake.
"""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
