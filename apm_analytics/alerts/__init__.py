"""Alert thresholds: learned, judged by the gate, published for Prometheus.

In:  features and baseline bounds (`baselines`), labelled incidents, specs/signals.yaml.
Out: thresholds, one row per series, bound and hour of the week; releases that hold them together
     with Prometheus rules.

Start at `gate.stage` (which thresholds page), then `thresholds` (their table), `prometheus` (the
files made of them) and `publication` (how a release is put in place).
"""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
