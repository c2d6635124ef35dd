"""The compiled loop of the detector: expected values, and the surprise of each value.

In:  the state of one series (`new_state`), its next times and values.
Out: one row per point: surprise, novelty, expected value, reach of the expected range, residual.

A point is compared with the median of the same time of day, or of the same time of week where
that has been the better forecast. The residual has six magnitudes: its level and its spread over
the last 1, 8 and 64 points. Each is converted to the probability of one as large in this series:
by a histogram up to a high quantile, by an exponential tail above it (peaks over threshold). The
root mean square of their -log10 is the surprise. Novelty is the surprise where it is the highest
of the last points, reduced for each earlier peak as high.
"""

import math

import numpy as np
from numpy.typing import NDArray

from apm_analytics.foundation.compiled import compiled_loop

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

DAY_S = 86_400.0
# Level and spread are measured over the last 1, SHORT and LONG points.
SHORT, LONG = 8, 64
MAGNITUDES = 6
# The same time of day: the last 10 days, 6 slots to either side. Of the week: 4 weeks, 1 slot.
DAYS_BACK, DAY_REACH = 10, 6
WEEKS_BACK, WEEK_REACH = 4, 1
KEPT_DAYS = 7 * WEEKS_BACK + 1
# With fewer slots per day, times of day and week are not compared: a median of so few values would
# follow every change.
LEAST_SLOTS = 4
# The time of week is used if its error is below this share of the error of the time of day. Errors
# fade over 1,000 points.
WEEK_GAIN = 0.9
ERROR_STEP = 1e-3
# Without a day of history the expected value is the median of this many points.
RECENT = 100
# Weight of what was learned before the first season.
WITHOUT_SEASON = 0.1
# Tails are estimated from this many points on.
LEARNING = 50
# Residuals kept to classify a change.
KEPT = 256
# Histogram bins are 5 % wide; 512 of them span a factor of 5e10.
BINS = 512
BIN_LOG = math.log(1.05)
# Residuals below this share of the value are rounding errors.
ROUNDING = 1e-9
# Smallest tail scale, as a share of the usual deviation of the series from its mean.
LEAST_TAIL = 0.01
# After a gap of this many intervals the last residuals no longer count as neighbours.
GAP_INTERVALS = 12.0
# Peaks remembered, and the share of a peak that counts as "as high".
PEAKS = 64
AS_HIGH = 0.7
LN10 = math.log(10.0)
# Weights in the histograms grow instead of fading; above this all are divided by it.
MAX_WEIGHT = 1e9

# Columns of the result.
SURPRISE, NOVELTY, EXPECTED, REACH, RESIDUAL, COLUMNS = 0, 1, 2, 3, 4, 5
# Places in `facts`.
(LAST, POINTS, RUN, ERROR_DAY, ERROR_WEEK, MEAN, DEVIATION, WEIGHT, N_PEAKS, ODD, SEASON, FACTS) = (
    range(12)
)
# Places in `numbers`.
(INTERVAL, PER_DAY, QUANTILE, FADING, HABIT, SPIKE_LOG, THRESHOLD, NUMBERS) = range(8)

State = tuple[Floats, Floats, Ints, Floats, Floats, Floats, Floats, Floats, Floats]
NAMES = (
    "facts",
    "table",
    "days",
    "histograms",
    "bins",
    "recent",
    "residuals",
    "surprises",
    "peaks",
)


def new_state(per_day: int, refractory: int) -> State:
    """Return the state of a series without points."""
    facts = np.zeros(FACTS)
    facts[LAST], facts[WEIGHT], facts[ODD] = -np.inf, 1.0, -np.inf
    return (
        facts,
        np.full((KEPT_DAYS, per_day), np.nan),
        np.full(KEPT_DAYS, -1, dtype=np.int64),
        np.zeros((MAGNITUDES, BINS)),
        np.zeros((MAGNITUDES, 3)),  # exponent of the first bin, highest bin used, weight of all
        np.full(RECENT, np.nan),
        np.zeros(KEPT),
        np.zeros(refractory),
        np.zeros((PEAKS, 2)),
    )


@compiled_loop
def advance(
    facts: Floats,
    table: Floats,
    days: Ints,
    histograms: Floats,
    bins: Floats,
    recent: Floats,
    residuals: Floats,
    surprises: Floats,
    peaks: Floats,
    numbers: Floats,
    times: Floats,
    values: Floats,
    results: Floats,
) -> None:
    """Add the next points to the state and fill their results into `results`, (n_points, COLUMNS).

    A point without a value, or not later than the previous one, is NaN and changes nothing.
    """
    per_day = int(numbers[PER_DAY])
    slot_s = DAY_S / per_day
    magnitudes = np.zeros(MAGNITUDES)
    refractory = surprises.size
    for i in range(times.size):
        time, value = times[i], values[i]
        results[i, :] = np.nan
        if not math.isfinite(value) or not time > facts[LAST]:
            continue
        if time - facts[LAST] > GAP_INTERVALS * numbers[INTERVAL]:
            facts[RUN] = 0.0
        slot = math.floor(time / slot_s)
        seen = int(facts[POINTS])
        day, week = math.nan, math.nan
        if per_day >= LEAST_SLOTS:
            day = _usual(table, days, slot, per_day, 1, DAYS_BACK, DAY_REACH)
            week = _usual(table, days, slot, per_day, 7, WEEKS_BACK, WEEK_REACH)
        if facts[SEASON] == 0.0 and not math.isnan(day):
            # From the first season on, earlier residuals (from a plain median) count little.
            facts[SEASON] = 1.0
            histograms *= WITHOUT_SEASON
            bins[:, 2] *= WITHOUT_SEASON
        if math.isnan(day):
            day = np.median(recent[: min(seen, RECENT)]) if seen else value
        if math.isnan(week):
            week = day
        better = facts[ERROR_WEEK] < WEEK_GAIN * facts[ERROR_DAY]
        expected = week if better else day
        residual = value - expected
        if abs(residual) <= ROUNDING * max(abs(value), abs(expected)):
            residual = 0.0
        run = int(facts[RUN])
        residuals[run % KEPT] = residual
        run += 1
        facts[RUN] = run
        _measure(residuals, run, magnitudes)
        least = LEAST_TAIL * facts[DEVIATION]
        squares = 0.0
        for kind in range(MAGNITUDES):
            if math.isnan(magnitudes[kind]):
                continue
            log = _surprise(
                histograms[kind],
                bins[kind],
                magnitudes[kind],
                numbers[QUANTILE],
                least,
                facts[WEIGHT],
            )
            squares += log * log
        surprise = math.sqrt(squares / MAGNITUDES) if seen >= LEARNING else 0.0
        novelty = _novelty(facts, surprises, peaks, seen, surprise, numbers[HABIT])
        if seen >= LEARNING:
            results[i, SURPRISE], results[i, NOVELTY] = surprise, novelty
            results[i, REACH] = _reach(
                histograms[0], bins[0], numbers[QUANTILE], least, numbers[SPIKE_LOG]
            )
        results[i, EXPECTED], results[i, RESIDUAL] = expected, residual
        if surprise > numbers[THRESHOLD]:
            facts[ODD] = seen
        # Update the state.
        surprises[seen % refractory] = surprise
        for kind in range(MAGNITUDES):
            if not math.isnan(magnitudes[kind]):
                _learn(histograms[kind], bins[kind], magnitudes[kind], facts[WEIGHT])
        facts[WEIGHT] *= numbers[FADING]
        if facts[WEIGHT] > MAX_WEIGHT:
            histograms /= MAX_WEIGHT
            bins[:, 2] /= MAX_WEIGHT
            facts[WEIGHT] /= MAX_WEIGHT
        step = max(ERROR_STEP, 1.0 / (seen + 1))
        facts[ERROR_DAY] += step * (abs(value - day) - facts[ERROR_DAY])
        facts[ERROR_WEEK] += step * (abs(value - week) - facts[ERROR_WEEK])
        facts[MEAN] += step * (value - facts[MEAN])
        facts[DEVIATION] += step * (abs(value - facts[MEAN]) - facts[DEVIATION])
        number = slot // per_day
        row = number % KEPT_DAYS
        if days[row] != number:
            days[row] = number
            table[row, :] = np.nan
        table[row, slot % per_day] = value
        recent[seen % RECENT] = value
        facts[LAST], facts[POINTS] = time, seen + 1.0


@compiled_loop
def _usual(
    table: Floats, days: Ints, slot: int, per_day: int, step: int, count: int, reach: int
) -> float:
    """Return the median of the slots around this one, `step` days apart; NaN without any."""
    reach = min(reach, (per_day - 1) // 2)
    near = np.empty(count * (2 * reach + 1))
    n = 0
    for back in range(1, count + 1):
        center = slot - back * step * per_day
        for at in range(center - reach, center + reach + 1):
            number = at // per_day
            row = number % KEPT_DAYS
            if days[row] == number:
                one = table[row, at % per_day]
                if not math.isnan(one):
                    near[n] = one
                    n += 1
    return float(np.median(near[:n])) if n else math.nan


@compiled_loop
def _measure(residuals: Floats, run: int, magnitudes: Floats) -> None:
    """Return level and spread of the last 1, 8 and 64 residuals; NaN before there are as many."""
    last = residuals[(run - 1) % KEPT]
    magnitudes[0] = abs(last)
    magnitudes[1] = abs(last - residuals[(run - 2) % KEPT]) if run > 1 else math.nan
    for place, horizon in ((2, SHORT), (4, LONG)):
        if run < horizon:
            magnitudes[place] = magnitudes[place + 1] = math.nan
            continue
        total = 0.0
        for back in range(1, horizon + 1):
            total += residuals[(run - back) % KEPT]
        mean = total / horizon
        squares = 0.0
        for back in range(1, horizon + 1):
            away = residuals[(run - back) % KEPT] - mean
            squares += away * away
        magnitudes[place] = abs(mean)
        magnitudes[place + 1] = math.sqrt(squares / horizon)


@compiled_loop
def _tail(histogram: Floats, bin_: Floats, quantile: float, least: float) -> tuple[float, float]:
    """Return the value at the quantile, and the mean excess above it."""
    beyond = (1.0 - quantile) * bin_[2]
    place = int(bin_[1])
    weight, total = 0.0, 0.0
    while place > 0 and weight + histogram[place] <= beyond:
        if histogram[place] > 0.0:
            weight += histogram[place]
            total += histogram[place] * math.exp((bin_[0] + place + 0.5) * BIN_LOG)
        place -= 1
    if place == 0:
        at = 0.0
    else:
        top = math.exp((bin_[0] + place + 1.0) * BIN_LOG)
        share = (beyond - weight) / histogram[place]
        at = math.exp((bin_[0] + place + 1.0 - share) * BIN_LOG)
        total += (beyond - weight) * 0.5 * (at + top)
    excess = (total - beyond * at) / beyond if beyond > 0.0 else 0.0
    return at, max(excess, least, 1e-6 * at, 1e-300)


@compiled_loop
def _surprise(
    histogram: Floats, bin_: Floats, magnitude: float, quantile: float, least: float, weight: float
) -> float:
    """Return -log10 of the share of the past that was as large."""
    if bin_[2] == 0.0:
        return 0.0
    at, excess = _tail(histogram, bin_, quantile, least)
    if magnitude > at:
        # Bounded, so that squares stay finite where nothing has ever moved.
        return min(-math.log10(1.0 - quantile) + (magnitude - at) / excess / LN10, 1e6)
    own = _place(bin_, magnitude)
    above = 0.0
    for place in range(own + 1, int(bin_[1]) + 1):
        above += histogram[place]
    inside = histogram[own] if own < BINS else 0.0
    share = (above + 0.5 * inside + 0.5 * weight) / (bin_[2] + weight)
    return min(-math.log10(share), -math.log10(1.0 - quantile))


@compiled_loop
def _reach(histogram: Floats, bin_: Floats, quantile: float, least: float, log: float) -> float:
    """Return the magnitude whose tail probability is 10 ** -log."""
    at, excess = _tail(histogram, bin_, quantile, least)
    return float(at + excess * LN10 * max(log + math.log10(1.0 - quantile), 0.0))


@compiled_loop
def _place(bin_: Floats, magnitude: float) -> int:
    """Return the bin of a magnitude; 0 holds zero and all that is too small, BINS is too large."""
    if magnitude <= 0.0:
        return 0
    place = math.floor(math.log(magnitude) / BIN_LOG) - bin_[0]
    return int(min(max(place, 0.0), float(BINS)))


@compiled_loop
def _learn(histogram: Floats, bin_: Floats, magnitude: float, weight: float) -> None:
    """Count a magnitude; the bins move up when it is above them all."""
    if magnitude > 0.0:
        exponent = math.floor(math.log(magnitude) / BIN_LOG)
        if bin_[1] == 0.0:
            # The first magnitude goes to the bin at three quarters of the histogram.
            bin_[0] = exponent - 3.0 * BINS / 4.0
        up = int(exponent - bin_[0]) - (BINS - 1)
        if up > 0:
            lost = histogram[: min(up + 1, BINS)].sum()
            for place in range(1, BINS):
                histogram[place] = histogram[place + up] if place + up < BINS else 0.0
            histogram[0] = lost
            bin_[0] += up
            bin_[1] = max(bin_[1] - up, 1.0)
    place = min(_place(bin_, magnitude), BINS - 1)
    histogram[place] += weight
    bin_[1] = max(bin_[1], place)
    bin_[2] += weight


@compiled_loop
def _novelty(
    facts: Floats, surprises: Floats, peaks: Floats, seen: int, surprise: float, habit: float
) -> float:
    """Return the surprise, less for earlier peaks as high; 0 unless it is the highest lately."""
    if seen < LEARNING:
        return 0.0
    refractory = surprises.size
    for one in surprises:
        if surprise <= one:
            return 0.0
    known = int(facts[N_PEAKS])
    before = 0
    for peak in range(max(0, known - PEAKS), known):
        place = peak % PEAKS
        apart = seen - peaks[place, 0] > refractory
        if apart and peaks[place, 1] >= AS_HIGH * surprise:
            before += 1
    last = (known - 1) % PEAKS
    if known > 0 and seen - peaks[last, 0] <= refractory:
        # The same peak, still rising.
        peaks[last, 0], peaks[last, 1] = seen, surprise
    elif surprise > 1.0:
        peaks[known % PEAKS, 0], peaks[known % PEAKS, 1] = seen, surprise
        facts[N_PEAKS] = known + 1.0
    return surprise - habit * math.log10(1.0 + before)
