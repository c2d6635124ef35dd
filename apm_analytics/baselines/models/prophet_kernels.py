"""The compiled loops of the batched Prophet: normal equations, lasso, block descent, the curve.

In:  values of many series on one grid, the seasonal columns of that grid.
Out: parameters, one row per series.

The parameters of a series are ordered [k, m, beta..., delta...]. The first block has normal
priors: a ridge problem, which a Cholesky factor eliminates. What remains for delta is a lasso of
25 coordinates, solved exactly by an active set. Given these parameters, the noise has a closed
form; the two steps alternate until the noise converges.
"""

import math

import numpy as np

from apm_analytics.baselines.models.lasso import PIVOT_FLOOR, lasso
from apm_analytics.baselines.models.series import Floats, Ints
from apm_analytics.foundation.compiled import compiled_loop

# Noise below this share of the largest value is lost in sums of squares in double precision; in a
# series without noise its logarithm would be minus infinity.
SIGMA_FLOOR = 1e-6
NOISE_TOLERANCE = 1e-7
NOISE_STEPS = 100
# Initial noise: this share of the variance.
FIRST_NOISE = 0.3


@compiled_loop
def fit_rows(
    values: Floats,
    seconds: Floats,
    season: Floats,
    season_precision: Floats,
    changepoint_range: float,
    tau: float,
    theta: Floats,
    changepoints: Floats,
    facts: Floats,
) -> None:
    """Fit every row of `values`; NaN is missing, each row has at least two different values.

    Parameters
    ----------
    values : (n_series, n_time). seconds : (n_time,), ascending. season : (n_time, n_season).
    season_precision : (n_season,), 1 / prior variance of each seasonal column.
    theta : out, (n_series, 2 + n_season + n_changepoints).
    changepoints : out, (n_series, n_changepoints), scaled to [0, 1]; 2 where there is none.
    facts : out, (n_series, 7): sigma, y_scale, start, t_scale, observed, changepoints, steps.
    """
    n_series, n_time = values.shape
    n_season = season.shape[1]
    n_change = changepoints.shape[1]
    size = 2 + n_season + n_change
    season_gram = np.zeros((n_season, n_season))
    for i in range(n_time):
        for a in range(n_season):
            for b in range(a + 1):
                season_gram[a, b] += season[i, a] * season[i, b]
    precision = np.empty(2 + n_season)
    precision[0] = precision[1] = 1.0 / 25.0
    precision[2:] = season_precision
    observed = np.empty(n_time, np.int64)
    columns = np.ascontiguousarray(season.T)
    clock = (seconds - seconds[0]) / (seconds[n_time - 1] - seconds[0])
    shared = np.empty((size, size))
    own = np.empty((size, size))
    moments = np.empty(size)
    have_shared = False
    complete_changepoints = np.empty(n_change)
    complete_places = np.empty(0, np.int64)
    for row in range(n_series):
        y = values[row]
        if have_shared and not np.isnan(y.sum()):
            # The same windows as another series: only the products with y differ.
            n = n_time
            largest = np.abs(y).max()
            start = seconds[0]
            length = seconds[n_time - 1] - start
            n_own = max(min(n_change, math.floor(n * changepoint_range) - 1), 0)
            gram = shared
            changepoints[row] = complete_changepoints
            total = _complete_moments(y, clock, columns, complete_places, largest, moments)
        else:
            n = 0
            largest = 0.0
            for i in range(n_time):
                if not np.isnan(y[i]):
                    observed[n] = i
                    n += 1
                    largest = max(largest, abs(y[i]))
            start = seconds[observed[0]]
            length = seconds[observed[n - 1]] - start
            history = math.floor(n * changepoint_range)
            n_own = max(min(n_change, history - 1), 0)
            gram = shared if n == n_time else own
            total = _normal_equations(
                y,
                seconds,
                season,
                season_gram,
                observed[:n],
                (start, length, largest),
                history,
                n_own,
                gram,
                moments,
                changepoints[row],
            )
            if n == n_time:
                have_shared = True
                complete_changepoints[:] = changepoints[row]
                complete_places = _places(history, n_own)
                # As for all complete series: no result may depend on the order of the series.
                total = _complete_moments(y, clock, columns, complete_places, largest, moments)
        noise, steps = _descend(gram, moments, total, n, precision, tau, theta[row])
        facts[row, 0] = math.sqrt(noise)
        facts[row, 1] = largest
        facts[row, 2] = start
        facts[row, 3] = length
        facts[row, 4] = n
        facts[row, 5] = n_own
        facts[row, 6] = steps


@compiled_loop
def curve_rows(
    seconds: Floats,
    season: Floats,
    theta: Floats,
    changepoints: Floats,
    start: Floats,
    length: Floats,
    y_scale: Floats,
    out: Floats,
) -> None:
    """Evaluate trend plus season of every row at `seconds` into `out` (n_series, n_times)."""
    n_series, n_change = changepoints.shape
    n_season = season.shape[1]
    for row in range(n_series):
        parameters = theta[row]
        slope = parameters[0]
        level = parameters[1]
        passed = 0
        before = -np.inf
        for i in range(seconds.shape[0]):
            t = (seconds[i] - start[row]) / length[row]
            if t < before:  # times need not be sorted
                slope = parameters[0]
                level = parameters[1]
                passed = 0
            before = t
            while passed < n_change and changepoints[row, passed] <= t:
                delta = parameters[2 + n_season + passed]
                slope += delta
                level -= delta * changepoints[row, passed]
                passed += 1
            total = slope * t + level
            for a in range(n_season):
                total += season[i, a] * parameters[2 + a]
            out[row, i] = total * y_scale[row]


@compiled_loop
def _normal_equations(
    y: Floats,
    seconds: Floats,
    season: Floats,
    season_gram: Floats,
    observed: Ints,
    units: tuple[float, float, float],
    history: int,
    n_own: int,
    gram: Floats,
    moments: Floats,
    changepoints: Floats,
) -> float:
    """Fill X'X and X'y of one series and return y'y; X = [t, 1, season, hinges].

    One pass from the last observation to the first: a hinge that begins at a changepoint is a
    sum over all later observations, so suffix sums give every product with it.
    """
    start, length, largest = units
    n = observed.shape[0]
    n_season = season.shape[1]
    n_change = changepoints.shape[0]
    hinge = 2 + n_season
    gram[:, :] = 0.0
    moments[:] = 0.0
    ones = 0.0
    t_sum = 0.0
    tt_sum = 0.0
    y_sum = 0.0
    ty_sum = 0.0
    yy_sum = 0.0
    f_sum = np.zeros(n_season)
    tf_sum = np.zeros(n_season)
    fy_sum = np.zeros(n_season)
    ones_at = np.zeros(n_change)
    t_at = np.zeros(n_change)
    tt_at = np.zeros(n_change)
    places = _places(history, n_own)
    j = n_own - 1
    for q in range(n - 1, -1, -1):
        i = observed[q]
        t = (seconds[i] - start) / length
        v = y[i] / largest
        ones += 1.0
        t_sum += t
        tt_sum += t * t
        y_sum += v
        ty_sum += t * v
        yy_sum += v * v
        for a in range(n_season):
            fy_sum[a] += season[i, a] * v
            f_sum[a] += season[i, a]
            tf_sum[a] += season[i, a] * t
        while j >= 0 and q == places[j]:
            changepoints[j] = t
            ones_at[j] = ones
            t_at[j] = t_sum
            tt_at[j] = tt_sum
            moments[hinge + j] = ty_sum - t * y_sum
            gram[hinge + j, 0] = tt_sum - t * t_sum
            gram[hinge + j, 1] = t_sum - t * ones
            for a in range(n_season):
                gram[hinge + j, 2 + a] = tf_sum[a] - t * f_sum[a]
            j -= 1
    moments[0] = ty_sum
    moments[1] = y_sum
    for a in range(n_season):
        moments[2 + a] = fy_sum[a]
    for p in range(n_own, n_change):
        changepoints[p] = 2.0
    gram[0, 0] = tt_sum
    gram[1, 0] = t_sum
    gram[1, 1] = ones
    for a in range(n_season):
        gram[2 + a, 0] = tf_sum[a]
        gram[2 + a, 1] = f_sum[a]
    for p in range(n_own):
        c = changepoints[p]
        for q in range(p + 1):
            d = changepoints[q]
            gram[hinge + p, hinge + q] = tt_at[p] - (c + d) * t_at[p] + c * d * ones_at[p]
    for p in range(n_own, n_change):
        gram[hinge + p, hinge + p] = 1.0
    _season_products(season, season_gram, observed, gram)
    for p in range(gram.shape[0]):
        for q in range(p):
            gram[q, p] = gram[p, q]
    return yy_sum


@compiled_loop
def _places(history: int, n_own: int) -> Ints:
    """Return the indices of the observations at which Prophet puts the changepoints."""
    places = np.empty(n_own, np.int64)
    for j in range(n_own):
        places[j] = int(np.rint((history - 1) / n_own * (j + 1)))
    return places


@compiled_loop
def _complete_moments(
    y: Floats, clock: Floats, columns: Floats, places: Ints, largest: float, moments: Floats
) -> float:
    """Fill X'y of a series without missing values and return y'y; sums between changepoints."""
    n_season, n_time = columns.shape
    n_own = places.shape[0]
    moments[:] = 0.0
    for a in range(n_season):
        s = 0.0
        for i in range(n_time):
            s += columns[a, i] * y[i]
        moments[2 + a] = s / largest
    y_sum = 0.0
    ty_sum = 0.0
    yy_sum = 0.0
    end = n_time
    for j in range(n_own - 1, -2, -1):
        begin = places[j] if j >= 0 else 0
        p = 0.0
        q = 0.0
        r = 0.0
        for i in range(begin, end):
            p += y[i]
            q += clock[i] * y[i]
            r += y[i] * y[i]
        y_sum += p
        ty_sum += q
        yy_sum += r
        if j >= 0:
            moments[2 + n_season + j] = (ty_sum - clock[begin] * y_sum) / largest
        end = begin
    moments[0] = ty_sum / largest
    moments[1] = y_sum / largest
    return yy_sum / largest / largest


@compiled_loop
def _season_products(season: Floats, season_gram: Floats, observed: Ints, gram: Floats) -> None:
    """Fill the seasonal block: from all rows minus the missing ones, or from the observed."""
    n_time, n_season = season.shape
    n = observed.shape[0]
    if 2 * n < n_time:
        for q in range(n):
            for a in range(n_season):
                for b in range(a + 1):
                    gram[2 + a, 2 + b] += season[observed[q], a] * season[observed[q], b]
        return
    for a in range(n_season):
        for b in range(a + 1):
            gram[2 + a, 2 + b] = season_gram[a, b]
    q = 0
    for i in range(n_time):
        if q < n and observed[q] == i:
            q += 1
            continue
        for a in range(n_season):
            for b in range(a + 1):
                gram[2 + a, 2 + b] -= season[i, a] * season[i, b]


@compiled_loop
def _descend(
    gram: Floats,
    moments: Floats,
    total: float,
    n: int,
    precision: Floats,
    tau: float,
    theta: Floats,
) -> tuple[float, int]:
    """Alternate between parameters and noise; return the noise variance and the steps taken."""
    n_ridge = precision.shape[0]
    n_change = theta.shape[0] - n_ridge
    factor = np.zeros((n_ridge, n_ridge))
    crossed = np.empty((n_ridge, n_change))  # inner loops run along n_change, as vectors
    solved = np.empty(n_ridge)
    schur = np.empty((n_change, n_change))
    target = np.empty(n_change)
    delta = np.zeros(n_change)
    noise = max(FIRST_NOISE * (total - moments[1] ** 2 / n) / n, SIGMA_FLOOR**2)
    for step in range(NOISE_STEPS):
        _cholesky(gram, precision, noise, factor)
        schur[:, :] = gram[n_ridge:, n_ridge:]
        target[:] = moments[n_ridge:]
        for a in range(n_ridge):
            s = moments[a]
            for q in range(a):
                s -= factor[a, q] * solved[q]
            inverse = 1.0 / factor[a, a]
            solved[a] = s * inverse
            for j in range(n_change):
                crossed[a, j] = gram[a, n_ridge + j]
            for q in range(a):
                known = factor[a, q]
                for j in range(n_change):
                    crossed[a, j] -= known * crossed[q, j]
            for j in range(n_change):
                crossed[a, j] *= inverse
                target[j] -= crossed[a, j] * solved[a]
            for j in range(n_change):
                here = crossed[a, j]
                for q in range(n_change):
                    schur[j, q] -= here * crossed[a, q]
        lasso(schur, target, noise / tau, delta)
        for a in range(n_ridge):
            s = solved[a]
            for j in range(n_change):
                s -= crossed[a, j] * delta[j]
            theta[a] = s
        for a in range(n_ridge - 1, -1, -1):
            s = theta[a]
            for q in range(a + 1, n_ridge):
                s -= factor[q, a] * theta[q]
            theta[a] = s / factor[a, a]
        theta[n_ridge:] = delta
        left = total
        for a in range(theta.shape[0]):
            if theta[a] != 0.0:
                s = 0.0
                for q in range(theta.shape[0]):
                    s += gram[a, q] * theta[q]
                left += theta[a] * (s - 2.0 * moments[a])
        left = max(left, 0.0)
        variance = max(2.0 * left / (n + math.sqrt(n * n + 16.0 * left)), SIGMA_FLOOR**2)
        settled = abs(variance - noise) <= NOISE_TOLERANCE * variance
        noise = variance
        if settled:
            return noise, step + 1
    return noise, NOISE_STEPS


@compiled_loop
def _cholesky(gram: Floats, precision: Floats, noise: float, factor: Floats) -> None:
    """Factor the ridge block, gram + noise * precision, into lower triangular `factor`."""
    for a in range(precision.shape[0]):
        for b in range(a + 1):
            s = gram[a, b]
            if a == b:
                s += noise * precision[a]
            for q in range(b):
                s -= factor[a, q] * factor[b, q]
            if a == b:
                factor[a, a] = math.sqrt(max(s, PIVOT_FLOOR * gram[a, a] + 1e-300))
            else:
                factor[a, b] = s / factor[b, b]
