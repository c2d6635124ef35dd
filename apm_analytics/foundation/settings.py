"""Read the settings of this process from the environment and params.yaml.

In:  environment variables, params.yaml, specs/retention.yaml.
Out: checked, frozen `Settings`; an error names each unknown or ill-typed value.
"""

import os
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError, model_validator

from apm_analytics.foundation import specs
from apm_analytics.foundation.errors import BadParameter
from apm_analytics.foundation.specs import Spec
from apm_analytics.foundation.yaml_documents import Document, read

# A trace that has not ended after this long counts as abandoned.
DEFAULT_TRACE_TIMEOUT_S = 60.0
# Field of `RetentionSettings` -> the environment variable that overrides it.
RETENTION_VARIABLES = {
    "metrics_days": "METRICS_RETENTION_DAYS",
    "traces_days": "TRACES_RETENTION_DAYS",
    "logs_days": "LOGS_RETENTION_DAYS",
    "high_resolution_hours": "HIGH_RESOLUTION_RETENTION_HOURS",
}


class SimulateParams(Spec):
    days: int = Field(gt=0)
    spans: int = Field(gt=0)


class SnapshotParams(Spec):
    history_days: int = Field(gt=0)


class FeatureParams(Spec):
    window_s: int = Field(gt=0)
    min_requests: int = Field(ge=1)
    retired_after_days: float = Field(gt=0)


class QualityParams(Spec):
    warn_null_ratio: float = Field(ge=0, le=1)
    max_null_ratio: float = Field(ge=0, le=1)
    warn_invalid_ratio: float = Field(ge=0, le=1)
    max_invalid_ratio: float = Field(ge=0, le=1)
    warn_duplicate_ratio: float = Field(ge=0, le=1)
    max_duplicate_ratio: float = Field(ge=0, le=1)
    warn_orphan_ratio: float = Field(ge=0, le=1)
    max_orphan_ratio: float = Field(ge=0, le=1)
    warn_skew_ratio: float = Field(ge=0, le=1)
    max_skew_ratio: float = Field(ge=0, le=1)
    warn_gap_s: float = Field(ge=60)  # gaps are measured in whole minutes
    max_gap_s: float = Field(gt=0)
    max_age_s: float = Field(gt=0)
    check_age: bool

    @model_validator(mode="after")
    def _warns_before_it_stops(self) -> "QualityParams":
        for name, warn in self:
            upper = name.replace("warn_", "max_")
            if name.startswith("warn_") and warn > getattr(self, upper):
                raise ValueError(f"{name} ({warn}) is above {upper} ({getattr(self, upper)})")
        return self


class BaselineParams(Spec):
    min_season_days: float = Field(ge=7)
    min_windows: int = Field(ge=3)
    fit_grid_s: int = Field(gt=0)
    level: float = Field(gt=0.5, lt=1)
    backtest_days: int = Field(ge=5)
    holdout_days: float = Field(gt=0)
    tau: float = Field(gt=0)
    prior: float = Field(gt=0)
    robust_deviations: float = Field(gt=0)
    settling_s: float = Field(ge=0)
    forest_trees: int = Field(gt=0)
    forest_contamination: float = Field(gt=0, lt=0.5)
    keep_runs: int = Field(ge=1)


class DetectorParams(Spec):
    threshold: float = Field(gt=0)
    quantile: float = Field(ge=0.9, lt=1)
    memory_points: float = Field(ge=100)
    refractory_points: int = Field(ge=1)
    habit: float = Field(ge=0)


class ForecastParams(Spec):
    min_days: int = Field(ge=14)
    horizon_days: float = Field(gt=0)
    level: float = Field(gt=0, lt=1)
    replicates: int = Field(ge=100)
    most_operations: int = Field(ge=1)


class ThresholdParams(Spec):
    max_age_s: float = Field(gt=0)
    for_s: float = Field(ge=0)
    sustained_s: float = Field(ge=60, lt=3600)  # spans two hours of the week at most
    keep_firing_s: float = Field(ge=0)
    min_requests: int = Field(ge=1)
    min_failures: int = Field(ge=1)
    quiet_passes_per_month: float = Field(gt=0, le=100)
    anomaly_recent_s: float = Field(gt=0)


class SloParams(Spec):
    min_events: int = Field(ge=1)
    min_slice_events: int = Field(ge=1)
    max_gap_s: float = Field(ge=60)


class BusinessParams(Spec):
    association_window_s: int = Field(gt=0)
    association_max_lag_s: int = Field(ge=0)
    association_q: float = Field(gt=0, lt=1)
    impact_window_s: int = Field(gt=0, le=3600)
    impact_history_days: int = Field(ge=14)
    impact_level: float = Field(gt=0.5, lt=1)


class GateParams(Spec):
    replay_weeks: int = Field(ge=1)
    max_pages_per_week: float = Field(gt=0)
    keep_days: float = Field(ge=0)


class ServiceRetention(Spec):
    """Retention of one service; None means that of all services."""

    metrics_days: float | None = Field(default=None, gt=0)
    traces_days: float | None = Field(default=None, gt=0)
    logs_days: float | None = Field(default=None, gt=0)
    high_resolution_hours: float | None = Field(default=None, gt=0)


class RetentionSettings(Spec):
    """How long each signal is kept."""

    metrics_days: float = Field(default=90, gt=0)
    traces_days: float = Field(default=30, gt=0)
    logs_days: float = Field(default=30, gt=0)
    high_resolution_hours: float = Field(default=24, gt=0)
    services: dict[str, ServiceRetention] = Field(default_factory=dict)

    def described(self) -> str:
        """Return the periods as text for a person."""
        return (
            f"metrics {self.metrics_days:g} days (every point {self.high_resolution_hours:g} hours,"
            f" then one per minute), traces {self.traces_days:g} days, logs {self.logs_days:g} days"
        )


class Params(Spec):
    """The content of params.yaml."""

    seed: int
    simulate: SimulateParams
    snapshot: SnapshotParams
    features: FeatureParams
    quality: QualityParams
    baselines: BaselineParams
    detector: DetectorParams
    forecast: ForecastParams
    thresholds: ThresholdParams
    slo: SloParams
    business: BusinessParams
    gate: GateParams


class Settings(Spec):
    """The workspace, which is the checkout with notebooks/ and pipelines/, and the parameters."""

    workspace: Path
    params: Params
    trace_timeout_s: float = DEFAULT_TRACE_TIMEOUT_S


def load_params(path: Path, other: Path | None = None) -> Params:
    """Read and check params.yaml.

    Parameters
    ----------
    other : a file of the same form with the values that differ.

    Raises
    ------
    BadParameter
        A file is missing, is not YAML, or contains an unknown, missing or ill-typed key.
    """
    base = read(path)
    params = specs.check(base, Params)
    if other is None:
        return params
    changes = read(other)
    data = changes.data
    if isinstance(data, dict):
        data = _merged(base.data, data)
    return specs.check(Document(other, data, changes.lines), Params)


def _merged(raw: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    result = dict(raw)
    for key, value in changes.items():
        inner = result.get(key)
        if isinstance(inner, dict) and isinstance(value, dict):
            value = _merged(inner, value)
        result[key] = value
    return result


def load() -> Settings:
    """Read the settings of this process.

    The workspace is APM_WORKSPACE, by default the folder that contains the package. APM_PARAMS
    names a file with values that override the workspace's params.yaml.
    """
    default = Path(__file__).resolve().parents[2]
    workspace = Path(os.environ.get("APM_WORKSPACE", default)).resolve()
    return Settings(
        workspace=workspace,
        params=load_params(
            workspace / "params.yaml",
            Path(os.environ["APM_PARAMS"]) if os.environ.get("APM_PARAMS") else None,
        ),
        trace_timeout_s=_seconds("APM_TRACE_TIMEOUT", DEFAULT_TRACE_TIMEOUT_S),
    )


def retention(workspace: Path) -> RetentionSettings:
    """Read how long telemetry is kept: specs/retention.yaml, then the environment.

    Raises
    ------
    BadParameter
        A value is not a number above 0, or the file does not fit.
    """
    file = workspace / "specs" / "retention.yaml"
    kept = specs.load(file, RetentionSettings) if file.exists() else RetentionSettings()
    overrides = {
        field: os.environ[name]
        for field, name in RETENTION_VARIABLES.items()
        if os.environ.get(name)
    }
    try:
        return RetentionSettings.model_validate(kept.model_dump() | overrides)
    except ValidationError as error:
        raise BadParameter(
            "\n".join(
                f"{RETENTION_VARIABLES[str(item['loc'][0])]}: {specs.misfit(item)}"
                for item in error.errors()
            )
        ) from error


def _seconds(name: str, default: float) -> float:
    text = os.environ.get(name, "")
    try:
        seconds = float(text) if text else default
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise BadParameter(f"{name} is {text!r}, needs seconds above 0, such as {default:g}")
    return seconds
