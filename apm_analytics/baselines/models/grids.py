"""Series that do not share their times, fitted in as few batches as their grids allow.

In:  times and values of each series.
Out: parameters of each, in the same order.
"""

from collections.abc import Sequence

import numpy as np

from apm_analytics.baselines.models import prophet
from apm_analytics.baselines.models.prophet import ProphetParams
from apm_analytics.baselines.models.scales import Floats
from apm_analytics.baselines.models.season import Season
from apm_analytics.baselines.models.series import Times
from apm_analytics.foundation.errors import BadInput


def fit_each(
    series: Sequence[tuple[Times, Floats]],
    seasonalities: Sequence[Season] | None = None,
    tau: float = 0.05,
    prior: float = 10.0,
) -> list[ProphetParams]:
    """Fit Prophet's model to series that each bring their own times.

    Parameters
    ----------
    series : (times, values) of each, times ascending; series whose times are multiples of the
        same step are fitted together, wherever they begin and end.
    seasonalities, tau, prior : as in `prophet.fit_batch`; seasons are chosen by the span of each.

    Returns
    -------
    One set of parameters a series, each for a batch of one.

    Raises
    ------
    BadInput
        A series is empty, its times are not ascending, or lengths differ; the message says which.

    Examples
    --------
    >>> days = np.arange(60).astype("datetime64[D]")
    >>> [len(one) for one in fit_each([(days, np.arange(60.0)), (days[9:], np.ones(51))])]
    [1, 1]
    """
    grids: dict[tuple[int, int], list[int]] = {}
    for number, (times, values) in enumerate(series):
        steps = np.diff(times.astype("datetime64[us]").astype(np.int64))
        if len(times) != len(values) or not len(times) or (steps <= 0).any():
            raise BadInput(
                f"series {number} has {len(values)} values at {len(times)} times, need one each, "
                "at least one, and times ascending"
            )
        step = int(steps.min()) if steps.size else 0
        first = int(times[:1].astype("datetime64[us]").astype(np.int64)[0])
        grids.setdefault((step, first % step if step else first), []).append(number)
    found: dict[int, ProphetParams] = {}
    for members in grids.values():
        shared = np.unique(np.concatenate([series[number][0] for number in members]))
        values = np.full((len(members), shared.size), np.nan)
        for row, number in enumerate(members):
            values[row, np.searchsorted(shared, series[number][0])] = series[number][1]
        params = prophet.fit_batch(shared, values, seasonalities, tau, prior, by_span=True)
        for row, number in enumerate(members):
            found[number] = params.pick(np.array([row]))
    return [found[number] for number in range(len(series))]
