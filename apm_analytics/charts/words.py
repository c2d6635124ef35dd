"""Format values for reading: 1.9 s, 12 %, 40 min.

In:  numbers in base units (s, 1/s, 1).
Out: short text.
"""

import math
from datetime import datetime

SIGNAL_NAMES = {
    "latency_p95": "p95",
    "rate": "rate",
    "error_ratio": "errors",
    "together": "all together",
}
THIN_SPACE = "\u202f"  # between thousands; does not break a line


def signal(name: str) -> str:
    """Return the short name of a signal, or the name itself if there is none."""
    return SIGNAL_NAMES.get(name, name)


def value(amount: float | None, name: str) -> str:
    """Format a value of a signal in a unit that fits its size.

    Examples
    --------
    >>> value(0.042, "latency_p95"), value(0.125, "error_ratio"), value(0.02, "rate")
    ('42 ms', '12.5 %', '1.2/min')
    """
    if amount is None:
        return "none"
    if name == "latency_p95":
        return seconds(amount)
    if name == "error_ratio":
        return f"{_short(amount * 100)} %"
    if name == "rate":
        return f"{_short(amount)}/s" if abs(amount) >= 0.1 or amount == 0 else _per_minute(amount)
    return _short(amount)


def seconds(amount: float) -> str:
    """Format a measured duration: 42 ms, 1.9 s, 130 s."""
    if 0 < abs(amount) < 0.1:
        return f"{_short(amount * 1e3)} ms"
    return f"{_short(amount)} s"


def size(in_bytes: float) -> str:
    """Format a size: 900 B, 2.8 MB, 63 GB.

    Examples
    --------
    >>> size(62_881_247)
    '62.9 MB'
    """
    for unit in ("B", "kB", "MB", "GB"):
        if in_bytes < 999.5:
            return f"{_short(in_bytes)} {unit}"
        in_bytes /= 1_000
    return f"{_short(in_bytes)} TB"


def span(seconds: float) -> str:
    """Format a long duration: 40 min, 2.5 h, 28 days."""
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} min"
    if seconds < 48 * 3_600:
        return f"{_short(seconds / 3_600)} h"
    return f"{_short(seconds / 86_400)} days"


def moment(time: datetime) -> str:
    """Format a time: 23 Nov 12:35."""
    return f"{time.day} {time:%b %H:%M}"


def count(number: int) -> str:
    """Format a count with thin spaces between thousands: 182 751."""
    return f"{number:,}".replace(",", THIN_SPACE)


def _per_minute(amount: float) -> str:
    return f"{_short(amount * 60)}/min"


def _short(amount: float) -> str:
    """Format two or three significant digits, without an exponent."""
    if not math.isfinite(amount):
        return str(amount)
    size = abs(amount)
    if size >= 100 or amount == 0:
        return count(round(amount))
    if size >= 10:
        return f"{amount:.1f}".removesuffix(".0")
    if size >= 1:
        return f"{amount:.2f}".rstrip("0").rstrip(".")
    return f"{amount:.2g}"
