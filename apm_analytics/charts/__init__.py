"""Draw frames and format values for notebooks and reports.

In:  Polars frames with UTC times; numbers in base units.
Out: Altair charts of a bounded size, HTML tables, sparklines, short texts such as "42 ms".

Start with `plots`; `theme` holds what all charts share. Nothing here reads a lake.
"""

import lazy_loader as lazy

from apm_analytics.foundation import light_jsonschema as light_jsonschema

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
