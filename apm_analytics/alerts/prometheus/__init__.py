"""Files for Prometheus: thresholds as a textfile, rules on them and on SLOs, promtool tests.

In:  thresholds, specs/signals.yaml, specs/slos, the params.
Out: the content of a release's prometheus/ folder by path.

Start at `threshold_files.files` and `slo_rules.files`; `rules` and `rule_tests` build what they
render, `signal_specs` reads what is watched, `promtool` checks it.
"""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
