"""Anomalies: single series point by point, all signals together, episodes and their reasons.

In:  series, or the scores of a training run.
Out: scores, episodes, explanations.

Start with `episodes.episodes`; `SeriesDetector` is the detector of single series.
"""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
