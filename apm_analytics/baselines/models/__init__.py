"""Models of many series at once: batched Prophet, profiles, seasonal naive, robust bounds.

In:  times, and values of shape (n_series, n_time).
Out: fitted estimators, tables of their parameters, bands and scores.

Start with `estimator.BatchBaseline`; `prophet.fit_batch` is the batched solver.
"""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
