"""Write self-contained HTML pages: nightly report, SLA report, data quality, experiments.

In:  executed notebooks, derived results, SLO reports, quality results.
Out: one HTML file each, which makes no request.

Start with `nightly.write` and `sla.publish`.
"""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
