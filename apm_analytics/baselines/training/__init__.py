"""Training runs: from features to models, bounds, scores, metrics and model cards.

In:  the features of `signals`, the calendar, `engines` of specs/signals.yaml.
Out: models/ and derived/ of a run.

Start with `stages`, then `training.train` and `fitting.fit`.
"""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
