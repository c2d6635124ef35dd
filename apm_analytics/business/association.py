"""Which technical metric moves with which business figure: association, with lag, q and n.

In:  business figures, technical metrics and demand on one grid of windows.
Out: one row a pair: how strongly the metric, so many windows earlier, moves with the figure.

Five steps: take out trend and hour of the week; partial out demand; whiten by the metric's own
autoregression; the largest correlation over the lags with the metric leading (Fisher's z, Sidak
over the lags); Benjamini-Hochberg over all pairs. An association is no proof of a cause.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy.special import ndtr

from apm_analytics.business import whitening
from apm_analytics.business.whitening import Floats, Ints
from apm_analytics.foundation.errors import BadInput, BadParameter
from apm_analytics.foundation.time import EPOCH_HOUR_OF_WEEK, HOURS_PER_WEEK

MIN_DAYS = 21.0
MAX_GAP_RATIO = 0.2
HOUR_S = 3_600
DAY_S = 86_400.0
# Variance of the median of w standard normal values, exact to four digits.
MEDIAN_VARIANCE = {3: 0.4487, 4: 0.2982, 5: 0.2868, 6: 0.2147, 7: 0.2104, 8: 0.1682, 9: 0.1661}
ASSOCIATED, NOT_ASSOCIATED, BY_DEMAND, INSUFFICIENT = (
    "associated",
    "not associated",
    "explained by demand",
    "insufficient",
)
DEMAND = "demand"
Pair = tuple[str, str]
Row = dict[str, Any]
SCHEMA: dict[str, type[pl.DataType]] = {
    "kpi": pl.String,
    "metric": pl.String,
    "status": pl.String,  # associated, not associated, explained by demand, insufficient
    "r": pl.Float64,
    "lag_s": pl.Float64,
    "p": pl.Float64,
    "q": pl.Float64,
    "n": pl.Int64,
    "r_with_demand": pl.Float64,
    "confounders": pl.String,
    "reason": pl.String,
}


@dataclass(frozen=True)
class _Prepared:
    """One series, ready to be compared; `reason` says why it is not."""

    residuals: Floats
    memory: Floats
    filled: Floats
    reason: str = ""


@dataclass(frozen=True)
class _Found:
    """The largest correlation of a pair; `lag` in windows, `p` for all lags together."""

    r: float
    lag: int
    p: float
    n: int


@dataclass(frozen=True)
class _Grid:
    step_s: float
    hours: Ints
    hidden: NDArray[np.bool_]


@dataclass(frozen=True)
class _Look:
    """All series, with or without the second step, and what their pairs show."""

    kpis: dict[str, _Prepared]
    metrics: dict[str, _Prepared]
    found: dict[Pair, _Found | None]
    q: dict[Pair, float]


def associate(
    kpis: pl.DataFrame,
    metrics: pl.DataFrame,
    demand: pl.Series | None = None,
    *,
    max_lag: int,
    q: float = 0.05,
    masked: pl.Series | None = None,
) -> pl.DataFrame:
    """Compare every business figure with every technical metric.

    Parameters
    ----------
    kpis, metrics : a column `time` (UTC, equally spaced, the same in both) and one column a
        series; null or NaN where missing.
    demand : what both may follow, such as the request rate, one value a window.
    max_lag : the metric may lead by 0 to this many windows.
    q : false discovery rate over all pairs.
    masked : windows to leave out, such as known incidents; true is left out.

    Returns
    -------
    A frame with `SCHEMA`, the strongest first. `status` is `insufficient` (with its reason, and
    never an r of 0) for under 3 weeks, over 20 % gaps or a constant series. `r_with_demand` is
    what a look without the second step would have found. `confounders` names what explains the
    pair away: demand, or a metric that moves more strongly with the same figure.

    Raises
    ------
    BadInput
        Times that differ, are not equally spaced, or come twice.
    BadParameter
        `max_lag` below 0, or `q` not between 0 and 1.

    Examples
    --------
    >>> associate(kpis, metrics, demand, max_lag=6)  # doctest: +SKIP
    """
    if max_lag < 0 or not 0 < q < 1:
        raise BadParameter(f"got max_lag={max_lag} and q={q}, need max_lag >= 0 and 0 < q < 1")
    if kpis.is_empty() and metrics.is_empty():
        return pl.DataFrame(schema=SCHEMA)
    step_s, hours = _grid(kpis, metrics)
    hidden = np.zeros(hours.size, bool) if masked is None else masked.to_numpy().astype(bool)
    demanded = None
    if demand is not None:
        demanded = whitening.deseasonalised(np.where(hidden, np.nan, _floats(demand)), hours)
    grid = _Grid(step_s, hours, hidden)
    look = _look(kpis, metrics, grid, demanded, max_lag)
    plain = look if demanded is None else _look(kpis, metrics, grid, None, max_lag)
    rows = [_row(pair, look, plain, step_s, q) for pair in look.found]
    _name_confounders(rows, look, step_s, q)
    return (
        pl.DataFrame(rows, schema=SCHEMA)
        .with_columns(pl.col("r").abs().alias("strength"))
        .sort("q", "strength", descending=[False, True], nulls_last=True)
        .drop("strength")
    )


def adjusted(p_values: Sequence[float]) -> Floats:
    """Give Benjamini and Hochberg's q of each p; NaN, which is no test, stays NaN [1]_.

    References
    ----------
    .. [1] Benjamini and Hochberg, Controlling the False Discovery Rate, 1995.
    """
    p = np.asarray(p_values, dtype=np.float64)
    result = np.full(p.size, np.nan)
    tested = np.flatnonzero(np.isfinite(p))
    if tested.size:
        from scipy import stats  # costs a second of CPU

        result[tested] = stats.false_discovery_control(p[tested])
    return result


def _names(frame: pl.DataFrame) -> list[str]:
    return [name for name in frame.columns if name != "time"]


def _floats(values: pl.Series) -> Floats:
    return values.cast(pl.Float64).fill_null(np.nan).to_numpy().copy()


def _grid(kpis: pl.DataFrame, metrics: pl.DataFrame) -> tuple[float, Ints]:
    """Check the common times; give their step in seconds and the hours of the week."""
    times = kpis["time"].cast(pl.Datetime("us"))
    if not times.equals(metrics["time"].cast(pl.Datetime("us"))):
        raise BadInput(
            "business figures and metrics have different times; align them on one grid first"
        )
    stamps = times.cast(pl.Int64).to_numpy()
    steps = np.unique(np.diff(stamps))
    if steps.size > 1 or (steps.size and steps[0] <= 0):
        raise BadInput(
            f"times are not equally spaced: steps of {steps.min() / 1e6:g} to "
            f"{steps.max() / 1e6:g} s; sort them, drop doubles and leave gaps as nulls"
        )
    step_s = float(steps[0]) / 1e6 if steps.size else float(HOUR_S)
    return step_s, (stamps // (HOUR_S * 10**6) + EPOCH_HOUR_OF_WEEK) % HOURS_PER_WEEK


def _look(
    kpis: pl.DataFrame, metrics: pl.DataFrame, grid: _Grid, demand: Floats | None, max_lag: int
) -> _Look:
    left = {name: _prepare(kpis[name], grid, demand) for name in _names(kpis)}
    right = {name: _prepare(metrics[name], grid, demand) for name in _names(metrics)}
    found = {
        (kpi, metric): _compare(left[kpi], right[metric], max_lag)
        for kpi in left
        for metric in right
    }
    qs = adjusted([one.p if one else np.nan for one in found.values()])
    return _Look(left, right, found, dict(zip(found, qs.tolist(), strict=True)))


def _row(pair: Pair, look: _Look, plain: _Look, step_s: float, q: float) -> Row:
    """Say what a pair shows; the confounders beside demand come later."""
    kpi, metric = pair
    row: Row = {"kpi": kpi, "metric": metric, "confounders": "", "reason": ""}
    found, before = look.found[pair], plain.found[pair]
    if found is None:
        reasons = {kpi: look.kpis[kpi].reason, metric: look.metrics[metric].reason}
        said = "; ".join(f"{name}: {reason}" for name, reason in reasons.items() if reason)
        return {**row, "status": INSUFFICIENT, "reason": said or "too few windows have both"}
    associated = look.q[pair] <= q
    # Explained away is what was there without demand and has lost at least half of its strength.
    by_demand = (
        not associated
        and before is not None
        and plain.q[pair] <= q
        and abs(found.r) <= abs(before.r) / 2
    )
    return {
        **row,
        "status": ASSOCIATED if associated else BY_DEMAND if by_demand else NOT_ASSOCIATED,
        "r": found.r,
        "lag_s": found.lag * step_s,
        "p": found.p,
        "q": look.q[pair],
        "n": found.n,
        "r_with_demand": before.r if before else None,
        "confounders": DEMAND if by_demand else "",
    }


def _prepare(
    values: pl.Series,
    grid: _Grid,
    demand: Floats | None,
) -> _Prepared:
    """Take one series through the first two steps, or say why it cannot be judged."""
    raw = _floats(values)
    raw[~np.isfinite(raw)] = np.nan
    known = np.flatnonzero(np.isfinite(raw))
    nothing = np.empty(0)
    days = (known[-1] - known[0] + 1) * grid.step_s / DAY_S if known.size else 0.0
    if days < MIN_DAYS:
        reason = f"{days:.1f} days, needs {MIN_DAYS:g}"
        return _Prepared(nothing, nothing, nothing, reason)
    gaps = 1 - known.size / (known[-1] - known[0] + 1)
    if gaps > MAX_GAP_RATIO:
        reason = f"{gaps:.0%} of the windows are missing, at most {MAX_GAP_RATIO:.0%} may be"
        return _Prepared(nothing, nothing, nothing, reason)
    if whitening.is_constant(raw):
        return _Prepared(nothing, nothing, nothing, f"always {raw[known[0]]:g}")
    raw[grid.hidden] = np.nan
    rest = whitening.deseasonalised(raw, grid.hours)
    if demand is not None:
        rest = whitening.without_demand(rest, demand)
    seen = np.isfinite(rest)
    if seen.sum() * grid.step_s < (1 - MAX_GAP_RATIO) * MIN_DAYS * DAY_S:
        reason = f"{seen.sum() * grid.step_s / DAY_S:.1f} days are left without masks and gaps"
        return _Prepared(nothing, nothing, nothing, reason)
    # What season and demand explain wholly has no news of its own.
    if np.var(rest[seen]) <= whitening.MIN_VARIANCE_RATIO * np.var(raw[np.isfinite(raw)]):
        return _Prepared(nothing, nothing, nothing, "nothing is left beside season and demand")
    memory = whitening.autoregression(rest)
    return _Prepared(rest, memory, whitening.filled(rest, memory))


def _compare(kpi: _Prepared, metric: _Prepared, max_lag: int) -> _Found | None:
    """Find the lag with the largest correlation, and how likely chance alone finds one."""
    if kpi.reason or metric.reason:
        return None
    leading, following = _led(metric, kpi, metric.memory, 0)
    best: _Found | None = None
    for lag in range(max_lag + 1):
        x, y = leading[: leading.size - lag], following[lag:]
        both = np.isfinite(x) & np.isfinite(y)
        count = int(both.sum())
        freedom = _freedom(count)
        if freedom <= 0:
            continue
        r = _correlation(x[both], y[both])
        if best is None or abs(r) > abs(best.r):
            p = 2 * float(ndtr(-abs(np.arctanh(r)) * np.sqrt(freedom)))
            best = _Found(r, lag, p, count)
    if best is None:
        return None
    # Sidak over the lags; log1p keeps tiny p exact.
    p = -np.expm1((max_lag + 1) * np.log1p(-min(best.p, 1 - 1e-16)))
    return _Found(best.r, best.lag, float(p), best.n)


def _freedom(count: int, given: int = 0) -> float:
    """Give Fisher's n - 3, less what the medians of the week and what is given have used up.

    A residual from the median of w normal values has the covariance I + (v - 2 / w) J, v the
    variance of that median; the products of two such residuals vary as those of
    (trace^2 / squared norm) free values.
    """
    weeks = min(max(round(count / HOURS_PER_WEEK), min(MEDIAN_VARIANCE)), max(MEDIAN_VARIANCE))
    rest = weeks * MEDIAN_VARIANCE[weeks] - 1
    share = (weeks - 1 + rest) ** 2 / (weeks - 1 + rest**2) / weeks
    return count * share - 3 - given


def _correlation(x: Floats, y: Floats) -> float:
    x, y = x - x.mean(), y - y.mean()
    scale = np.sqrt((x @ x) * (y @ y))
    return float(np.clip(x @ y / scale, -1 + 1e-12, 1 - 1e-12)) if scale > 0 else 0.0


def _name_confounders(rows: list[Row], look: _Look, step_s: float, q: float) -> None:
    """Name, for each association, the stronger ones of the same figure that explain it away."""
    kept = [row for row in rows if row["status"] == ASSOCIATED]
    for row in kept:
        kpi, metric = look.kpis[row["kpi"]], look.metrics[row["metric"]]
        x, y = _led(metric, kpi, metric.memory, round(row["lag_s"] / step_s))
        explained = []
        for other in kept:
            if other["kpi"] != row["kpi"] or abs(other["r"]) <= abs(row["r"]):
                continue
            rival = look.metrics[other["metric"]]
            z, _ = _led(rival, kpi, metric.memory, round(other["lag_s"] / step_s))
            if _partial_p(x, y, z) > q:
                explained.append(other["metric"])
        row["confounders"] = ", ".join(explained)


def _partial_p(x: Floats, y: Floats, z: Floats) -> float:
    """Give the p of the correlation of x and y given z."""
    both = np.isfinite(x) & np.isfinite(y) & np.isfinite(z)
    freedom = _freedom(int(both.sum()), given=1)
    if freedom <= 0:
        return 1.0
    xy, xz, yz = (_correlation(a[both], b[both]) for a, b in ((x, y), (x, z), (y, z)))
    partial = np.clip((xy - xz * yz) / np.sqrt((1 - xz**2) * (1 - yz**2)), -1 + 1e-12, 1 - 1e-12)
    return 2 * float(ndtr(-abs(np.arctanh(partial)) * np.sqrt(freedom)))


def _led(metric: _Prepared, kpi: _Prepared, memory: Floats, lag: int) -> tuple[Floats, Floats]:
    """Filter both alike, with what was missing missing again, and move the metric by its lead."""
    leading = whitening.innovations(metric.filled, memory)
    following = whitening.innovations(kpi.filled, memory)
    leading[~np.isfinite(metric.residuals)] = np.nan
    following[~np.isfinite(kpi.residuals)] = np.nan
    return np.concatenate([np.full(lag, np.nan), leading[: leading.size - lag]]), following
