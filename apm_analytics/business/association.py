"""Find associations between KPIs and technical metrics, with lag, q and n.

In:  KPIs, technical metrics and demand on one grid of windows.
Out: one row per pair: the strongest correlation of the KPI with the metric some windows earlier.

Five steps: remove trend and hour of the week; partial out demand; whiten by the metric's
autoregression; take the largest correlation over the lags with the metric leading (Fisher's z,
Sidak over the lags); apply Benjamini-Hochberg over all pairs. An association is not a proof of a
cause.
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
    """One series ready to be compared, or the `reason` why it cannot be."""

    residuals: Floats
    memory: Floats
    filled: Floats
    reason: str = ""


@dataclass(frozen=True)
class _Correlation:
    """The largest correlation of a pair; `lag` in windows, `p` over all lags."""

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
class _Analysis:
    """All prepared series and the correlations of their pairs."""

    kpis: dict[str, _Prepared]
    metrics: dict[str, _Prepared]
    pairs: dict[Pair, _Correlation | None]
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
    """Compare every KPI with every technical metric.

    Parameters
    ----------
    kpis, metrics : a column `time` (UTC, equally spaced, the same in both) and one column per
        series; null or NaN where missing.
    demand : a common driver of both, such as the request rate, one value per window.
    max_lag : the metric may lead by 0 to this many windows.
    q : false discovery rate over all pairs.
    masked : true for windows to leave out, such as known incidents.

    Returns
    -------
    A frame with `SCHEMA`, strongest association first. `status` is `insufficient`, with a reason
    and without r, for less than 3 weeks, more than 20 % gaps or a constant series.
    `r_with_demand` is the correlation without the second step. `confounders` names what explains
    the pair away: demand, or a metric with a stronger association to the same KPI.

    Raises
    ------
    BadInput
        Times differ, are not equally spaced, or are repeated.
    BadParameter
        `max_lag` is below 0, or `q` is not between 0 and 1.

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
    analysis = _analyse(kpis, metrics, grid, demanded, max_lag)
    plain = analysis if demanded is None else _analyse(kpis, metrics, grid, None, max_lag)
    rows = [_row(pair, analysis, plain, step_s, q) for pair in analysis.pairs]
    _name_confounders(rows, analysis, step_s, q)
    return (
        pl.DataFrame(rows, schema=SCHEMA)
        .with_columns(pl.col("r").abs().alias("strength"))
        .sort("q", "strength", descending=[False, True], nulls_last=True)
        .drop("strength")
    )


def adjusted(p_values: Sequence[float]) -> Floats:
    """Return Benjamini and Hochberg's q of each p [1]_; NaN (no test) stays NaN.

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
    """Check the common times; return their step in seconds and their hours of the week."""
    times = kpis["time"].cast(pl.Datetime("us"))
    if not times.equals(metrics["time"].cast(pl.Datetime("us"))):
        raise BadInput("KPIs and metrics have different times; align them on one grid first")
    stamps = times.cast(pl.Int64).to_numpy()
    steps = np.unique(np.diff(stamps))
    if steps.size > 1 or (steps.size and steps[0] <= 0):
        raise BadInput(
            f"times are not equally spaced: steps of {steps.min() / 1e6:g} to "
            f"{steps.max() / 1e6:g} s; sort them, drop duplicates and leave gaps as nulls"
        )
    step_s = float(steps[0]) / 1e6 if steps.size else float(HOUR_S)
    return step_s, (stamps // (HOUR_S * 10**6) + EPOCH_HOUR_OF_WEEK) % HOURS_PER_WEEK


def _analyse(
    kpis: pl.DataFrame, metrics: pl.DataFrame, grid: _Grid, demand: Floats | None, max_lag: int
) -> _Analysis:
    left = {name: _prepare(kpis[name], grid, demand) for name in _names(kpis)}
    right = {name: _prepare(metrics[name], grid, demand) for name in _names(metrics)}
    pairs = {
        (kpi, metric): _compare(left[kpi], right[metric], max_lag)
        for kpi in left
        for metric in right
    }
    qs = adjusted([pair.p if pair else np.nan for pair in pairs.values()])
    return _Analysis(left, right, pairs, dict(zip(pairs, qs.tolist(), strict=True)))


def _row(pair: Pair, analysis: _Analysis, plain: _Analysis, step_s: float, q: float) -> Row:
    """Return the row of a pair; confounders other than demand are named later."""
    kpi, metric = pair
    row: Row = {"kpi": kpi, "metric": metric, "confounders": "", "reason": ""}
    correlation, before = analysis.pairs[pair], plain.pairs[pair]
    if correlation is None:
        reasons = {kpi: analysis.kpis[kpi].reason, metric: analysis.metrics[metric].reason}
        reason = "; ".join(f"{name}: {why}" for name, why in reasons.items() if why)
        return {**row, "status": INSUFFICIENT, "reason": reason or "too few windows have both"}
    associated = analysis.q[pair] <= q
    # Explained by demand: associated without this step, and at least halved by it.
    by_demand = (
        not associated
        and before is not None
        and plain.q[pair] <= q
        and abs(correlation.r) <= abs(before.r) / 2
    )
    return {
        **row,
        "status": ASSOCIATED if associated else BY_DEMAND if by_demand else NOT_ASSOCIATED,
        "r": correlation.r,
        "lag_s": correlation.lag * step_s,
        "p": correlation.p,
        "q": analysis.q[pair],
        "n": correlation.n,
        "r_with_demand": before.r if before else None,
        "confounders": DEMAND if by_demand else "",
    }


def _prepare(
    values: pl.Series,
    grid: _Grid,
    demand: Floats | None,
) -> _Prepared:
    """Apply the first two steps to one series, or return why it cannot be judged."""
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
    # A series fully explained by season and demand has no variation of its own.
    if np.var(rest[seen]) <= whitening.MIN_VARIANCE_RATIO * np.var(raw[np.isfinite(raw)]):
        return _Prepared(nothing, nothing, nothing, "nothing is left beside season and demand")
    memory = whitening.autoregression(rest)
    return _Prepared(rest, memory, whitening.filled(rest, memory))


def _compare(kpi: _Prepared, metric: _Prepared, max_lag: int) -> _Correlation | None:
    """Find the lag with the largest correlation, and its p over all lags."""
    if kpi.reason or metric.reason:
        return None
    leading, following = _led(metric, kpi, metric.memory, 0)
    best: _Correlation | None = None
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
            best = _Correlation(r, lag, p, count)
    if best is None:
        return None
    # Sidak over the lags; log1p keeps tiny p exact.
    p = -np.expm1((max_lag + 1) * np.log1p(-min(best.p, 1 - 1e-16)))
    return _Correlation(best.r, best.lag, float(p), best.n)


def _freedom(count: int, given: int = 0) -> float:
    """Return Fisher's n - 3, corrected for the weekly medians and `given` other variables.

    A residual from the median of w normal values has the covariance I + (v - 2 / w) J, with v the
    variance of that median; products of two such residuals vary like those of
    (trace^2 / squared norm) independent values.
    """
    weeks = min(max(round(count / HOURS_PER_WEEK), min(MEDIAN_VARIANCE)), max(MEDIAN_VARIANCE))
    rest = weeks * MEDIAN_VARIANCE[weeks] - 1
    share = (weeks - 1 + rest) ** 2 / (weeks - 1 + rest**2) / weeks
    return count * share - 3 - given


def _correlation(x: Floats, y: Floats) -> float:
    x, y = x - x.mean(), y - y.mean()
    scale = np.sqrt((x @ x) * (y @ y))
    return float(np.clip(x @ y / scale, -1 + 1e-12, 1 - 1e-12)) if scale > 0 else 0.0


def _name_confounders(rows: list[Row], analysis: _Analysis, step_s: float, q: float) -> None:
    """Name for each association the stronger metrics of the same KPI that explain it away."""
    kept = [row for row in rows if row["status"] == ASSOCIATED]
    for row in kept:
        kpi, metric = analysis.kpis[row["kpi"]], analysis.metrics[row["metric"]]
        x, y = _led(metric, kpi, metric.memory, round(row["lag_s"] / step_s))
        explained = []
        for other in kept:
            if other["kpi"] != row["kpi"] or abs(other["r"]) <= abs(row["r"]):
                continue
            rival = analysis.metrics[other["metric"]]
            z, _ = _led(rival, kpi, metric.memory, round(other["lag_s"] / step_s))
            if _partial_p(x, y, z) > q:
                explained.append(other["metric"])
        row["confounders"] = ", ".join(explained)


def _partial_p(x: Floats, y: Floats, z: Floats) -> float:
    """Return the p of the correlation of x and y given z."""
    both = np.isfinite(x) & np.isfinite(y) & np.isfinite(z)
    freedom = _freedom(int(both.sum()), given=1)
    if freedom <= 0:
        return 1.0
    xy, xz, yz = (_correlation(a[both], b[both]) for a, b in ((x, y), (x, z), (y, z)))
    partial = np.clip((xy - xz * yz) / np.sqrt((1 - xz**2) * (1 - yz**2)), -1 + 1e-12, 1 - 1e-12)
    return 2 * float(ndtr(-abs(np.arctanh(partial)) * np.sqrt(freedom)))


def _led(metric: _Prepared, kpi: _Prepared, memory: Floats, lag: int) -> tuple[Floats, Floats]:
    """Whiten both by one filter, restore missing values, and shift the metric by its lag."""
    leading = whitening.innovations(metric.filled, memory)
    following = whitening.innovations(kpi.filled, memory)
    leading[~np.isfinite(metric.residuals)] = np.nan
    following[~np.isfinite(kpi.residuals)] = np.nan
    return np.concatenate([np.full(lag, np.nan), leading[: leading.size - lag]]), following
