"""Measure what every operation does: rate, errors, duration, saturation, and the calendar.

In:  a lake through `lake.query`; specs/calendar.yaml.
Out: one row per operation and window; estimates for sampled traffic; incidents, deployments and
     maintenance windows.

Start with `operations.features`; `calendar.load` reads what happened and what is planned.
"""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
