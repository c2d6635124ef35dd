"""Data quality: is the data of a lake fit to train on? Start at `checks.py`.

In:  a connection to a lake, the `quality` block of params.yaml, specs/quality.yaml.
Out: a Great Expectations suite, and a `QualityResult` with what failed and what to do.
"""

import lazy_loader as lazy

from apm_analytics.foundation import light_jsonschema as light_jsonschema

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
