"""The gate: replay alerts over past weeks and decide which ones page.

In:  features, a function that trains bounds, labelled incidents, the watched signals.
Out: thresholds of sustained values, the gate's table, firing intervals.

Start at `stage.run`. `watching` computes live and sustained values, `levels` learns thresholds,
`replay` runs the rules, `history` does so fold by fold, `judge` decides. `backtest` replays one
alert for `apm backtest`.
"""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
