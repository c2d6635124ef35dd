"""Measure service level objectives: budgets, burn rates, completeness, restatements.

In:  OpenSLO v1 documents of specs/slos; a lake through `lake.query`; the calendar.
Out: one `SloReport` per SLO, and frames over them.

Start with `specs.load` and `report.reports`; `tables` lays reports out as frames.
"""

import lazy_loader as lazy

from apm_analytics.foundation import light_jsonschema as light_jsonschema

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
