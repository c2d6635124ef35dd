"""The nightly run: notebooks through papermill, training, publication, one report.

In:  a lake, the workspace's notebooks, pipelines and specs.
Out: `out/published` (thresholds, rules, report), `out/runs/<run_id>` (executed notebooks, ledger).

Start at `job.run`, which does it all once; `schedule` repeats it every day, `notebooks` runs a
pipeline of notebooks, `ledger` lists past runs.
"""

import lazy_loader as lazy

from apm_analytics.foundation import light_jsonschema as light_jsonschema

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
