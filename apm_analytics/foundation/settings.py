"""Where we run and with which numbers: the environment and params.yaml -> one frozen Settings.

In:  environment variables APM_*, params.yaml.
Out: `Settings`, checked; an unknown or ill-typed value is an error that names it.
"""

import os
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from apm_analytics.foundation.errors import BadParameter

# A trace that has not ended after this long is taken for abandoned.
DEFAULT_TRACE_TIMEOUT_S = 60.0


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class SimulateParams(_Frozen):
    days: int = Field(gt=0)
    spans: int = Field(gt=0)


class SnapshotParams(_Frozen):
    history_days: int = Field(gt=0)


class FeatureParams(_Frozen):
    window_s: int = Field(gt=0)
    min_requests: int = Field(ge=1)
    retired_after_days: float = Field(gt=0)


class QualityParams(_Frozen):
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
    warn_gap_s: float = Field(ge=60)  # holes are looked for minute by minute
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


class BaselineParams(_Frozen):
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


class DetectorParams(_Frozen):
    threshold: float = Field(gt=0)
    quantile: float = Field(ge=0.9, lt=1)
    memory_points: float = Field(ge=100)
    refractory_points: int = Field(ge=1)
    habit: float = Field(ge=0)


class ForecastParams(_Frozen):
    min_days: int = Field(ge=14)
    horizon_days: float = Field(gt=0)
    level: float = Field(gt=0, lt=1)
    replicates: int = Field(ge=100)
    most_operations: int = Field(ge=1)


class ThresholdParams(_Frozen):
    max_age_s: float = Field(gt=0)
    for_s: float = Field(ge=0)
    sustained_s: float = Field(ge=60)
    keep_firing_s: float = Field(ge=0)
    min_requests: int = Field(ge=1)
    min_failures: int = Field(ge=1)
    quiet_passes_per_month: float = Field(gt=0, le=100)
    anomaly_recent_s: float = Field(gt=0)


class SloParams(_Frozen):
    min_events: int = Field(ge=1)
    min_slice_events: int = Field(ge=1)
    max_gap_s: float = Field(ge=60)


class BusinessParams(_Frozen):
    association_window_s: int = Field(gt=0)
    association_max_lag_s: int = Field(ge=0)
    association_q: float = Field(gt=0, lt=1)
    impact_window_s: int = Field(gt=0, le=3600)
    impact_history_days: int = Field(ge=14)
    impact_level: float = Field(gt=0.5, lt=1)


class GateParams(_Frozen):
    replay_weeks: int = Field(ge=1)
    max_pages_per_week: float = Field(gt=0)
    keep_days: float = Field(ge=0)


class ServiceRetention(_Frozen):
    """What differs for one service."""

    metrics_days: float | None = Field(default=None, gt=0)
    traces_days: float | None = Field(default=None, gt=0)
    logs_days: float | None = Field(default=None, gt=0)
    high_resolution_hours: float | None = Field(default=None, gt=0)


class RetentionSettings(_Frozen):
    """How long telemetry is kept."""

    metrics_days: float = Field(default=90, gt=0)
    traces_days: float = Field(default=30, gt=0)
    logs_days: float = Field(default=30, gt=0)
    high_resolution_hours: float = Field(default=24, gt=0)
    services: dict[str, ServiceRetention] = {}

    def said(self) -> str:
        """Say for a person how long what is kept."""
        return (
            f"metrics {self.metrics_days:g} days (every point {self.high_resolution_hours:g} hours,"
            f" then one a minute), traces {self.traces_days:g} days, logs {self.logs_days:g} days"
        )


class Params(_Frozen):
    """Everything in params.yaml."""

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


class Settings(_Frozen):
    """Where we run (`workspace`: the checkout with notebooks/ and pipelines/) and the params."""

    workspace: Path
    params: Params
    trace_timeout_s: float = DEFAULT_TRACE_TIMEOUT_S


def load_params(path: Path, other: Path | None = None) -> Params:
    """Read and check params.yaml.

    Parameters
    ----------
    other : a file with what differs from it, in the same form.

    Raises
    ------
    BadParameter
        A file is missing, is no YAML, or holds an unknown, missing or ill-typed key.
    """
    raw = _read(path)
    if other is not None:
        changes = _read(other)
        if isinstance(raw, dict) and isinstance(changes, dict):
            raw = _merged(raw, changes)
    try:
        return Params.model_validate(raw)
    except ValidationError as error:
        found = "; ".join(
            f"{'.'.join(str(step) for step in item['loc']) or 'the file'}: {item['msg']}"
            for item in error.errors()
        )
        raise BadParameter(f"{other or path} does not fit: {found}") from error


def _read(path: Path) -> Any:
    try:
        return yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError) as error:
        raise BadParameter(
            f"cannot read {path}: {error}; see params.yaml of the project"
        ) from error


def _merged(raw: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    result = dict(raw)
    for key, value in changes.items():
        inner = result.get(key)
        if isinstance(inner, dict) and isinstance(value, dict):
            value = _merged(inner, value)
        result[key] = value
    return result


def load() -> Settings:
    """Read the settings of this process: APM_WORKSPACE, else the folder that holds the package.

    APM_PARAMS names a file with what differs from the workspace's params.yaml.
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
    """Read how long telemetry is kept: the environment and specs/retention.yaml.

    Raises
    ------
    BadParameter
        A figure is no number above 0, or the file does not fit.
    """
    environment = {
        field: os.environ[name]
        for field, name in (
            ("metrics_days", "METRICS_RETENTION_DAYS"),
            ("traces_days", "TRACES_RETENTION_DAYS"),
            ("logs_days", "LOGS_RETENTION_DAYS"),
            ("high_resolution_hours", "HIGH_RESOLUTION_RETENTION_HOURS"),
        )
        if os.environ.get(name)
    }
    file = workspace / "specs" / "retention.yaml"
    try:
        content: Any = yaml.safe_load(file.read_text()) if file.exists() else None
        return RetentionSettings.model_validate({**(content or {}), **environment})
    except (OSError, yaml.YAMLError, ValidationError, TypeError) as error:
        raise BadParameter(
            f"retention cannot be read: {error}; METRICS_RETENTION_DAYS, TRACES_RETENTION_DAYS, "
            f"LOGS_RETENTION_DAYS, HIGH_RESOLUTION_RETENTION_HOURS and {file} hold numbers above 0"
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
