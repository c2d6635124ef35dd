"""Notebooks, charts, data quality and the report.

jsonschema, which Altair, nbformat and Great Expectations load, compiles a grammar of
international URLs at its import when it finds one: 2 to 4 s of CPU for a check that none of them
uses here, in every kernel of every notebook. Without the module it does without the check.
"""

import sys
from types import ModuleType
from typing import cast

sys.modules.setdefault("rfc3987_syntax", cast(ModuleType, None))
