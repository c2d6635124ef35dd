"""Relate telemetry to the business: KPIs, their associations with metrics, costs of incidents.

In:  a lake through `lake.query`; specs/kpis.yaml; the calendar; scores and SLO budgets.
Out: KPIs on a grid of windows, associations, estimated losses, charts and sentences about them.

Start with `specs.load` and `kpis.measure_all`; then `association.associate` and
`costs.of_incident`.
"""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
