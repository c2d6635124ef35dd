"""Put thresholds and SLO rules into a release, as notebook 50 does."""

from datetime import datetime
from pathlib import Path

import polars as pl

from apm_analytics.alerts import publication
from apm_analytics.alerts.prometheus import slo_rules, threshold_files
from apm_analytics.foundation import settings


def publish(
    thresholds: pl.DataFrame, release: Path, specs: Path, *, now: datetime | None = None
) -> None:
    """Render both with the params of the workspace, and fill the release."""
    params = settings.load().params
    runs = publication.runs(release)
    files = threshold_files.files(thresholds, specs, params, runs=runs, now=now)
    files |= slo_rules.files(specs, params, threshold_files.origin(thresholds))
    publication.fill(release, files)
