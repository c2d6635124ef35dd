"""Bounds and provenance as training writes them, for tests of the later stages."""

from collections.abc import Sequence
from datetime import UTC, datetime

import numpy as np
import polars as pl

from apm_analytics.foundation.provenance import Provenance

OPERATIONS = (
    ("frontend", "GET /"),
    ("cart", "POST /cart/{id}"),
    ("checkout", "POST /checkout"),
)
UNITS = {"latency_p95": "s", "rate": "1/s", "error_ratio": "1"}


def make_bounds(
    operations: Sequence[tuple[str, str]] = OPERATIONS, *, seed: int = 7
) -> pl.DataFrame:
    """Bounds of 168 hours per series with a daily shape: busy at 14:00, quiet at 02:00 UTC."""
    random = np.random.default_rng(seed)
    hour = np.arange(168)
    day = 1 + 0.6 * np.sin(2 * np.pi * (hour % 24 - 8) / 24)
    parts = []
    for service, operation in operations:
        for signal, scale in (("latency_p95", 0.2), ("rate", 4.0), ("error_ratio", 0.01)):
            expected = scale * (1 + random.random()) * day
            parts.append(
                pl.DataFrame(
                    {
                        "service_name": service,
                        "operation": operation,
                        "signal": signal,
                        "unit": UNITS[signal],
                        "hour_of_week": hour.astype(np.int32),
                        "expected": expected,
                        "lower": 0.5 * expected,
                        "upper": 1.5 * expected,
                        "model": "prophet",
                    }
                )
            )
    return pl.concat(parts)


def make_provenance(
    run_id: str = "20261123T020000Z-4f2a", trained_at: datetime | None = None
) -> Provenance:
    """Provenance of such bounds; trained now by default."""
    return Provenance(
        run_id=run_id,
        git_commit="0123abc-dirty",
        data_hash="sha256:feed",
        params_hash="sha256:beef",
        trained_at=trained_at or datetime.now(UTC),
    )
