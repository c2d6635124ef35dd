"""Compiled statistics of many series at once: medians of slots, quantiles, profiles, trends.

In:  values of shape (n_series, n_time), NaN is missing, and the slot of each time.
Out: arrays filled in place. Slots without a value stay NaN.
"""

import numpy as np

from apm_analytics.baselines.models.series import Flags, Floats, Ints
from apm_analytics.foundation.compiled import compiled_loop

# Mann-Kendall statistic above which a trend counts as real; below it the trend is 0.
TREND_Z = 2.0
LEAST_PAIRS = 6
DAYS_APART = 7


@compiled_loop
def sorted_quantile(ordered: Floats, size: int, share: float) -> float:
    """Return a quantile of the first `size` values, ascending, by linear interpolation."""
    place = share * (size - 1)
    low = int(place)
    if low + 1 >= size:
        return float(ordered[size - 1])
    return float(ordered[low] + (place - low) * (ordered[low + 1] - ordered[low]))


@compiled_loop
def facts(values: Floats, count: Ints, first: Ints, last: Ints, varies: Flags) -> None:
    """Fill the number of values of each row, index of first and last, and whether they vary.

    `count` becomes -1 for a row with an infinite value.
    """
    n_time = values.shape[1]
    for row in range(values.shape[0]):
        begin = 0
        while begin < n_time and np.isnan(values[row, begin]):
            begin += 1
        first[row] = begin
        last[row] = begin
        count[row] = 0
        varies[row] = False
        if begin == n_time:
            continue
        least = values[row, begin]
        most = least
        missing = 0
        for i in range(begin, n_time):
            v = values[row, i]
            if v < least:
                least = v
            if v > most:
                most = v
            missing += v != v
        end = n_time - 1
        while np.isnan(values[row, end]):
            end -= 1
        last[row] = end
        count[row] = n_time - begin - missing
        varies[row] = most > least
        if most == np.inf or least == -np.inf:
            count[row] = -1


@compiled_loop
def group_medians(values: Floats, group: Ints, out: Floats) -> None:
    """Fill the median of each group of adjacent times; `group` ascends from 0."""
    n_time = values.shape[1]
    buffer = np.empty(n_time)
    for row in range(values.shape[0]):
        i = 0
        while i < n_time:
            here = group[i]
            n = 0
            while i < n_time and group[i] == here:
                if not np.isnan(values[row, i]):
                    buffer[n] = values[row, i]
                    n += 1
                i += 1
            if n:
                part = np.sort(buffer[:n])
                out[row, here] = (part[(n - 1) // 2] + part[n // 2]) / 2.0


@compiled_loop
def quantiles(values: Floats, shares: Floats, out: Floats) -> None:
    """Fill quantiles of the known values of every row."""
    for row in range(values.shape[0]):
        known = values[row][~np.isnan(values[row])]
        if known.size:
            ordered = np.sort(known)
            for q in range(shares.shape[0]):
                out[row, q] = sorted_quantile(ordered, ordered.size, shares[q])


@compiled_loop
def ring_medians(values: Floats, slot: Ints, n_slots: int, reach: int, out: Floats) -> None:
    """Fill the median of each slot of a period and its `reach` neighbours on each side.

    Slots lie on a ring: the last is the neighbour of the first. `out` is of shape
    (n_series, n_slots).
    """
    n_time = values.shape[1]
    order = np.argsort(slot, kind="mergesort")
    first = np.searchsorted(slot[order], np.arange(n_slots + 1))
    grouped = np.empty(n_time)
    begin = np.empty(n_slots + 1, np.int64)
    buffer = np.empty(n_time)
    for row in range(values.shape[0]):
        n = 0
        for s in range(n_slots):
            begin[s] = n
            for p in range(first[s], first[s + 1]):
                v = values[row, order[p]]
                if not np.isnan(v):
                    grouped[n] = v
                    n += 1
        begin[n_slots] = n
        for s in range(n_slots):
            size = 0
            for step in range(-reach, reach + 1):
                near = (s + step) % n_slots
                for p in range(begin[near], begin[near + 1]):
                    buffer[size] = grouped[p]
                    size += 1
            if size:
                out[row, s] = sorted_quantile(np.sort(buffer[:size]), size, 0.5)


@compiled_loop
def close_ring(profile: Floats) -> None:
    """Interpolate empty slots of each row of (n_rows, n_slots) between their neighbours."""
    n_slots = profile.shape[1]
    for row in range(profile.shape[0]):
        anchor = -1
        for s in range(n_slots):
            if not np.isnan(profile[row, s]):
                anchor = s
                break
        if anchor < 0:
            continue
        left = anchor
        for step in range(1, n_slots + 1):
            right = (anchor + step) % n_slots
            if np.isnan(profile[row, right]):
                continue
            gap = (right - left) % n_slots
            if gap == 0:
                gap = n_slots
            for k in range(1, gap):
                share = k / gap
                low = profile[row, left]
                profile[row, (left + k) % n_slots] = low + share * (profile[row, right] - low)
            left = right


@compiled_loop
def last_in_slot(values: Floats, slot: Ints, oldest: int, out: Floats) -> None:
    """Fill the newest known value of each slot, at index `oldest` or later."""
    for row in range(values.shape[0]):
        for i in range(values.shape[1] - 1, oldest - 1, -1):
            if np.isnan(out[row, slot[i]]) and not np.isnan(values[row, i]):
                out[row, slot[i]] = values[row, i]


@compiled_loop
def slopes(values: Floats, slot: Ints, profile: Floats, day: Ints, out: Floats) -> None:
    """Fill the trend of each series per day: Theil-Sen over daily medians minus its profile.

    With two weeks or more, only equal weekdays are compared, so that no weekend looks like a
    trend. Days with less than half the values of the fullest day do not count. A trend that the
    (seasonal) Mann-Kendall test does not confirm is 0.
    """
    n_days = int(day[-1] - day[0]) + 1
    apart = DAYS_APART if n_days >= 2 * DAYS_APART else 1
    n_time = values.shape[1]
    buffer = np.empty(n_time)
    medians = np.empty(n_days)
    counts = np.empty(n_days, np.int64)
    pairs = np.empty(n_days * (n_days - 1) // 2 + 1)
    for row in range(values.shape[0]):
        out[row] = 0.0
        counts[:] = 0
        i = 0
        while i < n_time:
            here = day[i]
            n = 0
            while i < n_time and day[i] == here:
                v = values[row, i] - profile[row, slot[i]]
                if not np.isnan(v):
                    buffer[n] = v
                    n += 1
                i += 1
            counts[here - day[0]] = n
            if n:
                part = np.sort(buffer[:n])
                medians[here - day[0]] = (part[(n - 1) // 2] + part[n // 2]) / 2.0
        least = max(counts.max() // 2, 1)
        n = 0
        signs = 0.0
        variance = 0.0
        for first in range(min(apart, n_days)):
            used = 0
            for a in range(first, n_days, apart):
                if counts[a] < least:
                    continue
                used += 1
                for b in range(first, a, apart):
                    if counts[b] >= least:
                        pairs[n] = (medians[a] - medians[b]) / (a - b)
                        signs += np.sign(pairs[n])
                        n += 1
            variance += used * (used - 1) * (2 * used + 5) / 18.0
        if n >= LEAST_PAIRS and abs(signs) > TREND_Z * np.sqrt(variance):
            part = np.sort(pairs[:n])
            out[row] = (part[(n - 1) // 2] + part[n // 2]) / 2.0
