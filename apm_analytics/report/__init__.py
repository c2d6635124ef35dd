"""Turn executed notebooks and results into pages that people read.

In:  records and outputs of notebooks; derived results; SLO reports.
Out: `record` and `locate` for notebooks; self-contained HTML pages in `pages`.

Start with `pages.nightly.write`.
"""

import lazy_loader as lazy

from apm_analytics.foundation import light_jsonschema as light_jsonschema

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
